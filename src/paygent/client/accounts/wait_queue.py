"""Calls that wait for their turn at an account, while holds of calls in flight are in the way.

Waiters stand in the order in which they first came. Whoever makes room wakes the first of them;
that one tries again, and when it holds and room is left, it wakes the next. So each settlement
costs one look, however many wait. A turn that is lost (its thread was killed, its loop is gone) is
made good by every waiter looking for itself every second or two.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

    from paygent.client.accounts.user_state import Account, User

LOOK_S = 1.0
"""How long a waiter waits for its turn, at least, before it looks for itself."""

SOON_S = 0.05
"""How long one waits that expects room in a moment: an event loop needs a few of its rounds."""

_SPREAD = 32  # moments, over as long again, at which waiters look, so that they do not all at once

_numbers = itertools.count()


class Waiter:
    """One call that waits; made at its first try and kept over the others.

    Attributes:
        number: Its place: lower came earlier.
        account: Where it waits, or waited last; None before.
        turn: Done when it may try again.
    """

    __slots__ = ("_deadline_s", "_looks_soon", "account", "number", "turn")

    account: Account | None
    turn: Future[bool]

    def __init__(self, wait_s: float) -> None:
        """Start the clock.

        Args:
            wait_s: How long the call may wait in all.
        """
        self.number = next(_numbers)
        self.account = None
        self._deadline_s = time.monotonic() + wait_s
        self._looks_soon = False

    @property
    def left_s(self) -> float:
        """How long the call may still wait; 0 when it has waited enough."""
        return max(self._deadline_s - time.monotonic(), 0.0)

    @property
    def look_s(self) -> float:
        """How long to wait for the turn before looking, or giving up."""
        if self._looks_soon:
            return min(self.left_s, SOON_S)
        return min(self.left_s, LOOK_S + LOOK_S * (self.number % _SPREAD) / _SPREAD)

    def get_ready(self, *, looks_soon: bool = False) -> None:
        """Make ready to stand in line; before the lock is taken.

        Args:
            looks_soon: Whether there may be room in a moment without anybody passing the turn.
        """
        from concurrent.futures import Future  # 8 ms, and most calls never wait

        self._looks_soon = looks_soon
        self.turn = Future()

    def stand_at(self, account: Account) -> None:
        """Wait at an account; under the user's lock."""
        self.account = account
        waiting = account.waiting
        place = len(waiting)
        while place and waiting[place - 1].number > self.number:
            place -= 1
        waiting.insert(place, self)


def pass_turn(account: Account, woken: list[Waiter]) -> None:
    """Let the first who waits try, where there is room; everyone, where there never will be."""
    lines, spent = account.lines, account.spent
    if lines is None or spent >= lines.block:
        woken += account.waiting
        account.waiting.clear()
    elif account.waiting and spent + account.held < lines.block:
        woken.append(account.waiting.pop(0))


def all_waiting(user: User) -> list[Waiter]:
    """Take everyone out of line who waits at a user's accounts: their limits have changed."""
    woken: list[Waiter] = []
    for account in user.accounts.values():
        if account.waiting:
            woken += account.waiting
            account.waiting.clear()
    return woken


def wake(woken: list[Waiter]) -> None:
    """Let calls try again; not under a lock, since event loops may be woken."""
    for waiter in woken:
        if not waiter.turn.done():
            waiter.turn.set_result(True)
