"""What stands in a call's way beside figures: unknown sizes, free models, new limits."""

from __future__ import annotations

import pytest
from tests.contract.samples import NOON_US, make_event
from tests.unit.client.accounts.test_registry import capped, held, make_accounts, settle, usd

from paygent.client.accounts.holds import Hold
from paygent.client.accounts.process_accounts import Accounts
from paygent.core.gate import Decision
from paygent.core.limit import Limit
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.request_size import Size
from paygent.core.usage_stats import Observation
from paygent.prices.catalogue import Catalogue

CATALOGUE = Catalogue()
RATES = {"m": ModelCostRate.per_million(1, 4), "free": ModelCostRate(0, 0)}


def try_call(
    accounts: Accounts, model: str = "m", *, max_tokens: int | None = 100, owner: object = None
) -> Hold | Decision:
    """Ask for the hold of a call without text, of which its likes tell what it may use."""
    user = accounts.registry.user("ann", NOON_US)
    resolved = CATALOGUE.resolve("", model, NOON_US, user.plan)
    use = accounts.admission.forecast(user, "chat", resolved).use(Size(0), max_tokens)
    hold = Hold(use, resolved.model_key, "s1", NOON_US, owner or object())
    decision = accounts.admission.hold(user, hold, strict=user.plan.pre_call_estimate)
    assert decision is None or isinstance(decision, Decision)
    return hold if decision is None else decision


def end(accounts: Accounts, event_id: str, hold: Hold, output_tokens: int = 100) -> None:
    """Settle a call with what it took."""
    cost = output_tokens * 4_000
    taken = Observation(0, 0, output_tokens, cost)
    event = make_event(event_id, model="m", model_key="m", cost_tokens_nano=cost)
    user = accounts.registry.user("ann", NOON_US)
    assert hold.use.forecast is not None
    accounts.admission.settle(user, hold, event, (hold.use.forecast, taken))


def test_hold__of_unknown_size_that_fits__goes_however_many() -> None:
    """Caution costs nothing where there is room."""
    accounts = make_accounts(capped(10**9, cost_rates=RATES))
    assert all(isinstance(try_call(accounts), Hold) for _ in range(20))


def test_hold__of_unknown_size_that_does_not_fit__goes_two_at_a_time() -> None:
    """Before the first has settled nobody knows what one more would take."""
    accounts = make_accounts(capped(2 * 400_000 + 100, cost_rates=RATES))
    assert isinstance(try_call(accounts), Hold)
    assert isinstance(try_call(accounts), Hold)
    decision = try_call(accounts)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.limit, decision.retryable) == (
        "contention",
        "total_spend",
        True,
    )


def test_hold__once_its_likes_are_known__straddles_with_others_in_flight() -> None:
    """The caution ends with the first settlement."""
    accounts = make_accounts(capped(3 * 400_000 + 100, cost_rates=RATES))
    first = try_call(accounts)
    assert isinstance(first, Hold)
    assert isinstance(try_call(accounts), Hold)
    end(accounts, "a", first)
    assert isinstance(try_call(accounts), Hold)  # fits
    assert isinstance(try_call(accounts), Hold)  # straddles
    assert isinstance(try_call(accounts), Decision)


def test_hold__unknown_in_one_limit_and_used_up_in_another__is_refused_for_good() -> None:
    """Nobody waits at one limit while another one has refused for good."""
    limits = (Limit("calls", window="day", cap=2),)
    accounts = make_accounts(capped(2 * 400_000 + 100, cost_rates=RATES, limits=limits))
    assert isinstance(try_call(accounts), Hold)
    assert isinstance(try_call(accounts), Hold)
    for event_id in ("a", "b"):
        settle(accounts, event_id, cost_tokens_nano=1)
    decision = try_call(accounts)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.retryable) == ("calls:day", False)


@pytest.mark.parametrize("strict", [False, True])
def test_hold__a_free_model_with_the_dollars_used_up__goes_on(strict: bool) -> None:
    """A local model costs nothing, so no limit in dollars is in its way."""
    plan = capped(1_000, cost_rates=RATES, pre_call_estimate=strict)
    accounts = make_accounts(plan)
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert isinstance(try_call(accounts, "free"), Hold)
    assert isinstance(try_call(accounts, "m"), Decision)


@pytest.mark.parametrize(
    "plan",
    [
        PlanConfig(max_spend_per_period=0, cost_rates=RATES),
        capped(1_000, cost_rates=RATES, tool_costs={"search": 0.01}),
        capped(10**9, cost_rates=RATES, limits=(Limit("calls", cap=0),)),
    ],
)
def test_hold__a_free_model__is_refused_by_a_cap_of_0_for_tools_and_by_other_limits(
    plan: PlanConfig,
) -> None:
    """A cap of 0 is meant to block; tools cost; calls and tokens are counted, free or not."""
    accounts = make_accounts(plan)
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert isinstance(try_call(accounts, "free"), Decision)


def test_hold__of_an_unpriced_model_with_the_dollars_used_up__is_refused() -> None:
    """What has no price is not free: it must not slip by the limits."""
    accounts = make_accounts(capped(1_000))
    settle(accounts, "a", cost_tokens_nano=5_000)
    assert isinstance(try_call(accounts, "nobody-knows-this-model"), Decision)


def test_set_plan__a_limit_added_with_calls_in_flight__counts_them_from_the_start() -> None:
    """What is in flight when a limit comes is held on it as well, and released from it."""
    accounts = make_accounts(capped(10**9))
    early = held(accounts, 400, model="o3")
    other = held(accounts, 400, model="gpt-4o")
    accounts.registry.set_plan(
        "pro", capped(10**9, limits=(Limit("spend", model="o3", cap=usd(1_000)),))
    )
    user = accounts.registry.user("ann", NOON_US)
    late = held(accounts, 100, model="o3")
    (account,) = [each for key, each in user.accounts.items() if key.limit.model == "o3"]
    assert account.held == 500
    for hold in (early, other, late):
        accounts.admission.release(accounts.registry.users["ann"], hold)
    assert account.held == 0
