"""Time windows over which limits count: half-open, in UTC, anchored as their rule defines.

Times are integers, microseconds since 1970-01-01 UTC, so that a window has the same value in
memory, in the journal and in the store. Month arithmetic clamps to the last day and returns to the
anchor's day: Jan 31 → Feb 28 → Mar 31.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Literal, NamedTuple

MICROSECONDS_PER_SECOND = 10**6
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(9999, 12, 31, tzinfo=timezone.utc)
_DAY_US = 86_400 * MICROSECONDS_PER_SECOND
_QUARTER_US = 900 * MICROSECONDS_PER_SECOND

END_OF_TIME_US = 253_402_300_800 * MICROSECONDS_PER_SECOND
"""Year 10000: the end of a window that no time ends (a session)."""

_LAST_US = END_OF_TIME_US - _DAY_US  # `_LAST`

Renewal = Literal["auto", "month", "week", "day", "none"]
"""How a subscription's period renews: by its own length, by a calendar unit, or not at all."""

_ROLLING = re.compile(r"rolling:([0-9]{1,4})(m|h|d)")
_ROLLING_UNIT_US = {"m": 60 * 10**6, "h": 3600 * 10**6, "d": _DAY_US}
ROLLING_STEPS = 60
"""A rolling window drops old usage in steps of a sixtieth of its length: late, never early."""


_PERIODS_KEPT_MAX = 200_000
"""Periods that are kept for other subscriptions of the same day, in some 30 MB."""


class Window(NamedTuple):
    """A half-open span of time, [start_us, end_us), in microseconds since 1970 UTC."""

    start_us: int
    end_us: int

    def contains(self, at_us: int) -> bool:
        """Return whether a time is in the window."""
        return self.start_us <= at_us < self.end_us


def common(first: Window, second: Window) -> Window:
    """Return what two windows have in common; it ends before it begins if that is nothing."""
    return Window(max(first.start_us, second.start_us), min(first.end_us, second.end_us))


class Subscription(NamedTuple):
    """The first billing period of a user, and how it renews.

    Attributes:
        start_us: Start of the first period.
        end_us: Its end; later periods follow from `renews`.
        renews: "auto" renews by the period's own length (by calendar month where it spans one).
    """

    start_us: int
    end_us: int
    renews: Renewal = "auto"


def to_us(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970 UTC, exactly."""
    # In integers, since a double does not hold every microsecond.
    span = moment.astimezone(timezone.utc) - _EPOCH
    return (span.days * 86_400 + span.seconds) * MICROSECONDS_PER_SECOND + span.microseconds


def to_datetime(at_us: int) -> datetime:
    """Return microseconds since 1970 UTC as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=at_us)


def calendar_month(at_us: int) -> Window:
    """Return the UTC calendar month that contains a time."""
    at = to_datetime(at_us)
    start = datetime(at.year, at.month, 1, tzinfo=timezone.utc)
    return Window(to_us(start), to_us(_add_months(start, 1)))


def day(at_us: int) -> Window:
    """Return the UTC day that contains a time."""
    start = at_us - at_us % _DAY_US
    return Window(start, start + _DAY_US)


def day_name(at_us: int) -> str:
    """Return the UTC day of a time, ISO 8601."""
    return to_datetime(at_us).strftime("%Y-%m-%d")


def day_in_zone(at_us: int, timezone_name: str) -> str:
    """Return the day of a time in a time zone, ISO 8601.

    Args:
        at_us: The time.
        timezone_name: A name of the IANA database, such as "Europe/Berlin".
    """
    return _day_of_quarter(at_us // _QUARTER_US, timezone_name)


@lru_cache(maxsize=4096)  # a batch is of a day or two
def _day_of_quarter(quarter: int, timezone_name: str) -> str:
    # Every zone is a whole number of quarters of an hour away from UTC, since 1972.
    at = to_datetime(quarter * _QUARTER_US)
    return at.astimezone(_zone(timezone_name)).strftime("%Y-%m-%d")


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo  # for products with a zone of their own

    return timezone.utc if name == "UTC" else ZoneInfo(name)


def start_of_day(day: date, timezone_name: str) -> int:
    """Return when a day begins in a time zone, in microseconds since 1970 UTC."""
    return to_us(datetime(day.year, day.month, day.day, tzinfo=_zone(timezone_name)))


def days_between(first_day: str, last_day: str) -> list[str]:
    """Return the days from one to another, both included, in ISO 8601."""
    first = date.fromisoformat(first_day)
    count = (date.fromisoformat(last_day) - first).days + 1
    return [(first + timedelta(days=number)).isoformat() for number in range(count)]


def months_between(first_day: str, last_day: str) -> list[str]:
    """Return the months from that of a day to that of another, all in ISO 8601."""
    year, month = int(first_day[:4]), int(first_day[5:7])
    months = []
    while (name := f"{year:04}-{month:02}") <= last_day[:7]:
        months.append(name)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return months


@lru_cache(maxsize=256)  # a product has few rules, and each account of a user has one
def rolling_length_us(rule: str) -> int | None:
    """Return the length of a rolling window rule such as `rolling:24h`; None for any other rule."""
    match = _ROLLING.fullmatch(rule)
    if match is None or int(match.group(1)) == 0:
        return None
    return int(match.group(1)) * _ROLLING_UNIT_US[match.group(2)]


def billing_period(subscription: Subscription | None, at_us: int) -> Window | None:
    """Return the billing period that contains a time: the calendar month without a subscription,
    None if that has ended and does not renew.
    """
    if subscription is None:
        return calendar_month(at_us)
    first = Window(subscription.start_us, subscription.end_us)
    if first.contains(at_us):
        return first
    if subscription.renews == "none":
        if at_us >= first.end_us:
            return None
        subscription = subscription._replace(renews="auto")  # for what comes before
    # A period that spans calendar months renews by the month, not by its days.
    months = _months_spanned(first) if subscription.renews == "auto" else 0
    if subscription.renews == "month":
        months = 1
    if months:
        period = _monthly(first, months, at_us, renews_from=first.end_us)
    else:
        lengths = {"auto": first.end_us - first.start_us, "week": 7 * _DAY_US, "day": _DAY_US}
        length = lengths[subscription.renews]
        start = first.end_us + (at_us - first.end_us) // length * length
        period = Window(start, start + length)
    # Periods before the first one follow the same rule, so that a cap holds there, too.
    return (
        period
        if at_us >= first.end_us
        else period._replace(end_us=min(period.end_us, first.start_us))
    )


class BillingPeriods:
    """The billing periods that touch a span of time, of many subscriptions.

    Subscriptions that begin on the same day differ by the time of day, and so do their periods:
    they are computed once for each day.

    Attributes:
        span: The span of time.
    """

    def __init__(self, span: Window) -> None:
        self.span = span
        # Periods are kept as from midnight, up to a day early.
        self._early = Window(span.start_us - _DAY_US, span.end_us)
        self._of_days: dict[Subscription, list[Window]] = {}
        self._months: list[Window] | None = None
        self._kept = 0

    def of(self, subscription: Subscription | None) -> Sequence[tuple[int, int]]:
        """Return the periods of a subscription, or calendar months, in their order; none after one
        that has ended and does not renew. See `billing_period`.
        """
        if subscription is None:
            if self._months is None:
                self._months = list(_periods(None, self.span))
            return self._months
        start_us, end_us, renews = subscription
        later_us = start_us % _DAY_US
        if (end_us - start_us) % _DAY_US or end_us >= _LAST_US:
            return list(_periods(subscription, self.span))
        midnight = Subscription(start_us - later_us, end_us - later_us, renews)
        known = self._of_days.get(midnight)
        if known is None:
            known = list(_periods(midnight, self._early))
            if known and (known[0].start_us <= 0 or known[-1].end_us >= _LAST_US):
                return list(_periods(subscription, self.span))  # months end there, at any time
            if self._kept < _PERIODS_KEPT_MAX:
                self._of_days[midnight] = known
                self._kept += 1 + len(known)
        first_us, last_us = self.span.start_us - later_us, self.span.end_us - later_us
        return [
            (begin_us + later_us, until_us + later_us)
            for begin_us, until_us in known
            if begin_us < last_us and until_us > first_us
        ]


def _periods(subscription: Subscription | None, span: Window) -> Iterator[Window]:
    """Yield the billing periods that touch a span of time."""
    at_us = span.start_us
    while at_us < span.end_us:
        period = billing_period(subscription, at_us)
        if period is None:
            return
        yield period
        at_us = period.end_us


def _monthly(first: Window, months: int, at_us: int, *, renews_from: int) -> Window:
    """Return the period of `months` calendar months that contains `at_us`."""
    # Periods are counted from one anchor, so a clamped day (Feb 28) never becomes the anchor.
    anchor = to_datetime(first.start_us if _months_spanned(first) else renews_from)
    at = to_datetime(at_us)
    passed = (at.year - anchor.year) * 12 + at.month - anchor.month
    # One lower, because the day of the month may not be reached yet.
    index = passed // months - 1
    while to_us(_add_months(anchor, (index + 1) * months)) <= at_us:
        index += 1
    start, end = (_add_months(anchor, count * months) for count in (index, index + 1))
    return Window(to_us(start), to_us(end))


def _months_spanned(window: Window) -> int:
    """Return how many whole calendar months a window spans (1 for Jan 15 to Feb 15), or 0."""
    start, end = to_datetime(window.start_us), to_datetime(window.end_us)
    months = (end.year - start.year) * 12 + end.month - start.month
    return months if months > 0 and _add_months(start, months) == end else 0


def _add_months(moment: datetime, months: int) -> datetime:
    """Add calendar months, from 1970 to 9999; a day that the target month lacks becomes its last
    day.
    """
    year, month = divmod(moment.month - 1 + months, 12)
    year += moment.year
    if year < _EPOCH.year:  # long before a first period that is very long
        return _EPOCH
    if year > 9998:  # the last year in which a month can be added to a datetime
        return _LAST
    last = calendar.monthrange(year, month + 1)[1]
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last))
