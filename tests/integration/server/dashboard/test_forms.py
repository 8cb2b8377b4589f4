"""Forms: only a page of this server changes anything, and no form makes the server fail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from httpx import Response
from tests.integration.server.dashboard.browser import FORM, ORIGIN, Browser, Page, signed_in
from tests.integration.server.dashboard.objects import Objects, content
from tests.integration.server.service import Service

from paygent.server.dashboard.routes import ACTIONS, PAGES

READS = {"/plan/check", "/plan/replay", "/user/usage-link", "/theme"}
"""Actions that write nothing into the database."""

WRITES = sorted(ACTIONS.keys() - READS)
REPLAY = "/plan/replay"
"""An action that reads much; its figures have tests of their own."""


@pytest.fixture
def objects(service: Service) -> Objects:
    """An object of every kind in `acme`."""
    return Objects(service)


# -- forged forms


FORGED: Mapping[str, Mapping[str, str | None]] = {
    "another host": {"Origin": "https://evil.example"},
    "a host that begins alike": {"Origin": "http://testserver.evil.example"},
    "a host as a user": {"Origin": "http://testserver@evil.example"},
    "another port": {"Origin": "http://testserver:81"},
    "no origin": {"Origin": None},
    "no origin, but a referrer": {"Origin": None, "Referer": f"{ORIGIN}/user"},
    "a null origin": {"Origin": "null"},
    "an empty origin": {"Origin": ""},
    "an origin that is no address": {"Origin": "http://["},
    "a cross-site request": {"Sec-Fetch-Site": "cross-site"},
    "a same-site request": {"Sec-Fetch-Site": "same-site"},
    "a request without a page": {"Sec-Fetch-Site": "none"},
    "htmx on another host": {"Origin": "https://evil.example", "HX-Request": "true"},
}


def send(browser: Browser, path: str, form: Mapping[str, str], **headers: str | None) -> Response:
    """Send a form; a header of None is left out."""
    given = {"Content-Type": FORM, "Origin": ORIGIN, **headers}
    kept = {name: value for name, value in given.items() if value is not None}
    answer: Response = browser.client.post(path, content=urlencode(form), headers=kept)
    return answer


def assert_refused(answer: Response, browser: Browser) -> None:
    """A refusal is a page that neither has the token nor says what it should have been."""
    assert answer.status_code == 403, answer.text
    Page(answer)
    assert browser.token not in answer.text


@pytest.mark.parametrize("path", ACTIONS)
def test_actions__of_a_page_elsewhere__change_nothing(
    browser: Browser, objects: Objects, tmp_path: Path, path: str
) -> None:
    """The right token does not help a request that another origin has sent."""
    before = content(tmp_path)
    form = {**objects.forms[path], "csrf_token": browser.token}
    for headers in FORGED.values():
        assert_refused(send(browser, path, form, **headers), browser)
    assert content(tmp_path) == before


@pytest.mark.parametrize("path", ["/login", "/logout"])
@pytest.mark.parametrize("forgery", FORGED)
def test_sign_in_and_out__of_a_page_elsewhere__are_refused(
    service: Service, forgery: str, path: str
) -> None:
    """No other site signs a person in as somebody else, or out."""
    browser = signed_in(service)
    if path == "/login":
        form = browser.page("/login").form("/login").fields
        form = {**form, "api_key": service.keys["other"]}
    else:
        form = {"csrf_token": browser.token}
    answer = send(browser, path, form, **FORGED[forgery])
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "Acme" in browser.page("/settings").one("main").text


@pytest.mark.parametrize("path", ACTIONS)
def test_actions__without_the_token_of_the_session__change_nothing(
    browser: Browser, objects: Objects, service: Service, tmp_path: Path, path: str
) -> None:
    """No token, a wrong one, that of another session or of a login: none of them is enough."""
    stranger = signed_in(service, "other")
    colleague = signed_in(service)
    of_login = stranger.page("/login").form("/login").fields["csrf_token"]
    before = content(tmp_path)
    tokens = (
        *("", "0" * 64, browser.token[:-1], browser.token + "0", browser.token.upper()),
        *(stranger.token, colleague.token, of_login, "\u00e9", browser.session),
    )
    for token in tokens:
        form = {**objects.forms[path], "csrf_token": token}
        assert_refused(send(browser, path, form), browser)
    assert_refused(send(browser, path, objects.forms[path]), browser)
    assert content(tmp_path) == before


@pytest.mark.parametrize("path", ACTIONS)
def test_actions__with_the_token_elsewhere__change_nothing(
    browser: Browser, objects: Objects, tmp_path: Path, path: str
) -> None:
    """The token counts in the body: an attribute that htmx inherits can add headers and values."""
    before, form, token = content(tmp_path), objects.forms[path], browser.token
    names = ("X-CSRF-Token", "X-CSRFToken", "X-XSRF-TOKEN", "HX-CSRF-Token", "csrf_token")
    for name in names:
        headers = {name: token, "HX-Request": "true", "HX-Current-URL": f"{ORIGIN}{path}"}
        assert_refused(send(browser, path, form, **headers), browser)
    assert_refused(send(browser, f"{path}?csrf_token={token}", form), browser)
    assert_refused(send(browser, path, {**form, " csrf_token": token}), browser)
    browser.client.cookies.set("csrf_token", token)
    assert_refused(send(browser, path, form), browser)
    assert content(tmp_path) == before


@pytest.mark.parametrize("path", WRITES)
def test_actions__with_everything_right__change_something(
    browser: Browser, objects: Objects, tmp_path: Path, path: str
) -> None:
    """The forms that the tests above see refused are accepted from a page of this server."""
    before = content(tmp_path)
    answer = browser.post(path, objects.forms[path])
    assert answer.status_code in (200, 303), answer.text
    assert content(tmp_path) != before


@pytest.mark.parametrize("path", sorted(READS - {REPLAY}))
def test_actions__that_only_read__succeed_and_write_nothing(
    browser: Browser, objects: Objects, tmp_path: Path, path: str
) -> None:
    """A check, a link and the theme leave the database as it is."""
    browser.post("/user/usage-link", objects.forms["/user/usage-link"])  # makes its secret
    before = content(tmp_path)
    assert browser.post(path, objects.forms[path]).status_code in (200, 303)
    assert content(tmp_path) == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_actions__by_another_method__change_nothing(
    browser: Browser, objects: Objects, tmp_path: Path, method: str
) -> None:
    """Only POST does anything: a link or an image of another site has no effect."""
    before = content(tmp_path)
    for path, form in objects.forms.items():
        address = f"{path}?{urlencode({**form, 'csrf_token': browser.token})}"
        answer = browser.client.request(method, address, headers={"Origin": ORIGIN})
        assert answer.status_code in (404, 405), (path, answer.status_code)
    for path in ("/login", "/logout"):
        address = f"{path}?csrf_token={browser.token}"
        browser.client.request(method, address, headers={"Origin": ORIGIN})
    assert content(tmp_path) == before
    assert browser.get("/users").status_code == 200


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pages__that_are_read__change_nothing(
    browser: Browser, objects: Objects, tmp_path: Path, path: str, method: str
) -> None:
    """A page may be loaded ahead, again, or by another site."""
    before = content(tmp_path)
    for address in objects.addresses[path]:
        assert browser.client.request(method, address).status_code == 200
    assert content(tmp_path) == before


# -- limits of a form


def raw(browser: Browser, path: str, body: bytes, kind: str = FORM) -> Response:
    """Send a body as it is."""
    headers = {"Content-Type": kind, "Origin": ORIGIN}
    answer: Response = browser.client.post(path, content=body, headers=headers)
    return answer


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/json", "multipart/form-data; boundary=x", f"x/{FORM}"]
)
def test_form__of_another_type__is_refused(browser: Browser, kind: str) -> None:
    """Types that need no preflight, and those of an API, are no forms of these pages."""
    body = urlencode({"theme": "dark", "csrf_token": browser.token}).encode()
    answer = raw(browser, "/theme", body, kind)
    assert answer.status_code == 415
    Page(answer)


def test_form__with_a_charset__is_accepted(browser: Browser) -> None:
    """Browsers and scripts add parameters to the type."""
    body = urlencode({"theme": "dark", "csrf_token": browser.token}).encode()
    assert raw(browser, "/theme", body, f"{FORM.upper()}; charset=UTF-8").status_code == 303


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("&a=1" * 998, 303),
        ("&a=1" * 999, 422),
        ("&a=%00", 422),
        ("&a=%ff", 422),
        ("&a=%ed%a0%80", 422),
        ("&a=\u00e9", 422),
        ("&a=%zz%", 303),
        ("&a=%e2%82%ac", 303),
        (f"&a={'x' * (1 << 20)}", 413),
    ],
)
def test_form__beyond_a_limit__is_refused(browser: Browser, more: str, status: int) -> None:
    """Number of fields, NUL, text that is no UTF-8 or not encoded, and the length of all."""
    body = urlencode({"theme": "dark", "csrf_token": browser.token}) + more
    assert raw(browser, "/theme", body.encode()).status_code == status


def test_form__that_grows_while_it_arrives__ends_with_a_page(browser: Browser) -> None:
    """A body whose length is not declared is refused where it exceeds the limit."""

    def parts() -> Any:
        yield urlencode({"theme": "dark", "csrf_token": browser.token}).encode()
        for _ in range(20):
            yield b"&a=" + b"x" * 100_000

    headers = {"Content-Type": FORM, "Origin": ORIGIN}
    answer: Response = browser.client.post("/theme", content=parts(), headers=headers)
    assert answer.status_code == 413
    assert "larger than" in Page(answer).one("h1").text


NUMBERS = ("NaN", "sNaN", "Infinity", "-Infinity", "1e999999999", "-1", "9" * 5_000, "\u0661x")


@pytest.mark.parametrize("number", NUMBERS)
def test_raise__by_no_amount__names_the_field(
    browser: Browser, objects: Objects, number: str
) -> None:
    """What is no finite amount is a mistake of the form, and takes no time."""
    form = {**objects.forms["/user/raise"], "add": number}
    answer = browser.post("/user/raise", form)
    assert answer.status_code == 422
    assert "add" in {each.text for each in Page(answer).all("code")}


@pytest.mark.parametrize("place", ["", "-1", "99", "9" * 5_000, "\u00b2", "\u0661", "00", "0x0"])
def test_raise__of_a_limit_that_is_none__names_the_field(
    browser: Browser, objects: Objects, place: str
) -> None:
    """A limit is one that the page has shown."""
    answer = browser.post("/user/raise", {**objects.forms["/user/raise"], "limit": place})
    assert answer.status_code == 422
    assert "limit" in {each.text for each in Page(answer).all("code")}


@pytest.mark.parametrize(
    "until", ["", "2026-13-01", "0001-01-01", "9999-12-31", "2026-11-20", "x", "20261231T00"]
)
def test_raise__until_no_day_to_come__names_the_field(
    browser: Browser, objects: Objects, until: str
) -> None:
    """A raise ends on a day after today."""
    answer = browser.post("/user/raise", {**objects.forms["/user/raise"], "until": until})
    assert answer.status_code == 422
    assert "until" in {each.text for each in Page(answer).all("code")}


@pytest.mark.parametrize("path", ["/plan/check", "/plan/save", "/plan/replay"])
@pytest.mark.parametrize("number", NUMBERS)
def test_plan__with_no_number__names_the_field(
    browser: Browser, objects: Objects, tmp_path: Path, path: str, number: str
) -> None:
    """No number of a plan takes the server's time or memory, or makes it fail."""
    before = content(tmp_path)
    fields = ("price", "max_spend_per_session", "soft_gate_at", "session_timeout_minutes")
    forms = [
        *[({name: number}, name) for name in fields],
        ({"model_name": "m", "model_tokens": number}, "model_limits"),
        ({"when_offline": "allow_up_to", "offline_allowance": number}, "when_offline"),
    ]
    for form, name in forms:
        answer = browser.post(path, {**objects.forms[path], **form})
        assert answer.status_code == (200 if path == "/plan/check" else 422), form
        codes = [each.text for each in Page(answer).all("code")]
        assert any(code.startswith(name) for code in codes), (name, codes)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"limits": ' + "[" * 2_000 + "]" * 2_000 + "}",
        '{"limits": ' + "[" * 20 + "]" * 20 + "}",
        '{"tool_costs": {"\\ud800": 1}}',
        '{"tool_costs": {"\\u0000": 1}}',
        '{"tool_costs": {"a": NaN}}',
        '{"tool_costs": {"a": 1e999999999}}',
        '{"tool_costs": {"a": 1e99999999999999999999}}',
        '{"default_tool_cost": Infinity}',
        '{"limits": [{"metric": "spend", "cap": 1e999999999}]}',
        '{"pre_call_buffer_tokens": 1e999999999}',
        '{"reservation_safety_factor": "\\ud800"}',
        '{"reservation_safety_factor": 1e999999999}',
        '{"\\ud800": 1}',
        '{"limits": 1' + "0" * 5_000 + "}",
        "null",
        "[]",
        "{",
    ],
)
@pytest.mark.parametrize("path", ["/plan/check", "/plan/save"])
def test_plan__with_odd_json__is_refused_in_words(
    browser: Browser, objects: Objects, tmp_path: Path, path: str, text: str
) -> None:
    """Whatever the field of JSON contains, nothing is stored that a page could not show."""
    before = content(tmp_path)
    answer = browser.post(path, {**objects.forms[path], "others": text})
    assert answer.status_code == (200 if path == "/plan/check" else 422)
    assert Page(answer).all("code")
    assert content(tmp_path) == before
