"""`wrap` and registered providers around the real SDKs: every call counts exactly once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered, drain, drain_async

from paygent import (
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    ProviderConfig,
    ProviderRegistry,
    paygent_context,
)
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

CALL_NANO = 450_000  # gpt-4o: 100 input at 2.50 and 20 output at 10.00 dollars per million
SIZES: Any = {"estimated_input_tokens": 100, "estimated_max_tokens": 20}


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A sync client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(fake: FakeProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    """An async client of the fake provider, without retries."""
    url = fake.openai_url
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as made:
        yield made


def chat(client: Any, **more: Any) -> Any:
    """Make one call that holds what it costs."""
    arguments = {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 20, **more}
    return client.chat.completions.create(**arguments)


def room_for(pg: Paygent, calls: int, **more: Any) -> None:
    """Give u1 room for so many calls, and let nobody wait."""
    limits: Any = {"gpt-4o": 120 * calls}
    pg.configure_plan("small", PlanConfig(model_limits=limits, **more))
    pg.assign_plan("u1", "small")


# -- a metered SDK inside


def test_wrap__around_a_metered_call__counts_it_once_exactly(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The SDK's call is metered as ever, for the user of the wrapper, and fits one call's room."""
    pg = init()
    room_for(pg, 1, pre_call_estimate=True)
    metered = Metered(pg)
    answer = pg.wrap(lambda: chat(client), "u1", model="gpt-4o", **SIZES)
    assert type(answer).__name__ == "ChatCompletion"
    event = metered.only
    assert (event.user_id, event.provider, event.quality) == ("u1", "openai", "exact")
    assert event.cost_total_nano == CALL_NANO
    assert (len(fake.requests), pg.get_usage("u1").reserved_cost_nano) == (1, 0)


async def test_awrap__around_a_metered_call__counts_it_once_exactly(
    init: Init, async_client: openai.AsyncOpenAI, fake: FakeProvider
) -> None:
    """The same for a coroutine that exists already and for an async function."""
    pg = init()
    room_for(pg, 3, pre_call_estimate=True)  # the second may cost more than its text tells
    metered = Metered(pg)
    await pg.awrap(chat(async_client), "u1", model="gpt-4o", **SIZES)
    await pg.awrap(lambda: chat(async_client), "u1", model="gpt-4o", **SIZES)
    assert [event.cost_total_nano for event in metered.events] == [CALL_NANO] * 2
    assert [event.user_id for event in metered.events] == ["u1"] * 2
    assert (len(fake.requests), pg.get_usage("u1").reserved_cost_nano) == (2, 0)


@pytest.mark.parametrize("is_stream", [False, True])
def test_wrap__around_two_metered_calls__counts_two(
    init: Init, client: openai.OpenAI, fake: FakeProvider, is_stream: bool
) -> None:
    """Each of them once, the wrapper not at all; a stream ends where it is read."""
    pg = init()
    metered = Metered(pg)

    def two() -> Any:
        chat(client)
        return chat(client, stream=is_stream)

    answer = pg.wrap(two, "u1", model="gpt-4o")
    if is_stream:
        assert type(answer) is openai.Stream
        drain(answer)
    assert [event.cost_total_nano for event in metered.events] == [CALL_NANO] * 2
    assert len(fake.requests) == 2


async def test_awrap__around_two_metered_calls__counts_two(
    init: Init, async_client: openai.AsyncOpenAI
) -> None:
    """The same for async calls and streams."""
    pg = init()
    metered = Metered(pg)

    async def two() -> Any:
        await chat(async_client)
        return await chat(async_client, stream=True)

    await drain_async(await pg.awrap(two, "u1", model="gpt-4o"))
    assert [event.cost_total_nano for event in metered.events] == [CALL_NANO] * 2


def test_wrap__a_refusal_of_the_inner_call__reaches_the_app(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The first inner call fits, the second is refused; one event, nothing held."""
    pg = init()
    room_for(pg, 1, pre_call_estimate=True)
    metered = Metered(pg)

    def two() -> Any:
        chat(client)
        return chat(client)

    with pytest.raises(PaygentLimitExceeded) as caught:
        pg.wrap(two, "u1", model="gpt-4o", **SIZES)
    assert caught.value.guard_result.gate_reason == "model_limit:gpt-4o"
    assert metered.only.cost_total_nano == CALL_NANO
    assert (len(fake.requests), pg.get_usage("u1").reserved_cost_nano) == (1, 0)


async def test_awrap__a_refusal_of_the_inner_call__reaches_the_app(
    init: Init, async_client: openai.AsyncOpenAI, fake: FakeProvider
) -> None:
    """The same for async calls."""
    pg = init()
    room_for(pg, 1, pre_call_estimate=True)

    async def two() -> Any:
        await chat(async_client)
        return await chat(async_client)

    with pytest.raises(PaygentLimitExceeded):
        await pg.awrap(two(), "u1", model="gpt-4o", **SIZES)
    assert (len(fake.requests), pg.get_usage("u1").reserved_cost_nano) == (1, 0)


def test_wrap__an_inner_call_that_fails__counts_nothing(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The provider's own exception arrives; neither call counts or holds."""
    fake.script(Answer(status=429))
    pg = init()
    metered = Metered(pg)
    with pytest.raises(openai.RateLimitError):
        pg.wrap(lambda: chat(client), "u1", model="gpt-4o")
    assert (metered.events, pg.get_usage("u1").reserved_cost_nano) == ([], 0)


def test_wrap__a_free_operation_inside__leaves_the_wrapper_to_count(
    init: Init, client: openai.OpenAI
) -> None:
    """A list of models is no metered call: what the callable says of its own use counts."""
    pg = init()
    metered = Metered(pg)

    def look_and_answer() -> Any:
        client.models.list()
        return {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}

    pg.wrap(look_and_answer, "u1")
    assert metered.only.cost_total_nano == CALL_NANO


# -- an SDK that is not metered inside


def test_wrap__answers_of_an_sdk_that_is_not_patched__are_read(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Parsed, raw, and streamed: each is one exact event, and the very object."""
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    usage: Any = {"stream_options": {"include_usage": True}}
    create = client.chat.completions.with_raw_response.create
    calls: list[Callable[[], Any]] = [
        lambda: chat(client),
        lambda: create(model="gpt-4o", messages=MESSAGES),
        lambda: client.embeddings.create(model="gpt-4o", input="x"),
    ]
    if hasattr(client, "responses"):
        calls.append(lambda: client.responses.create(model="gpt-4o", input="x"))
    for call in calls:
        pg.wrap(call, "u1")
    stream = pg.wrap(lambda: chat(client, stream=True, **usage), "u1")
    assert type(stream) is openai.Stream
    assert drain(stream)[-1].usage is not None  # the app asked for it, so it keeps it
    events = metered.events
    assert len(events) == len(calls) + 1
    assert {event.quality for event in events} == {"exact"}
    assert {event.input_tokens for event in events} == {100}


async def test_awrap__streams_of_an_sdk_that_is_not_patched__are_tapped(
    init: Init, async_client: openai.AsyncOpenAI
) -> None:
    """Left early they count what was received, held until then."""
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    stream = await pg.awrap(chat(async_client, stream=True), "u1", model="gpt-4o")
    assert pg.get_usage("u1").reserved_cost_nano > 0
    async for _ in stream:
        break
    await stream.close()
    assert (metered.only.quality, pg.get_usage("u1").reserved_cost_nano) == ("estimated", 0)


def test_wrap__messages_of_an_sdk_that_is_not_patched__are_read(
    init: Init, fake: FakeProvider
) -> None:
    """Anthropic's answers and streams, with no provider named."""
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    arguments: Any = {"model": "claude-sonnet-5", "max_tokens": 5, "messages": MESSAGES}
    with anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0) as client:
        pg.wrap(lambda: client.messages.create(**arguments), "u1")
        drain(pg.wrap(lambda: client.messages.create(stream=True, **arguments), "u1"))
    events = metered.events
    assert [(event.input_tokens, event.output_tokens) for event in events] == [(100, 20)] * 2
    assert {event.quality for event in events} == {"exact"}


def test_wrap__a_response_of_the_http_library__is_read(init: Init, fake: FakeProvider) -> None:
    """An application that posts by hand is metered too; what the provider refused is void."""
    import httpx2

    pg = init()
    metered = Metered(pg)
    url = f"{fake.openai_url}/chat/completions"
    body = {"model": "gpt-4o", "messages": MESSAGES}
    answer = pg.wrap(lambda: httpx2.post(url, json=body), "u1")
    assert answer.json()["model"] == "gpt-4o"
    assert metered.only.cost_total_nano == CALL_NANO
    fake.script(Answer(status=429))
    assert pg.wrap(lambda: httpx2.post(url, json=body), "u1").status_code == 429
    assert len(metered.events) == 1
    assert pg.get_usage("u1").reserved_cost_nano == 0


# -- a registered class above the funnel


@pytest.fixture
def registry() -> ProviderRegistry:
    """A registry that names OpenAI's own resource, as an application of another tool may."""
    made = ProviderRegistry()
    module = "openai.resources.chat.completions"
    config = ProviderConfig("own", module, "Completions", "create", "AsyncCompletions")
    made.register(config)
    return made


async def test_registry__a_class_above_the_funnel__counts_each_call_once(
    init: Init,
    registry: ProviderRegistry,
    client: openai.OpenAI,
    async_client: openai.AsyncOpenAI,
    fake: FakeProvider,
) -> None:
    """The SDK's own call counts, the registered one gives up; `paygent_*` arguments work."""
    bare = vars(type(client.chat.completions))["create"]
    pg = init(registry=registry)
    room_for(pg, 4, pre_call_estimate=True)
    metered = Metered(pg)
    with paygent_context("u1"):
        chat(client)
        drain(chat(client, stream=True))
    await chat(async_client, paygent_user_id="u1", paygent_metadata={"a": 1})
    events = metered.events
    assert [event.provider for event in events] == ["openai"] * 3
    assert [event.cost_total_nano for event in events] == [CALL_NANO] * 3
    assert (events[2].user_id, events[2].metadata) == ("u1", {"a": 1})
    assert "paygent" not in str(fake.requests[-1].body) + str(fake.requests[-1].headers)
    from paygent.client.instrument.registry import instrumentation

    instrumentation.uninstall()
    assert vars(type(client.chat.completions))["create"] is bare
