"""The size of a request: bytes of text, opaque parts, and whether it writes a cache."""

from __future__ import annotations

from typing import Any

import pytest

from paygent.core.request_size import Size, measure, weight_of


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"messages": [{"role": "user", "content": "héllo"}]}, Size(10, 0)),
        ({"messages": ["abc", "é", {"role": "user", "content": "d"}]}, Size(10, 0)),
        ({"messages": ({"role": "user", "content": "d"},)}, Size(5, 0)),
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


@pytest.mark.parametrize(
    "body",
    [
        {"cache_control": {"type": "ephemeral"}, "messages": []},
        {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "cache_control": {}}]}]},
        {"messages": [{"role": "u", "content": "x", "cache_control": {"type": "ephemeral"}}]},
    ],
)
def test_measure__a_request_that_writes_a_cache__says_so(body: Any) -> None:
    """Wherever the provider may be asked for it."""
    assert measure(body).caches
    assert not measure({"messages": [{"role": "user", "content": "cache_control"}]}).caches


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


def test_weight_of__a_size__counts_a_part_as_the_text_of_its_tokens() -> None:
    """A part weighs as many bytes as its tokens would have as text."""
    assert weight_of(Size(10, 2)) == 10 + 2 * 6_000


class Omit:
    """What SDKs put in the place of a field that is not sent."""

    __module__ = "sdk"
    text = "not of the request"


def test_measure__a_field_that_is_not_sent__is_not_there() -> None:
    """The newest SDKs keep an object for each parameter that was not given."""
    body = {"messages": [{"role": "user", "content": "hi"}], "system": Omit(), "tools": Omit()}
    assert measure({**body, "cache_control": Omit()}) == measure({"messages": body["messages"]})
    assert measure({**body, "cache_control": {"type": "ephemeral"}}).caches is True
