"""The state of one user in this process: plan, windows, accounts, events not delivered yet.

Plain state without rules; the other modules of `accounts/` change it, under the user's lock.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from paygent.client.accounts.forecasts import (
    HISTORIES_PER_USER_MAX,
    History,
    UsageForecast,
)
from paygent.client.accounts.holds import Account
from paygent.core.account import AccountKey
from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event
from paygent.core.messages import SessionState
from paygent.core.period import END_OF_TIME_US, Subscription, Window
from paygent.core.plan import PlanConfig

_CACHED_MAX = 64  # (model, session) pairs per user of which the accounts are cached

UNLIMITED = PlanConfig()
"""The plan of users whose plan nobody configured."""


class ModelUse:
    """What a user used of one model in the current period."""

    __slots__ = ("acknowledged_cost_nano", "acknowledged_tokens", "cost_nano", "tokens")

    def __init__(self) -> None:
        self.acknowledged_tokens = self.acknowledged_cost_nano = 0
        self.tokens = self.cost_nano = 0


class User:
    """What this process knows of one user. Changed by `Accounts` only, under `lock`."""

    __slots__ = (
        "accounts",
        "assigned",
        "call_accounts",
        "closed_us",
        "ended",
        "epoch",
        "event_accounts",
        "forecasts",
        "has_waited",
        "histories",
        "is_active",
        "known",
        "lock",
        "models",
        "open_session",
        "own",
        "pending",
        "period",
        "plan",
        "plan_name",
        "read_us",
        "sdk_enabled",
        "session_id",
        "session_timeout_us",
        "session_used_us",
        "sessions",
        "stale_us",
        "subscription",
        "user_id",
    )

    def __init__(self, user_id: str, plan_name: str) -> None:
        self.lock = threading.Lock()
        self.user_id = user_id
        self.plan_name = plan_name
        self.plan = UNLIMITED
        self.own: PlanConfig | None = None
        self.assigned = False
        self.sdk_enabled = True
        self.subscription: Subscription | None = None
        self.ended: Subscription | None = None
        self.period = Window(0, 0)
        self.epoch = -1
        self.known = False
        self.has_waited = False
        self.is_active = False
        self.read_us = 0
        self.stale_us = END_OF_TIME_US
        self.session_id = ""
        self.open_session: SessionState | None = None
        self.session_used_us = 0
        self.closed_us = 0
        self.session_timeout_us = int(UNLIMITED.session_timeout_minutes * 60_000_000)
        self.sessions: set[str] = set()
        self.accounts: dict[AccountKey, Account] = {}
        self.call_accounts: BoundedDict[tuple[str, str], tuple[int, tuple[Account, ...]]] = (
            BoundedDict(_CACHED_MAX)
        )
        self.event_accounts: BoundedDict[
            tuple[str, str, str], tuple[int, int, tuple[Account, ...]]
        ] = BoundedDict(_CACHED_MAX)
        self.models: dict[str, ModelUse] = {}
        self.pending: dict[str, Event] = {}
        self.forecasts: BoundedDict[tuple[str, int], UsageForecast] = BoundedDict(
            HISTORIES_PER_USER_MAX
        )
        self.histories: History = BoundedDict(HISTORIES_PER_USER_MAX)

    def renew_after_fork(self) -> None:
        """Forget the parent's lock, its pending events and its holds."""
        self.lock = threading.Lock()
        self.pending = {}
        self.known = self.has_waited = False
        self.accounts = {}
        self.models = {}
        self.call_accounts.clear()
        self.event_accounts.clear()
        self.forecasts.clear()
        self.histories.clear()

    @property
    def is_idle(self) -> bool:
        """Whether the ledger knows everything of this user, so that eviction loses nothing."""
        opened = self.open_session
        changed_us = max(self.closed_us, opened.started_us if opened is not None else 0)
        return (
            changed_us <= self.read_us
            and not self.pending
            and not any(each.is_in_use for each in list(self.accounts.values()))
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
        period_cost_nano, session_cost_nano: Spent.
        held_cost_nano: Held by calls in flight.
        by_model: (tokens, nano-dollars) in the period, by canonical model name.
        held_tokens: Held by calls in flight, by the same.
    """

    period_cost_nano: int
    session_cost_nano: int
    held_cost_nano: int
    by_model: dict[str, tuple[int, int]]
    held_tokens: dict[str, int]
