"""Reports of usage and cost, from the rollups, and from the events where those do not hold it.

Theory of operation
-------------------
The rollups hold every key but the session and tags, by whole days; one has a declared tag by day.
What they hold is grouped, sorted and paged by the database, at a cost that does not grow with the
number of events. The rest, sessions, tags beside other keys, and parts of days, is grouped from up
to `EVENTS_MAX` events, by the view `event_figures`, which says what each event adds.

The product's rollup answers what is about no user, which is a few rows a day; so does it answer the
total of a page of users. The users' rollup answers the rest, and is read by whole months where days
are not asked for. A page of users is found by its rank alone, a sum a user, and the other figures
are looked up for the users of the page.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from paygent.core.period import Window
from paygent.core.report import (
    FIGURE_SORTS,
    START,
    TAG,
    Cursor,
    Figures,
    Groups,
    SpendPage,
    SpendQuery,
    SpendReport,
    SpendRow,
    page_of,
    tag_of,
)
from paygent.core.report_request import Names, SpendRequest, resolve
from paygent.core.validation import FieldError, InvalidValue
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.rollups import ALL_SUMS, METADATA
from paygent.store.rows import from_json, subscription_of, text
from paygent.store.spans import Days, Spans, days_of, months_and_days, usage_span
from paygent.store.statements import Row, Statements
from paygent.store.tags import tag_days_of

EVENTS_MAX = 500_000
"""Events that one report groups; more would keep a reader for many seconds."""

_LOOKUPS_MAX = 5_000
"""Rows of the rollup that are looked up for a page; more are read faster in their order."""

ROWS_MAX = 2**62  # more than there are
_TIMES = frozenset({"day", "month"})  # keys that the rollup of tags has besides the tag
_OF_USERS = frozenset({"user", "period"})  # keys that the product's rollup does not have
_COLUMNS: Final[Mapping[str, str]] = {
    "user": "r.user_id",
    "model": "r.model",
    "provider": "r.provider",
    "plan": "r.plan",
    "day": "r.span",
    "month": "substr(r.span, 1, 7)",
    "period": "CAST(r.period_start_us AS TEXT)",
}
"""The column of each key in the rollups."""

_EVENT_COLUMNS: Final[Mapping[str, str]] = {
    **_COLUMNS,
    "session": "r.session_id",
    "day": "r.day",
    "month": "substr(r.day, 1, 7)",
}
"""The column of each key in the view of events, but for tags."""

_SESSION_USERS_MAX = 1_000
NO_KEY = "substr({column}, 1, 0)"  # the same text in every row: no group, and none without rows
_COST_SUMS = "".join(
    f",\n    CAST(SUM(r.{name}) AS BIGINT) AS {name}" for name in ("calls", "cost_nano")
)
_HELD = "user, model, provider, plan, day, month and period, for whole days"


class _Source(NamedTuple):
    """Where the figures of a query are.

    Attributes:
        spans: Days and months of a rollup.
        parts: Days, each with the span of the events that are summed up.
        is_of_users: Whether the rollup is that of users, and not that of the product.
        tag: `tag:KEY` if the rollup is that of tags.
    """

    spans: Spans
    parts: list[tuple[str, Window]]
    is_of_users: bool = True
    tag: str | None = None

    @property
    def statement(self) -> str:
        """The statement that groups the rollup."""
        if self.tag is not None:
            return "spend_of_tags"
        return "spend_of_users" if self.is_of_users else "spend_of_product"


def spend(sql: Statements, request: SpendRequest, now_us: int) -> SpendReport:
    """Return a report of usage and cost.

    Args:
        sql: In a transaction that reads one moment.
        request: What is asked for.
        now_us: The ledger's clock.

    Raises:
        InvalidValue: The span of time is not valid, or more than `EVENTS_MAX` events would have to
            be summed up.
    """
    query, zone, now_us = resolved(sql, request, now_us)
    source = _source(sql, query, zone)
    if source.parts:
        page = page_of(_all_groups(sql, source, query, request.names), query)
    else:
        page = _page(sql, source, _source(sql, replace(query, by=()), zone), query)
    return SpendReport(page, query, zone, now_us)


def spend_rows(sql: Statements, request: SpendRequest, now_us: int) -> Iterator[SpendRow]:
    """Yield all rows of a report, one by one; see `spend`."""
    query, zone, _ = resolved(sql, replace(request, rows_max=None), now_us)
    source = _source(sql, query, zone)
    if source.parts:
        yield from page_of(_all_groups(sql, source, query, request.names), query).rows
    elif source.spans:
        columns = _columns(query, ALL_SUMS)
        for row in sql.stream(
            source.statement, columns, source.spans, **_parameters(query, source)
        ):
            yield SpendRow(_keys(row, query), _figures(row))


def spend_of_users(
    sql: Statements, request: SpendRequest, user_ids: Collection[str], now_us: int
) -> dict[str, Figures]:
    """Return the figures of some users in a report by user, also of those without usage; see
    `spend`.
    """
    query, zone, _ = resolved(sql, replace(request, by=("user",), rows_max=None), now_us)
    source = _source(sql, query, zone)
    wanted = {user_id: text(user_id) for user_id in user_ids}
    if source.parts:
        groups = _all_groups(sql, source, query, request.names)
    else:
        groups = _figures_of(sql, source.spans, query, set(wanted.values()))
    return {user_id: groups.get((key,), Figures()) for user_id, key in wanted.items()}


def daily_rows(sql: Statements, request: SpendRequest, now_us: int) -> Iterator[SpendRow]:
    """Yield usage by day, user, model and provider, day by day; see `spend`.

    Raises:
        InvalidValue: The rollups do not hold it: parts of days, sessions, tags and periods.
    """
    query, zone, _ = resolved(sql, replace(request, by=("day", "user")), now_us)
    source = _source(sql, query, zone)
    if source.parts or "period" in query.where:
        others = [name for name in query.where if name not in _COLUMNS or name == "period"]
        name = others[0] if others else request.names.start
        value = query.where[name] if others else request.start
        rule = f"must not be given here: these rows are of {_HELD}, but for a user's period"
        raise InvalidValue("report", (FieldError(name, value, rule),))
    for (day,) in source.spans:
        for row in sql.stream("usage_of_day", {}, day=day, **_filters(query)):
            keys = (day, row["user_id"], row["model"], row["provider"])
            yield SpendRow(keys, _figures(row))


def resolved(sql: Statements, request: SpendRequest, now_us: int) -> tuple[SpendQuery, str, int]:
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


def _source(sql: Statements, query: SpendQuery, zone: str) -> _Source:
    usage = usage_span(sql, zone)
    keys = {*query.by, *query.where}
    span = Window(max(query.start_us, usage.start_us), min(query.end_us, usage.end_us))
    if span.start_us >= span.end_us:
        return _Source([], [])
    days = days_of(span, zone)
    if "period" in query.where:
        # All that belongs to a period is in it, whatever the days are.
        days = Days(sorted([*days.whole, *(day for day, _ in days.parts)]), [])
    tags = {key for key in keys if key.startswith(TAG)}
    if len(tags) == 1 and keys - tags <= _TIMES:
        (tag,) = tags
        first = tag_days_of(sql.product()).get(tag[len(TAG) :])
        if first is not None:
            early = [(day, span) for day in days.whole if day < first]
            rolled_up = [(day,) for day in days.whole if day >= first]
            return _Source(rolled_up, sorted([*early, *days.parts]), is_of_users=False, tag=tag)
    if "session" in keys or tags:
        every = sorted([*days.whole, *(day for day, _ in days.parts)])
        return _Source([], [(day, span) for day in every])
    if not days.whole:
        return _Source([], days.parts)
    if not keys & _OF_USERS:
        return _Source([(day,) for day in days.whole], days.parts, is_of_users=False)
    if "day" in keys:
        return _Source([(day,) for day in days.whole], days.parts)
    return _Source(months_and_days(days.whole, usage, zone), days.parts)


# -- from the rollups


def all_groups(sql: Statements, query: SpendQuery, zone: str, names: Names) -> Groups:
    """Return all groups of a query, from wherever they are; see `spend`."""
    return _all_groups(sql, _source(sql, query, zone), query, names)


def all_costs(
    sql: Statements, query: SpendQuery, zone: str, names: Names
) -> dict[str, tuple[int, int]]:
    """Return (calls, cost in nano-dollars) of all groups of a query by one key, by that key; see
    `all_groups`.
    """
    source = _source(sql, query, zone)
    if source.parts:
        groups = _all_groups(sql, source, query, names)
        return {key: (each.calls, each.cost_nano) for (key,), each in groups.items()}
    if not source.spans:
        return {}
    whole = replace(query, sort="", after=START, rows_max=None)
    columns, parameters = _columns(whole, _COST_SUMS), _parameters(whole, source)
    found = sql.tuples(source.statement, columns, source.spans, **parameters)
    return {key: (calls, cost_nano) for key, _, _, calls, cost_nano in found}


def _page(sql: Statements, source: _Source, total: _Source, query: SpendQuery) -> SpendPage:
    """Return a page that the database has sorted, and the total from where it is cheapest."""
    whole = replace(query, by=(), sort="", after=START, rows_max=None)
    sums = Figures()
    for row in _ranked(sql, total, whole):
        sums = _figures(row)
    rows_max = query.rows_max
    is_of_many = source.is_of_users and "user" in query.by and "user" not in query.where
    if is_of_many and rows_max is not None and rows_max * len(source.spans) <= _LOOKUPS_MAX:
        found = _ranked(sql, source, query, sums="")
        place = query.by.index("user")
        user_ids = {_keys(row, query)[place] for row in found}
        figures = _figures_of(sql, source.spans, query, user_ids)
    else:
        found = _ranked(sql, source, query)
        figures = {_keys(row, query): _figures(row) for row in found}
    page = found if rows_max is None else found[:rows_max]
    following = (
        Cursor(page[-1]["rank"], *_keys(page[-1], query)) if len(page) < len(found) else None
    )
    keys = [_keys(row, query) for row in page]
    return SpendPage(tuple([SpendRow(each, figures[each]) for each in keys]), sums, following)


def _ranked(sql: Statements, source: _Source, query: SpendQuery, sums: str = ALL_SUMS) -> list[Row]:
    """Return groups in the order of a query, those after its cursor, and one more than its page."""
    if not source.spans:
        return []
    columns, parameters = _columns(query, sums), _parameters(query, source)
    return sql.filled(source.statement, columns, source.spans, **parameters)


def _figures_of(
    sql: Statements, spans: Spans, query: SpendQuery, user_ids: Collection[str]
) -> Groups:
    """Return the sums of some users, by keys: of all their groups."""
    rows = [(span, user_id) for (span,) in spans for user_id in sorted(user_ids)]
    if not rows:
        return {}
    columns = _columns(query, ALL_SUMS)
    found = sql.filled("spend_of_some_users", columns, rows, **_filters(query))
    return {_keys(row, query): _figures(row) for row in found}


def _columns(query: SpendQuery, sums: str) -> dict[str, str]:
    """Return what is filled into a statement: columns of the keys, the rank and the sums."""
    keys = ["r.tag_value" if name.startswith(TAG) else _COLUMNS[name] for name in query.by]
    if query.sort in FIGURE_SORTS:
        rank = f"CAST(SUM(r.{FIGURE_SORTS[query.sort]}) AS BIGINT)"
    elif query.is_by_time:
        rank = f"CAST(replace({_COLUMNS[query.sort]}, '-', '') AS BIGINT)"
    else:
        rank = "CAST(0 AS BIGINT)"
    rank = f"-{rank}" if query.is_descending else rank
    first, second = (*keys, "''", "''")[:2]
    group = ", ".join(keys) or NO_KEY.format(column="r.span")
    return {"first": first, "second": second, "rank": rank, "sums": sums, "group": group}


def _parameters(query: SpendQuery, source: _Source) -> dict[str, Any]:
    """Return the parameters of a statement that ranks."""
    tag = source.tag or TAG
    return {
        "tag_key": tag[len(TAG) :],
        "tag_value": query.where.get(tag),
        **_filters(query),
        "after_rank": query.after.rank,
        "after_first": query.after.first,
        "after_second": query.after.second,
        "rows_max": ROWS_MAX if query.rows_max is None else query.rows_max + 1,
    }


def _filters(query: SpendQuery) -> dict[str, Any]:
    """Return the parameters that limit the rows of the rollups."""
    where = query.where
    period = where.get("period")
    return {
        "first_user": where.get("user", ""),
        "last_user": where.get("user", AFTER_ALL_IDS),
        "model": where.get("model"),
        "provider": where.get("provider"),
        "plan": where.get("plan"),
        "period_start_us": None if period is None else int(period),
    }


def _keys(row: Row, query: SpendQuery) -> tuple[str, ...]:
    keys: tuple[str, ...] = (row["first_key"], row["second_key"])
    return keys[: len(query.by)]


def _figures(row: Row) -> Figures:
    return Figures(*[row[name] for name in Figures._fields])


# -- from the events


def _all_groups(sql: Statements, source: _Source, query: SpendQuery, names: Names) -> Groups:
    """Return all groups, those of the rollups with what the events of parts of days add."""
    found = _ranked(sql, source, replace(query, after=START, rows_max=None))
    groups = {_keys(row, query): _figures(row) for row in found}
    for row in _grouped_events(sql, source.parts, query, names) if source.parts else ():
        metadata = from_json(row["metadata"]) or {}
        if any(tag_of(metadata, name) != value for name, value in _tag_filters(query.where)):
            continue
        keys = tuple(
            tag_of(metadata, name) if name.startswith(TAG) else key
            for name, key in zip(query.by, _keys(row, query), strict=True)
        )
        known = groups.get(keys)
        groups[keys] = _figures(row) if known is None else known.plus(_figures(row))
    return groups


def _tag_filters(where: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in where.items() if name.startswith(TAG)]


def _grouped_events(
    sql: Statements, parts: list[tuple[str, Window]], query: SpendQuery, names: Names
) -> Iterable[Row]:
    """Return what the events of some days add, by the keys that have a column, and by metadata
    where the query has tags. Each event may have other metadata: the rows are streamed.

    Raises:
        InvalidValue: They are too many.
    """
    spans = _spans_of_users(sql, {window for _, window in parts}, query)
    if spans == []:
        return []
    keys = [_EVENT_COLUMNS.get(name, "''") for name in query.by]
    has_tags = any(name.startswith(TAG) for name in (*query.by, *query.where))
    columns = {
        **dict(zip(("first", "second"), (*keys, "''", "''"), strict=False)),
        "metadata": METADATA if has_tags else "CAST(NULL AS TEXT)",
        "sums": ALL_SUMS,
    }
    filters = {**_filters(query), "session_id": query.where.get("session")}
    if spans is not None:
        if "session" not in query.where:
            _check_number(sql, parts, spans, query, names)
        return sql.stream("groups_of_users", columns, spans, **filters)
    _check_number(sql, parts, None, query, names)
    days = [(day, *window) for day, window in parts]
    return sql.stream("groups_of_days", columns, days, **filters)


def _check_number(
    sql: Statements,
    parts: list[tuple[str, Window]],
    spans: list[tuple[str, int, int]] | None,
    query: SpendQuery,
    names: Names,
) -> None:
    """Check that not too many events would be read: by the calls of their days, which is fast, and
    by counting where these are too many.

    Raises:
        InvalidValue: They are too many.
    """
    user_id = query.where.get("user")
    where = {} if user_id is None else {"user": user_id}
    calls = replace(query, by=(), where=where, sort="", after=START, rows_max=None)
    source = _Source([(day,) for day, _ in parts], [], is_of_users=user_id is not None)
    if all(row["calls"] <= EVENTS_MAX for row in _ranked(sql, source, calls)):
        return
    if spans is None:
        days = [(day, *window) for day, window in parts]
        found = sql.count_events_of_days(rows=days, events_max=EVENTS_MAX + 1)
    else:
        found = sql.count_events_of_users(rows=spans, events_max=EVENTS_MAX + 1)
    if found["events"] > EVENTS_MAX:
        rule = (
            f"has more than {EVENTS_MAX:,} events, which is more than a report reads: choose a"
            f" shorter time, or what the rollups hold: {_HELD}"
        )
        raise InvalidValue("report", (FieldError(names.by, ",".join(query.by), rule),))


def _spans_of_users(
    sql: Statements, windows: Collection[Window], query: SpendQuery
) -> list[tuple[str, int, int]] | None:
    """Return the users with events that a query may be about, and when those are; None where that
    is no matter of users.
    """
    user_id, session_id = query.where.get("user"), query.where.get("session")
    if user_id is not None:
        spans = [(user_id, *window) for window in windows]
    if not session_id:
        return None if user_id is None else spans
    limits = _filters(query)
    users = sql.users_of_session(
        session_id=session_id,
        first_user=limits["first_user"],
        last_user=limits["last_user"],
        users_max=_SESSION_USERS_MAX + 1,
    )
    if len(users) > _SESSION_USERS_MAX:
        return None  # no session, but a name that many use
    return [
        (
            row["user_id"],
            max(window.start_us, row["started_us"]),
            min(window.end_us, row["used_us"] + 1),
        )
        for row in users
        for window in windows
    ]
