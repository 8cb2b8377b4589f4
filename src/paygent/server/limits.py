"""Limits of a request: its sizes and its time. Pure ASGI, so that nothing is buffered."""

from __future__ import annotations

import asyncio

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paygent.server.problems import (
    CLIENT_LEFT,
    Problem,
    problem_answer,
    unavailable,
)
from paygent.server.settings import API_PREFIX, ServerSettings

_LARGE = tuple(
    API_PREFIX + path for path in ("/events/batch", "/gate-events/batch", "/sync", "/leases")
)
_DIGITS_MAX = 18


class Limits:
    """Middleware that ends requests that are too large or too slow."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings = self._settings
        bytes_max = (
            settings.events_bytes_max if scope["path"] in _LARGE else settings.body_bytes_max
        )
        length = _declared_length(scope)
        request = _Limited(bytes_max, scope, receive, send, has_body=length != 0)
        try:
            if _head_bytes(scope) > settings.head_bytes_max:
                raise _head_too_large(settings.head_bytes_max)
            if length > bytes_max:
                raise request.too_large()
            with anyio.fail_after(settings.request_timeout_s):
                await self._app(scope, request.receive, request.send)
        except Problem as problem:
            await self._refuse(problem, scope, request)
        except TimeoutError:
            late = Problem(408, "request-timeout", "The body did not arrive in time.")
            slow = unavailable("The request took too long.")
            await self._refuse(slow if request.is_body_read else late, scope, request)
        except asyncio.CancelledError:
            # uvicorn cancels requests that are still waiting when the time to drain is over, and
            # would answer 500.
            if request.has_answered:
                raise
            await self._refuse(unavailable("The server is shutting down."), scope, request)

    async def _refuse(self, problem: Problem, scope: Scope, request: _Limited) -> None:
        if request.has_answered:
            raise problem  # the answer has begun, so the connection is closed
        response = problem_answer(problem, scope)
        response.headers["Connection"] = "close"  # the rest of the body is not read
        await response(scope, request.receive, request.send)


class _Limited:
    """The channel of one request, which counts its body."""

    def __init__(
        self, bytes_max: int, scope: Scope, receive: Receive, send: Send, *, has_body: bool
    ) -> None:
        self._bytes_max = bytes_max
        self._scope = scope
        self._receive = receive
        self._send = send
        self._bytes = 0
        self.is_body_read = not has_body
        self.has_answered = False

    async def receive(self) -> Message:
        """Receive the next part of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._bytes_max:
                raise self.too_large()
            self.is_body_read = not message.get("more_body", False)
        elif not self.is_body_read:
            # What follows may be an error of any kind: frameworks read the body in several places.
            self._scope[CLIENT_LEFT] = True
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        self.has_answered = True
        await self._send(message)

    def too_large(self) -> Problem:
        """Return the problem of a body above the limit."""
        text = f"The body must not be larger than {self._bytes_max} bytes."
        return Problem(413, "too-large", text)


def _head_bytes(scope: Scope) -> int:
    """Return the length of a request's path, query and headers."""
    length = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    for name, value in scope["headers"]:
        length += len(name) + len(value)
    return length


def _head_too_large(bytes_max: int) -> Problem:
    text = f"Path, query and headers must not be larger than {bytes_max} bytes."
    return Problem(431, "head-too-large", text)


def _declared_length(scope: Scope) -> int:
    """Return the length of a body by its head; -1 for one that is streamed."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and len(value) <= _DIGITS_MAX:
            return int(value)
        if name == b"transfer-encoding":
            return -1
    return 0
