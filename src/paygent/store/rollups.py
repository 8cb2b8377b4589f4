"""The rollups of a booking: sums of its events, added up in memory, written a table at a time."""

from __future__ import annotations

from typing import Any

from paygent.core.event import Event
from paygent.core.period import day_in_zone
from paygent.store.statements import Statements

_Sums = dict[tuple[Any, ...], list[int]]


class Rollups:
    """What events add to the rollups of their product."""

    def __init__(self, timezone: str) -> None:
        """Start with nothing.

        Args:
            timezone: The product's, in which days and months begin.
        """
        self._timezone = timezone
        self._days: _Sums = {}  # calls, input, output, cost, doubtful, shadow calls, shadow cost
        self._users: _Sums = {}  # calls, input, output, cost
        self._models: _Sums = {}

    def day_of(self, event: Event) -> str:
        """Return the day of an event."""
        return day_in_zone(event.at_us, self._timezone)

    def add(self, event: Event, day: str, *, is_doubtful: bool) -> None:
        """Add an event; a correction is no call."""
        calls, cost_nano = event.calls, event.cost_nano
        figures = calls, event.input_tokens, event.output_tokens, cost_nano
        user_id, model = event.user_id, event.model_key
        key: tuple[Any, ...] = (day, user_id, model, event.provider, event.plan)
        sums = self._days.get(key)
        if sums is None:
            sums = self._days[key] = [0] * 7
        _add(sums, figures)
        sums[4] += is_doubtful
        if event.blocked:
            sums[5] += calls
            sums[6] += cost_nano
        for table, key in (
            (self._users, (user_id, event.period_start_us, day[:7], model)),
            (self._models, (day, model, event.quality)),
        ):
            sums = table.get(key)
            if sums is None:
                sums = table[key] = [0] * 4
            _add(sums, figures)

    def resolve(self, original: Event) -> None:
        """Take the doubt from the day that counted a call."""
        place = original.model_key, original.provider, original.plan
        key = self.day_of(original), original.user_id, *place
        self._days.setdefault(key, [0] * 7)[4] -= 1

    def write(self, sql: Statements, slot: int) -> None:
        """Write the sums, in the order of their keys, so that no two writers wait for each other.

        Args:
            sql: In the transaction that stores the events.
            slot: The writer's slot in the rows of a whole product.
        """
        sql.roll_up_days(rows=_rows(self._days))
        sql.roll_up_users(rows=_rows(self._users))
        sql.roll_up_models(rows=_rows(self._models), slot=slot)


def _add(sums: list[int], figures: tuple[int, int, int, int]) -> None:
    sums[0] += figures[0]
    sums[1] += figures[1]
    sums[2] += figures[2]
    sums[3] += figures[3]


def _rows(sums: _Sums) -> list[tuple[Any, ...]]:
    return [(*key, *figures) for key, figures in sorted(sums.items())]
