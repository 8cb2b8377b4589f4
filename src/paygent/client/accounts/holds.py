"""What open calls hold on an account, computed when a line is near.

The open calls of a user are one table (`User.open`); nothing is kept for each account. What an
account holds follows from that table, by what calls like these are expected to use *now*, so each
settlement corrects the holds of those still open. Calls of a strict plan, and those with a declared
use, hold a fixed amount.
"""

from __future__ import annotations

from collections.abc import Iterable

from paygent.client.accounts.account import Account
from paygent.client.accounts.forecasts import UsageForecast
from paygent.client.accounts.user_state import Hold
from paygent.core.account import AccountKey, amount
from paygent.core.estimate import CallGroup, hold_of

_GROUPS_MAX = 64  # with more, bounds on output are rounded up to powers of two: about twenty


def counted_by(key: AccountKey, holds: Iterable[Hold]) -> list[Hold]:
    """Return the open calls that an account counts; see `AccountKey.counts`."""
    session_id, model = key.session_id, key.limit.model
    return [
        hold
        for hold in holds
        if key.start_us <= hold.at_us < key.end_us
        and (not session_id or session_id == hold.lane.session_id)
        and (not model or model == hold.lane.model_key)
    ]


class Load:
    """What the open calls that an account counts hold together, at one moment.

    Attributes:
        holds: The calls.
        held: What they hold, in the unit of the account's metric.
    """

    __slots__ = ("_fixed", "_groups", "_metric", "held", "holds")

    def __init__(self, metric: str, holds: list[Hold]) -> None:
        self._metric = metric
        self.holds = holds
        self._fixed = 0
        self._groups: dict[tuple[UsageForecast, int], tuple[int, int]] = {}
        for hold in holds:
            self._add(hold)
        self.held = self._total()

    def with_one(self, hold: Hold) -> int:
        """Return what they would hold together with one more call."""
        fixed, groups = self._fixed, self._groups
        self._groups = dict(groups)
        self._add(hold)
        total = self._total()
        self._fixed, self._groups = fixed, groups
        return total

    def _add(self, hold: Hold) -> None:
        use = hold.use
        if use is not None:
            self._fixed += amount(self._metric, cost_nano=use.cost_nano, tokens=use.tokens)
            return
        forecast = hold.lane.forecast
        max_tokens = forecast.capped(hold.max_tokens)
        if max_tokens and len(self._groups) >= _GROUPS_MAX:
            max_tokens = 1 << (max_tokens - 1).bit_length()
        count, weight = self._groups.get((forecast, max_tokens), (0, 0))
        self._groups[forecast, max_tokens] = count + 1, weight + hold.weight

    def _total(self) -> int:
        if not self._groups:
            return self._fixed
        groups = (
            CallGroup(forecast.expectation, forecast.rates, max_tokens or None, count, weight)
            for (forecast, max_tokens), (count, weight) in self._groups.items()
        )
        return hold_of(self._metric, groups, self._fixed)


def load_on(account: Account, holds: Iterable[Hold]) -> Load:
    """Return what the open calls of a user hold on one of their accounts."""
    return Load(account.metric, counted_by(account.key, holds))
