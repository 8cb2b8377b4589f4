"""Questions to the ledger about users, answered on a thread and connection of their own; and
readings, such as reports, on another.

A question never queues behind a delivery: its caller waits at most a quarter of a second, then goes
on with what the process knows, and the next delivery brings the state. Questions that are waiting
when the thread is free are asked at once, those about the same user and session share an answer,
and one is dropped when its caller has stopped waiting.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.core.messages import Batch, Question
from paygent.failopen import attempt, diagnostics
from paygent.ledger.port import Ledger, LedgerRefused, LedgerUnavailable

if TYPE_CHECKING:
    from concurrent.futures import Future

_T = TypeVar("_T")

_READY_WAIT_S = 0.2  # for adopted journals; less than a caller waits for its answer
_BACKGROUND_MAX = 16  # questions queued when one is added that no caller waits for
_TRIES_MAX = 3  # a new plan changes the question; the maximum number of times it is asked
_ASKS_MAX = 500  # questions in one request


class _Ask(NamedTuple):
    """A question about a user that was queued.

    Attributes:
        user, session_id: As in `Worker.ask`.
        is_awaited: Whether a caller waits; see `LedgerSync.question`.
        deadline_s: When that has stopped waiting, by the monotonic clock.
        future: True once the state is in the accounts, False if it is not available now.
    """

    user: User
    session_id: str | None
    is_awaited: bool
    deadline_s: float
    future: Future[bool]

    @property
    def key(self) -> tuple[str, str | None, bool]:
        return self.user.user_id, self.session_id, self.is_awaited


class UserRefresh:
    """Asks the ledger about users for those who wait. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        accounts: Accounts,
        now_us: Callable[[], int],
        holder: Callable[[], str] = lambda: "",
    ) -> None:
        """Store the parts; `run` is the body of the thread, and applies answers to the accounts.

        Args:
            ledger, accounts, now_us: Of the worker.
            holder: Returns the name under which this process delivers.
        """
        self._ledger = ledger
        self._accounts = accounts
        self._now_us = now_us
        self._holder = holder
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's questions."""
        self.ready = threading.Event()  # set once dead processes' journals are adopted
        self._jobs: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._asked: dict[tuple[str, str | None, bool], Future[bool]] = {}
        self._reading = threading.Lock()

    def ask(self, user: User, session_id: str | None, wait_s: float | None) -> Future[bool]:
        """Queue a question about a user; see `Worker.ask`.

        Args:
            user, session_id: The user, and a session named by the application, or None.
            wait_s: How long a caller waits for the answer; None if none does.
        """
        from concurrent.futures import Future  # 8 ms, at the first question and not at import

        is_awaited = wait_s is not None
        future = self._asked.get((user.user_id, session_id, is_awaited))
        if future is None:
            deadline_s = time.monotonic() + (wait_s or 0.0)
            ask = _Ask(user, session_id, is_awaited, deadline_s, Future())
            future = self._asked[ask.key] = ask.future
            self._jobs.put(ask)
        return future

    def refresh_soon(self, user: User, session_id: str | None) -> None:
        """Queue a question that no caller waits for, unless so many are queued that callers would
        have to wait for this one.
        """
        is_asked = (user.user_id, session_id, True) in self._asked
        if len(self._asked) < _BACKGROUND_MAX and not is_asked:
            self.ask(user, session_id, None)

    def read(self, reading: Callable[[Ledger], _T]) -> Future[_T]:
        """Read the ledger on a thread of its own, one reading after another: a report may take
        seconds, for which no question may wait. See `Worker.read`.
        """
        from concurrent.futures import Future

        future: Future[_T] = Future()
        try:
            threading.Thread(
                target=self._answer_read, args=(reading, future), name="paygent-read", daemon=True
            ).start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            future.set_exception(LedgerUnavailable(f"no thread can be started: {error}"))
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

    def run(self) -> None:
        """Answer questions until `stop`; the body of the thread."""
        while (job := self._jobs.get()) is not None:
            self.ready.wait(_READY_WAIT_S)
            asks = [job]
            while len(asks) < _ASKS_MAX and not self._jobs.empty():  # one thread reads the queue
                following = self._jobs.get()
                if following is None:
                    self._answer_asks(asks)
                    return
                asks.append(following)
            self._answer_asks(asks)

    def stop(self) -> None:
        """End the thread after the questions that are queued."""
        self._jobs.put(None)

    def _answer_asks(self, asks: list[_Ask]) -> None:
        """Answer questions, with as few requests as possible."""
        tries = Counter[str]()
        try:
            while group := self._next_group(asks):
                applied = attempt("ask", self._ask_ledger, group)
                if applied is None:
                    return
                for ask in group:
                    tries[ask.user.user_id] += 1
                    is_answered = self._is_answered(ask)
                    if (ask.user.user_id in applied and is_answered) or (
                        tries[ask.user.user_id] >= _TRIES_MAX
                    ):
                        self._finish(ask, is_answered)
        finally:
            for ask in asks:
                self._finish(ask, self._is_answered(ask))

    def _next_group(self, asks: list[_Ask]) -> list[_Ask]:
        """Return questions that are not answered, at most one about each user, which is what a
        message holds. Those that no caller waits for any more are dropped.
        """
        group: dict[str, _Ask] = {}
        now_s = time.monotonic()
        for ask in asks:
            if ask.future.done():
                continue
            if ask.is_awaited and now_s > ask.deadline_s:
                self._finish(ask, False)
            else:
                group.setdefault(ask.user.user_id, ask)
        return list(group.values())

    def _is_answered(self, ask: _Ask) -> bool:
        return self._accounts.sync.is_answered(ask.user, ask.session_id)

    def _ask_ledger(self, asks: list[_Ask]) -> Collection[str] | None:
        """Ask about different users in one request; return those with figures that were taken over,
        or None if the ledger is unavailable.
        """
        sync, now_us = self._accounts.sync, self._now_us()
        doubted = sync.in_doubt.number
        questions: list[Question] = []
        for ask in asks:
            user = self._accounts.registry.user(ask.user.user_id, now_us)
            questions.append(sync.question(user, ask.session_id, now_us, is_awaited=ask.is_awaited))
        batch = Batch(
            questions=tuple(questions),
            at_us=now_us,
            holder=self._holder(),
            plans_version=sync.plans_version,
        )
        try:
            answer = self._ledger.state(batch)
        except LedgerUnavailable:
            return None
        except LedgerRefused as error:
            if len(asks) == 1:
                diagnostics.record_error("ledger_refused", error)
                return ()
            middle = len(asks) // 2
            halves = [self._ask_ledger(half) for half in (asks[:middle], asks[middle:])]
            return None if None in halves else {name for half in halves for name in half or ()}
        return sync.apply_answer(answer, now_us, doubted=doubted)

    def _finish(self, ask: _Ask, known: bool) -> None:
        if not ask.future.done():
            self._asked.pop(ask.key, None)
            ask.future.set_result(known)

    def _answer_read(self, reading: Callable[[Ledger], Any], future: Future[Any]) -> None:
        try:
            self.ready.wait(_READY_WAIT_S)
            with self._reading:
                future.set_result(reading(self._ledger))
        except BaseException as error:  # noqa: BLE001 - it goes to the caller through the future
            future.set_exception(error)
