"""Plans as JSON: read back without loss, and every broken rule of a document named."""

from __future__ import annotations

import json
import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
from tests.unit.core.broken_rules import errors_of

from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.plan_json import plan_arguments, plan_from_json, plan_to_json
from paygent.core.validation import InvalidValue


def restored(plan: PlanConfig) -> PlanConfig:
    """Return a plan after it was written as JSON text and read back."""
    read: PlanConfig = plan_from_json(json.loads(json.dumps(plan_to_json(plan), allow_nan=False)))
    return read


def test_plan_to_json__a_plan__has_money_as_decimal_strings() -> None:
    """Money is written as exact decimal strings, prices as pico-dollars a million."""
    cap: Any = "4999999999.123456789"
    plan = PlanConfig(
        max_spend_per_period=cap,
        model_limits={"a": ModelLimitConfig(5)},
        cost_rates={"a": ModelCostRate(0.0025, 0.01)},
        tool_costs={"search": 0.05},
        when_offline={"allow_up_to": 1.5},
        limits=(Limit(cap=0.1), Limit(metric="calls", cap=7)),
    )
    assert plan_to_json(plan) == {
        "max_spend_per_period": "4999999999.123456789",
        "max_spend_per_session": None,
        "price": None,
        "soft_gate_at": 0.8,
        "hard_gate_at": 1.0,
        "model_limits": {"a": 5},
        "cost_rates": {"a": {"input": "2500000000000", "output": "10000000000000"}},
        "default_cost_rate": None,
        "tool_costs": {"search": "0.050000000"},
        "default_tool_cost": "0.020000000",
        "session_timeout_minutes": 30.0,
        "pre_call_estimate": False,
        "pre_call_buffer_tokens": 4096,
        "reservation_safety_factor": 1.2,
        "contention_wait_s": 30.0,
        "when_offline": {"allow_up_to": "1.500000000"},
        "unknown_model": "count",
        "enforce": True,
        "limits": [
            {
                "metric": "spend",
                "scope": "user",
                "model": None,
                "window": "period",
                "cap": "0.100000000",
            },
            {"metric": "calls", "scope": "user", "model": None, "window": "period", "cap": 7},
        ],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_spend_per_period": "4999999999.123456789", "max_spend_per_session": 0, "price": 9},
        {"max_spend_per_period": math.inf},
        {"max_spend_per_period": 1e10},
        {"default_cost_rate": ModelCostRate.per_million("2.50", 10, cache_write="3.125")},
        {"cost_rates": {"a": ModelCostRate(0, 0)}, "unknown_model": "dearest"},
        {"when_offline": "block", "pre_call_estimate": True, "enforce": False},
        {"when_offline": {"allow_up_to": 1.5}},
        {"when_offline": {"allow_up_to": "1.50"}},
        {"model_limits": {"a": None, "b": 0}},
        {"model_limits": {"a": ModelLimitConfig(1e3)}},
        {"model_limits": {"a": ModelLimitConfig("1000")}},
        {"limits": [Limit(cap=5), Limit(metric="tokens", model="a", window="day", cap=5)]},
        {"limits": [Limit(cap="123456789.123456789")]},
        {"limits": [Limit(cap=None)]},
        {"limits": [Limit(cap=1e10)]},
        {"limits": [Limit(metric="tokens", cap=None)]},
        {"limits": [Limit(metric="tokens", cap="5")]},
        {"soft_gate_at": Decimal("0.5"), "session_timeout_minutes": Decimal(5)},
        {"soft_gate_at": "0.5"},
        {"pre_call_buffer_tokens": "100"},
    ],
    ids=repr,
)
def test_plan_from_json__what_plan_to_json_wrote__is_the_same_plan(
    arguments: dict[str, Any],
) -> None:
    """Every plan that can be made comes back from JSON as it was, to the nano-dollar."""
    plan = PlanConfig(**arguments)
    assert restored(plan) == plan
    assert restored(plan).model_dump() == plan.model_dump()


def test_plan_from_json__the_application_computes_with_few_digits__stays_exact() -> None:
    """The application's own decimal precision changes no price that is read back."""
    price: Any = "1.23456789"
    plan = PlanConfig(cost_rates={"a": ModelCostRate(price, 1)})
    with localcontext() as context:
        context.prec = 4
        rates = restored(plan).cost_rates
    assert rates["a"].pico == {"input": 1_234_567_890_000_000, "output": 10**15}


def test_plan_from_json__nothing__is_the_default_plan() -> None:
    """Fields that a document does not name have their defaults."""
    assert plan_from_json({}) == PlanConfig()


def test_plan_from_json__unknown_fields__are_all_named() -> None:
    """Every unknown field of a document is named with its value."""
    assert errors_of(plan_from_json, document={"quota": 1, "price": 5, "budget": 2}) == [
        ("budget", 2, "is not a field of a plan"),
        ("quota", 1, "is not a field of a plan"),
    ]


@pytest.mark.parametrize("name", ["soft_gate_ppm", "price_nano", "_dollars"])
def test_plan_from_json__a_computed_field__is_no_field_of_a_document(name: str) -> None:
    """What follows from other fields, or is none, cannot be set by a document."""
    assert errors_of(plan_from_json, document={name: 5}) == [(name, 5, "is not a field of a plan")]


@pytest.mark.parametrize(
    "document",
    [
        {"max_spend_per_period": "-1"},
        {"cost_rates": {"a": {"input": "x", "output": "1"}}},
        {"cost_rates": {"a": {"input": "1e9999999", "output": "1"}}},
        {"cost_rates": {"a": {"input": "1"}}},
        {"cost_rates": {"a": {"input": "1", "output": "1", "thinking": "1"}}},
        {"cost_rates": {"a": 5}},
        {"cost_rates": [1]},
        {"default_cost_rate": 5},
        {"default_cost_rate": {"input": "1"}},
    ],
    ids=repr,
)
def test_plan_from_json__a_broken_rule__is_an_invalid_value(document: dict[str, Any]) -> None:
    """Whatever is wrong with a document, the error is the one that names findings."""
    with pytest.raises(InvalidValue):
        plan_from_json(document)


@pytest.mark.parametrize(
    "given",
    [
        {"price": 1, "price_nano": {}},
        {"price": 1, "price_nano": {"a": 1}},
        {"price": "1", "price_nano": 10**9},
        {"price": 1, "price_nano": None},
        {"price": 1, "price_nano": 2 * 10**9},
        {"price": 1, "price_nano": 1.5},
        {"tool_costs": {"a": 1}, "tool_costs_nano": 10**9},
        {"tool_costs": {"a": 1}, "tool_costs_nano": {"b": 10**9}},
        {"tool_costs": 1, "tool_costs_nano": {"a": 10**9}},
    ],
)
def test_plan_arguments__a_twin_that_shows_something_else__does_not_count(
    given: dict[str, Any],
) -> None:
    """The field itself was changed, or the twin is none: it says nothing."""
    arguments, refused = plan_arguments(given)
    source = "price" if "price" in given else "tool_costs"
    assert arguments == {source: given[source]}
    assert refused == {}


@pytest.mark.parametrize(
    "given",
    [
        {"price_nano": {}},
        {"price_nano": 1.5},
        {"tool_costs_nano": 5},
        {"tool_costs_nano": {"a": {}}},
    ],
)
def test_plan_arguments__a_twin_alone_of_another_kind__is_refused(given: dict[str, Any]) -> None:
    """What would be lost in silence is named."""
    arguments, refused = plan_arguments(given)
    assert arguments == {}
    assert refused == dict.fromkeys(given, "must be a whole number of nano-dollars")
