"""What tests read off the accounts of a process: open calls, what these hold, what is counted."""

from __future__ import annotations

from paygent import Paygent
from paygent.client.accounts.account import Account
from paygent.client.accounts.holds import load_on
from paygent.client.accounts.user_state import Hold, User
from paygent.core.account import amount


def open_calls(user: User) -> list[Hold]:
    """Return the calls of a user that are in flight, or that have ended and are not counted yet."""
    return list(user.open.values())


def held(user: User, account: Account) -> int:
    """Return what the open calls of a user hold on one account, in the unit of its metric."""
    return load_on(account, open_calls(user)).held


def nothing_left(pg: Paygent, user_id: str = "u1") -> bool:
    """Return whether no call holds or waits once all that has ended is counted."""
    user = pg._parts.accounts.registry.users[user_id]
    pg._parts.accounts.admission.count(user)
    is_waiting = any(account.waiting for account in user.accounts.values())
    return not (open_calls(user) or user.finished or is_waiting)


def counts_what_is_pending(user: User) -> bool:
    """Return whether each account counts what the ledger does not have yet, and nothing else."""
    with user.lock:
        return all(
            account.pending
            == sum(
                amount(
                    account.metric,
                    cost_nano=event.cost_nano,
                    tokens=event.total_tokens,
                    calls=event.calls,
                )
                for event in user.pending.values()
                if key.counts(event)
            )
            for key, account in user.accounts.items()
        )
