"""JSON bodies, read strictly: numbers exactly, no NaN, bounded depth, lists and texts."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import Request

from paygent.server.problems import Problem

DEPTH_MAX = 16
ITEMS_MAX = 50_000
"""Values in one body."""

CHARS_MAX = 20_000
"""Characters of one text."""


class StrictRequest(Request):
    """A request with a body that is read by `read_json`, whatever its `Content-Type` says.

    All bodies are JSON, and clients such as `curl --data` name a type that they do not send.
    """

    @property
    def headers(self) -> Headers:
        """The headers, with the type of the body as it is read."""
        if not hasattr(self, "_headers"):
            given = self.scope["headers"]
            kept = [each for each in given if each[0].lower() != b"content-type"]
            self._headers = Headers(raw=[*kept, (b"content-type", b"application/json")])
        return self._headers

    async def json(self) -> Any:
        """Return the body."""
        if not hasattr(self, "_json"):
            self._json = read_json(await self.body())
        return self._json


def read_json(body: bytes) -> Any:
    """Parse a body; fractions are decimals, so that no digit of an amount is lost.

    Raises:
        Problem: It is no JSON, or beyond a bound.
    """
    try:
        value = json.loads(body, parse_float=bounded_decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise _bad(f"JSON must not be nested deeper than {DEPTH_MAX}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"The body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:  # not UTF-8, NaN, or an integer of thousands of digits
        raise _bad(f"The body is not JSON: {_first_words(error)}") from None
    check_bounds(value)
    return value


def check_bounds(value: Any) -> None:
    """Refuse values that are nested too deeply, too many, too long, or not Unicode.

    Raises:
        Problem: Names the bound.
    """
    items = 0
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for each in level:
            if isinstance(each, str):
                _check_text(each)
            elif isinstance(each, dict):
                for key in each:
                    _check_text(key)
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        items += len(below)
        if items > ITEMS_MAX:
            raise _bad(f"JSON must not have more than {ITEMS_MAX} values")
        if not below:
            return
        level = below
    raise _bad(f"JSON must not be nested deeper than {DEPTH_MAX}")


def _check_text(text: str) -> None:
    if len(text) > CHARS_MAX:
        raise _bad(f"A text must not be longer than {CHARS_MAX} characters")
    if text.isascii() and "\0" not in text:
        return
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise _bad("A text must be Unicode, without NUL and lone surrogates")


def bounded_decimal(text: str) -> Decimal:
    """Return a fraction of JSON; a ValueError says that it is beyond any double."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent that not even a decimal can have
        raise ValueError("a number is out of range") from None
    if abs(number.adjusted()) > 400:  # beyond any double
        raise ValueError("a number is out of range")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _first_words(error: ValueError) -> str:
    return str(error).split(":")[0][:100]


def _bad(detail: str) -> Problem:
    return Problem(400, "bad-json", detail if detail.endswith(".") else detail + ".")
