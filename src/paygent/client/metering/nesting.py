"""Which calls stand around the code that runs here, so that a call inside them counts instead.

A wrapped callable may make calls that are metered themselves. Then the call around them must not
count, and must give up what it holds *before* they are gated: otherwise they would wait for their
own wrapper. Two kinds of code run inside a wrapped call: what the callable does before it returns,
which its context tells, and the body of a generator or coroutine that it returned, which runs later
and elsewhere, and which only the stack tells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Protocol

from paygent.client.context.identity import propagate
from paygent.client.metering.call import Request

GiveUp = Callable[[], None]
"""Voids a call, if it has not ended."""

_around: ContextVar[GiveUp | None] = ContextVar("paygent_around", default=None)


class Lazy(Protocol):
    """A generator or coroutine of the application's that a wrapped call returned."""

    def give_up(self) -> None:
        """Void the call that returned it."""

    def runs_in(self, frames: set[int]) -> bool:
        """Tell whether its body is among these frames, named by identity."""

    def look(self) -> None:
        """End the call if the body has come to its end."""


lazies: dict[int, Lazy] = {}
"""Those whose calls have not ended; by a key of their own."""


def enter(give_up: GiveUp | None) -> Token[GiveUp | None]:
    """Note that what runs from here on runs inside a call; inside none with None."""
    return _around.set(give_up)


def leave(token: Token[GiveUp | None]) -> None:
    """Note that the call's code has run."""
    try:
        _around.reset(token)
    except ValueError:
        pass  # left in another context than it was entered in; that one is gone


class OnStack(Protocol):
    """Knows of calls that stand around a place, by its stack."""

    def give_up(self, request: Request) -> None:
        """Have them give up for a call that is metered itself."""

    def around(self) -> GiveUp | None:
        """Return what has them give up, for another thread that is started here; or None."""


on_stack: list[OnStack] = []


def enclosing_call() -> GiveUp | None:
    """Return what has the calls around this place give up, or None."""
    told = [_around.get(), *(each.around() for each in on_stack)]
    found = [each for each in told if each is not None]
    if len(found) < 2:  # as nearly always
        return found[0] if found else None

    def give_up() -> None:
        for each in found:
            each()

    return give_up


propagate(_around, enclosing_call)  # a callable may make its calls on threads


class Around:
    """Has a call be the one around what runs in a block; may be entered again when it was left."""

    __slots__ = ("_give_up", "_token")

    def __init__(self, give_up: GiveUp) -> None:
        self._give_up = give_up

    def __enter__(self) -> None:
        self._token = enter(self._give_up)

    def __exit__(self, *error: object) -> None:
        leave(self._token)


def yield_to_inner(request: Request) -> None:
    """Have the calls around this place give up: a call that is metered itself begins here."""
    outer = _around.get()
    if outer is not None:
        outer()
    for each in on_stack:
        each.give_up(request)
    if lazies:
        frames = _frames_here()
        for lazy in list(lazies.values()):
            if lazy.runs_in(frames):
                lazy.give_up()


def look() -> None:
    """End the calls whose generator has come to its end without anybody telling."""
    for lazy in list(lazies.values()):
        lazy.look()


def _frames_here() -> set[int]:
    """Return the frames of this thread's stack, by identity."""
    frames = set()
    frame = sys._getframe(1)
    while frame is not None:
        frames.add(id(frame))
        frame = frame.f_back  # type: ignore[assignment]
    return frames
