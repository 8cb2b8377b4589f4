"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest

from paygent.cli.checks import files, plans


@pytest.fixture
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor find the same on every machine: temporary folders may be on a file system in
    memory, and the installed price list may be old.
    """
    monkeypatch.setattr(files, "read_mounts", lambda: "")
    monkeypatch.setattr(plans, "PRICES_DAYS_MAX", 36_500)
