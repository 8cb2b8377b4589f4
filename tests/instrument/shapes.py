"""What provider tests share: ways to make a call in one line, and what was metered of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paygent import Paygent, UsageEvent

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


class Metered:
    """The events of one Paygent, in order."""

    def __init__(self, pg: Paygent) -> None:
        self._pg = pg
        self._events: list[UsageEvent] = []
        pg.on_usage(self._events.append)

    @property
    def events(self) -> list[UsageEvent]:
        """Every event so far; waits for those on their way."""
        self._pg.flush()
        return self._events

    @property
    def only(self) -> UsageEvent:
        """The one event that there must be."""
        events = self.events
        assert len(events) == 1, f"{len(events)} events"
        return events[0]


def drain(stream: Any) -> list[Any]:
    """Read a sync stream to its end."""
    return list(stream)


async def drain_async(stream: Any) -> list[Any]:
    """Read an async stream to its end."""
    return [chunk async for chunk in stream]


Action = Callable[[Any], Any]
