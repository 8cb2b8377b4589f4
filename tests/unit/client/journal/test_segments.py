"""Mapped segments: where they are made, their room, and what a death or a fork leaves of them."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.records import (
    begin,
    begin_of,
    calls_of,
    end,
    end_of,
    lane_of,
    lane_record,
    numbers_of,
)

import paygent.client.journal.journal as journal_module
import paygent.client.journal.segments as segments_module
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt, unfinished
from paygent.client.journal.segments import (
    MappedSegment,
    Record,
    WrittenSegment,
    can_map,
    frame,
    parse,
)
from paygent.core.records import BEGIN, END

_ROOT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a journal may be made; it does not exist yet."""
    return tmp_path / "journal"


@pytest.fixture
def new_journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Journal]]:
    """Make journals of mapped segments in one folder."""
    monkeypatch.setattr(journal_module, "can_map", lambda folder: True)
    made: list[Journal] = []

    def make(**arguments: Any) -> Journal:
        made.append(Journal(folder, owner="me", **arguments))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def payload(number: int) -> bytes:
    """Return a numbered record."""
    return b'{"n":%d}' % number


def framed(*numbers: int) -> bytes:
    """Return frames of numbered records."""
    return b"".join(frame(payload(number)) for number in numbers)


def names_in(folder: Path) -> list[str]:
    """Return the names of the segments in a folder, in order."""
    return sorted(path.name for path in folder.glob("*.seg"))


def deliver(journal: Journal) -> list[int]:
    """Take and deliver until nothing is left; return the records' numbers."""
    delivered: list[int] = []
    while journal.has_unread:
        delivered += numbers_of(journal.take(1_000))
        journal.delivered()
    journal.take(1)
    journal.delivered()
    return delivered


# -- where


@pytest.fixture
def mounted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the folder's device listed as a mount of some kind, among others."""
    folder.mkdir()
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"

    def mount(*kinds: str) -> None:
        lines = ["21 27 9:999 / /proc rw - proc proc rw"]
        lines += [f"36 35 {number} / /data rw shared:1 - {kind} /dev/x rw" for kind in kinds]
        (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
        monkeypatch.setattr(segments_module, "_MOUNTS", tmp_path / "mountinfo")

    return mount


@pytest.mark.parametrize("name", ["ext4", "xfs", "tmpfs"])
def test_can_map__a_file_system_that_keeps_what_it_allocated__may_be_mapped(
    mounted: Callable[..., None], folder: Path, name: str
) -> None:
    """A full disk shows when a segment is made there, not when a record is copied."""
    mounted(name)
    assert can_map(folder) is True


@pytest.mark.parametrize("name", ["btrfs", "zfs", "overlay", "nfs4", "cifs", "fuse.x", "f2fs"])
def test_can_map__any_other_file_system__may_not(
    mounted: Callable[..., None], folder: Path, name: str
) -> None:
    """Where allocated room may be missing later, a copy would end the application."""
    mounted(name)
    assert can_map(folder) is False


def test_can_map__nothing_known_or_not_sure__may_not(
    mounted: Callable[..., None], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that no line has, two kinds of one device, no folder, no list of mounts."""
    mounted()
    assert can_map(folder) is False
    mounted("ext4", "overlay")
    assert can_map(folder) is False
    mounted("ext4")
    assert can_map(tmp_path / "none") is False
    monkeypatch.setattr(segments_module, "_MOUNTS", tmp_path / "none")
    assert can_map(folder) is False


def test_can_map__an_interpreter_that_does_not_copy_in_one_step__may_not(
    mounted: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the interpreter's lock, or where files cannot be allocated."""
    mounted("ext4")
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert can_map(folder) is False
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert can_map(folder) is True
    monkeypatch.delattr(os, "posix_fallocate")
    assert can_map(folder) is False


# -- room


def test_append__records__are_in_a_file_of_full_size_that_is_allocated(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """No later copy needs room from the disk."""
    new_journal(segment_bytes_max=100_000).append(payload(1))
    found = os.stat(folder / "me-000001.seg")
    assert found.st_size >= 100_000
    assert found.st_blocks * 512 >= found.st_size


@pytest.mark.parametrize("owner", ["posix_fallocate", "mmap"])
def test_append__no_room_to_allocate__writes_and_leaves_no_file_behind(
    new_journal: Callable[..., Journal],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
) -> None:
    """A disk too full for a whole segment, or a system that does not map, still takes records."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if owner == "posix_fallocate" else mmap, owner, refuse)
    journal = new_journal()
    before = len(os.listdir("/proc/self/fd"))
    journal.append(payload(1))
    assert isinstance(journal._current, WrittenSegment)
    assert [path.read_bytes() for path in folder.glob("*.seg")] == [framed(1)]
    assert len(os.listdir("/proc/self/fd")) == before + 2  # the segment and the lock
    assert deliver(journal) == [1]


def fill_half(journal: Journal, each: int = 10) -> int:
    """Append until the current segment is half full; return how many records that were."""
    number = 0
    while (segment := journal._current) is None or segment.size * 2 < segment.full_at:
        for _ in range(each):
            journal.append(payload(number))
            number += 1
    return number


def test_tend__a_segment_half_full__makes_the_next_one_ahead(
    new_journal: Callable[..., Journal], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that fills a segment goes to the next one without a system call of its own."""
    journal = new_journal(segment_bytes_max=10_000)
    journal.append(payload(-1))
    journal.maintain()
    assert names_in(folder) == ["me-000001.seg"]
    count = fill_half(journal)
    journal.maintain()
    journal.maintain()
    assert names_in(folder) == ["me-000001.seg", "me-000002.seg"]
    monkeypatch.setattr(journal_module, "MappedSegment", None)  # no other can be made
    while journal._spare is not None:
        journal.append(payload(count))
        count += 1
    assert isinstance(journal._current, MappedSegment)
    assert journal._current.path.name == "me-000002.seg"
    monkeypatch.undo()
    assert deliver(journal) == [-1, *range(count)]


def test_tend__too_little_room_for_a_large_record__is_given_up_for_another(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """A segment that was made ahead is used where what comes leaves half of it free."""
    journal = new_journal(segment_bytes_max=10_000)
    count = fill_half(journal)
    journal.maintain()
    journal.append(b'{"n":%d,"text":"%s"}' % (count, b"x" * 9_000))
    assert (journal._spare, type(journal._current)) == (None, MappedSegment)
    assert names_in(folder) == ["me-000001.seg", "me-000003.seg"]
    assert deliver(journal) == list(range(count + 1))


def test_tend__calls_in_flight__take_no_room_in_the_segment_made_ahead(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """However many there are: what they began in is kept for them, and nothing is written again."""
    journal = new_journal(segment_bytes_max=20_000)
    lane = lane_of()
    for seq in range(260):
        begin(journal, lane, seq)
    journal.maintain()
    spare = journal._spare
    assert spare is not None
    count = 0
    while journal._spare is not None:
        journal.append(payload(count))
        count += 1
    journal.append(payload(count))
    assert journal._current is spare
    assert bytes(spare._map[: spare.size]).endswith(framed(count))
    assert parse(bytes(spare._map[: spare.size]), {}, at_end=True)[0][-1] == {"n": count}
    assert spare.size <= 2 * len(framed(count))
    assert deliver(journal) == list(range(count + 1))
    assert names_in(folder) == ["me-000001.seg", "me-000002.seg"]
    for seq in range(260):
        end(journal, lane, seq)
    deliver(journal)
    assert names_in(folder) == ["me-000002.seg"]


def test_write__a_mapped_segment_without_room__goes_on_in_the_next_one(
    new_journal: Callable[..., Journal], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last record fits or is written whole elsewhere; the one made ahead is used for it."""
    journal = new_journal(segment_bytes_max=10_000)
    lane = lane_of()
    seq = 0
    while journal._spare is None:
        end(journal, lane, seq)
        journal.maintain()
        seq += 1
    first = journal._current
    assert isinstance(first, MappedSegment)
    monkeypatch.setattr(journal_module, "MappedSegment", None)  # no other can be made
    while journal._current is first:
        end(journal, lane, seq)
        seq += 1
    assert first.capacity - first.size < len(end_of(lane, 0))
    assert journal._spare is None
    monkeypatch.undo()
    assert calls_of(journal.take(1_000)) == [(END, number) for number in range(seq)]


def test_tend__left_while_the_next_one_is_made__does_not_use_it_later(
    new_journal: Callable[..., Journal], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments are adopted in the order of their names, which is that of their use."""
    journal = new_journal(segment_bytes_max=10_000)
    fill_half(journal)
    touch = MappedSegment.touch

    def touch_late(segment: MappedSegment) -> None:
        touch(segment)
        journal._rotate(journal._current)

    monkeypatch.setattr(MappedSegment, "touch", touch_late)
    journal.maintain()
    assert journal._spare is None
    assert names_in(folder) == ["me-000001.seg", "me-000003.seg"]


def test_tend__no_room_for_the_next_one__goes_on_without(
    new_journal: Callable[..., Journal], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made ahead where that can be; nothing depends on it."""
    journal = new_journal(segment_bytes_max=10_000)
    count = fill_half(journal)

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    journal.maintain()
    assert names_in(folder) == ["me-000001.seg"]
    for number in range(count, 2_000):
        journal.append(payload(number))
    assert isinstance(journal._current, WrittenSegment)
    assert deliver(journal) == list(range(2_000))


def test_close__a_segment_made_ahead__is_taken_away(
    new_journal: Callable[..., Journal], folder: Path
) -> None:
    """What nobody has used is nobody's to adopt."""
    journal = new_journal(segment_bytes_max=10_000)
    fill_half(journal)
    journal.maintain()
    deliver(journal)
    journal.close()
    assert list(folder.iterdir()) == []


def test_seal__a_disk_that_does_not_cut__is_counted_and_changes_nothing_else(
    new_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, swallowed: Any
) -> None:
    """The file stays as long as it is; its reader knows where it ends."""
    swallowed.expect("journal_cut")

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "truncate", refuse)
    journal = new_journal()
    journal.append(payload(1))
    journal._rotate(journal._current)
    journal.maintain()
    assert deliver(journal) == [1]


# -- death


def test_adopt__a_tail_of_zeros__costs_nothing_and_hides_nothing(folder: Path) -> None:
    """A dead process's last segment was allocated whole, and the next one may be all zeros."""
    folder.mkdir()
    zeros = bytes(8 * 1024 * 1024)
    (folder / "dead-000001.seg").write_bytes(framed(1, 2) + zeros)
    (folder / "dead-000002.seg").write_bytes(zeros)
    found: list[Record] = []
    assert adopt(folder, deliver=found.extend) == 1
    assert (numbers_of(found), list(folder.iterdir())) == ([1, 2], [])


def test_parse__a_copy_cut_short_at_any_byte__loses_that_record_only() -> None:
    """A process may be killed in the middle of a copy; what follows are the zeros of the file."""
    last = frame(payload(3))
    for length in range(len(last)):
        data = framed(1, 2) + last[:length] + bytes(5_000)
        assert parse(data, {}, at_end=True) == ([{"n": 1}, {"n": 2}], len(data))


def test_parse__a_call_cut_short_at_any_byte__loses_that_record_only() -> None:
    """The same for packed records, and for a lane's with the first one of it."""
    lane = lane_of()
    head = framed(1) + lane_record(lane) + begin_of(lane, 1)
    for last in (end_of(lane, 2), begin_of(lane, 2), lane_record(lane) + end_of(lane, 2)):
        for length in range(len(last)):
            data = head + last[:length] + bytes(5_000)
            records, done = parse(data, {}, at_end=True)
            assert (numbers_of(records), calls_of(records), done) == ([1], [(BEGIN, 1)], len(data))


_LOAD = """
import os, sys, threading
from pathlib import Path
import paygent.client.journal.journal as module
from paygent.client.journal.journal import Journal
from tests.contract.records import begin, calls_of, end, lane_of, void
folder, kind = Path(sys.argv[1]), sys.argv[2]
module.can_map = lambda folder: kind == "mapped"
journal = Journal(folder, owner="victim", segment_bytes_max=50_000)
acknowledged = os.open(folder.parent / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
shared = lane_of()

def call(thread):
    lane = shared if thread % 2 else lane_of(session_id=str(thread))
    seq = thread * 10_000_000
    while True:
        begin(journal, lane, seq)
        os.write(acknowledged, f"1 {seq}\\n".encode())
        kind, write = (3, void) if seq % 5 == 0 else (2, end)
        write(journal, lane, seq)
        os.write(acknowledged, f"{kind} {seq}\\n".encode())
        seq += 1

def deliver():
    delivered = os.open(folder.parent / "delivered", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        journal.maintain()
        for kind, seq in calls_of(journal.take(1_000)):
            os.write(delivered, f"{kind} {seq}\\n".encode())
        journal.delivered()

sys.setswitchinterval(0.0005)
for thread in range(8):
    threading.Thread(target=call, args=(thread,), daemon=True).start()
threading.Thread(target=deliver, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
"""


def lines_of(path: Path) -> set[str]:
    """Return the whole lines of a file."""
    text = path.read_text() if path.exists() else ""
    return set(text[: text.rfind("\n") + 1].splitlines())


@pytest.mark.parametrize("kind", ["mapped", "written"])
@pytest.mark.parametrize("trial", range(4))
def test_journal__killed_under_load__has_every_record_that_returned(
    tmp_path: Path, kind: str, trial: int
) -> None:
    """Eight threads call while one delivers; after SIGKILL each record that returned was delivered
    or is adopted.
    """
    folder = tmp_path / "journal"
    process = subprocess.Popen(
        [sys.executable, "-c", _LOAD, str(folder), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2 + random.random() * 0.3)
    process.kill()
    process.communicate(timeout=20)
    found: list[Record] = []
    assert adopt(folder, deliver=found.extend) == 1
    adopted = calls_of(found)
    assert len(adopted) == len(set(adopted))
    there = {f"{kind_of} {seq}" for kind_of, seq in adopted} | lines_of(tmp_path / "delivered")
    returned = lines_of(tmp_path / "acknowledged")
    assert len(returned) > 100
    assert returned - there == set()
    # A call that spent nothing is not booked as estimated; one that was booked already has its id.
    assert {f"3 {seq}" for _, seq in calls_of(list(unfinished(found)))} & returned == set()
    assert list(folder.iterdir()) == []


# -- fork

_FORKER = """
import json, os, sys
from pathlib import Path
import paygent.client.journal.journal as module
from paygent.client.journal.journal import Journal
module.can_map = lambda folder: True
journal = Journal(Path(sys.argv[1]), owner="parent", segment_bytes_max=10_000)
count = 0
while journal._current is None or journal._current.size * 2 < journal._current.full_at:
    journal.append(b'{"n":%d}' % count)
    count += 1
journal.maintain()
old, spare = journal._current, journal._spare
assert spare is not None
pid = os.fork()
if pid == 0:
    journal.renew_after_fork("child")
    assert not old.append(b"x" * 100) and not spare.append(b"y" * 100)
    journal.append(b'{"n":-1}')
    assert journal.take(10) == [{"n": -1}]
    journal.delivered()
    journal.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
while journal._spare is not None:
    journal.append(b'{"n":%d}' % count)
    count += 1
journal.append(b'{"n":%d}' % count)
print(json.dumps([record["n"] for record in journal.take(10_000)] == list(range(count + 1))))
"""


def test_renew_after_fork__a_child__never_writes_into_its_parents_pages(folder: Path) -> None:
    """A mapping is shared with the child, which lets go of it; the parent's goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKER, str(folder)],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) is True


# -- threads


def test_append__many_threads_to_one_segment__mix_nothing(tmp_path: Path) -> None:
    """Copy and position are one step: no lock is needed, and what is before it is whole."""
    segment = MappedSegment(tmp_path / "one.seg", 4_000_000)
    lane = lane_of()
    segment.append(lane_record(lane))
    lanes = {lane.number: lane.facts}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    torn: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            end = segment.end
            data = segment._read(segment.read_to, end - segment.read_to)
            if parse(data, dict(lanes), at_end=False)[1] != len(data):
                torn.append(end)

    def write(thread: int) -> None:
        for number in range(2_000):
            if number % 2:
                segment.write(end_of(lane, thread * 10_000 + number))
            else:
                assert segment.append(frame(payload(thread * 10_000 + number)))

    try:
        reading = threading.Thread(target=read)
        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
        for each in (reading, *threads):
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
        done.set()
    reading.join()
    records, _ = segment.take(100_000, is_left=True)
    assert torn == []
    written = numbers_of(records) + [seq for _, seq in calls_of(records)]
    assert sorted(written) == [t * 10_000 + n for t in range(8) for n in range(2_000)]
    segment.remove()
