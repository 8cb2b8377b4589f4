"""What calls may spend in this process while the ledger is unreachable.

A plan with `when_offline={"allow_up_to": dollars}` lets calls go on up to that amount, summed over
the process, while the ledger is away, and those of users that it has not answered about. Spend and
holds of calls in flight count; the call that crosses the line is the last. The allowance starts
over once an outage has ended.
"""

from __future__ import annotations

import threading


class Allowance:
    """Offline spend of one process, in nano-dollars. Thread-safe."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._spent_nano = self._held_nano = 0
        self._outages = 0

    def take(self, cost_nano: int, allowance_nano: int, outages: int) -> bool:
        """Hold what a call is expected to cost; False where the allowance is used up.

        Args:
            cost_nano: Expected cost of the call.
            allowance_nano: Allowance of the plan.
            outages: Outages of the ledger that have ended so far.
        """
        with self._lock:
            has_room = self._has_room(allowance_nano, outages)
            self._held_nano += cost_nano if has_room else 0
            return has_room

    def has_room(self, allowance_nano: int, outages: int) -> bool:
        """Return whether a call could hold now; see `take`."""
        with self._lock:
            return self._has_room(allowance_nano, outages)

    def _has_room(self, allowance_nano: int, outages: int) -> bool:
        if outages != self._outages:
            self._outages, self._spent_nano = outages, 0
        return self._spent_nano + self._held_nano < allowance_nano

    def give_back(self, held_nano: int, spent_nano: int) -> None:
        """End the hold of a call.

        Args:
            held_nano: What `take` held.
            spent_nano: What the call cost; 0 if it is void.
        """
        with self._lock:
            self._held_nano -= held_nano
            self._spent_nano += spent_nano

    def renew_after_fork(self) -> None:
        """Forget the parent's calls, and its lock."""
        self._renew()
