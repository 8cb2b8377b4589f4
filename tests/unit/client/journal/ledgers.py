"""A ledger in memory that fails as a test tells it to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.contract.samples import fold

from paygent.core.event import Event
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    BookedEvent,
    LedgerRecord,
    PlanRecord,
    Question,
    UserLedger,
)
from paygent.core.period import END_OF_TIME_US
from paygent.core.report import SpendQuery, SpendReport, fold_spend
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable, TableKind, empty_table
from paygent.ledger.port import LedgerUnavailable

Script = deque[BaseException | None]


class FakeLedger:
    """Adapter of `Ledger` in memory; thread-safe.

    Attributes:
        events: What was booked, by id.
        directory: Directory records, in order.
        batches: Every batch that was settled, also those sent again.
        asked: Every tuple of questions that `state` answered.
        opening, settling, reading: What the next calls raise; None lets a call pass.
        losing: Number of answers to lose: booked, but the process hears nothing.
        after_commit, before_state: Called at these moments, on the worker's own threads.
    """

    keeps_plans = False
    heartbeat_s: float | None = None

    def __init__(self) -> None:
        self.booked_through = 0
        self.lock = threading.RLock()
        self.events: dict[str, Event] = {}
        self.records: list[LedgerRecord] = []
        self.batches: list[Batch] = []
        self.asked: list[tuple[Question, ...]] = []
        self.opening: Script = deque()
        self.settling: Script = deque()
        self.reading: Script = deque()
        self.losing = 0
        self.is_closed = False
        self.after_commit: Callable[[Batch], None] = lambda batch: None
        self.before_state: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Be ready, or not."""
        _follow(self.opening)

    def settle(self, batch: Batch) -> Answer:
        """Book a batch once."""
        _follow(self.settling)
        with self.lock:
            self.batches.append(batch)
            counted = {
                event.event_id for event in batch.events if event.event_id not in self.events
            }
            for event in batch.events:
                self.events.setdefault(event.event_id, event)
            self.records += batch.records
            self.booked_through = max(self.booked_through, batch.number)
            answer = self._answer(batch.questions, frozenset(counted))
        self.after_commit(batch)
        if self.losing:
            self.losing -= 1
            raise LedgerUnavailable("the answer was lost")
        return answer

    def state(self, batch: Batch) -> Answer:
        """Answer questions."""
        self.before_state()
        _follow(self.reading)
        with self.lock:
            self.asked.append(batch.questions)
            return self._answer(batch.questions, frozenset())

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return another report, of a product without usage."""
        _follow(self.reading)
        return ReportTable.of(empty_table(kind, request, 0))

    def report(self, request: SpendRequest) -> SpendReport:
        """Return a report of all events, whatever the days."""
        _follow(self.reading)
        query = SpendQuery(request.by, 0, END_OF_TIME_US)
        with self.lock:
            page = fold_spend(self.events.values(), query, "UTC")
            return SpendReport(page, query, "UTC", 0)

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event with its corrections; price lists are not kept here."""
        _follow(self.reading)
        with self.lock:
            if event_id not in self.events:
                return None
            corrections = (each for each in self.events.values() if each.corrects == event_id)
            return BookedEvent(self.events[event_id], tuple(corrections))

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    def pause_for_fork(self) -> None:
        """Have nothing that a child must not inherit."""

    def resume_after_fork(self) -> None:
        """Have nothing to go on with."""

    def forget_after_fork(self) -> None:
        """Have nothing of a parent's."""

    def _answer(self, questions: tuple[Question, ...], counted: frozenset[str]) -> Answer:
        plans: dict[str, tuple[int, dict[str, Any]]] = {}
        for record in self.records:
            if isinstance(record, PlanRecord):
                plans[record.name] = (plans.get(record.name, (0, {}))[0] + 1, record.document)
        users = {each.user_id: self._user(each) for each in questions}
        return Answer(counted, users, plans, booked_through=self.booked_through)

    def _user(self, question: Question) -> UserLedger:
        user_id = question.user_id
        assigned = [
            record
            for record in self.records
            if isinstance(record, AssignRecord) and record.user_id == user_id
        ]
        by_model: dict[str, tuple[int, int]] = {}
        for event in self.events.values():
            if event.user_id == user_id and event.period_start_us == question.period_start_us:
                tokens, cost_nano = by_model.get(event.model_key, (0, 0))
                by_model[event.model_key] = (
                    tokens + event.total_tokens,
                    cost_nano + event.cost_nano,
                )
        return UserLedger(
            plan=assigned[-1].plan if assigned else None,
            own=assigned[-1].own if assigned else None,
            subscription=assigned[-1].subscription if assigned else None,
            spent={key: fold(self.events.values(), user_id, key) for key in question.accounts},
            period_start_us=question.period_start_us,
            by_model=by_model,
        )


def _follow(script: Script) -> None:
    """Raise what the script says next; nothing where it has ended."""
    try:
        failure = script.popleft()
    except IndexError:
        return
    if failure is not None:
        raise failure
