"""Admission: a call holds on all of its accounts, waits, or is refused; then it settles or is void.

Far from every line a call is let in by its allotment (`allotments.py`). Near one, `core.gate`
decides on figures; here they are read off the accounts, and what figures cannot express is added: a
free model has no limit in dollars, calls of unknown size go two at a time, and a call never waits
for its own thread or task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from paygent.client.accounts import account_lookup
from paygent.client.accounts.account import Account
from paygent.client.accounts.allotments import allot, enter, is_exempt
from paygent.client.accounts.forecasts import ForecastTable, UsageForecast
from paygent.client.accounts.holds import Load, counted_by, load_on
from paygent.client.accounts.user_state import Figures, Hold, User
from paygent.client.accounts.wait_queue import Waiter, pass_turn, wake
from paygent.client.runtime.locks import acquire_soon
from paygent.core.estimate import MILLIONTHS
from paygent.core.event import Event
from paygent.core.gate import Decision, Reading, contention, decide, judge
from paygent.core.limit import LimitKey
from paygent.core.period import END_OF_TIME_US
from paygent.core.pricing import ONE_NANO, dearest_prices
from paygent.core.records import event_of_end
from paygent.core.usage_stats import Observation
from paygent.failopen import attempt
from paygent.prices.catalogue import Resolved

_COLD_MAX = 2  # calls in flight of a model of unknown size, where they may not all fit
_COUNTED_AT_ONCE = 16  # ended calls counted under one lock: a fraction of a millisecond


class Admission:
    """Holds, settlements and readings of users' accounts. Thread-safe.

    Each user's lock is held for microseconds: no I/O, no callback and no logging under it, and
    waiters are woken after it.

    Attributes:
        uncounted: Users with calls that have ended and are not counted yet, in order.
        is_offline: Whether the ledger is away for so long that `when_offline` applies.
    """

    def __init__(self, *, warn_every_call: bool = False) -> None:
        self._warn_every_call = warn_every_call  # past the line; otherwise once per window
        self._forecasts = ForecastTable()
        self.uncounted: deque[User] = deque()
        self.is_offline = False

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

    # -- before a call

    def renew(self, hold: Hold) -> bool:
        """Open a call that its allotment did not let in, if a new one does."""
        user, woken = hold.lane.user, list[Waiter]()
        with acquire_soon(user.lock):
            is_open = self._allot(hold, woken)
        wake(woken)
        return is_open

    def _allot(self, hold: Hold, woken: list[Waiter]) -> bool:
        """Renew an allotment that is used up or withdrawn, if it lets the call in."""
        self._count_ended(hold.lane.user, woken)
        return allot(hold, warn_every_call=self._warn_every_call, is_offline=self.is_offline)

    def hold(
        self,
        hold: Hold,
        *,
        strict: bool,
        enforce: bool = True,
        waiter: Waiter | None = None,
        may_be_alone: bool = False,
        cold_waits: bool = True,
    ) -> Decision | Waiter | None:
        """Hold what a call may use on all its accounts, or on none.

        Args:
            hold: What the call may use.
            strict: Whether spend may never pass a line.
            enforce: False holds in any case (a call that runs past a hard gate).
            waiter: Queues where only holds of other calls are in the way.
            may_be_alone: Queue it also where all these holds are of its own thread or task: an
                event loop may be about to end some of them.
            cold_waits: Whether a call of unknown size waits for the first of its kind.

        Returns:
            None when it holds; the decision that refuses it; or the waiter, when it queues.
        """
        may_be_far = enforce and waiter is None
        if may_be_far and enter(hold):
            return None
        user, woken, queued_at = hold.lane.user, list[Waiter](), None
        decision: Decision | None = None
        with acquire_soon(user.lock):
            if not (may_be_far and self._allot(hold, woken)):
                user.allotment = None  # first: who enters meanwhile is seen below, or sees this
                self._count_ended(user, woken)
                accounts = account_lookup.accounts_for_call(
                    user, hold.lane.session_id, hold.lane.model_key, hold.at_us
                )
                past_warn: list[Account] = []
                obstacle = None
                if enforce:
                    obstacle = _obstacle(
                        accounts, hold, past_warn, strict=strict, cold_waits=cold_waits
                    )
                if obstacle is None:
                    hold.warnings = self._warnings(past_warn, hold)
                    user.open[hold.seq] = hold
                else:
                    decision, account = obstacle
                    if not decision.retryable:
                        hold.warnings = self._warnings(past_warn, hold)
                    elif waiter is not None and (may_be_alone or _others_hold(account, hold)):
                        queued_at = account
                _move_on(user, waiter, queued_at, accounts, woken)
            user.is_active = True
        wake(woken)
        return waiter if queued_at is not None else decision

    def _warnings(self, past_warn: list[Account], hold: Hold | None) -> tuple[Reading, ...]:
        """Return readings of the accounts with a warning due, and mark them as warned."""
        # A warning of a shadow plan would reach users, and would be missing once it is enforced.
        due = [
            each
            for each in past_warn
            if not each.excludes_shadow and (self._warn_every_call or not each.warned)
        ]
        for account in due:
            account.warned = True
        holds = hold.lane.user.open.values() if hold is not None else ()
        return tuple(read_account(account, list(holds), hold) for account in due)

    def leave(self, user: User, waiter: Waiter, *, gives_up: bool) -> None:
        """Take a call out of the queue; if it gives up, a turn given to it goes to the next."""
        woken: list[Waiter] = []
        with acquire_soon(user.lock):
            account = waiter.account
            if waiter in account.waiting:
                account.waiting.remove(waiter)
            elif gives_up:
                _pass_turn(user, account, woken)
        wake(woken)

    # -- after it

    def end(self, hold: Hold) -> None:
        """Note that a call has ended; `count` replaces its hold by what it used, called by the
        delivery thread at the latest.
        """
        user = hold.lane.user
        user.finished.append(hold)
        if not user.is_queued:
            user.is_queued = True
            self.uncounted.append(user)

    def count_all(self) -> None:
        """Count what has ended of every user."""
        while self.uncounted:
            try:
                user = self.uncounted.popleft()
            except IndexError:  # another thread has taken the last one
                return
            self.count(user)

    def count(self, user: User) -> None:
        """Replace the holds of calls that have ended by what they used, on the accounts of the
        windows in which they began.
        """
        user.is_queued = False  # first: what ends from here on queues the user again
        has_failed = False
        while user.finished and not has_failed:
            woken: list[Waiter] = []
            with acquire_soon(user.lock):
                has_failed = not self._count_ended(user, woken, _COUNTED_AT_ONCE)
            wake(woken)

    def _count_ended(self, user: User, woken: list[Waiter], calls_max: int = 1 << 62) -> bool:
        """Count calls that have ended, the oldest first; under the user's lock. Return False if one
        of them could not be counted: it stays for the next time, once.
        """
        finished = user.finished
        has_failed = False
        for _ in range(min(calls_max, len(finished))):
            hold = finished[0]  # taken out last, whatever interrupts the steps between
            if not hold.is_counted:
                attempt("settle", self._count_one, user, hold)
                if not hold.is_counted and hold.is_counted is not None:
                    hold.is_counted = None
                    finished.rotate(-1)
                    has_failed = True
                    continue
            if user.open.pop(hold.seq, None) is not None:
                _pass_turns(user, hold, woken)
            finished.popleft()
        return not has_failed

    def _count_one(self, user: User, hold: Hold) -> None:
        lane, event = hold.lane, hold.event
        if event is None:
            assert hold.figures is not None  # set before the call is noted as ended
            event = hold.event = event_of_end(lane.facts, hold.seq, hold.at_us, hold.figures)
            hold.observation = Observation(
                hold.weight,
                event.input_tokens,
                event.output_tokens,
                event.cost_nano,
                # A fixed estimate says nothing of the bound on output that it was made with.
                (lane.forecast.capped(hold.max_tokens) or None) if hold.use is None else None,
            )
        self._count_event(user, event, hold)
        hold.is_counted = True
        if hold.observation is not None:
            lane.forecast.learn(hold.observation)
            if lane.forecast.own.stats.calls.bit_count() == 1:  # now and then
                lane.segment = None  # the next record says what is expected now
            if lane.reckon():  # calls in flight may use more than their allotment assumed
                user.allotment = None
        user.is_active = True

    @staticmethod
    def _count_event(user: User, event: Event, hold: Hold | None) -> None:
        """Count an event, as one of the calls that the allotment has let in where that is so."""
        allotment = user.allotment
        if allotment is not None:
            if (
                hold is None
                or event.cost_nano * ONE_NANO > allotment.unit
                or event.total_tokens * MILLIONTHS > allotment.unit_tokens
            ):
                user.allotment = None
            allotment.used += 1
        if event.event_id not in user.pending:
            account_lookup.count(user, event)

    def book(self, user: User, event: Event) -> None:
        """Count an event that is no call."""
        with acquire_soon(user.lock):
            self._count_event(user, event, None)
            user.is_active = True
            woken: list[Waiter] = []
            for account in user.accounts.values():
                _pass_turn(user, account, woken)
        wake(woken)

    def release(self, hold: Hold) -> None:
        """End the hold of a call that spent nothing."""
        user, woken = hold.lane.user, list[Waiter]()
        with acquire_soon(user.lock):
            if user.open.get(hold.seq) is hold:
                del user.open[hold.seq]
                _pass_turns(user, hold, woken)
        wake(woken)

    # -- readings

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
        self.count(user)
        with acquire_soon(user.lock):
            accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            holds = list(user.open.values())
            readings = tuple(
                read_account(each, holds)
                for each in accounts
                if each.thresholds is not None and not is_exempt(each, is_free)
            )
            return decide(readings, strict=user.plan.pre_call_estimate)

    def limits(
        self, user: User, session_id: str, model_key: str | None, at_us: int
    ) -> tuple[tuple[LimitKey, Reading], ...]:
        """Return every limit of a user with its reading; see `check` for the arguments. A model
        leaves out limits of other models, None leaves out none.
        """
        self.count(user)
        with acquire_soon(user.lock):
            if model_key is not None:
                accounts = account_lookup.accounts_for_call(user, session_id, model_key, at_us)
            else:
                keys = account_lookup.keys_now(user, session_id, at_us)
                accounts = tuple(user.accounts[key] for key in keys)
            holds = list(user.open.values())
            readings = [
                (each.key.limit, read_account(each, holds)) for each in accounts if each.thresholds
            ]
        if not session_id:
            readings += account_lookup.limits_of_a_new_session(user.plan)
        return tuple(readings)

    def figures(self, user: User, session_id: str, at_us: int) -> Figures:
        """Return what a user has used in the current period and in a session."""
        self.count(user)
        with acquire_soon(user.lock):
            period = account_lookup.spend_account(user, "", at_us)
            session = account_lookup.spend_account(user, session_id, at_us) if session_id else None
            held_nano, held_tokens = 0, dict[str, int]()
            for hold in load_on(period, list(user.open.values())).holds:
                use, model_key = hold.use_now(), hold.lane.model_key
                held_nano += use.cost_nano
                held_tokens[model_key] = held_tokens.get(model_key, 0) + use.tokens
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
                held_cost_nano=held_nano,
                by_model={model: use for model, use in used.items() if model},
                held_tokens=held_tokens,
            )

    def renew_after_fork(self) -> None:
        """Forget what was learned under locks that the parent's threads may hold."""
        self._forecasts = ForecastTable()
        self.uncounted.clear()
        self.is_offline = False


def read_account(account: Account, holds: list[Hold], hold: Hold | None = None) -> Reading:
    """Return the reading of an account with a cap.

    Args:
        account: The account.
        holds: The open calls of its user.
        hold: A call, to return what it would add; or None.
    """
    assert account.thresholds is not None  # the caller has checked
    load = load_on(account, holds)
    need = load.with_one(hold) - load.held if hold is not None else 0
    spent = account.decisive
    left = max(account.thresholds.block - spent, 0)
    # A call that straddles the line holds all that is left, and no more.
    key = account.key
    return Reading(
        account.reason,
        account.thresholds,
        spent,
        min(load.held, left),
        need,
        account.metric,
        # Sessions and rolling windows span all time here: no moment resets them.
        key.end_us if key.end_us < END_OF_TIME_US else 0,
    )


def _obstacle(
    accounts: tuple[Account, ...],
    hold: Hold,
    past_warn: list[Account],
    *,
    strict: bool,
    cold_waits: bool,
) -> tuple[Decision, Account] | None:
    """Return the decision that refuses a call, and the account where it would wait; or None.

    `past_warn` takes the accounts past their warn line; one that is used up reports itself.
    """
    lane = hold.lane
    holds = list(lane.user.open.values())
    is_free = lane.forecast.is_free
    is_cold = lane.forecast.is_cold and hold.use is None
    limiting = [
        each for each in accounts if each.thresholds is not None and not is_exempt(each, is_free)
    ]
    obstacle: Account | None = None
    for account in limiting:
        thresholds = account.thresholds
        assert thresholds is not None
        spent = account.decisive
        if thresholds.warn <= spent < thresholds.block:
            past_warn.append(account)
        load = load_on(account, holds)
        need = load.with_one(hold) - load.held
        verdict = judge(spent, load.held, need, thresholds.block, strict=strict)
        may_go = verdict in ("fits", "straddles")
        if may_go and is_cold and (cold_waits or verdict == "straddles"):
            may_go = _fits_at_worst(account, load, hold, thresholds.block - spent)
        if not may_go and (obstacle is None or verdict == "exhausted"):
            obstacle = account
    if obstacle is None:
        return None
    readings = tuple(read_account(each, holds, hold) for each in limiting)
    decision = decide(readings, strict=strict)
    if decision.status != "hard_gate":  # it would go, if its size were not unknown
        decision = contention(read_account(obstacle, holds, hold))
    return decision, obstacle


def _fits_at_worst(account: Account, load: Load, hold: Hold, left: int) -> bool:
    """Return whether a call of a model of which nothing has settled may go now.

    A few calls show how large calls like these are; the others go at once only where all of them
    fit at the largest possible size.
    """
    if account.metric == "calls":
        return True
    lane = hold.lane
    like_it = [other for other in load.holds if other.lane.model_key == lane.model_key]
    if len(like_it) < _COLD_MAX:
        return True
    others = [other for other in load.holds if other.lane.model_key != lane.model_key]
    needed = Load(account.metric, others).held
    for call in (*like_it, hold):
        worst = _worst_of(call, account.metric)
        if worst is None:
            return False
        needed += worst
    return needed <= left


def _worst_of(hold: Hold, metric: str) -> int | None:
    """Return the most that a call can use, with any hidden input; None if its model has no known
    context window.
    """
    resolved = hold.lane.resolved
    context_tokens, ceiling = resolved.context_tokens, resolved.output_ceiling
    if context_tokens is None or ceiling is None:
        return None
    if metric == "tokens":
        return context_tokens
    prices = dearest_prices(resolved.rates)
    output_tokens = min(hold.max_tokens or ceiling, ceiling)
    dearest_input = max(prices.input, prices.cache_write, prices.cache_write_long)
    cost = context_tokens * dearest_input + output_tokens * max(prices.output, prices.reasoning)
    return -(-cost // ONE_NANO)


def _others_hold(account: Account, hold: Hold) -> bool:
    """Return whether another thread or task holds: waiting on one's own call would deadlock."""
    holds = load_on(account, hold.lane.user.open.values()).holds
    return any(other.owner != hold.owner for other in holds)


def _move_on(
    user: User,
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
        _pass_turn(user, left, woken)
    for account in passing:
        _pass_turn(user, account, woken)


def _pass_turns(user: User, hold: Hold, woken: list[Waiter]) -> None:
    """Pass the turn on wherever a call that does not hold any more leaves room."""
    for account in user.accounts.values():
        if account.waiting and counted_by(account.key, (hold,)):
            _pass_turn(user, account, woken)


def _pass_turn(user: User, account: Account, woken: list[Waiter]) -> None:
    pass_turn(account, lambda: load_on(account, user.open.values()).held, woken)


def waiting_count(users: Iterable[User]) -> int:
    """Return how many calls wait for holds of others."""
    count = 0
    for user in users:
        with acquire_soon(user.lock):
            count += sum(len(account.waiting) for account in user.accounts.values())
    return count
