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

    def renew_after_fork(self) -> None:
        """Forget the parent's holds, pending events, opened sessions and locks."""
        self.registry.renew_after_fork()
        self.sessions.renew_after_fork()
        self.admission.renew_after_fork()
