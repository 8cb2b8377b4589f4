"""Sign-in and protection of writes: cookies, tries, tokens and origins."""

from __future__ import annotations

import hashlib

import pytest
from starlette.datastructures import Headers
from tests.unit.server.dashboard.conftest import PRODUCT

from paygent.core.api_key import RANDOM_BYTES, make_key
from paygent.server.api.products import create_key
from paygent.server.auth import KeyCache
from paygent.server.backend import Backend
from paygent.server.dashboard import sessions as module
from paygent.server.dashboard.sessions import (
    COOKIE,
    CSRF_FIELD,
    SESSION_S,
    TRIES_MAX,
    TRIES_S,
    Sessions,
    check_origin,
    check_token,
    cookie,
    set_cookie,
)
from paygent.server.problems import Problem
from paygent.store.directory_port import Scope
from paygent.store.sqlite import SqliteStore

HERE = "203.0.113.1"


class Clock:
    """A clock in seconds that a test sets."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    """The clock of failed sign-ins."""
    return Clock()


@pytest.fixture
def sessions(backend: Backend, clock: Clock) -> Sessions:
    """Sessions over the store."""
    return Sessions(backend, KeyCache(backend), clock)


def key_of(store: SqliteStore, scope: Scope = "admin") -> str:
    """Return the text of a new key."""
    return create_key(store, PRODUCT, scope, scope)[1]


def headers_with(value: str, name: str = COOKIE) -> Headers:
    """Return the headers of a request with a cookie."""
    return Headers({"cookie": f"{name}={value}"})


async def opened(sessions: Sessions, key: str) -> str:
    """Return the cookie of a session that is opened."""
    value = await sessions.open(key, HERE)
    assert value is not None
    return value


async def status_of(sessions: Sessions, key: str = "x", address: str = HERE) -> int:
    """Return the status with which a sign-in fails."""
    try:
        return 200 if await sessions.open(key, address) else 401
    except Problem as problem:
        return problem.status_code


# -- sessions


async def test_open__an_admin_key__is_a_session_of_its_product(
    sessions: Sessions, store: SqliteStore, backend: Backend
) -> None:
    """With the key that opened it, for twelve hours; white space around the key does not matter."""
    value = await opened(sessions, f" {key_of(store)}\n")
    session = await sessions.find(headers_with(value))
    assert session is not None
    (key,) = store.keys(PRODUCT)
    assert session.tenant.product == PRODUCT
    assert (session.tenant.scope, session.tenant.key_id) == ("admin", key.key_id)
    secret = value.removeprefix(f"{PRODUCT}.")
    login = store.login(PRODUCT, hashlib.sha256(secret.encode()).hexdigest())
    assert login is not None
    assert login.expires_us == backend.now_us() + SESSION_S * 10**6
    assert store.login(PRODUCT, secret) is None  # the store has the hash alone


async def test_open__twice__are_two_sessions(sessions: Sessions, store: SqliteStore) -> None:
    """A session is never taken over from what a browser had: signing in makes a new secret."""
    key = key_of(store)
    first, second = [await opened(sessions, key) for _ in range(2)]
    found = [await sessions.find(headers_with(value)) for value in (first, second)]
    tokens = {session.csrf_token for session in found if session is not None}
    assert len({first, second}) == len(tokens) == 2
    await sessions.close(headers_with(first))
    assert await sessions.find(headers_with(first)) is None
    assert await sessions.find(headers_with(second)) is not None


@pytest.mark.parametrize("scope", ["sdk", "read"])
async def test_open__a_key_of_another_scope__is_refused(
    sessions: Sessions, store: SqliteStore, scope: Scope
) -> None:
    """The dashboard changes plans and erases users."""
    assert await sessions.open(key_of(store, scope), HERE) is None


async def test_open__another_text__is_refused(sessions: Sessions, store: SqliteStore) -> None:
    """No key, one that is unknown, revoked or of an unknown product, and a text without end."""
    revoked = key_of(store)
    (key,) = store.keys(PRODUCT)
    store.revoke_key(PRODUCT, key.key_id)
    unknown = make_key(PRODUCT, bytes(RANDOM_BYTES))
    elsewhere = make_key("globex", bytes(RANDOM_BYTES))
    for text in ("", "x", "pg_live_x", revoked, unknown, elsewhere, key_of(store) + " " * 3 + "x"):
        assert await sessions.open(text, text) is None
    assert await sessions.open("x" * 100_000, HERE) is None


async def test_find__after_the_key_was_revoked__is_none(
    sessions: Sessions, store: SqliteStore
) -> None:
    """A session is worth no more than its key."""
    value = await opened(sessions, key_of(store))
    (key,) = store.keys(PRODUCT)
    store.revoke_key(PRODUCT, key.key_id)
    assert await sessions.find(headers_with(value)) is None


async def test_find__another_cookie__is_none(sessions: Sessions, store: SqliteStore) -> None:
    """Also one with the secret of another product's session, and texts that are no cookie."""
    store.add_product("Globex", product_id="globex")
    value = await opened(sessions, key_of(store))
    secret = value.partition(".")[2]
    for text in (
        *("", ".", secret, f".{secret}", f"globex.{secret}", f"{PRODUCT}.", f"{PRODUCT}.x"),
        *(f"{value}x", value[:-1], value.upper(), f"{PRODUCT}'--.{secret}", f"é.{secret}"),
    ):
        assert await sessions.find(headers_with(text)) is None
        await sessions.close(headers_with(text))
    assert await sessions.find(Headers({})) is None
    await sessions.close(Headers({}))
    assert await sessions.find(headers_with(value)) is not None


# -- tries


async def test_open__ten_failures__refuse_the_address_for_a_minute(
    sessions: Sessions, store: SqliteStore, clock: Clock
) -> None:
    """Also with the right key; other addresses go on; the answer says when to try again."""
    key = key_of(store)
    for _ in range(TRIES_MAX):
        assert await status_of(sessions) == 401
        clock.at_s += 1
    with pytest.raises(Problem) as caught:
        await sessions.open(key, HERE)
    assert (caught.value.status_code, caught.value.headers) == (429, {"Retry-After": "51"})
    assert await status_of(sessions, key, "203.0.113.2") == 200
    clock.at_s += TRIES_S - TRIES_MAX - 0.5
    assert await status_of(sessions, key) == 429
    clock.at_s += 0.5  # the first failure is a minute old
    assert await status_of(sessions) == 401
    assert await status_of(sessions) == 429


async def test_open__while_refused__does_not_prolong_it(
    sessions: Sessions, store: SqliteStore, clock: Clock
) -> None:
    """A person who tries on is not locked out for good."""
    for _ in range(TRIES_MAX):
        await status_of(sessions)
    for _ in range(100):
        assert await status_of(sessions) == 429
    clock.at_s += TRIES_S
    assert await status_of(sessions, key_of(store)) == 200


async def test_open__a_success__forgets_the_failures(
    sessions: Sessions, store: SqliteStore
) -> None:
    """Typing errors of the past do not count."""
    for _ in range(3):
        for _ in range(TRIES_MAX - 1):
            assert await status_of(sessions) == 401
        assert await status_of(sessions, key_of(store)) == 200


async def test_open__failures_of_many_addresses__are_bounded(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has many addresses does not fill the memory; the oldest is forgotten."""
    monkeypatch.setattr(module, "_ADDRESSES_MAX", 5)
    for number in range(20):
        await status_of(sessions, address=str(number))
    assert list(sessions._failed) == ["15", "16", "17", "18", "19"]
    for _ in range(3 * TRIES_MAX):
        await status_of(sessions)
    assert len(sessions._failed[HERE]) == TRIES_MAX


# -- protection of writes


ORIGIN = {"host": "pg.example:8080", "origin": "https://pg.example:8080"}


@pytest.mark.parametrize(
    "headers",
    [
        ORIGIN,
        {**ORIGIN, "origin": "http://pg.example:8080"},
        {**ORIGIN, "origin": "https://PG.Example:8080"},
        {**ORIGIN, "sec-fetch-site": "same-origin"},
    ],
)
def test_check_origin__a_page_of_this_server__passes(headers: dict[str, str]) -> None:
    """Behind a proxy the scheme is another; old browsers do not send `Sec-Fetch-Site`."""
    check_origin(Headers(headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "pg.example:8080"},
        {"host": "", "origin": ""},
        {"origin": "https://pg.example:8080"},
        {**ORIGIN, "origin": "null"},
        {**ORIGIN, "origin": "https://evil.example"},
        {**ORIGIN, "origin": "https://pg.example"},
        {**ORIGIN, "origin": "https://pg.example:8081"},
        {**ORIGIN, "origin": "https://sub.pg.example:8080"},
        {**ORIGIN, "origin": "https://pg.example:8080.evil.example"},
        {**ORIGIN, "origin": "https://pg.example:8080@evil.example"},
        {**ORIGIN, "origin": "https://evil.example@pg.example:8080"},
        {**ORIGIN, "origin": "pg.example:8080"},
        {**ORIGIN, "origin": "https://[pg.example:8080"},
        {**ORIGIN, "sec-fetch-site": "cross-site"},
        {**ORIGIN, "sec-fetch-site": "same-site"},
        {**ORIGIN, "sec-fetch-site": "none"},
        {**ORIGIN, "sec-fetch-site": ""},
    ],
)
def test_check_origin__anything_else__is_refused(headers: dict[str, str]) -> None:
    """A write without an origin was not sent by a page of a browser of today."""
    with pytest.raises(Problem) as caught:
        check_origin(Headers(headers))
    assert (caught.value.status_code, caught.value.code) == (403, "cross-origin")


async def test_check_token__the_token_of_the_session__passes(
    sessions: Sessions, store: SqliteStore
) -> None:
    """It belongs to one session and one purpose, and is no secret of the cookie."""
    value = await opened(sessions, key_of(store))
    session = await sessions.find(headers_with(value))
    assert session is not None
    check_token({CSRF_FIELD: session.csrf_token}, session.csrf_token)
    secret = value.partition(".")[2]
    assert session.csrf_token == await sessions.token("session", secret)
    assert secret not in session.csrf_token
    assert await sessions.token("login", secret) != session.csrf_token
    assert await sessions.token("session", secret + "x") != session.csrf_token


@pytest.mark.parametrize(
    "form",
    [
        {},
        {CSRF_FIELD: ""},
        {CSRF_FIELD: "tokem"},
        {CSRF_FIELD: "token "},
        {CSRF_FIELD: "TOKEN"},
        {CSRF_FIELD: "tökèn\ud800"},
        {"CSRF_TOKEN": "token"},
    ],
)
def test_check_token__another_one__is_refused(form: dict[str, str]) -> None:
    """Also a text that no encoding has."""
    with pytest.raises(Problem) as caught:
        check_token(form, "token")
    assert (caught.value.status_code, caught.value.code) == (403, "csrf")


# -- cookies


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([], ""),
        (["a=1"], "1"),
        (["b=2; a=1"], "1"),
        (["b=2;a=1 ;c"], "1"),
        (["b=2", "a=1"], "1"),
        (["aa=2; xa=3"], ""),
        (["a"], ""),
        (["a=x=y"], "x=y"),
        (["a=1; a=2"], "1"),
        ([f"a={'x' * 201}"], ""),
        ([f"a={'x' * 200}"], "x" * 200),
        ([f"a={'x' * 201}; a=1"], "1"),
    ],
)
def test_cookie__of_the_headers__is_the_first_of_its_name(sent: list[str], expected: str) -> None:
    """Headers may be several; one that is too long is none of this server's."""
    headers = Headers(raw=[(b"cookie", each.encode()) for each in sent])
    assert cookie(headers, "a") == expected


def attributes(text: str) -> set[str]:
    """Return the attributes of a cookie, in lower case."""
    return {part.strip().lower() for part in text.split(";")[1:]}


def test_set_cookie__over_https__is_secure_and_out_of_reach_of_scripts() -> None:
    """A browser that came by HTTPS says so, also where a proxy is between."""
    text = set_cookie(Headers({"origin": "https://pg.example"}), "a", "v", max_age_s=60)
    assert text.startswith("a=v;")
    expected = {"path=/", "max-age=60", "httponly", "samesite=lax", "secure"}
    assert attributes(text) == expected


def test_set_cookie__over_http__is_not_secure() -> None:
    """A browser would drop it; of the machine itself a server may be asked by HTTP."""
    strict = set_cookie(Headers({"origin": "http://x"}), "a", "", max_age_s=0, is_strict=True)
    assert attributes(strict) == {"path=/", "max-age=0", "httponly", "samesite=strict"}
    assert "secure" not in attributes(set_cookie(Headers({}), "a", "v", max_age_s=1))
