"""Ledgers that fail on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paygent.ledger.port import LedgerUnavailable


class AwayLedger:
    """A ledger that nobody reaches."""

    keeps_plans = False
    heartbeat_s: float | None = None

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def absent(*args: Any, **kwargs: Any) -> Any:
            raise LedgerUnavailable(verb)

        return absent

    def forget_after_fork(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to close."""
