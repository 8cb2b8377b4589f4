"""Calls that reached a gate, and calls that no adapter could meter, on their way to the ledger.

A caller only adds to a queue, without a lock. The delivery thread turns the queue into ledger
records once a round: one for all calls of a round with the same user, session, model and reason, so
that an application that tries again a thousand times a second sends one. Unlike usage, these are no
money: a process that is killed loses those of its last second.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from paygent.client.journal.journal import Journal
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.ids import new_id
from paygent.core.event_json import REASON_CHARS_MAX
from paygent.core.messages import (
    MISSING_USER_ID,
    QUARTER_US,
    GateEvent,
    LedgerRecord,
    UnmeteredCount,
)
from paygent.core.money import decimal_text
from paygent.core.notices import Notice
from paygent.core.record_json import GATE_CALLS_MAX, MESSAGE_CHARS_MAX, encode_record
from paygent.core.validation import NAME_CHARS_MAX
from paygent.failopen import OTHER, attempt, diagnostics
from paygent.types import GuardResult

_QUEUE_MAX = 10_000  # calls in one round; more are counted as dropped
_OPERATIONS_MAX = 200  # operations and models of a quarter of an hour; more count as "other"
_PPM = 10**6
_USAGE_PPM_MAX = 10**15


class _AtGate(NamedTuple):
    """A call that reached a gate."""

    at_us: int
    session_id: str
    blocked: bool
    result: GuardResult


class _Unmetered(NamedTuple):
    """A call that no adapter could meter."""

    at_us: int
    operation: str
    model: str


class GateLog:
    """Reports calls at gates, to callbacks at once and to the ledger later. Thread-safe.

    Attributes:
        wake: Called when there is something to deliver.
    """

    def __init__(
        self, callbacks: Callbacks, now_us: Callable[[], int], process: Callable[[], str]
    ) -> None:
        """Start with nothing.

        Args:
            callbacks: Those of the application.
            now_us: The process's clock.
            process: Returns a name that no other process has.
        """
        self._callbacks = callbacks
        self._now_us = now_us
        self._process = process
        self.wake: Callable[[], None] = lambda: None
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget what is the parent's to deliver."""
        self._queue: deque[_AtGate | _Unmetered] = deque()
        self._unmetered: dict[tuple[int, str, str], int] = {}  # of the last quarters of an hour
        self._taking = threading.RLock()  # a signal handler may wait for a delivery, too

    # -- called by anyone

    def warn(self, result: GuardResult, session_id: str) -> None:
        """Report a call that passed its warn line."""
        self._add(_AtGate, session_id, False, result)
        self._callbacks.fire("soft_gate", result)

    def refuse(self, result: GuardResult, session_id: str = "", *, blocked: bool) -> None:
        """Report a call that reached a hard gate.

        Args:
            result: Why.
            session_id: Its session; "" where it has none yet.
            blocked: Whether it is refused, and does not run in spite of it.
        """
        self._add(_AtGate, session_id, blocked, result)
        self._callbacks.fire("hard_gate", result)

    def count_unmetered(self, operation: str, model: str) -> None:
        """Count a call that no adapter can meter, and that passes."""
        self._add(_Unmetered, operation[:NAME_CHARS_MAX], model[:NAME_CHARS_MAX])

    def _add(self, kind: type[_AtGate | _Unmetered], *fields: Any) -> None:
        # Guarded, because a refusal is raised after this.
        attempt("gate_log", self._add_now, kind, fields)

    def _add_now(self, kind: type[_AtGate | _Unmetered], fields: tuple[Any, ...]) -> None:
        if len(self._queue) >= _QUEUE_MAX:
            diagnostics.warn_once(Notice.GATE_LOG_FULL)
            return
        self._queue.append(kind(self._now_us(), *fields))
        self.wake()

    # -- the delivery thread, and who waits for it

    def write(self, journal: Journal) -> bool:
        """Write what waits here into the journal; return False if that has no room for all."""
        with self._taking:
            for record in attempt("gate_log", self.take, journal.spare_room) or ():
                attempt("journal_write", journal.append, encode_record(record))
        return not self._queue

    def take(self, records_max: int = _QUEUE_MAX) -> list[LedgerRecord]:
        """Return what is to be delivered since the last time, in at most so many records; what is
        left waits here for the next time.
        """
        at_gates: dict[tuple[Any, ...], list[_AtGate]] = {}
        changed: set[tuple[int, str, str]] = set()
        for _ in range(min(len(self._queue), records_max)):
            try:
                item = self._queue.popleft()
            except IndexError:  # a signal handler that waits for a delivery has taken it
                break
            if isinstance(item, _Unmetered):
                changed.add(self._count(item))
            else:
                at_gates.setdefault(_alike(item), []).append(item)
        made = (attempt("gate_log", _gate_event, items) for items in at_gates.values())
        records: list[LedgerRecord] = [event for event in made if event is not None]
        process = self._process()
        records += [UnmeteredCount(process, *key, self._unmetered[key]) for key in sorted(changed)]
        # Their last number was sent. A clock that was set back meets its quarter again.
        past_us = self._now_us() - 2 * QUARTER_US
        if not self._queue:  # what waits there may be of their time
            for key in [key for key in self._unmetered if key[0] < past_us and key not in changed]:
                del self._unmetered[key]
        return records

    def _count(self, item: _Unmetered) -> tuple[int, str, str]:
        since_us = item.at_us // QUARTER_US * QUARTER_US
        key = since_us, item.operation, item.model
        if key not in self._unmetered:
            of_this_time = sum(1 for known_us, _, _ in self._unmetered if known_us == since_us)
            key = key if of_this_time < _OPERATIONS_MAX else (since_us, OTHER, "")
        self._unmetered[key] = min(self._unmetered.get(key, 0) + 1, GATE_CALLS_MAX)
        return key


def _alike(item: _AtGate) -> tuple[Any, ...]:
    """Return what calls have in common that are reported as one."""
    result = item.result
    return (
        result.user_id or MISSING_USER_ID,
        *(item.session_id, result.status, result.gate_reason or "", result.model or ""),
        *(item.blocked, item.at_us // QUARTER_US),  # a day ends with a quarter of an hour
    )


def _gate_event(items: list[_AtGate]) -> GateEvent:
    """Return the gate event of calls that are alike, with the figures of the last one."""
    result = items[-1].result
    return GateEvent(
        gate_event_id=new_id(items[0].at_us),
        user_id=result.user_id or MISSING_USER_ID,
        session_id=items[0].session_id,
        at_us=items[0].at_us,
        status=result.status,
        gate_reason=(result.gate_reason or "")[:REASON_CHARS_MAX],
        model=(result.model or "")[:NAME_CHARS_MAX],
        blocked=items[0].blocked,
        usage_ppm=min(round(result.usage_pct * _PPM), _USAGE_PPM_MAX),
        current_value=decimal_text(Decimal(repr(result.current_value))),
        limit_value=decimal_text(Decimal(repr(result.limit_value))),
        message=(result.message or "")[:MESSAGE_CHARS_MAX],
        calls=len(items),
    )
