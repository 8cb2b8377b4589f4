"""Waiting between tries: longer after each failure, and never in step with other processes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import inf


class Backoff:
    """When to try next, after failures in a row."""

    def __init__(
        self,
        first_s: float,
        most_s: float,
        *,
        due_after_s: float = inf,
        now_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Start without a failure.

        Args:
            first_s: Pause after the first failure, at most; it doubles with each further one.
            most_s: Longest pause, unless the other side asks for a longer one.
            due_after_s: How long it has failed when a try is due, whatever the pause: the caller
                then decides how to go on without the other side.
            now_s: The clock.
            chance: Returns a number from 0 to 1.
        """
        self._first_s = first_s
        self._most_s = most_s
        self._due_after_s = due_after_s
        self._now_s = now_s
        self._chance = chance
        self._failures = 0
        self._since_s = now_s()
        self._due_s = 0.0

    def start(self) -> None:
        """Note the beginning of a try, so that a failure lasts from there on."""
        if not self._failures:
            self._since_s = self._now_s()

    def fail(self, retry_after_s: float | None = None) -> None:
        """Note a failure, and when the other side asks to be tried again."""
        pause_s = min(self._first_s * 2 ** min(self._failures, 30), self._most_s)
        # Between half and the whole: processes that failed together come back apart.
        pause_s *= (1 + self._chance()) / 2
        self._failures += 1
        pause_s = max(pause_s, retry_after_s or 0.0)
        left_s = self._due_after_s - self.failing_s
        self._due_s = self._now_s() + (min(pause_s, left_s) if left_s > 0 else pause_s)

    def succeed(self) -> None:
        """Note that it works."""
        self._failures = 0
        self._due_s = 0.0

    @property
    def failing_s(self) -> float:
        """How long it has failed, in seconds; 0 if it works."""
        return self._now_s() - self._since_s if self._failures else 0.0

    @property
    def wait_s(self) -> float:
        """How long to wait before the next try; 0 if it is due."""
        return max(self._due_s - self._now_s(), 0.0)
