"""Events: begin, end and void records, decoding them, and the event of a lost call."""

from __future__ import annotations

import json
from typing import Any

import pytest

import paygent.core.event as event_module
from paygent.core.event import (
    HELD,
    Begin,
    Event,
    decode_end,
    encode_begin,
    encode_end,
    encode_void,
    event_from_begin,
)

BEGIN = Begin(
    event_id="0198-a",
    user_id='u"1',
    session_id="s\n1",
    at_us=1_735_689_600_000_001,
    model="gpt-4o-2024-08-06",
    model_key="gpt-4o",
    provider="openai",
    plan="pro",
    period_start_us=1_735_689_600_000_000,
    expected_input_tokens=120,
    expected_output_tokens=4916,
    expected_cost_nano=49_460_000,
    price_id="catalogue:openai/gpt-4o@2025-01-01",
    metadata_json="",
)
EVENT = Event(
    event_id="0198-a",
    user_id='u"1',
    session_id="s\n1",
    at_us=1_735_689_600_000_001,
    model="gpt-4o-2024-08-06",
    model_key="gpt-4o",
    provider="openai",
    plan="pro",
    period_start_us=1_735_689_600_000_000,
    input_tokens=1000,
    output_tokens=500,
    cached_input_tokens=400,
    cache_write_tokens=30,
    reasoning_tokens=200,
    cost_tokens_nano=7_000_000,
    cost_tools_nano=20_000_000,
    quality="partial",
    source="auto",
    price_id="catalogue:openai/gpt-4o@2025-01-01",
    latency_ms=812,
)


def test_event__totals__are_sums_of_two() -> None:
    """An event costs its tokens and its tools, and counts its input and output."""
    assert (EVENT.cost_nano, EVENT.total_tokens) == (27_000_000, 1500)


def test_encode_begin__a_begin__is_one_json_object() -> None:
    """A begin record names the call, its windows and its hold."""
    assert json.loads(encode_begin(BEGIN)) == {
        "k": "begin",
        "id": "0198-a",
        "user": 'u"1',
        "session": "s\n1",
        "at": 1_735_689_600_000_001,
        "model": "gpt-4o-2024-08-06",
        "key": "gpt-4o",
        "provider": "openai",
        "plan": "pro",
        "period": 1_735_689_600_000_000,
        "in": 120,
        "out": 4916,
        "cost": 49_460_000,
        "price": "catalogue:openai/gpt-4o@2025-01-01",
    }


def test_encode_begin__metadata__is_carried() -> None:
    """Metadata that is JSON already is embedded unchanged."""
    record = json.loads(encode_begin(BEGIN._replace(metadata_json='{"team": "é"}')))
    assert record["meta"] == {"team": "é"}


def test_encode_end__an_event__has_every_field_and_no_line_break() -> None:
    """An end record is one line of JSON with each field under its own name."""
    encoded = encode_end(EVENT)
    assert b"\n" not in encoded
    assert json.loads(encoded) == {
        "k": "end",
        "id": "0198-a",
        "user": 'u"1',
        "session": "s\n1",
        "at": 1_735_689_600_000_001,
        "model": "gpt-4o-2024-08-06",
        "key": "gpt-4o",
        "provider": "openai",
        "plan": "pro",
        "period": 1_735_689_600_000_000,
        "in": 1000,
        "out": 500,
        "cached": 400,
        "written": 30,
        "reasoning": 200,
        "cost": 7_000_000,
        "tools": 20_000_000,
        "quality": "partial",
        "source": "auto",
        "price": "catalogue:openai/gpt-4o@2025-01-01",
        "ms": 812,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blocked": True},
        {"cost_explicit": True},
        {"tool_calls": ("search", 'q"')},
        {"description": ""},
        {"description": "line\nbreak \u2028 \ud800"},
        {"metadata": {"team": "é", "nested": [1, {"a": None}]}},
        {"details": {"web_search": 2, "audio_input": 7}},
        {
            "blocked": True,
            "cost_explicit": True,
            "tool_calls": ("a", "a"),
            "description": "d",
            "metadata": {"k": "v"},
            "details": {"image_input": 1},
        },
        {"source": "manual", "event_id": 'my "own"\\id\n'},
        {"user_id": "日本\x00\x7f", "session_id": "", "model": "", "provider": ""},
        {"at_us": -1, "cost_tokens_nano": 10**15, "quality": "unpriced"},
    ],
)
def test_decode_end__what_encode_end_wrote__is_the_same_event(changes: dict[str, Any]) -> None:
    """An event is decoded as it was encoded, rare fields and unusual characters included."""
    event = EVENT._replace(**changes)
    assert decode_end(json.loads(encode_end(event))) == event


@pytest.mark.parametrize("missing", sorted(json.loads(encode_end(EVENT)).keys() - {"k"}))
def test_decode_end__a_field_is_missing__is_a_key_error(missing: str) -> None:
    """Only rare fields of an end record are optional."""
    record = json.loads(encode_end(EVENT))
    del record[missing]
    with pytest.raises(KeyError, match=missing):
        decode_end(record)


@pytest.mark.parametrize("wrong", [None, [], "many", float("nan")])
@pytest.mark.parametrize("name", ["at", "in", "cost", "ms"])
def test_decode_end__a_count_that_is_none__is_a_documented_error(name: str, wrong: Any) -> None:
    """A foreign record raises the documented errors, nothing else."""
    record = {**json.loads(encode_end(EVENT)), name: wrong}
    with pytest.raises((TypeError, ValueError)):
        decode_end(record)


def test_fields__the_table__names_every_field_once_and_in_order() -> None:
    """A field that the table of records lacks, or a key that two fields share, would be lost."""
    assert tuple(event_module._FIELDS) == Event._fields
    keys = [field.key for field in event_module._FIELDS.values()]
    assert len(set(keys)) == len(keys)
    assert "k" not in keys
    assert "ends" not in keys


def test_fields__all_but_rare_ones__are_written_always() -> None:
    """A rare field needs a default; every other one is in each end record."""
    rare = {name for name, field in event_module._FIELDS.items() if not field.form}
    assert rare <= Event._field_defaults.keys()
    written = json.loads(encode_end(EVENT)).keys() - {"k"}
    fields = event_module._FIELDS
    assert written == {fields[name].key for name in fields.keys() - rare}


def test_encode_end__empty_metadata__is_left_out() -> None:
    """No metadata and empty metadata are the same."""
    assert encode_end(EVENT._replace(metadata={}, details={})) == encode_end(EVENT)


def test_encode_void__a_call_that_spent_nothing__is_its_id() -> None:
    """A void record is the event's id."""
    assert json.loads(encode_void("0198-a")) == {"k": "void", "id": "0198-a"}


@pytest.mark.parametrize(("metadata_json", "metadata"), [("", None), ('{"a":1}', {"a": 1})])
def test_event_from_begin__a_begin_without_an_end__books_its_estimate(
    metadata_json: str, metadata: dict[str, int] | None
) -> None:
    """A call that never ended is booked with its expected usage."""
    record = json.loads(encode_begin(BEGIN._replace(metadata_json=metadata_json)))
    assert event_from_begin(record) == Event(
        event_id="0198-a",
        user_id='u"1',
        session_id="s\n1",
        at_us=1_735_689_600_000_001,
        model="gpt-4o-2024-08-06",
        model_key="gpt-4o",
        provider="openai",
        plan="pro",
        period_start_us=1_735_689_600_000_000,
        input_tokens=120,
        output_tokens=4916,
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        cost_tokens_nano=49_460_000,
        cost_tools_nano=0,
        quality="estimated",
        source="auto",
        price_id="catalogue:openai/gpt-4o@2025-01-01",
        latency_ms=0,
        metadata=metadata,
        details={HELD: 1},
    )


def test_event_from_begin__a_field_is_missing__is_a_key_error() -> None:
    """A record that is not a begin record is rejected."""
    record = json.loads(encode_begin(BEGIN))
    del record["price"]
    with pytest.raises(KeyError, match="price"):
        event_from_begin(record)
