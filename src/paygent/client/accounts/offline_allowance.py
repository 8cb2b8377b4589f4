"""What this process lets calls spend unseen while the ledger is away.

A plan with `when_offline={"allow_up_to": dollars}` lets calls of users whom the ledger has not told
about go on up to that amount, summed over the process. What was spent and what calls in flight hold
count; the call that crosses the line is the last. The allowance starts anew once the ledger has
answered, since then it has seen what was spent.
"""

from __future__ import annotations

import threading


class Allowance:
    """Unseen spend of one process, in nano-dollars. Thread-safe."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._spent_nano = self._held_nano = 0
        self._answers = 0

    def take(self, cost_nano: int, allowance_nano: int, *, answers: int) -> bool:
        """Hold what a call is expected to cost; false where the allowance is used up.

        Args:
            cost_nano: What the call is expected to cost.
            allowance_nano: What the plan allows.
            answers: How often the ledger has answered so far.
        """
        with self._lock:
            if answers != self._answers:
                self._answers, self._spent_nano = answers, 0
            if self._spent_nano + self._held_nano >= allowance_nano:
                return False
            self._held_nano += cost_nano
            return True

    def give_back(self, held_nano: int, spent_nano: int) -> None:
        """End the hold of a call.

        Args:
            held_nano: What `take` held.
            spent_nano: What the call really cost; 0 for one that is void.
        """
        with self._lock:
            self._held_nano -= held_nano
            self._spent_nano += spent_nano

    def renew_after_fork(self) -> None:
        """Forget the parent's calls, and its lock."""
        self._renew()
