"""Logs, metrics and threads: what is visible, and what never is."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.integration.server.service import Service, event, gate_event, serving

from paygent.server.logs import JsonLines
from paygent.store.postgres import PostgresStore

SECRETS = ("user-4711", "session-77", "a description", "metadata-value", "a search")


def exercise(service: Service) -> list[str]:
    """Use the service with secrets in bodies, paths and queries; return the keys in use."""
    plan_id = service.plan()
    service.user("user-4711", name="a description")
    service.post("/users/user-4711/subscription", {"plan_id": plan_id})
    fields: dict[str, Any] = {"user_id": "user-4711", "session_id": "session-77"}
    metadata = {"key": "metadata-value"}
    service.book(event(1, description="a description", metadata=metadata, **fields))
    service.post("/events/batch", [event(2, **{**fields, "id": ""})])
    service.post("/gate-events/batch", [gate_event(1, **fields)])
    service.get("/users?search=a%20search")
    service.get("/users/user-4711/session")
    service.get("/users/user-4711/nothing")
    service.call("GET", "/keys", key="", headers={"Authorization": "Bearer pg_live_acme_wrong"})
    created: str = service.post("/keys", {"scope": "sdk"}).json()["api_key"]
    token: str = service.post("/users/user-4711/usage-token").json()["token"]
    return [*service.keys.values(), created, token, "pg_live_acme_wrong"]


def test_logs__of_every_request__have_no_secret_and_no_body(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A line has method, route template, status, time and request id; nothing that was sent."""
    with caplog.at_level(logging.INFO):
        secrets = exercise(service)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records
             if record.name == "paygent.server"]  # fmt: skip
    assert len(lines) >= 12
    text = json.dumps(lines)
    for secret in (*secrets, *SECRETS):
        assert secret not in text
    last = lines[-1]
    assert last["route"] == "/api/v1/users/{user_id}/usage-token"
    assert {"at", "level", "message", "request_id", "method", "status", "ms", "product",
            "key_id"} <= last.keys()  # fmt: skip


def test_metrics__after_traffic__have_templates_and_no_ids(service: Service) -> None:
    """Routes are templates; no user, session or key is in a label."""
    secrets = exercise(service)
    service.client.request("BREW", "/pot-4711")
    text = service.get("/metrics").text
    for secret in (*secrets, *SECRETS, "pot-4711", "BREW"):
        assert secret not in text
    assert 'route="/api/v1/users/{user_id}/session",status="200"} 1.0' in text
    assert 'paygent_events_total{outcome="accepted"} 1.0' in text
    assert "paygent_writer_group_events_count 1.0" in text


def test_logs__of_a_batch_that_postgresql_rejects__have_no_id_of_it(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver's exception quotes the row; the log has its class and SQLSTATE instead."""
    store = PostgresStore(postgres_url)
    store.open()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("ALTER TABLE events ADD CHECK (user_id <> 'user-4711')")
    fields: dict[str, Any] = {"user_id": "user-4711", "session_id": "session-77"}
    with serving(store) as service, caplog.at_level(logging.INFO):
        answer = service.post("/events/batch", [event(1, id="event-id-12", **fields)])
    store.close()
    assert answer.status_code == 422
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    (line,) = [each for each in lines if each["level"] == "warning"]
    assert line["message"] == "a batch was rejected: CheckViolation (SQLSTATE 23514)"
    assert line["request_id"] == answer.json()["request_id"]
    for secret in ("user-4711", "session-77", "event-id-12"):
        assert secret not in json.dumps(lines)


@contextmanager
def thread_of_transactions(store: Any) -> Iterator[set[int]]:
    """Record on which threads transactions begin."""
    threads: set[int] = set()
    transaction = store.engine.transaction

    def noting(product_id: str, *, writes: bool = False) -> Any:
        threads.add(threading.get_ident())
        return transaction(product_id, writes=writes)

    store.engine.transaction = noting
    try:
        yield threads
    finally:
        del store.engine.transaction


def test_store__is_never_used_on_the_event_loops_thread(service: Service) -> None:
    """A slow statement must not stop the other requests."""
    loops: set[int] = set()
    portal: Any = service.client.portal
    portal.call(lambda: loops.add(threading.get_ident()))
    with thread_of_transactions(service.store) as threads:
        exercise(service)
        service.get("/users/user-4711/usage?breakdown=session")
        service.get("/revenue?user_id=user-4711")
        service.get("/users/user-4711/overrides")
        service.get("/ready")
        service.call("DELETE", "/users/user-4711")
    assert loops
    assert threads
    assert not threads & loops


def test_json_lines__exception__is_one_line() -> None:
    """A log line is one JSON object, whatever it says."""
    try:
        raise ValueError("line\nbreak")
    except ValueError as error:
        record = logging.LogRecord(
            "paygent.server", logging.ERROR, "", 0, "it %s\n", ("failed",),
            (ValueError, error, error.__traceback__),
        )  # fmt: skip
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it failed\n"
    assert "ValueError" in json.loads(line)["traceback"]
