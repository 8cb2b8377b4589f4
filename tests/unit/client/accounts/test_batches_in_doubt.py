"""Batches in doubt: sent, and perhaps booked. Whatever comes back in whatever order, no figure
counts an event twice or not at all.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from tests.contract.samples import (
    NOON_US,
    fold,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.unit.client.accounts.calls import capped, make_accounts, settle, usd

from paygent.client.accounts import ledger_sync
from paygent.client.accounts.ledger_sync import SESSIONS_MAX
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.core.event import Event
from paygent.core.limit import Limit
from paygent.core.message_json import ACCOUNTS_MAX
from paygent.core.messages import Answer, Question, SessionState, UserLedger
from paygent.core.plan import PlanConfig


def accounts_of_ann() -> tuple[Accounts, User]:
    """Return accounts with the known user `ann`, who has spent 900 elsewhere."""
    accounts = make_accounts(capped(100_000))
    accounts.registry.confirm_recorded("plan:pro")
    user = accounts.registry.user("ann", NOON_US)
    question = accounts.sync.question(user, None, NOON_US)
    accounts.sync.apply_answer(answer_to(question, []), NOON_US)
    assert user.known
    return accounts, user


def answer_to(question: Question, booked: list[Event], through: int = 0, **more: Any) -> Answer:
    """Return the ledger's answer once it has booked these events, through a batch."""
    booked = [make_event("theirs", cost_tokens_nano=900), *booked]
    spent = {key: fold(booked, "ann", key) for key in question.accounts}
    state = UserLedger(spent=spent, period_start_us=question.period_start_us)
    return Answer(users={"ann": state}, booked_through=through, **more)


def send(accounts: Accounts, number: int, *events: Event) -> Question:
    """Begin to send a batch; return its question."""
    accounts.sync.start_batch(number, events)
    (question,) = accounts.sync.take_active_users(events, NOON_US)
    return question


def spent(user: User) -> int:
    """Return what the gate sees in the period."""
    return user.accounts[period_key()].spent


def test_apply_answer__that_includes_the_batch_in_doubt__acknowledges_it_for_the_user() -> None:
    """The answer of the batch itself was lost; a question shows that it was booked."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a")
    send(accounts, 1, event)
    question = accounts.sync.question(user, None, NOON_US)
    applied = accounts.sync.apply_answer(answer_to(question, [event], 1), NOON_US, doubted=1)
    assert (applied, spent(user), user.pending) == ({"ann"}, 1_000, {})
    again = accounts.sync.take_active_users([event], NOON_US)[0]
    accounts.sync.acknowledge([event], answer_to(again, [event], 1), NOON_US)
    assert spent(user) == 1_000


def test_apply_answer__without_the_batch_in_doubt__keeps_it_pending() -> None:
    """It was not booked, or not yet."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a")
    send(accounts, 1, event)
    question = accounts.sync.question(user, None, NOON_US)
    accounts.sync.apply_answer(answer_to(question, [], 0), NOON_US, doubted=1)
    assert (spent(user), set(user.pending)) == (1_000, {"a"})


def test_apply_answer__asked_before_the_batch_was_sent__is_not_used_where_it_includes_it() -> None:
    """Its question did not name the accounts of the batch's events."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a", session_id="s7")
    question = accounts.sync.question(user, None, NOON_US)
    send(accounts, 1, event)
    applied = accounts.sync.apply_answer(answer_to(question, [event], 1), NOON_US, doubted=0)
    assert (applied, spent(user), set(user.pending)) == (set(), 1_000, {"a"})


def test_apply_answer__of_before_an_acknowledged_batch__is_stale() -> None:
    """Its figures lack what is no longer pending."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a")
    early = accounts.sync.question(user, None, NOON_US)
    sent = send(accounts, 1, event)
    accounts.sync.acknowledge([event], answer_to(sent, [event], 1, counted={"a"}), NOON_US)
    assert accounts.sync.apply_answer(answer_to(early, [], 0), NOON_US) == set()
    assert spent(user) == 1_000


def test_question__with_a_batch_in_doubt__names_the_accounts_of_its_events() -> None:
    """Otherwise the answer could not replace them."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a", session_id="s7")
    assert session_key("s7") not in accounts.sync.question(user, None, NOON_US).accounts
    send(accounts, 1, event)
    assert session_key("s7") in accounts.sync.question(user, None, NOON_US).accounts


@pytest.mark.parametrize("order", list(permutations(["before", "after", "answered"])))
def test_figures__in_any_order_of_answers__are_those_of_the_ledger(order: tuple[str, ...]) -> None:
    """A batch whose first answer is lost, two questions, and the answer of its repetition."""
    accounts, user = accounts_of_ann()
    event = settle(accounts, "a")
    before = accounts.sync.question(user, None, NOON_US)
    sent = send(accounts, 1, event)
    after = accounts.sync.question(user, None, NOON_US)
    for step in order:
        if step == "before":
            accounts.sync.apply_answer(answer_to(before, [], 0), NOON_US, doubted=0)
        elif step == "after":
            accounts.sync.apply_answer(answer_to(after, [event], 1), NOON_US, doubted=1)
        else:
            accounts.sync.acknowledge([event], answer_to(sent, [event], 1), NOON_US)
        assert spent(user) == 1_000, step
    assert user.pending == {}


def test_acknowledge__users_that_are_unchanged__are_as_fresh_as_others() -> None:
    """Their figures were left out of the answer."""
    accounts, user = accounts_of_ann()
    later_us = NOON_US + 30_000_000
    accounts.sync.acknowledge([], Answer(unchanged=frozenset({"ann", "eve"})), later_us)
    assert (user.read_us, user.stale_us > later_us) == (later_us, True)


def test_acknowledge__an_unchanged_user_with_a_rolling_limit__is_fresh_again() -> None:
    """Otherwise the sum would be asked for again with every delivery, and by every call."""
    limit = Limit(window="rolling:24h", cap=usd(10_000))
    accounts = make_accounts(capped(100_000, limits=(limit,)))
    user = accounts.registry.user("ann", NOON_US)
    question = accounts.sync.question(user, None, NOON_US)
    accounts.sync.apply_answer(answer_to(question, []), NOON_US)
    first_us = user.stale_us
    later_us = first_us + 5
    accounts.sync.acknowledge([], Answer(unchanged=frozenset({"ann"})), later_us)
    assert user.accounts[rolling_key()].stale_us == later_us + (first_us - NOON_US)
    assert user.stale_us == user.accounts[rolling_key()].stale_us
    assert not accounts.sync.needs_refresh(user, None, later_us + 1)


def test_question__with_figures_of_a_version__names_it() -> None:
    """Until they are forgotten, or replaced by those of another."""
    accounts, user = accounts_of_ann()
    question = accounts.sync.question(user, None, NOON_US)
    state = answer_to(question, []).users["ann"]
    versioned = UserLedger(spent=state.spent, period_start_us=state.period_start_us, version="v1")
    accounts.sync.apply_answer(Answer(users={"ann": versioned}), NOON_US)
    assert accounts.sync.question(user, None, NOON_US).version == "v1"
    accounts.registry.forget(user)
    assert accounts.sync.question(user, None, NOON_US).version == ""


def test_acknowledge__plans_of_a_known_version__are_left_as_they_are() -> None:
    """They were left out of the answer."""
    accounts, _ = accounts_of_ann()
    plans: Any = {"pro": (2, {"max_spend_per_period": "7"})}
    accounts.sync.acknowledge([], Answer(plans=plans, plans_version="p2"), NOON_US)
    assert accounts.registry.plans["pro"] == PlanConfig(max_spend_per_period=7)
    accounts.sync.acknowledge([], Answer(plans_version="p2"), NOON_US)
    assert (accounts.registry.plan_versions["pro"], accounts.sync.plans_version) == (2, "p2")


def test_acknowledge__news_of_a_user__has_them_asked_about_with_the_next_batch() -> None:
    """Those who are known here; the next news are those after these."""
    accounts, _ = accounts_of_ann()
    accounts.sync.take_active_users([], NOON_US)
    news = Answer(changed=frozenset({"ann", "stranger"}), news_until_us=77)
    accounts.sync.acknowledge([], news, NOON_US)
    assert accounts.sync.news_us == 77
    assert [each.user_id for each in accounts.sync.take_active_users([], NOON_US)] == ["ann"]
    accounts.sync.acknowledge([], Answer(), NOON_US)
    assert accounts.sync.news_us == 77


# -- who waits


def test_must_wait__for_a_user_or_session_that_was_never_answered__once() -> None:
    """A user with live figures is never asked about on the path, however old those are."""
    accounts, user = accounts_of_ann()
    sync = accounts.sync
    assert not sync.must_wait(user, None)
    assert sync.must_wait(user, "new")
    sync.mark_waited(user, "new", NOON_US)
    assert not sync.must_wait(user, "new")
    assert sync.must_wait(accounts.registry.user("eve", NOON_US), None)


def test_must_wait__while_the_ledger_does_not_answer__once_for_each_user() -> None:
    """Neither another session nor a user who has waited waits again; after the outage they may."""
    accounts, user = accounts_of_ann()
    sync, eve = accounts.sync, accounts.registry.user("eve", NOON_US)
    sync.mark_waited(user, None, NOON_US)
    accounts.note_failing(is_offline=False)
    assert not sync.must_wait(user, "another")
    assert sync.must_wait(eve, None)
    sync.mark_waited(eve, None, NOON_US)
    assert not sync.must_wait(eve, None)
    assert not sync.needs_refresh(eve, None, NOON_US)
    accounts.note_answered()
    assert sync.needs_refresh(eve, None, NOON_US)
    assert sync.must_wait(eve, None)


def test_note_failing__long_enough__counts_as_one_outage() -> None:
    """An allowance starts over when it has ended."""
    accounts, _ = accounts_of_ann()
    accounts.note_answered()
    accounts.note_failing(is_offline=False)
    accounts.note_answered()
    assert accounts.sync.outages == 0
    accounts.note_failing(is_offline=False)
    accounts.note_failing(is_offline=True)
    accounts.note_failing(is_offline=True)
    assert (accounts.sync.is_offline, accounts.admission.is_offline) == (True, True)
    accounts.note_answered()
    assert (accounts.sync.outages, accounts.sync.is_offline, accounts.sync.is_failing) == (
        1,
        False,
        False,
    )
    assert not accounts.admission.is_offline


def test_apply_session_ages__of_very_many_sessions__forgets_old_ones() -> None:
    """A user may name a session for each of their requests."""
    accounts, user = accounts_of_ann()
    user.sessions |= {f"s{number}": NOON_US for number in range(SESSIONS_MAX + 50)}
    question = accounts.sync.question(user, None, NOON_US + 1)
    accounts.sync.apply_answer(answer_to(question, []), NOON_US + 1)
    assert len(user.sessions) == SESSIONS_MAX


# -- what goes to other processes


def test_known__before_any_answer__is_nothing() -> None:
    """There is nothing to go on from."""
    accounts, _ = accounts_of_ann()
    assert accounts.sync.known() is None


def test_known__after_an_answer__is_the_ledgers_part_of_the_figures() -> None:
    """Events that it does not have are not in it, and users that it has not shown neither."""
    accounts, user = accounts_of_ann()
    accounts.registry.user("eve", NOON_US)
    plans: Any = {"pro": (2, {"max_spend_per_period": "7"})}
    accounts.sync.acknowledge([], Answer(plans=plans), NOON_US + 5)
    user.open_session = SessionState("s", 1, 2)
    user.own = PlanConfig(max_spend_per_period=3)
    user.paused, user.paused_reason = True, "fraud"
    settle(accounts, "a")
    known = accounts.sync.known()
    assert known is not None
    ((question, state, read_us),) = known.users
    assert read_us == NOON_US
    assert (known.as_of_us, known.default_plan) == (NOON_US + 5, "pro")
    assert known.plans["pro"][0] == 2
    assert known.plans["pro"][1]["max_spend_per_period"] == "7.000000000"
    assert (question.user_id, state.spent[period_key()]) == ("ann", 900)
    assert set(question.accounts) == set(state.spent)
    assert state.own is not None
    assert state.own["max_spend_per_period"] == "3.000000000"
    assert (state.open_session, state.paused, state.paused_reason) == (
        user.open_session,
        True,
        "fraud",
    )


def test_known__with_a_batch_in_doubt_that_was_found_booked__is_without_it() -> None:
    """Whoever takes the figures over books that batch again."""
    accounts, user = accounts_of_ann()
    accounts.sync.acknowledge([], Answer(), NOON_US)
    event = settle(accounts, "a", blocked=True)
    send(accounts, 1, event)
    question = accounts.sync.question(user, None, NOON_US)
    accounts.sync.apply_answer(answer_to(question, [event], 1), NOON_US, doubted=1)
    assert spent(user) == 1_000
    known = accounts.sync.known()
    assert known is not None
    assert known.users[0][1].spent[period_key()] == 900


def test_acknowledge__plans_of_an_outage__give_way_to_the_backends_of_the_same_version() -> None:
    """Each ledger counts its versions by itself."""
    accounts, _ = accounts_of_ann()
    here: Any = {"pro": (1, {"max_spend_per_period": "100"})}
    there: Any = {"pro": (1, {"max_spend_per_period": "5"})}
    accounts.sync.acknowledge([], Answer(plans=here, is_provisional=True), NOON_US)
    assert accounts.registry.plans["pro"] == PlanConfig(max_spend_per_period=100)
    accounts.sync.acknowledge([], Answer(plans=there, plans_version="b"), NOON_US)
    assert accounts.registry.plans["pro"] == PlanConfig(max_spend_per_period=5)


def test_must_wait__after_a_wait_in_vain__not_again_until_there_is_an_answer() -> None:
    """Also before any delivery has failed, and for each further session."""
    accounts, user = accounts_of_ann()
    sync = accounts.sync
    sync.mark_wait_failed(user, "s1")
    assert not sync.must_wait(user, "s2")
    question = sync.question(user, None, NOON_US)
    sync.apply_answer(answer_to(question, []), NOON_US)
    assert sync.must_wait(user, "s2")


def test_question__of_a_user_with_very_many_accounts__names_those_of_now_first() -> None:
    """A service user may have a session for each call; the ledger refuses too many at once."""
    accounts, user = accounts_of_ann()
    events = [settle(accounts, f"e{number}", session_id=f"s{number}") for number in range(1_200)]
    question = accounts.sync.question(user, None, NOON_US, delivered=events)
    assert len(question.accounts) == ACCOUNTS_MAX
    assert question.accounts[0] == period_key()


def test_take_active_users__with_very_many_accounts__leaves_some_for_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message holds so many; nobody is forgotten."""
    monkeypatch.setattr(ledger_sync, "ACCOUNTS_TOTAL_MAX", 20)
    accounts = make_accounts(capped(1_000))
    for number in range(25):
        accounts.registry.user(f"u{number}", NOON_US).is_active = True
    seen: list[str] = []
    for _ in range(3):
        seen += [each.user_id for each in accounts.sync.take_active_users([], NOON_US)]
    assert sorted(seen) == sorted(f"u{number}" for number in range(25))
