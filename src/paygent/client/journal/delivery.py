"""The delivering thread: moves records from the journal to the ledger, so that no caller has to.

Theory of operation
-------------------
*deliver* reads records back from the journal and settles them with the ledger in set-based batches,
within a second of each settlement; the journal releases a batch only when the ledger has
acknowledged it. Each batch also reads the state of the users that were active, so that the spend of
other processes is known within a second too, in rolling windows within the refresh interval. A
batch without an answer is in doubt: it is sent again unchanged, under its number, until there is
one. Before its first batch the thread opens the ledger; then, every few seconds and also while
nothing is called, it adopts the journals of dead processes. A round without records or questions
does not reach the ledger, except where that expects a heartbeat. A record that the ledger rejects
is quarantined, so that it does not hold up the others.

*ask* (`refresh`) answers questions about users on a connection of its own.

Both are daemons, started by the first call that needs them and never at import. While the ledger is
unavailable, records stay in the journal and are sent again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from paygent.client.accounts.ledger_sync import QUESTIONS_MAX
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.journal.codec import decode
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt
from paygent.client.journal.refresh import UserRefresh
from paygent.client.journal.segments import Record
from paygent.client.runtime.lifecycle import may_start_threads
from paygent.client.runtime.locks import Wakeup
from paygent.client.runtime.settings import FIRST_TOUCH_WAIT_S
from paygent.core.event import encode_event
from paygent.core.messages import (
    Answer,
    AssignRecord,
    Batch,
    DefaultPlanRecord,
    LedgerRecord,
    PlanRecord,
    Question,
    is_for_backend,
)
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics
from paygent.ledger.backoff import Backoff
from paygent.ledger.port import (
    Ledger,
    LedgerBusy,
    LedgerRefused,
    LedgerUnauthorised,
    LedgerUnavailable,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

_T = TypeVar("_T")
_Outcome = Answer | LedgerUnavailable | LedgerRefused

_RETRY_MAX_S = 5.0  # longest pause while the ledger is unavailable; the first is half a second
_RETRY_S = 0.5
OFFLINE_AFTER_S = 5.0
"""After so long without an answer `when_offline` applies to known users, too."""
_FLUSH_RETRY_S = 0.05  # the same while a caller waits in `flush`
_BUSY_PATIENCE_S = 5.0  # transactions take milliseconds; a lock that lasts longer is logged
_BUSY_GAP_S = 2.0  # two locks further apart than this are not the same one
_REFUSED_MAX = 4  # failures in a row, other than unavailability, before the bad record is searched
_ADOPT_EVERY_S = 5.0  # between two searches for journals of dead processes
_IDLE_ROUNDS = 4  # empty rounds before the thread sleeps until it is woken, or for
_IDLE_WAIT_S = 2.0  # so long: hooks may be displaced, and processes die, while nothing is called


class _Sending(NamedTuple):
    """A batch on its way.

    Attributes:
        batch: It is sent until it is answered.
        others: Its ledger records, and those that the ledger is not sent.
        unreadable: Records that this version cannot read, and that are quarantined with it.
        is_full: Whether there was more to send than a batch has room for.
    """

    batch: Batch
    others: list[LedgerRecord]
    unreadable: list[Record]
    is_full: bool


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
        max_batch_size: int,
        before_round: Callable[[], None] = lambda: None,
        write_waiting: Callable[[], bool] = lambda: True,
        enabled: bool = True,
    ) -> None:
        """Store the parts; the threads start with the first call.

        Args:
            now_us: The process's clock.
            interval_s: Longest time between a settlement and its delivery.
            max_batch_size: Events per batch, at most.
            before_round: Called by the delivery thread before each of its rounds.
            write_waiting: Writes what waits outside of the journal into it; returns False if the
                journal has no room for all of it.
            enabled: False never starts a thread (Paygent is switched off).
        """
        self._enabled = enabled
        self._max_batch_size = max_batch_size
        self._refresh = UserRefresh(ledger, accounts, now_us, lambda: journal.owner)
        self._ledger = ledger
        self._accounts = accounts
        self._journal = journal
        self._now_us = now_us
        self._interval_s = interval_s
        self._before_round = before_round
        self._write_waiting = write_waiting
        self._is_ending = False
        self._stopping = False  # also stays True in a child of a process that has stopped
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's threads; the child's first call starts its own."""
        self._refresh.renew_after_fork()
        self.flushed = 0
        # A signal handler of the application may begin a call while its thread starts these.
        self._starting = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._started = False
        self._idle = False
        self.needs_nudge = True  # whether `nudge` would do anything
        self._wake = Wakeup()
        self._rounds = 0
        self._flushing: list[Wakeup] = []  # set after each round
        self._refused = 0
        self._sending: _Sending | None = None
        self._has_own_plans = False  # whether the application has made plans or assignments
        self._number = 0  # of the last batch
        self._sent_s = -inf  # when the ledger last had one
        self._backoff = Backoff(_RETRY_S, _RETRY_MAX_S, due_after_s=OFFLINE_AFTER_S)
        self._is_away = False
        self._cut_off_s = inf  # since when the ledger has not answered itself
        self._tried_s = -inf  # when the last batch was sent
        self._busy_since_s = self._busy_s = -inf  # first and last of the locks in a row
        self._adopt_soon = False
        self._adopted_s = time.monotonic()

    # -- called by anyone

    @property
    def is_running(self) -> bool:
        """Whether the threads have been started and not stopped."""
        return self._started and not self._stopping

    @property
    def is_ending(self) -> bool:
        """Whether the rest is being delivered, before the end."""
        return self._is_ending

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called, so nothing is delivered or answered any more."""
        return self._stopping

    def start(self) -> None:
        """Start the threads, once per process."""
        if self._started or not self._enabled:
            return
        if not may_start_threads():
            diagnostics.warn_once(Notice.NO_THREADS_IN_UWSGI)
            return
        with self._starting:
            if self._started or self._stopping or not self._enabled:
                return
            bodies = {"paygent-deliver": self._deliver_forever, "paygent-ask": self._refresh.run}
            for name, run in bodies.items():
                if any(thread.name == name for thread in self._threads):
                    continue  # an earlier call started it and could not start the other
                thread = threading.Thread(target=run, name=name, daemon=True)
                self._threads.append(thread)  # before it runs: a signal handler finds it
                try:
                    thread.start()
                except BaseException as error:  # the next call tries again
                    if thread.ident is None:
                        self._threads.remove(thread)
                    if not isinstance(error, RuntimeError):
                        raise
                    diagnostics.warn_once(Notice.NO_THREAD)  # the process has no threads left
                    return
            # In a handler, the thread that it has interrupted the start of does not run yet.
            self._started = all(thread.ident is not None for thread in self._threads)
            self.needs_nudge = not self._started

    def nudge(self) -> None:
        """Signal that there is something to deliver or refresh; cheap while the thread is awake."""
        if not self._started:
            self.start()
        if self._idle:
            self._wake.set()

    def wake(self) -> None:
        """Start the next round now."""
        self.nudge()
        self._wake.set()

    def ask(
        self, user: User, session_id: str | None, wait_s: float = FIRST_TOUCH_WAIT_S
    ) -> Future[bool]:
        """Ask the ledger about a user, for a caller who waits so long; the future is True once the
        state is in the accounts, False if it is not available now.
        """
        self.start()
        if not self._started:
            return self._refresh.no_answer()
        return self._refresh.ask(user, session_id, wait_s)

    def refresh_soon(self, user: User, session_id: str | None) -> None:
        """Read a user's state from the ledger in the background, unless many others are waiting."""
        self.start()
        if self._started:
            self._refresh.refresh_soon(user, session_id)

    def read(self, reading: Callable[[Ledger], _T]) -> Future[_T]:
        """Return the result of a reading, or its exception, from a thread of its own."""
        self.start()
        return self._refresh.read(reading) if self._started else self._refresh.no_reading()

    def flush(self, timeout_s: float, *, gives_up: bool = False) -> bool:
        """Deliver everything that was appended before this call; False if the ledger does not have
        it in time. With `gives_up` an unavailable ledger, but not a busy one, ends the wait.
        """
        self.start()
        if not self._started or self._stopping:
            return not self._journal.has_unread
        deadline = time.monotonic() + timeout_s
        # The current round may have read the journal before the caller's last record.
        wanted = self._rounds + 2
        self._adopt_soon = True
        is_complete = self._write_waiting()
        mark = self._journal.mark()
        round_ended = Wakeup()
        self._flushing.append(round_ended)
        try:
            while self._rounds < wanted or not (is_complete and self._journal.has_reached(mark)):
                if not is_complete and self._journal.has_reached(mark):
                    is_complete, mark = self._write_waiting(), self._journal.mark()
                left_s = deadline - time.monotonic()
                if left_s <= 0 or (gives_up and self._is_away and self._rounds >= wanted):
                    return False
                self._wake.set()
                round_ended.wait(min(left_s, _FLUSH_RETRY_S))
        finally:
            self._flushing.remove(round_ended)
        return True

    def stop(self, timeout_s: float) -> bool:
        """Deliver the rest, within a time, and end the threads; return whether they have ended, so
        that journal and ledger can be closed.
        """
        deadline = time.monotonic() + timeout_s
        self._is_ending = True
        if self._threads and not self._stopping:
            self.flush(timeout_s, gives_up=True)
        self._stopping = True
        self._wake.set()
        self._refresh.stop()
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0.05))
        return not any(thread.is_alive() for thread in self._threads)

    # -- the delivering thread

    def _deliver_forever(self) -> None:
        pid = os.getpid()
        while not self._stopping and pid == os.getpid():
            attempt("deliver", self._before_round)
            if attempt("open_ledger", self._make_ready):
                break
            self._finish_round()
            self._wake.wait(max(self._backoff.wait_s, _FLUSH_RETRY_S))
        empty = 0
        while not self._stopping and pid == os.getpid():
            worked = attempt("deliver", self._deliver_round)
            self._finish_round()
            empty = 0 if worked else empty + 1
            if empty < _IDLE_ROUNDS:
                self._wake.wait(max(self._interval_s, self._backoff.wait_s))
            else:
                self._idle = self.needs_nudge = True
                # A dropped stream wakes no thread.
                in_flight = self._accounts.registry.calls_in_flight
                pause_s = self._interval_s if in_flight else self._idle_s
                if self._journal.has_unread or self._wake.wait(pause_s):
                    empty = 0
                self._idle = self.needs_nudge = False

    def _finish_round(self) -> None:
        self._rounds += 1
        for flushing in tuple(self._flushing):
            flushing.set()

    def _make_ready(self) -> bool:
        """Open the ledger and adopt dead processes' journals; False if it is unavailable."""
        try:
            self._ledger.open()
        except LedgerUnavailable as error:
            self._note_away(error)
            return False
        self._is_away = False  # as far as this shows; whether it takes batches, the next one does
        is_ready = self._adopt()
        if is_ready:
            self._refresh.ready.set()
        return is_ready

    def _note_away(self, error: LedgerUnavailable) -> None:
        """Note that the ledger is unavailable, and log it; a lock only once it has lasted."""
        now_s = time.monotonic()
        if isinstance(error, LedgerBusy):
            # Processes that start together, or deliver at once, wait for each other.
            if now_s - self._busy_s > _BUSY_GAP_S:
                self._busy_since_s = now_s
            self._busy_s = now_s
            if now_s - self._busy_since_s < _BUSY_PATIENCE_S:
                return
        self._is_away = True
        self._backoff.fail(error.retry_after_s)
        self._note_cut_off(now_s - self._backoff.failing_s)
        if isinstance(error, LedgerUnauthorised):
            diagnostics.warn_once(Notice.BACKEND_UNAUTHORISED, error)
        else:
            diagnostics.warn_once(Notice.LEDGER_UNAVAILABLE, error)

    def _note_there(self, answer: Answer) -> None:
        self._is_away, self._busy_s = False, -inf
        self._backoff.succeed()
        if answer.is_provisional:
            self._note_cut_off(self._tried_s)
            return
        self._cut_off_s = inf
        self._accounts.note_answered()
        if self._has_own_plans:
            self._has_own_plans = False
            diagnostics.warn_once(Notice.BACKEND_KEEPS_PLANS)

    def _note_cut_off(self, since_s: float) -> None:
        """Note that the ledger does not answer; after some seconds `when_offline` applies."""
        self._cut_off_s = min(self._cut_off_s, since_s)
        is_offline = time.monotonic() - self._cut_off_s >= OFFLINE_AFTER_S
        self._accounts.note_failing(is_offline=is_offline)

    @property
    def _idle_s(self) -> float:
        heartbeat_s = self._ledger.heartbeat_s
        return _IDLE_WAIT_S if heartbeat_s is None else min(heartbeat_s, _IDLE_WAIT_S)

    def _adopt(self) -> bool:
        """Take over the journals of dead processes; False if the ledger is unavailable."""
        self._adopt_soon, self._adopted_s = False, time.monotonic()
        # Any other failure is counted and leaves that journal to the next search.
        return attempt("adopt", self._adopt_folder) is not False

    def _adopt_folder(self) -> bool:
        try:
            if self._journal.folder is not None:
                adopt(
                    self._journal.folder,
                    deliver=self._deliver_dead,
                    deliver_unfinished=lambda begins: self._deliver_dead((), begins),
                )
        except LedgerUnavailable as error:
            self._note_away(error)
            return False
        return True

    def _deliver_dead(self, records: Iterable[Record], begins: Iterable[Record] = ()) -> None:
        """Settle records of a dead process; its calls in flight as estimated."""
        events, others, unreadable = decode(records, unfinished=begins)
        if others:
            self._settle(Batch(records=tuple(others), at_us=self._now_us()))
        for start in range(0, len(events), self._max_batch_size):
            part = tuple(events[start : start + self._max_batch_size])
            self._settle(Batch(events=part, at_us=self._now_us()))
        self._quarantine({"unreadable": record} for record in unreadable)

    def _settle(self, batch: Batch) -> Answer:
        """Settle a batch with the ledger; a record that it rejects is quarantined and logged: one
        that it refuses at once, another after some tries.
        """
        if self._refused < _REFUSED_MAX - 1:
            self._refused += 1  # if it raises, perhaps by accident: the same batch is sent again
            outcome: _Outcome | None = self._settle_or_return(batch)
            self._refused -= 1
        else:
            outcome = attempt("ledger_refused", self._settle_or_return, batch)
        if isinstance(outcome, LedgerUnavailable):
            raise outcome
        if isinstance(outcome, Answer):
            return outcome
        if outcome is not None:
            diagnostics.record_error("ledger_refused", outcome)
        return self._settle_in_parts(batch)

    def _settle_or_return(self, batch: Batch) -> _Outcome:
        """Settle, returning what is expected, so that `attempt` swallows only what it should."""
        try:
            return self._ledger.settle(batch)
        except (LedgerUnavailable, LedgerRefused) as error:
            return error

    def _settle_in_parts(self, batch: Batch) -> Answer:
        """Settle a rejected batch without its questions; then these, if they are not the reason."""
        answer = self._settle_records(replace(batch, questions=(), number=0))
        if not (batch.questions or batch.number):
            return answer
        rest = replace(batch, events=(), records=())
        try:
            answered = self._ledger.settle(rest)
        except LedgerRefused as error:
            diagnostics.record_error("ledger_refused", error)
            answered = self._ledger.settle(replace(rest, questions=()))
        return replace(answered, counted=answer.counted)

    def _settle_records(self, batch: Batch) -> Answer:
        """Settle the records of a rejected batch, in halves, down to one that is rejected."""
        events, others = batch.events, batch.records
        if len(events) + len(others) <= 1:
            outcome = attempt("ledger_refused", self._settle_or_return, batch)
            if isinstance(outcome, LedgerUnavailable):
                raise outcome
            if isinstance(outcome, Answer):
                return outcome
            self._quarantine({"refused": str(record)} for record in (*events, *others))
            return Answer()
        counted: frozenset[str] = frozenset()
        middle = (len(events) + 1) // 2
        for half in (events[:middle], events[middle:]):
            if half:
                counted |= self._settle(replace(batch, events=half, records=())).counted
        middle = (len(others) + 1) // 2
        for other_half in (others[:middle], others[middle:]):
            if other_half:
                self._settle(replace(batch, events=(), records=other_half))
        return Answer(counted=counted)

    def _quarantine(self, records: Iterable[Record]) -> None:
        for record in records:
            attempt("quarantine", self._journal.quarantine, record)

    def _deliver_round(self) -> bool:
        """Deliver everything unread; return whether there was anything to do."""
        worked = False
        while not self._stopping or self._journal.has_unread:
            self._before_round()
            self._write_waiting()  # also while there is a backlog
            if self._adopt_soon or time.monotonic() - self._adopted_s >= _ADOPT_EVERY_S:
                self._adopt()
            self._journal.maintain()
            if self._backoff.wait_s and not self._flushing:
                return True
            sending = self._sending or self._next_batch()
            if sending is None:
                self._journal.delivered()  # frees a segment that was read to its end
                if self._journal.requeue_lost(self._undelivered):
                    continue
                return worked
            if self._sending is not None:  # again: what is asked meanwhile has changed
                sending = sending._replace(batch=self._with_questions(sending.batch))
            self._sending = sending
            if not self._book(sending.batch):
                return True
            self._sending = None
            self._quarantine({"unreadable": record} for record in sending.unreadable)
            self._note_recorded(sending.others)
            if self._cut_off_s == inf:  # otherwise they are kept on this host
                self.flushed += len(sending.batch.events)
            worked = worked or not _is_heartbeat(sending.batch)
            if not sending.is_full:
                return worked
            # A busy process may always have a backlog; `flush` waits for two batches of it.
            self._finish_round()
        return worked

    def _next_batch(self) -> _Sending | None:
        """Return what is to be sent next; None if there is nothing."""
        records = self._journal.take(self._max_batch_size)
        self._accounts.admission.count_all()
        events, others, unreadable = decode(records)
        self._count({event.user_id for event in events})
        sync = self._accounts.sync
        batch = self._with_questions(Batch(tuple(events), tuple(others)))
        if not records and not batch.questions and not self._is_heartbeat_due:
            return None
        self._number += 1
        sync.start_batch(self._number, events)
        is_full = len(records) >= self._max_batch_size or len(batch.questions) >= QUESTIONS_MAX
        return _Sending(replace(batch, number=self._number), others, unreadable, is_full)

    def _with_questions(self, batch: Batch) -> Batch:
        """Return a batch as it is sent now, with questions about users who are active."""
        sync, now_us = self._accounts.sync, self._now_us()
        return replace(
            batch,
            questions=sync.take_active_users(batch.events, now_us),
            at_us=now_us,
            holder=self._journal.owner,
            news_since_us=sync.news_us,
            plans_version=sync.plans_version,
        )

    @property
    def _is_heartbeat_due(self) -> bool:
        heartbeat_s = self._ledger.heartbeat_s
        return heartbeat_s is not None and time.monotonic() - self._sent_s >= heartbeat_s

    def _count(self, user_ids: Iterable[str]) -> None:
        """Count what has ended of these users: it must be pending before it is acknowledged, and
        whoever has just written its record may not have queued it yet.
        """
        users = self._accounts.registry.users
        for user_id in user_ids:
            user = users.get(user_id)
            if user is not None:
                self._accounts.admission.count(user)

    def _undelivered(self) -> list[bytes]:
        return [encode_event(event) for event in self._accounts.sync.pending_events()]

    def _book(self, batch: Batch) -> bool:
        """Settle a batch of the journal and acknowledge it; False if the ledger is unavailable."""
        is_booked = False
        self._backoff.start()
        self._tried_s = time.monotonic()
        try:
            answer = self._settle(batch)
            self._refused = 0
            self._sent_s = time.monotonic()
            self._note_there(answer)
            # First: if the journal does not release the batch it is sent again, and the ledger
            # counts it once; what is not acknowledged counts in the accounts as well.
            self._accounts.sync.acknowledge(batch.events, answer, batch.at_us)
            self._journal.delivered()
            is_booked = True
        except LedgerUnavailable as error:
            self._note_away(error)
        finally:
            if not is_booked:
                self._ask_again(batch.questions)
        return is_booked

    def _ask_again(self, questions: Iterable[Question]) -> None:
        """Repeat questions without an answer with the next batch."""
        for question in questions:
            user = self._accounts.registry.users.get(question.user_id)
            if user is not None:
                user.is_active = True

    def _note_recorded(self, others: Iterable[LedgerRecord]) -> None:
        for record in others:
            if isinstance(record, PlanRecord):
                self._accounts.registry.confirm_recorded("plan:" + record.name)
            elif isinstance(record, AssignRecord):
                self._accounts.registry.confirm_recorded("user:" + record.user_id)
            elif isinstance(record, DefaultPlanRecord):
                self._accounts.registry.confirm_recorded("default_plan")
        own = [record for record in others if not is_for_backend(record)]
        if own and self._ledger.keeps_plans:
            self._has_own_plans = True
            # They were not sent: what the ledger has is read again, although it has not changed.
            self._accounts.sync.forget_versions(
                record.user_id for record in own if isinstance(record, AssignRecord)
            )


def _is_heartbeat(batch: Batch) -> bool:
    return not (batch.events or batch.records or batch.questions)
