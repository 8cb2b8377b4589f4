"""Estimate: what a call may use, what counts where nobody told, and what the next are expected by.

Without effects: `core/estimate.py` has the arithmetic, the call what it is applied to.
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
    """Return what a call may use: its worst case in a strict plan, what is expected otherwise, and
    what its request tells where that is certain.
    """
    request = call.request
    if request.declared_usage is not None:
        return _told(call, request.declared_usage)
    if call.plan.pre_call_estimate:
        return _worst_case(call)
    if request.requests > 1:
        return _many(call)
    return call.forecast.use(call.size, request.max_tokens)


def _told(call: Call, told: Usage) -> Use:
    """Return the use of a call whose request tells it: nothing has to be learned of it."""
    rates = call.resolved.rates
    usage = in_units_of(rates, told)
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
    # What a request only refers to has no bound; what was seen of it is added.
    told = most.input_tokens if request.input_tokens is None else request.input_tokens
    most = most._replace(input_tokens=told + forecast.expectation.input_extra)
    writes_cache = call.size.caches or not provider_facts(request.provider).caches_on_request
    most_nano = max(
        bound_nano(*most, forecast.rates, writes_cache=writes_cache),
        cost_of(forecast.expectation, most, forecast.rates),  # of tools, or of another model
    )
    return Use(most, most_nano, is_free=forecast.is_free)


def _many(call: Call) -> Use:
    """Return what a call that holds many requests may use: so many times what one of them does."""
    forecast, count, bound_tokens = call.forecast, call.request.requests, call.request.max_tokens
    size = call.size._replace(
        text_bytes=-(-call.size.text_bytes // count), parts=-(-call.size.parts // count)
    )
    one = forecast.use(size, None if bound_tokens is None else -(-bound_tokens // count))
    estimate = Estimate(one.estimate.input_tokens * count, one.estimate.output_tokens * count)
    return Use(estimate, one.cost_nano * count, is_free=forecast.is_free)


def estimated(call: Call, job: JobStatus | None) -> Usage:
    """Return what is booked where no usage came: what the request tells, or what was held.

    Args:
        call: Which has ended.
        job: What it has started, whose use the provider tells later; or None.
    """
    request, estimate = call.request, call.estimate
    if request.declared_usage is not None:
        usage = in_units_of(call.resolved.rates, request.declared_usage)
    else:
        told = request.input_tokens
        usage = Usage(estimate.input_tokens if told is None else told, estimate.output_tokens)
    if job is not None:
        usage = usage._replace(model=job.model, tier=job.tier)
    if request.requests > 1:
        usage = usage._replace(largest_input_tokens=0)
    return usage._replace(quality="estimated")


def learned(call: Call, event: Event, usage: Usage) -> tuple[UsageForecast, Observation] | None:
    """Return what the next calls like this one are expected by; None where the provider did not
    count all of it.
    """
    if event.quality not in ("exact", "unpriced"):
        return None
    taken = Observation(
        weight_of(call.size),
        event.input_tokens,
        event.output_tokens,
        event.cost_nano,
        call.hold.use.max_tokens,
        # Only of the list that the next ones are expected by: another model may have answered.
        event.cost_tokens_nano
        if event.price_id == call.forecast.rates.price_id and is_plain(usage)
        else None,
    )
    return call.forecast, taken
