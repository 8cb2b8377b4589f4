"""Forecasts: what calls are expected to use, as calls like them settle."""

from __future__ import annotations

from tests.unit.client.accounts.calls import RATES, resolved

from paygent.client.accounts.forecasts import UsageForecast, UsageHistory
from paygent.core.estimate import Estimate
from paygent.core.usage_stats import ColdStartPolicy, Observation

WEIGHT = 400


def taken(output_tokens: int = 50, input_tokens: int = 100) -> Observation:
    """Return a settled call of 400 bytes."""
    cost = 1_000 * input_tokens + 4_000 * output_tokens
    return Observation(WEIGHT, input_tokens, output_tokens, cost)


def make_forecast(
    *calls: Observation,
    everyone: UsageHistory | None = None,
    model_max_tokens: int | None = None,
    is_free: bool = False,
) -> UsageForecast:
    """Return a forecast for a user whose calls so far used this."""
    cold_start = ColdStartPolicy(4096, model_max_tokens, 1_200_000)
    own, others = UsageHistory(), everyone or UsageHistory()
    forecast = UsageForecast(resolved("m", RATES), own, others, cold_start, is_free=is_free)
    for each in calls:
        forecast.learn(each)
    return forecast


def test_use__a_call__is_what_is_expected_of_it_now() -> None:
    """The tokens, their cost, and whether limits in dollars apply."""
    use = make_forecast().use(WEIGHT, 100)
    assert (use.estimate, use.cost_nano, use.is_free) == (Estimate(120, 100), 520_000, False)
    assert use.tokens == 220
    assert make_forecast(*[taken()] * 3).use(WEIGHT, None).estimate == Estimate(100, 50)
    assert make_forecast(is_free=True).use(WEIGHT, 100).is_free is True


def test_use__a_bound_above_the_models__is_the_models() -> None:
    """No model gives more than it can."""
    forecast = make_forecast(model_max_tokens=100)
    assert forecast.use(WEIGHT, 5_000).estimate.output_tokens == 100
    assert [forecast.capped(given) for given in (0, 99, 100, 101)] == [0, 99, 100, 100]
    assert make_forecast().capped(5_000) == 5_000


def test_is_cold__until_a_call_of_the_user_has_settled__is_true() -> None:
    """What others used says nothing certain about this user's calls."""
    everyone = UsageHistory()
    make_forecast(*[taken()] * 5, everyone=everyone)
    forecast = make_forecast(everyone=everyone)
    assert forecast.is_cold is True
    forecast.learn(taken())
    assert forecast.is_cold is False


def test_learn__of_everyone__takes_the_first_calls_of_each_user_and_then_every_eighth() -> None:
    """A power user's thousand calls do not drown what others' first calls take."""
    everyone = UsageHistory()
    make_forecast(*[taken()] * 40, everyone=everyone)
    assert everyone.stats.calls == 8 + 4
    make_forecast(*[taken()] * 3, everyone=everyone)
    assert everyone.stats.calls == 15


def test_expectation__rests_on_many_calls__is_renewed_every_eighth() -> None:
    """A mean over many calls moves little with one more, and re-estimating costs time."""
    forecast = make_forecast(*[taken()] * 32)
    expectation = forecast.expectation
    for _ in range(7):
        forecast.learn(taken(90))
        assert forecast.expectation is expectation
    forecast.learn(taken(90))
    assert forecast.expectation.output_tokens > expectation.output_tokens


def test_expectation__read_seldom__is_never_taken_for_the_one_of_before() -> None:
    """However many calls settle between two looks, the look after them sees them."""
    for unread in range(1, 12):
        everyone = UsageHistory()
        make_forecast(*[taken(10)] * 3, everyone=everyone)
        forecast = make_forecast(taken(10), taken(10), everyone=everyone)
        assert forecast.expectation.output_tokens == 12
        for _ in range(unread):
            forecast.learn(taken(900))
        assert forecast.expectation.output_tokens > 12


def test_learn__calls_alike_of_a_user_who_differs_from_everyone__have_no_spread() -> None:
    """What others take says nothing about how much this user's calls differ."""
    everyone = UsageHistory()
    make_forecast(*[taken(10)] * 5, everyone=everyone)
    forecast = make_forecast(everyone=everyone)
    for _ in range(5):
        forecast.learn(taken(900))
    assert forecast.own.stats.spread_tokens == 0
    assert forecast.expectation.variance_nano == 0


def test_expectation__from_everyones_to_the_users_own__is_always_renewed() -> None:
    """The two are told apart, also where they have seen equally many calls."""
    everyone = UsageHistory()
    make_forecast(*[taken(10)] * 5, everyone=everyone)
    forecast = make_forecast(taken(900), everyone=everyone)
    seen = {forecast.expectation.output_tokens}
    for _ in range(6):
        forecast.learn(taken(900))
        seen.add(forecast.expectation.output_tokens)
    assert seen == {1_080, 900}
