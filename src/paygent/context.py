"""Identify: whose call is it? One context variable, read at the moment of the call.

`paygent_context` sets it, `paygent_track` does the same around a function, and the arguments
`paygent_*` of a single call win over both. Nothing here raises around a call: a user id that cannot
be used is said once and treated as missing.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from math import isfinite
from types import TracebackType
from typing import Any, TypeVar, cast
from uuid import UUID

from paygent.failopen import attempt, failures
from paygent.settings import USER_ID_CHARS_MAX

_F = TypeVar("_F", bound=Callable[..., Any])

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
            outer = current.get()
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


def _wrap(
    function: Callable[..., Any], scope: Callable[..., paygent_context]
) -> Callable[..., Any]:
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


def _wrap_async_generator(
    function: Callable[..., Any], scope: Callable[..., paygent_context]
) -> Callable[..., Any]:
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


def _wrap_generator(
    function: Callable[..., Any], scope: Callable[..., paygent_context]
) -> Callable[..., Any]:
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
