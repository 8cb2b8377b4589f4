"""The threads that deliver and ask: nothing lost, nothing twice, nobody kept waiting."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.contract.records import (
    begin,
    begin_of,
    end,
    end_of,
    event_end,
    event_of,
    figures,
    lane_of,
    lane_record,
    open_hold,
    void,
    void_of,
)
from tests.contract.samples import (
    NOON_US,
    day_key,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.unit.client.journal.ledgers import FakeLedger

import paygent.client.journal.delivery as worker_module
import paygent.client.journal.refresh as refresh_module
from paygent import Paygent
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Lane, User
from paygent.client.journal.delivery import Worker
from paygent.client.journal.journal import Journal
from paygent.client.journal.segments import frame
from paygent.client.runtime.settings import read_settings
from paygent.core.event import Event, encode_event
from paygent.core.limit import Limit
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    LedgerRecord,
    PlanRecord,
    Question,
    SessionRecord,
)
from paygent.core.period import Subscription
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.record_json import record_to_json
from paygent.core.records import event_of_begin
from paygent.failopen import diagnostics
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable

BATCH_MAX = 100
"""Events per batch, at most."""

WAIT_S = 5.0
"""Longest wait of a test for something that takes milliseconds."""


class Bench:
    """A worker with its accounts, a journal and a ledger that can fail."""

    def __init__(
        self, folder: Path | None, *, ledger: FakeLedger | None = None, **arguments: Any
    ) -> None:
        numbers = count(1)
        self.ledger = ledger or FakeLedger()
        self.accounts = Accounts(
            default_plan="pro", new_id=lambda at_us: f"session-{next(numbers)}"
        )
        self.accounts.registry.set_plan("pro", PlanConfig(max_spend_per_period=1.0))
        self.journal = Journal(folder, owner=f"me{id(self)}")
        self.lanes: dict[User, Lane] = {}
        self.worker = Worker(
            self.ledger,
            self.accounts,
            self.journal,
            now_us=lambda: NOON_US,
            **{"interval_s": 0.005, "max_batch_size": BATCH_MAX, **arguments},
        )

    def user(self, user_id: str = "ann") -> User:
        """Return a user as of now."""
        return self.accounts.registry.user(user_id, NOON_US)

    def lane(self, user_id: str = "ann") -> Lane:
        """Return the lane of a user's calls."""
        user = self.user(user_id)
        if user not in self.lanes:
            self.lanes[user] = lane_of(user)
        return self.lanes[user]

    def spend(self, event_id: str, **fields: Any) -> Event:
        """Settle one call with any event, as the meter does."""
        event = make_event(event_id, **fields)
        lane = self.lane(event.user_id)
        hold = open_hold(lane)
        hold.event = event
        self.accounts.admission.end(hold)
        self.journal.write(lane, event_end(lane, hold.seq, event))
        self.accounts.admission.count(lane.user)
        self.worker.nudge()
        return event

    def finish(self) -> Event:
        """Settle one call whose event follows from its figures, as the meter does, and leave it to
        others to count it.
        """
        lane = self.lane()
        hold = open_hold(lane)
        begin(self.journal, lane, hold.seq)
        hold.figures = figures()
        lane.user.finished.append(hold)
        end(self.journal, lane, hold.seq)
        if not lane.user.is_queued:
            lane.user.is_queued = True
            self.accounts.admission.uncounted.append(lane.user)
        self.worker.nudge()
        return event_of(lane, hold.seq)

    def write(self, record: LedgerRecord) -> None:
        """Write a ledger record, as the meter does."""
        self.journal.append(json.dumps(record_to_json(record)).encode())
        self.worker.nudge()

    def spent(self, user_id: str = "ann") -> int:
        """Return what the user spent in the period, as the gate sees it."""
        return self.accounts.admission.figures(self.user(user_id), "", NOON_US).period_cost_nano


@pytest.fixture
def new_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make benches that are stopped and closed after the test."""
    made: list[Bench] = []

    def make(folder: Path | None = tmp_path / "journal", **arguments: Any) -> Bench:
        made.append(Bench(folder, **arguments))
        return made[-1]

    yield make
    for bench in made:
        bench.ledger.settling.clear()
        bench.worker.stop(WAIT_S)
        bench.journal.close()


@pytest.fixture
def bench(new_bench: Callable[..., Bench]) -> Bench:
    """One bench with a journal in files."""
    return new_bench()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses after failures short, and questions patient; what is tested is that they end."""
    monkeypatch.setattr(worker_module, "_RETRY_S", 0.005)
    monkeypatch.setattr(worker_module, "_RETRY_MAX_S", 0.05)
    monkeypatch.setattr(Worker.ask, "__defaults__", (WAIT_S,))
    monkeypatch.setattr(refresh_module, "_READY_WAIT_S", 0.05)


def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until something holds that another thread brings about."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _wait_for(gate: threading.Event) -> None:
    gate.wait(WAIT_S)


def away(times: int = 1) -> list[BaseException | None]:
    """Return failures of a ledger that is away for some calls."""
    return [LedgerUnavailable("away") for _ in range(times)]


# -- delivery


def test_worker__never_used__starts_no_thread(bench: Bench) -> None:
    """Nothing starts before the first call needs it."""
    assert bench.worker.is_running is False
    assert bench.worker._threads == []


@pytest.mark.parametrize("durable", [True, False])
def test_flush__settled_calls__returns_when_the_ledger_has_them(
    new_bench: Callable[..., Bench], tmp_path: Path, durable: bool
) -> None:
    """After a flush the events are booked, acknowledged and gone from the journal."""
    bench = new_bench(tmp_path / "journal" if durable else None)
    for number in range(5):
        bench.spend(f"e{number}")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {f"e{number}" for number in range(5)}
    account = bench.user().accounts[period_key()]
    assert (account.acknowledged, account.pending, bench.user().pending) == (5_000, 0, {})
    assert (bench.journal.has_unread, bench.worker.flushed) == (False, 5)


def test_flush__nothing_waits__returns_at_once(bench: Bench) -> None:
    """There may be nothing to deliver."""
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.events == {}


def test_flush__a_long_backlog__is_delivered_in_batches_of_a_bounded_size(
    new_bench: Callable[..., Bench],
) -> None:
    """A batch has at most `max_batch_size` events, so that an acknowledgement stays short."""
    bench = new_bench(enabled=False)
    for number in range(2 * BATCH_MAX + 100):
        bench.spend(f"e{number}")
    bench.worker._enabled = True
    assert bench.worker.flush(WAIT_S) is True
    assert len(bench.ledger.events) == 2 * BATCH_MAX + 100
    assert max(len(batch.events) for batch in bench.ledger.batches) <= BATCH_MAX
    assert bench.spent() == (2 * BATCH_MAX + 100) * 1_000


def test_init__max_batch_size__bounds_the_events_of_each_batch(tmp_path: Path) -> None:
    """The argument of `init` reaches the delivery."""
    ledger = FakeLedger()
    settings = read_settings({"db_path": str(tmp_path / "pg.db"), "max_batch_size": 3}, {})
    pg = Paygent.launch(settings, ledger=ledger)
    for _ in range(10):
        pg.record_event("ann", cost=0.001)
    pg.shutdown(WAIT_S)
    assert len(ledger.events) == 10
    assert max(len(batch.events) for batch in ledger.batches) <= 3


def test_deliver__nobody_flushes__happens_by_itself(bench: Bench) -> None:
    """Settlements reach the ledger within the interval."""
    bench.spend("a")
    assert eventually(lambda: "a" in bench.ledger.events and not bench.user().pending)


def test_deliver__a_batch_that_the_journal_does_not_release__counts_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """It is sent again; the accounts must not hold it beside the ledger's figure meanwhile."""
    swallowed.expect("deliver")

    def fail() -> None:
        raise OSError("no")

    monkeypatch.setattr(bench.journal, "delivered", fail)
    bench.spend("a")
    assert eventually(lambda: diagnostics.counts.get("deliver", 0) > 2)
    assert (bench.spent(), bench.user().pending) == (1_000, {})
    monkeypatch.undo()
    assert bench.worker.flush(WAIT_S) is True
    assert (bench.spent(), bench.journal.has_unread) == (1_000, False)


def test_deliver__asleep__is_woken_by_the_next_settlement(bench: Bench) -> None:
    """After idle rounds the thread sleeps for longer; a nudge wakes it."""
    bench.spend("a")
    assert eventually(lambda: bench.worker._idle)
    bench.spend("b")
    assert eventually(lambda: "b" in bench.ledger.events)


def test_deliver__idle__verifies_hooks_and_leaves_the_ledger_alone(
    new_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook may be displaced while nothing is called; looking costs the ledger nothing."""
    monkeypatch.setattr(worker_module, "_IDLE_WAIT_S", 0.005)
    rounds: list[None] = []
    bench = new_bench(before_round=lambda: rounds.append(None))
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    assert eventually(lambda: bench.worker._idle)
    batches, before = len(bench.ledger.batches), len(rounds)
    assert eventually(lambda: len(rounds) > before + 10)
    assert (len(bench.ledger.batches), bench.ledger.asked) == (batches, [])


def test_deliver__the_ledger_not_open_yet__verifies_hooks_all_the_same(
    new_bench: Callable[..., Bench],
) -> None:
    """An unavailable ledger must not hide a hook that is displaced meanwhile."""
    rounds: list[None] = []
    bench = new_bench(before_round=lambda: rounds.append(None))
    bench.ledger.opening.extend(away(10_000))
    bench.spend("a")
    assert eventually(lambda: len(rounds) > 2)
    bench.ledger.opening.clear()


def test_deliver__a_begin_alone__is_taken_and_books_nothing(bench: Bench) -> None:
    """A call in flight is not an event yet; a void never is."""
    lane = lane_of()
    begin(bench.journal, lane, 1)
    begin(bench.journal, lane, 2)
    void(bench.journal, lane, 2)
    assert bench.worker.flush(WAIT_S) is True
    assert (bench.ledger.events, bench.worker.flushed) == ({}, 0)


@pytest.mark.parametrize("durable", [True, False])
def test_deliver__calls_that_nobody_has_counted__counts_and_books_them_once(
    new_bench: Callable[..., Bench], tmp_path: Path, durable: bool
) -> None:
    """What a call used is priced by the delivery if nobody needed it before; both agree."""
    bench = new_bench(tmp_path / "journal" if durable else None)
    events = [bench.finish() for _ in range(250)]
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.events == {event.event_id: event for event in events}
    user = bench.user()
    account = user.accounts[period_key()]
    spent = sum(event.cost_nano for event in events)
    assert (account.acknowledged, account.pending, bench.spent()) == (spent, 0, spent)
    assert (user.pending, user.open, list(user.finished)) == ({}, {}, [])


@pytest.mark.parametrize("way", ["spend", "finish"])
def test_deliver__between_the_record_of_a_call_and_its_count__counts_it_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """An event may reach the ledger before the thread that made it goes on."""
    write = bench.journal.write
    delivered: list[bool] = []

    def write_and_deliver(lane: Lane, record: bytes) -> None:
        write(lane, record)
        if bench.user().finished:  # not for its begin
            delivered.append(bench.worker.flush(WAIT_S))

    bench.user()
    monkeypatch.setattr(bench.journal, "write", write_and_deliver)
    event = bench.spend("a") if way == "spend" else bench.finish()
    monkeypatch.undo()
    assert bench.worker.flush(WAIT_S) is True
    assert (delivered, set(bench.ledger.events)) == ([True], {event.event_id})
    account = bench.user().accounts[period_key()]
    assert (bench.spent(), bench.user().pending) == (event.cost_nano, {})
    assert (account.acknowledged, account.pending) == (event.cost_nano, 0)


def test_deliver__calls_of_many_threads__are_counted_and_booked_once(bench: Bench) -> None:
    """Whoever counts a call, and whenever: figures at the end are those of the events."""
    events: list[Event] = []
    interval = sys.getswitchinterval()

    def call(thread: int) -> None:
        for number in range(0, 100, 2):
            events.extend((bench.spend(f"{thread}-{number}"), bench.finish()))

    bench.lane()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            bench.worker.flush(WAIT_S)
            bench.spent()
    finally:
        sys.setswitchinterval(interval)
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.events == {event.event_id: event for event in events}
    spent = sum(event.cost_nano for event in events)
    account = bench.user().accounts[period_key()]
    assert (bench.spent(), account.acknowledged, account.pending) == (spent, spent, 0)
    assert (bench.user().pending, bench.user().open) == ({}, {})


def test_deliver__the_ledger_away__sends_again_without_loss_or_double(
    bench: Bench,
) -> None:
    """What was not booked is sent again, and only then leaves the journal."""
    bench.ledger.settling.extend(away(3))
    bench.spend("a")
    assert eventually(lambda: not bench.ledger.settling)
    bench.spend("b")
    assert eventually(lambda: set(bench.ledger.events) == {"a", "b"})
    assert eventually(lambda: not bench.user().pending)
    assert bench.spent() == 2_000
    assert diagnostics.counts["ledger_unavailable"] == 3


def test_deliver__an_answer_that_is_lost__does_not_count_twice(bench: Bench) -> None:
    """The ledger had booked it; the process sends it again and hears that it was known."""
    bench.ledger.losing = 1
    bench.spend("a")
    assert eventually(lambda: not bench.user().pending)
    assert len([batch for batch in bench.ledger.batches if batch.events]) == 2
    assert (bench.spent(), bench.worker.flushed) == (1_000, 1)


def test_deliver__the_ledger_away__keeps_counting_what_is_not_delivered(bench: Bench) -> None:
    """The gate sees this process's own spend, delivered or not."""
    bench.ledger.settling.extend(away(10_000))
    bench.spend("a")
    bench.spend("b")
    assert eventually(lambda: diagnostics.counts.get("ledger_unavailable", 0) > 2)
    assert (bench.spent(), set(bench.user().pending)) == (2_000, {"a", "b"})
    assert bench.journal.has_unread is True


def test_flush__the_ledger_back_before_the_time_is_over__returns_true(bench: Bench) -> None:
    """A flush waits as long as it was told, over a ledger that is busy for some rounds."""
    bench.ledger.settling.extend(away(6))
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"a"}


def test_flush__the_ledger_away__returns_false_and_loses_nothing(bench: Bench) -> None:
    """When the time was not enough, the events wait."""
    bench.ledger.settling.extend(away(10_000))
    bench.spend("a")
    assert bench.worker.flush(0.05) is False
    bench.ledger.settling.clear()
    assert eventually(lambda: set(bench.ledger.events) == {"a"})


def test_flush__from_many_threads__all_return_when_their_own_is_delivered(bench: Bench) -> None:
    """Each caller finds its own records booked when its flush returns."""
    missing: list[str] = []

    def spend_and_flush(thread: int) -> None:
        event_id = f"e{thread}"
        bench.spend(event_id)
        if not bench.worker.flush(WAIT_S) and event_id not in bench.ledger.events:
            missing.append(event_id)
        if event_id not in bench.ledger.events:
            missing.append(event_id)

    threads = [threading.Thread(target=spend_and_flush, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert missing == []


def test_deliver__a_ledger_that_fails_oddly__is_counted_and_tried_again(
    bench: Bench, swallowed: Any
) -> None:
    """A defect of ours in one round must not end the thread."""
    swallowed.expect("deliver")
    bench.ledger.settling.append(ValueError("a defect"))
    bench.spend("a")
    assert eventually(lambda: set(bench.ledger.events) == {"a"})
    assert eventually(lambda: not bench.user().pending)
    assert bench.spent() == 1_000


def test_deliver__a_record_that_cannot_be_read__is_counted_and_passed_over(
    bench: Bench, tmp_path: Path, swallowed: Any
) -> None:
    """One bad record does not stand in the way of the others; it is kept for a person."""
    swallowed.expect("event_record", "ledger_record")
    bench.journal.append(b'{"k":"end","id":"bad"}')
    bench.journal.append(b'{"k":"plan"}')
    bench.journal.append(b'{"k":"of tomorrow"}')
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"a"}
    assert _quarantined(tmp_path) == [
        {"unreadable": {"k": "end", "id": "bad"}},
        {"unreadable": {"k": "plan"}},
        {"unreadable": {"k": "of tomorrow"}},
    ]


def _quarantined(folder: Path) -> list[Any]:
    """Return what was quarantined."""
    (path,) = folder.rglob("refused.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_deliver__after_a_memory_that_was_full__brings_the_rest_from_the_accounts(
    new_bench: Callable[..., Bench],
) -> None:
    """An event is in memory until the ledger has it; only the queue between was too short."""
    bench = new_bench(None)
    bench.journal._records_in_memory_max = 2
    bench.ledger.settling.extend(away(3))
    for number in range(7):
        bench.spend(f"e{number}")
    assert bench.journal.dropped == 5
    assert eventually(lambda: len(bench.ledger.events) == 7)
    assert eventually(lambda: not bench.user().pending)
    assert (bench.journal.dropped, bench.spent()) == (0, 7_000)


def test_deliver__after_a_part_of_the_journal_disappeared__brings_it_from_the_accounts(
    bench: Bench,
) -> None:
    """Somebody has emptied the folder of a running process."""
    bench.ledger.settling.extend(away(10_000))
    bench.spend("a")
    assert eventually(lambda: len(bench.ledger.settling) < 10_000)  # it is on its way
    bench.spend("b")
    assert bench.journal.folder is not None
    bench.journal._rotate(bench.journal._current)
    bench.journal.maintain()
    for path in bench.journal.folder.glob("*-000001.seg"):
        path.unlink()
    bench.ledger.settling.clear()
    assert eventually(lambda: set(bench.ledger.events) == {"a", "b"})
    assert eventually(lambda: not bench.user().pending)
    assert (bench.journal.dropped, diagnostics.counts["journal_lost"] > 0) == (0, True)


def test_deliver__other_processes_spend__is_known_after_the_next_round(bench: Bench) -> None:
    """With every batch the state of active users is read."""
    bench.ledger.events["theirs"] = make_event("theirs", cost_tokens_nano=500)
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    assert bench.spent() == 1_500


def test_deliver__two_processes_in_several_sessions__each_knows_the_others_spend(
    new_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """One works in two sessions in turn; its next work in one of them brings what others spent."""
    ours = new_bench(tmp_path / "ours")
    theirs = new_bench(tmp_path / "theirs", ledger=ours.ledger)
    for number in range(6):
        ours.spend(f"ours-{number}", session_id=f"s{1 + number % 2}")
        ours.user().session_id = f"s{1 + number % 2}"
    assert ours.worker.flush(WAIT_S) is True
    theirs.spend("theirs", session_id="s1", cost_tokens_nano=800)
    assert theirs.worker.flush(WAIT_S) is True
    ours.spend("last", session_id="s1")
    ours.user().session_id = "s2"  # a call in the other session has begun meanwhile
    assert ours.worker.flush(WAIT_S) is True
    accounts = ours.user().accounts
    assert accounts[session_key("s1")].spent == 3 * 1_000 + 800 + 1_000
    assert accounts[session_key("s2")].spent == 3 * 1_000


def test_deliver__a_user_who_was_only_refused__is_read_anew(bench: Bench) -> None:
    """What refuses may have changed elsewhere; a round without records reads it."""
    user = bench.user()
    bench.ledger.events["theirs"] = make_event("theirs", cost_tokens_nano=500)
    user.is_active = True
    bench.worker.nudge()
    assert eventually(lambda: bench.spent() == 500)


@pytest.mark.parametrize("kind", [LedgerUnavailable, ValueError])
def test_deliver__the_ledger_away_or_failing__asks_again_about_users_that_were_active(
    bench: Bench, swallowed: Swallowed, kind: type[Exception]
) -> None:
    """A question that could not be answered is not forgotten."""
    if kind is ValueError:
        swallowed.expect("deliver")
    bench.ledger.settling.extend(kind("no") for _ in range(2))
    bench.ledger.events["theirs"] = make_event("theirs", cost_tokens_nano=500)
    bench.user().is_active = True
    bench.worker.nudge()
    assert eventually(lambda: bench.spent() == 500)


def test_ask_again__a_user_forgotten_meanwhile__is_passed_over(bench: Bench) -> None:
    """A user may have been forgotten while the ledger was away."""
    bench.worker._ask_again([Question("nobody", (), NOON_US)])
    assert bench.accounts.registry.users == {}


def test_deliver__directory_records__arrive_in_order_and_let_the_ledger_speak(
    bench: Bench,
) -> None:
    """Once a change has arrived, the ledger's word on it counts again."""
    bench.accounts.registry.set_plan("gold", PlanConfig(price=1))
    bench.accounts.registry.assign("ann", "gold", None, None, NOON_US)
    records: list[LedgerRecord] = [
        PlanRecord("gold", plan_to_json(PlanConfig(price=1)), NOON_US),
        AssignRecord("ann", "gold", None, None, NOON_US),
        SessionRecord("ann", "s", True, NOON_US, NOON_US),
    ]
    for record in records:
        bench.write(record)
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.records == records
    bench.ledger.records.append(PlanRecord("gold", plan_to_json(PlanConfig(price=2)), NOON_US + 1))
    bench.ledger.records.append(AssignRecord("ann", "pro", None, None, NOON_US + 1))
    bench.user().is_active = True
    bench.worker.nudge()
    assert eventually(lambda: bench.accounts.registry.plans["gold"] == PlanConfig(price=2))
    assert eventually(lambda: bench.user().plan_name == "pro")


@pytest.mark.parametrize(
    "record",
    [
        PlanRecord("é", plan_to_json(PlanConfig(price=1.5)), NOON_US),
        AssignRecord("ann", "gold", None, None, NOON_US),
        AssignRecord("ann", "gold", {"price": 1}, Subscription(1, 2, "none"), NOON_US, keeps=True),
        SessionRecord("ann", "s", True, 1, 2, 3),
    ],
)
def test_directory_record__any__is_read_back_as_it_was(
    new_bench: Callable[..., Bench], record: LedgerRecord
) -> None:
    """What goes through the journal arrives unchanged."""
    bench = new_bench()
    bench.write(record)
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.records == [record]


def test_deliver__the_journal_back_on_disk__is_tried_with_each_round(
    new_bench: Callable[..., Bench], tmp_path: Path, swallowed: Any
) -> None:
    """A journal in memory goes back to files as soon as that works, by the delivering thread."""
    swallowed.expect("journal_folder")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    bench = new_bench(blocked / "journal")
    bench.spend("a")
    assert bench.journal.is_durable is False
    blocked.unlink()
    assert bench.worker.flush(WAIT_S) is True
    assert eventually(lambda: bench.journal.is_durable)
    bench.spend("b")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"a", "b"}


def test_deliver__stopping__ends_after_the_last_full_batch(new_bench: Callable[..., Bench]) -> None:
    """At exit a round goes on until nothing is unread, and no further."""
    bench = new_bench(enabled=False)
    for number in range(BATCH_MAX):
        bench.spend(f"e{number}")
    bench.worker._stopping = True
    assert bench.worker._deliver_round() is True
    assert len(bench.ledger.events) == BATCH_MAX


# -- readiness, and the journals of the dead


def bury(folder: Path, *records: bytes, owner: str = "dead") -> None:
    """Leave a segment of a process that died."""
    folder.mkdir(exist_ok=True)
    (folder / f"{owner}-000001.seg").write_bytes(b"".join(records))


def framed(event: Event) -> bytes:
    """Return the record of an event that is no call of this process."""
    return frame(encode_event(event))


def test_worker__a_ledger_that_cannot_be_opened__is_tried_until_it_can(bench: Bench) -> None:
    """A ledger that is away at the start only delays."""
    bench.ledger.opening.extend(away(3))
    bench.spend("a")
    assert eventually(lambda: set(bench.ledger.events) == {"a"})
    assert diagnostics.counts["ledger_unavailable"] == 3


def test_adopt__journals_of_the_dead__are_booked_before_anything_of_ours(
    bench: Bench, tmp_path: Path
) -> None:
    """Ended calls count, voided ones do not, and calls in flight count as estimated."""
    lane = lane_of()
    manual = make_event("manual", source="manual")
    plan = PlanRecord("old", {"price": 1}, NOON_US - 1)
    bury(
        tmp_path / "journal",
        frame(json.dumps(record_to_json(plan)).encode()),
        lane_record(lane),
        begin_of(lane, 1) + end_of(lane, 1),
        begin_of(lane, 2) + void_of(lane, 2),
        begin_of(lane, 3),
        framed(manual),
    )
    own = bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    lost = event_of_begin(lane.facts, 3, NOON_US, 400, 0)
    expected = [event_of(lane, 1), lost, manual, own]
    assert bench.ledger.events == {event.event_id: event for event in expected}
    assert (lost.quality, lost.details) == ("estimated", {"held": 1})
    assert bench.ledger.records == [plan]
    assert [path.name for path in (tmp_path / "journal").glob("dead*")] == []
    assert bench.spent() == sum(event.cost_nano for event in expected)


def test_adopt__a_process_that_died_between_begin_and_end_in_two_segments__books_it_once(
    bench: Bench, tmp_path: Path
) -> None:
    """Both segments are left; if the end is in the second one, it is what counts."""
    ended, lost = lane_of(), lane_of(session_id="s2")
    first = lane_record(ended) + begin_of(ended, 1) + lane_record(lost) + begin_of(lost, 2)
    bury(tmp_path / "journal", first)
    second = tmp_path / "journal" / "dead-000002.seg"
    second.write_bytes(lane_record(ended) + end_of(ended, 1) + bytes(1_000))
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    expected = [event_of(ended, 1), event_of_begin(lost.facts, 2, NOON_US, 400, 0)]
    assert {key: each for key, each in bench.ledger.events.items() if key != "own"} == {
        event.event_id: event for event in expected
    }
    assert [path.name for path in (tmp_path / "journal").glob("dead*")] == []


def test_adopt__a_begin_whose_call_was_booked_already__is_not_booked_again(
    bench: Bench, tmp_path: Path
) -> None:
    """Its end was delivered with a segment that has gone; the id of both is the same."""
    lane = lane_of()
    event = event_of(lane, 1)
    bench.ledger.events[event.event_id] = event
    bury(tmp_path / "journal", lane_record(lane), begin_of(lane, 1))
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    assert bench.ledger.events[event.event_id] == event
    assert bench.spent() == event.cost_nano + 1_000


def test_adopt__an_event_that_was_delivered_before_the_death__is_not_booked_again(
    bench: Bench, tmp_path: Path
) -> None:
    """A segment outlives the delivery of what it holds; ids tell."""
    event = make_event("a")
    bench.ledger.events["a"] = event
    bury(tmp_path / "journal", framed(event))
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    assert bench.spent() == 2_000


def test_adopt__a_long_journal__is_booked_in_batches_of_a_bounded_size(
    bench: Bench, tmp_path: Path
) -> None:
    """A dead process may have left much."""
    bury(
        tmp_path / "journal",
        *(framed(make_event(f"e{number}")) for number in range(BATCH_MAX + 10)),
    )
    assert bench.worker.flush(WAIT_S) is True
    assert eventually(lambda: len(bench.ledger.events) == BATCH_MAX + 10)
    assert max(len(batch.events) for batch in bench.ledger.batches) <= BATCH_MAX


def test_adopt__the_ledger_away_meanwhile__is_tried_again(
    bench: Bench, tmp_path: Path, swallowed: Any
) -> None:
    """A ledger that is busy at the start does not put a dead process's events off for long."""
    bury(tmp_path / "journal", framed(make_event("dead")))
    bench.ledger.settling.extend(away(1))
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    assert eventually(lambda: set(bench.ledger.events) == {"dead", "own"})
    swallowed.seen.clear()  # whether the first try is counted is not the point


def test_adopt__a_record_that_cannot_be_read__does_not_keep_the_others_from_being_booked(
    bench: Bench, tmp_path: Path, swallowed: Any
) -> None:
    """One bad record of a dead process costs that record, not its journal or another's."""
    bury(
        tmp_path / "journal",
        frame(b'{"k":"begin","id":"odd"}'),
        frame(b'{"k":"end","id":"odd too"}'),
        framed(make_event("good")),
        owner="first",
    )
    bury(tmp_path / "journal", framed(make_event("other")), owner="second")
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"good", "other", "own"}
    assert _quarantined(tmp_path) == [
        {"unreadable": {"k": "end", "id": "odd too"}},
        {"unreadable": {"k": "begin", "id": "odd"}},
    ]
    swallowed.seen.clear()  # how it is counted is not the point


# -- asking


def test_ask__a_user__brings_the_ledgers_state(bench: Bench) -> None:
    """After the answer the user is known and their spend is the ledger's."""
    bench.ledger.events["theirs"] = make_event("theirs", cost_tokens_nano=500)
    user = bench.user()
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    assert (user.known, bench.spent()) == (True, 500)
    assert bench.accounts.sync.needs_refresh(user, None, NOON_US) is False


def test_ask__a_session__is_known_afterwards(bench: Bench) -> None:
    """A question about a session brings that session's account."""
    bench.ledger.events["theirs"] = make_event("theirs", session_id="mine")
    user = bench.user()
    assert bench.worker.ask(user, "mine").result(WAIT_S) is True
    assert bench.accounts.admission.figures(user, "mine", NOON_US).session_cost_nano == 1_000
    assert bench.accounts.sync.needs_refresh(user, "mine", NOON_US) is False


def test_ask__the_same_question_meanwhile__shares_the_answer(bench: Bench) -> None:
    """Many first calls of a user cost one trip."""
    gate = threading.Event()
    bench.ledger.before_state = partial(_wait_for, gate)
    user = bench.user()
    first = bench.worker.ask(user, None)
    assert bench.worker.ask(user, None) is first
    assert bench.worker.ask(user, "other") is not first
    gate.set()
    assert first.result(WAIT_S) is True
    assert len([asked for asked in bench.ledger.asked if asked[0].user_id == "ann"]) <= 2
    assert eventually(lambda: not bench.worker._refresh._asked)
    assert bench.worker.ask(user, None) is not first


def test_ask__the_ledger_away__answers_false_and_can_be_asked_again(bench: Bench) -> None:
    """The caller goes on with what is known; the next question is a new one."""
    bench.ledger.reading.extend(away(1))
    user = bench.user()
    assert bench.worker.ask(user, None).result(WAIT_S) is False
    assert user.known is False
    assert bench.worker.ask(user, None).result(WAIT_S) is True


def test_ask__a_ledger_that_fails_oddly__answers_false(bench: Bench, swallowed: Any) -> None:
    """A defect must not leave a caller waiting."""
    swallowed.expect("ask")
    bench.ledger.reading.append(ValueError("a defect"))
    assert bench.worker.ask(bench.user(), None).result(WAIT_S) is False


def test_ask__a_plan_that_was_news__asks_again_for_its_limits(bench: Bench) -> None:
    """The first answer tells of a plan with other limits; the second has what they saw."""
    plan = PlanConfig(limits=(Limit("calls", window="day", cap=5),))
    bench.ledger.records += [
        PlanRecord("gold", plan_to_json(plan), NOON_US),
        AssignRecord("ann", "gold", None, None, NOON_US),
    ]
    bench.ledger.events["theirs"] = make_event("theirs")
    user = bench.user()
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    assert len(bench.ledger.asked) == 2
    assert (user.plan_name, user.accounts[day_key("calls")].acknowledged) == ("gold", 1)


def test_ask__a_plan_that_was_news__asks_again_for_the_limits_of_a_session(bench: Bench) -> None:
    """Before a call in that session is decided, also where the user has no other one."""
    limit = Limit("tokens", "session", None, "session", cap=50)
    bench.ledger.records.append(AssignRecord("ann", "gold", None, None, NOON_US))
    bench.accounts.registry.set_plan("gold", PlanConfig(limits=(limit,)))
    bench.ledger.events["theirs"] = make_event("theirs", session_id="mine")
    user = bench.user()
    assert bench.worker.ask(user, "mine").result(WAIT_S) is True
    assert len(bench.ledger.asked) == 2
    assert user.accounts[session_key("mine", "tokens")].acknowledged == 30


def test_ask__named_and_implicit_sessions__asks_once(bench: Bench) -> None:
    """The first answer covers the open session and the named one."""
    user = bench.user()
    bench.accounts.sessions.session_for_call(user, None, NOON_US)
    assert bench.worker.ask(user, "mine").result(WAIT_S) is True
    assert (user.known, len(bench.ledger.asked)) == (True, 1)


def test_ask__an_answer_of_before_an_assignment__does_not_undo_it(bench: Bench) -> None:
    """A context names a plan while the first question is on its way; the answer comes last."""
    plan = PlanConfig(limits=(Limit("calls", window="day", cap=5),))
    bench.accounts.registry.set_plan("gold", plan)
    state, gate = bench.ledger.state, threading.Event()
    plans: list[str] = []

    def answer_late(batch: Batch) -> Answer:
        answer = state(batch)
        if not gate.is_set():
            gate.wait(WAIT_S)
        plans.append(bench.user().plan_name)
        return answer

    bench.ledger.state = answer_late  # type: ignore[method-assign]
    user = bench.user()
    answered = bench.worker.ask(user, None)
    assert eventually(lambda: bool(bench.ledger.asked))
    record = AssignRecord("ann", "gold", None, None, NOON_US, keeps=True)
    bench.accounts.registry.assign("ann", "gold", None, None, NOON_US)
    bench.write(record)
    assert eventually(lambda: not bench.accounts.registry.is_changing("user:ann"))
    gate.set()
    assert answered.result(WAIT_S) is True
    assert (plans, user.plan_name, user.known) == (["gold", "gold"], "gold", True)


def test_ask__an_answer_before_an_assignment_is_delivered__does_not_undo_it(bench: Bench) -> None:
    """Until the ledger has the record, this process's word counts."""
    bench.ledger.opening.extend(away(10_000))  # nothing is delivered
    bench.accounts.registry.set_plan("gold", PlanConfig())
    user = bench.accounts.registry.assign("ann", "gold", None, None, NOON_US)
    bench.write(AssignRecord("ann", "gold", None, None, NOON_US, keeps=True))
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    assert (user.plan_name, bench.ledger.records) == ("gold", [])
    bench.ledger.opening.clear()


def test_refresh_soon__a_rolling_sum_that_is_fresh__is_left_out(bench: Bench) -> None:
    """Whoever reads figures every second does not have the ledger add up a window each time."""
    limit = Limit("calls", window="rolling:24h", cap=5)
    bench.accounts.registry.set_plan("pro", PlanConfig(limits=(limit,)))
    user = bench.user()
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    bench.worker.refresh_soon(user, None)
    assert eventually(lambda: len(bench.ledger.asked) == 2)
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    named = [rolling_key(metric="calls") in asked[0].accounts for asked in bench.ledger.asked]
    assert named == [True, False, True]


def test_refresh_soon__while_a_call_waits_for_the_same__asks_nothing(bench: Bench) -> None:
    """The answer that the call waits for has every figure."""
    gate = threading.Event()
    bench.ledger.before_state = partial(_wait_for, gate)
    user = bench.user()
    answered = bench.worker.ask(user, None)
    bench.worker.refresh_soon(user, None)
    assert len(bench.worker._refresh._asked) == 1
    gate.set()
    assert answered.result(WAIT_S) is True


def test_ask__a_plan_that_never_settles__gives_up_after_some_rounds(bench: Bench) -> None:
    """A question is answered in a bounded number of trips."""
    numbers = count(1)

    def change_plan() -> None:
        number = next(numbers)
        limit = Limit("calls", window=f"rolling:{number}h", cap=5)
        document = plan_to_json(PlanConfig(limits=(limit,)))
        bench.ledger.records += [
            PlanRecord(f"plan-{number}", document, NOON_US),
            AssignRecord("ann", f"plan-{number}", None, None, NOON_US),
        ]

    bench.ledger.before_state = change_plan
    assert bench.worker.ask(bench.user(), None).result(WAIT_S) is False
    assert len(bench.ledger.asked) == 3


def test_ask__a_delivery_in_between__reads_again(bench: Bench) -> None:
    """Figures that may be older than a delivery are not taken over."""
    user = bench.user()
    numbers = iter([0, 7])

    def deliver_once() -> None:
        bench.ledger.booked_through = next(numbers)
        bench.accounts.sync.start_batch(7, ())
        bench.accounts.sync.acknowledge((), Answer(), NOON_US)

    bench.ledger.before_state = deliver_once
    assert bench.worker.ask(user, None).result(WAIT_S) is True
    assert len(bench.ledger.asked) == 2


def test_ask__while_a_batch_is_booked_and_not_acknowledged__counts_its_events_once(
    bench: Bench,
) -> None:
    """Between the ledger's commit and our acknowledgement an event is in both places.

    The answer to a question asked in between already holds it, while here it is still undelivered.
    """
    asked = threading.Event()
    committed = threading.Event()

    def wait_for_question(batch: Batch) -> None:
        if batch.events:
            committed.set()
            asked.wait(0.3)  # a worker that lets the question wait for the delivery is fine too

    bench.ledger.after_commit = wait_for_question
    user = bench.user()
    bench.accounts.sessions.session_for_call(user, "current", NOON_US)
    bench.spend("a", session_id="aside")
    assert committed.wait(WAIT_S)
    answer = bench.worker.ask(user, "aside")
    answer.add_done_callback(lambda future: asked.set())
    answer.result(WAIT_S)
    during = bench.accounts.admission.figures(user, "aside", NOON_US)
    assert eventually(lambda: not user.pending)
    after = bench.accounts.admission.figures(user, "aside", NOON_US)
    assert {
        "period": (during.period_cost_nano, after.period_cost_nano),
        "session": (during.session_cost_nano, after.session_cost_nano),
    } == {"period": (1_000, 1_000), "session": (1_000, 1_000)}
    assert user.accounts[session_key("aside")].pending == 0


def test_ask__a_ledger_that_is_not_ready__waits_a_moment_and_asks_anyway(bench: Bench) -> None:
    """A question does not wait for the journals of the dead for ever."""
    bench.ledger.opening.extend(away(10_000))
    assert bench.worker.ask(bench.user(), None).result(WAIT_S) is True
    bench.ledger.opening.clear()


def test_read__a_report__is_read_on_a_thread_of_its_own(bench: Bench) -> None:
    """Neither the caller's nor the one that answers questions."""
    threads: list[str] = []
    bench.ledger.events["a"] = make_event("a")

    def reading(ledger: Any) -> str:
        threads.append(threading.current_thread().name)
        return str(ledger.event("a").event.event_id)

    assert bench.worker.read(reading).result(WAIT_S) == "a"
    assert threads == ["paygent-read"]


def test_read__a_report_that_takes_long__keeps_no_question_waiting(bench: Bench) -> None:
    """A user at the cap is asked about, and refused, while a report runs."""
    release = threading.Event()
    slow = bench.worker.read(lambda _: release.wait(WAIT_S))
    try:
        user = bench.accounts.registry.user("u1", 1)
        assert bench.worker.ask(user, None).result(WAIT_S)
        assert not slow.done()
    finally:
        release.set()
    assert slow.result(WAIT_S)


def test_read__the_ledger_away__raises_it_to_the_caller(bench: Bench) -> None:
    """Who asks for a report is told that there is none now."""
    bench.ledger.reading.extend(away(1))
    with pytest.raises(LedgerUnavailable):
        bench.worker.read(lambda ledger: ledger.event("a")).result(WAIT_S)


def test_read__a_reading_that_fails_oddly__does_not_leave_its_caller_waiting(
    bench: Bench, swallowed: Any
) -> None:
    """A defect comes back as itself, not as a wait that never ends."""

    def fail(ledger: Any) -> None:
        raise ValueError("a defect")

    future: Future[None] = bench.worker.read(fail)
    assert isinstance(future.exception(WAIT_S), ValueError)
    swallowed.seen.clear()  # whether it is counted as well is not the point


# -- life


def test_stop__running__delivers_and_ends_both_threads(bench: Bench) -> None:
    """Shutdown delivers what there is and leaves no thread."""
    bench.spend("a")
    threads = list(bench.worker._threads)
    assert len(threads) == 2
    assert bench.worker.stop(WAIT_S) is True
    assert set(bench.ledger.events) == {"a"}
    assert [thread.is_alive() for thread in threads] == [False, False]
    assert bench.worker.is_running is False


def test_stop__asleep__wakes_and_ends(bench: Bench) -> None:
    """A thread that sleeps without a time limit ends too."""
    bench.spend("a")
    assert eventually(lambda: bench.worker._idle)
    assert bench.worker.stop(WAIT_S) is True


def test_stop__twice_or_never_started__is_fine(bench: Bench) -> None:
    """Shutdown may come twice, or before the first call."""
    assert bench.worker.stop(WAIT_S) is True
    assert bench.worker.stop(WAIT_S) is True
    bench.worker.start()
    assert bench.worker._threads == []


def test_stop__a_ledger_that_hangs__returns_in_time_and_says_so(bench: Bench) -> None:
    """Exit waits as long as it was told and no longer; what is open must not be closed then."""
    gate = threading.Event()
    bench.ledger.after_commit = lambda batch: _wait_for(gate)
    bench.spend("a")
    assert eventually(lambda: "a" in bench.ledger.events)
    assert bench.worker.stop(0.05) is False
    gate.set()


def test_stop__the_ledger_away__ends_and_leaves_the_journal(bench: Bench) -> None:
    """What cannot be delivered at exit waits for the next start."""
    bench.ledger.opening.extend(away(10_000))
    bench.spend("a")
    assert bench.worker.stop(WAIT_S) is True
    assert bench.journal.has_unread is True


def test_stop__on_its_own_thread__does_not_wait_for_itself(bench: Bench) -> None:
    """A callback may shut down from a thread of ours."""
    stopped: list[bool] = []
    bench.ledger.before_state = lambda: stopped.append(bench.worker.stop(0.1))
    bench.worker.ask(bench.user("ann"), None).result(WAIT_S)
    assert stopped[0] is False  # this very thread still runs
    assert eventually(lambda: not any(thread.is_alive() for thread in bench.worker._threads))


def test_flush__after_stop__says_whether_anything_waits(bench: Bench) -> None:
    """Nothing delivers any more; the answer is what the journal says."""
    bench.spend("a")
    bench.worker.stop(WAIT_S)
    assert bench.worker.flush(0.05) is True
    bench.spend("b")
    assert bench.worker.flush(0.05) is False


def test_worker__disabled__never_starts(new_bench: Callable[..., Bench]) -> None:
    """A Paygent that is switched off has no threads."""
    bench = new_bench(enabled=False)
    bench.spend("a")
    assert (bench.worker.is_running, bench.worker._threads) == (False, [])
    assert bench.worker.flush(0.05) is False


def test_start__by_many_threads_at_once__starts_two_threads(bench: Bench) -> None:
    """The first calls of many threads start one pair."""
    barrier = threading.Barrier(12)

    def start() -> None:
        barrier.wait()
        bench.worker.start()

    callers = [threading.Thread(target=start) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    ours = [each for each in bench.worker._threads if each.is_alive()]
    assert len(ours) == 2


def test_start__another_thread_was_first__does_nothing(bench: Bench) -> None:
    """Who waited for the lock finds the threads started."""
    bench.worker._starting.acquire()
    caller = threading.Thread(target=bench.worker.start)
    caller.start()
    caller.join(0.05)  # it is waiting for the lock now
    bench.worker._stopping = True
    bench.worker._starting.release()
    caller.join(10)
    assert bench.worker._threads == []


def test_renew_after_fork__a_running_worker__starts_its_own_threads_when_needed(
    bench: Bench,
) -> None:
    """The parent's threads do not exist in the child; its first call starts new ones."""
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    bench.worker.stop(WAIT_S)  # the parent's threads are not in the child
    bench.worker._stopping = False  # and the parent itself goes on
    bench.worker.renew_after_fork()
    assert (bench.worker.is_running, bench.worker.flushed) == (False, 0)
    bench.spend("b")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"a", "b"}


def test_deliver__a_record_that_the_ledger_always_chokes_on__is_set_aside(
    bench: Bench, tmp_path: Path, swallowed: Any
) -> None:
    """One record must not keep everybody's from being booked; it is kept for people to see."""
    swallowed.expect("deliver", "ledger_refused")
    settle = bench.ledger.settle

    def choke(batch: Batch) -> Any:
        if any(event.event_id == "poison" for event in batch.events):
            raise OverflowError("too large for this ledger")
        return settle(batch)

    bench.ledger.settle = choke  # type: ignore[method-assign]
    for event_id in ("a", "poison", "b"):
        bench.spend(event_id)
    assert eventually(lambda: {"a", "b"} <= set(bench.ledger.events))
    assert eventually(lambda: not bench.journal.has_unread)
    assert "poison" not in bench.ledger.events
    assert "poison" in next(tmp_path.rglob("refused.jsonl")).read_text()


def test_flush__that_gives_up__does_not_wait_for_a_ledger_that_is_away(bench: Bench) -> None:
    """Who can do without the rest is told at once."""
    bench.ledger.settling.extend(away(10_000))
    bench.spend("a")
    started = time.monotonic()
    assert bench.worker.flush(60.0, gives_up=True) is False
    assert time.monotonic() - started < 30
    bench.ledger.settling.clear()


def test_flush__while_others_go_on_appending__waits_for_what_was_there(bench: Bench) -> None:
    """A busy process is never without an undelivered record; nobody waits for that moment."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            bench.spend(f"busy-{number}")
            number += 1

    bench.spend("mine")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert bench.worker.flush(WAIT_S) is True
        assert "mine" in bench.ledger.events
    finally:
        stop.set()
        thread.join()


def test_flush__a_process_that_died_meanwhile__has_its_events_booked(
    bench: Bench, tmp_path: Path
) -> None:
    """A child's last calls are known to its parent, and not only to the next start."""
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    bury(tmp_path / "journal", framed(make_event("child")))
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"own", "child"}


def test_adopt__a_process_that_dies_while_nothing_is_called__has_its_events_booked(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle process adopts a killed sibling's journal without a call of its own."""
    monkeypatch.setattr(worker_module, "_IDLE_WAIT_S", 0.005)
    monkeypatch.setattr(worker_module, "_ADOPT_EVERY_S", 0.01)
    bench.spend("own")
    assert bench.worker.flush(WAIT_S) is True
    assert eventually(lambda: bench.worker._idle)
    bury(tmp_path / "journal", framed(make_event("sibling")))
    assert eventually(lambda: set(bench.ledger.events) == {"own", "sibling"})


def test_start__without_room_for_a_second_thread__starts_none_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of threads each call tries again what is missing, and only that."""
    started: list[str] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "paygent-ask" and len(started) < 3:
            started.append("none")
            raise RuntimeError("can't start new thread")
        if thread.name.startswith("paygent-"):
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    for number in range(5):
        bench.spend(f"e{number}")
    assert started == ["paygent-deliver", "none", "none", "paygent-ask"]
    assert diagnostics.counts["no_thread"] == 2


# -- a backend


def test_deliver__a_batch_in_doubt__is_sent_again_unchanged(bench: Bench) -> None:
    """Under its number, with the questions of now; what comes meanwhile is in the next one."""
    bench.ledger.losing = 2
    bench.spend("a")
    assert eventually(lambda: len(bench.ledger.batches) >= 1)
    bench.spend("b")
    assert eventually(lambda: set(bench.ledger.events) == {"a", "b"})
    batches = bench.ledger.batches
    sent = [(each.number, [event.event_id for event in each.events]) for each in batches]
    assert sent[:4] == [(1, ["a"]), (1, ["a"]), (1, ["a"]), (2, ["b"])]
    assert {each.holder for each in batches} == {bench.journal.owner}


def test_deliver__a_record_that_is_refused__is_quarantined_at_once(
    bench: Bench, swallowed: Swallowed
) -> None:
    """The ledger has said what is wrong with it: trying again would not help."""
    swallowed.expect("ledger_refused")
    bench.ledger.settling.extend([LedgerRefused("no"), LedgerRefused("no")])
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    assert bench.journal.folder is not None
    (line,) = (bench.journal.folder / "refused.jsonl").read_text().splitlines()
    assert "event_id='a'" in json.loads(line)["refused"]
    assert len(bench.ledger.batches) == 1  # the questions alone, under the number of the batch
    assert (bench.ledger.batches[0].number, bench.ledger.batches[0].events) == (1, ())


def test_deliver__a_rejected_key__keeps_the_events_and_says_so_once(bench: Bench) -> None:
    """They are delivered once the key is accepted."""
    bench.ledger.settling.extend([LedgerUnauthorised("status 401")] * 3)
    bench.spend("a")
    assert eventually(lambda: "a" in bench.ledger.events)
    assert diagnostics.counts["backend_unauthorised"] == 3
    assert "ledger_unavailable" not in diagnostics.counts


def test_deliver__to_a_ledger_that_expects_heartbeats__reaches_it_while_nothing_is_called(
    new_bench: Callable[..., Bench],
) -> None:
    """News of users comes without a call of theirs."""
    ledger = FakeLedger()
    ledger.heartbeat_s = 0.02
    bench = new_bench(ledger=ledger)
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    count_now = len(ledger.batches)
    assert eventually(lambda: len(ledger.batches) > count_now + 2)
    assert all(not each.events for each in ledger.batches[count_now:])


def test_deliver__plans_to_a_backend__warns_once_that_its_own_apply(
    new_bench: Callable[..., Bench],
) -> None:
    """As soon as the backend has answered."""
    ledger = FakeLedger()
    ledger.keeps_plans = True
    ledger.heartbeat_s = 0.02
    bench = new_bench(ledger=ledger)
    bench.write(PlanRecord("pro", {}, NOON_US))
    bench.write(AssignRecord("ann", "pro", None, None, NOON_US))
    assert eventually(lambda: "backend_keeps_plans" in diagnostics.counts)
    assert diagnostics.counts["backend_keeps_plans"] == 1


def test_deliver__provisional_answers__mean_that_the_ledger_is_offline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it answers itself: `when_offline` applies after some seconds, and nothing counts as
    flushed.
    """
    bench.accounts.sync.answered_us = NOON_US
    settle = bench.ledger.settle
    is_away = True

    def settle_here(batch: Batch) -> Answer:
        return replace(settle(batch), is_provisional=is_away)

    bench.ledger.settle = settle_here  # type: ignore[method-assign]
    bench.spend("a")
    assert bench.worker.flush(WAIT_S) is True
    sync = bench.accounts.sync
    assert (sync.is_failing, sync.is_offline, bench.worker.flushed) == (True, False, 0)
    monkeypatch.setattr(worker_module, "OFFLINE_AFTER_S", 0.0)
    bench.spend("later")
    assert bench.worker.flush(WAIT_S) is True
    assert sync.is_offline
    is_away = False
    bench.spend("b")
    assert bench.worker.flush(WAIT_S) is True
    assert (bench.accounts.sync.is_offline, bench.worker.flushed) == (False, 1)


def test_ask__many_users_at_once__takes_few_requests(bench: Bench) -> None:
    """Ten thousand first touches at a deployment do not outlive the wait of their callers."""
    gate = threading.Event()

    def wait() -> None:
        gate.wait(WAIT_S)

    bench.ledger.before_state = wait
    answers = [
        bench.worker.ask(bench.user(f"user-{number}"), None, WAIT_S) for number in range(900)
    ]
    gate.set()
    assert all(answer.result(WAIT_S) for answer in answers)
    assert sum(len(questions) for questions in bench.ledger.asked) == 900
    assert len(bench.ledger.asked) <= 4


def test_ask__a_caller_who_has_stopped_waiting__is_not_asked_for(bench: Bench) -> None:
    """The next delivery brings the state, and others wait for theirs."""
    gate, is_asking = threading.Event(), threading.Event()

    def wait() -> None:
        is_asking.set()
        gate.wait(WAIT_S)

    bench.ledger.before_state = wait
    first = bench.worker.ask(bench.user("first"), None, WAIT_S)
    assert is_asking.wait(WAIT_S)
    late = bench.worker.ask(bench.user("late"), None, 0.001)
    time.sleep(0.01)
    gate.set()
    assert (first.result(WAIT_S), late.result(WAIT_S)) == (True, False)
    assert [each.user_id for questions in bench.ledger.asked for each in questions] == ["first"]


def test_deliver__questions_that_are_refused__do_not_hold_up_the_events(
    bench: Bench, swallowed: Swallowed
) -> None:
    """The ledger has the events; what it does not say about users is asked for later."""
    swallowed.expect("ledger_refused")
    settle = bench.ledger.settle

    def refuse_questions(batch: Batch) -> Answer:
        if batch.questions:
            raise LedgerRefused("questions[0].accounts")
        return settle(batch)

    bench.ledger.settle = refuse_questions  # type: ignore[method-assign]
    bench.spend("a")
    bench.spend("b", user_id="bob")
    assert bench.worker.flush(WAIT_S) is True
    assert set(bench.ledger.events) == {"a", "b"}


def test_ask__a_question_that_is_refused__does_not_fail_those_beside_it(
    bench: Bench, swallowed: Swallowed
) -> None:
    """One odd user must not keep others unknown."""
    swallowed.expect("ledger_refused")
    state = bench.ledger.state

    def refuse_odd(batch: Batch) -> Answer:
        if any(each.user_id == "odd" for each in batch.questions):
            raise LedgerRefused("questions[1].user_id")
        return state(batch)

    bench.ledger.state = refuse_odd  # type: ignore[method-assign]
    users = [bench.user(name) for name in ("a", "odd", "b", "c")]
    answers = [bench.worker.ask(user, None, WAIT_S) for user in users]
    assert [answer.result(WAIT_S) for answer in answers] == [True, False, True, True]


def test_start__an_interruption_before_a_thread_runs__is_made_up_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the first call: the next one starts what is missing."""
    original = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", original)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.worker.start()
    assert not bench.worker.is_running
    assert bench.worker.flush(WAIT_S)
    assert bench.worker.stop(WAIT_S)
