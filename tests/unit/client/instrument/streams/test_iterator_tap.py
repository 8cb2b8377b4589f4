"""Taps of streams: every chunk passes, and the call ends once."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.streams.streams import (
    EVENTS,
    STREAM,
    USAGE,
    NotingMeter,
    Source,
    bytes_reader,
    call_of,
    chat,
    chunk,
    tokens,
)

from paygent import Paygent, paygent_context
from paygent.client.instrument.openai.answers import (
    ChatStream,
)
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.instrument.streams.iterator_tap import tap_stream
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage
from paygent.errors import PaygentLimitExceeded
from paygent.testing import Answer, FakeProvider
from paygent.types import GuardResult

Init = Callable[..., Paygent]


class Pause:
    """Suspends the coroutine that awaits it."""

    def __await__(self) -> Generator[None, None, None]:
        yield


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


def last() -> dict[str, Any]:
    """The chunk with the usage."""
    return {"model": "gpt-4o", "choices": [], "usage": USAGE}


def tapped(stream: SdkStream | LazyStream, reader: Any = None) -> NotingMeter:
    """A stream with both taps in it."""
    meter = NotingMeter()
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


def test_tap_stream__an_async_step_collected_inside_ours__defers_the_end() -> None:
    """The step of a task that is dropped is closed at any allocation, also under a lock of ours."""

    async def chunks() -> AsyncIterator[Any]:
        await Pause()
        yield last()

    stream = SdkStream(chunks())
    meter = tapped(stream)
    step: Any = stream._iterator.__anext__()
    step.send(None)
    names: dict[str, Any] = {"__name__": "paygent.client.accounts.admission"}
    exec("def run(action):\n    action()", names)
    names["run"](step.close)
    assert (meter.settled, len(meter.deferred_ends.waiting)) == ([], 1)
    meter.deferred_ends.run()
    assert len(meter.settled) == 1


def test_tap_stream__a_usage_chunk_that_is_ours__is_kept_from_the_app() -> None:
    """Only the chunk that Paygent requested is withheld."""
    stream = SdkStream(iter([chunk(), last(), chunk("more")]))
    tapped(stream, ChatStream(False, True))
    assert list(stream) == [chunk(), chunk("more")]


async def test_tap_stream__a_usage_chunk_that_is_ours__is_kept_from_an_async_app() -> None:
    """Only the chunk that Paygent requested is withheld."""

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
    """A stream that is never read still ends its call."""
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
    """An object without an iterator cannot be tapped, and the result says so."""
    answer = object()
    meter = cast(Meter, NotingMeter())
    assert tap_stream(answer, meter, call_of(), chat(), lambda document: None) is False


def test_tap_stream__an_iterator_without_steps__is_left_alone() -> None:
    """What only has the name of an iterator is neither tapped nor changed."""
    stream = SdkStream(["odd"])
    meter = cast(Meter, NotingMeter())
    assert tap_stream(stream, meter, call_of(), chat(), lambda document: None) is False
    assert stream._iterator == ["odd"]


class LazyStream:
    """An SDK's stream object that creates its iterator on first use."""

    def __init__(self) -> None:
        self.created = 0

    @cached_property
    def _iterator(self) -> Iterator[Any]:
        self.created += 1
        return iter([chunk(), last()])

    def __iter__(self) -> Iterator[Any]:
        yield from self._iterator


def test_tap_stream__an_iterator_that_is_created_on_first_use__is_created_then() -> None:
    """Once, at the first request for a chunk, and not before."""
    stream = LazyStream()
    meter = tapped(stream)
    loop = iter(stream._iterator)
    assert stream.created == 0
    assert [next(loop), next(stream._iterator)] == [chunk(), last()]
    assert list(loop) == []
    assert stream.created == 1
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


def test_tap_stream__a_loop_that_is_left__settles_what_it_saw() -> None:
    """Whether it has taken a step or not."""
    for steps, expected in ((0, None), (2, (50, 3))):
        stream = SdkStream(iter([chunk(), chunk(), last()]))
        meter = tapped(stream)
        loop = iter(stream._iterator)
        for _ in range(steps):
            next(loop)
        assert meter.settled == []
        del loop
        assert [tokens(usage) for usage in meter.settled] == [expected]


class RefusingReader(BrokenReader):
    """A reader that raises what no guard may swallow."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def feed(self, chunk: Any) -> bool | None:
        """Raise it."""
        raise self.error

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return nothing."""
        return None


UNGUARDED = [
    KeyboardInterrupt(),
    PaygentLimitExceeded(GuardResult("hard_gate", "total_spend", message="no")),
]


@pytest.mark.parametrize("error", UNGUARDED)
def test_tap_stream__what_no_guard_may_swallow__passes(error: BaseException) -> None:
    """Ctrl-C and a refusal arrive, also where a chunk is read."""
    stream = SdkStream(iter([chunk()]))
    tapped(stream, RefusingReader(error))
    with pytest.raises(type(error)):
        next(stream._iterator)


@pytest.mark.parametrize("error", UNGUARDED[1:])
async def test_tap_stream__what_no_guard_may_swallow__passes_an_async_step(
    error: BaseException,
) -> None:
    """The same for async steps."""

    async def source() -> AsyncIterator[Any]:
        yield chunk()

    stream = SdkStream(source())
    tapped(stream, RefusingReader(error))
    with pytest.raises(type(error)):
        await stream._iterator.__anext__()


async def test_tap_stream__a_reader_that_fails__lets_every_async_chunk_pass(
    swallowed: Swallowed,
) -> None:
    """Our bug is counted; an async app gets its stream too."""
    swallowed.expect("stream", "usage")

    async def source() -> AsyncIterator[Any]:
        for each in (chunk(), last()):
            yield each

    stream = SdkStream(source())
    meter = tapped(stream, BrokenReader())
    assert [each async for each in stream] == [chunk(), last()]
    assert meter.settled == [None]


class CountingHeaders(dict[str, str]):
    """Headers that count how often they are read."""

    reads = 0

    def get(self, name: str, default: Any = None) -> Any:
        """Count it."""
        self.reads += 1
        return super().get(name, default)


@pytest.mark.parametrize("way", ["next", "loop"])
def test_tap_stream__once_a_chunk_is_requested__its_bytes_are_not_read(way: str) -> None:
    """The chunks are seen already; reading the bytes too would cost the time twice."""
    response = SimpleNamespace(stream=Source(), headers=EVENTS)
    stream = SdkStream(iter([chunk()]), response)
    tapped(stream)
    loop = iter(stream._iterator)
    assert response.stream.is_parsed is False
    next(stream._iterator if way == "next" else loop)
    assert response.stream.is_parsed is True


def test_tap_stream__of_parsed_chunks__does_not_read_the_headers() -> None:
    """They matter only to bytes that nothing parses, and HTTP libraries read them slowly."""
    headers = CountingHeaders(EVENTS)
    stream = SdkStream(iter([chunk(), last()]), SimpleNamespace(stream=Source(), headers=headers))
    meter = tapped(stream)
    assert list(stream) == [chunk(), last()]
    assert headers.reads == 0
    assert [tokens(usage) for usage in meter.settled] == [(3, 4)]


def test_ending__however_often_it_fires__counts_once() -> None:
    """Last chunk, close and collection may all end a call."""
    meter, call = NotingMeter(), call_of()
    ending = StreamEnd(cast(Meter, meter), call, chat())
    ending()
    ending()
    assert meter.settled == [None]


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
        next(stream)
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
