"""An account: one limit of one user in one window. Plain state, changed under the user's lock."""

from __future__ import annotations

from paygent.client.accounts.wait_queue import Waiter
from paygent.core.account import AccountKey
from paygent.core.gate import Thresholds
from paygent.core.period import END_OF_TIME_US


class Account:
    """One limit of one user in one window."""

    __slots__ = (
        "acknowledged", "excludes_shadow", "key", "metric", "pending", "reason",
        "shadow_acknowledged", "shadow_pending", "stale_us", "thresholds", "waiting", "warned",
    )  # fmt: skip

    def __init__(self, key: AccountKey, reason: str, thresholds: Thresholds | None) -> None:
        self.key = key  # the limit, its session and its window
        self.metric = key.limit.metric  # "spend" (nano-dollars), "tokens" or "calls"
        self.reason = reason  # the `gate_reason` of a refusal here
        self.thresholds = thresholds  # None where the plan does not limit this
        self.acknowledged = 0  # the ledger's figure as last read, in the unit of the metric
        self.pending = 0  # spend of this process that the ledger has not acknowledged
        self.shadow_acknowledged = 0  # the part of either that blocked calls spent
        self.shadow_pending = 0
        self.excludes_shadow = False  # whether the plan decides without that part (shadow mode)
        self.warned = False  # whether the warn line was reported in this window
        self.waiting: list[Waiter] = []  # calls that wait for room here, the first come first
        # When a rolling sum has to be read again; 0 if it was never read, and the end of time for
        # an account that is no rolling sum.
        self.stale_us = END_OF_TIME_US

    @property
    def is_rolling(self) -> bool:
        """Whether its window moves on, so that the ledger sums events at each reading."""
        return self.stale_us != END_OF_TIME_US

    @property
    def spent(self) -> int:
        """Settled in the window: the ledger's figure and what is pending delivery."""
        return self.acknowledged + self.pending

    @property
    def decisive(self) -> int:
        """The spend that the gate compares with the cap: in shadow mode, what would have been spent
        if the plan had been enforced.
        """
        if not self.excludes_shadow:
            return self.acknowledged + self.pending
        return self.spent - self.shadow_acknowledged - self.shadow_pending
