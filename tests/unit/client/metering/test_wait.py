"""Waits: what a finalizer may do meanwhile."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.wait import wait_for
from paygent.client.runtime.locks import Wakeup


def test_wait_for__a_finalizer_that_runs_inside_it__defers_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of another call may resolve the very future that this thread is registering with."""
    ends = DeferredEnds()
    ran: list[str] = []

    def collecting(self: Wakeup, timeout_s: float) -> bool:
        ends.run_or_defer(lambda: ran.append("at once"))
        return False

    monkeypatch.setattr(Wakeup, "wait", collecting)
    assert wait_for(Future(), 0.01) is False
    assert (ran, len(ends.waiting)) == ([], 1)
