"""Generators and coroutines that a metered callable returned: their bodies run later.

The application gets a wrapping generator, async generator or coroutine. Each step of the body runs
inside the call: as its user, and with the call as the one around further calls, so that a metered
call in the body counts instead. The call ends exactly once: with the body's return, its exception,
its closing, or when the wrapper is dropped. The garbage collector closes what is dropped, at any
allocation, so a closing ends the call as a finalizer does. Iterators and awaitables of other
classes may have attributes that the application needs, so these objects are not wrapped.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol


class SteppedCall(Protocol):
    """A call that lasts as long as the body of a generator or coroutine: a `run.Work`."""

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run one step of the body inside the call."""

    def end(self, answer: Any) -> Any:
        """End the call with the result of a coroutine; return what the application gets."""

    def end_unread(self, kind: str) -> None:
        """End the call with its estimate."""

    def end_later(self, kind: str) -> None:
        """End the call with its estimate; safe in a finalizer."""

    def fail(self, error: BaseException) -> None:
        """End the call with the exception of its body, which was raised before any item; safe in a
        finalizer.
        """


def is_lazy(answer: Any) -> bool:
    """Return whether an answer is work that is still to be done: an iterator, or an awaitable."""
    kind = type(answer)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or inspect.isawaitable(answer)


def wrap_lazy(work: SteppedCall, answer: Any) -> Any:
    """Return a wrapper of the same kind around a generator or coroutine; None for other answers."""
    wrapper: Any
    if inspect.isawaitable(answer) and hasattr(answer, "send"):
        wrapper = _coroutine(work, answer)  # first, since `types.coroutine` makes generators
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


@dataclass(slots=True, eq=False)
class _Steps:
    """Runs each step of a body inside its call; what `yield from` and `await` delegate to."""

    _work: SteppedCall
    _body: Any
    has_yielded: bool = False

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
        self._work.step(self._body.close)


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
                await _Steps(work, body.aclose())
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
        work.end_later(type(body).__name__)  # perhaps in a finalizer, which closes the body
    else:
        work.fail(error)
