"""Readers of Anthropic's answers, streams and batches."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.streams.streams import ESTIMATE, tokens

from paygent.client.instrument.anthropic.answers import (
    BatchResults,
    MessageStream,
    expand_batch,
    read_message,
)


def message_event(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of Anthropic's messages."""
    return {"type": kind, **fields}


def test_message_stream__whole__takes_the_last_word_on_each_field() -> None:
    """Fields are overwritten, never added, and tools kept where a plan prices them."""
    reader = MessageStream(True, False)
    for event in (
        message_event("message_start", message={"model": "claude-x", "usage": {
            "input_tokens": 10, "output_tokens": 1}}),
        message_event("content_block_start", content_block={"type": "tool_use", "name": "search"}),
        message_event("content_block_start", content_block={"type": "text"}),
        message_event("content_block_delta", delta={"text": "abcd", "partial_json": "{}"}),
        message_event("message_delta", usage={"output_tokens": 7}),
        message_event("message_stop"),
    ):  # fmt: skip
        assert reader.feed(event) is None
    found = reader.usage(ESTIMATE)
    assert found is not None
    assert (tokens(found), found.model, found.tool_calls) == ((10, 7), "claude-x", ("search",))
    assert found.quality == "exact"


def test_message_stream__without_any_usage__is_counted_or_unknown() -> None:
    """A stream that told nothing is estimated from its text, or not known at all."""
    reader = MessageStream(False, False)
    reader.feed(message_event("message_start", message={}))
    reader.feed(message_event("message_delta", usage=None))
    assert reader.usage(ESTIMATE) is None
    reader.feed(message_event("content_block_delta", delta={"thinking": "12345"}))
    found = reader.usage(ESTIMATE)
    assert found is not None
    assert (tokens(found), found.quality) == ((50, 2), "estimated")


def test_read_message__with_tools__names_them() -> None:
    """Only tool blocks with a name count."""
    content = [{"type": "tool_use", "name": "a"}, {"type": "text"}, {"type": "tool_use"}]
    usage = {"input_tokens": 1, "output_tokens": 2}
    found = read_message({"usage": usage, "content": content}, True)
    assert found is not None
    assert found.tool_calls == ("a",)
    assert read_message({}, True) is None


def test_batch_results__large_requests__stand_alone() -> None:
    """Small ones are summed, so that memory does not grow with the batch; large ones may be in
    another price tier.
    """
    reader = BatchResults(False, False, ref="r")
    for input_tokens in (1, 2, 100_000, 32_768, 32_769):
        message = {"model": "m", "usage": {"input_tokens": input_tokens, "output_tokens": 1}}
        reader.feed({"result": {"type": "succeeded", "message": message}})
    for line in ({"result": {"type": "errored"}}, {}, None):
        reader.feed(line)
    reader.end()
    usages = reader.usage(ESTIMATE).usages or ()
    assert [(usage.input_tokens, usage.largest_input_tokens) for usage in usages] == [
        (32_771, 32_768),
        (100_000, -1),
        (32_769, -1),
    ]
    assert {usage.tier for usage in usages} == {"batch"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"requests": [{"params": {"model": "m", "max_tokens": 5, "messages": ["a"]}},
                       {"params": {"model": "n", "max_tokens": 7, "system": "s"}}]},
         ({"model": "m", "messages": [["a"], "s"], "max_tokens": 12}, 2)),
        ({"requests": [{"params": None}, "odd", {"params": {"max_tokens": "x"}}]},
         ({"model": None, "messages": [], "max_tokens": 0}, 1)),
        ({"requests": "odd"}, ({"model": None, "messages": [], "max_tokens": 0}, 1)),
        ({}, ({"model": None, "messages": [], "max_tokens": 0}, 1)),
    ],
)  # fmt: skip
def test_expand_batch__many_requests__are_as_large_as_all_of_them(body: Any, expected: Any) -> None:
    """A batch is gated as a whole: its texts and its bounds on output together."""
    assert expand_batch(body) == expected
