"""`paygent_track`: a decorator that runs a function of any kind as a user.

A generator's body runs wherever its next item is requested. So each step of it runs inside the
scope, and the reader's code between the steps keeps its own user.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from paygent.client.context.scopes import current_identity, paygent_context
from paygent.core.validation import FieldError, InvalidValue
from paygent.failopen import attempt

_F = TypeVar("_F", bound=Callable[..., Any])

ScopeFactory = Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[Any]]
"""Returns the block that a call with these arguments runs in; it is entered once per step."""


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

    Raises:
        TypeError: if it is used as a decorator itself, without arguments.
        InvalidValue: by the decorator, if the function has no parameter `user_id_param`.
    """

    if callable(user_id):
        raise TypeError("write @paygent_track(…) or @pg.track(…): the decorator takes arguments")

    def decorate(function: _F) -> _F:
        signature = None
        if user_id_param is not None:
            signature = inspect.signature(function)
            _check_parameter(function, signature, user_id_param)

        def scope(args: tuple[Any, ...], kwargs: dict[str, Any]) -> paygent_context:
            user = None
            if signature is not None:
                # Wrong arguments the function itself rejects, in its own words.
                user = attempt("user_id_param", _argument, signature, user_id_param, args, kwargs)
            user = user_id if user is None else user
            outer = current_identity()
            if user is None and outer is not None:
                user = outer.user_id
            return paygent_context(user, session_id, plan, metadata)

        return cast(_F, wrap_in_scope(function, scope))

    return decorate


def _check_parameter(function: Any, signature: inspect.Signature, name: str) -> None:
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    if name not in signature.parameters and not takes_any:
        shown = f"{getattr(function, '__name__', 'the function')}{signature}"
        error = FieldError("user_id_param", name, f"must be a parameter of {shown}")
        raise InvalidValue("paygent_track", (error,))


def _argument(
    signature: inspect.Signature, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return an argument of a call by its name, defaults included; None if it is absent."""
    bound = signature.bind_partial(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments.get(name, kwargs.get(name))  # one of `**kwargs` has no parameter


def wrap_in_scope(function: Callable[..., Any], scope_for: ScopeFactory) -> Callable[..., Any]:
    """Return a function of the same kind that runs inside the scope its arguments give."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def in_coroutine(*args: Any, **kwargs: Any) -> Any:
            with scope_for(args, kwargs):
                return await function(*args, **kwargs)

        return in_coroutine

    if inspect.isasyncgenfunction(function):
        return wrap_async_generator(function, scope_for)
    if inspect.isgeneratorfunction(function):
        return wrap_generator(function, scope_for)

    @functools.wraps(function)
    def in_function(*args: Any, **kwargs: Any) -> Any:
        with scope_for(args, kwargs):
            return function(*args, **kwargs)

    return in_function


def wrap_async_generator(
    function: Callable[..., Any], scope_for: ScopeFactory
) -> Callable[..., Any]:
    """Return an async generator function that runs each step inside the scope."""

    @functools.wraps(function)
    async def in_async_generator(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        scope = scope_for(args, kwargs)
        step = generator.asend(None)
        while True:
            with scope:  # only while the generator runs: its reader has another user
                try:
                    item = await step
                except StopAsyncIteration:
                    return
            try:
                step = generator.asend((yield item))
            # `GeneratorExit` too: the generator's own `finally` blocks may make calls.
            except BaseException as error:  # noqa: BLE001 - re-raised inside the generator
                step = generator.athrow(error)

    return in_async_generator


def wrap_generator(function: Callable[..., Any], scope_for: ScopeFactory) -> Callable[..., Any]:
    """Return a generator function that runs each step inside the scope."""

    @functools.wraps(function)
    def in_generator(*args: Any, **kwargs: Any) -> Any:
        generator = function(*args, **kwargs)
        scope = scope_for(args, kwargs)
        advance = generator.__next__
        while True:
            with scope:  # only while the generator runs: its reader has another user
                try:
                    item = advance()
                except StopIteration as stop:
                    return stop.value
            try:
                advance = functools.partial(generator.send, (yield item))
            # `GeneratorExit` too: the generator's own `finally` blocks may make calls.
            except BaseException as error:  # noqa: BLE001 - re-raised inside the generator
                advance = functools.partial(generator.throw, error)

    return in_generator
