"""The flow of a call, whole: identify, estimate, gate, hold; then settle or void.

Theory of operation
-------------------
`begin` is called before the provider. It returns a `Call` that holds what the call may use, a
`Wait` while the ledger is queried about the user or while calls in flight hold the room that this
one needs, or None for a call that passes unmetered. Then exactly one of `settle` and `void` ends
the call; the first one wins, so a stream can be ended by its last chunk, its close and its garbage
collection. An end that a finalizer asks for inside our own code waits in `deferred_ends` until no
lock is held.

    call -> identify -> estimate -> gate -> (provider) -> usage -> price -> settle -> sync -> store
    -> report

The order of the writes makes counts exact. Before the provider is called, the hold is in memory and
its begin record in the journal; after it answered, the event is in memory and its end record in the
journal before the answer is returned. A process that dies in between leaves a begin without an end,
which counts as estimated.

This module decides nothing: `core.gate` and `accounts.admission` decide on limits, `policy` on the
rest. What raises here, except `PaygentLimitExceeded`, is swallowed by the wrapper's guard, and the
call proceeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from paygent.client.accounts.holds import Hold
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
from paygent.client.metering.booking import begin_of, event_of
from paygent.client.metering.call import Call, Request
from paygent.client.metering.estimates import estimated, learned, use_of
from paygent.client.metering.policy import CallPolicy
from paygent.client.metering.records import RecordWriter
from paygent.client.metering.unmetered import UnmeteredCalls
from paygent.client.metering.wait import Wait, WaitEnd, wait_for_ledger
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.event_loops import caller
from paygent.client.runtime.ids import new_id
from paygent.client.runtime.lifecycle import renew_if_forked
from paygent.client.runtime.settings import MISSING_USER_ID
from paygent.core.event import (
    Event,
    difference,
    encode_begin,
    encode_end,
    encode_head,
    encode_void,
    event_from_begin,
)
from paygent.core.gate import CONTENTION, Decision, warning
from paygent.core.messages import AssignRecord
from paygent.core.notices import Notice
from paygent.core.request_size import measure
from paygent.core.usage import JobStatus, Usage
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics, logger
from paygent.prices.catalogue import Catalogue, Resolved
from paygent.types import GuardResult, guard_result, usage_event


@dataclass(frozen=True)
class MeterParts:
    """What the meter works with; made by the composition root."""

    accounts: Accounts
    catalogue: Catalogue
    journal: Journal
    worker: Worker
    callbacks: Callbacks
    attribution: Attribution
    policy: CallPolicy
    records: RecordWriter
    jobs: BackgroundJobs
    unmetered: UnmeteredCalls
    deferred_ends: DeferredEnds
    now_us: Callable[[], int]


class Meter:
    """Meters and gates the calls of one `Paygent`. Thread-safe; see the module for the flow."""

    def __init__(self, parts: MeterParts) -> None:
        self._registry = parts.accounts.registry
        self._sessions = parts.accounts.sessions
        self._admission = parts.accounts.admission
        self._sync = parts.accounts.sync
        self._catalogue = parts.catalogue
        self._journal = parts.journal
        self._worker = parts.worker
        self._callbacks = parts.callbacks
        self._attribution = parts.attribution
        self._policy = parts.policy
        self._records = parts.records
        self._jobs = parts.jobs
        self._now_us = parts.now_us
        self.unmetered = parts.unmetered  # calls that do not come here otherwise
        self.deferred_ends = parts.deferred_ends  # ends of calls that wait until no lock is held
        self._dropped = self._drop  # one bound method for all calls

    # -- before the provider

    def begin(self, request: Request) -> Call | Wait | None:
        """Identify, estimate, gate and hold.

        Returns:
            The call that now holds; a `Wait` to resolve before calling `begin` again; or None for a
            call that passes unmetered (its user is switched off).

        Raises:
            PaygentLimitExceeded: if a limit refuses the call; nothing is held or spent then.
        """
        renew_if_forked()
        if self.deferred_ends.waiting:
            self.deferred_ends.run()
        # Before the gate: the hold of a wrapper around this call would be in its way.
        nesting.yield_to_inner(request)
        identity = self._attribution.resolve(request)
        at_us = self._now_us()
        user = self._user(request, identity, at_us)
        if isinstance(user, Wait):
            return user
        if not user.sdk_enabled:
            return None
        if identity.plan is not None and user.plan_name != identity.plan:
            self._assign_from_context(user, identity.plan, at_us)
        if user.plan is UNLIMITED:
            self._registry.warn_unlimited(user)
        call = self._call(request, identity, user, at_us)
        try:
            call.ends.append(None)
            waiter = self._gate(call)
            if waiter is not None:
                call.claim_end()
                self._policy.end_offline(call, 0)
                return self._wait_in_queue(user, waiter)
            call.event_id = call.booked_id = new_id(at_us)
            self._write_begin(call)
            return call
        except BaseException:  # a refusal, a failure, an interruption: what does not begin is void
            self.void(call, "did not begin")
            raise

    def _call(self, request: Request, identity: Identity, user: User, at_us: int) -> Call:
        """Return a call with its estimate; it holds nothing yet."""
        call = Call()
        call.ends = []  # nothing to end before it holds
        call.dropped = self._dropped
        call.pid = os.getpid()
        call.drops_usage_chunk = False
        call.event_id = call.booked_id = ""
        call.offline_nano = None
        call.provisional = None
        call.stream_ended = False
        call.started_ns = time.perf_counter_ns()
        call.request = request
        call.identity = identity
        call.user = user
        call.plan = user.plan
        call.at_us = at_us
        call.session_id = self._sessions.session_for_call(user, identity.session_id, at_us)
        call.resolved = resolved = self._resolve(request, user, at_us)
        call.model_key = resolved.model_key
        call.size = measure(request.body) if request.size is None else request.size
        call.forecast = self._admission.forecast(
            user, request.route, resolved, generates=request.generates
        )
        call.hold = Hold(use_of(call), call.model_key, call.session_id, at_us, caller())
        return call

    def _resolve(self, request: Request, user: User, at_us: int) -> Resolved:
        return self._catalogue.resolve(
            request.provider, request.model, at_us, user.plan, request.tier
        )

    def check(self, request: Request) -> Wait | None:
        """Refuse what the gate would refuse now; hold and book nothing.

        Returns:
            A `Wait` to resolve before calling `check` again, or None.

        Raises:
            PaygentLimitExceeded: if a limit is used up.
        """
        identity = self._attribution.resolve(request)
        at_us = self._now_us()
        user = self._user(request, identity, at_us)
        if isinstance(user, Wait):
            return user
        if not (user.sdk_enabled and self._policy.enforces(user.plan)):
            return None
        resolved = self._resolve(request, user, at_us)
        refusal = self._policy.refusal_now(user, request.model, resolved)
        if refusal is None:
            session_id = user.session_now(identity.session_id, at_us)
            decision = self._admission.check(user, session_id, resolved, at_us)
            if decision.status != "hard_gate" or decision.retryable:
                return None
            refusal = _result(decision, user, request)
        self._report_refusal(user, refusal)
        raise PaygentLimitExceeded(refusal)

    def _user(self, request: Request, identity: Identity, at_us: int) -> User | Wait:
        """Return the request's user, or a Wait while the ledger is queried."""
        user = self._registry.user(identity.user_id or MISSING_USER_ID, at_us)
        session_id = identity.session_id
        if self._sync.needs_refresh(user, session_id, at_us) and not (
            request.has_run or request.has_asked
        ):
            request.has_asked = True
            return wait_for_ledger(self._worker, self._sync, user, session_id, self._now_us)
        return user

    def _wait_in_queue(self, user: User, waiter: Waiter) -> Wait:
        def done(end: WaitEnd) -> None:
            self._admission.leave(user, waiter, gives_up=end == "gave_up")

        return Wait(waiter.turn, waiter.retry_s, done, self.deferred_ends)

    def _assign_from_context(self, user: User, plan: str, at_us: int) -> None:
        """Assign the plan that the context names to a user without an assignment."""
        if user.assigned:
            diagnostics.warn_once(Notice.CONTEXT_PLAN, plan)
        elif plan not in self._registry.plans:
            diagnostics.warn_once(Notice.CONTEXT_PLAN_UNKNOWN, plan)
        else:
            self._registry.assign(user.user_id, plan, None, user.subscription, at_us)
            self._records.write(
                AssignRecord(user.user_id, plan, None, user.subscription, at_us, keeps=True)
            )

    def _gate(self, call: Call) -> Waiter | None:
        """Hold on every account of the call, or refuse it.

        Returns:
            None when it holds; its place in the queue when it has to wait.
        """
        call.blocked = False
        if call.request.has_run:
            self._hold_unconditionally(call)
            return None
        user, refusal = call.user, None
        if not (user.known and call.resolved.rates.is_known):
            refusal = self._policy.refusal_before_limits(call)
        if refusal is None:
            outcome = self._hold(call)
            if isinstance(outcome, Waiter):
                return outcome
            if outcome is not None:
                refusal = _result(outcome, user, call.request)
        for reading in call.hold.warnings:
            self._callbacks.fire("soft_gate", _result(warning(reading), user, call.request))
        if refusal is not None:
            self._refuse(call, refusal)
        return None

    def _hold(self, call: Call) -> Decision | Waiter | None:
        """Hold; or return the decision that refuses the call, or its place in the queue."""
        user, strict = call.user, call.plan.pre_call_estimate
        outcome = self._admission.hold(user, call.hold, strict=strict)
        if not (isinstance(outcome, Decision) and outcome.retryable):
            return outcome
        # An event loop closes the streams that a task has left some rounds later, so a task that
        # finds only its own calls in its way tries once more.
        soon = call.request.is_async and call.request.waiter is None
        waiter = self._policy.waiter(call, retries_soon=soon)
        if waiter is None:
            return outcome
        return self._admission.hold(
            user, call.hold, strict=strict, waiter=waiter, may_be_alone=soon
        )

    def _refuse(self, call: Call, refusal: GuardResult) -> None:
        """Report a refusal and raise it; or let the call run, where the product or the plan chose
        so.

        Raises:
            PaygentLimitExceeded: unless `raise_on_hard_gate` is False, or the plan is in shadow
                mode.
        """
        enforces = self._policy.enforces(call.plan)
        # Where calls are not refused, contention blocks none: the call would have waited.
        if enforces or refusal.gate_reason != CONTENTION:
            if call.plan.enforce:  # users must not notice a shadow plan
                self._report_refusal(call.user, refusal)
            if enforces:
                raise PaygentLimitExceeded(refusal)
            call.blocked = True
        self._hold_unconditionally(call)

    def _report_refusal(self, user: User, refusal: GuardResult) -> None:
        """Fire the hard-gate callbacks and schedule a refresh of the user."""
        user.is_active = True
        self._worker.nudge()  # the limit may have been raised, or the spend corrected, elsewhere
        self._callbacks.fire("hard_gate", refusal)

    def _hold_unconditionally(self, call: Call) -> None:
        """Hold what a call may use, whatever its limits."""
        self._admission.hold(
            call.user, call.hold, strict=call.plan.pre_call_estimate, enforce=False
        )

    def _write_begin(self, call: Call) -> None:
        self._records.write_sessions()
        self._records.record_price_list(call.resolved.rates, call.at_us)
        begin = begin_of(call)
        call.head = encode_head(begin)
        self._journal.begin(call.event_id, encode_begin(begin, call.head))

    # -- after the provider

    def settle(self, call: Call, usage: Usage | JobStatus | None) -> Event | None:
        """Price what a call used and book it, once; without usage, and for a job that is not
        finished, book the estimate. Return its event, or None if the call had ended.
        """
        try:
            return self._settle(call, usage) if call.claim_end() else None
        except BaseException:  # an internal failure, an interruption
            self._force_end(call, None)
            raise

    def settle_left(self, call: Call, usage: Usage | JobStatus | None) -> None:
        """Settle a call when its stream was left, with what was received by then; `correct` follows
        where the application reads on.
        """
        event = self.settle(call, usage)
        if event is not None and not isinstance(usage, JobStatus):
            call.provisional = [event]

    def correct(self, call: Call, usage: Usage | JobStatus | None) -> None:
        """Book what a call used beyond what was settled when its stream was left."""
        original = call.claim_correction()
        if original is None or not isinstance(usage, Usage):
            return
        correction = difference(self._event(call, usage), original)
        if correction.total_tokens or correction.cost_nano:
            event_id = new_id(self._now_us())
            self._records.book(call.user, correction._replace(event_id=event_id))

    def _settle(self, call: Call, result: Usage | JobStatus | None) -> Event:
        job, usage = (result, result.use_now) if isinstance(result, JobStatus) else (None, result)
        if usage is None:
            usage = estimated(call, job)
        event = self._event(call, usage)
        if job is not None:
            call.booked_id = self._jobs.event_id(job.ref)
            event = event._replace(event_id=call.booked_id)
        # An enforced plan would have learned nothing from a call that shadow mode lets run.
        teaches = call.plan.enforce or not call.blocked
        lesson = learned(call, event, usage) if teaches else None
        self._admission.settle(call.user, call.hold, event, lesson)
        self._policy.end_offline(call, event.cost_nano)
        asked = (call.request.model, call.model_key, call.request.provider)
        head = call.head if (event.model, event.model_key, event.provider) == asked else ""
        self._journal.end(call.event_id, encode_end(event, head, ends=call.event_id))
        if job is not None:
            self._jobs.start(job, call.user, event)
        self._worker.nudge()
        if self._callbacks.wants("usage"):
            self._callbacks.fire("usage", usage_event(event))
        return event

    def _event(self, call: Call, usage: Usage) -> Event:
        event, rates = event_of(call, usage, self._catalogue)
        if rates is not None:
            self._records.record_price_list(rates, call.at_us)
        return event

    def void(self, call: Call, why: str) -> None:
        """End a call that spent nothing. `why` goes to the log at debug level; it must not contain
        text of the application's.
        """
        try:
            if not call.claim_end():
                return
            self._admission.release(call.user, call.hold)
            self._policy.end_offline(call, 0)
            if self._journal.begun(call.event_id) is not None:
                self._journal.end(call.event_id, encode_void(call.event_id))
            logger.debug("paygent: a call is void (%s)", why)
        except BaseException:  # an internal failure, an interruption
            self._force_end(call, encode_void(call.event_id))
            raise

    def _force_end(self, call: Call, void: bytes | None) -> None:
        """End a call after its end failed or was interrupted: no hold stays, and all spend counts.

        Without a void record it is booked, as estimated where it was not priced yet.
        """
        begun = self._journal.begun(call.event_id)
        event = None
        try:
            self._admission.release(call.user, call.hold)
            if begun is not None and void is None:
                event = call.user.pending.get(call.booked_id) or event_from_begin(begun)
                self._admission.settle(call.user, None, event)
            self._policy.end_offline(call, event.cost_nano if event is not None else 0)
        finally:
            if begun is not None:
                booked = event or event_from_begin(begun)
                end = void or encode_end(booked, ends=call.event_id)
                self._journal.end(call.event_id, end)

    def _drop(self, call: Call) -> None:
        """Settle the estimate of a call that nothing refers to any more: it may have been sent."""
        self.deferred_ends.add(partial(self.settle, call, None))

    # -- jobs: work that a provider does after its answer

    def collect(self, request: Request, status: JobStatus) -> None:
        """Book the usage of a job that an earlier call has started, from the provider's status.

        Nothing is gated: the work is done. What was booked for the job at first is corrected once,
        by the first status that reaches this or any other process.
        """
        if not self._jobs.is_news(status):
            return
        fallback = self._attribution.fallback_user_id
        identity = self._attribution.explicit(request) or Identity(fallback)
        at_us = self._now_us()
        asker = self._registry.user(identity.user_id or fallback, at_us)
        for finished in self._jobs.finish(status, request.provider, asker, identity, at_us):
            if not finished.user.sdk_enabled:
                return
            if finished.rates is not None:
                self._records.record_price_list(finished.rates, at_us)
            self._records.book(finished.user, finished.event)
        self._jobs.note_booked(status)


def _result(decision: Decision, user: User, request: Request) -> GuardResult:
    """Return a decision about a request in its public form."""
    return guard_result(decision, user.user_id, plan=user.plan_name, model=request.model)
