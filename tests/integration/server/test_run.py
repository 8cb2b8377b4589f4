"""The server as a process: it answers, drains at SIGTERM and ends with status 0."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.server.service import NOW_US, event, serving
from tests.postgres import Cluster

from paygent.core.api_key import hash_of_key, make_key
from paygent.core.validation import InvalidValue
from paygent.server.run import bind
from paygent.server.settings import ServerSettings
from paygent.store.factory import open_store
from paygent.store.postgres import PostgresStore

START_S = 30.0
END_S = 25.0
KEY = make_key("acme", bytes(32))
HEADERS = {"Authorization": f"Bearer {KEY}"}
SCRIPT = """
import json, sys
from paygent.server.run import serve
from paygent.server.settings import ServerSettings
serve(ServerSettings(**json.loads(sys.argv[1])))
"""


def prepare(url: str) -> None:
    """Make a product with a key."""
    store = open_store(url)
    store.add_product("Acme", product_id="acme")
    store.add_key("acme", key_hash=hash_of_key(KEY), scope="admin", name="", hint="")
    store.close()


@contextmanager
def server(url: str, **settings: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a server process; with its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = json.dumps({"database_url": url, "port": port, **settings})
    arguments = [sys.executable, "-c", SCRIPT, given]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                if httpx.get(f"{address}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)
        yield process, address
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # also workers without their parent
        except ProcessLookupError:
            pass  # all have ended
        process.communicate()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_process__ended_by_a_signal_under_load__answers_what_it_accepted(
    tmp_path: Path, sign: signal.Signals
) -> None:
    """Each acknowledged event is stored, each request is answered or refused, status 0."""
    url = f"sqlite:///{tmp_path}/server.db"
    prepare(url)
    acknowledged: list[str] = []

    def send(client_number: int) -> None:
        with httpx.Client(base_url=address, headers=HEADERS, timeout=30) as client:
            for number in range(10_000):
                name = f"{client_number}-{number}"
                try:
                    answer = client.post("/api/v1/events/batch", json=[event(0, id=name)])
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    assert answer.status_code == 503
                    return
                acknowledged.append(name)

    # Without a log of requests: the pipe is read only at the end, and blocks when it is full.
    with server(url, logs_requests=False) as (process, address), ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, number) for number in range(4)]
        while len(acknowledged) < 40:
            time.sleep(0.01)
            assert not any(each.done() for each in sending)
        process.send_signal(sign)
        assert process.wait(END_S) == 0
        for each in sending:
            each.result()
    store = open_store(url)
    stored = {each.event_id for each in store.events("acme", "u1")}
    store.close()
    assert set(acknowledged) <= stored


def test_process__two_workers_on_postgresql__answer_and_end(postgres_url: str) -> None:
    """Several processes listen on one socket; SIGTERM ends them all."""
    prepare(postgres_url)
    with server(postgres_url, workers=2) as (process, address):
        with httpx.Client(base_url=address, headers=HEADERS, timeout=30) as client:
            answer = client.post("/api/v1/events/batch", json=[event(1)])
            assert answer.json() == {"accepted": 1, "duplicates": 0}
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that run."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    return [int(child) for child, parent in lines if int(parent) == pid]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the worker processes of a server, without Python's tracker of resources."""
    workers = []
    for pid in children_of(process.pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if b"spawn_main" in arguments:
            workers.append(pid)
    return workers


def log_of(process: subprocess.Popen[bytes]) -> str:
    """Return the log of a server and its workers, once the last of them has ended."""
    _, errors = process.communicate(timeout=END_S)
    return errors.decode()


def test_workers__whose_parent_was_killed__finish_their_requests_and_end(
    postgres_url: str,
) -> None:
    """Otherwise they would hold the port of the server that replaces them."""
    prepare(postgres_url)
    body = json.dumps([event(1)]).encode()
    with server(postgres_url, workers=2) as (process, address):
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=END_S) as connection:
            head = f"POST /api/v1/events/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            key = f"\r\nAuthorization: Bearer {KEY}\r\n\r\n"
            connection.sendall((head + key).encode())
            time.sleep(3.0)  # a worker reads the body by now, also on a busy machine
            process.kill()
            time.sleep(1.0)  # and drains by now
            connection.sendall(body)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        log = log_of(process)
        assert log.count("the parent process has ended") == 2
        assert log.count("Application shutdown complete") == 2
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health", timeout=5)


def test_workers__one_that_was_killed__is_replaced(postgres_url: str) -> None:
    """A worker that the kernel killed for its memory is no reason to end the server."""
    prepare(postgres_url)
    with server(postgres_url, workers=2) as (process, address):
        before = workers_of(process)
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + START_S
        while len(set(workers_of(process)) - {before[0]}) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(f"{address}/ready", timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0


def test_workers__one_that_cannot_start__ends_the_server_with_a_failure() -> None:
    """It would fail again; whatever supervises the server learns of it."""
    with Cluster() as cluster:
        url = cluster.new_database()
        prepare(url)
        with server(url, workers=2) as (process, _):
            cluster.stop()
            os.kill(workers_of(process)[0], signal.SIGKILL)
            assert process.wait(END_S) == 3
            log = log_of(process)
        # Twice where the other worker had not opened it yet.
        assert 1 <= log.count("the database cannot be used") <= 2
        # Whichever of the two finds the worker first, uvicorn's supervisor or the part of it here.
        reasons = ("a worker process failed; the server ends", "stopping the parent process")
        assert sum(log.count(each) for each in reasons) == 1


@contextmanager
def suspended(cluster: Cluster) -> Iterator[None]:
    """Suspend a PostgreSQL server with its backends: connections stay open, and nothing answers."""
    pids = [cluster.pid, *children_of(cluster.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_process__ended_while_its_database_hangs__answers_503_and_ends() -> None:
    """Senders repeat what was not stored, and no supervisor has to kill the process."""
    with Cluster() as cluster, ThreadPoolExecutor(2) as pool:
        url = cluster.new_database()
        prepare(url)
        with server(url, drain_s=2.5) as (process, address):
            client = httpx.Client(base_url=address, headers=HEADERS, timeout=END_S)
            assert client.get("/api/v1/users").status_code == 200
            with suspended(cluster):
                asked = pool.submit(client.get, "/api/v1/users")
                sent = pool.submit(client.post, "/api/v1/events/batch", json=[event(1)])
                time.sleep(3.0)  # both wait for the database by now
                process.send_signal(signal.SIGTERM)
                for answer in (asked.result(), sent.result()):
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                    assert answer.json()["type"] == "urn:paygent:problem:unavailable"
                assert process.wait(END_S) == 0
            client.close()
            log = log_of(process)
        assert "Traceback" not in log
        assert "the database does not answer; the process ends without it" in log


def test_process__that_cannot_start__ends_with_a_failure(tmp_path: Path) -> None:
    """A supervisor starts it again, rather than taking the end for a wish."""
    url = f"sqlite:///{tmp_path}/server.db"
    prepare(url)
    failing = (
        "from paygent.server.writer import Writer\n"
        "def start(self): raise RuntimeError('no thread')\n"
        "Writer.start = start\n"
    )
    given = json.dumps({"database_url": url, "port": 0})
    arguments = [sys.executable, "-c", failing + SCRIPT, given]
    done = subprocess.run(
        arguments, stderr=subprocess.PIPE, text=True, timeout=START_S, check=False
    )
    assert done.returncode == 3
    assert "no thread" in done.stderr


def test_process__metrics__have_no_times_of_creation(tmp_path: Path) -> None:
    """They would double the series of each counter."""
    url = f"sqlite:///{tmp_path}/server.db"
    prepare(url)
    with server(url) as (_, address):
        text = httpx.get(f"{address}/metrics", timeout=5).text
    assert "paygent_http_requests_total{" in text
    assert "_created" not in text


def test_process__postgresql_that_went_away__is_not_ready_within_two_seconds() -> None:
    """The probe gets an answer; afterwards the server is ready again by itself."""
    with Cluster() as cluster:
        url = cluster.new_database()
        prepare(url)
        with server(url) as (_, address):
            cluster.stop()
            for _ in range(2):
                started = time.monotonic()
                answer = httpx.get(f"{address}/ready", timeout=10)
                # 1.5 s, and what a busy machine takes; the pool of connections waits for 5 s.
                assert time.monotonic() - started < 4.5
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            cluster.start()
            deadline = time.monotonic() + START_S
            while httpx.get(f"{address}/ready", timeout=10).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_settings__two_workers_on_sqlite__names_the_rule() -> None:
    """SQLite has one writer; the error says what to use instead."""
    with pytest.raises(InvalidValue, match="one writer; use PostgreSQL"):
        ServerSettings(database_url="sqlite:///server.db", workers=2)


@pytest.mark.parametrize(
    ("field", "value"), [("port", -1), ("port", 65_536), ("workers", 0), ("workers", 65)]
)
def test_settings__out_of_range__names_the_field(field: str, value: int) -> None:
    """Each setting has its range."""
    url = "postgresql://u:secret@h/d"
    with pytest.raises(InvalidValue, match=field):
        ServerSettings(database_url=url, **{field: value})  # type: ignore[arg-type]


def test_settings__database__is_shown_without_its_password() -> None:
    """The URL that is logged has no password."""
    assert "secret" not in ServerSettings(database_url="postgresql://u:secret@h/d").shown_database


def test_bind__port_in_use__raises_before_anything_starts() -> None:
    """A port that another process has is found at once."""
    settings = ServerSettings(database_url="sqlite:///unused", port=0)
    with bind(settings) as first:
        first.listen()
        taken = first.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bind(ServerSettings(database_url="sqlite:///unused", port=taken))


def test_bind__ipv6__listens_there() -> None:
    """An address with colons is one of IPv6."""
    with bind(ServerSettings(database_url="sqlite:///unused", host="::1", port=0)) as listener:
        assert listener.getsockname()[0] == "::1"


def test_key__revoked_on_one_server__is_refused_by_the_other_within_a_second(
    postgres_url: str,
) -> None:
    """Two servers of one database agree about keys within a second."""
    one = PostgresStore(postgres_url, now_us=lambda: NOW_US)
    two = PostgresStore(postgres_url, now_us=lambda: NOW_US)
    one.open()
    two.open()
    cached = ServerSettings(database_url="sqlite:///unused").key_cache_s
    assert cached < 1.0
    with serving(one, key_cache_s=cached) as first:
        created = first.post("/keys", {"scope": "read"}).json()
        with serving(two, key_cache_s=cached) as second:
            second.keys["new"] = created["api_key"]
            assert second.get("/keys", key="new").status_code == 200
            assert first.call("DELETE", f"/keys/{created['id']}").status_code == 200
            revoked_at = time.monotonic()
            while second.get("/keys", key="new").status_code == 200:
                time.sleep(0.02)
            # Longer only by what the requests themselves take on a busy machine.
            assert time.monotonic() - revoked_at < cached + 2
    one.close()
    two.close()
