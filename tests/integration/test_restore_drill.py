"""The restore drill: a backup while events are being written is complete and sound.

Every event that was acknowledged before the backup began is in the restored database, each once,
and its audit is clean.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.postgres import Cluster
from tests.server_process import (
    BATCH,
    EVENTS,
    Ingest,
    ServerProcess,
    assert_each_once,
    usage_events,
)

EVENTS_BEFORE = 200  # and as many after; enough for the backup to meet running transactions


class Drill:
    """A server that is written to while `back_up` runs.

    Attributes:
        key: The SDK key of the server.
    """

    def __init__(self, folder: Path, database_url: str) -> None:
        self._server = ServerProcess(folder, database_url).wait_until_ready()
        _, self.key = self._server.keys

    def acknowledged_before(self, back_up: Callable[[], None]) -> list[str]:
        """Make a backup amid writing; return the ids that were acknowledged before it began."""
        ingest = Ingest(self._server, self.key)
        ingest.wait_for(EVENTS_BEFORE)
        before = list(ingest.acknowledged)
        back_up()
        ingest.wait_for(EVENTS_BEFORE)
        assert len(ingest.end()) > len(before)
        return before

    def close(self) -> None:
        """Kill the server: a backup must not depend on how it ends."""
        self._server.kill()


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Callable[[str], Drill]]:
    """Start drills on a database."""
    drills: list[Drill] = []

    def start(database_url: str) -> Drill:
        drills.append(Drill(tmp_path / "server", database_url))
        return drills[-1]

    yield start
    for each in drills:
        each.close()


def vacuum_into(live: sqlite3.Connection, copy: str) -> None:
    """Make a compact copy."""
    live.execute("VACUUM INTO ?", (copy,))


def copy_pages(live: sqlite3.Connection, copy: str) -> None:
    """Copy page by page, as `.backup` does."""
    with sqlite3.connect(copy) as backup:
        live.backup(backup, pages=20, sleep=0.001)
    backup.close()


@pytest.mark.parametrize("back_up", [vacuum_into, copy_pages])
def test_drill__sqlite__is_restored_complete_and_serves(
    tmp_path: Path,
    drill: Callable[[str], Drill],
    back_up: Callable[[sqlite3.Connection, str], None],
) -> None:
    """The restored server knows the key, and knows which events it has."""
    path, copy = tmp_path / "server.db", tmp_path / "backup.db"
    live = drill(f"sqlite:///{path}")

    def copy_database() -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        back_up(connection, str(copy))
        connection.close()

    before = live.acknowledged_before(copy_database)
    live.close()
    url = f"sqlite:///{copy}"
    assert_each_once(url, before)
    with ServerProcess(tmp_path / "restored", url) as server:
        server.wait_until_ready()
        events = usage_events(before[-BATCH:])
        answer = server.request("POST", EVENTS, events, key=live.key)
        assert (answer.status, answer.body) == (200, {"accepted": 0, "duplicates": BATCH})


def test_drill__postgres_dump__is_restored_complete(
    postgres: Cluster, postgres_url: str, tmp_path: Path, drill: Callable[[str], Drill]
) -> None:
    """`pg_dump` reads one moment; a second database gets it."""
    dump = tmp_path / "paygent.dump"
    before = drill(postgres_url).acknowledged_before(
        lambda: run(postgres, "pg_dump", "--format=custom", f"--file={dump}", postgres_url)
    )
    restored = postgres.new_database()
    run(postgres, "pg_restore", "--exit-on-error", "--no-owner", "--dbname", restored, str(dump))
    assert_each_once(restored, before)


def test_drill__postgres_files__are_restored_complete(
    postgres: Cluster, postgres_url: str, drill: Callable[[str], Drill]
) -> None:
    """`pg_basebackup` copies the cluster with the log that makes it consistent; a second server
    starts on the copy.
    """
    restored = Cluster()
    shutil.rmtree(restored.data)

    def copy_cluster() -> None:
        options = ["--checkpoint", "fast", "--wal-method", "stream", "--no-sync"]
        data = str(restored.data)
        run(postgres, "pg_basebackup", "--dbname", postgres_url, "--pgdata", data, *options)

    before = drill(postgres_url).acknowledged_before(copy_cluster)
    owner = restored.folder.stat()  # PostgreSQL refuses files of another user
    for path in (restored.data, *restored.data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    database = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    with restored:
        assert_each_once(restored.url(str(database)), before)


def run(cluster: Cluster, program: str, *arguments: str) -> None:
    """Run a program of PostgreSQL, which must succeed."""
    done = subprocess.run(
        [cluster.programs / program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
