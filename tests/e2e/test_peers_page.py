"""The matrix of neighbouring tools: the page shows it, CI runs every kind, the runner works."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

import pytest
from tests.peers.examples import run_example, shown_output
from tests.peers.neighbours import (
    ENTRIES,
    NEIGHBOURS,
    ORDERS,
    ROOT,
    Neighbour,
    chosen,
    pins,
)
from tests.peers.page import PAGE, outcome, page_after, row_start, rows
from tests.peers.switches import SWITCHES

SCRIPT = '''"""Prints a greeting.

```text
hello
```
"""

print("hello")
'''
RUN = """<testsuites><testsuite>
<testcase name="test_cell__a__b[logfire: x]"/>
<testcase name="test_cell__a__c[logfire: x]"><failure/></testcase>
<testcase name="test_cell__a__b[logfire-instance: x]"/>
</testsuite></testsuites>"""


def named(name: str) -> Neighbour:
    """Return a neighbour from the table."""
    return next(entry for entry in NEIGHBOURS if entry.name == name)


def test_page__its_rows_of_neighbours__match_the_table() -> None:
    """Names, pins, kinds and orders; `make test-peers` writes them after a full run."""
    starts = [row_start(entry) for entry in ENTRIES]
    shown = rows(PAGE.read_text(encoding="utf-8"))
    assert [row[: len(start)] for row, start in zip(shown, starts, strict=True)] == starts


def test_page__every_result__says_that_all_tests_pass() -> None:
    """A run with a failure must not be published."""
    shown = rows(PAGE.read_text(encoding="utf-8"))
    assert [row for row in shown if not re.search(r"\| all [1-9]\d* tests pass \| 20", row)] == []


def test_page_after__a_run_with_failures__counts_those_that_pass() -> None:
    """Names with a common prefix are distinguished, and the rest of the page is unchanged."""
    page = page_after("a\n<!-- peers -->\nold\n<!-- /peers -->\nb", RUN, datetime.date(2026, 1, 2))
    outcomes = {name: outcome(named(name), RUN) for name in ("logfire", "logfire-instance")}
    assert outcomes == {"logfire": "1 of 2 tests pass", "logfire-instance": "all 1 tests pass"}
    assert page.startswith("a\n<!-- peers -->\n| tool |")
    assert page.endswith("<!-- /peers -->\nb")
    assert f"{row_start(named('logfire'))} 1 of 2 tests pass | 2026-01-02 |\n" in page


def test_table__each_neighbour__can_be_enabled_and_is_pinned() -> None:
    """Every entry has a way to be enabled, and every package one exact version."""
    assert list(SWITCHES) == [entry.name for entry in NEIGHBOURS]
    all_pins = [pin for entry in ENTRIES for pin in pins(entry)]
    assert [pin for pin in all_pins if not re.fullmatch(r"[\w\[\],-]+==[\d.]+", pin)] == []


def test_table__ci__runs_a_neighbour_of_every_kind_in_every_order() -> None:
    """The step of `.ci/run` names them, and no order is left out."""
    step = re.search(r'PEERS="([^"]+)" make test-peers', (ROOT / ".ci/run").read_text("utf-8"))
    assert step is not None
    kinds = {entry.kind for entry in chosen(step[1].split()) if isinstance(entry, Neighbour)}
    assert kinds == {entry.kind for entry in NEIGHBOURS}
    assert {order.index("peer") < order.index("paygent") for order in ORDERS} == {True, False}


def test_chosen__an_unknown_name__is_rejected() -> None:
    """A misspelt name must not result in an empty run."""
    with pytest.raises(SystemExit, match="no neighbour is called logfyre"):
        chosen(["logfire", "logfyre"])


def test_example__a_script__prints_what_its_docstring_shows(tmp_path: Path) -> None:
    """The check of the framework examples, on a script that needs no framework."""
    script = tmp_path / "hello.py"
    script.write_text(SCRIPT, encoding="utf-8")
    assert run_example(Path(sys.executable), script, tmp_path) == shown_output(script) == "hello\n"


@pytest.mark.parametrize(
    "line",
    ["socket.create_connection(('192.0.2.1', 80), 1)", "socket.getaddrinfo('example.org', 80)"],
)
def test_example__one_that_contacts_another_machine__fails(line: str, tmp_path: Path) -> None:
    """The attempt is blocked, and reported even if the script swallows the error."""
    script = tmp_path / "stranger.py"
    script.write_text(
        f"import socket\ntry:\n    {line}\nexcept OSError:\n    print('fine')\n", encoding="utf-8"
    )
    with pytest.raises(AssertionError, match=r"asked for (192\.0\.2\.1|example\.org)"):
        run_example(Path(sys.executable), script, tmp_path)


def test_shown_output__a_script_without_a_block__is_rejected(tmp_path: Path) -> None:
    """An example without expected output proves nothing."""
    script = tmp_path / "silent.py"
    script.write_text('"""Prints nothing."""\n', encoding="utf-8")
    with pytest.raises(ValueError, match="0 blocks"):
        shown_output(script)
