"""The ledger of a process with a backend: the backend's, or the host's own while that is away.

Theory of operation
-------------------
Batches go to the backend. Where it has not answered for `OUTAGE_AFTER_S`, the local store takes
them (`store/outage.py`): memory stays bounded, a restarted process knows what was spent, and the
processes of the host see each other. Its answers are provisional: the backend's last figures plus
what was booked here since. From then on the backend is tried now and then; when it answers, the
outbox is sent to it in order, and with the last record the outage ends, for all processes of the
host at once. An event that got through in spite of a lost answer is sent again and counts once.

Without a local store (`:memory:`, a disk that is full) batches wait in the journal instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from paygent.core.event import Event
from paygent.core.messages import (
    Answer,
    Batch,
    BookedEvent,
    Known,
    LedgerRecord,
    is_for_backend,
)
from paygent.core.report import SpendReport
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable, TableKind
from paygent.failopen import diagnostics
from paygent.ledger.backend import BackendLedger
from paygent.ledger.backoff import Backoff
from paygent.ledger.local import as_unavailable
from paygent.ledger.port import LedgerRefused, LedgerUnavailable
from paygent.store.outage import OutageEnded, OutageStore
from paygent.store.port import StoreUnavailable

OUTAGE_AFTER_S = 5.0
"""How long the backend has to be away before the local store takes the events."""

_FIRST_RETRY_S = 0.5
_RETRY_MAX_S = 5.0
_RETRY_AFTER_MAX_S = 60.0  # a server that asks for more may be back sooner
_SENT_AT_ONCE = 1_000  # records of the outbox in one request
_SEND_S = 2.0  # the process's own batches wait for so long while the outbox is sent

Quarantine = Callable[[dict[str, Any]], None]


class ConnectedLedger:
    """Adapter of `Ledger` over a backend and a local store.

    Attributes:
        is_urgent: Returns whether somebody waits for the delivery, as at the end of the process:
            then the local store takes what the backend does not, at once.
        known: Returns what the process knows from the backend, when an outage begins.
        quarantine: Keeps a record of the outbox that the backend refuses.
        sent_events: Events of the outbox that this process has sent.
        unsent_events: Events of this host that were in the outbox a moment ago.
    """

    keeps_plans = True

    def __init__(
        self,
        remote: BackendLedger,
        outages: OutageStore | None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over both.

        Args:
            remote: The backend.
            outages: The local store; None has none.
            now_s: The clock of outages.
        """
        self._remote = remote
        self._outages = outages
        self._now_s = now_s
        self.heartbeat_s = remote.heartbeat_s
        self.is_urgent: Callable[[], bool] = lambda: False
        self.known: Callable[[], Known | None] = lambda: None
        self.quarantine: Quarantine = lambda _: None
        self._start_over()

    def _start_over(self) -> None:
        self._backoff = Backoff(_FIRST_RETRY_S, _RETRY_MAX_S, now_s=self._now_s)
        self._outage: int | None = None  # number of the one that is running
        self._ended: int | None = None  # number of one to be swept away
        self.sent_events = self.unsent_events = 0
        self._through = 0  # the last batch that the backend has acknowledged

    @property
    def is_polling(self) -> bool:
        """Whether the backend has the documented routes alone."""
        return self._remote.is_polling

    @property
    def is_away(self) -> bool:
        """Whether the local store takes the place of the backend."""
        return self._outage is not None

    def open(self) -> None:
        """Join an outage that is running on this host, else connect; begin one if the backend has
        been away since the start. See `Ledger.open`.
        """
        self._join()
        if self._outage is not None:
            return
        self._backoff.start()
        try:
            self._remote.open()
        except LedgerUnavailable as error:
            self._note_away(error)
            return
        with suppress(StoreUnavailable):
            self._ended = None if self._outages is None else self._outages.ended()

    def _join(self) -> None:
        """Join an outage that another process of this host has begun."""
        if self._outages is None or self._outage is not None:
            return
        running: int | None = None
        with suppress(StoreUnavailable):  # without it, batches wait in the journal
            running = self._outages.running()
        if running is not None:
            self._begin(self._outages)

    # -- booking

    def settle(self, batch: Batch) -> Answer:
        """Book a batch; see `Ledger.settle`."""
        self._join()
        if self._outage is None:
            self._backoff.start()
            try:
                return self._settle_there(batch)
            except LedgerUnavailable as error:
                self._note_away(error)
        return self._settle_here(batch)

    def _note_away(self, error: LedgerUnavailable) -> None:
        """Begin an outage; raise what the backend has failed with, if it is too soon for one."""
        self._backoff.fail(error.retry_after_s)
        is_too_soon = self._backoff.failing_s < OUTAGE_AFTER_S and not self.is_urgent()
        if self._outages is None or is_too_soon:
            raise error
        try:
            self._begin(self._outages)
        except LedgerUnavailable:
            raise error from None  # what is wrong with the backend comes first

    def _settle_there(self, batch: Batch) -> Answer:
        sent = tuple(record for record in batch.records if is_for_backend(record))
        answer = self._remote.settle(replace(batch, records=sent))
        self._backoff.succeed()
        self._through = max(self._through, answer.booked_through)
        self._sweep()
        return answer

    def _begin(self, outages: OutageStore) -> None:
        """Begin or join an outage, with what the process knows from the backend."""
        with as_unavailable():
            self._outage = outages.begin(self.known())

    def _settle_here(self, batch: Batch) -> Answer:
        """Book a batch in the local store, unless the outage has ended by now."""
        number, outages = self._outage, self._outages
        assert number is not None  # the callers have begun an outage
        assert outages is not None
        if self._backoff.wait_s == 0 and self._send(outages, number, batch.at_us):
            return self._settle_there(batch)
        try:
            with as_unavailable():
                answer = outages.settle(number, batch)
                self.unsent_events = outages.unsent_events()
        except OutageEnded:  # another process has sent everything
            self._end(number)
            return self._settle_there(batch)
        return self._as_ours(answer)

    def _as_ours(self, answer: Answer) -> Answer:
        """Return a provisional answer with the batches that the backend had before the outage."""
        through = max(answer.booked_through, self._through)
        return replace(answer, booked_through=through)

    # -- sending what was kept

    def _send(self, outages: OutageStore, number: int, at_us: int) -> bool:
        """Try the backend, and send it the outbox; return whether the outage is over."""
        try:
            self._remote.state(Batch())  # before anything is taken for sent
            until_s = self._now_s() + _SEND_S
            while True:
                with as_unavailable():
                    unsent = outages.unsent(_SENT_AT_ONCE)
                    if not unsent.records and outages.end(number):
                        self._end(number)
                        return True
                if self._now_s() >= until_s:
                    return False
                self._send_records(unsent.records, at_us)
                self._backoff.succeed()
                with as_unavailable():
                    outages.drop_sent(unsent.last_row)
        except LedgerUnavailable as error:
            self._backoff.fail(min(error.retry_after_s or 0.0, _RETRY_AFTER_MAX_S))
            return False

    def _send_records(self, records: list[Event | LedgerRecord], at_us: int) -> None:
        """Send records to the backend; one that it refuses is quarantined."""
        events = tuple(each for each in records if isinstance(each, Event))
        others = tuple(each for each in records if not isinstance(each, Event))
        try:
            self._remote.settle(Batch(events=events, records=others, at_us=at_us))
        except LedgerRefused as error:
            if len(records) == 1:
                diagnostics.record_error("ledger_refused", error)
                self.quarantine({"refused": str(records[0])})
                return
            middle = (len(records) + 1) // 2
            for half in (records[:middle], records[middle:]):
                self._send_records(half, at_us)
        else:
            self.sent_events += len(events)

    def _end(self, number: int) -> None:
        self._outage, self._ended, self.unsent_events = None, number, 0
        self._backoff.succeed()

    def _sweep(self) -> None:
        """Delete a part of what an outage has left in the local store."""
        if self._ended is None or self._outages is None:
            return
        with suppress(StoreUnavailable):  # otherwise later
            self._ended = self._ended if self._outages.sweep(self._ended) else None

    # -- reading

    def state(self, batch: Batch) -> Answer:
        """Answer questions; see `Ledger.state`."""
        number, outages = self._outage, self._outages
        if number is None or outages is None:
            return self._remote.state(batch)
        try:
            with as_unavailable():
                return self._as_ours(outages.state(number, batch))
        except OutageEnded:  # the next batch will go to the backend, too
            return self._remote.state(batch)

    def report(self, request: SpendRequest) -> SpendReport:
        """Return usage and cost; see `Ledger.report`."""
        return self._remote.report(request)

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return another report; see `Ledger.table`."""
        return self._remote.table(kind, request)

    def event(self, event_id: str) -> BookedEvent | None:
        """Return an event; see `Ledger.event`."""
        return self._remote.event(event_id)

    # -- life

    def close(self) -> None:
        """Close both; see `Ledger.close`."""
        self._remote.close()
        if self._outages is not None:
            self._outages.close()

    def pause_for_fork(self) -> None:
        """Close what a child must not inherit; see `Ledger.pause_for_fork`."""
        self._remote.pause_for_fork()
        if self._outages is not None:
            self._outages.pause_for_fork()

    def resume_after_fork(self) -> None:
        """Continue in the parent; see `Ledger.resume_after_fork`."""
        self._remote.resume_after_fork()
        if self._outages is not None:
            self._outages.resume_after_fork()

    def forget_after_fork(self) -> None:
        """Drop the parent's connections; see `Ledger.forget_after_fork`."""
        self._remote.forget_after_fork()
        if self._outages is not None:
            self._outages.forget_after_fork()
        self._start_over()
