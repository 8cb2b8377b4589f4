"""Waits: what a finalizer may do meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.wait import wait_for


def test_wait_for__a_finalizer_that_runs_inside_it__defers_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread holds a lock of the future that it waits for, and an end may resolve futures."""
    ends = DeferredEnds()
    ran: list[str] = []
    wait = threading.Condition.wait

    def collecting(self: Any, timeout: float | None = None) -> bool:
        ends.run_or_defer(lambda: ran.append("at once"))
        return wait(self, timeout)

    monkeypatch.setattr(threading.Condition, "wait", collecting)
    assert wait_for(Future(), 0.01) is False
    assert (ran, len(ends.waiting)) == ([], 1)
