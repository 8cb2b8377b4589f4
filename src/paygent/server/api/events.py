"""Usage events in batches: the hot route. Its body is parsed once, without models."""

from __future__ import annotations

from fastapi import Request
from pydantic_core import from_json
from starlette.responses import Response

from paygent.core.event_json import EVENTS_MAX, read_events
from paygent.core.messages import Batch
from paygent.prices.model_names import canonical
from paygent.server.api import schemas
from paygent.server.api.event_schema import USAGE_EVENT
from paygent.server.api.shapes import accepted
from paygent.server.backend import ForTenant, Tenant
from paygent.server.logs import LOGGER
from paygent.server.problems import Problem, request_id_of
from paygent.server.routes import api_router, needs
from paygent.server.writer import Rejected

router = api_router()

_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "array", "items": USAGE_EVENT, "maxItems": EVENTS_MAX}
        }
    },
}


@router.post(
    "/events/batch",
    openapi_extra=needs("sdk", requestBody=_BODY),
    response_model=schemas.Accepted,
    tags=["events"],
)
async def book_events(request: Request, tenant: Tenant = ForTenant) -> Response:
    """Book usage events, each id once. If one event is invalid, none is booked.

    The answer means that they are stored durably. After any other answer, or none, send the batch
    again: events that were stored are duplicates then. An event more than five minutes ahead of
    the server's clock happened now.
    """
    given = parse_body(await request.body())
    now_us = tenant.now_us()
    events = read_events(given, now_us, canonical)
    new: frozenset[str] = frozenset()
    if events:
        new = await booked(tenant, request, Batch(events=events, at_us=now_us))
    counts = accepted(((each.user_id, each.event_id) for each in events), new)
    answer = f'{{"accepted":{counts.accepted},"duplicates":{counts.duplicates}}}'
    return Response(answer, media_type="application/json")


async def booked(tenant: Tenant, request: Request, batch: Batch) -> frozenset[str]:
    """Book a batch, and return the ids that were new.

    Raises:
        Problem: 422 if the ledger rejects it, 503 if it cannot be booked now.
    """
    try:
        new = await tenant.backend.writer.book(tenant.product, batch)
    except Rejected as rejected:
        reason = _shown(rejected.__cause__)
        request_id = request_id_of(request.scope)
        LOGGER.warning("a batch was rejected: %s", reason, extra={"request_id": request_id})
        raise Problem(422, "rejected", "The ledger rejects this batch.") from None
    counts = accepted(((each.user_id, each.event_id) for each in batch.events), new)
    counter = tenant.backend.metrics.events
    counter.labels("accepted").inc(counts.accepted)
    counter.labels("duplicate").inc(counts.duplicates)
    return new


def _shown(error: BaseException | None) -> str:
    """Return an exception as it may be logged: its message may quote ids of users and events."""
    state = getattr(error, "sqlstate", None)
    return type(error).__name__ + (f" (SQLSTATE {state})" if state else "")


def parse_body(body: bytes) -> object:
    """Parse a body; this parser bounds the depth and refuses NaN and lone surrogates.

    Raises:
        Problem: It is no JSON.
    """
    try:
        given: object = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise Problem(400, "bad-json", f"The body is not JSON: {error}.") from None
    return given
