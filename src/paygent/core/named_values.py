"""Several fields of a named tuple at once, by name, at the speed of a slice.

A slice written by hand goes on silently when a field is inserted before it; these functions are
derived from the names. They are for paths of every call: five attributes cost twice as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any


def values_of(record_type: type[Any], names: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns two or more fields of a named tuple, in this order.

    A ValueError is raised here if there is no such field.
    """
    positions = [record_type._fields.index(name) for name in names]
    span = range(positions[0], positions[-1] + 1)
    if positions == list(span):  # neighbours: one slice is the fastest
        return itemgetter(slice(span.start, span.stop))
    return itemgetter(*positions)
