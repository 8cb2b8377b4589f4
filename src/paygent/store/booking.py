"""Booking: how a group of batches becomes rows, in one transaction.

Theory of operation
-------------------
1. *Lock* the rows of every user that the batches name, in order. Whoever opens an account, books an
   event or assigns a plan holds the row, so two connections never interleave for one user. The
   users of corrected events are locked too. Late events of an erased user are first given the
   user's pseudonym, and nothing else is done for the old id.
2. *Directory*: plans, assignments, sessions and price lists, in the order in which they were sent.
   The ledger's clock orders them: a record is as old as it was when its batch was sent.
3. *Place* each event. Plan and billing period are those of the ledger's own directory; a correction
   takes the place of its original.
4. *Claim* the ids. What was claimed before is a duplicate and goes no further.
5. *Count* what is new in Python, by the one rule `AccountKey.counts`: accounts, sessions, rollups.
   Gate events claim their ids in their own table.
6. *Write* the sums, a statement for each table.

Nothing is read that does not belong to a user, session or id of these batches.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.messages import (
    DEFAULT_PLAN,
    AssignRecord,
    Batch,
    DefaultPlanRecord,
    DirectoryRecord,
    GateEvent,
    PlanRecord,
    PriceRecord,
    Question,
    SessionRecord,
    TagKeysRecord,
    UnmeteredCount,
)
from paygent.core.period import Window, billing_period, calendar_month
from paygent.store.answering import (
    UserAccount,
    accounts_asked_for,
    is_rolling,
    sums_of_windows,
)
from paygent.store.corrections import Corrections, MoreUsersToLock
from paygent.store.erasure import as_erased, pseudonyms
from paygent.store.gates import (
    GateSums,
    add_gate_events,
    put_unmetered_calls,
    storable_gate_event,
)
from paygent.store.rollups import Rollups, figures_of
from paygent.store.rows import (
    account_key_of,
    account_row,
    event_row,
    storable_event,
    subscription_of,
    text,
)
from paygent.store.statements import Row, Statements
from paygent.store.tags import TagSums, add_tags, declare_tags, tag_days_of, write_tags

_SESSION_MARGIN_US = 600 * 10**6
"""How far `used_us` of a session that the application names is set beyond its last event."""

_HOLDER_KEPT_US = 7 * 86_400 * 10**6
"""How long a process that is not seen any more is remembered."""

_Spans = dict[tuple[str, str], list[int]]
"""The first and the last moment of something, by user and session."""

_Events = dict[tuple[str, str], Event]
"""Events as they are booked, by (user they were sent for, id)."""


@dataclass(slots=True)
class AccountSums:
    """An account in a transaction.

    Attributes:
        spent, shadow: Its figures, what this transaction adds included.
        added, added_shadow: What has to be added to its row.
        is_new: Whether it has no row yet.
    """

    spent: int
    shadow: int
    added: int = 0
    added_shadow: int = 0
    is_new: bool = False

    def add(self, spent: int, shadow: int) -> None:
        """Count an event."""
        self.spent += spent
        self.shadow += shadow
        self.added += spent
        self.added_shadow += shadow


@dataclass(slots=True)
class Booked:
    """What a transaction has booked, for the answers.

    Attributes:
        new: The events that were new, by (user they were sent for, id).
        erased: Pseudonyms of erased users, by id; their events were sent for the pseudonym.
        directory: The rows of the locked users, by id.
        accounts: The accounts that were read or opened, by user and key.
    """

    new: set[tuple[str, str]] = field(default_factory=set)
    erased: Mapping[str, str] = field(default_factory=dict)
    directory: dict[str, Row] = field(default_factory=dict)
    accounts: dict[UserAccount, AccountSums] = field(default_factory=dict)


class Booking:
    """One transaction that books a group of batches of a product."""

    def __init__(
        self,
        sql: Statements,
        insert_events: Callable[[Statements, Sequence[list[Any]]], None],
        *,
        now_us: int,
        slot: int,
        also_lock: frozenset[str] = frozenset(),
    ) -> None:
        """Start with nothing booked.

        Args:
            sql: The statements, in a transaction that writes.
            insert_events: The engine's; see `Engine.insert_events`.
            now_us: The ledger's clock.
            slot: The writer's slot in rollups of a whole product.
            also_lock: Users to lock besides those that the batches name.
        """
        self._sql = sql
        self._insert_events = insert_events
        self._now_us = now_us
        self._slot = slot
        self._also_lock = also_lock
        self._users: list[str] = []  # those that are locked, in order
        self._booked = Booked()
        self._assigned = 0

    def book(self, batches: Sequence[Batch]) -> Booked:
        """Book batches; see the module.

        Raises:
            MoreUsersToLock: Begin again, in a new transaction.
        """
        sent = [storable_event(event) for batch in batches for event in batch.events]
        questions = [question for batch in batches for question in batch.questions]
        user_ids = {event.user_id for event in sent} | {text(each.user_id) for each in questions}
        for batch in batches:
            user_ids.update(
                text(record.user_id)
                for record in batch.records
                if isinstance(record, (AssignRecord, SessionRecord, GateEvent))
            )
        erased = self._booked.erased = pseudonyms(self._sql, user_ids, self._now_us)
        if erased:
            sent = [_as_erased(event, erased) for event in sent]
            questions = [each for each in questions if text(each.user_id) not in erased]
        records: list[tuple[DirectoryRecord, int]] = []
        gate_events: list[GateEvent] = []
        unmetered: list[UnmeteredCount] = []
        for batch in batches:
            for record in batch.records:
                user_id = text(getattr(record, "user_id", ""))
                if isinstance(record, GateEvent):
                    gate_events.append(storable_gate_event(record, erased.get(user_id)))
                elif isinstance(record, UnmeteredCount):
                    unmetered.append(record)
                elif user_id not in erased:
                    records.append((record, batch.at_us))
        corrections = Corrections(self._sql, sent)
        at_gates = {event.user_id for event in gate_events}
        self._lock([record for record, _ in records], questions, sent, corrections, at_gates)
        if pseudonyms(self._sql, user_ids, self._now_us) != erased:
            raise MoreUsersToLock(frozenset())  # a user was erased before the row was locked
        self._write_directory(records)
        product = self._sql.product()
        placed = self._stamp(sent, product["default_plan"] or DEFAULT_PLAN)
        corrections.read_originals(self._users)
        corrections.place(placed)
        new = self._claim(placed)
        self._open_accounts(questions, new)
        sums = GateSums(product["timezone"])
        if new:
            new = corrections.settle(new, has_waiting=bool(product["has_waiting"]))
            self._write_events(new, corrections, product, sums)
            self._count_accounts(new)
        add_gate_events(self._sql, gate_events, sums)
        sums.write(self._sql)
        put_unmetered_calls(self._sql, unmetered, product["timezone"])
        self._write_accounts()
        self._note_holders(batches)
        return self._booked

    def _note_holders(self, batches: Sequence[Batch]) -> None:
        """Store which batches of their holders are booked."""
        numbers: dict[str, int] = {}
        for batch in batches:
            if batch.holder:
                holder = text(batch.holder)
                numbers[holder] = max(batch.number, numbers.get(holder, 0))
        if numbers:
            self._sql.note_holders(rows=sorted(numbers.items()), now_us=self._now_us)
        if 1 in numbers.values():  # a process has started
            self._sql.forget_holders(before_us=self._now_us - _HOLDER_KEPT_US)

    # -- locking

    def _lock(
        self,
        records: Sequence[DirectoryRecord],
        questions: Sequence[Question],
        events: Sequence[Event],
        corrections: Corrections,
        at_gates: Collection[str],
    ) -> None:
        of_product = (PlanRecord, DefaultPlanRecord, TagKeysRecord)
        if any(isinstance(record, of_product) for record in records):
            self._sql.lock_product(now_us=self._now_us)  # before users, everywhere
        originals = corrections.locate()
        users = {*self._also_lock, *at_gates, *(user_id for user_id, _ in originals.values())}
        for record in records:
            if isinstance(record, (AssignRecord, SessionRecord)):
                users.add(text(record.user_id))
        users.update(text(question.user_id) for question in questions)
        # A correction of another user's event does not make its sender a user.
        users.update(
            event.user_id
            for event in events
            if event.corrects is None or (event.user_id, event.corrects) not in originals
        )
        if users:
            self._sql.lock_users(rows=with_new_ids(users), now_us=self._now_us)
        self._users = sorted(users)

    # -- directory

    def _write_directory(self, records: Iterable[tuple[DirectoryRecord, int]]) -> None:
        """Write directory records, each with the time at which it was sent, and read the directory
        of the locked users as it is then.
        """
        sessions: dict[tuple[str, str], SessionRecord] = {}
        for record, sent_us in records:
            if isinstance(record, SessionRecord):
                key = text(record.user_id), text(record.session_id)
                sessions[key] = _joined(sessions.get(key, record), record)
            else:
                self._write_record(record, sent_us)
        if sessions:
            self._sql.put_sessions(
                rows=[
                    (*key, int(each.implicit), each.started_us, each.used_us, each.ended_us)
                    for key, each in sorted(sessions.items())
                ]
            )
        if self._users:
            found = self._sql.users_asked_for(rows=[(user_id,) for user_id in self._users])
            self._booked.directory = {row["user_id"]: row for row in found}

    def _write_record(
        self,
        record: PlanRecord | AssignRecord | PriceRecord | DefaultPlanRecord | TagKeysRecord,
        sent_us: int,
    ) -> None:
        sql = self._sql
        # By the ledger's clock: a sender's that is a day ahead would win for a day.
        at_us = max(0, min(record.at_us + self._now_us - sent_us, self._now_us))
        if isinstance(record, PlanRecord):
            document = json.dumps(record.document, sort_keys=True)
            add_plan(sql, text(record.name), document, at_us)
        elif isinstance(record, TagKeysRecord):
            declare_tags(sql, record.keys, self._now_us)
        elif isinstance(record, DefaultPlanRecord):
            sql.put_default_plan(default_plan=text(record.plan), at_us=at_us)
        elif isinstance(record, PriceRecord):
            document = json.dumps(record.document, sort_keys=True)
            sql.add_price_list(price_id=text(record.price_id), document=document, at_us=at_us)
        else:
            # Each at a moment of its own, or a list of changes could not be read in parts.
            assign_plan(sql, record, at_us, self._now_us + self._assigned)
            self._assigned += 1

    # -- events

    def _stamp(self, events: Iterable[Event], default_plan: str) -> _Events:
        """Return events, each once, with the plan and billing period of the ledger's directory."""
        sent: _Events = {}
        for event in events:
            sent.setdefault((event.user_id, event.event_id), event)
        earlier_plans = self._earlier_plans(sent.values())
        periods: dict[str, Window] = {}
        month = Window(0, 0)  # the period of most users
        stamped: _Events = {}
        for key, event in sent.items():
            user_id, at_us = event.user_id, event.at_us
            row = self._booked.directory.get(user_id)
            period = periods.get(user_id)
            if period is None or not period.start_us <= at_us < period.end_us:
                subscription = None if row is None else subscription_of(row)
                period = billing_period(subscription, at_us) if subscription else None
                if period is None:
                    month = month if month.contains(at_us) else calendar_month(at_us)
                    period = month
                periods[user_id] = period
            if user_id in earlier_plans:
                plan = _plan_at(earlier_plans[user_id], at_us)
            else:
                plan = (None if row is None else row["plan"]) or default_plan
            if event.plan != plan or event.period_start_us != period.start_us:
                event = event._replace(plan=plan, period_start_us=period.start_us)
            stamped[key] = event
        return stamped

    def _earlier_plans(self, events: Iterable[Event]) -> dict[str, list[Row]]:
        """Return the assignments of the users with an event from before their last one."""
        late = {
            event.user_id
            for event in events
            if (row := self._booked.directory.get(event.user_id)) is not None
            and event.at_us < (row["assigned_us"] or 0)
        }
        found: dict[str, list[Row]] = {}
        if late:
            for row in self._sql.assignments_of(rows=[(each,) for each in sorted(late)]):
                found.setdefault(row["user_id"], []).append(row)
        return found

    def _claim(self, placed: _Events) -> list[Event]:
        """Claim the ids, and return the events that are new, in the order of their ids.

        An event is claimed for the user it was sent for; one that is booked on another user, a
        correction, for that user as well, who may have an event of its id.
        """
        by_id = sorted((event_id, sent_for) for sent_for, event_id in placed)
        rows: dict[tuple[str, str], tuple[str, str, int, str | None]] = {}
        for event_id, sent_for in by_id:
            event = placed[sent_for, event_id]
            if event.user_id != sent_for:
                rows[event_id, sent_for] = event_id, sent_for, event.at_us, event.user_id
        for event_id, sent_for in by_id:
            event = placed[sent_for, event_id]
            rows.setdefault((event_id, event.user_id), (event_id, event.user_id, event.at_us, None))
        if not rows:
            return []
        claimed = {
            (row["event_id"], row["user_id"])
            for row in self._sql.claim_ids(rows=[rows[key] for key in sorted(rows)])
        }
        new = []
        for event_id, sent_for in by_id:
            event = placed[sent_for, event_id]
            booked_for = event_id, event.user_id
            if booked_for in claimed and (event_id, sent_for) in claimed:
                claimed.discard(booked_for)  # of two senders of one correction, the first counts
                self._booked.new.add((sent_for, event_id))
                new.append(event)
        return new

    def _write_events(
        self, new: Sequence[Event], corrections: Corrections, product: Row, gates: GateSums
    ) -> None:
        """Write events, their sessions and what they add to the rollups."""
        rollups, tag_days, tags = Rollups(product["timezone"]), tag_days_of(product), TagSums()
        sessions: _Spans = {}
        rows = []
        for event in new:
            day = rollups.day_of(event)
            figures = rollups.add(event, day, is_doubtful=corrections.is_doubtful(event))
            if tag_days:
                add_tags(tags, day, corrections.metadata_of(event), figures, tag_days)
            if event.blocked:
                calls, cost_nano = event.calls, event.cost_nano
                gates.add_shadow(day, event.user_id, event.gate_reason, calls, cost_nano)
            rows.append(event_row(self._sql.product_id, day, event))
            if event.session_id:
                _widen(sessions, (event.user_id, event.session_id), event.at_us)
        for original in corrections.resolved:
            figures = rollups.resolve(original)
            add_tags(tags, rollups.day_of(original), original.metadata, figures, tag_days)
        if tag_days:
            for early, original in corrections.joined(new):
                day, figures = rollups.day_of(early), figures_of(early, is_doubtful=False)
                add_tags(tags, day, early.metadata, [-each for each in figures], tag_days)
                add_tags(tags, day, original.metadata, figures, tag_days)
        self._insert_events(self._sql, rows)
        if sessions:
            rows_of_sessions = [(*key, *span) for key, span in sorted(sessions.items())]
            self._sql.use_sessions(rows=rows_of_sessions, margin_us=_SESSION_MARGIN_US)
        rollups.write(self._sql, self._slot)
        write_tags(self._sql, tags, self._slot)

    # -- accounts

    def _open_accounts(self, questions: Iterable[Question], events: Sequence[Event]) -> None:
        """Read the accounts that are asked for or count an event. Of those asked for, open what is
        not kept, with what its window has seen before these events.
        """
        asked = accounts_asked_for(questions)
        asked = [each for each in asked if not is_rolling(each[1])]  # summed at each reading
        spans: _Spans = {}
        for user_id, key in asked:
            place = user_id, key.session_id
            _widen(spans, place, key.start_us)
            _widen(spans, place, key.end_us - 1)
        for event in events:
            _widen(spans, (event.user_id, ""), event.at_us)
            if event.session_id:
                _widen(spans, (event.user_id, event.session_id), event.at_us)
        if not spans:
            return
        accounts = self._booked.accounts
        rows = [(*place, *span) for place, span in sorted(spans.items())]
        for row in self._sql.accounts_between(rows=rows):
            accounts[row["user_id"], account_key_of(row)] = AccountSums(row["spent"], row["shadow"])
        missing = [each for each in asked if each not in accounts]
        for each, (spent, shadow) in sums_of_windows(self._sql, missing, self._now_us).items():
            accounts[each] = AccountSums(spent, shadow, spent, shadow, is_new=True)

    def _count_accounts(self, events: Iterable[Event]) -> None:
        """Add events to the accounts that count them."""
        by_place: dict[tuple[str, str], list[tuple[AccountKey, AccountSums]]] = defaultdict(list)
        for (user_id, key), sums in self._booked.accounts.items():
            by_place[user_id, key.session_id].append((key, sums))
        for event in events:
            _count(event, by_place.get((event.user_id, ""), ()))
            if event.session_id:
                _count(event, by_place.get((event.user_id, event.session_id), ()))

    def _write_accounts(self) -> None:
        rows = [
            (*account_row(user_id, key), sums.added, sums.added_shadow)
            for (user_id, key), sums in self._booked.accounts.items()
            if sums.is_new or sums.added or sums.added_shadow
        ]
        if rows:
            self._sql.book_accounts(rows=sorted(rows))


def add_plan(sql: Statements, name: str, document: str, at_us: int) -> None:
    """Add a version of a plan, unless it says nothing new; the product's row is locked."""
    sql.add_plan(name=name, plan_id="plan_" + secrets.token_hex(8), document=document, at_us=at_us)


def assign_plan(sql: Statements, record: AssignRecord, at_us: int, now_us: int) -> bool:
    """Assign a plan to a user with a locked row; return whether that changed anything.

    Args:
        sql: In a transaction that writes.
        record: The assignment.
        at_us: Its time by the ledger's clock.
        now_us: The ledger's time now.
    """
    period = record.subscription
    user_id = text(record.user_id)
    assignment = {
        "user_id": user_id,
        "plan": text(record.plan),
        "period_start_us": period.start_us if period else None,
        "period_end_us": period.end_us if period else None,
        "renews": period.renews if period else None,
        "at_us": at_us,
    }
    own = None if record.own is None else json.dumps(record.own, sort_keys=True)
    is_assigned = bool(sql.assign_plan(**assignment, own=own, keeps=int(record.keeps)))
    if is_assigned:
        sql.add_assignment(**assignment)
        sql.touch_user(user_id=user_id, now_us=now_us)
    return is_assigned


def with_new_ids(user_ids: Collection[str]) -> list[tuple[str, str]]:
    """Return users in order, each with the id that the ledger gives them besides the application's
    if they are new.
    """
    digits = secrets.token_hex(8 * len(user_ids))  # at once: it is a system call
    return [
        (user_id, "pgu_" + digits[16 * number : 16 * number + 16])
        for number, user_id in enumerate(sorted(user_ids))
    ]


def _as_erased(event: Event, erased: Mapping[str, str]) -> Event:
    return as_erased(event, erased[event.user_id]) if event.user_id in erased else event


def _plan_at(history: Sequence[Row], at_us: int) -> str:
    """Return the plan of a moment; before the first assignment it is the first one, because a call
    begins a moment before the context that it ran in assigns its plan.
    """
    plan = history[0]["plan"]
    for row in history:
        if row["assigned_us"] > at_us:
            break
        plan = row["plan"]
    return str(plan)


def _joined(record: SessionRecord, later: SessionRecord) -> SessionRecord:
    """Return what two records of one session say together."""
    return later._replace(
        started_us=min(record.started_us, later.started_us),
        used_us=max(record.used_us, later.used_us),
        ended_us=max(record.ended_us, later.ended_us),
    )


def _widen(spans: _Spans, key: tuple[str, str], at_us: int) -> None:
    """Extend a span of time to a moment."""
    span = spans.get(key)
    if span is None:
        spans[key] = [at_us, at_us]
    elif at_us < span[0]:
        span[0] = at_us
    elif at_us > span[1]:
        span[1] = at_us


def _count(event: Event, accounts: Iterable[tuple[AccountKey, AccountSums]]) -> None:
    for key, sums in accounts:
        if key.counts(event):
            added = amount(
                key.limit.metric,
                cost_nano=event.cost_nano,
                tokens=event.total_tokens,
                calls=event.calls,
            )
            sums.add(added, added if event.blocked else 0)
