"""What one process knows of its users: holds, windows, plans, sessions, and the ledger's word."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
from tests.accounts import held as held_on
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    MONTH,
    NOON_US,
    TODAY_US,
    day_key,
    fold,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.unit.client.accounts.calls import (
    all_held,
    capped,
    fixed_hold,
    held,
    make_accounts,
    refused,
    resolved,
    settle,
    try_hold,
    usd,
)

import paygent.client.accounts.registry as accounts_module
import paygent.client.runtime.locks as lock_module
from paygent.client.accounts import account_lookup
from paygent.client.accounts.account import Account
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Hold, User
from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.gate import Decision
from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.messages import MISSING_USER_ID, Answer, SessionRecord, SessionState, UserLedger
from paygent.core.period import Subscription
from paygent.core.plan import ModelCostRate, PlanConfig, limits_of
from paygent.core.plan_json import plan_to_json
from paygent.failopen import diagnostics


def spent(user: User, key: AccountKey) -> int:
    """Return what an account says."""
    return user.accounts[key].spent


def answer_for(
    accounts: Accounts,
    booked: Iterable[Event] = (),
    *,
    user_id: str = "ann",
    session_id: str | None = None,
    at_us: int = NOON_US,
    counted: Iterable[Event] = (),
    **state: Any,
) -> Answer:
    """Return what a ledger that holds `booked` answers to what the process asks now."""
    booked = list(booked)
    question = accounts.sync.question(accounts.registry.user(user_id, at_us), session_id, at_us)
    by_model: dict[str, tuple[int, int]] = {}
    for event in booked:
        if event.period_start_us == question.period_start_us and event.user_id == user_id:
            tokens, cost = by_model.get(event.model_key, (0, 0))
            by_model[event.model_key] = (tokens + event.total_tokens, cost + event.cost_nano)
    ledger = UserLedger(
        spent={key: fold(booked, user_id, key) for key in question.accounts},
        period_start_us=question.period_start_us,
        by_model=by_model,
        **state,
    )
    return Answer(counted=frozenset(event.event_id for event in counted), users={user_id: ledger})


# -- holds


def test_hold__that_fits_everywhere__is_on_every_account_of_the_call() -> None:
    """A call holds in dollars, tokens and calls, each where a limit counts it, and releases all."""
    accounts = make_accounts(
        capped(
            max_spend_per_session=usd(900),
            model_limits={"gpt-4o": 500, "o3": 10},
            limits=(Limit("calls", window="day", cap=3),),
        )
    )
    hold = held(accounts, 70, tokens=30)
    user = accounts.registry.users["ann"]
    assert {key: held_on(user, account) for key, account in user.accounts.items()} == {
        period_key(): 70,
        session_key("s1"): 70,
        period_key("tokens", "gpt-4o"): 30,
        day_key("calls"): 1,
    }
    assert accounts.admission.figures(user, "s1", NOON_US).held_cost_nano == 70
    assert accounts.admission.figures(user, "s1", NOON_US).held_tokens == {"gpt-4o": 30}
    accounts.admission.release(hold)
    assert set(all_held(user)) == {0}


def test_hold__without_a_session__leaves_session_limits_out() -> None:
    """A call that belongs to no session is not counted in one."""
    accounts = make_accounts(capped(max_spend_per_session=usd(1)))
    held(accounts, 70, session_id="")
    user = accounts.registry.users["ann"]
    assert {key: held_on(user, account) for key, account in user.accounts.items()} == {
        period_key(): 70
    }


def test_hold__refused_by_one_account__holds_on_none() -> None:
    """All or none: what the other accounts would have allowed is not held."""
    accounts = make_accounts(capped(max_spend_per_session=usd(100)))
    settle(accounts, "a", cost_tokens_nano=100)
    decision = refused(accounts, 10)
    assert (decision.status, decision.reason, decision.retryable) == (
        "hard_gate",
        "session_spend",
        False,
    )
    assert set(all_held(accounts.registry.users["ann"])) == {0}
    assert isinstance(try_hold(accounts, 10, session_id="other"), Hold)


def test_hold__of_two_users__never_meet() -> None:
    """A user's holds take nothing from another's cap."""
    accounts = make_accounts(capped())
    held(accounts, 1_000)
    assert isinstance(try_hold(accounts, 1_000, user_id="bob"), Hold)


def test_hold__the_straddler__holds_all_that_is_left_and_is_the_only_one() -> None:
    """One call at a time may cross the line; when it is done and room is left, another may."""
    accounts = make_accounts(capped())
    first = held(accounts, 600)
    straddler = held(accounts, 600)
    user = accounts.registry.users["ann"]
    assert refused(accounts, 1)[:6] == ("hard_gate", "contention", 1_000_000, 0, 1_000, 1_000)
    assert refused(accounts, 1).retryable is True
    accounts.admission.release(straddler)
    again = held(accounts, 401)
    assert refused(accounts, 1).retryable is True
    accounts.admission.release(again)
    accounts.admission.release(first)
    assert set(all_held(user)) == {0}


def test_hold__a_straddler_and_a_small_call__do_not_go_together() -> None:
    """While a call crosses the line there is no room under it for anybody else."""
    accounts = make_accounts(capped())
    straddler = held(accounts, 5_000)
    decision = refused(accounts, 1)
    assert (decision.reason, decision.limit) == ("contention", "total_spend")
    settle(accounts, "a", straddler, cost_tokens_nano=300)
    assert isinstance(try_hold(accounts, 700), Hold)


def test_hold__that_straddles_one_account_and_is_refused_by_another__straddles_none() -> None:
    """A refused call leaves no straddler behind."""
    accounts = make_accounts(capped(limits=(Limit("calls", window="day", cap=1),)))
    first = held(accounts, 600)
    assert refused(accounts, 600).limit == "calls:day"
    accounts.admission.release(first)
    assert set(all_held(accounts.registry.users["ann"])) == {0}
    assert isinstance(try_hold(accounts, 5_000), Hold)


def test_hold__holds_in_the_way__is_contention_and_spend_is_exhaustion() -> None:
    """A refusal says whether trying again can help."""
    accounts = make_accounts(capped())
    hold = held(accounts, 1_000)
    waiting = refused(accounts, 10)
    assert (waiting.reason, waiting.retryable, waiting.spent, waiting.held) == (
        "contention",
        True,
        0,
        1_000,
    )
    settle(accounts, "a", hold, cost_tokens_nano=1_000)
    over = refused(accounts, 10)
    assert (over.reason, over.retryable, over.spent, over.held) == (
        "total_spend",
        False,
        1_000,
        0,
    )


def test_hold__strict__never_passes_the_line() -> None:
    """A strict call fits whole or waits or is refused; it never straddles."""
    accounts = make_accounts(capped())
    held(accounts, 600, strict=True)
    assert refused(accounts, 401, strict=True).retryable is True
    assert refused(accounts, 1_001, strict=True).retryable is False
    assert isinstance(try_hold(accounts, 400, strict=True), Hold)
    user = accounts.registry.users["ann"]
    assert held_on(user, user.accounts[period_key()]) == 1_000


@pytest.mark.parametrize("strict", [True, False])
def test_hold__a_cap_of_zero__refuses_always(strict: bool) -> None:
    """0 is a cap, not the absence of one."""
    accounts = make_accounts(capped(0))
    assert refused(accounts, 0, strict=strict).reason == "total_spend"
    assert refused(accounts, 5, strict=strict).retryable is False


def test_hold__not_enforced__holds_whole_whatever_the_limit_says() -> None:
    """A call that runs past a hard gate still holds what it may use, and gives it back."""
    accounts = make_accounts(capped())
    settle(accounts, "a", cost_tokens_nano=1_000)
    hold = held(accounts, 500, enforce=False)
    user = accounts.registry.users["ann"]
    assert held_on(user, user.accounts[period_key()]) == 500
    accounts.admission.release(hold)
    assert set(all_held(user)) == {0}


def test_hold__a_limit_of_another_model__is_not_asked() -> None:
    """A model's limit counts calls of that model only, by plain name."""
    accounts = make_accounts(PlanConfig(model_limits={"GPT-4o": ModelLimitConfig(10)}))
    settle(accounts, "a", input_tokens=10, output_tokens=0)
    assert refused(accounts, 1, tokens=1).reason == "model_limit:GPT-4o"
    assert isinstance(try_hold(accounts, 1, tokens=1, model="o3"), Hold)


def test_hold__an_unconfigured_plan__has_no_limits() -> None:
    """A plan that nobody configured limits nothing."""
    assert isinstance(try_hold(make_accounts(), 10**18), Hold)


def test_say_unlimited__a_plan_again__is_said_once_until_it_is_configured() -> None:
    """Once per plan, and anew if it could be forgotten again."""
    accounts = make_accounts()
    for user_id in ("ann", "bob"):
        accounts.registry.warn_unlimited(accounts.registry.user(user_id, NOON_US))
    assert diagnostics.counts == {"plan_not_configured:pro": 1}
    accounts.registry.set_plan("pro", PlanConfig())
    accounts.registry.warn_unlimited(accounts.registry.user("ann", NOON_US))
    assert diagnostics.counts == {"plan_not_configured:pro": 2}


def test_user__nobody__has_the_default_plan_without_its_limits() -> None:
    """Calls without a user are many people's; the plan's prices hold for them, its caps do not."""
    prices = {"gpt-4o": ModelCostRate.per_million(3, 12)}
    limits = (Limit(metric="calls", window="day", cap=0),)
    plan = capped(0, model_limits={"gpt-4o": 0}, limits=limits, cost_rates=prices)
    accounts = make_accounts(plan)
    nobody = accounts.registry.user(MISSING_USER_ID, NOON_US)
    assert (limits_of(nobody.plan), nobody.plan.cost_rates) == ((), prices)
    assert accounts.registry.user("ann", NOON_US).plan is plan
    accounts.registry.assign(MISSING_USER_ID, "pro", None, None, NOON_US)
    assert accounts.registry.user(MISSING_USER_ID, NOON_US).plan is plan


def test_settle__without_a_hold__counts_a_manual_event() -> None:
    """An entry that is no call of ours counts where its event belongs."""
    accounts = make_accounts(capped())
    settle(accounts, "a", session_id="s9", cost_tools_nano=5)
    user = accounts.registry.users["ann"]
    assert (spent(user, period_key()), spent(user, session_key("s9"))) == (105, 105)
    assert accounts.admission.figures(user, "s9", NOON_US).by_model == {"gpt-4o": (30, 105)}


def test_settle__an_event_without_a_model__is_in_no_model_figure() -> None:
    """A tool's cost is nobody's tokens."""
    accounts = make_accounts(capped())
    settle(accounts, "a", model="", model_key="")
    figures = accounts.admission.figures(accounts.registry.users["ann"], "", NOON_US)
    assert (figures.period_cost_nano, figures.session_cost_nano, figures.by_model) == (100, 0, {})


def test_settle__answered_by_another_model__releases_the_one_and_counts_the_other() -> None:
    """The hold was on the model asked for, the count is on the one that answered."""
    accounts = make_accounts(capped())
    hold = held(accounts, 50, tokens=9, model="gpt-4o")
    settle(accounts, "a", hold, model="o3", model_key="o3")
    figures = accounts.admission.figures(accounts.registry.users["ann"], "s1", NOON_US)
    assert figures.by_model == {"o3": (30, 100)}


# -- warnings


def test_hold__past_the_warn_line__warns_once_per_limit_and_window() -> None:
    """The warning compares what is spent, and is not repeated."""
    accounts = make_accounts(capped(10_000, soft_gate_at=0.5))
    settle(accounts, "a", cost_tokens_nano=4_999)
    assert held(accounts, 2_000).warnings == ()  # holds come and go: spent alone is compared
    settle(accounts, "b", cost_tokens_nano=1)
    warned = held(accounts, 100)
    assert [(reading.reason, reading.spent) for reading in warned.warnings] == [
        ("total_spend", 5_000)
    ]
    assert held(accounts, 100).warnings == ()


def test_hold__every_call_warns__where_the_product_chose_so() -> None:
    """`soft_gate="every_call"` repeats the warning."""
    accounts = make_accounts(capped(10_000, soft_gate_at=0.5), warn_every_call=True)
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert [len(held(accounts, 10).warnings) for _ in range(3)] == [1, 1, 1]


def test_hold__refused_by_another_limit__warns_of_those_past_their_line() -> None:
    """A limit that is newly past its line warns, also with a call that another one refuses."""
    accounts = make_accounts(
        capped(10_000, soft_gate_at=0.5, limits=(Limit("calls", window="day", cap=1),))
    )
    settle(accounts, "a", cost_tokens_nano=5_000)
    reasons = []
    for _ in range(2):
        hold = fixed_hold(accounts, 1, tokens=1)
        assert isinstance(accounts.admission.hold(hold, strict=False), Decision)
        reasons.append([reading.reason for reading in hold.warnings])
    assert reasons == [["total_spend"], []]


def test_hold__several_limits_past_their_lines__each_warns() -> None:
    """Every limit newly past its line fires its own warning."""
    accounts = make_accounts(
        capped(10_000, soft_gate_at=0.5, max_spend_per_session=usd(10_000), model_limits={"o3": 9})
    )
    settle(accounts, "a", cost_tokens_nano=5_000)
    reasons = {reading.reason for reading in held(accounts, 1).warnings}
    assert reasons == {"total_spend", "session_spend"}


def test_hold__lines_that_moved__warn_anew() -> None:
    """A raised cap makes a new line."""
    accounts = make_accounts(capped(1_000))
    settle(accounts, "a", cost_tokens_nano=900)
    assert len(held(accounts, 1).warnings) == 1
    accounts.registry.set_plan("pro", capped(1_100))
    assert len(held(accounts, 1).warnings) == 1


# -- sessions


def test_session__named_by_the_application__is_that_one() -> None:
    """An explicit id opens nothing."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    assert accounts.sessions.session_for_call(user, "mine", NOON_US) == "mine"
    assert (user.session_id, user.open_session, accounts.sessions.take_records()) == (
        "mine",
        None,
        [],
    )


def test_session__not_named__opens_one_and_keeps_it_while_it_is_used() -> None:
    """A user has one open session; each use moves the time at which it would end."""
    accounts = make_accounts(PlanConfig(session_timeout_minutes=30))
    user = accounts.registry.user("ann", NOON_US)
    times = [NOON_US + minutes * MINUTE_US for minutes in (0, 30, 60, 90)]
    assert {accounts.sessions.session_for_call(user, None, at_us) for at_us in times} == {
        "session-1"
    }
    assert accounts.sessions.take_records() == [
        SessionRecord("ann", "session-1", True, NOON_US, NOON_US)
    ]
    assert accounts.sessions.take_records() == []


def test_session__idle_too_long__rotates() -> None:
    """After the plan's time without a call the next one ends the session and opens a new one."""
    accounts = make_accounts(PlanConfig(session_timeout_minutes=30))
    user = accounts.registry.user("ann", NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    later = NOON_US + 30 * MINUTE_US + 1
    assert accounts.sessions.session_for_call(user, None, later) == "session-2"
    assert accounts.sessions.take_records() == [
        SessionRecord("ann", "session-1", True, NOON_US, NOON_US),
        SessionRecord("ann", "session-1", True, NOON_US, NOON_US, ended_us=NOON_US),
        SessionRecord("ann", "session-2", True, later, later),
    ]
    assert user.open_session == SessionState("session-2", later, later)


def test_session__an_older_clock_reading__does_not_move_the_last_use_back() -> None:
    """Threads may come out of order by a little."""
    accounts = make_accounts(PlanConfig(session_timeout_minutes=1))
    user = accounts.registry.user("ann", NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US - 5)
    assert accounts.sessions.session_for_call(user, None, NOON_US + MINUTE_US) == "session-1"


def test_session__opened_by_many_threads_at_once__is_one() -> None:
    """Without an id a user has one open session, whoever asks first."""
    accounts = make_accounts(PlanConfig())
    user = accounts.registry.user("ann", NOON_US)
    barrier = threading.Barrier(16)
    got: list[str] = []

    def open_one() -> None:
        barrier.wait()
        got.append(accounts.sessions.session_for_call(user, None, NOON_US))

    threads = [threading.Thread(target=open_one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (set(got), len(accounts.sessions.take_records())) == ({"session-1"}, 1)


def test_session__opened_by_another_thread_meanwhile__is_taken_over() -> None:
    """Who waits for the lock while another opens a session uses that one."""
    accounts = make_accounts(PlanConfig())
    user = accounts.registry.user("ann", NOON_US)
    got: list[str] = []
    user.lock.acquire()
    thread = threading.Thread(
        target=lambda: got.append(accounts.sessions.session_for_call(user, None, NOON_US))
    )
    thread.start()
    thread.join(0.05)  # it is waiting for the lock now
    user.open_session = SessionState("theirs", NOON_US, NOON_US)
    user.lock.release()
    thread.join(10)
    assert (got, accounts.sessions.take_records()) == (["theirs"], [])


def test_session__closed_while_a_call_waits_to_rotate_it__opens_another() -> None:
    """A call that finds no open session once it has the lock opens one."""
    accounts = make_accounts(PlanConfig(session_timeout_minutes=30))
    user = accounts.registry.user("ann", NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    got: list[str] = []
    user.lock.acquire()
    thread = threading.Thread(
        target=lambda: got.append(accounts.sessions.session_for_call(user, None, NOON_US + DAY_US))
    )
    thread.start()
    thread.join(0.05)  # it is waiting for the lock now
    user.open_session = None
    user.lock.release()
    thread.join(10)
    assert got == ["session-2"]


def test_read__a_session_that_another_process_opened_later__is_the_open_one() -> None:
    """The ledger has one open session per user; the newest start wins."""
    accounts = make_accounts(PlanConfig())
    user = accounts.registry.user("ann", NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    older = SessionState("older", NOON_US - 5, NOON_US)
    accounts.sync.apply_answer(answer_for(accounts, open_session=older), NOON_US)
    assert accounts.sessions.session_for_call(user, None, NOON_US) == "session-1"
    newer = SessionState("newer", NOON_US + 5, NOON_US + 5)
    accounts.sync.apply_answer(answer_for(accounts, open_session=newer), NOON_US + 5)
    assert accounts.sessions.session_for_call(user, None, NOON_US + 6) == "newer"


def test_read__our_session_used_by_another_process__does_not_rotate() -> None:
    """A session is idle when no process uses it, not when this one does not."""
    accounts = make_accounts(PlanConfig(session_timeout_minutes=30))
    user = accounts.registry.user("ann", NOON_US)
    accounts.sessions.session_for_call(user, None, NOON_US)
    theirs = SessionState("session-1", NOON_US, NOON_US + 20 * MINUTE_US)
    accounts.sync.apply_answer(answer_for(accounts, open_session=theirs), NOON_US + 21 * MINUTE_US)
    assert accounts.sessions.session_for_call(user, None, NOON_US + 40 * MINUTE_US) == "session-1"


# -- windows


def test_settle__after_midnight__goes_to_the_day_in_which_the_call_began() -> None:
    """A call that is in flight over a window's end is settled where it began."""
    accounts = make_accounts(PlanConfig(limits=(Limit(window="day", cap=usd(1_000)),)))
    late = TODAY_US + DAY_US - 1
    hold = held(accounts, 300, at_us=late)
    tomorrow = held(accounts, 1_000, at_us=late + 1)  # yesterday's hold takes nothing from it
    settle(accounts, "a", hold, at_us=late)
    user = accounts.registry.users["ann"]
    next_day = day_key(at_us=late + 1)
    assert (spent(user, day_key()), spent(user, next_day)) == (100, 0)
    assert (held_on(user, user.accounts[day_key()]), held_on(user, user.accounts[next_day])) == (
        0,
        1_000,
    )
    accounts.admission.release(tomorrow)
    assert set(all_held(user)) == {0}


def test_user__at_the_end_of_a_period__starts_a_new_one_with_calls_in_flight() -> None:
    """The new period starts from nothing; what is in flight ends in the old one; both are exact."""
    accounts = make_accounts(capped())
    last = MONTH.end_us - 1
    voided, settled = held(accounts, 400, at_us=last), held(accounts, 300, at_us=last)
    full = held(accounts, 1_000, at_us=MONTH.end_us)
    user = accounts.registry.users["ann"]
    old, new = period_key(at_us=last), period_key(at_us=MONTH.end_us)
    assert held_on(user, user.accounts[old]) == 700
    accounts.admission.release(voided)
    event = settle(accounts, "a", settled, at_us=last)
    accounts.admission.release(full)
    assert (spent(user, old), spent(user, new)) == (100, 0)
    assert accounts.admission.figures(user, "s1", MONTH.end_us).by_model == {}
    assert set(all_held(user)) == {0}
    accounts.sync.acknowledge([event], Answer(frozenset({"a"})), MONTH.end_us)
    assert (user.accounts[old].pending, user.pending) == (0, {})


def test_user__a_period_later__forgets_accounts_that_nothing_refers_to() -> None:
    """Ended windows go, except those with calls in flight or events on their way."""
    accounts = make_accounts(PlanConfig(limits=(Limit(window="day", cap=1),)))
    settle(accounts, "a", at_us=NOON_US - DAY_US)
    hold = held(accounts, 1, at_us=NOON_US)
    idle = held(accounts, 1, at_us=NOON_US + DAY_US)
    user = accounts.registry.users["ann"]
    accounts.admission.release(idle)
    accounts.registry.user("ann", MONTH.end_us)
    kept = {key for key in user.accounts if key.end_us <= MONTH.end_us}
    assert kept == {period_key(), day_key(), day_key(at_us=NOON_US - DAY_US)}
    accounts.admission.release(hold)


def test_user__a_subscription__renews_by_its_own_length() -> None:
    """No cap ends by lapse of time: the next period has the same cap and starts from nothing."""
    accounts = make_accounts(capped())
    period = Subscription(TODAY_US, TODAY_US + 7 * DAY_US)
    user = accounts.registry.assign("ann", "pro", None, period, NOON_US)
    assert tuple(user.period) == (TODAY_US, TODAY_US + 7 * DAY_US)
    settle(accounts, "a", cost_tokens_nano=1_000, period_start_us=TODAY_US)
    assert refused(accounts, 1).reason == "total_spend"
    assert isinstance(try_hold(accounts, 1, at_us=TODAY_US + 7 * DAY_US), Hold)
    assert tuple(user.period) == (TODAY_US + 7 * DAY_US, TODAY_US + 14 * DAY_US)


def test_user__a_subscription_that_does_not_renew__falls_to_the_default_plan_loudly() -> None:
    """When it ends, the user is on the default plan and the calendar month, which is said."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("trial", capped(5_000))
    period = Subscription(TODAY_US, TODAY_US + DAY_US, "none")
    user = accounts.registry.assign("ann", "trial", capped(9_000), period, NOON_US)
    assert user.plan == capped(9_000)
    accounts.registry.user("ann", TODAY_US + DAY_US)
    assert (user.plan, user.plan_name, user.subscription) == (capped(1_000), "pro", None)
    assert tuple(user.period) == tuple(MONTH)
    assert diagnostics.counts["subscription_ended"] == 1


def test_settle__calls_of_before_and_after_a_new_subscription__count_in_their_own_periods() -> None:
    """A call from before the subscription must not hide the new period from later ones."""
    accounts = make_accounts(capped(1_000))
    before = held(accounts, 10, at_us=NOON_US - HOUR_US)
    period = Subscription(NOON_US, NOON_US + 30 * DAY_US)
    user = accounts.registry.assign("ann", "pro", None, period, NOON_US)
    after = held(accounts, 990, at_us=NOON_US + 1)
    settle(accounts, "a", before, at_us=NOON_US - HOUR_US, cost_tokens_nano=10)
    settle(accounts, "b", after, at_us=NOON_US + 1, cost_tokens_nano=1_000)
    new = period_key()._replace(start_us=NOON_US, end_us=NOON_US + 30 * DAY_US)
    assert spent(user, new) == 1_000
    assert refused(accounts, 1, at_us=NOON_US + 2).reason == "total_spend"


def test_settle__many_models__counts_each_event_where_it_belongs() -> None:
    """Which accounts count an event is remembered for some models and found anew for others."""
    accounts = make_accounts(capped(10**9, model_limits={"model-7": 10**6}))
    events = [
        settle(accounts, f"e{number}", model=f"model-{number}", model_key=f"model-{number}")
        for number in range(100)
    ]
    user = accounts.registry.users["ann"]
    assert len(user.event_accounts) <= 64
    assert (spent(user, period_key()), spent(user, period_key("tokens", "model-7"))) == (10_000, 30)
    accounts.sync.acknowledge(
        events, Answer(frozenset(event.event_id for event in events)), NOON_US
    )
    account = user.accounts[period_key()]
    assert (account.acknowledged, account.pending) == (10_000, 0)


# -- plans


def test_set_plan__in_the_middle_of_a_period__keeps_what_was_spent() -> None:
    """A limit is what it limits, not a version of a plan: a lowered cap blocks at once."""
    accounts = make_accounts(capped(10_000))
    settle(accounts, "a", cost_tokens_nano=500)
    hold = held(accounts, 50)
    accounts.registry.set_plan("pro", capped(400))
    assert refused(accounts, 1).spent == 500
    accounts.registry.set_plan("pro", capped(1_000))
    user = accounts.registry.users["ann"]
    assert isinstance(try_hold(accounts, 450), Hold)
    accounts.admission.release(hold)
    assert spent(user, period_key()) == 500


def test_set_plan__with_a_limit_that_is_new__asks_the_ledger_before_the_next_call() -> None:
    """A new limit starts from what its window already saw; a moved cap needs no question."""
    accounts = make_accounts(capped(1_000))
    user = accounts.registry.user("ann", NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    accounts.sync.apply_answer(answer_for(accounts), NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is False
    accounts.registry.set_plan("pro", capped(2_000))
    assert (
        accounts.sync.needs_refresh(accounts.registry.user("ann", NOON_US), None, NOON_US) is False
    )
    accounts.registry.set_plan("pro", capped(2_000, limits=(Limit("calls", window="day", cap=9),)))
    assert (
        accounts.sync.needs_refresh(accounts.registry.user("ann", NOON_US), None, NOON_US) is True
    )
    question = accounts.sync.question(user, None, NOON_US)
    assert day_key("calls") in question.accounts
    accounts.sync.apply_answer(answer_for(accounts, [make_event("x")]), NOON_US)
    assert (user.known, spent(user, day_key("calls"))) == (True, 1)


def test_set_plan__a_limit_taken_away__limits_no_longer() -> None:
    """What the new plan does not limit is still counted and no longer refused."""
    accounts = make_accounts(capped(100))
    settle(accounts, "a")
    assert refused(accounts, 1).reason == "total_spend"
    accounts.registry.set_plan("pro", PlanConfig())
    assert isinstance(try_hold(accounts, 10**9), Hold)


def test_assign__in_the_middle_of_a_period__keeps_spend_holds_and_figures() -> None:
    """Another plan changes lines, not what was used: by account and by model."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("gold", capped(5_000))
    settle(accounts, "a")
    hold = held(accounts, 50, tokens=7)
    user = accounts.registry.users["ann"]
    before = accounts.admission.figures(user, "s1", NOON_US)
    accounts.registry.assign("ann", "gold", None, None, NOON_US)
    assert accounts.admission.figures(user, "s1", NOON_US) == before
    accounts.admission.release(hold)
    after = accounts.admission.figures(user, "s1", NOON_US)
    assert (after.held_cost_nano, after.by_model) == (0, {"gpt-4o": (30, 100)})


def test_assign__with_calls_in_flight__leaves_no_hold_behind_and_none_negative() -> None:
    """Calls that began before and after an assignment end with nothing held."""
    accounts = make_accounts(capped(10_000))
    first = held(accounts, 50, tokens=7)
    accounts.registry.assign("ann", "pro", None, None, NOON_US)
    second = held(accounts, 20, tokens=3)
    user = accounts.registry.users["ann"]
    accounts.admission.release(first)
    assert accounts.admission.figures(user, "s1", NOON_US).held_cost_nano == 20
    accounts.admission.release(second)
    assert set(all_held(user)) == {0}


def test_assign__with_events_on_their_way__figures_stay_exact_after_their_delivery() -> None:
    """What was settled before an assignment and delivered after it is counted once by model."""
    accounts = make_accounts(capped(10_000))
    first = settle(accounts, "a")
    accounts.registry.assign("ann", "pro", None, None, NOON_US)
    second = settle(accounts, "b")
    user = accounts.registry.users["ann"]
    booked = [first, second]
    accounts.sync.acknowledge(booked, answer_for(accounts, booked, counted=booked), NOON_US)
    assert accounts.admission.figures(user, "s1", NOON_US).by_model == {"gpt-4o": (60, 200)}


def test_assign__the_users_own_version__wins_over_the_plan() -> None:
    """A user may have a version of their own."""
    accounts = make_accounts(capped(1_000))
    user = accounts.registry.assign("ann", "pro", capped(10), None, NOON_US)
    accounts.registry.set_plan("pro", capped(2_000))
    assert (accounts.registry.user("ann", NOON_US).plan, user.assigned) == (capped(10), True)


def test_read__what_this_process_is_changing__stays_until_the_ledger_has_it() -> None:
    """An answer from before our change does not undo it; one from after it counts."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("gold", capped(5_000))
    user = accounts.registry.assign("ann", "gold", None, None, NOON_US)
    old = Answer(
        users={"ann": UserLedger(plan="pro")}, plans={"gold": (1, plan_to_json(capped(7)))}
    )
    accounts.sync.apply_answer(old, NOON_US)
    assert (user.plan_name, accounts.registry.plans["gold"]) == ("gold", capped(5_000))
    accounts.registry.confirm_recorded("user:ann")
    accounts.registry.confirm_recorded("plan:gold")
    accounts.sync.apply_answer(old, NOON_US)
    assert (user.plan_name, accounts.registry.plans["gold"]) == ("pro", capped(7))


def test_recorded__changed_twice__waits_for_both() -> None:
    """Of two changes under way, the first one's arrival does not yet let the ledger speak."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("pro", capped(2_000))
    old = Answer(plans={"pro": (1, plan_to_json(capped(1_000)))})
    accounts.registry.confirm_recorded("plan:pro")
    accounts.sync.apply_answer(old, NOON_US)
    assert accounts.registry.plans["pro"] == capped(2_000)
    accounts.registry.confirm_recorded("plan:pro")
    accounts.registry.confirm_recorded("plan:never-changed")
    accounts.sync.apply_answer(old, NOON_US)
    assert accounts.registry.plans["pro"] == capped(1_000)


def test_read__a_plan_of_a_known_version__is_not_read_again() -> None:
    """Plans come with every answer; only news costs anything, and an equal one changes nothing."""
    accounts = make_accounts()
    accounts.sync.apply_answer(Answer(plans={"pro": (1, plan_to_json(capped(1_000)))}), NOON_US)
    plan, epoch = accounts.registry.plans["pro"], accounts.registry.plans_epoch
    accounts.sync.apply_answer(Answer(plans={"pro": (1, plan_to_json(capped(7)))}), NOON_US)
    accounts.sync.apply_answer(Answer(plans={"pro": (2, plan_to_json(capped(1_000)))}), NOON_US)
    assert (accounts.registry.plans["pro"] is plan, accounts.registry.plans_epoch) == (True, epoch)


def test_read__the_ledgers_word_on_a_user__is_taken_over() -> None:
    """Plan, own version, period and switch are the ledger's to say."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("gold", capped(5_000))
    user = accounts.registry.user("ann", NOON_US)
    period = Subscription(TODAY_US, TODAY_US + 7 * DAY_US)
    word = UserLedger("gold", plan_to_json(capped(6_000)), period, sdk_enabled=False)
    accounts.sync.apply_answer(Answer(users={"ann": word, "stranger": word}), NOON_US)
    assert (user.plan_name, user.own, user.subscription) == ("gold", capped(6_000), period)
    assert (user.plan, user.sdk_enabled, user.assigned) == (capped(6_000), False, True)
    assert user.known is False  # the answer was about another period and other limits
    assert "stranger" not in accounts.registry.users


def test_read__an_assignment_taken_back__returns_to_the_default_plan() -> None:
    """A user whom nobody assigns any more is on the default plan."""
    accounts = make_accounts(capped(1_000))
    accounts.registry.set_plan("gold", capped(5_000))
    accounts.sync.apply_answer(Answer(), NOON_US)
    user = accounts.registry.user("ann", NOON_US)
    accounts.sync.apply_answer(Answer(users={"ann": UserLedger("gold")}), NOON_US)
    accounts.sync.apply_answer(Answer(users={"ann": UserLedger(None)}), NOON_US)
    assert (user.plan_name, user.assigned) == ("pro", False)


def test_read__an_answer_about_another_period__does_not_set_this_ones_figures() -> None:
    """By-model figures belong to the period that was asked about."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    old = UserLedger(period_start_us=1, by_model={"gpt-4o": (5, 5)})
    accounts.sync.apply_answer(Answer(users={"ann": old}), NOON_US)
    assert (user.known, accounts.admission.figures(user, "", NOON_US).by_model) == (False, {})


def test_read__a_subscription_that_ended__keeps_figures_at_every_reading() -> None:
    """The ledger repeats the ended subscription; that must not wipe what the user used since."""
    accounts = make_accounts(capped(1_000))
    period = Subscription(TODAY_US - 9 * DAY_US, TODAY_US - 8 * DAY_US, "none")
    user = accounts.registry.user("ann", NOON_US)
    event = settle(accounts, "a")
    hold = held(accounts, 50, tokens=7)
    for _ in range(2):
        accounts.sync.apply_answer(answer_for(accounts, plan="pro", subscription=period), NOON_US)
    assert accounts.admission.figures(user, "s1", NOON_US).by_model == {"gpt-4o": (30, 100)}
    accounts.admission.release(hold)
    accounts.sync.acknowledge([event], answer_for(accounts, [event], counted=[event]), NOON_US)
    assert accounts.admission.figures(user, "s1", NOON_US).by_model == {"gpt-4o": (30, 100)}


# -- the ledger's figures


def test_acknowledge__delivered_events__move_from_undelivered_to_base() -> None:
    """In one step nothing is seen twice or not at all; other processes' spend comes with it."""
    accounts = make_accounts(capped(10_000))
    ours = settle(accounts, "a")
    theirs = make_event("theirs", cost_tokens_nano=900)
    user = accounts.registry.users["ann"]
    answer = answer_for(accounts, [ours, theirs], session_id="s1", counted=[ours])
    accounts.sync.acknowledge([ours], answer, NOON_US)
    account = user.accounts[period_key()]
    assert (account.acknowledged, account.pending, account.spent) == (1_000, 0, 1_000)
    assert user.pending == {}
    assert accounts.admission.figures(user, "s1", NOON_US).by_model == {"gpt-4o": (60, 1_000)}


def test_acknowledge__while_more_is_settled__keeps_what_is_not_delivered_yet() -> None:
    """An acknowledgement takes out its own events and no others, in any order."""
    accounts = make_accounts(capped(10_000))
    first, second, third = (settle(accounts, event_id) for event_id in "abc")
    user = accounts.registry.users["ann"]
    accounts.sync.acknowledge(
        [third], answer_for(accounts, [third], session_id="s1", counted=[third]), NOON_US
    )
    assert (spent(user, period_key()), set(user.pending)) == (300, {"a", "b"})
    booked = [first, second, third]
    accounts.sync.acknowledge(
        [first, second],
        answer_for(accounts, booked, session_id="s1", counted=[first, second]),
        NOON_US,
    )
    assert (spent(user, period_key()), spent(user, session_key("s1"))) == (300, 300)


def test_acknowledge__while_a_user_is_locked_for_long__waits_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler may have interrupted whoever holds the lock; an event that is never taken
    out of what is undelivered would count twice for ever.
    """
    monkeypatch.setattr(lock_module, "_WAIT_S", 0.001)
    accounts = make_accounts(capped())
    event = settle(accounts, "a")
    user = accounts.registry.users["ann"]
    told = Answer(frozenset({"a"}))
    thread = threading.Thread(target=accounts.sync.acknowledge, args=([event], told, NOON_US))
    with user.lock:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(5)
    assert (user.pending, spent(user, period_key())) == ({}, 100)


def test_acknowledge__twice__changes_nothing_the_second_time() -> None:
    """An event leaves what is undelivered once."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a")
    for _ in range(2):
        accounts.sync.acknowledge([event], answer_for(accounts, [event], counted=[event]), NOON_US)
    assert spent(accounts.registry.users["ann"], period_key()) == 100


@pytest.mark.parametrize(("is_new", "expected"), [(True, 100), (False, 0)])
def test_acknowledge__an_account_that_was_not_asked_about__is_brought_up_by_the_event(
    is_new: bool, expected: int
) -> None:
    """Of an event that the ledger knew before, the figure already had it."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a", session_id="aside")
    answer = Answer(counted=frozenset({"a"} if is_new else ()))
    accounts.sync.acknowledge([event], answer, NOON_US)
    account = accounts.registry.users["ann"].accounts[session_key("aside")]
    assert (account.acknowledged, account.pending) == (expected, 0)


def test_acknowledge__late__after_the_period_ended__leaves_the_new_period_alone() -> None:
    """An acknowledgement that comes a period later is booked in the period of its event."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a", at_us=MONTH.end_us - 1)
    settle(accounts, "b", at_us=MONTH.end_us, period_start_us=MONTH.end_us)
    accounts.sync.acknowledge([event], Answer(frozenset({"a"})), MONTH.end_us)
    user = accounts.registry.users["ann"]
    old, new = period_key(at_us=MONTH.end_us - 1), period_key(at_us=MONTH.end_us)
    assert (spent(user, old), user.accounts[old].pending, spent(user, new)) == (100, 0, 100)
    assert accounts.admission.figures(user, "", MONTH.end_us).by_model == {"gpt-4o": (30, 100)}


def test_acknowledge__users_that_are_not_known_here__are_passed_over() -> None:
    """A journal of a dead process, or a forgotten user, has nothing to take out."""
    accounts = make_accounts(capped())
    answer = Answer(users={"bob": UserLedger()})
    accounts.sync.acknowledge([make_event("a"), make_event("b", user_id="bob")], answer, NOON_US)
    assert accounts.registry.users == {}


def test_acknowledge__an_event_without_a_model__is_taken_out_too() -> None:
    """An entry without a model has weight in accounts only."""
    accounts = make_accounts(capped())
    event = settle(accounts, "a", model="", model_key="")
    accounts.sync.acknowledge([event], Answer(frozenset({"a"})), NOON_US)
    figures = accounts.admission.figures(accounts.registry.users["ann"], "", NOON_US)
    assert (figures.period_cost_nano, figures.by_model) == (100, {})


def test_acknowledge__a_plan_that_cannot_be_read__does_not_keep_events_from_being_acknowledged(
    swallowed: Any,
) -> None:
    """A plan written by a newer Paygent must not make every delivery fail."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a")
    answer = answer_for(accounts, [event], counted=[event])
    odd = Answer(answer.counted, answer.users, {"gold": (1, {"field_of_tomorrow": 1})})
    accounts.sync.acknowledge([event], odd, NOON_US)
    user = accounts.registry.users["ann"]
    assert (user.pending, spent(user, period_key())) == ({}, 100)
    swallowed.seen.clear()  # it may be said through the guard


def test_open__an_account_opened_late__starts_with_what_is_not_delivered_yet() -> None:
    """A limit that is added sees this process's own events at once."""
    accounts = make_accounts(capped(10_000))
    settle(accounts, "a")
    accounts.registry.set_plan("pro", PlanConfig(limits=(Limit("calls", window="day", cap=1),)))
    assert refused(accounts, 1).reason == "calls:day"


def test_touched__users_that_were_active__are_asked_about_once() -> None:
    """With each delivery the state of active users is read, in the session they use."""
    accounts = make_accounts(capped())
    for user_id in ("ann", "bob", "idle"):
        accounts.registry.user(user_id, NOON_US)
    held(
        accounts,
        1,
        session_id=accounts.sessions.session_for_call(
            accounts.registry.users["ann"], "mine", NOON_US
        ),
    )
    delivered = [make_event("b", user_id="bob"), make_event("c", user_id="unknown")]
    questions = accounts.sync.take_active_users(delivered, NOON_US)
    assert {question.user_id for question in questions} == {"ann", "bob"}
    ann = next(question for question in questions if question.user_id == "ann")
    assert set(ann.accounts) == {period_key(), session_key("mine")}
    assert accounts.sync.take_active_users((), NOON_US) == ()


def test_question__a_plan_with_limits_by_model__asks_for_every_account() -> None:
    """A question covers every account that a call could touch now, in the open session."""
    accounts = make_accounts(
        capped(model_limits={"GPT-4o": 5}, limits=(Limit(window="rolling:24h", cap=1),))
    )
    user = accounts.registry.user("ann", NOON_US)
    session_id = accounts.sessions.session_for_call(user, None, NOON_US)
    question = accounts.sync.question(user, None, NOON_US)
    assert set(question.accounts) == {
        period_key(),
        rolling_key(),
        period_key("tokens", "gpt-4o"),
        session_key(session_id),
    }
    assert question.period_start_us == MONTH.start_us


def test_acknowledge__a_call_that_the_figures_do_not_know_any_more__changes_no_figure() -> None:
    """A period that came back may have lost its figures by model; nothing goes below zero."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a")
    user = accounts.registry.users["ann"]
    user.models.clear()
    accounts.sync.acknowledge([event], Answer(frozenset({"a"})), NOON_US)
    assert accounts.admission.figures(user, "", NOON_US).by_model == {}


def test_read__a_model_that_this_process_never_used__is_in_the_figures() -> None:
    """Other processes' models are shown too."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    theirs = make_event("theirs", model="o3", model_key="o3")
    accounts.sync.apply_answer(answer_for(accounts, [theirs]), NOON_US)
    accounts.sync.apply_answer(answer_for(accounts, [theirs]), NOON_US)
    assert accounts.admission.figures(user, "", NOON_US).by_model == {"o3": (30, 1_000)}


def test_user__made_by_another_thread_meanwhile__is_that_one() -> None:
    """Two first calls of a user at once make one user."""
    accounts = make_accounts(capped())
    got: list[User] = []
    accounts.registry.lock.acquire()
    thread = threading.Thread(target=lambda: got.append(accounts.registry.user("ann", NOON_US)))
    thread.start()
    thread.join(0.05)  # it is waiting for the lock now
    made = accounts.registry.users["ann"] = User("ann", "pro")
    accounts.registry.refresh_plan(made, NOON_US)
    accounts.registry.lock.release()
    thread.join(10)
    assert got[0] is made


def test_release__a_call_that_the_figures_do_not_know_any_more__changes_no_figure() -> None:
    """The hold goes from the accounts, and no figure by model goes below zero."""
    accounts = make_accounts(capped(10_000))
    hold = held(accounts, 50, tokens=7)
    user = accounts.registry.users["ann"]
    user.models.clear()
    accounts.admission.release(hold)
    assert set(all_held(user)) == {0}
    assert accounts.admission.figures(user, "", NOON_US).by_model == {}


def test_read__an_account_that_is_not_kept_here__is_passed_over() -> None:
    """An answer may tell of accounts that were forgotten meanwhile."""
    accounts = make_accounts(capped(10_000))
    user = accounts.registry.user("ann", NOON_US)
    answer = Answer(users={"ann": UserLedger(spent={session_key("gone"): 5})})
    accounts.sync.apply_answer(answer, NOON_US)
    assert session_key("gone") not in user.accounts


# -- when to ask


def test_asks__once_waited__goes_on_with_what_is_known() -> None:
    """A ledger that is away delays a user's first call once, not every call."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    accounts.sync.mark_waited(user, None, NOON_US)
    assert (accounts.sync.needs_refresh(user, None, NOON_US), user.known) == (False, False)


def test_asks__a_session_of_the_application__is_asked_about_once() -> None:
    """Each session id that this process has not seen is asked about before its first call."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    accounts.sync.apply_answer(answer_for(accounts), NOON_US)
    assert accounts.sync.needs_refresh(user, "mine", NOON_US) is True
    accounts.sync.apply_answer(answer_for(accounts, session_id="mine"), NOON_US)
    assert accounts.sync.needs_refresh(user, "mine", NOON_US) is False
    accounts.sync.mark_waited(user, "other", NOON_US)
    assert accounts.sync.needs_refresh(user, "other", NOON_US) is False


def test_asks__known_for_long__is_asked_again() -> None:
    """What is known of a user is asked for again after the refresh interval."""
    accounts = make_accounts(capped(), refresh_us=HOUR_US)
    user = accounts.registry.user("ann", NOON_US)
    accounts.sync.apply_answer(answer_for(accounts), NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US + HOUR_US - 1) is False
    assert accounts.sync.needs_refresh(user, None, NOON_US + HOUR_US) is True
    accounts.sync.mark_waited(user, None, NOON_US + HOUR_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US + HOUR_US) is False
    assert accounts.sync.needs_refresh(user, None, NOON_US + HOUR_US + 10_000_000) is True


def test_asks__a_rolling_window__is_read_anew_a_sixtieth_of_its_length_later() -> None:
    """A rolling sum forgets late, never early."""
    limit = Limit(window="rolling:60m", cap=usd(500))
    accounts = make_accounts(PlanConfig(limits=(limit,)), refresh_us=DAY_US)
    user = accounts.registry.user("ann", NOON_US)
    old = make_event("old", at_us=NOON_US, cost_tokens_nano=500)
    accounts.sync.apply_answer(answer_for(accounts, [old]), NOON_US)
    assert accounts.sync.needs_refresh(user, None, NOON_US + MINUTE_US - 1) is False
    assert refused(accounts, 1).reason == "spend:rolling:60m"
    assert accounts.sync.needs_refresh(user, None, NOON_US + MINUTE_US) is True
    accounts.sync.apply_answer(answer_for(accounts, []), NOON_US + HOUR_US)
    assert isinstance(try_hold(accounts, 1, at_us=NOON_US + HOUR_US), Hold)


# -- what the gate says without a call


def test_check__asked_by_the_application__says_what_a_call_would_meet() -> None:
    """A check holds nothing and knows limits of a model where one is named."""
    accounts = make_accounts(capped(1_000, model_limits={"gpt-4o": 30}))
    user = accounts.registry.user("ann", NOON_US)
    model = resolved("gpt-4o")
    assert accounts.admission.check(user, "s1", model, NOON_US).status == "ok"
    settle(accounts, "a", cost_tokens_nano=800)
    assert accounts.admission.check(user, "s1", None, NOON_US).status == "soft_gate"
    assert accounts.admission.check(user, "s1", model, NOON_US).reason == "model_limit:gpt-4o"
    assert set(all_held(user)) == {0}


def test_check__no_limits__is_ok() -> None:
    """A plan without limits has nothing to say."""
    accounts = make_accounts(PlanConfig())
    user = accounts.registry.user("ann", NOON_US)
    assert accounts.admission.check(user, "s1", resolved("gpt-4o"), NOON_US) == Decision(
        "ok", None, 0, 0, 0, 0
    )


# -- memory


def test_user__more_than_fit__idle_ones_are_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is bounded; users with calls in flight or undelivered events stay."""
    monkeypatch.setattr(accounts_module, "USERS_MAX", 3)
    accounts = make_accounts(capped())
    held(accounts, 1, user_id="busy")
    settle(accounts, "a", user_id="waiting")
    accounts.registry.user("idle", NOON_US)
    accounts.registry.user("new", NOON_US)
    assert list(accounts.registry.users) == ["busy", "waiting", "new"]
    accounts.registry.user("newer", NOON_US)
    assert list(accounts.registry.users) == ["busy", "waiting", "newer"]


def test_user__what_the_ledger_does_not_have_yet__is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An assignment, a session that was opened, one that was closed: all still on their way."""
    monkeypatch.setattr(accounts_module, "USERS_MAX", 4)
    accounts = make_accounts(capped())
    accounts.registry.set_plan("free", capped(0))
    accounts.registry.assign("assigned", "free", None, None, NOON_US)
    opened = accounts.registry.user("opened", NOON_US)
    accounts.sessions.session_for_call(opened, None, NOON_US)
    closed = accounts.registry.user("closed", NOON_US)
    accounts.sessions.session_for_call(closed, None, NOON_US - MINUTE_US)
    accounts.sessions.close(closed, NOON_US)
    accounts.registry.user("idle", NOON_US)
    accounts.registry.user("new", NOON_US)
    assert list(accounts.registry.users) == ["assigned", "opened", "closed", "new"]
    accounts.registry.confirm_recorded("user:assigned")
    states = {name: UserLedger() for name in ("opened", "closed")}
    accounts.sync.apply_answer(Answer(users=states), NOON_US + 1)
    for number in range(3):
        accounts.registry.user(f"newer-{number}", NOON_US)
    assert list(accounts.registry.users) == ["new", "newer-0", "newer-1", "newer-2"]


def test_user__one_whose_accounts_are_being_opened__is_looked_at_all_the_same() -> None:
    """Whether a user is idle is asked under another lock than theirs."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    accounts.admission.release(held(accounts, 1))

    class Meanwhile(Account):
        def __getattribute__(self, name: str) -> Any:
            if name == "waiting":
                account_lookup.open_account(user, day_key(), "spend:day", None)
            return super().__getattribute__(name)

    user.accounts[period_key()] = Meanwhile(period_key(), "total_spend", None)
    assert user.is_idle
    assert day_key() in user.accounts


def test_user__nobody_is_idle__looks_at_a_few_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search under the lock is bounded; a call is never refused for want of memory."""
    monkeypatch.setattr(accounts_module, "USERS_MAX", 3)
    monkeypatch.setattr(accounts_module, "_EVICTION_SCAN_MAX", 2)
    accounts = make_accounts(capped())
    for number in range(5):
        held(accounts, 1, user_id=str(number))
    assert len(accounts.registry.users) == 5
    monkeypatch.setattr(accounts_module, "_EVICTION_SCAN_MAX", 99)
    held(accounts, 1, user_id="last")
    assert len(accounts.registry.users) == 6


def test_hold__many_sessions__keeps_few_of_them_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts of idle sessions go, are asked for again, and those in use stay exact."""
    monkeypatch.setattr(account_lookup, "ACCOUNTS_MAX", 8)
    accounts = make_accounts(capped(10**9))
    busy = held(accounts, 7, session_id="busy")
    user = accounts.registry.users["ann"]
    pending = settle(accounts, "a", session_id="pending")
    for number in range(100):
        accounts.sync.mark_waited(user, f"s{number}", NOON_US)
        accounts.admission.release(held(accounts, 1, session_id=f"s{number}"))
    assert len(user.accounts) <= 9
    assert len(user.sessions) <= 9
    assert spent(user, session_key("pending")) == 100
    accounts.admission.release(busy)
    accounts.sync.acknowledge([pending], Answer(frozenset({"a"})), NOON_US)
    assert set(all_held(user)) == {0}


def test_hold__many_named_sessions__never_forget_the_open_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its spend would be 0 until it is read again, and nobody asks about the open session."""
    monkeypatch.setattr(account_lookup, "ACCOUNTS_MAX", 8)
    accounts = make_accounts(PlanConfig(max_spend_per_session=usd(100)))
    user = accounts.registry.user("ann", NOON_US)
    opened = accounts.sessions.session_for_call(user, None, NOON_US)
    event = settle(accounts, "a", session_id=opened)
    accounts.sync.acknowledge([event], Answer(frozenset({"a"})), NOON_US)
    for number in range(20):
        accounts.admission.release(held(accounts, 1, session_id=f"s{number}"))
    assert spent(user, session_key(opened)) == 100
    assert refused(accounts, 1, session_id=opened).reason == "session_spend"


def test_hold__pruned_in_the_middle_of_a_call__still_counts_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Making room for one account of a call must not lose another account of that call."""
    monkeypatch.setattr(account_lookup, "ACCOUNTS_MAX", 5)
    accounts = make_accounts(
        PlanConfig(
            max_spend_per_session=usd(1_000),
            limits=(Limit("calls", window="day", cap=10**6),),
        )
    )
    user = accounts.registry.user("ann", NOON_US)
    for session_id in ("old1", "old2"):
        accounts.admission.release(held(accounts, 1, session_id=session_id))
    tomorrow = NOON_US + DAY_US  # the call opens its session's account, then the new day's
    hold = held(accounts, 1_000, session_id="mine", at_us=tomorrow)
    settle(accounts, "a", hold, session_id="mine", at_us=tomorrow, cost_tokens_nano=1_000)
    assert spent(user, session_key("mine")) == 1_000
    assert refused(accounts, 1, session_id="mine", at_us=tomorrow).reason == "session_spend"


def test_route__many_models_and_sessions__are_remembered_up_to_a_bound() -> None:
    """What a call touches is remembered per model and session, up to a bound."""
    accounts = make_accounts(capped(10**9))
    user = accounts.registry.user("ann", NOON_US)
    for number in range(200):
        accounts.admission.release(held(accounts, 1, model=f"model-{number}"))
    assert len(user.call_accounts) <= 64
    assert set(all_held(user)) == {0}


def test_settle__the_same_event_again__counts_once() -> None:
    """An end that was interrupted may be brought again."""
    accounts = make_accounts(capped())
    user = accounts.registry.user("ann", NOON_US)
    for _ in range(2):
        settle(accounts, "a", held(accounts, 7))
    assert (spent(user, period_key()), user.models["gpt-4o"].cost_nano) == (100, 100)
    assert set(all_held(user)) == {0}


@pytest.mark.parametrize("reached", range(4))
def test_settle__interrupted_between_two_sums__counts_all_or_nothing(
    monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    """What is undelivered is worked out anew from the events themselves."""
    accounts = make_accounts(capped(model_limits={"gpt-4o": ModelLimitConfig(10**6)}))
    user = accounts.registry.user("ann", NOON_US)
    settle(accounts, "before")
    sums = count()

    def interrupted(*arguments: Any, **named: Any) -> int:
        if next(sums) == reached:
            raise KeyboardInterrupt
        return amount(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(account_lookup, "amount", interrupted)
        try:
            settle(accounts, "a")
        except KeyboardInterrupt:
            pass
    settle(accounts, "a")
    for key, metric in ((period_key(), 200), (period_key("tokens", "gpt-4o"), 60)):
        assert spent(user, key) == metric
    assert spent(user, session_key("s1")) == 200
    use = user.models["gpt-4o"]
    assert (use.tokens, use.cost_nano) == (60, 200)


# -- threads and processes


def test_accounts__fifty_threads_hammering__end_with_exact_sums_and_nothing_held() -> None:
    """Holds, settlements, releases and acknowledgements in any interleaving lose no nano-dollar."""
    cap = 200_000
    accounts = make_accounts(
        capped(cap, model_limits={"gpt-4o": 10**9}, max_spend_per_session=usd(10**9))
    )
    numbers = count()
    settled: list[Event] = []
    refusals: list[Decision] = []
    barrier = threading.Barrier(50)

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        barrier.wait()
        for _ in range(40):
            cost = chance.randint(1, 500)
            answer = try_hold(accounts, cost, tokens=cost, session_id=f"s{seed % 3}")
            if isinstance(answer, Decision):
                refusals.append(answer)
            elif chance.random() < 0.3:
                accounts.admission.release(answer)
            else:
                event = settle(
                    accounts,
                    str(next(numbers)),
                    answer,
                    session_id=f"s{seed % 3}",
                    cost_tokens_nano=cost,
                    input_tokens=cost,
                    output_tokens=0,
                )
                settled.append(event)
                if chance.random() < 0.3:
                    accounts.sync.acknowledge([event], Answer(frozenset({event.event_id})), NOON_US)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    user = accounts.registry.users["ann"]
    total = sum(event.cost_nano for event in settled)
    assert set(all_held(user)) == {0}
    assert spent(user, period_key()) == total
    assert spent(user, period_key("tokens", "gpt-4o")) == total
    assert sum(spent(user, session_key(f"s{number}")) for number in range(3)) == total
    assert accounts.admission.figures(user, "s0", NOON_US).by_model == {"gpt-4o": (total, total)}
    assert total < cap + 500
    assert refusals != []  # the cap was reached, so that its line was really contended for


def test_forget_after_fork__what_is_the_parents__is_gone() -> None:
    """The child holds nothing, delivers nothing of its parent's, and asks anew."""
    accounts = make_accounts(capped())
    held(accounts, 1_000)
    settle(accounts, "a")
    user = accounts.registry.users["ann"]
    accounts.sessions.session_for_call(user, None, NOON_US)
    accounts.sync.mark_waited(user, "named", NOON_US)
    accounts.registry.lock.acquire()  # as another thread of the parent may have had it
    accounts.renew_after_fork()
    assert (user.pending, user.accounts, accounts.sessions.take_records()) == ({}, {}, [])
    assert accounts.sync.needs_refresh(user, None, NOON_US) is True
    accounts.sync.apply_answer(answer_for(accounts), NOON_US)
    assert accounts.sync.needs_refresh(user, "named", NOON_US) is True
    assert isinstance(try_hold(accounts, 1_000), Hold)


def test_acknowledge__an_event_of_an_account_not_opened_yet__counts_it_once() -> None:
    """The plan may gain a limit while a delivery is under way."""
    accounts = make_accounts(capped(10_000))
    event = settle(accounts, "a", input_tokens=30)
    accounts.registry.set_plan("pro", capped(10_000, model_limits={"gpt-4o": 100}))
    user = accounts.registry.user("ann", NOON_US)
    user.event_accounts.clear()
    accounts.sync.acknowledge([event], Answer(counted=frozenset(["a"])), NOON_US)
    accounts.admission.check(user, "s1", resolved("gpt-4o"), NOON_US)
    account = user.accounts[period_key("tokens", "gpt-4o")]
    assert (account.acknowledged, account.pending) == (event.total_tokens, 0)


def test_accounts__of_days_that_have_ended__are_dropped() -> None:
    """A long billing period has many days; those that nothing refers to take no memory."""
    accounts = make_accounts(PlanConfig(limits=(Limit(window="day", cap=1.0),)))
    for number in range(5):
        at_us = NOON_US + number * DAY_US
        try_hold(accounts, 0, at_us=at_us)
        for hold in list(accounts.registry.users["ann"].open.values()):
            accounts.admission.release(hold)
    days = [key for key in accounts.registry.users["ann"].accounts if key.limit.window == "day"]
    assert len(days) == 1
