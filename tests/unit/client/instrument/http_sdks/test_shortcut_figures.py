"""What is known right after a call that took the shortcut: figures, gates, callbacks, forks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import openai
import pytest
from tests.accounts import nothing_left, open_calls
from tests.instrument.shapes import MESSAGES
from tests.unit.client.instrument.http_sdks.ways import SHORT, WHOLE, Ways, chat

from paygent import GuardResult, Limit, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

NANO = 450_000  # what a call costs, and 120 tokens
FAR = PlanConfig(max_spend_per_period=1_000)


def warmed(
    init: Init, client: openai.OpenAI, ways: Ways, plan: PlanConfig = FAR, **more: Any
) -> Any:
    """Start a Paygent whose user u1 has made two calls; the second took the shortcut."""
    pg = init(**more)
    pg.configure_plan("default", plan)
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 2) == [WHOLE, SHORT]
    return pg


# -- figures


def remaining(pg: Paygent) -> int:
    """Return how many nano-dollars u1 may still spend."""
    left_nano = pg.get_remaining_budget("u1").period_spend_remaining_nano
    assert left_nano is not None
    return left_nano


def figures(pg: Paygent) -> dict[str, int | None]:
    """Return how many calls of `NANO` each way of asking reports."""
    usage = pg.get_usage("u1")
    (model,) = pg.get_model_usage("u1")
    state = pg.get_user_state("u1").current_usage
    return {
        "period": usage.period_cost_nano // NANO,
        "session": usage.session_cost_nano // NANO,
        "tokens": usage.period_tokens_total // 120,
        "model": model.cost_nano // NANO,
        "left": (1_000 * 10**9 - remaining(pg)) // NANO,
        "state": state.period_cost_nano // NANO,
        "report": sum(row.calls for row in pg.report()),
    }


def test_figures__asked_for_right_after_each_call__are_exact(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Whoever asks first counts what has ended."""
    pg = warmed(init, client, ways)
    for calls in range(3, 6):
        with paygent_context("u1"):
            assert ways.of(lambda: chat(client)) == [SHORT]
        assert set(figures(pg).values()) == {calls}
    assert nothing_left(pg)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pg: pg.get_usage("u1").period_cost_nano // NANO,
        lambda pg: pg.get_model_usage("u1")[0].cost_nano // NANO,
        lambda pg: (1_000 * 10**9 - remaining(pg)) // NANO,
        lambda pg: pg.get_user_state("u1").current_usage.period_cost_nano // NANO,
        lambda pg: sum(row.calls for row in pg.report()),
        lambda pg: pg.pending_events + pg._parts.worker.flushed,
        lambda pg: pg.flush() and pg.get_usage("u1").period_cost_nano // NANO,
    ],
    ids=["usage", "models", "budget", "state", "report", "pending", "flush"],
)
def test_figures__asked_for_in_one_way_alone__are_exact(
    ask: Callable[[Paygent], int],
    init: Init,
    client: openai.OpenAI,
    ways: Ways,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them relies on another one that was called before."""
    pg = warmed(init, client, ways)
    monkeypatch.setattr(pg._parts.worker, "nudge", lambda: None)
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 10)
    assert ask(pg) == 12


def test_check_guard__after_the_call_that_used_up_a_limit__refuses(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """It decides as the gate would: on all that has ended."""
    pg = warmed(init, client, ways, PlanConfig(max_spend_per_period=1))
    assert (pg.check_guard("u1").status, pg.is_within_limit("u1")) == ("ok", True)
    fake_use = {"x-fake-usage": '{"input": 400000, "output": 0}'}
    with paygent_context("u1"):
        assert ways.of(lambda: chat(client, extra_headers=fake_use)) == [SHORT]
        assert pg.check_guard("u1").status == "hard_gate"
        assert pg.is_within_limit("u1") is False
        with pytest.raises(PaygentLimitExceeded):
            chat(client)


@pytest.mark.usefixtures("patient_callbacks")
@pytest.mark.parametrize("is_async", [False, True])
def test_on_usage__after_each_call__has_been_told(
    is_async: bool, init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """A sync callback has run before the application has the answer; each call once, in order."""
    pg = warmed(init, client, ways)
    costs: list[int] = []
    pg.on_usage(lambda event: costs.append(event.cost_total_nano))

    async def calls() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as other:
            for _ in range(4):
                await other.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    with paygent_context("u1"):
        if is_async:
            asyncio.run(calls())
            pg.flush()
            assert costs == [NANO] * 4
            return
        for number in range(1, 5):
            chat(client)
            assert costs == [NANO] * number
    assert ways.taken[2:] == [SHORT] * 4


def test_on_usage__a_callback_that_makes_a_call__counts_both(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Also through the shortcut: its own end neither blocks nor is lost."""
    pg = warmed(init, client, ways)
    seen: list[str | None] = []

    def call_again(event: Any) -> None:
        seen.append(event.model)
        if len(seen) % 2:
            with paygent_context("u1"):
                chat(client)

    pg.on_usage(call_again)
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 3)
    pg.flush()
    assert len(seen) == 6
    assert ways.taken[2:] == [SHORT] * 6
    assert pg.get_usage("u1").period_cost_nano == 8 * NANO
    assert nothing_left(pg)


# -- gates


@pytest.mark.parametrize(("how", "warned_at"), [("once", [5]), ("every_call", [5, 6, 7, 8])])
def test_soft_gate__calls_that_pass_the_warn_line__warns_at_the_call_after_it(
    how: str, warned_at: list[int], init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Five calls of $0.00045 are at the line of $0.00225; the sixth warns, once or each time."""
    plan = PlanConfig(max_spend_per_period=0.0225, soft_gate_at=0.1)
    pg = init(soft_gate=how)
    pg.configure_plan("default", plan)
    warnings: list[GuardResult] = []
    pg.on_soft_gate(warnings.append)
    found: list[int] = []
    with paygent_context("u1"):
        for number in range(9):
            chat(client)
            pg._parts.callbacks.flush(5)
            if len(warnings) > len(found):
                found.append(number)
    assert found == warned_at
    assert {warning.gate_reason for warning in warnings} == {"total_spend"}


def test_soft_gate__far_from_each_line__is_silent_and_takes_the_shortcut(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """Warnings of other limits are not lost: they are due as long as one has not fired."""
    plan = PlanConfig(max_spend_per_period=1_000, limits=(Limit("calls", cap=10_000),))
    pg = warmed(init, client, ways, plan)
    warnings: list[GuardResult] = []
    pg.on_soft_gate(warnings.append)
    with paygent_context("u1"):
        assert ways.of(*[lambda: chat(client)] * 20) == [SHORT] * 20
    pg.flush()
    assert warnings == []


def test_hard_gate__that_is_not_raised__lets_calls_run_and_marks_them(
    init: Init, client: openai.OpenAI, ways: Ways
) -> None:
    """`raise_on_hard_gate=False`: those past the line go the whole way, which marks each."""
    plan = PlanConfig(limits=(Limit("calls", cap=20),))
    pg = warmed(init, client, ways, plan, raise_on_hard_gate=False)
    refused: list[GuardResult] = []
    blocked: list[bool] = []
    pg.on_hard_gate(refused.append)
    pg.on_usage(lambda event: blocked.append(event.blocked))
    with paygent_context("u1"):
        ways.of(*[lambda: chat(client)] * 21)
    pg.flush()
    assert blocked == [False] * 18 + [True] * 3
    assert (len(refused), ways.taken[-3:]) == (3, [WHOLE] * 3)


def test_hard_gate__many_threads_at_the_last_places__admit_no_call_too_many(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """The shortcut takes a place only where there certainly is one."""
    plan = PlanConfig(limits=(Limit("calls", cap=40),), contention_wait_s=0)
    pg = warmed(init, client, ways, plan)
    start = threading.Barrier(8)
    made: list[int] = []

    def work() -> None:
        start.wait(10)
        for _ in range(10):
            with suppress(PaygentLimitExceeded), paygent_context("u1"):
                chat(client)
                made.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(made), len(fake.requests)) == (38, 40)
    assert pg.get_usage("u1").period_tokens_total == 40 * 120
    assert nothing_left(pg)


def test_hold__of_a_call_in_flight__is_seen_by_whoever_asks(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """A call that took the shortcut holds what it may use, until it has ended."""
    pg = warmed(init, client, ways)
    user = pg._parts.accounts.registry.users["u1"]
    assert pg.get_usage("u1").reserved_cost_nano == 0
    fake.script(Answer(delay_s=1))

    def call() -> None:
        with paygent_context("u1"):
            chat(client)

    thread = threading.Thread(target=call)
    thread.start()
    while not open_calls(user) and thread.is_alive():
        thread.join(0.001)
    assert pg.get_usage("u1").reserved_cost_nano > 0
    assert pg.health()["calls_in_flight"] == 1
    thread.join(10)
    assert pg.get_usage("u1").reserved_cost_nano == 0
    assert ways.taken[2:] == [SHORT]


def test_figures__of_an_answer_that_uses_more_than_expected__are_counted_at_once(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """Later calls cannot be let in by what was assumed of this one."""
    pg = warmed(init, client, ways)
    user = pg._parts.accounts.registry.users["u1"]
    fake.script(Answer(tokens=Tokens(input=10**6, output=10**6)))
    with paygent_context("u1"):
        assert ways.of(lambda: chat(client)) == [SHORT]
    assert (len(user.finished), len(user.open)) == (0, 0)
    assert pg.get_usage("u1").period_tokens_total == 2 * 120 + 2 * 10**6


# -- forks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork__with_a_call_in_flight__leaves_it_to_the_parent(
    init: Init, client: openai.OpenAI, fake: FakeProvider, ways: Ways
) -> None:
    """The child has lanes of its own and counts its own calls alone; both are booked once."""
    pg = warmed(init, client, ways)
    fake.script(Answer(delay_s=1.0))

    def call() -> None:
        with paygent_context("u1"):
            chat(client)

    thread = threading.Thread(target=call)
    thread.start()
    while pg.health()["calls_in_flight"] == 0 and thread.is_alive():
        thread.join(0.001)
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            in_child = pg.health()["calls_in_flight"]
            with (
                openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as own,
                paygent_context("u1"),
            ):
                taken = ways.of(*[lambda: chat(own)] * 2)
            pg.flush()
            failed = (in_child, taken) != (0, [WHOLE, SHORT])
        finally:
            os._exit(int(failed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(10)
    call()
    assert ways.taken[2:] == [SHORT, SHORT]
    assert nothing_left(pg)
    pg.flush()
    assert [(row.calls, row.doubtful_calls) for row in pg.report()] == [(6, 0)]
