"""The embedded store: SQLite through the standard library, in WAL mode.

One instance holds one connection, used under a lock. Processes share the file: writers take turns
with `BEGIN IMMEDIATE` and wait for each other only briefly, because SQLite's own waiting is unfair
(1.3 s was measured) and a batch that could not be stored is sent again a moment later. After a
commit the events survive any death of the process; the journal keeps them until then.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    BookedEvent,
    DefaultPlanRecord,
    PlanRecord,
    PriceRecord,
    Question,
    SessionState,
    UserLedger,
)
from paygent.core.notices import Notice
from paygent.core.period import Subscription, day_name, rolling_length_us
from paygent.core.report import UsageRow
from paygent.failopen import diagnostics
from paygent.store.port import PlanUsers, StoreBusy, StoreUnavailable, UserActivity
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
from paygent.store.sqlite_file import (
    SQL_FOLDER,
    closed_on_failure,
    create_private,
    migrate,
    open_read_only,
    refuse_foreign,
    transaction,
)

_NO_FILE = (-1, -1)  # in place of a file's device and inode
BUSY_WAIT_S = 0.1  # how long a statement waits for another process's transaction
_ByModel = dict[str, tuple[int, int]]  # (tokens, nano-dollars) by model
_USERS_PAGE = 1_000
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
    """A store in one SQLite file, or in memory (`:memory:`, for this instance alone)."""

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
        self._file_id: tuple[int, int] | None = None  # None is a store that is not watched
        self._queries: Any = None

    # -- life

    def open(self) -> None:
        """Connect and migrate; see `Store.open`."""
        with self._lock, self._as_unavailable():
            if self._connection is not None:
                if self._is_in_place():
                    return
                diagnostics.warn_once(Notice.DATABASE_REPLACED, self._path)
                self.close()
            if sqlite3.sqlite_version_info < _VERSION_MIN:
                version = sqlite3.sqlite_version
                raise StoreUnavailable(f"SQLite {version} is too old; 3.35 is needed")
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
            with closed_on_failure(connection):
                refuse_foreign(connection)  # first, since the journal's mode is written to the file
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                migrate(connection)
            connection.row_factory = sqlite3.Row
            self._connection = connection
            self._file_id = self._find_file()

    def _is_in_place(self) -> bool:
        """Return whether the connection's file is still the one at its path."""
        return self._file_id is None or self._file_id == self._find_file()

    def _find_file(self) -> tuple[int, int] | None:
        if self._path == ":memory:":
            return None
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return _NO_FILE
        return found.st_dev, found.st_ino

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
    def _as_unavailable(self) -> Iterator[None]:
        """Convert what may pass: locks, a full disk, damage. Other errors of SQLite are about a
        statement's values, which it would reject again.
        """
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            # Damage has no class of its own, but the base of the others.
            is_rejection = isinstance(error, sqlite3.DatabaseError) and type(error) not in (
                sqlite3.DatabaseError,
                sqlite3.OperationalError,
            )
            if is_rejection:
                raise
            # Python 3.10 has no error codes.
            is_lock = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            kind = StoreBusy if is_lock else StoreUnavailable
            raise kind(f"SQLite, {self._path}: {error}") from error

    @contextmanager
    def _transaction(self, product: str, begin: str = "BEGIN") -> Iterator[_Statements]:
        with self._lock, self._as_unavailable():
            self.open()
            connection = self._connection
            assert connection is not None  # `open` raises where it cannot connect
            with transaction(connection, begin):
                yield _Statements(self._queries, connection, product)

    # -- the port's verbs; each is one transaction, so that all its figures are of one moment

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions; see `Store.ingest`."""
        with self._transaction(product, "BEGIN IMMEDIATE") as sql:
            # Accounts are seeded from stored events, so they open before the batch's are stored.
            _write_directory(sql, batch)
            _open_accounts(sql, batch.questions)
            counted = _write_events(sql, batch)
            return replace(_answer(sql, batch.questions, batch.at_us), counted=counted)

    def read(self, product: str, questions: tuple[Question, ...], at_us: int) -> Answer:
        """Answer questions; see `Store.read`."""
        with self._transaction(product) as sql:
            return _answer(sql, questions, at_us)

    def usage(
        self, product: str, start_us: int, end_us: int, tag_key: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return usage by user, model and tag; see `Store.usage`."""
        days = _days(start_us, end_us)
        with self._transaction(product) as sql:
            if tag_key is None:
                rows = sql.usage_by_user_and_model(**days)
            else:
                rows = sql.usage_by_tag(**days, tag_key=text(tag_key))
            return tuple(UsageRow(**row) for row in rows)

    def users(
        self, product: str, start_us: int, end_us: int, users_max: int
    ) -> tuple[UserActivity, ...]:
        """Return users, dearest first; see `Store.users`."""
        days = _days(start_us, end_us)
        with self._transaction(product) as sql:
            rows = sql.dearest_users(**days, users_max=users_max)
            usage = {row["user_id"]: UsageRow(**row) for row in rows}
            for user_id, _ in _users(sql):
                if len(usage) >= users_max:
                    break
                usage.setdefault(user_id, UsageRow(user_id, "", 0, 0, 0, 0))
            events = sql.last_events(user_ids=json.dumps(list(usage)))
            last_us = {row["user_id"]: row["last_us"] for row in events}
            return tuple(UserActivity(row, last_us[row.user_id]) for row in usage.values())

    def plan_users(
        self, product: str, start_us: int, end_us: int, *, besides: str = ""
    ) -> dict[str, PlanUsers]:
        """Return the users of each plan; see `Store.plan_users`."""
        days = _days(start_us, end_us)
        with self._transaction(product) as sql:
            assigned = Counter(plan for user_id, plan in _users(sql) if user_id != besides)
            rows = sql.active_users_of_plans(**days, besides=text(besides))
            active = {row["plan"]: row["users"] for row in rows}
            names = assigned.keys() | active.keys()
            return {name: PlanUsers(assigned[name], active.get(name, 0)) for name in names}

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user; see `Store.events`."""
        with self._transaction(product) as sql:
            return tuple(event_of(row) for row in sql.events_of_user(user_id=text(user_id)))

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event and what belongs to it; see `Store.event`."""
        event_id = text(event_id)
        with self._transaction(product) as sql:
            events = [event_of(row) for row in sql.event_and_corrections(event_id=event_id)]
            if not events or events[0].event_id != event_id:
                return None
            event, *corrections = events
            prices = sql.price_list(price_id=event.price_id)
            document = None if prices is None else json.loads(prices["document"])
            return BookedEvent(event, tuple(corrections), document)


class _Statements:
    """The named statements as methods, inside one transaction and for one product."""

    def __init__(self, queries: Any, connection: sqlite3.Connection, product: str) -> None:
        self._queries = queries
        self._connection = connection
        self._product = product

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._queries, name), self._connection, product_id=self._product)

    def insert_events(self, events: Iterable[Event]) -> None:
        """Insert rows, each of which names the product itself."""
        rows = [event_row(self._product, event) for event in events]
        self._queries.insert_events(self._connection, rows)


# -- writing


def _write_directory(sql: _Statements, batch: Batch) -> None:
    for record in batch.directory:
        if isinstance(record, PlanRecord):
            document = json.dumps(record.document, sort_keys=True)
            sql.add_plan(name=text(record.name), document=document, at_us=record.at_us)
        elif isinstance(record, AssignRecord):
            _assign_plan(sql, record)
        elif isinstance(record, DefaultPlanRecord):
            sql.put_default_plan(default_plan=text(record.plan), at_us=record.at_us)
        elif isinstance(record, PriceRecord):
            document = json.dumps(record.document, sort_keys=True)
            sql.add_price_list(
                price_id=text(record.price_id), document=document, at_us=record.at_us
            )
        else:
            sql.put_session(
                user_id=text(record.user_id),
                session_id=text(record.session_id),
                implicit=int(record.implicit),
                started_us=record.started_us,
                used_us=record.used_us,
                ended_us=record.ended_us,
            )


def _assign_plan(sql: _Statements, record: AssignRecord) -> None:
    period = record.subscription
    sql.assign_plan(
        user_id=text(record.user_id),
        plan=text(record.plan),
        own=None if record.own is None else json.dumps(record.own, sort_keys=True),
        period_start_us=period.start_us if period else None,
        period_end_us=period.end_us if period else None,
        renews=period.renews if period else None,
        at_us=record.at_us,
        keeps=int(record.keeps),
    )


def _open_accounts(sql: _Statements, questions: Iterable[Question]) -> None:
    keys = [
        account_row(question.user_id, key)
        for question in questions
        for key in question.accounts
        if rolling_length_us(key.limit.window) is None  # rolling sums are read from events
    ]
    if keys:
        sql.open_accounts(keys=json.dumps(keys))


def _write_events(sql: _Statements, batch: Batch) -> frozenset[str]:
    """Store the events that are new, count them, and return their ids."""
    # Claimed under the id that is stored, which may differ from the one that was sent.
    by_id = {text(event.event_id): event for event in batch.events}
    if not by_id:
        return frozenset()
    claimed = sql.claim_ids(ids=json.dumps(list(by_id)))
    new = sorted(row["event_id"] for row in claimed)  # a fixed order, whatever the plan
    if not new:
        return frozenset()
    ids = json.dumps(new)
    sql.insert_events(by_id[event_id] for event_id in new)
    # Corrections take their place and their differences first; then everything is counted.
    for event_id in new:
        if by_id[event_id].corrects is not None:  # few, so each may have its own statement
            sql.adopt_originals(event_id=event_id)
    for event_id in new:
        if by_id[event_id].restates:
            sql.take_differences(event_id=event_id)
    sql.clear_restated(ids=ids)
    sql.add_users(ids=ids, at_us=batch.at_us)
    sql.use_sessions(ids=ids)
    sql.book_accounts(ids=ids)
    sql.roll_up_days(ids=ids)
    sql.roll_up_resolved(ids=ids)
    sql.roll_up_periods(ids=ids)
    return frozenset(by_id[event_id].event_id for event_id in new)


# -- reporting


def _days(start_us: int, end_us: int) -> dict[str, str]:
    """Return the first and the last UTC day of a span of time, as parameters."""
    return {
        "first_day": day_name(start_us),
        "last_day": day_name(max(end_us - 1, start_us)),
    }


def _users(sql: _Statements) -> Iterator[tuple[str, str]]:
    """Yield every user of a product with the assigned plan ("" without one), in order of ids."""
    after = ""  # pages, so that whoever needs few users reads few
    while page := list(sql.users_page(after=after, users_max=_USERS_PAGE)):
        for row in page:
            yield row["user_id"], row["plan"] or ""
        after = page[-1]["user_id"]


# -- answering


def _answer(sql: _Statements, questions: tuple[Question, ...], at_us: int) -> Answer:
    plans = {
        row["name"]: (row["version"], json.loads(row["document"])) for row in sql.latest_plans()
    }
    default_plan = _default_plan(sql)
    if not questions:
        return Answer(plans=plans, default_plan=default_plan)
    user_ids = json.dumps([text(question.user_id) for question in questions])
    directory = {row["user_id"]: row for row in sql.users_asked_for(user_ids=user_ids)}
    sessions = {
        row["user_id"]: SessionState(row["session_id"], row["started_us"], row["used_us"])
        for row in sql.open_sessions(user_ids=user_ids)
    }
    models = _models(sql, questions)
    kept = _kept(sql, questions)

    def figures_of(user_id: str, key: AccountKey) -> tuple[int, int]:
        if (user_id, key) in kept:
            return kept[user_id, key]
        return _fold(sql, user_id, key, at_us)

    users = {}
    for question in questions:
        user_id = text(question.user_id)
        accounts = {key: figures_of(user_id, storable(key)) for key in question.accounts}
        users[question.user_id] = replace(
            _user_of(directory.get(user_id)),
            open_session=sessions.get(user_id),
            spent={key: figures[0] for key, figures in accounts.items()},
            shadow={key: figures[1] for key, figures in accounts.items() if figures[1]},
            period_start_us=question.period_start_us,
            by_model=models.get(user_id, {}),
        )
    return Answer(users=users, plans=plans, default_plan=default_plan)


def _default_plan(sql: _Statements) -> str | None:
    row = sql.default_plan()
    return None if row is None else str(row["default_plan"])


def _user_of(row: Row | None) -> UserLedger:
    """Return the directory's part of a user; the default for one that is not there yet."""
    if row is None:
        return UserLedger()
    subscription = None
    if row["period_start_us"] is not None:
        subscription = Subscription(row["period_start_us"], row["period_end_us"], row["renews"])
    return UserLedger(row["plan"], from_json(row["own"]), subscription, bool(row["sdk_enabled"]))


def _models(sql: _Statements, questions: Iterable[Question]) -> dict[str, _ByModel]:
    """Return usage by user and model, in the period of each question."""
    periods = [
        {"user_id": text(question.user_id), "period_start_us": question.period_start_us}
        for question in questions
    ]
    models: dict[str, _ByModel] = {}
    for row in sql.models_of_periods(periods=json.dumps(periods)):
        models.setdefault(row["user_id"], {})[row["model"]] = (row["tokens"], row["cost_nano"])
    return models


def _kept(
    sql: _Statements, questions: Iterable[Question]
) -> dict[tuple[str, AccountKey], tuple[int, int]]:
    """Return spent and shadow of the accounts that are kept, by user and key."""
    keys = [
        account_row(question.user_id, key) for question in questions for key in question.accounts
    ]
    rows = sql.kept_accounts(keys=json.dumps(keys))
    return {(row["user_id"], account_key_of(row)): (row["spent"], row["shadow"]) for row in rows}


def _fold(sql: _Statements, user_id: str, key: AccountKey, at_us: int) -> tuple[int, int]:
    """Return spent and shadow of an account that is not kept: the folds of the events it counts."""
    length_us = rolling_length_us(key.limit.window)
    sums = sql.sum_of_window(
        user_id=user_id,
        start_us=key.start_us if length_us is None else at_us - length_us,
        end_us=key.end_us,
        session_id=key.session_id,
        model=key.limit.model,
    )
    names = ("cost_nano", "tokens", "calls")
    spent = amount(key.limit.metric, **{name: sums[name] for name in names})
    return spent, amount(key.limit.metric, **{name: sums["shadow_" + name] for name in names})


# Of a parent process, kept from the garbage collector of a forked child, which would close them.
_PARENTS_CONNECTIONS: list[sqlite3.Connection] = []
