"""A backend that goes away and comes back: the local store takes its place, and every event is
booked once. The backend is a real store; its network is a switch.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.contract.samples import (
    HOUR_US,
    MONTH,
    NOON_US,
    ask,
    batch_of,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.contract.test_directory import make_gate_event

from paygent.core.messages import (
    QUARTER_US,
    Answer,
    AssignRecord,
    Batch,
    Known,
    PlanRecord,
    PriceRecord,
    Question,
    SessionRecord,
    SessionState,
    UnmeteredCount,
    UserLedger,
)
from paygent.core.period import Subscription, to_datetime
from paygent.core.report_request import GATES, QUALITY, SpendRequest, read_request
from paygent.ledger.connected import OUTAGE_AFTER_S, ConnectedLedger
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.store.outage import OutageEnded, OutageStore
from paygent.store.port import StoreBusy
from paygent.store.sqlite import SqliteStore

PRODUCT = "backend-acme"


class Backend:
    """A backend over a store in memory, with a network that can be cut.

    Attributes:
        failure: What each request raises; None lets it through.
        losing: How many answers get lost after their commit.
        refused: Ids of events that it refuses.
    """

    def __init__(self) -> None:
        store = SqliteStore(":memory:", now_us=lambda: NOON_US)
        self._ledger = LocalLedger("acme", store, store)
        self._ledger.open()
        self.store = store
        self.heartbeat_s: float | None = 1.0
        self.keeps_plans = True
        self.is_polling = False
        self.failure: Exception | None = None
        self.losing = 0
        self.refused: set[str] = set()
        self.calls: list[str] = []

    def open(self) -> None:
        """Connect."""
        self._pass()

    def _pass(self) -> None:
        if self.failure is not None:
            raise self.failure

    def settle(self, batch: Batch) -> Answer:
        """Book a batch."""
        self._pass()
        if any(event.event_id in self.refused for event in batch.events):
            raise LedgerRefused("an event is invalid")
        answer = self._ledger.settle(batch)
        if self.losing:
            self.losing -= 1
            raise LedgerUnavailable("the answer was lost")
        return answer

    def state(self, batch: Batch) -> Answer:
        """Answer questions."""
        self._pass()
        return self._ledger.state(batch)

    def table(self, *arguments: Any) -> Any:
        """Return another report."""
        return self._ledger.table(*arguments)

    def report(self, *arguments: Any) -> Any:
        """Return usage."""
        return self._ledger.report(*arguments)

    def event(self, event_id: str) -> Any:
        """Return an event."""
        return self._ledger.event(event_id)

    def __getattr__(self, verb: str) -> Any:
        if verb not in ("close", "pause_for_fork", "resume_after_fork", "forget_after_fork"):
            raise AttributeError(verb)
        return lambda: self.calls.append(verb)

    @property
    def booked(self) -> list[str]:
        """The ids of ann's events."""
        return [event.event_id for event in self.store.events("acme", "ann")]

    @property
    def spent(self) -> int:
        """What ann has spent in the month."""
        answer = self._ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US))
        return answer.users["ann"].spent[period_key()]


class Process:
    """One process of a host: its ledger, a clock that is set, and what it knows.

    Attributes:
        quarantined: Records that were set aside.
    """

    def __init__(self, backend: Backend, path: Path, known: Known | None = None) -> None:
        self.now_s = 100.0
        self.outages = OutageStore(str(path), PRODUCT)
        _made.append(self.outages)
        self.ledger = ConnectedLedger(
            backend,  # type: ignore[arg-type]
            self.outages,
            now_s=lambda: self.now_s,
        )
        self.ledger.known = lambda: known
        self.quarantined: list[dict[str, Any]] = []
        self.ledger.quarantine = self.quarantined.append

    def settle(self, *events: Any, **others: Any) -> Answer:
        """Deliver a batch, six seconds after the last one."""
        self.now_s += 6.0
        others.setdefault("questions", ask("ann", period_key()))
        return self.ledger.settle(batch_of(*events, **others))


_made: list[OutageStore] = []
"""The local stores of a test's processes, some of which have died without closing them."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    for store in _made:
        store.close()
    _made.clear()


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend that answers."""
    made = Backend()
    yield made
    made.store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a local store."""
    return tmp_path / "local.db"


@pytest.fixture
def process(backend: Backend, path: Path) -> Iterator[Process]:
    """A process that is connected."""
    made = Process(backend, path)
    made.ledger.open()
    yield made
    made.ledger.close()


def spent(answer: Answer, key: Any = None) -> int:
    """Return ann's figure in an answer."""
    return answer.users["ann"].spent[key or period_key()]


def known_of(answer: Answer, *, at_us: int = NOON_US, **fields: Any) -> Known:
    """Return what a process knows after an answer."""
    state = answer.users["ann"]
    question = Question("ann", tuple(state.spent), MONTH.start_us)
    plans = {"pro": (3, {"max_spend_per_period": "5"})}
    changed = {name: getattr(state, name) for name in UserLedger.__dataclass_fields__} | fields
    return Known([(question, UserLedger(**changed), at_us)], plans, "pro", at_us)


def cut(process: Process, backend: Backend) -> None:
    """Take the backend away for longer than a process waits for it."""
    backend.failure = LedgerUnavailable("away")
    with pytest.raises(LedgerUnavailable):
        process.settle()
    assert not process.ledger.is_away
    assert process.settle().is_provisional
    assert process.ledger.is_away


# -- the beginning


def test_settle__with_the_backend_there__makes_no_local_store(
    process: Process, backend: Backend, path: Path
) -> None:
    """A process that is connected needs none."""
    answer = process.settle(make_event("a"))
    assert (spent(answer), answer.is_provisional, backend.booked) == (1_000, False, ["a"])
    assert not path.exists()


def test_settle__for_a_short_failure__leaves_the_batch_in_the_journal(
    process: Process, backend: Backend, path: Path
) -> None:
    """A restart of the server takes seconds."""
    backend.failure = LedgerUnavailable("away")
    for _ in range(5):
        with pytest.raises(LedgerUnavailable):
            process.ledger.settle(batch_of(make_event("a")))
        process.now_s += OUTAGE_AFTER_S / 5 - 0.01
    backend.failure = None
    assert process.settle(make_event("a")).counted == {"a"}
    assert (backend.booked, path.exists()) == (["a"], False)


def test_settle__a_mute_backend__is_away_after_its_first_time_out(
    process: Process, backend: Backend
) -> None:
    """One try takes longer than the whole patience."""

    def settle(batch: Batch) -> Answer:
        assert not batch.records
        process.now_s += OUTAGE_AFTER_S + 3.0
        raise LedgerUnavailable("ReadTimeout")

    backend.settle = settle  # type: ignore[method-assign]
    assert process.ledger.settle(batch_of(make_event("a"))).is_provisional


@pytest.mark.parametrize("failure", [LedgerUnavailable("away"), LedgerUnauthorised("no key")])
def test_settle__with_the_backend_away_for_long__books_on_this_host(
    process: Process, backend: Backend, failure: Exception
) -> None:
    """Memory stays bounded: the batch is acknowledged."""
    cut(process, backend)
    backend.failure = failure
    answer = process.settle(make_event("a"), make_event("b"))
    assert answer.counted == {"a", "b"}
    assert (spent(answer), answer.is_provisional) == (2_000, True)
    assert process.ledger.unsent_events == 2
    assert process.settle(make_event("b")).counted == frozenset()


def test_settle__without_a_local_store__goes_on_raising(backend: Backend) -> None:
    """With `:memory:` there is no place for what memory must not hold."""
    ledger = ConnectedLedger(backend, None, now_s=iter(range(0, 900, 6)).__next__)  # type: ignore[arg-type]
    ledger.open()
    backend.failure = LedgerUnavailable("away")
    for _ in range(5):
        with pytest.raises(LedgerUnavailable):
            ledger.settle(batch_of(make_event("a")))


def test_settle__with_a_local_store_that_cannot_be_used__goes_on_raising(
    backend: Backend, tmp_path: Path
) -> None:
    """The batch stays in the journal; the backend is tried again."""
    process = Process(backend, tmp_path / "is-a-folder")
    (tmp_path / "is-a-folder").mkdir()
    process.ledger.open()
    backend.failure = LedgerUnavailable("away")
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            process.settle(make_event("a"))
    backend.failure = None
    assert process.settle(make_event("a")).counted == {"a"}
    assert process.ledger.unsent_events == 0


# -- figures during an outage


def test_settle__in_an_outage__adds_to_the_backends_last_figures(
    backend: Backend, path: Path
) -> None:
    """Every account goes on from where the backend was, and the user's state stays."""
    process = Process(backend, path)
    process.ledger.open()
    keys = (period_key(), session_key("s1"), period_key("tokens", "gpt-4o"), rolling_key())
    before = process.settle(
        make_event("a"),
        make_event("shadow", blocked=True),
        questions=ask("ann", *keys),
        holder="h",
        number=4,
    )
    subscription = Subscription(MONTH.start_us, MONTH.end_us)
    process.ledger.known = lambda: known_of(
        before, plan="pro", subscription=subscription, paused=True, paused_reason="fraud"
    )
    cut(process, backend)
    answer = process.settle(
        make_event("c", cost_tokens_nano=500), questions=ask("ann", *keys), holder="h", number=5
    )
    state = answer.users["ann"]
    assert [state.spent[key] for key in keys] == [2_500, 2_500, 90, 2_500]
    assert state.shadow == {key: (30 if key.limit.metric == "tokens" else 1_000) for key in keys}
    assert state.by_model == {"gpt-4o": (90, 2_500)}
    assert (state.plan, state.subscription, state.paused) == ("pro", subscription, True)
    assert (state.paused_reason, state.is_unknown, state.version) == ("fraud", False, "")
    assert answer.plans == {"pro": (3, {"max_spend_per_period": "5"})}
    assert (answer.default_plan, answer.booked_through) == ("pro", 5)
    question = Batch(questions=ask("ann", *keys), at_us=NOON_US, holder="h")
    assert process.ledger.state(question).users["ann"] == state


def test_state__in_an_outage__names_the_batches_that_the_backend_had(
    backend: Backend, path: Path
) -> None:
    """Figures of an outage include those, so that a reading is never stale."""
    process = Process(backend, path)
    process.ledger.open()
    process.settle(make_event("a"), holder="h", number=41)
    cut(process, backend)
    assert process.ledger.state(Batch(holder="h", at_us=NOON_US)).booked_through == 41


def test_state__of_a_user_whom_the_backend_has_not_shown__is_unknown(
    process: Process, backend: Backend
) -> None:
    """What the application has assigned goes on meanwhile."""
    cut(process, backend)
    state = process.ledger.state(Batch(questions=ask("eve", period_key()), at_us=NOON_US))
    assert (state.users["eve"].is_unknown, state.users["eve"].spent) == (True, {period_key(): 0})


def test_settle__a_session_opened_in_an_outage__replaces_the_one_of_before(
    backend: Backend, path: Path
) -> None:
    """The later one is open."""
    process = Process(backend, path)
    process.ledger.open()
    earlier = SessionState("old", NOON_US - HOUR_US, NOON_US - HOUR_US)
    before = process.settle(make_event("a"))
    process.ledger.known = lambda: known_of(before, open_session=earlier)
    cut(process, backend)
    assert process.settle().users["ann"].open_session == earlier
    record = SessionRecord("ann", "new", True, NOON_US, NOON_US)
    opened = process.settle(records=(record,)).users["ann"].open_session
    assert opened is not None
    assert opened.session_id == "new"


def test_settle__in_a_restarted_process__forgets_nothing(backend: Backend, path: Path) -> None:
    """What the backend had shown and what was spent since are on the disk."""
    first = Process(backend, path)
    first.ledger.open()
    before = first.settle(make_event("a"))
    first.ledger.known = lambda: known_of(before, plan="pro")
    cut(first, backend)
    first.settle(make_event("b"))
    first.ledger.close()
    second = Process(backend, path)
    second.ledger.open()
    assert second.ledger.is_away
    answer = second.ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US))
    assert (spent(answer), answer.users["ann"].plan, answer.default_plan) == (2_000, "pro", "pro")


def test_settle__of_another_process_of_the_host__joins_and_sees_the_spend(
    process: Process, backend: Backend, path: Path
) -> None:
    """Although the backend would still answer it: one host has one truth."""
    other = Process(backend, path)
    other.ledger.open()
    cut(process, backend)
    process.settle(make_event("a"))
    answer = other.settle(make_event("b"))
    assert (answer.is_provisional, spent(answer)) == (True, 2_000)
    assert spent(process.settle()) == 2_000


# -- the end


def test_settle__with_the_backend_back__sends_everything_once_and_in_order(
    process: Process, backend: Backend
) -> None:
    """Sessions and price lists, too; then figures are the backend's again."""
    cut(process, backend)
    session = SessionRecord("ann", "s9", True, NOON_US, NOON_US)
    prices = PriceRecord("p1", {"a": 1}, NOON_US)
    process.settle(make_event("a", price_id="p1"), records=(session, prices))
    process.settle(make_event("b"), make_event("c"))
    backend.failure = None
    answer = process.settle(make_event("d"))
    assert (answer.is_provisional, spent(answer), process.ledger.is_away) == (False, 4_000, False)
    assert sorted(backend.booked) == ["a", "b", "c", "d"]
    assert (process.ledger.sent_events, process.ledger.unsent_events) == (3, 0)
    booked = backend.event("a")
    assert booked.prices == {"a": 1}
    assert answer.users["ann"].open_session == SessionState("s9", NOON_US, NOON_US)


def test_settle__calls_at_gates_of_an_outage__reach_the_backend_once(
    process: Process, backend: Backend
) -> None:
    """Refusals and counts of unmetered calls wait in the outbox like events; a batch whose answer
    was lost before is among them, and its refusals count once. The namespace is swept clean.
    """
    gate = make_gate_event("g1", calls=2)
    count = UnmeteredCount("p", NOON_US // QUARTER_US * QUARTER_US, "openai:POST /videos", "", 3)
    process.settle(records=(gate,))
    cut(process, backend)
    process.settle(records=(gate, gate._replace(gate_event_id="g2"), count))
    process.settle(records=(count._replace(calls=5),))
    backend.failure = None
    assert not process.settle().is_provisional
    for _ in range(9):
        process.settle()
    start = to_datetime(NOON_US).date()
    gates = read_request({"by": "user", "start": start}, rules=GATES, now_us=NOON_US)
    quality = read_request({"by": "operation", "start": start}, rules=QUALITY, now_us=NOON_US)
    assert backend.store.tally("acme", "gates", gates).total == (0, 4, 4, 0, 0)
    assert backend.store.tally("acme", "quality", quality).total[-1] == 5
    with process.outages.engine.transaction(PRODUCT) as sql:
        for table in ("gate_events", "rollup_gate", "unmetered_calls"):
            found = sql.connection.execute(f"SELECT COUNT(*) AS rows FROM {table}").fetchone()
            assert found["rows"] == 0, table


def test_settle__an_outage_without_events__ends_only_with_an_answer(
    process: Process, backend: Backend
) -> None:
    """An empty outbox does not mean that the backend is there."""
    cut(process, backend)
    for _ in range(3):
        assert process.settle().is_provisional
    backend.failure = None
    assert not process.settle().is_provisional


def test_settle__an_answer_lost_before_the_outage__counts_once(
    process: Process, backend: Backend
) -> None:
    """The batch was booked there, is booked here, and is sent again."""
    backend.losing = 1
    batch = batch_of(make_event("a"), questions=ask("ann", period_key()))
    with pytest.raises(LedgerUnavailable):
        process.ledger.settle(batch)
    backend.failure = LedgerUnavailable("away")
    process.now_s += 6.0
    assert spent(process.ledger.settle(batch)) == 1_000
    backend.failure = None
    assert spent(process.settle()) == 1_000
    assert backend.booked == ["a"]


def test_settle__answers_lost_while_the_outbox_is_sent__count_once(
    process: Process, backend: Backend
) -> None:
    """What is in doubt stays in the outbox."""
    cut(process, backend)
    process.settle(make_event("a"))
    backend.failure, backend.losing = None, 2
    for _ in range(2):
        answer = process.settle()
        assert (answer.is_provisional, spent(answer)) == (True, 1_000)
    assert (process.settle().is_provisional, backend.spent) == (False, 1_000)


def test_settle__many_records__are_sent_in_parts_between_the_processes_own_batches(
    process: Process, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own batches never wait long, and figures are right throughout."""
    monkeypatch.setattr("paygent.ledger.connected._SENT_AT_ONCE", 10)
    cut(process, backend)
    process.settle(*(make_event(f"e{number}") for number in range(35)))
    backend.failure = None
    settle = backend.settle

    def slow(batch: Batch) -> Answer:
        process.now_s += 1.2
        return settle(batch)

    backend.settle = slow  # type: ignore[method-assign]
    seen = []
    for number in range(3):
        answer = process.settle(make_event(f"own{number}"))
        seen.append((answer.is_provisional, spent(answer), len(backend.booked)))
    assert seen == [(True, 36_000, 20), (False, 37_000, 37), (False, 38_000, 38)]


def test_settle__ended_by_another_process__goes_to_the_backend(
    process: Process, backend: Backend, path: Path
) -> None:
    """A batch is booked there, and not in an outage that is over."""
    other = Process(backend, path)
    other.ledger.open()
    cut(process, backend)
    other.settle(make_event("a"))
    backend.failure = None
    process.settle()
    assert not process.ledger.is_away
    other.ledger._backoff.fail(60.0)  # it does not try the backend by itself
    assert other.ledger.is_away
    answer = other.settle(make_event("b"))
    assert (answer.is_provisional, spent(answer), other.ledger.is_away) == (False, 2_000, False)
    assert sorted(backend.booked) == ["a", "b"]


def test_state__after_another_process_has_ended_it__asks_the_backend(
    process: Process, backend: Backend, path: Path
) -> None:
    """The figures of the outage are being swept away."""
    other = Process(backend, path)
    other.ledger.open()
    cut(process, backend)
    other.settle(make_event("a"))
    backend.failure = None
    process.settle()
    process.settle()
    assert other.ledger.is_away
    question = Batch(questions=ask("ann", period_key()), at_us=NOON_US)
    answer = other.ledger.state(question)
    assert (spent(answer), answer.is_provisional) == (1_000, False)


def test_settle__an_event_that_the_backend_refuses__is_set_aside(
    process: Process, backend: Backend, swallowed: Swallowed
) -> None:
    """It does not hold up the others."""
    swallowed.expect("ledger_refused")
    cut(process, backend)
    process.settle(*(make_event(f"e{number}") for number in range(9)))
    backend.failure, backend.refused = None, {"e4"}
    assert not process.settle().is_provisional
    assert sorted(backend.booked) == [f"e{number}" for number in range(9) if number != 4]
    (record,) = process.quarantined
    assert "event_id='e4'" in record["refused"]


def test_settle__a_second_outage__counts_from_the_backends_figures_of_then(
    process: Process, backend: Backend
) -> None:
    """Nothing of the first one is counted again."""
    cut(process, backend)
    process.settle(make_event("a"))
    backend.failure = None
    back = process.settle()
    process.ledger.known = lambda: known_of(back, at_us=NOON_US + 1)
    cut(process, backend)
    assert spent(process.settle(make_event("b"))) == 2_000
    backend.failure = None
    assert spent(process.settle()) == 2_000


def test_sweep__after_an_outage__leaves_nothing_in_the_local_store(
    process: Process, backend: Backend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, with the batches that follow; by the next process if need be."""
    monkeypatch.setattr("paygent.store.outage._SWEEP_USERS", 3)
    cut(process, backend)
    process.settle(*(make_event(f"e{number}", user_id=f"u{number}") for number in range(8)))
    backend.failure = None
    process.settle()
    process.ledger.close()
    other = Process(backend, path)
    other.ledger.open()
    for _ in range(9):
        other.settle()
    other.ledger.close()
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }
        rows = {
            table: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table, names in columns.items()
            if "product_id" in names and not table.startswith("sqlite_")
        }
    connection.close()
    assert {table: count for table, count in rows.items() if count} == {"outages": 1}


def test_begin__by_a_process_that_knows_more_recent_figures__goes_on_from_those(
    backend: Backend, path: Path
) -> None:
    """Of two processes that begin one outage, the one that was connected last knows best."""
    process = Process(backend, path)
    process.ledger.open()
    before = process.settle(make_event("a"))
    old, new = known_of(before, at_us=NOON_US), known_of(before, at_us=NOON_US + 5)
    newer = Known(
        [
            (question, UserLedger(spent={period_key(): 7_000}), new.as_of_us)
            for question, _, _ in new.users
        ],
        new.plans,
        "pro",
        new.as_of_us,
    )
    cut(process, backend)
    for known in (old, newer, old, None):
        process.outages.begin(known)
    assert spent(process.settle()) == 7_000


def test_settle__in_an_outage_that_was_ended__books_nothing(backend: Backend, path: Path) -> None:
    """Not even in part: the store's transaction finds the number of the next one."""
    outages = OutageStore(str(path), PRODUCT)
    number = outages.begin(None)
    assert outages.end(number)
    with pytest.raises(OutageEnded):
        outages.settle(number, batch_of(make_event("a")))
    assert outages.unsent(10).records == []
    assert outages.end(number), "it stays over"
    outages.close()


def test_end__while_the_outbox_has_records__is_not_possible(path: Path) -> None:
    """Whoever has just added one goes first."""
    outages = OutageStore(str(path), PRODUCT)
    number = outages.begin(None)
    record = AssignRecord("ann", "pro", None, None, NOON_US, keeps=True)
    outages.settle(number, batch_of(make_event("a"), records=(record,)))
    assert not outages.end(number)
    unsent = outages.unsent(10)
    assert unsent.records == [record, make_event("a")]
    outages.drop_sent(unsent.last_row)
    assert (outages.end(number), outages.running(), outages.ended()) == (True, None, number)
    outages.close()


def test_reading__report_and_event__are_the_backends(process: Process, backend: Backend) -> None:
    """They are not kept on this host."""
    process.settle(make_event("a"))
    assert process.ledger.event("a") is not None
    request = SpendRequest(("user",), start=NOON_US - HOUR_US, end=NOON_US + HOUR_US)
    assert process.ledger.report(request).page.total.calls == 1
    assert not process.ledger.is_polling


@pytest.mark.parametrize("has_store", [True, False])
def test_fork__and_end__reach_both(backend: Backend, path: Path, has_store: bool) -> None:
    """A child starts over: it joins the outage as a process of its own."""
    process = Process(backend, path)
    if not has_store:
        process.ledger = ConnectedLedger(backend, None)  # type: ignore[arg-type]
    process.ledger.open()
    process.ledger.pause_for_fork()
    process.ledger.resume_after_fork()
    process.ledger.forget_after_fork()
    process.ledger.close()
    assert backend.calls == ["pause_for_fork", "resume_after_fork", "forget_after_fork", "close"]
    assert not process.ledger.is_away


def test_settle__with_the_disk_full_in_an_outage__keeps_the_batch_in_the_journal(
    process: Process, backend: Backend, path: Path
) -> None:
    """Nothing is acknowledged that is not on the disk; it works again when there is room."""
    cut(process, backend)
    process.settle(make_event("a"))
    process.outages.engine.close()
    os.chmod(path, 0o400)
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.mkdir()
    with pytest.raises(LedgerUnavailable):
        process.settle(make_event("b"))
    path.rmdir()
    moved.rename(path)
    os.chmod(path, 0o600)
    assert spent(process.settle(make_event("b"))) == 2_000


def test_open__with_a_local_store_of_other_products__begins_nothing(
    backend: Backend, path: Path
) -> None:
    """Local mode and a backend may share a file."""
    store = SqliteStore(str(path))
    store.ingest("default", batch_of(make_event("theirs")))
    store.close()
    process = Process(backend, path)
    process.ledger.open()
    assert (process.ledger.is_away, process.settle(make_event("a")).is_provisional) == (
        False,
        False,
    )
    process.ledger.close()


def test_settle__plans_of_the_application__count_on_this_host_and_are_not_sent(
    process: Process, backend: Backend, path: Path
) -> None:
    """The backend's own win where it has some; until then other processes know these."""
    plan = PlanRecord("own", {"max_spend_per_period": "5"}, NOON_US)
    assigned = AssignRecord("ann", "own", None, None, NOON_US)
    process.settle(make_event("a"), records=(plan, assigned))
    assert backend.state(Batch(at_us=NOON_US)).plans == {}
    cut(process, backend)
    process.settle(make_event("b"), records=(plan, assigned))
    other = Process(backend, path)
    other.ledger.open()
    answer = other.settle()
    assert answer.plans == {"own": (1, plan.document)}
    assert (answer.users["ann"].plan, answer.users["ann"].is_unknown) == ("own", False)
    backend.failure = None
    process.settle()
    there = backend.state(Batch(questions=ask("ann"), at_us=NOON_US))
    assert (there.plans, there.users["ann"].plan, sorted(backend.booked)) == ({}, None, ["a", "b"])
    other.ledger.close()


def test_settle__while_somebody_waits_for_it__is_kept_at_once(
    process: Process, backend: Backend, path: Path
) -> None:
    """A short process knows what the one before it has spent, although no server is there."""
    backend.failure = LedgerUnavailable("away")
    with pytest.raises(LedgerUnavailable):
        process.ledger.settle(batch_of(make_event("a")))
    process.ledger.is_urgent = lambda: True
    assert process.ledger.settle(batch_of(make_event("a"))).is_provisional
    other = Process(backend, path)
    other.ledger.open()
    assert spent(other.settle()) == 1_000
    other.ledger.close()


def test_open__again_and_again__does_not_make_a_failing_backend_look_well(
    process: Process, backend: Backend
) -> None:
    """It answers, and books nothing: what the dead have left cannot be delivered to it."""

    def settle(batch: Batch) -> Answer:
        raise LedgerUnavailable(f"status 500, {len(batch.events)} events")

    backend.settle = settle  # type: ignore[method-assign]
    for _ in range(2):
        process.ledger.open()
        with pytest.raises(LedgerUnavailable):
            process.ledger.settle(batch_of(make_event("a")))
        process.now_s += 3.0
    process.ledger.open()
    assert process.ledger.settle(batch_of(make_event("a"))).is_provisional


def test_drop_sent__by_a_process_that_was_stopped_meanwhile__deletes_only_what_it_has_sent(
    path: Path,
) -> None:
    """It goes on in a later outage, or after others have emptied the outbox: rows have their
    numbers for ever.
    """
    outages = OutageStore(str(path), PRODUCT)
    number = outages.begin(None)
    outages.settle(number, batch_of(make_event("a"), make_event("b")))
    stopped = outages.unsent(10)
    outages.drop_sent(stopped.last_row)
    outages.settle(number, batch_of(make_event("c")))
    outages.drop_sent(stopped.last_row)
    assert (outages.unsent(10).records, outages.unsent_events()) == ([make_event("c")], 1)
    outages.drop_sent(outages.unsent(10).last_row)
    assert outages.end(number)
    again = outages.begin(None)
    outages.settle(again, batch_of(make_event("d")))
    outages.drop_sent(stopped.last_row)
    assert outages.unsent(10).records == [make_event("d")]
    outages.close()


def test_join__that_fails__is_tried_again_with_what_the_process_knows(
    backend: Backend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its users would start from nothing."""
    process, other = Process(backend, path), Process(backend, path)
    process.ledger.open()
    other.ledger.open()
    before = other.settle(make_event("a"))
    other.ledger.known = lambda: known_of(before)
    cut(process, backend)
    begin = other.outages.begin
    failures = iter([StoreBusy("locked")])

    def fail_once(known: Known | None) -> int:
        for failure in failures:
            raise failure
        return begin(known)

    monkeypatch.setattr(other.outages, "begin", fail_once)
    with pytest.raises(LedgerUnavailable):
        other.settle()
    assert spent(other.settle(make_event("b"))) == 2_000
    other.ledger.close()


def test_settle__of_a_user_read_long_ago__leaves_the_more_recent_figure_of_another_process(
    process: Process, backend: Backend, path: Path
) -> None:
    """A process may have heard from the backend just now, and not of this user."""
    question = Question("ann", (period_key(),), MONTH.start_us)
    recent = UserLedger(spent={period_key(): 9_000}, period_start_us=MONTH.start_us)
    stale = UserLedger(spent={period_key(): 20}, period_start_us=MONTH.start_us)
    cut(process, backend)
    process.outages.begin(Known([(question, recent, NOON_US)], {}, None, NOON_US))
    process.outages.begin(Known([(question, stale, NOON_US - 60)], {}, None, NOON_US + 5))
    assert spent(process.settle()) == 9_000


def test_settle__in_a_long_outage__lets_a_rolling_sum_decay(
    process: Process, backend: Backend
) -> None:
    """Whoever was at the line does not stay there."""
    key = rolling_key()
    question = Question("ann", (key,), MONTH.start_us)
    full = UserLedger(spent={key: 24_000}, shadow={key: 2_400}, period_start_us=MONTH.start_us)
    cut(process, backend)
    process.outages.begin(Known([(question, full, NOON_US)], {}, None, NOON_US))
    left = []
    for hours in (0, 6, 23, 24, 48):
        batch = Batch(questions=(question,), at_us=NOON_US + hours * HOUR_US)
        state = process.ledger.state(batch).users["ann"]
        left.append((state.spent[key], state.shadow.get(key, 0)))
    assert left == [(24_000, 2_400), (18_000, 1_800), (1_000, 100), (0, 0), (0, 0)]


def test_settle__with_a_local_store_that_cannot_be_made__raises_what_the_backend_says(
    backend: Backend, tmp_path: Path
) -> None:
    """The key is what has to be mended first."""
    (tmp_path / "is-a-folder").mkdir()
    process = Process(backend, tmp_path / "is-a-folder")
    process.ledger.open()
    backend.failure = LedgerUnauthorised("status 401")
    for _ in range(3):
        with pytest.raises(LedgerUnauthorised, match="401"):
            process.settle()
