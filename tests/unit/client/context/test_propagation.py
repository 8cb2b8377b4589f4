"""Bound work: functions of each kind, run elsewhere as their user."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.unit.client.context.here import place, who

from paygent import (
    InvalidValue,
    Paygent,
    paygent_context,
)
from paygent.client.context.propagation import bind
from paygent.client.runtime import lifecycle

Init = Callable[..., Paygent]


def test_bind__a_function__keeps_its_user_elsewhere_and_looks_like_itself() -> None:
    """In a bare thread, and in a block of another user, whose own comes back."""
    seen: list[str | None] = []

    def work(*names: str, end: str = "") -> str:
        """Return text."""
        seen.append(who())
        return "".join(names) + end

    with paygent_context("a"):
        bound = bind(work)
    assert (bound("x", "y", end="z"), bound.__name__, bound.__doc__) == (
        "xyz",
        "work",
        "Return text.",
    )
    with paygent_context("b"):
        bound()
        seen.append(who())
    assert seen == ["a", "a", "b"]


def test_bind__a_function_that_raises__raises_and_restores_the_user() -> None:
    """The exception is the function's own."""
    with paygent_context("a"):
        bound = bind(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bound()
    assert who() is None


def test_bind__without_a_user__is_the_function_itself() -> None:
    """Without a user nothing is bound, so that a later user is not lost."""
    assert bind(who) is who


def test_bind__a_plain_function__can_be_pickled_with_its_user() -> None:
    """A pool of processes pickles its work."""
    with paygent_context("a", "s1", metadata={"x": 1}):
        bound = bind(place)
    assert pickle.loads(pickle.dumps(bound))() == ("a", "s1", None, {"x": 1})


def test_bind__in_a_process_without_paygent__warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A spawned process has to call `init` itself."""
    with paygent_context("a"):
        bound = pickle.loads(pickle.dumps(bind(who)))
    monkeypatch.setattr(lifecycle, "_installed", [True])
    assert (bound(), caplog.text) == ("a", "")
    monkeypatch.setattr(lifecycle, "_installed", [])
    assert bound() == "a"
    assert "Paygent.init was not called" in caplog.text
    assert pickle.loads(pickle.dumps(bound))() == "a"


async def test_bind__a_coroutine_function__stays_one() -> None:
    """So does a coroutine object."""

    async def work() -> str | None:
        await asyncio.sleep(0)
        return who()

    with paygent_context("a"):
        bound, made = bind(work), bind(work())
    assert inspect.iscoroutinefunction(bound)
    assert inspect.iscoroutine(made)
    assert (await bound(), await made, who()) == ("a", "a", None)


def test_bind__generators__run_each_step_as_their_user() -> None:
    """A generator function, and a generator that is read after its block; sent values, thrown
    exceptions and the returned value arrive.
    """
    seen: list[Any] = []

    def work() -> Generator[str | None, str, str]:
        seen.append((yield who()))
        try:
            yield who()
        except KeyError:
            seen.append("thrown")
        return "end"

    with paygent_context("a"):
        made, function = bind(work()), bind(work)
    assert inspect.isgeneratorfunction(function)
    for generator in (made, function()):
        assert (next(generator), who()) == ("a", None)
        assert generator.send("sent") == "a"
        with pytest.raises(StopIteration) as stop:
            generator.throw(KeyError)
        assert stop.value.value == "end"
    assert seen == ["sent", "thrown"] * 2


async def test_bind__async_generators__run_each_step_as_their_user() -> None:
    """A generator object, and its function."""

    async def work() -> AsyncIterator[str | None]:
        yield who()
        await asyncio.sleep(0)
        yield who()

    with paygent_context("a"):
        made, function = bind(work()), bind(work)
    assert inspect.isasyncgenfunction(function)
    for generator in (made, function()):
        assert [item async for item in generator] == ["a", "a"]
    assert who() is None


def test_bind__an_object_with_fields_of_any_name__is_called_as_itself() -> None:
    """The wrapper keeps its own fields apart from the object's."""

    class Tool:
        def __init__(self) -> None:
            self._function = self._identity = self._place = lambda: "another"

        def __call__(self) -> tuple[str, str | None]:
            return "tool", who()

    with paygent_context("a"):
        bound = bind(Tool())
    assert bound() == ("tool", "a")
    assert bound._function() == "another"
    with pytest.raises(AttributeError):
        bound.missing  # noqa: B018


def test_bind__in_a_class_body__is_a_method() -> None:
    """`bind` may be used as a decorator there."""
    with paygent_context("a"):

        class Service:
            @bind
            def ask(self) -> tuple[object, str | None]:
                return self, who()

    service = Service()
    assert service.ask() == (service, "a")


def test_bind__an_object_that_raises_for_its_attributes__is_called(swallowed: Swallowed) -> None:
    """An error of its attributes never reaches the application."""

    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __call__(self) -> str | None:
            return who()

    swallowed.expect("bind")
    with paygent_context("a"):
        bound = bind(Odd())
    assert bound() == "a"


async def test_bind__an_object_with_a_coroutine_function_as_call__runs_as_its_user() -> None:
    """Its body runs when it is awaited, not when it is called."""

    class Tool:
        async def __call__(self) -> str | None:
            await asyncio.sleep(0)
            return who()

    with paygent_context("a"):
        bound = bind(Tool())
    assert await bound() == "a"


def test_bind__arguments_of_any_name__reach_the_function() -> None:
    """A keyword called `self` is the function's own."""

    def work(**given: int) -> dict[str, int]:
        return given

    with paygent_context("a"):
        bound = bind(work)
    assert bound(self=1, function=2) == {"self": 1, "function": 2}


def test_bind__run_in_a_copied_context__keeps_its_user() -> None:
    """A function may run code in a context of its own."""
    with paygent_context("a"):
        bound = bind(lambda: contextvars.copy_context().run(who))
    assert (bound(), who()) == ("a", None)


@pytest.mark.parametrize("bad", [None, 5, "text", [print]])
def test_bind__anything_else__is_refused_with_its_rule(bad: Any) -> None:
    """Only work that runs can be bound."""
    with pytest.raises(InvalidValue, match="must be callable, a generator or a coroutine"):
        bind(bad)


def test_bind__as_a_verb__is_the_same(init: Init) -> None:
    """`pg.bind`, from another thread."""
    pg = init(carry_user=False)
    seen: list[str | None] = []
    with paygent_context("a"):
        threads = [
            threading.Thread(target=target)
            for target in (lambda: seen.append(who()), pg.bind(lambda: seen.append(who())))
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [None, "a"]
