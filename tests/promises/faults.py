"""A backend that fails on command: a real server behind a proxy on loopback, which passes requests
on, or meets them with one of the faults that networks and servers have.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from tests.server_process import ServerProcess

from paygent.core.event import Event
from paygent.store.factory import open_store

SLOW_S = 5.0
"""How long a slow server keeps a request."""

WAIT_S = 30.0
"""Longest wait for what a test expects within a second or two."""

LATE_S = 10.0
"""Longest wait for events that have been sent."""

_ANSWERED = ("500 Internal Server Error", "429 Too Many Requests", "401 Unauthorized")
_GARBAGE_BYTES = 1 << 30
_CHUNK = b"\xff" * (1 << 20)
_DRIP_S = 1.0
_LOST = ("transfer-encoding", "content-length", "connection")  # fields that the proxy sets itself


class Fault(Enum):
    """What happens to a request."""

    NONE = "none"  # it is passed on, and so is its answer
    CLOSED = "port closed"  # nothing listens
    MUTE = "black hole"  # it is read, and never answered
    ERROR = "status 500"
    BUSY = "status 429"  # with `Retry-After`
    REJECTED = "status 401"
    SLOW = "slow"  # it is passed on after `SLOW_S`
    DROPPED = "dropped after the request"  # it is read, and the connection ends
    ANSWER_LOST = "answer lost after the commit"  # it is passed on, and the connection ends
    DRIP = "one byte a second"  # it is passed on, and its answer takes minutes
    GARBAGE_BODY = "a gigabyte of garbage"
    NO_HTTP = "garbage instead of HTTP"


FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


class _Request(NamedTuple):
    method: str
    path: str
    fields: dict[str, str]
    body: bytes


class FaultyBackend:
    """A proxy on a port of its own; its fault is switched while it runs.

    Attributes:
        target: Host and port of the server; another one after a restart.
        met: How many requests have met each fault.
        before: Called with the path before a request is passed on.
        retry_after_s: What a busy server asks for.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.met = Counter[Fault]()
        self.before: Callable[[str], None] = lambda _: None
        self.retry_after_s = 1
        self._fault = Fault.NONE
        self._stopping = threading.Event()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self._listen()

    def __enter__(self) -> FaultyBackend:
        """Do nothing more."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all connections and threads."""
        self._stopping.set()
        self._hang_up()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        """Where an application reaches the backend."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def fault(self) -> Fault:
        """What happens to requests that arrive now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        was, self._fault = self._fault, fault
        if fault is Fault.CLOSED and was is not fault:
            self._hang_up()
        elif was is Fault.CLOSED and fault is not was:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def _hang_up(self) -> None:
        """Close the port, and end all connections."""
        listener, self._listener = self._listener, None
        for sock in [*self._socks, *([listener] if listener else [])]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
        if listener is not None:
            listener.close()

    def _start(self, run: Callable[[socket.socket], None], sock: socket.socket) -> None:
        self._threads.append(threading.Thread(target=run, args=(sock,)))
        self._threads[-1].start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # the port was closed
                return
            self._socks.add(sock)
            if listener is not self._listener:  # closed meanwhile
                sock.close()
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        # The client hangs up, or the server is away.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            with sock, sock.makefile("rb") as reader:
                while (request := _read(reader)) is not None:
                    fault = self._fault
                    self.met[fault] += 1
                    if not self._answer(sock, request, fault):
                        break
        self._socks.discard(sock)

    def _answer(self, sock: socket.socket, request: _Request, fault: Fault) -> bool:
        """Meet a request with a fault; return whether the connection goes on."""
        if fault is Fault.NONE:
            sock.sendall(self._pass_on(request))
            return True
        if fault is Fault.SLOW:
            if not self._stopping.wait(SLOW_S):
                sock.sendall(self._pass_on(request))
            return True
        if fault is Fault.MUTE:
            while sock.recv(1 << 16):
                pass
        elif fault in (Fault.ERROR, Fault.BUSY, Fault.REJECTED):
            status = _ANSWERED[(Fault.ERROR, Fault.BUSY, Fault.REJECTED).index(fault)]
            field = f"Retry-After: {self.retry_after_s}\r\n" if fault is Fault.BUSY else ""
            sock.sendall(f"HTTP/1.1 {status}\r\n{field}Content-Length: 0\r\n\r\n".encode())
            return True
        elif fault is Fault.ANSWER_LOST:
            self._pass_on(request)
        elif fault is Fault.DRIP:
            for byte in self._pass_on(request):
                sock.sendall(bytes([byte]))
                if self._stopping.wait(_DRIP_S):
                    break
        elif fault is Fault.GARBAGE_BODY:
            sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {_GARBAGE_BYTES}\r\n\r\n".encode())
            for _ in range(_GARBAGE_BYTES // len(_CHUNK)):
                sock.sendall(_CHUNK)
        elif fault is Fault.NO_HTTP:
            sock.sendall(b"\x16\x03\x01\x00\xa5 this is no HTTP\r\n\r\n")
        return False  # also of a connection that is dropped, or was open when the port was closed

    def _pass_on(self, request: _Request) -> bytes:
        """Send a request to the server and return its whole answer."""
        self.before(request.path)
        onward = http.client.HTTPConnection(*self.target, timeout=WAIT_S)
        try:
            onward.request(request.method, request.path, request.body, request.fields)
            answer = onward.getresponse()
            body = answer.read()
        finally:
            onward.close()
        head = [f"HTTP/1.1 {answer.status} {answer.reason}", f"Content-Length: {len(body)}"]
        head += [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in _LOST]
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def _read(reader: BinaryIO) -> _Request | None:
    """Read a request; None at the end of the connection."""
    line = reader.readline()
    if not line:
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    fields: dict[str, str] = {}
    while (field := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = field.partition(":")
        fields[name] = value.strip()
    size = next((int(v) for k, v in fields.items() if k.lower() == "content-length"), 0)
    return _Request(method, path, fields, reader.read(size))


class Backend:
    """A server on SQLite, and what its operator does over REST and reads in its database.

    Attributes:
        server: The process that runs now.
        admin, sdk: Its keys.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count(1)
        self._database_url = f"sqlite:///{folder / 'server.db'}"
        self.server = self._start()
        self.admin, self.sdk = self.server.keys

    def _start(self) -> ServerProcess:
        folder = self._folder / f"server-{next(self._numbers)}"
        return ServerProcess(folder, self._database_url).wait_until_ready()

    def __enter__(self) -> Backend:
        """Do nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the server."""
        self.stop()

    def stop(self) -> None:
        """Kill the server with SIGKILL."""
        self.server.__exit__(None, None, None)

    def restart(self) -> None:
        """Start a server on the same database, on another port."""
        self.server = self._start()

    @property
    def database_url(self) -> str:
        """URL of the server's database."""
        return self._database_url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with the admin key, and return what it answers."""
        status, answer = self.server.request(method, f"/api/v1{path}", body, key=self.admin)
        assert status in (200, 201), answer
        return answer

    def set_plan(self, name: str, **fields: Any) -> str:
        """Create a plan, or change some of its fields; return its id."""
        plan_id: str = self.call("POST", "/config/plans", {"plans": [{"name": name, **fields}]})[
            "plans"
        ][0]["id"]
        return plan_id

    def add_user(self, user_id: str, plan_id: str | None = None) -> None:
        """Create a user, on a plan or on the product's default plan."""
        self.call("POST", "/users", {"external_user_id": user_id})
        if plan_id is not None:
            self.subscribe(user_id, plan_id)

    def subscribe(self, user_id: str, plan_id: str) -> None:
        """Assign a plan to a user, from yesterday on."""
        start = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=1)
        end = start + timedelta(days=30)
        period = {"period_start": start.isoformat(), "period_end": end.isoformat()}
        self.call("POST", f"/users/{user_id}/subscription", {"plan_id": plan_id, **period})

    def spent_nano(self, user_id: str) -> int:
        """Return what a user has spent in the billing period."""
        usage = self.call("GET", f"/users/{user_id}/session")["current_usage"]
        spent: int = usage["period_cost_nano"]
        return spent

    def events(self, user_id: str) -> list[Event]:
        """Return the events of a user."""
        store = open_store(self._database_url)
        try:
            return list(store.events("default", user_id))
        finally:
            store.close()

    def assert_events(self, expected: dict[str, int]) -> None:
        """Check that each user has so many events, each once, and that all counters agree."""
        with contextlib.suppress(AssertionError):  # what is missing then shows which
            until(lambda: all(len(self.events(u)) >= n for u, n in expected.items()), LATE_S)
        booked = {user: [each.event_id for each in self.events(user)] for user in expected}
        counts = {user: len(ids) for user, ids in booked.items()}
        assert counts == expected, counts
        assert all(len(ids) == len(set(ids)) for ids in booked.values())
        store = open_store(self._database_url)
        try:
            assert list(store.audit("default")) == []
        finally:
            store.close()


def until(condition: Callable[[], bool], wait_s: float = WAIT_S) -> float:
    """Wait for a condition; return how long it took, in seconds."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < wait_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - begun_s
