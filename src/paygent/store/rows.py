"""Rows of the store, the same for every engine: a column has the name of the field it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.limit import LimitKey
from paygent.core.period import Renewal, Subscription
from paygent.store.statements import Row


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
}
"""How to write and to read the fields of `Event` that are stored as another type; the others are
stored as they are.
"""

_COLUMNS = Event._fields[:-1]  # all but the last, `restates`
"""The fields of `Event` that have a column. Whether a correction restates is in its own table: the
stored figures are differences already.
"""

_WRITTEN = tuple((_COLUMNS.index(name), _CONVERTED[name][0]) for name in _CONVERTED)
_READ = tuple((name, _CONVERTED[name][1] if name in _CONVERTED else None) for name in _COLUMNS)

EVENT_COLUMNS = (*_COLUMNS, "product_id", "day")
"""The columns of an event's row, in the order of `event_row`."""


def storable_event(event: Event) -> Event:
    """Return an event with texts that a database can hold; see `text`."""
    texts = "".join([value for value in event if type(value) is str])
    if texts.isascii() and "\0" not in texts:
        return event
    # Any text may come from the application, ids and provider names included.
    changed = {
        name: text(value)
        for name, value in zip(event._fields, event, strict=True)
        if isinstance(value, str)
    }
    return event._replace(**changed)  # type: ignore[arg-type]


def event_row(product_id: str, day: str, event: Event) -> list[Any]:
    """Return the row of an event, in the order of `EVENT_COLUMNS`.

    Args:
        product_id: The event's product.
        day: Its day in the product's time zone; computed outside, since engines differ in dates.
        event: With texts that are storable.
    """
    row: list[Any] = list(event)
    for place, write in _WRITTEN:
        row[place] = write(row[place])
    row[-1] = product_id  # in place of `restates`, the last field
    row.append(day)
    return row


def event_of(row: Row) -> Event:
    """Return the event of a row."""
    return Event(**{name: read(row[name]) if read else row[name] for name, read in _READ})


def subscription_of(row: Row) -> Subscription | None:
    """Return the billing period of a user's row, as it was given."""
    return subscription_from(row["period_start_us"], row["period_end_us"], row["renews"])


def subscription_from(start_us: int | None, end_us: int, renews: Renewal) -> Subscription | None:
    """Return the billing period of the columns of a user's row; None where the first is NULL, and
    with it the others.
    """
    return None if start_us is None else Subscription(start_us, end_us, renews)


def account_row(user_id: str, key: AccountKey) -> tuple[Any, ...]:
    """Return the key columns of a user's account, in the order of its table."""
    limit = key.limit
    return (
        *(text(user_id), text(key.session_id), key.end_us, key.start_us),
        *(limit.metric, limit.scope, limit.model, limit.window),
    )


def account_key_of(row: Row) -> AccountKey:
    """Return the key of an account's row."""
    limit = _limit_key(row["metric"], row["scope"], row["model"], row["window_rule"])
    return AccountKey(limit, row["session_id"], row["start_us"], row["end_us"])


@lru_cache(maxsize=1024)  # a plan has few limits, and each account of its users has one of them
def _limit_key(metric: str, scope: str, model: str, window: str) -> LimitKey:
    return LimitKey(metric, scope, model, window)


def storable(key: AccountKey) -> AccountKey:
    """Return the key as the store keeps it; see `text`."""
    texts = key.session_id + "".join(key.limit)
    if texts.isascii() and "\0" not in texts:
        return key
    # Keys arrive over HTTP, too: any of these texts may be odd.
    return key._replace(limit=LimitKey(*map(text, key.limit)), session_id=text(key.session_id))
