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
        keeps: Only counts when nobody has assigned the user yet (a plan named by a context).
    """

    user_id: str
    plan: str
    own: dict[str, Any] | None
    subscription: Subscription | None
    at_us: int
    keeps: bool = False


class SessionRecord(NamedTuple):
    """A session that was opened, used or (ended_us > 0) closed; `implicit` ones are the user's open
    one.
    """

    user_id: str
    session_id: str
    implicit: bool
    started_us: int
    used_us: int
    ended_us: int = 0


class PriceRecord(NamedTuple):
    """A price list that events are booked with: its id and its JSON document, for ever."""

    price_id: str
    document: dict[str, Any]
    at_us: int


DirectoryRecord = PlanRecord | AssignRecord | SessionRecord | PriceRecord


class SessionState(NamedTuple):
    """A session as the ledger knows it."""

    session_id: str
    started_us: int
    used_us: int


@dataclass(frozen=True)
class UserLedger:
    """What the ledger says of one user.

    Attributes:
        plan: Name of the assigned plan, or None when nobody assigned one.
        own: The user's own version of it.
        subscription: The billing period as given.
        sdk_enabled: False passes the user's calls through unmetered.
        open_session: The user's open implicit session.
        spent: By account, for those that were asked for or that the ledger keeps.
        period_start_us: The period that `by_model` is about, as asked for.
        by_model: (tokens, nano-dollars) by canonical model name in that period.
    """

    plan: str | None = None
    own: dict[str, Any] | None = None
    subscription: Subscription | None = None
    sdk_enabled: bool = True
    open_session: SessionState | None = None
    spent: dict[AccountKey, int] = field(default_factory=dict)
    period_start_us: int = 0
    by_model: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class BookedEvent:
    """An event as the ledger has it, with what belongs to it.

    Attributes:
        event: The event.
        corrections: What corrects it, by id.
        prices: Document of the price list that it was booked with; None where that is not kept (it
            cost nothing, its cost was given, or it was booked before lists were kept).
    """

    event: Event
    corrections: tuple[Event, ...] = ()
    prices: dict[str, Any] | None = None


@dataclass(frozen=True)
class Question:
    """What a process wants to know of one user.

    Attributes:
        user_id: Whose.
        accounts: Accounts whose spent is wanted, also where the ledger does not keep them yet.
        period_start_us: Period of `by_model`.
    """

    user_id: str
    accounts: tuple[AccountKey, ...] = ()
    period_start_us: int = 0


@dataclass(frozen=True)
class Batch:
    """Records to book, and what the process wants to know in return.

    Attributes:
        events: Usage events, at most the process's batch size.
        directory: Plans, assignments, sessions and price lists, in order.
        questions: Users to read after the booking, with the accounts to keep for them from now on.
        at_us: The process's clock.
    """

    events: tuple[Event, ...] = ()
    directory: tuple[DirectoryRecord, ...] = ()
    questions: tuple[Question, ...] = ()
    at_us: int = 0


@dataclass(frozen=True)
class Answer:
    """What a ledger returns.

    Attributes:
        counted: Ids of the batch's events that were new; the others had been counted before.
        users: State of every user asked for.
        plans: Every plan of the product: its version and document by name.
    """

    counted: frozenset[str] = frozenset()
    users: dict[str, UserLedger] = field(default_factory=dict)
    plans: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
