"""Revenue: payments of users, for margins."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from paygent.core.money import CAP_NANO_MAX, NANO_PER_USD, scale, to_usd
from paygent.core.period import END_OF_TIME_US
from paygent.core.validation import ValidationErrors
from paygent.server.api import schemas
from paygent.server.api.parameters import (
    CursorQuery,
    LimitQuery,
    TextQuery,
    TimeQuery,
    read_moment,
)
from paygent.server.api.shapes import accepted, time_of
from paygent.server.api.user_state import UserState, read_user_state
from paygent.server.backend import ForTenant, Tenant
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import RevenueEntry

router = api_router()

PLAN_PRICE = "plan_price"
"""Source of a figure that stands in where a user has no entry for their billing period."""


@router.post("/revenue", openapi_extra=needs("admin"), tags=["revenue"])
async def add_revenue(
    revenue: schemas.RevenueBatch, tenant: Tenant = ForTenant
) -> schemas.Accepted:
    """Store payments and refunds, each id once."""
    entries = _read_entries(revenue)
    new = await tenant.ask(tenant.store.add_revenue, entries) if entries else frozenset()
    return accepted(((each.user_id, each.revenue_id) for each in entries), new)


@router.get("/revenue", openapi_extra=needs("admin"), tags=["revenue"])
async def list_revenue(
    user_id: TextQuery = None,
    since: Annotated[TimeQuery, Query(alias="from")] = None,
    to: TimeQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
    tenant: Tenant = ForTenant,
) -> schemas.RevenuePage:
    """Return revenue by the start of its period, from `from` (inclusive) to `to` (exclusive).

    With a `user_id`, the plan's price stands in for a current billing period without an entry;
    its source is `plan_price`.
    """
    after = None if cursor is None else read_cursor(cursor, int, str, str)
    start_us = 0 if since is None else read_moment("from", since)
    end_us = END_OF_TIME_US if to is None else read_moment("to", to)
    entries = await tenant.ask(
        tenant.store.revenue,
        user_id=user_id,
        start_us=start_us,
        end_us=end_us,
        after=None if after is None else (after[0], after[1], after[2]),
        entries_max=limit + 1,
    )
    page = list(entries[:limit])
    last = page[-1] if len(entries) > limit else None
    if user_id is not None and cursor is None and last is None:
        now_us = tenant.now_us()
        state = await tenant.backend.in_store(
            read_user_state, tenant.store, tenant.product, user_id, now_us
        )
        price = None if state is None else _plan_price(state, page, now_us)
        if price is not None and start_us <= price.period_start_us < end_us and len(page) < limit:
            page.append(price)
    return schemas.RevenuePage(
        revenue=[_shape(entry) for entry in page],
        next_cursor=None
        if last is None
        else write_cursor(last.period_start_us, last.user_id, last.revenue_id),
    )


def _plan_price(state: UserState, entries: list[RevenueEntry], now_us: int) -> RevenueEntry | None:
    """Return the plan's price for the current period, if no entry covers this moment."""
    price_nano = state.plan.price_nano
    if price_nano is None:
        return None
    if any(each.period_start_us <= now_us < each.period_end_us for each in entries):
        return None
    start_us, end_us = state.period
    key, user_id = f"{PLAN_PRICE}:{start_us}", state.user.user_id
    return RevenueEntry(key, user_id, price_nano, "payment", start_us, end_us, PLAN_PRICE)


def _read_entries(revenue: list[schemas.NewRevenue]) -> list[RevenueEntry]:
    """Return the entries of a request; refunds are negative.

    Raises:
        InvalidValue: Names every field that breaks a rule.
    """
    errors = ValidationErrors("revenue")
    entries = []
    for number, given in enumerate(revenue):
        if not 0 <= given.amount <= CAP_NANO_MAX // NANO_PER_USD:
            errors.add(f"revenue[{number}].amount", given.amount, "must be from 0 to 9·10⁹ dollars")
            continue
        if given.period_end <= given.period_start:
            end = time_of(given.period_end)
            errors.add(f"revenue[{number}].period_end", end, "must be after period_start")
        amount_nano = scale(given.amount, NANO_PER_USD)
        entries.append(
            RevenueEntry(
                revenue_id=given.id,
                user_id=given.user_id,
                amount_nano=-amount_nano if given.kind == "refund" else amount_nano,
                kind=given.kind,
                period_start_us=given.period_start,
                period_end_us=given.period_end,
                source=given.source,
            )
        )
    errors.raise_if_any()
    return entries


def _shape(entry: RevenueEntry) -> schemas.Revenue:
    amount_nano = abs(entry.amount_nano)
    return schemas.Revenue(
        id=entry.revenue_id,
        user_id=entry.user_id,
        amount=to_usd(amount_nano),
        amount_nano=amount_nano,
        currency="USD",
        period_start=time_of(entry.period_start_us),
        period_end=time_of(entry.period_end_us),
        kind=entry.kind,
        source=entry.source,
    )
