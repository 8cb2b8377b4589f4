"""How much a call may use, told from its request alone.

The expected input is a quarter token per UTF-8 byte (English measures 0.24); the bound is one token
per byte, which no byte-level tokenizer exceeds. Images and files are counted as a constant, since
their size in bytes says little about their tokens. No tokenizer is loaded: it would cost megabytes,
a download at first use, and milliseconds per call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BYTES_PER_TOKEN = 4
PART_TOKENS = 1_500
"""Tokens of an image or file part: a full-detail image of 1024 × 1024 costs 765 to 1,600 by
provider.
"""

OBSERVATIONS_MIN = 3
"""Calls that must have settled before their mean is believed."""

_DEPTH_MAX = 24  # deeper JSON than any SDK sends; keeps a cyclic body from being followed for ever
_NOTHING: dict[str, Any] = {}
_OPAQUE_TYPES = frozenset(
    {
        "image_url",
        "image",
        "input_image",
        "input_audio",
        "audio",
        "input_file",
        "file",
        "document",
        "video_url",
    }
)
_TEXT_KEYS = (
    "messages",
    "input",
    "prompt",
    "system",
    "instructions",
    "tools",
    "response_format",
    "text",
)


class Size(NamedTuple):
    """How large a request is: UTF-8 bytes of its text, and image or file parts."""

    text_bytes: int
    parts: int


class Estimate(NamedTuple):
    """Tokens that a call is held for."""

    input_tokens: int
    output_tokens: int


class Observed(NamedTuple):
    """What calls of one model and route really took, as running sums.

    Attributes:
        calls: How many were observed.
        input_bytes, input_tokens: Sums over them; their quotient tunes the expected input.
        output_tokens: Sum over them.
    """

    calls: int = 0
    input_bytes: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


_OBSERVED_CALLS_MAX = (
    200  # older calls fade: the sums are halved here, so the mean follows a change
)


def observe(seen: Observed, size: Size, input_tokens: int, output_tokens: int) -> Observed:
    """Add one settled call to what was observed."""
    calls, input_bytes, tokens, output = seen
    if calls >= _OBSERVED_CALLS_MAX:
        calls, input_bytes, tokens, output = calls // 2, input_bytes // 2, tokens // 2, output // 2
    weight = size.text_bytes + size.parts * PART_TOKENS * BYTES_PER_TOKEN
    return Observed(calls + 1, input_bytes + weight, tokens + input_tokens, output + output_tokens)


def measure(body: Any) -> Size:
    """Return the size of a request body.

    Args:
        body: The JSON body as the SDK holds it. Anything else counts as empty.
    """
    if not isinstance(body, Mapping):
        return Size(0, 0)
    total = parts = 0
    for key in _TEXT_KEYS:
        value = body.get(key)
        if value is None:
            continue
        if isinstance(value, str):
            total += _utf8_bytes(value)
        elif key == "messages" and isinstance(value, list):
            for item in value:
                # A message of role and text, which most are, is not worth a walk.
                if type(item) is dict and len(item) == 2:
                    role, text = item.get("role"), item.get("content")
                    if type(role) is str and type(text) is str:
                        total += _utf8_bytes(role) + _utf8_bytes(text)
                        continue
                inner = _walk((item,), 0)
                total += inner[0]
                parts += inner[1]
        else:
            inner = _walk(value, 0)
            total += inner[0]
            parts += inner[1]
    return Size(total, parts)


def _utf8_bytes(text: str) -> int:
    """Return the UTF-8 length of a text; ASCII, the common case, is told without encoding it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _walk(value: Any, depth: int, path: tuple[int, ...] = ()) -> tuple[int, int]:
    """Return (bytes of text, opaque parts) of a nested JSON value."""
    if depth > _DEPTH_MAX or id(value) in path:
        return 0, 0
    total = parts = 0
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _OPAQUE_TYPES:  # a JSON Schema may have a list here
            return 0, 1
        items: Any = value.values()
    elif isinstance(value, (list, tuple)):
        if value and type(value[0]) is int:  # an embedding input that is tokens already
            return len(value) * BYTES_PER_TOKEN, 0
        items = value
    else:  # an SDK's object, such as an answer that was appended to the messages
        items = getattr(value, "__dict__", _NOTHING).values()
    for item in items:
        if isinstance(item, str):
            total += len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
        else:
            inner_total, inner_parts = _walk(item, depth + 1, (*path, id(value)))
            total += inner_total
            parts += inner_parts
    return total, parts


def expected(
    size: Size,
    seen: Observed,
    *,
    max_tokens: int | None,
    buffer_tokens: int,
    model_max_tokens: int | None,
    safety_ppm: int,
    generates: bool,
) -> Estimate:
    """Return what a call is expected to use.

    Args:
        size: Size of the request.
        seen: What calls of this model and route took so far.
        max_tokens: The request's own bound on output (times its number of answers), or None.
        buffer_tokens: Output held by a call without `max_tokens` until three calls were observed.
        model_max_tokens: Most output the model can give, or None where it is not known.
        safety_ppm: Factor until then, in parts per million (1.2 is 1_200_000).
        generates: Whether the route has output at all (embeddings have none).
    """
    weight = size.text_bytes + size.parts * PART_TOKENS * BYTES_PER_TOKEN
    if seen.calls >= OBSERVATIONS_MIN:
        input_tokens = weight // BYTES_PER_TOKEN
        if seen.input_bytes:
            input_tokens = -(-weight * seen.input_tokens // seen.input_bytes)
        output_tokens = -(-seen.output_tokens // seen.calls)
        if max_tokens is not None:
            output_tokens = min(output_tokens, max_tokens)
        return Estimate(input_tokens, output_tokens if generates else 0)
    output_tokens = buffer_tokens if max_tokens is None else max_tokens
    if model_max_tokens is not None:
        output_tokens = min(output_tokens, model_max_tokens)
    input_tokens = -(-weight * safety_ppm // (BYTES_PER_TOKEN * 10**6))
    if max_tokens is None:
        output_tokens = -(-output_tokens * safety_ppm // 10**6)
        if model_max_tokens is not None:
            output_tokens = min(output_tokens, model_max_tokens)
    return Estimate(input_tokens, output_tokens if generates else 0)


def bound(
    size: Size,
    *,
    max_tokens: int | None,
    buffer_tokens: int,
    model_max_tokens: int | None,
    generates: bool,
) -> Estimate:
    """Return the most that a call can use, as its request tells; arguments as in `expected`."""
    output_tokens = max_tokens
    if output_tokens is None:
        output_tokens = model_max_tokens if model_max_tokens is not None else buffer_tokens
    return Estimate(size.text_bytes + size.parts * PART_TOKENS, output_tokens if generates else 0)
