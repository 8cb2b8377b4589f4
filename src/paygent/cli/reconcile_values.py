"""The values of a provider's export, read strictly: what breaks a rule is recorded with its place.

Numbers in CSV are text, and some tools write whole numbers with a decimal point (`59200.0`).
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

from paygent.core.event_json import read_time
from paygent.core.money import read_cost_nano, read_decimal, shifted
from paygent.core.period import day, day_name
from paygent.core.validation import NAME_CHARS_MAX, ValidationErrors

DOLLAR_PLACES, CENT_PLACES = 0, -2
"""Powers of ten that make dollars of an amount."""

_COUNT_MAX = 9 * 10**18  # 64-bit counters
_COUNT_RULE = "must be a whole number from 0 to 9·10¹⁸"
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,60})?([eE][-+]?[0-9]{1,3})?")
_EXPONENT_MAX = 100  # far outside of every rule; arithmetic has limits of its own
_DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?Z?)?")
_YEARS = range(1970, 3000)  # a far day would be a mistake, and the day after it may not exist
_DAY_RULE = "must be a UTC day (YYYY-MM-DD), from 1970 to 2999"
_SPAN_RULE = "must be after the start, and within its UTC day: export days or shorter spans"
_END_S = 32_503_680_000  # year 3000
_SECONDS_RULE = "must be whole seconds since 1970, until 2999"


class FieldReader:
    """Reads the values of one row or object, and records those that break a rule.

    Args:
        errors: Collects what breaks a rule.
        prefix: Is before the name of each value: `line 5, ` or `data[3].`.
    """

    def __init__(self, errors: ValidationErrors, prefix: str) -> None:
        self._errors = errors
        self._prefix = prefix

    def reject(self, name: str, given: Any, rule: str) -> None:
        """Record that a value breaks a rule."""
        self._errors.add(self._prefix + name, given, rule)

    def count(self, name: str, given: Any) -> int:
        """Return a whole number from 0 up; 0 after an error."""
        number = _decimal(given)
        if number is None or number != number.to_integral_value() or not 0 <= number <= _COUNT_MAX:
            self.reject(name, given, _COUNT_RULE)
            return 0
        return int(number)

    def cost_nano(self, name: str, given: Any, places: int = DOLLAR_PLACES) -> int:
        """Return an amount in nano-dollars; 0 after an error.

        Args:
            name: The field.
            given: A number or its text.
            places: `DOLLAR_PLACES` or `CENT_PLACES`.
        """
        number = _decimal(given)
        if number is None:
            self.reject(name, given, "must be an amount of money, a finite number from 0 up")
            return 0
        try:
            return read_cost_nano(shifted(number, places))
        except ValueError as error:
            self.reject(name, given, str(error))
            return 0

    def currency(self, name: str, given: Any) -> None:
        """Check that an amount is in US dollars."""
        if not isinstance(given, str) or given.lower() != "usd":
            self.reject(name, given, "must be USD: Paygent counts dollars")

    def text(self, name: str, given: Any) -> str | None:
        """Return a text; None without one, or after an error."""
        if given is None or given == "":
            return None
        if not isinstance(given, str) or len(given) > NAME_CHARS_MAX:
            self.reject(name, given, f"must be a string of at most {NAME_CHARS_MAX} characters")
            return None
        return given

    def day(self, name: str, given: Any) -> str:
        """Return a UTC day that may have a time of day; "" after an error."""
        match = _DAY.fullmatch(given) if isinstance(given, str) else None
        try:
            if match is not None and date.fromisoformat(match[1]).year in _YEARS:
                return match[1]
        except ValueError:
            pass  # such as a 30th of February
        self.reject(name, given, _DAY_RULE)
        return ""

    def seconds_us(self, name: str, given: Any) -> int | None:
        """Return a time in seconds since 1970 in microseconds; None after an error."""
        number = _decimal(given)
        whole = number is not None and number == number.to_integral_value()
        if number is None or not whole or not 0 <= number < _END_S:
            self.reject(name, given, _SECONDS_RULE)
            return None
        return int(number) * 10**6

    def time_us(self, name: str, given: Any) -> int | None:
        """Return an RFC 3339 time in microseconds; None after an error."""
        at_us = read_time(given)
        if at_us is None or at_us >= _END_S * 10**6:
            self.reject(
                name, given, "must be a time with a time zone, from 1970 to 2999 (RFC 3339)"
            )
            return None
        return at_us

    def day_of(self, name: str, start_us: int | None, end_us: int | None, given_end: Any) -> str:
        """Return the UTC day that a span of time is in; "" after an error.

        Args:
            name: The field of the end.
            start_us, end_us: The span, half-open; None was rejected already.
            given_end: The end as it is in the file.
        """
        if start_us is None or end_us is None:
            return ""
        if not start_us < end_us <= day(start_us).end_us:
            self.reject(name, given_end, _SPAN_RULE)
            return ""
        return day_name(start_us)


def _decimal(given: Any) -> Decimal | None:
    """Return a finite number, or None."""
    if isinstance(given, str) and _NUMBER.fullmatch(given) is None:
        return None  # `Decimal` would also read 1_000 and the digits of other scripts
    number = read_decimal(given)
    if number is None or not number.is_finite() or abs(number.adjusted()) > _EXPONENT_MAX:
        return None
    return number
