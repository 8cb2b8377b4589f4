"""Resolves a model to its rates, once per model, plan and price variant.

Order: the plan's own rate (by exact name, then canonical) > the plan's default rate > the bundled
catalogue > the plan's policy for unknown models. Nothing here raises for an odd model name: a model
that cannot be resolved has no price, which the caller logs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from paygent.core.period import to_datetime
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.pricing import ASSUMED, FEES, PARENTS, VARIANT, Prices, Rates, Tier, complete
from paygent.core.providers import max_output_tokens
from paygent.failopen import attempt
from paygent.prices import model_names
from paygent.prices.listing import ALWAYS_US, Listing, date_of, load_snapshot, read_listing

DEAREST = "plan-dearest"
"""Source of the rates of an unknown model in a plan that books its dearest rate."""

_NO_PLAN = PlanConfig()
_RESOLVED_MAX = 4_096  # models × plans × variants; a full table is cleared


class Resolved(NamedTuple):
    """The meaning of a model name under one plan.

    Attributes:
        rates: The prices of a call.
        model_key: The name under which limits and reports count the model.
        context_tokens: Most tokens that the model takes in and gives out together, or None where
            not known.
        max_output_tokens: Most output that the model gives to one request, or None where not known.
        valid_from_us, valid_until_us: The span between two changes of the catalogue's price.
        is_free: The plan sets every rate to 0; no missing price is then logged.
        is_certain: The prices of text tokens need no assumption, as for most calls.
    """

    rates: Rates
    model_key: str
    context_tokens: int | None
    valid_from_us: int
    valid_until_us: int
    is_free: bool
    is_certain: bool = False
    max_output_tokens: int | None = None

    @property
    def output_ceiling(self) -> int | None:
        """A count that no output exceeds: the maximum output, else the context window, else None.

        The window is a ceiling for an estimate, and far too large to be held by every call.
        """
        return self.context_tokens if self.max_output_tokens is None else self.max_output_tokens


class Catalogue:
    """The bundled price list and a cache of resolved models; thread-safe: its tables are dicts."""

    def __init__(self, snapshot: Any = None) -> None:
        """Use a genai-prices `DataSnapshot`; None loads the one bundled with the package. If that
        fails, no model has a catalogue price, which is logged once and marked on every event.
        """
        self._resolved: dict[tuple[str, str, str, int], Resolved] = {}
        self._plans: dict[int, PlanConfig] = {}
        self._snapshot = snapshot if snapshot is not None else attempt("catalogue", load_snapshot)
        self.as_of = date_of(self._snapshot)

    def resolve(
        self, provider: str, model: str, at_us: int, plan: PlanConfig, tier: str = ""
    ) -> Resolved:
        """Return the rates of a model under a plan at the start of a call, in a tier as in `Usage`.

        A `provider` that is "" or unknown is inferred from the model's name.
        """
        key = (provider, model, tier, id(plan))  # plans are immutable
        resolved = self._resolved.get(key)
        if resolved is not None and resolved.valid_from_us <= at_us < resolved.valid_until_us:
            return resolved
        resolved = self._find(provider, model, at_us, plan, tier)
        resolved = resolved._replace(
            is_certain=_is_certain(resolved.rates),
            max_output_tokens=max_output_tokens(model_names.canonical(model)),
        )
        if len(self._resolved) >= _RESOLVED_MAX:
            self._resolved.clear()
            self._plans.clear()
        self._plans[id(plan)] = plan  # keeps the plan alive, so that its id stays its own
        self._resolved[key] = resolved
        return resolved

    def similar_names(self, model: str) -> tuple[str, ...]:
        """Return the listed names that may be meant by one that is in no list, the nearest first;
        for messages, since it reads every name.
        """
        return model_names.nearest(model, self._listed_by)

    def rates_in_any_list(self, model: str, at_us: int) -> Rates | None:
        """Return the list price of a model by the provider that its name points to, else by the
        first one that lists its name or its canonical name; None if there is none. For checks: a
        call is priced by its own provider.
        """
        rates = self.resolve("", model, at_us, _NO_PLAN).rates
        if rates.is_known:
            return rates
        names = (model_names.plain(model), model_names.canonical(model))
        provider = next((self._listed_by[name] for name in names if name in self._listed_by), None)
        if provider is None:
            provider = self._provider_that_matches(model)
        if provider is None:
            return None
        for name in (model, names[1]):  # a fine-tune may be listed under its base alone
            rates = self.resolve(provider, name, at_us, _NO_PLAN).rates
            if rates.is_known:
                return rates
        return Rates(Prices())  # listed, without prices for now

    @cached_property
    def _listed_by(self) -> dict[str, str]:
        """A provider that lists a model, by each plain and canonical name that is listed."""
        names: dict[str, str] = {}
        for price_list in self._snapshot.providers if self._snapshot is not None else ():
            for info in price_list.models:
                for name in (model_names.plain(info.id), model_names.canonical(info.id)):
                    names.setdefault(name, price_list.id)
        return names

    def _provider_that_matches(self, model: str) -> str | None:
        for price_list in self._snapshot.providers if self._snapshot is not None else ():
            for name in model_names.candidates(model):
                if any(model_names.is_named_by(info.match, name) for info in price_list.models):
                    return str(price_list.id)
        return None

    def _find(self, provider: str, model: str, at_us: int, plan: PlanConfig, tier: str) -> Resolved:
        exact, short = model_names.plain(model), model_names.canonical(model)
        listing = self._listing(provider, model, at_us, tier)
        context_tokens = listing.context_tokens if listing else None
        valid = (listing.valid_from_us, listing.valid_until_us) if listing else ALWAYS_US
        key = exact if _names(plan, exact) else short
        rate, source = plan_rate(plan, model)
        if rate is not None:
            rates = _planned(rate, listing, source, exact)
            return Resolved(rates, key, context_tokens, *valid, rate.is_free)
        if listing is not None:
            return Resolved(self._listed(listing, tier), key, context_tokens, *valid, False)
        if plan.unknown_model == "dearest":
            rate = max(_rates_of(plan), key=lambda rate: rate.pico["input"] + rate.pico["output"])
            rates = _planned(rate, None, DEAREST, exact)
            return Resolved(rates, key, None, *ALWAYS_US, False)
        return Resolved(Rates(Prices()), key, None, *ALWAYS_US, False)

    def _listed(self, listing: Listing, tier: str) -> Rates:
        prices, missing = complete(listing.prices)
        # A tier lists only the components that change.
        reached = dict(listing.prices)
        tiers: list[Tier] = []
        for start, own in listing.tiers:  # a component without a step here keeps its last price
            reached.update(own)
            tiers.append(Tier(start, complete(reached)[0]))
        price_id = f"genai-prices:{listing.provider}/{listing.model}@{self.as_of}"
        price_id += f"#{tier}" if tier else ""
        # Dated prices of one model need different ids.
        if (listing.valid_from_us, listing.valid_until_us) != ALWAYS_US:
            price_id += "~" + _digest(prices, *(each for step in tiers for each in step))
        assumed = ASSUMED - listing.prices.keys() | ({VARIANT} if listing.lacks_variant else set())
        return Rates(prices, tuple(tiers), price_id, "catalogue", self.as_of, missing, assumed)

    def _listing(self, provider: str, model: str, at_us: int, tier: str) -> Listing | None:
        """Find a model in its provider's price list, else in the list that its name points to."""
        at = to_datetime(at_us)
        for candidate in self._providers(provider, model):
            for name in model_names.candidates(model):
                for info in candidate.models:
                    if model_names.is_named_by(info.match, name) or info.id.lower() == name:
                        return read_listing(candidate.id, info, at, tier)
        return None

    def _providers(self, provider: str, model: str) -> Iterator[Any]:
        """Yield the price lists to search: the provider's own, then others by the name."""
        if self._snapshot is None:
            return
        listed = {price_list.id: price_list for price_list in self._snapshot.providers}
        own = listed.get(provider)
        if own is not None:
            yield own
            for other in getattr(own, "fallback_model_providers", None) or ():
                if other in listed:  # Azure sells OpenAI's models at OpenAI's prices
                    yield listed[other]
        # A gateway is called for models of other providers.
        prefix = model_names.provider_prefix(model)
        if prefix in listed and prefix != provider:
            yield listed[prefix]
        if own is None or prefix is not None:
            short = model_names.canonical(model)
            for other in self._snapshot.providers:
                rule = other.model_match
                if other is not own and rule is not None and rule.is_match(short):
                    yield other
                    return


def _is_certain(rates: Rates) -> bool:
    """Return whether a list has prices of its own for plain input and output."""
    return (
        rates.source not in ("none", DEAREST)
        and VARIANT not in rates.assumed
        and rates.unpriced.isdisjoint(("input", "output"))
    )


def plan_rate(plan: PlanConfig, model: str) -> tuple[ModelCostRate | None, str]:
    """Return the plan's rate for a model with its source, "plan" or "plan-default".

    A rate is looked up by the name as written, then in lower case, then by the canonical name. A
    fine-tune has prices of its own, so the rate of its base does not apply to it.
    """
    exact = model_names.plain(model)
    # A rate under a dated name must win over one under the canonical name.
    spellings = [model, exact]
    if not exact.startswith("ft:"):
        spellings.append(model_names.canonical(model))
    by_plain = {model_names.plain(name): rate for name, rate in plan.cost_rates.items()}
    for rates in (plan.cost_rates, by_plain):
        for name in spellings:
            if name in rates:
                return rates[name], "plan"
    if plan.default_cost_rate is not None:
        return plan.default_cost_rate, "plan-default"
    return None, ""


def _rates_of(plan: PlanConfig) -> list[ModelCostRate]:
    default = plan.default_cost_rate
    return [*plan.cost_rates.values(), *([] if default is None else [default])]


def _names(plan: PlanConfig, exact: str) -> bool:
    """Return whether a plan limits this exact name (of a fine-tune or a snapshot)."""
    limited = {model_names.plain(name) for name in plan.model_limits}
    limited.update(model_names.plain(limit.model) for limit in plan.limits if limit.model)
    return exact in limited


def _planned(rate: ModelCostRate, listing: Listing | None, source: str, name: str) -> Rates:
    """Return a plan's rate completed with the catalogue's ratios.

    A component that the rate lacks costs its parent's rate times the catalogue's ratio of the two:
    with gpt-4o at $3, cached input still costs half of that. Per-request fees are the catalogue's.
    """
    listed = complete(listing.prices)[0]._asdict() if listing is not None else {}
    own: dict[str, int] = dict(rate.pico)
    for component, parent in PARENTS.items():
        if component in own or parent not in own:
            continue
        base = listed.get(parent, 0)
        own[component] = own[parent] * listed[component] // base if base else own[parent]
    for fee in FEES:
        # A plan rates tokens; what is billed by the request has the catalogue's price.
        if listing is not None and fee in listing.prices:
            own[fee] = listing.prices[fee]
    prices, missing = complete(own)
    return Rates(prices, (), f"{source}:{name}@{_digest(prices)}", source, "", missing)


def _digest(*prices: object) -> str:
    """Return a digest to distinguish lists of one name: a plan's rates and dated prices change."""
    plain = [tuple(part) if isinstance(part, tuple) else part for part in prices]
    return f"{zlib.crc32(repr(plain).encode()):08x}"
