"""Strict JSON: exact numbers, and a bound on everything."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.server.problems import Problem
from paygent.server.strict_json import CHARS_MAX, DEPTH_MAX, ITEMS_MAX, read_json


def nested(depth: int) -> bytes:
    """Return lists in lists, around a number."""
    return b"[" * depth + b"1" + b"]" * depth


def test_read_json__fractions__keep_every_digit() -> None:
    """An amount of nineteen digits is not a double."""
    assert read_json(b"8999999999.123456789") == Decimal("8999999999.123456789")
    assert read_json(b"[1, 1e3]") == [1, Decimal(1000)]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_read_json__any_bytes__are_a_value_or_a_400(body: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        read_json(body)
    except Problem as problem:
        assert problem.status_code == 400


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (nested(DEPTH_MAX - 1), nested(DEPTH_MAX)),
        (json.dumps("x" * CHARS_MAX).encode(), json.dumps("x" * (CHARS_MAX + 1)).encode()),
        (json.dumps({"x" * CHARS_MAX: 1}).encode(),
         json.dumps({"x" * (CHARS_MAX + 1): 1}).encode()),
        (json.dumps([0] * ITEMS_MAX).encode(), json.dumps([0] * (ITEMS_MAX + 1)).encode()),
        (json.dumps([[0] * 9] * (ITEMS_MAX // 10)).encode(),
         json.dumps([[0] * 9] * (ITEMS_MAX // 10 + 1)).encode()),
        (b"1e400", b"1e401"),
        (b"1e-400", b"1e-99999999999999999999"),
        (b"0.1e1", b"1e99999999999999999999"),
        (b'"\\ud83d\\ude00"', b'"\\ud83d"'),
    ],
)  # fmt: skip
def test_read_json__at_each_bound__is_accepted_and_one_more_is_not(
    within: bytes, beyond: bytes
) -> None:
    """Bounds are exact."""
    read_json(within)
    with pytest.raises(Problem):
        read_json(beyond)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=10,
    )
)
def test_read_json__ordinary_values__are_read_as_by_the_standard_library(value: Any) -> None:
    """Within the bounds it is plain JSON."""
    text = json.dumps(value)
    try:
        assert read_json(text.encode()) == json.loads(text)
    except Problem:
        assert "\\u0000" in text
