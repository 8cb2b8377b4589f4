"""Streams that go unbilled, are billed too much, or leave something behind: what users of other
products met.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.coverage import CHAT, MESSAGE
from tests.instrument.shapes import Metered, drain

from paygent import (
    ModelLimitConfig,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.metering import meter as meter_module
from paygent.client.metering.call import Call
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

LONG = Answer(text="four " * 99 + "four", chunk_delay_s=0.0005)


def leave(stream: Any, events: int) -> None:
    """Read some events of a stream and hang up."""
    for number, _ in enumerate(stream, 1):
        if number == events:
            break
    stream.close()


def test_f__a_client_that_hangs_up__is_billed_for_what_came(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Disconnecting before the end bypassed the bill: 20 words were free, again and again."""
    fake.default = LONG
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.001))
    metered = Metered(pg)
    with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded):
        for _ in range(50):
            leave(client.chat.completions.create(**CHAT, stream=True, max_tokens=30), 21)
    assert {event.quality for event in metered.events} == {"estimated"}
    assert {event.output_tokens for event in metered.events} == {25}
    assert pg.get_usage("u1").period_cost_nano >= 1_000_000 - 312_500


def test_f__a_partial_stream__costs_more_than_nothing(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """The row of an interrupted stream was written at a price of $0."""
    fake.default = LONG
    metered = Metered(init())
    leave(claude.messages.create(**MESSAGE, stream=True), 12)  # two events, then ten words
    event = metered.only
    assert (event.quality, event.input_tokens, event.output_tokens) == ("partial", 100, 13)
    assert event.cost_total_nano == 100 * 2_000 + 13 * 10_000


def test_f__the_placeholder_of_the_first_event__is_not_the_output(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Anthropic's first event says one output token; a cut stream was billed for that one."""
    fake.default = Answer(text=LONG.text, cut_after=52)
    metered = Metered(init())
    with pytest.raises(Exception, match=r"peer closed|closed connection|incomplete"):
        drain(claude.messages.create(**MESSAGE, stream=True))
    assert (metered.only.quality, metered.only.output_tokens) == ("partial", 63)


@pytest.mark.parametrize("streams", [False, True])
def test_f__a_usage_of_zero__stays_zero(
    streams: bool, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """What the provider says was free, such as a hit of its own cache, is not estimated."""
    fake.default = Answer(tokens=Tokens(input=0, output=0))
    metered = Metered(init())
    answer: Any = client.chat.completions.create(**CHAT, stream=streams)
    if streams:
        drain(answer)
    event = metered.only
    assert (event.total_tokens, event.cost_total_nano, event.quality) == (0, 0, "exact")


def test_f__a_stream_without_a_usage__is_counted_from_its_text(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """A host that sends no usage chunk made every stream free."""
    fake.default = Answer(text=LONG.text, without_usage=True)
    metered = Metered(init())
    drain(client.chat.completions.create(**CHAT, stream=True))
    event = metered.only
    assert (event.quality, event.output_tokens) == ("estimated", 125)
    assert event.cost_total_nano == 5 * 2_500 + 125 * 10_000


async def test_f__a_call_that_is_cancelled_while_it_waits__is_billed(
    init: Init, fake: FakeProvider
) -> None:
    """A cancelled request without a stream left no row at all."""
    fake.default = Answer(delay_s=5)
    pg = init()
    metered = Metered(pg)
    async with openai.AsyncOpenAI(
        api_key="k", base_url=fake.openai_url, max_retries=0
    ) as async_client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                async_client.chat.completions.create(**CHAT, max_tokens=50), timeout=0.2
            )
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.quality, event.output_tokens) for event in events] == [("estimated", 50)]
    assert events[0].cost_total_nano == 5 * 2_500 + 50 * 10_000


def test_f__streams_with_one_and_the_same_id__are_all_counted(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Rows were keyed by the id in the chunks, which some hosts leave empty: only the first was
    kept. The fake gives every answer the same id.
    """
    pg = init()
    metered = Metered(pg)
    ids = set()
    for _ in range(3):
        chunks = drain(client.chat.completions.create(**CHAT, stream=True))
        ids |= {chunk.id for chunk in chunks}
    assert len(ids) == 1
    assert len(metered.events) == 3
    assert pg.report(by="model")[0].calls == 3


def test_f__a_stream__moves_the_limit_on_tokens(
    init: Init, fake: FakeProvider, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    """Streams committed 0 tokens to the limiter, so that nothing was ever refused."""
    pg = init()
    limit = ModelLimitConfig(max_tokens_per_period=300)
    plan = PlanConfig(model_limits={"gpt-4o": limit, "claude-sonnet-5-5": limit})
    pg.configure_plan("default", plan)
    starts: tuple[Callable[[], Any], ...] = (
        lambda: client.chat.completions.create(**CHAT, stream=True, max_tokens=20),
        lambda: claude.messages.create(**{**MESSAGE, "max_tokens": 20}, stream=True),
    )
    for start in starts:
        with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded):
            for _ in range(5):
                drain(start())
    assert pg.get_usage("u1").period_tokens_by_model == {
        "gpt-4o": 360,
        "claude-sonnet-5-5": 360,
    }


def test_f__a_stream_that_holds__is_room_for_nobody_else_until_it_ends(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """The permit was given back when the stream began, not when it ended."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.001, contention_wait_s=0))
    with paygent_context(user_id="u1"):
        stream = client.chat.completions.create(**CHAT, stream=True, max_tokens=95)
        assert pg.get_usage("u1").reserved_cost_nano == 962_500
        drain(stream)
        assert pg.get_usage("u1").reserved_cost_nano == 0


def test_f__after_a_stream__nothing_of_it_is_left(
    init: Init, fake: FakeProvider, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One span leaked for every stream; here each call is gone when its stream is."""
    pg = init()
    alive: weakref.WeakSet[Call] = weakref.WeakSet()

    class Watched(Call):
        """A call that can be watched."""

        __slots__ = ("__weakref__",)

        def __init__(self) -> None:
            alive.add(self)

    monkeypatch.setattr(meter_module, "Call", Watched)
    for way in ("whole", "left", "dropped"):
        stream = client.chat.completions.create(**CHAT, stream=True)
        if way == "whole":
            drain(stream)
        elif way == "left":
            leave(stream, 3)
        del stream
    gc.collect()
    pg.flush()
    assert pg.health()["calls_in_flight"] == 0
    gc.collect()
    assert len(alive) == 0
