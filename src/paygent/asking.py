"""What applications ask: what a user has used, what the gate would say, who used what.

Figures of a user come from this process's memory, after one question to the ledger about a user
that it does not know yet; reports are read from the ledger. Nothing here changes what is spent or
held.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from paygent.call import runs_loop, wait_for
from paygent.context import current
from paygent.core.errors import Findings
from paygent.core.period import calendar_month, to_datetime, to_us
from paygent.core.report import UsageRow, group
from paygent.core.value import exact_usd
from paygent.failopen import failures
from paygent.ledger.accounts import Accounts, User
from paygent.ledger.port import LedgerUnavailable
from paygent.models import BillingPeriod, CurrentUsage, GuardResult, UserState, guard_result
from paygent.prices.catalogue import Catalogue
from paygent.settings import FIRST_TOUCH_WAIT_S
from paygent.sync.worker import Worker

REPORT_WAIT_S = 30.0
"""Longest wait for a report; one over a year of a large store takes a second."""


class Asking:
    """Answers questions about the users of one `Paygent`. Thread-safe."""

    def __init__(
        self,
        accounts: Accounts,
        catalogue: Catalogue,
        worker: Worker,
        now_us: Callable[[], int],
        *,
        enabled: bool,
        end_late: Callable[[], None],
    ) -> None:
        """Take the parts.

        Args:
            accounts: What this process knows.
            catalogue: Tells which model a name means.
            worker: Asks the ledger.
            now_us: The clock.
            enabled: False asks no ledger (Paygent is switched off): nobody has used anything.
            end_late: Ends what is to be ended before figures are read.
        """
        self._end_late = end_late
        self._accounts = accounts
        self._catalogue = catalogue
        self._worker = worker
        self._now_us = now_us
        self._enabled = enabled

    def known(self, user_id: str) -> User:
        """Return a user, asked of the ledger if this process does not know them yet (a quarter
        second at most; on a thread that runs an event loop nobody waits).
        """
        self._end_late()
        now_us = self._now_us()
        user = self._accounts.user(user_id, now_us)
        session_id = _context_session(user_id)
        if self._can_ask and self._accounts.asks(user, session_id, now_us):
            answer = self._worker.ask(user, session_id)
            if not runs_loop() and not wait_for(answer, FIRST_TOUCH_WAIT_S):
                failures.say("ledger_slow", "the ledger did not answer in %s s", FIRST_TOUCH_WAIT_S)
            self._accounts.waited(user, session_id, now_us)
        return self._accounts.user(user_id, now_us)

    @property
    def _can_ask(self) -> bool:
        return self._enabled and not self._worker.is_stopped

    def guard(self, user: User, model: str | None) -> GuardResult:
        """Return what the gate would say to a call of a model now; None looks at the limits of all
        models together only.
        """
        if not self._enabled:
            return GuardResult()
        now_us = self._now_us()
        model_key = ""
        if model:
            model_key = self._catalogue.resolve("", model, now_us, user.plan).model_key
        decision = self._accounts.check(user, self.session_of(user), model_key, now_us)
        return guard_result(decision, user.user_id)

    def session_of(self, user: User) -> str:
        """Return the session that figures are about: the context's, else the one used last, else
        the open one.
        """
        opened = user.open_session.session_id if user.open_session is not None else ""
        return _context_session(user.user_id) or user.session_id or opened

    def usage(self, user: User) -> CurrentUsage:
        """Return what a user has used in the current period and session."""
        session_id = self.session_of(user)
        figures = self._accounts.figures(user, session_id, self._now_us())
        opened = user.open_session
        started = (
            to_datetime(opened.started_us) if opened and opened.session_id == session_id else None
        )
        return CurrentUsage(
            period_cost=exact_usd(figures.period_cost_nano),
            session_cost=exact_usd(figures.session_cost_nano),
            session_id=session_id or None,
            session_started_at=started,
            period_tokens_total=sum(tokens for tokens, _ in figures.by_model.values()),
            period_tokens_by_model={model: use[0] for model, use in figures.by_model.items()},
            period_cost_by_model={
                model: exact_usd(use[1]) for model, use in figures.by_model.items()
            },
            reserved_cost=exact_usd(figures.held_cost_nano),
            reserved_tokens_by_model=figures.held_tokens,
        )

    def state(self, user: User) -> UserState:
        """Return a user with plan, usage and period."""
        return UserState(
            user_id=user.user_id,
            paygent_user_id=None,
            plan=user.plan_name,
            sdk_enabled=user.sdk_enabled,
            plan_config=user.plan,
            current_usage=self.usage(user),
            billing_period=BillingPeriod(
                to_datetime(user.period.start_us), to_datetime(user.period.end_us)
            ),
            last_refreshed=to_datetime(user.read_us) if user.read_us else None,
        )

    def report(self, by: Any, start: Any, end: Any) -> tuple[UsageRow, ...]:
        """Return usage and cost of a span of days; see `Paygent.report`.

        Args:
            by, start, end: As the application gave them.

        Raises:
            InvalidValue: naming what breaks a rule.
            LedgerUnavailable: if the ledger cannot be read, or not in half a minute.
        """
        findings = Findings("report")
        names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, (tuple, list)) else ()
        if not names or any(name not in ("user", "model") for name in names):
            findings.add("by", by, 'must be "user", "model" or both')
        for name, moment in (("start", start), ("end", end)):
            if moment is not None and not _is_moment(moment):
                findings.add(name, moment, "must be an aware datetime of the years 1 to 9999")
        findings.raise_if_any()
        if not self._enabled:
            return ()
        now_us = self._now_us()
        end_us = to_us(end) if end is not None else now_us + 1
        start_us = to_us(start) if start is not None else calendar_month(now_us).start_us
        if not self._can_ask:
            raise LedgerUnavailable("this Paygent has been shut down")
        self._end_late()
        if not self._worker.flush(REPORT_WAIT_S, gives_up=True):
            failures.say(
                "report_incomplete", "a report lacks events that the ledger does not have yet"
            )
        read = self._worker.read(lambda ledger: ledger.report(start_us, end_us))
        if not wait_for(read, REPORT_WAIT_S):
            raise LedgerUnavailable(f"the ledger did not answer in {REPORT_WAIT_S:g} s")
        return group(read.result(), names)


def _is_moment(value: Any) -> bool:
    """Tell whether a value is an aware datetime that exists in UTC too."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        return False
    try:
        to_us(value)
    except OverflowError:
        return False
    return True


def _context_session(user_id: str) -> str | None:
    identity = current.get()
    return identity.session_id if identity is not None and identity.user_id == user_id else None
