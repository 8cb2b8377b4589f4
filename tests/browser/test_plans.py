"""The editor of plans: what it says while one types, errors, versions and the replay."""

from __future__ import annotations

from urllib.parse import urlencode

from playwright.sync_api import expect
from tests.browser.browsing import Browsing
from tests.browser.data import EDITED_PLANS


def test_edit__with_an_error__keeps_the_texts_until_it_is_mended(tab: Browsing) -> None:
    """A wrong value is named while one types and on saving; mended, it is the next version."""
    tab.expect_status(422)
    tab.may_end_requests()
    name = EDITED_PLANS[0]
    page = tab.open("/plan?" + urlencode({"name": name}))
    cap = page.get_by_label("Cap per billing period ($)")
    checked = page.locator("#checked")
    expect(checked).to_contain_text("In words: $30.00 per period")
    cap.press("End")
    cap.press_sequentially("x0")
    expect(checked).to_contain_text("max_spend_per_period = 30x0: must be a number")
    expect(cap).to_be_focused()
    page.get_by_label("Price per period ($)").fill("25")
    tab.button("Save as version 2").click()
    expect(page.get_by_role("alert")).to_contain_text("max_spend_per_period = 30x0")
    expect(cap).to_have_value("30x0")
    expect(cap).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Price per period ($)")).to_have_value("25")
    expect(page.get_by_role("heading", name="Versions")).to_be_visible()
    cap.fill("40")
    expect(checked).to_contain_text("In words: $40.00 per period")
    tab.button("Save as version 2").click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_have_text("Saved as version 2.")
    changes = page.locator("ol.versions li").first
    row = changes.get_by_role("row").filter(has_text="max_spend_per_period")
    expect(row.locator("del")).to_contain_text("30")
    expect(row.locator("ins")).to_contain_text("40")
    expect(changes.get_by_role("row").filter(has_text="price").locator("ins")).to_contain_text("25")
    expect(page.locator("ol.versions li")).to_have_count(2)


def test_new_plan__with_a_limit_on_a_model__is_listed(tab: Browsing) -> None:
    """A plan is made in the editor, and the list has it with its limits in words."""
    page = tab.open("/plans")
    tab.link("New plan").click()
    page.get_by_label("Name").fill("trial")
    page.get_by_label("Model 1").fill("gpt-4o-mini")
    page.get_by_label("Tokens 1").fill("500000")
    tab.button("Save").click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_have_text("Saved as version 1.")
    tab.link("Plans", exact=True).first.click()
    row = page.get_by_role("row").filter(has=tab.link("trial", exact=True))
    expect(row).to_contain_text("500,000 tokens of gpt-4o-mini per period")


def test_shadow_mode__switched_on_and_off__is_shown_and_keeps_limits(tab: Browsing) -> None:
    """Shadow mode is one switch, and no limit is lost by it."""
    page = tab.open("/plan?" + urlencode({"name": EDITED_PLANS[1]}))
    tab.button("Switch to shadow mode").click()
    expect(page.locator(".head .badge")).to_have_text("shadow mode")
    expect(page.get_by_label("Cap per billing period ($)")).to_have_value("30")
    tab.button("Enforce limits").click()
    expect(page.locator(".head .badge")).to_have_text("enforced")
