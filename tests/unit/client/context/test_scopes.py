"""Where an identity is in effect: nested blocks, and the plan that a block names."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES
from tests.unit.client.context.here import place, who

from paygent import (
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.context.scopes import (
    Scope,
    attach_identity,
    current,
)
from paygent.client.runtime import lifecycle
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]


def test_context__nested_blocks__the_inner_user_wins_and_the_outer_comes_back() -> None:
    """Blocks nest like functions do."""
    seen = [who()]
    with paygent_context("a"):
        seen.append(who())
        with paygent_context("b"):
            seen.append(who())
        seen.append(who())
    assert [*seen, who()] == [None, "a", "b", "a", None]


def test_context__an_inner_block_of_the_same_user__inherits_what_it_does_not_name() -> None:
    """Session, plan and metadata of the same user are inherited; the inner block's own win."""
    with paygent_context("a", "s1", "pro", {"x": 1, "y": 1}):
        with paygent_context("a"):
            assert place() == ("a", "s1", "pro", {"x": 1, "y": 1})
        with paygent_context("a", "s2", metadata={"y": 2, "z": 3}):
            assert place() == ("a", "s2", "pro", {"x": 1, "y": 2, "z": 3})


def test_context__an_inner_block_of_another_user__inherits_nothing() -> None:
    """One user's session and metadata never reach another user."""
    with paygent_context("a", "s1", "pro", {"x": 1}), paygent_context("b"):
        assert place() == ("b", None, None, None)


def test_context__a_missing_user_inside__is_missing_and_not_the_outer_one() -> None:
    """A call whose user id got lost must not be billed to the surrounding user."""
    with paygent_context("a"), paygent_context(None):
        assert who() is None


def test_context__one_object_entered_twice__leaves_in_order() -> None:
    """A block object can be kept and entered again, even inside itself."""
    block = paygent_context("a")
    with block:
        with block:
            assert who() == "a"
        assert who() == "a"
    assert who() is None


def test_context__an_exception__passes_and_the_block_ends() -> None:
    """A block swallows nothing."""
    with pytest.raises(KeyError), paygent_context("a"):
        raise KeyError("x")
    assert who() is None


async def test_context__async_blocks__are_each_tasks_own() -> None:
    """Tasks at the same time have their own users."""

    async def one(user: str) -> str | None:
        async with paygent_context(user_id=user):
            await asyncio.sleep(0)
            return who()

    seen = await asyncio.gather(one("a"), one("b"))
    assert list(seen) == ["a", "b"]
    assert who() is None


def test_context__left_in_an_unrelated_context__warns_and_stays_where_it_was_entered() -> None:
    """A block that another task leaves (a generator's) is no error, and changes nothing there."""
    block, elsewhere = paygent_context("a"), contextvars.copy_context()
    elsewhere.run(block.__enter__)
    with paygent_context("b"):
        block.__exit__(None, None, None)
        assert who() == "b"
    assert (who(), elsewhere.run(who)) == (None, "a")
    assert diagnostics.counts["context_exited_elsewhere"] == 1


def test_context__left_in_a_copy_of_its_context__ends_in_both_and_warns() -> None:
    """A task that was started inside a block may leave it."""
    with paygent_context("outer"):
        block = paygent_context("a")
        block.__enter__()
        copied = contextvars.copy_context()
        copied.run(block.__exit__, None, None, None)
        assert (copied.run(who), who()) == ("outer", "outer")
        block.__exit__(None, None, None)
        assert who() == "outer"
    assert who() is None
    assert diagnostics.counts["context_exited_elsewhere"] == 2


def test_context__in_generators_read_in_turn__ends_with_each() -> None:
    """Whichever ends first, no user is left behind, and the reader keeps its own."""

    def steps(user: str) -> Iterator[str | None]:
        with paygent_context(user):
            yield who()
            yield who()

    with paygent_context("reader"):
        a, b = steps("a"), steps("b")
        assert (next(a), next(b)) == ("a", "b")
        a.close()  # type: ignore[attr-defined]
        b.close()  # type: ignore[attr-defined]
        assert who() == "reader"
        kept = steps("c")
        next(kept)
        with paygent_context("d"):
            kept.close()  # type: ignore[attr-defined]
            assert who() == "d"
        assert who() == "reader"
    assert who() is None
    assert diagnostics.counts["context_exited_elsewhere"] == 2


def test_context__left_out_of_order_again_and_again__keeps_no_chain() -> None:
    """A scope that has ended is not kept alive by the next one."""

    def steps(user: str) -> Iterator[str | None]:
        with paygent_context(user):
            yield who()
            yield who()

    for _ in range(3_000):
        a, b = steps("a"), steps("b")
        next(a), next(b)
        a.close()  # type: ignore[attr-defined]
        b.close()  # type: ignore[attr-defined]
    with paygent_context("x"):
        depth, says = 0, current.get()
        while says is not None:
            depth, says = depth + 1, getattr(says, "outer", None)
    assert (depth <= 2, who()) == (True, None)


def test_context__one_object_in_many_threads__is_each_threads_own() -> None:
    """One block object may serve all threads."""
    block, wrong = paygent_context("svc"), list[Any]()
    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(300):
            with block:
                time.sleep(0)
                inside = who()
            if (inside, who()) != ("svc", None):
                wrong.append((inside, who()))

    try:
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(switches)
    assert wrong == []
    assert "context_exited_elsewhere" not in diagnostics.counts


async def test_context__one_object_in_two_tasks__is_each_tasks_own() -> None:
    """Each task leaves its own scope, in any order."""
    block, first_is_out = paygent_context("a"), asyncio.Event()

    async def first() -> str | None:
        with block:
            await asyncio.sleep(0.01)
        first_is_out.set()
        return who()

    async def second() -> tuple[str | None, str | None]:
        with block:
            await first_is_out.wait()
            inside = who()
        return inside, who()

    assert list(await asyncio.gather(first(), second())) == [None, ("a", None)]
    assert "context_exited_elsewhere" not in diagnostics.counts


async def test_context__left_by_what_was_started_inside__keeps_its_user() -> None:
    """A task that outlives the block keeps its user."""
    is_out = asyncio.Event()

    async def work() -> str | None:
        await is_out.wait()
        return who()

    with paygent_context("a"):
        task = asyncio.create_task(work())
    is_out.set()
    assert await task == "a"


def test_context__of_a_user__costs_few_function_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function costs a web server's request, whose caches are cold, about a microsecond."""
    monkeypatch.setattr(lifecycle, "_installed", [True])
    called: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("paygent."):
            called.append(frame.f_code.co_name)

    def block() -> None:
        with paygent_context(user_id="ann"):
            pass

    block()  # the first one of a user validates the id
    outside = contextvars.Context()  # other tests leave scopes that have ended
    sys.setprofile(profile)
    try:
        outside.run(block)
    finally:
        sys.setprofile(None)
    assert called == ["__init__", "identity_of", "__enter__", "__init__", "__exit__"]


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.parametrize("outer", [None, "ann", "bob"])
def test_context__left__keeps_no_context_alive(
    monkeypatch: pytest.MonkeyPatch, outer: str | None, is_watched: bool
) -> None:
    """A task that outlives its block keeps the scope, which must not keep the block's context."""
    monkeypatch.setattr(lifecycle, "_installed", [True] if is_watched else [])
    with attach_identity(None), paygent_context(outer):
        with paygent_context("ann"):
            copied = contextvars.copy_context()
        assert who() == outer
    scope = copied[current]
    assert isinstance(scope, Scope)
    assert (scope._token, scope.has_ended, copied.run(who)) == (None, False, "ann")


async def test_attach_identity__left_in_another_context__is_ignored() -> None:
    """Another task may close an async generator."""

    async def work() -> AsyncIterator[None]:
        with attach_identity(None):
            yield

    generator = work()
    await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]
    await generator.aclose()  # type: ignore[attr-defined]


# -- a plan that a context names


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def call(client: openai.OpenAI) -> Any:
    """Make one call of $0.00045."""
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20)


def test_context__a_plan_for_an_unassigned_user__counts_and_is_kept(
    init: Init, client: openai.OpenAI
) -> None:
    """A user without an assigned plan is assigned the context's one."""
    pg = init()
    pg.configure_plan("tiny", PlanConfig(max_spend_per_period=0.0004))
    with paygent_context("u1", plan="tiny"):
        call(client)
    with paygent_context("u1"), pytest.raises(PaygentLimitExceeded):
        call(client)
    pg.shutdown()
    again = init()
    with paygent_context("u1"), pytest.raises(PaygentLimitExceeded):
        call(client)
    assert again.get_usage("u1").period_cost_nano == 450_000


def test_context__a_plan_for_an_assigned_user__is_ignored_and_logged_once(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """An assignment is the operator's decision; a context does not override it."""
    pg = init()
    pg.configure_plan("tiny", PlanConfig(max_spend_per_period=0))
    pg.configure_plan("pro", PlanConfig())
    pg.assign_plan("u1", "pro")
    with paygent_context("u1", plan="tiny"):
        call(client)
        call(client)
    with paygent_context("u1", plan="pro"):
        call(client)
    assert caplog.text.count("names plan tiny for a user") == 1
    assert diagnostics.counts["context_plan"] == 2


def test_context__an_unknown_plan__is_ignored_and_logged(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """A plan that is not configured changes no user's plan."""
    pg = init()
    with paygent_context("u1", plan="nope"):
        call(client)
    assert "names plan nope, which is not configured" in caplog.text
    assert pg.start_session("u2").plan == "default"
    assert [row.user_id for row in pg.report()] == ["u1"]
