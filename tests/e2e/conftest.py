"""Fixtures of whole runs of the demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.demo_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """An environment for the command `paygent demo`."""
    machine = Machine(tmp_path)
    yield machine
    machine.close()
