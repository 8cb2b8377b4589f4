"""The embedded store: SQLite through the standard library, in WAL mode.

One instance holds one connection, used under a lock. Processes share the file: writers take turns
with `BEGIN IMMEDIATE` and wait for each other only briefly, because SQLite's own waiting is unfair
(1.3 s was measured) and a batch that could not be stored is sent again a moment later. After a
commit the events survive any death of the process; the journal keeps them until then.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    BookedEvent,
    PlanRecord,
    PriceRecord,
    Question,
    SessionRecord,
    SessionState,
    UserLedger,
)
from paygent.core.period import Subscription, day_name, rolling_length_us
from paygent.core.report import UsageRow
from paygent.store.port import StoreUnavailable
from paygent.store.rows import (
    Row,
    account_key_of,
    account_row,
    event_of,
    event_row,
    from_json,
    storable,
    text,
)
from paygent.store.sqlite_file import SQL_FOLDER, create_private, migrate, open_read_only

BUSY_WAIT_S = 0.1
"""How long a statement waits for another process's transaction, in seconds."""

_FORK_WAIT_S = 1.0  # for a running transaction; they take milliseconds
_VERSION_MIN = (3, 35, 0)  # RETURNING


def load_queries() -> Any:
    """Return the named statements: those of the shared dialect and SQLite's own."""
    import aiosql  # imported with the first store, not with the package

    script = "\n".join(
        (SQL_FOLDER / name).read_text(encoding="utf-8") for name in ("queries.sql", "sqlite.sql")
    )
    return aiosql.from_str(script, "sqlite3", mandatory_parameters=False)


class SqliteStore:
    """A store in one SQLite file, or in memory (`:memory:`, for one process and this instance
    alone).
    """

    def __init__(
        self, path: str, *, busy_wait_s: float = BUSY_WAIT_S, read_only: bool = False
    ) -> None:
        """Remember where the file is; nothing is opened before `open`.

        Args:
            path: File path, or ":memory:".
            busy_wait_s: Longest wait for another process's transaction, in seconds.
            read_only: Whether nothing may be created, migrated or written: for reading the store of
                an application that may be running.
        """
        self._path = path
        self._read_only = read_only
        self._busy_wait_s = busy_wait_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._paused_by: int | None = None
        self._queries: Any = None

    # -- life

    def open(self) -> None:
        """Connect and migrate; see `Store.open`."""
        with self._lock, _as_unavailable():
            if self._connection is not None:
                return
            if sqlite3.sqlite_version_info < _VERSION_MIN:
                raise StoreUnavailable(
                    f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is needed"
                )
            if self._queries is None:
                self._queries = load_queries()
            if self._read_only:
                self._connection = open_read_only(self._path, self._busy_wait_s)
                return
            if self._path != ":memory:":
                create_private(self._path)
            connection = sqlite3.connect(
                self._path, timeout=self._busy_wait_s, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            connection.row_factory = sqlite3.Row
            self._connection = connection

    def close(self) -> None:
        """Close the connection; see `Store.close`."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def pause_for_fork(self) -> None:
        """Close the connection before a fork; see `Store.pause_for_fork`.

        SQLite keeps its file locks by process and file: a child that inherits a connection takes
        the parent's locks for its own, and two processes that both seem to hold a lock corrupt the
        file. A closed connection is not inherited.
        """
        if self._lock.acquire(timeout=_FORK_WAIT_S):
            self._paused_by = threading.get_ident()
            if self._path != ":memory:":
                self.close()

    def resume_after_fork(self) -> None:
        """Let the parent go on; see `Store.resume_after_fork`."""
        # Another thread may have begun a fork meanwhile and timed out: it holds nothing.
        if self._paused_by == threading.get_ident():
            self._paused_by = None
            self._lock.release()

    def forget_after_fork(self) -> None:
        """Drop the parent's connection without closing it; see `Store.forget_after_fork`.

        There is one only for a store in memory, and where the fork timed out on a transaction.
        Closing it here would release the parent's file locks.
        """
        self._paused_by = None
        if self._connection is not None:
            _PARENTS_CONNECTIONS.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _as_unavailable():
            self.open()
            connection = self._connection
            assert connection is not None  # `open` raises where it cannot connect
            connection.execute(begin)
            # An interruption rolls back too: a transaction left open would lock out all writers.
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite ends one by itself after some errors
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # -- writing

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions; see `Store.ingest`."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            # Accounts are seeded from stored events, so they open before the batch's are stored.
            self._write_directory(connection, product, batch)
            self._open_accounts(connection, product, batch.questions)
            counted = self._write_events(connection, product, batch)
            answer = self._answer(connection, product, batch.questions, batch.at_us)
        return Answer(counted, answer.users, answer.plans)

    def _write_directory(self, connection: sqlite3.Connection, product: str, batch: Batch) -> None:
        for record in batch.directory:
            if isinstance(record, PlanRecord):
                self._queries.add_plan(
                    connection,
                    product_id=product,
                    name=text(record.name),
                    document=json.dumps(record.document, sort_keys=True),
                    at_us=record.at_us,
                )
            elif isinstance(record, AssignRecord):
                self._assign_plan(connection, product, record)
            elif isinstance(record, PriceRecord):
                self._queries.add_price_list(
                    connection,
                    product_id=product,
                    price_id=text(record.price_id),
                    document=json.dumps(record.document, sort_keys=True),
                    at_us=record.at_us,
                )
            else:
                self._put_session(connection, product, record)

    def _assign_plan(
        self, connection: sqlite3.Connection, product: str, record: AssignRecord
    ) -> None:
        period = record.subscription
        self._queries.assign_plan(
            connection,
            product_id=product,
            user_id=text(record.user_id),
            plan=text(record.plan),
            own=None if record.own is None else json.dumps(record.own, sort_keys=True),
            period_start_us=period.start_us if period else None,
            period_end_us=period.end_us if period else None,
            renews=period.renews if period else None,
            at_us=record.at_us,
            keeps=int(record.keeps),
        )

    def _put_session(
        self, connection: sqlite3.Connection, product: str, record: SessionRecord
    ) -> None:
        self._queries.put_session(
            connection,
            product_id=product,
            user_id=text(record.user_id),
            session_id=text(record.session_id),
            implicit=int(record.implicit),
            started_us=record.started_us,
            used_us=record.used_us,
            ended_us=record.ended_us,
        )

    def _open_accounts(
        self, connection: sqlite3.Connection, product: str, questions: Iterable[Question]
    ) -> None:
        keys = [
            account_row(question.user_id, key)
            for question in questions
            for key in question.accounts
            if rolling_length_us(key.limit.window) is None  # rolling sums are read from events
        ]
        if keys:
            self._queries.open_accounts(connection, product_id=product, keys=json.dumps(keys))

    def _write_events(
        self, connection: sqlite3.Connection, product: str, batch: Batch
    ) -> frozenset[str]:
        # Claimed under the id that is stored, which may differ from the one that was sent.
        by_id = {text(event.event_id): event for event in batch.events}
        if not by_id:
            return frozenset()
        claimed = self._queries.claim_ids(
            connection, product_id=product, ids=json.dumps(list(by_id))
        )
        new = sorted(row["event_id"] for row in claimed)  # a fixed order, whatever the plan
        if not new:
            return frozenset()
        ids = json.dumps(new)
        self._queries.insert_events(
            connection, [event_row(product, by_id[event_id]) for event_id in new]
        )
        # Corrections take their place and their differences first; then everything is counted.
        for event_id in new:
            if by_id[event_id].corrects is not None:  # few, so each may have its own statement
                self._queries.adopt_originals(connection, product_id=product, event_id=event_id)
        for event_id in new:
            if by_id[event_id].restates:
                self._queries.take_differences(connection, product_id=product, event_id=event_id)
        self._queries.clear_restated(connection, product_id=product, ids=ids)
        self._queries.add_users(connection, product_id=product, ids=ids, at_us=batch.at_us)
        self._queries.use_sessions(connection, product_id=product, ids=ids)
        self._queries.book_accounts(connection, product_id=product, ids=ids)
        self._queries.roll_up_days(connection, product_id=product, ids=ids)
        self._queries.roll_up_resolved(connection, product_id=product, ids=ids)
        self._queries.roll_up_periods(connection, product_id=product, ids=ids)
        return frozenset(by_id[event_id].event_id for event_id in new)

    # -- reading

    def read(self, product: str, questions: tuple[Question, ...], at_us: int) -> Answer:
        """Answer questions; see `Store.read`."""
        # One transaction, so that all figures of an answer are of one moment.
        with self._transaction("BEGIN") as connection:
            return self._answer(connection, product, questions, at_us)

    def _answer(
        self,
        connection: sqlite3.Connection,
        product: str,
        questions: tuple[Question, ...],
        at_us: int,
    ) -> Answer:
        plans = {
            row["name"]: (row["version"], json.loads(row["document"]))
            for row in self._queries.latest_plans(connection, product_id=product)
        }
        if not questions:
            return Answer(plans=plans)
        user_ids = json.dumps([text(question.user_id) for question in questions])
        directory: dict[str, Row] = {
            row["user_id"]: row
            for row in self._queries.users_asked_for(
                connection, product_id=product, user_ids=user_ids
            )
        }
        sessions = {
            row["user_id"]: SessionState(row["session_id"], row["started_us"], row["used_us"])
            for row in self._queries.open_sessions(
                connection, product_id=product, user_ids=user_ids
            )
        }
        models = self._models(connection, product, questions)
        kept = self._kept(connection, product, questions)

        def spent(user_id: str, key: AccountKey) -> int:
            if (user_id, key) in kept:
                return kept[user_id, key]
            return self._fold(connection, product, user_id, key, at_us)

        users = {}
        for question in questions:
            user_id = text(question.user_id)
            users[question.user_id] = replace(
                _user_of(directory.get(user_id)),
                open_session=sessions.get(user_id),
                spent={key: spent(user_id, storable(key)) for key in question.accounts},
                period_start_us=question.period_start_us,
                by_model=models.get(user_id, {}),
            )
        return Answer(users=users, plans=plans)

    def _models(
        self, connection: sqlite3.Connection, product: str, questions: Iterable[Question]
    ) -> dict[str, dict[str, tuple[int, int]]]:
        """Return (tokens, nano-dollars) by user and model, in the period of each question."""
        periods = [
            {"user_id": text(question.user_id), "period_start_us": question.period_start_us}
            for question in questions
        ]
        models: dict[str, dict[str, tuple[int, int]]] = {}
        for row in self._queries.models_of_periods(
            connection, product_id=product, periods=json.dumps(periods)
        ):
            models.setdefault(row["user_id"], {})[row["model"]] = (row["tokens"], row["cost_nano"])
        return models

    def _kept(
        self, connection: sqlite3.Connection, product: str, questions: Iterable[Question]
    ) -> dict[tuple[str, AccountKey], int]:
        """Return the spent of the accounts that are kept, by user and key."""
        keys = [
            account_row(question.user_id, key)
            for question in questions
            for key in question.accounts
        ]
        rows = self._queries.kept_accounts(connection, product_id=product, keys=json.dumps(keys))
        return {(row["user_id"], account_key_of(row)): row["spent"] for row in rows}

    def _fold(
        self,
        connection: sqlite3.Connection,
        product: str,
        user_id: str,
        key: AccountKey,
        at_us: int,
    ) -> int:
        """Return the fold of the events that an account counts, if it is not kept."""
        length_us = rolling_length_us(key.limit.window)
        row = self._queries.sum_of_window(
            connection,
            product_id=product,
            user_id=user_id,
            start_us=key.start_us if length_us is None else at_us - length_us,
            end_us=key.end_us,
            session_id=key.session_id,
            model=key.limit.model,
        )
        return amount(
            key.limit.metric,
            cost_nano=row["cost_nano"],
            tokens=row["tokens"],
            calls=row["calls"],
        )

    def usage(
        self, product: str, start_us: int, end_us: int, tag_key: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return usage by user, model and tag; see `Store.usage`."""
        days = {
            "product_id": product,
            "first_day": day_name(start_us),
            "last_day": day_name(max(end_us - 1, start_us)),
        }
        with self._transaction("BEGIN") as connection:
            if tag_key is None:
                rows = self._queries.usage_by_user_and_model(connection, **days)
            else:
                rows = self._queries.usage_by_tag(connection, **days, tag_key=tag_key)
            return tuple(UsageRow(**row) for row in rows)

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user; see `Store.events`."""
        with self._transaction("BEGIN") as connection:
            rows = self._queries.events_of_user(
                connection, product_id=product, user_id=text(user_id)
            )
            return tuple(event_of(row) for row in rows)

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event and what belongs to it; see `Store.event`."""
        event_id = text(event_id)
        with self._transaction("BEGIN") as connection:
            rows = self._queries.event_and_corrections(
                connection, product_id=product, event_id=event_id
            )
            events = [event_of(row) for row in rows]
            if not events or events[0].event_id != event_id:
                return None
            event, *corrections = events
            prices = self._queries.price_list(
                connection, product_id=product, price_id=event.price_id
            )
            document = None if prices is None else json.loads(prices["document"])
            return BookedEvent(event, tuple(corrections), document)


def _user_of(row: Row | None) -> UserLedger:
    """Return the directory's part of a user; the default for one that is not there yet."""
    if row is None:
        return UserLedger()
    start_us = row["period_start_us"]
    return UserLedger(
        plan=row["plan"],
        own=from_json(row["own"]),
        subscription=None
        if start_us is None
        else Subscription(start_us, row["period_end_us"], row["renews"]),
        sdk_enabled=bool(row["sdk_enabled"]),
    )


_PARENTS_CONNECTIONS: list[sqlite3.Connection] = []
"""Connections of a parent process, kept from the garbage collector of a forked child, which would
close them.
"""


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"SQLite: {error}") from error
