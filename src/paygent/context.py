"""Identify: whose call is it? One context variable, read at the moment of the call.

`paygent_context` sets it, what is in `carrying.py` does the same around functions and takes it to
other threads, and the arguments `paygent_*` of a single call win over both. Nothing here raises
around a call: a user id that cannot be used is said once and treated as missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from math import isfinite
from types import TracebackType
from typing import Any
from uuid import UUID

from paygent.failopen import attempt, failures
from paygent.settings import USER_ID_CHARS_MAX

METADATA_KEYS_MAX = 16
METADATA_BYTES_MAX = 1_000

CALL_ARGUMENTS = ("paygent_user_id", "paygent_session_id", "paygent_metadata")
"""Arguments of a single provider call that are ours; they never reach the provider."""


class Identity:
    """Whose call it is. Immutable after it is made, so that a stream can carry it.

    Attributes:
        user_id: A valid user id, or None when it is missing.
        session_id: The application's session id, or None for the user's open session.
        plan: Plan for a user that nobody assigned, or None.
        metadata: At most 16 keys and 1 kB.
        metadata_json: The same as JSON, made once; "" when there is none.
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

    def over(self, other: Identity | None) -> Identity:
        """Return this identity with what it does not name taken from `other` (the surrounding one).

        The session is inherited only by the same user.
        """
        if other is None:
            return self
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

    def settled(self) -> Identity:
        """Return this identity as one that another thread can use."""
        return self


class LateIdentity(Identity):
    """An identity whose user and session are asked for when they are first needed: by then whoever
    signs users in has run.
    """

    __slots__ = ("_ask_session", "_ask_user", "_session_id", "_user_id")

    def __init__(
        self,
        ask_user: Callable[[], Any],
        ask_session: Callable[[], Any],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask for nothing yet.

        Args:
            ask_user: Returns the user id, or None as long as there is none; asked again then.
            ask_session: The same for the session id.
            metadata: As in `paygent_context`.
        """
        self._ask_user = ask_user
        self._ask_session = ask_session
        self._user_id: str | None = None
        self._session_id: str | None = None
        self.plan = None
        self.metadata, self.metadata_json = read_metadata(metadata)

    @property
    def user_id(self) -> str | None:  # type: ignore[override]
        """The user, as soon as there is one."""
        if self._user_id is None:
            self._user_id = read_user_id(attempt("ask_user", self._ask_user))
        return self._user_id

    @property
    def session_id(self) -> str | None:  # type: ignore[override]
        """The session, as soon as there is one."""
        if self._session_id is None:
            self._session_id = _read_session_id(attempt("ask_session", self._ask_session))
        return self._session_id

    def settled(self) -> Identity:
        """Return what is known now: another thread has no request to ask."""
        if self.user_id is None:
            return self
        return Identity(self.user_id, self.session_id, None, self.metadata)


def read_user_id(value: Any) -> str | None:
    """Return a usable user id: a string as it is, `int` and `UUID` as strings, anything else None,
    said once.
    """
    if type(value) is str and 0 < len(value) <= USER_ID_CHARS_MAX:
        return value
    if value is None:
        return None
    text = _as_text(value)
    if text is not None:
        return text
    failures.say(
        "bad_user_id",
        "a user_id of type %s is not usable (1 to %d characters are); treated as missing",
        type(value).__name__,
        USER_ID_CHARS_MAX,
    )
    return None


def _as_text(value: Any) -> str | None:
    """Return an id as text of 1 to 255 characters, or None."""
    if not isinstance(value, (str, int, UUID)) or isinstance(value, bool):
        return None
    try:
        text = str(value)
    except ValueError:  # an int of thousands of digits
        return None
    return text if 0 < len(text) <= USER_ID_CHARS_MAX else None


def _read_session_id(value: Any) -> str | None:
    if value is None:
        return None
    text = _as_text(value)
    if text is not None:
        return text
    failures.say(
        "bad_session_id", "a session_id of type %s is not usable; ignored", type(value).__name__
    )
    return None


def read_metadata(value: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return metadata within its bounds, and as JSON; the excess is dropped and said once."""
    if value is None or (isinstance(value, (dict, str)) and not value):
        return None, ""
    if not isinstance(value, Mapping):
        failures.say(
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
        is_plain = item is None or isinstance(item, (str, int, bool))
        is_plain = is_plain or (isinstance(item, float) and isfinite(item))  # JSON has no NaN
        plain = item if is_plain else str(item)
        size += len(json.dumps({str(key): plain})) - 1
        if len(kept) >= METADATA_KEYS_MAX or size > METADATA_BYTES_MAX:
            failures.say(
                "metadata_dropped",
                "metadata is kept up to %d keys and %d bytes; the rest is dropped",
                METADATA_KEYS_MAX,
                METADATA_BYTES_MAX,
            )
            break
        kept[str(key)] = plain
    return kept


current: ContextVar[Identity | None] = ContextVar("paygent_identity", default=None)
"""Whose calls are made here and now."""


class paygent_context:  # noqa: N801 - the documented name, used like a function
    """Say whose calls are made inside a `with` (or `async with`) block.

    Args:
        user_id: The application's id of the user: a string of 1 to 255 characters, an int or a
            UUID.
        session_id: The application's id of a session; None for the user's open one.
        plan: Plan for a user that nobody assigned; ignored with a warning for others.
        metadata: Up to 16 keys and 1 kB, carried by every event of the block.

    Blocks nest: the inner user wins, and inherits session and metadata only from a block of the
        same user.
    """

    __slots__ = ("_identity", "_tokens")

    def __init__(
        self,
        user_id: Any,
        session_id: Any = None,
        plan: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._identity = Identity(user_id, session_id, plan, metadata)
        self._tokens: list[Token[Identity | None]] = []

    def __enter__(self) -> paygent_context:
        outer = current.get()
        identity = self._identity
        if outer is not None and identity.user_id is not None and outer.user_id == identity.user_id:
            identity = identity.over(outer)
        self._tokens.append(current.set(identity))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            current.reset(self._tokens.pop())
        except (ValueError, IndexError):
            # Left in another context than it was entered in (an async generator closed by another
            # task): that context is gone, and with it the value.
            pass

    async def __aenter__(self) -> paygent_context:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class as_identity:  # noqa: N801 - used like `paygent_context`
    """Have a block run as an identity and nothing of the one around it; None is nobody."""

    __slots__ = ("_identity", "_token")

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    def __enter__(self) -> None:
        self._token = current.set(self._identity)

    def __exit__(self, *error: object) -> None:
        try:
            current.reset(self._token)
        except ValueError:
            pass  # as in `paygent_context`


def here() -> Identity | None:
    """Return whose calls are made here and now, for another place to make them too."""
    identity = current.get()
    return identity.settled() if identity is not None else None
