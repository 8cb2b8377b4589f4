"""Calls that no adapter can meter: counted and logged, or refused (`on_unmetered`).

Nothing is held or booked for them. What a wrapped call makes is metered with that one, so it
passes: that is how an application meters such a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from paygent.client.accounts.registry import UserRegistry
from paygent.client.context.identity import Identity
from paygent.client.context.scopes import current_identity
from paygent.client.metering import nesting
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.gate_log import GateLog
from paygent.client.metering.policy import CallPolicy
from paygent.core.notices import Notice
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics
from paygent.types import refusal


class UnmeteredCalls:
    """The unmetered calls of one `Paygent`. Thread-safe."""

    def __init__(
        self,
        on_unmetered: Literal["warn", "raise", "ignore"],
        policy: CallPolicy,
        attribution: Attribution,
        registry: UserRegistry,
        gate_log: GateLog,
        now_us: Callable[[], int],
    ) -> None:
        self._on_unmetered = on_unmetered
        self._policy = policy
        self._attribution = attribution
        self._registry = registry
        self._gate_log = gate_log
        self._now_us = now_us

    def admit(
        self,
        notice: Notice,
        *args: str,
        operation: str,
        model: Any = None,
        identity: Identity | None = None,
    ) -> None:
        """Let a call pass that is about to be sent, or refuse it.

        Args:
            notice: What is logged, with its `args`.
            operation: Its name in counts and in the reason of a refusal.
            model: As the application named it; what is no text is no name.
            identity: From the call's own `paygent_*` arguments, or None.

        Raises:
            PaygentLimitExceeded: where such calls are refused.
        """
        if nesting.is_metered():
            return
        if self._on_unmetered == "raise":
            self._refuse(operation, notice.text % args, identity)
        self.let_pass(notice, *args, operation=operation, model=model)

    def let_pass(self, notice: Notice, *args: str, operation: str, model: Any = None) -> None:
        """Count a call that passes, for reports and in the process's counters; log the first one.

        Args:
            notice, args, operation, model: As of `admit`.
        """
        self._gate_log.count_unmetered(operation, model if isinstance(model, str) else "")
        self.note(notice, *args, subject=operation)

    def note(self, notice: Notice, *args: str, subject: str) -> None:
        """Note what may pass, and log it unless such calls are ignored."""
        if self._on_unmetered == "ignore":
            diagnostics.count(notice, subject=subject)
        else:
            diagnostics.warn_once(notice, *args, subject=subject)

    def _refuse(self, operation: str, message: str, given: Identity | None) -> None:
        """Refuse a call; one of a user who is known to be switched off passes. It is the product
        that refuses it, so a plan in shadow mode does not matter.
        """
        context = current_identity()
        identity = context if given is None else given.merged_with(context)
        named = identity.user_id if identity is not None else None
        user = self._registry.user(named or self._attribution.fallback_user_id, self._now_us())
        if not user.sdk_enabled:
            return
        result = refusal(
            f"unmetered:{operation}",
            f'Refused because of on_unmetered="raise": {message}',
            user_id=user.user_id,
            plan=user.plan_name,
        )
        self._gate_log.refuse(result, blocked=self._policy.refuses)
        if self._policy.refuses:
            raise PaygentLimitExceeded(result)
