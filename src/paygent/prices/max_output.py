"""The most output that a model gives to one request, where that is known.

genai-prices lists context windows only, and a context window says little about output: gpt-4o takes
128,000 tokens and gives at most 16,384. Anthropic's API requires `max_tokens` in each request, so
its models need no entry. A model without an entry has no known maximum.

Source: the model pages of OpenAI's documentation as collected in the model list of LiteLLM 1.110
(`max_output_tokens`), 2026-11; gpt-4 from OpenAI's page (the list splits its window in two).
"""

from __future__ import annotations

import re

_MAX_OUTPUT_TOKENS = (
    (re.compile(r"gpt-3\.5-turbo.*|gpt-4-turbo.*|gpt-4-(?:0125|1106)-.*"), 4_096),
    (re.compile(r"gpt-4(?:-0[36]1[34])?"), 8_192),
    (re.compile(r"(?:chat)?gpt-4o(?:-mini)?(?:-audio-preview|-search-preview)?"), 16_384),
    (re.compile(r"gpt-audio(?:-mini)?|gpt-5(?:\.\d)?-chat"), 16_384),
    (re.compile(r"gpt-4\.1(?:-mini|-nano)?"), 32_768),
    (re.compile(r"(?:o1|o3|o4)(?:-pro|-mini)?(?:-deep-research)?"), 100_000),
    (re.compile(r"gpt-5-pro"), 272_000),
    (re.compile(r"gpt-[56](?:\.\d)?(?:-[a-z]+)*"), 128_000),  # gpt-5-mini, gpt-5.1-codex-max, …
)
"""Rules on canonical model names; the first that matches the whole name counts."""


def max_output_tokens(model_key: str) -> int | None:
    """Return the most output of a model by its canonical name; None where it is not known."""
    for pattern, tokens in _MAX_OUTPUT_TOKENS:
        if pattern.fullmatch(model_key):
            return tokens
    return None
