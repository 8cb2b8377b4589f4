"""Gates and callbacks together, through whole calls: who is told what, when, and in which order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from paygent import (
    GuardResult,
    Limit,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    UsageEvent,
    paygent_context,
)
from paygent.client.runtime.settings import Settings
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

CENT_NANO = 10**7
RATES = {"m": ModelCostRate.per_million(10, 0)}  # a thousand tokens are a cent


def answer(tokens: int = 1_000) -> dict[str, Any]:
    """Return an answer of `m` that costs a cent a thousand tokens."""
    return {"model": "m", "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}


def call(pg: Paygent, tokens: int = 1_000, user_id: str = "u1", **more: Any) -> Any:
    """Make one call that costs a cent a thousand tokens."""
    return pg.wrap(lambda: answer(tokens), user_id, "m", estimated_input_tokens=tokens, **more)


def started(init: Init, plan: PlanConfig, **arguments: Any) -> Paygent:
    """Start a Paygent whose users are on a plan."""
    pg = init(**arguments)
    pg.configure_plan("default", plan.model_copy(update={"cost_rates": RATES}))
    return pg


class Heard:
    """What an application was told, in order."""

    def __init__(self, pg: Paygent) -> None:
        self.pg = pg
        self.all: list[tuple[str, Any]] = []
        pg.on_soft_gate(lambda result: self.all.append(("soft", result)))
        pg.on_hard_gate(lambda result: self.all.append(("hard", result)))
        pg.on_usage(lambda event: self.all.append(("usage", event)))

    def of(self, kind: str) -> list[Any]:
        """Return what was told of a kind so far."""
        self.pg.flush()
        return [what for each, what in self.all if each == kind]

    def reasons(self, kind: str) -> list[str | None]:
        """Return the limits that spoke."""
        return [result.gate_reason for result in self.of(kind)]


@pytest.mark.parametrize("hard", [0.9, 1.0, 1.2])
def test_gate__at_exactly_its_lines__warns_and_refuses_there(init: Init, hard: float) -> None:
    """At 80 % to the nano-dollar it warns, at 90, 100 or 120 % it refuses, and not one below."""
    pg = started(init, PlanConfig(max_spend_per_period=1, hard_gate_at=hard))
    heard = Heard(pg)
    pg.record_event("u1", cost="0.799999999")
    call(pg, tokens=0)
    assert heard.reasons("soft") == []
    pg.record_event("u1", cost="0.000000001")
    call(pg, tokens=0)
    (result,) = heard.of("soft")
    assert (result.usage_pct, result.current_value, result.limit_value) == (0.8, 0.8, 1.0)
    pg.record_event("u1", cost=hard - 0.8 - 0.000000001 if hard != 1.0 else "0.199999999")
    call(pg, tokens=0)
    assert heard.reasons("hard") == []
    pg.record_event("u1", cost="0.000000001")
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg, tokens=0)
    result = refused.value.guard_result
    assert (result.gate_reason, result.usage_pct) == ("total_spend", hard)
    assert heard.reasons("soft") == ["total_spend"]
    assert heard.of("hard") == [result]


def test_soft_gate__200_calls_in_flight_at_half_of_the_cap__stays_silent(init: Init) -> None:
    """Holds come and go: only what is spent is warned of."""
    pg = started(init, PlanConfig(max_spend_per_period=4))
    heard = Heard(pg)
    call(pg, tokens=800)  # shows how large such calls are, so that the others do not wait for that
    pg.record_event("u1", cost=2)
    go = asyncio.Event()

    async def provider() -> Any:
        await go.wait()
        return answer(0)

    async def main() -> int:
        calls = [
            asyncio.ensure_future(pg.awrap(provider, "u1", "m", estimated_input_tokens=800))
            for _ in range(200)
        ]
        while pg.health()["calls_in_flight"] < 200:
            await asyncio.sleep(0.001)
        usage = pg.get_usage("u1")
        go.set()
        await asyncio.gather(*calls)
        return usage.reserved_cost_nano

    held_nano = asyncio.run(main())
    assert held_nano >= 160 * CENT_NANO  # with it, 90 % of the cap
    assert heard.reasons("soft") == []


def test_soft_gate__a_models_limit_and_the_total_cross_together__fire_two(init: Init) -> None:
    """Each limit newly past its line speaks for itself, once."""
    pg = started(init, PlanConfig(max_spend_per_period=0.1, model_limits={"m": 10_000}))
    heard = Heard(pg)
    for _ in range(9):
        call(pg)
    assert sorted(map(str, heard.reasons("soft"))) == ["model_limit:m", "total_spend"]
    units = {result.gate_reason: result.current_value for result in heard.of("soft")}
    assert units == {"total_spend": 0.08, "model_limit:m": 8_000.0}


def test_soft_gate__on_every_call__speaks_on_each_past_the_line(init: Init) -> None:
    """`soft_gate="every_call"`: as often as calls are made, for each limit past its line."""
    pg = started(init, PlanConfig(max_spend_per_period=0.1), soft_gate="every_call")
    heard = Heard(pg)
    for _ in range(10):
        call(pg)
    assert heard.reasons("soft") == ["total_spend", "total_spend"]


def test_soft_gate__a_new_window_or_session__warns_anew(db_path: str) -> None:
    """Once per limit and window, so the next day and the next session have their own."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    pg.configure_plan(
        "default",
        PlanConfig(
            cost_rates=RATES,
            max_spend_per_session=0.02,
            limits=(Limit("calls", window="day", cap=4),),
            soft_gate_at=0.5,
        ),
    )
    heard = Heard(pg)
    for session_id in ("a", "b"):
        for _ in range(2):
            call(pg, session_id=session_id)
    now[0] += 86_400 * 10**6
    for _ in range(3):
        call(pg, session_id="c", tokens=1)
    assert heard.reasons("soft") == ["session_spend", "calls:day", "session_spend", "calls:day"]


def test_sessions__two_named_ones__have_two_caps(init: Init) -> None:
    """What one conversation has used is not taken from another."""
    pg = started(init, PlanConfig(max_spend_per_session=0.02))
    refused: list[str] = []
    for session_id in ("a", "b", "a", "b", "a", "b"):
        with paygent_context("u1", session_id=session_id):
            try:
                pg.wrap(answer, "u1", "m", estimated_input_tokens=1_000)
            except PaygentLimitExceeded as error:
                refused.append(f"{session_id} {error.guard_result.gate_reason}")
    assert refused == ["a session_spend", "b session_spend"]
    assert pg.get_usage("u1").period_cost_nano == 4 * CENT_NANO


def test_sessions__idle_too_long__rotate_and_start_from_nothing(db_path: str) -> None:
    """After the time-out the next call opens another session, whose cap is whole."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    plan = PlanConfig(max_spend_per_session=0.02, session_timeout_minutes=30, cost_rates=RATES)
    pg.configure_plan("default", plan)
    for _ in range(2):
        call(pg)
    first = pg.get_usage("u1").session_id
    now[0] += 30 * 60 * 10**6
    with pytest.raises(PaygentLimitExceeded):
        call(pg)  # idle for exactly as long as is allowed
    now[0] += 30 * 60 * 10**6 + 1
    call(pg)
    usage = pg.get_usage("u1")
    assert usage.session_id != first
    assert (usage.session_cost_nano, usage.period_cost_nano) == (CENT_NANO, 3 * CENT_NANO)


def test_callbacks__of_one_caller__come_in_the_order_of_what_happened(init: Init) -> None:
    """Warning before the usage of the call that was warned about, refusal last."""
    pg = started(init, PlanConfig(max_spend_per_period=0.02, soft_gate_at=0.5))
    heard = Heard(pg)
    for _ in range(2):
        call(pg)
    with pytest.raises(PaygentLimitExceeded):
        call(pg)
    pg.flush()
    assert [kind for kind, _ in heard.all] == ["usage", "soft", "usage", "hard"]
    assert all(isinstance(what, (GuardResult, UsageEvent)) for _, what in heard.all)


@pytest.mark.usefixtures("patient_callbacks")
def test_hard_gate__a_callback__has_started_when_the_call_raises(init: Init) -> None:
    """A sync caller finds its refusal told already."""
    pg = started(init, PlanConfig(max_spend_per_period=0))
    told: list[GuardResult] = []
    pg.on_hard_gate(told.append)
    with pytest.raises(PaygentLimitExceeded):
        call(pg)
    assert [result.gate_reason for result in told] == ["total_spend"]


async def test_callbacks__async_ones_of_an_async_call__run_on_its_loop_and_flush_waits_elsewhere(
    init: Init,
) -> None:
    """They are tasks of the caller's loop; a flush in another thread waits for them."""
    pg = started(init, PlanConfig(max_spend_per_period=1))
    loop = asyncio.get_running_loop()
    release, ran = asyncio.Event(), []

    @pg.on_usage
    async def used(event: UsageEvent) -> None:
        await release.wait()
        ran.append((asyncio.get_running_loop() is loop, event.cost_total))

    async def provider() -> Any:
        return answer()

    await pg.awrap(provider, "u1", "m")
    flushing = asyncio.ensure_future(asyncio.to_thread(pg._parts.callbacks.flush, 10.0))
    await asyncio.sleep(0.02)
    assert (flushing.done(), ran) == (False, [])
    assert (
        pg._parts.callbacks.flush(0.5) is True
    )  # on the loop itself it does not wait: it would stop it
    release.set()
    assert await flushing is True
    assert ran == [(True, 0.01)]


def test_flush__an_async_callback_whose_loop_has_ended__is_not_waited_for(init: Init) -> None:
    """A loop that is gone runs nothing any more."""
    pg = started(init, PlanConfig(max_spend_per_period=1))

    @pg.on_usage
    async def used(event: UsageEvent) -> None:
        await asyncio.Event().wait()

    async def provider() -> Any:
        return answer()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(pg.awrap(provider, "u1", "m"))
    assert pg._parts.callbacks.flush(0.05) is False
    tasks = asyncio.all_tasks(loop)
    loop.close()
    assert pg._parts.callbacks.flush(5.0) is True
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # as meant


async def test_gate__a_sync_call_inside_an_async_handler__never_waits_on_its_own_loop(
    init: Init,
) -> None:
    """It would stop the very call that it waits for; it is refused at once, as contention."""
    pg = started(init, PlanConfig(max_spend_per_period=0.01))
    begun, go = asyncio.Event(), asyncio.Event()

    async def provider() -> Any:
        begun.set()
        await go.wait()
        return answer()

    under_way = asyncio.ensure_future(pg.awrap(provider, "u1", "m", estimated_input_tokens=1_000))
    await begun.wait()
    loop = asyncio.get_running_loop()
    before_s = loop.time()
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg)
    assert loop.time() - before_s < 1  # and not the thirty seconds of the plan
    assert (refused.value.guard_result.gate_reason, refused.value.guard_result.retryable) == (
        "contention",
        True,
    )
    go.set()
    await under_way


def test_gate__told_not_to_raise__runs_everything_and_tells(init: Init) -> None:
    """`raise_on_hard_gate=False`: calls run at once, marked `blocked`, callbacks fire."""
    pg = started(init, PlanConfig(max_spend_per_period=0.02), raise_on_hard_gate=False)
    heard = Heard(pg)
    barrier = threading.Barrier(5)

    def provider() -> Any:
        barrier.wait(10)  # all five are under way together: nobody waits for anybody
        return answer()

    threads = [
        threading.Thread(target=lambda: pg.wrap(provider, "u1", "m", estimated_input_tokens=1_000))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [event.blocked for event in heard.of("usage")] == [False] * 5
    assert heard.of("hard") == []
    call(pg)
    assert [event.blocked for event in heard.of("usage")] == [False] * 5 + [True]
    assert heard.reasons("hard") == ["total_spend"]
    assert pg.get_usage("u1").period_cost_nano == 6 * CENT_NANO


def test_gate__a_user_who_is_switched_off__passes_unmetered(init: Init) -> None:
    """`sdk_enabled=False` on a user: no gate, no event."""
    pg = started(init, PlanConfig(max_spend_per_period=0))
    pg.get_usage("u1")
    pg._parts.accounts.registry.users["u1"].sdk_enabled = False
    assert call(pg) == answer()
    assert pg.get_user_state("u1").sdk_enabled is False
    assert pg.get_usage("u1").period_cost_nano == 0


@pytest.mark.parametrize(
    ("policy", "whose"), [("warn", "(none)"), ("ignore", "(none)"), ("house", "house")]
)
def test_gate__a_call_without_a_user__is_whose_the_policy_says(
    init: Init, policy: str, whose: str
) -> None:
    """Metered on the reserved user without limits, or on the house's own account with them."""
    pg = started(init, PlanConfig(max_spend_per_period=0.01), on_missing_user=policy)
    pg.wrap(answer, None, "m", estimated_input_tokens=1_000)
    for _ in range(2):
        with pytest.raises(PaygentLimitExceeded) if policy == "house" else nullcontext():
            pg.wrap(answer, None, "m", estimated_input_tokens=1_000)
    spent = pg.get_usage(whose).period_cost_nano
    assert spent == (1 if policy == "house" else 3) * CENT_NANO
    assert ("no_user" in pg.health()["counts"]) is (policy == "warn")


def test_gate__a_call_without_a_user_that_is_blocked__raises_no_user(init: Init) -> None:
    """`on_missing_user="block"`: nothing leaves without a name on it."""
    pg = started(init, PlanConfig(), on_missing_user="block")
    heard = Heard(pg)
    with pytest.raises(PaygentLimitExceeded) as refused:
        pg.wrap(answer, None, "m")
    assert refused.value.guard_result.gate_reason == "no_user"
    assert heard.reasons("hard") == ["no_user"]
