"""The dashboard without a pointer."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from tests.browser.browsing import Browsing
from tests.browser.conftest import OpenBrowser
from tests.browser.data import LOSER

TABS_MAX = 80

_FOCUSED = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  return {
    name: element.textContent.trim(),
    id: element.id,
    isOutlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
  };
}"""


def tab_to(page: Page, *, name: str = "", element_id: str = "") -> None:
    """Press Tab until a link or control has the focus; each on the way shows that it has it."""
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        assert focused["isOutlined"], focused
        if element_id:
            if focused["id"] == element_id:
                return
        elif focused["name"] == name:
            return
    raise AssertionError(f"{name or element_id} is not reached by {TABS_MAX} tabs")


def test_keyboard__from_the_overview__raises_a_limit(tab: Browsing) -> None:
    """Tab and Enter lead from the overview to a user and through the form that raises a limit."""
    page = tab.open("/?range=previous")
    tab_to(page, name=LOSER)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(LOSER)
    expect(page.locator("main")).to_be_focused()
    tab_to(page, element_id="add-1")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("1000")
    tab_to(page, element_id="raise-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Raised")).to_be_visible()
    expect(page.locator("main")).to_be_focused()
    tab_to(page, name="End now")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="ended")).to_be_visible()


def test_skip_link__is_the_first_stop__and_leads_past_the_navigation(tab: Browsing) -> None:
    """The first Tab shows a link to the content, which the next Tab after it is in."""
    page = tab.open("/users")
    page.keyboard.press("Tab")
    skip = tab.link("Skip to content")
    expect(skip).to_be_focused()
    box = skip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_navigation__to_another_page__is_announced(tab: Browsing) -> None:
    """A reader of the screen hears the title of the page that has replaced the last one."""
    page = tab.open("/")
    tab.link("Prices", exact=True).press("Enter")
    expect(page.locator("#announcer")).to_have_text("Prices · Paygent")
    expect(page.locator("main")).to_be_focused()
    page.go_back()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    expect(page.locator("#announcer")).to_have_text("Overview · Paygent")


def test_range__changed_by_keyboard__keeps_the_focus(tab: Browsing) -> None:
    """A control that changes the page still has the focus afterwards."""
    page = tab.open("/users")
    page.get_by_label("Range").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Range")).to_have_value("previous")
    expect(page.get_by_role("table")).to_contain_text("$140.00")
    expect(page.get_by_label("Range")).to_be_focused()


def test_login__by_keyboard_alone__signs_in(open_browser: OpenBrowser) -> None:
    """The field of the key has the focus when the page opens."""
    page = open_browser(is_signed_in=False).open("/login")
    expect(page.get_by_label("Admin key")).to_be_focused()
