"""Calls in flight: what each may use, and what a set of them holds on an account.

What a call holds is not fixed when it begins: it is what calls like it are expected to use *now*,
so that each settlement corrects the holds of those still under way. Calls that are alike (a
`Flight`: one user, model, route and price list) are therefore kept as counts and re-estimated
together, which costs the same for one call and for a thousand. A strict plan's calls, and those
that nothing is expected of, hold a fixed amount each.

Plain state, changed under the user's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from paygent.core.account import amount
from paygent.core.estimate import (
    OBSERVATIONS_MIN,
    ColdStartPolicy,
    Estimate,
    Expectation,
    HoldMoments,
    Observation,
    Size,
    UsageStats,
    cost_of,
    expect,
    held_by,
    load_around,
    load_of,
    observe,
    tokens_of,
    weight_of,
)
from paygent.core.gate import Reading
from paygent.core.money import read_parts_per_million
from paygent.core.period import Window
from paygent.core.pricing import Rates
from paygent.prices.catalogue import Resolved

if TYPE_CHECKING:
    from paygent.client.accounts.user_state import Account, User

_SEEN_MAX = 4_096  # (model, route) pairs whose calls are remembered, over all users
_SEEN_PER_USER_MAX = 64  # the same of one user; beyond it they are learned anew
_LEARNED_OF_EACH = 8  # calls of each user that tell what everyone's take; then every eighth
_EVERY_CALL_UP_TO = 32  # observations after which a mean moves little with one more
_RENEWED_EVERY = 8  # from then on holds are re-estimated at every so many settlements


class UsageHistory:
    """What calls of one model and route took, of one user or of everyone.

    Attributes:
        observed: The sums.
        version: Grows when holds that rest on it are to be re-estimated.
    """

    __slots__ = ("stats", "version")

    def __init__(self) -> None:
        self.stats = UsageStats()
        self.version = 0

    def add(
        self, taken: Observation, rates: Rates, expected: tuple[int, int] | None = None
    ) -> None:
        """Add a settled call; see `observe`."""
        self.stats = observe(self.stats, taken, rates, expected)
        calls = self.stats[0]
        if calls <= _EVERY_CALL_UP_TO or calls % _RENEWED_EVERY == 0:
            self.version += 1


class UsageForecast:
    """Calls of one user that are expected alike.

    Attributes:
        resolved: Their model under the user's plan; kept, so that its identity stays its own.
        own, everyone: What is known of them.
        rates: What their tokens cost.
        caution: What holds while too little is known.
        is_free: Every rate is 0 because the plan says so: spend limits are not theirs.
    """

    __slots__ = (
        "_expectation",
        "_stamp",
        "caution",
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
        caution: ColdStartPolicy,
        *,
        is_free: bool,
    ) -> None:
        self.resolved = resolved
        self.own = own
        self.everyone = everyone
        self.rates = resolved.rates
        self.caution = caution
        self.is_free = is_free
        self._stamp: int | None = None
        self._expectation = expect(own.stats, everyone.stats, caution)

    @property
    def expectation(self) -> Expectation:
        """What the next call is expected to use, as of the last settlement."""
        own = self.own
        if own.stats[0] >= OBSERVATIONS_MIN:
            stamp = ~own.version  # negative, so never the same number as below
        else:
            stamp = own.version + self.everyone.version
        if stamp != self._stamp:
            self._expectation = expect(own.stats, self.everyone.stats, self.caution)
            self._stamp = stamp
        return self._expectation

    @property
    def _rests_on_own(self) -> bool:
        """Whether what was last expected rests on the user's own calls alone."""
        return self._stamp is not None and self._stamp < 0

    def learn(self, taken: Observation, use: Use | None = None) -> None:
        """Take in what a settled call took; `use` is what it was held for."""
        expected = None
        if use is not None and use.expectation is self._expectation and self._rests_on_own:
            expected = use.tokens, use.cost_nano  # nothing has changed since it was worked out
        self.own.add(taken, self.rates, expected)
        calls = self.own.stats[0]
        if calls <= _LEARNED_OF_EACH or calls % _LEARNED_OF_EACH == 0:
            self.everyone.add(taken, self.rates)

    def use(self, size: Size, max_tokens: int | None) -> Use:
        """Return what a call of this size is expected to use now."""
        expectation = self.expectation
        weight = weight_of(size)
        if max_tokens is not None and self.caution.model_max_tokens is not None:
            max_tokens = min(max_tokens, self.caution.model_max_tokens)
        estimate = tokens_of(expectation, weight, max_tokens)
        cost_nano = cost_of(expectation, estimate, self.rates)
        return Use(estimate, cost_nano, self, weight, max_tokens, self.is_free, expectation)


class ForecastTable:
    """What all calls of this process took, by model and route, in tables of bounded size."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], UsageHistory] = {}

    def forecast(
        self, user: User, route: str, resolved: Resolved, *, generates: bool
    ) -> UsageForecast:
        """Return a user's flight, made at its first call; see `Accounts.flight`."""
        key = (resolved.model_key, route)
        plan = user.plan
        caution = ColdStartPolicy(
            plan.pre_call_buffer_tokens,
            resolved.context_tokens,
            read_parts_per_million(plan.reservation_safety_factor),
            generates,
        )
        made = UsageForecast(
            resolved,
            _kept(user.seen, key, _SEEN_PER_USER_MAX),
            _kept(self.seen, key, _SEEN_MAX),
            caution,
            is_free=resolved.is_free and not plan.tool_costs_nano,
        )
        if len(user.forecasts) >= _SEEN_PER_USER_MAX:
            user.forecasts.clear()
        user.forecasts[(route, id(resolved))] = made
        return made


def _kept(
    seen: dict[tuple[str, str], UsageHistory], key: tuple[str, str], most: int
) -> UsageHistory:
    """Return what is known of a model and route, from a table of bounded size."""
    found = seen.get(key)
    if found is None:
        if len(seen) >= most:
            seen.clear()
        found = seen[key] = UsageHistory()
    return found


class Use(NamedTuple):
    """What one call may use.

    Attributes:
        estimate: Its tokens.
        cost_nano: Their cost.
        flight: The calls that it is like, with which it is re-estimated; None holds just this.
        weight: Size of its request in bytes.
        max_tokens: The request's own bound on output, or None.
        is_free: Spend limits are not this call's.
        expectation: What the estimate was made of, where there is a flight.
    """

    estimate: Estimate
    cost_nano: int
    forecast: UsageForecast | None = None
    weight: int = 0
    max_tokens: int | None = None
    is_free: bool = False
    expectation: Expectation | None = None

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.estimate[0] + self.estimate[1]


class Hold:
    """What a call holds, on every account that it touches.

    Attributes:
        use: What the call may use.
        model_key, session_id, at_us: Which accounts count it.
        owner: The thread or task that began it.
        period: The billing period that it belongs to.
        warnings: Readings of accounts newly past their warn line.
        accounts: The accounts that it is on, by the time each took it.
    """

    __slots__ = (
        "accounts",
        "at_us",
        "model_key",
        "owner",
        "period",
        "session_id",
        "use",
        "warnings",
    )

    def __init__(
        self, use: Use, model_key: str, session_id: str = "", at_us: int = 0, owner: object = None
    ) -> None:
        self.use = use
        self.model_key = model_key
        self.session_id = session_id
        self.at_us = at_us
        self.owner = owner
        self.period = Window(0, 0)
        self.warnings: tuple[Reading, ...] = ()
        self.accounts: list[Account] = []

    @property
    def model(self) -> str:
        """The model that counts, as for an event; see `AccountKey.counts`."""
        return self.model_key


NOTHING_USED = Use(Estimate(0, 0), 0)


class HoldGroup:
    """Calls in flight on one account that are alike, as counts, and what one of them weighs."""

    __slots__ = ("count", "each", "expectation", "forecast", "max_tokens", "weight")

    def __init__(self, use: Use, max_tokens: int | None, each: HoldMoments) -> None:
        """Stand for one call."""
        assert use.forecast is not None  # only calls that are re-estimated are tallied
        self.forecast: UsageForecast = use.forecast
        self.max_tokens = max_tokens
        self.count = 1
        self.weight = use.weight
        self.each = each
        self.expectation = use.expectation


_TALLIES_MAX = 64  # with more, bounds on output are rounded up to powers of two: a score at most


class HoldSet:
    """The calls in flight on one account, and what they hold together.

    `calls` is the truth. Tallies and sums follow from it, and are made anew from it where a change
    was interrupted or where nobody needed them so far (an account without a cap).
    """

    __slots__ = ("_drift", "_is_sound", "_mean", "_tallies", "_variance", "calls", "metric")

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.calls: dict[Hold, HoldGroup | None] = {}
        self._is_sound = True
        self._clear()

    def _clear(self) -> None:
        self._tallies: dict[tuple[UsageForecast, int | None], HoldGroup] = {}
        self._mean = self._variance = self._drift = 0

    @property
    def held(self) -> int:
        """What the calls hold now, in the unit of the metric."""
        if not self._is_sound:
            self._clear()
            for hold in self.calls:
                self._add(hold)
            self._is_sound = True
        for tally in self._tallies.values():
            if tally.expectation is not tally.forecast.expectation:
                self._is_sound = False
                self._change(tally, tally.count, tally.weight)
                self._is_sound = True
        return held_by(self._mean, self._variance, self._drift)

    def projected(self, use: Use) -> tuple[int, int]:
        """Return what the calls hold now, and what they would hold with one more."""
        held = self.held if self.calls or not self._is_sound else 0
        forecast = use.forecast
        if forecast is None:
            own = amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
            return held, held_by(self._mean + own, self._variance, self._drift)
        tally = self._tallies.get(self._key(use))
        if tally is None:
            mean, variance, drift = self._of_one(use, use.max_tokens)
        elif tally.weight == tally.count * use.weight:
            mean, variance, drift = tally.each
        else:
            count, old = tally.count, tally.each
            new = self._each(forecast, count + 1, tally.weight + use.weight, tally.max_tokens)
            mean, variance, drift = (
                one * (count + 1) - other * count for one, other in zip(new, old, strict=True)
            )
        return held, held_by(self._mean + mean, self._variance + variance, self._drift + drift)

    def add(self, hold: Hold, weighs: bool = True) -> None:
        """Take a call in.

        Args:
            hold: Of the call.
            weighs: False puts off the sums (an account without a cap).
        """
        if hold in self.calls:
            return
        sound, self._is_sound = self._is_sound, False
        hold.accounts.append(cast("Account", self))
        self.calls[hold] = None
        if weighs and sound:
            self._add(hold)
            self._is_sound = True

    def remove(self, hold: Hold) -> None:
        """Let a call go, if it is here."""
        if hold not in self.calls:
            return
        sound, self._is_sound = self._is_sound, False
        tally = self.calls.pop(hold)
        if not sound:
            return
        use = hold.use
        if tally is None:
            self._mean -= amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
        else:
            self._change(tally, tally.count - 1, tally.weight - use.weight)
            if not tally.count:
                del self._tallies[(tally.forecast, tally.max_tokens)]
        self._is_sound = True

    def _add(self, hold: Hold) -> None:
        use = hold.use
        if use.forecast is None:
            self.calls[hold] = None
            self._mean += amount(self.metric, cost_nano=use.cost_nano, tokens=use.tokens)
            return
        key = self._key(use)
        tally = self._tallies.get(key)
        if tally is not None:
            self.calls[hold] = tally
            self._change(tally, tally.count + 1, tally.weight + use.weight)
            return
        # Where another call has settled since this one was estimated, `held` sees it.
        each = self._of_one(use, key[1])
        self.calls[hold] = self._tallies[key] = HoldGroup(use, key[1], each)
        self._mean += each[0]
        self._variance += each[1]
        self._drift += each[2]

    def _key(self, use: Use) -> tuple[UsageForecast, int | None]:
        assert use.forecast is not None  # only calls that are re-estimated are tallied
        max_tokens = use.max_tokens
        if max_tokens is not None and len(self._tallies) >= _TALLIES_MAX:
            max_tokens = 1 << max(max_tokens - 1, 0).bit_length()
        return use.forecast, max_tokens

    def _change(self, tally: HoldGroup, count: int, weight: int) -> None:
        """Let a tally stand for so many calls of so much weight, as they are expected now."""
        before, (mean, variance, drift) = tally.count, tally.each
        expectation = tally.forecast.expectation
        is_same = expectation is tally.expectation and weight * before == tally.weight * count
        if is_same or not count:
            more = count - before  # calls of the same size weigh the same
            self._mean += mean * more
            self._variance += variance * more
            self._drift += drift * more
        else:
            tally.expectation = expectation
            tally.each = each = self._each(tally.forecast, count, weight, tally.max_tokens)
            self._mean += each[0] * count - mean * before
            self._variance += each[1] * count - variance * before
            self._drift += each[2] * count - drift * before
        tally.count, tally.weight = count, weight

    def _of_one(self, use: Use, max_tokens: int | None) -> HoldMoments:
        """Return what a call weighs that is the only one of its kind, as it was estimated."""
        assert use.forecast is not None and use.expectation is not None  # only such are tallied
        if use.max_tokens != max_tokens:
            return self._each(use.forecast, 1, use.weight, max_tokens)
        mean = use.cost_nano if self.metric == "spend" else use.estimate[0] + use.estimate[1]
        return load_around(mean, use.expectation, self.metric, max_tokens)

    def _each(
        self, forecast: UsageForecast, count: int, weight: int, max_tokens: int | None
    ) -> HoldMoments:
        """Return what each of so many calls weighs."""
        return load_of(
            forecast.expectation, self.metric, -(-weight // count), max_tokens, forecast.rates
        )
