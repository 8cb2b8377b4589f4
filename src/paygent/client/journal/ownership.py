"""Ownership of segments: the lock of a live process, and adoption of those of dead ones.

The segments `<owner>-*.seg` belong to the process that holds `<owner>.lock` with `lockf`. That lock
dies with the process and is not inherited by a forked child. Local filesystems only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paygent.client.journal.segments import Record, parse

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: dead processes are not recognised
    fcntl = None  # type: ignore[assignment]

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)

_OWN: set[str] = set()
"""Owners in this process: `lockf` does not conflict within a process."""


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


def _lock_of(folder: Path, owner: str) -> Path:
    return folder / f"{owner}.lock"


def adopt(folder: Path, *, deliver: Callable[[list[Record]], None]) -> int:
    """Deliver and remove the segments of processes that have died.

    Args:
        folder: The data folder's journal.
        deliver: Called with all records of one dead process, in order; must have stored them when
            it returns. If it raises, the segments stay for the next try.

    Returns:
        How many dead processes' journals were taken over.
    """
    adopted = 0
    if not folder.is_dir():
        return 0
    for owner in sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.seg")}):
        if owner in _OWN:
            continue
        with _Claim(_lock_of(folder, owner)) as claimed:
            if not claimed:
                continue
            paths = sorted(folder.glob(f"{owner}-*.seg"))
            if not paths:  # another process adopted them between the listing and the claim
                (_lock_of(folder, owner)).unlink(missing_ok=True)
                continue
            records: list[Record] = []
            for path in paths:
                records += parse(path.read_bytes(), at_end=True)[0]
            if records:
                deliver(records)
            for path in paths:
                path.unlink(missing_ok=True)
            (_lock_of(folder, owner)).unlink(missing_ok=True)
            adopted += 1
    return adopted


class _Claim:
    """Holds a dead owner's lock while its segments are adopted; False if the owner is alive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> bool:
        if fcntl is None:  # pragma: no cover - not a POSIX system
            return False
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | _CLOSE_ON_EXEC, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            # Another process may have adopted this owner and removed the file while we waited.
            return os.stat(self._path).st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def __exit__(self, *error: object) -> None:
        if self._fd is not None:
            os.close(self._fd)


def unfinished(records: list[Record]) -> Iterator[Record]:
    """Return the begin records that no end or void record answers, in order, each once."""
    answered = {
        record.get("ends", record.get("id"))
        for record in records
        if record.get("k") in ("end", "void")
    }
    seen: set[Any] = set()
    for record in records:
        event_id = record.get("id")
        if record.get("k") == "begin" and event_id not in answered and event_id not in seen:
            seen.add(event_id)
            yield record
