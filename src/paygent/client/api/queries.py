"""`UserQueries`: figures and states of users, the gate's decision without a call, and advice.

All of it comes from this process's memory; a user that it does not know is read from the ledger
first. Nothing here begins or refuses a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.context.scopes import current_identity
from paygent.client.journal.delivery import Worker
from paygent.client.metering.policy import CallPolicy
from paygent.client.metering.wait import wait_for, wait_for_ledger
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.event_loops import runs_loop
from paygent.client.runtime.lifecycle import renew_if_forked
from paygent.client.runtime.settings import FIRST_TOUCH_WAIT_S
from paygent.core.estimate import bound, output_that_fits
from paygent.core.gate import Reading, room, usage_ppm
from paygent.core.limit import LimitKey
from paygent.core.messages import BookedEvent
from paygent.core.period import to_datetime
from paygent.core.request_size import measure, weight_of
from paygent.core.value import exact_usd
from paygent.prices.catalogue import Catalogue
from paygent.types import (
    BillingPeriod,
    BudgetRemaining,
    CurrentUsage,
    GuardResult,
    MaxTokensAdvice,
    ModelUsage,
    UserState,
    guard_result,
)


@dataclass(eq=False)
class UserQueries:
    """Reads the users of one `Paygent`. Thread-safe."""

    accounts: Accounts
    catalogue: Catalogue
    worker: Worker
    policy: CallPolicy
    now_us: Callable[[], int]
    enabled: bool  # False queries no ledger (Paygent is disabled): all figures are 0
    before_read: Callable[[], None]  # called before figures are read; runs deferred ends

    def known(self, user_id: str) -> User:
        """Return a user; the ledger is read first, within a quarter second, for an unknown one."""
        renew_if_forked()
        self.before_read()
        now_us = self.now_us()
        user = self.accounts.registry.user(user_id, now_us)
        # The figures of a named session are read together with its user's.
        session_id = _context_session(user_id)
        if self._can_ask:
            if self.accounts.sync.needs_refresh(user, session_id, now_us):
                self._ask(user, session_id)
            # Whoever asks again and again sees what other processes do within about a second.
            elif now_us - user.read_us >= _FRESH_US:
                self.worker.refresh_soon(user, session_id)
        # Once more, because the answer may have brought other plans.
        return self.accounts.registry.user(user_id, now_us)

    def _ask(self, user: User, session_id: str | None) -> None:
        wait_for_ledger(self.worker, self.accounts.sync, user, session_id, self.now_us).block()

    @property
    def _can_ask(self) -> bool:
        return self.enabled and not self.worker.is_stopped

    def guard(self, user: User, model: str | None) -> GuardResult:
        """Return the decision on a call now; None checks the limits for all models only. In shadow
        mode nothing is refused, so the decision is ok, with the figures.
        """
        if not self.enabled:
            return GuardResult()
        now_us = self.now_us()
        resolved = self.catalogue.resolve("", model, now_us, user.plan) if model else None
        refusal = self.policy.refusal_now(user, model or "", resolved)
        if refusal is not None and user.plan.enforce:
            return refusal
        session_id = self._advised_session(user, now_us)
        decision = self.accounts.admission.check(user, session_id, resolved, now_us)
        if not user.plan.enforce:
            decision = decision._replace(status="ok", reason=None, retryable=False)
        return guard_result(decision, user.user_id, plan=user.plan_name, model=model)

    def _current_session(self, user: User) -> str:
        """Return the session of the figures: the context's, the one used last, or the open one."""
        opened = user.open_session.session_id if user.open_session is not None else ""
        return _context_session(user.user_id) or user.session_id or opened

    def _advised_session(self, user: User, at_us: int) -> str:
        """Return the session that advice is about: the current one; "" where it has been idle for
        too long, so that the next call would open another.
        """
        session_id, opened = self._current_session(user), user.open_session
        if _context_session(user.user_id) or opened is None or session_id != opened.session_id:
            return session_id
        return user.session_now(None, at_us)

    def usage(self, user: User) -> CurrentUsage:
        """Return a user's usage in the current period and session."""
        session_id = self._current_session(user)
        figures = self.accounts.admission.figures(user, session_id, self.now_us())
        by_model = figures.by_model
        opened = user.open_session
        # The start of a session is known only while it is the user's open one.
        is_open = opened is not None and opened.session_id == session_id
        return CurrentUsage(
            period_cost=exact_usd(figures.period_cost_nano),
            session_cost=exact_usd(figures.session_cost_nano),
            session_id=session_id or None,
            session_started_at=to_datetime(opened.started_us) if opened and is_open else None,
            period_tokens_total=figures.period_tokens,
            period_tokens_by_model={model: tokens for model, (tokens, _) in by_model.items()},
            period_cost_by_model={model: exact_usd(nano) for model, (_, nano) in by_model.items()},
            reserved_cost=exact_usd(figures.held_cost_nano),
            reserved_tokens_by_model=figures.held_tokens,
        )

    def state(self, user: User) -> UserState:
        """Return a user with plan, usage and period."""
        start_us, end_us = user.period.start_us, user.period.end_us
        return UserState(
            user_id=user.user_id,
            paygent_user_id=None,
            plan=user.plan_name,
            sdk_enabled=user.sdk_enabled,
            plan_config=user.plan,
            current_usage=self.usage(user),
            billing_period=BillingPeriod(to_datetime(start_us), to_datetime(end_us)),
            last_refreshed=to_datetime(user.read_us) if user.read_us else None,
        )

    def report_session(self, callbacks: Callbacks, user_id: str) -> None:
        """Report an opened session to the application."""
        if callbacks.wants("session_start"):  # the state of a user takes time to assemble
            user = self.accounts.registry.user(user_id, self.now_us())
            callbacks.fire("session_start", self.state(user))

    def model_usage(self, user: User) -> list[ModelUsage]:
        """Return a user's usage of each model that was used or that the plan limits."""
        now_us = self.now_us()
        used = self.accounts.admission.figures(user, "", now_us).by_model
        limits = self.accounts.admission.limits(user, "", None, now_us)
        caps = {
            key.model: reading.thresholds.cap for key, reading in limits if _is_model_limit(key)
        }
        # A limited model is listed even if it was not used.
        usages = [(name, *used.get(name, (0, 0))) for name in used | caps]
        usages.sort(key=lambda usage: (-usage[2], usage[0]))  # dearest first
        return [
            ModelUsage(name, tokens_used=tokens, tokens_limit=caps.get(name), cost=exact_usd(nano))
            for name, tokens, nano in usages
        ]

    def remaining(self, user: User) -> BudgetRemaining:
        """Return what is left of a user's limits."""
        now_us = self.now_us()
        session_id = self._advised_session(user, now_us)
        limits = self.accounts.admission.limits(user, session_id, None, now_us)
        left = _Left(limits)
        # By the used share, as the gate compares limits, not by the amount left.
        nearest = max(limits, key=lambda limit: usage_ppm(limit[1]), default=None)
        return BudgetRemaining(
            period_spend_remaining=left.dollars("period"),
            session_spend_remaining=left.dollars("session"),
            model_tokens_remaining=left.model_tokens,
            most_constrained=_public_name(nearest[0]) if nearest is not None else "unbounded",
        )

    def max_tokens(self, user: User, model: str, input_tokens: int, most: int) -> MaxTokensAdvice:
        """Return the largest `max_tokens`, up to `most`, that fits what is left."""
        now_us = self.now_us()
        resolved = self.catalogue.resolve("", model, now_us, user.plan)
        session_id, model_key = self._advised_session(user, now_us), resolved.model_key
        limits = self.accounts.admission.limits(user, session_id, model_key, now_us)
        if resolved.output_ceiling is not None:
            most = min(most, resolved.output_ceiling)  # the provider refuses more
        binding = "unbounded"
        for key, reading in limits if user.plan.enforce else ():
            if key.metric == "spend" and resolved.is_free and reading.thresholds.cap:
                continue  # the gate lets a free call pass any spend limit except 0
            left_here, rates = room(reading), resolved.rates
            fits = output_that_fits(key.metric, left_here, input_tokens, most, rates=rates)
            if fits < most:
                most, binding = fits, _public_name(key)
        left = _Left(limits)
        return MaxTokensAdvice(
            max_tokens=most,
            binding_limit=binding if most else "blocked",
            period_spend_remaining=left.dollars("period"),
            session_spend_remaining=left.dollars("session"),
            model_tokens_remaining=min(left.model_tokens.values(), default=None),
        )

    def input_tokens(self, user: User, model: str, body: Mapping[str, Any]) -> int:
        """Return the expected input tokens of a request, or their bound in a strict plan."""
        size = measure(body)
        if user.plan.pre_call_estimate:
            return bound(size, max_tokens=0, buffer_tokens=0, model_max_tokens=None).input_tokens
        resolved = self.catalogue.resolve("", model, self.now_us(), user.plan)
        # Forecasts are learned by route; the advice is for a chat request.
        forecast = self.accounts.admission.forecast(user, "chat.completions", resolved)
        return forecast.use(weight_of(size), 0).estimate.input_tokens

    def refresh(self, user_id: str) -> User:
        """Return a user read from the ledger again, within a quarter second, or as known."""
        user = self.accounts.registry.user(user_id, self.now_us())
        if self._can_ask:
            self._ask(user, _context_session(user_id))
        return self.accounts.registry.user(user_id, self.now_us())

    def event(self, user: User, event_id: str) -> BookedEvent | None:
        """Return an event of a user with its corrections, or None if it is unknown.

        Events that are not delivered are in this process's memory; others are read from the ledger,
        within a quarter second, but never on a thread that runs an event loop.
        """
        pending = {event.event_id: event for event in list(user.pending.values())}
        stored = None
        if self._can_ask and not runs_loop():
            answer = self.worker.read(lambda ledger: ledger.event(event_id))
            if wait_for(answer, FIRST_TOUCH_WAIT_S) and answer.exception() is None:
                stored = answer.result()
        event = pending.get(event_id) or (stored.event if stored is not None else None)
        if event is None:
            return None
        # A correction may be in both while its delivery is being acknowledged.
        corrections = {item.event_id: item for item in stored.corrections} if stored else {}
        corrections |= {key: item for key, item in pending.items() if item.corrects == event_id}
        prices = stored.prices if stored is not None else None
        return BookedEvent(event, tuple(corrections.values()), prices)


_FRESH_US = 1_000_000  # figures older than this are read again in the background

_PUBLIC_NAMES = {"total_spend": "period_spend", "session_spend": "session_spend"}


def _is_model_limit(key: LimitKey) -> bool:
    return key.metric == "tokens" and bool(key.model) and key.window == "period"


def _public_name(key: LimitKey) -> str:
    """Return the documented name of a limit, else its reason."""
    return "model_tokens" if _is_model_limit(key) else _PUBLIC_NAMES.get(key.reason, key.reason)


class _Left:
    """The unused part of a user's limits."""

    def __init__(self, limits: Iterable[tuple[LimitKey, Reading]]) -> None:
        self._room = {key: room(reading) for key, reading in limits}
        rooms = self._room.items()
        self.model_tokens = {key.model: left for key, left in rooms if _is_model_limit(key)}

    def dollars(self, window: str) -> Any:
        """Return the dollars left in the period or session; infinite without a limit."""
        scope = "session" if window == "session" else "user"
        left_nano = self._room.get(LimitKey("spend", scope, "", window))
        return math.inf if left_nano is None else exact_usd(left_nano)


def _context_session(user_id: str) -> str | None:
    identity = current_identity()
    return identity.session_id if identity is not None and identity.user_id == user_id else None
