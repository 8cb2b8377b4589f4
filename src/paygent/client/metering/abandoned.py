"""Ends of calls that a finalizer may ask for: run at once, or deferred to where no lock is held.

The garbage collector runs at any allocation, also while this thread holds one of our locks, which
the end of a call needs. So an end runs at once only if no frame of this thread is in a module of
ours that may hold one.
"""

from __future__ import annotations

import sys
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

    def run_or_defer(self, end: Callable[[], object]) -> None:
        """Run an end now, or defer it where this thread may hold a lock of Paygent's; safe in a
        finalizer.
        """
        # A dropped stream or coroutine is often part of a cycle, so the garbage collector ends it,
        # at an allocation of any code.
        if _is_inside_ours():
            self.add(end)
        else:
            end()

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


# Our modules that call an SDK or the application, and hold no lock meanwhile.
_PASSED_THROUGH = (
    "paygent.client.instrument.", "paygent.client.context.", "paygent.client.api.wrap",
    "paygent.client.api.verbs", "paygent.client.metering.abandoned", "paygent.integrations.",
    "paygent.testing", "paygent.cli.",
)  # fmt: skip
_HOLDS_A_LOCK = "paygent.client.instrument.realtime.dedup"  # the exception among them


def _is_inside_ours() -> bool:
    """Return whether this thread is inside our code that may hold a lock."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        is_ours = name.startswith("paygent.")
        if is_ours and (name == _HOLDS_A_LOCK or not name.startswith(_PASSED_THROUGH)):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
