"""Overrides: a raise of one user's limit that ends by itself."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from paygent.core.limit import Limit, LimitKey
from paygent.core.money import CAP_NANO_MAX
from paygent.core.override import apply_overrides
from paygent.core.plan import PlanConfig, limits_of

PERIOD = LimitKey("spend", "user", "", "period")
SESSION = LimitKey("spend", "session", "", "session")
TOKENS = LimitKey("tokens", "user", "gpt-4o", "period")
CALLS = LimitKey("calls", "user", "", "day")
USD = 10**9
PLAN = PlanConfig(
    max_spend_per_period=50,
    max_spend_per_session=5,
    model_limits={"GPT-4o": 1_000},
    limits=[Limit("calls", window="day", cap=10)],
)


class Raised(NamedTuple):
    """An override."""

    limit: LimitKey
    cap: int | None = None
    added: int | None = None
    until_us: int = 100


def caps(plan: PlanConfig) -> dict[str, int | None]:
    """Return the caps of a plan by reason."""
    return {limit.key.reason: limit.cap_exact for limit in limits_of(plan)}


def test_apply_overrides__every_form_of_limit__is_raised() -> None:
    """Shorthand and general limits are raised, to a cap or by an amount."""
    raised = apply_overrides(
        PLAN,
        [Raised(PERIOD, cap=80 * USD), Raised(SESSION, added=USD), Raised(TOKENS, added=500),
         Raised(CALLS, cap=20)],
        at_us=99,
    )  # fmt: skip
    assert caps(raised) == {
        "total_spend": 80 * USD,
        "session_spend": 6 * USD,
        "model_limit:GPT-4o": 1_500,
        "calls:day": 20,
    }
    assert raised.max_spend_per_period == 80.0


def test_apply_overrides__at_its_end__has_no_effect() -> None:
    """An override ends by itself."""
    assert apply_overrides(PLAN, [Raised(PERIOD, cap=80 * USD)], at_us=100) is PLAN


def test_apply_overrides__several__largest_cap_or_sum_of_amounts() -> None:
    """Amounts add up; a larger cap wins."""
    sums = [Raised(PERIOD, added=USD), Raised(PERIOD, added=2 * USD)]
    assert caps(apply_overrides(PLAN, sums, 0))["total_spend"] == 53 * USD
    more = [*sums, Raised(PERIOD, cap=60 * USD), Raised(PERIOD, cap=55 * USD)]
    assert caps(apply_overrides(PLAN, more, 0))["total_spend"] == 60 * USD


def test_apply_overrides__lower_cap__never_lowers() -> None:
    """An override is a raise."""
    assert caps(apply_overrides(PLAN, [Raised(PERIOD, cap=1)], 0)) == caps(PLAN)
    assert caps(apply_overrides(PLAN, [Raised(PERIOD, added=-USD)], 0)) == caps(PLAN)


def test_apply_overrides__limit_that_the_plan_lacks__makes_none() -> None:
    """A raise of what is not limited does not limit it."""
    plan = PlanConfig(max_spend_per_period=5)
    assert apply_overrides(plan, [Raised(SESSION, cap=USD)], 0) is plan


def test_apply_overrides__limit_given_twice__the_smaller_one_is_raised() -> None:
    """Where the shorthand and a general limit are the same one, the effective cap is raised."""
    plan = PlanConfig(max_spend_per_period=100, limits=[Limit(cap=50)])
    raised = apply_overrides(plan, [Raised(PERIOD, added=30 * USD)], 0)
    assert caps(raised) == {"total_spend": 80 * USD}
    assert raised.max_spend_per_period == 100.0


def test_apply_overrides__above_the_range__is_no_limit() -> None:
    """A cap that is too large to count is none."""
    raised = apply_overrides(PLAN, [Raised(PERIOD, cap=CAP_NANO_MAX + 1)], 0)
    assert "total_spend" not in caps(raised)


@pytest.mark.parametrize("cents", [1, 123_456_789])
def test_apply_overrides__exact_amounts__keep_each_nano_dollar(cents: int) -> None:
    """No amount passes through a float."""
    plan = PlanConfig(max_spend_per_period="8999999999.123456789")
    raised = apply_overrides(plan, [Raised(PERIOD, added=cents)], 0)
    assert raised.max_spend_per_period_nano == 8_999_999_999_123_456_789 + cents
