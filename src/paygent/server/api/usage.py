"""A user's usage in a span of days, by model, session or day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Query

from paygent.core.money import to_usd
from paygent.core.period import Window, billing_period, calendar_month, day_in_zone
from paygent.core.report import Figures
from paygent.core.report_request import month_in_zone, read_request
from paygent.server.api import schemas
from paygent.server.api.parameters import (
    TimeQuery,
    UserPath,
    read_moment,
)
from paygent.server.api.shapes import period_of, time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import invalid, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import StoredUser, UsageOfSession

router = api_router()

SESSIONS_MAX = 500
_YEARS_MAX = 10
_YEAR_US = 366 * 86_400 * 10**6

SpanName = Literal["current_month", "previous_month", "current_period"]
Breakdown = Literal["model", "session", "day"]


class Sums(NamedTuple):
    """Calls, tokens and nano-dollars."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0


@router.get("/users/{user_id}/usage", openapi_extra=needs("sdk"), tags=["usage"])
async def show_usage(
    user_id: UserPath,
    period: SpanName = "current_month",
    breakdown: Breakdown = "model",
    since: Annotated[TimeQuery, Query(alias="from")] = None,
    to: TimeQuery = None,
    tenant: Tenant = ForTenant,
) -> schemas.Usage:
    """Return a user's usage on whole days of the product's time zone.

    `from` (inclusive) and `to` (exclusive) replace `period`; a time within a day stands for its
    whole day. Of sessions, the 500 that were used last are listed.
    """
    store = tenant.store
    user = await tenant.ask(store.user, user_id)
    product = await tenant.ask(store.product)
    if user is None or product is None:
        raise not_found("user")
    zone = product.timezone
    span = _span(period, since, to, user, zone, tenant.now_us())
    by = "day" if breakdown == "session" else breakdown
    asked = read_request({"by": by, "user": user_id, **_days(span, zone)})
    page = (await tenant.ask(store.spend, asked)).page
    if breakdown == "session":
        sessions = await tenant.ask(
            store.usage_of_sessions, user_id, span.start_us, span.end_us, SESSIONS_MAX
        )
        rows = [_session_row(session) for session in sessions]
    else:
        rows = [_row(breakdown, row.keys[0], row.figures) for row in page.rows]
    return schemas.Usage(
        user_id=user_id,
        period=period_of(span),
        timezone=zone,
        breakdown=breakdown,
        rows=rows,
        **_shape(_sums(page.total)),
    )


def _days(span: Window, zone: str) -> dict[str, date]:
    """Return the whole days of a span of time, as times of a report."""
    last = date.fromisoformat(day_in_zone(span.end_us - 1, zone))
    first = date.fromisoformat(day_in_zone(span.start_us, zone))
    return {"start": first, "end": last + timedelta(days=1)}


def _row(breakdown: Literal["model", "day"], key: str, figures: Figures) -> schemas.UsageRow:
    named: dict[str, Any] = {breakdown: key or None}
    return schemas.UsageRow(**named, **_shape(_sums(figures)))


def _session_row(session: UsageOfSession) -> schemas.UsageRow:
    return schemas.UsageRow(
        session_id=session.session_id or None,
        last_call_at=time_of(session.last_us),
        **_shape(_sums(session)),
    )


def _sums(row: Figures | UsageOfSession) -> Sums:
    return Sums(row.calls, row.input_tokens, row.output_tokens, row.cost_nano)


def _shape(sums: Sums) -> dict[str, Any]:
    return {
        **sums._asdict(),
        "total_tokens": sums.input_tokens + sums.output_tokens,
        "cost": to_usd(sums.cost_nano),
    }


def _span(
    name: SpanName, since: str | None, to: str | None, user: StoredUser, zone: str, now_us: int
) -> Window:
    """Return the span of time of a request.

    Raises:
        Problem: It is no span.
    """
    if since is None and to is None:
        if name == "current_period":
            return billing_period(user.subscription, now_us) or calendar_month(now_us)
        today = date.fromisoformat(day_in_zone(now_us, zone))
        return month_in_zone(zone, today, is_previous=name == "previous_month")
    end_us = now_us if to is None else read_moment("to", to, zone)
    if since is None:
        raise invalid("from", None, "is required with to")
    start_us = read_moment("from", since, zone)
    if start_us >= end_us:
        raise invalid("to", to, "must be after from")
    if end_us - start_us > _YEARS_MAX * _YEAR_US:
        raise invalid("to", to, f"must be at most {_YEARS_MAX} years after from")
    return Window(start_us, end_us)
