"""The lock of a user: it excludes, and a thread that finds it taken yields until it is free."""

from __future__ import annotations

import threading
import time

import pytest

from paygent.client.runtime import locks
from paygent.client.runtime.locks import LockUnavailable, acquire_blocking, acquire_soon


def test_acquire_soon__many_threads__exclude_each_other() -> None:
    """At most one thread is inside the block."""
    mine = threading.Lock()
    seen: list[int] = []
    inside = [0]

    def work() -> None:
        for _ in range(300):
            with acquire_soon(mine):
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(seen), set(seen)) == (16 * 300, {1})


@pytest.mark.parametrize("yields", [0, 10**6])
def test_acquire_soon__taken__is_waited_for_however_long(
    monkeypatch: pytest.MonkeyPatch, yields: int
) -> None:
    """By yielding first, then by sleeping in the queue of the lock."""
    monkeypatch.setattr(locks, "_YIELDS", yields)
    mine = threading.Lock()
    got: list[bool] = []

    def other() -> None:
        with acquire_soon(mine):
            got.append(True)

    with acquire_soon(mine):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.01)
        assert got == []
    thread.join(10)
    assert got == [True]


def test_acquire_soon__held_by_its_own_thread__raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that interrupts a holder must not hang the application."""
    monkeypatch.setattr(locks, "_WAIT_S", 0.01)
    mine = threading.Lock()
    with acquire_soon(mine), pytest.raises(LockUnavailable), acquire_soon(mine):
        raise AssertionError("got in twice")
    with acquire_soon(mine):
        pass


def test_acquire_blocking__taken_for_long__is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ledger gives an answer once, so the thread that applies it does not time out."""
    monkeypatch.setattr(locks, "_YIELDS", 1)
    monkeypatch.setattr(locks, "_WAIT_S", 0.001)
    mine = threading.Lock()
    got: list[bool] = []

    def other() -> None:
        with acquire_blocking(mine):
            got.append(True)

    with acquire_soon(mine):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        assert (thread.is_alive(), got) == (True, [])
    thread.join(10)
    assert got == [True]


def test_acquire_soon__an_exception_inside__releases_it() -> None:
    """The lock is released whatever is raised in the block."""
    mine = threading.Lock()
    with pytest.raises(KeyboardInterrupt), acquire_soon(mine):
        raise KeyboardInterrupt
    with acquire_soon(mine):
        pass
