"""The application: composed of a store, settings and a clock; nothing is global."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from paygent import __version__
from paygent.server.api import (
    events,
    gate_events,
    health,
    keys,
    overrides,
    plans,
    products,
    reports,
    revenue,
    session,
    subscriptions,
    sync,
    usage,
    usage_tokens,
    users,
)
from paygent.server.auth import KeyCache
from paygent.server.backend import Backend
from paygent.server.dashboard.routes import dashboard_routes
from paygent.server.dashboard.sessions import Sessions
from paygent.server.dashboard.site import unknown_page
from paygent.server.dashboard.snapshots import Snapshots
from paygent.server.idempotency import Idempotency
from paygent.server.limits import Limits
from paygent.server.observe import Observed
from paygent.server.openapi import add_openapi
from paygent.server.problems import add_handlers
from paygent.server.settings import API_PREFIX, ServerSettings
from paygent.store.directory import wall_clock_us
from paygent.store.ledger import SqlStore

_GROUPS = (
    health, products, keys, plans, users, subscriptions, session, usage, events, gate_events, sync,
    overrides, revenue, usage_tokens, reports,
)  # fmt: skip


def create_app(
    store: SqlStore, settings: ServerSettings, now_us: Callable[[], int] = wall_clock_us
) -> FastAPI:
    """Make the application over an open store.

    Args:
        store: The database, opened. It stays open when the application ends.
        settings: How it runs.
        now_us: The ledger's clock, in microseconds since 1970 UTC.
    """
    backend = Backend(store, settings, now_us)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        backend.writer.start()
        try:
            yield
        finally:
            app.state.snapshots.close()
            # On another thread, since the writer answers its requests on this one.
            await anyio.to_thread.run_sync(backend.close)

    app = FastAPI(
        title="Paygent",
        description="Plans, limits and metered usage of LLM calls per user.",
        version=__version__,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect names the host that the request claims
        lifespan=lifespan,
    )
    app.state.backend = backend
    app.state.keys = KeyCache(backend)
    app.state.idempotency = Idempotency()
    app.state.sessions = Sessions(backend, app.state.keys)
    app.state.snapshots = Snapshots()
    for group in _GROUPS:
        app.router.routes.extend(group.router.routes)
    app.router.routes.extend(dashboard_routes())
    add_handlers(app, unknown_page)
    add_openapi(app)
    # The last one added sees a request first.
    app.add_middleware(Limits, settings=settings)
    app.add_middleware(Observed, metrics=backend.metrics, logs_requests=settings.logs_requests)
    return app
