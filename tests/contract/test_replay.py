"""Replays on every engine: each is the fold over the events that were booked under the plan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from tests.contract.samples import DAY_US, MONTH, NOON_US, PRODUCT, batch_of, make_event
from tests.contract.stores import ODD, Clock, clock, store, stores
from tests.contract.test_reports import MODELS, WORLDS, World, booked, fill

from paygent.core.event import Event
from paygent.core.limit import Limit
from paygent.core.period import Subscription, to_datetime
from paygent.core.plan import PlanConfig
from paygent.core.replay import (
    Amounts,
    PeriodModel,
    ReplayReport,
    ReplayRow,
    ReplayTotals,
    UsageRow,
    fold_replay,
)
from paygent.core.report import facts_of
from paygent.store.ledger import SqlStore

__all__ = ["clock", "store", "stores"]  # fixtures

METRICS = ("spend", "tokens", "calls")
NOON = to_datetime(NOON_US).date()
MONTH_OF_NOON = NOON.replace(day=1), NOON.replace(day=1) + timedelta(days=31)


class Edit(NamedTuple):
    """A replay that is asked for."""

    plan_name: str
    plan: PlanConfig
    start: date
    end: date
    rows_max: int


def edits(place: World, seed: int, count: int) -> Iterator[Edit]:
    """Yield random edits of plans, and spans of days."""
    chance = random.Random(seed)
    middle = to_datetime(place.at_us).date()
    for _ in range(count):
        start = middle + timedelta(days=chance.randrange(-40, 3))
        yield Edit(
            chance.choice(("default", "default", "pro")),
            PlanConfig(limits=tuple(_limits(chance)), hard_gate_at=chance.choice((0.8, 1, 1.5))),
            start,
            start + timedelta(days=chance.choice((1, 2, 31, 90))),
            chance.choice((0, 1, 2, 100)),
        )


def _limits(chance: random.Random) -> Iterator[Limit]:
    """Yield limits of all kinds, of which about half stop some users."""
    kinds = [
        (metric, model, window)
        for metric in METRICS
        for model in (None, None, *MODELS[:3], " GPT-4o ")
        for window in ("day", "period", "period")
    ]
    for metric, model, window in dict.fromkeys(chance.sample(kinds, chance.choice((1, 2, 4)))):
        cap: Any = chance.choice((0, 1, 5, 20)) if metric == "calls" else chance.randrange(9_000)
        if metric == "spend":
            cap = f"{cap}e-6"
        if chance.random() < 0.1:
            cap = 9 * 10**8 if metric == "spend" else 9 * 10**18
        yield Limit(metric, model=model, window=window, cap=cap)  # type: ignore[arg-type]


def usage_of(events: list[Event], place: World, edit: Edit) -> list[UsageRow]:
    """Return what was booked under a plan on the days of a span, event by event."""
    return [
        UsageRow(
            fact.user_id,
            fact.day,
            PeriodModel(fact.period_start_us, fact.model),
            Amounts(
                fact.figures.calls,
                fact.figures.input_tokens + fact.figures.output_tokens,
                fact.figures.cost_nano,
            ),
        )
        for fact in facts_of(events, place.zone)
        if fact.plan == edit.plan_name and edit.start.isoformat() <= fact.day < edit.end.isoformat()
    ]


@pytest.mark.parametrize("place", WORLDS, ids=lambda place: f"{place.zone} {place.at_us}")
def test_replay__random_edits__are_the_fold(store: SqlStore, clock: Clock, place: World) -> None:
    """Windows, metrics, models, zones, billing periods, corrections and spans that cut periods."""
    clock.at_us = place.now_us
    fill(store, place, seed=11)
    events = booked(store)
    stopped = 0
    for edit in edits(place, seed=place.at_us, count=40):
        found = store.replay(PRODUCT, *edit)
        assert found == fold_replay(usage_of(events, place, edit), edit.plan, edit.rows_max)
        stopped += found.stopped_users > 0
    assert stopped > 10  # or the comparison would be of nothing


def replay(store: SqlStore, plan: PlanConfig, plan_name: str = "default") -> ReplayReport:
    """Replay an edit of a plan over the month of `NOON_US`."""
    return store.replay(PRODUCT, plan_name, plan, *MONTH_OF_NOON, 10)


def test_replay__a_cap_that_is_lowered__names_who_and_when(store: SqlStore, clock: Clock) -> None:
    """A user's billing period of whole months, days, or both is one window."""
    days_us = {"a": 0, "b": DAY_US, "c": 3 * DAY_US}
    events = [make_event(name, at_us=NOON_US - at_us) for name, at_us in days_us.items()]
    other = make_event("o", user_id="bob")
    store.ingest(PRODUCT, batch_of(*events, other))
    row = ReplayRow("ann", 1, 3_000, 1_500, "total_spend", "2024-10-03")
    expected = ReplayReport(ReplayTotals(2, 2, 4, 4_000), 1, 1_500, 2, (row,), ())
    plan = PlanConfig(max_spend_per_period="1.5e-6")
    assert replay(store, plan) == expected
    part = store.replay(PRODUCT, "default", plan, NOON - timedelta(days=2), NOON, 10)
    assert part == ReplayReport(ReplayTotals(1, 1, 1, 1_000), 0, 0, 0, (), ())
    assert store.replay(PRODUCT, "default", plan, NOON, NOON, 10).totals.users == 0


def test_replay__a_plan_without_usage_or_limits__stops_no_user(store: SqlStore) -> None:
    """Also before there is any usage, and under a name that a database does not hold."""
    store.add_product("Acme", product_id=PRODUCT)
    nothing = ReplayReport(ReplayTotals(0, 0, 0, 0), 0, 0, 0, (), ())
    tight = PlanConfig(max_spend_per_period=0, limits=(Limit("calls", window="day", cap=0),))
    assert replay(store, tight) == nothing
    store.ingest(PRODUCT, batch_of(make_event("a")))
    assert replay(store, tight, "other") == nothing
    assert replay(store, tight, ODD) == nothing
    assert replay(store, tight).stopped_users == 1
    loose = replay(store, PlanConfig(max_spend_per_session=0))
    assert loose.totals == ReplayTotals(1, 1, 1, 1_000)
    assert loose.stopped_users == 0
    assert loose.not_replayed == (Limit("spend", "session", None, "session", 0),)


def test_replay__calls_without_a_user__are_left_out(store: SqlStore) -> None:
    """The gate does not limit them, and they pay no price."""
    store.ingest(PRODUCT, batch_of(make_event("a", user_id="(none)"), make_event("b")))
    plan = PlanConfig(max_spend_per_period=0, limits=(Limit("calls", window="day", cap=0),))
    found = replay(store, plan)
    assert found.totals == ReplayTotals(1, 1, 1, 1_000)
    assert [row.user_id for row in found.rows] == ["ann"]


@pytest.mark.parametrize("model", [None, "gpt-4o"])
@pytest.mark.parametrize("window", ["day", "period"])
def test_replay__a_cap_of_zero__stops_calls_that_cost_nothing(
    store: SqlStore, window: str, model: str | None
) -> None:
    """As the gate does, which finds the cap used up before the first call."""
    store.ingest(PRODUCT, batch_of(make_event("a", cost_tokens_nano=0)))
    found = replay(store, PlanConfig(limits=(Limit(model=model, window=window, cap=0),)))
    assert (found.stopped_users, found.refused_calls, found.saved_nano) == (1, 1, 0)


def test_replay__two_billing_periods_of_a_day__share_its_limit(
    store: SqlStore, clock: Clock
) -> None:
    """The day is one window of the user; each period is a window of its own."""
    store.add_user(PRODUCT, "ann", None)
    store.subscribe(PRODUCT, "ann", "pro", Subscription(NOON_US, NOON_US + 7 * DAY_US))
    events = [
        make_event(str(number), at_us=at_us)
        for number, at_us in enumerate((NOON_US - 1, NOON_US, NOON_US + 1, NOON_US + 2))
    ]
    store.ingest(PRODUCT, batch_of(*events))
    assert {event.period_start_us for event in booked(store)} != {MONTH.start_us}
    daily = replay(store, PlanConfig(limits=(Limit("calls", window="day", cap=2),)), "pro")
    assert [(row.periods_stopped, row.saved_nano) for row in daily.rows] == [(2, 2_000)]
    period = replay(store, PlanConfig(limits=(Limit("calls", cap=2),)), "pro")
    assert [(row.periods_stopped, row.saved_nano) for row in period.rows] == [(1, 1_000)]
    assert period.totals.user_periods == 2


def test_replay__a_plan_that_is_replayed__is_not_changed(store: SqlStore) -> None:
    """Neither the plan nor any counter."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    replay(store, PlanConfig(max_spend_per_period=0))
    assert store.plans(PRODUCT) == ()
    assert list(store.audit(PRODUCT)) == []
