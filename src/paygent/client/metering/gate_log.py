"""Calls that reached a gate, and calls that no adapter could meter, on their way to the ledger.

A caller only adds to a queue, without a lock. The delivery thread turns the queue into ledger
records once a round: one for all calls of a round with the same user, session, model and reason, so
that an application that tries again a thousand times a second sends one. Unlike usage, these are no
money: a process that is killed loses those of its last second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

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
from paygent.core.notices import Notice
from paygent.core.record_json import GATE_CALLS_MAX, MESSAGE_CHARS_MAX
from paygent.core.validation import NAME_CHARS_MAX
from paygent.failopen import OTHER, diagnostics
from paygent.types import GuardResult

_QUEUE_MAX = 20_000  # calls in one round; more are counted as dropped
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
        self._unmetered: dict[tuple[int, str, str], int] = {}  # of this quarter of an hour

    # -- called by anyone

    def warn(self, result: GuardResult, session_id: str) -> None:
        """Report a call that passed its warn line."""
        self._add(_AtGate(self._now_us(), session_id, False, result))
        self._callbacks.fire("soft_gate", result)

    def refuse(self, result: GuardResult, session_id: str = "", *, blocked: bool) -> None:
        """Report a call that reached a hard gate.

        Args:
            result: Why.
            session_id: Its session; "" where it has none yet.
            blocked: Whether it is refused, and does not run in spite of it.
        """
        self._add(_AtGate(self._now_us(), session_id, blocked, result))
        self._callbacks.fire("hard_gate", result)

    def count_unmetered(self, operation: str, model: str) -> None:
        """Count a call that no adapter can meter, and that passes."""
        self._add(_Unmetered(self._now_us(), operation, model))

    def _add(self, item: _AtGate | _Unmetered) -> None:
        if len(self._queue) >= _QUEUE_MAX:
            diagnostics.warn_once(Notice.GATE_LOG_FULL)
            return
        self._queue.append(item)
        self.wake()

    # -- the delivery thread

    def take(self) -> list[LedgerRecord]:
        """Return what is to be delivered since the last time."""
        at_gates: dict[tuple[str, ...], list[_AtGate]] = {}
        changed: set[tuple[int, str, str]] = set()
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            if isinstance(item, _Unmetered):
                changed.add(self._count(item))
            else:
                at_gates.setdefault(_alike(item), []).append(item)
        records: list[LedgerRecord] = [_gate_event(items) for items in at_gates.values()]
        process = self._process()
        records += [UnmeteredCount(process, *key, self._unmetered[key]) for key in sorted(changed)]
        if changed:
            last_us = max(since_us for since_us, _, _ in self._unmetered)
            for key in [each for each in self._unmetered if each[0] < last_us - QUARTER_US]:
                del self._unmetered[key]  # its last number was sent
        return records

    def _count(self, item: _Unmetered) -> tuple[int, str, str]:
        key = item.at_us // QUARTER_US * QUARTER_US, item.operation, item.model
        if key not in self._unmetered and len(self._unmetered) >= _OPERATIONS_MAX:
            key = key[0], OTHER, ""
        self._unmetered[key] = min(self._unmetered.get(key, 0) + 1, GATE_CALLS_MAX)
        return key


def _alike(item: _AtGate) -> tuple[str, ...]:
    """Return what calls have in common that are reported as one."""
    result = item.result
    return (
        result.user_id or MISSING_USER_ID,
        *(item.session_id, result.status, result.gate_reason or "", result.model or ""),
        str(item.blocked),
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
        current_value=_decimal_text(result.current_value),
        limit_value=_decimal_text(result.limit_value),
        message=(result.message or "")[:MESSAGE_CHARS_MAX],
        calls=len(items),
    )


def _decimal_text(value: float) -> str:
    """Return a figure of a limit as decimal text, exactly: it is the shortest of its double."""
    text = f"{Decimal(repr(value)):.9f}"
    return text.rstrip("0").rstrip(".")
