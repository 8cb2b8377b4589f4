"""How the cost of one event came about: each component, its count, its rate, and what that makes.

The same integers that priced the call, kept apart instead of summed at once, so that a person can
follow them. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from paygent.core.event import Event
from paygent.core.money import divide_half_even
from paygent.core.pricing import Prices, Rates, Tier, prices_for, split
from paygent.core.usage import RARE_COUNTS, Usage

_UNITS_PER_NANO = 10**9
"""An amount here is in 10⁻¹⁸ dollars: tokens times pico-dollars per million of them."""

_SEARCH_FACTOR = 10**3  # searches are priced per thousand, tokens per million


class Line(NamedTuple):
    """One component of an event's cost.

    Attributes:
        component: As in `Prices`.
        quantity: Tokens, or searches.
        price_pico: Pico-dollars per million tokens, or per thousand searches.
        amount: Quantity times price, in 10⁻¹⁸ dollars, unrounded.
    """

    component: str
    quantity: int
    price_pico: int
    amount: int


class Explanation(NamedTuple):
    """The arithmetic of one event.

    Attributes:
        lines: Its components that were used.
        amount: Their sum, in 10⁻¹⁸ dollars, unrounded.
        cost_nano: That, rounded once, half to even.
        tier_above: The input above which the tier begins that applied, or None.
    """

    lines: tuple[Line, ...]
    amount: int
    cost_nano: int
    tier_above: int | None


def explain(event: Event, rates: Rates) -> Explanation:
    """Work out what an event's tokens cost.

    Args:
        event: As it was booked.
        rates: The price list that it was booked with.
    """
    usage = _usage_of(event)
    prices = prices_for(rates, usage.input_tokens)
    tiers = [tier.above_input_tokens for tier in rates.tiers if tier.prices is prices]
    lines = tuple(
        Line(name, count, price, count * price * (_SEARCH_FACTOR if name == "web_search" else 1))
        for name, count, price in zip(Prices._fields, split(usage), prices, strict=True)
        if count
    )
    amount = sum(line.amount for line in lines)
    return Explanation(
        lines, amount, divide_half_even(amount, _UNITS_PER_NANO), tiers[0] if tiers else None
    )


def _usage_of(event: Event) -> Usage:
    """Return the counts of an event as they were priced."""
    rare: dict[str, Any] = {name: (event.details or {}).get(name, 0) for name in RARE_COUNTS}
    return Usage(
        event.input_tokens,
        event.output_tokens,
        event.cached_input_tokens,
        event.cache_write_tokens - rare["cache_write_long_tokens"],
        reasoning_tokens=event.reasoning_tokens,
        **rare,
    )


def rates_to_json(rates: Rates) -> dict[str, Any]:
    """Return a price list as a JSON object that `rates_from_json` reads back without loss."""
    return {
        "source": rates.source,
        "as_of": rates.as_of,
        "prices": rates.prices._asdict(),
        "tiers": [[tier.above_input_tokens, tier.prices._asdict()] for tier in rates.tiers],
        "unpriced": sorted(rates.unpriced),
    }


def rates_from_json(price_id: str, document: Mapping[str, Any]) -> Rates:
    """Read a price list that `rates_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: if the document is not one.
    """
    tiers: Iterable[Any] = document["tiers"]
    return Rates(
        Prices(**document["prices"]),
        tuple(Tier(int(above), Prices(**prices)) for above, prices in tiers),
        price_id,
        str(document["source"]),
        str(document["as_of"]),
        frozenset(document["unpriced"]),
    )
