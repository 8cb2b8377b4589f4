"""Which loop runs here, and who calls: read off what the application imported, never imported."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from paygent.client.runtime.event_loops import caller, running_loop, runs_loop


def test_loops__on_a_plain_thread__there_is_none_and_the_thread_calls() -> None:
    """Who makes a sync call is its thread."""
    assert (running_loop(), runs_loop(), caller()) == (None, False, threading.get_ident())


async def test_loops__in_a_task__are_its_loop_and_the_task() -> None:
    """Who makes an async call is its task: two of them may stand on one thread."""
    assert (running_loop(), runs_loop()) == (asyncio.get_running_loop(), True)
    assert caller() is asyncio.current_task()


def test_caller__in_a_loop_outside_of_any_task__is_the_thread() -> None:
    """A callback of a loop has no task."""
    loop = asyncio.new_event_loop()
    seen: list[object] = []
    loop.call_soon(lambda: seen.append(caller()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert seen == [threading.get_ident()]


@pytest.mark.parametrize("half", [None, SimpleNamespace()])
def test_loops__asyncio_not_imported_or_half_of_it__is_no_loop(
    monkeypatch: pytest.MonkeyPatch, half: object
) -> None:
    """Another thread may be in the middle of the import when a call begins."""
    if half is None:
        monkeypatch.delitem(sys.modules, "asyncio", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "asyncio", half)
    assert (running_loop(), runs_loop(), caller()) == (None, False, threading.get_ident())


@pytest.mark.parametrize(("runs", "expected"), [(True, True), (False, False), (None, False)])
def test_runs_loop__of_trio__is_known_too(
    monkeypatch: pytest.MonkeyPatch, runs: bool | None, expected: bool
) -> None:
    """A trio whose version cannot tell runs none."""
    lowlevel = SimpleNamespace() if runs is None else SimpleNamespace(in_trio_run=lambda: runs)
    monkeypatch.setitem(sys.modules, "trio", SimpleNamespace(lowlevel=lowlevel))
    assert runs_loop() is expected
