"""Calls as the journal sees them: lanes, and the packed records that name them."""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import Any

from tests.contract.samples import MONTH, NOON_US

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import UNLIMITED, Hold, Lane, LaneKey, User
from paygent.client.journal.journal import Journal
from paygent.client.journal.segments import Record, frame
from paygent.core.event import Event
from paygent.core.records import (
    VOID,
    Figures,
    PackedRecord,
    encode_lane,
    end_record,
    event_of_end,
    pack_begin,
    pack_end,
)
from paygent.prices.catalogue import Catalogue

COMMON = "7abc-8def-"
"""What the ids of all events of one process share."""

_lane_numbers = count(1)
_call_numbers = count(1)


@cache
def catalogue() -> Catalogue:
    """Return the bundled price list; loading it takes a while."""
    return Catalogue()


def lane_of(user: User | None = None, *, session_id: str = "s1", model: str = "gpt-4o") -> Lane:
    """Return a new lane of a user, who is `ann` on an unlimited plan if not given."""
    if user is None:
        user = User("ann", "pro", period=MONTH)
    resolved = catalogue().resolve("openai", model, NOON_US, UNLIMITED)
    admission = Accounts(default_plan="pro", new_id=str).admission
    key = LaneKey(session_id, "openai", "chat.completions", model, id(resolved))
    forecast = admission.forecast(user, key.route, resolved)
    return Lane(next(_lane_numbers), user, key, resolved, forecast, COMMON)


def figures(input_tokens: int = 20, output_tokens: int = 10, **others: int) -> Figures:
    """Return the figures of an end."""
    none = Figures(*[0] * len(Figures._fields))
    return none._replace(
        **{"latency_ms": 5, **others}, input_tokens=input_tokens, output_tokens=output_tokens
    )


def begin_of(lane: Lane, seq: int, weight: int = 400, max_tokens: int = 0) -> bytes:
    """Return a packed begin record."""
    return pack_begin(lane.number, seq, NOON_US, weight, max_tokens)


def end_of(lane: Lane, seq: int, used: Figures | None = None) -> bytes:
    """Return a packed end record without a tail."""
    return pack_end(lane.number, seq, NOON_US, used or figures())


def void_of(lane: Lane, seq: int) -> bytes:
    """Return a packed void record."""
    return pack_begin(lane.number, seq, NOON_US, 0, 0, kind=VOID)


def lane_record(lane: Lane) -> bytes:
    """Return the framed record of a lane, as a segment has it."""
    return frame(encode_lane(lane.number, lane.facts))


def begin(journal: Journal, lane: Lane, seq: int) -> None:
    """Write the begin record of a call."""
    journal.write(lane, begin_of(lane, seq))


def end(journal: Journal, lane: Lane, seq: int) -> None:
    """Write the end record of a call."""
    journal.write(lane, end_of(lane, seq))


def void(journal: Journal, lane: Lane, seq: int) -> None:
    """Write the void record of a call."""
    journal.write(lane, void_of(lane, seq))


def event_of(lane: Lane, seq: int) -> Event:
    """Return the event that `end` writes."""
    return event_of_end(lane.facts, seq, NOON_US, figures())


def calls_of(records: list[Record]) -> list[tuple[int, int]]:
    """Return kind and number of each packed record."""
    return [(record.kind, record.seq) for record in records if isinstance(record, PackedRecord)]


def seqs_of(records: list[Record], kind: int) -> list[int]:
    """Return the numbers of the packed records of a kind."""
    return [seq for each, seq in calls_of(records) if each == kind]


def numbers_of(records: list[Record]) -> list[int]:
    """Return the numbers of numbered JSON records."""
    return [record["n"] for record in records if isinstance(record, dict) and "n" in record]


def open_hold(lane: Lane) -> Hold:
    """Return a call of a lane that has been let in."""
    hold = Hold()
    hold.lane, hold.seq, hold.at_us = lane, next(_call_numbers), NOON_US
    hold.weight, hold.max_tokens, hold.owner = 400, 0, None
    hold.use = hold.figures = hold.event = hold.observation = None
    hold.started_ns, hold.is_counted, hold.warnings = 0, False, ()
    lane.user.open[hold.seq] = hold
    return hold


def event_end(lane: Lane, seq: int, event: Event) -> bytes:
    """Return the end record of a call with any event."""
    return end_record(lane.number, lane.facts, seq, event, 0)


def json_of(record: Record) -> Any:
    """Return a JSON record, or fail for a packed one."""
    assert isinstance(record, dict)
    return record
