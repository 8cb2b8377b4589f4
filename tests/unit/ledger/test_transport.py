"""The HTTP port against a real server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from paygent.ledger.transport import HttpTransport, TransportError


class Backend:
    """A server that sends configured responses and records requests."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                """Send the configured response."""
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                backend.seen.append((self.command, self.path, headers, body))
                time.sleep(backend.delay_s)
                try:
                    self.send_response(backend.status)
                    self.send_header("location", "/elsewhere")
                    self.send_header("content-length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                except OSError:  # the client has hung up, which is what some tests are about
                    self.close_connection = True

            do_POST = do_GET  # noqa: N815 - names of the standard library

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A running server."""
    made = Backend()
    threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("status", [200, 201, 302, 401, 404, 500])
def test_request__any_status__is_an_answer(backend: Backend, status: int) -> None:
    """Status and body arrive as they are; a redirect is not followed, nothing is retried."""
    backend.status = status
    found = HttpTransport(backend.url, "k").request("GET", "/x", timeout_s=5)
    assert (found.status, found.body) == (status, b"{}")
    assert [(method, path) for method, path, _, _ in backend.seen] == [("GET", "/x")]


def test_request__carries_the_key_and_says_what_it_sends(backend: Backend) -> None:
    """The key is a bearer token; a body is JSON, and without one no type is claimed."""
    transport = HttpTransport(backend.url, "pg_live_x")
    transport.request("POST", "/events", body=b'{"a":1}', timeout_s=5)
    transport.request("GET", "/events", timeout_s=5)
    (_, _, posted, body), (_, _, got, _) = backend.seen
    assert (posted["authorization"], posted["content-type"]) == (
        "Bearer pg_live_x",
        "application/json",
    )
    assert body == b'{"a":1}'
    assert "content-type" not in got


def test_request__a_slow_answer__is_no_answer(backend: Backend) -> None:
    """The time-out bounds the wait."""
    backend.delay_s = 0.5
    with pytest.raises(TransportError, match="ReadTimeout"):
        HttpTransport(backend.url, "k").request("GET", "/x", timeout_s=0.05)


def test_request__nobody_listening__is_no_answer() -> None:
    """A refused connection is reported by its kind, without the address or the key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(TransportError, match=r"^ConnectError$"):
            HttpTransport(url, "secret").request("GET", "/x", timeout_s=1)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://127.0.0.1:999999", "k"),
        ("http://[::1", "k"),
        ("nonsense", "k"),
        ("http://127.0.0.1:9", "ключ"),
        ("http://127.0.0.1:9", "two\nlines"),
    ],
)
def test_request__that_cannot_be_sent__is_no_answer(url: str, key: str) -> None:
    """An address or key that no request can carry is the same error as an absent server."""
    with pytest.raises(TransportError):
        HttpTransport(url, key).request("GET", "/x", timeout_s=0.2)
