"""LiteLLM's streams, on a stand-in of its shape: whatever their class, read once."""

from __future__ import annotations

import asyncio
import gc
import json
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered, run_inside_lock
from tests.unit.client.instrument.litellm.litellm_stand_in import (
    ANSWER_NANO,
    CALL,
    SENDS,
    TOLD,
    Init,
    Stream,
    placed,
    started,
)

from paygent import Paygent, PlanConfig
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider


@pytest.fixture
def pg(init: Init, litellm: Any) -> Iterator[Paygent]:
    """A Paygent with a user who may spend nothing."""
    yield from started(init)


def test_litellm__a_stream__settles_at_its_end_from_what_litellm_keeps(
    pg: Paygent, litellm: Any
) -> None:
    """The application sees the same chunks; a tool that it did not ask for is not counted."""
    metered = Metered(pg)
    stream = litellm.stream(TOLD)
    litellm.acts.append(lambda: stream)
    assert litellm.completion(**CALL, stream=True) is stream
    assert len(list(stream)) == 3
    assert (metered.only.cost_total_nano, metered.only.quality) == (ANSWER_NANO, "exact")


async def test_litellm__an_async_stream__settles_at_its_end(pg: Paygent, litellm: Any) -> None:
    """The same, awaited."""
    metered = Metered(pg)
    litellm.acts.append(lambda: litellm.stream(TOLD))
    assert len([chunk async for chunk in await litellm.acompletion(**CALL)]) == 3
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.cost_total_nano, each.quality) for each in events] == [(ANSWER_NANO, "exact")]


@pytest.mark.parametrize("way", ["close", "aclose", "drop", "error"])
async def test_litellm__a_stream_that_ends_early__settles_what_was_received(
    way: str, pg: Paygent, litellm: Any
) -> None:
    """Closed, dropped or broken: estimated from its text, once."""
    metered = Metered(pg)
    error = ValueError("broke") if way == "error" else None
    litellm.acts.append(lambda: litellm.stream(None, error))
    stream = litellm.completion(**CALL)
    next(stream)
    if way == "close":
        assert stream.close() == "closed"
    elif way == "aclose":
        assert await stream.aclose() == "closed"
    elif way == "error":
        with pytest.raises(ValueError, match="broke"):
            next(stream)
    del stream
    gc.collect()
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.output_tokens, each.quality) for each in events] == [(2, "estimated")]
    assert pg.health()["calls_in_flight"] == 0


async def test_litellm__an_async_stream_that_breaks__settles_and_raises(
    pg: Paygent, litellm: Any
) -> None:
    """The exception arrives."""
    litellm.acts.append(lambda: litellm.stream(None, ValueError("broke")))
    stream = await litellm.acompletion(**CALL)
    with pytest.raises(ValueError, match="broke"):
        _ = [chunk async for chunk in stream]
    assert pg.health()["calls_in_flight"] == 0


def test_litellm__an_async_step_closed_inside_one_of_our_locks__ends_where_none_is_held(
    pg: Paygent, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may close a suspended step; to settle there would deadlock."""

    @types.coroutine
    def pause(stream: Any) -> Iterator[None]:
        yield

    metered = Metered(pg)
    pg.get_usage("u1")
    monkeypatch.setattr(litellm.stream, "__anext__", pause)
    stream = litellm.stream()
    litellm.acts.append(lambda: stream)
    litellm.completion(**CALL, stream=True)
    step = stream.__anext__()
    step.send(None)
    assert run_inside_lock(pg, "u1", step.close) > 0
    assert metered.only.quality == "estimated"
    assert pg.health()["calls_in_flight"] == 0


def test_litellm__a_stream_with_early_usage__is_partial_where_it_was_left(
    pg: Paygent, litellm: Any
) -> None:
    """Anthropic reports its input at once, and the output as it goes."""
    metered = Metered(pg)
    stream = litellm.stream()
    litellm.acts.append(lambda: stream)
    litellm.completion(**CALL)
    next(stream)
    stream.chunks.append(SimpleNamespace(model="gpt-4o", usage={**TOLD, "completion_tokens": 1}))
    stream.close()
    assert (metered.only.output_tokens, metered.only.quality) == (2, "partial")


def test_litellm__streams_of_others__are_left_alone(pg: Paygent, litellm: Any) -> None:
    """A stream of no metered call: sync, async, closed."""
    assert len(list(litellm.stream())) == 3
    assert litellm.stream().close() == "closed"

    async def read() -> int:
        stream = litellm.stream()
        count = len([chunk async for chunk in stream])
        await stream.aclose()
        return count

    assert asyncio.run(read()) == 3


@pytest.fixture
def one_at_a_time(pg: Paygent) -> Iterator[None]:
    """A user with room for one call in flight, and no automatic garbage collection."""
    pg.configure_plan("narrow", PlanConfig(max_spend_per_period=0.0004, contention_wait_s=9))
    pg.assign_plan("u1", "narrow")
    before = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*before)


def cyclic(litellm: Any, usage: Any = None) -> Any:
    """A stream that only the collector frees, as LiteLLM's are."""
    made = litellm.stream(usage)
    made.itself = made
    return made


def test_litellm__a_stream_whose_loop_is_left__does_not_keep_the_next_call_out(
    one_at_a_time: None, pg: Paygent, litellm: Any
) -> None:
    """It is settled when the loop is left, long before the collector frees the stream."""
    for _ in range(2):
        litellm.acts.append(lambda: cyclic(litellm))
        for _chunk in litellm.completion(**CALL):
            break
    assert len(litellm.seen) == 2


async def test_litellm__an_async_stream_whose_loop_is_left__holds_nothing(
    one_at_a_time: None, pg: Paygent, litellm: Any
) -> None:
    """It is settled at once; reading on corrects it."""
    metered = Metered(pg)
    stream = cyclic(litellm, TOLD)
    litellm.acts.append(lambda: stream)
    async for _chunk in await litellm.acompletion(**CALL):
        break
    assert pg.health()["calls_in_flight"] == 0
    assert len([chunk async for chunk in stream]) == 2
    events = await asyncio.to_thread(lambda: metered.events)
    assert sum(event.cost_total_nano for event in events) == ANSWER_NANO


def test_litellm__a_loop_over_a_stream__shows_what_the_stream_has(
    pg: Paygent, litellm: Any
) -> None:
    """The object is the application's, and so is the iterator that its class makes itself."""

    class Generating(ResponsesIterator):
        def __iter__(self) -> Any:
            yield from ("a", "b")

    litellm.acts += [lambda: litellm.stream(), lambda: Generating([])]
    stream = litellm.completion(**CALL)
    assert iter(stream).chunks is stream.chunks
    assert list(litellm.completion(**CALL)) == ["a", "b"]


# -- other classes


def event(kind: str, **fields: Any) -> Any:
    """An event of a stream of responses."""
    return SimpleNamespace(type=f"response.{kind}", **fields)


def completed() -> Any:
    """The last event of a stream of responses."""
    usage = {"input_tokens": 100, "output_tokens": 20}
    return event("completed", response={"model": "gpt-4o", "usage": usage})


class ResponsesIterator(Stream):
    """The stream of a provider that has the Responses API."""

    def __next__(self) -> Any:
        return self._next(StopIteration)

    async def __anext__(self) -> Any:
        return self._next(StopAsyncIteration)


class CompletionIterator(ResponsesIterator):
    """The stream of one that has not: another way to go on, which begins with its base's."""

    def __next__(self) -> Any:
        return super().__next__()

    def __anext__(self) -> Any:
        return self._on()

    async def _on(self) -> Any:
        return await super().__anext__()


@pytest.mark.parametrize("kind", [ResponsesIterator, CompletionIterator])
async def test_litellm__streams_of_responses__are_read_once_whatever_their_class(
    kind: Any, pg: Paygent, litellm: Any
) -> None:
    """To the end, and left early; after another class of the same family had its tap."""
    metered = Metered(pg)

    def chunks() -> list[Any]:
        return [event("output_text.delta", delta="Hello wo"), completed()]

    ways = [ResponsesIterator(chunks()), kind(chunks()), kind(chunks()), kind(chunks())]
    for made in ways:
        litellm.acts.append(lambda made=made: made)
        assert litellm.responses("Hi.", "openai/gpt-4o", stream=True) is made
    assert len(list(ways[0])) == 2
    assert len([chunk async for chunk in ways[1]]) == 2
    assert len(list(ways[2])) == 2
    next(ways[3])
    ways[3].close()
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.output_tokens, each.quality) for each in events] == [
        (20, "exact"),
        (20, "exact"),
        (20, "exact"),
        (2, "estimated"),
    ]


class TextCompletionStreamWrapper:
    """A stream around another one, which shows no usage."""

    def __init__(self, within: Any, provider: str = "openai") -> None:
        self.completion_stream = within
        self.custom_llm_provider = provider

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return SimpleNamespace(choices=[{"text": next(self.completion_stream) and "Hello"}])


@pytest.mark.parametrize("left_early", [False, True])
def test_litellm__a_stream_around_one_that_is_sent_for_when_it_is_read__counts_once(
    left_early: bool, pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """The SDK's hook lets it pass then too, and the usage is in the chunks of the inner stream."""
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def send() -> Any:
            client.completions.create(model="gpt-4o", prompt="Hi.", stream=True)
            yield from litellm.stream(TOLD)

        litellm.acts.append(lambda: TextCompletionStreamWrapper(placed(SENDS, send)()))
        stream = litellm.text_completion("Hi.", "openai/gpt-4o", stream=True)
        next(stream)
        if not left_early:
            assert len(list(stream)) == 2
        del stream
        gc.collect()
    assert len(fake.requests) == 1
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}
    expected = (2, "estimated") if left_early else (20, "exact")
    assert (metered.only.output_tokens, metered.only.quality) == expected


def test_litellm__a_stream_out_of_its_cache__costs_nothing(pg: Paygent, litellm: Any) -> None:
    """LiteLLM says so by the provider that it names, also of the stream within."""
    metered = Metered(pg)
    cached = TextCompletionStreamWrapper(iter("ab"), "cached_response")
    for made in (cached, TextCompletionStreamWrapper(cached)):
        litellm.acts.append(lambda made=made: made)
        litellm.text_completion("Hi.", "openai/gpt-4o", stream=True)
    assert (metered.events, pg.health()["calls_in_flight"]) == ([], 0)


def test_litellm__a_stream_of_anthropics_messages__is_read_from_its_bytes(
    pg: Paygent, litellm: Any
) -> None:
    """LiteLLM hands the events on as they are sent, or as objects."""
    metered = Metered(pg)
    begun = {"model": "claude-sonnet-4-5", "usage": {"input_tokens": 100, "output_tokens": 1}}
    told = [
        {"type": "message_start", "message": begun},
        {"type": "message_delta", "usage": {"output_tokens": 20}},
    ]
    sent = [f"event: x\ndata: {json.dumps(each)}\n\n".encode() for each in told]
    for chunks in (told, sent):
        litellm.acts.append(lambda chunks=chunks: ResponsesIterator(chunks))
        list(litellm.anthropic_messages(model="anthropic/claude-sonnet-4-5"))
    assert [(each.input_tokens, each.output_tokens) for each in metered.events] == [(100, 20)] * 2


def test_litellm__a_stream_that_takes_no_tap__is_said_and_estimated(
    pg: Paygent, litellm: Any
) -> None:
    """An object without room for one."""

    class Slots:
        __slots__ = ()

        def __next__(self) -> Any:
            raise StopIteration

    metered = Metered(pg)
    litellm.acts.append(Slots)
    litellm.completion(**CALL)
    assert metered.only.quality == "estimated"
    assert diagnostics.counts["stream_untapped"] == 1


def test_litellm__a_stream_of_the_applications_provider__counts_by_what_it_calls(
    pg: Paygent, litellm: Any, fake: FakeProvider
) -> None:
    """It is sent for when it is read, and then the call around it gives up."""
    metered = Metered(pg)
    litellm.custom_provider_map = [{"provider": "mine"}]
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def send() -> Any:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            yield "Hello"

        litellm.acts.append(lambda: TextCompletionStreamWrapper(send()))
        assert len(list(litellm.completion(model="mine/agent", stream=True))) == 1
    assert (metered.only.model, metered.only.output_tokens) == ("gpt-4o", 20)
    assert pg.health()["calls_in_flight"] == 0
