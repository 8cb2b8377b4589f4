"""The state of a page: read from an address, written back into links, and refused by name."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.period import start_of_day
from paygent.core.validation import NAME_CHARS_MAX, InvalidValue
from paygent.server.dashboard.state import (
    FILTERS,
    GROUPS,
    NONE_TEXT,
    RANGE_NAMES,
    PageState,
    default_state,
    read_state,
)

ZONES = ("UTC", "America/New_York", "Asia/Kolkata")
NOW_US = start_of_day(date(2026, 10, 3), "UTC") + 12 * 3_600 * 10**6


def state_of(**query: str) -> PageState:
    """Return the state of an address; `from_` is `from`."""
    return read_state({name.rstrip("_"): value for name, value in query.items()}, "UTC", NOW_US)


def refused(**query: str) -> dict[str, str]:
    """Return the values of an address that are refused, each with the rule."""
    with pytest.raises(InvalidValue) as caught:
        state_of(**query)
    return {each.field: each.rule for each in caught.value.findings}


def span(state: PageState) -> tuple[str, str]:
    """Return the days of a state, the first and the first one after it."""
    return state.start.isoformat(), state.end.isoformat()


# -- ranges


@pytest.mark.parametrize(
    ("query", "expected", "words"),
    [
        ({}, ("2026-10-01", "2026-11-01"), "October 2026"),
        ({"range": "month"}, ("2026-10-01", "2026-11-01"), "October 2026"),
        ({"range": "previous"}, ("2026-09-01", "2026-10-01"), "September 2026"),
        ({"range": "7d"}, ("2026-09-27", "2026-10-04"), "Last 7 days"),
        ({"range": "30d"}, ("2026-09-04", "2026-10-04"), "Last 30 days"),
        ({"range": "90d"}, ("2026-07-06", "2026-10-04"), "Last 90 days"),
        (
            {"from_": "2026-02-27", "to": "2026-03-02"},
            ("2026-02-27", "2026-03-02"),
            "2026-02-27 to 2026-03-01",
        ),
        ({"range": "custom"}, ("2026-10-01", "2026-11-01"), "October 2026"),
        # The form sends the days of the range that was shown beside the name that was chosen.
        (
            {"range": "7d", "from_": "2026-10-01", "to": "2026-11-01"},
            ("2026-09-27", "2026-10-04"),
            "Last 7 days",
        ),
    ],
)
def test_read_state__a_range__has_its_days_and_words(
    query: dict[str, str], expected: tuple[str, str], words: str
) -> None:
    """Ranges of days end with today; a month is whole, and the days of a form count if custom."""
    state = state_of(**query)
    assert (span(state), state.in_words) == (expected, words)
    assert state.days == (state.end - state.start).days
    assert state.last_day == state.end - timedelta(days=1)


def test_read_state__the_day__is_that_of_the_zone() -> None:
    """At the turn of a month, zones are in different months."""
    new_year_us = start_of_day(date(2026, 1, 1), "UTC")
    assert default_state("UTC", new_year_us).in_words == "January 2026"
    west = default_state("America/New_York", new_year_us)
    assert (west.in_words, west.today, span(west)[1]) == (
        "December 2025",
        date(2025, 12, 31),
        "2026-01-01",
    )
    assert west.previous().start == date(2025, 11, 1)


def test_is_running__today_in_the_range__is_true() -> None:
    """The first day after the range is not in it."""
    assert state_of().is_running
    assert not state_of(range="previous").is_running
    assert state_of(from_="2026-10-03", to="2026-10-04").is_running
    assert not state_of(from_="2026-10-01", to="2026-10-03").is_running
    assert not state_of(from_="2026-10-04", to="2026-10-05").is_running


# -- the range before


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ("2026-09-01", "2026-10-01")),
        ({"from_": "2026-03-01", "to": "2026-04-01"}, ("2026-02-01", "2026-03-01")),
        ({"from_": "2026-01-01", "to": "2026-02-01"}, ("2025-12-01", "2026-01-01")),
        ({"from_": "2026-03-01", "to": "2026-03-31"}, ("2026-01-30", "2026-03-01")),
        ({"from_": "2026-03-02", "to": "2026-04-02"}, ("2026-01-30", "2026-03-02")),
        ({"range": "7d"}, ("2026-09-20", "2026-09-27")),
        ({"from_": "1971-01-02", "to": "1972-12-31"}, ("1970-01-01", "1971-01-02")),
    ],
)
def test_previous__a_range__is_the_month_or_as_many_days_before(
    query: dict[str, str], expected: tuple[str, str]
) -> None:
    """It ends where the range begins, keeps filters and grouping, and compares with nothing."""
    state = state_of(compare="previous", model="m", group="plan", **query)
    before = state.previous()
    assert span(before) == expected
    assert not before.compares
    assert (before.where, before.group, before.today) == (state.where, state.group, state.today)


def test_previous__of_the_first_day_that_is_allowed__has_days() -> None:
    """An empty range would be refused by reports."""
    assert span(state_of(from_="1971-01-01", to="1980-01-01").previous()) == (
        "1970-01-01",
        "1971-01-01",
    )


# -- links


DAYS = st.dates(date(1971, 1, 1), date(9_980, 12, 31))
VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=NAME_CHARS_MAX
).filter(lambda value: value != NONE_TEXT)


@st.composite
def queries(draw: st.DrawFn) -> dict[str, str]:
    """Draw the values of an address that are all valid."""
    query = draw(
        st.fixed_dictionaries(
            {},
            optional={
                **{name: VALUES | st.just(NONE_TEXT) for name in FILTERS},
                "compare": st.sampled_from(["", "previous"]),
                "group": st.sampled_from(GROUPS),
                "range": st.sampled_from([*RANGE_NAMES, "custom"]),
            },
        )
    )
    if draw(st.booleans()):
        start = draw(DAYS)
        query["from"] = start.isoformat()
        query["to"] = (start + timedelta(draw(st.integers(1, 3_600)))).isoformat()
    return query


@given(queries(), st.sampled_from(ZONES), st.integers(NOW_US - 10**15, NOW_US + 10**15))
def test_link__any_state__is_read_back(query: dict[str, str], zone: str, now_us: int) -> None:
    """A page whose address was copied shows the same."""
    state = read_state(query, zone, now_us)
    address = urlsplit(state.link("/users", sort="-cost", cursor=None))
    assert address.path == "/users"
    values = dict(parse_qsl(address.query, keep_blank_values=True, strict_parsing=True))
    assert values.pop("sort") == "-cost"
    assert read_state(values, zone, now_us) == state
    assert state.values() == values


@given(queries())
def test_previous__any_state__has_days_that_end_where_the_range_begins(
    query: dict[str, str],
) -> None:
    """Every range can be compared."""
    state = read_state(query, "UTC", NOW_US)
    before = state.previous()
    assert before.start < before.end == state.start
    assert before.start >= date(1970, 1, 1)


def test_link__defaults__are_left_out() -> None:
    """The address of a page as it is shown first has no query."""
    assert default_state("UTC", NOW_US).link("/plans") == "/plans"
    assert state_of(range="month", group="model", compare="", plan="").link("/") == "/"


def test_link__a_call_without_a_key__has_a_value_in_the_address() -> None:
    """An empty value is no filter, so an absent one needs a name."""
    state = state_of(model=NONE_TEXT)
    assert state.where == {"model": ""}
    assert state.link("/") == "/?model=%28none%29"


def test_link__further_values__replace_and_remove_those_of_the_state() -> None:
    """None takes one out; a named range takes the place of days; an underscore is dropped."""
    state = state_of(from_="2026-02-01", to="2026-02-02", model="m", plan="a b&c")
    assert state.link("/", model=None) == "/?from=2026-02-01&to=2026-02-02&plan=a+b%26c"
    assert state.link("/", plan=None, model="x", id=7) == (
        "/?from=2026-02-01&to=2026-02-02&model=x&id=7"
    )
    assert state.link("/", plan=None, model=None, range="7d") == "/?range=7d"
    assert state.link("/", plan=None, model=None, range=None) == "/"
    assert state_of(range="7d").link("/", range=None) == "/"
    assert state_of().link("/", id_="x") == "/?id=x"


def test_report__a_range__has_its_days_and_the_other_arguments() -> None:
    """They are the arguments of a report."""
    expected: dict[str, Any] = {"start": date(2026, 10, 1), "end": date(2026, 11, 1), "by": "user"}
    assert state_of().report(by="user") == expected


# -- values that are refused


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"range": "8d"}, ["range"]),
        ({"compare": "next"}, ["compare"]),
        ({"group": "user"}, ["group"]),
        ({"model": "x" * (NAME_CHARS_MAX + 1)}, ["model"]),
        ({"plan": "a\0b"}, ["plan"]),
        ({"provider": "\0"}, ["provider"]),
        ({"from_": "2026-10-03"}, ["to"]),
        ({"to": "2026-10-03"}, ["from"]),
        ({"from_": "2026-10-03", "to": "2026-10-03"}, ["to"]),
        ({"from_": "2026-10-03", "to": "2026-10-02"}, ["to"]),
        ({"from_": "2000-01-01", "to": "2026-10-03"}, ["to"]),
        ({"from_": "1970-12-31", "to": "1971-02-01"}, ["from"]),
        ({"from_": "9990-12-01", "to": "9991-01-01"}, ["to"]),
        ({"from_": "20261003", "to": "2026-W41-1"}, ["from", "to"]),
        ({"from_": "2026-10-3", "to": "2026-02-30"}, ["from", "to"]),
        ({"from_": "2026-10-03T00", "to": "x"}, ["from", "to"]),
        (
            {"range": "x", "compare": "x", "group": "x", "model": "\0", "plan": "\0"},
            ["range", "compare", "group", "plan", "model"],
        ),
        ({"from_": "x", "to": "y", "group": "x"}, ["from", "to", "group"]),
    ],
)
def test_read_state__values_that_break_rules__are_all_named(
    query: dict[str, str], fields: list[str]
) -> None:
    """One answer names every one, each with its rule."""
    rules = refused(**query)
    assert list(rules) == fields
    assert all(rules.values())


def test_read_state__the_longest_range__is_allowed() -> None:
    """One day more is refused."""
    end = date(2016, 1, 1) + timedelta(days=3_660)
    assert state_of(from_="2016-01-01", to=end.isoformat()).days == 3_660
    assert "3660 days" in refused(from_="2016-01-01", to=f"{end + timedelta(days=1)}")["to"]
