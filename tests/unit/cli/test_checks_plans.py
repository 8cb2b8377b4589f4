"""The checks of plans, models and the price list."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.samples import DAY_US, NOON_US

from paygent import ModelCostRate, PlanConfig
from paygent.cli.checks import plans
from paygent.cli.checks.finding import Finding, Level
from paygent.cli.plans import PlanLine, PlanTable
from paygent.prices.catalogue import Catalogue
from paygent.store.port import PlanUsers


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The bundled price list."""
    return Catalogue()


def line(name: str, **fields: Any) -> PlanLine:
    """Return a configured plan without users."""
    return PlanLine(name, 1, PlanConfig(**fields), "", PlanUsers())


@pytest.mark.parametrize(
    ("as_of", "level", "named"),
    [
        ("0.2.3/2024-07-06", Level.OK, "genai-prices 0.2.3, newest price of 2024-07-06"),
        ("0.2.3/2024-07-05", Level.WARNING, "91 days old: newer models may be recorded at $0"),
        ("0.2.3", Level.PROBLEM, "cannot be read"),
        ("", Level.PROBLEM, "cannot be read"),
    ],
)
def test_check_prices__of_an_age__warns_above_90_days(as_of: str, level: Level, named: str) -> None:
    """The remedy is a newer price list."""
    (finding,) = plans.check_prices(as_of, NOON_US)
    assert finding.level is level
    assert named in finding.text
    assert ("genai-prices" in finding.remedy) is (level is not Level.OK)
    assert plans.PRICES_DAYS_MAX * DAY_US == 90 * DAY_US


def found(*lines: PlanLine) -> list[Finding]:
    """Return the findings about plans."""
    return list(plans.check_plans("acme", PlanTable(list(lines), 0, "default")))


def test_check_plans__configured_with_limits__are_ok() -> None:
    """One line names them all."""
    (finding,) = found(line("free", max_spend_per_period=1), line("pro", model_limits={"o3": 5}))
    assert finding == Finding(Level.OK, "plans", "configured for product 'acme': free, pro")


def test_check_plans__one_that_cannot_be_read__is_a_problem() -> None:
    """A process that cannot read a plan does not enforce it."""
    unreadable = PlanLine("newer", 3, None, "x = 1: is not a field of a plan", PlanUsers(2, 1))
    problem, _ = found(unreadable)
    assert problem.level is Level.PROBLEM
    assert "(x = 1: is not a field of a plan)" in problem.text
    assert "configure it here" in problem.remedy


def test_check_plans__in_use_and_not_configured__is_a_warning() -> None:
    """Its users have no limits."""
    gold = PlanLine("gold", None, None, "", PlanUsers(1_200, 3))
    warning, _ = found(gold, line("pro", max_spend_per_period=1))
    assert warning.text == "1,200 users are on plan 'gold', which is not configured: no limits"
    assert "pg.configure_plan('gold', …)" in warning.remedy


def test_check_plans__without_limits_or_any_plan__is_a_warning() -> None:
    """Neither limits a user."""
    warning, _ = found(line("free"))
    assert (warning.level, warning.text) == (Level.WARNING, "plan 'free' has no limits")
    (warning,) = found()
    assert warning.text == "product 'acme' has no configured plan: no user has limits"
    assert "pg.configure_plan" in warning.remedy


def test_check_models__listed_or_rated__are_ok(catalogue: Catalogue) -> None:
    """A dated name, another case, and a model with a rate of its own are meant."""
    rate = ModelCostRate.per_million(1, 2)
    fine = line(
        "pro",
        model_limits={"GPT-4o": 5, "claude-sonnet-4-5-20250929": 5, "house": 5},
        cost_rates={"House": rate, "gpt-4o": rate},
    )
    unread = PlanLine("gone", None, None, "", PlanUsers())
    assert list(plans.check_models(catalogue, [fine, unread], NOON_US)) == []


def test_check_models__misspelt__names_what_was_meant(catalogue: Catalogue) -> None:
    """Such a limit never counts a call, and such a rate prices none."""
    rate = ModelCostRate.per_million(1, 2)
    plan = line("pro", model_limits={"gpt4o": 5, "zzz": 5}, cost_rates={"gpt4o-mini": rate})
    first, second, third = plans.check_models(catalogue, [plan], NOON_US)
    assert {first.level, second.level, third.level} == {Level.WARNING}
    assert first.text.startswith(
        "plan 'pro': model_limits names 'gpt4o', which is in no price list"
    )
    assert "did you mean 'gpt-4o'?" in first.text
    assert "pg.configure_plan" in first.remedy
    assert "did you mean" not in second.text
    assert "cost_rates names 'gpt4o-mini'" in third.text
    assert "did you mean 'gpt-4o-mini'?" in third.text
