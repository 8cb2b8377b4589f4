"""The gate's rules written a second time: no lanes, no allotments, nothing kept but what happened.

Every decision is made from the list of events and the list of open calls, by the pure functions of
`core/` alone, for all limits of the plan at each call. `tests/property/two_gears.py` drives it
beside two real Paygents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from paygent.core.account import AccountKey, amount
from paygent.core.estimate import (
    CallGroup,
    Estimate,
    Expectation,
    bound,
    cost_of,
    hold_of,
    tokens_of,
)
from paygent.core.gate import Decision, Reading, contention, decide, judge, thresholds_of, warning
from paygent.core.limit import Limit, LimitKey
from paygent.core.period import END_OF_TIME_US, calendar_month, day, rolling_length_us
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.pricing import bound_nano, dearest_prices, is_plain
from paygent.core.providers import provider_facts
from paygent.core.request_size import Size
from paygent.core.usage import Usage
from paygent.core.usage_stats import ColdStartPolicy, Observation, UsageStats, expect, observe
from paygent.prices.catalogue import Catalogue, Resolved
from paygent.prices.model_names import plain
from paygent.prices.usage_cost import PriceQuery, price
from paygent.types import GuardResult, guard_result

PROVIDER = "openai"
LEARNED_FROM_EACH = 8  # first calls of a user that teach about everyone's; then every eighth
COLD_MAX = 2  # calls in flight of a model of unknown size, where they may not all fit
CONTENTION = "contention"

Fired = tuple[str, GuardResult]


class Booked(NamedTuple):
    """An event, as far as limits look at it."""

    user_id: str
    session_id: str
    at_us: int
    model: str
    model_key: str
    period_start_us: int
    tokens: int
    cost_nano: int
    blocked: bool


@dataclass(eq=False)
class Forecast:
    """What calls of one user and price list are expected to use: always from all that settled."""

    resolved: Resolved
    cold_start: ColdStartPolicy
    own: list[UsageStats]  # one item, shared by the price lists of a model
    everyone: list[UsageStats]
    is_free: bool

    @property
    def now(self) -> Expectation:
        """The expectation as of the last settlement."""
        return expect(self.own[0], self.everyone[0], self.cold_start)

    def capped(self, max_tokens: int | None) -> int | None:
        """Return a bound on output, or the model's own if that is lower."""
        most = self.cold_start.model_max_tokens
        return max_tokens if max_tokens is None or most is None else min(max_tokens, most)

    def learn(self, observation: Observation) -> None:
        """Add a settled call."""
        rates = self.resolved.rates
        self.own[0] = observe(self.own[0], observation, rates)
        calls = self.own[0].calls
        if calls <= LEARNED_FROM_EACH or calls % LEARNED_FROM_EACH == 0:
            self.everyone[0] = observe(self.everyone[0], observation, rates)


@dataclass(eq=False)
class OpenCall:
    """A call in flight."""

    user: User
    plan: PlanConfig
    forecast: Forecast
    session_id: str
    at_us: int
    model: str
    model_key: str
    period_start_us: int
    weight: int
    max_tokens: int | None
    fixed: tuple[Estimate, int] | None = None  # what it holds under a strict plan
    blocked: bool = False

    def use(self) -> tuple[Estimate, int]:
        """Return the tokens and the cost that it may use."""
        if self.fixed is not None:
            return self.fixed
        forecast = self.forecast
        estimate = tokens_of(forecast.now, self.weight, forecast.capped(self.max_tokens))
        return estimate, cost_of(forecast.now, estimate, forecast.resolved.rates)


@dataclass(eq=False)
class User:
    """A user with everything that has happened to them."""

    user_id: str
    plan_name: str = "default"
    plan: PlanConfig = field(default_factory=PlanConfig)
    period_start_us: int = 0
    period_end_us: int = 0
    open_session: str = ""
    session_used_us: int = 0
    last_session: str = ""
    events: list[Booked] = field(default_factory=list)
    calls: list[OpenCall] = field(default_factory=list)
    histories: dict[str, list[UsageStats]] = field(default_factory=dict)
    forecasts: dict[int, Forecast] = field(default_factory=dict)
    lines: dict[AccountKey, Any] = field(default_factory=dict)  # thresholds, as last looked at
    warned: set[AccountKey] = field(default_factory=set)
    read_us: int = 0  # when the ledger was last read
    read_events: set[int] = field(default_factory=set)  # what it had by then


class OldRules:
    """Users, plans and decisions. Times are passed in."""

    def __init__(self, *, warns_every_call: bool, raises: bool) -> None:
        self.plans: dict[str, PlanConfig] = {}
        self.assigned: dict[str, str] = {}
        self.users: dict[str, User] = {}
        self.fired: list[Fired] = []
        self._warns_every_call, self._raises = warns_every_call, raises
        self._catalogue = Catalogue()
        self._everyone: dict[str, list[UsageStats]] = {}
        self._delivered: set[int] = set()  # of events that the ledger has, by `id`
        self._sessions = 0

    # -- users and sessions

    def look_up(self, user_id: str, at_us: int, read: Iterable[tuple[str, str]] = ()) -> User:
        """Return a user with plan and period as of now; `read` names users that were read from the
        ledger just now, each with a session.
        """
        user = self.users.setdefault(user_id, User(user_id))
        user.plan_name = self.assigned.get(user_id, "default")
        user.plan = self.plans.get(user.plan_name) or PlanConfig()
        user.period_start_us, user.period_end_us = calendar_month(at_us)
        for name, session_id in read:
            if name == user_id:
                user.read_us, user.read_events = at_us, self._delivered.copy()
                for each in {session_id, user.open_session}:
                    self.touch_all(user, each, at_us)
        return user

    def session_of(self, user: User, session_id: str | None, at_us: int) -> str:
        """Return the session of a call that begins."""
        if session_id is None:
            if not user.open_session or self._is_idle(user, at_us):
                self._sessions += 1
                user.open_session = f"#{self._sessions}"
            user.session_used_us = at_us
            session_id = user.open_session
        user.last_session = session_id
        return session_id

    @staticmethod
    def _is_idle(user: User, at_us: int) -> bool:
        timeout_us = int(user.plan.session_timeout_minutes * 60_000_000)
        return at_us - user.session_used_us > timeout_us

    def advised_session(self, user: User, at_us: int) -> str:
        """Return the session that advice is about."""
        session_id = user.last_session or user.open_session
        is_over = session_id == user.open_session and self._is_idle(user, at_us)
        return "" if is_over else session_id

    # -- accounts

    def touch(
        self, user: User, session_id: str, model_key: str, at_us: int
    ) -> list[tuple[AccountKey, Limit]]:
        """Return the accounts of a call; a warning is due again where a line has moved."""
        touched = []
        for limit in limits_of(user.plan):
            if limit.model is not None and plain(limit.model) != model_key:
                continue
            if limit.scope == "session" and not session_id:
                continue
            key = _key_of(user, limit.key, session_id, at_us)
            touched.append((key, limit))
            self._set_line(user, key, _thresholds(user.plan, limit))
        limited = {key.limit for key, _ in touched}
        for scope, window in (("user", "period"), ("session", "session")):
            limit_key = LimitKey("spend", scope, "", window)
            if limit_key not in limited and (session_id or scope == "user"):
                self._set_line(user, _key_of(user, limit_key, session_id, at_us), None)
        return touched

    @staticmethod
    def _set_line(user: User, key: AccountKey, thresholds: Any) -> None:
        if user.lines.get(key) != thresholds:
            user.lines[key] = thresholds
            user.warned.discard(key)

    def touch_all(self, user: User, session_id: str, at_us: int) -> None:
        """Look at every account that a call in a session could touch."""
        models = {plain(limit.model) for limit in limits_of(user.plan) if limit.model is not None}
        for model_key in ("", *models):
            self.touch(user, session_id, model_key, at_us)

    def spent(self, user: User, key: AccountKey) -> int:
        """Return what the gate compares with the cap."""
        length_us = rolling_length_us(key.limit.window)
        total = 0
        for event in user.events:
            if not key.counts(event) or (event.blocked and not user.plan.enforce):
                continue
            is_read = length_us is not None and id(event) in user.read_events
            if is_read and event.at_us < user.read_us - (length_us or 0):
                continue
            total += amount(key.limit.metric, cost_nano=event.cost_nano, tokens=event.tokens)
        return total

    def _counted(self, user: User, key: AccountKey) -> list[OpenCall]:
        return [
            call
            for call in user.calls
            if key.start_us <= call.at_us < key.end_us
            and key.session_id in ("", call.session_id)
            and key.limit.model in ("", call.model_key)
        ]

    def _reading(
        self, user: User, key: AccountKey, limit: Limit, call: OpenCall | None, *, alone: bool
    ) -> Reading:
        thresholds = _thresholds(user.plan, limit)
        calls = [] if alone else self._counted(user, key)
        held = _held(key.limit.metric, calls)
        need = _held(key.limit.metric, [*calls, call]) - held if call is not None else 0
        spent = self.spent(user, key)
        resets_us = key.end_us if key.end_us < END_OF_TIME_US else 0
        left = max(thresholds.block - spent, 0)
        return Reading(
            limit.key.reason, thresholds, spent, min(held, left), need, limit.metric, resets_us
        )

    # -- the gate

    def begin(
        self,
        user: User,
        model: str,
        session_id: str | None,
        size: tuple[int, int | None],
        at_us: int,
    ) -> OpenCall | GuardResult:
        """Decide on a call; it is open then, or refused."""
        session_id = self.session_of(user, session_id, at_us)
        call = self._call(user, model, session_id, size, at_us)
        decision = self._decide(user, call)
        if decision is not None:
            refusal = guard_result(decision, user.user_id, plan=user.plan_name, model=model)
            enforces = self._raises and user.plan.enforce
            if enforces or refusal.gate_reason != CONTENTION:
                if user.plan.enforce:
                    self.fired.append(("hard_gate", refusal))
                if enforces:
                    return refusal
                call.blocked = True
        user.calls.append(call)
        return call

    def _call(
        self, user: User, model: str, session_id: str, size: tuple[int, int | None], at_us: int
    ) -> OpenCall:
        plan, (weight, max_tokens) = user.plan, size
        resolved = self._catalogue.resolve(PROVIDER, model, at_us, plan)
        forecast = user.forecasts.get(id(resolved))
        if forecast is None:
            own = user.histories.setdefault(resolved.model_key, [UsageStats()])
            everyone = self._everyone.setdefault(resolved.model_key, [UsageStats()])
            factor = round(plan.reservation_safety_factor * 10**6)
            cold = ColdStartPolicy(plan.pre_call_buffer_tokens, resolved.output_ceiling, factor)
            is_free = resolved.is_free and not plan.tool_costs_nano
            forecast = Forecast(resolved, cold, own, everyone, is_free)
            user.forecasts[id(resolved)] = forecast
        call = OpenCall(
            user, plan, forecast, session_id, at_us, model, resolved.model_key,
            user.period_start_us, weight, max_tokens,
        )  # fmt: skip
        if plan.pre_call_estimate:
            call.fixed = _worst(call)
        return call

    def _decide(self, user: User, call: OpenCall) -> Decision | None:
        """Return the decision that refuses a call, or None; fire the warnings that are due."""
        strict = user.plan.pre_call_estimate
        accounts = self.touch(user, call.session_id, call.model_key, call.at_us)
        limiting = [
            (key, self._reading(user, key, limit, call, alone=False))
            for key, limit in accounts
            if not (call.forecast.is_free and limit.metric == "spend" and limit.cap_exact)
        ]
        is_cold = not call.forecast.own[0].calls and call.fixed is None
        obstacles = []
        for key, reading in limiting:
            held = _held(key.limit.metric, self._counted(user, key))
            block = reading.thresholds.block
            verdict = judge(reading.spent, held, reading.need, block, strict=strict)
            may_go = verdict in ("fits", "straddles")
            if verdict == "straddles" and is_cold:
                may_go = self._fits_at_worst(user, key, call, block - reading.spent)
            if not may_go:
                obstacles.append((verdict != "exhausted", reading))
        decision: Decision | None = None
        if obstacles:
            decision = decide(tuple(reading for _, reading in limiting), strict=strict)
            if decision.status != "hard_gate":  # it would go, if its size were known
                decision = contention(min(obstacles, key=lambda each: each[0])[1])
        if decision is None or not decision.retryable:
            past = [
                (key, reading)
                for key, reading in limiting
                if reading.thresholds.warn <= reading.spent < reading.thresholds.block
            ]
            self._warn(user, past, call.model)
        return decision

    def _warn(self, user: User, past: list[tuple[AccountKey, Reading]], model: str) -> None:
        for key, reading in past:
            if user.plan.enforce and (self._warns_every_call or key not in user.warned):
                user.warned.add(key)
                result = guard_result(
                    warning(reading), user.user_id, plan=user.plan_name, model=model
                )
                self.fired.append(("soft_gate", result))

    def _fits_at_worst(self, user: User, key: AccountKey, call: OpenCall, left: int) -> bool:
        metric = key.limit.metric
        calls = self._counted(user, key)
        like_it = [each for each in calls if each.model_key == call.model_key]
        if metric == "calls" or len(like_it) < COLD_MAX:
            return True
        needed = _held(metric, [each for each in calls if each.model_key != call.model_key])
        for each in (*like_it, call):
            context, ceiling = (
                each.forecast.resolved.context_tokens,
                each.forecast.resolved.output_ceiling,
            )
            if context is None or ceiling is None:
                return False
            if metric == "tokens":
                needed += context
                continue
            prices = dearest_prices(each.forecast.resolved.rates)
            dearest = max(prices.input, prices.cache_write, prices.cache_write_long)
            output = min(each.max_tokens or ceiling, ceiling) * max(prices.output, prices.reasoning)
            needed += -(-(context * dearest + output) // 10**9)
        return needed <= left

    def check(self, user: User, model: str | None, at_us: int) -> GuardResult:
        """Return the decision on a call now, without one."""
        session_id = self.advised_session(user, at_us)
        resolved = self._catalogue.resolve("", model, at_us, user.plan) if model else None
        model_key = resolved.model_key if resolved is not None else ""
        is_free = resolved is not None and resolved.is_free
        readings = tuple(
            self._reading(user, key, limit, None, alone=False)
            for key, limit in self.touch(user, session_id, model_key, at_us)
            if not (is_free and limit.metric == "spend" and limit.cap_exact)
        )
        decision = decide(readings, strict=user.plan.pre_call_estimate)
        if not user.plan.enforce:
            decision = decision._replace(status="ok", reason=None, retryable=False)
        return guard_result(decision, user.user_id, plan=user.plan_name, model=model)

    # -- the end of a call

    def settle(self, call: OpenCall, usage: Usage | None) -> None:
        """Book what a call used, or its estimate."""
        resolved, user = call.forecast.resolved, call.user
        is_estimated = usage is None
        if usage is None:
            estimate, _ = call.use()
            usage = Usage(*estimate, quality="estimated")
        query = PriceQuery(PROVIDER, call.model, call.plan, call.at_us, resolved)
        priced = price(self._catalogue, query, usage)
        user.calls.remove(call)
        place = (user.user_id, call.session_id, call.at_us, priced.model, priced.model_key)
        figures = (call.period_start_us, usage.total_tokens, priced.cost_nano, call.blocked)
        self.book(user, Booked(*place, *figures))
        teaches = call.plan.enforce or not call.blocked
        if is_estimated or not teaches or priced.quality not in ("exact", "unpriced"):
            return
        has_plain_price = priced.price_id == resolved.rates.price_id and is_plain(usage)
        call.forecast.learn(
            Observation(
                call.weight,
                usage.input_tokens,
                usage.output_tokens,
                priced.cost_nano,
                call.forecast.capped(call.max_tokens) if call.fixed is None else None,
                priced.cost_nano if has_plain_price else None,
            )
        )

    def book(self, user: User, event: Booked) -> None:
        """Count an event."""
        user.events.append(event)
        if user.period_start_us <= event.at_us < user.period_end_us:
            self.touch(user, event.session_id, event.model_key, event.at_us)

    def record(self, user: User, cost_nano: int, session_id: str | None, at_us: int) -> None:
        """Book a cost that is no call, and warn of the lines that it has passed."""
        session_id = self.session_of(user, session_id, at_us)
        place = (user.user_id, session_id, at_us, "", "", user.period_start_us)
        self.book(user, Booked(*place, 0, cost_nano, blocked=False))
        readings = [
            (key, self._reading(user, key, limit, None, alone=True))
            for key, limit in self.touch(user, session_id, "", at_us)
        ]
        self._warn(
            user, [each for each in readings if each[1].spent >= each[1].thresholds.warn], ""
        )

    # -- the rest

    def deliver(self) -> None:
        """Hand all events to the ledger."""
        for user in self.users.values():
            self._delivered.update(map(id, user.events))

    def forget(self, user: User) -> None:
        """Forget what was learned of a user; calls in flight go on with what they know."""
        user.last_session = ""
        user.histories, user.forecasts = {}, {}

    def figures(self, user: User) -> tuple[int, int, int, dict[str, int]]:
        """Return cost in the period and in the session used last, held cost, tokens by model."""
        session_id = user.last_session or user.open_session
        period = _key_of(user, LimitKey("spend", "user", "", "period"), "", user.period_start_us)
        in_period = [each for each in user.events if period.counts(each)]
        tokens: dict[str, int] = {}
        for each in user.events:
            if each.period_start_us == user.period_start_us and each.model_key:
                tokens[each.model_key] = tokens.get(each.model_key, 0) + each.tokens
        return (
            sum(each.cost_nano for each in in_period),
            sum(each.cost_nano for each in user.events if session_id == each.session_id),
            sum(call.use()[1] for call in self._counted(user, period)),
            tokens,
        )


def _thresholds(plan: PlanConfig, limit: Limit) -> Any:
    assert limit.cap_exact is not None
    return thresholds_of(
        limit.cap_exact, soft_gate_ppm=plan.soft_gate_ppm, hard_gate_ppm=plan.hard_gate_ppm
    )


def _key_of(user: User, limit: LimitKey, session_id: str, at_us: int) -> AccountKey:
    limit = limit._replace(model=plain(limit.model)) if limit.model else limit
    if limit.window == "period":
        return AccountKey(limit, "", user.period_start_us, user.period_end_us)
    if limit.window == "day":
        return AccountKey(limit, "", *day(at_us))
    return AccountKey(limit, session_id if limit.scope == "session" else "", 0, END_OF_TIME_US)


def _held(metric: str, calls: Iterable[OpenCall]) -> int:
    """Return what calls hold together."""
    fixed, groups = 0, dict[tuple[int, int | None], list[OpenCall]]()
    for call in calls:
        if call.fixed is not None:
            estimate, cost_nano = call.fixed
            fixed += amount(metric, cost_nano=cost_nano, tokens=sum(estimate))
        else:
            key = (id(call.forecast), call.forecast.capped(call.max_tokens))
            groups.setdefault(key, []).append(call)
    return hold_of(
        metric,
        [
            CallGroup(
                like[0].forecast.now,
                like[0].forecast.resolved.rates,
                max_tokens,
                len(like),
                sum(call.weight for call in like),
            )
            for (_, max_tokens), like in groups.items()
        ],
        fixed,
    )


def _worst(call: OpenCall) -> tuple[Estimate, int]:
    """Return the most that a call of a strict plan can use."""
    forecast = call.forecast
    rates, expectation = forecast.resolved.rates, forecast.now
    most = bound(
        Size(call.weight),
        max_tokens=call.max_tokens,
        buffer_tokens=call.plan.pre_call_buffer_tokens,
        model_max_tokens=forecast.resolved.max_output_tokens,
    )
    most = most._replace(input_tokens=most.input_tokens + expectation.input_extra)
    writes_cache = not provider_facts(PROVIDER).caches_on_request
    most_nano = bound_nano(*most, rates, writes_cache=writes_cache)
    return most, max(most_nano, cost_of(expectation, most, rates))
