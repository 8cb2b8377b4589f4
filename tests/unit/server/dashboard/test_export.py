"""Exports: all rows of what a page shows, with exact figures."""

from __future__ import annotations

import csv
import re
from datetime import datetime
from functools import partial
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.responses import Response, StreamingResponse
from tests.contract.samples import MINUTE_US, NOON_US, batch_of, make_correction, make_event
from tests.unit.server.dashboard.conftest import PRODUCT, MakeVisit

from paygent.core.money import to_usd
from paygent.core.period import to_datetime
from paygent.server.dashboard import export
from paygent.server.dashboard.export import calls_table, show_export
from paygent.server.dashboard.user import show_user
from paygent.server.problems import Problem
from paygent.store.dashboard_port import CallFilter
from paygent.store.sqlite import SqliteStore

ALL = CallFilter(0, NOON_US * 2)


def rows_of(store: SqliteStore, wanted: CallFilter = ALL) -> list[dict[str, Any]]:
    """Return the rows of a user's calls by column."""
    header, *rows = calls_table(PRODUCT, store, "ann", wanted)
    return [dict(zip(header, row, strict=True)) for row in rows]


async def lines_of(answer: Response) -> list[list[str]]:
    """Return the rows of a file."""
    assert isinstance(answer, StreamingResponse)
    body = b"".join([chunk async for chunk in answer.body_iterator if isinstance(chunk, bytes)])
    return list(csv.reader(body.decode().splitlines()))


def fill(store: SqliteStore) -> None:
    """Book two calls and a correction of a user."""
    store.add_user(PRODUCT, "ann", None)
    first = make_event(
        "e1",
        cached_input_tokens=3,
        cache_write_tokens=4,
        reasoning_tokens=5,
        cost_tools_nano=7,
        quality="estimated",
        price_id="list@1",
        latency_ms=250,
        description='a,b\n"c"',
    )
    second = make_event("e2", at_us=NOON_US + MINUTE_US, model_key="o3", model="o3")
    store.ingest(PRODUCT, batch_of(first, second))
    store.ingest(PRODUCT, batch_of(make_correction("c1", first)))


def test_calls_table__a_call__has_each_field_in_its_column(store: SqliteStore) -> None:
    """Amounts are there in dollars and, exactly, in nano-dollars."""
    fill(store)
    second, first, correction = rows_of(store)
    assert first == {
        "id": "e1",
        "timestamp": to_datetime(NOON_US).isoformat(),
        "user_id": "ann",
        "session_id": "s1",
        "model": "gpt-4o-2024-08-06",
        "provider": "openai",
        "plan": "default",
        "input_tokens": 20,
        "output_tokens": 10,
        "cached_input_tokens": 3,
        "cache_write_tokens": 4,
        "reasoning_tokens": 5,
        "cost_tokens": to_usd(1_000),
        "cost_tools": to_usd(7),
        "cost_total": to_usd(1_007),
        "cost_nano": 1_007,
        "quality": "estimated",
        "source": first["source"],
        "price_id": "list@1",
        "latency_ms": 250,
        "blocked": False,
        "corrects": "",
        "description": 'a,b\n"c"',
    }
    assert datetime.fromisoformat(first["timestamp"]).utcoffset() is not None
    assert (second["id"], second["description"]) == ("e2", "")
    assert (correction["corrects"], correction["cost_nano"]) == ("e1", -100)


def test_calls_table__more_calls_than_a_page__has_every_one_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several begin at one moment, and where the last page is full."""
    monkeypatch.setattr(export, "_PAGE", 3)
    make = partial(make_event, user_id="ann")
    events = [make(f"e{number}", at_us=NOON_US + number // 2) for number in range(9)]
    store.ingest(PRODUCT, batch_of(*events))
    expected = [each.event_id for each in store.calls(PRODUCT, "ann", ALL, 100)]
    assert [row["id"] for row in rows_of(store)] == expected
    assert len(set(expected)) == 9


def test_calls_table__of_a_user_without_calls__is_the_header(store: SqliteStore) -> None:
    """A file with columns is no mistake."""
    assert rows_of(store) == []


async def test_show_export__calls__are_those_of_the_page(
    store: SqliteStore, make_visit: MakeVisit
) -> None:
    """With its range and filters, in a file that is named by both."""
    fill(store)
    visit = make_visit("/export", report="calls", id="ann", model="o3", range="7d")
    answer = await show_export(visit)
    header, *rows = await lines_of(answer)
    assert [row[header.index("id")] for row in rows] == ["e2"]
    span = f"{visit.state.start}_{visit.state.last_day}"
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="paygent_calls_{span}.csv"'
    )


async def test_show_export__all_calls__are_of_all_times(
    store: SqliteStore, make_visit: MakeVisit
) -> None:
    """Whatever range and filters the page had: it is what the user may ask for."""
    fill(store)
    store.ingest(PRODUCT, batch_of(make_event("old", at_us=1), make_event("late", at_us=10**16)))
    visit = make_visit("/export", report="all_calls", id="ann", model="o3", range="7d")
    answer = await show_export(visit)
    header, *rows = await lines_of(answer)
    ids = {row[header.index("id")] for row in rows}
    assert ids == {"e1", "e2", "c1", "old", "late"}
    assert answer.headers["content-disposition"].endswith('filename="paygent_all_calls.csv"')


@pytest.mark.parametrize(("report", "column"), [("spend", "cost_nano"), ("margin", "cost_nano")])
async def test_show_export__a_report__has_the_figures_of_the_page(
    store: SqliteStore, make_visit: MakeVisit, report: str, column: str
) -> None:
    """By what the page groups; the sum of the rows is the cost of all calls."""
    fill(store)
    answer = await show_export(make_visit("/export", report=report, by="user"))
    header, *rows = await lines_of(answer)
    assert [row[0] for row in rows] == ["ann"]
    assert [row[header.index(column)] for row in rows] == ["1907"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"report": "x"}, 422),
        ({"report": "calls"}, 422),
        ({"report": "calls", "id": "eve"}, 404),
        ({"report": "calls", "id": "ann", "quality": "x"}, 422),
        ({"report": "calls", "id": "ann", "session": "\0"}, 422),
    ],
)
async def test_show_export__of_nothing__is_a_problem(
    store: SqliteStore, make_visit: MakeVisit, query: dict[str, str], status: int
) -> None:
    """An unknown report, user or filter has no file."""
    fill(store)
    with pytest.raises(Problem) as caught:
        await show_export(make_visit("/export", **query))
    assert caught.value.status_code == status


async def test_show_user__the_link_to_all_calls__is_answered(
    store: SqliteStore, make_visit: MakeVisit
) -> None:
    """The page of a user has an address that the export accepts."""
    fill(store)
    text = bytes((await show_user(make_visit("/user", id="ann", tab="manage"))).body).decode()
    (address,) = re.findall(r'href="(/export[^"]*)"', text)
    query = dict(parse_qsl(urlsplit(unescape(address)).query))
    header, *rows = await lines_of(await show_export(make_visit("/export", **query)))
    assert len(rows) == 3
    assert header[0] == "id"
