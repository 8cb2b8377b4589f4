"""Taps of streams: the object that the SDK returned stays the object that the application gets.

Two taps, since neither sees everything. The *iterator tap* takes the place of the iterator inside
the SDK's stream object and sees each parsed chunk; the *byte tap* (`raw.py`) takes the place of the
byte stream inside the HTTP response. Both end the call through one `Ending` each, of one call that
ends once however many of them fire: at the last chunk, at close, on an error, or when the stream is
dropped and collected.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Any

from paygent.client.instrument.streams.byte_tap import BytesReader, ByteTap, tap_bytes
from paygent.client.instrument.streams.ending import EndableCall, Settler, StreamEnd
from paygent.client.instrument.streams.reader import StreamReader
from paygent.failopen import attempt


def tap_stream(
    stream: Any, meter: Settler, call: EndableCall, reader: StreamReader, read: Any
) -> bool:
    """Put both taps into an SDK's stream object; false where it is none.

    Args:
        stream: What the SDK returned.
        meter, call: Ended by the taps.
        reader: Reads the chunks.
        read: Reads the usage of a whole JSON answer, for a response that has no events.
    """
    inner = _iterator_of(stream)
    if inner is None:
        return False
    response = getattr(stream, "response", None) or getattr(stream, "http_response", None)
    bytes_reader = BytesReader(getattr(response, "headers", None) or {}, reader, read)
    tap = attempt(
        "tap_bytes", tap_bytes, response, StreamEnd(meter, call, bytes_reader), bytes_reader
    )
    ending = StreamEnd(meter, call, reader)
    shown = type(inner) if isinstance(inner, _LaterIterator) else inner
    kind = AsyncIteratorTap if hasattr(shown, "__anext__") else IteratorTap
    stream._iterator = kind(inner, reader, ending, tap)
    call.hand_over()
    return True


def _iterator_of(stream: Any) -> Any:
    """Return the iterator inside a stream object, not making it yet where the stream makes it late;
    None where there is none.
    """
    is_late = isinstance(getattr(type(stream), "_iterator", None), cached_property)
    if is_late and "_iterator" not in vars(stream):
        is_async = hasattr(type(stream), "__anext__")
        return (_LaterAsyncIterator if is_async else _LaterSyncIterator)(stream)
    return getattr(stream, "_iterator", None)


class IteratorTap:
    """Takes the place of the iterator in a sync stream object."""

    __slots__ = ("_bytes", "_ending", "_feed", "_inner", "_next")

    def __init__(
        self, inner: Iterator[Any], reader: StreamReader, ending: StreamEnd, tap: ByteTap | None
    ) -> None:
        self._inner = inner
        self._next = inner.__next__
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def __iter__(self) -> SyncLoop:
        return SyncLoop(self, self._ending, self.__next__)

    def __next__(self) -> Any:
        if self._bytes is not None:
            self._bytes.is_parsed = True
        while True:
            try:
                chunk = self._next()
            except StopIteration:
                self._ending.at_its_end()
                raise
            except BaseException:  # an error, a cancellation: each ends the call, none is ours
                self._ending()
                raise
            if not attempt("stream", self._feed, chunk):
                return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        _dropped(self._bytes, self._ending)


class AsyncIteratorTap:
    """Takes the place of the iterator in an async stream object."""

    __slots__ = ("_bytes", "_ending", "_feed", "_inner", "_next")

    def __init__(
        self,
        inner: AsyncIterator[Any],
        reader: StreamReader,
        ending: StreamEnd,
        tap: ByteTap | None,
    ) -> None:
        self._inner = inner
        self._next = inner.__anext__
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def __aiter__(self) -> AsyncLoop:
        return AsyncLoop(self, self._ending, self.__anext__)

    async def __anext__(self) -> Any:
        if self._bytes is not None:
            self._bytes.is_parsed = True
        while True:
            try:
                chunk = await self._next()
            except StopAsyncIteration:
                self._ending.at_its_end()
                raise
            except BaseException:  # as in the sync tap
                self._ending()
                raise
            if not attempt("stream", self._feed, chunk):
                return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __del__(self) -> None:
        _dropped(self._bytes, self._ending)


class _Loop:
    """One loop over a stream, which is gone as soon as the loop is left."""

    __slots__ = ("_ending", "_next", "_tap")

    def __init__(self, tap: Any, ending: StreamEnd, step: Callable[[], Any]) -> None:
        self._tap = tap
        self._ending = ending
        self._next = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tap, name)

    def __del__(self) -> None:
        self._ending.left()


class SyncLoop(_Loop):
    """One `for` over a stream."""

    __slots__ = ()

    def __iter__(self) -> SyncLoop:
        return self

    def __next__(self) -> Any:
        return self._next()


class AsyncLoop(_Loop):
    """One `async for` over a stream, which the event loop closes only some rounds after its end."""

    __slots__ = ()

    def __aiter__(self) -> AsyncLoop:
        return self

    def __anext__(self) -> Any:
        return self._next()


def _dropped(tap: ByteTap | None, ending: StreamEnd) -> None:
    """End a stream whose iterator is collected, or leave it to its bytes.

    Some helpers of older SDKs read the response with a stream object of their own and drop the
    first one.
    """
    if tap is None or tap.is_parsed:
        ending.from_anywhere()


class _LaterIterator:
    """Stands for an iterator that a stream makes when it is first read: other instrumentation may
    have its hand in that, and needs what it notes on the stream only after it was returned.
    """

    __slots__ = ("_inner", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream = weakref.ref(stream)  # not to keep a stream that was dropped
        self._inner: Any = None

    def _made(self) -> Any:
        if self._inner is None:
            stream: Any = self._stream()
            self._inner = type(stream)._iterator.func(stream)
        return self._inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made(), name)


class _LaterSyncIterator(_LaterIterator):
    __slots__ = ()

    def __next__(self) -> Any:
        return self._made().__next__()


class _LaterAsyncIterator(_LaterIterator):
    __slots__ = ()

    async def __anext__(self) -> Any:
        return await self._made().__anext__()
