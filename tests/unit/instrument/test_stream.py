"""The taps of streams: what they read, what they pass on, and that they keep next to nothing."""

from __future__ import annotations

import contextlib
import copy
import gc
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, paygent_context
from paygent.call import Call
from paygent.core.estimate import Estimate
from paygent.core.usage import Deferred, Usage
from paygent.instrument import stream as stream_module
from paygent.instrument.anthropic import BatchResults, MessageStream, read_message, view_batch
from paygent.instrument.openai_usage import (
    ChatStream,
    ResponseStream,
    read_chat,
    read_response,
)
from paygent.instrument.stream import (
    BytesReader,
    ByteTap,
    Ending,
    counted,
    field,
    tap_bytes,
    tap_stream,
    text_bytes,
)
from paygent.late import LateEnds
from paygent.ledger.flights import Hold, Use
from paygent.meter import Meter
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

ESTIMATE = Estimate(50, 60)
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}

USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
STREAM = (
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    b": a comment\n\n"
    b'event: x\r\ndata: {"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":4}}\r\n\r\ndata: [DONE]\n\n'
)


class Meter2:
    """Stands for a meter: notes each settlement, and ends a call once."""

    def __init__(self) -> None:
        self.settled: list[Usage | None] = []
        self.late_ends = LateEnds(lambda: None)

    def settle(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement."""
        call.ends = []
        self.settled.append(usage)


def call_of() -> Call:
    """A call under way."""
    call = Call()
    call.ends, call.drops_usage_chunk = [None], False
    call.hold = Hold(Use(ESTIMATE, 0), "gpt-4o")
    return call


def chat() -> ChatStream:
    """A reader of chat chunks."""
    return ChatStream(False, False)


def bytes_reader(headers: dict[str, str] | None = None) -> BytesReader:
    """A reader of the bytes of a chat answer."""
    read = lambda document: read_chat(document, False)  # noqa: E731 - a value, not a name
    return BytesReader(EVENTS if headers is None else headers, chat(), read)


def tokens(usage: Usage | Deferred | None) -> tuple[int, int] | None:
    """Input and output."""
    return (usage.input_tokens, usage.output_tokens) if isinstance(usage, Usage) else None


# -- bytes


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
    monkeypatch.setattr(stream_module, "_JSON_BYTES_MAX", 100)
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
    """Connections break; that is no failure of ours."""
    reader = bytes_reader(JSON)
    reader.feed_bytes(b'{"usage": {"prompt')
    assert reader.usage(ESTIMATE) is None


def test_bytes_reader__a_line_beyond_the_bound__is_skipped_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that is too long is left out as a whole, is no failure, and takes little memory."""
    monkeypatch.setattr(stream_module, "_LINE_BYTES_MAX", 200)
    reader = bytes_reader()
    reader.feed_bytes(b'data: {"usage":null,"list":["first"')
    for _ in range(100):
        reader.feed_bytes(b',"another"')
        assert len(reader._buffer) <= 200
    reader.feed_bytes(b"]}\n\n" + STREAM)
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)


def test_bytes_reader__an_event_that_is_no_json__does_not_hide_the_next() -> None:
    """A provider's odd line costs that line only, in one piece as in two."""
    whole, split = bytes_reader(), bytes_reader()
    broken = b'data: {"usage": oops\n\n'
    for reader, pieces in ((whole, [broken + STREAM]), (split, [broken, STREAM])):
        for piece in pieces:
            with contextlib.suppress(ValueError):  # the tap counts it and goes on
                reader.feed_bytes(piece)
    assert tokens(split.usage(ESTIMATE)) == (3, 4)
    assert tokens(whole.usage(ESTIMATE)) == (3, 4)


def test_bytes_reader__is_a_reader_like_any_other() -> None:
    """Parsed chunks are not its business."""
    reader = bytes_reader()
    assert reader.feed({"usage": USAGE}) is None
    assert reader.usage(ESTIMATE) is None


# -- iterators


class SdkStream:
    """An SDK's stream object, as far as the taps look at it."""

    def __init__(self, iterator: Any, response: Any = None) -> None:
        self._iterator = iterator
        self.response = response

    def __iter__(self) -> Iterator[Any]:
        yield from self._iterator

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self._iterator:
            yield item


def chunk(text: str = "word ") -> dict[str, Any]:
    """A chunk of text."""
    return {"model": "gpt-4o", "choices": [{"delta": {"content": text}}]}


def last() -> dict[str, Any]:
    """The chunk with the usage."""
    return {"model": "gpt-4o", "choices": [], "usage": USAGE}


def tapped(stream: SdkStream, reader: Any = None) -> Meter2:
    """A stream with both taps in it."""
    meter = Meter2()
    reading = reader if reader is not None else chat()
    assert tap_stream(stream, cast(Meter, meter), call_of(), reading, lambda document: None)
    return meter


def test_tap_stream__read_to_its_end__settles_the_usage_once() -> None:
    """Each chunk arrives as it was; the call ends with the last."""
    chunks = [chunk(), chunk(), last()]
    stream = SdkStream(iter(chunks))
    meter = tapped(stream)
    assert list(stream) == chunks
    assert list(stream) == []
    del stream
    gc.collect()
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


async def test_tap_stream__async__settles_the_usage_once() -> None:
    """The async tap does the same."""

    async def source() -> AsyncIterator[Any]:
        for each in chunks:
            yield each

    chunks = [chunk(), last()]
    stream = SdkStream(source())
    meter = tapped(stream)
    loop = stream._iterator.__aiter__()
    assert loop.__aiter__() is loop
    assert [each async for each in stream] == chunks
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


async def test_tap_stream__an_async_stream_that_fails__settles_and_raises() -> None:
    """The SDK's error arrives, and what was received counts."""

    async def source() -> AsyncIterator[Any]:
        yield chunk("12345678")
        raise KeyError("cut")

    stream = SdkStream(source())
    meter = tapped(stream)
    with pytest.raises(KeyError):
        [each async for each in stream]
    assert [tokens(usage) for usage in meter.settled] == [(50, 2)]


def test_tap_stream__a_usage_chunk_that_is_ours__is_kept_from_the_app() -> None:
    """Only the chunk that we asked for is taken out."""
    stream = SdkStream(iter([chunk(), last(), chunk("more")]))
    tapped(stream, ChatStream(False, True))
    assert list(stream) == [chunk(), chunk("more")]


async def test_tap_stream__a_usage_chunk_that_is_ours__is_kept_from_an_async_app() -> None:
    """Only the chunk that we asked for is taken out."""

    async def source() -> AsyncIterator[Any]:
        for each in (chunk(), last()):
            yield each

    stream = SdkStream(source())
    tapped(stream, ChatStream(False, True))
    assert [each async for each in stream] == [chunk()]


class BrokenReader:
    """A reader with a bug."""

    def feed(self, chunk: Any) -> bool | None:
        """Fail."""
        raise RuntimeError("bug")

    def usage(self, estimate: Estimate) -> Usage | None:
        """Fail."""
        raise RuntimeError("bug")


def test_tap_stream__a_reader_that_fails__lets_every_chunk_pass(swallowed: Swallowed) -> None:
    """Our bug is counted; the app gets its stream, the call its estimate."""
    swallowed.expect("stream", "usage")
    stream = SdkStream(iter([chunk(), last()]))
    meter = tapped(stream, BrokenReader())
    assert list(stream) == [chunk(), last()]
    assert meter.settled == [None]


def test_tap_stream__dropped_without_being_read__settles_when_collected() -> None:
    """A stream that nobody reads still ends its call."""
    stream = SdkStream(iter([chunk(), last()]))
    meter = tapped(stream)
    del stream
    gc.collect()
    assert meter.settled == [None]


def test_tap_stream__what_the_sdk_asks_of_its_iterator__is_answered() -> None:
    """The tap stands in for the iterator in everything, `close` of a generator too."""
    closed: list[bool] = []

    def source() -> Iterator[Any]:
        try:
            yield chunk()
        finally:
            closed.append(True)

    stream = SdkStream(source())
    tapped(stream)
    loop = iter(stream._iterator)
    assert iter(loop) is loop
    next(loop)
    loop.close()
    assert closed == [True]


async def test_tap_stream__what_the_sdk_asks_of_an_async_iterator__is_answered() -> None:
    """The same for async generators, which have `aclose`."""

    async def source() -> AsyncIterator[Any]:
        yield chunk()

    stream = SdkStream(source())
    meter = tapped(stream)
    await stream._iterator.aclose()
    del stream
    gc.collect()
    assert meter.settled == [None]


def test_tap_stream__what_is_no_stream__is_left_alone() -> None:
    """An object without an iterator cannot be tapped, which is told."""
    answer = object()
    meter = cast(Meter, Meter2())
    assert tap_stream(answer, meter, call_of(), chat(), lambda document: None) is False


def test_ending__however_often_it_fires__counts_once() -> None:
    """Last chunk, close and collection may all end a call."""
    meter, call = Meter2(), call_of()
    ending = Ending(cast(Meter, meter), call, chat())
    ending()
    ending()
    assert meter.settled == [None]


# -- byte taps


class Source(httpx2.SyncByteStream):
    """An HTTP stream of pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        """Note the close."""
        self.is_closed = True


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


def tap_of(source: Any, headers: dict[str, str] | None = None) -> tuple[Any, Meter2]:
    """A response whose bytes are tapped."""
    meter = Meter2()
    response = SimpleNamespace(stream=source)
    reader = bytes_reader(headers)
    tap = tap_bytes(response, Ending(cast(Meter, meter), call_of(), reader), reader)
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
    """An app that hangs up ends its call; a chunk without text shows that nothing was said yet."""
    chunk = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    tap, meter = tap_of(Source(chunk, STREAM))
    next(iter(tap))
    tap.close()
    assert [tokens(usage) for usage in meter.settled] == [(50, 0)]


def test_tap_bytes__closed_with_nothing_readable__settles_the_estimate() -> None:
    """What tells nothing may have cost anything that was held."""
    tap, meter = tap_of(Source(b"data: {}\n\n", STREAM))
    next(iter(tap))
    tap.close()
    assert meter.settled == [None]


def test_tap_bytes__dropped_without_reading__settles_when_collected() -> None:
    """Nobody closes what nobody keeps."""
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
    ending = Ending(cast(Meter, Meter2()), call_of(), reader)
    assert tap_bytes(response, ending, reader) is None
    assert response.stream is stream


def test_byte_tap__copied_or_made_empty__does_not_recurse() -> None:
    """A debugger or a copy may meet a tap that watches nothing yet."""
    with pytest.raises(AttributeError):
        _ = ByteTap()._inner
    assert isinstance(copy.copy(ByteTap()), ByteTap)


def test_tap_stream__whose_iterator_is_dropped_unread__is_left_to_its_bytes() -> None:
    """Helpers of older SDKs drop the stream object and read the response by themselves."""
    response = SimpleNamespace(stream=Source(STREAM), headers=EVENTS)
    stream = SdkStream(iter([chunk(), last()]), response)
    meter = tapped(stream)
    del stream
    gc.collect()
    assert meter.settled == []
    assert b"".join(response.stream) == STREAM
    response.stream.close()
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


# -- memory


def test_taps__20_000_chunks__keep_less_than_a_megabyte() -> None:
    """What is kept of a stream is its usage and a count of text bytes."""
    pieces = (b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n' for _ in range(20_000))
    response = SimpleNamespace(stream=Source(), headers=EVENTS)
    stream = SdkStream((json.loads(piece[6:]) for piece in pieces), response)
    meter = tapped(stream)
    raw = bytes_reader()
    tracemalloc.start()
    try:
        for number, _ in enumerate(stream):
            raw.feed_bytes(b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n')
            if number == 100:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000
    assert [tokens(usage) for usage in meter.settled] == [(50, 25_000)]


def test_openai__a_real_stream_of_many_chunks__keeps_less_than_a_megabyte(
    init: Init, fake: FakeProvider
) -> None:
    """The same through the SDK, which may keep what it likes but not because of us."""
    fake.default = Answer(chunks=3_000)
    metered = Metered(init())
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client,
        paygent_context("u1"),
    ):
        stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        next(iter(stream))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in stream:
                pass
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 1_000_000
    assert metered.only.quality == "exact"


# -- readers of the SDKs


@pytest.mark.parametrize("stream", [False, True])
def test_openai__the_responses_api__is_metered_once_at_its_price(
    init: Init, fake: FakeProvider, stream: bool
) -> None:
    """gpt-4o-mini: 100 input at 0.15 and 20 output at 0.60 per million, streamed or not."""
    metered = Metered(init())
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client,
        paygent_context("u1"),
    ):
        if not hasattr(client, "responses"):  # the oldest SDK that we support has none
            return
        answer: Any = client.responses.create(model="gpt-4o-mini", input="hi", stream=stream)
        if stream:
            assert [each.type for each in answer][-1] == "response.completed"
    event = metered.only
    assert (event.cost_total_nano, event.quality) == (27_000, "exact")


def test_counted__what_was_received__stands_in_for_what_was_not_told() -> None:
    """Text in quarters of a token per byte, rounded up; never below what the provider said."""
    known = Usage(9, 5)
    assert counted(None, 0, ESTIMATE) is None
    assert counted(None, 5, ESTIMATE) == Usage(50, 2, quality="estimated")
    assert counted(known, 4, ESTIMATE) == Usage(9, 5, quality="estimated")
    partial = counted(known, 400, ESTIMATE, input_is_known=True)
    assert partial == Usage(9, 100, quality="partial")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("abc", 3), ("é", 2), ("\U0001f600", 4), ("\ud800", 3), ("", 0), (None, 0), (5, 0)],
)
def test_text_bytes__of_a_value__is_its_utf8_length(value: Any, expected: int) -> None:
    """Lone surrogates occur in streams and must not raise."""
    assert text_bytes(value) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b"), 1),
        (("missing", "b"), None),
        (("a", "b", "c"), None),
    ],
)
def test_field__a_nested_name__is_found_or_none(names: tuple[str, ...], expected: Any) -> None:
    """SDK objects and dicts are read alike, and a gap is no error."""
    value = {"a": SimpleNamespace(b=1)}
    assert field(value, *names) == expected


def test_chat_stream__tools_and_text__are_counted_where_usage_is_missing() -> None:
    """Arguments of tool calls are output too; names are kept only where a plan prices tools."""
    tool = {"function": {"name": "search", "arguments": '{"a":1}'}}
    chunks = [
        {"choices": [{"delta": {"tool_calls": [tool, {"function": None}]}}], "model": "gpt-4o"},
        {"choices": [{"delta": {"content": "12345"}}]},
        {"choices": [{"text": "legacy"}]},
        {"choices": None},
    ]
    wanted, unwanted = ChatStream(True, False), ChatStream(False, False)
    for each in chunks:
        assert not wanted.feed(each)
        unwanted.feed(each)
    found = wanted.usage(ESTIMATE)
    assert found == Usage(50, 5, quality="estimated", model="gpt-4o", tool_calls=("search",))
    assert unwanted.usage(ESTIMATE) == found._replace(tool_calls=())


def test_chat_stream__usage_beside_text__is_taken_and_the_chunk_shown() -> None:
    """Some hosts tell the usage in a chunk that has text."""
    reader = ChatStream(False, True)
    assert not reader.feed({**chunk(), "usage": USAGE})
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)
    assert ChatStream(False, False).usage(ESTIMATE) is None


def response_event(kind: str, **response: Any) -> dict[str, Any]:
    """An event of the Responses API."""
    return {"type": kind, "response": response}


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_response_stream__however_it_ends__has_the_usage_of_its_last_event(kind: str) -> None:
    """An answer that was cut or failed was paid all the same."""
    reader = ResponseStream(True, False)
    output = [{"type": "function_call", "name": "search"}, {"type": "message"}]
    usage = {"input_tokens": 3, "output_tokens": 4}
    reader.feed(response_event(kind, usage=usage, model="gpt-4o", output=output))
    found = reader.usage(ESTIMATE)
    assert isinstance(found, Usage)
    assert (tokens(found), found.model, found.tool_calls) == ((3, 4), "gpt-4o", ("search",))


def test_response_stream__left_early__is_counted_from_its_text() -> None:
    """The model is known from the first event."""
    reader = ResponseStream(False, False)
    assert reader.usage(ESTIMATE) is None
    for event in (
        response_event("response.created", model="gpt-4o-mini"),
        {"type": "response.output_text.delta", "delta": "12345"},
        {"type": None},
        {"type": "response.in_progress"},
    ):
        assert reader.feed(event) is None
    expected = Usage(50, 2, quality="estimated", model="gpt-4o-mini")
    assert reader.usage(ESTIMATE) == expected


def test_read_response__without_usage_or_tools__is_none_or_plain() -> None:
    """Tools are looked for only where a plan prices them."""
    assert read_response({"model": "m"}, True) is None
    plain = read_response({"usage": {"input_tokens": 1, "output_tokens": 2}}, False)
    assert tokens(plain) == (1, 2)


def message_event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of Anthropic's messages."""
    return {"type": kind, **fields}


def test_message_stream__whole__takes_the_last_word_on_each_field() -> None:
    """Fields are overwritten, never added, and tools kept where a plan prices them."""
    reader = MessageStream(True, False)
    for event in (
        message_event("message_start", message={"model": "claude-x", "usage": {
            "input_tokens": 10, "output_tokens": 1}}),
        message_event("content_block_start", content_block={"type": "tool_use", "name": "search"}),
        message_event("content_block_start", content_block={"type": "text"}),
        message_event("content_block_delta", delta={"text": "abcd", "partial_json": "{}"}),
        message_event("message_delta", usage={"output_tokens": 7}),
        message_event("message_stop"),
    ):  # fmt: skip
        assert reader.feed(event) is None
    found = reader.usage(ESTIMATE)
    assert found is not None
    assert (tokens(found), found.model, found.tool_calls) == ((10, 7), "claude-x", ("search",))
    assert found.quality == "exact"


def test_message_stream__without_any_usage__is_counted_or_unknown() -> None:
    """A stream that told nothing is estimated from its text, or not known at all."""
    reader = MessageStream(False, False)
    reader.feed(message_event("message_start", message={}))
    reader.feed(message_event("message_delta", usage=None))
    assert reader.usage(ESTIMATE) is None
    reader.feed(message_event("content_block_delta", delta={"thinking": "12345"}))
    found = reader.usage(ESTIMATE)
    assert found is not None
    assert (tokens(found), found.quality) == ((50, 2), "estimated")


def test_read_message__with_tools__names_them() -> None:
    """Only tool blocks with a name count."""
    content = [{"type": "tool_use", "name": "a"}, {"type": "text"}, {"type": "tool_use"}]
    usage = {"input_tokens": 1, "output_tokens": 2}
    found = read_message({"usage": usage, "content": content}, True)
    assert found is not None
    assert found.tool_calls == ("a",)
    assert read_message({}, True) is None


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


# -- files of JSON lines


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
    assert reader.usage(ESTIMATE) == Deferred("messages.batch:b")  # not at its end yet
    reader.end()
    found = reader.usage(ESTIMATE)
    assert isinstance(found, Deferred)
    assert [tokens(usage) for usage in found.usages or ()] == [(6, 8)]


def test_bytes_reader__an_odd_line__does_not_cost_the_others() -> None:
    """It is told of once, and the rest is read."""
    reader = results_reader()
    with pytest.raises(ValueError, match="Expecting value"):
        reader.feed_bytes(b"odd\n" + LINES + b"\n")
    reader.end()
    found = reader.usage(ESTIMATE)
    assert isinstance(found, Deferred)
    assert [tokens(usage) for usage in found.usages or ()] == [(6, 8)]


def test_batch_results__large_requests__stand_alone() -> None:
    """Small ones are summed, so that memory does not grow with the batch; large ones may be in
    another price tier.
    """
    reader = BatchResults(False, False, ref="r")
    for input_tokens in (1, 2, 100_000, 32_768, 32_769):
        message = {"model": "m", "usage": {"input_tokens": input_tokens, "output_tokens": 1}}
        reader.feed({"result": {"type": "succeeded", "message": message}})
    for line in ({"result": {"type": "errored"}}, {}, None):
        reader.feed(line)
    reader.end()
    usages = reader.usage(ESTIMATE).usages or ()
    assert [(usage.input_tokens, usage.largest_input_tokens) for usage in usages] == [
        (32_771, 32_768),
        (100_000, -1),
        (32_769, -1),
    ]
    assert {usage.tier for usage in usages} == {"batch"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"requests": [{"params": {"model": "m", "max_tokens": 5, "messages": ["a"]}},
                       {"params": {"model": "n", "max_tokens": 7, "system": "s"}}]},
         ({"model": "m", "messages": [["a"], "s"], "max_tokens": 12}, 2)),
        ({"requests": [{"params": None}, "odd", {"params": {"max_tokens": "x"}}]},
         ({"model": None, "messages": [], "max_tokens": 0}, 1)),
        ({"requests": "odd"}, ({"model": None, "messages": [], "max_tokens": 0}, 1)),
        ({}, ({"model": None, "messages": [], "max_tokens": 0}, 1)),
    ],
)  # fmt: skip
def test_view_batch__many_requests__are_as_large_as_all_of_them(body: Any, expected: Any) -> None:
    """A batch is gated as a whole: its texts and its bounds on output together."""
    assert view_batch(body) == expected
