"""Packed records in segments: torn, damaged or orphaned ones cost themselves and nothing else."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.records import (
    begin_of,
    calls_of,
    end_of,
    event_end,
    event_of,
    figures,
    lane_of,
    lane_record,
    numbers_of,
    void_of,
)

from paygent.client.journal.codec import decode
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import adopt, unfinished
from paygent.client.journal.segments import Lanes, Record, frame, parse, parse_dead
from paygent.core.records import (
    BEGIN,
    COUNT_MAX,
    END,
    MAGIC,
    VOID,
    PackedRecord,
    decode_lane,
    encode_lane,
    to_event,
    with_tail,
)
from paygent.failopen import diagnostics

LANE = lane_of()
OTHER = lane_of(session_id="s2", model="gpt-4o-mini")
HEAD = lane_record(LANE) + lane_record(OTHER)
TAILED = event_end(LANE, 3, event_of(LANE, 3)._replace(metadata={"team": "blue"}))


def framed(*numbers: int) -> bytes:
    """Return frames of numbered JSON records."""
    return b"".join(frame(json.dumps({"n": number}).encode()) for number in numbers)


def read(data: bytes, *, at_end: bool = True) -> list[Record]:
    """Return the records of a whole segment."""
    return parse(data, {}, at_end=at_end)[0]


# -- whole


def test_parse__records_of_each_kind__are_returned_with_their_lane() -> None:
    """JSON and packed records stand in one segment, in the order of writing."""
    data = framed(1) + HEAD + begin_of(LANE, 1) + void_of(OTHER, 2) + framed(2) + TAILED
    records, done = parse(data, {}, at_end=False)
    assert (numbers_of(records), calls_of(records)) == ([1, 2], [(BEGIN, 1), (VOID, 2), (END, 3)])
    packed = [record for record in records if isinstance(record, PackedRecord)]
    assert [record.facts for record in packed] == [LANE.facts, OTHER.facts, LANE.facts]
    assert done == len(data)


def test_parse__a_lane_record__is_no_record_of_its_own_and_is_kept_for_later_pieces() -> None:
    """A reader that sees a segment grow knows the lanes that it has read."""
    lanes: Lanes = {}
    assert parse(HEAD, lanes, at_end=False) == ([], len(HEAD))
    assert lanes == {LANE.number: LANE.facts, OTHER.number: OTHER.facts}
    assert calls_of(parse(end_of(OTHER, 9), lanes, at_end=False)[0]) == [(END, 9)]


def test_parse__as_many_records_as_wanted__stops_behind_the_last_of_them() -> None:
    """A batch is bounded by its records; lanes do not count."""
    data = HEAD + b"".join(begin_of(LANE, seq) for seq in range(1, 6))
    lanes: Lanes = {}
    records, done = parse(data, lanes, at_end=False, records_max=2)
    assert calls_of(records) == [(BEGIN, 1), (BEGIN, 2)]
    assert calls_of(parse(data[done:], lanes, at_end=False)[0]) == [(BEGIN, n) for n in (3, 4, 5)]


@pytest.mark.parametrize("largest", [COUNT_MAX, COUNT_MAX + 1, 1 << 50])
def test_parse__figures_of_any_size__come_back(largest: int) -> None:
    """What a figure of 32 bits cannot hold is in the tail."""
    event = event_of(LANE, 1)._replace(input_tokens=largest, cost_tokens_nano=1 << 62)
    (record,) = read(lane_record(LANE) + event_end(LANE, 1, event))
    assert isinstance(record, PackedRecord)
    assert to_event(record) == event


_EVENTS = st.builds(
    lambda seq, given: event_of(LANE, seq)._replace(**given),
    st.integers(1, (1 << 63) - 1),
    st.fixed_dictionaries(
        {},
        optional={
            "input_tokens": st.integers(0, 1 << 63),
            "output_tokens": st.integers(0, COUNT_MAX + 1),
            "latency_ms": st.integers(0, COUNT_MAX + 1),
            "cost_tokens_nano": st.integers(0, 1 << 63),
            "cost_tools_nano": st.integers(0, 1 << 63),
            "model": st.text(max_size=20),
            "user_id": st.text(max_size=20),
            "quality": st.sampled_from(["exact", "estimated", "partial", "unpriced"]),
            "blocked": st.booleans(),
            "tool_calls": st.lists(st.text(max_size=5), max_size=3).map(tuple),
            "metadata": st.dictionaries(st.text(max_size=5), st.integers(), min_size=1),
            "details": st.dictionaries(st.text(max_size=5), st.integers(), min_size=1),
        },
    ),
)


@settings(max_examples=200, deadline=None, database=None)
@given(event=_EVENTS)
def test_parse__any_event_of_a_call__comes_back_as_it_was(event: object) -> None:
    """Figures and tail together are the event; nothing is rounded, cut or left out."""
    assert isinstance(event, type(event_of(LANE, 1)))
    seq = int(event_of(LANE, 1).event_id == event.event_id) or 7
    (record,) = read(lane_record(LANE) + event_end(LANE, seq, event))
    assert isinstance(record, PackedRecord)
    assert to_event(record) == event


# -- torn


each_kind = pytest.mark.parametrize(
    "last",
    [begin_of(LANE, 7), end_of(LANE, 8), void_of(LANE, 9), TAILED],
    ids=["begin", "end", "void", "tailed"],
)


@each_kind
def test_parse__a_torn_tail__is_waited_for_until_the_end(last: bytes) -> None:
    """A record that is being written is not read yet, at whatever byte it ends."""
    head = HEAD + framed(1) + end_of(LANE, 1)
    for length in range(1, len(last)):
        lanes: Lanes = {}
        data = head + last[:length]
        records, done = parse(data, lanes, at_end=False)
        assert (numbers_of(records), calls_of(records)) == ([1], [(END, 1)])
        rest, _ = parse(data[done:] + last[length:] + framed(2), lanes, at_end=False)
        assert (len(rest), numbers_of(rest)) == (2, [2])
        assert len(read(data)) == 2


@each_kind
@pytest.mark.parametrize("room", [0, 3, 4_096])
def test_parse_dead__a_torn_record_at_the_end__is_no_record_and_no_damage(
    last: bytes, room: int
) -> None:
    """A kill in the middle of a copy leaves part of a record and the zeros of the file."""
    for length in range(len(last)):
        records, is_damaged = parse_dead(HEAD + end_of(LANE, 1) + last[:length] + bytes(room))
        assert (calls_of(records), is_damaged) == ([(END, 1)], False), length


@each_kind
@pytest.mark.parametrize(
    "following",
    [end_of(LANE, 5), framed(5), HEAD + end_of(LANE, 5), TAILED],
    ids=["end", "json", "lanes", "tailed"],
)
def test_parse__a_torn_record_before_others__hides_none_of_them(
    last: bytes, following: bytes
) -> None:
    """A short write, and another thread that wrote on: what is behind it is whole."""
    whole = read(HEAD + following)
    for length in range(len(last)):
        data = HEAD + last[:length] + following + framed(6, 7)
        records = read(data + bytes(100_000))
        assert records == [*whole, {"n": 6}, {"n": 7}], length


# -- damaged


@settings(max_examples=300, deadline=None, database=None)
@given(which=st.integers(0, 5), where=st.integers(0, 200), flip=st.integers(1, 255))
def test_parse__a_damaged_byte_among_those_that_are_checked__loses_that_record_only(
    which: int, where: int, flip: int
) -> None:
    """Magic and the low words of number, time and main counts are checked: a torn record differs in
    one of them. What is behind the damage is read.
    """
    records = [bytearray(end_of(LANE, seq, figures(seq, seq))) for seq in range(1, 7)]
    # Magic, number, time, input and output, check.
    checked = [*range(4), *range(12, 16), *range(20, 24), *range(32, 40), *range(56, 60)]
    records[which][checked[where % len(checked)]] ^= flip
    data = HEAD + b"".join(map(bytes, records)) + framed(1)
    expected = [(END, seq) for seq in range(1, 7) if seq != which + 1]
    assert (calls_of(read(data)), numbers_of(read(data))) == (expected, [1])


@settings(max_examples=200, deadline=None, database=None)
@given(where=st.integers(0, 1_000), flip=st.integers(1, 255))
def test_parse__any_damaged_byte_of_a_tail__loses_that_record_only(where: int, flip: int) -> None:
    """What a tail says of an event is believed as a whole or not at all."""
    damaged = bytearray(TAILED)
    start = len(end_of(LANE, 3))
    damaged[start + where % (len(damaged) - start)] ^= flip
    data = HEAD + bytes(damaged) + end_of(LANE, 4) + framed(1)
    assert (calls_of(read(data)), numbers_of(read(data))) == ([(END, 4)], [1])


@settings(max_examples=200, deadline=None, database=None)
@given(where=st.integers(0, 2_000), flip=st.integers(1, 255))
def test_parse__a_damaged_lane_record__hides_its_own_calls_and_no_others(
    where: int, flip: int
) -> None:
    """A call is never booked to a user, or at a price, that was read from damaged bytes."""
    damaged = bytearray(lane_record(LANE))
    damaged[where % len(damaged)] ^= flip
    data = bytes(damaged) + end_of(LANE, 1) + lane_record(OTHER) + end_of(OTHER, 2) + framed(1)
    records = read(data)
    assert (calls_of(records), numbers_of(records)) == ([(END, 2)], [1])
    assert [each.facts for each in records if isinstance(each, PackedRecord)] == [OTHER.facts]


@pytest.mark.parametrize(
    "change",
    [
        lambda lane: lane.pop("user_id"),
        lambda lane: lane.pop("n"),
        lambda lane: lane.update(n="x"),
        lambda lane: lane.update(answerers=[["only", "two"]]),
        lambda lane: lane.update(answerers=5),
        lambda lane: lane.update(expectation=[1, 2]),
        lambda lane: lane.update(expectation=None),
    ],
    ids=count(),
)
def test_parse__a_whole_lane_record_of_another_form__hides_its_own_calls_and_no_others(
    change: object,
) -> None:
    """A lane of a version that we cannot read is no reason to give up the segment."""
    document = json.loads(encode_lane(LANE.number, LANE.facts))
    assert callable(change)
    change(document)
    data = frame(json.dumps(document).encode()) + end_of(LANE, 1)
    data += lane_record(OTHER) + end_of(OTHER, 2)
    assert calls_of(read(data)) == [(END, 2)]
    records, is_damaged = parse_dead(data)
    assert (calls_of(records), is_damaged) == ([(END, 2)], True)


def test_parse__a_lane_record_with_more_fields__is_read() -> None:
    """Those of a later version are ignored."""
    document = {**json.loads(encode_lane(LANE.number, LANE.facts)), "later": 1}
    assert decode_lane(document) == (LANE.number, LANE.facts)


@pytest.mark.parametrize("at_end", [True, False])
def test_parse__a_record_of_an_unknown_lane__is_passed_over(at_end: bool) -> None:
    """Nobody can say whose call it was; what follows is not lost with it."""
    data = lane_record(LANE) + end_of(OTHER, 1) + end_of(LANE, 2) + framed(1)
    records = read(data, at_end=at_end)
    assert (calls_of(records), numbers_of(records)) == ([(END, 2)], [1])


def test_parse__a_lane_behind_its_call__does_not_reach_back() -> None:
    """Each record is read with what was written before it."""
    data = end_of(LANE, 1) + lane_record(LANE) + end_of(LANE, 2)
    assert calls_of(read(data)) == [(END, 2)]


@pytest.mark.parametrize("kind", [0, 4, 80, 255])
def test_parse__a_kind_of_another_version__is_passed_over(kind: int) -> None:
    """Bytes that only look like a record hide nothing."""
    odd = MAGIC + bytes([kind]) + end_of(LANE, 1)[5:]
    assert calls_of(read(HEAD + odd + end_of(LANE, 2), at_end=False)) == [(END, 2)]


@pytest.mark.parametrize("tail", [b"[1]", b"{", b'"x"', b"\xff", b'{"in":"many"}', b'{"at":[]}'])
def test_decode__a_tail_that_is_no_object_of_ours__costs_that_record_only(
    tail: bytes, swallowed: object
) -> None:
    """It is kept for a person where it can be read, and passed over where it cannot."""
    data = HEAD + with_tail(end_of(LANE, 1), tail) + end_of(LANE, 2)
    decoded = decode(read(data))
    assert [event.event_id for event in decoded.events] == [event_of(LANE, 2).event_id]
    assert calls_of(decoded.unreadable) in ([], [(END, 1)])
    assert diagnostics.counts in ({}, {"event_record": 1})
    swallowed.seen.clear()  # type: ignore[attr-defined]  # how it is counted is not the point


def test_decode__an_answerer_that_the_lane_does_not_name__is_set_aside(swallowed: object) -> None:
    """A damaged number must not price a call at another model's rates."""
    swallowed.expect("event_record")  # type: ignore[attr-defined]
    data = HEAD + end_of(LANE, 1, figures(answerer=3)) + end_of(LANE, 2)
    decoded = decode(read(data))
    assert [event.event_id for event in decoded.events] == [event_of(LANE, 2).event_id]
    assert calls_of(decoded.unreadable) == [(END, 1)]


# -- the journals of the dead


def test_decode__of_a_dead_process__books_ends_once_and_begins_without_an_answer() -> None:
    """Over several segments, each with its own lanes and the same numbers."""
    segments = [
        HEAD + begin_of(LANE, 1) + begin_of(LANE, 2) + begin_of(OTHER, 3),
        lane_record(OTHER) + begin_of(OTHER, 4) + end_of(OTHER, 3),
        lane_record(LANE) + end_of(LANE, 1) + void_of(LANE, 2),
    ]
    records = [record for data in segments for record in parse_dead(data)[0]]
    decoded = decode(records, unfinished=unfinished(records))
    lost = decoded.events[-1]
    assert [event.event_id for event in decoded.events] == [
        event_of(OTHER, 3).event_id,
        event_of(LANE, 1).event_id,
        event_of(OTHER, 4).event_id,
    ]
    assert (lost.quality, lost.session_id, lost.details) == ("estimated", "s2", {"held": 1})
    assert lost.input_tokens == 120  # a quarter of its request's bytes, with the safety factor
    assert calls_of(list(unfinished(records))) == [(BEGIN, 4)]


@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        (HEAD + end_of(LANE, 1), False),
        (HEAD + end_of(LANE, 1) + bytes(100), False),
        (HEAD + end_of(LANE, 1) + end_of(LANE, 2)[:-3] + bytes(100), False),
        (HEAD + end_of(LANE, 1) + TAILED[:-3], False),
        (HEAD + end_of(LANE, 1)[:-20] + end_of(LANE, 2), False),  # a full disk; another wrote on
        (HEAD + end_of(LANE, 1)[:-1] + b"!", True),  # complete, with a wrong check
        (HEAD + TAILED[:-1] + b"!", True),
        (lane_record(LANE) + end_of(OTHER, 1), True),  # whose, was in what is missing
        (HEAD + end_of(LANE, 1) + MAGIC + b"\x09" + bytes(40) + b"!", True),  # of another version
    ],
    ids=count(),
)
def test_adopt__packed_records_that_cannot_be_read__are_kept_under_another_name(
    tmp_path: Path, data: bytes, is_kept: bool
) -> None:
    """What a kill leaves is deleted; what cannot be read is kept for a person, and logged."""
    (tmp_path / "dead-000001.seg").write_bytes(data)
    assert adopt(tmp_path, deliver=lambda records: None) == 1
    kept = ["dead-000001.unreadable"] if is_kept else []
    assert [path.name for path in tmp_path.iterdir()] == kept
    assert diagnostics.counts == ({"journal_unreadable": 1} if is_kept else {})


# -- memory


def test_memory_segment__many_large_records__has_one_bound() -> None:
    """A segment in memory is not left by its size for another one, with as large a bound."""
    journal = Journal(None, owner="1-a", records_in_memory_max=100, segment_bytes_max=1_000)
    for _ in range(300):
        journal.append(b'{"k":"end","x":"%s"}' % (b"y" * 100))
    journal.maintain()
    assert len(journal.take(1_000)) == 100
    assert journal.dropped == 200


def test_memory_segment__lanes_of_thousands_of_users__are_forgotten_when_all_is_delivered() -> None:
    """Records go on in a new segment, with their lanes; a process without a folder lives long."""
    journal = Journal(None, owner="1-a")
    lane = lane_of()
    for seq in range(3):
        journal.write(lane, begin_of(lane, seq))
    before = lane.segment
    journal.take(10)
    before.lanes |= dict.fromkeys(range(10_000, 20_000), lane.facts)
    journal.maintain()
    assert journal._current is before  # not everything is delivered
    journal.delivered()
    journal.maintain()
    journal.write(lane, begin_of(lane, 4))
    assert lane.segment is journal._current is not before
    (record,) = journal.take(10)
    assert isinstance(record, PackedRecord)
    assert record.seq == 4
