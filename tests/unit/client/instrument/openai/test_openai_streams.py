"""Readers of OpenAI's streams."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.instrument.streams.streams import ESTIMATE, USAGE, chunk, tokens

from paygent.client.instrument.openai.answers import (
    ChatStream,
    ResponseStream,
    read_response,
)
from paygent.core.usage import Usage


def test_chat_stream__tools_and_text__are_counted_where_usage_is_missing() -> None:
    """Arguments of tool calls are output too; names are kept only where a plan prices tools."""
    tool = {"function": {"name": "search", "arguments": '{"a":1}'}}
    chunks = [
        {"choices": [{"delta": {"tool_calls": [tool, {"function": None}]}}], "model": "gpt-4o"},
        {"choices": [{"delta": {"content": "12345"}}]},
        {"choices": [{"text": "legacy"}]},
        {"choices": None},
    ]
    wanted, unwanted = ChatStream(True, False), ChatStream(False, False)
    for each in chunks:
        assert not wanted.feed(each)
        unwanted.feed(each)
    found = wanted.usage(ESTIMATE)
    assert found == Usage(50, 5, quality="estimated", model="gpt-4o", tool_calls=("search",))
    assert unwanted.usage(ESTIMATE) == found._replace(tool_calls=())


def test_chat_stream__usage_beside_text__is_taken_and_the_chunk_shown() -> None:
    """Some hosts tell the usage in a chunk that has text."""
    reader = ChatStream(False, True)
    assert not reader.feed({**chunk(), "usage": USAGE})
    assert tokens(reader.usage(ESTIMATE)) == (3, 4)
    assert ChatStream(False, False).usage(ESTIMATE) is None


def response_event(kind: str, **response: Any) -> dict[str, Any]:
    """An event of the Responses API."""
    return {"type": kind, "response": response}


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_response_stream__however_it_ends__has_the_usage_of_its_last_event(kind: str) -> None:
    """An answer that was cut or failed was paid all the same."""
    reader = ResponseStream(True, False)
    output = [{"type": "function_call", "name": "search"}, {"type": "message"}]
    usage = {"input_tokens": 3, "output_tokens": 4}
    reader.feed(response_event(kind, usage=usage, model="gpt-4o", output=output))
    found = reader.usage(ESTIMATE)
    assert isinstance(found, Usage)
    assert (tokens(found), found.model, found.tool_calls) == ((3, 4), "gpt-4o", ("search",))


def test_response_stream__left_early__is_counted_from_its_text() -> None:
    """The model is known from the first event."""
    reader = ResponseStream(False, False)
    assert reader.usage(ESTIMATE) is None
    for event in (
        response_event("response.created", model="gpt-4o-mini"),
        {"type": "response.output_text.delta", "delta": "12345"},
        {"type": None},
        {"type": "response.in_progress"},
    ):
        assert reader.feed(event) is None
    expected = Usage(50, 2, quality="estimated", model="gpt-4o-mini")
    assert reader.usage(ESTIMATE) == expected


def test_read_response__without_usage_or_tools__is_none_or_plain() -> None:
    """Tools are looked for only where a plan prices them."""
    assert read_response({"model": "m"}, True) is None
    plain = read_response({"usage": {"input_tokens": 1, "output_tokens": 2}}, False)
    assert tokens(plain) == (1, 2)
