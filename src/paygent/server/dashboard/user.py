"""One user: how much of each limit is used and until when it lasts, and every call behind it.

The tabs of the page share its range and filters: limits with usage by day and model; calls, each of
which opens to its price; sessions; gate events; and what can be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final, NamedTuple, get_args

from starlette.responses import Response

from paygent.core.event import Event
from paygent.core.explain import Explanation, explain, rates_from_json
from paygent.core.gate import thresholds_of
from paygent.core.limit import Limit
from paygent.core.messages import BookedEvent
from paygent.core.money import format_usd
from paygent.core.period import END_OF_TIME_US, day_in_zone, start_of_day
from paygent.core.pricing import PARTS_PER_NANO
from paygent.core.usage import Quality
from paygent.core.validation import NAME_CHARS_MAX
from paygent.core.wording import exact_amount, quantity_of, rate
from paygent.server.api.user_state import LimitState, UserState, read_user_state
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.dashboard.overview import chart_of, chart_unit
from paygent.server.dashboard.render import page
from paygent.server.dashboard.state import NONE_TEXT
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.problems import invalid, not_found
from paygent.store.dashboard_port import CallFilter
from paygent.store.directory_port import GateEventFilter, StoredPlan

CALLS = 100
GATES = 50
SESSIONS = 100

TABS: Final[Mapping[str, str]] = {
    "limits": "Limits and usage",
    "calls": "Calls",
    "sessions": "Sessions",
    "gates": "Warnings and refusals",
    "manage": "Manage",
}

_GAUGE_WIDTH = 600


class Gauge(NamedTuple):
    """A limit of the user as a bar.

    Attributes:
        state: The limit, its use and its forecast.
        name: What is limited, in words.
        width: Of the used part, in units of the drawing of 600; at most all of it.
        warn_x, block_x: Where calls are warned of and refused.
        is_warned: Whether the warn line is passed.
        share: Used part of the cap; None for a cap of 0, or where sessions have accounts of
            their own.
        add: A suggestion for a raise, in the limit's unit.
        until: The day until which a raise lasts unless another is chosen.
        resets_us: When the limit starts again; None if it never does.
    """

    state: LimitState
    name: str
    width: float
    warn_x: float
    block_x: float
    is_warned: bool
    share: float | None
    add: str
    until: date
    resets_us: int | None

    @property
    def is_money(self) -> bool:
        """Whether its figures are nano-dollars."""
        return self.state.limit.metric == "spend"


async def show_user(visit: MemberVisit) -> Response:
    """Show a user: the tab that the address names."""
    user_id = user_id_of(visit.query)
    tab = visit.text("tab", "limits")
    if tab not in TABS:
        raise invalid("tab", tab, f"must be one of {', '.join(TABS)}")
    now_us = visit.tenant.now_us()
    state = await visit.tenant.backend.in_store(
        read_user_state,
        *(visit.store, visit.tenant.product, user_id, now_us),
        with_limits=True,
    )
    if state is None:
        raise not_found("user")
    return await page(
        visit,
        "user.html",
        user=state.user,
        of=state,
        tab=tab,
        tabs=TABS,
        keep={"id": user_id, "tab": tab},
        **await _READERS[tab](visit, state),
    )


def user_id_of(values: Mapping[str, str]) -> str:
    """Return the user of an address or a form.

    Raises:
        Problem: There is none.
    """
    user_id = values.get("id", "")
    if not user_id or len(user_id) > NAME_CHARS_MAX or "\0" in user_id:
        raise invalid("id", user_id, f"must be a user's id of 1 to {NAME_CHARS_MAX} characters")
    return user_id


# -- tabs


async def _limits(visit: MemberVisit, of: UserState) -> dict[str, Any]:
    user_id = of.user.user_id
    is_whole = not {"model", "provider", "plan"} & visit.state.where.keys()
    margin = None
    if is_whole:  # of one user it is read at once, so no snapshot is needed
        asked = visit.margin_request("user", 1, user=user_id)
        margin = (await visit.ask(visit.store.margin, asked)).page.total
    store = visit.store
    by_model = await visit.ask(store.spend, visit.spend_request("model", None, user=user_id))
    asked = visit.spend_request(f"{chart_unit(visit)},{visit.state.group}", None, user=user_id)
    over_time = await visit.ask(store.spend, asked)
    now_us = visit.tenant.now_us()
    return {
        "gauges": [gauge_of(each, of, visit.zone, now_us) for each in of.limits],
        "overrides": await visit.ask(store.overrides, user_id, now_us),
        "limit_in_words": limit_in_words,
        "margin": margin,
        "models": by_model.page.rows,
        "total": by_model.page.total,
        "chart": chart_of(over_time, visit),
    }


def wanted_calls(visit: MemberVisit) -> CallFilter:
    """Return which calls a page is about: its range and filters, a session and a quality.

    Raises:
        Problem: One of them is not valid.
    """
    session, quality = visit.text("session"), visit.text("quality")
    if len(session) > NAME_CHARS_MAX or "\0" in session:
        raise invalid("session", session, f"must have at most {NAME_CHARS_MAX} characters")
    if quality and quality not in get_args(Quality):
        raise invalid("quality", quality, f"must be one of {', '.join(get_args(Quality))}")
    where = visit.state.where
    return CallFilter(
        *span_of(visit),
        session_id=None if not session else "" if session == NONE_TEXT else session,
        quality=quality or None,  # type: ignore[arg-type]  # checked above
        model=where.get("model"),
        provider=where.get("provider"),
        plan=where.get("plan"),
    )


async def _calls(visit: MemberVisit, of: UserState) -> dict[str, Any]:
    wanted = wanted_calls(visit)
    if cursor := visit.text("cursor"):
        at_us, event_id = read_cursor(cursor, int, str)
        wanted = replace(wanted, before=(at_us, event_id))
    found = await visit.ask(visit.store.calls, of.user.user_id, wanted, CALLS + 1)
    calls = found[:CALLS]
    following = (calls[-1].at_us, calls[-1].event_id) if len(found) > CALLS else None
    own = {name: visit.text(name) or None for name in ("session", "quality")}
    return {
        "calls": calls,
        "cursor": following and write_cursor(*following),
        "own_filters": own,
        "is_first": not cursor,
        "qualities": get_args(Quality),
    }


async def _sessions(visit: MemberVisit, of: UserState) -> dict[str, Any]:
    start_us, end_us = span_of(visit)
    found = await visit.ask(
        visit.store.usage_of_sessions, of.user.user_id, start_us, end_us, SESSIONS + 1
    )
    return {"sessions": found[:SESSIONS], "has_more": len(found) > SESSIONS}


async def _gates(visit: MemberVisit, of: UserState) -> dict[str, Any]:
    start_us, end_us = span_of(visit)
    wanted = GateEventFilter(since_us=start_us, until_us=end_us)
    if cursor := visit.text("cursor"):
        at_us, event_id = read_cursor(cursor, int, str)
        wanted = replace(wanted, before=(at_us, event_id))
    found = await visit.ask(visit.store.gate_events, of.user.user_id, wanted, GATES + 1)
    gates = found[:GATES]
    following = (gates[-1].at_us, gates[-1].gate_event_id) if len(found) > GATES else None
    return {"gates": gates, "cursor": following and write_cursor(*following)}


async def _manage(visit: MemberVisit, of: UserState) -> dict[str, Any]:
    plans: tuple[StoredPlan, ...] = await visit.ask(visit.store.plans)
    return {"plans": [plan.name for plan in plans], "has_own_plan": of.user.own is not None}


_READERS: Mapping[str, Callable[..., Any]] = {
    "limits": _limits,
    "calls": _calls,
    "sessions": _sessions,
    "gates": _gates,
    "manage": _manage,
}


def span_of(visit: MemberVisit) -> tuple[int, int]:
    """Return the range of a page in microseconds since 1970 UTC."""
    state = visit.state
    return start_of_day(state.start, visit.zone), start_of_day(state.end, visit.zone)


# -- gauges


def limit_in_words(limit: Any) -> str:
    """Return what a limit counts, in words; for a `Limit` or its `LimitKey`."""
    counted = {"spend": "Spend", "tokens": "Tokens", "calls": "Calls"}[limit.metric]
    model = f" on {limit.model}" if limit.model else ""
    if limit.scope == "session" or limit.window == "session":
        return f"{counted}{model} per session"
    spans = {"period": "this billing period", "day": "today (UTC)"}
    return f"{counted}{model}, {spans.get(limit.window, limit.window)}"


def gauge_of(state: LimitState, of: UserState, zone: str, now_us: int) -> Gauge:
    """Return the bar of a limit."""
    cap = state.limit.cap_exact or 0
    plan = of.plan
    lines = thresholds_of(cap, soft_gate_ppm=plan.soft_gate_ppm, hard_gate_ppm=plan.hard_gate_ppm)
    whole = max(cap, lines.block, 1)
    resets_us = state.account.end_us if state.account is not None else of.period.end_us
    ends_us = of.period.end_us if resets_us == END_OF_TIME_US else resets_us
    until = date.fromisoformat(day_in_zone(max(ends_us, now_us), zone))
    if start_of_day(until, zone) < ends_us:
        until += timedelta(days=1)
    return Gauge(
        state=state,
        name=limit_in_words(state.limit),
        width=round(min(state.spent / whole, 1) * _GAUGE_WIDTH, 1),
        warn_x=round(lines.warn / whole * _GAUGE_WIDTH, 1),
        block_x=round(lines.block / whole * _GAUGE_WIDTH, 1),
        is_warned=state.account is not None and state.spent >= lines.warn,
        share=state.spent / cap if cap and state.account is not None else None,
        add=_suggested(state.limit),
        until=until,
        resets_us=None if resets_us == END_OF_TIME_US else resets_us,
    )


def _suggested(limit: Limit) -> str:
    """Return half of a cap, as a raise that is large enough to matter."""
    half = max((limit.cap_exact or 0) // 2, 1)
    if limit.metric != "spend":
        return str(half)
    return f"{max(half, 10**7) / 10**9:.2f}"


# -- one call


class Component(NamedTuple):
    """A line of a call's price: quantity times price.

    Attributes:
        name: Of the component.
        quantity, price, amount: As text; the amount is unrounded.
    """

    name: str
    quantity: str
    price: str
    amount: str


async def show_call(visit: MemberVisit) -> Response:
    """Show one call of a user, with the formula of its price."""
    user_id = user_id_of({"id": visit.text("user")})
    booked = await visit.ask(visit.store.event, visit.text("id"))
    if booked is None or booked.event.user_id != user_id:
        raise not_found("call")
    event: Event = booked.event
    explanation = _explanation(booked)
    corrected_nano = event.cost_nano + sum(each.cost_nano for each in booked.corrections)
    return await page(
        visit,
        "call.html",
        event=event,
        corrections=booked.corrections,
        corrected_nano=corrected_nano,
        explanation=explanation,
        components=[] if explanation is None else _components(explanation),
        prices=booked.prices,
        is_right=explanation is None or explanation.cost_nano == event.cost_tokens_nano,
    )


def _explanation(booked: BookedEvent) -> Explanation | None:
    """Return the arithmetic of a call; None where its cost does not follow from a price list."""
    event = booked.event
    if booked.prices is None or event.cost_explicit or event.corrects is not None:
        return None
    return explain(event, rates_from_json(event.price_id, booked.prices))


def _components(explanation: Explanation) -> list[Component]:
    lines = []
    for line in explanation.lines:
        name = "audio" if line.component == "audio_hour" else line.component.replace("_", " ")
        price = rate(line.component, line.price_pico)
        lines.append(Component(name, quantity_of(line), price, exact_amount(line.amount)))
    if explanation.others_nano:
        others = format_usd(explanation.others_nano, decimals=9)
        lines.append(Component("other models", "", "by their own lists", others))
    total = explanation.amount + explanation.others_nano * PARTS_PER_NANO
    lines.append(Component("sum", "", "", exact_amount(total)))
    return lines
