"""The fake's WebSockets: OpenAI's Realtime API, and Responses over a WebSocket.

The protocol is implemented by the `websockets` library, which any client of such a connection has
installed; the bytes go through the HTTP server's own connection. Events of the client are recorded
as they arrive, as requests with the method "WS".
"""

from __future__ import annotations

import itertools
import json
import select
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qs

from paygent.testing import openai
from paygent.testing.answer import Answer, FakeRequest, Jobs, Tokens, totals, words_of

_CONTROL = 7  # opcodes above it are control frames


class Host(Protocol):
    """The part of `FakeProvider` that a socket needs."""

    default: Answer
    jobs: Jobs

    @property
    def url(self) -> str:
        """The base URL."""

    def record(self, method: str, path: str, headers: dict[str, str], body: Any) -> None:
        """Record a request or an event."""

    def next_answer(self, headers: dict[str, str]) -> Answer:
        """Return what is answered next."""


class Socket:
    """One connection, from its handshake to its close."""

    def __init__(
        self, provider: Host, handler: BaseHTTPRequestHandler, target: SplitResult
    ) -> None:
        """Take over the connection of an upgrade request to the URL `target`."""
        from websockets.server import ServerProtocol

        self._provider = provider  # records the events and supplies the answers
        self._handler = handler  # owns the connection
        self._path = target.path
        self._is_responses = target.path.endswith("/responses")  # otherwise it is Realtime
        self._protocol = ServerProtocol(max_size=None)
        model = parse_qs(target.query).get("model", ["fake-model"])[0]
        self._session: dict[str, Any] = {"type": "realtime", "model": model}
        self._numbers = itertools.count()
        self._message = b""
        self._waiting: deque[dict[str, Any]] = deque()  # events that are still to be answered

    def serve(self) -> None:
        """Answer events until either side closes the connection."""
        handler = self._handler
        # The HTTP server has consumed the request, so it is written out again for the protocol.
        head = "".join(f"{name}: {value}\r\n" for name, value in handler.headers.items())
        self._protocol.receive_data(f"GET {handler.path} HTTP/1.1\r\n{head}\r\n".encode())
        (request,) = self._protocol.events_received()
        self._protocol.send_response(self._protocol.accept(request))  # type: ignore[arg-type]
        self._flush()
        if not self._is_responses:
            self._send({"type": "session.created", "session": self._session})
        while self._waiting or not self._is_closed:
            if self._waiting:
                self._answer(self._waiting.popleft())
            else:
                self._receive()

    @property
    def _is_closed(self) -> bool:
        return self._protocol.state.name != "OPEN"

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def _send(self, event: dict[str, Any]) -> None:
        if self._is_closed:  # the client may leave between two events
            return
        numbered = {"event_id": f"event_{next(self._numbers)}", **event}
        self._protocol.send_text(json.dumps(numbered).encode())
        self._flush()

    def _receive(self) -> None:
        """Wait for the client's next events, record them and let them wait for their answers."""
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
            if frame.fin:  # a message may arrive in several frames
                message, self._message = self._message, b""
                events.append(self._read(message))
        self._flush()
        for event in events:
            self._provider.record("WS", self._path, {}, event)
        self._waiting.extend(events)

    def _read(self, message: bytes) -> dict[str, Any]:
        """Parse an event; anything else closes the connection, as the provider does."""
        try:
            event = json.loads(message)
        except ValueError:
            event = None
        if isinstance(event, dict):
            return event
        self._protocol.send_close(1007, "not an event")
        return {}

    def _cancelled_within(self, seconds: float) -> bool:
        """Wait, and return whether the client cancels the response within this time; its other
        events are answered later.
        """
        end_s = time.monotonic() + seconds
        while not self._is_closed:
            for event in self._waiting:
                if event.get("type") == "response.cancel":
                    self._waiting.remove(event)
                    return True
            left_s = max(end_s - time.monotonic(), 0.0)
            if not select.select([self._handler.connection], [], [], left_s)[0]:
                break
            self._receive()
        return False

    def _answer(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "response.create":
            self._respond(event)
        elif kind == "session.update":
            self._session.update(event.get("session") or {})
            self._send({"type": "session.updated", "session": self._session})
        elif kind == "input_audio_buffer.commit":
            self._send({"type": "input_audio_buffer.committed", "item_id": "item_1"})
            self._transcribe()

    def _transcribe(self) -> None:
        """Transcribe the spoken input and answer it, if the session is configured to."""
        config = (self._session.get("audio") or {}).get("input") or {}
        if config.get("transcription"):
            seconds = self._provider.default.tokens.seconds
            kind = "conversation.item.input_audio_transcription.completed"
            text = {"item_id": "item_1", "content_index": 0, "transcript": "Hello."}
            self._send({"type": kind, **text, "usage": {"type": "duration", "seconds": seconds}})
        if config.get("turn_detection"):  # the server starts the turn by itself
            self._respond({})

    def _respond(self, event: dict[str, Any]) -> None:
        answer = self._provider.next_answer({})
        # Events of a lane carry its id.
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
        for number, reply in enumerate(self._response_events(event, answer)):
            if answer.cut_after is not None and number >= answer.cut_after:
                self._handler.connection.shutdown(2)  # without a closing handshake
                self._protocol.receive_eof()
                return
            self._send({**reply, **lane})
            # The client may cancel after "response.created", which names the response.
            pause_s = answer.chunk_delay_s if number == 0 else 0.0
            if pause_s and self._cancelled_within(pause_s):
                self._send(self._done(reply["response"], answer, "cancelled"))
                return

    def _response_events(self, event: dict[str, Any], answer: Answer) -> Iterator[dict[str, Any]]:
        response_id = f"resp_{next(self._numbers)}"
        if self._is_responses:
            url, jobs = self._provider.url, self._provider.jobs
            request = FakeRequest(url, self._path, "", event, jobs, answer)
            yield from openai.response_events(request, response_id)
            return
        initial: dict[str, Any] = {
            "id": response_id,
            "object": "realtime.response",
            "status": "in_progress",
        }
        initial.update(conversation_id="conv_1", output=[], usage=None)
        yield {"type": "response.created", "response": initial}
        place = {"response_id": response_id, "item_id": "item_2", "output_index": 0}
        for word in words_of(answer):
            delta = {"type": "response.output_audio_transcript.delta", "content_index": 0}
            yield {**delta, **place, "delta": word}
        yield self._done(initial, answer, "completed")

    def _done(self, initial: dict[str, Any], answer: Answer, status: str) -> dict[str, Any]:
        output = []
        if answer.tool_call:
            name, arguments = answer.tool_call
            call = {"id": "item_3", "type": "function_call", "call_id": "c1"}
            output.append({**call, "name": name, "arguments": arguments})
        usage = None if answer.without_usage else _usage(answer.tokens)
        done = {**initial, "status": status, "output": output, "usage": usage}
        return {"type": "response.done", "response": done}


def _usage(tokens: Tokens) -> dict[str, Any]:
    audio, spoken, cached_audio = tokens.audio_input, tokens.audio_output, tokens.cached_audio
    cached = {"text_tokens": tokens.cached - cached_audio, "audio_tokens": cached_audio}
    return {
        **totals(tokens),
        "input_token_details": {
            "text_tokens": tokens.input - audio,
            "audio_tokens": audio,
            "image_tokens": 0,
            "cached_tokens": tokens.cached,
            "cached_tokens_details": {**cached, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": tokens.output - spoken, "audio_tokens": spoken},
        **tokens.extra,
    }
