"""What commands print: aligned lines in a pipe, tables on a terminal, escaped ids everywhere."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
from collections.abc import Sequence

import pytest

from paygent.cli.console import make_console
from paygent.cli.output import (
    Column,
    open_console,
    print_csv,
    print_json,
    print_line,
    print_table,
    printable,
)

Row = tuple[str, ...]

_COLUMNS = (Column("user"), Column("cost", is_number=True), Column("limits", is_prose=True))
_ROWS: list[Row] = [
    ("ann", "$1.00", "no limits"),
    ("bé\x1b[31m", "$10.00", "a very long limit " * 9),
]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ann [x]", "ann [x]"), ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("日本", "日本")],
)
def test_printable__control_characters__are_escaped(text: str, expected: str) -> None:
    """What a person can read stays as it is."""
    assert printable(text) == expected


def test_print_table__in_a_pipe__aligns_columns_and_never_wraps() -> None:
    """One line for each row, whatever its length, without control characters."""
    out = io.StringIO()
    print_table(make_console(out, {"FORCE_COLOR": "1"}), _COLUMNS, _ROWS)
    lines = out.getvalue().splitlines()
    assert lines[0] == "user          cost  limits"
    assert lines[1] == "ann          $1.00  no limits"
    assert lines[2].startswith("bé\\x1b[31m  $10.00  a very long limit a very")
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()


def test_print_table__wide_characters__are_as_wide_as_a_terminal_shows_them() -> None:
    """The next column begins at the same place."""
    out = io.StringIO()
    print_table(make_console(out, {}), (Column("a"), Column("b")), [("日本", "1"), ("x", "2")])
    assert out.getvalue().splitlines() == ["a     b", "日本  1", "x     2"]


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: Sequence[Column], rows: list[Row]
) -> str:
    """Return what a terminal of this width shows."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    out = Terminal()
    print_table(make_console(out, {"TERM": "xterm"}), columns, rows)
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # without its styles


def test_print_table__on_a_narrow_terminal__folds_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything can be copied from the screen."""
    shown = on_terminal(monkeypatch, 50, _COLUMNS, _ROWS)
    assert "…" not in shown
    assert "─" in shown
    assert shown.count("long") == 9
    assert "$10.00" in shown
    assert max(map(len, shown.splitlines())) <= 50


_UUID = "0e8f1c52-6d1c-4d0e-9a53-0f1a2b3c4d5e"
_WIDE_COLUMNS = (Column("user"), Column("cost", is_number=True), Column("last", is_number=True))
_WIDE_ROWS: list[Row] = [
    (_UUID, "$12,345.678", "2026-11-29 09:31"),
    ("x" * 60, "$0.000000001", "-"),
]


@pytest.mark.parametrize("width", range(1, 101))
def test_print_table__at_any_width__keeps_columns_amounts_and_ids_whole(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Where a table does not fit, the lines are those of a pipe: no figure loses a digit."""
    shown = on_terminal(monkeypatch, width, _WIDE_COLUMNS, _WIDE_ROWS)
    heading = shown.splitlines()[0]
    assert heading.split() == ["user", "cost", "last"]
    row = next(line for line in shown.splitlines() if line.startswith(_UUID))
    assert row.split() == [_UUID, "$12,345.678", "2026-11-29", "09:31"]
    assert "$0.000000001" in shown
    assert shown.count("x") == 60


def test_print_table__too_wide_for_the_terminal__prints_the_lines_of_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The terminal wraps whole lines; nothing is folded within a column."""
    out = io.StringIO()
    print_table(make_console(out, {}), _WIDE_COLUMNS, _WIDE_ROWS)
    assert on_terminal(monkeypatch, 50, _WIDE_COLUMNS, _WIDE_ROWS) == out.getvalue()


def test_print_line__markup_of_an_application__is_text() -> None:
    """Brackets in an id are no colours, and a long line is one line."""
    out = io.StringIO()
    print_line(make_console(out, {}), "user [red]ann[/] " + "x" * 200)
    assert out.getvalue() == "user [red]ann[/] " + "x" * 200 + "\n"


def test_print_csv__odd_values__can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Commas are quoted, None is empty, and control characters are escaped."""
    print_csv(("a", "b", "c"), [{"a": "x,y", "b": None, "c": "\x1b\n"}])
    assert capsys.readouterr().out == 'a,b,c\n"x,y",,\\x1b\\n\n'


@pytest.mark.parametrize(
    "text", ["a\n", "a\\n", "\\", "\\\\n", "\x1b[31m", "\u2028", "\udc80", "bé 日本", "'\""]
)
def test_print_csv__a_text__is_restored_from_its_escapes(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A newline and the two characters that stand for it are not the same in the output."""
    print_csv(("id",), [{"id": text}])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["id"].isprintable()
    assert ast.literal_eval('"' + row["id"].replace('"', '\\"') + '"') == text


def test_print_csv__a_pipe_of_another_encoding__gets_utf_8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A spreadsheet of ids is complete, whatever the locale is."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_csv(("id",), [{"id": "bé 日本"}])
    sys.stdout.flush()
    assert raw.getvalue().decode("utf-8") == "id\nbé 日本\n"


def test_print_json__odd_ids__are_kept_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets the id itself."""
    print_json({"id": "é\x1b\n"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"id": "é\x1b\n"}


def test_open_console__a_pipe_that_accepts_ascii_only__gets_every_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A character that the pipe cannot write is replaced; the command goes on."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_line(open_console({}), "bé costs")
    sys.stdout.flush()
    assert raw.getvalue() == b"b? costs\n"
