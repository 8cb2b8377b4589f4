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
from typing import Any

from paygent.client.context.scopes import propagate, reset_or_ignore
from paygent.client.metering.call import Request
from paygent.client.runtime.event_loops import caller

GiveUp = Callable[[], None]
"""Voids a call, if it has not ended."""

_around: ContextVar[GiveUp | None] = ContextVar("paygent_around", default=None)

propagate(_around)  # a callable may make its calls on threads

yield_hooks: list[Callable[[Request], None]] = []
"""Void the enclosing calls that an integration keeps by itself, given the call that begins."""

_tasks: dict[Any, GiveUp] = {}
"""By the tasks that are awaited as calls."""


def enter(give_up: GiveUp | None) -> Token[GiveUp | None]:
    """Note that the code from here on runs inside a call; inside none with None."""
    return _around.set(give_up)


def leave(token: Token[GiveUp | None]) -> None:
    """Note that the call's code has run."""
    reset_or_ignore(token)


class Around:
    """Makes a call the enclosing one of a block; may be entered again once it was left."""

    __slots__ = ("_give_up", "_token")

    def __init__(self, give_up: GiveUp) -> None:
        self._give_up = give_up

    def __enter__(self) -> None:
        self._token = enter(self._give_up)

    def __exit__(self, *error: object) -> None:
        leave(self._token)


@contextmanager
def enclosing_task(task: Any, give_up: GiveUp) -> Iterator[None]:
    """Make a call the enclosing one of a task while it is awaited in this block."""
    _tasks[task] = give_up
    try:
        yield
    finally:
        _tasks.pop(task, None)  # two calls may await one task


def yield_to_inner(request: Request) -> None:
    """Void the enclosing calls: a call that is metered itself begins here."""
    outer = _around.get()
    if outer is not None:
        outer()
    for hook in yield_hooks:
        hook(request)
    if _tasks:  # nearly always empty, and then nothing is looked up
        outer = _tasks.get(caller())
        if outer is not None:
            outer()
