"""Gate events in the store, their rollup by day, user and reason, and counts of unmetered calls.

The rollup counts warnings and refusals, from gate events, beside the calls that ran past a gate and
their cost (shadow), from usage events, so that both can be read together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from paygent.core.messages import GateEvent, UnmeteredCount
from paygent.core.period import day_in_zone
from paygent.store.directory_rows import AFTER_ALL_IDS, storable_json
from paygent.store.rows import text
from paygent.store.statements import Statements

GATE_KEY: Final = ("day", "user_id", "gate_reason")
GATE_FIGURES: Final = ("soft", "hard", "refused_calls", "shadow_calls", "shadow_cost_nano")
"""The columns of the rollup."""

GateKey = tuple[str, str, str]
"""(day, user, reason)."""


class GateSums:
    """What a product's rollup of gates is to be changed by."""

    def __init__(self, timezone: str) -> None:
        """Start with nothing.

        Args:
            timezone: The product's, in which days begin.
        """
        self._timezone = timezone
        self.sums: dict[GateKey, list[int]] = {}

    def add(self, event: GateEvent) -> None:
        """Add a gate event; its texts are as they are stored."""
        day = day_in_zone(event.at_us, self._timezone)
        sums = self._sums_of(day, event.user_id, event.gate_reason)
        sums[0 if event.status == "soft_gate" else 1] += event.calls
        sums[2] += event.calls if event.blocked else 0

    def add_shadow(
        self, day: str, user_id: str, gate_reason: str, calls: int, cost_nano: int
    ) -> None:
        """Add calls that ran past a hard gate."""
        sums = self._sums_of(day, user_id, gate_reason)
        sums[3] += calls
        sums[4] += cost_nano

    def _sums_of(self, *key: str) -> list[int]:
        return self.sums.setdefault(key, [0] * len(GATE_FIGURES))  # type: ignore[arg-type]

    def write(self, sql: Statements) -> None:
        """Write the sums, in the order of their keys."""
        if self.sums:
            sql.roll_up_gates(rows=[(*key, *sums) for key, sums in sorted(self.sums.items())])


def days_with_gates(
    sql: Statements, first: str = "", last: str = AFTER_ALL_IDS
) -> list[tuple[str]]:
    """Return the days on which calls reached a gate, as rows."""
    return [(row["day"],) for row in sql.days_with_gates(first=first, last=last)]


def add_gate_events(
    sql: Statements, events: Iterable[GateEvent], sums: GateSums
) -> set[tuple[str, str]]:
    """Store gate events of users with a locked row, and count those that are new; return their
    users and ids.
    """
    by_key: dict[tuple[str, str], GateEvent] = {}
    for event in events:
        by_key.setdefault((event.user_id, event.gate_event_id), event)
    if not by_key:
        return set()
    rows = [_gate_event_row(event) for _, event in sorted(by_key.items())]
    found = sql.add_gate_events(rows=rows)
    new = {(row["user_id"], row["gate_event_id"]) for row in found}
    for key in new:
        sums.add(by_key[key])
    return new


def storable_gate_event(event: GateEvent, pseudonym: str | None = None) -> GateEvent:
    """Return a gate event with texts that a database can hold; that of an erased user on their
    pseudonym, without a session and without texts.
    """
    if pseudonym is not None:
        event = event._replace(user_id=pseudonym, session_id="", message="", metadata=None)
    return event._replace(
        gate_event_id=text(event.gate_event_id),
        user_id=text(event.user_id),
        session_id=text(event.session_id),
        gate_reason=text(event.gate_reason),
        model=text(event.model),
        message=text(event.message),
    )


def put_unmetered_calls(sql: Statements, counts: Sequence[UnmeteredCount], timezone: str) -> None:
    """Write counts of unmetered calls; of several of one process and time, the greatest."""
    greatest: dict[tuple[Any, ...], int] = {}
    for each in counts:
        day = day_in_zone(each.since_us, timezone)
        texts = text(each.model), text(each.operation), text(each.process)
        key = day, *texts, each.since_us
        greatest[key] = max(each.calls, greatest.get(key, 0))
    if greatest:
        sql.put_unmetered_calls(rows=[(*key, calls) for key, calls in sorted(greatest.items())])


def _gate_event_row(event: GateEvent) -> tuple[Any, ...]:
    """Return the row of a gate event, in the order that the statement takes."""
    return (
        *(event.user_id, event.gate_event_id, event.session_id, event.at_us),
        *(event.status, event.gate_reason, event.model, int(event.blocked)),
        *(event.usage_ppm, event.current_value, event.limit_value),
        *(event.message, storable_json(event.metadata), event.calls),
    )
