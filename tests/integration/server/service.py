"""A server application in the test's process, over a real store and a clock that is set."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from paygent.core.api_key import hash_of_key, hint_of_key, make_key
from paygent.core.period import to_us
from paygent.server.app import create_app
from paygent.server.run import bind, uvicorn_config
from paygent.server.settings import ServerSettings
from paygent.store.directory_port import Scope
from paygent.store.ledger import SqlStore

NOW = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
NOW_US = to_us(NOW)
API = "/api/v1"
LOOPBACK = ("127.0.0.1", 50_000)
ELSEWHERE = ("198.51.100.7", 50_000)


class Service:
    """An application with a product `acme`, a key of each scope, and another product `other`."""

    def __init__(self, store: SqlStore, client: Any, app: FastAPI) -> None:
        self.store = store
        self.client = client
        self.app = app
        self.keys: dict[str, str] = {}
        self.now_us = NOW_US
        for product in ("acme", "other"):
            store.add_product(product.title(), product_id=product)
        for scope in ("admin", "sdk", "read"):
            self.keys[scope] = self.new_key("acme", scope)
        self.keys["other"] = self.new_key("other", "admin")

    def new_key(self, product: str, scope: Any) -> str:
        """Make a key of a product, and return its text."""
        text = make_key(product, secrets.token_bytes(32))
        chosen: Scope = scope
        self.store.add_key(
            product,
            key_hash=hash_of_key(text),
            scope=chosen,
            name=scope,
            hint=hint_of_key(text),
        )
        return text

    def call(self, method: str, path: str, *, key: str = "admin", **options: Any) -> Response:
        """Send a request with one of the keys; "" sends none."""
        headers = dict(options.pop("headers", {}))
        if key:
            headers.setdefault("Authorization", f"Bearer {self.keys[key]}")
        prefix = "" if path in ("/health", "/ready", "/metrics") else API
        response: Response = self.client.request(method, prefix + path, headers=headers, **options)
        return response

    def get(self, path: str, **options: Any) -> Response:
        """GET."""
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Response:
        """POST a body as JSON."""
        return self.call("POST", path, json=body, **options)

    def plan(self, name: str = "pro", **fields: Any) -> str:
        """Create a plan, and return its id."""
        answer = self.post("/config/plans", {"plans": [{"name": name, **fields}]})
        assert answer.status_code == 200, answer.text
        plan_id: str = answer.json()["plans"][0]["id"]
        return plan_id

    def user(self, user_id: str = "u1", **fields: Any) -> None:
        """Create a user."""
        answer = self.post("/users", {"external_user_id": user_id, **fields})
        assert answer.status_code == 201, answer.text

    def book(self, *events: dict[str, Any]) -> dict[str, int]:
        """Send events, and return the answer."""
        answer = self.post("/events/batch", list(events))
        assert answer.status_code == 200, answer.text
        counts: dict[str, int] = answer.json()
        return counts


@contextmanager
def serving(
    store: SqlStore, *, peer: tuple[str, int] = LOOPBACK, **settings: Any
) -> Iterator[Service]:
    """Run an application over an open store."""
    services: list[Service] = []

    def now_us() -> int:
        return services[0].now_us if services else NOW_US

    chosen = ServerSettings(database_url="sqlite:///unused", **{"key_cache_s": 0.0, **settings})
    app = create_app(store, chosen, now_us)
    with TestClient(app, client=peer, raise_server_exceptions=False) as client:
        services.append(Service(store, client, app))
        yield services[0]


@contextmanager
def listening(store: SqlStore, **settings: Any) -> Iterator[Service]:
    """Run an application behind a socket, in a thread."""
    chosen = ServerSettings(database_url="sqlite:///unused", port=0, **settings)
    app = create_app(store, chosen, lambda: NOW_US)
    with bind(chosen) as listener:
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn_config(chosen, app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=address, timeout=30) as client:
                yield Service(store, client, app)
        finally:
            server.should_exit = True
            thread.join(30)


def event(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return a usage event as applications send it: 10 cents for 1,500 tokens, an hour ago."""
    return {
        "id": f"event-{number}",
        "user_id": "u1",
        "session_id": "s1",
        "timestamp": (NOW - timedelta(hours=1)).isoformat(),
        "model": "gpt-4o-2024-08-06",
        "input_tokens": 1_000,
        "output_tokens": 500,
        "total_tokens": 1_500,
        "tool_calls": [],
        "cost_tokens": 0.1,
        "cost_tools": 0.0,
        "cost_total": 0.1,
        "metadata": {},
        "source": "auto",
        "description": None,
        "cost_explicit": False,
        "synced": False,
        **fields,
    }


def gate_event(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return a gate event as applications send it."""
    return {
        "id": f"gate-{number}",
        "user_id": "u1",
        "paygent_user_id": None,
        "session_id": "s1",
        "timestamp": (NOW - timedelta(minutes=number)).isoformat(),
        "status": "hard_gate",
        "gate_reason": "total_spend",
        "usage_pct": 1.0,
        "current_value": 50.0,
        "limit_value": 50.0,
        "model": "gpt-4o",
        "blocked": True,
        "message": "u1 has used $50.00 of $50.00.",
        "metadata": {},
        **fields,
    }


def fields_of(problem: Response) -> list[str]:
    """Return the fields that a problem names."""
    assert problem.headers["content-type"] == "application/problem+json", problem.text
    return [error["field"] for error in problem.json().get("errors", ())]


def load(response: Response) -> Any:
    """Return a body as JSON, with numbers as they are written."""
    return json.loads(response.text, parse_float=str)
