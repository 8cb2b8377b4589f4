"""The dataset of benchmarks: realistic, the same for a seed, and loaded as a server books it."""

from __future__ import annotations

import io
import sys
from collections import Counter
from datetime import date, datetime, timezone
from typing import Any

import pytest
from tests.bench import dataset
from tests.bench.dataset import (
    DAY_US,
    HOUR_US,
    MODELS,
    PLANS,
    TEAMS,
    Dataset,
    Size,
    book,
    load,
    progress_of,
)
from tests.contract.samples import PRODUCT
from tests.contract.stores import Clock, Stores, clock, stores

from paygent.core.event import Event
from paygent.core.period import billing_period, day_name
from paygent.core.plan import PlanConfig
from paygent.prices.catalogue import Catalogue
from paygent.store.ledger import SqlStore

__all__ = ["clock", "stores"]  # fixtures

SMALL = Size(calls=3_000, users=400, days=40, last=date(2026, 9, 17))
"""Of three months, of which August is whole."""

TABLES = {
    "events": "event_id",
    "event_ids": "event_id, user_id",
    "corrections": "event_id",
    "sessions": "user_id, session_id",
    "users": "user_id",
    "rollup_user": "span, user_id, period_start_us, model, provider, plan",
    "rollup_product": "span, model, provider, plan",
    "gate_events": "user_id, gate_event_id",
    "rollup_gate": "day, user_id, gate_reason",
    "rollup_tag": "span, tag_key, tag_value",
}
"""What events are stored in, with a key by which its rows are sorted."""

OF_THE_WRITER = {"slot", "used_us"}
"""Columns that depend on the writing thread, and on how a session's events are divided."""


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """The events of 90 days, at the size of the default's proportions."""
    return list(Dataset(Size(calls=20_000, users=2_000)).events())


def rows(store: SqlStore, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table, without what depends on the writer."""
    with store.engine.transaction(PRODUCT) as sql:
        found = sql.connection.execute(f"SELECT * FROM {table} ORDER BY {TABLES[table]}").fetchall()
    return [{name: row[name] for name in row.keys() if name not in OF_THE_WRITER} for row in found]  # noqa: SIM118 - a row of SQLite iterates over values


def test_dataset__the_same_seed__makes_the_same_users_and_events() -> None:
    """Also of one day alone; another seed makes others."""
    first, second = Dataset(SMALL), Dataset(SMALL)
    assert first.users == second.users
    assert list(first.events()) == list(second.events())
    day = list(Dataset(SMALL).events_of(17))
    assert day == [each for each in first.events() if day_name(each.at_us) == "2026-08-26"]
    other = Dataset(Size(3_000, 400, 40, SMALL.last, seed=2))
    assert other.users != first.users
    assert {each.at_us for each in other.events()}.isdisjoint(each.at_us for each in day)


def test_dataset__any_size__has_exactly_its_calls_on_its_days(events: list[Event]) -> None:
    """Ids are unique and rise with the time; corrections come right after their originals."""
    calls = [event for event in events if event.corrects is None]
    assert len(calls) == 20_000
    assert len({event.event_id for event in events}) == len(events)
    assert [event.at_us for event in events] == sorted(event.at_us for event in events)
    assert [event.event_id[:13] for event in calls] == sorted(each.event_id[:13] for each in calls)
    assert {day_name(event.at_us)[:7] for event in events} == {
        *("2026-06", "2026-07", "2026-08", "2026-09")
    }
    assert day_name(events[0].at_us) == "2026-06-20"
    assert day_name(events[-1].at_us) == "2026-09-17"
    corrections = [number for number, event in enumerate(events) if event.corrects is not None]
    assert len(corrections) > 100
    assert all(events[each].corrects == events[each - 1].event_id for each in corrections)


def test_dataset__users__have_a_heavy_tail(events: list[Event]) -> None:
    """The hundredth that is most active makes more than a fifth of the calls, and a third of the
    users no more than a few.
    """
    calls = sorted(Counter(each.user_id for each in events if each.calls).values(), reverse=True)
    assert 500 < len(calls) < 1_500
    assert 0.2 < sum(calls[:20]) / 20_000 < 0.7
    assert sum(count <= 6 for count in calls) > len(calls) / 3


def test_dataset__time__has_nights_and_weekends(events: list[Event]) -> None:
    """An afternoon has many times the calls of a night, and a Monday those of a Sunday."""
    hours = Counter(each.at_us % DAY_US // HOUR_US for each in events)
    assert hours[14] > 5 * hours[3] > 0
    weekdays = Counter(
        datetime.fromtimestamp(each.at_us // 10**6, timezone.utc).weekday() for each in events
    )
    assert weekdays[0] > 3 * weekdays[6] > 0


def test_dataset__events__are_of_every_kind(events: list[Event]) -> None:
    """Models, plans, teams, qualities, sessions, shadow mode, cached tokens: mostly the usual."""
    calls = [event for event in events if event.corrects is None]
    assert {(each.model, each.provider) for each in calls} == {
        (each.name, each.provider) for each in MODELS
    }
    assert {each.plan for each in calls} == set(PLANS)
    teams = Counter((each.metadata or {}).get("team") for each in calls)
    assert set(teams) == {None, *TEAMS}
    qualities = Counter(each.quality for each in calls)
    assert qualities["exact"] > 19_000
    assert min(qualities[each] for each in ("partial", "estimated", "unpriced")) > 50
    assert {each.quality for each in events if each.corrects} == {"exact", "estimated"}
    assert 20 < sum(each.blocked for each in calls) < 400
    assert 1_000 < sum(each.cached_input_tokens > 0 for each in calls) < 10_000
    assert all(0 <= each.cached_input_tokens <= each.input_tokens for each in calls)
    assert all((each.cost_tokens_nano > 0) == (each.quality != "unpriced") for each in calls)
    sessions = Counter(each.session_id for each in calls)
    assert 2_000 < len(sessions) < 8_000


def test_dataset__models__are_those_of_the_catalogue() -> None:
    """Twenty, under the name that the catalogue gives them."""
    catalogue = Catalogue()
    at_us = Dataset(SMALL).now_us
    assert len(MODELS) == 20
    for model in MODELS:
        resolved = catalogue.resolve(model.provider, model.name, at_us, PlanConfig())
        assert (resolved.model_key, resolved.rates.is_known) == (model.key, True)


def test_dataset__paying_users__have_billing_periods_from_different_days() -> None:
    """A month from any day on; events have the period that contains them."""
    made = Dataset(SMALL)
    subscriptions = {each.user_id: each.subscription for each in made.users}
    days = {day_name(each.start_us)[8:] for each in subscriptions.values() if each is not None}
    assert len(days) > 20
    assert {each.plan for each in made.users if each.subscription is None} == {"free"}
    for event in made.events():
        period = billing_period(subscriptions[event.user_id], event.at_us)
        assert period is not None
        assert event.period_start_us == period.start_us


def test_load__a_bulk_load__is_what_the_store_books(stores: Stores, clock: Clock) -> None:
    """An audit finds no difference, and every table has the rows that batches leave behind."""
    made = Dataset(SMALL)
    clock.at_us = made.now_us
    loaded, booked = stores.new(), stores.new()
    steps: list[int] = []
    load(loaded, PRODUCT, made, steps.append)
    assert list(loaded.audit(PRODUCT)) == []
    assert steps[-1] == len(rows(loaded, "events")) > 3_000
    assert len(steps) == 40
    book(booked, PRODUCT, made, batch_events=300)
    assert list(booked.audit(PRODUCT)) == []
    for table in TABLES:
        expected = rows(booked, table)
        if table == "users":  # a booking sees no user for the first time
            assert len(expected) == 400
        assert rows(loaded, table) == expected, table
    assert len(rows(loaded, "corrections")) > 20


def test_load__events_of_users__are_found_by_their_index(stores: Stores, clock: Clock) -> None:
    """The index that a bulk load postpones is there in the end."""
    made = Dataset(Size(calls=50, users=20, days=2))
    clock.at_us = made.now_us
    loaded, empty = stores.new(), stores.new()
    catalogue = "pg_indexes" if stores.engine == "postgres" else "sqlite_master"
    column = "indexname" if stores.engine == "postgres" else "name"

    def indexes(store: SqlStore) -> set[str]:
        with store.engine.transaction("") as sql:
            found = sql.connection.execute(f"SELECT {column} AS name FROM {catalogue}").fetchall()
        return {row["name"] for row in found}

    load(loaded, PRODUCT, made)
    assert indexes(loaded) >= indexes(empty)


def test_progress__a_pipe__gets_ten_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the count and the rate, and no control characters."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    with progress_of("loading", 1_000) as progress:
        for done in range(1, 1_001):
            progress(done)
    lines = output.getvalue().splitlines()
    assert [line.split(" events,")[0] for line in lines] == [
        f"  loading: {done:,}" for done in range(100, 1_001, 100)
    ]
    assert "\x1b" not in output.getvalue()


def test_progress__a_terminal__gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn in place, and removed at the end."""
    output = io.StringIO()
    output.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(dataset, "is_interactive", lambda *_: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    with progress_of("loading", 1_000) as progress:
        progress(1_000)
    assert "loading" in output.getvalue()
    assert "100%" in output.getvalue()
    assert "events/s" not in output.getvalue()
