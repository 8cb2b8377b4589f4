"""The journal: every record of a call is in the operating system's hands before the call returns.

Theory of operation
-------------------
A process appends to a segment of its own from many threads without a lock: it copies a record into
a mapped file where that is safe, and writes it with one `write` elsewhere (`segments`). The journal
is also the queue: the delivering thread reads records back from the segments, in order, and removes
a segment when all of its records are acknowledged. After a death the segments are still there,
and the next process adopts them.

A segment that is full, has no room for a record or suffered a short write is replaced by a new one.
An old one is kept until every call that began in it has ended and all of its records are delivered.
The delivering thread prepares the next mapped segment, so that a caller switches without a system
call, and releases the descriptors of old ones, so that an outage of the ledger costs disk space and
nothing else.

Without locks, a thread may still use a segment that is being replaced. It announces itself in
`writers` before it checks that the segment is current, and the reader seals or removes a segment
only when it is not current and no thread is announced; both orders are safe.

A lock marks the segments of a live process (`ownership`). Where no folder can be written, records
are kept in memory, with a warning: they do not survive the process.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from paygent.client.accounts.user_state import Lane
from paygent.client.journal.ownership import (
    forget_after_fork,
    new_owner_name,
    release_lock,
    take_lock,
)
from paygent.client.journal.segments import (
    RECORD_BYTES_MAX,
    MappedSegment,
    MemorySegment,
    Record,
    Segment,
    WrittenSegment,
    can_map,
    frame,
)
from paygent.core.notices import Notice
from paygent.core.records import BEGIN, END, PackedRecord, encode_lane
from paygent.failopen import diagnostics

# Some 20,000 calls. A process has up to two such files allocated, used or not; a busy one fills
# less than one in the second until the next is made.
SEGMENT_BYTES_MAX = 2 * 1024 * 1024

_LANES_IN_MEMORY_MAX = 4_096  # with more, records go on in a new segment, once all are delivered
_WRITERS_WAIT_S = 1.0  # how long the end waits for threads in the middle of an append


Mark = tuple[tuple[Segment, int], ...]  # a moment in a journal: each segment and where it ended

_NO_BOUND = 1 << 62


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
        in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        """Store the settings; the first append makes the folder and the first segment.

        Args:
            folder: Where segments are kept (mode 0700); None keeps records in memory.
            owner: Unique name of this process and journal, no path separators.
            records_in_memory_max: Records kept when no file can be written.
            segment_bytes_max: Bytes appended to a segment before it is left for a new one.
            in_flight: Returns how many calls have begun and not ended.
        """
        self.folder = folder
        self.owner = owner
        self._records_in_memory_max = records_in_memory_max
        self._segment_bytes_max = segment_bytes_max
        self._in_flight = in_flight
        self._closed = False
        self._maps = False
        self._start_over()

    def _start_over(self) -> None:
        self._dropped = self._lost = 0
        self._failed: list[tuple[str, OSError]] = []
        self._rotation = threading.Lock()
        self._current: Segment | None = None
        self._segments: deque[Segment] = deque()
        self._numbers = itertools.count(1)
        self._spare: MappedSegment | None = None
        self._lock_fd: int | None = None
        self._batch: list[tuple[Segment, int]] = []
        self._calls_taken: list[tuple[PackedRecord, Segment]] = []
        self._begun_in: dict[int, Segment] = {}

    # -- writing

    @property
    def is_durable(self) -> bool:
        """Whether records survive this process."""
        return not isinstance(self._current, MemorySegment)

    @property
    def dropped(self) -> int:
        """How many records fit neither file nor memory and were not requeued."""
        return self._lost + self._to_bring_again

    @property
    def _to_bring_again(self) -> int:
        return self._dropped + sum(segment.dropped for segment in list(self._segments))

    def mark(self) -> Mark:
        """Return how far records have been appended by now; see `has_reached`."""
        return tuple((segment, segment.end) for segment in list(self._segments))

    def has_reached(self, mark: Mark) -> bool:
        """Return whether everything up to a mark has been delivered."""
        left = list(self._segments)
        return all(segment not in left or segment.read_to >= end for segment, end in mark)

    def write(self, lane: Lane, record: bytes) -> None:
        """Append a packed record of a call; its lane's record precedes it in the same segment."""
        segment: Segment | None = lane.segment
        if segment is not None and segment is self._current:
            writers = segment.writers
            try:
                writers.append(None)
                if segment is self._current:
                    segment.write(record)
                    return
            except (ValueError, OSError):  # no room; the general way finds some
                pass
            finally:
                writers.pop()
        facts = lane.facts._replace(expectation=lane.forecast.expectation)
        lane.segment = self._append(frame(encode_lane(lane.number, facts)) + record)

    def append(self, payload: bytes) -> None:
        """Append a record other than a call's: a plan, an assignment, a session, a manual event."""
        if self._has_room_for(payload):
            self._append(frame(payload))

    def _has_room_for(self, payload: bytes) -> bool:
        """Return whether the reader accepts a record of this size; others are dropped, logged."""
        if len(payload) <= RECORD_BYTES_MAX:
            return True
        self._lost += 1
        diagnostics.warn_once(Notice.RECORD_TOO_LARGE, len(payload), RECORD_BYTES_MAX)
        return False

    def _append(self, data: bytes) -> Segment | None:
        """Write records to the current segment; return it, or None if memory had to drop them.

        It never raises: memory takes a record that no file can.
        """
        while True:
            segment = self._current
            if segment is None:
                segment = self._rotate(None, room=len(data))
            try:
                # Inside `try`, because an interrupt may follow immediately.
                segment.writers.append(None)
                if segment is not self._current:
                    continue
                try:
                    is_whole = segment.append(data)
                except OSError as error:
                    diagnostics.record_error("journal_write", error)
                    self._rotate(segment, to_memory=True)
                    continue
            finally:
                segment.writers.pop()
            if not (is_whole or isinstance(segment, MemorySegment)):
                self._rotate(segment, room=len(data))
                continue
            if segment.size >= segment.full_at:
                self._rotate(segment)
            if self._closed:
                self._close_again(segment)
            return segment if is_whole else None

    def _rotate(self, left: Segment | None, *, room: int = 0, to_memory: bool = False) -> Segment:
        """Replace a segment by a new one with so much room, unless another thread has; return the
        current one.
        """
        with self._rotation:
            current = self._current
            if current is not left and current is not None:
                return current
            fresh = self._fresh_segment(room=room, to_memory=to_memory)
            self._segments.append(fresh)
            self._current = fresh
        self._report_failed()
        if isinstance(fresh, MemorySegment) and self.folder is not None:
            diagnostics.warn_once(Notice.JOURNAL_IN_MEMORY)
        return fresh

    def _report_failed(self) -> None:
        """Report what failed under the lock: a log handler may append a record."""
        failed, self._failed = self._failed, []
        for kind, error in failed:
            diagnostics.record_error(kind, error)

    def _delete(self, segment: Segment) -> None:
        """Delete a segment. A file that stays does no harm: the next process adopts it, and its
        events are counted once.
        """
        try:
            segment.remove()
        except OSError as error:
            self._failed.append(("journal_remove", error))

    def _fresh_segment(self, *, room: int, to_memory: bool) -> Segment:
        """Return a new, empty segment."""
        fresh: Segment | None = (
            None if to_memory else self._spare_with(room) or self._new_file(room)
        )
        if fresh is None:
            return MemorySegment(self._records_in_memory_max)
        fresh.full_at = self._segment_bytes_max
        return fresh

    def _spare_with(self, bytes_min: int) -> MappedSegment | None:
        """Return the prepared segment if so much fits and half of it stays free."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.capacity < bytes_min + self._segment_bytes_max // 2:
            self._delete(spare)  # the file made in its place has a later number
            return None
        return spare

    def _new_file(self, room: int) -> WrittenSegment | MappedSegment | None:
        """Return a new file with such room, or None if the folder cannot be written."""
        if self.folder is None:
            return None
        try:
            if self._lock_fd is None:
                self._take_folder(self.folder)
            # After `close` only a record or two follows; no need to allocate a file.
            mapped = None if self._closed else self._new_mapped(room)
            return mapped or WrittenSegment(self._next_path(self.folder))
        except OSError as error:
            self._failed.append(("journal_folder", error))
            return None

    def _new_mapped(self, room: int = 0) -> MappedSegment | None:
        """Return a new mapped segment, or None if that is not possible."""
        if self.folder is None or not self._maps:
            return None
        try:
            bytes_min = max(room, self._segment_bytes_max)
            return MappedSegment(self._next_path(self.folder), bytes_min)
        except OSError:  # a disk too full to allocate ahead may have room for records
            return None

    def _next_path(self, folder: Path) -> Path:
        return folder / f"{self.owner}-{next(self._numbers):06d}.seg"

    def _take_folder(self, folder: Path) -> None:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock_fd = take_lock(folder, self.owner)
        self._maps = can_map(folder)

    # -- maintenance, by the delivering thread

    def maintain(self) -> None:
        """Do the work that no caller should pay for: retry files, seal, prepare a segment."""
        current = self._current
        if isinstance(current, MemorySegment) and not current.frames:
            has_many_lanes = len(current.lanes) > _LANES_IN_MEMORY_MAX
            if self.folder is not None or has_many_lanes:
                self._rotate(current)  # files may work again
        for segment in list(self._segments):
            if segment is not self._current and not segment.writers:
                segment.seal()
        self._make_ahead()

    def _make_ahead(self) -> None:
        """Prepare the next mapped segment once the current one is half full."""
        current, half = self._current, self._segment_bytes_max // 2
        if not isinstance(current, MappedSegment) or self._spare is not None:
            return
        if current.full_at - current.size > half:
            return
        spare = self._new_mapped()
        if spare is None:
            return
        spare.touch()
        with self._rotation:
            # Left meanwhile, the segment in its place has a later number than this one.
            if self._current is current and not self._closed:
                self._spare = spare
                return
        self._delete(spare)
        self._report_failed()

    # -- reading, by the delivering thread

    @property
    def has_unread(self) -> bool:
        """Whether there may be records that were not delivered yet."""
        return any(segment.has_unread for segment in list(self._segments))

    @property
    def has_any(self) -> bool:
        """Whether anything may be left to deliver, also by processes that have died."""
        left = self.folder.glob("*.seg") if self.folder is not None else ()
        return self.has_unread or any(left)

    def take(self, records_max: int) -> list[Record]:
        """Return the next records that were not delivered yet, in order of writing.

        They are delivered when `delivered` is called; until then another `take` returns them again.
        """
        self._batch, self._calls_taken = [], []
        taken: list[Record] = []
        for segment in list(self._segments):
            if len(taken) >= records_max:
                break
            is_left = segment is not self._current and not segment.writers
            records, position = segment.take(records_max - len(taken), is_left=is_left)
            taken += records
            self._calls_taken += [
                (record, segment) for record in records if isinstance(record, PackedRecord)
            ]
            self._batch.append((segment, position))
            if not is_left:  # a thread may still write here what precedes its later records
                break
        return taken

    def delivered(self) -> None:
        """Note that the ledger has what the last `take` returned; remove finished segments."""
        for record, read_in in self._calls_taken:
            if record.kind != BEGIN:
                self._note_end(record.seq, read_in if _is_needed(record) else None)
            elif not isinstance(read_in, MemorySegment):  # memory has no next process
                self._begun_in[record.seq] = read_in
                read_in.open_calls.add(record.seq)
        for segment, position in self._batch:
            if isinstance(segment, MemorySegment):
                segment.release(position)
            else:
                segment.read_to = position
            self._forget_dropped(segment)
        self._batch, self._calls_taken = [], []
        for segment in list(self._segments):
            # A thread that is announced may still write here.
            is_left = segment is not self._current and not segment.writers
            if is_left and not segment.has_unread and not self._is_needed(segment):
                self._remove(segment)

    def _note_end(self, seq: int, answer: Segment | None) -> None:
        """Note that a call has ended; `answer` is where that has to be found after a death."""
        begun_in = self._begun_in.pop(seq, None)
        if begun_in is not None:
            begun_in.open_calls.discard(seq)
            if answer is not None and answer is not begun_in:
                answer.answers.add(begun_in)

    def _is_needed(self, segment: Segment) -> bool:
        """Return whether the next process would need a segment that has been delivered."""
        segment.answers.intersection_update(self._segments)
        return bool(segment.open_calls or segment.answers)

    @property
    def spare_room(self) -> int:
        """How many records there is room for that the others need less: in memory, what is left of
        half of it; a file has room for all.
        """
        current = self._current
        if not isinstance(current, MemorySegment):
            return _NO_BOUND
        return max(self._records_in_memory_max // 2 - len(current.frames), 0)

    def requeue_lost(self, payloads: Callable[[], list[bytes]]) -> bool:
        """Append once more what no memory could take, and what has disappeared from files; called
        when all else is delivered. Return whether anything was appended.

        Args:
            payloads: Gives everything that has ended and is not delivered; called if need be.
        """
        dropped = self._to_bring_again
        if not dropped:
            return False
        self._dropped = 0
        for segment in list(self._segments):
            segment.dropped = 0
        again = payloads()
        self._lost += max(dropped - len(again), 0)  # ledger records have no other copy
        for payload in again:
            self._append(frame(payload))
        return bool(again)

    def _forget_dropped(self, segment: Segment) -> None:
        """Keep no segment for calls with an end that fit nowhere: their events are requeued."""
        while isinstance(segment, MemorySegment) and segment.ended:
            self._note_end(segment.ended.popleft(), None)

    def quarantine(self, record: Record) -> None:
        """Keep a record that the ledger rejects beside the journal, for a person to inspect.

        Raises:
            OSError: if it cannot be written.
        """
        if self.folder is None:
            return
        fd = os.open(self.folder / "refused.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, json.dumps(record, default=str).encode() + b"\n")
        finally:
            os.close(fd)

    def _remove(self, segment: Segment) -> None:
        """Remove a finished segment, unless it was closed meanwhile, or is not finished after all:
        one that a thread is just making looks like it for a moment, and may be full by now.
        """
        with self._rotation:
            if segment is self._current or segment not in self._segments:
                return
            if segment.writers or segment.has_unread:
                return
            self._segments.remove(segment)
            self._dropped += segment.dropped
            self._delete(segment)
        self._report_failed()

    def close(self) -> None:
        """Release the folder. Undelivered records stay for the next process.

        While calls are in flight the lock is kept, so that their begin records are not mistaken for
        those of a dead process.
        """
        in_flight = self._in_flight()
        with self._rotation:
            self._current = None  # a later append opens a new segment, for the next process
            if self._spare is not None:
                self._delete(self._spare)
                self._spare = None
            for segment in list(self._segments):
                if self._writers_are_done(segment):
                    if segment.has_unread or in_flight or self._is_needed(segment):
                        segment.seal()
                    else:
                        self._delete(segment)
            self._segments.clear()
            self._closed = True
            if not in_flight:
                self._release_folder()
        self._report_failed()

    def _close_again(self, segment: Segment) -> None:
        """Seal the record of a call that ended after `close`; the last one releases the folder."""
        with self._rotation:
            if segment is self._current and not isinstance(segment, MemorySegment):
                self._current = None
                if segment in self._segments and self._writers_are_done(segment):
                    self._segments.remove(segment)
                    segment.seal()
                if not self._in_flight():
                    self._release_folder()
        self._report_failed()

    @staticmethod
    def _writers_are_done(segment: Segment) -> bool:
        """Wait for threads in the middle of an append; false if one hangs."""
        # A descriptor that is closed may be the application's next one, and must not be written to
        # any more; so that of a hanging thread stays open.
        deadline = time.monotonic() + _WRITERS_WAIT_S
        while segment.writers:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)  # an append takes microseconds
        return True

    def _release_folder(self) -> None:
        if self._lock_fd is None or self.folder is None:
            return
        lock_fd, self._lock_fd = self._lock_fd, None
        try:
            release_lock(self.folder, self.owner, lock_fd)
        except OSError as error:  # its file stays, unlocked
            self._failed.append(("journal_remove", error))

    def renew_after_fork(self, owner: str | None = None) -> None:
        """Start over in a forked child, under a name of its own: the parent's files and calls stay
        the parent's.
        """
        for segment in (*self._segments, *([self._spare] if self._spare else ())):
            segment.abandon()  # the child's copy of descriptor and mapping; the parent has its own
        if self._lock_fd is not None:
            os.close(self._lock_fd)
        forget_after_fork()
        self.owner = owner or new_owner_name()
        self._start_over()


def _is_needed(record: PackedRecord) -> bool:
    """Return whether the end of a call has to be found beside its begin after a death: an event
    that was booked under the id of the begin is counted once in any case.
    """
    return record.kind != END or (record.tail is not None and "id" in record.tail)
