"""Admission: a call holds on all of its accounts, waits, or is refused; then it settles or is void.

`core.gate` decides on figures; here they are read off the accounts, and what figures cannot express
is added: a free model has no limit in dollars, calls of unknown size go two at a time, and a call
never waits for its own thread or task.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from paygent.client.accounts import account_lookup
from paygent.client.accounts.forecasts import ForecastTable, UsageForecast, Use
from paygent.client.accounts.holds import Account, Hold
from paygent.client.accounts.user_state import Figures, User
from paygent.client.accounts.wait_queue import Waiter, pass_turn, wake
from paygent.client.runtime.locks import acquire_soon
from paygent.core.event import Event
from paygent.core.gate import Decision, Reading, contention, decide, judge
from paygent.core.limit import LimitKey
from paygent.core.period import END_OF_TIME_US
from paygent.core.usage_stats import Observation
from paygent.prices.catalogue import Resolved

_COLD_MAX = 2  # calls in flight of a model of unknown size, where they do not all fit


class Admission:
    """Holds, settlements and readings of users' accounts. Thread-safe.

    Each user's lock is held for microseconds: no I/O, no callback and no logging under it, and
    waiters are woken after it.
    """

    def __init__(self, *, warn_every_call: bool = False) -> None:
        self._warn_every_call = warn_every_call  # past the line; otherwise once per window
        self._forecasts = ForecastTable()

    def forecast(
        self, user: User, route: str, resolved: Resolved, *, generates: bool = True
    ) -> UsageForecast:
        """Return the forecast for a user's calls of one model, route and price list."""
        key = (route, id(resolved))
        forecast = user.forecasts.get(key)
        if forecast is None:
            with acquire_soon(user.lock):
                forecast = user.forecasts[key] = self._forecasts.forecast(
                    user.plan, user.histories, route, resolved, generates=generates
                )
        return forecast

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
            user: The caller.
            hold: What the call may use.
            strict: Whether spend may never pass a line.
            enforce: False holds in any case (a call that runs past a hard gate).
            waiter: Queues where only holds of other calls are in the way.
            may_be_alone: Queue it also where all these holds are of its own thread or task: an
                event loop may be about to end some of them.

        Returns:
            None when it holds; the decision that refuses it; or the waiter, when it queues.
        """
        woken: list[Waiter] = []
        queued_at: Account | None = None
        with acquire_soon(user.lock):
            accounts = account_lookup.accounts_for_call(
                user, hold.session_id, hold.model_key, hold.at_us
            )
            hold.period = user.period
            decision: Decision | None = None
            past_warn: list[Account] = []
            obstacle = _obstacle(accounts, hold, past_warn, strict=strict) if enforce else None
            if obstacle is None:
                hold.warnings = self._warnings(past_warn, hold.use)
                for account in accounts:
                    account.add(hold, account.thresholds is not None)
                user.is_active = True
            else:
                decision, account = obstacle
                if not decision.retryable:
                    hold.warnings = self._warnings(past_warn, hold.use)
                elif waiter is not None and (may_be_alone or _others_hold(account, hold)):
                    queued_at = account
            _move_on(waiter, queued_at, accounts, woken)
        if woken:
            wake(woken)
        return waiter if queued_at is not None else decision

    def _warnings(self, past_warn: list[Account], use: Use | None) -> tuple[Reading, ...]:
        """Return readings of the accounts with a warning due, and mark them as warned."""
        # A warning of a shadow plan would reach users, and would be missing once it is enforced.
        due = [
            each
            for each in past_warn
            if not each.excludes_shadow and (self._warn_every_call or not each.warned)
        ]
        for account in due:
            account.warned = True
        return tuple(read_account(account, use) for account in due)

    def warnings_after(self, user: User, event: Event) -> tuple[Reading, ...]:
        """Return readings of the accounts that an event, which is no call, took past their warn
        line.
        """
        with acquire_soon(user.lock):
            # By the user's plan as it is now; the event may correct one of an older period.
            accounts = account_lookup.accounts_for_call(
                user, event.session_id, event.model_key, event.at_us
            )
            past_warn = [
                account
                for account in accounts
                if account.thresholds is not None
                and account.key.counts(event)
                and account.decisive >= account.thresholds.warn
            ]
            return self._warnings(past_warn, None)

    def settle(
        self,
        user: User,
        hold: Hold | None,
        event: Event,
        learned: tuple[UsageForecast, Observation] | None = None,
    ) -> None:
        """Replace a hold by what was spent, on the accounts of the windows in which the call began.

        Args:
            user: The caller.
            hold: What the call held; None for an event that is no call.
            event: What it cost.
            learned: The forecast that learns from it, and the observation; None where the
                provider did not count everything.
        """
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            if event.event_id not in user.pending:  # settled again after an interruption
                account_lookup.count(user, event)
            user.is_active = True
            if hold is not None:
                if learned is not None:
                    forecast, observation = learned
                    forecast.learn(observation, hold.use)
                _release(hold, woken)
        if woken:
            wake(woken)

    def release(self, user: User, hold: Hold) -> None:
        """End a hold of a user's call that spent nothing."""
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            _release(hold, woken)
        wake(woken)

    def leave(self, user: User, waiter: Waiter, *, gives_up: bool) -> None:
        """Take a call out of the queue; if it gives up, a turn given to it goes to the next."""
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            account = waiter.account
            if waiter in account.waiting:
                account.waiting.remove(waiter)
            elif gives_up:
                pass_turn(account, woken)
        wake(woken)

    def check(self, user: User, session_id: str, resolved: Resolved | None, at_us: int) -> Decision:
        """Return the gate's decision on a call of a model now; nothing is held.

        Args:
            user: The caller.
            session_id: The session of the call; "" is one that it would open.
            resolved: The model; None leaves out limits of models.
            at_us: Now, in microseconds.
        """
        model_key, is_free = "", False
        if resolved is not None:
            model_key, is_free = resolved.model_key, resolved.is_free
        with acquire_soon(user.lock):
            accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            readings = tuple(
                read_account(each)
                for each in accounts
                if each.thresholds is not None and not _is_exempt(each, is_free)
            )
            return decide(readings, strict=user.plan.pre_call_estimate)

    def limits(
        self, user: User, session_id: str, model_key: str | None, at_us: int
    ) -> tuple[tuple[LimitKey, Reading], ...]:
        """Return every limit of a user with its reading; see `check` for the arguments. A model
        leaves out limits of other models, None leaves out none.
        """
        with acquire_soon(user.lock):
            if model_key is not None:
                accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            else:
                keys = account_lookup.keys_now(user, session_id, at_us)
                accounts = tuple(user.accounts[key] for key in keys)
            readings = [
                (each.key.limit, read_account(each)) for each in accounts if each.thresholds
            ]
        if not session_id:
            readings += account_lookup.limits_of_a_new_session(user.plan)
        return tuple(readings)

    def figures(self, user: User, session_id: str, at_us: int) -> Figures:
        """Return what a user has used in the current period and in a session."""
        with acquire_soon(user.lock):
            period = account_lookup.spend_account(user, "", at_us)
            session = account_lookup.spend_account(user, session_id, at_us) if session_id else None
            held_tokens: dict[str, int] = {}
            for hold in period.calls:
                tokens = held_tokens.get(hold.model_key, 0) + hold.use.tokens
                held_tokens[hold.model_key] = tokens
            used = {
                model: (
                    use.acknowledged_tokens + use.tokens,
                    use.acknowledged_cost_nano + use.cost_nano,
                )
                for model, use in user.models.items()
            }
            return Figures(
                period_tokens=sum(tokens for tokens, _ in used.values()),
                period_cost_nano=period.spent,
                session_cost_nano=session.spent if session is not None else 0,
                held_cost_nano=sum(hold.use.cost_nano for hold in period.calls),
                by_model={model: use for model, use in used.items() if model},
                held_tokens=held_tokens,
            )

    def renew_after_fork(self) -> None:
        """Forget what was learned under locks that the parent's threads may hold."""
        self._forecasts = ForecastTable()


def waiting_count(users: Iterable[User]) -> int:
    """Return how many calls wait for holds of others."""
    count = 0
    for user in users:
        with acquire_soon(user.lock):
            count += sum(len(account.waiting) for account in user.accounts.values())
    return count


def read_account(account: Account, use: Use | None = None) -> Reading:
    """Return the reading of an account with a cap, with what a call would add to it."""
    assert account.thresholds is not None  # the caller has checked
    spent, held = account.decisive, account.held
    need = account.projected(use)[1] - held if use is not None else 0
    left = max(account.thresholds.block - spent, 0)
    # A call that straddles the line holds all that is left, and no more.
    key = account.key
    return Reading(
        account.reason,
        account.thresholds,
        spent,
        min(held, left),
        need,
        account.metric,
        # Sessions and rolling windows span all time here: no moment resets them.
        key.end_us if key.end_us < END_OF_TIME_US else 0,
    )


def _obstacle(
    accounts: tuple[Account, ...], hold: Hold, past_warn: list[Account], *, strict: bool
) -> tuple[Decision, Account] | None:
    """Return the decision that refuses a call, and the account where it would wait; or None.

    `past_warn` takes the accounts past their warn line; one that is used up reports itself.
    """
    use = hold.use
    is_cold = use.forecast is not None and not use.forecast.own.stats.calls
    obstacle: Account | None = None
    for account in accounts:
        thresholds = account.thresholds
        if thresholds is None or _is_exempt(account, use.is_free):
            continue
        spent = account.decisive
        if thresholds.warn <= spent < thresholds.block:
            past_warn.append(account)
        held, then_held = account.projected(use)
        if then_held > held and spent + then_held <= thresholds.block:
            continue  # fits, as `judge` would decide; most calls are far from their lines
        verdict = judge(spent, held, then_held - held, thresholds.block, strict=strict)
        if verdict == "fits" or (
            verdict == "straddles" and not (is_cold and _has_many(account, hold.model_key))
        ):
            continue
        if obstacle is None or verdict == "exhausted":
            obstacle = account
    if obstacle is None:
        return None
    readings = tuple(
        read_account(each, use)
        for each in accounts
        if each.thresholds is not None and not _is_exempt(each, use.is_free)
    )
    decision = decide(readings, strict=strict)
    if decision.status != "hard_gate":  # it would straddle, if its size were not unknown
        decision = contention(read_account(obstacle, use))
    return decision, obstacle


def _is_exempt(account: Account, is_free: bool) -> bool:
    """Return whether a limit does not apply to a call: it counts dollars, and the model is free."""
    thresholds = account.thresholds
    # A cap of 0 dollars is meant to block free models too.
    return is_free and account.metric == "spend" and thresholds is not None and thresholds.cap > 0


def _has_many(account: Account, model_key: str) -> bool:
    """Return whether enough calls of a model are in flight that one of unknown size should wait."""
    of_model = (other for other in account.calls if other.model_key == model_key)
    return len(list(islice(of_model, _COLD_MAX))) == _COLD_MAX


def _others_hold(account: Account, hold: Hold) -> bool:
    """Return whether another thread or task holds: waiting on one's own call would deadlock."""
    return any(other.owner != hold.owner for other in account.calls)


def _move_on(
    waiter: Waiter | None,
    queued_at: Account | None,
    accounts: tuple[Account, ...],
    woken: list[Waiter],
) -> None:
    """Queue a call where it waits now, and pass the turn on wherever it does not wait any more."""
    left = waiter.account if waiter is not None else None
    passing = accounts
    if queued_at is not None and waiter is not None:
        waiter.queue_at(queued_at)
        passing = ()
    if left is not None and left is not queued_at and left not in passing:
        pass_turn(left, woken)
    for account in passing:
        if account.waiting:
            pass_turn(account, woken)


def _release(hold: Hold, woken: list[Waiter]) -> None:
    """Take a hold off its accounts, and pass the turn on where it leaves room; under the lock."""
    for account in hold.accounts:
        account.remove(hold)
        if account.waiting:
            pass_turn(account, woken)
