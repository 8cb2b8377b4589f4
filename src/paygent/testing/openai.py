"""The fake's answers to OpenAI's SDK, route by route."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from paygent.testing.answer import (
    Asked,
    JsonOrStream,
    Maker,
    Plain,
    Reply,
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
    if tokens.cost is not None:
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

    def document(self, asked: Asked) -> dict[str, Any]:
        answer = asked.answer
        message: dict[str, Any] = {
            "role": "assistant",
            "content": _text(asked),
            "refusal": None,
        }
        if answer.tool_call:
            name, arguments = answer.tool_call
            call = {
                "id": "call_1",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            message.update(content=None, tool_calls=[call])
        finish = "tool_calls" if answer.tool_call else "stop"
        document = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1,
            "model": asked.model,
            "service_tier": answer.tokens.service_tier or "default",
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            ],
        }
        if not answer.without_usage:
            document["usage"] = _chat_usage(answer.tokens)
        return document

    def stream(self, asked: Asked) -> Iterator[bytes]:
        answer = asked.answer
        wants = (asked.fields.get("stream_options") or {}).get("include_usage")
        tells = wants and not answer.without_usage
        base = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": asked.model,
        }
        if answer.tokens.service_tier:
            base["service_tier"] = answer.tokens.service_tier

        def chunk(delta: Any, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({**base, "choices": [choice], **({"usage": None} if tells else {})})

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
        if tells:
            yield event({**base, "choices": [], "usage": _chat_usage(answer.tokens)})
        yield event("[DONE]")


def _text(asked: Asked) -> str:
    """Return the text of an answer; JSON where a schema was asked for."""
    format_of_chat = asked.fields.get("response_format") or {}
    format_of_response = (asked.fields.get("text") or {}).get("format") or {}
    wants_json = any(
        each.get("type") == "json_schema"
        for each in (format_of_chat, format_of_response)
        if isinstance(each, dict)
    )
    text = asked.answer.text
    return '{"answer": "yes"}' if wants_json and not text.startswith("{") else text


class _Completions(JsonOrStream):
    stream_error = _Chat.stream_error

    def document(self, asked: Asked) -> dict[str, Any]:
        choice = {"text": asked.answer.text, "index": 0, "logprobs": None, "finish_reason": "stop"}
        document = {
            "id": "cmpl-fake",
            "object": "text_completion",
            "created": 1,
            "model": asked.model,
            "choices": [choice],
        }
        if not asked.answer.without_usage:
            document["usage"] = _chat_usage(asked.answer.tokens)
        return document

    def stream(self, asked: Asked) -> Iterator[bytes]:
        answer = asked.answer
        base = {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": asked.model}
        for word in words_of(answer):
            choice = {"text": word, "index": 0, "logprobs": None, "finish_reason": None}
            yield event({**base, "choices": [choice]})
        wants = (asked.fields.get("stream_options") or {}).get("include_usage")
        if wants and not answer.without_usage:
            yield event({**base, "choices": [], "usage": _chat_usage(answer.tokens)})
        yield event("[DONE]")


class _Embeddings(JsonOrStream):
    def document(self, asked: Asked) -> dict[str, Any]:
        given = asked.fields.get("input")
        items = len(given) if isinstance(given, list) else 1
        is_packed = asked.fields.get("encoding_format") == "base64"
        vector: Any = "zczMPc3MTD4=" if is_packed else [0.1, 0.2]
        data = [
            {"object": "embedding", "index": number, "embedding": vector} for number in range(items)
        ]
        tokens = asked.answer.tokens.input
        document: dict[str, Any] = {"object": "list", "model": asked.model, "data": data}
        if not asked.answer.without_usage:
            document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return document


class _Responses(JsonOrStream):
    stream_error = event(
        {"type": "error", "code": "server_error", "message": "fake", "sequence_number": 9}, "error"
    )

    def document(self, asked: Asked) -> dict[str, Any]:
        if asked.fields.get("background"):
            return _response(asked, asked.start("resp_fake"), "queued")
        return _response(asked, "resp_fake", "completed")

    def stream(self, asked: Asked) -> Iterator[bytes]:
        is_background = asked.fields.get("background")
        response_id = asked.start("resp_fake") if is_background else "resp_fake"
        return _response_events(asked, response_id)


class _RetrievedResponse(JsonOrStream):
    """A response in the background, as it stands when it is asked for."""

    stream_error = _Responses.stream_error

    def reply(self, asked: Asked) -> Reply:
        wants_stream = "stream=true" in asked.query
        asked.fields = {**asked.jobs.get(asked.id_in_path, {}), "stream": wants_stream}
        return super().reply(asked)

    def stream(self, asked: Asked) -> Iterator[bytes]:
        return _response_events(asked, asked.id_in_path)

    def document(self, asked: Asked) -> dict[str, Any]:
        return _response(asked, asked.id_in_path, asked.answer.job)


def _response(asked: Asked, response_id: str, status: str) -> dict[str, Any]:
    answer, tokens = asked.answer, asked.answer.tokens
    item: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {
                "type": "output_text",
                "text": _text(asked),
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
    is_whole = status == "completed"
    document: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": 1,
        "status": status,
        "background": bool(asked.fields.get("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": asked.model,
        "output": [item, *map(_hosted, tokens.items)] if is_whole else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": asked.fields.get("tools") or [],
        "top_p": 1.0,
        "metadata": {},
        "service_tier": tokens.service_tier or "default",
        "usage": _usage(tokens) if is_whole and not answer.without_usage else None,
    }
    if tokens.tool_usage is not None:
        document["tool_usage"] = tokens.tool_usage
    elif tokens.web_searches:
        document["tool_usage"] = {"web_search": {"num_requests": tokens.web_searches}}
    return document


def _hosted(kind: str) -> dict[str, Any]:
    """Return an output item of one of the provider's own tools."""
    kind, _, action = kind.partition(":")
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


def _response_events(asked: Asked, response_id: str) -> Iterator[bytes]:
    for each in response_events(asked, response_id):
        yield event(each, each["type"])


def response_events(asked: Asked, response_id: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a response as they are sent, over HTTP or a socket."""
    answer = asked.answer
    number = iter(range(10**9))

    def made(kind: str, **fields: Any) -> dict[str, Any]:
        return {**fields, "type": kind, "sequence_number": next(number)}

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    begun = _response(asked, response_id, "in_progress")
    whole = _response(asked, response_id, "completed")
    yield made("response.created", response=begun)
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    yield made("response.output_item.added", output_index=0, item=item)
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield made("response.content_part.added", part=part, **place)
    for word in words_of(answer):
        yield made("response.output_text.delta", delta=word, logprobs=[], **place)
    text = _text(asked)
    yield made("response.output_text.done", text=text, logprobs=[], **place)
    yield made("response.content_part.done", part={**part, "text": text}, **place)
    yield made("response.output_item.done", output_index=0, item=whole["output"][0])
    yield made("response.completed", response=whole)


class _Compact(JsonOrStream):
    def document(self, asked: Asked) -> dict[str, Any]:
        usage = _usage(asked.answer.tokens)
        return {
            "id": "cmp_1",
            "object": "response.compaction",
            "created_at": 1,
            "output": [],
            "usage": usage,
        }


class _Decisions(JsonOrStream):
    def document(self, asked: Asked) -> dict[str, Any]:
        usage = _usage(asked.answer.tokens)
        answers = [{"type": "predicate", "name": "q", "probability": 0.5}]
        return {"answers": answers, "model": asked.model, "usage": usage}


_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


class _Images(JsonOrStream):
    stream_error = event({"type": "error", "error": {"message": "fake"}}, "error")

    def document(self, asked: Asked) -> dict[str, Any]:
        drawn = [{"b64_json": _PIXEL} for _ in range(int(asked.fields.get("n") or 1))]
        document: dict[str, Any] = {"created": 1, "data": drawn}
        if not asked.answer.without_usage and not asked.model.startswith("dall-e"):
            document["usage"] = _image_usage(asked.answer.tokens)
        return document

    def stream(self, asked: Asked) -> Iterator[bytes]:
        kind = "image_edit" if asked.path.endswith("edits") else "image_generation"
        image = {
            "b64_json": _PIXEL,
            "background": "opaque",
            "created_at": 1,
            "output_format": "png",
            "quality": "low",
            "size": "1024x1024",
        }
        yield event({**image, "type": f"{kind}.partial_image", "partial_image_index": 0})
        whole = {**image, "type": f"{kind}.completed", "usage": _image_usage(asked.answer.tokens)}
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
    def reply(self, asked: Asked) -> Reply:
        if asked.fields.get("stream_format") == "sse":
            return Reply(self._events(asked), "text/event-stream; charset=utf-8")
        return Reply(b"ID3" + b"\0" * 253, "audio/mpeg")

    @staticmethod
    def _events(asked: Asked) -> Iterator[bytes]:
        tokens = asked.answer.tokens
        yield event({"type": "speech.audio.delta", "audio": base64.b64encode(bytes(64)).decode()})
        usage = {
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
        }
        yield event({"type": "speech.audio.done", "usage": usage})


class _Transcriptions(JsonOrStream):
    def reply(self, asked: Asked) -> Reply:
        if asked.fields.get("response_format") in ("text", "srt", "vtt"):
            return Reply(asked.answer.text.encode(), "text/plain")
        return super().reply(asked)

    def document(self, asked: Asked) -> dict[str, Any]:
        tokens = asked.answer.tokens
        document: dict[str, Any] = {"text": asked.answer.text}
        if asked.fields.get("response_format") == "verbose_json":
            document.update(duration=tokens.seconds, language="english", segments=[])
        if not asked.answer.without_usage and "translations" not in asked.path:
            document["usage"] = self._usage(asked)
        return document

    def stream(self, asked: Asked) -> Iterator[bytes]:
        for word in words_of(asked.answer):
            yield event({"type": "transcript.text.delta", "delta": word})
        usage = self._usage(asked)
        yield event({"type": "transcript.text.done", "text": asked.answer.text, "usage": usage})

    @staticmethod
    def _usage(asked: Asked) -> dict[str, Any]:
        tokens = asked.answer.tokens
        if asked.model.startswith("whisper") or asked.model == "gpt-transcribe":
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
    def document(self, asked: Asked) -> dict[str, Any]:
        return _batch(asked, asked.start("batch_fake"), "validating")


class _RetrievedBatch(JsonOrStream):
    def document(self, asked: Asked) -> dict[str, Any]:
        return _batch(asked, asked.id_in_path, asked.answer.job)


def _batch(asked: Asked, batch_id: str, status: str) -> dict[str, Any]:
    answer = asked.answer
    document: dict[str, Any] = {
        "id": batch_id,
        "object": "batch",
        "completion_window": "24h",
        "created_at": 1,
        "endpoint": asked.jobs.get(batch_id, {}).get("endpoint", "/v1/chat/completions"),
        "input_file_id": "file-1",
        "status": status,
    }
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
_VIDEO = {"id": "video_1", "object": "video", "model": "sora-2", "status": "queued"}

ROUTES: tuple[tuple[str, str, Maker], ...] = (
    ("POST", "/chat/completions", _Chat()),
    ("POST", "/completions", _Completions()),
    ("POST", "/embeddings", _Embeddings()),
    ("POST", "/responses/compact", _Compact()),
    ("POST", "/responses/input_tokens", Plain(_COUNTED)),
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
    ("POST", "/moderations", Plain(_MODERATION)),
    ("POST", "/files", Plain(_FILE)),
    ("POST", "/videos", Plain(_VIDEO)),
    ("GET", "/models", Plain({"object": "list", "data": [_MODEL]})),
)
