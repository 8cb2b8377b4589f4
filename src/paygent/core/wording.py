"""Amounts, rates, limits and times in words, the same in every command and on every page."""

from __future__ import annotations

from decimal import Decimal

from paygent.core.explain import CostComponent
from paygent.core.limit import Limit
from paygent.core.money import NANO_PER_USD, divide_half_even, format_usd, from_units
from paygent.core.period import to_datetime
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.pricing import FACTORS, PARTS_PER_USD

_PRICE_PLACES = 12  # prices are pico-dollars
_CENTS = 2
_DOLLAR_PLACES = 18  # decimals of an unrounded amount
_WINDOWS = {"period": "per period", "session": "per session", "day": "per UTC day"}
_UNITS = {
    **dict.fromkeys(FACTORS, "1,000"),
    "audio_hour": "hour",
}


def dollars(amount_nano: int) -> str:
    """Format an amount exactly, with at least two decimals."""
    decimals = 9
    while decimals > _CENTS and amount_nano % (NANO_PER_USD // 10 ** (decimals - 1)) == 0:
        decimals -= 1
    return format_usd(amount_nano, decimals=decimals)


def rate(component: str, price_pico: int) -> str:
    """Format a price with its unit: `$2.5 per million`."""
    return f"{price_in_dollars(price_pico)} per {unit_of(component)}"


def price_in_dollars(price_pico: int) -> str:
    """Format a price exactly, without trailing zeros."""
    return "$" + short(from_units(price_pico, _PRICE_PLACES))


def plan_rate(price_pico: int) -> str:
    """Format a price as plans have it, per 1,000 tokens: `$0.0025 per 1,000`."""
    return f"${short(from_units(price_pico, _PRICE_PLACES + 3))} per 1,000"


def exact_amount(parts: int) -> str:
    """Format an unrounded amount in parts of a dollar (`PARTS_PER_USD`), exactly if its decimals
    are finite.
    """
    places = from_units(divide_half_even(parts * 10**_DOLLAR_PLACES, PARTS_PER_USD), _DOLLAR_PLACES)
    return "$" + short(places)


def quantity_of(line: CostComponent) -> str:
    """Format the quantity of a cost component; audio is counted in milliseconds."""
    return (
        f"{line.quantity / 1000:,.3f} s" if line.component == "audio_hour" else f"{line.quantity:,}"
    )


def unit_of(component: str) -> str:
    """Return the unit of a component's price: a million, 1,000, or an hour."""
    return _UNITS.get(component, "million")


def short(number: Decimal) -> str:
    """Format an exact number without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def limit_in_words(limit: Limit) -> str:
    """Return a limit in words: `50,000 tokens of gpt-4o per period`."""
    amount = f"unlimited {limit.metric}"
    if limit.cap_exact is not None:
        cap = limit.cap_exact
        amount = dollars(cap) if limit.metric == "spend" else f"{cap:,} {limit.metric}"
    of = f" of {limit.model}" if limit.model else ""
    rolling = f"in any {limit.window.partition(':')[2]}"
    return f"{amount}{of} {_WINDOWS.get(limit.window, rolling)}"


def limits_in_words(plan: PlanConfig) -> str:
    """Return all limits of a plan in words, and its gates where they are not the usual ones."""
    limits = [limit_in_words(limit) for limit in limits_of(plan)]
    if not limits:
        return "no limits"
    if plan.hard_gate_at != 1:
        limits.append(f"refused at {plan.hard_gate_at:.0%} of each")
    modes = {"strict": plan.pre_call_estimate, "shadow mode: nothing is refused": not plan.enforce}
    marks = [mode for mode, is_on in modes.items() if is_on]
    return "; ".join(limits) + (f" ({', '.join(marks)})" if marks else "")


def day_and_time(at_us: int) -> str:
    """Return a time to the minute, in UTC; "-" for 0."""
    return f"{to_datetime(at_us):%Y-%m-%d %H:%M}" if at_us else "-"


def day(at_us: int) -> str:
    """Return the UTC day of a time."""
    return f"{to_datetime(at_us):%Y-%m-%d}"
