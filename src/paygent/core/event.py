"""The one integer event: what a call or a manual entry cost, as an append-only fact.

Journal, store and reports share this form; `types.UsageEvent` is its public face. A *begin* record
holds what a call reserves before the provider is called; an *end* record is the whole event; a
*void* record marks a call that spent nothing. A begin record without an end becomes an event of
quality `estimated` (`event_from_begin`).

`_FIELDS` is the one table of fields and their JSON keys: encoders and decoder are derived from it,
so a new field is an error at import until it is in the table. The encoders fill templates, because
`json.dumps` costs several microseconds for each call; strings are escaped once and remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from paygent.core.named_values import values_of
from paygent.core.usage import Quality

Source = Literal["auto", "manual"]

HELD = "held"
"""Key in the details of an event whose call never recorded its end: it was booked at its hold,
which need not follow from the prices of its tokens.
"""

escape = lru_cache(maxsize=4096)(json.dumps)
"""Return a string as a JSON string, remembering recent user ids, sessions, models and price ids."""


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
        blocked: The call ran past a hard gate, because the product chose not to raise.
        cost_explicit: The cost was passed to `record_event`.
        tool_calls: Names of tools, in order.
        description: Free text of a manual event.
        metadata: The context's metadata, at most 16 keys and 1 kB.
        details: Counts of the rarer components by name (long cache writes, audio, image, searches),
            and marks such as `HELD`.
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


class Begin(NamedTuple):
    """A call's hold, written before the provider is called; other fields as in `Event`.

    Attributes:
        expected_input_tokens, expected_output_tokens, expected_cost_nano: Booked if the call's end
            is never recorded.
        metadata_json: Metadata as a JSON object; "" if there is none.
        blocked: As in `Event`.
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
    expected_input_tokens: int
    expected_output_tokens: int
    expected_cost_nano: int
    price_id: str
    metadata_json: str
    blocked: bool = False


# -- the table of fields


class _Field(NamedTuple):
    """How a field of `Event` is written in a record.

    Attributes:
        key: Its JSON key.
        read: Turns the JSON value into the field's.
        form: How a template writes it: "%d" a number, "%s" a JSON string; "" means that the field
            is rare: it is written only where it differs from its default.
    """

    key: str
    read: Callable[[Any], Any]
    form: str = ""


_FIELDS = {
    "event_id": _Field("id", str, "%s"),
    "user_id": _Field("user", str, "%s"),
    "session_id": _Field("session", str, "%s"),
    "at_us": _Field("at", int, "%d"),
    "model": _Field("model", str, "%s"),
    "model_key": _Field("key", str, "%s"),
    "provider": _Field("provider", str, "%s"),
    "plan": _Field("plan", str, "%s"),
    "period_start_us": _Field("period", int, "%d"),
    "input_tokens": _Field("in", int, "%d"),
    "output_tokens": _Field("out", int, "%d"),
    "cached_input_tokens": _Field("cached", int, "%d"),
    "cache_write_tokens": _Field("written", int, "%d"),
    "reasoning_tokens": _Field("reasoning", int, "%d"),
    "cost_tokens_nano": _Field("cost", int, "%d"),
    "cost_tools_nano": _Field("tools", int, "%d"),
    # Two closed sets of plain words: no escaping, so the quotes can be in the template.
    "quality": _Field("quality", str, '"%s"'),
    "source": _Field("source", str, '"%s"'),
    "price_id": _Field("price", str, "%s"),
    "latency_ms": _Field("ms", int, "%d"),
    "blocked": _Field("blocked", bool),
    "cost_explicit": _Field("explicit", bool),
    "tool_calls": _Field("calls", tuple),
    "description": _Field("description", str),
    "metadata": _Field("meta", dict),
    "details": _Field("details", dict),
    "corrects": _Field("corrects", str),
    "restates": _Field("restates", bool),
}
"""Every field of `Event`, by name and in its order."""

_HEAD_NAMES = ("user_id", "session_id", "model", "model_key", "provider", "plan", "period_start_us")
_BEGIN_NAMES = ("at_us", "input_tokens", "output_tokens", "cost_tokens_nano", "price_id")
_END_NAMES = ("at_us", "price_id", "latency_ms")  # written one by one, before the figures
_RARE = tuple(name for name, field in _FIELDS.items() if not field.form)
_FIGURES = tuple(  # all others of an end record; they go into the template as they are
    name
    for name, field in _FIELDS.items()
    if field.form and name not in ("event_id", *_HEAD_NAMES, *_END_NAMES)
)
_COUNTS = tuple(name for name in _FIGURES if _FIELDS[name].form == "%d")  # tokens and costs


def _template(names: Iterable[str]) -> str:
    return ",".join(f'"{_FIELDS[name].key}":{_FIELDS[name].form}' for name in names)


_HEAD = _template(_HEAD_NAMES)
_BEGIN = '{"k":"begin","id":"%s",%s,' + _template(_BEGIN_NAMES) + "%s}"
_END = '{"k":"end","id":%s,%s,' + _template((*_END_NAMES, *_FIGURES)) + "%s}"
_figures_of = values_of(Event, _FIGURES)
_rare_of = values_of(Event, _RARE)
_NO_RARE = tuple(Event._field_defaults[name] for name in _RARE)
_READERS = tuple(
    (_FIELDS[name].key, _FIELDS[name].read, Event._field_defaults.get(name), name in _RARE)
    for name in Event._fields
)
_NOT_IN_BEGIN: dict[str, Any] = {
    "quality": "estimated",
    "source": "auto",
    "details": {HELD: 1},
} | {_FIELDS[name].key: 0 for name in ("latency_ms", *_COUNTS) if name not in _BEGIN_NAMES}


# -- records


def encode_head(record: Begin | Event) -> str:
    """Write the part that the begin and the end record of a call share."""
    return _HEAD % (
        escape(record.user_id),
        escape(record.session_id),
        escape(record.model),
        escape(record.model_key),
        escape(record.provider),
        escape(record.plan),
        record.period_start_us,
    )


def encode_begin(begin: Begin, head: str = "") -> bytes:
    """Write a begin record; `head` is the result of `encode_head`, and "" computes it here."""
    record = _BEGIN % (
        begin.event_id,  # a UUID made here, so there is nothing to escape
        head or encode_head(begin),
        begin.at_us,
        begin.expected_input_tokens,
        begin.expected_output_tokens,
        begin.expected_cost_nano,
        escape(begin.price_id),
        (f',"meta":{begin.metadata_json}' if begin.metadata_json else "")
        + (',"blocked":true' if begin.blocked else ""),
    )
    return record.encode()


def encode_end(event: Event, head: str = "", *, ends: str = "") -> bytes:
    """Write an end record.

    Args:
        head: The `encode_head` of the call's begin record, if it is the event's too; "" computes
            it here.
        ends: Id of the begin record that this one answers, if it is not the event's own.
    """
    event_id = event.event_id
    tail = "" if _rare_of(event) == _NO_RARE else _tail(event)
    if ends and ends != event_id:  # the begin record had another id
        tail += f',"ends":"{ends}"'
    record = _END % (
        # Only the id of a manual event comes from the application.
        f'"{event_id}"' if event.source == "auto" else escape(event_id),
        head or encode_head(event),
        event.at_us,
        escape(event.price_id),
        event.latency_ms,
        *_figures_of(event),
        tail,
    )
    return record.encode()


def _tail(event: Event) -> str:
    """Write the rare fields that the event has."""
    # The braces are cut off: the template has its own.
    rare = {
        _FIELDS[name].key: dict(value) if isinstance(value, Mapping) else value
        for name, value, default in zip(_RARE, _rare_of(event), _NO_RARE, strict=True)
        if value != default and value != {}
    }
    return "," + json.dumps(rare, separators=(",", ":"))[1:-1] if rare else ""


def encode_void(event_id: str) -> bytes:
    """Write the record of a call that spent nothing."""
    return b'{"k":"void","id":"%s"}' % event_id.encode()


def decode_end(record: Mapping[str, Any]) -> Event:
    """Read an end record.

    Raises:
        KeyError, TypeError, ValueError: if the record is not one that `encode_end` wrote.
    """
    return Event._make(
        default if is_rare and key not in record else read(record[key])
        for key, read, default, is_rare in _READERS
    )


def event_from_begin(record: Mapping[str, Any]) -> Event:
    """Return the estimate of a call from its begin record; raises as `decode_end`."""
    return decode_end({**record, **_NOT_IN_BEGIN})


def difference(whole: Event, original: Event) -> Event:
    """Return the correction that turns an event into another: signed differences of its counts and
    costs, booked into the windows of the original.
    """
    deltas: Any = {name: getattr(whole, name) - getattr(original, name) for name in _COUNTS}
    return whole._replace(corrects=original.event_id, **deltas)
