"""What a plan and the product say of a call beside its limits: unknown models, an unreachable
ledger, and which calls may wait.
"""

from __future__ import annotations

from paygent.client.accounts.ledger_sync import LedgerSync
from paygent.client.accounts.offline_allowance import Allowance
from paygent.client.accounts.user_state import User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.metering.call import Call, Request
from paygent.client.runtime.event_loops import running_loop, runs_loop
from paygent.core.plan import PlanConfig
from paygent.prices.catalogue import Resolved
from paygent.types import GuardResult, refusal


class CallPolicy:
    """Decides what figures do not decide. Thread-safe."""

    def __init__(self, sync: LedgerSync, *, refuses: bool) -> None:
        self.refuses = refuses  # whether calls are refused at all (`raise_on_hard_gate`)
        self._sync = sync
        self._allowance = Allowance()

    def refusal_before_limits(self, call: Call) -> GuardResult | None:
        """Return why a call is refused before its limits are checked: its model has no price, or
        the ledger is unreachable.
        """
        user, plan = call.user, call.plan
        result = model_refusal(call.request, plan, call.resolved)
        if result is not None:
            return result
        cost_nano = call.hold.use.cost_nano
        result = self.offline_refusal(user, plan, cost_nano)
        if result is None and not user.known and plan.when_offline != "allow":
            call.offline_nano = cost_nano
        return result

    def offline_refusal(self, user: User, plan: PlanConfig, cost_nano: int) -> GuardResult | None:
        """Return why a call is refused while the ledger is unreachable; None holds its expected
        cost on the plan's offline allowance, if it has one.
        """
        if user.known or plan.when_offline == "allow":
            return None
        allowance_nano = plan.offline_allowance_nano
        if allowance_nano is not None and self._allowance.take(
            cost_nano, allowance_nano, deliveries=self._sync.deliveries
        ):
            return None
        message = "The ledger is unreachable and this plan blocks calls while offline."
        return refusal("offline", message, retryable=True)

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
        if not self.refuses or not wait_s:
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


def model_refusal(request: Request, plan: PlanConfig, resolved: Resolved) -> GuardResult | None:
    """Return why a call of a model is refused, if its plan blocks models without a price."""
    if plan.unknown_model != "block" or resolved.rates.is_known:
        return None
    name = request.model or "(none)"
    message = f"{name} has no price, and this plan blocks models without one."
    return refusal(f"unknown_model:{name}", message)
