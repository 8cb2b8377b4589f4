"""Text stays text: nothing that users, applications or addresses contain becomes markup.

Every page is read as a browser reads it. Its elements and attributes must be those of the
templates, and its links must stay on this server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from httpx import Response
from tests.integration.server.dashboard.browser import ORIGIN, Browser, Page, signed_in
from tests.integration.server.dashboard.objects import Objects
from tests.integration.server.service import Service

import paygent.server.dashboard
from paygent.server.dashboard.routes import ACTIONS, PAGES

FOLDER = Path(paygent.server.dashboard.__file__).parent
SOURCES = "".join(
    each.read_text() for each in (*FOLDER.glob("templates/*.html"), FOLDER / "figures.py")
)
TAGS = set(re.findall(r"<([a-z][a-z0-9]*)", SOURCES))
"""The elements that templates contain."""

ATTRIBUTES = set(re.findall(r"[\s\"']([a-z][a-z0-9:-]*)(?==[\"']|[\s>{])", SOURCES.lower()))
"""Words of templates that may be names of attributes."""

MARKS = (
    "\"'><pwn onpwn=1>{{7*7}}</pwn><script>pwn()</script>",
    "' onpwn='pwn()' x='",
    '" onpwn="pwn()" hx-on:click="pwn()" x="',
    "</title></textarea></style></script><!--<pwn>",
    "&lt;pwn&gt;&#60;pwn&#62;&quot; onpwn=1 ",
    "\u2028<\u200bpwn><pwn/onpwn=1>{% raw %}{# pwn #}",
)
"""Ends of names that would be markup where they are not escaped."""

URL_ATTRIBUTES = ("href", "src", "action", "formaction", "hx-post", "hx-get", "data", "xlink:href")


def assert_harmless(answer: Response, of: str) -> Page:
    """Check that a page has nothing but what the templates contain."""
    page = Page(answer)
    nonce = re.search(r"script-src 'nonce-([^']+)'", answer.headers["content-security-policy"])
    assert nonce is not None
    assert page.comments == [], of
    for each in page.elements:
        assert each.tag in TAGS, (of, each)
        for name, value in each.attributes.items():
            assert name in ATTRIBUTES, (of, each)
            assert not name.startswith("on"), (of, each)
            assert name != "style", (of, each)  # the policy has no styles but those of the sheet
            if name in URL_ATTRIBUTES:
                assert_local(value, of)
        if each.tag == "script":
            assert each.attributes["nonce"] == nonce.group(1)
            assert each.attributes["src"].startswith("/static/")
            assert each.text == ""
        hx = {name: value for name, value in each.attributes.items() if name.startswith("hx-")}
        assert hx.get("hx-nonce", nonce.group(1)) == nonce.group(1)
    assert "49" not in {each.text for each in page.all("pwn")}
    return page


def assert_local(address: str, of: str) -> None:
    """Check that an address is one of this server."""
    parts = urlsplit(address)
    is_here = f"{parts.scheme}://{parts.netloc}" == ORIGIN
    assert is_here or not (parts.scheme or parts.netloc), (of, address)
    assert is_here or address.startswith(("/", "#")), (of, address)
    assert not address.startswith(("//", "/\\")), (of, address)


def shown(page: Page) -> Iterator[str]:
    """Yield every text and every value of an attribute of a page."""
    for each in page.elements:
        yield each.text
        yield from each.attributes.values()


@pytest.fixture(params=MARKS, ids=[f"mark{number}" for number in range(len(MARKS))])
def objects(request: pytest.FixtureRequest, service: Service) -> Objects:
    """Objects with texts that want to be markup, in a product of such a name."""
    mark: str = request.param
    name = f"Product{mark}"
    service.store.add_product(
        name, product_id="evil", contact_name=f"Contact{mark}", contact_email=f"a@b.c{mark}"
    )
    service.keys["evil"] = service.new_key("evil", "admin")
    return Objects(service, mark=mark, key="evil")


def test_templates__are_found() -> None:
    """The checks of this module know the elements and attributes of the templates."""
    assert {"a", "svg", "rect", "data", "time", "textarea", "details"} <= TAGS
    assert {"href", "hx-post", "aria-label", "checked", "data-chart", "hx-boost:inherited"} <= (
        ATTRIBUTES
    )
    assert not {"pwn", "x"} & TAGS
    assert not {"onpwn", "hx-on:click", "x="} & ATTRIBUTES


def test_pages__with_texts_that_want_to_be_markup__show_them(
    service: Service, objects: Objects
) -> None:
    """Ids, names, models, providers, plans, metadata, messages, reasons, keys, views, products."""
    browser = signed_in(service, "evil")
    seen: set[str] = set()
    for path in PAGES:
        for address in objects.addresses[path]:
            answer = browser.get(address)
            assert answer.status_code == 200, (address, answer.text[:300])
            if path == "/export":
                assert answer.headers["content-type"] == "text/csv; charset=utf-8"
                assert answer.headers["content-disposition"].startswith("attachment; filename=")
                assert answer.headers["x-content-type-options"] == "nosniff"
                continue
            page = assert_harmless(answer, address)
            seen |= {
                kind
                for kind, text in objects.texts.items()
                for each in shown(page)
                if text.strip() in each
            }
            assert f"Product{objects.mark}".strip() in page.one("span", class_="product").text
    assert seen == objects.texts.keys()


def test_fragments__with_texts_that_want_to_be_markup__show_them(
    service: Service, objects: Objects
) -> None:
    """What htmx puts into the page that is shown is as harmless as a page."""
    browser = signed_in(service, "evil")
    headers = {"HX-Request": "true", "HX-Request-Type": "partial"}
    for address in [
        each for path in PAGES if path != "/export" for each in objects.addresses[path]
    ]:
        answer = browser.get(address, headers=headers)
        assert not assert_harmless(answer, address).all("html")


def test_actions__with_texts_that_want_to_be_markup__show_them(
    service: Service, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notices, refusals, new keys, links and checks; every field of a form, valid or not."""
    browser = signed_in(service, "evil")
    for path in [each for each in ACTIONS if each != "/plan/replay"]:
        form = objects.forms[path]
        wrong = {name: f"{value}{objects.mark}" for name, value in form.items()}
        more = {
            "others": f'{{"limits": "{objects.mark}", "x{objects.mark}": 1}}',
            **dict.fromkeys(("soft_gate_at", "model_name", "model_tokens"), objects.mark),
            **dict.fromkeys(("unknown_model", "when_offline", "scope", "page"), objects.mark),
        }
        for fields in (wrong, {**form, **more}, {**form, "name": objects.mark}, form):
            for headers in ({}, {"HX-Request": "true", "HX-Request-Type": "partial"}):
                answer = browser.post(path, fields, headers=headers)
                assert answer.status_code in (200, 204, 303, 404, 422), (path, answer.text[:300])
                for name in ("location", "hx-push-url", "hx-redirect"):
                    if (value := answer.headers.get(name)) not in (None, "false"):
                        assert_local(value, path)
                        assert re.fullmatch(r"[!-~]+", value), (path, value)
                if answer.status_code in (200, 404, 422):
                    assert_harmless(answer, path)


QUERIES = (
    *("id", "user", "tab", "session", "quality", "cursor", "search", "sort", "range", "from", "to"),
    *(
        "compare",
        "group",
        "plan",
        "model",
        "provider",
        "report",
        "by",
        "name",
        "of",
        "token",
        "next",
    ),
)


@pytest.mark.parametrize("path", [*PAGES, "/login", "/usage", "/nothing", "/static/x"])
def test_pages__with_a_query_that_wants_to_be_markup__show_it_as_text(
    browser: Browser, service: Service, path: str
) -> None:
    """Every value of every page's query, right or refused, also with the others as they should be.

    A refusal of the API is JSON, which no browser reads as a page.
    """
    address = Objects(service).addresses.get(path, [path])[-1]
    for mark in (*MARKS, "javascript:pwn()", "//evil.example", "\r\nX-Pwn: 1", "x" * 300):
        for name in QUERIES:
            given = f"{address}{'&' if '?' in address else '?'}{urlencode({name: mark})}"
            answer = browser.get(given)
            assert answer.status_code in (200, 401, 404, 422), (given, answer.text[:300])
            assert "x-pwn" not in answer.headers
            kind = answer.headers["content-type"].partition(";")[0]
            if kind == "text/html":
                assert_harmless(answer, given)
            else:
                assert kind in ("text/csv", "application/problem+json")
                assert answer.headers["x-content-type-options"] == "nosniff"
            if "content-disposition" in answer.headers:
                allowed = r'attachment; filename="paygent_[a-z]+_[0-9-]+_[0-9-]+\.csv"'
                assert re.fullmatch(allowed, answer.headers["content-disposition"])


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("javascript:pwn()", ""),
        ("//evil.example", ""),
        ("https://evil.example", ""),
        ("/user", "id=x"),
        ("/logout", ""),
        ("/\\evil.example", ""),
        ("", ""),
        ("/users", "x" * 2_001),
    ],
)
def test_view__of_a_page_elsewhere__is_not_saved(browser: Browser, page: str, query: str) -> None:
    """A view leads to one of the pages that have views."""
    answer = browser.post("/views", {"name": "v", "page": page, "query": query})
    assert answer.status_code == 422
    assert not browser.service.store.saved_views("acme")


@pytest.mark.parametrize(
    "query",
    [
        *(
            "javascript:pwn()",
            "#javascript:pwn()",
            '"><script>pwn()</script>',
            "?a=b",
            "//evil",
            "%",
        ),
        *("a=\r\nb", "search=<pwn>&cursor=x&search=2", "&&&", "a=%00&b=%ff", *MARKS),
    ],
)
def test_view__of_any_query__leads_to_its_page(browser: Browser, query: str) -> None:
    """The query of a view is names and values, whatever was sent; its name is any text."""
    assert browser.post("/views", {"name": query[:100], "page": "/users", "query": query})
    answer = browser.get("/settings")
    page = assert_harmless(answer, query)
    (link,) = [each for each in page.all("a", class_="name") if each.text == query[:100].strip()]
    address = link.attributes["href"]
    assert re.fullmatch(r"/users(\?[A-Za-z0-9%&=+_.~-]*)?", address)
    assert "cursor" not in address
    answer = browser.get(address)
    assert answer.status_code in (200, 422)
    assert_harmless(answer, address)


@pytest.mark.parametrize("mark", MARKS)
def test_login__with_texts_that_want_to_be_markup__shows_none(service: Service, mark: str) -> None:
    """The only page that strangers can open and fill in."""
    browser = Browser(service)
    assert_harmless(browser.get(f"/login?next=/{quote(mark)}"), mark)
    answer = browser.login(mark, target=f"/{mark}")
    assert answer.status_code == 401
    page = assert_harmless(answer, mark)
    assert mark not in answer.text
    assert page.one("input", name="api_key").attributes.get("value") is None


def test_own_usage__with_texts_that_want_to_be_markup__shows_them(
    service: Service, objects: Objects
) -> None:
    """The page of one end user shows the product, the plan and the models."""
    browser = signed_in(service, "evil")
    answer = browser.post("/user/usage-link", {"id": objects.user_id})
    page = assert_harmless(answer, "link")
    link = page.one("a", hx_boost="false").attributes["href"]
    stranger = Browser(service)
    own = assert_harmless(stranger.get(link.removeprefix(ORIGIN)), "own usage")
    text = own.one("main").text
    for kind in ("u", "pro", "model"):
        assert objects.texts[kind].strip() in text
    assert f"Product{objects.mark}".strip() in text
    assert not own.all("nav")
    assert "message" not in text
