"""Usage readers, for any JSON: they never raise and always give inclusive totals."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.client.instrument.anthropic.usage import from_anthropic
from paygent.client.instrument.openai.usage import from_openai, from_realtime, with_hosted_tools
from paygent.core.usage import Usage, read_tier

ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**14), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=6), inner, max_size=2)
    ),
    max_leaves=4,
)
COUNT = st.one_of(st.integers(0, 5000), ODD)


def details(*names: str, **nested: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return dicts with some of these counts, sometimes odd ones, or no dict at all."""
    fields = dict.fromkeys(names, COUNT) | nested
    return st.one_of(st.fixed_dictionaries({}, optional=fields), ODD)


IN_DETAILS = details(
    "cached_tokens",
    "cache_write_tokens",
    "audio_tokens",
    "image_tokens",
    cache_write_tokens_details=details("ttl_12h_tokens"),
)
OUT_DETAILS = details("reasoning_tokens", "audio_tokens", "image_tokens")
OPENAI = details(
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    prompt_tokens_details=IN_DETAILS,
    input_tokens_details=IN_DETAILS,
    completion_tokens_details=OUT_DETAILS,
    output_tokens_details=OUT_DETAILS,
)
KINDS = details("text_tokens", "audio_tokens", "image_tokens")
REALTIME = details(
    "input_tokens",
    "output_tokens",
    input_token_details=details(
        "audio_tokens", "image_tokens", "cached_tokens", cached_tokens_details=KINDS
    ),
    output_token_details=KINDS,
)
ANTHROPIC = details(
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "speed",
    "service_tier",
    cache_creation=details("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    output_tokens_details=details("thinking_tokens"),
    server_tool_use=details("web_search_requests"),
)


def assert_sound(usage: Usage) -> None:
    """Assert what holds of every usage: whole counts, inclusive totals, parts within them."""
    assert all(type(count) is int and count >= 0 for count in usage[:11])
    written = usage.cache_write_tokens + usage.cache_write_long_tokens
    assert usage.cached_input_tokens + written <= usage.input_tokens
    assert usage.reasoning_tokens <= usage.output_tokens
    assert usage.model is None or isinstance(usage.model, str)
    assert isinstance(usage.tier, str)
    assert usage.quality in ("exact", "partial")
    assert usage.tool_calls == ()


@settings(max_examples=200, deadline=None)
@given(OPENAI, ODD, ODD, details(web_search=details("num_requests")))
def test_from_openai__any_json__is_sound_and_each_part_within_its_whole(
    usage: Any, model: Any, tier: Any, tool_usage: Any
) -> None:
    """Whatever arrives is read without an exception, and no part exceeds its whole."""
    found = from_openai(usage, model=model, tier=tier)
    if found is not None:
        found = with_hosted_tools(found, tool_usage=tool_usage, output=tier, tools=model)
        assert_sound(found)
        assert found.audio_input_tokens <= found.input_tokens
        assert found.image_input_tokens <= found.input_tokens
        assert found.audio_output_tokens <= found.output_tokens
        assert found.image_output_tokens <= found.output_tokens


@settings(max_examples=200, deadline=None)
@given(ANTHROPIC, ODD)
def test_from_anthropic__any_json__is_sound(usage: Any, model: Any) -> None:
    """Whatever arrives is read without an exception, as inclusive totals."""
    found = from_anthropic(usage, model=model)
    if found is not None:
        assert_sound(found)


@settings(max_examples=200, deadline=None)
@given(*[st.integers(0, 10**9)] * 4)
def test_from_anthropic__any_counts__add_up_to_the_input(
    fresh: int, cached: int, short: int, long: int
) -> None:
    """The inclusive input is what was fresh, read from the cache and written to it."""
    usage = from_anthropic(
        {
            "input_tokens": fresh,
            "output_tokens": 1,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": short + long,
            "cache_creation": {
                "ephemeral_5m_input_tokens": short,
                "ephemeral_1h_input_tokens": long,
            },
        }
    )
    assert usage == Usage(
        fresh + cached + short + long,
        1,
        cached_input_tokens=cached,
        cache_write_tokens=short,
        cache_write_long_tokens=long,
    )


@settings(max_examples=100, deadline=None)
@given(ODD)
def test_read_tier__anything__is_a_string(tier: Any) -> None:
    """A tier is a name or empty, whatever was read."""
    found = read_tier(tier)
    assert found in ("", tier)
    assert isinstance(found, str)


@settings(max_examples=200, deadline=None)
@given(REALTIME, ODD)
def test_from_realtime__any_json__has_no_part_below_zero_and_no_sum_above_the_whole(
    usage: Any, model: Any
) -> None:
    """Whatever the provider says of kinds and caches, money is never taken back."""
    read = from_realtime(usage, model=model)
    if read is None:
        return
    assert_sound(read)
    assert min(read.counts) >= 0
    inputs = (
        read.audio_input_tokens
        + read.image_input_tokens
        + read.cached_input_tokens
        + read.cached_audio_tokens
        + read.cached_image_tokens
    )
    assert inputs <= read.input_tokens
    assert read.audio_output_tokens <= read.output_tokens
