"""The contract of the journal, for each kind of segment: in order, once, gone when delivered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import paygent.client.journal.journal as journal_module
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt, unfinished
from paygent.client.journal.segments import (
    RECORD_BYTES_MAX,
    MappedSegment,
    MemorySegment,
    WrittenSegment,
)
from paygent.failopen import diagnostics

_KINDS = {"mapped": MappedSegment, "written": WrittenSegment, "memory": MemorySegment}


@pytest.fixture(params=list(_KINDS))
def new_journal(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Journal]]:
    """Make journals of one kind, whatever the file system of the tests is."""
    monkeypatch.setattr(journal_module, "can_map", lambda folder: request.param == "mapped")
    made: list[Journal] = []

    def make(**arguments: Any) -> Journal:
        folder = tmp_path / "journal" if request.param != "memory" else None
        journal = Journal(folder, owner=f"owner{len(made)}", **arguments)
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.close()


@pytest.fixture
def journal(new_journal: Callable[..., Journal]) -> Journal:
    """One journal."""
    return new_journal()


def payload(**record: Any) -> bytes:
    """Return a record as it is appended."""
    return json.dumps(record, separators=(",", ":")).encode()


def end_of(event_id: str) -> bytes:
    """Return an end record that has an id only."""
    return payload(k="end", id=event_id)


def begin_of(event_id: str) -> bytes:
    """Return a begin record that has an id only."""
    return payload(k="begin", id=event_id)


def drain(journal: Journal, records_max: int = 1_000) -> list[dict[str, Any]]:
    """Take and deliver until nothing is left."""
    drained: list[dict[str, Any]] = []
    for _ in range(1_000):
        taken = journal.take(records_max)
        drained += taken
        journal.delivered()
        if not taken and not journal.has_unread:
            break
    return drained


def test_journal__of_a_kind__keeps_its_records_there(
    journal: Journal, request: pytest.FixtureRequest
) -> None:
    """Each test of this file runs on the kind of segment that it names."""
    journal.append(payload(n=1))
    assert type(journal._current) is _KINDS[request.node.callspec.params["new_journal"]]


def test_take__records__come_in_the_order_of_writing(journal: Journal) -> None:
    """Calls, entries and directory records come back as they were written."""
    journal.append(payload(k="plan", name="é"))
    journal.begin("a", begin_of("a"))
    journal.append(payload(n=1))
    journal.end("a", end_of("a"))
    assert journal.take(100) == [
        {"k": "plan", "name": "é"},
        {"k": "begin", "id": "a"},
        {"n": 1},
        {"k": "end", "id": "a"},
    ]


def test_take__nothing_written__is_empty(journal: Journal) -> None:
    """A journal that was never used has nothing and makes nothing."""
    assert journal.take(100) == []
    journal.delivered()
    assert journal.has_unread is False
    assert journal.dropped == 0


def test_take__again_without_delivery__returns_the_same(journal: Journal) -> None:
    """What the ledger did not acknowledge is there again."""
    for number in range(5):
        journal.append(payload(n=number))
    first = journal.take(100)
    assert journal.take(100) == first
    journal.append(payload(n=5))
    assert journal.take(100) == [*first, {"n": 5}]


def test_delivered__what_was_taken__does_not_come_again(journal: Journal) -> None:
    """Delivery lets go of what the last `take` returned and of nothing that came after it."""
    journal.append(payload(n=1))
    journal.take(100)
    journal.append(payload(n=2))
    journal.delivered()
    assert journal.has_unread is True
    assert journal.take(100) == [{"n": 2}]
    journal.delivered()
    assert journal.has_unread is False
    assert journal.take(100) == []


def test_delivered__twice__lets_nothing_go_that_was_not_taken(journal: Journal) -> None:
    """A delivery without a `take` before it does nothing."""
    journal.append(payload(n=1))
    journal.take(100)
    journal.delivered()
    journal.append(payload(n=2))
    journal.delivered()
    assert journal.take(100) == [{"n": 2}]


def test_take__more_records_than_asked_for__returns_no_more_than_that(journal: Journal) -> None:
    """A transaction is as long as its caller wants, so that an acknowledgement stays short."""
    for number in range(50):
        journal.append(payload(n=number))
    taken = journal.take(20)
    journal.delivered()
    assert len(taken) <= 20
    assert taken + drain(journal, 20) == [{"n": number} for number in range(50)]


def test_take__thousands_of_records__are_all_delivered_once(journal: Journal) -> None:
    """A backlog is worked off in parts, with nothing lost or repeated between them."""
    for number in range(3_000):
        journal.append(payload(n=number, text="x" * 50))
    assert [record["n"] for record in drain(journal)] == list(range(3_000))


@pytest.mark.parametrize("segment_bytes_max", [1, 100, 1_000])
def test_journal__rotated_often__keeps_every_record_in_order(
    new_journal: Callable[..., Journal], segment_bytes_max: int
) -> None:
    """However small the segments, each end record comes once and after its begin."""
    journal = new_journal(segment_bytes_max=segment_bytes_max)
    for number in range(20):
        journal.begin(str(number), begin_of(str(number)))
        journal.end(str(number), end_of(str(number)))
    taken = drain(journal)
    ends = [record["id"] for record in taken if record["k"] == "end"]
    assert ends == [str(number) for number in range(20)]
    for number in range(20):
        assert taken.index({"k": "begin", "id": str(number)}) < taken.index(
            {"k": "end", "id": str(number)}
        )


def test_append__a_record_larger_than_any_frame__is_dropped_loudly(journal: Journal) -> None:
    """The reader would take it for damage; what follows is not lost with it."""
    journal.append(payload(text="x" * RECORD_BYTES_MAX))
    journal.append(payload(n=1))
    assert drain(journal) == [{"n": 1}]
    assert (journal.dropped, diagnostics.counts) == (1, {"record_too_large": 1})


def test_end__a_record_larger_than_any_frame__is_dropped_loudly_and_ends_the_call(
    journal: Journal,
) -> None:
    """The call is in flight no more, and no later process books it as estimated."""
    journal.begin("a", begin_of("a"))
    journal.end("a", payload(k="end", id="a", text="x" * RECORD_BYTES_MAX))
    assert list(unfinished(drain(journal))) == []
    assert (journal.calls_in_flight, journal.dropped) == (0, 1)
    assert diagnostics.counts == {"record_too_large": 1}


def test_journal__a_payload_that_is_no_record__does_not_stop_the_others(journal: Journal) -> None:
    """What cannot be read is passed over; what follows is delivered once and then gone."""
    journal.append(b"no json")
    journal.append(payload(n=1))
    journal.append(b"[]")
    journal.append(payload(n=2))
    assert drain(journal) == [{"n": 1}, {"n": 2}]
    assert journal.has_unread is False


def test_journal__many_threads_at_once__lose_and_mix_nothing(
    new_journal: Callable[..., Journal],
) -> None:
    """Sixteen threads append while one delivers: every record once, each thread's in its order."""
    journal = new_journal(segment_bytes_max=20_000, records_in_memory_max=100_000)
    threads_count, each = 16, 500
    barrier = threading.Barrier(threads_count)

    def write(thread: int) -> None:
        barrier.wait()
        for number in range(each):
            journal.append(payload(t=thread, n=number, text="x" * (number % 40)))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(threads_count)]
    for thread in threads:
        thread.start()
    taken: list[dict[str, Any]] = []
    while any(thread.is_alive() for thread in threads):
        journal.maintain()
        taken += journal.take(500)
        journal.delivered()
    taken += drain(journal)
    assert len(taken) == threads_count * each
    by_thread = {
        thread: [record["n"] for record in taken if record["t"] == thread]
        for thread in range(threads_count)
    }
    assert by_thread == {thread: list(range(each)) for thread in range(threads_count)}
    assert journal.dropped == 0


def test_journal__calls_of_many_threads__all_end_once(new_journal: Callable[..., Journal]) -> None:
    """With rotations under way, no call's end is lost and none comes twice."""
    journal = new_journal(segment_bytes_max=3_000, records_in_memory_max=100_000)

    def call(thread: int) -> None:
        for number in range(100):
            event_id = f"{thread}-{number}"
            journal.begin(event_id, begin_of(event_id))
            journal.end(event_id, end_of(event_id))

    threads = [threading.Thread(target=call, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    taken: list[dict[str, Any]] = []
    while any(thread.is_alive() for thread in threads):
        journal.maintain()
        taken += journal.take(500)
        journal.delivered()
    taken += drain(journal)
    ends = [record["id"] for record in taken if record["k"] == "end"]
    assert sorted(ends) == sorted(
        f"{thread}-{number}" for thread in range(8) for number in range(100)
    )


@pytest.mark.parametrize("segment_bytes_max", [100, 1_000_000])
def test_journal__a_record_larger_than_a_segment__is_kept(
    new_journal: Callable[..., Journal], segment_bytes_max: int
) -> None:
    """A segment's size bounds what is read at once, not what may be written."""
    journal = new_journal(segment_bytes_max=segment_bytes_max)
    texts = ["a", "b" * 900_000, "c" * (RECORD_BYTES_MAX - 20), "d"]
    for text in texts:
        journal.append(payload(t=text))
    assert [record["t"] for record in drain(journal)] == texts


def test_journal__more_calls_in_flight_than_fit_a_segment__does_not_rotate_at_each_record(
    new_journal: Callable[..., Journal],
) -> None:
    """Their begin records at the head of a segment leave room for others behind them."""
    journal = new_journal(segment_bytes_max=5_000)
    for number in range(300):
        journal.begin(str(number), payload(k="begin", id=str(number), text="x" * 100))
    before = len(journal._segments)
    for number in range(100):
        journal.append(payload(n=number))
    assert len(journal._segments) - before <= 1
    for number in range(300):
        journal.end(str(number), end_of(str(number)))
    taken = drain(journal)
    assert [record["n"] for record in taken if "n" in record] == list(range(100))
    ends = [record["id"] for record in taken if record.get("k") == "end"]
    assert ends == [str(number) for number in range(300)]


def test_maintain__segments_that_were_left__are_read_as_before(
    new_journal: Callable[..., Journal],
) -> None:
    """What is given back while the ledger is away is still delivered, once and in order."""
    journal = new_journal(segment_bytes_max=500)
    for number in range(200):
        journal.append(payload(n=number))
        if number % 30 == 0:
            journal.maintain()
    mark = journal.mark()
    journal.maintain()
    first = journal.take(7)
    assert journal.take(7) == first
    assert (journal.has_unread, journal.has_reached(mark)) == (True, False)
    assert [record["n"] for record in drain(journal, 7)] == list(range(200))
    assert (journal.has_unread, journal.has_reached(mark)) == (False, True)


def test_close__used_again__keeps_what_comes_after(journal: Journal) -> None:
    """A call that outlives the shutdown still finds a journal."""
    journal.append(payload(n=1))
    drain(journal)
    journal.close()
    journal.append(payload(n=2))
    left = journal.take(100)
    if journal.folder is not None:  # on the disk, for whoever adopts it
        adopt(journal.folder, deliver=left.extend)
    assert left == [{"n": 2}]
