"""The definition of reports: facts are grouped, filtered, summed, ordered and paged."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from tests.contract.samples import DAY_US, NOON_US, make_correction, make_event

from paygent.core.event import Event
from paygent.core.period import to_us
from paygent.core.report import START, Cursor, SpendPage, SpendQuery, SpendRow, fold_spend

QUERY = SpendQuery(("user",), NOON_US - DAY_US, NOON_US + DAY_US)
EVENTS = (
    make_event("a", cost_tokens_nano=300, model_key="gpt-4o"),
    make_event("b", cost_tokens_nano=100, model_key="o3", session_id="s2"),
    make_event("c", user_id="bob", cost_tokens_nano=900, provider="azure"),
    make_event("d", user_id="cy", cost_tokens_nano=400, plan="pro", metadata={"team": "x"}),
    make_event("z", user_id="bob", at_us=NOON_US + DAY_US),
)


def fold(*events: Event, **query: Any) -> SpendPage:
    """Return a report over events, in UTC."""
    return fold_spend(events or EVENTS, replace(QUERY, **query), "UTC")


def keys(page: SpendPage) -> list[tuple[str, ...]]:
    """Return the keys of rows, in their order."""
    return [row.keys for row in page.rows]


def test_fold__by_user__sums_and_orders_dearest_first() -> None:
    """One row per user; equal costs are in the order of their names; the end is exclusive."""
    page = fold()
    assert keys(page) == [("bob",), ("ann",), ("cy",)]
    assert [row.figures.cost_nano for row in page.rows] == [900, 400, 400]
    assert [row.figures.calls for row in page.rows] == [1, 2, 1]
    assert (page.total.cost_nano, page.total.calls, page.total.input_tokens) == (1_700, 4, 80)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (("model",), [("gpt-4o",), ("o3",)]),
        (("provider", "user"), [("azure", "bob"), ("openai", "ann"), ("openai", "cy")]),
        (("plan",), [("default",), ("pro",)]),
        (("session", "model"), [("s1", "gpt-4o"), ("s2", "o3")]),
        (("tag:team",), [("",), ("x",)]),
        ((), [()]),
    ],
)
def test_fold__by_any_keys__has_a_row_for_each_value(
    by: tuple[str, ...], expected: list[tuple[str, ...]]
) -> None:
    """Keys are texts; usage without one has the empty text."""
    assert keys(fold(by=by)) == expected


@pytest.mark.parametrize(
    ("where", "cost_nano"),
    [
        ({"user": "ann", "model": "o3"}, 100),
        ({"session": "s1"}, 1_600),
        ({"tag:team": ""}, 1_300),
        ({"tag:team": "x", "plan": "pro"}, 400),
        ({"user": "zoe"}, 0),
    ],
)
def test_fold__filters__leave_out_the_rest(where: dict[str, str], cost_nano: int) -> None:
    """All of them have to match, in the rows and in the total."""
    page = fold(where=where)
    assert page.total.cost_nano == cost_nano
    assert sum(row.figures.cost_nano for row in page.rows) == cost_nano


def test_fold__times__are_those_of_the_zone_and_of_the_period() -> None:
    """A day begins at midnight of the product's zone; a month is that of the day."""
    late = make_event("n", at_us=to_us(datetime(2024, 10, 31, 23, 30, tzinfo=timezone.utc)))
    query = replace(QUERY, end_us=late.at_us + 1, sort="day", is_descending=False, by=("day",))
    for zone, day in (("UTC", "2024-10-31"), ("Europe/Berlin", "2024-11-01")):
        assert keys(fold_spend((late,), query, zone)) == [(day,)]
        by_month = replace(query, by=("month", "period"), sort="month")
        expected = [(day[:7], str(late.period_start_us))]
        assert keys(fold_spend((late,), by_month, zone)) == expected


@pytest.mark.parametrize(
    ("sort", "is_descending", "expected"),
    [
        ("cost", True, ["bob", "ann", "cy"]),
        ("cost", False, ["ann", "cy", "bob"]),
        ("calls", True, ["ann", "bob", "cy"]),
        ("user", False, ["ann", "bob", "cy"]),
    ],
)
def test_fold__sorts__decide_by_key_between_equal_rows(
    sort: str, is_descending: bool, expected: list[str]
) -> None:
    """Ascending or descending by a figure, ascending by a name."""
    found = keys(fold(sort=sort, is_descending=is_descending))
    assert found == [(each,) for each in expected]


def test_fold__pages__have_each_row_once_and_the_same_total() -> None:
    """A page begins after the cursor of the one before, which the last one lacks."""
    whole = fold()
    after = START
    rows: list[SpendRow] = []
    for size in (2, 1):
        page = fold(rows_max=2, after=after)
        assert (len(page.rows), page.total) == (size, whole.total)
        rows += page.rows
        after = page.following or after
    assert tuple(rows) == whole.rows
    assert page.following is None
    assert fold(rows_max=3).following is None
    assert after == Cursor(-400, "ann")


@pytest.mark.parametrize("quality", ["partial", "estimated", "unpriced"])
def test_fold__a_call_without_exact_figures__counts_until_a_correction_has_them(
    quality: str,
) -> None:
    """An inexact correction leaves the doubt; a correction is no call and has none of its own."""
    doubtful = make_event("a", quality=quality, metadata={"team": "x"})
    inexact = make_correction("b", doubtful, quality="estimated")
    exact = make_correction("c", doubtful, metadata={"team": "late"})
    for events, count in (((doubtful, inexact), 1), ((doubtful, inexact, exact), 0)):
        (row,) = fold(*events, by=("tag:team",)).rows
        assert row.keys == ("x",)  # a correction has the tags of its original
        assert getattr(row.figures, f"{quality}_calls") == count
        assert (row.figures.calls, row.figures.doubtful_calls) == (1, count)
        assert row.figures.cost_nano == 1_000 - 100 * (len(events) - 1)


def test_fold__blocked_calls__are_shadow_figures() -> None:
    """What ran past a limit, with its corrections."""
    blocked = make_event("a", blocked=True)
    page = fold(blocked, make_correction("b", blocked), make_event("c"))
    assert (page.total.shadow_calls, page.total.shadow_cost_nano) == (1, 900)


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (True, "true"), ([1], "[1]"), ("x", "x")])
def test_fold__values_of_tags__are_texts(value: Any, text: str) -> None:
    """What is no text is shown as JSON."""
    assert keys(fold(make_event("a", metadata={"team": value}), by=("tag:team",))) == [(text,)]
