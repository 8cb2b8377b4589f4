"""The rollups of a booking: sums of its events, added up in memory, written a table at a time."""

from __future__ import annotations

from typing import Any, Final

from paygent.core.event import Event
from paygent.core.period import day_in_zone
from paygent.core.usage import Quality
from paygent.store.statements import Statements

FIGURES: Final = (
    *("calls", "input_tokens", "output_tokens", "cached_input_tokens", "cost_nano"),
    *("partial_calls", "estimated_calls", "unpriced_calls", "shadow_calls", "shadow_cost_nano"),
)
"""The columns of sums, the same in each rollup and in the view `event_figures`."""

USER_KEY: Final = ("span", "user_id", "period_start_us", "model", "provider", "plan")
PRODUCT_KEY: Final = ("span", "model", "provider", "plan")

_DOUBT: dict[Quality, int] = {
    quality: FIGURES.index(f"{quality}_calls") for quality in ("partial", "estimated", "unpriced")
}
_SHADOW = FIGURES.index("shadow_calls")

_Sums = dict[tuple[Any, ...], list[int]]


class Rollups:
    """What events add to the rollups of their product."""

    def __init__(self, timezone: str) -> None:
        """Start with nothing.

        Args:
            timezone: The product's, in which days and months begin.
        """
        self._timezone = timezone
        self._days: _Sums = {}  # by user; months follow from them

    def day_of(self, event: Event) -> str:
        """Return the day of an event."""
        return day_in_zone(event.at_us, self._timezone)

    def add(self, event: Event, day: str, *, is_doubtful: bool) -> None:
        """Add an event; a correction is no call.

        Args:
            event: As it is booked.
            day: Its day.
            is_doubtful: Whether it is a call without exact figures, its corrections included.
        """
        sums = self._sums_of(event, day)
        calls, cost_nano = event.calls, event.cost_nano
        sums[0] += calls
        sums[1] += event.input_tokens
        sums[2] += event.output_tokens
        sums[3] += event.cached_input_tokens
        sums[4] += cost_nano
        if is_doubtful:
            sums[_DOUBT[event.quality]] += 1
        if event.blocked:
            sums[_SHADOW] += calls
            sums[_SHADOW + 1] += cost_nano

    def resolve(self, original: Event) -> None:
        """Take the doubt from the day that counted a call."""
        self._sums_of(original, self.day_of(original))[_DOUBT[original.quality]] -= 1

    def _sums_of(self, event: Event, day: str) -> list[int]:
        place = event.model_key, event.provider, event.plan
        key = day, event.user_id, event.period_start_us, *place
        sums = self._days.get(key)
        if sums is None:
            sums = self._days[key] = [0] * len(FIGURES)
        return sums

    def write(self, sql: Statements, slot: int) -> None:
        """Write the sums, in the order of their keys, so that no two writers wait for each other.

        Args:
            sql: In the transaction that stores the events.
            slot: The writer's slot in the rows of a whole product.
        """
        users: _Sums = dict(self._days)
        products: _Sums = {}
        for (day, user_id, *place), sums in self._days.items():
            _add(users, (day[:7], user_id, *place), sums)
            _add(products, (day, *place[1:]), sums)
        sql.roll_up_users(rows=_rows(users))
        sql.roll_up_products(rows=_rows(products), slot=slot)


def _add(table: _Sums, key: tuple[Any, ...], figures: list[int]) -> None:
    sums = table.get(key)
    table[key] = list(figures) if sums is None else [a + b for a, b in zip(sums, figures)]  # noqa: B905 - hot, and of one length


def _rows(sums: _Sums) -> list[tuple[Any, ...]]:
    return [(*key, *figures) for key, figures in sorted(sums.items())]
