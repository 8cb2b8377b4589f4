"""The identity of a call: its user, session, plan and metadata, and how the values are read.

Where an identity is in effect is the business of `scopes.py`. Nothing here raises around a call: an
unusable user id is logged once and treated as missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from threading import get_ident
from typing import Any, Protocol
from uuid import UUID

from paygent.core.bounded_dict import BoundedDict
from paygent.core.notices import Notice
from paygent.core.validation import NAME_CHARS_MAX
from paygent.failopen import ask, attempt, diagnostics

Metadata = Mapping[str, Any] | None
METADATA_KEYS_MAX = 16
METADATA_BYTES_MAX = 1_000

_PLAIN_IDENTITIES_MAX = 1_000  # entries of up to 1.5 kB; an id beyond them is validated again

_NO_USER = "its calls have no user"
_NO_SESSION = "its calls are in the user's open session"

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
    """

    __slots__ = ("metadata", "plan", "session_id", "user_id")

    def __init__(
        self,
        user_id: Any = None,
        session_id: Any = None,
        plan: str | None = None,
        metadata: Metadata = None,
    ) -> None:
        self.user_id = read_user_id(user_id)
        self.session_id = read_user_id(session_id, Notice.BAD_SESSION_ID)
        self.plan = plan if isinstance(plan, str) and plan else None
        self.metadata = read_metadata(metadata)

    def merged_with(self, other: Identity | None) -> Identity:
        """Return this identity, completed from `other`; session and plan for one user only."""
        if other is None:
            return self
        if self.user_id is not None and other.metadata is None:
            adds_nothing = other.session_id is None and other.plan is None
            if adds_nothing or self.user_id != other.user_id:
                return self
        # Both were validated when they were made; `__init__` would read the ids a second time.
        merged = Identity.__new__(Identity)
        merged.user_id = self.user_id or other.user_id
        same_user = merged.user_id == other.user_id
        merged.session_id = self.session_id or (other.session_id if same_user else None)
        merged.plan = self.plan or (other.plan if same_user else None)
        # This one's keys first: `read_metadata` drops the last ones where both are too many.
        own, outer = self.metadata or {}, other.metadata or {}
        both = {**own, **{key: value for key, value in outer.items() if key not in own}}
        merged.metadata = read_metadata(both)
        return merged

    def resolve(self) -> Identity:
        """Return this identity; see `IdentitySource`."""
        return self


# By the user id as given. Two threads may make one twice: the two are equal, and both are valid.
_plain_identities: BoundedDict[str | int, Identity] = BoundedDict(_PLAIN_IDENTITIES_MAX)


def identity_of(
    user_id: Any = None,
    session_id: Any = None,
    plan: str | None = None,
    metadata: Metadata = None,
) -> Identity:
    """Return an `Identity` with these values, a shared one where there is only a user id."""
    is_plain = session_id is None and plan is None and metadata is None
    # Exact types: True and 1.0 are equal to 1, and a subclass may define equality itself.
    if is_plain and (type(user_id) is str or type(user_id) is int):
        identity = _plain_identities.get(user_id)
        if identity is None:
            identity = Identity(user_id)
            if identity.user_id is not None:  # unusable ids are counted each time
                _plain_identities[user_id] = identity
        return identity
    return Identity(user_id, session_id, plan, metadata)


class IdentitySource(Protocol):
    """A source that resolves to the current identity."""

    def resolve(self) -> Identity | None:
        """Return the identity of a call that is made now, or None."""


@dataclass(slots=True, eq=False)
class LazyIdentity:
    """An identity resolved when it is first needed, after users have signed in. Thread-safe."""

    ask_user: Callable[[], Any]  # returns None for "not yet", and is called again then
    ask_session: Callable[[], Any] | None  # the same; None for the user's open session
    metadata: Metadata = None
    _identity: Identity = field(init=False)  # as far as it is known; an answer is kept
    _asking: set[int] = field(init=False, default_factory=set)  # threads that are inside `resolve`

    def __post_init__(self) -> None:
        self._identity = Identity(None, None, None, self.metadata)

    def resolve(self) -> Identity:
        """Return the identity as far as it is known now; see `IdentitySource`."""
        known, thread = self._identity, get_ident()
        is_complete = known.session_id is not None or self.ask_session is None
        # The application's function may itself use an executor or make a call. That call has no
        # user, and must not call the function recursively.
        if (known.user_id is not None and is_complete) or thread in self._asking:
            return known
        user_id, session_id = known.user_id, known.session_id
        self._asking.add(thread)
        try:
            if user_id is None:
                user_id = read_user_id(ask("ask_user", self.ask_user, _NO_USER))
            if session_id is None and self.ask_session is not None:
                answer = ask("ask_session", self.ask_session, _NO_SESSION)
                session_id = read_user_id(answer, Notice.BAD_SESSION_ID)
        finally:
            self._asking.discard(thread)
        if (user_id, session_id) != (known.user_id, known.session_id):
            known = self._identity = Identity(user_id, session_id, None, self.metadata)
        return known


def read_user_id(value: Any, notice: Notice = Notice.BAD_USER_ID) -> str | None:
    """Return a string, `int` or `UUID` as an id; None for others, which are logged once."""
    text = id_of(value)
    if text is None and value is not None:
        diagnostics.warn_once(notice, type(value).__name__, NAME_CHARS_MAX)
    return text


def id_of(value: Any) -> str | None:
    """Return a string, `int` or `UUID` as an id; None for others."""
    if type(value) is str and 0 < len(value) <= NAME_CHARS_MAX:
        return value
    # True is an int, but as an id it is a bug of the application's.
    if isinstance(value, (str, int, UUID)) and not isinstance(value, bool):
        with suppress(ValueError):  # an int of thousands of digits
            text = str(value)
            if 0 < len(text) <= NAME_CHARS_MAX:
                return text
    return None


def read_metadata(value: Any) -> Metadata:
    """Return metadata within its bounds; the excess is dropped and logged once."""
    if value is None or (isinstance(value, (dict, str)) and not value):
        return None
    kept = None
    if isinstance(value, Mapping):
        kept = attempt("metadata", _bounded, value)
    else:
        diagnostics.warn_once(Notice.BAD_METADATA, type(value).__name__)
    return kept or None


def _bounded(value: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    size = 2
    for key, item in value.items():
        plain = _as_plain(item)
        size += len(json.dumps({str(key): plain})) - 1
        if len(kept) >= METADATA_KEYS_MAX or size > METADATA_BYTES_MAX:
            diagnostics.warn_once(Notice.METADATA_DROPPED, METADATA_KEYS_MAX, METADATA_BYTES_MAX)
            break
        kept[str(key)] = plain
    return kept


def _as_plain(item: Any) -> Any:
    """Return an item that is valid JSON and can be unpickled in any process."""
    is_json = item is None or isinstance(item, (str, int))
    is_json = is_json or (isinstance(item, float) and isfinite(item))  # JSON has no NaN
    plain = item if is_json else str(item)
    # A member of an enumeration is replaced by its value: another process may lack its class.
    return plain if type(plain) in _PLAIN else json.loads(json.dumps(plain))
