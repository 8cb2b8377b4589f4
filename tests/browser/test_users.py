"""From the overview to a user, and what can be changed there."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect
from tests.browser.application import Application
from tests.browser.browsing import Browsing
from tests.browser.conftest import OpenBrowser, Site
from tests.browser.data import LONG, LOSER, ODD, QUIET


def address_of(user_id: str, **values: str) -> str:
    """Return the address of a user's page."""
    return "/user?" + urlencode({"id": user_id, **values})


def test_overview__of_the_last_month__shows_the_loss_of_91_dollars_first(tab: Browsing) -> None:
    """The user who cost $140 and paid $49 has the first row and the first bar."""
    page = tab.open("/?range=previous")
    first = page.get_by_role("table", name="Users at a loss").get_by_role("row").nth(1)
    assert first.get_by_role("cell").all_inner_texts()[:4] == [
        LOSER,
        "$49.00",
        "$140.00",
        "−$91.00",
    ]
    bar = page.locator("svg.bars a").first
    assert bar.locator("title").text_content() == f"{LOSER} −$91.00"
    assert bar.locator("rect.bad").count() == 1


def test_blocked_call__of_the_losing_user__passes_two_clicks_after_the_overview(
    tab: Browsing, site: Site
) -> None:
    """A click on the user and one on Raise, and the call that the cap refused passes."""
    with Application(site.keys.sdk, site.address) as application:
        assert application.call(LOSER) == "refused"
        page = tab.open("/")
        tab.link(LOSER).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(LOSER)
        tab.button("Raise").first.click()
        expect(page.get_by_role("status").filter(has_text="Raised")).to_have_text(
            "Raised: Spend, this billing period."
        )
        expect(page.get_by_role("cell", name="by $30.00")).to_be_visible()
        assert application.call(LOSER) not in ("refused", "")
        tab.button("End now").click()
        expect(page.get_by_role("status").filter(has_text="ended")).to_be_visible()
        assert application.call(LOSER) == "refused"


def test_raise__by_no_number__changes_nothing_and_gives_the_rule(tab: Browsing) -> None:
    """An amount that is no number is refused beside the form's page."""
    tab.expect_status(422)
    page = tab.open(address_of(QUIET[0]))
    page.get_by_label("Raise by ($)").fill("a lot")
    tab.button("Raise").first.click()
    expect(page.get_by_role("alert")).to_contain_text("add = a lot: must be a number above 0")
    expect(page.get_by_role("heading", name="Raised for a time")).to_have_count(0)


def test_pause__then_resume__stops_calls_until_then(tab: Browsing, site: Site) -> None:
    """A paused user's calls are refused, and pass again once the user is resumed."""
    user_id = QUIET[1]
    with Application(site.keys.sdk, site.address) as application:
        assert application.call(user_id) not in ("refused", "")
        page = tab.open(address_of(user_id))
        tab.button("Pause").click()
        expect(page.locator(".badge", has_text="paused")).to_be_visible()
        assert application.call(user_id) == "refused"
        tab.button("Resume").click()
        expect(tab.button("Pause")).to_be_visible()
        assert application.call(user_id) not in ("refused", "")


def test_number__of_a_cost__opens_to_its_price_in_three_clicks(tab: Browsing) -> None:
    """From a cost on the overview to the calls behind it, and from a call to its formula."""
    page = tab.open("/?range=previous")
    row = page.get_by_role("table", name="Users at a loss").get_by_role("row").nth(1)
    row.get_by_role("link", name="$140.00").click()
    expect(page.get_by_role("heading", name="Calls")).to_be_visible()
    page.get_by_role("table", name="Calls").get_by_role("row").nth(2).get_by_role(
        "link"
    ).first.click()
    expect(page.get_by_role("heading", name="How the cost follows")).to_be_visible()
    expect(page.get_by_role("cell", name="$2.5 per million")).to_be_visible()


@pytest.mark.parametrize("user_id", [ODD, LONG], ids=["odd", "long"])
def test_user__with_an_unusual_id__has_a_page_and_calls(tab: Browsing, user_id: str) -> None:
    """Quotes, slashes, dots, tags and an emoji in an id are text, on every page of the user."""
    page = tab.open("/users?" + urlencode({"search": user_id[:8]}))
    page.get_by_role("table").get_by_role("link", name=user_id, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(user_id)
    assert page.title() == f"{user_id} · Paygent"
    for name in ("Sessions", "Warnings and refusals", "Manage", "Calls"):
        tab.link(name, exact=True).click()
        expect(tab.link(name, exact=True)).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("heading", level=1)).to_have_text(user_id)
    page.get_by_role("table", name="Calls").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="How the cost follows")).to_be_visible()
    page.locator("dl.facts").get_by_role("link", name=user_id, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(user_id)
    tab.button("Pause").click()
    tab.button("Resume").click()
    expect(tab.button("Pause")).to_be_visible()


def test_pages__without_scripts__lead_to_a_user_and_raise_a_limit(
    open_browser: OpenBrowser, site: Site
) -> None:
    """Links and forms are plain ones: what matters works in a browser without scripts."""
    tab = open_browser(java_script_enabled=False)
    page = tab.open("/")
    tab.link("Users", exact=True).click()
    page.get_by_label("Range").select_option("90d")
    tab.button("Apply").click()
    expect(page.get_by_label("Range")).to_have_value("90d")
    page.get_by_label("Find a user").fill(QUIET[2])
    tab.button("Find").click()
    tab.link(QUIET[2], exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(QUIET[2])
    assert "range=90d" in page.url
    page.get_by_label("Raise by ($)").fill("7.50")
    page.get_by_label("Reason").first.fill("asked for it")
    tab.button("Raise").first.click()
    expect(page.get_by_role("cell", name="by $7.50")).to_be_visible()
    expect(page.get_by_role("cell", name="asked for it")).to_be_visible()


def test_own_page__by_its_link__shows_this_user_alone(
    tab: Browsing, open_browser: OpenBrowser
) -> None:
    """Whoever has the link sees this user's limits and usage, and no other page."""
    page = tab.open(address_of(QUIET[3], tab="manage"))
    tab.button("Make a link").click()
    link = page.locator("pre.snippet code").inner_text().strip().removesuffix("Copy").strip()
    visitor = open_browser(is_signed_in=False)
    own = visitor.open(link.removeprefix(visitor.address))
    expect(own.get_by_role("heading", level=1)).to_have_text("Your usage of Acme Assistant")
    expect(own.get_by_role("heading", name="Limits")).to_be_visible()
    text = own.locator("main").inner_text()
    assert QUIET[3] in text
    assert not [each for each in (LOSER, ODD, LONG, *QUIET[:3]) if each in text]
    assert own.locator("main a, header").count() == 0
    visitor.open("/users")
    expect(own.get_by_label("Admin key")).to_be_visible()
    visitor.expect_status(401)
    visitor.open(link.removeprefix(visitor.address)[:-3] + "abc")
    expect(own.get_by_role("heading", level=1)).not_to_contain_text("Your usage")
