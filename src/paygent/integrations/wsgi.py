"""The user of a WSGI request (Flask, Django, …): one middleware.

    app.wsgi_app = PaygentWSGIMiddleware(app.wsgi_app, user_id=lambda environ: environ["user_id"])

A response that is streamed is made after the application has returned; each piece of it is made as
the request's user, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from paygent.client.context.identity import IdentitySource, attach_identity, current
from paygent.integrations.request import Ask, check, identity_of


class PaygentWSGIMiddleware:
    """Set the user of all calls that are made while a request is served.

    Args:
        app: The application.
        user_id: Name of the header that has the user's id (only behind something that sets it), or
            a function of the WSGI environ that returns it. It is asked at the request's first call,
            and again as long as it says None.
        session_id: The same for the session, or None for the user's open one.
        metadata: Up to 16 keys and 1 kB, on every event of the request.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        user_id: Ask,
        session_id: Ask = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check("PaygentWSGIMiddleware", user_id, session_id, metadata)
        self._app = app
        self._asks = (user_id, session_id)
        self._metadata = metadata

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Serve one request as its user."""
        identity = identity_of(self._asks, self._metadata, environ, _header)
        with attach_identity(identity):
            body = self._app(environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(body, wrapper)
        if is_file or isinstance(body, (list, tuple)):
            return body  # made already, or a file that the server sends by itself
        return (_Measured if hasattr(body, "__len__") else _Streamed)(body, identity)


class _Streamed:
    """A response's body, each piece of which is made as the request's user, or as whoever the piece
    before has named.
    """

    def __init__(self, body: Iterable[bytes], says: IdentitySource) -> None:
        self._body = body
        self._says: IdentitySource | None = says
        self._pieces: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with attach_identity(self._says):
            if self._pieces is None:
                self._pieces = iter(self._body)
            try:
                return next(self._pieces)
            finally:
                self._says = current.get()  # a block that a generator stands in goes on with it

    def close(self) -> None:
        """Close the body, which may run code of the application's."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with attach_identity(self._says):
                close()


class _Measured(_Streamed):
    """A body that knows its length, from which servers tell how long a response is."""

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def _header(environ: Any, name: str) -> str | None:
    """Return a header of a request, or None."""
    found = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
    return found if isinstance(found, str) else None
