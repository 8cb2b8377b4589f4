"""The maximum output of a model: known families, exact matches, None for the rest."""

from __future__ import annotations

import pytest

from paygent.core.plan import PlanConfig
from paygent.core.providers import max_output_tokens
from paygent.prices.catalogue import Catalogue

NOW_US = 1_795_000_000_000_000


@pytest.mark.parametrize(
    ("model_key", "tokens"),
    [
        ("gpt-3.5-turbo", 4_096),
        ("gpt-4-turbo", 4_096),
        ("gpt-4", 8_192),
        ("gpt-4o", 16_384),
        ("gpt-4o-mini", 16_384),
        ("gpt-5-chat", 16_384),
        ("gpt-4.1-nano", 32_768),
        ("o3-mini", 100_000),
        ("o4-mini-deep-research", 100_000),
        ("gpt-5", 128_000),
        ("gpt-5.1-codex-mini", 128_000),
        ("gpt-6.1-sol", 128_000),
        ("gpt-5-pro", 272_000),
        ("gpt-4o-realtime-preview", None),
        ("gpt-image-1", None),
        ("my-gpt-4o", None),
        ("claude-sonnet-4-5", None),
        ("", None),
    ],
)
def test_max_output_tokens__a_model__is_known_or_none(model_key: str, tokens: int | None) -> None:
    """A listed family has its maximum; any other name has none."""
    assert max_output_tokens(model_key) == tokens


def test_resolve__a_listed_model__has_window_and_maximum_output_apart() -> None:
    """The context window of gpt-4o is not the most that it gives."""
    resolved = Catalogue().resolve("openai", "gpt-4o-2024-08-06", NOW_US, PlanConfig())
    assert (resolved.context_tokens, resolved.max_output_tokens) == (128_000, 16_384)
    assert resolved.output_ceiling == 16_384


def test_resolve__an_unlisted_maximum__is_capped_by_the_window() -> None:
    """Where only the context window is known, no answer is larger than it."""
    resolved = Catalogue().resolve("anthropic", "claude-sonnet-4-5", NOW_US, PlanConfig())
    assert resolved.max_output_tokens is None
    assert resolved.output_ceiling == resolved.context_tokens
