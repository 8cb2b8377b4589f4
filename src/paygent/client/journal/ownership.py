"""Ownership of segments: the lock of a live process, and adoption of those of dead ones.

The segments `<owner>-*.seg` belong to the process that holds `<owner>.lock` with `lockf`. That lock
dies with the process and is not inherited by a forked child. Local filesystems only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paygent.client.journal.segments import Record, parts_of_dead
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


Deliver = Callable[[list[Record]], None]


def adopt(folder: Path, *, deliver: Deliver, deliver_unfinished: Deliver = lambda _: None) -> int:
    """Deliver and remove the segments of processes that have died; return the number of processes.

    A journal that cannot be read or delivered is counted and stays for the next search; it does not
    hold up the others. Records are read in parts, and a segment is removed as soon as it is
    delivered and nothing that follows refers to it: a search that is interrupted goes on there.

    Args:
        folder: The data folder's journal.
        deliver: Called with records of one dead process, in order; must have stored them when it
            returns. If it raises, the segments stay for the next try.
        deliver_unfinished: Called at the end of a journal with the begin records of the calls that
            were in flight.

    Raises:
        LedgerUnavailable: if one of these does; the journals behind it are not tried.
    """
    adopted = 0
    for owner in sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.seg")}):
        if owner in _OWN or owner in _ADOPTING:
            continue
        _ADOPTING.add(owner)
        try:
            outcome = attempt("adopt", _adopt_owner, folder, owner, deliver, deliver_unfinished)
        finally:
            _ADOPTING.discard(owner)
        if isinstance(outcome, LedgerUnavailable):
            raise outcome
        adopted += bool(outcome)
    return adopted


def _adopt_owner(
    folder: Path, owner: str, deliver: Deliver, deliver_unfinished: Deliver
) -> bool | LedgerUnavailable:
    """Adopt the journal of one owner; return whether there was one. Unavailability is returned, so
    that `attempt` swallows only what it should.
    """
    lock = _lock_of(folder, owner)
    with _claimed(lock) as is_dead:
        if not is_dead:
            return False
        # None if another process adopted them between the listing and the claim.
        paths = deque(sorted(folder.glob(f"{owner}-*.seg")))
        has_any = bool(paths)
        calls = OpenCalls()
        damaged: set[Path] = set()
        try:
            for path in list(paths):
                for records, is_damaged in parts_of_dead(path.read_bytes()):
                    calls.read(records, path)
                    if is_damaged:
                        damaged.add(path)
                    if records:
                        deliver(records)
                # A call that is open yet may end in a later segment, and only in one.
                while paths and paths[0] <= path and paths[0] < calls.first_place(path):
                    _remove_delivered(paths.popleft(), damaged)
            if unanswered := calls.unanswered():
                deliver_unfinished(unanswered)
        except LedgerUnavailable as error:
            return error
        for path in paths:
            _remove_delivered(path, damaged)
        lock.unlink(missing_ok=True)
        return has_any


def _remove_delivered(path: Path, damaged: set[Path]) -> None:
    if path in damaged:  # perhaps of another version: a person may still read it
        kept = path.replace(path.with_suffix(".unreadable"))
        diagnostics.warn_once(Notice.JOURNAL_UNREADABLE, kept.name)
    else:
        path.unlink(missing_ok=True)


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


class OpenCalls:
    """The calls of a journal that began and are not known to have ended, as far as it was read."""

    def __init__(self) -> None:
        self._begins: dict[Any, tuple[Record, Path | None]] = {}
        self._answered: set[Any] = set()  # before their begin was read

    def read(self, records: Iterable[Record], place: Path | None = None) -> None:
        """Take the begins and ends among records, which are in a segment."""
        for record in records:
            call_id: Any
            if isinstance(record, PackedRecord):
                is_begin, call_id = record.kind == BEGIN, record.event_id
            else:  # of version 0.1, which wrote JSON
                if record.get("k") not in ("begin", "end", "void"):
                    continue
                is_begin = record.get("k") == "begin"
                call_id = record.get("ends", record.get("id"))
            if not is_begin:
                if self._begins.pop(call_id, None) is None:
                    self._answered.add(call_id)
            elif call_id in self._answered:
                self._answered.discard(call_id)
            else:
                self._begins.setdefault(call_id, (record, place))

    def first_place(self, last: Path) -> Path:
        """Return the first segment with an open call; the one behind the last if there is none."""
        places = (place for _, place in self._begins.values() if place is not None)
        return min(places, default=last.with_name(last.name + "~"))

    def unanswered(self) -> list[Record]:
        """Return the begin records of these calls, in order, each once."""
        return [record for record, _ in self._begins.values()]


def unfinished(records: Iterable[Record]) -> list[Record]:
    """Return the begin records that no end or void record answers, in order, each once."""
    calls = OpenCalls()
    calls.read(records)
    return calls.unanswered()
