"""`paygent explain`: how the cost of one event was computed, and which limits count it.

Only reads the store, as all commands do, so it may be run while the application that uses the store
is running.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from paygent.cli.options import CommandError, opened, read_place
from paygent.cli.output import Column, open_console, print_line, print_table
from paygent.client.accounts.account_lookup import account_key
from paygent.core.event import HELD, Event
from paygent.core.explain import BILLED, Explanation, explain, rates_from_json
from paygent.core.messages import BookedEvent, Question
from paygent.core.money import format_usd
from paygent.core.period import billing_period, to_datetime
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.plan_json import plan_from_json
from paygent.core.pricing import PARTS_PER_NANO
from paygent.core.wording import day, exact_amount, quantity_of, rate
from paygent.prices.model_names import plain
from paygent.store.outage import namespace_of
from paygent.store.sqlite import SqliteStore

_COST_COLUMNS = (
    Column("component"),
    Column("count", is_number=True),
    Column("rate", is_number=True),
    Column("amount", is_number=True),
)
_LIMIT_COLUMNS = (
    Column("counts to"),
    Column("window"),
    Column("spent there", is_number=True),
    Column("cap today", is_number=True),
    Column("share", is_number=True),
)


class _Table(NamedTuple):
    """Rows that are printed between the lines of an explanation."""

    columns: tuple[Column, ...]
    rows: list[tuple[str, ...]]


def run(event_id: str, db: str | None, product: str | None, environ: Mapping[str, str]) -> int:
    """Print the explanation of an event; return the exit status."""
    place = read_place(db, product, environ)
    with opened(place) as store:
        product = place.product
        booked = store.event(product, event_id)
        if booked is None and (kept := namespace_of(store, product)) is not None:
            product, booked = kept, store.event(kept, event_id)  # a backend does not have it yet
        if booked is None:
            raise CommandError(
                f"no such event: {event_id!r} in product {place.product!r} of {place.db_path} "
                "(a running application delivers within a second; --product and --db select others;"
                " what a backend has is not kept here)"
            )
        limits = list(_limits(store, product, booked.event))
    is_right, lines = _arithmetic(booked)  # before any output, in case it raises
    console = open_console(environ)
    for part in (*_head(booked.event), *lines, *_corrected(booked)):
        if isinstance(part, str):
            print_line(console, part)
        else:
            print_table(console, *part)
    if limits:
        print_table(console, _LIMIT_COLUMNS, limits)
    return 0 if is_right else 1


def _head(event: Event) -> Iterator[str]:
    """Yield the lines that identify the event."""
    yield f"event      {event.event_id}"
    yield f"user       {event.user_id}"
    yield f"session    {event.session_id or '-'}"
    yield f"at         {to_datetime(event.at_us).isoformat(timespec='milliseconds')}"
    model = event.model or "-"
    named = f" (counts as {event.model_key})" if event.model_key != event.model else ""
    yield f"model      {model}{named}{f', {event.provider}' if event.provider else ''}"
    yield f"plan       {event.plan}"
    reason = f" ({event.gate_reason})" if event.gate_reason else ""
    blocked = f", blocked{reason}" if event.blocked else ""
    yield f"quality    {event.quality}, {event.source}{blocked}"
    if event.description:
        yield f"for        {event.description}"
    if event.corrects is not None:
        yield f"corrects   {event.corrects}"


def _arithmetic(booked: BookedEvent) -> tuple[bool, list[str | _Table]]:
    """Return whether the event's cost follows from its price list, and the lines that show it."""
    event = booked.event
    # Costs from outside of any price list have no arithmetic to check.
    cost = format_usd(event.cost_nano, decimals=9)
    if event.cost_explicit:
        return True, [f"cost       {cost}, as passed to record_event"]
    if event.price_id.startswith(BILLED):
        return True, [f"cost       {cost}, as billed by {event.provider}"]
    if HELD in (event.details or {}):
        held = f"{event.input_tokens:,} input, {event.output_tokens:,} output"
        reason = f"booked at its hold ({held}): the end of the call was never recorded"
        return True, [f"estimate   {reason}", f"prices     {event.price_id}", f"booked     {cost}"]
    lines: list[str | _Table] = []
    is_right, is_assumed = True, False
    if booked.prices is not None and event.corrects is None:
        rates = rates_from_json(event.price_id, booked.prices)
        explanation = explain(event, rates)
        lines += [_source(event.price_id, rates.as_of, explanation), _cost_table(explanation)]
        is_right = explanation.cost_nano == event.cost_tokens_nano
        is_assumed = bool(explanation.assumed)
        if is_assumed:
            lines.append(f"assumed    this list lacks {', '.join(explanation.assumed)}")
        if not is_right:
            booked_cost = format_usd(event.cost_tokens_nano, decimals=9)
            lines.append(f"MISMATCH   booked {booked_cost}; the recomputed cost differs")
    elif event.corrects is not None:
        at = f"by {event.price_id}" if event.source == "auto" else "at the original's prices"
        lines.append(f"difference {_difference(event)}, {at}")
    elif event.price_id:
        lines.append(f"prices     {event.price_id}: this list was not stored")
    elif event.quality == "unpriced":
        lines.append("prices     no price for this model: its tokens are counted, its cost is 0")
    if event.quality == "estimated" and not is_assumed:
        lines.append("estimate   no usage was reported: estimated from the request, or its hold")
    if event.tool_calls:
        tools = format_usd(event.cost_tools_nano, decimals=9)
        lines.append(f"tools      {', '.join(event.tool_calls)}: {tools} at the plan's rates")
    lines.append(f"booked     {cost}")
    return is_right, lines


def _source(price_id: str, as_of: str, explanation: Explanation) -> str:
    text = f"prices     {price_id}" + (f", as of {as_of}" if as_of else "")
    if explanation.tier_above is not None:
        text += f", tier above {explanation.tier_above:,} input tokens"
    return text


def _cost_table(explanation: Explanation) -> _Table:
    rows: list[tuple[str, ...]] = []
    for line in explanation.lines:
        is_audio = line.component == "audio_hour"  # counted in milliseconds, priced per hour
        name = "audio" if is_audio else line.component
        price = rate(line.component, line.price_pico)
        rows.append((name, quantity_of(line), price, exact_amount(line.amount)))
    # Work of other models is priced by their own lists and already rounded.
    if explanation.others_nano:
        others = format_usd(explanation.others_nano, decimals=9)
        rows.append(("other models", "", "by their own lists", others))
    total = explanation.amount + explanation.others_nano * PARTS_PER_NANO
    rows.append(("sum", "", "", exact_amount(total)))
    rounded = format_usd(explanation.cost_nano, decimals=9)
    rows.append(("rounded once, half to even", "", "", rounded))
    return _Table(_COST_COLUMNS, rows)


def _corrected(booked: BookedEvent) -> Iterator[str]:
    """Yield the corrections of the event, and the total."""
    for correction in booked.corrections:
        cost = format_usd(correction.cost_nano, decimals=9)
        reason = f": {correction.description}" if correction.description else ""
        yield f"corrected  {cost}, {_difference(correction)} by {correction.event_id}{reason}"
    if booked.corrections:
        corrections_nano = sum(correction.cost_nano for correction in booked.corrections)
        total = booked.event.cost_nano + corrections_nano
        yield f"total      {format_usd(total, decimals=9)}"


def _difference(correction: Event) -> str:
    return f"{correction.input_tokens:+,} input, {correction.output_tokens:+,} output"


def _limits(store: SqliteStore, product: str, event: Event) -> Iterator[tuple[str, ...]]:
    """Yield a row for each limit of the user's current plan that counts the event."""
    now_us = time.time_ns() // 1_000
    question = Question(event.user_id, (), event.period_start_us)
    answer = store.read(product, (question,), now_us)
    user = answer.users[event.user_id]
    document = user.own  # the user's own version overrides the named plan
    if document is None:
        named = answer.plans.get(user.plan or event.plan)
        document = named[1] if named is not None else None
    plan = plan_from_json(document) if document is not None else PlanConfig()
    # The period in which the event was counted, not the current one.
    period = billing_period(user.subscription, event.at_us)
    if period is None:
        return
    keys = {}
    for limit in limits_of(plan):
        if limit.model is None or plain(limit.model) in (event.model_key, event.model):
            key = account_key(limit.key, period, event.session_id, event.at_us)
            if key.counts(event) and (limit.scope != "session" or event.session_id):
                keys[key] = limit
    # Asked again, now with the accounts that the plan's limits lead to.
    question = Question(event.user_id, tuple(keys), event.period_start_us)
    spent = store.read(product, (question,), now_us).users[event.user_id].spent
    for key, limit in keys.items():
        used, cap = spent[key], limit.cap_exact or 0
        share = f"{used * 100 / cap:.1f} %" if cap else "-"
        window = (
            limit.window
            if limit.window != "period"
            else f"{day(key.start_us)} to {day(key.end_us)}"
        )
        amounts = _amount(used, limit.metric), _amount(cap, limit.metric)
        yield (limit.key.reason, window, *amounts, share)


def _amount(value: int, metric: str) -> str:
    return format_usd(value, decimals=6) if metric == "spend" else f"{value:,} {metric}"
