"""The contract of the Dashboard port; every engine passes it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    NOON_US,
    PRODUCT,
    TODAY_US,
    batch_of,
    make_correction,
    make_event,
)
from tests.contract.stores import (
    LATER_US,
    ODD,
    ODD_STORED,
    Clock,
    Stores,
    at_once,
    clock,
    store,
    stores,
)
from tests.contract.test_directory import make_gate_event

from paygent.core.event import Event
from paygent.core.messages import Batch, GateEvent
from paygent.store import dashboard
from paygent.store.dashboard import _views
from paygent.store.dashboard_port import (
    VIEWS_MAX,
    AuditRecord,
    CallFilter,
    Dashboard,
    Deliveries,
    Login,
    SavedView,
)
from paygent.store.directory_port import GateEventFilter, Scope
from paygent.store.ledger import SqlStore
from paygent.store.statements import Statements

__all__ = ["clock", "store", "stores"]  # fixtures

OTHER = "globex"

_READ_WAIT_S = 0.3  # for another transaction to read what this one has read


def add_key(store: SqlStore, product: str = PRODUCT, scope: Scope = "admin") -> str:
    """Add an API key; return its id."""
    key = store.add_key(product, key_hash=f"{product} {scope}", scope=scope, name="x", hint="pg_")
    return key.key_id


def add_login(
    store: SqlStore, login_hash: str, key_id: str, expires_us: int = LATER_US + HOUR_US
) -> Login:
    """Add a login of the product, for an hour."""
    return store.add_login(PRODUCT, login_hash=login_hash, key_id=key_id, expires_us=expires_us)


def save_view(store: SqlStore, name: str, query: str = "", product: str = PRODUCT) -> SavedView:
    """Save a view of the page of users."""
    view = store.save_view(product, name, "users", query)
    assert view is not None
    return view


def calls_of(
    store: SqlStore, user_id: str = "ann", calls_max: int = 100, **fields: Any
) -> list[str]:
    """Return the ids of a user's calls, of all times unless a span is given."""
    wanted = CallFilter(**{"start_us": 0, "end_us": LATER_US + 9 * DAY_US, **fields})
    return ids_of(store.calls(PRODUCT, user_id, wanted, calls_max))


def ids_of(events: Sequence[Event]) -> list[str]:
    """Return the ids of events."""
    return [each.event_id for each in events]


def gates_of(store: SqlStore, events_max: int = 100, **fields: Any) -> list[tuple[str, str]]:
    """Return the users and ids of the newest gate events."""
    found = store.latest_gate_events(PRODUCT, GateEventFilter(**fields), events_max)
    return [(each.user_id, each.gate_event_id) for each in found]


def test_store__the_type_checker__finds_every_verb_of_the_port(store: SqlStore) -> None:
    """A store over SQL is a dashboard's store."""
    verbs: Dashboard = store
    assert verbs.saved_views(PRODUCT) == ()


# -- logins


def test_login__with_its_hash__is_found_until_it_ends(store: SqlStore) -> None:
    """A login has its key and its times; it ends once."""
    key_id = add_key(store)
    added = add_login(store, "h1", key_id)
    assert added == Login(PRODUCT, "h1", key_id, LATER_US, LATER_US + HOUR_US)
    assert store.login(PRODUCT, "h1") == added
    assert store.login(PRODUCT, "h2") is None
    assert store.end_login(PRODUCT, "h1") is True
    assert store.login(PRODUCT, "h1") is None
    assert store.end_login(PRODUCT, "h1") is False


def test_login__at_its_expiry__has_ended(store: SqlStore, clock: Clock) -> None:
    """The ledger's clock decides, to the microsecond."""
    login = add_login(store, "h1", add_key(store))
    clock.at_us = login.expires_us - 1
    assert store.login(PRODUCT, "h1") == login
    clock.at_us = login.expires_us
    assert store.login(PRODUCT, "h1") is None


def test_add_login__expired_logins_of_the_product__are_deleted(
    store: SqlStore, clock: Clock
) -> None:
    """The table does not grow with the past; logins that are valid and other products' stay."""
    key_id, other = add_key(store), add_key(store, OTHER)
    add_login(store, "long", key_id, LATER_US + DAY_US)
    add_login(store, "short", key_id)
    store.add_login(OTHER, login_hash="other", key_id=other, expires_us=LATER_US + 1)
    clock.at_us += HOUR_US
    add_login(store, "new", key_id, clock.at_us + 1)
    assert store.end_login(PRODUCT, "short") is False
    assert store.end_login(OTHER, "other") is True
    assert store.login(PRODUCT, "long") is not None
    assert store.login(PRODUCT, "new") is not None


def test_login__of_a_revoked_key__has_ended(store: SqlStore) -> None:
    """Who revokes a key ends what it has let in; logins of another key go on."""
    key_id = add_key(store)
    second = store.add_key(PRODUCT, key_hash="2", scope="admin", name="x", hint="pg_")
    add_login(store, "h1", key_id)
    add_login(store, "h2", second.key_id)
    assert store.revoke_key(PRODUCT, key_id) is True
    assert store.login(PRODUCT, "h1") is None
    assert store.login(PRODUCT, "h2") is not None


@pytest.mark.parametrize("scope", ["sdk", "read"])
def test_login__of_a_key_of_another_scope__is_none(store: SqlStore, scope: Scope) -> None:
    """Only an admin key opens the dashboard, whoever added the login."""
    add_login(store, "h1", add_key(store, scope=scope))
    assert store.login(PRODUCT, "h1") is None


def test_login__of_an_unknown_key__is_none(store: SqlStore) -> None:
    """Nor does a key of another product."""
    add_login(store, "h1", "key_unknown")
    add_login(store, "h2", add_key(store, OTHER))
    assert store.login(PRODUCT, "h1") is None
    assert store.login(PRODUCT, "h2") is None


def test_login__of_another_product__is_neither_found_nor_ended(store: SqlStore) -> None:
    """Tenants have logins of their own, also under one hash."""
    login = add_login(store, "h1", add_key(store))
    assert store.login(OTHER, "h1") is None
    assert store.end_login(OTHER, "h1") is False
    other = store.add_login(
        OTHER, login_hash="h1", key_id=add_key(store, OTHER), expires_us=LATER_US + 1
    )
    assert store.login(OTHER, "h1") == other
    assert store.login(PRODUCT, "h1") == login


def test_login__a_hash_that_is_odd__is_unknown(store: SqlStore) -> None:
    """What a browser sends is no error."""
    assert store.login(PRODUCT, ODD) is None
    assert store.end_login(PRODUCT, ODD) is False


# -- saved views


def test_save_view__new_names__are_listed_by_name_and_page(store: SqlStore) -> None:
    """A view has an id of its own; one name may be used on several pages."""
    second = save_view(store, "b", "plan=pro")
    first = store.save_view(PRODUCT, "a", "users", "")
    third = store.save_view(PRODUCT, "b", "calls", "model=gpt-4o")
    assert second == SavedView(second.view_id, "b", "users", "plan=pro", LATER_US)
    assert store.saved_views(PRODUCT) == (first, third, second)
    assert len({each.view_id for each in store.saved_views(PRODUCT)}) == 3


def test_save_view__the_same_name_and_page__replaces_the_query(
    store: SqlStore, clock: Clock
) -> None:
    """The id stays, so that links to the view go on working."""
    before = save_view(store, "b", "plan=pro")
    clock.at_us += HOUR_US
    after = save_view(store, "b", "plan=free")
    assert after == before._replace(query="plan=free")
    assert store.saved_views(PRODUCT) == (after,)


def test_save_view__beyond_the_limit__is_none(store: SqlStore) -> None:
    """Nothing is written then; a known view can be replaced, and a deleted one makes room."""
    views = [save_view(store, f"v{number:03}") for number in range(VIEWS_MAX)]
    assert store.save_view(PRODUCT, "one more", "users", "") is None
    assert store.save_view(PRODUCT, "v000", "calls", "") is None
    assert store.saved_views(PRODUCT) == tuple(views)
    assert save_view(store, "v000", "x=1").view_id == views[0].view_id
    assert store.delete_view(PRODUCT, views[1].view_id) is True
    save_view(store, "one more")
    assert len(store.saved_views(PRODUCT)) == VIEWS_MAX


def test_save_view__two_at_once_for_one_place__are_not_both_saved(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is also one for several servers: the second counts when the first has saved."""
    store = stores.new()
    for number in range(VIEWS_MAX - 1):
        save_view(store, f"v{number:03}")
    both_have_read = threading.Barrier(2)

    def read_together(sql: Statements) -> tuple[SavedView, ...]:
        views = _views(sql)
        with suppress(threading.BrokenBarrierError):  # the other one waits for this transaction
            both_have_read.wait(_READ_WAIT_S)
        return views

    monkeypatch.setattr(dashboard, "_views", read_together)
    servers = enumerate((store, stores.again(store)))
    saved = at_once(
        *(partial(each.save_view, PRODUCT, f"last {n}", "users", "") for n, each in servers)
    )
    assert [each is None for each in saved].count(True) == 1
    assert len(store.saved_views(PRODUCT)) == VIEWS_MAX


def test_delete_view__that_is_unknown__is_false(store: SqlStore) -> None:
    """A view is deleted once."""
    view = save_view(store, "a")
    assert store.delete_view(PRODUCT, view.view_id) is True
    assert store.delete_view(PRODUCT, view.view_id) is False
    assert store.saved_views(PRODUCT) == ()


def test_saved_views__of_another_product__are_not_met(store: SqlStore) -> None:
    """Neither listed, replaced, deleted nor counted."""
    view = save_view(store, "a", "mine")
    for number in range(VIEWS_MAX):
        save_view(store, f"v{number}", product=OTHER)
    assert store.delete_view(OTHER, view.view_id) is False
    save_view(store, "b")
    assert store.saved_views(PRODUCT)[0] == view


def test_save_view__odd_texts__are_stored_as_a_database_can(store: SqlStore) -> None:
    """The name that is stored is the one that is compared."""
    for query in ("x", ODD):
        view = store.save_view(PRODUCT, ODD, ODD, query)
    assert view is not None
    assert view[1:4] == (ODD_STORED, ODD_STORED, ODD_STORED)
    assert store.saved_views(PRODUCT) == (view,)


@pytest.mark.parametrize(
    ("name", "page", "query"),
    [
        ("Calls of ann.", "calls", ""),
        ("x", "users/ann", ""),
        ("x", "calls", "user=ann&model=gpt-4o"),
        ("x", "calls", "q=user%3Aann"),
        ("x", "calls", "model=a+ann"),
    ],
)
def test_erase_user__views_with_the_id__are_deleted(
    store: SqlStore, name: str, page: str, query: str
) -> None:
    """The id is found in each field, and also encoded for an address."""
    store.add_user(PRODUCT, "ann", None)
    store.save_view(PRODUCT, name, page, query)
    other = store.save_view(OTHER, name, page, query)
    assert store.erase_user(PRODUCT, "ann") is not None
    assert store.saved_views(PRODUCT) == ()
    assert store.saved_views(OTHER) == (other,)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("annual", "user=joann"),
        ("x", "user=ann@example.com"),
        ("x", "user=ann-2"),
        ("x", "user=mary-ann"),
        ("x", "user=ann.b"),
        ("x", "user=b.ann"),
        ("x", "user=ann_2"),
    ],
)
def test_erase_user__views_with_a_longer_id__stay(store: SqlStore, name: str, query: str) -> None:
    """A short id is part of many words; only the id itself is a person's."""
    store.add_user(PRODUCT, "ann", None)
    view = save_view(store, name, query)
    assert store.erase_user(PRODUCT, "ann") is not None
    assert store.saved_views(PRODUCT) == (view,)


def test_erase_user__an_id_that_is_a_pattern__is_compared_as_text(store: SqlStore) -> None:
    """An id is no regular expression."""
    store.add_user(PRODUCT, "a.*(", None)
    view = save_view(store, "kept", "user=abc")
    save_view(store, "dropped", "user=a.*%28")
    assert store.erase_user(PRODUCT, "a.*(") is not None
    assert store.saved_views(PRODUCT) == (view,)


# -- gate events of all users


@pytest.fixture
def gated(store: SqlStore) -> SqlStore:
    """A store with six gate events of three users."""
    given: list[GateEvent] = [
        make_gate_event("g1", "ann"),
        make_gate_event("g2", "bob", at_us=NOON_US + 1, status="soft_gate", blocked=False),
        make_gate_event("g3", "ann", at_us=NOON_US + 2, gate_reason="token_limit"),
        make_gate_event("g4", "cy", at_us=NOON_US + 2, blocked=False),
        make_gate_event("g4", "ann", at_us=NOON_US + 2),
        make_gate_event("g4", "bob", at_us=NOON_US + 3),
    ]
    store.add_gate_events(PRODUCT, given)
    store.add_gate_events(OTHER, [make_gate_event("g9", "ann")])
    return store


ALL_GATES = [
    ("bob", "g4"),
    ("cy", "g4"),
    ("ann", "g4"),
    ("ann", "g3"),
    ("bob", "g2"),
    ("ann", "g1"),
]


def test_latest_gate_events__of_all_users__are_newest_first(gated: SqlStore) -> None:
    """Of one moment, by id and user; another product's are not among them."""
    assert gates_of(gated) == ALL_GATES
    assert gates_of(gated, 2) == ALL_GATES[:2]
    (other,) = gated.latest_gate_events(OTHER, GateEventFilter(), 9)
    assert other == make_gate_event("g9", "ann")
    assert gated.latest_gate_events("none", GateEventFilter(), 9) == ()


@pytest.mark.parametrize("page", [1, 2, 4])
def test_latest_gate_events__page_by_page__are_each_listed_once(gated: SqlStore, page: int) -> None:
    """Also where several users have one id at one moment: the cursor has the user."""
    found: list[GateEvent] = []
    wanted = GateEventFilter()
    while events := gated.latest_gate_events(PRODUCT, wanted, page):
        found += events
        last = events[-1]
        wanted = GateEventFilter(before=(last.at_us, last.gate_event_id), before_user=last.user_id)
    assert [(each.user_id, each.gate_event_id) for each in found] == ALL_GATES


def test_latest_gate_events__a_cursor_without_a_user__begins_after_the_id(
    gated: SqlStore,
) -> None:
    """No event is listed twice; those of other users with the same id and moment are left out."""
    assert gates_of(gated, before=(NOON_US + 2, "g4")) == ALL_GATES[3:]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "soft_gate"}, [("bob", "g2")]),
        ({"gate_reason": "token_limit"}, [("ann", "g3")]),
        ({"blocked_only": True}, [ALL_GATES[0], *ALL_GATES[2:4], ALL_GATES[5]]),
        ({"since_us": NOON_US + 2}, ALL_GATES[:4]),
        ({"until_us": NOON_US + 2}, ALL_GATES[4:]),
        ({"since_us": NOON_US + 1, "until_us": NOON_US + 2}, [("bob", "g2")]),
        ({"until_us": NOON_US + 2, "before": (NOON_US + 3, "g4")}, ALL_GATES[4:]),
        ({"status": "none"}, []),
    ],
)  # fmt: skip
def test_latest_gate_events__a_filter__leaves_the_others_out(
    gated: SqlStore, fields: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """Filters are those of one user's list; spans are half-open."""
    assert gates_of(gated, **fields) == expected


# -- calls of a user


@pytest.fixture
def booked(store: SqlStore) -> SqlStore:
    """A store with calls of two users and two products."""
    first = make_event("e1", quality="estimated")
    minute = partial(make_event, session_id="s2")
    events = [
        first,
        minute("e2", at_us=NOON_US + MINUTE_US, model="m-1", model_key="m", provider="azure"),
        minute("e3", at_us=NOON_US + MINUTE_US),
        minute("e4", at_us=NOON_US + 2 * MINUTE_US, model="", model_key="", provider=""),
        make_event("e5", at_us=NOON_US - DAY_US, session_id=""),
        make_event("b1", user_id="bob"),
    ]
    store.ingest(PRODUCT, batch_of(*events))
    store.ingest(PRODUCT, batch_of(make_correction("c1", first)))
    store.ingest(OTHER, batch_of(make_event("o1")))
    return store


ALL_CALLS = ["e4", "e3", "e2", "e1", "c1", "e5"]


def test_calls__of_a_user__are_newest_first_with_corrections(booked: SqlStore) -> None:
    """Of one moment, by id; other users' and products' are not among them."""
    assert calls_of(booked) == ALL_CALLS
    assert calls_of(booked, calls_max=2) == ALL_CALLS[:2]
    assert calls_of(booked, "bob") == ["b1"]
    assert calls_of(booked, "eve") == []
    whole = booked.calls(PRODUCT, "ann", CallFilter(0, LATER_US), 100)
    assert sorted(whole) == sorted(booked.events(PRODUCT, "ann"))
    assert ids_of(booked.calls(OTHER, "ann", CallFilter(0, LATER_US), 9)) == ["o1"]


@pytest.mark.parametrize("page", [1, 2, 4])
def test_calls__page_by_page__are_each_listed_once(booked: SqlStore, page: int) -> None:
    """The cursor has the id, since several calls may begin at one moment."""
    found: list[Event] = []
    wanted = CallFilter(0, LATER_US)
    while events := booked.calls(PRODUCT, "ann", wanted, page):
        found += events
        wanted = CallFilter(0, LATER_US, before=(events[-1].at_us, events[-1].event_id))
    assert ids_of(found) == ALL_CALLS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "m"}, ["e2"]),
        ({"model": "m-1"}, []),
        ({"model": ""}, ["e4"]),
        ({"provider": "azure"}, ["e2"]),
        ({"provider": ""}, ["e4"]),
        ({"plan": "default"}, ALL_CALLS),
        ({"plan": ""}, []),
        ({"session_id": "s2"}, ["e4", "e3", "e2"]),
        ({"session_id": ""}, ["e5"]),
        ({"quality": "estimated"}, ["e1"]),
        ({"quality": "exact", "session_id": "s1"}, ["c1"]),
        ({"start_us": NOON_US}, ALL_CALLS[:5]),
        ({"start_us": NOON_US + 1}, ALL_CALLS[:3]),
        ({"end_us": NOON_US + MINUTE_US}, ALL_CALLS[3:]),
        ({"start_us": TODAY_US, "end_us": NOON_US}, []),
        ({"end_us": NOON_US, "before": (NOON_US + MINUTE_US, "e2")}, ["e5"]),
        ({"session_id": "s2", "before": (NOON_US + MINUTE_US, "e3")}, ["e2"]),
        ({"session_id": ODD}, []),
    ],
)
def test_calls__a_filter__leaves_the_others_out(
    booked: SqlStore, fields: dict[str, Any], expected: list[str]
) -> None:
    """None is no filter and "" is a call without one; a span is half-open."""
    assert calls_of(booked, **fields) == expected


# -- users by id


def test_users_by_id__some_of_the_users__are_as_the_directory_has_them(store: SqlStore) -> None:
    """By id, with their plan and last call; unknown ids and other products' are left out."""
    for user_id in ("cy", "ann", "bob", "dan"):
        store.add_user(PRODUCT, user_id, user_id.title())
    store.add_user(OTHER, "eve", None)
    store.put_plans(PRODUCT, {"pro": {"price": 1}})
    store.subscribe(PRODUCT, "bob", "pro", None)
    store.ingest(PRODUCT, batch_of(make_event("e1"), make_event("e2", at_us=NOON_US - 5)))
    found = store.users_by_id(PRODUCT, ["eve", "cy", "none", "ann", "bob"])
    assert [each.user_id for each in found] == ["ann", "bob", "cy"]
    assert found == tuple(store.user(PRODUCT, each.user_id) for each in found)
    assert [(each.name, each.plan, each.last_us) for each in found] == [
        ("Ann", None, NOON_US),
        ("Bob", "pro", 0),
        ("Cy", None, 0),
    ]
    assert [each.user_id for each in store.users_by_id(OTHER, ("eve", "ann"))] == ["eve"]


def test_users_by_id__no_ids__is_empty(store: SqlStore) -> None:
    """A page without rows asks for none."""
    store.add_user(PRODUCT, "ann", None)
    assert store.users_by_id(PRODUCT, ()) == ()
    assert store.users_by_id(PRODUCT, ["none", ""]) == ()


def test_users_by_id__odd_and_erased_ids__are_found_as_they_are_stored(store: SqlStore) -> None:
    """An id is compared as a database holds it; an erased user is known by the pseudonym alone."""
    for user_id in (ODD, "%", "a'--", "Ann", "ann"):
        store.add_user(PRODUCT, user_id, None)
    found = store.users_by_id(PRODUCT, {ODD, "%", "a'--", "ann"})
    assert {each.user_id for each in found} == {ODD_STORED, "%", "a'--", "ann"}
    pseudonym = store.erase_user(PRODUCT, "ann")
    assert pseudonym is not None
    assert store.users_by_id(PRODUCT, ["ann"]) == ()


def test_users_by_id__a_whole_page_and_more__is_one_query(store: SqlStore) -> None:
    """No engine limits how many ids a statement takes."""
    ids = [f"u{number:04}" for number in range(1_500)]
    store.ingest(
        PRODUCT, batch_of(*(make_event(f"e{user_id}", user_id=user_id) for user_id in ids))
    )
    found = store.users_by_id(PRODUCT, ids[:0:-1])
    assert [each.user_id for each in found] == ids[1:]


# -- versions of a plan


def test_plan_history__of_a_plan__has_every_version_newest_first(
    store: SqlStore, clock: Clock
) -> None:
    """Documents and times are those of the version."""
    store.put_plans(PRODUCT, {"pro": {"price": 1}, "free": {"price": 0}})
    clock.at_us += 5
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 2}})
    store.put_plans(OTHER, {"pro": {"price": 9}})
    assert [tuple(each) for each in store.plan_history(PRODUCT, "pro")] == [
        (2, {"price": 2}, LATER_US + 5, None, plan.plan_id),
        (1, {"price": 1}, LATER_US, None, plan.plan_id),
    ]
    assert store.plan_history(PRODUCT, ODD) == ()


def test_plan_history__of_a_deleted_plan__shows_when_it_was(store: SqlStore, clock: Clock) -> None:
    """Its versions stay, also beside those of a plan that is made again."""
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 1}})
    clock.at_us += 5
    assert store.delete_plan(PRODUCT, plan.plan_id) == 0
    assert [each.deleted_us for each in store.plan_history(PRODUCT, "pro")] == [LATER_US + 5]
    store.put_plans(PRODUCT, {"pro": {"price": 2}})
    assert [(each.version, each.deleted_us) for each in store.plan_history(PRODUCT, "pro")] == [
        (2, None),
        (1, LATER_US + 5),
    ]


# -- audits and deliveries


def test_last_audit__recorded_twice__is_the_last(store: SqlStore, clock: Clock) -> None:
    """One outcome for each product, with its time."""
    assert store.last_audit(PRODUCT) is None
    store.record_audit(PRODUCT, 3)
    assert store.last_audit(PRODUCT) == AuditRecord(LATER_US, 3)
    clock.at_us += 5
    store.record_audit(PRODUCT, 0)
    assert store.last_audit(PRODUCT) == AuditRecord(LATER_US + 5, 0)
    assert store.last_audit(OTHER) is None


def test_deliveries__of_several_processes__are_counted_since_a_time(
    store: SqlStore, clock: Clock
) -> None:
    """The time itself is included; the newest delivery is that of any process."""
    assert store.deliveries(PRODUCT, 0) == Deliveries(0, 0)
    for number, holder in enumerate(("p1", "p2", "p3", "p1"), 1):
        clock.at_us = LATER_US + number
        store.ingest(PRODUCT, Batch(at_us=NOON_US, holder=holder, number=number))
    store.ingest(OTHER, Batch(at_us=NOON_US, holder="p9", number=1))
    assert store.deliveries(PRODUCT, LATER_US) == Deliveries(3, LATER_US + 4)
    assert store.deliveries(PRODUCT, LATER_US + 3) == Deliveries(2, LATER_US + 4)
    assert store.deliveries(PRODUCT, LATER_US + 5) == Deliveries(0, LATER_US + 4)
    assert store.deliveries(OTHER, LATER_US) == Deliveries(1, LATER_US + 4)
