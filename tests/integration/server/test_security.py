"""Who may see what: keys, scopes, other products, the set-up token, usage tokens."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from httpx import Response
from tests.integration.server.service import (
    API,
    ELSEWHERE,
    NOW,
    Service,
    event,
    gate_event,
    serving,
)

from paygent.core.api_key import hash_of_key, make_key, setup_token
from paygent.server.routes import ACCESS
from paygent.store.ledger import SqlStore

# -- routes, as the application has them


def routes(service: Service) -> list[tuple[str, str, str]]:
    """Return method, path and access of every route of the API."""
    found = []
    for route in service.app.routes:
        if isinstance(route, APIRoute):
            access = (route.openapi_extra or {})[ACCESS]
            found += [(method, route.path, access) for method in sorted(route.methods or ())]
    assert len(found) > 30
    return found


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/config/plans"): {"plans": [{"name": "new"}]},
    ("PATCH", "/config/plans/{plan_id}"): {"price": 1},
    ("POST", "/users"): {"external_user_id": "new"},
    ("PATCH", "/users/{user_id}"): {"name": "B"},
    ("POST", "/users/{user_id}/subscription"): {"plan_id": "{plan_id}"},
    ("POST", "/users/{user_id}/overrides"): {
        "limit": "total_spend",
        "add": 1,
        "until": (NOW + timedelta(days=1)).isoformat(),
    },
    ("POST", "/keys"): {"scope": "read"},
    ("POST", "/events/batch"): [event()],
    ("POST", "/gate-events/batch"): [gate_event()],
    ("POST", "/revenue"): [],
    ("POST", "/sync"): {"holder": "p1", "number": 1, "events": [event()]},
    ("POST", "/leases"): {"questions": [{"user_id": "u1"}]},
}
"""A valid body of each route that takes one."""


class Objects:
    """The ids of one product's objects."""

    def __init__(self, service: Service) -> None:
        self.plan_id = service.plan()
        service.user("u1")
        body = BODIES["POST", "/users/{user_id}/overrides"]
        self.override_id = service.post("/users/u1/overrides", body).json()["id"]
        self.key_id = service.post("/keys", {"scope": "read"}).json()["id"]
        self.user_id = "u1"

    def fill(self, text: str) -> str:
        """Return a path, or a value of a body, with these ids."""
        return re.sub(r"\{(\w+)\}", lambda found: str(getattr(self, found.group(1))), text)

    def call(self, service: Service, method: str, path: str, key: str) -> Response:
        """Call a route of the API with these ids and a valid body."""
        body = BODIES.get((method, path.removeprefix(API)))
        if isinstance(body, dict):
            body = {
                name: self.fill(value) if isinstance(value, str) else value
                for name, value in body.items()
            }
        short = self.fill(path).removeprefix(API)
        options = {} if body is None else {"json": body}
        return service.call(method, short, key=key, **options)


def test_routes__without_a_key__answer_401(service: Service) -> None:
    """Every route that is not public needs a key, and says how."""
    objects = Objects(service)
    for method, path, access in routes(service):
        if access in ("sdk", "admin", "usage_token"):
            answer = objects.call(service, method, path, key="")
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")


def test_routes__with_another_products_key_and_these_ids__answer_404(service: Service) -> None:
    """Another product's ids do not exist, whatever the route; nothing of them changes."""
    objects = Objects(service)
    service.post("/users/u1/subscription", {"plan_id": objects.plan_id})
    before = service.get("/users/u1").json(), service.get("/config/plans").json()
    for method, path, access in routes(service):
        if access in ("sdk", "admin") and "{" in path:
            answer = objects.call(service, method, path, key="other")
            assert answer.status_code == 404, (method, path, answer.text)
    assert before == (service.get("/users/u1").json(), service.get("/config/plans").json())
    for path in ("/config/plans", "/users", "/revenue"):
        listed = next(iter(service.get(path, key="other").json().values()))
        assert listed == [], path
    own = service.get("/keys", key="other").json()["keys"]
    assert [key["hint"][:14] for key in own] == ["pg_live_other_"]
    (product,) = service.get("/products", key="other").json()["products"]
    assert product["id"] == "other"


def test_routes__every_body_has_a_sample(service: Service) -> None:
    """A new route with a body cannot be forgotten by the tests of this module."""
    paths = service.client.get(f"{API}/openapi.json").json()["paths"]
    needed = {
        (method.upper(), path.removeprefix(API))
        for path, item in paths.items()
        for method, operation in item.items()
        if operation.get("requestBody", {}).get("required")
    }
    assert needed - BODIES.keys() == {("POST", "/products")}


SDK_ROUTES = {
    "POST /events/batch",
    "POST /gate-events/batch",
    "POST /sync",
    "POST /leases",
    "GET /users/{user_id}/gate-events",
    "POST /users",
    "GET /users/{user_id}/session",
    "GET /users/{user_id}/usage",
    "GET /users/{user_id}/limits",
    "GET /reports/spend",
    "GET /reports/gates",
    "GET /reports/quality",
    "POST /users/{user_id}/usage-token",
    "GET /products",
}


def test_routes__by_scope__allow_what_the_scope_names(service: Service) -> None:
    """admin: everything; read: what is a GET; sdk: what an application's process needs."""
    objects = Objects(service)
    allowed: dict[str, set[str]] = {"sdk": set(), "read": set()}
    for method, path, access in routes(service):
        if access not in ("sdk", "admin"):
            continue
        name = f"{method} {path.removeprefix(API)}"
        for scope in ("sdk", "read"):
            answer = objects.call(service, method, path, key=scope)
            if answer.status_code == 403:
                assert f"the scope {scope} " in answer.json()["detail"]
                assert "insufficient_scope" in answer.headers["www-authenticate"]
            else:
                assert answer.status_code < 500
                allowed[scope].add(name)
    assert allowed["sdk"] == SDK_ROUTES
    assert allowed["read"] == {
        f"{method} {path.removeprefix(API)}"
        for method, path, access in routes(service)
        if method == "GET" and access in ("sdk", "admin")
    }
    for method, path, access in routes(service):
        if access in ("sdk", "admin"):  # last: it deletes
            answer = objects.call(service, method, path, key="admin")
            assert answer.status_code not in (401, 403), (method, path)


# -- keys


@contextmanager
def counted_queries(store: SqlStore) -> Iterator[list[str]]:
    """Count the transactions that a store begins."""
    begun: list[str] = []
    engine: Any = store.engine
    transaction = engine.transaction

    def counting(product_id: str, *, writes: bool = False) -> Any:
        begun.append(product_id)
        return transaction(product_id, writes=writes)

    engine.transaction = counting
    try:
        yield begun
    finally:
        del engine.transaction


@pytest.mark.parametrize(
    "key",
    [
        "pg_live_acme_" + "0" * 38,
        make_key("acme", bytes(32))[:-1] + "!",
        make_key("acme", bytes(32)).lower(),
        "' OR '1'='1' --",
        "pg_live_acme'; DROP TABLE events; --_" + "0" * 38,
        "x" * 5_000,
        "",
    ],
)
def test_key__wrong_checksum__is_refused_without_a_query(service: Service, key: str) -> None:
    """What is no key costs the database nothing."""
    with counted_queries(service.store) as begun:
        headers = {"Authorization": f"Bearer {key}"}
        answer = service.call("GET", "/users", key="", headers=headers)
    assert answer.status_code == 401
    assert begun == []


def test_key__valid__is_looked_up_once_a_moment(store: SqlStore) -> None:
    """A key is trusted for a moment, and so is that there is no such key."""
    with serving(store, key_cache_s=60.0) as service, counted_queries(store) as begun:
        for _ in range(3):
            assert service.get("/keys", key="other").status_code == 200
        assert len(begun) == 1 + 3  # the key once, its list each time
        begun.clear()
        headers = {"Authorization": f"Bearer {make_key('acme', bytes(32))}"}
        for _ in range(3):
            assert service.call("GET", "/keys", key="", headers=headers).status_code == 401
        assert len(begun) == 1


def test_bearer__with_sql__is_refused_and_harmless(service: Service) -> None:
    """SQL in a bearer token, a path or a body is text."""
    bearers = ["' OR 1=1 --", "x'; DROP TABLE users; --", make_key("acme", bytes(32)) + "' OR '1"]
    for bearer in bearers:
        headers = {"Authorization": f"Bearer {bearer}"}
        assert service.call("GET", "/users", key="", headers=headers).status_code == 401
    odd = "'; DELETE FROM users; --"
    service.user(odd)
    assert service.get("/users/%27%3B%20DELETE%20FROM%20users%3B%20--").status_code == 200
    found = service.get("/users", params={"search": "' OR '1'='1", "plan": "'; --"})
    assert found.json()["users"] == []
    assert [user["external_user_id"] for user in service.get("/users").json()["users"]] == [odd]


def test_authorization__other_schemes_and_spaces__are_read_as_the_standard_says(
    service: Service,
) -> None:
    """The scheme is case-insensitive; other schemes are no key."""
    key = service.keys["admin"]
    for header, status in (
        (f"bearer {key}", 200),
        (f"BEARER   {key}  ", 200),
        (f"Basic {key}", 401),
        (key, 401),
        ("Bearer", 401),
    ):
        answer = service.call("GET", "/keys", key="", headers={"Authorization": header})
        assert answer.status_code == status, header


def test_key__revoked__is_refused_by_the_server_that_revoked_it_at_once(store: SqlStore) -> None:
    """The server that revokes a key does not wait for its cache."""
    with serving(store, key_cache_s=0.9) as service:
        created = service.post("/keys", {"scope": "read", "name": "ci"}).json()
        service.keys["ci"] = created["api_key"]
        assert service.get("/keys", key="ci").status_code == 200
        revoked = service.call("DELETE", f"/keys/{created['id']}").json()
        assert revoked["revoked_at"] is not None
        assert "api_key" not in revoked
        assert service.get("/keys", key="ci").status_code == 401
        assert service.call("DELETE", "/keys/key_none").status_code == 404


def test_key__rotated__the_new_one_works_and_the_old_one_does_not(service: Service) -> None:
    """Rotation keeps scope and name; a revoked key is not rotated."""
    created = service.post("/keys", {"scope": "sdk", "name": "app"}).json()
    rotated = service.post(f"/keys/{created['id']}/rotate").json()
    assert (rotated["scope"], rotated["name"]) == ("sdk", "app")
    service.keys |= {"old": created["api_key"], "new": rotated["api_key"]}
    assert service.get("/products", key="old").status_code == 401
    assert service.get("/products", key="new").status_code == 200
    assert service.post(f"/keys/{created['id']}/rotate").status_code == 409


def test_keys__in_database_and_lists__are_hashes_and_hints(service: Service) -> None:
    """The text of a key is in no row and in no later answer."""
    created = service.post("/keys", {"scope": "sdk"}).json()
    text = created["api_key"]
    engine: Any = service.store.engine
    with sqlite3.connect(engine._path) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert hash_of_key(text) in dump
    assert text not in dump
    assert text not in service.get("/keys").text
    assert text.startswith(created["hint"].rstrip("…"))


# -- products


def create_product(service: Service, **headers: str) -> Response:
    """Ask for another product, without a key."""
    body = {"name": "New", "contact_email": "ops@example.com"}
    return service.call("POST", "/products", key="", json=body, headers=headers)


def test_products__from_loopback__only_while_there_is_none(store: SqlStore) -> None:
    """The first product needs no token on the server's own machine; the second one does."""
    from fastapi.testclient import TestClient
    from tests.integration.server.service import LOOPBACK

    from paygent.server.app import create_app
    from paygent.server.settings import ServerSettings

    app = create_app(store, ServerSettings(database_url="sqlite:///unused"))
    with TestClient(app, client=ELSEWHERE) as far, TestClient(app, client=LOOPBACK) as near:
        path, body = f"{API}/products", {"name": "First"}
        assert far.post(path, json=body).status_code == 403
        assert (
            far.post(path, json=body, headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403
        )
        # A proxy on this machine forwards what comes from elsewhere.
        assert near.post(path, json=body, headers={"X-Forwarded-For": "::1"}).status_code == 403
        # A page in a browser on this machine may send JSON as text, without asking first.
        for headers in ({"Origin": "https://example.com"}, {"Sec-Fetch-Site": "cross-site"}):
            typed = {"Content-Type": "text/plain", **headers}
            assert near.post(path, content='{"name": "First"}', headers=typed).status_code == 403
        created = near.post(path, json=body)
        assert created.status_code == 201
        assert near.post(path, json=body).status_code == 403
        headers = {"Authorization": f"Bearer {created.json()['api_key']}"}
        assert near.get(path, headers=headers).json()["products"][0]["name"] == "First"
        assert near.get(f"{API}/keys", headers=headers).json()["keys"][0]["scope"] == "admin"


def test_products__with_the_setup_token__are_created_from_anywhere(store: SqlStore) -> None:
    """The token opens the route; a wrong one closes it, also on loopback."""
    with serving(store, peer=ELSEWHERE) as service:
        assert create_product(service).status_code == 403
        assert create_product(service, **{"X-Setup-Token": "guess"}).status_code == 403
        token = setup_token(store.server_secret("setup"))
        created = create_product(service, **{"X-Setup-Token": token})
        assert created.status_code == 201
        assert set(created.json()) == {
            "id", "name", "slug", "contact_name", "contact_email", "timezone", "created_at",
            "api_key",
        }  # fmt: skip


def test_host_header__forged__appears_in_no_answer(service: Service) -> None:
    """No address is ever built from the request, not even a redirect."""
    host = "evil.example.net"
    forged = {"Host": host, "X-Forwarded-Host": host, "Forwarded": f"host={host}"}
    Objects(service)
    for path in (
        "/users",
        "/users/",
        "/nothing/",
        "/config/plans",
        "/openapi.json",
        "/users?limit=0",
    ):
        answer = service.get(path, headers=forged, follow_redirects=False)
        assert answer.status_code not in range(300, 400), path
        assert host not in answer.text
        assert all(host not in value for value in answer.headers.values())
    created = service.post("/users", {"external_user_id": "u2"}, headers=forged)
    assert "location" not in created.headers


# -- usage tokens


def test_usage_token__shows_its_user_alone_until_it_ends(any_service: Service) -> None:
    """A token is good for GET /usage of one user; it opens nothing else, and it ends."""
    service = any_service
    plan_id = service.plan(max_spend_per_period=1, model_limits={"gpt-4o": 3_000})
    service.user("u1")
    period = {"period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z"}
    service.post("/users/u1/subscription", {"plan_id": plan_id, **period})
    service.book(event(1), event(2, user_id="u2"))
    answer = service.post("/users/u1/usage-token", {"expires_in_s": 60}, key="sdk")
    assert answer.status_code == 201
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    usage = service.call("GET", "/usage", key="", headers=bearer).json()
    assert (usage["user_id"], usage["current_usage"]["period_cost"]) == ("u1", 0.1)
    limits = {limit["metric"]: limit for limit in usage["limits"]}
    assert (limits["spend"]["used"], limits["spend"]["cap"]) == (0.1, 1.0)
    assert (limits["tokens"]["used"], limits["tokens"]["cap"]) == (1_500, 3_000)
    assert limits["spend"]["resets_at"] == "2026-12-01T00:00:00+00:00"
    assert service.call("GET", "/users/u1/usage", key="", headers=bearer).status_code == 401
    service.now_us += 60 * 10**6
    assert service.call("GET", "/usage", key="", headers=bearer).status_code == 401


def test_usage_token__of_an_erased_user__shows_no_later_user_of_the_id(
    any_service: Service,
) -> None:
    """A token ends with its user: whoever is created under the id is another one."""
    service = any_service

    def bearer_of_user() -> dict[str, str]:
        token = service.post("/users/u1/usage-token", {"expires_in_s": 86_400}).json()["token"]
        return {"Authorization": f"Bearer {token}"}

    service.user("u1")
    old = bearer_of_user()
    assert service.call("DELETE", "/users/u1").status_code == 200
    service.user("u1", name="another person")
    assert service.call("GET", "/usage", key="", headers=old).status_code == 404
    new = bearer_of_user()
    assert service.call("GET", "/usage", key="", headers=new).json()["user_id"] == "u1"
    assert service.call("GET", "/usage", key="", headers=old).status_code == 404


def test_usage_token__changed__is_refused(service: Service) -> None:
    """A token for another user cannot be made of one's own."""
    import base64

    service.user("u1")
    token = service.post("/users/u1/usage-token").json()["token"]
    body, _, signature = token.removeprefix("pg_usage_").partition(".")
    decoded = base64.urlsafe_b64decode(body + "==").decode()
    forged = base64.urlsafe_b64encode(decoded.replace("u1", "u2").encode()).decode().rstrip("=")
    for odd in (f"pg_usage_{forged}.{signature}", f"pg_usage_{body}.", "pg_usage_", token + "x"):
        bearer = {"Authorization": f"Bearer {odd}"}
        assert service.call("GET", "/usage", key="", headers=bearer).status_code == 401
    assert service.get("/usage", key="admin").status_code == 401
