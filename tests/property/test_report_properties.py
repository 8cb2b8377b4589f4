"""Reports, for any rows: grouping loses nothing and margins add up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.report import UsageRow, group, margins

FIGURE = st.integers(0, 10**12)
ROWS = st.lists(
    st.builds(
        UsageRow,
        st.sampled_from(["ann", "bob", "cy"]),
        st.sampled_from(["gpt-4o", "claude", "o3"]),
        *[FIGURE] * 5,
    ),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(ROWS, st.sampled_from([("user",), ("model",), ("user", "model")]))
def test_group__any_rows__keeps_every_sum_and_orders_by_cost(
    rows: list[UsageRow], by: tuple[str, ...]
) -> None:
    """Each figure of the groups adds up to that of the rows; the dearest comes first."""
    grouped = group(rows, by)
    for name in ("calls", "input_tokens", "output_tokens", "cost_nano", "doubtful_calls"):
        assert sum(getattr(row, name) for row in grouped) == sum(getattr(row, name) for row in rows)
    assert len({row[:2] for row in grouped}) == len(grouped)
    costs = [row.cost_nano for row in grouped]
    assert costs == sorted(costs, reverse=True)
    assert group(list(reversed(rows)), by) == grouped


@settings(max_examples=120, deadline=None)
@given(ROWS, FIGURE)
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
