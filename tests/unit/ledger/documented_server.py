"""A backend on loopback that has the documented routes and nothing else, and is strict about them.

It keeps events in memory. A test may lose or delay its responses, or replace them.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.contract.samples import MONTH

from paygent.core.period import Window, to_datetime, to_us

EVENTS_MAX = 100
BOOK = "/api/v1/events/batch"
GATES = "/api/v1/gate-events/batch"
HEALTH = "/api/v1/health"
FIELDS = {
    *("id", "user_id", "session_id", "timestamp", "model", "provider", "metadata", "source"),
    *("input_tokens", "output_tokens", "total_tokens", "tool_calls", "description", "synced"),
    *("cost_tokens", "cost_tools", "cost_total", "cost_explicit", "blocked", "corrects"),
    *("cost_tokens_nano", "cost_tools_nano", "cost_total_nano", "quality", "price_id"),
    *("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "latency_ms"),
}
"""Fields of an event; another one is refused."""

GATE_FIELDS = {
    *("id", "user_id", "paygent_user_id", "session_id", "timestamp", "status", "gate_reason"),
    *("usage_pct", "current_value", "limit_value", "model", "blocked", "message", "metadata"),
}
"""Fields of a gate event; another one is refused."""

Answered = tuple[int, Any]
Before = Callable[[str], None]


class DocumentedServer:
    """The server, and what tests observe and change.

    Attributes:
        events: By user and id, as they were sent.
        gate_events: By id, as they were sent.
        users: Fields of the responses about users, besides their usage; a user is known from their
            first event on.
        period: The billing period of every user.
        batches: Number of events in each request.
        paths: Of all requests, as they were sent.
        replaced: Responses by path, in place of the server's own.
        headers: Further fields of each response.
        losing: How many responses to bookings are lost after the events were stored.
        before: Called with the path before a request is handled.
        between: Called with the path after it, before the response.
    """

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.gate_events: dict[str, dict[str, Any]] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.period: Window = MONTH
        self.batches: list[int] = []
        self.paths: list[str] = []
        self.replaced: dict[str, Answered] = {}
        self.headers: dict[str, str] = {}
        self.losing = 0
        self.before: Before = lambda _: None
        self.between: Before = lambda _: None
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # a response is sent at once, and no client waits for the rest of it

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                """Answer a question."""
                self._respond(None)

            def do_POST(self) -> None:
                """Book events."""
                self._respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _respond(self, body: Any) -> None:
                server.paths.append(self.path)
                server.before(self.path)
                answer = server.replaced.get(self.path) or server.answer(self.path, body)
                server.between(self.path)
                if answer is None:  # it is lost
                    self.close_connection = True
                    return
                status, document = answer
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                with contextlib.suppress(OSError):  # the client has hung up
                    self.send_response(status)
                    for name, value in server.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str, body: Any) -> Answered | None:
        """Handle a request; None is a response that is lost."""
        parts = path.split("/")
        if path == BOOK:
            with self._lock:
                return self._book(body)
        if path == GATES:
            with self._lock:
                return self._take_gate_events(body)
        if path == HEALTH:
            return 200, {"status": "ok"}
        if len(parts) == 6 and parts[1:4] == ["api", "v1", "users"] and parts[5] == "session":
            with self._lock:
                return self._session(unquote(parts[4]))
        return problem(404, "There is no such route.")

    def _book(self, events: Any) -> Answered | None:
        self.batches.append(len(events))
        if len(events) > EVENTS_MAX:
            return problem(422, f"At most {EVENTS_MAX} events.")
        for event in events:
            unknown = sorted(event.keys() - FIELDS)
            if unknown or event["user_id"] == "refused":
                return problem(422, f"Not documented: {unknown}.")
        accepted = 0
        for event in events:
            key = (event["user_id"], event["id"])
            accepted += key not in self.events
            self.events.setdefault(key, event)
        if self.losing:
            self.losing -= 1
            return None
        return 200, {"accepted": accepted, "duplicates": len(events) - accepted}

    def _take_gate_events(self, events: Any) -> Answered:
        unknown = sorted({name for event in events for name in event} - GATE_FIELDS)
        if unknown or len(events) > EVENTS_MAX:
            return problem(422, f"Not documented: {unknown}.")
        new = {event["id"]: event for event in events if event["id"] not in self.gate_events}
        self.gate_events |= new
        return 200, {"accepted": len(new), "duplicates": len(events) - len(new)}

    def _session(self, user_id: str) -> Answered:
        booked = [each for (owner, _), each in self.events.items() if owner == user_id]
        if not booked and user_id not in self.users:
            return problem(404, "There is no such user.")
        costs: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for event in booked:
            if self.period.contains(to_us(datetime.fromisoformat(event["timestamp"]))):
                costs[event["model"] or ""] += round(event["cost_total"] * 1e9)
                tokens[event["model"] or ""] += event["total_tokens"]
        start, end = (to_datetime(each).isoformat() for each in self.period)
        return 200, {
            "user_id": user_id,
            "paygent_user_id": f"pg-{user_id}",
            "plan": "pro",
            "sdk_enabled": True,
            "plan_config": {"max_spend_per_period": 5.0},
            "billing_period": {"start": start, "end": end},
            "current_usage": {
                "period_cost": sum(costs.values()) / 1e9,
                "period_tokens_total": sum(tokens.values()),
                "period_tokens_by_model": dict(tokens),
                "period_cost_by_model": {name: each / 1e9 for name, each in costs.items()},
            },
            **self.users.get(user_id, {}),
        }


def problem(status: int, detail: str) -> Answered:
    """Return a problem (RFC 9457)."""
    return status, {"type": "about:blank", "title": "No", "status": status, "detail": detail}


@contextlib.contextmanager
def documented_server() -> Iterator[DocumentedServer]:
    """Run a server until the block ends."""
    made = DocumentedServer()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
