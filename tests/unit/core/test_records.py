"""Packed records of calls: what is written is read back, what is torn is not read at all."""

from __future__ import annotations

import json
import struct
import uuid
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.property.test_event_properties import events

from paygent.core.estimate import Expectation
from paygent.core.event import HELD, Event
from paygent.core.pricing import Prices, Rates, Tier, cost_nano
from paygent.core.records import (
    BEGIN,
    COUNT_MAX,
    END,
    MAGIC,
    TAIL_BYTES_MAX,
    VOID,
    Answerer,
    Figures,
    LaneFacts,
    PackedRecord,
    decode_lane,
    encode_lane,
    end_record,
    event_id_of,
    event_of_begin,
    event_of_end,
    pack_begin,
    pack_end,
    packed_size,
    seq_of,
    to_event,
    unpack,
    with_tail,
)
from paygent.core.usage import Usage

RATES = Rates(
    Prices(input=10**12, cached_input=10**11, output=4 * 10**12, reasoning=4 * 10**12),
    (Tier(1_000, Prices(input=2 * 10**12, output=5 * 10**12, reasoning=6 * 10**12)),),
    "plan:m@1",
    "plan",
)
OTHER = Rates(Prices(input=7 * 10**12, output=9 * 10**12), (), "plan:other@1", "plan")
COMMON = "7abc-8def-"
AT_US = 1_735_689_600_123_456
FACTS = LaneFacts(
    COMMON,
    'u"1',
    "s\n1",
    "openai",
    "pro",
    1_735_689_600_000_000,
    Expectation(1, 4, 10, 50, True),
    (Answerer("gpt-4o", "gpt-4o", RATES), Answerer("gpt-4o-2024-08-06", "gpt-4o", OTHER)),
)
LANES = {3: FACTS}
FIGURES = Figures(812, 900, 500, 400, 30, 200, 1)

TEXT = st.text(max_size=12)
COUNT = st.integers(0, COUNT_MAX)
SEQ = st.integers(0, 2**48 - 1)
MOMENT = st.integers(1, 2**63 - 1)  # a time of 0 is what a torn record has
PRICE = st.integers(0, 10**16)
PRICES = st.builds(Prices, *[PRICE] * len(Prices._fields))
ALL_RATES = st.builds(
    Rates,
    PRICES,
    st.lists(st.builds(Tier, st.integers(0, 10**7), PRICES), max_size=2).map(tuple),
    TEXT,
    TEXT,
    TEXT,
    st.frozensets(st.sampled_from(Prices._fields), max_size=3),
    st.frozensets(TEXT, max_size=2),
)
EXPECTATIONS = st.builds(
    Expectation,
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.booleans(),
    st.integers(0, 10**15),
    st.integers(1, 10**15),
    *[st.integers(0, 10**15)] * 5,
)
FACTS_OF_ANY_LANE = st.builds(
    LaneFacts,
    st.just(COMMON),
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.integers(0, 2**60),
    EXPECTATIONS,
    st.lists(st.builds(Answerer, TEXT, TEXT, ALL_RATES), min_size=1, max_size=3).map(tuple),
)


def read(record: bytes, lanes: dict[int, LaneFacts] = LANES) -> PackedRecord:
    """Return what is read from a record that is whole."""
    packed = unpack(record, 0, lanes)
    assert packed is not None
    assert packed_size(record, 0) == len(record)
    return packed


# -- lanes


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**32 - 1), FACTS_OF_ANY_LANE)
def test_decode_lane__any_lane__is_read_back_from_one_line(number: int, facts: LaneFacts) -> None:
    """Names in any script, tiers and expectations survive; a record is one line of ASCII."""
    encoded = encode_lane(number, facts)
    assert encoded.isascii()
    assert b"\n" not in encoded
    record = json.loads(encoded)
    assert record["k"] == "lane"
    decoded_number, decoded = decode_lane(record)
    assert (decoded_number, decoded) == (number, facts)
    assert type(decoded.expectation) is Expectation
    assert [type(each) for each in decoded.answerers] == [Answerer] * len(facts.answerers)


@pytest.mark.parametrize("missing", sorted(json.loads(encode_lane(3, FACTS)).keys() - {"k"}))
def test_decode_lane__a_field_is_missing__is_a_key_error(missing: str) -> None:
    """A record of another version is rejected, not guessed."""
    record = json.loads(encode_lane(3, FACTS))
    del record[missing]
    with pytest.raises(KeyError, match=missing):
        decode_lane(record)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("n", "three"),
        ("n", None),
        ("expectation", 5),
        ("expectation", [1]),
        ("answerers", 5),
        ("answerers", [["m", "m"]]),
        ("answerers", [["m", "m", "id", {}]]),
        ("answerers", [["m", "m", "id", None]]),
    ],
)
def test_decode_lane__a_field_of_another_form__is_a_documented_error(name: str, wrong: Any) -> None:
    """A foreign record raises the documented errors, nothing else."""
    record = {**json.loads(encode_lane(3, FACTS)), name: wrong}
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode_lane(record)


# -- packed records


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([BEGIN, VOID]), COUNT, SEQ, MOMENT, COUNT, COUNT)
def test_unpack__any_begin_or_void__is_what_was_packed(
    kind: int, lane: int, seq: int, at_us: int, weight: int, max_tokens: int
) -> None:
    """40 bytes name the lane, the call, its size and its bound on output."""
    record = pack_begin(lane, seq, at_us, weight, max_tokens, kind=kind)
    assert (len(record), record[:4]) == (40, MAGIC)
    packed = read(record, {lane: FACTS})
    assert packed == PackedRecord(kind, FACTS, seq, at_us, weight, max_tokens, None, None)
    assert packed.event_id == event_id_of(COMMON, seq, at_us)


@settings(max_examples=200, deadline=None)
@given(COUNT, SEQ, MOMENT, st.tuples(*[COUNT] * 7))
def test_unpack__any_end__is_what_was_packed(
    lane: int, seq: int, at_us: int, figures: tuple[int, ...]
) -> None:
    """60 bytes have the figures of the call besides."""
    record = pack_end(lane, seq, at_us, figures)
    assert (len(record), record[:4]) == (60, MAGIC)
    assert read(record, {lane: FACTS}) == PackedRecord(
        END, FACTS, seq, at_us, 0, 0, Figures(*figures), None
    )


RECORDS = {
    "begin": pack_begin(3, 2**40 + 77, AT_US, 400, 100),
    "void": pack_begin(3, 2**40 + 77, AT_US, 0, 0, kind=VOID),
    "end": pack_end(3, 2**40 + 77, AT_US, FIGURES),
    "begin and tail": with_tail(pack_begin(3, 77, AT_US, 1, 0), b'{"meta":{"a":1}}'),
    "end and tail": with_tail(pack_end(3, 77, AT_US, FIGURES), b'{"ms":5,"blocked":true}'),
}


@pytest.mark.parametrize("name", RECORDS)
def test_unpack__in_the_middle_of_other_data__reads_the_record_that_starts_there(name: str) -> None:
    """Records follow each other in a segment without a gap."""
    record = RECORDS[name]
    data = RECORDS["end"] + record + RECORDS["begin"]
    assert packed_size(data, 60) == len(record)
    assert unpack(data, 60, LANES) == unpack(record, 0, LANES) is not None


@pytest.mark.parametrize("rest", ["zeros", "another record"])
@pytest.mark.parametrize("name", RECORDS)
def test_unpack__torn_at_any_byte__is_nothing(name: str, rest: str) -> None:
    """A process that was killed in the middle of a write leaves no call that was not made."""
    record = RECORDS[name]
    other = pack_end(3, 2**40 + 78, AT_US + 999, Figures(9, 8, 7, 6, 5, 4, 0))
    filling = bytes(len(record)) if rest == "zeros" else other + other
    torn_at = 0
    for cut in range(len(MAGIC) + 1, len(record)):
        torn = record[:cut] + filling[: len(record) - cut]
        if torn != record:
            torn_at += 1
            assert unpack(torn, 0, LANES) is None, cut
    assert torn_at > 30


@settings(max_examples=200, deadline=None)
@given(SEQ, st.integers(10**15, 2**52), st.tuples(*[COUNT] * 7), st.integers(8, 59))
def test_unpack__any_end_torn_anywhere__is_nothing(
    seq: int, at_us: int, figures: tuple[int, ...], cut: int
) -> None:
    """The check comes last, so a record that is not whole lacks it."""
    record = pack_end(3, seq, at_us, figures)
    torn = record[:cut] + bytes(60 - cut)
    assume(torn != record)
    # One in four thousand million records checks as zeros do.
    head = struct.unpack_from("<4sBxHIQQIII", torn)
    assume((head[4] ^ head[5] ^ head[7] ^ head[8]) & COUNT_MAX)
    assert unpack(torn, 0, LANES) is None


@pytest.mark.parametrize("name", RECORDS)
def test_unpack__of_a_lane_that_is_not_known__is_nothing(name: str) -> None:
    """A call of nobody knows whom can be booked on nobody."""
    assert unpack(RECORDS[name], 0, {4: FACTS}) is None


@pytest.mark.parametrize("name", RECORDS)
def test_packed_size__of_a_record_that_has_not_arrived__is_0(name: str) -> None:
    """Whoever reads along waits for the rest."""
    record = RECORDS[name]
    assert [packed_size(record[:cut], 0) for cut in range(8)] == [0] * 8
    assert packed_size(record[:8], 0) == len(record)


def test_packed_size__with_a_larger_tail_than_the_largest__is_that_of_none() -> None:
    """Bytes of its head were damaged; the next record is looked for."""
    for size, expected in ((TAIL_BYTES_MAX, 60 + TAIL_BYTES_MAX), (TAIL_BYTES_MAX + 1, -1)):
        head = MAGIC + bytes([END]) + size.to_bytes(3, "little")
        assert packed_size(head + bytes(52), 0) == expected


@pytest.mark.parametrize("name", RECORDS)
def test_seq_of__a_record__is_the_number_of_its_call(name: str) -> None:
    """Whoever drops a record has to know of which call it was."""
    packed = unpack(RECORDS[name], 0, LANES)
    assert packed is not None
    assert seq_of(b"before" + RECORDS[name], 6) == packed.seq


@pytest.mark.parametrize("kind", [BEGIN, END, VOID])
def test_unpack__a_record_of_zeros_behind_its_lane__is_nothing(kind: int) -> None:
    """All figures and the check of a copy that was cut short are 0, and agree."""
    record = MAGIC + bytes([kind, 0, 0, 0, 3]) + bytes(60)
    assert unpack(record, 0, LANES) is None


def test_packed_size__of_another_kind__is_that_of_none() -> None:
    """A kind of a later version, or no record at all."""
    assert packed_size(MAGIC + bytes(40), 0) == -1
    assert packed_size(MAGIC + b"\x09" + bytes(40), 0) == -1


@pytest.mark.parametrize("place", range(7))
def test_pack_end__a_figure_above_the_largest__is_a_struct_error(place: int) -> None:
    """The largest figure is written as it is, one more is not written as another."""
    figures = [0] * 7
    figures[place] = COUNT_MAX
    packed = read(pack_end(3, 1, AT_US, tuple(figures)))
    assert packed.figures == Figures(*figures)
    figures[place] += 1
    with pytest.raises(struct.error):
        pack_end(3, 1, AT_US, tuple(figures))


@pytest.mark.parametrize("place", range(2))
def test_pack_begin__a_size_above_the_largest__is_a_struct_error(place: int) -> None:
    """The same for the size of a request and its bound."""
    sizes = [0, 0]
    sizes[place] = COUNT_MAX
    packed = read(pack_begin(3, 1, AT_US, *sizes))
    assert [packed.weight, packed.max_tokens] == sizes
    sizes[place] += 1
    with pytest.raises(struct.error):
        pack_begin(3, 1, AT_US, *sizes)


# -- tails


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["begin", "end", "void"]),
    st.dictionaries(TEXT, st.one_of(st.integers(), TEXT, st.none()), max_size=5),
)
def test_with_tail__any_object__is_read_back(name: str, document: dict[str, Any]) -> None:
    """A tail of any content belongs to its record alone."""
    record = with_tail(RECORDS[name], json.dumps(document).encode())
    plain = unpack(RECORDS[name], 0, LANES)
    assert plain is not None
    assert read(record) == plain._replace(tail=document)


def test_with_tail__the_largest_and_a_larger_one__are_written_and_refused() -> None:
    """A larger size than the largest is damage, and is not waited for."""
    tail = json.dumps({"description": "x" * (TAIL_BYTES_MAX - 19)}).encode()
    assert len(tail) == TAIL_BYTES_MAX
    assert read(with_tail(RECORDS["end"], tail)).tail == json.loads(tail)
    with pytest.raises(ValueError, match=f"{TAIL_BYTES_MAX + 1} bytes"):
        with_tail(RECORDS["end"], tail + b" ")


def test_unpack__another_tail_of_the_same_size__is_nothing() -> None:
    """The check covers the tail."""
    record = with_tail(RECORDS["end"], b'{"ms":5}')
    assert unpack(record[:-8] + b'{"ms":6}', 0, LANES) is None


# -- events


def test_event_id_of__a_call__is_a_uuid7_of_its_time_process_and_number() -> None:
    """Ids sort by time, and no two calls share one."""
    event_id = event_id_of(COMMON, 255, AT_US)
    parsed = uuid.UUID(event_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == event_id
    assert parsed.int >> 80 == AT_US // 1_000
    assert event_id.endswith("-0000000000ff")
    ids = [event_id_of(COMMON, seq, at) for at in (AT_US, AT_US + 1_000) for seq in (1, 2)]
    assert sorted(set(ids)) == ids


def test_event_of_end__a_call__is_priced_at_the_rates_of_the_model_that_answered() -> None:
    """Every field follows from the lane and the figures."""
    assert event_of_end(FACTS, 5, AT_US, FIGURES) == Event(
        event_id=event_id_of(COMMON, 5, AT_US),
        user_id='u"1',
        session_id="s\n1",
        at_us=AT_US,
        model="gpt-4o-2024-08-06",
        model_key="gpt-4o",
        provider="openai",
        plan="pro",
        period_start_us=1_735_689_600_000_000,
        input_tokens=900,
        output_tokens=500,
        cached_input_tokens=400,
        cache_write_tokens=30,
        reasoning_tokens=200,
        cost_tokens_nano=(900 - 430) * 7_000 + 300 * 9_000,
        cost_tools_nano=0,
        quality="exact",
        source="auto",
        price_id="plan:other@1",
        latency_ms=812,
    )


@pytest.mark.parametrize(
    ("input_tokens", "nano"), [(1_000, 1_000_000 + 40_000), (1_001, 2_002_000 + 50_000)]
)
def test_event_of_end__an_input_above_a_tier__is_priced_by_it(input_tokens: int, nano: int) -> None:
    """A tier applies to the whole call."""
    event = event_of_end(FACTS, 5, AT_US, Figures(0, input_tokens, 10, 0, 0, 0, 0))
    assert event.cost_nano == nano


@settings(max_examples=200, deadline=None)
@given(FACTS_OF_ANY_LANE, st.integers(0, 10**7), st.integers(0, 10**7), st.tuples(*[COUNT] * 3))
def test_event_of_end__any_text__costs_what_its_usage_costs(
    facts: LaneFacts, input_tokens: int, output_tokens: int, parts: tuple[int, int, int]
) -> None:
    """Tiers, cached and reasoning tokens are priced as in every other place."""
    model, key, rates = facts.answerers[0]
    rates = rates._replace(
        prices=rates.prices._replace(request=0),
        tiers=tuple(tier._replace(prices=tier.prices._replace(request=0)) for tier in rates.tiers),
    )
    facts = facts._replace(answerers=(Answerer(model, key, rates),))
    event = event_of_end(facts, 1, AT_US, (0, input_tokens, output_tokens, *parts, 0))
    cached, written, reasoning = parts
    usage = Usage(input_tokens, output_tokens, cached, written, reasoning_tokens=reasoning)
    assert event.cost_nano == cost_nano(usage, rates)


def test_event_of_begin__a_call_without_an_end__is_what_was_expected_of_it() -> None:
    """It is booked as estimated, at the price of the requested model, and marked as a hold."""
    event = event_of_begin(FACTS, 5, AT_US, 400, 20)
    assert (event.input_tokens, event.output_tokens) == (110, 20)
    assert (event.cost_nano, event.price_id) == (110_000 + 80_000, "plan:m@1")
    assert (event.quality, event.details, event.latency_ms) == ("estimated", {HELD: 1}, 0)
    assert event.event_id == event_id_of(COMMON, 5, AT_US)
    assert event.model == "gpt-4o"
    assert event_of_begin(FACTS, 5, AT_US, 400, 0).output_tokens == 50  # no bound of its own


def test_to_event__a_begin_and_an_end__are_the_events_of_memory() -> None:
    """Reader and writer turn the same figures into the same event."""
    begin, end = pack_begin(3, 5, AT_US, 400, 20), pack_end(3, 5, AT_US, FIGURES)
    assert to_event(read(begin)) == event_of_begin(FACTS, 5, AT_US, 400, 20)
    assert to_event(read(end)) == event_of_end(FACTS, 5, AT_US, FIGURES)


def test_to_event__a_tail__changes_what_the_figures_say() -> None:
    """Metadata, blocked calls and fixed holds are in the tail."""
    tail = json.dumps({"meta": {"team": "é"}, "cost": 7, "later": 1}).encode()
    event = to_event(read(with_tail(pack_begin(3, 5, AT_US, 400, 20), tail)))
    assert event == event_of_begin(FACTS, 5, AT_US, 400, 20)._replace(
        metadata={"team": "é"}, cost_tokens_nano=7
    )


def test_to_event__an_answerer_that_the_lane_does_not_have__is_a_documented_error() -> None:
    """Figures of another version are not priced like another model."""
    with pytest.raises(IndexError):
        to_event(read(pack_end(3, 5, AT_US, FIGURES._replace(answerer=2))))


@settings(max_examples=200, deadline=None)
@given(events(), SEQ, MOMENT, st.sampled_from([0, 1]))
def test_end_record__any_event__is_read_back(
    event: Event, seq: int, at_us: int, answerer: int
) -> None:
    """Whatever an event has that its figures do not give is in its tail."""
    event = event._replace(at_us=at_us)
    record = end_record(3, FACTS, seq, event, answerer)
    assert to_event(read(record)) == event


def test_end_record__an_event_that_follows_from_its_figures__has_no_tail() -> None:
    """The usual call costs 60 bytes."""
    event = event_of_end(FACTS, 5, AT_US, FIGURES)
    assert end_record(3, FACTS, 5, event, 1) == pack_end(3, 5, AT_US, FIGURES)


@pytest.mark.parametrize(
    "name",
    [
        "latency_ms",
        "input_tokens",
        "output_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
    ],
)
@pytest.mark.parametrize("value", [COUNT_MAX, COUNT_MAX + 1, 2**63 - 1, -1])
def test_end_record__a_figure_at_and_beyond_the_largest__is_read_back(
    name: str, value: int
) -> None:
    """What no packed figure can express goes into the tail."""
    changes: dict[str, Any] = {name: value}
    event = event_of_end(FACTS, 5, AT_US, FIGURES)._replace(**changes)
    record = end_record(3, FACTS, 5, event, 1)
    assert to_event(read(record)) == event
    expected = 0 if value != COUNT_MAX else value
    figures = read(record).figures
    assert figures is not None
    assert figures._asdict()[name] == expected
