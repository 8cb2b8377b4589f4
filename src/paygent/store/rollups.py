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

METADATA = """CASE WHEN r.corrects IS NULL THEN r.metadata ELSE COALESCE((
        SELECT COALESCE(o.metadata, 'null') FROM events AS o
        WHERE o.product_id = r.product_id AND o.user_id = r.user_id AND o.at_us = r.at_us
          AND o.event_id = r.corrects AND o.corrects IS NULL
    ), r.metadata) END"""
"""The metadata of an event; that of its original for a correction, if that is a call's."""

ALL_SUMS: Final = "".join(f",\n    CAST(SUM(r.{name}) AS BIGINT) AS {name}" for name in FIGURES)
"""The sums of a rollup or of the view, as columns of a statement."""

USER_KEY: Final = ("span", "user_id", "period_start_us", "model", "provider", "plan")
PRODUCT_KEY: Final = ("span", "model", "provider", "plan")

_DOUBT: dict[Quality, int] = {
    quality: FIGURES.index(f"{quality}_calls") for quality in ("partial", "estimated", "unpriced")
}

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

    def add(self, event: Event, day: str, *, is_doubtful: bool) -> list[int]:
        """Add an event; a correction is no call. Return its figures.

        Args:
            event: As it is booked.
            day: Its day.
            is_doubtful: Whether it is a call without exact figures, its corrections included.
        """
        figures = figures_of(event, is_doubtful=is_doubtful)
        _add(self._days, _key_of(event, day), figures)
        return figures

    def resolve(self, original: Event) -> list[int]:
        """Take the doubt from the day that counted a call; return what that adds."""
        figures = [0] * len(FIGURES)
        figures[_DOUBT[original.quality]] = -1
        _add(self._days, _key_of(original, self.day_of(original)), figures)
        return figures

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


def figures_of(event: Event, *, is_doubtful: bool) -> list[int]:
    """Return what an event adds to a rollup, in the order of `FIGURES`."""
    calls, cost_nano = event.calls, event.cost_nano
    figures = [calls, event.input_tokens, event.output_tokens, event.cached_input_tokens, cost_nano]
    figures += (0, 0, 0, calls, cost_nano) if event.blocked else (0, 0, 0, 0, 0)
    if is_doubtful:
        figures[_DOUBT[event.quality]] += 1
    return figures


def _key_of(event: Event, day: str) -> tuple[Any, ...]:
    place = event.model_key, event.provider, event.plan
    return day, event.user_id, event.period_start_us, *place


def _add(table: _Sums, key: tuple[Any, ...], figures: list[int]) -> None:
    sums = table.get(key)
    table[key] = list(figures) if sums is None else [a + b for a, b in zip(sums, figures)]  # noqa: B905 - hot, and of one length


def _rows(sums: _Sums) -> list[tuple[Any, ...]]:
    return [(*key, *figures) for key, figures in sorted(sums.items())]
