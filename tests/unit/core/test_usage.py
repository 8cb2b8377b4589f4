"""The normal form of usage, and the tools that read it from any object."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paygent.core.event import Event
from paygent.core.usage import RARE_COUNTS, JobStatus, Usage, get, read_tier, token_count


def test_usage__total_tokens__is_input_and_output() -> None:
    """Parts are contained in the totals and are not counted again."""
    usage = Usage(100, 20, cached_input_tokens=80, reasoning_tokens=15)
    assert usage.total_tokens == 120


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": 1}, 1),
        (SimpleNamespace(a=1), 1),
        ({}, None),
        (SimpleNamespace(), None),
        (None, None),
        ("text", None),
        (5, None),
    ],
)
def test_get__a_dict_or_an_object__reads_the_field_or_none(value: Any, found: Any) -> None:
    """A field is read the same way from a dict and from an SDK's object."""
    assert get(value, "a") == found


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        (None, ""),
        ("", ""),
        ("default", ""),
        ("standard", ""),
        ("auto", ""),
        ("standard_only", ""),
        ("flex", "flex"),
        ("priority", "priority"),
        (["flex"], ""),
        (1, ""),
    ],
)
def test_read_tier__any__standard_ones_are_empty(given: Any, tier: str) -> None:
    """Standard tiers, and what is no tier, have no name of their own."""
    assert read_tier(given) == tier


@pytest.mark.parametrize("name", Usage._fields[:17])
def test_rare_counts__of_one_count__is_it_by_name_if_events_have_no_column_for_it(
    name: str,
) -> None:
    """Whatever is priced and is no field of an event must be kept by name, or it is lost."""
    usage = Usage(**{name: 7})  # type: ignore[arg-type] # a count
    kept = name in Event._fields
    assert usage.rare_counts == (None if kept else {name: 7})
    assert (name in RARE_COUNTS) != kept


def test_rare_counts__of_most_calls__are_none() -> None:
    """No dict is made where there is nothing to keep."""
    assert Usage(100, 50, 20, 10, reasoning_tokens=5).rare_counts is None


@pytest.mark.parametrize(
    ("usages", "expected"),
    [(None, None), ((), Usage(model="m")), ((Usage(1, 2), Usage(3, 4)), Usage(1, 2))],
)
def test_deferred__use_now__is_known_once_the_work_is_over(
    usages: tuple[Usage, ...] | None, expected: Usage | None
) -> None:
    """What goes on has none yet; what has failed has used nothing."""
    assert JobStatus("response:r", usages, "m").use_now == expected


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (None, 0),
        (0, 0),
        (7, 7),
        (7.0, 7),
        (10**12, 10**12),
        (10**12 + 1, None),
        (-1, None),
        (7.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        ("7", None),
    ],
)
def test_token_count__any_value__is_a_count_or_none(value: Any, count: int | None) -> None:
    """An absent count is 0; what is not a count is None."""
    assert token_count(value) == count


class Whole:
    """An integer of another library, such as numpy's."""

    def __index__(self) -> int:
        return 5


def test_token_count__an_integer_of_another_library__is_a_count() -> None:
    """Extractors and frameworks give these."""
    assert token_count(Whole()) == 5
