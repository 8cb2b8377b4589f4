"""Rules in words of JSON: no answer speaks of Python or of the validation library."""

from __future__ import annotations

import pytest
from fastapi.exceptions import RequestValidationError

from paygent import PlanConfig
from paygent.core.validation import InvalidValue
from paygent.server.problems import as_problem


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        ({"type": "missing", "msg": "Field required"}, "is required"),
        (
            {"type": "string_too_long", "msg": "…", "ctx": {"max_length": 9}},
            "must have at most 9 characters",
        ),
        (
            {"type": "too_short", "msg": "…", "ctx": {"min_length": 1}},
            "must have at least one item",
        ),
        (
            {"type": "literal_error", "msg": "…", "ctx": {"expected": "'a' or 'b'"}},
            'must be "a" or "b"',
        ),
        (
            {
                "type": "value_error",
                "msg": "Value error, …",
                "ctx": {"error": ValueError("is odd")},
            },
            "is odd",
        ),
        ({"type": "new", "msg": "Input should be a valid date"}, "must be a date"),
        ({"type": "new", "msg": "Something else"}, "something else"),
    ],
)
def test_as_problem__each_kind_of_error__follows_the_name_of_a_field(
    error: dict[str, object], rule: str
) -> None:
    """A rule is the rest of a sentence that begins with the field."""
    problem = as_problem(RequestValidationError([{"loc": ("body", "name"), **error}]))
    assert problem is not None
    assert [(each["field"], each["rule"]) for each in problem.errors] == [("name", rule)]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_spend_per_period": "x", "price": [], "enforce": "yes", "limits": 3},
        {"model_limits": 3, "cost_rates": {"m": 3}, "default_cost_rate": 3},
        {"model_limits": {"m": {"cap": 1}}, "cost_rates": {"m": {"in": 1}}, "limits": [{"m": 1}]},
        {"limits": [{"metric": "calls"}, {"cap": "x"}, 3, {"cap": 1, "model": 3}]},
        {"tool_costs": {"t": "x"}, "when_offline": 3, "pre_call_buffer_tokens": "x"},
        {"model_limits": {"m": "x"}, "session_timeout_minutes": "x", "soft_gate_at": "x"},
    ],
)
def test_as_problem__every_rule_of_a_plan__names_no_type_of_python(
    fields: dict[str, object],
) -> None:
    """A plan's rules are written for applications in Python; a request is JSON."""
    with pytest.raises(InvalidValue) as raised:
        PlanConfig(**fields)  # type: ignore[arg-type]
    problem = as_problem(raised.value)
    assert problem is not None
    assert len(problem.errors) == len(raised.value.findings)
    for each in problem.errors:
        for word in ("None", "True", "False", "dict", "Decimal", "Config", "Rate", "Limit"):
            assert word not in each["rule"], each["rule"]
