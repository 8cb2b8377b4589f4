"""Usage readers: inclusive totals from every provider's names, and never an exception."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paygent.core.event import Event
from paygent.core.usage import (
    RARE_COUNTS,
    Usage,
    from_anthropic,
    from_openai,
    get,
    read_tier,
)


def test_usage__total_tokens__is_input_and_output() -> None:
    """Parts are contained in the totals and are not counted again."""
    usage = Usage(100, 20, cached_input_tokens=80, reasoning_tokens=15)
    assert usage.total_tokens == 120


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": 1}, 1),
        (SimpleNamespace(a=1), 1),
        ({}, None),
        (SimpleNamespace(), None),
        (None, None),
        ("text", None),
        (5, None),
    ],
)
def test_get__a_dict_or_an_object__reads_the_field_or_none(value: Any, found: Any) -> None:
    """A field is read the same way from a dict and from an SDK's object."""
    assert get(value, "a") == found


def test_from_openai__chat_with_all_details__is_read_whole() -> None:
    """Every part of a chat completion's usage is read under its name."""
    usage = from_openai(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "prompt_tokens_details": {
                "cached_tokens": 400,
                "cache_write_tokens": 300,
                "cache_write_tokens_details": {"ttl_12h_tokens": 100},
                "audio_tokens": 50,
                "image_tokens": 60,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 200,
                "audio_tokens": 30,
                "image_tokens": 40,
            },
        },
        model="gpt-4o-2024-08-06",
        tier="flex",
        tool_usage={"web_search": {"num_requests": 3}},
    )
    assert usage == Usage(
        input_tokens=1000,
        output_tokens=500,
        cached_input_tokens=400,
        cache_write_tokens=200,
        cache_write_long_tokens=100,
        reasoning_tokens=200,
        audio_input_tokens=50,
        audio_output_tokens=30,
        image_input_tokens=60,
        image_output_tokens=40,
        web_searches=3,
        model="gpt-4o-2024-08-06",
        tier="flex",
        quality="exact",
    )


def test_from_openai__responses_names__are_read_from_an_object() -> None:
    """A response's usage object has the input and output names."""
    usage = from_openai(
        SimpleNamespace(
            input_tokens=10,
            output_tokens=4,
            input_tokens_details=SimpleNamespace(cached_tokens=8),
            output_tokens_details=SimpleNamespace(reasoning_tokens=3),
        ),
        model="o3",
    )
    assert usage == Usage(10, 4, cached_input_tokens=8, reasoning_tokens=3, model="o3")


def test_from_openai__embeddings__have_input_only() -> None:
    """An embedding has no output and is exact."""
    assert from_openai({"prompt_tokens": 7, "total_tokens": 7}) == Usage(7, 0)


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        ({"completion_tokens": 5}, Usage(0, 5)),
        ({"output_tokens": 5}, Usage(0, 5)),
        ({"input_tokens": 0, "output_tokens": None}, Usage(0, 0)),
        ({"prompt_tokens": 3, "input_tokens": 99}, Usage(3, 0)),
    ],
)
def test_from_openai__one_total_named__is_enough(given: Any, usage: Usage) -> None:
    """One named total is a usage; the chat names win where both stand."""
    assert from_openai(given) == usage


@pytest.mark.parametrize("given", [None, {}, [], "x", 5, {"total_tokens": 9}, object()])
def test_from_openai__names_no_count__is_none(given: Any) -> None:
    """What names no count is no usage, and no zero either."""
    assert from_openai(given) is None


@pytest.mark.parametrize(
    ("given", "tokens", "quality"),
    [
        (7, 7, "exact"),
        (7.0, 7, "exact"),
        (0, 0, "exact"),
        (10**12, 10**12, "exact"),
        (10**12 + 1, 0, "partial"),
        (1e12, 10**12, "exact"),
        (1e13, 0, "partial"),
        (7.5, 0, "partial"),
        (-1, 0, "partial"),
        (-1.0, 0, "partial"),
        (float("nan"), 0, "partial"),
        (float("inf"), 0, "partial"),
        (True, 0, "partial"),
        ("7", 0, "partial"),
        ([7], 0, "partial"),
        ({}, 0, "partial"),
    ],
)
def test_from_openai__odd_counts__read_as_zero_and_are_partial(
    given: Any, tokens: int, quality: str
) -> None:
    """A count that is no count reads as 0 and is marked; a whole float is a count."""
    usage = from_openai({"prompt_tokens": given, "completion_tokens": 2})
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.quality) == (tokens, 2, quality)


def test_from_openai__a_part_above_its_whole__is_cut_and_partial() -> None:
    """No part exceeds its whole, and a written token was not read from the cache."""
    usage = from_openai(
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 9},
            "completion_tokens_details": {"reasoning_tokens": 6},
        }
    )
    assert usage == Usage(
        10,
        5,
        cached_input_tokens=6,
        cache_write_tokens=4,
        reasoning_tokens=5,
        quality="partial",
    )


def test_from_openai__details_without_lifetimes__are_short_writes() -> None:
    """Written tokens without a lifetime are of the short one."""
    usage = from_openai({"input_tokens": 10, "input_tokens_details": {"cache_write_tokens": 4}})
    assert usage == Usage(10, 0, cache_write_tokens=4)


@pytest.mark.parametrize(
    ("tool_usage", "searches", "quality"),
    [
        (None, 0, "exact"),
        ({}, 0, "exact"),
        ({"web_search": None}, 0, "exact"),
        ({"web_search": {"num_requests": 2}}, 2, "exact"),
        ({"web_search": {"num_requests": "two"}}, 0, "partial"),
    ],
)
def test_from_openai__tool_usage__counts_searches(
    tool_usage: Any, searches: int, quality: str
) -> None:
    """Searches are counted where the response names them."""
    usage = from_openai({"input_tokens": 1}, tool_usage=tool_usage)
    assert usage is not None
    assert (usage.web_searches, usage.quality) == (searches, quality)


@pytest.mark.parametrize("model", [None, 5, ["gpt"]])
def test_from_openai__a_model_that_is_no_name__is_none(model: Any) -> None:
    """Only a string is a model."""
    usage = from_openai({"input_tokens": 1}, model=model)
    assert usage == Usage(1, 0, model=None)


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


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        (None, ""),
        ("", ""),
        ("default", ""),
        ("standard", ""),
        ("auto", ""),
        ("standard_only", ""),
        ("flex", "flex"),
        ("priority", "priority"),
        (["flex"], ""),
        (1, ""),
    ],
)
def test_read_tier__any__standard_ones_are_empty(given: Any, tier: str) -> None:
    """Standard tiers, and what is no tier, have no name of their own."""
    assert read_tier(given) == tier


@pytest.mark.parametrize("name", Usage._fields[:11])
def test_rare_counts__of_one_count__is_it_by_name_if_events_have_no_column_for_it(
    name: str,
) -> None:
    """Whatever is priced and is no field of an event must be kept by name, or it is lost."""
    usage = Usage(**{name: 7})  # type: ignore[arg-type] # a count
    kept = name in Event._fields
    assert usage.rare_counts == (None if kept else {name: 7})
    assert (name in RARE_COUNTS) != kept


def test_rare_counts__of_most_calls__are_none() -> None:
    """No dict is made where there is nothing to keep."""
    assert Usage(100, 50, 20, 10, reasoning_tokens=5).rare_counts is None
