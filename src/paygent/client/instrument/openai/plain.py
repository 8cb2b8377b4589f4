"""Reads the usual answer of OpenAI's SDK: a few fields of its own objects, in one function.

An answer that has anything else (other units, odd counts, unknown fields) is left to the readers of
`answers.py`, which accept everything; where both read an answer, they agree. Fields as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from paygent.client.instrument.http_sdks.route import PlainCounts, PlainReader
from paygent.core.providers import STANDARD_TIERS
from paygent.core.records import COUNT_MAX

_MEDIA = ("audio_tokens", "image_tokens")
_FREE_OUTPUT = frozenset({"message", "reasoning", "function_call"})  # OpenAI bills other tools
_type_of = attrgetter("type")


def plain_reader(prompt: str, completion: str, *, may_use_tools: bool = False) -> PlainReader:
    """Return the reader of a route.

    Args:
        prompt, completion: The names of its token counts.
        may_use_tools: Whether an answer may be a background job, or may have used tools that OpenAI
            bills.
    """
    prompt_details, completion_details = prompt + "_details", completion + "_details"

    def read(answer: Any, answerers: Mapping[str, int]) -> PlainCounts | None:
        try:
            fields = answer.__dict__
            usage = fields["usage"]
            answerer = answerers.get(fields["model"])
            if answerer is None or usage.__pydantic_extra__:
                return None
            counts = usage.__dict__
            n_in, n_out = counts[prompt], counts.get(completion, 0)
            cached = written = reasoning = 0
            details = counts.get(prompt_details)
            if details is not None:
                parts = details.__dict__
                cached = parts.get("cached_tokens") or 0
                written = parts.get("cache_write_tokens") or 0
                if details.__pydantic_extra__ or any(map(parts.get, _MEDIA)):
                    return None
                lifetimes = parts.get("cache_write_tokens_details")
                if lifetimes is not None and lifetimes.ttl_12h_tokens:
                    return None
            details = counts.get(completion_details)
            if details is not None:
                parts = details.__dict__
                reasoning = parts.get("reasoning_tokens") or 0
                if details.__pydantic_extra__ or any(map(parts.get, _MEDIA)):
                    return None
            if not (type(n_in) is type(n_out) is type(cached) is type(written) is int):
                return None
            is_whole = counts["total_tokens"] == n_in + n_out <= COUNT_MAX
            if not (is_whole and 0 <= cached + written <= n_in and 0 <= reasoning <= n_out):
                return None
            if cached < 0 or written < 0 or type(reasoning) is not int:
                return None
            if fields.get("service_tier") not in _NO_TIER:
                return None
            if may_use_tools and (
                fields.get("background")
                or fields.get("tool_usage") is not None
                or not _FREE_OUTPUT.issuperset(map(_type_of, fields["output"]))
            ):
                return None
        except (AttributeError, KeyError, TypeError):  # no object of the SDK's, or an odd value
            return None
        return n_in, n_out, cached, written, reasoning, answerer

    return read


_NO_TIER = STANDARD_TIERS | {None}


read_plain_chat = plain_reader("prompt_tokens", "completion_tokens")
"""Of chat completions, legacy completions and embeddings."""

read_plain_response = plain_reader("input_tokens", "output_tokens", may_use_tools=True)
"""Of the Responses API."""
