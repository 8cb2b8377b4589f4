"""Realistic usage of a product, made from a seed, and the loaders that fill a store with it.

Few users make most calls, in sessions; nights and weekends are quiet. Each day has a random number
generator of its own, so that any day can be made again without those before it.

Theory of operation of `load`: a day's events are written in the engine's fastest way, with their
ids, sessions and corrections. Its rollups are added up by `Rollups`, as a booking does it, and
written once the day is complete. The rows of a month follow from those of its days, in the
database, so that memory holds no more than a day. `book` fills a store through its own verb, more
slowly: a test compares what both leave behind.
"""

from __future__ import annotations

import calendar
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from itertools import accumulate, islice, pairwise
from random import Random
from typing import Any, Final, NamedTuple, cast

from paygent.cli.console import is_interactive, make_console
from paygent.core.event import Event
from paygent.core.messages import Batch, GateEvent, PlanRecord
from paygent.core.period import Subscription, Window, billing_period, calendar_month, to_us
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.usage import Quality
from paygent.store.gates import GATE_FIGURES, GATE_KEY, GateSums
from paygent.store.ledger import SqlStore
from paygent.store.postgres import PostgresStore, make_partition
from paygent.store.rollups import FIGURES, PRODUCT_KEY, USER_KEY, Rollups
from paygent.store.rows import event_row
from paygent.store.statements import Statements
from paygent.store.tags import TAG_ROLLUP_KEY, TagSums, add_tags, write_tags

DAY_US: Final = 86_400_000_000
SECOND_US: Final = 1_000_000
HOUR_US: Final = 3_600 * SECOND_US


class Model(NamedTuple):
    """A model of the catalogue.

    Attributes:
        name, key, provider: As events have them.
        share: Its weight among the sessions.
        input_nano, cached_nano, output_nano: Price of a token.
        reasons: Whether a part of its output is reasoning.
    """

    name: str
    key: str
    provider: str
    share: float
    input_nano: int
    cached_nano: int
    output_nano: int
    reasons: bool = False


MODELS: Final = (
    Model("gpt-4o-mini-2024-07-18", "gpt-4o-mini", "openai", 20, 150, 75, 600),
    Model("gpt-5-mini-2025-08-07", "gpt-5-mini", "openai", 13, 250, 25, 2_000, reasons=True),
    Model("claude-sonnet-4-5-20250929", "claude-sonnet-4-5", "anthropic", 12, 3_000, 300, 15_000),
    Model("gpt-4o-2024-08-06", "gpt-4o", "openai", 9, 2_500, 1_250, 10_000),
    Model("gpt-5-2025-08-07", "gpt-5", "openai", 8, 1_250, 125, 10_000, reasons=True),
    Model("claude-haiku-4-5-20251001", "claude-haiku-4-5", "anthropic", 7, 1_000, 100, 5_000),
    Model("gemini-2.5-flash", "gemini-2.5-flash", "google", 6, 300, 30, 2_500, reasons=True),
    Model("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini", "openai", 5, 400, 100, 1_600),
    Model("gpt-4.1-2025-04-14", "gpt-4.1", "openai", 4, 2_000, 500, 8_000),
    Model("gpt-4o-2024-08-06", "gpt-4o", "azure", 3, 2_500, 1_250, 10_000),
    Model("gemini-2.5-pro", "gemini-2.5-pro", "google", 3, 1_250, 125, 10_000, reasons=True),
    Model("gpt-5-nano-2025-08-07", "gpt-5-nano", "openai", 2, 50, 5, 400, reasons=True),
    Model("gpt-4.1-nano-2025-04-14", "gpt-4.1-nano", "openai", 2, 100, 25, 400),
    Model("o4-mini-2025-04-16", "o4-mini", "openai", 1.5, 1_100, 275, 4_400, reasons=True),
    Model("claude-opus-4-1-20250805", "claude-opus-4-1", "anthropic", 1, 15_000, 1_500, 75_000),
    Model("o3-2025-04-16", "o3", "openai", 1, 2_000, 500, 8_000, reasons=True),
    Model("llama-3.3-70b-versatile", "llama-3.3-70b-versatile", "groq", 1, 590, 590, 790),
    Model("deepseek-chat", "deepseek-chat", "deepseek", 0.7, 135, 35, 550),
    Model("mistral-large-latest", "mistral-large", "mistral", 0.5, 2_000, 2_000, 6_000),
    Model("claude-3-5-haiku-20241022", "claude-3-5-haiku", "anthropic", 0.3, 800, 80, 4_000),
)
"""Twenty, with the prices of text tokens that the catalogue had in 2025."""

_MODEL_SHARES = list(accumulate(model.share for model in MODELS))

PLANS: Final = {"free": 70.0, "pro": 22.0, "team": 6.0, "enterprise": 2.0}
"""Share of the users, in percent. Those of all but the first plan have a subscription."""

TAG_DAYS: Final = {"team": ""}
"""The declared metadata key, from the first day on."""

PRICES: Final = {"free": None, "pro": 20, "team": 49, "enterprise": 199}
"""Dollars for a billing period."""

TEAMS: Final = ("support", "search", "writing", "code", "analytics", "research", "sales", "legal")

HOURS: Final = (
    *(2, 1, 1, 1, 1, 2, 4, 8, 14, 18, 19, 18),
    *(16, 18, 20, 20, 18, 15, 12, 10, 9, 8, 6, 4),
)
"""Weight of each hour of the day, UTC."""

WEEKDAYS: Final = (18, 20, 20, 19, 16, 4, 3)
"""Weight of each day of the week, from Monday."""

_HOUR_SHARES = list(accumulate(HOURS))
_GROWTH = 0.3  # the last day has so much more than the first, as a share
_ACTIVITY_SIGMA = 2.0  # the hundredth of the users that is most active makes over a third of calls
_SESSION_CALLS = 6  # in the mean
_CALL_GAP_US = 40 * 10**6  # in the mean, between two calls of a session
_TAGGED = 0.8
_CACHED = 0.35
_CACHED_INPUT_MIN = 1_024  # providers cache no shorter prompt
_BLOCKED = 0.004
_TOOLS = 0.02
_TOOLS_NANO = 10_000_000
_QUALITIES: Final[tuple[Quality, ...]] = ("exact", "estimated", "partial", "unpriced")
_QUALITY_SHARES = list(accumulate((97.0, 1.2, 1.0, 0.8)))
_CORRECTED = {"exact": 0.001, "estimated": 0.4, "partial": 0.4, "unpriced": 0.4}
_CORRECTION_DELAY_MS = 3_600_000
_EVENTS_CHUNK = 10_000  # rows that are made before they are written
_PLAIN_STEPS = 10


class User(NamedTuple):
    """A user of the product.

    Attributes:
        user_id, paygent_user_id: The application's id and the ledger's.
        plan: The assigned plan.
        subscription: None on the free plan, which has the calendar month.
    """

    user_id: str
    paygent_user_id: str
    plan: str
    subscription: Subscription | None


class _Call(NamedTuple):
    """A call of a session; calls are sorted by time."""

    at_us: int
    place: int  # of its session in the day, which decides between calls of one moment
    user: User
    session_id: str
    model: Model
    team: str | None
    period_start_us: int


@dataclass(frozen=True)
class Size:
    """How much usage there is.

    Attributes:
        calls: Exactly so many; corrections come on top.
        users: Of whom many make no call.
        days: Days with usage.
        last: The last one of them.
        seed: Of everything.
    """

    calls: int
    users: int = 100_000
    days: int = 90
    last: date = date(2026, 9, 17)
    seed: int = 1


class Dataset:
    """Usage of a size, in days of UTC."""

    def __init__(self, size: Size) -> None:
        """Make the users; events are made as they are asked for."""
        self.size = size
        first = size.last - timedelta(days=size.days - 1)
        self.days = tuple(first + timedelta(days=number) for number in range(size.days))
        self.start_us = _midnight(first)
        self.now_us = _midnight(size.last) + DAY_US - 1
        chance = Random(f"{size.seed} users")
        self.users = tuple(_users(chance, size.users, self.start_us))
        # By lot, so that ids are not in the order of activity.
        activity = (chance.lognormvariate(0, _ACTIVITY_SIGMA) for _ in self.users)
        self._activity = list(accumulate(activity))
        self._calls = _shares(self._weights(chance), size.calls)
        self._periods: dict[str, Window] = {}

    def _weights(self, chance: Random) -> Iterator[float]:
        """Yield the weight of each day."""
        for number, day in enumerate(self.days):
            growth = 1 + _GROWTH * number / self.size.days
            yield WEEKDAYS[day.weekday()] * growth * chance.uniform(0.9, 1.1)

    def months(self) -> list[Window]:
        """Return the calendar months that the days are in."""
        months = [calendar_month(self.start_us)]
        while months[-1].end_us <= self.now_us:
            months.append(calendar_month(months[-1].end_us))
        return months

    def events(self) -> Iterator[Event]:
        """Yield every event; see `events_of`."""
        for number in range(len(self.days)):
            yield from self.events_of(number)

    def events_of(self, number: int) -> Iterator[Event]:
        """Yield the events of a day in the order of their time, as the ledger books them. A
        correction comes right after its original.

        Args:
            number: The day's place in `days`.
        """
        chance = Random(f"{self.size.seed} {number}")
        for call in sorted(self._calls_of(chance, number)):
            event = _event(chance, call)
            yield event
            if chance.random() < _CORRECTED[event.quality]:
                yield _correction(chance, event)

    def _calls_of(self, chance: Random, number: int) -> Iterator[_Call]:
        """Yield the calls of a day, a session after another."""
        day_us = _midnight(self.days[number])
        left, place = self._calls[number], 0
        while left:
            (user,) = chance.choices(self.users, cum_weights=self._activity)
            (hour,) = chance.choices(range(24), cum_weights=_HOUR_SHARES)
            (model,) = chance.choices(MODELS, cum_weights=_MODEL_SHARES)
            team = chance.choice(TEAMS) if chance.random() < _TAGGED else None
            at_us = day_us + hour * HOUR_US + chance.randrange(HOUR_US)
            place += 1
            session_id = f"{number:03d}{place:07d}-{chance.getrandbits(48):012x}"
            wanted = min(left, 1 + int(chance.expovariate(1 / (_SESSION_CALLS - 1))))
            for _ in range(wanted):
                period_us = self._period_start(user, at_us)
                yield _Call(at_us, place, user, session_id, model, team, period_us)
                left -= 1
                at_us += 1 + int(chance.expovariate(1 / _CALL_GAP_US))
                if at_us >= day_us + DAY_US:
                    break  # a session ends with its day

    def _period_start(self, user: User, at_us: int) -> int:
        known = self._periods.get(user.user_id)
        if known is None or not known.contains(at_us):
            known = billing_period(user.subscription, at_us)
            assert known is not None, "subscriptions renew"
            self._periods[user.user_id] = known
        return known.start_us


def _midnight(day: date) -> int:
    return to_us(datetime(day.year, day.month, day.day, tzinfo=timezone.utc))


def _shares(weights: Iterable[float], total: int) -> list[int]:
    """Divide a whole number by weights."""
    sums = [0.0, *accumulate(weights)]
    bounds = [round(total * each / sums[-1]) for each in sums]
    return [after - before for before, after in pairwise(bounds)]


def _users(chance: Random, count: int, start_us: int) -> Iterator[User]:
    """Yield users in the order of their ids. Their periods begin at any second of the month before
    the first usage.
    """
    before = calendar_month(calendar_month(start_us).start_us - 1)
    names, shares = list(PLANS), list(accumulate(PLANS.values()))
    for number in range(count):
        (plan,) = chance.choices(names, cum_weights=shares)
        subscription = None
        if plan != names[0]:
            length_us = before.end_us - before.start_us
            moment = before.start_us + chance.randrange(0, length_us, SECOND_US)
            subscription = Subscription(moment, _a_month_later(moment))
        yield User(f"user_{number:07d}", f"pgu_{chance.getrandbits(64):016x}", plan, subscription)


def _a_month_later(moment_us: int) -> int:
    """Return the same day and time of the next month, or its last day."""
    following = calendar_month(calendar_month(moment_us).end_us)
    after_first = moment_us - calendar_month(moment_us).start_us
    first = datetime.fromtimestamp(following.start_us // 10**6, timezone.utc)
    days = calendar.monthrange(first.year, first.month)[1]
    return following.start_us + min(after_first // DAY_US, days - 1) * DAY_US + after_first % DAY_US


def _event(chance: Random, call: _Call) -> Event:
    model = call.model
    inputs = 20 + int(chance.lognormvariate(6.8, 1.1))  # half of them below 900
    outputs = 1 + int(chance.lognormvariate(5.3, 0.9))  # 200
    cached = 0
    if inputs >= _CACHED_INPUT_MIN and chance.random() < _CACHED:
        cached = int(inputs * chance.uniform(0.3, 0.95)) // 128 * 128
    (quality,) = chance.choices(_QUALITIES, cum_weights=_QUALITY_SHARES)
    cost_nano = (
        (inputs - cached) * model.input_nano
        + cached * model.cached_nano
        + outputs * model.output_nano
    )
    uses_tools = chance.random() < _TOOLS
    blocked = chance.random() < _BLOCKED
    return Event(
        event_id=_event_id(chance, call.at_us // 1_000),
        user_id=call.user.user_id,
        session_id=call.session_id,
        at_us=call.at_us,
        model=model.name,
        model_key=model.key,
        provider=model.provider,
        plan=call.user.plan,
        period_start_us=call.period_start_us,
        input_tokens=inputs,
        output_tokens=outputs,
        cached_input_tokens=cached,
        cache_write_tokens=0,
        reasoning_tokens=int(outputs * chance.random()) if model.reasons else 0,
        cost_tokens_nano=0 if quality == "unpriced" else cost_nano,
        cost_tools_nano=_TOOLS_NANO if uses_tools else 0,
        quality=quality,
        price_id=f"catalogue:{model.provider}/{model.key}@2025-11-01",
        latency_ms=200 + outputs * 9 + chance.randrange(400),
        blocked=blocked,
        gate_reason="total_spend" if blocked else "",
        tool_calls=("search",) if uses_tools else (),
        metadata=None if call.team is None else {"team": call.team},
    )


def _correction(chance: Random, original: Event) -> Event:
    """Return what corrects an event by a few tokens, as the ledger books it."""
    fewer = chance.randrange(original.output_tokens // 4 + 1)
    return original._replace(
        event_id=_event_id(chance, original.at_us // 1_000 + _CORRECTION_DELAY_MS),
        input_tokens=0,
        output_tokens=-fewer,
        cached_input_tokens=0,
        reasoning_tokens=0,
        cost_tokens_nano=chance.randrange(-1_000, 1_000) * fewer,
        cost_tools_nano=0,
        quality=chance.choice(("exact", "exact", "exact", "estimated")),
        source="manual",
        price_id="",
        latency_ms=0,
        tool_calls=(),
        metadata=None,
        corrects=original.event_id,
    )


def gate_events_of(events: Iterable[Event]) -> list[GateEvent]:
    """Return the gate events beside some calls: of one in 500, a warning or some refusals."""
    found = []
    for event in events:
        number = int(event.event_id[-5:], 16)  # random bits
        if number % 500 or event.corrects is not None:
            continue
        is_hard = number % 3 == 0
        reason = f"model_limit:{event.model_key}" if number % 4 == 0 else "total_spend"
        found.append(
            GateEvent(
                gate_event_id=f"gate-{event.event_id}",
                user_id=event.user_id,
                session_id=event.session_id,
                at_us=event.at_us,
                status="hard_gate" if is_hard else "soft_gate",
                gate_reason=reason,
                model=event.model,
                blocked=is_hard,
                usage_ppm=1_000_000 if is_hard else 800_000,
                current_value="10",
                limit_value="10",
                message="",
                calls=number % 20 + 1 if is_hard else 1,
            )
        )
    return found


def _event_id(chance: Random, at_ms: int) -> str:
    """Return a UUIDv7 of a moment."""
    bits = chance.getrandbits(74)
    return (
        f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-7{bits >> 62:03x}"
        f"-{0x8000 | (bits >> 48) & 0x3FFF:04x}-{bits & 0xFFFF_FFFF_FFFF:012x}"
    )


# -- loading

_COLUMNS: Final = {
    "users": (
        *("product_id", "user_id", "paygent_user_id", "plan", "period_start_us", "period_end_us"),
        *("renews", "created_us", "assigned_us"),
    ),
    "assignments": (
        *("product_id", "user_id", "assigned_us", "plan"),
        *("period_start_us", "period_end_us", "renews"),
    ),
    "event_ids": ("product_id", "event_id", "user_id", "at_us"),
    "corrections": (
        *("product_id", "user_id", "event_id", "corrects"),
        *("at_us", "quality", "restates", "waiting"),
    ),
    "sessions": ("product_id", "user_id", "session_id", "implicit", "started_us", "used_us"),
    "rollup_user": ("product_id", *USER_KEY, *FIGURES),
    "rollup_product": ("product_id", *PRODUCT_KEY, *FIGURES, "slot"),
    "gate_events": (
        *("product_id", "user_id", "gate_event_id", "session_id", "at_us", "status"),
        *("gate_reason", "model", "blocked", "usage_ppm", "current_value", "limit_value"),
        *("message", "metadata", "calls"),
    ),
    "rollup_gate": ("product_id", *GATE_KEY, *GATE_FIGURES),
    "rollup_tag": ("product_id", *TAG_ROLLUP_KEY, *FIGURES, "slot"),
}
_SLOT = 0  # of a product's rollup; any is right, since readers sum them

OnEvents = Callable[[int], None]
"""Receives how many events are stored by now."""


def _no_progress(done: int) -> None:
    """Show nothing."""


def load(
    store: SqlStore, product: str, dataset: Dataset, progress: OnEvents = _no_progress
) -> None:
    """Fill an empty product of an open store, past its verbs.

    Args:
        store: Of any engine; no other process uses it.
        product: A product that does not exist yet.
        dataset: What is stored.
        progress: Counts events, after each day.
    """
    _add_users(store, product, dataset)
    postponed = _postpone_index(store)
    done = 0
    month: str | None = None
    for number, day in enumerate(dataset.days):
        name = day.isoformat()
        if month is not None and month != name[:7]:
            _add_month(store, product, month)
        month = name[:7]
        done += _add_day(store, product, name, dataset.events_of(number))
        progress(done)
    assert month is not None, "a dataset has a day"
    _add_month(store, product, month)
    with store.engine.transaction(product, writes=True) as sql:
        for statement in postponed:
            sql.connection.execute(statement)


def book(
    store: SqlStore,
    product: str,
    dataset: Dataset,
    *,
    batch_events: int = 500,
    progress: OnEvents = _no_progress,
) -> None:
    """Fill an empty product of an open store as a server does, batch by batch; see `load`."""
    _add_users(store, product, dataset)
    events, done = dataset.events(), 0
    while batch := tuple(islice(events, batch_events)):
        gates = tuple(gate_events_of(batch))
        (outcome,) = store.book(product, [Batch(batch, gates, at_us=dataset.now_us)])
        if isinstance(outcome, Exception):
            raise outcome
        done += len(batch)
        progress(done)


def _add_users(store: SqlStore, product: str, dataset: Dataset) -> None:
    """Create the product and its users, and on PostgreSQL the partitions of the months."""
    store.add_product("Bench", product_id=product)
    plans = [
        PlanRecord(name, plan_to_json(PlanConfig(price=price)), 0) for name, price in PRICES.items()
    ]
    store.ingest(product, Batch(records=tuple(plans), at_us=dataset.start_us))
    with store.engine.transaction(product, writes=True) as sql:
        sql.put_tag_keys(tag_keys=json.dumps(TAG_DAYS))
    since_us = dataset.start_us - 40 * DAY_US  # before their subscriptions
    users, assignments = [], []
    for user in dataset.users:
        period = user.subscription or (None, None, None)
        users.append((product, *user[:3], *period, since_us, since_us))
        assignments.append((product, user.user_id, since_us, user.plan, *period))
    with store.engine.transaction(product, writes=True) as sql:
        if isinstance(store, PostgresStore):
            for month in dataset.months():
                make_partition(sql.connection, *month)
        _insert(sql, "users", users)
        _insert(sql, "assignments", assignments)


def _postpone_index(store: SqlStore) -> list[str]:
    """Drop the index of a SQLite database whose rows do not come in its order, and return the
    statements that make it: sorted at once, each page is written once.
    """
    if isinstance(store, PostgresStore):
        return []  # there it is the key of the partitions
    with store.engine.transaction("", writes=True) as sql:
        found = sql.connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'index' AND name = 'events_by_user'"
        ).fetchall()
        sql.connection.execute("DROP INDEX events_by_user")
    return [str(row["sql"]) for row in found]


class _RolledUp:
    """Takes the rows that `Rollups.write` would write.

    Attributes:
        days: Those of users, without their months.
        products: Those of the product, without a slot.
        gates, tags: Those of gates and tags.
    """

    def __init__(self) -> None:
        self.days: list[tuple[Any, ...]] = []
        self.products: list[tuple[Any, ...]] = []
        self.gates: list[tuple[Any, ...]] = []
        self.tags: list[tuple[Any, ...]] = []

    def roll_up_users(self, *, rows: list[tuple[Any, ...]]) -> None:
        self.days = [row for row in rows if len(row[0]) == len("2026-10-03")]

    def roll_up_products(self, *, rows: list[tuple[Any, ...]], slot: int) -> None:
        self.products = [(*row, slot) for row in rows]

    def roll_up_tags(self, *, rows: list[tuple[Any, ...]], slot: int) -> None:
        self.tags = [(*row, slot) for row in rows]

    def roll_up_gates(self, *, rows: list[tuple[Any, ...]]) -> None:
        self.gates = rows


def _add_day(store: SqlStore, product: str, day: str, events: Iterator[Event]) -> int:
    """Store a day with its rollups, in one transaction; return the number of its events."""
    rollups, gates, rolled_up, done = Rollups("UTC"), GateSums("UTC"), _RolledUp(), 0
    sessions: dict[tuple[str, str], list[int]] = {}
    tags: TagSums = {}
    original: Event | None = None
    with store.engine.transaction(product, writes=True) as sql:
        while chunk := list(islice(events, _EVENTS_CHUNK)):
            for event in chunk:
                if event.corrects is None:
                    original = event
                assert original is not None, "a correction follows its original"
                is_doubtful = event is original and event.quality != "exact"
                figures = rollups.add(event, day, is_doubtful=is_doubtful)
                add_tags(tags, day, original.metadata, figures, TAG_DAYS)
                if event is not original and event.quality == "exact" != original.quality:
                    figures = rollups.resolve(original)
                    add_tags(tags, day, original.metadata, figures, TAG_DAYS)
                if event.blocked:
                    calls, cost_nano = event.calls, event.cost_nano
                    gates.add_shadow(day, event.user_id, event.gate_reason, calls, cost_nano)
                key = event.user_id, event.session_id
                sessions.setdefault(key, [event.at_us, 0])[1] = event.at_us
            store.engine.insert_events(sql, [event_row(product, day, each) for each in chunk])
            ids = [(product, each.event_id, each.user_id, each.at_us) for each in chunk]
            _insert(sql, "event_ids", sorted(ids))
            _insert(sql, "corrections", _corrections(product, chunk))
            at_gates = gate_events_of(chunk)
            for each in at_gates:
                gates.add(each)
            _insert(sql, "gate_events", [_gate_row(product, each) for each in at_gates])
            done += len(chunk)
        rows = [(product, *key, 0, *span) for key, span in sorted(sessions.items())]
        _insert(sql, "sessions", rows)
        rollups.write(cast(Statements, rolled_up), _SLOT)
        gates.write(cast(Statements, rolled_up))
        write_tags(cast(Statements, rolled_up), tags, _SLOT)
        _insert(sql, "rollup_tag", [(product, *row) for row in rolled_up.tags])
        _insert(sql, "rollup_gate", [(product, *row) for row in rolled_up.gates])
        _insert(sql, "rollup_user", [(product, *row) for row in rolled_up.days])
        _insert(sql, "rollup_product", [(product, *row) for row in rolled_up.products])
    return done


def _gate_row(product: str, event: GateEvent) -> tuple[Any, ...]:
    values = event._asdict() | {"product_id": product, "blocked": int(event.blocked)}
    return tuple(values[name] for name in _COLUMNS["gate_events"])


def _corrections(product: str, events: Iterable[Event]) -> list[tuple[Any, ...]]:
    return [
        (product, each.user_id, each.event_id, each.corrects, each.at_us, each.quality, 0, 0)
        for each in events
        if each.corrects is not None
    ]


def _add_month(store: SqlStore, product: str, month: str) -> None:
    """Store the rows of a month, which are sums of those of its days."""
    key = ", ".join(USER_KEY[1:])
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in FIGURES)
    with store.engine.transaction(product, writes=True) as sql:
        sql.connection.execute(
            f"INSERT INTO rollup_user ({', '.join(_COLUMNS['rollup_user'])})"
            f" SELECT product_id, '{month}', {key}, {sums} FROM rollup_user"
            f" WHERE product_id = '{product}' AND span > '{month}-' AND span < '{month}-~'"
            f" GROUP BY product_id, {key} ORDER BY {key}"
        )


def _insert(sql: Statements, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows in the engine's fastest way."""
    columns = _COLUMNS[table]
    if not hasattr(sql.connection, "pgconn"):
        marks = ", ".join("?" for _ in columns)
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        sql.connection.executemany(statement, rows)
        return
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with sql.connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


@contextmanager
def progress_of(title: str, total: int) -> Iterator[OnEvents]:
    """Show how far something is: a bar on a terminal, ten lines in a pipe.

    Args:
        title: What is being done.
        total: Events in the end, about.
    """
    if is_interactive(sys.stdout, os.environ):
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

        console = make_console(sys.stdout, os.environ)
        columns = "  {task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    started, shown = time.perf_counter(), 0

    def print_step(done: int) -> None:
        nonlocal shown
        step = done * _PLAIN_STEPS // total
        if step > shown:
            shown = step
            rate = done / (time.perf_counter() - started)
            print(f"  {title}: {done:,} events, {rate:,.0f} events/s", flush=True)

    yield print_step
