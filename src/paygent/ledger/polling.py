"""The ledger of a backend that has only the documented routes: events are sent, users are polled.

Theory of operation
-------------------
`POST /events/batch` books, `GET /users/{id}/session` reads. The response to the first does not name
the duplicates, and the second is read after it, so three rules replace what `/sync` guarantees:

- *Doubt.* The figures of a user do not show which batches they include. While a numbered batch is
  in doubt (from before its first request until every request of it is acknowledged), the users of
  its events are left out of what `state` returns, and so is a user of a batch that began while the
  reading was in progress. For all others the figures are exact, and `booked_through` is the last
  batch that was acknowledged. A user who is left out is read by the delivery itself, or with the
  next one if no answer came: no event is counted twice or lost meanwhile.
- *Sums of this process.* The response has the spend and tokens of the billing period. Sessions,
  days, rolling windows and calls are summed here, over the events that this process has delivered,
  so those limits hold within this process.
- *Whole chunks.* Events of a request that were all accepted are new; of any other request it is not
  known which are, so none is named and their users' figures are read again.

A batch that needs several requests may be booked in part. It is sent again unchanged, and by its
ids each event counts once. Gate events are sent after them; for the other records there is no
route.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any
from urllib.parse import quote

from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event
from paygent.core.event_json import event_to_json
from paygent.core.message_json import readable
from paygent.core.messages import Answer, Batch, GateEvent, Question
from paygent.core.notices import Notice
from paygent.core.period import to_datetime
from paygent.failopen import diagnostics
from paygent.ledger.polled_session import Fields, PolledSession, answer_about, read_session
from paygent.ledger.port import LedgerRefused, LedgerUnavailable
from paygent.ledger.process_sums import ProcessSums
from paygent.ledger.remote import (
    ASK_TIMEOUT_S,
    SYNC_TIMEOUT_S,
    HttpLedger,
    call,
    content,
    encode,
    send,
)
from paygent.ledger.transport import HttpResponse, HttpTransport, Transport

EVENTS_MAX = 100
"""Events in one request, by the documented contract."""

_READ_S = 4.0  # the users of a batch are read for so long; the others are asked about again

_NO_ROUTE = (404, 405, 501)
_UNSENT_MAX = 1_000  # gate events that wait for a backend that does not take them now
_REPORT_S = 2.0  # so long they are sent with one batch
_REPORT_RETRY_S = 30.0

_NOT_DOCUMENTED = ("model_key", "details", "gate_reason", "restates")
"""Fields that a documented server may refuse."""


class _UnknownUser(Exception):
    """The backend does not know a user."""


class _UserLookup:
    """The transport for questions about users, for whom 404 is an answer like any other."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Send one request; see `Transport.request`.

        Raises:
            _UnknownUser: for the status 404.
        """
        response = self._transport.request(method, path, body=body, timeout_s=timeout_s)
        if response.status == 404:
            raise _UnknownUser
        return response


class PollingLedger(HttpLedger):
    """Adapter of `Ledger` over the documented routes; see the module."""

    heartbeat_s: float | None = None

    def __init__(self, transport: HttpTransport, *, events_max: int = EVENTS_MAX) -> None:
        """Take over the transport; it is closed with the ledger.

        Args:
            transport: To the backend.
            events_max: Events in one request, at most those that the contract allows.
        """
        super().__init__(transport)
        self._lookup = _UserLookup(transport)
        self._events_max = max(1, min(events_max, EVENTS_MAX))
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # held for changes of what follows, never during a request
        self._sums = ProcessSums()
        self._holder = ""
        self._booked = 0  # number of the holder's last batch that was acknowledged
        self._sent = 0  # number of the last one that was sent
        self._in_doubt: frozenset[str] = frozenset()  # the users of its events
        # Users of batches that began during a reading, by the thread that reads.
        self._touched: dict[int, set[str]] = {}
        self._unsent: BoundedDict[str, GateEvent] = BoundedDict(_UNSENT_MAX)  # by id
        self._report_after_s = 0.0  # when gate events are sent again

    def open(self) -> None:
        """Do nothing: a request connects; see `Ledger.open`."""

    # -- booking

    def settle(self, batch: Batch) -> Answer:
        """Book a batch, then answer its questions; see `Ledger.settle` and the module."""
        if any(event.restates for event in batch.events):
            # Its figures are those of the whole: it would be added to what it corrects.
            raise LedgerRefused("the backend has no route for a correction with whole figures")
        with self._lock:
            # First: a sum must be open before the events that it counts.
            self._sums.open(batch.questions, _now_us(batch))
            self._begin(batch)
        counted, unclear = self._book(batch.events)
        with self._lock:
            for event in batch.events:
                self._sums.add(event)
            if batch.number:
                self._booked, self._in_doubt = batch.number, frozenset()
        self._report(record for record in batch.records if isinstance(record, GateEvent))
        if not batch.questions:
            return Answer(counted=counted, booked_through=self._booked_for(batch))
        return self._read(batch, counted=counted, required=unclear)

    def _begin(self, batch: Batch) -> None:
        """Note that a batch is in doubt from now on; under the lock.

        One without a number is of another process, or a part of the numbered one that is in doubt.
        """
        if not batch.number:
            return
        users = frozenset(event.user_id for event in batch.events)
        if batch.holder != self._holder:
            self._holder, self._booked, self._sent = batch.holder, 0, 0
        if batch.number != self._sent:
            # The one before was acknowledged, if not through this ledger.
            self._sent, self._in_doubt = batch.number, users
        for touched in self._touched.values():
            touched |= users

    def _book(self, events: tuple[Event, ...]) -> tuple[frozenset[str], frozenset[str]]:
        """Send events; return the ids that are known to be new, and the users of the other ones."""
        counted: set[str] = set()
        unclear: set[str] = set()
        for start in range(0, len(events), self._events_max):
            chunk = events[start : start + self._events_max]
            given = call(
                self._transport,
                "POST",
                "/api/v1/events/batch",
                body=encode([_documented(event) for event in chunk]),
                timeout_s=SYNC_TIMEOUT_S,
            )
            fields = Fields(given, "")
            duplicates = fields.count("duplicates")
            if fields.count("accepted") == len(chunk) and not duplicates:
                counted |= {event.event_id for event in chunk}
            else:
                # The response has counts alone, so any of these may have been booked before. None
                # is added to what the process knows; the figures are read again, and include all.
                unclear |= {event.user_id for event in chunk}
        return frozenset(counted), frozenset(unclear)

    def _report(self, events: Iterable[GateEvent]) -> None:
        """Send gate events, with those that could not be sent before, for a moment. They are no
        money: what goes wrong with them holds up no usage, and the oldest are dropped if they
        become too many.
        """
        for event in events:
            self._unsent[event.gate_event_id] = event
        until_s = time.monotonic() + _REPORT_S
        if time.monotonic() < self._report_after_s:
            return
        try:
            while self._unsent and time.monotonic() < until_s:
                chunk = list(islice(self._unsent.values(), EVENTS_MAX))
                response = send(
                    self._transport,
                    "POST",
                    "/api/v1/gate-events/batch",
                    body=encode([_gate_event(each) for each in chunk]),
                    timeout_s=ASK_TIMEOUT_S,
                )
                if response.status in _NO_ROUTE:
                    diagnostics.warn_once(Notice.GATE_EVENTS_UNSENT)
                    self._unsent.clear()
                    return
                try:
                    content(response)
                except LedgerRefused as error:
                    diagnostics.record_error("ledger_refused", error)
                for event in chunk:
                    self._unsent.pop(event.gate_event_id, None)
        except LedgerUnavailable:
            diagnostics.warn_once(Notice.GATE_EVENTS_UNSENT)
            self._report_after_s = time.monotonic() + _REPORT_RETRY_S

    # -- reading

    def state(self, batch: Batch) -> Answer:
        """Answer questions; without any, only check that the backend answers. See `Ledger.state`
        and the module.
        """
        if batch.questions:
            return self._read(batch)
        health = call(self._transport, "GET", "/api/v1/health", timeout_s=ASK_TIMEOUT_S)
        Fields(health, "").text("status")
        return Answer(booked_through=self._booked_for(batch))

    def _booked_for(self, batch: Batch) -> int:
        """Return the number of the last acknowledged batch of a batch's holder."""
        return self._booked if batch.holder == self._holder else 0

    def _read(
        self,
        batch: Batch,
        *,
        counted: frozenset[str] = frozenset(),
        required: frozenset[str] = frozenset(),
    ) -> Answer:
        """Answer the questions of a batch.

        Args:
            batch: The questions.
            counted: As in `Answer`.
            required: Users who are read however long it takes: their events were not counted.
        """
        now_us, reader = _now_us(batch), threading.get_ident()
        with self._lock:
            self._sums.open(batch.questions, now_us)
            in_doubt = self._in_doubt
            touched = self._touched[reader] = set()
        try:
            questions = [each for each in batch.questions if each.user_id not in in_doubt]
            sessions = self._sessions(questions, required)
        finally:
            with self._lock:
                del self._touched[reader]
                # At this moment, sums and number are those of the figures of the remaining users.
                through = self._booked_for(batch)
                sums = {
                    each.user_id: self._sums.read(each, now_us)
                    for each in batch.questions
                    if each.user_id not in touched
                }
        users = {
            question.user_id: answer_about(question, session, sums[question.user_id], now_us)
            for question, session in sessions
            if question.user_id in sums
        }
        return Answer(counted=counted, users=users, booked_through=through)

    def _sessions(
        self, questions: Iterable[Question], required: frozenset[str]
    ) -> list[tuple[Question, PolledSession | None]]:
        """Read the sessions of users in time; None is that of an unknown user."""
        until_s = time.monotonic() + _READ_S
        sessions: list[tuple[Question, PolledSession | None]] = []
        for question in questions:
            if time.monotonic() >= until_s and question.user_id not in required:
                continue
            path = f"/api/v1/users/{_quoted(question.user_id)}/session"
            try:
                given = call(self._lookup, "GET", path, timeout_s=ASK_TIMEOUT_S)
            except _UnknownUser:
                sessions.append((question, None))
            except LedgerRefused:  # an id that this backend does not take must not stop the others
                continue
            else:
                sessions.append((question, read_session(given)))
        return sessions

    def forget_after_fork(self) -> None:
        """Drop the parent's connections, batches and sums; see `Ledger.forget_after_fork`."""
        super().forget_after_fork()
        self._start_over()


# -- requests


def _quoted(user_id: str) -> str:
    """Return a user id as one segment of a path."""
    segment = quote(readable(user_id), safe="")
    # Clients and servers resolve these two segments, as in a folder.
    return segment.replace(".", "%2E") if segment in (".", "..") else segment


def _documented(event: Event) -> dict[str, Any]:
    """Return an event with the fields that a documented server reads."""
    document = event_to_json(event)
    return {name: each for name, each in document.items() if name not in _NOT_DOCUMENTED}


def _gate_event(event: GateEvent) -> dict[str, Any]:
    """Return a gate event with the documented fields; it has no other place for their number."""
    return {
        "id": event.gate_event_id,
        "user_id": event.user_id,
        "session_id": event.session_id or None,
        "timestamp": to_datetime(event.at_us).isoformat(),
        "status": event.status,
        "gate_reason": event.gate_reason or None,
        "usage_pct": event.usage_ppm / 10**6,
        "current_value": float(event.current_value),
        "limit_value": float(event.limit_value),
        "model": event.model or None,
        "blocked": event.blocked,
        "message": event.message or None,
        "metadata": {"calls": event.calls},
    }


def _now_us(batch: Batch) -> int:
    return batch.at_us or time.time_ns() // 1_000
