"""What is specific to SQLite: locks, damage, schema versions, and its named statements."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import (
    NOON_US,
    PRODUCT,
    ask,
    batch_of,
    make_event,
    period_key,
)

import paygent.store.sqlite as sqlite_module
import paygent.store.sqlite_file as file_module
import paygent.store.statements as statements_module
from paygent.core.event import Event
from paygent.core.messages import Batch
from paygent.store.port import StoreUnavailable
from paygent.store.sqlite import SqliteStore
from paygent.store.statements import SQL_FOLDER, migrations

_ROOT = Path(__file__).parents[3]

_TABLES = {
    name
    for script in migrations("sqlite")
    for name in re.findall(r"^CREATE TABLE (\w+)", script, re.M)
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Path for a store's file."""
    return str(tmp_path / "store.db")


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process that runs the given code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def make_file(path: str) -> None:
    """Make an empty store."""
    store = SqliteStore(path)
    store.open()
    store.close()


# -- other processes


def test_store__locked_by_another_writer__is_unavailable_soon_and_works_later(path: str) -> None:
    """A busy database is unavailable after a short wait; the same batch succeeds later."""
    store = SqliteStore(path, busy_wait_s=0.02)
    store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        store.ingest(PRODUCT, batch_of(make_event("a")))
    assert time.monotonic() - started < 1.0  # a bound far above the wait of 0.02 s
    assert store.read(PRODUCT, ask("ann", period_key()), NOON_US).users["ann"].by_model == {}
    other.execute("ROLLBACK")
    other.close()
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    store.close()


def test_store__locked_while_it_migrates__is_unavailable_and_opens_later(path: str) -> None:
    """A store that could not be opened opens once the lock is released."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("BEGIN IMMEDIATE")
    store = SqliteStore(path, busy_wait_s=0.02)
    with pytest.raises(StoreUnavailable):
        store.open()
    other.execute("ROLLBACK")
    other.close()
    store.open()
    assert store.events(PRODUCT, "ann") == ()
    store.close()


def test_migrate__two_processes_at_once__migrate_once(path: str) -> None:
    """Processes that start together get one complete schema."""
    code = (
        "import sys\n"
        "from paygent.store.port import StoreUnavailable\n"
        "from paygent.store.sqlite import SqliteStore\n"
        "sys.stdin.readline()\n"
        "for _ in range(50):\n"
        "    try:\n"
        "        store = SqliteStore(sys.argv[1])\n"
        "        store.open()\n"
        "        break\n"
        "    except StoreUnavailable:\n"
        "        pass\n"
        "print(len(store.events('acme', 'ann')))\n"
        "store.close()\n"
    )
    processes = [run_python(code, path) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outcomes = [process.communicate(timeout=20) for process in processes]
    assert outcomes == [("0\n", ""), ("0\n", "")]
    with sqlite3.connect(path) as connection:
        assert _tables(connection) == _TABLES
    connection.close()


def test_migrate__another_process_was_first__finds_its_schema_under_the_lock(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is read again under the write lock, so that a migration never runs twice."""
    begin = file_module.transaction
    others = ["BEGIN IMMEDIATE"]

    def after_another(connection: sqlite3.Connection, how: str) -> AbstractContextManager[None]:
        if how in others:
            others.remove(how)
            make_file(path)
        return begin(connection, how)

    monkeypatch.setattr(file_module, "transaction", after_another)
    store = SqliteStore(path)
    store.open()
    assert store.events(PRODUCT, "ann") == ()
    store.close()


# -- files that are no store


def test_open__a_corrupt_file__is_unavailable(path: str) -> None:
    """A file that is not a database is reported as unavailable and not overwritten."""
    Path(path).write_bytes(b"this is no database" * 500)
    with pytest.raises(StoreUnavailable, match="not a database"):
        SqliteStore(path).open()
    assert Path(path).read_bytes() == b"this is no database" * 500


def test_store__damaged_while_it_is_open__is_unavailable(path: str) -> None:
    """Damage found later fails that request, not the process."""
    store = SqliteStore(path)
    store.open()
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.close()
    content = bytearray(Path(path).read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    Path(path).write_bytes(content)
    damaged = SqliteStore(path)
    with pytest.raises(StoreUnavailable):
        damaged.ingest(PRODUCT, batch_of(make_event("b")))
    damaged.close()


def test_open__a_path_that_is_a_folder__is_unavailable(tmp_path: Path) -> None:
    """A path that cannot be a file is reported as unavailable."""
    with pytest.raises(StoreUnavailable, match="unable to open"):
        SqliteStore(str(tmp_path)).open()


def test_open__a_file_in_place_of_the_folder__is_unavailable(tmp_path: Path) -> None:
    """A parent that cannot be a folder is reported as unavailable."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="unable to open"):
        SqliteStore(str(tmp_path / "file" / "store.db")).open()


def test_store__never_opened__opens_at_its_first_use(path: str) -> None:
    """A store connects at its first use."""
    store = SqliteStore(path)
    assert store.read(PRODUCT, (), NOON_US).plans == {}
    store.close()


def test_open__an_old_sqlite__is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RETURNING needs 3.35; without it nothing is made."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreUnavailable, match="too old"):
        SqliteStore(path).open()
    assert not Path(path).exists()


# -- a full disk


def test_ingest__a_disk_that_is_full__leaves_nothing_and_succeeds_when_there_is_room(
    path: str,
) -> None:
    """A batch that does not fit is not stored in part, claims no id, and fits later."""
    store = SqliteStore(path)
    store.open()
    store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann", period_key())))
    pages = _pragma(store, "page_count")
    _pragma(store, f"max_page_count = {pages + 2}")
    batch = batch_of(
        *(make_event(f"e{number}", description="x" * 900) for number in range(100)),
        questions=ask("ann", period_key()),
    )
    with pytest.raises(StoreUnavailable, match="full"):
        store.ingest(PRODUCT, batch)
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a"]
    answer = store.read(PRODUCT, ask("ann", period_key()), NOON_US)
    assert answer.users["ann"].spent == {period_key(): 1_000}
    _pragma(store, "max_page_count = 1000000")
    answer = store.ingest(PRODUCT, batch)
    assert len(answer.counted) == 100
    assert answer.users["ann"].spent == {period_key(): 101_000}
    store.close()


def test_ingest__a_commit_that_fails__can_be_sent_again(path: str) -> None:
    """A disk that fills up at the commit itself leaves no transaction open behind it."""
    code = (
        "import os, resource, signal, sys\n"
        "from paygent.store.port import StoreUnavailable\n"
        "from paygent.store.sqlite import SqliteStore\n"
        "from tests.contract.samples import batch_of, make_event\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = SqliteStore(sys.argv[1])\n"
        "store.ingest('acme', batch_of(make_event('a')))\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "size = os.path.getsize(sys.argv[1] + '-wal')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, hard))\n"
        "batch = batch_of(*(make_event(f'e{number}') for number in range(50)))\n"
        "try:\n"
        "    store.ingest('acme', batch)\n"
        "except StoreUnavailable:\n"
        "    print('unavailable')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "print(len(store.ingest('acme', batch).counted))\n"
    )
    out, err = run_python(code, path).communicate(timeout=20)
    assert (out, err) == ("unavailable\n50\n", "")


def test_ingest__a_failure_that_ends_the_transaction__is_raised_as_it_is(path: str) -> None:
    """SQLite may end a transaction by itself; there is nothing to roll back then."""
    store = SqliteStore(path)
    store.open()
    connection = store.engine._connection
    assert connection is not None  # it was just opened
    connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON rollup_user "
        "BEGIN SELECT RAISE(ROLLBACK, 'disk on fire'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk on fire"):
        store.ingest(PRODUCT, batch_of(make_event("a")))
    connection.execute("DROP TRIGGER refuse")
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    store.close()


def test_ingest__a_commit_that_a_reader_blocks__leaves_no_transaction_open(path: str) -> None:
    """Without shared memory SQLite has no log, and a reader makes a commit fail."""
    store = SqliteStore(path, busy_wait_s=0.02)
    store.open()
    _pragma(store, "journal_mode = DELETE", str)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    with pytest.raises(StoreUnavailable, match="locked"):
        store.ingest(PRODUCT, batch_of(make_event("a")))
    reader.execute("COMMIT")
    reader.close()
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    store.close()


@pytest.mark.parametrize(
    "event",
    [make_event("a", input_tokens=None), make_event("a", input_tokens=2**70)],
    ids=["missing", "beyond 64 bits"],
)
def test_ingest__an_event_that_no_table_takes__is_rejected_and_not_unavailable(
    path: str, event: Event
) -> None:
    """What fails again is not sent again for ever: the journal quarantines it."""
    store = SqliteStore(path)
    with pytest.raises((TypeError, OverflowError, sqlite3.IntegrityError)):
        store.ingest(PRODUCT, batch_of(event))
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    store.close()


# -- schema


def test_migrate__an_empty_file__has_the_whole_schema_and_its_version(path: str) -> None:
    """On an empty file every migration runs, and the file records the last one."""
    make_file(path)
    with sqlite3.connect(path) as connection:
        assert _tables(connection) == _TABLES
        newest = len(list((SQL_FOLDER / "migrations").glob("*.sql")))
        assert connection.execute("PRAGMA user_version").fetchone() == (newest,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_migrate__every_table__leads_its_key_with_the_product(path: str) -> None:
    """Tenants are separate by construction."""
    make_file(path)
    with sqlite3.connect(path) as connection:
        first = {
            table: [name for _, name, *_, rank in _columns(connection, table) if rank == 1]
            for table in _tables(connection)
        }
    connection.close()
    # Events are found by an index that is no key: their ids are unique in `event_ids`.
    others = {"server_secrets": ["name"], "events": []}
    assert first == {table: ["product_id"] for table in _TABLES} | others


def test_migrate__a_newer_schema__is_refused_and_left_alone(path: str) -> None:
    """A file of a newer Paygent is not touched by an older one."""
    make_file(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = Path(path).read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreUnavailable, match="schema 999"):
            SqliteStore(path, read_only=read_only).open()
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("version", [0, 1, 2, 999])
@pytest.mark.parametrize("read_only", [False, True])
def test_open__a_database_of_another_program__is_refused_and_never_written(
    path: str, version: int, read_only: bool
) -> None:
    """Its tables stay its own, whatever version it gives its schema, and so does its journal."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(StoreUnavailable, match="no Paygent database; name another file with"):
        SqliteStore(path, read_only=read_only).open()
    assert Path(path).read_bytes() == before
    assert [file.name for file in Path(path).parent.iterdir()] == ["store.db"]


def test_migrate__a_database_of_another_program__is_refused_under_the_lock(path: str) -> None:
    """Tables that appear between the first look and the migration stay alone, too."""
    connection = sqlite3.connect(path, isolation_level=None)
    file_module.refuse_foreign(connection)
    connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    with pytest.raises(file_module.UnusableFile, match="no Paygent database"):
        file_module.migrate(connection)
    assert _tables(connection) == {"users"}
    connection.close()


def test_open__a_log_whose_index_cannot_be_created__names_both(path: str) -> None:
    """A reader in a read-only folder learns what is missing, and what to do."""
    code = (
        "import os, sys\n"
        "from paygent.store.sqlite import SqliteStore\n"
        "store = SqliteStore(sys.argv[1])\n"  # without a name its connection would be closed
        "store.open()\n"
        "os._exit(0)\n"
    )
    assert run_python(code, path).communicate(timeout=20) == ("", "")
    index = Path(path + "-shm")
    index.unlink()
    index.symlink_to("/none/such")  # root may write anywhere, but creates nothing there
    with pytest.raises(StoreUnavailable, match="has no index") as caught:
        SqliteStore(path, read_only=True).open()
    assert f"{path}-wal has no index ({path}-shm)" in str(caught.value)
    assert f"write permission on the folder {Path(path).parent}" in str(caught.value)
    index.unlink()
    store = SqliteStore(path, read_only=True)
    assert store.events(PRODUCT, "ann") == ()
    store.close()


def test_migrate__a_failure_that_ends_the_transaction__is_reported_as_it_is(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback of nothing must not hide the reason."""
    folder = tmp_path / "sql"
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "0001_a.sql").write_text(
        "CREATE TABLE a (b TEXT UNIQUE);\nINSERT INTO a VALUES ('x');\n"
        "INSERT OR ROLLBACK INTO a VALUES ('x');\n"
    )
    monkeypatch.setattr(statements_module, "SQL_FOLDER", folder)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        SqliteStore(path).open()


def test_migrate__a_migration_that_fails__leaves_the_file_as_it_was(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrations are one transaction: a later start finds the old schema and tries again."""
    folder = tmp_path / "sql"
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "0001_a.sql").write_text("CREATE TABLE a (b TEXT);\nCREATE TABLE a;\n")
    monkeypatch.setattr(statements_module, "SQL_FOLDER", folder)
    with pytest.raises(StoreUnavailable):
        SqliteStore(path).open()
    with sqlite3.connect(path) as connection:
        assert _tables(connection) == set()
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


# -- fork


def test_forget_after_fork__the_connection__is_dropped_and_not_closed(path: str) -> None:
    """A child that closed the parent's connection would release the parent's locks."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    parents = store.engine._connection
    assert parents is not None
    store.forget_after_fork()
    assert tuple(parents.execute("SELECT count(*) FROM events").fetchone()) == (1,)
    assert store.ingest(PRODUCT, batch_of(make_event("b"))).counted == {"b"}
    store.close()
    sqlite_module._PARENTS_CONNECTIONS.remove(parents)
    parents.close()


def test_forget_after_fork__nothing_open__changes_nothing(path: str) -> None:
    """A store that was never used has nothing to drop."""
    store = SqliteStore(path)
    before = list(sqlite_module._PARENTS_CONNECTIONS)
    store.forget_after_fork()
    assert before == sqlite_module._PARENTS_CONNECTIONS


def test_pause_for_fork__the_connection__is_closed_until_the_parent_goes_on(path: str) -> None:
    """A child inherits no connection; the parent's other threads wait, then reconnect."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.pause_for_fork()
    assert store.engine._connection is None
    counted: list[frozenset[str]] = []
    other = threading.Thread(
        target=lambda: counted.append(store.ingest(PRODUCT, batch_of(make_event("b"))).counted)
    )
    other.start()
    other.join(0.05)
    assert counted == []
    store.resume_after_fork()
    other.join(10)
    assert counted == [{"b"}]
    store.resume_after_fork()  # once more changes nothing
    store.close()


def test_pause_for_fork__a_transaction_that_does_not_end__does_not_stop_the_fork(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork goes on after a limited wait; the child then drops the inherited connection."""
    monkeypatch.setattr(sqlite_module, "_FORK_WAIT_S", 0.01)
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.engine._lock:
            inside.set()
            done.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    store.pause_for_fork()
    assert store.engine._connection is not None
    store.resume_after_fork()
    done.set()
    other.join(10)
    assert store.ingest(PRODUCT, batch_of(make_event("b"))).counted == {"b"}
    store.close()


def test_pause_for_fork__two_threads_at_once__each_lets_go_of_what_is_its_own(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that timed out neither releases the other's lock nor keeps it held."""
    monkeypatch.setattr(sqlite_module, "_FORK_WAIT_S", 0.01)
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.pause_for_fork()

    def fork_too() -> None:
        store.pause_for_fork()
        store.resume_after_fork()

    other = threading.Thread(target=fork_too)
    other.start()
    other.join(10)
    assert store.engine._paused_by is not None
    store.resume_after_fork()
    counted: list[frozenset[str]] = []
    third = threading.Thread(
        target=lambda: counted.append(store.ingest(PRODUCT, batch_of(make_event("b"))).counted)
    )
    third.start()
    third.join(10)
    assert counted == [{"b"}]
    store.close()


def test_pause_for_fork__a_store_in_memory__is_kept() -> None:
    """Closing a store in memory would lose it."""
    store = SqliteStore(":memory:")
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.pause_for_fork()
    store.resume_after_fork()
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a"]
    store.close()


def test_open__a_second_connection__leaves_the_first_its_locks(path: str) -> None:
    """A process that opens and closes the file itself gives up every lock that it has on it. Then
    the next process to close its connection takes itself for the last one, and removes the log
    that is still written to: what is committed after that is lost.
    """
    first, second = SqliteStore(path), SqliteStore(path)
    first.ingest(PRODUCT, batch_of(make_event("a")))
    second.open()
    log = Path(path + "-wal")
    before = log.stat().st_ino
    look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(len(list("
    look += "c.execute('SELECT * FROM events')))); c.close()"

    def events_seen_elsewhere() -> str:
        done = subprocess.run(
            [sys.executable, "-c", look, path], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert events_seen_elsewhere() == "1"
    assert log.stat().st_ino == before
    first.ingest(PRODUCT, batch_of(make_event("b")))
    assert events_seen_elsewhere() == "2"
    first.close()
    second.close()
    assert events_seen_elsewhere() == "2"


def test_transaction__an_empty_batch__commits(path: str) -> None:
    """A batch with nothing in it opens no transaction that stays."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, Batch())
    other = SqliteStore(path, busy_wait_s=0.02)
    assert other.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    store.close()
    other.close()


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {str(name) for (name,) in rows}


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"PRAGMA table_info({table})").fetchall()


def _pragma(store: SqliteStore, pragma: str, read: Callable[[Any], Any] = int) -> Any:
    connection = store.engine._connection
    assert connection is not None  # the caller has opened it
    return read(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def test_transaction__of_a_reader_while_the_store_is_closed__ends_with_it(path: str) -> None:
    """A connection that is given back to a closed store is closed, and the next one is new."""
    store = SqliteStore(path, readers=1)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    with store.engine.transaction(PRODUCT) as sql:
        connection = sql.connection
        store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a"]
    store.close()


def test_transaction__readers__neither_write_nor_wait_for_a_writer(path: str) -> None:
    """Each has a connection of its own; one more waits for one of them."""
    store = SqliteStore(path, readers=2)
    store.open()
    with store.engine.transaction(PRODUCT, writes=True), store.engine.transaction(PRODUCT) as sql:
        assert sql.users_page(after="", users_max=1) == []
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            sql.connection.execute("DELETE FROM users")
    store.close()
