"""Exports: what a page shows, as CSV with all rows, from the same verbs as REST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from paygent.core.event import Event
from paygent.core.money import to_usd
from paygent.core.period import END_OF_TIME_US, to_datetime
from paygent.server.api.reports import Rows, csv_answer, margin_table, spend_table
from paygent.server.dashboard.user import user_id_of, wanted_calls
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.problems import invalid, not_found
from paygent.store.dashboard_port import CallFilter
from paygent.store.ledger import SqlStore

_PAGE = 1_000
_ALL = CallFilter(0, END_OF_TIME_US)  # the range of a page is never so long
_KINDS: Final = ("spend", "margin", "calls", "all_calls")

_CALL_COLUMNS: Final = (
    "id", "timestamp", "user_id", "session_id", "model", "provider", "plan", "input_tokens",
    "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "cost_tokens",
    "cost_tools", "cost_total", "cost_nano", "quality", "source", "price_id", "latency_ms",
    "blocked", "corrects", "description",
)  # fmt: skip
"""The names of a usage event, and its exact cost."""


async def show_export(visit: MemberVisit) -> Response:
    """Answer with a file of all rows that a page is about."""
    kind = visit.text("report", "spend")
    if kind not in _KINDS:
        raise invalid("report", kind, f"must be one of {', '.join(_KINDS)}")
    tenant, by = visit.tenant, visit.text("by", "user")
    if kind == "spend":
        answer = await csv_answer(tenant, spend_table, visit.spend_request(by, None))
    elif kind == "margin":
        answer = await csv_answer(tenant, margin_table, visit.margin_request(by, None))
    else:
        user_id = user_id_of(visit.query)
        if await visit.ask(visit.store.user, user_id) is None:
            raise not_found("user")
        wanted = _ALL if kind == "all_calls" else wanted_calls(visit)
        answer = await csv_answer(tenant, calls_table, user_id, wanted)
    span = "" if kind == "all_calls" else f"_{visit.state.start}_{visit.state.last_day}"
    answer.headers["Content-Disposition"] = f'attachment; filename="paygent_{kind}{span}.csv"'
    return answer


def calls_table(product: str, store: SqlStore, user_id: str, wanted: CallFilter) -> Rows:
    """Yield the header and all calls of a user, newest first."""
    yield _CALL_COLUMNS
    for event in _all_calls(product, store, user_id, wanted):
        yield _call_row(event)


def _all_calls(product: str, store: SqlStore, user_id: str, wanted: CallFilter) -> Iterator[Event]:
    while True:
        page = store.calls(product, user_id, wanted, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        wanted = replace(wanted, before=(page[-1].at_us, page[-1].event_id))


def _call_row(event: Event) -> tuple[Any, ...]:
    return (
        event.event_id,
        to_datetime(event.at_us).isoformat(),
        event.user_id,
        event.session_id,
        event.model,
        event.provider,
        event.plan,
        event.input_tokens,
        event.output_tokens,
        event.cached_input_tokens,
        event.cache_write_tokens,
        event.reasoning_tokens,
        to_usd(event.cost_tokens_nano),
        to_usd(event.cost_tools_nano),
        to_usd(event.cost_nano),
        event.cost_nano,
        event.quality,
        event.source,
        event.price_id,
        event.latency_ms,
        event.blocked,
        event.corrects or "",
        event.description or "",
    )
