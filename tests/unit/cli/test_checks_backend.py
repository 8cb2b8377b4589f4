"""What the doctor finds about a backend, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from paygent.cli.checks.backend import check_backend
from paygent.cli.checks.finding import Level


class Server:
    """A backend that answers as it is told."""

    def __init__(self) -> None:
        self.health: Any = {"status": "ok", "capabilities": ["sync"]}
        self.key = "pg_live_good"
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                """Answer `/health` and `/products`."""
                is_public = self.path.endswith("/health")
                is_known = self.headers["Authorization"] == f"Bearer {server.key}"
                body = json.dumps(server.health if is_public else {"products": []}).encode()
                self.send_response(200 if is_public or is_known else 401)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    """A running backend."""
    made = Server()
    threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def found(url: str, key: str = "pg_live_good") -> tuple[Level, str]:
    """Return level and text of the one finding."""
    (finding,) = check_backend({"PAYGENT_API_KEY": key, "PAYGENT_BASE_URL": url})
    assert finding.subject == "backend"
    assert key not in f"{finding.text}{finding.remedy}"
    assert bool(finding.remedy) == (finding.level is not Level.OK)
    return finding.level, finding.text


def test_check_backend__without_a_key__is_not_asked() -> None:
    """Local mode has none."""
    assert list(check_backend({"PAYGENT_BASE_URL": "http://127.0.0.1:9"})) == []


def test_check_backend__that_accepts_the_key__is_fine(server: Server) -> None:
    """A slash at the end of the address does not matter."""
    assert found(server.url + "/") == (Level.OK, f"{server.url} accepts the API key")


def test_check_backend__that_rejects_the_key__is_a_problem(server: Server) -> None:
    """Events wait until it is set right."""
    assert found(server.url, "pg_live_bad") == (
        Level.PROBLEM,
        f"{server.url} rejects the API key",
    )


@pytest.mark.parametrize("health", [{"status": "ok"}, {"status": "ok", "capabilities": []}, []])
def test_check_backend__with_the_documented_routes_alone__is_a_warning(
    server: Server, health: Any
) -> None:
    """It works, and caps hold less well over several processes."""
    server.health = health
    level, text = found(server.url)
    assert (level, "only the documented routes" in text) == (Level.WARNING, True)


def test_check_backend__that_is_away__is_a_problem() -> None:
    """The address is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        level, text = found(url)
    assert (level, url in text, "cannot be reached" in text) == (Level.PROBLEM, True, True)
