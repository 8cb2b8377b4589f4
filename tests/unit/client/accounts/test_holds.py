"""Open calls: what a set of them holds, how settlements correct it, and which accounts count it."""

from __future__ import annotations

import random
from math import isqrt

import pytest
from tests.accounts import held as held_on
from tests.contract.samples import (
    DAY_US,
    NOON_US,
    TODAY_US,
    day_key,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.unit.client.accounts.calls import COMMON, RATES, new_hold, resolved
from tests.unit.client.accounts.test_forecasts import WEIGHT, make_forecast, taken

from paygent.client.accounts import holds as holds_module
from paygent.client.accounts.account import Account
from paygent.client.accounts.forecasts import UsageForecast, Use
from paygent.client.accounts.holds import Load, counted_by, load_on
from paygent.client.accounts.user_state import Hold, Lane, LaneKey, User
from paygent.core.estimate import Estimate, cost_of, tokens_of
from paygent.core.plan import PlanConfig
from paygent.core.request_size import Size
from paygent.core.usage_stats import OBSERVATIONS_MIN

MODEL = resolved("m", RATES)


def lane_with(
    forecast: UsageForecast, plan: PlanConfig | None = None, *, session_id: str = "s1"
) -> Lane:
    """Return a lane of calls with a forecast."""
    user = User("ann", "pro")
    if plan is not None:
        user.plan = plan
    key = LaneKey(session_id, "openai", "chat", "m", id(MODEL))
    return Lane(1, user, key, MODEL, forecast, COMMON)


def calls_of(forecast: UsageForecast, count: int, max_tokens: int = 0) -> list[Hold]:
    """Return so many calls of 400 bytes."""
    lane = lane_with(forecast)
    return [new_hold(lane, weight=WEIGHT, max_tokens=max_tokens) for _ in range(count)]


def fixed_call(cost_nano: int = 7) -> Hold:
    """Return a call that holds a fixed amount and 30 tokens."""
    return new_hold(lane_with(make_forecast()), Use(Estimate(20, 10), cost_nano))


# -- what a set of calls holds


def test_held__calls_whose_likes_settle__follows_what_those_used() -> None:
    """The holds of open calls shrink to what calls like them turn out to use."""
    forecast = make_forecast()
    calls = calls_of(forecast, 3)
    assert Load("spend", calls).held == 3 * (120 * 1_000 + 4_916 * 4_000)
    for _ in range(OBSERVATIONS_MIN):
        forecast.learn(taken())
    assert Load("spend", calls).held == 3 * 300_000


def test_held__a_first_call_that_uses_more__grows() -> None:
    """A hidden prompt shows in the holds of the others from the first settlement on."""
    forecast = make_forecast()
    calls = calls_of(forecast, 4, 10)
    before = Load("spend", calls).held
    forecast.learn(taken(10, input_tokens=5_000))
    assert Load("spend", calls).held > before + 4 * 4_800 * 1_000


def test_held__calls_that_differ__is_their_mean_and_two_deviations_of_the_sum() -> None:
    """A hundred calls hold far less than a hundred times what a careful one would."""
    chance = random.Random(7)
    forecast = make_forecast(*(taken(max(1, round(chance.gauss(500, 150)))) for _ in range(100)))
    cost_nano = forecast.use(WEIGHT, None).cost_nano
    one, many = (Load("spend", calls_of(forecast, count)).held for count in (1, 100))
    assert 1.4 < one / cost_nano < 1.8
    assert 1.05 < many / (100 * cost_nano) < 1.15


@pytest.mark.parametrize("metric", ["spend", "tokens"])
def test_held__calls_of_many_kinds__is_the_formula_over_all_of_them(metric: str) -> None:
    """Means and variances add over all calls, the drift of each forecast over its own."""
    chance = random.Random(3)
    forecasts = [
        make_forecast(),
        make_forecast(*(taken(each, each) for each in (10, 40, 90))),
        make_forecast(*(taken(each) for each in (500, 700, 300, 900))),
    ]
    lanes = [lane_with(forecast) for forecast in forecasts]
    calls, mean, variance, drift = [fixed_call(5)], 5 if metric == "spend" else 30, 0, 0
    for _ in range(40):
        lane = chance.choice(lanes)
        # One weight for calls of a group: others are counted at their mean weight.
        max_tokens = chance.choice([0, 20, 5_000])
        calls.append(new_hold(lane, weight=WEIGHT, max_tokens=max_tokens))
        expectation = lane.forecast.expectation
        estimate = tokens_of(expectation, WEIGHT, max_tokens or None)
        mean += cost_of(expectation, estimate, RATES) if metric == "spend" else sum(estimate)
        if not max_tokens or max_tokens > expectation.output_tokens:
            is_spend = metric == "spend"
            variance += expectation.variance_nano if is_spend else expectation.variance_tokens
            drift += expectation.drift_nano if is_spend else expectation.drift_tokens
    assert variance > 0
    assert drift > 0
    assert Load(metric, calls).held == mean + 2 * isqrt(variance + drift**2)
    chance.shuffle(calls)
    assert Load(metric, calls).held == mean + 2 * isqrt(variance + drift**2)


@pytest.mark.parametrize(("metric", "amount"), [("spend", 7), ("tokens", 30), ("calls", 1)])
def test_held__a_fixed_hold__is_that_amount_in_each_metric(metric: str, amount: int) -> None:
    """What nothing is expected of holds just what it was given."""
    load = Load(metric, [fixed_call(), fixed_call()])
    assert load.held == 2 * amount
    assert load.with_one(fixed_call()) == 3 * amount


def test_held__no_call__is_nothing() -> None:
    """An account without open calls holds nothing."""
    assert Load("spend", []).held == 0


@pytest.mark.parametrize("max_tokens", [0, 50, 20, 10])
@pytest.mark.parametrize("metric", ["spend", "tokens", "calls"])
def test_with_one__more_call__is_what_is_held_once_it_is_open(metric: str, max_tokens: int) -> None:
    """The gate asks about exactly the hold that is then taken, and changes none by asking."""
    forecast = make_forecast(taken(40), taken(60), taken(50), taken(50))
    calls = calls_of(forecast, 2, 20)
    load = Load(metric, calls)
    before = load.held
    assert before > 0
    for another in (new_hold(calls[0].lane, weight=9, max_tokens=max_tokens), fixed_call()):
        expected = Load(metric, [*calls, another]).held
        assert load.with_one(another) == expected
        assert load.with_one(another) == expected
        assert expected > before
    assert (load.held, load.holds, load._total()) == (before, calls, before)


def test_held__more_bounds_than_are_told_apart__are_rounded_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app with a different `max_tokens` in each call costs no more per call."""
    monkeypatch.setattr(holds_module, "_GROUPS_MAX", 2)
    lane = lane_with(make_forecast())
    calls = [new_hold(lane, max_tokens=bound) for bound in (10, 11, 33, 60, 64)]
    assert Load("spend", calls).held == 4_000 * (10 + 11 + 64 + 64 + 64)
    calls.append(new_hold(lane))  # no bound is no number to round
    assert Load("spend", calls).held == 4_000 * (10 + 11 + 64 + 64 + 64 + 4_916)


def test_held__a_bound_above_the_models__is_the_models() -> None:
    """Calls with bounds that no model reaches are alike."""
    lane = lane_with(make_forecast(model_max_tokens=100))
    calls = [new_hold(lane, max_tokens=bound) for bound in (100, 5_000)]
    assert Load("spend", calls).held == 2 * 400_000


# -- one call


def test_use_now__a_call_of_a_forecast__follows_it_and_is_not_fixed() -> None:
    """What an open call may use is as of the last settlement."""
    forecast = make_forecast()
    (call,) = calls_of(forecast, 1)
    assert (call.use, call.use_now().tokens) == (None, 120 + 4_916)
    for _ in range(OBSERVATIONS_MIN):
        forecast.learn(taken())
    assert call.use_now() == Use(Estimate(100, 50), 300_000)


def test_use_now__a_call_with_a_fixed_use__is_that() -> None:
    """A declared usage does not follow what calls like it used."""
    call = fixed_call()
    assert call.use_now() == call.use == Use(Estimate(20, 10), 7)


def test_load__calls_of_a_strict_plan__hold_the_most_that_they_can_use() -> None:
    """Each holds its worst case, whatever calls like it used."""
    forecast = make_forecast(*[taken()] * 5)
    lane = lane_with(forecast, PlanConfig(pre_call_estimate=True))
    call = new_hold(lane, weight=400, max_tokens=30)
    call.use = lane.worst_use(Size(400), 30)
    assert call.use == Use(Estimate(400, 30), 400 * 1_000 + 30 * 4_000)
    assert Load("spend", [call, call]).held == 2 * call.use.cost_nano


def test_is_open__a_call__is_open_while_it_is_in_the_table_of_its_user() -> None:
    """An empty hold, which may be all that an interruption leaves, is not open."""
    (call,) = calls_of(make_forecast(), 1)
    other = new_hold(call.lane)
    assert (Hold().is_open, call.is_open) == (False, False)
    call.lane.user.open[call.seq] = call
    assert (call.is_open, other.is_open) == (True, False)
    other.seq = call.seq
    assert other.is_open is False


# -- which accounts count it


def test_counted_by__an_account__counts_the_calls_of_its_window_session_and_model() -> None:
    """By when a call began, half-open; a rolling window spans all time."""
    lane, other = lane_with(make_forecast()), lane_with(make_forecast(), session_id="s2")
    moments = (TODAY_US - 1, TODAY_US, NOON_US, TODAY_US + DAY_US - 1, TODAY_US + DAY_US)
    calls = [new_hold(lane, at_us=at_us) for at_us in moments]
    aside = new_hold(other)
    everyone = [*calls, aside]
    assert counted_by(day_key(), everyone) == [*calls[1:4], aside]
    assert counted_by(period_key(), everyone) == everyone
    assert counted_by(rolling_key(), everyone) == everyone
    assert counted_by(session_key("s2"), everyone) == [aside]
    assert counted_by(day_key("tokens", "m"), everyone) == [*calls[1:4], aside]
    assert counted_by(day_key("tokens", "other"), everyone) == []


@pytest.mark.parametrize("model", ["m", "other"])
@pytest.mark.parametrize("session_id", ["s1", "s2"])
def test_counted_by__any_account__agrees_with_the_rule_for_events(
    session_id: str, model: str
) -> None:
    """A call is held where its event will count, if the requested model answers."""
    lane = lane_with(make_forecast(), session_id=session_id)
    for at_us in (TODAY_US - 1, TODAY_US, NOON_US, TODAY_US + DAY_US):
        call = new_hold(lane, at_us=at_us)
        event = make_event("a", session_id=session_id, model="m", model_key="m", at_us=at_us)
        for key in (
            day_key("calls", model), period_key(), session_key("s1"), rolling_key(model=model),
        ):  # fmt: skip
            assert bool(counted_by(key, [call])) is key.counts(event)


def test_load__of_an_account__is_that_of_the_calls_that_it_counts() -> None:
    """An account keeps nothing of calls: what it holds follows from the user's open ones."""
    lane = lane_with(make_forecast())
    today, tomorrow = fixed_call(7), new_hold(lane, Use(Estimate(1, 1), 9), at_us=NOON_US + DAY_US)
    account = Account(day_key(), "spend:day", None)
    load = load_on(account, [today, tomorrow])
    assert (load.holds, load.held) == ([today], 7)
    lane.user.open.update({call.seq: call for call in (today, tomorrow)})
    assert held_on(lane.user, account) == 7


def test_decisive__an_account_of_a_shadow_plan__leaves_out_what_blocked_calls_spent() -> None:
    """Shadow mode decides by what would have been spent."""
    account = Account(period_key(), "total_spend", None)
    account.acknowledged, account.pending = 70, 30
    account.shadow_acknowledged, account.shadow_pending = 20, 10
    assert (account.spent, account.decisive) == (100, 100)
    account.excludes_shadow = True
    assert (account.spent, account.decisive) == (100, 70)
