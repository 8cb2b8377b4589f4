"""`paygent report`: who used what, from an application's file or a server's database."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any, NamedTuple, cast

from paygent.cli.database import Source, opened_source
from paygent.cli.options import CommandError, ReportFormat, UsageError
from paygent.cli.output import (
    Column,
    escaped,
    open_console,
    print_csv,
    print_json,
    print_line,
    print_table,
)
from paygent.core.focus import focus_table
from paygent.core.margin import MarginFigures, MarginReport
from paygent.core.money import format_usd
from paygent.core.period import to_datetime
from paygent.core.report import TAG, Figures, SpendReport
from paygent.core.report_json import (
    columns_of,
    margin_to_json,
    report_to_json,
    tally_to_json,
    values_of,
)
from paygent.core.report_request import SPEND, Names, Rules, SpendRequest, read_request
from paygent.core.report_table import RULES_OF
from paygent.core.tally import FIGURES_OF, TallyKind, TallyReport
from paygent.core.validation import FieldError, InvalidValue

_NAMES = Names(by="--by", start="--from", end="--to")
_TABLE_ROWS = 50
_NONE = "(none)"  # usage without a key
_COST_DECIMALS = 4


class Options(NamedTuple):
    """What is asked for, as it was given; None is not given."""

    by: str | None = None
    start: str | None = None
    end: str | None = None
    period: str | None = None
    user: str | None = None
    model: str | None = None
    provider: str | None = None
    plan: str | None = None
    session: str | None = None
    reason: str | None = None
    operation: str | None = None
    tags: tuple[str, ...] = ()
    sort: str | None = None
    limit: int | None = None
    output_format: ReportFormat = ReportFormat.TABLE


RULES: Mapping[str, Rules] = {"spend": SPEND, **{str(kind): RULES_OF[kind] for kind in RULES_OF}}
"""The reports that there are, with what each takes."""

_FILTERS = ("user", "model", "provider", "plan", "session", "reason", "operation")


def run(
    kind: str,
    db: str | None,
    database_url: str | None,
    product: str | None,
    environ: Mapping[str, str],
    options: Options,
) -> int:
    """Print a report; return the exit status."""
    if kind not in RULES:
        raise UsageError(f"there is no report {kind!r}; there are {', '.join(RULES)}")
    request = _request(kind, options)
    with opened_source(db, database_url, product, environ) as source:
        try:
            if kind == "spend":
                _print_spend(environ, source, request, options.output_format)
            else:
                _print_other(environ, source, kind, request, options.output_format)
        except InvalidValue as error:
            raise InvalidValue("report", tuple(map(_as_option, error.findings))) from None
    return 0


def _request(kind: str, options: Options) -> SpendRequest:
    """Read the options.

    Raises:
        InvalidValue: Names every option that breaks a rule.
    """
    rules = RULES[kind]
    given: dict[str, Any] = options._asdict()
    is_focus = options.output_format is ReportFormat.FOCUS
    limit, tags = given.pop("limit"), given.pop("tags")
    errors = []
    taken = " and ".join(f"--{name}" for name in rules.filters)
    for name, value in (*((name, given[name]) for name in _FILTERS), ("tag", tags)):
        is_taken = rules.has_tags if name == "tag" else name in rules.filters
        if value and not is_taken:
            errors.append(FieldError(f"--{name}", value, f"is no filter of {kind}; {taken} are"))
    if kind != "spend" and is_focus:
        rule = f"must be table, csv or json: FOCUS has no {kind}"
        errors.append(FieldError("--format", options.output_format.value, rule))
    if limit is not None and limit < 1:
        errors.append(FieldError("--limit", limit, "must be at least 1"))
    for name in ("by", "sort", "limit"):
        if kind == "spend" and is_focus and getattr(options, name) is not None:
            rule = "has no effect on --format focus, which has a row a day, user and model"
            errors.append(FieldError(f"--{name}", getattr(options, name), rule))
    for tag in tags:
        key, found, value = tag.partition("=")
        if not found or not key:
            errors.append(FieldError("--tag", tag, "must be KEY=VALUE"))
        elif TAG + key in given:
            errors.append(FieldError("--tag", tag, "must be given once for each key"))
        given[TAG + key] = value
    if limit is None and options.output_format is ReportFormat.TABLE:
        limit = _TABLE_ROWS
    given["by"] = options.by or ("model" if kind == "quality" else "user")
    try:
        request = read_request(given, _NAMES, rules=rules, rows_max=limit)
    except InvalidValue as error:
        raise InvalidValue("report", (*errors, *map(_as_option, error.findings))) from None
    if errors:
        raise InvalidValue("report", tuple(errors))
    return request


def _as_option(error: FieldError) -> FieldError:
    """Return an error with the name of the option."""
    name = error.field
    if not name.startswith("--"):
        name = "--tag" if name.startswith(TAG) else f"--{name}"
    return FieldError(name, error.value, error.rule)


# -- formats


def _print_spend(
    environ: Mapping[str, str], source: Source, request: SpendRequest, output: ReportFormat
) -> None:
    if output is ReportFormat.FOCUS:
        _print_focus(source, request)
    elif output is ReportFormat.CSV:
        rows = islice(source.store.spend_rows(source.product, request), request.rows_max)
        values = ([escaped(each) for each in values_of(request.by, row)] for row in rows)
        _print_rows(columns_of(request.by), values)
    else:
        report = source.store.spend(source.product, request)
        if output is ReportFormat.JSON:
            print_json(report_to_json(report, None))
        else:
            _print_table(environ, report)


def _print_other(
    environ: Mapping[str, str],
    source: Source,
    kind: str,
    request: SpendRequest,
    output: ReportFormat,
) -> None:
    """Print margins, gates or quality: rows that are in memory anyway."""
    if kind == "margin":
        margin = source.store.margin(source.product, request)
        document = margin_to_json(margin, None)
    else:
        found = source.store.tally(source.product, cast(TallyKind, kind), request)
        document = tally_to_json(found, None)
    if output is ReportFormat.JSON:
        print_json(document)
    elif output is ReportFormat.CSV:
        print_csv((*request.by, *document["total"]), document["rows"])
    elif kind == "margin":
        _print_margin(environ, margin)
    else:
        _print_tally(environ, found)


def _print_focus(source: Source, request: SpendRequest) -> None:
    """Print a row for each day, user, model and provider in the format of FOCUS."""
    product = source.store.product(source.product)
    rows = source.store.daily_rows(source.product, request)
    table = focus_table(rows, zone="UTC" if product is None else product.timezone)
    _print_rows(next(table), table)


def _print_rows(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as CSV, once all are read: who reads the output may pause, or have enough."""
    with TemporaryFile("w+", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        file.seek(0)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # what is read back must be complete
        copyfileobj(file, sys.stdout or io.StringIO())


def _print_table(environ: Mapping[str, str], report: SpendReport) -> None:
    console = open_console(environ)
    query, page = report.query, report.page
    if not page.rows:
        raise CommandError(
            f"no usage {_span_text(report)} (--from, --to and --period select others)"
        )
    columns = [
        *(Column(name) for name in query.by),
        *(Column(title, is_number=True) for title in ("calls", "input", "cached", "output")),
        Column("cost", is_number=True),
        Column("not exact", is_number=True),
    ]
    rows = [[*_keys(query.by, row.keys), *_cells(row.figures)] for row in page.rows]
    total = ["total", *("" for _ in query.by[1:]), *_cells(page.total)]
    print_table(console, columns, [*rows, total])
    more = "" if page.following is None else f"; {len(rows):,} rows shown, --limit shows more"
    print_line(console, "")
    print_line(console, f"{_span_text(report)}{more}")


def _print_margin(environ: Mapping[str, str], report: MarginReport) -> None:
    by, page = report.query.by, report.page
    console = open_console(environ)
    if not page.rows:
        raise CommandError(f"no user and no cost {_span_text(report)}")
    titles = ("calls", "cost", "revenue", "margin", "%", "projected cost", "projected margin")
    columns = [
        Column(by),
        *(Column(title, is_number=True) for title in titles),
        Column("revenue is"),
    ]
    rows = [[row.key or _NONE, *_margin_cells(row.figures)] for row in page.rows]
    print_table(console, columns, [*rows, ["total", *_margin_cells(page.total)]])
    more = "" if page.following is None else f"; {len(rows):,} rows shown, --limit shows more"
    print_line(console, "")
    for share in page.shares:
        users = "1 user" if share.users == 1 else f"{share.users:,} users"
        cost = format_usd(share.cost_nano)
        print_line(console, f"the dearest {share.percent} % ({users}) cost {cost}")
    print_line(console, f"{_span_text(report)}{more}")


def _margin_cells(figures: MarginFigures) -> list[str]:
    percent = "" if figures.margin_pct is None else f"{figures.margin_pct:.0%}"
    return [
        f"{figures.calls:,}",
        format_usd(figures.cost_nano),
        format_usd(figures.revenue_nano),
        format_usd(figures.margin_nano),
        percent,
        format_usd(figures.projected_cost_nano),
        format_usd(figures.projected_margin_nano),
        (figures.revenue_source or "").replace("_", " "),
    ]


def _print_tally(environ: Mapping[str, str], report: TallyReport) -> None:
    console, by = open_console(environ), report.query.by
    if not report.rows:
        raise CommandError(
            f"no calls {_span_text(report)} (--from, --to and --period select others)"
        )
    figures = FIGURES_OF[report.kind]
    titles = [name.removesuffix("_nano").replace("_", " ") for name in figures]
    columns = [
        *(Column(name) for name in by),
        *(Column(title, is_number=True) for title in titles),
    ]
    rows = [[*_keys(by, row.keys), *_counts(figures, row.figures)] for row in report.rows]
    total = ["total", *("" for _ in by[1:]), *_counts(figures, report.total)]
    print_table(console, columns, [*rows, total])
    more = "" if report.following is None else f"; {len(rows):,} rows shown, --limit shows more"
    print_line(console, "")
    print_line(console, f"{_span_text(report)}{more}")


def _counts(figures: Iterable[str], values: Iterable[int]) -> list[str]:
    return [
        format_usd(value, decimals=_COST_DECIMALS) if name.endswith("_nano") else f"{value:,}"
        for name, value in zip(figures, values, strict=True)
    ]


def _span_text(report: SpendReport | MarginReport | TallyReport) -> str:
    start, end = (to_datetime(at_us) for at_us in (report.query.start_us, report.query.end_us))
    return f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, days in {report.timezone}"


def _keys(by: Iterable[str], keys: Iterable[str]) -> list[str]:
    shown = []
    for name, value in zip(by, keys, strict=True):
        if name == "period":
            value = f"{to_datetime(int(value)):%Y-%m-%d %H:%M}"
        shown.append(value or _NONE)
    return shown


def _cells(figures: Figures) -> list[str]:
    counts = (
        figures.calls,
        figures.input_tokens,
        figures.cached_input_tokens,
        figures.output_tokens,
    )
    cost = format_usd(figures.cost_nano, decimals=_COST_DECIMALS)
    return [*(f"{count:,}" for count in counts), cost, f"{figures.doubtful_calls:,}"]
