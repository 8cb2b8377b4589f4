"""Public fakes: a provider on loopback that real SDKs accept, for the demo, for our tests and for
yours.

    with FakeProvider() as fake:
        client = openai.OpenAI(api_key="x", base_url=fake.openai_url)
        client.chat.completions.create(model="gpt-4o", messages=[…])
        assert fake.requests[-1].path == "/v1/chat/completions"

Answers follow the type definitions of openai 3.54 and anthropic 2.12; they show what an SDK
accepts, not what a provider bills. What a call answers is set, most specific first, by one scripted
`Answer` per request, by the request header `x-fake-usage` (JSON of `Tokens` fields), and by the
server's `default`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Tokens:
    """What an answer says was used: inclusive totals; Anthropic's answers subtract what they
    exclude.

    Attributes:
        input, output: Totals.
        cached, cache_write, cache_write_long: Parts of the input.
        reasoning: Part of the output.
        audio_input: Part of the input.
        web_searches: Requests of the provider's search tool.
        service_tier: The answer's tier, or None for the standard one.
    """

    input: int = 100
    output: int = 20
    cached: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    reasoning: int = 0
    audio_input: int = 0
    web_searches: int = 0
    service_tier: str | None = None


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        status: HTTP status; 4xx and 5xx answer the provider's error.
        delay_s: Seconds before the first byte.
        chunk_delay_s: Seconds between events of a stream.
        cut_after: Cut the connection after so many events (a JSON answer: in the middle of its
            body).
        error_after: Send the provider's in-stream error after so many events.
        without_usage: Leave the usage out.
        text: What the model says.
        chunks: Number of text deltas in a stream; None is one per word.
        model: Model named in the answer; None is the one asked for.
        tool_call: (name, JSON arguments) of a tool that the answer calls.
        tokens: What was used.
    """

    status: int = 200
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    cut_after: int | None = None
    error_after: int | None = None
    without_usage: bool = False
    text: str = "Hello from the fake provider."
    chunks: int | None = None
    model: str | None = None
    tool_call: tuple[str, str] | None = None
    tokens: Tokens = Tokens()


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived.

    Attributes:
        method, path: As sent, the path without its query.
        headers: By lower-case name.
        body: Parsed JSON, or None.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any = field(default=None)


class FakeProvider:
    """The server; binds a free port of 127.0.0.1. A context manager, or `start` and `stop`."""

    def __init__(self, default: Answer | None = None) -> None:
        self.default = default or Answer()
        self.requests: list[Recorded] = []
        self._script: deque[Answer] = deque()
        fake = self

        class Handler(_Handler):
            provider = fake

        self._server = _Server(("127.0.0.1", 0), Handler)

    def start(self) -> FakeProvider:
        """Serve on a daemon thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop serving and close the port."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeProvider:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address, as Anthropic's SDK wants it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """The address, as OpenAI's SDK wants it."""
        return self.url + "/v1"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests with these, one each; then the default again."""
        self._script.extend(answers)

    def next_answer(self, headers: dict[str, str]) -> Answer:
        """Return how the next request is answered."""
        answer = self._script.popleft() if self._script else self.default
        if "x-fake-usage" in headers:
            tokens = dataclasses.replace(answer.tokens, **json.loads(headers["x-fake-usage"]))
            answer = dataclasses.replace(answer, tokens=tokens)
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that hang up; those are part of the tests."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _CutError(Exception):
    """The answer ends here, in the middle."""


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        """Answer any method."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self.rfile.read(int(headers.get("content-length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        path = urlsplit(self.path).path
        self.provider.requests.append(Recorded(self.command, path, headers, body))
        answer = self.provider.next_answer(headers)
        if answer.delay_s:
            time.sleep(answer.delay_s)
        try:
            if answer.status != 200:
                self._send_json(answer, _error(path, answer.status), answer.status)
            else:
                self._answer(path, body if isinstance(body, dict) else {}, answer)
        except _CutError:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_DELETE = do_POST  # noqa: N815 - names of the standard library

    def _answer(self, path: str, body: dict[str, Any], answer: Answer) -> None:
        model = answer.model or body.get("model") or "fake-model"
        make = next((make for ending, make in _ROUTES if path.endswith(ending)), None)
        if make is None:
            self._send_json(answer, _error(path, 404), 404)
        elif body.get("stream"):
            self._send_stream(answer, make.stream(model, body, answer), make.stream_error)
        else:
            self._send_json(answer, make.document(model, body, answer))

    def _send_json(self, answer: Answer, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", "req_fake")
        self.send_header("request-id", "req_fake")
        if status >= 400:
            self.send_header("retry-after", "0")
        self.end_headers()
        if answer.cut_after is not None:
            self.wfile.write(data[: len(data) // 2])
            raise _CutError
        self.wfile.write(data)
        self.wfile.flush()

    def _send_stream(self, answer: Answer, events: Iterator[bytes], error: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if answer.cut_after is not None and number >= answer.cut_after:
                raise _CutError
            if answer.error_after is not None and number >= answer.error_after:
                self._send_event(error)
                break
            self._send_event(event)
            if answer.chunk_delay_s:
                time.sleep(answer.chunk_delay_s)
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_event(self, event: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()


def _error(path: str, status: int) -> dict[str, Any]:
    if "/messages" in path:
        return {"type": "error", "error": {"type": "api_error", "message": f"fake {status}"}}
    return {
        "error": {"message": f"fake {status}", "type": "server_error", "param": None, "code": None}
    }


def _event(document: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    data = document if isinstance(document, str) else json.dumps(document)
    return f"{head}data: {data}\n\n".encode()


def _words(answer: Answer) -> list[str]:
    words = [word + " " for word in answer.text.split(" ")]
    if answer.chunks is None:
        return words
    return [words[number % len(words)] for number in range(answer.chunks)]


class _Chat:
    stream_error = _event({"error": {"message": "fake stream error", "type": "server_error"}})

    @staticmethod
    def usage(tokens: Tokens) -> dict[str, Any]:
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "audio_tokens": tokens.audio_input,
                "cache_write_tokens": tokens.cache_write,
            },
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0},
        }

    def document(self, model: str, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": _text(body, answer),
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
            "model": model,
            "service_tier": answer.tokens.service_tier or "default",
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            ],
        }
        if not answer.without_usage:
            document["usage"] = self.usage(answer.tokens)
        return document

    def stream(self, model: str, body: dict[str, Any], answer: Answer) -> Iterator[bytes]:
        asked = (body.get("stream_options") or {}).get("include_usage") and not answer.without_usage
        base = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
        }

        def chunk(delta: Any, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return _event({**base, "choices": [choice], **({"usage": None} if asked else {})})

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
            for word in _words(answer):
                yield chunk({"content": word})
        yield chunk({}, "tool_calls" if answer.tool_call else "stop")
        if asked:
            yield _event({**base, "choices": [], "usage": self.usage(answer.tokens)})
        yield _event("[DONE]")


def _text(body: dict[str, Any], answer: Answer) -> str:
    """Return the text of an answer; JSON where a schema was asked for."""
    wants_json = (body.get("response_format") or {}).get("type") == "json_schema"
    wants_json = (
        wants_json or ((body.get("text") or {}).get("format") or {}).get("type") == "json_schema"
    )
    return '{"answer": "yes"}' if wants_json and not answer.text.startswith("{") else answer.text


class _Completions(_Chat):
    def document(self, model: str, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        choice = {"text": answer.text, "index": 0, "logprobs": None, "finish_reason": "stop"}
        document = {
            "id": "cmpl-fake",
            "object": "text_completion",
            "created": 1,
            "model": model,
            "choices": [choice],
        }
        if not answer.without_usage:
            document["usage"] = self.usage(answer.tokens)
        return document

    def stream(self, model: str, body: dict[str, Any], answer: Answer) -> Iterator[bytes]:
        base = {"id": "cmpl-fake", "object": "text_completion", "created": 1, "model": model}
        for word in _words(answer):
            choice = {"text": word, "index": 0, "logprobs": None, "finish_reason": None}
            yield _event({**base, "choices": [choice]})
        if (body.get("stream_options") or {}).get("include_usage") and not answer.without_usage:
            yield _event({**base, "choices": [], "usage": self.usage(answer.tokens)})
        yield _event("[DONE]")


class _Embeddings(_Chat):
    def document(self, model: str, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        given = body.get("input")
        items = len(given) if isinstance(given, list) else 1
        vector: Any = "zczMPc3MTD4=" if body.get("encoding_format") == "base64" else [0.1, 0.2]
        data = [
            {"object": "embedding", "index": number, "embedding": vector} for number in range(items)
        ]
        usage = {"prompt_tokens": answer.tokens.input, "total_tokens": answer.tokens.input}
        return {"object": "list", "model": model, "data": data, "usage": usage}


class _Responses:
    stream_error = _event(
        {"type": "error", "code": "server_error", "message": "fake", "sequence_number": 9}, "error"
    )

    def document(
        self, model: str, body: dict[str, Any], answer: Answer, *, status: str = "completed"
    ) -> dict[str, Any]:
        tokens = answer.tokens
        item: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": _text(body, answer),
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
        document: dict[str, Any] = {
            "id": "resp_fake",
            "object": "response",
            "created_at": 1,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "model": model,
            "output": [item] if status == "completed" else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "metadata": {},
            "service_tier": tokens.service_tier or "default",
            "usage": None,
        }
        if status == "completed" and not answer.without_usage:
            document["usage"] = {
                "input_tokens": tokens.input,
                "output_tokens": tokens.output,
                "total_tokens": tokens.input + tokens.output,
                "input_tokens_details": {
                    "cached_tokens": tokens.cached,
                    "cache_write_tokens": tokens.cache_write,
                },
                "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            }
        if tokens.web_searches:
            document["tool_usage"] = {"web_search": {"num_requests": tokens.web_searches}}
        return document

    def stream(self, model: str, body: dict[str, Any], answer: Answer) -> Iterator[bytes]:
        number = iter(range(10**9))

        def event(kind: str, **fields: Any) -> bytes:
            return _event({**fields, "type": kind, "sequence_number": next(number)}, kind)

        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        begun = self.document(model, body, answer, status="in_progress")
        whole = self.document(model, body, answer)
        yield event("response.created", response=begun)
        item = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield event("response.output_item.added", output_index=0, item=item)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield event("response.content_part.added", part=part, **place)
        for word in _words(answer):
            yield event("response.output_text.delta", delta=word, logprobs=[], **place)
        text = _text(body, answer)
        yield event("response.output_text.done", text=text, logprobs=[], **place)
        yield event("response.content_part.done", part={**part, "text": text}, **place)
        yield event("response.output_item.done", output_index=0, item=whole["output"][0])
        yield event("response.completed", response=whole)


class _Messages:
    stream_error = _event(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"
    )

    @staticmethod
    def usage(tokens: Tokens) -> dict[str, Any]:
        written = tokens.cache_write + tokens.cache_write_long
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
        }
        if tokens.reasoning:
            usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
        if tokens.web_searches:
            usage["server_tool_use"] = {
                "web_search_requests": tokens.web_searches,
                "web_fetch_requests": 0,
            }
        return usage

    def document(self, model: str, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        block: dict[str, Any] = {"type": "text", "text": answer.text, "citations": None}
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
            document["usage"] = self.usage(answer.tokens)
        return document

    def stream(self, model: str, body: dict[str, Any], answer: Answer) -> Iterator[bytes]:
        def event(kind: str, **fields: Any) -> bytes:
            return _event({"type": kind, **fields}, kind)

        full = self.usage(answer.tokens)
        begun = self.document(model, body, dataclasses.replace(answer, without_usage=True))
        start = {
            key: value
            for key, value in full.items()
            if key not in ("output_tokens_details", "server_tool_use")
        }
        begun.update(content=[], stop_reason=None, usage={**start, "output_tokens": 1})
        yield event("message_start", message=begun)
        block: dict[str, Any] = {"type": "text", "text": ""}
        if answer.tool_call:
            block = {"type": "tool_use", "id": "toolu_1", "name": answer.tool_call[0], "input": {}}
        yield event("content_block_start", index=0, content_block=block)
        if answer.tool_call:
            delta = {"type": "input_json_delta", "partial_json": answer.tool_call[1]}
            yield event("content_block_delta", index=0, delta=delta)
        else:
            for word in _words(answer):
                yield event(
                    "content_block_delta", index=0, delta={"type": "text_delta", "text": word}
                )
        yield event("content_block_stop", index=0)
        names = (
            "input_tokens",
            "output_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
            "server_tool_use",
            "output_tokens_details",
        )
        last = {name: full[name] for name in names if name in full}
        stop = {"stop_reason": begun["stop_reason"] or "end_turn", "stop_sequence": None}
        yield event(
            "message_delta",
            delta=stop,
            usage={"output_tokens": 1} if answer.without_usage else last,
        )
        yield event("message_stop")


class _Plain:
    """An answer that is the same document always."""

    stream_error = b""

    def __init__(self, document: Any) -> None:
        self._document = document

    def document(self, model: str, body: dict[str, Any], answer: Answer) -> Any:
        return self._document

    def stream(self, model: str, body: dict[str, Any], answer: Answer) -> Iterator[bytes]:
        yield _event(self._document)


_MODERATION = {"id": "modr-1", "model": "fake", "results": []}
_MODEL = {"id": "fake-model", "object": "model", "created": 1, "owned_by": "fake"}

_ROUTES: tuple[tuple[str, Any], ...] = (
    ("/chat/completions", _Chat()),
    ("/completions", _Completions()),
    ("/embeddings", _Embeddings()),
    ("/responses", _Responses()),
    ("/messages", _Messages()),
    ("/messages/count_tokens", _Plain({"input_tokens": 10})),
    ("/moderations", _Plain(_MODERATION)),
    ("/models", _Plain({"object": "list", "data": [_MODEL]})),
    ("/images/generations", _Plain({"created": 1, "data": [{"url": "about:blank"}]})),
)
