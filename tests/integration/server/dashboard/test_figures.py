"""Every figure on a page is the one that REST reports, to the nano-dollar."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from tests.integration.server.dashboard.browser import Browser, Cell, Page, signed_in
from tests.integration.server.dashboard.figures import USERS, Ask, Rest, fill
from tests.integration.server.service import NOW, Service, event

from paygent.server.dashboard.snapshots import SHOWN_S
from paygent.server.dashboard.users import MARGIN_SORTS, ROWS, SPEND_SORTS

ZONES = ("UTC", "Asia/Kolkata", "America/New_York")
ASKED = 20
"""Ranges with filters in each zone."""


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest) -> str:
    """The product's time zone."""
    chosen: str = request.param
    return chosen


class Figures:
    """A product full of figures, its browser and its reports."""

    def __init__(self, service: Service, zone: str) -> None:
        fill(service, zone, seed=len(zone))
        self.browser = signed_in(service)
        self.rest = Rest(service)
        self._chance = random.Random(zone)
        self._today = datetime.astimezone(NOW, ZoneInfo(zone)).date()

    def asks(self, number: int = ASKED) -> Iterator[Ask]:
        """Yield ranges with filters at random."""
        for _ in range(number):
            yield Ask(self._chance, self._today)

    def whole(self) -> Ask:
        """Return a range with a filter by plan at most."""
        return next(ask for ask in self.asks(1_000) if ask.is_whole)

    def widest(self) -> Ask:
        """Return all 80 days without a filter."""
        asks = self.asks(1_000)
        return next(ask for ask in asks if ask.query.get("range") == "90d" and not ask.where)

    def page(self, ask: Ask, path: str, **more: str) -> Page:
        """Return a page about a range with filters."""
        return self.browser.page(ask.address(path, **more))

    def pages(self, ask: Ask, path: str, **more: str) -> Iterator[Page]:
        """Yield a page and those that follow it."""
        page = self.page(ask, path, **more)
        yield page
        while following := page.all("a", id="next-page") or [
            each for each in page.all("a") if each.text == "Older"
        ]:
            page = self.browser.page(following[0].attributes["href"])
            yield page


@pytest.fixture
def figures(service: Service, zone: str) -> Figures:
    """The figures of a product in a time zone."""
    return Figures(service, zone)


def revenue(row: Mapping[str, Any], name: str = "revenue_nano") -> int | None:
    """Return a figure of a report that needs revenue; None without any."""
    return row[name] if row["revenue_source"] else None


def name_of(value: str | None) -> str:
    """Return a key as pages show it."""
    return value or "(none)"


def figures_of(cells: list[Cell]) -> list[int | None]:
    """Return the figures of cells."""
    return [cell.figure for cell in cells]


def assert_chart(page: Page, ask: Ask, report: Mapping[str, Any]) -> None:
    """Check the table behind a chart: each series and each span, and nothing left out."""
    rows = page.table(ask.unit.capitalize())
    names = [cell.text for cell in rows[0][1:-1]]
    expected: dict[tuple[str, str], int] = {}
    for row in report["rows"]:
        expected[row[ask.unit], name_of(row[ask.group])] = row["cost_nano"]
    assert len({cell[0].text for cell in rows}) == len(rows)
    for cells in rows[1:]:
        span, values = cells[0].text, figures_of(cells[1:-1])
        whole = sum(cost for (other, _), cost in expected.items() if other == span)
        assert cells[-1].figure == whole == sum(value or 0 for value in values)
        for name, value in zip(names, values, strict=True):
            if not name.endswith(" others"):
                assert value == expected.get((span, name), 0)
    totals = [cells[-1].figure or 0 for cells in rows[1:]]
    assert sum(totals) == report["total"]["cost_nano"]


def test_overview__shows_what_rest_reports(figures: Figures) -> None:
    """Tiles, chart, the losing and the dearest users, and the quality of the figures."""
    for ask in figures.asks():
        page, rest = figures.page(ask, "/"), figures.rest
        spend = rest.spend(ask, f"{ask.unit},{ask.group}")
        total = spend["total"]
        so_far = " so far" if ask.is_running else ""
        assert page.facts[f"Spend{so_far}"].figure == total["cost_nano"]
        assert page.facts["Calls"].figure == total["calls"]
        if spend["rows"]:
            assert_chart(page, ask, spend)
        quality_of = {name: ask.where[name] for name in ("model", "provider") if name in ask.where}
        quality = rest.get("/reports/quality", by="model", **ask.days, **quality_of)["total"]
        assert page.facts["Estimated calls"].figure == quality["estimated"]
        assert page.facts["Calls without a price"].figure == quality["unpriced"]
        assert page.facts["Unmetered calls"].figure == quality["unmetered"]
        if ask.is_whole:
            assert_margins(page, ask, rest.margin(ask, "user"))
        else:
            assert "Revenue" not in page.facts


def test_overview__compared__shows_the_changes_since_the_month_before(figures: Figures) -> None:
    """Of spend, revenue and calls, with a filter and without."""
    asks = [ask for ask in figures.asks(2_000) if not ask.where.keys() - {"plan"}]
    for plan in (None, "pro"):
        of_plan = [ask for ask in asks if ask.where.get("plan") == plan]
        now, before = (
            next(ask for ask in of_plan if ask.query.get("range") == name)
            for name in ("month", "previous")
        )
        totals = [figures.rest.margin(ask, "user")["total"] for ask in (now, before)]
        expected = [
            (totals[0][name] - totals[1][name]) / totals[1][name]
            for name in ("cost_nano", "revenue_nano", "calls")
            if totals[1][name]
        ]
        page = figures.page(now, "/", compare="previous")
        found = [each for each in page.all("data", class_="percent") if each.path[-1] == "span"]
        assert [float(each.attributes["value"]) for each in found] == expected
        assert expected


def assert_margins(page: Page, ask: Ask, report: Mapping[str, Any]) -> None:
    """Check the part of the overview about margins."""
    total, rows = report["total"], report["rows"]
    assert page.facts["Projected spend"].figure == total["projected_cost_nano"]
    assert page.facts["Revenue"].figure == revenue(total)
    projected = "Projected margin" if ask.is_running else "Margin"
    assert page.facts[projected].figure == revenue(total, "projected_margin_nano")
    users = [row for row in rows if row["user"] != "(none)"]
    known = [row for row in users if row["revenue_source"] is not None]
    losing = [row for row in known if row["margin_nano"] < 0]
    tail = page.one("section", class_="card tail")
    head = tail.text.split("in this range")[0]
    if losing:
        assert f"{len(losing)} of {len(known)} users cost more than they pay" in head
        lost = sum(row["margin_nano"] for row in losing)
        shown = [each for each in page.all("data") if each.path[-1] == "p"]
        assert str(lost) in [each.attributes["value"] for each in shown]
    shown_rows = [
        (cells[0].text, *figures_of(cells[1:5])) for cells in page.table("User at a loss")[1:]
    ]
    assert shown_rows == [
        (row["user"], revenue(row), row["cost_nano"], row["margin_nano"], row["calls"])
        for row in losing[:8]
    ]
    by_cost = sorted(rows, key=lambda row: (-row["cost_nano"], row["user"]))[:8]
    tables = [rows for rows in page.tables if [cell.text for cell in rows[0]][:3] == TOP]
    assert [(cells[0].text, *figures_of(cells[1:])) for cells in (tables or [[]])[0][1:]] == [
        (row["user"], row["calls"], row["cost_nano"], revenue(row, "margin_nano"))
        for row in by_cost
    ]


TOP = ["User", "Calls", "Cost"]


def test_users__by_margin__are_the_rows_of_rest_in_its_order(figures: Figures) -> None:
    """Every page of the list, in every order; each page has the total of all."""
    for ask in (figures.widest(), figures.whole()):
        for sort in [f"{sign}{name}" for name in MARGIN_SORTS for sign in ("", "-")]:
            report = figures.rest.margin(ask, "user", sort=sort)
            shown: list[tuple[Any, ...]] = []
            for page in figures.pages(ask, "/users", sort=sort):
                rows = page.tables[0]
                for cells in rows[1:-1]:
                    values = figures_of(cells[2:7] if ask.is_running else cells[2:6])
                    shown.append((page_user(cells), *values))
                total = report["total"]
                assert figures_of(rows[-1][2:4]) == [total["calls"], total["cost_nano"]]
            assert shown == [margin_row(row, ask) for row in report["rows"]]
            assert sum(row[2] for row in shown) == report["total"]["cost_nano"]
    assert len(figures.rest.margin(figures.widest(), "user")["rows"]) > ROWS


def margin_row(row: Mapping[str, Any], ask: Ask) -> tuple[Any, ...]:
    """Return a row of a report as the list shows it."""
    names = ("margin_nano", "projected_margin_nano") if ask.is_running else ("margin_nano",)
    margins = [revenue(row, name) for name in names]
    return (row["user"], row["calls"], row["cost_nano"], revenue(row), *margins)


def page_user(cells: list[Cell]) -> str:
    """Return the user of a row, without the name beside the id."""
    text = cells[0].text
    return next(user for user in sorted(USERS, key=len, reverse=True) if text.startswith(user))


def test_users__by_usage_of_a_model__are_the_rows_of_rest_in_its_order(figures: Figures) -> None:
    """A filter by model or provider leaves usage alone, with marks for what is not exact."""
    asked = [ask for ask in figures.asks(60) if not ask.is_whole][:6]
    for ask, sort in [(ask, f"-{sort}") for ask in asked for sort in SPEND_SORTS]:
        report = figures.rest.spend(ask, "user", sort=sort)
        shown: list[tuple[Any, ...]] = []
        for page in figures.pages(ask, "/users", sort=sort):
            for cells in (page.tables or [[]])[0][1:-1]:
                marks = "\u2248" in cells[3].text, "no price" in cells[3].text
                shown.append((page_user(cells), *figures_of(cells[2:4]), *marks))
        assert shown == [
            (
                row["user"],
                row["calls"],
                row["cost_nano"],
                bool(row["estimated_calls"]),
                bool(row["unpriced_calls"]),
            )
            for row in report["rows"]
        ]


def test_users__by_id__are_all_users_with_the_figures_of_rest(figures: Figures) -> None:
    """The list of the directory has users without usage too; a plan limits both."""
    for ask in figures.asks(6):
        own: dict[str, tuple[int, int]] = {}
        report = (figures.rest.margin if ask.is_whole else figures.rest.spend)(ask, "user")
        for row in report["rows"]:
            own[row["user"]] = row["calls"], row["cost_nano"]
        plan = ask.plan if ask.plan.get("plan") else {}
        listed = figures.rest.get("/users", limit=100, **plan)["users"]
        shown = [
            (page_user(cells), *figures_of(cells[2:4]))
            for page in figures.pages(ask, "/users", sort="user")
            for cells in (page.tables or [[]])[0][1:]
        ]
        assert shown == [
            (user["external_user_id"], *own.get(user["external_user_id"], (0, 0)))
            for user in listed
        ]


def test_user__shows_what_rest_reports(figures: Figures) -> None:
    """Limits, margins, models and the chart of one user."""
    for number, ask in enumerate(figures.asks()):
        user_id = USERS[number % 5 if number % 2 else -1 - number % 4]
        page, rest = figures.page(ask, "/user", id=user_id), figures.rest
        report = rest.spend(ask, "model", user=user_id)
        if not report["rows"]:
            assert not page.table("Model")
        else:
            rows = page.table("Model")
            assert [(cells[0].text, *figures_of(cells[1:])) for cells in rows[1:-1]] == [
                (name_of(row["model"]), *usage_of(row)) for row in report["rows"]
            ]
            assert figures_of(rows[-1][1:]) == usage_of(report["total"])
            by = f"{ask.unit},{ask.group}"
            assert_chart(page, ask, rest.spend(ask, by, user=user_id))
        limits = rest.get(f"/users/{quote(user_id, safe='')}/limits")["limits"]
        expected = []
        for limit in limits:
            unit = 10**9 if limit["metric"] == "spend" else 1
            expected += [round(limit["used"] * unit), round(limit["cap"] * unit)]
        assert gauges_of(page) == expected
        if ask.is_whole and not ask.plan:
            whole = rest.margin(ask, "user", user=user_id)["total"]
            assert page.facts["Projected cost"].figure == whole["projected_cost_nano"]
            assert page.facts["Revenue"].figure == revenue(whole)
            assert page.facts["Margin"].figure == revenue(whole, "margin_nano")
            assert page.facts["Calls"].figure == whole["calls"]


def gauges_of(page: Page) -> list[int]:
    """Return what is used and the cap of each limit."""
    parents = ("section", "div", "div", "span")
    return [
        int(each.attributes["value"])
        for each in page.all("data")
        if each.path[-4:] == parents and each.attributes["class"] != "percent"
    ]


def usage_of(row: Mapping[str, Any]) -> list[int]:
    """Return calls, tokens and cost of a report."""
    return [row["calls"], row["input_tokens"], row["output_tokens"], row["cost_nano"]]


def test_calls__of_all_pages__add_up_to_the_reports(figures: Figures) -> None:
    """Every call and correction is listed once, on the page and in the export."""
    for number, ask in enumerate(figures.asks()):
        user_id = USERS[number % 3]
        total = figures.rest.spend(ask, "user", user=user_id)["total"]
        rows = [
            cells
            for page in figures.pages(ask, "/user", id=user_id, tab="calls")
            for cells in page.table("When")[1:]
        ]
        calls = [cells for cells in rows if "correction" not in cells[1].text]
        sums = [sum(cells[place].figure or 0 for cells in rows) for place in (2, 3, 4)]
        assert [len(calls), *sums] == usage_of(total)
        address = ask.address("/export", report="calls", id=user_id)
        exported = list(csv.DictReader(io.StringIO(figures.browser.get(address).text)))
        assert len(exported) == len(rows)
        assert sum(int(row["cost_nano"]) for row in exported) == total["cost_nano"]


def test_calls__each_opens_to_its_cost(figures: Figures) -> None:
    """The page of a call has the cost that the list has, and its corrections."""
    ask = figures.whole()
    page = figures.page(ask, "/user", id=USERS[0], tab="calls", range="90d")
    links = [each for each in page.all("a") if each.attributes["href"].startswith("/call?")]
    for link, cells in zip(links, page.table("When")[1:], strict=True):
        call = figures.browser.page(link.attributes["href"])
        shown = [int(each.attributes["value"]) for each in call.all("data") if "h1" in each.path]
        assert shown == [cells[4].figure]


def test_sessions__are_those_of_rest(figures: Figures) -> None:
    """Calls, tokens and cost of each session, without any filter of usage."""
    for number, ask in enumerate(figures.asks(8)):
        user_id = USERS[number % 3]
        path = f"/users/{quote(user_id, safe='')}/usage"
        report = figures.rest.get(path, breakdown="session", **ask.days)
        page = figures.page(ask, "/user", id=user_id, tab="sessions")
        rows = [(cells[0].text, *figures_of(cells[2:])) for cells in page.table("Session")[1:]]
        assert rows == [(name_of(row["session_id"]), *usage_of(row)) for row in report["rows"]]


def test_gate_events__of_all_pages__add_up_to_the_report(figures: Figures) -> None:
    """Warnings and refusals of a user, as many as the report counts."""
    for number, ask in enumerate(figures.asks(8)):
        user_id = USERS[number % 6]
        report = figures.rest.get("/reports/gates", user=user_id, **ask.days)["total"]
        counted = {"warned": 0, "refused": 0, "passed": 0}
        for page in figures.pages(ask, "/user", id=user_id, tab="gates"):
            for cells in page.table("When")[1:]:
                outcome = cells[1]
                counted[outcome.text.split()[0]] += outcome.figure or 1
        assert counted["warned"] == report["soft"]
        assert counted["refused"] == report["refused_calls"]
        assert counted["refused"] + counted["passed"] == report["hard"]


def test_plans__are_the_rows_of_rest(figures: Figures) -> None:
    """Revenue, cost and margin of each plan, and of all."""
    for ask in figures.asks(8):
        report = figures.rest.margin(ask, "plan")
        rows = figures.page(ask, "/plans").table("Plan")
        own = {name_of(row["plan"]): row for row in report["rows"]}
        for cells in rows[1:-1]:
            name = cells[0].text.split()[0]
            row = own.pop(name, {"revenue_source": None, "cost_nano": 0})
            assert cells[6].figure == row["cost_nano"]
            assert cells[5].figure == revenue(row)
            assert cells[7].figure == revenue(row, "margin_nano")
        assert not own
        total = report["total"]
        sums = [revenue(total), total["cost_nano"], revenue(total, "margin_nano")]
        assert figures_of(rows[-1][5:]) == sums


def test_prices__are_the_rows_of_rest(figures: Figures) -> None:
    """Calls, calls without a price and cost of each model, and of all."""
    for ask in figures.asks(8):
        report = figures.rest.spend(ask, "model")
        rows = figures.page(ask, "/prices").table("Model in use")
        names = ("calls", "unpriced_calls", "cost_nano")
        assert [(cells[0].text, *figures_of(cells[4:])) for cells in rows[1:-1]] == [
            (name_of(row["model"]), *[row[name] for name in names]) for row in report["rows"]
        ]
        if rows:
            assert figures_of(rows[-1][4:]) == [report["total"][name] for name in names]


def test_exports__are_the_files_of_rest(figures: Figures) -> None:
    """Byte for byte, with the range and filters of the page."""
    for number, ask in enumerate(figures.asks(10)):
        by = ("user", "model", f"{ask.unit},{ask.group}", "user,session")[number % 4]
        answer = figures.browser.get(ask.address("/export", report="spend", by=by))
        assert answer.content == figures.rest.csv("spend", by=by, **ask.days, **ask.where)
        by = ("user", "plan", "month")[number % 3]
        answer = figures.browser.get(ask.address("/export", report="margin", by=by))
        assert answer.content == figures.rest.csv("margin", by=by, **ask.days, **ask.plan)
        assert answer.headers["content-disposition"].startswith("attachment")


# -- how fresh


@pytest.fixture
def clock(service: Service) -> list[float]:
    """The clock of the snapshots, in seconds, which a test sets."""
    now_s = [100.0]
    service.app.state.snapshots._now_s = lambda: now_s[0]
    return now_s


def calls_of_users(browser: Browser) -> int | None:
    """Return the number of calls on the list of users."""
    return browser.page("/users").tables[0][-1][2].figure


def test_snapshot__of_margins__is_at_most_ten_seconds_old(
    service: Service, browser: Browser, clock: list[float]
) -> None:
    """What was booked is on the page ten seconds later."""
    service.book(event(1))
    assert calls_of_users(browser) == 1
    service.book(event(2))
    clock[0] += SHOWN_S
    assert calls_of_users(browser) == 2


def paid(browser: Browser) -> int | None:
    """Return the revenue on the overview."""
    return browser.page("/").facts["Revenue"].figure


@pytest.mark.parametrize("has_htmx", [False, True])
def test_snapshot__after_an_action__is_read_again(
    service: Service, browser: Browser, clock: list[float], has_htmx: bool
) -> None:
    """A change of plan and an erasure are on the next page at once."""
    headers = {"HX-Request": "true"} if has_htmx else {}
    service.plan("pro", price=20)
    service.plan("team", price=90)
    service.user("u1")
    service.book(event(1))
    act: Callable[..., Any] = browser.post
    seen = [paid(browser)]
    for path, form in (
        ("/user/plan", {"id": "u1", "plan": "pro"}),
        ("/user/plan", {"id": "u1", "plan": "team"}),
    ):
        act(path, form, headers=headers)
        total = service.get("/reports/margin?from=2026-11-01&to=2026-12-01").json()["total"]
        seen.append(paid(browser))
        assert seen[-1] == total["revenue_nano"]
    assert len(set(seen)) == len(seen)
    assert "u1" in browser.get("/users").text
    act("/user/erase", {"id": "u1", "confirm": "u1"}, headers=headers)
    assert "u1</a>" not in browser.get("/users").text
