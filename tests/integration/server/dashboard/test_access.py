"""Who may see the dashboard: sessions by admin key, their cookies and end, and failed sign-ins."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from httpx import Response
from tests.integration.server.dashboard.browser import ORIGIN, Browser, Page, signed_in
from tests.integration.server.dashboard.objects import Objects, content
from tests.integration.server.service import ELSEWHERE, NOW_US, Service, serving

from paygent.server.dashboard.routes import ACTIONS, PAGES
from paygent.server.dashboard.sessions import LOGIN_S, SESSION_S, TRIES_MAX, TRIES_S
from paygent.server.dashboard.site import local_address
from paygent.store.sqlite import SqliteStore


def cookies(answer: Response) -> dict[str, str]:
    """Return the cookies that an answer sets, by name, with their attributes."""
    texts = answer.headers.get_list("set-cookie")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def sees_pages(browser: Browser) -> bool:
    """Return whether a browser is signed in."""
    return browser.get("/users").status_code == 200


# -- without a session


def test_objects__of_these_tests__cover_every_page_and_action(service: Service) -> None:
    """A new page or action cannot be forgotten by the tests of this folder."""
    objects = Objects(service)
    assert objects.addresses.keys() == PAGES.keys()
    assert objects.forms.keys() == ACTIONS.keys()


@pytest.mark.parametrize("path", PAGES)
def test_pages__without_a_session__lead_to_the_login_with_the_address(
    service: Service, path: str
) -> None:
    """No page is open, and after the login one is where one wanted to be."""
    address = f"{path}?id=a%26b&range=7d"
    answer = Browser(service).get(address)
    assert (answer.status_code, answer.text) == (303, "")
    assert answer.headers["location"] == f"/login?next={quote(address, safe='')}"


@pytest.mark.parametrize("path", ACTIONS)
def test_actions__without_a_session__change_nothing(
    service: Service, tmp_path: Path, path: str
) -> None:
    """A valid form without a session leads to the login, whatever token it has."""
    browser = Browser(service)
    token = browser.page("/login").form("/login").fields["csrf_token"]
    form = Objects(service).forms[path]
    before = content(tmp_path)
    answer = browser.send(path, {**form, "csrf_token": token})
    assert (answer.status_code, answer.text) == (303, "")
    assert answer.headers["location"] == "/login"
    assert content(tmp_path) == before


@pytest.mark.parametrize("path", ["/users", "/user/pause"])
def test_htmx__without_a_session__leaves_the_page_for_the_login(
    service: Service, path: str
) -> None:
    """htmx would put a redirect's page into the one that is shown."""
    browser, headers = Browser(service), {"HX-Request": "true"}
    if path == "/users":
        answer = browser.get(path, headers=headers)
    else:
        answer = browser.send(path, headers=headers)
    assert (answer.status_code, answer.text) == (204, "")
    assert answer.headers["hx-redirect"].startswith("/login")


# -- keys


@pytest.mark.parametrize("scope", ["sdk", "read"])
def test_login__with_a_key_of_another_scope__is_refused(service: Service, scope: str) -> None:
    """The dashboard changes things, so it needs an admin key."""
    browser = Browser(service)
    answer = browser.login(service.keys[scope])
    assert answer.status_code == 401
    assert "no valid admin key" in answer.text
    assert service.keys[scope] not in answer.text
    assert browser.session == ""
    assert not sees_pages(browser)


@pytest.mark.parametrize(
    "key_text", ["", "pg_live_acme_x", "pg_live_\u20ac", "x" * 5_000, "Bearer "]
)
def test_login__with_no_key__is_refused(service: Service, key_text: str) -> None:
    """A text that is no key opens nothing and fails nothing."""
    browser = Browser(service)
    assert browser.login(key_text).status_code == 401
    assert browser.session == ""


@pytest.mark.parametrize("product_id", ["my.app", "my_app-1", "9"])
def test_login__of_a_product_with_any_id__opens_a_session(
    service: Service, product_id: str
) -> None:
    """An id may have every character that a key can have."""
    service.store.add_product("Mine", product_id=product_id)
    service.keys["mine"] = service.new_key(product_id, "admin")
    browser = signed_in(service, "mine")
    assert product_id in browser.page("/settings").one("main").text


def test_session__of_a_revoked_key__ends(service: Service) -> None:
    """A key that is revoked takes its sessions with it, at once."""
    browser = signed_in(service)
    key = next(each for each in service.store.keys("acme") if each.scope == "admin")
    assert sees_pages(browser)
    service.store.revoke_key("acme", key.key_id)
    assert not sees_pages(browser)
    assert browser.post("/theme", {"theme": "dark"}).headers["location"] == "/login"
    assert Browser(service).login(service.keys["admin"]).status_code == 401


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[Service]:
    """A service with one clock for the store and the server, which a test sets by `now_us`."""
    found: list[Service] = []

    def now_us() -> int:
        return found[0].now_us if found else NOW_US

    store = SqliteStore(str(tmp_path / "server.db"), readers=4, now_us=now_us)
    store.open()
    with serving(store) as service:
        found.append(service)
        yield service
    store.close()


def test_session__after_its_time__ends(timed: Service) -> None:
    """A session lasts as long as its cookie says, and not a microsecond longer."""
    browser = signed_in(timed)
    timed.now_us = NOW_US + SESSION_S * 10**6 - 1
    assert sees_pages(browser)
    timed.now_us += 1
    assert not sees_pages(browser)
    assert browser.post("/theme", {"theme": "dark"}).headers["location"] == "/login"


def test_logout__ends_the_session_itself(service: Service) -> None:
    """A copy of the cookie is worth nothing after the sign-out."""
    browser, copy = signed_in(service), Browser(service)
    copy.client.cookies.set("paygent_session", browser.session)
    assert sees_pages(copy)
    answer = browser.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert cookies(answer)["paygent_session"].startswith('""; HttpOnly; Max-Age=0')
    assert not sees_pages(browser)
    assert not sees_pages(copy)


@pytest.mark.parametrize("given", ["", "0" * 64])
def test_logout__without_the_token__is_refused(service: Service, given: str) -> None:
    """No other site signs a person out."""
    browser = signed_in(service)
    assert browser.send("/logout", {"csrf_token": given}).status_code == 403
    assert sees_pages(browser)


@pytest.mark.parametrize(
    "value",
    [
        *("acme", "acme.", ".", "..", ".x", "acme.x", "x" * 500, "acme.%00", 'acme."', "ac/me.x"),
        b"acme.\xff\xfe",
        b"\xe2\x82\xac.x",
    ],
)
def test_session__with_an_invented_cookie__is_none(service: Service, value: str | bytes) -> None:
    """Whatever a cookie says, it leads to the login and no failure."""
    raw = value.encode() if isinstance(value, str) else value
    answer = Browser(service).get("/", headers={"Cookie": b"paygent_session=" + raw})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_session__with_the_id_of_another_product__is_none(service: Service) -> None:
    """The product in a cookie only says where to look; the secret is that product's own."""
    browser = signed_in(service)
    secret = browser.session.partition(".")[2]
    thief = Browser(service)
    thief.client.cookies.set("paygent_session", f"other.{secret}")
    assert not sees_pages(thief)


def test_session__with_the_hash_that_is_stored__is_none(service: Service, tmp_path: Path) -> None:
    """Who reads the database cannot sign in with what it has."""
    browser = signed_in(service)
    product, _, secret = browser.session.partition(".")
    with sqlite3.connect(tmp_path / "server.db") as connection:
        ((stored,),) = connection.execute("SELECT login_hash FROM logins").fetchall()
    connection.close()
    assert secret not in content(tmp_path)
    thief = Browser(service)
    thief.client.cookies.set("paygent_session", f"{product}.{stored}")
    assert not sees_pages(thief)


# -- fixation, cookies


def test_login__with_cookies_set_before__opens_another_session(service: Service) -> None:
    """A session that an attacker has planted is not the one that the login opens."""
    attacker = signed_in(service, "other")
    victim = Browser(service)
    planted = "A" * 22
    victim.client.cookies.set("paygent_session", attacker.session)
    answer = victim.get("/login", headers={"Cookie": f"paygent_login={planted}"})
    fields = Page(answer).form("/login").fields
    answer = victim.client.post(
        "/login",
        data={**fields, "api_key": service.keys["admin"]},
        headers={
            "Origin": ORIGIN,
            "Cookie": f"paygent_login={planted}; paygent_session={attacker.session}",
        },
    )
    assert answer.status_code == 303
    made = cookies(answer)
    session = made["paygent_session"].partition(";")[0]
    assert session.startswith("acme.")
    assert planted not in session
    assert session != attacker.session
    assert made["paygent_login"].startswith('""; HttpOnly; Max-Age=0')
    assert "Other" in attacker.page("/settings").one("main").text


def test_login__twice_with_one_key__makes_two_sessions(service: Service) -> None:
    """A session is random, so the sign-out of one does not end the other."""
    first, second = signed_in(service), signed_in(service)
    assert first.session != second.session
    assert first.token != second.token
    first.post("/logout")
    assert sees_pages(second)


@pytest.mark.parametrize("value", ["", "short", 'a"b', "a\\b", "a,b", "A" * 23, "\u00e9" * 22])
def test_login__with_an_odd_cookie_of_the_login__works(service: Service, value: str) -> None:
    """Cookies are shared by all servers of a host: what one sets does not lock another's login."""
    browser = Browser(service)
    odd = b"paygent_login=" + value.encode()
    answer = browser.get("/login", headers={"Cookie": odd})
    made = cookies(answer)["paygent_login"].partition(";")[0]
    assert len(made) == 22
    assert made.replace("-", "").replace("_", "").isalnum()
    form = {**Page(answer).form("/login").fields, "api_key": service.keys["admin"]}
    assert browser.send("/login", form).status_code == 303
    assert sees_pages(browser)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies__have_the_attributes_that_protect_them(service: Service, scheme: str) -> None:
    """No script reads them, other sites do not send them with writes, and HTTPS keeps them."""
    browser = Browser(service, origin=f"{scheme}://testserver")
    of_login = cookies(browser.get("/login"))["paygent_login"].split("; ")[1:]
    assert of_login == ["HttpOnly", f"Max-Age={LOGIN_S}", "Path=/", "SameSite=Strict"]
    answer = browser.login(service.keys["admin"])
    secure = ["Secure"] if scheme == "https" else []
    expected = ["HttpOnly", f"Max-Age={SESSION_S}", "Path=/", "SameSite=Lax", *secure]
    assert cookies(answer)["paygent_session"].split("; ")[1:] == expected
    assert "Max-Age=0" in cookies(answer)["paygent_login"]


# -- failed sign-ins


def test_login__after_many_failures__is_refused_for_that_address_alone(service: Service) -> None:
    """Guessing is slow: 429 says until when, other addresses go on, and later it works again."""
    sessions = service.app.state.sessions
    now_s = [1_000.0]
    sessions._now_s = lambda: now_s[0]
    guesser = Browser(service, peer=ELSEWHERE)
    for number in range(TRIES_MAX):
        now_s[0] += 1
        assert guesser.login(f"pg_live_{number}").status_code == 401
    answer = guesser.login(service.keys["admin"])
    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith("text/html")
    wait_s = int(answer.headers["retry-after"])
    assert wait_s == TRIES_S - TRIES_MAX + 1 + 1
    assert f"{wait_s} s" in Page(answer).one("p", role="alert").text
    assert guesser.session == ""
    assert sees_pages(signed_in(service))
    now_s[0] += wait_s - 2
    assert guesser.login(service.keys["admin"]).status_code == 429
    now_s[0] += 2
    assert guesser.login(service.keys["admin"]).status_code == 303
    assert sees_pages(guesser)


# -- open redirects


AWAY = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/\r\nSet-Cookie: a=b",
    "/%0d%0aSet-Cookie: a=b ",
    "evil.example",
    "/\u2028/evil.example",
    "/a" * 2_000,
    "",
]


@pytest.mark.parametrize("target", AWAY)
def test_login__with_a_next_address_elsewhere__goes_to_the_overview(
    service: Service, target: str
) -> None:
    """Neither the address nor the form of a login leads a person to another host."""
    browser = Browser(service)
    page = browser.page(f"/login?next={quote(target, safe='')}")
    assert page.form("/login").fields["next"] == "/"
    answer = browser.login(service.keys["admin"], target=target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "a=b" not in str(answer.headers)


@pytest.mark.parametrize(
    "target", ["/user?id=a%2F%2Fb&tab=calls", "/users?next=//x", "/%2F%2Fevil"]
)
def test_login__with_a_next_address_here__goes_there(service: Service, target: str) -> None:
    """What only looks like another host stays on this one."""
    assert local_address(target) == target
    answer = Browser(service).login(service.keys["admin"], target=target)
    assert (answer.status_code, answer.headers["location"]) == (303, target)


def test_login__with_a_form_but_no_cookie__says_so(service: Service) -> None:
    """A login without its own cookie might be another person's form."""
    browser = Browser(service)
    form = browser.page("/login").form("/login")
    browser.client.cookies.clear()
    answer = browser.send("/login", {**form.fields, "api_key": service.keys["admin"]})
    assert answer.status_code == 403
    assert "refuses cookies" in answer.text
    assert browser.session == ""


def test_login__of_another_browsers_form__is_refused(service: Service) -> None:
    """The token of a login belongs to the cookie of the browser that asked for it."""
    other = Browser(service).page("/login").form("/login")
    browser = Browser(service)
    browser.get("/login")
    answer = browser.send("/login", {**other.fields, "api_key": service.keys["admin"]})
    assert answer.status_code == 403
    assert browser.session == ""


def test_expiry__is_that_of_the_cookie() -> None:
    """Half a day for a session, an hour for the form of a login."""
    assert timedelta(hours=12).total_seconds() == SESSION_S
    assert timedelta(hours=1).total_seconds() == LOGIN_S
