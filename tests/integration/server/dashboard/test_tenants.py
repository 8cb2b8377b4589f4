"""Products are apart: ids of another product find nothing, on every page and by every action."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus, urlsplit

import pytest
from tests.integration.server.dashboard.browser import Browser, signed_in
from tests.integration.server.dashboard.objects import Objects
from tests.integration.server.service import Service, event

from paygent.server.dashboard.routes import ACTIONS, PAGES

OWN = {"/plan/check", "/plan/save", "/plan/replay", "/keys/create", "/views", "/theme"}
"""Actions without an id: they concern the product of the session, whatever the form says."""


@pytest.fixture
def other(service: Service) -> Objects:
    """Objects of the product `other`; the browser is signed in to `acme`."""
    return Objects(service, key="other")


def rows_of(folder: Path, product: str) -> list[str]:
    """Return the rows of a product in the database."""
    with sqlite3.connect(folder / "server.db") as connection:
        rows = [line for line in connection.iterdump() if f"'{product}'" in line]
    connection.close()
    return rows


def leaked(answer_text: str, objects: Objects, given: str) -> set[str]:
    """Return the texts of another product in an answer that the request has not had itself."""
    texts = {*objects.texts.values(), objects.key_id, objects.view_id, objects.override_id}
    return {text for text in texts if text in answer_text and text not in given}


@pytest.mark.parametrize("path", PAGES)
def test_pages__with_ids_of_another_product__find_nothing(
    browser: Browser, other: Objects, path: str
) -> None:
    """A user, call, plan, session or model of another product is unknown, and nothing is shown."""
    for address in other.addresses[path]:
        answer = browser.get(address)
        query = parse_qs(urlsplit(address).query)
        is_of_object = path in ("/user", "/call") or query.get("report") == ["calls"]
        assert answer.status_code == (404 if is_of_object else 200), address
        assert not leaked(answer.text, other, unquote_plus(address)), address


@pytest.mark.parametrize("path", PAGES)
def test_pages__of_the_product_itself__show_its_objects(service: Service, path: str) -> None:
    """The addresses of the test above are found by their own product."""
    objects = Objects(service, key="other")
    browser = signed_in(service, "other")
    for address in objects.addresses[path]:
        assert browser.get(address).status_code == 200, address
    if path not in ("/price", "/plans", "/prices"):
        shown = [browser.get(address).text for address in objects.addresses[path]]
        assert any("-other" in text for text in shown)


@pytest.mark.parametrize("path", sorted(ACTIONS.keys() - OWN))
def test_actions__with_ids_of_another_product__find_nothing(
    browser: Browser, other: Objects, tmp_path: Path, path: str
) -> None:
    """An object of another product is neither changed nor shown; it is as if it did not exist."""
    before = rows_of(tmp_path, "other")
    answer = browser.post(path, other.forms[path])
    assert answer.status_code == 404
    assert not leaked(answer.text, other, "")
    assert rows_of(tmp_path, "other") == before


@pytest.mark.parametrize("path", sorted(OWN - {"/plan/replay"}))
def test_actions__without_an_id__concern_the_product_of_the_session(
    browser: Browser, other: Objects, tmp_path: Path, path: str
) -> None:
    """What is made by a name that another product has is the session's own."""
    before = rows_of(tmp_path, "other")
    answer = browser.post(path, other.forms[path])
    assert answer.status_code in (200, 303), answer.text
    assert rows_of(tmp_path, "other") == before
    assert not leaked(answer.text, other, " ".join(other.forms[path].values()))


@pytest.mark.parametrize("action", ["/user/end-raise", "/user/raise", "/user/plan"])
def test_actions__with_the_id_of_an_own_user_and_an_object_of_another__find_nothing(
    service: Service, browser: Browser, other: Objects, tmp_path: Path, action: str
) -> None:
    """Own ids beside those of another product do not open these."""
    own = Objects(service)
    before = rows_of(tmp_path, "other")
    form = {**other.forms[action], "id": own.user_id}
    answer = browser.post(action, form)
    assert answer.status_code == {"/user/end-raise": 404, "/user/plan": 422}.get(action, 303)
    assert rows_of(tmp_path, "other") == before
    assert len(service.store.overrides("other", other.user_id, service.now_us)) == 1


def test_objects__of_equal_ids__are_those_of_the_session(service: Service) -> None:
    """Two products may have users, calls, sessions and plans of the same ids."""
    for key, cost in (("admin", 0.11), ("other", 0.22)):
        made = event(7, user_id="same", session_id=key, cost_tokens=cost, cost_total=cost)
        assert service.post("/events/batch", [made], key=key).status_code == 200
    for key, shown, hidden in (
        ("admin", "110000000", "220000000"),
        ("other", "220000000", "11000"),
    ):
        browser = signed_in(service, key)
        for address in (
            *("/", "/users", "/user?id=same", "/user?id=same&tab=calls", "/plans", "/prices"),
            *("/user?id=same&tab=sessions", "/call?id=event-7&user=same"),
        ):
            text = browser.get(address).text
            assert f'value="{shown}"' in text, (key, address)
            assert f'value="{hidden}' not in text, (key, address)


@pytest.mark.parametrize("sort", ["user", "-cost", "margin"])
def test_users__with_a_cursor_of_another_product__are_their_own(
    service: Service, browser: Browser, sort: str
) -> None:
    """A cursor is a place in an order, and no key to another product's list."""
    for key in ("admin", "other"):
        calls = [event(number, user_id=f"{key}-{number:03}") for number in range(120)]
        assert service.post("/events/batch", calls, key=key).status_code == 200
    stranger = signed_in(service, "other")
    following = stranger.page(f"/users?sort={sort}").one("a", id="next-page").attributes["href"]
    answer = browser.get(following)
    assert answer.status_code == 200
    assert "other-" not in answer.text


def test_calls__with_a_cursor_of_another_product__are_their_own(
    service: Service, browser: Browser
) -> None:
    """The same of a user's calls, where both products have the user."""
    for key in ("admin", "other"):
        calls = [
            event(number, id=f"{key}-{number:03}", user_id="same", session_id=f"session-of-{key}")
            for number in range(150)
        ]
        assert service.post("/events/batch", calls, key=key).status_code == 200
    stranger = signed_in(service, "other")
    page = stranger.page("/user?id=same&tab=calls")
    answer = browser.get(page.one("a", id="next-page").attributes["href"])
    assert answer.status_code == 200
    assert "session-of-other" not in answer.text


def test_call__under_another_user__is_not_found(service: Service, browser: Browser) -> None:
    """The address of a call has its user, and no other."""
    service.book(event(1, user_id="u1"), event(2, user_id="u2"))
    assert browser.get("/call?id=event-1&user=u1").status_code == 200
    assert browser.get("/call?id=event-1&user=u2").status_code == 404
