"""The outermost middleware: request ids, logs, metrics, security headers, unexpected errors.

It logs method, route template, status and time. The path with its ids, the query, headers and
bodies stay out of logs and metrics.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paygent.server.logs import LOGGER
from paygent.server.metrics import Metrics
from paygent.server.problems import CLIENT_LEFT, Problem, problem_answer, problem_response

SLASH = "\0"
"""In a path, an escaped slash: it belongs to an id and does not separate."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NOT_CACHED = (b"cache-control", b"no-store")  # unless the answer says how it is
_METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"})
_CLIENT_LEFT = 499  # as nginx logs it; no client ever sees it
_QUIET = ("/health", "/ready", "/metrics")


class Observed:
    """Middleware that sees every request and answers unexpected errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, logs_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs_requests = logs_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        method = scope["method"]
        if method == "HEAD":
            # As a GET; the HTTP server, which has the scope as it was, leaves the body out.
            scope = {**scope, "method": "GET"}
        scope["paygent.request_id"] = request_id
        answer = _Answer(send, request_id.encode())
        try:
            if _keep_slashes(scope):
                await self._app(scope, receive, answer.send)
            else:
                problem = Problem(400, "bad-path", "A path must not contain NUL.")
                await problem_response(problem, request_id)(scope, receive, answer.send)
        except ClientDisconnect:
            pass  # no one is left to answer, and nothing has failed here
        except Exception:  # the edge of the server: the caller gets a problem, the log the reason
            LOGGER.exception("a request failed", extra={"request_id": request_id})
            if answer.status:
                raise  # the answer has begun; the connection is closed
            problem = Problem(500, "internal", "The server failed; its log has the reason.")
            await problem_answer(problem, scope)(scope, receive, answer.send)
        finally:
            status = 0 if scope.get(CLIENT_LEFT) else answer.status
            self._record(scope, method, status or _CLIENT_LEFT, time.perf_counter() - started)

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "(none)")
        method = method if method in _METHODS else "(other)"
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if self._logs_requests and not route.endswith(_QUIET):
            line: dict[str, Any] = {
                "request_id": scope["paygent.request_id"],
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1e3, 2),
            }
            tenant = scope.get("paygent.tenant")
            if tenant is not None:
                line |= {"product": tenant.product, "key_id": tenant.key_id}
            LOGGER.info("request", extra=line)


class _Answer:
    """The answer of one request, with the headers that every answer has."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), _NO_SNIFFING]
            if all(name.lower() != b"cache-control" for name, _ in headers):
                headers.append(_NOT_CACHED)
            message["headers"] = [*headers, (b"x-request-id", self._request_id)]
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """Return the id that a proxy has given the request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)


def _keep_slashes(scope: Scope) -> bool:
    """Mark escaped slashes in the path, which servers decode; False if that is not possible."""
    if SLASH in scope["path"]:
        return False
    raw: bytes = scope.get("raw_path") or b""
    if b"%2f" in raw.lower():
        escaped = re.sub(rb"%2[fF]", b"%00", raw.partition(b"?")[0])
        scope["path"] = unquote(escaped.decode("ascii", "replace"))
    return True
