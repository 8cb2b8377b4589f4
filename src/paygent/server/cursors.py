"""Cursors: the last row's sort key, as opaque text."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from paygent.server.problems import Problem, invalid

CURSOR_CHARS_MAX = 6_000  # two ids of 255 characters, each of four bytes, and a number
_INTEGER_MAX = 1 << 63


def write_cursor(*key: str | int) -> str:
    """Return a sort key as a cursor."""
    text = json.dumps(key, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """Return the sort key of a cursor.

    Args:
        cursor: As `write_cursor` made it. It is not signed: an invented one selects another page of
            the caller's own product.
        kinds: The types of the key's parts.

    Raises:
        Problem: It is no cursor of this list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        key = json.loads(text)
    except (ValueError, binascii.Error, RecursionError):
        raise _no_cursor(cursor) from None
    if not isinstance(key, list) or [type(part) for part in key] != list(kinds):
        raise _no_cursor(cursor)
    if any(isinstance(part, int) and abs(part) >= _INTEGER_MAX for part in key):
        raise _no_cursor(cursor)
    if any(isinstance(part, str) and not _is_text(part) for part in key):
        raise _no_cursor(cursor)
    return tuple(key)


def _is_text(part: str) -> bool:
    return "\0" not in part and not any("\ud800" <= char <= "\udfff" for char in part)


def _no_cursor(cursor: str) -> Problem:
    return invalid("cursor", cursor, "must be a next_cursor of this list")
