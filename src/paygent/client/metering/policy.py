"""Policies beside the limits: models without a price, an unreachable ledger, waiting."""

from __future__ import annotations

from paygent.client.accounts.ledger_sync import LedgerSync
from paygent.client.accounts.offline_allowance import Allowance
from paygent.client.accounts.user_state import User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.metering.call import Call
from paygent.client.runtime.event_loops import running_loop, runs_loop
from paygent.core.plan import PlanConfig
from paygent.prices.catalogue import Resolved
from paygent.types import GuardResult, refusal


class CallPolicy:
    """Policies that apply before the limits, and around waiting. Thread-safe."""

    def __init__(self, sync: LedgerSync, *, refuses: bool) -> None:
        self.refuses = refuses  # whether calls are refused at all (`raise_on_hard_gate`)
        self._sync = sync
        self._allowance = Allowance()

    def enforces(self, plan: PlanConfig) -> bool:
        """Return whether calls under a plan are refused and wait: not in shadow mode, and not with
        `raise_on_hard_gate=False`.
        """
        return self.refuses and plan.enforce

    def refusal_before_limits(self, call: Call) -> GuardResult | None:
        """Return why a call is refused before its limits are checked: its user is paused, its model
        has no price, or the ledger is unreachable. A call that passes on an offline allowance holds
        on it.
        """
        plan, user, model = call.plan, call.user, call.request.model
        result = _pause(user, model) or _model_refusal(user, model, call.lane.resolved)
        if result is not None or not self._is_offline_for(user):
            return result
        cost_nano = call.hold.use_now().cost_nano
        if plan.offline_allowance_nano is None:
            return _offline_refusal(user, model)
        if not self._allowance.take(cost_nano, plan.offline_allowance_nano, self._sync.outages):
            return _allowance_refusal(user, model)
        call.offline_nano = cost_nano
        return None

    def refusal_now(self, user: User, model: str, resolved: Resolved | None) -> GuardResult | None:
        """Return why a call would be refused before its limits are checked; nothing is held.

        Args:
            user: The caller.
            model: As the application names it; "" is not refused for its model.
            resolved: The same, resolved; None for "".
        """
        plan = user.plan
        result = _pause(user, model)
        if result is None and model and resolved is not None:
            result = _model_refusal(user, model, resolved)
        if result is not None or not self._is_offline_for(user):
            return result
        if plan.offline_allowance_nano is None:
            return _offline_refusal(user, model)
        has_room = self._allowance.has_room(plan.offline_allowance_nano, self._sync.outages)
        return None if has_room else _allowance_refusal(user, model)

    def _is_offline_for(self, user: User) -> bool:
        """Return whether `when_offline` decides on the calls of a user: where their plan has
        something to say, and the ledger has not answered about them, or has been away for long.
        """
        is_cut_off = self._sync.is_offline or not user.known
        return is_cut_off and user.plan.when_offline != "allow"

    def end_offline(self, call: Call, spent_nano: int) -> None:
        """Replace what a call held on the offline allowance, if anything, by what it spent."""
        if call.offline_nano is not None:
            self._allowance.give_back(call.offline_nano, spent_nano)
            call.offline_nano = None

    def waiter(self, call: Call, *, retries_soon: bool) -> Waiter | None:
        """Return a call's place in the queue; None for one that must not wait, or has waited long
        enough.
        """
        request, wait_s = call.request, call.plan.contention_wait_s
        if not self.enforces(call.plan) or not wait_s:
            return None
        # A sync call on an event loop's thread would stop the very calls that it waits for.
        if not (running_loop() if request.is_async else not runs_loop()):
            return None
        waiter = request.waiter
        if waiter is None:
            waiter = request.waiter = Waiter(wait_s)
        if not waiter.left_s:
            return None
        waiter.prepare(retries_soon=retries_soon)
        return waiter

    def renew_after_fork(self) -> None:
        """Forget the parent's calls."""
        self._allowance.renew_after_fork()


def _pause(user: User, model: str) -> GuardResult | None:
    """Return the refusal of a user who is paused."""
    if not user.paused:
        return None
    reason = f": {user.paused_reason}" if user.paused_reason else ""
    return _refusal(user, model, "paused", f"User {user.user_id} is paused{reason}.")


def _model_refusal(user: User, model: str, resolved: Resolved) -> GuardResult | None:
    if user.plan.unknown_model != "block" or resolved.rates.is_known:
        return None
    name = model or "(none)"
    message = (
        f"{name} has no price, and plan {user.plan_name} blocks models without one: give it a rate"
        " in cost_rates."
    )
    return _refusal(user, model, f"unknown_model:{name}", message)


def _offline_refusal(user: User, model: str) -> GuardResult:
    message = f"The ledger is unreachable, and plan {user.plan_name} blocks calls while offline."
    return _refusal(user, model, "offline", message, retryable=True)


def _allowance_refusal(user: User, model: str) -> GuardResult:
    message = (
        f"The ledger is unreachable, and plan {user.plan_name}'s offline allowance is used up."
    )
    return _refusal(user, model, "offline", message, retryable=True)


def _refusal(
    user: User, model: str, reason: str, message: str, *, retryable: bool = False
) -> GuardResult:
    return refusal(
        reason,
        message,
        user_id=user.user_id,
        model=model,
        plan=user.plan_name,
        retryable=retryable,
    )
