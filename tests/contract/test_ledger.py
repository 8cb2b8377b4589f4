"""The contract of the Ledger port; every adapter passes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    NOON_US,
    PRODUCT,
    TODAY_US,
    ask,
    batch_of,
    make_correction,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.integration.server.service import listening

from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    BookedEvent,
    PlanRecord,
    PriceRecord,
    SessionRecord,
    SessionState,
)
from paygent.core.period import Subscription, to_datetime
from paygent.core.report import Figures, SpendPage, SpendRow
from paygent.core.report_request import SpendRequest, read_request
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import Ledger, LedgerUnavailable
from paygent.ledger.remote import RemoteLedger
from paygent.ledger.transport import HttpTransport
from paygent.store.sqlite import SqliteStore


def _over_file(folder: Path) -> Ledger:
    path = str(folder / "ledger.db")
    return LocalLedger(PRODUCT, SqliteStore(path), SqliteStore(path))


@contextmanager
def _local_file(folder: Path) -> Iterator[Ledger]:
    yield _over_file(folder)


@contextmanager
def _local_memory(folder: Path) -> Iterator[Ledger]:
    assert folder.is_dir()
    store = SqliteStore(":memory:")
    yield LocalLedger(PRODUCT, store, store)


@contextmanager
def _remote(folder: Path) -> Iterator[Ledger]:
    """Over a socket, with a key that may change plans, which an application's may not."""
    store = SqliteStore(str(folder / "server.db"), readers=8)
    store.open()
    with listening(store) as service:
        address = str(service.client.base_url).rstrip("/")
        yield RemoteLedger(HttpTransport(address, service.keys["admin"]))
    store.close()


_Adapter = Callable[[Path], AbstractContextManager[Ledger]]
_LOCAL: dict[str, _Adapter] = {
    "local_sqlite_file": _local_file,
    "local_sqlite_memory": _local_memory,
}
_ADAPTERS: dict[str, _Adapter] = {**_LOCAL, "remote": _remote}


def _opened(adapter: _Adapter, folder: Path) -> Iterator[Ledger]:
    with adapter(folder) as made:
        made.open()
        yield made
        made.close()


@pytest.fixture(params=sorted(_ADAPTERS))
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger that is open."""
    yield from _opened(_ADAPTERS[request.param], tmp_path)


@pytest.fixture(params=sorted(_LOCAL))
def local_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """The same in this process; a backend is asked for reports and events over its own API."""
    yield from _opened(_LOCAL[request.param], tmp_path)


def test_settle__events_and_questions__books_and_answers_at_once(ledger: Ledger) -> None:
    """The answer reflects the very batch that asked."""
    answer = ledger.settle(
        batch_of(
            make_event("a"),
            records=(
                PlanRecord("pro", {"price": 1}, NOON_US),
                AssignRecord("ann", "pro", None, None, NOON_US),
                SessionRecord("ann", "open", True, NOON_US, NOON_US),
            ),
            questions=ask("ann", period_key(), session_key("s1"), rolling_key()),
        )
    )
    state = answer.users["ann"]
    assert answer.counted == {"a"}
    assert answer.plans == {"pro": (1, {"price": 1})}
    assert (state.plan, state.open_session) == ("pro", SessionState("open", NOON_US, NOON_US))
    assert set(state.spent.values()) == {1_000}
    assert state.by_model == {"gpt-4o": (30, 1_000)}


def test_settle__a_batch_again__changes_nothing(ledger: Ledger) -> None:
    """A process that never heard the answer sends the batch again."""
    period = Subscription(TODAY_US, TODAY_US + 30 * DAY_US)
    batch = batch_of(
        make_event("a"),
        records=(
            PlanRecord("pro", {"price": 1}, NOON_US),
            AssignRecord("ann", "pro", {"price": 2}, period, NOON_US),
            SessionRecord("ann", "open", True, NOON_US, NOON_US),
        ),
        questions=ask("ann", period_key()),
    )
    first = ledger.settle(batch)
    again = ledger.settle(batch)
    assert first.counted == {"a"}
    assert again.counted == frozenset()
    assert (first.users, first.plans) == (again.users, again.plans)


def test_settle__a_batch_of_long_ago__does_not_undo_what_was_written_since(
    ledger: Ledger,
) -> None:
    """The last change wins, however late the other one is sent again: it is as old as its sender's
    clock says at that moment.
    """
    old = Batch(
        records=(
            PlanRecord("pro", {"price": 1}, NOON_US),
            AssignRecord("ann", "free", None, None, NOON_US),
        ),
        at_us=NOON_US,
    )
    ledger.settle(old)
    ledger.settle(
        Batch(
            records=(
                PlanRecord("pro", {"price": 2}, NOON_US + 1),
                AssignRecord("ann", "pro", None, None, NOON_US + 1),
            ),
            at_us=NOON_US + 1,
        )
    )
    ledger.settle(replace(old, at_us=NOON_US + HOUR_US))
    answer = ledger.state(Batch(questions=ask("ann"), at_us=NOON_US + HOUR_US))
    assert answer.users["ann"].plan == "pro"
    assert answer.plans["pro"][1] == {"price": 2}


def test_settle__records_of_a_batch__apply_in_their_order(ledger: Ledger) -> None:
    """Of two assignments in a batch the later one holds."""
    ledger.settle(
        Batch(
            records=(
                AssignRecord("ann", "free", None, None, NOON_US),
                AssignRecord("ann", "pro", None, None, NOON_US),
            )
        )
    )
    assert ledger.state(Batch(questions=ask("ann"), at_us=NOON_US)).users["ann"].plan == "pro"


def test_settle__a_batch_with_a_bad_event__is_rejected_and_leaves_nothing(ledger: Ledger) -> None:
    """A batch is booked wholly or not at all; what can never be booked is not sent for ever."""
    with pytest.raises(Exception) as raised:
        ledger.settle(
            batch_of(
                make_event("a"),
                make_event("bad", input_tokens=None),
                records=(AssignRecord("ann", "pro", None, None, NOON_US),),
            )
        )
    assert not isinstance(raised.value, LedgerUnavailable)
    state = ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US)).users["ann"]
    assert (state.plan, state.spent) == (None, {period_key(): 0})
    assert ledger.settle(batch_of(make_event("a"))).counted == {"a"}


def test_state__after_a_settlement__is_fresh(ledger: Ledger) -> None:
    """What is asked on the other connection reflects every batch settled before."""
    for number in range(3):
        ledger.settle(batch_of(make_event(f"e{number}")))
        state = ledger.state(
            Batch(questions=ask("ann", period_key(), session_key("s1")), at_us=NOON_US)
        ).users["ann"]
        assert set(state.spent.values()) == {(number + 1) * 1_000}


def test_state__nothing_asked__tells_of_the_plans(ledger: Ledger) -> None:
    """A process may ask for the plans alone."""
    ledger.settle(Batch(records=(PlanRecord("pro", {}, NOON_US),)))
    answer = ledger.state(Batch(questions=(), at_us=NOON_US))
    assert replace(answer, plans_version="") == Answer(plans={"pro": (1, {})})


def test_report__days__returns_usage_by_user_and_model(local_ledger: Ledger) -> None:
    """A report is of whole days, from the first to before the last."""
    local_ledger.settle(batch_of(make_event("a"), make_event("b", at_us=NOON_US + DAY_US)))
    days = {"start": to_datetime(TODAY_US), "end": to_datetime(TODAY_US + DAY_US)}
    report = local_ledger.report(read_request({"by": ("user", "model"), **days}))
    sums = Figures(calls=1, input_tokens=20, output_tokens=10, cost_nano=1_000)
    assert report.page == SpendPage((SpendRow(("ann", "gpt-4o"), sums),), sums, None)


def test_event__booked__is_found_with_what_belongs_to_it(local_ledger: Ledger) -> None:
    """An event is read back with its corrections and the price list that it names."""
    original = make_event("a", price_id="list-1")
    correction = make_correction("c", original)
    local_ledger.settle(batch_of(original, records=(PriceRecord("list-1", {"v": 1}, NOON_US),)))
    assert local_ledger.event("a") == BookedEvent(original, (), {"v": 1})
    local_ledger.settle(batch_of(correction))
    assert local_ledger.event("a") == BookedEvent(original, (correction,), {"v": 1})
    assert local_ledger.event("b") is None


def test_settle__corrections_again__change_nothing(ledger: Ledger) -> None:
    """A correction is an event: sent twice, it corrects once."""
    batch = batch_of(
        make_event("a"), make_correction("c", make_event("a")), questions=ask("ann", period_key())
    )
    assert ledger.settle(batch).users["ann"].spent == {period_key(): 900}
    assert ledger.settle(batch).users["ann"].spent == {period_key(): 900}


def test_ledger__settled_and_asked_by_two_threads__is_safe(ledger: Ledger) -> None:
    """One thread settles while another asks; what is read only ever grows, by whole batches."""
    failed: list[LedgerUnavailable] = []
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                users = ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US)).users
                seen.append(users["ann"].spent[period_key()])
        except LedgerUnavailable as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        ledger.settle(batch_of(make_event(f"{number}a"), make_event(f"{number}b")))
    done.set()
    reader.join(10)
    assert failed == []
    assert seen == sorted(seen)
    assert [value for value in seen if value % 2_000] == []


def test_open__again__is_idempotent(ledger: Ledger) -> None:
    """The worker opens until it succeeds."""
    ledger.open()
    assert ledger.settle(batch_of(make_event("a"))).counted == {"a"}


def test_close__closed_already__is_fine(ledger: Ledger) -> None:
    """Shutdown may come twice."""
    ledger.close()
    ledger.close()


# -- an absent ledger


def test_ledger__that_cannot_be_opened__is_unavailable_in_every_verb(tmp_path: Path) -> None:
    """ "Not now" is one exception, whatever the store's reason."""
    (tmp_path / "file").write_text("in the way")
    ledger = _over_file(tmp_path / "file")
    with pytest.raises(LedgerUnavailable, match="unable to open"):
        ledger.open()
    with pytest.raises(LedgerUnavailable):
        ledger.settle(Batch())
    with pytest.raises(LedgerUnavailable):
        ledger.state(Batch(questions=(), at_us=NOON_US))
    with pytest.raises(LedgerUnavailable):
        ledger.report(SpendRequest(("user",)))
    with pytest.raises(LedgerUnavailable):
        ledger.event("a")


def test_forget_after_fork__both_connections__are_made_anew(tmp_path: Path) -> None:
    """A child works on connections of its own."""
    ledger = _over_file(tmp_path)
    ledger.settle(batch_of(make_event("a")))
    ledger.state(Batch(questions=(), at_us=NOON_US))
    ledger.forget_after_fork()
    assert ledger.settle(batch_of(make_event("b"))).counted == {"b"}
    assert ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US)).users[
        "ann"
    ].spent == {period_key(): 2_000}
    ledger.close()


# -- batches in doubt


def test_booked_through__of_a_holder__is_that_of_the_figures(ledger: Ledger) -> None:
    """Whichever lane asks learns whether a batch without an answer is in them."""
    question = Batch(questions=ask("ann", period_key()), at_us=NOON_US, holder="ours")
    assert ledger.state(question).booked_through == 0
    batch = batch_of(make_event("a"), questions=question.questions, holder="ours", number=7)
    assert ledger.settle(batch).booked_through == 7
    answer = ledger.state(question)
    assert (answer.booked_through, answer.users["ann"].spent[period_key()]) == (7, 1_000)
    again = ledger.settle(batch)
    assert (again.counted, again.booked_through) == (frozenset(), 7)
    assert again.users["ann"].spent[period_key()] == 1_000
    assert ledger.state(replace(question, holder="theirs")).booked_through == 0


def test_changed__after_an_assignment__names_the_user_from_a_time_on(ledger: Ledger) -> None:
    """A process learns of users who have made no call in it."""
    began = ledger.settle(batch_of(news_since_us=0))
    assert (began.changed, began.news_until_us > 0) == (frozenset(), True)
    record = AssignRecord("ann", "pro", None, None, NOON_US)
    ledger.settle(batch_of(records=(record,)))
    news = ledger.settle(batch_of(news_since_us=began.news_until_us))
    assert news.changed == {"ann"}
