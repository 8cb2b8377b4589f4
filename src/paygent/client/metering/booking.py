"""A call as records: the begin record before the provider is called, the event after it."""

from __future__ import annotations

import time

from paygent.client.metering.call import Call
from paygent.core.event import Begin, Event
from paygent.core.explain import LARGEST_INPUT
from paygent.core.pricing import Rates
from paygent.core.usage import Usage
from paygent.prices.catalogue import Catalogue
from paygent.prices.usage_cost import PriceQuery, price

_NS_PER_MS = 1_000_000


def begin_of(call: Call) -> Begin:
    """Return the begin record of a call: what is booked if the process dies before its end."""
    request, hold = call.request, call.hold
    return Begin(
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
        call.blocked,
    )


def event_of(call: Call, usage: Usage, catalogue: Catalogue) -> tuple[Event, Rates | None]:
    """Price what a call used.

    Returns:
        Its event, and the rates that it was priced with; None where nothing was priced.
    """
    request, plan = call.request, call.plan
    provider = usage.provider or request.provider
    # A gateway's answer may come from another provider than the one that was called.
    resolved = call.resolved if provider == request.provider else None
    priced = price(
        catalogue, PriceQuery(provider, request.model, plan, call.at_us, resolved), usage
    )
    tools = usage.tool_calls if plan.tool_costs_nano else ()
    charged = tuple(name for name in tools if name in plan.tool_costs_nano)
    details = priced.details
    if usage.largest_input_tokens >= 0:
        details = {**(details or {}), LARGEST_INPUT: usage.largest_input_tokens}
    # By position: keywords cost a microsecond, and this runs in every call.
    event = Event(
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
    return event, priced.rates
