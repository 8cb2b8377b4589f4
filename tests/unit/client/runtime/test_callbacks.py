"""The application's callbacks run in order, in their caller's context, and never hinder a call."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Swallowed

import paygent.client.runtime.callbacks as callbacks_module
from paygent.client.runtime.callbacks import Callbacks
from paygent.failopen import diagnostics

WAIT_S = 5.0
"""Longest wait of a test for something that takes milliseconds."""

_user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="none")


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    """Callbacks; their thread is ended after the test."""
    made = Callbacks()
    yield made
    made.stop()
    if made._thread is not None:
        made._thread.join(WAIT_S)


class Recorder:
    """Records payloads and their threads; waits at `gate` if there is one."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.payloads: list[Any] = []
        self.threads: list[str] = []
        self.gate = gate
        self.entered = threading.Event()

    def __call__(self, payload: Any) -> None:
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(WAIT_S)
        self.threads.append(threading.current_thread().name)
        self.payloads.append(payload)


def test_fire__no_callback__does_nothing(callbacks: Callbacks) -> None:
    """No thread is started without a callback."""
    callbacks.fire("usage", 1)
    assert (callbacks.wants("usage"), callbacks._thread) == (False, None)
    assert callbacks.flush(0.01) is True


@pytest.mark.usefixtures("patient_callbacks")
def test_fire__from_a_sync_caller__has_run_when_it_returns(callbacks: Callbacks) -> None:
    """A quick callback is out before the call goes on, on a thread of ours."""
    recorder = Recorder()
    callbacks.register("usage", recorder)
    assert callbacks.wants("usage") is True
    callbacks.fire("usage", 1)
    assert (recorder.payloads, recorder.threads) == ([1], ["paygent-callbacks"])


def test_fire__many_and_of_several_kinds__run_in_order(callbacks: Callbacks) -> None:
    """Callbacks run in the order of firing, those of one kind in the order of registration."""
    seen: list[tuple[str, int]] = []
    callbacks.register("usage", lambda payload: seen.append(("first", payload)))
    callbacks.register("usage", lambda payload: seen.append(("second", payload)))
    callbacks.register("gate", lambda payload: seen.append(("gate", payload)))
    for number in range(20):
        callbacks.fire("usage", number)
        callbacks.fire("gate", number)
    assert callbacks.flush(WAIT_S) is True
    assert seen == [(name, number) for number in range(20) for name in ("first", "second", "gate")]


@pytest.mark.usefixtures("patient_callbacks")
@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_fire__a_callback_that_raises__is_counted_and_the_next_one_runs(
    callbacks: Callbacks, swallowed: Any, error: BaseException
) -> None:
    """Nothing that a callback raises reaches a call or ends our thread."""
    swallowed.expect("callback:usage")
    recorder = Recorder()

    def fail(payload: Any) -> None:
        raise error

    callbacks.register("usage", fail)
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 1)
    callbacks.fire("usage", 2)
    assert recorder.payloads == [1, 2]
    assert diagnostics.counts == {"callback:usage": 2}


def test_fire__a_slow_callback__lets_its_caller_go_on(callbacks: Callbacks) -> None:
    """A sync caller waits a moment for its own callbacks and then goes on without them."""
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 1)  # would hang here until the gate opens, if it waited for the end
    assert recorder.entered.wait(WAIT_S)
    assert recorder.payloads == []
    gate.set()
    assert callbacks.flush(WAIT_S) is True
    assert recorder.payloads == [1]


def test_fire__from_a_callback__does_not_wait_for_itself(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback may do what fires callbacks; they run after it."""
    monkeypatch.setattr(callbacks_module, "OWN_WAIT_S", 3_600.0)
    seen: list[Any] = []

    def again(payload: Any) -> None:
        if payload == 1:
            callbacks.fire("usage", 2)  # would hang here, if it waited
            seen.append(callbacks.flush(3_600.0))
        seen.append(payload)

    callbacks.register("usage", again)
    callbacks.fire("usage", 1)
    assert callbacks.flush(WAIT_S) is True
    assert callbacks.flush(WAIT_S) is True
    assert seen == [True, 1, 2]


@pytest.mark.usefixtures("patient_callbacks")
def test_fire__in_a_context__is_seen_by_the_callback_and_not_changed_by_it(
    callbacks: Callbacks,
) -> None:
    """A callback runs in a copy of its caller's context, each in its own."""
    seen: list[str] = []

    def look_and_change(payload: Any) -> None:
        seen.append(_user.get())
        _user.set("changed by a callback")

    callbacks.register("usage", look_and_change)
    callbacks.register("usage", look_and_change)
    token = _user.set("ann")
    try:
        callbacks.fire("usage", 1)
        assert (seen, _user.get()) == (["ann", "ann"], "ann")
    finally:
        _user.reset(token)


# -- event loops


async def test_fire__on_an_event_loop__never_waits(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that runs a loop must not stand still for a callback."""
    monkeypatch.setattr(callbacks_module, "OWN_WAIT_S", 3_600.0)
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 1)
    gate.set()
    assert await asyncio.to_thread(callbacks.flush, WAIT_S) is True
    assert recorder.threads == ["paygent-callbacks"]


async def test_fire__an_async_callback_of_an_async_call__is_a_task_of_its_loop(
    callbacks: Callbacks,
) -> None:
    """An async callback may use what belongs to the caller's loop, in the caller's context."""
    ran: asyncio.Future[tuple[str, str, bool]] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    async def callback(payload: str) -> None:
        await asyncio.sleep(0)
        ran.set_result((payload, _user.get(), asyncio.get_running_loop() is loop))

    callbacks.register("usage", callback)
    token = _user.set("ann")
    callbacks.fire("usage", "payload")
    _user.reset(token)
    assert await asyncio.wait_for(ran, WAIT_S) == ("payload", "ann", True)
    assert callbacks._thread is None


async def test_fire__an_async_callback_that_raises__is_counted(
    callbacks: Callbacks, swallowed: Any
) -> None:
    """A task's failure is counted like any other's."""
    swallowed.expect("callback:usage")

    async def callback(payload: Any) -> None:
        raise ValueError("x")

    callbacks.register("usage", callback)
    callbacks.fire("usage", 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert diagnostics.counts == {"callback:usage": 1}


def test_fire__an_async_callback_that_exits__does_not_end_the_callers_loop(
    callbacks: Callbacks, swallowed: Any
) -> None:
    """Not even SystemExit of a callback may reach the application's loop."""

    async def callback(payload: Any) -> None:
        raise SystemExit(3)

    async def call() -> str:
        callbacks.fire("usage", 1)
        await asyncio.sleep(0.01)
        return "the call went on"

    callbacks.register("usage", callback)
    loop = asyncio.new_event_loop()
    try:
        outcome: str | BaseException = loop.run_until_complete(call())
    except SystemExit as error:
        outcome = error
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    assert outcome == "the call went on"
    swallowed.seen.clear()  # how it is counted is not the point


def test_fire__an_async_callback_without_a_loop__runs_on_one_of_ours(callbacks: Callbacks) -> None:
    """A sync call may have an async callback; it is awaited on our thread, in its context."""
    seen: list[tuple[str, str]] = []

    async def callback(payload: str) -> None:
        await asyncio.sleep(0)
        seen.append((payload, threading.current_thread().name))

    callbacks.register("usage", callback)
    callbacks.fire("usage", "payload")
    assert callbacks.flush(WAIT_S) is True
    assert seen == [("payload", "paygent-callbacks")]


@pytest.mark.usefixtures("patient_callbacks")
def test_fire__asyncio_never_imported__has_no_loop(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application without asyncio does not pay for its import."""
    monkeypatch.delitem(sys.modules, "asyncio", raising=False)
    recorder = Recorder()
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 1)
    assert recorder.payloads == [1]


# -- bounds and life


def test_fire__a_full_queue__drops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that hangs must not fill the memory; what is dropped is counted."""
    monkeypatch.setattr(callbacks_module, "QUEUE_MAX", 2)
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks = Callbacks()
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 0)
    assert recorder.entered.wait(WAIT_S)  # it has left the queue and hangs
    for number in range(1, 6):
        callbacks.fire("usage", number)
    assert diagnostics.counts == {"callbacks_dropped": 3}
    assert callbacks.flush(0.01) is False
    gate.set()
    assert callbacks.flush(WAIT_S) is True
    assert recorder.payloads == [0, 1, 2]
    callbacks.stop()


def test_flush__a_callback_that_takes_longer__returns_false(callbacks: Callbacks) -> None:
    """A flush waits for the given time."""
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 1)
    assert callbacks.flush(0.02) is False
    gate.set()
    assert callbacks.flush(WAIT_S) is True


def test_stop__with_callbacks_waiting__runs_them_and_ends_the_thread() -> None:
    """What was fired before the stop is run; what is fired later is not."""
    recorder = Recorder()
    callbacks = Callbacks()
    callbacks.register("usage", recorder)
    for number in range(5):
        callbacks.fire("usage", number)
    thread = callbacks._thread
    assert thread is not None  # the first firing has started it
    callbacks.stop()
    callbacks.fire("usage", 5)
    thread.join(WAIT_S)
    assert (thread.is_alive(), recorder.payloads) == (False, [0, 1, 2, 3, 4])


def test_stop__never_used__is_fine() -> None:
    """There may be nothing to end."""
    callbacks = Callbacks()
    callbacks.stop()
    assert callbacks.flush(0.01) is True


def test_stop__a_hanging_callback__is_logged_with_how_many_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Shutdown does not wait for a callback that hangs, and those behind it may be lost."""
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks = Callbacks()
    callbacks.register("usage", recorder)
    callbacks.fire("usage", 0)
    assert recorder.entered.wait(WAIT_S)
    callbacks.fire("usage", 1)
    callbacks.stop()
    assert diagnostics.counts == {"callbacks_hung": 1}
    assert "1 had not begun at shutdown" in caplog.text
    gate.set()
    thread = callbacks._thread
    assert thread is not None  # the first firing has started it
    callbacks._queue.put(None)  # so that this test leaves no thread behind
    thread.join(WAIT_S)


def test_start__by_many_callers_at_once__starts_one_thread(callbacks: Callbacks) -> None:
    """First callbacks of many threads share one thread of ours."""
    recorder = Recorder()
    callbacks.register("usage", recorder)
    barrier = threading.Barrier(8)

    def fire(number: int) -> None:
        barrier.wait()
        callbacks.fire("usage", number)

    callers = [threading.Thread(target=fire, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert callbacks.flush(WAIT_S) is True
    assert sorted(recorder.payloads) == list(range(8))


def test_start__another_caller_was_first__does_nothing(callbacks: Callbacks) -> None:
    """Who waited for the lock finds the thread started."""
    other = threading.Thread(target=lambda: None)
    callbacks._starting.acquire()
    caller = threading.Thread(target=callbacks._start)
    caller.start()
    caller.join(0.05)  # it is waiting for the lock now
    callbacks._thread = other
    callbacks._starting.release()
    caller.join(10)
    assert callbacks._thread is other
    callbacks._thread = None


def test_fire__no_thread_can_be_started__raises_nothing_and_runs_them_later(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """A process at its limit of threads: the caller does not wait, and no callback is lost."""
    seen: list[int] = []
    callbacks.register("usage", seen.append)
    swallowed.expect("callbacks")

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        callbacks.fire("usage", 1)
    assert (seen, callbacks._thread) == ([], None)
    callbacks.fire("usage", 2)
    assert callbacks.flush(WAIT_S) is True
    assert seen == [1, 2]


def test_fire__a_full_queue_and_no_thread__starts_one_as_soon_as_it_can(
    monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """What fills the queue must not keep its thread from being started."""
    monkeypatch.setattr(callbacks_module, "QUEUE_MAX", 1)
    callbacks = Callbacks()
    seen: list[int] = []
    callbacks.register("usage", seen.append)
    swallowed.expect("callbacks")

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        callbacks.fire("usage", 1)
    callbacks.fire("usage", 2)
    assert callbacks.flush(WAIT_S) is True
    assert seen == [1]
    callbacks.stop()


def test_fire__on_a_loop_of_trio__does_not_wait(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of another library is not blocked for a callback either."""
    trio = SimpleNamespace(lowlevel=SimpleNamespace(in_trio_run=lambda: True))
    monkeypatch.setitem(sys.modules, "trio", trio)
    gate = threading.Event()
    callbacks.register("usage", Recorder(gate))

    def waited(event: threading.Event, timeout_s: float | None = None) -> bool:
        raise AssertionError("a loop was blocked")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", waited)
        monkeypatch.setattr(callbacks, "_start", lambda: None)
        callbacks.fire("usage", 1)
    gate.set()


async def test_flush__in_another_thread__returns_when_the_tasks_of_a_loop_have_ended(
    callbacks: Callbacks,
) -> None:
    """The end of the last task wakes it; otherwise it would wait for a minute."""
    release = asyncio.Event()

    async def slow(_: Any) -> None:
        await release.wait()

    callbacks.register("usage", slow)
    callbacks.fire("usage", 1)
    flushing = asyncio.create_task(asyncio.to_thread(callbacks.flush, 60.0))
    while not (callbacks._flushes or flushing.done()):
        await asyncio.sleep(0.001)
    assert not flushing.done()
    release.set()
    assert await asyncio.wait_for(flushing, 10) is True
    assert callbacks._flushes == []
    callbacks.fire("usage", 2)
    release.clear()
    assert await asyncio.to_thread(callbacks.flush, 0.01) is False
    release.set()


def test_flush__after_the_end__waits_for_what_is_queued_and_no_longer() -> None:
    """The thread that would answer has gone; a callback that ends everything does not wait."""
    callbacks = Callbacks()
    gate = threading.Event()
    recorder = Recorder(gate)
    callbacks.register("usage", recorder)
    callbacks.register("usage", lambda payload: callbacks.stop())
    callbacks.fire("usage", 1)
    callbacks.stop()
    threading.Timer(0.02, gate.set).start()
    assert callbacks.flush(WAIT_S) is True
    assert recorder.payloads == [1]
    started_s = time.monotonic()
    assert callbacks.flush(WAIT_S) is True
    assert time.monotonic() - started_s < WAIT_S / 2


@pytest.mark.usefixtures("patient_callbacks")
def test_renew_after_fork__registered_callbacks__stay_and_get_a_thread_of_the_child(
    callbacks: Callbacks,
) -> None:
    """The parent's thread and what waited for it are the parent's; the registrations are ours."""
    seen: list[int] = []
    callbacks.register("usage", seen.append)
    callbacks.fire("usage", 1)
    parents = callbacks._thread
    parents_queue = callbacks._queue
    callbacks.renew_after_fork()
    assert callbacks._thread is None
    callbacks.fire("usage", 2)
    assert (seen, callbacks._thread is not parents) == ([1, 2], True)
    parents_queue.put(None)  # so that this test leaves no thread behind
