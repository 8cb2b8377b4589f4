"""Taps of streams: the object that the SDK returned stays the object that the application gets.

Two taps, since neither sees everything. The *iterator tap* replaces the iterator inside the SDK's
stream object and sees each parsed chunk; the *byte tap* (`byte_tap.py`) replaces the byte stream
inside the HTTP response. Each ends the call through a `StreamEnd` of its own; the call ends once,
however many of them fire: at the last chunk, at close, on an error, or when the stream is dropped
and collected.

A chunk costs two Python calls: the step of a loop, and the reader's `feed`. So a loop takes its
steps itself and does not go through the tap, and the guard is written out where it reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

from paygent.client.instrument.streams.byte_tap import BytesReader, ByteTap, tap_bytes
from paygent.client.instrument.streams.ending import EndableCall, Settler, StreamEnd
from paygent.client.instrument.streams.reader import NO_FIELDS, StreamReader
from paygent.failopen import attempt, guard


def tap_stream(
    stream: Any, meter: Settler, call: EndableCall, reader: StreamReader, read: Any
) -> bool:
    """Put both taps into an SDK's stream object; false for any other object. `read` reads the usage
    of a whole JSON answer, for a response that has no events.
    """
    inner = _iterator_of(stream)
    is_deferred = type(inner) is _DeferredIterator
    # A deferred iterator is of the kind of its stream.
    is_async = hasattr(type(stream) if is_deferred else inner, "__anext__")
    if not (is_async or is_deferred or hasattr(inner, "__next__")):
        return False
    kind = AsyncIteratorTap if is_async else IteratorTap
    response = getattr(stream, "response", None) or getattr(stream, "http_response", None)
    headers = getattr(response, "headers", None)
    bytes_reader = BytesReader({} if headers is None else headers, reader, read)
    bytes_ending = StreamEnd(meter, call, bytes_reader)
    tap = attempt("tap_bytes", tap_bytes, response, bytes_ending, bytes_reader)
    stream._iterator = kind(inner, reader, StreamEnd(meter, call, reader), tap)
    call.hand_over()  # from here on, only the taps end it
    return True


def _iterator_of(stream: Any) -> Any:
    """Return the iterator inside a stream object, or None; a deferred one if the stream creates it
    on first use.
    """
    inner = getattr(stream, "__dict__", NO_FIELDS).get("_iterator")
    if inner is not None:
        return inner
    if isinstance(getattr(type(stream), "_iterator", None), cached_property):
        return _DeferredIterator(stream)
    return getattr(stream, "_iterator", None)


_Calls = tuple[Callable[[], Any], Callable[[Any], bool | None]]
"""What a chunk needs: the step that returns it, and the reader's `feed`."""


class _Steps:
    """Takes the steps of a stream, and feeds each chunk to its reader."""

    __slots__ = ("_calls", "_ending")
    # One attribute, because each access is slow in a class that has a `__getattr__`.
    _calls: _Calls | None
    _ending: StreamEnd

    def _begin(self) -> _Calls:
        """Set and return `_calls`: a chunk is requested for the first time."""
        raise NotImplementedError

    def _end(self, error: BaseException) -> None:
        """End the call with what a step raised: its end, an error or a cancellation."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._ending.end_exhausted()
        else:  # perhaps a finalizer closes an async step
            self._ending.end_from_finalizer()


class _SyncSteps(_Steps):
    """The steps of a sync stream."""

    __slots__ = ()

    def __next__(self) -> Any:
        while True:
            try:
                step, feed = self._calls or self._begin()
                chunk = step()
            except BaseException as error:
                self._end(error)
                raise
            try:
                is_withheld = feed(chunk)
            except Exception:
                with guard("stream"):  # entered on a failure only: entering it takes time
                    raise
                return chunk
            if not is_withheld:
                return chunk


class _AsyncSteps(_Steps):
    """The steps of an async stream."""

    __slots__ = ()

    async def __anext__(self) -> Any:
        while True:
            try:
                step, feed = self._calls or self._begin()
                chunk = await step()
            except BaseException as error:
                self._end(error)
                raise
            try:
                is_withheld = feed(chunk)
            except Exception:
                with guard("stream"):  # as in the sync steps
                    raise
                return chunk
            if not is_withheld:
                return chunk


# -- taps


class _Tap(_Steps):
    """Replaces the iterator in a stream object."""

    __slots__ = ("_bytes", "_feed", "_inner")
    _step = ""  # the method that returns the next chunk

    def __init__(
        self, inner: Any, reader: StreamReader, ending: StreamEnd, tap: ByteTap | None
    ) -> None:
        self._inner = inner
        self._calls = None
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def _begin(self) -> _Calls:
        if self._bytes is not None:
            self._bytes.is_parsed = True  # the chunks are seen here, so the bytes need no reading
        calls = (getattr(self._inner, self._step), self._feed)
        self._calls = calls
        return calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        # Some helpers of older SDKs drop the stream object and read its response with another one,
        # so the call is left to the bytes until a chunk was parsed here.
        if self._bytes is None or self._bytes.is_parsed:
            self._ending.end_from_finalizer()


class IteratorTap(_SyncSteps, _Tap):
    """Replaces the iterator in a sync stream object."""

    __slots__ = ()
    _step = "__next__"

    def __iter__(self) -> _SyncTapLoop:
        return _SyncTapLoop(self)


class AsyncIteratorTap(_AsyncSteps, _Tap):
    """Replaces the iterator in an async stream object."""

    __slots__ = ()
    _step = "__anext__"

    def __aiter__(self) -> _AsyncTapLoop:
        return _AsyncTapLoop(self)


# -- loops


class _Loop:
    """One loop over a stream; the object is gone as soon as the loop is left."""

    __slots__ = ()
    _ending: StreamEnd
    _tap: Any  # what the loop is over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tap, name)

    def __del__(self) -> None:
        self._ending.end_abandoned()


class _TapLoop(_Loop, _Steps):
    """One loop over an iterator tap: it takes its own steps."""

    __slots__ = ("_tap",)

    def __init__(self, tap: _Tap) -> None:
        self._tap = tap
        self._calls = tap._calls
        self._ending = tap._ending

    def _begin(self) -> _Calls:
        calls: _Calls = self._tap._begin()
        self._calls = calls
        return calls


class _SyncTapLoop(_SyncSteps, _TapLoop):
    """One `for` over an iterator tap."""

    __slots__ = ()

    def __iter__(self) -> _SyncTapLoop:
        return self


class _AsyncTapLoop(_AsyncSteps, _TapLoop):
    """One `async for` over an iterator tap."""

    __slots__ = ()

    def __aiter__(self) -> _AsyncTapLoop:
        return self


class _MethodLoop(_Loop):
    """One loop over a stream that is tapped, with the stream's own step."""

    __slots__ = ("_ending", "_next", "_tap")

    def __init__(self, tap: Any, ending: StreamEnd, step: Callable[[], Any]) -> None:
        self._tap = tap
        self._ending = ending
        self._next = step


class SyncLoop(_MethodLoop):
    """One `for` over a stream."""

    __slots__ = ()

    def __iter__(self) -> SyncLoop:
        return self

    def __next__(self) -> Any:
        return self._next()


class AsyncLoop(_MethodLoop):
    """One `async for` over a stream."""

    __slots__ = ()

    def __aiter__(self) -> AsyncLoop:
        return self

    def __anext__(self) -> Any:
        return self._next()


class _DeferredIterator:
    """Replaces an iterator that a stream creates on first use: other instrumentation may take part
    in that, and needs the attributes that it sets on the stream only after it was returned.
    """

    __slots__ = ("_inner", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream = weakref.ref(stream)  # so that a dropped stream is collected
        self._inner: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._inner is None:
            stream: Any = self._stream()
            self._inner = type(stream)._iterator.func(stream)
        return getattr(self._inner, name)
