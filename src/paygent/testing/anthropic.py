"""The fake's answers to Anthropic's SDK by route, including the formats of other clouds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from paygent.testing.answer import (
    Answer,
    FakeRequest,
    Reply,
    Route,
    Tokens,
    aws_chunk,
    text_of,
    words_of,
)


def _usage(tokens: Tokens) -> dict[str, Any]:
    short, long = tokens.cache_write, tokens.cache_write_long
    # Anthropic's `input_tokens` exclude what was read from a cache or written to one.
    usage: dict[str, Any] = {
        "input_tokens": tokens.input - tokens.cached - short - long,
        "output_tokens": tokens.output,
        "cache_creation_input_tokens": short + long,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "service_tier": tokens.service_tier or "standard",
        **tokens.extra,
    }
    if tokens.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    if tokens.web_searches:
        searches = tokens.web_searches
        usage["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": 0}
    for name in ("speed", "inference_geo"):
        if getattr(tokens, name) is not None:
            usage[name] = getattr(tokens, name)
    return usage


def _message(model: str, answer: Answer, fields: dict[str, Any]) -> dict[str, Any]:
    text = text_of(answer, fields)
    block: dict[str, Any] = {"type": "text", "text": text, "citations": None}
    if answer.tool_call:
        name, arguments = answer.tool_call
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": json.loads(arguments)}
    document: dict[str, Any] = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": "tool_use" if answer.tool_call else "end_turn",
        "stop_sequence": None,
    }
    if not answer.without_usage:
        document["usage"] = _usage(answer.tokens)
    return document


def _message_of(request: FakeRequest) -> dict[str, Any]:
    return _message(request.model, request.answer, request.fields)


_AT_THE_END = ("server_tool_use", "output_tokens_details", "iterations")
_FIELDS_OF_MESSAGE_DELTA = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    *_AT_THE_END,
)


def _events(request: FakeRequest) -> Iterator[dict[str, Any]]:
    answer = request.answer
    full = _usage(answer.tokens)
    initial = _message_of(request)
    start = {name: count for name, count in full.items() if name not in _AT_THE_END}
    # The real API starts with one output token, too.
    initial.update(content=[], stop_reason=None, usage={**start, "output_tokens": 1})
    yield {"type": "message_start", "message": initial}
    block: dict[str, Any] = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": word} for word in words_of(answer, request.fields)]
    if answer.tool_call:
        name, arguments = answer.tool_call
        block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": arguments}]
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    # The last event repeats the totals; the first one has only what is known before the text.
    last = {name: full[name] for name in _FIELDS_OF_MESSAGE_DELTA if name in full}
    # The SDK requires a usage here; this one has no more than the first event had.
    usage = {"output_tokens": 1} if answer.without_usage else last
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": usage}
    yield {"type": "message_stop"}


def _bedrock_stream(request: FakeRequest) -> Reply:
    """Answer with the events of a message in AWS's binary frames."""
    return Reply(map(aws_chunk, _events(request)), "application/vnd.amazon.eventstream")


def _batch(request: FakeRequest) -> dict[str, Any]:
    is_over = bool(request.id_in_path) and request.answer.job == "completed"
    batch_id = request.id_in_path or request.start("msgbatch_fake")
    requests = len(request.order.get("requests", ()))
    root = request.path.split("/messages/batches")[0]  # such as "/v1"
    results = f"{request.url}{root}/messages/batches/{batch_id}/results"
    done, left = (requests, 0) if is_over else (0, requests)
    return {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": "ended" if is_over else "in_progress",
        "created_at": "2026-11-01T00:00:00Z",
        "expires_at": "2026-11-02T00:00:00Z",
        "ended_at": "2026-11-01T01:00:00Z" if is_over else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "request_counts": {**_NO_FAILURES, "processing": left, "succeeded": done},
        "results_url": results if is_over else None,  # absolute: the SDK fetches it as given
    }


_NO_FAILURES = {"errored": 0, "canceled": 0, "expired": 0}


def _results(request: FakeRequest) -> Reply:
    lines = (_result(item, request.answer) for item in request.order.get("requests", ()))
    return Reply(lines, "application/x-jsonl")


def _result(item: dict[str, Any], answer: Answer) -> bytes:
    """Return the line of one request of a batch; an id that begins with "bad" has failed."""
    params = item["params"]
    message = _message(answer.model or params["model"], answer, params)
    # The tier by which a reader knows that batch prices apply.
    message.get("usage", {})["service_tier"] = "batch"
    result: dict[str, Any] = {"type": "succeeded", "message": message}
    if item["custom_id"].startswith("bad"):
        error = {"type": "invalid_request_error", "message": "fake"}
        result = {"type": "errored", "error": {"type": "error", "error": error}}
    return json.dumps({"custom_id": item["custom_id"], "result": result}).encode() + b"\n"


def _completion(request: FakeRequest) -> dict[str, Any]:
    """Return a legacy text completion, for the oldest supported SDKs."""
    text = {"completion": request.answer.text, "stop_reason": "stop_sequence"}
    return {"id": "compl_fake", "type": "completion", "model": request.model, **text}


_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

ROUTES = (
    Route("POST", "/messages", _message_of, _events, _ERROR),
    Route("POST", "/messages/count_tokens", lambda _: {"input_tokens": 10}),
    Route("POST", "/messages/batches", _batch),
    Route("GET", "/messages/batches/[^/]+", _batch),
    Route("GET", "/messages/batches/[^/]+/results", _results),
    Route("POST", "/v1/complete", _completion),
    # Vertex, then Bedrock.
    Route("POST", "/models/[^/]+:(rawPredict|streamRawPredict)", _message_of, _events, _ERROR),
    Route("POST", "/model/.+/invoke", _message_of),
    Route("POST", "/model/.+/invoke-with-response-stream", _bedrock_stream),
)
