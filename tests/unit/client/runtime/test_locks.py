"""The lock of a user: it excludes, and whoever finds it taken looks again until it is free."""

from __future__ import annotations

import threading
import time

import pytest

from paygent.client.runtime import locks
from paygent.client.runtime.locks import LockUnavailable, acquire_blocking, acquire_soon


def test_brief__many_threads__exclude_each_other() -> None:
    """No step in the middle is seen by another thread."""
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


@pytest.mark.parametrize("looks", [0, 10**6])
def test_brief__taken__is_waited_for_however_long(
    monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """By giving way, later in turn with others."""
    monkeypatch.setattr(locks, "_LOOKS", looks)
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


def test_brief__that_its_own_thread_has__is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that comes in between must not hang the application."""
    monkeypatch.setattr(locks, "_WAIT_S", 0.01)
    mine = threading.Lock()
    with acquire_soon(mine), pytest.raises(LockUnavailable), acquire_soon(mine):
        raise AssertionError("got in twice")
    with acquire_soon(mine):
        pass


def test_patient__taken_for_long__is_waited_for_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the ledger said is said once: the thread that was told does not give up."""
    monkeypatch.setattr(locks, "_LOOKS", 1)
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


def test_brief__an_exception_inside__leaves_it_free() -> None:
    """Whatever is raised in the middle, the next one gets in."""
    mine = threading.Lock()
    with pytest.raises(KeyboardInterrupt), acquire_soon(mine):
        raise KeyboardInterrupt
    with acquire_soon(mine):
        pass
