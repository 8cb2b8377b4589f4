"""Money, for any amount: reading is exact, dividing rounds once, showing loses nothing twice."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.money import (
    CAP_NANO_MAX,
    COST_NANO_MAX,
    divide_half_even,
    format_usd,
    read_cap_nano,
    read_cost_nano,
    read_decimal,
    read_price_pico,
    to_usd,
)

COSTS_NANO = st.integers(0, COST_NANO_MAX)


def written(amount_nano: int) -> str:
    """Return an amount as a decimal string of dollars."""
    whole, part = divmod(amount_nano, 10**9)
    return f"{whole}.{part:09d}"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, CAP_NANO_MAX))
def test_read_cap_nano__any_amount_as_text__comes_back(amount_nano: int) -> None:
    """A cap written in dollars is read back to the nano-dollar, as text and as a Decimal."""
    text = written(amount_nano)
    assert read_cap_nano(text) == amount_nano
    assert read_cap_nano(Decimal(text)) == amount_nano


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**15))
def test_to_usd__any_amount_that_a_double_tells_apart__comes_back(amount_nano: int) -> None:
    """What is shown as a float reads back as the same amount, up to a million dollars."""
    assert read_cap_nano(to_usd(amount_nano)) == amount_nano


@settings(max_examples=150, deadline=None)
@given(st.decimals(0, 10**6, allow_nan=False, allow_infinity=False))
def test_read_cost_nano__any_decimal__is_the_fraction_rounded_half_even(number: Decimal) -> None:
    """However many digits a cost has, it is rounded once, half to even."""
    assert read_cost_nano(number) == round(Fraction(number) * 10**9)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.text("0123456789", min_size=0, max_size=60))
def test_read_price_pico__any_digits__are_the_fraction_rounded_half_even(
    whole: int, digits: str
) -> None:
    """A price is rounded once however many digits it is written with."""
    text = f"{whole % 10**6}.{digits}0"
    exact = round(Fraction(text) * 10**15)
    assert read_price_pico(text, units_per_list_unit=1000) == exact


@settings(max_examples=150, deadline=None)
@given(st.integers(-(10**40), 10**40), st.integers(1, 10**20))
def test_divide_half_even__any_quotient__is_the_rounded_fraction(
    numerator: int, denominator: int
) -> None:
    """Dividing rounds as the exact fraction rounds."""
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@settings(max_examples=200, deadline=None)
@given(st.lists(COSTS_NANO, max_size=30))
def test_to_usd__a_sum_of_costs__is_the_double_nearest_to_the_exact_sum(
    costs: list[int],
) -> None:
    """A sum is exact however many events it has; the float is made once, at the end."""
    total = sum(read_cost_nano(written(cost)) for cost in costs)
    assert to_usd(total) == float(Fraction(sum(costs), 10**9))


@settings(max_examples=200, deadline=None)
@given(st.integers(-CAP_NANO_MAX, CAP_NANO_MAX), st.integers(0, 9))
def test_format_usd__any_amount__reads_back_as_rounded(amount_nano: int, decimals: int) -> None:
    """What is shown to people is the amount rounded to its decimals, and no digit else."""
    text = format_usd(amount_nano, decimals=decimals)
    shown = Fraction(text.replace("$", "").replace(",", "").replace("−", "-"))
    assert shown == Fraction(round(Fraction(amount_nano, 10 ** (9 - decimals))), 10**decimals)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=30),
        st.decimals(),
        st.lists(st.integers(), max_size=2),
        st.from_regex(r"\A-?[0-9]{1,5}(e-?[0-9]{1,8})?\Z"),
    )
)
def test_read_cost_nano__anything__is_in_range_or_a_value_error(value: Any) -> None:
    """Whatever is given is a cost in range or refused with a rule, never another exception."""
    read_decimal(value)
    try:
        cost = read_cost_nano(value)
    except ValueError as error:
        assert str(error).startswith("must ")
    else:
        assert 0 <= cost <= COST_NANO_MAX
