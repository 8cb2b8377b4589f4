"""Shadow mode (`PlanConfig(enforce=False)`): nothing is refused, and what enforcement would have
refused is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ledgers import AwayLedger

from paygent import Limit, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.runtime.settings import Settings
from paygent.core.report_rows import UsageRow
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

RATES = {  # a thousand tokens are a cent of `m`, and two of `n`
    "m": ModelCostRate.per_million(10, 10),
    "n": ModelCostRate.per_million(20, 20),
}
START_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


class Asked(NamedTuple):
    """One call of a recorded run."""

    user_id: str
    session_id: str | None
    model: str
    tokens: int
    pause_us: int

    def make(self, pg: Paygent) -> None:
        """Make the call."""
        answer = {"model": self.model, "usage": {"prompt_tokens": self.tokens}}
        pg.wrap(
            lambda: answer,
            self.user_id,
            self.model,
            session_id=self.session_id,
            estimated_input_tokens=self.tokens,
            estimated_max_tokens=0,
        )


class Run:
    """A run of calls on one plan, with a clock of its own."""

    def __init__(self, plan: PlanConfig, *, db_path: str = ":memory:") -> None:
        self.at_us = START_US
        self.pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: self.at_us)
        self.pg.configure_plan("default", plan)

    def play(self, calls: list[Asked]) -> list[int]:
        """Make the calls, and return the numbers of those refused or marked as blocked."""
        events: list[Any] = []
        self.pg.on_usage(events.append)
        stopped = []
        for number, call in enumerate(calls):
            self.at_us += call.pause_us
            try:
                call.make(self.pg)
            except PaygentLimitExceeded:
                stopped.append(number)
            else:
                self.pg._parts.callbacks.flush(5.0)
                if events[-1].blocked:
                    stopped.append(number)
        return stopped

    def rows(self) -> tuple[UsageRow, ...]:
        """Return the report of all days of the run."""
        rows = self.pg.report(("user", "model"))
        self.pg.shutdown()
        return rows


_calls = st.lists(
    st.builds(
        Asked,
        st.sampled_from(("ann", "bob")),
        st.sampled_from((None, "s1", "s2")),
        st.sampled_from(("m", "n")),
        st.integers(0, 4_000),
        st.sampled_from((0, 60_000_000, 40 * 60_000_000, DAY_US // 2)),
    ),
    max_size=30,
)
_caps = st.one_of(st.none(), st.integers(0, 12).map(lambda cents: cents / 100))
_plans = st.builds(
    lambda period, session, tokens, calls, rolling, strict, hard: {
        "max_spend_per_period": period,
        "max_spend_per_session": session,
        "model_limits": {"m": tokens},
        "limits": [
            Limit("calls", window="day", cap=calls),
            Limit("tokens", window="rolling:24h", cap=rolling),
        ],
        "pre_call_estimate": strict,
        "soft_gate_at": 0.5,
        "hard_gate_at": hard,
        "cost_rates": RATES,
    },
    _caps,
    _caps,
    st.one_of(st.none(), st.integers(0, 6_000)),
    st.one_of(st.none(), st.integers(0, 8)),
    st.one_of(st.none(), st.integers(0, 9_000)),
    st.booleans(),
    st.sampled_from((0.8, 1.0, 1.2)),
)


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fields=_plans, calls=_calls)
def test_shadow_mode__on_a_recorded_run__names_exactly_the_calls_that_enforcement_refuses(
    fields: dict[str, Any], calls: list[Asked]
) -> None:
    """Blocked calls do not count toward the limits, as refused ones do not, whatever the limits;
    and the cost that the report states as saved is the difference between the two runs.
    """
    enforced, shadow = Run(PlanConfig(**fields)), None
    refused = enforced.play(calls)
    spent = enforced.rows()
    shadow = Run(PlanConfig(**fields, enforce=False))
    assert shadow.play(calls) == refused
    rows = shadow.rows()
    assert sum(row.calls for row in rows) == len(calls)
    assert sum(row.shadow_calls for row in rows) == len(refused)
    saved = sum(row.shadow_cost_nano for row in rows)
    assert saved == sum(row.cost_nano for row in rows) - sum(row.cost_nano for row in spent)


LIMITED = PlanConfig(max_spend_per_period=0.02, cost_rates=RATES, enforce=False)
TEN = [Asked("ann", None, "m", 1_000, 0)] * 10


def test_shadow_mode__across_restarts_and_processes__decides_by_what_would_have_been_spent(
    db_path: str,
) -> None:
    """The store keeps the blocked part of each account; a process reads it with the rest."""
    first = Run(LIMITED, db_path=db_path)
    assert first.play(TEN[:5]) == [2, 3, 4]
    first.pg.shutdown()
    again = Run(LIMITED, db_path=db_path)
    assert again.play(TEN[:2]) == [0, 1]
    usage = again.pg.get_usage("ann")
    assert usage.period_cost == 0.07  # what was really spent
    result = again.pg.check_guard("ann", "m")
    assert (result.status, result.current_value, result.limit_value) == ("ok", 0.02, 0.02)
    (row,) = again.rows()
    assert (row.calls, row.shadow_calls, row.shadow_cost_nano) == (7, 5, 50_000_000)


def test_shadow_mode__becomes_enforced__counts_everything_that_was_spent(db_path: str) -> None:
    """Enforcement sees the real spend: the user is refused at once, and warned by then."""
    run = Run(LIMITED.model_copy(update={"max_spend_per_period": 0.05}), db_path=db_path)
    heard: list[str] = []
    run.pg.on_soft_gate(lambda result: heard.append(result.status))
    run.pg.on_hard_gate(lambda result: heard.append(result.status))
    assert run.play(TEN[:7]) == [5, 6]
    assert heard == []  # nobody notices a plan in shadow mode
    run.pg.configure_plan("default", LIMITED.model_copy(update={"enforce": True}))
    assert run.play(TEN[:1]) == [0]
    run.pg.flush()
    assert heard == ["hard_gate"]


def test_shadow_mode__is_switched_on__lets_a_refused_user_go_on(init: Init) -> None:
    """A plan may be taken out of force; what was spent stays."""
    pg = init()
    pg.configure_plan("default", LIMITED.model_copy(update={"enforce": True}))
    for _ in range(2):
        TEN[0].make(pg)
    with pytest.raises(PaygentLimitExceeded):
        TEN[0].make(pg)
    pg.configure_plan("default", LIMITED)
    TEN[0].make(pg)
    assert pg.get_usage("ann").period_cost == 0.03


def test_shadow_mode__what_an_application_asks__lets_it_go_on(init: Init) -> None:
    """Advice by which applications gate or shorten calls themselves does not limit either."""
    pg = init()
    pg.configure_plan("default", LIMITED)
    for _ in range(4):
        TEN[0].make(pg)
    assert pg.is_within_limit("ann", "m")
    assert pg.check_guard("ann").status == "ok"
    advice = pg.get_max_tokens("ann", "m", hard_cap=777)
    assert (advice.max_tokens, advice.binding_limit) == (777, "unbounded")
    assert pg.get_remaining_budget("ann").period_spend_remaining == 0.0


def test_shadow_mode__of_a_corrected_call__corrects_what_would_have_been_saved(init: Init) -> None:
    """A correction of a blocked call is of the blocked part, in memory and in the report."""
    pg = init()
    pg.configure_plan("default", LIMITED)
    events: list[Any] = []
    pg.on_usage(events.append)
    for _ in range(3):
        TEN[0].make(pg)
    pg.flush()
    pg.record_event("ann", corrects=events[2].id, cost="-0.004")
    pg.flush()
    (row,) = pg.report()
    assert (row.cost_nano, row.shadow_cost_nano) == (26_000_000, 6_000_000)
    assert pg.check_guard("ann").current_value == 0.02


def test_shadow_mode__policies_of_the_plan__mark_and_let_pass(init: Init, db_path: str) -> None:
    """Unknown models and an unreachable ledger block nobody on a plan that is not enforced."""
    pg = init()
    pg.configure_plan("default", PlanConfig(unknown_model="block", enforce=False))
    events: list[Any] = []
    pg.on_usage(events.append)
    Asked("ann", None, "gpt-next-voice", 5, 0).make(pg)
    pg.flush()
    assert [event.blocked for event in events] == [True]
    away = Paygent.launch(Settings(db_path=db_path), ledger=AwayLedger())
    away.configure_plan("default", PlanConfig(when_offline="block", enforce=False))
    Asked("ann", None, "gpt-4o", 5, 0).make(away)
    away.shutdown(timeout=0.2)


def test_shadow_mode__with_calls_in_flight__never_waits(init: Init) -> None:
    """A call that would have had to wait for others runs, and is not marked."""
    pg = init()
    pg.configure_plan("default", LIMITED)
    events: list[Any] = []
    pg.on_usage(events.append)

    def outer() -> dict[str, Any]:
        with paygent_context(None):
            TEN[0].make(pg)  # while the outer call holds all that is left
        return {"model": "m", "usage": {"prompt_tokens": 1_000}}

    pg.wrap(outer, "bob", "m", estimated_input_tokens=2_000, estimated_max_tokens=0)
    TEN[0]._replace(user_id="bob").make(pg)
    pg.flush()
    assert not any(event.blocked for event in events)


def test_shadow_mode__killed_while_a_blocked_call_is_in_flight__stays_blocked(
    db_path: str, tmp_path: Path
) -> None:
    """The begin record says so, and the estimate that is booked for the lost call is blocked."""
    from tests.promises.scripts import kill, read_line, start

    script = f"""
import sys, time
from paygent import Paygent, PlanConfig
pg = Paygent.init(db_path={db_path!r})
pg.configure_plan("default", PlanConfig(max_spend_per_period=0, enforce=False))
def call():
    print("in flight", flush=True)
    time.sleep(600)
pg.wrap(call, "ann", "gpt-4o", estimated_input_tokens=1_000_000, estimated_max_tokens=0)
"""
    process = start(script, HOME=str(tmp_path))
    assert read_line(process) == "in flight"
    kill(process)
    pg = Paygent.init(db_path=db_path)
    pg.flush()
    (row,) = pg.report()
    assert (row.calls, row.shadow_calls) == (1, 1)
    assert row.shadow_cost_nano == row.cost_nano > 0


def test_plan__in_shadow_mode__survives_a_restart(db_path: str) -> None:
    """The switch is a part of the plan's document."""
    run = Run(LIMITED, db_path=db_path)
    run.pg.shutdown()
    with Paygent._installing:
        pg = Paygent.launch(Settings(db_path=db_path))
    assert pg.get_user_state("ann").plan_config.enforce is False
    assert json.loads(LIMITED.model_dump_json())["enforce"] is False
