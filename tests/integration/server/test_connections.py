"""Connections: silent ones end, heads have a bound, and a client may leave at any time."""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.integration.server.service import Service, listening

from paygent.server.settings import ServerSettings
from paygent.store.ledger import SqlStore

TIMEOUT_S = 1.0
LATEST_S = 10.0
"""Longest wait for what takes a fraction of a second on a machine that is not busy."""

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = GET[:-2]
HEAD_MAX = ServerSettings(database_url="sqlite:///unused").head_bytes_max


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    """Open a connection to a listening service."""
    url = service.client.base_url
    with socket.create_connection((url.host, url.port), timeout=LATEST_S) as connection:
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """Return the rest of what a server sends until it closes."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass  # it had not read all that was sent
    return b"".join(parts)


def exchange(connection: socket.socket) -> None:
    """Make a request, and keep the connection."""
    connection.sendall(GET)
    answer = b""
    while not answer.endswith(b"}"):  # the body is JSON, and may come after the head
        part = connection.recv(65_536)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 200")


def silent(connection: socket.socket) -> None:
    """Send nothing."""


def half(connection: socket.socket) -> None:
    """Send half a head."""
    connection.sendall(HALF)


def half_after_a_request(connection: socket.socket) -> None:
    """Send half a head on a connection that has been answered."""
    exchange(connection)
    connection.sendall(HALF)


@pytest.mark.parametrize("begin", [silent, half, half_after_a_request])
def test_connection__without_a_whole_head__is_closed(
    store: SqlStore, begin: Callable[[socket.socket], None]
) -> None:
    """A client that sends no head, or half of one, does not keep its place for ever."""
    with listening(store, head_timeout_s=TIMEOUT_S) as service:
        started = time.monotonic()
        with connected(service) as connection:
            begin(connection)
            assert answer_of(connection) == b""
        assert time.monotonic() - started > TIMEOUT_S / 2


def test_connection__a_head_that_trickles__is_closed(store: SqlStore) -> None:
    """Bytes that come in time do not extend the time of a head."""
    with listening(store, head_timeout_s=TIMEOUT_S) as service, connected(service) as connection:
        connection.sendall(HALF)
        deadline = time.monotonic() + LATEST_S
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < deadline:
                connection.sendall(b"a: b\r\n")
                time.sleep(TIMEOUT_S / 10)


def test_connection__idle_after_an_answer__is_kept(store: SqlStore) -> None:
    """Clients and proxies reuse connections for as long as the server keeps them."""
    with listening(store, head_timeout_s=TIMEOUT_S) as service, connected(service) as connection:
        for _ in range(2):
            exchange(connection)
            time.sleep(TIMEOUT_S * 2.5)
        exchange(connection)


def test_connection__that_pipelines_without_a_bound__is_ended(store: SqlStore) -> None:
    """Requests that wait for the answers before theirs do not fill the memory."""
    with listening(store) as service, connected(service) as connection:
        with pytest.raises(ConnectionError):
            for _ in range(200):  # 8 MB in all
                connection.sendall(GET * 1_000)
                time.sleep(0.002)


def test_head__that_does_not_end__is_431(store: SqlStore) -> None:
    """The server does not collect a head without a bound, while it waits for its end."""
    with listening(store) as service, connected(service) as connection:
        connection.sendall(HALF)
        time.sleep(0.05)  # so that it arrives in parts
        connection.sendall(b"a: " + b"b" * (HEAD_MAX - 8_000) + b"\r\n")
        sent = HEAD_MAX - 8_000
        # What is sent after the refusal would reset the connection, and the refusal be lost.
        while not select.select([connection], [], [], 0.5)[0] and sent < 2 * HEAD_MAX:
            connection.sendall(b"a: " + b"b" * 4_000 + b"\r\n")
            sent += 4_005
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")


def test_head__complete_and_above_the_limit__is_431(store: SqlStore) -> None:
    """Also a head that arrives at once has a bound, and its refusal is a problem."""
    half_max = "b" * (HEAD_MAX // 2)
    with listening(store) as service:
        within = service.client.get("/health", headers={"a": "b" * (HEAD_MAX - 1_000)})
        beyond = service.client.get("/health", headers={"a": "b" * HEAD_MAX})
        together = service.client.get(f"/health?{half_max}", headers={"a": half_max})
    assert within.status_code == 200
    for answer in (beyond, together):
        assert answer.status_code == 431
        assert answer.json()["type"] == "urn:paygent:problem:head-too-large"


def test_trailers__that_do_not_end__end_the_connection(store: SqlStore) -> None:
    """What follows a streamed body is a head, too."""
    with listening(store) as service, connected(service) as connection:
        head = "POST /api/v1/events/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        key = f"Authorization: Bearer {service.keys['sdk']}\r\n\r\n"
        connection.sendall((head + key + "2\r\n[]\r\n0\r\n").encode())
        deadline = time.monotonic() + LATEST_S
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                connection.sendall(b"a: " + b"b" * 16_000 + b"\r\n")
                time.sleep(0.005)


@pytest.mark.parametrize("path", ["/api/v1/events/batch", "/api/v1/users"])
@pytest.mark.parametrize("idempotency", ["", "Idempotency-Key: k1\r\n"])
def test_client__that_leaves_in_its_body__is_499_without_a_traceback(
    store: SqlStore, caplog: pytest.LogCaptureFixture, path: str, idempotency: str
) -> None:
    """It is no error of the server, whichever part of it reads the body."""
    caplog.set_level(logging.INFO)
    with listening(store) as service:
        with connected(service) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n{idempotency}"
            key = f"Authorization: Bearer {service.keys['admin']}\r\n\r\n"
            connection.sendall((head + key + '[{"id"').encode())
            time.sleep(0.1)  # the server reads the body by now
        counted = f'{{method="POST",route="{path}",status="499"}} 1.0'
        deadline = time.monotonic() + LATEST_S
        while counted not in (text := service.get("/metrics").text):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    lines = [vars(each) for each in caplog.records if each.getMessage() == "request"]
    assert [json.dumps(each["status"]) for each in lines if each["route"] == path] == ["499"]
