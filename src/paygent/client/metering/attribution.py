"""Identify: whose call it is. What the call itself says wins over the context; a call that neither
says anything of follows `on_missing_user`.
"""

from __future__ import annotations

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import current_identity
from paygent.client.metering.call import Request
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.settings import MISSING_USER_ID
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics
from paygent.types import GuardResult


class Attribution:
    """Tells whose the calls of one `Paygent` are. Thread-safe.

    Attributes:
        nobody: The user of what has none and cannot be refused.
    """

    def __init__(self, policy: str, callbacks: Callbacks) -> None:
        """Take the policy for nobody.

        Args:
            policy: `on_missing_user`: "warn", "block", "ignore" or a user id.
            callbacks: Told of calls that are refused.
        """
        self._policy = policy
        self._callbacks = callbacks
        self.fallback_user_id = MISSING_USER_ID if policy in ("warn", "ignore", "block") else policy

    def resolve(self, request: Request) -> Identity:
        """Return whose call it is.

        Raises:
            PaygentLimitExceeded: with `no_user`, where calls without a user are refused.
        """
        if request.resolved_identity is None:
            said = self._said(request)
            if said is None or said.user_id is None:
                if not request.has_run:
                    self._say_missing()
                session_id = said.session_id if said is not None else None
                said = Identity(self.fallback_user_id, session_id).merged_with(said)
            request.resolved_identity = said
        return request.resolved_identity

    def explicit(self, request: Request) -> Identity | None:
        """Return whose call it is, where that is said; None where it is not."""
        said = self._said(request)
        return said if said is not None and said.user_id is not None else None

    @staticmethod
    def _said(request: Request) -> Identity | None:
        """Return what is said of whose call it is, in the call and around it."""
        around = current_identity()
        return around if request.identity is None else request.identity.merged_with(around)

    def _say_missing(self) -> None:
        """Do with a call that has no user what the policy says: refuse it, say it, or nothing."""
        if self._policy == "block":
            message = "this call has no user; put it into a paygent_context"
            result = GuardResult("hard_gate", "no_user", 1.0, 0.0, 0.0, message)
            self._callbacks.fire("hard_gate", result)
            raise PaygentLimitExceeded(result)
        if self._policy == "warn":
            diagnostics.warn_once(
                "no_user",
                "a call has no user and is counted on %s: put it into a paygent_context, or hand"
                " its work over with pg.bind",
                MISSING_USER_ID,
            )
