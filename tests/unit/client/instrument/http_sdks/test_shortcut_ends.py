"""How calls that took the shortcut end: as by the whole way, whatever the provider answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from tests.conftest import Closing, Swallowed
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.http_sdks.ways import (
    KINDS,
    SHORT,
    WHOLE,
    Ways,
    booked,
    chat,
    claude_of,
)

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.accounts.user_state import Hold
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]
Booked = list[dict[str, Any]]

COMPACTED: Any = {"iterations": [{"type": "compaction", "input_tokens": 50, "output_tokens": 6}]}

ANSWERS = {
    "usual": Answer(),
    "cached": Answer(tokens=Tokens(cached=60, reasoning=5)),
    "cache written": Answer(tokens=Tokens(cache_write=60)),
    "cache written for long": Answer(tokens=Tokens(cache_write=30, cache_write_long=30)),
    "larger": Answer(tokens=Tokens(input=300, output=60)),
    "another model": Answer(model="gpt-4o-mini"),
    "a dated model": Answer(model="gpt-4o-2024-08-06"),
    "a model without a price": Answer(model="gpt-next"),
    "flex": Answer(tokens=Tokens(service_tier="flex")),
    "priority": Answer(tokens=Tokens(service_tier="priority")),
    "audio": Answer(tokens=Tokens(audio_input=40, audio_output=10)),
    "a bill": Answer(tokens=Tokens(cost=0.5)),
    "much more than expected": Answer(tokens=Tokens(input=100_000, output=20_000)),
    "more than a record holds": Answer(tokens=Tokens(input=2**32, output=20)),
    "a fraction of a token": Answer(tokens=Tokens(input=100.5)),  # type: ignore[arg-type]
    "a negative count": Answer(tokens=Tokens(input=-5, output=20)),
    "nothing used": Answer(tokens=Tokens(input=0, output=0)),
    "a tool": Answer(tool_call=("look_up", "{}")),
    "searches": Answer(tokens=Tokens(web_searches=2)),
    "hosted tools": Answer(tokens=Tokens(items=("code_interpreter_call", "file_search_call"))),
    "a newer field": Answer(tokens=Tokens(extra={"new_tokens": 7})),
    "compacted": Answer(tokens=Tokens(extra=COMPACTED)),
    "fast": Answer(tokens=Tokens(speed="fast")),
    "in the US": Answer(tokens=Tokens(inference_geo="us")),
    "no usage": Answer(without_usage=True),
    "cut": Answer(cut_after=1),
    "an error in a stream": Answer(error_after=1),
    "bad request": Answer(status=400),
    "rate limit": Answer(status=429),
    "overloaded": Answer(status=529),
}


FOR_ALL = ("usual", "cached", "a model without a price", "a fraction of a token", "no usage", "cut")
OF_RESPONSES = ("searches", "hosted tools", "a tool", "flex", "bad request")
OF_MESSAGES = ("cache written for long", "searches", "fast", "in the US", "priority", "overloaded")
CASES = [
    *(("chat", answer) for answer in ANSWERS),
    *(("response", answer) for answer in (*FOR_ALL, *OF_RESPONSES)),
    *(("message", answer) for answer in (*FOR_ALL, *OF_MESSAGES)),
    *(("beta message", answer) for answer in ("usual", "compacted")),
    *(("chat, stream", answer) for answer in (*FOR_ALL, "an error in a stream", "rate limit")),
]
"""Each kind of answer that differs by how it is read, for each operation that may have it."""


def attempted(call: Callable[[], object]) -> str | None:
    """Make a call; return the class of what it raised, or None."""
    try:
        call()
    except (openai.OpenAIError, anthropic.AnthropicError, httpx2.HTTPError) as error:
        return type(error).__name__
    return None


@pytest.mark.parametrize(("kind", "answer"), CASES)
def test_end__an_answer_of_any_kind__is_booked_as_by_the_whole_way(
    kind: str,
    answer: str,
    init: Init,
    client: openai.OpenAI,
    fake: FakeProvider,
    ways: Ways,
    closing: Closing,
    db_path: str,
) -> None:
    """The call that gets it, and those after it, which rest on what was learned."""
    claude = closing(claude_of(fake))
    found: list[tuple[Booked, list[str | None], Any]] = []
    for is_closed in (False, True):
        ways.is_closed = is_closed
        pg = init(db_path=f"{db_path}-{is_closed}")
        metered = Metered(pg)
        with paygent_context("u1"):
            for _ in range(3):
                KINDS[kind](client, claude)
            fake.script(ANSWERS[answer])
            raised = [attempted(lambda: KINDS[kind](client, claude)) for _ in range(3)]
        usage = pg.get_usage("u1")
        assert (pg.health()["calls_in_flight"], usage.reserved_cost_nano) == (0, 0)
        found.append(([booked(event) for event in metered.events], raised, usage.period_cost_nano))
    assert found[0] == found[1]
    assert ways.taken[1:4] == [SHORT] * 3 or kind == "chat, stream"


@pytest.mark.parametrize(
    "answer", ["usual", "another model", "a bill", "no usage", "a fraction of a token"]
)
def test_end__without_a_listener__is_reported_as_by_the_whole_way(
    answer: str,
    init: Init,
    client: openai.OpenAI,
    fake: FakeProvider,
    ways: Ways,
    db_path: str,
) -> None:
    """Then calls are counted by the delivery thread, or by whoever needs the figures."""
    found = []
    for is_closed in (False, True):
        ways.is_closed = is_closed
        pg = init(db_path=f"{db_path}-{is_closed}")
        with paygent_context("u1"):
            for each in ("usual", "usual", "larger", "larger", answer, "usual"):
                fake.script(ANSWERS[each])
                chat(client)
        found.append([(row.model, row.calls, row.cost_nano) for row in pg.report()])
        pg.flush()
        assert pg.pending_events == 0
        pg.shutdown()
        pg = init(db_path=f"{db_path}-{is_closed}")
        found.append([(row.model, row.calls, row.cost_nano) for row in pg.report()])
    assert found == [found[0]] * 4


@pytest.mark.parametrize("how", ["no usage", "timeout"])
def test_end__a_call_without_a_usage__is_estimated_by_the_calls_that_have_ended(
    how: str, init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """Also by those that nobody has counted yet: six calls have shown that one takes 35 tokens."""
    pg = init()
    fake.default = Answer(tokens=Tokens(input=20, output=15))
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client, max_tokens=openai.NOT_GIVEN)] * 6)
        fake.script(Answer(without_usage=True, delay_s=5 if how == "timeout" else 0))
        arguments: dict[str, Any] = {"timeout": 0.05} if how == "timeout" else {}
        attempted(lambda: chat(client, max_tokens=openai.NOT_GIVEN, **arguments))
    assert ways.taken == [WHOLE] + [SHORT] * 6
    assert pg.get_usage("u1").period_tokens_total == 7 * 35


def test_end__an_answer_of_a_model_for_the_second_time__is_read_by_its_fields(
    init: Init,
    client: openai.OpenAI,
    fake: FakeProvider,
    ways: Ways,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer of each model is priced in full; its price is known from then on."""
    pg = init()
    finished: list[Any] = []
    finish = pg._parts.meter.finish

    def noting(hold: Hold, figures: tuple[int, ...]) -> None:
        finished.append(figures)
        finish(hold, figures)

    monkeypatch.setattr(pg._parts.meter, "finish", noting)
    fake.script(*[Answer(model=model) for model in ("a", "gpt-4o-mini", "gpt-4o", "gpt-4o-mini")])
    fake.default = Answer(model="gpt-4o-mini")
    with paygent_context("u1"):
        for _ in range(6):
            chat(client)
    # The model "a" has no price and is booked at that of the requested one, as partly known.
    assert [figures[-1] for figures in finished] == [1, 1, 1]
    assert pg.get_usage("u1").period_tokens_total == 6 * 120
    spent = {use.model: use.cost_nano for use in pg.get_model_usage("u1")}
    assert spent == {"gpt-4o": 2 * 450_000, "gpt-4o-mini": 4 * 27_000}


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize(
    ("how", "quality"), [("timeout", "estimated"), ("refused", None), ("interrupted", "estimated")]
)
def test_end_raised__a_call_that_fails__is_void_or_settled_as_by_the_whole_way(
    how: str,
    quality: str | None,
    is_closed: bool,
    init: Init,
    fake: FakeProvider,
    ways: Ways,
    closing: Closing,
) -> None:
    """What the provider may have billed is settled at its estimate; what never left is void."""
    pg = init()
    metered = Metered(pg)
    ways.is_closed = is_closed

    def interrupt(request: Any) -> None:
        raise KeyboardInterrupt

    hooks: dict[str, Any] = {}
    http = closing(openai.DefaultHttpxClient(event_hooks=hooks))
    client: Any = closing(
        openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0, http_client=http)
    )
    arguments: dict[str, Any] = {}
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        expected: type[BaseException] = openai.APITimeoutError
        if how == "timeout":
            fake.script(Answer(delay_s=5))
            arguments = {"timeout": 0.05}
        elif how == "refused":
            expected = openai.APIConnectionError
            with socket.socket() as port:  # bound and not listening
                port.bind(("127.0.0.1", 0))
                base_url, client.base_url = client._base_url, closed_url(port)
                # The same URL object, so that the call has a shortcut.
                client._base_url, url = base_url, client._base_url
                http.event_hooks = {"request": [lambda request: redirect(request, url)]}
                with pytest.raises(expected):
                    chat(client)
        else:
            expected = KeyboardInterrupt
            http.event_hooks = {"request": [interrupt]}
        if how != "refused":
            with pytest.raises(expected):
                chat(client, **arguments)
        http.event_hooks = {}
        chat(client)
    assert ways.taken[1:] == [WHOLE if is_closed else SHORT] * 3
    qualities = [event.quality for event in metered.events]
    assert qualities == ["exact", "exact", *([quality] if quality else []), "exact"]
    assert (pg.health()["calls_in_flight"], pg.get_usage("u1").reserved_cost_nano) == (0, 0)


def closed_url(port: socket.socket) -> str:
    """Return the address of a port at which nothing listens."""
    return f"http://127.0.0.1:{port.getsockname()[1]}/v1"


def redirect(request: Any, url: Any) -> None:
    """Send a request to another address."""
    request.url = request.url.copy_with(port=url.port)


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_end_raised__a_task_that_is_cancelled__settles_its_estimate(
    stream: bool, is_closed: bool, init: Init, fake: FakeProvider, ways: Ways
) -> None:
    """The provider goes on and bills; the hold ends with the task."""
    pg = init()
    metered = Metered(pg)
    ways.is_closed = is_closed
    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:

        async def call() -> None:
            create: Any = client.chat.completions.create
            answer = await create(model="gpt-4o", messages=MESSAGES, stream=stream)
            if stream:
                async for _ in answer:
                    pass

        with paygent_context("u1"):
            for _ in range(3):
                await call()
            fake.script(Answer(delay_s=2))
            task = asyncio.ensure_future(call())
            while pg.health()["calls_in_flight"] == 0 and not task.done():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.quality for event in events] == ["exact"] * 3 + ["estimated"]
    usage = await asyncio.to_thread(pg.get_usage, "u1")
    assert (pg.health()["calls_in_flight"], usage.reserved_cost_nano) == (0, 0)


@pytest.mark.parametrize("step", ["end", "write", "count"])
def test_end__that_is_interrupted__books_the_answer_once(
    step: str,
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
    monkeypatch: pytest.MonkeyPatch,
    db_path: str,
) -> None:
    """Ctrl-C at any step of the end: in memory, in the journal, and after a restart. Before its
    usage is noted, it is booked as estimated.
    """
    pg = init()
    parts = pg._parts
    interruptions = [KeyboardInterrupt()]
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        pg.get_usage("u1")
        if step == "end":
            owner: Any = parts.meter
            name = "finish"
        else:
            owner = parts.journal if step == "write" else parts.accounts.admission
            name = step
        original = getattr(owner, name)
        writes = [0]

        def interrupted(*arguments: Any) -> Any:
            writes[0] += 1
            is_due = step != "write" or writes[0] == 2  # the first is the begin record
            if is_due and interruptions:
                raise interruptions.pop()
            return original(*arguments)

        if step == "count":
            user = parts.accounts.registry.users["u1"]
            http = client._client
            http.event_hooks = {"response": [lambda _: setattr(user, "allotment", None)]}
        monkeypatch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat(client)
        monkeypatch.undo()
    assert not interruptions
    assert pg.health()["calls_in_flight"] == 0
    is_estimated = step == "end"
    usage = pg.get_usage("u1")
    assert (usage.period_tokens_total == 360) is not is_estimated
    pg.flush()
    (row,) = rows = pg.report()
    assert (row.calls, row.cost_nano) == (3, usage.period_cost_nano)
    assert row.doubtful_calls == is_estimated
    pg.shutdown()
    assert init().report() == rows


def test_end__whose_reader_fails__settles_the_estimate_and_holds_nothing(
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
    swallowed: Swallowed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The application gets its answer; no hold is left behind."""
    pg = init()
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        (shortcut,) = pg._parts.meter.shortcuts.values()

        def broken(*arguments: Any) -> None:
            raise RuntimeError("no")

        shortcut.read = broken
        assert chat(client).id == "chatcmpl-fake"
    ((kind, error),) = swallowed.seen
    assert isinstance(error, RuntimeError)
    swallowed.expect(kind)
    assert pg.get_usage("u1").reserved_cost_nano == 0
    assert pg.health()["calls_in_flight"] == 0


@pytest.mark.parametrize("asks", [None, {}, {"include_usage": True}, {"include_usage": False}])
def test_end__a_stream__gives_the_application_the_chunks_that_it_asked_for(
    asks: dict[str, bool] | None,
    init: Init,
    client: openai.OpenAI,
    fake: FakeProvider,
    ways: Ways,
) -> None:
    """Its usage is requested by each call, and kept from an application that has not asked."""
    metered = Metered(init())
    arguments = {} if asks is None else {"stream_options": asks}
    with paygent_context("u1"):
        counts = []
        for _ in range(4):
            chunks = list(chat(client, stream=True, **arguments))
            counts.append((len(chunks), [chunk.usage is not None for chunk in chunks][-1]))
    assert counts == [counts[0]] * 4
    wants = bool(asks and asks.get("include_usage"))
    assert counts[0][1] is wants
    sent = [request.body["stream_options"]["include_usage"] for request in fake.requests]
    assert sent == [(asks or {}).get("include_usage", True)] * 4
    is_exact = sent[0]
    assert {event.quality for event in metered.events} == {"exact" if is_exact else "estimated"}
    assert len({event.total_tokens for event in metered.events}) == 1


def test_end__a_stream_that_is_left_and_read_on__is_corrected(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """What was settled when the loop was left is corrected at the end of the stream."""
    metered = Metered(init())
    with paygent_context("u1"):
        for _ in range(3):
            list(client.responses.create(model="gpt-4o", input="Say hello.", stream=True))
        stream = client.responses.create(model="gpt-4o", input="Say hello.", stream=True)
        for _ in stream:
            break
        list(stream)
    assert ways.taken[2:] == [SHORT, SHORT]
    *_, left, correction = metered.events
    assert len(metered.events) == 5
    assert (left.total_tokens + correction.total_tokens, correction.corrects) == (120, left.id)


def test_end__an_answer_that_the_application_changes__is_booked_as_it_came(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """What the provider counted is read before the application has the answer."""
    pg = init()
    pg.configure_plan("default", PlanConfig())
    with paygent_context("u1"):
        for _ in range(3):
            answer = chat(client)
            answer.usage.prompt_tokens = 10**6
            answer.model = "other"
            answer.usage = None
    assert pg.get_usage("u1").period_tokens_total == 360
