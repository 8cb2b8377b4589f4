"""Replays of a plan edit, from the rollups; the definition is `core/replay.py`.

Theory of operation: the database drops the windows that pass no line, in which nothing changes.
Days are searched one by one, so that a statement sorts a day's rows and memory holds few of them;
billing periods all at once, from whole months where there are some. Lines are compared with usage
as it was: that of later windows only shrinks when earlier ones refuse a part. The days of a user
are read for the rows of the report alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from paygent.core.messages import MISSING_USER_ID
from paygent.core.period import Window, common, start_of_day
from paygent.core.plan import PlanConfig
from paygent.core.replay import (
    Amounts,
    Line,
    PeriodModel,
    Replay,
    ReplayReport,
    ReplayTotals,
    UserDays,
    WindowUsage,
    lines_of,
)
from paygent.store.rows import text
from paygent.store.spans import Spans, days_of, months_and_days, usage_span
from paygent.store.statements import Statements

_METRICS: Final = ("calls", "tokens", "spend")  # in the order of the statement's columns
_LINE_MAX: Final = 2**62  # more than any sum; a line above it is compared again afterwards
_PASSED: Final = -_LINE_MAX  # a line of 0 is passed by any call, also by one without cost

_PERIOD, _DAY = "r.period_start_us", "r.span"  # columns of a window


def replay(
    sql: Statements, plan_name: str, plan: PlanConfig, start: date, end: date, rows_max: int
) -> ReplayReport:
    """Return what an edited plan would have changed.

    Args:
        sql: In a transaction that reads one moment.
        plan_name: The plan under which the usage was booked.
        plan: As it was edited.
        start, end: Days in the product's time zone; `end` is not included.
        rows_max: Users with a row.
    """
    plan_name, lines = text(plan_name), lines_of(plan)
    found = Replay(lines)
    days, spans = _days_and_spans(sql, start, end)
    if not days:
        return found.report(ReplayTotals(0, 0, 0, 0), {})
    totals = sql.totals_of_plan(rows=spans, plan=plan_name, besides=MISSING_USER_ID)
    if lines.day:
        for day in days:
            past = _usage_past(sql, [day], lines.day, plan_name, _DAY)
            for user_id, own in groupby(past, itemgetter(0)):
                found.add_day(user_id, _usage_of(own))
    if lines.period:
        past = _usage_past(sql, spans, lines.period, plan_name, _PERIOD)
        for (user_id, _), own in groupby(past, itemgetter(0, 1)):
            found.add_period(user_id, _usage_of(own))
    details = _days_of(sql, found.ranked(rows_max), days, plan_name)
    return found.report(ReplayTotals(**totals), details)


def _days_and_spans(sql: Statements, start: date, end: date) -> tuple[Spans, Spans]:
    """Return the days of a span as far as there is usage, and the same with its whole months."""
    zone = str(sql.product()["timezone"])
    usage = usage_span(sql, zone)
    span = common(Window(start_of_day(start, zone), start_of_day(end, zone)), usage)
    if span.start_us >= span.end_us:
        return [], []
    days = days_of(span, zone).whole
    return [(day,) for day in days], months_and_days(days, usage, zone)


# -- usage that passes a line


def _usage_past(
    sql: Statements, spans: Spans, lines: Sequence[Line], plan_name: str, window: str
) -> list[tuple[Any, ...]]:
    """Return the usage of windows that pass a line, in the order of users and billing periods.

    Args:
        sql: The statements.
        spans: All days of each window.
        lines: Of windows of this kind.
        plan_name: The plan under which the usage was booked.
        window: The column of a window.
    """
    by_model: dict[str | None, list[int]] = {None: [_LINE_MAX] * len(_METRICS)}
    for line in lines:
        blocks = by_model.setdefault(line.model, [_LINE_MAX] * len(_METRICS))
        blocks[_METRICS.index(line.metric)] = min(line.block, _LINE_MAX) or _PASSED
    calls, tokens, cost_nano = by_model.pop(None)
    rows: list[tuple[Any, ...]] = [(*span, None, None, None, None) for span in spans]
    rows += [("", model, *blocks) for model, blocks in by_model.items()]
    found: list[Any] = sql.tuples(
        "usage_past_lines",
        {"window": window},
        rows,
        plan=plan_name,
        besides=MISSING_USER_ID,
        calls_line=calls,
        tokens_line=tokens,
        cost_line=cost_nano,
    )
    return found


def _usage_of(rows: Iterable[tuple[Any, ...]]) -> dict[PeriodModel, Amounts]:
    return {PeriodModel(row[1], row[2]): Amounts(row[3], row[4], row[5]) for row in rows}


# -- the rows of a report


def _days_of(
    sql: Statements, user_ids: Sequence[str], days: Spans, plan_name: str
) -> dict[str, UserDays]:
    """Return all days of some users, in the order of these users."""
    rows = [(day, user_id) for (day,) in days for user_id in user_ids]
    found: dict[str, list[tuple[str, WindowUsage]]] = {user_id: [] for user_id in user_ids}
    listed = sql.tuples("days_of_plan_users", None, rows, plan=plan_name) if rows else []
    for (user_id, day), own in groupby(listed, itemgetter(0, 6)):
        found[user_id].append((day, _usage_of(own)))
    return dict(found)
