"""`/health`, `/ready` and `/metrics`: without a key, for probes and collectors."""

from __future__ import annotations

import anyio
from fastapi import APIRouter
from starlette.responses import Response

from paygent import __version__
from paygent.server.api.schemas import Health, Ready
from paygent.server.backend import Backend, ForBackend
from paygent.server.metrics import CONTENT_TYPE
from paygent.server.problems import unavailable
from paygent.server.routes import Route, needs
from paygent.server.settings import API_PREFIX

router = APIRouter(route_class=Route, tags=["health"])

CAPABILITIES = ("events_1000", "exact_costs", "sync")
"""Features beyond the documented routes; clients check for them."""

_READY_S = 1.5
"""How long `/ready` waits for the database: probes usually give up after a few seconds, and an
answer says more than none.
"""

_HEALTH = Health(status="ok", capabilities=list(CAPABILITIES), version=__version__)


@router.get("/health", openapi_extra=needs("public"))
async def health() -> Health:
    """Return that the server is alive, without asking the database."""
    return _HEALTH


@router.get(API_PREFIX + "/health", openapi_extra=needs("public"))
async def api_health() -> Health:
    """Return that the server is alive, and its capabilities."""
    return _HEALTH


@router.get("/ready", openapi_extra=needs("public"))
async def ready(backend: Backend = ForBackend) -> Ready:
    """Return whether requests can be answered: the database is reachable and migrated, and has
    not failed to book events in the last 30 seconds since it last booked some.
    """
    with anyio.move_on_after(_READY_S) as checking:
        await backend.in_store(backend.store.has_products)
    if checking.cancelled_caught:
        raise unavailable("The database does not answer.")
    if backend.bookings.is_failing:
        raise unavailable("The database accepts no events.")
    return Ready(status="ok")


@router.get(
    "/metrics",
    openapi_extra=needs("public"),
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(backend: Backend = ForBackend) -> Response:
    """Return the metrics of this process, in the format of Prometheus."""
    backend.metrics.queued.set(backend.writer.waiting)
    return Response(backend.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
