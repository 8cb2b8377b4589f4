"""Usage by the value of a metadata key, from rows that have the metadata as it was sent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from paygent.core.report import UsageRow, group
from paygent.store.statements import Row


def usage_by_tag(rows: Iterable[Row], tag_key: str) -> tuple[UsageRow, ...]:
    """Return usage by user, model and tag, in that order.

    Args:
        rows: Of `tagged_usage`.
        tag_key: The metadata key of the tag; its value is shown as text, "" where there is none.
    """
    tagged = []
    for row in rows:
        fields = {name: row[name] for name in row.keys() if name != "metadata"}  # noqa: SIM118
        tagged.append(UsageRow(**fields, tag=_tag(row["metadata"], tag_key)))
    grouped = group(tagged, ("user", "model", "tag"))
    return tuple(sorted(grouped, key=lambda row: (row.user_id, row.model, row.tag)))


def _tag(metadata: str | None, key: str) -> str:
    value: Any = None if metadata is None else json.loads(metadata).get(key)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
