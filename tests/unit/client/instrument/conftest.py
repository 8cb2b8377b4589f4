"""Fixtures of the hooks' tests."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.litellm.litellm_stand_in import stand_in


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in of LiteLLM, imported."""
    return stand_in(monkeypatch)
