"""Corrections in a booking: where they are booked, what they change, and which doubts they end.

A correction is booked where its original is. One that *restates* carries the figures of the whole:
those of the original are subtracted, and an original that arrives after it adds nothing. A call is
doubtful while neither its own figures nor those of a correction are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from paygent.core.event import Event
from paygent.store.rows import event_of
from paygent.store.statements import Row, Statements

_RESTATED = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_tokens_nano",
)
"""The figures that a restating correction replaces; tools are the call's own."""

_NOTHING: dict[str, Any] = dict.fromkeys(_RESTATED, 0)


class MoreUsersToLock(Exception):
    """An original was booked, or a user erased, since users could be locked in order: begin the
    transaction again.

    Attributes:
        user_ids: The users to lock as well.
    """

    def __init__(self, user_ids: frozenset[str]) -> None:
        """Name the users."""
        super().__init__("a user of this booking has changed meanwhile")
        self.user_ids = user_ids


_Key = tuple[str, str]
"""A user and the id of an event."""


class Corrections:
    """The corrections of a booking, and the originals that they find.

    Two users may have an event of one id. A correction means its sender's own event first; only
    where the sender has none, another user's.
    """

    def __init__(self, sql: Statements, events: Iterable[Event]) -> None:
        """Take the corrections among events as they were sent."""
        self._sql = sql
        self._sent = {
            (event.user_id, event.corrects) for event in events if event.corrects is not None
        }
        self._places: dict[_Key, tuple[str, int]] = {}
        self._stored: dict[_Key, Event] = {}
        self._exact: set[_Key] = set()  # calls that are not doubtful, by user
        self._earlier: list[tuple[_Key, Row]] = []  # stored corrections of these originals
        self._new: dict[_Key, Event] = {}  # originals
        self.resolved: list[Event] = []

    def locate(self) -> dict[_Key, tuple[str, int]]:
        """Return (user, time) of the originals that are stored, by sender and id."""
        if not self._sent:
            return {}
        ids = sorted({event_id for _, event_id in self._sent})
        places: dict[str, dict[str, int]] = {}
        for row in self._sql.locate_events(rows=[(each,) for each in ids]):
            places.setdefault(row["event_id"], {})[row["user_id"]] = row["at_us"]
        self._places = {}
        for sender, event_id in self._sent:
            of_users = places.get(event_id)
            if of_users:
                user_id = sender if sender in of_users else min(of_users)
                self._places[sender, event_id] = user_id, of_users[user_id]
        return self._places

    def read_originals(self, locked: Iterable[str]) -> None:
        """Read the originals that are stored, now that their users are locked.

        Raises:
            MoreUsersToLock: for one of a user who is not among them.
        """
        places = self.locate()
        missing = {user_id for user_id, _ in places.values()}.difference(locked)
        if missing:
            raise MoreUsersToLock(frozenset(missing))
        if places:
            rows = {(*place, event_id) for (_, event_id), place in places.items()}
            found = self._sql.events_at(rows=sorted(rows))
            self._stored = {(row["user_id"], row["event_id"]): event_of(row) for row in found}

    def place(self, events: dict[_Key, Event]) -> None:
        """Put the corrections among events on the place of their originals.

        Args:
            events: By (user they were sent for, id); changed in place.
        """
        if not self._sent:
            return
        # Of other users' events of an id, the first user's.
        by_id = {event_id: event for (_, event_id), event in sorted(events.items(), reverse=True)}
        for key in sorted(
            (key for key, event in events.items() if event.corrects is not None),
            key=lambda key: (key[1], key[0]),
        ):
            correction = events[key]
            corrects = str(correction.corrects)
            if corrects != correction.event_id:
                original = (
                    self._stored_for(key[0], corrects)
                    or events.get((key[0], corrects))
                    or by_id.get(corrects)
                )
                if original is not None:
                    events[key] = by_id[correction.event_id] = _placed(correction, original)

    def _stored_for(self, sender: str, event_id: str) -> Event | None:
        """Return the stored original that a sender means."""
        place = self._places.get((sender, event_id))
        return None if place is None else self._stored.get((place[0], event_id))

    def settle(self, new: Sequence[Event], *, has_waiting: bool) -> list[Event]:
        """Record the new corrections, and return the new events with the figures that they add.

        Args:
            new: Events that were claimed, as they are booked.
            has_waiting: Whether the product has corrections without their original.
        """
        corrections = [event for event in new if event.corrects is not None]
        originals = {(event.user_id, event.event_id) for event in new if event.corrects is None}
        asked = {str(event.corrects) for event in corrections}
        if has_waiting:
            asked |= {event_id for _, event_id in originals}
        rows = self._sql.corrections_of(rows=[(each,) for each in sorted(asked)]) if asked else ()
        earlier = self._earlier = [((row["user_id"], row["corrects"]), row) for row in rows]
        self._new = {(each.user_id, each.event_id): each for each in new if each.corrects is None}
        arrived = {key for key, _ in earlier if key in originals}
        restated = {key for key, row in earlier if row["restates"] and key in originals}
        self._exact = {key for key, row in earlier if row["quality"] == "exact"}
        self._resolve(corrections)
        if arrived:
            self._sql.end_waiting(rows=sorted(arrived))
        if corrections:
            known = originals | self._stored.keys()
            self._sql.add_corrections(
                rows=[
                    (
                        *(event.user_id, event.event_id, event.corrects, event.at_us),
                        *(event.quality, int(event.restates)),
                        int((event.user_id, event.corrects) not in known),
                    )
                    for event in corrections
                ]
            )
        return [
            event._replace(**_NOTHING) if (event.user_id, event.event_id) in restated else event
            for event in new
        ]

    def metadata_of(self, event: Event) -> Mapping[str, Any] | None:
        """Return the metadata that a new event counts under: a correction that of its original, if
        that is known.
        """
        if event.corrects is None:
            return event.metadata
        key = event.user_id, event.corrects
        original = self._stored.get(key) or self._new.get(key)
        return original.metadata if _is_at(original, event) else event.metadata

    def joined(self, new: Iterable[Event]) -> Iterator[tuple[Event, Event]]:
        """Yield the stored corrections of new originals, each with its original."""
        originals = {(each.user_id, each.event_id): each for each in new if each.corrects is None}
        places = [
            (row["user_id"], row["at_us"], row["event_id"])
            for key, row in self._earlier
            if key in originals
        ]
        for row in self._sql.events_at(rows=sorted(places)) if places else ():
            correction = event_of(row)
            original = originals[correction.user_id, str(correction.corrects)]
            if _is_at(original, correction):
                yield correction, original

    def _resolve(self, corrections: Iterable[Event]) -> None:
        """Find the stored calls that are not doubtful any more. A correction ends the doubt of a
        call of the user on whom it is booked.
        """
        exact = {
            (event.user_id, str(event.corrects))
            for event in corrections
            if event.quality == "exact"
        }
        for key in sorted(exact - self._exact):
            original = self._stored.get(key)
            if original is not None and original.corrects is None and original.quality != "exact":
                self.resolved.append(original)
        self._exact |= exact

    def is_doubtful(self, event: Event) -> bool:
        """Return whether a new event is a call without exact figures."""
        return (
            event.corrects is None
            and event.quality != "exact"
            and (event.user_id, event.event_id) not in self._exact
        )


def _is_at(original: Event | None, correction: Event) -> TypeGuard[Event]:
    """Return whether a correction is at the place of its original, which is none itself."""
    return original is not None and original.corrects is None and original.at_us == correction.at_us


def _placed(correction: Event, original: Event) -> Event:
    """Return a correction on its original's place, as a difference."""
    place: dict[str, Any] = {
        "user_id": original.user_id,
        "session_id": original.session_id,
        "at_us": original.at_us,
        "plan": original.plan,
        "period_start_us": original.period_start_us,
        "blocked": original.blocked,
        "gate_reason": original.gate_reason,
    }
    # A metered correction (a provider's job) keeps its model if it has one, because the model of a
    # batch is known only when the batch has ended; a job that failed names none.
    if correction.source == "manual" or not correction.model_key:
        place |= {name: getattr(original, name) for name in ("model", "model_key", "provider")}
    if correction.restates:
        place |= _differences(correction, original)
    return correction._replace(**place)


def _differences(correction: Event, original: Event) -> Mapping[str, int]:
    return {name: getattr(correction, name) - getattr(original, name) for name in _RESTATED}
