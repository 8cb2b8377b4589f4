"""Margins: accrued revenue, prices of plans, projections, shares, pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timezone
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import DAY_US

from paygent.core.margin import (
    Accrual,
    Contract,
    Customer,
    MarginPage,
    MarginQuery,
    Payment,
    Revenue,
    Share,
    accruals,
    margin_page,
    projected,
    revenue_of,
    share,
)
from paygent.core.money import CAP_NANO_MAX
from paygent.core.period import END_OF_TIME_US, Subscription, Window, to_us
from paygent.core.report import START, Cursor
from paygent.core.report_request import month_in_zone


def at(month: int, day: int = 1) -> int:
    """Return the begin of a day of 2026."""
    return to_us(datetime(2026, month, day, tzinfo=timezone.utc))


def months(first: int, last: int) -> list[tuple[str, Window]]:
    """Return months of 2026."""
    return [
        (f"2026-{number:02}", month_in_zone("UTC", date(2026, number, 1)))
        for number in range(first, last + 1)
    ]


DOLLAR = 10**9
PRICES = {
    "pro": ((0, 30 * DOLLAR),),
    "gold": ((0, None), (at(6), 60 * DOLLAR), (at(8), 90 * DOLLAR)),
}
PRO = Contract(0, "pro")
ANN = Customer("ann", 0, END_OF_TIME_US, (PRO,))
JUNE = Window(at(6), at(7))


def revenue(customer: Customer, span: Window = JUNE) -> list[tuple[str, str, Any, bool]]:
    """Return (plan, month, dollars, recorded) of a user's accruals."""
    return [
        (each.plan, each.month, Fraction(each.amount_nano, DOLLAR), each.is_recorded)
        for each in accruals(customer, PRICES, span, months(1, 12))
    ]


def test_accruals__a_plan_with_a_price__has_it_for_each_period() -> None:
    """A part of a period has its part of the price; months are apart."""
    assert revenue(ANN) == [("pro", "2026-06", 30, False)]
    assert revenue(ANN, Window(at(6, 16), at(8))) == [
        ("pro", "2026-06", 15, False),
        ("pro", "2026-07", 30, False),
    ]


def on(*contracts: Contract, **fields: Any) -> Customer:
    """Return a user with contracts."""
    return ANN._replace(contracts=contracts, **fields)


def test_accruals__a_subscription__has_its_own_periods() -> None:
    """A period that crosses a month is split at it; one that has ended for good has no price."""
    fortnight = PRO._replace(subscription=Subscription(at(5, 25), at(6, 8)))
    assert revenue(on(fortnight), Window(at(5, 25), at(6, 8))) == [
        ("pro", "2026-05", 15, False),
        ("pro", "2026-06", 15, False),
    ]
    ended = PRO._replace(subscription=Subscription(at(5, 2), at(6, 2), "none"))
    (left,) = revenue(on(ended))
    assert left[:2] == ("pro", "2026-06")
    assert abs(left[2] - Fraction(30, 31)) < Fraction(1, DOLLAR)  # the first of June


def test_accruals__a_user_who_comes_and_goes__pays_meanwhile() -> None:
    """Nothing before the user was there, and nothing after an erasure."""
    assert revenue(ANN._replace(begin_us=at(6, 16))) == [("pro", "2026-06", 15, False)]
    assert revenue(ANN._replace(begin_us=at(7))) == []
    assert revenue(ANN._replace(end_us=at(6, 11))) == [("pro", "2026-06", 10, False)]


def test_accruals__a_change_of_plan__splits_a_period_and_leaves_the_past_alone() -> None:
    """Each plan has its part, by its own billing period; the first one counts before its begin."""
    changed = on(Contract(at(6, 11), "pro"), Contract(at(6, 21), "gold"))
    assert revenue(changed) == [("pro", "2026-06", 20, False), ("gold", "2026-06", 20, False)]
    yearly = Contract(at(7), "gold", Subscription(at(7), at(7) + 365 * DAY_US))
    assert revenue(on(PRO, yearly), Window(at(5), at(7))) == [
        ("pro", "2026-05", 30, False),
        ("pro", "2026-06", 30, False),
    ]


def test_accruals__a_price_that_changes__is_that_of_the_begin_of_the_period() -> None:
    """The version then, or the first one; a plan without a price, or without versions, has none."""
    assert revenue(on(Contract(0, "gold")), Window(at(5), at(9))) == [
        ("gold", "2026-06", 60, False),
        ("gold", "2026-07", 60, False),
        ("gold", "2026-08", 90, False),
    ]
    assert revenue(on(Contract(0, "none"))) == []
    early = {"pro": ((at(12), 30 * DOLLAR),)}
    (found,) = accruals(ANN, early, JUNE, months(6, 6))
    assert found == Accrual("pro", "2026-06", 30 * DOLLAR, is_recorded=False)


def test_accruals__an_own_plan__has_its_own_price() -> None:
    """For the contract that it belongs to alone."""
    own = on(PRO, Contract(at(6, 16), "pro", None, 10 * DOLLAR))
    assert revenue(own) == [("pro", "2026-06", 15, False), ("pro", "2026-06", 5, False)]


def test_accruals__payments__take_the_place_of_the_price() -> None:
    """In every period that they touch, also outside of the span; a refund is negative."""
    paid = ANN._replace(
        payments=(Payment(at(6), at(7), 40 * DOLLAR), Payment(at(6), at(6, 16), -5 * DOLLAR))
    )
    assert revenue(paid) == [("pro", "2026-06", 40, True), ("pro", "2026-06", -5, True)]
    assert revenue(paid, Window(at(6, 16), at(8))) == [
        ("pro", "2026-06", 20, True),
        ("pro", "2026-07", 30, False),
    ]
    yearly = ANN._replace(payments=(Payment(at(1), at(1) + 365 * DAY_US, 365 * DOLLAR),))
    assert revenue(yearly, Window(at(2), at(4))) == [
        ("pro", "2026-02", 28, True),
        ("pro", "2026-03", 31, True),
    ]


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
    of = Window(7, 7 + length_us)
    bounds = sorted({of.start_us, of.end_us, *(7 + cut % (length_us + 1) for cut in cuts)})
    parts = [Window(*each) for each in pairwise(bounds)]
    shares = [share(amount_nano, of, part) for part in parts]
    assert sum(shares) == amount_nano
    for part, each in zip(parts, shares, strict=True):
        exact = Fraction(amount_nano * (part.end_us - part.start_us), length_us)
        assert abs(each - exact) < 1


@pytest.mark.parametrize(
    ("now_us", "expected"),
    [
        *((at(6, 16), 200), (at(6, 2), 3_000), (at(7), 100), (at(6), 100), (at(5), 100)),
    ],
)
def test_projected__a_cost__goes_on_at_its_pace(now_us: int, expected: int) -> None:
    """Until the end of the span; one that has ended, or not begun, has what it has."""
    assert projected(100, JUNE, now_us) == expected


def test_projected__a_moment_after_the_begin__ends_at_the_greatest_amount() -> None:
    """A rank of 64 bits holds it."""
    assert projected(4_000 * DOLLAR, JUNE, JUNE.start_us + 1) == CAP_NANO_MAX


COSTS = {"ann": (3, 40 * DOLLAR), "bob": (1, 10 * DOLLAR), "": (2, 0)}
ACCRUALS = {
    "ann": [Accrual("pro", "2026-06", 30 * DOLLAR, is_recorded=False)],
    "bob": [
        Accrual("pro", "2026-06", 50 * DOLLAR, is_recorded=True),
        Accrual("gold", "2026-06", 5 * DOLLAR, is_recorded=False),
    ],
    "cy": [Accrual("gold", "2026-06", 60 * DOLLAR, is_recorded=True)],
}
QUERY = MarginQuery("user", *JUNE)


def accrued(query: MarginQuery = QUERY) -> list[tuple[str, Revenue]]:
    """Return the revenue of all users by the key of a query."""
    return [
        (user_id if query.by == "user" else key, each)
        for user_id, found in ACCRUALS.items()
        for key, each in revenue_of(found, query).items()
    ]


def page(now_us: int = at(7), costs: Any = COSTS, **changes: Any) -> MarginPage:
    """Return a page, at the end of the span."""
    query = replace(QUERY, **changes)
    total = sum(calls for calls, _ in costs.values()), sum(each for _, each in costs.values())
    return margin_page(costs, total, accrued(query), query, months(6, 6), now_us)


def test_revenue_of__a_user__is_by_the_key_of_the_query() -> None:
    """Sums of both kinds; a filter leaves out the other plans."""
    bob = ACCRUALS["bob"]
    both = Revenue(50 * DOLLAR, 5 * DOLLAR, has_recorded=True, has_plan_price=True)
    assert revenue_of(bob, QUERY) == {"": both}
    assert revenue_of(bob, replace(QUERY, by="month")) == {"2026-06": both}
    gold = Revenue(0, 5 * DOLLAR, has_plan_price=True)
    pro = Revenue(50 * DOLLAR, 0, has_recorded=True)
    assert revenue_of(bob, replace(QUERY, by="plan")) == {"pro": pro, "gold": gold}
    assert revenue_of(bob, replace(QUERY, where={"plan": "gold"})) == {"": gold}
    assert revenue_of([], QUERY) == {}
    assert gold.of_users(3) == Revenue(0, 15 * DOLLAR, has_plan_price=True)


def test_margin_page__by_user__has_the_smallest_margin_first() -> None:
    """With users who made no call; the total is over all rows."""
    found = page()
    assert [(row.key, row.figures.margin_nano // DOLLAR) for row in found.rows] == [
        ("ann", -10),
        ("", 0),
        ("bob", 45),
        ("cy", 60),
    ]
    sources = [row.figures.revenue_source for row in found.rows]
    assert sources == ["plan_price", None, "mixed", "recorded"]
    assert [row.figures.margin_pct for row in found.rows] == [-1 / 3, None, 45 / 55, 1.0]
    total = found.total
    assert (total.calls, total.cost_nano, total.revenue_nano) == (6, 50 * DOLLAR, 145 * DOLLAR)
    assert (total.revenue_source, total.margin_nano) == ("mixed", 95 * DOLLAR)
    assert found.shares == (
        Share(1, 1, 40 * DOLLAR),
        Share(5, 1, 40 * DOLLAR),
        Share(10, 1, 40 * DOLLAR),
    )


def test_margin_page__by_plan_and_month__groups_revenue() -> None:
    """Shares are of users alone."""
    found = page(costs={"pro": (6, 50)}, by="plan")
    assert [(row.key, row.figures.revenue_nano // DOLLAR) for row in found.rows] == [
        ("gold", 65),
        ("pro", 80),
    ]
    assert found.shares == ()
    (row,) = page(costs={}, by="month").rows
    assert (row.key, row.figures.revenue_nano // DOLLAR) == ("2026-06", 145)


def test_margin_page__filters__limit_revenue() -> None:
    """Of a plan, and of a user without shares."""
    found = page(where={"plan": "gold"})
    assert found.total.revenue_nano == 65 * DOLLAR
    assert page(where={"user": "ann"}).shares == ()


def test_margin_page__pages_and_sorts__have_every_row_once() -> None:
    """By a figure either way, or by the key."""
    by_cost = page(sort="cost", is_descending=True, rows_max=3)
    assert [row.key for row in by_cost.rows] == ["ann", "bob", ""]
    assert by_cost.following == Cursor(0, "")
    rest = page(sort="cost", is_descending=True, rows_max=3, after=by_cost.following or START)
    assert [row.key for row in rest.rows] == ["cy"]
    assert (rest.following, rest.total) == (None, by_cost.total)
    assert [row.key for row in page(sort="user").rows] == ["", "ann", "bob", "cy"]
    assert [row.key for row in page(sort="calls").rows] == ["cy", "bob", "", "ann"]
    assert [row.key for row in page(sort="revenue").rows] == ["", "ann", "bob", "cy"]
    by_projection = page(at(6, 16), sort="projected_margin", rows_max=2)
    assert [row.key for row in by_projection.rows] == ["ann", ""]
    dearest = page(at(6, 16), sort="projected_cost", is_descending=True, rows_max=1)
    assert dearest.following == Cursor(-80 * DOLLAR, "ann")


def test_margin_page__projections__are_of_each_row_and_of_the_whole() -> None:
    """Half of the span is over."""
    found = page(at(6, 16))
    assert found.rows[0].figures.projected_cost_nano == 80 * DOLLAR
    assert found.rows[0].figures.projected_margin_nano == -50 * DOLLAR
    assert found.total.projected_cost_nano == 100 * DOLLAR


def test_margin_page__by_month__projects_each_by_itself() -> None:
    """A month that is over has what it has; the total is projected as a whole."""
    costs = {"2026-05": (1, 10), "2026-06": (1, 10)}
    query = MarginQuery("month", at(5), at(7), sort="month", is_descending=True)
    found = margin_page(costs, (2, 20), [], query, months(5, 6), at(6, 16))
    assert [(row.key, row.figures.projected_cost_nano) for row in found.rows] == [
        ("2026-06", 20),
        ("2026-05", 10),
    ]
    assert found.total.projected_cost_nano == 27  # 20 in 46 of 61 days


def test_margin_page__calls_without_a_user__are_none_of_the_dearest_users() -> None:
    """Their cost is in the total."""
    costs = {"(none)": (1, 90), "ann": (1, 10)}
    found = margin_page(costs, (2, 100), [], QUERY, months(6, 6), at(7))
    assert found.shares[0] == Share(1, 1, 10)
    assert found.total.cost_nano == 100
