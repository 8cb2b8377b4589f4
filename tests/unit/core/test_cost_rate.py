"""A plan's own prices: exact to the pico-dollar, and every broken rule named."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
from tests.unit.core.broken_rules import errors_of

from paygent.core.plan import ModelCostRate

NO_PRICE = "must be a price in dollars (Decimal, int, float or str)"


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
    assert errors_of(ModelCostRate, **arguments) == [(name, value, rule)]


@pytest.mark.parametrize("name", ["input", "output"])
def test_model_cost_rate__input_or_output_none__is_refused(name: str) -> None:
    """Plain input and output have no parent to take a price from."""
    arguments = {"input": 1, "output": 1, name: None}
    assert errors_of(ModelCostRate, **arguments) == [(name, None, NO_PRICE)]


def test_model_cost_rate__several_wrong__come_at_once() -> None:
    """Every wrong price is named in one error."""
    assert errors_of(ModelCostRate, input=-1, output=None, reasoning="x") == [
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
    found = errors_of(ModelCostRate.per_million, input=value, output=1)
    assert [(name, given) for name, given, _ in found] == [("input", value)]
    assert found[0][2].startswith("must ")


def test_per_million__an_astronomical_price__is_an_invalid_value() -> None:
    """A price beyond the range of decimals is refused like any other."""
    found = errors_of(ModelCostRate.per_million, input="1e9999999", output=1)
    assert [name for name, _, _ in found] == ["input"]


def test_per_million__several_wrong__come_at_once() -> None:
    """Every wrong price is named in one error, whichever rule it breaks."""
    found = errors_of(ModelCostRate.per_million, input="x", output=-1, reasoning=math.inf)
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


def test_model_copy__of_a_rate__keeps_prices_that_no_double_holds() -> None:
    """A copy of a copy costs the same to the pico-dollar."""
    rate = ModelCostRate.per_million(input="0.0375", output="0.123456789012")
    copy = rate.model_copy(update={"cached_input": 0})
    assert copy.pico == {**rate.pico, "cached_input": 0}
    assert rate.pico == {"input": 37_500_000_000, "output": 123_456_789_012}
