"""The contract of the Directory port; every engine passes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    NOON_US,
    PERIOD_SPEND,
    PRODUCT,
    TODAY_US,
    batch_of,
    make_event,
    usage_of,
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

from paygent.core.limit import LimitKey
from paygent.core.messages import AssignRecord, Batch, DefaultPlanRecord, GateEvent, PlanRecord
from paygent.core.period import Subscription
from paygent.store.directory_port import (
    Directory,
    GateEventFilter,
    Override,
    Remembered,
    RevenueEntry,
    StoredUser,
    UsageOfSession,
    UserChange,
)
from paygent.store.gates import days_with_gates
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy

__all__ = ["clock", "store", "stores"]  # fixtures

OTHER = "globex"
MONTH = Subscription(TODAY_US, TODAY_US + 30 * DAY_US, "month")


def make_override(user_id: str = "ann", **fields: Any) -> Override:
    """Return an override of the spend per period, up to an hour from now."""
    given: dict[str, Any] = {
        "override_id": "",
        "user_id": user_id,
        "limit": PERIOD_SPEND,
        "cap": 5_000,
        "added": None,
        "until_us": LATER_US + HOUR_US,
        "reason": "support",
        "created_us": 0,
        **fields,
    }
    return Override(**given)


def make_revenue(revenue_id: str, user_id: str = "ann", **fields: Any) -> RevenueEntry:
    """Return a payment of a dollar for a day."""
    given: dict[str, Any] = {
        "revenue_id": revenue_id,
        "user_id": user_id,
        "amount_nano": 10**9,
        "kind": "payment",
        "period_start_us": TODAY_US,
        "period_end_us": TODAY_US + DAY_US,
        "source": "invoice",
        **fields,
    }
    return RevenueEntry(**given)


def make_gate_event(gate_event_id: str, user_id: str = "ann", **fields: Any) -> GateEvent:
    """Return a call of a user that was refused at noon."""
    given: dict[str, Any] = {
        "gate_event_id": gate_event_id,
        "user_id": user_id,
        "session_id": "s1",
        "at_us": NOON_US,
        "status": "hard_gate",
        "gate_reason": "total_spend",
        "model": "gpt-4o",
        "blocked": True,
        "usage_ppm": 1_000_000,
        "current_value": "10.00",
        "limit_value": "10",
        "message": "the cap is reached",
        "metadata": {"team": "blue"},
        **fields,
    }
    return GateEvent(**given)


def user_of(store: SqlStore, user_id: str, product: str = PRODUCT) -> StoredUser:
    """Return a user who is known."""
    found = store.user(product, user_id)
    assert found is not None
    return found


def ids_of(users: tuple[StoredUser, ...]) -> list[str]:
    """Return the ids of users."""
    return [each.user_id for each in users]


def test_store__the_type_checker__finds_every_verb_of_the_port(store: SqlStore) -> None:
    """A store over SQL is a directory."""
    directory: Directory = store
    assert directory.products() == ()


# -- products


def test_add_product__a_name__makes_an_id_and_a_slug(store: SqlStore) -> None:
    """A product has a random id, and a slug made from its name."""
    made = store.add_product("Café & Söhne", contact_name="Eve", contact_email="eve@example.com")
    assert re.fullmatch(r"p[a-z0-9]{12}", made.product_id)
    assert (made.name, made.slug, made.timezone) == ("Café & Söhne", "cafe-sohne", "UTC")
    assert (made.contact_name, made.contact_email) == ("Eve", "eve@example.com")
    assert (made.default_plan, made.created_us) == (None, LATER_US)
    assert store.product(made.product_id) == made
    assert store.add_product("Café & Söhne").product_id != made.product_id


def test_add_product__a_name_without_letters__has_a_slug(store: SqlStore) -> None:
    """A slug is never empty, nor longer than a part of an address may be."""
    assert store.add_product("😀").slug == "product"
    assert store.add_product("x" * 255).slug == "x" * 64
    assert store.add_product("x" * 63 + " y").slug == "x" * 63


def test_add_product__a_name_that_exists__has_a_slug_of_its_own(store: SqlStore) -> None:
    """A slug names one product: the second gets `-2`, also where it has to be cut for that."""
    assert [store.add_product("Search").slug for _ in range(3)] == [
        "search",
        "search-2",
        "search-3",
    ]
    assert store.add_product("search 2").slug == "search-2-2"
    assert [store.add_product("x" * 64).slug for _ in range(2)] == ["x" * 64, "x" * 62 + "-2"]


def test_add_product__twice_at_once__makes_two_slugs(store: SqlStore, stores: Stores) -> None:
    """Two servers do not give one slug to two products."""
    other = stores.again(store)
    for _ in range(5):
        at_once(lambda: store.add_product("One"), lambda: other.add_product("One"))
    slugs = {each.slug for each in store.products()}
    assert slugs == {"one", *(f"one-{number}" for number in range(2, 11))}


def test_add_product__an_id_that_exists__returns_it_unchanged(store: SqlStore) -> None:
    """A product is made once."""
    made = store.add_product("One", product_id=PRODUCT)
    assert made.product_id == PRODUCT
    assert store.add_product("Two", product_id=PRODUCT, contact_name="Eve") == made
    assert store.products() == (made,)


def test_product__unknown__is_none_and_is_not_created(store: SqlStore) -> None:
    """Asking creates nothing."""
    assert store.product(PRODUCT) is None
    assert not store.has_products()
    assert store.products() == ()


def test_products__several__are_returned_oldest_first(store: SqlStore, clock: Clock) -> None:
    """Products are in the order of their making."""
    names = ["b", "a", "c"]
    for name in names:
        store.add_product(name, product_id=name)
        clock.at_us += 1
    assert [each.product_id for each in store.products()] == names


def test_products__of_a_local_application__count(store: SqlStore, clock: Clock) -> None:
    """A file of local mode has users and no product; it is one all the same."""
    store.ingest("local", batch_of(make_event("a")))
    store.ingest("local", batch_of(make_event("b", user_id="bob")))
    clock.at_us += 1
    store.ingest("local2", batch_of(make_event("a", user_id="eve")))
    assert store.has_products()
    found = store.product("local")
    assert found is not None
    assert (found.product_id, found.name, found.created_us) == ("local", "local", LATER_US)
    clock.at_us += 1
    made = store.add_product("New", product_id="a")
    assert [each.product_id for each in store.products()] == ["local", "local2", "a"]
    # A row takes its place, and its users stay.
    assert store.add_product("Local", product_id="local").name == "Local"
    assert [each.product_id for each in store.products()] == ["local2", "a", "local"]
    assert store.products()[1] == made
    assert store.user("local", "ann") is not None


# -- keys


def test_keys__added__are_listed_and_found_by_hash(store: SqlStore, clock: Clock) -> None:
    """A key is found by its hash, never by its text."""
    store.add_product("Acme", product_id=PRODUCT)
    first = store.add_key(PRODUCT, key_hash="h1", scope="admin", name="ops", hint="pg_live_a")
    clock.at_us += 1
    second = store.add_key(PRODUCT, key_hash="h2", scope="read", name=ODD, hint="pg_live_b")
    assert re.fullmatch(r"key_[a-z0-9]{12}", first.key_id)
    assert first[2:] == ("admin", "ops", "pg_live_a", LATER_US, None)
    assert second.name == ODD_STORED
    assert store.keys(PRODUCT) == (first, second)
    assert store.key_by_hash(PRODUCT, "h2") == second
    assert store.key_by_hash(PRODUCT, "h3") is None
    assert store.key_by_hash(PRODUCT, ODD) is None


def test_add_key__of_a_local_product__makes_its_row(store: SqlStore) -> None:
    """The product of a local file can be served: its keys belong to a product that exists."""
    store.ingest("local", batch_of(make_event("a")))
    store.add_key("local", key_hash="h", scope="sdk", name="n", hint="x")
    assert [each.product_id for each in store.products()] == ["local"]
    assert user_of(store, "ann", "local").last_us == NOON_US


def test_revoke_key__once__is_true_and_stays(store: SqlStore, clock: Clock) -> None:
    """A key is revoked once, and is found with the time of it."""
    key = store.add_key(PRODUCT, key_hash="h", scope="sdk", name="n", hint="x")
    clock.at_us += 5
    assert store.revoke_key(PRODUCT, key.key_id)
    clock.at_us += 5
    assert not store.revoke_key(PRODUCT, key.key_id)
    assert not store.revoke_key(PRODUCT, "key_unknown")
    assert store.keys(PRODUCT) == (key._replace(revoked_us=LATER_US + 5),)
    assert store.key_by_hash(PRODUCT, "h") == key._replace(revoked_us=LATER_US + 5)


# -- secrets


def test_server_secret__asked_again__is_the_same(store: SqlStore, stores: Stores) -> None:
    """All servers of a database share a secret; each name has its own."""
    secret = store.server_secret("usage")
    assert len(secret) >= 32
    assert stores.again(store).server_secret("usage") == secret
    assert store.server_secret("setup") != secret
    assert stores.new().server_secret("usage") != secret


def test_server_secret__first_asked_by_two_at_once__is_one(store: SqlStore, stores: Stores) -> None:
    """Two servers that start together agree."""
    other = stores.again(store)
    for name in map(str, range(10)):
        first, second = at_once(
            lambda name=name: store.server_secret(name),  # type: ignore[misc]
            lambda name=name: other.server_secret(name),  # type: ignore[misc]
        )
        assert first == second


# -- plans


def test_put_plans__new_and_known__returns_them_in_order(store: SqlStore, clock: Clock) -> None:
    """A known plan with another document gets a version, under the same id."""
    pro, free = store.put_plans(PRODUCT, {"pro": {"price": 1}, "free": {"b": 1, "a": [2]}})
    assert re.fullmatch(r"plan_[a-z0-9]+", pro.plan_id)
    assert pro.plan_id != free.plan_id
    assert pro[1:] == ("pro", 1, {"price": 1}, LATER_US)
    assert free[1:] == ("free", 1, {"b": 1, "a": [2]}, LATER_US)
    assert store.plans(PRODUCT) == (free, pro)
    clock.at_us += 1
    changed, same = store.put_plans(PRODUCT, {"pro": {"price": 2}, "free": {"a": [2], "b": 1}})
    assert changed == pro._replace(version=2, document={"price": 2}, created_us=LATER_US + 1)
    assert same == free
    assert store.plans(PRODUCT) == (free, changed)


def test_put_plans__nothing__does_nothing(store: SqlStore) -> None:
    """No plans are no product either."""
    assert store.put_plans(PRODUCT, {}) == ()
    assert not store.has_products()


def test_put_plans__an_odd_name__is_stored(store: SqlStore) -> None:
    """Any text is a name."""
    (plan,) = store.put_plans(PRODUCT, {ODD: {"price": ODD}})
    assert plan.name == ODD_STORED
    assert store.plans(PRODUCT) == (plan,)


def test_put_plans__by_a_clock_that_is_behind__wins(store: SqlStore, clock: Clock) -> None:
    """The order of the changes decides, not the clocks of the servers that make them."""
    store.put_plans(PRODUCT, {"pro": {"price": 1}})
    clock.at_us -= HOUR_US
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 2}})
    assert (plan.version, plan.document) == (2, {"price": 2})


def test_put_plans__beside_plans_of_an_application__are_the_same_plans(store: SqlStore) -> None:
    """An application that configures what a server has adds no version."""
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 1, "limits": []}})
    record = PlanRecord("pro", {"limits": [], "price": 1}, LATER_US)
    store.ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))
    assert store.plans(PRODUCT) == (plan,)


def test_put_plans__twice_at_once__makes_two_versions(store: SqlStore, stores: Stores) -> None:
    """Two changes at once are one after the other."""
    other = stores.again(store)
    for number in range(5):
        name = f"plan{number}"
        first, second = at_once(
            lambda name=name: store.put_plans(PRODUCT, {name: {"price": 1}}),  # type: ignore[misc]
            lambda name=name: other.put_plans(PRODUCT, {name: {"price": 2}}),  # type: ignore[misc]
        )
        versions = {each.version: each for each in (*first, *second)}
        assert sorted(versions) == [1, 2]
        assert versions[1].plan_id == versions[2].plan_id
        assert versions[2] in store.plans(PRODUCT)


def test_delete_plan__without_users__hides_it(store: SqlStore, clock: Clock) -> None:
    """A deleted plan is gone; one that comes again keeps its id."""
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 1}})
    assert store.delete_plan(PRODUCT, plan.plan_id) == 0
    assert store.plans(PRODUCT) == ()
    assert store.delete_plan(PRODUCT, plan.plan_id) is None
    clock.at_us += 1
    (again,) = store.put_plans(PRODUCT, {"pro": {"price": 1}})
    assert again == plan._replace(version=2, created_us=LATER_US + 1)
    assert store.plans(PRODUCT) == (again,)


def test_delete_plan__with_users__returns_how_many(store: SqlStore) -> None:
    """A plan of users stays, with all its versions."""
    store.put_plans(PRODUCT, {"pro": {"price": 1}})
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 2}})
    for user_id in ("ann", "bob"):
        store.add_user(PRODUCT, user_id, None)
        store.subscribe(PRODUCT, user_id, "pro", None)
    assert store.delete_plan(PRODUCT, plan.plan_id) == 2
    assert store.plans(PRODUCT) == (plan,)


def test_delete_plan__the_default_plan__counts_users_without_one(store: SqlStore) -> None:
    """Users without an assigned plan have the default plan."""
    free, default = store.put_plans(PRODUCT, {"free": {}, "default": {}})
    store.add_user(PRODUCT, "ann", None)
    assert store.delete_plan(PRODUCT, default.plan_id) == 1
    record = DefaultPlanRecord("free", LATER_US)
    store.ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))
    assert store.delete_plan(PRODUCT, free.plan_id) == 1
    assert store.delete_plan(PRODUCT, default.plan_id) == 0
    assert store.delete_plan(PRODUCT, "plan_unknown") is None


# -- users


def test_add_user__new_and_known__is_the_user_and_none(store: SqlStore) -> None:
    """A user is made once."""
    made = store.add_user(PRODUCT, "ann", "Ann")
    assert made is not None
    assert made.paygent_user_id.startswith("pgu_")
    assert made == StoredUser(
        *("ann", made.paygent_user_id, "Ann", None, None, None),
        *(True, False, None, LATER_US, 0),
    )
    assert store.add_user(PRODUCT, "ann", "Other") is None
    assert store.user(PRODUCT, "ann") == made


def test_add_user__an_odd_id__is_the_same_user_each_time(store: SqlStore) -> None:
    """What a database cannot hold is replaced wherever the id is given."""
    made = store.add_user(PRODUCT, ODD, ODD)
    assert made is not None
    assert (made.user_id, made.name) == (ODD_STORED, ODD_STORED)
    assert store.add_user(PRODUCT, ODD, None) is None
    assert store.user(PRODUCT, ODD) == made
    assert store.list_users(PRODUCT, after="", users_max=9, search=ODD) == (made,)
    store.ingest(PRODUCT, batch_of(make_event("a", user_id=ODD)))
    assert user_of(store, ODD).last_us == NOON_US


def test_add_user__twice_at_once__makes_one(store: SqlStore, stores: Stores) -> None:
    """Of two at once, one has made the user."""
    other = stores.again(store)
    for user_id in map(str, range(10)):
        made = at_once(
            lambda user_id=user_id: store.add_user(PRODUCT, user_id, "a"),  # type: ignore[misc]
            lambda user_id=user_id: other.add_user(PRODUCT, user_id, "b"),  # type: ignore[misc]
        )
        assert sum(each is None for each in made) == 1


def test_user__unknown__is_none_and_is_not_created(store: SqlStore) -> None:
    """No verb about one user makes one, but `add_user`."""
    store.add_product("Acme", product_id=PRODUCT)
    assert store.user(PRODUCT, "ann") is None
    assert store.change_user(PRODUCT, "ann", UserChange({"name": "Ann"})) is None
    assert store.subscribe(PRODUCT, "ann", "pro", None) is None
    assert store.add_override(PRODUCT, make_override()) is None
    assert store.erase_user(PRODUCT, "ann") is None
    assert store.overrides(PRODUCT, "ann", 0) == ()
    assert not store.delete_override(PRODUCT, "ann", "ovr_x")
    assert store.gate_events(PRODUCT, "ann", GateEventFilter(), 9) == ()
    assert store.usage_of_sessions(PRODUCT, "ann", 0, NOON_US, 9) == ()
    assert store.user(PRODUCT, "ann") is None
    assert store.list_users(PRODUCT, after="", users_max=9) == ()


def test_user__with_calls__has_the_time_of_the_last_one(store: SqlStore) -> None:
    """The last call is the youngest, however late another is delivered."""
    store.ingest(PRODUCT, batch_of(make_event("a"), make_event("b", at_us=NOON_US - 5)))
    store.ingest(PRODUCT, batch_of(make_event("c", at_us=NOON_US - 9)))
    assert user_of(store, "ann").last_us == NOON_US
    (listed,) = store.list_users(PRODUCT, after="", users_max=9)
    assert listed.last_us == NOON_US


def test_list_users__pages__are_every_user_once(store: SqlStore) -> None:
    """A cursor continues after the last user, in the order of code points."""
    ids = sorted(["a", "ab", "abc", "b", "B", "é", "😀", "\uffff", "z'; --"])
    for user_id in reversed(ids):
        store.add_user(PRODUCT, user_id, None)
    found: list[str] = []
    while page := store.list_users(PRODUCT, after=found[-1] if found else "", users_max=2):
        assert len(page) <= 2
        found += ids_of(page)
    assert found == ids
    # The cursor's user may be gone.
    assert ids_of(store.list_users(PRODUCT, after="aa", users_max=2)) == ["ab", "abc"]
    assert store.list_users(PRODUCT, after="", users_max=0) == ()


def test_list_users__a_search__is_a_prefix(store: SqlStore) -> None:
    """Nothing in a prefix has a meaning of its own, and every code point ends one range."""
    ends = ("\ud7ff", "\ue000", "\uffff", "😀", "😁", "\U0010ffff")
    ids = ["a", "aa", "ab", "b", "a%", "a_b", *ends, *(f"{each}x" for each in ends)]
    for user_id in ids:
        store.add_user(PRODUCT, user_id, None)
    for search in ("", "a", "aa", "a%", "a_", "c", *ends):
        expected = sorted(each for each in ids if each.startswith(search))
        found = store.list_users(PRODUCT, after="", users_max=99, search=search)
        assert ids_of(found) == expected
    after_a = store.list_users(PRODUCT, after="a%", users_max=2, search="a")
    assert ids_of(after_a) == ["a_b", "aa"]
    assert store.list_users(PRODUCT, after="b", users_max=9, search="a") == ()
    assert ids_of(store.list_users(PRODUCT, after="A", users_max=1, search="b")) == ["b"]


def test_list_users__of_a_plan__are_its_users(store: SqlStore) -> None:
    """Users without an assigned plan are users of the default plan."""
    for user_id, plan in (("a1", "pro"), ("a2", None), ("a3", "default"), ("b", "pro")):
        store.add_user(PRODUCT, user_id, None)
        if plan is not None:
            store.subscribe(PRODUCT, user_id, plan, None)

    def listed(plan: str, **others: Any) -> list[str]:
        arguments = {"after": "", "users_max": 9, **others}
        return ids_of(store.list_users(PRODUCT, plan=plan, **arguments))

    assert listed("pro") == ["a1", "b"]
    assert listed("pro", after="a1") == ["b"]
    assert listed("pro", search="a") == ["a1"]
    assert listed("default") == ["a2", "a3"]
    assert listed("default", users_max=1) == ["a2"]
    assert listed("default", after="a2") == ["a3"]
    assert listed("unknown") == []
    record = DefaultPlanRecord("pro", LATER_US)
    store.ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))
    assert listed("pro") == ["a1", "a2", "b"]
    assert listed("default") == ["a3"]


def test_change_user__some_fields__keeps_the_others(store: SqlStore) -> None:
    """A field that is absent stays; None is a value."""
    made = store.add_user(PRODUCT, "ann", "Ann")
    assert made is not None
    paused = store.change_user(PRODUCT, "ann", UserChange({"paused": True, "paused_reason": ODD}))
    assert paused == made._replace(paused=True, paused_reason=ODD_STORED)
    named = store.change_user(PRODUCT, "ann", UserChange({"name": ODD, "sdk_enabled": False}))
    assert named == paused._replace(name=ODD_STORED, sdk_enabled=False)
    unnamed = store.change_user(PRODUCT, "ann", UserChange({"name": None}))
    assert unnamed == named._replace(name=None)
    assert store.change_user(PRODUCT, "ann", UserChange()) == unnamed
    resumed = store.change_user(PRODUCT, "ann", UserChange({"paused": False}))
    assert resumed == unnamed._replace(paused=False, paused_reason=None)
    assert store.user(PRODUCT, "ann") == resumed


def test_change_user__another_field__is_an_error(store: SqlStore) -> None:
    """A field that does not exist is never ignored."""
    made = store.add_user(PRODUCT, "ann", None)
    with pytest.raises(ValueError, match="plan, user_id"):
        store.change_user(PRODUCT, "ann", UserChange({"user_id": "b", "plan": "x", "name": "n"}))
    assert store.user(PRODUCT, "ann") == made


def test_subscribe__a_plan__is_what_bookings_follow(store: SqlStore) -> None:
    """Events are booked on the plan and into the period of the subscription."""
    store.add_user(PRODUCT, "ann", None)
    found = store.subscribe(PRODUCT, "ann", "pro", MONTH)
    assert found is not None
    assert (found.plan, found.subscription) == ("pro", MONTH)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    (event,) = store.events(PRODUCT, "ann")
    assert (event.plan, event.period_start_us) == ("pro", MONTH.start_us)
    without = store.subscribe(PRODUCT, "ann", "free", None)
    assert without is not None
    assert (without.plan, without.subscription) == ("free", None)


def test_subscribe__over_a_users_own_plan__ends_it(store: SqlStore) -> None:
    """A user's own version belongs to the plan that it was made of."""
    record = AssignRecord("ann", "pro", {"price": 9}, None, LATER_US)
    store.ingest(PRODUCT, Batch(records=(record,), at_us=LATER_US))
    assert user_of(store, "ann").own == {"price": 9}
    found = store.subscribe(PRODUCT, "ann", "pro", None)
    assert found is not None
    assert found.own is None


def test_subscribe__by_a_clock_that_is_behind__wins(store: SqlStore, clock: Clock) -> None:
    """The order of the changes decides, not the clocks of the servers that make them."""
    store.add_user(PRODUCT, "ann", None)
    store.subscribe(PRODUCT, "ann", "pro", None)
    clock.at_us -= HOUR_US
    found = store.subscribe(PRODUCT, "ann", "free", None)
    assert found is not None
    assert found.plan == "free"


# -- overrides


def test_overrides__added__are_listed_until_they_end(store: SqlStore, clock: Clock) -> None:
    """An override ends by itself."""
    store.add_user(PRODUCT, "ann", None)
    first = store.add_override(PRODUCT, make_override(override_id="mine", created_us=1))
    assert first is not None
    assert re.fullmatch(r"ovr_[a-z0-9]{12}", first.override_id)
    assert first == make_override(override_id=first.override_id, created_us=LATER_US)
    clock.at_us += 1
    limit = LimitKey("tokens", "user", ODD, "period")
    odd = make_override(limit=limit, cap=None, added=7, until_us=LATER_US + 5, reason=ODD)
    second = store.add_override(PRODUCT, odd)
    assert second is not None
    assert (second.limit.model, second.reason, second.added) == (ODD_STORED, ODD_STORED, 7)
    assert store.overrides(PRODUCT, "ann", LATER_US) == (first, second)
    assert store.overrides(PRODUCT, "ann", LATER_US + 5) == (first,)
    assert store.overrides(PRODUCT, "ann", LATER_US + HOUR_US) == ()


def test_delete_override__once__is_true(store: SqlStore) -> None:
    """An override is ended once, and by its own user's id."""
    store.add_user(PRODUCT, "ann", None)
    store.add_user(PRODUCT, "bob", None)
    added = store.add_override(PRODUCT, make_override(reason=None))
    assert added is not None
    assert not store.delete_override(PRODUCT, "bob", added.override_id)
    assert store.delete_override(PRODUCT, "ann", added.override_id)
    assert not store.delete_override(PRODUCT, "ann", added.override_id)
    assert store.overrides(PRODUCT, "ann", 0) == ()


# -- revenue


def read_revenue(store: SqlStore, **given: Any) -> tuple[RevenueEntry, ...]:
    """Return revenue; of all users and times if nothing else is given."""
    arguments: dict[str, Any] = {
        "user_id": None,
        "start_us": 0,
        "end_us": NOON_US,
        "after": None,
        "entries_max": 99,
        **given,
    }
    return store.revenue(PRODUCT, **arguments)


def test_add_revenue__new_and_known__returns_the_new_ones(store: SqlStore) -> None:
    """An id is taken once for its user, whatever comes with it again."""
    first = make_revenue("r1")
    assert store.add_revenue(PRODUCT, []) == frozenset()
    assert store.add_revenue(PRODUCT, [first, first]) == {"r1"}
    again = [first._replace(amount_nano=5), make_revenue("r2", kind="refund", amount_nano=-7)]
    assert store.add_revenue(PRODUCT, again) == {"r2"}
    assert store.add_revenue(PRODUCT, [make_revenue("r1", "bob")]) == {"r1"}
    assert read_revenue(store, user_id="ann") == (first, again[1])
    assert len(read_revenue(store)) == 3
    assert user_of(store, "bob").created_us == LATER_US  # a user on first sight


def test_add_revenue__odd_texts__are_stored_and_named_as_sent(store: SqlStore) -> None:
    """The answer has the ids as they were sent."""
    entry = make_revenue(ODD, ODD, source=None)
    assert store.add_revenue(PRODUCT, [entry]) == {ODD}
    assert store.add_revenue(PRODUCT, [entry]) == frozenset()
    stored = entry._replace(revenue_id=ODD_STORED, user_id=ODD_STORED)
    assert read_revenue(store, user_id=ODD) == (stored,)


@pytest.mark.parametrize("user_id", [None, "ann"])
def test_revenue__pages__are_every_entry_once(store: SqlStore, user_id: str | None) -> None:
    """The span is half-open; pages are in the order of (start, user, id)."""
    entries = [
        make_revenue(f"r{number}_{start_us}", user, period_start_us=start_us)
        for user in ("ann", "bob")
        for start_us in (10, 20, 30)
        for number in (1, 2)
    ]
    store.add_revenue(PRODUCT, list(reversed(entries)))
    expected = sorted(
        (each for each in entries if each.period_start_us < 30 and user_id in (None, each.user_id)),
        key=lambda each: (each.period_start_us, each.user_id, each.revenue_id),
    )
    found: list[RevenueEntry] = []
    while True:
        last = found[-1] if found else None
        after = last and (last.period_start_us, last.user_id, last.revenue_id)
        span = {"start_us": 10, "end_us": 30, "entries_max": 3}
        page = read_revenue(store, user_id=user_id, after=after, **span)
        if not page:
            break
        found += page
    assert found == expected
    from_20 = read_revenue(store, user_id=user_id, start_us=11, end_us=30)
    assert {each.period_start_us for each in from_20} == {20}
    assert read_revenue(store, user_id="eve") == ()


# -- gate events


def test_add_gate_events__new_and_known__returns_the_new_ones(store: SqlStore) -> None:
    """A gate event is kept once, and counted once in its rollup."""
    first = make_gate_event("g1")
    assert store.add_gate_events(PRODUCT, []) == frozenset()
    assert store.add_gate_events(PRODUCT, [first, first]) == {"g1"}
    soft = make_gate_event("g2", status="soft_gate", blocked=False, metadata=None)
    assert store.add_gate_events(PRODUCT, [first._replace(message="x"), soft]) == {"g2"}
    assert store.add_gate_events(PRODUCT, [make_gate_event("g1", "bob")]) == {"g1"}
    assert store.gate_events(PRODUCT, "ann", GateEventFilter(), 9) == (soft, first)
    with store.engine.transaction(PRODUCT) as sql:
        days = days_with_gates(sql)
        rows = sql.rollup_gates_to_audit(rows=days, first="ann", before="bob")
    figures = [(row["day"], row["soft"], row["hard"], row["refused_calls"]) for row in rows]
    assert figures == [("2024-10-04", 1, 1, 1)]
    assert user_of(store, "bob").last_us == 0  # a user on first sight, without a call


def test_add_gate_events__odd_texts__are_stored_and_named_as_sent(store: SqlStore) -> None:
    """The answer has the ids as they were sent; metadata can be read back."""
    odd = make_gate_event(
        *(ODD, ODD),
        session_id=ODD,
        gate_reason=f"model_limit:{ODD}",
        model=ODD,
        message=ODD,
        metadata={ODD: ODD, "list": [ODD, 1], "map": {"a": ODD}, "none": None},
    )
    assert store.add_gate_events(PRODUCT, [odd]) == {ODD}
    assert store.add_gate_events(PRODUCT, [odd]) == frozenset()
    (found,) = store.gate_events(PRODUCT, ODD, GateEventFilter(), 9)
    stored = ODD_STORED
    assert found.metadata == {
        stored: stored,
        "list": [stored, 1],
        "map": {"a": stored},
        "none": None,
    }
    assert (found.gate_event_id, found.user_id, found.model) == (stored, stored, stored)


GATES = [
    make_gate_event(
        f"g{number}",
        at_us=NOON_US + number // 2,  # two at each moment
        status="soft_gate" if number % 3 else "hard_gate",
        gate_reason="total_spend" if number % 2 else "session_spend",
        blocked=number % 3 == 0,
        metadata=None,
    )
    for number in range(8)
]


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (GateEventFilter(), lambda each: True),
        (GateEventFilter(status="hard_gate"), lambda each: each.status == "hard_gate"),
        (GateEventFilter(gate_reason="total_spend"), lambda each: each.gate_reason[0] == "t"),
        (GateEventFilter(blocked_only=True), lambda each: each.blocked),
        (GateEventFilter(since_us=NOON_US + 2), lambda each: each.at_us >= NOON_US + 2),
        (GateEventFilter(until_us=NOON_US + 2), lambda each: each.at_us < NOON_US + 2),
        (
            GateEventFilter("soft_gate", "total_spend", False, NOON_US, NOON_US + 3),
            lambda each: each.at_us < NOON_US + 3 and each.status[0] + each.gate_reason[0] == "st",
        ),
        (GateEventFilter(status="unknown"), lambda each: False),
    ],
)
def test_gate_events__a_filter__is_paged_newest_first(
    store: SqlStore, wanted: GateEventFilter, matches: Callable[[GateEvent], bool]
) -> None:
    """Every filter combines with the cursor."""
    store.add_gate_events(PRODUCT, [*GATES, make_gate_event("g1", "bob")])
    expected = sorted(filter(matches, GATES), key=lambda each: (each.at_us, each.gate_event_id))
    expected.reverse()
    found: list[GateEvent] = []
    while True:
        before = (found[-1].at_us, found[-1].gate_event_id) if found else None
        asked = GateEventFilter(
            *(wanted.status, wanted.gate_reason, wanted.blocked_only),
            *(wanted.since_us, wanted.until_us, before),
        )
        page = store.gate_events(PRODUCT, "ann", asked, 3)
        if not page:
            break
        assert len(page) <= 3
        found += page
    assert found == expected


# -- usage


def test_usage_of_sessions__sessions__are_those_used_last(store: SqlStore) -> None:
    """Sessions are sums of the events in the span."""
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a", session_id="s1"),
            make_event("b", session_id="s2", at_us=NOON_US + 1),
            make_event("c", session_id="s1", at_us=NOON_US - 1),
            make_event("d", session_id="s3", at_us=NOON_US - DAY_US),
            make_event("e", session_id="s9", user_id="bob"),
        ),
    )
    second = UsageOfSession("s2", 1, 20, 10, 1_000, NOON_US + 1)
    first = UsageOfSession("s1", 2, 40, 20, 2_000, NOON_US)

    def usage(start_us: int, end_us: int, sessions_max: int = 9) -> tuple[UsageOfSession, ...]:
        return store.usage_of_sessions(PRODUCT, "ann", start_us, end_us, sessions_max)

    assert usage(TODAY_US, TODAY_US + DAY_US) == (second, first)
    assert usage(TODAY_US, TODAY_US + DAY_US, 1) == (second,)
    half = first._replace(calls=1, input_tokens=20, output_tokens=10, cost_nano=1_000)
    assert usage(NOON_US, NOON_US + 1) == (half,)


@pytest.mark.parametrize("seed", range(4))
def test_usage_of_sessions__of_a_busy_user__is_whole(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """However few of the latest events are looked at first: with sessions that last long and at the
    same time, events at one moment, and a session that has events before and after the span.
    """
    chance = Random(seed)
    events = [
        make_event(
            f"e{number}",
            session_id=f"s{chance.randrange(12)}",
            at_us=TODAY_US + chance.randrange(1, 40),
            cost_tokens_nano=chance.randrange(1, 100),
        )
        for number in range(80)
    ]
    store.ingest(PRODUCT, batch_of(*events))

    def usage(start_us: int, sessions_max: int, latest: int) -> tuple[UsageOfSession, ...]:
        monkeypatch.setattr("paygent.store.directory._EVENTS_OF_SESSION", latest)
        span = TODAY_US + start_us, TODAY_US + 35
        return store.usage_of_sessions(PRODUCT, "ann", *span, sessions_max)

    for start_us in (0, 10, 30):
        whole = usage(start_us, 99, 0)  # of no event, so that all are read
        for sessions_max in range(1, 12):
            for latest in (1, 2, 3, 5, 10, 200):
                assert usage(start_us, sessions_max, latest) == whole[:sessions_max]


# -- idempotency keys

LAPSE_US = 120 * 10**6


def claim(
    store: SqlStore, key: str, claim_id: str, request_hash: str = "hash", product: str = PRODUCT
) -> Remembered | None:
    """Claim a key; return the request that has it already."""
    ids = {"request_hash": request_hash, "claim_id": claim_id}
    return store.claim(product, key, lapse_us=LAPSE_US, **ids)


def remember(store: SqlStore, product: str, key: str, answer: str) -> None:
    """Claim a key and remember an answer with the status 200."""
    assert claim(store, key, "claim", product=product) is None
    assert store.remember(product, key, "claim", 200, answer)


def test_claim__a_free_key__is_the_first_requests(store: SqlStore) -> None:
    """Whoever asks while the request runs is shown the request, and that it has no answer yet."""
    assert store.remembered(PRODUCT, "k") is None
    assert claim(store, "k", "first") is None
    running = Remembered("hash", None, None)
    assert claim(store, "k", "second") == running
    assert claim(store, "k", "third", "other") == running
    assert store.remembered(PRODUCT, "k") == running
    assert claim(store, "k2", "second") is None


def test_claim__of_many_at_once__is_won_by_one(store: SqlStore, stores: Stores) -> None:
    """However many servers get a request at the same time, one of them acts."""
    servers = [store, *(stores.again(store) for _ in range(3))]
    for key in ("a", "b", "c", "d"):
        found = at_once(
            *(partial(claim, each, key, f"{number}") for number, each in enumerate(servers))
        )
        assert found.count(None) == 1
        assert found.count(Remembered("hash", None, None)) == 3


def test_remember__an_answer__is_kept_for_a_day(store: SqlStore, clock: Clock) -> None:
    """The answer stays for a day, whoever asks; then the key is free."""
    assert claim(store, "k", "first") is None
    assert store.remember(PRODUCT, "k", "first", 201, '{"a": "😀"}')
    answered = Remembered("hash", 201, '{"a": "😀"}')
    clock.at_us += DAY_US - 1
    assert claim(store, "k", "second") == answered
    assert store.remembered(PRODUCT, "k") == answered
    clock.at_us += 1
    assert store.remembered(PRODUCT, "k") is None
    assert claim(store, "k", "second", "new") is None
    assert store.remembered(PRODUCT, "k") == Remembered("new", None, None)


def test_remember__without_the_claim__changes_nothing(store: SqlStore) -> None:
    """Only the request that has the key stores its answer, and once."""
    assert claim(store, "k", "first") is None
    assert not store.remember(PRODUCT, "k", "second", 200, "second")
    assert not store.remember(OTHER, "k", "first", 200, "other")
    assert store.remembered(PRODUCT, "k") == Remembered("hash", None, None)
    assert store.remember(PRODUCT, "k", "first", 200, "first")
    assert not store.remember(PRODUCT, "k", "first", 200, "again")
    assert store.remembered(PRODUCT, "k") == Remembered("hash", 200, "first")


def test_claim__that_lapsed__is_taken_over_by_the_same_request(
    store: SqlStore, clock: Clock
) -> None:
    """The claim of a server that died does not block for ever; the dead one's answer is late."""
    assert claim(store, "k", "dead") is None
    clock.at_us += LAPSE_US - 1
    assert claim(store, "k", "second") == Remembered("hash", None, None)
    clock.at_us += 1
    assert claim(store, "k", "second", "other") == Remembered("hash", None, None)
    assert claim(store, "k", "second") is None
    assert not store.remember(PRODUCT, "k", "dead", 200, "dead")
    store.release(PRODUCT, "k", "dead")
    clock.at_us += LAPSE_US - 1
    assert claim(store, "k", "third") == Remembered("hash", None, None)
    assert store.remember(PRODUCT, "k", "second", 200, "second")
    clock.at_us += LAPSE_US
    assert claim(store, "k", "third") == Remembered("hash", 200, "second")


def test_release__a_claim__frees_the_key(store: SqlStore) -> None:
    """A refused request gives its key to any other; an answer is not given up."""
    assert claim(store, "k", "first") is None
    store.release(PRODUCT, "k", "second")
    store.release(OTHER, "k", "first")
    assert claim(store, "k", "second") == Remembered("hash", None, None)
    store.release(PRODUCT, "k", "first")
    assert store.remembered(PRODUCT, "k") is None
    assert claim(store, "k", "second", "corrected") is None
    assert store.remember(PRODUCT, "k", "second", 200, "{}")
    store.release(PRODUCT, "k", "second")
    assert store.remembered(PRODUCT, "k") == Remembered("corrected", 200, "{}")


def test_remember__requests_that_expired__are_dropped(store: SqlStore, clock: Clock) -> None:
    """What is expired does not stay in the database, answered or not."""
    for number in range(2):
        remember(store, PRODUCT, f"old{number}", "{}")
    assert claim(store, "dead", "dead") is None
    remember(store, OTHER, "another product", "{}")
    clock.at_us += DAY_US
    remember(store, PRODUCT, ODD, ODD)
    assert store.remembered(PRODUCT, ODD) == Remembered("hash", 200, ODD_STORED)
    with store.engine.transaction("") as sql:
        rows = list(sql.connection.execute("SELECT idempotency_key AS k FROM idempotency_keys"))
    assert sorted(row["k"] for row in rows) == sorted([ODD_STORED, "another product"])


# -- tenants


def test_directory__two_products__never_meet(store: SqlStore) -> None:
    """No verb on one product shows, changes or counts anything of the other's same ids."""
    key = store.add_key(PRODUCT, key_hash="h", scope="admin", name="n", hint="x")
    (plan,) = store.put_plans(PRODUCT, {"pro": {"price": 1}})
    store.add_user(PRODUCT, "ann", "Ann")
    store.subscribe(PRODUCT, "ann", "pro", MONTH)
    override = store.add_override(PRODUCT, make_override())
    assert override is not None
    store.add_revenue(PRODUCT, [make_revenue("r")])
    store.add_gate_events(PRODUCT, [make_gate_event("g")])
    remember(store, PRODUCT, "k", "{}")
    store.ingest(PRODUCT, batch_of(make_event("a")))
    before = user_of(store, "ann")

    assert store.product(OTHER) is None
    assert store.keys(OTHER) == ()
    assert store.key_by_hash(OTHER, "h") is None
    assert not store.revoke_key(OTHER, key.key_id)
    assert store.plans(OTHER) == ()
    assert store.delete_plan(OTHER, plan.plan_id) is None
    assert store.user(OTHER, "ann") is None
    assert store.list_users(OTHER, after="", users_max=9) == ()
    assert store.list_users(OTHER, after="", users_max=9, plan="pro") == ()
    assert store.change_user(OTHER, "ann", UserChange({"paused": True})) is None
    assert store.subscribe(OTHER, "ann", "free", None) is None
    assert store.erase_user(OTHER, "ann") is None
    assert store.add_override(OTHER, make_override()) is None
    assert store.overrides(OTHER, "ann", 0) == ()
    assert not store.delete_override(OTHER, "ann", override.override_id)
    span = {"start_us": 0, "end_us": 2 * NOON_US, "after": None, "entries_max": 9}
    for user_id in (None, "ann"):
        assert store.revenue(OTHER, user_id=user_id, **span) == ()  # type: ignore[arg-type]
    assert store.gate_events(OTHER, "ann", GateEventFilter(), 9) == ()
    assert usage_of(store, OTHER, TODAY_US, TODAY_US + DAY_US) == ()
    assert store.usage_of_sessions(OTHER, "ann", 0, 2 * NOON_US, 9) == ()
    assert store.remembered(OTHER, "k") is None

    # The same ids in the other product are other objects.
    assert store.put_plans(OTHER, {"pro": {"price": 1}})[0].version == 1
    assert store.add_user(OTHER, "ann", None) is not None
    assert store.add_revenue(OTHER, [make_revenue("r")]) == {"r"}
    assert store.add_gate_events(OTHER, [make_gate_event("g")]) == {"g"}
    remember(store, OTHER, "k", "theirs")
    assert store.erase_user(OTHER, "ann") is not None

    assert store.keys(PRODUCT) == (key,)
    assert store.plans(PRODUCT) == (plan,)
    assert store.user(PRODUCT, "ann") == before
    assert store.overrides(PRODUCT, "ann", 0) == (override,)
    assert len(read_revenue(store)) == 1
    assert len(store.gate_events(PRODUCT, "ann", GateEventFilter(), 9)) == 1
    assert store.remembered(PRODUCT, "k") == Remembered("hash", 200, "{}")
    assert len(usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)) == 1


def test_new_ids__many__are_different(store: SqlStore) -> None:
    """Ids are random."""
    made = sorted(store.add_product("x").product_id for _ in range(20))
    assert all(first != second for first, second in pairwise(made))


def test_subscribe__to_a_plan_that_has_just_been_deleted__is_refused(store: SqlStore) -> None:
    """A user on a plan that is gone would have no limits; whoever found it before looks again."""
    (plan,) = store.put_plans("acme", {"pro": {"price": 1}})
    store.add_user("acme", "ann", None)
    assert store.delete_plan("acme", plan.plan_id) == 0
    with pytest.raises(StoreBusy, match="deleted"):
        store.subscribe("acme", "ann", "pro", None)
    store.put_plans("acme", {"pro": {"price": 2}})
    assert store.subscribe("acme", "ann", "pro", None) is not None
