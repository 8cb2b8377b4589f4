"""Beside every neighbour, in every order: a call counts once, is gated, and the application sees
what it sees without Paygent. Each cell is a process in the neighbour's own venv, which `.ci/peers`
makes.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.peers.app import CALLED
from tests.peers.examples import clean_environment
from tests.peers.neighbours import ORDERS, Neighbour, chosen, python

CELL_S = 120.0
"""How long a cell may take; it takes three seconds."""

EXPECTED = {
    f"{shape.sdk} {shape.name}": [[*shape.tokens, shape.cost_nano, "exact"]] for shape in CALLED
}
"""What is booked of each call: input and output tokens, cost, quality."""


class Cell(NamedTuple):
    """A neighbour and an order."""

    neighbour: Neighbour
    order: str

    @property
    def alone(self) -> Cell:
        """The same order without Paygent."""
        return self._replace(order=self.order.replace("paygent, ", "").replace(", paygent", ""))


CELLS = [
    Cell(entry, order) for entry in chosen() if isinstance(entry, Neighbour) for order in ORDERS
]
each_cell = pytest.mark.parametrize(
    "cell", CELLS, ids=[f"{cell.neighbour.name}: {cell.order}" for cell in CELLS]
)

Report = dict[str, Any]
ReportOf = Callable[[Cell], Report]


def run(cell: Cell) -> Report:
    """Run a cell to its end and return its report."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [python(cell.neighbour), "-m", "tests.peers.app", cell.neighbour.name, cell.order],
            cwd=home,
            env=clean_environment(Path(home)),
            capture_output=True,
            text=True,
            timeout=CELL_S,
        )
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.fixture(scope="session")
def report_of(request: pytest.FixtureRequest) -> Iterator[ReportOf]:
    """Run the cells of the selected tests, as many at a time as there are processors, once each."""
    cells: dict[Cell, None] = {}
    for item in request.session.items:
        # A test without parameters has no `callspec`.
        parameters = getattr(item, "callspec", None)
        cell = parameters.params.get("cell") if parameters is not None else None
        if isinstance(cell, Cell):
            cells.update(dict.fromkeys((cell, cell.alone)))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running: dict[Cell, Future[Report]] = {cell: pool.submit(run, cell) for cell in cells}
        yield lambda cell: running[cell].result()


def once_each(seen: dict[str, str]) -> dict[str, Any]:
    """Return what must be booked of a round: one exact event for each call, on its user."""
    return {name: EXPECTED[name.split(" ", 1)[1].rpartition(", ")[0]] for name in seen}


@each_cell
def test_cell__its_process__has_the_venvs_packages_and_never_leaves_the_machine(
    cell: Cell, report_of: ReportOf
) -> None:
    """What is proven is proven of the copy in the venv, and no other machine was asked for."""
    report = report_of(cell)
    home = str(python(cell.neighbour).parents[1])
    assert [path.startswith(home) for path in report["files"]] == [True, True]
    assert report["strangers"] == []


@each_cell
def test_cell__what_the_application_sees__is_what_it_sees_without_paygent(
    cell: Cell, report_of: ReportOf
) -> None:
    """Every object and chunk, by type and content; and each call answers."""
    seen = report_of(cell)["metered"]["seen"]
    assert [f"{name}: {each}" for name, each in seen.items() if "Error: " in each] == []
    assert seen == report_of(cell.alone)["metered"]["seen"]
    assert len(seen) == len(CALLED) * (4 if cell.order.startswith("sdk") else 2)


@each_cell
def test_cell__each_call__is_booked_once_and_exactly_on_its_user(
    cell: Cell, report_of: ReportOf
) -> None:
    """Sync and async, of old clients and new ones, whoever sits above or below."""
    metered = report_of(cell)["metered"]
    assert metered["booked"] == once_each(metered["seen"])
    assert metered["requests"] == len(metered["seen"])


@each_cell
def test_cell__the_neighbour__traces_what_it_traces_without_paygent(
    cell: Cell, report_of: ReportOf
) -> None:
    """Its spans are the same, and there is one for each call of an SDK that it knows."""
    spans = report_of(cell)["metered"]["spans"]
    assert spans == report_of(cell.alone)["metered"]["spans"]
    assert len(spans) >= sum(shape.sdk in cell.neighbour.sdks for shape in CALLED)


@each_cell
def test_cell__a_user_at_the_cap__gets_the_exception_itself_and_nothing_is_sent(
    cell: Cell, report_of: ReportOf
) -> None:
    """`PaygentLimitExceeded` and no relative of it, through the neighbour's wrappers."""
    refused = report_of(cell)["refused"]
    other = [f"{name}: {each}" for name, each in refused["arrived"].items() if each != "itself"]
    assert other == []
    assert (refused["requests"], refused["booked"], refused["held_nano"]) == (0, {}, 0)


@each_cell
def test_cell__a_hook_that_was_displaced__is_restored(cell: Cell, report_of: ReportOf) -> None:
    """A hook below a neighbour that takes `request` after `init`, or for one client, is put on top,
    which is counted; nothing else is, and no failure.
    """
    neighbour = cell.neighbour
    hides = cell.order.index("peer") > cell.order.index("paygent")
    hides = hides or neighbour.kind == "one client instance"  # which hides what its class has
    expected = {f"hook_restored:{sdk}" for sdk in neighbour.displaces if hides}
    assert set(report_of(cell)["counts"]) == expected


@each_cell
def test_cell__instrument_twice_or_again__is_once(cell: Cell, report_of: ReportOf) -> None:
    """Two calls of `instrument` are one, and one after `uninstrument` meters again."""
    alone = report_of(cell.alone)["metered"]
    for name in ("instrumented twice", "instrumented again"):
        made = report_of(cell)[name]
        assert made["booked"] == once_each(made["seen"]), name
        assert made["seen"] == alone["seen"], name
        assert made["spans"] == alone["spans"], name


@each_cell
def test_cell__after_uninstrument__calls_pass_unmetered(cell: Cell, report_of: ReportOf) -> None:
    """With the neighbour's patch above ours or below: answered, traced, not booked."""
    passed = report_of(cell)["uninstrumented"]
    alone = report_of(cell.alone)["metered"]
    assert passed["booked"] == {}
    assert passed["seen"] == alone["seen"]
    assert passed["spans"] == alone["spans"]


@each_cell
def test_cell__after_shutdown__calls_pass_unmetered(cell: Cell, report_of: ReportOf) -> None:
    """The same with our hooks still in place."""
    passed = report_of(cell)["shut down"]
    alone = report_of(cell.alone)["metered"]
    assert passed["booked"] == {}
    assert passed["seen"] == alone["seen"]
    assert passed["spans"] == alone["spans"]
