"""The contract of audit and repair; every engine passes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    NOON_US,
    PRODUCT,
    TODAY_US,
    ask,
    batch_of,
    day_key,
    fold,
    make_correction,
    make_event,
    period_key,
    session_key,
)
from tests.contract.stores import Clock, Stores, clock, execute, store, stores
from tests.contract.test_directory import make_gate_event

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.limit import LimitKey
from paygent.store import audit
from paygent.store.directory_port import Difference
from paygent.store.gates import GATE_FIGURES
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy
from paygent.store.rollups import FIGURES
from paygent.store.statements import Statements

__all__ = ["clock", "store", "stores"]  # fixtures

OTHER = "globex"
KEYS = (
    period_key(),
    period_key("tokens", "gpt-4o"),
    period_key("tokens", "gpt-4o-2024-08-06"),
    period_key("calls"),
    day_key(),
    day_key(at_us=NOON_US - DAY_US),
    session_key("s1"),
    session_key("s1", "tokens", "gpt-4o"),
    session_key("s2", "calls"),
)


def fill(store: SqlStore, product: str = PRODUCT) -> None:
    """Book events of every kind, for users with and without accounts."""
    questions = ask("ann", *KEYS)
    plain = make_event("a")
    doubtful = make_event("b", quality="estimated", session_id="s2", at_us=NOON_US - DAY_US)
    blocked = make_event("c", blocked=True, cost_tools_nano=7)
    store.ingest(product, batch_of(plain, doubtful, blocked, questions=questions))
    others = [
        make_event("d", model_key="o3", provider="azure", session_id=""),
        make_event("e", user_id="bob", quality="unpriced", cost_tokens_nano=0),
        make_event("f", user_id="bob", blocked=True, quality="estimated"),
        make_correction("g", plain),
        make_correction("h", doubtful),  # ends the doubt
        make_correction("i", blocked, quality="estimated", cost_tokens_nano=9),
    ]
    store.ingest(product, batch_of(*others))
    # A correction that restates, before its original and after it.
    early = make_event("k", at_us=NOON_US + 1)
    restating = make_correction(
        "j", early, input_tokens=9, output_tokens=9, cost_tokens_nano=99, restates=True
    )
    store.ingest(product, batch_of(restating))
    store.ingest(product, batch_of(early))
    store.ingest(product, batch_of(restating._replace(event_id="l", corrects="a")))
    store.add_gate_events(
        product,
        [
            make_gate_event("g1"),
            make_gate_event("g2", status="soft_gate", blocked=False),
            make_gate_event("g3", "bob", at_us=NOON_US - DAY_US),
        ],
    )


def differences(store: SqlStore, product: str = PRODUCT) -> list[Difference]:
    """Return what an audit finds."""
    return list(store.audit(product))


def test_audit__an_empty_product__is_clean(store: SqlStore) -> None:
    """Neither an audit nor a repair creates a product."""
    assert differences(store) == []
    assert store.repair(PRODUCT) == 0
    assert not store.has_products()


def test_audit__events_of_every_kind__are_clean(store: SqlStore) -> None:
    """Corrections, doubts, shadow, sessions, models, gates: what was booked is the fold."""
    fill(store)
    assert differences(store) == []
    assert store.repair(PRODUCT) == 0


SPEND = {"model": "gpt-4o", "provider": "openai", "plan": "default"}

ROW_KEYS: Mapping[str, Mapping[str, Any]] = {
    "accounts": {
        "user_id": "ann",
        "session_id": "s1",
        "start_us": session_key("s1").start_us,
        "end_us": session_key("s1").end_us,
        "metric": "tokens",
        "scope": "session",
        "model": "gpt-4o",
        "window_rule": "session",
    },
    "rollup_user of a day": {
        "span": "2024-10-04",
        "user_id": "ann",
        "period_start_us": period_key().start_us,
        **SPEND,
    },
    "rollup_user of a month": {
        "span": "2024-10",
        "user_id": "bob",
        "period_start_us": period_key().start_us,
        **SPEND,
    },
    "rollup_product": {"span": "2024-10-04", "model": "o3", "provider": "azure", "plan": "default"},
    "rollup_gate": {"user_id": "bob", "day": "2024-10-03", "gate_reason": "total_spend"},
}
"""One row of each table, or of each kind of its rows."""

COLUMNS = [
    *(("accounts", each) for each in ("spent", "shadow")),
    *((row, each) for row in ROW_KEYS if row[:8] == "rollup_u" for each in FIGURES),
    *(("rollup_product", each) for each in FIGURES),
    *(("rollup_gate", each) for each in GATE_FIGURES),
]


def table_of(row: str) -> str:
    """Return the table of a row of `ROW_KEYS`."""
    return row.partition(" ")[0]


def condition(row: str) -> str:
    """Return the condition that finds it."""
    return " AND ".join(f"{name} = {value!r}" for name, value in ROW_KEYS[row].items())


@pytest.mark.parametrize(("row", "column"), COLUMNS, ids=lambda each: str(each))
def test_audit__a_counter_that_was_falsified__is_found_and_no_other(
    store: SqlStore, row: str, column: str
) -> None:
    """The difference names table, row, figure and both values; a repair ends it."""
    fill(store)
    fill(store, OTHER)
    table = table_of(row)
    execute(
        store,
        f"UPDATE {table} SET {column} = {column} + 5"
        f" WHERE product_id = '{PRODUCT}' AND {condition(row)}",
    )
    (found,) = differences(store)
    assert (found.table, found.column) == (table, column)
    assert found.key == ROW_KEYS[row]
    assert found.stored == found.folded + 5
    assert differences(store, OTHER) == []
    assert store.repair(OTHER) == 0
    assert differences(store) == [found]
    assert store.repair(PRODUCT) == 1
    assert differences(store) == []
    assert store.repair(PRODUCT) == 0


@pytest.mark.parametrize("row", ROW_KEYS)
def test_audit__a_row_that_is_missing__is_found_and_repaired(store: SqlStore, row: str) -> None:
    """A row without which events are not counted has zeros; accounts are opened by questions, so
    a missing account is opened again by the next one.
    """
    fill(store)
    table = table_of(row)
    execute(store, f"DELETE FROM {table} WHERE {condition(row)}")
    found = differences(store)
    if table == "accounts":
        assert found == []
        return
    assert {(each.table, each.stored) for each in found} == {(table, 0)}
    assert all(each.key == ROW_KEYS[row] for each in found)
    assert store.repair(PRODUCT) == len(found)
    assert differences(store) == []


def test_audit__counters_of_a_user_without_a_row__are_found(store: SqlStore) -> None:
    """Counters that belong to no user and no event are differences, too."""
    fill(store)
    for row in ROW_KEYS:
        if row != "rollup_product":
            execute(store, f"UPDATE {table_of(row)} SET user_id = 'zoe' WHERE {condition(row)}")
    execute(store, "UPDATE rollup_product SET span = '1999-01-01' WHERE span = '2024-10-04'")
    found = differences(store)
    strays = [each for each in found if each.folded == 0]
    users = {each.key.get("user_id", each.key.get("span")) for each in strays}
    assert users == {"zoe", "1999-01-01"}
    assert {each.table for each in strays} == {table_of(row) for row in ROW_KEYS}
    assert store.repair(PRODUCT) == len(found)
    assert differences(store) == []


def test_audit__an_event_that_was_added_past_the_ledger__is_found(store: SqlStore) -> None:
    """It is in no counter, so that each that should have it differs."""
    fill(store)
    execute(store, "UPDATE events SET cost_tokens_nano = cost_tokens_nano + 3 WHERE event_id = 'd'")
    found = differences(store)
    assert {each.table for each in found} == {"rollup_user", "rollup_product", "accounts"}
    assert {each.folded - each.stored for each in found} == {3}
    assert store.repair(PRODUCT) == len(found)
    assert differences(store) == []


def test_audit__small_pages__find_the_same(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every range and page is read once."""
    fill(store)
    for number in range(7):
        events = [make_event(f"x{each}", user_id=f"u{number}") for each in range(3)]
        store.ingest(PRODUCT, batch_of(*events, questions=ask(f"u{number}", period_key())))
    columns = {"accounts": "spent", "rollup_user": "calls", "rollup_gate": "hard"}
    for table, column in columns.items():
        execute(store, f"UPDATE {table} SET {column} = {column} + 1")
    expected = differences(store)
    assert len(expected) > 20
    for users_page in (1, 2, 3, 9):
        for rows_page in (1, 2, 7):
            monkeypatch.setattr(audit, "_USERS_PAGE", users_page)
            monkeypatch.setattr(audit, "_ROWS_PAGE", rows_page)
            found = differences(store)
            assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert store.repair(PRODUCT) == len(expected)
    assert differences(store) == []


def test_audit__a_zone__has_its_days_and_months(store: SqlStore) -> None:
    """Days are those of the product's zone, also of gate events."""
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, "UPDATE products SET timezone = 'Asia/Tokyo'")
    fill(store)
    late = TODAY_US + 20 * HOUR_US
    store.ingest(PRODUCT, batch_of(make_event("z", at_us=late)))
    store.add_gate_events(PRODUCT, [make_gate_event("z", at_us=late)])
    assert differences(store) == []
    execute(store, "UPDATE rollup_gate SET hard = hard + 1 WHERE day = '2024-10-05'")
    (found,) = differences(store)
    assert found.key["day"] == "2024-10-05"


def test_audit__slots_of_several_writers__are_summed(store: SqlStore, stores: Stores) -> None:
    """A product's rows are kept in slots; only their sum has a meaning."""
    fill(store)
    row = f"'{PRODUCT}', '2024-10-04', 'o3', 'azure', 'default'"
    execute(
        store,
        f"INSERT INTO rollup_product (product_id, span, model, provider, plan, slot,"
        f" {', '.join(FIGURES)}) VALUES"
        f" ({row}, 98, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0), ({row}, 99, -5, 0, 0, 0, 1, 0, 0, 0, 0, 0)",
    )
    (found,) = differences(store)
    assert (found.column, found.stored - found.folded) == ("cost_nano", 1)
    assert store.repair(PRODUCT) == 1
    assert differences(store) == []


def test_audit__the_same_id_of_two_users__is_two_events(store: SqlStore) -> None:
    """A correction ends the doubt of its own user's event."""
    theirs = make_event("a", user_id="bob", quality="estimated")
    own = make_event("a", quality="estimated")
    store.ingest(PRODUCT, batch_of(theirs, own))
    store.ingest(PRODUCT, batch_of(make_correction("c", own)))
    assert differences(store) == []


def test_audit__an_iterator_that_is_not_finished__leaves_no_transaction(store: SqlStore) -> None:
    """Whoever needs one difference closes the iterator, and the store is usable."""
    fill(store)
    execute(store, "UPDATE rollup_user SET calls = calls + 1")
    found = store.audit(PRODUCT)
    assert next(found).table == "rollup_user"
    found.close()  # type: ignore[attr-defined]
    store.ingest(PRODUCT, batch_of(make_event("later")))
    assert store.repair(PRODUCT) > 1


@pytest.mark.parametrize("verb", ["audit", "repair"])
def test_audit__progress__reaches_its_end(store: SqlStore, verb: str) -> None:
    """Progress counts users and days up to their number."""
    fill(store)
    seen: list[tuple[int, int]] = []

    def note(done: int, steps: int) -> None:
        seen.append((done, steps))

    found = getattr(store, verb)(PRODUCT, progress=note)
    if verb == "audit":
        assert list(found) == []
    assert seen == [(2, 4), (3, 4), (4, 4)]


def test_repair__while_events_are_booked__loses_none(
    store: SqlStore, stores: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair adds what is missing, and whatever is booked at the same time stays."""
    monkeypatch.setattr(audit, "_USERS_PAGE", 2)
    users = [f"u{number}" for number in range(6)]
    for user_id in users:
        store.ingest(PRODUCT, batch_of(questions=ask(user_id, period_key(), session_key("s1"))))
    other = stores.again(store)
    stopped = threading.Event()
    booked = [0]

    def book() -> None:
        while not stopped.is_set():
            number = booked[0]
            events = [make_event(f"e{number}_{each}", user_id=each) for each in users]
            new = make_event(f"n{number}", user_id=f"v{number}")
            batch = batch_of(*events, new, questions=ask(f"v{number}", period_key()))
            try:
                other.ingest(PRODUCT, batch)
            except StoreBusy:
                continue  # as a sender repeats a batch: SQLite queues no writers
            booked[0] += 1

    thread = threading.Thread(target=book)
    thread.start()
    try:
        repaired = 0
        for _ in range(8):
            execute(store, "UPDATE accounts SET spent = spent + 7 WHERE user_id <= 'u3'")
            execute(store, "UPDATE rollup_user SET calls = calls + 1 WHERE user_id <= 'u3'")
            repaired += store.repair(PRODUCT)
    finally:
        stopped.set()
        thread.join()
    assert booked[0] > 0
    assert repaired >= 8 * 8
    assert differences(store) == []


def test_repair__a_booking_between_its_statements__waits(
    store: SqlStore, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts and events are read of one moment: whoever books for these users waits."""
    fill(store)
    execute(store, "UPDATE accounts SET spent = spent + 1")
    other = stores.again(store)
    late = batch_of(make_event("late"), make_event("late", user_id="bob"))
    thread = threading.Thread(target=lambda: other.ingest(PRODUCT, late))
    stream = audit._stream

    def book_first(read: Any, key: Mapping[str, Any], before: str) -> Iterator[Any]:
        if "event_id" in key and thread.ident is None:
            thread.start()
            thread.join(0.5)  # it would have ended without the locks
        yield from stream(read, key, before)

    monkeypatch.setattr(audit, "_stream", book_first)
    assert store.repair(PRODUCT) == len(KEYS)
    thread.join()
    assert differences(store) == []
    assert len(store.events(PRODUCT, "bob")) == 3


def test_repair__in_the_middle_of_another__repairs_nothing_twice(
    store: SqlStore, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two repairs do not add the same difference twice."""
    fill(store)
    execute(store, "UPDATE rollup_user SET calls = calls + 1")
    execute(store, "UPDATE accounts SET spent = spent + 1")
    expected = len(differences(store))
    other = stores.again(store)
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(other.repair(PRODUCT)))
    differing_rows = audit._differing_rows_of_day

    def repair_first(sql: Statements, day: str) -> list[audit.DifferingRow]:
        found = list(differing_rows(sql, day))
        if thread.ident is None:
            thread.start()
            thread.join(0.5)  # it would have ended without the lock
        return found

    monkeypatch.setattr(audit, "_differing_rows_of_day", repair_first)
    counts.append(store.repair(PRODUCT))
    thread.join()
    assert differences(store) == []
    assert sum(counts) == expected


# -- the fold of accounts

_MODELS = ("gpt-4o", "o3", "")
_TIMES = st.integers(0, 12)


def _event(number: int, at_us: int, session_id: str, model: str, key: str, fields: Any) -> Event:
    cost, blocked, is_correction = fields
    return make_event(
        *(f"e{number}",),
        at_us=at_us,
        session_id=session_id,
        model=model,
        model_key=key,
        cost_tokens_nano=cost,
        blocked=blocked,
        corrects="x" if is_correction else None,
    )


_EVENTS = st.lists(
    st.tuples(
        _TIMES,
        st.sampled_from(("", "s1", "s2")),
        st.sampled_from(_MODELS),
        st.sampled_from(_MODELS),
        st.tuples(st.integers(-9, 9), st.booleans(), st.booleans()),
    ),
    max_size=20,
).map(lambda drawn: [_event(number, *each) for number, each in enumerate(drawn)])

_KEYS = st.lists(
    st.builds(
        lambda metric, model, session_id, start_us, end_us: AccountKey(
            LimitKey(metric, "session" if session_id else "user", model, "day"),
            *(session_id, start_us, end_us),
        ),
        st.sampled_from(("spend", "tokens", "calls")),
        st.sampled_from(_MODELS),
        st.sampled_from(("", "s1", "s2", "s3")),
        _TIMES,
        _TIMES,
    ),
    max_size=12,
)


@given(events=_EVENTS, keys=_KEYS)
def test_fold_accounts__any_windows__are_the_one_rule(
    events: list[Event], keys: list[AccountKey]
) -> None:
    """The running sums count what `AccountKey.counts` counts, for windows of any kind."""
    rows = [
        {
            **event._asdict(),
            "cost_nano": event.cost_nano,
            "tokens": event.total_tokens,
            "calls": event.calls,
            "blocked": int(event.blocked),
        }
        for event in sorted(events, key=lambda each: each.at_us)
    ]
    blocked = [event for event in events if event.blocked]
    expected = [(fold(events, "ann", key), fold(blocked, "ann", key)) for key in keys]
    assert audit.fold_accounts(keys, rows) == expected
