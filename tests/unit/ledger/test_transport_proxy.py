"""The HTTP port through the proxies of the environment."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest
from tests.unit.ledger.raw_server import (
    NOISE_S,
    RawServer,
    get,
    open_transport,
    relay_to,
    respond,
    response,
    running,
    send_body_slowly,
)

from paygent.ledger.transport import (
    TransportError,
    _exempts,
)

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """A proxy that the environment names for everything, and that responds by itself."""
    with running(respond(response(b"proxy"))) as server:
        monkeypatch.setenv("ALL_PROXY", server.url)
        yield server


def test_proxy__of_the_environment__receives_the_request(proxy: RawServer) -> None:
    """Other addresses than loopback are reached through the proxy, which stays connected."""
    with open_transport("http://backend.invalid") as transport:
        for _ in range(2):
            assert transport.request("GET", "/x", timeout_s=10).body == b"proxy"
    assert proxy.seen == [(0, "http://backend.invalid/x")] * 2


def test_proxy__of_the_scheme__wins_and_needs_no_scheme_itself(
    proxy: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is more specific than ALL_PROXY; a bare address means HTTP, with credentials."""
    monkeypatch.setenv("HTTP_PROXY", f"user:pass@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert get("http://backend.invalid").body == b"proxy"
    assert "proxy-authorization: basic dxnlcjpwyxnz" in proxy.heads[0].lower()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_proxy__loopback__is_reached_directly(proxy: RawServer, host: str) -> None:
    """A loopback address never goes through a proxy, where it would be another machine."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(TransportError, match=r"^ConnectError$"):
            get(f"http://{host}:{free.getsockname()[1]}")
    assert proxy.seen == []


def test_proxy__ipv6_loopback__is_reached_directly(proxy: RawServer) -> None:
    """The same holds for `::1`, which this machine may not have."""
    with pytest.raises(TransportError, match=r"^ConnectError$"):
        get("http://[::1]:9")
    assert proxy.seen == []


@pytest.mark.parametrize("address", ["nonsense://127.0.0.1", "http://[::1", "socks5://127.0.0.1:9"])
def test_proxy__unusable__raises(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be used is a failure to connect."""
    monkeypatch.setenv("ALL_PROXY", address)
    with pytest.raises(TransportError, match=r"^\w+$"):
        get("http://backend.invalid", timeout_s=5)


@pytest.mark.parametrize(
    ("entry", "url", "is_exempt"),
    [
        ("*", "http://a.example", True),
        ("", "http://a.example", False),
        ("a.example", "http://a.example", True),
        ("A.Example", "http://a.example", True),
        ("example", "http://a.example", True),
        ("xample", "http://a.example", False),
        (".a.example", "http://a.example", False),
        (".example", "http://a.example", True),
        ("*.example", "http://a.example", True),
        ("a.example:8080", "http://a.example:8080", True),
        ("a.example:8080", "http://a.example", False),
        ("http://a.example", "http://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("all://a.example", "https://a.example", True),
        ("192.0.2.1", "http://192.0.2.1", True),
        ("192.0.2.0/24", "http://192.0.2.9", True),
        ("192.0.2.0/24", "http://192.0.3.9", False),
        ("192.0.2.0/99", "http://192.0.2.9", False),
        ("2001:db8::/32", "http://[2001:db8::1]", True),
        ("[2001:db8::1]", "http://[2001:db8::1]", True),
        ("[2001:db8::2]", "http://[2001:db8::1]", False),
    ],
)
def test_no_proxy__each_form__exempts_what_it_covers(entry: str, url: str, is_exempt: bool) -> None:
    """Names, their subdomains, ports, addresses and networks are understood as httpx2 does."""
    assert _exempts(entry, httpx2.URL(url)) is is_exempt


def test_no_proxy__entry_of_several__sends_directly(
    proxy: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A covered host is not sent to the proxy."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, port, **options: resolve("127.0.0.1", port, **options)
    )
    monkeypatch.setenv("NO_PROXY", "other.invalid, backend.invalid")
    with running(respond(response(b"direct"))) as server:
        assert get(f"http://backend.invalid:{server.port}").body == b"direct"
    assert proxy.seen == []


@pytest.mark.parametrize("is_slow", [False, True], ids=["prompt", "slow"])
@pytest.mark.parametrize("proxy_over_tls", [False, True], ids=["http proxy", "https proxy"])
def test_proxy__tunnel_to_a_tls_server__has_the_same_deadline(
    proxy_over_tls: bool, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS through a proxy, also inside TLS, works, and a slow server is cut off there too."""
    talk = send_body_slowly if is_slow else respond(response(b"inner"))
    with running(talk, over_tls=True) as server:
        with running(relay_to(server.port), over_tls=proxy_over_tls) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with open_transport("https://backend.invalid") as transport:
                began_at = time.monotonic()
                if is_slow:
                    with pytest.raises(TransportError, match=r"^ReadTimeout$"):
                        transport.request("GET", "/x", timeout_s=2)
                    assert time.monotonic() - began_at < 2 + NOISE_S
                else:
                    for _ in range(2):
                        assert transport.request("GET", "/x", timeout_s=10).body == b"inner"
    assert proxy.seen == [(0, "backend.invalid:443")]
    assert server.seen == [(0, "/x")] * (1 if is_slow else 2)
