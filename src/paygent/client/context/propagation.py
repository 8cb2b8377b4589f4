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
from paygent.client.context.scopes import PropagatedContext, attach_identity, current_identity
from paygent.client.context.track import wrap_async_generator, wrap_generator, wrap_in_scope
from paygent.client.runtime.lifecycle import is_watched
from paygent.core.validation import ValidationErrors
from paygent.failopen import attempt, diagnostics


class BoundCallable:
    """A function that runs in the context it was handed over in, and otherwise looks like itself.

    It can be pickled if the function can, so that a pool of processes takes it too.
    """

    def __init__(self, function: Any, context: PropagatedContext) -> None:
        self._paygent_function = function
        self._paygent_context = context

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function in that context."""
        context = self._paygent_context
        tokens = context.enter()
        try:
            return self._paygent_function(*args, **kwargs)
        finally:
            context.leave(tokens)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else MethodType(self, owner)  # bound in a class's body

    def __reduce__(self) -> tuple[Any, ...]:
        return _UnpickledCallable, (self._paygent_function, self._paygent_context)

    def __getattr__(self, name: str) -> Any:
        # While it is copied or unpickled it has no function yet: without this, endless recursion.
        if name.startswith("_paygent_"):
            raise AttributeError(name)
        return getattr(self._paygent_function, name)


class _UnpickledCallable(BoundCallable):
    """Bound work that was pickled into another process."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function; warn if Paygent does not run in this process."""
        try:
            return super().__call__(*args, **kwargs)
        finally:
            if not is_watched():  # after the work, which may itself call `Paygent.init`
                diagnostics.warn_once("process_without_init", _NO_INIT)


_NO_INIT = (
    "work of a user ran in a process in which Paygent.init was not called: calls made there are"
    " neither gated nor metered; call it in the pool's initializer"
)

_KINDS_BEGUN = (inspect.isgenerator, inspect.isasyncgen, inspect.iscoroutine)

_KINDS_DEFERRED = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)
"""Kinds of functions that return before their body runs: wrapping the call is not enough."""


def bind(work: Any) -> Any:
    """Return work that runs as the user of this moment, wherever it runs; see `Paygent.bind`.

    Raises:
        InvalidValue: if it is none of the kinds.
    """
    if not (callable(work) or any(is_kind(work) for is_kind in _KINDS_BEGUN)):
        errors = ValidationErrors("bind")
        errors.add("fn", work, "must be callable, a generator or a coroutine")
        errors.raise_if_any()
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
    function = work if inspect.isroutine(work) else _function_behind(work)
    if any(is_kind(function) for is_kind in _KINDS_DEFERRED):
        return functools.update_wrapper(wrap_in_scope(function, scope), work, updated=())
    bound = BoundCallable(work, PropagatedContext.for_identity(identity))
    attempt("bind", _copy_name, bound, work)  # an object's attributes may raise anything
    return bound


def _copy_name(bound: Any, work: Any) -> None:
    functools.update_wrapper(bound, work, updated=())


def _function_behind(work: Any) -> Any:
    """Return the method that runs when an object is called; the object itself where its kind is not
    known from that (a class, a `functools.partial`).
    """
    if isinstance(work, (type, functools.partial)):
        return work
    return getattr(work, "__call__", work)  # noqa: B004 - the method, not whether there is one


async def _await_as(identity: Identity, coroutine: Any) -> Any:
    with attach_identity(identity):
        return await coroutine
