"""The HTTP port against real servers on loopback: requests, responses and connections."""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from tests.unit.ledger.raw_server import (
    Connection,
    get,
    open_transport,
    respond,
    response,
    running,
    wait_until,
)

from paygent.ledger.transport import (
    HttpResponse,
    HttpTransport,
    TransportError,
)

pytestmark = pytest.mark.usefixtures("environment")

MIB = 1024 * 1024


def responses_to(*fields: str) -> HttpResponse:
    """Return the response of a server that sends these header fields."""
    with running(respond(response(b"{}", *fields))) as server:
        return get(server.url)


@pytest.mark.parametrize(
    "status", ["200 OK", "201 Created", "302 Found", "401 No", "404 No", "429 No", "500 Error"]
)
def test_request__any_status__is_a_response(status: str) -> None:
    """Status and body arrive as they are; a redirect is not followed, nothing is retried."""
    talk = respond(response(b'{"a":1}', "Location: /elsewhere", status=status))
    with running(talk) as server:
        found = get(server.url)
    assert found == HttpResponse(int(status[:3]), b'{"a":1}')
    assert server.seen == [(0, "/x")]


def test_request__with_and_without_a_body__carries_the_key_and_its_type() -> None:
    """The key is a bearer token; a body is JSON, and without one no type is claimed."""
    posted: list[bytes] = []

    def talk(connection: Connection) -> None:
        connection.receive()
        posted.append(connection.receive_body(7))
        connection.send(response())
        respond(response())(connection)

    with running(talk) as server, open_transport(server.url, "pg_live_x") as transport:
        transport.request("POST", "/events", body=b'{"a":1}', timeout_s=10)
        transport.request("GET", "/events", timeout_s=10)
        transport.request("POST", "/empty", timeout_s=10)
    with_body, without, empty = (head.lower().split("\r\n") for head in server.heads)
    assert posted == [b'{"a":1}']
    assert with_body[0] == "post /events http/1.1"
    assert {
        f"host: 127.0.0.1:{server.port}",
        "authorization: bearer pg_live_x",
        "accept: application/json",
        "accept-encoding: identity",
        "content-type: application/json",
        "content-length: 7",
    } <= set(with_body)
    assert not [line for line in without if line.startswith("content-")]
    assert [line for line in empty if line.startswith("content-")] == ["content-length: 0"]


def test_request__refused_connection__raises() -> None:
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
        ("http://127.0.0.1:9", "ключ"),
        ("http://127.0.0.1:9", "two\nlines"),
    ],
)
def test_request__that_cannot_be_sent__raises(url: str, key: str) -> None:
    """An address or key that no request can carry is the same error as an absent server."""
    with pytest.raises(TransportError, match=r"^\w+$"):
        HttpTransport(url, key).request("GET", "/x", timeout_s=5)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "ws://127.0.0.1:9", "http://"])
def test_request__to_what_is_not_http__raises(url: str) -> None:
    """An address of another protocol, or without a host, is not connected to."""
    with pytest.raises(TransportError, match=r"^UnsupportedProtocol$"):
        get(url)


@pytest.mark.parametrize(
    "sent",
    [
        b"220 mail.example ESMTP\r\n\r\n" * 10,
        bytes(range(256)) * 500,
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["mail", "binary", "nothing", "half a head", "cut body", "cut chunks", "bad length"],
)
@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
def test_request__garbage_or_truncated__raises(sent: bytes, over_tls: bool) -> None:
    """What is not HTTP, or ends in its middle, is not a response."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.send(sent)

    with running(talk, over_tls=over_tls) as server:
        with pytest.raises(TransportError, match=r"^\w+$"):
            get(server.url)
    assert server.accepted == 1


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", None], ids=["unreadable", "untrusted"])
def test_request__certificates__must_be_readable_and_trusted(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without trusted certificates there is no response over TLS."""
    if variable is None:
        monkeypatch.delenv("SSL_CERT_FILE")
    else:
        monkeypatch.setenv(variable, "/nonexistent.pem")
    with running(respond(response()), over_tls=True) as server:
        with pytest.raises(TransportError, match=r"^(SSLCertVerification|FileNotFound)Error$"):
            get(server.url)


def test_request__response_before_the_body_was_read__is_returned() -> None:
    """A server may refuse a large body and hang up while it is still being sent."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.receive_body(MIB)
        connection.send(response(b"no", "Connection: close", status="413 Too Large"))

    with running(talk) as server, open_transport(server.url) as transport:
        found = transport.request("POST", "/x", body=bytes(32 * MIB), timeout_s=20)
    assert found == HttpResponse(413, b"no")
    assert server.accepted == 1


@pytest.mark.parametrize("is_marked", [False, True], ids=["cut", "ended"])
def test_request__body_until_the_end_of_tls__must_be_ended_by_the_server(is_marked: bool) -> None:
    """Without a length, only the close message of TLS distinguishes the end from a cut."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        if is_marked:
            assert isinstance(connection.sock, ssl.SSLSocket)
            connection.sock.unwrap()

    with running(talk, over_tls=True) as server:
        if is_marked:
            assert get(server.url).body == b"part"
        else:
            with pytest.raises(TransportError, match=r"^SSLEOFError$"):
                get(server.url)


def test_request__over_many_parts__is_whole_and_in_order() -> None:
    """A body is put together from its parts, and a later field does not replace the first."""
    numbers = [b"%d," % number for number in itertools.islice(itertools.count(), 500)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in numbers)
    head = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nRetry-After: 1\r\nRetry-After: 2\r\n\r\n"
    )
    with running(respond(head, chunks, b"0\r\n\r\n")) as server:
        assert get(server.url) == HttpResponse(200, b"".join(numbers), 1.0, None)


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("3601", 3600.0),
        ("9" * 400, 3600.0),
        ("-1", None),
        ("soon", None),
        ("nan", None),
        ("", None),
        ("\u0663".encode().decode("latin-1"), None),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:50:07 GMT", 30.0),
        ("Sun Nov  6 08:50:07 1994", 30.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0),
        ("Sun, 06 Nov 1999 08:49:07 GMT", 3600.0),
        ("Sun, 99 Nov 1994 08:49:07 GMT", None),
    ],
)
def test_retry_after__each_form__is_seconds(value: str, expected_s: float | None) -> None:
    """Seconds and dates are understood, dates by the server's clock, within an hour."""
    found = responses_to("Date: Sun, 06 Nov 1994 08:49:37 GMT", f"Retry-After: {value}")
    assert found.retry_after_s == expected_s
    assert found.status == 200


def test_retry_after__date_without_a_date_of_the_response__is_relative_to_now() -> None:
    """The own clock replaces an absent one of the server."""
    until = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=1800), usegmt=True)
    found = responses_to(f"Retry-After: {until}")
    assert found.retry_after_s is not None
    assert 1700 < found.retry_after_s <= 1800
    assert found.at_us is None


@pytest.mark.parametrize(
    ("value", "expected_us"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777_000_000),
        ("Thu, 01 Jan 1970 00:00:01 +0000", 1_000_000),
        ("yesterday", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        (",", None),
    ],
)
def test_date__of_the_response__is_microseconds(value: str, expected_us: int | None) -> None:
    """The server's clock is reported in microseconds since 1970, if it is one."""
    assert responses_to(f"Date: {value}").at_us == expected_us


def test_request__several_of_one_thread__share_a_connection() -> None:
    """A connection is kept alive, over TLS too."""
    for over_tls in (False, True):
        with running(respond(response()), over_tls=over_tls) as server:
            with open_transport(server.url) as transport:
                for _ in range(5):
                    assert transport.request("GET", "/x", timeout_s=10).status == 200
            assert server.seen == [(0, "/x")] * 5


def test_request__after_a_failure__uses_another_connection() -> None:
    """The rest of a response that came too late is never taken for the next one."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.server.stopping.wait(0.5 if connection.number == 0 else 0)
        connection.send(response(b"%d" % connection.number))
        respond(response())(connection)

    with running(talk) as server, open_transport(server.url) as transport:
        with pytest.raises(TransportError):
            transport.request("GET", "/x", timeout_s=0.1)
        time.sleep(0.6)
        assert transport.request("GET", "/x", timeout_s=10).body == b"1"


def test_request__of_two_threads__use_two_connections() -> None:
    """Threads do not wait for each other's connection, and each keeps its own."""
    together = threading.Barrier(2)

    with running(respond(response())) as server, open_transport(server.url) as transport:

        def send_twice(path: str) -> None:
            together.wait(10)
            for _ in range(2):
                assert transport.request("GET", path, timeout_s=10).status == 200
            together.wait(10)

        with ThreadPoolExecutor(2) as pool:
            for sent in [pool.submit(send_twice, path) for path in ("/a", "/b")]:
                sent.result()
        assert server.accepted == 2
    assert {
        len({number for number, seen in server.seen if seen == path}) for path in ("/a", "/b")
    } == {1}


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
def test_request__server_closed_the_idle_connection__opens_another(over_tls: bool) -> None:
    """The end of an unused connection does not fail the next request."""

    def talk(connection: Connection) -> None:
        connection.receive()
        connection.send(response())

    with running(talk, over_tls=over_tls) as server, open_transport(server.url) as transport:
        for count in (1, 2, 3):
            assert transport.request("GET", "/x", timeout_s=10).status == 200
            wait_until(lambda count=count: server.ended == count)  # type: ignore[misc]
    assert server.accepted == 3


def test_close__idle_connections_of_other_threads__are_closed() -> None:
    """Closing ends all connections, and a closed transport sends nothing more."""
    with running(respond(response())) as server, open_transport(server.url) as transport:
        may_end = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(transport.request, "GET", "/x", timeout_s=10)
            assert sent.result().status == 200
            waiting = pool.submit(may_end.wait, 20)
            transport.request("GET", "/x", timeout_s=10)
            assert (server.accepted, server.ended) == (2, 0)
            kept = [*transport._clients.values()]  # so that the collector closes nothing
            transport.close()
            wait_until(lambda: server.ended == 2)
            may_end.set()
            assert waiting.result()
            assert len(kept) == 2
        with pytest.raises(TransportError, match=r"^TransportClosed$"):
            transport.request("GET", "/x", timeout_s=10)
        assert server.accepted == 2


def test_close__during_a_request__leaves_the_request_alone() -> None:
    """A request in progress still gets its response; its connection ends after it."""
    received, may_respond = threading.Event(), threading.Event()

    def talk(connection: Connection) -> None:
        connection.receive()
        received.set()
        may_respond.wait(10)
        connection.send(response())
        respond(response())(connection)

    with running(talk) as server, open_transport(server.url) as transport:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(transport.request, "GET", "/x", timeout_s=20)
            assert received.wait(10)
            kept = [*transport._clients.values()]  # so that the collector closes nothing
            transport.close()
            may_respond.set()
            assert sent.result().status == 200
            wait_until(lambda: server.ended == 1)
            assert len(kept) == 1


def test_request__after_a_thread_has_ended__closes_the_connection_of_that_thread() -> None:
    """Threads that come and go do not pile up connections."""
    with running(respond(response())) as server, open_transport(server.url) as transport:
        for _ in range(5):
            thread = threading.Thread(
                target=transport.request, args=("GET", "/x"), kwargs={"timeout_s": 10}
            )
            thread.start()
            thread.join()
        transport.request("GET", "/x", timeout_s=10)
        wait_until(lambda: server.ended == 5)
        assert server.accepted == 6


def test_transport__abandoned__closes_its_connection() -> None:
    """A transport that was not closed leaves no socket, and no warning about one."""
    with running(respond(response())) as server:
        HttpTransport(server.url, "k").request("GET", "/x", timeout_s=10)
        wait_until(lambda: server.ended == 1)


FORK = """
import os, sys
from paygent.ledger.transport import HttpTransport

transport = HttpTransport(sys.argv[1], "k")
transport.request("GET", "/parent", timeout_s=20)
transport._lock.acquire()  # as another thread of the parent may hold it
child = os.fork()
if child == 0:
    transport.forget_after_fork()
    for _ in range(2):
        transport.request("GET", "/child", timeout_s=20)
    transport.close()
    os._exit(0)
transport._lock.release()
assert os.waitpid(child, 0)[1] == 0
transport.request("GET", "/parent", timeout_s=20)
transport.close()
"""


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
def test_forget_after_fork__child_and_parent__use_their_own_connections(over_tls: bool) -> None:
    """The parent's connection still works after a child has used, and closed, its own."""
    with running(respond(response()), over_tls=over_tls) as server:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", FORK, server.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert server.seen == [(0, "/parent"), (1, "/child"), (1, "/child"), (0, "/parent")]


def test_transport__without_a_request__does_not_import_httpx2() -> None:
    """Only a process with a backend pays for the import."""
    code = (
        "import sys; from paygent.ledger.transport import HttpTransport; "
        "HttpTransport('http://127.0.0.1:9', 'k').close(); "
        "sys.exit(any(name in sys.modules for name in ('httpx2', 'httpcore2', 'urllib.request')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
