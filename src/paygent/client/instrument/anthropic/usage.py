"""Converts the usage objects of Anthropic's API to the normal form.

Anthropic (and Bedrock) report input exclusive of cached and written tokens. Field names were read
from the type definitions of anthropic 2.13 (2026-11).
"""

from __future__ import annotations

from typing import Any

from paygent.core.providers import US_ONLY
from paygent.core.usage import (
    COUNTS,
    CountReader,
    Fields,
    Usage,
    fields_of,
    get,
    model_name,
    read_tier,
)


def from_anthropic(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage object of Anthropic's Messages routes; None if it has no count.

    It has `{input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens, …}`.
    """
    fields = fields_of(usage)
    if fields.get("input_tokens") is None and fields.get("output_tokens") is None:
        return None
    count = CountReader()
    fresh = count.read(fields, "input_tokens")
    cached = count.read(fields, "cache_read_input_tokens")
    written = count.read(fields, "cache_creation_input_tokens")
    written_long = 0
    lifetimes = fields.get("cache_creation")
    if lifetimes is not None:
        written_long = count.read(fields_of(lifetimes), "ephemeral_1h_input_tokens")
        short = count.read(fields_of(lifetimes), "ephemeral_5m_input_tokens")
        # The lifetimes may exceed the reported total; all of them are billed.
        written = max(written, written_long + short)
    output_tokens = count.read(fields, "output_tokens")
    details = fields.get("output_tokens_details")
    reasoning = 0
    if details is not None:
        reasoning = count.part(fields_of(details), "thinking_tokens", output_tokens)
    tools = fields.get("server_tool_use")
    searches = count.read(fields_of(tools), "web_search_requests") if tools is not None else 0
    totals = Usage(
        input_tokens=fresh + cached + written,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written - written_long,
        cache_write_long_tokens=written_long,
        reasoning_tokens=reasoning,
        web_searches=searches,
        model=model_name(model),
        tier=_tiers(fields),
        quality=count.quality,
    )
    # The totals cover the answer only.
    iterations = fields.get("iterations")
    return _with_iterations(totals, iterations) if iterations else totals


def _tiers(fields: Fields) -> str:
    """Return the price variants of an Anthropic answer."""
    speed, tier, geo = fields.get("speed"), fields.get("service_tier"), fields.get("inference_geo")
    if speed is None and geo is None:
        return read_tier(tier)  # most answers have neither
    tiers = (read_tier(tier), "fast" * (speed == "fast"), US_ONLY * (geo == US_ONLY))
    return "+".join(filter(None, tiers))


_TOKENS = COUNTS[: COUNTS.index("reasoning_tokens") + 1]  # all that an iteration has


def _with_iterations(usage: Usage, iterations: Any) -> Usage:
    """Add the iterations that an answer's totals leave out: context compaction, done by its model,
    and the advice of an advisor, which is another model.
    """
    others: list[Usage] = []
    for iteration in iterations if isinstance(iterations, (list, tuple)) else ():
        kind = get(iteration, "type")
        if kind not in ("compaction", "advisor_message"):
            continue
        counts = {**fields_of(iteration), "iterations": None}
        own = from_anthropic(counts, model=get(iteration, "model") or usage.model)
        if own is None:
            continue
        # Another model, with prices of its own.
        if kind == "advisor_message":
            others.append(own._replace(tier=usage.tier))
        else:
            usage = usage._replace(
                quality=usage.quality if own.quality == "exact" else "partial",
                **{name: getattr(usage, name) + getattr(own, name) for name in _TOKENS},
            )
    return usage._replace(others=tuple(others)) if others else usage
