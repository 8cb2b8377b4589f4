"""Generators and coroutines that a metered callable returned: their bodies run later.

The application gets a wrapping generator, async generator or coroutine. Each step of the body runs
inside the call: as its user, and with the call as the one around further calls, so that a metered
call in the body counts instead. The call ends exactly once: with the body's return, its exception,
its closing, or when the wrapper is dropped. Iterators and awaitables of other classes may have
attributes that the application needs, so these objects are not wrapped.
"""

from __future__ import annotations

import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any

from paygent.client.context.scopes import paygent_context
from paygent.client.metering import nesting
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.failopen import attempt, diagnostics


class SteppedCall(ABC):
    """A call that lasts as long as the body of a generator or coroutine; see `run.Work`."""

    __slots__ = ("_call", "_meter", "_scope")

    _meter: Meter | None
    _call: Call | None
    _scope: paygent_context | None

    @abstractmethod
    def end(self, answer: Any) -> Any:
        """End the call with the result of a coroutine; return what the application gets."""

    @abstractmethod
    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End the call with an exception that was raised before there was an answer."""

    def void_for_inner(self) -> None:
        """Void the call, since calls inside it are metered themselves."""
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run one step of the body inside the call. Between two steps, the code that iterates keeps
        its own user.
        """
        # Entered for each step and not once: what is set in the context of a generator is also seen
        # by the code that iterates over it.
        if self._scope is not None:
            self._scope.__enter__()
        token = nesting.enter(self.void_for_inner)
        try:
            return action(*args)
        finally:
            nesting.leave(token)
            if self._scope is not None:
                self._scope.__exit__(None, None, None)

    def end_unread(self, kind: str) -> None:
        """End the call with its estimate, since nothing in its answer can be read."""
        if self._meter is not None and self._call is not None and not self._call.done:
            warn_unread(kind, self._call.request.route)
            attempt("settle", self._meter.settle, self._call, None)

    def end_later(self, kind: str) -> None:
        """Defer such an end: a finalizer may run while this thread holds a lock of Paygent's."""
        if self._meter is not None:
            self._meter.deferred_ends.add(partial(self.end_unread, kind))

    def fail(self, error: BaseException) -> None:
        """End the call with the exception of its body, which was raised before any item."""
        if self._meter is not None and self._call is not None:
            attempt("settle", self.end_raised, self._meter, self._call, error)


def is_lazy(answer: Any) -> bool:
    """Return whether an answer is work that is still to be done: an iterator, or an awaitable."""
    kind = type(answer)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or inspect.isawaitable(answer)


def wrap_lazy(work: SteppedCall, answer: Any) -> Any:
    """Return a wrapper of the same kind around a generator or coroutine; None for other answers."""
    wrapper: Any
    if inspect.isawaitable(answer) and hasattr(
        answer, "send"
    ):  # `types.coroutine` makes generators
        wrapper = _coroutine(work, answer)
    elif inspect.isgenerator(answer):
        wrapper = _generator(work, answer)
    elif inspect.isasyncgen(answer):
        wrapper = _async_generator(work, answer)
    else:
        return None
    # Warnings and logs show the application's name, such as "coroutine 'ask' was never awaited".
    wrapper.__name__ = getattr(answer, "__name__", type(answer).__name__)
    wrapper.__qualname__ = getattr(answer, "__qualname__", wrapper.__name__)
    # A wrapper that was never started runs no code of its own when it is dropped.
    weakref.finalize(wrapper, work.end_later, type(answer).__name__).atexit = False
    return wrapper


def warn_unread(kind: str, route: str) -> None:
    """Log once that the usage of an answer is not known.

    Args:
        kind: The name of the answer's type.
        route: The operation that was called.
    """
    diagnostics.warn_once(
        f"unread:{route}:{kind}",
        "the usage of an answer of type %s (%s) cannot be read; the estimate is booked",
        kind,
        route,
    )


class _Steps:
    """Runs each step of a body inside its call; what `yield from` and `await` delegate to."""

    __slots__ = ("_body", "_work", "has_yielded")

    def __init__(self, work: SteppedCall, body: Any) -> None:
        self._work = work
        self._body = body
        self.has_yielded = False

    def __iter__(self) -> _Steps:
        return self

    __await__ = __iter__

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        item = self._work.step(self._body.send, value)
        self.has_yielded = True  # not reached where the step raised or returned
        return item

    def throw(self, *error: Any) -> Any:
        return self._work.step(self._body.throw, *error)

    def close(self) -> None:
        try:
            self._work.step(self._body.close)
        finally:  # the garbage collector closes what is dropped, at any allocation
            self._work.end_later(type(self._body).__name__)


def _generator(work: SteppedCall, body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    steps = _Steps(work, body)
    try:
        answer = yield from steps
    except BaseException as error:
        _end_raised(work, body, error, has_yielded=steps.has_yielded)
        raise
    work.end_unread(type(body).__name__)
    return answer


async def _coroutine(work: SteppedCall, body: Any) -> Any:
    try:
        answer = await _Steps(work, body)
    except BaseException as error:
        work.fail(error)
        raise
    return work.end(answer)


async def _async_generator(
    work: SteppedCall, body: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    # `yield from` does not exist here, so `asend`, `athrow` and `aclose` are passed on by hand.
    step: Any = body.asend(None)
    has_yielded = False
    try:
        while True:
            item = await _Steps(work, step)
            has_yielded = True
            try:
                step = body.asend((yield item))
            except GeneratorExit:
                try:
                    await _Steps(work, body.aclose())
                finally:  # the garbage collector closes it where no event loop does
                    work.end_later(type(body).__name__)
                raise
            except BaseException as error:  # noqa: BLE001 - the body is to handle it
                step = body.athrow(error)
    except StopAsyncIteration:
        work.end_unread(type(body).__name__)
    except BaseException as error:
        _end_raised(work, body, error, has_yielded=has_yielded)
        raise


def _end_raised(work: SteppedCall, body: Any, error: BaseException, *, has_yielded: bool) -> None:
    """End a call with the exception of its body; items that came before it were paid for."""
    if has_yielded:
        work.end_unread(type(body).__name__)
    else:
        work.fail(error)
