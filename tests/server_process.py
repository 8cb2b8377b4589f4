"""`paygent serve` as a process of its own, on a free port of this machine; who sends events to it;
and what its database must hold in the end.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from paygent.store.factory import open_store

ROOT = Path(__file__).parents[1]
EVENTS = "/api/v1/events/batch"
BATCH = 20
"""Events of one request of `Ingest`."""

WAIT_S = 30.0
"""Longest wait for a server to start, to answer or to end; a busy machine needs seconds."""

_POLL_S = 0.02
_ADDRESS = re.compile(r"listens on http://([\d.]+):(\d+)")
_KEY = re.compile(r"pg_live_\S+")


class Answer(NamedTuple):
    """Status and body of an answer; the body is None if there is none."""

    status: int
    body: Any


class ServerProcess:
    """A server; it is killed when the block that uses it ends.

    Args:
        folder: A folder for its output, and its home.
        database_url: Its database.
        options: Further options of `paygent serve`.
    """

    def __init__(self, folder: Path, database_url: str, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        arguments = ["serve", "--database-url", database_url, "--port", "0", *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "paygent", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(HOME=str(folder)),
            )

    def __enter__(self) -> ServerProcess:
        """Do nothing more: a test may start two servers at once."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the server if it still runs."""
        if self.process.poll() is None:
            self.kill()

    @property
    def printed(self) -> str:
        """The standard output."""
        return self._out.read_text(encoding="utf-8")

    @property
    def logged(self) -> str:
        """The standard error."""
        return self._err.read_text(encoding="utf-8")

    @property
    def keys(self) -> tuple[str, str]:
        """The admin and the SDK key that were printed."""
        admin, sdk = _KEY.findall(self.printed)
        return admin, sdk

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        found = _ADDRESS.search(self.printed)
        assert found is not None, self.printed + self.logged
        return found[1], int(found[2])

    def wait_until_ready(self) -> ServerProcess:
        """Return when the server answers."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                if self.request("GET", "/ready").status == 200:
                    return self
            except (AssertionError, OSError, http.client.HTTPException):
                assert self.process.poll() is None, self.printed + self.logged
            assert time.monotonic() < deadline, self.printed + self.logged
            time.sleep(_POLL_S)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection for several requests."""
        return http.client.HTTPConnection(*self.address, timeout=WAIT_S)

    def request(self, method: str, path: str, body: Any = None, *, key: str = "") -> Answer:
        """Make one request on a connection of its own."""
        connection = self.connect()
        try:
            return request(connection, method, path, body, key=key)
        finally:
            connection.close()

    def send_signal(self, sign: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(sign)
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self.send_signal(signal.SIGKILL)


def environment(**variables: str) -> dict[str, str]:
    """Return this environment without settings of Paygent, and with these variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PAYGENT_", "COV"))
    }
    return {**kept, "PYTHONPATH": str(ROOT / "src"), **variables}


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, *, key: str = ""
) -> Answer:
    """Make a request on an open connection; `/health` and the like have no prefix."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    return Answer(answer.status, json.loads(text) if text else None)


def usage_events(event_ids: Iterable[str], user_id: str = "ann") -> list[dict[str, Any]]:
    """Return events of a cent each, as the documented API takes them."""
    return [
        {
            "id": event_id,
            "user_id": user_id,
            "session_id": "s1",
            "timestamp": "2026-11-05T12:00:00Z",
            "model": "gpt-4o",
            "input_tokens": 100,
            "output_tokens": 10,
            "total_tokens": 110,
            "tool_calls": [],
            "cost_tokens": 0.01,
            "cost_tools": 0,
            "cost_total": 0.01,
            "metadata": {},
            "source": "auto",
        }
        for event_id in event_ids
    ]


def command(
    *arguments: str, database_url: str, variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command of the command line on a database; return its exit status and its output."""
    done = subprocess.run(
        [sys.executable, "-m", "paygent", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
        env=environment(PAYGENT_DATABASE_URL=database_url, **(variables or {})),
    )
    return done.returncode, done.stdout


class Ingest:
    """Sends batches on one connection after the other, until it is ended.

    Args:
        server: Where to.
        key: The SDK key.
        prefix: Begins the ids of the events.
    """

    def __init__(self, server: ServerProcess, key: str, prefix: str = "e") -> None:
        self.acknowledged: list[str] = []
        self._server, self._key, self._prefix = server, key, prefix
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection = self._server.connect()
        for number in itertools.count():
            if self._ended.is_set():
                break
            ids = [f"{self._prefix}-{number}-{each}" for each in range(BATCH)]
            try:
                answer = request(connection, "POST", EVENTS, usage_events(ids), key=self._key)
            except (OSError, http.client.HTTPException):
                connection.close()  # the server or its database was killed; the next try connects
                time.sleep(0.01)
                continue
            if answer.status == 200:
                self.acknowledged += ids
            else:
                assert answer.status in (503, 504), answer
        connection.close()

    def wait_for(self, events: int) -> None:
        """Return when so many more events were acknowledged."""
        wanted, deadline = len(self.acknowledged) + events, time.monotonic() + 30
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, "no batch is acknowledged"
            assert self._thread.is_alive()
            time.sleep(0.005)

    def end(self) -> list[str]:
        """Stop sending; return the ids of the acknowledged events."""
        self._ended.set()
        self._thread.join()
        return self.acknowledged


def booked(database_url: str) -> list[str]:
    """Return the ids of the stored events of the product `default`."""
    store = open_store(database_url)
    ids = [event.event_id for event in store.events("default", "ann")]
    store.close()
    return ids


def assert_each_once(database_url: str, acknowledged: list[str]) -> None:
    """Check that every acknowledged event is stored, each stored one once, and counters agree."""
    ids = booked(database_url)
    assert acknowledged
    assert set(acknowledged) - set(ids) == set()
    assert len(ids) == len(set(ids))
    status, text = command("audit", database_url=database_url)
    assert (status, "differences: 0" in text) == (0, True), text
