"""Public value types: the dump, the JSON dump, the changed copy and the exact twins."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest

from paygent.core.limit import Limit
from paygent.core.plan import PlanConfig
from paygent.core.validation import InvalidValue
from paygent.core.value import Value, exact_usd


@dataclass(frozen=True)
class Result(Value):
    """A result as Paygent makes it: one amount, one dict of amounts."""

    cost: float | None
    cost_by_model: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    cost_nano: int | None = field(init=False)
    cost_by_model_nano: Mapping[str, int] = field(init=False)


@dataclass(frozen=True)
class Nested(Value):
    """A value of everything that a dump meets."""

    inner: Result
    at: datetime
    exact: Decimal
    endless: float
    several: tuple[Result, ...]
    tags: Mapping[str, Any]


AT = datetime(2025, 1, 31, 12, 30, tzinfo=timezone.utc)
RESULT_DUMP = {
    "cost": 0.15,
    "cost_by_model": {"gpt-4o": 0.1},
    "name": "é",
    "cost_nano": 150_000_000,
    "cost_by_model_nano": {"gpt-4o": 100_000_000},
}


def make_result() -> Result:
    """Return a result of 15 cents."""
    amounts: Any = {"gpt-4o": "0.1"}
    return Result(0.15, amounts, "é")


def make_nested() -> Nested:
    """Return a value that holds a result, a time, a Decimal and an infinity."""
    return Nested(make_result(), AT, Decimal("2.5"), math.inf, (make_result(),), {"k": [AT, None]})


def test_value__an_exact_amount__sets_twin_and_nearest_double() -> None:
    """The twin is the exact amount, the field the double nearest to it."""
    exact: Any = Decimal("0.1234567894")
    result = Result(exact)
    assert (result.cost_nano, result.cost) == (123_456_789, 0.123456789)


def test_value__a_dict__settles_each_amount() -> None:
    """A dict of amounts has a dict of exact twins."""
    result = make_result()
    assert result.cost_by_model == {"gpt-4o": 0.1}
    assert result.cost_by_model_nano == {"gpt-4o": 100_000_000}


@pytest.mark.parametrize("given", [None, math.inf])
def test_value__no_limit__has_no_twin(given: float | None) -> None:
    """No amount, or an infinite one, stays as it is and has no exact twin."""
    result = Result(given)
    assert (result.cost, result.cost_nano) == (given, None)


def test_value__no_number__is_a_type_error() -> None:
    """A result that Paygent makes of a wrong value fails loudly."""
    wrong: Any = "much"
    with pytest.raises(TypeError, match="'much' is not a number of dollars"):
        Result(wrong)


def test_model_dump__python__keeps_python_values() -> None:
    """The Python dump nests dicts and lists and keeps times, Decimals and infinities."""
    assert make_nested().model_dump() == {
        "inner": RESULT_DUMP,
        "at": AT,
        "exact": Decimal("2.5"),
        "endless": math.inf,
        "several": [RESULT_DUMP],
        "tags": {"k": [AT, None]},
    }


def test_model_dump__json__has_only_what_json_carries() -> None:
    """The JSON dump has ISO 8601 strings, plain numbers, and None for an infinite limit."""
    dump = make_nested().model_dump(mode="json")
    assert dump == {
        "inner": RESULT_DUMP,
        "at": "2025-01-31T12:30:00+00:00",
        "exact": 2.5,
        "endless": None,
        "several": [RESULT_DUMP],
        "tags": {"k": ["2025-01-31T12:30:00+00:00", None]},
    }
    assert type(dump["exact"]) is float


def test_model_dump_json__a_value__is_the_json_dump_as_text() -> None:
    """The text reads back as the JSON dump and is written in plain letters."""
    text = make_nested().model_dump_json()
    assert json.loads(text) == make_nested().model_dump(mode="json")
    assert "é" in text


def test_model_copy__nothing_changed__is_equal_and_exact() -> None:
    """A copy without changes is the same value, to the nano-dollar."""
    cap: Any = "4999999999.123456789"
    plan = PlanConfig(max_spend_per_period=cap)
    copy = plan.model_copy()
    assert copy == plan
    assert copy is not plan
    assert copy.max_spend_per_period_nano == 4_999_999_999_123_456_789


def test_model_copy__some_fields_changed__changes_those_only() -> None:
    """A copy has the new values and keeps the others, twins included."""
    copy = make_result().model_copy(update={"name": "b", "cost": "0.2"})
    assert copy.model_dump() == {
        **RESULT_DUMP,
        "name": "b",
        "cost": 0.2,
        "cost_nano": 200_000_000,
    }


def test_model_copy__a_twin_given__changes_the_amount_exactly() -> None:
    """A dollar field may be changed by its exact twin, a dict of amounts too."""
    copy = make_result().model_copy(
        update={"cost_nano": 123_456_789_123_456_789, "cost_by_model_nano": {"a": 1}}
    )
    assert (copy.cost_nano, copy.cost) == (123_456_789_123_456_789, 123_456_789.12345679)
    assert (copy.cost_by_model_nano, copy.cost_by_model) == ({"a": 1}, {"a": 1e-9})


def test_model_copy__field_and_twin_given__the_field_counts() -> None:
    """Where both are given, the field that the documented API names counts."""
    copy = make_result().model_copy(update={"cost": 1, "cost_nano": 5})
    assert copy.cost_nano == 1_000_000_000


def test_model_copy__a_twin_of_none__lifts_the_limit() -> None:
    """A twin of None says no limit, as it does in the value itself."""
    plan = PlanConfig(max_spend_per_period=5)
    copy = plan.model_copy(update={"max_spend_per_period_nano": None})
    assert (copy.max_spend_per_period, copy.max_spend_per_period_nano) == (None, None)


@pytest.mark.parametrize("given", [None, math.inf])
def test_model_copy__no_limit_kept__stays_no_limit(given: float | None) -> None:
    """A copy of a value without a limit has none."""
    assert PlanConfig(max_spend_per_period=given).model_copy().max_spend_per_period == given


def test_model_copy__a_new_value_breaks_a_rule__is_refused() -> None:
    """A copy is validated like a new value."""
    with pytest.raises(InvalidValue, match="soft_gate_at = 2: must not be above hard_gate_at"):
        PlanConfig().model_copy(update={"soft_gate_at": 2})


def test_model_copy__unknown_fields__are_named() -> None:
    """Every field that the type does not have is named."""
    with pytest.raises(TypeError, match=r"^PlanConfig has no field budget, quota$"):
        PlanConfig().model_copy(update={"quota": 1, "price": 5, "budget": 2})


@pytest.mark.parametrize(
    ("value", "update"),
    [(PlanConfig(), {"soft_gate_ppm": 5}), (Limit(cap=1), {"cap_exact": 7})],
)
def test_model_copy__a_computed_field__is_not_ignored_in_silence(
    value: Value, update: dict[str, Any]
) -> None:
    """A change of a field that is computed from another is refused, never dropped."""
    with pytest.raises(TypeError):
        value.model_copy(update=update)


def test_model_copy__a_limit__keeps_its_exact_cap() -> None:
    """A limit's copy has the same cap, to the nano-dollar."""
    cap: Any = "123456789.123456789"
    assert Limit(cap=cap).model_copy().cap_exact == 123_456_789_123_456_789


def test_model_copy__the_application_computes_with_few_digits__stays_exact() -> None:
    """The application's own decimal precision changes no amount."""
    cap: Any = "1234.567891"
    plan = PlanConfig(max_spend_per_period=cap)
    with localcontext() as context:
        context.prec = 6
        assert plan.model_copy().max_spend_per_period_nano == 1_234_567_891_000


def test_exact_usd__an_amount_and_a_dict__are_decimals() -> None:
    """Amounts come back as exact Decimals, by the keys they had."""
    assert exact_usd(1) == Decimal("0.000000001")
    assert exact_usd({"a": 1_500_000_000, "b": 0}) == {"a": Decimal("1.5"), "b": Decimal(0)}
