"""Moving between pages: the state in the address, history, saved views, exports and requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect
from tests.browser.browsing import Browsing
from tests.browser.conftest import OpenBrowser
from tests.browser.data import LOSER

USER = "/user?" + urlencode({"id": LOSER})
REQUESTS_MAX = 6
BYTES_MAX = 60_000

SWAPPED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Resolves when the browser has drawn what the last answer brought."""


def heading(page: Page, text: str) -> None:
    """Wait for the page with this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def test_range_and_filters__over_tabs_pages_and_a_reload__are_kept(tab: Browsing) -> None:
    """A range and a filter that were chosen once are those of the next pages, and of a reload."""
    page = tab.open("/")
    page.get_by_label("Range").select_option("90d")
    expect(page).to_have_url(re.compile("range=90d"))
    page.locator("ul.legend").get_by_role("link", name="claude-haiku-4-5").click()
    expect(tab.link(re.compile("^model: claude-haiku-4-5"))).to_be_visible()
    tab.link("Users", exact=True).click()
    heading(page, "Users")
    page.get_by_role("table").get_by_role("link", name=re.compile("^acct_")).first.click()
    # The list of users has a link of this name, too.
    parts = page.get_by_role("navigation", name="Parts of the user")
    parts.get_by_role("link", name="Calls").click()
    for _ in range(2):
        expect(page.get_by_role("heading", name="Calls")).to_be_visible()
        expect(page.get_by_label("Range")).to_have_value("90d")
        expect(tab.link(re.compile("^model: claude-haiku-4-5"))).to_be_visible()
        models = page.get_by_role("table", name="Calls").locator("tbody td:nth-child(2)")
        assert set(models.all_inner_texts()) == {"claude-haiku-4-5"}
        page.reload()


def test_filter__that_is_removed__leaves_the_address(tab: Browsing) -> None:
    """The mark of a filter takes it away, and nothing else."""
    page = tab.open("/?range=90d&model=gpt-4o&group=provider")
    tab.link(re.compile("^model: gpt-4o")).click()
    expect(tab.link(re.compile("^model: gpt-4o"))).to_have_count(0)
    assert set(page.url.partition("?")[2].split("&")) == {"range=90d", "group=provider"}


def test_custom_range__chosen_by_its_days__is_in_the_address(tab: Browsing) -> None:
    """Days that are typed become the range; a named range drops them again."""
    page = tab.open("/users")
    page.get_by_label("From").fill("2026-01-05")
    expect(page).to_have_url(re.compile("from=2026-01-05"))
    expect(page.get_by_label("Range")).to_have_value("custom")
    page.get_by_label("Range").select_option("7d")
    expect(page).to_have_url(re.compile("range=7d"))
    assert "from=" not in page.url


def test_back_and_forward__after_links_and_a_filter__restore_each_page(tab: Browsing) -> None:
    """The browser's buttons show the pages again, working and with their state."""
    page = tab.open("/")
    tab.link("Users", exact=True).click()
    heading(page, "Users")
    page.get_by_label("Range").select_option("30d")
    expect(page).to_have_url(re.compile("range=30d"))
    tab.link(LOSER, exact=True).click()
    heading(page, LOSER)
    page.go_back()
    heading(page, "Users")
    expect(page.get_by_label("Range")).to_have_value("30d")
    page.go_back()
    expect(page.get_by_label("Range")).to_have_value("month")
    page.go_forward()
    expect(page.get_by_label("Range")).to_have_value("30d")
    page.go_forward()
    heading(page, LOSER)
    assert page.title() == f"{LOSER} · Paygent"
    tab.link("Sessions", exact=True).click()
    expect(page.get_by_role("heading", name="Sessions")).to_be_visible()


def test_saved_view__opened_from_the_settings__has_range_and_filters(tab: Browsing) -> None:
    """A view keeps the state of a page under a name, and can be deleted."""
    page = tab.open("/?range=90d&plan=pro&group=provider")
    page.get_by_text("Views", exact=True).click()
    page.get_by_label("Save this page as").fill("Pro, 90 days")
    tab.button("Save", exact=True).click()
    tab.link("Pro, 90 days").click()
    heading(page, "Last 90 days")
    expect(tab.link(re.compile("^plan: pro"))).to_be_visible()
    expect(page.get_by_label("Group by")).to_have_value("provider")
    tab.open("/settings")
    tab.button("Delete Pro, 90 days").click()
    expect(tab.link("Pro, 90 days")).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/?range=previous", "paygent_spend_"), ("/users?range=previous", "paygent_margin_"),
     (USER + "&tab=calls&range=previous", "paygent_calls_")],
    ids=["overview", "users", "calls"],
)  # fmt: skip
def test_export__of_a_page__downloads_what_it_is_about(
    tab: Browsing, tmp_path: Path, path: str, name: str
) -> None:
    """The button downloads a file with a row of each thing that the page shows."""
    tab.may_end_requests()
    page = tab.open(path)
    with page.expect_download() as download:
        tab.link("Export CSV").click()
    assert download.value.suggested_filename.startswith(name)
    file = tmp_path / "export.csv"
    download.value.save_as(file)
    lines = file.read_text("utf-8").splitlines()
    assert len(lines) > 20
    if LOSER in page.url:
        assert all(LOSER in line for line in lines[1:])
        assert len(lines) == 1 + 561


def test_times__in_the_viewers_zone__have_utc_on_hover(tab: Browsing) -> None:
    """Berlin's time is displayed, and the title has the same moment in UTC."""
    page = tab.open(USER + "&tab=calls&range=previous")
    shown = page.get_by_role("table", name="Calls").locator("time").last
    found = page.evaluate(
        """(element) => new Intl.DateTimeFormat("en-GB", {dateStyle: "medium", timeStyle: "medium",
        timeZone: "Europe/Berlin"}).format(new Date(element.dateTime))""",
        shown.element_handle(),
    )
    assert shown.inner_text() == found
    iso = shown.get_attribute("datetime") or ""
    assert shown.get_attribute("title") == iso.replace("T", " ").replace("Z", " UTC")
    assert iso[11:16] not in found


def test_times__without_scripts__are_utc(open_browser: OpenBrowser) -> None:
    """Where no script runs, a time is UTC and says so."""
    page = open_browser(java_script_enabled=False).open(USER + "&tab=calls")
    assert page.locator("td time").first.inner_text().endswith(" UTC")


@pytest.mark.parametrize("path", ["/", USER, "/plan?name=pro"], ids=["overview", "user", "plan"])
def test_first_load__of_a_page__is_small(open_browser: OpenBrowser, path: str) -> None:
    """At most six requests, and at most 60 kB of style and scripts, compressed."""
    tab = open_browser()
    with tab.counted() as requests:
        tab.open(path)
    assert len(requests) <= REQUESTS_MAX, [request.url for request in requests]
    files = [each for each in requests if each.resource_type in ("script", "stylesheet")]
    assert len(files) == 3
    assert sum(each.sizes()["responseBodySize"] for each in files) <= BYTES_MAX


def test_interaction__of_any_kind__is_one_request(tab: Browsing) -> None:
    """A link, a tab, a range, an order, a filter, a search and a form each ask the server once."""
    page = tab.open("/")
    page.wait_for_load_state("networkidle")

    def search() -> None:
        page.get_by_label("Find a user").fill(LOSER)
        tab.button("Find").click()

    steps: dict[str, Callable[[], object]] = {
        "page": lambda: tab.link("Users", exact=True).click(),
        "range": lambda: page.get_by_label("Range").select_option("90d"),
        "order": lambda: page.get_by_role("columnheader", name="Calls").get_by_role("link").click(),
        "search": search,
        "user": lambda: tab.link(LOSER, exact=True).click(),
        "grouping": lambda: page.get_by_label("Group by").select_option("provider"),
        "tab": lambda: tab.link("Calls", exact=True).click(),
        "filter": lambda: page.get_by_label("Quality").select_option("exact"),
        "back": lambda: page.go_back(),
        "manage": lambda: tab.link("Manage", exact=True).click(),
        "action": lambda: tab.button("Change plan").click(),
    }
    made = {}
    for name, step in steps.items():
        with tab.counted() as requests:
            with page.expect_event("requestfinished", lambda each: "/static/" not in each.url):
                step()
            page.evaluate(SWAPPED)
        # The browser takes the icon from its cache whenever the address has changed.
        made[name] = [each.url for each in requests if "/static/icon." not in each.url]
    assert {name: len(urls) for name, urls in made.items()} == dict.fromkeys(steps, 1), made
