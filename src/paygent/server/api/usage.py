"""A user's usage in a span of days, by model, session or day."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from fastapi import Query

from paygent.core.money import to_usd
from paygent.core.period import Window, billing_period, calendar_month, day_in_zone
from paygent.server.api import schemas
from paygent.server.api.parameters import (
    TimeQuery,
    UserPath,
    read_moment,
    start_of_day,
)
from paygent.server.api.shapes import period_of, time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import invalid, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import StoredUser, UsageOfDay, UsageOfSession

router = api_router()

SESSIONS_MAX = 500
_YEARS_MAX = 10
_YEAR_US = 366 * 86_400 * 10**6

SpanName = Literal["current_month", "previous_month", "current_period"]
Breakdown = Literal["model", "session", "day"]


class _Figures(Protocol):
    """The sums that days and sessions have."""

    @property
    def calls(self) -> int: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cost_nano(self) -> int: ...


class Sums(NamedTuple):
    """Calls, tokens and nano-dollars."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0

    def plus(self, other: _Figures) -> Sums:
        """Return the sums with those of a row added."""
        return Sums(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_nano + other.cost_nano,
        )


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
    days = await tenant.ask(store.usage_of_user, user_id, span.start_us, span.end_us)
    total = _sum(days)
    if breakdown == "session":
        sessions = await tenant.ask(
            store.usage_of_sessions, user_id, span.start_us, span.end_us, SESSIONS_MAX
        )
        rows = [_session_row(session) for session in sessions]
    else:
        rows = _rows(days, breakdown)
    return schemas.Usage(
        user_id=user_id,
        period=period_of(span),
        timezone=zone,
        breakdown=breakdown,
        rows=rows,
        **_shape(total),
    )


def _rows(days: Iterable[UsageOfDay], breakdown: Literal["model", "day"]) -> list[schemas.UsageRow]:
    """Return usage by model, dearest first, or by day, oldest first."""
    sums: dict[str, Sums] = {}
    for each in days:
        key = each.model if breakdown == "model" else each.day
        sums[key] = sums.get(key, Sums()).plus(each)
    by_cost: Callable[[tuple[str, Sums]], Any] = lambda row: (-row[1].cost_nano, row[0])  # noqa: E731
    ordered = sorted(sums.items(), key=by_cost if breakdown == "model" else None)
    if breakdown == "model":
        return [schemas.UsageRow(model=key or None, **_shape(row)) for key, row in ordered]
    return [schemas.UsageRow(day=key, **_shape(row)) for key, row in ordered]


def _session_row(session: UsageOfSession) -> schemas.UsageRow:
    return schemas.UsageRow(
        session_id=session.session_id or None,
        last_call_at=time_of(session.last_us),
        **_shape(Sums().plus(session)),
    )


def _sum(days: Iterable[UsageOfDay]) -> Sums:
    total = Sums()
    for each in days:
        total = total.plus(each)
    return total


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
        return _month(zone, now_us, is_previous=name == "previous_month")
    end_us = now_us if to is None else read_moment("to", to, zone)
    if since is None:
        raise invalid("from", None, "is required with to")
    start_us = read_moment("from", since, zone)
    if start_us >= end_us:
        raise invalid("to", to, "must be after from")
    if end_us - start_us > _YEARS_MAX * _YEAR_US:
        raise invalid("to", to, f"must be at most {_YEARS_MAX} years after from")
    return Window(start_us, end_us)


def _month(zone: str, now_us: int, *, is_previous: bool) -> Window:
    """Return the calendar month of a time, or the one before, in a time zone."""
    first = date.fromisoformat(day_in_zone(now_us, zone)).replace(day=1)
    if is_previous:
        first = (first - timedelta(days=1)).replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return Window(start_of_day(first, zone), start_of_day(following, zone))
