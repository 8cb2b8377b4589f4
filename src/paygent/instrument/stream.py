"""Taps of streams: the object that the SDK returned stays the object that the application gets.

Two taps, since neither sees everything. The *iterator tap* takes the place of the iterator inside
the SDK's stream object and sees each parsed chunk; the *byte tap* takes the place of the byte
stream inside the HTTP response and sees `close()`, and the bytes of raw responses that nobody
parses. Both end the call through one `Ending`, which counts once however many of them fire: at the
last chunk, at close, on an error, or when the stream is dropped and collected.

What is kept of a stream is its usage and a count of text bytes: memory does not grow with its
length.
"""

from __future__ import annotations

import json
import sys
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast

from paygent.core.estimate import BYTES_PER_TOKEN, Estimate
from paygent.core.usage import Deferred, Usage, get
from paygent.failopen import attempt
from paygent.late import LateEnds

_JSON_BYTES_MAX = 16 * 1024 * 1024  # a larger JSON answer is not read for its usage
_LINE_BYTES_MAX = 1024 * 1024  # a longer line of a server-sent event is skipped


class StreamReader(Protocol):
    """Reads the chunks of one stream of one route; made anew for each stream."""

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk, an SDK object or a dict; true means "ours alone, keep it from the
        application".
        """

    def usage(self, estimate: Estimate) -> Usage | Deferred | None:
        """Return what was used, as far as it was seen; None when nothing was."""


class Ends(Protocol):
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


class Settles(Protocol):
    """What takes the usage at the end: the meter."""

    @property
    def late_ends(self) -> LateEnds:
        """Ends that cannot be made now."""

    def settle(self, call: Any, found: Usage | Deferred | None) -> None:
        """End a call with what it has used."""


def counted(
    known: Usage | None,
    text_bytes: int,
    estimate: Estimate,
    *,
    input_is_known: bool = False,
    is_seen: bool = False,
) -> Usage | None:
    """Return the usage of a stream that ended before its final usage arrived, from what was
    received.

    Args:
        known: What the provider said so far, or None.
        text_bytes: UTF-8 length of the text received.
        estimate: What the call was held for; its input is taken where the provider did not tell.
        input_is_known: Whether `known` has the true input.
        is_seen: Whether anything was received, be it without text.
    """
    if known is None and not text_bytes and not is_seen:
        return None
    output_tokens = -(-text_bytes // BYTES_PER_TOKEN)
    if known is None:
        return Usage(estimate.input_tokens, output_tokens, quality="estimated")
    output_tokens = max(output_tokens, known.output_tokens)
    quality = "partial" if input_is_known else "estimated"
    return known._replace(output_tokens=output_tokens, quality=quality)  # type: ignore[arg-type]


class Ending:
    """Ends one streamed call with whatever its reader has seen by then; the first end counts."""

    __slots__ = ("_call", "_meter", "_reader")

    def __init__(self, meter: Settles, call: Ends, reader: StreamReader) -> None:
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
            self._meter.late_ends.add(self)
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
            self._meter.late_ends.note_left()

    def note_async(self, number: int, *, is_open: bool) -> None:
        """Note that an `async for` begins or ends."""
        self._meter.late_ends.note_async(number, is_open=is_open)

    def _settle(self) -> None:
        usage = attempt("usage", self._reader.usage, self._call.estimate)
        self._meter.settle(self._call, usage)


_PASSED_THROUGH = (
    "paygent.instrument.",
    "paygent.context",
    "paygent.demo.",
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


class IteratorTap:
    """Takes the place of the iterator in a sync stream object."""

    __slots__ = ("_bytes", "_ending", "_feed", "_inner", "_next")

    def __init__(
        self, inner: Iterator[Any], reader: StreamReader, ending: Ending, tap: ByteTap | None
    ) -> None:
        self._inner = inner
        self._next = inner.__next__
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def __iter__(self) -> _SyncLoop:
        return _SyncLoop(self, self._ending, self.__next__)

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
        self, inner: AsyncIterator[Any], reader: StreamReader, ending: Ending, tap: ByteTap | None
    ) -> None:
        self._inner = inner
        self._next = inner.__anext__
        self._feed = reader.feed
        self._ending = ending
        self._bytes = tap

    def __aiter__(self) -> _AsyncLoop:
        return _AsyncLoop(self, self._ending, self.__anext__)

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

    def __init__(self, tap: Any, ending: Ending, step: Callable[[], Any]) -> None:
        self._tap = tap
        self._ending = ending
        self._next = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tap, name)

    def __del__(self) -> None:
        self._ending.left()


class _SyncLoop(_Loop):
    __slots__ = ()

    def __iter__(self) -> _SyncLoop:
        return self

    def __next__(self) -> Any:
        return self._next()


class _AsyncLoop(_Loop):
    __slots__ = ()

    def __init__(self, tap: Any, ending: Ending, step: Callable[[], Any]) -> None:
        super().__init__(tap, ending, step)
        ending.note_async(id(self), is_open=True)

    def __del__(self) -> None:
        self._ending.note_async(id(self), is_open=False)
        super().__del__()

    def __aiter__(self) -> _AsyncLoop:
        return self

    def __anext__(self) -> Any:
        return self._next()


def _dropped(tap: ByteTap | None, ending: Ending) -> None:
    """End a stream whose iterator is collected, or leave it to its bytes.

    Some helpers of older SDKs read the response with a stream object of their own and drop the
    first one.
    """
    if tap is None or tap.is_parsed:
        ending.from_anywhere()


def _decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return what unpacks a body piece by piece; None for what the standard library cannot."""
    if encoding == "identity":
        return bytes
    if encoding in ("gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress  # 32: told by the header
    return None


class BytesReader:
    """Reads usage from the bytes of a response that the application consumes raw."""

    __slots__ = (
        "_buffer",
        "_decode",
        "_in_long_line",
        "_is_events",
        "_is_lines",
        "_is_whole",
        "_read",
        "_reader",
        "_seen",
        "_skipping",
    )

    def __init__(
        self, headers: Any, reader: StreamReader, read: Any, *, is_plain: bool = False
    ) -> None:
        """Look at what is coming.

        Args:
            headers: The response's headers.
            reader: Fed with the events of an event stream, or the lines of a file of JSON lines.
            read: Reads the usage of a whole JSON answer, `(answer) -> Usage | Deferred | None`.
            is_plain: The bytes are unpacked already.
        """
        content_type = str(headers.get("content-type") or "")
        encoding = "identity" if is_plain else str(headers.get("content-encoding") or "identity")
        self._is_events = "event-stream" in content_type
        self._is_lines = bool(getattr(reader, "reads_lines", False))
        self._decode = _decoder(encoding)
        is_readable = self._is_events or self._is_lines or "json" in content_type
        self._skipping = self._decode is None or not is_readable
        self._buffer = bytearray()
        self._in_long_line = self._is_whole = False
        self._reader = reader
        self._read = read
        self._seen: Usage | Deferred | None = None

    def feed_bytes(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError: if an event among them was no JSON; the others were read.
        """
        if self._skipping or self._decode is None:
            return
        try:
            self._buffer += self._decode(data)
        except zlib.error:  # not what its header says
            self._skipping = True
            return
        if not (self._is_events or self._is_lines):
            if len(self._buffer) > _JSON_BYTES_MAX:
                self._skipping = True
                self._buffer.clear()
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if lines and self._in_long_line:
            del lines[0]  # the end of a line that was given up
            self._in_long_line = False
        if len(rest) > _LINE_BYTES_MAX:
            self._buffer.clear()
            self._in_long_line = True
        odd: ValueError | None = None
        for line in lines:
            try:
                self._feed_line(line)
            except ValueError as error:  # noqa: PERF203 - one odd line does not cost the others
                odd = error
        if odd is not None:
            raise odd

    def _feed_line(self, line: bytearray) -> None:
        if self._is_lines:
            if line.strip():
                self._reader.feed(json.loads(line))
        elif line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            self._reader.feed(json.loads(line[5:]))

    def end(self) -> None:
        """Note that the bytes have come to their own end."""
        self._is_whole = True
        if self._is_lines and self._buffer and not self._skipping:
            line, self._buffer = self._buffer, bytearray()
            self._feed_line(line)
        end = getattr(self._reader, "end", None)
        if end is not None and not self._skipping:
            end()

    def finish(self) -> None:
        """Read what only the whole answer tells."""
        if not self._buffer or self._is_events or self._is_lines:
            return
        try:
            document = json.loads(bytes(self._buffer))
        except ValueError:
            if self._is_whole:
                raise
            return  # it broke off
        self._seen = self._read(document)

    def feed(self, chunk: Any) -> bool | None:
        """Chunks come as bytes here; see `feed_bytes`."""
        return None

    def usage(self, estimate: Estimate) -> Usage | Deferred | None:
        """Return what was seen; see `StreamReader.usage`."""
        attempt("usage", self.finish)
        return self._seen if self._seen is not None else self._reader.usage(estimate)


class ByteTap:
    """What the byte taps of both kinds share; made a subclass of the HTTP library's own stream
    class.
    """

    _inner: Any
    _ending: Ending
    _bytes: BytesReader
    _exhausted: bool
    is_parsed: bool

    def watch(self, inner: Any, ending: Ending, reader: BytesReader) -> None:
        """Take the place of `inner`.

        Args:
            inner: The HTTP library's own stream.
            ending: Fired by a close before the end; and by the end, if nobody parses the stream.
            reader: Reads the bytes as long as `is_parsed` is false. An iterator tap sets that when
                it is asked for its first chunk, since it then sees the chunks itself.
        """
        self._inner = inner
        self._ending = ending
        self._bytes = reader
        self._exhausted = False
        self.is_parsed = False

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # before `watch`, and while being copied
            raise AttributeError(name)
        return getattr(self._inner, name)

    def _feed(self, data: bytes) -> None:
        if not self.is_parsed:
            attempt("stream_bytes", self._bytes.feed_bytes, data)

    def _note_exhausted(self) -> None:
        self._exhausted = True
        if not self.is_parsed:
            attempt("stream_bytes", self._bytes.end)

    def _end(self) -> None:
        # A stream that was read to its end is ended by the iterator tap, which sees the last chunk
        # only now.
        if not self.is_parsed or not self._exhausted:
            self._ending.from_anywhere()

    def __del__(self) -> None:
        if "is_parsed" in self.__dict__ and not self.is_parsed:
            self._ending.from_anywhere()


class _SyncByteTap(ByteTap):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._inner:
                self._feed(data)
                yield data
        except BaseException:  # it broke off, or is read no more: nothing else may tell of it soon
            self._end()
            raise
        self._note_exhausted()

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._end()


class _AsyncByteTap(ByteTap):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._inner:
                self._feed(data)
                yield data
        except BaseException:  # as in the sync tap
            self._end()
            raise
        self._note_exhausted()

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._end()


@lru_cache(maxsize=16)
def _tap_class(stream_class: Hashable) -> type | None:
    """Return a tap class that the HTTP library takes for one of its own streams (it checks the
    type).

    httpx and httpx2 have classes of the same names; neither is imported here, the one in use tells.
    """
    for base in cast(type, stream_class).__mro__:
        if base.__name__ in ("SyncByteStream", "AsyncByteStream"):
            kind = _AsyncByteTap if base.__name__ == "AsyncByteStream" else _SyncByteTap
            return type(kind.__name__, (kind, base), {})
    return None


def tap_bytes(response: Any, ending: Ending, reader: BytesReader) -> ByteTap | None:
    """Put a byte tap into an HTTP response; None where it has no stream that can be watched."""
    inner = getattr(response, "stream", None)
    tap_class = _tap_class(cast(Hashable, type(inner))) if inner is not None else None
    if tap_class is None:
        return None
    tap: ByteTap = tap_class()
    tap.watch(inner, ending, reader)
    response.stream = tap
    return tap


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


def _iterator_of(stream: Any) -> Any:
    """Return the iterator inside a stream object, not making it yet where the stream makes it late;
    None where there is none.
    """
    is_late = isinstance(getattr(type(stream), "_iterator", None), cached_property)
    if is_late and "_iterator" not in vars(stream):
        is_async = hasattr(type(stream), "__anext__")
        return (_LaterAsyncIterator if is_async else _LaterSyncIterator)(stream)
    return getattr(stream, "_iterator", None)


def tap_stream(stream: Any, meter: Settles, call: Ends, reader: StreamReader, read: Any) -> bool:
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
    tap = attempt("tap_bytes", tap_bytes, response, Ending(meter, call, bytes_reader), bytes_reader)
    ending = Ending(meter, call, reader)
    shown = type(inner) if isinstance(inner, _LaterIterator) else inner
    kind = AsyncIteratorTap if hasattr(shown, "__anext__") else IteratorTap
    stream._iterator = kind(inner, reader, ending, tap)
    call.hand_over()
    return True


def text_bytes(value: Any) -> int:
    """Return the UTF-8 length of a piece of text; 0 for anything else."""
    if not isinstance(value, str):
        return 0
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


def field(value: Any, *names: str) -> Any:
    """Read a nested field of SDK objects or dicts; None where one is missing."""
    for name in names:
        value = get(value, name)
        if value is None:
            return None
    return value
