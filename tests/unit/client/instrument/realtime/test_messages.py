"""Messages of a socket: told apart without being parsed where they are large."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paygent.client.instrument.realtime.messages import (
    CREATE,
    Sent,
    asks_for_response,
    is_of_session,
    read_received,
    read_sent,
)
from paygent.core.estimate import Size

AUDIO = "A" * 200_000
WORDS = "Say hello. " * 20_000


def sent(message: Any) -> Sent:
    """Read a message that means something."""
    found = read_sent(message)
    assert found is not None
    return found


@pytest.mark.parametrize("audio", ["AAAA", AUDIO])
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "input_audio_buffer.append",
        "session.input_audio.append",
        "session.input_audio_buffer.append",
    ],
)
def test_read_sent__audio_of_any_length__is_known_by_its_type(
    kind: str, is_last: bool, audio: str
) -> None:
    """Wherever the type stands, as text or as bytes."""
    event = {"audio": audio, "type": kind} if is_last else {"type": kind, "audio": audio}
    text = json.dumps(event)
    for message in (text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        assert (sent(message).kind, sent(message).size) == (kind, None)


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"type": "session.update"}),
        json.dumps({"type": "conversation.item.create", "item": {"text": '"response.create"'}}),
        json.dumps({"type": "x", "of": {"type": "response.create"}}),
        json.dumps({"type": "conversation.item.create", "item": {"audio": AUDIO}}),
        json.dumps({"said": [WORDS, '"type": "response.create"', WORDS]}),
        json.dumps({"said": [WORDS, *["response.create"] * 99, WORDS]}),
        json.dumps({"event_id": "e", "type": "x", "of": [WORDS, {"type": CREATE}, WORDS]}),
        iter(["{}"]),
        {"type": "response.create"},
        5,
    ],
)
def test_read_sent__anything_else__means_nothing(message: Any) -> None:
    """Other events, what they quote, and what comes in pieces."""
    assert read_sent(message) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gpt-4o", "max_output_tokens": 50, "stream_id": "a", "event_id": "e"},
        {"model": "gpt-4o", "max_output_tokens": "inf", "stream_id": None},
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_read_sent__a_large_response__has_its_short_fields(
    fields: dict[str, Any], is_first: bool
) -> None:
    """Before or after what is large; those of parts are not taken for them."""
    body = {"input": [{"role": "user", "content": WORDS + '"model": "x"'}]}
    tools = {"tools": [{"type": "image_generation", "model": "gpt-image-1"}]}
    event = {**fields, **body} if is_first else {**body, **fields, **tools}
    found = sent(json.dumps({"type": CREATE, **event}))
    for name in ("model", "stream_id", "event_id", "max_output_tokens"):
        told = fields.get(name)
        assert found.event.get(name) == (told if told != "inf" else None)


@pytest.mark.parametrize("as_sent", [str, str.encode, lambda text: memoryview(text.encode())])
def test_read_sent__a_large_response__is_known_wherever_its_type_stands(as_sent: Any) -> None:
    """Between what is long: an application may write its fields in any order."""
    quoted = 'It says "type": "response.create". ' * 99
    event = {"input": WORDS + quoted, "model": "gpt-4o", "type": CREATE, "tools": [WORDS]}
    found = sent(as_sent(json.dumps(event)))
    assert (found.kind, found.event["model"]) == (CREATE, "gpt-4o")
    assert found.size is not None


def test_read_sent__a_large_response__is_as_large_as_its_text() -> None:
    """Files in it are counted and not weighed."""
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + AUDIO}
    content = [{"type": "input_text", "text": WORDS}, picture, {"text": WORDS}, picture]
    event = {"type": CREATE, "model": "gpt-4o", "input": [{"role": "user", "content": content}]}
    size = sent(json.dumps(event)).size
    assert size is not None
    assert size.parts == 2
    assert abs(size.text_bytes - 2 * len(WORDS)) < 5 * 8_192  # what stands beside a file
    far = json.dumps({"type": CREATE, "model": "m", "input": "é中" * 60_000}, ensure_ascii=False)
    assert sent(far).size == Size(len(far.encode()), 0)


def test_read_sent__more_text_than_can_be_measured__is_bounded() -> None:
    """Never below what it takes: a strict plan relies on it."""
    text = json.dumps({"type": CREATE, "input": "wörld " * 500_000}, ensure_ascii=False)
    told, exact = sent(text).size, sent(text.encode()).size
    assert told is not None
    assert exact == Size(len(text.encode()), 0)
    assert exact.text_bytes <= told.text_bytes <= len(text) * 4


def test_read_sent__binary__is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio that a place of its own takes: decoding it takes ten times as long as looking."""
    with monkeypatch.context() as patched:
        patched.setattr("paygent.client.instrument.realtime.messages._text", None)
        assert read_sent(bytes(range(256)) * 200) is None


@pytest.mark.parametrize("kind", ["input_audio_buffer.append", CREATE])
def test_read_sent__a_large_message__is_not_parsed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would hold up an event loop for longer than a millisecond."""
    message = json.dumps({"type": kind, "audio": AUDIO})
    with monkeypatch.context() as patched:
        patched.setattr("json.loads", None)
        assert sent(message).kind == kind


@pytest.mark.parametrize(
    ("event", "has_text", "is_read"),
    [
        ({"type": "response.created"}, False, True),
        ({"type": "response.output_text.delta", "delta": "a"}, False, False),
        ({"type": "response.output_text.delta", "delta": "a"}, True, True),
        ({"type": "response.output_text.delta", "delta": "a" * 20_000}, True, False),
        ({"type": "response.output_audio.delta", "delta": AUDIO}, True, False),
        ({"type": "response.completed", "output": ["a"] * 2_000}, True, True),
        ({"output": "a" * 60_000, "type": "response.completed"}, True, True),
    ],
)
def test_read_received__only_what_tells_a_use__is_parsed(
    event: Any, has_text: bool, is_read: bool
) -> None:
    """Pieces of text where they count, and never a large piece of audio."""
    read = read_received(json.dumps(event).encode(), has_text=has_text)
    assert read == (event if is_read else None)


TOLD = {"input_tokens": 10, "output_tokens": 2}


@pytest.mark.parametrize(
    "text", [AUDIO, AUDIO + "\\", AUDIO + '\\"', '"' + WORDS + '"\\\\"' + AUDIO]
)
def test_read_received__a_large_answer__has_everything_but_its_long_strings(text: str) -> None:
    """An image takes milliseconds to be parsed; what stands beside it is all there."""
    calls = [{"type": "function_call", "name": "weather", "arguments": text}, {"name": 'a"b\\'}]
    response = {"id": "r1", "output": calls, "usage": TOLD, "user": 'u"'}
    event = {"type": "response.completed", "response": response, "stream_id": "a"}
    for data in (json.dumps(event), json.dumps(event, indent=1)):
        read = read_received(data.encode(), has_text=True)
        assert len(read["response"]["output"][0].pop("arguments")) < 1_024
        expected = {**response, "output": [{"type": "function_call", "name": "weather"}, calls[1]]}
        assert read == {**event, "response": expected}


def test_read_received__an_answer_of_very_many_parts__is_read_at_its_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without being parsed: its id, status, model and use, whatever its text quotes."""
    said: Any = [{"usage": TOLD, "text": json.dumps({"usage": {"input_tokens": 9}})}] * 9_000
    response: dict[str, Any] = {
        "id": "r1",
        "status": "completed",
        "model": "gpt-4o",
        "output": said,
        "service_tier": "flex",
        "usage": {**TOLD, "input_tokens": 11},
        "metadata": {"usage": "high", "of": json.dumps({"usage": TOLD})},
    }
    event = {"type": "response.completed", "stream_id": "a", "response": response}
    data = json.dumps(event).encode()
    with monkeypatch.context() as patched:
        patched.setattr("json.loads", None)
        read = read_received(data, has_text=True)
    del response["output"], response["metadata"]
    assert read == {**event, "is_cut": True}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.completed", "response": {"usage": TOLD}},
        {"type": "response.completed", "response": {"id": "r1", "usage": None}},
        {"type": "response.completed", "response": {"id": "r1", "usage": {"of": "odd"}}},
        {"type": "response.event", "event": {"response": {"id": "r1", "usage": TOLD}}},
    ],
)
def test_read_received__very_many_parts_whose_ends_do_not_tell__are_parsed(event: Any) -> None:
    """What is looked for may be anywhere else, or missing."""
    whole = {**event, "more": [{"text": "a"}] * 90_000}
    assert read_received(json.dumps(whole).encode(), has_text=True) == whole


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"event_id": "e", "type": "session.created", "session": {}}', True),
        (b'{"type":"transcription_session.updated"}', True),
        (b'{"type": "response.created"}', False),
        (b"session.created", False),
    ],
)
def test_is_of_session__a_glance__tells(data: bytes, expected: bool) -> None:
    """Without parsing what strangers send."""
    assert is_of_session(data) is expected


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        ("realtime", {}, True),
        ("realtime", {"event_id": "e", "response": {"max_output_tokens": 5}}, True),
        ("realtime", {"response": {"instructions": WORDS}, "event_id": "e"}, True),
        ("realtime", {"response": "yes"}, False),
        ("realtime", {"survey": 5}, False),
        ("responses", {"model": "gpt-4o"}, True),
        ("responses", {"input": "hi"}, True),
        ("responses", {"survey": 5}, False),
    ],
)
def test_asks_for_response__at_an_unknown_place__by_the_providers_shape(
    route: str, fields: dict[str, Any], expected: bool
) -> None:
    """Others have events of this name too."""
    found = sent(json.dumps({"type": CREATE, **fields}))
    assert asks_for_response(found, route) is expected
