"""Identify: whose call is it? One context variable, read at the moment of the call.

`paygent_context` sets it, `propagation.py` does the same around functions and takes it to other
threads, and the arguments `paygent_*` of a single call win over both. Nothing here raises
around a call: a user id that cannot be used is said once and treated as missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from math import isfinite
from threading import get_ident
from types import TracebackType
from typing import Any, Protocol
from uuid import UUID

from paygent.client.runtime.settings import USER_ID_CHARS_MAX
from paygent.failopen import attempt, diagnostics

METADATA_KEYS_MAX = 16
METADATA_BYTES_MAX = 1_000

_PLAIN = frozenset({str, int, float, bool, type(None)})

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

    def merged_with(self, other: Identity | None) -> Identity:
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

    def resolve(self) -> Identity:
        """Return this identity; see `IdentitySource`."""
        return self


class IdentitySource(Protocol):
    """What stands in a place and says whose calls are made there."""

    def resolve(self) -> Identity | None:
        """Return whose the calls of this moment are."""


class LazyIdentity:
    """An identity resolved when it is first needed, after the application has signed in users.

    Thread-safe. What the application answers is kept, once it is an answer.
    """

    __slots__ = ("_ask_session", "_ask_user", "_asking", "_identity", "_metadata")

    def __init__(
        self,
        ask_user: Callable[[], Any],
        ask_session: Callable[[], Any] | None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask for nothing yet.

        Args:
            ask_user: Returns the user id, or None as long as there is none; asked again then.
            ask_session: The same for the session id; None for the user's open session.
            metadata: As in `paygent_context`.
        """
        self._ask_user = ask_user
        self._ask_session = ask_session
        self._metadata = metadata
        self._identity = Identity(None, None, None, metadata)
        self._asking: set[int] = set()

    def resolve(self) -> Identity:
        """Return what is known now; see `IdentitySource`."""
        known, thread = self._identity, get_ident()
        is_whole = known.session_id is not None or self._ask_session is None
        # Who is asked may use an executor or make a call: that is nobody's, and asks nobody.
        if (known.user_id is not None and is_whole) or thread in self._asking:
            return known
        self._asking.add(thread)
        try:
            return self._asked(known)
        finally:
            self._asking.discard(thread)

    def _asked(self, known: Identity) -> Identity:
        user_id, session_id = known.user_id, known.session_id
        if user_id is None:
            user_id = read_user_id(attempt("ask_user", self._ask_user))
        if session_id is None and self._ask_session is not None:
            session_id = _read_session_id(attempt("ask_session", self._ask_session))
        if (user_id, session_id) != (known.user_id, known.session_id):
            known = self._identity = Identity(user_id, session_id, None, self._metadata)
        return known


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
    diagnostics.warn_once(
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
    diagnostics.warn_once(
        "bad_session_id", "a session_id of type %s is not usable; ignored", type(value).__name__
    )
    return None


def read_metadata(value: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return metadata within its bounds, and as JSON; the excess is dropped and said once."""
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
        is_plain = item is None or isinstance(item, (str, int, bool))
        is_plain = is_plain or (isinstance(item, float) and isfinite(item))  # JSON has no NaN
        plain = item if is_plain else str(item)
        if type(plain) not in _PLAIN:  # an enumeration's member, which a process may not know
            plain = json.loads(json.dumps(plain))
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


current: ContextVar[IdentitySource | None] = ContextVar("paygent_identity", default=None)
"""What says whose calls are made here; read by `here`."""

Resolver = Callable[["IdentitySource | None"], "Identity | None"]
"""Tells from the stack whose the calls of this place are, given what the context says; None where
it knows nothing of it.
"""

_resolvers: list[Resolver] = []


def add_resolver(look: Resolver) -> None:
    """Have the stack looked at too, wherever it is asked whose the calls of a place are."""
    _resolvers.append(look)


def current_identity() -> Identity | None:
    """Return whose calls are made here and now, or None."""
    says = current_source()
    return says.resolve() if says is not None else None


def current_source() -> IdentitySource | None:
    """Return what says whose calls are made here, without asking it."""
    says = innermost_open_scope()
    for look in _resolvers:
        found = look(says)
        if found is not None:
            return found
    return says


def innermost_open_scope() -> IdentitySource | None:
    """Return what stands in the context here; blocks that were left do not."""
    says = current.get()
    while isinstance(says, _Scope) and says.is_left:
        says = says.outer
    return says


_carried: list[tuple[ContextVar[Any], Callable[[], Any]]] = [(current, current_source)]


def propagate(variable: ContextVar[Any], read: Callable[[], Any] | None = None) -> None:
    """Have a variable of ours, which is None by default, taken along with the user.

    Args:
        variable: The variable.
        read: Returns what is taken along; None takes what the variable has.
    """
    _carried.append((variable, read or variable.get))


class PropagatedContext:
    """Whose calls are made in one place, and inside which others: a thread takes it along."""

    __slots__ = ("_values",)

    def __init__(self, *values: tuple[ContextVar[Any], Any]) -> None:
        self._values = values

    @classmethod
    def for_identity(cls, identity: Identity | None) -> PropagatedContext:
        """Return a place of which only the user is known."""
        return cls((current, identity))

    @classmethod
    def capture(cls) -> PropagatedContext | None:
        """Return this place; None where it says nothing. Nobody is asked: what is started here may
        have to run before who signs users in.
        """
        found = [(variable, read()) for variable, read in _carried]
        return None if all(value is None for _, value in found) else cls(*found)

    def enter(self) -> list[Token[Any]]:
        """Have what runs from here on run as in this place; return what `leave` needs."""
        return [variable.set(value) for variable, value in self._values]

    @staticmethod
    def leave(tokens: list[Token[Any]]) -> None:
        """Have everything as it was before `enter`."""
        for token in tokens:
            try:
                token.var.reset(token)
            except ValueError:  # noqa: PERF203 - each has to be tried
                pass  # left in another context than it was entered in; that one is gone

    def __reduce__(self) -> tuple[Any, ...]:
        """Take only the user into another process, who is asked for now: a call is never another's
        to end.
        """
        says = next(value for variable, value in self._values if variable is current)
        return PropagatedContext.for_identity, (says.resolve() if says is not None else None,)


class detached_context:  # noqa: N801 - used like `paygent_context`
    """Have a block run as nobody and inside no call: what it starts is there for others too."""

    __slots__ = ("_tokens",)

    def __enter__(self) -> None:
        self._tokens = [variable.set(None) for variable, _ in _carried]

    def __exit__(self, *error: object) -> None:
        PropagatedContext.leave(self._tokens)


class paygent_context:  # noqa: N801 - the documented name, used like a function
    """Say whose calls are made inside a `with` (or `async with`) block.

    Args:
        user_id: The application's id of the user: a string of 1 to 255 characters, an int or a
            UUID.
        session_id: The application's id of a session; None for the user's open one.
        plan: Plan for a user that nobody assigned; ignored with a warning for others.
        metadata: Up to 16 keys and 1 kB, carried by every event of the block.

    Blocks nest: the inner user wins, and inherits session and metadata only from a block of the
        same user. A block in a generator also holds for whoever reads it, between two steps: put
        `paygent_track` around the generator instead.
    """

    __slots__ = ("_identity", "_open")

    def __init__(
        self,
        user_id: Any,
        session_id: Any = None,
        plan: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._identity = Identity(user_id, session_id, plan, metadata)
        self._open: list[_Scope] = []  # of all threads and tasks that stand in it

    def __enter__(self) -> paygent_context:
        says = current_source()
        outer = says.resolve() if says is not None else None
        identity = self._identity
        if outer is not None and identity.user_id is not None and outer.user_id == identity.user_id:
            identity = identity.merged_with(outer)
        block = _Scope(identity, says, self)
        block.token = current.set(block)
        self._open.append(block)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        found = innermost_open_scope()
        block = self._innermost(found)
        if block is None:
            return
        try:
            self._open.remove(block)
        except ValueError:
            return  # left by two at once
        try:
            if found is block and block.token is not None:
                current.reset(block.token)
                block.token = None  # it knows its context, and tasks may know the block for long
                return
        except ValueError:
            current.set(block.outer)  # a copy of the context that it was entered in
        # The place where it was entered still has it.
        block.is_left = True
        if found is None or isinstance(found, _Scope):
            diagnostics.warn_once("left_elsewhere", _LEFT_ELSEWHERE)

    def _innermost(self, says: IdentitySource | None) -> _Scope | None:
        """Return the block that is left: of this place; of another only where there is but one."""
        while isinstance(says, _Scope):
            if says.owner is self and not says.is_left:
                return says
            says = says.outer
        return self._open[0] if len(self._open) == 1 else None

    async def __aenter__(self) -> paygent_context:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class _Scope:
    """A block that was entered; see `IdentitySource`.

    Attributes:
        outer: What stood around it.
        owner: What was entered.
        token: Puts back what stood there before.
        is_left: Whether it was left in another place, or before a block inside it was.
    """

    __slots__ = ("_identity", "is_left", "outer", "owner", "token")

    def __init__(
        self, identity: Identity, outer: IdentitySource | None, owner: paygent_context
    ) -> None:
        self._identity = identity
        self.outer = outer
        self.owner = owner
        self.token: Token[IdentitySource | None] | None = None
        self.is_left = False

    def resolve(self) -> Identity | None:
        """Return whose the calls of this block are; see `IdentitySource`."""
        return self._identity


_LEFT_ELSEWHERE = (
    "a paygent_context was left in another place than it was entered in, or before one inside it:"
    " around a generator's steps use paygent_track, since whoever reads it gets the block too"
)


class attach_identity:  # noqa: N801 - used like `paygent_context`
    """Have a block run as whoever `says` says, and nobody of around it; None is nobody."""

    __slots__ = ("_says", "_token")

    def __init__(self, says: IdentitySource | None) -> None:
        self._says = says

    def __enter__(self) -> None:
        self._token = current.set(self._says)

    def __exit__(self, *error: object) -> None:
        try:
            current.reset(self._token)
        except ValueError:
            pass  # as in `paygent_context`
