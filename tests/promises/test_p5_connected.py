"""P5 with a backend: each call counts once, however the application or the server ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.promises.connected_app import DIME_NANO, App, deliver, is_settled
from tests.promises.faults import WAIT_S, Backend, Fault, FaultyBackend, until

from paygent import Paygent

Init = Callable[..., Paygent]

CALLS = 20
ROUNDS = 4

CALLING = """
import os
url, key, db_path, user, end = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
for _ in range(20):
    call(pg, user)
if end == "_exit":
    os._exit(3)
if end == "fork":
    pid = os.fork()
    for _ in range(5 if pid else 3):
        call(pg, user)
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
    else:
        pg.shutdown(timeout=20)
        os._exit(0)
if end in ("kill", "term"):
    report(ready=True)
    next_step()
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The server of all tests."""
    with Backend(tmp_path_factory.mktemp("backend")) as started:
        started.set_plan("default", max_spend_per_period=10_000)
        yield started


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultyBackend]:
    """The way of one application to the server."""
    with FaultyBackend(backend.server.address) as started:
        yield started


@pytest.mark.parametrize(
    ("end", "status", "calls"),
    [
        ("kill", -signal.SIGKILL, CALLS),
        ("term", -signal.SIGTERM, CALLS),
        ("_exit", 3, CALLS),
        ("fork", 0, CALLS + 5 + 3),
        ("return", 0, CALLS),
    ],
)
def test_app__ends_right_after_its_calls__has_each_counted_once(
    backend: Backend,
    proxy: FaultyBackend,
    init: Init,
    db_path: str,
    end: str,
    status: int,
    calls: int,
) -> None:
    """What it has not delivered, the next process of the host delivers."""
    user = f"ends-{end}"
    with App(CALLING, proxy.url, backend.sdk, db_path, user, end) as app:
        if end in ("kill", "term"):
            app.read()
            app.process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
        _, logged = app.process.communicate(timeout=60)
        assert app.process.returncode == status, logged
    deliver(init, proxy.url, backend.sdk)
    backend.assert_events({user: calls})
    assert backend.spent_nano(user) == calls * DIME_NANO
    assert not list(Path(db_path + ".journal").rglob("*.seg"))


def test_app__ends_while_answers_are_lost__has_each_call_counted_once(
    backend: Backend, proxy: FaultyBackend, init: Init, db_path: str
) -> None:
    """A batch that the server has booked and the application does not know of is sent again, by
    another process.
    """
    proxy.fault = Fault.ANSWER_LOST
    with App(CALLING, proxy.url, backend.sdk, db_path, "lost", "kill") as app:
        app.read()
        proxy.fault = Fault.NONE  # the ledger is opened now
        until(lambda: proxy.met[Fault.NONE] > 0)
        proxy.fault = Fault.ANSWER_LOST
        until(lambda: len(backend.events("lost")) > 0)
        app.process.kill()
        app.process.communicate(timeout=60)
    proxy.fault = Fault.NONE
    deliver(init, proxy.url, backend.sdk)
    backend.assert_events({"lost": CALLS})


IN_AN_OUTAGE = """
url, key, db_path, user = sys.argv[1:]
in_a_hurry()
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
call(pg, user)
until(lambda: is_away(pg))
for _ in range(9):
    call(pg, user)
pg.flush()
for _ in range(10):
    call(pg, user)
report(ready=True)
next_step()
pg.shutdown(timeout=2)
"""


def test_app__killed_in_an_outage__has_its_calls_counted_once(
    backend: Backend, proxy: FaultyBackend, init: Init, db_path: str
) -> None:
    """Some of them are in the local store, some are in the journal."""
    proxy.fault = Fault.CLOSED
    with App(IN_AN_OUTAGE, proxy.url, backend.sdk, db_path, "killed") as app:
        app.read()
        app.process.kill()
        app.process.communicate(timeout=60)
    assert backend.events("killed") == []
    proxy.fault = Fault.NONE
    deliver(init, proxy.url, backend.sdk)
    backend.assert_events({"killed": CALLS})


def test_app__ends_in_an_outage__has_its_calls_delivered_by_the_next_flush(
    backend: Backend, proxy: FaultyBackend, init: Init, db_path: str
) -> None:
    """The next process need not make a call of its own."""
    proxy.fault = Fault.CLOSED
    with App(IN_AN_OUTAGE, proxy.url, backend.sdk, db_path, "outage") as app:
        app.read()
        app.go_on()
        app.end()
    assert backend.events("outage") == []
    proxy.fault = Fault.NONE
    pg = init(api_key=backend.sdk, base_url=proxy.url)
    pg.flush()
    until(lambda: is_settled(pg))
    pg.shutdown()
    backend.assert_events({"outage": CALLS})


def until_passed_on(proxy: FaultyBackend) -> None:
    """Wait until a request has reached the server."""
    before = proxy.met[Fault.NONE]
    until(lambda: proxy.met[Fault.NONE] > before)


def kill_during_a_batch(backend: Backend, proxy: FaultyBackend, after_s: float) -> None:
    """Kill the server so long after a batch was sent to it: it has it booked by then, or not."""
    sent, killed = threading.Event(), threading.Event()

    def kill() -> None:
        backend.stop()
        killed.set()

    def before(path: str) -> None:
        if path.endswith("/sync") and not sent.is_set():
            sent.set()
            threading.Timer(after_s, kill).start()

    proxy.before = before
    assert killed.wait(WAIT_S)
    proxy.before = lambda _: None


SPENDING = """
url, key, db_path, user = sys.argv[1:]
in_a_hurry()
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
call(pg, user)
until(lambda: not pg.pending_events)
report(ready=True)
stopping = threading.Event()
threading.Thread(target=lambda: (next_step(), stopping.set()), daemon=True).start()
calls, reasons = 1, set()
while not stopping.wait(0.02):
    reasons.add(try_call(pg, user))
    calls += 1
until(lambda: is_settled(pg))
report(calls=calls, refused=sorted(reasons - {None}), cost=pg.get_usage(user).period_cost_nano)
pg.shutdown()
"""


@pytest.mark.parametrize("is_during_a_batch", [False, True], ids=["between", "during"])
def test_server__killed_and_restarted__has_each_call_counted_once(
    tmp_path: Path, db_path: str, is_during_a_batch: bool
) -> None:
    """Several times, between batches or while one is on its way; 50 calls a second go on."""
    user = f"killed-{is_during_a_batch}"
    with Backend(tmp_path / "backend") as backend:
        backend.set_plan("default", max_spend_per_period=10_000)
        with (
            FaultyBackend(backend.server.address) as proxy,
            App(SPENDING, proxy.url, backend.sdk, db_path, user) as app,
        ):
            app.read()
            for round_number in range(ROUNDS):
                if is_during_a_batch:
                    kill_during_a_batch(backend, proxy, after_s=round_number * 0.002)
                else:
                    until_passed_on(proxy)
                    time.sleep(0.1)  # a batch takes milliseconds, and the next one comes later
                    backend.stop()
                time.sleep(round_number * 0.5)  # from no outage at all to one of some batches
                backend.restart()
                proxy.target = backend.server.address
                until_passed_on(proxy)
            spent = app.step()
            app.end()
        assert spent["refused"] == []
        assert spent["calls"] > 50
        backend.assert_events({user: spent["calls"]})
        assert backend.spent_nano(user) == spent["cost"] == spent["calls"] * DIME_NANO
