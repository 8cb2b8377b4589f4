"""The overview: what is spent and earned, who loses money, and whether the figures can be trusted.

Everything on it is a report that REST answers, too: usage by day and model, margins by user, gate
events and quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response

from paygent.core.margin import MarginFigures, MarginQuery, MarginRow
from paygent.core.messages import GateEvent
from paygent.core.period import days_between, months_between
from paygent.core.report import Figures, SpendReport
from paygent.core.report_request import QUALITY, SpendRequest, read_request
from paygent.core.tally import TallyReport
from paygent.server.dashboard.render import page
from paygent.server.dashboard.state import NONE_TEXT
from paygent.server.dashboard.visit import MemberVisit
from paygent.store.dashboard_port import AuditRecord, Deliveries
from paygent.store.directory_port import GateEventFilter
from paygent.store.ledger import SqlStore

_TOP_USERS = 8
_GATE_EVENTS = 8
_SERIES_MAX = 7  # with one more for the others, as many as the chart has colours
_DAYS_OF_CHART_MAX = 120  # beyond it the chart is by month
_PROCESS_SEEN_US = 5 * 60 * 10**6


class Health(NamedTuple):
    """Whether the figures can be trusted.

    Attributes:
        quality: Calls by quality, and unmetered ones, in the range.
        deliveries: Which processes deliver.
        audit: The last comparison of counters with events; None if there was none.
        as_of_us: The ledger's time of the figures.
    """

    quality: Mapping[str, int]
    deliveries: Deliveries
    audit: AuditRecord | None
    as_of_us: int


class Series(NamedTuple):
    """The cost of a group over the spans of a chart.

    Attributes:
        name: The model, provider or plan; "" is calls without one.
        is_other: Whether it is the sum of several.
        cost_nano: In each span.
        total_nano: Their sum.
    """

    name: str
    is_other: bool
    cost_nano: tuple[int, ...]
    total_nano: int

    @property
    def quoted(self) -> str:
        """The name as the value of a query; the last one of a name counts."""
        return quote(self.name or NONE_TEXT, safe="")


class Chart(NamedTuple):
    """Cost over time by group.

    Attributes:
        unit: "day" or "month".
        group: What it is stacked by.
        spans: Their names, in order, also those without calls.
        series: The dearest groups, the dearest first, and the others.
        totals: Of each span.
    """

    unit: str
    group: str
    spans: tuple[str, ...]
    series: tuple[Series, ...]
    totals: tuple[int, ...]


async def show_overview(visit: MemberVisit) -> Response:
    """Show the overview."""
    is_whole = not {"model", "provider"} & visit.state.where.keys()
    margins = await visit.snapshots.margins(visit.tenant, visit.margin_request("user", None))
    unit = chart_unit(visit)
    spend = await visit.ask(
        visit.store.spend, visit.spend_request(f"{unit},{visit.state.group}", None)
    )
    earlier = earlier_margins = None
    if visit.state.compares:
        before = visit.at(visit.state.previous())
        earlier = await visit.ask(before.store.spend, before.spend_request("model", 1))
        if is_whole:
            asked = before.margin_request("plan", None)  # the total is the same, and read sooner
            earlier_margins = (await visit.snapshots.margins(visit.tenant, asked)).groups.totals()
    now_us = visit.tenant.now_us()
    health, gates = await visit.ask(_read_rest, visit.store, _quality(visit), now_us)
    dearest = margins.groups.page(
        MarginQuery("user", 0, 0, sort="cost", is_descending=True, rows_max=_TOP_USERS)
    )
    tail = margins.tail
    assert tail is not None  # these are margins by user
    return await page(
        visit,
        "overview.html",
        views=await visit.ask(visit.store.saved_views),
        is_whole=is_whole,
        spend=spend.page.total,
        earlier=earlier and earlier.page.total,
        margin=margins.groups.totals(),
        earlier_margin=earlier_margins,
        margins_as_of_us=margins.as_of_us,
        chart=chart_of(spend, visit),
        tail=tail,
        losing=[MarginRow(each, margins.groups.figures(each)) for each in tail.worst],
        dearest=dearest.rows,
        shares=dearest.shares,
        gates=gates,
        health=health,
        is_empty=await _is_empty(visit, spend.page.total, margins.groups.totals()),
    )


def chart_unit(visit: MemberVisit) -> str:
    """Return the span of a chart's bars: "day", or "month" in a long range."""
    return "day" if visit.state.days <= _DAYS_OF_CHART_MAX else "month"


def chart_of(report: SpendReport, visit: MemberVisit) -> Chart:
    """Return the chart of a report by day or month, and by what the page groups."""
    unit, group = report.query.by
    first, last = visit.state.start.isoformat(), visit.state.last_day.isoformat()
    spans = days_between(first, last) if unit == "day" else months_between(first, last)
    place = {span: number for number, span in enumerate(spans)}
    costs: dict[str, list[int]] = {}
    for row in report.page.rows:
        span, name = row.keys
        costs.setdefault(name, [0] * len(spans))[place[span]] += row.figures.cost_nano
    ranked = sorted(costs, key=lambda name: (-sum(costs[name]), name))
    series = [
        Series(name, False, tuple(costs[name]), sum(costs[name])) for name in ranked[:_SERIES_MAX]
    ]
    if others := ranked[_SERIES_MAX:]:
        summed = tuple(map(sum, zip(*[costs[name] for name in others], strict=True)))
        series.append(Series(f"{len(others)} others", True, summed, sum(summed)))
    totals = tuple([sum(each.cost_nano[number] for each in series) for number in range(len(spans))])
    return Chart(unit, group, tuple(spans), tuple(series), totals)


def _quality(visit: MemberVisit) -> SpendRequest:
    where = {name: value for name, value in visit.state.where.items() if name in QUALITY.filters}
    given = visit.state.report(by="model", **where)
    return read_request(given, rules=QUALITY, rows_max=1)


def _read_rest(
    product: str, store: SqlStore, quality: SpendRequest, now_us: int
) -> tuple[Health, tuple[GateEvent, ...]]:
    report: TallyReport = store.tally(product, "quality", quality)
    names = ("calls", "exact", "partial", "estimated", "unpriced", "unmetered")
    health = Health(
        dict(zip(names, report.total, strict=True)),
        store.deliveries(product, now_us - _PROCESS_SEEN_US),
        store.last_audit(product),
        report.as_of_us,
    )
    return health, store.latest_gate_events(product, GateEventFilter(), _GATE_EVENTS)


async def _is_empty(visit: MemberVisit, spend: Figures, margin: MarginFigures) -> bool:
    """Return whether the product has never had a call, so that the first steps are shown."""
    if spend.calls or margin.calls or margin.revenue_nano:
        return False
    return not await visit.ask(visit.store.list_users, after="", users_max=1)
