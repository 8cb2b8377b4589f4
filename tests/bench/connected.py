"""A process and a backend together: what travels, what a first touch costs, and an hour's outage.

The server is a process of its own on SQLite, on the same two cores.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.server_process import ServerProcess

from paygent import Paygent
from paygent.client.runtime.settings import read_settings
from paygent.ledger.transport import HttpResponse, HttpTransport

_THREADS = 16
_KIB = 1024
_OUTAGE_USERS = 1_000
_WARM_UP_S = 3.0
_STEADY_S = 15.0
_STEADY_CALLS_S = 500

PLAN = {
    "name": "default",
    "max_spend_per_period": 1_000_000,
    "max_spend_per_session": 1_000_000,
    "model_limits": {"gpt-4o": {"max_tokens_per_period": 10**12}},
}


def connected(users: int, events: int) -> None:
    """Measure first touches of so many users, their steady traffic, and an outage of so many
    events.
    """
    with tempfile.TemporaryDirectory() as folder:
        many_users(Path(folder), users)
    with tempfile.TemporaryDirectory() as folder:
        outage(Path(folder), events)


class Traffic:
    """Counts the requests of this process, by route.

    Attributes:
        requests, sent, received: How many, and bytes of their bodies.
    """

    def __init__(self) -> None:
        self.start_over()
        request = HttpTransport.request
        traffic = self

        def counted(
            self: HttpTransport,
            method: str,
            path: str,
            *,
            body: bytes | None = None,
            timeout_s: float,
        ) -> HttpResponse:
            response = request(self, method, path, body=body, timeout_s=timeout_s)
            route = path.rpartition("/")[2]
            traffic.requests[route] += 1
            traffic.sent[route] += len(body or b"")
            traffic.received[route] += len(response.body)
            return response

        HttpTransport.request = counted  # type: ignore[method-assign]

    def start_over(self) -> None:
        """Forget what was counted."""
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def show(self, seconds: float) -> None:
        """Print requests and kilobytes a second, by route."""
        for route, count in sorted(self.requests.items()):
            up, down = self.sent[route], self.received[route]
            print(
                f"    /{route}: {count / seconds:.2f} requests/s, "
                f"{up / _KIB / seconds:.0f} kB/s up, {down / _KIB / seconds:.0f} kB/s down"
            )


def _start(folder: Path) -> tuple[ServerProcess, str]:
    """Start a server with a plan of three limits; return it and the SDK key."""
    server = ServerProcess(folder, f"sqlite:///{folder / 'server.db'}")
    server.wait_until_ready()
    admin, sdk = server.keys
    server.request("POST", "/api/v1/config/plans", {"plans": [PLAN]}, key=admin)
    return server, sdk


def _connect(address: tuple[str, int], key: str, folder: Path) -> Paygent:
    settings = read_settings(
        {
            "api_key": key,
            "base_url": f"http://{address[0]}:{address[1]}",
            "db_path": str(folder / "app.db"),
            "auto_instrument": False,
        },
        {},
    )
    return Paygent.launch(settings)


def _resident_mb() -> float:
    """Return the memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None, status
    return int(found[1]) / _KIB


def many_users(folder: Path, users: int) -> None:
    """Measure first touches and steady traffic of many users in one process."""
    traffic = Traffic()
    server, key = _start(folder)
    with server:
        pg = _connect(server.address, key, folder)
        pg.record_event("warm", cost=0.001)
        pg.flush()
        before_mb = _resident_mb()
        waits, unknown = _touch(pg, users)
        print(f"{users} new users in {waits[-1]:.1f} s, from {_THREADS} threads")
        ordered = sorted(waits[:-1])
        p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        print(f"    a first call took p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.0f} ms; ", end="")
        print(f"{unknown} went on unknown ({100 * unknown / users:.2f} %)")
        pg.flush()
        print(f"    memory +{_resident_mb() - before_mb:.0f} MB")
        time.sleep(_WARM_UP_S)
        traffic.start_over()
        calls, seconds = _work(pg, users)
        print(f"  then {calls / seconds:.0f} calls/s of these users, far from every cap")
        traffic.show(seconds)
        pg.shutdown()


def _call(pg: Paygent, number: int) -> None:
    pg.wrap(
        _provider,
        f"user-{number:05d}",
        "gpt-4o",
        provider="openai",
        estimated_input_tokens=150,
        estimated_max_tokens=100,
    )


def _provider() -> dict[str, Any]:
    return {"model": "gpt-4o", "usage": {"prompt_tokens": 150, "completion_tokens": 40}}


def _touch(pg: Paygent, users: int) -> tuple[list[float], int]:
    """Make the first call of each user, a thousand a second; return the times of the calls, the
    whole time last, and how many went on before the ledger had answered about them.
    """
    waits: list[float] = []
    unknown: list[int] = []
    started = time.perf_counter()

    def touch(first: int) -> None:
        for number in range(first, users, _THREADS):
            due = started + number / 1_000
            time.sleep(max(0.0, due - time.perf_counter()))
            begun = time.perf_counter()
            _call(pg, number)
            waits.append(time.perf_counter() - begun)
            user = pg._parts.accounts.registry.users.get(f"user-{number:05d}")
            if user is None or not user.known:
                unknown.append(number)

    threads = [threading.Thread(target=touch, args=(first,)) for first in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [*waits, time.perf_counter() - started], len(unknown)


def _work(pg: Paygent, users: int) -> tuple[int, float]:
    """Make calls of all users in turn; return how many, and the time."""
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < _STEADY_S:
        _call(pg, calls * 7_919 % users)
        calls += 1
        due = started + calls / _STEADY_CALLS_S
        time.sleep(max(0.0, due - time.perf_counter()))
    return calls, time.perf_counter() - started


def outage(folder: Path, events: int) -> None:
    """Measure an outage of so many events, a restart in the middle, and the way back."""
    server, key = _start(folder)
    with server:
        address = server.address
        pg = _connect(address, key, folder)
        for number in range(_OUTAGE_USERS):
            pg.record_event(f"user-{number}", cost=0.0001)
        pg.flush()
    _spend_in_outage(pg, events)
    code = "from tests.bench.connected import restarted; restarted()"
    arguments = [str(folder), key, *map(str, address), str(events // 10)]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], check=True)
    connection = sqlite3.connect(folder / "server.db")
    counts = "SELECT COUNT(*), COUNT(DISTINCT event_id) FROM events"
    count, ids = connection.execute(counts).fetchone()
    connection.close()
    expected = _OUTAGE_USERS + events + events // 10 + 2
    print(f"  {count} events on the server, {ids} different ones, of {expected}")


def _spend_in_outage(pg: Paygent, events: int) -> None:
    connected = pg._parts.connected
    assert connected is not None
    pg.record_event("first", cost=0.0001)
    while not connected.is_away:
        time.sleep(0.05)
    before_mb = most_mb = _resident_mb()
    started = time.perf_counter()
    for number in range(events):
        pg.record_event(f"user-{number % _OUTAGE_USERS}", cost=0.0001)
        if number % 500 == 0:
            most_mb = max(most_mb, _resident_mb())
            # As fast as they are kept: an hour of a hundred calls a second, in less time.
            while sum(len(user.pending) for user in pg._users) > 5_000:
                time.sleep(0.005)
    seconds = time.perf_counter() - started
    print(f"an outage of {events} events, kept at {events / seconds:.0f}/s:", end=" ")
    print(f"memory +{most_mb - before_mb:.0f} MB at most")
    pg.shutdown(timeout=30)


def restarted() -> None:
    """Go on in a process that is started in the outage, and come back; the body of a process."""
    folder, key, host, port, events = sys.argv[1:]
    pg = _connect((host, int(port)), key, Path(folder))
    pg.record_event("restarted", cost=0.0001)
    time.sleep(_WARM_UP_S)
    before_mb = most_mb = _resident_mb()
    for number in range(int(events)):
        pg.record_event(f"user-{number % _OUTAGE_USERS}", cost=0.0001)
    most_mb = max(most_mb, _resident_mb())
    place = Path(folder) / "again"
    url = f"sqlite:///{Path(folder) / 'server.db'}"
    with ServerProcess(place, url, "--port", port).wait_until_ready():
        started = time.perf_counter()
        while pg.health()["mode"] != "connected":
            time.sleep(0.1)
            most_mb = max(most_mb, _resident_mb())
        seconds = time.perf_counter() - started
        pg.shutdown(timeout=30)
    print(f"  back {seconds:.0f} s after the server; ", end="")
    print(f"memory of the restarted process +{most_mb - before_mb:.0f} MB at most", flush=True)
    os._exit(0)
