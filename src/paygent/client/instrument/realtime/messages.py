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
from contextlib import suppress
from typing import Any, NamedTuple

from paygent.client.instrument.streams.reader import text_bytes
from paygent.core.estimate import Size
from paygent.core.usage import get

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
_STRING_MAX = 1_024  # bytes of one whose content may tell a use: ids, models, names
_BACKSLASH = ord("\\")
_QUOTES_MAX = 4_096  # of an event, looked at one by one; with more it is large by its structure
_PARSED_MAX = 2**18  # bytes of such an event; to parse it takes some milliseconds
_DELTA_BYTES_MAX = 16_384  # of an event of text; longer ones are audio or images
_STEPS_MAX = 256  # in one message; each takes some microseconds
_MEASURED_MAX = 2**18  # characters beyond ASCII whose bytes are counted
_CHARACTER_BYTES_MAX = 4  # of UTF-8
_STEP = 8_192  # so much of a message without a space or a quote is a file, not text

_STRINGS = {
    name: re.compile(rf'(?<!\\)"{name}"\s*:\s*"([^"\\]{{1,256}})"')
    for name in ("model", "stream_id", "event_id")
}
_KIND = re.compile(r'(?<!\\)"type"\s*:\s*"([^"\\]{1,256})"')
_RESPONSE = re.compile(r'(?<!\\)"response"\s*:\s*\{')
_ID = re.compile(r'(?<!\\)"id"\s*:\s*"([^"\\]{1,256})"')
_OF_RESPONSE = {
    name: re.compile(rf'(?<!\\)"{name}"\s*:\s*"([^"\\]{{1,256}})"')
    for name in ("status", "model", "service_tier")
}
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
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
    if isinstance(message, memoryview):
        message = bytes(message)
    if length <= _WHOLE_MAX:
        key: Any = '"type"' if isinstance(message, str) else b'"type"'
        if key not in message:  # binary, which to decode would take longer than to search
            return None
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
    quoted = f'"{CREATE}"'
    sought: Any = quoted if isinstance(message, str) else quoted.encode()
    at = -1
    for _ in range(_PLACES_MAX):
        at = message.find(sought, at + 1)
        if at < 0:
            return None
        if _BEGINS.search(_text(message[max(at - _NEAR, 0) : at + len(sought)])) is not None:
            return _text(message[max(at - _EDGE, 0) : at + _EDGE])
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
        The event, or None for one that says nothing about use. Of a large one the long strings are
        empty; of one that is large by its structure there is only what tells its use, and `is_cut`.
    """
    ends = data if len(data) <= _WHOLE_MAX else data[:_EDGE] + data[-_EDGE:]
    if _TOLD.search(ends) is None and not (has_text and len(data) < _DELTA_BYTES_MAX):
        return None
    if len(data) <= _WHOLE_MAX:
        return json.loads(data)
    short = _without_long_strings(data)
    if short is not None:
        return json.loads(short)
    cut = _cut(data) if len(data) > _PARSED_MAX else None
    return json.loads(data) if cut is None else cut


def _without_long_strings(data: bytes) -> bytes | None:
    """Return JSON with its long strings emptied: images and audio, which take long to be parsed.
    None where there are too many strings to look at.
    """
    kept: list[bytes] = []
    kept_to, last, is_inside = 0, -1, False
    for _ in range(_QUOTES_MAX):
        at = data.find(b'"', last + 1)
        if at < 0:
            return b"".join((*kept, data[kept_to:]))
        is_escaped = False
        if is_inside:
            end = at
            while end - 1 > last and data[end - 1] == _BACKSLASH:
                end -= 1
            is_escaped = (at - end) % 2 == 1  # then the quote ends nothing
            if end - last > _STRING_MAX:
                kept.append(data[kept_to : last + 1])
                kept_to = end
        is_inside, last = not is_inside or is_escaped, at
    return None


def _cut(data: bytes) -> dict[str, Any] | None:
    """Return what tells the use of a response that has ended, out of the ends of a large event: its
    text stands between. None where that is not found there.
    """
    head, tail = _text(data[:_EDGE]), _text(data[-_EDGE:])
    kind, within = _KIND.search(head), _RESPONSE.search(head)
    usage = _last_usage(data)
    response_id = _ID.search(head, within.end()) if within is not None else None
    if kind is None or kind[1] not in ENDS or response_id is None or usage is None:
        return None
    response: dict[str, Any] = {"id": response_id[1], "usage": usage}
    for name, pattern in _OF_RESPONSE.items():
        found = pattern.search(head, response_id.end())
        if found is None and name == "service_tier":  # a model at the end may be that of a tool
            found = pattern.search(tail)
        if found is not None:
            response[name] = found[1]
    lane = _STRINGS["stream_id"].search(head) or _STRINGS["stream_id"].search(tail)
    told = {"stream_id": lane[1]} if lane is not None else {}
    return {"type": kind[1], "response": response, "is_cut": True, **told}


def _last_usage(data: bytes) -> dict[str, Any] | None:
    """Return the last usage of a large event, that of the response: those of parts stand before it,
    and where text quotes one, its quotes are escaped.
    """
    end = len(data)
    for _ in range(_PLACES_MAX):
        end = data.rfind(b'"usage"', 0, end)
        found = _USAGE.match(data, end) if end >= 0 else None
        if end < 0:
            return None
        if found is not None:
            with suppress(ValueError):
                text = _text(data[found.end() : found.end() + _EDGE])
                usage, _length = json.JSONDecoder().raw_decode(text)
                if type(get(usage, "input_tokens")) is int:
                    return dict(usage)
    return None


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
    """Return how large a large message is: long runs of one word are files, written as text. Where
    it is longer than can be measured on an event loop, that is an upper bound.
    """
    marks: Any = (" ", '"', "\\") if isinstance(message, str) else (b" ", b'"', b"\\")
    step = max(_STEP, len(message) // _STEPS_MAX)
    written = files = measured = 0
    was_file = False
    for start in range(0, len(message), step):
        piece = message[start : start + step]
        is_ascii = piece.isascii()
        is_file = is_ascii and not any(mark in piece for mark in marks)
        if not is_file and (is_ascii or not isinstance(piece, str)):
            written += len(piece)
        elif not is_file:
            measured += len(piece)
            is_short = measured <= _MEASURED_MAX
            written += text_bytes(piece) if is_short else len(piece) * _CHARACTER_BYTES_MAX
        files += is_file and not was_file
        was_file = is_file
    return Size(written, files)
