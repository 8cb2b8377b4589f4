"""Margins: accrued revenue, prices of plans, projections, shares, pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any

import pytest

from paygent.core.margin import (
    MARGIN_SORTS,
    MarginFigures,
    MarginGroups,
    MarginPage,
    MarginQuery,
    Share,
    margin_page,
    projected,
)
from paygent.core.money import CAP_NANO_MAX
from paygent.core.period import Window, to_us
from paygent.core.report import START, Cursor
from paygent.core.report_request import month_in_zone
from paygent.core.revenue import Revenue, summed


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
JUNE = Window(at(6), at(7))


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
REVENUE = (
    ("ann", "pro", Revenue(0, 30 * DOLLAR, has_plan_price=True)),
    ("bob", "pro", Revenue(50 * DOLLAR, 0, has_recorded=True)),
    ("bob", "gold", Revenue(0, 5 * DOLLAR, has_plan_price=True)),
    ("cy", "gold", Revenue(60 * DOLLAR, 0, has_recorded=True)),
)
QUERY = MarginQuery("user", *JUNE)


def accrued(query: MarginQuery = QUERY) -> dict[str, Revenue]:
    """Return the revenue of all users by the key of a query."""
    return summed(
        ({"user": user_id, "plan": plan, "month": "2026-06"}[query.by], each)
        for user_id, plan, each in REVENUE
        if query.where.get("plan", plan) == plan
    )


def page(now_us: int = at(7), costs: Any = COSTS, **changes: Any) -> MarginPage:
    """Return a page, at the end of the span."""
    query = replace(QUERY, **changes)
    total = sum(calls for calls, _ in costs.values()), sum(each for _, each in costs.values())
    return margin_page(costs, total, accrued(query), query, months(6, 6), now_us)


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
    found = margin_page(costs, (2, 20), {}, query, months(5, 6), at(6, 16))
    assert [(row.key, row.figures.projected_cost_nano) for row in found.rows] == [
        ("2026-06", 20),
        ("2026-05", 10),
    ]
    assert found.total.projected_cost_nano == 27  # 20 in 46 of 61 days


def test_margin_page__calls_without_a_user__are_none_of_the_dearest_users() -> None:
    """Their cost is in the total."""
    costs = {"(none)": (1, 90), "ann": (1, 10)}
    found = margin_page(costs, (2, 100), {}, QUERY, months(6, 6), at(7))
    assert found.shares[0] == Share(1, 1, 10)
    assert found.total.cost_nano == 100


# -- groups, of which pages are made in any order


def groups(now_us: int = at(6, 16), costs: Any = COSTS, **changes: Any) -> MarginGroups:
    """Return the sums of `page`, in the middle of the span."""
    query = replace(QUERY, **changes)
    return MarginGroups(costs, (6, 50 * DOLLAR), accrued(query), query, months(6, 6), now_us)


def test_margin_groups__totals__are_those_of_every_page() -> None:
    """The sums over all groups, with the projection of the whole cost."""
    assert groups().totals() == MarginFigures(
        calls=6,
        cost_nano=50 * DOLLAR,
        recorded_nano=110 * DOLLAR,
        plan_price_nano=35 * DOLLAR,
        has_recorded=True,
        has_plan_price=True,
        projected_cost_nano=100 * DOLLAR,
    )
    assert groups().totals() == groups().page(replace(QUERY, rows_max=1)).total


def test_margin_groups__figures__are_those_of_a_row() -> None:
    """Of a user with cost alone, with revenue alone, or with both; zero for an unknown one."""
    found = groups()
    rows = {row.key: row.figures for row in found.page(QUERY).rows}
    assert rows == {key: found.figures(key) for key in ("ann", "bob", "cy", "")}
    assert found.by_key.keys() == rows.keys()
    assert found.figures("bob") == MarginFigures(
        calls=1,
        cost_nano=10 * DOLLAR,
        recorded_nano=50 * DOLLAR,
        plan_price_nano=5 * DOLLAR,
        has_recorded=True,
        has_plan_price=True,
        projected_cost_nano=20 * DOLLAR,
    )
    assert found.figures("eve") == MarginFigures()


def test_margin_groups__of_months__project_each_by_itself() -> None:
    """A month that is over has what it has, also if it is asked for alone."""
    query = MarginQuery("month", at(5), at(7), sort="month")
    costs = {"2026-05": (1, 10), "2026-06": (1, 10)}
    found = MarginGroups(costs, (2, 20), {}, query, months(5, 6), at(6, 16))
    assert found.figures("2026-05").projected_cost_nano == 10
    assert found.figures("2026-06").projected_cost_nano == 20
    assert found.totals().projected_cost_nano == 27


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("sort", [*MARGIN_SORTS, "user"])
@pytest.mark.parametrize("rows_max", [1, 3, None])
def test_margin_groups__a_page_in_any_order__is_that_of_a_report(
    sort: str, is_descending: bool, rows_max: int | None
) -> None:
    """Groups that were summed for one order answer all others, page by page, with every row."""
    kept = groups()
    query = replace(QUERY, sort=sort, is_descending=is_descending, rows_max=rows_max)
    after: Cursor | None = START
    keys = []
    while after is not None:
        query = replace(query, after=after)
        found = kept.page(query)
        expected = margin_page(COSTS, (6, 50 * DOLLAR), accrued(), query, months(6, 6), at(6, 16))
        assert found == expected
        keys += [row.key for row in found.rows]
        after = found.following
    assert sorted(keys) == ["", "ann", "bob", "cy"]


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("sort", [*MARGIN_SORTS, "user"])
def test_margin_groups__sorted_keys__make_the_same_pages(sort: str, is_descending: bool) -> None:
    """Whatever the order, and wherever the page begins; equal figures are in the order of keys."""
    same = dict.fromkeys(("dee", "eve", "bo"), (1, 10 * DOLLAR))
    kept, fresh = (groups(costs={**COSTS, **same}) for _ in range(2))
    keys = kept.sorted_keys(sort, is_descending=is_descending)
    assert keys is kept.sorted_keys(sort, is_descending=is_descending)
    assert kept.is_sorted(sort, is_descending=is_descending)
    assert kept.shown == set()
    for rows_max in (1, 2, 7, 9, None):
        query = replace(QUERY, sort=sort, is_descending=is_descending, rows_max=rows_max)
        found = []
        while True:
            expected = fresh.page(query)
            assert kept.page(query) == expected
            found += [row.key for row in expected.rows]
            if expected.following is None:
                break
            query = replace(query, after=expected.following)
        assert found == keys
    assert not fresh.is_sorted(sort, is_descending=is_descending)
    assert kept.shown == fresh.shown == {(sort, is_descending)}


def test_margin_groups__after_the_last_group__is_an_empty_page() -> None:
    """Also where groups have been sorted."""
    found = groups()
    after = Cursor(61 * DOLLAR, "cy")
    for _ in range(2):
        page_after = found.page(replace(QUERY, rows_max=2, after=after))
        assert (page_after.rows, page_after.following) == ((), None)
        found.sorted_keys("margin")
