"""The embedded engine: SQLite through the standard library, in WAL mode.

One instance holds one connection, used under a lock; that of a server has others to read with,
which neither wait for a writer nor delay it. Processes share the file: writers take turns with
`BEGIN IMMEDIATE` and wait for each other only briefly, because SQLite's own waiting is unfair
(1.3 s was measured) and a batch that could not be stored is sent again a moment later. After a
commit the events survive any death of the process; where a server acknowledges journals of other
hosts, commits also survive a power failure (`durable`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from paygent.core.notices import Notice
from paygent.failopen import diagnostics
from paygent.store.directory import wall_clock_us
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy, StoreUnavailable
from paygent.store.rows import EVENT_COLUMNS
from paygent.store.sqlite_file import (
    closed_on_failure,
    create_private,
    migrate,
    open_read_only,
    refuse_foreign,
    transaction,
)
from paygent.store.statements import Statements, load_queries

_CHECKPOINT_PAGES = 8_000
"""Pages of the log (32 MB) after which it is written back: a page that changed in many transactions
is written once, and few commits wait for the disk.
"""

_CHECKPOINT_PAGES_DURABLE = 32_000
"""The same for a server (128 MB), which writes more and has the disk for it."""

_CACHE_KIB = 32_768  # pages of the users of some thousand calls; memory is used as it is needed
_NO_FILE = (-1, -1)  # in place of a file's device and inode
BUSY_WAIT_S = 0.1  # how long a statement waits for another process's transaction
_FORK_WAIT_S = 1.0  # for a running transaction; they take milliseconds
_VERSION_MIN = (3, 35, 0)  # RETURNING
_INSERT_EVENTS = (
    f"INSERT INTO events ({', '.join(EVENT_COLUMNS)})"  # noqa: S608 - names of columns
    f" VALUES ({', '.join('?' for _ in EVENT_COLUMNS)})"
)


class SqliteStore(SqlStore):
    """A store in one SQLite file, or in memory (`:memory:`, for this instance alone)."""

    engine: SqliteEngine

    def __init__(
        self,
        path: str,
        *,
        busy_wait_s: float = BUSY_WAIT_S,
        read_only: bool = False,
        durable: bool = False,
        readers: int = 0,
        cache_kib: int = _CACHE_KIB,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        """Remember where the file is; see `SqliteEngine`."""
        engine = SqliteEngine(
            path,
            busy_wait_s=busy_wait_s,
            read_only=read_only,
            durable=durable,
            readers=readers,
            cache_kib=cache_kib,
        )
        super().__init__(engine, now_us=now_us)


class SqliteEngine:
    """A SQLite database; see `Engine`."""

    def __init__(
        self,
        path: str,
        *,
        busy_wait_s: float = BUSY_WAIT_S,
        read_only: bool = False,
        durable: bool = False,
        readers: int = 0,
        cache_kib: int = _CACHE_KIB,
    ) -> None:
        """Remember where the file is; nothing is opened before `open`.

        Args:
            path: File path, or ":memory:".
            busy_wait_s: Longest wait for another process's transaction, in seconds.
            read_only: Whether nothing may be created, migrated or written: for reading the store of
                an application that may be running.
            durable: Whether a commit reaches the disk before it is acknowledged.
            readers: Connections that reading transactions have to themselves; 0 reads with the
                writer's. A store in memory has no others.
            cache_kib: Pages that the writer keeps in memory.
        """
        self._path = path
        self._cache_kib = cache_kib
        self._read_only = read_only
        self._durable = durable
        self._busy_wait_s = busy_wait_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._paused_by: int | None = None
        self._file_id: tuple[int, int] | None = None  # None is a store that is not watched
        self._readers = 0 if path == ":memory:" else readers
        self._reading = threading.BoundedSemaphore(max(self._readers, 1))
        self._paused_readers = 0
        self._idle_readers: list[sqlite3.Connection] = []

    def open(self) -> None:
        """Connect and migrate; see `Engine.open`."""
        with self._lock, self._as_unavailable():
            if self._connection is not None:
                if self._is_in_place():
                    return
                diagnostics.warn_once(Notice.DATABASE_REPLACED, self._path)
                self.close()
            if sqlite3.sqlite_version_info < _VERSION_MIN:
                version = sqlite3.sqlite_version
                raise StoreUnavailable(f"SQLite {version} is too old; 3.35 is needed")
            if self._read_only:
                self._connection = open_read_only(self._path, self._busy_wait_s)
                return
            if self._path != ":memory:":
                create_private(self._path)
            connection = self._connect()
            with closed_on_failure(connection):
                refuse_foreign(connection)  # first, since the journal's mode is written to the file
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
                pages = _CHECKPOINT_PAGES_DURABLE if self._durable else _CHECKPOINT_PAGES
                connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
                connection.execute(f"PRAGMA cache_size=-{self._cache_kib}")
                migrate(connection)
            connection.row_factory = sqlite3.Row
            self._connection = connection
            self._file_id = self._find_file()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=self._busy_wait_s, isolation_level=None, check_same_thread=False
        )

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
        """Close the connection; see `Engine.close`."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            while self._idle_readers:
                self._idle_readers.pop().close()

    def pause_for_fork(self) -> None:
        """Close the connection before a fork; see `Store.pause_for_fork`.

        SQLite keeps its file locks by process and file: a child that inherits a connection takes
        the parent's locks for its own, and two processes that both seem to hold a lock corrupt the
        file. A closed connection is not inherited.
        """
        # Those who read give their connections back first.
        taken = sum(self._reading.acquire(timeout=_FORK_WAIT_S) for _ in range(self._readers))
        if not self._lock.acquire(timeout=_FORK_WAIT_S):
            self._release_readers(taken)
        else:
            self._paused_by, self._paused_readers = threading.get_ident(), taken
            if self._path != ":memory:":
                self.close()

    def resume_after_fork(self) -> None:
        """Let the parent go on; see `Store.resume_after_fork`."""
        # Another thread may have begun a fork meanwhile and timed out: it holds nothing.
        if self._paused_by == threading.get_ident():
            self._paused_by = None
            self._lock.release()
            self._release_readers(self._paused_readers)

    def _release_readers(self, count: int) -> None:
        for _ in range(count):
            self._reading.release()

    def forget_after_fork(self) -> None:
        """Drop the parent's connection without closing it; see `Store.forget_after_fork`.

        There is one only for a store in memory, and where the fork timed out on a transaction.
        Closing it here would release the parent's file locks.
        """
        self._paused_by = None
        if self._connection is not None:
            _PARENTS_CONNECTIONS.append(self._connection)
        self._connection = None
        _PARENTS_CONNECTIONS.extend(self._idle_readers)
        self._idle_readers = []
        self._lock = threading.RLock()
        self._reading = threading.BoundedSemaphore(max(self._readers, 1))

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
    def transaction(self, product_id: str, *, writes: bool = False) -> Iterator[Statements]:
        """Run a block in a transaction; see `Engine.transaction`."""
        taken = self._reader() if self._readers and not writes else self._writer()
        queries = load_queries("sqlite")
        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
        with self._as_unavailable(), taken as connection, transaction(connection, begin):
            yield Statements(queries, connection, product_id)

    @contextmanager
    def _writer(self) -> Iterator[sqlite3.Connection]:
        """Take the one connection that writes."""
        with self._lock:
            self.open()
            connection = self._connection
            assert connection is not None  # `open` raises where it cannot connect
            yield connection

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Take a connection that only reads; the others wait for one."""
        with self._reading:
            with self._lock:
                self.open()
                connection = self._idle_readers.pop() if self._idle_readers else None
            if connection is None:
                connection = self._connect()
                with closed_on_failure(connection):
                    connection.execute("PRAGMA query_only=ON")
                connection.row_factory = sqlite3.Row
            with closed_on_failure(connection):
                yield connection
            with self._lock:
                if self._connection is None:
                    connection.close()  # the store was closed meanwhile
                else:
                    self._idle_readers.append(connection)

    def insert_events(self, sql: Statements, rows: Sequence[list[Any]]) -> None:
        """Insert rows of events; see `Engine.insert_events`."""
        sql.connection.executemany(_INSERT_EVENTS, rows)


# Of a parent process, kept from the garbage collector of a forked child, which would close them.
_PARENTS_CONNECTIONS: list[sqlite3.Connection] = []
