"""`paygent prices show`: the rates of a model, their source and date, and the limits that count it.

The rates are those with which a call that starts now would be booked: of the public price lists, or
with `--plan`, of that plan.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from paygent.cli.options import CommandError, Place, has_store, opened, read_place
from paygent.cli.output import Column, open_console, print_line, print_table
from paygent.cli.plans import PlanLine, read_plans
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.pricing import VARIANT, Rates
from paygent.core.wording import limit_in_words, price_in_dollars, unit_of
from paygent.prices.catalogue import DEAREST, Catalogue, Resolved
from paygent.prices.model_names import plain

_VARIANTS = ("batch", "flex", "priority", "fast")
"""Price variants that a list may have; see `Usage.tier`."""


def run(
    model: str,
    db: str | None,
    product: str | None,
    environ: Mapping[str, str],
    plan_name: str | None,
    now_us: int | None = None,
) -> int:
    """Print the rates of a model; return the exit status."""
    now_us = time.time_ns() // 1_000 if now_us is None else now_us
    place = read_place(db, product, environ)
    plans = _plans(place, now_us, plan_name)
    plan = next((line.config for line in plans if line.name == plan_name), None) or PlanConfig()
    catalogue = Catalogue()
    resolved = catalogue.resolve("", model, now_us, plan)
    if not resolved.rates.is_known:
        raise CommandError(_unknown(catalogue, model))
    console = open_console(environ)
    for line in _head(model, resolved, plan_name):
        print_line(console, line)
    print_table(console, *_price_table(catalogue, model, resolved, plan, now_us))
    counted = list(_counting(plans, model, resolved.model_key))
    if counted:
        print_table(console, (Column("plan"), Column("limit that counts it")), counted)
    else:
        print_line(console, f"limits     no limit of {_plans_in_words(plans, place)} counts it")
    return 0


def _plans(place: Place, now_us: int, plan_name: str | None) -> list[PlanLine]:
    """Return the plan that is named, else all plans; none if there is no store yet.

    Raises:
        CommandError: if the named plan is not configured.
    """
    if plan_name is None and not has_store(place):
        return []
    with opened(place) as store:
        lines = read_plans(store, place.product, now_us).lines
    if plan_name is None:
        return lines
    named = [line for line in lines if line.name == plan_name and line.config is not None]
    if not named:
        configured = [line.name for line in lines if line.config is not None]
        raise CommandError(
            f"no such plan: {plan_name!r} in product {place.product!r} of {place.db_path} "
            f"(configured: {', '.join(map(repr, configured)) or 'none'})"
        )
    return named


def _unknown(catalogue: Catalogue, model: str) -> str:
    names = catalogue.similar_names(model)
    hint = f"; nearest names: {', '.join(names)}" if names else ""
    return (
        f"{model!r} is in no price list{hint}. Its tokens count, at $0: give it a rate with "
        "PlanConfig(cost_rates={…})"
    )


def _head(model: str, resolved: Resolved, plan_name: str | None) -> Iterator[str]:
    """Yield the lines that identify the model and the source of its rates."""
    rates = resolved.rates
    yield f"model      {model}"
    yield f"counts as  {resolved.model_key}"
    yield f"prices     {rates.price_id}" + (f", as of {rates.as_of}" if rates.as_of else "")
    yield f"source     {_source(rates, plan_name)}"
    if resolved.context_tokens is not None:
        yield f"context    {resolved.context_tokens:,} tokens"
    if resolved.max_output_tokens is not None:
        yield f"output     {resolved.max_output_tokens:,} tokens at most"


def _source(rates: Rates, plan_name: str | None) -> str:
    sources = {
        "plan": f"cost_rates of plan {plan_name}",
        "plan-default": f"default_cost_rate of plan {plan_name}",
        DEAREST: f"in no price list; plan {plan_name} books its dearest rate",
    }
    return sources.get(rates.source, "public price list (genai-prices)")


def _price_table(
    catalogue: Catalogue, model: str, resolved: Resolved, plan: PlanConfig, now_us: int
) -> tuple[list[Column], list[list[str]]]:
    """Return a row for each component that has a price, with a column for each list of prices: the
    standard one, those of large inputs, and those of service tiers.
    """
    rates = resolved.rates
    lists = {"standard": rates.prices}
    for tier in rates.tiers:
        lists[f"above {tier.above_input_tokens:,} input"] = tier.prices
    if rates.source == "catalogue":
        for variant in _VARIANTS:
            own = catalogue.resolve("", model, now_us, plan, variant).rates
            if VARIANT not in own.assumed:
                lists[variant] = own.prices
    columns = [Column("component"), Column("per")]
    columns += [Column(title, is_number=True) for title in lists]
    rows = []
    for name, price in rates.prices._asdict().items():
        # The fee of a request is 0 for nearly every model.
        if name not in rates.unpriced and (price or name != "request"):
            assumed = " (assumed)" if name in rates.assumed else ""
            prices = [price_in_dollars(getattr(each, name)) for each in lists.values()]
            rows.append([name + assumed, unit_of(name), *prices])
    return columns, rows


def _counting(plans: Sequence[PlanLine], model: str, model_key: str) -> Iterator[tuple[str, str]]:
    """Yield the limits of these plans that count calls of a model."""
    for line in plans:
        for limit in limits_of(line.config) if line.config is not None else ():
            if limit.model is None or plain(limit.model) in (model_key, plain(model)):
                yield line.name, limit_in_words(limit)


def _plans_in_words(plans: Sequence[PlanLine], place: Place) -> str:
    configured = [line for line in plans if line.config is not None]
    return "these plans" if configured else f"product {place.product!r} (it has no plans)"
