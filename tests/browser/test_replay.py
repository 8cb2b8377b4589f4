"""The replay of an edit that is not saved."""

from __future__ import annotations

from urllib.parse import urlencode

from playwright.sync_api import expect
from tests.browser.browsing import Browsing


def test_replay__of_a_lower_cap__names_who_would_have_been_stopped(tab: Browsing) -> None:
    """An edit that is not saved is replayed: users, savings, and the texts stay in the editor."""
    page = tab.open("/plan?" + urlencode({"name": "pro"}))
    page.get_by_label("Cap per billing period ($)").fill("50")
    tab.button("Replay the last 90 days").click()
    expect(page.get_by_role("heading", name="Replay of")).to_be_in_viewport()
    expect(page.get_by_label("Cap per billing period ($)")).to_have_value("50")
    rows = page.get_by_role("region", name="Users who would have been stopped").get_by_role("row")
    expect(rows.nth(1)).to_contain_text("acct_1017")
    expect(rows.nth(1)).to_contain_text("$100.00")
    expect(
        page.locator(".tile").filter(has_text="Users stopped").locator("data").first
    ).to_have_text("1")
    expect(tab.button("Save as version 3")).to_be_visible()
