"""Prices, for any list and any usage: complete, monotone, and rounded once like the exact sum."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.pricing import Counts, Prices, Rates, Tier, complete, cost_nano, split
from paygent.core.usage import Usage

PICO = st.integers(0, 10**15)
COUNT = st.integers(0, 10**7)
LISTS = st.dictionaries(st.sampled_from(Prices._fields), PICO)
COUNTS = st.builds(Counts, **{**dict.fromkeys(Counts._fields, COUNT), "request": st.just(1)})

# The chain of prices that a component falls back on, written out by hand.
FALLBACKS = {
    "input": ("input",),
    "cached_input": ("cached_input", "input"),
    "cache_write": ("cache_write", "input"),
    "cache_write_long": ("cache_write_long", "cache_write", "input"),
    "output": ("output",),
    "reasoning": ("reasoning", "output"),
    "audio_input": ("audio_input", "input"),
    "audio_output": ("audio_output", "output"),
    "image_input": ("image_input", "input"),
    "image_output": ("image_output", "output"),
    "web_search": ("web_search",),
    "file_search": ("file_search",),
    "characters": ("characters",),
    "audio_hour": ("audio_hour",),
    "cached_image": ("cached_image", "cached_input", "input"),
    "cached_audio": ("cached_audio", "cached_input", "input"),
    "request": ("request",),
}
LIST_UNITS = {
    "web_search": 10**3,
    "file_search": 10**3,
    "request": 10**3,
    "audio_hour": 3_600_000,
}
"""Counts that a price is of, where that is not a million; audio counts in milliseconds."""


def usage_of(counts: Counts) -> Usage:
    """Return the inclusive usage whose disjoint parts are these counts."""
    inputs = counts.input + counts.cached_input + counts.cache_write + counts.cache_write_long
    inputs += counts.audio_input + counts.image_input + counts.cached_image + counts.cached_audio
    outputs = counts.output + counts.reasoning + counts.audio_output + counts.image_output
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cached_input_tokens=counts.cached_input,
        cache_write_tokens=counts.cache_write,
        cache_write_long_tokens=counts.cache_write_long,
        reasoning_tokens=counts.reasoning,
        audio_input_tokens=counts.audio_input,
        audio_output_tokens=counts.audio_output,
        image_input_tokens=counts.image_input,
        image_output_tokens=counts.image_output,
        web_searches=counts.web_search,
        file_searches=counts.file_search,
        characters=counts.characters,
        audio_ms=counts.audio_hour,
        cached_image_tokens=counts.cached_image,
        cached_audio_tokens=counts.cached_audio,
    )


def exact_usd(counts: Counts, own: dict[str, int]) -> Fraction:
    """Return what these counts cost in dollars by this list, as an exact fraction."""
    total = Fraction(0)
    for name, count in counts._asdict().items():
        pico = next((own[each] for each in FALLBACKS[name] if each in own), 0)
        total += Fraction(count * pico, 10**12 * LIST_UNITS.get(name, 10**6))
    return total


@settings(max_examples=200, deadline=None)
@given(COUNTS)
def test_split__any_usage__has_each_token_once(counts: Counts) -> None:
    """Splitting an inclusive usage gives back the disjoint counts it was made of."""
    assert split(usage_of(counts)) == counts


@settings(max_examples=150, deadline=None)
@given(LISTS)
def test_complete__any_list__prices_or_names_every_component(own: dict[str, int]) -> None:
    """Each component has its own price, its nearest parent's, or is named as unpriced."""
    prices, unpriced = complete(own)
    for name, chain in FALLBACKS.items():
        named = [own[each] for each in chain if each in own]
        assert getattr(prices, name) == (named[0] if named else 0)
        assert (name in unpriced) is (not named and name != "request")


@settings(max_examples=150, deadline=None)
@given(LISTS, COUNTS)
def test_cost_nano__any_call__is_the_exact_sum_rounded_once(
    own: dict[str, int], counts: Counts
) -> None:
    """A call costs the exact sum of its parts, rounded once, half to even."""
    prices, unpriced = complete(own)
    cost = cost_nano(usage_of(counts), Rates(prices, unpriced=unpriced))
    assert cost == round(exact_usd(counts, own) * 10**9)


@settings(max_examples=200, deadline=None)
@given(PICO, PICO, COUNT, COUNT)
def test_cost_nano__a_plain_call__is_priced_like_any_other(
    input_pico: int, output_pico: int, input_tokens: int, output_tokens: int
) -> None:
    """The short way that plain calls take gives what the long way would."""
    prices = Prices(input=input_pico, output=output_pico, web_search=0)
    plain = Usage(input_tokens, output_tokens)
    searched = plain._replace(web_searches=1)
    exact = Fraction(input_tokens * input_pico + output_tokens * output_pico, 10**9)
    assert cost_nano(plain, Rates(prices)) == round(exact)
    assert cost_nano(searched, Rates(prices)) == round(exact)


@settings(max_examples=150, deadline=None)
@given(LISTS, COUNTS, st.sampled_from(Counts._fields), st.integers(1, 10**6))
def test_cost_nano__one_count_grows__never_costs_less(
    own: dict[str, int], counts: Counts, name: str, more: int
) -> None:
    """More of any part never costs less."""
    prices, _ = complete(own)
    grown = counts._replace(**{name: getattr(counts, name) + more})
    assert cost_nano(usage_of(grown), Rates(prices)) >= cost_nano(usage_of(counts), Rates(prices))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=4, unique=True), st.integers(0, 1100))
def test_cost_nano__any_tiers__the_highest_threshold_below_the_input_counts(
    thresholds: list[int], input_tokens: int
) -> None:
    """The whole call is priced by the last tier whose threshold its input exceeds."""
    tiers = tuple(Tier(above, Prices(input=(above + 2) * 10**9)) for above in sorted(thresholds))
    passed = [above + 2 for above in thresholds if above < input_tokens]
    rate_nano = max(passed, default=1)
    rates = Rates(Prices(input=10**9), tiers)
    assert cost_nano(Usage(input_tokens, 0), rates) == input_tokens * rate_nano


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_cost_nano__parts_above_their_whole__never_raises_nor_is_negative(
    total: int, cached: int, audio: int, reasoning: int
) -> None:
    """A provider's contradictory counts are priced all the same."""
    usage = Usage(
        total,
        total,
        cached_input_tokens=cached,
        audio_input_tokens=audio,
        reasoning_tokens=reasoning,
    )
    assert cost_nano(usage, Rates(Prices(*[10**12] * 11))) >= 0
