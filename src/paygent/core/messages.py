"""Messages between a process and its ledger: plain values, the same in memory and over HTTP.

A process sends a `Batch` (events, ledger records) with `Question`s about its users, and gets an
`Answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.period import Subscription

DEFAULT_PLAN = "default"
"""Name of the plan of users without an assigned one, in a product that chose none."""

MISSING_USER_ID = "(none)"
"""The reserved user of calls without a user; reports list it like any other."""


QUARTER_US = 900 * 10**6
"""A quarter of an hour: days begin at one in every time zone."""


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


class GateEvent(NamedTuple):
    """A call that reached a gate, or several that are alike, in one round of delivery.

    Attributes:
        gate_event_id: The sender's id; unique for the user.
        at_us: When the first of them did.
        status: "soft_gate" or "hard_gate".
        gate_reason: As in `GuardResult`.
        blocked: Whether they were refused.
        usage_ppm: Used part of the cap, in parts per million.
        current_value, limit_value: Dollars or tokens, as the reason says, as decimal text.
        calls: How many they are.
    """

    gate_event_id: str
    user_id: str
    session_id: str
    at_us: int
    status: str
    gate_reason: str
    model: str
    blocked: bool
    usage_ppm: int
    current_value: str
    limit_value: str
    message: str
    metadata: Mapping[str, Any] | None = None
    calls: int = 1


class UnmeteredCount(NamedTuple):
    """How many calls of an operation passed in a process that no adapter could meter, in a quarter
    of an hour. The number only grows, so a repeated or late record changes nothing.

    Attributes:
        process: A name that no other process has.
        since_us: When the quarter of an hour began.
        operation: Such as "openai:POST /videos".
        model: As the application named it; "" where it named none.
        calls: How many there were so far.
    """

    process: str
    since_us: int
    operation: str
    model: str
    calls: int


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


TAG_KEYS_MAX = 5
"""Metadata keys that a product's reports group by."""


class TagKeysRecord(NamedTuple):
    """Metadata keys that reports group by; a product keeps the first five."""

    keys: tuple[str, ...]
    at_us: int


DirectoryRecord = (
    PlanRecord | AssignRecord | SessionRecord | PriceRecord | DefaultPlanRecord | TagKeysRecord
)

LedgerRecord = DirectoryRecord | GateEvent | UnmeteredCount
"""What a process sends to its ledger besides usage events."""


def is_for_backend(record: LedgerRecord) -> bool:
    """Return whether a process sends a record to a backend: not plans and assignments, which are
    the backend's own; but a context may name the plan of a user who has none.
    """
    if isinstance(record, AssignRecord):
        return record.keeps
    return not isinstance(record, (PlanRecord, DefaultPlanRecord))


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
        own: The user's own version of it, with overrides.
        subscription: The billing period as given.
        sdk_enabled: False passes the user's calls through unmetered.
        paused: Whether the user's calls are refused, and paused_reason why.
        open_session: The user's open implicit session.
        spent: By account, for each account of the question.
        shadow: The part of it that blocked calls spent, for the accounts where there is one.
        period_start_us: Start of the period of `by_model`, as in the question.
        by_model: (tokens, nano-dollars) by canonical model name in that period.
        is_unknown: Whether the ledger has not heard of the user before.
        version: Names these figures; a question with the same version needs no answer. "" where the
            ledger does not number them.
    """

    plan: str | None = None
    own: dict[str, Any] | None = None
    subscription: Subscription | None = None
    sdk_enabled: bool = True
    paused: bool = False
    paused_reason: str | None = None
    open_session: SessionState | None = None
    spent: dict[AccountKey, int] = field(default_factory=dict)
    shadow: dict[AccountKey, int] = field(default_factory=dict)
    period_start_us: int = 0
    by_model: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_unknown: bool = False
    version: str = ""


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
        version: Of the figures that the process has for these accounts; "" is none.
    """

    user_id: str
    accounts: tuple[AccountKey, ...] = ()
    period_start_us: int = 0
    version: str = ""


@dataclass(frozen=True)
class Batch:
    """Records to book, and questions to answer after it.

    Attributes:
        events: Usage events, at most `max_batch_size`.
        records: Plans, assignments, sessions and price lists, in order; gate events, and counts of
            unmetered calls.
        questions: Users to read after the booking; the ledger keeps the accounts they name from
            then on.
        at_us: The process's clock.
        holder: Name of the process; "" where the batch is not numbered.
        number: Number of the batch among those of its holder; 0 if it is none of them. One in doubt
            is sent again under its number.
        news_since_us: `news_until_us` of the last answer, to be shown which users have changed
            since; None does not ask.
        plans_version: Of the plans that the process has; "" is none.
    """

    events: tuple[Event, ...] = ()
    records: tuple[LedgerRecord, ...] = ()
    questions: tuple[Question, ...] = ()
    at_us: int = 0
    holder: str = ""
    number: int = 0
    news_since_us: int | None = None
    plans_version: str = ""


@dataclass(frozen=True)
class Answer:
    """A ledger's answer.

    Attributes:
        counted: Ids of the batch's events that were new; the others had been booked before.
        users: State of every user in a question, but for those in `unchanged`.
        plans: Every plan of the product: its version and document by name.
        default_plan: The plan of its users without an assigned one; None if no process has set it.
        booked_through: Number of the holder's last batch that is included in the figures.
        unchanged: Users with the figures that their question's version names.
        changed: Users with a plan, override or switch that has changed, as far as was asked for.
        news_until_us: The ledger's time up to which `changed` goes.
        plans_version: Names plans and default plan; if the process has them, they are left out.
        is_provisional: The ledger is away, and these are its last figures with what was booked on
            this host since.
    """

    counted: frozenset[str] = frozenset()
    users: dict[str, UserLedger] = field(default_factory=dict)
    plans: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    default_plan: str | None = None
    booked_through: int = 0
    unchanged: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    news_until_us: int = 0
    plans_version: str = ""
    is_provisional: bool = False


class Known(NamedTuple):
    """What a process has from the ledger.

    Attributes:
        users: The last answer about each user, with the question that it answers, and when that
            was, in microseconds.
        plans: Plans by name, with their version and document.
        default_plan: The plan of users without an assigned one.
        as_of_us: When the ledger last answered at all.
    """

    users: Sequence[tuple[Question, UserLedger, int]]
    plans: dict[str, tuple[int, dict[str, Any]]]
    default_plan: str | None
    as_of_us: int
