"""`Idempotency-Key`: a request that is sent again does nothing again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.integration.server.service import Service, event

from paygent.server import idempotency
from paygent.store.port import StoreUnavailable

KEY = {"Idempotency-Key": "order-1"}


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
    """The request has had its effect; an error would invite a retry."""

    def away(*_: Any) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(service.store, "remember", away)
    assert service.post("/users", {"external_user_id": "u1"}, headers=KEY).status_code == 201
    assert "not remembered: locked" in caplog.text


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
