"""Messages of a socket: which of them matter, and what is read of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paygent.client.instrument.realtime.messages import (
    CREATE,
    Sent,
    asks_for_response,
    read_received,
    read_sent,
)

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
        assert (sent(message).kind, sent(message).characters) == (kind, len(text))


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


@pytest.mark.parametrize("as_sent", [str, str.encode, lambda text: memoryview(text.encode())])
def test_read_sent__a_large_response__is_read_whole(as_sent: Any) -> None:
    """Wherever its type stands, and whatever its text quotes."""
    quoted = 'It says "type": "response.create". ' * 99
    event = {"input": WORDS + quoted, "model": "gpt-4o", "type": CREATE, "tools": [WORDS]}
    found = sent(as_sent(json.dumps(event)))
    assert (found.kind, found.event) == (CREATE, event)


def test_read_sent__binary__is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio that a place of its own takes: decoding it takes ten times as long as looking."""
    with monkeypatch.context() as patched:
        patched.setattr("paygent.client.instrument.realtime.messages._text", None)
        assert read_sent(bytes(range(256)) * 200) is None


def test_read_sent__long_audio__is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is most of what is sent, and parsing it would hold up an event loop."""
    message = json.dumps({"type": "input_audio_buffer.append", "audio": AUDIO})
    with monkeypatch.context() as patched:
        patched.setattr("json.loads", None)
        assert sent(message).event == {}


@pytest.mark.parametrize(
    ("event", "has_text", "is_read"),
    [
        ({"type": "response.created"}, False, True),
        ({"type": "response.output_text.delta", "delta": "a"}, False, False),
        ({"type": "response.output_text.delta", "delta": "a"}, True, True),
        ({"type": "response.output_text.delta", "delta": "a" * 20_000}, True, True),
        ({"type": "response.output_audio.delta", "delta": AUDIO}, True, False),
        ({"event_id": "e", "type": "response.audio.delta", "delta": "error"}, False, False),
        ({"type": "response.image_generation_call.partial_image", "b64": AUDIO}, True, False),
        ({"type": "response.completed", "output": ["a"] * 2_000}, True, True),
        ({"output": WORDS, "type": "response.completed"}, False, True),
    ],
)
def test_read_received__only_what_may_report_usage__is_parsed(
    event: Any, has_text: bool, is_read: bool
) -> None:
    """Pieces of text where they count, and never audio or images."""
    read = read_received(json.dumps(event).encode(), has_text=has_text)
    assert read == (event if is_read else None)


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
