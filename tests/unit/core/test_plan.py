"""Plans: every rule with field, value and rule, all findings at once, and no loss on the way."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from tests.unit.core.broken_rules import Found, errors_of

from paygent.core.limit import Limit, LimitKey, ModelLimitConfig
from paygent.core.plan import ModelCostRate, PlanConfig, limits_of, without_limits
from paygent.core.validation import InvalidValue

NO_COST = "must be a number of dollars (Decimal, int, float or str)"
NO_CAP = "must be a number of dollars (Decimal, int, float or str), or None for no limit"
NO_PRICE = "must be a price in dollars (Decimal, int, float or str)"
NO_COUNT = "must be a whole number"
COUNT_RANGE = "must be from 0 to 9·10¹⁸"
NO_OFFLINE = 'must be "allow", "block" or {"allow_up_to": dollars}'


# PlanConfig: accepted values


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
        "enforce": True,
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


# PlanConfig: rejected values


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
        (
            "hard_gate_at",
            0,
            "must be above 0 and at most 10: a fraction of the cap, 0.8 means 80 %",
        ),
        (
            "hard_gate_at",
            -1,
            "must be above 0 and at most 10: a fraction of the cap, 0.8 means 80 %",
        ),
        (
            "hard_gate_at",
            10.000001,
            "must be above 0 and at most 10: a fraction of the cap, 0.8 means 80 %",
        ),
        ("hard_gate_at", math.nan, "must be a finite number"),
        ("hard_gate_at", "1e9999999", "must be a fraction, such as 0.8"),
        ("model_limits", [1], "must be a dict with names as keys"),
        ("model_limits", None, "must be a dict with names as keys"),
        ("cost_rates", "gpt-4o", "must be a dict with names as keys"),
        ("tool_costs", 0.02, "must be a dict with names as keys"),
        ("default_cost_rate", 5, "must be a ModelCostRate or a dict of its fields"),
        ("default_cost_rate", {"input": 1}, "lacks output"),
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
    found = errors_of(PlanConfig, **{name: value})
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
            (
                "model_limits.gpt-4o",
                "x",
                "must be a number, a ModelLimitConfig or a dict of its fields",
            ),
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
            ("cost_rates.gpt-4o", 0.01, "must be a ModelCostRate or a dict of its fields"),
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
        ({"limits": [Limit(cap=5), {"cap": -1}]}, ("limits[1].cap", -1, "must not be negative")),
        ({"limits": [5]}, ("limits[0]", 5, "must be a Limit or a dict of its fields")),
        (
            {"limits": [{"cap": 5, "budget": 6}]},
            ("limits[0].budget", 6, "is not a field of Limit"),
        ),
        (
            {"limits": [Limit(cap=1), {"metric": "calls", "cap": 3}, Limit(cap=2)]},
            (
                "limits",
                ("spend", "user", "", "period"),
                "is given twice; a limit may be given once",
            ),
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
    assert errors_of(PlanConfig, **arguments) == [finding]


def test_plan_config__everything_wrong__comes_at_once() -> None:
    """Every broken rule of every part of a plan is in one error."""
    found = errors_of(
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
        enforce="no",
        pre_call_buffer_tokens=-1,
        reservation_safety_factor=0,
        contention_wait_s=-1,
        limits=[{"metric": "x", "cap": 1}, {"cap": -1}],
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
        "enforce",
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
        limits=(calls, Limit(window="day", cap=None)),
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


def test_without_limits__called_twice__is_the_same_plan_without_limits() -> None:
    """The copy has no limit of any form, keeps the rest, and is made once."""
    limits = {"model_limits": {"gpt-4o": 5}, "limits": (Limit(metric="calls", cap=7),)}
    given: Any = {"max_spend_per_period": 5, "max_spend_per_session": 1, **limits}
    plan = PlanConfig(**given, price=9)
    assert without_limits(plan) == PlanConfig(price=9)
    assert without_limits(plan) is without_limits(plan)


def test_limits_of__one_model_in_two_spellings__is_one_limit_with_the_smaller_cap() -> None:
    """Whoever writes a model twice has not lifted its limit."""
    for limits in ({"GPT-4o": 10, "gpt-4o": 10**9}, {"gpt-4o": 10**9, "GPT-4o": 10}):
        plan = PlanConfig(model_limits=limits)
        assert [limit.cap_exact for limit in limits_of(plan)] == [10]


def test_plan_config__a_session_of_centuries__is_refused_by_name() -> None:
    """A time that no clock holds would fail later, in a call."""
    with pytest.raises(InvalidValue, match="session_timeout_minutes"):
        PlanConfig(session_timeout_minutes=1e302)
