"""Values that the contract and unit tests of store, ledger and sync share: events, keys, plans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.limit import LimitKey
from paygent.core.messages import Batch, Question
from paygent.core.period import END_OF_TIME_US, billing_period, calendar_month, day, to_datetime
from paygent.core.report_request import read_request
from paygent.store.port import Store

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000

NOON_US = 20_000 * DAY_US + 12 * HOUR_US
"""Noon of 2024-10-04 UTC."""

TODAY_US = NOON_US - 12 * HOUR_US
MONTH = calendar_month(NOON_US)
PRODUCT = "acme"

PERIOD_SPEND = LimitKey("spend", "user", "", "period")
SESSION_SPEND = LimitKey("spend", "session", "", "session")


def make_event(event_id: str, **fields: Any) -> Event:
    """Return an event of user `ann` at noon that costs 1,000 nano-dollars and 30 tokens."""
    given: dict[str, Any] = {
        "event_id": event_id,
        "user_id": "ann",
        "session_id": "s1",
        "at_us": NOON_US,
        "model": "gpt-4o-2024-08-06",
        "model_key": "gpt-4o",
        "provider": "openai",
        "plan": "default",
        "period_start_us": MONTH.start_us,
        "input_tokens": 20,
        "output_tokens": 10,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "cost_tokens_nano": 1_000,
        "cost_tools_nano": 0,
        **fields,
    }
    return Event(**given)


def make_correction(event_id: str, original: Event, **fields: Any) -> Event:
    """Return a correction that takes 100 nano-dollars and 3 tokens off an event."""
    given: dict[str, Any] = {
        "input_tokens": -2,
        "output_tokens": -1,
        "cost_tokens_nano": -100,
        "cost_tools_nano": 0,
        "quality": "exact",
        "source": "manual",
        **fields,
    }
    return original._replace(event_id=event_id, corrects=original.event_id, **given)


def period_key(metric: str = "spend", model: str = "", at_us: int = NOON_US) -> AccountKey:
    """Return the account of a limit per calendar month."""
    window = billing_period(None, at_us)
    assert window is not None  # a calendar month always contains the moment
    return AccountKey(LimitKey(metric, "user", model, "period"), "", *window)


def day_key(metric: str = "spend", model: str = "", at_us: int = NOON_US) -> AccountKey:
    """Return the account of a limit per day."""
    return AccountKey(LimitKey(metric, "user", model, "day"), "", *day(at_us))


def session_key(session_id: str, metric: str = "spend", model: str = "") -> AccountKey:
    """Return the account of a limit per session."""
    return AccountKey(LimitKey(metric, "session", model, "session"), session_id, 0, END_OF_TIME_US)


def rolling_key(rule: str = "rolling:24h", metric: str = "spend", model: str = "") -> AccountKey:
    """Return the account of a limit over a rolling window."""
    return AccountKey(LimitKey(metric, "user", model, rule), "", 0, END_OF_TIME_US)


def fold(events: Iterable[Event], user_id: str, key: AccountKey) -> int:
    """Return what an account must say, by the one rule: the sum of the events that it counts."""
    return sum(
        amount(
            key.limit.metric,
            cost_nano=event.cost_nano,
            tokens=event.total_tokens,
            calls=event.calls,
        )
        for event in events
        if event.user_id == user_id and key.counts(event)
    )


def batch_of(*events: Event, **others: Any) -> Batch:
    """Return a batch of events at noon."""
    return Batch(events=events, at_us=NOON_US, **others)


def ask(
    user_id: str, *accounts: AccountKey, period_start_us: int = MONTH.start_us
) -> tuple[Question, ...]:
    """Return one question about one user."""
    return (Question(user_id, accounts, period_start_us),)


class Usage(NamedTuple):
    """A row of a report by user, and by model or tag."""

    user_id: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    doubtful_calls: int = 0
    tag: str = ""
    shadow_calls: int = 0
    shadow_cost_nano: int = 0


def usage_of(
    store: Store, product: str, start_us: int, end_us: int, tag_key: str | None = None
) -> tuple[Usage, ...]:
    """Return usage by user and model, or by user and tag, over the UTC days of a span of time."""
    second = "model" if tag_key is None else f"tag:{tag_key}"
    days = {
        "start": to_datetime(day(start_us).start_us),
        "end": to_datetime(day(end_us - 1).end_us),
    }
    page = store.spend(product, read_request({"by": ("user", second), "sort": "user", **days})).page
    return tuple(
        Usage(
            user_id=row.keys[0],
            model=row.keys[1] if tag_key is None else "",
            calls=row.figures.calls,
            input_tokens=row.figures.input_tokens,
            output_tokens=row.figures.output_tokens,
            cost_nano=row.figures.cost_nano,
            doubtful_calls=row.figures.doubtful_calls,
            tag="" if tag_key is None else row.keys[1],
            shadow_calls=row.figures.shadow_calls,
            shadow_cost_nano=row.figures.shadow_cost_nano,
        )
        for row in page.rows
    )
