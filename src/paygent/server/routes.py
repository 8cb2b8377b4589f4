"""The route class of the API: strict bodies, keys and scopes, idempotency.

Every route declares who may call it, by `openapi_extra=needs(…)`; one that does not is an error
when it is made, so that none is open by mistake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from paygent.server.auth import require_scope, tenant_of
from paygent.server.backend import backend_of
from paygent.server.idempotency import HEADER
from paygent.server.settings import API_PREFIX
from paygent.server.strict_json import StrictRequest

Access = Literal["public", "setup", "usage_token", "sdk", "admin"]

ACCESS = "x-paygent-access"
"""Extension of an operation in the OpenAPI document."""

_BY_KEY = ("sdk", "admin")
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def needs(access: Access, **more: Any) -> dict[str, Any]:
    """Return `openapi_extra` of a route.

    Args:
        access: Who may call it: anyone (`public`); the bearer of the set-up token or this machine
            (`setup`), or of a usage token; a key of the scope `sdk`, or only one of `admin`. Keys
            of the scope `read` may call every GET.
        **more: Further parts of the operation.
    """
    return {ACCESS: access, **more}


class Route(APIRoute):
    """A route that checks a request before its body is validated."""

    def get_route_handler(self) -> _Handler:
        """Return the handler of a request."""
        handle = super().get_route_handler()
        access: Access = (self.openapi_extra or {})[ACCESS]

        async def checked(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if access not in _BY_KEY:
                return await handle(strict)
            backend = backend_of(strict)
            state = strict.scope["app"].state
            tenant = await tenant_of(backend, state.keys, strict.headers)
            require_scope(tenant.scope, strict.method, access)
            strict.scope["paygent.tenant"] = tenant
            key = strict.headers.get(HEADER)
            if key is None or strict.method == "GET":
                return await handle(strict)

            def run() -> Awaitable[Response]:
                return handle(strict)

            answer: Response = await state.idempotency.answer(tenant, key, strict, run)
            return answer

        return checked


def api_router() -> APIRouter:
    """Return a router for a group of routes below `/api/v1`."""
    return APIRouter(prefix=API_PREFIX, route_class=Route)
