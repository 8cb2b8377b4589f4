"""What runs in a forked child, and what is held for it."""

from __future__ import annotations

import gc

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
