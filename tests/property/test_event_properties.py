"""Events, for any text and figures: encoding is lossless and on one line."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.event import (
    Begin,
    Event,
    decode_end,
    encode_begin,
    encode_end,
    encode_void,
    event_from_begin,
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
def test_decode_end__any_event__is_read_back_from_one_line(event: Event) -> None:
    """Quotes, line breaks and any script in any field survive; a record is one line of ASCII."""
    encoded = encode_end(event)
    assert b"\n" not in encoded
    assert encoded.isascii()
    record = json.loads(encoded)
    assert record["k"] == "end"
    assert "ends" not in record
    assert decode_end(record) == event
    other = json.loads(encode_end(event, ends="0198-begun"))
    assert other == {**record, "ends": "0198-begun"}


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Begin,
        IDS,
        *[TEXT] * 2,
        st.integers(-(2**53), 2**60),
        *[TEXT] * 4,
        *[COUNT] * 4,
        TEXT,
        st.one_of(st.just(""), st.dictionaries(TEXT, JSON, max_size=3).map(json.dumps)),
    )
)
def test_event_from_begin__any_begin__is_the_event_it_expected(begin: Begin) -> None:
    """A begin record without an end becomes an event with all of its figures."""
    record = json.loads(encode_begin(begin))
    event = event_from_begin(record)
    assert record["k"] == "begin"
    assert event[:9] == begin[:9]
    assert (event.input_tokens, event.output_tokens) == begin[9:11]
    assert (event.cost_nano, event.price_id) == (begin.expected_cost_nano, begin.price_id)
    assert event.quality == "estimated"
    written = json.loads(begin.metadata_json) if begin.metadata_json else None
    assert event.metadata == written
    assert decode_end(json.loads(encode_end(event)))[:20] == event[:20]


@settings(max_examples=50, deadline=None)
@given(IDS)
def test_encode_void__any_id_of_ours__is_read_back(event_id: str) -> None:
    """A void record names its call."""
    assert json.loads(encode_void(event_id)) == {"k": "void", "id": event_id}
