"""Journal records turned into what a batch carries, and directory records turned into JSON.

A record that cannot be read is counted and left out: it must not hold up the others. It is returned
apart, so that it can be quarantined.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paygent.client.journal.ownership import unfinished
from paygent.client.journal.segments import Record
from paygent.core.event import Event, decode_event, event_from_begin
from paygent.core.messages import (
    AssignRecord,
    DefaultPlanRecord,
    DirectoryRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import Subscription
from paygent.core.records import END, PackedRecord, to_event
from paygent.failopen import attempt

_KINDS: dict[str, type[DirectoryRecord]] = {
    "plan": PlanRecord,
    "assign": AssignRecord,
    "session": SessionRecord,
    "prices": PriceRecord,
    "default_plan": DefaultPlanRecord,
}
# Both directions use this table, so a new kind cannot be written and not be read.
_KIND_OF = {record_type: kind for kind, record_type in _KINDS.items()}


class Decoded(NamedTuple):
    """What a list of records contains, each kind in order.

    Attributes:
        events: The events.
        directory: The directory records.
        unreadable: Records that this version cannot read.
    """

    events: list[Event]
    directory: list[DirectoryRecord]
    unreadable: list[Record]


def decode(records: list[Record], *, of_dead: bool = False) -> Decoded:
    """Decode records.

    Args:
        records: In the order of writing.
        of_dead: Whether they are all the records of a process that has died: calls that were in
            flight then become events as well, with their estimates.
    """
    decoded = Decoded([], [], [])
    for record in records:
        if isinstance(record, PackedRecord):
            if record.kind == END:
                _add(decoded, decoded.events, attempt("event_record", to_event, record), record)
            continue
        kind = str(record.get("k"))
        if kind == "end":
            event = attempt("event_record", decode_event, record)
            _add(decoded, decoded.events, event, record)
        elif kind in _KINDS:
            change = attempt("directory_record", _decode_directory, record)
            _add(decoded, decoded.directory, change, record)
        elif kind not in ("begin", "void"):
            decoded.unreadable.append(record)
    for record in unfinished(records) if of_dead else ():
        from_begin = to_event if isinstance(record, PackedRecord) else event_from_begin
        event = attempt("event_record", from_begin, record)
        _add(decoded, decoded.events, event, record)
    return decoded


def _add(decoded: Decoded, values: list[Any], value: Any, record: Record) -> None:
    """Add a decoded value, or its record to the unreadable ones if there is none."""
    if value is None:
        decoded.unreadable.append(record)
    else:
        values.append(value)


def directory_record(record: DirectoryRecord) -> dict[str, Any]:
    """Return a directory record as the journal keeps it: its kind and its fields by name."""
    fields = record._asdict()
    # JSON would make a list of a nested named tuple, and its fields lose their names.
    if isinstance(record, AssignRecord) and record.subscription is not None:
        fields["subscription"] = record.subscription._asdict()
    return {"k": _KIND_OF[type(record)], **fields}


def _decode_directory(record: dict[str, Any]) -> DirectoryRecord:
    record_type = _KINDS[record["k"]]
    # Fields of a later version are ignored; a missing one is a TypeError unless it has a default.
    fields = {name: record[name] for name in record_type._fields if name in record}
    if fields.get("subscription") is not None:
        fields["subscription"] = Subscription(**fields["subscription"])
    return record_type(**fields)
