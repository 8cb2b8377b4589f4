"""Lanes: what the calls of one user, session, operation and model have in common."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.samples import MONTH, NOON_US
from tests.unit.client.accounts.calls import (
    COMMON,
    RATES,
    capped,
    lane_of,
    make_accounts,
    make_user,
    new_hold,
    resolved,
)

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import NO_ALLOTMENT, Lane
from paygent.core.estimate import Estimate
from paygent.core.period import Subscription
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Prices, Rates, Tier
from paygent.core.records import Answerer, LaneFacts
from paygent.core.request_size import Size
from paygent.core.usage_stats import Observation

MODEL = resolved("m", RATES)


def make_lane(accounts: Accounts | None = None, **arguments: Any) -> Lane:
    """Return a lane of `ann`."""
    accounts = accounts or make_accounts(capped(10**9))
    return lane_of(accounts, make_user(accounts), MODEL, **arguments)


def strict_lane(provider: str = "openai", **fields: Any) -> Lane:
    """Return a lane of a strict plan, of a model with these fields."""
    accounts = make_accounts(capped(10**9, pre_call_estimate=True, pre_call_buffer_tokens=300))
    rates = fields.pop("rates", RATES)
    return lane_of(accounts, make_user(accounts), resolved("m", rates, **fields), provider=provider)


def test_lane__made_for_a_call__has_what_its_records_leave_out() -> None:
    """The facts are the user's and the model's, as of the time at which the lane was made."""
    lane = make_lane(session_id="s9")
    forecast = lane.forecast
    assert lane.facts == LaneFacts(
        COMMON,
        "ann",
        "s9",
        "openai",
        "pro",
        MONTH.start_us,
        forecast.expectation,
        (Answerer("m", "m", RATES),),
    )
    assert (lane.allotment, lane.most, lane.until_us) == (NO_ALLOTMENT, 0, 0)
    assert (lane.plan, lane.period) == (lane.user.plan, lane.user.period)


def test_facts__the_forecast_learns_meanwhile__stay_as_they_were_written() -> None:
    """Begin records without an end are booked by the facts of their lane record."""
    lane = make_lane()
    before = lane.facts
    lane.forecast.learn(Observation(5, 1_000, 500, 3_000_000))
    lane.reckon()
    assert lane.facts is before


@pytest.mark.parametrize(
    "change", ["set_plan", "assign", "period", "session", "close", "forget", "fork", "replaced"]
)
def test_is_current__its_premises_change__is_false_for_good(change: str) -> None:
    """A lane that was looked up before a change is not taken after it."""
    accounts = make_accounts(capped(10**9))
    lane = make_lane(accounts)
    user = lane.user
    assert lane.is_current()
    if change == "set_plan":
        accounts.registry.set_plan("pro", capped(10**9))
    elif change == "assign":
        accounts.registry.assign("ann", "pro", None, None, NOON_US)
    elif change == "period":
        accounts.registry.user("ann", MONTH.end_us)
    elif change == "session":
        accounts.sessions.session_for_call(user, None, NOON_US)
    elif change == "close":
        accounts.sessions.close(user, NOON_US)
    elif change == "forget":
        accounts.registry.forget(user)
    elif change == "fork":
        accounts.renew_after_fork()
    else:
        user.lanes[lane.key] = Lane(9, user, lane.key, MODEL, lane.forecast, COMMON)
    accounts.registry.user("ann", NOON_US)
    assert not lane.is_current()


@pytest.mark.parametrize("name", ["plan", "plan_name", "period"])
def test_is_current__one_fact_of_the_user_differs__is_false(name: str) -> None:
    """Another thread may be between two steps of a change."""
    lane = make_lane()
    subscription = Subscription(NOON_US, NOON_US + 1)
    others = {"plan": PlanConfig(), "plan_name": "gold", "period": tuple(subscription)}
    setattr(lane.user, name, others[name])
    assert not lane.is_current()


# -- the bound of a call


def test_reckon__nothing_was_learned__changes_nothing() -> None:
    """The bound is computed once for each expectation."""
    lane = make_lane()
    bound = lane.bound
    assert lane.reckon() is False
    assert lane.bound is bound


def test_reckon__calls_that_used_more__has_grown_and_less_has_not() -> None:
    """Only a bound that grew makes open calls larger than was counted on."""
    lane = make_lane()
    lane.forecast.learn(Observation(5, 1_000, 500, 3_000_000))
    assert lane.reckon() is True
    assert lane.reckon() is False
    for _ in range(3):
        lane.forecast.learn(Observation(5, 1_000, 500, 3_000_000))
    lane.reckon()
    grown = lane.bound
    for _ in range(40):
        lane.forecast.learn(Observation(5, 1_000, 500, 3_000_000))
    assert lane.reckon() is False  # certain by now: not more than before
    assert lane.expectation is lane.forecast.expectation
    assert all(new <= old for new, old in zip(lane.bound, grown, strict=True))


# -- what a call may use


def test_worst_use__a_call_of_text__is_the_most_that_it_can_use() -> None:
    """One token for each byte, and the bound on output: its own, the model's or the plan's."""
    lane = strict_lane(max_output_tokens=1_000)
    assert lane.worst_use(Size(400), 100).estimate == Estimate(400, 100)
    assert lane.worst_use(Size(400), None).estimate == Estimate(400, 1_000)
    assert lane.worst_use(Size(400), 100).cost_nano == 400 * 1_000 + 100 * 4_000
    assert strict_lane().worst_use(Size(400), None).estimate == Estimate(400, 300)


def test_worst_use__the_application_counted_its_input__is_that_and_what_no_request_shows() -> None:
    """Hidden content was observed with calls like it, and comes on top."""
    lane = strict_lane()
    assert lane.worst_use(Size(400), 100, 50).estimate == Estimate(50, 100)
    for _ in range(3):
        lane.forecast.learn(Observation(400, 700, 10, 740_000))
    assert lane.forecast.expectation.input_extra == 300
    assert lane.worst_use(Size(400), 100, 50).estimate == Estimate(350, 100)
    assert lane.worst_use(Size(400, 2), 100).estimate == Estimate(400 + 3_000 + 300, 100)


@pytest.mark.parametrize(
    ("provider", "caches", "input_nano"),
    [
        ("openai", False, 2_000),  # writes caches without a request
        ("anthropic", False, 1_000),
        ("anthropic", True, 2_000),
    ],
)
def test_worst_use__input_that_may_be_written_to_a_cache__costs_as_much(
    provider: str, caches: bool, input_nano: int
) -> None:
    """Only where the provider may write one."""
    prices = Prices(input=10**12, cache_write=2 * 10**12, cache_write_long=2 * 10**12)
    lane = strict_lane(provider, rates=Rates(prices, source="plan"))
    assert lane.worst_use(Size(10, 0, caches), 0).cost_nano == 10 * input_nano


def test_worst_use__calls_like_it_cost_more_than_their_tokens__is_their_ratio() -> None:
    """Tools, or another model, are in what calls like it cost."""
    lane = strict_lane()
    for _ in range(3):
        lane.forecast.learn(Observation(100, 100, 10, 2 * 140_000))
    assert lane.worst_use(Size(100), 10).cost_nano == 2 * 140_000


# -- models that answer


def test_with_answerer__a_model_that_has_answered__is_known_by_its_name_in_the_answer() -> None:
    """The requested model is the first; one that answers is found by number, and found again."""
    lane = make_lane()
    other = Answerer("m-2024", "m", RATES)
    learned = lane.with_answerer(7, other, NOON_US + 5)
    assert (learned.number, learned.answerers, lane.answerers) == (7, {"m-2024": 1}, {})
    assert learned.facts.answerers == (*lane.facts.answerers, other)
    assert learned.valid_until_us == NOON_US + 5
    assert learned.facts._replace(answerers=()) == lane.facts._replace(answerers=())
    requested = lane.facts.answerers[0]
    third = learned.with_answerer(8, requested, NOON_US + 3)
    assert third.answerers == {"m-2024": 1, "m": 0}
    assert third.facts.answerers == learned.facts.answerers
    assert third.valid_until_us == NOON_US + 3
    assert third.with_answerer(9, requested, NOON_US + 9).valid_until_us == NOON_US + 3


def test_with_answerer__prices_of_several_models__the_dearest_of_each_component_count() -> None:
    """What an ended call cost at most follows from its tokens, whichever model answered."""
    tier = Tier(100, Prices(input=7, cached_input=1, cache_write=9, output=2, reasoning=11))
    dear = Rates(Prices(input=8, output=3), (tier,), "dear")
    lane = make_lane().with_answerer(2, Answerer("a", "a", Rates(Prices(input=4, output=6))), 1)
    assert lane.dearest == (4, 6)
    assert lane.with_answerer(3, Answerer("b", "b", dear), 1).dearest == (9, 11)


def test_with_answerer__an_allotment_of_the_lane_before__is_not_its_own() -> None:
    """The next call looks at the accounts once."""
    accounts = make_accounts(capped(10**9))
    lane = make_lane(accounts)
    lane.forecast.learn(Observation(0, 1, 10, 41_000))
    assert accounts.admission.hold(new_hold(lane, max_tokens=10), strict=False) is None
    assert lane.allotment is lane.user.allotment
    learned = lane.with_answerer(7, Answerer("b", "b", RATES), MODEL.valid_until_us)
    assert (learned.allotment, learned.most, learned.until_us) == (NO_ALLOTMENT, 0, 0)
