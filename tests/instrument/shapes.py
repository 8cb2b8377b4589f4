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


def run_inside_lock(pg: Paygent, user_id: str, action: Callable[[], object]) -> int:
    """Run an action where the garbage collector may run a finalizer: in Paygent's own code, under
    the lock of a user. Return how many ends of calls it has deferred.
    """
    names: dict[str, Any] = {"__name__": "paygent.client.accounts.admission"}
    exec("def run(lock, action):\n    with lock:\n        action()", names)
    waiting = pg._parts.meter.deferred_ends.waiting
    before = len(waiting)
    names["run"](pg._parts.accounts.registry.user(user_id, pg._now_us()).lock, action)
    return len(waiting) - before


def drain(stream: Any) -> list[Any]:
    """Read a sync stream to its end."""
    return list(stream)


async def drain_async(stream: Any) -> list[Any]:
    """Read an async stream to its end."""
    return [chunk async for chunk in stream]


Action = Callable[[Any], Any]
