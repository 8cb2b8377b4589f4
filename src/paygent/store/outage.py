"""The store of a host while its backend is away.

Theory of operation
-------------------
An outage is a ledger of its own, in the namespace `<product>~<number>` of the local store. It books
what the processes of the host spend meanwhile, so that they see each other's spend, and counts from
zero: a figure is the backend's last one (`kept_answers`) plus the sum booked here. What is booked
also goes into the outbox, in the same transaction, and is sent from there in order once the backend
is back. Nothing is taken out of the namespace while that lasts, so figures stay right throughout.

The outage ends in one transaction, when the outbox is empty: its number grows. Whoever books after
that finds another number than its own, books nothing, and goes on with the backend: its figures
contain everything by then. The rows of the old namespace are swept away later, in pages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from paygent.core.account import AccountKey
from paygent.core.event import Event, decode_event, encode_event
from paygent.core.limit import LimitKey
from paygent.core.message_json import plans_from_json, plans_to_json, user_from_json, user_to_json
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    Known,
    LedgerRecord,
    Question,
    SessionState,
    UserLedger,
    is_for_backend,
)
from paygent.core.period import rolling_length_us
from paygent.core.record_json import record_from_json, record_to_json
from paygent.store.answering import answer
from paygent.store.booking import Booked
from paygent.store.ledger import SqlStore
from paygent.store.rows import text
from paygent.store.sqlite import SqliteStore
from paygent.store.statements import Statements

_EVENT, _RECORD = "event", "record"
_READERS: dict[str, Callable[[Any], Event | LedgerRecord]] = {
    _EVENT: decode_event,
    _RECORD: record_from_json,
}
_PLANS = ""  # in place of a user id, in `kept_answers`
_SWEEP_USERS = 200
_CACHE_KIB = 4_096  # an outage must not cost the application's memory

_OF_USERS = (
    "accounts", "events", "corrections", "sessions", "assignments", "gate_events", "users",
)  # fmt: skip
"""Tables of a namespace that are swept user by user; the users last, since they are the list."""

_BY_KEY = {"event_ids": ("event_id", 2_000), "rollup_user": ("span", 1), "rollup_gate": ("day", 1)}
"""Tables with a key that begins with another column, and how many of its values are swept at once.
"""

_OF_PRODUCT = (
    "kept_answers", "rollup_product", "rollup_tag", "unmetered_calls", "holders", "price_lists",
    "products",
)  # fmt: skip


class OutageEnded(Exception):
    """The outage has ended: another process has sent everything."""


class Unsent(NamedTuple):
    """Records of the outbox.

    Attributes:
        records: Events and ledger records, in the order of their delivery.
        last_row: Number of the last one in the outbox; 0 where there is none.
    """

    records: list[Event | LedgerRecord]
    last_row: int


def namespace_of(store: SqlStore, product: str) -> str | None:
    """Return the product under which the running outage of a product is booked in a local store;
    None if there was none.
    """
    with store.engine.transaction(product) as sql:
        number = _number(sql)
        return None if number is None else _namespace(product, number)


class OutageStore(SqliteStore):
    """The outages of one product in a local store. Thread-safe."""

    def __init__(self, path: str, product: str) -> None:
        """Remember the place of the store and the product."""
        # Questions do not wait for a delivery.
        super().__init__(path, readers=1, cache_kib=_CACHE_KIB)
        self._path = path
        self._product = product

    @property
    def _exists(self) -> bool:
        """Whether there is a store: it is made by the first outage."""
        return os.path.exists(self._path)

    def running(self) -> int | None:
        """Return the number of the outage that any process of this host has begun and none has
        ended; None if there is none.
        """
        if not self._exists:
            return None
        with self.engine.transaction(self._product) as sql:
            number = _number(sql)
            if number is None:
                return None
            there_sql = sql.of_product(self._namespace(number))
            # Its beginning leaves the plans there, if nothing else.
            return number if there_sql.kept_answers_of(rows=[(_PLANS,)]) else None

    def ended(self) -> int | None:
        """Return the number of the last outage that has ended; None if there was none."""
        if not self._exists:
            return None
        with self.engine.transaction(self._product) as sql:
            number = _number(sql)
            return None if number is None or number == 1 else number - 1

    def begin(self, known: Known | None) -> int:
        """Begin an outage, or join the one that another process has begun; return its number.

        Args:
            known: What this process has from the backend; None if that has never answered.
        """
        known = known or Known((), {}, None, 0)
        with self.engine.transaction(self._product, writes=True) as sql:
            sql.start_outage()
            number = _number(sql)
            assert number is not None  # it was just started
            there_sql = sql.of_product(self._namespace(number))
            rows = [
                (text(question.user_id), read_us, _dump_user(question, state, read_us))
                for question, state, read_us in known.users
            ]
            document = json.dumps(
                {"plans": plans_to_json(known.plans), "default_plan": known.default_plan}
            )
            there_sql.keep_answers(rows=[(_PLANS, known.as_of_us, document), *sorted(rows)])
        # Billing periods and plans of the users, for what is booked here.
        records = [
            AssignRecord(question.user_id, state.plan, None, state.subscription, known.as_of_us)
            for question, state, _ in known.users
            if state.plan is not None
        ]
        if records:
            batch = Batch(records=tuple(records), at_us=known.as_of_us)
            self.ingest(self._namespace(number), batch)
        return number

    def settle(self, number: int, batch: Batch) -> Answer:
        """Book a batch in an outage, put it into the outbox, and answer its questions.

        Raises:
            OutageEnded: if the outage is over; nothing was booked.
        """

        def finish(sql: Statements, booked: Booked) -> Answer:
            own_sql = self._check(sql, number)
            new = {event_id for _, event_id in booked.new}
            events = [event for event in batch.events if text(event.event_id) in new]
            _keep_unsent(own_sql, events, batch.records)
            found = self._answer(sql, batch)
            return replace(found, counted=frozenset(event.event_id for event in events))

        return self._book(self._namespace(number), (batch,), finish)

    def state(self, number: int, batch: Batch) -> Answer:
        """Answer the questions of a batch.

        Raises:
            OutageEnded: if the outage is over.
        """
        with self.engine.transaction(self._namespace(number)) as sql:
            self._check(sql, number)
            return self._answer(sql, batch)

    def _check(self, sql: Statements, number: int) -> Statements:
        """Return the statements of the product, unless an outage has ended."""
        own_sql = sql.of_product(self._product)
        if _number(own_sql) != number:
            raise OutageEnded
        return own_sql

    def _answer(self, sql: Statements, batch: Batch) -> Answer:
        found = answer(sql, batch.questions, batch.at_us, now_us=self.now_us(), holder=batch.holder)
        names = sorted({text(question.user_id) for question in batch.questions} | {_PLANS})
        kept = {
            row["user_id"]: row["document"]
            for row in sql.kept_answers_of(rows=[(name,) for name in names])
        }
        product = (
            json.loads(kept[_PLANS]) if _PLANS in kept else {"plans": {}, "default_plan": None}
        )
        users = {
            user_id: _added(state, kept.get(text(user_id)), batch.at_us)
            for user_id, state in found.users.items()
        }
        return replace(
            found,
            users=users,
            # Plans of this host's processes count where the backend has none of that name.
            plans={**found.plans, **plans_from_json(product["plans"])},
            default_plan=product["default_plan"] or found.default_plan,
            is_provisional=True,
        )

    def unsent(self, records_max: int) -> Unsent:
        """Return the first records of the outbox."""
        with self.engine.transaction(self._product) as sql:
            rows = sql.unsent(records_max=records_max)
        records = [_READERS[row["kind"]](json.loads(row["document"])) for row in rows]
        return Unsent(records, rows[-1]["row_number"] if rows else 0)

    def unsent_events(self) -> int:
        """Return how many events the backend does not have yet."""
        with self.engine.transaction(self._product) as sql:
            first, state = sql.first_unsent(), sql.outage()
        if first is None:
            return 0
        return int(state["last_event"] - first["events"] + (first["kind"] == _EVENT))

    def drop_sent(self, last_row: int) -> None:
        """Take records that the backend has out of the outbox, through the one of this number."""
        with self.engine.transaction(self._product, writes=True) as sql:
            sql.drop_sent(last_row=last_row)

    def end(self, number: int) -> bool:
        """End an outage if its outbox is empty; return whether it is over."""
        with self.engine.transaction(self._product, writes=True) as sql:
            if sql.first_unsent() is not None:
                return _number(sql) != number
            sql.end_outage(number=number)
            return True

    def sweep(self, number: int) -> bool:
        """Delete a page of an outage that has ended; return whether there is more of it."""
        namespace = self._namespace(number)
        with self.engine.transaction(namespace, writes=True) as sql:
            users = [row["user_id"] for row in sql.users_page(after="", users_max=_SWEEP_USERS)]
            for table in _OF_USERS:
                sql.connection.executemany(
                    f"DELETE FROM {table} WHERE product_id = ? AND user_id = ?",  # noqa: S608
                    [(namespace, user_id) for user_id in users],
                )
            if len(users) == _SWEEP_USERS:
                return True
            for table, (key, count) in _BY_KEY.items():
                found = f"SELECT DISTINCT {key} FROM {table} WHERE product_id = ? ORDER BY {key}"  # noqa: S608
                swept = sql.connection.execute(
                    f"DELETE FROM {table} WHERE product_id = ? AND {key} IN ({found} LIMIT ?)",  # noqa: S608
                    (namespace, namespace, count),
                )
                if swept.rowcount:
                    return True
            for table in _OF_PRODUCT:
                sql.connection.execute(
                    f"DELETE FROM {table} WHERE product_id = ?",  # noqa: S608 - names of tables
                    (namespace,),
                )
            return False

    def _namespace(self, number: int) -> str:
        return _namespace(self._product, number)


def _namespace(product: str, number: int) -> str:
    return f"{product}~{number}"


def _number(sql: Statements) -> int | None:
    row = sql.outage()
    return None if row is None else int(row["number"])


def _keep_unsent(sql: Statements, events: Iterable[Event], records: Iterable[LedgerRecord]) -> None:
    state = sql.outage()
    last_row, last_event = state["last_row"], state["last_event"]
    rows: list[tuple[int, str, int, str]] = []
    for record in filter(is_for_backend, records):
        last_row += 1
        rows.append((last_row, _RECORD, last_event, json.dumps(record_to_json(record))))
    for event in events:
        last_row, last_event = last_row + 1, last_event + 1
        rows.append((last_row, _EVENT, last_event, encode_event(event).decode()))
    if rows:
        sql.keep_unsent(rows=rows)
        sql.count_rows(last_row=last_row, last_event=last_event)


def _dump_user(question: Question, state: UserLedger, read_us: int) -> str:
    accounts = [[list(key.limit), *key[1:]] for key in question.accounts]
    written = {"accounts": accounts, "state": user_to_json(question, state), "read_us": read_us}
    return json.dumps(written)


def _read_user(written: dict[str, Any]) -> UserLedger:
    accounts = tuple(AccountKey(LimitKey(*limit), *rest) for limit, *rest in written["accounts"])
    return user_from_json(written["state"], Question(written["state"]["user_id"], accounts))


def _added(here: UserLedger, document: str | None, at_us: int) -> UserLedger:
    """Return the backend's last figures of a user with what was booked here since."""
    if document is None:
        return replace(here, is_unknown=here.plan is None)
    written = json.loads(document)
    state, age_us = _read_user(written), at_us - written["read_us"]
    by_model = dict(state.by_model) if state.period_start_us == here.period_start_us else {}
    for model, (tokens, cost_nano) in here.by_model.items():
        before = by_model.get(model, (0, 0))
        by_model[model] = before[0] + tokens, before[1] + cost_nano
    return replace(
        state,
        open_session=_later(state.open_session, here.open_session),
        spent={
            key: spent + _left(key, state.spent.get(key, 0), age_us)
            for key, spent in here.spent.items()
        },
        shadow={
            key: both
            for key in here.spent
            if (both := here.shadow.get(key, 0) + _left(key, state.shadow.get(key, 0), age_us))
        },
        period_start_us=here.period_start_us,
        by_model=by_model,
        version="",
    )


def _left(key: AccountKey, figure: int, age_us: int) -> int:
    """Return what is left of a figure that was read some time ago. A rolling sum lost a part of
    it since: an even one, as far as is known here.
    """
    length_us = rolling_length_us(key.limit.window)
    if length_us is None:
        return figure
    return figure * max(length_us - age_us, 0) // length_us


def _later(one: SessionState | None, other: SessionState | None) -> SessionState | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda session: session.started_us)
