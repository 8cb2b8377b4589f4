"""Usage readers: inclusive totals from every provider's names, and never an exception."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paygent.core.event import Event
from paygent.core.usage import (
    RARE_COUNTS,
    JobStatus,
    Usage,
    from_anthropic,
    from_openai,
    from_realtime,
    from_transcription,
    get,
    read_billed,
    read_tier,
    with_hosted_tools,
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
def test_with_hosted_tools__tool_usage__counts_searches(
    tool_usage: Any, searches: int, quality: str
) -> None:
    """Searches are counted where the response names them."""
    usage = with_hosted_tools(Usage(1, 0), tool_usage=tool_usage, output=None, tools=None)
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


@pytest.mark.parametrize("name", Usage._fields[:17])
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


# -- what providers count besides


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # xAI: the completion leaves out what was spent on thinking, the total has it.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 115,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            Usage(10, 105, reasoning_tokens=100),
        ),
        # Gemini, through OpenAI's SDK: no details at all.
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40},
            Usage(10, 30, reasoning_tokens=25),
        ),
        # OpenAI: the completion has it already.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(10, 5, reasoning_tokens=3),
        ),
        # A total that says less, or nothing readable, changes nothing.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": "x"}, Usage(10, 5)),
        # Moonshot and DeepSeek tell cached tokens beside the totals.
        ({"prompt_tokens": 10, "cached_tokens": 4}, Usage(10, 0, cached_input_tokens=4)),
        ({"prompt_tokens": 10, "prompt_cache_hit_tokens": 4}, Usage(10, 0, cached_input_tokens=4)),
        (
            {
                "prompt_tokens": 10,
                "prompt_cache_hit_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 5},
            },
            Usage(10, 0, cached_input_tokens=5),
        ),
    ],
)
def test_from_openai__hosts_that_count_in_their_own_way__are_read_as_they_mean_it(
    usage: Any, expected: Usage
) -> None:
    """Thinking that only the total has is output; cached tokens stand in several places."""
    assert from_openai(usage) == expected


def image_gen(**counts: Any) -> dict[str, Any]:
    """What drawing for a response took."""
    return {
        "image_gen": {
            "input_tokens": 100,
            "output_tokens": 200,
            "total_tokens": 300,
            "input_tokens_details": {"text_tokens": 60, "image_tokens": 40},
            **counts,
        },
        "web_search": {"num_requests": 0},
    }


DRAWN = Usage(100, 200, image_input_tokens=40, image_output_tokens=200, model="gpt-image-1")


@pytest.mark.parametrize(
    ("tool_usage", "tools", "others"),
    [
        (image_gen(), None, (DRAWN,)),
        (
            image_gen(),
            [{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-1-mini"}],
            (DRAWN._replace(model="gpt-image-1-mini"),),
        ),
        (
            image_gen(
                cached_tokens=30,
                cached_tokens_details={"cached_text_tokens": 20, "cached_image_tokens": 10},
                output_tokens_details={"text_tokens": 50, "image_tokens": 150},
            ),
            [{"type": "image_generation"}],
            (
                DRAWN._replace(
                    cached_input_tokens=20,
                    cached_image_tokens=10,
                    image_input_tokens=30,
                    image_output_tokens=150,
                ),
            ),
        ),
        ({"image_gen": {"input_tokens": 0, "output_tokens": 0}, "web_search": {}}, None, ()),
        ({"web_search": {"num_requests": 0}}, "odd", ()),
    ],
)
def test_with_hosted_tools__images_drawn_for_a_response__are_another_models_work(
    tool_usage: Any, tools: Any, others: tuple[Usage, ...]
) -> None:
    """They are priced by the model that draws, which the tool names or leaves to its default."""
    usage = with_hosted_tools(Usage(7, 9), tool_usage=tool_usage, output=None, tools=tools)
    assert usage == Usage(7, 9, others=others)


def item(kind: str, action: str | None = None) -> dict[str, Any]:
    """An output item of a response."""
    return {"type": kind, **({"action": {"type": action}} if action else {})}


ONE_SEARCH = {"web_searches": 1}


@pytest.mark.parametrize(
    ("output", "tool_usage", "expected"),
    [
        ([item("web_search_call", "search")] * 2, None, {"web_searches": 2}),
        (
            [item("web_search_call", "open_page"), item("web_search_call")],
            None,
            {"web_searches": 1},
        ),
        ([item("web_search_call")], {"web_search": {"num_requests": 0}}, {}),
        ([item("file_search_call"), item("message")], None, {"file_searches": 1}),
        ([item("file_search_call")], {"web_search": {}}, {"file_searches": 1}),
        ([item("code_interpreter_call")], None, {"unlisted_units": 1}),
        ([item("code_interpreter_call")], {}, {"unlisted_units": 1}),
        ([item("image_generation_call")], None, {"unlisted_units": 1}),
        ([item("image_generation_call")], {}, {}),
        ("odd", None, {}),
        ([None, 5, "x"], None, {}),
    ],
)
def test_with_hosted_tools__output_items__tell_what_tool_usage_does_not(
    output: Any, tool_usage: Any, expected: dict[str, int]
) -> None:
    """Billed searches are OpenAI's own count where it gives one; what has no price is counted."""
    found = with_hosted_tools(Usage(1, 1), tool_usage=tool_usage, output=output, tools=None)
    assert found == Usage(1, 1)._replace(**expected)  # type: ignore[arg-type] # counts


SPOKEN = {
    "input_tokens": 1000,
    "output_tokens": 300,
    "total_tokens": 1300,
    "input_token_details": {
        "text_tokens": 300,
        "audio_tokens": 600,
        "image_tokens": 100,
        "cached_tokens": 350,
        "cached_tokens_details": {"text_tokens": 100, "audio_tokens": 200, "image_tokens": 50},
    },
    "output_token_details": {"text_tokens": 100, "audio_tokens": 200},
}


def test_from_realtime__cached_tokens__are_told_apart_by_kind() -> None:
    """Audio and images out of the cache are not among the fresh ones."""
    expected = Usage(
        1000,
        300,
        100,
        audio_input_tokens=400,
        audio_output_tokens=200,
        image_input_tokens=50,
        cached_image_tokens=50,
        cached_audio_tokens=200,
        model="gpt-realtime",
    )
    assert from_realtime(SPOKEN, model="gpt-realtime") == expected
    assert expected.all_cached_tokens == 350


def test_from_realtime__cached_tokens_of_no_kind__are_partial() -> None:
    """Kinds have prices of their own; a sum alone cannot be exact."""
    told = {"input_tokens": 100, "output_tokens": 5, "input_token_details": {"cached_tokens": 60}}
    assert from_realtime(told) == Usage(100, 5, 60, quality="partial")


def test_from_realtime__without_details__is_all_plain() -> None:
    """Text that nothing more is said of."""
    assert from_realtime({"input_tokens": 100, "output_tokens": 5}) == Usage(100, 5)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (
            {"cached_tokens": 90, "cached_tokens_details": {"audio_tokens": 90}},
            Usage(100, 5, 90, quality="partial"),
        ),
        (
            {
                "audio_tokens": 40,
                "image_tokens": 10,
                "cached_tokens": 90,
                "cached_tokens_details": {"audio_tokens": 60, "image_tokens": 20},
            },
            Usage(100, 5, 40, cached_audio_tokens=40, cached_image_tokens=10, quality="partial"),
        ),
        (
            {"audio_tokens": 80, "cached_tokens": 50, "cached_tokens_details": {"text_tokens": 50}},
            Usage(100, 5, 20, audio_input_tokens=80, quality="partial"),
        ),
        (
            {"audio_tokens": 80, "image_tokens": 80},
            Usage(100, 5, audio_input_tokens=80, image_input_tokens=20, quality="partial"),
        ),
    ],
)
def test_from_realtime__parts_that_do_not_fit__are_bound_by_their_kind(
    inputs: Any, expected: Usage
) -> None:
    """No more comes out of the cache than there is of its kind, and what contradicts itself is not
    exact.
    """
    told = {"input_tokens": 100, "output_tokens": 5, "input_token_details": inputs}
    assert from_realtime(told) == expected


@pytest.mark.parametrize("told", [None, {}, {"total_tokens": 5}, "odd"])
def test_from_realtime__without_counts__is_none(told: Any) -> None:
    """A response that failed tells none."""
    assert from_realtime(told) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"type": "duration", "seconds": 3.0}, Usage(audio_ms=3_000)),
        ({"type": "duration", "seconds": 61}, Usage(audio_ms=61_000)),
        ({"seconds": 0.0004}, Usage(audio_ms=0)),
        ({"type": "duration", "seconds": "12.5"}, Usage(audio_ms=12_500)),
        ({"type": "duration", "seconds": "long"}, None),
        ({"type": "duration", "seconds": -1}, None),
        ({"type": "duration", "seconds": float("nan")}, None),
        ({"type": "duration", "seconds": 1e12}, None),
        ({"type": "duration", "seconds": True}, None),
        ({"type": "duration"}, None),
        (
            {
                "type": "tokens",
                "input_tokens": 9,
                "output_tokens": 4,
                "input_token_details": {"audio_tokens": 7, "text_tokens": 2},
            },
            Usage(9, 4, audio_input_tokens=7),
        ),
        (None, None),
    ],
)
def test_from_transcription__a_union__is_told_apart(usage: Any, expected: Usage | None) -> None:
    """Some models bill tokens, some the duration; a duration that is none is no usage."""
    assert from_transcription(usage) == expected


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({"cost": 0.0123}, 12_300_000),
        ({"cost": 0}, 0),
        ({"cost": "0.5"}, 500_000_000),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}},
         21_000_000),
        ({"cost": 0.02, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.02}},
         20_000_000),
        ({"cost": 0.001, "is_byok": True, "cost_details": None}, 1_000_000),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": None}},
         1_000_000),
        ({"cost": {"total_cost": 1}}, None),
        ({"cost": -1}, None),
        ({"cost": float("nan")}, None),
        ({}, None),
        (None, None),
    ],
)  # fmt: skip
def test_read_billed__what_a_router_has_billed__is_exact(usage: Any, nano: int | None) -> None:
    """With a key of one's own the provider's bill comes beside the router's fee, and only then."""
    assert read_billed(usage) == nano


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


@pytest.mark.parametrize(
    ("usages", "expected"),
    [(None, None), ((), Usage(model="m")), ((Usage(1, 2), Usage(3, 4)), Usage(1, 2))],
)
def test_deferred__use_now__is_known_once_the_work_is_over(
    usages: tuple[Usage, ...] | None, expected: Usage | None
) -> None:
    """What goes on has none yet; what has failed has used nothing."""
    assert JobStatus("response:r", usages, "m").use_now == expected
