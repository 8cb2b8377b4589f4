"""The state of one user in this process: plan, windows, accounts, open calls, events not delivered.

Plain state without rules; the other modules of `accounts/` change it, under the user's lock.

A *lane* is what calls have in common that differ only in size and answer. It is found by one
look-up and replaces those of plan, period, session, price and forecast. It is made by a call that
went the whole way, and holds until one of its premises changes: then the user's lanes are dropped,
or the lane's own time has come.

An *allotment* says how many calls of a user may be open before anyone has to look at an account
(`allotments.py`). Whoever changes what a line depends on withdraws the allotment first.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from paygent.client.accounts.account import Account
from paygent.client.accounts.forecasts import (
    HISTORIES_PER_USER_MAX,
    History,
    UsageForecast,
    Use,
)
from paygent.core.account import AccountKey
from paygent.core.bounded_dict import BoundedDict
from paygent.core.estimate import (
    Estimate,
    Expectation,
    HoldBound,
    bound,
    cost_of,
    expected_bound,
)
from paygent.core.event import Event
from paygent.core.gate import Reading
from paygent.core.messages import SessionState
from paygent.core.period import END_OF_TIME_US, Subscription, Window
from paygent.core.plan import PlanConfig
from paygent.core.pricing import bound_nano, dearest_prices
from paygent.core.providers import provider_facts
from paygent.core.records import Answerer, LaneFacts
from paygent.core.request_size import Size
from paygent.core.usage_stats import Observation
from paygent.prices.catalogue import Resolved

_CACHED_MAX = 64  # (model, session) pairs per user of which the accounts are cached

LANES_MAX = 256
"""Lanes kept per user; the oldest one is made again when it is needed."""

_CallAccounts = BoundedDict[tuple[str, str], tuple[int, tuple[Account, ...]]]
_EventAccounts = BoundedDict[tuple[str, str, str], tuple[int, int, tuple[Account, ...]]]
_Forecasts = BoundedDict[tuple[str, int], UsageForecast]

UNLIMITED = PlanConfig()
"""The plan of users on a plan that is not configured."""

NO_PERIOD = Window(0, 0)
"""The billing period of a user who has none yet."""


class Hold:
    """An open call: what it holds, and once it has ended, what it used.

    Made empty before the call begins, so that whatever interrupts the beginning has something to
    end. It is open while it is in `User.open`.

    Attributes:
        lane: What it has in common with other calls: user, session, model, rates, forecast.
        seq: Its number, unique in this process.
        at_us: When it began, in microseconds since 1970 UTC.
        weight: Size of its request, from `weight_of`.
        max_tokens: Its bound on output, or 0.
        owner: The thread or task that began it.
        started_ns: The same as `at_us`, by the clock that never steps.
        use: What it may use, where that does not follow from its lane; or None.
        figures: What the provider counted, as in `records.Figures`; None until then.
        event: What it cost; None until it is priced.
        observation: What its forecast learns from it, or None.
        is_counted: Whether its accounts count the event; None once that has failed.
        call: The call that was made of it where it could not end by itself, or None.
    """

    lane: Lane
    seq: int
    at_us: int
    weight: int
    max_tokens: int
    owner: object
    started_ns: int
    # No slots: what a call has none of need not be set, when it is made on the path of every call.
    use: Use | None = None
    figures: tuple[int, ...] | None = None
    event: Event | None = None
    observation: Observation | None = None
    is_counted: bool | None = False
    call: Any = None
    warnings: tuple[Reading, ...] = ()  # readings of accounts newly past their warn line

    @property
    def is_open(self) -> bool:
        """Whether it holds something, or has used something that is not counted yet."""
        lane = getattr(self, "lane", None)
        return lane is not None and lane.user.open.get(self.seq) is self

    def estimate_now(self) -> Estimate:
        """Return the tokens of `use_now`."""
        if self.use is not None:
            return self.use.estimate
        return self.lane.forecast.estimate(self.weight, self.max_tokens or None)

    def use_now(self) -> Use:
        """Return what the call may use, as of the last settlement of calls like it."""
        return self.use or self.lane.forecast.use(self.weight, self.max_tokens or None)


class LaneKey(NamedTuple):
    """The identity of a lane among those of its user."""

    session_id: str
    provider: str
    route: str
    model: str  # as the application named it
    resolved_id: int  # `id` of the resolved model: plan, price list and tier


class Allotment:
    """The calls that a user may have open at once without a look at any account.

    Attributes:
        unit: Bound on the cost of each of them, in 10⁻¹⁸ dollars.
        unit_tokens: Bound on its tokens, in millionths.
        extra: What open calls hold above their unit, in the units of both.
        used: Number of calls that were counted since; grows before they leave `User.open`.
    """

    __slots__ = ("extra", "unit", "unit_tokens", "used")

    def __init__(self, unit: int, unit_tokens: int, extra: tuple[int, int]) -> None:
        self.unit = unit
        self.unit_tokens = unit_tokens
        self.extra = extra
        self.used = 0


NO_ALLOTMENT = Allotment(0, 0, (0, 0))
"""Of a lane that has none; never a user's."""


class Lane:
    """What the calls of one user, session, operation, model and price list have in common.

    Attributes:
        number: Unique in this process; names the lane in packed records.
        facts: What those records leave out; never changed, since records rest on it.
        plan, plan_name, period: The user's, when it was made.
        is_strict: Whether its calls hold the most that they can use.
        bound: What a call of another plan may add to what is held, as of `expectation`.
        answerers: Number of each model that has answered, by its name in the answer, if an event
            follows from its figures.
        dearest: Highest prices of input and output among these, in pico-dollars per million.
        valid_until_us: When the first of their prices changes.
        allotment, most: The allotment that it takes part in, and how many calls of the user may be
            open, or counted since, for one of its own to be let in.
        tokens_max: Most tokens of a call that cannot be more than the allotment counts on.
        until_us: When one of its windows, prices or accounts ends.
        segment: The journal segment that has the lane's record, or None.
    """

    __slots__ = (
        "allotment", "answerers", "bound", "dearest", "expectation", "facts", "forecast",
        "is_strict", "key", "model_key", "most", "number", "period", "plan", "plan_name",
        "resolved", "segment", "session_id", "tokens_max", "until_us", "user", "valid_until_us",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        user: User,
        key: LaneKey,
        resolved: Resolved,
        forecast: UsageForecast,
        common: str,
    ) -> None:
        self.number = number
        self.user = user
        self.key = key
        self.session_id = key.session_id
        self.plan = user.plan
        self.is_strict = user.plan.pre_call_estimate
        self.plan_name = user.plan_name
        self.period = user.period
        self.resolved = resolved
        self.model_key = resolved.model_key
        self.forecast = forecast
        self.facts = LaneFacts(
            common,
            user.user_id,
            key.session_id,
            key.provider,
            self.plan_name,
            self.period.start_us,
            forecast.expectation,
            (Answerer(key.model, resolved.model_key, resolved.rates),),
        )
        self.answerers: dict[str, int] = {}
        self.dearest = (0, 0)
        self.valid_until_us = resolved.valid_until_us
        self.allotment = NO_ALLOTMENT
        self.most = self.tokens_max = 0
        self.until_us = 0
        self.segment: Any = None
        self.expectation: Expectation | None = None
        self.bound: HoldBound
        self.reckon()

    def with_answerer(self, number: int, answerer: Answerer, valid_until_us: int) -> Lane:
        """Return a lane that also knows a model that has answered; records of this one stand."""
        lane = Lane(number, self.user, self.key, self.resolved, self.forecast, self.facts.common)
        known = self.facts.answerers
        place = known.index(answerer) if answerer in known else len(known)
        if place == len(known):
            known = (*known, answerer)
        lane.facts = lane.facts._replace(answerers=known)
        lane.answerers = {**self.answerers, answerer.model: place}
        prices = [dearest_prices(known[place].rates) for place in lane.answerers.values()]
        lane.dearest = (
            max(max(each.input, each.cached_input, each.cache_write) for each in prices),
            max(max(each.output, each.reasoning) for each in prices),
        )
        lane.valid_until_us = min(self.valid_until_us, valid_until_us)
        return lane

    def is_current(self) -> bool:
        """Return whether the user still has this lane, with the same plan and period."""
        user = self.user
        return (
            user.lanes.get(self.key) is self
            and user.plan is self.plan
            and user.plan_name == self.plan_name
            and user.period is self.period
        )

    def reckon(self) -> bool:
        """Bring the bound up to date; return whether it has grown."""
        forecast = self.forecast
        expectation = forecast.expectation
        if expectation is self.expectation:
            return False
        before = None if self.expectation is None else self.bound
        self.bound = expected_bound(expectation, forecast.rates)
        self.expectation = expectation
        return before is not None and any(
            new > old for new, old in zip(self.bound, before, strict=True)
        )

    def worst_use(self, size: Size, max_tokens: int | None, input_tokens: int | None = None) -> Use:
        """Return the most that a call can use; `input_tokens` is the application's own count."""
        forecast = self.forecast
        most = bound(
            size,
            max_tokens=max_tokens,
            buffer_tokens=self.plan.pre_call_buffer_tokens,
            model_max_tokens=self.resolved.max_output_tokens,
            generates=forecast.cold_start.generates,
        )
        # Content that a request only refers to has no bound; the observed amount is added.
        visible = most.input_tokens if input_tokens is None else input_tokens
        most = most._replace(input_tokens=visible + forecast.expectation.input_extra)
        writes_cache = size.caches or not provider_facts(self.key.provider).caches_on_request
        most_nano = max(
            bound_nano(*most, forecast.rates, writes_cache=writes_cache),
            cost_of(forecast.expectation, most, forecast.rates),  # includes tools, or another model
        )
        return Use(most, most_nano, is_free=forecast.is_free)


@dataclass(slots=True, eq=False)
class ModelUse:
    """Usage of one model by one user in the current period: acknowledged by the ledger, and not."""

    acknowledged_tokens: int = 0
    acknowledged_cost_nano: int = 0
    tokens: int = 0
    cost_nano: int = 0


@dataclass(slots=True, eq=False)
class User:
    """What this process knows of one user. Changed by `accounts/` only, under `lock`."""

    user_id: str
    plan_name: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    # Plan and period
    plan: PlanConfig = UNLIMITED
    own: PlanConfig | None = None  # the user's own version of the plan
    assigned: bool = False
    sdk_enabled: bool = True
    paused: bool = False
    paused_reason: str | None = None
    subscription: Subscription | None = None
    ended: Subscription | None = None  # a subscription that ended, so that it stays ended
    period: Window = NO_PERIOD
    epoch: int = -1  # `plans_epoch` when plan and period were last refreshed

    # The ledger
    known: bool = False  # whether the ledger has answered about every account
    has_waited: bool = False  # whether a call has waited for that
    wait_failed: bool = False  # whether one has, since the last answer, and there was none
    is_active: bool = False  # since the last delivery
    version: str = ""  # the ledger's, of its figures
    booked_through: int = 0  # the last batch in doubt that they were found to include
    read_us: int = 0  # when the ledger's figures were last applied, in microseconds; 0 is never
    stale_us: int = END_OF_TIME_US  # when they have to be read again
    pending: dict[str, Event] = field(default_factory=dict)  # not acknowledged yet, by id

    # Sessions
    session_id: str = ""  # the one used last
    sessions: dict[str, int] = field(default_factory=dict)  # asked about: when to ask again
    open_session: SessionState | None = None
    session_used_us: int = 0  # when a call last belonged to it
    session_timeout_us: int = int(UNLIMITED.session_timeout_minutes * 60_000_000)
    closed_us: int = 0  # when this process last closed one

    # Calls: these tables change in single steps, the first two also without the lock
    open: dict[int, Hold] = field(default_factory=dict)  # in flight or not counted yet, by number
    finished: deque[Hold] = field(default_factory=deque)  # not counted yet, in order
    is_queued: bool = False  # whether the delivery thread will count what has ended
    allotment: Allotment | None = None  # None: a call that begins has to look at the accounts
    lanes: BoundedDict[LaneKey, Lane] = field(default_factory=lambda: BoundedDict(LANES_MAX))

    # Accounts and forecasts
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    call_accounts: _CallAccounts = field(default_factory=lambda: BoundedDict(_CACHED_MAX))
    event_accounts: _EventAccounts = field(default_factory=lambda: BoundedDict(_CACHED_MAX))
    models: dict[str, ModelUse] = field(default_factory=dict)
    forecasts: _Forecasts = field(default_factory=lambda: BoundedDict(HISTORIES_PER_USER_MAX))
    histories: History = field(default_factory=lambda: BoundedDict(HISTORIES_PER_USER_MAX))

    def renew_after_fork(self) -> None:
        """Forget the parent's lock, its pending events and its holds."""
        self.lock = threading.Lock()
        self.pending = {}
        self.open, self.finished, self.is_queued = {}, deque(), False
        self.drop_lanes()
        self.sessions.clear()  # their figures went with the accounts
        self.known = self.has_waited = self.wait_failed = False
        self.version = ""
        self.booked_through = 0
        self.accounts = {}
        self.models = {}
        self.call_accounts.clear()
        self.event_accounts.clear()
        self.forecasts.clear()
        self.histories.clear()

    def drop_lanes_of(self, session_id: str) -> None:
        """Forget the lanes of one session, so that its next call goes the whole way; under the
        lock.
        """
        for key, lane in list(self.lanes.items()):
            if key.session_id == session_id:
                self.lanes.pop(key, None)
                lane.until_us = 0

    def drop_lanes(self) -> None:
        """Forget every lane: what they rest on has changed."""
        self.allotment = None
        self.lanes.clear()

    @property
    def is_idle(self) -> bool:
        """Whether the ledger knows everything of this user, so that eviction loses nothing."""
        opened = self.open_session
        changed_us = max(self.closed_us, opened.started_us if opened is not None else 0)
        return (
            changed_us <= self.read_us
            and not (self.pending or self.open or self.finished)
            and not any(each.waiting for each in list(self.accounts.values()))
        )

    def session_now(self, session_id: str | None, at_us: int) -> str:
        """Return the session that a call would belong to; "" is one that it would open.

        Args:
            session_id: The application's session id, or None.
            at_us: Now.
        """
        opened = self.open_session
        if session_id is not None or opened is None:
            return session_id or ""
        is_idle = at_us - self.session_used_us > self.session_timeout_us
        return "" if is_idle else opened.session_id


class Figures(NamedTuple):
    """What a user has used, in nano-dollars and tokens.

    Attributes:
        period_tokens: All tokens in the period, those of calls without a model included.
        period_cost_nano, session_cost_nano: Spent.
        by_model: (tokens, nano-dollars) in the period, by canonical model name.
    """

    period_tokens: int
    period_cost_nano: int
    session_cost_nano: int
    held_cost_nano: int  # held by calls in flight
    by_model: dict[str, tuple[int, int]]
    held_tokens: dict[str, int]  # held by calls in flight, by the same
