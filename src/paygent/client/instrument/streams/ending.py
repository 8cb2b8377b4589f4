"""The end of a streamed call: taps and a finalizer may request it, and the first one counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from paygent.client.instrument.streams.reader import EndAwareReader, StreamReader
from paygent.client.metering.abandoned import DeferredEnds
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage
from paygent.failopen import attempt


class EndableCall(Protocol):
    """What a stream ends: a call, or a request for the usage of an earlier job."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    @property
    def estimate(self) -> Estimate:
        """The estimate that it holds."""

    @property
    def wants_tools(self) -> bool:
        """Whether the names of called tools are needed."""

    @property
    def is_provisional(self) -> bool:
        """Whether it was settled when its stream was left, so that it may be corrected."""

    drops_usage_chunk: bool
    stream_ended: bool  # no more of its stream will be seen

    def hand_over(self) -> None:
        """Leave the end to the taps from now on."""


class Settler(Protocol):
    """Takes the usage at the end: the meter."""

    deferred_ends: DeferredEnds  # ends that cannot run now

    def settle(self, call: Any, usage: Usage | JobStatus | None) -> object:
        """End a call with its usage."""

    def settle_left(self, call: Any, usage: Usage | JobStatus | None) -> None:
        """End a call with the usage received when its stream was left; `correct` may follow."""

    def correct(self, call: Any, usage: Usage | JobStatus | None) -> None:
        """Correct a call that was settled when its stream was left, and was read on."""


class StreamEnd:
    """Ends one streamed call with the usage that its reader has seen by then."""

    __slots__ = ("_call", "_meter", "_reader")

    def __init__(self, meter: Settler, call: EndableCall, reader: StreamReader) -> None:
        self._meter = meter
        self._call = call
        self._reader = reader

    def __call__(self) -> None:
        """End the call, unless it has ended; correct it, if it was read on after it was left."""
        # Inside `attempt`: a failure to settle must not reach the application's loop.
        if not self._call.done:
            attempt("settle", self._pass_usage, self._meter.settle)
        # Another thread may be settling what was left: it checks this when it has settled, and then
        # corrects that itself.
        self._call.stream_ended = True
        self._correct()

    def _correct(self) -> None:
        if self._call.is_provisional:
            attempt("settle", self._pass_usage, self._meter.correct)

    def end_from_finalizer(self) -> None:
        """End the call; safe in a finalizer."""
        if not self._call.stream_ended:
            self._meter.deferred_ends.run_or_defer(self)

    def end_exhausted(self) -> None:
        """Notify a reader that wants it of the stream's own end; then end the call."""
        if isinstance(self._reader, EndAwareReader) and not self._call.stream_ended:
            attempt("usage", self._reader.end)
        self()

    def end_abandoned(self) -> None:
        """Settle with what was received by now: the loop over the stream was left. If the
        application reads on later, the end corrects it.
        """
        if not self._call.done:
            self._meter.deferred_ends.run_or_defer(self._leave)

    def _leave(self) -> None:
        if not self._call.done:  # it may have ended since this was deferred
            attempt("settle", self._pass_usage, self._meter.settle_left)
            if self._call.stream_ended:
                self._correct()

    def _pass_usage(self, end: Callable[[Any, Usage | JobStatus | None], None]) -> None:
        end(self._call, attempt("usage", self._reader.usage, self._call.estimate))
