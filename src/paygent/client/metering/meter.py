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

import os
import time
from collections.abc import Callable
from functools import partial

from paygent.client.accounts.holds import Hold
from paygent.client.accounts.offline_allowance import Allowance
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import UNLIMITED, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.context.identity import Identity
from paygent.client.journal.delivery import Worker
from paygent.client.journal.journal import Journal
from paygent.client.metering import nesting
from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.background_jobs import BackgroundJobs
from paygent.client.metering.call import Call, Request, Wait
from paygent.client.metering.estimates import estimated, learned, use_of
from paygent.client.metering.records import RecordWriter
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.event_loops import caller, running_loop, runs_loop
from paygent.client.runtime.ids import new_id
from paygent.client.runtime.settings import FIRST_TOUCH_WAIT_S, MISSING_USER_ID, Settings
from paygent.core.estimate import measure
from paygent.core.event import (
    Begin,
    Event,
    difference,
    encode_begin,
    encode_end,
    encode_head,
    encode_void,
    event_from_begin,
)
from paygent.core.explain import LARGEST_INPUT
from paygent.core.gate import CONTENTION, Decision, warning
from paygent.core.messages import AssignRecord
from paygent.core.plan import PlanConfig
from paygent.core.usage import JobStatus, Usage
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics, logger
from paygent.prices.catalogue import Catalogue, Resolved
from paygent.prices.usage_cost import PriceQuery, price
from paygent.types import GuardResult, guard_result, usage_event

_NS_PER_MS = 1_000_000


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
        self._jobs = BackgroundJobs(settings.ledger_product, catalogue)
        self._dropped = self._drop  # bound once
        self._attribution = Attribution(settings.on_missing_user, callbacks)
        self.records = RecordWriter(accounts, journal, worker, callbacks)
        self.deferred_ends = DeferredEnds()

    # -- before the provider

    def begin(self, request: Request) -> Call | Wait | None:
        """Identify, estimate, gate and hold.

        Returns:
            The call that now holds; a `Wait` to resolve before asking again; or None for a call
            that passes unmetered (its user is switched off).

        Raises:
            PaygentLimitExceeded: if a limit refuses the call; nothing is held or spent then.
        """
        if self.deferred_ends.waiting:
            self.deferred_ends.run()
        nesting.yield_to_inner(
            request
        )  # before the gate: what a wrapper holds would stand in its way
        identity = self._attribution.resolve(request)
        at_us = self._now_us()
        user = self._user(request, identity, at_us)
        if isinstance(user, Wait):
            return user
        if not user.sdk_enabled:
            return None
        if identity.plan is not None and user.plan_name != identity.plan:
            self._assign_from_context(user, identity.plan, at_us)
        plan = user.plan
        if plan is UNLIMITED:
            self._accounts.registry.warn_unlimited(user)

        call = Call()
        call.ends = []  # none to claim before it holds
        call.dropped = self._dropped
        call.pid = os.getpid()
        call.drops_usage_chunk = False
        call.event_id = call.booked_id = ""
        call.unseen_nano = None
        call.provisional = None
        call.started_ns = time.perf_counter_ns()
        call.request, call.identity, call.user, call.plan, call.at_us = (
            request,
            identity,
            user,
            plan,
            at_us,
        )
        call.session_id = self._accounts.sessions.session_for_call(user, identity.session_id, at_us)

        resolved = self._catalogue.resolve(
            request.provider, request.model, at_us, plan, request.tier
        )
        call.resolved = resolved
        call.model_key = resolved.model_key
        call.size = measure(request.body) if request.size is None else request.size
        call.forecast = self._accounts.admission.forecast(
            user, request.route, resolved, generates=request.generates
        )
        call.hold = Hold(use_of(call), call.model_key, call.session_id, at_us, caller())
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

    def check(self, request: Request) -> Wait | None:
        """Refuse what the gate would refuse now; hold and book nothing.

        Returns:
            A `Wait` to resolve before asking again, or None.

        Raises:
            PaygentLimitExceeded: if a limit is used up.
        """
        identity = self._attribution.resolve(request)
        at_us = self._now_us()
        user = self._user(request, identity, at_us)
        if isinstance(user, Wait):
            return user
        if not (user.sdk_enabled and self._settings.raise_on_hard_gate):
            return None
        plan = user.plan
        resolved = self._catalogue.resolve(
            request.provider, request.model, at_us, plan, request.tier
        )
        # What names no model yet (a connection) is not refused for it.
        refusal = _refusal_of_model(request, plan, resolved) if request.model else None
        if refusal is None:
            refusal = self._refusal_offline(user, plan, 0)
        if refusal is None:
            session_id = user.session_now(identity.session_id, at_us)
            decision = self._accounts.admission.check(user, session_id, resolved.model_key, at_us)
            if decision.status != "hard_gate" or decision.retryable:
                return None
            refusal = guard_result(decision, user.user_id)
        self._report_refusal(user, refusal)
        raise PaygentLimitExceeded(refusal)

    def _user(self, request: Request, identity: Identity, at_us: int) -> User | Wait:
        """Return the user of a request, or the wait for the ledger's word on them."""
        user = self._accounts.registry.user(identity.user_id or MISSING_USER_ID, at_us)
        if (
            self._accounts.sync.needs_refresh(user, identity.session_id, at_us)
            and not request.has_run
        ):
            return self._wait_for(user, identity.session_id)
        return user

    def _wait_for(self, user: User, session_id: str | None) -> Wait:
        """Return the wait for the ledger's word on a user."""

        answer = self._worker.ask(user, session_id)

        def done(gives_up: bool) -> None:
            if not (answer.done() or gives_up or runs_loop()):
                diagnostics.warn_once(
                    "ledger_slow",
                    "the ledger did not answer in %s s; calls go on",
                    FIRST_TOUCH_WAIT_S,
                )
            self._accounts.sync.mark_waited(user, session_id, self._now_us())

        return Wait(answer, FIRST_TOUCH_WAIT_S, done)

    def _wait_in_line(self, user: User, waiter: Waiter) -> Wait:
        """Return the wait for a turn at a limit whose room other calls hold."""

        def done(gives_up: bool) -> None:
            self._accounts.admission.leave(user, waiter, gives_up=gives_up)

        return Wait(waiter.turn, waiter.retry_s, done)

    def _waiter(self, call: Call, *, retries_soon: bool) -> Waiter | None:
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
        waiter.prepare(retries_soon=retries_soon)
        return waiter

    def _assign_from_context(self, user: User, plan: str, at_us: int) -> None:
        """Put a user that nobody assigned on the plan that the context names."""
        if user.assigned:
            diagnostics.warn_once(
                "context_plan", "a context names plan %s for a user who has another one", plan
            )
        elif plan not in self._accounts.registry.plans:
            diagnostics.warn_once(
                "context_plan_unknown", "a context names plan %s, which is not configured", plan
            )
        else:
            self._accounts.registry.assign(user.user_id, plan, None, user.subscription, at_us)
            self.records.write(
                AssignRecord(user.user_id, plan, None, user.subscription, at_us, keeps=True)
            )

    def _gate(self, call: Call) -> Waiter | None:
        """Hold on every account of the call, or refuse it.

        Returns:
            None when it holds; its place in line when it has to wait.
        """
        call.blocked = False
        if call.request.has_run:
            self._hold_unconditionally(call)
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
        found = self._accounts.admission.hold(user, call.hold, strict=strict)
        if not (isinstance(found, Decision) and found.retryable):
            return found
        # An event loop closes the streams that a task has left some rounds later, so a task whose
        # own calls are all that is in its way looks once more.
        soon = call.request.is_async and call.request.waiter is None
        waiter = self._waiter(call, retries_soon=soon)
        if waiter is None:
            return found
        return self._accounts.admission.hold(
            user, call.hold, strict=strict, waiter=waiter, may_be_alone=soon
        )

    def _refuse(self, call: Call, refusal: GuardResult) -> None:
        """Say that a call is refused, and raise; or let it run, where the product chose so.

        Where calls are not refused, one that merely finds others in its way is not called blocked:
        it would have waited for them.
        """
        if self._settings.raise_on_hard_gate or refusal.gate_reason != CONTENTION:
            self._report_refusal(call.user, refusal)
            if self._settings.raise_on_hard_gate:
                raise PaygentLimitExceeded(refusal)
            call.blocked = True
        self._hold_unconditionally(call)

    def _report_refusal(self, user: User, refusal: GuardResult) -> None:
        """Tell who listens that a user is refused, and have the worker look after it."""
        user.is_active = True
        self._worker.nudge()  # what refuses may have changed elsewhere: have it read anew
        self._callbacks.fire("hard_gate", refusal)

    def _hold_unconditionally(self, call: Call) -> None:
        """Hold what a call may use, whatever the limits say."""
        self._accounts.admission.hold(
            call.user, call.hold, strict=call.plan.pre_call_estimate, enforce=False
        )

    def _refusal_before_limits(self, call: Call) -> GuardResult | None:
        """Return why a call is refused before any limit is looked at: its model, or an absent
        ledger.
        """
        plan, user = call.plan, call.user
        refusal = _refusal_of_model(call.request, plan, call.resolved)
        if refusal is not None:
            return refusal
        cost_nano = call.hold.use.cost_nano
        refusal = self._refusal_offline(user, plan, cost_nano)
        if refusal is None and not user.known and plan.when_offline != "allow":
            call.unseen_nano = cost_nano  # taken of the allowance
        return refusal

    def _refusal_offline(self, user: User, plan: PlanConfig, cost_nano: int) -> GuardResult | None:
        """Return why a call is refused while the ledger is away; None takes what it costs of the
        plan's allowance, if it has one.
        """
        if user.known or plan.when_offline == "allow":
            return None
        allowance = plan.offline_allowance_nano
        if allowance is not None and self._allowance.take(
            cost_nano, allowance, answers=self._accounts.sync.deliveries
        ):
            return None
        message = "the ledger is away, and the plan does not let calls go on without it"
        return GuardResult("hard_gate", "offline", 1.0, 0.0, 0.0, message, retryable=True)

    def _write_begin(self, call: Call) -> None:
        self.records.write_opened_sessions()
        self.records.record_price_list(call.resolved.rates, call.at_us)
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

    def settle(self, call: Call, usage: Usage | JobStatus | None) -> None:
        """Price what the call used and book it; None books what was estimated, and so does work
        whose use the provider tells later.

        The first end of a call counts; a call that a forked child inherited is its parent's to end.
        """
        try:
            if call.claim_end():
                self._settle(call, usage)
        except BaseException:  # a failure of ours, an interruption
            self._force_end(call, None)
            raise

    def settle_left(self, call: Call, found: Usage | JobStatus | None) -> None:
        """Settle a call whose stream was left with what was received by then; whoever reads the
        stream on has it corrected.
        """
        try:
            if call.claim_end():
                event = self._settle(call, found)
                call.provisional = None if isinstance(found, JobStatus) else event
        except BaseException:  # as above
            self._force_end(call, None)
            raise

    def correct(self, call: Call, found: Usage | JobStatus | None) -> None:
        """Book what a call used beyond what was settled when its stream was left."""
        original, call.provisional = call.provisional, None
        if original is None or not isinstance(found, Usage):
            return
        whole = self._event(call, found)
        correction = difference(whole, original)
        if correction.total_tokens or correction.cost_nano:
            self.records.book(call.user, correction._replace(event_id=new_id(self._now_us())))

    def _settle(self, call: Call, found: Usage | JobStatus | None) -> Event:
        job, usage = (found, found.use_now) if isinstance(found, JobStatus) else (None, found)
        if usage is None:
            usage = estimated(call, job)
        event = self._event(call, usage)
        if job is not None:
            call.booked_id = self._jobs.event_id(job.ref)
            event = event._replace(event_id=call.booked_id)
        self._accounts.admission.settle(call.user, call.hold, event, learned(call, event, usage))
        self._give_back(call, event.cost_nano)
        asked = (call.request.model, call.model_key, call.request.provider)
        head = call.head if (event.model, event.model_key, event.provider) == asked else ""
        self._journal.end(call.event_id, encode_end(event, head, ends=call.event_id))
        if job is not None:
            self._jobs.start(job, call.user, event)
        self._worker.nudge()
        if self._callbacks.wants("usage"):
            self._callbacks.fire("usage", usage_event(event))
        return event

    def void(self, call: Call, why: str) -> None:
        """End a call that spent nothing.

        Args:
            why: What happened, for the log at debug level; no text of the application's.
        """
        try:
            if not call.claim_end():
                return
            self._accounts.admission.release(call.user, call.hold)
            self._give_back(call, 0)
            if self._journal.begun(call.event_id) is not None:
                self._journal.end(call.event_id, encode_void(call.event_id))
            logger.debug("paygent: a call is void (%s)", why)
        except BaseException:  # as above
            self._force_end(call, encode_void(call.event_id))
            raise

    def _force_end(self, call: Call, void: bytes | None) -> None:
        """End a call whose end failed or was interrupted: no hold stays, and what was spent counts.

        Args:
            call: Which.
            void: Its void record; None books it, as estimated where it was not priced yet.
        """
        begun = self._journal.begun(call.event_id)
        event = None
        try:
            self._accounts.admission.release(call.user, call.hold)
            if begun is not None and void is None:
                event = call.user.pending.get(call.booked_id) or event_from_begin(begun)
                self._accounts.admission.settle(call.user, None, event)
            self._give_back(call, event.cost_nano if event is not None else 0)
        finally:
            if begun is not None:
                if void is None:
                    void = encode_end(event or event_from_begin(begun), ends=call.event_id)
                self._journal.end(call.event_id, void)

    def _give_back(self, call: Call, spent_nano: int) -> None:
        """Replace what a call held of the allowance without a ledger, if any, by what it spent."""
        if call.unseen_nano is not None:
            self._allowance.give_back(call.unseen_nano, spent_nano)
            call.unseen_nano = None

    def _drop(self, call: Call) -> None:
        """End a call that nobody can end any more as estimated: it may have been sent."""
        self.deferred_ends.add(partial(self.settle, call, None))

    def renew_after_fork(self) -> None:
        """Forget the parent's calls in flight."""
        self.deferred_ends.renew_after_fork()
        self.records.renew_after_fork()
        self._allowance.renew_after_fork()

    def _event(self, call: Call, usage: Usage) -> Event:
        """Return the event of a call."""
        request, plan = call.request, call.plan
        provider = usage.provider or request.provider
        resolved = call.resolved if provider == request.provider else None
        priced = price(
            self._catalogue, PriceQuery(provider, request.model, plan, call.at_us, resolved), usage
        )
        if priced.rates is not None:
            self.records.record_price_list(priced.rates, call.at_us)
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
            provider,
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

    def collect(self, request: Request, found: JobStatus) -> None:
        """Book what a provider says, when it is asked, of work that an earlier call has started.

        Nothing is gated: the work is done. What was booked for it at first is corrected, by the
        first word on it, here and in every other process.
        """
        if not self._jobs.is_news(found):
            return
        identity = self._attribution.explicit(request) or Identity(
            self._attribution.fallback_user_id
        )
        at_us = self._now_us()
        asker = self._accounts.registry.user(
            identity.user_id or self._attribution.fallback_user_id, at_us
        )
        for done in self._jobs.finish(found, request.provider, asker, identity, at_us):
            if not done.user.sdk_enabled:
                return
            if done.rates is not None:
                self.records.record_price_list(done.rates, at_us)
            self.records.book(done.user, done.event)
        self._jobs.note_booked(found)


def _refusal_of_model(request: Request, plan: PlanConfig, resolved: Resolved) -> GuardResult | None:
    """Return why a call of a model is refused, if its plan blocks models without a price."""
    if plan.unknown_model != "block" or resolved.rates.is_known:
        return None
    name = request.model or "(none)"
    message = f"{name} has no price, and the plan blocks unknown models"
    return GuardResult("hard_gate", f"unknown_model:{name}", 1.0, 0.0, 0.0, message)
