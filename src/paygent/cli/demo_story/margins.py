"""The margins of the demo's users: what they pay less what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from paygent.core.report_rows import UsageRow


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
