"""The identity of a call: its user, session, plan and metadata, and how the values are read.

Where an identity is in effect is the business of `scopes.py`. Nothing here raises around a call: an
unusable user id is logged once and treated as missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isfinite
from threading import get_ident
from typing import Any, Protocol
from uuid import UUID

from paygent.core.validation import NAME_CHARS_MAX
from paygent.failopen import attempt, diagnostics

METADATA_KEYS_MAX = 16
METADATA_BYTES_MAX = 1_000

_PLAIN = frozenset({str, int, float, bool, type(None)})

CALL_ARGUMENTS = ("paygent_user_id", "paygent_session_id", "paygent_metadata")
"""Paygent's arguments of a single provider call; they never reach the provider."""


class Identity:
    """The user and session of a call. Immutable once made, so that a stream can carry it.

    Attributes:
        user_id: A valid user id, or None when it is missing.
        session_id: The application's session id, or None for the user's open session.
        plan: Plan for a user without an assigned one, or None.
        metadata: At most 16 keys and 1 kB.
        metadata_json: The same as JSON, encoded once; "" when there is none.
    """

    __slots__ = ("metadata", "metadata_json", "plan", "session_id", "user_id")

    def __init__(
        self,
        user_id: Any = None,
        session_id: Any = None,
        plan: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.user_id = read_user_id(user_id)
        self.session_id = _read_session_id(session_id)
        self.plan = plan if isinstance(plan, str) and plan else None
        self.metadata, self.metadata_json = read_metadata(metadata)

    def merged_with(self, other: Identity | None) -> Identity:
        """Return this identity, completed from `other` (the surrounding one).

        Session and plan are inherited only by the same user.
        """
        if other is None:
            return self
        # Both were validated when they were made; `__init__` would read the ids a second time.
        merged = Identity.__new__(Identity)
        merged.user_id = self.user_id or other.user_id
        same_user = merged.user_id == other.user_id
        merged.session_id = self.session_id or (other.session_id if same_user else None)
        merged.plan = self.plan or (other.plan if same_user else None)
        both = (
            {**(other.metadata or {}), **(self.metadata or {})} if self.metadata else other.metadata
        )
        merged.metadata, merged.metadata_json = read_metadata(both)
        return merged

    def resolve(self) -> Identity:
        """Return this identity; see `IdentitySource`."""
        return self


class IdentitySource(Protocol):
    """A source that resolves to the current identity."""

    def resolve(self) -> Identity | None:
        """Return the identity of a call that is made now, or None."""


class LazyIdentity:
    """An identity resolved when it is first needed, after the application has signed in users.

    Thread-safe. An answer is kept as soon as there is one.
    """

    __slots__ = ("_ask_session", "_ask_user", "_asking", "_identity", "_metadata")

    def __init__(
        self,
        ask_user: Callable[[], Any],
        ask_session: Callable[[], Any] | None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the application's functions; call neither of them yet.

        Args:
            ask_user: Returns the user id. None means "not yet"; it is called again then.
            ask_session: The same for the session id; None for the user's open session.
            metadata: As in `paygent_context`.
        """
        self._ask_user = ask_user
        self._ask_session = ask_session
        self._metadata = metadata
        self._identity = Identity(None, None, None, metadata)
        self._asking: set[int] = set()

    def resolve(self) -> Identity:
        """Return the identity as far as it is known now; see `IdentitySource`."""
        known, thread = self._identity, get_ident()
        is_complete = known.session_id is not None or self._ask_session is None
        # The application's function may itself use an executor or make a call. That call has no
        # user, and must not call the function recursively.
        if (known.user_id is not None and is_complete) or thread in self._asking:
            return known
        self._asking.add(thread)
        try:
            return self._ask(known)
        finally:
            self._asking.discard(thread)

    def _ask(self, known: Identity) -> Identity:
        user_id, session_id = known.user_id, known.session_id
        if user_id is None:
            user_id = read_user_id(attempt("ask_user", self._ask_user))
        if session_id is None and self._ask_session is not None:
            session_id = _read_session_id(attempt("ask_session", self._ask_session))
        if (user_id, session_id) != (known.user_id, known.session_id):
            known = self._identity = Identity(user_id, session_id, None, self._metadata)
        return known


def read_user_id(value: Any) -> str | None:
    """Return a usable user id: a string as it is, `int` and `UUID` as strings. Anything else is
    None, and logged once.
    """
    if type(value) is str and 0 < len(value) <= NAME_CHARS_MAX:
        return value
    if value is None:
        return None
    text = _as_text(value)
    if text is None:
        diagnostics.warn_once(
            "bad_user_id",
            "a user_id of type %s is not usable (1 to %d characters are); treated as missing",
            type(value).__name__,
            NAME_CHARS_MAX,
        )
    return text


def _read_session_id(value: Any) -> str | None:
    if value is None:
        return None
    text = _as_text(value)
    if text is None:
        diagnostics.warn_once(
            "bad_session_id", "a session_id of type %s is not usable; ignored", type(value).__name__
        )
    return text


def _as_text(value: Any) -> str | None:
    """Return an id as text of a valid length, or None."""
    # True is an int, but as an id it is a bug of the application's.
    if not isinstance(value, (str, int, UUID)) or isinstance(value, bool):
        return None
    try:
        text = str(value)
    except ValueError:  # an int of thousands of digits
        return None
    return text if 0 < len(text) <= NAME_CHARS_MAX else None


def read_metadata(value: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return metadata within its bounds, and its JSON; the excess is dropped and logged once."""
    if value is None or (isinstance(value, (dict, str)) and not value):
        return None, ""
    if not isinstance(value, Mapping):
        diagnostics.warn_once(
            "bad_metadata", "metadata of type %s is not usable; ignored", type(value).__name__
        )
        return None, ""
    kept = attempt("metadata", _bounded, value)
    if not kept:
        return None, ""
    return kept, json.dumps(kept, separators=(",", ":"))


def _bounded(value: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    size = 2
    for key, item in value.items():
        plain = _as_plain(item)
        size += len(json.dumps({str(key): plain})) - 1
        if len(kept) >= METADATA_KEYS_MAX or size > METADATA_BYTES_MAX:
            diagnostics.warn_once(
                "metadata_dropped",
                "metadata is kept up to %d keys and %d bytes; the rest is dropped",
                METADATA_KEYS_MAX,
                METADATA_BYTES_MAX,
            )
            break
        kept[str(key)] = plain
    return kept


def _as_plain(item: Any) -> Any:
    """Return an item that is valid JSON and can be unpickled in any process."""
    is_plain = item is None or isinstance(item, (str, int, bool))
    is_plain = is_plain or (isinstance(item, float) and isfinite(item))  # JSON has no NaN
    plain = item if is_plain else str(item)
    if type(plain) in _PLAIN:
        return plain
    # A member of an enumeration: another process may lack its class.
    return json.loads(json.dumps(plain))
