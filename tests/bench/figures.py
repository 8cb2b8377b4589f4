"""Timing, percentiles and output, for every benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable


def percentile(values: list[int], share: float) -> float:
    """Return a percentile of nanosecond readings, in microseconds."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1000


def show(name: str, values: list[int], budget: str = "") -> None:
    """Print p50 and p99 of nanosecond readings."""
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    print(f"  {name:<44} p50 {p50:8.1f} µs   p99 {p99:8.1f} µs   {budget}")


def show_added(name: str, bare: list[int], metered: list[int], budget: str = "") -> None:
    """Print the differences between the percentiles of metered and bare readings."""
    p50, p99, p999 = (
        percentile(metered, share) - percentile(bare, share) for share in (0.5, 0.99, 0.999)
    )
    print(f"  {name:<44} p50 {p50:8.1f} µs   p99 {p99:8.1f} µs   p99.9 {p999:8.1f} µs   {budget}")


def measure(action: Callable[[], object], rounds: int) -> list[int]:
    """Time an action, after a warm-up of a tenth of the rounds."""
    clock = time.perf_counter_ns
    for _ in range(rounds // 10):
        action()
    readings = []
    for _ in range(rounds):
        start = clock()
        action()
        readings.append(clock() - start)
    return readings
