"""The contract of holders, news and the state of users: what `/sync` rests on; on every engine."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    NOON_US,
    PERIOD_SPEND,
    PRODUCT,
    ask,
    batch_of,
    make_event,
    period_key,
)
from tests.contract.stores import (
    LATER_US,
    ODD,
    Clock,
    Stores,
    at_once,
    clock,
    store,
    stores,
)

from paygent.core.account import AccountKey
from paygent.core.limit import LimitKey
from paygent.core.messages import AssignRecord, Batch, DefaultPlanRecord, PlanRecord, UserLedger
from paygent.core.override import apply_overrides
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.store.directory_port import Override, UserChange
from paygent.store.ledger import SqlStore

__all__ = ["clock", "store", "stores"]  # fixtures

OTHER = "globex"
SECOND_US = 1_000_000
PLAN = plan_to_json(PlanConfig(max_spend_per_period=5))


def numbered(number: int, *events: Any, holder: str = "web-1", **others: Any) -> Batch:
    """Return a batch of a holder."""
    return batch_of(*events, holder=holder, number=number, **others)


def booked_through(store: SqlStore, holder: str = "web-1", product: str = PRODUCT) -> int:
    """Return the number that a reading shows a holder."""
    return store.read(product, (), NOON_US, holder=holder).booked_through


# -- the number of a holder's batch


def test_ingest__a_numbered_batch__shows_its_number(store: SqlStore) -> None:
    """The answer that includes a batch bears its number, and so does each later reading."""
    assert store.ingest(PRODUCT, numbered(1, make_event("a"))).booked_through == 1
    assert store.ingest(PRODUCT, numbered(2)).booked_through == 2
    assert booked_through(store) == 2


def test_read__of_anyone_else__does_not_show_the_number(store: SqlStore) -> None:
    """A number is that of one holder of one product."""
    store.ingest(PRODUCT, numbered(7, make_event("a")))
    assert booked_through(store, "web-2") == 0
    assert booked_through(store, "") == 0
    assert booked_through(store, product=OTHER) == 0
    assert store.ingest(PRODUCT, batch_of(make_event("b"))).booked_through == 0


def test_read__with_an_odd_holder__finds_its_number(store: SqlStore) -> None:
    """A name that databases do not hold as it is works as any other."""
    assert store.ingest(PRODUCT, numbered(3, holder=ODD)).booked_through == 3
    assert booked_through(store, ODD) == 3


def test_ingest__a_batch_that_fails__stores_no_number(store: SqlStore) -> None:
    """The number and the events are one transaction."""
    store.ingest(PRODUCT, numbered(1, make_event("a")))
    too_large = make_event("b", cost_tokens_nano=1 << 63)
    with pytest.raises(Exception, match=r"(?i)too large|out of range|overflow"):
        store.ingest(PRODUCT, numbered(2, too_large))
    assert booked_through(store) == 1
    refused, booked = store.book(
        PRODUCT, [numbered(2, too_large), numbered(1, make_event("c"), holder="web-2")]
    )
    assert isinstance(refused, Exception)
    assert booked == frozenset({"c"})
    assert (booked_through(store), booked_through(store, "web-2")) == (1, 1)


def test_ingest__a_batch_again__counts_once_and_shows_the_same_number(store: SqlStore) -> None:
    """What is sent again after a lost answer changes nothing."""
    batch = numbered(4, make_event("a"), questions=ask("ann", period_key()))
    first, again = store.ingest(PRODUCT, batch), store.ingest(PRODUCT, batch)
    assert (first.counted, again.counted) == (frozenset({"a"}), frozenset())
    assert (first.booked_through, again.booked_through) == (4, 4)
    assert again.users["ann"].spent == first.users["ann"].spent == {period_key(): 1_000}


def test_ingest__a_lower_number_that_is_late__does_not_lower_it(store: SqlStore) -> None:
    """A request that was under way for long books its events, and the number stays."""
    store.ingest(PRODUCT, numbered(5, make_event("a")))
    late = store.ingest(PRODUCT, numbered(4, make_event("b"), questions=ask("ann", period_key())))
    assert late.counted == {"b"}
    assert late.booked_through == 5
    assert late.users["ann"].spent == {period_key(): 2_000}


def test_book__batches_of_several_holders__stores_the_highest_number_of_each(
    store: SqlStore,
) -> None:
    """One transaction serves several processes, and several batches of one."""
    batches = [
        numbered(3, make_event("a")),
        numbered(1, make_event("b"), holder="web-2"),
        numbered(2, make_event("c")),
        batch_of(make_event("d")),
    ]
    assert store.book(PRODUCT, batches) == [frozenset({each}) for each in "abcd"]
    assert (booked_through(store), booked_through(store, "web-2")) == (3, 1)


def test_book__by_two_stores_for_the_same_holders__ends_with_the_higher_number_of_each(
    stores: Stores,
) -> None:
    """Rows are written in order: neither store waits for one that the other will not release."""
    first = stores.new()
    second = stores.again(first)
    names = [f"web-{number}" for number in range(300)]

    def book(store: SqlStore, number: int, holders: list[str]) -> None:
        batches = [numbered(number, holder=holder) for holder in holders]
        assert store.book(PRODUCT, batches) == [frozenset()] * len(holders)

    for number in range(2, 22, 2):
        at_once(
            partial(book, first, number, names),
            partial(book, second, number + 1, names[::-1]),
        )
        assert {booked_through(first, name) for name in (names[0], names[-1])} == {number + 1}


def test_holders__unseen_for_a_week__go_when_a_process_starts(
    store: SqlStore, clock: Clock
) -> None:
    """A dead process is forgotten; one that was seen since is not, whatever its number."""
    store.ingest(PRODUCT, numbered(8, holder="old"))
    store.ingest(PRODUCT, numbered(8, holder="alive"))
    store.ingest(OTHER, numbered(8, holder="old"))
    clock.at_us += 6 * DAY_US
    store.ingest(PRODUCT, numbered(9, holder="alive"))
    clock.at_us += DAY_US + 1
    store.ingest(PRODUCT, numbered(2, holder="running"))
    assert booked_through(store, "old") == 8  # no process has started
    store.ingest(PRODUCT, numbered(1, holder="new"))
    found = [booked_through(store, name) for name in ("old", "alive", "running", "new")]
    assert found == [0, 9, 2, 1]
    assert booked_through(store, "old", OTHER) == 8


def test_holders__seen_a_week_ago__stay(store: SqlStore, clock: Clock) -> None:
    """The bound is seven days, inclusive."""
    store.ingest(PRODUCT, numbered(8, holder="old"))
    clock.at_us += 7 * DAY_US
    store.ingest(PRODUCT, numbered(1, holder="new"))
    assert booked_through(store, "old") == 8


# -- news


def news(store: SqlStore, since_us: int, product: str = PRODUCT) -> tuple[frozenset[str], int]:
    """Return the users that have changed since a time, and until when that goes."""
    answer = store.read(product, (), NOON_US, news_since_us=since_us)
    return answer.changed, answer.news_until_us


def make_override(user_id: str, **fields: Any) -> Override:
    """Return an override of the spend of a period that adds a dollar for a day."""
    given: dict[str, Any] = {"cap": None, "added": 10**9, "until_us": LATER_US + DAY_US, **fields}
    return Override("", user_id, PERIOD_SPEND, reason=None, created_us=0, **given)


def pause(store: SqlStore, *user_ids: str, product: str = PRODUCT) -> None:
    """Pause users."""
    for user_id in user_ids:
        store.change_user(product, user_id, UserChange({"paused": True}))


def add_users(store: SqlStore, *user_ids: str, product: str = PRODUCT) -> None:
    """Create users."""
    store.ingest(product, batch_of(questions=sum((ask(each) for each in user_ids), ())))


def test_news__each_kind_of_change__names_the_user(store: SqlStore, clock: Clock) -> None:
    """Plans, switches and overrides; a user who only spends is not among them."""
    users = ("assigned", "kept", "subscribed", "paused", "off", "raised", "ended", "spending")
    add_users(store, *users)
    ended = store.add_override(PRODUCT, make_override("ended"))
    assert ended is not None
    since_us = clock.at_us = clock.at_us + HOUR_US
    clock.at_us += SECOND_US
    records = (
        AssignRecord("assigned", "pro", None, None, NOON_US),
        AssignRecord("kept", "pro", None, None, NOON_US, keeps=True),
    )
    store.ingest(PRODUCT, batch_of(make_event("a", user_id="spending"), records=records))
    store.subscribe(PRODUCT, "subscribed", "pro", None)
    pause(store, "paused")
    store.change_user(PRODUCT, "off", UserChange({"sdk_enabled": False}))
    store.add_override(PRODUCT, make_override("raised"))
    assert store.delete_override(PRODUCT, "ended", ended.override_id)
    assert news(store, since_us) == (frozenset(users[:-1]), clock.at_us)
    shown = store.ingest(PRODUCT, batch_of(news_since_us=since_us))
    assert (shown.changed, shown.news_until_us) == (frozenset(users[:-1]), clock.at_us)


def test_news__an_assignment_that_changes_nothing__is_none(store: SqlStore, clock: Clock) -> None:
    """A plan that only `keeps` does not touch a user who has one."""
    assign = AssignRecord("ann", "pro", None, None, NOON_US)
    store.ingest(PRODUCT, batch_of(records=(assign,)))
    since_us = clock.at_us = clock.at_us + HOUR_US
    clock.at_us += SECOND_US
    store.ingest(PRODUCT, batch_of(records=(assign._replace(plan="free", keeps=True),)))
    assert news(store, since_us)[0] == frozenset()


def test_news__of_before__are_not_repeated(store: SqlStore, clock: Clock) -> None:
    """A list goes back a few seconds, for transactions that took as long, and no further."""
    add_users(store, "ann", "bob")
    pause(store, "ann")
    until_us = news(store, 1)[1]
    assert until_us == clock.at_us
    clock.at_us += 4 * SECOND_US
    assert news(store, until_us) == (frozenset({"ann"}), clock.at_us)
    clock.at_us += 2 * SECOND_US
    pause(store, "bob")
    until_us = clock.at_us - SECOND_US  # after the first list, 5 s and more after ann
    assert news(store, until_us) == (frozenset({"bob"}), clock.at_us)


def test_news__since_0__are_no_list_but_a_time(store: SqlStore, clock: Clock) -> None:
    """A process that has just started knows no user; its next list begins now."""
    add_users(store, "ann")
    pause(store, "ann")
    assert news(store, 0) == (frozenset(), clock.at_us)


def test_news__not_asked_for__are_neither(store: SqlStore) -> None:
    """Only a process that asks pays for the list."""
    add_users(store, "ann")
    pause(store, "ann")
    answer = store.read(PRODUCT, ask("ann"), NOON_US)
    assert (answer.changed, answer.news_until_us) == (frozenset(), 0)


def test_news__of_another_product__do_not_appear(store: SqlStore) -> None:
    """Also with the same ids."""
    for product in (PRODUCT, OTHER):
        add_users(store, "ann", "bob", product=product)
    pause(store, "ann")
    pause(store, "bob", product=OTHER)
    assert news(store, 1)[0] == {"ann"}
    assert news(store, 1, OTHER)[0] == {"bob"}


def test_news__since_a_time_ahead_of_the_ledger__do_not_go_back(
    store: SqlStore, clock: Clock
) -> None:
    """Another server's clock was ahead: the time that a process holds never falls."""
    ahead_us = clock.at_us + SECOND_US
    assert news(store, ahead_us) == (frozenset(), ahead_us)


def assign_all(store: SqlStore, user_ids: list[str]) -> None:
    """Assign a plan to users, in one transaction."""
    records = tuple(AssignRecord(each, "pro", None, None, NOON_US) for each in user_ids)
    store.ingest(PRODUCT, batch_of(records=records))


def test_news__of_very_many_users__come_in_parts(store: SqlStore, clock: Clock) -> None:
    """1,000 at a time; the next list goes on behind them, and the last one ends now."""
    groups = [[f"{group}-{number}" for number in range(600)] for group in range(4)]
    for group in groups:
        assign_all(store, group)
        clock.at_us += HOUR_US
    found: set[str] = set()
    since_us, lists = 1, []
    while since_us < clock.at_us:
        changed, until_us = news(store, since_us)
        assert until_us > since_us
        found |= changed
        lists.append(len(changed))
        since_us = until_us
    assert found == {each for group in groups for each in group}
    assert lists == [1_000, 1_000, 402]  # the last of a list is the first of the next


def test_news__of_very_many_users_at_once__all_come_as_time_passes(
    store: SqlStore, clock: Clock
) -> None:
    """A plan for everyone in one transaction does not hold up what follows."""
    users = [f"u{number}" for number in range(2_500)]
    since_us = clock.at_us
    clock.at_us += SECOND_US
    assign_all(store, users)
    found: set[str] = set()
    for _ in range(20):
        changed, until_us = news(store, since_us)
        assert len(changed) <= 1_000
        assert since_us <= until_us <= clock.at_us
        found |= changed
        since_us = until_us
        clock.at_us += SECOND_US
    assert found == set(users)
    add_users(store, "late")
    pause(store, "late")
    assert news(store, since_us)[0] == {"late"}


# -- the state of a user


def state(store: SqlStore, user_id: str = "ann", *accounts: AccountKey) -> UserLedger:
    """Return the state of a user."""
    return store.read(PRODUCT, ask(user_id, *accounts), NOON_US).users[user_id]


def cap_of(own: dict[str, Any] | None) -> int | None:
    """Return the cap on the spend of a period in a user's own plan, in nano-dollars."""
    assert own is not None
    return plan_from_json(own).max_spend_per_period_nano


def test_state__a_pause__comes_with_its_reason_until_it_ends(store: SqlStore) -> None:
    """Also in the answer to a batch, from the rows that the booking has read."""
    add_users(store, "ann")
    before = state(store)
    assert (before.paused, before.paused_reason) == (False, None)
    change = UserChange({"paused": True, "paused_reason": "chargeback"})
    store.change_user(PRODUCT, "ann", change)
    answer = store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann")))
    for paused in (state(store), answer.users["ann"]):
        assert (paused.paused, paused.paused_reason) == (True, "chargeback")
    store.change_user(PRODUCT, "ann", UserChange({"paused": False}))
    after = state(store)
    assert (after.paused, after.paused_reason) == (False, None)


def test_state__of_a_new_user__is_unknown_until_something_is_booked(store: SqlStore) -> None:
    """A reading creates no user; a batch that asks about one does."""
    assert state(store) == UserLedger(is_unknown=True, period_start_us=state(store).period_start_us)
    assert store.user(PRODUCT, "ann") is None
    booked = store.ingest(PRODUCT, batch_of(questions=ask("ann")))
    assert not booked.users["ann"].is_unknown
    assert not state(store).is_unknown
    assert store.read(OTHER, ask("ann"), NOON_US).users["ann"].is_unknown


def test_state__an_override__raises_the_users_plan_until_it_ends(
    store: SqlStore, clock: Clock
) -> None:
    """It appears in `own` as a plan of the user's own, by the ledger's clock."""
    plan = PlanRecord("pro", PLAN, NOON_US)
    assign = AssignRecord("ann", "pro", None, None, NOON_US)
    store.ingest(PRODUCT, batch_of(records=(plan, assign)))
    assert state(store).own is None
    store.add_override(PRODUCT, make_override("ann"))
    store.add_override(PRODUCT, make_override("ann", added=None, cap=8 * 10**9))
    stored = store.overrides(PRODUCT, "ann", clock.at_us)
    expected = apply_overrides(plan_from_json(PLAN), stored, clock.at_us)
    assert state(store).own == plan_to_json(expected)
    assert cap_of(state(store).own) == 8 * 10**9
    clock.at_us = stored[0].until_us - 1
    assert cap_of(state(store).own) == 8 * 10**9
    clock.at_us += 1
    assert state(store).own is None


def test_state__an_override_of_an_own_plan__raises_that(store: SqlStore, clock: Clock) -> None:
    """A user's own version takes precedence, and comes back when the override ends."""
    own = plan_to_json(PlanConfig(max_spend_per_period=20))
    plan = PlanRecord("pro", PLAN, NOON_US)
    assign = AssignRecord("ann", "pro", own, None, NOON_US)
    store.ingest(PRODUCT, batch_of(records=(plan, assign)))
    store.add_override(PRODUCT, make_override("ann"))
    assert cap_of(state(store).own) == 21 * 10**9
    clock.at_us += DAY_US
    assert state(store).own == own


@pytest.mark.parametrize("default_plan", [None, "basic"])
def test_state__an_override_without_an_assignment__raises_the_default_plan(
    store: SqlStore, default_plan: str | None
) -> None:
    """That of the product, or the one of this name."""
    add_users(store, "ann")
    records = (PlanRecord(default_plan or "default", PLAN, NOON_US),)
    if default_plan is not None:
        records += (DefaultPlanRecord(default_plan, NOON_US),)  # type: ignore[assignment]
    store.ingest(PRODUCT, batch_of(records=records))
    store.add_override(PRODUCT, make_override("ann"))
    assert cap_of(state(store).own) == 6 * 10**9
    assert state(store).plan is None


def test_state__an_override_of_a_plan_without_configuration__has_no_effect(
    store: SqlStore,
) -> None:
    """There is no limit to raise."""
    add_users(store, "ann")
    store.add_override(PRODUCT, make_override("ann"))
    assert state(store).own is None


def test_state__overrides__are_those_of_each_user_and_product(store: SqlStore) -> None:
    """In one reading of several users, and with the same ids in another product."""
    for product in (PRODUCT, OTHER):
        store.ingest(product, batch_of(records=(PlanRecord("default", PLAN, NOON_US),)))
        add_users(store, "ann", "bob", "eve", product=product)
    store.add_override(PRODUCT, make_override("ann"))
    store.add_override(PRODUCT, make_override("bob", added=2 * 10**9))
    store.add_override(OTHER, make_override("eve"))
    questions = (*ask("ann"), *ask("bob"), *ask("eve"))
    users = store.read(PRODUCT, questions, NOON_US).users
    assert [cap_of(users[each].own) for each in ("ann", "bob")] == [6 * 10**9, 7 * 10**9]
    assert users["eve"].own is None


def test_state__an_account_with_an_odd_limit__is_kept_and_read(store: SqlStore) -> None:
    """The texts of a limit come from outside, too; one of them must not fail a batch."""
    odd = period_key()._replace(limit=LimitKey("spend", "user", ODD, "period"))
    booked = store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann", odd)))
    assert booked.users["ann"].spent == {odd: 0}
    assert state(store, "ann", odd).spent == {odd: 0}


def test_clock__of_a_record_from_before_all_time__stops_at_0(store: SqlStore) -> None:
    """A sender with a clock far ahead writes no plan with a time that has no date."""
    plan = PlanRecord("pro", PLAN, 0)
    store.ingest(PRODUCT, Batch(records=(plan,), at_us=(1 << 63) - 1))
    (stored,) = store.plans(PRODUCT)
    assert stored.created_us == 0
