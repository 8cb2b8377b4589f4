"""A fake provider on loopback that real SDKs accept, for the demo, Paygent's tests and yours.

    with FakeProvider() as fake:
        client = openai.OpenAI(api_key="x", base_url=fake.openai_url)
        client.chat.completions.create(model="gpt-4o", messages=[…])
        assert fake.requests[-1].path == "/v1/chat/completions"

Answers follow the type definitions of openai 3.57 and anthropic 2.13; they show what an SDK
accepts, not what a provider bills. The answer to a request is the next scripted `Answer`, or the
server's `default`; the request header `x-fake-usage` (JSON of `Tokens` fields) overrides its usage.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from paygent.testing import anthropic, openai
from paygent.testing.answer import Answer, FakeRequest, Jobs, Reply, form_fields


@dataclass(frozen=True)
class Recorded:
    """One received request.

    Attributes:
        method, path: As sent, the path without its query. The method "CONNECT" records an opened
            WebSocket, "WS" an event received over one.
        headers: By lower-case name.
        body: Parsed JSON, or None.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any = field(default=None)


class FakeProvider:
    """The server, on a free port of 127.0.0.1. A context manager; or call `start` and `stop`."""

    def __init__(self, default: Answer | None = None) -> None:
        self.default = default or Answer()
        self.requests: list[Recorded] = []
        self.jobs: Jobs = {}
        self._is_started = False
        self._script: deque[Answer] = deque()  # popped by several request threads at once
        fake = self

        class Handler(_Handler):
            provider = fake

        self._server = _Server(("127.0.0.1", 0), Handler)

    def start(self) -> FakeProvider:
        """Serve on a daemon thread."""
        self._is_started = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop serving, and close the port and all connections: a client that is still connected
        gets no further answer.
        """
        if self._is_started:  # otherwise it would wait for ever
            self._server.shutdown()
        self._server.server_close()
        self._server.disconnect()

    def __enter__(self) -> FakeProvider:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL for Anthropic's SDK."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's SDK."""
        return self.url + "/v1"

    def script(self, *answers: Answer) -> None:
        """Use each of these for one of the next requests; after them, the default again."""
        self._script.extend(answers)

    def record(self, method: str, path: str, headers: dict[str, str], body: Any) -> None:
        """Record a request, or an event received over a WebSocket."""
        self.requests.append(Recorded(method, path, headers, body))

    def next_answer(self, headers: dict[str, str]) -> Answer:
        """Return the answer for the next request."""
        answer = self._script.popleft() if self._script else self.default
        if "x-fake-usage" in headers:
            tokens = dataclasses.replace(answer.tokens, **json.loads(headers["x-fake-usage"]))
            answer = dataclasses.replace(answer, tokens=tokens)
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # hundreds of threads connect at once in load tests

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[Any] = set()  # connections, which clients keep alive between requests
        self._open_lock = threading.Lock()  # a closed connection's number may be another's
        self._is_stopped = False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has been served."""
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def disconnect(self) -> None:
        """End all connections; their threads notice, and close them."""
        with self._open_lock:
            self._is_stopped = True
            for request in self._open:
                with suppress(OSError):  # the client was faster
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up, as tests do on purpose, and what is cut off by the stop."""
        if not self._is_stopped and not isinstance(
            sys.exc_info()[1], (ConnectionError, TimeoutError)
        ):
            super().handle_error(request, client_address)


class _CutError(Exception):
    """The answer is to be cut here."""


class _Handler(BaseHTTPRequestHandler):
    provider: FakeProvider
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or small stream events are delayed by 40 ms
    wbufsize = -1  # buffered: an event leaves in one packet, when it is flushed

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the access log."""

    def do_POST(self) -> None:
        """Answer a GET, POST or DELETE."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = urlsplit(self.path)
        if headers.get("upgrade", "").lower() == "websocket":
            self._open_socket(target, headers)
            return
        raw = self.rfile.read(int(headers.get("content-length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:  # a form
            body = None
        provider, path = self.provider, unquote(target.path)
        provider.record(self.command, path, headers, body)
        answer = provider.next_answer(headers)
        if answer.delay_s:
            time.sleep(answer.delay_s)
        fields = body if isinstance(body, dict) else form_fields(raw)
        request = FakeRequest(provider.url, path, target.query, fields, provider.jobs, answer)
        try:
            self._answer(request)
        except _CutError:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)  # both ways, so that the client notices at once
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_DELETE = do_POST  # noqa: N815 - names required by the standard library

    def _open_socket(self, target: SplitResult, headers: dict[str, str]) -> None:
        """Serve a WebSocket until it is closed."""
        from paygent.testing.sockets import Socket  # lazily: it needs the `websockets` library

        self.close_connection = True
        self.provider.record("CONNECT", target.path, headers, None)
        try:
            Socket(self.provider, self, target).serve()
        except (ConnectionError, TimeoutError):
            pass  # the client hung up, as tests do on purpose

    def _answer(self, request: FakeRequest) -> None:
        routes = [route for route in _ROUTES if route.matches(self.command, request.path)]
        status = request.answer.status
        if status == 200 and not routes:
            status = 404
        if status != 200:
            error = json.dumps(_error(request.path, status)).encode()
            self._send(error, "application/json", status)
            return
        reply = routes[0].reply(request)
        if isinstance(reply.body, bytes):
            self._send(reply.body, reply.content_type, cut=request.answer.cut_after is not None)
        else:
            self._send_stream(request.answer, reply, reply.body)

    def _send(self, data: bytes, kind: str, status: int = 200, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", "req_fake")
        self.send_header("request-id", "req_fake")
        if status >= 400:
            self.send_header("retry-after", "0")
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            raise _CutError
        self.wfile.write(data)
        self.wfile.flush()

    def _send_stream(self, answer: Answer, reply: Reply, events: Iterable[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", reply.content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if answer.cut_after is not None and number >= answer.cut_after:
                raise _CutError
            # After an in-stream error a provider sends nothing more.
            if answer.error_after is not None and number >= answer.error_after:
                self._send_event(reply.error)
                break
            self._send_event(event)
            if answer.chunk_delay_s:
                time.sleep(answer.chunk_delay_s)
        self.wfile.write(b"0\r\n\r\n")  # the last chunk; a cut answer lacks it
        self.wfile.flush()

    def _send_event(self, event: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()


def _error(path: str, status: int) -> dict[str, Any]:
    if "/messages" in path:
        return {"type": "error", "error": {"type": "api_error", "message": f"fake {status}"}}
    error = {"message": f"fake {status}", "type": "server_error", "param": None, "code": None}
    return {"error": error}


_ROUTES = (*anthropic.ROUTES, *openai.ROUTES)
