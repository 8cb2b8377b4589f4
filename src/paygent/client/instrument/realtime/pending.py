"""The responses of one conversation, from the event that asks for one to the event that ends it.

A requested response waits, in the order of the wire, for the event that reports its beginning; that
event names the id by which its end is recognized. On a connection with lanes (`stream_id`,
Responses) each lane is a queue of its own. Where several connections carry one conversation, what
one of them has requested may be answered on another one first, so they share the queue.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paygent.client.instrument.streams.reader import StreamReader, field
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.core.usage import get


@dataclass(slots=True, eq=False)
class PendingResponse:
    """A response that was requested or is under way."""

    call: Call  # what holds for it
    meter: Meter  # ends it
    reader: StreamReader | None  # None where a response that breaks off reports no usage
    lane: Any  # where it goes, or None
    event_id: Any = None  # the application's id of the event that requested it, or None
    connection: Any = None  # over which it was requested; None where the server began it


class Responses:
    """The responses that wait and those under way, over all connections of a conversation. One
    thread may send while another one reads: each step is one operation on a list or dict.
    """

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiting: list[PendingResponse] = []
        self._running: dict[str | int, PendingResponse] = {}
        self._numbers = itertools.count()  # keys of responses that have no id

    def join(self, connection: Any) -> None:
        """Add a connection of the conversation."""
        self._connections.add(connection)

    def leave(self, connection: Any) -> bool:
        """Remove a connection that is gone; return whether it was the last one."""
        self._connections.discard(connection)
        return not self._connections

    def add(self, response: PendingResponse) -> None:
        """Add a response that is being requested."""
        self._waiting.append(response)

    def withdraw(self, call: Call) -> None:
        """Remove a response that could not be requested."""
        for response in list(self._waiting):
            if response.call is call:
                self._take(response)

    def take_waiting(self, lane: Any, *, or_any: bool = False) -> PendingResponse | None:
        """Take the response of a lane that was requested first."""
        waiting = list(self._waiting)
        of_lane = [response for response in waiting if response.lane == lane]
        candidates = of_lane or (waiting if or_any else [])  # a gateway may not echo the lane
        # The other direction may take one at the same time: `_take` decides.
        return next(filter(self._take, candidates), None)

    def take_refused(self, error: Any, connection: Any) -> PendingResponse | None:
        """Take the response that an error of the Realtime API refers to: the one that was requested
        by the event it names, or the only one that waits. Where several wait and it names none (the
        SDK sends no ids), nothing is taken; what stays unanswered settles at the disconnect. It
        refers to what was requested over the same connection.
        """
        event_id = get(error, "event_id")
        waiting = [item for item in list(self._waiting) if item.connection is connection]
        if event_id is not None:
            waiting = [response for response in waiting if response.event_id == event_id]
        elif len(waiting) > 1:
            return None  # voiding the wrong one would give away a paid response
        return next(filter(self._take, waiting), None)

    def begin(self, response_id: str | None, response: PendingResponse) -> None:
        """Record that a response has begun; the id is None where a gateway names none."""
        self._running[next(self._numbers) if response_id is None else response_id] = response

    def end(self, response_id: str | int | None, lane: Any = None) -> PendingResponse | None:
        """Take a response that has ended; None where it is not under way. Where its end or its
        beginning names no id, it is the first of its lane.
        """
        named = self._running.pop(response_id, None) if response_id is not None else None
        if named is not None:
            return named
        for key, response in list(self._running.items()):
            is_candidate = response_id is None or isinstance(key, int)
            # The other direction may have removed it since the list was made.
            if is_candidate and response.lane == lane and self._running.pop(key, None) is not None:
                return response
        return None

    def in_lane(self, lane: Any) -> tuple[str | int, PendingResponse] | None:
        """Return the key of the response under way in a lane, and the response."""
        for key, response in reversed(list(self._running.items())):
            if response.lane == lane:
                return key, response
        return None

    def has_waiting(self) -> bool:
        """Return whether any response waits to begin."""
        return bool(self._waiting)

    def waits_in(self, lane: Any) -> bool:
        """Return whether a response of a lane waits to begin."""
        return any(response.lane == lane for response in list(self._waiting))

    def take_all(self) -> list[PendingResponse]:
        """Take everything: the last connection is gone."""
        taken = list(filter(self._take, list(self._waiting)))
        for key in list(self._running):
            response = self._running.pop(key, None)
            if response is not None:
                taken.append(response)
        return taken

    def _take(self, response: PendingResponse) -> bool:
        try:
            self._waiting.remove(response)
        except ValueError:
            return False  # the other direction was faster
        return True


def lane_of(event: Any) -> str | None:
    """Return the lane of an event of either direction."""
    lane = get(event, "stream_id")
    return lane if isinstance(lane, str) else None


def body_of(event: Any, route: str) -> Mapping[str, Any]:
    """Return the body of the request in an event."""
    body = field(event, "response") if route == "realtime" else event
    return body if isinstance(body, Mapping) else {}
