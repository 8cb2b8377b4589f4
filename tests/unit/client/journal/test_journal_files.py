"""The journal's frames, its files, what a full disk does to it, and the journals of the dead."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Swallowed
from tests.contract.records import (
    begin,
    begin_of,
    calls_of,
    end,
    end_of,
    event_end,
    event_of,
    lane_of,
    lane_record,
    numbers_of,
    seqs_of,
    void,
    void_of,
)

import paygent.client.journal.journal as journal_module
import paygent.client.journal.ownership as ownership_module
import paygent.client.journal.segments as segments_module
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt, unfinished
from paygent.client.journal.segments import (
    HEADER,
    MAGIC,
    RECORD_BYTES_MAX,
    MappedSegment,
    Record,
    WrittenSegment,
    frame,
)
from paygent.client.journal.segments import parse as parse_segment
from paygent.core.event import encode_event
from paygent.core.records import BEGIN, END, VOID, PackedRecord
from paygent.failopen import diagnostics
from paygent.ledger.port import LedgerUnavailable

_ROOT = Path(__file__).parents[4]


def payload(**record: Any) -> bytes:
    """Return a record as it is appended."""
    return json.dumps(record, separators=(",", ":")).encode()


def framed(*numbers: int) -> bytes:
    """Return frames of numbered records."""
    return b"".join(frame(payload(n=number)) for number in numbers)


def parse(data: bytes, *, at_end: bool) -> tuple[list[Record], int]:
    """Parse a piece of a segment of which no lane is known yet."""
    return parse_segment(data, {}, at_end=at_end)


# -- frames


def test_parse__whole_frames__returns_them_and_is_done_with_all() -> None:
    """What was framed is read back."""
    data = framed(1, 2, 3)
    assert parse(data, at_end=False) == ([{"n": 1}, {"n": 2}, {"n": 3}], len(data))
    assert parse(b"", at_end=True) == ([], 0)


def test_parse__a_torn_tail__is_waited_for_until_the_end() -> None:
    """A frame that is being written is not read yet; where nothing follows it is passed over."""
    whole, torn = framed(1), framed(2)[:-1]
    assert parse(whole + torn, at_end=False) == ([{"n": 1}], len(whole))
    assert parse(whole + torn, at_end=True) == ([{"n": 1}], len(whole + torn))


def test_parse__a_torn_header__is_waited_for_until_the_end() -> None:
    """A header may be torn at any byte."""
    whole = framed(1)
    for length in range(1, HEADER.size):
        data = whole + framed(2)[:length]
        records, done = parse(data, at_end=False)
        assert (records, len(whole) >= done >= len(whole) - len(MAGIC) + 1) == ([{"n": 1}], True)
        assert parse(data, at_end=True) == ([{"n": 1}], len(data))
        rest = data[done:] + framed(2)[length:]
        assert parse(rest, at_end=True) == ([{"n": 2}], len(rest))


def test_parse__garbage_between_frames__loses_no_frame() -> None:
    """The reader finds the next magic."""
    data = b"rubbish" + framed(1) + b"\0" * 99 + framed(2) + MAGIC[:2] + framed(3) + b"end"
    assert parse(data, at_end=True) == ([{"n": 1}, {"n": 2}, {"n": 3}], len(data))


def test_parse__a_wrong_checksum__loses_that_record_only() -> None:
    """A damaged payload is not believed."""
    damaged = bytearray(framed(2))
    damaged[-2] ^= 1
    assert numbers_of(parse(framed(1) + damaged + framed(3), at_end=True)[0]) == [1, 3]


@pytest.mark.parametrize("length", [RECORD_BYTES_MAX + 1, 2**32 - 1, 1_000, 40])
@pytest.mark.parametrize("at_end", [True])
def test_parse__a_wrong_length__loses_that_record_only(length: int, at_end: bool) -> None:
    """A length that no record has, or one that spans others, does not hide the frames behind it."""
    wrong = HEADER.pack(MAGIC, length, 0) + payload(n=2)
    data = framed(1) + wrong + framed(3, 4, 5, 6)
    records, done = parse(data, at_end=at_end)
    assert (numbers_of(records), done) == ([1, 3, 4, 5, 6], len(data))


def test_parse__a_huge_length_before_the_end__is_not_waited_for() -> None:
    """A frame that cannot be whole ever is passed over at once."""
    data = HEADER.pack(MAGIC, RECORD_BYTES_MAX + 1, 0) + framed(1)
    assert numbers_of(parse(data, at_end=False)[0]) == [1]


def test_parse__the_magic_inside_a_payload__is_payload() -> None:
    """Bytes that look like a frame's start inside a whole frame start no frame."""
    inner = payload(text="PJ1 PJ1").replace(b" ", b"\\u009d")
    assert parse(frame(inner) + framed(1), at_end=True)[0] == [
        {"text": "PJ1\x9dPJ1"},
        {"n": 1},
    ]
    odd = frame(b"\x00" + MAGIC + b"\x10\0\0\0" + b"xxxx")
    assert numbers_of(parse(framed(1) + odd + framed(2), at_end=True)[0]) == [1, 2]


@pytest.mark.parametrize("text", [b"[1]", b"1", b"null", b"{", b"\xff\xfe", b""])
def test_parse__a_whole_frame_that_is_no_object__is_passed_over(text: bytes) -> None:
    """Only JSON objects are records."""
    assert numbers_of(parse(framed(1) + frame(text) + framed(2), at_end=True)[0]) == [1, 2]


_payloads = st.lists(
    st.fixed_dictionaries({"n": st.integers(), "t": st.text(max_size=30)}), max_size=8
)


@settings(max_examples=150, deadline=None, database=None)
@given(records=_payloads, cut=st.integers(0, 2_000), at_end=st.booleans())
def test_parse__any_prefix_of_a_journal__is_a_prefix_of_its_records(
    records: list[dict[str, Any]], cut: int, at_end: bool
) -> None:
    """Wherever a journal was cut off, what is read is what was written first."""
    frames = [frame(payload(**record)) for record in records]
    data = b"".join(frames)[:cut]
    whole = 0
    while whole < len(frames) and len(b"".join(frames[: whole + 1])) <= cut:
        whole += 1
    assert parse(data, at_end=at_end)[0] == records[:whole]


@settings(max_examples=150, deadline=None, database=None)
@given(records=_payloads, sizes=st.lists(st.integers(1, 60), min_size=1))
def test_parse__any_split_into_reads__returns_every_record_once(
    records: list[dict[str, Any]], sizes: list[int]
) -> None:
    """A reader that sees a segment grow reads each record once, however the writes were split."""
    data = b"".join(frame(payload(**record)) for record in records)
    read: list[Record] = []
    position = shown = 0
    step = 0
    while shown < len(data):
        shown = min(shown + sizes[step % len(sizes)], len(data))
        step += 1
        found, done = parse(data[position:shown], at_end=False)
        read += found
        position += done
    assert (read, position) == (records, len(data))


@settings(max_examples=200, deadline=None, database=None)
@given(
    records=st.lists(
        st.fixed_dictionaries({"n": st.integers(), "t": st.text(max_size=30)}),
        min_size=1,
        max_size=8,
    ),
    which=st.integers(0, 7),
    where=st.integers(0, 200),
    flip=st.integers(1, 255),
)
def test_parse__any_single_corrupted_frame__loses_only_that_record(
    records: list[dict[str, Any]], which: int, where: int, flip: int
) -> None:
    """One changed byte costs at most the record it is in."""
    frames = [bytearray(frame(payload(**record))) for record in records]
    which %= len(frames)
    frames[which][where % len(frames[which])] ^= flip
    read = parse(b"".join(map(bytes, frames)), at_end=True)[0]
    assert read == [record for number, record in enumerate(records) if number != which]


# -- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a journal may be made; it does not exist yet."""
    return tmp_path / "store.db.journal"


@pytest.fixture(params=["mapped", "written"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What segments are made, whatever the file system of the tests is."""
    monkeypatch.setattr(journal_module, "can_map", lambda folder: request.param == "mapped")
    return str(request.param)


written = pytest.mark.parametrize("kind", ["written"], indirect=True)
"""For tests of what `write` may do."""


@pytest.fixture
def new_journal(folder: Path, kind: str) -> Iterator[Callable[..., Journal]]:
    """Make journals in one folder."""
    made: list[Journal] = []

    def make(owner: str = "me", **arguments: Any) -> Journal:
        journal = Journal(folder, owner=owner, **arguments)
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.close()


Append = Callable[[bytes], bool]
Around = Callable[[Append, bytes], bool]


@pytest.fixture
def around_append(monkeypatch: pytest.MonkeyPatch) -> Callable[[Around], None]:
    """Have something done around each append to a file, in the thread that appends."""

    def hook(around: Around) -> None:
        for each in (MappedSegment, WrittenSegment):
            inner = each.append
            monkeypatch.setattr(
                each,
                "append",
                lambda segment, data, inner=inner: around(partial(inner, segment), data),
            )

    return hook


def left_on_disk(folder: Path) -> list[Record]:
    """Return what the next process would find if this one were killed now."""
    return [
        record
        for path in sorted(folder.glob("*.seg"))
        for record in parse(path.read_bytes(), at_end=True)[0]
    ]


def records_in(folder: Path, number: int) -> list[Record]:
    """Return the records in a segment of the journal `me`."""
    return parse((folder / f"me-{number:06d}.seg").read_bytes(), at_end=True)[0]


def segments_in(folder: Path) -> list[str]:
    """Return the names of the segments in a folder, in order."""
    return sorted(path.name for path in folder.glob("*.seg"))


def append_numbers(journal: Journal, numbers: Iterable[int]) -> None:
    """Append a record for each number."""
    for number in numbers:
        journal.append(payload(n=number))


def adopted(folder: Path, *, owners: int = 1) -> list[Record]:
    """Adopt the journals of so many dead processes and return their records."""
    found: list[Record] = []
    assert adopt(folder, deliver=found.extend) == owners
    return found


def current_segment(journal: Journal) -> Any:
    """Return the segment that an append has made."""
    assert journal._current is not None
    return journal._current


def left_with_a_writer(journal: Journal) -> Any:
    """Return a segment that was left while a thread is still about to append to it."""
    journal.append(payload(n=1))
    old = current_segment(journal)
    old.writers.append(None)
    journal._rotate(old)
    return old


def assert_nothing_unfinished(journal: Journal, folder: Path) -> None:
    """Check that after a kill no call would be booked as estimated."""
    drain(journal)
    assert list(unfinished(left_on_disk(folder))) == []


def drain(journal: Journal) -> list[Record]:
    """Take and deliver until nothing is left."""
    drained: list[Record] = []
    for _ in range(100):
        taken = journal.take(1_000)
        drained += taken
        journal.delivered()
        if not taken and not journal.has_unread:
            break
    return drained


def test_journal__never_used__makes_no_file(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Nothing is opened before the first append."""
    new_journal().take(10)
    assert not folder.exists()


def test_journal__in_use__is_readable_by_its_owner_only(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """The folder is 0700 and files are 0600, whatever the umask allows."""
    before = os.umask(0)
    try:
        new_journal().append(payload(n=1))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == {"me.lock": 0o600, "me-000001.seg": 0o600}


def test_journal__each_append__is_in_the_file_before_it_returns(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A record is in the operating system's hands, not in a buffer of ours."""
    journal = new_journal()
    lane = lane_of()
    for number in range(3):
        journal.append(payload(n=number))
        assert numbers_of(records_in(folder, 1)) == list(range(number + 1))
        begin(journal, lane, number)
        end(journal, lane, number)
        assert calls_of(records_in(folder, 1))[-2:] == [(BEGIN, number), (END, number)]


def test_rotate__a_call_in_flight__keeps_the_segment_of_its_begin_until_its_end_is_delivered(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Nothing is written again for a call that is still running; what it began in stays."""
    journal = new_journal(segment_bytes_max=3_000)
    lane = lane_of()
    begin(journal, lane, 1)
    number = 0
    while len(segments_in(folder)) < 3:
        journal.append(payload(n=number, text="x" * 500))
        number += 1
    assert numbers_of(drain(journal)) == list(range(number))
    assert segments_in(folder) == ["me-000001.seg", "me-000003.seg"]
    assert calls_of(left_on_disk(folder)) == [(BEGIN, 1)]
    end(journal, lane, 1)
    assert segments_in(folder) == ["me-000001.seg", "me-000003.seg"]
    assert calls_of(journal.take(10)) == [(END, 1)]
    assert segments_in(folder) == ["me-000001.seg", "me-000003.seg"]
    journal.delivered()
    assert segments_in(folder) == ["me-000003.seg"]


@pytest.mark.parametrize("write_end", [end, void])
def test_rotate__a_call_that_ends_in_a_later_segment__is_answered_there(
    new_journal: Callable[..., Journal], folder: Path, write_end: Callable[..., None]
) -> None:
    """A process killed after that leaves nothing that would be booked as estimated."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    journal._rotate(journal._current)
    write_end(journal, lane, 1)
    assert list(unfinished(left_on_disk(folder))) == []
    drain(journal)
    assert list(unfinished(left_on_disk(folder))) == []
    assert (segments_in(folder), journal._begun_in) == (["me-000002.seg"], {})


@pytest.mark.parametrize("event_id", [None, "of a job"])
def test_rotate__a_call_answered_in_a_segment_that_is_removed_first__stays_answered(
    new_journal: Callable[..., Journal], folder: Path, event_id: str | None
) -> None:
    """Another call keeps the segment of both begins; the next process must not book the first one
    of them as estimated: it spent nothing, or was booked under another id.
    """
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    begin(journal, lane, 2)
    journal._rotate(journal._current)
    if event_id is None:
        void(journal, lane, 1)
    else:
        journal.write(lane, event_end(lane, 1, event_of(lane, 1)._replace(event_id=event_id)))
    journal._rotate(journal._current)
    journal.append(payload(n=1))
    drain(journal)
    assert calls_of(list(unfinished(left_on_disk(folder)))) == [(BEGIN, 2)]
    end(journal, lane, 2)
    drain(journal)
    assert list(unfinished(left_on_disk(folder))) == []
    assert segments_in(folder) == ["me-000003.seg"]


def test_rotate__just_after_the_end_of_a_call__leaves_no_begin_without_it(
    new_journal: Callable[..., Journal],
    folder: Path,
    around_append: Callable[[Around], None],
) -> None:
    """Another thread may leave the segment just after a void was written to it."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    lane.segment = None  # the void goes the general way, which can be watched
    first = journal._current

    def append_and_rotate(append: Append, data: bytes) -> bool:
        whole = append(data)
        if journal._current is first:
            rotating = threading.Thread(target=journal._rotate, args=(first,))
            rotating.start()
            rotating.join(5)
        return whole

    around_append(append_and_rotate)
    void(journal, lane, 1)
    assert journal._current is not first
    drain(journal)
    assert list(unfinished(left_on_disk(folder))) == []


def test_rotate__while_a_call_ends__never_forgets_it(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """At every moment of an ending its begin or its end is on the disk or has been delivered."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    segment = current_segment(journal)
    found: list[bool] = []

    def rotate_deliver_and_look() -> None:
        journal._rotate(journal._current)
        delivered = journal.take(100)
        journal.delivered()
        is_on_disk = 1 in [seq for _, seq in calls_of(left_on_disk(folder))]
        found.append(is_on_disk or (END, 1) in calls_of(delivered))

    segment.writers = _RotatingWriters(rotate_deliver_and_look)  # announced, and not written yet
    end(journal, lane, 1)
    rotate_deliver_and_look()
    assert found == [True, True]
    assert list(unfinished(left_on_disk(folder))) == []


def test_write__a_lane__is_recorded_once_a_segment_and_before_its_first_call(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Each segment can be read by itself, and repeats nothing."""
    journal = new_journal()
    first, second = lane_of(), lane_of(session_id="s2")
    expected = b""
    for lane in (first, second):
        for seq in range(3):
            begin(journal, lane, seq)
        expected += lane_record(lane) + b"".join(begin_of(lane, seq) for seq in range(3))
    journal._rotate(journal._current)
    for seq in range(3):
        end(journal, first, seq)
    data = [path.read_bytes().rstrip(b"\0") for path in sorted(folder.glob("*.seg"))]
    ends = b"".join(end_of(first, seq) for seq in range(3))
    assert data == [expected.rstrip(b"\0"), (lane_record(first) + ends).rstrip(b"\0")]


def test_write__back_in_a_segment_that_has_its_lane__is_one_copy_of_the_record(
    new_journal: Callable[..., Journal], around_append: Callable[[Around], None]
) -> None:
    """The general way, which finds room and a segment, is for the first record of a lane there."""
    journal = new_journal()
    lane = lane_of()
    general: list[bytes] = []

    def note(append: Append, data: bytes) -> bool:
        general.append(data)
        return append(data)

    around_append(note)
    for seq in range(20):
        begin(journal, lane, seq)
        end(journal, lane, seq)
    assert [data for data in general if data.startswith(MAGIC)] == [
        lane_record(lane) + begin_of(lane, 0)
    ]


class _RotatingWriters(list[None]):
    """Announced writers of a segment that is left just when the first one announces itself."""

    def __init__(self, rotate: Callable[[], Any]) -> None:
        super().__init__()
        self._rotate = rotate

    def append(self, item: None) -> None:
        super().append(item)
        self._rotate()


def test_append__a_segment_left_at_the_last_moment__is_not_written_to(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A thread that finds its segment left goes to the new one."""
    journal = new_journal()
    journal.append(payload(n=1))
    old = current_segment(journal)
    old.writers = _RotatingWriters(lambda: journal._rotate(old))
    journal.append(payload(n=2))
    newest = records_in(folder, 2)
    assert (newest, numbers_of(drain(journal))) == ([{"n": 2}], [1, 2])


def test_write__a_segment_left_at_the_last_moment__is_not_written_to(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A call that finds its lane's segment left goes to the new one, and takes its lane along."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    old = current_segment(journal)
    old.writers = _RotatingWriters(lambda: journal._rotate(old))
    end(journal, lane, 1)
    assert calls_of(records_in(folder, 1)) == [(BEGIN, 1)]
    assert calls_of(records_in(folder, 2)) == [(END, 1)]
    assert calls_of(drain(journal)) == [(BEGIN, 1), (END, 1)]


def test_delivered__segments_that_were_left__are_removed_only_then(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Taking alone removes nothing; after the acknowledgement only the current segment stays."""
    journal = new_journal(segment_bytes_max=60)
    append_numbers(journal, range(10))
    names = segments_in(folder)
    assert len(names) > 2
    assert numbers_of(journal.take(1_000)) == list(range(10))
    assert segments_in(folder) == names
    journal.delivered()
    assert segments_in(folder) == names[-1:]


def test_take__while_a_thread_still_writes_to_an_older_segment__waits_with_the_newer(
    new_journal: Callable[..., Journal],
) -> None:
    """Its next records are in the newer one, and records are taken in the order of writing."""
    journal = new_journal()
    journal.append(payload(n=1))
    older = journal._segments[0]
    older.writers.append(None)  # a thread that has found the segment, and has not written yet
    journal._rotate(older)
    journal.append(payload(n=3))
    assert numbers_of(journal.take(10)) == [1]
    journal.delivered()
    older.append(framed(2))
    older.writers.pop()
    assert numbers_of(drain(journal)) == [2, 3]


def test_delivered__a_segment_with_a_writer_in_it__stays(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A thread may hold on to a segment that is being left; what it writes there is not lost."""
    journal = new_journal()
    old = left_with_a_writer(journal)
    assert numbers_of(journal.take(10)) == [1]
    journal.delivered()
    assert segments_in(folder) == ["me-000001.seg", "me-000002.seg"]
    old.append(frame(payload(n=2)))
    old.writers.pop()
    assert numbers_of(drain(journal)) == [2]
    assert segments_in(folder) == ["me-000002.seg"]


def test_rotate__asked_by_two_threads__happens_once(new_journal: Callable[..., Journal]) -> None:
    """The second thread finds the segment that the first one made."""
    journal = new_journal()
    journal.append(payload(n=1))
    old = journal._current
    fresh = journal._rotate(old)
    assert journal._rotate(old) is fresh


def test_take__a_segment_larger_than_one_read__is_read_whole(
    new_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that span two reads are not lost."""
    monkeypatch.setattr(segments_module, "_READ_BYTES", 64)
    journal = new_journal()
    append_numbers(journal, range(50))
    assert numbers_of(drain(journal)) == list(range(50))


def test_close__all_delivered__leaves_an_empty_folder(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Nothing is left behind where nothing waits."""
    journal = new_journal()
    journal.append(payload(n=1))
    drain(journal)
    journal.close()
    assert list(folder.iterdir()) == []


@pytest.fixture(params=[".seg"])
def undeletable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to delete the files with an ending."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == request.param:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)


@pytest.mark.usefixtures("undeletable")
def test_delivered__a_segment_that_cannot_be_deleted__is_counted_and_left_behind(
    new_journal: Callable[..., Journal], folder: Path, swallowed: Swallowed
) -> None:
    """Its records are delivered all the same, and those after it."""
    swallowed.expect("journal_remove")
    journal = new_journal(segment_bytes_max=1)
    append_numbers(journal, range(3))
    assert numbers_of(drain(journal)) == [0, 1, 2]
    assert (journal.has_unread, journal.take(10)) == (False, [])
    assert "me-000001.seg" in segments_in(folder)


@pytest.mark.usefixtures("undeletable")
@pytest.mark.parametrize("undeletable", [".seg", ".lock"], indirect=True)
def test_close__files_that_cannot_be_deleted__are_counted_and_the_lock_is_released(
    new_journal: Callable[..., Journal], folder: Path, swallowed: Swallowed
) -> None:
    """Shutting down does not raise because of a file that stays."""
    swallowed.expect("journal_remove")
    journal = new_journal(segment_bytes_max=100)
    append_numbers(journal, range(4))  # more than half of it: the next one is prepared
    journal.maintain()
    drain(journal)
    journal.close()
    assert journal._lock_fd is None


def test_close__something_waits__is_cut_to_what_is_used(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """What is left for the next process takes the room of its records and nothing else."""
    journal = new_journal()
    journal.append(payload(n=1))
    journal.close()
    assert (folder / "me-000001.seg").read_bytes() == framed(1)


def test_tend__segments_that_wait_for_the_ledger__hold_no_descriptor(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """The application's limit of open files is not used up by an outage, however long."""
    journal = new_journal(segment_bytes_max=200)
    journal.append(payload(n=0))
    before = len(os.listdir("/proc/self/fd"))
    append_numbers(journal, range(1, 500))
    assert len(segments_in(folder)) > 20
    journal.maintain()
    after = len(os.listdir("/proc/self/fd"))
    assert after <= before + 1  # the segment that was made ahead
    assert numbers_of(drain(journal)) == list(range(500))


def test_tend__a_segment_with_a_writer_in_it__is_not_sealed(
    new_journal: Callable[..., Journal],
) -> None:
    """A thread that holds on to a segment that is being left still appends to it."""
    journal = new_journal()
    old = left_with_a_writer(journal)
    journal.maintain()
    assert old.append(frame(payload(n=2)))
    old.writers.pop()
    journal.maintain()
    assert numbers_of(drain(journal)) == [1, 2]


def test_take__a_sealed_file_that_somebody_deleted__does_not_keep_the_others_waiting(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """What is lost is said; what follows is delivered, and nothing is asked for again."""
    journal = new_journal(segment_bytes_max=60)
    append_numbers(journal, range(10))
    journal.maintain()
    lost = records_in(folder, 1)
    (folder / "me-000001.seg").unlink()
    assert numbers_of(drain(journal)) == list(range(len(lost), 10))
    assert (diagnostics.counts, journal.has_unread) == ({"journal_lost": 1}, False)


class _Interrupted(BaseException):
    """Stands for a KeyboardInterrupt; not one, so that a failing test ends by itself."""


class _InterruptedWriters(list[None]):
    """Announced writers of a segment; a signal handler raises just when one has been announced."""

    def append(self, item: None) -> None:
        super().append(item)
        raise _Interrupted


def test_append__interrupted_once_it_is_announced__is_announced_no_more(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A thread that will never append must not keep a segment from being taken away."""
    journal = new_journal()
    journal.append(payload(n=1))
    old = current_segment(journal)
    old.writers = _InterruptedWriters()
    with pytest.raises(_Interrupted):
        journal.append(payload(n=2))
    journal._rotate(old)
    assert numbers_of(drain(journal)) == [1]
    assert segments_in(folder) == ["me-000002.seg"]


def test_append__interrupted_anywhere__neither_stops_the_reader_nor_loses_what_returned(
    new_journal: Callable[..., Journal],
) -> None:
    """A signal handler that raises in the middle of a write costs at most that record."""
    journal = new_journal(segment_bytes_max=3_000)
    lane = lane_of()
    ours = {journal_module.__file__, ownership_module.__file__, segments_module.__file__}
    # Python 3.10 may raise between the end of a block and the first step of its `finally`.
    file = journal_module.__file__
    lines = enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1)
    withdrawals = {(file, number) for number, line in lines if "writers.pop()" in line}
    interrupts = 0

    def interrupt(signum: int, at: FrameType | None) -> None:
        nonlocal interrupts
        if at is None or (at.f_code.co_filename, at.f_lineno) in withdrawals:
            return
        if at.f_code.co_filename in ours and not journal._rotation.locked():
            interrupts += 1
            raise _Interrupted

    returned: list[int] = []
    taken: list[Record] = []
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        deadline = time.monotonic() + 5.0
        while len(returned) < 1_000 or (interrupts < 50 and time.monotonic() < deadline):
            number = len(returned)
            try:
                if number % 2:
                    journal.append(payload(n=number))
                else:
                    end(journal, lane, number)
            except _Interrupted:
                continue
            returned.append(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts
    assert all(segment.writers == [] for segment in journal._segments)
    while journal.has_unread:  # more than `drain` would take
        taken += journal.take(1_000)
        journal.delivered()
    found = {*numbers_of(taken), *seqs_of(taken, END)}
    assert sorted(found - {len(returned)}) == returned


def let_die(journal: Journal) -> None:
    """Give up what dies with a process: the lock on its folder."""
    assert journal._lock_fd is not None
    os.close(journal._lock_fd)
    journal._lock_fd = None
    ownership_module._OWN.discard(journal.owner)


def test_close__something_waits__leaves_it_for_the_next_process(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """What was not delivered, and calls in flight, stay on the disk and are adopted."""
    journal = new_journal(in_flight=lambda: 1)
    journal.append(payload(n=1))
    begin(journal, lane_of(), 1)
    journal.close()
    let_die(journal)
    assert segments_in(folder) == ["me-000001.seg"]
    found = adopted(folder)
    assert (numbers_of(found), calls_of(found)) == ([1], [(BEGIN, 1)])
    assert list(folder.iterdir()) == []


def test_close__a_call_in_flight__keeps_its_begin(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A call that nobody ended is booked by who comes next, though its begin was read here."""
    journal = new_journal(in_flight=lambda: 1)
    begin(journal, lane_of(), 1)
    drain(journal)
    journal.close()
    assert adopted(folder, owners=0) == []  # the process lives, and so does the call
    let_die(journal)
    assert calls_of(adopted(folder)) == [(BEGIN, 1)]


def test_close__a_call_that_began_in_an_older_segment__keeps_that_one(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """What was delivered and has nothing open is removed; what a call began in is not."""
    journal = new_journal(in_flight=lambda: 1)
    lane = lane_of()
    begin(journal, lane, 1)
    for number in range(2):
        journal._rotate(journal._current)
        journal.append(payload(n=number))
    drain(journal)
    assert segments_in(folder) == ["me-000001.seg", "me-000003.seg"]
    journal.close()
    assert "me-000001.seg" in segments_in(folder)
    let_die(journal)
    assert calls_of(adopted(folder)) == [(BEGIN, 1)]


def test_close__all_calls_ended_and_delivered__leaves_an_empty_folder(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Nothing is left for the next process, wherever the calls began."""
    journal = new_journal()
    lane = lane_of()
    for seq in range(3):
        begin(journal, lane, seq)
        journal._rotate(journal._current)
    for seq in range(3):
        (void if seq == 1 else end)(journal, lane, seq)
    drain(journal)
    journal.close()
    assert list(folder.iterdir()) == []


def test_close__while_another_thread_appends__never_writes_into_a_file_of_the_application(
    new_journal: Callable[..., Journal],
    folder: Path,
    tmp_path: Path,
    around_append: Callable[[Around], None],
    swallowed: Any,
) -> None:
    """A descriptor that was closed may be the application's next one: nobody may still write to it.

    The thread that appends has passed its last look when the journal is closed at shutdown.
    """
    journal = new_journal()
    journal.append(payload(n=1))
    application = [tmp_path / f"application{number}.txt" for number in range(3)]
    opened: list[int] = []

    def close_before_append(append: Append, data: bytes) -> bool:
        if not opened:
            closing = threading.Thread(target=journal.close)
            closing.start()
            closing.join(0.3)  # it may also wait for the writer
            # As many as the journal may have closed, so that one gets the segment's number.
            opened.extend(os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in application)
        return append(data)

    around_append(close_before_append)
    journal.append(payload(n=2))
    for fd in opened:
        os.close(fd)
    assert [path.read_bytes() for path in application] == [b"", b"", b""]
    assert 2 in numbers_of(left_on_disk(folder)) + numbers_of(drain(journal))
    swallowed.seen.clear()  # a write that was too late may be counted


# -- a disk that fails


class BrokenDisk:
    """Stands for `os.write`: fails or writes short as told, and otherwise writes."""

    def __init__(self) -> None:
        self._write = os.write
        self.answers: list[int | OSError] = []
        self.forever: OSError | None = None

    def __call__(self, fd: int, data: bytes) -> int:
        answer = self.answers.pop(0) if self.answers else self.forever
        if isinstance(answer, OSError):
            raise answer
        return self._write(fd, data if answer is None else data[:answer])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, kind: str) -> BrokenDisk:
    """A disk that fails as told."""
    broken = BrokenDisk()
    monkeypatch.setattr(os, "write", broken)
    return broken


def full() -> OSError:
    """Return what a full disk says."""
    return OSError(errno.ENOSPC, "No space left on device")


@written
def test_append__a_short_write__is_written_again_in_a_new_segment(
    new_journal: Callable[..., Journal], folder: Path, disk: BrokenDisk
) -> None:
    """A torn frame costs nothing that was acknowledged to the caller."""
    journal = new_journal()
    journal.append(payload(n=1))
    disk.answers = [5]
    journal.append(payload(n=2))
    journal.append(payload(n=3))
    assert segments_in(folder) == ["me-000001.seg", "me-000002.seg"]
    assert numbers_of(drain(journal)) == [1, 2, 3]
    assert segments_in(folder) == ["me-000002.seg"]


@written
def test_append__a_disk_that_fails__falls_to_memory_and_loses_nothing(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """Memory takes what no file can, loudly, and keeps the order."""
    swallowed.expect("journal_write")
    journal = new_journal()
    journal.append(payload(n=1))
    lane = lane_of()
    begin(journal, lane, 2)
    disk.forever = full()
    end(journal, lane, 2)
    journal.append(payload(n=3))
    begin(journal, lane, 4)
    end(journal, lane, 4)
    assert journal.is_durable is False
    assert diagnostics.counts["journal_in_memory"] == 1
    taken = drain(journal)
    assert numbers_of(taken) == [1, 3]
    assert calls_of(taken) == [(BEGIN, 2), (END, 2), (BEGIN, 4), (END, 4)]
    assert (list(unfinished(taken)), journal.dropped) == ([], 0)


@written
def test_append__a_disk_that_fails_at_once__falls_to_memory(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """The very first record may meet a full disk."""
    swallowed.expect("journal_write")
    disk.forever = full()
    journal = new_journal()
    journal.append(payload(n=1))
    assert numbers_of(drain(journal)) == [1]


@written
def test_write__a_first_call_on_a_full_disk__never_raises(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """A call whose begin met a full disk would otherwise pass unmetered."""
    disk.forever = full()
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    end(journal, lane, 1)
    assert calls_of(drain(journal)) == [(BEGIN, 1), (END, 1)]
    swallowed.seen.clear()  # which writes are counted as failed is not the point


@pytest.mark.parametrize("written", [0, 5, 30])
@written
def test_write__short_writes_and_then_failures__never_raise_and_lose_nothing(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any, written: int
) -> None:
    """A disk fills up: a short write first, then no write at all, with calls in flight."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    disk.answers = [written]
    disk.forever = full()
    end(journal, lane, 1)
    taken = drain(journal)
    assert (calls_of(taken), list(unfinished(taken))) == ([(BEGIN, 1), (END, 1)], [])
    swallowed.seen.clear()  # which writes are counted as failed is not the point


@written
@pytest.mark.parametrize("written", range(52))
def test_write__a_record_torn_at_any_byte__is_written_again_and_delays_nothing(
    new_journal: Callable[..., Journal], disk: BrokenDisk, written: int
) -> None:
    """A torn record costs nothing: the reader neither believes it nor waits for the rest of it."""
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    disk.answers = [written]
    end(journal, lane, 1)
    end(journal, lane, 2)
    assert calls_of(drain(journal)) == [(BEGIN, 1), (END, 1), (END, 2)]


@written
@pytest.mark.parametrize("written", [0, 5, 20, 200, 700])
def test_write__a_lane_record_torn__is_written_again_before_its_call(
    new_journal: Callable[..., Journal], folder: Path, disk: BrokenDisk, written: int
) -> None:
    """A packed record never stands in a segment that has not the whole record of its lane."""
    journal = new_journal()
    lane = lane_of()
    journal.append(payload(n=1))
    disk.answers = [written]
    begin(journal, lane, 1)
    end(journal, lane, 1)
    assert calls_of(left_on_disk(folder)) == calls_of(drain(journal)) == [(BEGIN, 1), (END, 1)]


@written
def test_append__a_full_segment_and_a_failing_disk__never_raises(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """Where rotation finds no file, memory takes what follows."""
    journal = new_journal(segment_bytes_max=100)
    lane = lane_of()
    begin(journal, lane, 1)
    disk.answers = [1_000]  # the append that fills the segment succeeds
    disk.forever = full()
    journal.append(payload(n=1, text="x" * 100))
    end(journal, lane, 1)
    taken = drain(journal)
    assert (numbers_of(taken), calls_of(taken)) == ([1], [(BEGIN, 1), (END, 1)])
    swallowed.seen.clear()  # which writes are counted as failed is not the point


@written
def test_write__a_disk_full_between_begin_and_end__keeps_the_begin_until_the_end_is_delivered(
    new_journal: Callable[..., Journal], folder: Path, disk: BrokenDisk, swallowed: Any
) -> None:
    """Killed before that, the call counts as estimated; afterwards nothing of it is left."""
    swallowed.expect("journal_write")
    journal = new_journal()
    lane = lane_of()
    begin(journal, lane, 1)
    disk.forever = full()
    end(journal, lane, 1)
    assert calls_of(journal.take(10)) == [(BEGIN, 1), (END, 1)]
    assert calls_of(list(unfinished(left_on_disk(folder)))) == [(BEGIN, 1)]
    journal.delivered()
    assert (segments_in(folder), journal._begun_in) == ([], {})
    assert journal.is_durable is False


@written
@pytest.mark.parametrize("write_end", [end, void])
def test_write__disk_and_memory_full_between_begin_and_end__leaves_no_call_open(
    new_journal: Callable[..., Journal],
    folder: Path,
    disk: BrokenDisk,
    swallowed: Any,
    write_end: Callable[..., None],
) -> None:
    """Once the accounts have brought the event again, the next process books nothing more."""
    swallowed.expect("journal_write")
    journal = new_journal(records_in_memory_max=1)
    lane = lane_of()
    begin(journal, lane, 1)
    disk.forever = full()
    journal.append(payload(n=1))
    write_end(journal, lane, 1)
    disk.forever = None
    drain(journal)
    journal.requeue_lost(lambda: [encode_event(event_of(lane, 1))] if write_end is end else [])
    drain(journal)
    journal.maintain()
    drain(journal)
    assert journal._begun_in == {}
    journal.close()
    assert list(folder.iterdir()) == []


@written
def test_maintain__the_disk_works_again__goes_back_to_files(
    new_journal: Callable[..., Journal], folder: Path, disk: BrokenDisk, swallowed: Any
) -> None:
    """Once memory is delivered, records are durable again, and so are ends of calls in flight."""
    swallowed.expect("journal_write")
    journal = new_journal()
    journal.append(payload(n=0))
    lane = lane_of()
    disk.forever = full()
    begin(journal, lane, 1)
    journal.append(payload(n=1))
    disk.forever = None
    journal.maintain()
    assert journal.is_durable is False  # memory still holds what was not delivered
    taken = drain(journal)
    journal.maintain()
    assert journal.is_durable is True
    journal.append(payload(n=2))
    end(journal, lane, 1)
    newest = parse((folder / segments_in(folder)[-1]).read_bytes(), at_end=True)[0]
    assert (numbers_of(newest), calls_of(newest)) == ([2], [(END, 1)])
    taken += drain(journal)
    assert (numbers_of(taken), calls_of(taken)) == ([0, 1, 2], [(BEGIN, 1), (END, 1)])
    assert diagnostics.counts["journal_in_memory"] == 1


def test_maintain__files_work__does_nothing(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A journal in files stays where it is."""
    journal = new_journal()
    journal.maintain()
    journal.append(payload(n=1))
    journal.maintain()
    assert segments_in(folder) == ["me-000001.seg"]


def test_journal__a_folder_that_cannot_be_made__is_memory_until_it_can(
    tmp_path: Path, swallowed: Any
) -> None:
    """A file in place of the folder, said loudly; the journal goes back when it is gone."""
    swallowed.expect("journal_folder")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    journal = Journal(blocked / "journal", owner="me")
    journal.append(payload(n=1))
    assert (journal.is_durable, diagnostics.counts["journal_in_memory"]) == (False, 1)
    assert numbers_of(drain(journal)) == [1]
    blocked.unlink()
    journal.maintain()
    journal.append(payload(n=2))
    assert (journal.is_durable, numbers_of(drain(journal))) == (True, [2])
    journal.close()


# -- memory


def test_memory__full__drops_counts_and_says_so() -> None:
    """Memory is bounded; what it cannot take is counted, and said once."""
    journal = Journal(None, owner="me", records_in_memory_max=3)
    append_numbers(journal, range(5))
    assert journal.dropped == 2
    assert diagnostics.counts == {"journal_memory_full": 2}
    assert len(numbers_of(drain(journal))) == 3
    journal.append(payload(n=9))
    assert numbers_of(drain(journal)) == [9]
    assert journal.dropped == 2


def test_memory__full__drops_begins_in_silence() -> None:
    """They are for the process that adopts a dead one's journal; memory has none."""
    journal = Journal(None, owner="me", records_in_memory_max=1)
    known, new = lane_of(), lane_of()
    begin(journal, known, 1)
    begin(journal, known, 2)
    void(journal, known, 2)
    begin(journal, new, 3)  # its lane's record precedes it
    void(journal, new, 3)
    assert (journal.dropped, diagnostics.counts) == (0, {})
    end(journal, known, 1)
    end(journal, new, 4)
    assert (journal.dropped, diagnostics.counts) == (2, {"journal_memory_full": 2})
    assert calls_of(drain(journal)) == [(BEGIN, 1)]


def test_memory__room_again__has_the_lane_of_each_call() -> None:
    """A lane whose record was dropped is written with the next call that fits."""
    journal = Journal(None, owner="me", records_in_memory_max=2)
    known, new = lane_of(), lane_of()
    begin(journal, known, 1)
    journal.append(payload(n=1))
    end(journal, new, 2)  # dropped, and its lane with it
    taken = drain(journal)
    end(journal, new, 3)
    end(journal, known, 1)
    taken += drain(journal)
    assert calls_of(taken) == [(BEGIN, 1), (END, 3), (END, 1)]
    assert [each.facts.user_id for each in taken if isinstance(each, PackedRecord)] == ["ann"] * 3


def test_bring_again__nothing_was_dropped__asks_for_nothing() -> None:
    """Nobody looks through all users for nothing."""
    journal = Journal(None, owner="me")
    journal.append(payload(n=1))
    assert journal.requeue_lost(lambda: pytest.fail("asked")) is False


@written
def test_bring_again__what_was_dropped__is_appended_and_what_nobody_has_is_lost(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """Events are in memory until they are delivered; a plan is not, and stays counted."""
    swallowed.expect("journal_write")
    journal = new_journal(records_in_memory_max=1)
    disk.forever = full()
    append_numbers(journal, range(4))
    disk.forever = None
    assert (numbers_of(drain(journal)), journal.dropped) == ([0], 3)
    assert journal.requeue_lost(lambda: [payload(n=1), payload(n=2)]) is True
    assert journal.dropped == 2  # a plan that nobody has, and one that memory cannot take yet
    assert numbers_of(drain(journal)) == [1]
    journal.maintain()
    assert journal.dropped == 2
    assert journal.requeue_lost(lambda: [payload(n=2)]) is True
    assert (numbers_of(drain(journal)), journal.dropped) == ([2], 1)
    assert journal.requeue_lost(list) is False


def test_memory__chosen__is_not_said_to_be_a_failure() -> None:
    """`:memory:` has no journal folder by choice."""
    journal = Journal(None, owner="me")
    journal.append(payload(n=1))
    journal.maintain()
    assert (journal.is_durable, diagnostics.counts) == (False, {})
    journal.close()


@written
def test_dropped__after_files_work_again__is_still_counted(
    new_journal: Callable[..., Journal], disk: BrokenDisk, swallowed: Any
) -> None:
    """What was lost stays lost: the counter does not forget it when memory is given up."""
    swallowed.expect("journal_write")
    journal = new_journal(records_in_memory_max=1)
    disk.forever = full()
    journal.append(payload(n=1))
    journal.append(payload(n=2))
    disk.forever = None
    assert journal.dropped == 1
    drain(journal)
    journal.maintain()
    journal.append(payload(n=3))
    drain(journal)
    assert journal.dropped == 1


# -- the journals of the dead

_WRITER = """
import json, sys, time
from pathlib import Path
from paygent.client.journal.journal import Journal
from tests.contract.records import begin, lane_of
journal = Journal(Path(sys.argv[1]), owner=sys.argv[2])
begin(journal, lane_of(), 1)
for number in range(5):
    journal.append(json.dumps({"n": number}).encode())
print("ready", flush=True)
sys.stdin.readline()
"""

_ADOPTER = """
import json, sys
from pathlib import Path
from paygent.client.journal.ownership import adopt
found = []
sys.stdin.readline()
count = adopt(Path(sys.argv[1]), deliver=found.extend)
print(json.dumps([count, [record for record in found if isinstance(record, dict)]]))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process of our own that runs some lines."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def say_go(process: subprocess.Popen[str]) -> None:
    """Let a process go on that waits for a line."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a process says that it is ready."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def finish(process: subprocess.Popen[str]) -> str:
    """Return what a process says until it ends."""
    return process.communicate(timeout=20)[0]


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process as the system does, and wait for its end."""
    process.kill()
    process.communicate(timeout=20)


def test_adopt__a_process_killed_midway__its_segments_are_taken_over_once(folder: Path) -> None:
    """After SIGKILL all that it wrote is delivered, in order, once; while it lives, nothing."""
    process = start(_WRITER, str(folder), "victim")
    wait_ready(process)
    assert adopted(folder, owners=0) == []
    kill(process)
    found = adopted(folder)
    assert adopted(folder, owners=0) == []
    assert (calls_of(found), numbers_of(found)) == ([(BEGIN, 1)], [*range(5)])
    assert isinstance(found[0], PackedRecord)
    assert list(folder.iterdir()) == []


def test_adopt__two_adopters_racing__one_of_them_has_it(folder: Path) -> None:
    """A dead process's records are delivered by exactly one of those that find them."""
    for number in range(3):
        victim = start(_WRITER, str(folder), f"victim{number}")
        wait_ready(victim)
        kill(victim)
    adopters = [start(_ADOPTER, str(folder)) for _ in range(2)]
    for adopter in adopters:
        say_go(adopter)
    found = [json.loads(finish(adopter))[1] for adopter in adopters]
    assert sorted(numbers_of(found[0] + found[1])) == sorted([*range(5)] * 3)
    assert list(folder.iterdir()) == []


def test_adopt__an_owner_of_this_process__is_left_alone(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """Locks do not conflict within a process; its own journals are known by name."""
    first, second = new_journal("first"), new_journal("second")
    first.append(payload(n=1))
    second.append(payload(n=2))
    assert adopted(folder, owners=0) == []
    assert numbers_of(drain(first)) == [1]
    process = start(_ADOPTER, str(folder))
    say_go(process)
    assert json.loads(finish(process)) == [0, []]  # looking has not released our locks
    assert numbers_of(drain(second)) == [2]


def test_adopt__while_another_thread_of_this_process_adopts__leaves_that_to_it(
    folder: Path,
) -> None:
    """Locks do not conflict within a process: a Paygent that ends and one that starts may both
    search.
    """
    folder.mkdir()
    (folder / "dead-000001.seg").write_bytes(framed(1))
    inner: list[int] = []
    assert adopt(folder, deliver=lambda _: inner.append(adopt(folder, deliver=print))) == 1
    assert inner == [0]


def test_adopt__no_folder__finds_nothing(tmp_path: Path) -> None:
    """A first start has no journal folder."""
    assert adopt(tmp_path / "none", deliver=lambda records: None) == 0


def test_adopt__delivery_that_fails__leaves_the_segments_for_the_next_try(folder: Path) -> None:
    """Records are let go of only when they are stored."""
    folder.mkdir()
    (folder / "dead-000001.seg").write_bytes(framed(1, 2))

    def fail(records: list[Record]) -> None:
        raise LedgerUnavailable("away")

    with pytest.raises(LedgerUnavailable):
        adopt(folder, deliver=fail)
    assert segments_in(folder) == ["dead-000001.seg"]
    assert numbers_of(adopted(folder)) == [1, 2]


def test_adopt__a_journal_that_cannot_be_read_or_delivered__does_not_hold_up_the_others(
    folder: Path, swallowed: Swallowed
) -> None:
    """It is counted and stays for the next search."""
    swallowed.expect("adopt")
    (folder / "a-000001.seg").mkdir(parents=True)  # in place of a file that cannot be read
    for number, owner in enumerate(("b", "c")):
        (folder / f"{owner}-000001.seg").write_bytes(framed(number))
    found: list[Record] = []

    def deliver(records: list[Record]) -> None:
        if numbers_of(records) == [0]:
            raise ValueError("odd")
        found.extend(records)

    assert adopt(folder, deliver=deliver) == 1
    assert numbers_of(found) == [1]
    assert segments_in(folder) == ["a-000001.seg", "b-000001.seg"]


@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        (framed(1), False),
        (framed(1) + bytes(100), False),  # room that was allocated ahead
        (framed(1) + framed(2)[:-3], False),
        (framed(1) + framed(2)[:-3] + bytes(100), False),
        (framed(1) + framed(2)[:7], False),
        (framed(1) + framed(2)[:2], False),
        (framed(1) + framed(2)[:9] + framed(1), False),  # a full disk; another thread wrote on
        (framed(1) + framed(2)[:-3] + framed(1), False),
        (framed(1).replace(MAGIC, b"PJ2\x9d"), True),  # of another version
        (framed(1) + framed(2).replace(MAGIC, b"PJ2\x9d") + framed(1), True),
        (framed(1) + framed(2)[:-1] + b"!", True),  # complete, with a wrong checksum
        (framed(1) + frame(b"no json"), True),
        (framed(1) + b"?", True),
    ],
)
def test_adopt__a_segment_with_unreadable_parts__is_kept_under_another_name(
    folder: Path, data: bytes, is_kept: bool
) -> None:
    """What a kill leaves is deleted; what cannot be read is kept for a person, and said."""
    folder.mkdir()
    (folder / "dead-000001.seg").write_bytes(data)
    assert adopt(folder, deliver=lambda records: None) == 1
    kept = ["dead-000001.unreadable"] if is_kept else []
    assert [path.name for path in folder.iterdir()] == kept
    assert diagnostics.counts == ({"journal_unreadable": 1} if is_kept else {})


def test_adopt__several_segments_of_an_owner__are_read_in_order_and_damage_is_passed_over(
    folder: Path,
) -> None:
    """All segments of one dead process are one journal; a torn tail costs its record only."""
    folder.mkdir()
    (folder / "dead-1-000010.seg").write_bytes(framed(3))
    (folder / "dead-1-000009.seg").write_bytes(framed(1) + framed(2) + framed(9)[:-3])
    (folder / "empty-000001.seg").write_bytes(b"")
    (folder / "other.txt").write_text("not ours")
    assert numbers_of(adopted(folder, owners=2)) == [1, 2, 3]
    assert [path.name for path in folder.iterdir()] == ["other.txt"]


def test_adopt__an_owner_that_ended_meanwhile__is_not_adopted_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for a lock whose file has gone or is another one by then has nothing to adopt."""
    folder.mkdir()
    lockf = fcntl.lockf
    for replacement in (None, "another file"):
        (folder / "dead-000001.seg").write_bytes(framed(1))

        def adopted_by_another(fd: int, flags: int, text: str | None = replacement) -> None:
            lockf(fd, flags)
            (folder / "dead.lock").unlink()
            if text is not None:
                (folder / "dead.lock").write_text(text)

        monkeypatch.setattr(fcntl, "lockf", adopted_by_another)
        assert adopt(folder, deliver=lambda records: pytest.fail("adopted twice")) == 0
        monkeypatch.undo()


def test_adopt__segments_that_another_process_took_meanwhile__are_not_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a journal that was really taken over counts as one."""
    folder.mkdir()
    (folder / "dead-000001.seg").write_bytes(framed(1))
    lockf = fcntl.lockf

    def lock_late(fd: int, flags: int) -> None:
        (folder / "dead-000001.seg").unlink()
        lockf(fd, flags)

    monkeypatch.setattr(fcntl, "lockf", lock_late)
    assert adopt(folder, deliver=lambda records: pytest.fail("there is nothing")) == 0
    assert list(folder.iterdir()) == []


_FORKER = """
import json, os, sys
from pathlib import Path
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt
from tests.contract.records import begin, calls_of, end, lane_of
folder = Path(sys.argv[1])
journal = Journal(folder, owner="parent")
lane = lane_of()
begin(journal, lane, 1)
pid = os.fork()
if pid == 0:
    journal.renew_after_fork("child")
    found = []
    adopted = adopt(folder, deliver=found.extend)
    journal.append(b'{"n":1}')
    begin(journal, lane, 2)
    own = journal.take(10)
    journal.delivered()
    end(journal, lane, 2)
    own += journal.take(10)
    journal.delivered()
    journal.close()
    print(json.dumps([adopted, own[0], calls_of(own)]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
end(journal, lane, 1)
print(json.dumps(calls_of(journal.take(10))), flush=True)
"""


def test_renew_after_fork__a_forked_child__has_its_own_journal(folder: Path) -> None:
    """The child leaves its parent's segments, lock and calls alone; both deliver what is theirs."""
    childs, parents = finish(start(_FORKER, str(folder))).splitlines()
    assert json.loads(childs) == [0, {"n": 1}, [[BEGIN, 2], [END, 2]]]
    assert json.loads(parents) == [[BEGIN, 1], [END, 1]]
    assert [path.name for path in folder.glob("child*")] == []


def test_renew_after_fork__any_state__starts_anew(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A journal that was renewed writes under its new name and remembers no call."""
    journal = new_journal("parent", segment_bytes_max=10)
    begin(journal, lane_of(), 1)
    drain(journal)
    journal.renew_after_fork("child")
    assert (journal._begun_in, journal.take(10), journal.has_unread) == ({}, [], False)
    journal.append(payload(n=1))
    assert numbers_of(drain(journal)) == [1]
    assert "child-000001.seg" not in segments_in(folder)  # left and delivered
    assert "parent-000001.seg" in segments_in(folder)


def test_renew_after_fork__in_memory_or_unused__starts_anew() -> None:
    """There may be nothing of the parent's to let go of."""
    memory = Journal(None, owner="parent")
    memory.append(payload(n=1))
    memory.renew_after_fork("child")
    assert memory.take(10) == []
    unused = Journal(None, owner="parent")
    unused.renew_after_fork("child")
    assert unused.take(10) == []


def test_journal__a_system_without_file_locks__works_and_adopts_nothing(
    new_journal: Callable[..., Journal], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the living cannot be told from the dead, nobody's segments are touched."""
    monkeypatch.setattr(ownership_module, "fcntl", None)
    journal = new_journal()
    journal.append(payload(n=1))
    (folder / "dead-000001.seg").write_bytes(framed(2))
    assert adopt(folder, deliver=lambda records: pytest.fail("adopted")) == 0
    assert numbers_of(drain(journal)) == [1]


# -- calls without an end


def test_unfinished__begins_without_an_answer__are_returned_once_and_in_order() -> None:
    """A begin that was written again counts once; ends and voids answer it wherever they are.

    Version 0.1 wrote them as JSON.
    """
    begun: Record = {"k": "begin", "id": "a"}
    records: list[Record] = [
        {"k": "end", "id": "early"},
        {"k": "begin", "id": "b"},
        begun,
        {"k": "begin", "id": "early"},
        {"k": "begin", "id": "b"},
        {"k": "begin", "id": "voided"},
        {"k": "void", "id": "voided"},
        {"k": "begin", "id": "a job's"},
        {"k": "end", "id": "of the job", "ends": "a job's"},
        {"k": "plan", "name": "pro"},
        {"n": 1},
    ]
    assert list(unfinished(records)) == [{"k": "begin", "id": "b"}, begun]
    assert list(unfinished([])) == []


def test_unfinished__packed_begins__are_answered_by_ends_voids_and_events_of_their_own() -> None:
    """Whatever the end's event is called, the number of the call answers its begin."""
    lane = lane_of()
    job = event_end(lane, 3, event_of(lane, 3)._replace(event_id="of the job"))
    brought_again = {"k": "end", "id": event_of(lane, 5).event_id}  # from the accounts, in JSON
    data = lane_record(lane) + end_of(lane, 6)
    data += b"".join(begin_of(lane, seq) for seq in range(1, 8))
    data += end_of(lane, 1) + void_of(lane, 2) + job + frame(payload(**brought_again))
    records = parse(data, at_end=True)[0]
    assert calls_of(list(unfinished(records))) == [(BEGIN, 4), (BEGIN, 7)]


def test_frame__any_payload__has_magic_length_and_checksum() -> None:
    """The frame is what a reader of another language would expect."""
    assert frame(b"{}") == MAGIC + b"\x02\0\0\0" + zlib.crc32(b"{}").to_bytes(4, "little") + b"{}"


def test_has_unread__while_the_delivering_thread_removes_segments__never_fails(
    new_journal: Callable[..., Journal],
) -> None:
    """`flush` asks from the application's thread while the delivering one takes segments away."""
    journal = new_journal(segment_bytes_max=1)
    failed: list[OSError] = []
    done = threading.Event()

    def deliver() -> None:
        while not done.is_set():
            journal.take(1_000)
            journal.delivered()

    def look() -> None:
        try:
            while not done.is_set():
                journal.has_unread  # noqa: B018 - the reading itself is what may fail
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=deliver), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < deadline and not failed:
        journal.append(payload(n=number))
        number += 1
    done.set()
    for thread in threads:
        thread.join(10)
    assert failed == []


def test_take_folder__a_filesystem_without_locks__leaks_no_descriptor(
    new_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, swallowed: Any
) -> None:
    """The folder is tried again and again; each try gives its descriptor back."""

    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    swallowed.expect("journal_folder")
    journal = new_journal()
    journal.append(payload(n=1))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        drain(journal)
        journal.maintain()
    assert len(os.listdir("/proc/self/fd")) == before


def test_rotate__a_log_handler_that_comes_back__finds_the_journal_free(
    new_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, swallowed: Any
) -> None:
    """An application may meter what its log handler does; nothing is said under the lock."""
    swallowed.expect("journal_folder")
    journal = new_journal()
    monkeypatch.setattr(journal, "_take_folder", lambda folder: (_ for _ in ()).throw(OSError()))
    free: list[bool] = []

    class Coming(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            free.append(not journal._rotation.locked())

    handler = Coming()
    logging.getLogger("paygent").addHandler(handler)
    try:
        journal.append(payload(n=1))
    finally:
        logging.getLogger("paygent").removeHandler(handler)
    assert free == [True, True]


def test_write__after_close__leaves_nothing_open(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A stream that outlives its Paygent is written, for whoever adopts it, and given up."""
    before = len(os.listdir("/proc/self/fd"))
    in_flight = 2
    journal = new_journal(in_flight=lambda: in_flight)
    lane = lane_of()
    begin(journal, lane, 1)
    begin(journal, lane, 2)
    journal.close()
    in_flight -= 1
    end(journal, lane, 1)
    assert adopt(folder, deliver=lambda records: pytest.fail("a call is in flight")) == 0
    in_flight -= 1
    void(journal, lane, 2)
    assert len(os.listdir("/proc/self/fd")) == before
    found = adopted(folder)
    assert calls_of(found) == [(BEGIN, 1), (BEGIN, 2), (END, 1), (VOID, 2)]
    assert list(unfinished(found)) == []
