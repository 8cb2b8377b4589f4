"""Figures for people: who used what, and what is left of the price they pay.

Rows come from the store's rollups; this module groups them and computes margins, in integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class UsageRow(NamedTuple):
    """What one user used of one model in a span of time.

    Attributes:
        user_id, model: Whose, and under which canonical name.
        calls: Number of events; a correction is none.
        input_tokens, output_tokens: Inclusive totals, corrected.
        cost_nano: In nano-dollars, corrected.
        doubtful_calls: Calls whose quality is not `exact` and that no exact correction has settled.
    """

    user_id: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    doubtful_calls: int = 0


class Margin(NamedTuple):
    """What a user costs and what is left of their price.

    Attributes:
        user_id: Whose.
        calls: All calls of the user.
        cost_nano: What they cost.
        price_nano: What the user pays in the same span of time.
        by_model: The rows of the user, dearest first.
    """

    user_id: str
    calls: int
    cost_nano: int
    price_nano: int
    by_model: tuple[UsageRow, ...]

    @property
    def margin_nano(self) -> int:
        """Price minus cost; negative when the user costs more than they pay."""
        return self.price_nano - self.cost_nano


def margins(rows: Iterable[UsageRow], *, price_nano: int) -> tuple[Margin, ...]:
    """Group usage rows by user, dearest user first.

    Args:
        rows: At most one row per user and model.
        price_nano: What each of these users pays in the span that the rows cover.
    """
    by_user: dict[str, list[UsageRow]] = {}
    for row in rows:
        by_user.setdefault(row.user_id, []).append(row)
    found = [
        Margin(
            user_id,
            sum(row.calls for row in own),
            sum(row.cost_nano for row in own),
            price_nano,
            tuple(sorted(own, key=lambda row: (-row.cost_nano, row.model))),
        )
        for user_id, own in by_user.items()
    ]
    return tuple(sorted(found, key=lambda margin: (-margin.cost_nano, margin.user_id)))


_KEYS = {"user": "user_id", "model": "model"}


def group(rows: Iterable[UsageRow], by: tuple[str, ...]) -> tuple[UsageRow, ...]:
    """Sum usage rows by user, by model or by both, dearest first.

    Args:
        by: "user", "model" or both; what is not named is "" in the result.

    Raises:
        ValueError: if `by` is empty or names something else.
    """
    if not by or any(name not in _KEYS for name in by):
        raise ValueError('must be "user", "model" or both')
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        key = (row.user_id if "user" in by else "", row.model if "model" in by else "")
        total = sums.setdefault(key, [0] * 5)
        for position, value in enumerate(row[2:]):
            total[position] += value
    grouped = [UsageRow(user_id, model, *total) for (user_id, model), total in sums.items()]
    return tuple(sorted(grouped, key=lambda row: (-row.cost_nano, row.user_id, row.model)))
