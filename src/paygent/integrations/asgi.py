"""The user of an ASGI request (FastAPI, Starlette, Django, Quart, …): one middleware.

    app.add_middleware(PaygentMiddleware, user_id=lambda scope: scope["state"]["user_id"])

It is a plain ASGI callable, so streamed responses, background tasks and WebSockets run inside too.
"""

from __future__ import annotations

import inspect
from typing import Any

from paygent.client.context.scopes import attach_identity
from paygent.failopen import guard
from paygent.integrations.middleware import RequestMiddleware


class PaygentMiddleware(RequestMiddleware):
    """Set the user of all calls that are made while a request or WebSocket is served.

    Args:
        app: The application.
        user_id: Name of the header that has the user's id (only behind a gateway that sets it), or
            a function of the ASGI scope that returns it. A plain function is called at the
            request's first call, and again as long as it returns None; a coroutine function before
            the application runs.
        session_id: The same for the session, or None for the user's open one.
        metadata: Up to 16 keys and 1 kB, on every event of the request.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection as its user."""
        if scope.get("type") not in ("http", "websocket"):  # the server's own start and shutdown
            await self._app(scope, receive, send)
            return
        user_id, session_id = [await _awaited(given, scope) for given in self._selectors]
        with attach_identity(self._identity_of(scope, user_id, session_id)):
            await self._app(scope, receive, send)

    @staticmethod
    def _header(request: Any, name: str) -> str | None:
        wanted = name.lower().encode("latin-1")
        for key, value in request.get("headers") or ():
            if bytes(key).lower() == wanted:
                return bytes(value).decode("latin-1")
        return None


async def _awaited(selector: Any, scope: Any) -> Any:
    """Return a selector that needs no awaiting: a call may be made on a thread without a loop."""
    call = getattr(selector, "__call__", None)  # noqa: B004 - of an object, not whether it has one
    if not inspect.iscoroutinefunction(selector) and not inspect.iscoroutinefunction(call):
        return selector
    value = None
    with guard("ask_user"):  # the application's function may fail; the request goes on
        value = await selector(scope)
    return lambda _: value
