"""Which calls stand around a place: told by context and by stack, and left in any order."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

import pytest

from paygent.client.metering import nesting
from paygent.client.metering.call import Request

REQUEST = Request("openai", "chat.completions", "gpt-4o", None)


@pytest.fixture(autouse=True)
def _no_lazies() -> Iterator[None]:
    """Leave none behind."""
    yield
    nesting.lazies.clear()


class Noted:
    """A lazy object whose body is a given frame."""

    def __init__(self, frame_id: int) -> None:
        self.frame_id = frame_id
        self.told: list[str] = []

    def give_up(self) -> None:
        """Note it."""
        self.told.append("give up")

    def runs_in(self, frames: set[int]) -> bool:
        """Look for the frame."""
        return self.frame_id in frames

    def look(self) -> None:
        """Note it."""
        self.told.append("look")


def test_give_up__inside_a_call__tells_that_call_and_afterwards_none() -> None:
    """The innermost is told; the ones around it were told when it began."""
    told: list[str] = []
    nesting.yield_to_inner(REQUEST)
    outer = nesting.enter(lambda: told.append("outer"))
    inner = nesting.enter(lambda: told.append("inner"))
    nesting.yield_to_inner(REQUEST)
    nesting.leave(inner)
    nesting.yield_to_inner(REQUEST)
    nesting.leave(outer)
    nesting.yield_to_inner(REQUEST)
    assert told == ["inner", "outer"]


def test_leave__in_another_context__is_no_error() -> None:
    """A coroutine may be closed by another task than the one that entered."""
    token = contextvars.Context().run(nesting.enter, lambda: None)
    nesting.leave(token)


def test_give_up__a_lazy_body_on_the_stack__is_told_and_no_other() -> None:
    """Its frame is among those of this thread, however deep."""
    import sys

    running, other = Noted(id(sys._getframe())), Noted(0)
    nesting.lazies.update({1: running, 2: other})

    def deeper() -> None:
        nesting.yield_to_inner(REQUEST)

    deeper()
    nesting.look()
    assert (running.told, other.told) == (["give up", "look"], ["look"])
