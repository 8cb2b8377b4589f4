"""The contract of erasing a user; every engine passes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    MONTH,
    NOON_US,
    PRODUCT,
    TODAY_US,
    ask,
    batch_of,
    make_correction,
    make_event,
    period_key,
    session_key,
    usage_of,
)
from tests.contract.stores import (
    LATER_US,
    ODD,
    Clock,
    Stores,
    at_once,
    clock,
    execute,
    store,
    stores,
)
from tests.contract.test_directory import (
    make_gate_event,
    make_override,
    make_revenue,
    read_revenue,
    remember,
    user_of,
)

from paygent.core.messages import Batch, SessionRecord
from paygent.core.period import Subscription
from paygent.store import erasure
from paygent.store.directory_port import GateEventFilter, UserChange
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy
from paygent.store.postgres import PostgresStore

__all__ = ["clock", "store", "stores"]  # fixtures

OTHER = "globex"
MARK = "ann-sophie"
"""The id to erase; no other text of these tests contains it."""

_WAIT_S = 30.0


def fill(store: SqlStore, product: str = PRODUCT) -> None:
    """Write the user into every table."""
    store.add_user(product, MARK, f"name {MARK}")
    store.change_user(product, MARK, UserChange({"paused": True, "paused_reason": f"why {MARK}"}))
    store.subscribe(product, MARK, "pro", Subscription(MONTH.start_us, MONTH.end_us, "month"))
    store.add_override(product, make_override(MARK, reason=f"for {MARK}"))
    store.add_revenue(product, [make_revenue("r1", MARK, source=f"invoice {MARK}")])
    store.add_gate_events(
        product,
        [
            make_gate_event(
                *("g1", MARK),
                session_id=f"chat {MARK}",
                message=f"user {MARK} is at the cap",
                metadata={"name": MARK},
            ),
            make_gate_event("g2", MARK, session_id=f"gates {MARK}", at_us=NOON_US + 1),
        ],
    )
    remember(store, product, "k1", f'{{"external_user_id": "{MARK}"}}')
    remember(store, product, "k2", '{"external_user_id": "bob"}')
    store.save_view(product, f"calls of {MARK}", "calls", f"user={MARK}")
    session = SessionRecord(MARK, f"open {MARK}", True, NOON_US, NOON_US)
    store.ingest(product, Batch(records=(session,), at_us=LATER_US))
    details: dict[str, Any] = {
        "user_id": MARK,
        "description": f"text {MARK}",
        "metadata": {"name": MARK},
    }
    first = make_event("e1", session_id=f"chat {MARK}", **details)
    second = make_event("e2", session_id=f"chat {MARK}", quality="estimated", **details)
    others = [
        make_event("e3", session_id=f"other {MARK}", at_us=NOON_US - 35 * DAY_US, **details),
        make_event("e4", session_id="", blocked=True, **details),
        make_event("e5", user_id="bob"),
    ]
    keys = (
        *(period_key(), period_key("tokens", "gpt-4o"), session_key(f"chat {MARK}")),
        session_key(f"asked {MARK}"),  # an account without events
    )
    store.ingest(product, batch_of(first, second, *others, questions=ask(MARK, *keys)))
    corrections = [
        make_correction("c1", first, user_id="bob"),  # sent for another user
        make_correction("c2", others[2], **details),  # of another user's event
        make_correction("c3", second),
    ]
    store.ingest(product, batch_of(*corrections))


def rows_of(store: SqlStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row of the database with its table."""
    catalogue = (
        "SELECT c.relname AS name FROM pg_class AS c WHERE c.relkind IN ('r', 'p')"
        " AND c.relnamespace = 'public'::regnamespace"
        if isinstance(store, PostgresStore)
        else "SELECT name FROM sqlite_master WHERE type = 'table'"
    )
    with store.engine.transaction("") as sql:
        tables = [row["name"] for row in sql.connection.execute(catalogue)]
    with store.engine.transaction("") as sql:
        for table in tables:
            for row in sql.connection.execute(f"SELECT * FROM {table}"):
                yield table, dict(row)


def tables_with(store: SqlStore, mark: str, product: str = PRODUCT) -> set[str]:
    """Return the tables that have a text in a row of a product."""
    return {
        table
        for table, row in rows_of(store)
        if row.get("product_id", product) == product and mark in repr(row)
    }


def test_erase_user__all_tables__have_the_id_no_more(store: SqlStore) -> None:
    """Neither the id nor a text that came with it is left; every table had it before."""
    fill(store)
    before = tables_with(store, MARK)
    assert before >= {
        *("users", "assignments", "overrides", "revenue", "gate_events", "sessions", "accounts"),
        *("event_ids", "events", "corrections", "rollup_user", "rollup_gate"),
        *("idempotency_keys", "saved_views"),
    }
    pseudonym = store.erase_user(PRODUCT, MARK)
    assert pseudonym is not None
    assert pseudonym.startswith("erased_")
    assert tables_with(store, MARK) == set()
    assert tables_with(store, pseudonym) >= before - {"idempotency_keys", "saved_views"}
    assert store.user(PRODUCT, MARK) is None


def test_erase_user__sums__stay(store: SqlStore) -> None:
    """What was spent is what was spent; money, caps and periods are the pseudonym's."""
    fill(store)
    old = user_of(store, MARK)
    span = TODAY_US - 40 * DAY_US, TODAY_US + DAY_US
    sessions = store.usage_of_sessions(PRODUCT, MARK, *span, 9)
    keys = period_key(), period_key("tokens", "gpt-4o")
    spent = store.read(PRODUCT, ask(MARK, *keys), NOON_US).users[MARK]
    revenue = read_revenue(store)
    report = usage_of(store, PRODUCT, *span)
    assert list(store.audit(PRODUCT)) == []

    pseudonym = store.erase_user(PRODUCT, MARK)
    assert pseudonym is not None
    new = user_of(store, pseudonym)
    assert new == old._replace(user_id=pseudonym, name=None, paused_reason=None)
    new_spent = store.read(PRODUCT, ask(pseudonym, *keys), NOON_US).users[pseudonym]
    assert new_spent.spent == spent.spent
    assert new_spent.by_model == spent.by_model
    (entry,) = read_revenue(store)
    assert entry == revenue[0]._replace(user_id=pseudonym, source=None)
    assert len(store.overrides(PRODUCT, pseudonym, LATER_US)) == 1
    renamed = {row.user_id: row._replace(user_id="") for row in usage_of(store, PRODUCT, *span)}
    assert renamed[pseudonym] == next(
        row._replace(user_id="") for row in report if row.user_id == MARK
    )
    new_sessions = store.usage_of_sessions(PRODUCT, pseudonym, *span, 9)
    assert [each[1:] for each in new_sessions] == [each[1:] for each in sessions]
    assert list(store.audit(PRODUCT)) == []
    assert store.repair(PRODUCT) == 0


def test_erase_user__a_session__has_one_new_id_everywhere(store: SqlStore) -> None:
    """The account of a session equals the fold of its events, under an id without a meaning."""
    fill(store)
    pseudonym = store.erase_user(PRODUCT, MARK)
    assert pseudonym is not None
    events = {each.event_id: each.session_id for each in store.events(PRODUCT, pseudonym)}
    chat = events["e1"]
    assert chat.startswith("erased_")
    assert (events["e2"], events["c1"], events["c3"], events["e4"]) == (chat, chat, chat, "")
    assert events["e3"] not in (chat, "")
    gates = store.gate_events(PRODUCT, pseudonym, GateEventFilter(), 9)
    assert gates[1].session_id == chat
    assert gates[0].session_id not in events.values()
    key = session_key(chat)
    read = store.read(PRODUCT, ask(pseudonym, key), NOON_US).users[pseudonym]
    assert read.spent[key] == 1_800
    assert read.open_session is not None
    assert read.open_session.session_id.startswith("erased_")


def test_erase_user__other_users_and_products__stay(store: SqlStore) -> None:
    """The same id in another product is another user."""
    fill(store)
    fill(store, OTHER)
    bob = user_of(store, "bob")
    events = store.events(PRODUCT, "bob")
    kept = store.remembered(PRODUCT, "k2")
    before = sorted(repr(each) for each in rows_of(store) if each[1].get("product_id") == OTHER)
    store.erase_user(PRODUCT, MARK)
    after = sorted(repr(each) for each in rows_of(store) if each[1].get("product_id") == OTHER)
    assert before == after
    assert user_of(store, "bob") == bob
    # Of a correction that the erased user sent for an event of bob, the texts alone are gone.
    assert store.events(PRODUCT, "bob") == tuple(
        each._replace(description=None, metadata=None) if each.event_id == "c2" else each
        for each in events
    )
    assert kept is not None
    assert store.remembered(PRODUCT, "k2") == kept
    assert store.remembered(PRODUCT, "k1") is None
    assert store.remembered(OTHER, "k1") is not None


def test_erase_user__corrections_of_another_users_events__lose_their_texts(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction is booked on the user of its original, with texts of whoever sent it: they go
    with the sender. What others wrote stays, and so do the figures.
    """
    monkeypatch.setattr(erasure, "_PAGE", 2)
    texts: dict[str, Any] = {"description": f"text {MARK}", "metadata": {"name": MARK}}
    plain: dict[str, Any] = {"description": "text", "metadata": {"name": "eve"}}
    originals = [
        make_event(f"o{each}", user_id=("bob", "eve")[each % 2], at_us=NOON_US + each, **plain)
        for each in range(5)
    ]
    store.add_user(PRODUCT, MARK, None)
    store.ingest(PRODUCT, batch_of(*originals))
    sent = [
        make_correction(f"s{each}", original, user_id=MARK, **texts)
        for each, original in enumerate(originals)
    ]
    kept = [
        make_correction("b", originals[0], user_id="bob", **plain),
        make_correction("e", originals[0], user_id="eve", **plain),
    ]
    store.ingest(PRODUCT, batch_of(*sent, *kept))
    before = {
        each.event_id: each for user in ("bob", "eve") for each in store.events(PRODUCT, user)
    }
    assert {before[each.event_id].description for each in sent} == {f"text {MARK}"}

    assert store.erase_user(PRODUCT, MARK) is not None
    assert tables_with(store, MARK) == set()
    after = {each.event_id: each for user in ("bob", "eve") for each in store.events(PRODUCT, user)}
    cleared = {each.event_id for each in sent}
    assert after == {
        name: each._replace(description=None, metadata=None) if name in cleared else each
        for name, each in before.items()
    }
    assert after["e"].description == "text"
    assert list(store.audit(PRODUCT)) == []


def test_erase_user__many_rows__are_renamed_page_by_page(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of any size is erased."""
    monkeypatch.setattr(erasure, "_PAGE", 2)
    fill(store)
    events = [
        make_event(f"x{each}", user_id=MARK, session_id=f"{each % 4} {MARK}") for each in range(9)
    ]
    keys = [session_key(f"{each} {MARK}") for each in range(4)]
    store.ingest(PRODUCT, batch_of(*events, questions=ask(MARK, *keys)))
    pseudonym = store.erase_user(PRODUCT, MARK)
    assert pseudonym is not None
    assert tables_with(store, MARK) == set()
    assert len(store.events(PRODUCT, pseudonym)) == 9 + 6  # c1 is one of them, c2 is not
    assert list(store.audit(PRODUCT)) == []


@pytest.mark.parametrize("table", ["rollup_user", "sessions", "events"])
def test_erase_user__rows_that_are_missing__leave_no_id_elsewhere(
    store: SqlStore, table: str
) -> None:
    """What is found by another table's rows is found without them as well: a month may have been
    dropped, and a counter may be damaged.
    """
    fill(store)
    execute(store, f"DELETE FROM {table}")
    assert store.erase_user(PRODUCT, MARK) is not None
    assert tables_with(store, MARK) - {"event_ids"} == set()


def test_erase_user__again__is_unknown(store: SqlStore) -> None:
    """An id is erased once."""
    fill(store)
    assert store.erase_user(PRODUCT, MARK) is not None
    assert store.erase_user(PRODUCT, MARK) is None


def test_erase_user__an_odd_id__is_erased(store: SqlStore) -> None:
    """The id is the text that the database holds."""
    store.ingest(PRODUCT, batch_of(make_event("a", user_id=ODD)))
    pseudonym = store.erase_user(PRODUCT, ODD)
    assert pseudonym is not None
    assert store.user(PRODUCT, ODD) is None
    assert user_of(store, pseudonym).last_us == NOON_US
    assert store.add_revenue(PRODUCT, [make_revenue("r", ODD)]) == {"r"}
    assert [each.user_id for each in read_revenue(store)] == [pseudonym]


def test_erase_user__with_remembered_answers__drops_those_with_the_id(store: SqlStore) -> None:
    """An answer that has the id in any notation of JSON is dropped; the key of a request that is
    still running, which may be this erasure, stays claimed.
    """
    store.add_user(PRODUCT, "zoë", None)
    for key, answer in (("a", '"zoë"'), ("b", '"zo\\u00eb"'), ("c", '"zoë2"')):
        remember(store, PRODUCT, key, answer)
    running = {"request_hash": "hash", "claim_id": "running"}
    assert store.claim(PRODUCT, "d", lapse_us=DAY_US, **running) is None
    store.erase_user(PRODUCT, "zoë")
    assert [store.remembered(PRODUCT, key) is None for key in "abcd"] == [True, True, False, False]


# -- what arrives late


def test_erased_user__late_money_and_gates__land_on_the_pseudonym(
    store: SqlStore, clock: Clock
) -> None:
    """For 30 days nothing makes the user again, and what comes has no text."""
    fill(store)
    pseudonym = store.erase_user(PRODUCT, MARK)
    assert pseudonym is not None
    clock.at_us += 30 * DAY_US - 1
    # What was sent before is known under the pseudonym.
    assert store.add_revenue(PRODUCT, [make_revenue("r1", MARK)]) == frozenset()
    assert store.add_gate_events(PRODUCT, [make_gate_event("g1", MARK)]) == frozenset()
    late = [make_revenue("r2", MARK, source=MARK), make_revenue("r2", "bob")]
    assert store.add_revenue(PRODUCT, late) == {"r2"}
    gates = [make_gate_event("g3", MARK, session_id=MARK, message=MARK, metadata={"a": MARK})]
    assert store.add_gate_events(PRODUCT, gates) == {"g3"}
    assert store.user(PRODUCT, MARK) is None
    assert tables_with(store, MARK) == set()
    assert len(read_revenue(store, user_id=pseudonym)) == 2
    assert len(store.gate_events(PRODUCT, pseudonym, GateEventFilter(), 9)) == 3
    assert list(store.audit(PRODUCT)) == []


def test_erased_user__after_30_days__is_a_new_user(store: SqlStore, clock: Clock) -> None:
    """Then nothing leads from the id to the pseudonym."""
    fill(store)
    pseudonym = store.erase_user(PRODUCT, MARK)
    clock.at_us += erasure.LATE_EVENTS_US
    assert store.add_revenue(PRODUCT, [make_revenue("r9", MARK)]) == {"r9"}
    assert user_of(store, MARK).created_us == clock.at_us
    assert len(read_revenue(store, user_id=pseudonym)) == 1
    # The hash goes with the next erasure.
    store.erase_user(PRODUCT, "bob")
    assert len([row for table, row in rows_of(store) if table == "erased_users"]) == 1


def test_erased_user__created_again__is_a_new_user(store: SqlStore) -> None:
    """Whoever is created under the id is not the one who was erased, and can be erased, too."""
    fill(store)
    first = store.erase_user(PRODUCT, MARK)
    made = store.add_user(PRODUCT, MARK, None)
    assert made is not None
    assert made.last_us == 0
    assert store.add_revenue(PRODUCT, [make_revenue("r1", MARK)]) == {"r1"}
    second = store.erase_user(PRODUCT, MARK)
    assert second not in (None, first)
    store.add_revenue(PRODUCT, [make_revenue("r5", MARK)])
    assert len(read_revenue(store, user_id=second)) == 2
    assert list(store.audit(PRODUCT)) == []


def test_erase_user__a_pseudonym__is_erased_in_its_turn(store: SqlStore) -> None:
    """What arrives for the first id lands on the last pseudonym."""
    fill(store)
    first = store.erase_user(PRODUCT, MARK)
    assert first is not None
    second = store.erase_user(PRODUCT, first)
    assert second is not None
    for number, user_id in enumerate((MARK, first)):
        store.add_revenue(PRODUCT, [make_revenue(f"late{number}", user_id)])
    assert len(read_revenue(store, user_id=second)) == 3
    assert store.user(PRODUCT, first) is None


def test_pseudonyms__users__are_those_that_were_erased(store: SqlStore, clock: Clock) -> None:
    """A booking finds who was erased in its own product, until the 30 days are over."""
    store.add_user(PRODUCT, MARK, None)
    store.add_user(OTHER, "bob", None)

    def found(product: str, *user_ids: str) -> dict[str, str]:
        with store.engine.transaction(product) as sql:
            return erasure.pseudonyms(sql, user_ids, clock.at_us)

    assert found(PRODUCT, MARK, "bob") == {}
    pseudonym = store.erase_user(PRODUCT, MARK)
    store.erase_user(OTHER, "bob")
    assert found(PRODUCT, MARK, "bob", "eve") == {MARK: pseudonym}
    assert found(OTHER, MARK) == {}
    assert found(PRODUCT) == {}
    clock.at_us += erasure.LATE_EVENTS_US
    assert found(PRODUCT, MARK) == {}


def test_as_erased__an_event__has_no_text_and_its_figures() -> None:
    """A late event counts on the pseudonym, and says nothing about the person."""
    event = make_event("a", description="text", metadata={"a": 1}, tool_calls=("search",))
    expected = event._replace(user_id="erased_1", session_id="", description=None, metadata=None)
    assert erasure.as_erased(event, "erased_1") == expected


# -- two connections


def test_erase_user__twice_at_once__is_erased_once(store: SqlStore, stores: Stores) -> None:
    """Of two erasures at once, the second finds no user."""
    other = stores.again(store)
    fill(store)
    results = at_once(
        lambda: store.erase_user(PRODUCT, MARK), lambda: other.erase_user(PRODUCT, MARK)
    )
    assert sum(each is None for each in results) == 1
    assert tables_with(store, MARK) == set()


def test_erase_user__beside_late_money__leaves_no_id(store: SqlStore, stores: Stores) -> None:
    """Whoever comes in the middle of an erasure begins again, and lands on the pseudonym."""
    other = stores.again(store)
    if other is store:
        return  # one connection: nothing is in the middle
    fill(store)
    failures: list[Exception] = []

    def add() -> None:
        try:
            other.add_revenue(PRODUCT, [make_revenue("late", MARK, source=None)])
        except StoreBusy as error:
            failures.append(error)
            add()

    thread = threading.Thread(target=add)
    with store.engine.transaction(PRODUCT, writes=True) as sql:
        pseudonym = erasure.erase(sql, MARK, LATER_US)
        thread.start()
        if stores.engine == "postgres":
            _wait_for_lock(store)
    thread.join(_WAIT_S)
    assert not thread.is_alive()
    assert tables_with(store, MARK) == set()
    assert len(read_revenue(store, user_id=pseudonym)) == 2
    if stores.engine == "postgres":
        assert [str(each) for each in failures] == ["a user is being erased"]


def _wait_for_lock(store: SqlStore) -> None:
    """Return when a connection waits for a lock."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        with store.engine.transaction("") as sql:
            found = sql.connection.execute(
                "SELECT COUNT(*) AS waiting FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchone()
        if found["waiting"]:
            return
        time.sleep(0.01)
    raise AssertionError("no connection waits")
