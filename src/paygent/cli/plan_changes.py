"""What a file of plans changes in a database, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from paygent.cli.plan_fields import fields_of
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.wording import dollars, limit_in_words, plan_rate

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
    values = dict(_flattened("", fields_of(plan)))
    words = dict(_in_words(plan))
    return {name: words.get(name, value) for name, value in values.items()}


def _in_words(plan: PlanConfig) -> Iterator[tuple[str, str]]:
    """Yield amounts, counts and limits by their dotted names, exactly, as `plans list` has them."""
    amounts = {
        "max_spend_per_period": plan.max_spend_per_period_nano,
        "max_spend_per_session": plan.max_spend_per_session_nano,
        "price": plan.price_nano,
        "default_tool_cost": plan.default_tool_cost_nano,
        "when_offline.allow_up_to": plan.offline_allowance_nano,
        **{f"tool_costs.{tool}": cost for tool, cost in plan.tool_costs_nano.items()},
    }
    yield from ((name, dollars(nano)) for name, nano in amounts.items() if nano is not None)
    counts = {
        "pre_call_buffer_tokens": plan.pre_call_buffer_tokens,
        **{
            f"model_limits.{model}.max_tokens_per_period": limit.max_tokens_per_period
            for model, limit in plan.model_limits.items()
        },
    }
    yield from ((name, f"{count:,}") for name, count in counts.items() if count is not None)
    rates = {f"cost_rates.{model}": rate for model, rate in plan.cost_rates.items()}
    if plan.default_cost_rate is not None:
        rates["default_cost_rate"] = plan.default_cost_rate
    for where, rate in rates.items():
        yield from ((f"{where}.{name}", plan_rate(pico)) for name, pico in rate.pico.items())
    yield "limits", "; ".join(map(limit_in_words, plan.limits)) or _ABSENT


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
