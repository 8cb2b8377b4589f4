"""The accounts of a user: which exist now, and which of them count a call or an event.

They follow from the user's plan, period and sessions; they are opened when they are first needed
and dropped when nothing refers to them any more. Everything here changes a `User` and is called
under the user's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from paygent.client.accounts.account import Account
from paygent.client.accounts.holds import counted_by
from paygent.client.accounts.user_state import ModelUse, User
from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.gate import Reading, Thresholds, thresholds_of
from paygent.core.limit import Limit, LimitKey
from paygent.core.period import END_OF_TIME_US, Window, day, rolling_length_us
from paygent.core.plan import PlanConfig, limits_of
from paygent.prices.model_names import plain

ACCOUNTS_MAX = 256
"""Accounts kept per user; beyond it, those of idle sessions are dropped."""

PERIOD_SPEND = LimitKey("spend", "user", "", "period")
SESSION_SPEND = LimitKey("spend", "session", "", "session")
"""The two accounts that every user has, limited or not: `get_usage` returns them."""

_STALE_AT_ONCE_US = 1  # long ago, but not 0: the rolling sum has been read

_UNCHANGED = Thresholds(-1, -1, -1)  # an account keeps those that it has


def accounts_for_call(
    user: User, session_id: str, model_key: str, at_us: int
) -> tuple[Account, ...]:
    """Return the accounts that a call touches; cached until one of their windows ends."""
    known = user.call_accounts.get((model_key, session_id))
    if known is not None and at_us < known[0]:
        return known[1]
    if known is not None:  # a window has ended, such as a day
        drop_ended(user, at_us)
    if len(user.accounts) >= ACCOUNTS_MAX:
        _close_idle_sessions(user, session_id)
    accounts: list[Account] = []
    limited: set[LimitKey] = set()
    plan = user.plan
    for limit in limits_of(plan):
        if limit.model is not None and plain(limit.model) != model_key:
            continue
        if limit.scope == "session" and not session_id:
            continue
        accounts.append(_account(user, plan, limit, session_id, at_us))
        limited.add(limit.key)
    accounts += [
        open_account(user, account_key(key, user.period, session_id, at_us), key.reason, None)
        for key in (PERIOD_SPEND, SESSION_SPEND)
        if key not in limited and (key.scope == "user" or session_id)
    ]
    until_us = min(account.key.end_us for account in accounts)
    touched = tuple(accounts)
    user.call_accounts[(model_key, session_id)] = (until_us, touched)
    return touched


def _account(user: User, plan: PlanConfig, limit: Limit, session_id: str, at_us: int) -> Account:
    key = account_key(limit.key, user.period, session_id, at_us)
    account = open_account(user, key, limit.key.reason, _thresholds(plan, limit))
    account.excludes_shadow = not plan.enforce
    return account


def _thresholds(plan: PlanConfig, limit: Limit) -> Thresholds:
    assert limit.cap_exact is not None  # `limits_of` leaves out what has no cap
    return thresholds_of(
        limit.cap_exact, soft_gate_ppm=plan.soft_gate_ppm, hard_gate_ppm=plan.hard_gate_ppm
    )


def limits_of_a_new_session(plan: PlanConfig) -> list[tuple[LimitKey, Reading]]:
    """Return the session limits of a plan as they apply to a session that is not open yet."""
    return [
        (limit.key, Reading(limit.key.reason, _thresholds(plan, limit), 0, 0, metric=limit.metric))
        for limit in limits_of(plan)
        if limit.scope == "session"
    ]


def open_account(
    user: User, key: AccountKey, reason: str, thresholds: Thresholds | None
) -> Account:
    """Return an account of a user, opened with the spend that this process has not delivered yet.

    Args:
        thresholds: Its thresholds in the user's plan; None where the plan does not limit it;
            `_UNCHANGED` keeps those that it has.
    """
    account = user.accounts.get(key)
    if account is None:
        account = user.accounts[key] = Account(
            key, reason, None if thresholds is _UNCHANGED else thresholds
        )
        user.event_accounts.clear()
        account.pending, account.shadow_pending = _pending(user, key)
        if rolling_length_us(key.limit.window) is not None:
            account.stale_us = user.stale_us = 0
    if thresholds is not _UNCHANGED and account.thresholds != thresholds:
        account.thresholds = thresholds
        account.warned = False
    return account


def spend_account(user: User, session_id: str, at_us: int) -> Account:
    """Return the account of all spend of a user in the period, or in a session."""
    limit = SESSION_SPEND if session_id else PERIOD_SPEND
    key = account_key(limit, user.period, session_id, at_us)
    return open_account(user, key, limit.reason, _UNCHANGED)


def is_in_use(user: User, account: Account) -> bool:
    """Return whether something would be lost by forgetting an account."""
    return bool(
        account.pending or account.waiting or counted_by(account.key, list(user.open.values()))
    )


def _close_idle_sessions(user: User, kept: str) -> None:
    """Forget accounts of sessions that nothing refers to; they are read again when they come
    back.
    """
    opened = user.open_session.session_id if user.open_session is not None else ""
    for key, account in list(user.accounts.items()):
        if key.session_id not in ("", kept, opened) and not is_in_use(user, account):
            del user.accounts[key]
            user.sessions.pop(key.session_id, None)
    user.drop_lanes()
    user.call_accounts.clear()
    user.event_accounts.clear()


def accounts_for_event(user: User, event: Event) -> tuple[Account, ...]:
    """Return the accounts that count an event; cached while the user's accounts stay the same."""
    cache_key = (event.model_key, event.model, event.session_id)
    cached = user.event_accounts.get(cache_key)
    at_us = event.at_us
    if cached is not None and cached[0] <= at_us < cached[1]:
        return cached[2]
    if user.period.contains(at_us):  # the accounts of an older window are there if held
        accounts_for_call(user, event.session_id, event.model_key, at_us)
    counting = tuple(account for key, account in user.accounts.items() if key.counts(event))
    # Windows may overlap (a subscription that starts within a month), so the cache is valid up to
    # the next edge of any of them.
    edges = {edge for each in user.accounts for edge in (each.start_us, each.end_us)}
    user.event_accounts[cache_key] = (
        max((edge for edge in edges if edge <= at_us), default=at_us),
        min((edge for edge in edges if edge > at_us), default=at_us),
        counting,
    )
    return counting


def count(user: User, event: Event) -> None:
    """Add an event to the pending spend of the accounts that count it."""
    # First: an account that this opens counts everything that is pending by then.
    accounts = accounts_for_event(user, event)
    try:
        user.pending[event.event_id] = event
        for account in accounts:
            added = _amount(account.metric, event)
            account.pending += added
            account.shadow_pending += added if event.blocked else 0
        _count_by_model(user, event)
    except BaseException:  # an interruption between two sums
        _recount(user)
        raise


def _recount(user: User) -> None:
    """Recompute the pending spend from the events themselves."""
    for key, account in user.accounts.items():
        account.pending, account.shadow_pending = _pending(user, key)
    for use in user.models.values():
        use.tokens = use.cost_nano = 0
    for event in user.pending.values():
        _count_by_model(user, event)


def acknowledge(user: User, event: Event, *, is_new: bool) -> None:
    """Move an event that the ledger has booked from pending to acknowledged.

    Args:
        user: The event's user.
        event: As it was delivered.
        is_new: Whether this delivery booked it; otherwise the figure contains it already.
    """
    settled = user.pending.get(event.event_id)
    if settled is None:
        return
    # First: an account that this opens counts everything that is pending by then.
    accounts = accounts_for_event(user, settled)
    del user.pending[event.event_id]
    for account in accounts:
        amount_now = _amount(account.metric, settled)
        account.pending -= amount_now
        account.acknowledged += amount_now if is_new else 0
        if account.is_rolling and not is_new:  # read before that booking, perhaps
            account.stale_us = min(account.stale_us, _STALE_AT_ONCE_US)
        if settled.blocked:
            account.shadow_pending -= amount_now
            account.shadow_acknowledged += amount_now if is_new else 0
    use = user.models.get(settled.model_key)
    if use is not None and _is_in_period(user, settled):
        tokens, cost_nano = settled.total_tokens, settled.cost_nano
        use.tokens -= tokens
        use.cost_nano -= cost_nano
        use.acknowledged_tokens += tokens if is_new else 0
        use.acknowledged_cost_nano += cost_nano if is_new else 0


def _amount(metric: str, event: Event) -> int:
    """Return what an event adds to an account, in the unit of its metric."""
    return amount(metric, cost_nano=event.cost_nano, tokens=event.total_tokens, calls=event.calls)


def _pending(user: User, key: AccountKey) -> tuple[int, int]:
    """Return the spend that an account counts of the events not acknowledged yet, and the part of
    it that blocked calls spent.
    """
    return sums_of(key, user.pending.values())


def sums_of(key: AccountKey, events: Iterable[Event]) -> tuple[int, int]:
    """Return what an account counts of events, and the part of it that blocked calls spent."""
    metric = key.limit.metric
    counted = [event for event in events if key.counts(event)]
    spent = sum(_amount(metric, event) for event in counted)
    return spent, sum(_amount(metric, event) for event in counted if event.blocked)


def _count_by_model(user: User, event: Event) -> None:
    """Add an event of the current period to what was used of its model; "" is no model."""
    if not _is_in_period(user, event):
        return
    use = user.models.get(event.model_key)
    if use is None:
        use = user.models[event.model_key] = ModelUse()
    use.tokens += event.total_tokens
    use.cost_nano += event.cost_nano


def _is_in_period(user: User, event: Event) -> bool:
    return event.period_start_us == user.period.start_us


def keys_now(user: User, session_id: str, at_us: int) -> tuple[AccountKey, ...]:
    """Return every account that a call of this user could touch now, in a session."""
    models = {plain(limit.model) for limit in limits_of(user.plan) if limit.model is not None}
    accounts = {
        account.key: None
        for model_key in ("", *models)
        for account in accounts_for_call(user, session_id, model_key, at_us)
    }
    return tuple(accounts)


def session_keys(user: User, session_id: str) -> set[AccountKey]:
    """Return every account of a session by the user's plan; none is opened."""
    limits = [limit.key for limit in limits_of(user.plan) if limit.scope == "session"]
    return {account_key(key, user.period, session_id, 0) for key in (SESSION_SPEND, *limits)}


def keys_of_events(user: User, events: Sequence[Event]) -> tuple[AccountKey, ...]:
    """Return the accounts of a user that count one of these events, with every account of the
    events' sessions; none is opened.
    """
    sessions = {event.session_id for event in events}
    return tuple(
        key
        for key in user.accounts
        if (
            key.session_id in sessions
            if key.session_id
            else any(key.counts(event) for event in events)
        )
    )


def drop_ended(user: User, at_us: int) -> None:
    """Drop accounts of windows that ended, unless calls or events still refer to them."""
    for key, account in list(user.accounts.items()):
        if key.end_us <= at_us and not is_in_use(user, account):
            del user.accounts[key]
    user.call_accounts.clear()  # an answer or a call of before the end opens them again
    user.event_accounts.clear()


def account_key(limit: LimitKey, period: Window, session_id: str, at_us: int) -> AccountKey:
    """Return the account of a limit at a moment."""
    key = limit._replace(model=plain(limit.model)) if limit.model else limit
    if limit.window == "period":
        return AccountKey(key, "", period.start_us, period.end_us)
    if limit.window == "day":
        return AccountKey(key, "", *day(at_us))
    session = session_id if limit.scope == "session" else ""
    return AccountKey(key, session, 0, END_OF_TIME_US)
