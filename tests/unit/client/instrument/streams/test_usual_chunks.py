"""The usual chunk, which readers look for first, is read like every other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anthropic._models
import openai._models
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from tests.unit.client.instrument.streams.streams import ESTIMATE

from paygent.client.instrument.anthropic.answers import MessageStream
from paygent.client.instrument.openai.answers import ChatStream, ResponseStream

Chunks = st.SearchStrategy[Any]


def objects(value: Any) -> Any:
    """Return dicts as objects of no SDK."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: objects(item) for name, item in value.items()})
    return [objects(item) for item in value] if isinstance(value, list) else value


def outer_object(value: Any) -> Any:
    """Return a chunk as an object with dicts inside, and tuples for lists."""
    if not isinstance(value, dict):
        return value
    items = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return SimpleNamespace(**items)


def chat_chunk(value: Any) -> Any:
    """Return a chunk as OpenAI's SDK builds it."""
    return openai._models.construct_type(value=value, type_=ChatCompletionChunk)


def response_event(value: Any) -> Any:
    """Return an event as OpenAI's SDK builds it."""
    try:
        from openai.types.responses import ResponseStreamEvent
    except ImportError:  # the oldest SDK that is supported has no Responses API
        return objects(value)
    return openai._models.construct_type(value=value, type_=ResponseStreamEvent)


def message_event(value: Any) -> Any:
    """Return an event as Anthropic's SDK builds it."""
    return anthropic._models.construct_type(value=value, type_=RawMessageStreamEvent)


def some(**fields: Chunks) -> Chunks:
    """Some of these fields, or rarely something else in their place."""
    return mostly(st.fixed_dictionaries({}, optional=fields), None, 5, "odd", [])


def mostly(usual: Chunks, *odd: Any) -> Chunks:
    """A usual value, or rarely an odd one."""
    return st.one_of(usual, usual, usual, usual, st.sampled_from(odd))


TEXT = mostly(st.text(min_size=1, max_size=9), "", None, 5, "\ud800", ["odd"])
COUNT = mostly(st.integers(0, 99), None, "odd")
MODEL = st.sampled_from(["gpt-4o", "gpt-4o-search-preview", None, 5])
FUNCTION = st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})
TOOL = st.fixed_dictionaries({"function": FUNCTION}) | some(function=some(arguments=TEXT))
TOOLS = st.lists(TOOL, min_size=1, max_size=2) | st.none()

OTHER_PARTS = {
    "role": TEXT,
    "refusal": TEXT,
    "reasoning": TEXT,
    "reasoning_content": TEXT,
    "function_call": some(arguments=TEXT),
    "tool_calls": TOOLS,
}
PLAIN_PARTS = {"content": TEXT, "function_call": st.none(), "tool_calls": st.none()}
DELTA_WITH_ANOTHER_PART = st.sampled_from(sorted(OTHER_PARTS)).flatmap(
    lambda name: st.fixed_dictionaries({**PLAIN_PARTS, name: OTHER_PARTS[name]})
)
DELTA = mostly(st.fixed_dictionaries({}, optional={"content": TEXT, **OTHER_PARTS}), None, 5, "odd")
CHOICE = some(delta=DELTA, text=TEXT)
CHAT_USAGE = some(prompt_tokens=COUNT, completion_tokens=COUNT, cost=COUNT) | st.none()


def chat_chunks(delta: Chunks) -> Chunks:
    """Chunks with a choice, or two, and perhaps a usage beside it."""
    choice = st.fixed_dictionaries({"delta": delta})
    one, two = st.lists(choice, min_size=1, max_size=1), st.lists(choice, min_size=2, max_size=2)
    no_usage = st.none()
    return st.one_of(
        st.fixed_dictionaries({"choices": one, "model": MODEL, "usage": no_usage}),
        st.fixed_dictionaries({"choices": one, "model": MODEL, "usage": CHAT_USAGE}),
        st.fixed_dictionaries({"choices": two, "model": MODEL, "usage": no_usage}),
    )


CHAT = st.one_of(
    chat_chunks(st.fixed_dictionaries(PLAIN_PARTS)),
    chat_chunks(DELTA_WITH_ANOTHER_PART),
    chat_chunks(DELTA),
    some(
        choices=mostly(st.lists(CHOICE, max_size=2), None, 5, "odd"),
        usage=CHAT_USAGE,
        model=MODEL,
        service_tier=TEXT,
    ),
)

EVENTS_OF_RESPONSES = (
    "response.output_text.delta",
    "response.function_call_arguments.delta",
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.completed",
    "odd",
    None,
)
RESPONSE = some(
    id=st.just("resp_1"),
    model=MODEL,
    background=st.sampled_from([True, False, None]),
    status=st.sampled_from(["queued", "completed", "failed"]),
    usage=some(input_tokens=COUNT, output_tokens=COUNT),
)
RESPONSES = some(type=st.sampled_from(EVENTS_OF_RESPONSES), delta=TEXT, response=RESPONSE)

MESSAGE_USAGE = some(input_tokens=COUNT, output_tokens=COUNT, cache_read_input_tokens=COUNT)
TEXT_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}
OTHER_TEXTS = dict.fromkeys((*TEXT_OF_DELTA.values(), "other"), TEXT)
MESSAGE_DELTA = st.sampled_from(sorted(TEXT_OF_DELTA)).flatmap(
    lambda kind: (
        st.fixed_dictionaries({"type": st.just(kind), TEXT_OF_DELTA[kind]: TEXT})
        | st.fixed_dictionaries(
            {"type": st.just(kind), TEXT_OF_DELTA[kind]: TEXT},
            optional={name: TEXT for name in OTHER_TEXTS if name != TEXT_OF_DELTA[kind]},
        )
    )
) | some(type=st.sampled_from(["text_delta", "odd", None, 5, ["odd"]]), **OTHER_TEXTS)
MESSAGES = st.fixed_dictionaries(
    {"type": st.just("content_block_delta"), "delta": MESSAGE_DELTA}
) | some(
    type=st.sampled_from(
        ["message_start", "content_block_start", "content_block_delta", "message_delta", "odd"]
    ),
    message=some(model=MODEL, usage=MESSAGE_USAGE),
    content_block=some(type=st.sampled_from(["tool_use", "text"]), name=TEXT),
    delta=MESSAGE_DELTA,
    usage=MESSAGE_USAGE,
)

READERS: dict[str, tuple[type[Any], Chunks, Callable[[Any], Any]]] = {
    "chat": (ChatStream, CHAT, chat_chunk),
    "responses": (ResponseStream, RESPONSES, response_event),
    "messages": (MessageStream, MESSAGES, message_event),
}
FORMS: dict[str, Callable[[Any], Any]] = {
    "dicts": lambda value: value,
    "objects": objects,
    "outer object": outer_object,
}


def outcome(action: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns, or the kind of error that it raises."""
    try:
        return action(*args)
    except Exception as error:  # noqa: BLE001 - whatever an odd chunk leads to
        return type(error)


def state(reader: Any) -> list[Any]:
    """Return all that a reader keeps."""
    return [getattr(reader, name) for name in reader.__slots__]


@pytest.mark.parametrize("form", ["sdk", *FORMS])
@pytest.mark.parametrize("name", READERS)
def test_feed__any_chunk__is_read_as_in_general(name: str, form: str) -> None:
    """Looking for the usual chunk first makes no difference, whatever the chunks are."""
    make, chunks, sdk_object = READERS[name]
    of_form = FORMS.get(form, sdk_object)

    @settings(max_examples=200, deadline=None)  # the SDK builds its types at their first use
    @given(st.lists(chunks, min_size=1, max_size=4), st.booleans(), st.booleans())
    def check(values: list[Any], want_tools: bool, drops: bool) -> None:
        reader, general = make(want_tools, drops), make(want_tools, drops)
        for value in values:
            chunk = of_form(value)
            assert outcome(general._feed_any, chunk) == outcome(reader.feed, chunk)
            assert state(general) == state(reader)
            assert outcome(general.usage, ESTIMATE) == outcome(reader.usage, ESTIMATE)

    check()


USUAL: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "word "}}]}),
    ("chat", {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "wörd"}}]}),
    ("responses", {"type": "response.output_text.delta", "delta": "word "}),
    ("messages", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "word "}}),
    (
        "messages",
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "word "}},
    ),
    (
        "messages",
        {
            "type": "content_block_delta",
            "delta": {"type": "input_json_delta", "partial_json": "word "},
        },
    ),
]


@pytest.mark.parametrize(("name", "value"), USUAL)
def test_feed__the_usual_chunk_of_an_sdk__takes_the_short_way(
    name: str, value: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text counts without a look at all that a chunk may have, which takes twice as long."""
    make, _, sdk_object = READERS[name]
    asked: list[Any] = []
    monkeypatch.setattr(make, "_feed_any", lambda reader, chunk: asked.append(chunk))
    reader = make(False, False)
    assert reader.feed(sdk_object(value)) is None
    assert (asked, reader._text_bytes) == ([], 5)
