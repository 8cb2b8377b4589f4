"""The rollup of tags: sums of usage by day and the value of each declared metadata key.

A key counts from two days after it was declared: by then every writer knows it, and each of its
days is whole. A correction counts under the tags of its original, as in `core/report.py`. A value
that is left without anything is not listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, Final

from paygent.core.messages import TAG_KEYS_MAX
from paygent.core.period import day_in_zone
from paygent.core.report import TAG, tag_of
from paygent.store.rollups import ALL_SUMS, FIGURES, METADATA
from paygent.store.rows import from_json, text
from paygent.store.statements import Row, Statements

_DECLARED_AHEAD_US = 2 * 86_400 * 10**6

TAG_ROLLUP_KEY: Final = ("span", "tag_key", "tag_value")

TagDays = Mapping[str, str]
"""First day of each declared key."""

TagSums = dict[tuple[str, str, str], list[int]]
"""Sums by day, key and value."""


def tag_days_of(row: Row) -> TagDays:
    """Return the declared keys of a product's row."""
    found: dict[str, str] = from_json(row["tag_keys"]) or {}
    return found


def declare_tags(sql: Statements, keys: Iterable[str], now_us: int) -> None:
    """Declare metadata keys of a product with a locked row; those beyond the fifth are not kept."""
    product = sql.product()
    known = dict(tag_days_of(product))
    first = day_in_zone(now_us + _DECLARED_AHEAD_US, product["timezone"])
    last = sql.spans_of_usage()["last"] or ""
    if last >= first:  # a sender's clock was ahead
        first = (date.fromisoformat(last) + timedelta(days=1)).isoformat()
    for key in keys:
        # A key that a database cannot hold is in no stored metadata.
        if key not in known and len(known) < TAG_KEYS_MAX and text(key) == key:
            known[key] = first
    if known != tag_days_of(product):
        sql.put_tag_keys(tag_keys=json.dumps(known))


def tags_of(
    metadata: Mapping[str, Any] | None, day: str, tag_days: TagDays
) -> Iterator[tuple[str, str]]:
    """Yield the declared keys that count a day, with their value; "" is none."""
    stored = {text(str(name)): value for name, value in (metadata or {}).items()}
    for key, first in tag_days.items():
        if day >= first:
            yield key, text(tag_of(stored, TAG + key))


def add_tags(
    sums: TagSums,
    day: str,
    metadata: Mapping[str, Any] | None,
    figures: Iterable[int],
    tag_days: TagDays,
) -> None:
    """Add figures to the sums of each declared key."""
    for key, value in tags_of(metadata, day, tag_days):
        known = sums.get((day, key, value))
        added = list(figures)
        if known is not None:
            added = [a + b for a, b in zip(known, added, strict=True)]
        sums[day, key, value] = added


def write_tags(sql: Statements, sums: TagSums, slot: int) -> None:
    """Write sums, in the order of their keys."""
    rows = [(*key, *figures) for key, figures in sorted(sums.items()) if any(figures)]
    if rows:
        sql.roll_up_tags(rows=rows, slot=slot)


def tags_to_forget(sql: Statements, user_id: str) -> TagSums:
    """Return what has to be added so that the usage of a user counts without tags, as long as their
    metadata is there. The user's row is locked.
    """
    tag_days = tag_days_of(sql.product())
    sums: TagSums = {}
    if not tag_days:
        return sums
    columns = {"metadata": METADATA, "sums": ALL_SUMS}
    first = min(tag_days.values())
    for row in sql.stream("tags_of_user", columns, user_id=user_id, first=first):
        day, metadata = row["day"], from_json(row["metadata"])
        figures = [row[name] for name in FIGURES]
        add_tags(sums, day, metadata, [-each for each in figures], tag_days)
        add_tags(sums, day, None, figures, tag_days)
    return sums
