"""Locks that are held for microseconds, never across a system call, and rarely slept in.

Python hands a lock to a sleeping thread, which among busy threads gets the interpreter only
milliseconds later; until then no other thread can take the lock, and a queue builds up that does
not drain. So a thread that finds a lock taken yields and checks again (`with acquire_soon(lock):`)
before it sleeps in the lock's queue, which is fair. The lock itself is Python's, because only that
is released whatever interrupts the block.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

_YIELDS = 64  # before sleeping; a holder needs one turn of the interpreter
# By then the holder is gone, or is this very thread: a signal handler of the application that calls
# a provider may have interrupted it.
_WAIT_S = 5.0


class Wakeup:
    """Wakes the one thread that waits for it; a wakeup without a waiter is kept for the next wait.

    Both steps are one call of C code. `threading.Event`, `Condition` and `queue.Queue` take their
    locks in Python code, where a Ctrl-C in the application's thread would leave them locked.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()  # free means woken

    def set(self) -> None:
        """Wake the waiting thread, or the next one that waits."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, and take that back; return False if the time was too short."""
        return self._lock.acquire(timeout=timeout_s)


class LockUnavailable(Exception):
    """A lock was not free for seconds; the step that needs it fails, and the call proceeds."""


def acquire_soon(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free; raise `LockUnavailable` if it is not free within seconds."""
    # Another thread may take it first; the caller then sleeps in it: harmless, because it is rare.
    if lock.locked():
        _yield_until_free(lock, _WAIT_S)
    return lock


def acquire_blocking(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free, however long that takes; only for Paygent's own threads."""
    # No signal handler interrupts these, and they must apply each answer, which is given once.
    if lock.locked():
        _yield_until_free(lock, -1)
    return lock


def _yield_until_free(lock: threading.Lock, wait_s: float) -> None:
    for _ in range(_YIELDS):
        time.sleep(0)
        if not lock.locked():
            return
    if not lock.acquire(timeout=wait_s):
        raise LockUnavailable
    lock.release()  # its turn has come; the `with` block takes the lock so that it is released
