"""The fake's answers to OpenAI's SDK by route."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

from paygent.testing.answer import (
    FakeRequest,
    FixedDocument,
    JsonOrStream,
    Reply,
    Responder,
    Tokens,
    event,
    words_of,
)


def _chat_usage(tokens: Tokens) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached,
            "audio_tokens": tokens.audio_input,
            "cache_write_tokens": tokens.cache_write,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": tokens.audio_output,
        },
        **tokens.extra,
    }
    if tokens.cost is not None:  # a field of OpenRouter, the billed dollars
        usage["cost"] = tokens.cost
    return usage


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "input_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": tokens.cache_write + tokens.cache_write_long,
            # Times to live, as the Responses API names them; chat has one total only.
            "cache_write_tokens_details": {
                "ttl_30m_tokens": tokens.cache_write,
                "ttl_12h_tokens": tokens.cache_write_long,
            },
        },
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        **tokens.extra,
    }


class _Chat(JsonOrStream):
    stream_error = event({"error": {"message": "fake stream error", "type": "server_error"}})

    def document(self, request: FakeRequest) -> dict[str, Any]:
        answer = request.answer
        message: dict[str, Any] = {
            "role": "assistant",
            "content": _text(request),
            "refusal": None,
        }
        if answer.tool_call:
            name, arguments = answer.tool_call
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            message.update(content=None, tool_calls=[call])  # a tool call replaces the text
        finish = "tool_calls" if answer.tool_call else "stop"
        document = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1,
            "model": request.model,
            "service_tier": answer.tokens.service_tier or "default",
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            ],
        }
        if not answer.without_usage:
            document["usage"] = _chat_usage(answer.tokens)
        return document

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        answer = request.answer
        wants_usage = (request.fields.get("stream_options") or {}).get("include_usage")
        has_usage = wants_usage and not answer.without_usage
        base = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": request.model,
        }
        if answer.tokens.service_tier:  # absent from chunks for the standard tier
            base["service_tier"] = answer.tokens.service_tier

        def chunk(delta: Any, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({**base, "choices": [choice], **({"usage": None} if has_usage else {})})

        yield chunk({"role": "assistant", "content": ""})
        if answer.tool_call:
            name, arguments = answer.tool_call
            call = {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            yield chunk({"tool_calls": [call]})
        else:
            for word in words_of(answer):
                yield chunk({"content": word})
        yield chunk({}, "tool_calls" if answer.tool_call else "stop")
        if has_usage:  # in a chunk of its own, without choices
            yield event({**base, "choices": [], "usage": _chat_usage(answer.tokens)})
        yield event("[DONE]")


def _text(request: FakeRequest) -> str:
    """Return the text of an answer, or JSON if the request has a schema."""
    format_of_chat = request.fields.get("response_format") or {}
    format_of_response = (request.fields.get("text") or {}).get("format") or {}
    wants_json = any(
        requested.get("type") == "json_schema"
        for requested in (format_of_chat, format_of_response)
        if isinstance(requested, dict)
    )
    text = request.answer.text
    # Helpers such as `parse` validate the text; a test that scripts JSON brings its own.
    return '{"answer": "yes"}' if wants_json and not text.startswith("{") else text


class _Completions(JsonOrStream):
    stream_error = _Chat.stream_error

    def document(self, request: FakeRequest) -> dict[str, Any]:
        choice = {
            "text": request.answer.text,
            "index": 0,
            "logprobs": None,
            "finish_reason": "stop",
        }
        document = {
            "id": "cmpl-fake",
            "object": "text_completion",
            "created": 1,
            "model": request.model,
            "choices": [choice],
        }
        if not request.answer.without_usage:
            document["usage"] = _chat_usage(request.answer.tokens)
        return document

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        answer = request.answer
        base = {
            "id": "cmpl-fake",
            "object": "text_completion",
            "created": 1,
            "model": request.model,
        }
        for word in words_of(answer):
            choice = {"text": word, "index": 0, "logprobs": None, "finish_reason": None}
            yield event({**base, "choices": [choice]})
        wants_usage = (request.fields.get("stream_options") or {}).get("include_usage")
        if wants_usage and not answer.without_usage:
            yield event({**base, "choices": [], "usage": _chat_usage(answer.tokens)})
        yield event("[DONE]")


class _Embeddings(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        texts = request.fields.get("input")
        items = len(texts) if isinstance(texts, list) else 1
        is_packed = request.fields.get("encoding_format") == "base64"
        # The SDK asks for base64 by default, for speed: packed 32-bit floats, here 0.1 and 0.2.
        vector: Any = "zczMPc3MTD4=" if is_packed else [0.1, 0.2]
        data = [
            {"object": "embedding", "index": number, "embedding": vector} for number in range(items)
        ]
        tokens = request.answer.tokens.input
        document: dict[str, Any] = {"object": "list", "model": request.model, "data": data}
        if not request.answer.without_usage:
            document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return document


class _Responses(JsonOrStream):
    stream_error = event(
        {"type": "error", "code": "server_error", "message": "fake", "sequence_number": 9}, "error"
    )

    def document(self, request: FakeRequest) -> dict[str, Any]:
        if request.fields.get("background"):  # answered at once, retrieved later by its id
            return _response(request, request.start("resp_fake"), "queued")
        return _response(request, "resp_fake", "completed")

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        is_background = request.fields.get("background")
        response_id = request.start("resp_fake") if is_background else "resp_fake"
        return _response_events(request, response_id)


class _RetrievedResponse(JsonOrStream):
    """A background response, when it is retrieved."""

    stream_error = _Responses.stream_error

    def reply(self, request: FakeRequest) -> Reply:
        # Model and options come from the request that started it; the retrieval has none.
        wants_stream = "stream=true" in request.query
        request.fields = {**request.jobs.get(request.id_in_path, {}), "stream": wants_stream}
        return super().reply(request)

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        return _response_events(request, request.id_in_path)

    def document(self, request: FakeRequest) -> dict[str, Any]:
        return _response(request, request.id_in_path, request.answer.job)


def _response(request: FakeRequest, response_id: str, status: str) -> dict[str, Any]:
    answer, tokens = request.answer, request.answer.tokens
    item: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {
                "type": "output_text",
                "text": _text(request),
                "annotations": [],
                "logprobs": [],
            }
        ],
    }
    if answer.tool_call:
        name, arguments = answer.tool_call
        item = {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "c1",
            "name": name,
            "arguments": arguments,
        }
    is_whole = status == "completed"  # before that a response has neither output nor usage
    document: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": 1,
        "status": status,
        "background": bool(request.fields.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": request.model,
        "output": [item, *map(_hosted, tokens.items)] if is_whole else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": request.fields.get("tools") or [],
        "top_p": 1.0,
        "metadata": {},
        "service_tier": tokens.service_tier or "default",
        "usage": _usage(tokens) if is_whole and not answer.without_usage else None,
    }
    if tokens.tool_usage is not None:
        document["tool_usage"] = tokens.tool_usage
    elif tokens.web_searches:
        # The number of billed requests, which may differ from the number of output items.
        document["tool_usage"] = {"web_search": {"num_requests": tokens.web_searches}}
    return document


def _hosted(kind: str) -> dict[str, Any]:
    """Return an output item of a hosted tool, such as "web_search_call:open_page"."""
    kind, _, action = kind.partition(":")  # some actions of a web search are free
    item: dict[str, Any] = {"id": "item_1", "type": kind, "status": "completed"}
    if kind == "web_search_call":
        item["action"] = {"type": action or "search", "query": "q"}
    elif kind == "file_search_call":
        item["queries"] = ["q"]
    elif kind == "code_interpreter_call":
        item.update(code="1", container_id="cntr_1", outputs=[])
    elif kind == "image_generation_call":
        item["result"] = _PIXEL
    return item


def _response_events(request: FakeRequest, response_id: str) -> Iterator[bytes]:
    for document in response_events(request, response_id):
        yield event(document, document["type"])


def response_events(request: FakeRequest, response_id: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a streamed response, over HTTP or a WebSocket."""
    answer = request.answer
    sequence = itertools.count()

    def numbered(kind: str, **fields: Any) -> dict[str, Any]:
        return {**fields, "type": kind, "sequence_number": next(sequence)}

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    initial = _response(request, response_id, "in_progress")
    whole = _response(request, response_id, "completed")  # only this one carries the usage
    yield numbered("response.created", response=initial)
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    yield numbered("response.output_item.added", output_index=0, item=item)
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield numbered("response.content_part.added", part=part, **place)
    for word in words_of(answer):
        yield numbered("response.output_text.delta", delta=word, logprobs=[], **place)
    text = _text(request)
    yield numbered("response.output_text.done", text=text, logprobs=[], **place)
    yield numbered("response.content_part.done", part={**part, "text": text}, **place)
    yield numbered("response.output_item.done", output_index=0, item=whole["output"][0])
    yield numbered("response.completed", response=whole)


class _Compact(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        usage = _usage(request.answer.tokens)
        return {
            "id": "cmp_1",
            "object": "response.compaction",
            "created_at": 1,
            "output": [],
            "usage": usage,
        }


class _Decisions(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        usage = _usage(request.answer.tokens)
        answers = [{"type": "predicate", "name": "q", "probability": 0.5}]
        return {"answers": answers, "model": request.model, "usage": usage}


# A transparent PNG of one pixel.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


class _Images(JsonOrStream):
    stream_error = event({"type": "error", "error": {"message": "fake"}}, "error")

    def document(self, request: FakeRequest) -> dict[str, Any]:
        images = [{"b64_json": _PIXEL} for _ in range(int(request.fields.get("n") or 1))]
        document: dict[str, Any] = {"created": 1, "data": images}
        # The dall-e models are billed per image and report no usage.
        if not request.answer.without_usage and not request.model.startswith("dall-e"):
            document["usage"] = _image_usage(request.answer.tokens)
        return document

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        # Generations and edits name their events differently.
        kind = "image_edit" if request.path.endswith("edits") else "image_generation"
        image = {
            "b64_json": _PIXEL,
            "background": "opaque",
            "created_at": 1,
            "output_format": "png",
            "quality": "low",
            "size": "1024x1024",
        }
        yield event({**image, "type": f"{kind}.partial_image", "partial_image_index": 0})
        whole = {**image, "type": f"{kind}.completed", "usage": _image_usage(request.answer.tokens)}
        yield event(whole)


def _image_usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "input_tokens_details": {
            "text_tokens": tokens.input - tokens.image_input,
            "image_tokens": tokens.image_input,
        },
        **tokens.extra,
    }


class _Speech:
    def reply(self, request: FakeRequest) -> Reply:
        if request.fields.get("stream_format") == "sse":
            return Reply(self._events(request), "text/event-stream; charset=utf-8")
        return Reply(b"ID3" + b"\0" * 253, "audio/mpeg")  # no JSON, so no usage

    @staticmethod
    def _events(request: FakeRequest) -> Iterator[bytes]:
        tokens = request.answer.tokens
        yield event({"type": "speech.audio.delta", "audio": base64.b64encode(bytes(64)).decode()})
        usage = {
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
        }
        yield event({"type": "speech.audio.done", "usage": usage})


class _Transcriptions(JsonOrStream):
    def reply(self, request: FakeRequest) -> Reply:
        # These formats are plain text, which has no place for usage.
        if request.fields.get("response_format") in ("text", "srt", "vtt"):
            return Reply(request.answer.text.encode(), "text/plain")
        return super().reply(request)

    def document(self, request: FakeRequest) -> dict[str, Any]:
        tokens = request.answer.tokens
        document: dict[str, Any] = {"text": request.answer.text}
        if request.fields.get("response_format") == "verbose_json":
            document.update(duration=tokens.seconds, language="english", segments=[])
        # Translations report no usage.
        if not request.answer.without_usage and "translations" not in request.path:
            document["usage"] = self._usage(request)
        return document

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        for word in words_of(request.answer):
            yield event({"type": "transcript.text.delta", "delta": word})
        usage = self._usage(request)
        yield event({"type": "transcript.text.done", "text": request.answer.text, "usage": usage})

    @staticmethod
    def _usage(request: FakeRequest) -> dict[str, Any]:
        tokens = request.answer.tokens
        # Billed by duration, unlike the other transcription models.
        if request.model.startswith("whisper") or request.model == "gpt-transcribe":
            return {"type": "duration", "seconds": tokens.seconds}
        return {
            "type": "tokens",
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "input_token_details": {
                "audio_tokens": tokens.audio_input,
                "text_tokens": tokens.input - tokens.audio_input,
            },
        }


class _Batches(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        return _batch(request, request.start("batch_fake"), "validating")


class _RetrievedBatch(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        return _batch(request, request.id_in_path, request.answer.job)


def _batch(request: FakeRequest, batch_id: str, status: str) -> dict[str, Any]:
    answer = request.answer
    document: dict[str, Any] = {
        "id": batch_id,
        "object": "batch",
        "completion_window": "24h",
        "created_at": 1,
        "endpoint": request.jobs.get(batch_id, {}).get("endpoint", "/v1/chat/completions"),
        "input_file_id": "file-1",
        "status": status,
    }
    # The model and the usage of a batch are known only at its end.
    if status == "completed":
        document["model"] = answer.model or "gpt-4o-mini"
        document["request_counts"] = {"total": 10, "completed": 10, "failed": 0}
        if not answer.without_usage:
            document["usage"] = _usage(answer.tokens)
    return document


_MODERATION = {"id": "modr-1", "model": "fake", "results": []}
_MODEL = {"id": "fake-model", "object": "model", "created": 1, "owned_by": "fake"}
_FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 10,
    "created_at": 1,
    "filename": "f.jsonl",
    "purpose": "batch",
    "status": "processed",
}
_COUNTED = {"object": "response.input_tokens", "input_tokens": 10}
# A route that Paygent has no reader for.
_VIDEO = {"id": "video_1", "object": "video", "model": "sora-2", "status": "queued"}

ROUTES: tuple[tuple[str, str, Responder], ...] = (
    ("POST", "/chat/completions", _Chat()),
    ("POST", "/completions", _Completions()),
    ("POST", "/embeddings", _Embeddings()),
    ("POST", "/responses/compact", _Compact()),
    ("POST", "/responses/input_tokens", FixedDocument(_COUNTED)),
    ("POST", "/responses", _Responses()),
    ("GET", "/responses/[^/]+", _RetrievedResponse()),
    ("POST", "/responses/[^/]+/cancel", _RetrievedResponse()),
    ("POST", "/decisions", _Decisions()),
    ("POST", "/images/(generations|edits|variations)", _Images()),
    ("POST", "/audio/speech", _Speech()),
    ("POST", "/audio/(transcriptions|translations)", _Transcriptions()),
    ("POST", "/batches", _Batches()),
    ("GET", "/batches/[^/]+", _RetrievedBatch()),
    ("POST", "/batches/[^/]+/cancel", _RetrievedBatch()),
    # From here on: free of charge, or not metered.
    ("POST", "/moderations", FixedDocument(_MODERATION)),
    ("POST", "/files", FixedDocument(_FILE)),
    ("POST", "/videos", FixedDocument(_VIDEO)),
    ("GET", "/models", FixedDocument({"object": "list", "data": [_MODEL]})),
)
