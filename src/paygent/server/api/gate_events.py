"""Gate events: calls that reached a gate, in batches, and those of a user."""

from __future__ import annotations

from typing import Any, Literal

from paygent.core.event_json import CLOCK_SKEW_MAX_US, bounded_metadata
from paygent.core.messages import GateEvent
from paygent.core.money import decimal_text
from paygent.server.api import schemas
from paygent.server.api.parameters import (
    CursorQuery,
    LimitQuery,
    ReasonQuery,
    TimeQuery,
    UserPath,
    read_moment,
)
from paygent.server.api.shapes import accepted, time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.problems import not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import GateEventFilter

router = api_router()

_PPM = 10**6


@router.post("/gate-events/batch", openapi_extra=needs("sdk"), tags=["events"])
async def add_gate_events(
    events: schemas.GateEvents, tenant: Tenant = ForTenant
) -> schemas.Accepted:
    """Store gate events, each id once."""
    now_us = tenant.now_us()
    read = [_gate_event(given, now_us) for given in events]
    new = await tenant.ask(tenant.store.add_gate_events, read) if read else frozenset()
    return accepted(((each.user_id, each.gate_event_id) for each in read), new)


@router.get("/users/{user_id}/gate-events", openapi_extra=needs("sdk"), tags=["events"])
async def list_gate_events(
    user_id: UserPath,
    status: Literal["soft_gate", "hard_gate"] | None = None,
    gate_reason: ReasonQuery = None,
    blocked_only: bool = False,
    since: TimeQuery = None,
    until: TimeQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
    tenant: Tenant = ForTenant,
) -> schemas.GateEventPage:
    """Return a user's gate events, newest first."""
    store = tenant.store
    if await tenant.ask(store.user, user_id) is None:
        raise not_found("user")
    before = None if cursor is None else read_cursor(cursor, int, str)
    wanted = GateEventFilter(
        status=status,
        gate_reason=gate_reason,
        blocked_only=blocked_only,
        since_us=None if since is None else read_moment("since", since),
        until_us=None if until is None else read_moment("until", until),
        before=None if before is None else (before[0], before[1]),
    )
    events = await tenant.ask(store.gate_events, user_id, wanted, limit + 1)
    page = events[:limit]
    last = page[-1] if len(events) > limit else None
    return schemas.GateEventPage(
        user_id=user_id,
        events=[_shape(event) for event in page],
        next_cursor=None if last is None else write_cursor(last.at_us, last.gate_event_id),
    )


def _gate_event(given: schemas.NewGateEvent, now_us: int) -> GateEvent:
    at_us = given.timestamp if given.timestamp <= now_us + CLOCK_SKEW_MAX_US else now_us
    return GateEvent(
        gate_event_id=given.id,
        user_id=given.user_id,
        session_id=given.session_id or "",
        at_us=at_us,
        status=given.status,
        gate_reason=given.gate_reason or "",
        model=given.model or "",
        blocked=given.blocked,
        usage_ppm=round(given.usage_pct * _PPM),
        current_value=decimal_text(given.current_value),
        limit_value=decimal_text(given.limit_value),
        message=given.message or "",
        metadata=bounded_metadata(given.metadata) if given.metadata else None,
        calls=given.calls,
    )


def _shape(event: GateEvent) -> schemas.GateEvent:
    metadata: dict[str, Any] = dict(event.metadata or {})
    return schemas.GateEvent(
        id=event.gate_event_id,
        user_id=event.user_id,
        session_id=event.session_id or None,
        timestamp=time_of(event.at_us),
        status=event.status,
        gate_reason=event.gate_reason or None,
        usage_pct=event.usage_ppm / _PPM,
        current_value=float(event.current_value),
        limit_value=float(event.limit_value),
        model=event.model or None,
        blocked=event.blocked,
        message=event.message or None,
        metadata=metadata,
        calls=event.calls,
    )
