"""Fixtures of the command line's tests."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from paygent.cli.checks import files, plans


class NoSearch:
    """Takes the permission to search a folder away: what is in it can no longer be looked at.

    The tests may run as root, for whom every folder can be searched.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is taken away yet."""
        self._monkeypatch = monkeypatch

    def __call__(self, folder: str | os.PathLike[str]) -> None:
        """Let `os.stat` and `os.scandir` fail for each path below the folder."""
        below = os.path.join(os.fspath(folder), "")

        def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
            def refuse(path: Any = ".", *arguments: Any, **options: Any) -> Any:
                if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(below):
                    raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
                return call(path, *arguments, **options)

            return refuse

        self._monkeypatch.setattr(os, "stat", refusing(os.stat))
        self._monkeypatch.setattr(os, "scandir", refusing(os.scandir))


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> NoSearch:
    """Take away the permission to search a folder."""
    return NoSearch(monkeypatch)


@pytest.fixture
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor find the same on every machine: temporary folders may be on a file system in
    memory, and the installed price list may be old.
    """
    monkeypatch.setattr(files, "read_mounts", lambda: "")
    monkeypatch.setattr(plans, "PRICES_DAYS_MAX", 36_500)
