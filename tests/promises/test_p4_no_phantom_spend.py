"""P4: a hold always ends, also where a finalizer, an interruption or two threads at once end it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES

from paygent import Paygent, PlanConfig, paygent_context
from paygent.call import Call, Request, Wait
from paygent.core.usage import Usage
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]
WAIT_S = 10.0


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's client at the fake provider."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def held(pg: Paygent, user_id: str = "u1") -> set[int]:
    """What is held on a user's accounts."""
    return {account.held for account in pg._accounts.user(user_id, pg._now_us()).books.values()}


def begun(pg: Paygent) -> Call:
    """A call under way, of the context's user."""
    call = pg._meter.begin(Request("openai", "chat.completions", "gpt-4o", {"messages": []}))
    while isinstance(call, Wait):
        call.block()
        call = pg._meter.begin(Request("openai", "chat.completions", "gpt-4o", {"messages": []}))
    assert call is not None
    return call


def within(pg: Paygent, where: str) -> Any:
    """A lock of ours, as the code that holds it has it."""
    return {"accounts": pg._accounts.lock, "rotation": pg._journal._rotation}[where]


@pytest.mark.parametrize("where", ["accounts", "rotation"])
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
    settled = pg._accounts.settle

    def collect_while_locked(*args: Any) -> None:
        with within(pg, where):
            gc.collect()
        settled(*args)

    gc.disable()
    try:
        del stream
        monkeypatch.setattr(pg._accounts, "settle", collect_while_locked)

        def work() -> None:
            pg.record_event("u2", cost=1)
            finished.set()

        # `record_event` runs on a thread of its own: a deadlock must fail the test, not hang it.
        frame_holder = threading.Thread(target=work, daemon=True)
        frame_holder.start()
        assert finished.wait(WAIT_S)
    finally:
        gc.enable()
    monkeypatch.undo()
    assert pg.get_usage("u1").period_cost_nano > 0
    assert held(pg) == {0}


def test_p4__a_dropped_stream__is_counted_without_another_call(
    init: Init, client: openai.OpenAI
) -> None:
    """What was put off is ended by the delivering thread at the latest."""
    pg = init()
    with paygent_context(user_id="u1"):
        call = begun(pg)
    pg._meter.end_later(lambda: pg._meter.settle(call, Usage(100, 20)))
    assert pg.flush() >= 0
    assert (held(pg), pg.get_usage("u1").period_tokens_total) == ({0}, 120)


def test_p4__two_threads_end_one_call__it_ends_once(init: Init) -> None:
    """A watchdog closes a stream in the moment in which its consumer fails."""
    pg = init(auto_instrument=False)
    with paygent_context(user_id="u1"), ThreadPoolExecutor(2) as pool:
        for _ in range(300):
            call = begun(pg)
            barrier = threading.Barrier(2)

            def end(call: Call = call, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(WAIT_S)
                pg._meter.settle(call, Usage(100, 20))

            for done in [pool.submit(end) for _ in range(2)]:
                done.result(WAIT_S)
    assert (held(pg), pg.get_usage("u1").period_tokens_total) == ({0}, 300 * 120)


@pytest.mark.parametrize("where", ["callbacks.fire", "journal.begin"])
def test_p4__an_interruption_before_the_provider__leaves_nothing(
    init: Init,
    fake: FakeProvider,
    client: openai.OpenAI,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while the warning is out or the record is written: no hold, no call, no event."""
    pg = init()
    pg.configure_plan("p", PlanConfig(max_spend_per_period=1, soft_gate_at=0.1))
    pg.assign_plan("u1", "p")
    pg.on_soft_gate(lambda result: None)
    pg.record_event("u1", cost="0.5")

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    part = pg._callbacks if where == "callbacks.fire" else pg._journal
    with monkeypatch.context() as patch, paygent_context(user_id="u1"):
        patch.setattr(part, where.split(".")[1], interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (fake.requests, held(pg), pg._journal.calls_in_flight) == ([], {0}, 0)
    assert pg.get_usage("u1").period_cost_nano == 500_000_000
