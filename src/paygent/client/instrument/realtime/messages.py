"""The messages of a socket: which of them matter, and what they contain.

A message is read where it passes, on an event loop's thread too. Most messages are pieces of audio,
which are recognized by their first bytes and not parsed. Everything else that may matter is parsed
whole. Nothing here has effects.

Events were read from the type definitions of openai 3.57 (2026-11): realtime, responses and live.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from paygent.core.usage import get

CREATE = "response.create"
# Events of the application after which the server may begin to answer by itself.
AUDIO = (
    "input_audio_buffer.append",
    "session.input_audio_buffer.append",  # of a translation
    "session.input_audio.append",  # of Live
)

CREATED = "response.created"
ENDS = ("response.done", "response.completed", "response.incomplete", "response.failed")
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
SESSIONS = tuple(
    f"{kind}.{change}"
    for kind in ("session", "transcription_session")  # the second is of the beta
    for change in ("created", "updated", "started")
)
LIVE_USAGE = ("session.usage.updated", "session.closed")
LIVE_RESPONSE = "response.event"
LIVE_DECISION = "decision.event"

_LIVE = (*LIVE_USAGE, LIVE_RESPONSE, LIVE_DECISION)
_READ = (CREATED, *ENDS, "error", TRANSCRIBED, *SESSIONS, *_LIVE)


def _one_of(kinds: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, kinds))


# The beginning of a message with the type among the first fields, as the SDKs and servers write it.
_PREFIX = r'\s*\{\s*(?:"event_id"\s*:\s*"[^"]{0,512}"\s*,\s*)?"type"\s*:\s*'

_SENT_TYPE = re.compile(rf'"type"\s*:\s*"({_one_of((CREATE, *AUDIO))})"')
_SENT_AUDIO = re.compile(rf'{_PREFIX}"({_one_of(AUDIO)})"')
_RECEIVED_TYPE = re.compile(rf'"({_one_of(_READ)})"'.encode())
# "response.audio.delta" of the beta, "response.output_audio.delta", "session.output_audio.delta"
_RECEIVED_MEDIA = re.compile(rf'{_PREFIX}"[a-z_.]*(?:audio\.delta|partial_image)"'.encode())

_HEAD_LENGTH = 1_024  # enough for `_PREFIX` and a type
_PARSED_AUDIO_MAX = 65_536  # characters; a longer piece of audio is not parsed for its exact length


class Sent(NamedTuple):
    """A message of the application that begins a response, or may have the server begin one.

    Attributes:
        kind: `CREATE` or one of `AUDIO`.
        event: The message; empty for a long piece of audio.
        characters: Length of the whole message.
    """

    kind: str
    event: Any
    characters: int


def read_sent(message: Any) -> Sent | None:
    """Read a message of the application; None for most, and for one that is sent in pieces."""
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        return None
    length = len(message)
    if length > _PARSED_AUDIO_MAX:
        audio = _SENT_AUDIO.match(_text(message[:_HEAD_LENGTH]))
        if audio is not None:
            return Sent(audio[1], {}, length)
    if not isinstance(message, str):
        message = bytes(message)
        if b'"type"' not in message:  # binary data: decoding takes ten times as long as searching
            return None
    text = _text(message)
    if _SENT_TYPE.search(text) is None:
        return None
    event = json.loads(text)
    kind = get(event, "type")
    # Another event may quote one of these types, or contain it in an inner object.
    return Sent(kind, event, length) if kind in (CREATE, *AUDIO) else None


def asks_for_response(sent: Sent, route: str) -> bool:
    """Return whether a message requests a response in the format of OpenAI."""
    event = sent.event
    if sent.kind != CREATE:
        return False
    if route == "responses":
        return isinstance(get(event, "model"), str) or get(event, "input") is not None
    response = get(event, "response")
    has_other_fields = bool(event.keys() - {"type", "event_id", "response"})
    return not has_other_fields and (response is None or isinstance(response, dict))


def read_received(data: bytes, *, has_text: bool) -> Any:
    """Read a message of the server, with `has_text` also pieces of text; None for one that has
    nothing to do with usage.
    """
    if _RECEIVED_MEDIA.match(data) is not None:
        return None
    if not has_text and _RECEIVED_TYPE.search(data) is None:
        return None
    return json.loads(data)


def _text(message: Any) -> str:
    """Return a message as text; a character that the end cuts in two does not matter."""
    return message if isinstance(message, str) else bytes(message).decode("utf-8", "replace")
