"""Plans as JSON, without loss: for the store; and as answers show them, to be sent back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from paygent.core.limit import Limit
from paygent.core.money import CAP_NANO_MAX, NANO_PER_USD, read_decimal, shifted, to_usd
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.validation import ValidationErrors
from paygent.core.value import exact_usd

NOT_A_FIELD = "is not a field of a plan"

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

_WITH_PARTS = ("cost_rates", "default_cost_rate", "limits")
"""Fields with values that compute something, too: `ModelCostRate.pico` and `Limit.cap_exact`."""


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


_TWIN_OF_MANY = "tool_costs_nano"


def plan_from_json(document: Mapping[str, Any]) -> PlanConfig:
    """Read a plan written by `plan_to_json`.

    Raises:
        InvalidValue: Names every field that is unknown or breaks a rule.
    """
    errors = ValidationErrors("plan")
    # An unknown field may be a limit of a newer version, so it is never ignored.
    for name in sorted(document.keys() - _FIELDS):
        errors.add(name, document[name], NOT_A_FIELD)
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
    return {**shown, **{name: _without_computed(name, shown[name]) for name in _WITH_PARTS}}


def plan_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the fields of a plan as people write them, and as answers show them.

    What is only shown is ignored: `READ_ONLY`, and what a plan computes from a field that is given.
    The exact twin of an amount (`price_nano`) counts where the field is absent or shows the same
    amount, so that a plan that was shown is read back without loss.

    Returns:
        The arguments of `PlanConfig`, which judges their values; and the other fields by name, in
        the order given, each with the rule that it breaks.
    """
    arguments = {name: value for name, value in given.items() if name in _FIELDS}
    for name in arguments.keys() & set(_WITH_PARTS):
        arguments[name] = _without_computed(name, arguments[name])
    refused = {}
    for name in (each for each in given if each not in _FIELDS | READ_ONLY):
        source = _SOURCES.get(name, "")
        if name not in _TWINS:
            if source not in given:  # without its source it would be a change that is lost
                refused[name] = NOT_A_FIELD
        elif source not in given and not _is_exact(name, given[name]):
            refused[name] = "must be a whole number of nano-dollars"
        elif source not in given or _is_shown_as(name, given[source], given[name]):
            arguments[source] = _from_nano(given[name])
    return arguments, refused


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


def _is_exact(twin: str, amount: Any) -> bool:
    """Return whether a value is what a twin has: an exact amount, one for each name, or none."""
    if twin == _TWIN_OF_MANY:
        return isinstance(amount, Mapping) and all(map(_is_amount, amount.values()))
    return amount is None or _is_amount(amount)


def _is_amount(amount: Any) -> bool:
    return type(amount) is int and abs(amount) <= CAP_NANO_MAX


def _is_shown_as(twin: str, shown: Any, exact: Any) -> bool:
    """Return whether an amount, or each of several, is the number that shows an exact one."""
    if not _is_exact(twin, exact) or exact is None:
        return False
    if twin != _TWIN_OF_MANY:
        return _shows(shown, exact)
    if not isinstance(shown, Mapping) or shown.keys() != exact.keys():
        return False
    return all(_shows(shown[name], exact[name]) for name in exact)


def _shows(shown: Any, exact: int) -> bool:
    number = None if isinstance(shown, str) else read_decimal(shown)
    return number is not None and number.is_finite() and float(number) == to_usd(exact)


def _from_nano(exact: Any) -> Any:
    return None if exact is None else exact_usd(exact)


def _without_computed(field: str, given: Any) -> Any:
    """Return a field of a plan without what its rates or limits compute; others as they are."""
    if field == "limits":
        is_list = isinstance(given, list)
        return [_without(limit, "cap_exact") for limit in given] if is_list else given
    if field == "cost_rates" and isinstance(given, Mapping):
        return {model: _without(rate, "pico") for model, rate in given.items()}
    return _without(given, "pico")


def _without(value: Any, computed: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: part for name, part in value.items() if name != computed}
