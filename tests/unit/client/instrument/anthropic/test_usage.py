"""Anthropic's usage objects in the normal form: inclusive totals, and never an exception."""

from __future__ import annotations

from typing import Any

import pytest

from paygent.client.instrument.anthropic.usage import from_anthropic
from paygent.core.usage import Usage


def test_from_anthropic__cached_and_written__are_added_to_the_input() -> None:
    """Anthropic's exclusive input becomes inclusive; written tokens keep their lifetimes."""
    usage = from_anthropic(
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 300,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 200,
                "ephemeral_1h_input_tokens": 100,
            },
            "output_tokens_details": {"thinking_tokens": 20},
            "server_tool_use": {"web_search_requests": 2},
            "service_tier": "priority",
        },
        model="claude-sonnet-4-5",
    )
    assert usage == Usage(
        input_tokens=1400,
        output_tokens=50,
        cached_input_tokens=1000,
        cache_write_tokens=200,
        cache_write_long_tokens=100,
        reasoning_tokens=20,
        web_searches=2,
        model="claude-sonnet-4-5",
        tier="priority",
    )


def test_from_anthropic__plain__has_no_parts() -> None:
    """A plain answer is input and output."""
    assert from_anthropic({"input_tokens": 3, "output_tokens": 4}) == Usage(3, 4)


def test_from_anthropic__lifetimes_exceed_the_written_total__all_of_them_count() -> None:
    """Where the lifetimes add up to more than the total, the larger figure counts."""
    usage = from_anthropic(
        {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
        }
    )
    assert usage == Usage(13, 0, cache_write_tokens=5, cache_write_long_tokens=7)


def test_from_anthropic__written_without_lifetimes__is_short() -> None:
    """Written tokens without a lifetime are of the short one."""
    usage = from_anthropic({"input_tokens": 1, "cache_creation_input_tokens": 9})
    assert usage == Usage(10, 0, cache_write_tokens=9)


@pytest.mark.parametrize(
    ("speed", "service_tier", "tier"),
    [("fast", "standard", "fast"), ("normal", "batch", "batch"), (None, None, "")],
)
def test_from_anthropic__speed_and_tier__fast_comes_first(
    speed: str | None, service_tier: str | None, tier: str
) -> None:
    """Fast answers have their own price whatever the service tier says."""
    usage = from_anthropic({"output_tokens": 1, "speed": speed, "service_tier": service_tier})
    assert usage == Usage(0, 1, tier=tier)


@pytest.mark.parametrize("given", [None, {}, [], "x", 7, {"cache_read_input_tokens": 5}])
def test_from_anthropic__names_no_count__is_none(given: Any) -> None:
    """What names neither input nor output is no usage."""
    assert from_anthropic(given) is None


def test_from_anthropic__odd_counts__are_partial() -> None:
    """A count that is no count reads as 0; thinking cannot exceed the output."""
    usage = from_anthropic(
        {
            "input_tokens": "many",
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 6},
        },
        model=7,
    )
    assert usage == Usage(0, 5, reasoning_tokens=5, quality="partial")


def test_from_anthropic__iterations__add_what_the_totals_leave_out() -> None:
    """Compaction is the model's own work; an advisor is another model; messages are in the totals
    already.
    """
    usage = from_anthropic(
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_read_input_tokens": 10,
            "service_tier": "standard",
            "iterations": [
                {"type": "message", "input_tokens": 100, "output_tokens": 50},
                {
                    "type": "compaction",
                    "input_tokens": 1_000,
                    "output_tokens": 30,
                    "cache_read_input_tokens": 500,
                    "cache_creation_input_tokens": 200,
                },
                {
                    "type": "advisor_message",
                    "model": "claude-opus-5",
                    "input_tokens": 700,
                    "output_tokens": 90,
                    "cache_read_input_tokens": 0,
                    "cache_creation_input_tokens": 0,
                },
                {"type": "fallback_message", "model": "x", "input_tokens": 1, "output_tokens": 1},
                {"type": "advisor_message", "model": "claude-opus-5"},
                "odd",
            ],
        },
        model="claude-sonnet-5",
    )
    assert usage == Usage(
        110 + 1_700,
        80,
        cached_input_tokens=510,
        cache_write_tokens=200,
        model="claude-sonnet-5",
        others=(Usage(700, 90, model="claude-opus-5"),),
    )


def test_from_anthropic__an_odd_compaction__is_partial() -> None:
    """What cannot be counted is not said to be exact."""
    usage = from_anthropic(
        {
            "input_tokens": 1,
            "output_tokens": 1,
            "iterations": [{"type": "compaction", "input_tokens": "x", "output_tokens": 2}],
        }
    )
    assert usage == Usage(1, 3, quality="partial")


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({"inference_geo": "us"}, "us"),
        ({"inference_geo": "global"}, ""),
        ({"inference_geo": "us", "speed": "fast"}, "fast+us"),
        ({"inference_geo": "us", "service_tier": "batch"}, "batch+us"),
        ({"speed": "standard", "service_tier": "priority"}, "priority"),
    ],
)
def test_from_anthropic__where_and_how_fast__are_price_variants(
    fields: dict[str, str], tier: str
) -> None:
    """Each of them has a price of its own, and they combine."""
    assert from_anthropic({"output_tokens": 1, **fields}) == Usage(0, 1, tier=tier)
