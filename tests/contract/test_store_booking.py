"""What a booking decides by itself: places of events, the order of changes, groups of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    MONTH,
    NOON_US,
    PRODUCT,
    ask,
    batch_of,
    make_correction,
    make_event,
    period_key,
    session_key,
)
from tests.contract.stores import Clock, clock, store, stores

from paygent.core.messages import (
    AssignRecord,
    Batch,
    DefaultPlanRecord,
    LedgerRecord,
    PlanRecord,
    SessionRecord,
)
from paygent.core.period import Subscription
from paygent.store import booking
from paygent.store.erasure import pseudonyms
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy
from paygent.store.statements import Statements

__all__ = ["clock", "store", "stores"]  # fixtures


def write(store: SqlStore, *records: LedgerRecord, sent_us: int) -> None:
    """Send ledger records at a time of the sender's clock."""
    store.ingest(PRODUCT, Batch(records=records, at_us=sent_us))


def plan_of(store: SqlStore, user_id: str = "ann") -> str | None:
    """Return a user's assigned plan."""
    return store.read(PRODUCT, ask(user_id), NOON_US).users[user_id].plan


# -- the ledger's clock orders changes


def test_clock__of_a_sender_a_day_ahead__does_not_win_for_a_day(
    store: SqlStore, clock: Clock
) -> None:
    """The change that comes later wins, whatever the clocks of the senders say."""
    ahead_us = clock.at_us + DAY_US
    write(store, AssignRecord("ann", "wrong", None, None, ahead_us), sent_us=ahead_us)
    write(store, PlanRecord("pro", {"price": 1}, ahead_us), sent_us=ahead_us)
    write(store, DefaultPlanRecord("wrong", ahead_us), sent_us=ahead_us)
    clock.at_us += 1_000
    write(store, AssignRecord("ann", "right", None, None, clock.at_us), sent_us=clock.at_us)
    write(store, PlanRecord("pro", {"price": 2}, clock.at_us), sent_us=clock.at_us)
    write(store, DefaultPlanRecord("right", clock.at_us), sent_us=clock.at_us)
    answer = store.read(PRODUCT, (), NOON_US)
    assert plan_of(store) == "right"
    assert answer.plans["pro"] == (2, {"price": 2})
    assert answer.default_plan == "right"


def test_clock__of_a_sender_a_day_behind__does_not_lose_for_a_day(
    store: SqlStore, clock: Clock
) -> None:
    """A slow clock does not make a change old."""
    write(store, AssignRecord("ann", "first", None, None, clock.at_us), sent_us=clock.at_us)
    clock.at_us += 1_000
    behind_us = clock.at_us - DAY_US
    write(store, AssignRecord("ann", "second", None, None, behind_us), sent_us=behind_us)
    assert plan_of(store) == "second"


def test_clock__a_record_that_waited__is_as_old_as_its_sender_says(
    store: SqlStore, clock: Clock
) -> None:
    """A dead process's journal is adopted an hour later, and undoes nothing."""
    write(store, AssignRecord("ann", "new", None, None, clock.at_us), sent_us=clock.at_us)
    clock.at_us += HOUR_US
    old = AssignRecord("ann", "old", None, None, clock.at_us - 2 * HOUR_US)
    write(store, old, sent_us=clock.at_us)
    assert plan_of(store) == "new"


# -- plan and period are the ledger's


def test_places__an_event_of_a_sender_that_knew_nothing__are_filled(
    store: SqlStore, clock: Clock
) -> None:
    """A process that could not reach the ledger knows neither plan nor period."""
    period = Subscription(NOON_US - 40 * DAY_US, NOON_US - 10 * DAY_US)
    early_us = NOON_US - 50 * DAY_US
    write(store, AssignRecord("ann", "pro", None, period, early_us), sent_us=clock.at_us)
    store.ingest(PRODUCT, batch_of(make_event("a", plan="", period_start_us=0)))
    (stored,) = store.events(PRODUCT, "ann")
    assert (stored.plan, stored.period_start_us) == ("pro", NOON_US - 10 * DAY_US)


def test_places__a_claim_of_the_sender__does_not_count(store: SqlStore, clock: Clock) -> None:
    """A process may believe in a plan that the user left long ago."""
    write(store, DefaultPlanRecord("free", clock.at_us), sent_us=clock.at_us)
    store.ingest(PRODUCT, batch_of(make_event("a", plan="wrong", period_start_us=7)))
    (stored,) = store.events(PRODUCT, "ann")
    assert (stored.plan, stored.period_start_us) == ("free", MONTH.start_us)


@pytest.mark.parametrize(
    ("at_us", "plan"),
    [
        (NOON_US - 9 * HOUR_US, "first"),  # a call begins before its context assigns its plan
        (NOON_US - 7 * HOUR_US, "first"),
        (NOON_US - 5 * HOUR_US, "second"),
        (NOON_US - 3 * HOUR_US, "third"),
    ],
)
def test_places__a_late_event__has_the_plan_of_its_time(
    store: SqlStore, clock: Clock, at_us: int, plan: str
) -> None:
    """Reports by plan do not move what was used before a change."""
    for name, hours in (("first", 8), ("second", 6), ("third", 4)):
        clock.at_us = NOON_US - hours * HOUR_US
        record = AssignRecord("ann", name, None, None, clock.at_us)
        write(store, record, sent_us=clock.at_us)
    clock.at_us = NOON_US
    store.ingest(PRODUCT, batch_of(make_event("a", at_us=at_us)))
    assert [event.plan for event in store.events(PRODUCT, "ann")] == [plan]


# -- new sessions


def test_sessions__that_are_new__start_at_0_without_a_look_at_the_events(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with a long history pays nothing for each new session."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    find: Callable[..., Any] = Statements.__getattr__
    called: list[str] = []

    def noting(sql: Statements, name: str) -> Any:
        called.append(name)
        return find(sql, name)

    monkeypatch.setattr(Statements, "__getattr__", noting)
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", session_key("new"))))
    assert answer.users["ann"].spent == {session_key("new"): 0}
    assert "sums_of_windows" not in called
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", session_key("s1"))))
    assert answer.users["ann"].spent == {session_key("s1"): 1_000}
    assert "sums_of_windows" in called


def test_sessions__with_events_far_apart__are_summed_whole(store: SqlStore) -> None:
    """The row of a session encloses its events, in whatever order they came."""
    times = (NOON_US, NOON_US - 3 * DAY_US, NOON_US + 3 * HOUR_US, NOON_US + HOUR_US)
    for number, at_us in enumerate(times):
        store.ingest(PRODUCT, batch_of(make_event(f"e{number}", at_us=at_us)))
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", session_key("s1", "calls"))))
    assert answer.users["ann"].spent == {session_key("s1", "calls"): 4}


# -- groups of batches


def test_book__batches_of_several_senders__are_each_counted(store: SqlStore) -> None:
    """An event in two batches counts for the first; all are stored in one transaction."""
    first = batch_of(make_event("a"), make_event("b"), questions=ask("ann", period_key()))
    second = batch_of(make_event("b"), make_event("c", user_id="bob"))
    assert store.book(PRODUCT, [first, second, Batch()]) == [
        frozenset({"a", "b"}),
        frozenset({"c"}),
        frozenset(),
    ]
    state = store.read(PRODUCT, ask("ann", period_key()), NOON_US).users["ann"]
    assert state.spent == {period_key(): 2_000}
    assert store.book(PRODUCT, []) == []


def test_book__a_batch_that_is_rejected__falls_alone(store: SqlStore) -> None:
    """One sender's mistake is no other sender's failure, and is stored in no part."""
    bad = batch_of(make_event("x"), make_event("y", input_tokens=None))
    good, rejected, other = store.book(
        PRODUCT, [batch_of(make_event("a")), bad, batch_of(make_event("b"))]
    )
    assert (good, other) == (frozenset({"a"}), frozenset({"b"}))
    assert isinstance(rejected, TypeError)
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a", "b"]
    assert store.book(PRODUCT, [batch_of(make_event("x"))]) == [frozenset({"x"})]
    assert list(store.audit(PRODUCT)) == []


@pytest.mark.parametrize("column", ["input_tokens", "output_tokens", "cost_tokens_nano"])
def test_book__a_sum_that_leaves_64_bits__is_rejected(store: SqlStore, column: str) -> None:
    """A counter never becomes a float: the batch is refused, and the books stay right."""
    figures = dict.fromkeys(("input_tokens", "output_tokens", "cost_tokens_nano"), 0)
    huge = [make_event(each, **{**figures, column: 2**62}) for each in "abc"]
    store.ingest(PRODUCT, batch_of(huge[0], questions=ask("ann", period_key())))
    (rejected,) = store.book(PRODUCT, [batch_of(huge[1])])
    assert isinstance(rejected, Exception)
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a"]
    small = make_event("d", **{**figures, column: 2**62 - 1})
    assert store.book(PRODUCT, [batch_of(small)]) == [frozenset({"d"})]
    assert list(store.audit(PRODUCT)) == []


# -- corrections of several users


def test_corrections__of_one_id_of_two_users__mean_the_senders_own_event(store: SqlStore) -> None:
    """An application may number each user's jobs from 1; requests of both may share a group."""
    jobs = [make_event("job-1", user_id=user) for user in ("ann", "bob")]
    corrections = [
        make_correction(f"of-{job.user_id}", job, cost_tokens_nano=-number)
        for number, job in enumerate(jobs, 1)
    ]
    store.book(PRODUCT, [batch_of(jobs[1], corrections[1]), batch_of(jobs[0])])
    store.book(PRODUCT, [batch_of(corrections[0])])
    later = [
        make_correction(f"later-{job.user_id}", job, cost_tokens_nano=-10 * number)
        for number, job in enumerate(jobs, 1)
    ]
    store.book(PRODUCT, [batch_of(each) for each in later])
    for user, spent in (("ann", 1_000 - 11), ("bob", 1_000 - 22)):
        assert sum(event.cost_nano for event in store.events(PRODUCT, user)) == spent
    assert list(store.audit(PRODUCT)) == []


@pytest.mark.parametrize("stored_first", ["ann", "bob"])
def test_corrections__that_restate_another_users_event_of_the_id__leave_it_alone(
    store: SqlStore, stored_first: str
) -> None:
    """Bob's correction waits for bob's event; ann's of the same id adds what it cost."""
    whole = make_correction("c", make_event("job-1", user_id="bob"), cost_tokens_nano=7)
    store.ingest(PRODUCT, batch_of(whole._replace(restates=True)))
    order = [stored_first, "bob" if stored_first == "ann" else "ann"]
    for user in order:
        store.ingest(PRODUCT, batch_of(make_event("job-1", user_id=user)))
    assert [event.cost_nano for event in store.events(PRODUCT, "ann")] == [1_000]
    assert sorted(event.cost_nano for event in store.events(PRODUCT, "bob")) == [0, 7]
    assert list(store.audit(PRODUCT)) == []


@pytest.mark.parametrize("together", [True, False])
def test_corrections__of_one_id_from_two_senders__count_once(
    store: SqlStore, together: bool
) -> None:
    """The second is a duplicate, and no other event of its batch is lost."""
    original = make_event("a")
    store.ingest(PRODUCT, batch_of(original))
    senders = [make_correction("c", original)._replace(user_id=user) for user in ("bob", "cid")]
    batches = [batch_of(senders[0]), batch_of(senders[1], make_event("other", user_id="cid"))]
    if together:
        assert store.book(PRODUCT, batches) == [frozenset({"c"}), frozenset({"other"})]
    else:
        assert store.book(PRODUCT, batches[:1]) == [frozenset({"c"})]
        assert store.book(PRODUCT, batches[1:]) == [frozenset({"other"})]
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a", "c"]
    assert store.events(PRODUCT, "bob") == ()
    assert list(store.audit(PRODUCT)) == []


def test_corrections__sent_again_after_their_users_erasure__are_duplicates(
    store: SqlStore,
) -> None:
    """A user who comes back under the same id does not repeat what was booked."""
    original = make_event("a")
    correction = make_correction("c", original)
    store.ingest(PRODUCT, batch_of(original, correction))
    assert store.erase_user(PRODUCT, "ann") is not None
    assert store.add_user(PRODUCT, "ann", None) is not None
    again = store.book(PRODUCT, [batch_of(correction, make_event("new"))])
    assert again == [frozenset({"new"})]
    assert list(store.audit(PRODUCT)) == []


def test_corrections__of_themselves__count_by_their_own_fields(store: SqlStore) -> None:
    """A sender's mistake is booked as it came; nothing goes round in a circle."""
    odd = make_event("a", corrects="a", cost_tokens_nano=-5)
    assert store.ingest(PRODUCT, batch_of(odd)).counted == {"a"}
    assert [event.cost_nano for event in store.events(PRODUCT, "ann")] == [-5]
    assert list(store.audit(PRODUCT)) == []


def test_places__a_late_event_beside_a_new_one__have_the_plans_of_their_times(
    store: SqlStore, clock: Clock
) -> None:
    """One delivery may contain what waited for an hour."""
    for name, hours in (("first", 8), ("second", 6)):
        clock.at_us = NOON_US - hours * HOUR_US
        record = AssignRecord("ann", name, None, None, clock.at_us)
        write(store, record, sent_us=clock.at_us)
    clock.at_us = NOON_US
    late = make_event("late", at_us=NOON_US - 7 * HOUR_US)
    store.ingest(PRODUCT, batch_of(make_event("now"), late))
    plans = {event.event_id: event.plan for event in store.events(PRODUCT, "ann")}
    assert plans == {"late": "first", "now": "second"}


# -- users who were erased


def late_batch() -> Batch:
    """Return what the journal of a process that was away may contain."""
    return batch_of(
        make_event("late", metadata={"name": "Ann"}, description="Ann"),
        records=(
            AssignRecord("ann", "pro", None, None, NOON_US),
            SessionRecord("ann", "s9", True, NOON_US, NOON_US),
        ),
        questions=ask("ann", period_key()),
    )


def test_erased__whatever_arrives_late__leaves_no_trace_of_the_id(store: SqlStore) -> None:
    """The event lands on the pseudonym; nothing else is done for the old id."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    pseudonym = store.erase_user(PRODUCT, "ann")
    assert pseudonym is not None
    answer = store.ingest(PRODUCT, late_batch())
    assert answer.counted == {"late"}
    assert answer.users["ann"].plan is None
    assert store.user(PRODUCT, "ann") is None
    (late,) = [event for event in store.events(PRODUCT, pseudonym) if event.event_id == "late"]
    assert (late.metadata, late.description, late.session_id) == (None, None, "")
    assert store.ingest(PRODUCT, late_batch()).counted == frozenset()
    assert list(store.audit(PRODUCT)) == []


def test_erased__while_a_booking_waits_for_the_row__is_found_by_then(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction begins again."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    pseudonym = store.erase_user(PRODUCT, "ann")
    looks: list[int] = []

    def look_too_early(sql: Statements, user_ids: Iterable[str], now_us: int) -> dict[str, str]:
        looks.append(now_us)
        return {} if len(looks) == 1 else pseudonyms(sql, user_ids, now_us)

    monkeypatch.setattr(booking, "pseudonyms", look_too_early)
    assert store.ingest(PRODUCT, late_batch()).counted == {"late"}
    assert len(looks) == 4
    assert store.user(PRODUCT, "ann") is None
    assert len(store.events(PRODUCT, str(pseudonym))) == 2


def test_erased__again_and_again__is_busy(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A booking does not begin again for ever."""
    names = count()
    monkeypatch.setattr(booking, "pseudonyms", lambda *_: {"ann": f"erased_{next(names)}"})
    with pytest.raises(StoreBusy, match="being changed"):
        store.ingest(PRODUCT, batch_of(make_event("a")))
