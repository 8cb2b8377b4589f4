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
from typing import Any, Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paygent.cli.console import make_console

_GAP = "  "
_RULED_GAP = 3  # between two columns of a table: a blank on both sides of the ruler
_NAME_WIDTH = 40  # longer ids may be folded; a UUID is not
_PROSE_WIDTH = 20  # narrower prose is hard to read


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
    """Print rows of text: a table on a terminal, aligned lines in a pipe or if it does not fit."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = _fitted(columns, cells, console.width) if console.is_terminal else None
    if widths is None:
        for line in _aligned(columns, cells):
            print_line(console, line)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        # Folded if need be, never cut: what is shown can be copied.
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, overflow="fold", width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width_max: int
) -> list[int] | None:
    """Return the widths with which a table fits, or None if it does not.

    Numbers and ids are kept whole. Prose gives way first, then long names, down to their least
    widths.
    """
    lines = [[column.title for column in columns], *rows]
    texts = list(zip(*lines, strict=True))
    widths = [max(map(cell_len, cells)) for cells in texts]
    too_wide = sum(widths) + _RULED_GAP * len(columns) - width_max
    for is_prose in (True, False):
        for place, (column, cells) in enumerate(zip(columns, texts, strict=True)):
            if column.is_number or column.is_prose is not is_prose:
                continue
            words = max(cell_len(word) for cell in cells for word in ("", *cell.split()))
            least = max(min(words, _NAME_WIDTH), _PROSE_WIDTH) if is_prose else _NAME_WIDTH
            given_up = max(0, min(too_wide, widths[place] - least))
            widths[place] -= given_up
            too_wide -= given_up
    return None if too_wide > 0 else widths


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
    """Print records as CSV in UTF-8, with a heading; a value that is None is empty.

    Control characters are escaped as in Python, and so are backslashes: each text has a form of its
    own, from which it can be restored.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what is read back must be complete
    writer = csv.writer(sys.stdout or io.StringIO(), lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([escaped(row[name]) for name in names])


def escaped(value: Any) -> Any:
    """Return a value as CSV has it; see `print_csv`."""
    return printable(value.replace("\\", "\\\\")) if isinstance(value, str) else value


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as JSON, in ASCII: any pipe accepts it, and ids are kept as they are."""
    print(json.dumps(document, indent=2))
