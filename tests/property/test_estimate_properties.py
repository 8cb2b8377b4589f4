"""Estimates, for any body: measuring never raises, and no estimate passes its bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.estimate import (
    MILLIONTHS,
    CallGroup,
    Expectation,
    bound,
    cost_of,
    expected_bound,
    held_by,
    hold_of,
    moments_of,
    tokens_of,
)
from paygent.core.pricing import ONE_NANO, Prices, Rates, Tier, tokens_cost_nano
from paygent.core.request_size import Size, measure, weight_of
from paygent.core.usage_stats import ColdStartPolicy, Observation, UsageStats, expect, observe

KEYS = st.sampled_from(
    ["messages", "input", "prompt", "system", "tools", "type", "content", "text", "image_url"]
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.sampled_from(["image", "file", "string"]),
        st.text(st.characters(), max_size=3),
        st.binary(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=4)), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)
SIZES = st.builds(Size, st.integers(0, 10**7), st.integers(0, 50))
TOKENS = st.integers(0, 10**7)
MAYBE_TOKENS = st.one_of(st.none(), TOKENS)
FACTORS_PPM = st.integers(10**6, 10**8)


@settings(max_examples=200, deadline=None)
@given(st.one_of(JSON, st.dictionaries(KEYS, JSON, max_size=4)))
def test_measure__any_body__never_raises(body: Any) -> None:
    """Whatever an application sends is measured, and the size is of whole things."""
    size = measure(body)
    assert size.text_bytes >= 0
    assert size.parts >= 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_measure__messages__count_each_utf8_byte_once(texts: list[str]) -> None:
    """The size of a conversation is the UTF-8 length of its strings."""
    body = {"messages": [{"role": "user", "content": text} for text in texts]}
    assert measure(body) == Size(sum(4 + len(text.encode()) for text in texts), 0)


TAKEN = st.builds(
    Observation,
    st.integers(0, 10**6),
    TOKENS,
    TOKENS,
    st.integers(0, 10**12),
    MAYBE_TOKENS,
    st.none(),
)
PRICES = st.integers(0, 10**14)
RATES = st.builds(
    lambda one, other: Rates(Prices(input=one, output=other), source="plan"), PRICES, PRICES
)


def stats(calls: list[Observation], rates: Rates) -> UsageStats:
    """Return what these calls, in order, leave to be expected."""
    sums = UsageStats()
    for call in calls:
        sums = observe(sums, call, rates)
    return sums


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(TAKEN, max_size=6),
    st.lists(TAKEN, max_size=6),
    MAYBE_TOKENS,
    st.builds(ColdStartPolicy, TOKENS, MAYBE_TOKENS, FACTORS_PPM, st.booleans()),
    RATES,
)
def test_expect__any_request__is_never_above_what_it_asks_for(
    weight: int,
    own: list[Observation],
    others: list[Observation],
    max_tokens: int | None,
    caution: ColdStartPolicy,
    rates: Rates,
) -> None:
    """An estimate is never negative nor above max_tokens, and what is held covers its mean."""
    expectation = expect(stats(own, rates), stats(own + others, rates), caution)
    estimate = tokens_of(expectation, weight, max_tokens)
    assert min(estimate) >= 0
    if max_tokens is not None:
        assert estimate.output_tokens <= max_tokens
    if not caution.generates and not own and not others:
        assert estimate.output_tokens == 0
    cost = cost_of(expectation, estimate, rates)
    assert cost >= 0
    load = moments_of(expectation, "spend", weight, max_tokens, rates)
    assert load.mean == cost
    assert held_by(*load) >= load.mean


@settings(max_examples=200, deadline=None)
@given(SIZES, TOKENS, MAYBE_TOKENS, st.integers(10**6, 4 * 10**6), st.booleans())
def test_bound__any_request_that_says_its_most__is_never_below_expected(
    size: Size, max_tokens: int, model_max_tokens: int | None, safety_ppm: int, generates: bool
) -> None:
    """Before anything was observed, and up to a factor of four, nothing above the bound is held."""
    caution = ColdStartPolicy(4096, model_max_tokens, safety_ppm, generates)
    estimate = tokens_of(expect(UsageStats(), UsageStats(), caution), weight_of(size), max_tokens)
    most = bound(
        size,
        max_tokens=max_tokens,
        buffer_tokens=4096,
        model_max_tokens=model_max_tokens,
        generates=generates,
    )
    assert estimate.output_tokens <= most.output_tokens
    # Images count 1,500 tokens in both, so the factor of the estimate shows in them alone.
    if size.parts == 0:
        assert estimate.input_tokens <= most.input_tokens


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3000), st.integers(0, 1000), st.integers(3, 700), RATES)
def test_observe__calls_that_are_all_alike__have_their_own_figures_and_no_spread(
    weight: int, input_tokens: int, output_tokens: int, calls: int, rates: Rates
) -> None:
    """However many like calls were observed, halved or not, a set of them holds their exact sum."""
    cost = tokens_cost_nano(input_tokens, output_tokens, rates)
    sums = stats([Observation(weight, input_tokens, output_tokens, cost)] * calls, rates)
    assert sums.calls <= 200
    expectation = expect(sums, sums, ColdStartPolicy(4096, None, 1_200_000))
    assert tokens_of(expectation, weight, None) == (input_tokens, output_tokens)
    assert moments_of(expectation, "spend", weight, None, rates) == (cost, 0, 0)
    assert moments_of(expectation, "tokens", weight, None, rates) == (
        input_tokens + output_tokens,
        0,
        0,
    )


# -- the bound of a call that the far gear goes by

ANY_PRICES = st.builds(Prices, *[PRICES] * len(Prices._fields))
TIERED_RATES = st.builds(
    Rates,
    ANY_PRICES,
    st.lists(st.builds(Tier, st.integers(0, 10**6), ANY_PRICES), max_size=2).map(
        lambda tiers: tuple(sorted(tiers))
    ),
)


@st.composite
def expectations(draw: st.DrawFn) -> tuple[Expectation, Rates]:
    """Draw what some history of calls makes a plan expect, and the rates of the model."""
    rates = draw(TIERED_RATES)
    own, others = draw(st.lists(TAKEN, max_size=6)), draw(st.lists(TAKEN, max_size=6))
    policy = draw(st.builds(ColdStartPolicy, TOKENS, MAYBE_TOKENS, FACTORS_PPM, st.booleans()))
    return expect(stats(own, rates), stats(own + others, rates), policy), rates


CALLS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 10**6), st.one_of(st.just(0), TOKENS)), max_size=8
)


@settings(max_examples=300, deadline=None)
@given(st.lists(expectations(), min_size=2, max_size=2), CALLS, st.integers(0, 10**12))
def test_expected_bound__any_set_of_calls__is_never_below_what_the_set_holds(
    forecasts: list[tuple[Expectation, Rates]], calls: list[tuple[int, int, int]], fixed: int
) -> None:
    """Bounds of calls may be added up without a look at the set: tiers, ratios of cost to tokens,
    spreads and bounds on output on either side of the expected one included.
    """
    grouped: dict[tuple[int, int], list[int]] = {}
    cost = tokens = 0
    for number, weight, max_tokens in calls:
        grouped.setdefault((number, max_tokens), []).append(weight)
        own = expected_bound(*forecasts[number]).of(weight, max_tokens)
        cost, tokens = cost + own[0], tokens + own[1]
    groups = [
        CallGroup(*forecasts[number], max_tokens or None, len(weights), sum(weights))
        for (number, max_tokens), weights in grouped.items()
    ]
    assert hold_of("spend", groups, fixed) * ONE_NANO <= cost + fixed * ONE_NANO
    assert hold_of("tokens", groups, fixed) * MILLIONTHS <= tokens + fixed * MILLIONTHS
    assert hold_of("calls", groups, fixed) == len(calls) + fixed


@settings(max_examples=100, deadline=None)
@given(expectations(), st.integers(0, 10**6), TOKENS, st.integers(0, 10**6), TOKENS)
def test_bounds__a_larger_call__has_no_smaller_bound(
    forecast: tuple[Expectation, Rates], weight: int, max_tokens: int, more: int, more_output: int
) -> None:
    """A call within the size of another is within its bound."""
    each = expected_bound(*forecast)
    one = each.of(weight, max_tokens)
    other = each.of(weight + more, (max_tokens + more_output) if max_tokens else 0)
    assert one[0] <= other[0]
    assert one[1] <= other[1]
