"""The form of a plan: its fields as texts, and a plan from the texts that were sent.

What most plans need has a field of its own; rates, tool costs and limits in the general form are
JSON, as REST takes them. `PlanConfig` alone judges the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from paygent.core.money import decimal_text, from_units
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_arguments, plan_to_json, shown_fields
from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, InvalidValue, ValidationErrors
from paygent.server.dashboard.visit import Form, read_number
from paygent.server.problems import Problem
from paygent.server.strict_json import bounded_decimal, check_bounds

AMOUNTS: Final = ("price", "max_spend_per_period", "max_spend_per_session")
NUMBERS: Final = ("session_timeout_minutes", "contention_wait_s")
PERCENTAGES: Final = ("soft_gate_at", "hard_gate_at")
OTHERS: Final = (
    "cost_rates",
    "default_cost_rate",
    "tool_costs",
    "default_tool_cost",
    "limits",
    "pre_call_buffer_tokens",
    "reservation_safety_factor",
)
"""Fields that are edited as JSON."""

OFFLINE: Final = ("allow", "allow_up_to", "block")
UNKNOWN_MODEL: Final = ("count", "dearest", "block")

_OTHERS_CHARS_MAX = 100_000
_ZEROS = re.compile(r"(?<=\.\d\d)0+$")  # at the end of an exact amount, beyond cents
_ROWS_EMPTY = 2  # rows for further models


@dataclass(frozen=True)
class PlanForm:
    """The texts of the form.

    Attributes:
        name: Of the plan.
        is_new: Whether there is no plan of this name yet.
        values: By the name of the field.
        models: (model, tokens per period) of each row.
        others: The fields of `OTHERS` that are not at their defaults, as JSON.
        enforce: Whether limits are enforced; switched by itself.
    """

    name: str
    is_new: bool
    values: Mapping[str, str]
    models: tuple[tuple[str, str], ...]
    others: str
    enforce: bool = True

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The rows of models that are shown, some of them empty."""
        return (*self.models, *[("", "")] * _ROWS_EMPTY)


def form_of_plan(name: str, plan: PlanConfig, *, is_new: bool = False) -> PlanForm:
    """Return the form that shows a plan."""
    values = {each: _amount(getattr(plan, f"{each}_nano")) for each in AMOUNTS}
    values |= {each: repr(getattr(plan, each)).removesuffix(".0") for each in NUMBERS}
    for each in PERCENTAGES:
        ppm = plan.soft_gate_ppm if each == "soft_gate_at" else plan.hard_gate_ppm
        values[each] = decimal_text(from_units(ppm, 4))
    values["pre_call_estimate"] = "yes" if plan.pre_call_estimate else ""
    values["unknown_model"] = plan.unknown_model
    has_allowance = plan.offline_allowance_nano is not None
    values["when_offline"] = "allow_up_to" if has_allowance else str(plan.when_offline)
    values["offline_allowance"] = _amount(plan.offline_allowance_nano)
    models = tuple(
        (model, str(limit.max_tokens_per_period))
        for model, limit in plan.model_limits.items()
        if limit.max_tokens_per_period is not None
    )
    return PlanForm(name, is_new, values, models, _others_of(plan), plan.enforce)


def _amount(amount_nano: int | None) -> str:
    return "" if amount_nano is None else decimal_text(from_units(amount_nano, 9))


def _others_of(plan: PlanConfig) -> str:
    document, defaults = plan_to_json(plan), plan_to_json(PlanConfig())
    shown = shown_fields(plan)
    changed = {name: shown[name] for name in OTHERS if document[name] != defaults[name]}
    return json.dumps(changed, indent=2, ensure_ascii=False) if changed else ""


def form_of_sent(form: Form, *, is_new: bool, enforce: bool) -> PlanForm:
    """Return the texts that were sent, so that they can be shown again."""
    names = (*AMOUNTS, *NUMBERS, *PERCENTAGES, "pre_call_estimate", "unknown_model")
    values = {name: form.get(name) for name in (*names, "when_offline", "offline_allowance")}
    rows = zip(form.list("model_name"), form.list("model_tokens"), strict=False)
    models = tuple(row for row in rows if any(row))
    return PlanForm(form.get("name"), is_new, values, models, form.get("others"), enforce)


def read_plan(form: PlanForm) -> PlanConfig:
    """Return the plan of a form.

    Raises:
        InvalidValue: Names every field that breaks a rule.
    """
    errors = ValidationErrors("plan")
    if not 1 <= len(form.name) <= NAME_CHARS_MAX:
        errors.add("name", form.name, NAME_RULE)
    given = _read_others(errors, form.others)
    for name in (*AMOUNTS, *NUMBERS, *PERCENTAGES):
        text = form.values[name]
        if not text:
            continue  # the default: no cap, no price
        number = read_number(text)
        if number is None:
            errors.add(name, text, "must be a number")
        else:
            given[name] = number / 100 if name in PERCENTAGES else number
    given["model_limits"] = _read_models(errors, form.models)
    given["pre_call_estimate"] = bool(form.values["pre_call_estimate"])
    given["unknown_model"] = form.values["unknown_model"] or "count"
    given["when_offline"] = form.values["when_offline"] or "allow"
    if given["when_offline"] == "allow_up_to":
        given["when_offline"] = {"allow_up_to": _read_allowance(form.values["offline_allowance"])}
    given["enforce"] = form.enforce
    arguments, _ = plan_arguments(given)  # all names are those of fields
    try:
        plan = PlanConfig(**arguments)
    except InvalidValue as error:
        for found in error.findings:
            errors.add(found.field, found.value, found.rule)
        plan = PlanConfig()
    errors.raise_if_any()
    return plan


def _read_allowance(text: str) -> Decimal | str:
    number = read_number(text)
    return text if number is None else number  # judged by the plan


def _read_models(
    errors: ValidationErrors, rows: tuple[tuple[str, str], ...]
) -> dict[str, Decimal | int]:
    limits: dict[str, Decimal | int] = {}
    for model, tokens in rows:
        name = f"model_limits.{model}" if model else "model_limits"
        number = read_number(tokens.replace(",", ""))
        if not model:
            errors.add(name, tokens, "needs the name of a model")
        elif model in limits:
            errors.add(name, tokens, "is given twice")
        elif number is None or number != number.to_integral_value():
            errors.add(name, tokens, "must be a whole number of tokens")
        else:
            limits[model] = int(number)
    return limits


def _read_others(errors: ValidationErrors, text: str) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > _OTHERS_CHARS_MAX:
        errors.add("others", None, f"must have at most {_OTHERS_CHARS_MAX:,} characters")
        return {}
    try:
        given = json.loads(text, parse_float=bounded_decimal)
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        errors.add("others", None, f"must be JSON{place}")
        return {}
    try:
        check_bounds(given)  # those of REST: what is stored must be shown again
    except Problem as problem:
        errors.add("others", None, f"is not accepted: {problem.detail}")
        return {}
    if not isinstance(given, dict):
        errors.add("others", None, "must be an object of fields")
        return {}
    for name in given.keys() - set(OTHERS):
        errors.add(f"others.{name}", given[name], f"must be one of {', '.join(OTHERS)}")
    return {name: value for name, value in given.items() if name in OTHERS}


# -- versions


def changed_fields(
    before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Return (field, before, after) of the fields in which two documents of a plan differ; "" is
    a field that one does not have. Without one before, all that differ from the defaults.
    """
    earlier = _flat(plan_to_json(PlanConfig()) if before is None else before)
    later = _flat(after)
    names = sorted(earlier.keys() | later.keys())
    return [
        (name, earlier.get(name, ""), later.get(name, ""))
        for name in names
        if earlier.get(name, "") != later.get(name, "")
    ]


def _flat(document: Mapping[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}{name}.")
        elif isinstance(value, list):
            flat |= _flat(
                {str(number): each for number, each in enumerate(value)}, f"{path}{name}."
            )
        else:
            flat[path + name] = "none" if value is None else _ZEROS.sub("", str(value))
    return flat
