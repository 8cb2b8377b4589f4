"""Reports of usage and cost: on every engine, each figure is the fold over the events."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from tests.contract.samples import DAY_US, HOUR_US, PRODUCT, make_correction, make_event
from tests.contract.stores import Clock, clock, execute, store, stores

from paygent.core.event import Event
from paygent.core.messages import Batch
from paygent.core.period import Subscription, to_us
from paygent.core.report import (
    FIGURE_SORTS,
    KEYS,
    START,
    TIME_KEYS,
    SpendPage,
    SpendReport,
    fold_spend,
)
from paygent.core.report_request import SpendRequest, read_request
from paygent.store.ledger import SqlStore

__all__ = ["clock", "store", "stores"]  # fixtures

USERS = ("ann", "bob", "cy", "dé", "eve")
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-5", "")
PROVIDERS = {"claude-sonnet-5": ("anthropic", "bedrock"), "": ("",)}
TEAMS: tuple[Any, ...] = ("search", "chat", "", 7, True, None)


class World(NamedTuple):
    """A product with usage around a moment.

    Attributes:
        zone: Its time zone.
        at_us: A moment in the middle: a change of clocks.
        now_us: The ledger's time.
    """

    zone: str
    at_us: int
    now_us: int


def world(zone: str, year: int, month: int, day: int) -> World:
    """Return a world around a day."""
    at_us = to_us(datetime(year, month, day, 1, tzinfo=timezone.utc))
    return World(zone, at_us, at_us + 40 * DAY_US)


WORLDS = (
    world("UTC", 2026, 3, 1),
    world("Europe/Berlin", 2026, 3, 29),
    world("Europe/Berlin", 2026, 10, 25),
    world("America/New_York", 2026, 11, 1),
    world("Asia/Kolkata", 2024, 2, 29),
    world("Australia/Lord_Howe", 2026, 4, 4),
    world("America/Sao_Paulo", 2018, 11, 4),  # midnight does not exist on this day
    world("Asia/Beirut", 2026, 10, 24),  # the last hour of this day is there twice
    world("Pacific/Apia", 2011, 12, 30),  # this day does not exist
    world("Pacific/Chatham", 2026, 9, 26),
)


def fill(store: SqlStore, place: World, seed: int) -> None:
    """Book 300 events of all kinds in the 60 days around the moment, their corrections, and what
    arrives late.
    """
    chance = random.Random(seed)
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, f"UPDATE products SET timezone = '{place.zone}'")
    store.add_user(PRODUCT, "bob", None)
    start_us = place.at_us - 17 * DAY_US
    subscription = Subscription(start_us, start_us + 14 * DAY_US + HOUR_US)
    store.subscribe(PRODUCT, "bob", "pro", subscription)
    events = [_event(chance, f"e{number}", place) for number in range(300)]
    late = [each for each in events if chance.random() < 0.1]
    corrections = [_correction(chance, f"c{number}", events) for number in range(60)]
    for some in (
        [each for each in events if each not in late],
        corrections[:40],
        late,
        corrections[20:],
    ):
        store.ingest(PRODUCT, Batch(events=tuple(some), at_us=place.now_us))


def _event(chance: random.Random, event_id: str, place: World) -> Event:
    model = chance.choice(MODELS)
    # Half of them in the hours around the change of clocks.
    distance_us = chance.choice((30 * DAY_US, 2 * HOUR_US))
    user_id = chance.choice(USERS)
    input_tokens = chance.randrange(1_000)
    return make_event(
        event_id,
        user_id=user_id,
        session_id=chance.choice(("", f"{user_id}1", f"{user_id}2", "shared")),
        at_us=place.at_us + chance.randrange(-distance_us, distance_us),
        model_key=model,
        provider=chance.choice(PROVIDERS.get(model, ("openai", "azure"))),
        input_tokens=input_tokens,
        output_tokens=chance.randrange(1_000),
        cached_input_tokens=chance.randrange(input_tokens + 1),
        cost_tokens_nano=chance.randrange(10**6),
        cost_tools_nano=chance.choice((0, 5)),
        quality=chance.choice(("exact", "exact", "partial", "estimated", "unpriced")),
        blocked=chance.random() < 0.1,
        metadata=chance.choice((None, {"team": chance.choice(TEAMS), "other": "x"})),
    )


def _correction(chance: random.Random, event_id: str, events: list[Event]) -> Event:
    return make_correction(
        event_id,
        chance.choice(events),
        cost_tokens_nano=chance.randrange(-500, 500),
        quality=chance.choice(("exact", "estimated")),
        restates=chance.random() < 0.3,
        metadata={"team": "late"},
    )


def booked(store: SqlStore) -> list[Event]:
    """Return every event, as it is booked."""
    with store.engine.transaction(PRODUCT) as sql:
        users = [row["user_id"] for row in sql.users_page(after="", users_max=1_000)]
    return [event for user_id in users for event in store.events(PRODUCT, user_id)]


def requests(place: World, seed: int) -> Iterator[SpendRequest]:
    """Yield random requests."""
    chance = random.Random(seed)
    while True:
        keys = (*KEYS, "tag:team")
        by = chance.sample(keys, chance.choice((1, 2)))
        given: dict[str, Any] = {"by": by, **_span(chance, place)}
        for name, values in (
            ("user", (*USERS, "zoe")),
            ("model", MODELS),
            ("provider", ("openai", "")),
            ("plan", ("default", "pro")),
            ("session", ("", "shared", "ann1")),
            ("tag:team", ("search", "", "7", "true")),
        ):
            if chance.random() < 0.15:
                given[name] = chance.choice(values)
        times = [key for key in by if key in TIME_KEYS]
        sort = chance.choice((None, *FIGURE_SORTS, *times, by[0]))
        can_descend = sort in FIGURE_SORTS or sort in times
        given["sort"] = f"-{sort}" if can_descend and chance.random() < 0.5 else sort
        yield read_request(given, rows_max=chance.choice((None, 1, 2, 7, 500)))


def _span(chance: random.Random, place: World) -> dict[str, Any]:
    """Return a span of time: days, instants, a period, or none."""
    kind = chance.choice(("days", "instants", "both", "period", "none"))
    if kind == "period":
        return {"period": chance.choice(("current", "previous"))}
    if kind == "none":
        return {}
    start_us, end_us = sorted(
        place.at_us + chance.choice((1, 20)) * chance.randrange(-2 * DAY_US, 2 * DAY_US)
        for _ in range(2)
    )
    start = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=start_us)
    end = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=end_us + DAY_US)
    day, following = start.date(), end.date() + timedelta(days=1)
    spans: dict[str, dict[str, Any]] = {
        "days": {"start": day, "end": following.isoformat()},
        "instants": {"start": start, "end": end},
        "both": {"start": day, "end": end + timedelta(days=2)},
    }
    return spans[kind]


def pages(store: SqlStore, request: SpendRequest) -> tuple[SpendReport, SpendPage]:
    """Return the first page's report, and all pages as one."""
    report = store.spend(PRODUCT, request)
    page = report.page
    rows = list(page.rows)
    while page.following is not None:
        page = store.spend(PRODUCT, replace(request, after=page.following)).page
        assert page.total == report.page.total
        assert page.rows
        rows += page.rows
    return report, SpendPage(tuple(rows), report.page.total, None)


@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_spend__any_request__is_the_fold_over_the_events(
    store: SqlStore, clock: Clock, number: int
) -> None:
    """Keys, filters, zones, spans, sorts and pages, on days on which clocks change, too; after
    corrections, late events and an erasure.
    """
    place = WORLDS[number]
    clock.at_us = place.now_us
    fill(store, place, number)
    assert store.erase_user(PRODUCT, "eve") is not None
    assert list(store.audit(PRODUCT)) == []
    events = booked(store)
    found = 0
    for _, request in zip(range(100), requests(place, number), strict=False):
        report, page = pages(store, request)
        expected = fold_spend(events, replace(report.query, rows_max=None, after=START), place.zone)
        assert page == expected, request
        assert sum((row.figures.cost_nano for row in page.rows), 0) == page.total.cost_nano
        found += bool(page.rows)
    assert found > 40
