"""Anthropic's SDK against the fake provider: messages are metered once, priced, and not changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import anthropic
import pytest
from tests.instrument.shapes import MESSAGES, Metered, drain, drain_async

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

# claude-sonnet-5, per million tokens: input 2.00, cache read 0.20, 5-minute write 2.50, 1-hour
# write 4.00, output 10.00 (Anthropic's public price list, 2026-11).
CACHED = Tokens(input=1000, output=100, cached=300, cache_write=200, cache_write_long=100)
CACHED_COST_NANO = 400 * 2_000 + 300 * 200 + 200 * 2_500 + 100 * 4_000 + 100 * 10_000


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A started Paygent."""
    return init()


@pytest.fixture
def client(pg: Paygent, fake: FakeProvider) -> Iterator[anthropic.Anthropic]:
    """A sync client of the fake provider, without retries."""
    with anthropic.Anthropic(api_key="sk-secret", base_url=fake.url, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(pg: Paygent, fake: FakeProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """An async client of the fake provider, without retries."""
    async with anthropic.AsyncAnthropic(
        api_key="sk-secret", base_url=fake.url, max_retries=0
    ) as made:
        yield made


def test_anthropic__a_message__is_metered_once_with_cache_reads_and_writes(
    pg: Paygent, client: anthropic.Anthropic, fake: FakeProvider
) -> None:
    """Cache reads and both kinds of writes cost the public rate to the nano-dollar."""
    fake.default = Answer(tokens=CACHED)
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        client.messages.create(model="claude-sonnet-5", max_tokens=50, messages=MESSAGES)
    event = metered.only
    assert (event.user_id, event.provider, event.quality) == ("u1", "anthropic", "exact")
    assert (event.input_tokens, event.output_tokens) == (1000, 100)
    assert (event.cached_input_tokens, event.cache_write_tokens) == (300, 300)
    assert event.cost_total_nano == CACHED_COST_NANO


def test_anthropic__a_stream__counts_as_the_same_message_does(
    pg: Paygent, client: anthropic.Anthropic, fake: FakeProvider
) -> None:
    """Usage fields of a stream are overwritten, never added; the split of writes comes first."""
    fake.default = Answer(tokens=CACHED)
    metered = Metered(pg)
    stream = client.messages.create(
        model="claude-sonnet-5", max_tokens=50, messages=MESSAGES, stream=True
    )
    events = drain(stream)
    assert events[0].type == "message_start"
    assert type(stream) is anthropic.Stream
    event = metered.only
    assert (event.input_tokens, event.output_tokens, event.quality) == (1000, 100, "exact")
    assert event.cost_total_nano == CACHED_COST_NANO


async def test_anthropic__async_calls_and_streams__are_metered(
    pg: Paygent, async_client: anthropic.AsyncAnthropic
) -> None:
    """100 input at 2.00 and 20 output at 10.00 per million, each call once."""
    metered = Metered(pg)
    async with paygent_context(user_id="u1"):
        await async_client.messages.create(
            model="claude-sonnet-5", max_tokens=50, messages=MESSAGES
        )
        stream = await async_client.messages.create(
            model="claude-sonnet-5", max_tokens=50, messages=MESSAGES, stream=True
        )
        await drain_async(stream)
        async with async_client.messages.stream(
            model="claude-sonnet-5", max_tokens=50, messages=MESSAGES
        ) as helper:
            assert await helper.get_final_text() == "Hello from the fake provider. "
    assert [event.cost_total_nano for event in metered.events] == [400_000] * 3


def test_anthropic__a_stream_left_early__is_partial(
    pg: Paygent, client: anthropic.Anthropic, fake: FakeProvider
) -> None:
    """Input is known from the first event; output is counted from what was received."""
    fake.default = Answer(text="word " * 99 + "end", chunk_delay_s=0.001)
    metered = Metered(pg)
    with client.messages.create(
        model="claude-sonnet-5", max_tokens=500, messages=MESSAGES, stream=True
    ) as stream:
        for number, _ in enumerate(stream):
            if number == 9:
                break
    event = metered.only
    assert (event.quality, event.input_tokens, event.output_tokens) == ("partial", 100, 10)


def test_anthropic__the_stream_helper__works_with_call_arguments(
    pg: Paygent, client: anthropic.Anthropic, fake: FakeProvider
) -> None:
    """`.stream()` works unchanged, and its user comes from the call's own arguments."""
    metered = Metered(pg)
    with client.messages.stream(
        model="claude-sonnet-5",
        max_tokens=50,
        messages=MESSAGES,
        paygent_user_id="u7",  # type: ignore[call-arg]
    ) as stream:
        assert "".join(stream.text_stream) == "Hello from the fake provider. "
    assert metered.only.user_id == "u7"
    assert "paygent" not in str(fake.requests[-1].headers)


def test_anthropic__raw_responses__are_metered(pg: Paygent, client: anthropic.Anthropic) -> None:
    """A raw response arrives as the SDK makes it and is counted exactly."""
    metered = Metered(pg)
    raw = client.messages.with_raw_response.create(
        model="claude-sonnet-5", max_tokens=50, messages=MESSAGES
    )
    assert raw.parse().role == "assistant"
    assert metered.only.cost_total_nano == 400_000


def test_anthropic__errors_and_refusals__spend_nothing(
    pg: Paygent, client: anthropic.Anthropic, fake: FakeProvider
) -> None:
    """A provider's error is void; a refused call never leaves."""
    pg.configure_plan("tight", PlanConfig(max_spend_per_period=0.0004))
    pg.assign_plan("u1", "tight")
    metered = Metered(pg)
    fake.script(Answer(status=529))
    with paygent_context(user_id="u1"):
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(model="claude-sonnet-5", max_tokens=50, messages=MESSAGES)
        assert pg.get_usage("u1").period_cost_nano == 0
        client.messages.create(model="claude-sonnet-5", max_tokens=50, messages=MESSAGES)
        with pytest.raises(PaygentLimitExceeded) as caught:
            client.messages.create(model="claude-sonnet-5", max_tokens=50, messages=MESSAGES)
    assert caught.value.guard_result.gate_reason == "total_spend"
    assert len(fake.requests) == 2
    assert metered.only.cost_total_nano == 400_000


def test_anthropic__counting_tokens__is_free(pg: Paygent, client: anthropic.Anthropic) -> None:
    """`count_tokens` is no generating call."""
    metered = Metered(pg)
    messages = client.messages if hasattr(client.messages, "count_tokens") else client.beta.messages
    messages.count_tokens(model="claude-sonnet-5", messages=MESSAGES)
    assert metered.events == []
    assert not [kind for kind in pg.health()["counts"] if kind.startswith("unmetered")]
