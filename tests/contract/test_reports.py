"""Reports of usage and cost: on every engine, each figure is the fold over the events."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from tests.contract.samples import DAY_US, HOUR_US, NOON_US, PRODUCT, make_correction, make_event
from tests.contract.stores import ODD, Clock, clock, execute, store, stores

from paygent.core.event import Event
from paygent.core.messages import Batch, TagKeysRecord
from paygent.core.period import Subscription, day_in_zone, to_datetime, to_us
from paygent.core.report import (
    FIGURE_SORTS,
    KEYS,
    START,
    TIME_KEYS,
    Figures,
    SpendPage,
    SpendReport,
    fold_spend,
)
from paygent.core.report_request import SpendRequest, read_request
from paygent.core.validation import InvalidValue
from paygent.store import reports
from paygent.store.ledger import SqlStore
from paygent.store.tags import tag_days_of

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
    if store.product(PRODUCT) is None:
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


def test_spend_rows__any_request__are_the_rows_of_all_pages(store: SqlStore, clock: Clock) -> None:
    """Whatever the size of its pages is; no transaction is left open."""
    place = WORLDS[2]
    clock.at_us = place.now_us
    fill(store, place, 20)
    for _, request in zip(range(30), requests(place, 20), strict=False):
        rows = list(store.spend_rows(PRODUCT, request))
        assert rows == list(store.spend(PRODUCT, replace(request, rows_max=None)).page.rows)
    found = store.spend_rows(PRODUCT, SpendRequest(("user", "day"), start=place.at_us - DAY_US))
    assert next(found).figures.calls > 0
    found.close()  # type: ignore[attr-defined]
    assert store.erase_user(PRODUCT, "ann") is not None
    assert list(store.spend_rows("empty", SpendRequest(("user",)))) == []


def test_spend_of_users__any_request__has_the_total_of_each_user(
    store: SqlStore, clock: Clock
) -> None:
    """From the rollup and from events; zero for users without usage, and for none in particular."""
    place = WORLDS[2]
    clock.at_us = place.now_us
    fill(store, place, 22)
    users = [*USERS, "zoe", ODD]
    days = {"start": day_in_zone(place.at_us - 20 * DAY_US, place.zone)}
    instants = {"start": to_datetime(place.at_us - 20 * DAY_US + HOUR_US)}
    for given in (
        {},
        days,
        instants,
        {**days, "model": "gpt-4o"},
        {**instants, "plan": "default"},
    ):
        request = read_request({"by": "user", **given}, rows_max=1)
        found = store.spend_of_users(PRODUCT, request, users)
        assert found == {
            each: store.spend(
                PRODUCT, read_request({"by": "day", "user": each, **given})
            ).page.total
            for each in users
        }
        assert bool(found["ann"].calls) == bool(given)  # nothing was used this month
        assert store.spend_of_users(PRODUCT, request, ()) == {}
    assert store.spend_of_users("empty", request, ["ann"]) == {"ann": Figures()}


def test_daily_rows__of_whole_days__add_up_to_the_report(store: SqlStore, clock: Clock) -> None:
    """A row for each day, user, model and provider, in this order, with the filters of reports."""
    place = WORLDS[1]
    clock.at_us = place.now_us
    fill(store, place, 21)
    days = {"start": day_in_zone(place.at_us - 20 * DAY_US, place.zone)}
    for where in ({}, {"user": "bob"}, {"model": "", "plan": "default"}, {"provider": "azure"}):
        request = read_request({"by": "user", **days, **where})
        rows = list(store.daily_rows(PRODUCT, request))
        assert [row.keys for row in rows] == sorted({row.keys for row in rows})
        sums: dict[tuple[str, ...], Figures] = {}
        for row in rows:
            sums[row.keys[:2]] = row.figures.plus(sums.get(row.keys[:2], Figures()))
        by_day = store.spend(PRODUCT, replace(request, by=("day", "user"))).page.rows
        assert sums == {row.keys: row.figures for row in by_day}
        assert sums
    assert list(store.daily_rows("empty", read_request({"by": "user"}))) == []


@pytest.mark.parametrize(
    "given",
    [
        {"session": "shared", "start": "2026-01-01"},
        {"tag:team": "x", "start": "2026-01-01"},
        {"user": "ann", "period": "current"},
        {"start": "2026-03-01T12:00:00Z"},
        {"end": "2026-03-01T12:00:00Z", "start": "2026-02-01"},
    ],
)
def test_daily_rows__what_the_rollups_do_not_hold__is_refused(
    store: SqlStore, clock: Clock, given: dict[str, str]
) -> None:
    """Parts of days, sessions, tags and periods."""
    clock.at_us = WORLDS[0].now_us
    fill(store, WORLDS[0], 22)
    with pytest.raises(InvalidValue, match="must not be given here: these rows are of user"):
        list(store.daily_rows(PRODUCT, read_request({"by": "user", **given})))


def test_spend__many_events_one_by_one__are_refused_and_few_are_not(
    store: SqlStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on what is read, and whole days of what the rollups hold are read from them."""
    clock.at_us = WORLDS[0].now_us
    fill(store, WORLDS[0], 23)
    count = store.spend(PRODUCT, read_request({"by": "session", "start": "2026-01-01"}))
    monkeypatch.setattr(reports, "EVENTS_MAX", count.page.total.calls // 2)
    with pytest.raises(InvalidValue, match="events, which is more than a report reads"):
        store.spend(PRODUCT, read_request({"by": "session", "start": "2026-01-01"}))
    one = {"by": "session", "start": "2026-01-01", "user": "ann"}
    assert store.spend(PRODUCT, read_request(one)).page.rows
    half_a_day = {"by": "user", "start": "2026-01-31T12:00:00Z"}
    assert store.spend(PRODUCT, read_request(half_a_day)).page.rows
    monkeypatch.setattr(reports, "EVENTS_MAX", 3)
    with pytest.raises(InvalidValue, match="more than 3 events"):
        store.spend(PRODUCT, read_request(one))
    # A day has more calls than may be read, and a moment of it has not.
    moment = {
        "start": to_datetime(WORLDS[0].at_us),
        "end": to_datetime(WORLDS[0].at_us + 60 * 10**6),
    }
    for given in ({"by": "session", "user": "ann"}, {"by": "model"}):
        assert store.spend(PRODUCT, read_request({**given, **moment})).page.total.calls <= 3


def test_spend__odd_texts__are_found_as_they_are_stored(store: SqlStore, clock: Clock) -> None:
    """NUL and lone surrogates are replaced in events, in filters and in tags alike."""
    clock.at_us = WORLDS[0].now_us
    event = make_event("a", user_id=ODD, model_key=ODD, at_us=clock.at_us, metadata={ODD: ODD})
    store.ingest(PRODUCT, Batch(events=(event,), at_us=clock.at_us))
    for given in ({"user": ODD}, {"model": ODD}, {f"tag:{ODD}": ODD}):
        (row,) = store.spend(PRODUCT, read_request({"by": f"user,tag:{ODD}", **given})).page.rows
        assert row.keys[0] == row.keys[1] == store.events(PRODUCT, ODD)[0].user_id


def test_spend__of_a_session__is_found_by_its_users_or_by_its_days(
    store: SqlStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session id that nobody has, that several users have, and that too many have."""
    place = WORLDS[0]
    clock.at_us = place.now_us
    fill(store, place, 24)
    events = booked(store)

    def check(**where: str) -> int:
        request = read_request({"by": "user,model", "start": "2026-01-01", **where})
        found = store.spend(PRODUCT, request)
        assert found.page == fold_spend(events, found.query, place.zone)
        return len({row.keys[0] for row in found.page.rows})

    assert check(session="nobody") == 0
    assert check(session="shared") > 3
    assert check(session="shared", user="ann") == 1
    assert check(session="", user="ann") == 1
    monkeypatch.setattr(reports, "_SESSION_USERS_MAX", 2)
    assert check(session="shared") > 3


# -- the rollup of declared tags


def declare(store: SqlStore, keys: tuple[str, ...], at_us: int) -> None:
    """Declare metadata keys."""
    record = TagKeysRecord(keys, at_us)
    store.ingest(PRODUCT, Batch(records=(record,), at_us=at_us))


def rows_of_tags(store: SqlStore) -> int:
    """Return how many rows the rollup has."""
    with store.engine.transaction(PRODUCT) as sql:
        found = sql.connection.execute("SELECT COUNT(*) AS rows FROM rollup_tag").fetchone()
    return int(found["rows"])


@pytest.mark.parametrize("place", WORLDS, ids=lambda place: f"{place.zone} {place.at_us}")
def test_tags__declared_in_the_middle__are_the_fold_before_and_after(
    store: SqlStore, clock: Clock, place: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the rollup where it holds the days, else from the events: corrections before and after
    their originals, late events, erasure and days of clock change among them.
    """
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, f"UPDATE products SET timezone = '{place.zone}'")
    clock.at_us = place.at_us - 10 * DAY_US
    declare(store, ("team", "other", "team"), clock.at_us)
    clock.at_us = place.now_us
    fill(store, place, seed=place.at_us % 1_000)
    assert rows_of_tags(store) > 20
    assert list(store.audit(PRODUCT)) == []
    store.erase_user(PRODUCT, "dé")
    assert list(store.audit(PRODUCT)) == []
    events = booked(store)
    chance = random.Random(5)
    for number in range(60):
        by = chance.choice(
            ("tag:team", "tag:other", "tag:team,day", "month,tag:team", "day", "month")
        )
        start = to_datetime(place.at_us).date() + timedelta(days=chance.randrange(-30, 20))
        given: dict[str, Any] = {
            "by": by,
            "start": start,
            "end": start + timedelta(days=chance.choice((2, 9, 40))),
            "sort": chance.choice(("-calls", "cost", None)),
        }
        if "tag" not in by or number % 3 == 0:
            given["tag:team"] = chance.choice(("search", "7", "", "true", "late", "none"))
        if by == "tag:other":
            given.pop("tag:team", None)
        request = read_request(given, rows_max=chance.choice((None, 2)), now_us=place.now_us)
        report = store.spend(PRODUCT, request)
        assert report.page == fold_spend(events, report.query, place.zone), given


def test_tags__of_more_events_than_can_be_read__are_there_once_declared(
    store: SqlStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tag and by time; beside another key the events have to be read."""
    place = WORLDS[0]
    store.add_product("Acme", product_id=PRODUCT)
    clock.at_us = place.at_us - 40 * DAY_US
    declare(store, ("team",), clock.at_us)
    clock.at_us = place.now_us
    fill(store, place, seed=1)
    monkeypatch.setattr(reports, "EVENTS_MAX", 3)
    given = {"start": to_datetime(place.at_us - 30 * DAY_US).date(), "end": None}
    found = store.spend(PRODUCT, read_request({"by": "tag:team", **given}, now_us=place.now_us))
    assert len(found.page.rows) > 3
    with pytest.raises(InvalidValue, match="more than 3 events"):
        store.spend(PRODUCT, read_request({"by": "tag:team,user", **given}, now_us=place.now_us))
    with pytest.raises(InvalidValue, match="more than 3 events"):
        store.spend(PRODUCT, read_request({"by": "tag:other", **given}, now_us=place.now_us))


def test_tags__more_than_five_keys__keeps_the_first_five(store: SqlStore, clock: Clock) -> None:
    """Keys that were declared keep their first day; one that no database holds is left out."""
    store.add_product("Acme", product_id=PRODUCT)
    declare(store, ("a", "b\0"), clock.at_us)
    clock.at_us += DAY_US
    declare(store, ("a", "b", "c", "d", "e", "f"), clock.at_us)
    declare(store, ("g",), clock.at_us)
    with store.engine.transaction(PRODUCT) as sql:
        days = tag_days_of(sql.product())
    assert list(days) == ["a", "b", "c", "d", "e"]
    assert days["a"] < days["b"] == days["e"]


def test_tags__a_falsified_sum__is_found_and_repaired(store: SqlStore, clock: Clock) -> None:
    """Also a row that belongs to no event."""
    store.add_product("Acme", product_id=PRODUCT)
    place = WORLDS[0]
    clock.at_us = place.at_us - 40 * DAY_US
    declare(store, ("team",), clock.at_us)
    clock.at_us = place.now_us
    fill(store, place, seed=2)
    execute(store, "UPDATE rollup_tag SET cost_nano = cost_nano + 5 WHERE tag_value = 'search'")
    found = list(store.audit(PRODUCT))
    assert {(each.table, each.column, each.stored - each.folded) for each in found} == {
        ("rollup_tag", "cost_nano", 5)
    }
    assert store.repair(PRODUCT) == len(found)
    assert list(store.audit(PRODUCT)) == []


def declare_days_before(store: SqlStore, clock: Clock) -> None:
    """Make a product that keeps sums by `team` since days before what happens next."""
    store.add_product("Acme", product_id=PRODUCT)
    clock.at_us = NOON_US - 10 * DAY_US
    declare(store, ("team",), clock.at_us)
    clock.at_us = NOON_US + DAY_US


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_tags__a_correction_of_a_correction__is_the_fold(
    store: SqlStore, clock: Clock, order: tuple[int, ...]
) -> None:
    """It counts under its own tags, in whichever order the three come."""
    declare_days_before(store, clock)
    call = make_event("a", metadata={"team": "search"})
    correction = make_correction("b", call, metadata={"team": "chat"})
    again = make_correction("c", correction, metadata={"team": "late"})
    for number in order:
        event = (call, correction, again)[number]
        store.ingest(PRODUCT, Batch(events=(event,), at_us=clock.at_us))
    assert list(store.audit(PRODUCT)) == []
    for key in ("tag:team", "tag:team,user"):  # from the rollup, and from events
        request = read_request({"by": key, "start": None, "end": None}, now_us=clock.at_us)
        report = store.spend(PRODUCT, request)
        assert report.page == fold_spend(booked(store), report.query, "UTC")
        assert report.page.rows


def test_tags__a_correction_at_another_time_than_its_original__is_the_fold(
    store: SqlStore, clock: Clock
) -> None:
    """It came first, with a time of its own: it counts there, under its own tags."""
    declare_days_before(store, clock)
    call = make_event("a", metadata={"team": "search"})
    correction = make_correction("b", call, metadata={"team": "chat"}, at_us=call.at_us - 1)
    for event in (correction, call):
        store.ingest(PRODUCT, Batch(events=(event,), at_us=clock.at_us))
    assert list(store.audit(PRODUCT)) == []
    request = read_request({"by": "tag:team", "start": None, "end": None}, now_us=clock.at_us)
    report = store.spend(PRODUCT, request)
    assert [row.keys for row in report.page.rows] == [("search",), ("chat",)]
    assert report.page == fold_spend(booked(store), report.query, "UTC")


def test_tags__usage_that_is_ahead_of_the_declaration__is_counted(
    store: SqlStore, clock: Clock
) -> None:
    """A sender's clock was five days ahead: the key counts from the day after."""
    store.add_product("Acme", product_id=PRODUCT)
    clock.at_us = NOON_US
    ahead = make_event("a", at_us=NOON_US + 5 * DAY_US, metadata={"team": "search"})
    store.ingest(PRODUCT, Batch(events=(ahead,), at_us=clock.at_us))
    declare(store, ("team",), clock.at_us)
    clock.at_us = NOON_US + 9 * DAY_US
    late = make_event("b", at_us=NOON_US + 6 * DAY_US, metadata={"team": "search"})
    store.ingest(PRODUCT, Batch(events=(late,), at_us=clock.at_us))
    assert list(store.audit(PRODUCT)) == []
    assert rows_of_tags(store) == 1
    request = read_request({"by": "tag:team", "start": None, "end": None}, now_us=clock.at_us)
    (row,) = store.spend(PRODUCT, request).page.rows
    assert (row.keys, row.figures.calls) == (("search",), 2)
