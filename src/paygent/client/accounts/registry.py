"""The users of this process, with their plans and billing periods.

One lock guards the table of users and the plans, one lock of each user guards what is theirs, so
users never wait for each other. Both are held for microseconds: no I/O, no callback and no logging
under them. Nothing here knows the journal, the ledger or a clock; times are passed in.
"""

from __future__ import annotations

import threading
from collections import deque

from paygent.client.accounts import account_lookup
from paygent.client.accounts.user_state import UNLIMITED, User
from paygent.client.accounts.wait_queue import take_all, wake
from paygent.client.runtime.locks import acquire_blocking, acquire_soon
from paygent.core.limit import LimitKey
from paygent.core.messages import DEFAULT_PLAN, MISSING_USER_ID
from paygent.core.notices import Notice
from paygent.core.period import Subscription, billing_period
from paygent.core.plan import PlanConfig, limits_of, without_limits
from paygent.failopen import diagnostics

USERS_MAX = 20_000
"""Users kept in memory; beyond it, idle ones are evicted and read again when they come back."""

_EVICTION_SCAN_MAX = 64  # oldest users examined per eviction; bounds the time under the lock
_US_PER_MINUTE = 60_000_000


class UserRegistry:
    """The users and plans that this process knows. Thread-safe.

    Attributes:
        plans: By name, as configured here or read from the ledger.
        default_plan: Plan of users without an assignment.
        plans_epoch: Grows with each change of a plan; a user is refreshed when it lags behind.
    """

    def __init__(self, default_plan: str | None) -> None:
        """Start without users and plans.

        Args:
            default_plan: As this process chose it; None follows the product's, which is
                `DEFAULT_PLAN` until a process chooses one.
        """
        self.lock = threading.Lock()  # guards users and plans
        self.default_plan = default_plan or DEFAULT_PLAN
        self._chooses_default = default_plan is not None
        self.plans: dict[str, PlanConfig] = {}
        self.plan_versions: dict[str, int] = {}  # the ledger's version of each plan, by name
        self.users: dict[str, User] = {}  # by id
        self.plans_epoch = 0
        self._changing: dict[str, int] = {}
        self._queued_warnings: deque[Notice] = deque()
        self._unlimited: set[str] = set()

    # -- users

    def user(self, user_id: str, at_us: int) -> User:
        """Return a user, created on first use, with plan and period as of now."""
        user = self.users.get(user_id)
        if user is None or user.epoch != self.plans_epoch or at_us >= user.period.end_us:
            if user is None:
                user = self._new_user(user_id)
            with acquire_soon(user.lock):
                if user.epoch != self.plans_epoch or at_us >= user.period.end_us:
                    self.refresh_plan(user, at_us)
            self.emit_warnings()
        return user

    def _new_user(self, user_id: str) -> User:
        """Make a user, unless another thread has."""
        with acquire_soon(self.lock):
            user = self.users.get(user_id)
            if user is None:
                if len(self.users) >= USERS_MAX:
                    self._evict_one()
                user = self.users[user_id] = User(user_id, self.default_plan)
            return user

    def _evict_one(self) -> None:
        """Evict the oldest idle user, so that memory stays bounded."""
        for number, (user_id, user) in enumerate(self.users.items()):
            user.allotment = None  # first: a call that enters meanwhile is seen, or sees this
            if user.is_idle and not self.is_changing("user:" + user_id):
                del self.users[user_id]
                user.drop_lanes()
                return
            if number >= _EVICTION_SCAN_MAX:
                return

    def forget(self, user: User) -> None:
        """Forget what was read of a user, so that it is read again; spend and holds stay."""
        with acquire_soon(user.lock):
            user.drop_lanes()
            user.known = user.has_waited = False
            user.version = ""
            user.sessions.clear()
            user.session_id = ""
            user.forecasts.clear()
            user.histories.clear()

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun and not ended."""
        users = list(self.users.values())
        holds = [hold for user in users if user.open for hold in list(user.open.values())]
        return sum(hold.event is None and hold.figures is None for hold in holds)

    # -- plans

    def refresh_plan(self, user: User, at_us: int) -> None:
        """Bring a user's plan and period up to date; under the user's lock."""
        epoch = self.plans_epoch  # first: a plan that changes meanwhile counts at the next call
        if not user.assigned:
            user.plan_name = self.default_plan
        period = billing_period(user.subscription, at_us)
        if period is None:
            self._queued_warnings.append(Notice.SUBSCRIPTION_ENDED)
            user.ended = user.subscription
            user.subscription = None
            user.plan_name = self.default_plan
            user.own = None
            period = billing_period(None, at_us)
        assert period is not None  # a calendar month never ends the subscription
        if period != user.period:
            user.period = period
            user.models = {}
            account_lookup.drop_ended(user, at_us)
        plan = user.own or self.plans.get(user.plan_name) or UNLIMITED
        if user.user_id == MISSING_USER_ID and not user.assigned:
            plan = without_limits(plan)  # this id stands for many people, so no limit applies
        if plan is not user.plan:
            # A new limit starts from what its window has already seen: ask the ledger.
            new_limits = _limit_keys(plan) - _limit_keys(user.plan)
            if new_limits and user.known:
                user.known = user.has_waited = False
            if any(limit.scope == "session" for limit in new_limits):
                user.sessions.clear()
            user.plan = plan
            user.session_timeout_us = int(plan.session_timeout_minutes * _US_PER_MINUTE)
        user.epoch = epoch
        user.drop_lanes()
        user.call_accounts.clear()
        user.event_accounts.clear()

    def warn_unlimited(self, user: User) -> None:
        """Warn, once per plan, that a call is made under a plan that is not configured."""
        if user.plan_name not in self._unlimited:
            self._unlimited.add(user.plan_name)
            diagnostics.warn_once(
                Notice.PLAN_NOT_CONFIGURED, user.plan_name, subject=user.plan_name
            )

    def set_plan(self, name: str, plan: PlanConfig) -> None:
        """Configure a plan; users of it follow at their next call."""
        with acquire_soon(self.lock):
            self.plans[name] = plan
            self.plan_versions.pop(name, None)  # the ledger's is another one until it is read again
            self._unlimited.discard(name)
            self._start_change("plan:" + name)
            users = self._start_epoch()
        for user in users:
            with acquire_soon(user.lock):
                woken = take_all(user.accounts.values())
            wake(woken)

    def assign(
        self,
        user_id: str,
        plan_name: str,
        own: PlanConfig | None,
        subscription: Subscription | None,
        at_us: int,
    ) -> User:
        """Assign a plan, or the user's own version of it, to a user; spend stays. Without a
        subscription the billing period is the calendar month.
        """
        user = self.user(user_id, at_us)
        with acquire_soon(self.lock):
            self._start_change("user:" + user_id)
        with acquire_soon(user.lock):
            user.plan_name, user.own, user.assigned = plan_name, own, True
            user.subscription, user.ended = subscription, None
            self.refresh_plan(user, at_us)
            woken = take_all(user.accounts.values())
        self.emit_warnings()
        wake(woken)
        return user

    def confirm_recorded(self, what: str) -> None:
        """Note that a record (`plan:<name>`, `user:<id>`, `default_plan`) has reached the
        ledger.
        """
        with acquire_soon(self.lock):
            left = self._changing.get(what, 0) - 1
            if left > 0:
                self._changing[what] = left
            else:
                self._changing.pop(what, None)

    def _start_change(self, subject: str) -> None:
        """Note that a ledger record is on its way: this process's version wins until it is
        confirmed.
        """
        self._changing[subject] = self._changing.get(subject, 0) + 1

    def is_changing(self, subject: str) -> bool:
        """Return whether this process has changed `plan:<name>` or `user:<id>`, and the ledger has
        not confirmed it yet.
        """
        return subject in self._changing

    def replace_plan(self, name: str, version: int, plan: PlanConfig | None) -> None:
        """Take over the ledger's version of a plan; None is one that cannot be read."""
        with acquire_blocking(self.lock):
            self.plan_versions[name] = version
            if plan is not None and self.plans.get(name) != plan:
                self.plans[name] = plan
                self._start_epoch()

    def choose_default_plan(self) -> None:
        """Note that this process's choice of the default plan is on its way to the ledger."""
        with acquire_soon(self.lock):
            self._start_change("default_plan")

    def follow_default_plan(self, plan: str | None) -> None:
        """Take over the product's default plan, or warn if this process chose another one."""
        if plan is None or plan == self.default_plan or self.is_changing("default_plan"):
            return
        if self._chooses_default:
            diagnostics.warn_once(Notice.DEFAULT_PLAN_DIFFERS, self.default_plan, plan)
            return
        with acquire_blocking(self.lock):
            self.default_plan = plan
            self._start_epoch()

    def _start_epoch(self) -> list[User]:
        """Have every user's plan refreshed at their next call; return the users. Under the lock."""
        self.plans_epoch += 1
        users = list(self.users.values())
        for user in users:
            user.drop_lanes()
        return users

    def emit_warnings(self) -> None:
        """Log the warnings queued under a lock; a handler of the application's log may be slow."""
        if not self._queued_warnings:
            return
        with acquire_soon(self.lock):  # so that each is logged once
            queued = [self._queued_warnings.popleft() for _ in range(len(self._queued_warnings))]
        for notice in queued:
            diagnostics.warn_once(notice)

    def renew_after_fork(self) -> None:
        """Forget the parent's holds, pending events and locks."""
        self.lock = threading.Lock()
        self._changing = {}
        for user in self.users.values():
            user.renew_after_fork()


def _limit_keys(plan: PlanConfig) -> set[LimitKey]:
    return {limit.key for limit in limits_of(plan)}
