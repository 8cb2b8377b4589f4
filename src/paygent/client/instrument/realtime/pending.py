"""The responses of one conversation, from the event that asks for one to the event that ends it.

A response that was asked for waits, in the order of the wire, for the event that says that it has
begun; that one names its id, by which its end is known. On a connection with lanes (`stream_id`,
Responses) each lane is such a queue of its own. Where several connections carry one conversation,
what one of them has asked for may be answered to another one first: they share the queue.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Mapping
from typing import Any

from paygent.client.instrument.streams.reader import StreamReader, field
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.core.usage import get


class PendingResponse:
    """A response that was asked for or is under way.

    Attributes:
        call: What holds for it.
        meter: Ends it.
        reader: Reads its events; None where a response that breaks off tells nothing of what it has
            used.
        event_id: The application's id of the event that asked for it, or None.
        lane: Where it goes, or None.
        connection: Over which it was asked for; None where nobody has.
        is_doubted: Whether an error may have been about it that does not say what it is about.
        is_passed: Whether a later one has begun since then: so it was about this one.
    """

    __slots__ = (
        "call",
        "connection",
        "event_id",
        "is_doubted",
        "is_passed",
        "lane",
        "meter",
        "reader",
    )

    def __init__(
        self,
        call: Call,
        meter: Meter,
        reader: StreamReader | None,
        *,
        event_id: Any,
        lane: Any,
        connection: Any = None,
    ) -> None:
        self.call = call
        self.meter = meter
        self.reader = reader
        self.event_id = event_id
        self.lane = lane
        self.connection = connection
        self.is_doubted = self.is_passed = False


class Responses:
    """What was asked for and what is under way, over all connections of a conversation. One thread
    may send while another one reads: each step is one operation on a list or dict.
    """

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asked: list[PendingResponse] = []
        self._running: dict[str | int, PendingResponse] = {}
        self._numbers = itertools.count()

    def join(self, connection: Any) -> None:
        """Note a connection of the conversation."""
        self._connections.add(connection)

    def leave(self, connection: Any) -> bool:
        """Forget a connection that is gone; tell whether it was the last one."""
        self._connections.discard(connection)
        return not self._connections

    def ask(self, running: PendingResponse) -> None:
        """Note a response that is being asked for."""
        self._asked.append(running)

    def withdraw(self, call: Call) -> None:
        """Forget a response that could not be asked for."""
        for each in list(self._asked):
            if each.call is call:
                self._take(each)

    def take_asked(self, lane: Any, *, or_any: bool = False) -> PendingResponse | None:
        """Take the response of a lane that was asked for first. One that may be refused comes
        after those that were not: else each later response would count on who asked before.

        Args:
            lane: Which.
            or_any: Take the first of any lane where this one has none: a gateway may not echo them.
        """
        asked = list(self._asked)
        of_lane = [one for one in asked if one.lane == lane] or (asked if or_any else [])
        for each in sorted(of_lane, key=lambda one: one.is_doubted):
            if self._take(each):
                for earlier in of_lane[: of_lane.index(each)]:
                    earlier.is_passed = earlier.is_doubted
                return each
        return None

    def take_refused(self, error: Any, connection: Any) -> PendingResponse | None:
        """Take the response that an error of the Realtime API is about.

        That is the one whose event it names. Where it names none (the SDK gives events no ids), the
        first that was asked for if the error is about responses, or the only one if it is not known
        to be about anything else. Where several wait and it may be about whatever else was sent,
        nothing is taken, and the first is doubted: it comes after the others, and if one of them
        begins before it and it is never answered, it costs nothing.

        Args:
            error: What the provider says.
            connection: Where: it is about what was asked for there.
        """
        about = get(error, "event_id")
        mine = [each for each in list(self._asked) if each.connection is connection]
        if about is not None:
            mine = [each for each in mine if each.event_id == about]
        elif _is_about_others(error):
            return None
        else:
            mine = [each for each in mine if not each.is_doubted] or mine
            if len(mine) > 1 and not _is_about_responses(error):
                mine[0].is_doubted = True
                return None
        return next((each for each in mine if self._take(each)), None)

    def begin(self, response_id: str | None, running: PendingResponse) -> None:
        """Note that a response has begun; None where a gateway names no ids."""
        self._running[next(self._numbers) if response_id is None else response_id] = running

    def end(self, response_id: str | int | None, lane: Any = None) -> PendingResponse | None:
        """Take a response that has ended; None where it is not under way.

        Args:
            response_id: Which. Where its end does not say, or its beginning has not, it is the
                first of its lane.
            lane: Where it has ended.
        """
        found = self._running.pop(response_id, None) if response_id is not None else None
        if found is not None:
            return found
        for key, running in list(self._running.items()):
            is_open = response_id is None or isinstance(key, int)
            if is_open and running.lane == lane and self._running.pop(key, None) is not None:
                return running
        return None

    def in_lane(self, lane: Any) -> tuple[str | int, PendingResponse] | None:
        """Return the key of the response under way in a lane, and it."""
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

    def take_all(self) -> list[PendingResponse]:
        """Take everything: the last connection is gone."""
        taken = [each for each in list(self._asked) if self._take(each)]
        for response_id in list(self._running):
            running = self._running.pop(response_id, None)
            if running is not None:
                taken.append(running)
        return taken

    def _take(self, running: PendingResponse) -> bool:
        try:
            self._asked.remove(running)
        except ValueError:
            return False  # the other direction was faster
        return True


_ABOUT_RESPONSES = (
    "conversation_already_has_active_response",
    "response_create_failed",
    "rate_limit_exceeded",
    "server_error",
)
_ABOUT_OTHERS = re.compile(
    "(input_|output_)?audio|(conversation_|previous_)?item|content_index|(transcription_)?session"
    "|cannot_update|response_(cancel|not|id)"
)
"""How the codes and parameters of errors begin that are about other events (OpenAI's Realtime
guide, 2026-11): audio that was sent, items, the session, cancelling.
"""


def _is_about_responses(error: Any) -> bool:
    """Tell whether an error that names no event is about asking for a response."""
    about = get(error, "param")
    if isinstance(about, str) and (about == "response" or about.startswith("response.")):
        return True
    return get(error, "code") in _ABOUT_RESPONSES or get(error, "type") in _ABOUT_RESPONSES


def _is_about_others(error: Any) -> bool:
    """Tell whether an error that names no event is about something else."""
    told = (get(error, "param"), get(error, "code"))
    return any(isinstance(each, str) and _ABOUT_OTHERS.match(each) is not None for each in told)


def lane_of(event: Any) -> str | None:
    """Return the lane of an event of either direction."""
    lane = get(event, "stream_id")
    return lane if isinstance(lane, str) else None


def body_of(event: Any, route: str) -> Mapping[str, Any]:
    """Return what an event asks for."""
    body = field(event, "response") if route == "realtime" else event
    return body if isinstance(body, Mapping) else {}
