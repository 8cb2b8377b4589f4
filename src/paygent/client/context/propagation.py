"""Whose calls they are, around functions and into other threads: `paygent_track` and `bind`.

A context variable does not follow a call into a new thread, and a generator runs where it is asked
for its next item. What is here takes the user along: a function keeps its kind, and each step of a
generator runs as its user, while the code between the steps keeps its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any, TypeVar, cast

from paygent.client.context.identity import (
    Identity,
    PropagatedContext,
    attach_identity,
    current_identity,
    paygent_context,
)
from paygent.client.runtime.lifecycle import is_watched
from paygent.core.validation import ValidationErrors
from paygent.failopen import attempt, diagnostics

_F = TypeVar("_F", bound=Callable[..., Any])

Scope = Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[Any]]
"""Returns the block that a call with these arguments runs in; it is entered once per step."""


class BoundCallable:
    """A function that runs as in the place it was handed over in; can be pickled if the function
    can, so that a pool of processes takes it too. Looks like the function to who asks its name.
    """

    def __init__(self, function: Callable[..., Any], place: PropagatedContext) -> None:
        self._paygent_function = function
        self._paygent_place = place

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function as in that place."""
        place = self._paygent_place
        tokens = place.enter()
        try:
            return self._paygent_function(*args, **kwargs)
        finally:
            place.leave(tokens)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else MethodType(self, owner)  # bound in a class's body

    def __reduce__(self) -> tuple[Any, ...]:
        return _Elsewhere, (self._paygent_function, self._paygent_place)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_paygent_"):  # while it is copied, or unpickled
            raise AttributeError(name)
        return getattr(self._paygent_function, name)


class _Elsewhere(BoundCallable):
    """Bound work that was taken into another process."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function; say it where its calls go unseen."""
        try:
            return super().__call__(*args, **kwargs)
        finally:
            if not is_watched():
                diagnostics.warn_once("process_without_init", _NOBODY_THERE)


_NOBODY_THERE = (
    "work of a user ran in a process in which Paygent.init was not called: calls made there are"
    " neither gated nor metered; call it in the pool's initializer"
)


def bind(work: Any) -> Any:
    """Return work that runs as the user of this moment, wherever it runs; see `Paygent.bind`.

    Raises:
        InvalidValue: if it is none of the kinds.
    """
    identity = current_identity()
    kinds = (inspect.isgenerator, inspect.isasyncgen, inspect.iscoroutine)
    is_begun = any(is_kind(work) for is_kind in kinds)
    if not (callable(work) or is_begun):
        findings = ValidationErrors("bind")
        findings.add("fn", work, "must be callable, a generator or a coroutine")
        findings.raise_if_any()
    if identity is None:
        return work

    def scope(*_: Any) -> attach_identity:
        return attach_identity(identity)

    if inspect.isgenerator(work):
        return _wrap_generator(lambda: work, scope)()
    if inspect.isasyncgen(work):
        return _wrap_async_generator(lambda: work, scope)()
    if inspect.iscoroutine(work):
        return _as_user(work, identity)
    run = work if inspect.isroutine(work) else _call_of(work)
    if any(is_kind(run) for is_kind in _RUN_LATER):
        return functools.update_wrapper(_wrap(run, scope), work, updated=())
    bound = BoundCallable(work, PropagatedContext.for_identity(identity))
    attempt("bind", _look_like, bound, work)  # an odd one may raise whatever it is asked for
    return bound


def _look_like(bound: Any, work: Any) -> None:
    functools.update_wrapper(bound, work, updated=())


_RUN_LATER = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)
"""Kinds of functions whose body does not run when they are called."""


def _call_of(work: Any) -> Any:
    """Return what runs when an object is called; the object itself where that does not tell more
    (a class, a `functools.partial`).
    """
    if isinstance(work, (type, functools.partial)):
        return work
    return getattr(work, "__call__", work)  # noqa: B004 - the method, not whether there is one


async def _as_user(coroutine: Any, identity: Identity) -> Any:
    with attach_identity(identity):
        return await coroutine


def paygent_track(
    user_id: Any = None,
    session_id: Any = None,
    plan: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    user_id_param: str | None = None,
) -> Callable[[_F], _F]:
    """Decorate a function so that calls made in it belong to a user.

    Args:
        user_id, session_id, plan, metadata: As in `paygent_context`; without a user id, the
            surrounding block's user stays.
        user_id_param: Name of the function's own parameter that holds the user id; it wins over
            `user_id`.

    Returns:
        A decorator for sync and async functions and for sync and async generator functions.
    """

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function) if user_id_param is not None else None

        def scope(args: tuple[Any, ...], kwargs: dict[str, Any]) -> paygent_context:
            whose = user_id
            if signature is not None:
                named = attempt("user_id_param", _argument, signature, user_id_param, args, kwargs)
                whose = user_id if named is None else named
            outer = current_identity()
            if whose is None and outer is not None:
                whose = outer.user_id
            return paygent_context(whose, session_id, plan, metadata)

        return cast(_F, _wrap(function, scope))

    return decorate


def _argument(
    signature: inspect.Signature, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return the argument of a call by its name, given or by default; None where there is none."""
    bound = signature.bind_partial(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments.get(name)


def _wrap(function: Callable[..., Any], scope: Scope) -> Callable[..., Any]:
    """Return `function` inside the scope that its arguments give, keeping its kind."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def in_coroutine(*args: Any, **kwargs: Any) -> Any:
            with scope(args, kwargs):
                return await function(*args, **kwargs)

        return in_coroutine

    if inspect.isasyncgenfunction(function):
        return _wrap_async_generator(function, scope)
    if inspect.isgeneratorfunction(function):
        return _wrap_generator(function, scope)

    @functools.wraps(function)
    def in_function(*args: Any, **kwargs: Any) -> Any:
        with scope(args, kwargs):
            return function(*args, **kwargs)

    return in_function


def _wrap_async_generator(function: Callable[..., Any], scope: Scope) -> Callable[..., Any]:
    """Return an async generator function whose every step runs inside the scope."""

    @functools.wraps(function)
    async def in_async_generator(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        whose = scope(args, kwargs)
        go_on = generator.__anext__
        try:
            while True:
                with whose:  # only while the generator runs: its consumer has another user
                    try:
                        item = await go_on()
                    except StopAsyncIteration:
                        return
                try:
                    go_on = functools.partial(generator.asend, (yield item))
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - raised inside, where it belongs
                    go_on = functools.partial(generator.athrow, thrown)
        finally:
            with whose:
                await generator.aclose()

    return in_async_generator


def _wrap_generator(function: Callable[..., Any], scope: Scope) -> Callable[..., Any]:
    """Return a generator function whose every step runs inside the scope."""

    @functools.wraps(function)
    def in_generator(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        whose = scope(args, kwargs)
        go_on = generator.__next__
        try:
            while True:
                with whose:  # only while the generator runs: its consumer has another user
                    try:
                        item = go_on()
                    except StopIteration as stop:
                        return stop.value
                try:
                    go_on = functools.partial(generator.send, (yield item))
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - raised inside, where it belongs
                    go_on = functools.partial(generator.throw, thrown)
        finally:
            with whose:
                generator.close()

    return in_generator
