"""Money: what is read exactly, what is refused and why, and how it is shown."""

from __future__ import annotations

import math
from decimal import Decimal, Inexact, localcontext
from typing import Any

import pytest

from paygent.core.money import (
    divide_half_even,
    format_usd,
    is_unlimited,
    read_cap_nano,
    read_cost_nano,
    read_decimal,
    read_parts_per_million,
    read_price_pico,
    scale,
    shifted,
    to_usd,
)


@pytest.mark.parametrize(
    ("amount_nano", "dollars"),
    [
        (150_000_000, 0.15),
        (0, 0.0),
        (1, 1e-9),
        (-2_500_000_000, -2.5),
        (9_000_000_000_000_000_001, 9e9),
        (123_456_789_123_456_789, 123_456_789.12345679),
    ],
)
def test_to_usd__an_exact_amount__is_the_nearest_double(amount_nano: int, dollars: float) -> None:
    """An amount is shown as the double nearest to it."""
    assert to_usd(amount_nano) == dollars


@pytest.mark.parametrize("written", [0.0000015, "0.0000015", "1.5e-6", Decimal("0.0000015")])
def test_to_usd__a_hundred_thousand_tiny_events__sum_to_exactly_15_cents(written: Any) -> None:
    """100,000 events of $0.0000015 are $0.15 to the last bit; a sum of floats is not."""
    total_nano = sum(read_cost_nano(written) for _ in range(100_000))
    assert total_nano == 150_000_000
    assert to_usd(total_nano) == 0.15
    floats = 0.0
    for _ in range(100_000):
        floats += 0.0000015
    assert floats != 0.15


@pytest.mark.parametrize(
    ("numerator", "denominator", "rounded"),
    [
        (0, 7, 0),
        (1, 2, 0),
        (3, 2, 2),
        (5, 2, 2),
        (7, 2, 4),
        (9, 4, 2),
        (11, 4, 3),
        (10, 5, 2),
        (-1, 2, 0),
        (-3, 2, -2),
        (-5, 2, -2),
        (-9, 4, -2),
        (-11, 4, -3),
        (10**30 + 1, 2 * 10**30, 1),
        (10**30, 2 * 10**30, 0),
    ],
)
def test_divide_half_even__a_quotient__rounds_to_the_nearest_and_ties_to_even(
    numerator: int, denominator: int, rounded: int
) -> None:
    """Division rounds to the nearest integer; a tie goes to the even one, below zero too."""
    assert divide_half_even(numerator, denominator) == rounded


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Decimal("1.10"), Decimal("1.10")),
        (5, Decimal(5)),
        (0.1, Decimal("0.1")),
        (1e-7, Decimal("0.0000001")),
        ("0.15", Decimal("0.15")),
        (" 2 ", Decimal(2)),
        ("1e3", Decimal(1000)),
        (math.inf, Decimal("Infinity")),
        ("-inf", Decimal("-Infinity")),
        (True, None),
        (False, None),
        (None, None),
        ("", None),
        ("ten", None),
        ("$5", None),
        ("1,000", None),
        (b"5", None),
        ([5], None),
    ],
)
def test_read_decimal__anything__is_the_number_as_written_or_none(
    value: Any, number: Decimal | None
) -> None:
    """A float is read as its shortest decimal; what is no number, a bool included, is None."""
    assert read_decimal(value) == number


def test_read_decimal__nan__stays_nan() -> None:
    """A NaN is handed on as one, for the reader to refuse."""
    number = read_decimal(math.nan)
    assert number is not None
    assert number.is_nan()


@pytest.mark.parametrize(
    ("value", "factor", "scaled"),
    [
        ("0.0000000015", 10**9, 2),
        ("0.0000000025", 10**9, 2),
        ("0.00000000250000001", 10**9, 3),
        ("1234.567891", 10**9, 1_234_567_891_000),
        ("0.0000000005", 10**9, 0),
        ("1e-999999", 10**9, 0),
    ],
)
def test_scale__more_digits_than_the_unit__rounds_half_even(
    value: str, factor: int, scaled: int
) -> None:
    """Digits below the unit are rounded half to even."""
    assert scale(Decimal(value), factor) == scaled


def test_scale__a_hair_above_a_tie__rounds_up() -> None:
    """However many digits a number has, it is rounded once: just above a half is up."""
    assert scale(Decimal("0.0000000005" + "0" * 50 + "1"), 10**9) == 1


def test_scale__the_application_traps_inexact_decimals__does_not_care() -> None:
    """The application's own decimal settings change nothing of how money is read."""
    with localcontext() as context:
        context.prec = 4
        context.traps[Inexact] = True
        assert scale(Decimal("1234.567891"), 10**9) == 1_234_567_891_000


@pytest.mark.parametrize(
    ("value", "amount_nano"),
    [
        (0, 0),
        (-0.0, 0),
        ("0.15", 150_000_000),
        (0.1, 100_000_000),
        (Decimal("0.000000001"), 1),
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        (1_000_000, 1_000_000_000_000_000),
    ],
)
def test_read_cost_nano__a_cost_in_dollars__is_exact(value: Any, amount_nano: int) -> None:
    """A cost is read exactly down to a nano-dollar, up to a million dollars."""
    assert read_cost_nano(value) == amount_nano


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("ten", "must be a number of dollars (Decimal, int, float or str)"),
        (True, "must be a number of dollars (Decimal, int, float or str)"),
        (None, "must be a number of dollars (Decimal, int, float or str)"),
        (math.nan, "must be a number of dollars, not NaN"),
        (Decimal("sNaN"), "must be a number of dollars, not NaN"),
        (math.inf, "must be finite"),
        ("-inf", "must be finite"),
        (-0.01, "must not be negative"),
        ("1000000.000000001", "must be at most 1,000,000 dollars"),
        ("1e9999999", "must be at most 1,000,000 dollars"),
    ],
)
def test_read_cost_nano__no_cost__names_the_rule(value: Any, rule: str) -> None:
    """NaN, infinite, negative and absurd costs are refused, each with its rule."""
    with pytest.raises(ValueError, match=r".") as refusal:
        read_cost_nano(value)
    assert str(refusal.value) == rule


@pytest.mark.parametrize(
    ("value", "cap_nano"),
    [
        (None, None),
        (math.inf, None),
        ("Infinity", None),
        (0, 0),
        (5, 5_000_000_000),
        ("0.1", 100_000_000),
        (9_000_000_000, 9_000_000_000_000_000_000),
        ("9000000000.000000001", None),
        (1e300, None),
    ],
)
def test_read_cap_nano__a_cap__is_exact_or_no_limit(value: Any, cap_nano: int | None) -> None:
    """None, infinity and more than 64 bits hold are no limit; 0 is a cap."""
    assert read_cap_nano(value) == cap_nano


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("x", "must be a number of dollars (Decimal, int, float or str), or None for no limit"),
        (True, "must be a number of dollars (Decimal, int, float or str), or None for no limit"),
        ("nan", "must be a number of dollars, not NaN"),
        (-1, "must not be negative"),
        (-math.inf, "must not be negative"),
    ],
)
def test_read_cap_nano__no_cap__names_the_rule(value: Any, rule: str) -> None:
    """What cannot be a cap is refused with its rule; minus infinity is negative, not unlimited."""
    with pytest.raises(ValueError, match=r".") as refusal:
        read_cap_nano(value)
    assert str(refusal.value) == rule


@pytest.mark.parametrize(
    ("value", "units", "price_pico"),
    [
        ("2.50", 1, 2_500_000_000_000),
        ("0.0375", 1, 37_500_000_000),
        ("0.0025", 1000, 2_500_000_000_000),
        (0, 1, 0),
        (1_000_000, 1000, 1_000_000_000_000_000_000_000),
    ],
)
def test_read_price_pico__a_price__is_exact_per_list_unit(
    value: Any, units: int, price_pico: int
) -> None:
    """$2.50 per million and $0.0025 per thousand tokens are one price in pico-dollars."""
    assert read_price_pico(value, units_per_list_unit=units) == price_pico


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "must be a price in dollars (Decimal, int, float or str)"),
        ("nan", "must be a finite price in dollars"),
        (math.inf, "must be a finite price in dollars"),
        (-1, "must not be negative"),
        (1_000_001, "must be at most 1,000,000 dollars"),
    ],
)
def test_read_price_pico__no_price__names_the_rule(value: Any, rule: str) -> None:
    """What cannot be a price is refused with its rule."""
    with pytest.raises(ValueError, match=r".") as refusal:
        read_price_pico(value)
    assert str(refusal.value) == rule


@pytest.mark.parametrize(
    ("value", "ppm"),
    [
        (0.8, 800_000),
        ("1.2", 1_200_000),
        (1, 1_000_000),
        ("0.0000005", 0),
        ("0.0000015", 2),
        (-0.5, -500_000),
    ],
)
def test_read_parts_per_million__a_fraction__is_an_exact_integer(value: Any, ppm: int) -> None:
    """0.8 is 800,000 parts per million; finer digits are rounded half to even."""
    assert read_parts_per_million(value) == ppm


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("most", "must be a finite number"),
        (math.nan, "must be a finite number"),
        (math.inf, "must be a finite number"),
        (1_000_001, "must be a fraction, such as 0.8"),
        ("1e9999999", "must be a fraction, such as 0.8"),
    ],
)
def test_read_parts_per_million__no_fraction__names_the_rule(value: Any, rule: str) -> None:
    """What cannot be a fraction is refused with its rule, also where it is astronomically large."""
    with pytest.raises(ValueError, match=r".") as refusal:
        read_parts_per_million(value)
    assert str(refusal.value) == rule


@pytest.mark.parametrize(
    ("value", "unlimited"),
    [
        (None, False),
        (math.inf, False),
        (math.nan, False),
        ("x", False),
        (9_000_000_000, False),
        ("9000000000.01", True),
        (1e10, True),
    ],
)
def test_is_unlimited__a_cap__only_one_too_large_to_count(value: Any, unlimited: bool) -> None:
    """Only a finite cap above the range is worth telling of, not None or infinity."""
    assert is_unlimited(value) is unlimited


@pytest.mark.parametrize(
    ("amount_nano", "decimals", "text"),
    [
        (1_234_500_000_000, 2, "$1,234.50"),
        (0, 2, "$0.00"),
        (5_000_000, 2, "$0.00"),
        (15_000_000, 2, "$0.02"),
        (-1_234_500_000_000, 2, "−$1,234.50"),
        (-1, 2, "$0.00"),
        (1_500_000_000, 0, "$2"),
        (1, 9, "$0.000000001"),
        (999_999_999, 2, "$1.00"),
    ],
)
def test_format_usd__an_amount__reads_as_money(amount_nano: int, decimals: int, text: str) -> None:
    """Amounts have thousands separators, the sign in front, and never a minus zero."""
    assert format_usd(amount_nano, decimals=decimals) == text


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_shifted__what_is_no_finite_number__stays_what_it_is(text: str) -> None:
    """The plan then says which field it stands in."""
    assert str(shifted(Decimal(text), -15)) == text
