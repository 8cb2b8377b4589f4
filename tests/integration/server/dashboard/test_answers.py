"""What all answers have: headers that protect, files that stay, errors and logs without secrets."""

from __future__ import annotations

import gzip
import json
import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from tests.integration.server.dashboard.browser import FORM, ORIGIN, Browser, Page, signed_in
from tests.integration.server.dashboard.objects import Objects
from tests.integration.server.service import NOW_US, Service, serving
from tests.postgres import Cluster

import paygent.server.dashboard
from paygent.server.dashboard.assets import assets
from paygent.server.dashboard.routes import ACTIONS, PAGES
from paygent.server.logs import JsonLines
from paygent.store.port import StoreUnavailable
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore

STATIC = Path(paygent.server.dashboard.__file__).parent / "static"
SOURCES = {
    "app.css": ("vendor/uPlot.min.css", "app.css"),
    "app.js": ("vendor/htmx.min.js", "vendor/hx-csp.min.js", "app.js"),
    "chart.js": ("vendor/uPlot.iife.min.js", "chart.js"),
    "icon.svg": ("icon.svg",),
}
"""What each file that is served is made of."""

POLICY = (
    "default-src 'none'; script-src 'nonce-NONCE'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none';"
    " require-trusted-types-for 'script'; trusted-types htmx"
)
SECRET = "s3cret-of-the-test"


def nonce_of(answer: Response) -> str:
    """Return the nonce of an answer's policy."""
    found = re.search(r"'nonce-([A-Za-z0-9_-]{22})'", answer.headers["content-security-policy"])
    assert found is not None
    return found.group(1)


def assert_protected(answer: Response) -> None:
    """Check the headers of a page, and that its scripts have the nonce of its policy."""
    headers = answer.headers
    nonce = nonce_of(answer)
    assert headers["content-security-policy"] == POLICY.replace("NONCE", nonce)
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert {"HX-Request", "HX-Request-Type"} <= set(headers["vary"].split(", "))
    assert len(headers.get_list("content-security-policy")) == 1
    page = Page(answer)
    assert {each.attributes["nonce"] for each in page.all("script")} <= {nonce}
    assert not page.all("style")


# -- headers


def test_pages__have_the_headers_that_protect_them(browser: Browser, service: Service) -> None:
    """Every page, fragment, error, login and answer of an action; each has a nonce of its own."""
    objects = Objects(service)
    pages = [each for path in PAGES if path != "/export" for each in objects.addresses[path]]
    refused = ["/user?id=nobody", "/users?sort=x", "/?from=x", "/call?id=x&user=x", "/export?by=x"]
    nonces = []
    for address in (*pages, *refused, "/login", "/usage?token=x", "/static/nothing"):
        for headers in ({}, {"HX-Request": "true", "HX-Request-Type": "partial"}):
            answer = browser.get(address, headers=headers)
            assert_protected(answer)
            nonces.append(nonce_of(answer))
    for path in [each for each in ACTIONS if each != "/plan/replay"]:
        for token in ("", browser.token):
            form = {**objects.forms[path], "csrf_token": token}
            answer = browser.send(path, form, headers={"HX-Request": "true"})
            if answer.status_code != 204:
                assert_protected(answer)
                nonces.append(nonce_of(answer))
    assert len(set(nonces)) == len(nonces) > 80


def test_pages__with_a_nonce_that_was_sent__have_another(browser: Browser) -> None:
    """The nonce is the server's own, whatever a request says."""
    given = nonce_of(browser.get("/"))
    for address in (f"/?nonce={given}", f"/users?search={given}"):
        headers = {"nonce": given, "HX-Nonce": given}
        assert nonce_of(browser.get(address, headers=headers)) != given


# -- files


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate, br", "identity", ""])
def test_static__is_the_sum_of_its_sources_and_stays(
    service: Service, name: str, encoding: str
) -> None:
    """What is served is what is in the repository; its name changes with it, so it is kept."""
    address = f"/static/{assets()[name].address}"
    headers = {"Accept-Encoding": encoding}
    stream = Browser(service).client.stream("GET", address, headers=headers)
    with stream as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers.get("content-encoding") == ("gzip" if "gzip" in encoding else None)
    assert int(answer.headers["content-length"]) == len(sent)
    content = gzip.decompress(sent) if "gzip" in encoding else sent
    assert content == b"\n".join([(STATIC / part).read_bytes() for part in SOURCES[name]])


def test_static__every_file_that_pages_load__is_served(browser: Browser) -> None:
    """Pages load nothing but these files of this server."""
    page = browser.page("/")
    loaded = {each.attributes["src"] for each in page.all("script")}
    loaded |= {each.attributes["href"] for each in page.all("link")}
    assert loaded == {f"/static/{asset.address}" for asset in assets().values()}
    for address in loaded:
        assert browser.get(address).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../assets.py",
            "..%2fassets.py",
            "%2e%2e/assets.py",
            "%2e%2e%2fassets.py",
            "..\\assets.py",
        ),
        *("vendor/htmx.min.js", "vendor%2fhtmx.min.js", "app.js", "app.css", "", "%00"),
        *("..%c0%af..%c0%afassets.py", "..%252fassets.py", "/etc/passwd", "%2fetc%2fpasswd"),
        *("app.000000000000.js", "x" * 5_000, "icon.svg%00.js", "//assets.py", "C:\\assets.py"),
    ],
)
def test_static__of_another_path__is_not_found(service: Service, name: str) -> None:
    """Files are found by their names in a table, so no path leads anywhere else."""
    raw = f"/static/{name}"
    answer = Browser(service).client.request("GET", ORIGIN + raw)
    assert answer.status_code in (400, 404)
    assert "import" not in answer.text
    assert "root:" not in answer.text


# -- errors


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("is_signed_in", [True, False])
def test_unknown_address__for_a_person__is_a_page(
    browser: Browser, service: Service, is_signed_in: bool
) -> None:
    """It leads on to the overview, is protected as all pages are, and repeats nothing of what was
    asked for.
    """
    person = browser if is_signed_in else Browser(service)
    for address in ("/nothing", "/users/", "/user/%3Cb%3Ex", "/nothing?range=<b>"):
        answer = person.get(address, headers=BROWSER)
        assert_protected(answer)
        page = Page(answer)
        assert (answer.status_code, page.one("h1").text) == (404, "There is no such page.")
        assert "<b>" not in answer.text
        assert "%3Cb" not in answer.text
    answer = person.get("/logout", headers=BROWSER)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert Page(answer).one("h1").text == "There is no such page."
    assert "Accept" in answer.headers["vary"].split(", ")
    assert_protected(answer)


def test_unknown_address__for_a_program__is_a_problem(service: Service) -> None:
    """So is one of REST for anybody."""
    client = Browser(service)
    of_rest = [(address, BROWSER) for address in ("/api/v1/nothing", "/api/v2/users", "/api")]
    for address, headers in [("/nothing", {}), *of_rest]:
        answer = client.get(address, headers=headers)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "There is no such route."


def test_action__while_the_store_is_locked__is_a_page_to_try_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """503 says when, the log says why, and the page says neither."""
    store = SqliteStore(
        str(tmp_path / "server.db"), readers=4, busy_wait_s=0.05, now_us=lambda: NOW_US
    )
    store.open()
    with serving(store) as service:
        browser = signed_in(service)
        form = Objects(service).forms["/user/pause"]
        lock = sqlite3.connect(tmp_path / "server.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        answer = browser.post("/user/pause", form)
        lock.execute("ROLLBACK")
        lock.close()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert_protected(answer)
        assert "database cannot be used" in Page(answer).one("h1").text
        assert "locked" not in answer.text
        assert any("the store is unavailable" in each.message for each in caplog.records)
        assert browser.post("/user/pause", form).status_code == 303
    store.close()


@pytest.mark.parametrize("path", [*PAGES, "/login", "/usage"])
@pytest.mark.parametrize("fault", [RuntimeError, StoreUnavailable])
def test_pages__that_fail__are_pages_without_the_reason(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str, fault: type[Exception]
) -> None:
    """An error in any page is a page; its reason is in the log alone."""
    browser = signed_in(service)

    def fail(*_: Any, **__: Any) -> Any:
        raise fault(SECRET)

    monkeypatch.setattr(service.app.state.backend, "server_secret", fail)
    monkeypatch.setattr(service.store, "login", fail)
    answer = browser.get(f"{path}?id=x&token=pg_usage_x.y")
    assert answer.status_code == (503 if fault is StoreUnavailable else 500)
    assert_protected(answer)
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_action__that_fails__is_a_page_without_the_reason(
    service: Service, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of an action, with and without htmx."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    form = Objects(service).forms["/user/pause"]
    monkeypatch.setattr(service.store, "change_user", fail)
    for headers in ({}, {"HX-Request": "true", "HX-Request-Type": "partial"}):
        answer = browser.post("/user/pause", form, headers=headers)
        assert answer.status_code == 500
        assert_protected(answer)
        assert SECRET not in answer.text


def test_rest__that_fails__answers_with_json(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are for browsers: programs get a problem as before."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service.store, "keys", fail)
    answer = service.get("/keys")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/user?id=nobody", 404),
        ("/call?id=x&user=y", 404),
        ("/user", 422),
        ("/user?id=a%00", 422),
        ("/users?search=a%00", 422),
        ("/users?sort=evil", 422),
        ("/users?cursor=x", 422),
        ("/users?sort=user&cursor=WyJcdTAwMDAiXQ", 422),
        ("/?from=2026-02-30&to=2026-03-01", 422),
        ("/?from=0001-01-01&to=9999-12-31", 422),
        ("/?range=1000d", 422),
        ("/?group=user", 422),
        ("/?plan=%00", 422),
        ("/export?report=keys", 422),
        ("/export?by=user,model,plan", 422),
        ("/export?report=calls", 422),
        ("/export?report=calls&id=nobody", 404),
        ("/price", 422),
        ("/plan?name=%00", 422),
        ("/usage", 401),
        ("/usage?token=pg_usage_x.y", 401),
        ("/usage?token=%E2%82%AC", 401),
        ("/usage?token=pg_usage_%00", 401),
    ],
)
def test_pages__with_a_wrong_address__say_what_is_wrong(
    any_service: Service, address: str, status: int
) -> None:
    """A mistake in an address is a page with the rule, on each engine."""
    answer = signed_in(any_service).get(address)
    assert answer.status_code == status
    assert_protected(answer)


def test_pages__with_nul_in_an_id__find_nothing(postgres: Cluster) -> None:
    """PostgreSQL has no NUL in a text; a page that asks for one fails no query."""
    store = PostgresStore(postgres.new_database(), now_us=lambda: NOW_US)
    store.open()
    with serving(store) as service:
        browser = signed_in(service)
        assert browser.get("/call?id=a%00&user=b").status_code == 404
        assert browser.get("/export?by=tag:%00").status_code in (200, 422)
        for path, name in (("/views/delete", "view"), ("/keys/revoke", "key")):
            assert browser.post(path, {name: "a\0b"}).status_code == 422
            assert browser.post(path, {name: "\U0001f600" * 300}).status_code == 404
    store.close()


# -- logs


def test_logs__of_every_page_and_action__have_no_secret_and_no_text(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Route, status and time are logged: no key, cookie, token, query, id or value of a form."""
    objects = Objects(service, mark=f" {SECRET}")
    with caplog.at_level(logging.DEBUG, logger="paygent"), caplog.at_level(logging.INFO):
        browser = signed_in(service)
        Browser(service).login(f"pg_live_{SECRET}")
        Browser(service).get(f"/?session={SECRET}", headers={"Cookie": f"paygent_session={SECRET}"})
        for path in PAGES:
            for address in objects.addresses[path]:
                browser.get(address)
                browser.get(f"{address}{'&' if '?' in address else '?'}sort={SECRET}")
        made = browser.post("/keys/create", {"scope": "admin", "name": SECRET})
        link = browser.post("/user/usage-link", {"id": objects.user_id})
        address = Page(link).one("a", hx_boost="false").attributes["href"]
        Browser(service).get(address.removeprefix(ORIGIN))
        for path, form in objects.forms.items():
            browser.post(path, form)
            browser.post(path, {name: f"{value}{SECRET}" for name, value in form.items()})
            browser.client.post(path, content=SECRET, headers={"Content-Type": FORM})
        session = browser.session.partition(".")[2]
        browser.post("/logout")
    lines = [
        JsonLines().format(each)
        for each in caplog.records
        if not each.name.startswith("httpx")  # the test's own client
    ]
    assert len(lines) > 80
    made_key = Page(made).one("p", class_="secret").text
    token = address.partition("token=")[2]
    for secret in (SECRET, made_key, token, session, browser.token, *service.keys.values()):
        assert secret
        assert not [line for line in lines if secret in line]
    routes = {json.loads(line).get("route") for line in lines}
    assert {*PAGES, *ACTIONS, "/login", "/logout", "/usage"} <= routes
