"""The engine for a backend that outgrows one machine: PostgreSQL through psycopg 3.

Any number of servers share one database. Writing transactions interleave; they lock the rows of
their users in one order first (`booking.py`), so that they never wait for each other in a circle.
`events` is partitioned by month; what belongs to no month's partition is in `events_other`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from paygent.core.period import calendar_month, day_name
from paygent.store.directory import wall_clock_us
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy, StoreUnavailable
from paygent.store.rows import EVENT_COLUMNS
from paygent.store.statements import (
    Statements,
    load_queries,
    migrations,
    split_statements,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

CONNECTIONS_MAX = 10
"""Connections of one process: 8 that read and 2 that write."""

_CONNECT_WAIT_S = 5.0
_RECONNECT_S = 1.0
"""Time between two attempts to connect to a server that is away. The pool would double it with each
attempt, and find a server that is back after as long as it was away.
"""
_MIGRATION_LOCK = 0x7061_7967_656E_74  # any number; only Paygent takes this advisory lock
_MONTHS_AHEAD = 2  # partitions that exist before their month begins
_PARTITION_RETRY_US = 60 * 10**6
_PARTITION_WAIT = "1s"  # for the tables' locks
_DEADLOCK_TRIES = 3
_SETTINGS = {
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Settings of a transaction, not of a connection, which a pooler may share.

Statements are planned once for any value, and read by key: they are written for that. Planned for
its own values, one about a product that is younger than the server's statistics would be expected
to find a row or two, and read the whole product to find them.
"""

_SET = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _SETTINGS.items())
_BEGIN_READING = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_SET}"  # one moment
_BEGIN_WRITING = f"BEGIN ISOLATION LEVEL READ COMMITTED; {_SET}"  # fresh after each lock
_PREPARED_MAX = 200  # statements that a connection keeps planned; there are about 100
_LOGGER = logging.getLogger("psycopg")  # the driver's and, below it, its pool's
_QUIET = logging.NullHandler()
"""Without a handler, Python prints warnings as plain text. A server that has configured its logs
still has those of the driver in them; a command has the error, which says the same.
"""

_COPY_EVENTS = f"COPY events ({', '.join(EVENT_COLUMNS)}) FROM STDIN"


class PostgresStore(SqlStore):
    """A store in a PostgreSQL database."""

    engine: PostgresEngine

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = CONNECTIONS_MAX,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        """Remember where the database is; see `PostgresEngine`."""
        super().__init__(
            PostgresEngine(url, connections_max=connections_max, now_us=now_us), now_us=now_us
        )


class PostgresEngine:
    """A PostgreSQL database; see `Engine`. As many threads at once as there are connections."""

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = CONNECTIONS_MAX,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        """Remember where the database is; nothing is opened before `open`.

        Args:
            url: `postgresql://user:password@host:port/database`, or what libpq understands.
            connections_max: Connections of this process; whoever needs one more waits for it.
            now_us: The clock that says for which months partitions are made.
        """
        self._url = url
        self._connections_max = connections_max
        self._now_us = now_us
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Connection[dict[str, Any]]] | None = None
        self._partitions_due_us = 0  # when partitions have to be made
        self._partitioning = threading.Lock()  # of the thread that makes them

    def open(self) -> None:
        """Connect and migrate; see `Engine.open`."""
        _require_driver()
        with self._as_unavailable():
            with self._lock:
                if self._pool is None:
                    self._pool = self._new_pool()
                pool = self._pool
            self._make_partitions(pool)

    def _new_pool(self) -> ConnectionPool[Connection[dict[str, Any]]]:
        """Migrate over a connection outside the pool, then open the pool.

        The connection fails at once and with the reason where the pool would try for
        `_CONNECT_WAIT_S` and raise a time-out, with threads left to stop.
        """
        from psycopg import ProgrammingError, connect
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool

        _LOGGER.addHandler(_QUIET)  # a handler is added once, however often this is called
        options: dict[str, Any] = {
            "row_factory": dict_row,
            "autocommit": True,  # transactions are begun explicitly
            "prepare_threshold": 0,
            "connect_timeout": int(_CONNECT_WAIT_S),
            "application_name": "paygent",
        }
        try:
            conninfo_to_dict(self._url)
        except ProgrammingError:
            # Its message may quote the password.
            raise StoreUnavailable("PostgreSQL: the URL cannot be read") from None
        with closing(connect(self._url, **options)) as connection:
            migrate(connection)
        pool = ConnectionPool(
            self._url,
            kwargs=options,
            min_size=1,
            max_size=self._connections_max,
            timeout=_CONNECT_WAIT_S,
            open=False,
            check=ConnectionPool.check_connection,
            reconnect_timeout=_RECONNECT_S,
            reconnect_failed=ConnectionPool.check,  # starts the next attempt
            configure=_keep_statements,
        )
        pool.open()
        return pool

    def _make_partitions(self, pool: ConnectionPool[Connection[dict[str, Any]]]) -> None:
        """Make the partitions of this month and of those that come next, once a month.

        No transaction waits for the tables' locks, which a backup may have for hours: events of a
        month without a partition are in `events_other`, and the next try is a minute later.
        """
        from psycopg.errors import LockNotAvailable

        now_us = self._now_us()
        month = calendar_month(now_us)
        if self._partitions_due_us > now_us or not self._partitioning.acquire(blocking=False):
            return
        try:
            self._partitions_due_us = now_us + _PARTITION_RETRY_US
            with pool.connection(timeout=_CONNECT_WAIT_S) as connection:
                for _ in range(_MONTHS_AHEAD + 1):
                    make_partition(connection, month.start_us, month.end_us)
                    month = calendar_month(month.end_us)
            self._partitions_due_us = calendar_month(now_us).end_us
        except LockNotAvailable:
            pass  # the next try is due in a minute
        finally:
            self._partitioning.release()

    def close(self) -> None:
        """Close the connections; see `Engine.close`."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def pause_for_fork(self) -> None:
        """Close the connections before a fork: a child would write into the parent's sockets."""
        self.close()

    def resume_after_fork(self) -> None:
        """Continue in the parent; the next use connects again."""

    def forget_after_fork(self) -> None:
        """Start without connections in the child."""
        self._lock = threading.Lock()
        self._partitioning = threading.Lock()
        self._pool = None

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Convert what may pass; other errors are about a statement's values."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:  # also of the pool
            kind = _unavailable_kind(error)
            if kind is None:
                raise
            raise kind(f"PostgreSQL: {_first_line(error)}") from error

    @contextmanager
    def transaction(self, product_id: str, *, writes: bool = False) -> Iterator[Statements]:
        """Run a block in a transaction; see `Engine.transaction`."""
        self.open()
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("PostgreSQL: the store is being closed")
        with self._as_unavailable(), pool.connection(timeout=_CONNECT_WAIT_S) as connection:
            connection.execute(_BEGIN_WRITING if writes else _BEGIN_READING, prepare=False)
            try:
                yield Statements(load_queries("postgres"), connection, product_id)
                connection.execute("COMMIT")
            except BaseException:
                if not connection.closed:
                    connection.execute("ROLLBACK")
                raise

    def insert_events(self, sql: Statements, rows: Sequence[list[Any]]) -> None:
        """Insert rows of events; see `Engine.insert_events`."""
        with sql.connection.cursor() as cursor, cursor.copy(_COPY_EVENTS) as copy:
            for row in rows:
                copy.write_row(row)


def _keep_statements(connection: Connection[dict[str, Any]]) -> None:
    """Let a new connection keep every statement prepared."""
    connection.prepared_max = _PREPARED_MAX


def migrate(connection: Connection[dict[str, Any]]) -> None:
    """Bring a database to the newest schema, in one transaction; servers that start at once wait
    for each other.

    Raises:
        StoreUnavailable: if its schema is newer than this Paygent.
    """
    scripts = migrations("postgres")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM schema_version").fetchone()
        version = 0 if row is None else int(row["version"])
        if version > len(scripts):
            text = f"the database has schema {version}; this Paygent knows up to {len(scripts)}"
            raise StoreUnavailable(text)
        if version == len(scripts):
            return
        for script in scripts[version:]:
            for statement in split_statements(script):
                connection.execute(statement.encode())
        connection.execute("DELETE FROM schema_version")
        connection.execute("INSERT INTO schema_version VALUES (%s)", (len(scripts),))


def make_partition(connection: Connection[dict[str, Any]], start_us: int, end_us: int) -> None:
    """Make the partition of a month, unless it exists.

    Events of a month that came before its partition (from a clock that is ahead) are moved
    out of `events_other` first.
    """
    name = f"events_{day_name(start_us)[:7].replace('-', '_')}"
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{_PARTITION_WAIT}'".encode())
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        found = connection.execute("SELECT to_regclass(%s) AS found", (name,)).fetchone()
        if found is not None and found["found"] is not None:
            return
        connection.execute("LOCK TABLE events_other IN ACCESS EXCLUSIVE MODE")
        connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING ALL)".encode())
        span = {"start": start_us, "end": end_us}
        connection.execute(
            "WITH moved AS (DELETE FROM events_other WHERE at_us >= %(start)s"  # noqa: S608 - a month
            f" AND at_us < %(end)s RETURNING *) INSERT INTO {name} SELECT * FROM moved".encode(),
            span,
        )
        connection.execute(
            f"ALTER TABLE events ATTACH PARTITION {name}"
            f" FOR VALUES FROM ({start_us}) TO ({end_us})".encode()
        )


def _require_driver() -> None:
    """Check that the extra is installed.

    Raises:
        StoreUnavailable: if it is not.
    """
    try:
        import psycopg  # noqa: F401
        import psycopg_pool  # noqa: F401
    except ImportError as error:
        text = "PostgreSQL needs the extra: pip install 'paygent[postgres]'"
        raise StoreUnavailable(text) from error


def _unavailable_kind(error: psycopg.Error) -> type[StoreUnavailable] | None:
    """Return how an error is reported if it may pass; None for a rejection."""
    from psycopg import OperationalError

    state = error.sqlstate or ""
    if state in _BUSY_STATES:
        return StoreBusy
    # Lost connections and the pool's time-outs have no state.
    is_lost = not state and isinstance(error, OperationalError)
    is_away = state[:2] in _AWAY_CLASSES or state in _AWAY_STATES
    return StoreUnavailable if is_lost or is_away else None


_BUSY_STATES = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialization failure, deadlock, lock and statement time-out: others are in the way."""

_AWAY_CLASSES = frozenset({"08", "25", "28", "3D", "53", "57", "58", "XX"})
"""Connection, transaction state, authorization, missing database, resources, operator, system,
internal.
"""

_AWAY_STATES = frozenset({"42P01", "42703", "42501"})
"""Missing table, missing column, no permission: the database is not ready, whatever the values."""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
