"""Prices: what a model costs and why, overrides of plans, and models that no list has.

The rates are those with which a call that starts now would be booked, by the same catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from starlette.responses import Response

from paygent.core.plan import PlanConfig, limits_of
from paygent.core.plan_json import plan_from_json
from paygent.core.pricing import VARIANT, Prices, Rates
from paygent.core.report import Figures, SpendReport
from paygent.core.validation import NAME_CHARS_MAX
from paygent.core.wording import limit_in_words, price_in_dollars, unit_of
from paygent.prices.catalogue import Catalogue, plan_rate
from paygent.prices.model_names import plain
from paygent.server.dashboard.render import page
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.problems import invalid
from paygent.store.directory_port import StoredPlan

_VARIANTS = ("batch", "flex", "priority", "fast")


@cache
def catalogue() -> Catalogue:
    """Return the public price lists, which are read at their first use."""
    return Catalogue()


class ModelRow(NamedTuple):
    """A model that was used in the range.

    Attributes:
        model: Its canonical name; "" is calls without one.
        figures: Of the report.
        input_pico, output_pico: List prices per million tokens; None where no list has it.
        source: The id of the price list; "" without one.
        overrides: Names of the plans with a rate of their own for it.
    """

    model: str
    figures: Figures
    input_pico: int | None
    output_pico: int | None
    source: str
    overrides: tuple[str, ...]


class RateRow(NamedTuple):
    """The prices of a component, in each list of a model.

    Attributes:
        prices: As text, in the order of the lists; "" where a list does not change it.
    """

    component: str
    unit: str
    prices: tuple[str, ...]


async def show_prices(visit: MemberVisit) -> Response:
    """Show the models in use with their prices."""
    found = await visit.ask(visit.store.spend, visit.spend_request("model", None))
    plans = await _plans(visit)
    # A name that is in no list is compared with every rule of every list.
    rows = await visit.backend.in_store(_model_rows, found, plans, visit.tenant.now_us())
    return await page(
        visit,
        "prices.html",
        rows=rows,
        total=found.page.total,
        as_of=catalogue().as_of,
        price=price_in_dollars,
    )


def _model_rows(report: SpendReport, plans: dict[str, PlanConfig], now_us: int) -> list[ModelRow]:
    return [_model_row(row.keys[0], row.figures, plans, now_us) for row in report.page.rows]


def _model_row(model: str, figures: Figures, plans: dict[str, PlanConfig], now_us: int) -> ModelRow:
    rates = catalogue().rates_in_any_list(model, now_us) if model else None
    known = rates is not None and rates.is_known
    overrides = tuple(
        name for name, plan in plans.items() if model and plan_rate(plan, model)[1] == "plan"
    )
    return ModelRow(
        model,
        figures,
        rates.prices.input if rates is not None and known else None,
        rates.prices.output if rates is not None and known else None,
        rates.price_id if rates is not None and known else "",
        overrides,
    )


async def show_price(visit: MemberVisit) -> Response:
    """Show the rates of one model: by the public lists, and by the plans that override them."""
    model = visit.text("of").strip()
    if not 1 <= len(model) <= NAME_CHARS_MAX or "\0" in model:
        raise invalid("of", model, f"must be a model's name of 1 to {NAME_CHARS_MAX} characters")
    now_us = visit.tenant.now_us()
    rates = catalogue().rates_in_any_list(model, now_us)
    plans = await _plans(visit)
    resolved = catalogue().resolve("", model, now_us, PlanConfig())
    overridden = []
    for name, plan in plans.items():
        if plan_rate(plan, model)[0] is not None:
            own = catalogue().resolve("", model, now_us, plan).rates
            overridden.append((name, own, _rate_rows([("", own.prices)])))
    lists = list(_lists(model, rates, now_us)) if rates is not None and rates.is_known else []
    return await page(
        visit,
        "price.html",
        model=model,
        model_key=resolved.model_key,
        rates=rates if lists else None,
        lists=[name for name, _ in lists],
        rows=_rate_rows(lists),
        context_tokens=resolved.context_tokens,
        max_output_tokens=resolved.max_output_tokens,
        similar=() if lists else catalogue().similar_names(model),
        overridden=overridden,
        limits=list(_counting(plans, model, resolved.model_key)),
    )


def _lists(model: str, rates: Rates, now_us: int) -> Iterator[tuple[str, Prices]]:
    """Yield the lists of a model: the standard one, those of large inputs, and service tiers."""
    yield "standard", rates.prices
    for tier in rates.tiers:
        yield f"above {tier.above_input_tokens:,} input", tier.prices
    for variant in _VARIANTS:
        own = catalogue().resolve("", model, now_us, PlanConfig(), variant).rates
        if own.is_known and VARIANT not in own.assumed:
            yield variant, own.prices


def _rate_rows(lists: list[tuple[str, Prices]]) -> list[RateRow]:
    rows = []
    for component in Prices._fields:
        amounts = [getattr(prices, component) for _, prices in lists]
        if any(amounts):
            shown = tuple(price_in_dollars(amount) for amount in amounts)
            rows.append(RateRow(component.replace("_", " "), unit_of(component), shown))
    return rows


def _counting(
    plans: dict[str, PlanConfig], model: str, model_key: str
) -> Iterator[tuple[str, str]]:
    """Yield (plan, limit in words) of the limits that count a model by its name."""
    for name, plan in plans.items():
        for limit in limits_of(plan):
            if limit.model is not None and plain(limit.model) in (plain(model), model_key):
                yield name, limit_in_words(limit)


async def _plans(visit: MemberVisit) -> dict[str, PlanConfig]:
    found: tuple[StoredPlan, ...] = await visit.ask(visit.store.plans)
    return {plan.name: plan_from_json(plan.document) for plan in found}
