"""Segments: where a journal keeps its records, and how a record is framed.

There are three kinds, with one contract. A *mapped* segment is a file whose pages are in this
process's memory; a record is copied there. A *written* one takes a record with one `write`. A
*memory* one is for processes that can write no file. Any thread appends; the delivering thread
reads, seals and removes. A segment is sealed or removed only when no thread appends to it any more
(`writers`, see `journal`).

A frame is magic, length of the payload, its CRC-32, the payload (JSON). A packed record
(`core/records.py`) has a magic of its own; the lane that it names was framed before it in the same
segment, so each segment can be read by itself. A reader skips to the next magic where a record is
torn.

A mapped segment needs no lock and cannot be seen half written: `mmap.write` copies and moves its
position in one step under the interpreter's lock, so whatever lies before the position is whole,
and nothing else is appended meanwhile. A process killed in the middle of the copy leaves one torn
frame, the last one; no signal handler can come in between. Its pages are allocated when it is made:
an access to a page for which the disk has no room would end the process (SIGBUS). So segments are
mapped only on file systems where allocated room stays allocated (`can_map`), and no other program
may shorten the files.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paygent.core import records as packed
from paygent.core.notices import Notice
from paygent.core.records import LaneFacts, PackedRecord
from paygent.failopen import diagnostics

MAGIC = b"PJ1\x9d"
HEADER = struct.Struct("<4sII")
_EITHER_MAGIC = b"PJ"  # what both magics start with
# A larger length in a frame is a torn frame: calls take a few hundred bytes, plans rarely 100 kB.
RECORD_BYTES_MAX = 1024 * 1024
# File systems that write in place what was allocated. Those that copy on write need new room for
# it, those of a network or of another program promise nothing, and behind an overlay may be any.
MAPPABLE = frozenset({"ext2", "ext3", "ext4", "tmpfs", "xfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_READ_BYTES = 2 * RECORD_BYTES_MAX  # so that a whole frame always fits into one read
_PART_RECORDS = 1_000  # of a dead process's segment in memory at once: about a megabyte
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)

Record = dict[str, Any] | PackedRecord
Lanes = dict[int, LaneFacts]
"""The lanes of a segment by number, as far as it was read."""


# -- frames


def frame(payload: bytes) -> bytes:
    """Frame one payload."""
    return HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def parse(
    data: bytes, lanes: Lanes, *, at_end: bool, records_max: int | None = None
) -> tuple[list[Record], int]:
    """Return the records in a piece of a segment, and how many bytes are done with.

    Args:
        data: Bytes from a record's start, or from anywhere after damage.
        lanes: The lanes read so far; those of this piece are added.
        at_end: Whether nothing will follow; then a torn last record is skipped, otherwise it is
            waited for.
        records_max: How many records to read at most; None is all.
    """
    records, done, _ = _parse(data, lanes, at_end=at_end, records_max=records_max)
    return records, done


def parse_dead(data: bytes) -> tuple[list[Record], bool]:
    """Return the records in a segment of a dead process, and whether it is damaged; see
    `parts_of_dead`.
    """
    parts = list(parts_of_dead(data))
    return [record for part, _ in parts for record in part], any(damaged for _, damaged in parts)


def parts_of_dead(
    data: bytes, records_max: int = _PART_RECORDS
) -> Iterator[tuple[list[Record], bool]]:
    """Yield the records in a segment of a dead process, so many at a time, and whether that part is
    damaged: whether there is anything else in it than unused room and torn records, which a kill
    or a full disk leaves.
    """
    lanes: Lanes = {}
    is_last = False
    while not is_last:
        records, done, spans = _parse(data, lanes, at_end=True, records_max=records_max)
        ends = [0, *(end for _, end in spans)]
        between = [data[end:start] for end, (start, _) in zip(ends, spans, strict=False)]
        is_last = len(records) < records_max
        if is_last:
            between.append(data[ends[-1] :].rstrip(b"\0"))
        yield records, not all(map(_is_torn, between))
        data = data[done:]


def _is_torn(rest: bytes) -> bool:
    """Return whether bytes that are no record are one incomplete record, or none."""
    if rest.startswith(packed.MAGIC):
        return len(rest) < (packed.packed_size(rest, 0) or HEADER.size)
    if len(rest) < HEADER.size:
        return rest.startswith(MAGIC) or MAGIC.startswith(rest) or packed.MAGIC.startswith(rest)
    magic, length, _ = HEADER.unpack_from(rest)
    return bool(magic == MAGIC and len(rest) < HEADER.size + length)


def _parse(
    data: bytes, lanes: Lanes, *, at_end: bool, records_max: int | None
) -> tuple[list[Record], int, list[tuple[int, int]]]:
    """Parse as `parse`; return also where each record starts and ends, lanes included."""
    records: list[Record] = []
    spans: list[tuple[int, int]] = []
    position = 0
    while records_max is None or len(records) < records_max:
        start = data.find(_EITHER_MAGIC, position)
        if start < 0:
            position = len(data) if at_end else max(position, len(data) - len(MAGIC) + 1)
            break
        size = _size_at(data, start)
        if size < 0:  # these bytes only look like a record
            position = start + 1
            continue
        if not size or start + size > len(data):
            if not at_end:
                position = start
                break
            position = start + 1
            continue
        is_whole, record = _read(data, start, size, lanes)
        if not is_whole:
            position = start + 1
            continue
        if record is not None:
            records.append(record)
        position = start + size
        spans.append((start, position))
    return records, position, spans


def _size_at(data: bytes, start: int) -> int:
    """Return the size of the record that starts here; 0 where the data ends before it is known, -1
    where there is none.
    """
    magic = data[start : start + len(MAGIC)]
    if magic == packed.MAGIC:
        return packed.packed_size(data, start)
    if magic != MAGIC:
        return 0 if MAGIC.startswith(magic) or packed.MAGIC.startswith(magic) else -1
    if start + HEADER.size > len(data):
        return 0
    _, length, _ = HEADER.unpack_from(data, start)
    return HEADER.size + length if length <= RECORD_BYTES_MAX else -1


def _read(data: bytes, start: int, size: int, lanes: Lanes) -> tuple[bool, Record | None]:
    """Read one whole record; return whether it is undamaged, and the record. A lane goes to `lanes`
    and is no record of its own.
    """
    try:
        if data.startswith(packed.MAGIC, start):
            record = packed.unpack(data, start, lanes)
            return record is not None, record
        payload = data[start + HEADER.size : start + size]
        _, _, checksum = HEADER.unpack_from(data, start)
        document = json.loads(payload) if zlib.crc32(payload) == checksum else None
        if not isinstance(document, dict):
            return False, None
        if document.get("k") != "lane":
            return True, document
        number, facts = packed.decode_lane(document)
    except (KeyError, TypeError, ValueError):
        return False, None
    lanes[number] = facts
    return True, None


# -- segments


@dataclass(slots=True, eq=False)
class _FileSegment:
    """The reading side of a segment in a file, common to both kinds.

    Attributes:
        path: The file.
        writers: An entry for each thread that is about to append.
        read_to: Up to where the ledger has the records, in bytes.
        full_at: Size at which the segment is to be left for a new one.
        dropped: 1 once a part of it has disappeared, with an unknown number of records.
        lanes: The lanes that were read from it.
        open_calls: Calls that began here and are not known to have ended, by number: the segment
            is kept for them.
        answers: The older segments with begins that only a record in this one answers: it is kept
            as long as any of them.
    """

    path: Path
    writers: list[None] = field(default_factory=list)
    read_to: int = 0
    full_at: int = 0
    dropped: int = 0
    lanes: Lanes = field(default_factory=dict)
    open_calls: set[int] = field(default_factory=set)
    answers: set[Any] = field(default_factory=set)
    _sealed_at: int | None = None

    @property
    def end(self) -> int:
        """Where the next record goes."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Release this process's descriptor or mapping and leave the file alone."""
        raise NotImplementedError

    def remove(self) -> None:
        """Delete the file."""
        self._sealed_at = 0
        self.abandon()
        self.path.unlink(missing_ok=True)

    @property
    def has_unread(self) -> bool:
        """Whether there are bytes that were not delivered."""
        return self.read_to < self.end

    def take(self, records_max: int, *, is_left: bool) -> tuple[list[Record], int]:
        """Return the next records, and the position after them; if the segment `is_left`, nothing
        will follow.
        """
        taken: list[Record] = []
        position, end = self.read_to, self.end
        while position < end and len(taken) < records_max:
            data = self._read(position, min(end - position, _READ_BYTES))
            if not data:  # the file was deleted; the records behind it must not wait for it
                diagnostics.warn_once(Notice.JOURNAL_LOST)
                self.dropped = 1
                return taken, end
            at_end = is_left and position + len(data) == end
            wanted = records_max - len(taken)
            records, done = parse(data, self.lanes, at_end=at_end, records_max=wanted)
            if not done:
                break
            taken += records
            position += done
        return taken, position

    def _read(self, position: int, size: int) -> bytes:
        """Read a sealed segment, which holds nothing open; nothing if the file has gone."""
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read(size)
        except FileNotFoundError:
            return b""


class WrittenSegment(_FileSegment):
    """A file that takes a record with one `write`, on any file system."""

    __slots__ = ("_fd", "size")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _CLOSE_ON_EXEC, 0o600)
        self.size = 0

    def append(self, data: bytes) -> bool:
        """Write one frame; False when it was torn (a short write).

        Raises:
            OSError: if nothing could be written.
        """
        written = os.write(self._fd, data)
        # Other threads may lose an addition; the size only decides when to rotate.
        self.size += written
        return written == len(data)

    def write(self, data: bytes) -> None:
        """Write one packed record.

        Raises:
            ValueError: if it was torn, or the segment is to be left.
            OSError: if nothing could be written.
        """
        if self.size >= self.full_at:
            raise ValueError("no room")
        if not self.append(data):
            self.full_at = 0  # a reader would wait for the rest, as long as the segment is current
            raise ValueError("torn")

    @property
    def end(self) -> int:
        """Where the next record goes; 0 for a file that the delivering thread has just removed."""
        if self._sealed_at is not None:
            return self._sealed_at
        try:
            size = os.fstat(self._fd).st_size
        except OSError:
            size = 0
        # Sealed in between, the descriptor may have been the application's already.
        return size if self._sealed_at is None else self._sealed_at

    def _read(self, position: int, size: int) -> bytes:
        if self._sealed_at is not None:
            return super()._read(position, size)
        return os.pread(self._fd, size, position)

    def seal(self) -> None:
        """Close the descriptor; from now on the segment is only read and removed."""
        if self._sealed_at is None:
            self._sealed_at = os.fstat(self._fd).st_size
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptor; see `_FileSegment.abandon`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class MappedSegment(_FileSegment):
    """A file of a fixed size, mapped into memory: a record costs no system call.

    Attributes:
        capacity: How many bytes fit.
        write: Copies one packed record; ValueError if there is no room for it, or it is sealed.
    """

    __slots__ = ("_map", "capacity", "write")

    def __init__(self, path: Path, bytes_min: int) -> None:
        """Allocate a new file.

        Raises:
            OSError: if there is no room for it, or it cannot be mapped; no file is left then.
        """
        super().__init__(path)
        self.capacity = -(-bytes_min // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.capacity)
            self._map = mmap.mmap(fd, self.capacity)
            # Or the first append would read the whole file ahead, which takes half a millisecond.
            self._map.madvise(mmap.MADV_RANDOM)
            self.write = self._map.write
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(fd)  # the mapping has one of its own

    def append(self, data: bytes) -> bool:
        """Copy one frame; False when there is no room for it."""
        try:
            self._map.write(data)
        except ValueError:  # no room, or sealed
            return False
        return True

    @property
    def size(self) -> int:
        """How many bytes are used."""
        try:
            return self._map.tell()
        except ValueError:  # sealed or removed
            return self._sealed_at or 0

    end = size

    def touch(self) -> None:
        """Bring all pages into memory before the first append, so that no caller pays for it."""
        for position in range(0, self.capacity, mmap.PAGESIZE):
            self._map[position] = 0

    def _read(self, position: int, size: int) -> bytes:
        if self._sealed_at is not None:
            return super()._read(position, size)
        return self._map[position : position + size]

    def seal(self) -> None:
        """Unmap the file and cut it to what is used; from now on it is only read and removed."""
        if self._sealed_at is None:
            self._sealed_at = self._map.tell()
            self._map.close()
            try:
                os.truncate(self.path, self._sealed_at)
            except OSError as error:  # it stays as long as it is; readers know where it ends
                diagnostics.record_error("journal_cut", error)

    def abandon(self) -> None:
        """Unmap the pages; see `_FileSegment.abandon`."""
        self._map.close()


@dataclass(slots=True, eq=False)
class MemorySegment:
    """Records of a process that can write no file; bounded: beyond it they are dropped and counted.

    Attributes:
        writers, read_to, full_at, size, lanes, open_calls: As for files.
        frames: Records that were appended and not delivered; a lane with the first that names it.
        dropped: Number of records that did not fit.
        ended: Numbers of the calls with an end that did not fit.
    """

    records_max: int
    frames: deque[bytes] = field(default_factory=deque)
    writers: list[None] = field(default_factory=list)
    read_to: int = 0
    full_at: int = 1 << 62  # it has a bound of its own
    size: int = 0
    dropped: int = 0
    lanes: Lanes = field(default_factory=dict)
    open_calls: set[int] = field(default_factory=set)
    answers: set[Any] = field(default_factory=set)
    ended: deque[int] = field(default_factory=deque)

    def append(self, data: bytes) -> bool:
        """Keep one frame; false where it is dropped, which is counted."""
        if len(self.frames) < self.records_max:
            self.frames.append(data)
            self.size += len(data)
            return True
        at = data.find(packed.MAGIC)  # the record of a lane may precede it
        kind = data[at + len(MAGIC)] if at >= 0 else None
        if kind in (packed.END, packed.VOID):
            self.ended.append(packed.seq_of(data, at))
        if kind in (packed.END, None):  # others are for a next process
            self.dropped += 1
            diagnostics.warn_once(Notice.JOURNAL_MEMORY_FULL)
        return False

    def write(self, data: bytes) -> None:
        """Keep one packed record, or drop it; ValueError if the segment is to be left."""
        if self.size >= self.full_at:
            raise ValueError("full")
        self.append(data)

    @property
    def end(self) -> int:
        """How many records were appended so far."""
        return self.read_to + len(self.frames)

    @property
    def has_unread(self) -> bool:
        """Whether there are records that were not delivered."""
        return bool(self.frames)

    def take(self, records_max: int, *, is_left: bool) -> tuple[list[Record], int]:  # noqa: ARG002
        """Return the next records, and from how many frames; those stay until `release`."""
        frames = list(self.frames)[:records_max]
        lanes = self.lanes
        records = [record for data in frames for record in parse(data, lanes, at_end=True)[0]]
        return records, len(frames)

    def release(self, records: int) -> None:
        """Drop the oldest records."""
        for _ in range(records):
            self.frames.popleft()
            self.read_to += 1

    def seal(self) -> None:
        """Do nothing: there is nothing to release."""

    def remove(self) -> None:
        """Drop the records."""
        self.frames.clear()

    def abandon(self) -> None:
        """Do nothing: a forked child has its own copy."""


Segment = WrittenSegment | MappedSegment | MemorySegment


def can_map(folder: Path) -> bool:
    """Return whether segments in a folder may be mapped; False if that is not known."""
    if not hasattr(os, "posix_fallocate") or sys.implementation.name != "cpython":
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False  # then `mmap.write` is not one step
    try:
        device = os.stat(folder).st_dev
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    # "36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/root rw": the third is the device, the
    # first after the dash the file system.
    kinds = {
        line.partition(" - ")[2].partition(" ")[0]
        for line in mounts
        if line.split(" ", 3)[2:3] == [number]
    }
    return bool(kinds) and kinds <= MAPPABLE
