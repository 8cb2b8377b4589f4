"""Checks the plans of a product, the models that they name, and the age of the price list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from paygent.cli.checks.finding import Finding, ok, problem, warning
from paygent.cli.plans import PlanLine, PlanTable
from paygent.core.messages import MISSING_USER_ID, Question
from paygent.core.period import calendar_month, to_datetime
from paygent.core.plan import limits_of
from paygent.core.wording import dollars
from paygent.prices.catalogue import Catalogue
from paygent.prices.plan_check import plan_warnings
from paygent.store.port import Store

PRICES_DAYS_MAX = 90


def check_prices(as_of: str, now_us: int) -> Iterator[Finding]:
    """Check the age of the price list, given as `Catalogue.as_of`."""
    release, _, newest = as_of.partition("/")
    if not newest:
        text = "the price list of genai-prices cannot be read: calls are recorded at $0"
        yield problem("prices", text, "pip install --force-reinstall genai-prices")
        return
    days = (to_datetime(now_us).date() - date.fromisoformat(newest)).days
    text = f"genai-prices {release}, newest price of {newest}"
    if days > PRICES_DAYS_MAX:
        text += f", {days} days old: newer models may be recorded at $0"
        yield warning("prices", text, "pip install --upgrade genai-prices")
    else:
        yield ok("prices", text)


def check_plans(product: str, table: PlanTable) -> Iterator[Finding]:
    """Check that the plans of a product are configured, can be read and have limits."""
    configured = [line for line in table.lines if line.version is not None]
    if not configured:
        text = f"product {product!r} has no configured plan: no user has limits"
        yield warning("plans", text, 'add one with pg.configure_plan("default", PlanConfig(…))')
    for line in table.lines:
        yield from _check_plan(line)
    if configured:
        listed = ", ".join(line.name for line in configured)
        yield ok("plans", f"configured for product {product!r}: {listed}")


def _check_plan(line: PlanLine) -> Iterator[Finding]:
    if line.problem:
        text = f"plan {line.name!r} cannot be read ({line.problem}): it has no limits here"
        yield problem("plans", text, "install the Paygent that configured it, or configure it here")
    elif line.config is None:
        users = max(line.users)
        are = "user is" if users == 1 else "users are"
        yield warning(
            "plans",
            f"{users:,} {are} on plan {line.name!r}, which is not configured: no limits",
            f"pg.configure_plan({line.name!r}, …), or assign another plan",
        )
    elif not limits_of(line.config):
        text = f"plan {line.name!r} has no limits"
        yield warning("plans", text, "give it max_spend_per_period, model_limits or limits")


def check_models(catalogue: Catalogue, lines: Iterable[PlanLine], now_us: int) -> Iterator[Finding]:
    """Check the models and rates that plans name against the price lists."""
    for line in lines:
        for text in plan_warnings(line.config, catalogue, now_us) if line.config else ():
            remedy = "correct it with pg.configure_plan, unless it is meant"
            yield warning("models", f"plan {line.name!r}: {text}", remedy)


def check_missing_user(store: Store, product: str, now_us: int) -> Iterator[Finding]:
    """Check for calls of this month that had no user."""
    month = calendar_month(now_us)
    question = Question(MISSING_USER_ID, (), month.start_us)
    by_model = store.read(product, (question,), now_us).users[MISSING_USER_ID].by_model
    if by_model:
        cost_nano = sum(cost for _, cost in by_model.values())
        yield warning(
            "users",
            f"calls of this month without a user, for {dollars(cost_nano)}, are on the user "
            f"{MISSING_USER_ID}, which has no limits",
            "make them in a paygent_context; see docs/guide/where-calls-run.md",
        )
