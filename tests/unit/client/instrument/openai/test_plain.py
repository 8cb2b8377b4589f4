"""The plain readers of OpenAI's answers, for any usage: the general ones' figures, or none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types import CompletionUsage, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
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

from paygent.client.instrument.openai.answers import read_chat, read_response
from paygent.client.instrument.openai.plain import read_plain_chat, read_plain_response

ANSWERERS = {"gpt-4o": 0, "gpt-4o-2024-08-06": 3}


@st.composite
def usages(draw: st.DrawFn, prompt: str, completion: str) -> dict[str, Any]:
    """Draw a usage as the API sends it."""
    cached, written, fresh, thought, said = (draw(SMALL) for _ in range(5))
    input_tokens, output_tokens = cached + written + fresh, thought + said
    return {
        prompt: input_tokens,
        completion: output_tokens,
        "total_tokens": input_tokens + output_tokens,
        prompt + "_details": {"cached_tokens": cached, "cache_write_tokens": written},
        completion + "_details": {"reasoning_tokens": thought},
    }


def changes(prompt: str, completion: str) -> dict[Path, st.SearchStrategy[Any]]:
    """Return what may be otherwise in an answer."""
    inputs = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "new_tokens")
    outputs = ("reasoning_tokens", "audio_tokens", "image_tokens", "new_tokens")
    lifetimes = st.builds(lambda count: {"ttl_12h_tokens": count}, PARTS)
    return {
        ("model",): st.sampled_from(["other", "gpt-4o-search-preview", "", None, 7, [], ABSENT]),
        ("service_tier",): st.sampled_from([None, "auto", "flex", "priority", "odd", 7, ABSENT]),
        ("usage",): ODD,
        ("usage", "total_tokens"): COUNTS,
        **{("usage", name): COUNTS for name in (prompt, completion)},
        **{("usage", name + "_details"): ODD for name in (prompt, completion)},
        **{("usage", prompt + "_details", name): PARTS for name in inputs},
        **{("usage", completion + "_details", name): PARTS for name in outputs},
        ("usage", prompt + "_details", "cache_write_tokens_details"): lifetimes,
        ("usage", "cost"): st.sampled_from([0.01, None]),
        ("usage", "cached_tokens"): COUNTS,
        ("usage", "prompt_cache_hit_tokens"): COUNTS,
    }


def totalled(document: dict[str, Any], prompt: str, completion: str) -> dict[str, Any]:
    """Return a document whose total is the sum of its parts, whatever these are."""
    usage = document.get("usage")
    if isinstance(usage, dict):
        parts = [usage.get(prompt, 0), usage.get(completion, 0)]
        if all(isinstance(part, (int, float)) for part in parts):
            return {**document, "usage": {**usage, "total_tokens": sum(parts)}}
    return document


NAMES = ("prompt_tokens", "completion_tokens")
CHATS = altered(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from([*ANSWERERS]),
            "service_tier": st.sampled_from([None, "default"]),
            "choices": st.just([]),
            "usage": usages(*NAMES),
        }
    ),
    changes(*NAMES),
)
ITEMS: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "file_search_call"},
        {"type": "code_interpreter_call"},
        {"type": "image_generation_call"},
        {"type": "odd_call"},
        {},
    ]
)
USUAL_ITEMS = st.sampled_from(
    [{"type": "message", "content": []}, {"type": "reasoning"}, {"type": "function_call"}]
)
RESPONSE_NAMES = ("input_tokens", "output_tokens")
RESPONSES = altered(
    st.fixed_dictionaries(
        {
            "id": st.just("resp_1"),
            "model": st.sampled_from([*ANSWERERS]),
            "service_tier": st.sampled_from([None, "default"]),
            "status": st.just("completed"),
            "output": st.lists(USUAL_ITEMS, max_size=2),
            "usage": usages(*RESPONSE_NAMES),
        }
    ),
    {
        **changes(*RESPONSE_NAMES),
        ("output",): st.one_of(st.lists(ITEMS, min_size=1, max_size=2), ODD),
        ("status",): st.just("queued"),
        ("background",): st.sampled_from([None, False, True]),
        ("tool_usage",): st.sampled_from([None, {}, {"web_search": {"num_requests": 1}}]),
    },
)


def built(kind: Any, document: dict[str, Any]) -> Any:
    """Return what the SDK makes of an answer, which it does not validate."""
    return kind.construct(**document)


@settings(max_examples=500, deadline=None)
@given(CHATS)
@example({"model": "gpt-4o", "usage": {"prompt_tokens": 2.5, "completion_tokens": 0}})
@example({"model": "gpt-4o", "usage": {"prompt_tokens": True}})
def test_read_plain_chat__any_answer__has_the_general_readers_figures_or_none(
    document: dict[str, Any],
) -> None:
    """What is not as usual in any respect is left to the general reader."""
    for given_ in (document, totalled(document, *NAMES)):
        for kind in (ChatCompletion, CreateEmbeddingResponse):
            answer = built(kind, given_)
            found = read_plain_chat(answer, ANSWERERS)
            check_plain(found, read_chat(answer, want_tools=False), ANSWERERS)


@settings(max_examples=500, deadline=None)
@given(RESPONSES)
@example({"model": "gpt-4o", "output": [], "usage": {"input_tokens": 2.5, "output_tokens": 0}})
@example({"model": "gpt-4o", "output": [], "usage": {"input_tokens": True, "output_tokens": 0}})
def test_read_plain_response__any_answer__has_the_general_readers_figures_or_none(
    document: dict[str, Any],
) -> None:
    """The same for responses, with their hosted tools and background jobs."""
    for given_ in (document, totalled(document, *RESPONSE_NAMES)):
        answer = built(Response, given_)
        found = read_plain_response(answer, ANSWERERS)
        check_plain(found, read_response(answer, want_tools=False), ANSWERERS)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_read_plain_chat__a_usual_answer__is_read(
    input_tokens: int, output_tokens: int, data: st.DataObject
) -> None:
    """A reader that leaves everything to the general one would be no reader."""
    cached = data.draw(st.integers(0, input_tokens))
    written = data.draw(st.integers(0, input_tokens - cached))
    reasoning = data.draw(st.integers(0, output_tokens))
    usage = {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }
    answer = built(ChatCompletion, {"model": "gpt-4o-2024-08-06", "choices": [], "usage": usage})
    expected = input_tokens, output_tokens, cached, written, reasoning, 3
    assert read_plain_chat(answer, ANSWERERS) == expected
    response = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }
    output = [{"type": "reasoning"}, {"type": "message", "content": []}]
    document = {"model": "gpt-4o-2024-08-06", "output": output, "usage": response}
    assert read_plain_response(built(Response, document), ANSWERERS) == expected


@pytest.mark.parametrize("answer", [None, {}, {"model": "gpt-4o"}, "text", CompletionUsage, 7])
def test_read_plain__what_is_no_object_of_the_sdk__is_left_to_the_general_reader(
    answer: Any,
) -> None:
    """A raw answer, a dict, a class."""
    assert read_plain_chat(answer, ANSWERERS) is None
    assert read_plain_response(answer, ANSWERERS) is None
