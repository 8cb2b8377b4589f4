"""An application that is connected to a backend, in a process of its own: what it runs, and how a
test leads it step by step. It prints one line of JSON after each step, and waits for the next.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.promises.faults import until
from tests.promises.scripts import kill, read_line, start

from paygent import Paygent, PaygentLimitExceeded, PlanConfig
from paygent.client.journal import delivery
from paygent.ledger import connected, remote

DIME_NANO = 10**8
"""What a call costs: $0.10."""

DIME_TOKENS = 40_000
"""The same in input tokens of gpt-4o."""

OUTAGE_S = 1.0
"""In place of the five seconds after which a backend counts as away, where a test is in a hurry."""


class App:
    """A process that runs `code`, which begins with what it needs of this module.

    Args:
        code: Its steps.
        arguments: Of the process.
    """

    def __init__(self, code: str, *arguments: str) -> None:
        self.process: subprocess.Popen[str] = start(
            "from tests.promises.connected_app import *\n" + code, *arguments
        )

    def __enter__(self) -> App:
        """Do nothing more: a test may start two at once."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            kill(self.process)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def read(self) -> Any:
        """Return what the process reports next."""
        line = read_line(self.process)
        if not line:
            raise AssertionError(self.process.communicate(timeout=30)[1])
        return json.loads(line)

    def go_on(self, word: str = "") -> None:
        """Let the process do its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def step(self, word: str = "") -> Any:
        """Let the process do its next step, and return what it reports."""
        self.go_on(word)
        return self.read()

    def order(self, *words: object) -> Any:
        """Have a process that obeys do something, and return its result."""
        return self.step(" ".join(map(str, words)))["result"]

    def end(self) -> str:
        """Wait for the end of the process; return what it has logged."""
        _, logged = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, logged
        return logged


def report(**figures: Any) -> None:
    """Report a step."""
    print(json.dumps(figures), flush=True)


def next_step() -> str:
    """Wait until the test goes on; return its word."""
    return sys.stdin.readline().strip()


def in_a_hurry() -> None:
    """Shorten what a test would wait for: 1 s until an outage, and for an answer to a batch."""
    for module, name, value in (
        (connected, "OUTAGE_AFTER_S", OUTAGE_S),
        (delivery, "OFFLINE_AFTER_S", OUTAGE_S),
        (connected, "_RETRY_MAX_S", 0.5),
        (delivery, "_RETRY_MAX_S", 0.5),
        (remote, "SYNC_TIMEOUT_S", 1.0),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


def timed(work: Callable[..., object], *arguments: Any, **options: Any) -> float:
    """Return how long something takes, in seconds."""
    begun_s = time.monotonic()
    work(*arguments, **options)
    return time.monotonic() - begun_s


def _answer() -> Any:
    return {"model": "gpt-4o", "usage": {"prompt_tokens": DIME_TOKENS, "completion_tokens": 0}}


async def _answer_async() -> Any:
    return _answer()


_EXPECTED: dict[str, Any] = {"estimated_input_tokens": DIME_TOKENS, "estimated_max_tokens": 1}


def call(pg: Paygent, user_id: str) -> None:
    """Make a call of $0.10."""
    pg.wrap(_answer, user_id, "gpt-4o", **_EXPECTED)


async def call_async(pg: Paygent, user_id: str) -> None:
    """Make a call of $0.10 on an event loop."""
    await pg.awrap(_answer_async, user_id, "gpt-4o", **_EXPECTED)


def try_call(pg: Paygent, user_id: str) -> str | None:
    """Make a call of $0.10; return the reason if it is refused."""
    try:
        call(pg, user_id)
    except PaygentLimitExceeded as refused:
        return str(refused.guard_result.gate_reason)
    return None


def calls_until_refused(pg: Paygent, user_id: str, calls_max: int = 20) -> tuple[int, str | None]:
    """Make calls of $0.10; return how many pass, and why the next is refused."""
    for passed in range(calls_max):
        reason = try_call(pg, user_id)
        if reason is not None:
            return passed, reason
    return calls_max, None


def is_away(pg: Paygent) -> bool:
    """Return whether the local store takes the place of the backend."""
    ledger = pg._parts.connected
    return ledger is not None and ledger.is_away


def is_settled(pg: Paygent) -> bool:
    """Return whether the backend has everything and is used."""
    return pg.health()["mode"] == "connected" and not (pg.pending_events or is_away(pg))


def deliver(init: Callable[..., Paygent], url: str, key: str) -> None:
    """Start a Paygent that delivers what another process has left, and shut it down."""
    pg = init(api_key=key, base_url=url)
    pg.record_event("deliver", cost=0)  # starts the threads
    pg.flush()
    until(lambda: is_settled(pg))
    pg.shutdown()


def obey(pg: Paygent) -> None:
    """Do what the test orders, one command a line, until it orders nothing more."""
    commands: dict[str, Callable[..., object]] = {
        "call": lambda user_id: try_call(pg, user_id),
        "spend": lambda user_id: calls_until_refused(pg, user_id),
        "until_passes": lambda user_id: until(lambda: try_call(pg, user_id) is None),
        "until_refused": lambda user_id: until(lambda: try_call(pg, user_id) is not None),
        "cost_nano": lambda user_id: pg.get_usage(user_id).period_cost_nano,
        "plan": lambda user_id: pg.get_user_state(user_id).plan,
        "configure": lambda name, cap: pg.configure_plan(
            name, PlanConfig(max_spend_per_period=float(cap))
        ),
        "assign": lambda user_id, name: pg.assign_plan(user_id, name) and None,
        "flush": pg.flush,
        "is_away": lambda: is_away(pg),
        "is_settled": lambda: is_settled(pg),
        "mode": lambda: pg.health()["mode"],
    }
    while words := next_step().split():
        report(result=commands[words[0]](*words[1:]))
    pg.shutdown()


class LoopWatch:
    """What happens on the thread of an event loop, observed by an audit hook, which stays for the
    life of the process.

    Attributes:
        seen: Connections and files that were opened on the loop's thread.
        ticks: How often another task of the loop has run meanwhile.
    """

    def __init__(self, pg: Paygent) -> None:
        self._pg, self._thread = pg, threading.get_ident()
        self.seen: list[str] = []
        self.ticks = 0
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread or self._thread == 0:
            return
        is_file = event == "open" and self._pg.db_path in str(arguments[0])
        if is_file or event in ("socket.connect", "sqlite3.connect"):
            self.seen.append(event)

    async def run(self, user_ids: list[str]) -> float:
        """Make a call for each user, one after the other; return how long they took."""
        ticking = asyncio.ensure_future(self._tick())
        begun_s = time.monotonic()
        for user_id in user_ids:
            await call_async(self._pg, user_id)
        took_s = time.monotonic() - begun_s
        ticking.cancel()
        self._thread = 0
        return took_s

    async def _tick(self) -> None:
        while True:
            self.ticks += 1
            await asyncio.sleep(0.01)
