"""The contract of the journal, for each kind of segment: in order, once, gone when delivered."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.records import (
    begin,
    calls_of,
    end,
    event_end,
    event_of,
    figures,
    json_of,
    lane_of,
    numbers_of,
    seqs_of,
    void,
)
from tests.contract.samples import NOON_US

import paygent.client.journal.journal as journal_module
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt, unfinished
from paygent.client.journal.segments import (
    RECORD_BYTES_MAX,
    MappedSegment,
    MemorySegment,
    Record,
    WrittenSegment,
)
from paygent.core.records import (
    BEGIN,
    END,
    TAIL_BYTES_MAX,
    VOID,
    PackedRecord,
    event_id_of,
    to_event,
)
from paygent.core.usage_stats import Observation
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


def drain(journal: Journal, records_max: int = 1_000) -> list[Record]:
    """Take and deliver until nothing is left."""
    drained: list[Record] = []
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
    """Calls, entries and ledger records come back as they were written."""
    lane = lane_of()
    journal.append(payload(k="plan", name="é"))
    begin(journal, lane, 1)
    journal.append(payload(n=1))
    end(journal, lane, 1)
    assert journal.take(100) == [
        {"k": "plan", "name": "é"},
        PackedRecord(BEGIN, lane.facts, 1, NOON_US, 400, 0, None, None),
        {"n": 1},
        PackedRecord(END, lane.facts, 1, NOON_US, 0, 0, figures(), None),
    ]


def test_take__calls_of_many_lanes__come_with_the_facts_of_their_own(journal: Journal) -> None:
    """A record names its lane by number, and is read with that lane's user, session and price."""
    lanes = [
        lane_of(session_id=session_id, model=model)
        for session_id in ("s1", "s2", "é")
        for model in ("gpt-4o", "gpt-4o-mini")
    ]
    for seq in range(60):
        begin(journal, lanes[seq % 6], seq)
    for seq in range(60):
        end(journal, lanes[seq % 6], seq)
    taken = drain(journal, 7)
    assert calls_of(taken) == [(kind, seq) for kind in (BEGIN, END) for seq in range(60)]
    assert [each.facts for each in taken if isinstance(each, PackedRecord)] == [
        lanes[seq % 6].facts for seq in range(60)
    ] * 2
    ended = [each for each in taken if isinstance(each, PackedRecord) and each.kind == END]
    assert [to_event(each) for each in ended] == [
        event_of(lanes[seq % 6], seq) for seq in range(60)
    ]


def test_take__a_call__has_one_event_id_from_its_begin_to_its_end(journal: Journal) -> None:
    """What a begin books after a death is the event that its end books otherwise."""
    lane = lane_of()
    begin(journal, lane, 7)
    end(journal, lane, 7)
    void(journal, lane, 7)
    ids = {each.event_id for each in drain(journal) if isinstance(each, PackedRecord)}
    expected = event_id_of(lane.facts.common, 7, NOON_US)
    assert (ids, event_of(lane, 7).event_id) == ({expected}, expected)


def test_take__an_event_that_figures_do_not_express__comes_back_whole(journal: Journal) -> None:
    """Whatever a record of fixed size has no room for is in its tail."""
    lane = lane_of()
    events = [
        event_of(lane, 1),
        event_of(lane, 2)._replace(metadata={"team": "blau-é", "n": 3}, blocked=True),
        event_of(lane, 3)._replace(
            event_id="of a job", model="other", model_key="other", price_id="list-9"
        ),
        event_of(lane, 4)._replace(
            cost_tokens_nano=1 << 60, cost_tools_nano=7, tool_calls=("a", "b")
        ),
        event_of(lane, 5)._replace(input_tokens=1 << 40, quality="estimated", details={"held": 1}),
        event_of(lane, 6)._replace(session_id="", provider="", user_id="\ud800"),
    ]
    for seq, event in enumerate(events, start=1):
        begin(journal, lane, seq)
        journal.write(lane, event_end(lane, seq, event))
    taken = drain(journal)
    ended = [each for each in taken if isinstance(each, PackedRecord) and each.kind == END]
    assert [to_event(each) for each in ended] == events
    assert seqs_of(taken, END) == [1, 2, 3, 4, 5, 6]


def test_write__a_lane_that_has_learned__is_recorded_as_of_the_segments_first_call(
    new_journal: Callable[..., Journal],
) -> None:
    """A begin without an end is booked at what was expected when its segment was started."""
    journal = new_journal(segment_bytes_max=10_000)
    lane = lane_of()
    begin(journal, lane, 1)
    lane.forecast.learn(Observation(400, 5_000, 700, 19_500_000, None))
    journal._rotate(journal._current)
    begin(journal, lane, 2)
    first, second = (each for each in drain(journal) if isinstance(each, PackedRecord))
    assert first.facts.expectation == lane.facts.expectation
    assert second.facts.expectation == lane.forecast.expectation != lane.facts.expectation
    assert to_event(second).total_tokens > to_event(first).total_tokens


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
    assert numbers_of(drain(journal)) == list(range(3_000))


@pytest.mark.parametrize("segment_bytes_max", [1, 100, 1_000])
def test_journal__rotated_often__keeps_every_record_in_order(
    new_journal: Callable[..., Journal], segment_bytes_max: int
) -> None:
    """However small the segments, each record comes once, and an end after its begin."""
    journal = new_journal(segment_bytes_max=segment_bytes_max)
    lane = lane_of()
    for seq in range(200):
        begin(journal, lane, seq)
        end(journal, lane, seq)
    expected = [(kind, seq) for seq in range(200) for kind in (BEGIN, END)]
    assert calls_of(drain(journal)) == expected


def test_append__a_record_larger_than_any_frame__is_dropped_loudly(journal: Journal) -> None:
    """The reader would take it for damage; what follows is not lost with it."""
    journal.append(payload(text="x" * RECORD_BYTES_MAX))
    journal.append(payload(n=1))
    assert drain(journal) == [{"n": 1}]
    assert (journal.dropped, diagnostics.counts) == (1, {"record_too_large": 1})


def test_write__an_event_with_a_large_tail__comes_back_whole(journal: Journal) -> None:
    """An answer may name thousands of tools; what it cost is booked all the same."""
    lane = lane_of()
    event = event_of(lane, 1)._replace(tool_calls=("search",) * 20_000, cost_tools_nano=5)
    begin(journal, lane, 1)
    journal.write(lane, event_end(lane, 1, event))
    end(journal, lane, 2)
    taken = drain(journal)
    assert calls_of(taken) == [(BEGIN, 1), (END, 1), (END, 2)]
    assert isinstance(taken[1], PackedRecord)
    assert to_event(taken[1]) == event


def test_write__a_tail_larger_than_any__is_refused_before_it_is_written(journal: Journal) -> None:
    """The reader would take it for damage; nothing of it reaches the journal."""
    lane = lane_of()
    begin(journal, lane, 1)
    with pytest.raises(ValueError, match="a tail of"):
        event_end(lane, 1, event_of(lane, 1)._replace(description="x" * (TAIL_BYTES_MAX + 1)))
    end(journal, lane, 1)
    taken = drain(journal)
    assert (calls_of(taken), list(unfinished(taken))) == ([(BEGIN, 1), (END, 1)], [])


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
    taken: list[Record] = []
    while any(thread.is_alive() for thread in threads):
        journal.maintain()
        taken += journal.take(500)
        journal.delivered()
    taken += drain(journal)
    assert len(taken) == threads_count * each
    by_thread = {
        thread: [record["n"] for record in map(json_of, taken) if record["t"] == thread]
        for thread in range(threads_count)
    }
    assert by_thread == {thread: list(range(each)) for thread in range(threads_count)}
    assert journal.dropped == 0


def test_remove__a_segment_that_was_filled_meanwhile__keeps_its_records(
    new_journal: Callable[..., Journal],
) -> None:
    """The reader has seen it empty, while a thread was making it, and comes back late."""
    journal, lane = new_journal(), lane_of()
    begin(journal, lane, 1)
    filled = journal._current
    assert filled is not None
    journal._rotate(filled)
    journal._remove(filled)
    assert seqs_of(drain(journal), BEGIN) == [1]


@pytest.mark.parametrize("lanes_count", [1, 16])
def test_journal__calls_of_many_threads__all_end_once(
    new_journal: Callable[..., Journal], lanes_count: int
) -> None:
    """With rotations under way, sixteen threads lose no record of a call and double none, whether
    they share a lane or not; each record is read with its own lane.
    """
    journal = new_journal(segment_bytes_max=3_000, records_in_memory_max=100_000)
    lanes = [lane_of(session_id=f"s{number}") for number in range(lanes_count)]
    threads_count, each = 16, 200
    barrier = threading.Barrier(threads_count)

    def call(thread: int) -> None:
        lane = lanes[thread % lanes_count]
        barrier.wait()
        for number in range(each):
            seq = thread * 1_000 + number
            begin(journal, lane, seq)
            (void if number % 10 == 9 else end)(journal, lane, seq)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=call, args=(number,)) for number in range(threads_count)]
        for thread in threads:
            thread.start()
        taken: list[Record] = []
        while any(thread.is_alive() for thread in threads):
            journal.maintain()
            taken += journal.take(500)
            journal.delivered()
    finally:
        sys.setswitchinterval(interval)
    taken += drain(journal)
    calls = [thread * 1_000 + number for thread in range(threads_count) for number in range(each)]
    voids = [seq for seq in calls if seq % 10 == 9]
    assert sorted(seqs_of(taken, BEGIN)) == calls
    assert sorted(seqs_of(taken, END)) == sorted(set(calls) - set(voids))
    assert sorted(seqs_of(taken, VOID)) == voids
    packed = [record for record in taken if isinstance(record, PackedRecord)]
    assert {record.seq: record.facts for record in packed} == {
        seq: lanes[seq // 1_000 % lanes_count].facts for seq in calls
    }
    assert list(unfinished(taken)) == []
    assert (journal.dropped, journal._begun_in) == (0, {})


@pytest.mark.parametrize("segment_bytes_max", [100, 1_000_000])
def test_journal__a_record_larger_than_a_segment__is_kept(
    new_journal: Callable[..., Journal], segment_bytes_max: int
) -> None:
    """A segment's size bounds what is read at once, not what may be written."""
    journal = new_journal(segment_bytes_max=segment_bytes_max)
    texts = ["a", "b" * 900_000, "c" * (RECORD_BYTES_MAX - 20), "d"]
    for text in texts:
        journal.append(payload(t=text))
    assert [json_of(record)["t"] for record in drain(journal)] == texts


def test_journal__more_calls_in_flight_than_fit_a_segment__does_not_rotate_at_each_record(
    new_journal: Callable[..., Journal],
) -> None:
    """Calls in flight take no room in the segments that follow."""
    journal = new_journal(segment_bytes_max=5_000)
    lane = lane_of()
    for seq in range(300):
        begin(journal, lane, seq)
    before = len(journal._segments)
    for number in range(100):
        journal.append(payload(n=number))
    assert len(journal._segments) - before <= 1
    for seq in range(300):
        end(journal, lane, seq)
    taken = drain(journal)
    assert numbers_of(taken) == list(range(100))
    assert (seqs_of(taken, BEGIN), seqs_of(taken, END)) == ([*range(300)], [*range(300)])


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
    assert numbers_of(drain(journal, 7)) == list(range(200))
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
