"""Explanations: the same integers as pricing, one by one, and lists that are read back whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import make_event

from paygent.core.explain import OTHERS, CostComponent, explain, rates_from_json, rates_to_json
from paygent.core.pricing import PARTS_PER_USD, Prices, Rates, Tier, cost_nano
from paygent.core.usage import Usage

PRICES = Prices(*(each * 10**12 for each in (3, 1, 4, 6, 15, 20, 30, 40, 5, 8, 10)))
TIER = Tier(1_000, Prices(*(2 * each for each in PRICES)))
RATES = Rates(PRICES, (TIER,), "list@1", "catalogue", "2026-11", frozenset({"audio_input"}))


def test_explain__every_component__has_its_line_and_they_sum_up() -> None:
    """Each with its count and rate; web searches are priced per thousand."""
    event = make_event(
        "a",
        input_tokens=900,
        output_tokens=500,
        cached_input_tokens=100,
        cache_write_tokens=300,
        reasoning_tokens=200,
        details={"cache_write_long_tokens": 50, "web_searches": 2, "audio_output_tokens": 10},
    )
    found = explain(event, RATES)
    assert {line.component: line.quantity for line in found.lines} == {
        "input": 500,
        "cached_input": 100,
        "cache_write": 250,
        "cache_write_long": 50,
        "output": 290,
        "reasoning": 200,
        "audio_output": 10,
        "web_search": 2,
    }
    thousandths = 2 * 10 * PARTS_PER_USD // 1000
    assert found.lines[-1] == CostComponent("web_search", 2, 10 * 10**12, thousandths)
    assert found.amount == sum(line.amount for line in found.lines)
    assert found.tier_above is None


def test_explain__a_tier__is_named_where_it_applies() -> None:
    """A large input is priced by another list, for every token."""
    found = explain(make_event("a", input_tokens=1_001, output_tokens=0), RATES)
    assert (found.tier_above, found.cost_nano) == (1_000, 6_006_000)


def test_explain__requests_summed_up__have_the_tier_of_the_largest() -> None:
    """Many small requests in one event are no large one: no tier, and the cost that was booked."""
    event = make_event(
        "a", input_tokens=1_200, output_tokens=0, details={"largest_input_tokens": 600}
    )
    found = explain(event, RATES)
    assert (found.tier_above, found.cost_nano) == (None, 3_600_000)


COUNTS = st.integers(0, 10**6)


@settings(max_examples=150, deadline=None)
@given(st.tuples(*[COUNTS] * 17), st.tuples(*[st.integers(0, 10**14)] * 17))
def test_explain__any_usage__comes_to_what_pricing_says(
    counts: tuple[int, ...], prices: tuple[int, ...]
) -> None:
    """What is shown is what was booked, to the nano-dollar."""
    usage = Usage._make((*counts, *Usage()[17:]))
    rates = Rates(Prices(*prices), source="plan")
    event = make_event(
        "a",
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.all_cached_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_long_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        details=usage.rare_counts,
    )
    assert explain(event, rates).cost_nano == cost_nano(usage, rates)


def test_explain__other_models__are_a_part_of_the_cost() -> None:
    """What another model did for the call is added as it was priced, by its own list."""
    event = make_event("a", input_tokens=1_000, output_tokens=0, details={OTHERS: 7})
    found = explain(event, RATES)
    assert (found.cost_nano, found.others_nano) == (3_000_007, 7)


def test_rates__as_json__are_read_back_whole() -> None:
    """A kept list prices as the day it was kept."""
    assert rates_from_json("list@1", rates_to_json(RATES)) == RATES
