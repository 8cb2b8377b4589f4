"""Errors about values: every broken rule at once, each with field, value and rule.

Used for values from outside: `init`, plans, `record_event`, files, requests. The call path never
raises these, because a bad value must not make a provider call fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from paygent.core.money import read_decimal

NAME_CHARS_MAX = 255
"""Characters of a user id and of the name of a model, plan or provider."""

FINDINGS_MAX = 1_000
"""Broken rules that are reported at once; a body of megabytes may break one with each value."""

NAME_RULE = f"must be a string of 1 to {NAME_CHARS_MAX} characters"

_SHOWN_CHARS_MAX = 80  # enough to recognize a value in an error message
_COUNT_CAP_MAX = 9 * 10**18  # 64-bit counters

_V = TypeVar("_V")


@dataclass(frozen=True)
class FieldError:
    """One rule that one value breaks.

    Attributes:
        field: Dotted path of the value, as the caller wrote it (`model_limits.gpt-4o`).
        value: The value itself.
        rule: The values that are accepted, in words.
    """

    field: str
    value: Any
    rule: str

    def __str__(self) -> str:
        return f"{self.field} = {_shown(self.value)}: {self.rule}"


def _shown(value: Any) -> str:
    shown = f"<{type(value).__name__}>"
    with suppress(Exception):  # runs the application's code; a number of 5,000 digits has no repr
        shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS_MAX else shown[: _SHOWN_CHARS_MAX - 1] + "…"


class InvalidValue(ValueError):
    """A value from outside breaks one or more rules.

    Attributes:
        findings: Every broken rule, in the order of the fields; never empty.
    """

    def __init__(self, what: str, findings: tuple[FieldError, ...]) -> None:
        self.what = what
        self.findings = findings
        super().__init__(f"{what}: {'; '.join(str(finding) for finding in findings)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.what, self.findings))


@dataclass
class ValidationErrors:
    """Collects broken rules while a value is read, so that all are reported together."""

    what: str
    found: list[FieldError] = field(default_factory=list)

    def add(self, name: str, value: Any, rule: str) -> None:
        """Record that the field `name` with `value` breaks `rule`; of very many, the first."""
        if len(self.found) < FINDINGS_MAX:
            self.found.append(FieldError(name, value, rule))

    def raise_if_any(self) -> None:
        """Raise `InvalidValue` if at least one rule was broken."""
        if self.found:
            raise InvalidValue(self.what, tuple(self.found))


def read_items(errors: ValidationErrors, name: str, given: Any) -> list[tuple[str, Any]]:
    """Return the entries of a mapping with names as keys; record those with other keys."""
    if not isinstance(given, Mapping):
        errors.add(name, given, "must be a dict with names as keys")
        return []
    odd = [key for key in given if not isinstance(key, str) or not key]
    for key in odd:
        errors.add(name, key, "must have names (non-empty strings) as keys")
    return [(key, value) for key, value in given.items() if isinstance(key, str) and key]


def read_field(errors: ValidationErrors, name: str, given: Any, read: Any) -> Any:
    """Read one value with a function that raises ValueError; record the error and return None."""
    try:
        return read(given)
    except ValueError as error:
        errors.add(name, given, str(error))
        return None


def read_value(
    errors: ValidationErrors, name: str, given: Any, kind: type[_V], shorthand: str | None = None
) -> _V | None:
    """Read a value of a dataclass: an instance, a dict of its fields, or a plain number or None for
    the field `shorthand`, if there is one.
    """
    if isinstance(given, kind):
        return given
    # `{"gpt-4o": 50_000}` means a limit of so many tokens.
    is_short = shorthand is not None and (given is None or isinstance(given, (int, float)))
    arguments: Any = {shorthand: given} if is_short else given
    if not isinstance(arguments, Mapping):
        short = "a number, " if shorthand is not None else ""
        errors.add(name, given, f"must be {short}a {kind.__name__} or a dict of its fields")
        return None
    specs = [spec for spec in fields(kind) if spec.init]  # type: ignore[arg-type]
    known = {spec.name for spec in specs}
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
    except TypeError:
        required = [spec.name for spec in specs if _is_required(spec)]
        missing = ", ".join(key for key in required if key not in arguments)
        errors.add(name, given, f"lacks {missing}")
    return None


def _is_required(spec: Field[Any]) -> bool:
    return spec.default is MISSING and spec.default_factory is MISSING


def read_count(
    errors: ValidationErrors, name: str, given: Any, *, optional: bool = False
) -> int | None:
    """Read a whole number from 0 up; record the rule that it breaks."""
    if given is None and optional:
        return None
    # A text such as "1e3" is more likely a mistake than a count.
    number = None if isinstance(given, str) and not given.isdigit() else read_decimal(given)
    if number is None or not number.is_finite() or number != number.to_integral_value():
        rule = "must be a whole number" + (", or None for no limit" if optional else "")
        errors.add(name, given, rule)
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
