"""The parts of the accounts in one process, made together.

Every limit of a user's plan is an account: the spend in its window, and the holds of calls in
flight. `registry` knows the users and their plans, `sessions` their sessions, `admission` holds and
settles, and `sync` exchanges figures with the ledger.
"""

from __future__ import annotations

from collections.abc import Callable

from paygent.client.accounts.admission import Admission
from paygent.client.accounts.ledger_sync import LedgerSync
from paygent.client.accounts.registry import UserRegistry
from paygent.client.accounts.sessions import Sessions
from paygent.client.runtime.locks import acquire_blocking


class Accounts:
    """The users, accounts and holds of one process and product. Thread-safe.

    Attributes:
        admission: Holds, settlements and readings.
        sync: Questions to the ledger, and its answers.
    """

    __slots__ = ("__weakref__", "admission", "registry", "sessions", "sync")

    def __init__(
        self,
        *,
        default_plan: str | None,
        new_id: Callable[[int], str],
        warn_every_call: bool = False,
        refresh_us: int = 60_000_000,
    ) -> None:
        self.registry = UserRegistry(default_plan)  # users and plans
        self.sessions = Sessions(new_id)  # which session a call belongs to
        self.admission = Admission(warn_every_call=warn_every_call)
        self.sync = LedgerSync(self.registry, refresh_us=refresh_us)

    def note_answered(self) -> None:
        """Note that the ledger has answered: an outage is over, and what it had to leave open may
        be waited for again.
        """
        sync = self.sync
        if not sync.is_failing:
            return
        if sync.is_offline:
            sync.outages += 1
        sync.is_failing = sync.is_offline = self.admission.is_offline = False
        for user in list(self.registry.users.values()):
            user.wait_failed = False
            if not user.known:
                user.has_waited = False

    def note_failing(self, *, is_offline: bool) -> None:
        """Note that the ledger does not answer.

        Args:
            is_offline: Whether it has not for so long that `when_offline` applies.
        """
        sync = self.sync
        sync.is_failing = True
        if is_offline and not sync.is_offline:
            sync.is_offline = self.admission.is_offline = True
            for user in list(self.registry.users.values()):
                if user.plan.when_offline != "allow":
                    with acquire_blocking(user.lock):
                        user.drop_lanes()

    def renew_after_fork(self) -> None:
        """Forget the parent's holds, pending events, opened sessions and locks."""
        self.sync.renew_after_fork()
        self.registry.renew_after_fork()
        self.sessions.renew_after_fork()
        self.admission.renew_after_fork()
