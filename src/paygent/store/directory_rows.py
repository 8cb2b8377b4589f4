"""Rows of the directory: what a server keeps besides the ledger, as values of its port and back."""

from __future__ import annotations

import json
import re
import secrets
import string
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from paygent.core.limit import LimitKey
from paygent.core.messages import GateEvent
from paygent.store.directory_port import (
    ApiKey,
    GateEventFilter,
    Override,
    Product,
    Remembered,
    RevenueEntry,
    StoredPlan,
    StoredUser,
)
from paygent.store.rows import from_json, subscription_of, text
from paygent.store.statements import Row

AFTER_ALL_IDS = "\U0010ffff" * 64
"""Sorts after every id: the end of a range that has none."""

_END_US = 2**63 - 1
_ID_CHARACTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 12
_SLUG_LENGTH_MAX = 64


def new_id(prefix: str) -> str:
    """Make a random id of lowercase letters and digits after a prefix."""
    return prefix + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def slug_of(name: str, in_use: Collection[str] = ()) -> str:
    """Return a product's name as it may be a part of an address: the first of `name`, `name-2`,
    `name-3` and so on that is not in use.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    whole = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "product"
    slug = whole[:_SLUG_LENGTH_MAX].rstrip("-")
    number = 1
    while slug in in_use:
        number += 1
        ending = f"-{number}"
        slug = whole[: _SLUG_LENGTH_MAX - len(ending)].rstrip("-") + ending
    return slug


def optional_text(value: str | None) -> str | None:
    """Return a text that a database can hold, or None; see `rows.text`."""
    return None if value is None else text(value)


def end_of_prefix(prefix: str) -> str:
    """Return the smallest text that sorts after every text with a prefix, as databases sort: by
    code points.
    """
    for length in range(len(prefix), 0, -1):
        point = ord(prefix[length - 1])
        if point < 0x10FFFF:
            # No text of a database has a surrogate.
            following = 0xE000 if point == 0xD7FF else point + 1
            return prefix[: length - 1] + chr(following)
    return AFTER_ALL_IDS


def storable_json(value: Mapping[str, Any] | None) -> str | None:
    """Return metadata as a database can hold and read it; None where there is none."""
    return json.dumps(_storable(value)) if value else None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {text(str(key)): _storable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(each) for each in value]
    return value


def product_of(row: Row) -> Product:
    """Return the product of a row."""
    return Product(**{name: row[name] for name in Product._fields})


def key_of(row: Row) -> ApiKey:
    """Return the API key of a row."""
    return ApiKey(**{name: row[name] for name in ApiKey._fields})


def plan_of(row: Row) -> StoredPlan:
    """Return the plan of a row."""
    return StoredPlan(
        plan_id=row["plan_id"],
        name=row["name"],
        version=row["version"],
        document=json.loads(row["document"]),
        created_us=row["created_us"],
    )


def stored_user_of(row: Row) -> StoredUser:
    """Return the user of a row."""
    return StoredUser(
        user_id=row["user_id"],
        paygent_user_id=row["paygent_user_id"],
        name=row["name"],
        plan=row["plan"],
        own=from_json(row["own"]),
        subscription=subscription_of(row),
        sdk_enabled=bool(row["sdk_enabled"]),
        paused=bool(row["paused"]),
        paused_reason=row["paused_reason"],
        created_us=row["created_us"],
        last_us=row["last_us"],
    )


def override_of(row: Row) -> Override:
    """Return the override of a row."""
    return Override(
        override_id=row["override_id"],
        user_id=row["user_id"],
        limit=LimitKey(row["metric"], row["scope"], row["model"], row["window_rule"]),
        cap=row["cap"],
        added=row["added"],
        until_us=row["until_us"],
        reason=row["reason"],
        created_us=row["created_us"],
    )


def remembered_of(row: Row) -> Remembered:
    """Return the request of a row."""
    return Remembered(**{name: row[name] for name in Remembered._fields})


def revenue_of(row: Row) -> RevenueEntry:
    """Return the revenue entry of a row."""
    return RevenueEntry(**{name: row[name] for name in RevenueEntry._fields})


def revenue_row(entry: RevenueEntry, user_id: str) -> tuple[Any, ...]:
    """Return the row of an entry, in the order that `add_revenue` takes."""
    return (
        *(user_id, text(entry.revenue_id), entry.amount_nano, entry.kind),
        *(entry.period_start_us, entry.period_end_us, optional_text(entry.source)),
    )


def gate_event_of(row: Row) -> GateEvent:
    """Return the gate event of a row."""
    values = {name: row[name] for name in GateEvent._fields}
    values["blocked"] = bool(row["blocked"])
    values["metadata"] = from_json(row["metadata"])
    return GateEvent(**values)


def gate_event_span(wanted: GateEventFilter) -> dict[str, Any]:
    """Return what statements about gate events take of a filter, but the user of its cursor."""
    until_us = _END_US if wanted.until_us is None else wanted.until_us
    # No event has an empty id, so this is before all of the moment at which the span ends.
    before_us, before_id = min(wanted.before or (_END_US, ""), (until_us, ""))
    return {
        "before_us": before_us,
        "before_id": text(before_id),
        "since_us": -_END_US if wanted.since_us is None else wanted.since_us,
        "status": text(wanted.status or ""),
        "gate_reason": text(wanted.gate_reason or ""),
        "blocked_min": int(wanted.blocked_only),
    }
