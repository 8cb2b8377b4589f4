"""Questions to the ledger: which accounts they name, when one is asked, and what answers teach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    MONTH,
    NOON_US,
    day_key,
    fold,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.unit.client.accounts.calls import (
    capped,
    held,
    lane_of,
    make_accounts,
    resolved,
    settle,
    usd,
)

from paygent.client.accounts import account_lookup
from paygent.client.accounts.account import Account
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.messages import Answer, Question, SessionState, UserLedger
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json

ROLLING = Limit(window="rolling:24h", cap=usd(10_000))
SESSION_TOKENS = Limit("tokens", "session", None, "session", cap=1_000)
SECOND_US = 1_000_000


def answer_to(question: Question, booked: Iterable[Event] = (), **state: Any) -> Answer:
    """Return what a ledger that holds `booked` answers."""
    booked = list(booked)
    spent = {key: fold(booked, question.user_id, key) for key in question.accounts}
    ledger = UserLedger(spent=spent, period_start_us=question.period_start_us, **state)
    return Answer(users={question.user_id: ledger})


def ask(
    accounts: Accounts,
    booked: Iterable[Event] = (),
    *,
    session_id: str | None = None,
    at_us: int = NOON_US,
    **state: Any,
) -> Question:
    """Ask for a call that waits, as the asking thread does; return the question."""
    question = accounts.sync.question(accounts.registry.user("ann", at_us), session_id, at_us)
    accounts.sync.apply_answer(answer_to(question, booked, **state), at_us)
    return question


def deliver(
    accounts: Accounts, *events: Event, booked: Iterable[Event] = (), at_us: int = NOON_US
) -> set[AccountKey]:
    """Deliver events to a ledger that holds `booked`; return the accounts of the question."""
    questions = accounts.sync.take_active_users(events, at_us)
    answer = answer_to(questions[0], [*booked, *events])
    counted = frozenset({event.event_id for event in events} - {each.event_id for each in booked})
    accounts.sync.acknowledge(events, Answer(counted, answer.users), at_us)
    return set(questions[0].accounts)


def known_user(accounts: Accounts) -> User:
    """Return `ann`, once the ledger has answered about them."""
    ask(accounts)
    user = accounts.registry.users["ann"]
    assert user.known
    return user


def spent(user: User, key: AccountKey) -> int:
    """Return what the gate sees on an account."""
    return user.accounts[key].spent


# -- which accounts a delivery asks about


def test_take_active_users__several_sessions__asks_about_those_of_the_events_and_of_now() -> None:
    """The open session and the one used last may be touched next; the others were just now."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    opened = accounts.sessions.session_for_call(user, None, NOON_US)
    accounts.sessions.session_for_call(user, "last", NOON_US)
    first = settle(accounts, "a", session_id="s1")
    second = settle(accounts, "b", session_id="s2")
    settle(accounts, "c", session_id="s3")  # not in this batch
    theirs = make_event("theirs", session_id="s1", cost_tokens_nano=7)
    assert deliver(accounts, first, second, booked=[theirs]) == {
        period_key(),
        *(session_key(each) for each in (opened, "last", "s1", "s2")),
    }
    assert spent(user, session_key("s1")) == 107


def test_take_active_users__an_event_of_yesterday__asks_about_yesterdays_account() -> None:
    """A call that ends after midnight counts in the day in which it began."""
    accounts = make_accounts(capped(10_000, limits=(Limit("calls", window="day", cap=9),)))
    user = known_user(accounts)
    event = settle(accounts, "a", at_us=NOON_US)
    theirs = make_event("theirs", at_us=NOON_US)
    named = deliver(accounts, event, booked=[theirs], at_us=NOON_US + DAY_US)
    assert {day_key("calls"), day_key("calls", at_us=NOON_US + DAY_US)} <= named
    assert spent(user, day_key("calls")) == 2


def test_take_active_users__a_model_that_the_plan_no_longer_limits__asks_about_its_account() -> (
    None
):
    """Its limit may come back, and must not start from an old figure."""
    accounts = make_accounts(capped(10_000, model_limits={"gpt-4o": ModelLimitConfig(500)}))
    known_user(accounts)
    event = settle(accounts, "a")
    accounts.registry.set_plan("pro", capped(10_000))
    assert period_key("tokens", "gpt-4o") in deliver(accounts, event)


def test_take_active_users__an_account_of_no_event__is_left_out() -> None:
    """A session that was used some time ago costs nothing with each delivery."""
    accounts = make_accounts(capped(10_000))
    known_user(accounts)
    deliver(accounts, settle(accounts, "a", session_id="s1"))
    assert session_key("s1") not in deliver(accounts, settle(accounts, "b", session_id="s2"))


# -- sessions


def test_needs_refresh__a_session_whose_figures_are_old__is_asked_about_again() -> None:
    """Deliveries of work in other sessions do not read it, and other processes spend in it."""
    accounts = make_accounts(capped(10_000), refresh_us=MINUTE_US)
    user = known_user(accounts)
    ask(accounts, session_id="s1")
    for seconds in (30, 59):
        now_us = NOON_US + seconds * SECOND_US
        event = settle(accounts, f"e{seconds}", session_id="s2", at_us=now_us)
        deliver(accounts, event, at_us=now_us)
        assert accounts.sync.needs_refresh(user, "s1", now_us) is False
    assert accounts.sync.needs_refresh(user, "s1", NOON_US + MINUTE_US) is True
    assert accounts.sync.needs_refresh(user, None, NOON_US + MINUTE_US) is False


def test_acknowledge__a_session_whose_figures_are_old__loses_its_lanes_alone() -> None:
    """A call of a known lane asks for nothing, so the delivery sends it the whole way."""
    accounts = make_accounts(capped(10_000), refresh_us=MINUTE_US)
    user = known_user(accounts)
    ask(accounts, session_id="s1")
    ask(accounts, session_id="s2", at_us=NOON_US + SECOND_US)
    idle = lane_of(accounts, user, resolved("gpt-4o"), session_id="s1")
    busy = lane_of(accounts, user, resolved("gpt-4o"), session_id="s2")
    idle.until_us = busy.until_us = NOON_US + HOUR_US
    event = settle(accounts, "a", session_id="s2", at_us=NOON_US + MINUTE_US)
    deliver(accounts, event, at_us=NOON_US + MINUTE_US)
    assert (idle.is_current(), idle.until_us) == (False, 0)
    assert (busy.is_current(), busy.until_us) == (True, NOON_US + HOUR_US)


def test_needs_refresh__a_session_that_is_worked_in__is_kept_up_to_date_by_deliveries() -> None:
    """No call waits for what its own deliveries have read."""
    accounts = make_accounts(capped(10_000), refresh_us=MINUTE_US)
    user = known_user(accounts)
    ask(accounts, session_id="s1")
    for minute in range(5):
        now_us = NOON_US + minute * MINUTE_US - SECOND_US
        deliver(accounts, settle(accounts, f"e{minute}", at_us=now_us), at_us=now_us)
        assert accounts.sync.needs_refresh(user, "s1", now_us + MINUTE_US - 1) is False


def test_needs_refresh__named_and_implicit_sessions_in_turn__asks_once_for_each() -> None:
    """A delivery asks about both, so neither is unknown after the other was used."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    asked = 0
    for number in range(20):
        session_id = "named" if number % 2 else None
        if accounts.sync.needs_refresh(user, session_id, NOON_US):
            ask(accounts, session_id=session_id)
            accounts.sync.mark_waited(user, session_id, NOON_US)
            asked += 1
        session = accounts.sessions.session_for_call(user, session_id, NOON_US)
        deliver(accounts, settle(accounts, f"e{number}", session_id=session))
        assert user.known
    assert asked == 2


def test_question__about_a_named_session__covers_the_open_one_as_well() -> None:
    """The answer makes the user known, whichever session comes next."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    opened = accounts.sessions.session_for_call(user, None, NOON_US)
    question = ask(accounts, session_id="named")
    assert set(question.accounts) == {period_key(), session_key(opened), session_key("named")}
    assert user.known


def test_apply_answer__a_session_that_was_opened_meanwhile__leaves_the_user_known() -> None:
    """The ledger has nothing of a session that this process has just made."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    question = accounts.sync.question(user, None, NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    accounts.sync.apply_answer(answer_to(question), NOON_US)
    assert user.known


def test_acknowledge__another_processs_open_session__is_asked_about_before_the_next_call() -> None:
    """Its spend was not in the question; one call waits for it."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    accounts.sync.mark_waited(user, None, NOON_US)
    theirs = SessionState("theirs", NOON_US, NOON_US)
    ask(accounts, open_session=theirs)  # as a delivery does: its answer brings the session
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    ask(accounts, [make_event("x", session_id="theirs")], open_session=theirs)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is False
    assert spent(user, session_key("theirs")) == 1_000


def test_apply_answer__a_session_forgotten_since_the_question__is_asked_about_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its account was gone when the figure came."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    question = accounts.sync.question(user, "s1", NOON_US)
    monkeypatch.setattr(account_lookup, "ACCOUNTS_MAX", 1)
    accounts.sync.question(user, "s2", NOON_US)
    assert session_key("s1") not in user.accounts
    accounts.sync.apply_answer(answer_to(question, [make_event("x")]), NOON_US)
    assert accounts.sync.needs_refresh(user, "s1", NOON_US) is True


# -- a plan that changes


@pytest.mark.parametrize("change", ["set_plan", "assign", "replace_plan"])
def test_refresh_plan__a_session_limit_that_is_new__asks_once_for_each_session(change: str) -> None:
    """The new account of a session starts from what the session has seen, like any new limit."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    booked = [make_event(f"x-{session}", session_id=session) for session in ("s1", "s2")]
    for session_id in ("s1", "s2"):
        ask(accounts, booked, session_id=session_id)
    with_tokens = capped(10_000, limits=(SESSION_TOKENS,))
    if change == "set_plan":
        accounts.registry.set_plan("pro", with_tokens)
    elif change == "assign":
        accounts.registry.set_plan("gold", with_tokens)
        accounts.registry.assign("ann", "gold", None, None, NOON_US)
    else:
        accounts.registry.replace_plan("pro", 2, with_tokens)
    for session_id in ("s1", "s2"):
        accounts.registry.user("ann", NOON_US)
        assert accounts.sync.needs_refresh(user, session_id, NOON_US) is True
        ask(accounts, booked, session_id=session_id)
        assert accounts.sync.needs_refresh(user, session_id, NOON_US) is False
        assert spent(user, session_key(session_id, "tokens")) == 30


def test_refresh_plan__a_session_limit_that_is_new__covers_the_open_session() -> None:
    """A session without a name is asked about like a named one."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    opened = accounts.sessions.session_for_call(user, None, NOON_US)
    accounts.registry.set_plan("pro", capped(10_000, limits=(SESSION_TOKENS,)))
    accounts.registry.user("ann", NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    ask(accounts, [make_event("x", session_id=opened)])
    assert accounts.sync.needs_refresh(user, None, NOON_US) is False
    assert spent(user, session_key(opened, "tokens")) == 30


def test_refresh_plan__a_session_limit_that_moves__asks_about_no_session() -> None:
    """A cap is no part of an account."""
    accounts = make_accounts(PlanConfig(max_spend_per_session=usd(1_000)))
    user = known_user(accounts)
    ask(accounts, session_id="s1")
    accounts.registry.set_plan("pro", PlanConfig(max_spend_per_session=usd(2_000)))
    accounts.registry.user("ann", NOON_US)
    assert accounts.sync.needs_refresh(user, "s1", NOON_US) is False


def test_apply_answer__that_brings_a_session_limit__does_not_cover_its_session() -> None:
    """The question was asked by the old plan, so the new account was not in it."""
    accounts = make_accounts(capped(10_000))
    user = known_user(accounts)
    accounts.registry.set_plan("gold", capped(10_000, limits=(SESSION_TOKENS,)))
    ask(accounts, session_id="s1", plan="gold")
    assert accounts.sync.is_answered(user, "s1") is False
    assert accounts.sync.needs_refresh(user, "s1", NOON_US) is True
    ask(accounts, session_id="s1", plan="gold")
    assert accounts.sync.is_answered(user, "s1") is True


def test_apply_answer__that_brings_the_plan_itself__leaves_the_user_unknown() -> None:
    """The call that waited for it is not decided on limits of which nothing was read."""
    accounts = make_accounts()
    user = accounts.registry.user("ann", NOON_US)
    plan = capped(10_000, limits=(Limit("calls", window="day", cap=9),))
    answer = answer_to(accounts.sync.question(user, None, NOON_US))
    plans = {"pro": (1, plan_to_json(plan))}
    accounts.sync.apply_answer(Answer(users=answer.users, plans=plans), NOON_US)
    assert (user.plan, user.known) == (plan, False)
    ask(accounts, [make_event("x")])
    assert (user.known, spent(user, day_key("calls"))) == (True, 1)


def test_apply_answer__of_before_the_period_that_brings_a_plan__keeps_the_period() -> None:
    """The question was asked just before midnight; what was used since then stays."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    answer = answer_to(accounts.sync.question(user, None, NOON_US))
    accounts.registry.user("ann", MONTH.end_us)
    settle(accounts, "a", at_us=MONTH.end_us, period_start_us=MONTH.end_us)
    plans = {"pro": (2, plan_to_json(capped(20_000)))}
    accounts.registry.confirm_recorded("plan:pro")
    accounts.sync.apply_answer(Answer(users=answer.users, plans=plans), NOON_US)
    assert (user.plan, user.period.start_us, user.known) == (capped(20_000), MONTH.end_us, False)
    figures = accounts.admission.figures(user, "", MONTH.end_us)
    assert figures.by_model == {"gpt-4o": (30, 100)}


# -- rolling sums


def rolling_accounts(**arguments: Any) -> tuple[Accounts, User, Account]:
    """Return the accounts of a known user with a limit over a rolling day, and its account."""
    accounts = make_accounts(capped(10_000, limits=(ROLLING,)), **arguments)
    user = known_user(accounts)
    return accounts, user, user.accounts[rolling_key()]


def test_take_active_users__a_rolling_sum_that_is_fresh__is_not_read() -> None:
    """The ledger adds up all events of the window at each reading."""
    accounts, user, account = rolling_accounts()
    stale_us = account.stale_us
    named = deliver(accounts, settle(accounts, "a", at_us=NOON_US + SECOND_US))
    assert rolling_key() not in named
    assert (account.acknowledged, account.pending) == (100, 0)
    assert (user.known, account.stale_us, user.stale_us) == (True, stale_us, stale_us)


def test_take_active_users__a_rolling_sum_that_was_never_read__is_read() -> None:
    """Nothing is known of it."""
    accounts = make_accounts(capped(10_000, limits=(ROLLING,)))
    theirs = make_event("theirs", cost_tokens_nano=7)
    assert rolling_key() in deliver(accounts, settle(accounts, "a"), booked=[theirs])
    user = accounts.registry.users["ann"]
    assert (user.known, spent(user, rolling_key())) == (True, 107)


def test_take_active_users__a_rolling_sum_of_a_minute_ago__is_read_before_a_call_waits() -> None:
    """Deliveries come each second, and read it a little before calls would have to ask."""
    accounts, user, account = rolling_accounts(refresh_us=MINUTE_US)
    asked = []
    for second in range(150):
        now_us = NOON_US + second * SECOND_US
        assert accounts.sync.needs_refresh(user, None, now_us) is False
        event = settle(accounts, f"e{second}", at_us=now_us, cost_tokens_nano=1)
        if rolling_key() in deliver(accounts, event, at_us=now_us):
            asked.append(second)
    assert asked == [58, 116]
    assert account.pending == 0


def test_question__that_a_call_waits_for__reads_rolling_sums() -> None:
    """Whoever waits gets every figure."""
    accounts, user, _ = rolling_accounts()
    assert rolling_key() in accounts.sync.question(user, None, NOON_US).accounts
    relaxed = accounts.sync.question(user, None, NOON_US, is_awaited=False)
    assert set(relaxed.accounts) == {period_key()}


def test_acknowledge__an_event_booked_before__has_the_rolling_sum_read_again() -> None:
    """An answer was lost: the sum may be of before the booking, and nothing else would add it."""
    accounts, user, account = rolling_accounts()
    event = settle(accounts, "a")
    deliver(accounts, event, booked=[event])
    assert (account.acknowledged, account.pending) == (0, 0)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    assert rolling_key() in deliver(accounts, settle(accounts, "b"), booked=[event])
    assert (user.known, account.spent) == (True, 200)


def test_apply_answer__a_rolling_limit_that_was_taken_away__asks_for_nothing() -> None:
    """What it left behind gets old, and no call waits for it."""
    accounts, user, account = rolling_accounts()
    accounts.registry.set_plan("pro", capped(10_000))
    later_us = account.stale_us + HOUR_US
    held(accounts, 1, at_us=later_us)
    ask(accounts, at_us=later_us)
    assert accounts.sync.needs_refresh(user, None, later_us) is False


def test_apply_answer__of_before_the_end_of_a_day__asks_again() -> None:
    """A call dropped that day's account meanwhile, which another model's accounts still named."""
    accounts = make_accounts(
        PlanConfig(
            limits=[Limit("calls", window="day", cap=100)],
            model_limits={"m": 1_000, "n": 1_000},
        )
    )
    user = accounts.registry.user("ann", NOON_US)
    ask(accounts)
    question = accounts.sync.question(user, None, NOON_US)
    account_lookup.accounts_for_call(user, "", "m", NOON_US + DAY_US)
    assert day_key("calls") not in user.accounts
    accounts.sync.apply_answer(answer_to(question), NOON_US)
    assert user.known is False
    ask(accounts, at_us=NOON_US + DAY_US)
    assert user.known is True
