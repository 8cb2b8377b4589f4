"""What hand-made clients meet: the type of a body, HEAD, the words of a refusal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.integration.server.service import (
    API,
    Service,
    event,
    fields_of,
    gate_event,
    listening,
)

from paygent.store.ledger import SqlStore

MONTH = {"period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z"}
BODIES: dict[str, Any] = {
    "/users": {"external_user_id": "u1"},
    "/keys": {"scope": "read"},
    "/config/plans": {"plans": [{"name": "pro"}]},
    "/revenue": [{"id": "r", "user_id": "u1", "amount": 1, **MONTH}],
    "/gate-events/batch": [gate_event(1)],
    "/events/batch": [event(1)],
}
LATER = "2027-01-01T00:00:00Z"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain", "odd", "text/json"]
)
def test_body__of_json_with_another_type__is_read(
    service: Service, path: str, content_type: str | None
) -> None:
    """`curl --data` says that JSON is a form."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    request = service.client.build_request("POST", API + path, json=BODIES[path])
    answer = service.call("POST", path, content=request.content, headers=headers)
    assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize("path", BODIES)
def test_body__that_is_a_form__is_400_and_not_repeated(service: Service, path: str) -> None:
    """It is no JSON, and its bytes are not in the answer."""
    for options in ({"data": {"external_user_id": "u1"}}, {"files": {"a": b"secret"}}):
        answer = service.call("POST", path, **options)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:paygent:problem:bad-json")
        assert "external_user_id" not in answer.text
        assert "secret" not in answer.text


def test_head__where_there_is_a_get__is_answered_without_a_body(store: SqlStore) -> None:
    """As probes ask, through a real socket: the connection stays usable."""
    with listening(store) as service:
        for path in ("/health", "/ready", "/metrics", "/users", "/keys"):
            head, get = service.call("HEAD", path), service.get(path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-type"] == get.headers["content-type"]
        assert service.call("HEAD", "/users", key="read").status_code == 200
        assert service.call("HEAD", "/users", key="sdk").status_code == 403
        assert service.call("HEAD", "/users", key="").status_code == 401
        assert 'method="HEAD",route="/health"' in service.get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/users", "GET, HEAD, POST"),
        ("PUT", "/users/u1", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/config/plans/p", "DELETE, PATCH"),
        ("HEAD", "/events/batch", "POST"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
def test_method__that_a_path_has_not__lists_all_that_it_has(
    service: Service, method: str, path: str, allowed: str
) -> None:
    """Whichever route has them."""
    answer = service.call(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert answer.json()["detail"].startswith(f"The route has no method {method}; it has ")


def test_route__unknown__is_said_in_a_sentence(service: Service) -> None:
    """404 says what is missing."""
    assert service.get("/nothing").json()["detail"] == "There is no such route."


def test_scope__that_does_not_suffice__names_those_that_do(service: Service) -> None:
    """A list of alternatives is one."""

    def detail(method: str, path: str, key: str) -> str:
        text: str = service.call(method, path, key=key, json=[]).json()["detail"]
        return text.partition("; ")[2]

    assert detail("GET", "/users", "sdk") == "it needs admin or read."
    assert detail("POST", "/users", "read") == "it needs admin or sdk."
    assert detail("POST", "/keys", "read") == "it needs admin."


@pytest.mark.parametrize("path", ["/events/batch", "/gate-events/batch"])
def test_batch__with_a_broken_event__names_its_place(service: Service, path: str) -> None:
    """One style for every list."""
    body = [*BODIES[path], {**BODIES[path][0], "timestamp": "noon"}]
    (error,) = service.post(path, body).json()["errors"]
    assert (error["field"], error["rule"]) == (
        "events[1].timestamp",
        "must be an ISO 8601 time with a time zone, from 1970 on",
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [("/events/batch", "events"), ("/gate-events/batch", "events"), ("/revenue", "revenue")],
)
def test_batch__that_is_an_object__says_so_without_repeating_it(
    service: Service, path: str, name: str
) -> None:
    """A forgotten pair of brackets around a long entry."""
    (error,) = service.post(path, {f"field-{n}": "x" * 50 for n in range(40)}).json()["errors"]
    assert error["field"] == name
    assert error["rule"].startswith("must be a list of ")
    assert "xxx" not in str(error["value"])


BROKEN: list[tuple[str, Any, dict[str, str]]] = [
    ("/users", [], {"body": "must be an object"}),
    ("/users", {}, {"external_user_id": "is required"}),
    ("/users", {"external_user_id": ""}, {"external_user_id": "must have at least one character"}),
    (
        "/users",
        {"external_user_id": "u", "name": "x" * 256},
        {"name": "must have at most 255 characters"},
    ),
    ("/users", {"external_user_id": 5, "name": " "},
     {"external_user_id": "must be a string", "name": "must not be blank"}),
    ("/keys", {"scope": "all"}, {"scope": 'must be "admin", "sdk" or "read"'}),
    ("/config/plans", {"plans": {}}, {"plans": "must be a list of objects"}),
    ("/config/plans", {"plans": []}, {"plans": "must have at least one item"}),
    ("/config/plans", {"plans": [5]}, {"plans[0]": "must be an object"}),
    ("/config/plans", {"plans": [{"name": "a", "price": "x", "enforce": 1, "cost_rates": []}]}, {
        "plans[0].price": "must be a number of dollars",
        "plans[0].enforce": "must be true or false",
        "plans[0].cost_rates": "must be an object with names as keys",
    }),
    ("/config/plans", {"plans": [{"name": "a", "limits": 5, "model_limits": {"m": "x"}}]}, {
        "plans[0].limits": "must be a list of limits",
        "plans[0].model_limits.m":
            "must be a number, an object with max_tokens_per_period",
    }),
    ("/revenue", [{**BODIES["/revenue"][0], "amount": "x"}],
     {"revenue[0].amount": "must be a number of dollars"}),
    ("/revenue", [{**BODIES["/revenue"][0], "amount": {}}],
     {"revenue[0].amount": "must be a number of dollars"}),
    ("/users/u1/usage-token", {"expires_in_s": 1}, {"expires_in_s": "must be at least 60"}),
    ("/users/u1/usage-token", {"expires_in_s": 10**6}, {"expires_in_s": "must be at most 86400"}),
    ("/users/u1/usage-token", {"expires_in_s": "x"}, {"expires_in_s": "must be a whole number"}),
    ("/users/u1/usage-token", {"expires_in_s": 60.5}, {"expires_in_s": "must be a whole number"}),
    ("/users/u1/overrides", {"limit": 5, "add": 1, "until": LATER},
     {"limit": "must be the name of a limit, or an object of a limit"}),
    ("/users/u1/overrides", {"limit": {"metric": "x"}, "add": 1, "until": LATER},
     {"limit.metric": 'must be "spend", "tokens" or "calls"'}),
    ("/users/u1/overrides", {"limit": "", "add": 1, "until": LATER},
     {"limit": "must have at least one character"}),
    ("/users/u1/overrides", {"limit": "total_spend", "add": [], "until": LATER},
     {"add": "must be a number"}),
    ("/gate-events/batch", [{**gate_event(1), "blocked": "x", "usage_pct": "x", "metadata": 5}], {
        "events[0].blocked": "must be true or false",
        "events[0].usage_pct": "must be a number",
        "events[0].metadata": "must be an object",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "rules"), BROKEN)
def test_rules__of_every_kind__are_sentences_about_json(
    service: Service, path: str, body: Any, rules: dict[str, str]
) -> None:
    """None speaks of the validation library or of Python."""
    service.user()
    answer = service.post(path, body)
    assert answer.status_code == 422
    assert {each["field"]: each["rule"] for each in answer.json()["errors"]} == rules


def test_rules__of_parameters__are_sentences(service: Service) -> None:
    """Queries, too."""
    service.user()
    answer = service.get("/users/u1/gate-events?limit=x&blocked_only=x&status=x")
    assert {each["field"]: each["rule"] for each in answer.json()["errors"]} == {
        "limit": "must be a whole number",
        "blocked_only": "must be true or false",
        "status": 'must be "soft_gate" or "hard_gate"',
    }
    assert not re.search("input should|value error", answer.text, re.I)


def test_email__that_is_none__is_named_so(service: Service) -> None:
    """A pattern is no help."""
    token = {"X-Setup-Token": "x"}
    body = {"name": "Search", "contact_email": "ann at example"}
    answer = service.call("POST", "/products", key="", headers=token, json=body)
    assert fields_of(answer) == ["contact_email"]
    assert answer.json()["errors"][0]["rule"] == "must be an e-mail address"


def test_user__reason_without_a_pause__is_refused(any_service: Service) -> None:
    """It would be kept where no one sees it; of a paused user it is changed."""
    service = any_service
    service.user()
    refused = service.call("PATCH", "/users/u1", json={"reason": "chargeback"})
    assert (refused.status_code, fields_of(refused)) == (422, ["reason"])
    rule = "needs paused: true, since the user is not paused"
    assert refused.json()["errors"][0]["rule"] == rule
    assert service.call("PATCH", "/users/u1", json={"reason": None}).status_code == 200
    assert service.call("PATCH", "/users/none", json={"reason": "x"}).status_code == 404
    service.call("PATCH", "/users/u1", json={"paused": True, "reason": "chargeback"})
    changed = service.call("PATCH", "/users/u1", json={"reason": "fraud"})
    assert (changed.status_code, changed.json()["paused_reason"]) == (200, "fraud")


def test_batch__one_id_for_two_users__counts_both(any_service: Service) -> None:
    """An id is one of its user; a repetition in the batch is a duplicate."""
    service = any_service
    users = ("u1", "u2", "u1")
    events = [event(1, user_id=user) for user in users]
    gates = [gate_event(1, user_id=user) for user in users]
    payments = [{"id": "r", "user_id": user, "amount": 1, **MONTH} for user in users]
    for path, batch in (
        ("/events/batch", events),
        ("/gate-events/batch", gates),
        ("/revenue", payments),
    ):
        assert service.post(path, batch).json() == {"accepted": 2, "duplicates": 1}, path
        assert service.post(path, batch).json() == {"accepted": 0, "duplicates": 3}, path
