"""Locks that are held for microseconds, never across a system call, and rarely slept in.

Python's own lock hands itself to a sleeping thread before that thread has the interpreter. Behind
busy threads it gets that milliseconds later, and until then nobody else can take the lock: one
holder that lost the interpreter in the middle makes a queue that no longer drains. So whoever finds
a lock taken lets others run and looks again (`with brief(lock):`), a few dozen times; where so many
want it that this is not enough, it takes its turn among the sleepers, which is fair. It does not
wait for ever: an application's signal handler may call a provider while it has interrupted us in
here.

The lock itself stays Python's, because only that is given back whatever interrupts the block.
"""

from __future__ import annotations

import threading
import time

_LOOKS = 64  # that give way only; a holder needs one turn of the interpreter
_WAIT_S = 5.0  # by then its holder is this very thread, interrupted by a signal handler, or gone


class LockUnavailable(Exception):
    """A lock could not be had for seconds; what needed it fails, and the call goes on."""


def acquire_soon(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free.

    Between this and its taking another thread may take it; then it is slept in, which does no harm
    where it is rare.

    Raises:
        LockUnavailable: if it is not free within seconds.
    """
    if lock.locked():
        _give_way(lock, _WAIT_S)
    return lock


def acquire_blocking(lock: threading.Lock) -> threading.Lock:
    """Return a lock once it is free, however long that takes.

    For threads of ours, which no signal handler interrupts, and only there: what they were told by
    the ledger is told once.
    """
    if lock.locked():
        _give_way(lock, -1)
    return lock


def _give_way(lock: threading.Lock, wait_s: float) -> None:
    for _ in range(_LOOKS):
        time.sleep(0)
        if not lock.locked():
            return
    if not lock.acquire(timeout=wait_s):
        raise LockUnavailable
    lock.release()  # its turn has come; the block that follows takes it in a way that is given back
