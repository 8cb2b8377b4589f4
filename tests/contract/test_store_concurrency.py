"""Two connections at once: whatever they do to the same users, counters are folds of events."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import (
    HOUR_US,
    MONTH,
    NOON_US,
    PRODUCT,
    ask,
    batch_of,
    day_key,
    fold,
    make_correction,
    make_event,
    period_key,
    session_key,
)
from tests.postgres import Cluster

from paygent.core.event import Event
from paygent.core.messages import AssignRecord, Batch, PlanRecord, Question
from paygent.store.corrections import Corrections
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore

LATER_US = NOON_US + HOUR_US
USERS = ("ann", "bob", "cid")
KEYS = (
    period_key(),
    period_key("tokens", "gpt-4o"),
    day_key("calls"),
    session_key("s1"),
    session_key("s2", "tokens"),
)
ROUNDS = 40
"""What each connection does, one transaction after another."""

Open = Callable[[], SqlStore]


@pytest.fixture(params=["sqlite", "postgres"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the same database again and again."""
    opened: list[SqlStore] = []
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        place = cluster.new_database()
    else:
        place = str(tmp_path / "store.db")

    def open_store() -> SqlStore:
        store: SqlStore = (
            PostgresStore(place, connections_max=4, now_us=lambda: LATER_US)
            if request.param == "postgres"
            else SqliteStore(place, busy_wait_s=10, now_us=lambda: LATER_US)
        )
        store.open()
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


class Connection:
    """Does random things to the same users as another connection."""

    def __init__(self, store: SqlStore, name: str, events: list[Event], seed: int) -> None:
        self.store = store
        self.name = name
        self.events = events  # of both connections
        self.random = random.Random(f"{seed}{name}")

    def run(self) -> int:
        """Do everything; return how many events were counted."""
        return sum(self._step(number) for number in range(ROUNDS))

    def _step(self, number: int) -> int:
        choice = self.random.random()
        user_id = self.random.choice(USERS)
        if choice < 0.15:
            plan = self.random.choice(("free", "pro"))
            record = AssignRecord(user_id, plan, None, None, LATER_US - number)
            self.store.ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))
            return 0
        if choice < 0.3:
            plan_record = PlanRecord("pro", {"price": self.random.randrange(3)}, LATER_US - number)
            self.store.ingest(PRODUCT, Batch(records=(plan_record,), at_us=LATER_US))
            return 0
        events = self._events(number)
        keys = tuple(self.random.sample(KEYS, self.random.randrange(len(KEYS))))
        questions = (Question(user_id, keys, MONTH.start_us),)
        self.events.extend(events)
        return len(
            self.store.ingest(
                PRODUCT, Batch(tuple(events), questions=questions, at_us=LATER_US)
            ).counted
        )

    def _events(self, number: int) -> list[Event]:
        """Make new events, some that were sent before, and corrections of any of them."""
        made = [
            make_event(
                f"{self.name}{number}-{each}",
                user_id=self.random.choice(USERS),
                session_id=self.random.choice(("s1", "s2")),
                cost_tokens_nano=self.random.randrange(1_000),
                blocked=self.random.random() < 0.2,
                quality=self.random.choice(("exact", "estimated")),
            )
            for each in range(self.random.randrange(1, 6))
        ]
        known = [event for event in list(self.events) if event.corrects is None]
        for each in range(self.random.randrange(3) if known else 0):
            original = self.random.choice(known)
            correction = make_correction(f"{self.name}{number}c{each}", original)
            made.append(correction._replace(restates=self.random.random() < 0.5))
        return made + self.random.sample(known, min(2, len(known)))


@pytest.mark.parametrize("seed", range(3))
def test_two_connections__any_interleaving__equal_the_fold(open_again: Open, seed: int) -> None:
    """Seeds, bookings, corrections and changes of plan interleave as they like."""
    events: list[Event] = []
    connections = [Connection(open_again(), name, events, seed) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        counted = sum(pool.map(Connection.run, connections))
    store = connections[0].store
    stored = [event for user_id in USERS for event in store.events(PRODUCT, user_id)]
    assert counted == len(stored) == len({event.event_id for event in events})
    for user_id in USERS:
        state = store.read(PRODUCT, (Question(user_id, KEYS, MONTH.start_us),), LATER_US)
        assert state.users[user_id].spent == {key: fold(stored, user_id, key) for key in KEYS}
    assert list(store.audit(PRODUCT)) == []


def test_two_connections__a_seed_beside_a_booking__misses_no_event(open_again: Open) -> None:
    """An account that is opened while an event of its user is being booked counts it."""
    booking, seeding = open_again(), open_again()
    inserted, seeded = threading.Event(), threading.Event()
    insert_events = booking.engine.insert_events

    def insert_slowly(sql: Any, rows: Any) -> None:
        insert_events(sql, rows)
        inserted.set()
        seeded.wait(0.3)  # the other one must not get past the lock meanwhile

    booking.engine.insert_events = insert_slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        booked = pool.submit(booking.ingest, PRODUCT, batch_of(make_event("a")))
        assert inserted.wait(10)
        answer = seeding.ingest(PRODUCT, batch_of(questions=ask("ann", period_key())))
        seeded.set()
        assert booked.result(10).counted == {"a"}
    assert answer.users["ann"].spent == {period_key(): 1_000}


def test_two_connections__the_same_batch__counts_it_once(open_again: Open) -> None:
    """Two servers receive one batch, because its sender did not hear the first."""
    stores = [open_again(), open_again()]
    batch = batch_of(*(make_event(f"e{each}", user_id=USERS[each % 3]) for each in range(100)))
    start = threading.Barrier(2)

    def ingest(store: SqlStore) -> int:
        start.wait(10)
        return len(store.ingest(PRODUCT, batch).counted)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ingest, stores)) in ([0, 100], [100, 0])
    assert list(stores[0].audit(PRODUCT)) == []


def test_two_connections__a_plan_each__make_two_versions(open_again: Open) -> None:
    """No writer of a plan fails because another one has just written."""
    stores = [open_again(), open_again()]
    start = threading.Barrier(2)

    def configure(number: int) -> None:
        start.wait(10)
        record = PlanRecord("pro", {"price": number}, LATER_US)
        stores[number].ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(configure, (0, 1)))
    version, _ = stores[0].read(PRODUCT, (), LATER_US).plans["pro"]
    assert version == 2


def test_two_connections__an_original_that_appears_meanwhile__is_found(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the search for originals and the locks another server may store one. Its user is
    locked as well, in a transaction that begins again. SQLite's transactions take turns.
    """
    correcting, booking = PostgresStore(postgres_url), PostgresStore(postgres_url)
    original = make_event("a", user_id="bob")
    correction = make_correction("c", original)._replace(user_id="ann")
    locate = Corrections.locate
    transactions: list[Corrections] = []  # each has its own

    def locate_too_early(corrections: Corrections) -> Any:
        located = locate(corrections)
        if corrections not in transactions:
            transactions.append(corrections)
        if len(transactions) == 1:
            booking.ingest(PRODUCT, batch_of(original))
        return located

    monkeypatch.setattr(Corrections, "locate", locate_too_early)
    correcting.ingest(PRODUCT, batch_of(correction))
    assert len(transactions) == 3  # its own, the original's, and its own again
    assert [event.event_id for event in booking.events(PRODUCT, "bob")] == ["a", "c"]
    assert booking.events(PRODUCT, "ann") == ()
    assert list(booking.audit(PRODUCT)) == []
    correcting.close()
    booking.close()


def test_two_connections__a_lock_that_lasts__is_busy(tmp_path: Path) -> None:
    """A writer waits for its time and says so."""
    path = str(tmp_path / "store.db")
    first, second = SqliteStore(path), SqliteStore(path, busy_wait_s=0.02)
    first.open()
    second.open()
    with first.engine.transaction(PRODUCT, writes=True), pytest.raises(StoreBusy, match="locked"):
        second.ingest(PRODUCT, batch_of(make_event("a")))
    with first.engine.transaction(PRODUCT, writes=True), pytest.raises(StoreBusy, match="locked"):
        second.book(PRODUCT, [batch_of(make_event("a")), batch_of(make_event("b"))])
    assert second.ingest(PRODUCT, batch_of(make_event("a"))).counted == {"a"}
    first.close()
    second.close()
