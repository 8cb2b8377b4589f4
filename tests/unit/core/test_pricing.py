"""Pricing: disjoint parts, complete price lists, tiers, and one rounding half to even."""

from __future__ import annotations

import pytest

from paygent.core.pricing import (
    FEES,
    TIERS,
    VARIANT,
    Counts,
    Prices,
    Rates,
    Tier,
    assumed_parts,
    bound_nano,
    complete,
    cost_nano,
    dearest_prices,
    in_units_of,
    is_plain,
    prices_for,
    split,
    text_cost_nano,
    unpriced_parts,
)
from paygent.core.usage import Usage

USD = 10**12  # pico-dollars

EACH_PART = Usage(
    input_tokens=50,
    output_tokens=34,
    cached_input_tokens=2,
    cache_write_tokens=3,
    cache_write_long_tokens=4,
    reasoning_tokens=8,
    audio_input_tokens=5,
    audio_output_tokens=9,
    image_input_tokens=6,
    image_output_tokens=10,
    web_searches=1,
    file_searches=11,
    characters=12,
    audio_ms=13,
    cached_image_tokens=14,
    cached_audio_tokens=15,
)
ONE_TO_SIXTEEN = Prices(*(number * USD for number in range(1, 17)))


def flat(**dollars_per_million: int) -> Rates:
    """Return a plan's rates without tiers, completed from some prices in pico-dollars."""
    prices, unpriced = complete(dollars_per_million)
    return Rates(prices, source="plan", unpriced=unpriced)


def test_split__every_part__stands_once() -> None:
    """Each token is in exactly one component."""
    assert split(EACH_PART) == Counts(1, 2, 3, 4, 7, 8, 5, 9, 6, 10, 1, 11, 12, 13, 14, 15, 1)


def test_split__parts_exceed_their_whole__the_plain_part_is_zero() -> None:
    """Parts count as reported; the plain rest is never negative."""
    usage = Usage(10, 5, cached_input_tokens=8, audio_input_tokens=8, reasoning_tokens=4)
    usage = usage._replace(image_output_tokens=3)
    assert split(usage) == Counts(0, 8, 0, 0, 0, 4, 8, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1)


def test_complete__input_and_output_only__the_others_take_their_parents_price() -> None:
    """Cached, written, audio and image input cost what input costs, reasoning what output costs."""
    prices, unpriced = complete({"input": 3, "output": 7})
    assert prices == Prices(3, 3, 3, 3, 7, 7, 3, 7, 3, 7, cached_image=3, cached_audio=3)
    assert unpriced == set(FEES) - {"request"}


def test_complete__a_written_price__is_the_long_ones_parent() -> None:
    """A long cache write costs what a short one costs where only that is named."""
    prices, unpriced = complete({"input": 3, "output": 7, "cache_write": 5, "web_search": 9})
    assert prices == Prices(3, 3, 5, 5, 7, 7, 3, 7, 3, 7, 9, cached_image=3, cached_audio=3)
    assert unpriced == {"file_search", "characters", "audio_hour"}


def test_complete__named_prices__are_kept() -> None:
    """What the list names is never replaced, a price of 0 included."""
    list_prices = [1, 0, *range(2, 17)]
    prices, unpriced = complete(dict(zip(Prices._fields, list_prices, strict=True)))
    assert prices == Prices(*list_prices)
    assert unpriced == frozenset()


def test_complete__nothing__has_no_price_at_all() -> None:
    """An empty list has no price for anything and says so."""
    prices, unpriced = complete({})
    assert prices == Prices()
    assert unpriced == set(Prices._fields) - {"request"}


def test_complete__no_input_price__its_children_are_unpriced() -> None:
    """A list of output alone leaves every kind of input unpriced."""
    _, unpriced = complete({"output": 7})
    assert unpriced == {
        "input",
        "cached_input",
        "cache_write",
        "cache_write_long",
        "audio_input",
        "image_input",
        "cached_image",
        "cached_audio",
        *FEES,
    } - {"request"}


@pytest.mark.parametrize(
    ("input_tokens", "input_price"),
    [(0, 1), (200_000, 1), (200_001, 2), (500_000, 2), (500_001, 3)],
)
def test_prices_for__tiers__begin_above_their_threshold(
    input_tokens: int, input_price: int
) -> None:
    """A tier holds above its threshold, not at it, and the highest one passed counts."""
    tiers = (Tier(200_000, Prices(input=2)), Tier(500_000, Prices(input=3)))
    assert prices_for(Rates(Prices(input=1), tiers), input_tokens).input == input_price


def test_cost_nano__a_plain_call__is_prices_times_tokens() -> None:
    """1,000 tokens at $2.50 and 500 at $10 a million are $0.0075."""
    rates = flat(input=2_500_000_000_000, output=10 * USD)
    assert cost_nano(Usage(1000, 500), rates) == 7_500_000


def test_cost_nano__a_cached_part__costs_its_own_price() -> None:
    """600 fresh at $2.50, 400 cached at $1.25 and 500 out at $10 a million are $0.007."""
    rates = flat(input=2_500_000_000_000, cached_input=1_250_000_000_000, output=10 * USD)
    assert cost_nano(Usage(1000, 500, cached_input_tokens=400), rates) == 7_000_000


def test_cost_nano__every_part__costs_its_own_price() -> None:
    """Prices of $1 to $16: $0.000374 of tokens, $0.011 and $0.132 of searches, $0.000156 of
    characters, 13 ms at $14 an hour ($0.00005056), $0.00021 of cached images and $0.00024 of
    cached audio.
    """
    assert cost_nano(EACH_PART, Rates(ONE_TO_SIXTEEN)) == 144_030_556


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(1, 0, cached_input_tokens=1), 2_000),
        (Usage(1, 0, cache_write_tokens=1), 3_000),
        (Usage(1, 0, cache_write_long_tokens=1), 4_000),
        (Usage(0, 1, reasoning_tokens=1), 6_000),
        (Usage(1, 0, audio_input_tokens=1), 7_000),
        (Usage(0, 1, audio_output_tokens=1), 8_000),
        (Usage(1, 0, image_input_tokens=1), 9_000),
        (Usage(0, 1, image_output_tokens=1), 10_000),
        (Usage(0, 0, web_searches=1), 11_000_000),
        (Usage(0, 0, file_searches=1), 12_000_000),
        (Usage(0, 0, characters=1), 13_000),
        (Usage(0, 0, audio_ms=3_600_000), 14_000_000_000),
        (Usage(0, 0, audio_ms=1), 3_889),  # a 3,600,000th of $14, rounded
        (Usage(1, 0, cached_image_tokens=1), 15_000),
        (Usage(1, 0, cached_audio_tokens=1), 16_000),
        (Usage(0, 0, unlisted_units=1), 0),
    ],
)
def test_cost_nano__one_part_alone__is_priced_as_that_part(usage: Usage, nano: int) -> None:
    """One token of a part costs that part's price and nothing else: none is mixed up."""
    assert cost_nano(usage, Rates(ONE_TO_SIXTEEN)) == nano


def test_cost_nano__a_tier__applies_to_the_whole_call() -> None:
    """Above the threshold every token of the call costs the tier's price, the first too."""
    rates = Rates(
        Prices(input=USD, output=USD), (Tier(200_000, Prices(input=2 * USD, output=3 * USD)),)
    )
    assert cost_nano(Usage(200_000, 1000), rates) == 201_000_000
    assert cost_nano(Usage(200_001, 1000), rates) == 403_002_000


@pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_cost_nano__half_a_nano_dollar__rounds_to_even(tokens: int, nano: int) -> None:
    """At half a nano-dollar per token, 0.5 is 0, 1.5 is 2, 2.5 is 2 and 3.5 is 4."""
    assert cost_nano(Usage(tokens, 0), Rates(Prices(input=500_000_000))) == nano


def test_cost_nano__two_halves__are_rounded_once() -> None:
    """Half a nano-dollar of input and half of output are one: the sum is rounded, not the parts."""
    rates = Rates(Prices(input=500_000_000, output=500_000_000))
    assert cost_nano(Usage(1, 1), rates) == 1


@pytest.mark.parametrize(("tokens", "nano"), [(1, 38), (2, 75), (3, 112)])
def test_cost_nano__a_price_finer_than_a_nano_dollar__is_kept(tokens: int, nano: int) -> None:
    """$0.0375 a million is 37.5 nano-dollars a token; two tokens are exactly 75."""
    assert cost_nano(Usage(tokens, 0), Rates(Prices(input=37_500_000_000))) == nano


def test_cost_nano__nothing_used__is_nothing() -> None:
    """No tokens cost nothing."""
    assert cost_nano(Usage(), Rates(ONE_TO_SIXTEEN)) == 0


@pytest.mark.parametrize(
    ("usage", "unpriced", "used"),
    [
        (Usage(5, 5), frozenset(), False),
        (Usage(5, 5), frozenset({"web_search"}), False),
        (Usage(5, 5, web_searches=1), frozenset({"web_search"}), True),
        (Usage(5, 5), frozenset({"input"}), True),
        (Usage(5, 0, cached_input_tokens=5), frozenset({"input"}), False),
        (Usage(0, 0, file_searches=1), frozenset({"file_search"}), True),
        (Usage(0, 0, audio_ms=1), frozenset({"audio_hour"}), True),
        (Usage(5, 5, unlisted_units=1), frozenset(), True),
    ],
)
def test_unpriced_parts__a_usage__tells_whether_an_unpriced_part_was_used(
    usage: Usage, unpriced: frozenset[str], used: bool
) -> None:
    """A call is marked where it used something without a price, not where it merely could."""
    assert bool(unpriced_parts(usage, Rates(Prices(), unpriced=unpriced))) is used


@pytest.mark.parametrize(
    ("source", "known"),
    [("plan", True), ("plan-default", True), ("catalogue", True), ("none", False)],
)
def test_rates__is_known__unless_there_is_no_source(source: str, known: bool) -> None:
    """Rates are known where any price list names the model."""
    assert Rates(Prices(), source=source).is_known is known


@pytest.mark.parametrize(
    ("tokens", "writes_cache", "nano"),
    [
        ((1_000, 0), False, 3_000_000),  # input at $3
        ((1_000, 0), True, 6_000_000),  # or written to the long cache at $6
        ((0, 1_000), False, 20_000_000),  # reasoning at $20 is dearer than output at $15
        ((1, 0), False, 3_000),
        ((200_001, 0), False, 1_200_006_000),  # the tier that so much input may reach
    ],
)
def test_bound_nano__tokens__cost_at_most_the_dearest_they_may_be(
    tokens: tuple[int, int], writes_cache: bool, nano: int
) -> None:
    """What a strict plan holds is never less than what the call can be billed."""
    plain = Prices(
        input=3 * 10**12,
        cached_input=3 * 10**11,
        cache_write=4 * 10**12,
        cache_write_long=6 * 10**12,
        output=15 * 10**12,
        reasoning=20 * 10**12,
    )
    above = Tier(200_000, plain._replace(input=6 * 10**12))
    rates = Rates(plain, (above,), source="catalogue")
    assert bound_nano(*tokens, rates, writes_cache=writes_cache) == nano


ASSUMING = frozenset({"audio_input", "audio_output"})


@pytest.mark.parametrize(
    ("usage", "assumed", "parts"),
    [
        (Usage(5, 5), ASSUMING, ()),
        (Usage(5, 5, audio_input_tokens=1), ASSUMING, ("audio_input",)),
        (Usage(5, 5, audio_output_tokens=1), ASSUMING, ("audio_output",)),
        (Usage(5, 5, web_searches=1), ASSUMING, ()),
        (Usage(5, 5), frozenset({VARIANT}), (VARIANT,)),
        (Usage(5, 5, web_searches=1), frozenset({VARIANT}), (VARIANT,)),
    ],
)
def test_assumed_parts__a_usage__names_what_the_list_left_to_be_assumed(
    usage: Usage, assumed: frozenset[str], parts: tuple[str, ...]
) -> None:
    """A price that is another's is named only where it was used."""
    assert assumed_parts(usage, Rates(Prices(), assumed=assumed)) == parts


TIERED = Rates(
    Prices(input=USD, output=USD),
    (Tier(100, Prices(input=2 * USD, output=2 * USD)),),
    source="plan",
)


@pytest.mark.parametrize(
    ("largest", "nano", "parts"),
    [(-1, 400_000, ()), (50, 200_000, ()), (150, 400_000, ()), (0, 200_000, (TIERS,))],
)
def test_cost_nano__a_sum_of_requests__takes_the_tier_of_each(
    largest: int, nano: int, parts: tuple[str, ...]
) -> None:
    """200 tokens reach the tier of a call, and none where they are many small requests; where
    nobody tells, the base is taken and said.
    """
    usage = Usage(200, 0, largest_input_tokens=largest)
    assert cost_nano(usage, TIERED) == nano
    assert assumed_parts(usage, TIERED) == parts


def test_assumed_parts__a_sum_below_every_tier__is_certain() -> None:
    """No request can be larger than their sum."""
    assert assumed_parts(Usage(100, 0, largest_input_tokens=0), TIERED) == ()


@pytest.mark.parametrize(
    ("unpriced", "expected"),
    [
        ({"characters", "audio_hour"}, Usage(10, 20, audio_input_tokens=10)),
        ({"audio_hour", "input", "output"}, Usage(characters=30)),
        ({"characters", "input", "output"}, Usage(audio_ms=40)),
        ({"characters"}, Usage(audio_ms=40)),
    ],
)
def test_in_units_of__a_price_list__keeps_the_unit_that_it_has(
    unpriced: set[str], expected: Usage
) -> None:
    """What a request tells in every unit is counted in one of them."""
    told = Usage(10, 20, audio_input_tokens=10, characters=30, audio_ms=40)
    rates = Rates(Prices(), source="catalogue", unpriced=frozenset(unpriced))
    assert in_units_of(rates, told) == expected


def test_in_units_of__an_unknown_model__keeps_tokens() -> None:
    """Nobody knows the unit of a model without a list; its tokens count."""
    told = Usage(10, 20, characters=30, audio_ms=40, quality="estimated")
    assert in_units_of(Rates(Prices()), told) == Usage(10, 20, quality="estimated")


@pytest.mark.parametrize(
    "usage", [Usage(10, 10), Usage(10, 10, cached_input_tokens=5), Usage(10, 10, web_searches=1)]
)
def test_cost_nano__a_price_for_requests__is_one_of_each_call(usage: Usage) -> None:
    """A model with a fee costs it once a call, on whichever way the call is priced."""
    without = cost_nano(usage, Rates(ONE_TO_SIXTEEN))
    assert (
        cost_nano(usage, Rates(ONE_TO_SIXTEEN._replace(request=12 * USD))) == without + 12_000_000
    )


def test_text_cost_nano__a_call_of_text__costs_what_its_usage_costs() -> None:
    """Parts have their own prices, and are no part of the plain input and output."""
    prices = Prices(
        input=10**12,
        cached_input=10**11,
        cache_write=2 * 10**12,
        cache_write_long=3 * 10**12,
        output=4 * 10**12,
        reasoning=5 * 10**12,
    )
    assert text_cost_nano(100, 50, 0, 0, 0, 0, prices) == 100_000 + 200_000
    parts = 60_000 + 20 * 100 + 15 * 2_000 + 5 * 3_000 + 40 * 4_000 + 10 * 5_000
    assert text_cost_nano(100, 50, 20, 15, 5, 10, prices) == parts
    assert text_cost_nano(10, 5, 20, 0, 0, 10, prices) == 20 * 100 + 10 * 5_000  # as reported


def test_dearest_prices__tiers__are_the_highest_of_each_component() -> None:
    """A bound that holds for any size of a call."""
    rates = Rates(
        Prices(input=5, output=1), (Tier(9, Prices(input=3, output=2)), Tier(99, Prices(output=7)))
    )
    assert dearest_prices(rates) == Prices(input=5, output=7)
    assert dearest_prices(rates._replace(tiers=())) == rates.prices


def test_is_plain__a_usage__is_true_without_any_part_that_has_a_price_of_its_own() -> None:
    """Input and output alone."""
    assert is_plain(Usage(10, 5, model="m"))
    assert not is_plain(Usage(10, 5, 1))
    assert not is_plain(Usage(10, 5, reasoning_tokens=1))
