"""The limits of the HTTP port: the deadline of an exchange and the size of a body."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from tests.unit.ledger.raw_server import (
    NOISE_S,
    Connection,
    Talk,
    get,
    open_transport,
    respond,
    response,
    running,
    send_body_slowly,
    wait_until,
)

from paygent.ledger.transport import (
    BODY_BYTES_MAX,
    TransportError,
)

pytestmark = pytest.mark.usefixtures("environment")

DEADLINE_S = 0.4
MIB = 1024 * 1024


def send_head_slowly(connection: Connection) -> None:
    """Send a head that takes minutes."""
    connection.receive()
    connection.send_slowly(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, 0.1)


def send_chunk_heads_slowly(connection: Connection) -> None:
    """Send a chunked body that stays within the head of its first chunk."""
    connection.receive()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    connection.send_slowly(b"x" * 1000, 0.1)


def send_interim_responses(connection: Connection) -> None:
    """Send responses that announce another one."""
    connection.receive()
    while not connection.server.stopping.wait(0.05):
        connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")


def swallow(connection: Connection) -> None:
    """Receive, and never send."""
    connection.receive()
    connection.server.stopping.wait()


def receive_slowly(connection: Connection) -> None:
    """Receive a large body for minutes."""
    while not connection.server.stopping.wait(0.05):
        connection.sock.recv(32 * 1024)


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "talk",
    [
        send_head_slowly,
        send_body_slowly,
        send_chunk_heads_slowly,
        send_interim_responses,
        swallow,
        receive_slowly,
    ],
)
def test_request__slow_server__raises_at_the_deadline(talk: Talk, over_tls: bool) -> None:
    """The deadline bounds the whole exchange, however often a byte moves in between."""
    body = bytes(32 * MIB) if talk is receive_slowly else b"{}"
    with running(talk, over_tls=over_tls) as server, open_transport(server.url) as transport:
        began_at = time.monotonic()
        with pytest.raises(TransportError, match=r"^(Read|Write)Timeout$"):
            transport.request("POST", "/x", body=body, timeout_s=DEADLINE_S)
        assert DEADLINE_S <= time.monotonic() - began_at < DEADLINE_S + NOISE_S
        assert server.accepted == 1


def test_request__tls_handshake_without_reply__raises_at_the_deadline() -> None:
    """A server that accepts and stays silent cannot hold the handshake of TLS."""
    with running(lambda connection: swallow(connection)) as server:
        began_at = time.monotonic()
        with pytest.raises(TransportError, match=r"^ReadTimeout$"):
            get(server.url.replace("http:", "https:"), timeout_s=DEADLINE_S)
        assert time.monotonic() - began_at < DEADLINE_S + NOISE_S


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port that swallows connections: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_request__connection_that_is_not_accepted__raises_at_the_deadline(full_port: int) -> None:
    """The deadline bounds the connecting too."""
    began_at = time.monotonic()
    with pytest.raises(TransportError, match=r"^ConnectTimeout$"):
        get(f"http://127.0.0.1:{full_port}", timeout_s=DEADLINE_S)
    assert time.monotonic() - began_at < DEADLINE_S + NOISE_S


def test_request__one_of_two_addresses_swallows_packets__reaches_the_other(
    full_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address of a host does not use up the time of the next."""
    with running(respond(response())) as server:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
            for port in (full_port, server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert get("http://backend.invalid", timeout_s=3).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n",
    ],
    ids=["with its length", "until the end", "one chunk"],
)
def test_request__gigabyte__raises_after_8_mib(head: bytes) -> None:
    """A body over the limit costs the limit in memory, and is not received further."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.send(head)
        for _ in range(1024):
            connection.send(bytes(MIB))

    with running(talk) as server, open_transport(server.url) as transport:
        tracemalloc.start()
        try:
            with pytest.raises(TransportError, match=r"^ResponseTooLarge$"):
                transport.request("GET", "/x", timeout_s=60)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        wait_until(lambda: server.ended == 1)
    assert peak_bytes < 3 * BODY_BYTES_MAX
    assert BODY_BYTES_MAX <= server.sent_bytes < 128 * MIB  # the rest is in the kernel's buffers


def test_request__body_of_tiny_chunks__costs_its_size_in_memory() -> None:
    """The number of chunks does not multiply the memory."""
    chunks = b"2\r\nxx\r\n" * 100_000
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    with running(respond(sent)) as server, open_transport(server.url) as transport:
        tracemalloc.start()
        try:
            found = transport.request("GET", "/x", timeout_s=120)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(found.body) == 200_000
    assert peak_bytes < 2 * MIB


def test_request__endless_body_of_tiny_chunks__raises_at_the_deadline() -> None:
    """A flood that is expensive to parse is cut off like a slow body."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not connection.server.stopping.is_set():
            connection.send(b"1\r\nx\r\n" * 1000)

    with running(talk) as server, open_transport(server.url) as transport:
        began_at = time.monotonic()
        with pytest.raises(TransportError, match=r"^ReadTimeout$"):
            transport.request("GET", "/x", timeout_s=DEADLINE_S)
        assert time.monotonic() - began_at < DEADLINE_S + NOISE_S


def test_request__body_of_the_largest_size__is_a_response() -> None:
    """The limit itself is allowed."""
    with running(respond(response(bytes(BODY_BYTES_MAX)))) as server:
        assert len(get(server.url).body) == BODY_BYTES_MAX


def test_request__decompression_bomb__raises() -> None:
    """A compressed body was not asked for, and is not unpacked."""
    bomb = gzip.compress(bytes(64 * MIB), 1)
    assert len(bomb) < BODY_BYTES_MAX
    with running(respond(response(bomb, "Content-Encoding: gzip"))) as server:
        with pytest.raises(TransportError, match=r"^UnexpectedEncoding$"):
            get(server.url)
