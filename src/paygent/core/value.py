"""The methods of every public value type: dump, JSON dump and changed copy.

Applications call `model_dump()`, `model_dump_json()` and `model_copy()` on plans, events and
results. The types are frozen dataclasses; this mixin adds these methods and keeps each dollar field
consistent with its exact integer twin (`…_nano`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeVar, cast

from paygent.core.money import NANO_PER_USD, from_units, read_decimal, scale, to_usd

_V = TypeVar("_V", bound="Value")


class Value:
    """Mixin of the public frozen dataclasses.

    A dollar field is one with a twin `<name>_nano` (not an argument of the constructor) that holds
    the exact amount. It may be one amount or a dict of amounts.
    """

    _dollars: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        names = cls.__annotations__
        cls._dollars = tuple(name for name in names if name + "_nano" in names)

    def model_dump(self, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Return the fields as a dict.

        Args:
            mode: "python" keeps datetimes and infinities; "json" has JSON types only (ISO 8601
                strings, None for an infinite limit).
        """
        return {name: _dump(getattr(self, name), mode) for name in _fields(self)}

    def model_dump_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False)

    def model_copy(self: _V, *, update: Mapping[str, Any] | None = None) -> _V:
        """Return a copy with some fields changed; the copy is validated like a new value.

        Args:
            update: New values by field name. A dollar field may be given by its exact twin instead.

        Raises:
            InvalidValue: A new value breaks a rule of the type.
            TypeError: `update` names a field that the type does not have.
        """
        # A typing mistake in a name must not pass silently.
        changes = dict(update or {})
        settable = [name for name, takes_argument in _fields(self).items() if takes_argument]
        unknown = sorted(set(changes) - {*settable, *(name + "_nano" for name in self._dollars)})
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        arguments = {}
        for name in settable:
            twin = name + "_nano"
            # A given field wins over its twin; kept fields are copied exactly, not by their float.
            if name in changes:
                arguments[name] = changes[name]
            elif name in self._dollars and twin in changes:
                exact = changes[twin]
                arguments[name] = None if exact is None else exact_usd(exact)
            else:
                arguments[name] = self._exact_argument(name)
        return type(self)(**arguments)

    def _exact_argument(self, name: str) -> Any:
        """Return the constructor's argument for a field that a copy keeps."""
        exact = getattr(self, name + "_nano") if name in self._dollars else None
        return getattr(self, name) if exact is None else exact_usd(exact)

    def __post_init__(self) -> None:
        """Compute the exact twins of the dollar fields; set each field to the nearest double."""
        # Types that an application makes validate their fields instead.
        for name in self._dollars:
            given = getattr(self, name)
            if isinstance(given, Mapping):
                exact: Any = {key: _nano(amount) for key, amount in given.items()}
                shown: Any = {key: to_usd(amount) for key, amount in exact.items()}
            elif given is None or (isinstance(given, float) and math.isinf(given)):
                exact, shown = None, given  # no limit has no exact amount
            else:
                exact = _nano(given)
                shown = to_usd(exact)
            object.__setattr__(self, name + "_nano", exact)
            object.__setattr__(self, name, shown)


def exact_usd(amount_nano: Any) -> Any:
    """Return one amount, or a dict of amounts, as exact numbers of dollars."""
    if isinstance(amount_nano, Mapping):
        return {key: exact_usd(amount) for key, amount in amount_nano.items()}
    return from_units(amount_nano, 9)


def _fields(value: Value) -> dict[str, bool]:
    """Return the fields of a dataclass instance, each with whether its constructor takes it."""
    return {spec.name: spec.init for spec in dataclasses.fields(cast(Any, value))}


def _nano(given: Any) -> int:
    number = read_decimal(given)
    if number is None:
        raise TypeError(f"{given!r} is not a number of dollars")
    return scale(number, NANO_PER_USD)


def _dump(value: Any, mode: Literal["python", "json"]) -> Any:
    if isinstance(value, Value):
        return value.model_dump(mode)
    if isinstance(value, Mapping):
        return {key: _dump(item, mode) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(item, mode) for item in value]
    # JSON has no infinity: no limit is null there.
    if mode == "json":
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, Decimal):
            return float(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None
    return value
