"""Sums of what this process has delivered, where the backend shows none: sessions, days, rolling
windows, calls. Pure and bounded; it is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.messages import Question
from paygent.core.period import END_OF_TIME_US, ROLLING_STEPS, rolling_length_us

SUMS_MAX = 20_000
"""Sums that are kept: one for each account, and one for each part of it. Those of users who were
not asked about for the longest time are dropped.
"""

ACCOUNTS_MAX = 512
"""Accounts of one user, twice what a process has open; the oldest, such as sessions that have
ended, are dropped.
"""

IDS_MAX = 10_000
"""Events remembered as summed: more than are ever sent again."""

_SWEEP_US = 60 * 10**6  # between two searches for windows that have ended


class Total(NamedTuple):
    """What an account counts of this process's events, and the part that blocked calls spent."""

    whole: int = 0
    blocked: int = 0


_NOTHING = Total()


class ProcessSums:
    """What this process has delivered, by user and account; bounded.

    An account is summed from the first question about it on. A rolling window has a part for each
    of its steps, and any other account has one.
    """

    def __init__(self) -> None:
        # By user, the one who was asked about last at the end; so are the accounts of each.
        self._users: dict[str, dict[AccountKey, dict[int, Total]]] = {}
        self._added: dict[tuple[str, str], None] = {}
        self._size = 0  # accounts and parts
        self._swept_us = 0

    def open(self, questions: Iterable[Question], now_us: int) -> None:
        """Sum the accounts of questions from now on."""
        if now_us >= self._swept_us + _SWEEP_US:
            self._swept_us = now_us
            self._drop_ended(now_us)
        for question in questions:
            accounts = self._users[question.user_id] = self._users.pop(question.user_id, {})
            for key in question.accounts:
                if key not in accounts:
                    self._size += 1
                accounts[key] = accounts.pop(key, {})
            while len(accounts) > ACCOUNTS_MAX:
                self._drop(accounts, next(iter(accounts)))
        self._limit()

    def add(self, event: Event) -> None:
        """Add an event, once: a batch may be sent again after it was booked."""
        identity = event.user_id, event.event_id
        if identity in self._added:
            return
        self._added[identity] = None
        if len(self._added) > IDS_MAX:
            del self._added[next(iter(self._added))]
        for key, parts in self._users.get(event.user_id, {}).items():
            if not key.counts(event):
                continue
            whole = amount(
                key.limit.metric,
                cost_nano=event.cost_nano,
                tokens=event.total_tokens,
                calls=event.calls,
            )
            step = event.at_us // _step_us(key)
            self._size += step not in parts
            before = parts.get(step, _NOTHING)
            blocked = before.blocked + (whole if event.blocked else 0)
            parts[step] = Total(before.whole + whole, blocked)
        self._limit()

    def read(self, question: Question, now_us: int) -> dict[AccountKey, Total]:
        """Return the sums of a question's accounts."""
        accounts = self._users.get(question.user_id, {})
        totals = {}
        for key in question.accounts:
            parts = accounts.get(key, {})
            self._drop_old_parts(key, parts, now_us)
            whole = sum(part.whole for part in parts.values())
            totals[key] = Total(whole, sum(part.blocked for part in parts.values()))
        return totals

    def _drop_old_parts(self, key: AccountKey, parts: dict[int, Total], now_us: int) -> None:
        length_us = rolling_length_us(key.limit.window)
        if length_us is None:
            return
        step_us = _step_us(key)
        for step in [each for each in parts if (each + 1) * step_us <= now_us - length_us]:
            del parts[step]
            self._size -= 1

    def _drop_ended(self, now_us: int) -> None:
        for user_id, accounts in list(self._users.items()):
            for key in [each for each in accounts if each.end_us <= now_us]:
                self._drop(accounts, key)
            if not accounts:
                del self._users[user_id]

    def _limit(self) -> None:
        """Forget the users who were not asked about for the longest time, beyond the bound."""
        while self._size > SUMS_MAX and len(self._users) > 1:
            accounts = self._users.pop(next(iter(self._users)))
            for key in list(accounts):
                self._drop(accounts, key)

    def _drop(self, accounts: dict[AccountKey, dict[int, Total]], key: AccountKey) -> None:
        self._size -= 1 + len(accounts.pop(key))


def _step_us(key: AccountKey) -> int:
    """Return the length of the parts of an account; all time if it is no rolling window."""
    length_us = rolling_length_us(key.limit.window)
    return END_OF_TIME_US if length_us is None else length_us // ROLLING_STEPS
