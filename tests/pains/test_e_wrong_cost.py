"""Costs that are not what the provider bills: what users of other products met."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.coverage import CHAT, MESSAGE
from tests.instrument.routing import through
from tests.instrument.shapes import Metered, drain

from paygent import (
    ModelCostRate,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    UsageEvent,
    paygent_context,
)
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]


def cost(event: UsageEvent) -> tuple[int, str]:
    """Nano-dollars, and how far they can be trusted."""
    return event.cost_total_nano, event.quality


# -- cached tokens counted twice

GPT_CACHED = Answer(tokens=Tokens(input=1_000, output=10, cached=900))
GPT_CACHED_NANO = 100 * 2_500 + 900 * 1_250 + 10 * 10_000  # gpt-4o: 2.50, cached 1.25, out 10
CLAUDE_CACHED = Answer(tokens=Tokens(input=1_000, output=10, cached=800, cache_write=100))
CLAUDE_CACHED_NANO = 100 * 2_000 + 800 * 100 + 100 * 2_500 + 10 * 10_000
"""claude-sonnet-5-5: 2.00, cached 0.10, written 2.50, out 10.00."""


@pytest.mark.parametrize("streams", [False, True])
def test_e__cached_tokens_that_are_part_of_the_input__are_not_added_to_it(
    streams: bool, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """OpenAI's input includes them; they were billed on top, some only when streaming."""
    metered = Metered(init())
    fake.default = GPT_CACHED
    answer: Any = client.chat.completions.create(**CHAT, stream=streams)
    if streams:
        drain(answer)
    assert cost(metered.only) == (GPT_CACHED_NANO, "exact")
    assert (metered.only.input_tokens, metered.only.cached_input_tokens) == (1_000, 900)


@pytest.mark.parametrize("streams", [False, True])
def test_e__cached_tokens_that_are_beside_the_input__are_added_once(
    streams: bool, init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Anthropic's input excludes them; when streaming, both ends of the stream tell the same."""
    metered = Metered(init())
    fake.default = CLAUDE_CACHED
    answer: Any = claude.messages.create(**MESSAGE, stream=streams)
    if streams:
        drain(answer)
    event = metered.only
    assert cost(event) == (CLAUDE_CACHED_NANO, "exact")
    assert (event.input_tokens, event.cached_input_tokens, event.cache_write_tokens) == (
        1_000,
        800,
        100,
    )


def test_e__a_gateway_that_splits_the_input_at_the_end__is_not_counted_twice(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """Some put the whole prompt into the first event and tell the cached part in the last."""
    from paygent.client.instrument.anthropic.answers import MessageStream

    reader = MessageStream(False, False)
    whole = {"input_tokens": 1_000, "output_tokens": 1}
    reader.feed({"type": "message_start", "message": {"model": "m", "usage": whole}})
    split = {"input_tokens": 200, "cache_read_input_tokens": 800, "output_tokens": 10}
    reader.feed({"type": "message_delta", "usage": split})
    from paygent.core.estimate import Estimate

    usage = reader.usage(Estimate(0, 0))
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (1_000, 800, 10)


def test_e__an_hour_of_cache__is_dearer_than_five_minutes_of_it(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """claude-sonnet-5-5 writes at 2.50 for five minutes and at 4.00 for an hour."""
    metered = Metered(init())
    fake.default = Answer(tokens=Tokens(input=300, output=0, cache_write=100, cache_write_long=100))
    drain(claude.messages.create(**MESSAGE, stream=True))
    assert cost(metered.only) == (100 * 2_000 + 100 * 2_500 + 100 * 4_000, "exact")


def test_e__cached_tokens_of_another_host__cost_what_that_host_asks(
    init: Init, fake: FakeProvider
) -> None:
    """Gemini through OpenAI's SDK, gemini-2.5-flash 0.30, cached 0.03, out 2.50, thinking too."""
    metered = Metered(init())
    fake.default = Answer(
        tokens=Tokens(input=1_000, output=10, cached=900, extra={"total_tokens": 1_110})
    )
    with openai.OpenAI(
        api_key="k",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        http_client=through(fake, openai, is_async=False),
    ) as gemini:
        gemini.chat.completions.create(**{**CHAT, "model": "gemini-2.5-flash"})
    event = metered.only
    assert cost(event) == (100 * 300 + 900 * 30 + 110 * 2_500, "exact")
    assert (event.provider, event.reasoning_tokens) == ("google", 100)


def test_e__an_answer_from_the_applications_own_cache__is_no_call(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """What did not leave the application was not billed."""
    metered = Metered(init())
    cache: dict[str, Any] = {}
    for _ in range(3):
        cache.get("hello") or cache.setdefault("hello", client.chat.completions.create(**CHAT))
    assert len(fake.requests) == len(metered.events) == 1


# -- tiers


@pytest.mark.parametrize(
    ("tier", "nano"),
    [
        ("default", 100 * 1_250 + 20 * 10_000),
        ("flex", 100 * 625 + 20 * 5_000),
        ("priority", 100 * 2_500 + 20 * 20_000),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_e__a_service_tier__costs_its_own_price_thinking_included(
    tier: str, nano: int, streams: bool, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Flex was billed twice over, and the thinking of priority calls at the standard price."""
    metered = Metered(init())
    fake.default = Answer(tokens=Tokens(service_tier=tier, reasoning=15))
    answer: Any = client.chat.completions.create(**{**CHAT, "model": "gpt-5"}, stream=streams)
    if streams:
        drain(answer)
    assert cost(metered.only) == (nano, "exact")


@pytest.mark.parametrize(("input_tokens", "nano_each"), [(272_000, 2_500), (272_001, 5_000)])
def test_e__a_long_input__costs_its_tier_for_every_token(
    input_tokens: int, nano_each: int, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """gpt-5.4 doubles above 272,000 tokens of input, for the whole call."""
    metered = Metered(init())
    fake.default = Answer(tokens=Tokens(input=input_tokens, output=0))
    client.chat.completions.create(**{**CHAT, "model": "gpt-5.4"})
    assert cost(metered.only) == (input_tokens * nano_each, "exact")


def test_e__a_batch_of_many_inputs__does_not_reach_the_tier_of_one_long_one(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Ten requests of 100,000 tokens are a million in all, and none is long; since the batch does
    not tell how large each was, that is said.
    """
    pg = init()
    metered = Metered(pg)
    begun = client.batches.create(
        input_file_id="f", endpoint="/v1/responses", completion_window="24h"
    )
    fake.script(Answer(model="gpt-5.4", tokens=Tokens(input=1_000_000, output=0)))
    client.batches.retrieve(begun.id)
    assert cost(metered.events[-1]) == (1_000_000 * 1_250, "estimated")


def test_e__fast_and_regional_answers__cost_more(
    init: Init, fake: FakeProvider, claude: anthropic.Anthropic
) -> None:
    """claude-opus-5 at 5 and 25: twice that when fast, a tenth more where it stays in the US."""
    metered = Metered(init())
    body = {**MESSAGE, "model": "claude-opus-5"}
    fake.script(Answer(tokens=Tokens(speed="fast")), Answer(tokens=Tokens(inference_geo="us")))
    claude.messages.create(**body)
    claude.messages.create(**body)
    costs = [cost(event) for event in metered.events]
    assert costs == [(2 * 1_000_000, "exact"), (1_100_000, "exact")]


# -- prices that nobody has


def test_e__a_new_model__is_not_free_in_silence(
    init: Init, fake: FakeProvider, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """It ran at $0.00 all day and no alert fired: it is marked, said, counted and reported."""
    pg = init()
    metered = Metered(pg)
    for _ in range(2):
        client.chat.completions.create(**{**CHAT, "model": "gpt-99"})
    assert [cost(event) for event in metered.events] == [(0, "unpriced")] * 2
    assert [event.total_tokens for event in metered.events] == [120, 120]
    said = [each for each in caplog.records if "No price for model gpt-99" in each.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING
    assert pg.health()["counts"]["unpriced:gpt-99"] == 2
    assert pg.report(by="model")[0].doubtful_calls == 2


def test_e__a_new_model_in_a_plan_that_takes_the_dearest_price__reaches_its_cap(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Caps and alerts work on models that no list has yet, where the plan says how."""
    pg = init()
    rates = {"gpt-4o": ModelCostRate.per_million(2.5, 10), "o1": ModelCostRate.per_million(15, 60)}
    plan = PlanConfig(max_spend_per_period=0.002, cost_rates=rates, unknown_model="dearest")
    pg.configure_plan("default", plan)
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        client.chat.completions.create(**{**CHAT, "model": "gpt-99", "max_tokens": 20})
        assert cost(metered.only) == (100 * 15_000 + 20 * 60_000, "estimated")
        with pytest.raises(PaygentLimitExceeded):
            client.chat.completions.create(**{**CHAT, "model": "gpt-99", "max_tokens": 20})


@pytest.mark.parametrize(
    ("name", "nano"),
    [
        ("gpt-4o-2024-11-20", 450_000),
        ("gpt-4o-mini-2024-07-18", 27_000),
        ("openai/gpt-4o", 450_000),
        ("GPT-4o", 450_000),
        ("chatgpt-4o-latest", 800_000),  # a model of its own, at 5 and 15
        ("gpt-5-2025-08-07", 325_000),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", 54_000),  # at 0.30 and 1.20
    ],
)
def test_e__a_name_with_a_date_or_a_suffix__has_the_price_of_its_model(
    name: str, nano: int, init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """A third of the names in use had a date or a suffix, and with it no price."""
    metered = Metered(init())
    client.chat.completions.create(**{**CHAT, "model": name})
    assert cost(metered.only) == (nano, "exact")


def test_e__a_catalogue_that_cannot_be_read__is_loud_and_never_a_stale_one(
    init: Init,
    fake: FakeProvider,
    client: openai.OpenAI,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Any,
) -> None:
    """One brace too many in a price table had everything priced by an old copy, in silence."""
    from paygent.prices import catalogue

    def broken() -> Any:
        raise ValueError("one { too many")

    monkeypatch.setattr(catalogue, "load_snapshot", broken)
    swallowed.expect("catalogue")
    pg = init()
    metered = Metered(pg)
    client.chat.completions.create(**CHAT)
    assert cost(metered.only) == (0, "unpriced")
    assert pg.health()["counts"]["catalogue"] == 1


def test_e__a_price_of_a_million_written_as_one_of_a_thousand__is_undone(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """A slip of the unit blocked all users for good: there is a constructor in the unit of the
    price lists, and what was booked wrongly is corrected.
    """
    assert ModelCostRate.per_million(2.5, 10) == ModelCostRate(0.0025, 0.01)
    pg = init()
    wrong = PlanConfig(max_spend_per_period=1, cost_rates={"gpt-4o": ModelCostRate(2.5, 10)})
    pg.configure_plan("default", wrong)
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        client.chat.completions.create(**{**CHAT, "max_tokens": 20})
        event = metered.only
        assert event.cost_total_nano == 450_000_000
        right = {"gpt-4o": ModelCostRate.per_million(2.5, 10)}
        pg.configure_plan("default", PlanConfig(max_spend_per_period=1, cost_rates=right))
        pg.record_event("u1", corrects=event.id, cost=-0.44955)
        assert pg.get_usage("u1").period_cost_nano == 450_000
        client.chat.completions.create(**{**CHAT, "max_tokens": 20})
    assert pg.get_usage("u1").period_cost_nano == 900_000


# -- one call counted by two layers


def test_e__two_layers_around_one_call__count_it_once(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """Instrumented twice, wrapped by hand, and read through the SDK: one call."""
    pg = init()
    pg.instrument()
    pg.instrument()
    metered = Metered(pg)
    pg.wrap(lambda: client.chat.completions.create(**CHAT), "u1", model="gpt-4o")
    assert cost(metered.only) == (450_000, "exact")


def test_e__every_finalizer_of_a_stream__counts_it_once(
    init: Init, fake: FakeProvider, client: openai.OpenAI
) -> None:
    """The last chunk, the end of `with`, a close and the garbage collector see the same call."""
    metered = Metered(init())
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        drain(stream)
    stream.close()
    del stream
    gc.collect()
    assert cost(metered.only) == (450_000, "exact")
