"""What commands print: tables on a terminal, aligned plain lines in a pipe, CSV and JSON.

Ids and descriptions come from applications, so their control characters are escaped everywhere:
they are text, not commands to a terminal.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paygent.cli.console import make_console

_GAP = "  "


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        is_number: Whether it is aligned right.
        is_prose: Whether it is broken between words on a narrow terminal.
    """

    title: str
    is_number: bool = False
    is_prose: bool = False


def open_console(environ: Mapping[str, str]) -> Console:
    """Return the console of the standard output, which accepts any character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the pipe may be ASCII only
    return make_console(sys.stdout, environ)


def printable(text: str) -> str:
    """Escape control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, not broken at the width of the console."""
    console.print(Text(printable(text), style), soft_wrap=True)


def print_table(console: Console, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text: a table on a terminal, aligned lines in a pipe."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for line in _aligned(columns, cells):
            print_line(console, line)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        # Folded if need be, never cut: what is shown can be copied.
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_number,
            ratio=1 if column.is_prose else None,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield the heading and the rows with equally wide columns."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, column, width in zip(line, columns, widths, strict=True):
            padding = " " * (width - cell_len(cell))
            padded.append(padding + cell if column.is_number else cell + padding)
        yield _GAP.join(padded).rstrip()


def print_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print records as CSV with a heading; a value that is None is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (row[name] for name in names)
        writer.writerow([printable(each) if isinstance(each, str) else each for each in values])


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, in ASCII: any pipe accepts it, and ids are kept as they are."""
    print(json.dumps(document, indent=2))
