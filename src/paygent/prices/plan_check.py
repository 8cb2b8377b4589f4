"""Checks the models and rates that a plan names against the price lists.

A limit of a misspelt model never counts a call, and a rate in the wrong unit makes every figure
wrong; neither can be an error, because a plan may name models and prices that no list has.
"""

from __future__ import annotations

from collections.abc import Iterator

from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.pricing import Prices
from paygent.prices.catalogue import Catalogue, plan_rate
from paygent.prices.model_names import plain

RATE_FACTOR_MAX = 100
"""A rate this many times above or below the list price is more likely a mistake than a price."""

_NO_PLAN = PlanConfig()
_PICO_PER_USD = 10**12


def plan_warnings(plan: PlanConfig, catalogue: Catalogue, at_us: int) -> Iterator[str]:
    """Yield a sentence, with its remedy, for each name and rate of a plan that is probably wrong.

    Args:
        plan: The plan.
        catalogue: The price lists.
        at_us: The time of the list prices, in microseconds since 1970 UTC.
    """
    rates_alone = PlanConfig(cost_rates=plan.cost_rates)
    limited = [("model_limits", name) for name in plan.model_limits]
    limited += [("limits", limit.model) for limit in plan.limits if limit.model is not None]
    for field, name in limited:
        if plan_rate(rates_alone, name)[0] is None and not _is_listed(name, catalogue, at_us):
            yield (
                f"{field} names {name!r}, which is in no price list{_meant(name, catalogue)}: the"
                " limit counts only calls of a model with exactly this name"
            )
    for name, rate in plan.cost_rates.items():
        listed = catalogue.resolve("", name, at_us, _NO_PLAN).rates
        if listed.is_known:
            yield from _odd_rates(name, rate, listed.prices)
        # A rate is what gives an unlisted model its price, unless the name is nearly a listed one.
        elif catalogue.similar_names(name):
            yield (
                f"cost_rates names {name!r}, which is in no price list{_meant(name, catalogue)}:"
                " the rate applies only to calls of a model with exactly this name"
            )


def _is_listed(name: str, catalogue: Catalogue, at_us: int) -> bool:
    return catalogue.resolve("", name, at_us, _NO_PLAN).rates.is_known


def _meant(name: str, catalogue: Catalogue) -> str:
    similar = [each for each in catalogue.similar_names(name) if each != plain(name)]
    return f" (did you mean {' or '.join(map(repr, similar))}?)" if similar else ""


def _odd_rates(name: str, rate: ModelCostRate, listed: Prices) -> Iterator[str]:
    """Yield a sentence for the first component that is far from its list price."""
    for component in ("input", "output"):
        own, list_price = rate.pico[component], getattr(listed, component)
        if not own or not list_price:
            continue  # free, or a component that is never billed
        factor = max(own, list_price) // min(own, list_price)
        if factor >= RATE_FACTOR_MAX:
            side = "above" if own > list_price else "below"
            yield (
                f"cost_rates prices {name!r} at ${own / _PICO_PER_USD:,.6g} per million {component}"
                f" tokens, {factor:,} times {side} its list price of"
                f" ${list_price / _PICO_PER_USD:,.6g}: rates are dollars per 1,000 tokens; use"
                " ModelCostRate.per_million for prices per million"
            )
            return
