"""What LiteLLM's answers report: caches that were written, and bills that are none."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.litellm.litellm_stand_in import TOLD, answer

from paygent.client.instrument.litellm.answers import read_completion


@pytest.mark.parametrize(
    ("details", "written"),
    [
        ({"cache_creation_tokens": 40}, (40, 0)),
        (
            {
                "cache_creation_tokens": 40,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": 10},
            },
            (30, 10),
        ),
        ({"cache_creation_tokens": 40.0}, (40, 0)),
        ({"cache_creation_tokens": "odd"}, (0, 0)),
    ],
)
def test_read_completion__cache_writes__are_in_its_own_fields(
    details: dict[str, Any], written: tuple[int, int]
) -> None:
    """As LiteLLM reports what Anthropic has written to its caches."""
    found = read_completion(
        {"usage": {**TOLD, "prompt_tokens_details": details}, "model": "m"}, False
    )
    assert found is not None
    assert (found.cache_write_tokens, found.cache_write_long_tokens) == written  # type: ignore[union-attr]
    assert read_completion({"usage": None}, False) is None


def test_read_completion__a_bill__is_openrouters_alone() -> None:
    """LiteLLM writes its own idea of the cost into every usage."""
    billed = answer({"custom_llm_provider": "openrouter"})
    found, other = read_completion(billed, False), read_completion(answer(), False)
    assert found.billed_nano == 5 * 10**9  # type: ignore[union-attr]
    assert other.billed_nano is None  # type: ignore[union-attr]
