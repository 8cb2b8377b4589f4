"""What is specific to the PostgreSQL engine: failures, partitions, settings, forks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from tests.contract.samples import NOON_US, PRODUCT, batch_of, make_event
from tests.postgres import Cluster

from paygent.core.period import calendar_month, to_datetime
from paygent.store.factory import open_store
from paygent.store.port import StoreBusy, StoreUnavailable
from paygent.store.postgres import PostgresStore


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    """A store on an empty database."""
    made = PostgresStore(postgres_url, connections_max=2, now_us=lambda: NOON_US)
    made.open()
    yield made
    made.close()


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return what a statement finds, over a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


# -- failures


def test_open__no_server__is_unavailable_soon_and_leaves_no_thread() -> None:
    """Nothing listens there; the reason is the system's."""
    before = threading.active_count()
    store = PostgresStore("postgresql://paygent:secret@127.0.0.1:9/none")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        store.open()
    assert time.monotonic() - began < 4  # far below the five seconds of a pool
    assert "secret" not in str(caught.value)
    assert threading.active_count() == before


def test_open__without_the_driver__names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever configures PostgreSQL learns what to install."""
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(StoreUnavailable, match=r"paygent\[postgres\]"):
        PostgresStore("postgresql://localhost/none").open()


def test_open__a_newer_schema__is_refused_and_left_alone(
    store: PostgresStore, postgres_url: str
) -> None:
    """A database of a newer Paygent is not touched by an older one."""
    rows(postgres_url, "UPDATE schema_version SET version = 999 RETURNING 1")
    with pytest.raises(StoreUnavailable, match="schema 999"):
        PostgresStore(postgres_url).open()
    assert rows(postgres_url, "SELECT version FROM schema_version") == [(999,)]


def test_open_store__a_failure_after_the_connection__leaves_no_thread(postgres_url: str) -> None:
    """A pool that nobody uses is closed."""
    before = threading.active_count()
    with pytest.raises(OverflowError):
        open_store(postgres_url, now_us=lambda: 10**30)
    assert threading.active_count() == before


def test_open__several_servers_at_once__migrate_once(postgres_url: str) -> None:
    """They start together on an empty database."""
    stores = [PostgresStore(postgres_url, connections_max=1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(PostgresStore.open, stores))
    assert rows(postgres_url, "SELECT version FROM schema_version") == [(1,)]
    for store in stores:
        store.close()


def test_transaction__a_row_that_stays_locked__is_busy(
    store: PostgresStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for too long is told to come back, and nothing is half done."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    begin = "BEGIN; SET LOCAL lock_timeout = '20ms'"
    monkeypatch.setattr("paygent.store.postgres._BEGIN_WRITING", begin)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM users FOR UPDATE")
        with pytest.raises(StoreBusy, match="lock timeout"):
            store.ingest(PRODUCT, batch_of(make_event("b")))
    assert store.ingest(PRODUCT, batch_of(make_event("b"))).counted == {"b"}


def test_transaction__values_that_no_column_takes__are_rejected(store: PostgresStore) -> None:
    """What fails again is not sent again for ever."""
    with pytest.raises(psycopg.Error):
        store.ingest(PRODUCT, batch_of(make_event("a", input_tokens=2**70)))
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}


def test_transaction__a_connection_that_is_cut__is_unavailable_and_then_new(
    store: PostgresStore, postgres_url: str
) -> None:
    """An administrator ends the session in the middle; the next transaction has another one."""
    with pytest.raises(StoreUnavailable), store.engine.transaction(PRODUCT, writes=True) as sql:
        (pid,) = sql.connection.execute("SELECT pg_backend_pid() AS pid").fetchone().values()
        rows(postgres_url, f"SELECT pg_terminate_backend({pid})")
        sql.product()
    assert store.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}


def test_transaction__while_the_store_is_closed__is_unavailable(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that comes in the last moment of a server fails as if the database were away."""
    store.close()
    monkeypatch.setattr(store.engine, "open", lambda: None)
    with pytest.raises(StoreUnavailable, match="is being closed"):
        store.events(PRODUCT, "ann")


def test_transaction__a_server_that_is_killed__is_unavailable_until_it_is_back() -> None:
    """What was acknowledged is there; what was not can be sent again."""
    with Cluster(durable=True) as cluster:
        store = PostgresStore(cluster.new_database(), connections_max=2, now_us=lambda: NOON_US)
        store.ingest(PRODUCT, batch_of(make_event("a")))
        cluster.kill()
        with pytest.raises(StoreUnavailable):
            store.ingest(PRODUCT, batch_of(make_event("b")))
        cluster.start()
        again = batch_of(make_event("a"), make_event("b"))
        assert store.ingest(PRODUCT, again).counted == {"b"}
        store.close()


def test_transaction__its_settings__end_with_it(store: PostgresStore) -> None:
    """A pooler may give the connection to somebody else."""
    show = "SELECT current_setting('plan_cache_mode') || current_setting('lock_timeout') AS found"
    with store.engine.transaction(PRODUCT) as sql:
        inside = sql.connection.execute(show).fetchone()["found"]
        connection = sql.connection
    assert inside == "force_generic_plan5s"
    with psycopg.connect(store.engine._url) as other:
        plain = other.execute(show).fetchone()
    assert plain is not None
    assert plain[0] == "auto0"
    assert not connection.closed


# -- partitions


def partitions(url: str) -> list[str]:
    """Return the tables of events."""
    found = rows(
        url,
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'events'::regclass ORDER BY 1",
    )
    return [name for (name,) in found]


def test_partitions__of_this_month_and_the_next__are_made_at_the_start(
    store: PostgresStore, postgres_url: str
) -> None:
    """Events of another month are kept beside them."""
    assert partitions(postgres_url) == [
        "events_2024_10",
        "events_2024_11",
        "events_2024_12",
        "events_other",
    ]
    early_us = NOON_US - 90 * 86_400 * 10**6
    store.ingest(PRODUCT, batch_of(make_event("a"), make_event("b", at_us=early_us)))
    assert rows(postgres_url, "SELECT event_id FROM events_2024_10") == [("a",)]
    assert rows(postgres_url, "SELECT event_id FROM events_other") == [("b",)]


def test_partitions__of_a_month_that_begins__take_the_events_that_came_early(
    postgres_url: str,
) -> None:
    """A server runs over the end of a month; a sender's clock was ahead of it."""
    now_us = NOON_US
    store = PostgresStore(postgres_url, connections_max=2, now_us=lambda: now_us)
    far_us = calendar_month(NOON_US).end_us + 70 * 86_400 * 10**6
    store.ingest(PRODUCT, batch_of(make_event("ahead", at_us=far_us)))
    assert rows(postgres_url, "SELECT event_id FROM events_other") == [("ahead",)]
    now_us = calendar_month(calendar_month(NOON_US).end_us).end_us
    store.ingest(PRODUCT, batch_of(make_event("a", at_us=now_us)))
    name = f"events_{to_datetime(far_us):%Y_%m}"
    assert name in partitions(postgres_url)
    assert rows(postgres_url, f"SELECT event_id FROM {name}") == [("ahead",)]
    assert rows(postgres_url, "SELECT event_id FROM events_other") == []
    assert {event.event_id for event in store.events(PRODUCT, "ann")} == {"ahead", "a"}
    assert list(store.audit(PRODUCT)) == []
    store.close()


def test_partitions__while_a_backup_has_the_tables_locked__are_made_later(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it meanwhile: events of a month without a partition are kept beside them."""
    monkeypatch.setattr("paygent.store.postgres._PARTITION_WAIT", "20ms")
    now_us = NOON_US
    store = PostgresStore(postgres_url, connections_max=2, now_us=lambda: now_us)
    store.open()
    now_us = calendar_month(calendar_month(NOON_US).end_us).end_us
    with psycopg.connect(postgres_url) as backup:
        backup.execute("LOCK TABLE events, events_other IN ACCESS SHARE MODE")
        assert store.ingest(PRODUCT, batch_of(make_event("a", at_us=now_us))).counted == {"a"}
        assert "events_2025_02" not in partitions(postgres_url)
    now_us += 61 * 10**6
    assert store.ingest(PRODUCT, batch_of(make_event("b", at_us=now_us))).counted == {"b"}
    assert "events_2025_02" in partitions(postgres_url)
    store.close()


# -- forks


def test_fork__of_a_process_with_a_store__gives_each_its_own_connections(
    store: PostgresStore,
) -> None:
    """A child that used the parent's sockets would mix up the answers of both."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.pause_for_fork()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.forget_after_fork()
            counted = store.ingest(PRODUCT, batch_of(make_event("child"))).counted
            status = 0 if counted == {"child"} else 2
        finally:
            os._exit(status)
    store.resume_after_fork()
    assert store.ingest(PRODUCT, batch_of(make_event("parent"))).counted == {"parent"}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a", "child", "parent"]


def test_forget_after_fork__the_pool__is_dropped_and_not_closed(store: PostgresStore) -> None:
    """Closing it in the child would end the parent's sessions."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    parents = store.engine._pool
    assert parents is not None
    store.engine.forget_after_fork()
    assert store.ingest(PRODUCT, batch_of(make_event("b"))).counted == {"b"}
    assert store.engine._pool is not parents
    assert not parents.closed
    parents.close()
