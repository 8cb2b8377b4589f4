"""Taps on connections: several senders, interruptions, ends that are not awaited, and a library's
work behind the application.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.sync.client
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
from tests.instrument.shapes import Metered, run_inside_lock
from websockets.exceptions import ConnectionClosed, ProtocolError
from websockets.protocol import Protocol
from websockets.sync.server import ServerConnection

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.realtime import connection as connection_module

Init = Callable[..., Paygent]

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager")
# OpenAI's SDK opens its sync connections in a way that newer versions of websockets warn of.


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a plan that ends with the first response."""
    made = init()
    made.configure_plan("tiny", PlanConfig(max_spend_per_period=0.0004))
    made.assign_plan("poor", "tiny")
    return made


def answers_all(server: ServerConnection) -> None:
    """Answer each `response.create`, and each commit of audio, at once."""
    say(server, "session.created", session={"type": "realtime", "model": "gpt-realtime"})
    for number, event in enumerate(hear(server)):
        if event["type"] in ("response.create", "input_audio_buffer.commit"):
            told = ((event.get("response") or {}).get("metadata") or {}).get("tokens")
            usage = USAGE if told is None else {**USAGE, "input_tokens": int(told)}
            answer(server, f"r{number}", usage)


def eventually(is_so: Callable[[], bool]) -> bool:
    """Wait until something is so."""
    end_s = time.monotonic() + 30
    while not is_so() and time.monotonic() < end_s:
        time.sleep(0.01)
    return is_so()


# -- once


def test_taps__our_hook_on_both_sides_of_anothers__count_once(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library has wrapped the handshake, and we wrap what it has made of it."""
    metered = Metered(pg)
    kind = websockets.sync.client.ClientConnection
    ours = kind.handshake

    def theirs(connection: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(connection, *args, **kwargs)

    monkeypatch.setattr(kind, "handshake", theirs)
    pg.uninstrument()
    pg.instrument()
    assert kind.handshake is not theirs
    with serving(answers_all) as port, paygent_context("u1"):
        with connect(client_of(port)) as connection:
            for _ in range(2):
                connection.response.create()
                read_to(connection, "response.done")
    assert [event.user_id for event in metered.events] == ["u1", "u1"]


# -- several senders


def test_taps__threads_that_send_at_once__pay_for_their_own_responses(pg: Paygent) -> None:
    """The order of requests is that of the wire, however the threads take turns."""
    metered, users, each_asks = Metered(pg), range(1, 9), 30
    with serving(answers_all) as port, connect(client_of(port)) as connection:

        def ask(number: int) -> None:
            with paygent_context(f"u{number}"):
                for _ in range(each_asks):
                    told = {"metadata": {"tokens": str(1000 + number)}, "max_output_tokens": 20}
                    connection.response.create(response=told)

        threads = [threading.Thread(target=ask, args=(number,)) for number in users]
        for thread in threads:
            thread.start()
        for _ in range(len(users) * each_asks):
            read_to(connection, "response.done")
        for thread in threads:
            thread.join()
    assert len(metered.events) == len(users) * each_asks
    wrong = [event for event in metered.events if event.user_id != f"u{event.input_tokens - 1000}"]
    assert wrong == []


async def in_pieces(go: asyncio.Event) -> AsyncIterator[str]:
    """Yield a message that ends when it may go on."""
    yield '{"type":'
    await go.wait()
    yield '"x"}'


async def test_taps__tasks_that_wait_for_a_message_in_pieces__pay_for_their_own(
    pg: Paygent,
) -> None:
    """The library has them wait; whoever writes first is first."""
    metered = Metered(pg)
    go = asyncio.Event()

    with serving(answers_all) as port:
        async with connect(client_of(port, "AsyncOpenAI")) as connection:
            slow = asyncio.create_task(connection._connection.send(in_pieces(go)))
            await asyncio.sleep(0.05)

            async def ask(number: int) -> None:
                with paygent_context(f"u{number}"):
                    told = {"metadata": {"tokens": str(1000 + number)}}
                    await connection.response.create(response=told)

            early = [asyncio.create_task(ask(number)) for number in (1, 2)]
            await asyncio.sleep(0.05)
            go.set()
            late = [asyncio.create_task(ask(number)) for number in (3, 4)]
            await asyncio.gather(slow, *early, *late)
            done = 0
            while done < 4:
                done += json.loads(await connection.recv_bytes())["type"] == "response.done"
    events = await asyncio.to_thread(lambda: metered.events)
    assert sorted(event.user_id for event in events) == ["u1", "u2", "u3", "u4"]
    assert all(event.user_id == f"u{event.input_tokens - 1000}" for event in events)


# -- interruptions


async def test_taps__a_send_that_is_cancelled_before_it_writes__costs_nothing(pg: Paygent) -> None:
    """It waited for another message; nothing of it is on the wire."""
    metered = Metered(pg)
    go = asyncio.Event()

    with serving(answers_all) as port, paygent_context("u1"):
        async with connect(client_of(port, "AsyncOpenAI")) as connection:
            slow = asyncio.create_task(connection._connection.send(in_pieces(go)))
            await asyncio.sleep(0.05)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.response.create(), 0.05)
            assert pg.health()["calls_in_flight"] == 0
            go.set()
            await slow
    assert await asyncio.to_thread(lambda: metered.events) == []


async def test_taps__a_send_collected_inside_one_of_our_locks__is_void_where_none_is_held(
    pg: Paygent,
) -> None:
    """The garbage collector closes a suspended `send`; to void its call there would deadlock."""
    metered = Metered(pg)
    go = asyncio.Event()

    with serving(answers_all) as port, paygent_context("u1"):
        await asyncio.to_thread(pg.get_usage, "u1")
        async with connect(client_of(port, "AsyncOpenAI")) as connection:
            slow = asyncio.create_task(connection._connection.send(in_pieces(go)))
            await asyncio.sleep(0.05)
            sending = connection._connection.send('{"type": "response.create"}')
            sending.send(None)
            assert pg.health()["calls_in_flight"] == 1
            assert run_inside_lock(pg, "u1", sending.close) > 0
            go.set()
            await slow
    assert await asyncio.to_thread(lambda: metered.events) == []
    assert pg.health()["calls_in_flight"] == 0


async def test_taps__a_send_that_is_cancelled_while_it_drains__counts_once(pg: Paygent) -> None:
    """It is in the library's buffer and will be answered."""
    metered = Metered(pg)
    go = threading.Event()

    def script(server: ServerConnection) -> None:
        go.wait(30)
        answers_all(server)

    with serving(script) as port, paygent_context("u1"):
        address = f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
        connecting = websockets.asyncio.client.connect(address, write_limit=1024, compression=None)
        async with connecting as connection:
            # More messages than the server reads ahead, and more bytes than the kernel buffers.
            filler = json.dumps({"type": "x", "filler": "A" * 1_000_000})
            filling = asyncio.gather(*(connection.send(filler) for _ in range(64)))
            await asyncio.sleep(0.05)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.send('{"type": "response.create"}'), 0.1)
            assert pg.health()["calls_in_flight"] == 1
            go.set()
            await filling
            while json.loads(await connection.recv())["type"] != "response.done":
                pass
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.cost_total_nano, event.quality) for event in events] == [(TURN_NANO, "exact")]


def test_taps__a_library_that_writes_in_another_way__is_said_and_metered(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version of it: whoever has connected pays."""
    metered = Metered(pg)
    monkeypatch.setattr(connection_module._Taps, "_wrap_writer", lambda self, original: original)
    with serving(answers_all) as port, paygent_context("u1"):
        with connect(client_of(port)) as connection:
            connection.response.create()
            read_to(connection, "response.done")
    assert (metered.only.user_id, metered.only.quality) == ("u1", "exact")
    assert pg.health()["counts"]["socket_writes_unknown"] == 1
    assert pg.health()["calls_in_flight"] == 0


def test_taps__what_the_library_does_not_write__costs_nothing(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may refuse to, in the state that the connection is in."""
    metered = Metered(pg)

    def refuses(protocol: Any, data: Any, fin: bool = True) -> None:
        raise ProtocolError("not now")

    with serving(answers_all) as port, paygent_context("u1"):
        with monkeypatch.context() as patched:
            patched.setattr(Protocol, "send_text", refuses)
            connection = connect(client_of(port)).enter()
            with pytest.raises((ProtocolError, ConnectionClosed)):
                connection.response.create()
        connection.close()
    assert metered.events == []
    assert pg.health()["calls_in_flight"] == 0


async def test_taps__audio_on_a_loop__is_only_looked_at(pg: Paygent) -> None:
    """It holds nothing."""
    with serving(answers_all) as port, paygent_context("u1"):
        async with connect(client_of(port, "AsyncOpenAI")) as connection:
            await connection.input_audio_buffer.append(audio="AAAA")
            assert pg.health()["calls_in_flight"] == 0


# -- ends


def hangs_up(server: ServerConnection) -> None:
    """Disconnect without a word after the first request."""
    next(hear(server))
    server.socket.shutdown(2)


def test_taps__a_server_that_hangs_up__leaves_no_hold(pg: Paygent) -> None:
    """Even while nothing receives, and the application keeps the connection."""
    metered = Metered(pg)
    with serving(hangs_up) as port, paygent_context("u1"):
        connection = connect(client_of(port)).enter()
        connection.response.create()
        assert eventually(lambda: pg.health()["calls_in_flight"] == 0)
        connection.close()
    assert metered.only.quality == "estimated"


async def test_taps__a_server_that_hangs_up_on_a_loop__leaves_no_hold(pg: Paygent) -> None:
    """The same, awaited."""
    metered = Metered(pg)
    with serving(hangs_up) as port, paygent_context("u1"):
        connection = await connect(client_of(port, "AsyncOpenAI")).enter()
        await connection.response.create()
        for _ in range(300):
            await asyncio.sleep(0.01)
            if pg.health()["calls_in_flight"] == 0:
                break
        await connection.close()
    events = await asyncio.to_thread(lambda: metered.events)
    assert [event.quality for event in events] == ["estimated"]


def test_taps__an_answer_that_nobody_receives__is_booked_as_it_arrives(pg: Paygent) -> None:
    """The provider has done its work."""
    metered = Metered(pg)
    with serving(answers_all) as port, paygent_context("u1"):
        with connect(client_of(port)) as connection:
            connection.response.create()
            assert eventually(lambda: bool(metered.events))
    assert metered.only.cost_total_nano == TURN_NANO


# -- received in pieces


def test_taps__a_message_that_comes_in_pieces__is_read_whole(pg: Paygent) -> None:
    """`recv_streaming` gives the library's own pieces."""
    metered = Metered(pg)

    def script(server: ServerConnection) -> None:
        next(hear(server))
        say(server, "response.created", response={"id": "r1"})
        done = {"type": "response.done", "response": {"id": "r1", "usage": USAGE}}
        text = json.dumps(done)
        server.send(iter([text[:20], text[20:50], text[50:]]))
        list(hear(server))

    with serving(script) as port, paygent_context("u1"):
        address = f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
        with websockets.sync.client.connect(address) as connection:
            connection.send('{"type": "response.create"}')
            assert "response.created" in "".join(connection.recv_streaming(decode=True))
            pieces = list(connection.recv_streaming(decode=True))
    assert json.loads("".join(pieces))["type"] == "response.done"
    assert len(pieces) > 1
    assert metered.only.input_tokens == 100


def test_taps__a_message_beyond_any_length__is_passed_on_unread(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded; the next one is read."""
    metered = Metered(pg)
    monkeypatch.setattr(connection_module, "_PIECES_BYTES_MAX", 1_000)

    def script(server: ServerConnection) -> None:
        next(hear(server))
        server.send(iter(["A" * 600, "A" * 600, "A"]))
        answer(server, "r1")
        list(hear(server))

    with serving(script) as port, paygent_context("u1"):
        with connect(client_of(port)) as connection:
            connection.response.create()
            assert len(connection.recv_bytes()) == 1_201
            read_to(connection, "response.done")
    assert metered.only.quality == "exact"


# -- switched off


def test_taps__after_uninstrument__refuse_nothing_on_what_stands(pg: Paygent) -> None:
    """Neither what is sent nor what the server begins; what was begun before settles."""
    metered = Metered(pg)
    with serving(answers_all) as port, paygent_context("poor"):
        with connect(client_of(port)) as connection:
            connection.response.create()
            pg.uninstrument()
            read_to(connection, "response.done")
            connection.response.create()
            connection.input_audio_buffer.commit()
            for _ in range(2):
                read_to(connection, "response.done")
    assert len(metered.events) == 1


def test_taps__a_refusal_before_uninstrument__is_not_told_after_it(pg: Paygent) -> None:
    """The application has switched it off."""
    with serving(answers_all) as port, paygent_context("poor"):
        with connect(client_of(port)) as connection:
            pg.record_event("poor", cost=1)
            connection.input_audio_buffer.commit()
            read_to(connection, "response.created")
            pg.uninstrument()
            read_to(connection, "response.done")


def test_taps__a_turn_that_is_over_already__is_refused_without_losing_a_message(
    pg: Paygent,
) -> None:
    """The provider's messages arrive, all of them: also its answer to our cancelling."""
    errors: list[Any] = []

    def script(server: ServerConnection) -> None:
        for event in hear(server):
            if event["type"] == "input_audio_buffer.commit":
                answer(server, "turn")
            elif event["type"] == "response.cancel":
                code = "response_cancel_not_active"
                errors.append(event["event_id"])
                say(server, "error", error={"code": code, "event_id": event["event_id"]})

    with serving(script) as port, paygent_context("poor"):
        with connect(client_of(port)) as connection:
            pg.record_event("poor", cost=1)
            connection.input_audio_buffer.commit()
            assert read_to(connection, "response.created") == ["response.created"]
            with pytest.raises(PaygentLimitExceeded):
                connection.recv_bytes()
            assert read_to(connection, "error") == ["response.done", "error"]
    assert errors == [connection_module.CANCEL_ID]


def test_taps__a_turn_without_an_id__is_cancelled_as_what_runs(pg: Paygent) -> None:
    """A gateway may leave ids out."""
    cancels: list[Any] = []

    def script(server: ServerConnection) -> None:
        for event in hear(server):
            if event["type"] == "input_audio_buffer.commit":
                say(server, "response.created", response={})
            else:
                cancels.append(event)
                say(server, "response.done", response={"status": "cancelled", "usage": USAGE})

    with serving(script) as port, paygent_context("poor"):
        with connect(client_of(port)) as connection:
            pg.record_event("poor", cost=1)
            connection.input_audio_buffer.commit()
            read_to(connection, "response.created")
            with pytest.raises(PaygentLimitExceeded):
                connection.recv_bytes()
            read_to(connection, "response.done")
    assert cancels == [{"type": "response.cancel", "event_id": connection_module.CANCEL_ID}]
