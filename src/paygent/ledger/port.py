"""The port to the ledger: where plans, users and what they spent are kept for all processes.

Contract, for every adapter:

- **Atomic.** `settle` books a batch wholly or not at all: events, counters, rollups and directory
  change in one transaction. A failure raises and leaves nothing behind; the caller sends the batch
  again.
- **Idempotent.** An event is counted once however often it is sent, told by (product, event id).
  Directory records are last-writer-wins; sending one again changes nothing.
- **Ordered.** Records of one batch apply in their order. Batches of one process arrive in order;
  those of different processes interleave freely, since an account is a sum.
- **Fresh.** `state` and what `settle` returns reflect every batch settled before.
- **Failing.** Any `LedgerUnavailable` means "not now": nothing was lost or half done. An adapter
  waits at most its own short time-out for a lock or an answer, never for ever.
- **Threads.** `settle` is called by one thread, `state`, `report` and `event` by another; an
  adapter is safe for that.
"""

from __future__ import annotations

from typing import Protocol

from paygent.core.messages import Answer, Batch, BookedEvent, Question
from paygent.core.report import UsageRow


class LedgerUnavailable(Exception):
    """The ledger cannot answer now (locked, away, full); the same request may succeed later."""


class Ledger(Protocol):
    """What `sync` asks of a ledger; see the module's contract."""

    def open(self) -> None:
        """Make the ledger ready (migrate a store); idempotent.

        Raises:
            LedgerUnavailable: if that is not possible now.
        """

    def settle(self, batch: Batch) -> Answer:
        """Book a batch and answer its questions, in one transaction.

        Raises:
            LedgerUnavailable: if it could not be booked now; nothing was.
        """

    def state(self, questions: tuple[Question, ...], at_us: int) -> Answer:
        """Answer questions without booking anything.

        Raises:
            LedgerUnavailable: if the ledger cannot be read now.
        """

    def report(
        self, start_us: int, end_us: int, tag_key: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return usage by user and model, of whole days from `start_us` up to before `end_us`; with
        a `tag_key` also by the value of that metadata key.

        Raises:
            LedgerUnavailable: if the ledger cannot be read now.
        """

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event with its corrections and its price list; None where it is not booked.

        Raises:
            LedgerUnavailable: if the ledger cannot be read now.
        """

    def close(self) -> None:
        """Release connections; the ledger is not used afterwards."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit, for a second at most; see `Store`."""

    def resume_after_fork(self) -> None:
        """Go on in the parent; the next use connects again."""

    def forget_after_fork(self) -> None:
        """Start anew in a forked child: drop connections that belong to the parent process, without
        closing them.
        """
