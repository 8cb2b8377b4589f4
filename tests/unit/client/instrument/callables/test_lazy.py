"""Work that is still to be done: which objects it is, and how its end is seen from outside."""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from paygent.client.accounts.forecasts import Hold, Use
from paygent.client.instrument.callables.lazy import Running, is_lazy, watch
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage


class Ends:
    """Stands for a meter: notes how a call ended, and ends it once."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def settle(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement."""
        if call.claim_end():
            self.ended.append("settle")

    def void(self, call: Call, why: str) -> None:
        """Note a void."""
        if call.claim_end():
            self.ended.append("void")


def call_of() -> Call:
    """A call under way."""
    import os

    call = Call()
    call.ends, call.pid = [None], os.getpid()
    call.hold = Hold(Use(Estimate(1, 2), 0), "m")
    call.request = Request("", "wrap", "", None)
    return call


def numbers() -> Iterator[int]:
    """A generator."""
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


async def nothing() -> None:
    """A coroutine function."""


@types.coroutine
def old_coroutine() -> Iterator[None]:
    """A coroutine that is a generator."""
    yield


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (numbers(), True), (numbers_async(), True), (iter([1]), True), (old_coroutine(), True),
        ([1], False), ("text", False), ({}, False), (None, False), (numbers, False),
        (range(3), False),
    ],
)  # fmt: skip
def test_is_lazy__an_iterator_or_awaitable__is_and_a_value_is_not(
    answer: Any, expected: bool
) -> None:
    """A list can be read again; an iterator is work that is still to be done."""
    assert is_lazy(answer) is expected


def test_watch__a_value__is_not_watched() -> None:
    """Nor an iterator of which no weak reference can be had."""
    ends = Ends()
    for answer in ([1], iter([1])):
        assert watch(answer, cast(Meter, ends), call_of()) is False
    assert (ends.ended, nesting.lazies) == ([], {})


def test_watch__a_generator_that_has_ended__is_seen_at_the_next_look() -> None:
    """Exhausted, it has no frame; a look ends its call, once, and forgets it."""
    ends, made = Ends(), numbers()
    assert watch(made, cast(Meter, ends), call_of())
    nesting.look()
    assert ends.ended == []
    assert list(made) == [1]
    nesting.look()
    nesting.look()
    del made
    gc.collect()
    assert (ends.ended, nesting.lazies) == (["settle"], {})


async def test_watch__a_coroutine_that_has_run__is_seen_at_the_next_look() -> None:
    """The same of a coroutine."""
    ends, made = Ends(), nothing()
    assert watch(made, cast(Meter, ends), call_of())
    nesting.look()
    assert ends.ended == []
    await made
    nesting.look()
    assert (ends.ended, nesting.lazies) == (["settle"], {})


def test_watch__an_object_without_a_frame__is_seen_when_it_is_collected() -> None:
    """A look tells nothing of it."""

    class Own:
        def __next__(self) -> int:
            return 1

    ends, made = Ends(), Own()
    assert watch(made, cast(Meter, ends), call_of())
    nesting.look()
    assert ends.ended == []
    del made
    assert (ends.ended, nesting.lazies) == (["settle"], {})


def test_watch__a_call_that_has_ended_otherwise__is_forgotten() -> None:
    """A look finds it done."""
    ends, made, call = Ends(), numbers(), call_of()
    assert watch(made, cast(Meter, ends), call)
    cast(Meter, ends).void(call, "test")
    nesting.look()
    assert (ends.ended, nesting.lazies) == (["void"], {})


async def test_running__a_task__ends_by_its_result_alone() -> None:
    """Neither its end nor its collection ends the call, which is read from its result."""
    ends, made, call = Ends(), nothing(), call_of()
    Running(made, cast(Meter, ends), call).start()
    await made
    nesting.look()
    assert (ends.ended, len(nesting.lazies)) == ([], 1)
    del made
    assert (ends.ended, nesting.lazies) == ([], {})
    task = asyncio.ensure_future(nothing())
    Running(task.get_coro(), cast(Meter, ends), call).start()
    await task
    call.claim_end()
    nesting.look()
    assert nesting.lazies == {}
