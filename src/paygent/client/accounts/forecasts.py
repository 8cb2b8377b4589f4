"""What calls are expected to use, learned from what calls like them really used.

Calls of one user, model, route and price list share a `UsageForecast`, so each settlement updates
the expectation of all of them. Plain state, changed under the user's lock.
"""

from __future__ import annotations

from typing import NamedTuple

from paygent.core.bounded_dict import BoundedDict
from paygent.core.estimate import Estimate, Expectation, cost_of, tokens_of
from paygent.core.money import read_parts_per_million
from paygent.core.plan import PlanConfig
from paygent.core.pricing import Rates
from paygent.core.usage_stats import (
    OBSERVATIONS_MIN,
    ColdStartPolicy,
    Observation,
    UsageStats,
    expect,
    observe,
)
from paygent.prices.catalogue import Resolved

HISTORIES_PER_USER_MAX = 64
"""(Model, route) pairs remembered per user."""

_HISTORIES_MAX = 4_096  # the same over all users
_LEARNED_FROM_EACH = 8  # first calls of a user that update everyone's history; then every eighth
_EVERY_CALL_UP_TO = 32  # after so many observations, one more hardly moves the mean
_RENEWED_EVERY = 8  # from then on, holds are re-estimated at every eighth settlement


class UsageHistory:
    """What calls of one model and route used, of one user or of everyone."""

    __slots__ = ("stats", "version")

    def __init__(self) -> None:
        self.stats = UsageStats()  # running sums
        self.version = 0  # grows when holds that rest on the sums are to be re-estimated

    def add(self, observation: Observation, rates: Rates) -> None:
        """Add a settled call; see `observe`."""
        self.stats = observe(self.stats, observation, rates)
        calls = self.stats.calls
        if calls <= _EVERY_CALL_UP_TO or calls % _RENEWED_EVERY == 0:
            self.version += 1


History = BoundedDict[tuple[str, str], UsageHistory]
"""Usage histories by (canonical model, route)."""


class UsageForecast:
    """The expectation shared by calls of one user, model, route and price list.

    Attributes:
        resolved: The model under the user's plan; kept, so that its identity stays unique.
        own, everyone: The histories of this user and of all users.
        is_free: The plan prices this model at 0, so spend limits do not apply to it.
    """

    __slots__ = (
        "_expectation",
        "_stamp",
        "cold_start",
        "everyone",
        "is_free",
        "own",
        "rates",
        "resolved",
    )

    def __init__(
        self,
        resolved: Resolved,
        own: UsageHistory,
        everyone: UsageHistory,
        cold_start: ColdStartPolicy,
        *,
        is_free: bool,
    ) -> None:
        self.resolved = resolved
        self.own = own
        self.everyone = everyone
        self.rates = resolved.rates  # what the tokens cost
        self.cold_start = cold_start  # what a call holds until enough is known
        self.is_free = is_free
        self._stamp: int | None = None
        self._expectation = expect(own.stats, everyone.stats, cold_start)

    @property
    def expectation(self) -> Expectation:
        """What the next call is expected to use, as of the last settlement."""
        own = self.own
        # A negative stamp never equals a sum of versions.
        rests_on_own = own.stats.calls >= OBSERVATIONS_MIN
        stamp = ~own.version if rests_on_own else own.version + self.everyone.version
        if stamp != self._stamp:
            self._expectation = expect(own.stats, self.everyone.stats, self.cold_start)
            self._stamp = stamp
        return self._expectation

    @property
    def is_cold(self) -> bool:
        """Whether nothing of this user and model has settled yet."""
        return not self.own.stats.calls

    def learn(self, observation: Observation) -> None:
        """Update the histories with a settled call."""
        self.own.add(observation, self.rates)
        calls = self.own.stats.calls
        # One busy user must not dominate what is expected of everyone.
        if calls <= _LEARNED_FROM_EACH or calls % _LEARNED_FROM_EACH == 0:
            self.everyone.add(observation, self.rates)

    def capped(self, max_tokens: int) -> int:
        """Return a bound on output, or the model's maximum if that is lower; 0 is no bound."""
        model_max = self.cold_start.model_max_tokens
        if max_tokens and model_max is not None and model_max < max_tokens:
            return model_max
        return max_tokens

    def estimate(self, weight: int, max_tokens: int | None) -> Estimate:
        """Return the tokens that a call of this size, with this bound on output, is expected to use
        now.
        """
        capped = None if max_tokens is None else self.capped(max_tokens)
        return tokens_of(self.expectation, weight, capped)

    def use(self, weight: int, max_tokens: int | None) -> Use:
        """Return what such a call is expected to use now."""
        estimate = self.estimate(weight, max_tokens)
        cost_nano = cost_of(self.expectation, estimate, self.rates)
        return Use(estimate, cost_nano, self.is_free)


class ForecastTable:
    """The histories of all users together, by model and route."""

    def __init__(self) -> None:
        self._everyone: History = BoundedDict(_HISTORIES_MAX)

    def forecast(
        self, plan: PlanConfig, own: History, route: str, resolved: Resolved, *, generates: bool
    ) -> UsageForecast:
        """Return a new forecast for calls of one user, who gets a history if they have none."""
        key = (resolved.model_key, route)
        cold_start = ColdStartPolicy(
            plan.pre_call_buffer_tokens,
            resolved.output_ceiling,
            read_parts_per_million(plan.reservation_safety_factor),
            generates,
        )
        return UsageForecast(
            resolved,
            _history(own, key),
            _history(self._everyone, key),
            cold_start,
            is_free=resolved.is_free and not plan.tool_costs_nano,
        )


def _history(histories: History, key: tuple[str, str]) -> UsageHistory:
    history = histories.get(key)
    if history is None:
        history = histories[key] = UsageHistory()
    return history


class Use(NamedTuple):
    """What one call may use.

    Attributes:
        is_free: Spend limits do not apply to this call.
    """

    estimate: Estimate  # its tokens
    cost_nano: int  # their cost
    is_free: bool = False

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.estimate.input_tokens + self.estimate.output_tokens
