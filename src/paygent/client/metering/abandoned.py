"""Ends that come late: of calls whose stream or generator the application has dropped.

A finalizer must not end a call where it runs: the garbage collector comes at any allocation, also
while this thread holds a lock of ours. Such ends wait here for the next place where none is held.
And an SDK's stream that was left and dropped is a cycle, which holds until the collector comes by.
In a large application that may take minutes; so the collector is called when a call finds no room
and a stream was left. It stops all threads while it runs, so that is done now and then only.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from paygent.client.metering import nesting
from paygent.client.runtime.event_loops import runs_loop

Room = Literal["none", "now", "soon"]
"""When there may be more room than a call has just found."""

_PAUSE_S = 1.0  # between two collections, at least
_PAUSE_FACTOR = 20  # and so many times as long as the last one took: 5 % of the time at most


class DeferredEnds:
    """The late ends of one `Paygent`. Thread-safe; `add` and `note_left` also in a finalizer.

    Attributes:
        waiting: The ends that were put off.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        """Start with none.

        Args:
            hurry: Has the delivering thread begin its next round now.
        """
        self._hurry = hurry
        self.waiting: deque[Callable[[], None]] = deque()
        self._next_s = 0.0
        self._has_left = self._collects = False
        self._async_loops: set[int] = set()

    def add(self, end: Callable[[], None]) -> None:
        """Remember an end that must not run where it was asked for."""
        self.waiting.append(end)

    def run(self) -> None:
        """Run the ends that were put off; called where none of our locks is held, before figures
        are read and by the delivering thread.
        """
        nesting.look()  # generators that have ended, which nobody tells
        while self.waiting:
            try:
                end = self.waiting.popleft()
            except IndexError:  # another thread runs it
                return
            end()

    def mark_abandoned(self) -> None:
        """Note that the reading of a stream was left before its end; it may have been dropped."""
        self._has_left = True

    def note_async(self, number: int, *, is_open: bool) -> None:
        """Note that an `async for` over a stream begins, or is closed: when it is left, the event
        loop closes it only later.
        """
        (self._async_loops.add if is_open else self._async_loops.discard)(number)

    def collect_left(self, *, is_first: bool) -> Room:
        """Have streams collected that were left, where there are any, now that a call finds no
        room: here, or by the delivering thread if this one runs an event loop. Never where the
        application has switched the collector off.

        Args:
            is_first: Whether the call has not waited yet. Then it waits a moment for what its own
                task may have left just now.
        """
        if not gc.isenabled():
            return "none"
        on_loop = runs_loop()
        if not self._has_left:
            return "soon" if on_loop and is_first and self._async_loops else "none"
        if on_loop:
            self._collects = True
            self._hurry()
            return "soon"
        if time.monotonic() < self._next_s:
            return "soon"  # for who waits and looks again
        self._collect()
        self.run()
        return "now"

    def _collect(self) -> None:
        started_s = time.monotonic()
        self._has_left = False
        gc.collect()
        ended_s = time.monotonic()
        self._next_s = ended_s + max(_PAUSE_S, _PAUSE_FACTOR * (ended_s - started_s))

    def before_round(self) -> None:
        """Do what the delivering thread does here before each of its rounds."""
        if self._collects and time.monotonic() >= self._next_s:
            self._collects = False
            self._collect()
        self.run()

    def renew_after_fork(self) -> None:
        """Forget what is the parent's to end."""
        self.waiting.clear()
        self._async_loops.clear()
        self._has_left = self._collects = False
