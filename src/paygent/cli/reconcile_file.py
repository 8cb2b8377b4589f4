"""The file of a provider's export: opened, recognized by its content, and read row by row."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, NoReturn

from paygent.cli.options import UsageError
from paygent.cli.reconcile_csv import accepted, header_of, make_reader, read_rows, table_of
from paygent.cli.reconcile_json import ANTHROPIC_COSTS, ANTHROPIC_USAGE, parse, read_pages
from paygent.core.reconcile import ProviderRow
from paygent.core.validation import FieldError, InvalidValue, ValidationErrors

FILE_BYTES_MAX = 100 * 10**6
"""JSON of this size is read into about 500 MB of memory, CSV row by row in half a minute."""

_SHOWN_MAX = 20  # broken rules in a message; the others are counted
_MORE = (
    "the file is one page of several (has_more): later days are missing; "
    "jq -s . page*.json joins pages"
)


@dataclass(frozen=True)
class Export:
    """An opened export.

    Attributes:
        shape: Which one it is, in words.
        provider: The provider in events; None is any.
        rows: Its rows; the last one is followed by the error about all that break a rule.
        notes: What the reader of the comparison has to know.
    """

    shape: str
    provider: str | None
    rows: Iterator[ProviderRow]
    notes: tuple[str, ...] = field(default=())


@contextmanager
def opened_export(path: str) -> Iterator[Export]:
    """Open an export, to read its rows and nothing else.

    Args:
        path: JSON if it begins with a bracket, otherwise CSV; UTF-8.

    Raises:
        UsageError: It cannot be read, is of no known kind, or has values that break a rule; also
            while the rows are read.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > FILE_BYTES_MAX:
                raise _too_large(path)
            start = file.peek(4096).removeprefix(codecs.BOM_UTF8).lstrip()  # a pipe has no seek
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            yield _json(path, text) if start[:1] in (b"{", b"[") else _csv(text)
    except InvalidValue as error:
        raise UsageError(f"{path}: {_in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error.reason}): export it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error


def _too_large(path: str) -> UsageError:
    return UsageError(f"{path} is larger than {FILE_BYTES_MAX:,} bytes: export fewer days at once")


def _json(path: str, text: IO[str]) -> Export:
    content = text.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:  # the size of a pipe is not known before
        raise _too_large(path)
    errors = ValidationErrors("export")
    try:
        document = parse(content)
    except ValueError as error:
        _reject("file", "", f"must be JSON: {error}")
    pages = read_pages(document, errors)
    errors.raise_if_any()
    provider = "anthropic" if pages.shape in (ANTHROPIC_USAGE, ANTHROPIC_COSTS) else "openai"
    notes = (_MORE,) if pages.has_more else ()
    return Export(pages.shape, provider, iter(pages.rows), notes)


def _csv(text: IO[str]) -> Export:
    errors = ValidationErrors("export")
    lines, line_number = make_reader(text)
    try:
        header = header_of(lines)
    except csv.Error as error:
        _reject("line 1", "", f"must be CSV: {error}")
    table = table_of(header)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        _reject("line 1", ",".join(twice), "must be there once")
    if table is None:
        _reject("line 1", ",".join(header), f"must have the columns of {accepted()}")

    def rows() -> Iterator[ProviderRow]:
        try:
            yield from read_rows(lines, line_number, header, table, errors)
        except csv.Error as error:
            errors.add(f"line {line_number()}", "", f"must be CSV: {error}")
        errors.raise_if_any()

    return Export(table.shape, table.provider, rows())


def _reject(name: str, value: str, rule: str) -> NoReturn:
    raise InvalidValue("export", (FieldError(name, value, rule),))


def _in_words(error: InvalidValue) -> str:
    """Return the broken rules of a file."""
    shown = [str(finding) for finding in error.findings[:_SHOWN_MAX]]
    if len(error.findings) > len(shown):
        shown.append(f"and {len(error.findings) - len(shown):,} more")
    return "; ".join(shown)
