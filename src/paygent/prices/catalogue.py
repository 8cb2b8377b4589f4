"""Resolve a model to its rates, once per model, plan and price variant.

Order: the plan's own rate (by exact name, then canonical) > the plan's default rate > the bundled
catalogue > what the plan says of unknown models. The catalogue is genai-prices (MIT), used for its
dated data only: its `calc_price` takes 50 to 100 µs, so prices become integers here and calls
multiply them.

Nothing here raises for an odd model name: what cannot be resolved has no price, and is said by the
caller.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from paygent.core.cost_rate import ModelCostRate
from paygent.core.money import read_price_pico
from paygent.core.period import to_datetime, to_us
from paygent.core.plan import PlanConfig
from paygent.core.pricing import (
    ASSUMED,
    FEES,
    PARENTS,
    TOKEN_COMPONENTS,
    VARIANT,
    Prices,
    Rates,
    Tier,
    complete,
)
from paygent.core.providers import US_ONLY, US_ONLY_TENTHS
from paygent.core.validation import InvalidValue
from paygent.failopen import attempt, diagnostics
from paygent.prices import model_names
from paygent.prices.max_output import max_output_tokens

_COMPONENT_KEYS = {
    "input": ("input_mtok", "input_text_mtok"),
    "cached_input": ("cache_read_mtok", "cache_text_read_mtok"),
    "cache_write": ("cache_write_mtok", "cache_write_5m_mtok"),
    "cache_write_long": ("cache_write_1h_mtok",),
    "output": ("output_mtok", "output_text_mtok"),
    "reasoning": ("output_reasoning_mtok",),
    "audio_input": ("input_audio_mtok",),
    "audio_output": ("output_audio_mtok",),
    "image_input": ("input_image_mtok",),
    "image_output": ("output_image_mtok",),
    "web_search": ("web_searches_kcount",),
    "file_search": ("storage_searches_kcount",),
    "characters": ("input_mchars",),
    "audio_hour": ("input_audio_hours", "audio_hours"),
    "cached_image": ("cache_image_read_mtok",),
    "cached_audio": ("cache_audio_read_mtok",),
    "request": ("requests_kcount",),
}
"""Our components and the catalogue's keys for them, the first that is set counts."""

DEAREST = "plan-dearest"
"""Source of the rates of an unknown model in a plan that books its dearest rate."""

_RESOLVED_MAX = 4_096  # models × plans × variants remembered; beyond it the table starts anew
_ALWAYS_US = (-(2**62), 2**62)
_VARIANT_KINDS = ("service_tier", "speed", "processing")


class Resolved(NamedTuple):
    """What a model name means for one plan.

    Attributes:
        rates: What a call costs.
        model_key: The name that limits and reports count the model under.
        context_tokens: Most tokens that the model takes in and gives out together, or None where
            not known.
        max_output_tokens: Most output that the model gives to one request, or None where not known.
        valid_from_us, valid_until_us: Between which changes of the catalogue's price this holds.
        is_free: Every rate is 0 because the plan says so; then nothing is said about it.
        is_certain: Nothing has to be assumed of the price of tokens of text, as of most calls.
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


class Listing(NamedTuple):
    """One model in the catalogue at one time."""

    prices: dict[str, int]
    tiers: tuple[tuple[int, dict[str, int]], ...]
    model: str
    provider: str
    context_tokens: int | None
    valid_from_us: int
    valid_until_us: int
    lacks_variant: bool = False


class Catalogue:
    """The bundled price list and what was resolved from it. Thread-safe: lookups are pure, tables
    are dicts.
    """

    def __init__(self, snapshot: Any = None) -> None:
        """Load the bundled catalogue.

        Args:
            snapshot: A genai-prices `DataSnapshot`; None loads the one that the package brings.
                Where that fails, no model has a catalogue price, which is said once and shown by
                every event.
        """
        self._resolved: dict[tuple[str, str, str, int], Resolved] = {}
        self._plans: dict[int, PlanConfig] = {}
        self._snapshot = snapshot if snapshot is not None else attempt("catalogue", _load)
        self.as_of = _as_of(self._snapshot)

    def resolve(
        self, provider: str, model: str, at_us: int, plan: PlanConfig, tier: str = ""
    ) -> Resolved:
        """Return the rates of a model under a plan.

        Args:
            provider: "openai", "anthropic", "azure", "aws", …; "" or unknown ones are guessed from
                the name.
            model: The name that the application or the provider uses.
            at_us: When the call began; prices have dates.
            plan: The user's plan; plans are immutable, so its identity is part of the key.
            tier: Price variants of the answer, as in `Usage`.
        """
        key = (provider, model, tier, id(plan))
        found = self._resolved.get(key)
        if found is not None and found.valid_from_us <= at_us < found.valid_until_us:
            return found
        found = self._find(provider, model, at_us, plan, tier)
        found = found._replace(
            is_certain=_is_certain(found.rates),
            max_output_tokens=max_output_tokens(model_names.canonical(model)),
        )
        if len(self._resolved) >= _RESOLVED_MAX:
            self._resolved.clear()
            self._plans.clear()
        self._plans[id(plan)] = plan  # keeps the plan alive, so that its id stays its own
        self._resolved[key] = found
        return found

    def _find(self, provider: str, model: str, at_us: int, plan: PlanConfig, tier: str) -> Resolved:
        exact, short = model_names.plain(model), model_names.canonical(model)
        listing = self._listing(provider, model, at_us, tier)
        context_tokens = listing.context_tokens if listing else None
        valid = (listing.valid_from_us, listing.valid_until_us) if listing else _ALWAYS_US
        key = exact if _names(plan, exact) else short
        rate, source = plan_rate(plan, model)
        if rate is not None:
            rates = _planned(rate, listing, source, exact)
            return Resolved(rates, key, context_tokens, *valid, rate.is_free)
        if listing is not None:
            return Resolved(self._listed(listing, tier), key, context_tokens, *valid, False)
        if plan.unknown_model == "dearest":
            rate = max(_rates_of(plan), key=lambda each: each.pico["input"] + each.pico["output"])
            rates = _planned(rate, None, DEAREST, exact)
            return Resolved(rates, key, None, *_ALWAYS_US, False)
        return Resolved(Rates(Prices()), key, None, *_ALWAYS_US, False)

    def _listed(self, listing: Listing, tier: str) -> Rates:
        prices, missing = complete(listing.prices)
        reached = dict(listing.prices)
        tiers: list[Tier] = []
        for start, own in listing.tiers:  # a component keeps its last step where another takes one
            reached.update(own)
            tiers.append(Tier(start, complete(reached)[0]))
        price_id = f"genai-prices:{listing.provider}/{listing.model}@{self.as_of}" + (
            f"#{tier}" if tier else ""
        )
        if (listing.valid_from_us, listing.valid_until_us) != _ALWAYS_US:
            price_id += "~" + _digest(prices, *(each for step in tiers for each in step))
        assumed = ASSUMED - listing.prices.keys() | ({VARIANT} if listing.lacks_variant else set())
        return Rates(prices, tuple(tiers), price_id, "catalogue", self.as_of, missing, assumed)

    def _listing(self, provider: str, model: str, at_us: int, tier: str) -> Listing | None:
        """Find a model in the catalogue: in its provider's list, else in that of the provider it is
        named for.
        """
        at = to_datetime(at_us)
        for candidate in self._providers(provider, model):
            for name in model_names.candidates(model):
                for info in candidate.models:
                    if model_names.is_named_by(info.match, name) or info.id.lower() == name:
                        return _read(candidate.id, info, at, tier)
        return None

    def _providers(self, provider: str, model: str) -> Iterator[Any]:
        """Return the price lists to look in: the provider's own, then one that the model's name
        points to.
        """
        if self._snapshot is None:
            return
        listed = {each.id: each for each in self._snapshot.providers}
        own = listed.get(provider)
        if own is not None:
            yield own
            for other in getattr(own, "fallback_model_providers", None) or ():
                if other in listed:  # Azure sells OpenAI's models at OpenAI's prices
                    yield listed[other]
        prefix = model_names.provider_prefix(model)
        if prefix in listed and prefix != provider:
            yield listed[prefix]
        if own is None or prefix is not None:
            short = model_names.canonical(model)
            for each in self._snapshot.providers:
                if (
                    each is not own
                    and each.model_match is not None
                    and each.model_match.is_match(short)
                ):
                    yield each
                    return


def _is_certain(rates: Rates) -> bool:
    """Tell whether a list has prices of its own for plain input and output."""
    return (
        rates.source not in ("none", DEAREST)
        and VARIANT not in rates.assumed
        and rates.unpriced.isdisjoint(("input", "output"))
    )


def plan_rate(plan: PlanConfig, model: str) -> tuple[ModelCostRate | None, str]:
    """Return the plan's own rate for a model, and "plan" or "plan-default" for where it stands.

    A rate is looked up by the name as written, then in lower case, then by the canonical name; a
    fine-tune has prices of its own, so its base's rate is not taken for it.
    """
    exact = model_names.plain(model)
    spellings = (
        (model, exact) if exact.startswith("ft:") else (model, exact, model_names.canonical(model))
    )
    for name in spellings:
        if name in plan.cost_rates:
            return plan.cost_rates[name], "plan"
    by_plain = {model_names.plain(name): rate for name, rate in plan.cost_rates.items()}
    for name in spellings:
        if name in by_plain:
            return by_plain[name], "plan"
    if plan.default_cost_rate is not None:
        return plan.default_cost_rate, "plan-default"
    return None, ""


def _rates_of(plan: PlanConfig) -> list[ModelCostRate]:
    rates = list(plan.cost_rates.values())
    return rates + ([plan.default_cost_rate] if plan.default_cost_rate is not None else [])


def _names(plan: PlanConfig, exact: str) -> bool:
    """Tell whether a plan limits this very name (a fine-tune or a snapshot of its own)."""
    limited = {model_names.plain(name) for name in plan.model_limits}
    limited.update(model_names.plain(limit.model) for limit in plan.limits if limit.model)
    return exact in limited


def _planned(rate: ModelCostRate, listing: Listing | None, source: str, name: str) -> Rates:
    """Return a plan's rate completed with the catalogue's ratios.

    A component that the rate does not name costs its parent's rate times the catalogue's ratio of
    the two, so that "gpt-4o at $3" still reads cached input at half. Per-request fees are the
    catalogue's own.
    """
    listed = complete(listing.prices)[0]._asdict() if listing is not None else {}
    own: dict[str, int] = dict(rate.pico)
    for component, parent in PARENTS.items():
        if component in own or parent not in own:
            continue
        base = listed.get(parent, 0)
        own[component] = own[parent] * listed[component] // base if base else own[parent]
    for fee in FEES:
        if listing is not None and fee in listing.prices:
            own[fee] = listing.prices[fee]
    prices, missing = complete(own)
    return Rates(prices, (), f"{source}:{name}@{_digest(prices)}", source, "", missing)


def _digest(*prices: object) -> str:
    """Return what tells two lists of one name apart: a plan's rates change, and so do those of a
    model that has dated prices or cheaper hours.
    """
    plain = [tuple(each) if isinstance(each, tuple) else each for each in prices]
    return f"{zlib.crc32(repr(plain).encode()):08x}"


def _read(provider: str, info: Any, at: datetime, tier: str) -> Listing:
    """Read one model's entry at a time and in a price variant, as integers."""
    plain = info.get_prices(at)
    own, lacks_variant = _prices_in_force(info, at, tier, plain)
    prices: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for component, keys in _COMPONENT_KEYS.items():
        value = next((own[key] for key in keys if own.get(key) is not None), None)
        if value is None:
            continue
        try:
            prices[component] = read_price_pico(getattr(value, "base", value))
            for step in getattr(value, "tiers", ()):
                tiers.setdefault(int(step.start), {})[component] = read_price_pico(step.price)
        except (ValueError, InvalidValue) as error:
            diagnostics.record_error("catalogue_price", error)
    if "input" not in prices and "output" in prices:
        prices["input"] = 0
    if "output" not in prices and "input" in prices:
        prices["output"] = 0  # embeddings: the list has no output because there is none
    if US_ONLY in tier.split("+"):
        prices = _dearer_in_us(prices)
        tiers = {start: _dearer_in_us(step) for start, step in tiers.items()}
    return Listing(
        prices,
        tuple(sorted(tiers.items())),
        str(info.id),
        provider,
        info.context_window if isinstance(info.context_window, int) else None,
        *_valid_us(info, at),
        lacks_variant,
    )


def _dearer_in_us(prices: dict[str, int]) -> dict[str, int]:
    """Return the prices of inference that stays in the United States; fees are the same there."""
    return {
        name: price * US_ONLY_TENTHS // 10 if name in TOKEN_COMPONENTS else price
        for name, price in prices.items()
    }


def _prices_in_force(info: Any, at: datetime, tier: str, plain: Any) -> tuple[dict[str, Any], bool]:
    """Return the catalogue's keys of a model, with the variants of a tier laid over the standard
    ones; and whether one of these variants is not listed.
    """
    own = {key: value for key, value in vars(plain).items() if value is not None}
    if not tier:
        return own, False
    names_wanted = {name for name in tier.split("+") if name != US_ONLY}
    wanted = {(kind, name) for kind in _VARIANT_KINDS for name in names_wanted}
    found: set[str] = set()
    for variant in info.price_variants or ():
        constraint = variant.constraint
        if constraint is not None and not constraint.active(at):
            continue
        if len(variant.when) == 1 and next(iter(variant.when.items())) in wanted:
            found.update(variant.when.values())
            own.update(
                {key: value for key, value in vars(variant.prices).items() if value is not None}
            )
    return own, not names_wanted <= found


def _valid_us(info: Any, at: datetime) -> tuple[int, int]:
    """Return the last and the next moment at which one of the model's dated or timed prices begins
    or ends.
    """
    constraints = [each.constraint for each in info.prices] if isinstance(info.prices, list) else []
    constraints += [variant.constraint for variant in getattr(info, "price_variants", None) or ()]
    moments = [*_ALWAYS_US]
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    for constraint in constraints:
        start_date = getattr(constraint, "start_date", None)
        if start_date is not None:
            moments.append(
                to_us(
                    datetime(start_date.year, start_date.month, start_date.day, tzinfo=timezone.utc)
                )
            )
        for edge in (
            getattr(constraint, "start_time", None),
            getattr(constraint, "end_time", None),
        ):
            if edge is not None:
                offset = edge.utcoffset() or timedelta()
                today = (
                    midnight
                    + timedelta(hours=edge.hour, minutes=edge.minute, seconds=edge.second)
                    - offset
                )
                moments += [to_us(today + timedelta(days=days)) for days in (-1, 0, 1, 2)]
    now_us = to_us(at)
    return (
        max(moment for moment in moments if moment <= now_us),
        min(moment for moment in moments if moment > now_us),
    )


def _load() -> Any:
    """Load the bundled catalogue."""
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


def _as_of(snapshot: Any) -> str:
    """Return which catalogue this is: its version and the day of its newest price by now."""
    from importlib.metadata import PackageNotFoundError, version  # 12 ms, at `init`

    if snapshot is None:
        return ""
    try:
        release = version("genai-prices")
    except PackageNotFoundError:
        release = "?"
    dates = [
        each.constraint.start_date
        for provider in snapshot.providers
        for info in provider.models
        if isinstance(info.prices, list)
        for each in info.prices
        if hasattr(each.constraint, "start_date")
    ]
    today = datetime.now(timezone.utc).date()
    newest = max(
        (each for each in dates if each <= today), default=None
    )  # later ones are announced already
    return f"{release}/{newest.isoformat()}" if newest else release
