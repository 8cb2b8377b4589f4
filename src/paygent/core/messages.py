"""Messages between a process and its ledger: plain values, the same in memory and over HTTP.

A process sends a `Batch` (events, directory records) with `Question`s about its users, and gets an
`Answer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.period import Subscription


class PlanRecord(NamedTuple):
    """A plan as configured: its name and its JSON document."""

    name: str
    document: dict[str, Any]
    at_us: int


class AssignRecord(NamedTuple):
    """A user's plan and billing period.

    Attributes:
        own: The user's own version of the plan, or None.
        subscription: The billing period as given; None is the calendar month.
        keeps: Applies only if the user has no assignment yet (a plan named by a context).
    """

    user_id: str
    plan: str
    own: dict[str, Any] | None
    subscription: Subscription | None
    at_us: int
    keeps: bool = False


class SessionRecord(NamedTuple):
    """A session that was opened, used or (ended_us > 0) closed.

    `implicit` marks the one open session of a user without explicit session ids.
    """

    user_id: str
    session_id: str
    implicit: bool
    started_us: int
    used_us: int
    ended_us: int = 0


class PriceRecord(NamedTuple):
    """A price list that events are booked with: its id and its immutable JSON document."""

    price_id: str
    document: dict[str, Any]
    at_us: int


class DefaultPlanRecord(NamedTuple):
    """The plan of a product's users without an assigned one."""

    plan: str
    at_us: int


DirectoryRecord = PlanRecord | AssignRecord | SessionRecord | PriceRecord | DefaultPlanRecord


class SessionState(NamedTuple):
    """A session as the ledger knows it."""

    session_id: str
    started_us: int
    used_us: int


@dataclass(frozen=True)
class UserLedger:
    """The ledger's figures of one user.

    Attributes:
        plan: Name of the assigned plan, or None without an assignment.
        own: The user's own version of it.
        subscription: The billing period as given.
        sdk_enabled: False passes the user's calls through unmetered.
        open_session: The user's open implicit session.
        spent: By account, for each account of the question.
        shadow: The part of it that blocked calls spent, for the accounts where there is one.
        period_start_us: Start of the period of `by_model`, as in the question.
        by_model: (tokens, nano-dollars) by canonical model name in that period.
    """

    plan: str | None = None
    own: dict[str, Any] | None = None
    subscription: Subscription | None = None
    sdk_enabled: bool = True
    open_session: SessionState | None = None
    spent: dict[AccountKey, int] = field(default_factory=dict)
    shadow: dict[AccountKey, int] = field(default_factory=dict)
    period_start_us: int = 0
    by_model: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class BookedEvent:
    """An event as the ledger has it, with its corrections and prices.

    Attributes:
        event: The event.
        corrections: Its corrections, by id.
        prices: Document of the price list that it was booked with; None if there is none (it cost
            nothing, or its cost was given).
    """

    event: Event
    corrections: tuple[Event, ...] = ()
    prices: dict[str, Any] | None = None


@dataclass(frozen=True)
class Question:
    """A process's question about one user.

    Attributes:
        user_id: The user.
        accounts: Accounts to read, including those that the ledger does not keep yet.
        period_start_us: Start of the period of `by_model`.
    """

    user_id: str
    accounts: tuple[AccountKey, ...] = ()
    period_start_us: int = 0


@dataclass(frozen=True)
class Batch:
    """Records to book, and questions to answer after it.

    Attributes:
        events: Usage events, at most `max_batch_size`.
        directory: Plans, assignments, sessions and price lists, in order.
        questions: Users to read after the booking; the ledger keeps the accounts they name from
            then on.
        at_us: The process's clock.
    """

    events: tuple[Event, ...] = ()
    directory: tuple[DirectoryRecord, ...] = ()
    questions: tuple[Question, ...] = ()
    at_us: int = 0


@dataclass(frozen=True)
class Answer:
    """A ledger's answer.

    Attributes:
        counted: Ids of the batch's events that were new; the others had been booked before.
        users: State of every user in a question.
        plans: Every plan of the product: its version and document by name.
        default_plan: The plan of its users without an assigned one; None if no process has set it.
    """

    counted: frozenset[str] = frozenset()
    users: dict[str, UserLedger] = field(default_factory=dict)
    plans: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    default_plan: str | None = None
