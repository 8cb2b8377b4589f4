"""Journal records turned into what a batch carries, and directory records turned into JSON.

A record that cannot be read is counted and left out: it must not hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from paygent.client.journal.ownership import unfinished
from paygent.client.journal.segments import Record
from paygent.core.event import Event, decode_end, event_from_begin
from paygent.core.messages import (
    AssignRecord,
    DirectoryRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import Subscription
from paygent.failopen import attempt

_T = TypeVar("_T")

_KINDS: dict[str, type[DirectoryRecord]] = {
    "plan": PlanRecord,
    "assign": AssignRecord,
    "session": SessionRecord,
    "prices": PriceRecord,
}
# Both directions use this table, so a new kind cannot be written and not be read.
_KIND_OF = {record_type: kind for kind, record_type in _KINDS.items()}


def events_of(records: Iterable[Record]) -> list[Event]:
    """Return the events among records."""
    ends = (record for record in records if record.get("k") == "end")
    return _readable("event_record", decode_end, ends)


def abandoned_events(records: list[Record]) -> list[Event]:
    """Return the estimates of calls that were in flight when their process died."""
    return _readable("event_record", event_from_begin, unfinished(records))


def directory_of(records: Iterable[Record]) -> tuple[DirectoryRecord, ...]:
    """Return the directory records among records, in order."""
    directory = (record for record in records if record.get("k") in _KINDS)
    return tuple(_readable("directory_record", _decode, directory))


def _readable(kind: str, read: Callable[[Record], _T], records: Iterable[Record]) -> list[_T]:
    values = (attempt(kind, read, record) for record in records)
    return [value for value in values if value is not None]


def directory_record(record: DirectoryRecord) -> dict[str, Any]:
    """Return a directory record as the journal keeps it: its kind and its fields by name."""
    fields = record._asdict()
    # JSON would make a list of a nested named tuple, and its fields lose their names.
    if isinstance(record, AssignRecord) and record.subscription is not None:
        fields["subscription"] = record.subscription._asdict()
    return {"k": _KIND_OF[type(record)], **fields}


def _decode(record: Record) -> DirectoryRecord:
    record_type = _KINDS[record["k"]]
    # Fields of a later version are ignored; a missing one is a TypeError unless it has a default.
    fields = {name: record[name] for name in record_type._fields if name in record}
    if fields.get("subscription") is not None:
        fields["subscription"] = Subscription(**fields["subscription"])
    return record_type(**fields)
