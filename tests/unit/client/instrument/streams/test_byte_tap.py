"""The byte tap: raw responses are read beside the application, byte for byte unchanged."""

from __future__ import annotations

import copy
import gc
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from tests.conftest import Swallowed
from tests.unit.client.instrument.streams.streams import (
    ESTIMATE,
    EVENTS,
    STREAM,
    USAGE,
    NotingMeter,
    Source,
    bytes_reader,
    call_of,
    tokens,
)

from paygent.client.instrument.anthropic.answers import BatchResults
from paygent.client.instrument.streams import byte_tap
from paygent.client.instrument.streams.byte_tap import BytesReader, ByteTap, tap_bytes
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.metering.meter import Meter
from paygent.core.usage import JobStatus

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_bytes_reader__events_split_at_odd_places__are_read_alike(size: int) -> None:
    """Where the network cuts makes no difference."""
    reader = bytes_reader()
    for start in range(0, len(STREAM), size):
        reader.feed_bytes(STREAM[start : start + size])
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_bytes_reader__a_json_answer__is_read_whole(size: int) -> None:
    """A body without events is one document."""
    body = json.dumps({"model": "gpt-4o", "usage": USAGE}).encode()
    reader = bytes_reader(JSON)
    for start in range(0, len(body), size):
        reader.feed_bytes(body[start : start + size])
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


@pytest.mark.parametrize(
    "headers",
    [
        {**JSON, "content-encoding": "gzip"},
        {**EVENTS, "content-encoding": "br"},
        {"content-type": "audio/mpeg"},
        {},
    ],
)
def test_bytes_reader__what_it_cannot_read__is_not_kept(headers: dict[str, str]) -> None:
    """Packed bodies and files have no usage that we could see, and take no memory."""
    reader = bytes_reader(headers)
    for _ in range(100):
        reader.feed_bytes(STREAM * 100)
    assert reader.usage(ESTIMATE) is None
    assert len(reader._buffer) == 0


def test_bytes_reader__an_answer_beyond_the_bound__is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A JSON answer of any size passes; only so much of it is kept."""
    monkeypatch.setattr(byte_tap, "_JSON_BYTES_MAX", 100)
    reader = bytes_reader(JSON)
    for _ in range(10):
        reader.feed_bytes(b"x" * 50)
        assert len(reader._buffer) <= 100
    assert reader.usage(ESTIMATE) is None


def test_bytes_reader__a_body_that_is_no_json__is_counted_and_unknown(
    swallowed: Swallowed,
) -> None:
    """A body that came whole and is no JSON is odd, which is noted."""
    swallowed.expect("usage")
    reader = bytes_reader(JSON)
    reader.feed_bytes(b'{"usage": {"prompt')
    reader.end()
    assert reader.usage(ESTIMATE) is None


def test_bytes_reader__a_body_that_was_cut__is_unknown() -> None:
    """Connections break; that is no internal failure."""
    reader = bytes_reader(JSON)
    reader.feed_bytes(b'{"usage": {"prompt')
    assert reader.usage(ESTIMATE) is None


def test_bytes_reader__a_line_beyond_the_bound__is_skipped_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that is too long is left out as a whole, is no failure, and takes little memory."""
    monkeypatch.setattr(byte_tap, "_LINE_BYTES_MAX", 200)
    reader = bytes_reader()
    reader.feed_bytes(b'data: {"usage":null,"list":["first"')
    for _ in range(100):
        reader.feed_bytes(b',"another"')
        assert len(reader._buffer) <= 200
    reader.feed_bytes(b"]}\n\n" + STREAM)
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


def test_bytes_reader__an_event_that_is_no_json__does_not_hide_the_next(
    swallowed: Swallowed,
) -> None:
    """A provider's odd line costs that line only, in one piece as in two."""
    swallowed.expect("stream_bytes")
    whole, split = bytes_reader(), bytes_reader()
    broken = b'data: {"usage": oops\n\n'
    for reader, pieces in ((whole, [broken + STREAM]), (split, [broken, STREAM])):
        for piece in pieces:
            reader.feed_bytes(piece)
    assert tokens(split.usage(ESTIMATE)) == (3, 4)
    assert tokens(whole.usage(ESTIMATE)) == (3, 4)


def test_bytes_reader__is_a_reader_like_any_other() -> None:
    """Parsed chunks are not its business."""
    reader = bytes_reader()
    reader.feed({"usage": USAGE})
    assert reader.usage(ESTIMATE) is None


class AsyncSource(httpx2.AsyncByteStream):
    """An async HTTP stream of pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    async def aclose(self) -> None:
        """Note the close."""
        self.is_closed = True


def tap_of(source: Any, headers: dict[str, str] | None = None) -> tuple[Any, NotingMeter]:
    """A response with a byte tap."""
    meter = NotingMeter()
    response = SimpleNamespace(stream=source)
    reader = bytes_reader(headers)
    tap = tap_bytes(response, StreamEnd(cast(Meter, meter), call_of(), reader), reader)
    assert tap is response.stream
    return tap, meter


def test_tap_bytes__read_and_closed__settles_once_and_changes_no_byte() -> None:
    """The HTTP library takes the tap for a stream of its own, and gets the same bytes."""
    source = Source(STREAM[:30], STREAM[30:])
    tap, meter = tap_of(source)
    assert isinstance(tap, httpx2.SyncByteStream) is True
    assert b"".join(tap) == STREAM
    tap.close()
    tap.close()
    assert source.is_closed is True
    assert tap.pieces is source.pieces  # what else the library asks of its stream is answered
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


async def test_tap_bytes__async__settles_once_and_changes_no_byte() -> None:
    """The same for async streams."""
    source = AsyncSource(STREAM)
    tap, meter = tap_of(source)
    assert isinstance(tap, httpx2.AsyncByteStream)
    assert b"".join([piece async for piece in tap]) == STREAM
    await tap.aclose()
    assert source.is_closed is True
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


def test_tap_bytes__closed_before_the_end__settles_what_was_seen() -> None:
    """An app that hangs up ends its call; a chunk without text shows that no text has come yet."""
    chunk = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    tap, meter = tap_of(Source(chunk, STREAM))
    next(iter(tap))
    tap.close()
    assert [tokens(usage) for usage in meter.settled] == [(50, 0)]


def test_tap_bytes__closed_with_nothing_readable__settles_the_estimate() -> None:
    """Without any usage, the cost may be all that was held."""
    tap, meter = tap_of(Source(b"data: {}\n\n", STREAM))
    next(iter(tap))
    tap.close()
    assert meter.settled == [None]


def test_tap_bytes__dropped_without_reading__settles_when_collected() -> None:
    """A dropped stream is not closed."""
    tap, meter = tap_of(Source(STREAM))
    del tap
    gc.collect()
    assert meter.settled == [None]


def test_tap_bytes__of_a_stream_that_is_parsed__leaves_the_end_to_the_iterator() -> None:
    """Read to the end and closed: the iterator's tap sees the last chunk only now."""
    tap, meter = tap_of(Source(STREAM))
    tap.is_parsed = True
    assert b"".join(tap) == STREAM
    tap.close()
    del tap
    gc.collect()
    assert meter.settled == []


def test_tap_bytes__a_close_that_fails__settles_and_raises() -> None:
    """The library's own error arrives."""

    class Failing(Source):
        def close(self) -> None:
            raise KeyError("close")

    tap, meter = tap_of(Failing(STREAM))
    with pytest.raises(KeyError):
        tap.close()
    assert meter.settled == [None]


def test_tap_bytes__bytes_that_cannot_be_read__pass_and_are_counted(swallowed: Swallowed) -> None:
    """A broken event is no reason to break the app's stream."""
    swallowed.expect("stream_bytes")
    broken = b'data: {"usage": oops\n'
    tap, _ = tap_of(Source(broken, STREAM))
    assert list(tap) == [broken, STREAM]
    tap.close()


@pytest.mark.parametrize("stream", [None, object(), [b"x"]])
def test_tap_bytes__a_stream_of_another_library__is_left_alone(stream: Any) -> None:
    """What is no httpx stream is neither tapped nor changed."""
    response = SimpleNamespace(stream=stream)
    reader = bytes_reader()
    ending = StreamEnd(cast(Meter, NotingMeter()), call_of(), reader)
    assert tap_bytes(response, ending, reader) is None
    assert response.stream is stream


def test_byte_tap__copied_or_made_empty__does_not_recurse() -> None:
    """A debugger or a copy may meet a tap that watches nothing yet."""
    with pytest.raises(AttributeError):
        _ = ByteTap.__new__(ByteTap)._inner
    assert isinstance(copy.copy(ByteTap.__new__(ByteTap)), ByteTap)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_bytes_reader__a_packed_stream__is_unpacked_piece_by_piece(
    encoding: str, size: int
) -> None:
    """HTTP libraries ask for packed answers by default; their usage counts too."""
    packed = gzip.compress(STREAM) if encoding == "gzip" else zlib.compress(STREAM)
    reader = bytes_reader({**EVENTS, "content-encoding": encoding})
    for start in range(0, len(packed), size):
        reader.feed_bytes(packed[start : start + size])
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


def results_reader(headers: dict[str, str] | None = None) -> BytesReader:
    """A reader of the results of a batch."""
    reader = BatchResults(False, False, ref="messages.batch:b")
    return BytesReader(headers or {"content-type": "application/x-jsonl"}, reader, lambda _: None)


def result_line(**usage: int) -> bytes:
    """A line of the results of a batch."""
    message = {"model": "claude-opus-5", "usage": usage}
    return json.dumps({"custom_id": "a", "result": {"message": message}}).encode()


LINES = b"\n".join([result_line(input_tokens=3, output_tokens=4)] * 2)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_bytes_reader__json_lines__are_read_wherever_they_are_cut(size: int, end: bytes) -> None:
    """The last line counts, with or without a line break behind it."""
    reader = results_reader()
    body = LINES + end
    for start in range(0, len(body), size):
        reader.feed_bytes(body[start : start + size])
    assert reader.usage(ESTIMATE) == JobStatus("messages.batch:b")  # not at its end yet
    reader.end()
    found = reader.usage(ESTIMATE)
    assert isinstance(found, JobStatus)
    assert [tokens(usage) for usage in found.usages or ()] == [(6, 8)]


@pytest.mark.parametrize(
    "body", [LINES + b"\n", b"odd\n" + LINES, LINES + b"\nodd\n", LINES + b"\nodd"]
)
def test_bytes_reader__an_odd_line__does_not_cost_the_others(
    body: bytes, swallowed: Swallowed
) -> None:
    """It is logged once, and the rest is read; the usage is marked as partial."""
    if b"odd" in body:
        swallowed.expect("stream_bytes")
    reader = results_reader()
    reader.feed_bytes(body)
    reader.end()
    found = reader.usage(ESTIMATE)
    assert isinstance(found, JobStatus)
    quality = "partial" if b"odd" in body else "exact"
    assert [(tokens(usage), usage.quality) for usage in found.usages or ()] == [((6, 8), quality)]


@pytest.mark.parametrize(
    ("others", "expected"),
    [([b"\n", LINES], [((6, 8), "partial")]), ([b"\n"], None), ([], None)],
)
def test_bytes_reader__a_result_beyond_the_bound__leaves_the_batch_incomplete(
    others: list[bytes], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its usage is unknown; where no other was read, the estimate of the batch stays."""
    monkeypatch.setattr(byte_tap, "_LINE_BYTES_MAX", 500)
    reader = results_reader()
    for piece in (b'{"result": "', b"x" * 600, b'"}', *others):
        reader.feed_bytes(piece)
    reader.end()
    found = reader.usage(ESTIMATE)
    assert isinstance(found, JobStatus)
    usages = found.usages
    assert (usages and [(tokens(usage), usage.quality) for usage in usages]) == expected
