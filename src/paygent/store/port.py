"""The port to the store: the SQL ledger of all products.

Theory of operation
-------------------
Events are append-only facts. Every counter, account or rollup, is derived from them in the
transaction that stores them, so that counter == fold(events) at every commit. An event's id is
claimed first, in that same transaction: a batch that is sent twice is stored once, and a batch that
fails has claimed nothing.

Contract, for every adapter:

- **Tenants.** Every method names a product and touches that product's rows only.
- **Ids.** An event id is unique for its product and user: sent again it is not counted again,
  whatever its other fields are.
- **Holders.** The number of a holder's batch is stored in the transaction that books it, so an
  answer shows which batches its figures include.
- **Places.** Plan and billing period of an event are those of the ledger's own directory at the
  event's time, whatever its sender believes.
- **Clock.** The ledger's clock orders plans and assignments: a record is as old as it was when its
  batch was sent (`Batch.at_us`), and the youngest wins.
- **Corrections.** If its original is stored, a correction is booked on the original's user,
  session, time, plan and period, whatever its own fields are, and a manual one, or one without a
  model, on its model too; otherwise its own fields apply. It counts as 0 calls; its signed tokens
  and costs are added like any event's. One that *restates* carries the figures of the whole: the
  original's figures are subtracted, and an original that is stored after it adds nothing.
- **Price lists.** The first document of a price id is kept; later ones are ignored.
- **Atomic.** `ingest` is one transaction. In order: directory, new accounts (seeded from the events
  of their window), ids, events, accounts, rollups, answers. `book` is one for all its batches.
- **Failing.** `open`, `ingest` and the reading methods raise `StoreUnavailable` (`StoreBusy` for a
  lock) when nothing was changed and the same call may succeed later; an adapter waits for a lock
  no longer than its configured time. Any other exception is a rejection: nothing was changed
  either, and the same call fails again.
- **Threads.** Any use is safe. SQLite serves one thread at a time, the others wait; PostgreSQL
  serves as many as it has connections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import NamedTuple, Protocol

from paygent.core.event import Event
from paygent.core.margin import MarginReport
from paygent.core.messages import Answer, Batch, BookedEvent, Question
from paygent.core.plan import PlanConfig
from paygent.core.replay import ReplayReport
from paygent.core.report import Figures, SpendReport, SpendRow
from paygent.core.report_request import SpendRequest
from paygent.core.tally import TallyKind, TallyReport


class StoreUnavailable(Exception):
    """The database cannot be used now (locked, full, corrupt, gone)."""


class StoreBusy(StoreUnavailable):
    """Another process's transaction is in the way; it ends by itself."""


class UserActivity(NamedTuple):
    """A user's usage in a span of days, and their last activity.

    Attributes:
        calls: Number of calls.
        cost_nano: Their cost, in nano-dollars.
        last_us: When the user's last event was, in microseconds since 1970 UTC; 0 without events.
    """

    user_id: str
    calls: int
    cost_nano: int
    last_us: int


class PlanUsers(NamedTuple):
    """The users of a plan.

    Attributes:
        assigned: Users to whom the plan is assigned.
        active: Users with events that were booked on it in a span of days.
    """

    assigned: int = 0
    active: int = 0


class Store(Protocol):
    """The database as ledgers and the server use it; see the module's contract. What the server
    alone needs is in `directory_port.py`.
    """

    def open(self) -> None:
        """Connect and migrate to the newest schema; idempotent."""

    def ingest(self, product: str, batch: Batch) -> Answer:
        """Store a batch and answer its questions, in one transaction."""

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        """Store batches of several senders in one transaction, and return for each the ids that
        were new, or the exception that rejects it; the others are stored all the same. Questions
        open accounts and are not answered.
        """

    def read(
        self,
        product: str,
        questions: tuple[Question, ...],
        at_us: int,
        *,
        holder: str = "",
        news_since_us: int | None = None,
    ) -> Answer:
        """Answer questions and change nothing; `holder` and `news_since_us` as in `Batch`."""

    def spend(self, product: str, request: SpendRequest) -> SpendReport:
        """Return a report of usage and cost: what `core.report.fold_spend` makes of the events.

        Raises:
            InvalidValue: The span of time is not valid, or too many events would have to be read
                one by one; arguments are named as the caller calls them.
        """

    def spend_rows(self, product: str, request: SpendRequest) -> Iterator[SpendRow]:
        """Yield all rows of a report one by one, whatever its `rows_max` is; see `spend`. A
        transaction is open until the iterator ends or is closed, so one thread reads it without
        pausing.
        """

    def daily_rows(self, product: str, request: SpendRequest) -> Iterator[SpendRow]:
        """Yield usage by day, user, model and provider, whatever the request groups by, day by day;
        see `spend_rows`.

        Raises:
            InvalidValue: It is not about whole days, or about a session, a tag or a period.
        """

    def spend_of_users(
        self, product: str, request: SpendRequest, user_ids: Collection[str]
    ) -> dict[str, Figures]:
        """Return the figures of some users, with the span of time and the filters of a request,
        whatever it groups by; zero for those without usage. See `spend`.
        """

    def margin(self, product: str, request: SpendRequest) -> MarginReport:
        """Return a report of margins: cost, and what `core.revenue` makes of payments and prices.

        Raises:
            InvalidValue: As of `spend`.
        """

    def tally(self, product: str, kind: TallyKind, request: SpendRequest) -> TallyReport:
        """Return a report of gates or of quality: what `core.tally.fold_gates` and `fold_quality`
        make of events, gate events and counts of unmetered calls.

        Raises:
            InvalidValue: The span of time is not valid, or not one of whole days.
        """

    def replay(
        self,
        product: str,
        plan_name: str,
        plan: PlanConfig,
        start: date,
        end: date,
        rows_max: int,
    ) -> ReplayReport:
        """Return what an edited plan would have changed: what `core.replay.fold_replay` makes of
        the usage that was booked under the plan's name, from day `start` to before day `end` of the
        product's time zone. At most `rows_max` of the stopped users have a row. The edited plan is
        not stored, and nothing is changed.
        """

    def users(
        self, product: str, start_us: int, end_us: int, users_max: int
    ) -> tuple[UserActivity, ...]:
        """Return users, at most `users_max`: those with usage in these whole days,
        dearest first, then the others by id.
        """

    def plan_users(
        self, product: str, start_us: int, end_us: int, *, besides: str = ""
    ) -> dict[str, PlanUsers]:
        """Return how many users each plan has, by name; "" is for users without an assigned plan.
        Users are active in these whole days; `besides` is a user who is not counted.
        """

    def events(self, product: str, user_id: str) -> tuple[Event, ...]:
        """Return the events of a user, oldest first."""

    def event(self, product: str, event_id: str) -> BookedEvent | None:
        """Return an event with its corrections and its price list; None if it is not stored."""

    def close(self) -> None:
        """Close connections; the store is not used afterwards."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit, and block its reopening until
        `resume_after_fork`; waits up to a second for a running transaction.
        """

    def resume_after_fork(self) -> None:
        """Continue in the parent; the next use reconnects."""

    def forget_after_fork(self) -> None:
        """Drop the parent's connections in a forked child, without closing them."""
