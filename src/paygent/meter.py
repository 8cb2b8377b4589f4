"""The flow of a call, whole: identify, estimate, gate, hold; then settle or void.

Theory of operation
-------------------
`begin` is called before the provider and decides; it returns a `Call` that holds what the call may
use, a `Wait` when the ledger has to be asked about a user that this process does not know yet or
when calls in flight hold what this one needs, or None when the call is not ours to meter. Then
exactly one of `settle` and `void` ends the call; whichever comes first wins, the other does
nothing, so that a stream can be ended by its last chunk, its close and its garbage collection. An
end that a finalizer asks for inside our own code waits in `late_ends` for the next place where no
lock is held.

    call -> identify -> estimate -> gate -> (provider) -> usage -> price -> settle -> sync -> store
    -> report

The order of the writes is what makes a count exact. Before the provider is asked, the hold is in
memory and its begin record is in the journal; after it answered, the event is in memory and its end
record is in the journal before the answer is returned. A process that dies in between leaves a
begin without an end, which counts as estimated. This file decides nothing itself: `core` decides,
`ledger.accounts` holds.

What raises here, but for `PaygentLimitExceeded`, is swallowed by the funnel's guard: the call
proceeds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial

from paygent import enclosing
from paygent.call import Call, Request, Wait
from paygent.context import Identity, current
from paygent.core.estimate import Estimate, Taken, bound, cost_of, measure, weight_of
from paygent.core.event import (
    Begin,
    Event,
    encode_begin,
    encode_end,
    encode_head,
    encode_void,
    presumed,
)
from paygent.core.explain import LARGEST_INPUT, rates_to_json
from paygent.core.gate import CONTENTION, Decision, warning
from paygent.core.pricing import Rates, bound_nano, cost_nano, in_units_of, is_plain
from paygent.core.usage import Deferred, Usage
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, failures, logger
from paygent.ids import new_id
from paygent.jobs import Jobs
from paygent.late import LateEnds
from paygent.ledger.accounts import Accounts, User
from paygent.ledger.allowance import Allowance
from paygent.ledger.flights import Flight, Hold, Use
from paygent.ledger.user import UNLIMITED
from paygent.ledger.waiting import Waiter
from paygent.loops import caller, running_loop, runs_loop
from paygent.models import GuardResult, guard_result, usage_event
from paygent.prices.catalogue import Catalogue
from paygent.prices.price import Asked, price
from paygent.settings import FIRST_TOUCH_WAIT_S, MISSING_USER_ID, Settings
from paygent.sync.callbacks import Callbacks
from paygent.sync.journal import Journal
from paygent.sync.worker import Worker, directory_record
from paygent.wire import AssignRecord, DirectoryRecord, PriceRecord

_NS_PER_MS = 1_000_000
_CACHES_WHEN_ASKED = ("anthropic", "aws")  # others may write their cache unasked


class Meter:
    """Meters and gates the calls of one `Paygent`. Thread-safe; see the module for the flow."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        catalogue: Catalogue,
        journal: Journal,
        worker: Worker,
        callbacks: Callbacks,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._catalogue = catalogue
        self._journal = journal
        self._worker = worker
        self._callbacks = callbacks
        self._now_us = now_us
        self._allowance = Allowance()
        self._jobs = Jobs(settings.ledger_product, catalogue)
        self._listed: set[str] = set()
        self._dropped = self._drop  # bound once
        self.session_opened: Callable[[str], None] = _nothing
        self.late_ends = LateEnds(worker.hurry)
        worker.before_round = self.late_ends.before_round

    # -- before the provider

    def begin(self, request: Request) -> Call | Wait | None:
        """Identify, estimate, gate and hold.

        Returns:
            The call that now holds; a `Wait` to resolve before asking again; or None for a call
            that passes unmetered (its user is switched off).

        Raises:
            PaygentLimitExceeded: if a limit refuses the call; nothing is held or spent then.
        """
        if self.late_ends.waiting:
            self.late_ends.run()
        enclosing.give_up()  # before the gate: what a wrapper holds would stand in its way
        identity = self._identify(request)
        at_us = self._now_us()
        user = self._accounts.user(identity.user_id or MISSING_USER_ID, at_us)
        if self._accounts.asks(user, identity.session_id, at_us) and not request.has_run:
            return self._wait_for(user, identity.session_id)
        if not user.sdk_enabled:
            return None
        if identity.plan is not None and user.plan_name != identity.plan:
            self._assign_from_context(user, identity.plan, at_us)
        plan = user.plan
        if plan is UNLIMITED:
            self._accounts.say_unlimited(user)

        call = Call()
        call.ends = []  # none to claim before it holds
        call.dropped = self._dropped
        call.pid = os.getpid()
        call.drops_usage_chunk = False
        call.event_id = call.booked_id = ""
        call.unseen_nano = None
        call.started_ns = time.perf_counter_ns()
        call.request, call.identity, call.user, call.plan, call.at_us = (
            request,
            identity,
            user,
            plan,
            at_us,
        )
        call.session_id = self._accounts.session(user, identity.session_id, at_us)

        resolved = self._catalogue.resolve(
            request.provider, request.model, at_us, plan, request.tier
        )
        call.resolved = resolved
        call.model_key = resolved.model_key
        call.size = measure(request.body) if request.size is None else request.size
        call.flight = self._accounts.flight(
            user, request.route, resolved, generates=request.generates
        )
        call.hold = Hold(self._estimate(call), call.model_key, call.session_id, at_us, caller())
        try:
            call.ends.append(None)
            waiter = self._gate(call)
            if waiter is not None:
                call.claim_end()
                self._give_back(call, 0)
                return self._wait_in_line(user, waiter)
            call.event_id = call.booked_id = new_id(at_us)
            self._write_begin(call)
            return call
        except BaseException:  # a refusal, a failure, an interruption: what does not begin is void
            self.void(call, "did not begin")
            raise

    def look(self, request: Request) -> Wait | None:
        """Refuse what the gate would refuse now; hold and book nothing.

        Returns:
            A `Wait` to resolve before asking again, or None.

        Raises:
            PaygentLimitExceeded: if a limit is used up.
        """
        identity = self._identify(request)
        at_us = self._now_us()
        user = self._accounts.user(identity.user_id or MISSING_USER_ID, at_us)
        if self._accounts.asks(user, identity.session_id, at_us):
            return self._wait_for(user, identity.session_id)
        if not (user.sdk_enabled and self._settings.raise_on_hard_gate):
            return None
        key = self._catalogue.resolve(request.provider, request.model, at_us, user.plan).model_key
        session_id = self._accounts.session(user, identity.session_id, at_us)
        decision = self._accounts.check(user, session_id, key, at_us)
        if decision.status != "hard_gate" or decision.retryable:
            return None
        refusal = guard_result(decision, user.user_id)
        self._callbacks.fire("hard_gate", refusal)
        raise PaygentLimitExceeded(refusal)

    def _identify(self, request: Request) -> Identity:
        """Return whose call it is: the call's own arguments, then the context, then the policy for
        nobody.
        """
        identity = self._named(request)
        if identity is not None:
            return identity
        said = self._said(request)
        return Identity(self._nobody).over(said) if request.has_run else self.missing(said)

    def _named(self, request: Request) -> Identity | None:
        """Return whose call it is, where that is said."""
        identity = self._said(request)
        return identity if identity is not None and identity.user_id is not None else None

    @staticmethod
    def _said(request: Request) -> Identity | None:
        """Return what is said of whose call it is, in the call and around it."""
        identity = current.get()
        return identity if request.identity is None else request.identity.over(identity)

    @property
    def _nobody(self) -> str:
        """The user of what has none and cannot be refused."""
        policy = self._settings.on_missing_user
        return MISSING_USER_ID if policy in ("warn", "ignore", "block") else policy

    def missing(self, identity: Identity | None) -> Identity:
        """Return the identity of a call or entry without a user, as `on_missing_user` says.

        Raises:
            PaygentLimitExceeded: with `no_user`, where such calls are refused.
        """
        policy = self._settings.on_missing_user
        if policy == "block":
            message = "this call has no user; put it into a paygent_context"
            result = GuardResult("hard_gate", "no_user", 1.0, 0.0, 0.0, message)
            self._callbacks.fire("hard_gate", result)
            raise PaygentLimitExceeded(result)
        if policy == "warn":
            failures.say("no_user", "a call has no user; it is counted on %s", MISSING_USER_ID)
        whose = Identity(self._nobody)
        return whose.over(identity) if identity is not None else whose

    def _wait_for(self, user: User, session_id: str | None) -> Wait:
        """Return the wait for the ledger's word on a user."""

        answer = self._worker.ask(user, session_id)

        def done(gives_up: bool) -> None:
            if not (answer.done() or gives_up or runs_loop()):
                failures.say(
                    "ledger_slow",
                    "the ledger did not answer in %s s; calls go on",
                    FIRST_TOUCH_WAIT_S,
                )
            self._accounts.waited(user, session_id, self._now_us())

        return Wait(answer, FIRST_TOUCH_WAIT_S, done)

    def _wait_in_line(self, user: User, waiter: Waiter) -> Wait:
        """Return the wait for a turn at a limit whose room other calls hold."""

        def done(gives_up: bool) -> None:
            self._accounts.leave(user, waiter, gives_up=gives_up)

        return Wait(waiter.turn, waiter.look_s, done)

    def _waiter(self, call: Call, *, looks_soon: bool) -> Waiter | None:
        """Return a call's place in line; None for one that must not wait, or has waited enough."""
        request, wait_s = call.request, call.plan.contention_wait_s
        if not self._settings.raise_on_hard_gate or not wait_s:
            return None
        if not (running_loop() if request.is_async else not runs_loop()):
            return None  # a sync call would stop the very calls that it waits for
        waiter = request.waiter
        if waiter is None:
            waiter = request.waiter = Waiter(wait_s)
        if not waiter.left_s:
            return None
        waiter.get_ready(looks_soon=looks_soon)
        return waiter

    def _assign_from_context(self, user: User, plan: str, at_us: int) -> None:
        """Put a user that nobody assigned on the plan that the context names."""
        if user.assigned:
            failures.say(
                "context_plan", "a context names plan %s for a user who has another one", plan
            )
        elif plan not in self._accounts.plans:
            failures.say(
                "context_plan_unknown", "a context names plan %s, which is not configured", plan
            )
        else:
            self._accounts.assign(user.user_id, plan, None, user.subscription, at_us)
            self.write_directory(
                AssignRecord(user.user_id, plan, None, user.subscription, at_us, keeps=True)
            )

    def _estimate(self, call: Call) -> Use:
        """Return what the call may use: its worst case in a strict plan, what is expected
        otherwise.
        """
        request, plan, flight = call.request, call.plan, call.flight
        if request.told is not None:
            return self._told_use(call, request.told)
        if not plan.pre_call_estimate:
            if request.requests > 1:
                return _many(flight, call)
            return flight.use(call.size, request.max_tokens)
        most = bound(
            call.size,
            max_tokens=request.max_tokens,
            buffer_tokens=plan.pre_call_buffer_tokens,
            model_max_tokens=flight.caution.model_max_tokens,
            generates=request.generates,
        )
        # What a request only refers to has no bound; what was seen of it is added.
        told = most.input_tokens if request.input_tokens is None else request.input_tokens
        most = most._replace(input_tokens=told + flight.expectation.input_extra)
        writes_cache = call.size.caches or request.provider not in _CACHES_WHEN_ASKED
        cost_nano = max(
            bound_nano(*most, flight.rates, writes_cache=writes_cache),
            cost_of(flight.expectation, most, flight.rates),  # of tools, or of another model
        )
        return Use(most, cost_nano, is_free=flight.is_free)

    def _told_use(self, call: Call, told: Usage) -> Use:
        """Return the use of a call whose request tells it: nothing has to be learned of it."""
        rates = call.resolved.rates
        usage = in_units_of(rates, told)
        estimate = Estimate(usage.input_tokens, usage.output_tokens)
        return Use(estimate, cost_nano(usage, rates), is_free=call.flight.is_free)

    def _gate(self, call: Call) -> Waiter | None:
        """Hold on every account of the call, or refuse it.

        Returns:
            None when it holds; its place in line when it has to wait.
        """
        call.blocked = False
        if call.request.has_run:
            self._hold_unasked(call)
            return None
        user, strict = call.user, call.plan.pre_call_estimate
        refusal = None
        if not (user.known and call.resolved.rates.is_known):
            refusal = self._refusal_before_limits(call)
        if refusal is None:
            found = self._hold(call)
            if isinstance(found, Waiter):
                return found
            if found is not None:
                refusal = guard_result(found, user.user_id)
        for reading in call.hold.warnings:
            self._callbacks.fire(
                "soft_gate", guard_result(warning(reading, strict=strict), user.user_id)
            )
        if refusal is not None:
            self._refuse(call, refusal)
        return None

    def _hold(self, call: Call) -> Decision | Waiter | None:
        """Hold; or return what refuses the call, or its place in line behind other calls."""
        user, strict = call.user, call.plan.pre_call_estimate
        found = self._accounts.hold(user, call.hold, strict=strict)
        if not (isinstance(found, Decision) and found.retryable):
            return found
        is_first = call.request.waiter is None
        room = self.late_ends.collect_left(is_first=is_first)
        waiter = self._waiter(call, looks_soon=is_first and room == "soon")
        if waiter is None and room != "now":
            return found
        return self._accounts.hold(
            user, call.hold, strict=strict, waiter=waiter, may_be_alone=room == "soon"
        )

    def _refuse(self, call: Call, refusal: GuardResult) -> None:
        """Say that a call is refused, and raise; or let it run, where the product chose so.

        Where calls are not refused, one that merely finds others in its way is not called blocked:
        it would have waited for them.
        """
        raises = self._settings.raise_on_hard_gate
        if raises or refusal.gate_reason != CONTENTION:
            call.user.touched = True
            self._worker.nudge()  # what refuses may have changed elsewhere: have it read anew
            self._callbacks.fire("hard_gate", refusal)
            if raises:
                raise PaygentLimitExceeded(refusal)
            call.blocked = True
        self._hold_unasked(call)

    def _hold_unasked(self, call: Call) -> None:
        """Hold what a call may use, whatever the limits say."""
        self._accounts.hold(call.user, call.hold, strict=call.plan.pre_call_estimate, enforce=False)

    def _refusal_before_limits(self, call: Call) -> GuardResult | None:
        """Return why a call is refused before any limit is looked at: its model, or an absent
        ledger.
        """
        plan, user = call.plan, call.user
        if plan.unknown_model == "block" and not call.resolved.rates.is_known:
            name = call.request.model or "(none)"
            message = f"{name} has no price, and the plan blocks unknown models"
            return GuardResult("hard_gate", f"unknown_model:{name}", 1.0, 0.0, 0.0, message)
        if user.known or plan.when_offline == "allow":
            return None
        allowance, cost = plan.offline_allowance_nano, call.hold.use.cost_nano
        if allowance is not None and self._allowance.take(
            cost, allowance, answers=self._accounts.deliveries
        ):
            call.unseen_nano = cost
            return None
        message = "the ledger is away, and the plan does not let calls go on without it"
        return GuardResult("hard_gate", "offline", 1.0, 0.0, 0.0, message, retryable=True)

    def _write_begin(self, call: Call) -> None:
        self.write_opened_sessions()
        self.list_prices(call.resolved.rates, call.at_us)
        request, hold = call.request, call.hold
        begin = Begin(
            call.event_id,
            call.user.user_id,
            call.session_id,
            call.at_us,
            request.model,
            call.model_key,
            request.provider,
            call.user.plan_name,
            hold.period.start_us,
            hold.use.estimate.input_tokens,
            hold.use.estimate.output_tokens,
            hold.use.cost_nano,
            call.resolved.rates.price_id,
            call.identity.metadata_json,
        )
        call.head = encode_head(begin)
        self._journal.begin(call.event_id, encode_begin(begin, call.head))

    # -- after the provider

    def settle(self, call: Call, usage: Usage | Deferred | None) -> None:
        """Price what the call used and book it; None books what was estimated, and so does work
        whose use the provider tells later.

        The first end of a call counts; a call that a forked child inherited is its parent's to end.
        """
        try:
            if call.claim_end():
                self._settle(call, usage)
        except BaseException:  # a failure of ours, an interruption
            self._end_anyhow(call, None)
            raise

    def _settle(self, call: Call, found: Usage | Deferred | None) -> None:
        job, usage = (found, found.use_now) if isinstance(found, Deferred) else (None, found)
        if usage is None:
            usage = self._estimated(call, job)
        event = self._event(call, usage)
        if job is not None:
            call.booked_id = self._jobs.event_id(job.ref)
            event = event._replace(event_id=call.booked_id)
        self._accounts.settle(call.user, call.hold, event, _learned(call, event, usage))
        self._give_back(call, event.cost_nano)
        same = event.model == call.request.model and event.model_key == call.model_key
        head = call.head if same else ""
        self._journal.end(call.event_id, encode_end(event, head, ends=call.event_id))
        if job is not None:
            self._jobs.start(job, call.user, event)
        self._worker.nudge()
        if self._callbacks.wants("usage"):
            self._callbacks.fire("usage", usage_event(event))

    def _estimated(self, call: Call, job: Deferred | None) -> Usage:
        """Return what is booked where no usage came: what the request tells, or what was held."""
        request, estimate = call.request, call.estimate
        if request.told is not None:
            usage = in_units_of(call.resolved.rates, request.told)
        else:
            told = request.input_tokens
            usage = Usage(estimate.input_tokens if told is None else told, estimate.output_tokens)
        if job is not None:
            usage = usage._replace(model=job.model, tier=job.tier)
        if request.requests > 1:
            usage = usage._replace(largest_input_tokens=0)
        return usage._replace(quality="estimated")

    def void(self, call: Call, why: str) -> None:
        """End a call that spent nothing.

        Args:
            why: What happened, for the log at debug level; no text of the application's.
        """
        try:
            if not call.claim_end():
                return
            self._accounts.release(call.user, call.hold)
            self._give_back(call, 0)
            if self._journal.begun(call.event_id) is not None:
                self._journal.end(call.event_id, encode_void(call.event_id))
            logger.debug("paygent: a call is void (%s)", why)
        except BaseException:  # as above
            self._end_anyhow(call, encode_void(call.event_id))
            raise

    def _end_anyhow(self, call: Call, void: bytes | None) -> None:
        """End a call whose end failed or was interrupted: no hold stays, and what was spent counts.

        Args:
            call: Which.
            void: Its void record; None books it, as estimated where it was not priced yet.
        """
        begun = self._journal.begun(call.event_id)
        event = None
        try:
            self._accounts.release(call.user, call.hold)
            if begun is not None and void is None:
                event = call.user.pending.get(call.booked_id) or presumed(begun)
                self._accounts.settle(call.user, None, event)
            self._give_back(call, event.cost_nano if event is not None else 0)
        finally:
            if begun is not None:
                if void is None:
                    void = encode_end(event or presumed(begun), ends=call.event_id)
                self._journal.end(call.event_id, void)

    def _give_back(self, call: Call, spent_nano: int) -> None:
        """Replace what a call held of the allowance without a ledger, if any, by what it spent."""
        if call.unseen_nano is not None:
            self._allowance.give_back(call.unseen_nano, spent_nano)
            call.unseen_nano = None

    def _drop(self, call: Call) -> None:
        """End a call that nobody can end any more as estimated: it may have been sent."""
        self.late_ends.add(partial(self.settle, call, None))

    def renew_after_fork(self) -> None:
        """Forget the parent's calls in flight."""
        self.late_ends.renew_after_fork()
        self._listed = set()  # the parent's records are the parent's to deliver
        self._allowance.renew_after_fork()

    def _event(self, call: Call, usage: Usage) -> Event:
        """Return the event of a call."""
        request, plan = call.request, call.plan
        priced = price(
            self._catalogue,
            Asked(request.provider, request.model, plan, call.at_us, call.resolved),
            usage,
        )
        if priced.rates is not None:
            self.list_prices(priced.rates, call.at_us)
        tools = usage.tool_calls if plan.tool_costs_nano else ()
        charged = tuple(name for name in tools if name in plan.tool_costs_nano)
        details = priced.details
        if usage.largest_input_tokens >= 0:
            details = {**(details or {}), LARGEST_INPUT: usage.largest_input_tokens}
        return Event(
            call.event_id,
            call.user.user_id,
            call.session_id,
            call.at_us,
            priced.model,
            priced.model_key,
            request.provider,
            call.user.plan_name,
            call.hold.period.start_us,
            usage.input_tokens,
            usage.output_tokens,
            usage.all_cached_tokens,
            usage.cache_write_tokens + usage.cache_write_long_tokens,
            usage.reasoning_tokens,
            priced.cost_nano,
            sum(plan.tool_costs_nano[name] for name in charged),
            priced.quality,
            "auto",
            priced.price_id,
            (time.perf_counter_ns() - call.started_ns) // _NS_PER_MS,
            call.blocked,
            False,
            charged,
            None,
            call.identity.metadata,
            details,
        )

    # -- jobs: work that a provider does after its answer

    def collect(self, request: Request, found: Deferred) -> None:
        """Book what a provider says, when it is asked, of work that an earlier call has started.

        Nothing is gated: the work is done. What was booked for it at first is corrected, by the
        first word on it, here and in every other process.
        """
        if not self._jobs.is_news(found):
            return
        identity = self._named(request) or Identity(self._nobody)
        at_us = self._now_us()
        asker = self._accounts.user(identity.user_id or self._nobody, at_us)
        for done in self._jobs.finish(found, request.provider, asker, identity, at_us):
            if not done.user.sdk_enabled:
                return
            if done.rates is not None:
                self.list_prices(done.rates, at_us)
            self.record(done.user, done.event)
        self._jobs.note_booked(found)

    # -- what is no call

    def record(self, user: User, event: Event) -> None:
        """Book a manual event: the money is spent, so no limit is asked."""
        self.write_opened_sessions()
        payload = encode_end(event)
        try:
            self._accounts.settle(user, None, event)
            self._journal.append(payload)
        except BaseException:  # the money is spent; a record twice counts once
            self._journal.append(payload)
            raise
        self._worker.nudge()
        if self._callbacks.wants("usage"):
            self._callbacks.fire("usage", usage_event(event))

    def list_prices(self, rates: Rates, at_us: int) -> None:
        """Have a price list kept, once, so that what was booked with it can be explained."""
        if rates.price_id not in self._listed:
            self._listed.add(rates.price_id)
            if rates.price_id:
                attempt("price_list", self._keep_prices, rates, at_us)

    def _keep_prices(self, rates: Rates, at_us: int) -> None:
        self.write_directory(PriceRecord(rates.price_id, rates_to_json(rates), at_us))

    def write_opened_sessions(self) -> None:
        """Write the sessions that were opened meanwhile, and say so."""
        for opened in self._accounts.take_opened():
            self.write_directory(opened)
            self.session_opened(opened.user_id)

    def write_directory(self, record: DirectoryRecord) -> None:
        """Write a plan, an assignment or a session into the journal."""
        self._journal.append(encode_directory(record))
        self._worker.nudge()


def _many(flight: Flight, call: Call) -> Use:
    """Return what a call that holds many requests may use: so many times what one of them does."""
    count, bound_tokens = call.request.requests, call.request.max_tokens
    size = call.size._replace(
        text_bytes=-(-call.size.text_bytes // count), parts=-(-call.size.parts // count)
    )
    one = flight.use(size, None if bound_tokens is None else -(-bound_tokens // count))
    estimate = Estimate(one.estimate.input_tokens * count, one.estimate.output_tokens * count)
    return Use(estimate, one.cost_nano * count, is_free=flight.is_free)


def _learned(call: Call, event: Event, usage: Usage) -> tuple[Flight, Taken] | None:
    """Return what the next calls like this one are expected by; None where the provider did not
    count all of it.
    """
    if event.quality not in ("exact", "unpriced"):
        return None
    taken = Taken(
        weight_of(call.size),
        event.input_tokens,
        event.output_tokens,
        event.cost_nano,
        call.hold.use.max_tokens,
        # Only of the list that the next ones are expected by: another model may have answered.
        event.cost_tokens_nano
        if event.price_id == call.flight.rates.price_id and is_plain(usage)
        else None,
    )
    return call.flight, taken


def _nothing(user_id: str) -> None:
    """Stand for what is told of opened sessions, where nobody asked for anything."""


def encode_directory(record: DirectoryRecord) -> bytes:
    """Return a directory record as a journal payload."""
    return json.dumps(directory_record(record), separators=(",", ":")).encode()
