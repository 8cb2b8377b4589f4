"""Events, for any text and figures: encoding is lossless and on one line."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.event import (
    Event,
    decode_event,
    differences,
    encode_event,
    event_from_begin,
    with_differences,
)
from paygent.core.usage import Quality

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**63 - 1)
IDS = st.uuids().map(str)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
QUALITIES: st.SearchStrategy[Quality] = st.sampled_from(
    ["exact", "partial", "estimated", "unpriced"]
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw an event: metered with a UUID, or manual with any id."""
    manual = draw(st.booleans())
    return Event(
        event_id=draw(TEXT if manual else IDS),
        user_id=draw(TEXT),
        session_id=draw(TEXT),
        at_us=draw(st.integers(-(2**53), 2**60)),
        model=draw(TEXT),
        model_key=draw(TEXT),
        provider=draw(TEXT),
        plan=draw(TEXT),
        period_start_us=draw(st.integers(-(2**53), 2**60)),
        input_tokens=draw(COUNT),
        output_tokens=draw(COUNT),
        cached_input_tokens=draw(COUNT),
        cache_write_tokens=draw(COUNT),
        reasoning_tokens=draw(COUNT),
        cost_tokens_nano=draw(COUNT),
        cost_tools_nano=draw(COUNT),
        quality=draw(QUALITIES),
        source="manual" if manual else "auto",
        price_id=draw(TEXT),
        latency_ms=draw(COUNT),
        blocked=draw(st.booleans()),
        cost_explicit=draw(st.booleans()),
        tool_calls=draw(st.lists(TEXT, max_size=3).map(tuple)),
        description=draw(st.one_of(st.none(), TEXT)),
        metadata=draw(st.one_of(st.none(), st.dictionaries(TEXT, JSON, min_size=1, max_size=3))),
        details=draw(st.one_of(st.none(), st.dictionaries(TEXT, COUNT, min_size=1, max_size=3))),
        corrects=draw(st.one_of(st.none(), TEXT)),
        restates=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(events())
def test_decode_event__any_event__is_read_back_from_one_line(event: Event) -> None:
    """Quotes, line breaks and any script in any field survive; a record is one line of ASCII."""
    encoded = encode_event(event)
    assert b"\n" not in encoded
    assert encoded.isascii()
    record = json.loads(encoded)
    assert record["k"] == "end"
    assert "ends" not in record
    assert decode_event(record) == event


@settings(max_examples=150, deadline=None)
@given(events(), events(), st.sets(st.sampled_from(Event._fields)))
def test_with_differences__any_two_events__turns_one_into_the_other(
    event: Event, other: Event, changed: set[str]
) -> None:
    """A tail is one line of ASCII, is nothing for equal events, and is applied without loss."""
    event = other._replace(**{name: getattr(event, name) for name in changed})
    tail = differences(event, other)
    assert tail.isascii()
    assert b"\n" not in tail
    assert bool(tail) is (event != other)
    if tail:
        assert with_differences(other, json.loads(tail)) == event


@settings(max_examples=200, deadline=None)
@given(events())
def test_event_from_begin__any_begin__is_the_event_it_expected(event: Event) -> None:
    """A begin record of version 0.1 without an end becomes an event with all of its figures."""
    expected = event._replace(
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        cost_tools_nano=0,
        quality="estimated",
        source="auto",
        latency_ms=0,
        details={"held": 1},
    )
    absent = ("cached", "written", "reasoning", "tools", "quality", "source", "ms", "details")
    record = json.loads(encode_event(event))
    begin = {key: value for key, value in record.items() if key not in absent}
    assert event_from_begin({**begin, "k": "begin"}) == expected
