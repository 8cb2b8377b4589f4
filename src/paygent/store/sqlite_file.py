"""The file of a SQLite store: created, migrated, or opened without changing it.

The schema's version is SQLite's `user_version`: the number of migrations that ran. A file of
another program is neither migrated nor read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paygent.store.port import StoreUnavailable
from paygent.store.statements import migrations, split_statements

MARKS = frozenset({"event_ids", "price_lists", "rollup_user", "corrections"})
"""Tables of every schema; a file that has them is known to be Paygent's."""


class UnusableFile(StoreUnavailable):
    """A file that Paygent cannot use before somebody has done something about it.

    Attributes:
        reason: What is wrong with it.
        remedy: What to do.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        """Join the reason and the remedy to the message."""
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def create_private(path: str) -> None:
    """Create a missing database file, readable by its owner alone.

    An existing file is never opened here: closing it again would drop every lock that this process
    has on it through another connection, and the process that closes its own last would remove the
    log that others write to.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        os.close(os.open(path, how, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        text = f"SQLite, {path}: unable to open the file ({type(error).__name__})"
        raise StoreUnavailable(text) from error


def refuse_foreign(connection: sqlite3.Connection) -> None:
    """Refuse a database of another program before anything is written to it.

    Args:
        connection: Without an open transaction.

    Raises:
        UnusableFile: if it has tables and no schema of Paygent, or a version without the tables.
    """
    # One moment for both: another process may be migrating a new file.
    with transaction(connection, "BEGIN"):
        _checked_version(connection)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest schema: the scripts of `sql/migrations`, in one transaction.

    Raises:
        UnusableFile: if it is a database of another program.
        StoreUnavailable: if its schema is newer than this Paygent.
    """
    scripts = migrations("sqlite")
    newest = len(scripts)
    if _schema_version(connection) == newest:
        return
    with transaction(connection, "BEGIN IMMEDIATE"):
        # Processes may start together, so the version is read again under the write lock.
        version = _checked_version(connection)
        if version > newest:
            text = f"the file has schema {version}; this Paygent knows up to {newest}"
            raise StoreUnavailable(text)
        for script in scripts[version:]:
            for statement in split_statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Run a block in a transaction that is committed, or rolled back if anything fails.

    Args:
        connection: Without an open transaction.
        begin: The statement that begins it.
    """
    connection.execute(begin)
    # An interruption and a failed commit (a busy reader, a full disk) roll back too: a transaction
    # left open would lock out all writers.
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends one by itself after some errors
            connection.execute("ROLLBACK")
        raise


@contextmanager
def closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    """Close a connection that a block fails to make ready."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def open_read_only(path: str, busy_wait_s: float) -> sqlite3.Connection:
    """Connect to an existing store without changing any of its files; only a log without its index,
    as in a copy, gets one.

    Raises:
        UnusableFile: if it is a database of another program, or the index cannot be created.
        StoreUnavailable: if there is no file, or its schema is another one.
    """
    if not os.path.isfile(path):
        raise StoreUnavailable(f"there is no store at {path}")
    # Without a log beside it no process has it open, and SQLite would create one to read it safely.
    # The log's index is read as it is, or built in memory if its writer died.
    has_log, has_index = os.path.exists(path + "-wal"), os.path.exists(path + "-shm")
    how = "mode=ro" if has_log else "immutable=1"
    if has_index:
        how += "&readonly_shm=1"
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?{how}",
        uri=True,
        timeout=busy_wait_s,
        isolation_level=None,  # the adapter begins transactions itself
        check_same_thread=False,
    )
    with closed_on_failure(connection):
        try:
            refuse_foreign(connection)
        except sqlite3.OperationalError as error:
            if has_log and not has_index and "unable to open" in str(error):
                raise UnusableFile(
                    f"the log {path}-wal has no index ({path}-shm), and it cannot be created here",
                    f"get write permission on the folder {os.path.dirname(path) or '.'}, or copy "
                    "the file and its log to another folder",
                ) from error
            raise
        version = _schema_version(connection)
        newest = len(migrations("sqlite"))
        if version != newest:
            raise StoreUnavailable(
                f"the file has schema {version}; this Paygent reads {newest}"
                + (" (an application that starts on it migrates it)" * (version < newest))
            )
    connection.row_factory = sqlite3.Row
    return connection


def _schema_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _checked_version(connection: sqlite3.Connection) -> int:
    """Return the version of the schema, 0 for an empty database.

    Raises:
        UnusableFile: if the database is another program's.
    """
    version = _schema_version(connection)
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = {name for (name,) in rows}
    if tables if version == 0 else tables.isdisjoint(MARKS):
        raise UnusableFile(
            "the file is no Paygent database",
            "name another file with PAYGENT_DB_PATH, db_path or --db",
        )
    return version
