"""Reads the usual message of Anthropic's SDK: a few fields of its own objects, in one function.

A message that has anything else (server tools, other tiers, compaction) is left to `answers.py`,
which accepts everything; where both read a message, they agree. Fields as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paygent.client.instrument.http_sdks.route import PlainCounts
from paygent.core.providers import STANDARD_TIERS, US_ONLY
from paygent.core.records import COUNT_MAX

_NO_TIER = STANDARD_TIERS | {None}


def read_plain_message(answer: Any, answerers: Mapping[str, int]) -> PlainCounts | None:
    """Read a message; None leaves it to `read_message`."""
    try:
        fields = answer.__dict__
        usage = fields["usage"]
        answerer = answerers.get(fields["model"])
        if answerer is None or usage.__pydantic_extra__:
            return None
        counts = usage.__dict__
        cached = counts.get("cache_read_input_tokens") or 0
        written = counts.get("cache_creation_input_tokens") or 0
        fresh, n_out = counts["input_tokens"], counts["output_tokens"]
        n_in = fresh + cached + written
        lifetimes = counts.get("cache_creation")
        if lifetimes is not None:
            parts = lifetimes.__dict__
            short = parts.get("ephemeral_5m_input_tokens") or 0
            if parts.get("ephemeral_1h_input_tokens") or type(short) is not int:
                return None
            if not 0 <= short <= written:
                return None
        reasoning = 0
        details = counts.get("output_tokens_details")
        if details is not None:
            reasoning = details.__dict__.get("thinking_tokens") or 0
        if not (type(fresh) is type(n_out) is type(cached) is type(written) is int):
            return None
        if type(reasoning) is not int or counts.get("iterations"):  # billed besides the totals
            return None
        if fresh < 0 or cached < 0 or written < 0 or not 0 <= reasoning <= n_out:
            return None
        if n_in + n_out > COUNT_MAX or counts.get("service_tier") not in _NO_TIER:
            return None
        if counts.get("server_tool_use") is not None or counts.get("speed") == "fast":
            return None
        if counts.get("inference_geo") == US_ONLY:
            return None
    except (AttributeError, KeyError, TypeError):  # no object of the SDK's, or an odd value
        return None
    return n_in, n_out, cached, written, reasoning, answerer
