"""The ledger over a store in this process, for local mode.

It has two instances of the store: `settle` writes with one; `state`, `report` and `event` read
with the other, where each reading has a connection to itself. No thread waits for another's
connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paygent.core.messages import Answer, Batch, BookedEvent
from paygent.core.report import SpendReport
from paygent.core.report_json import margin_to_json, tally_to_json
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable, TableKind
from paygent.ledger.port import LedgerBusy, LedgerUnavailable
from paygent.store.port import Store, StoreBusy, StoreUnavailable


class LocalLedger:
    """Adapter of `Ledger` over two connections to one store."""

    keeps_plans = False
    heartbeat_s: float | None = None

    def __init__(self, product: str, writer: Store, reader: Store) -> None:
        """Take over the stores; for one in memory, `reader` is `writer` itself."""
        self._product = product
        self._writer = writer
        self._reader = reader
        # A store in memory is one connection; it must not be closed or paused twice.
        self._stores = (writer,) if reader is writer else (writer, reader)

    def open(self) -> None:
        """Migrate the store; see `Ledger.open`."""
        with as_unavailable():
            # The reader opens at its first use, when the schema is migrated.
            self._writer.open()

    def settle(self, batch: Batch) -> Answer:
        """Book a batch; see `Ledger.settle`."""
        with as_unavailable():
            return self._writer.ingest(self._product, batch)

    def state(self, batch: Batch) -> Answer:
        """Answer questions; see `Ledger.state`."""
        with as_unavailable():
            return self._reader.read(
                self._product,
                batch.questions,
                batch.at_us,
                holder=batch.holder,
                news_since_us=batch.news_since_us,
            )

    def report(self, request: SpendRequest) -> SpendReport:
        """Return usage and cost; see `Ledger.report`."""
        with as_unavailable():
            return self._reader.spend(self._product, request)

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return another report; see `Ledger.table`."""
        with as_unavailable():
            if kind == "margin":
                document = margin_to_json(self._reader.margin(self._product, request), None)
            else:
                document = tally_to_json(self._reader.tally(self._product, kind, request), None)
        return ReportTable.of(document)

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event with corrections and prices; see `Ledger.event`."""
        with as_unavailable():
            return self._reader.event(self._product, event_id)

    def close(self) -> None:
        """Close both stores; see `Ledger.close`."""
        for store in self._stores:
            store.close()

    def pause_for_fork(self) -> None:
        """Close both stores for a fork; see `Ledger.pause_for_fork`."""
        for store in self._stores:
            store.pause_for_fork()

    def resume_after_fork(self) -> None:
        """Continue in the parent; see `Ledger.resume_after_fork`."""
        for store in self._stores:
            store.resume_after_fork()

    def forget_after_fork(self) -> None:
        """Drop the parent's connections; see `Ledger.forget_after_fork`."""
        for store in self._stores:
            store.forget_after_fork()


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise what a store raises as the port's exceptions."""
    try:
        yield
    except StoreBusy as error:
        raise LedgerBusy(str(error)) from error
    except StoreUnavailable as error:
        raise LedgerUnavailable(str(error)) from error  # "not now": sent again
