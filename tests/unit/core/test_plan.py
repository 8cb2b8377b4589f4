"""Plans: every rule with field, value and rule, all findings at once, and no loss on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest

from paygent.core.cost_rate import ModelCostRate
from paygent.core.limit import Limit, LimitKey, ModelLimitConfig
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.core.validation import InvalidValue

Found = tuple[str, Any, str]

NO_COST = "must be a number of dollars (Decimal, int, float or str)"
NO_CAP = "must be a number of dollars (Decimal, int, float or str), or None for no limit"
NO_PRICE = "must be a price in dollars (Decimal, int, float or str)"
NO_COUNT = "must be a whole number"
COUNT_RANGE = "must be from 0 to 9·10¹⁸"
NO_OFFLINE = 'must be "allow", "block" or {"allow_up_to": dollars}'


def findings_of(make: Callable[..., object], **arguments: Any) -> list[Found]:
    """Return what making a value of these arguments finds wrong with them."""
    with pytest.raises(InvalidValue) as refusal:
        make(**arguments)
    return [(found.field, found.value, found.rule) for found in refusal.value.findings]


# ModelCostRate


def test_model_cost_rate__prices_per_thousand__are_exact_pico_per_million() -> None:
    """$0.0025 per thousand tokens are 2.5·10¹² pico-dollars a million."""
    output: Any = Decimal("0.01")
    cached: Any = "0.00125"
    rate = ModelCostRate(0.0025, output, cached_input=cached)
    assert rate.pico == {
        "input": 2_500_000_000_000,
        "output": 10_000_000_000_000,
        "cached_input": 1_250_000_000_000,
    }
    assert (rate.input, rate.output, rate.cached_input) == (0.0025, 0.01, 0.00125)
    assert rate.reasoning is None


def test_model_cost_rate__every_component__is_read() -> None:
    """Each of the ten components is a price of its own."""
    names = ["input", "output", "cached_input", "cache_write", "cache_write_long", "reasoning"]
    names += ["audio_input", "audio_output", "image_input", "image_output"]
    rate = ModelCostRate(**{name: float(number) for number, name in enumerate(names)})
    assert rate.pico == {name: number * 10**15 for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("cheap", NO_PRICE),
        (True, NO_PRICE),
        ([1], NO_PRICE),
        (math.nan, "must be a finite price in dollars"),
        (math.inf, "must be a finite price in dollars"),
        (-0.01, "must not be negative"),
        (1_000_001, "must be at most 1,000,000 dollars"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "input",
        "output",
        "cached_input",
        "cache_write",
        "cache_write_long",
        "reasoning",
        "audio_input",
        "audio_output",
        "image_input",
        "image_output",
    ],
)
def test_model_cost_rate__no_price__names_component_value_and_rule(
    name: str, value: Any, rule: str
) -> None:
    """Every component is validated, and named when it is refused."""
    arguments = {"input": 1, "output": 1, name: value}
    assert findings_of(ModelCostRate, **arguments) == [(name, value, rule)]


@pytest.mark.parametrize("name", ["input", "output"])
def test_model_cost_rate__input_or_output_none__is_refused(name: str) -> None:
    """Plain input and output have no parent to take a price from."""
    arguments = {"input": 1, "output": 1, name: None}
    assert findings_of(ModelCostRate, **arguments) == [(name, None, NO_PRICE)]


def test_model_cost_rate__several_wrong__come_at_once() -> None:
    """Every wrong price is named in one error."""
    assert findings_of(ModelCostRate, input=-1, output=None, reasoning="x") == [
        ("input", -1, "must not be negative"),
        ("output", None, NO_PRICE),
        ("reasoning", "x", NO_PRICE),
    ]


def test_per_million__the_provider_s_list__is_the_same_rate() -> None:
    """$2.50 a million is $0.0025 a thousand; a component of None is not named."""
    rate = ModelCostRate.per_million("2.50", 10, cached_input=1.25, reasoning=None)
    assert rate == ModelCostRate(0.0025, 0.01, cached_input=0.00125)
    assert rate.pico == {
        "input": 2_500_000_000_000,
        "output": 10_000_000_000_000,
        "cached_input": 1_250_000_000_000,
    }


@pytest.mark.parametrize("value", [None, "x", math.nan, "inf", -1, "-0.5", 10**10])
def test_per_million__no_price__names_it_as_the_caller_wrote_it(value: Any) -> None:
    """A refused price is named and shown per million, as it was given."""
    found = findings_of(ModelCostRate.per_million, input=value, output=1)
    assert [(name, given) for name, given, _ in found] == [("input", value)]
    assert found[0][2].startswith("must ")


def test_per_million__an_astronomical_price__is_an_invalid_value() -> None:
    """A price beyond the range of decimals is refused like any other."""
    found = findings_of(ModelCostRate.per_million, input="1e9999999", output=1)
    assert [name for name, _, _ in found] == ["input"]


def test_per_million__several_wrong__come_at_once() -> None:
    """Every wrong price is named in one error, whichever rule it breaks."""
    found = findings_of(ModelCostRate.per_million, input="x", output=-1, reasoning=math.inf)
    assert [name for name, _, _ in found] == ["input", "output", "reasoning"]


def test_per_million__an_unknown_component__is_a_type_error() -> None:
    """A component that does not exist is a mistake of the caller's code."""
    with pytest.raises(TypeError, match="thinking"):
        ModelCostRate.per_million(1, 1, thinking=2)


def test_per_million__the_application_computes_with_few_digits__stays_exact() -> None:
    """The application's own decimal precision changes no price."""
    with localcontext() as context:
        context.prec = 3
        rate = ModelCostRate.per_million("2.345678", 1)
    assert rate.pico["input"] == 2_345_678_000_000


@pytest.mark.parametrize(("output", "free"), [(0, True), (1e-15, False)])
def test_is_free__all_named_prices_zero__only_then(output: float, free: bool) -> None:
    """A model is free where every named price is 0, as a local one's are."""
    assert ModelCostRate(0, output).is_free is free


# ModelLimitConfig


@pytest.mark.parametrize("value", [None, 0, 1000, 1000.0, 9 * 10**18])
def test_model_limit_config__a_count_or_none__is_kept(value: Any) -> None:
    """None is no limit, 0 blocks, a whole float is a count."""
    assert ModelLimitConfig(value).max_tokens_per_period == value


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("many", "must be a whole number, or None for no limit"),
        ("1e3", "must be a whole number, or None for no limit"),
        ("²", "must be a whole number, or None for no limit"),
        ("", "must be a whole number, or None for no limit"),
        (True, "must be a whole number, or None for no limit"),
        (10.5, "must be a whole number, or None for no limit"),
        (math.nan, "must be a whole number, or None for no limit"),
        (math.inf, "must be a whole number, or None for no limit"),
        (-1, COUNT_RANGE),
        (9 * 10**18 + 1, COUNT_RANGE),
    ],
)
def test_model_limit_config__no_count__names_field_value_and_rule(value: Any, rule: str) -> None:
    """What is no whole number of tokens is refused with its rule."""
    found = findings_of(ModelLimitConfig, max_tokens_per_period=value)
    assert found == [("max_tokens_per_period", value, rule)]


# Limit


@pytest.mark.parametrize(
    ("arguments", "cap_exact"),
    [
        ({"cap": "123456789.123456789"}, 123_456_789_123_456_789),
        ({"cap": 0}, 0),
        ({"cap": None}, None),
        ({}, None),
        ({"cap": 1e10}, None),
        ({"metric": "tokens", "cap": 5000}, 5000),
        ({"metric": "tokens", "cap": "5000"}, 5000),
        ({"metric": "tokens", "cap": 5e3}, 5000),
        ({"metric": "calls", "cap": 0}, 0),
        ({"metric": "calls"}, None),
        ({"metric": "tokens", "cap": math.inf}, None),
    ],
)
def test_limit__a_cap__is_exact_in_its_unit(
    arguments: dict[str, Any], cap_exact: int | None
) -> None:
    """A cap is nano-dollars for spend and a count otherwise; an infinite one is no limit."""
    assert Limit(**arguments).cap_exact == cap_exact


@pytest.mark.parametrize("cap", ["Infinity", Decimal("Infinity"), math.inf])
@pytest.mark.parametrize("metric", ["spend", "tokens", "calls"])
def test_limit__an_infinite_cap__is_no_limit_in_every_metric(metric: Any, cap: Any) -> None:
    """Infinity is no limit however it is written, and is shown as a float."""
    limit = Limit(metric=metric, cap=cap)
    assert (limit.cap_exact, limit.cap) == (None, math.inf)


def test_limit__a_cap_in_dollars__is_shown_as_the_nearest_double() -> None:
    """The public cap is a float however it was written."""
    cap: Any = "0.15"
    limit = Limit(cap=cap)
    assert (limit.cap, type(limit.cap)) == (0.15, float)


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({"metric": "euros"}, "metric", 'must be "spend", "tokens" or "calls"'),
        ({"metric": []}, "metric", 'must be "spend", "tokens" or "calls"'),
        ({"scope": "team"}, "scope", 'must be "user" or "session"'),
        ({"model": ""}, "model", "must be a model name, or None for all models"),
        ({"model": 5}, "model", "must be a model name, or None for all models"),
        (
            {"window": "week"},
            "window",
            'must be "period", "session", "day" or like "rolling:24h"',
        ),
        (
            {"window": "rolling:0h"},
            "window",
            'must be "period", "session", "day" or like "rolling:24h"',
        ),
        (
            {"window": "rolling:24h\n"},
            "window",
            'must be "period", "session", "day" or like "rolling:24h"',
        ),
        ({"window": 24}, "window", 'must be "period", "session", "day" or like "rolling:24h"'),
        (
            {"window": "session"},
            "window",
            'must be "session" exactly when scope is "session"',
        ),
        ({"cap": -1}, "cap", "must not be negative"),
        ({"cap": "x"}, "cap", NO_CAP),
        ({"cap": math.nan}, "cap", "must be a number of dollars, not NaN"),
        ({"metric": "tokens", "cap": 1.5}, "cap", NO_COUNT),
        ({"metric": "tokens", "cap": -1}, "cap", COUNT_RANGE),
        ({"metric": "tokens", "cap": -math.inf}, "cap", NO_COUNT),
        ({"metric": "tokens", "cap": math.nan}, "cap", NO_COUNT),
        ({"metric": "calls", "cap": None}, "cap", NO_COUNT),
        ({"metric": "calls", "cap": 9 * 10**18 + 1}, "cap", COUNT_RANGE),
    ],
)
def test_limit__a_broken_rule__names_field_value_and_rule(
    arguments: dict[str, Any], field: str, rule: str
) -> None:
    """Every rule of a limit is told with the field and its value."""
    assert findings_of(Limit, **arguments) == [(field, arguments[field], rule)]


@pytest.mark.parametrize("window", ["period", "day", "rolling:1h"])
def test_limit__a_session_in_another_window__is_refused(window: str) -> None:
    """A session's limit counts over its session and nothing else."""
    rule = 'must be "session" exactly when scope is "session"'
    assert findings_of(Limit, scope="session", window=window) == [("window", window, rule)]


def test_limit__several_wrong__come_at_once() -> None:
    """Every broken rule is in one error, in the order of the fields."""
    assert findings_of(Limit, metric="x", scope="y", model="", window="z", cap=-1) == [
        ("metric", "x", 'must be "spend", "tokens" or "calls"'),
        ("scope", "y", 'must be "user" or "session"'),
        ("model", "", "must be a model name, or None for all models"),
        ("window", "z", 'must be "period", "session", "day" or like "rolling:24h"'),
        ("cap", -1, COUNT_RANGE),
    ]


def test_limit__key__is_metric_scope_model_and_window() -> None:
    """Two caps of one rule are one limit: the cap is no part of the identity."""
    limit = Limit("tokens", "user", "gpt-4o", "day", 5)
    assert limit.key == LimitKey("tokens", "user", "gpt-4o", "day")
    assert limit.key == Limit("tokens", "user", "gpt-4o", "day", 9).key
    assert Limit(cap=5).key == LimitKey("spend", "user", "", "period")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (LimitKey("spend", "user", "", "period"), "total_spend"),
        (LimitKey("spend", "session", "", "session"), "session_spend"),
        (LimitKey("tokens", "user", "gpt-4o", "period"), "model_limit:gpt-4o"),
        (LimitKey("tokens", "user", "", "day"), "tokens:day"),
        (LimitKey("calls", "user", "", "rolling:24h"), "calls:rolling:24h"),
        (LimitKey("calls", "user", "gpt-4o", "day"), "calls:day:gpt-4o"),
        (LimitKey("spend", "user", "gpt-4o", "period"), "spend:period:gpt-4o"),
    ],
)
def test_limit_key__reason__is_the_documented_name_where_there_is_one(
    key: LimitKey, reason: str
) -> None:
    """Documented limits have their documented reasons, others one that tells what they count."""
    assert key.reason == reason


# PlanConfig: what it accepts


def test_plan_config__defaults__are_the_documented_ones() -> None:
    """A plan without arguments limits nothing and has the documented defaults."""
    plan = PlanConfig()
    assert plan.model_dump() == {
        "max_spend_per_period": None,
        "max_spend_per_session": None,
        "soft_gate_at": 0.80,
        "hard_gate_at": 1.00,
        "model_limits": {},
        "cost_rates": {},
        "default_cost_rate": None,
        "tool_costs": {},
        "default_tool_cost": 0.02,
        "session_timeout_minutes": 30.0,
        "pre_call_estimate": False,
        "pre_call_buffer_tokens": 4096,
        "reservation_safety_factor": 1.2,
        "price": None,
        "limits": [],
        "contention_wait_s": 30.0,
        "when_offline": "allow",
        "unknown_model": "count",
        "max_spend_per_period_nano": None,
        "max_spend_per_session_nano": None,
        "default_tool_cost_nano": 20_000_000,
        "tool_costs_nano": {},
        "price_nano": None,
        "soft_gate_ppm": 800_000,
        "hard_gate_ppm": 1_000_000,
        "offline_allowance_nano": None,
    }
    assert limits_of(plan) == ()


def test_plan_config__money__is_exact_inside_and_a_float_outside() -> None:
    """Dollars are read as written, however they were written; floats only show them."""
    arguments: dict[str, Any] = {
        "max_spend_per_period": "5.10",
        "max_spend_per_session": Decimal("0.000000001"),
        "price": 20,
        "tool_costs": {"search": "0.05", "mail": 0.1},
        "default_tool_cost": "0.03",
    }
    plan = PlanConfig(**arguments)
    assert (plan.max_spend_per_period, plan.max_spend_per_period_nano) == (5.1, 5_100_000_000)
    assert (plan.max_spend_per_session, plan.max_spend_per_session_nano) == (1e-9, 1)
    assert (plan.price, plan.price_nano) == (20.0, 20_000_000_000)
    assert plan.tool_costs == {"search": 0.05, "mail": 0.1}
    assert plan.tool_costs_nano == {"search": 50_000_000, "mail": 100_000_000}
    assert (plan.default_tool_cost, plan.default_tool_cost_nano) == (0.03, 30_000_000)
    for name in ("max_spend_per_period", "max_spend_per_session", "price", "default_tool_cost"):
        assert type(getattr(plan, name)) is float


@pytest.mark.parametrize("name", ["max_spend_per_period", "max_spend_per_session"])
@pytest.mark.parametrize("value", [None, math.inf])
def test_plan_config__a_cap_of_none_or_infinity__is_no_limit(name: str, value: Any) -> None:
    """None and infinity are no limit."""
    plan = PlanConfig(**{name: value})
    assert getattr(plan, name + "_nano") is None
    assert limits_of(plan) == ()


@pytest.mark.parametrize("name", ["max_spend_per_period", "max_spend_per_session"])
def test_plan_config__an_infinite_cap_as_text__is_shown_as_a_float(name: str) -> None:
    """A public dollar field is a float however it was written."""
    plan = PlanConfig(**{name: "inf"})  # type: ignore[arg-type]
    assert getattr(plan, name) == math.inf


@pytest.mark.parametrize(
    ("soft", "hard", "soft_ppm", "hard_ppm"),
    [
        (0.8, 1.0, 800_000, 1_000_000),
        (0.8, 0.9, 800_000, 900_000),
        (0.9, 1.2, 900_000, 1_200_000),
        (1, 1, 1_000_000, 1_000_000),
        (10, 10, 10_000_000, 10_000_000),
        (0.000001, 0.000001, 1, 1),
    ],
)
def test_plan_config__gates__are_parts_per_million(
    soft: float, hard: float, soft_ppm: int, hard_ppm: int
) -> None:
    """Gates are integers inside, from a millionth to ten, and may be equal."""
    plan = PlanConfig(soft_gate_at=soft, hard_gate_at=hard)
    assert (plan.soft_gate_ppm, plan.hard_gate_ppm) == (soft_ppm, hard_ppm)


def test_plan_config__shorthand_and_dicts__become_values() -> None:
    """A number is tokens per period, a dict the fields of the value it stands for."""
    arguments: dict[str, Any] = {
        "model_limits": {
            "a": 1000,
            "b": None,
            "c": {"max_tokens_per_period": 5},
            "d": ModelLimitConfig(7),
        },
        "cost_rates": {"a": {"input": 1, "output": 2}, "b": ModelCostRate(3, 4)},
        "default_cost_rate": {"input": 5, "output": 6},
        "limits": [{"metric": "calls", "cap": 3}, Limit(cap=1)],
    }
    plan = PlanConfig(**arguments)
    assert plan.model_limits == {
        "a": ModelLimitConfig(1000),
        "b": ModelLimitConfig(None),
        "c": ModelLimitConfig(5),
        "d": ModelLimitConfig(7),
    }
    assert plan.cost_rates == {"a": ModelCostRate(1, 2), "b": ModelCostRate(3, 4)}
    assert plan.default_cost_rate == ModelCostRate(5, 6)
    assert plan.limits == (Limit(metric="calls", cap=3), Limit(cap=1))


def test_plan_config__a_dict_of_the_caller__is_not_shared() -> None:
    """What the caller does to their dict afterwards changes no plan."""
    limits: Any = {"a": 1}
    tools = {"search": 0.5}
    plan = PlanConfig(model_limits=limits, tool_costs=tools)
    limits["b"] = 2
    tools["mail"] = 0.1
    assert plan.model_limits == {"a": ModelLimitConfig(1)}
    assert plan.tool_costs == {"search": 0.5}


@pytest.mark.parametrize(
    ("when_offline", "allowance_nano"),
    [
        ("allow", None),
        ("block", None),
        ({"allow_up_to": 0.5}, 500_000_000),
        ({"allow_up_to": "0"}, 0),
    ],
)
def test_plan_config__when_offline__has_an_exact_allowance(
    when_offline: Any, allowance_nano: int | None
) -> None:
    """An allowance is exact; the two words have none."""
    assert PlanConfig(when_offline=when_offline).offline_allowance_nano == allowance_nano


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session_timeout_minutes", 0.001),
        ("contention_wait_s", 0),
        ("reservation_safety_factor", 1),
        ("reservation_safety_factor", 100),
        ("pre_call_buffer_tokens", 0),
        ("pre_call_estimate", True),
        ("unknown_model", "block"),
    ],
)
def test_plan_config__a_value_at_its_edge__is_accepted(name: str, value: Any) -> None:
    """The ends of each range belong to it."""
    assert getattr(PlanConfig(**{name: value}), name) == value


@pytest.mark.parametrize("value", ["4096", 4096.0, Decimal(4096)])
def test_plan_config__a_count_written_otherwise__is_an_int(value: Any) -> None:
    """A count that was accepted can be computed with: it is an int afterwards."""
    buffer_tokens = PlanConfig(pre_call_buffer_tokens=value).pre_call_buffer_tokens
    assert (buffer_tokens, type(buffer_tokens)) == (4096, int)


@pytest.mark.parametrize(
    "name",
    [
        "soft_gate_at",
        "hard_gate_at",
        "session_timeout_minutes",
        "reservation_safety_factor",
        "contention_wait_s",
    ],
)
def test_plan_config__a_decimal_number__is_a_float(name: str) -> None:
    """A number that was accepted is what its type says, so that a plan can be dumped as JSON."""
    value = getattr(PlanConfig(**{name: Decimal("1")}), name)  # type: ignore[arg-type]
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize("rates", [{"cost_rates": {"a": {"input": 1, "output": 1}}}, {}])
def test_plan_config__dearest__needs_a_rate(rates: dict[str, Any]) -> None:
    """The dearest rate of a plan exists only where the plan names one."""
    if rates:
        assert PlanConfig(unknown_model="dearest", **rates).unknown_model == "dearest"
        return
    default = ModelCostRate(1, 1)
    assert PlanConfig(unknown_model="dearest", default_cost_rate=default).default_cost_rate


# PlanConfig: what it refuses


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("max_spend_per_period", -1, "must not be negative"),
        ("max_spend_per_period", math.nan, "must be a number of dollars, not NaN"),
        ("max_spend_per_period", "much", NO_CAP),
        ("max_spend_per_session", -math.inf, "must not be negative"),
        ("max_spend_per_session", True, NO_CAP),
        ("price", -1, "must not be negative"),
        ("price", math.inf, "must be finite"),
        ("price", 1_000_001, "must be at most 1,000,000 dollars"),
        ("price", "x", NO_COST),
        ("soft_gate_at", 0, "must be above 0"),
        ("soft_gate_at", -0.1, "must be above 0"),
        ("soft_gate_at", "x", "must be a finite number"),
        ("soft_gate_at", None, "must be a finite number"),
        ("soft_gate_at", math.inf, "must be a finite number"),
        ("soft_gate_at", "1e9999999", "must be a fraction, such as 0.8"),
        ("soft_gate_at", 1.000001, "must not be above hard_gate_at (1.0)"),
        ("hard_gate_at", 0, "must be above 0 and at most 10"),
        ("hard_gate_at", -1, "must be above 0 and at most 10"),
        ("hard_gate_at", 10.000001, "must be above 0 and at most 10"),
        ("hard_gate_at", math.nan, "must be a finite number"),
        ("hard_gate_at", "1e9999999", "must be a fraction, such as 0.8"),
        ("model_limits", [1], "must be a dict by name"),
        ("model_limits", None, "must be a dict by name"),
        ("cost_rates", "gpt-4o", "must be a dict by name"),
        ("tool_costs", 0.02, "must be a dict by name"),
        ("default_cost_rate", 5, "must be a ModelCostRate, or a dict of its fields"),
        ("default_cost_rate", {"input": 1}, "lacks a field that ModelCostRate needs"),
        ("default_tool_cost", -0.02, "must not be negative"),
        ("default_tool_cost", None, NO_COST),
        ("session_timeout_minutes", 0, "must be above 0 minutes"),
        ("session_timeout_minutes", -5, "must be above 0 minutes"),
        ("session_timeout_minutes", "30", "must be a finite number"),
        ("session_timeout_minutes", math.inf, "must be a finite number"),
        ("session_timeout_minutes", Decimal("1e400"), "must be a finite number"),
        ("pre_call_estimate", 1, "must be True or False"),
        ("pre_call_estimate", None, "must be True or False"),
        ("pre_call_buffer_tokens", -1, COUNT_RANGE),
        ("pre_call_buffer_tokens", 1.5, NO_COUNT),
        ("pre_call_buffer_tokens", None, NO_COUNT),
        ("reservation_safety_factor", 0.99, "must be from 1 to 100"),
        ("reservation_safety_factor", 100.5, "must be from 1 to 100"),
        ("reservation_safety_factor", None, "must be a finite number"),
        ("contention_wait_s", -0.1, "must not be negative"),
        ("contention_wait_s", math.nan, "must be a finite number"),
        ("contention_wait_s", True, "must be a finite number"),
        ("limits", "spend", "must be a list of Limit"),
        ("limits", {"cap": 1}, "must be a list of Limit"),
        ("limits", None, "must be a list of Limit"),
        ("limits", 5, "must be a list of Limit"),
        ("when_offline", "maybe", NO_OFFLINE),
        ("when_offline", None, NO_OFFLINE),
        ("when_offline", {}, NO_OFFLINE),
        ("when_offline", {"allow_up_to": 1, "then": 2}, NO_OFFLINE),
        ("unknown_model", "free", 'must be "count", "dearest" or "block"'),
        (
            "unknown_model",
            "dearest",
            '"dearest" needs at least one rate in cost_rates or default_cost_rate',
        ),
    ],
)
def test_plan_config__a_broken_rule__names_field_value_and_rule(
    name: str, value: Any, rule: str
) -> None:
    """Every rule of a plan is told with the field and its value, alone where it is alone broken."""
    found = findings_of(PlanConfig, **{name: value})
    assert [(field, rule) for field, _, rule in found] == [(name, rule)]
    assert found[0][1] is value


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (
            {"model_limits": {"gpt-4o": -1}},
            ("model_limits.gpt-4o.max_tokens_per_period", -1, COUNT_RANGE),
        ),
        (
            {"model_limits": {"gpt-4o": "x"}},
            ("model_limits.gpt-4o", "x", "must be a ModelLimitConfig, or a dict of its fields"),
        ),
        (
            {"model_limits": {"gpt-4o": {"tokens": 5}}},
            ("model_limits.gpt-4o.tokens", 5, "is not a field of ModelLimitConfig"),
        ),
        (
            {"model_limits": {"": 5}},
            ("model_limits", "", "must have names (non-empty strings) as keys"),
        ),
        (
            {"model_limits": {5: 5}},
            ("model_limits", 5, "must have names (non-empty strings) as keys"),
        ),
        (
            {"cost_rates": {"gpt-4o": {"input": -1, "output": 1}}},
            ("cost_rates.gpt-4o.input", -1, "must not be negative"),
        ),
        (
            {"cost_rates": {"gpt-4o": 0.01}},
            ("cost_rates.gpt-4o", 0.01, "must be a ModelCostRate, or a dict of its fields"),
        ),
        (
            {"cost_rates": {"gpt-4o": {"input": 1, "output": 1, "pico": {}}}},
            ("cost_rates.gpt-4o.pico", {}, "is not a field of ModelCostRate"),
        ),
        (
            {"default_cost_rate": {"input": 1, "output": "x"}},
            ("default_cost_rate.output", "x", NO_PRICE),
        ),
        ({"tool_costs": {"search": -1}}, ("tool_costs.search", -1, "must not be negative")),
        ({"tool_costs": {"search": None}}, ("tool_costs.search", None, NO_COST)),
        ({"limits": [Limit(), {"cap": -1}]}, ("limits[1].cap", -1, "must not be negative")),
        ({"limits": [5]}, ("limits[0]", 5, "must be a Limit, or a dict of its fields")),
        (
            {"limits": [{"cap": 5, "budget": 6}]},
            ("limits[0].budget", 6, "is not a field of Limit"),
        ),
        (
            {"limits": [Limit(cap=1), {"metric": "calls", "cap": 3}, Limit(cap=2)]},
            ("limits", ("spend", "user", "", "period"), "is given twice; a limit may be given once"),
        ),
        (
            {"when_offline": {"allow_up_to": -1}},
            ("when_offline.allow_up_to", -1, "must not be negative"),
        ),
    ],
)
def test_plan_config__a_broken_rule_inside__names_the_whole_path(
    arguments: dict[str, Any], finding: Found
) -> None:
    """A finding inside a dict or a list is named by its path, as the caller wrote it."""
    assert findings_of(PlanConfig, **arguments) == [finding]


def test_plan_config__everything_wrong__comes_at_once() -> None:
    """Every broken rule of every part of a plan is in one error."""
    found = findings_of(
        PlanConfig,
        max_spend_per_period=-1,
        max_spend_per_session="x",
        price=math.inf,
        soft_gate_at=2,
        hard_gate_at=1.5,
        model_limits={"a": -1, "": 1, "b": 1.5},
        cost_rates={"a": {"input": -1, "output": -2}},
        default_cost_rate=5,
        tool_costs={"s": -1},
        default_tool_cost=-1,
        session_timeout_minutes=0,
        pre_call_estimate="yes",
        pre_call_buffer_tokens=-1,
        reservation_safety_factor=0,
        contention_wait_s=-1,
        limits=[{"metric": "x"}, {"cap": -1}],
        when_offline="never",
        unknown_model="free",
    )
    assert [field for field, _, _ in found] == [
        "max_spend_per_period",
        "max_spend_per_session",
        "price",
        "soft_gate_at",
        "model_limits",
        "model_limits.a.max_tokens_per_period",
        "model_limits.b.max_tokens_per_period",
        "cost_rates.a.input",
        "cost_rates.a.output",
        "default_cost_rate",
        "tool_costs.s",
        "default_tool_cost",
        "session_timeout_minutes",
        "pre_call_estimate",
        "pre_call_buffer_tokens",
        "reservation_safety_factor",
        "contention_wait_s",
        "limits[0].metric",
        "limits[1].cap",
        "when_offline",
        "unknown_model",
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, ()),
        ({"max_spend_per_period": math.inf, "max_spend_per_session": 9 * 10**9}, ()),
        ({"max_spend_per_period": 1e10}, ("max_spend_per_period",)),
        (
            {"max_spend_per_period": "9000000000.01", "max_spend_per_session": 1e12},
            ("max_spend_per_period", "max_spend_per_session"),
        ),
    ],
)
def test_caps_out_of_range__caps__too_large_to_count_are_named(
    arguments: dict[str, Any], names: tuple[str, ...]
) -> None:
    """A cap above 9·10⁹ dollars is no limit and is named, so that it can be said."""
    assert PlanConfig(**arguments).caps_out_of_range == names


# limits_of


def test_limits_of__a_whole_plan__has_the_shorthand_first() -> None:
    """The documented shorthand and the general form are one list of limits."""
    session: Any = "0.000000003"
    calls = Limit(metric="calls", window="day", cap=100)
    plan = PlanConfig(
        max_spend_per_period=5,
        max_spend_per_session=session,
        model_limits={"a": ModelLimitConfig(1000), "b": ModelLimitConfig(None)},
        limits=(calls, Limit(window="day")),
    )
    found = limits_of(plan)
    assert [(limit.key, limit.cap_exact) for limit in found] == [
        (LimitKey("spend", "user", "", "period"), 5_000_000_000),
        (LimitKey("spend", "session", "", "session"), 3),
        (LimitKey("tokens", "user", "a", "period"), 1000),
        (LimitKey("calls", "user", "", "day"), 100),
    ]


@pytest.mark.parametrize(("general", "kept"), [(3, 3), (7, 5), (math.inf, 5), (0, 0)])
def test_limits_of__shorthand_and_limit_of_one_identity__the_smaller_cap_counts(
    general: float, kept: int
) -> None:
    """Where a limit stands in both forms, the smaller cap counts."""
    plan = PlanConfig(max_spend_per_period=5, limits=(Limit(cap=general),))
    assert [limit.cap_exact for limit in limits_of(plan)] == [kept * 10**9]


def test_limits_of__a_cap_of_zero__is_a_limit() -> None:
    """A cap of 0 is not the absence of a cap."""
    plan = PlanConfig(max_spend_per_period=0, model_limits={"a": ModelLimitConfig(0)})
    assert [limit.cap_exact for limit in limits_of(plan)] == [0, 0]


def test_limits_of__a_cap_that_no_double_holds__is_exact() -> None:
    """The general form of a cap keeps each nano-dollar."""
    cap: Any = "4999999999.123456789"
    plan = PlanConfig(max_spend_per_period=cap)
    assert [limit.cap_exact for limit in limits_of(plan)] == [4_999_999_999_123_456_789]


def test_limits_of__asked_twice__is_the_same_tuple() -> None:
    """The limits of a plan are made once and kept with it; a copy has its own."""
    plan = PlanConfig(max_spend_per_period=5)
    assert limits_of(plan) is limits_of(plan)
    copy = plan.model_copy(update={"max_spend_per_period": 6})
    assert [limit.cap_exact for limit in limits_of(copy)] == [6_000_000_000]


# plan_to_json and plan_from_json


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
        {"when_offline": "block", "pre_call_estimate": True},
        {"when_offline": {"allow_up_to": 1.5}},
        {"when_offline": {"allow_up_to": "1.50"}},
        {"model_limits": {"a": None, "b": 0}},
        {"model_limits": {"a": ModelLimitConfig(1e3)}},  # type: ignore[arg-type]
        {"model_limits": {"a": ModelLimitConfig("1000")}},  # type: ignore[arg-type]
        {"limits": [Limit(cap=5), Limit(metric="tokens", model="a", window="day", cap=5)]},
        {"limits": [Limit(cap="123456789.123456789")]},  # type: ignore[arg-type]
        {"limits": [Limit()]},
        {"limits": [Limit(cap=None)]},  # type: ignore[arg-type]
        {"limits": [Limit(cap=1e10)]},
        {"limits": [Limit(metric="tokens")]},
        {"limits": [Limit(metric="tokens", cap="5")]},  # type: ignore[arg-type]
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
    assert findings_of(plan_from_json, document={"quota": 1, "price": 5, "budget": 2}) == [
        ("budget", 2, "is not a field of a plan"),
        ("quota", 1, "is not a field of a plan"),
    ]


@pytest.mark.parametrize("name", ["soft_gate_ppm", "price_nano", "_dollars"])
def test_plan_from_json__a_computed_field__is_no_field_of_a_document(name: str) -> None:
    """What follows from other fields, or is none, cannot be set by a document."""
    assert findings_of(plan_from_json, document={name: 5}) == [
        (name, 5, "is not a field of a plan")
    ]


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


def test_model_copy__of_a_rate__keeps_prices_that_no_double_holds() -> None:
    """A copy of a copy costs the same to the pico-dollar."""
    rate = ModelCostRate.per_million(input="0.0375", output="0.123456789012")
    copy = rate.model_copy(update={"cached_input": 0})
    assert copy.pico == {**rate.pico, "cached_input": 0}
    assert rate.pico == {"input": 37_500_000_000, "output": 123_456_789_012}


def test_limits_of__one_model_in_two_spellings__is_one_limit_with_the_smaller_cap() -> None:
    """Whoever writes a model twice has not lifted its limit."""
    for limits in ({"GPT-4o": 10, "gpt-4o": 10**9}, {"gpt-4o": 10**9, "GPT-4o": 10}):
        plan = PlanConfig(model_limits=limits)  # type: ignore[arg-type]
        assert [limit.cap_exact for limit in limits_of(plan)] == [10]


def test_plan_config__a_session_of_centuries__is_refused_by_name() -> None:
    """A time that no clock holds would fail later, in a call."""
    with pytest.raises(InvalidValue, match="session_timeout_minutes"):
        PlanConfig(session_timeout_minutes=1e302)
