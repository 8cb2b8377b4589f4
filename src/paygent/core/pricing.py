"""The cost of a usage: integer prices times integer counts, rounded once.

`Rates` are complete: a component that a price list lacks received the price of its parent when the
rates were resolved (cached input costs as much as input, reasoning as much as output). So pricing a
call is a sum of products and cannot fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from paygent.core.money import NanoUsd, divide_half_even
from paygent.core.named_values import values_of
from paygent.core.usage import COUNTS, NO_MEDIA, Usage, media_of

PARENTS = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_long": "cache_write",
    "reasoning": "output",
    "audio_input": "input",
    "audio_output": "output",
    "image_input": "input",
    "image_output": "output",
    "cached_image": "cached_input",
    "cached_audio": "cached_input",
}
"""The component that provides the price of one that the price list lacks; after its own parent."""

TOKEN_COMPONENTS = ("input", "output", *PARENTS)
"""The parts of a call that are priced per million tokens."""

FEES = ("web_search", "file_search", "characters", "audio_hour", "request")
"""The parts of a call other than tokens: they have a price of their own or none."""

ASSUMED = frozenset({"audio_input", "audio_output"})
"""Components that never really have their parent's price: without a listed one it is assumed."""

_TOKENS_PER_LIST_UNIT = 10**6
_PICO_PER_NANO = 10**3
ONE_NANO = _TOKENS_PER_LIST_UNIT * _PICO_PER_NANO
"""A nano-dollar in the unit of counts times prices, 10⁻¹⁸ dollars."""

_HOUR_FACTOR, _HOUR_PARTS = 10, 36
"""Milliseconds times pico-dollars per hour, times 10, are 36 times that unit."""


class Prices(NamedTuple):
    """Prices of one model in pico-dollars: per million tokens or characters, per thousand searches
    or requests, and per hour of audio. The price for requests is an extra fee of each call.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    web_search: int = 0
    file_search: int = 0
    characters: int = 0
    audio_hour: int = 0
    cached_image: int = 0
    cached_audio: int = 0
    request: int = 0


FACTORS = {"web_search": 10**3, "file_search": 10**3, "request": 10**3}
"""Factors of components priced per thousand, relative to tokens, which are priced per million."""


class Tier(NamedTuple):
    """Prices of all tokens of a call with more input than `above_input_tokens`."""

    above_input_tokens: int
    prices: Prices


class Rates(NamedTuple):
    """The price list with which a call is booked, and its source.

    Attributes:
        prices: The prices below every tier.
        tiers: Other prices for large inputs, by rising threshold.
        price_id: Name of this price list, written into each event:
            `<source>:<provider>/<model>@<date>`.
        source: "plan", "plan-default", "catalogue" or "none".
        as_of: Date of the catalogue, ISO 8601, or "" if there is none.
        unpriced: Components without a price of their own or of a parent; a call that uses one is
            marked.
        assumed: Components, or a price variant as a whole (`VARIANT`), that the list lacks and that
            are priced like another; a call that uses one is marked.
    """

    prices: Prices
    tiers: tuple[Tier, ...] = ()
    price_id: str = ""
    source: str = "none"
    as_of: str = ""
    unpriced: frozenset[str] = frozenset()
    assumed: frozenset[str] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether the model has any price."""
        return self.source != "none"


VARIANT = "variant"
"""Member of `Rates.assumed` for a price variant that the list lacks."""

TIERS = "price tiers of its requests"
"""The assumption for a sum of requests, each of which may have reached a tier by itself."""


def complete(own: Mapping[str, int]) -> tuple[Prices, frozenset[str]]:
    """Complete listed prices (by component, in pico-dollars per list unit) with those of parents;
    return them with the components that have no price.
    """
    prices = dict(own)
    for name, parent in PARENTS.items():  # in their order, each parent is complete before a child
        if name not in prices and parent in prices:
            prices[name] = prices[parent]
    missing = frozenset(name for name in Prices._fields if name not in prices) - {"request"}
    return Prices(**prices), missing


class Counts(Prices):
    """A usage divided so that each token is in exactly one component, as in `Prices`."""

    __slots__ = ()


def split(usage: Usage) -> Counts:
    """Divide an inclusive usage into disjoint components; audio counts in milliseconds.

    Some providers do not divide cached tokens into text, audio and images. If the parts exceed the
    whole, the plain component is 0 and the parts count as reported.
    """
    # Inclusive totals less their parts; each part is priced by itself.
    plain_input = (
        usage.input_tokens
        - usage.cached_input_tokens
        - usage.cache_write_tokens
        - usage.cache_write_long_tokens
        - usage.audio_input_tokens
        - usage.image_input_tokens
        - usage.cached_image_tokens
        - usage.cached_audio_tokens
    )
    plain_output = (
        usage.output_tokens
        - usage.reasoning_tokens
        - usage.audio_output_tokens
        - usage.image_output_tokens
    )
    return Counts(
        plain_input if plain_input > 0 else 0,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.cache_write_long_tokens,
        plain_output if plain_output > 0 else 0,
        usage.reasoning_tokens,
        usage.audio_input_tokens,
        usage.audio_output_tokens,
        usage.image_input_tokens,
        usage.image_output_tokens,
        usage.web_searches,
        usage.file_searches,
        usage.characters,
        usage.audio_ms,
        usage.cached_image_tokens,
        usage.cached_audio_tokens,
        1,
    )


def prices_for(rates: Rates, input_tokens: int) -> Prices:
    """Return the prices of a call with this much input; a tier applies to the whole call."""
    # Tiers are sorted, so the last one that is exceeded applies.
    chosen = rates.prices
    for tier in rates.tiers:
        if input_tokens > tier.above_input_tokens:
            chosen = tier.prices
    return chosen


def prices_of(usage: Usage, rates: Rates) -> Prices:
    """Return the prices of a usage by its input, or by its largest request if it is a sum."""
    largest = usage.largest_input_tokens
    return prices_for(rates, largest if largest >= 0 else usage.input_tokens)


def tokens_cost_nano(input_tokens: int, output_tokens: int, rates: Rates) -> NanoUsd:
    """Return the cost of plain input and output, rounded once, half to even."""
    prices = prices_for(rates, input_tokens) if rates.tiers else rates.prices
    numerator = input_tokens * prices.input + output_tokens * prices.output
    return NanoUsd(divide_half_even(numerator, ONE_NANO))


def bound_nano(
    input_tokens: int, output_tokens: int, rates: Rates, *, writes_cache: bool
) -> NanoUsd:
    """Return the most that so many tokens of text can cost, rounded up."""
    prices = prices_for(rates, input_tokens)  # of a tier that the input may reach
    dearest = max(prices.input, prices.cached_input)
    if writes_cache:  # can cost more
        dearest = max(dearest, prices.cache_write, prices.cache_write_long)
    numerator = input_tokens * dearest + output_tokens * max(prices.output, prices.reasoning)
    return NanoUsd(-(-numerator // ONE_NANO))


def dearest_prices(rates: Rates) -> Prices:
    """Return the highest price of each component over all tiers."""
    lists = [rates.prices, *(tier.prices for tier in rates.tiers)]
    return Prices(*map(max, zip(*lists, strict=True)))


def cost_nano(usage: Usage, rates: Rates) -> NanoUsd:
    """Return the cost of a usage, rounded once, half to even."""
    prices = prices_of(usage, rates) if rates.tiers else rates.prices
    # A fee for requests is rare.
    if media_of(usage) == NO_MEDIA and not prices.request:
        return text_cost_nano(
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.cache_write_long_tokens,
            usage.reasoning_tokens,
            prices,
        )
    # Hours do not divide into tokens, so the general case has a finer unit.
    amounts = (part for _, _, part in amounts_of(usage, prices).values())
    return NanoUsd(divide_half_even(sum(amounts), ONE_NANO * _HOUR_PARTS))


def text_cost_nano(
    input_tokens: int,
    output_tokens: int,
    cached: int,
    written: int,
    written_long: int,
    reasoning: int,
    prices: Prices,
) -> NanoUsd:
    """Return the cost of text, rounded once, half to even; totals and their parts as in `Usage`."""
    plain_input = input_tokens - cached - written - written_long
    plain_output = output_tokens - reasoning
    numerator = (plain_input if plain_input > 0 else 0) * prices.input
    numerator += (plain_output if plain_output > 0 else 0) * prices.output
    if cached or written or written_long or reasoning:
        numerator += cached * prices.cached_input + written * prices.cache_write
        numerator += written_long * prices.cache_write_long + reasoning * prices.reasoning
    return NanoUsd(divide_half_even(numerator, ONE_NANO))


def amounts_of(usage: Usage, prices: Prices) -> dict[str, tuple[int, int, int]]:
    """Return count, price and unrounded amount (in `PARTS_PER_USD`) of a usage's components."""
    return {
        name: (count, price, count * price * _PARTS.get(name, _HOUR_PARTS))
        for name, count, price in zip(Prices._fields, split(usage), prices, strict=True)
        if count and (price or name != "request")
    }


_PARTS = {name: factor * _HOUR_PARTS for name, factor in FACTORS.items()}
_PARTS["audio_hour"] = _HOUR_FACTOR

PARTS_PER_USD = 10**18 * _HOUR_PARTS
"""The unit of unrounded amounts: a millisecond at a pico-dollar per hour is ten of them."""

PARTS_PER_NANO = PARTS_PER_USD // 10**9


def in_units_of(rates: Rates, declared: Usage) -> Usage:
    """Return a declared usage, given in every unit that may be billed, in the one of a price list.

    Speech and transcription are billed by tokens for some models, by characters or duration for
    others.
    """
    billed = None
    if declared.characters and "characters" not in rates.unpriced and rates.is_known:
        billed = Usage(characters=declared.characters)
    elif declared.audio_ms and "audio_hour" not in rates.unpriced and rates.is_known:
        billed = Usage(audio_ms=declared.audio_ms)
    if billed is None:
        return declared._replace(characters=0, audio_ms=0)
    return billed._replace(model=declared.model, tier=declared.tier, quality=declared.quality)


def is_plain(usage: Usage) -> bool:
    """Return whether a usage has plain input and output only, as most have."""
    return _parts_of(usage) == _NO_PARTS


# Most calls have no cached, written or reasoning tokens, and nearly all have no audio, images or
# searches. Comparing all at once finds these, and takes a third of the time of the general case.
_PART_COUNTS = COUNTS[COUNTS.index("output_tokens") + 1 :]
_parts_of = values_of(Usage, _PART_COUNTS)
_NO_PARTS = (0,) * len(_PART_COUNTS)

UNLISTED = "units billed by the piece"
"""Name of `Usage.unlisted_units` among unpriced parts."""


def unpriced_parts(usage: Usage, rates: Rates) -> tuple[str, ...]:
    """Return the parts of a usage that have no price."""
    unpriced = rates.unpriced
    if media_of(usage) == NO_MEDIA and "input" not in unpriced and "output" not in unpriced:
        return ()  # the other components of most calls have their price from these two
    counts = split(usage)
    parts = [name for name in Prices._fields if name in unpriced and getattr(counts, name)]
    return (*parts, *((UNLISTED,) if usage.unlisted_units else ()))


def assumed_parts(usage: Usage, rates: Rates) -> tuple[str, ...]:
    """Return the parts of a usage that were priced like another part."""
    assumed = rates.assumed
    has_tier = prices_for(rates, usage.input_tokens) is not rates.prices
    if has_tier and usage.largest_input_tokens == 0:
        return (TIERS,)  # which requests of the sum reached it is not known
    if media_of(usage) == NO_MEDIA and VARIANT not in assumed:
        return ()
    counts = split(usage)
    return tuple(name for name in sorted(assumed) if name == VARIANT or getattr(counts, name))
