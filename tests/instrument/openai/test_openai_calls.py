"""OpenAI's SDK against the fake provider: every route is metered once, priced, and not changed."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
from tests.conftest import Closing
from tests.instrument.shapes import MESSAGES, Metered, drain, drain_async

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.failopen import diagnostics
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A started Paygent."""
    return init()


@pytest.fixture
def client(pg: Paygent, fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A sync client of the fake provider, without retries."""
    with openai.OpenAI(api_key="sk-secret", base_url=fake.openai_url, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(pg: Paygent, fake: FakeProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    """An async client of the fake provider, without retries."""
    url = fake.openai_url
    async with openai.AsyncOpenAI(api_key="sk-secret", base_url=url, max_retries=0) as made:
        yield made


CALLS: dict[str, tuple[Callable[[Any], Any], str, int, int, int]] = {
    # name: call, model, input, output, cost in nano-dollars. Prices per million tokens, public
    # price lists of 2026-11: gpt-4o 2.50/10.00, gpt-4o-mini 0.15/0.60, text-embedding-3-small 0.02,
    # gpt-3.5-turbo-instruct 1.50/2.00. The fake answers 100 input and 20 output tokens.
    "chat": (
        lambda c: c.chat.completions.create(model="gpt-4o", messages=MESSAGES),
        "gpt-4o", 100, 20, 450_000,
    ),
    "chat stream": (
        lambda c: c.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True),
        "gpt-4o", 100, 20, 450_000,
    ),
    "responses": (
        lambda c: c.responses.create(model="gpt-4o-mini", input="hi"),
        "gpt-4o-mini", 100, 20, 27_000,
    ),
    "responses stream": (
        lambda c: c.responses.create(model="gpt-4o-mini", input="hi", stream=True),
        "gpt-4o-mini", 100, 20, 27_000,
    ),
    "embeddings": (
        lambda c: c.embeddings.create(model="text-embedding-3-small", input=["hi"]),
        "text-embedding-3-small", 100, 0, 2_000,
    ),
    "completions": (
        lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi"),
        "gpt-3.5-turbo-instruct", 100, 20, 190_000,
    ),
    "completions stream": (
        lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi", stream=True),
        "gpt-3.5-turbo-instruct", 100, 20, 190_000,
    ),
}  # fmt: skip


def has_route(name: str) -> bool:
    """Tell whether the installed SDK has the route (the oldest has no responses)."""
    return "responses" not in name or hasattr(openai.OpenAI, "responses")


@pytest.mark.parametrize("name", [name for name in CALLS if has_route(name)])
def test_openai__a_sync_call__is_metered_once_at_its_price(
    name: str, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A call is one event of its user, exact to the nano-dollar, and one request."""
    call, model, input_tokens, output_tokens, cost = CALLS[name]
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        answer = call(client)
        if "stream" in name:
            drain(answer)
    event = metered.only
    assert (event.user_id, event.model, event.quality) == ("u1", model, "exact")
    assert (event.input_tokens, event.output_tokens) == (input_tokens, output_tokens)
    assert event.cost_total_nano == cost
    assert len(fake.requests) == 1


@pytest.mark.parametrize("name", [name for name in CALLS if has_route(name)])
async def test_openai__an_async_call__is_metered_once_at_its_price(
    name: str, pg: Paygent, async_client: openai.AsyncOpenAI, fake: FakeProvider
) -> None:
    """An async call is one event of its user, exact to the nano-dollar, and one request."""
    call, model, input_tokens, output_tokens, cost = CALLS[name]
    metered = Metered(pg)
    async with paygent_context(user_id="u1"):
        answer = await call(async_client)
        if "stream" in name:
            await drain_async(answer)
    event = metered.only
    assert (event.user_id, event.model, event.quality) == ("u1", model, "exact")
    assert (event.input_tokens, event.output_tokens) == (input_tokens, output_tokens)
    assert event.cost_total_nano == cost
    assert len(fake.requests) == 1


def test_openai__a_chat_stream__shows_no_chunk_that_the_app_did_not_ask_for(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """Usage is asked for on the app's behalf; its chunk, which has no choices, is kept from it."""
    stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    chunks = drain(stream)
    assert len(chunks) == 7
    assert all(chunk.choices for chunk in chunks)
    assert type(stream) is openai.Stream


def test_openai__a_chat_stream_that_asked_for_usage__keeps_its_chunk(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """An app that asked for the usage itself gets the usage chunk."""
    chunks = drain(
        client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_openai__an_unknown_host__is_not_asked_for_stream_usage(
    pg: Paygent, fake: FakeProvider, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that may refuse the option is left alone; its stream is counted, and marked so."""
    from paygent.client.instrument.openai import routes as names

    monkeypatch.setattr(names, "_LOOPBACK", ())
    metered = Metered(pg)
    client = closing(openai.OpenAI(api_key="k", base_url=fake.openai_url))
    drain(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert "stream_options" not in fake.requests[-1].body
    event = metered.only
    assert (event.quality, event.model) == ("estimated", "gpt-4o")
    assert (
        event.output_tokens == 8
    )  # "Hello from the fake provider. " in quarters of a token per byte
    monkeypatch.setenv("PAYGENT_STREAM_USAGE_HOSTS", "example.com, 127.0.0.1")
    client = closing(openai.OpenAI(api_key="k", base_url=fake.openai_url))  # reads it once
    drain(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert fake.requests[-1].body["stream_options"] == {"include_usage": True}


def test_openai__cached_and_reasoning_tokens__are_priced_as_such(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """gpt-4o: 600 fresh at 2.50, 400 cached at 1.25, 100 output (70 reasoning) at 10.00."""
    fake.script(Answer(tokens=Tokens(input=1000, output=100, cached=400, reasoning=70)))
    metered = Metered(pg)
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    event = metered.only
    assert event.cost_total_nano == 1_500_000 + 500_000 + 1_000_000
    assert (event.cached_input_tokens, event.reasoning_tokens) == (400, 70)


def test_openai__break_and_close__settle_what_was_received(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A stream left early and closed counts once, estimated from its text; nothing stays held."""
    fake.default = Answer(text="word " * 99 + "end", chunk_delay_s=0.001)
    metered = Metered(pg)
    with (
        paygent_context(user_id="u1"),
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True) as stream,
    ):
        for number, _ in enumerate(stream):
            if number == 8:
                break
    event = metered.only
    assert event.quality == "estimated"
    assert event.output_tokens == 10  # 8 words of 5 bytes
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_openai__a_stream_that_is_dropped__settles_when_it_is_collected(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A stream that is neither read to its end nor closed is settled when it is collected."""
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        stream: Any = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        chunks = iter(stream)
        next(chunks)
    assert pg.get_usage("u1").reserved_cost_nano > 0
    del stream, chunks
    gc.collect()
    assert metered.only.quality == "estimated"
    assert pg.get_usage("u1").reserved_cost_nano == 0


@pytest.mark.parametrize(("status", "events"), [(400, 0), (401, 0), (429, 0), (500, 0), (529, 0)])
def test_openai__an_error_status__is_void_and_arrives_unchanged(
    status: int, events: int, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The provider's own exception arrives; nothing is spent or held."""
    fake.script(Answer(status=status))
    metered = Metered(pg)
    with paygent_context(user_id="u1"), pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert caught.value.status_code == status
    assert len(metered.events) == events
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_openai__retries_of_the_sdk__are_one_call(
    pg: Paygent, fake: FakeProvider, closing: Closing
) -> None:
    """Two refused attempts and one answer are one event."""
    fake.script(Answer(status=429), Answer(status=500), Answer())
    client = closing(openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=2))
    metered = Metered(pg)
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert len(fake.requests) == 3
    assert metered.only.quality == "exact"


def test_openai__a_time_out__settles_the_estimate(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The provider may have billed a call that timed out: its estimate counts."""
    fake.script(Answer(delay_s=5))
    metered = Metered(pg)
    with paygent_context(user_id="u1"), pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, max_tokens=50, timeout=0.1
        )
    event = metered.only
    assert (event.quality, event.output_tokens) == ("estimated", 50)
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_openai__a_body_that_is_cut__settles_the_estimate(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """An answer that broke off was paid: its estimate counts."""
    fake.script(Answer(cut_after=0))
    metered = Metered(pg)
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=50)
    assert metered.only.quality == "estimated"


def test_openai__a_connection_that_is_never_made__is_void(pg: Paygent) -> None:
    """Nobody was asked, so nothing was spent."""
    metered = Metered(pg)
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert metered.events == []


def test_openai__an_error_inside_a_stream__settles_and_arrives(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The SDK's exception arrives where the stream is read; what was received counts once."""
    fake.script(Answer(error_after=3))
    metered = Metered(pg)
    with pytest.raises(openai.APIError):
        drain(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert metered.only.quality == "estimated"


async def test_openai__cancelling_an_async_call__settles_the_estimate(
    pg: Paygent, async_client: openai.AsyncOpenAI, fake: FakeProvider
) -> None:
    """A cancelled call may have been billed; it counts, and nothing stays held."""
    import asyncio

    fake.script(Answer(delay_s=5))
    metered = Metered(pg)

    async def call() -> None:
        async with paygent_context(user_id="u1"):
            await async_client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, max_tokens=7
            )

    task = asyncio.create_task(call())
    while not fake.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (metered.only.quality, metered.only.output_tokens) == ("estimated", 7)
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_openai__raw_and_streaming_responses__are_metered_from_their_bytes(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """Raw responses arrive as the SDK makes them and are counted exactly."""
    metered = Metered(pg)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.parse().choices[0].message.content == "Hello from the fake provider."
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES
    ) as response:
        assert b"Hello" in response.read()
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as response:
        assert "prompt_tokens" in "".join(response.iter_lines())
    events = metered.events
    assert [(event.input_tokens, event.output_tokens) for event in events] == [(100, 20)] * 3
    assert {event.quality for event in events} == {"exact"}


def test_openai__raw_responses_that_are_closed_unread__settle_the_estimate(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """What has no readable usage settles as estimated."""
    metered = Metered(pg)
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=9
    ):
        pass
    assert (metered.only.quality, metered.only.output_tokens) == ("estimated", 9)


def test_openai__free_operations__pass_in_silence(pg: Paygent, client: openai.OpenAI) -> None:
    """Lists of models and moderations cost nothing: no event, no warning."""
    metered = Metered(pg)
    client.models.list()
    client.moderations.create(input="x")
    assert metered.events == []
    assert not [kind for kind in diagnostics.counts if kind.startswith("unmetered")]


def test_openai__an_operation_without_a_route__passes_and_is_said_once(
    pg: Paygent, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """What is neither gated nor metered is counted and said once per route."""
    for _ in range(3):
        client.post("/videos", body={"model": "sora-2", "prompt": "x"}, cast_to=object)
    kind = "unmetered:openai:POST /videos"
    assert pg.health()["counts"][kind] == 3
    said = [each for each in caplog.records if "POST /videos" in each.getMessage()]
    assert len(said) == 1


def test_openai__per_call_arguments__win_over_the_context_and_stay_here(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """`paygent_*` arguments name the user and never reach the provider."""
    metered = Metered(pg)
    with paygent_context(user_id="outer", session_id="s-outer"):
        client.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            paygent_user_id="inner",  # type: ignore[call-overload]
            paygent_session_id="s1",
            paygent_metadata={"feature": "chat"},
        )
    event = metered.only
    assert (event.user_id, event.session_id) == ("inner", "s1")
    assert event.metadata == {"feature": "chat"}
    sent = fake.requests[-1]
    assert "paygent" not in str(sent.body) + str(sent.headers)


async def test_openai__per_call_arguments_of_async_and_helper_calls__name_the_user(
    pg: Paygent, client: openai.OpenAI, async_client: openai.AsyncOpenAI
) -> None:
    """Async calls, raw calls and helpers that send later take the arguments too."""
    metered = Metered(pg)
    await async_client.chat.completions.create(
        model="gpt-4o",
        messages=MESSAGES,
        paygent_user_id="a",  # type: ignore[call-overload]
    )
    client.chat.completions.with_raw_response.create(
        model="gpt-4o",
        messages=MESSAGES,
        paygent_user_id="b",  # type: ignore[call-overload]
    )
    helpers = (
        client.chat.completions
        if hasattr(client.chat.completions, "stream")
        else client.beta.chat.completions
    )
    with helpers.stream(model="gpt-4o", messages=MESSAGES, paygent_user_id="c") as stream:  # type: ignore[call-arg]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello from the fake provider. "
    assert [event.user_id for event in metered.events] == ["a", "b", "c"]


def test_openai__parse__works_and_is_metered(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Structured output arrives parsed and is counted exactly."""
    from pydantic import BaseModel

    class Reply(BaseModel):
        answer: str

    metered = Metered(pg)
    completions = (
        client.chat.completions
        if hasattr(client.chat.completions, "parse")
        else client.beta.chat.completions
    )
    parsed = completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Reply)
    assert parsed.choices[0].message.parsed == Reply(answer="yes")
    assert (metered.only.input_tokens, metered.only.quality) == (100, "exact")


def test_openai__a_refused_call__sends_nothing_and_spends_nothing(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The provider sees no request, and gpt-4o-mini goes on."""
    pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 50_000}))
    pg.assign_plan("power", "pro")
    fake.default = Answer(tokens=Tokens(input=40_000, output=10_000))
    metered = Metered(pg)
    with paygent_context(user_id="power"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        before = pg.get_usage("power")
        with pytest.raises(PaygentLimitExceeded) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(PaygentLimitExceeded):
            drain(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        assert len(fake.requests) == 1
        assert pg.get_usage("power") == before
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    result = caught.value.guard_result
    assert (result.status, result.gate_reason) == ("hard_gate", "model_limit:gpt-4o")
    assert (result.current_value, result.limit_value) == (50_000, 50_000)
    assert [event.model for event in metered.events] == ["gpt-4o", "gpt-4o-mini"]
    assert pg.health()["counts"].get("begin") is None


def test_openai__a_dated_answer__counts_to_its_model(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A provider that answers with a snapshot's name counts toward the limit of the model."""
    pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 100}))
    pg.assign_plan("u1", "pro")
    fake.default = Answer(model="gpt-4o-2024-08-06")
    with paygent_context(user_id="u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(PaygentLimitExceeded):
            client.chat.completions.create(model="gpt-4o-2024-11-20", messages=MESSAGES)
    assert pg.get_usage("u1").period_tokens_by_model == {"gpt-4o": 120}


def test_openai__tool_calls_in_an_answer__cost_only_where_the_plan_names_them(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A tool that the plan prices is charged, in answers and in streams; others are not."""
    pg.configure_plan("tools", PlanConfig(tool_costs={"search": 0.01}))
    pg.assign_plan("u1", "tools")
    fake.default = Answer(tool_call=("search", "{}"))
    metered = Metered(pg)
    with paygent_context(user_id="u1"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        drain(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        fake.default = Answer(tool_call=("other", "{}"))
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [event.cost_tools_nano for event in metered.events] == [10_000_000, 10_000_000, 0]
    assert [event.tool_calls for event in metered.events] == [["search"], ["search"], []]


def test_openai__azure__is_told_by_its_class_and_priced_by_the_answer(
    pg: Paygent, fake: FakeProvider, closing: Closing
) -> None:
    """A deployment's name says nothing; the answer's model has the price."""
    fake.default = Answer(model="gpt-4o-2024-08-06")
    metered = Metered(pg)
    client = closing(
        openai.AzureOpenAI(
            api_key="k", api_version="2024-06-01", azure_endpoint=fake.url, max_retries=0
        )
    )
    client.chat.completions.create(model="my-deployment", messages=MESSAGES)
    event = metered.only
    assert (event.provider, event.model) == ("azure", "gpt-4o-2024-08-06")
    assert event.cost_total_nano == 450_000


def test_openai__low_level_posts__are_gated_like_any_other(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """`client.post` goes through the same funnel."""
    metered = Metered(pg)
    body = {"model": "gpt-4o", "messages": MESSAGES}
    client.post("/chat/completions", cast_to=object, body=body)
    assert metered.only.cost_total_nano == 450_000
