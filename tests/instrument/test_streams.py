"""Streams of the real SDKs, however they end: each settles exactly once, from what was received,
and nothing stays held.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from tests.instrument.coverage import CHAT, MESSAGE, RESPONSE
from tests.instrument.shapes import Metered

from paygent import Paygent, paygent_context
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

TEXT = Answer(text="four " * 199 + "four", chunk_delay_s=0.0005)
"""Two hundred pieces of five bytes, the last of four; each is 1.25 tokens as they are counted."""

HAS_RESPONSES = hasattr(openai.OpenAI, "responses")


class Kind(NamedTuple):
    """One kind of stream.

    Attributes:
        sdk: Whose.
        start: Starts it, with either client.
        text: Returns the text of an event, or None.
        told: The quality of one that was left, and its input (None: what was held).
    """

    sdk: str
    start: Callable[[Any], Any]
    text: Callable[[Any], str | None]
    told: tuple[str, int | None]


def _chat_text(chunk: Any) -> str | None:
    delta = chunk.choices[0].delta if chunk.choices else None
    return delta.content or None if delta is not None else None


def _delta_text(event: Any) -> str | None:
    if event.type == "response.output_text.delta":
        return str(event.delta)
    return event.delta.text if event.type == "content_block_delta" else None


KINDS = {
    "chat": Kind(
        "openai",
        lambda c: c.chat.completions.create(**CHAT, stream=True),
        _chat_text,
        ("estimated", None),
    ),
    "messages": Kind(
        "anthropic",
        lambda c: c.messages.create(**MESSAGE, stream=True),
        _delta_text,
        ("partial", 100),
    ),
}
if HAS_RESPONSES:
    KINDS["responses"] = Kind(
        "openai",
        lambda c: c.responses.create(**RESPONSE, stream=True),
        _delta_text,
        ("estimated", None),
    )

HELD_INPUT = {"chat": 5, "responses": 1}
"""What is held for the input of each request: a quarter token a byte and a fifth more."""


@pytest.fixture(params=sorted(KINDS))
def name(request: pytest.FixtureRequest) -> str:
    """A kind of stream."""
    return str(request.param)


@pytest.fixture
def clients(fake: FakeProvider) -> Iterator[dict[str, Any]]:
    """A sync client of each SDK, without retries."""
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as one,
        anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0) as other,
    ):
        yield {"openai": one, "anthropic": other}


@pytest.fixture
async def async_clients(fake: FakeProvider) -> AsyncIterator[dict[str, Any]]:
    """An async client of each SDK, without retries."""
    async with (
        openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as one,
        anthropic.AsyncAnthropic(api_key="k", base_url=fake.url, max_retries=0) as other,
    ):
        yield {"openai": one, "anthropic": other}


def tokens_of(pieces: int) -> int:
    """What so many pieces of text are counted as."""
    return -(-pieces * 5 // 4)


def assert_settled_once(
    pg: Paygent, metered: Metered, name: str, pieces: int, quality: str | None = None
) -> None:
    """Check the one event that a stream has left, and that nothing is held."""
    event = metered.only
    told, known_input = KINDS[name].told
    assert event.quality == (quality or told)
    assert event.input_tokens == (HELD_INPUT[name] if known_input is None else known_input)
    least = 1 if known_input is not None else 0  # Anthropic's first event tells one output token
    assert event.output_tokens == max(tokens_of(pieces), least)
    assert event.user_id == "u1"
    assert pg.get_usage("u1").reserved_cost_nano == 0


def read(kind: Kind, stream: Any, pieces: int) -> int:
    """Read a stream up to so many pieces of text; return how many came."""
    count = 0
    for event in stream:
        count += kind.text(event) is not None
        if count == pieces:
            break
    return count


async def read_async(kind: Kind, stream: Any, pieces: int) -> int:
    """The same for an async stream."""
    count = 0
    async for event in stream:
        count += kind.text(event) is not None
        if count == pieces:
            break
    return count


@pytest.mark.parametrize("way", ["close", "with", "drop", "error inside with"])
def test_stream__left_after_some_text__settles_what_came(
    way: str, name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """Closed, left by its `with`, by an exception, or merely dropped: what was read counts."""
    fake.default = TEXT
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        stream = kind.start(clients[kind.sdk])
    if way == "close":
        read(kind, stream, 8)
        stream.close()
        stream.close()
    elif way == "with":
        with stream:
            read(kind, stream, 8)
    elif way == "drop":
        read(kind, stream, 8)
        del stream
        gc.collect()
    else:
        with pytest.raises(RuntimeError, match="of the app"), stream:
            read(kind, stream, 8)
            raise RuntimeError("of the app")
    assert_settled_once(pg, metered, name, 8)


@pytest.mark.parametrize("way", ["close", "async with", "drop", "cancel"])
async def test_stream__left_after_some_text_by_a_task__settles_what_came(
    way: str, name: str, init: Init, fake: FakeProvider, async_clients: dict[str, Any]
) -> None:
    """The same for tasks, and for one that is cancelled while it waits for the next event."""
    fake.default = TEXT
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    reached = asyncio.Event()

    async def run() -> None:
        async with paygent_context(user_id="u1"):
            stream = await kind.start(async_clients[kind.sdk])
        if way == "close":
            await read_async(kind, stream, 8)
            await stream.close()
        elif way == "async with":
            async with stream:
                await read_async(kind, stream, 8)
        elif way == "drop":
            await read_async(kind, stream, 8)
        else:
            await read_async(kind, stream, 8)
            reached.set()
            fake.default = Answer()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    if way == "cancel":
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
    del task
    for _ in range(3):  # the loop closes what the collector has found, which frees the next
        gc.collect()
        await asyncio.sleep(0.01)
    await asyncio.to_thread(assert_settled_once, pg, metered, name, 8)


async def test_stream__cancelled_while_it_waits__settles_what_came(
    name: str, init: Init, fake: FakeProvider, async_clients: dict[str, Any]
) -> None:
    """A time-out around the reading: the cancellation arrives inside the SDK."""
    fake.default = Answer(text="four four four", chunk_delay_s=0.3)
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    async with paygent_context(user_id="u1"):
        stream = await kind.start(async_clients[kind.sdk])
    first = asyncio.Event()

    async def drain() -> None:
        async for event in stream:
            if kind.text(event) is not None:
                first.set()

    task = asyncio.create_task(drain())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(assert_settled_once, pg, metered, name, 1)


@pytest.mark.parametrize("how", ["cut", "error"])
def test_stream__broken_off_by_the_server__settles_what_came(
    how: str, name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """A connection that is cut and an error inside the stream arrive as the SDK raises them."""
    fake.default = Answer(
        text=TEXT.text,
        cut_after=20 if how == "cut" else None,
        error_after=20 if how == "error" else None,
    )
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    pieces = 0
    with paygent_context(user_id="u1"):
        stream = kind.start(clients[kind.sdk])
        raised: Exception | None = None
        try:
            for event in stream:
                pieces += kind.text(event) is not None
        except Exception as error:  # noqa: BLE001 - of two SDKs and their HTTP libraries
            raised = error
    if (name, how) == ("responses", "error"):
        assert raised is None  # there an error is an event like any other
    else:
        assert type(raised).__module__.split(".")[0] in (kind.sdk, "httpx", "httpx2")
    assert pieces > 10
    assert_settled_once(pg, metered, name, pieces)


@pytest.mark.parametrize("way", ["close", "drop"])
def test_stream__never_read__settles_what_was_held(
    way: str, name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """Nothing was seen of it, so it may have cost all that was held."""
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        stream = kind.start(clients[kind.sdk])
        held = pg.get_usage("u1").reserved_cost_nano
    if way == "close":
        stream.close()
    del stream
    gc.collect()
    event = metered.only
    assert (event.quality, event.cost_total_nano) == ("estimated", held)
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_stream__left_before_any_text__has_its_input(
    name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """The first event has come, and no word yet: that is what the call has used."""
    fake.default = TEXT
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"), kind.start(clients[kind.sdk]) as stream:
        next(iter(stream))
    assert_settled_once(pg, metered, name, 0)


def test_stream__read_on_after_its_loop_was_left__is_corrected_to_what_it_used(
    name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """`next`, a loop that is left, another loop to the end, and a close behind it."""
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"), kind.start(clients[kind.sdk]) as stream:
        next(iter(stream))
        for _ in stream:
            break
        for _ in stream:
            pass
        assert list(stream) == []
        stream.close()
    left, correction = metered.events
    # Anthropic counts the input before the first text.
    assert left.quality == ("partial" if name == "messages" else "estimated")
    assert correction.quality == "exact"
    assert correction.corrects == left.id
    assert left.input_tokens + correction.input_tokens == 100
    assert left.output_tokens + correction.output_tokens == 20
    (row,) = pg.report()
    assert (row.calls, row.input_tokens, row.output_tokens) == (1, 100, 20)
    usage = pg.get_usage("u1")
    assert usage.period_tokens_total == 120
    assert usage.period_cost_nano == left.cost_total_nano + correction.cost_total_nano


def test_stream__left_and_never_read_on__stays_as_it_was_settled(
    name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """Closing or dropping it later corrects nothing, since nothing more came."""
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        stream = kind.start(clients[kind.sdk])
        for _ in stream:
            break
        assert pg.health()["calls_in_flight"] == 0
        stream.close()
        del stream, _
    gc.collect()
    assert metered.only.quality in ("estimated", "partial")


def test_stream__of_five_thousand_chunks__takes_no_memory(
    name: str, init: Init, fake: FakeProvider, clients: dict[str, Any]
) -> None:
    """What is kept of a stream does not grow with it."""
    fake.default = Answer(chunks=5_000)
    kind, pg = KINDS[name], init()
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        stream = iter(kind.start(clients[kind.sdk]))
        count = read(kind, stream, 1_000)
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for event in stream:
                count += kind.text(event) is not None
                del event
                if count == 4_999:
                    break
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        for _ in stream:
            pass
    assert count == 4_999
    assert metered.only.quality == "exact"
    assert grown < 200_000  # 50 bytes for each
