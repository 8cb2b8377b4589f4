"""Which calls enclose a place: by context and by task, and left in any order."""

from __future__ import annotations

import asyncio
import contextvars
import threading

from paygent.client.metering import nesting
from paygent.client.metering.call import Request

REQUEST = Request("openai", "chat.completions", "gpt-4o", None)


def call(void: nesting.VoidCall, *, meters: bool = True) -> nesting.Enclosing:
    """An enclosing call."""
    return nesting.Enclosing(void, lambda: meters)


def test_yield_to_inner__inside_a_call__voids_that_call_and_afterwards_none() -> None:
    """The innermost is voided; the ones around it were voided when it began."""
    voided: list[str] = []
    nesting.yield_to_inner(REQUEST)
    outer = nesting.enter(call(lambda: voided.append("outer")))
    inner = nesting.enter(call(lambda: voided.append("inner")))
    nesting.yield_to_inner(REQUEST)
    nesting.leave(inner)
    nesting.yield_to_inner(REQUEST)
    nesting.leave(outer)
    nesting.yield_to_inner(REQUEST)
    assert voided == ["inner", "outer"]


def test_leave__in_another_context__is_no_error() -> None:
    """A coroutine may be closed by another task than the one that entered."""
    token = contextvars.Context().run(nesting.enter, call(lambda: None))
    nesting.leave(token)


async def test_yield_to_inner__in_a_task_that_is_awaited_as_a_call__voids_that_call() -> None:
    """The task's context was copied before; neither other tasks nor other threads are affected."""
    voided: list[str] = []

    async def begin() -> None:
        nesting.yield_to_inner(REQUEST)

    task = asyncio.create_task(begin())
    with nesting.enclosing_task(task, call(lambda: voided.append("call"))):
        nesting.yield_to_inner(REQUEST)
        thread = threading.Thread(target=nesting.yield_to_inner, args=(REQUEST,))
        thread.start()
        thread.join()
        assert voided == []
        await task
    assert voided == ["call"]
    with nesting.enclosing_task(task, call(voided.clear)):
        with nesting.enclosing_task(task, call(voided.clear)):
            pass  # two calls may await one task
    assert nesting.tasks == {}


async def test_is_metered__inside_a_call_that_counts__is_true() -> None:
    """By context and by task; a call that was voided for another one meters nothing."""
    assert not nesting.is_metered()
    for meters in (True, False):
        token = nesting.enter(call(lambda: None, meters=meters))
        assert nesting.is_metered() is meters
        nesting.leave(token)
        with nesting.enclosing_task(asyncio.current_task(), call(lambda: None, meters=meters)):
            assert nesting.is_metered() is meters
    assert not nesting.is_metered()
