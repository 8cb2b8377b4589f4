"""Reports of gates and of quality: on every engine, each figure is the fold over what was sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.samples import DAY_US, NOON_US, PRODUCT, batch_of, make_event
from tests.contract.stores import Clock, clock, execute, store, stores
from tests.contract.test_directory import make_gate_event
from tests.contract.test_reports import WORLDS, World, booked, fill

from paygent.core.event import Event
from paygent.core.messages import QUARTER_US, Batch, GateEvent, LedgerRecord, UnmeteredCount
from paygent.core.period import Subscription, day_in_zone, to_datetime
from paygent.core.report import TIME_KEYS, SpendQuery
from paygent.core.report_request import (
    GATES,
    QUALITY,
    Rules,
    SpendRequest,
    read_request,
)
from paygent.core.tally import (
    FIGURES_OF,
    GATE_KEYS,
    QUALITY_KEYS,
    Tallies,
    TallyReport,
    fold_gates,
    fold_quality,
    sorts_of,
    tally_page,
)
from paygent.core.validation import InvalidValue
from paygent.store.ledger import SqlStore

__all__ = ["clock", "store", "stores"]  # fixtures

REASONS = ("total_spend", "session_spend", "model_limit:gpt-4o", "")
OPERATIONS = ("openai:POST /videos", "litellm:avideo", "anthropic:POST /new")
USERS = ("ann", "bob", "cy", "zoë")


def gate_events(place: World, seed: int) -> list[GateEvent]:
    """Return gate events of the 60 days around a moment, half of them in the hours around it."""
    chance = random.Random(seed)
    return [_gate_event(chance, f"g{number}", place) for number in range(150)]


def _gate_event(chance: random.Random, gate_event_id: str, place: World) -> GateEvent:
    distance_us = chance.choice((30 * DAY_US, DAY_US // 12))
    status = chance.choice(("soft_gate", "hard_gate"))
    return make_gate_event(
        gate_event_id,
        chance.choice(USERS),
        at_us=place.at_us + chance.randrange(-distance_us, distance_us),
        status=status,
        gate_reason=chance.choice(REASONS),
        blocked=status == "hard_gate" and chance.random() < 0.7,
        calls=chance.choice((1, 1, 20)),
    )


def unmetered(place: World, seed: int) -> list[UnmeteredCount]:
    """Return counts of unmetered calls of some processes."""
    chance = random.Random(seed)
    found: dict[Any, UnmeteredCount] = {}
    for _ in range(80):
        at_us = place.at_us + chance.randrange(-2 * DAY_US, 2 * DAY_US)
        since_us = at_us // QUARTER_US * QUARTER_US
        key = (
            chance.choice(("one", "two")),
            since_us,
            chance.choice(OPERATIONS),
            chance.choice(("gpt-4o", "sora", "")),
        )
        found[key] = UnmeteredCount(*key, chance.randrange(1, 50))
    return list(found.values())


class Told:
    """What a store was sent: the material of the folds."""

    def __init__(self, store: SqlStore, place: World, seed: int) -> None:
        """Fill a store in any order, with repetitions."""
        fill(store, place, seed)
        self.gates, self.unmetered = gate_events(place, seed), unmetered(place, seed)
        chance = random.Random(seed)
        # Numbers so far come before the last ones, or after them.
        records: list[LedgerRecord] = [*self.gates, *self.unmetered, *self.gates[:40]]
        records += [each._replace(calls=each.calls // 2 + 1) for each in self.unmetered]
        chance.shuffle(records)
        for start in range(0, len(records), 50):
            batch = Batch(records=tuple(records[start : start + 50]), at_us=place.now_us)
            store.ingest(PRODUCT, batch)
        self.events = booked(store)

    def fold(self, kind: str, query: SpendQuery, zone: str) -> Tallies:
        """Return the groups of a report."""
        if kind == "gates":
            return fold_gates(self.gates, self.events, query, zone)
        return fold_quality(self.events, self.unmetered, query, zone)


def requests(kind: str, rules: Rules, place: World, seed: int) -> Iterator[SpendRequest]:
    """Yield random requests."""
    chance = random.Random(seed)
    for _ in range(50):
        by = chance.sample(rules.keys, chance.choice((1, 2)))
        sorts = [*rules.sorts, *(key for key in by if key in TIME_KEYS)]
        sort = chance.choice(sorts)
        middle = to_datetime(place.at_us).date()
        start = middle + timedelta(days=chance.randrange(-35, 3))
        given: dict[str, Any] = {
            "by": by,
            "start": chance.choice((start, None)),
            "end": start + timedelta(days=chance.choice((1, 2, 40))),
            "sort": chance.choice((sort, f"-{sort}", by[0], None)),
        }
        if given["sort"] == by[0] and by[0] in TIME_KEYS:
            given["sort"] = None
        if given["start"] is None:
            given["end"] = None
        values = {
            "user": USERS,
            "reason": REASONS,
            "model": ("gpt-4o", "", "sora"),
            "provider": ("openai", ""),
            "operation": (*OPERATIONS, ""),
        }
        for name in rules.filters:
            if chance.random() < 0.2:
                given[name] = chance.choice(values[name])
        yield read_request(
            given, rules=rules, rows_max=chance.choice((None, 1, 3)), now_us=place.at_us + DAY_US
        )


def pages(store: SqlStore, kind: Any, request: SpendRequest) -> list[TallyReport]:
    """Return all pages of a report."""
    found = [store.tally(PRODUCT, kind, request)]
    while (after := found[-1].following) is not None:
        found.append(store.tally(PRODUCT, kind, replace(request, after=after)))
    return found


@pytest.mark.parametrize("place", WORLDS[:6], ids=lambda place: f"{place.zone} {place.at_us}")
@pytest.mark.parametrize(("kind", "rules"), [("gates", GATES), ("quality", QUALITY)])
def test_tallies__random_requests__are_the_fold(
    store: SqlStore, clock: Clock, place: World, kind: Any, rules: Rules
) -> None:
    """Keys, filters, zones, days of clock change, sorts, pages: rows in order, and the total."""
    clock.at_us = place.now_us
    told = Told(store, place, seed=7)
    for request in requests(kind, rules, place, seed=place.at_us):
        found = pages(store, kind, request)
        whole = replace(found[0].query, rows_max=None)
        tallies = told.fold(kind, whole, place.zone)
        expected = tally_page(kind, tallies, whole, place.zone, request.now_us or 0)
        assert tuple(row for page in found for row in page.rows) == expected.rows
        assert {page.total for page in found} == {expected.total}
        assert {page.kind for page in found} == {kind}


@pytest.mark.parametrize("place", [WORLDS[2]], ids=lambda place: place.zone)
def test_tallies__what_was_told__is_what_an_audit_finds(
    store: SqlStore, clock: Clock, place: World
) -> None:
    """Gate events and shadow calls are counted once, in the same transaction as they are stored."""
    clock.at_us = place.now_us
    Told(store, place, seed=3)
    assert list(store.audit(PRODUCT)) == []


def test_gates__of_an_erased_user__stay_without_the_id(store: SqlStore, clock: Clock) -> None:
    """Sums stay, under the pseudonym; what arrives late lands there, too."""
    shadow = make_event("e", blocked=True, gate_reason="total_spend")
    store.ingest(PRODUCT, batch_of(shadow, records=(make_gate_event("g1"),)))
    pseudonym = store.erase_user(PRODUCT, "ann")
    assert pseudonym is not None
    late = make_gate_event("g2", message="of ann", session_id="of ann", calls=4)
    store.ingest(PRODUCT, batch_of(records=(late,)))
    request = read_request({"by": "user"}, rules=GATES, now_us=NOON_US)
    ((keys, figures),) = store.tally(PRODUCT, "gates", request).rows
    assert keys == (pseudonym,)
    assert figures == (0, 5, 5, 1, 1_000)
    assert list(store.audit(PRODUCT)) == []


def test_gates__a_corrected_shadow_call__costs_what_is_right(store: SqlStore) -> None:
    """The correction counts under the reason of its original."""
    original = make_event("e", blocked=True, gate_reason="total_spend")
    correction = original._replace(
        event_id="c", corrects="e", cost_tokens_nano=-400, blocked=False, gate_reason=""
    )
    store.ingest(PRODUCT, batch_of(original))
    store.ingest(PRODUCT, batch_of(correction))
    request = read_request({"by": "reason"}, rules=GATES, now_us=NOON_US)
    ((keys, figures),) = store.tally(PRODUCT, "gates", request).rows
    assert (keys, figures) == (("total_spend",), (0, 0, 0, 1, 600))


def test_unmetered__counts_of_one_time__never_fall(store: SqlStore) -> None:
    """A repeated record, a late one, and two in one batch: the greatest number counts."""
    since_us = NOON_US // QUARTER_US * QUARTER_US
    count = UnmeteredCount("p", since_us, OPERATIONS[0], "sora", 5)
    less, more = count._replace(calls=3), count._replace(calls=7)
    for records in ((count,), (less,), (count, more), (count,)):
        store.ingest(PRODUCT, Batch(records=records, at_us=NOON_US))
    request = read_request({"by": "operation"}, rules=QUALITY, now_us=NOON_US)
    report = store.tally(PRODUCT, "quality", request)
    assert [(row.keys, row.figures[-1]) for row in report.rows] == [((OPERATIONS[0],), 7)]


@pytest.mark.parametrize(("rules", "kind"), [(GATES, "gates"), (QUALITY, "quality")])
def test_tallies__parts_of_days__are_refused(store: SqlStore, rules: Rules, kind: Any) -> None:
    """The error names the argument, and whose days they are."""
    given = {"by": "day", "start": "2026-10-01", "end": "2026-10-03T12:00Z"}
    with pytest.raises(InvalidValue, match=r"end.*must be the start of a day in UTC"):
        store.tally(PRODUCT, kind, read_request(given, rules=rules))
    midnight = read_request({**given, "end": "2026-10-03T00:00Z"}, rules=rules)
    assert store.tally(PRODUCT, kind, midnight).rows == ()


def test_gates__a_billing_period__has_to_be_of_days(store: SqlStore) -> None:
    """One that begins at noon is refused by the name of its argument; others are right."""
    store.add_user(PRODUCT, "ann", None)
    month = 30 * DAY_US
    given = {"by": "reason", "user": "ann", "period": "current"}
    request = read_request(given, rules=GATES, now_us=NOON_US)
    store.subscribe(PRODUCT, "ann", "pro", Subscription(NOON_US - DAY_US, NOON_US - DAY_US + month))
    with pytest.raises(InvalidValue, match=r"period.*must begin and end with a day in UTC"):
        store.tally(PRODUCT, "gates", request)
    start_us = NOON_US - NOON_US % DAY_US - DAY_US
    store.subscribe(PRODUCT, "ann", "pro", Subscription(start_us, start_us + month))
    early = make_gate_event("g1", at_us=start_us - 1)
    store.add_gate_events(PRODUCT, [early, make_gate_event("g2", at_us=start_us)])
    assert store.tally(PRODUCT, "gates", request).total == (0, 1, 1, 0, 0)


def test_gates__the_month_of_a_user_without_a_period__is_that_of_the_zone(store: SqlStore) -> None:
    """Gates are of whole days, and the UTC month begins within one."""
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, "UPDATE products SET timezone = 'America/New_York'")
    store.add_gate_events(PRODUCT, [make_gate_event("g1")])
    given = {"by": "reason", "user": "ann", "period": "current"}
    report = store.tally(PRODUCT, "gates", read_request(given, rules=GATES, now_us=NOON_US))
    assert (report.total[1], report.timezone) == (1, "America/New_York")


def test_requests__of_every_report__take_its_keys() -> None:
    """The keys and sorts are those of the definition."""
    assert (GATES.keys, QUALITY.keys) == (GATE_KEYS, QUALITY_KEYS)
    assert sorts_of("gates") == ("soft", "hard", "refused_calls", "shadow_calls", "shadow_cost")
    assert FIGURES_OF["quality"] == sorts_of("quality")
    with pytest.raises(InvalidValue, match=r"must be one or two of user, reason, day, month$"):
        read_request({"by": "model"}, rules=GATES)


def test_day_of_an_event__is_that_of_the_zone() -> None:
    """The folds count by the product's days."""
    at_us = NOON_US + DAY_US // 2 - 1
    event: Event = make_event("e", at_us=at_us, blocked=True, gate_reason="x")
    query = SpendQuery(("day",), 0, 2**60)
    (keys,) = fold_gates((), [event], query, "Europe/Berlin")
    assert keys == (day_in_zone(at_us, "Europe/Berlin"),) == ("2024-10-05",)
