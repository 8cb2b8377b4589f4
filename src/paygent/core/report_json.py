"""Reports as JSON, the answers of REST, and back.

A row has a field for each key, null where there is none, and the sums; amounts of dollars are
there twice, as numbers and exactly as `…_nano`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from paygent.core.event_json import read_time
from paygent.core.margin import MarginFigures, MarginReport, MarginRow
from paygent.core.money import to_usd
from paygent.core.period import to_datetime
from paygent.core.report import (
    START,
    Figures,
    SpendPage,
    SpendQuery,
    SpendReport,
    SpendRow,
)
from paygent.core.tally import FIGURES_OF, TallyKind, TallyReport, TallyRow
from paygent.core.validation import FieldError, InvalidValue

_NANO = "_nano"


def columns_of(by: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a row's fields, in order: the columns of CSV."""
    return (*by, *_SUMS)


def values_of(by: tuple[str, ...], row: SpendRow) -> tuple[Any, ...]:
    """Return the values of a row's fields, in the order of `columns_of`; None is no value."""
    return (*_shown_keys(by, row.keys), *_sums(row.figures))


def row_to_json(by: tuple[str, ...], row: SpendRow) -> dict[str, Any]:
    """Return a row."""
    return dict(zip(columns_of(by), values_of(by, row), strict=True))


def report_to_json(report: SpendReport, next_cursor: str | None) -> dict[str, Any]:
    """Return a report.

    Args:
        report: The report.
        next_cursor: What the next page is asked for with.
    """
    query, page = report.query, report.page
    return {
        **_heading("spend", query.by, report),
        "rows": [row_to_json(query.by, row) for row in page.rows],
        "total": dict(zip(_SUMS, _sums(page.total), strict=True)),
        "next_cursor": next_cursor,
    }


def margin_columns(by: str) -> tuple[str, ...]:
    """Return the names of the fields of a row of margins, in order: the columns of CSV."""
    return (by, *_MARGIN_SUMS)


def margin_row_to_json(by: str, row: MarginRow) -> dict[str, Any]:
    """Return a row of margins; the key is null for usage without one."""
    return {by: row.key or None, **_margin_sums(row.figures)}


def margin_to_json(report: MarginReport, next_cursor: str | None) -> dict[str, Any]:
    """Return a report of margins; see `report_to_json`."""
    query, page = report.query, report.page
    return {
        **_heading("margin", (query.by,), report),
        "rows": [margin_row_to_json(query.by, row) for row in page.rows],
        "total": _margin_sums(page.total),
        "shares": [
            {
                "percent": share.percent,
                "users": share.users,
                "cost": to_usd(share.cost_nano),
                "cost_nano": share.cost_nano,
            }
            for share in page.shares
        ],
        "next_cursor": next_cursor,
    }


def tally_columns(kind: TallyKind, by: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the fields of a row of a report that counts, in order."""
    return (*by, *_names(FIGURES_OF[kind]))


def tally_values(kind: TallyKind, row: TallyRow) -> tuple[Any, ...]:
    """Return the values of a row's fields, in the order of `tally_columns`; None is no value."""
    return (*(key or None for key in row.keys), *_values(FIGURES_OF[kind], row.figures))


def tally_to_json(report: TallyReport, next_cursor: str | None) -> dict[str, Any]:
    """Return a report that counts; see `report_to_json`."""
    kind, by = report.kind, report.query.by
    columns = tally_columns(kind, by)
    figures = FIGURES_OF[kind]
    return {
        **_heading(kind, by, report),
        "rows": [dict(zip(columns, tally_values(kind, row), strict=True)) for row in report.rows],
        "total": dict(zip(_names(figures), _values(figures, report.total), strict=True)),
        "next_cursor": next_cursor,
    }


def _heading(
    kind: str, by: tuple[str, ...], report: SpendReport | MarginReport | TallyReport
) -> dict[str, Any]:
    """Return what a report is about."""
    return {
        "report": kind,
        "by": list(by),
        "from": to_datetime(report.query.start_us).isoformat(),
        "to": to_datetime(report.query.end_us).isoformat(),
        "timezone": report.timezone,
        "as_of": to_datetime(report.as_of_us).isoformat(),
    }


_MARGIN_SUMS: Final = (
    *("calls", "cost", "cost_nano", "revenue", "revenue_nano", "revenue_source"),
    *("margin", "margin_nano", "margin_pct", "projected_cost", "projected_cost_nano"),
    *("projected_margin", "projected_margin_nano"),
)


def _margin_sums(figures: MarginFigures) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    for name in _MARGIN_SUMS:
        if name == "margin_pct":
            sums[name] = figures.margin_pct
        elif hasattr(figures, f"{name}{_NANO}"):
            sums[name] = to_usd(getattr(figures, f"{name}{_NANO}"))
        else:
            sums[name] = getattr(figures, name)
    return sums


def _names(figures: Iterable[str]) -> Iterator[str]:
    """Yield the names of the fields of figures: an amount has two."""
    for name in figures:
        if name.endswith(_NANO):
            yield name.removesuffix(_NANO)
        yield name


def _values(figures: Iterable[str], values: Iterable[int]) -> Iterator[Any]:
    for name, value in zip(figures, values, strict=True):
        if name.endswith(_NANO):
            yield to_usd(value)
        yield value


_SUMS: Final = tuple(_names(Figures._fields))


def _sums(figures: Figures) -> Iterator[Any]:
    return _values(Figures._fields, figures)


def _shown_keys(by: tuple[str, ...], keys: tuple[str, ...]) -> Iterator[str | None]:
    for name, value in zip(by, keys, strict=True):
        if not value:
            yield None
        else:
            yield to_datetime(int(value)).isoformat() if name == "period" else value


def read_report(given: Any) -> SpendReport:
    """Return a report from JSON; fields that are not known are ignored.

    Raises:
        InvalidValue: It is no report.
    """
    try:
        by = tuple([str(name) for name in given["by"]])
        times = [read_time(given[name]) for name in ("from", "to", "as_of")]
        rows = tuple(SpendRow(_read_keys(by, row), _read_sums(row)) for row in given["rows"])
        page = SpendPage(rows, _read_sums(given["total"]), None)
        if None in times:
            raise ValueError("a time")
        start_us, end_us, as_of_us = (at_us or 0 for at_us in times)
        query = SpendQuery(by, start_us, end_us, after=START)
        return SpendReport(page, query, str(given["timezone"]), as_of_us)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidValue("report", (FieldError("report", given, "must be a report"),)) from error


def _read_keys(by: tuple[str, ...], row: Mapping[str, Any]) -> tuple[str, ...]:
    keys = []
    for name in by:
        value = row[name]
        if value is None:
            keys.append("")
        elif name == "period":
            at_us = read_time(value)
            if at_us is None:
                raise ValueError(value)
            keys.append(str(at_us))
        else:
            keys.append(str(value))
    return tuple(keys)


def _read_sums(row: Mapping[str, Any]) -> Figures:
    values = [row[name] for name in Figures._fields]
    if not all(type(value) is int for value in values):
        raise ValueError("a sum is no whole number")
    return Figures(*values)
