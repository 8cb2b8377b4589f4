"""Cursors: opaque, and refused where they are not of the list."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.problems import Problem

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=255)


@given(st.integers(-(2**62), 2**62), TEXT)
def test_cursor__any_sort_key__is_read_back(at_us: int, name: str) -> None:
    """A cursor is the last row's sort key, in characters that a URL needs not escape."""
    cursor = write_cursor(at_us, name)
    assert read_cursor(cursor, int, str) == (at_us, name)
    assert all(char.isalnum() or char in "-_" for char in cursor)


def encoded(text: str) -> str:
    """Return a text as a cursor holds it."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "a b",
        encoded("[1]"),
        encoded('["a","b"]'),
        encoded('[true,"b"]'),
        encoded('[1.5,"b"]'),
        encoded('[1,"b",2]'),
        encoded(f'[{2**63},"b"]'),
        encoded('[1,"\\u0000"]'),
        encoded('[1,"\\ud800"]'),
        encoded('{"a":1}'),
        encoded("[" * 100_000),
    ],
)
def test_read_cursor__of_another_list_or_made_up__is_a_problem(cursor: str) -> None:
    """The problem names the parameter."""
    with pytest.raises(Problem) as refused:
        read_cursor(cursor, int, str)
    assert refused.value.status_code == 422
    assert refused.value.errors[0]["field"] == "cursor"
