"""Ledger records as JSON: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.messages import (
    QUARTER_US,
    AssignRecord,
    DefaultPlanRecord,
    GateEvent,
    LedgerRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
    TagKeysRecord,
    UnmeteredCount,
)
from paygent.core.period import Renewal, Subscription
from paygent.core.record_json import KINDS, record_from_json, record_to_json

TIMES = st.integers(0, 253_370_764_800 * 10**6)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255)
DOCUMENTS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)
CALLS = st.integers(1, 10**9)
RENEWALS: st.SearchStrategy[Renewal] = st.sampled_from(get_args(Renewal))


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    """Make billing periods."""
    start_us, end_us = sorted(draw(st.lists(TIMES, min_size=2, max_size=2, unique=True)))
    return Subscription(start_us, end_us, draw(RENEWALS))


RECORDS: st.SearchStrategy[LedgerRecord] = st.one_of(
    st.builds(PlanRecord, NAMES, DOCUMENTS, TIMES),
    st.builds(
        AssignRecord,
        *(NAMES, NAMES, st.none() | DOCUMENTS, st.none() | subscriptions(), TIMES, st.booleans()),
    ),
    st.builds(SessionRecord, NAMES, NAMES, st.booleans(), TIMES, TIMES, TIMES),
    st.builds(PriceRecord, NAMES, DOCUMENTS, TIMES),
    st.builds(DefaultPlanRecord, NAMES, TIMES),
    st.builds(TagKeysRecord, st.lists(NAMES, max_size=5).map(tuple), TIMES),
    st.builds(
        GateEvent,
        *(NAMES.map(lambda name: name[:128]), NAMES, st.just("") | NAMES, TIMES),
        *(st.sampled_from(("soft_gate", "hard_gate")), NAMES, NAMES, st.booleans()),
        *(st.integers(0, 10**9), st.just("0.5"), st.just("10"), NAMES, st.none(), CALLS),
    ),
    st.builds(
        UnmeteredCount,
        NAMES,
        st.integers(0, 10**6).map(lambda number: number * QUARTER_US),
        *(NAMES, st.just("") | NAMES, CALLS),
    ),
)
BAD_NAMES: tuple[Any, ...] = ("", "x" * 256, None, 5, ["pro"])
BAD_TIMES: tuple[Any, ...] = (-1, 1.0, True, "5", None, 1 << 63, 1 << 60)
BAD_KEYS: tuple[Any, ...] = (None, "team", 5, [""], [5], {"team": 1})
TAGS = TagKeysRecord(("team",), 5)
BAD_STATUSES: tuple[Any, ...] = ("ok", None, [])
BAD_METADATA: tuple[Any, ...] = ([], {"k": {"nested": 1}}, {"k": "x" * 1_000})
PLAN = PlanRecord("pro", {"price": 1}, 5)
ASSIGN = AssignRecord("ann", "pro", None, Subscription(1, 2, "month"), 5)
SESSION = SessionRecord("ann", "s1", True, 1, 2)
GATE = GateEvent(
    *("g1", "ann", "", 5, "hard_gate", "total_spend", "gpt-4o", True),
    *(1_000_000, "10.5", "10", "message", {"team": "x"}, 3),
)
UNMETERED = UnmeteredCount("process", QUARTER_US, "openai:POST /videos", "", 3)


@given(RECORDS)
def test_records__any_record__survives_the_round_trip(record: LedgerRecord) -> None:
    """Of its own type, through text."""
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


def test_records__every_kind__has_one_name() -> None:
    """A new kind cannot be written without being read."""
    assert set(KINDS.values()) == set(get_args(LedgerRecord))
    assert len(set(KINDS.values())) == len(KINDS)
    assert record_to_json(DefaultPlanRecord("pro", 5)) == {
        "k": "default_plan",
        "plan": "pro",
        "at_us": 5,
    }


def test_records__fields_of_another_version__are_ignored_or_have_their_default() -> None:
    """A later version may add fields, and an earlier one lacks them."""
    written = record_to_json(SESSION) | {"colour": "red"}
    del written["ended_us"]
    assert record_from_json(written) == SESSION


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        *((PLAN, "name", value) for value in BAD_NAMES),
        (PLAN, "document", None),
        (PLAN, "document", []),
        *((PLAN, "at_us", value) for value in BAD_TIMES),
        (ASSIGN, "own", ""),
        (ASSIGN, "own", []),
        (ASSIGN, "keeps", 0),
        (ASSIGN, "keeps", None),
        (ASSIGN, "user_id", ""),
        (ASSIGN, "subscription", 5),
        (ASSIGN, "subscription", {"start_us": 1}),
        (ASSIGN, "subscription", {"start_us": 1, "end_us": 2, "renews": "year"}),
        (ASSIGN, "subscription", {"start_us": 1, "end_us": 2, "renews": ["auto"]}),
        (ASSIGN, "subscription", {"start_us": -1, "end_us": 2, "renews": "auto"}),
        (ASSIGN, "subscription", {"start_us": 1, "end_us": 1 << 60, "renews": "auto"}),
        (ASSIGN, "subscription", {"start_us": 2, "end_us": 2, "renews": "auto"}),
        (ASSIGN, "subscription", {"start_us": 1, "end_us": 2, "colour": "red"}),
        *((SESSION, "implicit", value) for value in (1, None)),
        *((SESSION, name, -1) for name in ("started_us", "used_us", "ended_us")),
        (SESSION, "session_id", "x" * 256),
        *((TAGS, "keys", value) for value in BAD_KEYS),
        *((GATE, "gate_event_id", value) for value in ("", "x" * 129, None)),
        *((GATE, "status", value) for value in BAD_STATUSES),
        *((GATE, "gate_reason", value) for value in ("x" * 511, None)),
        *((GATE, name, "x" * 256) for name in ("session_id", "model", "user_id")),
        *((GATE, "blocked", value) for value in (1, None)),
        *((GATE, "usage_ppm", value) for value in (-1, 0.5, True)),
        *((GATE, "current_value", value) for value in (5, "", "-1", "1e5", "nan", "1" * 19, "٣")),
        (GATE, "limit_value", "0.0000000001"),
        (GATE, "message", "x" * 2_001),
        *((GATE, "metadata", value) for value in BAD_METADATA),
        *((GATE, "calls", value) for value in (0, 10**9 + 1, 1.0, True)),
        *((UNMETERED, "since_us", value) for value in (*BAD_TIMES, QUARTER_US + 1)),
        *((UNMETERED, "process", value) for value in BAD_NAMES),
        *((UNMETERED, "operation", value) for value in BAD_NAMES),
        *((UNMETERED, "calls", value) for value in (0, -1)),
        (SESSION, "k", "journey"),
        (SESSION, "k", ["session"]),
    ],
)
def test_records__a_field_with_a_wrong_value__is_refused(
    record: LedgerRecord, field: str, value: Any
) -> None:
    """Each field has its rule; what the ledger could not use later is refused at once."""
    written = record_to_json(record)
    assert record_from_json(written) == record
    with pytest.raises((KeyError, TypeError, ValueError)):
        record_from_json(written | {field: value})


@pytest.mark.parametrize("field", ["k", "user_id", "plan", "at_us"])
def test_records__without_a_required_field__is_refused(field: str) -> None:
    """A record is whole or none."""
    written = record_to_json(ASSIGN)
    del written[field]
    with pytest.raises((KeyError, TypeError)):
        record_from_json(written)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELD_NAMES = sorted({name for each in KINDS.values() for name in each._fields})


@given(
    JSON
    | st.fixed_dictionaries(
        {"k": st.sampled_from(sorted(KINDS))},
        optional=dict.fromkeys(FIELD_NAMES, JSON),
    )
)
def test_records__any_json__is_a_record_or_one_of_three_errors(value: Any) -> None:
    """A reader needs to handle the documented errors alone; what is read can be written."""
    try:
        record = record_from_json(value)
    except (KeyError, TypeError, ValueError):
        return
    assert record_from_json(record_to_json(record)) == record
