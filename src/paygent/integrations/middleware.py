"""The user of a web request: the shared part of the ASGI and the WSGI middleware.

The application names a header or passes a function. A function is called when the request's first
call is made and not when the request comes in, so that the application has signed in its user. An
ASGI coroutine function is awaited before the application runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from paygent.client.context.identity import LazyIdentity, Metadata
from paygent.core.validation import ValidationErrors

Selector = str | Callable[[Any], Any] | None
"""Name of a header, a function of the request's scope or environ, or None for no value."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, as in RFC 9110


class RequestMiddleware:
    """Validates and keeps the arguments of a middleware; makes the identity of each request."""

    def __init__(
        self, app: Any, user_id: Selector, session_id: Selector = None, metadata: Metadata = None
    ) -> None:
        # A wrong argument configures every request, so it raises here and not at the first call.
        errors = ValidationErrors(type(self).__name__)
        rule = "must be the name of a header, or a function of the request"
        if not _is_valid(user_id):
            errors.add("user_id", user_id, rule)
        if session_id is not None and not _is_valid(session_id):
            errors.add("session_id", session_id, rule)
        if metadata is not None and not isinstance(metadata, Mapping):
            errors.add("metadata", metadata, "must be a mapping, or None")
        errors.raise_if_any()
        self._app = app
        self._selectors = (user_id, session_id)
        self._metadata = metadata

    def _identity_of(self, request: Any, user_id: Selector, session_id: Selector) -> LazyIdentity:
        """Return the identity of one request, resolved at its first call."""
        ask_user = partial(self._read, request, user_id)
        ask_session = partial(self._read, request, session_id) if session_id is not None else None
        return LazyIdentity(ask_user, ask_session, self._metadata)

    def _read(self, request: Any, selector: Any) -> Any:
        return selector(request) if callable(selector) else self._header(request, selector)

    @staticmethod
    def _header(request: Any, name: str) -> str | None:
        """Return a header of a request, or None."""
        raise NotImplementedError


def _is_valid(selector: Any) -> bool:
    is_header = isinstance(selector, str) and _HEADER.fullmatch(selector) is not None
    return is_header or callable(selector)
