"""Reports: rows are grouped, summed and ordered; margins are price minus cost."""

from __future__ import annotations

import pytest

from paygent.core.report import Margin, UsageRow, group, margins

ROWS = (
    UsageRow("ann", "gpt-4o-mini", 4, 400, 40, 100, 1),
    UsageRow("bob", "gpt-4o", 1, 100, 10, 900),
    UsageRow("ann", "gpt-4o", 2, 200, 20, 300, 2),
)


def test_group__by_user__sums_and_orders_dearest_first() -> None:
    """One row per user, every figure summed, the dearest user first, the model left open."""
    assert group(ROWS, ("user",)) == (
        UsageRow("bob", "", 1, 100, 10, 900, 0),
        UsageRow("ann", "", 6, 600, 60, 400, 3),
    )


def test_group__by_model__sums_over_users() -> None:
    """One row per model, over all users."""
    assert group(ROWS, ("model",)) == (
        UsageRow("", "gpt-4o", 3, 300, 30, 1200, 2),
        UsageRow("", "gpt-4o-mini", 4, 400, 40, 100, 1),
    )


def test_group__by_both__keeps_each_pair() -> None:
    """One row per user and model; rows of one pair are summed."""
    assert group((*ROWS, ROWS[1]), ("user", "model")) == (
        UsageRow("bob", "gpt-4o", 2, 200, 20, 1800, 0),
        UsageRow("ann", "gpt-4o", 2, 200, 20, 300, 2),
        UsageRow("ann", "gpt-4o-mini", 4, 400, 40, 100, 1),
    )


def test_group__by_tag__sums_over_users_and_models() -> None:
    """One row per value; rows without the key are one group, named ""."""
    rows = [row._replace(tag=tag) for row, tag in zip(ROWS, ("", "x", "x"), strict=True)]
    assert group(rows, ("tag",)) == (
        UsageRow("", "", 3, 300, 30, 1200, 2, "x"),
        UsageRow("", "", 4, 400, 40, 100, 1, ""),
    )
    assert group(rows, ("tag", "user")) == (
        UsageRow("bob", "", 1, 100, 10, 900, 0, "x"),
        UsageRow("ann", "", 2, 200, 20, 300, 2, "x"),
        UsageRow("ann", "", 4, 400, 40, 100, 1, ""),
    )


def test_group__equal_costs__are_ordered_by_name() -> None:
    """Rows of one cost come in the order of user and model, whatever order they arrived in."""
    rows = [
        UsageRow(user, model, 1, 1, 1, 5) for user, model in (("b", "x"), ("a", "z"), ("a", "y"))
    ]
    pairs = [(row.user_id, row.model) for row in group(rows, ("user", "model"))]
    assert pairs == [("a", "y"), ("a", "z"), ("b", "x")]


@pytest.mark.parametrize("by", [(), ("plan",), ("user", "day")])
def test_group__an_unknown_or_no_name__is_refused(by: tuple[str, ...]) -> None:
    """The error names the columns that rows can be grouped by."""
    with pytest.raises(ValueError, match=r'must name some of "user", "model" and "tag"'):
        group(ROWS, by)


def test_group__no_rows__is_empty() -> None:
    """Nothing used gives no rows."""
    assert group((), ("user",)) == ()


def test_margins__rows_of_two_users__are_price_minus_cost() -> None:
    """Each user has one margin, the dearest first, their models dearest first."""
    found = margins(ROWS, price_nano=800)
    assert found == (
        Margin("bob", 1, 900, 800, (ROWS[1],)),
        Margin("ann", 6, 400, 800, (ROWS[2], ROWS[0])),
    )
    assert [each.margin_nano for each in found] == [-100, 400]


def test_margins__equal_costs__are_ordered_by_name() -> None:
    """Users and models of one cost come in the order of their names."""
    rows = [UsageRow("b", "y", 1, 1, 1, 5), UsageRow("b", "x", 1, 1, 1, 5)]
    rows += [UsageRow("a", "x", 1, 1, 1, 10)]
    found = margins(rows, price_nano=0)
    assert [each.user_id for each in found] == ["a", "b"]
    assert [row.model for row in found[1].by_model] == ["x", "y"]
