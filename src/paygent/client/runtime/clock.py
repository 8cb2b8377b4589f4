"""The process's clock. It is passed in everywhere, so that tests and simulations have their own."""

from __future__ import annotations

import time
from collections.abc import Callable

NS_PER_US = 1_000


def system_clock() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // NS_PER_US


def in_ns(now_us: Callable[[], int]) -> Callable[[], int]:
    """Return a clock in nanoseconds; of the system's one, without the cost of a Python function."""
    return time.time_ns if now_us is system_clock else lambda: now_us() * NS_PER_US
