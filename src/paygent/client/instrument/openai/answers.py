"""Reads the usage of OpenAI's answers and streams, route by route. Nothing is sent or changed.

Fields were read from the type definitions of openai 3.57 and 1.60 (2026-11).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from paygent.client.instrument.openai.usage import (
    from_images,
    from_openai,
    from_seconds,
    from_transcription,
    read_billed,
    with_hosted_tools,
)
from paygent.client.instrument.streams.reader import NO_FIELDS, counted, field, text_bytes
from paygent.core.estimate import Estimate
from paygent.core.request_size import utf8_length
from paygent.core.usage import Fields, JobStatus, Usage, fields_of, get, model_name

# -- answers


def read_chat(answer: Any, want_tools: bool) -> Usage | None:
    """Read a chat completion, a legacy completion, an embedding or a decision."""
    fields = fields_of(answer)
    reported = fields.get("usage")
    usage = from_openai(reported, model=fields.get("model"), tier=fields.get("service_tier"))
    if usage is None:
        return None
    if "cost" in fields_of(reported):  # OpenRouter's
        usage = usage._replace(billed_nano=read_billed(reported))
    if _always_searches(usage.model):
        usage = usage._replace(web_searches=1)
    if not want_tools:
        return usage
    names = [
        field(tool, "function", "name")
        for choice in fields.get("choices") or ()
        for tool in field(choice, "message", "tool_calls") or ()
    ]
    return usage._replace(tool_calls=_strings(names))


def _always_searches(model: str | None) -> bool:
    # Calls of `gpt-4o-search-preview` and `gpt-5-search-api` are each billed for a web search that
    # their usage does not report (OpenAI's price list, 2026-11).
    return model is not None and "-search-" in model


_UNFINISHED = ("queued", "in_progress")


def read_response(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
    """Read a response of the Responses API; a background one reports its usage when retrieved."""
    fields = fields_of(answer)
    usage = _of_response(fields, want_tools)
    response_id = fields.get("id")
    if fields.get("background") is not True or not isinstance(response_id, str):
        return usage
    status, model = fields.get("status"), model_name(fields.get("model"))
    ref = f"response:{response_id}"
    if usage is not None and status not in _UNFINISHED:
        return JobStatus(ref, (usage,), model)
    # A failed response is not billed; whether a cancelled one is billed is not documented.
    return JobStatus(ref, () if status == "failed" else None, model)


def _of_response(fields: Fields, want_tools: bool) -> Usage | None:
    reported = fields.get("usage")
    usage = from_openai(reported, model=fields.get("model"), tier=fields.get("service_tier"))
    if usage is None:
        return None
    output, tool_usage = fields.get("output"), fields.get("tool_usage")
    if output or tool_usage is not None:
        tools = fields.get("tools")
        usage = with_hosted_tools(usage, tool_usage=tool_usage, output=output, tools=tools)
    if "cost" in fields_of(reported):
        usage = usage._replace(billed_nano=read_billed(reported))
    if not want_tools:
        return usage
    calls = [item for item in output or () if get(item, "type") == "function_call"]
    return usage._replace(tool_calls=_strings([get(item, "name") for item in calls]))


def read_images(answer: Any, want_tools: bool) -> Usage | None:
    """Read generated or edited images; models that count no tokens are billed by the image."""
    fields = fields_of(answer)
    usage = from_images(fields.get("usage"))
    svg = fields.get("svg_usage")
    if usage is None:
        images = fields.get("data")
        return Usage(unlisted_units=len(images)) if isinstance(images, list) and images else None
    if svg is None:
        return usage
    # SVG images are written by another model.
    counts = {**fields_of(svg), "output_tokens_details": fields_of(svg)}
    svg_usage = from_openai(counts, model=get(svg, "model"))
    return usage._replace(others=(svg_usage,)) if svg_usage is not None else usage


def read_transcription(answer: Any, want_tools: bool) -> Usage | None:
    """Read a transcription or translation; plain text has no usage."""
    usage = from_transcription(get(answer, "usage"))
    return usage if usage is not None else from_seconds(get(answer, "duration"))


def read_speech(answer: Any, want_tools: bool) -> Usage | None:
    """Read speech: only an event stream reports usage, in its last event."""
    response = get(answer, "response") or answer
    if "event-stream" not in str(getattr(response, "headers", {}).get("content-type", "")):
        return None
    # The body was read by the SDK already; the usage is in the last event.
    for line in reversed(response.text.splitlines()):
        if line.startswith("data:") and '"usage"' in line:
            return from_openai(json.loads(line[5:]).get("usage"))
    return None


_FINISHED_BATCH = ("completed", "failed", "expired", "cancelled")


def read_batch(answer: Any, want_tools: bool) -> JobStatus | None:
    """Read a batch, which reports its usage once it has finished."""
    fields = fields_of(answer)
    batch_id, status = fields.get("id"), fields.get("status")
    model = model_name(fields.get("model"))
    if not isinstance(batch_id, str):
        return None
    usages: tuple[Usage, ...] | None = None
    if status in _FINISHED_BATCH:
        usage = from_openai(fields.get("usage"), model=model)
        if usage is not None:
            done = get(fields.get("request_counts"), "completed")
            # A sum over several requests: their tiers are not known.
            usages = (usage._replace(tier="batch", largest_input_tokens=-1 if done == 1 else 0),)
        elif status == "failed":
            usages = ()  # rejected as a whole
    return JobStatus(f"batch:{batch_id}", usages, model, "batch")


def _strings(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(name for name in names if isinstance(name, str) and name)


# -- streams


_NO_DELTA: Fields = {"content": None}
"""The fields of the missing delta of a legacy completion."""


@dataclasses.dataclass(slots=True, eq=False)
class ChatStream:
    """Reads the chunks of chat and legacy completions: usage is in the last chunk, if requested."""

    want_tools: bool
    drops_usage_chunk: bool
    _known: Usage | None = None
    _billed_nano: int | None = None
    _is_seen: bool = False
    _model: Any = None
    _text_bytes: int = 0
    _tools: list[Any] = dataclasses.field(default_factory=list)

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk."""
        # Nearly all are an SDK's object with some text, which is read here without a further call.
        fields = getattr(chunk, "__dict__", NO_FIELDS)
        choices = fields.get("choices")
        if type(choices) is list and len(choices) == 1 and fields.get("usage", chunk) is None:
            try:
                delta = choices[0].__dict__.get("delta")
                parts = delta.__dict__ if delta is not None else _NO_DELTA
                text = parts["content"]
                if (
                    type(text) is str
                    and parts["tool_calls"] is None
                    and parts["function_call"] is None
                    and parts.get("refusal") is None
                    and "reasoning" not in parts
                    and "reasoning_content" not in parts
                    and not getattr(delta, "__pydantic_extra__", None)
                ):
                    self._is_seen = True
                    self._text_bytes += len(text) if text.isascii() else utf8_length(text)
                    if self._model is None:
                        self._model = get(chunk, "model")
                    return None
            except (AttributeError, KeyError):
                pass  # another library's object, or a plain dict inside an object
        return self._feed_any(chunk)

    def _feed_any(self, chunk: Any) -> bool | None:
        fields = fields_of(chunk)
        choices, usage = fields.get("choices"), fields.get("usage")
        if choices is None and usage is None:
            return None  # not a known kind of chunk
        self._is_seen = True
        if usage is not None:
            self._model = fields.get("model")
            known = from_openai(usage, model=self._model, tier=fields.get("service_tier"))
            self._known = known or self._known
            # Some hosts send usage with every chunk; the last one counts.
            self._billed_nano = read_billed(usage)
            if not choices:
                return self.drops_usage_chunk
        for choice in choices or ():
            self._feed_choice(choice)
        if self._model is None:
            self._model = fields.get("model")
        return None

    def _feed_choice(self, choice: Any) -> None:
        delta = get(choice, "delta")
        if delta is None:  # a legacy completion
            self._text_bytes += text_bytes(get(choice, "text"))
            return
        fields = fields_of(delta)
        for name in _TEXTS:
            text = fields.get(name)
            if text is not None:
                self._text_bytes += text_bytes(text)
        function = fields.get("function_call")
        if function is not None:
            self._text_bytes += text_bytes(get(function, "arguments"))
        for tool in fields.get("tool_calls") or ():
            self._text_bytes += text_bytes(field(tool, "function", "arguments"))
            if self.want_tools:
                self._tools.append(field(tool, "function", "name"))

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return the usage read."""
        usage = self._known or counted(None, self._text_bytes, estimate, is_seen=self._is_seen)
        if usage is None:
            return None
        model, tools = usage.model or model_name(self._model), _strings(self._tools)
        usage = usage._replace(model=model, tool_calls=tools, billed_nano=self._billed_nano)
        return usage._replace(web_searches=1) if _always_searches(model) else usage


_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""Fields of a delta with text; the last two are DeepSeek's and OpenRouter's, for thinking."""


@dataclasses.dataclass(slots=True, eq=False)
class ResponseStream:
    """Reads the events of the Responses API: usage is in the event that ends the response."""

    want_tools: bool
    drops_usage_chunk: bool
    _answer: Usage | JobStatus | None = None
    _known: JobStatus | None = None
    _is_seen: bool = False
    _model: Any = None
    _text_bytes: int = 0

    def feed(self, event: Any) -> bool | None:
        """Read one event."""
        # As in `ChatStream`: nearly all are an SDK's object with some text.
        fields = getattr(event, "__dict__", NO_FIELDS)
        text = fields.get("delta")
        if type(text) is str:
            kind = fields.get("type")
            if type(kind) is str and kind.endswith(".delta"):
                self._is_seen = True
                self._text_bytes += len(text) if text.isascii() else utf8_length(text)
                return None
        self._feed_any(event)
        return None

    def _feed_any(self, event: Any) -> None:
        kind = get(event, "type")
        if not isinstance(kind, str):
            return
        self._is_seen = True
        if kind.endswith(".delta"):
            self._text_bytes += text_bytes(get(event, "delta"))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._answer = read_response(get(event, "response"), self.want_tools)
        elif kind in ("response.created", "response.queued"):
            self._model = field(event, "response", "model")
            created = read_response(get(event, "response"), False)
            self._known = created if isinstance(created, JobStatus) else None

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage read."""
        if self._answer is not None or self._known is not None:
            return self._answer or self._known  # a background response continues without its reader
        usage = counted(None, self._text_bytes, estimate, is_seen=self._is_seen)
        return usage._replace(model=model_name(self._model)) if usage is not None else None


@dataclasses.dataclass(slots=True, eq=False)
class FinalEvents:
    """Reads the events of images, speech and transcriptions: usage is in the last event of each.

    Earlier text says little about the cost, which is for images and sound. So a stream that is
    abandoned is booked at what was held for it.
    """

    want_tools: bool
    drops_usage_chunk: bool
    _known: Usage | None = None

    def feed(self, event: Any) -> bool | None:
        """Read one event."""
        reported = get(event, "usage")
        if reported is None:
            return None
        is_image = str(get(event, "type")).startswith("image_")
        usage = from_images(reported) if is_image else from_transcription(reported)
        if usage is not None and self._known is not None and is_image:  # another image of the call
            known = self._known
            sums = {name: getattr(usage, name) + getattr(known, name) for name in _IMAGE_COUNTS}
            usage = usage._replace(**sums)
        self._known = usage or self._known
        return None

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return the usage read."""
        return self._known


_IMAGE_COUNTS = ("input_tokens", "output_tokens", "image_input_tokens", "image_output_tokens")
