"""What axe finds: nothing, on any page, in light, in dark and at the width of a phone."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from tests.browser.browsing import scrolls_sideways
from tests.browser.conftest import OpenBrowser
from tests.browser.data import QUIET
from tests.browser.pages import PAGES

RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]}
PHONE = {"width": 390, "height": 844}


def assert_accessible(page: Page, situation: str) -> None:
    """Check a page with axe."""
    found = Axe().run(page, options={"runOnly": RULES, "resultTypes": ["violations"]})
    assert not found.violations_count, f"{situation}: {found.generate_report()}"


def assert_accessible_in_all_ways(page: Page) -> None:
    """Check a page in light and dark, and at the width of a phone, which it must fit."""
    assert_accessible(page, "light")
    page.emulate_media(color_scheme="dark")
    assert_accessible(page, "dark")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a dict like any other
    assert_accessible(page, "phone")
    assert not scrolls_sideways(page)


@pytest.mark.parametrize("name", PAGES)
def test_page__in_light_dark_and_on_a_phone__has_no_violation(
    open_browser: OpenBrowser, name: str
) -> None:
    """WCAG 2.2 AA, as far as axe can judge it, and no page scrolls sideways."""
    assert_accessible_in_all_ways(open_browser(color_scheme="light").open(PAGES[name]))


def test_login_and_errors__in_all_ways__have_no_violation(open_browser: OpenBrowser) -> None:
    """The pages outside of the dashboard, too."""
    tab = open_browser(is_signed_in=False, color_scheme="light")
    assert_accessible_in_all_ways(tab.open("/login"))
    tab = open_browser(color_scheme="light")
    tab.expect_status(404)
    assert_accessible_in_all_ways(tab.open("/user?id=unknown"))


def test_made_pages__in_all_ways__have_no_violation(open_browser: OpenBrowser) -> None:
    """The pages that an action makes: a link to a user's own page, and that page; a new key; a plan
    with errors.
    """
    tab = open_browser(color_scheme="light")
    page = tab.open(f"/user?id={QUIET[3]}&tab=manage")
    tab.button("Make a link").click()
    link = tab.link("Open it")
    link.wait_for()
    address = (link.get_attribute("href") or "").removeprefix(tab.address)
    assert_accessible_in_all_ways(page)
    own = open_browser(is_signed_in=False, color_scheme="light")
    assert_accessible_in_all_ways(own.open(address))
    tab = open_browser(color_scheme="light")
    page = tab.open("/keys")
    page.get_by_label("Name").fill("reports")
    tab.button("Make a key").click()
    page.get_by_role("heading", name="The new key").wait_for()
    assert_accessible_in_all_ways(page)
    tab = open_browser(color_scheme="light")
    tab.expect_status(422)
    page = tab.open("/plan")
    page.get_by_label("Name").fill("wrong")
    page.get_by_label("Warn at (%)").fill("half")
    tab.button("Save").click()
    page.get_by_role("alert").wait_for()
    assert_accessible_in_all_ways(page)
