"""Estimates: what a call may use, what is booked without a usage, and what its settlement teaches.

No side effects; the arithmetic is in `core/estimate.py`.
"""

from __future__ import annotations

from paygent.client.accounts.forecasts import UsageForecast, Use
from paygent.client.metering.call import Call
from paygent.core.estimate import Estimate, bound, cost_of
from paygent.core.event import Event
from paygent.core.pricing import bound_nano, cost_nano, in_units_of, is_plain
from paygent.core.providers import provider_facts
from paygent.core.request_size import weight_of
from paygent.core.usage import JobStatus, Usage
from paygent.core.usage_stats import Observation


def use_of(call: Call) -> Use:
    """Return what a call may use: its declared usage if there is one, its worst case in a strict
    plan, the expected usage otherwise.
    """
    request = call.request
    if request.declared_usage is not None:
        return _declared_use(call, request.declared_usage)
    if call.plan.pre_call_estimate:
        return _worst_case(call)
    if request.requests > 1:
        return _many(call)
    return call.forecast.use(call.size, request.max_tokens)


def _declared_use(call: Call, declared: Usage) -> Use:
    """Return the usage that follows from the request alone; nothing has to be learned."""
    rates = call.resolved.rates
    usage = in_units_of(rates, declared)
    estimate = Estimate(usage.input_tokens, usage.output_tokens)
    return Use(estimate, cost_nano(usage, rates), is_free=call.forecast.is_free)


def _worst_case(call: Call) -> Use:
    """Return the most that a call can use."""
    request, forecast = call.request, call.forecast
    most = bound(
        call.size,
        max_tokens=request.max_tokens,
        buffer_tokens=call.plan.pre_call_buffer_tokens,
        model_max_tokens=call.resolved.max_output_tokens,
        generates=request.generates,
    )
    # Content that a request only refers to has no bound; the observed amount is added.
    visible = most.input_tokens if request.input_tokens is None else request.input_tokens
    most = most._replace(input_tokens=visible + forecast.expectation.input_extra)
    writes_cache = call.size.caches or not provider_facts(request.provider).caches_on_request
    most_nano = max(
        bound_nano(*most, forecast.rates, writes_cache=writes_cache),
        cost_of(forecast.expectation, most, forecast.rates),  # includes tools, or another model
    )
    return Use(most, most_nano, is_free=forecast.is_free)


def _many(call: Call) -> Use:
    """Return the usage of a call with many requests: the usage of one, times their number."""
    forecast, count, bound_tokens = call.forecast, call.request.requests, call.request.max_tokens
    size = call.size._replace(
        text_bytes=-(-call.size.text_bytes // count), parts=-(-call.size.parts // count)
    )
    one = forecast.use(size, None if bound_tokens is None else -(-bound_tokens // count))
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
        usage = in_units_of(call.resolved.rates, request.declared_usage)
    else:
        given = request.input_tokens
        usage = Usage(estimate.input_tokens if given is None else given, estimate.output_tokens)
    if job is not None:
        usage = usage._replace(model=job.model, tier=job.tier)
    if request.requests > 1:
        usage = usage._replace(largest_input_tokens=0)
    return usage._replace(quality="estimated")


def learned(call: Call, event: Event, usage: Usage) -> tuple[UsageForecast, Observation] | None:
    """Return the observation for the forecast of like calls; None if the provider's count is
    incomplete.
    """
    if event.quality not in ("exact", "unpriced"):
        return None
    observation = Observation(
        weight_of(call.size),
        event.input_tokens,
        event.output_tokens,
        event.cost_nano,
        call.hold.use.max_tokens,
        # Only at the forecast's own prices: another model may have answered.
        event.cost_tokens_nano
        if event.price_id == call.forecast.rates.price_id and is_plain(usage)
        else None,
    )
    return call.forecast, observation
