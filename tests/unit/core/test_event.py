"""Events: their records, what two of them differ in, and begin records of version 0.1."""

from __future__ import annotations

import json
from typing import Any

import pytest

import paygent.core.event as event_module
from paygent.core.event import (
    HELD,
    Event,
    decode_event,
    difference,
    differences,
    encode_event,
    event_from_begin,
    with_differences,
)

BEGIN: dict[str, Any] = {
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


def test_encode_event__an_event__has_every_field_and_no_line_break() -> None:
    """An end record is one line of JSON with each field under its own name."""
    encoded = encode_event(EVENT)
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
def test_decode_event__what_encode_event_wrote__is_the_same_event(changes: dict[str, Any]) -> None:
    """An event is decoded as it was encoded, rare fields and unusual characters included."""
    event = EVENT._replace(**changes)
    assert decode_event(json.loads(encode_event(event))) == event


@pytest.mark.parametrize("missing", sorted(json.loads(encode_event(EVENT)).keys() - {"k"}))
def test_decode_event__a_field_is_missing__is_a_key_error(missing: str) -> None:
    """Only rare fields of an end record are optional."""
    record = json.loads(encode_event(EVENT))
    del record[missing]
    with pytest.raises(KeyError, match=missing):
        decode_event(record)


@pytest.mark.parametrize("wrong", [None, [], "many", float("nan")])
@pytest.mark.parametrize("name", ["at", "in", "cost", "ms"])
def test_decode_event__a_count_that_is_none__is_a_documented_error(name: str, wrong: Any) -> None:
    """A foreign record raises the documented errors, nothing else."""
    record = {**json.loads(encode_event(EVENT)), name: wrong}
    with pytest.raises((TypeError, ValueError)):
        decode_event(record)


def test_fields__the_table__names_every_field_once_and_in_order() -> None:
    """A field that the table of records lacks, or a key that two fields share, would be lost."""
    assert tuple(event_module._FIELDS) == Event._fields
    keys = [field.key for field in event_module._FIELDS.values()]
    assert len(set(keys)) == len(keys)
    assert "k" not in keys
    assert "ends" not in keys


def test_fields__all_but_rare_ones__are_written_always() -> None:
    """A rare field needs a default; every other one is in each end record."""
    rare = {name for name, field in event_module._FIELDS.items() if field.is_rare}
    assert rare <= Event._field_defaults.keys()
    written = json.loads(encode_event(EVENT)).keys() - {"k"}
    fields = event_module._FIELDS
    assert written == {fields[name].key for name in fields.keys() - rare}


def test_encode_event__empty_metadata__is_left_out() -> None:
    """No metadata and empty metadata are the same."""
    assert encode_event(EVENT._replace(metadata={}, details={})) == encode_event(EVENT)


@pytest.mark.parametrize("metadata", [None, {"a": 1}])
def test_event_from_begin__a_begin_without_an_end__books_its_estimate(
    metadata: dict[str, int] | None,
) -> None:
    """A call that never ended is booked with its expected usage."""
    record = BEGIN if metadata is None else {**BEGIN, "meta": metadata}
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
    record = {key: value for key, value in BEGIN.items() if key != "price"}
    with pytest.raises(KeyError, match="price"):
        event_from_begin(record)


# -- what two events differ in


@pytest.mark.parametrize("name", Event._fields)
def test_differences__one_field__is_that_field_alone(name: str) -> None:
    """The tail of a record has what the record itself does not say, and nothing else."""
    others: dict[str, Any] = {
        "quality": "estimated",
        "source": "manual",
        "blocked": True,
        "cost_explicit": True,
        "tool_calls": ("search",),
        "metadata": {"team": "é"},
        "details": {"web_search": 2},
        "restates": True,
    }
    value = getattr(EVENT, name)
    given = others.get(name, value + 1 if isinstance(value, int) else "other")
    event = EVENT._replace(**{name: given})
    tail = json.loads(differences(event, EVENT))
    assert tail.keys() == {event_module._FIELDS[name].key}
    assert with_differences(EVENT, tail) == event
    # And back: what has gone is a difference too.
    back = json.loads(differences(EVENT, event))
    assert with_differences(event, back) == EVENT


def test_differences__none__is_nothing() -> None:
    """A record without a tail costs nothing; no metadata and empty metadata are the same."""
    assert differences(EVENT, EVENT) == b""
    assert differences(EVENT._replace(metadata={}, details={}), EVENT) == b""
    assert differences(EVENT, EVENT._replace(metadata={}, tool_calls=())) == b""


def test_with_differences__a_key_of_a_later_version__is_ignored() -> None:
    """An older reader makes what it can of a newer record."""
    assert with_differences(EVENT, {"ms": 5, "field_of_tomorrow": 1}) == EVENT._replace(
        latency_ms=5
    )


@pytest.mark.parametrize("wrong", [[], "many", float("nan")])
@pytest.mark.parametrize("key", ["at", "in", "cost", "ms"])
def test_with_differences__a_count_that_is_none__is_a_documented_error(
    key: str, wrong: Any
) -> None:
    """A foreign tail raises the documented errors, nothing else."""
    with pytest.raises((TypeError, ValueError)):
        with_differences(EVENT, {key: wrong})


def test_difference__a_whole_and_its_original__corrects_what_was_booked() -> None:
    """Counts and costs are signed differences; everything else is the whole's."""
    whole = EVENT._replace(event_id="new", input_tokens=900, cost_tokens_nano=8_000_000)
    correction = difference(whole, EVENT)
    assert (correction.corrects, correction.event_id, correction.calls) == ("0198-a", "new", 0)
    assert (correction.input_tokens, correction.output_tokens) == (-100, 0)
    assert (correction.cost_nano, correction.cached_input_tokens) == (1_000_000, 0)
