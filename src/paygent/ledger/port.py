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
- **Failing.** `open`, `settle`, `state`, `report` and `event` raise `LedgerUnavailable`: "not now";
  nothing was lost or half done. An adapter waits for a lock or a response no longer than its own
  short time-out. Any other exception is a rejection; nothing is half done either.
- **Threads.** `settle` is called by one thread, `state`, `report` and `event` by another; an
  adapter is safe for that.
"""

from __future__ import annotations

from typing import Protocol

from paygent.core.messages import Answer, Batch, BookedEvent, Question
from paygent.core.report import UsageRow


class LedgerUnavailable(Exception):
    """The ledger is unavailable (locked, unreachable, full); the same request may succeed later."""


class LedgerBusy(LedgerUnavailable):
    """Another process is using the ledger; its transaction ends by itself."""


class Ledger(Protocol):
    """The ledger as the client uses it; see the module's contract."""

    def open(self) -> None:
        """Make the ledger ready (migrate a store); idempotent."""

    def settle(self, batch: Batch) -> Answer:
        """Book a batch and answer its questions, in one transaction."""

    def state(self, questions: tuple[Question, ...], at_us: int) -> Answer:
        """Answer questions without booking anything."""

    def report(
        self, start_us: int, end_us: int, tag_key: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return usage by user and model, of whole days from `start_us` up to before `end_us`; with
        a `tag_key` also by the value of that metadata key.
        """

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
