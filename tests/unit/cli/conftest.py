"""Fixtures of the command line's tests."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from paygent.cli.app import app
from paygent.cli.checks import files, plans
from paygent.store import sqlite_file
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore
from paygent.store.statements import migrations


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


def invoke(*arguments: str, answer: str | None = None) -> tuple[int, str, str]:
    """Run a command; return its exit status, its output and its errors."""
    result = CliRunner().invoke(app, arguments, input=answer, env={"TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def on_terminal(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Let commands of these modules take the standard streams for a terminal."""
    for module in modules:
        monkeypatch.setattr(module, "is_interactive", lambda *_: True)


def add_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this Paygent know one schema more: files that exist already are of an older one."""
    known = migrations("sqlite")
    monkeypatch.setattr(sqlite_file, "migrations", lambda _: (*known, "CREATE TABLE more (id);"))


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> NoSearch:
    """Take away the permission to search a folder."""
    return NoSearch(monkeypatch)


@pytest.fixture
def database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a server's database that does not exist yet, which the environment names."""
    url = f"sqlite:///{tmp_path / 'server' / 'server.db'}"
    monkeypatch.setenv("PAYGENT_DATABASE_URL", url)
    return url


@pytest.fixture
def ledger(database_url: str, tmp_path: Path) -> Iterator[SqlStore]:
    """The opened store of that database, with product `acme`."""
    (tmp_path / "server").mkdir()
    store = open_store(database_url)
    store.add_product("acme", product_id="acme")
    yield store
    store.close()


@pytest.fixture
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor find the same on every machine: temporary folders may be on a file system in
    memory, and the installed price list may be old.
    """
    monkeypatch.setattr(files, "read_mounts", lambda: "")
    monkeypatch.setattr(plans, "PRICES_DAYS_MAX", 36_500)
