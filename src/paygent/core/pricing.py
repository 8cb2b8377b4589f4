"""What a usage costs: integer prices times integer counts, rounded once.

`Rates` are complete: a component that a price list does not name was given the price of its parent
when the rates were resolved (cached input costs what input costs, reasoning what output costs), so
that pricing a call is a sum of products and cannot fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from paygent.core.money import NanoUsd, divide_half_even
from paygent.core.usage import Usage

TOKEN_COMPONENTS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_long",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "cached_image",
    "cached_audio",
)
"""The parts of a call that are priced per million tokens."""

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
"""Whose price a component takes when the price list does not name it."""

FEES = ("web_search", "file_search", "characters", "audio_hour", "request")
"""The parts of a call that are no tokens: they have a price of their own or none."""

ASSUMED = frozenset({"audio_input", "audio_output"})
"""Components whose price is never their parent's, so that a list without it leaves one to assume
it.
"""

_TOKENS_PER_LIST_UNIT = 10**6
_PICO_PER_NANO = 10**3
_ONE_NANO = _TOKENS_PER_LIST_UNIT * _PICO_PER_NANO
"""A nano-dollar in the unit of counts times prices, 10⁻¹⁸ dollars."""

MS_PER_HOUR = 3_600_000
_HOUR_FACTOR, _HOUR_PARTS = 10, 36
"""Milliseconds times pico-dollars per hour, times 10, are 36 times that unit."""


class Prices(NamedTuple):
    """Prices of one model in pico-dollars: per million tokens or characters, per thousand searches
    or requests, and per hour of audio. A price for requests is one that each call has besides.
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
"""What turns counts times prices of these components into those of tokens, which are priced per
million.
"""


class Tier(NamedTuple):
    """Prices of calls whose whole input is larger than `above_input_tokens` (every token of the
    call).
    """

    above_input_tokens: int
    prices: Prices


class Rates(NamedTuple):
    """The price list that a call is booked with, and where it comes from.

    Attributes:
        prices: What a call costs below every tier.
        tiers: Dearer (or cheaper) lists for large inputs, by rising threshold.
        price_id: Name of this price list, written into each event:
            `<source>:<provider>/<model>@<date>`.
        source: "plan", "plan-default", "catalogue" or "none".
        as_of: Date of the catalogue, ISO 8601, or "" where there is none.
        unpriced: Components that have no price of their own nor a parent's; a call that uses one is
            marked.
        assumed: Components, or a price variant as a whole (`VARIANT`), whose price the list does
            not name and which is taken from another; a call that uses one is marked.
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
        """Whether there is a price for this model at all."""
        return self.source != "none"


VARIANT = "variant"
"""Stands among `Rates.assumed` for a price variant that the list does not have."""

TIERS = "price tiers of its requests"
"""What has to be assumed of a sum of requests that may have reached a tier, each for itself."""


def complete(own: Mapping[str, int]) -> tuple[Prices, frozenset[str]]:
    """Fill in the components that a price list does not name from their parents.

    Args:
        own: Pico-dollars per list unit by component name, as far as the list names them.

    Returns:
        The complete prices, and the components that have none.
    """
    prices = dict(own)
    for name in TOKEN_COMPONENTS:
        parent = PARENTS.get(name)
        if name not in prices and parent in prices:
            prices[name] = prices[parent]
    missing = frozenset(name for name in Prices._fields if name not in prices) - {"request"}
    return Prices(**prices), missing


class Counts(NamedTuple):
    """A usage split so that each token is in exactly one component; same order as `Prices`."""

    input: int
    cached_input: int
    cache_write: int
    cache_write_long: int
    output: int
    reasoning: int
    audio_input: int
    audio_output: int
    image_input: int
    image_output: int
    web_search: int
    file_search: int
    characters: int
    audio_hour: int
    cached_image: int
    cached_audio: int
    request: int


def split(usage: Usage) -> Counts:
    """Split an inclusive usage into disjoint components; audio counts in milliseconds.

    Audio and image tokens that were read from a cache are not told apart by the providers; where
    the parts together exceed the whole, the plain component is 0 and the parts count as reported.
    """
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
    """Return the price list of a call with this many input tokens: a tier applies to the whole
    call.
    """
    chosen = rates.prices
    for tier in rates.tiers:
        if input_tokens > tier.above_input_tokens:
            chosen = tier.prices
    return chosen


def prices_of(usage: Usage, rates: Rates) -> Prices:
    """Return the price list of a usage: that of its input, or of the largest of its requests where
    it sums up several.
    """
    largest = usage.largest_input_tokens
    return prices_for(rates, largest if largest >= 0 else usage.input_tokens)


def tokens_cost_nano(input_tokens: int, output_tokens: int, rates: Rates) -> NanoUsd:
    """Return what plain input and output cost, in nano-dollars, rounded once, half to even."""
    prices = prices_for(rates, input_tokens) if rates.tiers else rates.prices
    numerator = input_tokens * prices[0] + output_tokens * prices[4]
    return NanoUsd(divide_half_even(numerator, _ONE_NANO))


def bound_nano(
    input_tokens: int, output_tokens: int, rates: Rates, *, writes_cache: bool
) -> NanoUsd:
    """Return the most that so many tokens of text can cost, in nano-dollars, rounded up.

    Args:
        input_tokens, output_tokens: Counted at most.
        rates: What they cost; a tier that the input may reach applies.
        writes_cache: Whether the input may be written to a cache, which can be dearer.
    """
    prices = prices_for(rates, input_tokens)
    dearest = max(prices[:4]) if writes_cache else max(prices[:2])
    numerator = input_tokens * dearest + output_tokens * max(prices[4:6])
    return NanoUsd(-(-numerator // _ONE_NANO))


def cost_nano(usage: Usage, rates: Rates) -> NanoUsd:
    """Return what a usage costs, in nano-dollars, rounded once, half to even."""
    prices = prices_of(usage, rates) if rates.tiers else rates.prices
    has_fee = prices.request
    if is_plain(usage) and not has_fee:
        return NanoUsd(divide_half_even(usage[0] * prices[0] + usage[1] * prices[4], _ONE_NANO))
    if usage[6:17] == _PLAIN_MEDIA and not has_fee:
        cached, written, written_long, reasoning = usage[2:6]
        rest_input = usage[0] - cached - written - written_long
        numerator = (
            (rest_input if rest_input > 0 else 0) * prices[0]
            + cached * prices[1]
            + written * prices[2]
            + written_long * prices[3]
            + (usage[1] - reasoning if usage[1] > reasoning else 0) * prices[4]
            + reasoning * prices[5]
        )
        return NanoUsd(divide_half_even(numerator, _ONE_NANO))
    amounts = (part for _, _, part in amounts_of(usage, prices).values())
    return NanoUsd(divide_half_even(sum(amounts), _ONE_NANO * _HOUR_PARTS))


def amounts_of(usage: Usage, prices: Prices) -> dict[str, tuple[int, int, int]]:
    """Return the components that a usage has: count, price, and what both make, unrounded, in parts
    (`PARTS_PER_USD` to the dollar).
    """
    return {
        name: (
            count,
            price,
            count
            * price
            * (_HOUR_FACTOR if name == "audio_hour" else FACTORS.get(name, 1) * _HOUR_PARTS),
        )
        for name, count, price in zip(Prices._fields, split(usage), prices, strict=True)
        if count and (price or name != "request")
    }


PARTS_PER_USD = 10**18 * _HOUR_PARTS
"""The unit of unrounded amounts: a pico-dollar per hour, for a millisecond, is ten of them."""


def in_units_of(rates: Rates, told: Usage) -> Usage:
    """Return a use that is told in all units that a price list may have, in those that it has.

    Args:
        rates: Of the model; speech and transcriptions are billed by tokens with some, by characters
            or duration with others.
        told: What a request alone tells.
    """
    own = None
    if told.characters and "characters" not in rates.unpriced and rates.is_known:
        own = Usage(characters=told.characters)
    elif told.audio_ms and "audio_hour" not in rates.unpriced and rates.is_known:
        own = Usage(audio_ms=told.audio_ms)
    if own is None:
        return told._replace(characters=0, audio_ms=0)
    return own._replace(model=told.model, tier=told.tier, quality=told.quality)


def is_plain(usage: Usage) -> bool:
    """Tell whether a usage is of plain input and output alone, as most are."""
    return usage[2:17] == _PLAIN


# Most calls have no cached, written or reasoning tokens, and nearly all no audio, images or
# searches; these are told by comparing slices, which is what makes pricing a microsecond and not
# three.
_PLAIN = (0,) * 15
_PLAIN_MEDIA = (0,) * 11


UNLISTED = "what is billed by the piece"
"""Stands among unpriced parts for `Usage.unlisted_units`."""


def unpriced_parts(usage: Usage, rates: Rates) -> tuple[str, ...]:
    """Return the parts of a usage that have no price."""
    unpriced = rates.unpriced
    if usage[6:17] == _PLAIN_MEDIA and "input" not in unpriced and "output" not in unpriced:
        return ()  # the other components of most calls take their price from these two
    counts = split(usage)
    found = [name for name in Prices._fields if name in unpriced and getattr(counts, name)]
    return (*found, *((UNLISTED,) if usage.unlisted_units else ()))


def assumed_parts(usage: Usage, rates: Rates) -> tuple[str, ...]:
    """Return the parts of a usage whose price had to be taken from another."""
    assumed = rates.assumed
    if (
        usage.largest_input_tokens == 0
        and rates.tiers
        and usage.input_tokens > rates.tiers[0].above_input_tokens
    ):
        return (TIERS,)
    if usage[6:17] == _PLAIN_MEDIA and VARIANT not in assumed:
        return ()
    counts = split(usage)
    return tuple(name for name in sorted(assumed) if name == VARIANT or getattr(counts, name))
