"""Usage events as documented JSON: exact, complete errors, one meaning on both paths."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core import event_json
from paygent.core.event import Event
from paygent.core.event_json import (
    CLAMPED,
    bounded_metadata,
    event_to_json,
    read_events,
    read_time,
)
from paygent.core.period import to_us
from paygent.core.validation import FieldError, InvalidValue, ValidationErrors

NOW_US = to_us(datetime(2026, 11, 20, 12, tzinfo=timezone.utc))


def canonical(model: str) -> str:
    """Return a name that shows that it was asked for."""
    return f"<{model}>"


def sent(**fields: Any) -> dict[str, Any]:
    """Return an event as an application sends it."""
    return {
        "id": "e1",
        "user_id": "u1",
        "session_id": "s1",
        "timestamp": "2026-11-20T10:00:00.123456+00:00",
        "model": "gpt-4o",
        "input_tokens": 1_000,
        "output_tokens": 500,
        "total_tokens": 1_500,
        "tool_calls": [],
        "cost_tokens": 0.1,
        "cost_tools": 0.0,
        "cost_total": 0.1,
        "metadata": {},
        "source": "auto",
        "description": None,
        "cost_explicit": False,
        "synced": False,
        **fields,
    }


def read(**fields: Any) -> Event:
    """Read one event."""
    (event,) = read_events([sent(**fields)], NOW_US, canonical)
    return event


def broken(*items: Any) -> list[str]:
    """Return the fields that are refused."""
    with pytest.raises(InvalidValue) as refused:
        read_events(list(items), NOW_US, canonical)
    return [finding.field for finding in refused.value.findings]


def test_read_events__as_documented__is_exact() -> None:
    """Every documented field arrives; plan and period are the ledger's."""
    assert read() == Event(
        event_id="e1",
        user_id="u1",
        session_id="s1",
        at_us=to_us(datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=timezone.utc)),
        model="gpt-4o",
        model_key="<gpt-4o>",
        provider="",
        plan="",
        period_start_us=0,
        input_tokens=1_000,
        output_tokens=500,
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        cost_tokens_nano=100_000_000,
        cost_tools_nano=0,
    )


def test_read_events__the_three_required_fields__are_enough() -> None:
    """An event may have an id, a user and a time alone."""
    given_item = {"id": "e1", "user_id": "u1", "timestamp": "2026-11-20T10:00:00Z"}
    (event,) = read_events([given_item], NOW_US, canonical)
    assert (event.cost_nano, event.model_key, event.quality) == (0, "", "exact")


AMOUNTS_NANO = st.integers(0, 10**15 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.0, 0.5, 1e-10, 10**13, "", "x", "x" * 300, "exact", "manual",
    [], ["a"], {}, {"a": 1}, {"a": "b"}, {"a": "x" * 1_000}, {"a": "\U0001f600" * 90},
    {"a": "é" * 300}, {str(n): "" for n in range(17)},
)  # fmt: skip
FIELDS = (
    *sent(), "blocked", "quality", "price_id", "latency_ms", "provider", "corrects",
    "reasoning_tokens", "cache_write_tokens", "cached_input_tokens", "cost_tokens_nano",
    "cost_tools_nano", "model_key", "details", "restates",
)  # fmt: skip


def read_both(item: dict[str, Any]) -> tuple[Event | None, Event, list[FieldError]]:
    """Return an event as the fast path reads it, as the whole rules do, and their errors."""
    try:
        fast = event_json._read_plain(item, canonical)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        fast = None
    errors = ValidationErrors("events")
    whole = event_json._Reader(item, "e", errors).read(canonical)
    return fast, whole, errors.found


@pytest.mark.parametrize("field", FIELDS)
def test_fast_path__any_value_of_a_field__is_read_as_by_the_whole_rules(field: str) -> None:
    """The fast path accepts nothing that a rule forbids, and gives nothing another meaning."""
    for value in VALUES:
        fast, whole, found = read_both(sent(**{field: value}))
        if fast is not None:
            assert (fast, found) == (whole, []), value


@given(AMOUNTS_NANO, AMOUNTS_NANO)
def test_fast_path__any_amounts__are_exact(tokens_nano: int, tools_nano: int) -> None:
    """Doubles of amounts up to a million dollars stand for each nano-dollar."""
    fast, whole, found = read_both(
        sent(
            cost_tokens=tokens_nano / 1e9,
            cost_tools=tools_nano / 1e9,
            cost_total=(tokens_nano + tools_nano) / 1e9,
        )
    )
    assert (whole.cost_tokens_nano, whole.cost_tools_nano) == (tokens_nano, tools_nano)
    if tokens_nano + tools_nano < 10**15:
        assert fast is not None, "an ordinary event takes the fast path"
        assert (fast, found) == (whole, [])
    else:
        assert fast is None


@given(st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1)))
def test_read_events__any_time__is_exact_to_the_microsecond(moment: datetime) -> None:
    """Times are read exactly on both paths."""
    aware = moment.replace(tzinfo=timezone.utc)
    expected = to_us(aware)
    errors = ValidationErrors("events")
    item = sent(timestamp=aware.isoformat())
    assert event_json._Reader(item, "e", errors).read(canonical).at_us == expected
    fast = event_json._read_plain(item, canonical)
    assert fast is None or fast.at_us == expected


def test_read_events__of_a_process__keep_what_it_knows_better() -> None:
    """The name by which its plan counts the model, rare counts, and what a correction means."""
    assert read(model_key="my-model").model_key == "my-model"
    assert read(model_key="").model_key == "<gpt-4o>"
    assert read(details={"image_tokens": 3, "searches": -1}).details == {
        "image_tokens": 3,
        "searches": -1,
    }
    assert read(details={}).details is None
    assert read(corrects="e0", restates=True).restates
    assert not read(corrects="e0").restates


@pytest.mark.parametrize(
    "details",
    [
        *(5, [], "x", {"a": 1.0}, {"a": True}, {"a": None}, {"a": 10**12 + 1}, {"a": -(10**13)}),
        *({"x" * 256: 1}, {str(number): 1 for number in range(33)}),
    ],
)
def test_read_events__details_that_are_no_counts__are_refused(details: Any) -> None:
    """At most 32 names, with counts that a table can hold."""
    assert broken(sent(details=details)) == ["events[0].details"]


def test_event_to_json__what_a_process_knows__is_read_back() -> None:
    """All of it, and nothing of it where there is none."""
    event = read(model_key="my-model", details={"searches": 2}, corrects="e0", restates=True)
    assert read_events([event_to_json(event)], NOW_US, canonical) == (event,)
    plain = event_to_json(read(model=None))
    assert plain.keys().isdisjoint({"model_key", "details", "restates"})


def test_read_events__every_broken_field_of_every_event__is_named() -> None:
    """All errors at once, each with its event's number."""
    assert broken(
        sent(id="", timestamp="yesterday"),
        7,
        sent(),
        sent(user_id=None, input_tokens=-1, cost_tokens="1", quality="good", blocked=1),
    ) == [
        "events[0].id",
        "events[0].timestamp",
        "events[1]",
        "events[3].input_tokens",
        "events[3].total_tokens",
        "events[3].cost_tokens",
        "events[3].user_id",
        "events[3].quality",
        "events[3].blocked",
    ]


def test_read_events__no_list_or_too_long__is_refused() -> None:
    """A batch is a list of at most 1,000 events."""
    values: tuple[Any, ...] = ({"events": []}, None, "x", [sent()] * 1_001)
    for given_value in values:
        with pytest.raises(InvalidValue, match="events"):
            read_events(given_value, NOW_US, canonical)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({"cost_tokens": 0.1, "cost_tools": 0.2, "cost_total": 0.1 + 0.2}, (10**8, 2 * 10**8)),
        ({"cost_tokens": 0, "cost_tools": 0, "cost_total": 0.5}, (5 * 10**8, 0)),
        ({"cost_tokens": None, "cost_tools": 0.2, "cost_total": 0.5}, (3 * 10**8, 2 * 10**8)),
        ({"cost_tokens": 1e-9, "cost_tools": None, "cost_total": None}, (1, 0)),
        ({"cost_tokens": 5e-10, "cost_tools": None, "cost_total": None}, (0, 0)),
        ({"cost_tokens": 1.5e-9, "cost_tools": None, "cost_total": None}, (2, 0)),
        ({"cost_tokens": 999_999.999999999, "cost_total": 999_999.999999999}, (10**15 - 1, 0)),
        ({"cost_tokens": 0.3, "cost_total": 0.1, "cost_tokens_nano": 10**8}, (10**8, 0)),
        # In doubles, 7.5e-9 · 10⁹ is below 7.5; half to even it is 8.
        ({"cost_tokens": 7.5e-9, "cost_total": 7e-9}, (8, 0)),
    ],
)  # fmt: skip
def test_read_events__costs__are_read_through_their_shortest_decimal(
    costs: dict[str, Any], expected: tuple[int, int]
) -> None:
    """A float is its shortest decimal, rounded half to even; an exact twin wins."""
    event = read(**costs)
    assert (event.cost_tokens_nano, event.cost_tools_nano) == expected


@pytest.mark.parametrize(
    "costs",
    [
        {"cost_total": 0.2},
        {"cost_tokens": -0.1, "cost_total": -0.1},
        {"cost_tokens": 1e6 + 1, "cost_total": 1e6 + 1},
        {"cost_tokens": float("nan")},
        {"cost_tokens": float("inf"), "cost_total": float("inf")},
        {"cost_tokens": True, "cost_total": 1},
        {"cost_tokens_nano": 0.5},
    ],
)
def test_read_events__impossible_costs__are_refused(costs: dict[str, Any]) -> None:
    """Sums that do not add up, and amounts out of range, are errors."""
    assert broken(sent(**costs))


def test_read_events__tokens_without_any_cost__are_unpriced() -> None:
    """$0 is never assumed in silence."""
    event = read(cost_tokens=None, cost_tools=None, cost_total=None)
    assert (event.quality, event.cost_nano) == ("unpriced", 0)


def test_read_events__correction__may_be_negative() -> None:
    """A correction has signed differences; nothing else has."""
    amounts = {"input_tokens": -5, "output_tokens": 0, "total_tokens": -5}
    costs = {"cost_tokens": -0.01, "cost_total": -0.01}
    event = read(corrects="e0", **amounts, **costs)
    assert (event.corrects, event.input_tokens, event.cost_tokens_nano) == ("e0", -5, -(10**7))
    assert broken(sent(**amounts, **costs))


def test_read_events__total_tokens_alone__count_as_input() -> None:
    """A sender that knows the sum alone loses nothing."""
    event = read(input_tokens=0, output_tokens=0, total_tokens=70)
    assert event.total_tokens == 70


def test_read_events__five_minutes_ahead__is_now_and_marked() -> None:
    """A clock that is ahead does not book into the future."""
    within, beyond = "2026-11-20T12:05:00Z", "2026-11-20T12:05:00.000001Z"
    assert read(timestamp=within).details is None
    event = read(timestamp=beyond)
    assert (event.at_us, event.details) == (NOW_US, {CLAMPED: 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T12:00:00Z", NOW_US),
        ("2026-11-20T12:00:00z", NOW_US),
        ("2026-11-20T13:00:00+01:00", NOW_US),
        ("2026-11-20 12:00:00+00:00", NOW_US),
        ("2026-11-20T12:00:00.5Z", NOW_US + 500_000),
        ("2026-11-20T12:00:00.123456789Z", NOW_US + 123_456),
        ("2026-11-20T12:00:00", None),
        ("2026-11-20", None),
        ("1969-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("soon" * 30, None),
        ("", None),
        (1_795_000_000, None),
        (None, None),
    ],
)
def test_read_time__times_with_a_zone__are_exact(text: Any, expected: int | None) -> None:
    """A time needs a zone; Z and any number of digits are read."""
    assert read_time(text) == expected


def test_bounded_metadata__excess__is_dropped_as_by_the_sdk() -> None:
    """At most 16 keys and 1 kB; what is no plain value is its JSON."""
    many = {str(number): number for number in range(20)}
    assert bounded_metadata(many) == {str(number): number for number in range(16)}
    assert bounded_metadata({"a": "x" * 1_100, "b": 1}) is None
    assert bounded_metadata({"a": [1, None], "b": Decimal("0.5"), "c": 1.5}) == {
        "a": "[1, null]",
        "b": 0.5,
        "c": 1.5,
    }
    assert bounded_metadata({}) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata", "x"),
        ("tool_calls", "search"),
        ("tool_calls", [1]),
        ("description", 3),
        ("latency_ms", -1),
        ("input_tokens", True),
        ("source", "by hand"),
        ("provider", "x" * 256),
        ("id", "x" * 129),
        ("session_id", 7),
    ],
)
def test_read_events__value_of_another_type__names_the_field(field: str, value: Any) -> None:
    """Each field has its rule."""
    assert f"events[0].{field}" in broken(sent(**{field: value}))


def test_read_events__rare_fields__arrive() -> None:
    """What ordinary calls do not have is read by the whole rules."""
    event = read(
        blocked=True, cost_explicit=True, tool_calls=["search"], description="x" * 3_000,
        latency_ms=12, price_id="p1", quality="estimated", source="manual", metadata={"a": 1},
        reasoning_tokens=4, cached_input_tokens=3, cache_write_tokens=2, provider="openai",
        unknown_field=1,
    )  # fmt: skip
    assert (event.blocked, event.cost_explicit, event.tool_calls) == (True, True, ("search",))
    assert (event.quality, event.source, event.latency_ms) == ("estimated", "manual", 12)
    assert (event.price_id, event.metadata, event.provider) == ("p1", {"a": 1}, "openai")
    assert event.description == "x" * 2_000
    counts = (event.reasoning_tokens, event.cached_input_tokens, event.cache_write_tokens)
    assert counts == (4, 3, 2)


def test_event_to_json__read_again__is_the_same_event() -> None:
    """What is written is read back without loss."""
    event = read(cost_tokens=0.123456789, cost_total=0.123456789, metadata={"a": "b"}, blocked=True)
    written = json.loads(json.dumps(event_to_json(event)))
    assert read_events([written], NOW_US, canonical) == (event,)
