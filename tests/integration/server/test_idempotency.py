"""`Idempotency-Key`: a request that is sent again does nothing again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.integration.server.service import NOW_US, Service, event, serving
from tests.postgres import Cluster

from paygent.server import idempotency
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore

KEY = {"Idempotency-Key": "order-1"}
OVERRIDES = "/users/u1/overrides"
OVERRIDE = {"limit": "session_spend", "cap": 4, "until": "2026-12-01T00:00:00Z"}
"""A request that has another effect each time."""

DYING = """
import os, signal, sys
from tests.integration.server.service import NOW_US, serving
from tests.integration.server.test_idempotency import KEY, OVERRIDE, OVERRIDES, new_store
store = new_store(sys.argv[1], lambda: NOW_US)
store.open()
store.add_override = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with serving(store) as service:
    service.post(OVERRIDES, OVERRIDE, headers=KEY)
"""
"""A server that is killed while it handles a request."""

_ROOT = Path(__file__).parents[3]
_WAIT_S = 20.0


class Clock:
    """The ledger's clock of two servers, which a test sets."""

    def __init__(self) -> None:
        self.at_us = NOW_US

    def __call__(self) -> int:
        return self.at_us


def new_store(place: str, clock: Callable[[], int]) -> SqlStore:
    """Return a store on a PostgreSQL database or an SQLite file."""
    if place.startswith("postgresql:"):
        return PostgresStore(place, now_us=clock)
    return SqliteStore(place, readers=4, busy_wait_s=5.0, now_us=clock)


class Pair(NamedTuple):
    """Two servers of one database, their clock, and the database's URL or file."""

    first: Service
    second: Service
    clock: Clock
    place: str

    def overrides(self) -> int:
        """Return how many overrides the user has."""
        return len(self.first.store.overrides("acme", "u1", NOW_US))


@pytest.fixture(params=["sqlite", "postgres"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two servers of one database on each engine, with a user."""
    clock = Clock()
    place = str(tmp_path / "server.db")
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        place = cluster.new_database()
    with ExitStack() as stack:

        def new_service() -> Service:
            store = new_store(place, clock)
            store.open()
            stack.callback(store.close)
            return stack.enter_context(serving(store))

        made = Pair(new_service(), new_service(), clock, place)
        made.first.user()
        yield made


class Gate:
    """A verb of a store that stops before its work until the test lets it go on.

    Attributes:
        calls: How often the verb was called.
        failure: Raised in place of the work, if there is one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: SqlStore, verb: str) -> None:
        self.calls = 0
        self.failure: BaseException | None = None
        self._entered, self._released = threading.Event(), threading.Event()
        self._verb: Callable[..., Any] = getattr(store, verb)
        monkeypatch.setattr(store, verb, self._stop)

    def _stop(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        self._entered.set()
        assert self._released.wait(_WAIT_S)
        if self.failure is not None:
            raise self.failure
        return self._verb(*arguments, **options)

    def wait(self) -> None:
        """Return when the verb has been called."""
        assert self._entered.wait(_WAIT_S)

    def release(self) -> None:
        """Let this call and all later ones go on."""
        self._released.set()


def is_replayed(answer: Any) -> bool:
    """Return whether an answer is that of an earlier request."""
    return "idempotency-replayed" in answer.headers


def test_request__sent_again__is_answered_as_it_was(any_service: Service) -> None:
    """The second answer is the first one, and says so."""
    service = any_service
    body = {"external_user_id": "u1"}
    first = service.post("/users", body, headers=KEY)
    again = service.post("/users", body, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert service.post("/users", body).status_code == 409


def test_request__every_changing_route__remembers(service: Service) -> None:
    """PATCH and DELETE, too: a deletion that is sent again is no 404."""
    service.user()
    for method, body in (("PATCH", {"name": "B"}), ("DELETE", None)):
        headers = {"Idempotency-Key": method}
        options: dict[str, Any] = {} if body is None else {"json": body}
        answers = [service.call(method, "/users/u1", headers=headers, **options) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
    events = {"Idempotency-Key": "events"}
    for _ in range(2):
        answer = service.post("/events/batch", [event()], headers=events)
        assert answer.json() == {"accepted": 1, "duplicates": 0}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"external_user_id": "u2"}),
        ("POST", "/keys", {"scope": "sdk"}),
        ("PATCH", "/users/u1", {"name": "B"}),
    ],
)
def test_key__used_for_another_request__is_422(
    service: Service, method: str, path: str, body: dict[str, Any]
) -> None:
    """One key is one request: method, path and body."""
    service.post("/users", {"external_user_id": "u1"}, headers=KEY)
    assert service.call(method, path, json=body, headers=KEY).status_code == 422


def test_key__of_another_product__is_another_key(service: Service) -> None:
    """Keys are the product's."""
    body = {"external_user_id": "u1"}
    for key in ("admin", "other"):
        answer = service.post("/users", body, headers=KEY, key=key)
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers


def test_refused_request__is_not_remembered(service: Service) -> None:
    """A refusal changed nothing, so the corrected request may use the key again."""
    assert service.post("/users", {"name": "x"}, headers=KEY).status_code == 422
    assert service.post("/users", {"external_user_id": "u1"}, headers=KEY).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_key__unusable__is_422(service: Service, key: str) -> None:
    """A key is 1 to 255 printable characters."""
    headers = {"Idempotency-Key": key}
    assert service.post("/users", {"external_user_id": "u1"}, headers=headers).status_code == 422


def test_secret__is_not_remembered(service: Service) -> None:
    """The text of a new key is in the first answer alone; the key is made once."""
    answers = [service.post("/keys", {"scope": "sdk"}, headers=KEY).json() for _ in range(2)]
    assert answers[0]["api_key"].startswith("pg_live_acme_")
    assert answers[1]["api_key"] is None
    assert answers[0]["id"] == answers[1]["id"]
    remembered = service.store.remembered("acme", "order-1")
    assert remembered is not None
    assert remembered.answer is not None
    assert answers[0]["api_key"] not in remembered.answer


def test_two_at_once__run_one_after_the_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request waits for the first one, and gets its answer."""
    add_user, entered, release = service.store.add_user, threading.Event(), threading.Event()
    calls = []

    def slow(*arguments: Any) -> Any:
        calls.append(arguments)
        entered.set()
        assert release.wait(20)
        return add_user(*arguments)

    monkeypatch.setattr(service.store, "add_user", slow)
    body = {"external_user_id": "u1"}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.post, "/users", body, headers=KEY)
        assert entered.wait(20)
        second = pool.submit(service.post, "/users", body, headers=KEY)
        release.set()
        assert [first.result().status_code, second.result().status_code] == [201, 201]
    assert len(calls) == 1
    assert second.result().headers["idempotency-replayed"] == "true"


def test_answer__that_cannot_be_remembered__is_sent_all_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request has had its effect; an error would invite a retry, and a retry has no effect."""

    def away(*_: Any) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(service.store, "remember", away)
    assert service.post("/users", {"external_user_id": "u1"}, headers=KEY).status_code == 201
    assert "not remembered: locked" in caplog.text
    monkeypatch.setattr(idempotency, "_WAIT_S", 0.05)
    again = service.post("/users", {"external_user_id": "u1"}, headers=KEY)
    assert again.status_code == 409
    assert again.json()["type"] == "urn:paygent:problem:idempotency-key"


def test_first_request__that_takes_too_long__makes_the_second_a_conflict(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated request does not wait for ever."""
    monkeypatch.setattr(idempotency, "_WAIT_S", 0.05)
    add_user, entered, release = service.store.add_user, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert release.wait(20)
        return add_user(*arguments)

    monkeypatch.setattr(service.store, "add_user", slow)
    body = {"external_user_id": "u1"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.post, "/users", body, headers=KEY)
        assert entered.wait(20)
        second = service.post("/users", body, headers=KEY)
        release.set()
        assert first.result().status_code == 201
    assert (second.status_code, second.headers["retry-after"]) == (409, "1")


@pytest.mark.parametrize(
    ("failure", "status"), [(StoreUnavailable("locked"), 503), (RuntimeError("a defect"), 500)]
)
def test_failed_request__sent_again__is_handled(
    service: Service, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int
) -> None:
    """A failure gives the key back at once."""
    body = {"external_user_id": "u1"}
    with monkeypatch.context() as patched:

        def fail(*_: Any) -> None:
            raise failure

        patched.setattr(service.store, "add_user", fail)
        assert service.post("/users", body, headers=KEY).status_code == status
    assert service.store.remembered("acme", "order-1") is None
    again = service.post("/users", body, headers=KEY)
    assert (again.status_code, is_replayed(again)) == (201, False)


def test_answer__that_is_too_long__is_not_remembered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is free again."""
    monkeypatch.setattr(idempotency, "_ANSWER_BYTES_MAX", 10)
    assert service.post("/users", {"external_user_id": "u1"}, headers=KEY).status_code == 201
    assert service.store.remembered("acme", "order-1") is None


def test_refused_request__if_its_claim_cannot_be_released__is_refused_as_before(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer gives the reason of the refusal, and the log that of the claim."""

    def away(*_: Any) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(service.store, "release", away)
    answer = service.post("/users", {"name": "x"}, headers=KEY)
    assert answer.json()["type"] == "urn:paygent:problem:invalid-value"
    assert "not released: locked" in caplog.text


def test_request__that_cannot_claim_its_key__has_no_effect(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a claim a second request might act as well."""

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(service.store, "claim", away)
    assert service.post("/users", {"external_user_id": "u1"}, headers=KEY).status_code == 503
    assert service.store.user("acme", "u1") is None


def test_request__that_takes_too_long__is_finished_and_remembered(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was answered 503 at its time-out may have its effect all the same; sent again,
    it gets the answer, and has no second effect.
    """
    add_user = Gate(monkeypatch, store, "add_user")
    body = {"external_user_id": "u1"}
    with serving(store, request_timeout_s=0.2) as service:
        deadline = time.monotonic() + _WAIT_S
        while not add_user.calls:  # on a busy machine the time may be over before the handler runs
            assert service.post("/users", body, headers=KEY).status_code == 503
            assert time.monotonic() < deadline
        add_user.release()
        while True:
            again = service.post("/users", body, headers=KEY)
            if again.status_code != 503:  # its own time may be over before the answer is there
                break
            assert time.monotonic() < deadline
    assert (again.status_code, is_replayed(again)) == (201, True)
    assert add_user.calls == 1


# -- two servers of one database


def test_two_servers__one_request_at_once__act_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server waits for the answer of the first, although it handles nothing itself."""
    acting = Gate(monkeypatch, pair.first.store, "add_override")
    waiting = Gate(monkeypatch, pair.second.store, "remembered")
    waiting.release()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pair.first.post, OVERRIDES, OVERRIDE, headers=KEY)
        acting.wait()
        second = pool.submit(pair.second.post, OVERRIDES, OVERRIDE, headers=KEY)
        waiting.wait()
        acting.release()
        answers = [first.result(), second.result()]
    assert [each.status_code for each in answers] == [201, 201]
    assert [is_replayed(each) for each in answers] == [False, True]
    assert answers[0].json() == answers[1].json()
    assert pair.overrides() == 1


def test_two_servers__many_requests_at_once__act_once_for_each_key(pair: Pair) -> None:
    """Whichever server is first, one request of each key acts."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(1, 6):
            headers = {"Idempotency-Key": f"order-{number}"}
            sent = [
                pool.submit(service.post, OVERRIDES, OVERRIDE, headers=headers)
                for service in (pair.first, pair.second) * 2
            ]
            answers = [each.result() for each in sent]
            assert [each.status_code for each in answers] == [201] * 4
            assert sum(not is_replayed(each) for each in answers) == 1
            assert len({each.text for each in answers}) == 1
            assert pair.overrides() == number


def test_two_servers__another_request_with_the_key__is_422_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key is one request, also while that request runs."""
    acting = Gate(monkeypatch, pair.first.store, "add_override")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pair.first.post, OVERRIDES, OVERRIDE, headers=KEY)
        acting.wait()
        other = pair.second.post(OVERRIDES, {**OVERRIDE, "cap": 5}, headers=KEY)
        acting.release()
        assert first.result().status_code == 201
    assert other.status_code == 422
    assert other.json()["type"] == "urn:paygent:problem:idempotency-key"
    assert pair.overrides() == 1


def test_two_servers__the_first_fails__the_second_acts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waits for one that is refused claims the key in its place."""
    acting = Gate(monkeypatch, pair.first.store, "add_override")
    waiting = Gate(monkeypatch, pair.second.store, "remembered")
    waiting.release()
    acting.failure = StoreUnavailable("locked")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pair.first.post, OVERRIDES, OVERRIDE, headers=KEY)
        acting.wait()
        second = pool.submit(pair.second.post, OVERRIDES, OVERRIDE, headers=KEY)
        waiting.wait()
        acting.release()
        assert first.result().status_code == 503
        assert (second.result().status_code, is_replayed(second.result())) == (201, False)
    assert is_replayed(pair.first.post(OVERRIDES, OVERRIDE, headers=KEY))
    assert pair.overrides() == 1


def test_two_servers__a_refused_request__is_repeated_at_the_other(pair: Pair) -> None:
    """A refusal keeps no key, on any server."""
    assert pair.first.post(OVERRIDES, {"cap": 4}, headers=KEY).status_code == 422
    answer = pair.second.post(OVERRIDES, OVERRIDE, headers=KEY)
    assert (answer.status_code, is_replayed(answer)) == (201, False)


def test_two_servers__one_is_killed__the_other_acts_two_minutes_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim of a dead server is a conflict for two minutes, and does not block for ever."""
    monkeypatch.setattr(idempotency, "_WAIT_S", 0.05)
    killed = subprocess.run([sys.executable, "-c", DYING, pair.place], cwd=_ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    pair.clock.at_us += 120 * 10**6 - 1
    early = pair.second.post(OVERRIDES, OVERRIDE, headers=KEY)
    assert (early.status_code, early.headers["retry-after"]) == (409, "1")
    pair.clock.at_us += 1
    answer = pair.second.post(OVERRIDES, OVERRIDE, headers=KEY)
    assert (answer.status_code, is_replayed(answer)) == (201, False)
    assert is_replayed(pair.first.post(OVERRIDES, OVERRIDE, headers=KEY))
    assert pair.overrides() == 1


def test_two_servers__one_hangs__the_answer_of_the_other_stays(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim is taken over after two minutes; an answer that comes later is not remembered."""
    hanging = Gate(monkeypatch, pair.first.store, "add_override")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pair.first.post, OVERRIDES, OVERRIDE, headers=KEY)
        hanging.wait()
        pair.clock.at_us += 120 * 10**6
        second = pair.second.post(OVERRIDES, OVERRIDE, headers=KEY)
        assert (second.status_code, is_replayed(second)) == (201, False)
        hanging.release()
        assert first.result().status_code == 201
    assert "not remembered: its claim has lapsed" in caplog.text
    third = pair.first.post(OVERRIDES, OVERRIDE, headers=KEY)
    assert is_replayed(third)
    assert third.json() == second.json()
