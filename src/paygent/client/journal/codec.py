"""Journal records turned into what a batch carries.

A record that cannot be read is counted and left out: it must not hold up the others. It is returned
apart, so that it can be quarantined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from paygent.client.journal.segments import Record
from paygent.core.event import Event, decode_event, event_from_begin
from paygent.core.messages import LedgerRecord
from paygent.core.record_json import KINDS, record_from_json
from paygent.core.records import END, PackedRecord, to_event
from paygent.failopen import attempt


class Decoded(NamedTuple):
    """What a list of records contains, each kind in order.

    Attributes:
        events: The events.
        others: The ledger records.
        unreadable: Records that this version cannot read.
    """

    events: list[Event]
    others: list[LedgerRecord]
    unreadable: list[Record]


def decode(records: Iterable[Record], *, unfinished: Iterable[Record] = ()) -> Decoded:
    """Decode records.

    Args:
        records: In the order of writing.
        unfinished: Begin records of calls that were in flight when their process died: they become
            events as well, with their estimates.
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
        elif kind in KINDS:
            change = attempt("ledger_record", record_from_json, record)
            _add(decoded, decoded.others, change, record)
        elif kind not in ("begin", "void"):
            decoded.unreadable.append(record)
    for record in unfinished:
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
