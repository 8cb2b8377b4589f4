"""Whose calls they are, around functions and in other places: decorators and bound work."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import InvalidValue, Paygent, paygent_context, paygent_track
from paygent.client.context.identity import Identity, LazyIdentity
from paygent.client.context.propagation import bind
from paygent.client.context.scopes import PropagatedContext, attach_identity, current_identity
from paygent.client.runtime import lifecycle

Init = Callable[..., Paygent]


def who() -> str | None:
    """The user whose calls are made here."""
    identity = current_identity()
    return identity.user_id if identity is not None else None


def place() -> tuple[Any, Any, Any, Any]:
    """User, session, plan and metadata of this place."""
    identity = current_identity()
    if identity is None:
        return (None, None, None, None)
    return (identity.user_id, identity.session_id, identity.plan, identity.metadata)


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
    """Frameworks that look for coroutine functions still find one."""

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
    [(("b",), {}, "b"), ((), {"whose": 7}, "7"), ((), {}, "fallback")],
)
def test_track__with_user_id_param__takes_the_functions_own_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], expected: str
) -> None:
    """Positional, by name, or the parameter's default: the function's user wins."""

    @paygent_track("a", user_id_param="whose")
    def work(whose: Any = "fallback") -> str | None:
        return who()

    assert work(*args, **kwargs) == expected


def test_track__a_parameter_that_is_not_there__takes_the_named_user() -> None:
    """Where the function has no such parameter, `user_id` counts."""

    @paygent_track("a", user_id_param="nobody")
    def work() -> str | None:
        return who()

    assert work() == "a"


def test_track__a_call_with_wrong_arguments__raises_the_functions_own_error(
    swallowed: Swallowed,
) -> None:
    """Our look at the arguments never replaces Python's."""
    swallowed.expect("user_id_param")

    @paygent_track("a", user_id_param="whose")
    def work(whose: str) -> None:
        """Need one argument."""

    with pytest.raises(TypeError, match="takes 1 positional argument"):
        work("x", "y")  # type: ignore[call-arg]


def test_track__a_generator__has_its_user_inside_and_not_outside() -> None:
    """The consumer of a generator keeps its own user between the steps."""

    @paygent_track("a")
    def steps() -> Generator[Any, Any, str]:
        got = yield who()
        yield (got, who())
        return "done"

    assert inspect.isgeneratorfunction(steps)
    generator = steps()
    with paygent_context("consumer"):
        seen = [next(generator), who(), generator.send("sent"), who()]
        with pytest.raises(StopIteration) as stop:
            next(generator)
    assert seen == ["a", "consumer", ("sent", "a"), "consumer"]
    assert stop.value.value == "done"


def test_track__a_generator_closed_early__closes_the_function() -> None:
    """Clean-up code of the function runs when its consumer leaves."""
    closed: list[bool] = []

    @paygent_track("a")
    def steps() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    generator = steps()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert closed == [True]


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
    """The consumer of an async generator keeps its own user between the steps."""
    closed: list[bool] = []

    @paygent_track(user_id_param="whose")
    async def steps(whose: str) -> AsyncIterator[str | None]:
        try:
            yield who()
            await asyncio.sleep(0)
            yield who()
        finally:
            closed.append(True)

    assert inspect.isasyncgenfunction(steps)
    seen: list[str | None] = []
    async for inside in steps("a"):
        seen += [inside, who()]
    assert seen == ["a", None, "a", None]
    early: Any = steps("b")
    assert await anext(early) == "b"
    await early.aclose()
    assert closed == [True, True]


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


# -- bound work


def test_bind__a_function__keeps_its_user_elsewhere_and_looks_like_itself() -> None:
    """In a bare thread, and in a block of another user, whose own comes back."""
    seen: list[str | None] = []

    def work(*names: str, end: str = "") -> str:
        """Say who."""
        seen.append(who())
        return "".join(names) + end

    with paygent_context("a"):
        bound = bind(work)
    assert (bound("x", "y", end="z"), bound.__name__, bound.__doc__) == ("xyz", "work", "Say who.")
    with paygent_context("b"):
        bound()
        seen.append(who())
    assert seen == ["a", "a", "b"]


def test_bind__a_function_that_raises__ends_as_it_does_and_the_user_comes_back() -> None:
    """The exception passes."""
    with paygent_context("a"):
        bound = bind(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bound()
    assert who() is None


def test_bind__without_a_user__is_the_function_itself() -> None:
    """Nobody is taken along, so that a user who is there later is not lost."""
    assert bind(who) is who


def test_bind__a_plain_function__can_be_pickled_with_its_user() -> None:
    """A pool of processes may carry it."""
    with paygent_context("a", "s1", metadata={"x": 1}):
        bound = bind(place)
    assert pickle.loads(pickle.dumps(bound))() == ("a", "s1", None, {"x": 1})


def test_bind__in_a_process_without_paygent__says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that was spawned has to call `init` itself."""
    with paygent_context("a"):
        bound = pickle.loads(pickle.dumps(bind(who)))
    assert (bound(), caplog.text) == ("a", "")
    monkeypatch.setattr(lifecycle, "_installed", [])
    assert bound() == "a"
    assert "Paygent.init was not called" in caplog.text
    assert pickle.loads(pickle.dumps(bound))() == "a"


async def test_bind__a_coroutine_function__stays_one() -> None:
    """And so does a coroutine that has been made."""

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
    """One that has been made, and its function."""

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
    """What the object has is not ours to take for our own."""

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
    """A decorator is used there too."""
    with paygent_context("a"):

        class Service:
            @bind
            def ask(self) -> tuple[object, str | None]:
                return self, who()

    service = Service()
    assert service.ask() == (service, "a")


def test_bind__an_object_that_refuses_to_be_looked_at__is_called(swallowed: Swallowed) -> None:
    """Whatever it raises when it is asked for its name."""

    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __call__(self) -> str | None:
            return who()

    swallowed.expect("bind")
    with paygent_context("a"):
        bound = bind(Odd())
    assert bound() == "a"


async def test_bind__an_object_whose_call_is_a_coroutine_function__runs_as_its_user() -> None:
    """What runs when it is awaited is the body, not the call."""

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


def test_bind__left_in_another_context__ends_as_it_does() -> None:
    """A function that runs on in a context of its own leaves ours alone."""
    with paygent_context("a"):
        bound = bind(lambda: contextvars.copy_context().run(who))
    assert (bound(), who()) == ("a", None)


@pytest.mark.parametrize("bad", [None, 5, "text", [print]])
def test_bind__anything_else__is_refused_with_its_rule(bad: Any) -> None:
    """What cannot run cannot be bound."""
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


async def test_as_identity__left_in_another_context__is_swallowed() -> None:
    """An async generator that another task closes."""

    async def work() -> AsyncIterator[None]:
        with attach_identity(None):
            yield

    generator = work()
    await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]
    await generator.aclose()  # type: ignore[attr-defined]


# -- identities that are asked for late


def test_late_identity__until_there_is_a_user__is_asked_again_and_then_never() -> None:
    """Whoever signs users in may run after the block was entered."""
    users: list[str | None] = [None, "a", "b"]
    late = LazyIdentity(lambda: users.pop(0), None, {"x": 1})
    assert [late.resolve().user_id for _ in range(3)] == [None, "a", "a"]
    assert (late.resolve().metadata, users) == ({"x": 1}, ["b"])


def test_late_identity__a_session_that_comes_later__is_asked_again_too() -> None:
    """The user is not asked again for it."""
    users, sessions = ["a"], [None, "s1", "s2"]
    late = LazyIdentity(users.pop, lambda: sessions.pop(0))
    assert [late.resolve().session_id for _ in range(3)] == [None, "s1", "s1"]
    assert late.resolve().user_id == "a"


@pytest.mark.parametrize("user", ["a", None])
def test_late_identity__taken_into_another_process__is_what_is_known_then(user: str | None) -> None:
    """There is no request to ask there, and none of the application's functions."""
    late = LazyIdentity(lambda: user, lambda: "s1", {"x": 1})
    with attach_identity(late):
        found: Any = pickle.loads(pickle.dumps(PropagatedContext.capture()))
    tokens = found.enter()
    taken = current_identity()
    found.leave(tokens)
    assert type(taken) is Identity
    assert (taken.user_id, taken.session_id, taken.metadata) == (user, "s1", {"x": 1})


def test_late_identity__taken_to_a_thread__is_asked_at_its_first_call() -> None:
    """Whoever signs users in may need a thread for that, and a lock that the function takes."""
    asked: list[str] = []
    late = LazyIdentity(lambda: asked.append("user") or "a", None)  # type: ignore[func-returns-value]
    with attach_identity(late):
        place: Any = PropagatedContext.capture()
    assert asked == []
    tokens = place.enter()
    assert (who(), asked) == ("a", ["user"])
    place.leave(tokens)


def test_late_identity__that_fails__is_nobody_and_counted(swallowed: Swallowed) -> None:
    """What the application's own function raises never reaches a call."""
    swallowed.expect("ask_user", "ask_session")
    late = LazyIdentity(lambda: 1 / 0, lambda: 1 / 0)
    assert (late.resolve().user_id, late.resolve().session_id) == (None, None)


def test_late_identity__whose_function_needs_the_user_itself__is_asked_once() -> None:
    """It may use an executor, or make a call: nobody's, as long as nobody is known."""
    asked: list[str | None] = []

    def ask() -> str:
        asked.append(who())
        return "a"

    with attach_identity(LazyIdentity(ask, None)):
        assert (who(), who(), asked) == ("a", "a", [None])


def test_late_identity__asked_by_two_threads__answers_both() -> None:
    """Only the thread that is asking goes without an answer."""
    both = threading.Barrier(2)

    def ask() -> str:
        both.wait(10)
        return "a"

    late, found = LazyIdentity(ask, None), []
    threads = [
        threading.Thread(target=lambda: found.append(late.resolve().user_id)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == ["a", "a"]
