"""The tables of docs/guide/troubleshooting.md: one row for each kind that `health()` can count. The
page's authors write what to do; `python -m tests.docs.troubleshooting` (`make docs`) copies the
messages from the catalogue.
"""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

from paygent.core.notices import Notice, Step
from paygent.failopen import OTHER

PAGE = ROOT / "docs/guide/troubleshooting.md"

_ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.M)


def messages() -> dict[str, str]:
    """Return the messages of each kind of the catalogue as one cell of a table."""
    cells: dict[str, list[str]] = {}
    for notice in Notice:
        text = re.sub(r"(%[rsdg])+", "…", notice.text)
        # The text of some kinds is the problem itself.
        cells.setdefault(notice.kind, []).append("*the problem*" if text == "…" else text)
    return {kind: "<br>".join(texts).replace("|", r"\|") for kind, texts in cells.items()}


def kinds() -> set[str]:
    """Return every kind that `health()` can count, without subjects."""
    return {*messages(), *(step.value for step in Step), OTHER}


def rows(page: str) -> dict[str, list[str]]:
    """Return the cells of each row of the page's tables, by the kind in the first one.

    Raises:
        ValueError: if a kind has two rows.
    """
    found: dict[str, list[str]] = {}
    for kind, rest in _ROW.findall(page):
        if kind in found:
            raise ValueError(f"{kind} has two rows")
        found[kind] = [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)]
    return found


def with_messages(page: str) -> str:
    """Return the page with the messages of the catalogue."""
    current = messages()

    def renewed(row: re.Match[str]) -> str:
        cells = rows(row[0])[row[1]]
        if row[1] in current:
            cells[0] = current[row[1]]
        return " | ".join((f"| `{row[1]}`", *cells)) + " |"

    return _ROW.sub(renewed, page)


if __name__ == "__main__":
    PAGE.write_text(with_messages(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
