"""The fields of a plan as somebody writes them, without the exact twins that the code keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from paygent.core.plan import PlanConfig

_FIELDS = tuple(spec.name for spec in fields(PlanConfig) if spec.init)


def fields_of(plan: PlanConfig) -> dict[str, Any]:
    """Return the fields of a plan as JSON values; `PlanConfig` accepts them."""
    return fields_of_json(plan.model_dump(mode="json"))


def fields_of_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan in a server's answer; others are left out."""
    found = {name: document[name] for name in _FIELDS if name in document}
    rates = found.get("cost_rates")
    if isinstance(rates, Mapping):
        found["cost_rates"] = {name: _without(rate, "pico") for name, rate in rates.items()}
    if "default_cost_rate" in found:
        found["default_cost_rate"] = _without(found["default_cost_rate"], "pico")
    limits = found.get("limits")
    if isinstance(limits, list):
        found["limits"] = [_without(limit, "cap_exact") for limit in limits]
    return found


def _without(value: Any, twin: str) -> Any:
    """Return an object without the exact twin of its figures; other values as they are."""
    if not isinstance(value, Mapping):
        return value
    return {name: part for name, part in value.items() if name != twin}
