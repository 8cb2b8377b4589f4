"""Calls that wait for their turn at an account, while holds of calls in flight are in the way.

Waiters queue in the order in which they first came. A call that frees room wakes the first of them;
that one tries again, and when it holds and room is left, it wakes the next. So each settlement
costs one try, however many wait. Every waiter also tries again by itself every second or two, which
makes up for a lost turn (its thread was killed, its loop is gone).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from paygent.core.gate import Thresholds

if TYPE_CHECKING:
    from concurrent.futures import Future

RETRY_S = 1.0
"""How long a waiter waits for its turn, at least, before it tries again by itself."""

RETRY_SOON_S = 0.05
"""The same where room is expected in a moment: an event loop needs a few of its rounds."""

_SPREAD = 32  # retries are spread over as long again, so that waiters do not retry all at once

_numbers = itertools.count()


class WaitPoint(Protocol):
    """Where calls wait: an account."""

    thresholds: Thresholds | None
    waiting: list[Waiter]

    @property
    def spent(self) -> int:
        """Settled in the window."""


class Waiter:
    """One call that waits; made at its first try and kept over the others.

    Attributes:
        account: Where it waits, or waited last; None before.
    """

    __slots__ = ("_deadline_s", "_retries_soon", "account", "number", "turn")

    account: Any  # a WaitPoint; callers compare it with their accounts
    turn: Future[bool]  # resolved when it may try again

    def __init__(self, wait_s: float) -> None:
        """Start the clock of a call that may wait `wait_s` seconds in all."""
        self.number = next(_numbers)  # its place: lower came earlier
        self.account = None
        self._deadline_s = time.monotonic() + wait_s
        self._retries_soon = False

    @property
    def left_s(self) -> float:
        """How long the call may still wait; 0 once it has waited long enough."""
        return max(self._deadline_s - time.monotonic(), 0.0)

    @property
    def retry_s(self) -> float:
        """How long to wait for the turn before trying again, or giving up."""
        if self._retries_soon:
            return min(self.left_s, RETRY_SOON_S)
        return min(self.left_s, RETRY_S + RETRY_S * (self.number % _SPREAD) / _SPREAD)

    def prepare(self, *, retries_soon: bool = False) -> None:
        """Prepare to queue, before the lock is taken; to retry soon where there may be room in a
        moment although no turn is passed on.
        """
        from concurrent.futures import Future  # 8 ms, and most calls never wait

        self._retries_soon = retries_soon
        self.turn = Future()

    def queue_at(self, account: WaitPoint) -> None:
        """Queue at an account; under the user's lock."""
        self.account = account
        waiting = account.waiting
        place = len(waiting)
        while place and waiting[place - 1].number > self.number:
            place -= 1
        waiting.insert(place, self)


def pass_turn(account: WaitPoint, held: Callable[[], int], woken: list[Waiter]) -> None:
    """Let the first waiter try, where there is room; all of them, where there never will be. They
    go to `woken`, to be woken once the lock is released.

    Args:
        account: Where they wait.
        held: Returns what the calls in flight hold there.
        woken: Takes those who may try.
    """
    if not account.waiting:
        return
    thresholds, spent = account.thresholds, account.spent
    if thresholds is None or spent >= thresholds.block:
        woken += account.waiting
        account.waiting.clear()
    elif spent + held() < thresholds.block:
        woken.append(account.waiting.pop(0))


def take_all(accounts: Iterable[WaitPoint]) -> list[Waiter]:
    """Take every waiter out of the queues: the limits have changed."""
    woken: list[Waiter] = []
    for account in accounts:
        if account.waiting:
            woken += account.waiting
            account.waiting.clear()
    return woken


def wake(woken: list[Waiter]) -> None:
    """Let calls try again; never under a lock, since event loops may be woken."""
    for waiter in woken:
        if not waiter.turn.done():
            waiter.turn.set_result(True)
