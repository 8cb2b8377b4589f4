"""The data behind the pages: a product as it looks after some months, with one user who cost $91
more than they paid in the last full month.

Costs follow from the bundled price list, except one manual event that makes the loss exact. Times
are relative to the day of the test, since the server has the real clock.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from paygent.core.event import Event
from paygent.core.explain import rates_to_json
from paygent.core.messages import Batch, GateEvent, PriceRecord
from paygent.core.period import Window, calendar_month
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.pricing import cost_nano
from paygent.core.usage import Quality, Usage
from paygent.prices.catalogue import Catalogue
from paygent.server.api.products import create_key
from paygent.store.directory_port import RevenueEntry
from paygent.store.ledger import SqlStore
from paygent.store.sqlite import SqliteStore

PRODUCT: Final = "acme"

LOSER: Final = "acct_1017"
"""Costs $140 in the last full month and pays $49; has used up the cap of this month."""

ODD: Final = """Zoë's "first" /../..\\ 😀 <script>alert(1)</script> &amp; %2f?id=x#y"""
LONG: Final = "tenant-" + "x" * 240
QUIET: Final = ("acct_2001", "acct_2002", "acct_2003", "acct_2004")
"""Users whom one test each may change."""

EDITED_PLANS: Final = ("starter", "growth", "scale")
"""Plans that one test each may edit."""

LOSS_NANO: Final = 91 * 10**9
_PAID_NANO, _COST_NANO = 49 * 10**9, 140 * 10**9
_CAP_NANO = 60 * 10**9

_DAY_US = 86_400 * 10**6
_BATCH = 1_000
_USERS, _CALLS = 60, 24
_DAYS = 75

_MODELS = (
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-haiku-4-5", "anthropic"),
    ("text-embedding-3-small", "openai"),
    ("local-llama", ""),
)
_WEIGHTS = (3, 6, 2, 2, 3, 0.4)


class Keys(NamedTuple):
    """The keys of the product."""

    admin: str
    sdk: str


class _Calls:
    """Makes the events of calls, with the costs of the bundled price list."""

    def __init__(self) -> None:
        self.prices: dict[str, PriceRecord] = {}
        self._catalogue = Catalogue()
        self._numbers = itertools.count(1)

    def call(
        self,
        user_id: str,
        plan: str,
        at_us: int,
        model: tuple[str, str],
        tokens: tuple[int, int],
        quality: Quality = "exact",
    ) -> Event:
        """Return the event of a call."""
        name, provider = model
        found = self._catalogue.resolve(provider, name, at_us, PlanConfig())
        rates, number = found.rates, next(self._numbers)
        if rates.price_id:
            self.prices[rates.price_id] = PriceRecord(rates.price_id, rates_to_json(rates), at_us)
        return Event(
            event_id=f"e{number:07d}",
            user_id=user_id,
            session_id=f"s{number % 5}",
            at_us=at_us,
            model=name,
            model_key=found.model_key,
            provider=provider,
            plan=plan,
            period_start_us=calendar_month(at_us).start_us,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cached_input_tokens=0,
            cache_write_tokens=0,
            reasoning_tokens=0,
            cost_tokens_nano=cost_nano(Usage(*tokens), rates),
            cost_tools_nano=0,
            quality=quality if rates.price_id else "unpriced",
            price_id=rates.price_id,
            latency_ms=300 + number % 900,
        )

    def rest(self, like: Event, amount_nano: int) -> Event:
        """Return a manual event with a given cost, which completes a sum."""
        return like._replace(
            event_id=f"e{next(self._numbers):07d}",
            input_tokens=0,
            output_tokens=0,
            cost_tokens_nano=amount_nano,
            price_id="",
            cost_explicit=True,
            source="manual",
            description="nightly agent run",
        )


def build(path: Path) -> Keys:
    """Create a database with the data, and return the keys of its product."""
    now_us = time.time_ns() // 1_000
    begin_us = now_us - _DAYS * _DAY_US
    calls = _Calls()
    with closing(SqliteStore(str(path), now_us=lambda: begin_us)) as store:
        store.open()
        store.add_product("Acme Assistant", product_id=PRODUCT)
        admin = create_key(store, PRODUCT, "admin", "first start")[1]
        sdk = create_key(store, PRODUCT, "sdk", "application")[1]
        store.put_plans(PRODUCT, _plans(pro_cap=None))
        _add_loser(store, now_us)
        events = [*_losing_calls(calls, now_us), *_other_calls(calls, store, now_us)]
        events += _calls_of_odd_users(calls, store, now_us)
    with closing(SqliteStore(str(path))) as store:
        store.open()
        store.put_plans(PRODUCT, _plans(pro_cap=60))
        store.add_gate_events(PRODUCT, list(_gate_events(now_us)))
        _ingest(store, events, tuple(calls.prices.values()), now_us)
    return Keys(admin, sdk)


def _plans(*, pro_cap: float | None) -> dict[str, Any]:
    """Return the documents of all plans."""
    limits = {"gpt-4o": 40_000_000}
    plans = {
        "free": PlanConfig(price=0, max_spend_per_period=2),
        "pro": PlanConfig(price=49, max_spend_per_period=pro_cap, model_limits=limits),
        "team": PlanConfig(price=199, max_spend_per_period=400, enforce=False),
        **{name: PlanConfig(price=20, max_spend_per_period=30) for name in EDITED_PLANS},
    }
    return {name: plan_to_json(plan) for name, plan in plans.items()}


def last_month(now_us: int) -> Window:
    """Return the last full month, in the product's time zone, UTC."""
    return calendar_month(calendar_month(now_us).start_us - 1)


def _losing_calls(calls: _Calls, now_us: int) -> Iterator[Event]:
    """Yield the calls of the losing user: $140 in the last month, and this month's cap."""
    month, this = last_month(now_us), calendar_month(now_us)
    begin_us = max(this.start_us, now_us - 3 * _DAY_US)
    spans = ((month.start_us, month.end_us, _COST_NANO), (begin_us, now_us, _CAP_NANO))
    for start_us, end_us, whole_nano in spans:
        spent_nano = 0
        for number in itertools.count():
            at_us = start_us + (end_us - start_us) * (number % 150) // 150
            event = calls.call(LOSER, "pro", at_us, _MODELS[0], (80_000, 5_000))
            if spent_nano + event.cost_nano > whole_nano:
                yield calls.rest(event, whole_nano - spent_nano)
                break
            spent_nano += event.cost_nano
            yield event


def _add_loser(store: SqlStore, now_us: int) -> None:
    month = last_month(now_us)
    store.add_user(PRODUCT, LOSER, "Example Labs")
    store.subscribe(PRODUCT, LOSER, "pro", None)
    span = (month.start_us, month.end_us)
    store.add_revenue(
        PRODUCT, [RevenueEntry("in_1", LOSER, _PAID_NANO, "payment", *span, "invoice 1")]
    )


def _other_calls(calls: _Calls, store: SqlStore, now_us: int) -> Iterator[Event]:
    chance = random.Random(19)
    for number in range(_USERS):
        user_id = f"acct_{1_100 + number}"
        plan = chance.choices(("free", "pro", "team", *EDITED_PLANS), (6, 5, 1, 1, 1, 1))[0]
        store.add_user(PRODUCT, user_id, chance.choice((None, "Ada", "Grace", "Alan")))
        store.subscribe(PRODUCT, user_id, plan, None)
        size = {"free": 1, "team": 40}.get(plan, 12) * min(chance.paretovariate(1.5), 4)
        for _ in range(_CALLS):
            tokens = int(600 * size * chance.random()), int(150 * size * chance.random())
            quality: Quality = "estimated" if chance.random() < 0.02 else "exact"
            model = chance.choices(_MODELS, _WEIGHTS)[0]
            at_us = now_us - int(chance.random() * _DAYS * _DAY_US)
            yield calls.call(user_id, plan, at_us, model, tokens, quality)


def _calls_of_odd_users(calls: _Calls, store: SqlStore, now_us: int) -> Iterator[Event]:
    for user_id in (ODD, LONG, *QUIET):
        store.add_user(PRODUCT, user_id, None)
        store.subscribe(PRODUCT, user_id, "pro", None)
        for hours in range(3):
            at_us = max(now_us - hours * _DAY_US // 24, calendar_month(now_us).start_us)
            yield calls.call(user_id, "pro", at_us, _MODELS[hours], (1_500, 200))


def _gate_events(now_us: int) -> Iterator[GateEvent]:
    for number in range(30):
        is_refused = number % 2 == 0
        yield GateEvent(
            gate_event_id=f"g{number}",
            user_id=LOSER if number < 10 else f"acct_{1_100 + number}",
            session_id="s1",
            at_us=now_us - number * _DAY_US // 6,
            status="hard_gate" if is_refused else "soft_gate",
            gate_reason="total_spend" if number % 3 else "model_limit:gpt-4o",
            model="gpt-4o",
            blocked=is_refused,
            usage_ppm=1_000_000 if is_refused else 820_000,
            current_value="60.00" if is_refused else "49.20",
            limit_value="60.00",
            message="The user has used most of $60.00 in this billing period.",
            calls=1 + number % 4,
        )


def _ingest(
    store: SqlStore, events: list[Event], prices: tuple[PriceRecord, ...], now_us: int
) -> None:
    for number, first in enumerate(range(0, len(events), _BATCH), 1):
        part = tuple(events[first : first + _BATCH])
        records = prices if number == 1 else ()
        store.ingest(
            PRODUCT,
            Batch(events=part, records=records, at_us=now_us, holder="process-1", number=number),
        )
