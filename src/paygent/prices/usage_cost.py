"""Prices one usage: the model that answered, its rates, the cost, and how far it can be trusted.

The arithmetic is in `core/pricing.py`, the rates are in the catalogue. A price that is missing or
uncertain is marked and logged once; nothing here raises for an odd model or tier.
"""

from __future__ import annotations

from typing import NamedTuple

from paygent.core.explain import BILLED, OTHERS
from paygent.core.money import NanoUsd
from paygent.core.notices import Notice
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Rates, assumed_parts, cost_nano, unpriced_parts
from paygent.core.providers import provider_facts
from paygent.core.usage import Quality, Usage
from paygent.failopen import diagnostics
from paygent.prices.catalogue import DEAREST, Catalogue, Resolved


class PriceQuery(NamedTuple):
    """The requested model and the plan under which it is priced.

    Attributes:
        provider: The provider that was called.
        model: The requested model; "" if none was named.
        plan: The user's plan.
        at_us: Start of the call; prices have dates.
        resolved: The rates of that model, if already resolved.
    """

    provider: str
    model: str
    plan: PlanConfig
    at_us: int
    resolved: Resolved | None = None


class Priced(NamedTuple):
    """A usage with its price.

    Attributes:
        model, model_key: The model that answered, and its name for limits and reports.
        cost_nano: Cost of the tokens and fees of all models involved.
        price_id: The price list, or the provider that reported its bill.
        quality: How far the figures can be trusted.
        rates: The price list; None if the provider reported its bill.
        details: Rare counts for the event, or None.
    """

    model: str
    model_key: str
    cost_nano: int
    price_id: str
    quality: Quality
    rates: Rates | None
    details: dict[str, int] | None


def price(catalogue: Catalogue, query: PriceQuery, usage: Usage) -> Priced:
    """Price a usage at the rates of the model that answered, if those are known, else of the
    requested one. Its `quality` is kept unless that of the price is worse.
    """
    model = usage.model or query.model
    if model == query.model and not usage.tier and query.resolved is not None:
        resolved = query.resolved  # most calls
    else:
        model, resolved = _answered(catalogue, query, usage)
    # The provider's own bill is better than any price list.
    details = usage.rare_counts
    billed_nano = usage.billed_nano
    if billed_nano is not None and provider_facts(query.provider).reports_bill:
        key, price_id = resolved.model_key, BILLED + query.provider
        return Priced(model, key, billed_nano, price_id, usage.quality, None, details)
    rates = resolved.rates
    quality = usage.quality
    # Most calls need no judgement of their parts.
    is_usual = resolved.is_certain and details is None and usage.largest_input_tokens < 0
    if not (is_usual or resolved.is_free) and any(usage.counts):
        quality = _judge(model, resolved, usage)
    cost = cost_nano(usage, rates)
    if usage.others:
        others_nano, is_priced = _others(catalogue, query, usage.others)
        cost = NanoUsd(cost + others_nano)
        # Kept apart, so that the event can be explained by its own price list.
        details = {**(details or {}), OTHERS: others_nano}
        if not is_priced:
            quality = "unpriced"
    return Priced(model, resolved.model_key, cost, rates.price_id, quality, rates, details)


def _answered(catalogue: Catalogue, query: PriceQuery, usage: Usage) -> tuple[str, Resolved]:
    """Return the model that answered with its rates; the requested one if only that has a price."""

    def resolve(model: str) -> Resolved:
        return catalogue.resolve(query.provider, model, query.at_us, query.plan, usage.tier)

    answered = usage.model or query.model
    resolved = resolve(answered)
    if answered != query.model and not resolved.rates.is_known and query.model:
        # An alias or a deployment may be priced while the name in the answer is not.
        other = resolve(query.model)
        if other.rates.is_known:
            return query.model, other
    return answered, resolved


def _judge(model: str, resolved: Resolved, usage: Usage) -> Quality:
    """Return the quality of a cost at these rates; log once what they lack."""
    rates, shown = resolved.rates, model or "(none)"
    lacking = unpriced_parts(usage, rates)
    if not rates.is_known or lacking:
        what = f" ({', '.join(lacking)})" if rates.is_known else ""
        diagnostics.warn_once(Notice.UNPRICED, shown, what, subject=resolved.model_key)
        return "unpriced"
    assumed = assumed_parts(usage, rates)
    if assumed:
        what = ", ".join(assumed) + (f" {usage.tier}" if usage.tier else "")
        diagnostics.warn_once(
            Notice.ASSUMED_PRICE, shown, what, subject=f"{resolved.model_key}:{usage.tier}"
        )
    if (assumed or rates.source == DEAREST) and usage.quality == "exact":
        return "estimated"
    return usage.quality


def _others(catalogue: Catalogue, query: PriceQuery, others: tuple[Usage, ...]) -> tuple[int, bool]:
    """Return the cost of other models used for a call, and whether all of them have a price."""
    total_nano, is_priced = 0, True
    for usage in others:
        priced = price(catalogue, query._replace(model="", resolved=None), usage)
        total_nano += priced.cost_nano
        is_priced &= priced.quality != "unpriced"
    return total_nano, is_priced
