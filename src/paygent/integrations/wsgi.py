"""The user of a WSGI request (Flask, Django, …): one middleware.

    app.wsgi_app = PaygentWSGIMiddleware(app.wsgi_app, user_id=lambda environ: environ["user_id"])

A streamed response is produced after the application has returned; each piece of it runs as the
request's user, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from paygent.client.context.identity import IdentitySource
from paygent.client.context.scopes import attach_identity, current_source
from paygent.integrations.middleware import RequestMiddleware


class PaygentWSGIMiddleware(RequestMiddleware):
    """Set the user of all calls that are made while a request is served.

    Args:
        app: The application.
        user_id: Name of the header that has the user's id (only behind a gateway that sets it), or
            a function of the WSGI environ that returns it. It is called at the request's first
            call, and again as long as it returns None.
        session_id: The same for the session, or None for the user's open one.
        metadata: Up to 16 keys and 1 kB, on every event of the request.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Serve one request as its user."""
        identity = self._identity_of(environ, *self._selectors)
        with attach_identity(identity):
            body: Iterable[bytes] = self._app(environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(body, wrapper)
        if is_file or isinstance(body, (list, tuple)):
            return body  # complete already, or a file that the server sends by itself
        return (_SizedBody if hasattr(body, "__len__") else _StreamedBody)(body, identity)

    @staticmethod
    def _header(request: Any, name: str) -> str | None:
        value = request.get(f"HTTP_{name.upper().replace('-', '_')}")
        return value if isinstance(value, str) else None


class _StreamedBody:
    """A response's body; each piece runs as the user that was in effect after the piece before."""

    def __init__(self, body: Iterable[bytes], source: IdentitySource | None) -> None:
        self._body = body
        self._source = source
        self._pieces: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with attach_identity(self._source):
            if self._pieces is None:
                self._pieces = iter(self._body)
            try:
                return next(self._pieces)
            finally:
                # A `paygent_context` that the body is inside of goes on with its next piece.
                self._source = current_source()

    def close(self) -> None:
        """Close the body, which may run the application's code."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with attach_identity(self._source):
                close()


class _SizedBody(_StreamedBody):
    """A body that knows its length, from which servers derive the response's."""

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]
