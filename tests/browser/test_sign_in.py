"""Signing in and out."""

from __future__ import annotations

from playwright.sync_api import expect
from tests.browser.conftest import OpenBrowser, Site


def test_sign_in__a_wrong_key_then_the_right_one__opens_the_page_that_was_asked_for(
    open_browser: OpenBrowser, site: Site
) -> None:
    """A wrong key is refused in words; the right one leads on to the page of the address."""
    tab = open_browser(is_signed_in=False)
    tab.expect_status(401)
    page = tab.open("/users?range=30d")
    assert page.url.startswith(f"{site.address}/login?next=")
    page.get_by_label("Admin key").fill("pg_live_acme_wrong")
    tab.button("Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This is no valid admin key.")
    page.get_by_label("Admin key").fill(site.keys.admin)
    tab.button("Sign in").click()
    expect(page).to_have_url(f"{site.address}/users?range=30d")
    expect(page.get_by_role("heading", level=1)).to_have_text("Users")


def test_sign_in__with_an_sdk_key__is_refused(open_browser: OpenBrowser, site: Site) -> None:
    """The key of an application does not open the dashboard."""
    tab = open_browser(is_signed_in=False)
    tab.expect_status(401)
    page = tab.open("/login")
    page.get_by_label("Admin key").fill(site.keys.sdk)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is no valid admin key.")


def test_sign_out__then_back__shows_no_page_again(open_browser: OpenBrowser, site: Site) -> None:
    """After signing out, pages lead to the login."""
    tab = open_browser(is_signed_in=False)
    page = tab.open("/login")
    page.get_by_label("Admin key").fill(site.keys.admin)
    tab.button("Sign in").click()
    tab.button("Sign out").click()
    expect(page.get_by_label("Admin key")).to_be_visible()
    tab.open("/users")
    expect(page.get_by_label("Admin key")).to_be_visible()
