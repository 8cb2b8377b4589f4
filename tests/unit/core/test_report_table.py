"""Tables of reports: the rows of REST, whoever made them, and nothing that is no report."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pandas as pd
import pytest

from paygent.core.report_json import margin_columns, tally_columns
from paygent.core.report_request import GATES, read_request
from paygent.core.report_table import RULES_OF, ReportTable, empty_table, sorted_rows
from paygent.core.validation import InvalidValue

NOON_US = 20_000 * 86_400 * 10**6 + 43_200 * 10**6


def document(**changes: Any) -> dict[str, Any]:
    """Return a report of gates as JSON."""
    request = read_request({"by": "user"}, rules=GATES)
    made = empty_table("gates", request, NOON_US)
    row = {"user": "ann", **dict.fromkeys(made["total"], 1), "later": 5}
    return {**made, "rows": [row], **changes}


def test_of__a_document__is_its_rows_and_what_they_are_about() -> None:
    """Fields of a later version are left out."""
    table = ReportTable.of(document())
    assert table.columns == tally_columns("gates", ("user",))
    assert (tuple(table[0]), table[0]["user"]) == (table.columns, "ann")
    assert (table.kind, table.by, table.timezone, table.shares) == ("gates", ("user",), "UTC", ())
    assert table.start == datetime(2024, 10, 1, tzinfo=timezone.utc)
    assert table.as_of == datetime(2024, 10, 4, 12, tzinfo=timezone.utc)
    frame = table.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert (list(frame.columns), frame["user"][0]) == (list(table.columns), "ann")


@pytest.mark.parametrize("kind", list(RULES_OF))
@pytest.mark.parametrize("place", [0, 1])
def test_empty__of_every_kind_and_key__is_a_table_without_rows(kind: Any, place: int) -> None:
    """Its columns are those of a report with rows."""
    key = RULES_OF[kind].keys[place]
    request = read_request({"by": key}, rules=RULES_OF[kind])
    table = ReportTable.of(empty_table(kind, request, NOON_US))
    assert (len(table), table.by, len(table.to_pandas())) == (0, (key,), 0)
    expected = margin_columns(key) if kind == "margin" else tally_columns(kind, (key,))
    assert table.columns == expected
    assert set(table.total.values()) <= {0, None}


@pytest.mark.parametrize(
    "given",
    [
        *(None, 5, [], {}, "report"),
        document(by=5),
        document(rows=5),
        document(rows=[5]),
        document(rows=[{"user": "ann"}]),
        document(total=None),
        document(as_of="now"),
        document(shares=[5]),
        {name: value for name, value in document().items() if name != "timezone"},
    ],
)
def test_of__anything_else__is_refused(given: Any) -> None:
    """A backend's answer is checked like any input."""
    with pytest.raises(InvalidValue, match="must be a report"):
        ReportTable.of(given)


def test_sorted_rows__in_any_order__are_those_of_the_definition() -> None:
    """By a figure, by its amount, by a time and by a key, each in both directions."""
    rows: list[dict[str, Any]] = [
        {"user": "b", "day": "2024-10-02", "hard": 1, "shadow_cost": 0.5, "shadow_cost_nano": 7},
        {"user": "a", "day": "2024-10-02", "hard": 2, "shadow_cost": 0.5, "shadow_cost_nano": 5},
        {"user": None, "day": "2024-10-01", "hard": 2, "shadow_cost": 0.5, "shadow_cost_nano": 6},
    ]
    request = read_request({"by": ("user", "day")}, rules=GATES)

    def users(sort: str, *, is_descending: bool) -> list[str | None]:
        asked = replace(request, sort=sort, is_descending=is_descending)
        return [row["user"] for row in sorted_rows(rows, asked)]

    assert users("hard", is_descending=True) == [None, "a", "b"]
    assert users("hard", is_descending=False) == ["b", None, "a"]
    assert users("shadow_cost", is_descending=True) == ["b", None, "a"]
    assert users("day", is_descending=False) == [None, "a", "b"]
    assert users("day", is_descending=True) == ["a", "b", None]
    assert users("user", is_descending=False) == [None, "a", "b"]
    assert sorted_rows([], request) == []
