"""Amounts, rates and limits in words."""

from __future__ import annotations

from typing import Any

import pytest

from paygent import Limit, PlanConfig
from paygent.core.wording import (
    day_and_time,
    dollars,
    limit_in_words,
    limits_in_words,
    plan_rate,
    rate,
)


@pytest.mark.parametrize(
    ("nano", "expected"),
    [
        (0, "$0.00"),
        (25 * 10**9, "$25.00"),
        (1_500_000_000, "$1.50"),
        (450_000, "$0.00045"),
        (1, "$0.000000001"),
        (-1_005_000_000, "−$1.005"),
        (1_234_000_000_000, "$1,234.00"),
    ],
)
def test_dollars__any_amount__is_exact_with_at_least_cents(nano: int, expected: str) -> None:
    """No digit is lost, and none is added."""
    assert dollars(nano) == expected


@pytest.mark.parametrize(
    ("component", "pico", "expected"),
    [
        ("input", 2_500_000_000_000, "$2.5 per million"),
        ("output", 10 * 10**12, "$10 per million"),
        ("web_search", 10 * 10**12, "$10 per 1,000"),
        ("audio_hour", 360_000_000_000, "$0.36 per hour"),
        ("input", 0, "$0 per million"),
    ],
)
def test_rate__of_a_component__names_its_unit(component: str, pico: int, expected: str) -> None:
    """A price without its unit means nothing."""
    assert rate(component, pico) == expected


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({}, "no limits"),
        ({"max_spend_per_period": 25}, "$25.00 per period"),
        ({"max_spend_per_session": "0.5"}, "$0.50 per session"),
        ({"model_limits": {"gpt-4o": 50_000}}, "50,000 tokens of gpt-4o per period"),
        ({"limits": (Limit("calls", window="day", cap=500),)}, "500 calls per UTC day"),
        ({"limits": (Limit("spend", window="rolling:24h", cap=1),)}, "$1.00 in any 24h"),
        ({"max_spend_per_period": 1, "hard_gate_at": 1.2}, "$1.00 per period; refused at 120%"),
        ({"max_spend_per_period": 1, "pre_call_estimate": True}, "$1.00 per period (strict)"),
        ({"max_spend_per_period": 1, "enforce": False}, "$1.00 per period (shadow mode: nothing"),
    ],
)
def test_limits_in_words__of_a_plan__are_readable(plan: dict[str, Any], expected: str) -> None:
    """A person who never saw the code understands each limit."""
    assert limits_in_words(PlanConfig(**plan)).startswith(expected)


def test_limit_in_words__without_a_cap__is_unlimited() -> None:
    """None and 0 are opposites."""
    assert limit_in_words(Limit("tokens", model="gpt-4o", cap=None)) == (
        "unlimited tokens of gpt-4o per period"
    )
    assert limit_in_words(Limit("calls", window="day", cap=0)) == "0 calls per UTC day"


@pytest.mark.parametrize(
    ("pico", "expected"),
    [(2_500_000_000_000, "$0.0025 per 1,000"), (1, "$0.000000000000001 per 1,000"), (0, "$0 per")],
)
def test_plan_rate__any_price__has_the_unit_of_a_plan(pico: int, expected: str) -> None:
    """As the file has it, and not per million as a price list."""
    assert plan_rate(pico).startswith(expected)


def test_day_and_time__never__is_a_dash() -> None:
    """0 is no time; any other is shown to the minute."""
    assert day_and_time(0) == "-"
    assert day_and_time(1_764_000_000_000_000) == "2025-11-24 16:00"
