"""Ownership of segments: the lock of a live process, and adoption of those of dead ones.

The segments `<owner>-*.seg` belong to the process that holds `<owner>.lock` with `lockf`. That lock
dies with the process and is not inherited by a forked child. Local filesystems only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paygent.client.journal.segments import Record, parse_dead
from paygent.core.notices import Notice
from paygent.core.records import BEGIN, PackedRecord
from paygent.failopen import attempt, diagnostics
from paygent.ledger.port import LedgerUnavailable

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: dead processes are not recognised
    fcntl = None  # type: ignore[assignment]

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
# Owners in this process, and those that one of its threads is adopting, because `lockf` does not
# conflict within a process.
_OWN: set[str] = set()
_ADOPTING: set[str] = set()


def new_owner_name() -> str:
    """Return a unique name for this process's files."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def take_lock(folder: Path, owner: str) -> int:
    """Create and lock an owner's lock file; return its descriptor.

    Raises:
        OSError: if it cannot be written or locked (a filesystem without locks).
    """
    fd = os.open(_lock_of(folder, owner), os.O_RDWR | os.O_CREAT | _CLOSE_ON_EXEC, 0o600)
    try:
        if fcntl is not None:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    _OWN.add(owner)
    return fd


def release_lock(folder: Path, owner: str, fd: int) -> None:
    """Release an owner's lock, and delete its file if no segments are left."""
    os.close(fd)
    _OWN.discard(owner)
    if not any(folder.glob(f"{owner}-*.seg")):
        _lock_of(folder, owner).unlink(missing_ok=True)


def forget_after_fork() -> None:
    """Own nothing in a forked child."""
    _OWN.clear()
    _ADOPTING.clear()


def _lock_of(folder: Path, owner: str) -> Path:
    return folder / f"{owner}.lock"


def adopt(folder: Path, *, deliver: Callable[[list[Record]], None]) -> int:
    """Deliver and remove the segments of processes that have died; return the number of processes.

    A journal that cannot be read or delivered is counted and stays for the next search; it does not
    hold up the others.

    Args:
        folder: The data folder's journal.
        deliver: Called with all records of one dead process, in order; must have stored them when
            it returns. If it raises, the segments stay for the next try.

    Raises:
        LedgerUnavailable: if `deliver` does; the journals behind it are not tried.
    """
    adopted = 0
    for owner in sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.seg")}):
        if owner in _OWN or owner in _ADOPTING:
            continue
        _ADOPTING.add(owner)
        try:
            outcome = attempt("adopt", _adopt_owner, folder, owner, deliver)
        finally:
            _ADOPTING.discard(owner)
        if isinstance(outcome, LedgerUnavailable):
            raise outcome
        adopted += bool(outcome)
    return adopted


def _adopt_owner(
    folder: Path, owner: str, deliver: Callable[[list[Record]], None]
) -> bool | LedgerUnavailable:
    """Adopt the journal of one owner; return whether there was one. Unavailability is returned, so
    that `attempt` swallows only what it should.
    """
    lock = _lock_of(folder, owner)
    with _claimed(lock) as is_dead:
        if not is_dead:
            return False
        # None if another process adopted them between the listing and the claim.
        paths = sorted(folder.glob(f"{owner}-*.seg"))
        records: list[Record] = []
        damaged = set()
        for path in paths:
            parsed, is_damaged = parse_dead(path.read_bytes())
            records += parsed
            if is_damaged:
                damaged.add(path)
        try:
            if records:
                deliver(records)
        except LedgerUnavailable as error:
            return error
        for path in paths:
            if path in damaged:  # perhaps of another version: a person may still read it
                kept = path.replace(path.with_suffix(".unreadable"))
                diagnostics.warn_once(Notice.JOURNAL_UNREADABLE, kept.name)
            else:
                path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
        return bool(paths)


@contextmanager
def _claimed(lock: Path) -> Iterator[bool]:
    """Hold the lock of a dead owner; False if the owner is alive."""
    if fcntl is None:  # pragma: no cover - not a POSIX system
        yield False
        return
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | _CLOSE_ON_EXEC, 0o600)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have adopted this owner and removed the file while we waited.
            is_dead = os.stat(lock).st_ino == os.fstat(fd).st_ino
        except OSError:
            is_dead = False
        yield is_dead
    finally:
        os.close(fd)


def unfinished(records: list[Record]) -> Iterable[Record]:
    """Return the begin records that no end or void record answers, in order, each once."""
    begins: dict[Any, Record] = {}
    answered: set[Any] = set()
    for record in records:
        if isinstance(record, PackedRecord):
            kept = begins if record.kind == BEGIN else answered
            call_id: Any = record.event_id
        else:  # of version 0.1, which wrote JSON
            kept = begins if record.get("k") == "begin" else answered
            call_id = record.get("ends", record.get("id"))
            if record.get("k") not in ("begin", "end", "void"):
                continue
        if kept is answered:
            answered.add(call_id)
        else:
            begins[call_id] = record
    return [record for call_id, record in begins.items() if call_id not in answered]
