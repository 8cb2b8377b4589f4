"""Reports of usage and cost, from the rollups, and from the events where those do not hold it.

Theory of operation
-------------------
The rollups hold every key but the session and tags, by whole days. What they hold is grouped,
sorted and paged by the database, at a cost that does not grow with the number of events. The rest,
sessions, tags and parts of days, is folded from the events by the definition itself
(`core/report.py`), up to `EVENTS_MAX` of them.

The product's rollup answers what is about no user, which is a few rows a day; the users' rollup
answers the rest, and is read by whole months where days are not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from paygent.core.period import Window
from paygent.core.report import (
    FIGURE_SORTS,
    START,
    TAG,
    Cursor,
    Fact,
    Figures,
    Groups,
    SpendPage,
    SpendQuery,
    SpendReport,
    SpendRow,
    group_facts,
    page_of,
)
from paygent.core.report_request import Names, SpendRequest, resolve
from paygent.core.validation import FieldError, InvalidValue
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.rows import from_json, subscription_of, text
from paygent.store.spans import Days, days_of, months_and_days, usage_span
from paygent.store.statements import Row, Statements

EVENTS_MAX = 200_000
"""Events that one report reads one by one; more would keep a reader for seconds."""

_ROWS_MAX = 2**62  # more than there are
_OF_USERS = frozenset({"user", "period"})  # keys that the product's rollup does not have
_HELD = "user, model, provider, plan, day, month and period, for whole days"


class _Source(NamedTuple):
    """Where the figures of a query are.

    Attributes:
        spans: (rollup, day or month).
        parts: Days, and the span of each, with events that are read one by one.
    """

    spans: list[tuple[str, str]]
    parts: list[tuple[str, Window]]


def spend(sql: Statements, request: SpendRequest, now_us: int) -> SpendReport:
    """Return a report of usage and cost.

    Args:
        sql: In a transaction that reads one moment.
        request: What is asked for.
        now_us: The ledger's clock.

    Raises:
        InvalidValue: The span of time is not valid, or more than `EVENTS_MAX` events would have to
            be read one by one.
    """
    query, zone, now_us = _resolved(sql, request, now_us)
    source = _source(query, usage_span(sql, zone), zone)
    if source.parts:
        page = page_of(_all_groups(sql, source, query, request.names), query)
    else:
        page = _page(sql, source.spans, query)
    return SpendReport(page, query, zone, now_us)


def spend_rows(sql: Statements, request: SpendRequest, now_us: int) -> Iterator[SpendRow]:
    """Yield all rows of a report, one by one; see `spend`."""
    query, zone, _ = _resolved(sql, replace(request, rows_max=None), now_us)
    source = _source(query, usage_span(sql, zone), zone)
    if source.parts:
        yield from page_of(_all_groups(sql, source, query, request.names), query).rows
    elif source.spans:
        for row in sql.stream("spend", rows=source.spans, **_parameters(query, _ROWS_MAX)):
            yield SpendRow(_keys(row, query), _figures(row))


def daily_rows(sql: Statements, request: SpendRequest, now_us: int) -> Iterator[SpendRow]:
    """Yield usage by day, user, model and provider, day by day; see `spend`.

    Raises:
        InvalidValue: The rollups do not hold it: parts of days, sessions, tags and periods.
    """
    query, zone, _ = _resolved(sql, replace(request, by=("day", "user")), now_us)
    source = _source(query, usage_span(sql, zone), zone)
    if source.parts or "period" in query.where:
        rule = f"must be of {_HELD}, but for a user's period"
        shown = request.start if isinstance(request.start, int) else request.end
        raise InvalidValue("report", (FieldError(request.names.start, shown, rule),))
    for _, day in source.spans:
        for row in sql.stream("usage_of_day", rows=None, day=day, **_filters(query)):
            keys = (day, row["user_id"], row["model"], row["provider"])
            yield SpendRow(keys, _figures(row))


def _resolved(sql: Statements, request: SpendRequest, now_us: int) -> tuple[SpendQuery, str, int]:
    """Return the query of a request, the product's time zone, and the time."""
    zone = str(sql.product()["timezone"])
    now_us = now_us if request.now_us is None else request.now_us
    query = resolve(request, zone, now_us, _subscription(sql, request))
    where = {text(name): text(value) for name, value in query.where.items()}
    after = Cursor(query.after.rank, *map(text, query.after[1:]))
    return replace(query, by=tuple(map(text, query.by)), where=where, after=after), zone, now_us


def _subscription(sql: Statements, request: SpendRequest) -> Any:
    """Return the subscription of the user of a request for a billing period."""
    if request.period is None or "user" not in request.where:
        return None
    found = sql.users_asked_for(rows=[(text(request.where["user"]),)])
    return subscription_of(found[0]) if found else None


def _source(query: SpendQuery, usage: Window, zone: str) -> _Source:
    keys = {*query.by, *query.where}
    span = Window(max(query.start_us, usage.start_us), min(query.end_us, usage.end_us))
    if span.start_us >= span.end_us:
        return _Source([], [])
    days = days_of(span, zone)
    if "period" in query.where:
        # All that belongs to a period is in it, whatever the days are.
        days = Days(sorted([*days.whole, *(day for day, _ in days.parts)]), [])
    if "session" in keys or any(key.startswith(TAG) for key in keys):
        every = sorted([*days.whole, *(day for day, _ in days.parts)])
        return _Source([], [(day, span) for day in every])
    if not days.whole:
        return _Source([], days.parts)
    if not keys & _OF_USERS:
        return _Source([("product", day) for day in days.whole], days.parts)
    spans = [(day,) for day in days.whole] if "day" in keys else months_and_days(days.whole)
    return _Source([("user", each) for (each,) in spans], days.parts)


# -- from the rollups


def _page(sql: Statements, spans: list[tuple[str, str]], query: SpendQuery) -> SpendPage:
    """Return a page that the database has sorted, and the total."""
    total = Figures()
    for row in _groups(sql, spans, replace(query, by=(), sort="", after=START), rows_max=1):
        total = _figures(row)
    rows_max = _ROWS_MAX if query.rows_max is None else query.rows_max
    found = _groups(sql, spans, query, rows_max=rows_max + 1)
    page = found[:rows_max]
    following = (
        Cursor(page[-1]["rank"], *_keys(page[-1], query)) if len(page) < len(found) else None
    )
    rows = tuple(SpendRow(_keys(row, query), _figures(row)) for row in page)
    return SpendPage(rows, total, following)


def _groups(
    sql: Statements, spans: list[tuple[str, str]], query: SpendQuery, *, rows_max: int
) -> list[Row]:
    """Return groups in the order of a query, those after its cursor."""
    if not spans:
        return []
    found: list[Row] = sql.spend(rows=spans, **_parameters(query, rows_max))
    return found


def _parameters(query: SpendQuery, rows_max: int) -> dict[str, Any]:
    """Return the parameters of the statement `spend`."""
    first, second = (*query.by, "", "")[:2]
    period = query.where.get("period")
    sort = query.sort
    if sort not in FIGURE_SORTS:
        sort = "" if not query.is_by_time else ("first" if sort == first else "second")
    return {
        "first": first,
        "second": second,
        **_filters(query),
        "period_start_us": None if period is None else int(period),
        "sort": sort,
        "direction": -1 if query.is_descending else 1,
        "after_rank": query.after.rank,
        "after_first": query.after.first,
        "after_second": query.after.second,
        "rows_max": rows_max,
    }


def _filters(query: SpendQuery) -> dict[str, Any]:
    """Return the parameters that limit the rows of the rollups."""
    where = query.where
    return {
        "first_user": where.get("user", ""),
        "last_user": where.get("user", AFTER_ALL_IDS),
        "model": where.get("model"),
        "provider": where.get("provider"),
        "plan": where.get("plan"),
    }


def _keys(row: Row, query: SpendQuery) -> tuple[str, ...]:
    keys: tuple[str, ...] = (row["first_key"], row["second_key"])
    return keys[: len(query.by)]


def _figures(row: Row) -> Figures:
    return Figures(*[row[name] for name in Figures._fields])


# -- from the events


def _all_groups(sql: Statements, source: _Source, query: SpendQuery, names: Names) -> Groups:
    """Return all groups, those of the rollups with what the events of parts of days add."""
    found = _groups(sql, source.spans, replace(query, after=START), rows_max=_ROWS_MAX)
    groups = {_keys(row, query): _figures(row) for row in found}
    return group_facts(_facts(sql, source.parts, query, names), query, groups)


def _facts(
    sql: Statements, parts: list[tuple[str, Window]], query: SpendQuery, names: Names
) -> Iterator[Fact]:
    """Yield what the events of some days add.

    Raises:
        InvalidValue: They are too many.
    """
    user_id = query.where.get("user")
    events_max = EVENTS_MAX + 1
    if user_id is None:
        rows = sql.facts_of_days(
            rows=[(day, *window) for day, window in parts], events_max=events_max
        )
    else:
        spans = [(user_id, *window) for window in {window for _, window in parts}]
        rows = sql.facts_of_user(rows=spans, events_max=events_max)
    if len(rows) == events_max:
        rule = (
            f"has more than {EVENTS_MAX:,} events, which would be read one by one: choose a shorter"
            f" time, or what the rollups hold: {_HELD}"
        )
        raise InvalidValue("report", (FieldError(names.by, ",".join(query.by), rule),))
    return map(_fact, rows)


def _fact(row: Row) -> Fact:
    return Fact(
        day=row["day"],
        at_us=row["at_us"],
        user_id=row["user_id"],
        session_id=row["session_id"],
        period_start_us=row["period_start_us"],
        model=row["model"],
        provider=row["provider"],
        plan=row["plan"],
        metadata=from_json(row["tags"]),
        figures=_figures(row),
    )
