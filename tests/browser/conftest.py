"""A server with data, a browser, and tabs in which nothing unexpected may happen.

Each worker has one server and one browser; each test has profiles of its own. The browser is in
Berlin and speaks British English.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect, sync_playwright
from tests.browser.browsing import Browsing
from tests.browser.data import Keys, build
from tests.server_process import ServerProcess

_CHROMIUM = "/usr/bin/chromium"
_WINDOW = {"width": 1280, "height": 900}
_WAIT_MS = 15_000
"""Longest wait for a page; a busy machine needs a second."""


class Site(NamedTuple):
    """A running server with data.

    Attributes:
        address: As `http://host:port`.
        keys: Of its product.
    """

    address: str
    keys: Keys


class OpenBrowser(Protocol):
    """Opens a tab in a profile of its own."""

    def __call__(self, *, is_signed_in: bool = True, **options: Any) -> Browsing:
        """Take options of `Browser.new_context`."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`paygent serve` over a database with the data."""
    folder = tmp_path_factory.mktemp("site")
    keys = build(folder / "paygent.db")
    with ServerProcess(folder, f"sqlite:///{folder / 'paygent.db'}") as server:
        server.wait_until_ready()
        host, port = server.address
        yield Site(f"http://{host}:{port}", keys)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium."""
    expect.set_options(timeout=_WAIT_MS)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses root otherwise
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture(scope="session")
def session(browser: Browser, site: Site) -> StorageState:
    """The cookies of a person who has signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.address}/login")
    page.get_by_label("Admin key").fill(site.keys.admin)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{site.address}/")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_browser(browser: Browser, site: Site, session: StorageState) -> Iterator[OpenBrowser]:
    """Open tabs, and fail the test for everything in them that it did not expect."""
    opened: list[Browsing] = []

    def open_one(*, is_signed_in: bool = True, **options: Any) -> Browsing:
        chosen = {"viewport": _WINDOW, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options}
        if is_signed_in:
            chosen["storage_state"] = session
        context = browser.new_context(**chosen)
        context.set_default_timeout(_WAIT_MS)
        opened.append(Browsing(context, site.address))
        return opened[-1]

    yield open_one
    problems = [each for browsing in opened for each in browsing.problems]
    for browsing in opened:
        browsing.context.close()
    assert not problems, "\n".join(problems)


@pytest.fixture
def tab(open_browser: OpenBrowser) -> Browsing:
    """A tab of a person who is signed in."""
    return open_browser()


@pytest.fixture
def open_page(tab: Browsing) -> Callable[[str], Page]:
    """Load a page in the tab."""
    return tab.open
