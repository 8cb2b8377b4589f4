"""Margins on every engine: each grouping has one total, and every figure follows from the events,
the payments, and the history of plans and prices.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from fractions import Fraction
from typing import Any

import pytest
from tests.contract.samples import DAY_US, HOUR_US, PRODUCT, make_event
from tests.contract.stores import Clock, clock, execute, store, stores

from paygent.core.margin import MarginFigures, MarginPage, MarginReport, MarginRow
from paygent.core.messages import AssignRecord, Batch, DefaultPlanRecord, PlanRecord
from paygent.core.period import (
    END_OF_TIME_US,
    Subscription,
    Window,
    billing_period,
    day_in_zone,
    to_datetime,
    to_us,
)
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.report_request import MARGIN, read_request
from paygent.store.directory_port import RevenueEntry
from paygent.store.ledger import SqlStore
from paygent.store.margins import AllMargins, KnownRevenue
from paygent.store.rows import subscription_of

__all__ = ["clock", "store", "stores"]  # fixtures

START_US = to_us(datetime(2026, 3, 1, tzinfo=timezone.utc))
NOW_US = START_US + 75 * DAY_US + 5 * HOUR_US
USERS = ("ann", "bob", "cy", "dee", "eve", "(none)")
PRICES = {"free": None, "pro": 49, "gold": "149.50"}


def fill(store: SqlStore, clock: Clock, zone: str, seed: int) -> None:
    """Write three months of a product: users who come, change plans, pay, and are paid back."""
    chance = random.Random(seed)
    clock.at_us = START_US
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, f"UPDATE products SET timezone = '{zone}'")
    records: list[Any] = [DefaultPlanRecord("free", START_US)]
    for name, price in PRICES.items():
        document = plan_to_json(PlanConfig(price=price))
        records.append(PlanRecord(name, document, START_US))
    store.ingest(PRODUCT, Batch(records=tuple(records), at_us=START_US))
    for number, user_id in enumerate(USERS):
        clock.at_us = START_US + number * 7 * DAY_US
        store.add_user(PRODUCT, user_id, None)
        for _ in range(chance.randrange(3)):
            clock.at_us += chance.randrange(20 * DAY_US)
            own = chance.choice((None, plan_to_json(PlanConfig(price=9))))
            period = chance.choice((None, Subscription(START_US + DAY_US, START_US + 15 * DAY_US)))
            plan = chance.choice(tuple(PRICES))
            assignment = AssignRecord(user_id, plan, own, period, clock.at_us)
            store.ingest(PRODUCT, Batch(records=(assignment,), at_us=clock.at_us))
    clock.at_us = START_US + 50 * DAY_US
    dearer = PlanRecord("pro", plan_to_json(PlanConfig(price=59)), clock.at_us)
    store.ingest(PRODUCT, Batch(records=(dearer,), at_us=clock.at_us))
    clock.at_us = NOW_US
    store.add_revenue(PRODUCT, [_payment(chance, f"r{number}") for number in range(8)])
    events = tuple(
        make_event(
            f"e{number}",
            user_id=chance.choice(USERS),
            at_us=chance.randrange(START_US, NOW_US),
            cost_tokens_nano=chance.randrange(10**9),
        )
        for number in range(120)
    )
    store.ingest(PRODUCT, Batch(events=events, at_us=NOW_US))


def _payment(chance: random.Random, revenue_id: str) -> RevenueEntry:
    start_us = START_US + chance.randrange(-10, 70) * DAY_US
    is_refund = chance.random() < 0.3
    return RevenueEntry(
        revenue_id,
        chance.choice(USERS[:3]),
        chance.randrange(1, 10**11) * (-1 if is_refund else 1),
        "refund" if is_refund else "payment",
        start_us,
        start_us + chance.choice((1, 30, 365)) * DAY_US,
        None,
    )


def report(store: SqlStore, by: str, start_us: int, end_us: int, **given: Any) -> MarginReport:
    """Return all rows of a report."""
    times = {"start": to_datetime(start_us), "end": to_datetime(end_us)}
    return store.margin(PRODUCT, read_request({"by": by, **times, **given}, rules=MARGIN))


def all_margins(store: SqlStore, by: str, known: KnownRevenue | None = None) -> AllMargins:
    """Return the margins of all groups in the whole time."""
    times = {"start": to_datetime(START_US), "end": to_datetime(NOW_US)}
    return store.all_margins(PRODUCT, read_request({"by": by, **times}, rules=MARGIN), known)


def without_projection(figures: MarginFigures) -> MarginFigures:
    """Return figures without what depends on the span of time."""
    return figures._replace(projected_cost_nano=0)


def summed(page: MarginPage) -> tuple[int, int, int]:
    """Return cost and both kinds of revenue over the rows."""
    rows = [row.figures for row in page.rows]
    return (
        sum(each.cost_nano for each in rows),
        sum(each.recorded_nano for each in rows),
        sum(each.plan_price_nano for each in rows),
    )


def spans(seed: int) -> Iterator[tuple[int, int]]:
    """Yield random spans of time, half of them of whole days."""
    chance = random.Random(seed)
    while True:
        unit_us = chance.choice((DAY_US, 1))
        first, last = sorted(chance.randrange(0, 90 * DAY_US // unit_us) for _ in range(2))
        if first < last:
            yield START_US + first * unit_us, START_US + last * unit_us


ZONES = ("UTC", "Europe/Berlin", "America/New_York")


@pytest.mark.parametrize("seed", range(3))
def test_margin__any_span__has_one_total_whatever_it_is_grouped_by(
    store: SqlStore, clock: Clock, seed: int
) -> None:
    """Rows add up to it, and two spans that touch add up to the span of both, exactly."""
    fill(store, clock, ZONES[seed], seed)
    for _, (start_us, end_us) in zip(range(12), spans(seed), strict=False):
        reports = [report(store, by, start_us, end_us) for by in ("user", "plan", "month")]
        totals = [each.page.total for each in reports]
        assert totals == [totals[0]] * 3
        for each in reports:
            total = each.page.total
            expected = total.cost_nano, total.recorded_nano, total.plan_price_nano
            assert summed(each.page) == expected
        middle_us = (start_us + end_us) // 2
        if start_us < middle_us < end_us:
            halves = [
                report(store, "plan", *span).page.total
                for span in ((start_us, middle_us), (middle_us, end_us))
            ]
            for name in ("calls", "cost_nano", "recorded_nano", "plan_price_nano"):
                both = sum(getattr(half, name) for half in halves)
                assert both == getattr(totals[0], name), name


@pytest.mark.parametrize("seed", range(3))
def test_margin__of_one_user_or_plan__has_the_figures_among_all(
    store: SqlStore, clock: Clock, seed: int
) -> None:
    """A page about one of them needs no report of all, and one of all plans holds each."""
    fill(store, clock, ZONES[seed], seed)
    for _, (start_us, end_us) in zip(range(6), spans(seed), strict=False):
        times = {"start": to_datetime(start_us), "end": to_datetime(end_us)}
        keys = (("user", [*USERS, "zoe"]), ("plan", [*PRICES, "default", "none"]))
        for by, names in keys:
            request = read_request({"by": by, **times}, rules=MARGIN)
            groups = store.all_margins(PRODUCT, request).groups
            for name in names:
                found = report(store, by, start_us, end_us, **{by: name}).page.total
                assert found == groups.figures(name)


def _change_revenue(store: SqlStore, clock: Clock) -> Iterator[str]:
    """Change everything that revenue follows from, one after the other; yield what."""
    clock.at_us += 1
    at_us = NOW_US - 9 * DAY_US
    period = Subscription(START_US + DAY_US, START_US + 11 * DAY_US)

    def book(*records: Any) -> None:
        store.ingest(PRODUCT, Batch(records=records, at_us=clock.at_us))

    book(AssignRecord("ann", "gold", None, None, at_us))
    yield "a plan"
    book(AssignRecord("ann", "gold", None, period, at_us + 1))
    yield "a billing period"
    book(AssignRecord("ann", "gold", plan_to_json(PlanConfig(price=7)), period, at_us + 2))
    yield "a price of the user's own"
    clock.at_us -= 10 * DAY_US
    assert store.subscribe(PRODUCT, "ann", "pro", None)
    clock.at_us += 10 * DAY_US
    yield "a plan by a server whose clock is behind"
    book(PlanRecord("gold", plan_to_json(PlanConfig(price=3)), at_us))
    yield "a price"
    book(PlanRecord("free", plan_to_json(PlanConfig(price=1)), at_us))
    yield "the price of the default plan"
    book(DefaultPlanRecord("gold", at_us))
    yield "the default plan"
    entry = _payment(random.Random(9), "later")
    assert store.add_revenue(PRODUCT, [entry._replace(user_id="bob")])
    yield "a payment"
    clock.at_us = NOW_US - 30 * DAY_US
    store.add_user(PRODUCT, "new", None)
    yield "a new user"
    clock.at_us = NOW_US
    assert store.erase_user(PRODUCT, "new") is not None
    yield "an erased user"


@pytest.mark.parametrize("by", ["user", "plan", "month"])
def test_all_margins__with_known_revenue__have_every_change(
    store: SqlStore, clock: Clock, by: str
) -> None:
    """Revenue is read again as soon as anything has changed that it follows from."""
    fill(store, clock, "UTC", 5)
    known = all_margins(store, by)
    for change in _change_revenue(store, clock):
        fresh = all_margins(store, by)
        found = all_margins(store, by, known.revenue)
        assert found.groups.by_key == fresh.groups.by_key, change
        assert found.groups.total == fresh.groups.total, change
        assert found.revenue != known.revenue, change
        known = found


def test_all_margins__with_known_revenue_and_more_calls__read_the_cost_alone(
    store: SqlStore, clock: Clock
) -> None:
    """Calls do not change what users pay; another question is another answer."""
    fill(store, clock, "UTC", 5)
    known = all_margins(store, "user")
    event = make_event("more", user_id="ann", at_us=NOW_US - DAY_US, cost_tokens_nano=7)
    store.ingest(PRODUCT, Batch(events=(event,), at_us=NOW_US))
    found = all_margins(store, "user", known.revenue)
    assert found.revenue is known.revenue
    cost_nano = [each.groups.figures("ann").cost_nano for each in (known, found)]
    assert cost_nano[1] - cost_nano[0] == event.cost_nano
    assert found.groups.by_key == all_margins(store, "user").groups.by_key
    assert all_margins(store, "plan", known.revenue).revenue is not known.revenue


@pytest.mark.parametrize("seed", range(3))
def test_margin__of_users__is_cost_and_revenue_to_the_nano_dollar(
    store: SqlStore, clock: Clock, seed: int
) -> None:
    """Costs are the events'; revenue is an oracle's in fractions, within a nano-dollar a part."""
    fill(store, clock, ZONES[seed], seed)
    for _, (start_us, end_us) in zip(range(8), spans(seed + 9), strict=False):
        span = Window(start_us, end_us)
        found = {row.key: row.figures for row in report(store, "user", *span).page.rows}
        for user_id in USERS:
            own = store.events(PRODUCT, user_id)
            cost_nano = sum(event.cost_nano for event in own if span.contains(event.at_us))
            figures = found.get(user_id, MarginFigures())
            assert figures.cost_nano == cost_nano
            exact, parts = _revenue(store, user_id, span)
            assert abs(figures.revenue_nano - exact) <= parts


def _revenue(store: SqlStore, user_id: str, span: Window) -> tuple[Fraction, int]:
    """Return a user's revenue, and of how many parts it may be made."""
    with store.engine.transaction(PRODUCT) as sql:
        rows = sql.assignments_of(rows=[(user_id,)])
    user = store.user(PRODUCT, user_id)
    assert user is not None
    contracts: list[tuple[int, str, Subscription | None]] = [
        (row["assigned_us"], row["plan"], subscription_of(row)) for row in rows
    ]
    if not contracts or contracts[0][0] > user.created_us + 60 * 10**6:
        contracts.insert(0, (0, "free", None))
    payments = store.revenue(
        PRODUCT, user_id=user_id, start_us=0, end_us=2**62, after=None, entries_max=99
    )
    revenue, parts = Fraction(0), 10
    for each in payments:
        whole = Window(each.period_start_us, each.period_end_us)
        part_us = min(whole.end_us, span.end_us) - max(whole.start_us, span.start_us)
        if part_us > 0:
            revenue += Fraction(each.amount_nano * part_us, whole.end_us - whole.start_us)
            parts += 8
    if user_id == "(none)":
        return revenue, parts
    begins = [0, *(begin_us for begin_us, _, _ in contracts[1:]), END_OF_TIME_US]
    for number, (_, plan, subscription) in enumerate(contracts):
        at_us = max(begins[number], span.start_us, user.created_us)
        until_us = min(begins[number + 1], span.end_us)
        while at_us < until_us:
            period = billing_period(subscription, at_us)
            assert period is not None
            is_paid = any(
                each.period_start_us < period.end_us and each.period_end_us > period.start_us
                for each in payments
            )
            price = _price(plan, period.start_us)
            if user.own is not None and number + 1 == len(contracts):
                price = Fraction(9)
            if price is not None and not is_paid:
                length_us = period.end_us - period.start_us
                part_us = min(period.end_us, until_us) - at_us
                revenue += price * 10**9 * part_us / length_us
            parts += 4
            at_us = period.end_us
    return revenue, parts


def _price(plan: str, at_us: int) -> Fraction | None:
    if plan == "pro":
        return Fraction(49 if at_us < START_US + 50 * DAY_US else 59)
    price = PRICES[plan]
    return None if price is None else Fraction(price)


def test_margin__filters_pages_and_periods__are_those_of_the_request(
    store: SqlStore, clock: Clock
) -> None:
    """Without times it is the whole month, projected to its end."""
    fill(store, clock, "Europe/Berlin", 5)
    whole = store.margin(PRODUCT, read_request({"by": "user"}, rules=MARGIN))
    assert day_in_zone(whole.query.start_us, whole.timezone) == "2026-05-01"
    assert day_in_zone(whole.query.end_us, whole.timezone) == "2026-06-01"
    assert whole.page.total.projected_cost_nano > whole.page.total.cost_nano > 0
    request = read_request({"by": "user"}, rules=MARGIN, rows_max=2)
    rows: list[MarginRow] = []
    page = store.margin(PRODUCT, request).page
    while True:
        rows += page.rows
        if page.following is None:
            break
        page = store.margin(PRODUCT, replace(request, after=page.following)).page
        assert page.total == whole.page.total
    assert tuple(rows) == whole.page.rows
    for row in whole.page.rows:
        one = store.margin(PRODUCT, read_request({"by": "user", "user": row.key}, rules=MARGIN))
        assert [each.figures for each in one.page.rows] == [row.figures]
        by_month = read_request({"by": "month", "user": row.key}, rules=MARGIN)
        total = store.margin(PRODUCT, by_month).page.total
        assert without_projection(total) == without_projection(row.figures)
    plans = store.margin(PRODUCT, read_request({"by": "plan"}, rules=MARGIN)).page
    for row in plans.rows:
        given = {"by": "user", "plan": row.key}
        total = store.margin(PRODUCT, read_request(given, rules=MARGIN)).page.total
        assert total.revenue_nano == row.figures.revenue_nano
        assert total.cost_nano == row.figures.cost_nano


def test_margin__a_billing_period_of_a_user__has_its_cost_and_its_price(
    store: SqlStore, clock: Clock
) -> None:
    """The price of the plan as a whole, and no call of another period."""
    clock.at_us = START_US + 10 * DAY_US
    plan = PlanRecord("pro", plan_to_json(PlanConfig(price=49)), START_US)
    store.ingest(PRODUCT, Batch(records=(plan,), at_us=clock.at_us))
    clock.at_us = START_US
    store.add_user(PRODUCT, "ann", None)
    fortnight = Subscription(START_US + 3 * DAY_US, START_US + 17 * DAY_US)
    store.subscribe(PRODUCT, "ann", "pro", fortnight)
    clock.at_us = START_US + 10 * DAY_US
    events = tuple(
        make_event(str(day), at_us=START_US + day * DAY_US, cost_tokens_nano=10**9)
        for day in range(6)
    )
    store.ingest(PRODUCT, Batch(events=events, at_us=clock.at_us))
    given = {"by": "user", "user": "ann", "period": "current"}
    (row,) = store.margin(PRODUCT, read_request(given, rules=MARGIN)).page.rows
    assert (row.figures.calls, row.figures.revenue_nano) == (3, 49 * 10**9)
    assert row.figures.projected_cost_nano == 6 * 10**9


def test_margin__an_erased_user__pays_until_then(store: SqlStore, clock: Clock) -> None:
    """The past stays under the pseudonym; nobody pays for who is gone."""
    clock.at_us = START_US
    plan = PlanRecord("default", plan_to_json(PlanConfig(price=31)), START_US)
    store.ingest(PRODUCT, Batch(records=(plan,), at_us=clock.at_us))
    store.add_user(PRODUCT, "ann", None)
    clock.at_us = START_US + 10 * DAY_US
    pseudonym = store.erase_user(PRODUCT, "ann")
    clock.at_us = NOW_US
    for month, dollars in ((3, 10), (4, 0)):
        start_us = to_us(datetime(2026, month, 1, tzinfo=timezone.utc))
        found = report(store, "user", start_us, start_us + 30 * DAY_US).page.rows
        revenue = {row.key: row.figures.revenue_nano for row in found}
        assert revenue.get(pseudonym or "", 0) == dollars * 10**9


def test_margin__a_later_assignment__leaves_the_past_alone(store: SqlStore, clock: Clock) -> None:
    """Before it the user was on the default plan; revenue of calls without a user counts."""
    clock.at_us = START_US
    plans = [
        PlanRecord(name, plan_to_json(PlanConfig(price=price)), START_US)
        for name, price in (("default", None), ("pro", 49))
    ]
    store.ingest(PRODUCT, Batch(records=tuple(plans), at_us=clock.at_us))
    store.add_user(PRODUCT, "ann", None)
    march = START_US, START_US + 31 * DAY_US
    before = report(store, "user", *march).page
    clock.at_us = START_US + 31 * DAY_US
    store.subscribe(PRODUCT, "ann", "pro", Subscription(clock.at_us, clock.at_us + 365 * DAY_US))
    assert report(store, "user", *march).page == before
    assert before.total.revenue_nano == 0
    paid = RevenueEntry("r", "(none)", 10**9, "payment", *march, None)
    store.add_revenue(PRODUCT, [paid])
    assert report(store, "plan", *march).page.total.recorded_nano == 10**9
    assert report(store, "user", *march, user="").page.total.revenue_nano == 0


def test_margin__a_subscription_that_has_ended__has_no_price(store: SqlStore, clock: Clock) -> None:
    """What ends for good does not renew, and a payment still counts."""
    clock.at_us = START_US
    plan = PlanRecord("pro", plan_to_json(PlanConfig(price=49)), START_US)
    store.ingest(PRODUCT, Batch(records=(plan,), at_us=clock.at_us))
    store.add_user(PRODUCT, "ann", None)
    store.subscribe(PRODUCT, "ann", "pro", Subscription(START_US, START_US + 7 * DAY_US, "none"))
    week = report(store, "user", START_US, START_US + 7 * DAY_US).page
    assert week.total.plan_price_nano == 49 * 10**9
    later = START_US + 14 * DAY_US, START_US + 21 * DAY_US
    assert report(store, "user", *later).page.total.revenue_nano == 0
    store.add_revenue(PRODUCT, [RevenueEntry("r", "ann", 5, "payment", *later, None)])
    assert report(store, "user", *later).page.total.recorded_nano == 5


def test_margin__a_payment_for_an_earlier_and_longer_period__keeps_its_price_out(
    store: SqlStore, clock: Clock
) -> None:
    """A year that was paid in its first month has no plan's price in a later one, whatever plan
    the user has since; so it is alone and among others.
    """
    year_us = 365 * DAY_US
    plans = (PlanRecord("yearly", plan_to_json(PlanConfig(price=365)), START_US),)
    store.ingest(PRODUCT, Batch(records=plans, at_us=START_US))
    clock.at_us = START_US
    store.add_user(PRODUCT, "ann", None)
    store.subscribe(PRODUCT, "ann", "yearly", Subscription(START_US, START_US + year_us, "auto"))
    span = START_US, START_US + 30 * DAY_US
    store.add_revenue(PRODUCT, [RevenueEntry("r", "ann", 10**9, "payment", *span, None)])
    late = START_US + 300 * DAY_US, START_US + 320 * DAY_US
    clock.at_us = START_US + 340 * DAY_US
    store.subscribe(PRODUCT, "ann", "monthly", None)
    store.add_user(PRODUCT, "bob", None)
    for page in (
        report(store, "user", *late).page,
        report(store, "user", *late, user="ann").page,
    ):
        assert [row.figures.plan_price_nano for row in page.rows if row.key == "ann"] in ([], [0])
        assert page.total.recorded_nano == 0
