"""Which calls enclose a place: by context and by task, and left in any order."""

from __future__ import annotations

import asyncio
import contextvars
import threading

from paygent.client.metering import nesting
from paygent.client.metering.call import Request

REQUEST = Request("openai", "chat.completions", "gpt-4o", None)


def test_yield_to_inner__inside_a_call__voids_that_call_and_afterwards_none() -> None:
    """The innermost is voided; the ones around it were voided when it began."""
    voided: list[str] = []
    nesting.yield_to_inner(REQUEST)
    outer = nesting.enter(lambda: voided.append("outer"))
    inner = nesting.enter(lambda: voided.append("inner"))
    nesting.yield_to_inner(REQUEST)
    nesting.leave(inner)
    nesting.yield_to_inner(REQUEST)
    nesting.leave(outer)
    nesting.yield_to_inner(REQUEST)
    assert voided == ["inner", "outer"]


def test_leave__in_another_context__is_no_error() -> None:
    """A coroutine may be closed by another task than the one that entered."""
    token = contextvars.Context().run(nesting.enter, lambda: None)
    nesting.leave(token)


async def test_yield_to_inner__in_a_task_that_is_awaited_as_a_call__voids_that_call() -> None:
    """The task's context was copied before; neither other tasks nor other threads are affected."""
    voided: list[str] = []

    async def begin() -> None:
        nesting.yield_to_inner(REQUEST)

    task = asyncio.create_task(begin())
    with nesting.enclosing_task(task, lambda: voided.append("call")):
        nesting.yield_to_inner(REQUEST)
        thread = threading.Thread(target=nesting.yield_to_inner, args=(REQUEST,))
        thread.start()
        thread.join()
        assert voided == []
        await task
    assert voided == ["call"]
    with nesting.enclosing_task(task, voided.clear), nesting.enclosing_task(task, voided.clear):
        pass  # two calls may await one task
    assert nesting._tasks == {}
