"""Errors about values: every broken rule at once, each with field, value and rule.

Used for values from outside: `init`, plans, `record_event`, files, requests. The call path never
raises these, because a bad value must not make a provider call fail.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

NAME_CHARS_MAX = 255
"""Characters of a user id and of the name of a model, plan or provider."""

NAME_RULE = f"must be a string of 1 to {NAME_CHARS_MAX} characters"

_SHOWN_CHARS_MAX = 80  # enough to recognize a value in an error message


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
        lines = "; ".join(str(finding) for finding in findings)
        super().__init__(f"{what}: {lines}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.what, self.findings))


@dataclass
class ValidationErrors:
    """Collects broken rules while a value is read, so that all are reported together."""

    what: str
    found: list[FieldError] = field(default_factory=list)

    def add(self, name: str, value: Any, rule: str) -> None:
        """Record that the field `name` with `value` breaks `rule`."""
        self.found.append(FieldError(name, value, rule))

    def raise_if_any(self) -> None:
        """Raise the recorded errors.

        Raises:
            InvalidValue: At least one rule was broken.
        """
        if self.found:
            raise InvalidValue(self.what, tuple(self.found))
