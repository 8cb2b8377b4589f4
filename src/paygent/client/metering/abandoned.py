"""Ends of calls that a finalizer asked for inside our own code, deferred to where no lock is held.

The garbage collector runs at any allocation, also while this thread holds one of our locks, so a
finalizer must not end a call where it runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from paygent.failopen import attempt


class DeferredEnds:
    """The deferred ends of one `Paygent`. Thread-safe; `add` is also safe in a finalizer."""

    def __init__(self) -> None:
        # A deque: its single steps are atomic, and a finalizer may not take a lock.
        self.waiting: deque[Callable[[], object]] = deque()  # the ends that have not run yet

    def add(self, end: Callable[[], object]) -> None:
        """Defer an end that must not run where it was asked for."""
        self.waiting.append(end)

    def run(self) -> None:
        """Run the deferred ends; called where none of our locks is held: before a call begins,
        before figures are read, and by the delivery thread.
        """
        while self.waiting:
            try:
                end = self.waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            attempt("settle", end)  # a failure must not reach the call or query that runs it

    def renew_after_fork(self) -> None:
        """Forget the parent's ends."""
        self.waiting.clear()
