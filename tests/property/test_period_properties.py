"""Periods, for any subscription and moment: they tile time, and months come back to their day."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.period import (
    Renewal,
    Subscription,
    billing_period,
    calendar_month,
    day,
    to_datetime,
    to_us,
)

DAY_US = 86_400 * 10**6
MOMENTS = st.datetimes(
    datetime(1990, 1, 1), datetime(2150, 1, 1), timezones=st.just(timezone.utc)
).map(to_us)
RENEWALS: st.SearchStrategy[Renewal] = st.sampled_from(["auto", "month", "week", "day"])


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    """Draw a subscription: any length, or from a date to one that spans calendar months."""
    start = draw(
        st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(timezone.utc))
    )
    months = draw(st.integers(0, 14))
    if months:
        year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        end = start.replace(year=year, month=month + 1, day=min(start.day, last))
    else:
        end = start + timedelta(seconds=draw(st.integers(3600, 90 * 86_400)))
    return Subscription(to_us(start), to_us(end), draw(RENEWALS))


@settings(max_examples=120, deadline=None)
@given(subscriptions(), MOMENTS)
def test_billing_period__any_moment__is_in_its_period_and_periods_tile(
    subscription: Subscription, at_us: int
) -> None:
    """A moment lies in its period, whose ends name it, and the next begins at its end."""
    period = billing_period(subscription, at_us)
    assert period is not None
    assert period.start_us < period.end_us
    assert period.contains(at_us)
    assert billing_period(subscription, period.start_us) == period
    assert billing_period(subscription, period.end_us - 1) == period
    following = billing_period(subscription, period.end_us)
    assert following is not None
    assert following.start_us == period.end_us


@settings(max_examples=150, deadline=None)
@given(subscriptions())
def test_billing_period__walked_from_the_first__has_no_gap(subscription: Subscription) -> None:
    """Twenty periods in a row begin with the given one and each begins where the last ended."""
    period = billing_period(subscription, subscription.start_us)
    assert period == subscription[:2]
    for _ in range(20):
        assert period is not None
        following = billing_period(subscription, period.end_us)
        assert following is not None
        assert following.start_us == period.end_us
        assert (
            billing_period(subscription, (following.start_us + following.end_us) // 2) == following
        )
        period = following


@settings(max_examples=120, deadline=None)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(timezone.utc)),
    st.sampled_from([1, 2, 3, 6, 12]),
    st.integers(0, 40),
)
def test_billing_period__anchored_months__clamp_and_return_to_the_anchor_s_day(
    start: datetime, months: int, passed: int
) -> None:
    """Every period starts on the anchor's day at its time, or on the last day of a short month."""

    def nth(number: int) -> datetime:
        year, month = divmod(start.year * 12 + start.month - 1 + number * months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        return start.replace(year=year, month=month + 1, day=min(start.day, last))

    subscription = Subscription(to_us(start), to_us(nth(1)))
    period = billing_period(subscription, to_us(nth(passed)))
    assert period is not None
    assert (to_datetime(period.start_us), to_datetime(period.end_us)) == (
        nth(passed),
        nth(passed + 1),
    )


@settings(max_examples=120, deadline=None)
@given(subscriptions(), MOMENTS)
def test_billing_period__not_renewed__is_the_first_or_over(
    subscription: Subscription, at_us: int
) -> None:
    """A subscription that does not renew has one period, and what comes before it."""
    period = billing_period(subscription._replace(renews="none"), at_us)
    if at_us >= subscription.end_us:
        assert period is None
    elif at_us >= subscription.start_us:
        assert period == subscription[:2]
    else:
        assert period is not None
        assert period.contains(at_us)
        assert period.end_us <= subscription.start_us


@settings(max_examples=120, deadline=None)
@given(MOMENTS)
def test_calendar_month_and_day__any_moment__contain_it_and_tile(at_us: int) -> None:
    """Months and days contain their moments and follow each other without a gap."""
    month, today = calendar_month(at_us), day(at_us)
    assert month.contains(at_us)
    assert today.contains(at_us)
    assert today.end_us - today.start_us == DAY_US
    assert calendar_month(month.end_us).start_us == month.end_us
    assert calendar_month(month.end_us - 1) == month
    assert day(today.end_us - 1) == today
    first = to_datetime(month.start_us)
    assert (first.day, first.hour, first.minute, first.second, first.microsecond) == (1, 0, 0, 0, 0)


@settings(max_examples=120, deadline=None)
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(timezone.utc)))
def test_to_us__any_datetime__comes_back(moment: datetime) -> None:
    """Times become integers and return without losing a microsecond."""
    assert to_datetime(to_us(moment)) == moment
