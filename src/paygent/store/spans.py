"""Spans of time as the rollups have them: whole months and days, and the parts of days beside them.

Days and months are those of the product's time zone, in ISO 8601.
"""

from __future__ import annotations

import calendar
from datetime import date, timedelta
from typing import NamedTuple

from paygent.core.period import Window, day_in_zone, days_between, months_between, start_of_day
from paygent.store.statements import Statements

Spans = list[tuple[str]]
"""Rows of a statement: months and days that do not overlap."""


class Days(NamedTuple):
    """A span of time, by its days.

    Attributes:
        whole: The days that are wholly in it.
        parts: The other days, at most two, with what is in it of each.
    """

    whole: list[str]
    parts: list[tuple[str, Window]]


def days_of(span: Window, zone: str) -> Days:
    """Return the days of a span of time that is not empty."""
    days = days_between(day_in_zone(span.start_us, zone), day_in_zone(span.end_us - 1, zone))
    parts = []
    for day in {days[0], days[-1]}:
        window = _window(day, zone)
        inside = Window(max(window.start_us, span.start_us), min(window.end_us, span.end_us))
        if inside != window:
            parts.append((day, inside))
            days.remove(day)
    return Days(days, sorted(parts))


def _window(day: str, zone: str) -> Window:
    start = date.fromisoformat(day)
    return Window(start_of_day(start, zone), start_of_day(start + timedelta(days=1), zone))


def usage_span(sql: Statements, zone: str) -> Window:
    """Return a span of whole days that contains all usage of the product; empty without any."""
    row = sql.spans_of_usage()
    if row["first"] is None:
        return Window(0, 0)
    first, last = row["first"][:7] + "-01", row["last"]
    return Window(_window(first, zone).start_us, _window(last, zone).end_us)


def spans_of(sql: Statements, start_us: int, end_us: int) -> Spans:
    """Return the spans of the days from that of `start_us` to before `end_us`, as far as there is
    usage.
    """
    zone = str(sql.product()["timezone"])
    usage = usage_span(sql, zone)
    days = _days_between(start_us, end_us, usage, zone)
    return months_and_days(days, usage, zone) if days else []


def _days_between(start_us: int, end_us: int, usage: Window, zone: str) -> list[str]:
    start_us, end_us = max(start_us, usage.start_us), min(end_us, usage.end_us)
    if start_us >= end_us:
        return []
    return days_between(day_in_zone(start_us, zone), day_in_zone(end_us - 1, zone))


def months_and_days(days: list[str], usage: Window, zone: str) -> Spans:
    """Return the whole months of consecutive days, and the days that are left. A month without
    usage before or after these days is a whole one.
    """
    last_day = day_in_zone(usage.end_us - 1, zone)
    spans: Spans = []
    for month in months_between(days[0], days[-1]):
        year, number = map(int, month.split("-"))
        last = min(f"{month}-{calendar.monthrange(year, number)[1]}", last_day)
        if days[0] <= f"{month}-01" and last <= days[-1]:
            spans.append((month,))
        else:
            spans += [(day,) for day in days if day[:7] == month]
    return spans
