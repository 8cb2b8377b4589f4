"""Reads the bundled catalogue, genai-prices (MIT): one model's prices at a time, as integers.

Only its dated data is used: its own `calc_price` takes 50 to 100 µs. An odd price is recorded and
left out; nothing here raises for one.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone
from typing import Any, NamedTuple

from paygent.core.money import read_price_pico
from paygent.core.period import to_us
from paygent.core.pricing import TOKEN_COMPONENTS
from paygent.core.providers import US_ONLY, US_ONLY_TENTHS
from paygent.core.validation import InvalidValue
from paygent.failopen import diagnostics

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
"""The catalogue's keys for each component; the first one that is set counts."""

ALWAYS_US = (-(2**62), 2**62)
"""Validity of prices without dates."""

_VARIANT_KINDS = ("service_tier", "speed", "processing")


class Listing(NamedTuple):
    """One model in the catalogue at one time: prices in pico-dollars, by component."""

    prices: dict[str, int]
    tiers: tuple[tuple[int, dict[str, int]], ...]
    model: str
    provider: str
    context_tokens: int | None
    valid_from_us: int
    valid_until_us: int
    lacks_variant: bool = False


def read_listing(provider: str, info: Any, at: datetime, tier: str) -> Listing:
    """Read the entry of a model as integers, at a time and in a price variant."""
    plain = info.get_prices(at)
    own, lacks_variant = _prices_in_force(info, at, tier, plain)
    prices: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for component, keys in _COMPONENT_KEYS.items():
        # Prices are plain numbers, or objects with a base and steps.
        value = next((own[key] for key in keys if own.get(key) is not None), None)
        if value is None:
            continue
        try:
            prices[component] = read_price_pico(getattr(value, "base", value))
            for step in getattr(value, "tiers", ()):
                tiers.setdefault(int(step.start), {})[component] = read_price_pico(step.price)
        except (ValueError, InvalidValue) as error:
            diagnostics.record_error("catalogue_price", error)
    if "input" in prices or "output" in prices:
        # One side only: the other has no price because it is never billed (embeddings: output).
        prices = {"input": 0, "output": 0, **prices}
    if US_ONLY in tier.split("+"):
        prices = _dearer_in_us(prices)
        tiers = {start: _dearer_in_us(step) for start, step in tiers.items()}
    steps, model, valid_us = tuple(sorted(tiers.items())), str(info.id), _valid_us(info, at)
    window = info.context_window if isinstance(info.context_window, int) else None
    return Listing(prices, steps, model, provider, window, *valid_us, lacks_variant)


def _dearer_in_us(prices: dict[str, int]) -> dict[str, int]:
    """Return the prices of US-only inference; its fees are the standard ones."""
    return {
        name: price * US_ONLY_TENTHS // 10 if name in TOKEN_COMPONENTS else price
        for name, price in prices.items()
    }


def _prices_in_force(info: Any, at: datetime, tier: str, plain: Any) -> tuple[dict[str, Any], bool]:
    """Return a model's prices by the catalogue's keys, those of a tier's variants where listed, and
    whether one of these variants is not.
    """
    own = _set_prices(plain)
    if not tier:
        return own, False
    names = {name for name in tier.split("+") if name != US_ONLY}
    wanted = {(kind, name) for kind in _VARIANT_KINDS for name in names}
    listed: set[str] = set()
    for variant in info.price_variants or ():
        if variant.constraint is not None and not variant.constraint.active(at):
            continue  # variants have dates too
        if len(variant.when) == 1 and next(iter(variant.when.items())) in wanted:
            listed.update(variant.when.values())
            own.update(_set_prices(variant.prices))
    return own, not names <= listed


def _set_prices(prices: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(prices).items() if value is not None}


def _valid_us(info: Any, at: datetime) -> tuple[int, int]:
    """Return the last and the next change of the model's dated or timed prices."""
    dated = info.prices if isinstance(info.prices, list) else []
    constraints = [prices.constraint for prices in dated]
    constraints += [variant.constraint for variant in getattr(info, "price_variants", None) or ()]
    moments = [*ALWAYS_US]
    for constraint in constraints:
        start_date = getattr(constraint, "start_date", None)
        if start_date is not None:
            moments.append(to_us(datetime.combine(start_date, time(), timezone.utc)))
        for name in ("start_time", "end_time"):
            edge = getattr(constraint, name, None)
            if edge is not None:
                # Cheaper hours are given in a zone of their own; the window around now is enough.
                today = datetime.combine(at, edge.replace(tzinfo=None), timezone.utc)
                today -= edge.utcoffset() or timedelta()
                moments += [to_us(today + timedelta(days=days)) for days in (-1, 0, 1, 2)]
    now_us = to_us(at)
    return max(us for us in moments if us <= now_us), min(us for us in moments if us > now_us)


def load_snapshot() -> Any:
    """Load the bundled catalogue of genai-prices."""
    from genai_prices.data_snapshot import get_snapshot  # slow to import

    return get_snapshot()


def date_of(snapshot: Any) -> str:
    """Return the version of a catalogue and the day of its newest price in force."""
    from importlib.metadata import PackageNotFoundError, version  # takes 12 ms, so not at import

    if snapshot is None:
        return ""
    try:
        release = version("genai-prices")
    except PackageNotFoundError:
        release = "?"
    dates = [
        prices.constraint.start_date
        for provider in snapshot.providers
        for info in provider.models
        if isinstance(info.prices, list)
        for prices in info.prices
        if hasattr(prices.constraint, "start_date")
    ]
    today = datetime.now(timezone.utc).date()
    newest = max((day for day in dates if day <= today), default=None)  # later ones are announced
    return f"{release}/{newest.isoformat()}" if newest else release
