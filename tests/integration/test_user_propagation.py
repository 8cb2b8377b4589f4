"""The user is propagated with the work: each way of running it, each SDK, sync and async."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import multiprocessing
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.context.identity import LazyIdentity
from paygent.client.context.scopes import attach_identity, current_identity
from paygent.client.instrument.registry import instrumentation
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]
Call = Callable[[], Any]
Runner = Callable[[Call], Any]

WAIT_S = 30.0


def who(*_: Any) -> str | None:
    """Return the user of a call made here."""
    identity = current_identity()
    return identity.user_id if identity is not None else None


@pytest.fixture(params=["openai", "anthropic"])
def call(request: pytest.FixtureRequest, fake: FakeProvider) -> Iterator[Call]:
    """A sync call of each SDK."""
    if request.param == "openai":
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            yield lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    else:
        with anthropic.Anthropic(api_key="k", base_url=fake.url) as claude:
            yield lambda: claude.messages.create(
                model="claude-sonnet-5-5", max_tokens=64, messages=MESSAGES
            )


# -- ways to run a call elsewhere; each is used inside the user's block


class _Subclass(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def run(self) -> None:
        self._call()


def _start(thread: threading.Thread) -> None:
    thread.start()
    thread.join(WAIT_S)


def in_thread_of_a_thread(call: Call) -> None:
    """A thread that starts the one that calls."""
    _start(threading.Thread(target=lambda: _start(threading.Thread(target=call))))


def in_pool(call: Call) -> None:
    """An executor of the call's own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result(WAIT_S)


def in_pool_map(call: Call) -> None:
    """The `map` of an executor."""
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(lambda _: call(), [1], timeout=WAIT_S))


def in_old_pool(call: Call) -> None:
    """A pool of the multiprocessing package, made of threads."""
    with ThreadPool(1) as pool:
        pool.apply(call)


def in_tracked_generator(call: Call) -> None:
    """A generator function that is bound, read after its block."""

    def work() -> Iterator[Any]:
        yield call()

    with paygent_context("u1"):
        generator = instance().bind(work)()
    with paygent_context("other"):
        list(generator)


def in_open_generator(call: Call) -> None:
    """A generator with a block around the call."""

    def work() -> Iterator[Any]:
        with paygent_context("u1"):
            yield call()

    with paygent_context("other"):
        list(work())


def in_copied_context(call: Call) -> None:
    """A copy of the context, run in a bare thread."""
    _start(threading.Thread(target=functools.partial(contextvars.copy_context().run, call)))


def in_queue(call: Call) -> None:
    """A worker that was started before, and reads bound work from a queue."""
    with ThreadPoolExecutor(1) as pool:
        bound = instance().bind(call)
        worker: Future[Any] = contextvars.Context().run(pool.submit, lambda: bound())
        worker.result(WAIT_S)


def in_loop(work: Callable[[], Awaitable[Any]]) -> Call:
    """A coroutine on a loop of its own."""
    return lambda: asyncio.run(work())  # type: ignore[arg-type]


def in_executor(call: Call) -> None:
    """The default executor of a loop."""

    async def work() -> None:
        await asyncio.get_running_loop().run_in_executor(None, call)

    asyncio.run(work())


def in_to_thread(call: Call) -> None:
    """A thread of `asyncio.to_thread`."""
    asyncio.run(asyncio.to_thread(call))


def from_a_callback(call: Call) -> None:
    """A callback that another thread puts on a loop."""
    loop = asyncio.new_event_loop()

    def work() -> None:
        pool.submit(call).result(WAIT_S)
        loop.stop()

    with ThreadPoolExecutor(1) as pool:
        thread = contextvars.Context().run(threading.Thread, target=loop.run_forever)
        contextvars.Context().run(thread.start)
        loop.call_soon_threadsafe(work)
        thread.join(WAIT_S)
    loop.close()


RUNNERS: dict[str, Runner] = {
    "here": lambda call: call(),
    "thread": lambda call: _start(threading.Thread(target=call)),
    "subclass of Thread": lambda call: _start(_Subclass(call)),
    "timer": lambda call: _start(threading.Timer(0, call)),
    "thread of a thread": in_thread_of_a_thread,
    "executor": in_pool,
    "executor map": in_pool_map,
    "old pool": in_old_pool,
    "run_in_executor": in_executor,
    "to_thread": in_to_thread,
    "callback of a loop": from_a_callback,
    "generator, bound": in_tracked_generator,
    "generator with a block": in_open_generator,
    "copy_context": in_copied_context,
    "queue, bound": in_queue,
}


def instance() -> Paygent:
    """The process's Paygent."""
    found = Paygent.get_instance()
    assert found is not None
    return found


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS.keys())
def test_propagation__of_a_sync_call__keeps_the_user(
    runner: Runner, call: Call, init: Init
) -> None:
    """Metered once, on the user of the block."""
    metered = Metered(init())
    with paygent_context("u1", session_id="s1"):
        runner(call)
    assert (metered.only.user_id, metered.only.quality) == ("u1", "exact")


ASYNC_RUNNERS: dict[str, Callable[[Callable[[], Any]], Awaitable[Any]]] = {
    "here": lambda work: work(),
    "task": lambda work: asyncio.create_task(work()),
    "gather": lambda work: asyncio.gather(work(), return_exceptions=False),
    "wait_for": lambda work: asyncio.wait_for(work(), WAIT_S),
    "loop of another thread": lambda work: asyncio.to_thread(lambda: asyncio.run(work())),
    "coroutine, bound": lambda work: asyncio.create_task(
        instance().bind(work()),
        **_bare(),
    ),
}


def _bare() -> dict[str, Any]:
    """A context without a user, where tasks take one (from Python 3.11)."""
    import sys

    return {"context": contextvars.Context()} if sys.version_info >= (3, 11) else {}


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("runner", ASYNC_RUNNERS.values(), ids=ASYNC_RUNNERS.keys())
async def test_propagation__of_an_async_call__keeps_the_user(
    runner: Callable[[Callable[[], Any]], Awaitable[Any]],
    sdk: str,
    init: Init,
    fake: FakeProvider,
) -> None:
    """The same, awaited."""
    metered = Metered(init())

    async def work() -> Any:
        if sdk == "openai":
            async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as client:
                return await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        async with anthropic.AsyncAnthropic(api_key="k", base_url=fake.url) as claude:
            return await claude.messages.create(
                model="claude-sonnet-5-5", max_tokens=64, messages=MESSAGES
            )

    with paygent_context("u1"):
        await runner(work)
    events = await asyncio.to_thread(lambda: metered.events)
    assert [(event.user_id, event.quality) for event in events] == [("u1", "exact")]


def test_stream__read_elsewhere__belongs_to_the_user_of_its_call(
    init: Init, fake: FakeProvider
) -> None:
    """Read after the block, in another user's block, by another thread."""
    metered = Metered(init())
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context("u1"):
            stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        with paygent_context("u2"):
            _start(threading.Thread(target=lambda: list(stream)))
    assert (metered.only.user_id, metered.only.quality) == ("u1", "exact")


# -- what lives longer than the block it was made in


def test_pools__made_in_one_users_block__call_as_the_user_who_submits(init: Init) -> None:
    """Their threads have no user: the first one does not pay for later users."""
    init()
    with paygent_context("first"):
        executor, old = ThreadPoolExecutor(1), ThreadPool(1)
        assert (executor.submit(who).result(WAIT_S), old.apply(who)) == ("first", "first")
    try:
        with paygent_context("second"):
            assert executor.submit(who).result(WAIT_S) == "second"
            assert [*executor.map(who, [1])] == ["second"]
            assert old.map(who, [1, 2]) == ["second"] * 2
            assert old.starmap(who, [(1,)]) == ["second"]
            assert old.map_async(who, [1]).get(WAIT_S) == ["second"]
            assert old.starmap_async(who, [(1,)]).get(WAIT_S) == ["second"]
            assert [*old.imap(who, [1]), *old.imap_unordered(who, [1])] == ["second"] * 2
        assert executor.submit(who).result(WAIT_S) is None
        assert old.apply(who) is None
    finally:
        executor.shutdown()
        old.terminate()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes__made_in_one_users_block__call_as_the_user_who_submits(
    method: str, init: Init
) -> None:
    """Across processes too, with each start method."""
    init()
    context: Any = multiprocessing.get_context(method)
    with paygent_context("first"):
        with ProcessPoolExecutor(1, mp_context=context) as executor, context.Pool(1) as old:
            first = (executor.submit(who).result(WAIT_S), old.apply(who))
            with paygent_context("second"):
                second = (executor.submit(who).result(WAIT_S), old.apply(who))
            detached = contextvars.Context().run(
                lambda: (executor.submit(who).result(WAIT_S), old.apply(who))
            )
    assert (first, second, detached) == (("first",) * 2, ("second",) * 2, (None, None))


def test_pools__given_work_that_was_bound__have_threads_without_a_user(init: Init) -> None:
    """The work keeps its own user; the thread that was started for it has none."""
    pg = init()
    with paygent_context("a"), ThreadPoolExecutor(1) as executor:
        assert executor.submit(pg.bind(who)).result(WAIT_S) == "a"
        assert contextvars.Context().run(lambda: executor.submit(who).result(WAIT_S)) is None


@pytest.mark.parametrize("user", ["a", None])
def test_pools__arguments_of_any_name__reach_the_work(init: Init, user: str | None) -> None:
    """The names of Paygent's own parameters are free for the work."""
    init()

    def work(**given: int) -> dict[str, int]:
        return given

    given = {"pool": 1, "self": 2, "place": 3, "thread": 4}
    with paygent_context(user), ThreadPoolExecutor(1) as executor, ThreadPool(1) as old:
        assert executor.submit(work, **given).result(WAIT_S) == given
        assert old.apply(work, (), given) == given


def test_pools__of_the_old_kind__keep_the_user_of_their_work(init: Init) -> None:
    """Work as a keyword argument, and a generator's body that the pool reads at once."""
    init()
    with paygent_context("a"), ThreadPool(1) as old:
        assert old.map(func=who, iterable=[1]) == ["a"]
        assert old.apply_async(func=who).get(WAIT_S) == "a"
        assert old.map(lambda item: item, (who() for _ in range(2))) == ["a", "a"]


def test_pools__work_of_a_request_that_has_no_user__reaches_another_process(init: Init) -> None:
    """Nothing of the request is propagated: it could not be pickled."""
    init()
    late = LazyIdentity(lambda: None, None, {"tier": Tier.GOLD})
    with attach_identity(late), ProcessPoolExecutor(1) as executor:
        assert executor.submit(who).result(WAIT_S) is None
    with paygent_context("a", metadata={"tier": Tier.GOLD}), ProcessPoolExecutor(1) as executor:
        assert executor.submit(who).result(WAIT_S) == "a"


class Tier(str, enum.Enum):
    """A subclass of `str` that another process may lack."""

    GOLD = "gold"


def test_thread__in_a_context_that_the_application_gave_it__is_left_alone(init: Init) -> None:
    """From Python 3.14 a thread may have one, which is the application's to fill."""
    init()
    seen: list[str | None] = []
    thread: Any = threading.Thread(target=lambda: seen.append(who()))
    thread._context = contextvars.Context()
    with paygent_context("a"):
        _start(thread)
    assert seen == [None]


@pytest.mark.parametrize("runner", [in_thread_of_a_thread, in_pool])
def test_wrap__with_its_call_on_a_thread__counts_once_and_does_not_wait_for_itself(
    runner: Runner, init: Init, fake: FakeProvider
) -> None:
    """The enclosing call is propagated with the user: the inner call counts, and the wrapper
    releases its hold, also where both do not fit under the cap.
    """
    pg = init()
    pg.configure_plan(
        "small",
        PlanConfig(max_spend_per_period=0.0006, pre_call_estimate=True, contention_wait_s=0),
    )
    pg.assign_plan("a", "small")
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def call() -> Any:
            return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20)

        pg.wrap(
            lambda: runner(call),
            "a",
            model="gpt-4o",
            estimated_input_tokens=10,
            estimated_max_tokens=40,
        )
    assert (metered.only.user_id, metered.only.quality, len(fake.requests)) == ("a", "exact", 1)


def test_thread__that_cannot_be_started__is_left_as_it_was(init: Init) -> None:
    """Python's own error arrives, and the thread's `run` is restored."""
    init()
    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(who()))
    with paygent_context("a"):
        _start(thread)
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
    assert "run" not in vars(thread)
    assert seen == ["a"]


def test_thread__with_a_run_set_on_it__runs_that_and_keeps_it(init: Init) -> None:
    """Some libraries replace the `run` of one thread."""
    init()
    seen: list[str | None] = []
    thread = threading.Thread()

    def run() -> None:
        seen.append(who())

    thread.run = run  # type: ignore[method-assign]
    with paygent_context("a"):
        _start(thread)
    assert (seen, vars(thread)["run"]) == (["a"], run)


@pytest.mark.parametrize("peer_first", [True, False])
def test_thread__beside_a_library_that_takes_its_run_apart__runs_once_as_its_user(
    peer_first: bool, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentry and others patch `start` too, and call the function behind a thread's `run`."""
    seen: list[str | None] = []

    def patch() -> None:
        start = threading.Thread.start

        def peer(thread: threading.Thread) -> None:
            own: Any = thread
            function = getattr(own.run, "__func__", own.run)
            own.run = lambda: function(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", peer)

    if peer_first:
        patch()
    pg = init()
    if not peer_first:
        patch()
    with paygent_context("a"):
        _start(threading.Thread(target=lambda: seen.append(who())))
        _start(_Subclass(lambda: seen.append(who())))
    pg.uninstrument()
    monkeypatch.undo()
    assert seen == ["a", "a"]


def test_greenlet__when_it_is_spawned__is_given_its_user(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for gevent; `make test-peers` runs the real one."""
    import sys
    from types import ModuleType, SimpleNamespace

    callbacks: set[Any] = set()
    gevent: Any = ModuleType("gevent.greenlet")
    gevent.Greenlet = SimpleNamespace(
        add_spawn_callback=callbacks.add, remove_spawn_callback=callbacks.discard
    )
    monkeypatch.setitem(sys.modules, "gevent.greenlet", gevent)
    pg = init()

    def spawn(context: Any = None) -> Any:
        greenlet = SimpleNamespace(gr_context=context)
        for callback in callbacks:
            callback(greenlet)
        return greenlet.gr_context

    assert spawn() is None
    with paygent_context("a"):
        own = contextvars.Context()
        assert spawn().run(who) == "a"
        assert spawn(own) is own
        assert own.run(who) == "a"
    pg.uninstrument()
    assert callbacks == set()


def test_work__that_raises_or_cannot_be_called__ends_as_without_paygent(init: Init) -> None:
    """The executor's own exceptions are raised."""
    init()
    with paygent_context("a"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result(WAIT_S)
        with pytest.raises(TypeError):
            pool.submit(None).result(WAIT_S)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(who)
        assert who() == "a"


# -- in and out


def _patched() -> tuple[Any, ...]:
    return (
        threading.Thread.start,
        ThreadPoolExecutor.submit,
        ProcessPoolExecutor.submit,
        multiprocessing.pool.Pool.map,
        multiprocessing.pool.Pool.__init__,
    )


def test_carry_user__off__patches_no_thread_and_no_pool(init: Init) -> None:
    """The opt-out applies to one `init`; a later one may differ."""
    bare = _patched()
    pg = init(carry_user=False)
    assert _patched() == bare
    pg.instrument()
    assert _patched() == bare
    init()
    assert all(now is not before for now, before in zip(_patched(), bare, strict=True))
    init(carry_user=False)
    assert _patched() == bare


def test_uninstrument__takes_the_patches_of_threads_out(init: Init) -> None:
    """`instrument` puts them in again, once."""
    bare = _patched()
    pg = init()
    once = _patched()
    pg.instrument()
    assert _patched() == once
    pg.uninstrument()
    assert _patched() == bare
    pg.instrument()
    assert [each.__wrapped__ for each in _patched()] == list(bare)
    instrumentation.uninstall()
    assert _patched() == bare


def test_uninstrument__inside_another_patch__propagates_no_user(init: Init) -> None:
    """Under another library's patch, Paygent's passes the call through."""
    pg = init()
    ours, init_of_pool = ThreadPoolExecutor.submit, multiprocessing.pool.Pool.__init__
    bare: Any = ours.__wrapped__  # type: ignore[attr-defined]
    pg.uninstrument()
    with paygent_context("a"), ThreadPoolExecutor(1) as pool:
        assert ours(pool, who).result(WAIT_S) is None
    assert ThreadPoolExecutor.submit is bare
    with paygent_context("a"):
        made = ThreadPool.__new__(ThreadPool)
        init_of_pool(made, 1)
        made.terminate()
