"""Calls in flight: what a set of them holds, and how settlements of their likes correct it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from paygent.client.accounts import holds as holds_module
from paygent.client.accounts.forecasts import UsageForecast, UsageHistory, Use
from paygent.client.accounts.holds import Hold, HoldSet
from paygent.core.estimate import Estimate
from paygent.core.pricing import Prices, Rates
from paygent.core.request_size import Size
from paygent.core.usage_stats import OBSERVATIONS_MIN, ColdStartPolicy, Observation
from paygent.prices.catalogue import Resolved

RATES = Rates(Prices(input=10**12, output=4 * 10**12), source="plan")  # $1 and $4 per million
RESOLVED = Resolved(RATES, "m", None, 0, 1, False)
SIZE = Size(400)


def taken(output_tokens: int = 50, input_tokens: int = 100) -> Observation:
    """Return a settled call of 400 bytes."""
    cost = 1_000 * input_tokens + 4_000 * output_tokens
    return Observation(400, input_tokens, output_tokens, cost)


def make_flight(*calls: Observation, everyone: UsageHistory | None = None) -> UsageForecast:
    """Return a flight of a user whose calls so far took this."""
    caution = ColdStartPolicy(4096, None, 1_200_000)
    own, others = UsageHistory(), everyone or UsageHistory()
    made = UsageForecast(RESOLVED, own, others, caution, is_free=False)
    for each in calls:
        made.learn(each)
    return made


def in_flight(*uses: Use, metric: str = "spend") -> tuple[HoldSet, list[Hold]]:
    """Return an account's calls in flight, and their holds."""
    account = HoldSet(metric)
    holds = [Hold(use, "m") for use in uses]
    for hold in holds:
        account.add(hold)
    return account, holds


def test_held__calls_whose_likes_settle__follows_what_those_took() -> None:
    """The holds of calls in flight shrink to what calls like them turn out to take."""
    forecast = make_flight()
    account, _ = in_flight(*[forecast.use(SIZE, None)] * 3)
    assert account.held == 3 * (120 * 1_000 + 4_916 * 4_000)
    for _ in range(OBSERVATIONS_MIN):
        forecast.learn(taken())
    assert account.held == 3 * 300_000


def test_held__a_first_call_that_takes_more__grows() -> None:
    """A hidden prompt shows in the holds of the others from the first settlement on."""
    forecast = make_flight()
    account, _ = in_flight(*[forecast.use(SIZE, 10)] * 4)
    before = account.held
    forecast.learn(taken(10, input_tokens=5_000))
    assert account.held > before + 4 * 4_800 * 1_000


def test_held__calls_that_differ__is_their_mean_and_two_deviations_of_the_sum() -> None:
    """A hundred calls hold far less than a hundred times what a careful one would."""
    chance = random.Random(7)
    forecast = make_flight(*(taken(max(1, round(chance.gauss(500, 150)))) for _ in range(100)))
    use = forecast.use(SIZE, None)
    one, _ = in_flight(use)
    many, _ = in_flight(*[use] * 100)
    assert 1.4 < one.held / use.cost_nano < 1.8
    assert 1.05 < many.held / (100 * use.cost_nano) < 1.15


@pytest.mark.parametrize(("metric", "amount"), [("spend", 7), ("tokens", 30), ("calls", 1)])
def test_held__a_fixed_hold__is_that_amount_in_each_metric(metric: str, amount: int) -> None:
    """What nothing is expected of holds just what it was given."""
    account, holds = in_flight(Use(Estimate(20, 10), 7), Use(Estimate(20, 10), 7), metric=metric)
    assert account.held == 2 * amount
    assert account.projected(Use(Estimate(20, 10), 7))[1] == 3 * amount
    account.remove(holds[0])
    assert account.held == amount


@pytest.mark.parametrize("max_tokens", [None, 50, 10])
@pytest.mark.parametrize("metric", ["spend", "tokens", "calls"])
def test_weigh__one_more__is_what_is_held_once_it_is_added(
    metric: str, max_tokens: int | None
) -> None:
    """The gate asks about exactly the hold that is then taken."""
    forecast = make_flight(taken(40), taken(60), taken(50), taken(50))
    account, _ = in_flight(*[forecast.use(SIZE, 20)] * 2, metric=metric)
    use = forecast.use(SIZE, max_tokens)
    assert account.held > 0
    promised = account.projected(use)[1]
    account.add(Hold(use, "m"))
    assert account.held == promised


def test_add__and_remove_in_any_order__leave_exactly_nothing() -> None:
    """Hold and end are the identity of the set, whatever settles in between."""
    chance = random.Random(3)
    flights_ = [make_flight(), make_flight(taken(), taken(80))]
    account = HoldSet("spend")
    holds: list[Hold] = []
    for _ in range(500):
        if holds and chance.random() < 0.5:
            account.remove(holds.pop(chance.randrange(len(holds))))
        else:
            use = chance.choice(flights_).use(
                Size(chance.randint(0, 999)), chance.choice([None, 9])
            )
            holds.append(Hold(use, "m"))
            account.add(holds[-1])
        if chance.random() < 0.3:
            chance.choice(flights_).learn(taken(chance.randint(1, 200)))
        fresh, _ = in_flight(*(hold.use for hold in holds))
        assert account.held == fresh.held
    for hold in holds:
        account.remove(hold)
    assert (account.held, account.calls) == (0, {})


def test_add__twice_and_remove_twice__count_once() -> None:
    """Whoever ends a call ends it once."""
    account, holds = in_flight(Use(Estimate(1, 0), 7))
    account.add(holds[0])
    assert (account.held, holds[0].accounts) == (7, [account])
    account.remove(holds[0])
    account.remove(holds[0])
    assert account.held == 0


def test_remove__the_last_call_after_its_likes_have_settled__leaves_nothing() -> None:
    """Nobody asks for the hold between the settlement and the end."""
    forecast = make_flight(taken())
    account, holds = in_flight(*[forecast.use(SIZE, None)] * 2)
    forecast.learn(taken(90))
    account.remove(holds[0])
    forecast.learn(taken(10))
    account.remove(holds[1])
    assert account.held == 0


@pytest.mark.parametrize("method", ["_change"])
@pytest.mark.parametrize("step", ["add", "remove", "held"])
def test_held__after_an_interruption_in_the_middle__is_right_again(
    monkeypatch: pytest.MonkeyPatch, step: str, method: str
) -> None:
    """Ctrl-C may come between any two lines; what is in flight is then counted anew."""
    forecast = make_flight(taken(), taken(), taken())
    use = forecast.use(SIZE, None)
    account, holds = in_flight(use, use)
    extra = Hold(use, "m")
    if step == "held":
        forecast.learn(taken(500))

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HoldSet, method, interrupted)
        if step == "add":
            account.add(extra)
        elif step == "remove":
            account.remove(holds[0])
        else:
            _ = account.held
    assert account.held == in_flight(*(hold.use for hold in account.calls))[0].held
    for hold in (*holds, extra):
        account.remove(hold)
    assert account.held == 0


def test_weigh__after_the_last_call_was_removed_but_for_its_sums__is_the_next_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an interruption left behind is not held against anybody."""
    forecast = make_flight(taken(), taken(), taken())
    use = forecast.use(SIZE, None)
    account, holds = in_flight(use)

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HoldSet, "_change", interrupted)
        account.remove(holds[0])
    assert account.projected(use) == (0, use.cost_nano)


def test_add__an_account_without_a_cap__weighs_when_somebody_asks() -> None:
    """Nobody needs its sums, until a plan gives it a cap."""
    forecast = make_flight(taken(), taken(), taken())
    account = HoldSet("spend")
    first, second = Hold(forecast.use(SIZE, None), "m"), Hold(forecast.use(SIZE, None), "m")
    account.add(first, weighs=False)
    account.add(second, weighs=False)
    account.remove(first)
    assert account.held == 300_000


def test_add__more_bounds_than_are_told_apart__are_rounded_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app that asks for a different `max_tokens` each time costs no more per call."""
    monkeypatch.setattr(holds_module, "_GROUPS_MAX", 2)
    forecast = make_flight()
    account, holds = in_flight(*(forecast.use(Size(0), bound) for bound in (10, 11, 33, 60, 64, 0)))
    assert account.held == 4_000 * (10 + 11 + 64 + 64 + 64 + 1)
    for hold in holds:
        account.remove(hold)
    assert account.held == 0


def test_use__a_bound_above_the_models__is_the_models() -> None:
    """No model gives more than it can."""
    made = UsageForecast(
        RESOLVED,
        UsageHistory(),
        UsageHistory(),
        ColdStartPolicy(4096, 100, 1_200_000),
        is_free=False,
    )
    assert made.use(SIZE, 5_000).estimate.output_tokens == 100


def test_learn__of_everyone__takes_the_first_calls_of_each_user_and_then_every_eighth() -> None:
    """A power user's thousand calls do not drown what others' first calls take."""
    everyone = UsageHistory()
    make_flight(*[taken()] * 40, everyone=everyone)
    assert everyone.stats.calls == 8 + 4
    make_flight(*[taken()] * 3, everyone=everyone)
    assert everyone.stats.calls == 15


def test_expectation__rests_on_many_calls__is_renewed_every_eighth() -> None:
    """A mean over many calls moves little with one more, and re-estimating costs time."""
    forecast = make_flight(*[taken()] * 32)
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
        make_flight(*[taken(10)] * 3, everyone=everyone)
        forecast = make_flight(taken(10), taken(10), everyone=everyone)
        assert forecast.expectation.output_tokens == 12
        for _ in range(unread):
            forecast.learn(taken(900))
        assert forecast.expectation.output_tokens > 12


def test_learn__calls_alike_of_a_user_who_differs_from_everyone__have_no_spread() -> None:
    """What others take says nothing about how much this user's calls differ."""
    everyone = UsageHistory()
    make_flight(*[taken(10)] * 5, everyone=everyone)
    forecast = make_flight(everyone=everyone)
    for _ in range(5):
        forecast.learn(taken(900), forecast.use(SIZE, None))
    assert forecast.own.stats.spread_tokens == 0
    assert forecast.expectation.variance_nano == 0


def test_expectation__from_everyones_to_the_users_own__is_always_renewed() -> None:
    """The two are told apart, also where they have seen equally many calls."""
    everyone = UsageHistory()
    make_flight(*[taken(10)] * 5, everyone=everyone)
    forecast = make_flight(taken(900), everyone=everyone)
    seen = {forecast.expectation.output_tokens}
    for _ in range(6):
        forecast.learn(taken(900))
        seen.add(forecast.expectation.output_tokens)
    assert seen == {1_080, 900}
