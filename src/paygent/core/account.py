"""Accounts: one counter for each limit of a user in one window, and the events it counts.

An account is the fold of the events that it `counts`; nothing else changes its spent. Memory, store
and audit all follow this one rule.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from paygent.core.limit import LimitKey


class Countable(Protocol):
    """Something an account may count: an event, or a call that will become one."""

    @property
    def at_us(self) -> int:
        """When the call began."""

    @property
    def session_id(self) -> str:
        """The session of the call."""

    @property
    def model_key(self) -> str:
        """The name under which limits count the model."""

    @property
    def model(self) -> str:
        """The model as named by the request or the answer."""


class AccountKey(NamedTuple):
    """Identity of an account of a user.

    Attributes:
        limit: Identity of the limit; its model is a plain (lower-case) name or "".
        session_id: The session of a session limit; "" otherwise.
        start_us, end_us: The window, half-open. A rolling window spans all time here: the ledger
            sums its events at each reading.
    """

    limit: LimitKey
    session_id: str
    start_us: int
    end_us: int

    def counts(self, event: Countable) -> bool:
        """Return whether an event or call of this user belongs to this account."""
        limit = self.limit
        return (
            # By when the call began, however late it is settled.
            self.start_us <= event.at_us < self.end_us
            and (not self.session_id or self.session_id == event.session_id)
            # A plan may limit a model by its canonical name or by an exact one.
            and (not limit.model or limit.model in (event.model_key, event.model))
        )


def amount(metric: str, *, cost_nano: int, tokens: int, calls: int = 1) -> int:
    """Return the amount that a call or event adds to an account of a metric, in its unit; negative
    where a correction lowers it, which counts as 0 calls.
    """
    if metric == "spend":
        return cost_nano
    return tokens if metric == "tokens" else calls
