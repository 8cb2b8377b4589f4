"""Fixtures: a service on each engine, and one on SQLite where the engine does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.server.service import NOW_US, Service, serving
from tests.postgres import Cluster

from paygent.store.ledger import SqlStore
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty SQLite store."""
    made = SqliteStore(str(tmp_path / "server.db"), readers=4, now_us=lambda: NOW_US)
    made.open()
    yield made
    made.close()


@pytest.fixture
def service(store: SqlStore) -> Iterator[Service]:
    """A service on SQLite."""
    with serving(store) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def any_service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service on each engine."""
    made: SqlStore
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        made = PostgresStore(cluster.new_database(), now_us=lambda: NOW_US)
    else:
        made = SqliteStore(str(tmp_path / "server.db"), readers=4, now_us=lambda: NOW_US)
    made.open()
    with serving(made) as running:
        yield running
    made.close()
