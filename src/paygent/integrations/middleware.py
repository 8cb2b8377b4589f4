"""The user of a web request: what the ASGI and the WSGI middleware share.

The application names a header or passes a function. A function is called when the request's first
call is made and not when the request comes in, so that the application has signed in its user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from paygent.client.context.identity import LazyIdentity
from paygent.core.validation import ValidationErrors

Selector = str | Callable[[Any], Any] | None
"""Name of a header, a function of the request's scope or environ, or None for no value."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, as in RFC 9110


class RequestMiddleware:
    """Validates and keeps what a middleware is given; makes the identity of each request.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """

    def __init__(
        self,
        app: Any,
        user_id: Selector,
        session_id: Selector = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        # A wrong argument configures every request, so it raises here and not at the first call.
        errors = ValidationErrors(type(self).__name__)
        for name, selector in (("user_id", user_id), ("session_id", session_id)):
            is_optional = name == "session_id"
            if not _is_valid(selector) and not (is_optional and selector is None):
                rule = "must be the name of a header, or a function of the request"
                errors.add(name, selector, rule)
        if metadata is not None and not isinstance(metadata, Mapping):
            errors.add("metadata", metadata, "must be a mapping, or None")
        errors.raise_if_any()
        self._app = app
        self._selectors = (user_id, session_id)
        self._metadata = metadata

    def _identity_of(self, request: Any, user_id: Selector, session_id: Selector) -> LazyIdentity:
        """Return the identity of one request, resolved at its first call."""
        user, session = (self._reader(selector, request) for selector in (user_id, session_id))
        return LazyIdentity(user or _no_value, session, self._metadata)

    def _reader(self, selector: Selector, request: Any) -> Callable[[], Any] | None:
        if selector is None:
            return None
        if callable(selector):
            return lambda: selector(request)
        return lambda: self._header(request, selector)

    @staticmethod
    def _header(request: Any, name: str) -> str | None:
        """Return a header of a request, or None."""
        raise NotImplementedError


def _is_valid(selector: Any) -> bool:
    is_header = isinstance(selector, str) and _HEADER.fullmatch(selector) is not None
    return is_header or callable(selector)


def _no_value() -> None:
    """Return no user, for a coroutine function that failed."""
