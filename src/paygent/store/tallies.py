"""Reports that count, from the store: calls at gates, and how calls were metered.

The rollup of gates is grouped, sorted and paged by the database, as that of usage is. The quality
of calls is in the rollup of the product, a few rows a day, beside the counts of unmetered calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from paygent.core.period import day_in_zone
from paygent.core.report import START, TIME_KEYS, Cursor, SpendQuery
from paygent.core.report_request import SpendRequest
from paygent.core.tally import (
    FIGURES_OF,
    Counts,
    Tallies,
    TallyKind,
    TallyReport,
    TallyRow,
    add,
    metered_counts,
    sorted_figure,
    tally_page,
    unmetered_counts,
    unmetered_keys,
)
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.gates import days_with_gates
from paygent.store.reports import NO_KEY, ROWS_MAX, all_groups, resolved
from paygent.store.statements import Row, Statements

_GATE_COLUMNS: Final = {
    "user": "r.user_id",
    "reason": "r.gate_reason",
    "day": "r.day",
    "month": "substr(r.day, 1, 7)",
}
"""The column of each key in the rollup of gates."""


def tally(sql: Statements, kind: TallyKind, request: SpendRequest, now_us: int) -> TallyReport:
    """Return a report that counts.

    Args:
        sql: In a transaction that reads one moment.
        kind: Which one.
        request: What is asked for, by its rules.
        now_us: The ledger's clock.

    Raises:
        InvalidValue: The span of time is not valid.
    """
    query, zone, now_us = resolved(sql, request, now_us)
    if kind == "gates":
        return _gate_report(sql, query, zone, now_us)
    tallies: Tallies = {}
    if not query.where.get("operation"):  # a metered call has none
        _add_metered(sql, query, request, zone, tallies)
    if not query.where.get("provider"):  # that of an unmetered call is not known
        _add_unmetered(sql, query, zone, tallies)
    return tally_page("quality", tallies, query, zone, now_us)


# -- gates


def _gate_report(sql: Statements, query: SpendQuery, zone: str, now_us: int) -> TallyReport:
    days = days_with_gates(sql, *_days(query, zone))
    found = _gates(sql, days, query)
    whole = replace(query, by=(), sort="", after=START, rows_max=None)
    total = [_figures(row) for row in _gates(sql, days, whole)]
    rows = [TallyRow(_keys(row, query), _figures(row)) for row in found]
    page = rows if query.rows_max is None else rows[: query.rows_max]
    following = None
    if page and len(page) < len(rows):
        following = Cursor(found[len(page) - 1]["rank"], *page[-1].keys)
    nothing = (0,) * len(FIGURES_OF["gates"])
    total_figures = total[0] if total else nothing
    return TallyReport("gates", tuple(page), total_figures, following, query, zone, now_us)


def _gates(sql: Statements, days: list[tuple[str]], query: SpendQuery) -> list[Row]:
    """Return groups in the order of a query, those after its cursor, and one more than its page."""
    if not days:
        return []
    where = query.where
    return sql.filled(
        "gates_of_days",
        _columns(query),
        days,
        first_user=where.get("user", ""),
        last_user=where.get("user", AFTER_ALL_IDS),
        gate_reason=where.get("reason"),
        after_rank=query.after.rank,
        after_first=query.after.first,
        after_second=query.after.second,
        rows_max=ROWS_MAX if query.rows_max is None else query.rows_max + 1,
    )


def _columns(query: SpendQuery) -> dict[str, str]:
    """Return what is filled into the statement: columns of the keys, and the rank."""
    keys = [_GATE_COLUMNS[name] for name in query.by]
    figure = sorted_figure("gates", query.sort)
    if figure is not None:
        rank = f"CAST(SUM(r.{figure}) AS BIGINT)"
    elif query.sort in TIME_KEYS:
        rank = f"CAST(replace({_GATE_COLUMNS[query.sort]}, '-', '') AS BIGINT)"
    else:
        rank = "CAST(0 AS BIGINT)"
    return {
        **dict(zip(("first", "second"), (*keys, "''", "''"), strict=False)),
        "rank": f"-{rank}" if query.is_descending else rank,
        "group": ", ".join(keys) or NO_KEY.format(column="r.day"),
    }


def _days(query: SpendQuery, zone: str) -> tuple[str, str]:
    """Return the first and the last day of a query."""
    return day_in_zone(query.start_us, zone), day_in_zone(query.end_us - 1, zone)


def _keys(row: Row, query: SpendQuery) -> tuple[str, ...]:
    keys: tuple[str, ...] = (row["first_key"], row["second_key"])
    return keys[: len(query.by)]


def _figures(row: Row) -> Counts:
    return tuple([row[name] for name in FIGURES_OF["gates"]])


# -- quality


def _add_metered(
    sql: Statements, query: SpendQuery, request: SpendRequest, zone: str, tallies: Tallies
) -> None:
    by = tuple([name for name in query.by if name != "operation"])
    where = {name: value for name, value in query.where.items() if name != "operation"}
    metered = replace(query, by=by, where=where, sort="calls", after=START, rows_max=None)
    for keys, figures in all_groups(sql, metered, zone, request.names).items():
        values = dict(zip(by, keys, strict=True))
        add(tallies, tuple([values.get(name, "") for name in query.by]), metered_counts(figures))


def _add_unmetered(sql: Statements, query: SpendQuery, zone: str, tallies: Tallies) -> None:
    first, last = _days(query, zone)
    for row in sql.unmetered_calls_of_days(first=first, last=last):
        values = unmetered_keys(row["model"], row["operation"], row["day"])
        if all(values[name] == value for name, value in query.where.items()):
            keys = tuple([values[name] for name in query.by])
            add(tallies, keys, unmetered_counts(row["calls"]))
