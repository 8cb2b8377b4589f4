"""Which calls enclose the code that runs here, so that a metered call inside them counts instead.

A wrapped callable may make calls that are metered themselves. Then the enclosing call must not
count, and must release its hold *before* they are gated: otherwise they would wait for their own
wrapper. A context variable names the innermost enclosing call: during the callable, and at each
step of a generator or coroutine that it returned. A task that was given to `awrap` runs in a
context that was copied earlier, so it is found by its identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from paygent.client.context.scopes import propagate, reset_or_ignore
from paygent.client.metering.call import Request
from paygent.client.runtime.event_loops import caller

VoidCall = Callable[[], None]
"""Voids a call, if it has not ended."""


class Enclosing(NamedTuple):
    """A call that encloses others.

    Attributes:
        void: Voids it, if it has not ended.
        meters: Returns whether it still counts, and for all that runs inside.
    """

    void: VoidCall
    meters: Callable[[], bool]


enclosing: ContextVar[Enclosing | None] = ContextVar("paygent_enclosing_call", default=None)
"""The innermost call that encloses the current code, or None."""
propagate(enclosing)  # a callable may make its calls on threads

yield_hooks: list[Callable[[Request], None]] = []
"""Void the enclosing calls that an integration keeps by itself, given the call that begins."""

tasks: dict[Any, Enclosing] = {}
"""The calls that enclose a task, by the tasks that are awaited as calls."""


def enter(call: Enclosing) -> Token[Enclosing | None]:
    """Note that the code from here on runs inside a call."""
    return enclosing.set(call)


def leave(token: Token[Enclosing | None]) -> None:
    """Note that the call's code has run."""
    reset_or_ignore(token)


class EnclosingCall:
    """Makes a call the enclosing one of a block; may be entered again once it was left."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Enclosing) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._token = enter(self._call)

    def __exit__(self, *error: object) -> None:
        leave(self._token)


@contextmanager
def enclosing_task(task: Any, call: Enclosing) -> Iterator[None]:
    """Make a call the enclosing one of a task while it is awaited in this block."""
    tasks[task] = call
    try:
        yield
    finally:
        tasks.pop(task, None)  # two calls may await one task


def yield_to_inner(request: Request) -> None:
    """Void the enclosing calls: a call that is metered itself begins here."""
    outer = enclosing.get()
    if outer is not None:
        outer.void()
    for hook in yield_hooks:
        hook(request)
    if tasks:  # nearly always empty, and then nothing is looked up
        outer = tasks.get(caller())
        if outer is not None:
            outer.void()


def is_metered() -> bool:
    """Return whether the code here runs inside a call that is metered as a whole."""
    calls = (enclosing.get(), tasks.get(caller()) if tasks else None)
    return any(call is not None and call.meters() for call in calls)
