"""The fake's answers to OpenAI's SDK by route."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

from paygent.testing.answer import FakeRequest, Reply, Route, Tokens, text_of, totals, words_of

_ITEM: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant"}
_STREAM_ERROR = {"error": {"message": "fake stream error", "type": "server_error"}}
_RESPONSE_ERROR = {"type": "error", "code": "server_error", "message": "fake", "sequence_number": 9}
_IMAGE_ERROR = {"type": "error", "error": {"message": "fake"}}


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
    short, long = tokens.cache_write, tokens.cache_write_long
    return {
        **totals(tokens),
        "input_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": short + long,
            # Times to live, as the Responses API names them; chat has one total only.
            "cache_write_tokens_details": {"ttl_30m_tokens": short, "ttl_12h_tokens": long},
        },
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        **tokens.extra,
    }


def _wants_usage(request: FakeRequest) -> bool:
    """Return whether a stream of completions ends with its usage."""
    options = request.fields.get("stream_options") or {}
    return bool(options.get("include_usage")) and not request.answer.without_usage


def _chat(request: FakeRequest) -> dict[str, Any]:
    answer = request.answer
    message: dict[str, Any] = {"role": "assistant", "refusal": None}
    if answer.tool_call:  # replaces the text
        message.update(content=None, tool_calls=[_tool_call(*answer.tool_call)])
    else:
        message["content"] = text_of(answer, request.order)
    finish = "tool_calls" if answer.tool_call else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    document = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": request.model,
        "service_tier": answer.tokens.service_tier or "default",
        "choices": [choice],
    }
    if not answer.without_usage:
        document["usage"] = _chat_usage(answer.tokens)
    return document


def _chat_events(request: FakeRequest) -> Iterator[Any]:
    answer = request.answer
    has_usage = _wants_usage(request)
    base = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1}
    base["model"] = request.model
    if answer.tokens.service_tier:  # absent from chunks for the standard tier
        base["service_tier"] = answer.tokens.service_tier

    def chunk(delta: Any, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**base, "choices": [choice], **({"usage": None} if has_usage else {})}

    yield chunk({"role": "assistant", "content": ""})
    if answer.tool_call:
        yield chunk({"tool_calls": [{"index": 0, **_tool_call(*answer.tool_call)}]})
    else:
        for word in words_of(answer, request.order):
            yield chunk({"content": word})
    yield chunk({}, "tool_calls" if answer.tool_call else "stop")
    if has_usage:  # in a chunk of its own, without choices
        yield {**base, "choices": [], "usage": _chat_usage(answer.tokens)}
    yield "[DONE]"


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function}


def _completion(request: FakeRequest) -> dict[str, Any]:
    choice = {"text": request.answer.text, "index": 0, "logprobs": None, "finish_reason": "stop"}
    document = {**_completion_base(request), "choices": [choice]}
    if not request.answer.without_usage:
        document["usage"] = _chat_usage(request.answer.tokens)
    return document


def _completion_events(request: FakeRequest) -> Iterator[Any]:
    base = _completion_base(request)
    for word in words_of(request.answer):
        choice = {"text": word, "index": 0, "logprobs": None, "finish_reason": None}
        yield {**base, "choices": [choice]}
    if _wants_usage(request):
        yield {**base, "choices": [], "usage": _chat_usage(request.answer.tokens)}
    yield "[DONE]"


def _completion_base(request: FakeRequest) -> dict[str, Any]:
    return {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": request.model}


def _embeddings(request: FakeRequest) -> dict[str, Any]:
    texts = request.fields.get("input")
    items = len(texts) if isinstance(texts, list) else 1
    is_packed = request.fields.get("encoding_format") == "base64"
    # The SDK asks for base64 by default, for speed: packed 32-bit floats, here 0.1 and 0.2.
    item = {"object": "embedding", "embedding": "zczMPc3MTD4=" if is_packed else [0.1, 0.2]}
    data = [{**item, "index": number} for number in range(items)]
    document: dict[str, Any] = {"object": "list", "model": request.model, "data": data}
    if not request.answer.without_usage:
        tokens = request.answer.tokens.input
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return document


def _response_id(request: FakeRequest) -> str:
    if request.id_in_path:  # background work, retrieved or cancelled
        return request.id_in_path
    return request.start("resp_fake") if request.fields.get("background") else "resp_fake"


def _response(request: FakeRequest) -> dict[str, Any]:
    status = "queued" if request.fields.get("background") else "completed"
    if request.id_in_path:
        status = request.answer.job
    return _response_in(request, _response_id(request), status)


def _response_in(request: FakeRequest, response_id: str, status: str) -> dict[str, Any]:
    """Return a response in a status."""
    tokens = request.answer.tokens
    part = {
        "type": "output_text",
        "text": text_of(request.answer, request.order),
        "annotations": [],
        "logprobs": [],
    }
    item = {**_ITEM, "status": "completed", "content": [part]}
    if request.answer.tool_call:
        name, arguments = request.answer.tool_call
        call = {"name": name, "arguments": arguments}
        item = {"id": "fc_1", "type": "function_call", "call_id": "c1", **call}
    is_whole = status == "completed"  # before that a response has neither output nor usage
    has_usage = is_whole and not request.answer.without_usage
    document = {
        **_UNUSED,
        **_SAMPLING,
        "id": response_id,
        "object": "response",
        "created_at": 1,
        "status": status,
        "metadata": {},
        "background": bool(request.order.get("background")),
        "model": request.model,
        "output": [item, *map(_hosted, tokens.items)] if is_whole else [],
        "tools": request.order.get("tools") or [],
        "service_tier": tokens.service_tier or "default",
        "usage": _usage(tokens) if has_usage else None,
    }
    if tokens.tool_usage is not None:
        document["tool_usage"] = tokens.tool_usage
    elif tokens.web_searches:
        # The number of billed requests, which may differ from the number of output items.
        document["tool_usage"] = {"web_search": {"num_requests": tokens.web_searches}}
    return document


# Fields of every response: without meaning here, but required by the SDK's types.
_UNUSED = dict.fromkeys(("error", "incomplete_details", "instructions"))
_SAMPLING = {"parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "top_p": 1.0}


def _hosted(kind: str) -> dict[str, Any]:
    """Return an output item of a hosted tool, such as "web_search_call:open_page"."""
    kind, _, action = kind.partition(":")  # some actions of a web search are free
    fields: dict[str, dict[str, Any]] = {
        "web_search_call": {"action": {"type": action or "search", "query": "q"}},
        "file_search_call": {"queries": ["q"]},
        "code_interpreter_call": {"code": "1", "container_id": "cntr_1", "outputs": []},
        "image_generation_call": {"result": _PIXEL},
    }
    return {"id": "item_1", "type": kind, "status": "completed", **fields.get(kind, {})}


def _response_events(request: FakeRequest) -> Iterator[dict[str, Any]]:
    return response_events(request, _response_id(request))


def response_events(request: FakeRequest, response_id: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a streamed response, over HTTP or a WebSocket."""
    sequence = itertools.count()

    def numbered(kind: str, **fields: Any) -> dict[str, Any]:
        return {**fields, "type": kind, "sequence_number": next(sequence)}

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    initial = _response_in(request, response_id, "in_progress")
    whole = _response_in(request, response_id, "completed")  # only this one carries the usage
    yield numbered("response.created", response=initial)
    item = {**_ITEM, "status": "in_progress", "content": []}
    yield numbered("response.output_item.added", output_index=0, item=item)
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield numbered("response.content_part.added", part=part, **place)
    for word in words_of(request.answer, request.order):
        yield numbered("response.output_text.delta", delta=word, logprobs=[], **place)
    text = text_of(request.answer, request.order)
    yield numbered("response.output_text.done", text=text, logprobs=[], **place)
    yield numbered("response.content_part.done", part={**part, "text": text}, **place)
    yield numbered("response.output_item.done", output_index=0, item=whole["output"][0])
    yield numbered("response.completed", response=whole)


def _compacted(request: FakeRequest) -> dict[str, Any]:
    base = {"id": "cmp_1", "object": "response.compaction", "created_at": 1, "output": []}
    return {**base, "usage": _usage(request.answer.tokens)}


def _decisions(request: FakeRequest) -> dict[str, Any]:
    answers = [{"type": "predicate", "name": "q", "probability": 0.5}]
    return {"answers": answers, "model": request.model, "usage": _usage(request.answer.tokens)}


# A transparent PNG of one pixel.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)


def _images(request: FakeRequest) -> dict[str, Any]:
    images = [{"b64_json": _PIXEL} for _ in range(int(request.fields.get("n") or 1))]
    document: dict[str, Any] = {"created": 1, "data": images}
    # The dall-e models are billed per image and report no usage.
    if not request.answer.without_usage and not request.model.startswith("dall-e"):
        document["usage"] = _image_usage(request.answer.tokens)
    return document


def _image_events(request: FakeRequest) -> Iterator[dict[str, Any]]:
    # Generations and edits name their events differently.
    kind = "image_edit" if request.path.endswith("edits") else "image_generation"
    image = {"b64_json": _PIXEL, "background": "opaque", "created_at": 1, "output_format": "png"}
    image.update(quality="low", size="1024x1024")
    yield {**image, "type": f"{kind}.partial_image", "partial_image_index": 0}
    yield {**image, "type": f"{kind}.completed", "usage": _image_usage(request.answer.tokens)}


def _image_usage(tokens: Tokens) -> dict[str, Any]:
    images = tokens.image_input
    details = {"text_tokens": tokens.input - images, "image_tokens": images}
    usage = {**totals(tokens), "input_tokens_details": details}
    if tokens.image_output:
        texts = tokens.output - tokens.image_output
        usage["output_tokens_details"] = {"text_tokens": texts, "image_tokens": tokens.image_output}
    return {**usage, **tokens.extra}


def _speech(_request: FakeRequest) -> Reply:
    return Reply(b"ID3" + b"\0" * 253, "audio/mpeg")  # no JSON, so no usage


def _speech_events(request: FakeRequest) -> Iterator[dict[str, Any]]:
    yield {"type": "speech.audio.delta", "audio": base64.b64encode(bytes(64)).decode()}
    yield {"type": "speech.audio.done", "usage": totals(request.answer.tokens)}


def _transcription(request: FakeRequest) -> dict[str, Any] | Reply:
    answer, wanted = request.answer, request.fields.get("response_format")
    if wanted in ("text", "srt", "vtt"):  # plain text, which has no place for usage
        return Reply(answer.text.encode(), "text/plain")
    document: dict[str, Any] = {"text": answer.text}
    if wanted == "verbose_json":
        document.update(duration=answer.tokens.seconds, language="english", segments=[])
    # Translations report no usage.
    if not answer.without_usage and "translations" not in request.path:
        document["usage"] = _transcription_usage(request)
    return document


def _transcription_events(request: FakeRequest) -> Iterator[dict[str, Any]]:
    for word in words_of(request.answer):
        yield {"type": "transcript.text.delta", "delta": word}
    usage = _transcription_usage(request)
    yield {"type": "transcript.text.done", "text": request.answer.text, "usage": usage}


def _transcription_usage(request: FakeRequest) -> dict[str, Any]:
    tokens = request.answer.tokens
    # Billed by duration, unlike the other transcription models.
    if request.model.startswith("whisper") or request.model == "gpt-transcribe":
        return {"type": "duration", "seconds": tokens.seconds}
    audio = tokens.audio_input
    details = {"audio_tokens": audio, "text_tokens": tokens.input - audio}
    return {"type": "tokens", **totals(tokens), "input_token_details": details}


def _batch(request: FakeRequest) -> dict[str, Any]:
    answer = request.answer
    status = answer.job if request.id_in_path else "validating"
    document: dict[str, Any] = {
        "id": request.id_in_path or request.start("batch_fake"),
        "object": "batch",
        "completion_window": "24h",
        "created_at": 1,
        "endpoint": request.order.get("endpoint", "/v1/chat/completions"),
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


def _file(_request: FakeRequest) -> dict[str, Any]:
    base = {"id": "file-1", "object": "file", "bytes": 10, "created_at": 1}
    return {**base, "filename": "f.jsonl", "purpose": "batch", "status": "processed"}


_MODERATION = {"id": "modr-1", "model": "fake", "results": []}
_MODEL = {"id": "fake-model", "object": "model", "created": 1, "owned_by": "fake"}
_COUNTED = {"object": "response.input_tokens", "input_tokens": 10}
# A route that Paygent has no reader for.
_VIDEO = {"id": "video_1", "object": "video", "model": "sora-2", "status": "queued"}

ROUTES = (
    Route("POST", "/chat/completions", _chat, _chat_events, _STREAM_ERROR),
    Route("POST", "/completions", _completion, _completion_events, _STREAM_ERROR),
    Route("POST", "/embeddings", _embeddings),
    Route("POST", "/responses/compact", _compacted),
    Route("POST", "/responses/input_tokens", lambda _: _COUNTED),
    Route("POST", "/responses", _response, _response_events, _RESPONSE_ERROR),
    Route("GET", "/responses/[^/]+", _response, _response_events, _RESPONSE_ERROR),
    Route("POST", "/responses/[^/]+/cancel", _response),
    Route("POST", "/decisions", _decisions),
    Route("POST", "/images/(generations|edits|variations)", _images, _image_events, _IMAGE_ERROR),
    Route("POST", "/audio/speech", _speech, _speech_events),
    Route("POST", "/audio/translations", _transcription),
    Route("POST", "/audio/transcriptions", _transcription, _transcription_events),
    Route("POST", "/batches", _batch),
    Route("GET", "/batches/[^/]+", _batch),
    Route("POST", "/batches/[^/]+/cancel", _batch),
    # From here on: free of charge, or not metered.
    Route("POST", "/moderations", lambda _: _MODERATION),
    Route("POST", "/files", _file),
    Route("POST", "/videos", lambda _: _VIDEO),
    Route("GET", "/models", lambda _: {"object": "list", "data": [_MODEL]}),
)
