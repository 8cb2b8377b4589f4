"""Allotments: which calls they let in, how far they reach, and what withdraws them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.samples import DAY_US, MONTH, NOON_US, TODAY_US, make_event, period_key
from tests.unit.client.accounts.calls import (
    RATES,
    capped,
    end_with,
    finish,
    fixed_hold,
    lane_of,
    make_accounts,
    make_user,
    new_hold,
    resolved,
    settle,
    usd,
)
from tests.unit.client.accounts.interleavings import StepwiseTable, Turns, orders

from paygent.client.accounts import allotments as allotments_module
from paygent.client.accounts.account_lookup import ACCOUNTS_MAX
from paygent.client.accounts.allotments import allot, bound_of, enter
from paygent.client.accounts.forecasts import Use
from paygent.client.accounts.holds import load_on
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Allotment, Hold, Lane
from paygent.client.accounts.wait_queue import Waiter
from paygent.core.estimate import MILLIONTHS, Estimate
from paygent.core.gate import Decision
from paygent.core.limit import Limit
from paygent.core.messages import Answer, UserLedger
from paygent.core.plan import PlanConfig
from paygent.core.pricing import ONE_NANO, Prices, Rates
from paygent.core.usage_stats import Observation

MODEL = resolved("m", RATES)
USED = Observation(80, 20, 10, 60_000)
CALL_NANO = 60_000
"""What the calls of these tests cost: 20 tokens of input and 10 of output."""


def warm_lane(accounts: Accounts, **arguments: Any) -> Lane:
    """Return a lane of a known user, whose calls so far were all alike."""
    lane = lane_of(accounts, make_user(accounts), arguments.pop("model", MODEL), **arguments)
    for _ in range(3):
        lane.forecast.learn(USED)
    lane.reckon()
    return lane


def call_of(lane: Lane, *, weight: int = 80, max_tokens: int = 10, at_us: int = NOON_US) -> Hold:
    """Return a call like those before, not open yet."""
    return new_hold(lane, weight=weight, max_tokens=max_tokens, at_us=at_us)


def allotted(accounts: Accounts, lane: Lane, **arguments: Any) -> Hold:
    """Return a call that is let in by a new allotment."""
    hold = call_of(lane, **arguments)
    assert accounts.admission.renew(hold)
    return hold


def most_left(lane: Lane) -> int:
    """Return how many more calls the allotment of a lane lets in."""
    assert lane.allotment is lane.user.allotment is not None
    return lane.most - lane.allotment.used - len(lane.user.open)


# -- a call enters


def test_enter__a_call_within_its_allotment__is_open() -> None:
    """It holds by being in the table of open calls, and nothing else is touched."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    first = allotted(accounts, lane)
    hold = call_of(lane)
    with lane.user.lock:  # it takes none
        assert enter(hold)
    assert list(lane.user.open.values()) == [first, hold]


def test_enter__the_first_call_of_a_lane__has_no_allotment() -> None:
    """Somebody has to look at the accounts once."""
    lane = warm_lane(make_accounts(capped(10**9)))
    assert not enter(call_of(lane))
    assert lane.user.open == {}


@pytest.mark.parametrize("change", ["withdrawn", "used", "time", "fixed", "cost", "tokens"])
def test_enter__outside_of_its_allotment__is_not_open(change: str) -> None:
    """Whatever an allotment does not cover has to look at the accounts."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    allotment, hold = lane.allotment, call_of(lane)
    if change == "withdrawn":
        lane.user.allotment = None
    elif change == "used":
        allotment.used = lane.most
    elif change == "time":
        hold.at_us = lane.until_us
    elif change == "fixed":
        hold.use = Use(Estimate(0, 0), allotment.unit // ONE_NANO + 1)
    elif change == "cost":
        allotment.unit = bound_of(hold)[0] - 1
    else:
        allotment.unit_tokens = bound_of(hold)[1] - 1
    assert not enter(hold)
    assert lane.user.open == {}


def test_enter__at_the_edges_of_its_allotment__is_open() -> None:
    """The last place, the last moment and the whole unit are inside."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    hold = call_of(lane, at_us=lane.until_us - 1)
    lane.allotment.unit, lane.allotment.unit_tokens = bound_of(hold)
    lane.allotment.used = lane.most - 1
    assert enter(hold)


@pytest.mark.parametrize("max_tokens", [0, 5, 10, 11, 5_000])
@pytest.mark.parametrize("history", [[], [USED] * 3])
def test_enter__a_call_of_any_bound__is_compared_by_its_bound(
    max_tokens: int, history: list[Observation]
) -> None:
    """What runs for every call computes the same as `HoldBound.of`."""
    accounts = make_accounts(capped(10**12))
    lane = lane_of(accounts, make_user(accounts), MODEL)
    for each in history:
        lane.forecast.learn(each)
    lane.reckon()
    hold = call_of(lane, max_tokens=max_tokens)
    lane.until_us, lane.most = hold.at_us + 1, 9
    cost, tokens = bound_of(hold)
    for less_cost, less_tokens in ((0, 0), (1, 0), (0, 1)):
        lane.allotment = lane.user.allotment = Allotment(
            cost - less_cost, tokens - less_tokens, (0, 0)
        )
        assert enter(hold) is (less_cost == less_tokens == 0)
        lane.user.open.clear()


# -- threads


def stepwise_lane(places: int) -> tuple[Accounts, Lane, Turns]:
    """Return a lane with so many places left, of which each step at the open calls can be timed."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    lane.most = places
    turns = Turns()
    StepwiseTable(lane.user, turns)
    return accounts, lane, turns


@pytest.mark.parametrize("order", orders("ab", 4))
def test_enter__two_threads_at_the_last_place__let_one_in_at_most(order: tuple[str, ...]) -> None:
    """Entered first and counted afterwards: in no order of their steps do both stay."""
    _, lane, turns = stepwise_lane(1)
    calls = {name: call_of(lane) for name in "ab"}
    entered: dict[str, bool] = {}

    def try_it(name: str) -> None:
        entered[name] = enter(calls[name])

    turns.run(order, {name: lambda name=name: try_it(name) for name in "ab"})  # type: ignore[misc]
    assert sum(entered.values()) <= 1
    expected = {calls[name].seq for name in "ab" if entered[name]}
    assert set(lane.user.open) == expected


@pytest.mark.parametrize("order", orders("ab", 4))
def test_enter__while_an_ended_call_is_counted__never_takes_its_place_twice(
    order: tuple[str, ...],
) -> None:
    """What was counted grows before the call leaves the table, and is read after its length."""
    accounts, lane, turns = stepwise_lane(1)
    ended = call_of(lane)
    assert enter(ended)
    finish(accounts, ended, 20, 10)
    entered: list[bool] = []
    turns.run(
        order,
        {
            "a": lambda: entered.append(enter(call_of(lane))),
            "b": lambda: accounts.admission.count(lane.user),
        },
    )
    assert entered == [False]  # the ended call has spent what the one place allows
    assert lane.user.open == {}


@pytest.mark.parametrize("order", orders("ab", 4))
def test_enter__while_the_allotment_is_withdrawn__is_seen_or_sees_it(
    order: tuple[str, ...],
) -> None:
    """Whoever looks at the accounts withdraws first, then reads the open calls: none is missed."""
    _, lane, turns = stepwise_lane(9)
    hold, user = call_of(lane), lane.user
    entered: list[bool] = []
    seen: list[Hold] = []

    def withdraw() -> None:
        turns.step()
        user.allotment = None
        seen.extend(user.open.values())

    turns.run(order, {"a": lambda: entered.append(enter(hold)), "b": withdraw})
    assert entered == [False] or seen == [hold]


# -- an allotment is made


def test_allot__far_from_every_line__reaches_to_the_nearest() -> None:
    """The room up to the line, less a nano-dollar, divided by four times the bound of a call."""
    accounts = make_accounts(capped(1_000 * CALL_NANO, soft_gate_at=0.5))
    lane = warm_lane(accounts)
    bound, _ = bound_of(allotted(accounts, lane))
    assert lane.user.allotment is not None
    assert lane.user.allotment.unit == 4 * bound
    assert lane.most == (500 * CALL_NANO - 1) * ONE_NANO // (4 * bound)
    assert 100 < lane.most < 125


def test_allot__less_room_than_for_large_calls__reaches_to_the_line_itself() -> None:
    """Near a line the unit is the bound of the call at hand."""
    accounts = make_accounts(capped(4 * CALL_NANO, soft_gate_at=1.0))
    lane = warm_lane(accounts)
    bound, _ = bound_of(allotted(accounts, lane))
    assert lane.user.allotment is not None
    assert (lane.user.allotment.unit, lane.most) == (bound, 3)
    assert enter(call_of(lane))
    assert enter(call_of(lane))
    assert not enter(call_of(lane))
    assert not accounts.admission.renew(call_of(lane))


@pytest.mark.parametrize("metric", ["tokens", "calls"])
def test_allot__a_line_of_tokens_or_calls__is_kept_as_well(metric: str) -> None:
    """The tightest of the limits decides."""
    cap = 32 * 30 if metric == "tokens" else 20
    limits = (Limit(metric, window="day", cap=cap),)  # type: ignore[arg-type]
    accounts = make_accounts(capped(10**9, soft_gate_at=1.0, limits=limits))
    lane = warm_lane(accounts)
    _, tokens = bound_of(allotted(accounts, lane))
    if metric == "calls":
        assert lane.most == 19
    else:
        assert lane.most == (cap - 1) * MILLIONTHS // (4 * tokens)


def test_allot__without_any_limit__is_bounded_all_the_same() -> None:
    """What is open and not counted yet stays bounded, and a large call is as good as a small."""
    accounts = make_accounts(PlanConfig())
    lane = warm_lane(accounts)
    allotted(accounts, lane)
    assert lane.most == allotments_module._MOST_MIN
    assert not enter(call_of(lane, weight=10**6))
    accounts.admission.release(allotted(accounts, lane, weight=10**6))
    assert enter(call_of(lane, weight=10**6))


def test_allot__a_large_room__takes_in_much_larger_calls() -> None:
    """Far from a line, a call may be as large as a small part of the room."""
    limits = (Limit("tokens", cap=10**9),)
    accounts = make_accounts(capped(10**12, soft_gate_at=1.0, limits=limits))
    lane = warm_lane(accounts)
    allotted(accounts, lane)
    assert lane.user.allotment is not None
    share = (10**12 - 1) * ONE_NANO // allotments_module._ROOM_SHARE
    assert lane.user.allotment.unit == share > 100 * bound_of(call_of(lane))[0]
    assert enter(call_of(lane, weight=80 * 100))


def test_allot__a_warning_that_is_due__ends_before_the_warn_line() -> None:
    """The call that has to warn looks at the accounts; the next ones have room up to the block."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=0.5))
    lane = warm_lane(accounts)
    settle(accounts, "a", cost_tokens_nano=50 * CALL_NANO)
    assert not accounts.admission.renew(call_of(lane))
    hold = call_of(lane)
    assert accounts.admission.hold(hold, strict=False) is None
    assert [reading.reason for reading in hold.warnings] == ["total_spend"]
    allotted(accounts, lane)
    assert most_left(lane) > 5
    for account in lane.user.accounts.values():  # as in a new window
        account.warned = False
    lane.user.allotment = None
    assert not accounts.admission.renew(call_of(lane))


def test_allot__where_each_call_warns__ends_at_the_warn_line_for_good() -> None:
    """`soft_gate="every_call"` has something to say at each call past the line."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=0.5), warn_every_call=True)
    lane = warm_lane(accounts)
    settle(accounts, "a", cost_tokens_nano=50 * CALL_NANO)
    for _ in range(3):
        hold = call_of(lane)
        assert accounts.admission.hold(hold, strict=False) is None
        assert len(hold.warnings) == 1


def test_allot__a_shadow_plan__has_no_warn_line_and_leaves_out_blocked_spend() -> None:
    """Users must not notice it; what blocked calls spent is in nobody's way."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=0.1, enforce=False))
    lane = warm_lane(accounts)
    settle(accounts, "a", cost_tokens_nano=500 * CALL_NANO, blocked=True)
    settle(accounts, "b", cost_tokens_nano=50 * CALL_NANO)
    allotted(accounts, lane)
    assert 5 < lane.most < 50


@pytest.mark.parametrize("cap_nano", [1, 0])
def test_allot__a_free_model__passes_limits_in_dollars_but_a_cap_of_0(cap_nano: int) -> None:
    """As the exact gate: a cap of 0 is meant to block free models too."""
    accounts = make_accounts(capped(cap_nano))
    free = resolved("free", Rates(Prices(), source="plan"), is_free=True)
    lane = warm_lane(accounts, model=free)
    assert accounts.admission.renew(call_of(lane)) is bool(cap_nano)


@pytest.mark.parametrize("why", ["unknown", "no lock", "not current", "somebody waits", "full"])
def test_allot__not_far_or_not_safe__lets_nothing_in(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Then the exact gate decides."""
    accounts = make_accounts(capped(3 * CALL_NANO if why == "full" else 10**9, soft_gate_at=1.0))
    lane = warm_lane(accounts)
    user = lane.user
    if why == "unknown":
        user.known = False
    elif why == "no lock":
        monkeypatch.setattr(allotments_module, "_IS_SAFE", False)
    elif why == "not current":
        user.lanes.clear()
    elif why == "somebody waits":
        accounts.admission.check(user, "s1", MODEL, NOON_US)
        user.accounts[period_key()].waiting.append(Waiter(30.0))
    else:
        for _ in range(3):
            accounts.admission.hold(call_of(lane), strict=False)
        assert len(user.open) == 3
    before = dict(user.open)
    assert not allot(call_of(lane), warn_every_call=False, is_offline=False)
    assert user.open == before


def test_allot__large_open_calls__take_their_part_of_the_room() -> None:
    """Calls from before may use more than a unit."""
    accounts = make_accounts(capped(1_000 * CALL_NANO, soft_gate_at=1.0))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    without = lane.most
    lane.user.allotment = None
    large = fixed_hold(accounts, 400 * CALL_NANO)
    assert accounts.admission.hold(large, strict=False, enforce=False) is None
    allotted(accounts, lane)
    assert lane.user.allotment is not None
    assert lane.user.allotment.extra[0] == 400 * CALL_NANO * ONE_NANO - lane.user.allotment.unit
    # The large call has a place of its own for the rest.
    assert lane.most < without * 0.61


def test_allot__used_up__is_renewed_with_what_is_left() -> None:
    """Calls that were counted leave the room that they did not use."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=1.0))
    lane = warm_lane(accounts)
    looks = calls = 0
    while True:
        hold = call_of(lane)
        if not enter(hold):
            if not accounts.admission.renew(hold):
                break
            looks += 1
        finish(accounts, hold, 20, 10)
        calls += 1
    accounts.admission.count(lane.user)
    assert 95 <= calls <= 99  # the exact gate has the rest
    assert looks <= 25
    assert lane.user.accounts[period_key()].spent == calls * CALL_NANO


def test_allot__two_lanes__share_the_places_of_one_allotment() -> None:
    """Open calls of all lanes of a user count for each."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=1.0))
    one, other = warm_lane(accounts), warm_lane(accounts, session_id="s2")
    allotted(accounts, one)
    allotted(accounts, other)
    assert one.allotment is other.allotment
    assert one.most == other.most
    while enter(call_of(one)) or enter(call_of(other)):
        pass
    assert len(one.user.open) == one.most


def test_allot__a_lane_with_less_room__has_fewer_places() -> None:
    """A session's limit binds its own lane, not those of other sessions."""
    plan = PlanConfig(max_spend_per_session=usd(100 * CALL_NANO), soft_gate_at=1.0)
    accounts = make_accounts(plan)
    fresh, used = warm_lane(accounts), warm_lane(accounts, session_id="s2")
    settle(accounts, "a", session_id="s2", cost_tokens_nano=60 * CALL_NANO)
    allotted(accounts, fresh)
    allotted(accounts, used)
    assert fresh.allotment is used.allotment
    assert used.most < fresh.most


@pytest.mark.parametrize("session_id", ["s1", "s2", "s3"])
def test_allot__open_calls_of_a_lane_that_has_not_followed_its_forecast__count_as_they_are_now(
    session_id: str,
) -> None:
    """A call of one session shows how large those of another are: then their holds have grown."""
    plan = PlanConfig(limits=(Limit("tokens", cap=4_000),), soft_gate_at=1.0)
    accounts = make_accounts(plan)
    lanes = [warm_lane(accounts, session_id=each) for each in ("s1", "s2")]
    for _ in range(8):
        assert accounts.admission.hold(call_of(lanes[0]), strict=False) is None
    hidden = call_of(lanes[1])
    assert accounts.admission.hold(hidden, strict=False) is None
    event = make_event("a", model_key="m", session_id="s2", input_tokens=2_000, output_tokens=10)
    end_with(accounts, hidden, event, Observation(80, 2_000, 10, 2_040_000))
    user = hidden.lane.user
    load = load_on(user.accounts[period_key("tokens")], user.open.values())
    assert load.held + event.total_tokens > 4_000
    # A small call: of another model, which has learned nothing of all this.
    small = warm_lane(accounts, model=resolved("small", RATES), session_id=session_id)
    assert not accounts.admission.renew(call_of(small))
    decision = accounts.admission.hold(call_of(small), strict=False)
    assert isinstance(decision, Decision)
    assert decision.retryable


# -- how long it holds


@pytest.mark.parametrize("first", ["day", "period", "price"])
def test_allot__until__the_first_of_its_premises_ends(first: str) -> None:
    """A window's end, the period's or a price's is a moment to look at the accounts again."""
    limits = (Limit("calls", window="day", cap=10**6),) if first == "day" else ()
    accounts = make_accounts(capped(10**9, limits=limits))
    lane = warm_lane(accounts)
    ends = {"day": TODAY_US + DAY_US, "period": MONTH.end_us, "price": NOON_US + 5}
    if first == "price":
        lane.valid_until_us = NOON_US + 5
    allotted(accounts, lane)
    assert lane.until_us == ends[first]
    assert enter(call_of(lane, at_us=ends[first] - 1))
    assert not enter(call_of(lane, at_us=ends[first]))


# -- what withdraws it


@pytest.mark.parametrize(("used", "stays"), [((20, 10), True), ((20, 10_000), False)])
def test_count__a_call_within_its_unit_or_above__keeps_the_allotment_or_not(
    used: tuple[int, int], stays: bool
) -> None:
    """More than was counted on may bring a line near."""
    accounts = make_accounts(capped(1_000 * CALL_NANO))
    lane = warm_lane(accounts)
    hold = allotted(accounts, lane)
    allotment = lane.user.allotment
    assert allotment is not None
    finish(accounts, hold, *used)
    accounts.admission.count(lane.user)
    assert allotment.used == 1
    assert (lane.user.allotment is allotment) is stays


def test_count__calls_that_teach_a_larger_bound__withdraw_the_allotment() -> None:
    """Open calls may use more than was counted on when they were let in."""
    accounts = make_accounts(capped(10**12))
    lane = warm_lane(accounts)
    hold = allotted(accounts, lane)
    finish(accounts, hold, 75, 10)  # within the unit
    accounts.admission.count(lane.user)
    assert lane.user.allotment is None


@pytest.mark.parametrize(("spent", "stays"), [(0, True), (5, False)])
def test_apply_answer__more_spent_elsewhere__withdraws_the_allotment(
    spent: int, stays: bool
) -> None:
    """Other processes of the product use the same room."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    allotted(accounts, lane)
    question = accounts.sync.question(lane.user, "s1", NOON_US)
    figures = dict.fromkeys(question.accounts, spent)
    answer = UserLedger(spent=figures, period_start_us=question.period_start_us)
    accounts.sync.apply_answer(Answer(users={"ann": answer}), NOON_US)
    assert lane.user.known
    assert (lane.user.allotment is not None) is stays
    assert enter(call_of(lane)) is stays


@pytest.mark.parametrize("change", ["set_plan", "replace_plan", "default plan"])
def test_plans__one_of_them_changes__calls_of_a_known_lane_do_not_enter_any_more(
    change: str,
) -> None:
    """At once: such a call does not ask for its user's plan before it enters."""
    accounts = Accounts(default_plan=None, new_id=str)
    accounts.registry.set_plan("default", capped(10**9))
    lane = warm_lane(accounts)
    allotted(accounts, lane)
    if change == "set_plan":
        accounts.registry.set_plan("default", capped(1))
    elif change == "replace_plan":
        accounts.registry.replace_plan("default", 2, capped(1))
    else:
        accounts.registry.follow_default_plan("other")
    assert not enter(call_of(lane))
    assert not lane.is_current()


def test_hold__near_a_line__withdraws_the_allotment_before_it_reads_the_open_calls() -> None:
    """A strict or large call decides on exact figures; others look at the accounts after it."""
    accounts = make_accounts(capped(100 * CALL_NANO, soft_gate_at=1.0))
    lane = warm_lane(accounts)
    first = allotted(accounts, lane)
    large = fixed_hold(accounts, 99 * CALL_NANO)
    assert accounts.admission.hold(large, strict=False) is None
    assert lane.user.allotment is None
    assert set(lane.user.open.values()) == {first, large}
    refused = accounts.admission.hold(call_of(lane), strict=True)
    assert refused is not None


def test_evict__a_user_with_a_call_in_flight__stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that enters meanwhile is seen, or sees that there is no allotment any more."""
    monkeypatch.setattr("paygent.client.accounts.registry.USERS_MAX", 1)
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    hold = allotted(accounts, lane)
    accounts.registry.user("bob", NOON_US)
    assert lane.user.allotment is None
    assert "ann" in accounts.registry.users
    accounts.admission.release(hold)
    accounts.registry.user("carol", NOON_US)
    assert "ann" not in accounts.registry.users
    assert not lane.is_current()
    assert not enter(call_of(lane))


# -- what a lane and its user rest on


@pytest.mark.parametrize("edge", ["period", "price"])
def test_allot__a_lane_whose_time_has_come__lets_nobody_in(edge: str) -> None:
    """Its period has ended or its price has changed: the whole way finds the new one."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    lane.valid_until_us = NOON_US + 5 if edge == "price" else lane.valid_until_us
    end_us = NOON_US + 5 if edge == "price" else lane.user.period.end_us
    late = call_of(lane, at_us=end_us)
    assert not accounts.admission.renew(late)
    assert accounts.admission.renew(call_of(lane, at_us=end_us - 1))


def test_allot__a_user_who_is_switched_off__has_no_allotment() -> None:
    """Their calls pass unmetered, which the whole way sees to."""
    accounts = make_accounts(capped(10**9))
    lane = warm_lane(accounts)
    lane.user.sdk_enabled = False
    assert not accounts.admission.renew(call_of(lane))


def test_allot__a_call_waits_at_another_account__has_to_look() -> None:
    """A call that ends under an allotment wakes nobody, so there is none while somebody waits."""
    plan = PlanConfig(max_spend_per_session=usd(10**9))
    accounts = make_accounts(plan)
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    (account,) = (each for each in lane.user.accounts.values() if each.thresholds)
    account.waiting.append(Waiter(30.0))
    other = lane_of(accounts, lane.user, MODEL, session_id="s2")
    assert not accounts.admission.renew(call_of(other))
    account.waiting.clear()
    assert accounts.admission.renew(call_of(other))


def test_allot__thousands_of_open_calls__does_not_count_them_each_time() -> None:
    """An allotment has room for as many as are open already."""
    accounts = make_accounts()
    lane = warm_lane(accounts)
    for _ in range(3_000):
        assert enter(hold := call_of(lane)) or accounts.admission.renew(hold)
    assert most_left(lane) > 500
    assert len(lane.user.open) == 3_000


def test_accounts_for_call__accounts_of_idle_sessions_are_dropped__and_so_are_lanes() -> None:
    """What such a session has spent is read again before a call of it is let in."""
    accounts = make_accounts(PlanConfig(max_spend_per_session=usd(10**9)))
    lane = warm_lane(accounts)
    accounts.admission.release(allotted(accounts, lane))
    for number in range(ACCOUNTS_MAX):
        other = lane_of(accounts, lane.user, MODEL, session_id=f"other-{number}")
        accounts.admission.release(allotted(accounts, other))
    assert not lane.is_current()
    assert not accounts.admission.renew(call_of(lane))
