"""Which connections are a provider's, and what an SDK does with them behind the application."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import openai
import pytest
import websockets.asyncio.client
from tests.conftest import Swallowed
from tests.instrument.openai.socket_server import (
    TURN_NANO,
    USAGE,
    answer,
    client_of,
    connect,
    hear,
    read_to,
    say,
    serving,
)
from tests.instrument.openai.test_sockets import HAS_RESPONSES
from tests.instrument.shapes import Metered
from websockets.sync.server import ServerConnection

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.patching.patches import Patches
from paygent.client.instrument.realtime import hook
from paygent.client.instrument.realtime.hook import _Address, _destination
from paygent.client.instrument.realtime.sdk_hook import Opening, SdkSocketHook, opening
from paygent.client.instrument.realtime.session import ConnectionState

Init = Callable[..., Paygent]

pytestmark = pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager",
    "ignore:websockets.legacy is deprecated",
    "ignore:.*is deprecated:DeprecationWarning:websockets",
)
# OpenAI's SDK opens its sync connections in a way that newer versions of websockets warn of.


def _reconnects() -> bool:
    try:
        module = importlib.import_module("openai.resources.realtime.realtime")
    except ImportError:
        return False
    return hasattr(module.RealtimeConnection, "_reconnect")


RECONNECTS = _reconnects()


def test_sdk__of_today__connects_again() -> None:
    """Only the oldest supported SDK does not."""
    assert RECONNECTS or openai.__version__.startswith("1.60.")


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a plan that ends with the first response, and one that allows nothing."""
    made = init()
    made.configure_plan("tiny", PlanConfig(max_spend_per_period=0.0004))
    made.configure_plan("none", PlanConfig(max_spend_per_period=0))
    made.assign_plan("poor", "tiny")
    made.assign_plan("broke", "none")
    return made


def respond(server: ServerConnection) -> None:
    """Answer each request, in Realtime or over Responses."""
    number = 0
    for event in hear(server):
        if event["type"] != "response.create":
            continue
        number += 1
        if "model" not in event:
            answer(server, f"r{number}")
            continue
        made = {"id": f"r{number}", "object": "response", "model": event["model"], "output": []}
        say(server, "response.created", response=made, sequence_number=0)
        made["usage"] = USAGE
        say(server, "response.completed", response=made, sequence_number=1)


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server answers."""
    with serving(respond) as number:
        yield number


# -- places


@pytest.mark.parametrize(
    ("host", "path", "route", "said"),
    [
        ("api.openai.com", "/v1/realtime", "realtime", ""),
        ("api.openai.com", "/v1/responses", "responses", ""),
        ("api.openai.com", "/v1/live/sessions", "live", ""),
        ("api.openai.com", "/v1/live/sessions/sess_1234567/attach", "live", ""),
        ("api.openai.com", "/v1/realtime/translations", "translations", ""),
        ("api.openai.com", "/v1/new/thing_1234567", "", "unmetered:openai:WS /v1/new/{id}"),
        ("x.openai.azure.com", "/openai/v1/realtime", "realtime", ""),
        ("bedrock-mantle.us-east-1.api.aws", "/v1/responses", "responses", ""),
        ("abc.execute-api.us-east-1.amazonaws.com", "/prod", "", ""),
        ("shop.azure-api.net", "/openai/realtime", "realtime", ""),
        ("shop.azure-api.net", "/v1/orders/stream", "", ""),
        ("example.com", "/v1/live/sessions", "", ""),
        ("example.com", "/chat", "", ""),
    ],
)
def test_destination__by_its_address__is_metered_or_said_or_left_alone(
    host: str, path: str, route: str, said: str, pg: Paygent
) -> None:
    """The log has no ids in it, so that it is logged once."""
    found = _destination(_Address(host, path, {}), None)
    assert (found.route if found is not None else "") == route
    counts = [name for name in pg.health()["counts"] if name.startswith("unmetered:")]
    assert counts == ([said] if said else [])


@pytest.mark.parametrize(("path", "is_provider"), [("/v1/orders", False), ("/realtime", True)])
def test_is_provider__behind_a_shared_gateway__is_what_is_metered(
    path: str, is_provider: bool
) -> None:
    """An application's own sockets there are no calls, also through a library without taps."""
    assert hook._is_provider(_Address("shop.azure-api.net", path, {})) is is_provider


def test_destination__that_joins_a_conversation__says_which() -> None:
    """What several connections tell of it counts once."""
    called = _destination(_Address("api.openai.com", "/v1/realtime", {"call_id": ["rtc_1"]}), None)
    joined = _destination(_Address("api.openai.com", "/v1/live/sessions/sess_1/attach", {}), None)
    assert called is not None
    assert joined is not None
    assert (called.conversation_id, joined.conversation_id) == (
        "api.openai.com:rtc_1",
        "sess_1",
    )


def test_destination__that_the_sdk_opens__is_a_providers_wherever_it_leads() -> None:
    """By what opens it, where the address says nothing."""
    found = _destination(
        _Address("gateway", "/llm", {}), Opening(ConnectionState(None), "realtime")
    )
    assert found is not None
    assert (found.route, found.is_provider, found.provider) == ("realtime", True, "openai")


if HAS_RESPONSES:

    def test_socket__of_the_sdk_to_a_gateway__is_gated_and_metered(pg: Paygent, port: int) -> None:
        """Whatever its path."""
        metered = Metered(pg)
        client = client_of(port, path="/llm")
        with paygent_context("u1"), client.responses.connect() as connection:
            connection.response.create(model="gpt-4o", input="hi")
            read_to(connection, "response.completed")
        assert (metered.only.model, metered.only.quality) == ("gpt-4o", "exact")
        with paygent_context("broke"), pytest.raises(PaygentLimitExceeded):
            client.responses.connect().enter()
        assert opening.get() is None


async def test_socket__to_an_unknown_host__is_refused_when_it_asks(pg: Paygent, port: int) -> None:
    """It connects, and what it asks for is gated and metered."""
    metered = Metered(pg)
    address = f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
    for user_id in ("broke", "u1"):
        with paygent_context(user_id):
            async with websockets.asyncio.client.connect(address) as connection:
                if user_id == "broke":
                    with pytest.raises(PaygentLimitExceeded):
                        await connection.send('{"type": "response.create"}')
                    continue
                await connection.send('{"type": "response.create"}')
                while json.loads(await connection.recv())["type"] != "response.done":
                    pass
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.user_id, event.cost_total_nano) for event in events] == [("u1", TURN_NANO)]


async def test_socket__of_the_librarys_old_part__is_said_where_it_leads_to_a_provider(
    pg: Paygent, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no taps; no silent bypass."""
    from websockets.legacy.client import connect as connect_legacy

    address = f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
    kind = "unmetered:websockets.legacy.client"
    for is_provider in (False, True):
        monkeypatch.setattr(hook, "_is_provider", lambda address, told=is_provider: told)
        async with connect_legacy(address) as connection:
            await connection.send('{"type": "response.create"}')
            await connection.recv()
        assert pg.health()["counts"].get(kind, 0) == is_provider
    pg.uninstrument()
    async with connect_legacy(address):
        pass
    assert pg.health()["counts"][kind] == 1


# -- whose


def test_socket__that_nobody_opens__is_gated_at_each_response(init: Init, port: int) -> None:
    """One for all users, opened when the application starts, while missing users are blocked."""
    pg = init(on_missing_user="block")
    metered = Metered(pg)
    with connect(client_of(port)) as connection:
        with paygent_context("u1"):
            connection.response.create()
        read_to(connection, "response.done")
        with pytest.raises(PaygentLimitExceeded):
            connection.response.create()
    assert metered.only.user_id == "u1"


# -- connected again


def breaks_once(then: Callable[[ServerConnection], None]) -> Callable[[ServerConnection], None]:
    """Break the first connection, and run a script on the next."""
    seen: list[ServerConnection] = []

    def script(server: ServerConnection) -> None:
        seen.append(server)
        say(server, "session.created", session={"model": "gpt-realtime"})
        if len(seen) == 1:
            next(hear(server))
            server.socket.shutdown(2)
        else:
            then(server)

    return script


def again(client: Any, **options: Any) -> Any:
    """A connection manager that connects again at once."""
    return client.realtime.connect(
        model="gpt-realtime",
        on_reconnecting=lambda event: None,
        initial_delay=0.01,
        max_retries=3,
        **options,
    )


def turn(server: ServerConnection) -> None:
    """Begin to answer unasked."""
    answer(server, "turn")
    list(hear(server))


def test_socket__whose_manager_another_user_enters__is_that_users(pg: Paygent) -> None:
    """One for all users, kept by the application: what the server begins is of who has entered."""
    metered = Metered(pg)
    with serving(turn) as port:
        manager = connect(client_of(port))
        for user_id in ("poor", "eve"):
            with paygent_context(user_id):
                connection = manager.enter()
                read_to(connection, "response.done")
                connection.close()
    assert [event.user_id for event in metered.events] == ["poor", "eve"]


if RECONNECTS:

    def test_socket__that_is_connected_again__stays_its_users(pg: Paygent) -> None:
        """Wherever it is read by then."""
        metered = Metered(pg)
        with serving(breaks_once(turn)) as port:
            with paygent_context("u1"):
                connection = again(client_of(port)).enter()
                connection.send({"type": "input_audio_buffer.commit"})
            for event in connection:
                if event.type == "response.done":
                    break
            connection.close()
        assert (metered.only.user_id, metered.only.cost_total_nano) == ("u1", TURN_NANO)

    def test_socket__that_is_connected_again_beyond_the_cap__tells_the_application(
        pg: Paygent,
    ) -> None:
        """The SDK would swallow it, wait, and try again."""
        with serving(breaks_once(turn)) as port:
            with paygent_context("poor"):
                connection = again(client_of(port)).enter()
                pg.record_event("poor", cost=1)
                connection.send({"type": "input_audio_buffer.commit"})
                with pytest.raises(PaygentLimitExceeded):
                    list(connection)
            connection.close()

    async def test_socket__that_is_awaited_again_beyond_the_cap__tells_the_application(
        pg: Paygent,
    ) -> None:
        """The same, awaited."""
        with serving(breaks_once(turn)) as port:
            with paygent_context("poor"):
                connection = await again(client_of(port, "AsyncOpenAI")).enter()
                pg.record_event("poor", cost=1)
                await connection.send({"type": "input_audio_buffer.commit"})
                with pytest.raises(PaygentLimitExceeded):
                    async for _ in connection:
                        pass
            await connection.close()

    def test_socket__what_was_queued_before_it_stands__is_refused_at_the_next_step(
        pg: Paygent, port: int
    ) -> None:
        """The SDK sends it while it connects, and swallows what we raise."""
        pg.configure_plan("known", PlanConfig(unknown_model="block"))
        pg.assign_plan("u1", "known")
        for step in ("recv_bytes", "send"):
            manager = again(client_of(port))
            manager.send({"type": "response.create", "response": {"model": "x"}})
            with paygent_context("u1"), manager as connection:
                action = getattr(connection, step)
                arguments = ({"type": "response.create"},) if step == "send" else ()
                with pytest.raises(PaygentLimitExceeded):
                    action(*arguments)

    async def test_socket__what_was_queued_for_a_loop__is_refused_at_the_next_step(
        pg: Paygent, port: int
    ) -> None:
        """The same, awaited."""
        pg.configure_plan("known", PlanConfig(unknown_model="block"))
        pg.assign_plan("u1", "known")
        manager = again(client_of(port, "AsyncOpenAI"))
        manager.send({"type": "response.create", "response": {"model": "x"}})
        with paygent_context("u1"):
            async with manager as connection:
                with pytest.raises(PaygentLimitExceeded):
                    await connection.recv_bytes()

    def test_socket__while_switched_off__connects_as_ever(
        pg: Paygent, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where somebody has wrapped what we have wrapped, ours passes calls on."""
        manager = again(client_of(port))
        ours = vars(type(manager))["_connect_ws"]
        pg.uninstrument()
        monkeypatch.setattr(type(manager), "_connect_ws", ours)
        with paygent_context("broke"), manager as connection:
            connection.response.create()
            read_to(connection, "response.done")

    async def test_socket__while_switched_off__is_awaited_as_ever(
        pg: Paygent, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same, awaited."""
        manager = again(client_of(port, "AsyncOpenAI"))
        ours = vars(type(manager))["_connect_ws"]
        pg.uninstrument()
        monkeypatch.setattr(type(manager), "_connect_ws", ours)
        with paygent_context("broke"):
            async with manager as connection:
                await connection.response.create()


def test_opening__on_another_thread__is_not_seen() -> None:
    """What the SDK opens here says nothing of what others connect to."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(opening.get()))
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize("is_async", [False, True])
async def test_sdk_hook__a_manager_that_keeps_no_state__connects_all_the_same(
    swallowed: Swallowed, is_async: bool
) -> None:
    """A version of the SDK may have a class that cannot be referred to weakly."""

    class SlottedConnectionManager:
        __slots__ = ()

        def enter(self) -> str:
            """Connect."""
            return "connected"

        async def __aenter__(self) -> str:
            return "connected"

        async def __aexit__(self, *error: object) -> None:
            pass

    swallowed.expect("prepare")
    module = ModuleType(SlottedConnectionManager.__module__)
    vars(module)["SlottedConnectionManager"] = SlottedConnectionManager
    patches = Patches()
    patches.switch.is_on = True
    SdkSocketHook(module.__name__, "realtime").install(module, patches)
    manager = SlottedConnectionManager()
    if is_async:
        async with manager as connection:
            assert connection == "connected"
    else:
        assert manager.enter() == "connected"
