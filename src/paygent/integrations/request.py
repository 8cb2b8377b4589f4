"""Whose a web request is: a header of it, or whatever the application's own function says.

A function is asked when the request's first call is made and not when the request comes in, so that
whoever signs users in, inside, has run by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from paygent.client.context.identity import LazyIdentity
from paygent.core.validation import ValidationErrors

Ask = str | Callable[[Any], Any] | None
"""Name of a header, a function of the request's scope or environ, or None for nothing."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, as in RFC 9110


def check(name: str, user_id: Any, session_id: Any, metadata: Any) -> None:
    """Check what a middleware was given.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """
    findings = ValidationErrors(name)
    for argument, value, is_needed in (
        ("user_id", user_id, True),
        ("session_id", session_id, False),
    ):
        if value is None and not is_needed:
            continue
        if not callable(value) and not (isinstance(value, str) and _HEADER.fullmatch(value)):
            rule = "must be the name of a header, or a function of the request"
            findings.add(argument, value, rule)
    if metadata is not None and not isinstance(metadata, Mapping):
        findings.add("metadata", metadata, "must be a mapping, or None")
    findings.raise_if_any()


def _asker(ask: Ask, request: Any, header: Callable[[Any, str], Any]) -> Callable[[], Any] | None:
    """Return a function that answers for one request; None where nothing is asked.

    Args:
        ask: What the application said.
        request: The scope or environ.
        header: Returns a header of the request, or None.
    """
    if ask is None:
        return None
    if callable(ask):
        return lambda: ask(request)
    return lambda: header(request, ask)


def identity_of(
    asks: tuple[Ask, Ask],
    metadata: Mapping[str, Any] | None,
    request: Any,
    header: Callable[[Any, str], Any],
) -> LazyIdentity:
    """Return what says whose the calls of one request are.

    Args:
        asks: What the application said of user and session.
        metadata: On every event of the request.
        request: The scope or environ.
        header: Returns a header of the request, or None.
    """
    user, session = (_asker(ask, request, header) for ask in asks)
    return LazyIdentity(user or _nobody, session, metadata)


def _nobody() -> None:
    """Stand for a user that nobody tells."""
