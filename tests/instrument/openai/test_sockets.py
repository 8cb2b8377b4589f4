"""Realtime and Responses over WebSockets: gated when they connect and at each response, metered
from their own events, on the real SDK.

gpt-realtime costs 4.00/16.00 per million of text, 32.00/64.00 of audio, and 0.40 out of the cache;
gpt-4o 2.50/10.00, cached 1.25; whisper-1 0.36 an hour (OpenAI's price list, 2026-11).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import websockets.sync.client
from tests.conftest import Swallowed
from tests.instrument.shapes import Metered

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.realtime.hook import _address, _destination
from paygent.failopen import diagnostics
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

SPOKEN = Tokens(100, 20, cached=20, cached_audio=10, audio_input=60, audio_output=10)
TURN_NANO = 2_528_000
"""30 tokens of text, 50 of audio, 20 out of the cache; 10 of text and 10 of audio come back."""

ANSWER_NANO = 425_000
"""80 tokens of text, 20 out of the cache, 20 come back, by gpt-4o."""

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager")
# OpenAI's SDK opens its sync connections in a way that newer versions of websockets warn of.


def _has_responses() -> bool:
    try:
        module = importlib.import_module("openai.resources.responses.responses")
    except ImportError:
        return False
    return hasattr(module.Responses, "connect")


HAS_RESPONSES = _has_responses()
PARTS: tuple[str, ...] = ("realtime", "responses") if HAS_RESPONSES else ("realtime",)
MODELS = {"realtime": "gpt-realtime", "responses": "gpt-4o"}
COSTS = {"realtime": TURN_NANO, "responses": ANSWER_NANO}
LAST = ("response.done", "response.completed", "response.incomplete")


def test_sdk__of_today__has_both_kinds_of_sockets() -> None:
    """Only the oldest supported SDK lacks the second."""
    assert HAS_RESPONSES or openai.__version__.startswith("1.60.")


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    """A provider with spoken answers."""
    with FakeProvider(Answer(tokens=SPOKEN)) as provider:
        yield provider


def _arguments(fake: FakeProvider) -> dict[str, Any]:
    url = fake.openai_url
    return {"api_key": "k", "base_url": url, "websocket_base_url": url.replace("http", "ws")}


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider."""
    with openai.OpenAI(**_arguments(fake)) as made:
        yield made


def connect(client: Any, part: str = "realtime") -> Any:
    """A connection manager; the oldest SDK has realtime among its betas."""
    if part == "responses":
        return client.responses.connect()
    realtime = client.realtime if hasattr(client, "realtime") else client.beta.realtime
    return realtime.connect(model="gpt-realtime")


def ask(connection: Any, part: str = "realtime") -> Any:
    """Begin a response."""
    if part == "responses":
        return connection.response.create(model="gpt-4o", input="Say hello.", max_output_tokens=50)
    return connection.response.create()


def read(connection: Any) -> list[str]:
    """Read a response to its end; return the kinds of its events."""
    kinds: list[str] = []
    for event in connection:
        kinds.append(event.type)
        if event.type in (*LAST, "error"):
            break
    return kinds


def sent(fake: FakeProvider, kind: str) -> int:
    """How many events of a kind have arrived."""
    return sum(
        each.method == "WS" and each.body.get("type") == kind for each in list(fake.requests)
    )


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a plan `tiny` that is used up by the first response."""
    made = init()
    made.configure_plan("tiny", PlanConfig(max_spend_per_period=0.0004))
    for user_id in ("poor", "poor2"):
        made.assign_plan(user_id, "tiny")
    return made


# -- metered


@pytest.mark.parametrize("part", PARTS)
def test_socket__a_response__is_metered_once_from_its_own_usage(
    part: str, pg: Paygent, client: openai.OpenAI
) -> None:
    """Two responses of one connection are two calls, exact, on the user of the block."""
    metered = Metered(pg)
    with paygent_context("u1", session_id="s1"), connect(client, part) as connection:
        for _ in range(2):
            ask(connection, part)
            assert read(connection)[-1] in LAST
    for event in metered.events:
        assert (event.user_id, event.session_id, event.model) == ("u1", "s1", MODELS[part])
        assert (event.cost_total_nano, event.quality) == (COSTS[part], "exact")
        assert (event.input_tokens, event.output_tokens) == (100, 20)
        assert event.cached_input_tokens == 20
    assert len(metered.events) == 2
    assert pg.health()["calls_in_flight"] == 0


@pytest.mark.parametrize("part", PARTS)
async def test_socket__an_async_response__is_metered_once(
    part: str, pg: Paygent, fake: FakeProvider
) -> None:
    """The same, awaited, and read in another task than the requesting one."""
    metered = Metered(pg)
    async with openai.AsyncOpenAI(**_arguments(fake)) as client:
        with paygent_context("u1"):
            async with connect(client, part) as connection:

                async def read_all() -> None:
                    async for event in connection:
                        if event.type in LAST:
                            return

                reading = asyncio.create_task(read_all())
                await ask(connection, part)
                await asyncio.wait_for(reading, 30)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(each.user_id, each.cost_total_nano) for each in events] == [("u1", COSTS[part])]


def test_socket__of_several_users__each_response_is_its_own_users(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """The user of the request pays; without one, the user who connected."""
    metered = Metered(pg)
    with paygent_context("u1"):
        connection = connect(client).enter()
    for user_id in ("u2", None):
        with paygent_context(user_id):
            ask(connection)
            read(connection)
    connection.close()
    assert [event.user_id for event in metered.events] == ["u2", "u1"]


if HAS_RESPONSES:

    def test_socket__lanes_of_several_users__are_their_own(
        pg: Paygent, client: openai.OpenAI, fake: FakeProvider
    ) -> None:
        """One connection, a lane for each; a refusal in one lane costs the other one nothing."""
        metered = Metered(pg)
        fake.script(Answer(tokens=SPOKEN), Answer(status=400), Answer(tokens=SPOKEN))
        with connect(client, "responses") as connection:
            for user_id in ("ada", "bob", "ada"):
                with paygent_context(user_id):
                    event = {"type": "response.create", "model": "gpt-4o", "input": "hi"}
                    connection.send({**event, "stream_id": user_id})
            ends = [read(connection)[-1] for _ in range(3)]
        assert sorted(ends) == ["error", "response.completed", "response.completed"]
        assert [event.user_id for event in metered.events] == ["ada", "ada"]
        assert pg.health()["calls_in_flight"] == 0


def test_socket__tools_that_a_plan_prices__are_charged(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """As in any other answer."""
    metered = Metered(pg)
    pg.configure_plan("tools", PlanConfig(tool_costs={"weather": 0.5}))
    fake.script(Answer(tokens=SPOKEN, tool_call=("weather", "{}")))
    with paygent_context("u1", plan="tools"), connect(client) as connection:
        ask(connection)
        read(connection)
    assert metered.only.tool_calls == ["weather"]
    assert metered.only.cost_tools == 0.5


def test_socket__speech_of_the_user__is_booked_by_the_model_that_writes_it_down(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """Three seconds of whisper-1, beside the turn that the server begins by itself."""
    metered = Metered(pg)
    heard = {
        "transcription": {"model": "whisper-1"},
        "turn_detection": {"type": "server_vad"},
    }
    with paygent_context("u1"), connect(client) as connection:
        connection.send({"type": "session.update", "session": {"audio": {"input": heard}}})
        connection.input_audio_buffer.append(audio="AAAA")
        connection.input_audio_buffer.commit()
        assert read(connection)[-1] == "response.done"
    found = {event.model: event for event in metered.events}
    assert found["whisper-1"].cost_total_nano == 300_000
    assert found["gpt-realtime"].cost_total_nano == TURN_NANO
    assert {event.quality for event in metered.events} == {"exact"}
    assert {event.user_id for event in metered.events} == {"u1"}


# -- gated


@pytest.mark.parametrize("part", PARTS)
def test_socket__of_a_user_at_the_cap__is_refused_before_it_connects(
    part: str, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Nothing is sent."""
    pg.record_event("poor", cost=1)
    with paygent_context("poor"), pytest.raises(PaygentLimitExceeded) as caught:
        connect(client, part).enter()
    assert caught.value.guard_result.gate_reason == "total_spend"
    assert fake.requests == []


async def test_socket__async_of_a_user_at_the_cap__is_refused_before_it_connects(
    pg: Paygent, fake: FakeProvider
) -> None:
    """The same, awaited."""
    pg.record_event("poor", cost=1)
    async with openai.AsyncOpenAI(**_arguments(fake)) as client:
        with paygent_context("poor"), pytest.raises(PaygentLimitExceeded):
            await connect(client).enter()
    assert fake.requests == []


@pytest.mark.parametrize("part", PARTS)
def test_socket__a_response_beyond_the_cap__is_refused_before_it_is_sent(
    part: str, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The connection stays, for whoever has money left."""
    metered = Metered(pg)
    with paygent_context("poor"), connect(client, part) as connection:
        ask(connection, part)
        read(connection)
        with pytest.raises(PaygentLimitExceeded):
            ask(connection, part)
        assert sent(fake, "response.create") == 1
        with paygent_context("rich"):
            ask(connection, part)
            assert read(connection)[-1] in LAST
    assert [event.user_id for event in metered.events] == ["poor", "rich"]


async def test_socket__an_async_response_beyond_the_cap__is_refused_before_it_is_sent(
    pg: Paygent, fake: FakeProvider
) -> None:
    """The same, awaited; so is audio, since the server would answer it by itself."""
    async with openai.AsyncOpenAI(**_arguments(fake)) as client:
        with paygent_context("poor"):
            async with connect(client) as connection:
                await ask(connection)
                async for event in connection:
                    if event.type in LAST:
                        break
                with pytest.raises(PaygentLimitExceeded):
                    await ask(connection)
                with pytest.raises(PaygentLimitExceeded):
                    await connection.input_audio_buffer.append(audio="AAAA")
    assert (sent(fake, "response.create"), sent(fake, "input_audio_buffer.append")) == (1, 0)


def test_socket__a_turn_that_the_server_begins_beyond_the_cap__is_cancelled(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """It cannot be refused before it begins: it is stopped at once, and what it used is booked."""
    metered = Metered(pg)
    fake.script(Answer(tokens=SPOKEN, chunk_delay_s=10))
    session = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    with paygent_context("poor"), connect(client) as connection:
        connection.send({"type": "session.update", "session": session})
        connection.input_audio_buffer.append(audio="AAAA")
        pg.record_event("poor", cost=1)  # spent elsewhere meanwhile
        connection.input_audio_buffer.commit()
        with pytest.raises(PaygentLimitExceeded):
            read(connection)
        assert read(connection) == ["response.done"]
    assert sent(fake, "response.cancel") == 1
    turn = metered.events[-1]
    assert (turn.model, turn.cost_total_nano, turn.quality) == ("gpt-realtime", TURN_NANO, "exact")


async def test_socket__an_async_turn_beyond_the_cap__is_cancelled(
    pg: Paygent, fake: FakeProvider
) -> None:
    """The same, awaited."""
    fake.script(Answer(tokens=SPOKEN, chunk_delay_s=10))
    session = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    async with openai.AsyncOpenAI(**_arguments(fake)) as client:
        with paygent_context("poor"):
            async with connect(client) as connection:
                await connection.send({"type": "session.update", "session": session})
                pg.record_event("poor", cost=1)
                await connection.input_audio_buffer.commit()
                with pytest.raises(PaygentLimitExceeded):
                    async for event in connection:
                        assert event.type not in LAST
                async for event in connection:
                    assert event.type in LAST
                    break
    assert sent(fake, "response.cancel") == 1


def test_socket__where_nothing_is_refused__runs_and_is_marked(
    init: Init, client: openai.OpenAI
) -> None:
    """`raise_on_hard_gate=False`: it connects and answers, and its events say so."""
    pg = init(raise_on_hard_gate=False)
    metered = Metered(pg)
    pg.configure_plan("none", PlanConfig(max_spend_per_period=0))
    with paygent_context("u1", plan="none"), connect(client) as connection:
        ask(connection)
        read(connection)
        connection.input_audio_buffer.append(audio="AAAA")
    assert (metered.only.blocked, metered.only.quality) == (True, "exact")


# -- ends


@pytest.mark.parametrize("part", PARTS)
def test_socket__an_error_for_a_response__costs_nothing(
    part: str, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The provider refused it; the next one counts."""
    metered = Metered(pg)
    fake.script(Answer(status=400))
    with paygent_context("u1"), connect(client, part) as connection:
        ask(connection, part)
        assert read(connection)[-1] == "error"
        assert pg.health()["calls_in_flight"] == 0
        ask(connection, part)
        read(connection)
    assert metered.only.quality == "exact"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("way", ["cut", "closed", "forgotten"])
def test_socket__that_ends_in_the_middle__settles_once_as_estimated(
    way: str, part: str, pg: Paygent, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Cut by the server, closed, or cut and forgotten by the application: no hold stays."""
    metered = Metered(pg)
    is_closed = way == "closed"
    fake.script(
        Answer(
            tokens=SPOKEN,
            cut_after=None if is_closed else 4,
            chunk_delay_s=1 if is_closed else 0,
        )
    )
    with paygent_context("u1"):
        connection = connect(client, part).enter()
        ask(connection, part)
    reading = connection._connection.recv_events_thread
    if way == "cut":
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            read(connection)
    elif way == "closed":
        connection.recv()
        connection.close()
    del connection
    reading.join(30)
    gc.collect()
    assert metered.only.quality == "estimated"
    assert pg.health()["calls_in_flight"] == 0


def test_socket__that_is_gone_when_a_response_is_asked_for__costs_nothing(
    pg: Paygent, client: openai.OpenAI
) -> None:
    """What could not be sent is void, and the library's own exception arrives."""
    metered = Metered(pg)
    with paygent_context("u1"):
        connection = connect(client).enter()
        connection.close()
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            ask(connection)
    assert metered.events == []
    assert pg.health()["calls_in_flight"] == 0


def test_socket__a_recv_that_times_out__ends_nothing(pg: Paygent, client: openai.OpenAI) -> None:
    """Nothing has come yet; the response goes on."""
    metered = Metered(pg)
    with paygent_context("u1"), connect(client) as connection:
        connection.recv()
        with pytest.raises(TimeoutError):
            connection._connection.recv(timeout=0)
        ask(connection)
        read(connection)
    assert metered.only.quality == "exact"


# -- left alone


def test_socket__to_another_place__is_left_as_it_is(pg: Paygent, fake: FakeProvider) -> None:
    """The application's own chat has no taps; nothing is refused there."""
    pg.record_event("poor", cost=1)
    address = fake.url.replace("http", "ws")
    with paygent_context("poor"):
        for path in ("/chat", "/v1/livescores", "/api/v1/live/match-17", "/v1/live"):
            with websockets.sync.client.connect(address + path) as connection:
                assert not {"send", "recv", "recv_streaming"} & set(vars(connection))
        for path in ("/realtime?model=tesla", "/survey/v1/responses", "/feed/realtime?intent=x"):
            with websockets.sync.client.connect(address + path) as connection:
                connection.send('{"type": "response.vote"}')
                connection.send('{"type": "response.create", "of": "a survey"}')
    assert not [name for name in pg.health()["counts"] if name.startswith(("unmetered", "socket"))]


def test_socket__after_uninstrument__passes(pg: Paygent, client: openai.OpenAI) -> None:
    """Also on a connection that was tapped before."""
    metered = Metered(pg)
    with paygent_context("u1"), connect(client) as connection:
        pg.uninstrument()
        ask(connection)
        read(connection)
        with connect(client) as other:
            assert "send" not in vars(other._connection)
    assert metered.events == []
    pg.instrument()
    pg.shutdown()
    with connect(client) as other:
        assert "send" not in vars(other._connection)
    assert diagnostics.counts["shut_down"] >= 1


def test_socket__messages_of_other_kinds__pass_untouched(
    pg: Paygent, client: openai.OpenAI, fake: FakeProvider, swallowed: Swallowed
) -> None:
    """Bytes, pieces and what is no JSON: the library's business."""
    swallowed.expect("socket")
    with paygent_context("u1"), connect(client) as connection:
        socket = connection._connection
        socket.send(iter(['{"type":', '"x"}']))
        socket.send(memoryview(b'{"type": "y"}'), text=True)
        with pytest.raises(TypeError):
            socket.send(5)
        socket.send(json.dumps({"type": "z", "of": "response.create"}))
        socket.send('{"type": "response.create", but no JSON')
        with pytest.raises(websockets.exceptions.ConnectionClosed):  # it was no event
            while True:
                socket.recv()
    kinds = [each.body["type"] for each in fake.requests if each.method == "WS" and each.body]
    assert kinds == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("address", "provider", "model", "is_provider"),
    [
        ("wss://api.openai.com/v1/realtime?model=gpt-realtime", "openai", "gpt-realtime", True),
        ("wss://x.openai.azure.com/openai/realtime?deployment=talk", "azure", "talk", True),
        ("wss://api.openai.com/v1/realtime?call_id=rtc_1", "openai", "", True),
        ("wss://api.openai.com/v1/responses", "openai", "", True),
        ("ws://127.0.0.1/realtime?intent=transcription", "openai", "", False),
    ],
)
def test_destination__of_a_provider__tells_who_is_called(
    address: str, provider: str, model: str, is_provider: bool
) -> None:
    """By its host, path and query."""
    from types import SimpleNamespace

    from websockets.uri import parse_uri

    for name in ("uri", "wsuri"):  # the name of older versions
        protocol = SimpleNamespace(**{name: parse_uri(address)})
        found = _destination(_address(SimpleNamespace(protocol=protocol)), None)
        assert found is not None
        assert (found.provider, found.model, found.is_provider) == (provider, model, is_provider)
