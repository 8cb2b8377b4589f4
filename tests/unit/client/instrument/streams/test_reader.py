"""What the readers of all streams share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.client.instrument.streams.streams import ESTIMATE

from paygent.client.instrument.streams.reader import counted, field, text_bytes
from paygent.core.usage import Usage


def test_counted__what_was_received__stands_in_for_what_was_not_told() -> None:
    """Text in quarters of a token per byte, rounded up; never below the provider's report."""
    known = Usage(9, 5)
    assert counted(None, 0, ESTIMATE) is None
    assert counted(None, 5, ESTIMATE) == Usage(50, 2, quality="estimated")
    assert counted(known, 4, ESTIMATE) == Usage(9, 5, quality="partial")
    assert counted(known, 400, ESTIMATE) == Usage(9, 100, quality="partial")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("abc", 3), ("é", 2), ("\U0001f600", 4), ("\ud800", 3), ("", 0), (None, 0), (5, 0)],
)
def test_text_bytes__of_a_value__is_its_utf8_length(value: Any, expected: int) -> None:
    """Lone surrogates occur in streams and must not raise."""
    assert text_bytes(value) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b"), 1),
        (("missing", "b"), None),
        (("a", "b", "c"), None),
    ],
)
def test_field__a_nested_name__is_found_or_none(names: tuple[str, ...], expected: Any) -> None:
    """SDK objects and dicts are read alike, and a gap is no error."""
    value = {"a": SimpleNamespace(b=1)}
    assert field(value, *names) == expected
