"""Plans as JSON: for the store and the wire, written and read back without loss; and as answers show
them to people, who may send them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from paygent.core.limit import Limit
from paygent.core.money import CAP_NANO_MAX, NANO_PER_USD, read_decimal, shifted, to_usd
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.validation import ValidationErrors
from paygent.core.value import exact_usd

READ_ONLY = frozenset({"id", "version", "created_at"})
"""Fields of a stored plan that answers show beside those of `PlanConfig`, and that no one sets."""

_FIELDS = frozenset(spec.name for spec in fields(PlanConfig) if spec.init)
_TWINS = frozenset(name + "_nano" for name in PlanConfig._dollars)
_SOURCES = {
    **{name + "_nano": name for name in PlanConfig._dollars},
    "soft_gate_ppm": "soft_gate_at",
    "hard_gate_ppm": "hard_gate_at",
    "offline_allowance_nano": "when_offline",
}
"""The fields that a plan computes, each with the one that it computes it from."""


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
    # An unknown field may be a limit of a newer version, so it is never ignored.
    for name in sorted(document.keys() - _FIELDS):
        errors.add(name, document[name], "is not a field of a plan")
    errors.raise_if_any()
    arguments = dict(document)
    rates = document.get("cost_rates")
    if isinstance(rates, Mapping):
        arguments["cost_rates"] = {name: _rate_from_json(rate) for name, rate in rates.items()}
    if document.get("default_cost_rate") is not None:
        arguments["default_cost_rate"] = _rate_from_json(document["default_cost_rate"])
    return PlanConfig(**arguments)


def shown_fields(plan: PlanConfig) -> dict[str, Any]:
    """Return the fields of a plan as an answer shows them; `plan_arguments` reads them back.

    They are those of the constructor, as JSON values, and the exact twin of each amount
    (`…_nano`). What else a plan computes from them stays out.
    """
    document = plan.model_dump(mode="json")
    shown = {name: each for name, each in document.items() if name in _FIELDS | _TWINS}
    rates = shown["cost_rates"]
    shown["cost_rates"] = {name: _constructed(rate, ModelCostRate) for name, rate in rates.items()}
    if shown["default_cost_rate"] is not None:
        shown["default_cost_rate"] = _constructed(shown["default_cost_rate"], ModelCostRate)
    shown["limits"] = [_constructed(limit, Limit) for limit in shown["limits"]]
    return shown


def plan_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read the fields of a plan as people write them, and as answers show them.

    What is only shown is ignored: `READ_ONLY`, and what a plan computes from a field that is given.
    The exact twin of an amount (`price_nano`) counts where the field is absent or shows the same
    amount, so that a plan that was shown is read back without loss.

    Returns:
        The arguments of `PlanConfig`, and the names that are no fields of a plan, in order.
    """
    arguments = {name: value for name, value in given.items() if name in _FIELDS}
    unknown = []
    for name in sorted(given.keys() - _FIELDS - READ_ONLY):
        source = _SOURCES.get(name, "")
        if name not in _TWINS:
            if source not in given:  # without its source it would be a change that is lost
                unknown.append(name)
        elif source not in given or _is_shown_as(given[source], given[name]):
            arguments[source] = _from_nano(given[name])
    return arguments, tuple(unknown)


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


def _is_shown_as(shown: Any, exact: Any) -> bool:
    """Return whether an amount, or each of several, is the number that shows an exact one."""
    if isinstance(shown, Mapping) and isinstance(exact, Mapping):
        if shown.keys() != exact.keys():
            return False
        return all(_is_shown_as(shown[name], exact[name]) for name in shown)
    number = None if isinstance(shown, str) else read_decimal(shown)
    if type(exact) is not int or abs(exact) > CAP_NANO_MAX or number is None:
        return False
    return float(number) == to_usd(exact)


def _from_nano(exact: Any) -> Any:
    """Return whole nano-dollars as dollars; the plan rejects other values."""
    if isinstance(exact, Mapping):
        return {name: _from_nano(amount) for name, amount in exact.items()}
    return exact_usd(exact) if type(exact) is int else exact


def _constructed(document: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a value that its constructor takes."""
    return {spec.name: document[spec.name] for spec in fields(kind) if spec.init}
