"""The port to the backend's HTTP API: one method, called on Paygent's own threads only.

Contract: `request` returns any HTTP response that arrived whole, in time, uncompressed and with a
body of 8 MiB at most, and raises `TransportError` if there was none. It follows no redirects and
does not retry. Thread-safe.

Theory of operation. httpx2's time-outs limit each step: a server that sends a byte a second holds a
request for as long as it likes. `httpx2.Client` has no parameter for a total, and the `timeout`
extension of a request is read once per phase and then passed to each read of it. What httpcore2,
the engine of httpx2, supports for this purpose is a network backend: `_Wire` opens the sockets and
allows each wait on them (connect, send, receive) no more than what is left of the deadline. TLS,
also TLS to a backend inside TLS to a proxy, is a layer on such a stream and waits nowhere else.
Because `httpx2.Client` cannot be given a backend, a thread's client is httpcore2's pool, with
httpx2's URLs, proxy settings and TLS context.

The resolver of the operating system cannot be interrupted: a slow look-up of a name adds to the
deadline. The clock starts once a thread has its client: importing httpx2 and loading certificates
come before it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import httpx2
    from httpcore2 import NetworkBackend, NetworkStream, Proxy
else:  # imported at the first request; the pool calls these classes and never checks their type
    NetworkBackend = NetworkStream = object

_Result = TypeVar("_Result")

BODY_BYTES_MAX = 8 * 1024 * 1024
"""Largest accepted body of a response, in bytes."""

RETRY_AFTER_S_MAX = 3600.0
"""A longer `Retry-After` is shortened to this."""

_IDLE_S_MAX = 45.0
"""How long a connection is kept unused: below the 60 s after which usual proxies close theirs, so
that a request rarely meets a connection that is just being closed."""

_TLS_READ_BYTES = 64 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TransportError(Exception):
    """There was no response: the connection was refused, timed out or broke, or what was received
    is not an acceptable response. The text is the name of the reason, such as `ReadTimeout`.
    """


class HttpResponse(NamedTuple):
    """An HTTP response.

    Attributes:
        status: Its status code.
        body: Its whole body.
        retry_after_s: `Retry-After` in seconds, 0 to 3600; None without a valid one.
        at_us: `Date` in microseconds since 1970 (UTC); None without a valid one.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None
    at_us: int | None = None


class Transport(Protocol):
    """One method; see the module's contract."""

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Send one request and return its response.

        Args:
            method: HTTP method.
            path: Path below the base URL, with a leading slash.
            body: JSON, or None.
            timeout_s: Deadline of the whole exchange: connect, TLS, send and every received byte.

        Raises:
            TransportError: if there was no response.
        """


class HttpTransport:
    """Adapter of `Transport` over httpx2, which is imported at the first request.

    Each thread has a client of its own, and with it a connection that is kept alive.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        """Store the address and the key; no connection is opened before the first request.

        Args:
            base_url: Without a trailing slash.
            api_key: Sent as a bearer token.
        """
        self._base_url = base_url
        self._api_key = api_key
        self._is_closed = False
        self._clients: dict[threading.Thread, _Client] = {}
        self._lock = threading.Lock()  # for writing `_clients`

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Send one request; see `Transport.request`."""
        import httpcore2
        import httpx2  # takes 90 ms, and only a backend needs it

        try:
            url = httpx2.URL(self._base_url + path)
            if url.scheme not in ("http", "https") or not url.host:
                raise TransportError("UnsupportedProtocol")
            headers = self._headers(url, body)
            client = self._client(url)
            try:
                with client.busy:
                    return client.exchange(method, url, headers, body, timeout_s)
            finally:
                if self._is_closed:  # meanwhile, by another thread, which left this client alone
                    client.close()
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.ProxyError,
            httpcore2.TimeoutException,
            httpx2.InvalidURL,
            ImportError,  # a SOCKS proxy without the package for it
            OSError,  # certificates that cannot be read
            ValueError,  # an address or a key that no request can contain
        ) as error:
            raise TransportError(type(error).__name__) from error

    def close(self) -> None:
        """Close all connections; later requests raise `TransportError`.

        A client that another thread is using is not touched: that thread closes it at the end of
        its request, which is at the request's deadline at the latest.
        """
        with self._lock:
            self._is_closed = True
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def forget_after_fork(self) -> None:
        """Drop the parent's clients in a forked child, without closing them.

        Their locks may be held by threads that do not exist here. The collector releases this
        process's copies of the sockets, which sends nothing: the parent's connections stay usable.
        """
        self._lock = threading.Lock()
        self._clients = {}

    def _headers(self, url: httpx2.URL, body: bytes | None) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", b"paygent"),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),  # a small body must not become a large one
            (b"Authorization", f"Bearer {self._api_key}".encode("ascii")),
        ]
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
        return headers

    def _client(self, url: httpx2.URL) -> _Client:
        """Return this thread's client."""
        thread = threading.current_thread()
        client = self._clients.get(thread)
        if client is not None:
            return client
        client = _Client(url)
        with self._lock:
            if self._is_closed:
                raise TransportError("TransportClosed")
            ended = [owner for owner in self._clients if not owner.is_alive()]
            unused = [self._clients.pop(owner) for owner in ended]
            self._clients[thread] = client
        for each in unused:
            each.close()
        return client


class _Client:
    """The connections of one thread."""

    def __init__(self, url: httpx2.URL) -> None:
        import httpcore2
        import httpx2

        self.busy = threading.Lock()  # held during an exchange
        self._wire = _Wire()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context() if url.scheme == "https" else None,
            proxy=_proxy(url),
            keepalive_expiry=_IDLE_S_MAX,
            network_backend=self._wire,
        )

    def exchange(
        self,
        method: str,
        url: httpx2.URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes | None,
        timeout_s: float,
    ) -> HttpResponse:
        """Send a request and receive the whole response."""
        import httpcore2

        target = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        content = b"" if body is None and method != "GET" else body  # with `Content-Length: 0`
        received = bytearray()  # not a list: a body may come as millions of tiny chunks
        self._wire.ends_at = time.monotonic() + timeout_s
        waits = {"timeout": {"pool": timeout_s}}  # of the others, `_Wire` takes care
        with self._pool.stream(
            method, target, headers=headers, content=content, extensions=waits
        ) as response:
            fields = [
                (name.lower(), value.decode("latin-1").strip()) for name, value in response.headers
            ]
            is_encoded = any(
                name == b"content-encoding" and value.lower() not in ("", "identity")
                for name, value in fields
            )
            for part in response.iter_stream():
                received += part
                if is_encoded:
                    raise TransportError("UnexpectedEncoding")
                if len(received) > BODY_BYTES_MAX:
                    raise TransportError("ResponseTooLarge")
        first = dict(reversed(fields))
        sent_at = _moment(first.get(b"date"))
        return HttpResponse(
            response.status,
            bytes(received),
            _retry_after_s(first.get(b"retry-after"), sent_at),
            None if sent_at is None else (sent_at - _EPOCH) // timedelta(microseconds=1),
        )

    def close(self) -> None:
        """Close the connections unless an exchange is in progress."""
        if self.busy.acquire(blocking=False):
            try:
                self._pool.close()
            finally:
                self.busy.release()


class _Wire(NetworkBackend):
    """Opens the sockets of one client, and limits each wait on them by the request's deadline.

    The pool also passes time-outs and other options of its own, which are unset.
    """

    ends_at = 0.0
    """The deadline, by the monotonic clock."""

    def left_s(self) -> float:
        """Return the seconds until the deadline, or raise `TimeoutError` after it."""
        left_s = self.ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def connect_tcp(self, host: str, port: int, *_unset: Any, **_options: Any) -> NetworkStream:
        """Connect to the first address of a host that accepts.

        Each gets an equal share of the time left: one that swallows packets, such as IPv6 behind a
        broken route, must not take it all from the next.
        """
        with _step("Connect"):
            failure = OSError("no address")
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for index, (family, kind, protocol, _, address) in enumerate(addresses):
                try:
                    stream = _TcpStream(socket.socket(family, kind, protocol), self)
                    stream.connect(address, self.left_s() / (len(addresses) - index))
                except OSError as error:  # noqa: PERF203 - the next address may accept
                    failure = error
                else:
                    return stream
            raise failure


class _TcpStream(NetworkStream):
    """A socket that waits until the deadline at most."""

    def __init__(self, sock: socket.socket, wire: _Wire) -> None:
        self._sock = sock
        self._wire = wire

    def __del__(self) -> None:
        # Of a transport that was not closed, or of a parent's client: sends nothing, takes no lock.
        self._sock.close()

    def connect(self, address: Any, timeout_s: float) -> None:
        """Connect, or close the socket."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._sock.settimeout(timeout_s)
            self._sock.connect(address)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            undo.pop_all()

    def read(self, max_bytes: int, *_unset: Any, **_options: Any) -> bytes:
        with _step("Read"):
            self._sock.settimeout(self._wire.left_s())
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, *_unset: Any, **_options: Any) -> None:
        import httpcore2

        rest = memoryview(buffer)
        try:
            while rest:
                self._sock.settimeout(self._wire.left_s())
                rest = rest[self._sock.send(rest) :]
        except TimeoutError:
            raise TransportError("WriteTimeout") from None
        except OSError as error:
            # The pool reads on after this one: the server may have responded before it hung up.
            raise httpcore2.WriteError from error

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        *_unset: Any,
        **_options: Any,
    ) -> NetworkStream:
        return _TlsStream(self, ssl_context, server_hostname)

    def get_extra_info(self, info: str) -> Any:
        return self._is_readable() if info == "is_readable" else None

    def _is_readable(self) -> bool:
        """Return whether an idle connection has something to read, which is its end."""
        try:
            self._sock.setblocking(False)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:  # reset
            return True
        return True


class _TlsStream(NetworkStream):
    """TLS on another stream, which does all the waiting."""

    def __init__(
        self, below: _TcpStream | _TlsStream, context: ssl.SSLContext, hostname: str | None
    ) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
            self._drive(self._tls.do_handshake)
            undo.pop_all()

    def read(self, max_bytes: int, *_unset: Any, **_options: Any) -> bytes:
        return self._drive(partial(self._tls.read, max_bytes))

    def write(self, buffer: bytes, *_unset: Any, **_options: Any) -> None:
        rest = memoryview(buffer)
        while rest:
            rest = rest[self._drive(partial(self._tls.write, rest)) :]

    def close(self) -> None:
        self._below.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        *_unset: Any,
        **_options: Any,
    ) -> NetworkStream:
        return _TlsStream(self, ssl_context, server_hostname)

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._below.get_extra_info(info)

    def _drive(self, operation: Callable[[], _Result]) -> _Result:
        """Run an operation of TLS, moving bytes between it and the stream below.

        An end without TLS's own close message is an error: the body may have been cut there.
        """
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:  # noqa: PERF203 - how OpenSSL asks for bytes
                self._flush()
                received = self._below.read(_TLS_READ_BYTES)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError as error:
                raise TransportError(type(error).__name__) from error
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    """Report a failure of the network by the name of the step."""
    try:
        yield
    except TimeoutError:
        raise TransportError(f"{name}Timeout") from None
    except OSError as error:
        raise TransportError(f"{name}Error") from error


def _proxy(url: httpx2.URL) -> Proxy | None:
    """Return the proxy that the environment names for a URL, by httpx2's rules, or None.

    Loopback addresses have none: through a proxy they would be those of another machine.
    """
    from urllib.request import getproxies

    import httpcore2
    import httpx2

    variables = getproxies()
    address = variables.get(url.scheme) or variables.get("all")
    entries = [entry.strip() for entry in variables.get("no", "").split(",")]
    if not address or _is_loopback(url.host) or any(_exempts(entry, url) for entry in entries):
        return None
    proxy = httpx2.Proxy(address if "://" in address else f"http://{address}")
    return httpcore2.Proxy(
        httpcore2.URL(
            scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
        ),
        auth=proxy.raw_auth,
        ssl_context=httpx2.create_ssl_context() if proxy.url.scheme == "https" else None,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _exempts(entry: str, url: httpx2.URL) -> bool:
    """Return whether an entry of NO_PROXY covers a URL.

    It is `*`, an address or network, or a name with or without subdomains; a scheme before it and a
    port after a name narrow it.
    """
    if entry == "*":
        return True
    scheme, _, place = entry.rpartition("://")
    if scheme not in ("", "all", url.scheme):
        return False
    try:
        return ipaddress.ip_address(url.host) in ipaddress.ip_network(
            place.replace("[", "").replace("]", ""), strict=False
        )
    except ValueError:  # one of the two is a name
        name, _, port = place.lower().removeprefix("*").partition(":")
    if not name or (port and port != str(url.port)):
        return False
    return url.host.endswith(name if name.startswith(".") else f".{name}") or url.host == name


def _moment(text: str | None) -> datetime | None:
    """Parse an HTTP date."""
    try:
        parsed = parsedate_to_datetime(text or "")
        return parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):  # its parser raises all of them
        return None


def _retry_after_s(text: str | None, sent_at: datetime | None) -> float | None:
    """Parse `Retry-After`: seconds, or an HTTP date, which is compared with the response's own."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        wait_s = float(text)
    else:
        until = _moment(text)
        if until is None:
            return None
        wait_s = (until - (sent_at or datetime.now(timezone.utc))).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)
