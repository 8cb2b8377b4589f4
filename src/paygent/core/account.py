"""Accounts: one counter for each limit of a user in one window, and which events it counts.

An account is the fold of the events that it `counts`: nothing else changes what it says was spent.
Memory, store and audit all go by this one rule.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from paygent.core.limit import LimitKey


class Countable(Protocol):
    """What an account may count: an event, or a call that will be one."""

    @property
    def at_us(self) -> int:
        """When the call began."""

    @property
    def session_id(self) -> str:
        """In which session."""

    @property
    def model_key(self) -> str:
        """The model's canonical name."""

    @property
    def model(self) -> str:
        """The model as it was named."""


class AccountKey(NamedTuple):
    """Identity of an account of a user.

    Attributes:
        limit: Identity of the limit; its model is a plain (lower-case) name or "".
        session_id: Of a session limit; "" otherwise.
        start_us, end_us: The window, half-open. A rolling window spans all time: its sum is read
            anew.
    """

    limit: LimitKey
    session_id: str
    start_us: int
    end_us: int

    def counts(self, event: Countable) -> bool:
        """Tell whether an event or call of this user belongs to this account."""
        limit = self.limit
        return (
            self.start_us <= event.at_us < self.end_us
            and (not self.session_id or self.session_id == event.session_id)
            and (not limit.model or limit.model in (event.model_key, event.model))
        )


def amount(metric: str, *, cost_nano: int, tokens: int, calls: int = 1) -> int:
    """Return what one call or event weighs in an account, in the unit of its metric.

    Args:
        metric: The account's.
        cost_nano, tokens: Of the call; negative where a correction lowers them.
        calls: 0 for a correction, which is no call.
    """
    if metric == "spend":
        return cost_nano
    return tokens if metric == "tokens" else calls
