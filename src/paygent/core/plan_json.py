"""Plans as JSON, for the store and the wire: written and read back without loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from paygent.core.limit import Limit
from paygent.core.money import NANO_PER_USD, read_decimal, shifted
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.validation import ValidationErrors


def plan_to_json(plan: PlanConfig) -> dict[str, Any]:
    """Return a plan as a JSON object that `plan_from_json` reads back without loss.

    Money is written as decimal strings, since a double does not hold every cap exactly.
    """
    document: dict[str, Any] = {
        **{spec.name: getattr(plan, spec.name) for spec in fields(plan) if spec.init},
        "model_limits": {
            name: limit.max_tokens_per_period for name, limit in plan.model_limits.items()
        },
        "cost_rates": {name: _rate_to_json(rate) for name, rate in plan.cost_rates.items()},
        "tool_costs": {name: _exact(amount) for name, amount in plan.tool_costs_nano.items()},
        "default_tool_cost": _exact(plan.default_tool_cost_nano),
        "limits": [_limit_to_json(limit) for limit in plan.limits],
    }
    if plan.default_cost_rate is not None:
        document["default_cost_rate"] = _rate_to_json(plan.default_cost_rate)
    if plan.offline_allowance_nano is not None:
        document["when_offline"] = {"allow_up_to": _exact(plan.offline_allowance_nano)}
    for name in ("max_spend_per_period", "max_spend_per_session", "price"):
        # A cap without an exact value is too large to count; it is written as given.
        exact, shown = getattr(plan, name + "_nano"), getattr(plan, name)
        document[name] = _exact(exact) if exact is not None else shown and repr(shown)
    return document


def plan_from_json(document: Mapping[str, Any]) -> PlanConfig:
    """Read a plan written by `plan_to_json`.

    Raises:
        InvalidValue: Names every field that is unknown or breaks a rule.
    """
    errors = ValidationErrors("plan")
    names = {spec.name for spec in fields(PlanConfig) if spec.init}
    # An unknown field may be a limit of a newer version, so it is never ignored.
    for name in sorted(set(document) - names):
        errors.add(name, document[name], "is not a field of a plan")
    errors.raise_if_any()
    arguments = dict(document)
    rates = document.get("cost_rates")
    if isinstance(rates, Mapping):
        arguments["cost_rates"] = {name: _rate_from_json(rate) for name, rate in rates.items()}
    if document.get("default_cost_rate") is not None:
        arguments["default_cost_rate"] = _rate_from_json(document["default_cost_rate"])
    return PlanConfig(**arguments)


def _rate_to_json(rate: ModelCostRate) -> dict[str, str]:
    return {name: str(pico) for name, pico in rate.pico.items()}


def _rate_from_json(document: Any) -> Any:
    """Return a rate's components in dollars per thousand tokens; the plan rejects other values."""
    if not isinstance(document, Mapping):
        return document
    prices: dict[str, Any] = {}
    for name, text in document.items():
        pico = read_decimal(text)
        # The store has pico-dollars per million; the constructor takes dollars per thousand.
        prices[name] = text if pico is None else shifted(pico, -15)
    return prices


def _limit_to_json(limit: Limit) -> dict[str, Any]:
    cap: Any = None if limit.cap is None else repr(limit.cap)
    if limit.cap_exact is not None:
        cap = _exact(limit.cap_exact) if limit.metric == "spend" else limit.cap_exact
    names = ("metric", "scope", "model", "window")
    return {**{name: getattr(limit, name) for name in names}, "cap": cap}


def _exact(amount_nano: int) -> str:
    # As text: a double does not hold every amount.
    whole, part = divmod(amount_nano, NANO_PER_USD)
    return f"{whole}.{part:09d}"
