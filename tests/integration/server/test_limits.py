"""Every body, list, text and time has a bound, and every error is a problem."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.server.service import API, Service, event, fields_of, gate_event, serving

from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable

JSON = {"Content-Type": "application/json"}


def chunks(total: int) -> Iterator[bytes]:
    """Yield a body without a declared length."""
    for _ in range(total // 65_536 + 1):
        yield b" " * 65_536


def test_body__above_the_limit__is_413_before_it_is_read_whole(service: Service) -> None:
    """Ordinary bodies end at 1 MiB, batches at 4 MiB, declared or streamed."""
    for path, mebibytes in (("/users", 1), ("/events/batch", 4), ("/gate-events/batch", 4)):
        too_large = mebibytes * 2**20 + 1
        declared = service.call("POST", path, content=b" " * too_large, headers=JSON)
        streamed = service.call("POST", path, content=chunks(too_large), headers=JSON)
        within = service.call("POST", path, content=b" " * (too_large - 1), headers=JSON)
        assert [declared.status_code, streamed.status_code] == [413, 413]
        assert within.status_code in (400, 422)
        assert declared.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b'{"external_user_id": NaN}',
        b'{"external_user_id": -Infinity}',
        b'{"external_user_id": 1e999999}',
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b'{"external_user_id": ' + b"9" * 5_000 + b"}",
        b'{"external_user_id": "\\ud800"}',
        b'{"external_user_id": "\\u0000"}',
        b'{"external_user_id": "' + b"x" * 20_001 + b'"}',
        json.dumps([0] * 50_001).encode(),
    ],
)
def test_json__odd_or_excessive__is_400(service: Service, body: bytes) -> None:
    """NaN, Infinity, depth, size, lone surrogates and NUL are refused, never a 500."""
    answer = service.call("POST", "/users", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "urn:paygent:problem:bad-json"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[NaN]", b"[Infinity]", b"[" * 5_000, b'["\\ud800"]', b"[1e400, -1e400"],
)
def test_events__body_that_is_no_json__is_400(service: Service, body: bytes) -> None:
    """The hot route has the same bounds."""
    answer = service.call("POST", "/events/batch", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text


def test_events__one_bad_among_good__none_is_booked(service: Service) -> None:
    """A batch is booked whole or not at all."""
    refused = service.post("/events/batch", [event(1), event(2, cost_tokens="x"), event(3)])
    assert refused.status_code == 422
    assert fields_of(refused) == ["events[1].cost_tokens"]
    assert service.get("/users/u1/session").status_code == 404
    assert service.book(event(1)) == {"accepted": 1, "duplicates": 0}


def test_events__a_thousand__are_accepted_and_one_more_is_not(service: Service) -> None:
    """A list has a bound; so has one of gate events."""
    events = [event(number) for number in range(1_001)]
    assert service.post("/events/batch", events).status_code == 422
    assert service.book(*events[:1_000])["accepted"] == 1_000
    assert service.book() == {"accepted": 0, "duplicates": 0}
    gates = [gate_event(1)] * 1_001
    assert service.post("/gate-events/batch", gates).status_code == 422


def test_lists__limit_and_cursor__are_checked(service: Service) -> None:
    """Limits are 1 to 500; a cursor of another list or made up is refused."""
    service.user("u1")
    service.user("u2")
    for limit in ("0", "501", "x", "-1"):
        assert service.get(f"/users?limit={limit}").status_code == 422
    cursor = service.get("/users?limit=1").json()["next_cursor"]
    assert service.get(f"/users?cursor={cursor}").json()["users"][0]["external_user_id"] == "u2"
    for odd in ("x", "%00", "é", "W10", cursor + "A", "x" * 2_001):
        answer = service.get("/users", params={"cursor": odd})
        assert answer.status_code == 422, odd
    assert service.get(f"/users/u1/gate-events?cursor={cursor}").status_code == 422


def test_fields__several_broken__are_all_named(service: Service) -> None:
    """A validation error lists every field, with value and rule."""
    refused = service.post("/users", {"external_user_id": "", "name": 5, "email": "x"})
    assert refused.status_code == 422
    assert sorted(fields_of(refused)) == ["email", "external_user_id", "name"]
    assert {error["field"]: error["value"] for error in refused.json()["errors"]}["name"] == 5
    revenue = [
        {"id": "r", "user_id": "u", "amount": "x", "period_start": "2026-01-01T00:00:00Z"},
        {"id": "r", "user_id": "u", "amount": -1, "period_start": "x", "period_end": "y"},
    ]
    fields = fields_of(service.post("/revenue", revenue))
    assert fields == [
        "revenue[0].amount",
        "revenue[0].period_end",
        "revenue[1].period_start",
        "revenue[1].period_end",
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/users/none", 404),
        ("PUT", "/users", 405),
        ("DELETE", "/keys", 405),
        ("OPTIONS", "/users", 405),
        ("HEAD", "/nothing", 404),
        ("HEAD", "/users/u1/subscription", 405),
    ],
)
def test_problems__of_routing__are_problems(
    service: Service, method: str, path: str, status: int
) -> None:
    """404 and 405 are problems, too; CORS is off."""
    answer = service.call(method, path, headers={"Origin": "https://example.com"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if status == 405:
        assert "allow" in answer.headers
    if method != "HEAD":
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_unexpected_error__is_500_without_a_traceback(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets a request id; the log has the reason under it."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(service.store, "keys", fail)
    answer = service.get("/keys")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    (record,) = [each for each in caplog.records if each.exc_info]
    assert vars(record)["request_id"] == answer.json()["request_id"]


def test_store_away__is_503_with_retry_after(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may pass is 503; /ready says so, /health does not ask."""

    def away(*_: Any) -> None:
        raise StoreUnavailable("SQLite, /secret/path: locked")

    for verb in ("keys", "book", "has_products"):
        monkeypatch.setattr(service.store, verb, away)
    for answer in (
        service.get("/keys"),
        service.post("/events/batch", [event()]),
        service.get("/ready", key=""),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "/secret/path" not in answer.text
    assert service.get("/health", key="").status_code == 200


def test_batch_that_the_store_rejects__is_422(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A rejection is the sender's, an exception of the store is not."""
    monkeypatch.setattr(service.store, "book", lambda *_: [ValueError("odd row")])
    answer = service.post("/events/batch", [event()])
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:paygent:problem:rejected")
    assert "odd row" not in answer.text
    assert "odd row" not in caplog.text
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert record.getMessage() == "a batch was rejected: ValueError"
    assert vars(record)["request_id"] == answer.json()["request_id"]


def test_requests__more_than_may_wait__are_503(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads and batches that the store cannot take at once are refused, not collected."""
    release, entered = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        entered.set()
        assert release.wait(20)
        return ()

    with serving(store, reads_waiting_max=1, key_cache_s=60.0) as service:
        assert service.get("/keys").status_code == 200
        monkeypatch.setattr(store, "keys", slow)
        first = threading.Thread(target=lambda: service.get("/keys"))
        first.start()
        assert entered.wait(20)
        answer = service.get("/keys")
        release.set()
        first.join()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert 'paygent_refused_total{reason="store_busy"} 1.0' in service.get("/metrics").text


def test_request__slower_than_its_limit__is_503(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not hang for ever."""
    release = threading.Event()
    monkeypatch.setattr(store, "keys", lambda *_: release.wait(20) and ())
    with serving(store, request_timeout_s=0.2) as service:
        answer = service.get("/keys")
        release.set()
        assert answer.status_code == 503
        assert answer.headers["connection"] == "close"


def test_answers__have_security_headers(service: Service) -> None:
    """Nothing is stored by caches or sniffed by browsers, errors included."""
    for path in ("/users", "/users/none", "/health"):
        headers = service.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_request_id__given_by_a_proxy__is_kept_if_it_is_plain(service: Service) -> None:
    """A plain id is continued; another one is replaced, so that logs stay clean."""
    kept = service.client.get(f"{API}/health", headers={"X-Request-Id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    odd = service.client.get(f"{API}/health", headers={"X-Request-Id": 'a" injected'})
    assert odd.headers["x-request-id"] != 'a" injected'


def test_path__with_nul__is_400(service: Service) -> None:
    """NUL marks escaped slashes inside; from outside it is refused."""
    assert service.client.get(f"{API}/users/a%00b").status_code == 400
