"""Packed records of calls: a begin, an end or a void in 40 or 60 bytes, without JSON.

What calls have in common is written once, as a *lane record* (JSON): user, session, model, plan,
period, rates, expected usage. A packed record names its lane by number and adds the figures of one
call; what these cannot express follows as a JSON *tail*. Reader and writer turn both into an
`Event` by the same function (`event_of_end`), so the journal and memory agree by construction.

A packed record ends with a check over its figures, which detects one that was torn: its end is
zeros then, or another record. A CRC over the whole would cost as much as the record itself.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from paygent.core.estimate import Expectation, cost_of, tokens_of
from paygent.core.event import HELD, Event, differences, with_differences
from paygent.core.explain import rates_from_json, rates_to_json
from paygent.core.pricing import Rates, prices_for, text_cost_nano

MAGIC = b"PJ2\x9d"
BEGIN, END, VOID = 1, 2, 3
"""Kinds of packed records: a call was begun, has ended, or has spent nothing."""

COUNT_MAX = (1 << 32) - 1
"""Largest figure of a packed record; a larger one goes into the tail."""

TAIL_BYTES_MAX = 1024 * 1024
"""As for a record in JSON; a larger size is damage, and is not waited for."""

# Magic; kind, and above its eight bits the size of the tail; lane, number, time, figures, check.
_BEGIN = struct.Struct("<4sIIQQIII")
_END = struct.Struct("<4sIIQQIIIIIIII")
_TAIL_SHIFT = 8
_KIND_AT = len(MAGIC)
_SIZES = {BEGIN: _BEGIN.size, END: _END.size, VOID: _BEGIN.size}


class Answerer(NamedTuple):
    """A model that answers calls of a lane, with its price under the lane's plan."""

    model: str
    model_key: str  # the name under which limits and reports count it
    rates: Rates


class LaneFacts(NamedTuple):
    """What the calls of a lane have in common; fields as in `Event`.

    Attributes:
        common: The part that the ids of all of the process's events share; see `event_id_of`.
        expectation: The expected usage, as of the time of the record.
        answerers: The models that have answered; the first is the requested one.
    """

    common: str
    user_id: str
    session_id: str
    provider: str
    plan: str
    period_start_us: int
    expectation: Expectation
    answerers: tuple[Answerer, ...]


class Figures(NamedTuple):
    """The figures of an end record; counts as in `Event`.

    Attributes:
        answerer: Which of the lane's models answered.
    """

    latency_ms: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    answerer: int


class PackedRecord(NamedTuple):
    """A packed record as it was read, with the facts of its lane.

    Attributes:
        kind: BEGIN, END or VOID.
        seq: Number of the call, unique in its process.
        at_us: When the call began, in microseconds since 1970 UTC.
        weight, max_tokens: Of a begin: the size of the request, and its bound on output or 0.
        figures: Of an end; None otherwise.
        tail: What the figures cannot express, by the JSON keys of an event record.
    """

    kind: int
    facts: LaneFacts
    seq: int
    at_us: int
    weight: int
    max_tokens: int
    figures: Figures | None
    tail: Mapping[str, Any] | None

    @property
    def event_id(self) -> str:
        """The id of the call's begin, and of its event unless the tail has another."""
        return event_id_of(self.facts.common, self.seq, self.at_us)


# -- lanes


def encode_lane(number: int, facts: LaneFacts) -> bytes:
    """Write a lane record."""
    fields = facts._asdict()
    fields["answerers"] = [
        [each.model, each.model_key, each.rates.price_id, rates_to_json(each.rates)]
        for each in facts.answerers
    ]
    return json.dumps({"k": "lane", "n": number, **fields}, separators=(",", ":")).encode()


def decode_lane(record: Mapping[str, Any]) -> tuple[int, LaneFacts]:
    """Read a lane record; return its number and facts.

    Raises:
        KeyError, TypeError, ValueError: if the record is not one that `encode_lane` wrote.
    """
    fields = {name: record[name] for name in LaneFacts._fields}
    fields["expectation"] = Expectation(*fields["expectation"])
    fields["answerers"] = tuple(
        Answerer(model, key, rates_from_json(price_id, rates))
        for model, key, price_id, rates in fields["answerers"]
    )
    return int(record["n"]), LaneFacts(**fields)


# -- packed records


PACK_BEGIN = partial(_BEGIN.pack, MAGIC, BEGIN)
"""Write a begin: lane, number, time, weight, bound on output, check. For the path of every call."""

PACK_END = partial(_END.pack, MAGIC, END)
"""Write an end: lane, number, time, the values of `Figures`, check."""


def pack_begin(
    lane: int, seq: int, at_us: int, weight: int, max_tokens: int, *, kind: int = BEGIN
) -> bytes:
    """Write a begin, or with another `kind` a void; struct.error for a figure out of range."""
    check = (seq ^ at_us ^ weight ^ max_tokens) & COUNT_MAX
    return _BEGIN.pack(MAGIC, kind, lane, seq, at_us, weight, max_tokens, check)


def pack_end(lane: int, seq: int, at_us: int, figures: tuple[int, ...]) -> bytes:
    """Write an end, with the values of `Figures`; struct.error for a figure out of range."""
    check = (seq ^ at_us ^ figures[1] ^ figures[2]) & COUNT_MAX
    return PACK_END(lane, seq, at_us, *figures, check)


def with_tail(record: bytes, tail: bytes) -> bytes:
    """Add a tail, a JSON object, to a packed record; ValueError for one that is too large."""
    if len(tail) > TAIL_BYTES_MAX:
        raise ValueError(f"a tail of {len(tail)} bytes")
    parts = list(_of_kind(record[_KIND_AT]).unpack(record))
    parts[1] |= len(tail) << _TAIL_SHIFT
    parts[-1] ^= zlib.crc32(tail)
    return _of_kind(record[_KIND_AT]).pack(*parts) + tail


def packed_size(data: bytes, start: int) -> int:
    """Return the size of the packed record that starts here; 0 where the data ends before it is
    known, -1 where there is none.
    """
    if start + _KIND_AT + 4 > len(data):
        return 0
    size = _SIZES.get(data[start + _KIND_AT])
    tail_size = int.from_bytes(data[start + _KIND_AT + 1 : start + _KIND_AT + 4], "little")
    return -1 if size is None or tail_size > TAIL_BYTES_MAX else size + tail_size


def seq_of(data: bytes, start: int) -> int:
    """Return the number of the call of the packed record that starts here."""
    return int.from_bytes(data[start + 12 : start + 20], "little")


def unpack(data: bytes, start: int, lanes: Mapping[int, LaneFacts]) -> PackedRecord | None:
    """Read the packed record that starts here and is whole; None if it is torn, or its lane is
    unknown.
    """
    figures = None
    weight = max_tokens = 0
    if data[start + _KIND_AT] == END:
        _, word, lane, seq, at_us, *counts, check = _END.unpack_from(data, start)
        figures = Figures._make(counts)
        check ^= figures.input_tokens ^ figures.output_tokens
        start += _END.size
    else:
        _, word, lane, seq, at_us, weight, max_tokens, check = _BEGIN.unpack_from(data, start)
        check ^= weight ^ max_tokens
        start += _BEGIN.size
    document = None
    if tail_size := word >> _TAIL_SHIFT:
        tail = data[start : start + tail_size]
        check ^= zlib.crc32(tail)
    facts = lanes.get(lane)
    # A copy that was cut short before the figures is all zeros behind, and so is its check.
    if check != (seq ^ at_us) & COUNT_MAX or facts is None or not at_us:
        return None
    if tail_size:
        document = json.loads(tail)
    kind = word & 0xFF
    return PackedRecord(kind, facts, seq, at_us, weight, max_tokens, figures, document)


def _of_kind(kind: int) -> struct.Struct:
    return _END if kind == END else _BEGIN


# -- events


def event_id_of(common: str, seq: int, at_us: int) -> str:
    """Return the event id of a call, a UUIDv7: its time, its process, its number."""
    at_ms = at_us // 1000
    # `%` is twice as fast as an f-string with as many parts.
    return "%08x-%04x-%s%012x" % (at_ms >> 16 & COUNT_MAX, at_ms & 0xFFFF, common, seq)  # noqa: UP031


def event_of_end(facts: LaneFacts, seq: int, at_us: int, figures: tuple[int, ...]) -> Event:
    """Return the event of an end without a tail, priced at the rates of the model that answered."""
    latency_ms, n_in, n_out, cached, written, reasoning, answerer = figures
    model, model_key, rates = facts.answerers[answerer]
    prices = prices_for(rates, n_in) if rates.tiers else rates.prices
    # By position: keywords cost a microsecond, and this runs for every call.
    return Event(
        event_id_of(facts.common, seq, at_us),
        facts.user_id,
        facts.session_id,
        at_us,
        model,
        model_key,
        facts.provider,
        facts.plan,
        facts.period_start_us,
        n_in,
        n_out,
        cached,
        written,
        reasoning,
        text_cost_nano(n_in, n_out, cached, written, 0, reasoning, prices),
        0,
        "exact",
        "auto",
        rates.price_id,
        latency_ms,
    )


def event_of_begin(facts: LaneFacts, seq: int, at_us: int, weight: int, max_tokens: int) -> Event:
    """Return the event of a call without a recorded end: what was expected of it."""
    estimate = tokens_of(facts.expectation, weight, max_tokens or None)
    figures = Figures(0, *estimate, 0, 0, 0, 0)
    cost_nano = cost_of(facts.expectation, estimate, facts.answerers[0].rates)
    event = event_of_end(facts, seq, at_us, figures)
    return event._replace(cost_tokens_nano=cost_nano, quality="estimated", details={HELD: 1})


def to_event(record: PackedRecord) -> Event:
    """Return the event of a packed begin or end.

    Raises:
        KeyError, IndexError, TypeError, ValueError: for a tail or figures of another version.
    """
    facts, seq, at_us = record.facts, record.seq, record.at_us
    if record.figures is not None:
        event = event_of_end(facts, seq, at_us, record.figures)
    else:
        event = event_of_begin(facts, seq, at_us, record.weight, record.max_tokens)
    return with_differences(event, record.tail) if record.tail else event


def figures_of(event: Event, answerer: int) -> Figures:
    """Return the figures that an event has, with the number of the model that answered."""
    return Figures(
        event.latency_ms,
        event.input_tokens,
        event.output_tokens,
        event.cached_input_tokens,
        event.cache_write_tokens,
        event.reasoning_tokens,
        answerer,
    )


def end_record(lane: int, facts: LaneFacts, seq: int, event: Event, answerer: int) -> bytes:
    """Write the end record of a call with any event: what its figures do not give is its tail.

    Args:
        lane, facts: Of the call.
        seq: Of the call.
        event: What it cost.
        answerer: The number of the model that answered, or 0.
    """
    figures = figures_of(event, answerer)
    if max(figures) > COUNT_MAX or min(figures) < 0:
        figures = Figures(0, 0, 0, 0, 0, 0, answerer)
    record = pack_end(lane, seq, event.at_us, figures)
    tail = differences(event, event_of_end(facts, seq, event.at_us, figures))
    return with_tail(record, tail) if tail else record
