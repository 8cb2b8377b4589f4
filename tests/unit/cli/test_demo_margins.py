"""The demo's margins: price minus cost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.cli.demo_story.margins import Margin, margins
from paygent.core.report_rows import UsageRow

ROWS = (
    UsageRow("ann", "gpt-4o-mini", calls=4, cost_nano=100),
    UsageRow("bob", "gpt-4o", calls=1, cost_nano=900),
    UsageRow("ann", "gpt-4o", calls=2, cost_nano=300),
)


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
    rows = [UsageRow("b", "y", cost_nano=5), UsageRow("b", "x", cost_nano=5)]
    found = margins([*rows, UsageRow("a", "x", cost_nano=10)], price_nano=0)
    assert [each.user_id for each in found] == ["a", "b"]
    assert [row.model for row in found[1].by_model] == ["x", "y"]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.builds(
            UsageRow,
            st.sampled_from(["ann", "bob", "cy"]),
            st.sampled_from(["gpt-4o", "claude", "o3"]),
            calls=st.integers(0, 10**12),
            cost_nano=st.integers(0, 10**12),
        ),
        max_size=12,
    ),
    st.integers(0, 10**12),
)
def test_margins__any_rows__cost_and_margin_are_the_price(
    rows: list[UsageRow], price_nano: int
) -> None:
    """Cost and margin of each user add up to the price, and every row stands with its user."""
    found = margins(rows, price_nano=price_nano)
    for margin in found:
        assert margin.cost_nano + margin.margin_nano == price_nano
        assert margin.cost_nano == sum(row.cost_nano for row in margin.by_model)
        assert {row.user_id for row in margin.by_model} == {margin.user_id}
    assert sum(len(margin.by_model) for margin in found) == len(rows)
    assert sum(margin.calls for margin in found) == sum(row.calls for row in rows)
