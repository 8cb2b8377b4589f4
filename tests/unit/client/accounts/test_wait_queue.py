"""Waiting in line: who is woken by what, in which order, and what becomes of those who leave."""

from __future__ import annotations

import pytest
from tests.contract.samples import MONTH, NOON_US
from tests.unit.client.accounts.calls import (
    all_held,
    capped,
    fixed_hold,
    held,
    make_accounts,
    settle,
)

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import Hold
from paygent.client.accounts.wait_queue import Waiter
from paygent.core.gate import Decision
from paygent.core.limit import Limit
from paygent.core.plan import PlanConfig


def try_with(
    accounts: Accounts,
    waiter: Waiter,
    cost_nano: int = 1,
    *,
    owner: object = "me",
    model: str = "gpt-4o",
    strict: bool = False,
) -> Hold | Decision | Waiter:
    """Try to hold as a call that may wait does."""
    hold = fixed_hold(accounts, cost_nano, model=model, owner=owner)
    if waiter.account is None:  # a later try would be noted as not woken
        waiter.prepare()
    answer = accounts.admission.hold(hold, strict=strict, waiter=waiter)
    return hold if answer is None else answer


def in_line(accounts: Accounts, count: int, **arguments: object) -> list[Waiter]:
    """Return calls that wait, in order."""
    waiters = [Waiter(30.0) for _ in range(count)]
    for waiter in waiters:
        assert try_with(accounts, waiter, **arguments) is waiter  # type: ignore[arg-type]
        assert not waiter.turn.done()
    return waiters


def woken(waiters: list[Waiter]) -> list[int]:
    """Return the places in line of those that may try again."""
    return [place for place, waiter in enumerate(waiters) if waiter.turn.done()]


def test_hold__others_are_in_the_way__stands_in_line_until_they_settle() -> None:
    """A settlement that leaves room lets the first try, and it alone."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 3)
    settle(accounts, "a", full, cost_tokens_nano=300)
    assert woken(waiters) == [0]


def test_hold__whose_turn_it_is__passes_it_on_while_room_is_left() -> None:
    """One after the other comes in, without anybody else settling."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 3, cost_nano=300)
    settle(accounts, "a", full, cost_tokens_nano=300)
    assert isinstance(try_with(accounts, waiters[0], 300), Hold)
    assert woken(waiters) == [0, 1]
    assert isinstance(try_with(accounts, waiters[1], 300), Hold)
    assert woken(waiters) == [0, 1, 2]


def test_hold__whose_turn_leaves_no_room__wakes_nobody() -> None:
    """The line is only moved by room."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    settle(accounts, "a", full, cost_tokens_nano=300)
    assert isinstance(try_with(accounts, waiters[0], 700), Hold)
    assert woken(waiters) == [0]


def test_settle__that_uses_the_cap_up__wakes_everyone() -> None:
    """Nobody waits for room that will never be."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 3)
    settle(accounts, "a", full, cost_tokens_nano=1_000)
    assert woken(waiters) == [0, 1, 2]
    decision = try_with(accounts, waiters[0])
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable) == ("total_spend", False)


def test_release__of_a_call_that_spent_nothing__lets_the_first_try() -> None:
    """A call that failed leaves room as well."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    accounts.admission.release(full)
    assert woken(waiters) == [0]


def test_queue_at__again_after_a_try_in_vain__keeps_its_place() -> None:
    """Who came first is first, however often it looked in between."""
    accounts = make_accounts(capped(pre_call_estimate=True))
    full, _ = held(accounts, 400, strict=True), held(accounts, 600, strict=True)
    waiters = in_line(accounts, 2, cost_nano=900, strict=True)
    accounts.admission.release(full)
    assert woken(waiters) == [0]
    assert try_with(accounts, waiters[0], 900, strict=True) is waiters[0]  # still too large
    account = waiters[0].account
    assert account is not None
    assert account.waiting == waiters


def test_leave__before_its_turn__is_out_of_the_line() -> None:
    """A cancelled waiter is removed, and nobody is woken for it."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 3)
    accounts.admission.leave(accounts.registry.users["ann"], waiters[0], gives_up=True)
    assert woken(waiters) == []
    accounts.admission.release(full)
    assert woken(waiters) == [1]


@pytest.mark.parametrize(("gives_up", "next_ones"), [(True, [0, 1]), (False, [0])])
def test_leave__at_its_turn__hands_it_on_if_it_gives_up(
    gives_up: bool, next_ones: list[int]
) -> None:
    """A turn that nobody takes is the next one's; who tries again uses it."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    accounts.admission.release(full)
    accounts.admission.leave(accounts.registry.users["ann"], waiters[0], gives_up=gives_up)
    assert woken(waiters) == next_ones


def test_hold__refused_elsewhere_at_its_turn__hands_it_on() -> None:
    """A call that another limit refuses does not keep the turn."""
    limits = (Limit("calls", window="day", cap=2),)
    accounts = make_accounts(capped(limits=limits))
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    settle(accounts, "a", full, cost_tokens_nano=1)
    settle(accounts, "b", cost_tokens_nano=1)
    decision = try_with(accounts, waiters[0])
    assert isinstance(decision, Decision)
    assert decision.limit == "calls:day"
    assert woken(waiters) == [0, 1]


def test_hold__only_its_own_calls_are_in_the_way__is_refused_at_once() -> None:
    """A thread or task that waits for its own call would wait for ever."""
    accounts = make_accounts(capped())
    held(accounts, 1_000, owner="me")
    decision = try_with(accounts, Waiter(30.0), owner="me")
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable) == ("contention", True)
    assert isinstance(try_with(accounts, Waiter(30.0), owner="another"), Waiter)


def test_hold__waits_for_one_model__leaves_others_alone() -> None:
    """Who waits for a model's limit does not keep calls of another model waiting."""
    accounts = make_accounts(capped(10_000, limits=(Limit("calls", model="o3", cap=1),)))
    busy = held(accounts, 1, model="o3")
    (waiter,) = in_line(accounts, 1, model="o3")
    assert isinstance(try_with(accounts, Waiter(30.0), model="gpt-4o"), Hold)
    accounts.admission.release(busy)
    assert waiter.turn.done()


@pytest.mark.parametrize("by", ["set_plan", "assign"])
def test_set_plan_or_assign__while_calls_wait__lets_them_all_look(by: str) -> None:
    """A cap that was raised serves those who wait for it."""
    accounts = make_accounts(capped())
    held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    if by == "set_plan":
        accounts.registry.set_plan("pro", capped(5_000))
    else:
        accounts.registry.set_plan("gold", PlanConfig())
        accounts.registry.assign("ann", "gold", None, None, NOON_US)
    assert woken(waiters) == [0, 1]
    assert isinstance(try_with(accounts, waiters[0]), Hold)


def test_release__on_an_account_that_lost_its_cap__wakes_everyone() -> None:
    """Where nothing is limited any more nobody waits."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    account = waiters[0].account
    assert account is not None
    account.thresholds = None
    accounts.admission.release(full)
    assert woken(waiters) == [0, 1]


def test_hold__at_its_turn_in_another_period__hands_the_old_one_on() -> None:
    """Who goes on in the new period leaves the turn at the old limit to the next."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    waiters = in_line(accounts, 2)
    accounts.admission.release(full)
    later = fixed_hold(accounts, 1, at_us=MONTH.end_us, owner="me")
    assert accounts.admission.hold(later, strict=False, waiter=waiters[0]) is None
    assert woken(waiters) == [0, 1]


def test_hold__that_stands_elsewhere_at_its_turn__hands_the_old_one_on() -> None:
    """The turn was for one limit; where another is in the way, it is the next one's."""
    accounts = make_accounts(
        PlanConfig(
            pre_call_estimate=True,
            max_spend_per_period=1_000 / 10**9,
            limits=(Limit("calls", model="o3", window="day", cap=1),),
        )
    )
    full = held(accounts, 999, strict=True)
    held(accounts, 1, model="o3", strict=True)
    waiters = in_line(accounts, 2, model="o3", strict=True) + in_line(accounts, 1, strict=True)
    accounts.admission.release(full)
    assert woken(waiters) == [0]
    for place in (0, 1):
        assert try_with(accounts, waiters[place], model="o3", strict=True) is waiters[place]
        account = waiters[place].account
        assert account is not None
        assert account.metric == "calls"
        assert woken(waiters) == [*range(place + 2)]
    assert isinstance(try_with(accounts, waiters[2], strict=True), Hold)


def test_user__a_period_later__keeps_accounts_where_calls_wait() -> None:
    """An account is not forgotten under those who stand at it."""
    accounts = make_accounts(capped())
    full = held(accounts, 1_000)
    (waiter,) = in_line(accounts, 1)
    accounts.registry.user("ann", MONTH.end_us)
    accounts.admission.release(full)
    assert waiter.turn.done()
    assert set(all_held(accounts.registry.users["ann"])) == {0}


def test_look_s__waiters_of_one_moment__look_at_many() -> None:
    """A crowd that came together does not wake together, and nobody looks beyond their time."""
    waits = {Waiter(30.0).retry_s for _ in range(64)}
    assert len(waits) == 32
    assert (min(waits), max(waits)) == (1.0, 1.96875)
    assert Waiter(0.5).retry_s <= 0.5


def test_look_s__of_one_that_expects_room_in_a_moment__is_short_once() -> None:
    """What the waiter's own task has left is closed by its loop in a moment, or never."""
    waiter = Waiter(30.0)
    waiter.prepare(retries_soon=True)
    assert waiter.retry_s == 0.05
    waiter.prepare()
    assert waiter.retry_s >= 1.0


def test_left_s__a_waiter_that_waited_enough__is_0() -> None:
    """The time counts from the first try, not from the last."""
    assert Waiter(0.0).left_s == 0.0
    assert 29 < Waiter(30.0).left_s <= 30
