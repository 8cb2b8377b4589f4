"""Answers that are still to be computed: which objects they are, and which of them are wrapped."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from paygent.client.instrument.callables.iteration import is_lazy, wrap_lazy
from paygent.client.instrument.callables.run import Work


def numbers() -> Iterator[int]:
    """A generator."""
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


@types.coroutine
def old_coroutine() -> Iterator[None]:
    """A coroutine that is a generator."""
    yield


class Own:
    """An iterator with attributes of its own."""

    def __next__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (numbers(), True), (numbers_async(), True), (iter([1]), True), (old_coroutine(), True),
        ([1], False), ("text", False), ({}, False), (None, False), (numbers, False),
        (range(3), False), (Own(), True),
    ],
)  # fmt: skip
def test_is_lazy__an_iterator_or_awaitable__is_and_a_value_is_not(
    answer: Any, expected: bool
) -> None:
    """A list can be read again; an iterator is work that is still to be done."""
    assert is_lazy(answer) is expected


async def test_wrap_lazy__objects_with_attributes_of_their_own__are_not_wrapped() -> None:
    """A wrapper would hide them: tasks, stream objects, iterators of other classes."""
    task = asyncio.create_task(asyncio.sleep(0))
    for answer in (iter([1]), Own(), task, asyncio.Future[int](), [1]):
        assert wrap_lazy(cast(Work, None), answer) is None
    await task
