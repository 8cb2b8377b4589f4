"""The state of one user in this process: plan, windows, accounts, events not delivered yet.

Plain state without rules; the other modules of `accounts/` change it, under the user's lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from paygent.client.accounts.forecasts import (
    HISTORIES_PER_USER_MAX,
    History,
    UsageForecast,
)
from paygent.client.accounts.holds import NO_PERIOD, Account
from paygent.core.account import AccountKey
from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event
from paygent.core.messages import SessionState
from paygent.core.period import END_OF_TIME_US, Subscription, Window
from paygent.core.plan import PlanConfig

_CACHED_MAX = 64  # (model, session) pairs per user of which the accounts are cached

_CallAccounts = BoundedDict[tuple[str, str], tuple[int, tuple[Account, ...]]]
_EventAccounts = BoundedDict[tuple[str, str, str], tuple[int, int, tuple[Account, ...]]]
_Forecasts = BoundedDict[tuple[str, int], UsageForecast]

UNLIMITED = PlanConfig()
"""The plan of users on a plan that is not configured."""


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
    subscription: Subscription | None = None
    ended: Subscription | None = None  # a subscription that ended, so that it stays ended
    period: Window = NO_PERIOD
    epoch: int = -1  # `plans_epoch` when plan and period were last refreshed

    # The ledger
    known: bool = False  # whether the ledger has answered about every account
    has_waited: bool = False  # whether a call has waited for that
    is_active: bool = False  # since the last delivery
    read_us: int = 0  # when the ledger's figures were last applied, in microseconds; 0 is never
    stale_us: int = END_OF_TIME_US  # when they have to be read again
    pending: dict[str, Event] = field(default_factory=dict)  # not acknowledged yet, by id

    # Sessions
    session_id: str = ""  # the one used last
    sessions: set[str] = field(default_factory=set)  # the ledger needs no question about these
    open_session: SessionState | None = None
    session_used_us: int = 0  # when a call last belonged to it
    session_timeout_us: int = int(UNLIMITED.session_timeout_minutes * 60_000_000)
    closed_us: int = 0  # when this process last closed one

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
        self.sessions.clear()  # their figures went with the accounts
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
