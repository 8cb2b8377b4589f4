"""The size of a request: bytes of text, image and file parts, whether it writes a cache.

English measures 0.24 tokens per UTF-8 byte. Images and files count as a constant, because their
size in bytes says little about their tokens. No tokenizer is loaded: it would cost megabytes, a
download at first use, and milliseconds per call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BYTES_PER_TOKEN = 4
PART_TOKENS = 1_500
"""Tokens of an image or file: full-detail images of 1024 × 1024 cost 765 to 1,600, by provider."""

PART_WEIGHT = PART_TOKENS * BYTES_PER_TOKEN
"""What an opaque part adds to the weight of a request."""

_DEPTH_MAX = 24  # deeper JSON than any SDK sends; stops at a cyclic body
_NOTHING: dict[str, Any] = {}
_OPAQUE_TYPES = frozenset(
    {"image_url", "image", "input_image", "input_audio", "audio", "input_file", "file",
     "document", "video_url"}
)  # fmt: skip
_TEXT_KEYS = frozenset(
    {"messages", "input", "prompt", "system", "instructions", "tools", "response_format", "text"}
)
_ABSENT = frozenset({"Omit", "NotGiven", "NoneType"})  # types of placeholders


class Size(NamedTuple):
    """The size of a request.

    Attributes:
        text_bytes: UTF-8 bytes of its text.
        parts: Image or file parts.
        caches: Whether it requests that the provider write a cache.
    """

    text_bytes: int
    parts: int = 0
    caches: bool = False


_NO_SIZE = Size(0)
_CACHE_KEY = "cache_control"  # Anthropic's; other providers write caches without a request


def weight_of(size: Size) -> int:
    """Return a size in bytes of text; an opaque part counts as the text of as many tokens."""
    return size.text_bytes + size.parts * PART_WEIGHT


def measure(body: Any) -> Size:
    """Return the size of a request's JSON body; anything else counts as empty."""
    return Size(*sizes_of(body)) if isinstance(body, Mapping) else _NO_SIZE


def sizes_of(body: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Return the fields of a body's `Size`; in one function, since this runs for every call."""
    total = parts = 0
    caches = False
    others: list[Any] = []
    for key, value in body.items():
        if key not in _TEXT_KEYS:
            if key == _CACHE_KEY:
                caches = type(value).__name__ not in _ABSENT
        elif type(value).__name__ in _ABSENT:
            pass
        elif type(value) is str:
            total += len(value) if value.isascii() else utf8_length(value)
        elif key != "messages" or type(value) is not list:
            others.append(value)
        else:
            for item in value:
                # Most messages have a role and a text only.
                if type(item) is dict and len(item) == 2:
                    role, text = item.get("role"), item.get("content")
                    if type(role) is str and type(text) is str:
                        total += len(role)  # ASCII in every API
                        total += len(text) if text.isascii() else utf8_length(text)
                        continue
                others.append(item)
    for value in others:
        inner = _walk(value, 0)
        total += inner[0]
        parts += inner[1]
        caches |= inner[2]
    return total, parts, caches


def _is_absent(value: Any) -> bool:
    """Return whether a field will not be sent: SDKs put a placeholder object in its place."""
    return type(value).__name__ in _ABSENT


def utf8_length(text: str) -> int:
    """Return the length of a text in UTF-8; ASCII, the common case, is not encoded for it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _walk(value: Any, depth: int, path: tuple[int, ...] = ()) -> Size:
    if isinstance(value, str):
        return Size(utf8_length(value))
    if depth > _DEPTH_MAX or id(value) in path:
        return _NO_SIZE
    total = parts = 0
    caches = False
    if isinstance(value, dict):
        kind = value.get("type")
        caches = not _is_absent(value.get(_CACHE_KEY))
        if isinstance(kind, str) and kind in _OPAQUE_TYPES:  # a JSON Schema may have a list here
            return Size(0, 1, caches)
        items: Any = value.values()
    elif isinstance(value, (list, tuple)):
        if value and type(value[0]) is int:  # an embedding input that is already tokens
            return Size(len(value) * BYTES_PER_TOKEN)
        items = value
    else:  # an SDK's object, such as an answer appended to the messages
        items = getattr(value, "__dict__", _NOTHING).values()
    for item in items:
        if isinstance(item, str):
            total += len(item) if item.isascii() else utf8_length(item)
        else:
            inner = _walk(item, depth + 1, (*path, id(value)))
            total += inner[0]
            parts += inner[1]
            caches |= inner[2]
    return Size(total, parts, caches)
