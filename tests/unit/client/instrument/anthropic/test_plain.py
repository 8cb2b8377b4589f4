"""The plain reader of Anthropic's messages, for any usage: the general one's figures, or none."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.client.instrument.altered import (
    ABSENT,
    COUNTS,
    ODD,
    PARTS,
    SMALL,
    Path,
    altered,
    check_plain,
)

from paygent.client.instrument.anthropic.answers import read_message
from paygent.client.instrument.anthropic.plain import read_plain_message

ANSWERERS = {"claude-sonnet-5": 0, "claude-sonnet-5-20260101": 2}

COMPACTION = {"type": "compaction", "input_tokens": 50, "output_tokens": 6}
ADVICE = {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 5}
MAIN = {"type": "message", "input_tokens": 3, "output_tokens": 4}


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a message as the API sends it."""
    fresh, cached, written, thought, said = (draw(SMALL) for _ in range(5))
    usage = {
        "input_tokens": fresh,
        "output_tokens": thought + said,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens_details": {"thinking_tokens": thought},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "global",
    }
    return {"model": draw(st.sampled_from([*ANSWERERS])), "content": [], "usage": usage}


CHANGES: dict[Path, st.SearchStrategy[Any]] = {
    ("model",): st.sampled_from(["other", "", None, 7, [], ABSENT]),
    ("usage",): ODD,
    **{("usage", name): COUNTS for name in ("input_tokens", "output_tokens")},
    ("usage", "cache_read_input_tokens"): PARTS,
    ("usage", "cache_creation_input_tokens"): PARTS,
    ("usage", "cache_creation"): ODD,
    ("usage", "cache_creation", "ephemeral_5m_input_tokens"): PARTS,
    ("usage", "cache_creation", "ephemeral_1h_input_tokens"): PARTS,
    ("usage", "output_tokens_details"): ODD,
    ("usage", "output_tokens_details", "thinking_tokens"): PARTS,
    ("usage", "server_tool_use"): st.builds(lambda count: {"web_search_requests": count}, COUNTS),
    ("usage", "service_tier"): st.sampled_from([None, "priority", "batch", "odd", 7, ABSENT]),
    ("usage", "speed"): st.sampled_from([None, "standard", "fast", 7]),
    ("usage", "inference_geo"): st.sampled_from([None, "us", "not_available", 7, ABSENT]),
    ("usage", "iterations"): st.one_of(
        st.lists(st.sampled_from([MAIN, COMPACTION, ADVICE]), max_size=2), ODD
    ),
    ("usage", "new_field"): st.just(1),
}


@settings(max_examples=1_000, deadline=None)
@given(altered(messages(), CHANGES))
@example(
    {
        "model": "claude-sonnet-5",
        "usage": {"input_tokens": 3, "output_tokens": 4, "iterations": [COMPACTION]},
    }
)
@example(
    {
        "model": "claude-sonnet-5",
        "usage": {
            "input_tokens": 3,
            "output_tokens": 4,
            "cache_creation_input_tokens": 2,
            "cache_creation": {"ephemeral_5m_input_tokens": -1, "ephemeral_1h_input_tokens": 0},
        },
    }
)
@example({"model": "claude-sonnet-5", "usage": {"input_tokens": 2.5, "output_tokens": 4}})
@example({"model": "claude-sonnet-5", "usage": {"input_tokens": True, "output_tokens": 4}})
def test_read_plain_message__any_message__has_the_general_readers_figures_or_none(
    document: dict[str, Any],
) -> None:
    """What is not as usual in any respect is left to the general reader, also in beta messages,
    whose usage has more fields.
    """
    for kind in (Message, BetaMessage):
        built: Any = kind.construct
        answer = built(**document)
        found = read_plain_message(answer, ANSWERERS)
        check_plain(found, read_message(answer, want_tools=False), ANSWERERS)


@settings(max_examples=100, deadline=None)
@given(*[st.integers(0, 10**6)] * 4, st.data())
def test_read_plain_message__a_usual_message__is_read(
    fresh: int, cached: int, written: int, output_tokens: int, data: st.DataObject
) -> None:
    """With all fields that the API sends today."""
    thought = data.draw(st.integers(0, output_tokens))
    usage = {
        "input_tokens": fresh,
        "output_tokens": output_tokens,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens_details": {"thinking_tokens": thought},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": "global",
    }
    for kind in (Message, BetaMessage):
        built: Any = kind.construct
        answer = built(model="claude-sonnet-5-20260101", content=[], usage=usage)
        expected = fresh + cached + written, output_tokens, cached, written, thought, 2
        assert read_plain_message(answer, ANSWERERS) == expected


@pytest.mark.parametrize("answer", [None, {}, {"model": "claude-sonnet-5"}, "text", Message, 7])
def test_read_plain_message__what_is_no_object_of_the_sdk__is_left_to_the_general_reader(
    answer: Any,
) -> None:
    """A raw answer, a dict, a class."""
    assert read_plain_message(answer, ANSWERERS) is None
