"""Reads the usage of Anthropic's answers, streams and batches. Nothing is sent or changed.

Fields were read from the type definitions of anthropic 2.13 and 0.40 (2026-11).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from paygent.client.instrument.anthropic.usage import from_anthropic
from paygent.client.instrument.streams.reader import (
    NO_FIELDS,
    LineReader,
    counted,
    field,
    text_bytes,
)
from paygent.core.estimate import Estimate
from paygent.core.request_size import utf8_length
from paygent.core.usage import COUNTS, JobStatus, Usage, fields_of, get


def read_message(answer: Any, want_tools: bool) -> Usage | None:
    """Read a message."""
    usage = from_anthropic(get(answer, "usage"), model=get(answer, "model"))
    if usage is None or not want_tools:
        return usage
    blocks = [block for block in get(answer, "content") or () if get(block, "type") == "tool_use"]
    names = (get(block, "name") for block in blocks)
    return usage._replace(tool_calls=tuple(name for name in names if isinstance(name, str)))


_USAGE_FIELDS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "cache_creation", "output_tokens_details", "server_tool_use", "service_tier", "speed",
    "inference_geo", "iterations",
)  # fmt: skip

_TEXTS = ("text", "thinking", "partial_json")
"""Fields of a delta with text."""

_TEXT_OF_KIND = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}
"""The one of `_TEXTS` that each kind of delta has."""


@dataclasses.dataclass(slots=True, eq=False)
class MessageStream:
    """Reads the events of a message: input comes with the first, output with the last. Later values
    of a field replace earlier ones; they are not added.
    """

    want_tools: bool
    drops_usage_chunk: bool
    _fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    _is_whole: bool = False
    _model: Any = None
    _text_bytes: int = 0
    _tools: list[str] = dataclasses.field(default_factory=list)

    def feed(self, event: Any) -> bool | None:
        """Read one event."""
        # Nearly all are an SDK's object with some text, which is read here without a further call.
        fields = getattr(event, "__dict__", NO_FIELDS)
        if fields.get("type") == "content_block_delta":
            delta = fields.get("delta")
            parts = getattr(delta, "__dict__", NO_FIELDS)
            kind = parts.get("type")
            name = _TEXT_OF_KIND.get(kind) if type(kind) is str else None
            # Two fields: the kind, and the text of that kind.
            if name is not None and len(parts) == 2:
                text = parts.get(name)
                if type(text) is str and not getattr(delta, "__pydantic_extra__", None):
                    self._text_bytes += len(text) if text.isascii() else utf8_length(text)
                    return None
        self._feed_any(event)
        return None

    def _feed_any(self, event: Any) -> None:
        fields = fields_of(event)
        kind = fields.get("type")
        if kind == "content_block_delta":
            delta = fields_of(fields.get("delta"))
            for name in _TEXTS:
                text = delta.get(name)
                if text is not None:
                    self._text_bytes += text_bytes(text)
        elif kind == "message_delta":
            self._update(fields.get("usage"))
            self._is_whole = True
        elif kind == "message_start":
            self._model = field(event, "message", "model")
            self._update(field(event, "message", "usage"))
        elif kind == "content_block_start" and self.want_tools:
            block = fields.get("content_block")
            if get(block, "type") == "tool_use":
                self._tools.append(str(get(block, "name")))

    def _update(self, usage: Any) -> None:
        # Only the first event divides the cache writes, so an absent field clears none.
        for name in _USAGE_FIELDS:
            value = get(usage, name)
            if value is not None:
                self._fields[name] = value

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return the usage read."""
        # Without its last event the output is counted from the text.
        known = from_anthropic(self._fields or None, model=self._model)
        if known is None or not self._is_whole:
            known = counted(known, self._text_bytes, estimate)
        return known._replace(tool_calls=tuple(self._tools)) if known is not None else None


def read_batch(answer: Any, want_tools: bool) -> JobStatus | None:
    """Read a batch that was started; its results report its usage."""
    batch_id = get(answer, "id")
    return JobStatus(batch_ref(batch_id), tier="batch") if isinstance(batch_id, str) else None


def batch_ref(batch_id: str) -> str:
    """Return the `JobStatus.ref` of a batch."""
    return f"messages.batch:{batch_id}"


@dataclasses.dataclass(slots=True, eq=False)
class BatchResults(LineReader):
    """Reads the results of a batch, a line for each request; its usage is known once all are read.

    Large requests, which may have reached a price tier, are kept apart; the others are summed by
    model, so that memory does not grow with the batch.
    """

    want_tools: bool
    drops_usage_chunk: bool
    ref: str
    _small: dict[str | None, Usage] = dataclasses.field(default_factory=dict)
    _large: list[Usage] = dataclasses.field(default_factory=list)
    _is_whole: bool = False
    _has_gaps: bool = False

    def feed(self, line: Any) -> bool | None:
        """Read one line. Failed and expired requests are not billed."""
        # Tools of a batch run later, outside the call, so their names are not read.
        usage = read_message(field(line, "result", "message"), False)
        if usage is None:
            return None
        usage = usage._replace(tier="batch")
        # Only these may have reached a price tier.
        if usage.input_tokens > _SMALL_TOKENS_MAX or usage.others:
            self._large.append(usage)
        else:
            before = self._small.get(usage.model)
            small = usage._replace(largest_input_tokens=_SMALL_TOKENS_MAX)
            self._small[usage.model] = small if before is None else _sum(before, small)
        return None

    def end(self, *, has_gaps: bool = False) -> None:
        """Record that the last line was passed; with gaps, some lines could not be read."""
        self._is_whole = True
        self._has_gaps = has_gaps

    def usage(self, estimate: Estimate) -> JobStatus:
        """Return the batch's usage if it was read to its end."""
        usages = (*self._small.values(), *self._large)
        if not self._is_whole or (self._has_gaps and not usages):
            return JobStatus(self.ref)
        if self._has_gaps:
            usages = tuple(usage._replace(quality="partial") for usage in usages)
        return JobStatus(self.ref, usages)


_SMALL_TOKENS_MAX = 32_768  # no price list has a tier below this


def _sum(one: Usage, other: Usage) -> Usage:
    """Add two usages of one model."""
    sums: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in COUNTS}
    quality = one.quality if other.quality == "exact" else "partial"
    return one._replace(**sums, quality=quality)


def expand_batch(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Return a request as large as all of a batch, which is gated as a whole; and their number."""
    given = body.get("requests")
    requests: Iterable[Any] = given if isinstance(given, (list, tuple)) else ()
    params = [params for params in (get(request, "params") for request in requests) if params]
    # The same fields that are measured in a single request.
    texts = [get(each, name) for each in params for name in ("system", "messages", "tools")]
    bounds = [get(each, "max_tokens") for each in params]
    whole = {
        "model": next((get(each, "model") for each in params), None),
        "messages": [text for text in texts if text is not None],
        "max_tokens": sum(bound for bound in bounds if type(bound) is int),
    }
    return whole, max(len(params), 1)
