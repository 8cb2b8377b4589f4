"""Report figures: usage rows of the store grouped by user, model and tag, and margins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class UsageRow(NamedTuple):
    """One user's usage of one model in a span of time.

    Attributes:
        user_id: The user, or "" in a sum over users.
        model: The model's canonical name, or "" in a sum over models.
        calls: Number of events; a correction is none.
        input_tokens, output_tokens: Inclusive totals, after corrections.
        cost_nano: In nano-dollars, after corrections.
        doubtful_calls: Calls of another quality than `exact` without an exact correction.
        tag: The value of the metadata key that the report groups by, as text; "" for events without
            it, and where no tag is grouped by.
        shadow_calls: Calls among them that ran past a hard gate: in shadow mode
            (`PlanConfig.enforce`), or with `raise_on_hard_gate=False`.
        shadow_cost_nano: Their part of the cost: what enforcement would have saved.
    """

    user_id: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    doubtful_calls: int = 0
    tag: str = ""
    shadow_calls: int = 0
    shadow_cost_nano: int = 0


class Margin(NamedTuple):
    """A user's cost, price and margin.

    Attributes:
        user_id: The user.
        calls: All calls of the user.
        cost_nano: Their cost.
        price_nano: The user's price in the same span of time.
        by_model: The user's rows, dearest first.
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
    """Group usage rows by user, dearest user first; `price_nano` is what each of them pays in the
    span of the rows.
    """
    # Users without a row used nothing, so their margin is their price; they are not listed.
    by_user: dict[str, list[UsageRow]] = {}
    for row in rows:
        by_user.setdefault(row.user_id, []).append(row)
    unsorted = [
        Margin(
            user_id,
            sum(row.calls for row in own),
            sum(row.cost_nano for row in own),
            price_nano,
            tuple(sorted(own, key=lambda row: (-row.cost_nano, row.model))),
        )
        for user_id, own in by_user.items()
    ]
    # The id breaks ties, so that two runs list users in the same order.
    return tuple(sorted(unsorted, key=lambda margin: (-margin.cost_nano, margin.user_id)))


_KEYS = {
    "user": "user_id",
    "model": "model",
    "tag": "tag",
}  # `group` argument -> the field that it keeps
_SUMS = tuple(name for name in UsageRow._fields if name not in _KEYS.values())


def group(rows: Iterable[UsageRow], by: tuple[str, ...]) -> tuple[UsageRow, ...]:
    """Sum usage rows by some of "user", "model" and "tag", dearest first; the others are "".

    Raises:
        ValueError: if `by` is empty or names something else.
    """
    if not by or any(name not in _KEYS for name in by):
        raise ValueError('must name some of "user", "model" and "tag"')
    groups: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows:
        key = tuple(getattr(row, field) if name in by else "" for name, field in _KEYS.items())
        sums = groups.setdefault(key, Counter())
        for name in _SUMS:
            sums[name] += getattr(row, name)
    grouped = [
        UsageRow(user_id, model, tag=tag, **sums) for (user_id, model, tag), sums in groups.items()
    ]
    return tuple(sorted(grouped, key=lambda row: (-row.cost_nano, row.user_id, row.model, row.tag)))
