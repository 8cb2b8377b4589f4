"""The embedded store: SQLite through the standard library, in WAL mode.

One instance holds one connection, used under a lock. Processes share the file: writers take turns
with `BEGIN IMMEDIATE`, and wait for each other a short time only (SQLite's own waiting is unfair:
1.3 s was seen), since a batch that could not be stored now is sent again a moment later. After a
commit the events are safe from any death of the process; the journal keeps them until then.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
from paygent.core.plan import LimitKey
from paygent.core.report import UsageRow
from paygent.store.port import StoreUnavailable

SQL_FOLDER = Path(__file__).parent / "sql"
BUSY_WAIT_S = 0.1
"""How long a statement waits for another process's transaction before it gives up for now."""

_FORK_WAIT_S = 1.0  # for a running transaction; they take milliseconds
_VERSION_MIN = (3, 35, 0)  # RETURNING
_Row = tuple[Any, ...]


def load_queries() -> Any:
    """Return the named statements, those of the shared dialect and SQLite's own."""
    import aiosql  # imported with the first store, not with the package

    text = "\n".join(
        (SQL_FOLDER / name).read_text(encoding="utf-8") for name in ("queries.sql", "sqlite.sql")
    )
    return aiosql.from_str(text, "sqlite3", mandatory_parameters=False)


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
            read_only: Whether nothing may be made, migrated or written: for looking at the store of
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
                self._connection = _open_read_only(self._path, self._busy_wait_s)
                return
            if self._path != ":memory:":
                _keep_private(self._path)
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
        the parent's locks for its own, and two processes that both believe to hold a lock have
        corrupted the file. What is closed is not inherited.
        """
        if self._lock.acquire(timeout=_FORK_WAIT_S):
            self._paused_by = threading.get_ident()
            if self._path != ":memory:":
                self.close()

    def resume_after_fork(self) -> None:
        """Let the parent go on; see `Store.resume_after_fork`."""
        # Another thread may have begun a fork meanwhile and waited in vain: that one holds nothing.
        if self._paused_by == threading.get_ident():
            self._paused_by = None
            self._lock.release()

    def forget_after_fork(self) -> None:
        """Drop the parent's connection without closing it; see `Store.forget_after_fork`.

        There is one only where the fork did not wait for it: a store in memory, or one whose
        transaction took too long. Closing it here would release the parent's file locks.
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
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # -- writing

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions; see `Store.ingest`."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            self._write_directory(connection, product, batch)
            self._open_accounts(connection, product, batch.questions)
            counted = self._write_events(connection, product, batch)
            answer = self._answer(connection, product, batch.questions, batch.at_us)
        return Answer(counted, answer.users, answer.plans)

    def _write_directory(self, connection: sqlite3.Connection, product: str, batch: Batch) -> None:
        for record in batch.directory:
            if isinstance(record, PlanRecord):
                document = json.dumps(record.document, sort_keys=True)
                self._queries.add_plan(
                    connection,
                    product_id=product,
                    name=_text(record.name),
                    document=document,
                    at_us=record.at_us,
                )
            elif isinstance(record, AssignRecord):
                period = record.subscription
                self._queries.assign_plan(
                    connection,
                    product_id=product,
                    user_id=_text(record.user_id),
                    plan=_text(record.plan),
                    own=None if record.own is None else json.dumps(record.own, sort_keys=True),
                    period_start_us=period.start_us if period else None,
                    period_end_us=period.end_us if period else None,
                    renews=period.renews if period else None,
                    at_us=record.at_us,
                    keeps=int(record.keeps),
                )
            elif isinstance(record, PriceRecord):
                self._queries.add_price_list(
                    connection,
                    product_id=product,
                    price_id=_text(record.price_id),
                    document=json.dumps(record.document, sort_keys=True),
                    at_us=record.at_us,
                )
            else:
                self._put_session(connection, product, record)

    def _put_session(
        self, connection: sqlite3.Connection, product: str, record: SessionRecord
    ) -> None:
        self._queries.put_session(
            connection,
            product_id=product,
            user_id=_text(record.user_id),
            session_id=_text(record.session_id),
            implicit=int(record.implicit),
            started_us=record.started_us,
            used_us=record.used_us,
            ended_us=record.ended_us,
        )

    def _open_accounts(
        self, connection: sqlite3.Connection, product: str, questions: Iterable[Question]
    ) -> None:
        keys = [
            _key_row(question.user_id, key)
            for question in questions
            for key in question.accounts
            if rolling_length_us(key.limit.window) is None
        ]
        if keys:
            unique = list(dict.fromkeys(map(tuple, keys)))  # two questions may ask for one account
            self._queries.open_accounts(connection, product_id=product, keys=json.dumps(unique))

    def _write_events(
        self, connection: sqlite3.Connection, product: str, batch: Batch
    ) -> frozenset[str]:
        by_id = {_text(event.event_id): event for event in batch.events}
        if not by_id:
            return frozenset()
        claimed = self._queries.claim_ids(
            connection, product_id=product, ids=json.dumps(list(by_id))
        )
        new = sorted(str(row[0]) for row in claimed)
        if not new:
            return frozenset()
        rows = json.dumps([_event_row(by_id[event_id]) for event_id in new])
        ids = json.dumps(new)
        self._queries.insert_events(connection, product_id=product, rows=rows)
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
            str(name): (int(version), json.loads(document))
            for name, version, document in self._queries.latest_plans(
                connection, product_id=product
            )
        }
        if not questions:
            return Answer(plans=plans)
        user_ids = json.dumps([_text(question.user_id) for question in questions])
        periods = json.dumps(
            [[_text(question.user_id), question.period_start_us] for question in questions]
        )
        directory: dict[str, _Row] = {
            row[0]: row[1:]
            for row in self._queries.users_asked_for(
                connection, product_id=product, user_ids=user_ids
            )
        }
        sessions = {
            row[0]: SessionState(*row[1:])
            for row in self._queries.open_sessions(
                connection, product_id=product, user_ids=user_ids
            )
        }
        models: dict[str, dict[str, tuple[int, int]]] = {}
        for user_id, model, tokens, cost_nano in self._queries.models_of_periods(
            connection, product_id=product, periods=periods
        ):
            models.setdefault(user_id, {})[model] = (tokens, cost_nano)
        kept = self._kept(connection, product, questions)
        users = {}
        for question in questions:
            user_id = _text(question.user_id)
            plan, own, start_us, end_us, renews, enabled = directory.get(
                user_id, (None,) * 5 + (1,)
            )
            users[question.user_id] = UserLedger(
                plan=plan,
                own=None if own is None else json.loads(own),
                subscription=None if start_us is None else Subscription(start_us, end_us, renews),
                sdk_enabled=bool(enabled),
                open_session=sessions.get(user_id),
                spent={
                    key: kept[user_id, _plain(key)]
                    if (user_id, _plain(key)) in kept
                    else self._fold(connection, product, user_id, _plain(key), at_us)
                    for key in question.accounts
                },
                period_start_us=question.period_start_us,
                by_model=models.get(user_id, {}),
            )
        return Answer(users=users, plans=plans)

    def _kept(
        self, connection: sqlite3.Connection, product: str, questions: Iterable[Question]
    ) -> dict[tuple[str, AccountKey], int]:
        """Return what the kept ones of the asked accounts say, by user and key."""
        keys = [
            _key_row(question.user_id, key) for question in questions for key in question.accounts
        ]
        rows = self._queries.kept_accounts(connection, product_id=product, keys=json.dumps(keys))
        return {
            (
                user_id,
                AccountKey(LimitKey(metric, scope, model, rule), session_id, start_us, end_us),
            ): spent
            for user_id, session_id, metric, scope, model, rule, start_us, end_us, spent in rows
        }

    def _fold(
        self,
        connection: sqlite3.Connection,
        product: str,
        user_id: str,
        key: AccountKey,
        at_us: int,
    ) -> int:
        """Return the fold of the events that an account counts, where it is not kept."""
        length_us = rolling_length_us(key.limit.window)
        cost_nano, tokens, calls = self._queries.sum_of_window(
            connection,
            product_id=product,
            user_id=user_id,
            start_us=key.start_us if length_us is None else at_us - length_us,
            end_us=key.end_us,
            session_id=key.session_id,
            model=key.limit.model,
        )
        if key.limit.metric == "calls":
            return int(calls)
        return amount(key.limit.metric, cost_nano=int(cost_nano), tokens=int(tokens))

    def usage(self, product: str, start_us: int, end_us: int) -> tuple[UsageRow, ...]:
        """Return usage by user and model; see `Store.usage`."""
        with self._transaction("BEGIN") as connection:
            rows = self._queries.usage_by_user_and_model(
                connection,
                product_id=product,
                first_day=day_name(start_us),
                last_day=day_name(max(end_us - 1, start_us)),
            )
            return tuple(UsageRow(*row) for row in rows)

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user; see `Store.events`."""
        with self._transaction("BEGIN") as connection:
            rows = self._queries.events_of_user(
                connection, product_id=product, user_id=_text(user_id)
            )
            return tuple(_event(row) for row in rows)

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event and what belongs to it; see `Store.event`."""
        event_id = _text(event_id)
        with self._transaction("BEGIN") as connection:
            rows = self._queries.event_and_corrections(
                connection, product_id=product, event_id=event_id
            )
            found = [_event(row) for row in rows]
            if not found or found[0].event_id != event_id:
                return None
            prices = self._queries.price_list(
                connection, product_id=product, price_id=found[0].price_id
            )
            document = None if prices is None else json.loads(prices[0])
            return BookedEvent(found[0], tuple(found[1:]), document)


_PARENTS_CONNECTIONS: list[sqlite3.Connection] = []
"""Connections of a parent process, kept from being closed by the garbage collector in a forked
child.
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest schema: numbered files in `sql/migrations`, each in its
    transaction.

    Processes may start together: the version is read again under the write lock.

    Raises:
        sqlite3.Error: if the database cannot be written now.
        StoreUnavailable: if a newer Paygent has written this file.
    """
    files = sorted((SQL_FOLDER / "migrations").glob("*.sql"))
    newest = len(files)
    if _schema_version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _schema_version(connection)
        if version > newest:
            raise StoreUnavailable(
                f"the file has schema {version}; this Paygent knows up to {newest}"
            )
        for path in files[version:]:
            for statement in _statements(path.read_text(encoding="utf-8")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _open_read_only(path: str, busy_wait_s: float) -> sqlite3.Connection:
    """Connect to a store that is there, without changing a file of it. Only a log that stands there
    without its index, as in a copy, gets one.

    Raises:
        StoreUnavailable: if it is not there, or of another schema.
        sqlite3.Error: if it cannot be read.
    """
    if not os.path.isfile(path):
        raise StoreUnavailable(f"there is no store at {path}")
    # Without a log beside it nobody has it open, and SQLite would make one to read it safely. The
    # log's index is read as it is, or made in memory where whoever wrote it died.
    how = "mode=ro" if os.path.exists(path + "-wal") else "immutable=1"
    if os.path.exists(path + "-shm"):
        how += "&readonly_shm=1"
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?{how}",
        uri=True,
        timeout=busy_wait_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        version = _schema_version(connection)
        newest = len(list((SQL_FOLDER / "migrations").glob("*.sql")))
        if version != newest:
            raise StoreUnavailable(
                f"the file has schema {version}; this Paygent reads {newest}"
                + (" (an application that starts on it brings it there)" * (version < newest))
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Split a migration into statements (`executescript` would commit the open transaction)."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"SQLite: {error}") from error


def _keep_private(path: str) -> None:
    """Make a database file that is not there yet, for this account of the machine alone.

    One that is there is never opened: closing it again would take away every lock that this process
    has on it through another connection, and whichever process then closes its own last would
    remove the log that others write to.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        os.close(os.open(path, how, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreUnavailable(f"unable to open the file ({type(error).__name__})") from error


def _text(value: str) -> str:
    """Return a text that a database can hold: NUL and halves of surrogate pairs are replaced.

    One odd id must not keep everybody's events from being stored.
    """
    if value.isascii() and "\0" not in value:
        return value
    whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd")


def _plain(key: AccountKey) -> AccountKey:
    return key._replace(session_id=_text(key.session_id)) if key.session_id else key


def _key_row(user_id: str, key: AccountKey) -> list[Any]:
    limit = key.limit
    return [
        _text(user_id),
        _text(key.session_id),
        limit.metric,
        limit.scope,
        limit.model,
        limit.window,
        key.start_us,
        key.end_us,
    ]


def _event_row(event: Event) -> list[Any]:
    return [
        *(_text(value) if isinstance(value, str) else value for value in event[:22]),
        json.dumps(list(event.tool_calls)) if event.tool_calls else None,
        None if event.description is None else _text(event.description),
        json.dumps(dict(event.metadata)) if event.metadata else None,
        json.dumps(dict(event.details)) if event.details else None,
        None if event.corrects is None else _text(event.corrects),
        int(event.restates),
    ]


def _event(row: _Row) -> Event:
    blocked, explicit, tool_calls, description, metadata, details, corrects = row[20:]
    rest = (
        bool(blocked),
        bool(explicit),
        tuple(json.loads(tool_calls)) if tool_calls else (),
        description,
        json.loads(metadata) if metadata else None,
        json.loads(details) if details else None,
        corrects,
        False,  # what restated is a difference now
    )
    return Event._make((*row[:20], *rest))
