"""The messages of a socket, read as far as is needed: most of them are audio, and large.

A message is read where it is on its way, on an event loop's thread too. So what is large is not
parsed to find out that it is none of ours; of a large message of the application only its two ends
are looked at, where its kind and its short fields stand, and what is around its kind where that is
in the middle.

Events were read from the type definitions of openai 3.57 (2026-11): realtime, responses and live.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from paygent.core.estimate import Size
from paygent.core.usage import get
from paygent.instrument.reading import text_bytes

CREATE = "response.create"
AUDIO = (
    "input_audio_buffer.append",
    "session.input_audio_buffer.append",  # of a translation
    "session.input_audio.append",  # of Live
)
"""What may have the server begin to answer by itself."""

CREATED = "response.created"
ENDS = ("response.done", "response.completed", "response.incomplete", "response.failed")
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
SESSIONS = tuple(
    f"{kind}.{what}"
    for kind in ("session", "transcription_session")  # the second is of the beta
    for what in ("created", "updated", "started")
)
LIVE_USAGE = ("session.usage.updated", "session.closed")
LIVE_RESPONSE = "response.event"
LIVE_DECISION = "decision.event"

_READ = (
    CREATED,
    *ENDS,
    "error",
    TRANSCRIBED,
    *SESSIONS,
    *LIVE_USAGE,
    LIVE_RESPONSE,
    LIVE_DECISION,
)

_BEGINS = re.compile(rf'"type"\s*:\s*"({"|".join(map(re.escape, (CREATE, *AUDIO)))})"')
_TYPE_FIRST = re.compile(r'\s*\{\s*(?:"event_id"\s*:\s*"[^"]{0,512}"\s*,\s*)?"type"\s*:')
"""How a message begins whose kind is among its first fields: no need to look for it further on."""

_TOLD = re.compile('"(?:{})"'.format("|".join(map(re.escape, _READ))).encode())
"""What of a server's events is read; most of the others are pieces of audio."""

_WHOLE_MAX = 65_536  # characters that are parsed in well under a millisecond
_EDGE = 4_096  # characters looked at, at both ends of what is larger
_NEAR = 32  # characters before a kind within which its key stands, with its spaces
_PLACES_MAX = 64  # in one message that are looked at, where its values are the word many times
_DELTA_BYTES_MAX = 16_384  # of an event of text; longer ones are audio or images
_STEP = 8_192  # so much of a message without a space or a quote is a file, not text

_STRINGS = {
    name: re.compile(rf'(?<!\\)"{name}"\s*:\s*"([^"\\]{{1,256}})"')
    for name in ("model", "stream_id", "event_id")
}
_MAX_TOKENS = re.compile(r'(?<!\\)"max_output_tokens"\s*:\s*(\d{1,9})\b')


class Sent(NamedTuple):
    """A message of the application that begins a response, or may have the server begin one.

    Attributes:
        kind: `CREATE` or one of `AUDIO`.
        event: The message; of a large one its short fields, without what is around them.
        size: Of a response that was too large to be parsed; None for the others.
        characters: Length of the whole message.
    """

    kind: str
    event: Any
    size: Size | None
    characters: int


def read_sent(message: Any) -> Sent | None:
    """Read a message of the application; None for most, and for what comes in pieces."""
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        return None
    length = len(message)
    if length <= _WHOLE_MAX:
        text = _text(message)
        if _BEGINS.search(text) is None:
            return None
        event = json.loads(text)
        kind = get(event, "type")
        return Sent(kind, event, None, length) if kind in (CREATE, *AUDIO) else None
    parts = [_text(message[:_EDGE]), _text(message[-_EDGE:])]
    found = _BEGINS.search(parts[0]) or _BEGINS.search(parts[1])
    if found is not None and found[1] != CREATE:
        return Sent(found[1], {}, None, length)
    if found is None:
        middle = None if _TYPE_FIRST.match(parts[0]) else _around_create(message)
        if middle is None:
            return None
        parts.insert(1, middle)
    return Sent(CREATE, _short_fields(parts), _size(message), length)


def _around_create(message: Any) -> str | None:
    """Return what is around the kind of a large message that begins a response, wherever that is;
    None where it is of another kind. Where text quotes a kind, its quotes are escaped.
    """
    searched = bytes(message) if isinstance(message, memoryview) else message
    quoted = f'"{CREATE}"'
    sought: Any = quoted if isinstance(message, str) else quoted.encode()
    at = -1
    for _ in range(_PLACES_MAX):
        at = searched.find(sought, at + 1)
        if at < 0:
            return None
        if _BEGINS.search(_text(searched[max(at - _NEAR, 0) : at + len(sought)])) is not None:
            return _text(searched[max(at - _EDGE, 0) : at + _EDGE])
    return None


def asks_for_response(sent: Sent, route: str) -> bool:
    """Tell whether a message has the shape in which OpenAI is asked for a response.

    Args:
        sent: The message.
        route: "realtime" or "responses".
    """
    event = sent.event
    if sent.kind != CREATE:
        return False
    if route == "responses":
        return isinstance(get(event, "model"), str) or get(event, "input") is not None
    response = get(event, "response")
    is_known = sent.size is not None or not (event.keys() - {"type", "event_id", "response"})
    return is_known and (response is None or isinstance(response, dict))


def read_received(data: bytes, *, has_text: bool) -> Any:
    """Read a message of the server.

    Args:
        data: The whole message.
        has_text: Whether pieces of text are read too.

    Returns:
        The event, or None for one that says nothing about use.
    """
    ends = data if len(data) <= _WHOLE_MAX else data[:_EDGE] + data[-_EDGE:]
    if _TOLD.search(ends) is None and not (has_text and len(data) < _DELTA_BYTES_MAX):
        return None
    return json.loads(data)


_OF_SESSION = re.compile(rb'\s*\{.{,200}"type"\s*:\s*"(?:transcription_)?session\.', re.DOTALL)


def is_of_session(data: bytes) -> bool:
    """Tell whether a message looks like one of a server about its session."""
    return _OF_SESSION.match(data) is not None


def _text(message: Any) -> str:
    """Return a message as text; a character that was cut in two is of no interest."""
    return message if isinstance(message, str) else bytes(message).decode("utf-8", "replace")


def _short_fields(parts: list[str]) -> dict[str, Any]:
    """Return the short fields of a large message, from what is looked at of it: the first that is
    found, since those of tools, for one, stand behind those of the whole.
    """
    fields: dict[str, Any] = {"type": CREATE}
    for name, pattern in (*_STRINGS.items(), ("max_output_tokens", _MAX_TOKENS)):
        found = next(filter(None, map(pattern.search, parts)), None)
        if found is not None:
            fields[name] = int(found[1]) if pattern is _MAX_TOKENS else found[1]
    return fields


def _size(message: Any) -> Size:
    """Return how large a large message is: long runs of one word are files, written as text."""
    written = files = 0
    was_file = False
    for start in range(0, len(message), _STEP):
        piece = _text(message[start : start + _STEP])
        is_file = piece.isascii() and not (" " in piece or '"' in piece or "\\" in piece)
        written += 0 if is_file else text_bytes(piece)
        files += is_file and not was_file
        was_file = is_file
    return Size(written, files)
