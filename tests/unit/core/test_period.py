"""Windows of time: half-open, in UTC, and months that clamp and come back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import DAY_US

from paygent.core.period import (
    END_OF_TIME_US,
    BillingPeriods,
    Renewal,
    Subscription,
    Window,
    billing_period,
    calendar_month,
    day,
    day_name,
    rolling_length_us,
    to_datetime,
    to_us,
)


def us(text: str) -> int:
    """Return a UTC moment, ISO 8601, in microseconds."""
    return to_us(datetime.fromisoformat(text).replace(tzinfo=timezone.utc))


def window(start: str, end: str) -> Window:
    """Return the window between two UTC moments."""
    return Window(us(start), us(end))


@pytest.mark.parametrize(
    ("moment", "at_us"),
    [
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0),
        (datetime(2025, 1, 1, tzinfo=timezone.utc), 1_735_689_600_000_000),
        (datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 1_735_689_600_000_000),
        (datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc), 1_735_689_600_000_001),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc), -1),
    ],
)
def test_to_us__an_aware_datetime__is_exact_and_comes_back(moment: datetime, at_us: int) -> None:
    """Any zone becomes UTC microseconds without a float between, and returns."""
    assert to_us(moment) == at_us
    assert to_datetime(at_us) == moment
    assert to_datetime(at_us).utcoffset() == timedelta(0)


def test_end_of_time__is_the_year_10000() -> None:
    """The end of a window that time does not end is the first moment that no datetime reaches."""
    assert us("9999-12-31T23:59:59.999999") + 1 == END_OF_TIME_US


@pytest.mark.parametrize(
    ("at_us", "inside"), [(9, False), (10, True), (19, True), (20, False), (21, False)]
)
def test_window__contains__is_half_open(at_us: int, inside: bool) -> None:
    """The start belongs to a window, the end to the next one."""
    assert Window(10, 20).contains(at_us) is inside


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2025-02-15T10:00", "2025-02-01", "2025-03-01"),
        ("2024-02-29T23:59:59.999999", "2024-02-01", "2024-03-01"),
        ("2025-12-31T23:59", "2025-12-01", "2026-01-01"),
        ("2025-12-01", "2025-12-01", "2026-01-01"),
        ("1969-12-31", "1969-12-01", "1970-01-01"),
    ],
)
def test_calendar_month__a_moment__is_its_utc_month(at: str, start: str, end: str) -> None:
    """The month runs from its first moment to the first of the next, over the year's end too."""
    assert calendar_month(us(at)) == window(start, end)


def test_calendar_month__the_last_year_of_datetime__does_not_raise() -> None:
    """The end of the calendar's range is no error."""
    at_us = us("9999-06-10")
    assert calendar_month(at_us).contains(at_us)


@pytest.mark.parametrize(
    ("at", "start", "end", "name"),
    [
        ("2025-03-30T01:30", "2025-03-30", "2025-03-31", "2025-03-30"),
        ("2025-03-30", "2025-03-30", "2025-03-31", "2025-03-30"),
        ("1969-12-31T12:00", "1969-12-31", "1970-01-01", "1969-12-31"),
    ],
)
def test_day__a_moment__is_its_utc_day(at: str, start: str, end: str, name: str) -> None:
    """A day is 24 hours of UTC and is named by its date."""
    assert day(us(at)) == window(start, end)
    assert day_name(us(at)) == name


@pytest.mark.parametrize(
    ("rule", "length_us"),
    [
        ("rolling:24h", 86_400_000_000),
        ("rolling:30m", 1_800_000_000),
        ("rolling:7d", 604_800_000_000),
        ("rolling:9999d", 863_913_600_000_000),
        ("rolling:1m", 60_000_000),
        ("rolling:0h", None),
        ("rolling:000d", None),
        ("rolling:10000h", None),
        ("rolling:24", None),
        ("rolling:h", None),
        ("rolling:-1h", None),
        ("rolling:1.5h", None),
        ("rolling:24s", None),
        ("rolling:24h ", None),
        ("rolling:24h\n", None),
        ("xrolling:24h", None),
        ("ROLLING:24h", None),
        ("period", None),
        ("day", None),
        ("", None),
    ],
)
def test_rolling_length_us__a_rule__is_its_length_or_none(rule: str, length_us: int | None) -> None:
    """Minutes, hours and days up to four digits are a rolling window; nothing else is."""
    assert rolling_length_us(rule) == length_us


@pytest.mark.parametrize(
    ("first", "renews", "at", "expected"),
    [
        # A month on the 31st clamps to each month's last day and comes back to the 31st.
        (("2025-01-31", "2025-02-28"), "auto", "2025-02-28", ("2025-02-28", "2025-03-31")),
        (("2025-01-31", "2025-02-28"), "auto", "2025-03-30", ("2025-02-28", "2025-03-31")),
        (("2025-01-31", "2025-02-28"), "auto", "2025-03-31", ("2025-03-31", "2025-04-30")),
        (("2025-01-31", "2025-02-28"), "auto", "2025-05-30", ("2025-04-30", "2025-05-31")),
        (("2025-01-31", "2025-02-28"), "auto", "2026-02-27", ("2026-01-31", "2026-02-28")),
        (("2024-01-31", "2024-02-29"), "auto", "2024-03-01", ("2024-02-29", "2024-03-31")),
        # An hour of the day is kept.
        (
            ("2025-01-15T09:30", "2025-02-15T09:30"),
            "auto",
            "2025-12-15T09:29",
            ("2025-11-15T09:30", "2025-12-15T09:30"),
        ),
        # Quarters and years renew as such; a leap day comes back in a leap year.
        (("2025-01-01", "2025-04-01"), "auto", "2025-05-20", ("2025-04-01", "2025-07-01")),
        (("2024-02-29", "2025-02-28"), "auto", "2025-06-01", ("2025-02-28", "2026-02-28")),
        (("2024-02-29", "2025-02-28"), "auto", "2028-03-01", ("2028-02-29", "2029-02-28")),
        # What spans no calendar month renews by its length.
        (("2025-01-01", "2025-01-08"), "auto", "2025-01-20", ("2025-01-15", "2025-01-22")),
        (("2025-01-31", "2025-03-01"), "auto", "2025-03-01", ("2025-03-01", "2025-03-30")),
        # A unit that is named holds from the end of the first period on.
        (("2025-01-01", "2025-02-01"), "week", "2025-02-10", ("2025-02-08", "2025-02-15")),
        (("2025-01-01", "2025-02-01"), "day", "2025-02-05T12:00", ("2025-02-05", "2025-02-06")),
        (("2025-01-21", "2025-01-31"), "month", "2025-02-05", ("2025-01-31", "2025-02-28")),
        (("2025-01-21", "2025-01-31"), "month", "2025-03-05", ("2025-02-28", "2025-03-31")),
        (("2025-01-31", "2025-03-31"), "month", "2025-04-02", ("2025-03-31", "2025-04-30")),
        (("2025-01-31", "2025-02-28"), "month", "2025-03-05", ("2025-02-28", "2025-03-31")),
    ],
)
def test_billing_period__after_the_first__renews(
    first: tuple[str, str], renews: Renewal, at: str, expected: tuple[str, str]
) -> None:
    """A period goes on by its own length or the named unit, and no cap ends by lapse of time."""
    subscription = Subscription(us(first[0]), us(first[1]), renews)
    assert billing_period(subscription, us(at)) == window(*expected)


@pytest.mark.parametrize("renews", ["auto", "month", "week", "day", "none"])
@pytest.mark.parametrize("at", ["2025-01-15", "2025-02-14T23:59:59.999999"])
def test_billing_period__before_its_end__is_the_first(renews: Renewal, at: str) -> None:
    """The first period is the one that was given."""
    subscription = Subscription(us("2025-01-15"), us("2025-02-15"), renews)
    assert billing_period(subscription, us(at)) == window("2025-01-15", "2025-02-15")


@pytest.mark.parametrize(
    ("renews", "at", "expected"),
    [
        ("auto", "2025-01-14", ("2024-12-15", "2025-01-15")),
        ("auto", "2024-12-01", ("2024-11-15", "2024-12-15")),
        ("none", "2024-12-01", ("2024-11-15", "2024-12-15")),
        ("month", "2025-01-01", ("2024-12-15", "2025-01-15")),
        ("week", "2025-01-14", ("2025-01-11", "2025-01-15")),
        ("week", "2025-01-10", ("2025-01-04", "2025-01-11")),
        ("day", "2025-01-14T12:00", ("2025-01-14", "2025-01-15")),
    ],
)
def test_billing_period__before_its_start__follows_the_same_rule(
    renews: Renewal, at: str, expected: tuple[str, str]
) -> None:
    """A subscription may be assigned ahead of time; until then the cap holds as well."""
    subscription = Subscription(us("2025-01-15"), us("2025-02-15"), renews)
    assert billing_period(subscription, us(at)) == window(*expected)


@pytest.mark.parametrize("at", ["2025-02-15", "2030-01-01"])
def test_billing_period__not_renewed__has_ended(at: str) -> None:
    """A subscription that does not renew is over at its end."""
    subscription = Subscription(us("2025-01-15"), us("2025-02-15"), "none")
    assert billing_period(subscription, us(at)) is None


LENGTHS_US = (DAY_US, 7 * DAY_US, 30 * DAY_US, 31 * DAY_US, 365 * DAY_US, DAY_US * 3 // 2)
# Far from now a month's begin is clamped: to 1970, and to the last day of 9999.
YEARS = (1970, 1971, 2024, 2026, 2027, 9990, 9996)


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from(YEARS),
    after_us=st.integers(0, 800 * DAY_US),
    length_us=st.sampled_from(LENGTHS_US),
    later_us=st.sampled_from((0, 0, 0, 1, DAY_US)),
    renews=st.sampled_from(get_args(Renewal)),
    span_start=st.sampled_from(YEARS),
    span_us=st.tuples(st.integers(0, 400 * DAY_US), st.integers(1, 90 * DAY_US)),
)
def test_billing_periods__of_any_subscription__are_those_one_by_one(
    start: int,
    after_us: int,
    length_us: int,
    later_us: int,
    renews: Renewal,
    span_start: int,
    span_us: tuple[int, int],
) -> None:
    """Also of several that begin on one day, whose periods are computed together."""
    begin_us = us(f"{start}-01-01") + after_us
    span_start_us = us(f"{span_start}-01-01") + span_us[0]
    span = Window(span_start_us, span_start_us + span_us[1])
    periods = BillingPeriods(span)
    for first_us in (begin_us, begin_us - begin_us % DAY_US, begin_us // DAY_US * DAY_US + 7):
        subscription = Subscription(first_us, first_us + length_us + later_us, renews)
        for each in (subscription, None):
            assert list(periods.of(each)) == one_by_one(each, span)


def test_billing_periods__a_first_one_until_the_end_of_time__are_those_one_by_one() -> None:
    """Moved to midnight it would end on the last day that months are counted to."""
    lifetime = Subscription(us("2026-12-01T05:00"), us("9999-12-31T05:00"), "month")
    june = window("2026-06-01", "2026-07-01")
    assert list(BillingPeriods(june).of(lifetime)) == one_by_one(lifetime, june)


def test_billing_periods__more_than_are_kept__are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscriptions begin on more days than are kept."""
    monkeypatch.setattr("paygent.core.period._PERIODS_KEPT_MAX", 3)
    june = window("2026-06-01", "2026-07-01")
    periods = BillingPeriods(june)
    for day_us in range(us("2026-01-01"), us("2026-01-05"), DAY_US):
        for start_us in (day_us, day_us + 7):
            weekly = Subscription(start_us, start_us + 7 * DAY_US)
            assert list(periods.of(weekly)) == one_by_one(weekly, june)


def one_by_one(subscription: Subscription | None, span: Window) -> list[Window]:
    """Return the periods that touch a span of time."""
    found: list[Window] = []
    at_us = span.start_us
    while at_us < span.end_us:
        period = billing_period(subscription, at_us)
        if period is None:
            break
        found.append(period)
        at_us = period.end_us
    return found


def test_billing_period__no_subscription__is_the_calendar_month() -> None:
    """Without a period it is the UTC calendar month."""
    assert billing_period(None, us("2025-02-10")) == window("2025-02-01", "2025-03-01")


def test_billing_period__before_a_first_one_that_never_ends__begins_in_1970() -> None:
    """A lifetime plan that begins tomorrow: what is used today counts in one period before it."""
    start_us = to_us(datetime(2026, 12, 1, tzinfo=timezone.utc))
    end_us = to_us(datetime(9999, 12, 31, tzinfo=timezone.utc))
    for renews in ("auto", "month", "none"):
        period = billing_period(Subscription(start_us, end_us, renews), start_us - 1)
        assert period is not None
        assert period.contains(start_us - 1)
        assert period.end_us <= start_us
