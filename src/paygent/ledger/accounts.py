"""What one process knows of its users, and the holds of its calls in flight.

Theory of operation
-------------------
Every limit of a user's plan is an account: what was spent in its window, and what calls in flight
hold. `spent` is the ledger's figure as last read (`base`) plus this process's own events that the
ledger has not acknowledged yet (`undelivered`); acknowledging takes an event out of the second and
reads the first anew, in one step under the lock, so no call ever sees it twice or not at all.

A call holds on all its accounts or on none. Where a need does not fit under a line, the call may go
as the one that straddles it, holding all that is left, if no other straddler is in flight. Two
accounts without a cap, the user's spend in the period and in the session, are always kept, because
people ask for them.

One lock guards everything and is held for microseconds: no I/O, no callback and no logging under
it. Nothing here knows the journal, the ledger or a clock; times and ids are passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from paygent.core.account import amount
from paygent.core.event import Event
from paygent.core.gate import Decision, Reading, decide, judge
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
from paygent.failopen import attempt, failures
from paygent.ledger import books
from paygent.ledger.user import UNLIMITED, Account, Figures, Hold, ModelUse, User
from paygent.settings import MISSING_USER_ID
from paygent.wire import Answer, Question, SessionRecord, SessionState, UserLedger

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
        self._opened: list[SessionRecord] = []
        self._unsaid: list[tuple[str, str]] = []
        self._unlimited: set[str] = set()

    # -- users and plans

    def user(self, user_id: str, at_us: int) -> User:
        """Return a user, made on first sight, with plan and period as of now."""
        user = self.users.get(user_id)
        if user is None or user.epoch != self.epoch or at_us >= user.period.end_us:
            with self.lock:
                user = self.users.get(user_id)
                if user is None:
                    if len(self.users) >= USERS_MAX:
                        self._forget_one()
                    user = self.users[user_id] = User(user_id, self.default_plan)
                if user.epoch != self.epoch or at_us >= user.period.end_us:
                    self._refresh_plan(user, at_us)
            self._say()
        return user

    def _say(self) -> None:
        """Say what was noted under the lock; a handler of the application's log may be slow."""
        if not self._unsaid:
            return
        with self.lock:
            unsaid, self._unsaid = self._unsaid, []
        for kind, message in unsaid:
            failures.say(kind, "%s", message)

    def _forget_one(self) -> None:
        """Forget the oldest idle user, so that memory stays bounded."""
        for number, (user_id, user) in enumerate(self.users.items()):
            if user.is_idle:
                del self.users[user_id]
                return
            if number >= _EVICTED_AT_ONCE:
                return

    def _refresh_plan(self, user: User, at_us: int) -> None:
        """Bring a user's plan and period up to date; under the lock."""
        period = billing_period(user.subscription, at_us)
        if period is None:
            self._unsaid.append(
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
            books.drop_ended(user, at_us)
        plan = user.own or self.plans.get(user.plan_name) or UNLIMITED
        if user.user_id == MISSING_USER_ID and not user.assigned:
            plan = without_limits(plan)  # many people's calls together are nobody's to limit
        if plan is not user.plan:
            if user.known and not set(_keys_of(plan)) <= set(_keys_of(user.plan)):
                user.known = user.waited = (
                    False  # a new limit starts from what its window already saw
                )
            user.plan = plan
            user.session_timeout_us = int(plan.session_timeout_minutes * _US_PER_MINUTE)
        user.epoch = self.epoch
        user.routes.clear()

    def say_unlimited(self, user: User) -> None:
        """Say, once per plan, that a call is made under a plan that nobody configured."""
        if user.plan_name not in self._unlimited:
            self._unlimited.add(user.plan_name)
            failures.say(
                f"plan_not_configured:{user.plan_name}",
                "plan %s is not configured; its users have no limits",
                user.plan_name,
            )

    def set_plan(self, name: str, plan: PlanConfig) -> None:
        """Configure a plan; users of it follow at their next call."""
        with self.lock:
            self.plans[name] = plan
            self._unlimited.discard(name)
            self._changing["plan:" + name] = self._changing.get("plan:" + name, 0) + 1
            self.epoch += 1

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
        with self.lock:
            user.plan_name, user.own, user.assigned = plan_name, own, True
            user.subscription, user.ended = subscription, None
            self._changing["user:" + user_id] = self._changing.get("user:" + user_id, 0) + 1
            self._refresh_plan(user, at_us)
        self._say()
        return user

    def recorded(self, what: str) -> None:
        """Note that a directory record (`plan:<name>`, `user:<id>`) has reached the ledger."""
        with self.lock:
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
            with self.lock:
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
        with self.lock:
            opened, self._opened = self._opened, []
        return opened

    # -- the gate

    def hold(
        self,
        user: User,
        session_id: str,
        model_key: str,
        *,
        cost_nano: int,
        tokens: int,
        at_us: int,
        strict: bool,
        enforce: bool = True,
    ) -> Hold | Decision:
        """Hold what a call may use on all its accounts, or on none.

        Args:
            user, session_id, model_key: Whose call, in which session, of which model.
            cost_nano, tokens: What the call may use.
            at_us: When it begins.
            strict: Whether it must fit whole.
            enforce: False holds in any case (a call that runs past a hard gate).

        Returns:
            The hold, or the decision that refuses it.
        """
        with self.lock:
            accounts = books.route(user, session_id, model_key, at_us)
            parts: list[tuple[Account, int]] = []
            straddled: list[Account] = []
            passed: list[Account] = []
            for account in accounts:
                metric = account.metric
                need = cost_nano if metric == "spend" else tokens if metric == "tokens" else 1
                lines = account.lines
                if lines is None:
                    parts.append((account, need))
                    continue
                spent, held = account.base + account.undelivered, account.held
                verdict = judge(
                    spent, held, need, lines.block, strict=strict, straddled=account.straddlers > 0
                )
                if verdict != "fits":
                    if verdict == "straddles":
                        straddled.append(account)
                        need = lines.block - spent - held
                    elif enforce:
                        return decide(_readings(accounts, cost_nano, tokens), strict=strict)
                parts.append((account, need))
                if spent >= lines.warn and (not account.warned or self._warn_every_call):
                    passed.append(account)
            warnings = _readings(passed, cost_nano, tokens) if passed else ()
            for account in passed:
                account.warned = True
            for account, part in parts:
                account.held += part
            for account in straddled:
                account.straddlers += 1
            use = user.models.get(model_key)
            if use is None:
                use = user.models[model_key] = ModelUse()
            use.held_tokens += tokens
            use.held_cost_nano += cost_nano
            user.touched = True
            return Hold(
                tuple(parts), tuple(straddled), user.period, warnings, cost_nano, tokens, model_key
            )

    def settle(self, user: User, hold: Hold | None, event: Event) -> None:
        """Replace a hold by what was really spent, on the accounts of the windows in which the call
        began.
        """
        with self.lock:
            if hold is not None:
                self._release(user, hold)
            self._count(user, event)
            user.pending[event.event_id] = event
            user.touched = True

    def release(self, user: User, hold: Hold) -> None:
        """End a hold of a call that spent nothing."""
        with self.lock:
            self._release(user, hold)

    def _release(self, user: User, hold: Hold) -> None:
        for account, part in hold.parts:
            account.held -= part
        for account in hold.straddled:
            account.straddlers -= 1
        if hold.period == user.period:
            use = user.models.get(hold.model_key)
            if use is not None:
                use.held_tokens -= hold.tokens
                use.held_cost_nano -= hold.cost_nano

    def _count(self, user: User, event: Event) -> None:
        """Add an event to the accounts that count it; under the lock."""
        cost_nano, tokens, calls = event.cost_nano, event.total_tokens, event.calls
        for account in books.counting(user, event):
            account.undelivered += amount(
                account.metric, cost_nano=cost_nano, tokens=tokens, calls=calls
            )
        if event.model and event.period_start_us == user.period.start_us:
            use = user.models.get(event.model_key)
            if use is None:
                use = user.models[event.model_key] = ModelUse()
            use.tokens += tokens
            use.cost_nano += cost_nano

    def check(self, user: User, session_id: str, model_key: str, at_us: int) -> Decision:
        """Say what the gate would say now to a call of a model ("" for none, then no model's limit
        counts).
        """
        with self.lock:
            accounts = books.route(user, session_id, model_key, at_us)
            return decide(_readings(accounts, 0, 0), strict=user.plan.pre_call_estimate)

    def figures(self, user: User, session_id: str, at_us: int) -> Figures:
        """Return what a user has used in the current period and in a session."""
        with self.lock:
            period = books.open_account(
                user,
                books.account_key(books.PERIOD_SPEND, user.period, session_id, at_us),
                books.PERIOD_SPEND.reason,
                books.KEEP,
            )
            session_spent = 0
            if session_id:
                key = books.account_key(books.SESSION_SPEND, user.period, session_id, at_us)
                session_spent = books.open_account(
                    user, key, books.SESSION_SPEND.reason, books.KEEP
                ).spent
            return Figures(
                period_cost_nano=period.spent,
                session_cost_nano=session_spent,
                held_cost_nano=sum(use.held_cost_nano for use in user.models.values()),
                by_model={
                    model: (
                        use.base_tokens + use.tokens,
                        use.base_cost_nano + use.cost_nano,
                        use.held_tokens,
                    )
                    for model, use in user.models.items()
                    if model
                },
            )

    # -- the ledger's side

    def question(self, user: User, session_id: str | None, at_us: int) -> Question:
        """Return what to ask the ledger about a user: every account of the plan, here and now."""
        with self.lock:
            session = session_id or (user.open_session.session_id if user.open_session else "")
            return Question(
                user.user_id, books.keys_now(user, session, at_us), user.period.start_us
            )

    def asks(self, user: User, session_id: str | None, at_us: int) -> bool:
        """Tell whether the ledger should be asked before this user's next call is decided.

        That is so once per user, per session named by the application, per limit that was added,
        and for rolling windows whose sum has aged. A call that has waited once goes on with what is
        known.
        """
        if not user.known:
            return not user.waited
        if session_id is not None and session_id not in user.sessions:
            return True
        return at_us >= user.stale_us

    def waited(self, user: User, session_id: str | None, at_us: int) -> None:
        """Note that a call has waited for the ledger, so that the next one does not."""
        with self.lock:
            user.waited = True
            if session_id is not None:
                user.sessions.add(session_id)
            if at_us >= user.stale_us:
                user.stale_us = at_us + _STALE_RETRY_US

    def touched(self, also: Iterable[str], at_us: int) -> tuple[Question, ...]:
        """Return questions for the users active since the last call, and for those named."""
        active = {user.user_id: user for user in list(self.users.values()) if user.touched}
        for user_id in also:
            known = self.users.get(user_id)
            if known is not None:
                active[user_id] = known
        for user in active.values():
            user.touched = False
        return tuple(
            self.question(self.user(user.user_id, at_us), user.session_id or None, at_us)
            for user in active.values()
        )

    def acknowledge(self, delivered: Iterable[Event], answer: Answer, at_us: int) -> None:
        """Take delivered events out of what is undelivered and read the ledger's figures, in one
        step.

        Args:
            delivered: Events that the ledger has booked now or earlier.
            answer: The ledger's state after that.
            at_us: When the answer came.
        """
        self._read_plans(answer)
        with self.lock:
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
            with self.lock:
                for event in by_user.get(user_id, ()):
                    self._acknowledge_one(user, event, is_new=event.event_id in answer.counted)
                if state is not None:
                    self._read_state(user, state, own, at_us)
        self._say()

    def _acknowledge_one(self, user: User, event: Event, *, is_new: bool) -> None:
        settled = user.pending.pop(event.event_id, None)
        if settled is None:
            return
        cost_nano, tokens, calls = settled.cost_nano, settled.total_tokens, settled.calls
        for account in books.counting(user, settled):
            weight = amount(account.metric, cost_nano=cost_nano, tokens=tokens, calls=calls)
            account.undelivered -= weight
            account.base += weight if is_new else 0
        if settled.model and settled.period_start_us == user.period.start_us:
            use = user.models.get(settled.model_key)
            if use is not None:
                use.tokens -= tokens
                use.cost_nano -= cost_nano
                use.base_tokens += tokens if is_new else 0
                use.base_cost_nano += cost_nano if is_new else 0

    def _read_plans(self, answer: Answer) -> None:
        for name, (version, document) in answer.plans.items():
            if self._plan_versions.get(name) == version or "plan:" + name in self._changing:
                continue
            plan = attempt("plan_document", plan_from_json, document)
            with self.lock:
                self._plan_versions[name] = version
                if plan is not None and self.plans.get(name) != plan:
                    self.plans[name] = plan
                    self.epoch += 1

    def read(self, answer: Answer, at_us: int, *, as_of: int | None = None) -> bool:
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
                with self.lock:
                    if as_of is not None and as_of != self.deliveries:
                        return False
                    self._read_state(user, state, own, at_us)
        self._say()
        return True

    def _read_state(
        self, user: User, state: UserLedger, own: PlanConfig | None, at_us: int
    ) -> None:
        """Take over the ledger's word on a user; under the lock. What this process is just changing
        stays.
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
        if theirs is not None and ours is not None and theirs.session_id == ours.session_id:
            user.session_used_us = max(user.session_used_us, theirs.used_us)
        elif theirs is not None and (ours is None or theirs.started_us > ours.started_us):
            user.open_session = theirs
            user.session_used_us = theirs.used_us
            user.sessions.add(theirs.session_id)
        user.stale_us = at_us + self._refresh_us
        for key, spent in state.spent.items():
            account = user.books.get(key)
            if account is None:
                continue
            account.base = spent
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
                use.base_tokens, use.base_cost_nano = tokens, cost_nano
        # A plan or period that was news changes what had to be asked; then the answer is not yet
        # enough.
        user.known = asked_right and state.spent.keys() >= set(books.keys_now(user, "", at_us))
        user.read_us = at_us

    def forget_after_fork(self) -> None:
        """Forget what is the parent process's: its holds, its undelivered events, its lock."""
        self.lock = threading.Lock()
        self._opened = []
        self._changing = {}
        for user in self.users.values():
            user.pending = {}
            user.known = user.waited = False
            user.books = {}
            user.routes = {}
            user.counting = {}
            user.models = {}


def _keys_of(plan: PlanConfig) -> tuple[LimitKey, ...]:
    return tuple(limit.key for limit in limits_of(plan))


def _own_plan(state: UserLedger | None) -> PlanConfig | None:
    """Return a user's own version of a plan; takes a while and may log, so never under the lock."""
    if state is None or state.own is None:
        return None
    return attempt("plan_document", plan_from_json, state.own)


def _readings(accounts: Iterable[Account], cost_nano: int, tokens: int) -> tuple[Reading, ...]:
    return tuple(
        Reading(
            account.reason,
            account.lines,
            account.spent,
            account.held,
            amount(account.metric, cost_nano=cost_nano, tokens=tokens)
            if tokens or cost_nano
            else 0,
            account.straddlers > 0,
            account.metric,
        )
        for account in accounts
        if account.lines is not None
    )
