"""The threads that talk to the ledger, so that no caller has to.

Theory of operation
-------------------
*deliver* reads records back from the journal and settles them with the ledger in few, set-based
batches, within a second of each settlement; only when the ledger has acknowledged a batch does the
journal let it go. With every batch it reads the state of the users that were active, so that what
other processes spent is known within a second too. Before its first batch it makes the ledger
ready; then, every few seconds, it adopts the journals of processes that have died. A record that no
ledger takes is set aside after some tries, so that it does not keep the others waiting.

*ask* answers the first call of a user or session from the ledger's state on a connection of its
own, so that it never queues behind a delivery. The caller waits at most a quarter of a second, then
goes on with what is known; the next delivery brings the state.

Both are daemons, started by the first call that needs them and never at import. A failure of the
ledger is waited out: records stay in the journal and are sent again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.journal.journal import Journal, adopt, unfinished
from paygent.client.journal.segments import Record
from paygent.core.event import Event, decode_end, encode_end, event_from_begin
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    DirectoryRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import Subscription
from paygent.failopen import attempt, diagnostics
from paygent.ledger.port import Ledger, LedgerUnavailable

if TYPE_CHECKING:
    from concurrent.futures import Future

_T = TypeVar("_T")

RECORDS_PER_BATCH_MAX = 1_000
"""Records per transaction: enough to be cheap for the ledger, few enough to acknowledge in a
millisecond or so.
"""

_READY_WAIT_S = (
    0.2  # what a question waits for adopted journals; less than its caller waits for the answer
)
_RETRY_S = 0.5  # pause after the ledger was unavailable
_FLUSH_RETRY_S = 0.05  # the same while somebody waits for it
_REFUSED_MAX = 4  # so often a ledger fails oddly before the record that it chokes on is looked for
_LOOK_S = 5.0  # between two looks for journals of processes that died
_BOOKING_WAIT_S = 0.2  # what a question waits for the delivery of the same user's events
_ROUNDS_MAX = 3  # a plan that was news changes what must be asked: at most so often per question
_IDLE_ROUNDS = 4  # empty rounds before the thread sleeps until it is woken


class Worker:
    """Moves records to the ledger and answers questions about users. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        accounts: Accounts,
        journal: Journal,
        *,
        now_us: Callable[[], int],
        interval_s: float,
        before_round: Callable[[], None] | None = None,
        enabled: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            ledger: Where records go.
            accounts: What the process knows; acknowledged and refreshed here.
            journal: Where records come from.
            now_us: The process's clock.
            interval_s: Longest time between a settlement and its delivery.
            before_round: Called by the delivery thread before each of its rounds.
            enabled: False never starts a thread (Paygent is switched off).
        """
        self._enabled = enabled
        self._ledger = ledger
        self._accounts = accounts
        self._journal = journal
        self._now_us = now_us
        self._interval_s = interval_s
        self._before_round = before_round or _nothing
        self.flushed = 0
        self._renew()

    def _renew(self) -> None:
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._started = False
        self._stopping = False
        self._idle = False
        self._wake = threading.Event()
        self._ready = threading.Event()
        self._round = threading.Condition()
        self._rounds = 0
        self._booking: frozenset[str] = frozenset()
        self._refused = 0
        self._is_away = False
        self._look_for_dead = False
        self._looked_s = time.monotonic()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._asked: dict[tuple[str, str | None], Future[bool]] = {}

    # -- called by anyone

    @property
    def is_running(self) -> bool:
        """Whether the threads have been started and not stopped."""
        return self._started and not self._stopping

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called: nothing is delivered or answered any more."""
        return self._stopping

    def start(self) -> None:
        """Start the threads, once per process."""
        if self._started or not self._enabled:
            return
        with self._starting:
            if self._started or self._stopping or not self._enabled:
                return
            for name, run in (
                ("paygent-deliver", self._deliver_forever),
                ("paygent-ask", self._answer_forever),
            ):
                if any(thread.name == name for thread in self._threads):
                    continue  # started by a call for which the other thread was one too many
                thread = threading.Thread(target=run, name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the process may have no more; the next call tries again
                    diagnostics.warn_once("no_thread", "no thread can be started; events wait")
                    return
                self._threads.append(thread)
            self._started = True

    def nudge(self) -> None:
        """Note that there is something to deliver or refresh; cheap when the thread is awake
        anyway.
        """
        if not self._started:
            self.start()
        if self._idle:
            self._wake.set()

    def wake(self) -> None:
        """Have the next round begin now."""
        self.nudge()
        self._wake.set()

    def ask(self, user: User, session_id: str | None) -> Future[bool]:
        """Have the ledger asked about a user; questions about the same user and session share an
        answer.

        Returns:
            A future that is True once the state is in the accounts, False when it cannot be had
            now.
        """
        from concurrent.futures import Future  # 8 ms, at the first question and not at import

        self.start()
        key = (user.user_id, session_id)
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = Future()
            self._jobs.put(partial(self._answer_ask, user, session_id, future))
        return future

    def read(self, reading: Callable[[Ledger], _T]) -> Future[_T]:
        """Have something read from the ledger, on the asking thread and its connection.

        Returns:
            A future with what `reading` returned, or with the `LedgerUnavailable` that it raised.
        """
        from concurrent.futures import Future

        self.start()
        future: Future[_T] = Future()
        self._jobs.put(partial(self._answer_read, reading, future))
        return future

    def flush(self, timeout_s: float, *, gives_up: bool = False) -> bool:
        """Deliver everything that was appended before this call, waiting for it.

        Args:
            timeout_s: Longest wait.
            gives_up: Whether a ledger that is not available now ends the wait.

        Returns:
            Whether the ledger has it all; False when the time was not enough.
        """
        self.start()
        if not self._started or self._stopping:
            return not self._journal.has_unread
        deadline = time.monotonic() + timeout_s
        with self._round:
            # The round that is under way may have read the journal before our caller's last record.
            wanted = self._rounds + 2
        self._look_for_dead = True
        mark = self._journal.mark()

        def is_delivered() -> bool:
            if self._rounds < wanted:
                self._wake.set()  # do not wait between these two
                return False
            return self._journal.has_reached(mark)

        while True:
            self._wake.set()
            left_s = max(deadline - time.monotonic(), 0.0)
            with self._round:
                if self._round.wait_for(is_delivered, min(left_s, _FLUSH_RETRY_S)):
                    return True
            if left_s <= 0 or (gives_up and self._is_away and self._rounds >= wanted):
                return False

    def stop(self, timeout_s: float) -> bool:
        """Deliver what there is, within a time, and end the threads.

        Returns:
            Whether the threads have ended, so that what they used can be closed.
        """
        deadline = time.monotonic() + timeout_s
        if self._threads and not self._stopping:
            self.flush(timeout_s)
        self._stopping = True
        self._wake.set()
        self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0.05))
        return not any(thread.is_alive() for thread in self._threads)

    def renew_after_fork(self) -> None:
        """Forget the parent's threads; the child's first call starts its own."""
        self._renew()
        self.flushed = 0

    # -- the delivering thread

    def _deliver_forever(self) -> None:
        pid = os.getpid()
        while not self._stopping and pid == os.getpid():
            if attempt("open_ledger", self._make_ready):
                break
            self._finish_round()
            self._wake.wait(_RETRY_S)
            self._wake.clear()
        empty = 0
        while not self._stopping and pid == os.getpid():
            worked = attempt("deliver", self._deliver_round)
            self._finish_round()
            empty = 0 if worked else empty + 1
            if empty < _IDLE_ROUNDS:
                self._wake.wait(self._interval_s)
            else:
                self._idle = True
                if self._journal.calls_in_flight:
                    self._wake.wait(self._interval_s)  # a dropped stream wakes nobody
                elif not self._journal.has_unread:
                    self._wake.wait()
                self._idle = False
                empty = 0
            self._wake.clear()

    def _finish_round(self) -> None:
        with self._round:
            self._rounds += 1
            self._round.notify_all()

    def _make_ready(self) -> bool:
        """Open the ledger and adopt what dead processes left; False when the ledger is not
        available.
        """
        try:
            self._ledger.open()
            self._adopt()
        except LedgerUnavailable as error:
            diagnostics.warn_once(
                "ledger_unavailable",
                "the ledger is not available (%s); events wait in the journal",
                error,
            )
            self._is_away = True
            return False
        self._ready.set()
        return True

    def _adopt(self) -> None:
        """Take over what dead processes left.

        Raises:
            LedgerUnavailable: if the ledger could not book it now; any other failure is counted and
                leaves the rest to the next start.
        """
        folder = self._journal.folder
        if folder is None:
            return
        unavailable: list[LedgerUnavailable] = []

        def adopt_all() -> None:
            try:
                adopt(folder, deliver=self._deliver_dead)
            except LedgerUnavailable as error:
                unavailable.append(error)

        attempt("adopt", adopt_all)
        if unavailable:
            raise unavailable[0]

    def _adopt_now_and_then(self) -> None:
        """Look for journals of processes that died meanwhile, every few seconds and when somebody
        waits for a delivery.
        """
        now_s = time.monotonic()
        if self._look_for_dead or now_s - self._looked_s >= _LOOK_S:
            self._look_for_dead, self._looked_s = False, now_s
            try:
                self._adopt()
            except LedgerUnavailable:
                pass  # the round's own batch says so

    def _deliver_dead(self, records: list[Record]) -> None:
        """Settle the records of a process that died; its calls in flight as estimated."""
        begun = (
            attempt("event_record", event_from_begin, record) for record in unfinished(records)
        )
        events = [*_events(records), *(event for event in begun if event is not None)]
        self._settle(Batch(directory=tuple(_directory(records)), at_us=self._now_us()))
        for start in range(0, len(events), RECORDS_PER_BATCH_MAX):
            part = tuple(events[start : start + RECORDS_PER_BATCH_MAX])
            self._settle(Batch(events=part, at_us=self._now_us()))

    def _settle(self, batch: Batch) -> Answer:
        """Settle a batch with the ledger; what it cannot take at all is set aside, loudly.

        Raises:
            LedgerUnavailable: if it could not be booked now.
        """
        try:
            return self._ledger.settle(batch)
        except LedgerUnavailable:
            raise
        except Exception as error:
            self._refused += 1
            if self._refused < _REFUSED_MAX:  # it may have been an accident
                raise
            diagnostics.record_error("ledger_refused", error)
        # One record of many; it must not keep the others from being booked.
        events, directory = batch.events, batch.directory
        if len(events) + len(directory) <= 1:
            for record in (*events, *directory):
                attempt("set_aside", self._journal.quarantine, {"refused": str(record)})
            return self._ledger.settle(Batch((), (), batch.questions, batch.at_us))
        counted: frozenset[str] = frozenset()
        for half in (slice(None, (len(events) + 1) // 2), slice((len(events) + 1) // 2, None)):
            counted |= self._settle(Batch(events[half], (), (), batch.at_us)).counted
        for record in directory:
            self._settle(Batch((), (record,), (), batch.at_us))
        answer = self._ledger.settle(Batch((), (), batch.questions, batch.at_us))
        return Answer(counted, answer.users, answer.plans)

    def _deliver_round(self) -> bool:
        """Deliver everything there is; return whether there was anything to do."""
        worked = False
        self._before_round()
        while not self._stopping or self._journal.has_unread:
            self._adopt_now_and_then()
            self._journal.maintain()
            records = self._journal.take(RECORDS_PER_BATCH_MAX)
            events = _events(records)
            now_us = self._now_us()
            questions = self._accounts.sync.take_active_users(
                {event.user_id for event in events}, now_us
            )
            if not records and not questions:
                self._journal.delivered()  # a segment that was read to its end may go
                if self._journal.requeue_lost(self._undelivered):
                    continue
                return worked
            directory = tuple(_directory(records))
            if not self._book(Batch(tuple(events), directory, questions, now_us)):
                return True
            self._note_recorded(directory)
            self.flushed += len(events)
            worked = True
            if len(records) < RECORDS_PER_BATCH_MAX:
                return worked
            # A busy process may never be without a backlog; who waits, waits for two batches of it.
            self._finish_round()
        return worked

    def _undelivered(self) -> list[bytes]:
        return [encode_end(event) for event in self._accounts.sync.pending_events()]

    def _book(self, batch: Batch) -> bool:
        """Settle what was just taken from the journal, and acknowledge it; false if the ledger is
        not available.
        """
        self._booking = frozenset(event.user_id for event in batch.events)
        is_known = False
        try:
            answer = self._settle(batch)
            self._refused = 0
            self._is_away = False
            self._journal.delivered()
            self._accounts.sync.acknowledge(batch.events, answer, batch.at_us)
            is_known = True
        except LedgerUnavailable as error:
            diagnostics.warn_once(
                "ledger_unavailable",
                "the ledger is not available (%s); events wait in the journal",
                error,
            )
            self._is_away = True
        finally:
            for question in () if is_known else batch.questions:
                self._touch_again(question.user_id)
            with self._round:
                self._booking = frozenset()
                self._round.notify_all()
        return is_known

    def _touch_again(self, user_id: str) -> None:
        user = self._accounts.registry.users.get(user_id)
        if user is not None:
            user.is_active = True

    def _note_recorded(self, directory: Iterable[DirectoryRecord]) -> None:
        for record in directory:
            if isinstance(record, PlanRecord):
                self._accounts.registry.confirm_recorded("plan:" + record.name)
            elif isinstance(record, AssignRecord):
                self._accounts.registry.confirm_recorded("user:" + record.user_id)

    # -- the asking thread

    def _answer_forever(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            self._ready.wait(_READY_WAIT_S)
            attempt("ask", job)

    def _answer_ask(self, user: User, session_id: str | None, future: Future[bool]) -> None:
        known = attempt("ask", self._answer, user, session_id)
        self._asked.pop((user.user_id, session_id), None)
        future.set_result(bool(known))

    def _answer_read(self, reading: Callable[[Ledger], Any], future: Future[Any]) -> None:
        try:
            future.set_result(reading(self._ledger))
        except Exception as error:  # whatever it is, it belongs to the caller, who waits for it
            future.set_exception(error)

    def _answer(self, user: User, session_id: str | None) -> bool:
        for _ in range(_ROUNDS_MAX):
            with self._round:
                # Between the ledger's commit and our acknowledgement a user's events are in both
                # places; figures read then would count them twice.
                self._round.wait_for(lambda: user.user_id not in self._booking, _BOOKING_WAIT_S)
            now_us = self._now_us()
            deliveries = self._accounts.sync.deliveries
            question = self._accounts.sync.question(
                self._accounts.registry.user(user.user_id, now_us), session_id, now_us
            )
            try:
                answer: Answer = self._ledger.state((question,), now_us)
            except LedgerUnavailable:
                return False
            if user.user_id in self._booking:
                continue
            if self._accounts.sync.apply_answer(answer, now_us, as_of=deliveries) and user.known:
                return True
        return user.known


def _nothing() -> None:
    """Stand for what is done before a round, where nobody asked for anything."""


def _events(records: Iterable[Record]) -> list[Event]:
    """Return the events among records; one that cannot be read is counted and left out."""
    ends = (
        attempt("event_record", decode_end, record)
        for record in records
        if record.get("k") == "end"
    )
    return [event for event in ends if event is not None]


def _directory(records: Iterable[Record]) -> list[DirectoryRecord]:
    """Return the directory records among records, in order."""
    found = (attempt("directory_record", _read_directory, record) for record in records)
    return [record for record in found if record is not None]


def _read_directory(record: Record) -> DirectoryRecord | None:
    kind = record.get("k")
    if kind == "plan":
        return PlanRecord(str(record["name"]), dict(record["document"]), int(record["at"]))
    if kind == "assign":
        period = record.get("period")
        return AssignRecord(
            str(record["user"]),
            str(record["plan"]),
            record.get("own"),
            Subscription(*period) if period else None,
            int(record["at"]),
            bool(record.get("keeps", False)),
        )
    if kind == "session":
        return SessionRecord(*record["session"])
    if kind == "prices":
        return PriceRecord(str(record["id"]), dict(record["document"]), int(record["at"]))
    return None


def directory_record(record: DirectoryRecord) -> dict[str, Any]:
    """Return a directory record as the journal keeps it; `_read_directory` reads it back."""
    if isinstance(record, PlanRecord):
        return {"k": "plan", "name": record.name, "document": record.document, "at": record.at_us}
    if isinstance(record, AssignRecord):
        return {
            "k": "assign",
            "user": record.user_id,
            "plan": record.plan,
            "own": record.own,
            "period": list(record.subscription) if record.subscription else None,
            "at": record.at_us,
            "keeps": record.keeps,
        }
    if isinstance(record, PriceRecord):
        return {
            "k": "prices",
            "id": record.price_id,
            "document": record.document,
            "at": record.at_us,
        }
    return {"k": "session", "session": list(record)}
