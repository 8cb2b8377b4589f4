"""Estimates: what a request measures, what it is expected to use, and the most it can use."""

from __future__ import annotations

import statistics

import pytest

from paygent.core.estimate import (
    MILLIONTHS,
    CallGroup,
    Estimate,
    HoldBound,
    HoldMoments,
    bound,
    cost_of,
    expected_bound,
    held_by,
    hold_of,
    moments_of,
    output_that_fits,
    tokens_of,
)
from paygent.core.pricing import ONE_NANO, Prices, Rates, Tier
from paygent.core.request_size import Size
from paygent.core.usage_stats import ColdStartPolicy, Observation, UsageStats, expect, observe

RATES = Rates(Prices(input=10**12, output=4 * 10**12), source="plan")  # $1 and $4 per million
CAUTION = ColdStartPolicy(buffer_tokens=4096, model_max_tokens=None, safety_ppm=1_200_000)


def seen(*calls: Observation) -> UsageStats:
    """Return what these calls, in order, leave to be expected."""
    stats = UsageStats()
    for call in calls:
        stats = observe(stats, call, RATES)
    return stats


def test_observe__a_settled_call__is_added() -> None:
    """Sums grow by what the call took, and by what its tokens cost at the plain prices."""
    assert observe(UsageStats(), Observation(100, 7, 3, 25_000), RATES) == UsageStats(
        1, 100, 7, 3, 25_000, 7_000 + 12_000, 0, 0
    )


def test_observe__a_known_plain_cost__is_not_computed_again() -> None:
    """A plain cost that the caller has computed counts as given."""
    sums = observe(UsageStats(), Observation(100, 7, 3, 25_000, None, 19_001), RATES)
    assert sums == UsageStats(1, 100, 7, 3, 25_000, 19_001, 0, 0)


def test_observe__calls_that_differ__have_a_running_variance() -> None:
    """What the calls took beside their running mean sums up to the variance of all of them."""
    outputs = [100, 140, 90, 130, 120, 80, 150, 110]
    stats = seen(*(Observation(40, 10, each, 10_000 + 4_000 * each) for each in outputs))
    variance = statistics.variance(outputs)
    assert stats.spread_tokens / (len(outputs) - 1) == pytest.approx(variance, rel=0.02)
    assert stats.spread_nano / (len(outputs) - 1) == pytest.approx(variance * 4_000**2, rel=0.02)


def test_observe__two_hundred_calls__are_halved() -> None:
    """At 200 calls the sums are halved, so that the mean follows a change."""
    before = UsageStats(200, 400, 100, 50, 300_000, 300_000, 1_000, 2_000)
    after = observe(before, Observation(2, 1, 1, 5_000), RATES)
    assert after[:4] == (101, 202, 51, 26)
    assert after.spread_tokens < 600


ALIKE = Observation(300, 70, 34, 206_000)


@pytest.mark.parametrize(
    ("weight", "calls", "max_tokens", "model_max_tokens", "estimate"),
    [
        # Not yet observed: a quarter token a byte and the buffer, both times 1.2, rounded up.
        (400, 0, None, None, Estimate(120, 4916)),
        (1, 0, None, None, Estimate(1, 4916)),
        (0, 0, None, None, Estimate(0, 4916)),
        # The request's bound is no estimate and is not multiplied.
        (400, 0, 100, None, Estimate(120, 100)),
        (400, 0, 0, None, Estimate(120, 0)),
        # The model's maximum bounds the buffer, after the factor too.
        (400, 0, None, 1000, Estimate(120, 1000)),
        (400, 0, None, 4500, Estimate(120, 4500)),
        # From the first on the input is known, times 1.2; the output is not believed yet.
        (300, 1, None, None, Estimate(84, 4916)),
        (300, 2, 100, None, Estimate(84, 100)),
        # Three are: the mean of each, rounded up, never above the request's bound.
        (300, 3, None, None, Estimate(70, 34)),
        (301, 3, 500, None, Estimate(71, 34)),
        (300, 3, 20, None, Estimate(70, 20)),
    ],
)
def test_expect__a_request__is_the_mean_or_the_buffer(
    weight: int,
    calls: int,
    max_tokens: int | None,
    model_max_tokens: int | None,
    estimate: Estimate,
) -> None:
    """Until three calls were observed the buffer and the factor hold, then the mean does."""
    own = seen(*[ALIKE] * calls)
    caution = CAUTION._replace(model_max_tokens=model_max_tokens)
    assert tokens_of(expect(own, own, caution), weight, max_tokens) == estimate


def test_expect__a_route_without_output__holds_input_only() -> None:
    """An embedding holds no output, observed or not."""
    caution = CAUTION._replace(generates=False)
    embedded = Observation(300, 70, 0, 70_000)
    for own in (UsageStats(), seen(embedded), seen(*[embedded] * 3)):
        assert tokens_of(expect(own, own, caution), 300, None).output_tokens == 0


@pytest.mark.parametrize("calls", [1, 2, 3, 50])
def test_expect__five_characters_billed_as_a_thousand_tokens__are_held_as_such(calls: int) -> None:
    """Tokens that no text of the request can be are expected of every call, not of every byte."""
    own = seen(*[Observation(5, 1000, 50, 1_200_000)] * calls)
    expectation = expect(own, own, CAUTION)
    assert tokens_of(expectation, 5, 50).input_tokens >= 1000
    assert tokens_of(expectation, 5_000, 50).input_tokens <= 2 * (1_000 + 5_000)


def test_expect__a_request_without_text__is_expected_as_those_before() -> None:
    """Calls of which nothing can be measured have the mean of what they took."""
    own = seen(*[Observation(0, 1000, 50, 1_200_000)] * 3)
    assert tokens_of(expect(own, own, CAUTION), 0, None) == Estimate(1000, 50)


def test_expect__few_calls_of_the_user__takes_the_larger_of_theirs_and_everyones() -> None:
    """A heavy user is not held like the light ones, from the first call on, nor the other way."""
    everyone = seen(*[Observation(400, 100, 100, 500_000)] * 5)
    heavy = tokens_of(
        expect(seen(Observation(400, 500, 900, 4_100_000)), everyone, CAUTION), 400, None
    )
    light = tokens_of(expect(seen(Observation(400, 50, 10, 90_000)), everyone, CAUTION), 400, None)
    nobody = tokens_of(expect(UsageStats(), everyone, CAUTION), 400, None)
    assert heavy == Estimate(600, 1080)  # all of it times 1.2
    assert light == nobody == Estimate(100, 100)


def test_expect__three_calls_of_the_user__count_alone() -> None:
    """Once a user's own calls are known, everyone's are not asked."""
    everyone = seen(*[Observation(400, 100, 100, 500_000)] * 50)
    own = seen(*[Observation(400, 200, 20, 280_000)] * 3)
    assert tokens_of(expect(own, everyone, CAUTION), 400, None) == Estimate(200, 20)


@pytest.mark.parametrize(
    ("cost_nano", "expected_nano"),
    [
        (206_000, 206_000),  # as listed
        (103_000, 103_000),  # half of it, since most of the input was cached
        (20_206_000, 20_206_000),  # tools on top of it
    ],
)
def test_cost_of__calls_that_cost_other_than_their_tokens__is_what_they_cost(
    cost_nano: int, expected_nano: int
) -> None:
    """Caches, fees and tools are in what is held, since they were in what was paid."""
    own = seen(*[ALIKE._replace(cost_nano=cost_nano)] * 3)
    expectation = expect(own, own, CAUTION)
    assert cost_of(expectation, tokens_of(expectation, 300, None), RATES) == expected_nano


def test_cost_of__a_free_model_with_tools__is_what_the_tools_cost() -> None:
    """Where tokens cost nothing, what calls cost beside them is expected of each."""
    free = Rates(Prices(), source="plan")
    own = UsageStats()
    for _ in range(3):
        own = observe(own, Observation(300, 70, 34, 40_000), free)
    expectation = expect(own, own, CAUTION)
    assert cost_of(expectation, Estimate(70, 34), free) == 40_000


def test_expect__a_user_who_pays_more__is_held_at_the_dearer_ratio() -> None:
    """With one call of the user's own, the larger ratio of cost to tokens counts."""
    everyone = seen(*[ALIKE] * 5)
    own = seen(ALIKE._replace(cost_nano=412_000))
    expectation = expect(own, everyone, CAUTION)
    assert cost_of(expectation, Estimate(70, 34), RATES) == 412_000


def test_load_of__calls_alike__have_no_spread() -> None:
    """Equal calls weigh exactly what they take, so that a set of them holds its exact sum."""
    own = seen(*[ALIKE] * 5)
    expectation = expect(own, own, CAUTION)
    assert moments_of(expectation, "spend", 300, None, RATES) == HoldMoments(206_000)
    assert moments_of(expectation, "tokens", 300, None, RATES) == HoldMoments(104)
    assert moments_of(expectation, "calls", 300, None, RATES) == HoldMoments(1)


def test_load_of__calls_that_differ__weigh_their_spread_unless_they_stop_before() -> None:
    """A call whose own bound is below what is expected takes just that, and has no spread."""
    own = seen(*(Observation(40, 10, each, 10_000 + 4_000 * each) for each in (80, 100, 120, 100)))
    expectation = expect(own, own, CAUTION)
    free = moments_of(expectation, "tokens", 40, None, RATES)
    assert free == HoldMoments(110, expectation.variance_tokens, expectation.drift_tokens)
    assert min(free) > 0
    spend = moments_of(expectation, "spend", 40, None, RATES)
    assert spend[1:] == (expectation.variance_nano, expectation.drift_nano)
    assert min(spend) > 0
    assert moments_of(expectation, "tokens", 40, 20, RATES) == HoldMoments(30)


def test_held_by__a_set_of_calls__is_its_mean_and_two_deviations() -> None:
    """Errors of single calls cancel, the error of the mean that they share does not."""
    assert held_by(1_000, 0, 0) == 1_000
    assert held_by(1_000, 900, 0) == 1_060
    assert held_by(1_000, 900, 40) == 1_100


@pytest.mark.parametrize(
    ("max_tokens", "model_max_tokens", "generates", "estimate"),
    [
        (50, 8192, True, Estimate(3400, 50)),
        (0, 8192, True, Estimate(3400, 0)),
        (None, 8192, True, Estimate(3400, 8192)),
        (None, None, True, Estimate(3400, 4096)),
        (50, None, False, Estimate(3400, 0)),
    ],
)
def test_bound__a_request__is_the_most_it_can_use(
    max_tokens: int | None, model_max_tokens: int | None, generates: bool, estimate: Estimate
) -> None:
    """One token a byte and 1,500 a part; the request's bound, the model's, or the buffer."""
    assert (
        bound(
            Size(400, 2),
            max_tokens=max_tokens,
            buffer_tokens=4096,
            model_max_tokens=model_max_tokens,
            generates=generates,
        )
        == estimate
    )


# -- what a set of calls holds, and the bound of one of them


def test_hold_of__groups_of_calls__is_the_sum_of_means_and_two_deviations() -> None:
    """Variances add, drift is common to the calls of a group, and what is fixed has neither."""
    own = seen(*(Observation(40, 10, each, 10_000 + 4_000 * each) for each in (80, 100, 120, 100)))
    expectation = expect(own, own, CAUTION)
    groups = [
        CallGroup(expectation, RATES, None, 3, 120),
        CallGroup(expectation, RATES, 20, 2, 80),  # stops before what is expected: no spread
    ]
    mean = 3 * 410_000 + 2 * 90_000 + 7
    variance, drift = 3 * expectation.variance_nano, 3 * expectation.drift_nano
    assert hold_of("spend", groups, 7) == held_by(mean, variance, drift) > mean
    variance, drift = 3 * expectation.variance_tokens, 3 * expectation.drift_tokens
    assert hold_of("tokens", groups, 7) == held_by(3 * 110 + 2 * 30 + 7, variance, drift)
    assert hold_of("calls", groups, 7) == 12
    assert hold_of("spend", [], 7) == 7


def test_hold_of__calls_of_different_sizes__has_each_at_their_mean_size_rounded_up() -> None:
    """A group is a count and a total weight."""
    own = seen(*[ALIKE] * 3)
    expectation = expect(own, own, CAUTION)
    one = CallGroup(expectation, RATES, None, 1, 301)
    assert hold_of("tokens", [CallGroup(expectation, RATES, None, 2, 601)]) == 2 * hold_of(
        "tokens", [one]
    )


@pytest.mark.parametrize(
    ("max_tokens", "takes_max_tokens", "output"),
    [
        (0, False, 30),
        (0, True, 30),
        (20, False, 20),
        (20, True, 20),
        (40, False, 30),
        (40, True, 40),
    ],
)
def test_hold_bound__of_a_call__is_linear_in_its_size_and_its_output(
    max_tokens: int, takes_max_tokens: bool, output: int
) -> None:
    """Output is the call's own bound where that is lower, or where all of it is expected."""
    linear = HoldBound(2, 3, 5, 7, 11, 30, takes_max_tokens)
    assert linear.of(100, max_tokens) == (
        200 + output * 3 + 5,
        700 + output * MILLIONTHS + 11,
    )


def test_expected_bound__calls_alike__is_little_more_than_what_they_hold() -> None:
    """A bound that is far too large would send every call to the exact gate."""
    own = seen(*[ALIKE] * 5)
    expectation = expect(own, own, CAUTION)
    cost, tokens = expected_bound(expectation, RATES).of(300, 0)
    assert 206_000 * ONE_NANO <= cost < 206_000 * ONE_NANO * 1.02
    assert 104 * MILLIONTHS <= tokens < 109 * MILLIONTHS


@pytest.mark.parametrize("count", [1, 2, 100])
def test_expected_bound__calls_that_differ__covers_two_deviations_of_each(count: int) -> None:
    """The deviation of a sum is at most the sum of deviations."""
    own = seen(*(Observation(40, 10, each, 10_000 + 4_000 * each) for each in (20, 100, 320, 100)))
    expectation = expect(own, own, CAUTION)
    groups = [CallGroup(expectation, RATES, None, count, 40 * count)]
    cost, tokens = expected_bound(expectation, RATES).of(40, 0)
    assert count * 410_000 < hold_of("spend", groups) <= count * cost // ONE_NANO
    assert count * 145 < hold_of("tokens", groups) <= count * tokens // MILLIONTHS


def test_expected_bound__a_dearer_tier__is_at_its_prices() -> None:
    """How much input a set of calls has is not known to one of them."""
    tiered = RATES._replace(tiers=(Tier(10**6, Prices(input=3 * 10**12, output=10**12)),))
    own = seen(*[ALIKE] * 5)
    linear = expected_bound(expect(own, own, CAUTION), tiered)
    assert linear.per_output_token == 4 * 10**12
    assert linear.per_byte == -(-3 * 10**12 * 70 // 300)


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("safety_ppm", [10**6, 1_200_000, 10**8])
def test_expected_bound__small_calls_of_unlike_sizes__covers_the_mean_size_rounded_up(
    calls: int, safety_ppm: int
) -> None:
    """A byte of rounding is more than one token where the plan's factor is above 1."""
    own = seen(*[Observation(400, 1_000, 50, 1_200_000)] * calls)
    expectation = expect(own, own, CAUTION._replace(safety_ppm=safety_ppm))
    linear = expected_bound(expectation, RATES)
    for weights in ([1, 2], [1, 1, 2], [0, 1], [1] * 9 + [2]):
        group = CallGroup(expectation, RATES, 10, len(weights), sum(weights))
        bounds = [linear.of(weight, 10) for weight in weights]
        assert hold_of("spend", [group]) * ONE_NANO <= sum(cost for cost, _ in bounds)
        assert hold_of("tokens", [group]) * MILLIONTHS <= sum(tokens for _, tokens in bounds)


@pytest.mark.parametrize(
    ("metric", "left", "most", "output"),
    [
        ("calls", 1, 50, 50),
        ("calls", 0, 50, 0),
        ("tokens", 130, 50, 30),
        ("tokens", 99, 50, 0),
        ("tokens", 1_000, 50, 50),
        ("spend", 0, 50, 0),
        ("spend", 99_999, 50, 0),
        ("spend", 100_000, 50, 0),
        ("spend", 104_000, 50, 1),
        ("spend", 179_999, 50, 19),
        ("spend", 10**9, 50, 50),
    ],
)
def test_output_that_fits__what_a_limit_has_left__is_filled_with_input_first(
    metric: str, left: int, most: int, output: int
) -> None:
    """100 tokens of input cost 100,000 nano-dollars, and one of output 4,000."""
    assert output_that_fits(metric, left, 100, most, rates=RATES) == output
