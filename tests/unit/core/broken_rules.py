"""Reads the broken rules of an `InvalidValue`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from paygent.core.validation import InvalidValue

Found = tuple[str, Any, str]


def errors_of(make: Callable[..., object], **arguments: Any) -> list[Found]:
    """Return field, value and rule of each error that a call with these arguments raises."""
    with pytest.raises(InvalidValue) as error:
        make(**arguments)
    return [(broken.field, broken.value, broken.rule) for broken in error.value.findings]
