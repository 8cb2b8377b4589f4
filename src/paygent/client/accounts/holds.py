"""Holds of calls in flight, and the accounts that they are on.

What a call holds is not fixed when it begins: it is what calls like it are expected to use *now*,
so each settlement corrects the holds of those still in flight. Calls that share a `UsageForecast`
are therefore kept as counts (`HoldGroup`) and re-estimated together, which costs the same for one
call and for a thousand. Calls of a strict plan, and those without a forecast, hold a fixed amount.

Plain state, changed under the user's lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from paygent.client.accounts.forecasts import UsageForecast, Use
from paygent.client.accounts.wait_queue import Waiter
from paygent.core.account import AccountKey, amount
from paygent.core.estimate import HoldMoments, held_by, moments_around, moments_of
from paygent.core.gate import Reading, Thresholds
from paygent.core.period import END_OF_TIME_US, Window

NO_PERIOD = Window(0, 0)
"""The billing period of what has none yet."""

_GROUPS_MAX = 64  # with more, bounds on output are rounded up to powers of two: about twenty


@dataclass(slots=True, eq=False)
class Hold:
    """What a call holds, on every account that it touches.

    Attributes:
        model_key, session_id, at_us: Decide which accounts count it.
        accounts: The accounts that it is on, in the order in which they took it.
    """

    use: Use  # what the call may use
    model_key: str
    session_id: str = ""
    at_us: int = 0
    owner: object = None  # the thread or task that began the call
    period: Window = NO_PERIOD  # the billing period that it belongs to
    warnings: tuple[Reading, ...] = ()  # readings of accounts newly past their warn line
    accounts: list[Account] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The model that limits count, as for an event; see `AccountKey.counts`."""
        return self.model_key


class HoldGroup:
    """Calls in flight on one account that share a forecast, as a count, and the moments of one."""

    __slots__ = ("count", "expectation", "forecast", "max_tokens", "moments", "weight")

    def __init__(self, use: Use, max_tokens: int | None, moments: HoldMoments) -> None:
        assert use.forecast is not None
        self.forecast: UsageForecast = use.forecast
        self.max_tokens = max_tokens
        self.count = 1
        self.weight = use.weight
        self.moments = moments
        self.expectation = use.expectation


class HoldSet:
    """The calls in flight on one account, and what they hold together.

    `calls` is the truth. Groups and sums are derived from it, and recomputed where a change was
    interrupted or where they were not needed so far (an account without a cap).

    Attributes:
        calls: The holds, each with its group; None for a fixed amount.
    """

    __slots__ = (
        "_drift",
        "_groups",
        "_is_sound",
        "_mean",
        "_variance",
        "calls",
        "metric",
    )

    def __init__(self, metric: str) -> None:
        self.metric = metric  # "spend" (nano-dollars), "tokens" or "calls"
        self.calls: dict[Hold, HoldGroup | None] = {}
        self._is_sound = True
        self._clear()

    def _clear(self) -> None:
        self._groups: dict[tuple[UsageForecast, int | None], HoldGroup] = {}
        self._mean = self._variance = self._drift = 0

    @property
    def held(self) -> int:
        """What the calls hold now, in the unit of the metric."""
        if not self._is_sound:
            self._clear()
            for hold in self.calls:
                self._add(hold)
            self._is_sound = True
        for group in self._groups.values():
            if group.expectation is not group.forecast.expectation:
                self._is_sound = False
                self._change(group, group.count, group.weight)
                self._is_sound = True
        return held_by(self._mean, self._variance, self._drift)

    def projected(self, use: Use) -> tuple[int, int]:
        """Return what the calls hold now, and what they would hold with one more."""
        held = self.held if self.calls or not self._is_sound else 0
        forecast = use.forecast
        if forecast is None:
            own = amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
            return held, held_by(self._mean + own, self._variance, self._drift)
        group = self._groups.get(self._key(use))
        if group is None:
            mean, variance, drift = self._of_one(use, use.max_tokens)
        elif group.weight == group.count * use.weight:
            mean, variance, drift = group.moments
        else:
            count, old = group.count, group.moments
            new = self._moments(forecast, count + 1, group.weight + use.weight, group.max_tokens)
            mean, variance, drift = (
                one * (count + 1) - other * count for one, other in zip(new, old, strict=True)
            )
        return held, held_by(self._mean + mean, self._variance + variance, self._drift + drift)

    def add(self, hold: Hold, weighs: bool = True) -> None:
        """Add a call.

        Args:
            hold: What the call holds.
            weighs: False defers the sums (an account without a cap).
        """
        if hold in self.calls:
            return
        # Unsound until the sums agree with `calls` again, whatever interrupts the steps between.
        sound, self._is_sound = self._is_sound, False
        hold.accounts.append(cast("Account", self))  # every set is one but in tests
        self.calls[hold] = None
        if weighs and sound:
            self._add(hold)
            self._is_sound = True

    def remove(self, hold: Hold) -> None:
        """Remove a call, if it is here."""
        if hold not in self.calls:
            return
        sound, self._is_sound = self._is_sound, False
        group = self.calls.pop(hold)
        if not sound:
            return
        use = hold.use
        if group is None:
            self._mean -= amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
        else:
            self._change(group, group.count - 1, group.weight - use.weight)
            if not group.count:
                del self._groups[(group.forecast, group.max_tokens)]
        self._is_sound = True

    def _add(self, hold: Hold) -> None:
        use = hold.use
        if use.forecast is None:
            self.calls[hold] = None
            self._mean += amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
            return
        key = self._key(use)
        group = self._groups.get(key)
        if group is not None:
            self.calls[hold] = group
            self._change(group, group.count + 1, group.weight + use.weight)
            return
        # Where another call has settled since this one was estimated, `held` sees it.
        moments = self._of_one(use, key[1])
        self.calls[hold] = self._groups[key] = HoldGroup(use, key[1], moments)
        self._mean += moments.mean
        self._variance += moments.variance
        self._drift += moments.drift

    def _key(self, use: Use) -> tuple[UsageForecast, int | None]:
        assert use.forecast is not None
        max_tokens = use.max_tokens
        if max_tokens is not None and len(self._groups) >= _GROUPS_MAX:
            max_tokens = 1 << max(max_tokens - 1, 0).bit_length()
        return use.forecast, max_tokens

    def _change(self, group: HoldGroup, count: int, weight: int) -> None:
        """Change a group to a count and total weight, at what its calls are expected to use now."""
        before, (mean, variance, drift) = group.count, group.moments
        expectation = group.forecast.expectation
        is_same = expectation is group.expectation and weight * before == group.weight * count
        if is_same or not count:
            more = count - before  # calls of the same size have the same moments
            self._mean += mean * more
            self._variance += variance * more
            self._drift += drift * more
        else:
            group.expectation = expectation
            group.moments = new = self._moments(group.forecast, count, weight, group.max_tokens)
            self._mean += new.mean * count - mean * before
            self._variance += new.variance * count - variance * before
            self._drift += new.drift * count - drift * before
        group.count, group.weight = count, weight

    def _of_one(self, use: Use, max_tokens: int | None) -> HoldMoments:
        """Return the moments of a call that is alone in its group, as it was estimated."""
        assert use.forecast is not None and use.expectation is not None
        if use.max_tokens != max_tokens:
            return self._moments(use.forecast, 1, use.weight, max_tokens)
        mean = use.cost_nano if self.metric == "spend" else use.tokens
        return moments_around(mean, use.expectation, self.metric, max_tokens)

    def _moments(
        self, forecast: UsageForecast, count: int, weight: int, max_tokens: int | None
    ) -> HoldMoments:
        """Return the moments of each of `count` calls of a total weight."""
        return moments_of(
            forecast.expectation, self.metric, -(-weight // count), max_tokens, forecast.rates
        )


class Account(HoldSet):
    """One limit of one user in one window, and the calls in flight that it counts."""

    __slots__ = (
        "acknowledged",
        "excludes_shadow",
        "key",
        "pending",
        "reason",
        "shadow_acknowledged",
        "shadow_pending",
        "stale_us",
        "thresholds",
        "waiting",
        "warned",
    )

    def __init__(self, key: AccountKey, reason: str, thresholds: Thresholds | None) -> None:
        super().__init__(key.limit.metric)
        self.key = key  # the limit, its session and its window
        self.reason = reason  # the `gate_reason` of a refusal here
        self.thresholds = thresholds  # None where the plan does not limit this
        self.acknowledged = 0  # the ledger's figure as last read, in the unit of the metric
        self.pending = 0  # spend of this process that the ledger has not acknowledged
        self.shadow_acknowledged = 0  # the part of either that blocked calls spent
        self.shadow_pending = 0
        self.excludes_shadow = False  # whether the plan decides without that part (shadow mode)
        self.warned = False  # whether the warn line was reported in this window
        self.waiting: list[Waiter] = []  # calls that wait for room here, the first come first
        self.stale_us = END_OF_TIME_US  # when a rolling sum has to be read again

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

    @property
    def is_in_use(self) -> bool:
        """Whether something would be lost by forgetting this account."""
        return bool(self.calls or self.pending or self.waiting)
