"""The store over SQL: every verb of the port, over named statements and a transaction.

Nothing here depends on the engine. A group of batches is booked in one transaction; where one of
them is rejected, each is booked by itself, so that a bad batch falls alone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import count, islice
from typing import TypeVar

from paygent.core.event import Event
from paygent.core.margin import MarginReport
from paygent.core.messages import Answer, Batch, BookedEvent, Question
from paygent.core.plan import PlanConfig
from paygent.core.replay import ReplayReport
from paygent.core.report import Figures, SpendReport, SpendRow
from paygent.core.report_request import SpendRequest
from paygent.core.tally import TallyKind, TallyReport
from paygent.store.answering import answer
from paygent.store.booking import Booked, Booking
from paygent.store.corrections import MoreUsersToLock
from paygent.store.dashboard import SqlDashboard
from paygent.store.directory import SqlDirectory, wall_clock_us
from paygent.store.engine import Engine
from paygent.store.margins import AllMargins, KnownRevenue, all_margins, margin
from paygent.store.port import PlanUsers, StoreBusy, StoreUnavailable, UserActivity
from paygent.store.replay import replay
from paygent.store.reports import daily_rows, spend, spend_of_users, spend_rows
from paygent.store.rows import event_of, text
from paygent.store.spans import spans_of
from paygent.store.statements import Row, Statements
from paygent.store.tallies import tally

_T = TypeVar("_T")

_USERS_PAGE = 1_000
_SLOTS = 16
"""Slots of the rows that all writers of a product share; more writers than slots share them."""

_writers = count()  # numbers the threads of this process that have written
_writer = threading.local()

_LOCK_TRIES_MAX = 5  # each finds the users that the last one missed; a second try is rare


class SqlStore(SqlDirectory, SqlDashboard):
    """A store over a SQL engine; see `Store`."""

    def __init__(self, engine: Engine, *, now_us: Callable[[], int] = wall_clock_us) -> None:
        """Remember the engine; see `SqlDirectory`."""
        super().__init__(engine, now_us=now_us)

    # -- life

    def open(self) -> None:
        """Connect and migrate; see `Store.open`."""
        self.engine.open()

    def close(self) -> None:
        """Close connections; see `Store.close`."""
        self.engine.close()

    def pause_for_fork(self) -> None:
        """Close what a child must not inherit; see `Store.pause_for_fork`."""
        self.engine.pause_for_fork()

    def resume_after_fork(self) -> None:
        """Continue in the parent; see `Store.resume_after_fork`."""
        self.engine.resume_after_fork()

    def forget_after_fork(self) -> None:
        """Drop the parent's connections; see `Store.forget_after_fork`."""
        self.engine.forget_after_fork()

    # -- booking and answering

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions; see `Store.ingest`."""

        def answers(sql: Statements, booked: Booked) -> Answer:
            known = {each: (sums.spent, sums.shadow) for each, sums in booked.accounts.items()}
            counted = _counted(batch, booked, set(booked.new))
            found = answer(
                sql,
                batch.questions,
                batch.at_us,
                now_us=self.now_us(),
                holder=batch.holder,
                news_since_us=batch.news_since_us,
                known=known,
                directory=booked.directory,
            )
            return replace(found, counted=counted)

        return self._book(product, (batch,), answers)

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        """Store batches of several senders in one transaction; see `Store.book`."""

        def counted(_: Statements, booked: Booked) -> list[frozenset[str] | Exception]:
            new = set(booked.new)
            return [_counted(batch, booked, new) for batch in batches]

        try:
            return self._book(product, batches, counted)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a batch that is rejected falls alone
            if len(batches) == 1:
                return [error]
            return [self.book(product, (batch,))[0] for batch in batches]

    def _book(
        self,
        product: str,
        batches: Sequence[Batch],
        finish: Callable[[Statements, Booked], _T],
    ) -> _T:
        """Book batches in a transaction, and return what is made of it in the same one."""
        also_lock: frozenset[str] = frozenset()
        for _ in range(_LOCK_TRIES_MAX):
            try:
                with self.engine.transaction(product, writes=True) as sql:
                    booking = Booking(
                        sql,
                        self.engine.insert_events,
                        now_us=self.now_us(),
                        slot=_slot(),
                        also_lock=also_lock,
                    )
                    return finish(sql, booking.book(batches))
            except MoreUsersToLock as more:  # noqa: PERF203 - rare
                also_lock |= more.user_ids
        raise StoreBusy("the users of a batch are being changed")

    def read(
        self,
        product: str,
        questions: tuple[Question, ...],
        at_us: int,
        *,
        holder: str = "",
        news_since_us: int | None = None,
    ) -> Answer:
        """Answer questions; see `Store.read`."""
        with self.engine.transaction(product) as sql:
            return answer(
                sql,
                questions,
                at_us,
                now_us=self.now_us(),
                holder=holder,
                news_since_us=news_since_us,
            )

    # -- reports

    def spend(self, product: str, request: SpendRequest) -> SpendReport:
        """Return a report of usage and cost; see `Store.spend`."""
        with self.engine.transaction(product) as sql:
            return spend(sql, request, self.now_us())

    def spend_rows(self, product: str, request: SpendRequest) -> Iterator[SpendRow]:
        """Yield all rows of a report; see `Store.spend_rows`."""
        with self.engine.transaction(product) as sql:
            yield from spend_rows(sql, request, self.now_us())

    def daily_rows(self, product: str, request: SpendRequest) -> Iterator[SpendRow]:
        """Yield usage by day, user, model and provider; see `Store.daily_rows`."""
        with self.engine.transaction(product) as sql:
            yield from daily_rows(sql, request, self.now_us())

    def spend_of_users(
        self, product: str, request: SpendRequest, user_ids: Collection[str]
    ) -> dict[str, Figures]:
        """Return the figures of some users; see `Store.spend_of_users`."""
        with self.engine.transaction(product) as sql:
            return spend_of_users(sql, request, user_ids, self.now_us())

    def margin(self, product: str, request: SpendRequest) -> MarginReport:
        """Return a report of margins; see `Store.margin`."""
        with self.engine.transaction(product) as sql:
            return margin(sql, request, self.now_us())

    def all_margins(
        self, product: str, request: SpendRequest, known: KnownRevenue | None = None
    ) -> AllMargins:
        """Return the margins of all groups, from which pages are made in any order; `known` is the
        revenue of an earlier reading.
        """
        with self.engine.transaction(product) as sql:
            return all_margins(sql, request, self.now_us(), known)

    def tally(self, product: str, kind: TallyKind, request: SpendRequest) -> TallyReport:
        """Return a report that counts; see `Store.tally`."""
        with self.engine.transaction(product) as sql:
            return tally(sql, kind, request, self.now_us())

    def replay(
        self,
        product: str,
        plan_name: str,
        plan: PlanConfig,
        start: date,
        end: date,
        rows_max: int,
    ) -> ReplayReport:
        """Return what an edited plan would have changed; see `Store.replay`."""
        with self.engine.transaction(product) as sql:
            return replay(sql, plan_name, plan, start, end, rows_max)

    def users(
        self, product: str, start_us: int, end_us: int, users_max: int
    ) -> tuple[UserActivity, ...]:
        """Return users, dearest first; see `Store.users`."""
        with self.engine.transaction(product) as sql:
            rows = sql.dearest_users(rows=spans_of(sql, start_us, end_us), users_max=users_max)
            sums = {row["user_id"]: (row["calls"], row["cost_nano"]) for row in rows}
            others = (each for each in _user_ids(sql) if each not in sums)
            sums |= dict.fromkeys(islice(others, users_max - len(sums)), (0, 0))
            calls = sql.last_calls(rows=[(user_id,) for user_id in sums])
            last_us = {row["user_id"]: row["last_us"] for row in calls}
            return tuple(UserActivity(each, *sums[each], last_us[each]) for each in sums)

    def plan_users(
        self, product: str, start_us: int, end_us: int, *, besides: str = ""
    ) -> dict[str, PlanUsers]:
        """Return the users of each plan; see `Store.plan_users`."""
        with self.engine.transaction(product) as sql:
            spans = spans_of(sql, start_us, end_us)
            assigned = _users_by_plan(sql.users_of_plans(besides=text(besides)))
            active = _users_by_plan(sql.active_users_of_plans(rows=spans, besides=text(besides)))
            names = assigned.keys() | active.keys()
            return {name: PlanUsers(assigned.get(name, 0), active.get(name, 0)) for name in names}

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user; see `Store.events`."""
        with self.engine.transaction(product) as sql:
            return tuple(event_of(row) for row in sql.events_of_user(user_id=text(user_id)))

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event and what belongs to it; see `Store.event`."""
        with self.engine.transaction(product) as sql:
            located = sql.locate_events(rows=[(text(event_id),)])
            if not located:
                return None
            row = located[0]
            places = [(row["user_id"], row["at_us"], row["event_id"])]
            corrections = sql.corrections_of(rows=[(row["event_id"],)])
            places += [(each["user_id"], each["at_us"], each["event_id"]) for each in corrections]
            found = {each["event_id"]: event_of(each) for each in sql.events_at(rows=places)}
            event = found.pop(row["event_id"])
            prices = sql.price_list(price_id=event.price_id)
            document = None if prices is None else json.loads(prices["document"])
            return BookedEvent(event, tuple(found[each] for each in sorted(found)), document)


def _slot() -> int:
    """Return the slot of this thread: two writers of a process do not wait for each other's row."""
    slot: int | None = getattr(_writer, "slot", None)
    if slot is None:
        slot = _writer.slot = (os.getpid() + next(_writers)) % _SLOTS
    return slot


def _counted(batch: Batch, booked: Booked, new: set[tuple[str, str]]) -> frozenset[str]:
    """Return the ids of a batch's events that were new, and take them out of `new`, so that an
    event in two batches of a group is counted for the first.
    """
    counted = set()
    for event in batch.events:
        user_id = text(event.user_id)
        key = booked.erased.get(user_id, user_id), text(event.event_id)
        if key in new:
            new.discard(key)
            counted.add(event.event_id)
    return frozenset(counted)


def _user_ids(sql: Statements) -> Iterator[str]:
    """Yield every user of a product, in order of ids."""
    after = ""  # pages, so that whoever needs few users reads few
    while page := sql.users_page(after=after, users_max=_USERS_PAGE):
        for row in page:
            yield row["user_id"]
        after = page[-1]["user_id"]


def _users_by_plan(rows: Sequence[Row]) -> dict[str, int]:
    return {row["plan"]: row["users"] for row in rows}
