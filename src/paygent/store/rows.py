"""Rows of the store, the same for every engine: a column has the name of the field it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.limit import LimitKey
from paygent.core.period import MICROSECONDS_PER_SECOND, day_name

Row = Any  # with values by column name (`sqlite3.Row`)

_DAY_US = 86_400 * MICROSECONDS_PER_SECOND


def text(value: str) -> str:
    """Return a text that a database can hold: NUL and lone surrogates are replaced.

    One odd id must not keep a whole batch from being stored.
    """
    if value.isascii() and "\0" not in value:
        return value
    # UTF-16 joins surrogates that form a pair; only lone ones are replaced.
    whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd")


def _to_json(value: Mapping[str, Any] | Sequence[str] | None) -> str | None:
    if not value:
        return None
    if isinstance(value, Mapping):
        # Escaped in JSON, a lone surrogate would get past `text` and fail the reports that read it.
        return json.dumps({text(key): _storable_value(each) for key, each in value.items()})
    return json.dumps([text(each) for each in value])


def _storable_value(value: Any) -> Any:
    return text(value) if isinstance(value, str) else value


def from_json(value: str | None) -> Any:
    """Return the value of a column that holds JSON or NULL."""
    return None if value is None else json.loads(value)


_CONVERTED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "blocked": (int, bool),
    "cost_explicit": (int, bool),
    "tool_calls": (_to_json, lambda value: tuple(from_json(value) or ())),
    "metadata": (_to_json, from_json),
    "details": (_to_json, from_json),
    "restates": (int, bool),
}
"""How to write and to read the fields of `Event` that are stored as another type; the others are
stored as they are.
"""

_WRITTEN_FIELDS = tuple(
    (name, _CONVERTED[name][0] if name in _CONVERTED else None) for name in Event._fields
)
_READ_FIELDS = tuple(
    (name, _CONVERTED[name][1] if name in _CONVERTED else None)
    for name in Event._fields
    if name != "restates"  # the stored figures are differences already
)


def event_row(product: str, event: Event) -> dict[str, Any]:
    """Return the row of an event."""
    # The day is computed here: engines differ in their date functions.
    row: dict[str, Any] = {"product_id": product, "day": _day_name(event.at_us // _DAY_US)}
    for (name, write), value in zip(_WRITTEN_FIELDS, event, strict=True):
        if write is not None:
            row[name] = write(value)
        else:
            # Any text may come from the application, ids and provider names included.
            row[name] = text(value) if isinstance(value, str) else value
    return row


@lru_cache(maxsize=64)  # a batch is of a day or two
def _day_name(day: int) -> str:
    return day_name(day * _DAY_US)


def event_of(row: Row) -> Event:
    """Return the event of a row."""
    return Event(**{name: read(row[name]) if read else row[name] for name, read in _READ_FIELDS})


def account_row(user_id: str, key: AccountKey) -> dict[str, Any]:
    """Return the key columns of a user's account."""
    return {
        "user_id": text(user_id),
        "session_id": text(key.session_id),
        "metric": key.limit.metric,
        "scope": key.limit.scope,
        "model": key.limit.model,
        "window_rule": key.limit.window,
        "start_us": key.start_us,
        "end_us": key.end_us,
    }


def account_key_of(row: Row) -> AccountKey:
    """Return the key of an account's row."""
    limit = LimitKey(row["metric"], row["scope"], row["model"], row["window_rule"])
    return AccountKey(limit, row["session_id"], row["start_us"], row["end_us"])


def storable(key: AccountKey) -> AccountKey:
    """Return the key as the store keeps it; see `text`."""
    return key._replace(session_id=text(key.session_id)) if key.session_id else key
