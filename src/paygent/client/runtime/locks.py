"""Locks that are held for microseconds, never across a system call, and rarely slept in.

Python's lock is handed to a sleeping thread before that thread has the interpreter. Among busy
threads it gets the interpreter milliseconds later, and until then no other thread can take the
lock: a single holder that lost the interpreter builds up a queue that does not drain. So a thread
that finds a lock taken yields and checks again (`with acquire_soon(lock):`), a few dozen times;
under more contention it sleeps in the lock's queue, which is fair. It does not sleep forever,
because a signal handler of the application may call a provider while it has interrupted a holder.

The lock itself is Python's, because only that is released whatever interrupts the block.
"""

from __future__ import annotations

import threading
import time

_YIELDS = 64  # before sleeping; a holder needs one turn of the interpreter
_WAIT_S = 5.0  # by then the holder is this very thread, interrupted by a signal handler, or gone


class LockUnavailable(Exception):
    """A lock was not free for seconds; the step that needs it fails, and the call proceeds."""


def acquire_soon(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free.

    Another thread may take it before the caller does; the caller then sleeps in it, which is
    harmless because it is rare.

    Raises:
        LockUnavailable: if it is not free within seconds.
    """
    if lock.locked():
        _yield_until_free(lock, _WAIT_S)
    return lock


def acquire_blocking(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free, however long that takes.

    Only for Paygent's own threads: no signal handler interrupts them, and they must apply each
    answer of the ledger, which is given once.
    """
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
