"""Parameters of paths and queries that several routes take."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

from paygent.core.event_json import ID_CHARS_MAX, REASON_CHARS_MAX, read_time
from paygent.core.period import to_us
from paygent.core.validation import NAME_CHARS_MAX
from paygent.server.api.schemas import LIST_MAX
from paygent.server.cursors import CURSOR_CHARS_MAX
from paygent.server.observe import SLASH
from paygent.server.problems import invalid

_TIME_CHARS_MAX = 64


def _with_slashes(user_id: str) -> str:
    return user_id.replace(SLASH, "/")


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    return value


UserPath = Annotated[
    str,
    Path(min_length=1, max_length=NAME_CHARS_MAX, description="The application's id of the user."),
    AfterValidator(_with_slashes),
]
IdPath = Annotated[str, Path(min_length=1, max_length=ID_CHARS_MAX), AfterValidator(_with_slashes)]
LimitQuery = Annotated[int, Query(ge=1, le=LIST_MAX, description="Rows of a page.")]
CursorQuery = Annotated[
    str | None,
    Query(
        max_length=CURSOR_CHARS_MAX,
        description="`next_cursor` of the last page.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},  # checked where it is read
    ),
]
TimeQuery = Annotated[
    str | None,
    Query(max_length=_TIME_CHARS_MAX, description="A time in ISO 8601, or a day (YYYY-MM-DD)."),
]
ReasonQuery = Annotated[
    str | None, Query(max_length=REASON_CHARS_MAX), AfterValidator(_without_nul)
]
TextQuery = Annotated[str | None, Query(max_length=NAME_CHARS_MAX), AfterValidator(_without_nul)]


def read_moment(name: str, given: str, timezone_name: str = "UTC") -> int:
    """Return a time or the begin of a day, in microseconds since 1970 UTC.

    Raises:
        Problem: It is neither.
    """
    # A `+` in a query is a space; it is meant as the sign of an offset.
    at_us = read_time(given.replace(" ", "+"))
    if at_us is not None:
        return at_us
    try:
        if len(given) != 10:
            raise ValueError
        day = date.fromisoformat(given)
        start = start_of_day(day, timezone_name)
    except (ValueError, OverflowError):
        rule = "must be a time in ISO 8601 with a zone, or a day (YYYY-MM-DD), from 1970 on"
        raise invalid(name, given, rule) from None
    if start < 0:
        raise invalid(name, given, "must be from 1970 on")
    return start


def start_of_day(day: date, timezone_name: str) -> int:
    """Return when a day begins in a time zone, in microseconds since 1970 UTC."""
    from zoneinfo import ZoneInfo  # for products with a zone of their own

    zone = timezone.utc if timezone_name == "UTC" else ZoneInfo(timezone_name)
    return to_us(datetime(day.year, day.month, day.day, tzinfo=zone))
