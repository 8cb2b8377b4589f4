"""Estimates: what a request measures, what it is expected to use, and the most it can use."""

from __future__ import annotations

from typing import Any

import pytest

from paygent.core.estimate import Estimate, Observed, Size, bound, expected, measure, observe


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"messages": [{"role": "user", "content": "héllo"}]}, Size(10, 0)),
        ({"prompt": "abc"}, Size(3, 0)),
        ({"prompt": "日本"}, Size(6, 0)),
        ({"prompt": ["ab", "é"]}, Size(4, 0)),
        ({"prompt": "\ud800"}, Size(3, 0)),
        ({"input": ["\ud800"]}, Size(3, 0)),
        ({"input": "one", "instructions": "two", "text": {"format": "x"}}, Size(7, 0)),
        ({"system": "ab", "messages": [], "tools": [{"name": "cd"}]}, Size(4, 0)),
        ({"response_format": {"type": "json_object"}}, Size(11, 0)),
        ({"messages": None, "model": "gpt-4o", "user": "me"}, Size(0, 0)),
        ({"input": [1, 2, 3]}, Size(12, 0)),
        ({"input": [[1, 2], [3]]}, Size(12, 0)),
        ({"input": [True, 2.5, None, "a"]}, Size(1, 0)),
        ({"input": ()}, Size(0, 0)),
        ({"input": ("a", "b")}, Size(2, 0)),
        ({"input": 5}, Size(0, 0)),
        ({"input": b"bytes"}, Size(0, 0)),
        ({"input": [b"bytes", {"a"}, "c"]}, Size(1, 0)),
        ({}, Size(0, 0)),
        (None, Size(0, 0)),
        ("text", Size(0, 0)),
        ([{"messages": "a"}], Size(0, 0)),
    ],
)
def test_measure__a_body__counts_utf8_bytes_of_its_text(body: Any, size: Size) -> None:
    """Text counts in UTF-8 bytes, token ids as four each, and anything odd as nothing."""
    assert measure(body) == size


@pytest.mark.parametrize(
    "kind",
    [
        "image_url",
        "image",
        "input_image",
        "input_audio",
        "audio",
        "input_file",
        "file",
        "document",
        "video_url",
    ],
)
def test_measure__an_opaque_part__counts_as_one_part(kind: str) -> None:
    """An image or a file counts as a part, and none of its bytes as text."""
    part = {"type": kind, kind: {"url": "data:" + "x" * 5000}}
    text = {"type": "text", "text": "abc"}
    body = {"messages": [{"role": "user", "content": [text, part, part]}]}
    assert measure(body) == Size(11, 2)


@pytest.mark.parametrize(
    ("schema", "text_bytes"),
    [
        ({"type": ["string", "null"]}, 10),
        ({"properties": {"type": {"type": "string"}}}, 6),
        ({"type": None}, 0),
    ],
)
def test_measure__a_schema_with_any_type__is_text(schema: Any, text_bytes: int) -> None:
    """A tool's JSON Schema may have a list of types, or a property of that name."""
    assert measure({"tools": [{"parameters": schema}]}) == Size(text_bytes, 0)


@pytest.mark.parametrize(("depth", "text_bytes"), [(25, 1), (26, 0), (5000, 0)])
def test_measure__deep_nesting__is_followed_to_a_bound(depth: int, text_bytes: int) -> None:
    """Nesting is followed 25 deep, and the rest is not counted rather than recursed into."""
    body: Any = "x"
    for _ in range(depth):
        body = [body]
    assert measure({"input": body}) == Size(text_bytes, 0)


class Visited(dict[str, Any]):
    """A dict that counts how often it is walked and gives up far beyond any honest body."""

    visits = 0

    def values(self) -> Any:
        self.visits += 1
        assert self.visits <= 10_000, "a cyclic body is followed for ever"
        return super().values()


@pytest.mark.parametrize("times", [1, 4])
def test_measure__a_body_that_contains_itself__ends(times: int) -> None:
    """A cyclic body is not followed for ever, however often it contains itself."""
    body = Visited(text="ab")
    body["input"] = [body] * times
    assert measure(body).text_bytes >= 2


def test_observe__a_settled_call__is_added() -> None:
    """A part weighs as many bytes as its tokens would have as text."""
    assert observe(Observed(2, 100, 30, 9), Size(10, 1), 7, 3) == Observed(3, 6110, 37, 12)


@pytest.mark.parametrize(
    ("calls", "seen"),
    [(199, Observed(200, 410, 107, 54)), (200, Observed(101, 210, 57, 28))],
)
def test_observe__two_hundred_calls__are_halved(calls: int, seen: Observed) -> None:
    """At 200 calls the sums are halved, so that the mean follows a change."""
    assert observe(Observed(calls, 400, 100, 51), Size(10, 0), 7, 3) == seen


NEW = Observed()
KNOWN = Observed(calls=3, input_bytes=3000, input_tokens=700, output_tokens=100)


@pytest.mark.parametrize(
    ("size", "seen", "max_tokens", "model_max_tokens", "estimate"),
    [
        # Not yet observed: a quarter token a byte and the buffer, both times 1.2, rounded up.
        (Size(400, 0), NEW, None, None, Estimate(120, 4916)),
        (Size(1, 0), NEW, None, None, Estimate(1, 4916)),
        (Size(0, 0), NEW, None, None, Estimate(0, 4916)),
        (Size(0, 1), NEW, None, None, Estimate(1800, 4916)),
        # The request's bound is no estimate and is not multiplied.
        (Size(400, 0), NEW, 100, None, Estimate(120, 100)),
        (Size(400, 0), NEW, 0, None, Estimate(120, 0)),
        # The model's maximum bounds both, after the factor too.
        (Size(400, 0), NEW, None, 1000, Estimate(120, 1000)),
        (Size(400, 0), NEW, None, 4500, Estimate(120, 4500)),
        (Size(400, 0), NEW, 5000, 1000, Estimate(120, 1000)),
        (Size(400, 0), NEW, 100, 1000, Estimate(120, 100)),
        # Two calls are not believed yet.
        (Size(400, 0), KNOWN._replace(calls=2), 100, None, Estimate(120, 100)),
        # Three are: the mean of each, rounded up, never above the request's bound.
        (Size(300, 0), KNOWN, None, None, Estimate(70, 34)),
        (Size(301, 0), KNOWN, 500, None, Estimate(71, 34)),
        (Size(300, 0), KNOWN, 20, None, Estimate(70, 20)),
        (Size(300, 0), KNOWN._replace(input_bytes=0), None, None, Estimate(75, 34)),
    ],
)
def test_expected__a_request__is_the_mean_or_the_buffer(
    size: Size,
    seen: Observed,
    max_tokens: int | None,
    model_max_tokens: int | None,
    estimate: Estimate,
) -> None:
    """Until three calls were observed the buffer and the factor hold, then the mean does."""
    assert (
        expected(
            size,
            seen,
            max_tokens=max_tokens,
            buffer_tokens=4096,
            model_max_tokens=model_max_tokens,
            safety_ppm=1_200_000,
            generates=True,
        )
        == estimate
    )


@pytest.mark.parametrize(("seen", "input_tokens"), [(NEW, 90), (KNOWN, 70)])
def test_expected__a_route_without_output__holds_input_only(
    seen: Observed, input_tokens: int
) -> None:
    """An embedding holds no output, observed or not."""
    assert expected(
        Size(300, 0),
        seen,
        max_tokens=None,
        buffer_tokens=4096,
        model_max_tokens=None,
        safety_ppm=1_200_000,
        generates=False,
    ) == Estimate(input_tokens, 0)


@pytest.mark.parametrize(
    ("max_tokens", "model_max_tokens", "generates", "estimate"),
    [
        (50, 8192, True, Estimate(3400, 50)),
        (0, 8192, True, Estimate(3400, 0)),
        (None, 8192, True, Estimate(3400, 8192)),
        (None, None, True, Estimate(3400, 4096)),
        (50, None, False, Estimate(3400, 0)),
    ],
)
def test_bound__a_request__is_the_most_it_can_use(
    max_tokens: int | None, model_max_tokens: int | None, generates: bool, estimate: Estimate
) -> None:
    """One token a byte and 1,500 a part; the request's bound, the model's, or the buffer."""
    assert (
        bound(
            Size(400, 2),
            max_tokens=max_tokens,
            buffer_tokens=4096,
            model_max_tokens=model_max_tokens,
            generates=generates,
        )
        == estimate
    )
