"""Deferred ends: asked for by finalizers, run where no lock is held."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.conftest import Swallowed

from paygent.client.metering.abandoned import DeferredEnds


def test_run__deferred_ends__run_once_and_in_order() -> None:
    """Each end runs once, the oldest first."""
    ends = DeferredEnds()
    ran: list[int] = []
    for number in range(3):
        ends.add(lambda number=number: ran.append(number))  # type: ignore[misc]
    ends.run()
    ends.run()
    assert (ran, list(ends.waiting)) == ([0, 1, 2], [])


def test_run__an_end_that_defers_another__runs_it_too() -> None:
    """A finalizer may run while ends are run."""
    ends = DeferredEnds()
    ran: list[str] = []
    ends.add(lambda: ends.add(lambda: ran.append("inner")))
    ends.run()
    assert ran == ["inner"]


def test_run__another_thread_takes_the_last_end__is_no_error() -> None:
    """Two threads may run the ends at once."""

    class Emptied(deque[Callable[[], object]]):
        def popleft(self) -> Callable[[], None]:
            self.clear()
            raise IndexError

    ends = DeferredEnds()
    ends.waiting = Emptied([lambda: None])
    ends.run()
    assert not ends.waiting


def test_renew_after_fork__the_parents_ends__are_forgotten() -> None:
    """They are the parent's to run."""
    ends = DeferredEnds()
    ran: list[Any] = []
    ends.add(lambda: ran.append(threading.get_ident()))
    ends.renew_after_fork()
    ends.run()
    assert ran == []


def test_run__an_end_that_fails__does_not_reach_the_caller(swallowed: Swallowed) -> None:
    """It is another call, or a query, that runs the ends."""
    swallowed.expect("settle")
    ends = DeferredEnds()
    ran: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug of ours")

    ends.add(fail)
    ends.add(lambda: ran.append("next"))
    ends.run()
    assert ran == ["next"]
