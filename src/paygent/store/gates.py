"""The rollup of gate events: how often users reached their gates, by day and reason."""

from __future__ import annotations

from paygent.core.period import day_in_zone

GATE_COLUMNS = ("soft", "hard", "blocked")

GateKey = tuple[str, str, str]
"""(user, day, reason)."""


class GateSums:
    """Sums of gate events of a product."""

    def __init__(self, timezone: str) -> None:
        """Start with nothing.

        Args:
            timezone: The product's, in which days begin.
        """
        self._timezone = timezone
        self.sums: dict[GateKey, list[int]] = {}

    def add(
        self, user_id: str, at_us: int, gate_reason: str, status: str, *, blocked: bool
    ) -> None:
        """Add a gate event; its texts are as they are stored."""
        key = user_id, day_in_zone(at_us, self._timezone), gate_reason
        sums = self.sums.setdefault(key, [0] * len(GATE_COLUMNS))
        sums[0 if status == "soft_gate" else 1] += 1
        sums[2] += blocked

    def rows(self) -> list[tuple[str | int, ...]]:
        """Return the rows to add, in the order of their keys."""
        return [(*key, *figures) for key, figures in sorted(self.sums.items())]
