"""A call as records: the begin record before the provider is called, the event after it."""

from __future__ import annotations

import time

from paygent.client.accounts.user_state import Hold
from paygent.client.context.identity import Metadata
from paygent.client.metering.call import Call
from paygent.core.event import Event, differences
from paygent.core.explain import LARGEST_INPUT
from paygent.core.named_values import values_of
from paygent.core.notices import Notice
from paygent.core.pricing import Rates
from paygent.core.records import (
    COUNT_MAX,
    TAIL_BYTES_MAX,
    Answerer,
    LaneFacts,
    end_record,
    event_of_begin,
    event_of_end,
    figures_of,
    pack_begin,
    with_tail,
)
from paygent.core.usage import Usage
from paygent.failopen import diagnostics
from paygent.prices.catalogue import Catalogue
from paygent.prices.usage_cost import PriceQuery, price

NS_PER_MS = 1_000_000


def begin_record(hold: Hold, metadata: Metadata = None, *, gate_reason: str = "") -> bytes:
    """Return the begin record of a call: what is booked if the process dies before its end."""
    lane = hold.lane
    sizes = min(hold.weight, COUNT_MAX), min(hold.max_tokens, COUNT_MAX)
    record = pack_begin(lane.number, hold.seq, hold.at_us, *sizes)
    if hold.use is None and not metadata and not gate_reason:
        return record
    plain = event_of_begin(lane.facts, hold.seq, hold.at_us, *sizes)
    event = _at_hold(hold, plain)._replace(
        metadata=metadata, blocked=bool(gate_reason), gate_reason=gate_reason
    )
    return with_tail(record, differences(event, plain))


def estimated_event(call: Call) -> Event:
    """Return the event of a call that is booked at what it holds."""
    hold = call.hold
    plain = event_of_begin(hold.lane.facts, hold.seq, hold.at_us, 0, 0)
    return _at_hold(hold, plain)._replace(
        metadata=call.identity.metadata,
        blocked=bool(call.gate_reason),
        gate_reason=call.gate_reason,
    )


def _at_hold(hold: Hold, plain: Event) -> Event:
    use = hold.use_now()
    return plain._replace(
        input_tokens=use.estimate.input_tokens,
        output_tokens=use.estimate.output_tokens,
        cost_tokens_nano=use.cost_nano,
    )


def event_record(call: Call, event: Event) -> bytes:
    """Return the end record of a call with its event."""
    lane = call.lane
    number, facts, seq = lane.number, lane.facts, call.hold.seq
    answerer = lane.answerers.get(event.model, 0)
    try:
        return end_record(number, facts, seq, event, answerer)
    except ValueError:  # names of tool calls are all that has no bound; what they cost stays
        size = sum(map(len, event.tool_calls))
        diagnostics.warn_once(Notice.RECORD_TOO_LARGE, size, TAIL_BYTES_MAX)
        return end_record(number, facts, seq, event._replace(tool_calls=()), answerer)


def event_of(call: Call, usage: Usage, catalogue: Catalogue) -> tuple[Event, Rates | None]:
    """Price what a call used.

    Returns:
        Its event, and the rates that it was priced with; None where nothing was priced.
    """
    request, plan, lane, hold = call.request, call.plan, call.lane, call.hold
    provider = usage.provider or request.provider
    # A gateway's answer may come from another provider than the one that was called.
    resolved = lane.resolved if provider == request.provider else None
    priced = price(
        catalogue, PriceQuery(provider, request.model, plan, hold.at_us, resolved), usage
    )
    tools = usage.tool_calls if plan.tool_costs_nano else ()
    charged = tuple(name for name in tools if name in plan.tool_costs_nano)
    details = priced.details
    if usage.largest_input_tokens >= 0:
        details = {**(details or {}), LARGEST_INPUT: usage.largest_input_tokens}
    # By position: keywords cost a microsecond, and this runs in every call.
    event = Event(
        call.event_id,
        lane.user.user_id,
        lane.session_id,
        hold.at_us,
        priced.model,
        priced.model_key,
        provider,
        lane.plan_name,
        lane.period.start_us,
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
        (time.perf_counter_ns() - hold.started_ns) // NS_PER_MS,
        bool(call.gate_reason),
        False,
        charged,
        None,
        call.identity.metadata,
        details,
        call.gate_reason,
    )
    return event, priced.rates


def is_reproducible(event: Event, facts: LaneFacts, answerer: Answerer) -> bool:
    """Return whether the event of a call follows from its figures, if this model has answered."""
    figures = figures_of(event, 0)
    plain = event_of_end(facts._replace(answerers=(answerer,)), 0, event.at_us, figures)
    return event == plain._replace(
        event_id=event.event_id,
        metadata=event.metadata,
        blocked=event.blocked,
        gate_reason=event.gate_reason,
    )


def plain_figures(call: Call, usage: Usage) -> tuple[int, ...] | None:
    """Return the figures of a usage from which the event of a call follows, as `Meter.finish` takes
    them; None for any other.
    """
    hold, lane = call.hold, call.lane
    answerer = lane.answerers.get(usage.model or "")
    if (
        answerer is None
        or hold.at_us >= lane.valid_until_us  # a price has changed since
        or (hold.use is not None and not lane.is_strict)
        or call.gate_reason
        or call.identity.metadata
        or call.offline_nano is not None
        or _rest_of(usage) != _NO_REST
        or usage.input_tokens + usage.output_tokens > COUNT_MAX
    ):
        return None
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        answerer,
    )


_IN_FIGURES = {
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "model",
}
_rest_of = values_of(Usage, [name for name in Usage._fields if name not in _IN_FIGURES])
_NO_REST = _rest_of(Usage())
