"""The PostgreSQL of the tests: what they rely on, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg
import pytest
from tests.postgres import Cluster
from tests.promises.scripts import read_line, start

END_TIMEOUT_S = 30.0

OPEN_CLUSTER = """
from tests.postgres import Cluster
cluster = Cluster()
cluster.start()
print(cluster.pid, cluster.folder, flush=True)
input()
"""


def is_running(pid: int) -> bool:
    """Return whether a process exists that has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_postgres__the_server__is_version_18(postgres: Cluster) -> None:
    """The version is the one that is supported."""
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("SELECT version()").fetchone()
    assert row is not None
    assert row[0].startswith("PostgreSQL 18")


def test_postgres__a_new_database__is_empty_and_in_utf8_with_locale_c(postgres_url: str) -> None:
    """Text sorts by its bytes, and no table is there yet."""
    with psycopg.connect(postgres_url) as connection:
        locale = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchone()
        tables = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
        assert locale == ("UTF8", "C", "C")
        assert tables.fetchall() == []


def test_postgres__all_databases_dropped__are_gone(postgres: Cluster) -> None:
    """As at the end of each test: hundreds of databases would fill the machine's memory."""
    urls = [postgres.new_database() for _ in range(2)]
    postgres.drop_databases()
    for url in urls:
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)
    postgres.drop_databases()  # there are none left


def test_postgres__two_databases__are_separate(postgres: Cluster) -> None:
    """A table of one database does not exist in the other."""
    first, second = postgres.new_database(), postgres.new_database()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE mark (id int)")
    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT to_regclass('mark')").fetchone() == (None,)


def test_postgres__a_dropped_database__is_gone(postgres: Cluster) -> None:
    """Dropping disconnects a client and removes the database."""
    url = postgres.new_database()
    with psycopg.connect(url) as connection:
        postgres.drop_database(url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_cluster__durable_or_not__waits_for_the_disk_or_does_not(postgres: Cluster) -> None:
    """Only a durable cluster is set to write a commit to disk before it acknowledges it."""
    query = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
    with psycopg.connect(postgres.url()) as connection:
        assert connection.execute(query).fetchone() == ("off", "off")
    with Cluster(durable=True) as durable, psycopg.connect(durable.url()) as connection:
        assert connection.execute(query).fetchone() == ("on", "on")


def test_cluster__killed_and_started__has_what_was_committed_and_nothing_else() -> None:
    """After SIGKILL a restart on the same folder recovers the commits, under the same URL."""
    with Cluster(durable=True) as cluster:
        url, killed = cluster.new_database(), cluster.pid
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE mark (id int)")
            connection.execute("INSERT INTO mark VALUES (1)")
            connection.commit()
            connection.execute("INSERT INTO mark VALUES (2)")
            cluster.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.commit()
        assert not is_running(killed)
        assert "shutdown request" not in (cluster.folder / "log").read_text()
        cluster.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT id FROM mark").fetchall() == [(1,)]
            assert cluster.pid != killed


def test_cluster__a_setting_that_the_server_refuses__fails_with_its_log() -> None:
    """A server that ends at its start is reported with its reason, and removed."""
    cluster = Cluster(settings={"max_connections": "none"})
    with pytest.raises(RuntimeError, match='invalid value for parameter "max_connections"'):
        cluster.start()
    cluster.close()
    assert not cluster.folder.exists()


def test_cluster__its_process_interrupted_or_killed__leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes open clusters at the same moment, without a home, and are ended by signals."""
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    processes = [start(OPEN_CLUSTER, flags=("-W", "error")) for _ in signals]
    opened = [read_line(process).split() for process in processes]
    servers = [(int(pid), Path(folder)) for pid, folder in opened]
    assert all(is_running(pid) and folder.exists() for pid, folder in servers)
    assert len({folder for _, folder in servers}) == len(signals)
    for process, sign in zip(processes, signals, strict=True):
        os.kill(process.pid, sign)
        _, log = process.communicate(timeout=END_TIMEOUT_S)
        assert "Warning" not in log
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(is_running(pid) or folder.exists() for pid, folder in servers):
        assert time.monotonic() < deadline, servers
        time.sleep(0.05)
