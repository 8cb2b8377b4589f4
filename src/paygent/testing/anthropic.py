"""The fake's answers to Anthropic's SDK by route, including the formats of other clouds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from paygent.testing.answer import (
    Answer,
    FakeRequest,
    FixedDocument,
    JsonOrStream,
    Reply,
    Responder,
    Tokens,
    aws_chunk,
    event,
    json_reply,
    words_of,
)


def _usage(tokens: Tokens) -> dict[str, Any]:
    written = tokens.cache_write + tokens.cache_write_long
    # Anthropic's `input_tokens` exclude what was read from a cache or written to one.
    usage: dict[str, Any] = {
        "input_tokens": tokens.input - tokens.cached - written,
        "output_tokens": tokens.output,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write,
            "ephemeral_1h_input_tokens": tokens.cache_write_long,
        },
        "service_tier": tokens.service_tier or "standard",
        **tokens.extra,
    }
    if tokens.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    if tokens.web_searches:
        usage["server_tool_use"] = {
            "web_search_requests": tokens.web_searches,
            "web_fetch_requests": 0,
        }
    for name in ("speed", "inference_geo"):
        if getattr(tokens, name) is not None:
            usage[name] = getattr(tokens, name)
    return usage


def _message(model: str, answer: Answer, fields: dict[str, Any]) -> dict[str, Any]:
    wants_json = "format" in (fields.get("output_config") or fields.get("output_format") or {})
    wants_json = wants_json or "output_format" in fields  # the parameter's older name
    # Helpers such as `parse` validate the text, so it has to fit the tests' schema.
    text = '{"answer": "yes"}' if wants_json else answer.text
    block: dict[str, Any] = {"type": "text", "text": text, "citations": None}
    if answer.tool_call:
        name, arguments = answer.tool_call
        block = {
            "type": "tool_use",
            "id": "toolu_1",
            "name": name,
            "input": json.loads(arguments),
        }
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


_FIELDS_OF_MESSAGE_DELTA = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "output_tokens_details",
    "iterations",
)
_NOT_IN_MESSAGE_START = ("output_tokens_details", "server_tool_use", "iterations")


class _Messages(JsonOrStream):
    stream_error = event(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"
    )

    def document(self, request: FakeRequest) -> dict[str, Any]:
        return _message(request.model, request.answer, request.fields)

    def stream(self, request: FakeRequest) -> Iterator[bytes]:
        for document in self.events(request):
            yield event(document, document["type"])

    def events(self, request: FakeRequest) -> Iterator[dict[str, Any]]:
        """Yield the events of a message as documents."""
        answer = request.answer
        full = _usage(answer.tokens)
        initial = self.document(request)
        start = {name: count for name, count in full.items() if name not in _NOT_IN_MESSAGE_START}
        # The real API starts with one output token, too.
        initial.update(content=[], stop_reason=None, usage={**start, "output_tokens": 1})
        yield {"type": "message_start", "message": initial}
        block: dict[str, Any] = {"type": "text", "text": ""}
        if answer.tool_call:
            block = {"type": "tool_use", "id": "toolu_1", "name": answer.tool_call[0], "input": {}}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        deltas = [{"type": "text_delta", "text": word} for word in words_of(answer)]
        if answer.tool_call:
            deltas = [{"type": "input_json_delta", "partial_json": answer.tool_call[1]}]
        for delta in deltas:
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        # The last event repeats the totals; the first one has only what is known before the text.
        last = {name: full[name] for name in _FIELDS_OF_MESSAGE_DELTA if name in full}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            # The SDK requires a usage here; this one has no more than the first event had.
            "usage": {"output_tokens": 1} if answer.without_usage else last,
        }
        yield {"type": "message_stop"}


class _BedrockStream(_Messages):
    """The events of a message in AWS's binary frames."""

    def reply(self, request: FakeRequest) -> Reply:
        frames = (aws_chunk(json.dumps(document).encode()) for document in self.events(request))
        return Reply(frames, "application/vnd.amazon.eventstream")


class _Batches(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        return _batch(request, request.start("msgbatch_fake"), "in_progress")


class _RetrievedBatch(JsonOrStream):
    def document(self, request: FakeRequest) -> dict[str, Any]:
        is_over = request.answer.job == "completed"
        return _batch(request, request.id_in_path, "ended" if is_over else "in_progress")


def _batch(request: FakeRequest, batch_id: str, status: str) -> dict[str, Any]:
    requests = len(request.jobs.get(batch_id, {}).get("requests", ()))
    is_over = status == "ended"
    root = request.path.split("/messages/batches")[0]  # such as "/v1"
    return {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": status,
        "created_at": "2026-11-01T00:00:00Z",
        "expires_at": "2026-11-02T00:00:00Z",
        "ended_at": "2026-11-01T01:00:00Z" if is_over else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "request_counts": {
            "processing": 0 if is_over else requests,
            "succeeded": requests if is_over else 0,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        },
        # Absolute: the SDK fetches it as given.
        "results_url": f"{request.url}{root}/messages/batches/{batch_id}/results"
        if is_over
        else None,
    }


class _Results:
    """The results of a batch, one line per request; an id that begins with "bad" has failed."""

    def reply(self, request: FakeRequest) -> Reply:
        return Reply(self._lines(request), "application/x-jsonl")

    @staticmethod
    def _lines(request: FakeRequest) -> Iterator[bytes]:
        for item in request.jobs.get(request.id_in_path, {}).get("requests", ()):
            params = item["params"]
            answer = request.answer
            message = _message(answer.model or params["model"], answer, params)
            # The tier by which a reader knows that batch prices apply.
            message.get("usage", {})["service_tier"] = "batch"
            result: dict[str, Any] = {"type": "succeeded", "message": message}
            if item["custom_id"].startswith("bad"):
                error = {"type": "invalid_request_error", "message": "fake"}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            yield json.dumps({"custom_id": item["custom_id"], "result": result}).encode() + b"\n"


class _Complete:
    """Legacy text completions, in the oldest supported SDKs."""

    def reply(self, request: FakeRequest) -> Reply:
        return json_reply(
            {
                "id": "compl_fake",
                "type": "completion",
                "completion": request.answer.text,
                "stop_reason": "stop_sequence",
                "model": request.model,
            }
        )


_MESSAGES = _Messages()

ROUTES: tuple[tuple[str, str, Responder], ...] = (
    ("POST", "/messages", _MESSAGES),
    ("POST", "/messages/count_tokens", FixedDocument({"input_tokens": 10})),
    ("POST", "/messages/batches", _Batches()),
    ("GET", "/messages/batches/[^/]+", _RetrievedBatch()),
    ("GET", "/messages/batches/[^/]+/results", _Results()),
    ("POST", "/v1/complete", _Complete()),
    # Vertex, then Bedrock.
    ("POST", "/models/[^/]+:(rawPredict|streamRawPredict)", _MESSAGES),
    ("POST", "/model/.+/invoke", _MESSAGES),
    ("POST", "/model/.+/invoke-with-response-stream", _BedrockStream()),
)
