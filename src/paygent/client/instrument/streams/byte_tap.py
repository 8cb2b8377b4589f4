"""The byte tap: replaces the byte stream inside an HTTP response.

It sees `close()`, and the bytes of raw responses that nothing parses. Those are read for their
usage piece by piece, within bounds, and passed on unchanged.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.instrument.streams.reader import LineReader, StreamReader
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage
from paygent.failopen import attempt

_JSON_BYTES_MAX = 16 * 1024 * 1024  # a larger JSON answer is not read for its usage
_LINE_BYTES_MAX = 1024 * 1024  # a longer line of a server-sent event is skipped


def _decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return the decoder of a body; None for an encoding that the standard library lacks."""
    if encoding == "identity":
        return bytes
    if encoding in ("gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress  # 32: the header decides which
    return None


class BytesReader:
    """Reads usage from the bytes of a response that the application consumes raw.

    Every stream has one and few need it, so what costs time waits for the first bytes.
    """

    def __init__(
        self, headers: Any, reader: StreamReader, read: Any, *, is_plain: bool = False
    ) -> None:
        """Prepare for a response with these headers, of which `is_plain` bytes are decoded already.

        Args:
            reader: Fed with the events of an event stream, or the lines of a file of JSON lines.
            read: Reads the usage of a whole JSON answer, `(answer) -> Usage | JobStatus | None`.
        """
        self._headers = headers
        self._is_plain = is_plain
        self._buffer = bytearray()
        self._in_long_line = self._is_whole = self._has_gaps = False
        self._reader = reader
        self._read = read
        self._seen: Usage | JobStatus | None = None

    @cached_property
    def _content_type(self) -> str:
        return str(self._headers.get("content-type") or "")

    @cached_property
    def _line_reader(self) -> LineReader | None:
        return self._reader if isinstance(self._reader, LineReader) else None

    @cached_property
    def is_by_line(self) -> bool:
        """Whether it reads events or JSON lines, and not one JSON answer."""
        return self._line_reader is not None or "event-stream" in self._content_type

    @cached_property
    def _decode(self) -> Callable[[bytes], bytes] | None:
        """The decoder of the body; None where bytes are skipped, from the start or from now on."""
        if not self.is_by_line and "json" not in self._content_type:
            return None
        encoding = None if self._is_plain else self._headers.get("content-encoding")
        return _decoder(str(encoding or "identity"))

    def feed_bytes(self, data: bytes) -> None:
        """Read the next bytes."""
        if self._decode is None:
            return
        try:
            self._buffer += self._decode(data)
        except zlib.error:  # the header was wrong
            self._decode = None
            return
        if not self.is_by_line:
            if len(self._buffer) > _JSON_BYTES_MAX:
                self._decode = None
                self._buffer.clear()
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if lines and self._in_long_line:
            del lines[0]  # the rest of the skipped line
            self._in_long_line = False
        if len(rest) > _LINE_BYTES_MAX:
            self._buffer.clear()
            self._in_long_line = self._has_gaps = True
        self._feed_lines(lines)

    def _feed_lines(self, lines: Iterable[bytearray]) -> None:
        for line in lines:
            is_read = attempt("stream_bytes", self._feed_line, line)
            if is_read is None:  # an odd line costs that line only
                self._has_gaps = True

    def _feed_line(self, line: bytearray) -> bool:
        if self._line_reader is not None:
            if line.strip():
                self._reader.feed(json.loads(line))
        elif line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            self._reader.feed(json.loads(line[5:]))
        return True

    def end(self) -> None:
        """Record the stream's own end."""
        self._is_whole = True
        if self._line_reader is not None and self._decode is not None:
            line, self._buffer = self._buffer, bytearray()
            if not self._in_long_line:
                self._feed_lines([line])
            self._line_reader.end(has_gaps=self._has_gaps)

    def finish(self) -> None:
        """Read the usage that only a whole answer has."""
        if not self._buffer or self.is_by_line:
            return
        try:
            document = json.loads(bytes(self._buffer))
        except ValueError:
            if self._is_whole:
                raise
            return  # it broke off
        self._seen = self._read(document)

    def feed(self, chunk: Any) -> None:
        """Ignore chunks: they come as bytes here; see `feed_bytes`."""

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage that was seen; see `StreamReader.usage`."""
        attempt("usage", self.finish)
        return self._seen if self._seen is not None else self._reader.usage(estimate)


class ByteTap:
    """Replaces the HTTP library's own stream. `_tap_class` mixes it with the class of that."""

    # Set by an iterator tap when its first chunk is requested: it then sees the chunks itself.
    is_parsed = False
    _exhausted = False

    def __init__(self, inner: Any, ending: StreamEnd, reader: BytesReader) -> None:
        self._inner = inner
        self._bytes = reader
        self._ending = ending  # fired by a close before the end; by the end, if nothing parses it

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # while being copied
            raise AttributeError(name)
        return getattr(self._inner, name)

    def _feed(self, data: bytes) -> None:
        if not self.is_parsed:
            attempt("stream_bytes", self._bytes.feed_bytes, data)

    def _exhaust(self) -> None:
        self._exhausted = True
        if not self.is_parsed:
            attempt("stream_bytes", self._bytes.end)

    def _end(self) -> None:
        # A stream that was read to its end is ended by the iterator tap, which sees the last chunk
        # only now.
        if not self.is_parsed or not self._exhausted:
            self._ending.end_from_finalizer()

    def __del__(self) -> None:
        if not self.is_parsed and "_ending" in self.__dict__:
            self._ending.end_from_finalizer()


class _SyncByteTap(ByteTap):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._inner:
                self._feed(data)
                yield data
            self._exhaust()
        finally:  # also where it broke off, or reading stopped: no close may follow soon
            self._end()

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
            self._exhaust()
        finally:  # as in the sync tap
            self._end()

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._end()


@lru_cache(maxsize=16)
def _tap_class(stream_class: type) -> type[ByteTap] | None:
    """Return a tap class that the HTTP library accepts as one of its own streams (it checks the
    type). httpx and httpx2 have classes of the same names, and neither is imported here.
    """
    for base in stream_class.__mro__:
        if base.__name__ in ("SyncByteStream", "AsyncByteStream"):
            kind = _AsyncByteTap if base.__name__ == "AsyncByteStream" else _SyncByteTap
            return type(kind.__name__, (kind, base), {})
    return None


def tap_bytes(response: Any, ending: StreamEnd, reader: BytesReader) -> ByteTap | None:
    """Put a byte tap into an HTTP response; None if it has no stream that can be tapped."""
    inner = getattr(response, "stream", None)
    tap_class = _tap_class(type(inner))  # type: ignore[arg-type] # mypy: no class is Hashable
    if tap_class is None:
        return None
    tap = tap_class(inner, ending, reader)
    response.stream = tap
    return tap
