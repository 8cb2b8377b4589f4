"""The handshake of `init` and its warnings, against a real server on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import (
    Paygent,
    PaygentAuthInvalid,
    PaygentBackendUnreachable,
    PlanConfig,
)
from paygent.ledger import handshake
from paygent.ledger.handshake import PROBE_WAIT_S, Probe, accepts_key
from paygent.ledger.transport import HttpResponse, HttpTransport, TransportError

Init = Callable[..., Paygent]

HEALTH = "/api/v1/health"
PRODUCTS = "/api/v1/products"


class Backend:
    """A server with a status and a delay per path."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.delays: dict[str, float] = {}
        self.paths: list[str] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                """Send the configured response."""
                backend.paths.append(self.path)
                time.sleep(backend.delays.get(self.path, 0.0))
                body = json.dumps({"status": "ok", "products": []}).encode()
                try:
                    self.send_response(backend.statuses.get(self.path, 200))
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client has hung up
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A running server that accepts the key."""
    made = Backend()
    threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Script(HttpTransport):
    """A transport that answers from a list."""

    def __init__(self, *answers: int | TransportError) -> None:
        self._answers = list(answers)

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Return the next response."""
        answer = self._answers.pop(0)
        if isinstance(answer, TransportError):
            raise answer
        return HttpResponse(answer, b'{"products": []}')


@pytest.mark.parametrize(
    ("answers", "expected"),
    [((200, 200), True), ((200, 401), False), ((200, 403), False),
     ((401,), False), ((403,), False)],
)  # fmt: skip
def test_accepts_key__health_and_products__decide_whether_the_key_is_accepted(
    answers: tuple[int, ...], expected: bool
) -> None:
    """A 401 or 403 from either rejects the key."""
    assert accepts_key(Script(*answers), 1.0) is expected


@pytest.mark.parametrize("answers", [(500,), (302,), (200, 404), (200, TransportError("cut"))])
def test_accepts_key__not_a_backend__is_a_transport_error(answers: Any) -> None:
    """An error page or a broken exchange is not a Paygent backend."""
    with pytest.raises(TransportError):
        accepts_key(Script(*answers), 1.0)


@pytest.mark.usefixtures("patient_probe")
def test_init__a_backend_that_knows_the_key__is_connected_in_silence(
    init: Init, backend: Backend
) -> None:
    """Success gives no warning (warnings are errors here) and shows in the properties."""
    pg = init(api_key="pg_live_x", base_url=backend.url + "/")
    assert backend.paths == [HEALTH, PRODUCTS]
    assert (pg.backend_reachable, pg.is_connected, pg.is_local_mode) == (True, True, False)
    assert (pg.api_key, pg.base_url) == ("pg_live_x", backend.url)
    assert pg.health()["backend_reachable"] is True


@pytest.mark.usefixtures("patient_probe")
@pytest.mark.parametrize("path", [HEALTH, PRODUCTS])
def test_init__a_backend_that_refuses_the_key__warns_in_the_caller(
    init: Init, backend: Backend, path: str
) -> None:
    """A rejected key is a warning at the line that called `init`."""
    backend.statuses[path] = 401
    with pytest.warns(PaygentAuthInvalid, match="rejects the API key") as caught:
        pg = Paygent.init(api_key="k", base_url=backend.url, db_path=":memory:")
    assert (pg.backend_reachable, pg.is_connected) == (True, False)
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.usefixtures("patient_probe")
def test_init__a_backend_that_fails__warns_that_calls_are_local(
    init: Init, backend: Backend
) -> None:
    """A server that fails with 500 counts as unreachable."""
    backend.statuses[HEALTH] = 500
    with pytest.warns(PaygentBackendUnreachable, match=r"\(status 500\); events wait"):
        pg = init(api_key="k", base_url=backend.url)
    assert (pg.backend_reachable, pg.is_connected) == (False, False)


@pytest.mark.usefixtures("patient_probe")
def test_init__nobody_there__warns_in_the_caller_and_goes_on(nowhere: str) -> None:
    """A refused connection is one warning at the line that called `init`; metering is local."""
    with pytest.warns(PaygentBackendUnreachable, match="cannot be reached") as caught:
        pg = Paygent.init(api_key="k", base_url=nowhere, db_path=":memory:")
    assert pg.record_event("u1", cost=1).cost_total == 1.0
    assert (pg.backend_reachable, pg.is_initialized) == (False, True)
    assert [each.filename for each in caught] == [__file__]


def test_configure_plan__a_cap_out_of_range__warns_in_the_caller(init: Init) -> None:
    """The warning of a configuring verb points to the line that called it."""
    pg = init()
    with pytest.warns(UserWarning, match="counts as no limit") as caught:
        pg.configure_plan("huge", PlanConfig(max_spend_per_period=10**10))
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.usefixtures("patient_probe")
def test_init__warnings_that_are_errors__do_not_break_the_app(
    nowhere: str, init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """Under `-W error` the warning becomes a line in the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg = init(api_key="k", base_url=nowhere)
    assert pg.is_initialized
    assert "cannot be reached (ConnectError)" in caplog.text


@pytest.mark.usefixtures("patient_probe")
def test_init__a_key_that_no_request_can_carry__warns(init: Init, nowhere: str) -> None:
    """A key that HTTP cannot carry counts as an unreachable backend."""
    with pytest.warns(PaygentBackendUnreachable):
        pg = init(api_key="ключ", base_url=nowhere)
    assert pg.backend_reachable is False


@pytest.mark.usefixtures("patient_probe")
@pytest.mark.parametrize(
    ("statuses", "error"),
    [({HEALTH: 500}, PaygentBackendUnreachable), ({PRODUCTS: 401}, PaygentAuthInvalid)],
)
def test_init__strict_backend__raises_and_leaves_nothing_behind(
    init: Init, backend: Backend, statuses: dict[str, int], error: type[Warning]
) -> None:
    """`strict_backend` raises, and leaves no half-started Paygent."""
    backend.statuses = statuses
    with pytest.raises(error):
        init(api_key="k", base_url=backend.url, strict_backend=True)
    assert Paygent.get_instance() is None


def test_init__a_slow_backend__is_waited_for_half_a_second_and_then_unknown(
    init: Init, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """No result in time is no warning; a later result is kept."""
    backend.delays = {HEALTH: 0.35, PRODUCTS: 0.35}
    started = time.monotonic()
    pg = init(api_key="k", base_url=backend.url)
    waited_s = time.monotonic() - started
    assert PROBE_WAIT_S * 0.9 < waited_s < 5  # on a busy machine
    assert (pg.backend_reachable, pg.is_connected) == (None, False)
    until(lambda: pg.backend_reachable is not None)
    assert (pg.backend_reachable, pg.is_connected) == (True, True)
    assert caplog.messages == []


def test_init__a_refusal_that_comes_late__is_logged(
    init: Init, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A problem found after the wait is logged, because the caller is gone."""
    backend.delays = {HEALTH: 0.35, PRODUCTS: 0.35}
    backend.statuses = {PRODUCTS: 401}
    pg = init(api_key="k", base_url=backend.url)
    until(lambda: "rejects the API key" in caplog.text)
    assert pg.is_connected is False


def test_probe__a_problem_at_the_end_of_the_wait__is_returned(
    monkeypatch: pytest.MonkeyPatch, nowhere: str
) -> None:
    """It is neither in time nor late for the thread that finds it; it must not get lost."""

    class JustOver(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert super().wait(30)
            return False

    monkeypatch.setattr(
        handshake, "threading", SimpleNamespace(**{**vars(threading), "Event": JustOver})
    )
    problem = Probe(nowhere, "k").run(wants_answer=False)
    assert "cannot be reached" in str(problem)


def test_init__a_slow_backend_with_strict_backend__raises(init: Init, backend: Backend) -> None:
    """`strict_backend` requires a response in time."""
    backend.delays = {HEALTH: 0.35, PRODUCTS: 0.35}
    with pytest.raises(PaygentBackendUnreachable, match=r"did not answer in 0\.5 s"):
        init(api_key="k", base_url=backend.url, strict_backend=True)
    assert Paygent.get_instance() is None


def test_init__without_a_key__asks_nobody(init: Init, backend: Backend) -> None:
    """Local mode makes no request at all."""
    pg = init(base_url=backend.url)
    assert (pg.backend_reachable, pg.is_connected, backend.paths) == (None, False, [])


def test_probe__a_bug_of_ours__is_counted_and_no_problem_of_the_app(
    monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """A defect in the handshake is swallowed and counted."""

    def broken(*args: Any) -> bool:
        raise RuntimeError("bug")

    swallowed.expect("probe")
    monkeypatch.setattr(handshake, "accepts_key", broken)
    asked = Probe("http://127.0.0.1:9", "k")
    assert asked.run(wants_answer=True) is None
    assert asked.is_reachable is None


@pytest.mark.parametrize("body", [b"", b"{}", b'{"status": "ok"}', b'"ok"', b"[" * 100_000])
def test_accepts_key__200_to_everything__is_no_backend(body: bytes) -> None:
    """Something else answers at that address: it is not called connected."""

    class Yes(Script):
        def request(self, *_: Any, **__: Any) -> HttpResponse:
            return HttpResponse(200, body)

    with pytest.raises(TransportError, match="no list of products"):
        accepts_key(Yes(), 1.0)
