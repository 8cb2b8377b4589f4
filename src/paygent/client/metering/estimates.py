"""Estimates: what a call may use, what is booked without a usage, and what its settlement teaches.

No side effects; the arithmetic is in `core/estimate.py`.
"""

from __future__ import annotations

from paygent.client.accounts.forecasts import Use
from paygent.client.accounts.user_state import Lane
from paygent.client.metering.call import Call, Request
from paygent.core.estimate import Estimate
from paygent.core.event import Event
from paygent.core.pricing import cost_nano, in_units_of, is_plain
from paygent.core.request_size import Size, weight_of
from paygent.core.usage import JobStatus, Usage
from paygent.core.usage_stats import Observation


def use_of(request: Request, size: Size, lane: Lane) -> Use | None:
    """Return what a call may use where its forecast alone does not say it: its declared usage if
    there is one, its worst case in a strict plan, the sum over its requests; otherwise None.
    """
    if request.declared_usage is not None:
        return _declared_use(request.declared_usage, lane)
    if lane.plan.pre_call_estimate:
        return lane.worst_use(size, request.max_tokens, request.input_tokens)
    if request.requests > 1:
        return _many(request, size, lane)
    return None


def _declared_use(declared: Usage, lane: Lane) -> Use:
    """Return the usage that follows from the request alone; nothing has to be learned."""
    rates = lane.resolved.rates
    usage = in_units_of(rates, declared)
    estimate = Estimate(usage.input_tokens, usage.output_tokens)
    return Use(estimate, cost_nano(usage, rates), is_free=lane.forecast.is_free)


def _many(request: Request, size: Size, lane: Lane) -> Use:
    """Return the usage of a call with many requests: the usage of one, times their number."""
    forecast, count, bound_tokens = lane.forecast, request.requests, request.max_tokens
    one_size = size._replace(text_bytes=-(-size.text_bytes // count), parts=-(-size.parts // count))
    one_bound = None if bound_tokens is None else -(-bound_tokens // count)
    one = forecast.use(weight_of(one_size), one_bound)
    estimate = Estimate(one.estimate.input_tokens * count, one.estimate.output_tokens * count)
    return Use(estimate, one.cost_nano * count, is_free=forecast.is_free)


def estimated(call: Call, job: JobStatus | None) -> Usage:
    """Return the usage to book for a call without a reported one: its declared usage, or its hold.

    Args:
        call: The call, which has ended.
        job: The job that it has started, with usage reported later; or None.
    """
    request, estimate = call.request, call.estimate
    if request.declared_usage is not None:
        usage = in_units_of(call.lane.resolved.rates, request.declared_usage)
    else:
        given = request.input_tokens
        usage = Usage(estimate.input_tokens if given is None else given, estimate.output_tokens)
    if job is not None:
        usage = usage._replace(model=job.model, tier=job.tier)
    if request.requests > 1:
        usage = usage._replace(largest_input_tokens=0)
    return usage._replace(quality="estimated")


def learned(call: Call, event: Event, usage: Usage) -> Observation | None:
    """Return the observation for the forecast of like calls; None if the provider's count is
    incomplete.
    """
    if event.quality not in ("exact", "unpriced"):
        return None
    forecast, hold = call.lane.forecast, call.hold
    # A fixed estimate says nothing of the bound on output that it was made with.
    has_bound = hold.use is None
    return Observation(
        hold.weight,
        event.input_tokens,
        event.output_tokens,
        event.cost_nano,
        forecast.capped(hold.max_tokens) or None if has_bound else None,
        # Only at the forecast's own prices: another model may have answered.
        event.cost_tokens_nano
        if event.price_id == forecast.rates.price_id and is_plain(usage)
        else None,
    )
