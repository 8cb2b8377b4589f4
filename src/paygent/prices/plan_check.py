"""Checks the models and rates that a plan names against the price lists.

A limit of a misspelt model never counts a call, and a rate in the wrong unit makes every figure
wrong; neither can be an error, because a plan may name models and prices that no list has.
"""

from __future__ import annotations

from collections.abc import Iterator

from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.pricing import Prices
from paygent.prices.catalogue import Catalogue, plan_rate

RATE_FACTOR_MAX = 100
"""A rate this many times above or below the list price is more likely a mistake than a price."""

_ODD_NAMES_MAX = 10  # names pointed out one by one; looking for similar ones takes milliseconds
_PICO_PER_USD = 10**12
_RATE_PICO_MAX = 1_000 * _PICO_PER_USD  # per million tokens; the dearest listed model costs less


def plan_warnings(plan: PlanConfig, catalogue: Catalogue, at_us: int) -> Iterator[str]:
    """Yield a sentence, with its remedy, for each name and rate of a plan that is probably wrong.

    Args:
        plan: The plan.
        catalogue: The price lists.
        at_us: The time of the list prices, in microseconds since 1970 UTC.
    """
    odd = 0
    for field, name in _unlisted(plan, catalogue, at_us):
        similar = _meant(name, catalogue) if odd < _ODD_NAMES_MAX else ""
        if field == "cost_rates" and not similar:
            continue  # a rate is what gives an unlisted model its price
        odd += 1
        if odd <= _ODD_NAMES_MAX:
            what = "rate applies to" if field == "cost_rates" else "limit counts"
            yield (
                f"{field} names {name!r}, which is in no price list{similar}: the {what} no calls"
                " of a listed model"
            )
    if odd > _ODD_NAMES_MAX:
        yield f"{odd - _ODD_NAMES_MAX} more names of its limits are in no price list"
    for name, rate in plan.cost_rates.items():
        listed = catalogue.rates_in_any_list(name, at_us)
        where = f"cost_rates prices {name!r}"
        yield from _odd_rates(where, rate, listed.prices if listed is not None else Prices())
    if plan.default_cost_rate is not None:
        yield from _odd_rates("default_cost_rate is", plan.default_cost_rate, Prices())


def _unlisted(plan: PlanConfig, catalogue: Catalogue, at_us: int) -> Iterator[tuple[str, str]]:
    """Yield the names of models that no list has, each with the field of the plan."""
    rates_alone = PlanConfig(cost_rates=plan.cost_rates)
    limited = [("model_limits", name) for name in plan.model_limits]
    limited += [("limits", limit.model) for limit in plan.limits if limit.model is not None]
    for field, name in limited:
        is_rated = plan_rate(rates_alone, name)[0] is not None
        if not is_rated and catalogue.rates_in_any_list(name, at_us) is None:
            yield field, name
    for name in plan.cost_rates:
        if catalogue.rates_in_any_list(name, at_us) is None:
            yield "cost_rates", name


def _meant(name: str, catalogue: Catalogue) -> str:
    similar = catalogue.similar_names(name)
    return f" (did you mean {' or '.join(map(repr, similar))}?)" if similar else ""


def _odd_rates(where: str, rate: ModelCostRate, listed: Prices) -> Iterator[str]:
    """Yield a sentence for the first component that is far from its list price, or without one from
    any price.
    """
    for component in ("input", "output"):
        own, list_price = rate.pico[component], getattr(listed, component)
        if not own:
            continue  # free
        reason = ""
        if list_price:
            factor = max(own, list_price) // min(own, list_price)
            side = "above" if own > list_price else "below"
            if factor >= RATE_FACTOR_MAX:
                reason = f"{factor:,} times {side} its list price of {_usd(list_price)}"
        elif own >= _RATE_PICO_MAX:
            reason = "more than any listed model"
        if reason:
            yield (
                f"{where} at {_usd(own)} per million {component} tokens, {reason}: rates are"
                " dollars per 1,000 tokens; use ModelCostRate.per_million for prices per million"
            )
            return


def _usd(price_pico: int) -> str:
    return f"${price_pico / _PICO_PER_USD:,.6g}"
