"""Identify: the user of a call or manual event. Its own arguments win over the context; without a
user it follows `on_missing_user`.
"""

from __future__ import annotations

from functools import partial

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import current_identity
from paygent.client.metering.call import Request
from paygent.client.metering.gate_log import GateLog
from paygent.client.runtime.settings import MISSING_USER_POLICIES
from paygent.core.messages import MISSING_USER_ID
from paygent.core.notices import Notice
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics
from paygent.types import refusal


class Attribution:
    """Resolves the users of one `Paygent`'s calls. Thread-safe.

    Attributes:
        fallback_user_id: The user of calls without one.
        admits_missing_user: Whether such calls run.
        count_missing_user: Counts one more of them, once the first is logged.
    """

    def __init__(self, policy: str, gate_log: GateLog) -> None:
        self._policy = policy  # `on_missing_user`: "warn", "block", "ignore" or a user id
        self._gate_log = gate_log
        self.fallback_user_id = MISSING_USER_ID if policy in MISSING_USER_POLICIES else policy
        self.admits_missing_user = policy != "block"
        self.count_missing_user = _count_missing_user if policy == "warn" else int

    def resolve(self, request: Request) -> Identity:
        """Return the identity of a call, with a user in any case.

        Raises:
            PaygentLimitExceeded: with `no_user`, where calls without a user are refused.
        """
        # A request that has to wait is resolved once: its context may be another by then.
        if request.resolved_identity is None:
            identity = self._stated(request)
            if identity is None or identity.user_id is None:
                if not request.has_run:
                    self._apply_missing_user_policy(request.model)
                session_id = identity.session_id if identity is not None else None
                identity = Identity(self.fallback_user_id, session_id).merged_with(identity)
            request.resolved_identity = identity
        return request.resolved_identity

    def resolve_event(self, given: Identity) -> Identity:
        """Return the identity of a manual event, with a user in any case.

        Args:
            given: The arguments of `record_event`; the context fills in what they lack.
        """
        identity = given.merged_with(current_identity())
        if identity.user_id is not None:
            return identity
        if self._policy in ("warn", "block"):  # not blocked: the event's money has been spent
            diagnostics.warn_once(Notice.NO_USER_EVENT, MISSING_USER_ID)
        return Identity(self.fallback_user_id).merged_with(identity)

    def explicit(self, request: Request) -> Identity | None:
        """Return the identity of a call where the call or its context names a user, or None."""
        identity = self._stated(request)
        return identity if identity is not None and identity.user_id is not None else None

    @staticmethod
    def _stated(request: Request) -> Identity | None:
        context = current_identity()
        return context if request.identity is None else request.identity.merged_with(context)

    def _apply_missing_user_policy(self, model: str) -> None:
        """Apply the missing-user policy: block, warn or ignore."""
        if self._policy == "block":
            message = "This call has no user; wrap it in a paygent_context."
            result = refusal("no_user", message, model=model)
            self._gate_log.refuse(result, blocked=True)
            raise PaygentLimitExceeded(result)
        if self._policy == "warn":
            diagnostics.warn_once(Notice.NO_USER_CALL, MISSING_USER_ID)


_count_missing_user = partial(diagnostics.count_again, Notice.NO_USER_CALL.kind)
