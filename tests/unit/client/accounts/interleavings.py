"""Runs two threads step by step, in every order of their steps at a user's table of open calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from paygent.client.accounts.user_state import Hold, User

_WAIT_S = 10.0  # a thread that takes longer is stuck


def orders(names: str, steps: int) -> list[tuple[str, ...]]:
    """Return every order in which so many steps of each of two threads may come."""
    return [
        tuple(names[place not in places] for place in range(2 * steps))
        for places in itertools.combinations(range(2 * steps), steps)
    ]


class Turns:
    """Lets one thread at a time run to its next step."""

    def __init__(self) -> None:
        self._turns: dict[str, threading.Semaphore] = {}
        self._paused = threading.Semaphore(0)
        self._running: set[str] = set()

    def step(self) -> None:
        """Wait for this thread's turn, if it is one of those that take turns."""
        turn = self._turns.get(threading.current_thread().name)
        if turn is not None:
            self._paused.release()
            assert turn.acquire(timeout=_WAIT_S)

    def run(self, order: Iterable[str], actions: dict[str, Callable[[], None]]) -> None:
        """Run actions, each in a thread of its name, in this order; then each to its end."""
        self._turns = {name: threading.Semaphore(0) for name in actions}
        self._running = set(actions)

        def body(name: str) -> None:
            self.step()
            try:
                actions[name]()
            finally:
                self._running.discard(name)
                self._paused.release()

        threads = [threading.Thread(target=body, args=(name,), name=name) for name in actions]
        for thread in threads:
            thread.start()
            assert self._paused.acquire(timeout=_WAIT_S)
        for name in itertools.chain(order, *([name] * 20 for name in actions)):
            if name in self._running:
                self._turns[name].release()
                assert self._paused.acquire(timeout=_WAIT_S)
        for thread in threads:
            thread.join(_WAIT_S)


class StepwiseTable(dict[int, Hold]):
    """A table of open calls of which each use is a step."""

    def __init__(self, user: User, turns: Turns) -> None:
        super().__init__(user.open)
        self._turns = turns
        user.open = self

    def __setitem__(self, seq: int, hold: Hold) -> None:
        self._turns.step()
        super().__setitem__(seq, hold)

    def __len__(self) -> int:
        self._turns.step()
        count = super().__len__()
        self._turns.step()  # what was read may be out of date when it is used
        return count

    def pop(self, *arguments: Any) -> Any:
        """Remove a call."""
        self._turns.step()
        return super().pop(*arguments)

    def values(self) -> Any:
        """Return the calls."""
        self._turns.step()
        return super().values()
