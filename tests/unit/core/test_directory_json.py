"""Directory records as JSON: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.directory_json import KINDS, directory_from_json, directory_to_json
from paygent.core.messages import (
    AssignRecord,
    DefaultPlanRecord,
    DirectoryRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import Renewal, Subscription

TIMES = st.integers(0, 253_370_764_800 * 10**6)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255)
DOCUMENTS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)
RENEWALS: st.SearchStrategy[Renewal] = st.sampled_from(get_args(Renewal))


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    """Make billing periods."""
    start_us, end_us = sorted(draw(st.lists(TIMES, min_size=2, max_size=2, unique=True)))
    return Subscription(start_us, end_us, draw(RENEWALS))


RECORDS: st.SearchStrategy[DirectoryRecord] = st.one_of(
    st.builds(PlanRecord, NAMES, DOCUMENTS, TIMES),
    st.builds(
        AssignRecord,
        *(NAMES, NAMES, st.none() | DOCUMENTS, st.none() | subscriptions(), TIMES, st.booleans()),
    ),
    st.builds(SessionRecord, NAMES, NAMES, st.booleans(), TIMES, TIMES, TIMES),
    st.builds(PriceRecord, NAMES, DOCUMENTS, TIMES),
    st.builds(DefaultPlanRecord, NAMES, TIMES),
)
BAD_NAMES: tuple[Any, ...] = ("", "x" * 256, None, 5, ["pro"])
BAD_TIMES: tuple[Any, ...] = (-1, 1.0, True, "5", None, 1 << 63, 1 << 60)
PLAN = PlanRecord("pro", {"price": 1}, 5)
ASSIGN = AssignRecord("ann", "pro", None, Subscription(1, 2, "month"), 5)
SESSION = SessionRecord("ann", "s1", True, 1, 2)


@given(RECORDS)
def test_directory__any_record__survives_the_round_trip(record: DirectoryRecord) -> None:
    """Of its own type, through text."""
    assert directory_from_json(json.loads(json.dumps(directory_to_json(record)))) == record


def test_directory__every_kind__has_one_name() -> None:
    """A new kind cannot be written without being read."""
    assert set(KINDS.values()) == set(DirectoryRecord.__args__)
    assert len(set(KINDS.values())) == len(KINDS)
    assert directory_to_json(DefaultPlanRecord("pro", 5)) == {
        "k": "default_plan",
        "plan": "pro",
        "at_us": 5,
    }


def test_directory__fields_of_another_version__are_ignored_or_have_their_default() -> None:
    """A later version may add fields, and an earlier one lacks them."""
    written = directory_to_json(SESSION) | {"colour": "red"}
    del written["ended_us"]
    assert directory_from_json(written) == SESSION


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
        (SESSION, "k", "journey"),
        (SESSION, "k", ["session"]),
    ],
)
def test_directory__a_field_with_a_wrong_value__is_refused(
    record: DirectoryRecord, field: str, value: Any
) -> None:
    """Each field has its rule; what the ledger could not use later is refused at once."""
    written = directory_to_json(record)
    assert directory_from_json(written) == record
    with pytest.raises((KeyError, TypeError, ValueError)):
        directory_from_json(written | {field: value})


@pytest.mark.parametrize("field", ["k", "user_id", "plan", "at_us"])
def test_directory__without_a_required_field__is_refused(field: str) -> None:
    """A record is whole or none."""
    written = directory_to_json(ASSIGN)
    del written[field]
    with pytest.raises((KeyError, TypeError)):
        directory_from_json(written)


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
def test_directory__any_json__is_a_record_or_one_of_three_errors(value: Any) -> None:
    """A reader needs to handle the documented errors alone; what is read can be written."""
    try:
        record = directory_from_json(value)
    except (KeyError, TypeError, ValueError):
        return
    assert directory_from_json(directory_to_json(record)) == record
