"""Readers of single fields, for plans: an exact value, or None and a record of the broken rule.

One error can so name every broken rule at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from paygent.core.money import read_decimal
from paygent.core.validation import InvalidValue, ValidationErrors

_COUNT_CAP_MAX = 9 * 10**18  # 64-bit counters

_V = TypeVar("_V")


def read_items(errors: ValidationErrors, name: str, given: Any) -> list[tuple[str, Any]]:
    """Return the entries of a mapping with names as keys; record those with other keys."""
    if not isinstance(given, Mapping):
        errors.add(name, given, "must be a dict by name")
        return []
    pairs = []
    for key, value in given.items():
        if not isinstance(key, str) or not key:
            errors.add(name, key, "must have names (non-empty strings) as keys")
        else:
            pairs.append((key, value))
    return pairs


def read_field(errors: ValidationErrors, name: str, given: Any, read: Any) -> Any:
    """Read one value with a function that raises ValueError; record the error and return None."""
    try:
        return read(given)
    except ValueError as error:
        errors.add(name, given, str(error))
        return None


def read_value(
    errors: ValidationErrors, name: str, given: Any, kind: type[_V], shorthand: str | None
) -> _V | None:
    """Read a value of a dataclass: an instance, a dict of its fields, or a number.

    Args:
        errors: Collects every broken rule, with `name` in front of the field.
        name: Path of the value.
        given: As the caller wrote it.
        kind: The dataclass.
        shorthand: The field that a plain number or None sets; None allows neither.
    """
    if isinstance(given, kind):
        return given
    arguments: Any = given
    # `{"gpt-4o": 50_000}` means a limit of so many tokens.
    if shorthand is not None and (given is None or isinstance(given, (int, float))):
        arguments = {shorthand: given}
    if not isinstance(arguments, Mapping):
        errors.add(name, given, f"must be a {kind.__name__}, or a dict of its fields")
        return None
    known = {spec.name for spec in fields(kind) if spec.init}  # type: ignore[arg-type]
    unknown = [key for key in arguments if key not in known]
    for key in unknown:
        errors.add(f"{name}.{key}", arguments[key], f"is not a field of {kind.__name__}")
    if unknown:
        return None
    try:
        return kind(**arguments)
    except InvalidValue as error:
        for finding in error.findings:
            errors.add(f"{name}.{finding.field}", finding.value, finding.rule)
    # A required field is absent.
    except TypeError:
        errors.add(name, given, f"lacks a field that {kind.__name__} needs")
    return None


def read_count(errors: ValidationErrors, name: str, given: Any, *, optional: bool) -> int | None:
    """Read a whole number from 0 up; record the rule that it breaks."""
    if given is None and optional:
        return None
    number = read_decimal(given)
    # A text such as "1e3" is more likely a mistake than a count.
    if isinstance(given, str) and not given.isdigit():
        number = None
    if number is None or not number.is_finite() or number != number.to_integral_value():
        errors.add(
            name, given, "must be a whole number" + (", or None for no limit" if optional else "")
        )
        return None
    if not 0 <= number <= _COUNT_CAP_MAX:
        errors.add(name, given, "must be from 0 to 9·10¹⁸")
        return None
    return int(number)


def read_number(errors: ValidationErrors, name: str, given: Any) -> float | None:
    """Read a finite number; record the rule that it breaks."""
    number = read_decimal(given) if not isinstance(given, str) else None
    if number is None or not math.isfinite(float(number)):
        errors.add(name, given, "must be a finite number")
        return None
    return float(number)
