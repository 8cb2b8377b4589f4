"""The end of a streamed call, which several taps may ask for, and a finalizer: it counts once."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from paygent.client.instrument.streams.reader import StreamReader
from paygent.client.metering.abandoned import DeferredEnds
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage
from paygent.failopen import attempt


class EndableCall(Protocol):
    """What a stream ends: a call, or a question about earlier work."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    @property
    def estimate(self) -> Estimate:
        """What it was held for."""

    @property
    def wants_tools(self) -> bool:
        """Whether the names of called tools are wanted."""

    drops_usage_chunk: bool

    def hand_over(self) -> None:
        """Leave the end to who carries it from now on."""


class Settler(Protocol):
    """What takes the usage at the end: the meter."""

    @property
    def deferred_ends(self) -> DeferredEnds:
        """Ends that cannot be made now."""

    def settle(self, call: Any, found: Usage | JobStatus | None) -> None:
        """End a call with what it has used."""


class StreamEnd:
    """Ends one streamed call with whatever its reader has seen by then; the first end counts."""

    __slots__ = ("_call", "_meter", "_reader")

    def __init__(self, meter: Settler, call: EndableCall, reader: StreamReader) -> None:
        self._meter = meter
        self._call = call
        self._reader = reader

    def __call__(self) -> None:
        """End the call, unless it has ended."""
        if not self._call.done:
            attempt("settle", self._settle)

    def from_anywhere(self) -> None:
        """End the call from where a finalizer may run: not now, if this thread is inside our own
        code, where it may hold a lock that the end needs too.

        A dropped stream is a cycle (it and its generator know each other), so the garbage collector
        ends it, at an allocation of any code or when a call is in want of room (`left`); the SDK's
        generator closes the response then.
        """
        if self._call.done:
            return
        if _is_inside_ours():
            self._meter.deferred_ends.add(self)
        else:
            self()

    def at_its_end(self) -> None:
        """Let the reader know that the stream has come to its own end, if that means something to
        it; then end the call.
        """
        end = getattr(self._reader, "end", None)
        if end is not None and not self._call.done:
            attempt("usage", end)
        self()

    def left(self) -> None:
        """Note that nobody reads the stream any more, unless somebody comes back to it."""
        if not self._call.done:
            self._meter.deferred_ends.mark_abandoned()

    def note_async(self, number: int, *, is_open: bool) -> None:
        """Note that an `async for` begins or ends."""
        self._meter.deferred_ends.note_async(number, is_open=is_open)

    def _settle(self) -> None:
        usage = attempt("usage", self._reader.usage, self._call.estimate)
        self._meter.settle(self._call, usage)


_PASSED_THROUGH = (
    "paygent.client.instrument.",
    "paygent.client.context.identity",
    "paygent.cli.demo_story.",
    "paygent.testing",
    "paygent.cli.",
)
"""Our modules below which an SDK or the application runs, and which hold no lock meanwhile."""


def _is_inside_ours() -> bool:
    """Tell whether this thread is inside code of ours that may hold a lock."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("paygent.") and not name.startswith(_PASSED_THROUGH):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
