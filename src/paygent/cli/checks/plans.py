"""Checks the plans of a product, the models that they name, and the age of the price list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from paygent.cli.checks.finding import Finding, ok, problem, warning
from paygent.cli.plans import PlanLine
from paygent.cli.wording import dollars
from paygent.client.runtime.settings import MISSING_USER_ID
from paygent.core.messages import Question
from paygent.core.period import calendar_month, to_datetime
from paygent.core.plan import PlanConfig, limits_of
from paygent.prices.catalogue import Catalogue
from paygent.prices.model_names import plain
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


def check_plans(
    product: str, lines: Sequence[PlanLine], unassigned: int, default_plan: str | None
) -> Iterator[Finding]:
    """Check that plans are configured, can be read and have limits.

    Args:
        product: Their product.
        lines: The plans.
        unassigned: How many users have no assigned plan.
        default_plan: The plan of these, or None where it is not known.
    """
    configured = [line for line in lines if line.version is not None]
    if not configured:
        text = f"product {product!r} has no configured plan: no user has limits"
        yield warning("plans", text, 'add one with pg.configure_plan("default", PlanConfig(…))')
    for line in lines:
        yield from _check_plan(line)
    default = "default" if default_plan is None else default_plan
    # Calls on it, if there are any, have been reported above.
    if configured and unassigned and all(line.name != default for line in lines):
        yield warning(
            "plans",
            f"users without an assigned plan ({unassigned:,}) are on the default plan {default!r}, "
            "which is not configured: they have no limits",
            f"pg.configure_plan({default!r}, …), or name another in Paygent.init(default_plan=…)",
        )
    if configured:
        names = ", ".join(line.name for line in configured)
        yield ok("plans", f"configured for product {product!r}: {names}")


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
    """Check that the models of plans are known: a limit of a misspelt name never counts a call."""
    for line in lines:
        plan = line.config
        if plan is None:
            continue
        rated = {plain(name) for name in plan.cost_rates}
        limited = sorted({limit.model for limit in limits_of(plan) if limit.model})
        for name in limited:
            if plain(name) not in rated and not _is_listed(catalogue, name, now_us):
                text = f"plan {line.name!r} limits {name!r}, which is in no price list"
                yield warning("models", text, _meant(catalogue, name, "the limit"))
        for name in sorted(plan.cost_rates):
            # A rate for an unlisted model is what rates are for, unless the name is nearly listed.
            if not _is_listed(catalogue, name, now_us) and catalogue.similar_names(name):
                text = f"plan {line.name!r} has a rate for {name!r}, which is in no price list"
                yield warning("models", text, _meant(catalogue, name, "the rate"))


def _is_listed(catalogue: Catalogue, name: str, now_us: int) -> bool:
    return catalogue.resolve("", name, now_us, _NO_PLAN).rates.is_known


_NO_PLAN = PlanConfig()


def _meant(catalogue: Catalogue, name: str, what: str) -> str:
    near = catalogue.similar_names(name)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    return f"{meant}{what} applies only to calls of exactly this name"


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
