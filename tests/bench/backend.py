"""The backend: what a delivery, a first touch and an ingest over HTTP cost, at a product's size.

Databases are filled with events of 100,000 users, of whom few are very active, then measured with
one million and with five million events stored. Both commit to the disk.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.figures import show
from tests.postgres import Cluster

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.limit import LimitKey
from paygent.core.messages import Batch, Question
from paygent.core.period import END_OF_TIME_US, calendar_month, to_datetime
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore
from paygent.store.statements import Statements

PRODUCT = "bench"
POSTGRES = {
    "shared_buffers": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
}
"""Settings of the server, as `docs/guide/scaling.md` recommends them."""

USERS = 100_000
SHUFFLE = 61_803
"""Without a common factor with the number of users: ids are not in the order of activity."""

MODELS = ("gpt-4o", "gpt-4o-mini", "o3", "claude-sonnet-4-5", "claude-haiku-4-5")
NOW_US = time.time_ns() // 1_000
MONTH = calendar_month(NOW_US)
ACTIVE = 3_000
"""Agents at work at a time: a thousand calls a second, each of which takes three seconds."""

CALLS_OF_AN_AGENT = 10
CLIENTS = 8
BATCH = 100


class Traffic:
    """Calls like those of a product: agents at work, each making some calls in a row.

    A user's share of the agents falls with their rank.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._prefix = f"{seed:04d}"
        self._made = 0
        self._known: set[str] = set()
        self._sessions = [self._session() for _ in range(ACTIVE)]

    def _session(self) -> tuple[str, str, str]:
        """Return the user, the session and the model of an agent that begins its work."""
        rank = int(USERS * self._random.random() ** 3)
        user_id = f"user_{rank * SHUFFLE % USERS:06d}"
        session_id = f"{self._prefix}-{self._random.getrandbits(48):012x}"
        return user_id, session_id, self._random.choice(MODELS)

    def event(self) -> Event:
        """Return the next event."""
        self._made += 1
        place = self._random.randrange(ACTIVE)
        user_id, session_id, model = self._sessions[place]
        if self._random.random() < 1 / CALLS_OF_AN_AGENT:
            self._sessions[place] = self._session()
        inputs, outputs = self._random.randrange(3_000), self._random.randrange(800)
        return Event(
            event_id=f"{NOW_US:016x}-{self._prefix}-{self._made:012d}",
            user_id=user_id,
            session_id=session_id,
            at_us=NOW_US + self._made * 50,
            model=model,
            model_key=model,
            provider="openai",
            plan="default",
            period_start_us=MONTH.start_us,
            input_tokens=inputs,
            output_tokens=outputs,
            cached_input_tokens=0,
            cache_write_tokens=0,
            reasoning_tokens=0,
            cost_tokens_nano=inputs * 2_500 + outputs * 10_000,
            cost_tools_nano=0,
            price_id="bench",
            latency_ms=900,
        )

    def new_users(self, events: tuple[Event, ...]) -> list[str]:
        """Return the users of events that no earlier call has returned."""
        new = {event.user_id for event in events} - self._known
        self._known |= new
        return sorted(new)

    def events(self, count: int) -> tuple[Event, ...]:
        """Return the next events."""
        return tuple(self.event() for _ in range(count))


OF_USER = (
    AccountKey(LimitKey("spend", "user", "", "period"), "", *MONTH),
    AccountKey(LimitKey("tokens", "user", "gpt-4o", "period"), "", *MONTH),
)
"""The accounts of a user: of the period's spend, and of a model's tokens."""


def question(user_id: str, session_id: str) -> Question:
    """Return what a process asks about a user whose plan also limits sessions."""
    limit = LimitKey("spend", "session", "", "session")
    account = AccountKey(limit, session_id, 0, END_OF_TIME_US)
    return Question(user_id, (*OF_USER, account), MONTH.start_us)


@contextmanager
def databases() -> Iterator[list[tuple[str, str, int | None]]]:
    """Provide an empty database of each engine, as (name, URL, process of the database server)."""
    cluster = Cluster(durable=True, settings=POSTGRES)
    with tempfile.TemporaryDirectory() as folder, cluster:
        yield [
            ("SQLite", f"sqlite:///{folder}/bench.db", None),
            ("PostgreSQL", cluster.new_database(), cluster.pid),
        ]


def backend(millions: tuple[int, ...]) -> None:
    """Measure both engines at each size."""
    with databases() as engines:
        for name, url, database in engines:
            stored, traffic = 0, Traffic(1)
            for size in millions:
                _fill(url, traffic, size * 1_000_000 - stored)
                stored = size * 1_000_000
                print(f"{name}, {size} M events stored, {USERS:,} users")
                _measure_store(url, Traffic(100 + size))
                _measure_http(url, Traffic(200 + size), database)


def _fill(url: str, traffic: Traffic, count: int) -> None:
    """Store events; the accounts of a user are opened with their first event."""
    store = open_store(url)
    started = time.perf_counter()
    for _ in range(count // 2_000):
        events = traffic.events(2_000)
        new = traffic.new_users(events)
        questions = tuple(Question(user_id, OF_USER, MONTH.start_us) for user_id in new)
        (outcome,) = store.book(PRODUCT, [Batch(events, (), questions, NOW_US)])
        assert not isinstance(outcome, Exception), outcome
    seconds = time.perf_counter() - started
    print(f"  filled with {count:,} events at {count / seconds:,.0f} events/s (batches of 2,000)")
    store.close()


def _measure_store(url: str, traffic: Traffic) -> None:
    """Measure one delivery and one first touch, and count what a batch costs the database."""
    store = open_store(url)
    _deliver(store, traffic.event())  # the first transaction connects
    show("one event delivered", _times(lambda: _deliver(store, traffic.event()), 500), "≤ 5 ms p99")
    cold = iter(range(10**9))

    def first_touch() -> None:
        # Every hundredth user is one whom the ledger has never seen.
        number = next(cold)
        user_id = f"user_{number:06d}" if number % 100 else f"new_{number}"
        store.read(PRODUCT, (question(user_id, f"{user_id}-0"),), NOW_US)

    show("a first touch", _times(first_touch, 2_000), "≤ 5 ms p99")
    _count_statements(store, traffic)
    store.close()


def _deliver(store: SqlStore, event: Event) -> None:
    batch = Batch((event,), (), (question(event.user_id, event.session_id),), NOW_US)
    assert len(store.ingest(PRODUCT, batch).counted) == 1


def _times(action: Callable[[], object], rounds: int) -> list[int]:
    readings = []
    for _ in range(rounds):
        started = time.perf_counter_ns()
        action()
        readings.append(time.perf_counter_ns() - started)
    return readings


def _count_statements(store: SqlStore, traffic: Traffic) -> None:
    """Print the statements and rows that an event costs, in groups as a server books them."""
    find, counts = Statements.__getattr__, {"statements": 0, "rows": 0}

    def counting(sql: Statements, name: str) -> Callable[..., Any]:
        run = find(sql, name)

        def counted(rows: Any = None, **parameters: Any) -> Any:
            counts["statements"] += 1
            counts["rows"] += len(rows) if rows is not None else 1
            return run(rows, **parameters) if rows is not None else run(**parameters)

        return counted

    Statements.__getattr__ = counting  # type: ignore[method-assign]
    try:
        for _ in range(10):
            batches = [Batch(traffic.events(BATCH), at_us=NOW_US) for _ in range(CLIENTS)]
            store.book(PRODUCT, batches)
    finally:
        Statements.__getattr__ = find  # type: ignore[method-assign]
    events = 10 * BATCH * CLIENTS
    print(
        f"  for each event, in groups of {CLIENTS} batches of {BATCH}:"
        f" {counts['statements'] / events:.3f} statements,"
        f" {(counts['rows'] + events) / events:.1f} rows"
    )


# -- over HTTP


def _measure_http(
    url: str, traffic: Traffic, database: int | None, *, seconds: float = 10.0
) -> None:
    """Measure a server process: idle memory, then batches of 100 from 8 clients, with the
    processor time of the server and of the database server, if there is one.
    """
    key = _key(url)
    with _server(url) as (process, port):
        time.sleep(1.0)
        idle = _resident_mb(process.pid)
        bodies = [_body(traffic.events(BATCH)) for _ in range(_bodies_needed(seconds))]
        before = _cpu_s(process.pid), _cpu_of_database_s(database)
        done, elapsed, latencies = _send_all(port, key, bodies, seconds)
        used = _cpu_s(process.pid) - before[0], _cpu_of_database_s(database) - before[1]
    events = done * BATCH
    print(f"  HTTP, batches of {BATCH}, {CLIENTS} clients: {events / elapsed:,.0f} events/s")
    show("a batch over HTTP", latencies)
    for name, cpu in zip(("server", "database"), used, strict=True):
        if cpu:
            print(
                f"  {name}: {cpu / elapsed * 100:.0f} % of a core, {cpu / events * 1e6:.0f} µs an"
                f" event, so {events / cpu:,.0f} events/s a core"
            )
    print(f"  idle memory of the server {idle:.0f} MB (budget 120)")


def _bodies_needed(seconds: float) -> int:
    return int(seconds * 250)  # 25,000 events a second


def _key(url: str) -> str:
    """Make an SDK key of the product."""
    command = [sys.executable, "-m", "paygent", "keys", "create", "--product", PRODUCT]
    made = subprocess.run(
        [*command, "--scope", "sdk", "--database-url", url],
        capture_output=True,
        text=True,
        check=True,
    )
    return next(word for word in made.stdout.split() if word.startswith("pg_live_"))


@contextmanager
def _server(url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "paygent", "serve", "--port", str(port), "--database-url", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        _wait_for(port)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while not _is_ready(port):
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not become ready")
        time.sleep(0.05)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _body(events: tuple[Event, ...]) -> bytes:
    return json.dumps(
        [
            {
                "id": event.event_id,
                "user_id": event.user_id,
                "session_id": event.session_id,
                "timestamp": to_datetime(event.at_us).isoformat(),
                "model": event.model,
                "provider": event.provider,
                "input_tokens": event.input_tokens,
                "output_tokens": event.output_tokens,
                "total_tokens": event.total_tokens,
                "tool_calls": [],
                "cost_tokens": event.cost_tokens_nano / 1e9,
                "cost_tools": 0.0,
                "cost_total": event.cost_nano / 1e9,
                "source": "auto",
                "latency_ms": event.latency_ms,
                "price_id": event.price_id,
            }
            for event in events
        ]
    ).encode()


def _send_all(
    port: int, key: str, bodies: list[bytes], seconds: float
) -> tuple[int, float, list[int]]:
    """Send bodies from all clients for a time; return how many were taken, how long it took, and
    the latencies in nanoseconds.
    """
    waiting, latencies, lock = list(bodies), [], threading.Lock()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    ends = time.perf_counter() + seconds

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.perf_counter() < ends:
            with lock:
                if not waiting:
                    break
                body = waiting.pop()
            started = time.perf_counter_ns()
            connection.request("POST", "/api/v1/events/batch", body, headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer[:500]
            with lock:
                latencies.append(time.perf_counter_ns() - started)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(latencies), time.perf_counter() - started, latencies


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_of_database_s(pid: int | None) -> float:
    """Return the processor time of a PostgreSQL server and of its processes."""
    if pid is None:
        return 0.0
    output = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return _cpu_s(pid) + sum(_cpu_s(int(each)) for each in output.stdout.split())


# -- local mode


def local_mode(count: int) -> None:
    """Measure how fast a process delivers the events of few users and of many.

    They are recorded while another connection has the database locked, so that only their delivery
    is timed.
    """
    print(f"local mode, {count:,} events by hand, delivered to SQLite")
    rates = [_delivery_rate(users, count) for users in (50, 30_000)]
    print(f"  {rates[1] / rates[0]:.2f} of the rate of few users (wanted at least 0.5)")


def _delivery_rate(users: int, count: int) -> float:
    from paygent import Limit, Paygent, PlanConfig

    plan = PlanConfig(
        max_spend_per_period=10**6,
        max_spend_per_session=10**6,
        limits=(Limit("spend", window="day", cap=10**6),),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.db")
        pg = Paygent.init(db_path=path, auto_instrument=False, max_queue_size=10 * count)
        pg.configure_plan("default", plan)
        assert pg.flush() == 0
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        for number in range(count):
            pg.record_event(f"user_{number * 7_919 % users}", cost=0.001)
        lock.execute("ROLLBACK")
        started = time.perf_counter()
        while lock.execute("SELECT COUNT(*) FROM events").fetchone() != (count,):
            pg.flush()
            time.sleep(0.01)
        rate = count / (time.perf_counter() - started)
        lock.close()
        print(f"  {users:>6,} users: {rate:8,.0f} events/s")
        pg.shutdown(timeout=60)
        return rate
