"""Usage events as documented JSON: the one codec between it and `Event`.

An object has the fields of `types.UsageEvent`; `id`, `user_id` and `timestamp` are required, and
unknown fields are ignored. Costs are JSON numbers of dollars, read exactly through their shortest
decimal; a `…_nano` twin, where it is given, is the exact amount instead.

A list is read field by field on a fast path. An event that the fast path does not accept is read
again by `_Reader`, which names every broken rule and decides alone what is valid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from math import isfinite
from typing import Any

from paygent.core.event import Event
from paygent.core.money import COST_NANO_MAX, NANO_PER_USD, read_decimal, scale
from paygent.core.period import to_datetime, to_us
from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, ValidationErrors

EVENTS_MAX = 1_000
"""Events in one list."""

CLAMPED = "clamped"
"""Key in the details of an event with a timestamp that lay in the future and was set to now."""

CLOCK_SKEW_MAX_US = 5 * 60 * 10**6
"""How far a sender's clock may be ahead."""

ID_CHARS_MAX = 128

REASON_CHARS_MAX = 2 * NAME_CHARS_MAX
"""Length of a `gate_reason`: it may contain the name of a model."""

_DESCRIPTION_CHARS_MAX = 2_000
_TOOL_CALLS_MAX = 1_000
_METADATA_KEYS_MAX = 16
_METADATA_BYTES_MAX = 1_000
_STAMP_CHARS_MAX = 64
_DETAILS_MAX = 32
_COUNT_MAX = 10**12  # tokens or milliseconds of one event; more is a mistake of unit
_QUALITIES = ("exact", "partial", "estimated", "unpriced")
_SOURCES = ("auto", "manual")
_COUNTS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
    "reasoning_tokens",
)  # fmt: skip
_ID_RULE = f"must be a string of 1 to {ID_CHARS_MAX} characters"
_REASON_RULE = f"must be a string of at most {REASON_CHARS_MAX} characters"
_TIMESTAMP_RULE = "must be an ISO 8601 time with a time zone, from 1970 on"

CanonicalName = Callable[[str], str]
"""Returns the name under which limits and reports count a model."""


def read_events(given: Any, now_us: int, canonical: CanonicalName) -> tuple[Event, ...]:
    """Read a list of events.

    Plan and billing period are left empty: the ledger knows them.

    Args:
        given: The parsed JSON.
        now_us: The ledger's clock; an event more than five minutes ahead of it happened now.
        canonical: Names a model for limits and reports.

    Raises:
        InvalidValue: Names every field that breaks a rule, such as `events[3].timestamp`.
    """
    errors = ValidationErrors("events")
    if not isinstance(given, list):
        errors.add("events", given, "must be a list of usage events")
    elif len(given) > EVENTS_MAX:
        errors.add("events", len(given), f"must have at most {EVENTS_MAX} events")
    errors.raise_if_any()
    latest_us = now_us + CLOCK_SKEW_MAX_US
    events = []
    for number, item in enumerate(given):
        try:
            event = _read_plain(item, canonical)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            event = None
        if event is None:
            event = _Reader(item, f"events[{number}]", errors).read(canonical)
        if event.at_us > latest_us:
            event = event._replace(at_us=now_us, details={**(event.details or {}), CLAMPED: 1})
        events.append(event)
    errors.raise_if_any()
    return tuple(events)


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an event as documented JSON, with the exact twins of its costs."""
    costs = {
        "cost_tokens": event.cost_tokens_nano,
        "cost_tools": event.cost_tools_nano,
        "cost_total": event.cost_nano,
    }
    return {
        "id": event.event_id,
        "user_id": event.user_id,
        "session_id": event.session_id or None,
        "timestamp": to_datetime(event.at_us).isoformat(),
        "model": event.model or None,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "total_tokens": event.total_tokens,
        "tool_calls": list(event.tool_calls),
        **{name: amount / NANO_PER_USD for name, amount in costs.items()},
        **{f"{name}_nano": amount for name, amount in costs.items()},
        "metadata": dict(event.metadata or {}),
        "source": event.source,
        "description": event.description,
        "cost_explicit": event.cost_explicit,
        "provider": event.provider or None,
        "cached_input_tokens": event.cached_input_tokens,
        "cache_write_tokens": event.cache_write_tokens,
        "reasoning_tokens": event.reasoning_tokens,
        "quality": event.quality,
        "price_id": event.price_id or None,
        "latency_ms": event.latency_ms,
        "blocked": event.blocked,
        "gate_reason": event.gate_reason or None,
        "corrects": event.corrects,
        **({"model_key": event.model_key} if event.model_key else {}),
        **({"details": dict(event.details)} if event.details else {}),
        **({"restates": True} if event.restates else {}),
    }


# -- the fast path


def _read_plain(item: dict[str, Any], canonical: CanonicalName) -> Event | None:
    """Read an event as applications send it; None for one that `_Reader` has to judge.

    Whatever is accepted here, `_Reader` reads to the same event.
    """
    get = item.get
    event_id, user_id, stamp = item["id"], item["user_id"], item["timestamp"]
    session_id, model, provider = get("session_id"), get("model"), get("provider")
    price_id = get("price_id")
    session_id = "" if session_id is None else session_id
    model = "" if model is None else model
    provider = "" if provider is None else provider
    price_id = "" if price_id is None else price_id
    model_key = get("model_key")
    model_key = "" if model_key is None else model_key
    # That they can be joined proves that each is a string.
    texts = event_id + user_id + session_id + model + provider + price_id + model_key
    if len(texts) > NAME_CHARS_MAX:
        return None
    if not model_key and model:
        model_key = canonical(model)
    if not event_id or len(event_id) > ID_CHARS_MAX or not user_id:
        return None
    moment = datetime.fromisoformat(stamp)
    # Of times up to then a double holds every microsecond.
    if moment.tzinfo is None or not (1970 < moment.year < 2100) or len(stamp) > _STAMP_CHARS_MAX:
        return None
    incoming, outgoing, total = item["input_tokens"], item["output_tokens"], item["total_tokens"]
    cached, written = get("cached_input_tokens", 0), get("cache_write_tokens", 0)
    reasoning, latency_ms = get("reasoning_tokens", 0), get("latency_ms", 0)
    counts = (incoming, outgoing, total, cached, written, reasoning, latency_ms)
    if set(map(type, counts)) != _ONLY_INT or min(counts) < 0 or max(counts) > _COUNT_MAX:
        return None
    tokens_usd, tools_usd = item["cost_tokens"], item["cost_tools"]
    total_usd = item["cost_total"]
    if not {type(tokens_usd), type(tools_usd), type(total_usd)} <= _NUMBERS:
        return None
    tokens_nano, tools_nano = round(tokens_usd * 1e9), round(tools_usd * 1e9)
    # A double that is the nearest to an amount of nano-dollars below 10⁶ dollars stands for it.
    if tokens_nano / 1e9 != tokens_usd or tools_nano / 1e9 != tools_usd:
        return None
    if tokens_nano < 0 or tools_nano < 0 or tokens_nano + tools_nano >= COST_NANO_MAX:
        return None
    if total != incoming + outgoing or total_usd != (tokens_nano + tools_nano) / 1e9:
        return None
    twins = get("cost_tokens_nano"), get("cost_tools_nano")
    if twins != (None, None) and (
        twins != (tokens_nano, tools_nano) or set(map(type, twins)) != _ONLY_INT
    ):
        return None
    quality, source = get("quality", "exact"), get("source", "auto")
    if quality not in _QUALITIES or source not in _SOURCES:
        return None
    for name, usual in _USUAL:
        value = get(name)
        if value is not None and value is not usual:
            return None
    tool_calls, metadata = get("tool_calls"), get("metadata")
    if tool_calls is not None and tool_calls != []:
        return None
    if metadata is not None and not _is_plain(metadata):
        return None
    # By position: keywords take a microsecond.
    return Event(
        event_id, user_id, session_id, round(moment.timestamp() * 1e6), model,
        model_key, provider, "", 0, incoming, outgoing, cached, written,
        reasoning, tokens_nano, tools_nano, quality, source, price_id, latency_ms, False, False,
        (), None, metadata or None,
    )  # fmt: skip


_ONLY_INT = {int}
_NUMBERS = {int, float}
_USUAL = (
    ("blocked", False),
    ("gate_reason", None),
    ("cost_explicit", False),
    ("corrects", None),
    ("description", None),
    ("restates", False),
    ("details", None),
)


def _is_plain(metadata: Any) -> bool:
    """Return whether metadata is small and of plain texts, so that it is within its bounds."""
    if type(metadata) is not dict or len(metadata) > _METADATA_KEYS_MAX:
        return False
    size = 2
    for key, value in metadata.items():
        text = key + value if type(value) is str else "\n"
        if not (text.isascii() and text.isprintable()):
            return False
        size += 2 * len(text) + 6  # each character may be escaped; quotes, colon and comma
    return size <= _METADATA_BYTES_MAX


# -- the whole rules


class _Reader:
    """Reads one event, and records every rule that a field of it breaks."""

    def __init__(self, item: Any, path: str, errors: ValidationErrors) -> None:
        self._path = path
        self._errors = errors
        self._item: Mapping[str, Any] = item if isinstance(item, dict) else {}
        if not isinstance(item, dict):
            errors.add(path, item, "must be an object with the fields of a usage event")
        self._is_object = isinstance(item, dict)

    def read(self, canonical: CanonicalName) -> Event:
        """Return the event; one of no use where a rule is broken."""
        if not self._is_object:
            return _NO_EVENT
        corrects = self._text("corrects", chars_max=ID_CHARS_MAX, rule=_ID_RULE) or None
        counts: Any = self._tokens(is_correction=corrects is not None)
        tokens_nano, tools_nano, has_cost = self._costs(is_correction=corrects is not None)
        model = self._text("model")
        has_tokens = any(counts.values())
        default_quality = "exact" if has_cost or not has_tokens else "unpriced"
        return Event(
            event_id=self._text("id", chars_max=ID_CHARS_MAX, rule=_ID_RULE, is_required=True),
            user_id=self._text("user_id", is_required=True),
            session_id=self._text("session_id"),
            at_us=self._time(),
            model=model,
            model_key=self._text("model_key") or (canonical(model) if model else ""),
            provider=self._text("provider"),
            plan="",
            period_start_us=0,
            **counts,
            cost_tokens_nano=tokens_nano,
            cost_tools_nano=tools_nano,
            quality=self._choice("quality", _QUALITIES, default_quality),
            source=self._choice("source", _SOURCES, "auto"),
            price_id=self._text("price_id"),
            latency_ms=self._count("latency_ms"),
            blocked=self._flag("blocked"),
            cost_explicit=self._flag("cost_explicit"),
            tool_calls=self._tool_calls(),
            description=self._description(),
            metadata=self._metadata(),
            details=self._details(),
            gate_reason=self._gate_reason(),
            corrects=corrects,
            restates=self._flag("restates"),
        )

    def _gate_reason(self) -> str:
        reason = self._text("gate_reason", chars_max=REASON_CHARS_MAX, rule=_REASON_RULE)
        return reason if self._item.get("blocked") is True else ""

    def _add(self, name: str, value: Any, rule: str) -> None:
        self._errors.add(f"{self._path}.{name}", value, rule)

    def _text(
        self,
        name: str,
        *,
        chars_max: int = NAME_CHARS_MAX,
        rule: str = NAME_RULE,
        is_required: bool = False,
    ) -> str:
        value = self._item.get(name)
        if isinstance(value, str) and len(value) <= chars_max and (value or not is_required):
            return value
        if value is not None or is_required:
            self._add(name, value, rule)
        return ""

    def _time(self) -> int:
        given = self._item.get("timestamp")
        moment = read_time(given)
        if moment is None:
            self._add("timestamp", given, _TIMESTAMP_RULE)
            return 0
        return moment

    def _count(self, name: str, *, least: int = 0) -> int:
        value = self._item.get(name)
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= _COUNT_MAX:
            self._add(name, value, f"must be a whole number from {least} to 10¹²")
            return 0
        return value

    def _tokens(self, *, is_correction: bool) -> dict[str, int]:
        least = -_COUNT_MAX if is_correction else 0
        counts = {name: self._count(name, least=least) for name in _COUNTS}
        total = self._count("total_tokens", least=least)
        total_here = counts["input_tokens"] + counts["output_tokens"]
        if total and not total_here:
            counts["input_tokens"] = total  # the sender knows the sum alone
        elif total and total != total_here:
            self._add("total_tokens", total, "must be input_tokens + output_tokens")
        return counts

    def _costs(self, *, is_correction: bool) -> tuple[int, int, bool]:
        """Return the costs of tokens and tools, and whether any cost was given."""
        names = ("cost_tokens", "cost_tools", "cost_total")
        tokens, tools, total = (self._cost(name, is_correction=is_correction) for name in names)
        has_cost = not tokens is tools is total is None
        parts = (tokens or 0) + (tools or 0)
        if total is not None and (tokens is None or (not parts and total)):
            # A cost that the application gave, or a sender that knows the sum alone.
            return total - (tools or 0), tools or 0, has_cost
        if total is not None and abs(total - parts) > 1:  # each may be rounded by itself
            self._add("cost_total", self._item.get("cost_total"), "must be the sum of the costs")
        return tokens or 0, tools or 0, has_cost

    def _cost(self, name: str, *, is_correction: bool) -> int | None:
        exact = self._item.get(name + "_nano")
        if exact is not None:
            name, number = name + "_nano", read_decimal(exact) if type(exact) is int else None
            rule, factor = "must be a whole number of nano-dollars", 1
        else:
            exact = self._item.get(name)
            if exact is None:
                return None
            number = None if isinstance(exact, str) else read_decimal(exact)
            rule, factor = "must be a number of dollars", NANO_PER_USD
        if number is None or not number.is_finite():
            self._add(name, exact, rule)
            return 0
        least = -COST_NANO_MAX if is_correction else 0
        if not least <= number * factor <= COST_NANO_MAX:
            low = "-1,000,000" if is_correction else "0"
            self._add(name, exact, f"must be from {low} to 1,000,000 dollars")
            return 0
        return scale(number, factor)

    def _choice(self, name: str, allowed: tuple[str, ...], default: str) -> Any:
        value = self._item.get(name)
        if value is None:
            return default
        if value not in allowed:
            self._add(name, value, f"must be one of {', '.join(allowed)}")
            return default
        return value

    def _flag(self, name: str) -> bool:
        value = self._item.get(name)
        if value is not None and not isinstance(value, bool):
            self._add(name, value, "must be true or false")
            return False
        return bool(value)

    def _tool_calls(self) -> tuple[str, ...]:
        value = self._item.get("tool_calls")
        if value is None:
            return ()
        is_list = isinstance(value, list) and len(value) <= _TOOL_CALLS_MAX
        if not is_list or not all(isinstance(n, str) and len(n) <= NAME_CHARS_MAX for n in value):
            rule = f"must be at most {_TOOL_CALLS_MAX} names of up to {NAME_CHARS_MAX} characters"
            self._add("tool_calls", value, rule)
            return ()
        return tuple(value)

    def _description(self) -> str | None:
        value = self._item.get("description")
        if value is not None and not isinstance(value, str):
            self._add("description", value, "must be a string")
            return None
        return value and value[:_DESCRIPTION_CHARS_MAX]

    def _details(self) -> dict[str, int] | None:
        value = self._item.get("details")
        if value is None:
            return None
        is_small = isinstance(value, dict) and len(value) <= _DETAILS_MAX
        if not is_small or not all(
            isinstance(name, str)
            and len(name) <= NAME_CHARS_MAX
            and type(count) is int
            and abs(count) <= _COUNT_MAX
            for name, count in value.items()
        ):
            self._add("details", value, f"must have at most {_DETAILS_MAX} names with counts")
            return None
        return value or None

    def _metadata(self) -> dict[str, Any] | None:
        """Return metadata within its bounds."""
        value = self._item.get("metadata")
        if value is None:
            return None
        if not isinstance(value, dict):
            self._add("metadata", value, "must be an object")
            return None
        return bounded_metadata(value)


def bounded_metadata(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return metadata within its bounds, as the SDK does it; the excess is dropped.

    At most 16 keys and 1 kB; a value that is no text, number or boolean is its JSON text.
    """
    kept: dict[str, Any] = {}
    size = 2
    for key, item in given.items():
        is_plain = item is None or isinstance(item, (str, int))
        is_plain = is_plain or (isinstance(item, float) and isfinite(item))
        if isinstance(item, Decimal):
            plain: Any = float(item)
        else:
            plain = item if is_plain else json.dumps(item, default=float)
        size += len(json.dumps({key: plain})) - 1
        if len(kept) >= _METADATA_KEYS_MAX or size > _METADATA_BYTES_MAX:
            break
        kept[key] = plain
    return kept or None


def read_time(given: Any) -> int | None:
    """Return an ISO 8601 time with a zone in microseconds since 1970 UTC; None for any other."""
    if not isinstance(given, str) or not 16 <= len(given) <= _STAMP_CHARS_MAX:
        return None
    try:
        # Python 3.10 does not read Z, nor fractions of other than 3 or 6 digits.
        text = given[:-1] + "+00:00" if given[-1] in "zZ" else given
        moment = datetime.fromisoformat(_with_microseconds(text))
        if moment.tzinfo is None or moment.astimezone(timezone.utc).year < 1970:
            return None
        return to_us(moment)
    except (ValueError, OverflowError):
        return None


def _with_microseconds(text: str) -> str:
    """Return a time with six digits of its second's fraction."""
    head, point, tail = text.partition(".")
    if not point:
        return text
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"


_NO_EVENT = Event("", "", "", 0, "", "", "", "", 0, 0, 0, 0, 0, 0, 0, 0)
