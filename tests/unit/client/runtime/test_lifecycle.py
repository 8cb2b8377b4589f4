"""What runs in a forked child, and what is held for it."""

from __future__ import annotations

import gc
import sys
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from paygent.client.runtime import lifecycle


class Part:
    """A part that notes its renewals."""

    def __init__(self, name: str, renewed: list[str]) -> None:
        self._name = name
        self._renewed = renewed

    def renew(self) -> None:
        """Note a renewal."""
        self._renewed.append(self._name)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep registrations of other tests out."""
    monkeypatch.setattr(lifecycle, "_renewals", [])
    monkeypatch.setattr(lifecycle, "_watched", set())


def test_on_fork_child__several_parts__are_renewed_in_order_of_registration() -> None:
    """The journal comes before what writes into it."""
    renewed: list[str] = []
    parts = [Part("journal", renewed), Part("accounts", renewed)]
    for part in parts:
        lifecycle.on_fork_child(part.renew)
    lifecycle._after_fork_in_child()
    assert renewed == ["journal", "accounts"]


def test_on_fork_child__a_part_that_is_gone__is_neither_kept_nor_renewed() -> None:
    """A Paygent that was replaced can be collected."""
    renewed: list[str] = []
    part = Part("gone", renewed)
    lifecycle.on_fork_child(part.renew)
    del part
    gc.collect()
    kept = Part("kept", renewed)
    lifecycle.on_fork_child(kept.renew)
    lifecycle._after_fork_in_child()
    assert (renewed, len(lifecycle._renewals)) == (["kept"], 1)


def test_renew_if_forked__in_the_process_that_renewed_last__does_nothing() -> None:
    """The check is made at every call."""
    renewed: list[str] = []
    part = Part("journal", renewed)
    lifecycle.on_fork_child(part.renew)
    lifecycle.renew_if_forked()
    assert renewed == []


def test_renew_if_forked__after_a_fork_without_hooks__renews_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uWSGI forks its workers past Python."""
    renewed: list[str] = []
    part = Part("journal", renewed)
    lifecycle.on_fork_child(part.renew)
    monkeypatch.setattr(lifecycle, "_renewed_pid", 1)
    for _ in range(2):
        lifecycle.renew_if_forked()
    assert renewed == ["journal"]


def test_renew_if_forked__in_a_child_of_before_the_first_paygent__renews_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that calls `init` itself has no parts of its parent's, which had only the module."""
    monkeypatch.setattr(lifecycle, "_installed", [])
    monkeypatch.setattr(lifecycle, "_renewed_pid", 1)
    monkeypatch.setattr("atexit.register", lambda function: None)
    monkeypatch.setattr("os.register_at_fork", lambda **functions: None)
    renewed: list[str] = []
    part = Part("journal", renewed)
    lifecycle.on_fork_child(part.renew)
    lifecycle.renew_if_forked()
    assert renewed == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, True),
        ({}, False),
        ({"http": b":80"}, False),
        ({"enable-threads": b"true"}, True),
        ({"enable-threads": True}, True),
        ({"enable-threads": b"false"}, False),
        ({"threads": b"4"}, True),
    ],
)
def test_may_start_threads__in_uwsgi__only_with_an_option(
    monkeypatch: pytest.MonkeyPatch, options: object, expected: bool
) -> None:
    """Starting a thread there would never return."""
    if options is not None:
        monkeypatch.setitem(sys.modules, "uwsgi", cast(ModuleType, SimpleNamespace(opt=options)))
    assert lifecycle.may_start_threads() is expected
