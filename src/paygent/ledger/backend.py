"""The ledger of a backend, by what that backend can do.

A backend of this product names its capabilities in `/health`; one that does not is treated as one
of the documented routes alone, and is polled (`polling.py`). The choice is made when it first
answers, never on a mere 404.
"""

from __future__ import annotations

from collections.abc import Callable

from paygent.core.messages import Answer, Batch, BookedEvent
from paygent.core.notices import Notice
from paygent.core.report import SpendReport
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable, TableKind
from paygent.failopen import diagnostics
from paygent.ledger.port import Ledger, LedgerUnavailable
from paygent.ledger.remote import ASK_TIMEOUT_S, RemoteLedger, call
from paygent.ledger.transport import HttpTransport

SYNC = "sync"
"""The capability of `/sync` and `/leases`."""


class BackendLedger:
    """Adapter of `Ledger` over the adapter that fits the backend."""

    keeps_plans = True
    heartbeat_s: float | None = 1.0

    def __init__(
        self, transport: HttpTransport, polling: Callable[[HttpTransport], Ledger]
    ) -> None:
        """Take over the transport.

        Args:
            transport: Closed with the ledger.
            polling: Makes the adapter for a backend with the documented routes alone.
        """
        self._transport = transport
        self._polling = polling
        self._chosen: Ledger | None = None

    @property
    def is_polling(self) -> bool:
        """Whether the backend has the documented routes alone."""
        return self._chosen is not None and not isinstance(self._chosen, RemoteLedger)

    def open(self) -> None:
        """Choose the adapter; see `Ledger.open`."""
        self._open()

    def _open(self) -> Ledger:
        chosen = self._chosen
        if chosen is None:
            health = call(self._transport, "GET", "/api/v1/health", timeout_s=ASK_TIMEOUT_S)
            if not isinstance(health, dict) or "status" not in health:
                raise LedgerUnavailable("there is no Paygent backend at this address")
            capabilities = health.get("capabilities")
            if isinstance(capabilities, list) and SYNC in capabilities:
                chosen = RemoteLedger(self._transport)
            else:
                diagnostics.warn_once(Notice.BACKEND_POLLED)
                chosen = self._polling(self._transport)
            chosen.open()
            self._chosen = chosen
        return chosen

    def settle(self, batch: Batch) -> Answer:
        """Book a batch; see `Ledger.settle`."""
        return self._open().settle(batch)

    def state(self, batch: Batch) -> Answer:
        """Answer questions; see `Ledger.state`."""
        return self._open().state(batch)

    def report(self, request: SpendRequest) -> SpendReport:
        """Return usage and cost; see `Ledger.report`."""
        return self._open().report(request)

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return another report; see `Ledger.table`."""
        return self._open().table(kind, request)

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event; see `Ledger.event`."""
        return self._open().event(event_id)

    def close(self) -> None:
        """Close the connections; see `Ledger.close`."""
        self._transport.close()

    def pause_for_fork(self) -> None:
        """Keep the connections: a child drops its copies without using them."""

    def resume_after_fork(self) -> None:
        """Go on with the connections."""

    def forget_after_fork(self) -> None:
        """Drop the parent's connections; see `Ledger.forget_after_fork`."""
        self._transport.forget_after_fork()
        if self._chosen is not None:
            self._chosen.forget_after_fork()
