"""Revenue: payments and plans' prices, accrued by time, plan and month."""

from __future__ import annotations

from datetime import date, datetime, timezone
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import DAY_US

from paygent.core.period import END_OF_TIME_US, Subscription, Window, to_us
from paygent.core.report_request import month_in_zone
from paygent.core.revenue import (
    Contract,
    Customer,
    Payment,
    Prices,
    Revenue,
    RevenueRules,
    share,
)


def at(month: int, day: int = 1) -> int:
    """Return the begin of a day of 2026."""
    return to_us(datetime(2026, month, day, tzinfo=timezone.utc))


DOLLAR = 10**9
PRICES: Prices = {
    "pro": ((0, 30 * DOLLAR),),
    "gold": ((0, None), (at(6), 60 * DOLLAR), (at(8), 90 * DOLLAR)),
}
PRO = Contract(0, "pro")
ANN = Customer("ann", 0, END_OF_TIME_US, (PRO,))
JUNE = Window(at(6), at(7))


def months_of(span: Window) -> list[tuple[str, Window]]:
    """Return the months of 2026 that touch a span of time."""
    months = [(f"2026-{each:02}", date(2026, each, 1)) for each in range(1, 13)]
    return [
        (name, days)
        for name, first in months
        if (days := month_in_zone("UTC", first)).end_us > span.start_us
        and days.start_us < span.end_us
    ]


def by_month(
    customer: Customer, span: Window = JUNE, prices: Prices = PRICES
) -> list[tuple[str, Any, Any]]:
    """Return (month, dollars recorded, dollars of plans' prices); None is no such revenue."""
    rules = RevenueRules(prices, span, "month", months_of(span))
    return [
        (
            month,
            Fraction(each.recorded_nano, DOLLAR) if each.has_recorded else None,
            Fraction(each.plan_price_nano, DOLLAR) if each.has_plan_price else None,
        )
        for month, each in rules.revenue_of(customer)
    ]


def by_plan(customer: Customer, span: Window = JUNE) -> dict[str, Any]:
    """Return the dollars of each plan."""
    return {
        plan: Fraction(each.recorded_nano + each.plan_price_nano, DOLLAR)
        for plan, each in RevenueRules(PRICES, span, "plan").revenue_of(customer)
    }


def on(*contracts: Contract, **fields: Any) -> Customer:
    """Return a user with contracts."""
    return ANN._replace(contracts=contracts, **fields)


def test_revenue__a_plan_with_a_price__has_it_for_each_period() -> None:
    """A part of a period has its part of the price; months are apart."""
    assert by_month(ANN) == [("2026-06", None, 30)]
    assert by_month(ANN, Window(at(6, 16), at(8))) == [
        ("2026-06", None, 15),
        ("2026-07", None, 30),
    ]


def test_revenue__a_subscription__has_its_own_periods() -> None:
    """A period that crosses a month is split at it; one that has ended for good has no price."""
    fortnight = PRO._replace(subscription=Subscription(at(5, 25), at(6, 8)))
    assert by_month(on(fortnight), Window(at(5, 25), at(6, 8))) == [
        ("2026-05", None, 15),
        ("2026-06", None, 15),
    ]
    ended = PRO._replace(subscription=Subscription(at(5, 2), at(6, 2), "none"))
    ((month, recorded, price),) = by_month(on(ended))
    assert (month, recorded) == ("2026-06", None)
    assert abs(price - Fraction(30, 31)) < Fraction(1, DOLLAR)  # the first of June


def test_revenue__a_user_who_comes_and_goes__pays_meanwhile() -> None:
    """Nothing before the user was there, and nothing after an erasure."""
    assert by_month(ANN._replace(begin_us=at(6, 16))) == [("2026-06", None, 15)]
    assert by_month(ANN._replace(begin_us=at(7))) == []
    assert by_month(ANN._replace(end_us=at(6, 11))) == [("2026-06", None, 10)]


def test_revenue__a_change_of_plan__splits_a_period_and_leaves_the_past_alone() -> None:
    """Each plan has its part, by its own billing period; the first one counts before its begin."""
    changed = on(Contract(at(6, 11), "pro"), Contract(at(6, 21), "gold"))
    assert by_plan(changed) == {"pro": 20, "gold": 20}
    yearly = Contract(at(7), "gold", Subscription(at(7), at(7) + 365 * DAY_US))
    assert by_plan(on(PRO, yearly), Window(at(5), at(7))) == {"pro": 60}
    assert by_month(on(PRO, yearly), Window(at(5), at(7))) == [
        ("2026-05", None, 30),
        ("2026-06", None, 30),
    ]


def test_revenue__a_price_that_changes__is_that_of_the_begin_of_the_period() -> None:
    """The version then, or the first one; a plan without a price, or without versions, has none."""
    assert by_month(on(Contract(0, "gold")), Window(at(5), at(9))) == [
        ("2026-06", None, 60),
        ("2026-07", None, 60),
        ("2026-08", None, 90),
    ]
    assert by_month(on(Contract(0, "none"))) == []
    assert by_month(ANN, prices={"pro": ((at(12), 30 * DOLLAR),)}) == [("2026-06", None, 30)]


def test_revenue__an_own_plan__has_its_own_price() -> None:
    """For the contract that it belongs to alone."""
    own = on(PRO, Contract(at(6, 16), "pro", None, 10 * DOLLAR))
    assert by_month(own) == [("2026-06", None, 20)]


def test_revenue__payments__take_the_place_of_the_price() -> None:
    """In every period that they touch, also outside of the span; a refund is negative."""
    paid = ANN._replace(
        payments=(Payment(at(6), at(7), 40 * DOLLAR), Payment(at(6), at(6, 16), -5 * DOLLAR))
    )
    assert by_month(paid) == [("2026-06", 35, None)]
    assert by_month(paid, Window(at(6, 16), at(8))) == [
        ("2026-06", 20, None),
        ("2026-07", None, 30),
    ]
    yearly = ANN._replace(payments=(Payment(at(1), at(1) + 365 * DAY_US, 365 * DOLLAR),))
    assert by_month(yearly, Window(at(2), at(4))) == [("2026-02", 28, None), ("2026-03", 31, None)]


def test_revenue__of_a_user__has_the_key_that_is_asked_for() -> None:
    """Recorded revenue and prices are apart; a plan that is asked for may have none."""
    changed = on(
        Contract(0, "pro"), Contract(at(6, 21), "gold"), payments=(Payment(at(6), at(6, 11), 7),)
    )
    both = Revenue(7, 20 * DOLLAR, has_recorded=True, has_plan_price=True)
    gold = Revenue(0, 20 * DOLLAR, has_plan_price=True)
    without_price = RevenueRules({"gold": PRICES["gold"]}, JUNE)
    assert without_price.revenue_of(changed._replace(payments=())) == [("ann", gold)]
    early = changed._replace(payments=(Payment(at(5), at(5, 2), 1), Payment(at(6), at(6, 11), 7)))
    assert RevenueRules(PRICES, JUNE).revenue_of(early) == [
        ("ann", Revenue(7, 0, has_recorded=True))
    ]
    weekly = Subscription(at(6, 21), at(6, 26))
    split = changed._replace(contracts=(PRO, Contract(at(6, 21), "gold", weekly)))
    assert RevenueRules(PRICES, JUNE).revenue_of(split) == [
        ("ann", both._replace(plan_price_nano=120 * DOLLAR))
    ]
    assert RevenueRules(PRICES, JUNE, plan="gold").revenue_of(split) == [
        ("ann", gold._replace(plan_price_nano=120 * DOLLAR))
    ]
    assert RevenueRules(PRICES, JUNE, plan="free").revenue_of(split) == []
    assert gold.of_users(3) == Revenue(0, 60 * DOLLAR, has_plan_price=True)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(10**15), 10**15),
    st.integers(1, 10**13),
    st.lists(st.integers(0, 10**13), min_size=1, max_size=5),
)
def test_share__parts_that_touch__add_up_exactly(
    amount_nano: int, length_us: int, cuts: list[int]
) -> None:
    """However an amount is cut, nothing is lost, and each part is within a nano-dollar."""
    of = Payment(7, 7 + length_us, amount_nano)
    bounds = sorted({of.start_us, of.end_us, *(7 + cut % (length_us + 1) for cut in cuts)})
    parts = list(pairwise(bounds))
    shares = [share(of, *part) for part in parts]
    assert sum(shares) == amount_nano
    for (first_us, last_us), each in zip(parts, shares, strict=True):
        assert abs(each - Fraction(amount_nano * (last_us - first_us), length_us)) < 1


@settings(deadline=None)
@given(
    plan=st.sampled_from(("pro", "gold", "free")),
    begin_us=st.integers(at(1), at(9)),
    days=st.sampled_from((1, 7, 28, 30, 31, 365)),
    renews=st.sampled_from(("auto", "month", "week", "none")),
    span=st.lists(st.integers(at(1), at(12)), min_size=2, max_size=2, unique=True).map(sorted),
    is_calendar=st.booleans(),
    only=st.sampled_from((None, "pro")),
)
def test_at_price__one_plan_all_the_time__is_the_revenue_of_that_user(
    plan: str,
    begin_us: int,
    days: int,
    renews: Any,
    span: list[int],
    is_calendar: bool,
    only: str | None,
) -> None:
    """Whatever the billing periods are, by user or plan, and with a filter."""
    subscription = None if is_calendar else Subscription(begin_us, begin_us + days * DAY_US, renews)
    customer = Customer("ann", 0, END_OF_TIME_US, (Contract(0, plan, subscription),))
    for by, key in (("user", "ann"), ("plan", plan)):
        rules = RevenueRules(PRICES, Window(*span), by, (), only)  # type: ignore[arg-type]
        found = rules.at_price(plan, subscription)
        assert rules.revenue_of(customer) == ([] if found is None else [(key, found)])
