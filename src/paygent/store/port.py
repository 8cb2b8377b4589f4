"""The port to the store: the SQL ledger of all products.

Theory of operation
-------------------
Events are append-only facts. Everything else that is counted, accounts and rollups, is derived from
them in the same transaction that stores them, so that counter == fold(events) at every commit. An
event's id is claimed first, in that same transaction: a batch that is sent twice is stored once,
and a batch that fails has claimed nothing.

Contract, for every adapter:

- **Tenants.** Every method names a product and touches that product's rows only.
- **Corrections.** One whose original is stored is booked on the original's user, session, time,
  plan and period, whatever it says itself, and a manual one on its model too; one whose original
  is not is booked by its own fields. It weighs 0 in calls, and its signed tokens and costs are
  added like any other's. One that *restates* comes with the figures of the whole: what the original
  has is taken off them; an original that is stored after it adds nothing.
- **Price lists.** The first document of a price id stays for ever.
- **Atomic.** `ingest` is one transaction. In order: directory, new accounts (seeded from the events
  of their window), ids, events, accounts, rollups, answers.
- **Failing.** `StoreUnavailable` means that nothing was changed and the same call may succeed
  later; an adapter waits for a lock at most as long as it was told.
- **Threads.** One instance is used by one thread at a time; a lock inside makes any other use safe.
"""

from __future__ import annotations

from typing import Protocol

from paygent.core.event import Event
from paygent.core.messages import Answer, Batch, BookedEvent, Question
from paygent.core.report import UsageRow


class StoreUnavailable(Exception):
    """The database cannot be used now (locked, full, corrupt, gone)."""


class Store(Protocol):
    """What ledgers and the server ask of a database; see the module's contract."""

    def open(self) -> None:
        """Connect and migrate to the newest schema; idempotent.

        Raises:
            StoreUnavailable: if that is not possible now.
        """

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions, in one transaction.

        Raises:
            StoreUnavailable: if nothing was stored.
        """

    def read(self, product: str, questions: tuple[Question, ...], at_us: int) -> Answer:
        """Answer questions without changing anything.

        Raises:
            StoreUnavailable: if the database cannot be read now.
        """

    def usage(self, product: str, start_us: int, end_us: int) -> tuple[UsageRow, ...]:
        """Return usage by user and model over whole UTC days, from the day of `start_us` to before
        `end_us`.

        Raises:
            StoreUnavailable: if the database cannot be read now.
        """

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user, oldest first.

        Raises:
            StoreUnavailable: if the database cannot be read now.
        """

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event with its corrections and its price list; None where it is not stored.

        Raises:
            StoreUnavailable: if the database cannot be read now.
        """

    def close(self) -> None:
        """Close connections; the store is not used afterwards."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit, and let nobody open it until
        `resume_after_fork`; waits for a running transaction, for a second at most.
        """

    def resume_after_fork(self) -> None:
        """Go on in the parent; the next use connects again."""

    def forget_after_fork(self) -> None:
        """Start anew in a forked child: drop connections that belong to the parent process, without
        closing them.
        """
