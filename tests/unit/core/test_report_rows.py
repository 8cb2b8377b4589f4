"""The rows of a report as applications read them, and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.samples import MONTH, NOON_US, make_event

from paygent.core.period import to_datetime
from paygent.core.report import SpendQuery, SpendReport, fold_spend
from paygent.core.report_json import columns_of, read_report, report_to_json, values_of
from paygent.core.report_rows import UsageReport, UsageRow
from paygent.core.validation import InvalidValue

EVENTS = (
    make_event("a", quality="partial", metadata={"team": "x", "color": 7}, session_id=""),
    make_event("b", user_id="bob", cost_tokens_nano=1, blocked=True),
)


def report(*by: str) -> SpendReport:
    """Return a report of a month."""
    query = SpendQuery(by, MONTH.start_us, MONTH.end_us)
    return SpendReport(fold_spend(EVENTS, query, "UTC"), query, "UTC", NOON_US)


def test_usage_report__rows__have_a_field_for_each_key() -> None:
    """It is a tuple, with the total and what it is about."""
    made = UsageReport.of(report("user", "tag:team"))
    assert len(made) == 2
    assert [(row.user_id, row.tag, row.keys) for row in made] == [
        ("ann", "x", ("ann", "x")),
        ("bob", "", ("bob", "")),
    ]
    assert (made.by, made.timezone, made.as_of) == (
        ("user", "tag:team"),
        "UTC",
        to_datetime(NOON_US),
    )
    assert (made.start, made.end) == tuple(map(to_datetime, MONTH))
    assert (made.total.calls, made.total.cost, made.total.keys) == (2, 1.001e-6, ())
    (row,) = UsageReport.of(report("period"))
    assert (row.period_start, row.shadow_cost) == (to_datetime(MONTH.start_us), 1e-9)
    first, _ = UsageReport.of(report("tag:color", "tag:team"))
    assert (first.tag, first.keys) == ("7", ("7", "x"))  # the first key's


def test_usage_row__dumped__has_dollars_and_json_types() -> None:
    """As every value type of the package."""
    (row,) = UsageReport.of(report("period"))
    python = row.model_dump()
    assert python["period_start"] == to_datetime(MONTH.start_us)
    assert (python["cost"], python["cost_nano"]) == (1.001e-6, 1_001)
    shown = row.model_dump(mode="json")
    assert json.loads(json.dumps(shown)) == shown
    assert shown["period_start"] == to_datetime(MONTH.start_us).isoformat()
    assert UsageRow().model_dump(mode="json")["period_start"] is None
    assert row.doubtful_calls == 1


def test_to_pandas__a_report__has_a_column_for_each_key_and_figure() -> None:
    """With the names of the keys."""
    frame = UsageReport.of(report("user", "model")).to_pandas()
    assert list(frame.columns[:3]) == ["user", "model", "calls"]
    assert frame["cost_nano"].sum() == 1_001
    assert list(frame["user"]) == ["ann", "bob"]


def test_report_to_json__read_again__is_the_same_report() -> None:
    """What a server answers is what a process reads; a key without a value is null."""
    for by in (("user",), ("period", "session"), ("tag:team", "day"), ("model",)):
        made = report(*by)
        document = json.loads(json.dumps(report_to_json(made, "next")))
        found = read_report(document)
        assert (found.page, found.query.by) == (made.page._replace(following=None), by)
        assert (found.query.start_us, found.query.end_us) == tuple(MONTH)
        assert (found.timezone, found.as_of_us) == ("UTC", NOON_US)
        assert document["next_cursor"] == "next"
        assert list(document["rows"][0]) == list(columns_of(by))
        assert list(document["rows"][0].values()) == list(values_of(by, made.page.rows[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"by": None},
        {"from": "x"},
        {"rows": [{}]},
        {"rows": [5]},
        {"total": {}},
        {"rows": [{**dict.fromkeys(columns_of(("period",)), 1), "period": "x"}], "by": ["period"]},
        {"rows": [{**dict.fromkeys(columns_of(("user",)), 1), "calls": 1.5}]},
    ],
)
def test_read_report__what_is_no_report__is_refused(change: dict[str, Any]) -> None:
    """An answer of a stranger ends in an error, not in figures."""
    document = {**report_to_json(report("user"), None), **change}
    with pytest.raises(InvalidValue, match="must be a report"):
        read_report(document)
