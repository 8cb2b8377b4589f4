"""Explains the cost of one event: the count, rate and amount of each component.

The same integers that priced the call, listed instead of summed at once, so that a person can check
them. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from paygent.core.event import Event
from paygent.core.money import divide_half_even
from paygent.core.pricing import (
    PARTS_PER_NANO,
    Prices,
    Rates,
    Tier,
    amounts_of,
    assumed_parts,
    prices_of,
)
from paygent.core.usage import RARE_COUNTS, Usage

OTHERS = "others_nano"
"""Key in an event's details: the cost of other models that the provider used for the call."""

LARGEST_INPUT = "largest_input_tokens"
"""Key in the details of an event for several requests; see `Usage`."""

BILLED = "billed:"
"""Prefix of the price id of an event with a cost reported by the provider."""


class CostComponent(NamedTuple):
    """One component of an event's cost.

    Attributes:
        component: As in `Prices`.
        quantity: Tokens, characters, searches, or milliseconds of audio.
        price_pico: Pico-dollars per million tokens or characters, per thousand searches, per hour.
        amount: Quantity times price, in parts of a dollar (`PARTS_PER_USD`), unrounded.
    """

    component: str
    quantity: int
    price_pico: int
    amount: int


class Explanation(NamedTuple):
    """The arithmetic of one event.

    Attributes:
        lines: The components with a count.
        amount: Their sum, in parts of a dollar (`PARTS_PER_USD`), unrounded.
        cost_nano: That sum, rounded once, half to even, plus `others_nano`.
        others_nano: The cost of other models used for the call, by their own price lists.
        tier_above: The input threshold of the price tier that applied, or None.
        assumed: Components without a price in the list, priced like another component.
    """

    lines: tuple[CostComponent, ...]
    amount: int
    cost_nano: int
    others_nano: int
    tier_above: int | None
    assumed: tuple[str, ...]


def explain(event: Event, rates: Rates) -> Explanation:
    """Recompute the cost of an event's tokens with the price list with which it was booked."""
    usage = _usage_of(event)
    prices = prices_of(usage, rates)
    # By identity: two tiers may have equal prices.
    tier_above = next(
        (step.above_input_tokens for step in rates.tiers if step.prices is prices), None
    )
    lines = tuple(CostComponent(name, *row) for name, row in amounts_of(usage, prices).items())
    amount = sum(line.amount for line in lines)
    # Other models were priced by their own lists, so only their sum is kept.
    others_nano = (event.details or {}).get(OTHERS, 0)
    cost_nano = divide_half_even(amount, PARTS_PER_NANO) + others_nano
    assumed = assumed_parts(usage, rates)
    return Explanation(lines, amount, cost_nano, others_nano, tier_above, assumed)


def _usage_of(event: Event) -> Usage:
    """Return the counts of an event in the form in which they were priced."""
    # An event adds up parts that are priced separately; here they are taken apart again.
    rare: dict[str, Any] = {name: (event.details or {}).get(name, 0) for name in RARE_COUNTS}
    return Usage(
        event.input_tokens,
        event.output_tokens,
        event.cached_input_tokens - rare["cached_image_tokens"] - rare["cached_audio_tokens"],
        event.cache_write_tokens - rare["cache_write_long_tokens"],
        reasoning_tokens=event.reasoning_tokens,
        largest_input_tokens=(event.details or {}).get(LARGEST_INPUT, -1),
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
        "assumed": sorted(rates.assumed),
    }


def rates_from_json(price_id: str, document: Mapping[str, Any]) -> Rates:
    """Read what `rates_to_json` wrote; KeyError, TypeError or ValueError for other documents."""
    tiers: Iterable[Any] = document["tiers"]
    return Rates(
        Prices(**document["prices"]),
        tuple(Tier(int(above), Prices(**prices)) for above, prices in tiers),
        price_id,
        str(document["source"]),
        str(document["as_of"]),
        frozenset(document["unpriced"]),
        frozenset(document.get("assumed", ())),  # absent from lists of older versions
    )
