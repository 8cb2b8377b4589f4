"""The one integer event: what a call or a manual entry cost, as an append-only fact.

Journal, store and reports share this form; `types.UsageEvent` is its public face. Calls write
packed records (`records.py`); what is no call of this process (a manual event, a correction, an
event that a journal lost) is an event record, in JSON.

`_FIELDS` is the one table of fields and their JSON keys: encoders and decoders are derived from it,
so a new field is an error at import until it is in the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from paygent.core.usage import Quality

Source = Literal["auto", "manual"]

HELD = "held"
"""Key in the details of an event of a call that never recorded its end: it was booked at its hold,
which need not follow from the prices of its tokens.
"""


class Event(NamedTuple):
    """One usage event. Counts are tokens, amounts nano-dollars, times microseconds since 1970 UTC.

    Attributes:
        event_id: A UUIDv7 made here, or the uuid5 of an idempotency key.
        user_id: The user who is charged.
        session_id: The session of the call.
        at_us: When the call began; decides the windows that the event counts to.
        model: The model as named by the provider's answer; "" if no model was used.
        model_key: Its canonical name (or the exact one where the plan names that); limits and
            reports by model count under this name.
        provider: "openai", "anthropic", "azure", …; "" if there is none.
        plan: Name of the plan that the call ran under.
        period_start_us: Start of the billing period that the call belongs to.
        input_tokens, output_tokens: Inclusive totals.
        cached_input_tokens, cache_write_tokens, reasoning_tokens: Parts of these; written tokens of
            both lifetimes together.
        cost_tokens_nano: Cost of tokens and of the provider's own per-request fees, rounded once.
        cost_tools_nano: Cost of tools at the plan's prices, rounded once.
        quality: How far the figures can be trusted.
        source: "auto" for a metered call, "manual" for `record_event`.
        price_id: The price list that was used; "" for an explicit cost.
        latency_ms: From the call's begin to its settlement.
        blocked: The call ran past a hard gate, because its plan or the product chose not to raise.
        cost_explicit: The cost was passed to `record_event`.
        tool_calls: Names of tools, in order.
        description: Free text of a manual event.
        metadata: The context's metadata, at most 16 keys and 1 kB.
        details: Counts of the rarer components by name (long cache writes, audio, image, searches),
            and marks such as `HELD`.
        gate_reason: Why it would have been refused, if it is `blocked`; "" otherwise.
        corrects: Id of the event that this one corrects: then counts and costs are signed
            differences (the one place where negatives are legal), user, session, time, model, plan
            and period are the original's, and it is no call. None for every other event.
        restates: The correction carries the figures of the whole, because its sender does not have
            the original; the store turns them into differences.
    """

    event_id: str
    user_id: str
    session_id: str
    at_us: int
    model: str
    model_key: str
    provider: str
    plan: str
    period_start_us: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_tokens_nano: int
    cost_tools_nano: int
    quality: Quality = "exact"
    source: Source = "auto"
    price_id: str = ""
    latency_ms: int = 0
    blocked: bool = False
    cost_explicit: bool = False
    tool_calls: tuple[str, ...] = ()
    description: str | None = None
    metadata: Mapping[str, Any] | None = None
    details: Mapping[str, int] | None = None
    gate_reason: str = ""
    corrects: str | None = None
    restates: bool = False

    @property
    def calls(self) -> int:
        """How many calls this event counts as; a correction is none."""
        return 1 if self.corrects is None else 0

    @property
    def cost_nano(self) -> int:
        """The whole cost: tokens and tools."""
        return self.cost_tokens_nano + self.cost_tools_nano

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


# -- the table of fields


class _Field(NamedTuple):
    """How a field of `Event` is written in a record.

    Attributes:
        key: Its JSON key.
        read: Turns the JSON value into the field's.
        is_rare: It is written only where it differs from its default.
    """

    key: str
    read: Callable[[Any], Any]
    is_rare: bool = False


_FIELDS = {
    "event_id": _Field("id", str),
    "user_id": _Field("user", str),
    "session_id": _Field("session", str),
    "at_us": _Field("at", int),
    "model": _Field("model", str),
    "model_key": _Field("key", str),
    "provider": _Field("provider", str),
    "plan": _Field("plan", str),
    "period_start_us": _Field("period", int),
    "input_tokens": _Field("in", int),
    "output_tokens": _Field("out", int),
    "cached_input_tokens": _Field("cached", int),
    "cache_write_tokens": _Field("written", int),
    "reasoning_tokens": _Field("reasoning", int),
    "cost_tokens_nano": _Field("cost", int),
    "cost_tools_nano": _Field("tools", int),
    "quality": _Field("quality", str),
    "source": _Field("source", str),
    "price_id": _Field("price", str),
    "latency_ms": _Field("ms", int),
    "blocked": _Field("blocked", bool, is_rare=True),
    "cost_explicit": _Field("explicit", bool, is_rare=True),
    "tool_calls": _Field("calls", tuple, is_rare=True),
    "description": _Field("description", str, is_rare=True),
    "metadata": _Field("meta", dict, is_rare=True),
    "details": _Field("details", dict, is_rare=True),
    "gate_reason": _Field("gate", str, is_rare=True),
    "corrects": _Field("corrects", str, is_rare=True),
    "restates": _Field("restates", bool, is_rare=True),
}
"""Every field of `Event`, by name and in its order."""

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_tokens_nano",
    "cost_tools_nano",
)  # what a correction corrects
_READERS = tuple(
    (_FIELDS[name].key, _FIELDS[name].read, Event._field_defaults.get(name), _FIELDS[name].is_rare)
    for name in Event._fields
)
_BY_KEY = {field.key: (name, field.read) for name, field in _FIELDS.items()}
_NOT_IN_BEGIN: dict[str, Any] = {
    "quality": "estimated",
    "source": "auto",
    "ms": 0,
    "cached": 0,
    "written": 0,
    "reasoning": 0,
    "tools": 0,
    "details": {HELD: 1},
}


# -- records


def encode_event(event: Event) -> bytes:
    """Write an event record."""
    fields = _changed(event, Event._field_defaults, rare_only=True)
    return json.dumps({"k": "end", **fields}, separators=(",", ":")).encode()


def differences(event: Event, plain: Event) -> bytes:
    """Write the fields in which an event differs from another, as a JSON object; nothing if in
    none.
    """
    if event == plain:
        return b""
    fields = _changed(event, plain._asdict())
    return json.dumps(fields, separators=(",", ":")).encode() if fields else b""


def with_differences(plain: Event, tail: Mapping[str, Any]) -> Event:
    """Apply what `differences` wrote; keys of a later version are ignored.

    Raises:
        TypeError, ValueError: for a value that is not one of its field.
    """
    changes: dict[str, Any] = {}
    for key, value in tail.items():
        if key in _BY_KEY:
            name, read = _BY_KEY[key]
            changes[name] = value if value is None else read(value)
    return plain._replace(**changes)


_NOTHING: tuple[Any, ...] = (None, {})  # no metadata, no details


def _changed(event: Event, other: Mapping[str, Any], *, rare_only: bool = False) -> dict[str, Any]:
    """Return the fields that differ from another event's, by JSON key; with `rare_only` all but the
    rare ones in any case.
    """
    fields: dict[str, Any] = {}
    for (name, field), value in zip(_FIELDS.items(), event, strict=True):
        if rare_only and not field.is_rare:
            fields[field.key] = value
        elif value != other[name] and not (value in _NOTHING and other[name] in _NOTHING):
            fields[field.key] = dict(value) if isinstance(value, Mapping) else value
    return fields


def decode_event(record: Mapping[str, Any]) -> Event:
    """Read an event record.

    Raises:
        KeyError, TypeError, ValueError: if the record is not one that `encode_event` wrote.
    """
    return Event._make(
        default if is_rare and key not in record else read(record[key])
        for key, read, default, is_rare in _READERS
    )


def event_from_begin(record: Mapping[str, Any]) -> Event:
    """Return the estimate of a call from a begin record in JSON, as version 0.1 wrote them; raises
    as `decode_event`.
    """
    return decode_event({**record, **_NOT_IN_BEGIN})


def difference(whole: Event, original: Event) -> Event:
    """Return the correction that turns an event into another: signed differences of its counts and
    costs, booked into the windows of the original.
    """
    deltas: Any = {name: getattr(whole, name) - getattr(original, name) for name in _COUNTS}
    return whole._replace(corrects=original.event_id, **deltas)
