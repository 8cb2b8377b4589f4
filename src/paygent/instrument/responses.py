"""The responses of one conversation, from the event that asks for one to the event that ends it.

A response that was asked for waits, in the order of the wire, for the event that says that it has
begun; that one names its id, by which its end is known. On a connection with lanes (`stream_id`,
Responses) each lane is such a queue of its own. Where several connections carry one conversation,
what one of them has asked for may be answered to another one first: they share the queue.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from paygent.call import Call
from paygent.core.usage import get
from paygent.instrument.reading import StreamReader, field
from paygent.meter import Meter


class Running:
    """A response that was asked for or is under way.

    Attributes:
        call: What holds for it.
        meter: Ends it.
        reader: Reads its events; None where a response that breaks off tells nothing of what it has
            used.
        event_id: The application's id of the event that asked for it, or None.
        lane: Where it goes, or None.
    """

    __slots__ = ("call", "event_id", "lane", "meter", "reader")

    def __init__(
        self, call: Call, meter: Meter, reader: StreamReader | None, *, event_id: Any, lane: Any
    ) -> None:
        self.call = call
        self.meter = meter
        self.reader = reader
        self.event_id = event_id
        self.lane = lane


class Responses:
    """What was asked for and what is under way, over all connections of a conversation. One thread
    may send while another one reads: each step is one operation on a list or dict.
    """

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asked: list[Running] = []
        self._running: dict[str, Running] = {}

    def join(self, connection: Any) -> None:
        """Note a connection of the conversation."""
        self._connections.add(connection)

    def leave(self, connection: Any) -> bool:
        """Forget a connection that is gone; tell whether it was the last one."""
        self._connections.discard(connection)
        return not self._connections

    def ask(self, running: Running) -> None:
        """Note a response that is being asked for."""
        self._asked.append(running)

    def withdraw(self, call: Call) -> None:
        """Forget a response that could not be asked for."""
        for each in list(self._asked):
            if each.call is call:
                self._take(each)

    def take_asked(self, lane: Any, *, or_any: bool = False) -> Running | None:
        """Take the response of a lane that was asked for first.

        Args:
            lane: Which.
            or_any: Take the first of any lane where this one has none: a gateway may not echo them.
        """
        asked = list(self._asked)
        for each in [one for one in asked if one.lane == lane] or (asked if or_any else []):
            if self._take(each):
                return each
        return None

    def take_refused(self, error: Any) -> Running | None:
        """Take the response that an error of the Realtime API is about.

        That is the one whose event it names, or where it names none but is about responses, the
        first. Any other error may be about whatever else was sent: then nothing is taken, and what
        stays unanswered ends with the connection.
        """
        about = get(error, "event_id")
        if about is None and not _is_about_responses(error):
            return None
        for each in list(self._asked):
            if (about is None or each.event_id == about) and self._take(each):
                return each
        return None

    def begin(self, response_id: str, running: Running) -> None:
        """Note that a response has begun."""
        self._running[response_id] = running

    def end(self, response_id: str) -> Running | None:
        """Take a response that has ended; None where it is not under way."""
        return self._running.pop(response_id, None)

    def in_lane(self, lane: Any) -> tuple[str, Running] | None:
        """Return the id of the response under way in a lane, and it."""
        for response_id, running in reversed(list(self._running.items())):
            if running.lane == lane:
                return response_id, running
        return None

    def is_any_asked(self) -> bool:
        """Tell whether anything waits to begin."""
        return bool(self._asked)

    def is_asked(self, lane: Any) -> bool:
        """Tell whether a lane waits for a response to begin."""
        return any(each.lane == lane for each in list(self._asked))

    def take_all(self) -> list[Running]:
        """Take everything: the last connection is gone."""
        taken = [each for each in list(self._asked) if self._take(each)]
        for response_id in list(self._running):
            running = self._running.pop(response_id, None)
            if running is not None:
                taken.append(running)
        return taken

    def _take(self, running: Running) -> bool:
        try:
            self._asked.remove(running)
        except ValueError:
            return False  # the other direction was faster
        return True


_ABOUT_RESPONSES = ("conversation_already_has_active_response", "response_create_failed")


def _is_about_responses(error: Any) -> bool:
    """Tell whether an error that names no event is about asking for a response."""
    about = get(error, "param")
    if isinstance(about, str) and (about == "response" or about.startswith("response.")):
        return True
    return get(error, "code") in _ABOUT_RESPONSES


def lane_of(event: Any) -> str | None:
    """Return the lane of an event of either direction."""
    lane = get(event, "stream_id")
    return lane if isinstance(lane, str) else None


def body_of(event: Any, route: str) -> Mapping[str, Any]:
    """Return what an event asks for."""
    body = field(event, "response") if route == "realtime" else event
    return body if isinstance(body, Mapping) else {}
