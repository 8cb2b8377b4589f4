"""OpenAI's usage objects in the normal form: inclusive totals, and never an exception."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paygent.client.instrument.openai.usage import (
    from_openai,
    from_realtime,
    from_transcription,
    read_billed,
    with_hosted_tools,
)
from paygent.core.usage import Usage


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
