"""The port to a database engine: connections, transactions, the schema, and forks.

Everything else of a store, its statements and verbs, is the same for every engine (`ledger.py`).

Contract, for every engine:

- **Transactions.** `transaction` commits what its block did, or nothing of it. All that a reading
  one sees is of one moment. Writing ones may interleave row by row (PostgreSQL) or take turns
  (SQLite).
- **Failing.** What may pass (a lock, a lost connection, a full disk) is raised as
  `StoreUnavailable`, or `StoreBusy` where another transaction is in the way; every other exception
  is about a statement's values, which would fail again.
- **Threads.** Each engine says how many threads it serves; any use is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from paygent.store.statements import Statements


class Engine(Protocol):
    """A database; see the module's contract."""

    def open(self) -> None:
        """Connect and migrate to the newest schema; idempotent."""

    def close(self) -> None:
        """Close connections; the next transaction opens them again."""

    def transaction(
        self, product_id: str, *, writes: bool = False
    ) -> AbstractContextManager[Statements]:
        """Run a block in a transaction, with the statements bound to a product."""

    def insert_events(self, sql: Statements, rows: Sequence[list[Any]]) -> None:
        """Insert rows of `rows.event_row`, in the engine's fastest way."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit; see `Store.pause_for_fork`."""

    def resume_after_fork(self) -> None:
        """Continue in the parent; the next use reconnects."""

    def forget_after_fork(self) -> None:
        """Drop the parent's connections in a forked child, without closing them."""
