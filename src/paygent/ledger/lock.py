"""A lock that is held for microseconds, never across a system call, and never slept in.

Python's own lock hands itself to a sleeping thread before that thread has the interpreter. Behind
busy threads it gets that milliseconds later, and until then nobody else can take the lock: one
holder that lost the interpreter in the middle makes a queue that no longer drains. Here whoever
finds the lock taken lets others run and looks again, so that it is free as soon as its holder has
left it.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

_LOOKS = 64  # that give way only; a holder needs one turn of the interpreter
_PAUSE_S = 0.0005  # between later looks, so that waiting costs no processor


class BriefLock:
    """A context manager that excludes other threads; not reentrant."""

    __slots__ = ("_leave", "_lock", "_take")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._take = self._lock.acquire
        self._leave = self._lock.release

    def __enter__(self) -> None:
        if not self._take(False):
            self._look_again()

    def _look_again(self) -> None:
        for _ in range(_LOOKS):
            time.sleep(0)
            if self._take(False):
                return
        while not self._take(False):
            time.sleep(_PAUSE_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
