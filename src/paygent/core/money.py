"""Exact money: integers inside, floats only for display.

Amounts are nano-dollars (10⁻⁹ $), prices are pico-dollars (10⁻¹² $) per list unit (a million
tokens, an hour, a thousand requests). A price of $0.0375 per million tokens is 37.5 nano-dollars
and not an integer of those, hence the finer unit for prices. Every event is rounded once, half to
even.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NewType, TypeAlias

Number: TypeAlias = Decimal | int | float | str
"""A number as applications may write it; a float is read as its shortest decimal."""

NanoUsd = NewType("NanoUsd", int)
"""An amount of money in 10⁻⁹ US dollars."""

PicoUsd = NewType("PicoUsd", int)
"""A price in 10⁻¹² US dollars per list unit."""

NANO_PER_USD = 10**9
PICO_PER_USD = 10**12

COST_NANO_MAX = 10**6 * NANO_PER_USD
"""A single cost above a million dollars is a mistake, not a cost."""

CAP_NANO_MAX = 9 * 10**9 * NANO_PER_USD
"""Sums are kept in 64-bit integers, so a cap above this is no cap."""

_DIGITS_MAX = 40  # smaller numbers are 0 in any unit; "1e-999999" is never expanded


def to_usd(amount_nano: NanoUsd | int) -> float:
    """Return the double nearest to an exact amount, for display."""
    return amount_nano / NANO_PER_USD  # correctly rounded: 150_000_000 gives exactly `0.15`


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide two integers and round the result half to even (denominator > 0)."""
    # `divmod` rounds down, so the rest is never negative, also for negative numerators.
    quotient, rest = divmod(numerator, denominator)
    twice = rest * 2
    if twice > denominator or (twice == denominator and quotient & 1):
        return quotient + 1
    return quotient


def read_decimal(value: Any) -> Decimal | None:
    """Read a Decimal, int, float (taken as its shortest decimal) or str as it was written.

    The result is exact, also where infinite or NaN; None if `value` is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float, str)):
        return None
    try:
        return Decimal(repr(float(value)) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        return None


def scale(value: Decimal, factor: int) -> int:
    """Return a finite value times a positive power of ten as an integer, half to even."""
    # Fractions, because decimals compute with the application's precision and traps.
    if not value or value.adjusted() < -_DIGITS_MAX:
        return 0
    return round(Fraction(value) * factor)


def from_units(amount: int, places: int) -> Decimal:
    """Return `amount × 10^-places` exactly, independent of the application's decimal context."""
    # Built from digits: arithmetic would round to the application's precision.
    return Decimal((int(amount < 0), tuple(map(int, str(abs(amount)))), -places))


def shifted(number: Decimal, places: int) -> Decimal:
    """Return a number times a power of ten, exactly, in any range and precision."""
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):  # infinite or NaN
        return number
    return Decimal((sign, digits, exponent + places))


def read_cost_nano(value: Any) -> NanoUsd:
    """Read one cost, 0 to 1,000,000 dollars; a ValueError names the rule that `value` breaks."""
    number = _read_dollars(value)
    if number.is_infinite():
        raise ValueError("must be finite")
    return NanoUsd(_scale_in_range(number, NANO_PER_USD))


def read_cap_nano(value: Any) -> NanoUsd | None:
    """Read a cap in dollars; None for no limit. A ValueError names the rule that `value` breaks.

    None or an infinite number means no limit, and so does an amount above 9·10⁹ dollars, the range
    of 64 bits.
    """
    if value is None:
        return None
    number = _read_dollars(value, ", or None for no limit")
    if number < 0:
        raise ValueError("must not be negative")
    if number.is_infinite() or number > CAP_NANO_MAX // NANO_PER_USD:
        return None
    return NanoUsd(scale(number, NANO_PER_USD))


def read_price_pico(value: Any, *, units_per_list_unit: int = 1) -> PicoUsd:
    """Read a price in dollars; a ValueError names the rule that `value` breaks.

    `units_per_list_unit` of the caller's units make one list unit: 1000 where the price is per
    thousand tokens and the list unit is a million.
    """
    number = read_decimal(value)
    if number is None:
        raise ValueError("must be a price in dollars (Decimal, int, float or str)")
    if not number.is_finite():
        raise ValueError("must be a finite price in dollars")
    return PicoUsd(_scale_in_range(number, PICO_PER_USD * units_per_list_unit))


def _read_dollars(value: Any, ending: str = "") -> Decimal:
    number = read_decimal(value)
    if number is None:
        raise ValueError(f"must be a number of dollars (Decimal, int, float or str){ending}")
    if number.is_nan():
        raise ValueError("must be a number of dollars, not NaN")
    return number


def _scale_in_range(number: Decimal, factor: int) -> int:
    if number < 0:
        raise ValueError("must not be negative")
    if number > COST_NANO_MAX // NANO_PER_USD:
        raise ValueError("must be at most 1,000,000 dollars")
    return scale(number, factor)


def read_parts_per_million(value: Any) -> int:
    """Read a fraction such as 0.8 as parts per million, half to even; else ValueError."""
    number = read_decimal(value)
    if number is None or not number.is_finite():
        raise ValueError("must be a finite number")
    if not -(10**6) <= number <= 10**6:
        raise ValueError("must be a fraction, such as 0.8")
    return scale(number, 10**6)


def is_unlimited(value: Any) -> bool:
    """Return whether a cap is so large that it means "no limit", though it is a finite number."""
    number = read_decimal(value)
    return number is not None and number.is_finite() and number > CAP_NANO_MAX // NANO_PER_USD


def format_usd(amount_nano: int, *, decimals: int = 2) -> str:
    """Format an amount for display: `$1,234.50`, with a minus sign in front of the dollar sign."""
    unit = 10 ** (9 - decimals)
    # Rounded on the absolute amount, so that a debt shows like an amount.
    cents = divide_half_even(abs(amount_nano), unit)
    whole, part = divmod(cents, 10**decimals)
    sign = "−" if amount_nano < 0 and cents else ""
    tail = f".{part:0{decimals}d}" if decimals else ""
    return f"{sign}${whole:,}{tail}"


def decimal_text(value: Decimal) -> str:
    """Return an amount of dollars, tokens or calls as decimal text, with at most nine decimals."""
    text = f"{value:.9f}"
    return text.rstrip("0").rstrip(".")
