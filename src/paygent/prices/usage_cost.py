"""Price one usage: which model answered, at which rates, what that costs, and how far it can be
trusted.

The arithmetic is `core/pricing.py`'s, the rates are the catalogue's. What cannot be priced for
certain is marked and said once; nothing here raises for an odd model or tier.
"""

from __future__ import annotations

from typing import NamedTuple

from paygent.core.explain import BILLED, OTHERS
from paygent.core.money import NanoUsd
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Rates, assumed_parts, cost_nano, unpriced_parts
from paygent.core.providers import provider_facts
from paygent.core.usage import Quality, Usage
from paygent.failopen import diagnostics
from paygent.prices.catalogue import DEAREST, Catalogue, Resolved


class PriceQuery(NamedTuple):
    """What was asked for, and under which plan.

    Attributes:
        provider: Who was called.
        model: As the application asked for it; "" where it did not.
        plan: The user's.
        at_us: When the call began; prices have dates.
        resolved: The rates of that model, where they were looked up already.
    """

    provider: str
    model: str
    plan: PlanConfig
    at_us: int
    resolved: Resolved | None = None


class Priced(NamedTuple):
    """A usage with its price.

    Attributes:
        model, model_key: Who answered, and the name that counts.
        cost_nano: Tokens and fees of all models that worked for it.
        price_id: The list it was priced with, or who has billed it.
        quality: How far the figures can be trusted.
        rates: That list; None where the provider has billed.
        details: What an event keeps of rarer parts, or None.
    """

    model: str
    model_key: str
    cost_nano: int
    price_id: str
    quality: Quality
    rates: Rates | None
    details: dict[str, int] | None


def price(catalogue: Catalogue, asked: PriceQuery, usage: Usage) -> Priced:
    """Price what a call used: the answer's model at its price, where it has one.

    Args:
        catalogue: Where models are resolved.
        asked: What was asked for.
        usage: What was used; its `quality` is kept unless the price is worse.
    """
    model = usage.model or asked.model
    if model == asked.model and not usage.tier and asked.resolved is not None:
        resolved = asked.resolved  # as most calls
    else:
        model, resolved = _answered(catalogue, asked, usage)
    details = usage.rare_counts
    billed_nano = usage.billed_nano
    if billed_nano is not None and provider_facts(asked.provider).reports_bill:
        key, price_id = resolved.model_key, BILLED + asked.provider
        return Priced(model, key, billed_nano, price_id, usage.quality, None, details)
    rates = resolved.rates
    quality = usage.quality
    is_usual = resolved.is_certain and details is None and usage.largest_input_tokens < 0
    if not (is_usual or resolved.is_free) and any(usage.counts):
        quality = _judge(model, resolved, usage)
    cost = cost_nano(usage, rates)
    if usage.others:
        others_nano, is_priced = _others(catalogue, asked, usage.others)
        cost = NanoUsd(cost + others_nano)
        details = {**(details or {}), OTHERS: others_nano}
        if not is_priced:
            quality = "unpriced"
    return Priced(model, resolved.model_key, cost, rates.price_id, quality, rates, details)


def _answered(catalogue: Catalogue, asked: PriceQuery, usage: Usage) -> tuple[str, Resolved]:
    """Return the model that answered and its rates; the one asked for where the answer's has no
    price.
    """

    def resolve(model: str) -> Resolved:
        return catalogue.resolve(asked.provider, model, asked.at_us, asked.plan, usage.tier)

    answered = usage.model or asked.model
    resolved = resolve(answered)
    if answered != asked.model and not resolved.rates.is_known and asked.model:
        other = resolve(asked.model)
        if other.rates.is_known:
            return asked.model, other
    return answered, resolved


def _judge(model: str, resolved: Resolved, usage: Usage) -> Quality:
    """Return what the cost of a usage is worth at these rates; says once what it lacks."""
    rates, shown = resolved.rates, model or "(none)"
    lacking = unpriced_parts(usage, rates)
    if not rates.is_known or lacking:
        what = f"({', '.join(lacking)})" if rates.is_known else "at all"
        diagnostics.warn_once(
            f"unpriced:{resolved.model_key}",
            "model %s has no price %s; its use counts, what has no price costs 0",
            shown,
            what,
        )
        return "unpriced"
    assumed = assumed_parts(usage, rates)
    if assumed:
        diagnostics.warn_once(
            f"assumed_price:{resolved.model_key}:{usage.tier}",
            "the price list of model %s lacks %s; what comes nearest is taken",
            shown,
            ", ".join(assumed) + (f" {usage.tier}" if usage.tier else ""),
        )
    if (assumed or rates.source == DEAREST) and usage.quality == "exact":
        return "estimated"
    return usage.quality


def _others(catalogue: Catalogue, asked: PriceQuery, others: tuple[Usage, ...]) -> tuple[int, bool]:
    """Return what other models cost that worked for a call, and whether each has its price."""
    total_nano, is_priced = 0, True
    for each in others:
        own = price(catalogue, asked._replace(model="", resolved=None), each)
        total_nano += own.cost_nano
        is_priced &= own.quality != "unpriced"
    return total_nano, is_priced
