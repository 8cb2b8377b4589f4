"""A server on loopback that sends whatever a test wants, also over TLS, and requests to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from paygent.ledger.transport import HttpResponse, HttpTransport

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""Of localhost, 127.0.0.1 and backend.invalid, self-signed, with its key; trusted by tests only."""

NOISE_S = 2.5
"""Allowed above a deadline on a busy machine; a server without limit would take far more."""

Talk = Callable[["Connection"], None]


class Connection:
    """One accepted connection, and what arrived on it."""

    def __init__(self, server: RawServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self._buffer = b""

    def receive(self) -> str | None:
        """Receive the next request and return its path; None at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            part = self.sock.recv(65536)
            if not part:
                return None
            self._buffer += part
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        self.server.heads.append(head.decode())
        self.server.seen.append((self.number, path))
        return path

    def receive_body(self, size: int) -> bytes:
        """Receive the body of the request."""
        while len(self._buffer) < size:
            self._buffer += self.sock.recv(65536)
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def send(self, data: bytes) -> None:
        """Send bytes and count them."""
        self.sock.sendall(data)
        self.server.sent_bytes += len(data)

    def send_slowly(self, data: bytes, pause_s: float) -> None:
        """Send one byte after the other, until the server stops."""
        for index in range(len(data)):
            self.send(data[index : index + 1])
            if self.server.stopping.wait(pause_s):
                return


class RawServer:
    """Runs `talk` on a thread for each connection.

    Attributes:
        accepted: How many connections there were.
        ended: How many of them the client has ended, or `talk` has left.
        seen: Number of the connection, from 0, and path, of each request.
        heads: Request line and header fields of each request.
    """

    def __init__(self, talk: Talk, *, over_tls: bool = False) -> None:
        self._talk = talk
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if over_tls else None
        if self._context is not None:
            self._context.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._socks: list[socket.socket] = []
        self.accepted = self.ended = self.sent_bytes = 0
        self.seen: list[tuple[int, str]] = []
        self.heads: list[str] = []
        self.stopping = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if over_tls else 'http'}://127.0.0.1:{self.port}"
        self._threads[0].start()

    def stop(self) -> None:
        """End all connections and threads."""
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._threads[0].join()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # stopped
                return
            self._socks.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock, self.accepted)))
            self.accepted += 1
            self._threads[-1].start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):  # the client hung up
            with contextlib.ExitStack() as stack:
                stack.enter_context(sock)
                if self._context is not None:
                    sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
                    self._socks.append(sock)
                self._talk(Connection(self, sock, number))
        self.ended += 1


@contextlib.contextmanager
def running(talk: Talk, *, over_tls: bool = False) -> Iterator[RawServer]:
    """Run a server until the block ends."""
    server = RawServer(talk, over_tls=over_tls)
    try:
        yield server
    finally:
        server.stop()


def response(body: bytes = b"{}", *fields: str, status: str = "200 OK") -> bytes:
    """Return a response with a `Content-Length`, as it is sent."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def respond(*parts: bytes) -> Talk:
    """Return a conversation that sends the same to each request, on connections kept alive."""

    def talk(connection: Connection) -> None:
        while connection.receive() is not None:
            for part in parts:
                connection.send(part)

    return talk


def relay_to(port: int) -> Talk:
    """Return the conversation of a proxy that connects each client to a port, for any address."""

    def talk(connection: Connection) -> None:
        connection.receive()
        with socket.create_connection(("127.0.0.1", port)) as onward:
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=copy, args=(onward, connection.sock))
            back.start()
            copy(connection.sock, onward)
            back.join()

    return talk


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy what arrives until it ends, then end the other side too."""
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def open_transport(url: str, key: str = "k") -> Iterator[HttpTransport]:
    """Close a transport when the block ends."""
    transport = HttpTransport(url, key)
    try:
        yield transport
    finally:
        transport.close()


def get(url: str, *, timeout_s: float = 10) -> HttpResponse:
    """Send one request over a transport of its own."""
    with open_transport(url) as transport:
        return transport.request("GET", "/x", timeout_s=timeout_s)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, which a test expects within seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def send_body_slowly(connection: Connection) -> None:
    """Send a body that takes minutes."""
    connection.receive()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    connection.send_slowly(b"x" * 1000, 0.1)
