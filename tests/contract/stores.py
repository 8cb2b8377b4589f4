"""Stores of every engine for the contract tests of the directory, with a clock that is set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from tests.contract.samples import HOUR_US, NOON_US
from tests.postgres import Cluster

from paygent.store.ledger import SqlStore
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore

_T = TypeVar("_T")

LATER_US = NOON_US + HOUR_US
"""The ledger's time, until a test sets it."""

ENGINES = ("sqlite_file", "sqlite_memory", "postgres")

ODD = "a\0b\ud800'\"%s;--😀"
"""A text that databases do not hold as it is, or might misunderstand."""

ODD_STORED = "a\ufffdb\ufffd'\"%s;--😀"

_THREADS_END_S = 30.0


class Clock:
    """The ledger's clock, which a test sets."""

    def __init__(self) -> None:
        self.at_us = LATER_US

    def __call__(self) -> int:
        return self.at_us


class Stores:
    """Makes stores of one engine, and closes them when the test ends."""

    def __init__(self, engine: str, folder: Path, clock: Clock, cluster: Cluster | None) -> None:
        self.engine = engine
        self._folder = folder
        self._clock = clock
        self._cluster = cluster
        self._numbers = count()
        self._places: dict[int, str] = {}
        self._made: list[SqlStore] = []

    def new(self) -> SqlStore:
        """Return a store on an empty database."""
        if self._cluster is not None:
            return self._open(self._cluster.new_database())
        if self.engine == "sqlite_memory":
            return self._open(":memory:")
        return self._open(str(self._folder / f"{next(self._numbers)}.db"))

    def again(self, store: SqlStore) -> SqlStore:
        """Return another store on the same database; one in memory is its own only store."""
        place = self._places[id(store)]
        return store if place == ":memory:" else self._open(place)

    def _open(self, place: str) -> SqlStore:
        store: SqlStore
        if self._cluster is None:
            store = SqliteStore(place, busy_wait_s=5.0, now_us=self._clock)
        else:
            store = PostgresStore(place, now_us=self._clock)
        store.open()
        self._places[id(store)] = place
        self._made.append(store)
        return store

    def close(self) -> None:
        """Close every store."""
        for store in self._made:
            store.close()


@pytest.fixture
def clock() -> Clock:
    """The ledger's clock."""
    return Clock()


@pytest.fixture(params=ENGINES)
def stores(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Stores]:
    """Any number of stores of one engine."""
    is_postgres = request.param == "postgres"
    cluster = request.getfixturevalue("postgres") if is_postgres else None
    made = Stores(request.param, tmp_path, clock, cluster)
    yield made
    made.close()


@pytest.fixture
def store(stores: Stores) -> SqlStore:
    """One empty store."""
    return stores.new()


def execute(store: SqlStore, statement: str) -> None:
    """Run a statement past the verbs of a store."""
    with store.engine.transaction("", writes=True) as sql:
        sql.connection.execute(statement)


def at_once(*actions: Callable[[], _T]) -> Sequence[_T]:
    """Run actions at the same time, each in a thread, and return their results in order."""
    barrier = threading.Barrier(len(actions))
    results: dict[int, _T] = {}
    failures: list[BaseException] = []

    def run(number: int, action: Callable[[], _T]) -> None:
        try:
            barrier.wait(_THREADS_END_S)
            results[number] = action()
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_THREADS_END_S)
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(actions))]
