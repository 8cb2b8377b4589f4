"""How pages look: schemes, the width of a phone, and charts."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from tests.browser.browsing import Browsing, scrolls_sideways
from tests.browser.conftest import OpenBrowser
from tests.browser.data import LOSER
from tests.browser.pages import PAGES

LIGHT, DARK = "rgb(246, 247, 249)", "rgb(15, 18, 23)"
NARROW = {"width": 320, "height": 640}
"""The width that WCAG 1.4.10 asks for: 1280 at 400 %."""

_DRAWN = """(canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 255) colours.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
  }
  return [...colours];
}"""
_SWATCHES = """() => [...document.querySelectorAll("ul.legend .swatch")].map(
  (each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).join(","))"""


def background(page: Page) -> str:
    """Return the colour behind a page."""
    return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


@pytest.mark.parametrize("name", PAGES)
def test_page__in_a_narrow_window__does_not_scroll_sideways(
    open_browser: OpenBrowser, name: str
) -> None:
    """Wide tables scroll by themselves; the page never does."""
    page = open_browser(viewport=NARROW, has_touch=True).open(PAGES[name])
    assert not scrolls_sideways(page)


def test_scheme__of_the_system__is_followed_until_one_is_chosen(open_browser: OpenBrowser) -> None:
    """Dark is dark without a choice; the setting of the dashboard then prevails."""
    tab = open_browser(color_scheme="dark")
    page = tab.open("/settings")
    assert background(page) == DARK
    page.emulate_media(color_scheme="light")
    assert background(page) == LIGHT
    page.get_by_label("Colours").select_option("dark")
    tab.button("Apply").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert background(page) == DARK
    tab.link("Overview", exact=True).click()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    assert background(tab.open("/users")) == DARK


@pytest.mark.parametrize("path", ["/?range=90d", f"/user?id={LOSER}"], ids=["overview", "user"])
def test_chart__on_a_page__is_drawn_from_its_table(tab: Browsing, path: str) -> None:
    """The canvas has the colour of each series with a cost that can be seen, and a table has the
    figures.
    """
    page = tab.open(path)
    canvas = page.locator("[data-plot] canvas")
    canvas.wait_for()
    drawn = set(canvas.evaluate(_DRAWN))
    assert page.evaluate(_SWATCHES)[0] in drawn
    page.get_by_text("Table of this chart").click()
    table = page.locator("table[data-series]")
    expect(table).to_be_visible()
    costs = table.locator("tbody td:last-child data")
    values = [int(each.get_attribute("value") or "0") for each in costs.all()]
    assert sum(values) >= 60 * 10**9


def test_chart__under_the_pointer__names_the_day_and_its_costs(tab: Browsing) -> None:
    """The tip has the day, its sum and the parts; it is there after a change of page, too."""
    page = tab.open("/users")
    tab.link("Overview", exact=True).click()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    page.get_by_label("Range").select_option("previous")
    expect(page.get_by_role("table", name="Users at a loss")).to_contain_text("−$91.00")
    plot = page.locator("[data-plot] .u-over")
    plot.scroll_into_view_if_needed()
    plot.hover()
    tip = page.locator("[data-plot] .tip")
    expect(tip).to_contain_text("$")
    expect(tip).to_contain_text("gpt-4o")


def test_chart__in_dark__is_drawn_in_its_colours(open_browser: OpenBrowser) -> None:
    """The bars have the colours of the dark scheme."""
    page = open_browser(color_scheme="dark").open(f"/user?id={LOSER}")
    canvas = page.locator("[data-plot] canvas")
    canvas.wait_for()
    assert "125,148,255" in canvas.evaluate(_DRAWN)


def test_figures__zero_unknown_estimated_and_unpriced__look_different(tab: Browsing) -> None:
    """What is nothing, not known, estimated or without a price is marked, each in its own way."""
    page = tab.open("/?range=90d")
    tiles = page.locator("dl.tiles")
    expect(tiles.locator(".mark.estimated")).to_be_visible()
    expect(tiles.locator(".mark.unpriced")).to_be_visible()
    tab.open("/prices?range=90d")
    row = page.get_by_role("row").filter(has=tab.link("local-llama"))
    expect(row.locator(".unknown").first).to_have_text("–")
    expect(row.locator(".mark.unpriced").first).to_have_text("in no list")
    expect(row.locator("data.zero")).to_have_text("$0.00")
