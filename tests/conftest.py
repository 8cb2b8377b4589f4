"""Fixtures of all tests: Paygents that are shut down, a clock that is set, and no failure that goes
unseen.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from tests.postgres import postgres, postgres_url, shared_cluster

from paygent import Paygent
from paygent.client.api import queries
from paygent.client.context.scopes import PropagatedContext
from paygent.client.instrument.http_sdks.wrapper import set_active
from paygent.client.instrument.registry import instrumentation
from paygent.client.metering import nesting, wait
from paygent.client.runtime import callbacks, lifecycle
from paygent.failopen import diagnostics
from paygent.ledger import handshake
from paygent.testing import FakeProvider

__all__ = ["postgres", "postgres_url", "shared_cluster"]  # fixtures, for every test

_Client = TypeVar("_Client")

gc.disable()  # until all tests are collected: what collection creates lives as long as the run


def pytest_collection_finish() -> None:
    """Keep the collector from going through a million objects that live as long as the run."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Enable the collector in the process that only distributes the tests."""
    gc.enable()


LEDGER_WAIT_S = 5.0
"""Longest wait for the ledger in tests; those of a ledger that is slow shorten it themselves."""


class Closing(Protocol):
    """Closes a client when the test ends, and returns it."""

    def __call__(self, client: _Client, /) -> _Client:
        """Take a client."""


class Swallowed:
    """The internal failures of a test, by kind; one that provokes some says which it expects."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, BaseException]] = []
        self.expected: set[str] = set()
        self.allowed: set[str] = set()

    def expect(self, *kinds: str) -> None:
        """Allow these kinds in this test; each must occur."""
        self.expected |= set(kinds)

    def allow(self, *kinds: str) -> None:
        """Allow these kinds in this test; whether one occurs depends on the time of a thread."""
        self.allowed |= set(kinds)

    def note(self, kind: str, error: BaseException) -> None:
        self.seen.append((kind, error))


@pytest.fixture(autouse=True)
def swallowed() -> Iterator[Swallowed]:
    """Fail a test for each internal failure that production would swallow, and for each that it
    expected in vain.
    """
    noted = Swallowed()
    diagnostics.listeners.append(noted.note)
    diagnostics.counts.clear()
    yield noted
    diagnostics.listeners.remove(noted.note)
    known = noted.expected | noted.allowed
    unexpected = [f"{kind}: {error!r}" for kind, error in noted.seen if kind not in known]
    missing = noted.expected - {kind for kind, _ in noted.seen}
    assert not unexpected, "swallowed failures: " + "; ".join(unexpected)
    assert not missing, f"expected failures that did not occur: {missing}"


_REQUESTS: dict[Any, Any] = {}
"""The own `request` of each base client."""


@pytest.fixture(autouse=True)
def _unpatched_sdks() -> Iterator[None]:
    """Fail a test that leaves a wrapper around the calls of an SDK, once its own patches are
    undone: the calls of later tests would go through two, and never by the shortcut.
    """
    yield
    left = []
    for sdk in ("openai", "anthropic"):
        module = sys.modules.get(f"{sdk}._base_client")
        for name in ("SyncAPIClient", "AsyncAPIClient") if module is not None else ():
            client = getattr(module, name)
            original = _REQUESTS.setdefault(client, inspect.unwrap(client.request))
            if client.request is not original:
                client.request = original
                left.append(f"{sdk} {name}")
    assert not left, f"a test has left a wrapper in {left}"


@pytest.fixture(autouse=True)
def _clean_environment(
    _unpatched_sdks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Keep the machine's settings out and the user's home untouched; leave no Paygent and no patch
    behind.
    """
    for name in ("API_KEY", "BASE_URL", "DB_PATH", "PRODUCT", "DISABLED", "STREAM_USAGE_HOSTS"):
        monkeypatch.delenv(f"PAYGENT_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # A busy machine may take longer than an application should wait; `monkeypatch` sets it back.
    for module in (wait, queries):
        monkeypatch.setattr(module, "FIRST_TOUCH_WAIT_S", LEDGER_WAIT_S)
    yield
    instance = Paygent.get_instance()
    if instance is not None:
        instance.shutdown(timeout=5.0)
    set_active(None)
    instrumentation.uninstall()
    left = PropagatedContext.capture()
    assert left is None, "a test has left a user or a call in its place"
    assert not nesting.tasks, "a test has left a task that a call encloses"


@pytest.fixture
def patient_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call wait for its callbacks as long as a busy machine may take to run them."""
    monkeypatch.setattr(callbacks, "OWN_WAIT_S", 30.0)


@pytest.fixture
def patient_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `init` wait for the backend as long as a busy machine may take to start the probe."""
    monkeypatch.setattr(handshake, "PROBE_WAIT_S", 30.0)


@pytest.fixture
def db_path(tmp_path: Path) -> str:
    """A place for a store that does not exist yet."""
    return str(tmp_path / "paygent" / "local.db")


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    """A fake provider on loopback."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def closing() -> Iterator[Closing]:
    """Close clients when the test ends; a client is a cycle, and its sockets are collected late."""
    opened: list[Any] = []

    def close_later(client: _Client) -> _Client:
        opened.append(client)
        return client

    yield close_later
    for client in opened:
        client.close()


@pytest.fixture
def init(db_path: str) -> Callable[..., Paygent]:
    """`Paygent.init` on this test's own store."""

    def start(**arguments: Any) -> Paygent:
        return Paygent.init(**{"db_path": db_path, **arguments})

    return start


def pytest_configure() -> None:
    """Let clients trust one certificate authority of our own: loading the public ones takes 20 ms
    for each client, and the fake provider speaks plain HTTP. Install the hooks of processes.
    """
    os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("authority.pem"))
    lifecycle._install()  # the first test of a process does not warn of the missing `init`


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """Escape what UTF-8 cannot encode, such as odd user ids in a captured log: parallel workers
    send their reports as UTF-8.
    """
    outcome = yield
    report = outcome.get_result()
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test was skipped: what is not run proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
