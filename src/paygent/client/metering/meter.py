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

There is one path with two gears. `begin` and `settle` go the whole way; the first of them makes a
*lane* of what calls have in common. `start` and `finish` begin and end the calls of a known lane
that are far from every line, by the same table of open calls and the same records: what the
provider counted is kept as it is, and priced and counted when somebody needs the figures
(`accounts.admission.count`), by the delivery thread at the latest.

The order of the writes makes counts exact. Before the provider is called, the hold is in memory and
its begin record in the journal; after it answered, the usage is in memory and its end record in the
journal before the answer is returned. A process that dies in between leaves a begin without an end,
which counts as estimated.

This module decides nothing: `core.gate` and `accounts.admission` decide on limits, `policy` on the
rest. What raises here, except `PaygentLimitExceeded`, is swallowed by the wrapper's guard, and the
call proceeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from paygent.client.accounts.allotments import enter
from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import UNLIMITED, Hold, Lane, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.context.identity import Identity
from paygent.client.journal.delivery import Worker
from paygent.client.journal.journal import Journal
from paygent.client.metering import nesting
from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.background_jobs import BackgroundJobs
from paygent.client.metering.booking import (
    NS_PER_MS,
    begin_record,
    estimated_event,
    event_of,
    event_record,
    plain_figures,
)
from paygent.client.metering.call import Call, Request
from paygent.client.metering.estimates import estimated, learned, use_of
from paygent.client.metering.gate_log import GateLog
from paygent.client.metering.lanes import Lanes
from paygent.client.metering.policy import CallPolicy
from paygent.client.metering.records import RecordWriter
from paygent.client.metering.unmetered import UnmeteredCalls
from paygent.client.metering.wait import Wait, WaitEnd, wait_for_ledger
from paygent.client.runtime import ids
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.clock import in_ns
from paygent.client.runtime.event_loops import caller
from paygent.client.runtime.ids import new_id
from paygent.client.runtime.lifecycle import may_fork_unseen, renew_if_forked
from paygent.core.bounded_dict import BoundedDict
from paygent.core.event import Event, difference
from paygent.core.gate import CONTENTION, Decision, warning
from paygent.core.messages import MISSING_USER_ID, AssignRecord
from paygent.core.notices import Notice
from paygent.core.records import (
    COUNT_MAX,
    PACK_BEGIN,
    PACK_END,
    VOID,
    event_id_of,
    pack_begin,
)
from paygent.core.request_size import Size, measure, weight_of
from paygent.core.usage import JobStatus, Usage
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import diagnostics, logger
from paygent.prices.catalogue import Catalogue
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
    gate_log: GateLog
    records: RecordWriter
    jobs: BackgroundJobs
    unmetered: UnmeteredCalls
    deferred_ends: DeferredEnds
    now_us: Callable[[], int]


_SHORTCUTS_MAX = 8_192  # with one user each; the oldest is made again when it is needed


class Meter:
    """Meters and gates the calls of one `Paygent`. Thread-safe; see the module for the flow.

    Attributes:
        pid: The process in which calls may be started.
        may_be_forked: Whether a fork may have gone unnoticed, so that `pid` has to be compared.
        shortcuts: Filled by the instrumentation, which finds lanes there.
    """

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
        self._gate_log = parts.gate_log
        self._records = parts.records
        self._jobs = parts.jobs
        self._now_us = parts.now_us
        self.clock_ns = in_ns(parts.now_us)
        self.unmetered = parts.unmetered  # calls that do not come here otherwise
        self.deferred_ends = parts.deferred_ends  # ends of calls that wait until no lock is held
        self._dropped = self._drop  # one bound method for all calls
        self._lanes = Lanes(parts.accounts.admission, parts.catalogue)
        self.shortcuts: BoundedDict[Hashable, Any] = BoundedDict(_SHORTCUTS_MAX)
        self.admits_missing_user = parts.attribution.admits_missing_user
        self.fallback_user_id = parts.attribution.fallback_user_id
        self.count_missing_user = parts.attribution.count_missing_user
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's lanes."""
        self.pid = os.getpid()
        self.may_be_forked = may_fork_unseen()
        self.shortcuts.clear()

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
        if (
            identity.plan is not None
            and user.plan_name != identity.plan
            and self._assign_from_context(user, identity.plan, at_us)
        ):
            request.has_asked = False  # the question so far did not name the limits of this plan
            user = self._user(request, identity, at_us)
            if isinstance(user, Wait):
                return user
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
            self._write_begin(call)
            return call
        except BaseException:  # a refusal, a failure, an interruption: what does not begin is void
            self.void(call, "did not begin")
            raise

    def _call(self, request: Request, identity: Identity, user: User, at_us: int) -> Call:
        """Return a call with its estimate; it holds nothing yet."""
        if user.finished:
            self._admission.count(user)  # what has ended may change what is expected of this call
        hold = Hold()
        session_id = self._sessions.session_for_call(user, identity.session_id, at_us)
        hold.lane = lane = self._lanes.find(request, user, session_id, at_us)
        hold.seq = next(ids.numbers)
        hold.at_us = at_us
        hold.started_ns = time.perf_counter_ns()
        size = measure(request.body) if request.size is None else request.size
        hold.weight = weight_of(size)
        hold.max_tokens = request.max_tokens or 0
        hold.owner = caller()
        hold.use = use_of(request, size, lane)
        return self._new_call(request, identity, hold)

    def _new_call(self, request: Request, identity: Identity, hold: Hold) -> Call:
        """Return a call with nothing to end yet."""
        call = Call()
        call.ends = []
        call.dropped = self._dropped
        call.pid = os.getpid()
        call.drops_usage_chunk = call.stream_ended = False
        call.event_id = call.booked_id = call.gate_reason = ""
        call.offline_nano = call.provisional = None
        call.request = request
        call.identity = identity
        call.hold = hold
        return call

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
        resolved = self._lanes.resolve(request, user, at_us)
        refusal = self._policy.refusal_now(user, request.model, resolved)
        session_id = user.session_now(identity.session_id, at_us)
        if refusal is None:
            decision = self._admission.check(user, session_id, resolved, at_us)
            if decision.status != "hard_gate" or decision.retryable:
                return None
            refusal = _result(decision, user, request)
        self._report_refusal(user, refusal, session_id, blocked=True)
        raise PaygentLimitExceeded(refusal)

    def _user(self, request: Request, identity: Identity, at_us: int) -> User | Wait:
        """Return the request's user, or a Wait while the ledger is queried."""
        user = self._registry.user(identity.user_id or MISSING_USER_ID, at_us)
        session_id = identity.session_id
        if self._sync.needs_refresh(user, session_id, at_us) and not (
            request.has_run or request.has_asked
        ):
            request.has_asked = True
            if self._sync.must_wait(user, session_id):
                return wait_for_ledger(self._worker, self._sync, user, session_id, self._now_us)
            self._sync.mark_waited(user, session_id, at_us)
            self._worker.refresh_soon(user, session_id)
        return user

    def _wait_in_queue(self, user: User, waiter: Waiter) -> Wait:
        def done(end: WaitEnd) -> None:
            self._admission.leave(user, waiter, gives_up=end == "gave_up")

        return Wait(waiter.turn, waiter.retry_s, done, self.deferred_ends)

    def _assign_from_context(self, user: User, plan: str, at_us: int) -> bool:
        """Assign the plan that the context names to a user without an assignment; return whether
        that was done.
        """
        if user.assigned:
            diagnostics.warn_once(Notice.CONTEXT_PLAN, plan)
            return False
        if plan not in self._registry.plans:
            diagnostics.warn_once(Notice.CONTEXT_PLAN_UNKNOWN, plan)
            return False
        self._registry.assign(user.user_id, plan, None, user.subscription, at_us)
        self._records.write(
            AssignRecord(user.user_id, plan, None, user.subscription, at_us, keeps=True)
        )
        return True

    def _gate(self, call: Call) -> Waiter | None:
        """Hold on every account of the call, or refuse it.

        Returns:
            None when it holds; its place in the queue when it has to wait.
        """
        call.gate_reason = ""
        if call.request.has_run:
            self._hold_unconditionally(call)
            return None
        user, refusal = call.user, None
        is_plain = user.known and not (user.paused or self._sync.is_offline)
        if not (is_plain and call.lane.resolved.rates.is_known):
            refusal = self._policy.refusal_before_limits(call)
        if refusal is None:
            outcome = self._hold(call)
            if isinstance(outcome, Waiter):
                return outcome
            if outcome is not None:
                refusal = _result(outcome, user, call.request)
        for reading in call.hold.warnings:
            result = _result(warning(reading), user, call.request)
            self._gate_log.warn(result, call.lane.session_id)
        if refusal is not None:
            self._refuse(call, refusal)
        return None

    def _hold(self, call: Call) -> Decision | Waiter | None:
        """Hold; or return the decision that refuses the call, or its place in the queue."""
        hold, strict = call.hold, call.plan.pre_call_estimate
        # A second try goes to its place in the queue.
        outcome = None
        if call.request.waiter is None:
            outcome = self._admission.hold(hold, strict=strict)
            if not (isinstance(outcome, Decision) and outcome.retryable):
                return outcome
        # An event loop closes the streams that a task has left some rounds later, so a task that
        # finds only its own calls in its way tries once more.
        soon = call.request.is_async and call.request.waiter is None
        waiter = self._policy.waiter(call, retries_soon=soon)
        # A call that cannot wait for the first of its kind is decided by what is expected of it.
        return self._admission.hold(
            hold,
            strict=strict,
            waiter=waiter,
            may_be_alone=soon,
            cold_waits=waiter is not None,
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
                self._report_refusal(call.user, refusal, call.lane.session_id, blocked=enforces)
            if enforces:
                raise PaygentLimitExceeded(refusal)
            call.gate_reason = refusal.gate_reason or ""
        self._hold_unconditionally(call)

    def _report_refusal(
        self, user: User, refusal: GuardResult, session_id: str, *, blocked: bool
    ) -> None:
        """Report that a call reached a hard gate, and schedule a refresh of the user."""
        user.is_active = True
        self._worker.nudge()  # the limit may have been raised, or the spend corrected, elsewhere
        self._gate_log.refuse(refusal, session_id, blocked=blocked)

    def _hold_unconditionally(self, call: Call) -> None:
        """Hold what a call may use, whatever its limits."""
        self._admission.hold(call.hold, strict=call.plan.pre_call_estimate, enforce=False)

    def _write_begin(self, call: Call) -> None:
        hold, lane = call.hold, call.lane
        self._records.write_sessions()
        self._records.record_price_list(lane.resolved.rates, hold.at_us)
        call.event_id = call.booked_id = event_id_of(lane.facts.common, hold.seq, hold.at_us)
        self._journal.write(
            lane, begin_record(hold, call.identity.metadata, gate_reason=call.gate_reason)
        )

    # -- the same for a known lane, far from every line

    def start(
        self, hold: Hold, lane: Lane, at_us: int, weight: int, max_tokens: int, owner: object
    ) -> bool:
        """Gate and hold a call of a known lane; see `Hold` for the arguments. Return False if it is
        not far from every line: then `begin` decides, and nothing is held.
        """
        hold.seq = seq = next(ids.numbers)
        hold.at_us = at_us
        hold.started_ns = time.perf_counter_ns()
        hold.weight = weight
        hold.max_tokens = max_tokens
        hold.owner = owner
        if lane.is_strict:
            hold.use = lane.worst_use(Size(weight), max_tokens or None)
        hold.lane = lane
        if not (enter(hold) or self._admission.renew(hold)):
            return False
        lane.user.session_id = lane.session_id
        check = (seq ^ at_us ^ weight ^ max_tokens) & COUNT_MAX
        record = PACK_BEGIN(lane.number, seq, at_us, weight, max_tokens, check)
        self._journal.write(lane, record if hold.use is None else begin_record(hold))
        return True

    def finish(self, hold: Hold, figures: tuple[int, ...], *, reports: bool = True) -> None:
        """Book what the provider counted for a call that `start` has begun.

        Args:
            hold: The call.
            figures: As `records.Figures`, without the latency.
            reports: Whether to fire the usage callbacks: not where an interruption repeats this.
        """
        lane, user = hold.lane, hold.lane.user
        latency_ms = (time.perf_counter_ns() - hold.started_ns) // NS_PER_MS
        hold.figures = whole = (latency_ms, *figures)
        user.finished.append(hold)  # from here on it counts
        seq, at_us, n_in, n_out = hold.seq, hold.at_us, figures[0], figures[1]
        check = (seq ^ at_us ^ n_in ^ n_out) & COUNT_MAX
        self._journal.write(lane, PACK_END(lane.number, seq, at_us, *whole, check))
        if not user.is_queued:  # the delivery thread counts it, at the latest
            user.is_queued = True
            self._admission.uncounted.append(user)
        tells_usage = self._callbacks.wants_usage
        if (
            user.allotment is None  # a line is near, and perhaps somebody waits
            or n_in + n_out > lane.tokens_max  # more than the allotment counts on
            or tells_usage
        ):
            self._admission.count(user)
        if self._worker.needs_nudge:
            self._worker.nudge()
        if tells_usage and reports and hold.event is not None:
            self._callbacks.fire("usage", usage_event(hold.event))

    def cancel(self, hold: Hold) -> None:
        """End a call that `start` has begun and that was never sent."""
        self._admission.release(hold)
        self._write_void(hold)

    def as_call(self, hold: Hold, request: Request, identity: Identity) -> Call:
        """Return a call that `start` has begun in the form that `settle` and `void` end."""
        call = self._new_call(request, identity, hold)
        call.event_id = call.booked_id = event_id_of(hold.lane.facts.common, hold.seq, hold.at_us)
        call.pid = self.pid
        hold.call = call  # before it can be ended: whatever interrupts this, there is one
        call.ends.append(None)
        return call

    # -- after the provider

    def settle(self, call: Call, usage: Usage | JobStatus | None) -> bool:
        """Price what a call used and book it, once; without usage, and for a job that is not
        finished, book the estimate. Return False if the call had ended.
        """
        try:
            if not call.claim_end():
                return False
            self._settle(call, usage)
            return True
        except BaseException:  # an internal failure, an interruption
            self._force_end(call)
            raise

    def settle_left(self, call: Call, usage: Usage | JobStatus | None) -> None:
        """Settle a call when its stream was left, with what was received by then; `correct` follows
        where the application reads on.
        """
        if self.settle(call, usage) and not isinstance(usage, JobStatus):
            self._admission.count(call.user)
            if call.hold.event is not None:
                call.provisional = [call.hold.event]

    def correct(self, call: Call, usage: Usage | JobStatus | None) -> None:
        """Book what a call used beyond what was settled when its stream was left."""
        original = call.claim_correction()
        if original is None or not isinstance(usage, Usage):
            return
        correction = difference(self._event(call, usage), original)
        if correction.total_tokens or correction.cost_nano:
            event_id = new_id(self._now_us())
            self._records.book(call.user, correction._replace(event_id=event_id))

    def _settle(self, call: Call, result: Usage | JobStatus | None) -> None:
        job, usage = (result, result.use_now) if isinstance(result, JobStatus) else (None, result)
        figures = plain_figures(call, usage) if usage is not None and job is None else None
        if figures is not None:
            self.finish(call.hold, figures)
            return
        if usage is None:
            self._admission.count(call.user)  # the estimate is that of calls like it, as of now
            usage = estimated(call, job)
        event = self._event(call, usage)
        if job is not None:
            call.booked_id = self._jobs.event_id(job.ref)
            event = event._replace(event_id=call.booked_id)
        # An enforced plan would have learned nothing from a call that shadow mode lets run.
        teaches = call.plan.enforce or not call.gate_reason
        call.hold.observation = learned(call, event, usage) if teaches else None
        self._book(call, event)
        if job is not None:
            self._jobs.start(job, call.user, event)
        self._worker.nudge()
        if self._callbacks.wants_usage:
            self._callbacks.fire("usage", usage_event(event))

    def _book(self, call: Call, event: Event) -> None:
        """Count an event in place of what its call holds, and write its record."""
        call.hold.event = event
        self._admission.end(call.hold)  # from here on it counts
        self._policy.end_offline(call, event.cost_nano)
        self._journal.write(call.lane, event_record(call, event))
        self._admission.count(call.user)

    def _event(self, call: Call, usage: Usage) -> Event:
        event, rates = event_of(call, usage, self._catalogue)
        if rates is not None:
            self._records.record_price_list(rates, call.at_us)
            self._lanes.learn_answerer(call, event, usage, rates)
        return event

    def void(self, call: Call, why: str) -> None:
        """End a call that spent nothing. `why` goes to the log at debug level; it must not contain
        text of the application's.
        """
        try:
            if not call.claim_end():
                return
            self._release(call)
            logger.debug("paygent: a call is void (%s)", why)
        except BaseException:  # an internal failure, an interruption
            self._force_end(call, voids=True)
            raise

    def _release(self, call: Call) -> None:
        self._admission.release(call.hold)
        self._policy.end_offline(call, 0)
        if call.event_id:  # its begin record may have been written
            self._write_void(call.hold)

    def _write_void(self, hold: Hold) -> None:
        number = hold.lane.number
        record = pack_begin(number, hold.seq, hold.at_us, 0, 0, kind=VOID)
        self._journal.write(hold.lane, record)

    def _force_end(self, call: Call, *, voids: bool = False) -> None:
        """End a call after its end failed or was interrupted: no hold stays, and all spend counts.

        Unless it is void it is booked, as estimated where it was not priced yet.
        """
        # Each step may be repeated: what is counted is not counted again.
        if voids or not call.event_id:
            self._release(call)
        else:
            figures = call.hold.figures
            if figures is not None:
                self.finish(call.hold, figures[1:], reports=False)
            else:
                self._book(call, call.hold.event or estimated_event(call))

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
        fallback = self.fallback_user_id
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
