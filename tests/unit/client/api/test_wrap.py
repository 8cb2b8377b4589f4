"""`wrap` and `awrap` around code of any kind: what arrives, what is counted, what is held."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import json
import sqlite3
import sys
import threading
import time
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import Metered, run_inside_lock

from paygent import (
    InvalidValue,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    ProviderConfig,
    ProviderRegistry,
    paygent_context,
)
from paygent.client.api.wrap import CallableWrapper
from paygent.client.context.scopes import current_identity
from paygent.client.metering import nesting
from paygent.client.metering.call import Request
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait
from paygent.failopen import diagnostics

Init = Callable[..., Paygent]

USAGE = {"prompt_tokens": 100, "completion_tokens": 20}
ANSWER = {"model": "gpt-4o", "usage": USAGE}
CALL_NANO = 450_000  # gpt-4o: 100 input at 2.50 and 20 output at 10.00 dollars per million


def limited(pg: Paygent, tokens: int, user: str = "u1", **more: Any) -> None:
    """Give a user so many tokens of gpt-4o."""
    limits: Any = {"gpt-4o": tokens}
    pg.configure_plan("small", PlanConfig(model_limits=limits, **more))
    pg.assign_plan(user, "small")


def used_up(pg: Paygent, **more: Any) -> None:
    """Leave nothing of gpt-4o to user u1."""
    limited(pg, 10, **more)
    pg.record_event("u1", model="gpt-4o", input_tokens=10)


# -- what arrives


def test_wrap__a_callable__gives_its_very_result_and_is_metered_once(init: Init) -> None:
    """The object is the callable's own; its usage is one event of the user, exact."""
    pg = init()
    metered = Metered(pg)
    answer = dict(ANSWER)
    assert pg.wrap(lambda: answer, "u1", "gpt-4o", "s1", {"feature": "x"}) is answer
    event = metered.only
    assert (event.user_id, event.session_id, event.metadata) == ("u1", "s1", {"feature": "x"})
    assert (event.model, event.quality, event.cost_total_nano) == ("gpt-4o", "exact", CALL_NANO)
    assert pg.get_usage("u1").reserved_cost_nano == 0


async def test_awrap__a_function_or_an_awaitable__gives_what_it_gives(init: Init) -> None:
    """An async function, a coroutine, a task and a plain function that has it ready."""
    pg = init()
    metered = Metered(pg)
    answer = dict(ANSWER)

    async def call() -> Any:
        await asyncio.sleep(0)
        return answer

    assert await pg.awrap(call, user_id="u1", model="gpt-4o") is answer
    assert await pg.awrap(call(), user_id="u1", model="gpt-4o") is answer
    assert await pg.awrap(asyncio.ensure_future(call()), user_id="u1") is answer
    assert await pg.awrap(lambda: answer, "u1") is answer
    assert [event.cost_total_nano for event in metered.events] == [CALL_NANO] * 4


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), StopIteration(3)])
async def test_wrap__an_exception__arrives_as_it_was_raised(
    init: Init, error: BaseException
) -> None:
    """The very exception, with nothing of ours between."""
    pg = init()

    def fail() -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        pg.wrap(fail, "u1")
    assert caught.value is error
    assert caught.value.__cause__ is caught.value.__context__ is None


async def test_awrap__an_exception__arrives_as_it_was_raised(init: Init) -> None:
    """The same for async callables."""
    pg = init()
    error = KeyError("x")

    async def fail() -> Any:
        raise error

    for given in (fail, fail()):
        with pytest.raises(KeyError) as caught:
            await pg.awrap(given, "u1")
        assert caught.value is error


@pytest.mark.parametrize("fn", [None, 5, "f", object()])
async def test_wrap__what_is_no_callable__is_a_clear_error(init: Init, fn: Any) -> None:
    """It configures nothing that could run, so it raises, naming the argument."""
    pg = init()
    with pytest.raises(InvalidValue, match=r"fn = .*must be callable") as caught:
        pg.wrap(fn, "u1")
    assert [each.field for each in caught.value.findings] == ["fn"]
    with pytest.raises(InvalidValue, match=r"awrap: fn = .*must be callable or awaitable"):
        await pg.awrap(fn, "u1")


async def test_wrap__while_it_runs__its_user_is_the_contexts(init: Init) -> None:
    """What runs inside belongs to the user; afterwards the context is what it was."""
    pg = init()
    seen: list[Any] = []

    def look() -> None:
        identity = current_identity()
        assert identity is not None
        seen.append((identity.user_id, identity.session_id, identity.metadata))

    async def look_async() -> None:
        look()

    with paygent_context("outer"):
        pg.wrap(look, "u1", session_id="s1", metadata={"a": 1})
        await pg.awrap(look_async, "u2")
        look()
    assert seen == [("u1", "s1", {"a": 1}), ("u2", None, None), ("outer", None, None)]


# -- the gate


def test_wrap__a_user_at_the_cap__is_refused_before_the_callable(init: Init) -> None:
    """Nothing of the callable runs; nothing is held or spent."""
    pg = init()
    used_up(pg)
    ran: list[int] = []
    with pytest.raises(PaygentLimitExceeded) as caught:
        pg.wrap(lambda: ran.append(1), "u1", model="gpt-4o")
    assert caught.value.guard_result.gate_reason == "model_limit:gpt-4o"
    assert (ran, pg.get_usage("u1").reserved_tokens_by_model) == ([], {})
    pg.wrap(lambda: ran.append(1), "u1", model="gpt-4o-mini")
    assert ran == [1]


async def test_awrap__a_refused_coroutine__is_closed(init: Init) -> None:
    """No warning of a coroutine that nobody awaited, and none of its code has run."""
    pg = init()
    used_up(pg)
    ran: list[int] = []

    async def call() -> None:
        ran.append(1)

    given = call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PaygentLimitExceeded):
            await pg.awrap(given, "u1", model="gpt-4o")
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await given
        del given
        gc.collect()
    assert ran == []


async def test_awrap__cancelled_while_it_waits_for_the_gate__closes_its_coroutine() -> None:
    """The coroutine has not begun, and nobody else can await it."""

    class Waiting:
        def begin(self, request: Request) -> Wait:
            """Have the call wait for an answer that never comes."""
            asyncio.get_running_loop().call_soon(task.cancel)
            return Wait(Future(), 30.0, lambda end: None)

    async def call() -> None:
        raise AssertionError("ran")

    given: Any = call()
    names = "model session_id metadata provider estimated_input_tokens estimated_max_tokens"
    arguments = {"fn": given, "user_id": "u1", **dict.fromkeys(names.split())}
    wrapping = CallableWrapper(cast(Meter, Waiting()), None)
    task = asyncio.ensure_future(wrapping.run_async(arguments))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED


def test_wrap__a_model_that_nobody_names__is_unknown_to_a_plan_that_blocks_such(
    init: Init,
) -> None:
    """Before the call its model is not known, whatever the answer would say."""
    pg = init()
    pg.configure_plan("known", PlanConfig(unknown_model="block"))
    pg.assign_plan("u1", "known")
    with pytest.raises(PaygentLimitExceeded, match=r"\(none\) has no price") as caught:
        pg.wrap(lambda: ANSWER, "u1")
    assert caught.value.guard_result.gate_reason == "unknown_model:(none)"
    assert pg.wrap(lambda: ANSWER, "u1", "gpt-4o") is ANSWER


def test_wrap__without_raise_on_hard_gate__runs_and_is_marked(init: Init) -> None:
    """The callback is told, the callable runs, the event says that it ran past a gate."""
    pg = init(raise_on_hard_gate=False)
    used_up(pg)
    refused: list[Any] = []
    pg.on_hard_gate(refused.append)
    metered = Metered(pg)
    assert pg.wrap(lambda: ANSWER, "u1", model="gpt-4o") is ANSWER
    assert metered.only.blocked is True
    assert len(refused) == 1


def test_wrap__while_it_runs__its_estimates_are_held(init: Init) -> None:
    """Input (times the plan's factor) and output as the caller says, until the answer tells."""
    pg = init()
    limited(pg, 100_000)
    held: list[Any] = []

    def call() -> Any:
        held.append(pg.get_usage("u1").reserved_tokens_by_model)
        return ANSWER

    pg.wrap(call, "u1", "gpt-4o", estimated_input_tokens=1_000, estimated_max_tokens=50)
    assert held == [{"gpt-4o": 1_250}]
    assert pg.get_usage("u1").reserved_tokens_by_model == {}


def test_wrap__in_a_strict_plan__its_estimates_are_its_worst_case(init: Init) -> None:
    """What does not fit is refused, what fits is held to the token."""
    pg = init()
    limited(pg, 1_000, pre_call_estimate=True)
    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(lambda: ANSWER, "u1", "gpt-4o", estimated_input_tokens=951, estimated_max_tokens=50)
    pg.wrap(lambda: ANSWER, "u1", "gpt-4o", estimated_input_tokens=950, estimated_max_tokens=50)


def test_wrap__without_estimates__holds_what_such_calls_really_took(init: Init) -> None:
    """After three calls the fourth holds their mean, input and output."""
    pg = init()
    held: list[Any] = []

    def call() -> Any:
        held.append(pg.get_usage("u1").reserved_tokens_by_model["gpt-4o"])
        return ANSWER

    limited(pg, 1_000_000)
    for _ in range(4):
        pg.wrap(call, "u1", "gpt-4o")
    assert held[0] > 4_096
    assert held[3] == 120


SMALL = {"model": "gpt-4o", "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
ROOMY: Any = {"estimated_input_tokens": 100, "estimated_max_tokens": 20}


async def test_awrap__while_others_hold_the_room__waits_for_its_turn(init: Init) -> None:
    """Room for one hold at a time, and for what three calls really take: none is refused."""
    pg = init()
    limited(pg, 150, pre_call_estimate=True)
    inside: list[int] = []

    async def call() -> Any:
        inside.append(1)
        await asyncio.sleep(0.01)
        assert len(inside) == 1
        inside.pop()
        return SMALL

    calls = [pg.awrap(call, "u1", "gpt-4o", **ROOMY) for _ in range(3)]
    assert await asyncio.gather(*calls) == [SMALL] * 3


def test_wrap__while_others_hold_the_room__waits_for_its_turn(init: Init) -> None:
    """The same of threads."""
    pg = init()
    limited(pg, 150, pre_call_estimate=True)
    inside, answers = threading.Semaphore(1), []

    def call() -> Any:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        inside.release()
        return SMALL

    def one() -> None:
        answers.append(pg.wrap(call, "u1", "gpt-4o", **ROOMY))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [SMALL] * 3


def test_wrap__with_and_without_an_estimate__is_learned_apart(init: Init) -> None:
    """A caller's estimates say nothing of a call whose caller made none."""
    pg = init()
    limited(pg, 1_000_000)
    held: list[Any] = []

    def call() -> Any:
        held.append(pg.get_usage("u1").reserved_tokens_by_model["gpt-4o"])
        return ANSWER

    for _ in range(4):
        pg.wrap(call, "u1", "gpt-4o", estimated_input_tokens=50)
        pg.wrap(call, "u1", "gpt-4o")
    assert held[-2:] == [120, 120]


# -- usage of the result

MESSAGE = {
    "type": "message",
    "model": "claude-sonnet-5",
    "usage": {"input_tokens": 40, "output_tokens": 20, "cache_read_input_tokens": 60},
}
RESPONSE = {"object": "response", "model": "gpt-4o", "output": [],
            "usage": {"input_tokens": 100, "output_tokens": 20}}  # fmt: skip


class Slotted:
    """An answer without a dict of its own."""

    __slots__ = ("model", "usage")

    def __init__(self, model: str, usage: Any) -> None:
        self.model, self.usage = model, usage


class Counts:
    """Counts that are computed."""

    prompt_tokens = property(lambda self: 100)
    completion_tokens = property(lambda self: 20)


def mock() -> Any:
    """What an application's own tests answer with: it has every attribute and method."""
    made = MagicMock()
    made.model, made.usage.prompt_tokens, made.usage.completion_tokens = "gpt-4o", 100, 20
    return made


class Envelope:
    """A raw response, opened by the application."""

    def parse(self) -> Any:
        """Open it."""
        return ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        MESSAGE,
        RESPONSE,
        SimpleNamespace(model="gpt-4o", usage=SimpleNamespace(**USAGE)),
        Slotted("gpt-4o", USAGE),
        Slotted("gpt-4o", Counts()),
        {"model": "gpt-4o", "usage": {"input_tokens": 100, "output_tokens": 20}},
        Envelope(),
        mock(),
    ],
    ids=[
        "chat",
        "message",
        "response",
        "object",
        "slots",
        "properties",
        "plain",
        "envelope",
        "mock",
    ],
)
@pytest.mark.parametrize("provider", [None, "groq"])
def test_wrap__an_answer_of_a_known_shape__is_read(
    init: Init, answer: Any, provider: str | None
) -> None:
    """Whoever made it, with or without a provider's name; cached input is part of the input."""
    pg = init()
    metered = Metered(pg)
    assert pg.wrap(lambda: answer, "u1", provider=provider) is answer
    event = metered.only
    assert (event.input_tokens, event.output_tokens, event.provider) == (100, 20, provider)
    assert event.quality == ("unpriced" if provider else "exact")  # groq sells no such model


@pytest.mark.parametrize(
    ("provider", "input_tokens"), [("openai", 40), ("anthropic", 100), (None, 100)]
)
def test_wrap__a_named_provider__has_its_own_reader(
    init: Init, provider: str | None, input_tokens: int
) -> None:
    """OpenAI's input includes what was cached, Anthropic's does not."""
    pg = init()
    metered = Metered(pg)
    usage = {"input_tokens": 40, "output_tokens": 20, "cache_read_input_tokens": 60}
    pg.wrap(lambda: {"model": "m", "usage": usage}, "u1", provider=provider)
    assert metered.only.input_tokens == input_tokens


def test_wrap__anthropics_thinking__is_told_by_its_name(init: Init) -> None:
    """A plain dict without its type is read as whose it is said to be."""
    pg = init()
    metered = Metered(pg)
    details = {"thinking_tokens": 5}
    usage = {"input_tokens": 40, "output_tokens": 20, "output_tokens_details": details}
    pg.wrap(lambda: {"model": "m", "usage": usage}, "u1", provider="anthropic")
    assert metered.only.reasoning_tokens == 5


def test_wrap__the_model_of_the_answer__wins(init: Init) -> None:
    """The price is of the model that answered; the event names it."""
    pg = init()
    metered = Metered(pg)
    pg.wrap(lambda: {**ANSWER, "model": "gpt-4o-mini"}, "u1", "gpt-4o")
    assert (metered.only.model, metered.only.cost_total_nano) == ("gpt-4o-mini", 27_000)


def test_wrap__without_any_name_of_a_model__its_tokens_count(init: Init) -> None:
    """An event without a model costs nothing and says so."""
    pg = init()
    metered = Metered(pg)
    pg.wrap(lambda: {"usage": USAGE}, "u1")
    event = metered.only
    assert (event.model, event.total_tokens, event.quality) == (None, 120, "unpriced")
    (row,) = pg.report(("user", "model"))
    assert (row.model, row.input_tokens, row.output_tokens) == ("", 100, 20)


@pytest.mark.parametrize("answer", [None, "text", 5, [1], {"usage": {}}, {"usage": "x"}, object()])
def test_wrap__an_answer_that_cannot_be_read__is_booked_as_estimated_and_said_once(
    init: Init, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The unknown is loud: the estimate counts, marked, and the type is named."""
    pg = init()
    metered = Metered(pg)
    for _ in range(2):
        pg.wrap(lambda: answer, "u1", "gpt-4o", estimated_input_tokens=7, estimated_max_tokens=3)
    for event in metered.events:
        assert (event.input_tokens, event.output_tokens, event.quality) == (7, 3, "estimated")
    assert len(metered.events) == 2
    kind = f"usage_unreadable:wrap.sized:{type(answer).__name__}"
    assert diagnostics.counts[kind] == 2
    assert sum("cannot be read" in each.getMessage() for each in caplog.records) == 1


def test_wrap__tools_in_an_answer__cost_where_the_plan_names_them(init: Init) -> None:
    """As in calls of the SDKs."""
    pg = init()
    pg.configure_plan("tools", PlanConfig(tool_costs={"search": 0.01}))
    pg.assign_plan("u1", "tools")
    metered = Metered(pg)
    tool = {"message": {"tool_calls": [{"function": {"name": "search"}}]}}
    pg.wrap(lambda: {**ANSWER, "choices": [tool]}, "u1")
    assert (metered.only.tool_calls, metered.only.cost_tools_nano) == (["search"], 10_000_000)


def test_wrap__a_registered_extractor__is_asked(init: Init) -> None:
    """By its provider's name alone; without a name after the shapes that are known."""
    registry = ProviderRegistry()
    registry.register(
        ProviderConfig(
            "acme", "acme", "Client", "run", extract_tokens=lambda a: (a["in"], a["out"])
        )
    )
    pg = init(registry=registry)
    metered = Metered(pg)
    own = {"in": 100, "out": 20, "usage": None}
    pg.wrap(lambda: own, "u1", "gpt-4o", provider="acme")
    pg.wrap(lambda: own, "u1", "gpt-4o")
    pg.wrap(lambda: {"in": 1, "out": 2, **ANSWER}, "u1", provider="acme")
    pg.wrap(lambda: {"in": 1, "out": 2, **ANSWER}, "u1")
    totals = [(event.input_tokens, event.output_tokens) for event in metered.events]
    assert totals == [(100, 20), (100, 20), (1, 2), (100, 20)]


# -- bad arguments


@pytest.mark.parametrize("user", [None, "", "x" * 256, object(), 1.5])
def test_wrap__a_user_id_that_cannot_be_used__counts_as_missing(init: Init, user: Any) -> None:
    """As in a context: said, treated as missing, and not the surrounding user's."""
    pg = init()
    metered = Metered(pg)
    with paygent_context("outer"):
        assert pg.wrap(lambda: ANSWER, user) is ANSWER
    assert metered.only.user_id == "(none)"
    assert ("bad_user_id" in diagnostics.counts) is (user is not None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5), ("model", "x" * 256), ("model", "gpt\ud800"), ("provider", b"x"),
        ("provider", "open\0ai"),
        ("estimated_input_tokens", -1), ("estimated_input_tokens", "7"),
        ("estimated_input_tokens", 10**10), ("estimated_max_tokens", True),
        ("estimated_max_tokens", 1.5), ("estimated_max_tokens", float("nan")),
    ],
)  # fmt: skip
async def test_wrap__a_bad_argument__is_said_once_and_ignored(
    init: Init, name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs around a call never raises for a bad value."""
    pg = init()
    metered = Metered(pg)
    arguments: dict[str, Any] = {name: value}
    for _ in range(2):
        assert pg.wrap(lambda: ANSWER, "u1", **arguments) is ANSWER
    assert [event.cost_total_nano for event in metered.events] == [CALL_NANO] * 2
    assert diagnostics.counts[f"wrap:{name}"] == 2
    assert sum(name in each.getMessage() for each in caplog.records) == 1


# -- how a callable that raised ends


def error_of(name: str, base: type[Exception] = Exception, **fields: Any) -> Exception:
    """An exception of a class of this name."""
    made: Exception = type(name, (base,), {})("x")
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (error_of("RateLimitError", status_code=429), False),
        (error_of("InternalServerError", status_code=500), False),
        (error_of("APIResponseValidationError", status_code=200), True),
        (error_of("ConnectError"), False),
        (error_of("APITimeoutError"), True),
        (TimeoutError(), True),
        (ConnectionRefusedError(), False),
        (ConnectionResetError(), True),
        (error_of("ReadTimeout", OSError), True),
        (error_of("ConnectTimeout", OSError), False),
        (json.JSONDecodeError("x", "y", 0), True),
        (ValueError("of the app"), False),
        (KeyError("of the app"), False),
        (RuntimeError("of the app"), False),
        (error_of("APITimeoutError", ValueError), True),
        (KeyboardInterrupt(), True),
        (SystemExit(), True),
        (asyncio.CancelledError(), True),
        (GeneratorExit(), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_wrap__a_callable_that_raises__counts_only_if_a_request_may_have_been_paid(
    init: Init, error: BaseException, counts: bool
) -> None:
    """Errors of a provider tell; errors of the application's code are void. Nothing stays held."""
    pg = init()
    metered = Metered(pg)

    def fail() -> Any:
        raise error

    with pytest.raises(type(error)):
        pg.wrap(fail, "u1", "gpt-4o", estimated_input_tokens=7, estimated_max_tokens=3)
    assert [event.quality for event in metered.events] == ["estimated"] * counts
    assert pg.get_usage("u1").reserved_cost_nano == 0


async def test_awrap__cancelled__settles_the_estimate(init: Init) -> None:
    """The request may have been sent; nothing stays held."""
    pg = init()
    metered = Metered(pg)
    started = asyncio.Event()

    async def call() -> None:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(pg.awrap(call(), "u1", "gpt-4o", estimated_max_tokens=3))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (metered.only.quality, metered.only.output_tokens) == ("estimated", 3)
    assert pg.get_usage("u1").reserved_cost_nano == 0


# -- switched off


@pytest.mark.parametrize("how", ["disabled", "shut down", "user off"])
async def test_wrap__where_nothing_is_metered__runs(
    init: Init, how: str, monkeypatch: pytest.MonkeyPatch, db_path: str
) -> None:
    """The callable's answer arrives; nothing is counted."""
    if how == "disabled":
        monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = init()
    if how == "user off":
        used_up(pg)
        pg.shutdown()
        with closing(sqlite3.connect(db_path)) as store, store:
            store.execute("UPDATE users SET sdk_enabled = 0")
        pg = init()
        await asyncio.to_thread(pg.get_usage, "u1")
    metered = Metered(pg)
    if how == "shut down":
        pg.shutdown()

    async def call() -> Any:
        return ANSWER

    assert pg.wrap(lambda: ANSWER, "u1", "gpt-4o") is ANSWER
    assert await pg.awrap(call, "u1", "gpt-4o") is ANSWER
    assert await pg.awrap(call(), "u1", "gpt-4o") is ANSWER
    assert metered._events == []
    assert diagnostics.counts.get("shut_down", 0) == (3 if how == "shut down" else 0)


# -- work that is still to be done


def words() -> Iterator[str]:
    """A stream of the application's."""
    yield "a"
    yield "b"


async def words_async() -> AsyncIterator[str]:
    """An async stream of the application's."""
    yield "a"
    yield "b"


def held(pg: Paygent) -> int:
    """What u1's calls in flight hold."""
    return pg.get_usage("u1").reserved_cost_nano


@pytest.mark.parametrize("end", ["read", "close", "drop", "raise", "never started"])
def test_wrap__a_generator__holds_until_it_ends_and_counts_once(init: Init, end: str) -> None:
    """It may be read to its end, closed, broken or dropped; a wrapping generator sees each."""
    pg = init()
    metered = Metered(pg)
    stream: Any = pg.wrap(words, "u1", "gpt-4o", estimated_max_tokens=3)
    assert inspect.isgenerator(stream)
    assert (stream.__name__, stream.__qualname__) == (words.__name__, words.__qualname__)
    if end != "never started":
        assert next(stream) == "a"
    assert (held(pg) > 0, metered.events) == (True, [])
    if end == "read":
        assert list(stream) == ["b"]
    elif end == "close":
        stream.close()
    elif end == "raise":
        with pytest.raises(KeyError):
            stream.throw(KeyError())
    else:
        del stream
    assert (held(pg), metered.only.quality, metered.only.output_tokens) == (0, "estimated", 3)
    stream = None
    gc.collect()
    assert len(metered.events) == 1
    assert diagnostics.counts["usage_unreadable:wrap:generator"] == 1


def test_wrap__a_generator__passes_on_what_is_sent_thrown_and_returned(init: Init) -> None:
    """The wrapper follows the whole protocol of generators."""
    pg = init()
    metered = Metered(pg)

    def body() -> Any:
        got = yield "a"
        try:
            yield got
        except KeyError:
            yield "caught"
        return "returned"

    stream: Any = pg.wrap(body, "u1", "gpt-4o")
    assert [next(stream), stream.send("sent"), stream.throw(KeyError())] == ["a", "sent", "caught"]
    with pytest.raises(StopIteration) as caught:
        next(stream)
    assert (caught.value.value, len(metered.events)) == ("returned", 1)


@pytest.mark.parametrize(
    ("items", "error", "counts"),
    [
        (0, KeyError(), False), (1, KeyError(), True), (0, TimeoutError(), True),
        (0, KeyboardInterrupt(), True), (1, asyncio.CancelledError(), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)  # fmt: skip
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_wrap__a_generator_that_raises__counts_if_a_request_may_have_been_paid(
    init: Init, items: int, error: BaseException, counts: bool, kind: str
) -> None:
    """Before its first item the error decides, as for any callable; afterwards it was answered."""
    pg = init()
    metered = Metered(pg)

    def body() -> Iterator[int]:
        yield from range(items)
        raise error

    async def body_async() -> AsyncIterator[int]:
        for item in body():
            yield item

    with pytest.raises(type(error)) as caught:
        if kind == "sync":
            list(pg.wrap(body, "u1", "gpt-4o"))
        else:
            [item async for item in pg.wrap(body_async, "u1", "gpt-4o")]
    assert caught.value is error
    assert ([event.quality for event in metered.events], held(pg)) == (["estimated"] * counts, 0)


async def test_wrap__an_async_generator__passes_on_what_is_sent_thrown_and_closed(
    init: Init,
) -> None:
    """The wrapper follows the whole protocol of async generators, also when it is dropped."""
    pg = init()
    metered = Metered(pg)
    ends: list[str] = []

    async def body() -> Any:
        try:
            got = yield "a"
            try:
                yield got
            except KeyError:
                yield "caught"
        finally:
            await asyncio.sleep(0)
            ends.append("closed")

    for end in ("close", "drop"):
        stream: Any = pg.wrap(body, "u1", "gpt-4o")
        assert inspect.isasyncgen(stream)
        assert await anext(stream) == "a"
        assert await stream.asend("sent") == "sent"  # type: ignore[arg-type]
        assert await stream.athrow(KeyError()) == "caught"
        assert held(pg) > 0
        if end == "close":
            await stream.aclose()
        else:
            del stream
            await asyncio.sleep(0.01)  # the event loop closes it
        assert held(pg) == 0
    assert (ends, len(metered.events)) == (["closed", "closed"], 2)


def test_wrap__an_async_generator_without_a_loop__counts_when_it_is_collected(init: Init) -> None:
    """The garbage collector closes it: its call ends where no lock may be held."""
    pg = init()
    metered = Metered(pg)
    stream: Any = pg.wrap(words_async, "u1", "gpt-4o")
    with pytest.raises(StopIteration) as caught:
        anext(stream).send(None)
    assert caught.value.value == "a"
    del stream, caught
    gc.collect()
    assert (held(pg), metered.only.quality) == (0, "estimated")


class Box:
    """Work under way that refers to itself, so that only the garbage collector drops it."""

    def __init__(self, pg: Paygent, kind: str, *, fails_to_clean_up: bool = False) -> None:
        """Begin a call as user u1 and run it to its first pause."""
        bodies = {"generator": self.generate, "async generator": self.generate_async}
        body: Any = bodies.get(kind, self.run)
        wrap: Any = pg.awrap if kind == "awrap" else pg.wrap
        self.fails_to_clean_up = fails_to_clean_up
        self.work = wrap(body, "u1", "gpt-4o", estimated_max_tokens=3)
        step = self.work.asend(None) if kind == "async generator" else self.work
        with suppress(StopIteration):  # an async generator has yielded
            step.send(None)

    def clean_up(self) -> None:
        """Fail where a test asks for it."""
        if self.fails_to_clean_up:
            raise ValueError("at its close")

    def generate(self) -> Iterator[int]:
        """Pause as a generator."""
        try:
            yield 1
        finally:
            self.clean_up()

    async def generate_async(self) -> AsyncIterator[int]:
        """Pause as an async generator."""
        yield 1

    async def run(self) -> None:
        """Pause as a coroutine."""
        try:
            await pause()
        finally:
            self.clean_up()


@types.coroutine
def pause() -> Iterator[None]:
    """Suspend a coroutine without an event loop."""
    yield


@pytest.mark.parametrize("kind", ["generator", "async generator", "coroutine", "awrap"])
def test_wrap__work_collected_inside_one_of_our_locks__ends_where_none_is_held(
    init: Init, kind: str
) -> None:
    """A finalizer runs at any allocation; to settle in it would wait for its own thread's lock."""
    pg = init()
    metered = Metered(pg)
    pg.get_usage("u1")
    gc.collect()
    gc.disable()
    try:
        Box(pg, kind)
        assert run_inside_lock(pg, "u1", gc.collect) > 0
    finally:
        gc.enable()
    assert (metered.only.output_tokens, held(pg)) == (3, 0)


@pytest.mark.parametrize("kind", ["generator", "coroutine", "awrap"])
def test_wrap__work_that_fails_when_it_is_collected__ends_where_no_lock_is_held(
    init: Init, kind: str
) -> None:
    """The body's own exception takes the place of the closing's."""
    pg = init()
    pg.get_usage("u1")
    box = Box(pg, kind, fails_to_clean_up=True)

    def close() -> None:
        with pytest.raises(ValueError, match="at its close"):
            box.work.close()

    assert run_inside_lock(pg, "u1", close) > 0
    assert held(pg) == 0


def test_wrap__a_generator_collected_after_its_end__defers_nothing(init: Init) -> None:
    """Its call has ended."""
    pg = init()
    streams = [pg.wrap(words, "u1", "gpt-4o")]
    assert list(streams[0]) == ["a", "b"]
    assert run_inside_lock(pg, "u1", streams.clear) == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_wrap__each_step_of_a_generator__runs_as_the_user_of_its_call(
    init: Init, kind: str
) -> None:
    """The code that iterates keeps its own user between two steps, on whatever thread it is."""
    pg = init()

    def user() -> Any:
        identity = current_identity()
        return identity.user_id if identity is not None else None

    def body() -> Iterator[Any]:
        yield user()
        yield user()

    async def body_async() -> AsyncIterator[Any]:
        yield user()
        yield user()

    seen: list[Any] = []
    with paygent_context("reader"):
        if kind == "sync":
            for item in pg.wrap(body, "u1"):
                seen += [item, user()]
        else:
            async for item in pg.wrap(body_async, "u1"):
                seen += [item, user()]
    assert seen == ["u1", "reader"] * 2


def test_wrap__while_a_generator_is_open__a_call_on_another_thread_walks_no_stack(
    init: Init,
) -> None:
    """Only the iteration itself costs anything: other threads do not look for its body."""
    pg = init()
    stream = pg.wrap(words, "u1", "gpt-4o")
    assert next(stream) == "a"
    walks: list[str] = []

    def note(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function in (sys._getframe, sys._current_frames):
            walks.append(frame.f_code.co_filename)

    def call() -> None:
        sys.setprofile(note)
        try:
            pg.wrap(lambda: ANSWER, "u2", "gpt-4o")
        finally:
            sys.setprofile(None)

    call()  # the first call logs, and `logging` looks for its caller
    walks.clear()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert (walks, list(stream)) == ([], ["b"])


async def test_awrap__an_async_generator__counts_when_it_ends(init: Init) -> None:
    """The same for async ones, whether the callable is async or not."""
    pg = init()
    metered = Metered(pg)

    async def call() -> AsyncIterator[str]:
        return words_async()

    streams = [await pg.awrap(call, "u1", "gpt-4o"), pg.wrap(words_async, "u1", "gpt-4o")]
    for number, stream in enumerate(streams):
        assert len(metered.events) == number
        assert [each async for each in stream] == ["a", "b"]
        assert len(metered.events) == number + 1
    assert held(pg) == 0


def test_wrap__iterators_of_other_classes__stay_as_they_are_and_count_at_once(init: Init) -> None:
    """They may have attributes, and their end cannot be noticed: the estimate is booked."""

    class Own:
        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            raise StopIteration

    pg = init()
    metered = Metered(pg)
    assert type(pg.wrap(Own, "u1", "gpt-4o")) is Own
    assert list(pg.wrap(lambda: map(str, [1]), "u1", "gpt-4o")) == ["1"]
    assert [event.quality for event in metered.events] == ["estimated"] * 2
    kinds = ("usage_unreadable:wrap:Own", "usage_unreadable:wrap:map")
    assert [diagnostics.counts[kind] for kind in kinds] == [1, 1]


async def test_wrap__an_async_function_by_mistake__still_counts_once(init: Init) -> None:
    """The call ends when the wrapping coroutine has run, and its result is read."""
    pg = init()
    metered = Metered(pg)

    async def call() -> Any:
        await asyncio.sleep(0)
        return ANSWER

    coroutine = pg.wrap(call, "u1", "gpt-4o")
    assert (inspect.iscoroutine(coroutine), held(pg) > 0) == (True, True)
    assert await asyncio.create_task(coroutine) is ANSWER
    assert (metered.only.quality, held(pg)) == ("exact", 0)


@pytest.mark.parametrize("end", ["cancelled", "raised", "closed", "never awaited"])
async def test_wrap__a_coroutine_that_does_not_return__ends_its_call_once(
    init: Init, end: str
) -> None:
    """A cancelled or dropped one may have sent its request; an error decides for itself."""
    pg = init()
    metered = Metered(pg)

    async def call() -> None:
        if end == "raised":
            raise KeyError
        await asyncio.sleep(60)

    coroutine: Any = pg.wrap(call, "u1", "gpt-4o", estimated_max_tokens=3)
    if end == "cancelled":
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif end == "raised":
        with pytest.raises(KeyError):
            await coroutine
    elif end == "closed":
        coroutine.send(None)
        coroutine.close()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            del coroutine
            gc.collect()
    counts = end != "raised"
    assert ([event.output_tokens for event in metered.events], held(pg)) == ([3] * counts, 0)


async def test_wrap__a_generator_that_is_a_coroutine__stays_awaitable(init: Init) -> None:
    """`types.coroutine` makes an awaitable of a generator."""
    pg = init()
    metered = Metered(pg)

    @types.coroutine
    def call() -> Any:
        yield
        return ANSWER

    assert await pg.wrap(call, "u1", "gpt-4o") is ANSWER
    assert metered.only.quality == "exact"


def test_wrap__an_answer_that_breaks_our_reading__is_returned_and_nothing_stays_held(
    init: Init, swallowed: Swallowed
) -> None:
    """Neither a field that cannot be read nor an iterator that cannot be replaced harms the app."""

    class Odd:
        response, _iterator = object(), property(lambda self: iter([1]))

        def __next__(self) -> int:
            return 1

    def raises(self: Any) -> Any:
        raise KeyError("x")

    dictless = type("Dictless", (), {"__dict__": property(raises)})

    class Worse:
        @property
        def usage(self) -> Any:
            """Fail."""
            raise KeyError("x")

    swallowed.expect("settle", "usage")
    pg = init()
    metered = Metered(pg)
    kinds: Any = (Odd, dictless, Worse)
    for made in [kind() for kind in kinds]:
        give = functools.partial(getattr, SimpleNamespace(it=made), "it")
        assert pg.wrap(give, "u1", "gpt-4o") is made
    for _, error in swallowed.seen:
        error.__traceback__ = None  # only this list keeps the failed call from its finalizer
    assert [event.quality for event in metered.events] == ["estimated"] * 3
    assert held(pg) == 0


# -- a call around calls


def test_wrap__inside_another__only_the_inner_one_counts(init: Init) -> None:
    """The outer one gives up its hold before the inner one is gated: one call has room."""
    pg = init()
    limited(pg, 120, pre_call_estimate=True, contention_wait_s=0)
    metered = Metered(pg)
    sizes: Any = {"estimated_input_tokens": 100, "estimated_max_tokens": 20}

    def inner() -> Any:
        return pg.wrap(lambda: ANSWER, "u1", "gpt-4o", **sizes)

    assert pg.wrap(inner, "u1", "gpt-4o", **sizes) is ANSWER
    assert metered.only.quality == "exact"
    assert held(pg) == 0


async def test_awrap__inner_calls_of_several_tasks__count_and_the_outer_does_not(
    init: Init,
) -> None:
    """What a task inherits of its context is enough."""
    pg = init()
    metered = Metered(pg)

    async def one() -> Any:
        return ANSWER

    async def both() -> Any:
        return await asyncio.gather(*(pg.awrap(one, "u1", "gpt-4o") for _ in range(2)))

    assert await pg.awrap(both, "u1", "gpt-4o") == [ANSWER, ANSWER]
    assert [event.quality for event in metered.events] == ["exact"] * 2


async def test_awrap__inner_calls_of_a_task_that_it_is_given__count_and_it_does_not(
    init: Init,
) -> None:
    """A task runs in a context of its own. One without calls counts itself."""
    pg = init()
    metered = Metered(pg)

    async def one() -> Any:
        return await pg.awrap(asyncio.sleep(0, ANSWER), "u1", "gpt-4o")

    assert await pg.awrap(asyncio.create_task(one()), "u1", "gpt-4o") is ANSWER
    assert len(metered.events) == 1
    await pg.awrap(asyncio.create_task(asyncio.sleep(0, ANSWER)), "u1", "gpt-4o")
    assert [event.quality for event in metered.events] == ["exact"] * 2
    assert await pg.awrap(lambda: asyncio.create_task(one()), "u1", "gpt-4o") is ANSWER
    assert [event.quality for event in metered.events] == ["exact"] * 3
    assert (held(pg), nesting.tasks) == (0, {})


def test_wrap__calls_in_the_body_of_its_generator__count_and_it_does_not(init: Init) -> None:
    """The body runs later, on another thread and in another context."""
    pg = init()
    metered = Metered(pg)

    def body() -> Iterator[Any]:
        yield "before"
        yield pg.wrap(lambda: ANSWER, "u1", "gpt-4o")

    stream = pg.wrap(body, "u1", "gpt-4o")
    other = pg.wrap(words, "u1", "gpt-4o")
    read: list[Any] = []
    thread = threading.Thread(target=contextvars.Context().run, args=(read.extend, stream))
    thread.start()
    thread.join()
    assert read == ["before", ANSWER]
    assert [event.quality for event in metered.events] == ["exact"]
    del other
    assert [event.quality for event in metered.events] == ["exact", "estimated"]


async def test_wrap__calls_in_the_body_of_its_async_generator__count_and_it_does_not(
    init: Init,
) -> None:
    """The same across awaits."""
    pg = init()
    metered = Metered(pg)

    async def call() -> Any:
        await asyncio.sleep(0)
        return await pg.awrap(asyncio.sleep(0, ANSWER), "u1", "gpt-4o")

    async def body() -> AsyncIterator[Any]:
        yield await call()

    assert [each async for each in pg.wrap(body, "u1", "gpt-4o")] == [ANSWER]
    assert [event.quality for event in metered.events] == ["exact"]


def test_wrap__a_limit_that_refuses_inside__reaches_the_app_and_counts_nothing(init: Init) -> None:
    """The one exception of ours passes through the outer call as it is."""
    pg = init()
    used_up(pg)
    metered = Metered(pg)

    def inner() -> Any:
        return pg.wrap(lambda: ANSWER, "u1", "gpt-4o")

    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(inner, "u2", "gpt-4o")
    assert metered.events == []
    assert pg.get_usage("u2").reserved_cost_nano == 0


# -- whatever fails of ours


@pytest.mark.parametrize("method", ["begin", "settle"])
async def test_wrap__a_meter_that_breaks__is_counted_and_the_answer_arrives(
    init: Init, method: str, swallowed: Swallowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application never suffers: the very result, the very exception."""
    swallowed.expect(method)
    pg = init()

    def broken(*args: Any) -> Any:
        raise RuntimeError("of ours")

    monkeypatch.setattr(pg._parts.meter, method, broken)
    error = TimeoutError()

    async def answer() -> Any:
        return ANSWER

    def fail() -> Any:
        raise error

    assert pg.wrap(lambda: ANSWER, "u1") is ANSWER
    assert await pg.awrap(answer(), "u1") is ANSWER
    with pytest.raises(TimeoutError) as caught:
        pg.wrap(fail, "u1")
    assert caught.value is error
    assert list(pg.wrap(words, "u1")) == ["a", "b"]


def test_wrap__many_threads_at_once__each_count_once_for_their_user(init: Init) -> None:
    """Nothing is shared between runs."""
    pg = init()
    metered = Metered(pg)

    def loop(user: str) -> None:
        for _ in range(50):
            pg.wrap(lambda: pg.wrap(lambda: ANSWER, user, "gpt-4o"), "outer", "gpt-4o")

    threads = [threading.Thread(target=loop, args=(f"u{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    users = [event.user_id for event in metered.events]
    assert {user: users.count(user) for user in set(users)} == {f"u{n}": 50 for n in range(8)}
    assert pg.get_usage("outer").reserved_cost_nano == 0
