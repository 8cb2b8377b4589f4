"""Taps of streams: the object that the SDK returned stays the object that the application gets.

Two taps, since neither sees everything. The *iterator tap* replaces the iterator inside the SDK's
stream object and sees each parsed chunk; the *byte tap* (`byte_tap.py`) replaces the byte stream
inside the HTTP response. Each ends the call through a `StreamEnd` of its own; the call ends once,
however many of them fire: at the last chunk, at close, on an error, or when the stream is dropped
and collected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

from paygent.client.instrument.streams.byte_tap import BytesReader, ByteTap, tap_bytes
from paygent.client.instrument.streams.ending import EndableCall, Settler, StreamEnd
from paygent.client.instrument.streams.reader import StreamReader
from paygent.failopen import attempt


def tap_stream(
    stream: Any, meter: Settler, call: EndableCall, reader: StreamReader, read: Any
) -> bool:
    """Put both taps into an SDK's stream object; false for any other object. `read` reads the usage
    of a whole JSON answer, for a response that has no events.
    """
    inner = _iterator_of(stream)
    if inner is None:
        return False
    response = getattr(stream, "response", None) or getattr(stream, "http_response", None)
    bytes_reader = BytesReader(getattr(response, "headers", None) or {}, reader, read)
    bytes_ending = StreamEnd(meter, call, bytes_reader)
    tap = attempt("tap_bytes", tap_bytes, response, bytes_ending, bytes_reader)
    ending = StreamEnd(meter, call, reader)
    # A deferred iterator is of both kinds.
    shown = type(stream) if isinstance(inner, _DeferredIterator) else inner
    kind = AsyncIteratorTap if hasattr(shown, "__anext__") else IteratorTap
    stream._iterator = kind(inner, reader, ending, tap)
    call.hand_over()  # from here on, only the taps end it
    return True


def _iterator_of(stream: Any) -> Any:
    """Return the iterator inside a stream object, or None; a deferred one if the stream creates it
    on first use.
    """
    is_lazy = isinstance(getattr(type(stream), "_iterator", None), cached_property)
    if is_lazy and "_iterator" not in vars(stream):
        return _DeferredIterator(stream)
    return getattr(stream, "_iterator", None)


class _IteratorTap:
    """Replaces the iterator in a stream object."""

    __slots__ = ("_bytes", "_ending", "_feed", "_inner", "_next")
    _step = ""  # the method that returns the next chunk

    def __init__(
        self, inner: Any, reader: StreamReader, ending: StreamEnd, tap: ByteTap | None
    ) -> None:
        self._inner = inner
        self._next: Callable[[], Any] = getattr(inner, self._step)
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def _end(self, error: BaseException) -> None:
        """End the call with what a step raised: its end, an error or a cancellation."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._ending.end_exhausted()
        else:  # perhaps a finalizer closes an async step
            self._ending.end_from_finalizer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        # Some helpers of older SDKs drop the stream object and read its response with another one,
        # so the call is left to the bytes until a chunk was parsed here.
        if self._bytes is None or self._bytes.is_parsed:
            self._ending.end_from_finalizer()


class IteratorTap(_IteratorTap):
    """Replaces the iterator in a sync stream object."""

    __slots__ = ()
    _step = "__next__"

    def __iter__(self) -> SyncLoop:
        return SyncLoop(self, self._ending, self.__next__)

    def __next__(self) -> Any:
        if self._bytes is not None:
            self._bytes.is_parsed = True  # the chunks are seen here, so the bytes need no reading
        while True:
            try:
                chunk = self._next()
            except BaseException as error:
                self._end(error)
                raise
            if not attempt("stream", self._feed, chunk):
                return chunk


class AsyncIteratorTap(_IteratorTap):
    """Replaces the iterator in an async stream object."""

    __slots__ = ()
    _step = "__anext__"

    def __aiter__(self) -> AsyncLoop:
        return AsyncLoop(self, self._ending, self.__anext__)

    async def __anext__(self) -> Any:
        if self._bytes is not None:
            self._bytes.is_parsed = True  # the chunks are seen here, so the bytes need no reading
        while True:
            try:
                chunk = await self._next()
            except BaseException as error:
                self._end(error)
                raise
            if not attempt("stream", self._feed, chunk):
                return chunk


class _Loop:
    """One loop over a stream; the object is gone as soon as the loop is left."""

    __slots__ = ("_ending", "_next", "_tap")

    def __init__(self, tap: Any, ending: StreamEnd, step: Callable[[], Any]) -> None:
        self._tap = tap
        self._ending = ending
        self._next = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tap, name)

    def __del__(self) -> None:
        self._ending.end_abandoned()


class SyncLoop(_Loop):
    """One `for` over a stream."""

    __slots__ = ()

    def __iter__(self) -> SyncLoop:
        return self

    def __next__(self) -> Any:
        return self._next()


class AsyncLoop(_Loop):
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

    def _create(self) -> Any:
        if self._inner is None:
            stream: Any = self._stream()
            self._inner = type(stream)._iterator.func(stream)
        return self._inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._create(), name)

    def __next__(self) -> Any:
        return self._create().__next__()

    async def __anext__(self) -> Any:
        return await self._create().__anext__()
