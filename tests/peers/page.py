"""The rows of docs/guide/coverage.md that say beside whom Paygent was proven, and when.

    python -m tests.peers.page RESULT.xml

A row's first cells are the table's, which a test compares; the result and the day are those of the
run that wrote them.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.peers.neighbours import (
    ENTRIES,
    FRAMEWORK_ORDERS,
    ORDERS,
    OTEL_PINS,
    ROOT,
    Entry,
    Neighbour,
)

PAGE = ROOT / "docs" / "guide" / "coverage.md"
HEADER = (
    "| tool | version | how it works | orders | result | tested on |\n|---|---|---|---|---|---|\n"
)
_BEGIN, _END = "<!-- peers -->\n", "<!-- /peers -->"


def row_start(entry: Entry) -> str:
    """Return the cells of an entry that do not depend on a run."""
    kind: str
    if isinstance(entry, Neighbour):
        kind, orders = entry.kind, len(ORDERS)
    else:
        kind, orders = f"runs `{entry.example}`", len(FRAMEWORK_ORDERS)
    own = [pin for pin in entry.pins if pin not in OTEL_PINS]
    versions = ", ".join(f"`{pin.replace('==', ' ')}`" for pin in own)
    return f"| {entry.title} | {versions} | {kind} | {orders} |"


def rows(page: str) -> list[str]:
    """Return the rows that a page has."""
    return page.partition(_BEGIN)[2].partition(_END)[0].splitlines()[2:]


def page_after(page: str, result: str, day: datetime.date) -> str:
    """Return the page with the table of a run.

    Args:
        page: As it was.
        result: The run's report in JUnit's format.
        day: When it was.
    """
    table = "".join(
        f"{row_start(entry)} {outcome(entry, result)} | {day.isoformat()} |\n" for entry in ENTRIES
    )
    before, _, rest = page.partition(_BEGIN)
    return f"{before}{_BEGIN}{HEADER}{table}{_END}{rest.partition(_END)[2]}"


def outcome(entry: Entry, result: str) -> str:
    """Return what a run says of an entry: how many of its tests hold."""
    cases = [
        case
        for case in ElementTree.fromstring(result).iter("testcase")
        if re.search(rf"\[{re.escape(entry.name)}: ", case.get("name", ""))
    ]
    held = sum(len(case) == 0 for case in cases)
    return f"{held} of {len(cases)} tests pass" if held < len(cases) else f"all {held} tests pass"


if __name__ == "__main__":
    PAGE.write_text(
        page_after(
            PAGE.read_text(encoding="utf-8"),
            Path(sys.argv[1]).read_text(encoding="utf-8"),
            datetime.datetime.now(datetime.timezone.utc).date(),
        ),
        encoding="utf-8",
    )
