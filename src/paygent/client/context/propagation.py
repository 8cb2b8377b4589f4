"""Work that runs elsewhere as the current user: `bind`, and the callable that pools are given.

A context variable does not follow a call into a new thread or process. A bound function keeps its
kind and its name, and runs as the user of the moment it was bound in.
"""

from __future__ import annotations

import functools
import inspect
from types import MethodType
from typing import Any

from paygent.client.context.identity import Identity
from paygent.client.context.scopes import (
    PropagatedContext,
    attach_identity,
    current_identity,
    warn_without_init,
)
from paygent.client.context.track import wrap_async_generator, wrap_generator, wrap_in_scope
from paygent.client.runtime.lifecycle import is_watched
from paygent.core.validation import FieldError, InvalidValue
from paygent.failopen import attempt


class BoundCallable:
    """A function that runs in the context it was bound in, and otherwise looks like itself."""

    def __init__(self, function: Any, context: PropagatedContext, is_pickled: bool = False) -> None:
        self._paygent_function = function
        self._paygent_context = context
        self._paygent_is_pickled = is_pickled  # into this process, which may lack `Paygent.init`

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function in that context; warn if Paygent does not run in this process."""
        try:
            return self._paygent_context.run(self._paygent_function, *args, **kwargs)
        finally:
            # After the work, which may itself call `Paygent.init`.
            if self._paygent_is_pickled and not is_watched():
                warn_without_init()

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else MethodType(self, owner)  # bound in a class's body

    def __reduce__(self) -> tuple[Any, ...]:  # pools of processes pickle their work
        return BoundCallable, (self._paygent_function, self._paygent_context, True)

    def __getattr__(self, name: str) -> Any:
        # While it is copied or unpickled it has no function yet: without this, endless recursion.
        if name.startswith("_paygent_"):
            raise AttributeError(name)
        return getattr(self._paygent_function, name)


def bind(work: Any) -> Any:
    """Return work that runs as the user of this moment, wherever it runs; see `Paygent.bind`."""
    is_begun = inspect.isgenerator(work) or inspect.isasyncgen(work) or inspect.iscoroutine(work)
    if not callable(work) and not is_begun:
        rule = "must be callable, a generator or a coroutine"
        raise InvalidValue("bind", (FieldError("fn", work, rule),))
    identity = current_identity()
    if identity is None:
        return work

    def scope(*_: Any) -> attach_identity:
        return attach_identity(identity)

    if inspect.isgenerator(work):
        return wrap_generator(lambda: work, scope)()
    if inspect.isasyncgen(work):
        return wrap_async_generator(lambda: work, scope)()
    if inspect.iscoroutine(work):
        return _await_as(identity, work)
    # The kind of an object is that of its `__call__`, unless it is a class or a partial function.
    is_object = not inspect.isroutine(work) and not isinstance(work, (type, functools.partial))
    function = getattr(work, "__call__", work) if is_object else work  # noqa: B004 - the method
    copy_name = functools.partial(functools.update_wrapper, wrapped=work, updated=())
    # Their bodies run after the call has returned, so wrapping the call is not enough.
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        return copy_name(wrap_in_scope(function, scope))
    bound = BoundCallable(work, PropagatedContext.for_identity(identity))
    attempt("bind", copy_name, bound)  # an object's attributes may raise anything
    return bound


async def _await_as(identity: Identity, coroutine: Any) -> Any:
    with attach_identity(identity):
        return await coroutine
