"""What a usage costs: integer prices times integer counts, rounded once.

`Rates` are complete: a component that a price list does not name was given the price of its parent
when the rates were resolved (cached input costs what input costs, reasoning what output costs), so
that pricing a call is a sum of products and cannot fail.
"""

from __future__ import annotations

from typing import NamedTuple

from paygent.core.money import divide_half_even
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
)
"""The parts of a call that are priced per million tokens, in the order of `Prices`."""

PARENTS = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_long": "cache_write",
    "reasoning": "output",
    "audio_input": "input",
    "audio_output": "output",
    "image_input": "input",
    "image_output": "output",
}
"""Whose price a component takes when the price list does not name it."""

_TOKENS_PER_LIST_UNIT = 10**6
_SEARCHES_PER_LIST_UNIT = 10**3
_PICO_PER_NANO = 10**3


class Prices(NamedTuple):
    """Prices of one model in pico-dollars: per million tokens, and per thousand web searches."""

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
    """

    prices: Prices
    tiers: tuple[Tier, ...] = ()
    price_id: str = ""
    source: str = "none"
    as_of: str = ""
    unpriced: frozenset[str] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether there is a price for this model at all."""
        return self.source != "none"


def complete(own: dict[str, int]) -> tuple[Prices, frozenset[str]]:
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
    missing = frozenset(name for name in (*TOKEN_COMPONENTS, "web_search") if name not in prices)
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


def split(usage: Usage) -> Counts:
    """Split an inclusive usage into disjoint components.

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


def tokens_cost_nano(input_tokens: int, output_tokens: int, rates: Rates) -> int:
    """Return what plain input and output cost, in nano-dollars, rounded once, half to even."""
    prices = prices_for(rates, input_tokens) if rates.tiers else rates.prices
    numerator = input_tokens * prices[0] + output_tokens * prices[4]
    return divide_half_even(numerator, _TOKENS_PER_LIST_UNIT * _PICO_PER_NANO)


def bound_nano(input_tokens: int, output_tokens: int, rates: Rates, *, writes_cache: bool) -> int:
    """Return the most that so many tokens of text can cost, in nano-dollars, rounded up.

    Args:
        input_tokens, output_tokens: Counted at most.
        rates: What they cost; a tier that the input may reach applies.
        writes_cache: Whether the input may be written to a cache, which can be dearer.
    """
    prices = prices_for(rates, input_tokens)
    dearest = max(prices[:4]) if writes_cache else max(prices[:2])
    numerator = input_tokens * dearest + output_tokens * max(prices[4:6])
    return -(-numerator // (_TOKENS_PER_LIST_UNIT * _PICO_PER_NANO))


def cost_nano(usage: Usage, rates: Rates) -> int:
    """Return what a usage costs, in nano-dollars, rounded once, half to even."""
    if usage[2:11] == _PLAIN:
        return tokens_cost_nano(usage[0], usage[1], rates)
    prices = prices_for(rates, usage[0]) if rates.tiers else rates.prices
    if usage[6:11] == _PLAIN_MEDIA:
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
    else:
        counts = split(usage)
        numerator = sum(map(int.__mul__, counts[:10], prices[:10]))
        numerator += counts[10] * prices[10] * (_TOKENS_PER_LIST_UNIT // _SEARCHES_PER_LIST_UNIT)
    return divide_half_even(numerator, _TOKENS_PER_LIST_UNIT * _PICO_PER_NANO)


# Most calls have no cached, written or reasoning tokens, and nearly all no audio, images or
# searches; these are told by comparing slices, which is what makes pricing a microsecond and not
# three.
_PLAIN = (0,) * 9
_PLAIN_MEDIA = (0,) * 5


def uses_unpriced(usage: Usage, rates: Rates) -> bool:
    """Tell whether a call used a component that has no price."""
    if not rates.unpriced:
        return False
    counts = split(usage)
    return any(getattr(counts, name) for name in rates.unpriced)
