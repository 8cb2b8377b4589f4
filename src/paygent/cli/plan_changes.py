"""What a file of plans changes in a database, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from paygent.cli.plan_fields import fields_of
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json

_ABSENT = "-"


class FieldChange(NamedTuple):
    """A field of a plan, as it is and as it will be; "-" where there is no value."""

    field: str
    now: str
    new: str


class PlanChange(NamedTuple):
    """What happens to a plan.

    Attributes:
        name: Its name.
        kind: What happens.
        version: The stored version; 0 for a new plan.
        fields: The fields that change; of a new plan those that differ from the defaults.
    """

    name: str
    kind: Literal["new", "changed", "unchanged"]
    version: int
    fields: tuple[FieldChange, ...]


def changes(
    plans: Mapping[str, PlanConfig], stored: Mapping[str, tuple[int, PlanConfig | None]]
) -> list[PlanChange]:
    """Compare plans with the stored ones of the same names.

    Args:
        plans: The new plans.
        stored: Version and fields of each; None for fields that this Paygent cannot read.
    """
    return [_change(name, plan, stored.get(name)) for name, plan in plans.items()]


def _change(
    name: str, plan: PlanConfig, stored: tuple[int, PlanConfig | None] | None
) -> PlanChange:
    if stored is None:
        return PlanChange(name, "new", 0, tuple(_differing(_values(PlanConfig()), _values(plan))))
    version, known = stored
    # Documents are exact, fields are as shown.
    if known is not None and plan_to_json(known) == plan_to_json(plan):
        return PlanChange(name, "unchanged", version, ())
    now = {} if known is None else _values(known)
    return PlanChange(name, "changed", version, tuple(_differing(now, _values(plan))))


def _values(plan: PlanConfig) -> dict[str, str]:
    """Return the values of a plan by dotted names, as they are shown."""
    return dict(_flattened("", fields_of(plan)))


def _flattened(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(f"{prefix}{name}.", value)
        elif value is not None:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _differing(now: Mapping[str, str], new: Mapping[str, str]) -> Iterator[FieldChange]:
    for name in dict.fromkeys((*new, *now)):
        change = FieldChange(name, now.get(name, _ABSENT), new.get(name, _ABSENT))
        if change.now != change.new:
            yield change
