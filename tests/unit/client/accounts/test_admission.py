"""Admission beside the figures of the gate: unknown sizes, free models, new limits, late counts."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.accounts import held as held_on
from tests.contract.samples import NOON_US, make_event, period_key
from tests.unit.client.accounts.calls import (
    RATES,
    all_held,
    capped,
    end_with,
    finish,
    held,
    lane_of,
    make_accounts,
    make_user,
    new_hold,
    resolved,
    settle,
    usd,
)

from paygent.client.accounts import account_lookup
from paygent.client.accounts import admission as admission_module
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Hold, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.runtime.locks import acquire_soon
from paygent.core.event import Event
from paygent.core.gate import Decision
from paygent.core.limit import Limit
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.pricing import Prices, Rates
from paygent.core.usage_stats import Observation
from paygent.prices.catalogue import Catalogue, Resolved

CATALOGUE = Catalogue()
MODELS = {"m": ModelCostRate.per_million(1, 4), "free": ModelCostRate(0, 0)}
ONE_NANO = 400_000  # what a call of 100 tokens of output costs
WINDOW = 8_000  # tokens of the context window of a model that has one
KNOWN = resolved("m", RATES, context_tokens=WINDOW, max_output_tokens=1_000)
WORST_NANO = WINDOW * 1_000 + 100 * 4_000


def open_call(
    accounts: Accounts,
    model: str | Resolved = "m",
    *,
    max_tokens: int = 100,
    owner: object = None,
    is_known: bool = False,
    cold_waits: bool = True,
) -> Hold | Decision:
    """Ask for the hold of a call without text, whose size is expected from calls like it."""
    user = make_user(accounts, is_known=is_known)
    if isinstance(model, str):
        model = CATALOGUE.resolve("", model, NOON_US, user.plan)
    hold = new_hold(lane_of(accounts, user, model), max_tokens=max_tokens, owner=owner)
    decision = accounts.admission.hold(
        hold, strict=user.plan.pre_call_estimate, cold_waits=cold_waits
    )
    assert not isinstance(decision, Waiter)
    return hold if decision is None else decision


def opened(accounts: Accounts, model: str | Resolved = "m", **arguments: Any) -> Hold:
    """Return a call that must be let in."""
    answer = open_call(accounts, model, **arguments)
    assert isinstance(answer, Hold), answer
    return answer


def end(accounts: Accounts, event_id: str, hold: Hold, output_tokens: int = 100) -> None:
    """Settle a call with so much output."""
    cost = output_tokens * 4_000
    event = make_event(event_id, model="m", model_key="m", cost_tokens_nano=cost)
    end_with(accounts, hold, event, Observation(0, 0, output_tokens, cost))


# -- calls of unknown size


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("calls", [2, 20])
def test_hold__of_unknown_size__goes_while_all_fit_at_their_largest(
    calls: int, is_known: bool
) -> None:
    """Caution costs nothing where there is room for whole context windows."""
    accounts = make_accounts(capped(calls * WORST_NANO, soft_gate_at=1.0))
    for _ in range(calls):
        opened(accounts, KNOWN, is_known=is_known)
    decision = open_call(accounts, KNOWN, is_known=is_known)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.limit, decision.retryable) == (
        "contention",
        "total_spend",
        True,
    )


@pytest.mark.parametrize("is_known", [False, True])
def test_hold__of_unknown_size_in_tokens__counts_whole_context_windows(is_known: bool) -> None:
    """A limit of tokens takes in at most a window from each call."""
    plan = PlanConfig(limits=(Limit("tokens", cap=5 * WINDOW),), soft_gate_at=1.0)
    accounts = make_accounts(plan)
    for _ in range(5):
        opened(accounts, KNOWN, is_known=is_known)
    assert isinstance(open_call(accounts, KNOWN, is_known=is_known), Decision)


def test_hold__of_unknown_size_in_calls__needs_no_caution() -> None:
    """Each call is one call, however large."""
    accounts = make_accounts(PlanConfig(limits=(Limit("calls", cap=20),)))
    for _ in range(20):
        opened(accounts)
    decision = open_call(accounts)
    assert isinstance(decision, Decision)
    assert decision.limit == "calls:period"


@pytest.mark.parametrize("is_known", [False, True])
def test_hold__of_unknown_size_without_a_context_window__goes_two_at_a_time(
    is_known: bool,
) -> None:
    """Before the first has settled, nobody knows what one more would use."""
    accounts = make_accounts(capped(1_000 * ONE_NANO, cost_rates=MODELS))
    opened(accounts, is_known=is_known)
    opened(accounts, is_known=is_known)
    decision = open_call(accounts, is_known=is_known)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable, decision.held) == (
        "contention",
        True,
        2 * ONE_NANO,
    )


def test_hold__of_unknown_size_beside_calls_of_another_model__counts_these_as_expected() -> None:
    """Only calls of the same model may all be larger than they seem."""
    accounts = make_accounts(capped(3 * WORST_NANO + ONE_NANO, cost_rates=MODELS))
    opened(accounts, "m")  # holds one call's cost, by its bound on output
    other = resolved("other", RATES, context_tokens=WINDOW, max_output_tokens=1_000)
    for _ in range(3):
        opened(accounts, other)
    assert isinstance(open_call(accounts, other), Decision)


def test_hold__of_unknown_size_that_cannot_wait__is_decided_by_what_is_expected() -> None:
    """A call that may not wait for the first of its kind goes where the estimates fit, and does
    not straddle the line.
    """
    accounts = make_accounts(capped(4 * ONE_NANO + 100, cost_rates=MODELS))
    for _ in range(4):
        opened(accounts, cold_waits=False)
    decision = open_call(accounts, cold_waits=False)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable) == ("contention", True)


def test_hold__once_its_likes_are_known__straddles_with_others_in_flight() -> None:
    """The caution ends with the first settlement."""
    accounts = make_accounts(capped(3 * ONE_NANO + 100, cost_rates=MODELS))
    first = opened(accounts)
    opened(accounts)
    end(accounts, "a", first)
    opened(accounts)  # fits
    opened(accounts)  # straddles
    assert isinstance(open_call(accounts), Decision)


def test_hold__unknown_in_one_limit_and_used_up_in_another__is_refused_for_good() -> None:
    """Nobody waits at one limit while another one has refused for good."""
    limits = (Limit("calls", window="day", cap=2),)
    accounts = make_accounts(capped(2 * ONE_NANO + 100, cost_rates=MODELS, limits=limits))
    opened(accounts)
    opened(accounts)
    for event_id in ("a", "b"):
        settle(accounts, event_id, cost_tokens_nano=1)
    decision = open_call(accounts)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable) == ("calls:day", False)


BILLED = 1_000, 500  # tokens of each call, of which the request shows five bytes
BILLED_NANO = BILLED[0] * 1_000 + BILLED[1] * 4_000


def fresh_call(accounts: Accounts, user: User, model: Resolved) -> Hold:
    """Return a call of five bytes that bounds its output."""
    lane = lane_of(accounts, user, model)
    return new_hold(lane, weight=5, max_tokens=BILLED[1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("window", [None, 128_000])
@pytest.mark.parametrize("metric", ["spend", "tokens"])
def test_hold__two_hundred_at_once_of_a_fresh_user__pass_a_cap_of_twenty_by_one_at_most(
    metric: str, window: int | None, is_known: bool, seed: int
) -> None:
    """A prompt that no request shows is learned from the first two calls; the others wait."""
    model = resolved("m", RATES, context_tokens=window, max_output_tokens=window and 16_000)
    plan = capped(20 * BILLED_NANO)
    if metric == "tokens":
        plan = PlanConfig(limits=(Limit("tokens", cap=20 * sum(BILLED)),))
    accounts = make_accounts(plan)
    user = make_user(accounts, is_known=is_known)
    chance = random.Random(seed)
    trying = [(fresh_call(accounts, user, model), Waiter(30.0)) for _ in range(200)]
    waiting: list[tuple[Hold, Waiter]] = []
    in_flight: list[Hold] = []
    done = 0
    while trying or in_flight:
        for hold, waiter in trying:
            outcome = accounts.admission.hold(hold, strict=False)
            if isinstance(outcome, Decision) and outcome.retryable:
                waiter.prepare()
                outcome = accounts.admission.hold(hold, strict=False, waiter=waiter)
            if outcome is None:
                in_flight.append(hold)
            elif outcome is waiter:
                waiting.append((hold, waiter))
        if in_flight:  # none waits for ever: a call that waits waits for one of these
            finish(accounts, in_flight.pop(chance.randrange(len(in_flight))), *BILLED)
            accounts.admission.count_all()
            done += 1
        trying = [each for each in waiting if each[1].turn.done()]
        waiting = [each for each in waiting if not each[1].turn.done()]
    assert waiting == []
    assert 20 <= done <= 21
    assert set(all_held(user)) == {0}


def test_hold__two_hundred_threads_of_a_fresh_user__pass_a_cap_of_twenty_by_one_at_most() -> None:
    """The same with threads that wait for their turns."""
    accounts = make_accounts(capped(20 * BILLED_NANO))
    user = make_user(accounts)
    model = resolved("m", RATES)
    barrier = threading.Barrier(200)
    done: list[Hold] = []

    def caller() -> None:
        hold, waiter = fresh_call(accounts, user, model), Waiter(30.0)
        barrier.wait()
        while True:
            waiter.prepare()
            outcome = accounts.admission.hold(hold, strict=False, waiter=waiter)
            if isinstance(outcome, Decision):
                return
            if outcome is None:
                finish(accounts, hold, *BILLED)
                accounts.admission.count(user)
                done.append(hold)
                return
            waiter.turn.result(30)

    threads = [threading.Thread(target=caller) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 20 <= len(done) <= 21
    assert set(all_held(user)) == {0}


# -- free and unpriced models


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_hold__a_free_model_with_the_dollars_used_up__goes_on(strict: bool, is_known: bool) -> None:
    """A local model costs nothing, so no limit in dollars is in its way."""
    plan = capped(1_000, cost_rates=MODELS, pre_call_estimate=strict)
    accounts = make_accounts(plan)
    settle(accounts, "a", cost_tokens_nano=5_000)
    opened(accounts, "free", is_known=is_known)
    assert isinstance(open_call(accounts, "m", is_known=is_known), Decision)


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize(
    "plan",
    [
        PlanConfig(max_spend_per_period=0, cost_rates=MODELS),
        capped(1_000, cost_rates=MODELS, tool_costs={"search": 0.01}),
        capped(10**9, cost_rates=MODELS, limits=(Limit("calls", cap=0),)),
    ],
)
def test_hold__a_free_model__is_refused_by_a_cap_of_0_for_tools_and_by_other_limits(
    plan: PlanConfig, is_known: bool
) -> None:
    """A cap of 0 is meant to block; tools cost; calls and tokens are counted, free or not."""
    accounts = make_accounts(plan)
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert isinstance(open_call(accounts, "free", is_known=is_known), Decision)


@pytest.mark.parametrize("is_known", [False, True])
def test_hold__of_an_unpriced_model_with_the_dollars_used_up__is_refused(is_known: bool) -> None:
    """What has no price is not free: it must not slip by the limits."""
    accounts = make_accounts(capped(1_000))
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert isinstance(open_call(accounts, "nobody-knows-this-model", is_known=is_known), Decision)


# -- plans that change


@pytest.mark.parametrize("is_known", [False, True])
def test_set_plan__a_limit_added_with_calls_in_flight__counts_them_from_the_start(
    is_known: bool,
) -> None:
    """What is in flight when a limit comes is held on it as well, and released from it."""
    accounts = make_accounts(capped(10**9))
    user = make_user(accounts, is_known=is_known)
    early = held(accounts, 400, model="o3")
    other = held(accounts, 400, model="gpt-4o")
    accounts.registry.set_plan(
        "pro", capped(10**9, limits=(Limit("spend", model="o3", cap=usd(1_000)),))
    )
    make_user(accounts, is_known=is_known)
    late = held(accounts, 100, model="o3")
    (account,) = [each for key, each in user.accounts.items() if key.limit.model == "o3"]
    assert held_on(user, account) == 500
    for hold in (early, other, late):
        accounts.admission.release(hold)
    assert held_on(user, account) == 0


@pytest.mark.parametrize("by", ["set_plan", "assign"])
def test_set_plan_or_assign__a_cap_below_what_is_spent__stops_the_next_call_of_a_known_lane(
    by: str,
) -> None:
    """An allotment never outlives the plan that it was made for."""
    accounts = make_accounts(capped(10**9))
    user = make_user(accounts)
    model = resolved("m", RATES)
    first = new_hold(lane_of(accounts, user, model), weight=4, max_tokens=10)
    assert accounts.admission.hold(first, strict=False) is None
    end(accounts, "a", first, 10)
    assert accounts.admission.hold(new_hold(first.lane, max_tokens=10), strict=False) is None
    assert user.allotment is not None
    if by == "set_plan":
        accounts.registry.set_plan("pro", capped(40_000))
    else:
        accounts.registry.assign("ann", "pro", capped(40_000), None, NOON_US)
    again = new_hold(lane_of(accounts, make_user(accounts), model), max_tokens=10)
    decision = accounts.admission.hold(again, strict=False)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.spent) == ("total_spend", 40_000)


# -- what has ended and is not counted yet


def ended_calls(accounts: Accounts, count: int = 3) -> list[Hold]:
    """Return calls of 30 tokens and 60,000 nano-dollars each that have ended and nothing more."""
    user = make_user(accounts)
    lane = lane_of(accounts, user, resolved("m", RATES))
    holds = [new_hold(lane, weight=80, max_tokens=10) for _ in range(count)]
    for hold in holds:
        assert accounts.admission.hold(hold, strict=False, enforce=False) is None
    for hold in holds:
        finish(accounts, hold, 20, 10)
    return holds


def test_count__calls_that_have_ended__replaces_their_holds_by_what_they_used() -> None:
    """The event follows from the figures, the forecast learns it, and the hold is gone."""
    accounts = make_accounts(capped(10**9))
    user = make_user(accounts)
    lane = lane_of(accounts, user, resolved("m", RATES))
    hold = new_hold(lane, weight=80, max_tokens=10)
    assert accounts.admission.hold(hold, strict=False) is None
    finish(accounts, hold, 20, 10)
    assert (hold.is_open, user.is_idle, user.is_queued) == (True, False, True)
    accounts.admission.count(user)
    assert hold.event is not None
    assert (hold.event.cost_nano, hold.event.total_tokens) == (60_000, 30)
    assert hold.observation == Observation(80, 20, 10, 60_000, 10)
    assert user.pending == {hold.event.event_id: hold.event}
    assert lane.forecast.own.stats.calls == 1
    assert (hold.is_open, hold.is_counted, user.is_queued) == (False, True, False)
    assert set(all_held(user)) == {0}


def readings() -> list[Callable[[Accounts, User], int]]:
    """Return whoever asks for figures; each returns the spend that it sees."""
    model = resolved("m", RATES)
    return [
        lambda accounts, user: accounts.admission.check(user, "s1", model, NOON_US).spent,
        lambda accounts, user: accounts.admission.limits(user, "s1", "m", NOON_US)[0][1].spent,
        lambda accounts, user: accounts.admission.limits(user, "s1", None, NOON_US)[0][1].spent,
        lambda accounts, user: accounts.admission.figures(user, "s1", NOON_US).period_cost_nano,
        lambda accounts, user: accounts.admission.figures(user, "s1", NOON_US).session_cost_nano,
        lambda accounts, user: accounts.admission.figures(user, "s1", NOON_US).by_model["m"][1],
    ]


@pytest.mark.parametrize("number", range(len(readings())))
def test_readings__right_after_calls_have_ended__count_them_first(number: int) -> None:
    """Whoever asks for figures gets exact ones."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    assert readings()[number](accounts, accounts.registry.users["ann"]) == 180_000


def test_figures__with_ended_and_open_calls__hold_the_open_ones_alone() -> None:
    """An ended call is never seen as held and spent at once, or as neither."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    user = accounts.registry.users["ann"]
    open_one = new_hold(lane_of(accounts, user, resolved("m", RATES)), weight=80, max_tokens=10)
    assert accounts.admission.hold(open_one, strict=False) is None
    figures = accounts.admission.figures(user, "s1", NOON_US)
    assert (figures.period_cost_nano, figures.period_tokens) == (180_000, 90)
    assert (figures.held_cost_nano, figures.held_tokens) == (60_000, {"m": 30})


def test_hold__near_a_line__counts_what_has_ended_before_it_decides() -> None:
    """Ended calls of the same user cost what they cost, not what they held."""
    accounts = make_accounts(capped(180_000))
    ended_calls(accounts)
    user = accounts.registry.users["ann"]
    another = new_hold(lane_of(accounts, user, resolved("m", RATES)), weight=80, max_tokens=10)
    decision = accounts.admission.hold(another, strict=False)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.spent, decision.held) == ("total_spend", 180_000, 0)
    assert not user.finished


def test_count_all__users_with_ended_calls__counts_each_once() -> None:
    """A user is queued once, however many of their calls have ended."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    user = accounts.registry.users["ann"]
    assert list(accounts.admission.uncounted) == [user]
    accounts.admission.count_all()
    assert not accounts.admission.uncounted
    assert (len(user.pending), user.is_queued) == (3, False)
    finish(accounts, held(accounts, 1), 1, 1)
    assert list(accounts.admission.uncounted) == [user]


def test_count_all__another_thread_takes_the_last_user__returns() -> None:
    """The queue may be empty between the look and the step."""
    accounts = make_accounts(capped())

    class Emptied(type(accounts.admission.uncounted)):  # type: ignore[misc]
        def __bool__(self) -> bool:
            return True

    accounts.admission.uncounted = Emptied()
    accounts.admission.count_all()


def test_count__many_calls__gives_the_lock_back_between_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that begins waits for a slice at most, not for everything that has ended."""
    monkeypatch.setattr(admission_module, "_COUNTED_AT_ONCE", 2)
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts, 5)
    user = accounts.registry.users["ann"]
    slices: list[int] = []

    def noted(lock: threading.Lock) -> object:
        slices.append(len(user.finished))
        return acquire_soon(lock)

    monkeypatch.setattr("paygent.client.accounts.admission.acquire_soon", noted)
    accounts.admission.count(user)
    assert slices == [5, 3, 1]


def test_count__twice_and_from_many_threads__counts_each_call_once() -> None:
    """Whoever counts first counts for all."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts, 200)
    user = accounts.registry.users["ann"]
    threads = [threading.Thread(target=accounts.admission.count, args=(user,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert user.accounts[period_key()].spent == 200 * 60_000
    assert len(user.pending) == 200
    assert set(all_held(user)) == {0}


def interrupted_at(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, *, after: bool
) -> None:
    """Have a step interrupted once, before or after it has run."""
    step = getattr(place, name)
    runs: list[None] = []

    def interrupted(*arguments: object, **named: object) -> object:
        runs.append(None)
        if len(runs) > 1:
            return step(*arguments, **named)
        if after:
            step(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, name, interrupted)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (admission_module, "event_of_end"),
        (admission_module, "Observation"),
        (admission_module, "_pass_turns"),
        (admission_module.Admission, "_count_one"),
        (account_lookup, "count"),
    ],
)
def test_count__interrupted_between_two_steps__counts_the_call_once_in_the_end(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, after: bool
) -> None:
    """Ctrl-C may come between any two lines; a call leaves the queue last."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    user = accounts.registry.users["ann"]
    interrupted_at(monkeypatch, place, name, after=after)
    with pytest.raises(KeyboardInterrupt):
        accounts.admission.count(user)
    figures = accounts.admission.figures(user, "s1", NOON_US)
    assert (figures.period_cost_nano, figures.by_model) == (180_000, {"m": (90, 180_000)})
    assert user.accounts[period_key()].spent == 180_000
    assert set(all_held(user)) == {0}


def test_count__a_call_that_waits__is_woken_by_what_ended_calls_leave() -> None:
    """Counting passes the turn on, as a settlement does."""
    accounts = make_accounts(capped(100_000))
    first = held(accounts, 100_000)
    waiter = Waiter(30.0)
    waiter.prepare()
    user = accounts.registry.users["ann"]
    another = new_hold(lane_of(accounts, user, resolved("m", RATES)), weight=80, max_tokens=10)
    assert accounts.admission.hold(another, strict=False, waiter=waiter) is waiter
    first.event = make_event("a", cost_tokens_nano=10)
    accounts.admission.end(first)
    assert not waiter.turn.done()
    accounts.admission.count(user)
    assert waiter.turn.done()


# -- other ends


def test_release__twice_or_of_a_call_that_never_began__changes_nothing() -> None:
    """Whatever interrupts the beginning of a call may release it."""
    accounts = make_accounts(capped(10**9))
    user = make_user(accounts)
    lane = lane_of(accounts, user, resolved("m", RATES))
    hold, never = new_hold(lane), new_hold(lane)
    assert accounts.admission.hold(hold, strict=False) is None
    accounts.admission.release(never)
    assert list(user.open.values()) == [hold]
    accounts.admission.release(hold)
    accounts.admission.release(hold)
    assert set(all_held(user)) == {0}


def test_book__an_event_that_is_no_call__takes_its_room_and_passes_the_turn_on() -> None:
    """A manual event that lowers the spend (a correction) lets a waiting call try."""
    accounts = make_accounts(capped(1_000))
    settle(accounts, "a", cost_tokens_nano=500)
    held(accounts, 500)
    waiter = Waiter(30.0)
    waiter.prepare()
    user = accounts.registry.users["ann"]
    another = new_hold(lane_of(accounts, user, resolved("m", RATES)), max_tokens=10)
    assert accounts.admission.hold(another, strict=False, waiter=waiter) is waiter
    settle(accounts, "b", cost_tokens_nano=-400)
    assert user.accounts[period_key()].spent == 100
    assert waiter.turn.done()


def test_book__an_event_of_a_user_with_an_allotment__withdraws_it() -> None:
    """An event of any size may bring a line near."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    user = accounts.registry.users["ann"]
    accounts.admission.count(user)
    lane = lane_of(accounts, user, resolved("m", RATES))
    assert accounts.admission.hold(new_hold(lane, max_tokens=10), strict=False) is None
    assert user.allotment is not None
    settle(accounts, "large", cost_tokens_nano=10**9)
    assert user.allotment is None
    decision = accounts.admission.hold(new_hold(lane, max_tokens=10), strict=False)
    assert isinstance(decision, Decision)
    assert decision.reason == "total_spend"


def test_warnings_after__an_event_past_the_line__warns_of_the_accounts_that_count_it() -> None:
    """A manual event may be the one that crosses the line, and warns once."""
    accounts = make_accounts(capped(1_000, soft_gate_at=0.5, model_limits={"gpt-4o": 20, "o3": 0}))
    event = settle(accounts, "a", cost_tokens_nano=600)
    user = accounts.registry.users["ann"]
    reasons = [reading.reason for reading in accounts.admission.warnings_after(user, event)]
    assert sorted(reasons) == ["model_limit:gpt-4o", "total_spend"]
    assert accounts.admission.warnings_after(user, event) == ()


def test_renew_after_fork__a_user_whose_calls_have_ended__is_the_parents_to_count() -> None:
    """A child counts none of its parent's calls."""
    accounts = make_accounts(capped(10**9))
    ended_calls(accounts)
    accounts.renew_after_fork()
    user = accounts.registry.users["ann"]
    accounts.admission.count_all()
    assert (user.pending, user.accounts, user.open, len(user.finished)) == ({}, {}, {}, 0)
    assert (user.allotment, len(user.lanes), user.is_queued) == (None, 0, False)


def test_worst_of__a_call__is_a_whole_window_at_the_dearest_prices_of_its_model() -> None:
    """Its bound on output, or the model's, or the window; input may be written to a cache."""
    prices = Prices(input=10**12, cache_write=2 * 10**12, output=4 * 10**12, reasoning=5 * 10**12)
    accounts = make_accounts(capped(10**9))
    user = make_user(accounts)

    def worst(metric: str, max_tokens: int, **fields: int | None) -> int | None:
        lane = lane_of(accounts, user, resolved("m", Rates(prices), **fields))
        return admission_module._worst_of(new_hold(lane, max_tokens=max_tokens), metric)

    bounded = partial(worst, context_tokens=8_000, max_output_tokens=1_000)
    assert bounded("tokens", 100) == 8_000
    assert bounded("spend", 100) == 8_000 * 2_000 + 100 * 5_000
    assert bounded("spend", 5_000) == bounded("spend", 0) == 8_000 * 2_000 + 1_000 * 5_000
    assert worst("spend", 0, context_tokens=8_000) == 8_000 * 7_000
    assert worst("spend", 100) is None
    assert worst("tokens", 100, max_output_tokens=1_000) is None


def test_hold__events_with_an_id_that_is_pending__are_counted_once() -> None:
    """An end that was interrupted may be brought again, also under another call."""
    accounts = make_accounts(capped(10**9))
    events: list[Event] = [settle(accounts, "a", held(accounts, 7)) for _ in range(2)]
    assert len(set(events)) == 1
    assert accounts.registry.users["ann"].accounts[period_key()].spent == 100
