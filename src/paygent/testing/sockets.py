"""The fake's WebSockets: the Realtime API and Responses over a socket, as OpenAI's SDK wants them.

The protocol is the `websockets` library's, which whoever opens such a connection has; the bytes go
through the HTTP server's own connection. The provider's events are recorded as they arrive, as
requests of the method "WS".
"""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs

from paygent.testing import openai
from paygent.testing.answer import Answer, Asked, Tokens, words_of

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from paygent.testing import FakeProvider

Events = Iterator[dict[str, Any]]

_CONTROL = 7  # opcodes above it are no data


class Socket:
    """One connection, from its handshake to its end."""

    def __init__(
        self, provider: FakeProvider, handler: BaseHTTPRequestHandler, target: SplitResult
    ) -> None:
        """Take over the connection of a request that asks for a socket.

        Args:
            provider: Records events and says how they are answered.
            handler: Has the connection.
            target: The request's address.
        """
        from websockets.server import ServerProtocol

        self._provider = provider
        self._handler = handler
        self._target = target
        self._protocol = ServerProtocol(max_size=None)
        named = parse_qs(target.query).get("model", ["fake-model"])[0]
        self._session: dict[str, Any] = {"type": "realtime", "model": named}
        self._numbers = iter(range(10**9))
        self._message = b""

    def serve(self) -> None:
        """Answer events until either side closes."""
        handler = self._handler
        head = "".join(f"{name}: {value}\r\n" for name, value in handler.headers.items())
        self._protocol.receive_data(f"GET {handler.path} HTTP/1.1\r\n{head}\r\n".encode())
        (request,) = self._protocol.events_received()
        self._protocol.send_response(self._protocol.accept(request))  # type: ignore[arg-type]
        self._flush()
        if not self._is_responses:
            self._send({"type": "session.created", "session": self._session})
        while not self._is_closed:
            for event in self._receive():
                self._answer(event)

    @property
    def _is_responses(self) -> bool:
        return self._target.path.endswith("/responses")

    @property
    def _is_closed(self) -> bool:
        return self._protocol.state.name != "OPEN"

    # -- bytes

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def _send(self, event: dict[str, Any]) -> None:
        if self._is_closed:
            return
        numbered = {"event_id": f"event_{next(self._numbers)}", **event}
        self._protocol.send_text(json.dumps(numbered).encode())
        self._flush()

    def _receive(self) -> list[dict[str, Any]]:
        """Wait for the next events of the client, and record them."""
        data = self._handler.rfile.read1()
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        events = []
        frames: list[Any] = self._protocol.events_received()
        for frame in frames:
            if frame.opcode > _CONTROL:
                continue
            self._message += frame.data
            if frame.fin:
                message, self._message = self._message, b""
                events.append(self._read(message))
        self._flush()
        for event in events:
            self._provider.note("WS", self._target.path, {}, event)
        return events

    def _read(self, message: bytes) -> dict[str, Any]:
        """Read an event; what is none closes the connection, as the provider does."""
        try:
            event = json.loads(message)
        except ValueError:
            event = None
        if isinstance(event, dict):
            return event
        self._protocol.send_close(1007, "not an event")
        return {}

    def _cancelled_within(self, seconds: float) -> bool:
        """Tell whether the client cancels a response in this time; 0 does not look."""
        if not seconds:
            return False
        ready, _, _ = select.select([self._handler.connection], [], [], seconds)
        return bool(ready) and any(
            event.get("type") == "response.cancel" for event in self._receive()
        )

    # -- answers

    def _answer(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "response.create":
            self._respond(event)
        elif kind == "session.update":
            self._session.update(event.get("session") or {})
            self._send({"type": "session.updated", "session": self._session})
        elif kind == "input_audio_buffer.commit":
            self._send({"type": "input_audio_buffer.committed", "item_id": "item_1"})
            self._hear()

    def _hear(self) -> None:
        """Write down what was spoken, and answer it, where the session asks for that."""
        heard = (self._session.get("audio") or {}).get("input") or {}
        if heard.get("transcription"):
            usage = {"type": "duration", "seconds": self._provider.default.tokens.seconds}
            self._send(
                {
                    "type": "conversation.item.input_audio_transcription.completed",
                    "item_id": "item_1",
                    "content_index": 0,
                    "transcript": "Hello.",
                    "usage": usage,
                }
            )
        if heard.get("turn_detection"):
            self._respond({})

    def _respond(self, event: dict[str, Any]) -> None:
        answer = self._provider.next_answer({})
        lane = {"stream_id": event["stream_id"]} if "stream_id" in event else {}
        if answer.status != 200:
            error = {
                "type": "invalid_request_error",
                "code": "fake",
                "message": f"fake {answer.status}",
                "param": None if self._is_responses else "response",
                "event_id": event.get("event_id"),
            }
            self._send({"type": "error", "status": answer.status, "error": error, **lane})
            return
        made = self._response_events(event, answer)
        for number, each in enumerate(made):
            if answer.cut_after is not None and number >= answer.cut_after:
                self._handler.connection.shutdown(2)
                self._protocol.receive_eof()
                return
            self._send({**each, **lane})
            if (
                number == 0
                and answer.chunk_delay_s
                and self._cancelled_within(answer.chunk_delay_s)
            ):
                self._send(self._done(each["response"], answer, "cancelled"))
                return

    def _response_events(self, event: dict[str, Any], answer: Answer) -> Events:
        response_id = f"resp_{next(self._numbers)}"
        if self._is_responses:
            raw = json.dumps(event).encode()
            asked = Asked(self._provider.url, self._target, raw, self._provider.jobs, answer)
            yield from openai.response_events(asked, response_id)
            return
        begun: dict[str, Any] = {
            "id": response_id,
            "object": "realtime.response",
            "status": "in_progress",
            "conversation_id": "conv_1",
            "output": [],
            "usage": None,
        }
        yield {"type": "response.created", "response": begun}
        place = {"response_id": response_id, "item_id": "item_2", "output_index": 0}
        for word in words_of(answer):
            delta = {"type": "response.output_audio_transcript.delta", "content_index": 0}
            yield {**delta, **place, "delta": word}
        yield self._done(begun, answer, "completed")

    def _done(self, begun: dict[str, Any], answer: Answer, status: str) -> dict[str, Any]:
        output = []
        if answer.tool_call:
            name, arguments = answer.tool_call
            call = {"id": "item_3", "type": "function_call", "call_id": "c1"}
            output.append({**call, "name": name, "arguments": arguments})
        usage = None if answer.without_usage else _usage(answer.tokens)
        done = {**begun, "status": status, "output": output, "usage": usage}
        return {"type": "response.done", "response": done}


def _usage(tokens: Tokens) -> dict[str, Any]:
    cached_text = tokens.cached - tokens.cached_audio
    return {
        "total_tokens": tokens.input + tokens.output,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "input_token_details": {
            "text_tokens": tokens.input - tokens.audio_input,
            "audio_tokens": tokens.audio_input,
            "image_tokens": 0,
            "cached_tokens": tokens.cached,
            "cached_tokens_details": {
                "text_tokens": cached_text,
                "audio_tokens": tokens.cached_audio,
                "image_tokens": 0,
            },
        },
        "output_token_details": {
            "text_tokens": tokens.output - tokens.audio_output,
            "audio_tokens": tokens.audio_output,
        },
        **tokens.extra,
    }
