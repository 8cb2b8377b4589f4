"""`paygent audit`: proves that every counter of a database equals the fold of its events.

`--repair` sets the counters right, and proves it by a second audit. The outcome for each product is
stored, for its dashboard.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from paygent.cli.console import is_interactive, make_console
from paygent.cli.database import choose_product, opened_database, read_database_url
from paygent.cli.output import Column, open_console, print_line, print_table, printable
from paygent.store.directory_port import Difference
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable

_COLUMNS = (
    Column("product"),
    Column("table"),
    Column("row"),
    Column("column"),
    Column("stored", is_number=True),
    Column("from events", is_number=True),
)
_SHOWN_MAX = 1_000
"""Differences that are listed; those beyond are counted."""


def run(
    database_url: str | None, product: str | None, environ: Mapping[str, str], repairs: bool
) -> int:
    """Audit all products or one; return the exit status, 1 if a counter is (still) wrong."""
    with opened_database(read_database_url(database_url, environ)) as store:
        if product is None:
            products = [each.product_id for each in store.products()]
        else:
            products = [choose_product(store, product, {})]
        found = _audit(store, products, environ)
        if not found or not repairs:
            return 1 if found else 0
        repaired = _repair(store, products, environ)
        print_line(open_console(environ), f"repaired: {repaired:,}")
        return 1 if _audit(store, products, environ) else 0


def _audit(store: SqlStore, products: list[str], environ: Mapping[str, str]) -> int:
    """Print the differences of products, and how many there are; return their number."""
    shown: list[tuple[str, ...]] = []
    total = 0
    for product in products:
        before = total
        with _progress(f"auditing {product}", environ) as progress:
            for difference in store.audit(product, progress=progress):
                total += 1
                if len(shown) < _SHOWN_MAX:
                    shown.append(_cells(product, difference))
        _record(store, product, total - before)
    console = open_console(environ)
    if shown:
        print_table(console, _COLUMNS, shown)
    if total > len(shown):
        print_line(console, f"and {total - len(shown):,} more")
    counted = "1 product" if len(products) == 1 else f"{len(products):,} products"
    print_line(console, f"audited: {counted}, differences: {total:,}")
    return total


def _record(store: SqlStore, product: str, differences: int) -> None:
    """Store the outcome for a product."""
    try:
        store.record_audit(product, differences)
    except StoreUnavailable as error:
        # A database that can only be read, such as a replica, is audited all the same.
        reason = printable(f"the outcome for {product} is not stored: {error}")
        print(f"paygent audit: {reason}", file=sys.stderr)


def _repair(store: SqlStore, products: list[str], environ: Mapping[str, str]) -> int:
    """Repair products; return how many counters were wrong."""
    repaired = 0
    for product in products:
        with _progress(f"repairing {product}", environ) as progress:
            repaired += store.repair(product, progress=progress)
    return repaired


@contextmanager
def _progress(title: str, environ: Mapping[str, str]) -> Iterator[Callable[[int, int], None]]:
    """Show progress on the terminal of the standard error, so that a pipe gets results alone."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),  # a product's id is text
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=make_console(sys.stderr, environ),
        transient=True,
        disable=not is_interactive(sys.stderr, environ),
    )
    with bar:
        task = bar.add_task(printable(title), total=None)
        yield lambda done, steps: bar.update(task, completed=done, total=steps)


def _cells(product: str, difference: Difference) -> tuple[str, ...]:
    return (
        product,
        difference.table,
        " ".join(f"{name}={value}" for name, value in difference.key.items()),
        difference.column,
        f"{difference.stored:,}",
        f"{difference.folded:,}",
    )
