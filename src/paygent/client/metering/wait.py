"""Waiting before a call: for the ledger's answer about its user, or for its turn at a limit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from paygent.client.accounts.ledger_sync import LedgerSync
from paygent.client.accounts.user_state import User
from paygent.client.journal.delivery import Worker
from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.runtime.event_loops import running_loop, runs_loop
from paygent.client.runtime.locks import Wakeup
from paygent.client.runtime.settings import FIRST_TOUCH_WAIT_S
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics

if TYPE_CHECKING:
    from concurrent.futures import Future

WaitEnd = Literal["over", "timed_out", "passed", "gave_up"]
"""How a wait ended.

- over: the awaited answer or turn has come.
- timed_out: it has not come in time.
- passed: the caller did not wait, since that would block an event loop.
- gave_up: the caller was interrupted or cancelled, and will not try again.
"""


class Wait:
    """A wait that the caller carries out, in its own way.

    A sync caller blocks, an async caller awaits; then both call `begin` again, which goes on with
    what is known by then. A sync call on a thread that runs an event loop does not wait: it would
    block that loop.
    """

    __slots__ = ("_answer", "_deferred_ends", "_done", "_timeout_s")

    def __init__(
        self,
        answer: Future[bool],
        timeout_s: float,
        done: Callable[[WaitEnd], None],
        deferred_ends: DeferredEnds | None = None,
    ) -> None:
        """Prepare to wait.

        Args:
            answer: Resolves the wait.
            timeout_s: Longest time to wait.
            done: Called when the wait is over, with how it ended.
            deferred_ends: Defers `done` for a caller that is collected while it waits; None calls
                it there, for one that takes no lock then.
        """
        self._answer = answer
        self._timeout_s = timeout_s
        self._done = done
        self._deferred_ends = deferred_ends

    def block(self) -> None:
        """Wait on this thread, unless it runs an event loop."""
        end: WaitEnd = "gave_up"
        try:
            end = self._block()
        finally:
            attempt("wait", self._done, end)

    def _block(self) -> WaitEnd:
        if runs_loop():
            return "passed"
        return "over" if wait_for(self._answer, self._timeout_s) else "timed_out"

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        end: WaitEnd = "gave_up"
        is_collected = False
        try:
            end = await self._await()
        except GeneratorExit:  # perhaps the garbage collector closes the coroutine
            is_collected = True
            raise
        finally:
            done = partial(attempt, "wait", self._done, end)
            if is_collected and self._deferred_ends is not None:
                self._deferred_ends.add(done)
            else:
                done()

    async def _await(self) -> WaitEnd:
        if running_loop() is None:
            return "passed"
        import asyncio  # imported already, since a loop of it runs

        # `wait` does not cancel what it waits for: other calls may wait for the same answer.
        await asyncio.wait({asyncio.wrap_future(self._answer)}, timeout=self._timeout_s)
        return "over" if self._answer.done() else "timed_out"


def ask_blocking(ask: Callable[[], Wait | None]) -> None:
    """Ask the meter, and block while it requires a wait."""
    wait = attempt("begin", ask)
    while wait is not None:
        wait.block()
        wait = attempt("begin", ask)


async def ask_awaiting(ask: Callable[[], Wait | None]) -> None:
    """Ask the meter, and await while it requires a wait."""
    wait = attempt("begin", ask)
    while wait is not None:
        await wait
        wait = attempt("begin", ask)


def wait_for(answer: Future[Any], timeout_s: float) -> bool:
    """Block this thread until an answer comes; False when it did not come in time."""
    has_come = Wakeup()
    answer.add_done_callback(lambda _: has_come.set())
    return has_come.wait(timeout_s) or answer.done()


def wait_for_ledger(
    worker: Worker, sync: LedgerSync, user: User, session_id: str | None, now_us: Callable[[], int]
) -> Wait:
    """Ask the ledger about a user; return the wait for its answer, a quarter second at most.

    A caller that cannot wait does not mark the user, so that the next one waits.
    """

    def done(end: WaitEnd) -> None:
        if end == "timed_out":
            diagnostics.warn_once(Notice.LEDGER_SLOW, FIRST_TOUCH_WAIT_S)
        if end in ("over", "timed_out"):
            sync.mark_waited(user, session_id, now_us())
            sync.mark_wait_failed(user, session_id)

    answer = worker.ask(user, session_id, FIRST_TOUCH_WAIT_S)
    return Wait(answer, FIRST_TOUCH_WAIT_S, done)
