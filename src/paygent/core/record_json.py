"""Ledger records as JSON objects: in journals, and in messages to a backend.

A record has its kind (`k`) and its fields by name. Both directions use one table, so a new kind
cannot be written and not be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from paygent.core.event_json import ID_CHARS_MAX, REASON_CHARS_MAX, bounded_metadata
from paygent.core.messages import (
    QUARTER_US,
    AssignRecord,
    DefaultPlanRecord,
    GateEvent,
    LedgerRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
    TagKeysRecord,
    UnmeteredCount,
)
from paygent.core.period import Renewal, Subscription
from paygent.core.validation import NAME_CHARS_MAX

KINDS: dict[str, type[LedgerRecord]] = {
    "plan": PlanRecord,
    "assign": AssignRecord,
    "session": SessionRecord,
    "prices": PriceRecord,
    "default_plan": DefaultPlanRecord,
    "tag_keys": TagKeysRecord,
    "gate": GateEvent,
    "unmetered": UnmeteredCount,
}
_KIND_OF = {record_type: kind for kind, record_type in KINDS.items()}

MESSAGE_CHARS_MAX = 2_000
"""Length of a gate event's message."""

GATE_CALLS_MAX = 10**9
"""Calls that one gate event or count of unmetered calls stands for."""

_COUNT_MAX = 10**15
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?", re.ASCII)  # dollars or tokens
_MOMENT_MAX_US = 253_370_764_800 * 10**6  # the year 9999; what is later has no date


def record_to_json(record: LedgerRecord) -> dict[str, Any]:
    """Return a ledger record as a JSON object."""
    fields = record._asdict()
    # JSON would make a list of a nested named tuple, and its fields lose their names.
    if isinstance(record, AssignRecord) and record.subscription is not None:
        fields["subscription"] = record.subscription._asdict()
    return {"k": _KIND_OF[type(record)], **fields}


def encode_record(record: LedgerRecord) -> bytes:
    """Return a ledger record as a journal payload."""
    return json.dumps(record_to_json(record), separators=(",", ":")).encode()


def record_from_json(given: Mapping[str, Any]) -> LedgerRecord:
    """Read a ledger record.

    Raises:
        KeyError, TypeError, ValueError: if it is none, or a field has a value of another type.
    """
    record_type = KINDS[given["k"]]
    # Fields of a later version are ignored; a missing one is a TypeError unless it has a default.
    fields = {name: given[name] for name in record_type._fields if name in given}
    if fields.get("subscription") is not None:
        fields["subscription"] = Subscription(**fields["subscription"])
    if isinstance(fields.get("keys"), list):
        fields["keys"] = tuple(fields["keys"])
    record: Any = record_type(**fields)
    rules = {**_RULES, **_RULES_OF.get(record_type, {})}
    for name, value in record._asdict().items():
        if not rules.get(name, _is_name)(value):
            raise ValueError(f"{name} = {value!r:.80}")
    return record  # type: ignore[no-any-return]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= NAME_CHARS_MAX


def _is_time(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOMENT_MAX_US


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(chars_max: int, chars_min: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and chars_min <= len(value) <= chars_max


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _COUNT_MAX


def _is_metadata(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and bounded_metadata(value) == value)


def _is_calls(value: Any) -> bool:
    return type(value) is int and 1 <= value <= GATE_CALLS_MAX


def _is_amount(value: Any) -> bool:
    return isinstance(value, str) and _AMOUNT.fullmatch(value) is not None


def _is_subscription(value: Any) -> bool:
    return value is None or (
        _is_time(value.start_us)
        and _is_time(value.end_us)
        and value.start_us < value.end_us  # periods follow by its length
        and value.renews in get_args(Renewal)
    )


_RULES: dict[str, Callable[[Any], bool]] = {
    "document": lambda value: isinstance(value, dict),
    "keys": lambda value: isinstance(value, tuple) and all(map(_is_name, value)),
    "own": lambda value: value is None or isinstance(value, dict),
    "subscription": _is_subscription,
    "implicit": _is_flag,
    "keeps": _is_flag,
    "at_us": _is_time,
    "started_us": _is_time,
    "used_us": _is_time,
    "ended_us": _is_time,
}
"""What a field may be; one that is not here is a name."""

_RULES_OF: dict[type[LedgerRecord], dict[str, Callable[[Any], bool]]] = {
    GateEvent: {
        "gate_event_id": _is_text(ID_CHARS_MAX, 1),
        "session_id": _is_text(NAME_CHARS_MAX),
        "status": lambda value: value in ("soft_gate", "hard_gate"),
        "gate_reason": _is_text(REASON_CHARS_MAX),
        "model": _is_text(NAME_CHARS_MAX),
        "blocked": _is_flag,
        "usage_ppm": _is_count,
        "current_value": _is_amount,
        "limit_value": _is_amount,
        "message": _is_text(MESSAGE_CHARS_MAX),
        "metadata": _is_metadata,
        "calls": _is_calls,
    },
    UnmeteredCount: {
        "since_us": lambda value: _is_time(value) and value % QUARTER_US == 0,
        "model": _is_text(NAME_CHARS_MAX),
        "calls": _is_calls,
    },
}
"""The same of the fields of one kind, before the others."""
