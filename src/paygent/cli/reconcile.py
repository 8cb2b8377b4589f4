"""`paygent reconcile`: a provider's usage or cost export beside Paygent's figures.

The days of exports are UTC. A product in UTC is answered from its rollups, also if its time zone is
another one whose days begin with those of UTC. For every other product the events of each UTC day
are read one by one, which is exact to the instant, and slower: a day with more events than one
report reads is read in halves.

By default the days from the first to the last one of the file are compared. A file without rows for
days without usage, such as a CSV, may cover more: `--from` and `--to` name them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from paygent.cli.database import Source, opened_source
from paygent.cli.options import Format, UsageError
from paygent.cli.output import Column, open_console, print_csv, print_json, print_line, print_table
from paygent.cli.reconcile_file import opened_export
from paygent.core.money import from_units, read_decimal, scale
from paygent.core.period import Window, days_between, start_of_day
from paygent.core.reconcile import (
    FLOORS,
    Amounts,
    Comparison,
    OurRow,
    ProviderUsage,
    Reconciliation,
    fold_provider,
    reconcile,
)
from paygent.core.report import Figures, SpendReport
from paygent.core.report_request import Names, SpendRequest
from paygent.core.validation import InvalidValue
from paygent.core.wording import dollars, short
from paygent.prices.model_names import canonical

ANY = "any"
"""What `--provider` takes for all providers, and for events without one."""

_NAMES = Names(by="day and model", start="--from", end="--to")
_SPAN_US_MIN = 60 * 10**6  # a minute with more events than a report reads is refused
_LISTED_MAX = 50  # unexplained differences of a table; the other formats have all of them
_PLACES = 4  # parts per million, shown as per cent

_FIGURES = {
    "cost_nano": "cost",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cached_input_tokens": "cached input tokens",
    "calls": "calls",
}
_QUALITIES = ("partial", "estimated", "unpriced")
_SIDES = (
    Column("figure"),
    Column("Paygent", is_number=True),
    Column("provider", is_number=True),
    Column("difference", is_number=True),
    Column("coverage", is_number=True),
)
_KEYS_NOTE = (
    "by key of the export; Paygent stores no provider keys, so it has no figures beside them"
)


@dataclass(frozen=True)
class Options:
    """What the command was asked for.

    Attributes:
        start: The first day; None is the first one of the file.
        end: The day after the last one; None is the last one of the file.
        tolerance: In per cent of the provider's figure.
        provider: The provider in events, or `ANY`; None is that of the file.
    """

    start: datetime | None = None
    end: datetime | None = None
    tolerance: float = 0.5
    provider: str | None = None
    output_format: Format = Format.TABLE


class _Result(NamedTuple):
    """A comparison and what it is about.

    Attributes:
        head: Names and days, as in JSON.
        found: The comparison.
        notes: What the reader has to know.
    """

    head: Mapping[str, Any]
    found: Reconciliation
    notes: list[str]


def run(
    path: str,
    db: str | None,
    database_url: str | None,
    product: str | None,
    environ: Mapping[str, str],
    options: Options,
) -> int:
    """Print the comparison; return the exit status, 1 if a difference is unexplained."""
    tolerance_ppm = _tolerance_ppm(options.tolerance)
    start, end = (str(day.date()) if day else "" for day in (options.start, options.end))
    if start and end and start >= end:
        raise UsageError(f"--to must be after --from, {start}, not {end}")
    with opened_export(path) as export:
        theirs = fold_provider(export.rows, canonical, start=start, end=end)
    if theirs.days is None or not theirs.metrics:
        raise UsageError(
            f"{path} has no figures to compare{' in these days' if start + end else ''}"
        )
    first = date.fromisoformat(start or theirs.days[0])
    after = date.fromisoformat(end) if end else date.fromisoformat(theirs.days[1]) + _DAY
    provider = options.provider or export.provider or ANY
    with opened_source(db, database_url, product, environ) as source:
        request = SpendRequest(("day", "model"), first, after, names=_NAMES)
        if provider != ANY:
            request = replace(request, where={"provider": provider})
        report = source.store.spend(source.product, request)
        found = reconcile(theirs, _our_rows(source, report, request), tolerance_ppm)
        left_out = _of_no_provider(source, request)
        head = {
            "product": source.product,
            "store": source.shown,
            "file": path,
            "export": export.shape,
            "provider": provider,
            "from": str(first),
            "to": str(after),
            "timezone": "UTC",
            "tolerance_ppm": tolerance_ppm,
        }
    notes = [*export.notes, *_notes(theirs, provider, report.timezone, left_out)]
    _PRINTERS[options.output_format](_Result(head, found, notes), environ)
    return 1 if found.unexplained else 0


_DAY = timedelta(days=1)


def _tolerance_ppm(per_cent: float) -> int:
    number = read_decimal(per_cent)
    if number is None or not number.is_finite() or not 0 <= number <= 100:
        raise UsageError(f"--tolerance must be from 0 to 100 per cent, not {per_cent}")
    return scale(number, 10**_PLACES)


def _notes(theirs: ProviderUsage, provider: str, zone: str, left_out: Figures) -> Iterator[str]:
    if not theirs.has_models:
        yield "the export names no models: days are compared as a whole"
    if provider == ANY:
        yield "all providers of the product are compared; --provider selects one"
    elif any(left_out):
        yield (
            f"events without a provider, as record_event books them, are left out: "
            f"{left_out.calls:,}, {dollars(left_out.cost_nano)}; --provider {ANY} includes them"
        )
    if zone != "UTC":
        yield f"days are UTC, like those of the export; the product's are in {zone}"


# -- Paygent's side


def _our_rows(source: Source, report: SpendReport, request: SpendRequest) -> Iterator[OurRow]:
    """Yield Paygent's figures by UTC day and model.

    Args:
        source: Where they are.
        report: The answer to the request, by days of the product's time zone.
        request: From a day to a day.
    """
    starts = {
        day: start_of_day(_date(day), "UTC")
        for day in days_between(str(request.start), str(request.end))
    }
    zone = report.timezone
    if all(start_of_day(_date(day), zone) == start_us for day, start_us in starts.items()):
        for row in report.page.rows:
            yield OurRow(row.keys[0], row.keys[1], row.figures)
        return
    for (day, start_us), end_us in zip(starts.items(), [*starts.values()][1:], strict=False):
        yield from _in_span(source, replace(request, by=("model",)), day, Window(start_us, end_us))


def _of_no_provider(source: Source, request: SpendRequest) -> Figures:
    """Return the sums of events without a provider, on the same days of the product's zone."""
    asked = replace(request, by=("provider",), where={"provider": ""})
    return source.store.spend(source.product, asked).page.total


def _date(day: str) -> date:
    return date.fromisoformat(day)


def _in_span(source: Source, request: SpendRequest, day: str, span: Window) -> Iterator[OurRow]:
    """Yield the figures of a part of a day, in halves if it has too many events for one report."""
    try:
        report = source.store.spend(
            source.product, replace(request, start=span.start_us, end=span.end_us)
        )
    except InvalidValue:
        if span.end_us - span.start_us <= _SPAN_US_MIN:
            raise
        middle_us = (span.start_us + span.end_us) // 2
        yield from _in_span(source, request, day, span._replace(end_us=middle_us))
        yield from _in_span(source, request, day, span._replace(start_us=middle_us))
        return
    for row in report.page.rows:
        yield OurRow(day, row.keys[0], row.figures)


# -- for programs


def _print_json(result: _Result, environ: Mapping[str, str]) -> None:
    del environ  # JSON is the same on every terminal
    found = result.found
    groups = {
        "total": _record(found.total, found),
        "by_day": [_record(each, found) for each in found.by_day],
        "by_model": [_record(each, found) for each in found.by_model],
        "rows": [_record(each, found) for each in found.cells],
        "unexplained": [_record(each, found) for each in found.unexplained],
        "keys": [
            {"key": key, **{name: getattr(amounts, name) for name in found.metrics}}
            for key, amounts in found.keys
        ],
    }
    print_json({**result.head, **groups, "notes": result.notes})


def _record(each: Comparison, found: Reconciliation) -> dict[str, Any]:
    return {
        "day": each.day,
        "model": each.model,
        "figures": {name: _sides(each, name) for name in found.metrics},
        **_doubts(each),
    }


def _sides(each: Comparison, metric: str) -> dict[str, Any]:
    return {
        "ours": getattr(each.ours, metric),
        "theirs": getattr(each.theirs, metric),
        "difference": each.difference(metric),
        "coverage_ppm": each.coverage_ppm(metric),
        "unexplained": metric in each.unexplained,
    }


def _doubts(each: Comparison) -> dict[str, int]:
    return {f"{name}_calls": getattr(each.ours, f"{name}_calls") for name in _QUALITIES}


def _print_csv(result: _Result, environ: Mapping[str, str]) -> None:
    """Print a row for each day, model and figure; unexplained sums of all days have no day."""
    del environ  # CSV is the same on every terminal
    found = result.found
    of_all_days = [each for each in found.unexplained if each.day is None]
    names = ["day", "model", "figure", "ours", "theirs", "difference", "coverage_ppm"]
    names += ["unexplained", *(f"{name}_calls" for name in _QUALITIES)]
    rows = (
        {"day": each.day, "model": each.model, "figure": metric}
        | _sides(each, metric)
        | _doubts(each)
        for each in (*found.cells, *of_all_days)
        for metric in found.metrics
    )
    print_csv(names, rows)


# -- for people


def _print_table(result: _Result, environ: Mapping[str, str]) -> None:
    head, found = result.head, result.found
    console = open_console(environ)
    last = date.fromisoformat(head["to"]) - _DAY
    print_line(
        console,
        f"{head['export']}, {head['from']} to {last}, UTC; product {head['product']!r} in "
        f"{head['store']}, provider {head['provider']}",
    )
    rows = [row for each in (*found.by_model, found.total) for row in _cells(each, found.metrics)]
    print_table(console, (Column("model"), *_SIDES), [row[1:-1] for row in rows])
    print_line(console, "")
    rows = [row for each in found.by_day for row in _cells(each, found.metrics[:1])]
    print_table(console, (Column("day"), *_SIDES), [(row[0], *row[2:-1]) for row in rows])
    if found.keys:
        print_line(console, "")
        titles = [Column(_FIGURES[metric], is_number=True) for metric in found.metrics]
        keys = [(key or "-", *_amounts(amounts, found.metrics)) for key, amounts in found.keys]
        print_table(console, (Column("key"), *titles), keys)
        print_line(console, _KEYS_NOTE)
    print_line(console, "")
    _print_unexplained(result, environ)
    for note in result.notes:
        print_line(console, f"note: {note}")


def _print_unexplained(result: _Result, environ: Mapping[str, str]) -> None:
    found = result.found
    console = open_console(environ)
    count = len(found.unexplained)
    listed = found.unexplained[:_LISTED_MAX]
    rows = [row for each in listed for row in _cells(each, each.unexplained)]
    if rows:
        columns = (Column("day"), Column("model"), *_SIDES, Column("Paygent's calls"))
        print_table(console, columns, rows)
    if count > len(listed):
        print_line(console, f"and {count - len(listed):,} more: --format csv lists them")
    tolerance = short(from_units(found.tolerance_ppm, _PLACES))
    floors = f"{dollars(FLOORS['cost_nano'])} or {FLOORS['input_tokens']} tokens"
    print_line(
        console,
        f"unexplained, above {tolerance} % and {floors}: {count:,} of {len(found.cells):,} "
        "days and models",
    )


def _cells(each: Comparison, metrics: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each figure: day, model, both sides, and what is known about the calls."""
    model = "all models" if each.model is None else each.model or "-"
    counts = {name: getattr(each.ours, f"{name}_calls") for name in _QUALITIES}
    doubts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    for metric in metrics:
        coverage_ppm = each.coverage_ppm(metric)
        yield (
            each.day or "all days",
            model,
            _FIGURES[metric],
            _shown(metric, getattr(each.ours, metric)),
            _shown(metric, getattr(each.theirs, metric)),
            _shown(metric, each.difference(metric)),
            "-" if coverage_ppm is None else f"{short(from_units(coverage_ppm, _PLACES))} %",
            doubts or "exact",
        )


def _amounts(amounts: Amounts, metrics: tuple[str, ...]) -> list[str]:
    return [_shown(metric, getattr(amounts, metric)) for metric in metrics]


def _shown(metric: str, figure: int) -> str:
    return dollars(figure) if metric == "cost_nano" else f"{figure:,}".replace("-", "−")


_PRINTERS = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_json}
