"""What one process knows of its users, and the holds of its calls in flight.

Theory of operation
-------------------
Every limit of a user's plan is an account: what was spent in its window, and what calls in flight
hold. `spent` is the ledger's figure as last read (`base`) plus this process's own events that the
ledger has not acknowledged yet (`undelivered`); acknowledging takes an event out of the second and
reads the first anew, in one step under the lock, so no call ever sees it twice or not at all.

A call holds on all its accounts or on none. What the calls in flight hold together follows from
what such calls really take (`flights.py`), so every settlement corrects the holds of the others.
Where a need does not fit under a line, the call may go as the one that straddles it, if there is
any room; it then fills the line, so that the next one waits for it. Where holds are in the way a
call waits its turn (`waiting.py`); whatever makes room passes the turn on. Two accounts without a
cap, the user's spend in the period and in the session, are always kept, because people ask for
them.

A lock of each user guards what is theirs, so that users never wait for each other; one more guards
who there is and on which plans. Each is held for microseconds: no I/O, no callback and no logging
under it, and whoever waits in line is woken after it. Nothing here knows the journal, the ledger or
a clock; times and ids are passed in.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from paygent.client.accounts import account_lookup, admission
from paygent.client.accounts.forecasts import ForecastTable, Hold, UsageForecast
from paygent.client.accounts.user_state import UNLIMITED, Account, Figures, ModelUse, User
from paygent.client.accounts.wait_queue import Waiter, all_waiting, pass_turn, wake
from paygent.client.runtime.locks import acquire_blocking, acquire_soon
from paygent.client.runtime.settings import MISSING_USER_ID
from paygent.core.estimate import Observation
from paygent.core.event import Event
from paygent.core.gate import Decision, Reading, decide
from paygent.core.messages import Answer, Question, SessionRecord, SessionState, UserLedger
from paygent.core.period import (
    ROLLING_STEPS,
    Subscription,
    billing_period,
    rolling_length_us,
)
from paygent.core.plan import (
    LimitKey,
    PlanConfig,
    limits_of,
    plan_from_json,
    without_limits,
)
from paygent.failopen import attempt, diagnostics
from paygent.prices.catalogue import Resolved

__all__ = ["Account", "Accounts", "Figures", "Hold", "ModelUse", "User"]

USERS_MAX = 20_000
"""Users kept in memory; beyond it, idle ones are forgotten and read again when they come back."""

_EVICTED_AT_ONCE = (
    64  # oldest users looked at when one is forgotten; bounds the time under the lock
)
_US_PER_MINUTE = 60_000_000
_STALE_RETRY_US = 1_000_000  # a rolling sum that could not be read is asked for again after this


class Accounts:
    """The users, accounts and holds of one process and product. Thread-safe."""

    def __init__(
        self,
        *,
        default_plan: str,
        new_id: Callable[[int], str],
        warn_every_call: bool = False,
        refresh_us: int = 60_000_000,
    ) -> None:
        """Start with nothing known.

        Args:
            default_plan: Plan of users that nobody assigned.
            new_id: Makes an id from a time in microseconds (for sessions).
            warn_every_call: Whether a warning fires on every call past the line, not once.
            refresh_us: Age, in microseconds, at which what is known of a user is asked for again.
        """
        self.lock = threading.Lock()
        self.default_plan = default_plan
        self.plans: dict[str, PlanConfig] = {}
        self.users: dict[str, User] = {}
        self.epoch = 0
        self.deliveries = 0
        self._plan_versions: dict[str, int] = {}
        self._changing: dict[str, int] = {}
        self._new_id = new_id
        self._warn_every_call = warn_every_call
        self._refresh_us = refresh_us
        self._opened: deque[SessionRecord] = deque()
        self._queued_warnings: deque[tuple[str, str]] = deque()
        self._unlimited: set[str] = set()
        self._forecasts = ForecastTable()

    # -- users and plans

    def user(self, user_id: str, at_us: int) -> User:
        """Return a user, made on first sight, with plan and period as of now."""
        user = self.users.get(user_id)
        if user is None or user.epoch != self.epoch or at_us >= user.period.end_us:
            if user is None:
                user = self._new_user(user_id)
            with acquire_soon(user.lock):
                if user.epoch != self.epoch or at_us >= user.period.end_us:
                    self._refresh_plan(user, at_us)
            self._emit_warnings()
        return user

    def _new_user(self, user_id: str) -> User:
        """Make a user, unless another thread has."""
        with acquire_soon(self.lock):
            user = self.users.get(user_id)
            if user is None:
                if len(self.users) >= USERS_MAX:
                    self._forget_one()
                user = self.users[user_id] = User(user_id, self.default_plan)
            return user

    def _emit_warnings(self) -> None:
        """Say what was noted under a lock; a handler of the application's log may be slow."""
        if not self._queued_warnings:
            return
        with acquire_soon(self.lock):  # so that each is said once
            unsaid = [self._queued_warnings.popleft() for _ in range(len(self._queued_warnings))]
        for kind, message in unsaid:
            diagnostics.warn_once(kind, "%s", message)

    def _forget_one(self) -> None:
        """Forget the oldest idle user, so that memory stays bounded."""
        for number, (user_id, user) in enumerate(self.users.items()):
            if user.is_idle and "user:" + user_id not in self._changing:
                del self.users[user_id]
                return
            if number >= _EVICTED_AT_ONCE:
                return

    def _refresh_plan(self, user: User, at_us: int) -> None:
        """Bring a user's plan and period up to date; under the user's lock."""
        epoch = self.epoch  # first: a plan that changes meanwhile is read at the next call
        period = billing_period(user.subscription, at_us)
        if period is None:
            self._queued_warnings.append(
                ("subscription_ended", "a subscription ended; its user is on the default plan now")
            )
            user.ended = user.subscription
            user.subscription = None
            user.plan_name = self.default_plan
            user.own = None
            period = billing_period(None, at_us)
        assert period is not None  # a calendar month never ends the subscription
        if period != user.period:
            user.period = period
            user.models = {}
            account_lookup.drop_ended(user, at_us)
        plan = user.own or self.plans.get(user.plan_name) or UNLIMITED
        if user.user_id == MISSING_USER_ID and not user.assigned:
            plan = without_limits(plan)  # many people's calls together are nobody's to limit
        if plan is not user.plan:
            if user.known and not set(_keys_of(plan)) <= set(_keys_of(user.plan)):
                user.known = user.has_waited = (
                    False  # a new limit starts from what its window already saw
                )
            user.plan = plan
            user.session_timeout_us = int(plan.session_timeout_minutes * _US_PER_MINUTE)
        user.epoch = epoch
        user.call_accounts.clear()

    def warn_unlimited(self, user: User) -> None:
        """Say, once per plan, that a call is made under a plan that nobody configured."""
        if user.plan_name not in self._unlimited:
            self._unlimited.add(user.plan_name)
            diagnostics.warn_once(
                f"plan_not_configured:{user.plan_name}",
                "plan %s is not configured; its users have no limits",
                user.plan_name,
            )

    def set_plan(self, name: str, plan: PlanConfig) -> None:
        """Configure a plan; users of it follow at their next call."""
        with acquire_soon(self.lock):
            self.plans[name] = plan
            self._unlimited.discard(name)
            self._changing["plan:" + name] = self._changing.get("plan:" + name, 0) + 1
            self.epoch += 1
            users = list(self.users.values())
        for user in users:
            with acquire_soon(user.lock):
                woken = all_waiting(user)
            wake(woken)

    def assign(
        self,
        user_id: str,
        plan_name: str,
        own: PlanConfig | None,
        subscription: Subscription | None,
        at_us: int,
    ) -> User:
        """Assign a plan to a user; what was spent stays."""
        user = self.user(user_id, at_us)
        with acquire_soon(self.lock):
            self._changing["user:" + user_id] = self._changing.get("user:" + user_id, 0) + 1
        with acquire_soon(user.lock):
            user.plan_name, user.own, user.assigned = plan_name, own, True
            user.subscription, user.ended = subscription, None
            self._refresh_plan(user, at_us)
            woken = all_waiting(user)
        self._emit_warnings()
        wake(woken)
        return user

    def confirm_recorded(self, what: str) -> None:
        """Note that a directory record (`plan:<name>`, `user:<id>`) has reached the ledger."""
        with acquire_soon(self.lock):
            left = self._changing.get(what, 0) - 1
            if left > 0:
                self._changing[what] = left
            else:
                self._changing.pop(what, None)

    # -- sessions

    def session(self, user: User, session_id: str | None, at_us: int) -> str:
        """Return the session of a call: the one named, or the user's open one, opened or rotated if
        need be.
        """
        if session_id is None:
            opened = user.open_session
            idle_us = at_us - user.session_used_us
            if opened is not None and idle_us <= user.session_timeout_us:
                if idle_us > 0:
                    user.session_used_us = at_us
                user.session_id = opened.session_id
                return opened.session_id
            with acquire_soon(user.lock):
                if user.open_session is opened:
                    new = SessionState(self._new_id(at_us), at_us, at_us)
                    user.open_session = new
                    user.session_used_us = at_us
                    user.sessions.add(new.session_id)
                    self._opened.append(
                        SessionRecord(user.user_id, new.session_id, True, at_us, at_us)
                    )
                assert user.open_session is not None  # opened just now, here or by another thread
                session_id = user.open_session.session_id
        user.session_id = session_id
        return session_id

    def take_opened(self) -> list[SessionRecord]:
        """Return the sessions opened since the last call, for the journal."""
        if not self._opened:
            return []
        with acquire_soon(self.lock):  # so that each is taken once
            return [self._opened.popleft() for _ in range(len(self._opened))]

    def close_session(self, user: User, at_us: int) -> SessionRecord | None:
        """Close the user's open session; the next call without a session id opens another.

        Returns:
            The record to write, or None where no session is open.
        """
        with acquire_soon(user.lock):
            opened, user.open_session = user.open_session, None
            if opened is None:
                return None
            user.closed_us = max(at_us, opened.started_us)
            if user.session_id == opened.session_id:
                user.session_id = ""
            used_us = max(user.session_used_us, opened.used_us)
            return SessionRecord(
                user.user_id, opened.session_id, True, opened.started_us, used_us, user.closed_us
            )

    # -- the gate

    def forecast(
        self, user: User, route: str, resolved: Resolved, *, generates: bool = True
    ) -> UsageForecast:
        """Return the calls of a user that are expected alike: of one model, route and price list.

        Args:
            user: Whose calls.
            route: Which operation, such as "chat.completions".
            resolved: The model's rates under the user's plan.
            generates: Whether the route has output.
        """
        found = user.forecasts.get((route, id(resolved)))
        if found is not None:
            return found
        with acquire_soon(user.lock):
            return self._forecasts.forecast(user, route, resolved, generates=generates)

    def hold(
        self,
        user: User,
        hold: Hold,
        *,
        strict: bool,
        enforce: bool = True,
        waiter: Waiter | None = None,
        may_be_alone: bool = False,
    ) -> Decision | Waiter | None:
        """Hold what a call may use on all its accounts, or on none.

        Args:
            user: Whose call it is.
            hold: What it may use; it is on the accounts when this returns None.
            strict: Whether spend may never pass a line.
            enforce: False holds in any case (a call that runs past a hard gate).
            waiter: Stands in line where only holds of others are in the way.
            may_be_alone: Whether it does so also where all of them are its own: streams that it has
                left are being collected.

        Returns:
            None when it holds; the decision that refuses it; or the waiter, when it stands in line.
        """
        woken: list[Waiter] = []
        stands_at: Account | None = None
        with acquire_soon(user.lock):
            accounts = account_lookup.accounts_for_call(
                user, hold.session_id, hold.model_key, hold.at_us
            )
            hold.period = user.period
            waited_at = waiter.account if waiter is not None else None
            decision: Decision | None = None
            passed: list[Account] = []
            found = admission.in_the_way(accounts, hold, passed, strict=strict) if enforce else None
            if found is not None:
                decision, account = found
                if not decision.retryable:
                    hold.warnings = self._warnings(passed, hold)
                elif waiter is not None and (may_be_alone or admission.others_hold(account, hold)):
                    stands_at = account
                    waiter.stand_at(account)
            else:
                if passed:
                    hold.warnings = self._warnings(passed, hold)
                for account in accounts:
                    account.add(hold, account.lines is not None)
                user.is_active = True
            passing = accounts if stands_at is None else ()
            if waited_at is not None and waited_at is not stands_at and waited_at not in passing:
                pass_turn(waited_at, woken)  # whoever goes elsewhere leaves that turn to the next
            for account in passing:
                if account.waiting:
                    pass_turn(account, woken)
        if woken:
            wake(woken)
        return waiter if stands_at is not None else decision

    def _warnings(self, passed: list[Account], hold: Hold) -> tuple[Reading, ...]:
        """Note and return which of the accounts past their warn line are to speak."""
        due = [each for each in passed if self._warn_every_call or not each.warned]
        for account in due:
            account.warned = True
        return tuple(admission.read_account(account, hold.use) for account in due)

    def settle(
        self,
        user: User,
        hold: Hold | None,
        event: Event,
        learned: tuple[UsageForecast, Observation] | None = None,
    ) -> None:
        """Replace a hold by what was really spent, on the accounts of the windows in which the call
        began.

        Args:
            user: Whose call it was.
            hold: What it held; None for an entry that is no call.
            event: What it cost.
            learned: What it took, and of which calls the next ones are to be expected by it; None
                where that is not known.
        """
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            if event.event_id not in user.pending:  # brought again after an interruption
                account_lookup.count(user, event)
            user.is_active = True
            if hold is not None:
                if learned is not None:
                    forecast, taken = learned
                    forecast.learn(taken, hold.use)
                _release(hold, woken)
        if woken:
            wake(woken)

    def release(self, user: User, hold: Hold) -> None:
        """End a hold of a user's call that spent nothing."""
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            _release(hold, woken)
        wake(woken)

    def waiting_count(self) -> int:
        """Return how many calls wait for holds of others."""
        count = 0
        for user in list(self.users.values()):
            with acquire_soon(user.lock):
                count += sum(len(account.waiting) for account in user.accounts.values())
        return count

    def leave(self, user: User, waiter: Waiter, *, gives_up: bool) -> None:
        """Take a call out of the line.

        Args:
            user: Whose call it is.
            waiter: Of the call.
            gives_up: Whether it will not try again; a turn that it was given goes to the next.
        """
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            account = waiter.account
            assert account is not None  # it stood in line
            if waiter in account.waiting:
                account.waiting.remove(waiter)
            elif gives_up:
                pass_turn(account, woken)
        wake(woken)

    def check(self, user: User, session_id: str, model_key: str, at_us: int) -> Decision:
        """Say what the gate would say now to a call of a model ("" for none, then no model's limit
        counts).
        """
        with acquire_soon(user.lock):
            accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            limited = tuple(
                admission.read_account(each) for each in accounts if each.lines is not None
            )
            return decide(limited, strict=user.plan.pre_call_estimate)

    def limits(
        self, user: User, session_id: str, model_key: str | None, at_us: int
    ) -> tuple[tuple[LimitKey, Reading], ...]:
        """Return every limit of a user here and now, as read.

        Args:
            user, session_id: Whose, in which session; "" is one that the next call would open.
            model_key: Leaves out what limits another model; None leaves out nothing.
            at_us: Now.
        """
        with acquire_soon(user.lock):
            if model_key is not None:
                accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            else:
                keys = account_lookup.keys_now(user, session_id, at_us)
                accounts = tuple(user.accounts[key] for key in keys)
            read = [
                (each.key.limit, admission.read_account(each)) for each in accounts if each.lines
            ]
        return (
            (*read, *account_lookup.of_a_new_session(user.plan)) if not session_id else tuple(read)
        )

    def figures(self, user: User, session_id: str, at_us: int) -> Figures:
        """Return what a user has used in the current period and in a session."""
        with acquire_soon(user.lock):
            period = account_lookup.open_account(
                user,
                account_lookup.account_key(
                    account_lookup.PERIOD_SPEND, user.period, session_id, at_us
                ),
                account_lookup.PERIOD_SPEND.reason,
                account_lookup.KEEP,
            )
            session_spent = 0
            if session_id:
                key = account_lookup.account_key(
                    account_lookup.SESSION_SPEND, user.period, session_id, at_us
                )
                session_spent = account_lookup.open_account(
                    user, key, account_lookup.SESSION_SPEND.reason, account_lookup.KEEP
                ).spent
            held_tokens: dict[str, int] = {}
            for hold in period.calls:
                tokens = held_tokens.get(hold.model_key, 0) + hold.use.tokens
                held_tokens[hold.model_key] = tokens
            return Figures(
                period_cost_nano=period.spent,
                session_cost_nano=session_spent,
                held_cost_nano=sum(hold.use.cost_nano for hold in period.calls),
                by_model={
                    model: (
                        use.acknowledged_tokens + use.tokens,
                        use.acknowledged_cost_nano + use.cost_nano,
                    )
                    for model, use in user.models.items()
                    if model
                },
                held_tokens=held_tokens,
            )

    def forget(self, user: User) -> None:
        """Forget what was read of a user, so that it is read anew; what is spent or held stays."""
        with acquire_soon(user.lock):
            user.known = user.has_waited = False
            user.sessions.clear()
            user.session_id = ""
            user.forecasts = {}
            user.seen = {}

    # -- the ledger's side

    def question(self, user: User, session_id: str | None, at_us: int) -> Question:
        """Return what to ask the ledger about a user: every account of the plan, here and now."""
        with acquire_soon(user.lock):
            session = session_id or (user.open_session.session_id if user.open_session else "")
            return Question(
                user.user_id, account_lookup.keys_now(user, session, at_us), user.period.start_us
            )

    def needs_refresh(self, user: User, session_id: str | None, at_us: int) -> bool:
        """Tell whether the ledger should be asked before this user's next call is decided.

        That is so once per user, per session named by the application, per limit that was added,
        and for rolling windows whose sum has aged. A call that has waited once goes on with what is
        known.
        """
        if not user.known:
            return not user.has_waited
        if session_id is not None and session_id not in user.sessions:
            return True
        return at_us >= user.stale_us

    def mark_waited(self, user: User, session_id: str | None, at_us: int) -> None:
        """Note that a call has waited for the ledger, so that the next one does not."""
        with acquire_soon(user.lock):
            user.has_waited = True
            if session_id is not None:
                user.sessions.add(session_id)
            if at_us >= user.stale_us:
                user.stale_us = at_us + _STALE_RETRY_US

    def take_active_users(self, also: Iterable[str], at_us: int) -> tuple[Question, ...]:
        """Return questions for the users active since the last call, and for those named."""
        active = {user.user_id: user for user in list(self.users.values()) if user.is_active}
        for user_id in also:
            known = self.users.get(user_id)
            if known is not None:
                active[user_id] = known
        for user in active.values():
            user.is_active = False
        return tuple(
            self.question(self.user(user.user_id, at_us), user.session_id or None, at_us)
            for user in active.values()
        )

    def acknowledge(self, delivered: Iterable[Event], answer: Answer, at_us: int) -> None:
        """Take delivered events out of what is undelivered and read the ledger's figures, in one
        step; by the delivering thread alone.

        Args:
            delivered: Events that the ledger has booked now or earlier.
            answer: The ledger's state after that.
            at_us: When the answer came.
        """
        self._read_plans(answer)
        with acquire_blocking(self.lock):
            self.deliveries += 1
        by_user: dict[str, list[Event]] = {}
        for event in delivered:
            by_user.setdefault(event.user_id, []).append(event)
        for user_id in {**by_user, **answer.users}:
            user = self.users.get(user_id)
            if user is None:
                continue
            state = answer.users.get(user_id)
            own = _own_plan(state)
            with acquire_blocking(user.lock):
                for event in by_user.get(user_id, ()):
                    account_lookup.acknowledge(user, event, is_new=event.event_id in answer.counted)
                if state is not None:
                    self._read_state(user, state, own, at_us)
        self._emit_warnings()

    def pending_events(self) -> list[Event]:
        """Return the events that the ledger has not acknowledged."""
        users = list(self.users.values())
        return [event for user in users for event in list(user.pending.values())]

    def _read_plans(self, answer: Answer) -> None:
        for name, (version, document) in answer.plans.items():
            if self._plan_versions.get(name) == version or "plan:" + name in self._changing:
                continue
            plan = attempt("plan_document", plan_from_json, document)
            with acquire_blocking(self.lock):
                self._plan_versions[name] = version
                if plan is not None and self.plans.get(name) != plan:
                    self.plans[name] = plan
                    self.epoch += 1

    def apply_answer(self, answer: Answer, at_us: int, *, as_of: int | None = None) -> bool:
        """Take over plans and state of users that were asked for.

        Args:
            answer: The ledger's word.
            at_us: When it came.
            as_of: What `deliveries` was when the question was asked; None takes the answer as it
                is.

        Returns:
            False if a delivery was acknowledged since: the figures may be older than it, and are
            not taken over.
        """
        self._read_plans(answer)
        for user_id, state in answer.users.items():
            user = self.users.get(user_id)
            if user is not None:
                own = _own_plan(state)
                with acquire_soon(user.lock):
                    if as_of is not None and as_of != self.deliveries:
                        return False
                    self._read_state(user, state, own, at_us)
        self._emit_warnings()
        return True

    def _read_state(
        self, user: User, state: UserLedger, own: PlanConfig | None, at_us: int
    ) -> None:
        """Take over the ledger's word on a user; under the user's lock. What this process is just
        changing stays.
        """
        if "user:" + user.user_id not in self._changing:
            plan_name = state.plan or (user.plan_name if not user.assigned else self.default_plan)
            told = (plan_name, state.subscription, own)
            if user.ended is not None and state.subscription == user.ended:
                told = (user.plan_name, user.subscription, user.own)  # what ended stays ended
            if told != (user.plan_name, user.subscription, user.own):
                user.plan_name, user.subscription, user.own = told
                user.ended = None
                self._refresh_plan(user, at_us)
            user.assigned = state.plan is not None
            user.sdk_enabled = state.sdk_enabled
        theirs, ours = state.open_session, user.open_session
        if theirs is not None and theirs.started_us <= user.closed_us:
            theirs = None  # closed here; the ledger does not know yet
        if theirs is not None and ours is not None and theirs.session_id == ours.session_id:
            user.session_used_us = max(user.session_used_us, theirs.used_us)
        elif theirs is not None and (ours is None or theirs.started_us > ours.started_us):
            user.open_session = theirs
            user.session_used_us = theirs.used_us
            user.sessions.add(theirs.session_id)
        user.stale_us = at_us + self._refresh_us
        for key, spent in state.spent.items():
            account = user.accounts.get(key)
            if account is None:
                continue
            account.acknowledged = spent
            if key.session_id:
                user.sessions.add(key.session_id)
            length_us = rolling_length_us(key.limit.window)
            if length_us is not None:
                account.stale_us = at_us + length_us // ROLLING_STEPS
                user.stale_us = min(user.stale_us, account.stale_us)
        asked_right = state.period_start_us == user.period.start_us
        if asked_right:
            for model, (tokens, cost_nano) in state.by_model.items():
                use = user.models.get(model)
                if use is None:
                    use = user.models[model] = ModelUse()
                use.acknowledged_tokens, use.acknowledged_cost_nano = tokens, cost_nano
        # A plan or period that was news changes what had to be asked; then the answer is not yet
        # enough.
        user.known = asked_right and state.spent.keys() >= set(
            account_lookup.keys_now(user, "", at_us)
        )
        user.read_us = at_us

    def forget_after_fork(self) -> None:
        """Forget what is the parent process's: its holds, its undelivered events, its locks."""
        self.lock = threading.Lock()
        self._opened.clear()
        self._changing = {}
        for user in self.users.values():
            user.lock = threading.Lock()
            user.pending = {}
            user.known = user.has_waited = False
            user.accounts = {}
            user.call_accounts = {}
            user.event_accounts = {}
            user.models = {}
            user.forecasts = {}
            user.seen = {}
        self._forecasts = ForecastTable()


def _keys_of(plan: PlanConfig) -> tuple[LimitKey, ...]:
    return tuple(limit.key for limit in limits_of(plan))


def _own_plan(state: UserLedger | None) -> PlanConfig | None:
    """Return a user's own version of a plan; takes a while and may log, so never under the lock."""
    if state is None or state.own is None:
        return None
    return attempt("plan_document", plan_from_json, state.own)


def _release(hold: Hold, woken: list[Waiter]) -> None:
    """Take a hold off its accounts, and pass the turn on where it leaves room; under the lock."""
    for account in hold.accounts:
        account.remove(hold)
        if account.waiting:
            pass_turn(account, woken)
