"""The port to the ledger, which keeps plans, users and their spend for all processes.

Contract, for every adapter:

- **Atomic.** `settle` books a batch wholly or not at all: events, counters, rollups and directory
  change in one transaction. A failure raises and leaves nothing behind; the caller sends the batch
  again.
- **Idempotent.** An event counts once per (product, user, event id), however often it is sent.
  Directory records are last-writer-wins; sending one again changes nothing.
- **Ordered.** Records of one batch apply in their order. Batches of one process arrive in order;
  those of different processes interleave freely, since an account is a sum.
- **Fresh.** `state` and what `settle` returns reflect every batch settled before.
- **Numbered.** A batch that bears its holder's name and a number may be sent again after no answer.
  `booked_through` of every answer for that holder is the number of the last batch that its figures
  include, so that a reading shows what became of a batch in doubt.
- **Failing.** Every verb that asks or books may raise `LedgerUnavailable`: "not now"; the request
  may be sent again (`LedgerUnauthorised`: once the key is accepted). An adapter waits for a lock or
  a response no longer than its own short time-out. `LedgerRefused`, like any other exception, is
  about the content: nothing was booked, and the same batch fails again.
- **Threads.** `settle` is called by one thread, `state` by another, `report`, `table` and `event`
  by a third, one after another; an adapter is safe for that.
"""

from __future__ import annotations

from typing import Protocol

from paygent.core.messages import Answer, Batch, BookedEvent
from paygent.core.report import SpendReport
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable, TableKind


class LedgerUnavailable(Exception):
    """The ledger is unavailable (locked, unreachable, full); the same request may succeed later.

    Attributes:
        retry_after_s: When it asks to be tried again, in seconds from now; None if it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LedgerUnauthorised(LedgerUnavailable):
    """The backend rejects the API key; requests are kept until it accepts one."""


class LedgerRefused(Exception):
    """The ledger refuses the content of a batch, and would do so again."""


class LedgerBusy(LedgerUnavailable):
    """Another process is using the ledger; its transaction ends by itself."""


class Ledger(Protocol):
    """The ledger as the client uses it; see the module's contract.

    Attributes:
        keeps_plans: Whether plans and assignments are the ledger's own: those that a process makes
            are not sent to it.
        heartbeat_s: Longest pause between two batches, so that news arrives while nothing is
            called; None needs none.
    """

    keeps_plans: bool
    heartbeat_s: float | None

    def open(self) -> None:
        """Make the ledger ready (migrate a store); idempotent."""

    def settle(self, batch: Batch) -> Answer:
        """Book a batch and answer its questions, in one transaction."""

    def state(self, batch: Batch) -> Answer:
        """Answer the questions of a batch without booking anything; it has nothing else."""

    def report(self, request: SpendRequest) -> SpendReport:
        """Return a report of usage and cost; its rows are all that were asked for.

        Raises:
            InvalidValue: The ledger cannot make it: see `Store.spend`.
        """

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return a report of margins, gates or quality; see `report`."""

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event with its corrections and its price list; None if it is not booked."""

    def close(self) -> None:
        """Release connections; the ledger is not used afterwards."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit; waits up to a second for each store."""

    def resume_after_fork(self) -> None:
        """Continue in the parent; the next use reconnects."""

    def forget_after_fork(self) -> None:
        """Drop the parent's connections in a forked child, without closing them."""
