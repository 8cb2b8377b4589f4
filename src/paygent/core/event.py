"""The one integer event: what a call or a manual entry cost, as an append-only fact.

Journal, store and reports share this form; `models.UsageEvent` is its public face. A *begin* record
says what a call holds before the provider is asked; an *end* record is the whole event; a *void*
record says that nothing was spent. A begin without an end becomes an event of quality `estimated`
(`presumed`).

The encoders build JSON from templates, because `json.dumps` of a dict of this size costs several
microseconds and this is on the path of every call; strings are escaped once and remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from paygent.core.usage import Quality

Source = Literal["auto", "manual"]

_ESCAPED_MAX = 4096  # distinct user ids, sessions, models and price ids remembered in escaped form

escape = lru_cache(maxsize=_ESCAPED_MAX)(json.dumps)
"""Return a string as a JSON string, remembering recent ones."""


class Event(NamedTuple):
    """One usage event. Counts are tokens, amounts nano-dollars, times microseconds since 1970 UTC.

    Attributes:
        event_id: UUIDv7 of ours, or the uuid5 of an idempotency key.
        user_id: Whose use it is.
        session_id: In which session.
        at_us: When the call began; decides the windows that the event counts to.
        model: The model as named by the provider's answer, or "" where no model was used.
        model_key: Its canonical name (or the exact one where the plan names that); limits and
            reports by model count under this name.
        provider: "openai", "anthropic", "azure", …; "" where there is none.
        plan: Name of the plan that the call ran under.
        period_start_us: Start of the billing period that the call belongs to.
        input_tokens, output_tokens: Inclusive totals.
        cached_input_tokens, cache_write_tokens, reasoning_tokens: Parts of these; written tokens of
            both lifetimes together.
        cost_tokens_nano: Tokens and the provider's own per-request fees, rounded once.
        cost_tools_nano: The plan's prices for tools, rounded once.
        quality: How far the figures can be trusted.
        source: "auto" for a metered call, "manual" for `record_event`.
        price_id: The price list that was used; "" for an explicit cost.
        latency_ms: From the call's begin to its settlement.
        blocked: Ran past a hard gate, since the product chose not to raise.
        cost_explicit: The caller of `record_event` gave the cost.
        tool_calls: Names of tools, in order.
        description: Free text of a manual event.
        metadata: What the context carried, at most 16 keys and 1 kB.
        details: Counts of the rarer components by name (long cache writes, audio, image, searches).
        corrects: Id of the event that this one corrects: then counts and costs are signed
            differences (the one place where negatives are legal), user, session, time, model, plan
            and period are the original's, and it is no call. None for every other event.
        restates: The correction's figures are those of the whole, and whoever has the original
            turns them into differences; for who does not know it.
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
        """How many calls this is: a correction is none."""
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
    """What a call holds, written before the provider is asked; fields as in `Event`.

    Attributes:
        expected_input_tokens, expected_output_tokens, expected_cost_nano: What is booked if the
            call is never heard of again.
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


_BEGIN = '{"k":"begin","id":"%s",%s,"at":%d,"in":%d,"out":%d,"cost":%d,"price":%s%s}'
_END = (
    '{"k":"end","id":%s,%s,"at":%d,"in":%d,"out":%d,"cached":%d,"written":%d,"reasoning":%d,'
    '"cost":%d,"tools":%d,"quality":"%s","source":"%s","price":%s,"ms":%d%s}'
)
_HEAD = '"user":%s,"session":%s,"model":%s,"key":%s,"provider":%s,"plan":%s,"period":%d'


def encode_head(begin: Begin) -> str:
    """Write what the begin and the end record of a call have in common, once for both."""
    return _HEAD % (
        escape(begin.user_id),
        escape(begin.session_id),
        escape(begin.model),
        escape(begin.model_key),
        escape(begin.provider),
        escape(begin.plan),
        begin.period_start_us,
    )


def encode_begin(begin: Begin, head: str = "") -> bytes:
    """Write a begin record.

    Args:
        head: What `encode_head` wrote of it; "" writes it here.
    """
    tail = f',"meta":{begin[13]}' if begin[13] else ""
    return (
        _BEGIN
        % (
            begin[0],
            head or encode_head(begin),
            begin[3],
            begin[9],
            begin[10],
            begin[11],
            escape(begin[12]),
            tail,
        )
    ).encode()


def encode_end(event: Event, head: str = "", *, ends: str = "") -> bytes:
    """Write an end record.

    Args:
        head: What `encode_head` wrote of the call's begin record, if the event says the same; ""
            writes it here.
        ends: Id of the begin record that this answers, where it is not the event's own.
    """
    if not head:
        head = _HEAD % (*map(escape, (*event[1:3], *event[4:8])), event[8])
    tail = "" if event[20:] == _NO_TAIL else _tail(event)
    if ends and ends != event[0]:
        tail += f',"ends":"{ends}"'
    return (
        _END
        % (
            f'"{event[0]}"' if event[17] == "auto" else escape(event[0]),
            head,
            event[3],
            *event[9:18],
            escape(event[18]),
            event[19],
            tail,
        )
    ).encode()


_NO_TAIL = (False, False, (), None, None, None, None, False)


def _tail(event: Event) -> str:
    """Write the fields that most events do not have."""
    rare: dict[str, Any] = {}
    if event.blocked:
        rare["blocked"] = True
    if event.cost_explicit:
        rare["explicit"] = True
    if event.tool_calls:
        rare["calls"] = list(event.tool_calls)
    if event.description is not None:
        rare["description"] = event.description
    if event.metadata:
        rare["meta"] = dict(event.metadata)
    if event.details:
        rare["details"] = dict(event.details)
    if event.corrects is not None:
        rare["corrects"] = event.corrects
    if event.restates:
        rare["restates"] = True
    return "," + json.dumps(rare, separators=(",", ":"))[1:-1] if rare else ""


def encode_void(event_id: str) -> bytes:
    """Write the record of a call that spent nothing."""
    return b'{"k":"void","id":"%s"}' % event_id.encode()


def decode_end(record: Mapping[str, Any]) -> Event:
    """Read an end record.

    Raises:
        KeyError, TypeError, ValueError: if the record is not one that `encode_end` wrote.
    """
    return Event(
        event_id=str(record["id"]),
        user_id=str(record["user"]),
        session_id=str(record["session"]),
        at_us=int(record["at"]),
        model=str(record["model"]),
        model_key=str(record["key"]),
        provider=str(record["provider"]),
        plan=str(record["plan"]),
        period_start_us=int(record["period"]),
        input_tokens=int(record["in"]),
        output_tokens=int(record["out"]),
        cached_input_tokens=int(record["cached"]),
        cache_write_tokens=int(record["written"]),
        reasoning_tokens=int(record["reasoning"]),
        cost_tokens_nano=int(record["cost"]),
        cost_tools_nano=int(record["tools"]),
        quality=record["quality"],
        source=record["source"],
        price_id=str(record["price"]),
        latency_ms=int(record["ms"]),
        blocked=bool(record.get("blocked", False)),
        cost_explicit=bool(record.get("explicit", False)),
        tool_calls=tuple(record.get("calls", ())),
        description=record.get("description"),
        metadata=record.get("meta"),
        details=record.get("details"),
        corrects=record.get("corrects"),
        restates=bool(record.get("restates", False)),
    )


def event_from_begin(record: Mapping[str, Any]) -> Event:
    """Return the event of a call that began and was never heard of again: its estimate.

    Args:
        record: A begin record.

    Raises:
        KeyError, TypeError, ValueError: if the record is not one that `encode_begin` wrote.
    """
    return Event(
        event_id=str(record["id"]),
        user_id=str(record["user"]),
        session_id=str(record["session"]),
        at_us=int(record["at"]),
        model=str(record["model"]),
        model_key=str(record["key"]),
        provider=str(record["provider"]),
        plan=str(record["plan"]),
        period_start_us=int(record["period"]),
        input_tokens=int(record["in"]),
        output_tokens=int(record["out"]),
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        cost_tokens_nano=int(record["cost"]),
        cost_tools_nano=0,
        quality="estimated",
        price_id=str(record["price"]),
        metadata=record.get("meta"),
    )


def difference(whole: Event, original: Event) -> Event:
    """Return the correction that turns an event into another: signed differences of its counts and
    costs, booked into the windows of the original.
    """
    return whole._replace(
        corrects=original.event_id,
        input_tokens=whole.input_tokens - original.input_tokens,
        output_tokens=whole.output_tokens - original.output_tokens,
        cached_input_tokens=whole.cached_input_tokens - original.cached_input_tokens,
        cache_write_tokens=whole.cache_write_tokens - original.cache_write_tokens,
        reasoning_tokens=whole.reasoning_tokens - original.reasoning_tokens,
        cost_tokens_nano=whole.cost_tokens_nano - original.cost_tokens_nano,
        cost_tools_nano=whole.cost_tools_nano - original.cost_tools_nano,
    )
