"""The state of a user: plan with overrides, billing period, usage. Read in few statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from paygent.core.account import AccountKey
from paygent.core.gate import thresholds_of
from paygent.core.limit import Limit
from paygent.core.limit_forecast import reached_us
from paygent.core.messages import DEFAULT_PLAN, Question
from paygent.core.override import apply_overrides
from paygent.core.period import END_OF_TIME_US, Window, billing_period, calendar_month, day
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.plan_json import plan_from_json
from paygent.store.directory_port import StoredUser
from paygent.store.ledger import SqlStore


class LimitState(NamedTuple):
    """A limit of a user as of now.

    Attributes:
        limit: The limit, with overrides.
        account: Its account; None for a limit of sessions, each of which has its own.
        spent: In the account's window, in the limit's unit.
        is_reached: Whether it is used up.
        reached_us: When it will be reached, at the pace so far in its window; None if it is
            reached, or not in this window, or where no window ends.
    """

    limit: Limit
    account: AccountKey | None
    spent: int
    is_reached: bool = False
    reached_us: int | None = None


@dataclass(frozen=True)
class UserState:
    """A user as of now.

    Attributes:
        plan_name: The plan that applies; the default plan once a subscription has ended.
        plan: With overrides.
        period: The billing period.
        by_model: (tokens, nano-dollars) in the period.
        limits: The plan's limits.
    """

    user: StoredUser
    plan_name: str
    plan: PlanConfig
    period: Window
    by_model: dict[str, tuple[int, int]]
    limits: tuple[LimitState, ...]


def read_user_state(
    store: SqlStore, product: str, user_id: str, now_us: int, *, with_limits: bool = False
) -> UserState | None:
    """Return the state of a user; None if they are unknown."""
    user = store.user(product, user_id)
    if user is None:
        return None
    period = billing_period(user.subscription, now_us)
    directory = store.read(product, (), now_us)
    default_plan = directory.default_plan or DEFAULT_PLAN
    has_ended = period is None
    name = default_plan if has_ended or user.plan is None else user.plan
    own = None if has_ended else user.own
    period = period or calendar_month(now_us)
    document = own or directory.plans.get(name, (0, None))[1]
    plan = PlanConfig() if document is None else plan_from_json(document)
    plan = apply_overrides(plan, store.overrides(product, user_id, now_us), now_us)
    limits = limits_of(plan) if with_limits else ()
    accounts = [(limit, _account_of(limit, period, now_us)) for limit in limits]
    asked = tuple(account for _, account in accounts if account is not None)
    question = Question(user.user_id, asked, period.start_us)
    figures = store.read(product, (question,), now_us).users[user.user_id]
    states = []
    for limit, account in accounts:
        if account is None:
            states.append(LimitState(limit, None, 0))
            continue
        spent = figures.spent.get(account, 0)
        cap, soft_ppm, hard_ppm = limit.cap_exact or 0, plan.soft_gate_ppm, plan.hard_gate_ppm
        line = thresholds_of(cap, soft_gate_ppm=soft_ppm, hard_gate_ppm=hard_ppm).block
        forecast_us = None
        if account.end_us != END_OF_TIME_US:
            window = Window(account.start_us, account.end_us)
            forecast_us = reached_us(spent, line, window, user.created_us, now_us)
        states.append(LimitState(limit, account, spent, spent >= line, forecast_us))
    return UserState(user, name, plan, period, figures.by_model, tuple(states))


def _account_of(limit: Limit, period: Window, now_us: int) -> AccountKey | None:
    """Return the account of a user's limit now; None for a limit of sessions."""
    if limit.scope == "session":
        return None
    key = limit.key._replace(model=limit.key.model.strip().lower())
    if limit.window == "period":
        return AccountKey(key, "", period.start_us, period.end_us)
    if limit.window == "day":
        return AccountKey(key, "", *day(now_us))
    return AccountKey(key, "", 0, END_OF_TIME_US)
