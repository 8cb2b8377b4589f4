"""P4: a hold always ends, also where a finalizer, an interruption or two threads at once end it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest
from tests.accounts import counts_what_is_pending, held, nothing_left
from tests.instrument.shapes import MESSAGES
from tests.promises.interruptions import comes_free, interrupted_at_line

from paygent import (
    Limit,
    ModelLimitConfig,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.metering.call import Call, Request
from paygent.client.metering.wait import Wait
from paygent.core.usage import Usage
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]
WAIT_S = 10.0


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's client at the fake provider."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def all_held(pg: Paygent, user_id: str = "u1") -> set[int]:
    """Return what is held on a user's accounts once all that has ended is counted."""
    user = pg._parts.accounts.registry.user(user_id, pg._now_us())
    pg._parts.accounts.admission.count(user)
    return {held(user, account) for account in user.accounts.values()}


def begun(pg: Paygent) -> Call:
    """A call under way, of the context's user."""
    call = pg._parts.meter.begin(Request("openai", "chat.completions", "gpt-4o", {"messages": []}))
    while isinstance(call, Wait):
        call.block()
        call = pg._parts.meter.begin(
            Request("openai", "chat.completions", "gpt-4o", {"messages": []})
        )
    assert call is not None
    return call


def within(pg: Paygent, where: str) -> Any:
    """A lock of ours, as the code that holds it has it."""
    return {
        "user": pg._parts.accounts.registry.user("u1", pg._now_us()).lock,
        "accounts": pg._parts.accounts.registry.lock,
        "rotation": pg._parts.journal._rotation,
    }[where]


@pytest.mark.parametrize("where", ["user", "accounts", "rotation"])
def test_p4__a_stream_collected_inside_one_of_our_locks__hangs_nobody_and_is_counted(
    init: Init, fake: FakeProvider, client: openai.OpenAI, where: str, monkeypatch: Any
) -> None:
    """The collector runs at any allocation; the end of a dropped stream then waits for its turn."""
    fake.default = Answer(text="word " * 50)
    pg = init()
    with paygent_context(user_id="u1"):
        stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        for _ in range(5):
            next(stream)
    finished = threading.Event()
    put_off: list[object] = []
    book = pg._parts.accounts.admission.book
    deferred_ends = pg._parts.meter.deferred_ends

    def put_off_end(end: Callable[[], object]) -> None:
        put_off.append(end)
        deferred_ends.waiting.append(end)

    lock = within(pg, where)

    def collect_while_locked(*args: Any) -> None:
        monkeypatch.undo()  # once
        with lock, monkeypatch.context() as patch:
            patch.setattr(deferred_ends, "add", put_off_end)
            gc.collect()
        book(*args)

    gc.disable()
    try:
        del stream
        monkeypatch.setattr(pg._parts.accounts.admission, "book", collect_while_locked)

        def work() -> None:
            pg.record_event("u2", cost=1)
            finished.set()

        # `record_event` runs on a thread of its own: a deadlock must fail the test, not hang it.
        frame_holder = threading.Thread(target=work, daemon=True)
        frame_holder.start()
        assert finished.wait(WAIT_S)
    finally:
        gc.enable()
    assert put_off  # nothing was ended while the lock was held
    pg.flush()  # whoever ends the stream in this moment has ended it then
    assert pg.get_usage("u1").period_cost_nano > 0
    assert all_held(pg) == {0}


def test_p4__a_dropped_stream__is_counted_without_another_call(
    init: Init, client: openai.OpenAI
) -> None:
    """What was put off is ended by the delivering thread at the latest."""
    pg = init()
    with paygent_context(user_id="u1"):
        call = begun(pg)
    pg._parts.meter.deferred_ends.add(lambda: pg._parts.meter.settle(call, Usage(100, 20)))
    assert pg.flush() >= 0
    assert (all_held(pg), pg.get_usage("u1").period_tokens_total) == ({0}, 120)


def test_p4__two_threads_end_one_call__it_ends_once(init: Init) -> None:
    """A watchdog closes a stream in the moment in which its consumer fails."""
    pg = init(auto_instrument=False)
    with paygent_context(user_id="u1"), ThreadPoolExecutor(2) as pool:
        for _ in range(300):
            call = begun(pg)
            barrier = threading.Barrier(2)

            def end(call: Call = call, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(WAIT_S)
                pg._parts.meter.settle(call, Usage(100, 20))

            for done in [pool.submit(end) for _ in range(2)]:
                done.result(WAIT_S)
    assert (all_held(pg), pg.get_usage("u1").period_tokens_total) == ({0}, 300 * 120)


@pytest.mark.parametrize(
    ("where", "calls_before"), [("callbacks.fire", 0), ("journal.write", 0), ("journal.write", 2)]
)
def test_p4__an_interruption_before_the_provider__leaves_nothing(
    init: Init,
    fake: FakeProvider,
    client: openai.OpenAI,
    where: str,
    calls_before: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while the warning is out or the record is written: no hold, no call, no event. The
    same for a call that takes the shortcut.
    """
    pg = init()
    pg.record_event("u1", cost="0.5")
    pg.configure_plan("p", PlanConfig(max_spend_per_period=1, soft_gate_at=0.1))
    pg.assign_plan("u1", "p")
    pg.on_soft_gate(lambda result: None)
    with paygent_context("u1"):
        for _ in range(calls_before):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    part = pg._parts.callbacks if where == "callbacks.fire" else pg._parts.journal
    with monkeypatch.context() as patch, paygent_context(user_id="u1"):
        patch.setattr(part, where.split(".")[1], interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert (len(fake.requests), pg.health()["calls_in_flight"]) == (calls_before, 0)
    assert all_held(pg) == {0}
    assert pg.get_usage("u1").period_cost_nano == 500_000_000 + calls_before * 450_000


# -- whatever ends a call that waits or is under way

LIMITED = PlanConfig(limits=(Limit("calls", cap=1),))
PARTS_OF_OURS = (
    "paygent/client/metering/meter.py",
    "paygent/client/api/record_event.py",
    "paygent/client/accounts/",
    "paygent/ledger/",
)


def limited(init: Init, plan: PlanConfig = LIMITED) -> Paygent:
    """Start a Paygent whose users may have one call under way, so that the next one waits."""
    pg = init()
    pg.configure_plan("default", plan)
    return pg


class Busy:
    """A call of another thread that holds all there is, until it is told to fail."""

    def __init__(self, pg: Paygent) -> None:
        self._go = threading.Event()
        begun = threading.Event()

        def provider() -> None:
            begun.set()
            self._go.wait(WAIT_S)
            raise ValueError("it did not work")  # void: it leaves the room to others

        def run() -> None:
            with pytest.raises(ValueError, match="did not work"):
                pg.wrap(provider, "u1", "gpt-4o")

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert begun.wait(WAIT_S)

    def end(self) -> None:
        """Let it fail, and wait for that."""
        self._go.set()
        self._thread.join(WAIT_S)


async def answered() -> Any:
    """Answer at once."""
    return {"model": "gpt-4o", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


async def waiting_task(pg: Paygent, provider: Any = answered) -> asyncio.Task[Any]:
    """Return a task whose call stands in line."""
    before = pg.health()["calls_waiting"]
    task = asyncio.ensure_future(pg.awrap(provider, "u1", "gpt-4o"))
    while pg.health()["calls_waiting"] == before:
        await asyncio.sleep(0.001)
    return task


async def test_p4__tasks_cancelled_in_line__leave_it_and_the_others_get_their_turn(
    init: Init,
) -> None:
    """Before their turn and in the moment of it; who stays is served."""
    pg = limited(init)
    busy = Busy(pg)
    tasks = [await waiting_task(pg) for _ in range(4)]
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0)
    busy.end()
    tasks[1].cancel()  # its turn has come, and it has not run since
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "CancelledError",
        "CancelledError",
        "CancelledError",
        "dict",
    ]
    assert nothing_left(pg)


@pytest.mark.parametrize("when", ["in line", "at the provider"])
async def test_p4__a_call_that_times_out__leaves_no_hold(init: Init, when: str) -> None:
    """`wait_for` cancels it wherever it is."""
    pg = limited(init)

    async def slow() -> None:
        await asyncio.sleep(WAIT_S)

    busy = Busy(pg) if when == "in line" else None
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pg.awrap(slow, "u1", "gpt-4o"), 0.1)
    if busy is not None:
        await asyncio.to_thread(busy.end)
    assert nothing_left(pg)
    assert pg.health()["calls_in_flight"] == 0


def test_p4__a_loop_closed_with_calls_in_line__keeps_nobody_from_theirs(init: Init) -> None:
    """A waiter that never comes back loses its turn to the next within a second or so."""
    pg = limited(init)
    busy = Busy(pg)
    loop = asyncio.new_event_loop()
    lost = loop.run_until_complete(waiting_task(pg))
    loop.close()
    lost._log_destroy_pending = False  # type: ignore[attr-defined] # as meant
    busy.end()
    assert pg.wrap(lambda: {"model": "gpt-4o", "usage": {"prompt_tokens": 1}}, "u1", "gpt-4o")
    lost.get_coro().close()


def test_p4__ctrl_c_in_line__leaves_it(init: Init) -> None:
    """The waiting main thread is interrupted; nothing of it stays."""
    pg = limited(init)
    busy = Busy(pg)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pg.wrap(lambda: None, "u1", "gpt-4o")
    assert pg.health()["calls_waiting"] == 0
    busy.end()
    assert nothing_left(pg)


def test_p4__shutdown_with_calls_in_line_and_under_way__ends_them_all(init: Init) -> None:
    """Who waits is not left waiting, and what was under way is in the journal."""
    pg = limited(init)
    busy = Busy(pg)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(pg.wrap(lambda: 7, "u1", "gpt-4o")))
    thread.start()
    while pg.health()["calls_waiting"] == 0:
        thread.join(0.001)
    pg.shutdown(timeout=1)
    busy.end()
    thread.join(WAIT_S)
    assert done == [7]
    assert nothing_left(pg)


def test_p4__a_call_that_nobody_can_end_any_more__is_counted_as_estimated(init: Init) -> None:
    """An interruption between two steps may drop it; the provider may have been asked."""
    pg = limited(init, PlanConfig(max_spend_per_period=10**6))
    with paygent_context("u1"):
        call = begun(pg)
    assert not nothing_left(pg)
    del call
    gc.collect()
    assert pg.get_usage("u1").period_cost_nano > 0
    assert nothing_left(pg)
    assert pg.health()["calls_in_flight"] == 0


@pytest.mark.parametrize("strict", [False, True])
def test_p4__an_interruption_at_any_line_of_gate_and_settlement__leaves_nothing(
    init: Init, strict: bool
) -> None:
    """Ctrl-C wherever it comes: no hold stays, no lock, and the next call goes on as ever. What had
    been spent is booked, and the figures here are those of the ledger.
    """
    plan = PlanConfig(
        max_spend_per_period=10**6,
        model_limits={"gpt-4o": ModelLimitConfig(10**12)},
        pre_call_estimate=strict,
    )
    pg = limited(init, plan)

    def once() -> None:
        with paygent_context("u1"):
            pg._parts.meter.settle(begun(pg), Usage(10, 5, model="gpt-4o"))

    for _ in range(40):
        once()
    line = 0
    where = "first"
    while where:
        line += 1
        where = interrupted_at_line(line, once, PARTS_OF_OURS)
        assert comes_free(pg._parts.accounts.registry.users["u1"].lock), where
        pg.get_usage("u1")  # as any next step does, it ends what nobody else can
        assert nothing_left(pg), where
        assert counts_what_is_pending(pg._parts.accounts.registry.users["u1"]), where
        if "_settle" in where:
            assert pg.health()["calls_in_flight"] == 0, where
    assert line > 100
    once()
    assert nothing_left(pg)
    assert pg.health()["calls_in_flight"] == 0
    pg.flush()
    assert pg.pending_events == 0
    (row,) = pg.report()
    assert pg.get_usage("u1").period_cost_nano == row.cost_nano
    assert pg.get_usage("u1").period_tokens_total == row.input_tokens + row.output_tokens


def test_p4__an_interruption_at_any_line_of_a_calls_void__books_nothing(init: Init) -> None:
    """Ctrl-C while a call that spent nothing is ended: it stays a call that spent nothing."""
    pg = limited(init)
    line, where = 0, "first"
    while where:
        line += 1
        with paygent_context("u1"):
            call = begun(pg)
        void = partial(pg._parts.meter.void, call, "a test")
        where = interrupted_at_line(line, void, PARTS_OF_OURS)
        if where.startswith("void: try") or not call.done:
            pg._parts.meter.void(call, "a test")  # interrupted before anything was done
        assert nothing_left(pg), where
        assert pg.health()["calls_in_flight"] == 0, where
    assert line > 10
    pg.flush()
    assert pg.report() == ()


@pytest.mark.parametrize("corrects", [False, True])
def test_p4__an_interruption_at_any_line_of_an_entry__books_it_once_with_its_retry(
    init: Init, corrects: bool
) -> None:
    """Ctrl-C in `record_event`, then the same key again: one event, and all figures say so."""
    pg = init()
    pg.get_usage("u1")
    keys = itertools.count(1)
    of: Any = {}

    def once() -> None:
        pg.record_event("u1", cost=1, idempotency_key=f"k{key}", **of)

    line, where = 0, "first"
    while where:
        line, key = line + 1, next(keys)
        if corrects:
            of["corrects"] = pg.record_event("u1", cost=0).id
        where = interrupted_at_line(line, once, PARTS_OF_OURS)
        assert comes_free(pg._parts.accounts.registry.users["u1"].lock), where
        assert comes_free(pg._parts.recorder._lock), where
        once()
        assert pg.get_usage("u1").period_cost_nano == key * 10**9, where
        assert counts_what_is_pending(pg._parts.accounts.registry.users["u1"]), where
    assert line > 50
    pg.flush()
    assert pg.pending_events == 0
    assert pg.report()[0].cost_nano == key * 10**9
    assert pg.get_usage("u1").period_cost_nano == pg.report()[0].cost_nano


@pytest.fixture
def _collector_by_hand() -> Iterator[None]:
    """Let the garbage collector run only where it is called, as in an application where it comes
    by every few minutes.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*thresholds)


# A stream of at most 50 tokens holds $0.000535 of this, and costs a tenth where it is left.
ROOM_FOR_ONE = PlanConfig(max_spend_per_period=0.0009, pre_call_estimate=True)


def has_text(chunk: Any) -> bool:
    """Tell whether a chunk has text; a stream left before any is booked as estimated."""
    return bool(chunk.choices and chunk.choices[0].delta.content)


@pytest.mark.usefixtures("_collector_by_hand")
@pytest.mark.parametrize("wait_s", [30.0, 0.0])
def test_p4__streams_that_are_left_half_way__do_not_stand_in_the_way(
    init: Init, client: openai.OpenAI, wait_s: float
) -> None:
    """One thread, a `break` in each loop, room for one call: a stream that was left is settled
    with what was received, and does not refuse the next call.
    """
    pg = limited(init, ROOM_FOR_ONE.model_copy(update={"contention_wait_s": wait_s}))
    with paygent_context("u1"):
        for _ in range(3):
            stream = client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True, max_tokens=50
            )
            for chunk in stream:
                if has_text(chunk):
                    break
            assert nothing_left(pg)
            del stream, chunk
    assert 0 < pg.get_usage("u1").period_cost < 0.0009
    assert nothing_left(pg)


@pytest.mark.usefixtures("_collector_by_hand")
def test_p4__a_raw_stream_that_is_collected_inside_ours__counts_what_was_received(
    init: Init, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finalizers run in any order with that of the call, which knows the estimate only."""
    pg = limited(init, PlanConfig())
    dropped: list[Call] = []
    monkeypatch.setattr(pg._parts.meter, "_dropped", dropped.append)
    with paygent_context("u1"):
        response = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    lines = response.http_response.iter_lines()
    while '"prompt_tokens"' not in next(lines):
        pass
    cycle: list[Any] = [response, lines]
    cycle.append(cycle)
    del response, lines, cycle
    assert not nothing_left(pg)
    gc.collect()
    pg._parts.meter.deferred_ends.run()
    assert dropped == []
    assert pg.get_usage("u1").period_tokens_by_model == {"gpt-4o": 120}
    assert nothing_left(pg)


@pytest.mark.usefixtures("_collector_by_hand")
def test_p4__async_streams_that_are_left_half_way__let_the_same_task_go_on(
    init: Init, fake: FakeProvider
) -> None:
    """The event loop closes what an `async for` left some rounds later, and the call waits for
    that; one inside of the `async for` does not wait for itself.
    """
    pg = limited(init, ROOM_FOR_ONE)

    async def ask(client: openai.AsyncOpenAI) -> Any:
        return await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, max_tokens=50
        )

    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as client:
            async with paygent_context("u1"):
                for _ in range(3):
                    async for chunk in await ask(client):
                        if has_text(chunk):
                            break
                with pytest.raises(PaygentLimitExceeded) as refused:
                    async for _ in await ask(client):
                        await ask(client)
                assert refused.value.guard_result.retryable

    asyncio.run(main())
    gc.collect()
    assert 0 < pg.get_usage("u1").period_cost < 0.0009
    assert nothing_left(pg)
