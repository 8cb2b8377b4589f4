"""Where an identity is in effect: `paygent_context`, and the snapshot that threads receive.

One context variable holds an `IdentitySource`, which is resolved at the moment of a call. The
arguments `paygent_*` of a single call win over it. Scopes form a chain through `outer`; a scope
that ended out of order stays in contexts that were copied meanwhile, and resolves to its outer one
there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

from paygent.client.context.identity import Identity, IdentitySource, identity_of
from paygent.client.runtime import lifecycle
from paygent.client.runtime.settings import is_disabled
from paygent.core.notices import Notice
from paygent.failopen import diagnostics

current: ContextVar[IdentitySource | None] = ContextVar("paygent_identity", default=None)
"""The identity source of the current context; None where no user is known."""


def current_identity() -> Identity | None:
    """Return the identity in effect for the current context, or None."""
    source = current.get()
    return source.resolve() if source is not None else None


def current_source() -> IdentitySource | None:
    """Return the identity source in effect, unresolved, without the scopes that have ended."""
    source = current.get()
    # Ended scopes are skipped here, so that a scope that is entered next does not keep them alive.
    while isinstance(source, Scope) and source.has_ended:
        source = source.outer
    return source


def reset_or_ignore(token: Token[Any]) -> bool:
    """Restore a variable's previous value; return False in another context than it was set in."""
    try:
        token.var.reset(token)
    except ValueError:  # nothing to restore: the context is gone, or this is a copy of it
        return False
    return True


def warn_without_init() -> None:
    """Log once that the calls of a user are not metered, since this process has no Paygent."""
    if not is_disabled(os.environ):
        diagnostics.warn_once(Notice.PROCESS_WITHOUT_INIT)


class Scope:
    """A block that was entered: the identity source inside it, and its outer one once it has ended.

    Attributes:
        identity: The identity inside; of the same user as outside, it is completed from that.
        outer: The source in effect around it.
        owner: The object that was entered.
        has_ended: Whether it has ended for every context that still refers to it.
    """

    __slots__ = ("_token", "has_ended", "identity", "outer", "owner")

    def __init__(self, identity: Identity, owner: object) -> None:
        outer = current.get()
        if outer is not None:  # rarely: so no function is called in the usual case
            outer = current_source()
            surrounding = outer.resolve() if outer is not None else None
            if surrounding is not None and identity.user_id == surrounding.user_id is not None:
                identity = identity.merged_with(surrounding)
        self.outer = outer
        self.identity = identity
        self.owner = owner
        self.has_ended = False
        self._token: Token[IdentitySource | None] | None = None

    def resolve(self) -> Identity | None:
        """Return the identity inside, or around it once it has ended; see `IdentitySource`."""
        source: IdentitySource | None = self
        while isinstance(source, Scope):  # not recursive: a batch may leave a long chain
            if not source.has_ended:
                return source.identity
            source = source.outer
        return source.resolve() if source is not None else None

    def enter(self) -> None:
        """Put the scope into effect in the current context."""
        self._token = current.set(self)

    def leave(self) -> bool:
        """Restore the outer source; return whether the scope is left where it was entered."""
        # Only then do tasks started inside keep the identity; otherwise it ends for all of them,
        # since the context that it was entered in still refers to it.
        token = self._token
        self._token = None  # it refers to its context, and a task may keep the scope
        if not lifecycle.is_watched():  # at its end: the work inside may call `init`
            warn_without_init()
        if current_source() is self:
            if token is not None and reset_or_ignore(token):
                return True
            current.set(self.outer)  # a copy of the context that it was entered in
        self.has_ended = True
        return False


class paygent_context:  # noqa: N801 - the documented name, used like a function
    """Set the user of all calls made inside a `with` (or `async with`) block.

    Args:
        user_id: The application's id of the user: a string of 1 to 255 characters, an int or a
            UUID.
        session_id: The application's id of a session; None for the user's open one.
        plan: Plan for a user without an assigned one; ignored with a warning for others.
        metadata: Up to 16 keys and 1 kB, carried by every event of the block.

    Blocks nest: the inner user wins, and inherits session and metadata only from a block of the
        same user. A block in a generator is also in effect for the generator's reader between two
        steps: put `paygent_track` around the generator instead.
    """

    __slots__ = ("_identity",)

    def __init__(
        self,
        user_id: Any,
        session_id: Any = None,
        plan: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._identity = identity_of(user_id, session_id, plan, metadata)

    def __enter__(self) -> paygent_context:
        scope = Scope(self._identity, self)
        scope._token = current.set(scope)  # as `Scope.enter`, without the cost of its call
        return self

    def __exit__(self, *error: object) -> None:
        # One object may be entered many times, also by several threads and tasks at once, so its
        # scope is found through the context. It is not the innermost one where generators with
        # blocks of their own are read in turn.
        source = current.get()
        if type(source) is Scope and source.owner is self:
            # The usual case of `Scope.leave`, without the cost of its calls (`is_watched` is one).
            token = source._token  # None once it has ended
            if token is not None and lifecycle._installed:
                try:
                    current.reset(token)
                except ValueError:
                    pass  # in a copy of the context that it was entered in: see `Scope.leave`
                else:
                    source._token = None
                    return
        while isinstance(source, Scope) and (source.owner is not self or source.has_ended):
            source = source.outer
        if not isinstance(source, Scope) or not source.leave():
            diagnostics.warn_once(Notice.SCOPE_LEFT_ELSEWHERE)

    async def __aenter__(self) -> paygent_context:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)


class attach_identity:  # noqa: N801 - used like `paygent_context`
    """Make a source the only one in effect inside a block; None detaches the surrounding user."""

    __slots__ = ("_source", "_token")

    def __init__(self, source: IdentitySource | None) -> None:
        self._source = source

    def __enter__(self) -> None:
        self._token = current.set(self._source)

    def __exit__(self, *error: object) -> None:
        reset_or_ignore(self._token)
        if not lifecycle.is_watched() and self._source is not None:
            warn_without_init()


_propagated: list[ContextVar[Any]] = [current]  # the identity is first in each snapshot, too


def propagate(variable: ContextVar[Any]) -> None:
    """Propagate another variable, None by default, together with the identity."""
    _propagated.append(variable)


class PropagatedContext:
    """A snapshot of the identity source and the enclosing calls, for another thread or process."""

    __slots__ = ("_values",)

    def __init__(self, *values: tuple[ContextVar[Any], Any]) -> None:
        self._values = values

    @classmethod
    def for_identity(cls, identity: Identity | None) -> PropagatedContext:
        """Return a snapshot that has an identity and no enclosing call."""
        return cls((current, identity))

    @classmethod
    def capture(cls) -> PropagatedContext | None:
        """Return a snapshot of the current context; None where there is nothing to propagate."""
        # The source is not resolved: a thread may start before the application signs in users.
        values = [(variable, variable.get()) for variable in _propagated]
        values[0] = current, current_source()  # without the scopes that have ended
        return None if all(value is None for _, value in values) else cls(*values)

    @classmethod
    def without_user(cls) -> PropagatedContext:
        """Return a snapshot without a user and any call, to start what outlives the current one."""
        return cls(*((variable, None) for variable in _propagated))

    def enter(self) -> list[Token[Any]]:
        """Apply the snapshot to the current context; return the tokens that undo it."""
        return [variable.set(value) for variable, value in self._values]

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function in the snapshot, and return its result."""
        tokens = self.enter()
        try:
            return function(*args, **kwargs)
        finally:
            for token in tokens:
                reset_or_ignore(token)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the identity alone, resolved now: another process cannot end a call."""
        _, source = self._values[0]
        return PropagatedContext.for_identity, (source.resolve() if source is not None else None,)
