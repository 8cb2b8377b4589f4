"""`paygent_track`: functions of each kind, run as a user."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.unit.client.context.here import place, who

from paygent import (
    InvalidValue,
    Paygent,
    paygent_context,
    paygent_track,
)


def test_track__a_function__runs_as_its_user() -> None:
    """The decorator is a block around the function, which keeps its name and result."""

    @paygent_track("a", "s1", metadata={"x": 1})
    def work(number: int) -> tuple[int, Any]:
        """Do some work."""
        return number, place()

    assert work(3) == (3, ("a", "s1", None, {"x": 1}))
    assert (work.__name__, work.__doc__, who()) == ("work", "Do some work.", None)


def test_track__as_a_method_of_paygent__is_the_same() -> None:
    """`pg.track` needs no instance state."""

    @Paygent.track("a")
    def work() -> str | None:
        return who()

    assert work() == "a"


async def test_track__a_coroutine_function__stays_one_and_runs_as_its_user() -> None:
    """Frameworks that check for coroutine functions still find one."""

    @paygent_track("a")
    async def work() -> str | None:
        await asyncio.sleep(0)
        return who()

    assert inspect.iscoroutinefunction(work)
    assert await work() == "a"
    assert who() is None


def test_track__without_a_user__keeps_the_surrounding_one() -> None:
    """A decorator may add a session or metadata only."""

    @paygent_track(session_id="s9")
    def work() -> Any:
        return place()[:2]

    with paygent_context("outer"):
        assert work() == ("outer", "s9")
    assert work() == (None, "s9")


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [(("b",), {}, "b"), ((), {"user": 7}, "7"), ((), {}, "fallback")],
)
def test_track__with_user_id_param__takes_the_functions_own_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], expected: str
) -> None:
    """Positional, by name, or the parameter's default: the function's user wins."""

    @paygent_track("a", user_id_param="user")
    def work(user: Any = "fallback") -> str | None:
        return who()

    assert work(*args, **kwargs) == expected


def test_row_16__a_parameter_that_the_function_lacks__is_refused_where_it_is_decorated() -> None:
    """A misspelt parameter would leave every call without a user."""
    with pytest.raises(InvalidValue, match=r"user_id_param = 'uid': must be a parameter of work"):

        @paygent_track(user_id_param="uid")
        def work(user: str) -> None:
            """Never made."""


def test_track__a_parameter_among_any__is_found() -> None:
    """A function that takes any keywords may get it by name."""

    @paygent_track("a", user_id_param="user")
    def work(**others: Any) -> str | None:
        return who()

    assert (work(user="b"), work()) == ("b", "a")


def test_track__a_call_with_wrong_arguments__raises_the_functions_own_error(
    swallowed: Swallowed,
) -> None:
    """Reading the arguments never replaces Python's own error."""
    swallowed.expect("user_id_param")

    @paygent_track("a", user_id_param="user")
    def work(user: str) -> None:
        """Need one argument."""

    with pytest.raises(TypeError, match="takes 1 positional argument"):
        work("x", "y")  # type: ignore[call-arg]


def test_track__a_generator__has_its_user_inside_and_not_outside() -> None:
    """The reader of a generator keeps its own user between the steps."""

    @paygent_track("a")
    def steps() -> Generator[Any, Any, str]:
        got = yield who()
        yield (got, who())
        return "done"

    assert inspect.isgeneratorfunction(steps)
    generator = steps()
    with paygent_context("reader"):
        seen = [next(generator), who(), generator.send("sent"), who()]
        with pytest.raises(StopIteration) as stop:
            next(generator)
    assert seen == ["a", "reader", ("sent", "a"), "reader"]
    assert stop.value.value == "done"


def test_track__a_generator_closed_early__closes_the_function_as_its_user() -> None:
    """Clean-up code of the function runs when its reader leaves, and may make calls."""
    closed: list[str | None] = []

    @paygent_track("a")
    def steps() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(who())

    generator = steps()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert (closed, who()) == (["a"], None)


def test_track__an_exception_thrown_into_a_generator__reaches_the_function() -> None:
    """`throw` arrives where the function waits, as it would without the decorator."""

    @contextlib.contextmanager
    @paygent_track("a")
    def guarded() -> Iterator[str]:
        try:
            yield "in"
        except KeyError:
            seen.append("handled")

    seen: list[str] = []
    with guarded() as inside:
        seen.append(inside)
        raise KeyError("x")
    assert seen == ["in", "handled"]


async def test_track__an_async_generator__has_its_user_inside_and_not_outside() -> None:
    """The reader of an async generator keeps its own user between the steps."""
    closed: list[str | None] = []

    @paygent_track(user_id_param="user")
    async def steps(user: str) -> AsyncIterator[str | None]:
        try:
            yield who()
            await asyncio.sleep(0)
            yield who()
        finally:
            closed.append(who())

    assert inspect.isasyncgenfunction(steps)
    seen: list[str | None] = []
    async for inside in steps("a"):
        seen += [inside, who()]
    assert seen == ["a", None, "a", None]
    early: Any = steps("b")
    assert await anext(early) == "b"
    await early.aclose()
    assert (closed, who()) == (["a", "b"], None)


async def test_track__values_sent_into_an_async_generator__reach_the_function() -> None:
    """`asend` gives the function its value, as it would without the decorator."""

    @paygent_track("a")
    async def steps() -> Any:
        got = yield "first"
        yield got

    generator = steps()
    assert await anext(generator) == "first"
    received = await generator.asend("sent")
    await generator.aclose()
    assert received == "sent"


async def test_track__an_exception_thrown_into_an_async_generator__reaches_the_function() -> None:
    """`athrow` arrives where the function waits, as it would without the decorator."""
    seen: list[str] = []

    @contextlib.asynccontextmanager
    @paygent_track("a")
    async def guarded() -> AsyncIterator[None]:
        try:
            yield
        except KeyError:
            seen.append("handled")

    async with guarded():
        raise KeyError("x")
    assert seen == ["handled"]
