"""Estimates, for any body: measuring never raises, and no estimate passes its bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.estimate import Observed, Size, bound, expected, measure, observe

KEYS = st.sampled_from(
    ["messages", "input", "prompt", "system", "tools", "type", "content", "text", "image_url"]
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.sampled_from(["image", "file", "string"]),
        st.text(st.characters(), max_size=3),
        st.binary(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(KEYS, st.text(max_size=4)), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)
SIZES = st.builds(Size, st.integers(0, 10**7), st.integers(0, 50))
TOKENS = st.integers(0, 10**7)
MAYBE_TOKENS = st.one_of(st.none(), TOKENS)
FACTORS_PPM = st.integers(10**6, 10**8)


@settings(max_examples=200, deadline=None)
@given(st.one_of(JSON, st.dictionaries(KEYS, JSON, max_size=4)))
def test_measure__any_body__never_raises(body: Any) -> None:
    """Whatever an application sends is measured, and the size is of whole things."""
    size = measure(body)
    assert size.text_bytes >= 0
    assert size.parts >= 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_measure__messages__count_each_utf8_byte_once(texts: list[str]) -> None:
    """The size of a conversation is the UTF-8 length of its strings."""
    body = {"messages": [{"role": "user", "content": text} for text in texts]}
    assert measure(body) == Size(sum(4 + len(text.encode()) for text in texts), 0)


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.lists(st.tuples(SIZES, TOKENS, TOKENS), max_size=6),
    MAYBE_TOKENS,
    TOKENS,
    MAYBE_TOKENS,
    FACTORS_PPM,
    st.booleans(),
)
def test_expected__any_request__is_never_above_what_it_asks_for(
    size: Size,
    calls: list[tuple[Size, int, int]],
    max_tokens: int | None,
    buffer_tokens: int,
    model_max_tokens: int | None,
    safety_ppm: int,
    generates: bool,
) -> None:
    """An estimate is never negative, never above max_tokens, and 0 where nothing is generated."""
    seen = Observed()
    for call in calls:
        seen = observe(seen, *call)
    estimate = expected(
        size,
        seen,
        max_tokens=max_tokens,
        buffer_tokens=buffer_tokens,
        model_max_tokens=model_max_tokens,
        safety_ppm=safety_ppm,
        generates=generates,
    )
    assert min(estimate) >= 0
    if max_tokens is not None:
        assert estimate.output_tokens <= max_tokens
    if model_max_tokens is not None and len(calls) < 3:
        assert estimate.output_tokens <= model_max_tokens
    if not generates:
        assert estimate.output_tokens == 0


@settings(max_examples=200, deadline=None)
@given(SIZES, TOKENS, MAYBE_TOKENS, st.integers(10**6, 4 * 10**6), st.booleans())
def test_bound__any_request_that_says_its_most__is_never_below_expected(
    size: Size, max_tokens: int, model_max_tokens: int | None, safety_ppm: int, generates: bool
) -> None:
    """Before anything was observed, and up to a factor of four, nothing above the bound is held."""
    estimate = expected(
        size,
        Observed(),
        max_tokens=max_tokens,
        buffer_tokens=4096,
        model_max_tokens=model_max_tokens,
        safety_ppm=safety_ppm,
        generates=generates,
    )
    most = bound(
        size,
        max_tokens=max_tokens,
        buffer_tokens=4096,
        model_max_tokens=model_max_tokens,
        generates=generates,
    )
    assert estimate.output_tokens <= most.output_tokens
    # Images count 1,500 tokens in both, so the factor of the estimate shows in them alone.
    if size.parts == 0:
        assert estimate.input_tokens <= most.input_tokens


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 700))
def test_observe__calls_that_are_all_alike__have_their_own_figures_as_mean(
    text_bytes: int, input_tokens: int, output_tokens: int, calls: int
) -> None:
    """However many like calls were observed, halved or not, the next is expected like them."""
    seen = Observed()
    size = Size(text_bytes, 0)
    for _ in range(calls):
        seen = observe(seen, size, input_tokens, output_tokens)
    assert seen.calls <= 200
    if calls >= 3:
        estimate = expected(
            size,
            seen,
            max_tokens=None,
            buffer_tokens=4096,
            model_max_tokens=None,
            safety_ppm=1_200_000,
            generates=True,
        )
        assert estimate == (input_tokens, output_tokens)
