"""The journal: every record of a call is in the operating system's hands before the call returns.

Theory of operation
-------------------
A process appends to a segment of its own, one `write` per record, from many threads without a lock.
The journal is also the queue: the delivering thread reads records back from the segments, in order,
and takes a segment away when all it holds has been acknowledged. After a death the segments are
still there, and the next process adopts them.

A record is framed: magic, length of the payload, its CRC-32, the payload (JSON). A reader skips to
the next magic where a frame is torn, so that one short write costs one record that had not been
acknowledged to the caller. A segment that suffered a short write or has grown large is left for a
new one; begin records of calls in flight are written again at the head of the new one, so that an
old segment never has to be kept for a call that is still running.

Without locks, a thread may hold on to a segment that is being left. It announces itself in
`writers` before it checks that the segment is still current, and the reader takes a segment away
only when it is not current and nobody is announced; both orders are safe.

Whose segments are whose is told by a lock on `<owner>.lock`, held with `lockf`, which dies with the
process and is not inherited by a forked child. Local filesystems only. Where no folder can be
written, records are kept in memory, which is said loudly: they do not survive the process.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paygent.core.event import encode_void
from paygent.failopen import failures

try:
    import fcntl
except (
    ImportError
):  # pragma: no cover - not a POSIX system: dead processes' segments are not told apart
    fcntl = None  # type: ignore[assignment]

MAGIC = b"PJ1\x9d"
HEADER = struct.Struct("<4sII")
SEGMENT_BYTES_MAX = 8 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024
"""A larger length in a frame is a torn frame: calls take a few hundred bytes, plans rarely 100 kB.
"""

_WRITERS_WAIT_S = 1.0  # how long the end waits for threads in the middle of an append
_FILE_TRIES = 2  # a short write may be an accident; twice in a row the disk is full
_READ_BYTES = 2 * RECORD_BYTES_MAX  # so that a whole frame always fits into one read

Record = dict[str, Any]


def frame(payload: bytes) -> bytes:
    """Frame one payload."""
    return HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def parse(data: bytes, *, at_end: bool, records_max: int | None = None) -> tuple[list[Record], int]:
    """Read the records in a piece of a segment.

    Args:
        data: Bytes from a frame's start, or from anywhere after damage.
        at_end: Whether nothing will follow; then a torn last frame is skipped, otherwise it is
            waited for.
        records_max: How many records to read at most; None is all.

    Returns:
        The records, and how many bytes are done with.
    """
    records: list[Record] = []
    position = 0
    while records_max is None or len(records) < records_max:
        start = data.find(MAGIC, position)
        if start < 0:
            return records, len(data) if at_end else max(position, len(data) - len(MAGIC) + 1)
        if start + HEADER.size > len(data):
            return records, len(data) if at_end else start
        _, length, checksum = HEADER.unpack_from(data, start)
        end = start + HEADER.size + length
        if length > RECORD_BYTES_MAX or (end > len(data) and at_end):
            position = start + 1
            continue
        if end > len(data):
            return records, start
        payload = data[start + HEADER.size : end]
        record = _decode(payload) if zlib.crc32(payload) == checksum else None
        if record is None:
            position = start + 1
            continue
        records.append(record)
        position = end
    return records, position


def _decode(payload: bytes) -> Record | None:
    try:
        record = json.loads(payload)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class _FileSegment:
    """One file of this process, written by any thread and read by the delivering one."""

    __slots__ = ("fd", "path", "read_to", "size", "writers")

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self.fd = os.open(path, flags, 0o600)
        self.path = path
        self.writers: list[None] = []
        self.read_to = 0
        self.size = 0

    def append(self, data: bytes) -> bool:
        """Write one frame; False when it was torn (a short write).

        Raises:
            OSError: if nothing could be written.
        """
        written = os.write(self.fd, data)
        self.size += (
            written  # other threads may lose an addition; the size only decides when to rotate
        )
        return written == len(data)

    @property
    def end(self) -> int:
        """Where the next record goes; 0 for a file that the delivering thread has just removed."""
        try:
            return os.fstat(self.fd).st_size
        except OSError:
            return 0

    @property
    def has_unread(self) -> bool:
        return self.read_to < self.end

    def take(self, records_max: int, *, is_left: bool) -> tuple[list[Record], int]:
        """Return the next records, and the position after them."""
        taken: list[Record] = []
        position = self.read_to
        while len(taken) < records_max:
            data = os.pread(self.fd, _READ_BYTES, position)
            at_end = is_left and len(data) < _READ_BYTES
            wanted = records_max - len(taken)
            records, done = parse(data, at_end=at_end, records_max=wanted) if data else ([], 0)
            if not done:
                break
            taken += records
            position += done
        return taken, position

    def remove(self) -> None:
        os.close(self.fd)
        self.path.unlink(missing_ok=True)


class _MemorySegment:
    """Records of a process that can write no file; bounded, the oldest are dropped and counted."""

    __slots__ = ("bytes", "dropped", "frames", "path", "read_to", "records_max", "size", "writers")

    def __init__(self, records_max: int) -> None:
        self.frames: deque[bytes] = deque()
        self.records_max = records_max
        self.path = None
        self.writers: list[None] = []
        self.read_to = 0
        self.size = 0
        self.dropped = 0

    def append(self, data: bytes) -> bool:
        if len(self.frames) >= self.records_max:
            self.dropped += 1
            failures.say(
                "journal_memory_full",
                "no journal can be written and memory is full: events are lost",
            )
            return True
        self.frames.append(data)
        return True

    @property
    def end(self) -> int:
        return self.read_to + len(self.frames)

    @property
    def has_unread(self) -> bool:
        return len(self.frames) > 0

    def take(
        self,
        records_max: int,
        *,
        is_left: bool,  # noqa: ARG002 - as for files
    ) -> tuple[list[Record], int]:
        """Return the next records, and from how many frames; those stay until `release`."""
        frames = list(self.frames)[:records_max]
        return [record for data in frames for record in parse(data, at_end=True)[0]], len(frames)

    def release(self, records: int) -> None:
        for _ in range(records):
            self.frames.popleft()
            self.read_to += 1

    def remove(self) -> None:
        self.frames.clear()


Mark = tuple[tuple[_FileSegment | _MemorySegment, int], ...]
"""A moment in a journal: each segment and where it ended."""


class Journal:
    """The journal of one process and data folder. `append…` from any thread; the rest from the
    delivering one.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        owner: str,
        records_in_memory_max: int = 20_000,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> None:
        """Open nothing yet: the first append makes the folder and the first segment.

        Args:
            folder: Where segments are kept (mode 0700); None keeps records in memory.
            owner: Unique name of this process and journal, no path separators.
            records_in_memory_max: Records kept when no file can be written.
            segment_bytes_max: Size at which a segment is left for a new one.
        """
        self.folder = folder
        self.owner = owner
        self.pushed = 0
        self._dropped = 0
        self._closed = False
        self._failed: list[tuple[str, OSError]] = []
        self._records_in_memory_max = records_in_memory_max
        self._segment_bytes_max = segment_bytes_max
        self._rotation = threading.Lock()
        self._current: _FileSegment | _MemorySegment | None = None
        self._segments: deque[_FileSegment | _MemorySegment] = deque()
        self._in_flight: dict[str, bytes] = {}
        self._number = 0
        self._lock_fd: int | None = None
        self._batch: list[tuple[_FileSegment | _MemorySegment, int, bool]] = []

    # -- writing

    @property
    def is_durable(self) -> bool:
        """Whether records survive this process."""
        return not isinstance(self._current, _MemorySegment)

    @property
    def dropped(self) -> int:
        """How many records were lost because neither file nor memory could take them."""
        kept = [segment for segment in list(self._segments) if isinstance(segment, _MemorySegment)]
        return self._dropped + sum(segment.dropped for segment in kept)

    def is_in_flight(self, event_id: str) -> bool:
        """Tell whether a call has begun and not ended."""
        return event_id in self._in_flight

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._in_flight)

    def mark(self) -> Mark:
        """Return how far records have been appended by now; see `has_reached`."""
        return tuple((segment, segment.end) for segment in list(self._segments))

    def has_reached(self, mark: Mark) -> bool:
        """Tell whether everything up to a mark has been delivered."""
        left = list(self._segments)
        return all(segment not in left or segment.read_to >= end for segment, end in mark)

    def begin(self, event_id: str, payload: bytes) -> None:
        """Append a begin record; the call is in flight until `end`."""
        data = frame(payload)
        self._in_flight[event_id] = data
        self._append(data)

    def end(self, event_id: str, payload: bytes) -> None:
        """Append the end or void record of a call."""
        # In flight until the record is written: whenever the process dies, one of the two is there.
        written_to = self._append(frame(payload))
        self._in_flight.pop(event_id, None)
        if written_to is not self._current:
            self._answer_copy(event_id)
        self.pushed += 1

    def _answer_copy(self, event_id: str) -> None:
        """Answer a begin record that may have been written again while its call ended.

        Its true end is in the segment before, which may go first. One answer too many is harmless.
        """
        self._append(frame(encode_void(event_id)))

    def append(self, payload: bytes) -> None:
        """Append a record that is no call's (a plan, an assignment, a session, a manual event)."""
        if len(payload) > RECORD_BYTES_MAX:
            self._dropped += 1
            failures.say("record_too_large", "a record of %s bytes was not kept", len(payload))
            return
        self._append(frame(payload))
        self.pushed += 1

    def _append(self, data: bytes) -> _FileSegment | _MemorySegment:
        """Write a frame to the current segment and return it; never raises: memory takes what no
        file can.
        """
        while True:
            segment = self._current
            if segment is None:
                segment = self._rotate(None)
            segment.writers.append(None)
            try:
                if segment is not self._current:
                    continue
                try:
                    whole = segment.append(data)
                except OSError as error:
                    failures.note("journal_write", error)
                    self._rotate(segment, to_memory=True)
                    continue
            finally:
                segment.writers.pop()
            if not whole:
                self._rotate(segment)
                continue
            if segment.size >= self._segment_bytes_max:
                self._rotate(segment)
            if self._closed:
                self._close_again(segment)
            return segment

    def _rotate(
        self, left: _FileSegment | _MemorySegment | None, *, to_memory: bool = False
    ) -> _FileSegment | _MemorySegment:
        """Leave a segment for a new one, unless another thread has; return the current one."""
        with self._rotation:
            current = self._current
            if current is not left and current is not None:
                return current
            copied = dict(self._in_flight)
            fresh = self._fresh_segment(copied, to_memory=to_memory)
            self._segments.append(fresh)
            self._current = fresh
            failed, self._failed = self._failed, []
        self._say(fresh, failed)
        # Whoever ended a copied call before this line is seen here; whoever ends one later sees the
        # new segment (`end`). So no copy stays without an answer.
        for event_id in copied.keys() - self._in_flight.keys():
            self._answer_copy(event_id)
        return fresh

    def _say(self, fresh: _FileSegment | _MemorySegment, failed: list[tuple[str, OSError]]) -> None:
        """Say what went wrong in a rotation, outside of its lock: a handler of the application's
        log may come back here.
        """
        for kind, error in failed:
            failures.note(kind, error)
        if isinstance(fresh, _MemorySegment) and self.folder is not None:
            failures.say(
                "journal_in_memory", "the journal cannot be written; events are kept in memory only"
            )

    def _fresh_segment(
        self, in_flight: dict[str, bytes], *, to_memory: bool
    ) -> _FileSegment | _MemorySegment:
        """Return a new segment that begins with the begin records of the calls in flight."""
        for _ in range(0 if to_memory else _FILE_TRIES):
            fresh = self._new_segment(to_memory=False)
            try:
                if all(fresh.append(data) for data in in_flight.values()):
                    return fresh
            except OSError as error:
                self._failed.append(("journal_write", error))
            fresh.remove()
        fresh = self._new_segment(to_memory=True)
        for data in in_flight.values():
            fresh.append(data)
        return fresh

    def _new_segment(self, *, to_memory: bool) -> _FileSegment | _MemorySegment:
        if self.folder is not None and not to_memory:
            try:
                if self._lock_fd is None:
                    self._take_folder(self.folder)
                self._number += 1
                return _FileSegment(self.folder / f"{self.owner}-{self._number:06d}.seg")
            except OSError as error:
                self._failed.append(("journal_folder", error))
        return _MemorySegment(self._records_in_memory_max)

    def _take_folder(self, folder: Path) -> None:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock_path = folder / f"{self.owner}.lock"
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if fcntl is not None:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a filesystem without locks: this is asked again and again
            os.close(fd)
            raise
        self._lock_fd = fd
        _OWN.add(self.owner)

    def try_files_again(self) -> None:
        """Go back from memory to files when that may work again; called now and then by the
        delivering thread.
        """
        current = self._current
        if isinstance(current, _MemorySegment) and self.folder is not None and not current.frames:
            self._rotate(current)

    # -- reading, by the delivering thread

    @property
    def has_unread(self) -> bool:
        """Whether there may be records that were not delivered yet."""
        return any(segment.has_unread for segment in list(self._segments))

    def take(self, records_max: int) -> list[Record]:
        """Return the next records that were not delivered yet, in order of writing.

        They are delivered when `delivered` is called; until then another `take` returns them again.
        """
        self._batch = []
        taken: list[Record] = []
        for segment in list(self._segments):
            if len(taken) >= records_max:
                break
            is_left = segment is not self._current and not segment.writers
            records, position = segment.take(records_max - len(taken), is_left=is_left)
            taken += records
            self._batch.append((segment, position, is_left))
        return taken

    def delivered(self) -> None:
        """Note that the ledger has what the last `take` returned; remove finished segments."""
        for segment, position, left in self._batch:
            if isinstance(segment, _MemorySegment):
                segment.release(position)
                finished = left and not segment.frames
            else:
                segment.read_to = position
                finished = left and not segment.has_unread
            if finished:
                self._remove(segment)
        self._batch = []

    def set_aside(self, record: Record) -> None:
        """Keep a record that no ledger can take, beside the journal, for a person to look at.

        Raises:
            OSError: if it cannot be written.
        """
        if self.folder is None:
            return
        path = self.folder / "refused.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, json.dumps(record).encode() + b"\n")
        finally:
            os.close(fd)

    def _remove(self, segment: _FileSegment | _MemorySegment) -> None:
        """Take a finished segment away, unless it is current or was closed meanwhile."""
        with self._rotation:
            if segment is self._current or segment not in self._segments:
                return
            self._segments.remove(segment)
            self._dropped += segment.dropped if isinstance(segment, _MemorySegment) else 0
            segment.remove()

    def close(self) -> None:
        """Give the folder back. What was not delivered stays for the next process.

        While calls are in flight the folder stays taken: their begin records are not to be taken
        for those of a dead process.
        """
        with self._rotation:
            self._current = None  # who comes now takes a new segment, for the next process
            for segment in list(self._segments):
                if isinstance(segment, _FileSegment) and self._writers_are_done(segment):
                    if segment.has_unread or self._in_flight:
                        os.close(segment.fd)
                    else:
                        segment.remove()
            self._segments.clear()
            self._closed = True
            if not self._in_flight:
                self._release_folder()

    def _close_again(self, segment: _FileSegment | _MemorySegment) -> None:
        """Leave what a call wrote that ended after `close`; the last one gives the folder back."""
        with self._rotation:
            if segment is self._current and isinstance(segment, _FileSegment):
                self._current = None
                if segment in self._segments and self._writers_are_done(segment):
                    self._segments.remove(segment)
                    os.close(segment.fd)
                if not self._in_flight:
                    self._release_folder()

    @staticmethod
    def _writers_are_done(segment: _FileSegment) -> bool:
        """Wait for threads in the middle of an append; false if one hangs.

        A descriptor that is closed may be the application's next one, and must not be written to
        any more; so that of a hanging thread stays open.
        """
        deadline = time.monotonic() + _WRITERS_WAIT_S
        while segment.writers:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)  # an append takes microseconds
        return True

    def _release_folder(self) -> None:
        if self._lock_fd is None or self.folder is None:
            return
        os.close(self._lock_fd)
        self._lock_fd = None
        _OWN.discard(self.owner)
        if not any(self.folder.glob(f"{self.owner}-*.seg")):
            (self.folder / f"{self.owner}.lock").unlink(missing_ok=True)

    def renew_after_fork(self, owner: str) -> None:
        """Start anew in a forked child: the parent's files and calls are the parent's."""
        for segment in self._segments:
            if isinstance(segment, _FileSegment):
                os.close(segment.fd)  # the child's copy of the descriptor; the parent keeps its own
        if self._lock_fd is not None:
            os.close(self._lock_fd)
        _OWN.clear()
        self.owner = owner
        self._lock_fd = None
        self._current = None
        self._segments = deque()
        self._in_flight = {}
        self._rotation = threading.Lock()
        self._failed = []
        self._batch = []
        self._number = 0
        self.pushed = 0


_OWN: set[str] = set()
"""Owners in this process: `lockf` does not conflict within a process, so they are told apart here.
"""


def adopt(folder: Path, *, deliver: Callable[[list[Record]], None]) -> int:
    """Deliver and remove the segments of processes that have died.

    Args:
        folder: The data folder's journal.
        deliver: Called with all records of one dead process, in order; must have stored them when
            it returns. What it raises leaves the segments where they are, for the next try.

    Returns:
        How many dead processes' journals were taken over.
    """
    adopted = 0
    if not folder.is_dir():
        return 0
    for owner in sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.seg")}):
        if owner in _OWN:
            continue
        with _Claim(folder / f"{owner}.lock") as claimed:
            if not claimed:
                continue
            paths = sorted(folder.glob(f"{owner}-*.seg"))
            if not paths:  # another process took them over between our look and our claim
                (folder / f"{owner}.lock").unlink(missing_ok=True)
                continue
            records: list[Record] = []
            for path in paths:
                records += parse(path.read_bytes(), at_end=True)[0]
            if records:
                deliver(records)
            for path in paths:
                path.unlink(missing_ok=True)
            (folder / f"{owner}.lock").unlink(missing_ok=True)
            adopted += 1
    return adopted


class _Claim:
    """Holds a dead owner's lock while its segments are adopted; false where the owner lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> bool:
        if fcntl is None:  # pragma: no cover - not a POSIX system
            return False
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
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
    answered = {record.get("id") for record in records if record.get("k") in ("end", "void")}
    seen: set[Any] = set()
    for record in records:
        event_id = record.get("id")
        if record.get("k") == "begin" and event_id not in answered and event_id not in seen:
            seen.add(event_id)
            yield record
