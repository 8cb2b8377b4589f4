"""Exports as CSV: what the providers' dashboards download, and a table of one's own.

The columns of the dashboards are not documented; these were read from published exports of
2025-2026. Their further columns are ignored. A table of one's own has a day and any of the columns
of `OWN`; any other column is an error, because a misspelt one would be left out.

Rows are read one at a time, so that a large file takes little memory.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from paygent.cli.reconcile_json import model_of_line_item
from paygent.cli.reconcile_values import FieldReader
from paygent.core.reconcile import ProviderRow
from paygent.core.validation import ValidationErrors

OWN = ("day", "model", "key", "calls", "input_tokens", "output_tokens", "cached_input_tokens",
       "cost_usd")  # fmt: skip
"""The columns of a table of one's own."""

_FIGURES = OWN[3:]
_CENT_ROUNDING_NANO = 5_000_000  # half a cent: Anthropic's console rounds each line to cents
_CENTS = re.compile(r"[0-9]+(\.[0-9]{1,2})?")
_VERSION_FIRST = re.compile(r"claude-(opus|sonnet|haiku)-(3(?:-[0-9])?)")

Cells = Mapping[str, str]


class Table(NamedTuple):
    """A kind of CSV.

    Attributes:
        shape: Its name.
        provider: The provider in events; None is any.
        columns: Those that it must have.
        read: Reads a row.
    """

    shape: str
    provider: str | None
    columns: tuple[str, ...]
    read: Callable[[FieldReader, Cells], ProviderRow]


def table_of(header: Sequence[str]) -> Table | None:
    """Return the kind of CSV that has these columns, or None."""
    names = set(header)
    for table in _TABLES:
        if names.issuperset(table.columns):
            return table
    is_own = "day" in names and names.issubset(OWN) and not names.isdisjoint(_FIGURES)
    return _OWN if is_own else None


def accepted() -> str:
    """Return the columns of each kind, for an error message."""
    known = "; ".join(f"{table.shape}: {', '.join(table.columns)}" for table in _TABLES)
    return f"{known}; or day with any of {', '.join(OWN[1:])}"


def header_of(lines: Iterator[list[str]]) -> list[str]:
    """Return the names of the columns: the first line, without surrounding blanks; [] of none."""
    return [name.strip() for name in next(lines, [])]


def read_rows(
    lines: Iterator[list[str]],
    line_number: Callable[[], int],
    header: Sequence[str],
    table: Table,
    errors: ValidationErrors,
) -> Iterator[ProviderRow]:
    """Yield the rows of a table; record every value that breaks a rule.

    Raises:
        csv.Error: A line is no CSV.
    """
    for values in lines:
        if not any(values):
            continue  # a blank line
        fields = FieldReader(errors, f"line {line_number()}, ")
        if len(values) != len(header):
            rule = f"must be {len(header)}, as in the heading"
            fields.reject("number of columns", len(values), rule)
            continue
        cells = {name: value.strip() for name, value in zip(header, values, strict=True)}
        yield table.read(fields, cells)


def make_reader(lines: Iterator[str]) -> tuple[Iterator[list[str]], Callable[[], int]]:
    """Return the lines of a CSV, and a function that returns the number of the last one."""
    reader = csv.reader(lines, strict=True)
    return reader, lambda: reader.line_num


def _optional_count(fields: FieldReader, cells: Cells, name: str) -> int | None:
    """Return a count; None without such a column."""
    return fields.count(name, cells[name]) if name in cells else None


def _key(cells: Cells, *names: str) -> str:
    return next((cells[name] for name in names if cells.get(name)), "")


# -- OpenAI's dashboard


def _bucket_day(fields: FieldReader, cells: Cells) -> str:
    given = cells["end_time"]
    start_us = fields.seconds_us("start_time", cells["start_time"])
    return fields.day_of("end_time", start_us, fields.seconds_us("end_time", given), given)


def _openai_usage(fields: FieldReader, cells: Cells) -> ProviderRow:
    day = _bucket_day(fields, cells)
    if not cells["input_tokens"] and not cells["output_tokens"]:
        return ProviderRow(day)  # an empty bucket
    return ProviderRow(
        day,
        model=fields.text("model", cells.get("model")),
        key=_key(cells, "api_key_id", "project_id"),
        input_tokens=fields.count("input_tokens", cells["input_tokens"]),
        output_tokens=fields.count("output_tokens", cells["output_tokens"]),
        cached_input_tokens=_optional_count(fields, cells, "input_cached_tokens"),
        calls=_optional_count(fields, cells, "num_model_requests"),
    )


def _openai_costs(fields: FieldReader, cells: Cells) -> ProviderRow:
    day = _bucket_day(fields, cells)
    if not cells["amount_value"]:
        return ProviderRow(day)  # an empty bucket
    fields.currency("amount_currency", cells["amount_currency"])
    return ProviderRow(
        day,
        model=model_of_line_item(fields.text("line_item", cells.get("line_item"))),
        key=_key(cells, "api_key_id", "project_id"),
        cost_nano=fields.cost_nano("amount_value", cells["amount_value"]),
    )


# -- Anthropic's console


def _anthropic_usage(fields: FieldReader, cells: Cells) -> ProviderRow:
    cached = _optional_count(fields, cells, "usage_input_tokens_cache_read")
    # Paygent's input includes what was read from the cache, and what was written to it.
    parts = [
        fields.count(name, cells[name])
        for name in ("usage_input_tokens_no_cache", *_CACHE_WRITES)
        if name in cells
    ]
    return ProviderRow(
        fields.day("usage_date_utc", cells["usage_date_utc"]),
        model=fields.text("model_version", cells["model_version"]),
        key=_key(cells, "api_key", "workspace"),
        input_tokens=sum(parts) + (cached or 0),
        output_tokens=fields.count("usage_output_tokens", cells["usage_output_tokens"]),
        cached_input_tokens=cached,
    )


_CACHE_WRITES = (
    "usage_input_tokens_cache_write",
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
)


def _anthropic_costs(fields: FieldReader, cells: Cells) -> ProviderRow:
    given = cells["cost_usd"]
    model = fields.text("model", cells.get("model"))
    return ProviderRow(
        fields.day("usage_date_utc", cells["usage_date_utc"]),
        model=None if model is None else model_of_title(model),
        key=_key(cells, "api_key", "workspace"),
        cost_nano=fields.cost_nano("cost_usd", given),
        cost_rounding_nano=_CENT_ROUNDING_NANO if _CENTS.fullmatch(given) else 0,
    )


def model_of_title(title: str) -> str:
    """Return the name in the API of a model as Anthropic's console titles it.

    `Claude Haiku 4.5` is `claude-haiku-4-5`; up to version 3.7 the version came first, so that
    `Claude Sonnet 3.7` is `claude-3-7-sonnet`.
    """
    name = re.sub(r"[ .]+", "-", title.lower())
    return _VERSION_FIRST.sub(r"claude-\2-\1", name) if _VERSION_FIRST.fullmatch(name) else name


# -- a table of one's own


def _own(fields: FieldReader, cells: Cells) -> ProviderRow:
    cost_nano = fields.cost_nano("cost_usd", cells["cost_usd"]) if "cost_usd" in cells else None
    return ProviderRow(
        fields.day("day", cells["day"]),
        # An empty cell is usage without a model.
        model=(fields.text("model", cells["model"]) or "") if "model" in cells else None,
        key=_key(cells, "key"),
        cost_nano=cost_nano,
        input_tokens=_optional_count(fields, cells, "input_tokens"),
        output_tokens=_optional_count(fields, cells, "output_tokens"),
        cached_input_tokens=_optional_count(fields, cells, "cached_input_tokens"),
        calls=_optional_count(fields, cells, "calls"),
    )


_OWN = Table("CSV", None, (), _own)
_TABLES = (
    Table(
        "OpenAI costs, CSV",
        "openai",
        ("start_time", "end_time", "amount_value", "amount_currency"),
        _openai_costs,
    ),
    Table(
        "OpenAI usage, CSV",
        "openai",
        ("start_time", "end_time", "input_tokens", "output_tokens"),
        _openai_usage,
    ),
    Table(
        "Anthropic usage, CSV",
        "anthropic",
        (
            "usage_date_utc",
            "model_version",
            "usage_input_tokens_no_cache",
            "usage_output_tokens",
        ),
        _anthropic_usage,
    ),
    Table("Anthropic costs, CSV", "anthropic", ("usage_date_utc", "cost_usd"), _anthropic_costs),
)
