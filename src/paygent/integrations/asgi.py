"""The user of an ASGI request (FastAPI, Starlette, Django, Quart, …): one middleware.

    app.add_middleware(PaygentMiddleware, user_id=lambda scope: scope["state"]["user_id"])

It is a plain ASGI callable, so streamed responses, background tasks and WebSockets run inside too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from paygent.client.context.identity import attach_identity
from paygent.failopen import diagnostics
from paygent.integrations.request import Ask, check, identity_of

App = Callable[[Any, Any, Any], Awaitable[None]]


class PaygentMiddleware:
    """Set the user of all calls that are made while a request or WebSocket is served.

    Args:
        app: The application.
        user_id: Name of the header that has the user's id (only behind something that sets it), or
            a function of the ASGI scope that returns it. A plain function is asked at the request's
            first call, and again as long as it says None; a coroutine function before the
            application runs.
        session_id: The same for the session, or None for the user's open one.
        metadata: Up to 16 keys and 1 kB, on every event of the request.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """

    def __init__(
        self,
        app: App,
        user_id: Ask,
        session_id: Ask = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check("PaygentMiddleware", user_id, session_id, metadata)
        self._app = app
        self._asks = (user_id, session_id)
        self._metadata = metadata

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection as its user."""
        if scope.get("type") not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        user, session = [await _settled(ask, scope) for ask in self._asks]
        with attach_identity(identity_of((user, session), self._metadata, scope, _header)):
            await self._app(scope, receive, send)


async def _settled(ask: Ask, scope: Any) -> Ask:
    """Return an ask that needs no waiting any more."""
    if not callable(ask) or not _is_async(ask):
        return ask
    answer = None
    try:
        answer = await ask(scope)
    except Exception as error:  # noqa: BLE001 - the application's own function; the request goes on
        diagnostics.record_error("ask_user", error)
    return lambda _: answer


def _is_async(ask: Any) -> bool:
    return inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(
        getattr(ask, "__call__", None)  # noqa: B004 - of an object, not whether it has one
    )


def _header(scope: Any, name: str) -> str | None:
    """Return a header of a request, or None."""
    wanted = name.lower().encode("latin-1")
    for key, value in scope.get("headers") or ():
        if bytes(key).lower() == wanted:
            return bytes(value).decode("latin-1")
    return None
