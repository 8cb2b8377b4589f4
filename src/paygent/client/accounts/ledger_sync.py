"""The accounts' side of the ledger: questions about users, and applying the answers.

`spent` of an account is the ledger's figure as last read (`acknowledged`) plus the events of this
process that the ledger has not acknowledged (`pending`). An acknowledgement moves an event from the
second to the first and reads the first again in one step under the user's lock, so no call ever
sees an event twice or not at all.

Batches are numbered. A batch is *in doubt* from the moment it is sent until it is acknowledged: the
ledger may have booked it although no answer came. Each answer says through which number its figures
go, and settles that, from whichever thread it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from paygent.client.accounts import account_lookup
from paygent.client.accounts.account import Account
from paygent.client.accounts.registry import UserRegistry
from paygent.client.accounts.user_state import ModelUse, User
from paygent.client.runtime.locks import acquire_blocking, acquire_soon
from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.message_json import ACCOUNTS_MAX, ACCOUNTS_TOTAL_MAX
from paygent.core.messages import Answer, Known, Question, SessionState, UserLedger
from paygent.core.period import ROLLING_STEPS, rolling_length_us
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.failopen import attempt

QUESTIONS_MAX = 1_000
"""Users asked about with one delivery, besides those of its events: their accounts are opened in
its transaction, for which other writers wait.
"""

SESSIONS_MAX = 256
"""Sessions of a user that are remembered although their figures are old."""

_STALE_RETRY_US = 1_000_000  # a rolling sum that could not be read is asked for again after this
_ROLLING_LEAD_US = 2_000_000  # a delivery reads it so much earlier, so that no call waits for that


class InDoubt(NamedTuple):
    """A batch that was sent and is not acknowledged."""

    number: int
    events: dict[str, list[Event]]  # by user


_NO_DOUBT = InDoubt(0, {})


class LedgerSync:
    """Asks the ledger about users, and takes over its answers. Thread-safe.

    Attributes:
        booked_through: Number of the last acknowledged batch; figures without it are stale.
        in_doubt: The batch that is being sent.
        news_us: The ledger's time up to which it has shown which users have changed.
        plans_version: The ledger's version of the plans that this process has.
        is_failing: Whether the ledger did not answer the last time.
        is_offline: Whether that has lasted for so long that `when_offline` applies.
        outages: How many of those have ended.
        answered_us: When the ledger last answered a batch, in microseconds; 0 is never.
    """

    def __init__(self, registry: UserRegistry, *, refresh_us: int) -> None:
        self._registry = registry
        self._refresh_us = refresh_us  # age at which a user's figures are read again
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's batches; the child is a holder of its own."""
        self.booked_through = 0
        self.news_us = 0
        self.plans_version = ""
        self.is_failing = self.is_offline = False
        self.outages = 0
        self.answered_us = 0
        self.in_doubt = _NO_DOUBT

    def start_batch(self, number: int, events: Iterable[Event]) -> None:
        """Note that a batch is being sent; called by the delivery thread alone."""
        self.in_doubt = InDoubt(number, _by_user(events))

    def question(
        self,
        user: User,
        session_id: str | None,
        at_us: int,
        *,
        delivered: Sequence[Event] = (),
        is_awaited: bool = True,
    ) -> Question:
        """Return the question about a user: every current account of the plan, in the open session
        and in one more, and the accounts of events, also of those in doubt.

        Args:
            user: The user.
            session_id: A session named by the application, or None.
            at_us: Now.
            delivered: Events of the user that are being delivered.
            is_awaited: Whether a call waits for the answer. Otherwise rolling sums are left out
                that are up to date, since the ledger adds up their events at each reading.
        """
        delivered = delivered or self.in_doubt.events.get(user.user_id, ())
        with acquire_soon(user.lock):
            sessions = dict.fromkeys((_open_session_id(user), session_id or ""))
            if len(sessions) > 1:
                sessions.pop("", None)
            keys = dict.fromkeys(
                key for session in sessions for key in account_lookup.keys_now(user, session, at_us)
            )
            if delivered:
                keys |= dict.fromkeys(account_lookup.keys_of_events(user, delivered))
            accounts = tuple(
                key
                for key in keys
                if is_awaited or _is_due(user.accounts.get(key), at_us + _ROLLING_LEAD_US)
            )
            accounts = accounts[:ACCOUNTS_MAX]  # those of now come first
            return Question(user.user_id, accounts, user.period.start_us, user.version)

    def needs_refresh(self, user: User, session_id: str | None, at_us: int) -> bool:
        """Return whether the ledger should be asked about a user who is about to call.

        That is so once per user, per session named by the application, per limit that was added,
        and where figures of the user or of the session are older than `refresh_us`, or a rolling
        sum is outdated. After one wait without an answer calls go on with what is known.
        """
        if not user.known:
            return not user.has_waited
        if session_id is not None and at_us >= user.sessions.get(session_id, 0):
            return True
        return at_us >= user.stale_us

    def must_wait(self, user: User, session_id: str | None) -> bool:
        """Return whether the call waits for that: only for what this process has never known, and
        not for a user of whom a call has waited in vain since the ledger's last answer about them.
        """
        if user.wait_failed or (self.is_failing and user.has_waited):
            return False
        return not self.is_answered(user, session_id)

    @staticmethod
    def is_answered(user: User, session_id: str | None) -> bool:
        """Return whether the ledger has answered about every account of a user, and of a session
        named by the application.
        """
        return user.known and (session_id is None or session_id in user.sessions)

    def mark_waited(self, user: User, session_id: str | None, at_us: int) -> None:
        """Note that the ledger was asked for a call, so that the next one need not."""
        with acquire_soon(user.lock):
            user.has_waited = True
            if session_id is not None:
                user.sessions[session_id] = at_us + self._refresh_us
            if at_us >= user.stale_us:
                user.stale_us = at_us + _STALE_RETRY_US

    def mark_wait_failed(self, user: User, session_id: str | None) -> None:
        """Note that a call has waited, and that there was no answer."""
        user.wait_failed = not self.is_answered(user, session_id)

    def take_active_users(self, delivered: Iterable[Event], at_us: int) -> tuple[Question, ...]:
        """Return questions for the users of events that are being delivered, and for those active
        since the last call; if there are very many of these, for some, and for the others next.
        """
        by_user = _by_user(delivered)
        users = self._registry.users
        active = {user_id: users[user_id] for user_id in by_user if user_id in users}
        waiting = [user for user in list(users.values()) if user.is_active]
        questions: list[Question] = []
        accounts = 0
        for user in (*active.values(), *(each for each in waiting if each.user_id not in active)):
            # Those of the events in any case: a batch in doubt needs their accounts.
            if user.user_id not in active and (
                len(questions) >= QUESTIONS_MAX or accounts >= ACCOUNTS_TOTAL_MAX // 2
            ):
                break
            user.is_active = False
            question = self.question(
                self._registry.user(user.user_id, at_us),
                user.session_id or None,
                at_us,
                delivered=by_user.get(user.user_id, ()),
                is_awaited=False,
            )
            questions.append(question)
            accounts += len(question.accounts)
        return tuple(questions)

    def acknowledge(self, delivered: Iterable[Event], answer: Answer, at_us: int) -> None:
        """Acknowledge events that the ledger has booked, now or earlier, and read its figures after
        that, in one step; called by the delivery thread alone.
        """
        self._apply_plans(answer)
        self._apply_news(answer)
        # First: an answer without these events that comes meanwhile is stale.
        self.booked_through = max(self.booked_through, self.in_doubt.number)
        by_user = _by_user(delivered)
        for user_id in {**by_user, **answer.users}:
            user = self._registry.users.get(user_id)
            if user is None:
                continue
            state = answer.users.get(user_id)
            own = _own_plan(state)
            with acquire_blocking(user.lock):
                for event in by_user.get(user_id, ()):
                    account_lookup.acknowledge(user, event, is_new=event.event_id in answer.counted)
                if state is not None:
                    self._apply_state(user, state, own, at_us)
        self._note_unchanged(answer, at_us)
        self.in_doubt = _NO_DOUBT
        if not answer.is_provisional:
            self.answered_us = at_us
        self._registry.emit_warnings()

    def known(self) -> Known | None:
        """Return what this process has from the ledger; None if it has never answered."""
        if not self.answered_us:
            return None
        registry = self._registry
        users = []
        doubt = self.in_doubt
        for user in list(registry.users.values()):
            if user.read_us:
                with acquire_blocking(user.lock):
                    # A batch in doubt is booked again, wherever this is taken over.
                    is_included = user.booked_through == doubt.number
                    events = doubt.events.get(user.user_id, ()) if is_included else ()
                    users.append((*_state_of(user, events), user.read_us))
        plans = {
            name: (version, plan_to_json(registry.plans[name]))
            for name, version in list(registry.plan_versions.items())
            if version and name in registry.plans
        }
        return Known(users, plans, registry.default_plan, self.answered_us)

    def pending_events(self) -> list[Event]:
        """Return the events that the ledger has not acknowledged."""
        users = list(self._registry.users.values())
        return [event for user in users for event in list(user.pending.values())]

    def _apply_news(self, answer: Answer) -> None:
        """Have users with a new plan or switch read again."""
        self.news_us = answer.news_until_us or self.news_us
        for user_id in answer.changed:
            user = self._registry.users.get(user_id)
            if user is not None:
                user.is_active = True

    def forget_versions(self, user_ids: Iterable[str]) -> None:
        """Read the plans, and these users, again in full with the next batch."""
        self.plans_version = ""
        for user_id in user_ids:
            user = self._registry.users.get(user_id)
            if user is not None:
                user.version = ""
                user.is_active = True

    def _note_unchanged(self, answer: Answer, at_us: int) -> None:
        """Note that the figures of users have been read and are the same."""
        for user_id in answer.unchanged:
            user = self._registry.users.get(user_id)
            if user is None or not user.known:
                continue
            with acquire_soon(user.lock):
                rolling = [each for each in user.accounts.values() if each.is_rolling]
                for account in rolling:
                    if at_us + _ROLLING_LEAD_US >= account.stale_us:  # so it was asked about
                        account.stale_us = _stale_at(account.key, at_us, self._refresh_us)
                due = (each.stale_us for each in rolling if each.thresholds is not None)
                user.read_us = at_us
                user.stale_us = min([at_us + self._refresh_us, *due])

    def _apply_plans(self, answer: Answer) -> None:
        registry = self._registry
        if answer.plans_version:
            if answer.plans_version == self.plans_version:
                return  # they were left out
            self.plans_version = answer.plans_version
        for name, (version, document) in answer.plans.items():
            # A plan that this process is changing stays as it is until the ledger has it.
            # Versions count up for each ledger by itself: a backend's 1 is not that of an outage,
            # nor that of the database before it was restored.
            is_new = bool(answer.plans_version) or registry.plan_versions.get(name) != version
            version = 0 if answer.is_provisional else version
            if is_new and not registry.is_changing("plan:" + name):
                registry.replace_plan(
                    name, version, attempt("plan_document", plan_from_json, document)
                )
        # After the plans, or users would be on one that is not there yet.
        registry.follow_default_plan(answer.default_plan)

    def apply_answer(self, answer: Answer, at_us: int, *, doubted: int = 0) -> set[str]:
        """Take over plans and the state of users that were asked about.

        Args:
            answer, at_us: The ledger's answer, and when it came.
            doubted: Number of the batch that was in doubt when the question was made, so that the
                question names the accounts of its events.

        Returns:
            The users with figures that were taken over; not those of whom a batch was sent or
            acknowledged since, so that the figures cannot be used.
        """
        self._apply_plans(answer)
        self._note_unchanged(answer, at_us)
        applied = set(answer.unchanged)
        for user_id, state in answer.users.items():
            user = self._registry.users.get(user_id)
            if user is not None:
                own = _own_plan(state)
                with acquire_soon(user.lock):
                    if answer.booked_through < max(self.booked_through, user.booked_through):
                        continue
                    number, events = self.in_doubt
                    if number <= answer.booked_through and user_id in events:
                        if number != doubted:
                            continue
                        for event in events[user_id]:  # its figures include them
                            account_lookup.acknowledge(user, event, is_new=False)
                        user.booked_through = number
                    self._apply_state(user, state, own, at_us)
                    applied.add(user_id)
        self._registry.emit_warnings()
        return applied

    def _apply_state(
        self, user: User, state: UserLedger, own: PlanConfig | None, at_us: int
    ) -> None:
        """Take over the ledger's state of a user; under the user's lock."""
        self._apply_assignment(user, state, own, at_us)
        if user.epoch != self._registry.plans_epoch:  # the answer has brought another plan
            # Never back to a period that has ended since the question.
            self._registry.refresh_plan(user, max(at_us, user.period.start_us))
        _apply_session(user, state.open_session)
        applied = _apply_accounts(user, state, at_us, self._refresh_us)
        is_current = state.period_start_us == user.period.start_us
        if is_current:
            _apply_models(user, state)
        # A plan or period that was new has other accounts than the question; then ask again.
        # So has a session that the ledger knows and this process did not.
        needed = account_lookup.keys_now(user, _open_session_id(user), at_us)
        is_known = is_current and _covers(user, applied, needed)
        if not is_known:
            user.drop_lanes()
            if user.known:
                user.has_waited = False
        user.known = is_known
        _apply_session_ages(user, applied, at_us, self._refresh_us)
        # Only those that count now: a limit that was taken away leaves its rolling sum behind.
        user.stale_us = min(
            at_us + self._refresh_us, *(user.accounts[key].stale_us for key in needed)
        )
        user.read_us = at_us
        user.wait_failed = False
        user.version = state.version if is_known else ""

    def _apply_assignment(
        self, user: User, state: UserLedger, own: PlanConfig | None, at_us: int
    ) -> None:
        registry = self._registry
        if (user.paused, user.sdk_enabled) != (state.paused, state.sdk_enabled):
            user.drop_lanes()
        user.paused, user.paused_reason = state.paused, state.paused_reason
        user.sdk_enabled = state.sdk_enabled
        if state.is_unknown or registry.is_changing("user:" + user.user_id):
            return  # this process has just changed it, and the ledger does not know yet
        current = (user.plan_name, user.subscription, user.own)
        new = (state.plan or registry.default_plan, state.subscription, own)
        if user.ended is not None and state.subscription == user.ended:
            new = current  # a subscription that has ended stays ended
        user.assigned = state.plan is not None
        if new != current:
            user.plan_name, user.subscription, user.own = new
            user.ended = None
            registry.refresh_plan(user, at_us)


def _state_of(user: User, without: Sequence[Event]) -> tuple[Question, UserLedger]:
    """Return the ledger's figures of a user as this process has them, without some events."""
    question = Question(user.user_id, tuple(user.accounts), user.period.start_us)
    accounts = user.accounts.items()
    state = UserLedger(
        plan=user.plan_name if user.assigned else None,
        own=None if user.own is None else plan_to_json(user.own),
        subscription=user.subscription,
        sdk_enabled=user.sdk_enabled,
        paused=user.paused,
        paused_reason=user.paused_reason,
        open_session=user.open_session,
        spent={
            key: account.acknowledged - account_lookup.sums_of(key, without)[0]
            for key, account in accounts
        },
        shadow={
            key: account.shadow_acknowledged - account_lookup.sums_of(key, without)[1]
            for key, account in accounts
        },
        period_start_us=user.period.start_us,
        by_model={
            model: (use.acknowledged_tokens, use.acknowledged_cost_nano)
            for model, use in user.models.items()
        },
    )
    return question, state


def _apply_session(user: User, theirs: SessionState | None) -> None:
    """Take over the ledger's open session, unless this process knows a later one."""
    ours = user.open_session
    if theirs is None or theirs.started_us <= user.closed_us:
        return  # none, or one closed here that the ledger still has open
    if ours is not None and theirs.session_id == ours.session_id:
        user.session_used_us = max(user.session_used_us, theirs.used_us)
    elif ours is None or theirs.started_us > ours.started_us:
        user.drop_lanes()
        user.open_session = theirs
        user.session_used_us = theirs.used_us


def _apply_accounts(user: User, state: UserLedger, at_us: int, refresh_us: int) -> set[AccountKey]:
    """Take over figures; return the accounts that have them now."""
    applied: set[AccountKey] = set()
    for key, spent in state.spent.items():
        account = user.accounts.get(key)
        if account is None:
            continue
        applied.add(key)
        known = account.decisive
        account.acknowledged = spent
        account.shadow_acknowledged = state.shadow.get(key, 0)
        if account.decisive > known:  # others have spent: there is less room
            user.allotment = None
        if account.is_rolling:
            account.stale_us = _stale_at(key, at_us, refresh_us)
    return applied


def _stale_at(key: AccountKey, at_us: int, refresh_us: int) -> int:
    """Return when a rolling sum that is read now has to be read again."""
    length_us = rolling_length_us(key.limit.window) or 0
    # No later than other figures: other processes spend in this window as well.
    return at_us + min(length_us // ROLLING_STEPS, refresh_us)


def _covers(user: User, applied: set[AccountKey], needed: Iterable[AccountKey]) -> bool:
    """Return whether each account was in the answer, or need not be: a rolling sum that was read
    before, or an account of a session that was asked about, or was opened here.
    """
    return all(
        key in applied
        or (key.session_id and key.session_id in user.sessions)
        or (user.accounts[key].is_rolling and user.accounts[key].stale_us > 0)
        for key in needed
    )


def _apply_session_ages(user: User, applied: set[AccountKey], at_us: int, refresh_us: int) -> None:
    """Note which sessions the answer covers. The next call in one with figures that are too old has
    them read again; of very many, some are forgotten.
    """
    sessions = user.sessions
    for session_id in {key.session_id for key in applied} - {""}:
        if applied >= account_lookup.session_keys(user, session_id):
            sessions[session_id] = at_us + refresh_us
    for session_id, stale_us in list(sessions.items()):
        if at_us >= stale_us:
            user.drop_lanes_of(session_id)
            if len(sessions) > SESSIONS_MAX:
                del sessions[session_id]


def _apply_models(user: User, state: UserLedger) -> None:
    for model, (tokens, cost_nano) in state.by_model.items():
        use = user.models.get(model)
        if use is None:
            use = user.models[model] = ModelUse()
        use.acknowledged_tokens, use.acknowledged_cost_nano = tokens, cost_nano


def _open_session_id(user: User) -> str:
    return user.open_session.session_id if user.open_session is not None else ""


def _by_user(events: Iterable[Event]) -> dict[str, list[Event]]:
    by_user: dict[str, list[Event]] = {}
    for event in events:
        by_user.setdefault(event.user_id, []).append(event)
    return by_user


def _is_due(account: Account | None, at_us: int) -> bool:
    """Return whether a delivery asks about an account: always, but for a fresh rolling sum."""
    return account is None or not account.is_rolling or at_us >= account.stale_us


def _own_plan(state: UserLedger | None) -> PlanConfig | None:
    """Return a user's own version of a plan; parsing may log, so never under a lock."""
    if state is None or state.own is None:
        return None
    return attempt("plan_document", plan_from_json, state.own)
