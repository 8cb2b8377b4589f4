"""Directory records as JSON objects: in journals, and in messages to a backend.

A record has its kind (`k`) and its fields by name. Both directions use one table, so a new kind
cannot be written and not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from paygent.core.messages import (
    AssignRecord,
    DefaultPlanRecord,
    DirectoryRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import Renewal, Subscription
from paygent.core.validation import NAME_CHARS_MAX

KINDS: dict[str, type[DirectoryRecord]] = {
    "plan": PlanRecord,
    "assign": AssignRecord,
    "session": SessionRecord,
    "prices": PriceRecord,
    "default_plan": DefaultPlanRecord,
}
_KIND_OF = {record_type: kind for kind, record_type in KINDS.items()}

_MOMENT_MAX_US = 253_370_764_800 * 10**6  # the year 9999; what is later has no date


def directory_to_json(record: DirectoryRecord) -> dict[str, Any]:
    """Return a directory record as a JSON object."""
    fields = record._asdict()
    # JSON would make a list of a nested named tuple, and its fields lose their names.
    if isinstance(record, AssignRecord) and record.subscription is not None:
        fields["subscription"] = record.subscription._asdict()
    return {"k": _KIND_OF[type(record)], **fields}


def directory_from_json(given: Mapping[str, Any]) -> DirectoryRecord:
    """Read a directory record.

    Raises:
        KeyError, TypeError, ValueError: if it is none, or a field has a value of another type.
    """
    record_type = KINDS[given["k"]]
    # Fields of a later version are ignored; a missing one is a TypeError unless it has a default.
    fields = {name: given[name] for name in record_type._fields if name in given}
    if fields.get("subscription") is not None:
        fields["subscription"] = Subscription(**fields["subscription"])
    record: Any = record_type(**fields)
    for name, value in record._asdict().items():
        if not _RULES.get(name, _is_name)(value):
            raise ValueError(f"{name} = {value!r:.80}")
    return record  # type: ignore[no-any-return]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= NAME_CHARS_MAX


def _is_time(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOMENT_MAX_US


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_subscription(value: Any) -> bool:
    return value is None or (
        _is_time(value.start_us)
        and _is_time(value.end_us)
        and value.start_us < value.end_us  # periods follow by its length
        and value.renews in get_args(Renewal)
    )


_RULES: dict[str, Callable[[Any], bool]] = {
    "document": lambda value: isinstance(value, dict),
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
