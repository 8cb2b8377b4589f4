"""Questions to the ledger about users, answered on a thread and connection of their own.

A question never queues behind a delivery: its caller waits at most a quarter of a second, then goes
on with what the process knows, and the next delivery brings the state. Questions about the same
user and session share an answer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.core.messages import Answer
from paygent.failopen import attempt
from paygent.ledger.port import Ledger, LedgerUnavailable

if TYPE_CHECKING:
    from concurrent.futures import Future

_T = TypeVar("_T")

_READY_WAIT_S = 0.2  # for adopted journals; less than a caller waits for its answer
_BOOKING_WAIT_S = 0.2  # for the delivery of the same user's events
_BACKGROUND_MAX = 16  # questions queued when one is added that no caller waits for
_ROUNDS_MAX = 3  # a new plan changes the question; the maximum number of times it is asked


class UserRefresh:
    """Asks the ledger about users for those who wait. Thread-safe."""

    def __init__(self, ledger: Ledger, accounts: Accounts, now_us: Callable[[], int]) -> None:
        """Store the parts; `run` is the body of the thread, and applies answers to the accounts."""
        self._ledger = ledger
        self._accounts = accounts
        self._now_us = now_us
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's questions and locks."""
        self.ready = threading.Event()  # set once dead processes' journals are adopted
        self._booked = threading.Condition()
        self._booking: frozenset[str] = frozenset()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._asked: dict[tuple[str, str | None, bool], Future[bool]] = {}

    def ask(self, user: User, session_id: str | None, *, is_awaited: bool = True) -> Future[bool]:
        """Queue a question about a user; see `Worker.ask`, and `LedgerSync.question` for one that
        no call waits for.
        """
        from concurrent.futures import Future  # 8 ms, at the first question and not at import

        key = (user.user_id, session_id, is_awaited)
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = Future()
            self._jobs.put(partial(self._answer_ask, user, session_id, is_awaited, future))
        return future

    def refresh_soon(self, user: User, session_id: str | None) -> None:
        """Queue a question that no caller waits for, unless so many are queued that callers would
        have to wait for this one.
        """
        is_asked = (user.user_id, session_id, True) in self._asked
        if len(self._asked) < _BACKGROUND_MAX and not is_asked:
            self.ask(user, session_id, is_awaited=False)

    def read(self, reading: Callable[[Ledger], _T]) -> Future[_T]:
        """Queue a reading of the ledger; see `Worker.read`."""
        from concurrent.futures import Future

        future: Future[_T] = Future()
        self._jobs.put(partial(self._answer_read, reading, future))
        return future

    @staticmethod
    def no_answer() -> Future[bool]:
        """Return the answer to a question that no thread can ask."""
        from concurrent.futures import Future

        future: Future[bool] = Future()
        future.set_result(False)
        return future

    @staticmethod
    def no_reading() -> Future[Any]:
        """Return the failure of a reading that no thread can do."""
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_exception(LedgerUnavailable("no thread can be started to read it"))
        return future

    @contextmanager
    def booking(self, user_ids: frozenset[str]) -> Iterator[None]:
        """Keep questions about these users waiting while their events are booked."""
        # Between the ledger's commit and the acknowledgement a user's events are in both places;
        # figures read then would count them twice.
        self._booking = user_ids
        try:
            yield
        finally:
            with self._booked:
                self._booking = frozenset()
                self._booked.notify_all()

    def run(self) -> None:
        """Answer questions until `stop`; the body of the thread."""
        while (job := self._jobs.get()) is not None:
            self.ready.wait(_READY_WAIT_S)
            attempt("ask", job)

    def stop(self) -> None:
        """End the thread after the questions that are queued."""
        self._jobs.put(None)

    def _answer_ask(
        self, user: User, session_id: str | None, is_awaited: bool, future: Future[bool]
    ) -> None:
        known = attempt("ask", self._answer, user, session_id, is_awaited)
        self._asked.pop((user.user_id, session_id, is_awaited), None)
        future.set_result(bool(known))

    def _answer_read(self, reading: Callable[[Ledger], Any], future: Future[Any]) -> None:
        try:
            future.set_result(reading(self._ledger))
        except BaseException as error:  # noqa: BLE001 - it goes to the caller through the future
            future.set_exception(error)

    def _answer(self, user: User, session_id: str | None, is_awaited: bool = True) -> bool:
        sync = self._accounts.sync
        for _ in range(_ROUNDS_MAX):
            with self._booked:
                self._booked.wait_for(lambda: user.user_id not in self._booking, _BOOKING_WAIT_S)
            now_us = self._now_us()
            deliveries = sync.deliveries
            user_now = self._accounts.registry.user(user.user_id, now_us)
            question = sync.question(user_now, session_id, now_us, is_awaited=is_awaited)
            try:
                answer: Answer = self._ledger.state((question,), now_us)
            except LedgerUnavailable:
                return False
            if user.user_id in self._booking:
                continue  # a delivery has begun meanwhile
            is_applied = sync.apply_answer(answer, now_us, as_of=deliveries)
            if is_applied and sync.is_answered(user, session_id):
                return True
        return sync.is_answered(user, session_id)
