"""What OpenAI's answers and streams tell of their use, route by route. Readers only: no names of
routes or hosts, nothing is sent or changed.

Fields were read from the type definitions of openai 3.57 and 1.60 (2026-11).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from paygent.client.instrument.streams.reader import counted, field, text_bytes
from paygent.core.estimate import BYTES_PER_TOKEN, Estimate
from paygent.core.usage import (
    Fields,
    JobStatus,
    Usage,
    fields_of,
    from_images,
    from_openai,
    from_seconds,
    from_transcription,
    get,
    read_billed,
    with_hosted_tools,
)

# -- answers


def read_chat(answer: Any, want_tools: bool) -> Usage | None:
    """Read a chat completion, a legacy completion, an embedding or a decision."""
    fields = fields_of(answer)
    told = fields.get("usage")
    usage = from_openai(told, model=fields.get("model"), tier=fields.get("service_tier"))
    if usage is None:
        return None
    billed_nano = read_billed(told)
    if billed_nano is not None:
        usage = usage._replace(billed_nano=billed_nano)
    if _searches(usage.model):
        usage = usage._replace(web_searches=1)
    if not want_tools:
        return usage
    names = [
        field(tool, "function", "name")
        for choice in fields.get("choices") or ()
        for tool in field(choice, "message", "tool_calls") or ()
    ]
    return usage._replace(tool_calls=_strings(names))


def _searches(model: str | None) -> bool:
    """Tell whether a model searches the web in each of its calls and bills that, without a word of
    it in the usage (`gpt-4o-search-preview`, `gpt-5-search-api`; OpenAI's price list, 2026-11).
    """
    return model is not None and "-search-" in model


_STILL_AT_WORK = ("queued", "in_progress")


def read_response(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
    """Read a response of the Responses API; one that works in the background tells its use later,
    to whoever retrieves it.
    """
    fields = fields_of(answer)
    usage = _of_response(fields, want_tools)
    response_id = fields.get("id")
    if fields.get("background") is not True or not isinstance(response_id, str):
        return usage
    status, model = fields.get("status"), fields.get("model")
    ref = f"response:{response_id}"
    model = model if isinstance(model, str) else None
    if usage is not None and status not in _STILL_AT_WORK:
        return JobStatus(ref, (usage,), model)
    # One that has failed is not billed; of one that was cancelled nobody tells.
    return JobStatus(ref, () if status == "failed" else None, model)


def _of_response(fields: Fields, want_tools: bool) -> Usage | None:
    told = fields.get("usage")
    usage = from_openai(told, model=fields.get("model"), tier=fields.get("service_tier"))
    if usage is None:
        return None
    output, tool_usage = fields.get("output"), fields.get("tool_usage")
    if output or tool_usage is not None:
        usage = with_hosted_tools(
            usage, tool_usage=tool_usage, output=output, tools=fields.get("tools")
        )
    billed_nano = read_billed(told)
    if billed_nano is not None:
        usage = usage._replace(billed_nano=billed_nano)
    if not want_tools:
        return usage
    calls = [item for item in output or () if get(item, "type") == "function_call"]
    return usage._replace(tool_calls=_strings([get(item, "name") for item in calls]))


def read_images(answer: Any, want_tools: bool) -> Usage | None:
    """Read drawn or changed images: drawings in SVG are written by a model of their own, and models
    that count no tokens are billed by the image.
    """
    fields = fields_of(answer)
    usage = from_images(fields.get("usage"))
    written = fields.get("svg_usage")
    if usage is None:
        images = fields.get("data")
        return Usage(unlisted_units=len(images)) if isinstance(images, list) and images else None
    if written is None:
        return usage
    own = from_openai(
        {**fields_of(written), "output_tokens_details": fields_of(written)},
        model=get(written, "model"),
    )
    return usage._replace(others=(own,)) if own is not None else usage


def read_transcription(answer: Any, want_tools: bool) -> Usage | None:
    """Read a transcription or translation; those that are plain text tell nothing."""
    usage = from_transcription(get(answer, "usage"))
    return usage if usage is not None else from_seconds(get(answer, "duration"))


def read_speech(answer: Any, want_tools: bool) -> Usage | None:
    """Read speech: only one that comes as events tells its use, in the last of them."""
    response = get(answer, "response") or answer
    if "event-stream" not in str(getattr(response, "headers", {}).get("content-type", "")):
        return None
    for line in reversed(response.text.splitlines()):
        if line.startswith("data:") and '"usage"' in line:
            return from_openai(json.loads(line[5:]).get("usage"))
    return None


_BATCH_OVER = ("completed", "failed", "expired", "cancelled")


def read_batch(answer: Any, want_tools: bool) -> JobStatus | None:
    """Read a batch, which tells its use when it is over."""
    fields = fields_of(answer)
    batch_id, status, model = fields.get("id"), fields.get("status"), fields.get("model")
    if not isinstance(batch_id, str):
        return None
    model = model if isinstance(model, str) else None
    usages: tuple[Usage, ...] | None = None
    if status in _BATCH_OVER:
        usage = from_openai(fields.get("usage"), model=model)
        if usage is not None:
            done = get(fields.get("request_counts"), "completed")
            usages = (usage._replace(tier="batch", largest_input_tokens=-1 if done == 1 else 0),)
        elif status == "failed":
            usages = ()  # it was refused as a whole
    return JobStatus(f"batch:{batch_id}", usages, model, "batch")


def _strings(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(each for each in names if isinstance(each, str) and each)


# -- streams


class ChatStream:
    """Chunks of chat and legacy completions: usage in the last chunk, if it was asked for."""

    __slots__ = (
        "_billed_nano",
        "_drops",
        "_is_seen",
        "_known",
        "_model",
        "_text_bytes",
        "_tools",
        "_want_tools",
    )

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._drops = drops_usage_chunk
        self._want_tools = want_tools
        self._known: Usage | None = None
        self._billed_nano: int | None = None
        self._is_seen = False
        self._model: Any = None
        self._text_bytes = 0
        self._tools: list[Any] = []

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`."""
        fields = fields_of(chunk)
        choices, usage = fields.get("choices"), fields.get("usage")
        if choices is None and usage is None:
            return None  # not a chunk of any kind that is known
        self._is_seen = True
        if usage is not None:
            self._model = fields.get("model")
            known = from_openai(usage, model=self._model, tier=fields.get("service_tier"))
            self._known = known or self._known
            self._billed_nano = read_billed(usage)
            if not choices:
                return self._drops
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
        called = fields.get("function_call")
        if called is not None:
            self._text_bytes += text_bytes(get(called, "arguments"))
        for tool in fields.get("tool_calls") or ():
            self._text_bytes += text_bytes(field(tool, "function", "arguments"))
            if self._want_tools:
                self._tools.append(field(tool, "function", "name"))

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return what was used; see `StreamReader.usage`."""
        usage = self._known or counted(None, self._text_bytes, estimate, is_seen=self._is_seen)
        if usage is None:
            return None
        model = usage.model or (self._model if isinstance(self._model, str) else None)
        return usage._replace(
            model=model,
            tool_calls=_strings(self._tools),
            billed_nano=self._billed_nano,
            web_searches=int(_searches(model)),
        )


_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""Where a delta has text; the last two are how DeepSeek and OpenRouter show a model's thinking."""


class ResponseStream:
    """Events of the Responses API: usage in the event that ends the response."""

    __slots__ = ("_answer", "_is_seen", "_known", "_model", "_text_bytes", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._want_tools = want_tools
        self._answer: Usage | JobStatus | None = None
        self._known: JobStatus | None = None
        self._is_seen = False
        self._model: Any = None
        self._text_bytes = 0

    def feed(self, event: Any) -> bool | None:
        """Read one event; see `StreamReader.feed`."""
        kind = get(event, "type")
        if not isinstance(kind, str):
            return None
        self._is_seen = True
        if kind.endswith(".delta"):
            self._text_bytes += text_bytes(get(event, "delta"))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._answer = read_response(get(event, "response"), self._want_tools)
        elif kind in ("response.created", "response.queued"):
            self._model = field(event, "response", "model")
            begun = read_response(get(event, "response"), False)
            self._known = begun if isinstance(begun, JobStatus) else None
        return None

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return what was used; see `StreamReader.usage`."""
        if self._answer is not None:
            return self._answer
        if self._known is not None:
            return self._known  # it goes on in the background, whoever reads it
        usage = counted(None, self._text_bytes, estimate, is_seen=self._is_seen)
        model = self._model if isinstance(self._model, str) else None
        return usage._replace(model=model) if usage is not None else None


class FinalEvents:
    """Events of images, speech and transcriptions: usage in the event that ends each of them.

    Text that came before says little: what is drawn or spoken is what costs. So a stream that is
    left early has used what was held for it.
    """

    __slots__ = ("_known",)

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._known: Usage | None = None

    def feed(self, event: Any) -> bool | None:
        """Read one event; see `StreamReader.feed`."""
        told = get(event, "usage")
        if told is None:
            return None
        is_image = str(get(event, "type")).startswith("image_")
        usage = from_images(told) if is_image else from_transcription(told)
        if usage is not None and self._known is not None and is_image:  # another image of the call
            usage = usage._replace(
                **{name: getattr(usage, name) + getattr(self._known, name) for name in _OF_IMAGES}
            )
        self._known = usage or self._known
        return None

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return what was used; see `StreamReader.usage`."""
        return self._known


_OF_IMAGES = ("input_tokens", "output_tokens", "image_input_tokens", "image_output_tokens")


# -- what a request alone tells

_TTS_TOKENS_PER_CHARACTER = (7, 5)
"""Audio tokens of spoken text: gpt-4o-mini-tts makes some 1,250 a minute (its list price of $12 per
million against the $0.015 a minute that OpenAI names), in which 900 characters are spoken.
"""

_AUDIO_BYTES_PER_S = 16_000  # of a file whose header does not tell: 128 kbit/s
_AUDIO_TOKENS_PER_MINUTE = 1_000  # gpt-4o-transcribe: $6 per million, $0.006 a minute
_TEXT_TOKENS_PER_MINUTE = 200  # of speech written down
_MS_PER_MINUTE = 60_000


def told_by_speech(body: Mapping[str, Any], files: Any) -> Usage | None:
    """Return what text to be spoken will use: its characters, or the tokens that they make."""
    text = body.get("input")
    if not isinstance(text, str):
        return None
    tokens, characters = _TTS_TOKENS_PER_CHARACTER
    return Usage(
        input_tokens=-(-text_bytes(text) // BYTES_PER_TOKEN),
        output_tokens=-(-len(text) * tokens // characters),
        characters=len(text),
    )


def told_by_audio(body: Mapping[str, Any], files: Any) -> Usage | None:
    """Return what audio to be written down will use: its duration, or the tokens that it makes."""
    bytes_per_s, size = _AUDIO_BYTES_PER_S, 0
    for data in _contents(files):
        size += _size_of(data)
        if isinstance(data, bytes) and data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            bytes_per_s = int.from_bytes(data[28:32], "little") or bytes_per_s
    if not size:
        return None
    duration_ms = -(-size * 1000 // bytes_per_s)
    heard = -(-duration_ms * _AUDIO_TOKENS_PER_MINUTE // _MS_PER_MINUTE)
    written = -(-duration_ms * _TEXT_TOKENS_PER_MINUTE // _MS_PER_MINUTE)
    return Usage(
        input_tokens=heard, output_tokens=written, audio_input_tokens=heard, audio_ms=duration_ms
    )


def _contents(files: Any) -> list[Any]:
    """Return the contents of a request's files, as its HTTP library takes them."""
    pairs = files.items() if isinstance(files, Mapping) else files or ()
    return [
        each[1][1] if isinstance(each[1], tuple) and len(each[1]) > 1 else each[1] for each in pairs
    ]


def _size_of(data: Any) -> int:
    """Return the size of a file's content in bytes, unread; 0 where it does not tell."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, io.BytesIO):
        return data.getbuffer().nbytes
    if isinstance(data, (io.BufferedReader, io.FileIO)):
        return os.fstat(data.fileno()).st_size  # which the kernel answers from memory
    return 0  # such as a spooled file, which would go to the disk if it were asked for its number
