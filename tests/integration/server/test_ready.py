"""`/ready` and a database that answers, but accepts no events."""

from __future__ import annotations

import resource
from pathlib import Path

import psycopg
import pytest
from tests.integration.server.service import NOW_US, Service, event, serving
from tests.postgres import Cluster
from tests.server_process import EVENTS, ServerProcess, usage_events

from paygent.core.event_json import read_events
from paygent.core.messages import Batch
from paygent.server.backend import Bookings
from paygent.store.port import StoreBusy, StoreUnavailable
from paygent.store.postgres import PostgresStore

ROOM_BYTES = 64 << 10
"""What the files may still grow: less than a batch of a thousand events."""

_BATCHES_MAX = 20


def test_ready__after_a_write_found_no_room__is_503_until_one_succeeds(tmp_path: Path) -> None:
    """A real limit of the files' size, which the kernel enforces as it does a full disk."""
    database = tmp_path / "server.db"
    with ServerProcess(tmp_path / "server", f"sqlite:///{database}") as server:
        server.wait_until_ready()
        _, key = server.keys
        assert server.request("POST", EVENTS, usage_events(["a"]), key=key).status == 200
        size = max(path.stat().st_size for path in tmp_path.glob("server.db*"))
        batches = [
            usage_events(f"large-{number}-{each}" for each in range(1_000))
            for number in range(_BATCHES_MAX)
        ]
        pid, unlimited = server.process.pid, resource.RLIM_INFINITY

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + ROOM_BYTES, unlimited))
        assert server.request("GET", "/ready").status == 200
        # The log may begin again in the room that its file has already.
        refused_at = next(
            number
            for number, batch in enumerate(batches)
            if server.request("POST", EVENTS, batch, key=key).status == 503
        )
        refused = server.request("GET", "/ready")
        assert (refused.status, refused.body["detail"]) == (503, "The database accepts no events.")
        assert server.request("GET", "/api/v1/users", key=server.keys[0]).status == 200

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        assert server.request("GET", "/ready").status == 503
        again = server.request("POST", EVENTS, batches[refused_at], key=key)
        assert again.body["accepted"] == 1_000
        assert server.request("GET", "/ready").status == 200


def test_ready__postgresql_became_read_only__is_503_until_it_accepts_events() -> None:
    """As a standby after a failover, or a managed database whose disk is full."""
    with Cluster() as cluster:
        store = PostgresStore(cluster.new_database())
        store.open()
        with serving(store) as service:
            service.book(event(1))
            _set_read_only(cluster, "on")
            assert service.post("/events/batch", [event(2)]).status_code == 503
            assert service.get("/ready", key="").status_code == 503
            _set_read_only(cluster, "off")
            service.book(event(2))
            assert service.get("/ready", key="").status_code == 200
        store.close()


def _set_read_only(cluster: Cluster, value: str) -> None:
    """Make all sessions of a cluster read-only, or not; those that are open notice soon."""
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
    # A new session has the new value; the open ones read the file between two statements.
    with psycopg.connect(cluster.url()) as connection:
        shown = connection.execute("SHOW default_transaction_read_only").fetchone()
        assert shown == (value,)


def test_ready__postgresql_was_away_during_a_write__is_200_when_it_is_back() -> None:
    """The question itself shows whether a connection is back; no booking has to."""
    with Cluster() as cluster:
        store = PostgresStore(cluster.new_database())
        store.open()
        with serving(store) as service:
            service.book(event(1))
            cluster.stop()
            assert service.post("/events/batch", [event(2)]).status_code == 503
            assert service.get("/ready", key="").status_code == 503
            cluster.start()
            assert service.get("/ready", key="").status_code == 200
        store.close()


def test_ready__a_write_failed_long_ago__is_200(
    service: Service,
) -> None:
    """A server that gets no traffic while it is not ready has to get some, to find out."""
    clock = [1_000.0]
    parts = service.app.state.backend
    parts.bookings = Bookings(service.store, now_s=lambda: clock[0])
    with service.store.engine.transaction("acme", writes=True) as sql:
        (pages,) = sql.connection.execute("PRAGMA page_count").fetchone()
        sql.connection.execute(f"PRAGMA max_page_count={pages}")
    events = read_events([event(number) for number in range(1_000)], NOW_US, str)
    with pytest.raises(StoreUnavailable, match="full"):
        parts.bookings.book("acme", [Batch(events=events, at_us=NOW_US)])
    assert service.get("/ready", key="").status_code == 503
    clock[0] += 29.0
    assert service.get("/ready", key="").status_code == 503
    clock[0] += 2.0
    assert service.get("/ready", key="").status_code == 200


def test_ready__another_transaction_was_in_the_way__is_200(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock says nothing about the database."""

    def busy(*_: object) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr(service.store, "book", busy)
    assert service.post("/events/batch", [event()]).status_code == 503
    assert service.get("/ready", key="").status_code == 200
