"""Which calls take the shortcut: those like one that has gone the whole way, and no other."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import MappingProxyType, SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from tests.conftest import Closing, Swallowed
from tests.instrument.shapes import MESSAGES, Metered
from tests.ledgers import AwayLedger
from tests.unit.client.instrument.http_sdks.ways import (
    KINDS,
    SHORT,
    WHOLE,
    Ways,
    booked,
    chat,
    claude_of,
)

from paygent import (
    Limit,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.accounts.user_state import Hold, User
from paygent.client.context.identity import LazyIdentity
from paygent.client.context.scopes import PropagatedContext, attach_identity
from paygent.client.instrument.http_sdks import shortcut
from paygent.client.instrument.http_sdks.request import RAW_HEADER
from paygent.client.metering import nesting
from paygent.client.runtime.settings import Settings
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

IMAGE: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
MINUTE_US = 60_000_000


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at_us = 1_795_000_000_000_000

    def __call__(self) -> int:
        return self.at_us


def user_of(pg: Paygent, user_id: str = "u1") -> User:
    """Return the state of a user."""
    return pg._parts.accounts.registry.users[user_id]


def sessions_of(metered: Metered) -> list[str | None]:
    """Return the session of each call."""
    return [event.session_id for event in metered.events]


# -- like calls


@pytest.mark.parametrize("kind", KINDS)
def test_begin__a_call_like_the_one_before__takes_the_shortcut_and_is_booked_alike(
    kind: str, init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways, closing: Closing
) -> None:
    """Every operation that has a plain answer, and its streams."""
    metered = Metered(init())
    claude: anthropic.Anthropic = closing(claude_of(fake))
    with paygent_context("u1"):
        if kind.endswith("left"):  # what was received of it teaches nothing
            ways.of(lambda: KINDS["chat, stream"](client, claude))
            metered.events.clear()
        taken = ways.of(*[lambda: KINDS[kind](client, claude)] * 4)
    # Which model answers may be known at the end of a stream only, after its call has left a
    # shortcut; then the next one leaves another.
    assert taken[2:] == [SHORT, SHORT]
    assert taken[0] == WHOLE or kind.endswith("left")
    assert taken[1] == SHORT or "stream" in kind
    first, *others = map(booked, metered.events)
    assert others == [first] * 3
    assert metered.events[0].input_tokens > 0


async def test_begin__async_calls_like_the_one_before__take_the_shortcut(
    init: Init, fake: FakeProvider, ways: Ways
) -> None:
    """Also many at once, each of a task of its own."""
    metered = Metered(init())

    async def call(**more: Any) -> None:
        create: Any = client.chat.completions.create
        answer = await create(model="gpt-4o", messages=MESSAGES, **more)
        if more.get("stream"):
            async for _ in answer:
                pass

    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as client:
        with paygent_context("u1"):
            await call()
            await asyncio.gather(*(call() for _ in range(5)))
            await call(stream=True)
            await call(stream=True)
    assert ways.taken == [WHOLE, *[SHORT] * 5, WHOLE, SHORT]
    first, *others = map(booked, await asyncio.to_thread(lambda: metered.events))
    assert others == [first] * 7


@pytest.mark.parametrize(
    ("context", "arguments", "expected"),
    [
        ({"user_id": "u1"}, {}, ("u1", None)),
        ({"user_id": "u1", "session_id": "s1"}, {}, ("u1", "s1")),
        ({"user_id": "u1", "plan": "default"}, {}, ("u1", None)),
        (None, {"paygent_user_id": "u1"}, ("u1", None)),
        (None, {"paygent_user_id": "u1", "paygent_session_id": "s1"}, ("u1", "s1")),
        ({"user_id": "u2"}, {"paygent_user_id": "u1"}, ("u1", None)),
        ({"user_id": "u1"}, {"paygent_session_id": "s1"}, ("u1", "s1")),
        ({"user_id": "u1", "session_id": "s1"}, {"paygent_user_id": "u1"}, ("u1", "s1")),
        (None, {}, ("(none)", None)),
        (None, {"paygent_session_id": "s1"}, ("(none)", "s1")),
    ],
)
def test_begin__however_the_user_is_named__finds_the_same_user_and_session(
    context: dict[str, Any] | None,
    arguments: dict[str, Any],
    expected: tuple[str, str | None],
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
) -> None:
    """By the context, by arguments, by both, by neither."""
    pg = init()
    metered = Metered(pg)
    pg.configure_plan("default", PlanConfig())
    with ExitStack() as stack:
        if context is not None:
            stack.enter_context(paygent_context(**context))
        taken = ways.of(*[lambda: chat(client, **arguments)] * 3)
    assert taken == [WHOLE, SHORT, SHORT]
    user_id, session_id = expected
    assert {event.user_id for event in metered.events} == {user_id}
    (session,) = set(sessions_of(metered))
    assert session == (session_id or pg.get_usage(user_id).session_id)


def test_begin__calls_of_several_users_and_sessions_in_turn__stay_theirs(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """A shortcut is for one user and one session."""
    metered = Metered(init())
    places = [("u3", None), ("u1", "s1"), ("u2", "s1"), ("u1", "s2")]
    for _ in range(3):
        for user_id, session_id in places:
            with paygent_context(user_id, session_id):
                chat(client)
    assert ways.taken == [WHOLE] * 4 + [SHORT] * 8
    opened = metered.events[0].session_id
    assert opened not in ("s1", "s2")
    assert [(event.user_id, event.session_id) for event in metered.events] == [
        (user_id, session_id or opened) for user_id, session_id in places
    ] * 3


# -- what a call asks for


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        ({"temperature": 0.5, "seed": 7}, SHORT),
        ({"messages": [{"role": "user", "content": "another text, é"}]}, SHORT),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, SHORT),
        ({"tools": [TOOL]}, SHORT),
        ({"response_format": {"type": "json_object"}}, SHORT),
        ({"max_tokens": 30}, SHORT),
        ({"max_completion_tokens": 30}, SHORT),
        ({"max_tokens": openai.NOT_GIVEN}, SHORT),
        ({"extra_headers": {"x-own": "1"}}, SHORT),
        ({"extra_body": {}}, SHORT),
        ({"timeout": 5}, SHORT),
        ({"max_tokens": 0}, WHOLE),
        ({"max_tokens": 2**32}, WHOLE),
        ({"max_tokens": 20.0}, WHOLE),
        ({"n": 2}, WHOLE),
        ({"n": 1}, WHOLE),
        ({"extra_body": {"best_of": 2}}, WHOLE),
        ({"extra_body": {"messages": []}}, WHOLE),
        ({"paygent_metadata": {"a": 1}}, WHOLE),
        ({"model": "gpt-4o-mini"}, WHOLE),
        ({"stream": True}, WHOLE),
    ],
)
def test_begin__a_call_that_asks_for_something_else__is_booked_as_by_the_whole_way(
    arguments: dict[str, Any],
    way: str,
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
    db_path: str,
) -> None:
    """What changes neither lane nor reading takes the shortcut; anything else does not."""
    found = []
    for is_closed in (False, True):
        ways.is_closed = is_closed
        metered = Metered(init(db_path=db_path + str(is_closed)))
        with paygent_context("u1"):
            ways.of(lambda: chat(client), lambda: chat(client))
            taken = ways.of(lambda: list(chat(client, **arguments)))
            assert taken == [WHOLE if is_closed else way]
        found.append([booked(event) for event in metered.events])
    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert found[0][2]["quality"] == "exact"


@pytest.mark.parametrize("arguments", [{}, {"paygent_user_id": "u1"}])
@pytest.mark.parametrize("headers", [{}, {"extra_headers": {"x-own": "1"}}])
def test_begin__a_raw_response__goes_the_whole_way_and_is_read(
    arguments: dict[str, Any],
    headers: dict[str, Any],
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
) -> None:
    """Whatever headers the calls before it had: its answer is bytes."""
    metered = Metered(init())
    raw: Any = client.chat.completions.with_raw_response.create
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client, **arguments, **headers)] * 2)
        taken = ways.of(lambda: raw(model="gpt-4o", messages=MESSAGES, **arguments, **headers))
    assert taken == [WHOLE]
    assert [(event.quality, event.input_tokens) for event in metered.events] == [("exact", 100)] * 3


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, SHORT),
        ({"json_data": None}, WHOLE),
        ({"json_data": []}, WHOLE),
        ({"json_data": MappingProxyType({"model": "gpt-4o"})}, WHOLE),
        ({"json_data": {"model": ["gpt-4o"]}}, WHOLE),
        ({"json_data": {}}, WHOLE),
        ({"headers": MappingProxyType({RAW_HEADER: "raw"})}, WHOLE),
        ({"headers": None}, WHOLE),
        ({"url": "/embeddings"}, WHOLE),
        ({"extra_json": {"n": 2}}, WHOLE),
    ],
)
def test_begin__options_of_another_shape__send_the_call_the_whole_way(
    changes: dict[str, Any], way: str, init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Nothing is held then. With the same shape it begins."""
    pg = init()
    meter, hold = pg._parts.meter, Hold()
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        fields = {"url": "/chat/completions", "json_data": {"model": "gpt-4o"}, **changes}
        headers = fields.pop("headers", openai.NOT_GIVEN)
        options = SimpleNamespace(headers=headers, **fields)
        found = shortcut.begin(meter, hold, client, options, False, False)
    assert (WHOLE if found is None else SHORT) == way
    assert hold.is_open is (way == SHORT)
    assert pg.health()["calls_in_flight"] == (way == SHORT)
    if found is not None:
        meter.cancel(hold)


def test_begin__another_client__has_shortcuts_of_its_own(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways, closing: Closing
) -> None:
    """Its host may be another provider; so may be that of a client whose address changes."""
    metered = Metered(init())
    with paygent_context("u1"), FakeProvider() as elsewhere:
        other = closing(openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0))
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
        assert ways.of(*[lambda: chat(other)] * 2) == [WHOLE, SHORT]
        other.base_url = elsewhere.openai_url
        assert ways.of(*[lambda: chat(other)] * 2) == [WHOLE, SHORT]
        assert ways.of(lambda: chat(client)) == [SHORT]
        copied = client.with_options(timeout=7)
        ways.of(lambda: chat(copied))
    assert (len(fake.requests), len(elsewhere.requests), len(metered.events)) == (6, 2, 8)


def test_begin__bounds_of_packed_records__are_those_of_the_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger request does not fit into a begin record."""
    metered = Metered(init())
    with paygent_context("u1"):
        ways.of(lambda: chat(client))
        monkeypatch.setattr(shortcut, "COUNT_MAX", 40)
        text = [{"role": "user", "content": "x" * 36}]
        assert ways.of(
            lambda: chat(client, messages=text),
            lambda: chat(client, messages=[*text, *text]),
            lambda: chat(client, max_tokens=41),
        ) == [SHORT, WHOLE, WHOLE]
    assert len(metered.events) == 4


@pytest.mark.parametrize(("content", "way"), [("text", SHORT), ([IMAGE], WHOLE)])
def test_begin__an_image_under_a_strict_plan__goes_the_whole_way(
    content: Any, way: str, init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Its worst case is not that of text of any length."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1_000, pre_call_estimate=True))
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
        messages = [{"role": "user", "content": content}]
        assert ways.of(lambda: chat(client, messages=messages)) == [way]
    assert pg.get_usage("u1").period_tokens_total == 360


# -- where it is made


@contextmanager
def deferred_end(pg: Paygent) -> Iterator[None]:
    """An end of a call waits that a finalizer has asked for."""
    pg._parts.meter.deferred_ends.add(lambda: None)
    yield
    assert not pg._parts.meter.deferred_ends.waiting


@contextmanager
def unseen_fork(pg: Paygent) -> Iterator[None]:
    """The process may be a fork that Python did not notice."""
    meter = pg._parts.meter
    pid, meter.may_be_forked, meter.pid = meter.pid, True, -1
    yield
    meter.may_be_forked, meter.pid = False, pid


@contextmanager
def integration(pg: Paygent) -> Iterator[None]:
    """An integration keeps enclosing calls of its own."""

    def hook(request: object) -> None:
        pass

    nesting.yield_hooks.append(hook)
    with paygent_context("u1"):  # inside of another scope, which may be a call's
        yield
    nesting.yield_hooks.remove(hook)


@contextmanager
def awaited_task(pg: Paygent) -> Iterator[None]:
    """Some task is awaited as a call."""
    with nesting.enclosing_task(object(), nesting.Enclosing(lambda: None, lambda: False)):
        yield


@contextmanager
def ended_scope(pg: Paygent) -> Iterator[None]:
    """The scope in effect has ended; the one around it is lazy."""
    with paygent_context("u1"):
        scope = PropagatedContext.capture()
    assert scope is not None
    (variable, source), *_ = scope._values
    source.has_ended, source.outer = True, LazyIdentity(lambda: "u1", None)
    token = variable.set(source)
    yield
    variable.reset(token)


@contextmanager
def lazy_identity(pg: Paygent) -> Iterator[None]:
    """The user is asked for at each call."""
    with attach_identity(LazyIdentity(lambda: "u1", None)):
        yield


@contextmanager
def metadata(pg: Paygent) -> Iterator[None]:
    """The context has metadata."""
    with paygent_context("u1", metadata={"a": 1}):
        yield


@contextmanager
def stale_figures(pg: Paygent) -> Iterator[None]:
    """The ledger has to be asked again."""
    user_of(pg).stale_us = 0
    yield
    assert user_of(pg).stale_us > 0


PLACES = [
    deferred_end,
    unseen_fork,
    integration,
    awaited_task,
    ended_scope,
    lazy_identity,
    metadata,
    stale_figures,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_begin__where_more_has_to_be_looked_at__goes_the_whole_way(
    place: Callable[[Paygent], Any], init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """And takes the shortcut again afterwards."""
    pg = init()
    metered = Metered(pg)
    with paygent_context("u1"):
        ways.of(lambda: chat(client))
        with place(pg):
            assert ways.of(lambda: chat(client)) == [WHOLE]
        assert ways.of(lambda: chat(client)) == [SHORT]
    assert [event.user_id for event in metered.events] == ["u1"] * 3


def test_begin__a_process_that_may_fork_unseen__compares_its_number(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Under uWSGI the shortcut is open in the process that has started Paygent."""
    pg = init()
    pg._parts.meter.may_be_forked = True
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]


@pytest.mark.parametrize("is_async", [False, True])
def test_begin__inside_a_wrapped_callable__goes_the_whole_way(
    is_async: bool, init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """The call inside counts, and the wrapper around it does not."""
    pg = init()
    metered = Metered(pg)

    async def work() -> Any:
        return chat(client)

    async def wrapped() -> None:
        await pg.awrap(asyncio.create_task(work()), "u1", "gpt-4o")

    with paygent_context("u1"):
        ways.of(lambda: chat(client))
        if is_async:
            asyncio.run(wrapped())
        else:
            pg.wrap(lambda: chat(client), "u1", "gpt-4o")
        assert ways.taken == [WHOLE, WHOLE]
        assert ways.of(lambda: chat(client)) == [SHORT]
    assert [event.input_tokens for event in metered.events] == [100] * 3


# -- what has changed since


def test_begin__a_session_that_was_closed__opens_another(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """The shortcut is for the session that was open."""
    pg = init()
    metered = Metered(pg)
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        pg.remove_session("u1")
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
    first, second, third, fourth = sessions_of(metered)
    assert first == second != third == fourth


def test_begin__a_session_that_has_timed_out__is_rotated(
    db_path: str, client: openai.OpenAI, ways: Ways
) -> None:
    """A shortcut keeps a session alive as any call does, and ends with it."""
    clock = Clock()
    pg = Paygent.launch(Settings(db_path=db_path, refresh_interval_s=86_400), now_us=clock)
    metered = Metered(pg)
    pg.configure_plan("default", PlanConfig(session_timeout_minutes=10))
    with paygent_context("u1"):
        taken = ways.of(lambda: chat(client))
        for minutes in (9, 9, 10, 11, 9):
            clock.at_us += minutes * MINUTE_US
            taken += ways.of(lambda: chat(client))
    assert taken == [WHOLE, SHORT, SHORT, SHORT, WHOLE, SHORT]
    sessions = sessions_of(metered)
    assert len(set(sessions[:4])) == len(set(sessions[4:])) == 1
    assert sessions[3] != sessions[4]


@pytest.mark.parametrize("how", ["price", "cap", "assignment"])
def test_begin__a_plan_that_has_changed__applies_at_once(
    how: str, init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """The next call has the new price, the new cap, the new plan."""
    pg = init()
    metered = Metered(pg)
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1))
    dear = PlanConfig(cost_rates={"gpt-4o": {"input": 1, "output": 1}})
    capped = PlanConfig(max_spend_per_period=0)
    pg.configure_plan("dear", dear)
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
        if how == "assignment":
            pg.assign_plan("u1", "dear")
        else:
            pg.configure_plan("default", dear if how == "price" else capped)
        if how == "cap":
            with pytest.raises(PaygentLimitExceeded):
                ways.of(lambda: chat(client))
            assert (ways.taken[2:], len(metered.events)) == ([WHOLE], 2)
            return
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
    assert [event.cost_total for event in metered.events] == [0.00045] * 2 + [0.12] * 2


def test_begin__a_user_who_was_switched_off__passes_unmetered(
    init: Init, client: openai.OpenAI, ways: Ways, db_path: str
) -> None:
    """From the moment at which this process reads it in the ledger, until it reads otherwise."""
    pg = init()
    metered = Metered(pg)

    def switch(on: int) -> None:
        pg.flush()
        with sqlite3.connect(db_path) as ledger:
            ledger.execute("UPDATE users SET sdk_enabled = ?", (on,))
        ledger.close()
        pg.refresh_user("u1")

    pg.assign_plan("u1", "default")
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        switch(0)
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, WHOLE]
        assert len(metered.events) == 2
        switch(1)
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
    assert len(metered.events) == 4


def test_begin__near_a_line__goes_the_whole_way_and_is_refused_there(
    init: Init, client: openai.OpenAI, ways: Ways, fake: FakeProvider
) -> None:
    """Three calls fit; the last ones are decided by exact figures."""
    pg = init()
    pg.configure_plan("default", PlanConfig(limits=(Limit("calls", cap=20),)))
    with paygent_context("u1"):
        taken = ways.of(*[lambda: chat(client)] * 20)
        with pytest.raises(PaygentLimitExceeded):
            ways.of(lambda: chat(client))
    assert (taken[:2], taken[-1], ways.taken[-1]) == ([WHOLE, SHORT], WHOLE, WHOLE)
    assert len(fake.requests) == 20
    assert pg.get_usage("u1").period_tokens_total == 20 * 120


# -- who leaves none


def block(pg: Paygent) -> None:
    """Let every call of the user run past a hard gate."""
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0))


def price_tools(pg: Paygent) -> None:
    """Let the plan charge for a tool."""
    pg.configure_plan("default", PlanConfig(tool_costs={"look_up": 0.5}))


def assign_another(pg: Paygent) -> None:
    """Put the user on a plan that the context does not name."""
    for name in ("default", "free"):
        pg.configure_plan(name, PlanConfig())
    pg.assign_plan("u1", "default")


def change_nothing(pg: Paygent) -> None:
    """Leave the user as they are."""


LEAVES_NONE: list[tuple[str, Callable[[Paygent], None], dict[str, Any], dict[str, Any]]] = [
    ("a plan that prices tools", price_tools, {}, {}),
    ("calls past a hard gate", block, {}, {}),
    ("another plan than the context's", assign_another, {"plan": "free"}, {}),
    ("metadata", change_nothing, {"metadata": {"a": 1}}, {}),
    ("metadata of the call", change_nothing, {}, {"paygent_metadata": {"a": 1}}),
    ("several answers", change_nothing, {}, {"n": 2}),
    ("fields of another body", change_nothing, {}, {"extra_body": {"x": 1}}),
    ("a model without a price", change_nothing, {}, {"model": "gpt-next"}),
    ("a model of unknown kind", change_nothing, {}, {"model": "ft:gpt-4o:acme::1"}),
]


@pytest.mark.parametrize(
    ("change", "context", "arguments"),
    [each[1:] for each in LEAVES_NONE],
    ids=[each[0] for each in LEAVES_NONE],
)
def test_remember__a_call_of_which_more_is_needed__leaves_no_shortcut(
    change: Callable[[Paygent], None],
    context: dict[str, Any],
    arguments: dict[str, Any],
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
) -> None:
    """Calls like it go the whole way each time, and each is booked."""
    pg = init(raise_on_hard_gate=False)
    metered = Metered(pg)
    change(pg)
    with paygent_context("u1", **context):
        assert ways.of(*[lambda: chat(client, **arguments)] * 3) == [WHOLE] * 3
    assert len(metered.events) == 3
    assert not pg._parts.meter.shortcuts


def test_remember__a_raw_response__leaves_no_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """The next call, whose answer is not raw, leaves one."""
    pg = init()
    raw: Any = client.chat.completions.with_raw_response.create
    with paygent_context("u1"):
        assert ways.of(*[lambda: raw(model="gpt-4o", messages=MESSAGES)] * 2) == [WHOLE] * 2
        assert not pg._parts.meter.shortcuts
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]


def test_remember__an_operation_without_a_plain_reader__leaves_no_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Images, sound and legacy completions are read in full."""
    pg = init()
    metered = Metered(pg)
    with paygent_context("u1"):
        for _ in range(2):
            client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say hello.")
            client.images.generate(model="gpt-image-1", prompt="A dot.")
            client.audio.speech.create(model="gpt-4o-mini-tts", input="Hello.", voice="alloy")
    assert ways.taken == [WHOLE] * 6
    assert (len(metered.events), len(pg._parts.meter.shortcuts)) == (6, 0)


def test_remember__a_user_whom_the_ledger_has_not_answered_for__leaves_no_shortcut(
    db_path: str, client: openai.OpenAI, ways: Ways
) -> None:
    """The plan's policy for an unreachable ledger is applied to each call."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AwayLedger())
    pg.configure_plan("default", PlanConfig(when_offline={"allow_up_to": 0.001}))
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE] * 2
        with pytest.raises(PaygentLimitExceeded):
            for _ in range(5):
                chat(client)
    assert not pg._parts.meter.shortcuts
    pg.shutdown(timeout=0.3)


def test_remember__the_lanes_were_dropped_meanwhile__leaves_no_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """A plan may change while the provider answers."""
    pg = init()
    with paygent_context("u1"):
        pg.get_usage("u1")
        http = client._client
        http.event_hooks = {"response": [lambda _: user_of(pg).drop_lanes()]}
        assert ways.of(lambda: chat(client)) == [WHOLE]
        assert not pg._parts.meter.shortcuts
        http.event_hooks = {}
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]


def test_remember__a_session_that_was_closed_meanwhile__leaves_no_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """The call was in a session that is not the open one any more."""
    pg = init()
    with paygent_context("u1"):
        http = client._client

        def close(_: object) -> None:
            user = user_of(pg)
            user.open_session = None

        http.event_hooks = {"response": [close]}
        assert ways.of(lambda: chat(client)) == [WHOLE]
        assert not pg._parts.meter.shortcuts


@pytest.mark.parametrize(
    ("policy", "user_id", "counted", "way"),
    [
        ("warn", "(none)", 5, SHORT),
        ("ignore", "(none)", 0, SHORT),
        ("somebody", "somebody", 0, SHORT),
    ],
)
def test_begin__calls_without_a_user__follow_the_policy_each_time(
    policy: str,
    user_id: str,
    counted: int,
    way: str,
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
) -> None:
    """They are booked on the fallback user, and counted where they are warned of."""
    pg = init(on_missing_user=policy)
    metered = Metered(pg)
    assert ways.of(*[lambda: chat(client)] * 5) == [WHOLE, *[way] * 4]
    assert {event.user_id for event in metered.events} == {user_id}
    assert diagnostics.counts.get("no_user", 0) == counted


def test_begin__calls_without_a_user_that_are_blocked__are_refused_each_time(
    init: Init, client: openai.OpenAI, ways: Ways, fake: FakeProvider
) -> None:
    """Also after calls of the same client with a user."""
    pg = init(on_missing_user="block")
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
    for _ in range(2):
        with pytest.raises(PaygentLimitExceeded) as caught:
            chat(client)
        assert caught.value.guard_result.gate_reason == "no_user"
    assert (len(fake.requests), ways.taken[2:]) == (2, [WHOLE] * 2)
    assert pg.get_usage("u1").period_tokens_total == 240


# -- without Paygent


@pytest.mark.parametrize("how", ["shutdown", "uninstrument"])
def test_begin__after_a_shutdown__no_call_is_metered(
    how: str, init: Init, client: openai.OpenAI, ways: Ways, fake: FakeProvider
) -> None:
    """A known lane keeps no Paygent alive; the next one finds lanes of its own."""
    pg = init()
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        getattr(pg, how)()
        assert chat(client, paygent_user_id="u2").usage.total_tokens == 120
        assert ways.taken == [WHOLE, SHORT]
        pg = init()
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
    assert len(fake.requests) == 5
    assert pg.get_usage("u1").period_tokens_total == 4 * 120
    assert pg.get_usage("u2").period_tokens_total == 0


def test_begin__that_fails__sends_the_call_the_whole_way_with_nothing_held(
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
    swallowed: Swallowed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A begin record that cannot be written leaves no hold, and the call is still made."""
    pg = init()
    journal = pg._parts.journal
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 2)
        swallowed.expect("begin")
        write = journal.write
        failures = [OSError("no")]

        def broken(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            write(*arguments)

        monkeypatch.setattr(journal, "write", broken)
        assert chat(client).id == "chatcmpl-fake"
    assert ways.taken == [WHOLE, SHORT, WHOLE]
    assert (pg.health()["calls_in_flight"], pg.get_usage("u1").reserved_cost_nano) == (0, 0)
    assert pg.get_usage("u1").period_tokens_total == 360
