"""Reading several fields of a named tuple by name."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from paygent.core.named_values import values_of


class Record(NamedTuple):
    """A record with distinct values."""

    a: int = 1
    b: int = 2
    c: int = 3
    d: int = 4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("b", "c"), (2, 3)),
        (("a", "b", "c", "d"), (1, 2, 3, 4)),
        (("a", "c"), (1, 3)),
        (("d", "b", "a"), (4, 2, 1)),
        (("c", "b"), (3, 2)),
    ],
)
def test_values_of__any_fields__are_returned_in_the_order_asked_for(
    names: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    """Neighbours take another path than scattered fields, with the same result."""
    assert values_of(Record, names)(Record()) == expected


def test_values_of__an_unknown_field__is_an_error_at_once() -> None:
    """A renamed field fails at import, not in a call."""
    with pytest.raises(ValueError, match="not in tuple"):
        values_of(Record, ("a", "z"))
