"""The definition of margins: what users pay less what they cost, by user, plan or month.

*Revenue* is what was recorded, or else the price of the user's plan, which is labelled
`plan_price`; see `core/revenue.py`.

*Projected* cost is the cost so far at the same pace until the end of the span; a month is
projected by itself, and the total as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final, Literal, NamedTuple

from paygent.core.messages import MISSING_USER_ID
from paygent.core.money import CAP_NANO_MAX, divide_half_even
from paygent.core.period import Window, common
from paygent.core.report import START, Cursor
from paygent.core.revenue import Months, Revenue, RevenueByKey, RevenueKey, total

MarginKey = RevenueKey
MARGIN_KEYS: Final[tuple[MarginKey, ...]] = ("user", "plan", "month")

MARGIN_SORTS: Final = ("margin", "cost", "revenue", "projected_cost", "projected_margin", "calls")

RevenueSource = Literal["recorded", "plan_price", "mixed"]


class MarginFigures(NamedTuple):
    """Sums of a group.

    Attributes:
        calls: Number of calls.
        cost_nano: So far, in nano-dollars.
        recorded_nano: Revenue that was recorded.
        plan_price_nano: Revenue at the plan's price, where none was recorded.
        has_recorded, has_plan_price: Whether there is such revenue; it may add up to 0.
        projected_cost_nano: At the end of the span.
    """

    calls: int = 0
    cost_nano: int = 0
    recorded_nano: int = 0
    plan_price_nano: int = 0
    has_recorded: bool = False
    has_plan_price: bool = False
    projected_cost_nano: int = 0

    @property
    def revenue_nano(self) -> int:
        """The revenue of both kinds."""
        return self.recorded_nano + self.plan_price_nano

    @property
    def revenue_source(self) -> RevenueSource | None:
        """Where the revenue is from; None without any."""
        if self.has_recorded:
            return "mixed" if self.has_plan_price else "recorded"
        return "plan_price" if self.has_plan_price else None

    @property
    def margin_nano(self) -> int:
        """Revenue less cost."""
        return self.revenue_nano - self.cost_nano

    @property
    def margin_pct(self) -> float | None:
        """The margin as a fraction of the revenue (0.4); None without revenue."""
        return self.margin_nano / self.revenue_nano if self.revenue_nano > 0 else None

    @property
    def projected_margin_nano(self) -> int:
        """Revenue less projected cost."""
        return self.revenue_nano - self.projected_cost_nano


@dataclass(frozen=True)
class MarginQuery:
    """What a report of margins is asked for.

    Attributes:
        by: The key.
        start_us, end_us: Half-open span of time, in microseconds since 1970 UTC.
        where: The value that `user` or `plan` must have.
        sort: One of `MARGIN_SORTS`, or `by`.
        is_descending: Whether the greatest is first; keys are sorted ascending.
        rows_max: Rows of a page; None is all.
        after: Where the page begins.
    """

    by: MarginKey
    start_us: int
    end_us: int
    where: Mapping[str, str] = field(default_factory=dict)
    sort: str = "margin"
    is_descending: bool = False
    rows_max: int | None = None
    after: Cursor = START


class MarginRow(NamedTuple):
    """The figures of a user, plan or month; the key "" is usage without one."""

    key: str
    figures: MarginFigures


class Share(NamedTuple):
    """What the dearest users cost together.

    Attributes:
        percent: How many of the users, in percent.
        users: How many that are, at least one.
        cost_nano: Their cost.
    """

    percent: int
    users: int
    cost_nano: int


class MarginPage(NamedTuple):
    """A page of a report.

    Attributes:
        total: The sums over all rows; its projection is that of the whole cost.
        shares: By user: of the dearest 1, 5 and 10 percent; otherwise empty.
        following: Where the next page begins; None on the last one.
    """

    rows: tuple[MarginRow, ...]
    total: MarginFigures
    shares: tuple[Share, ...]
    following: Cursor | None


class MarginReport(NamedTuple):
    """A page of margins, and what it is about; see `SpendReport`."""

    page: MarginPage
    query: MarginQuery
    timezone: str
    as_of_us: int


Costs = Mapping[str, tuple[int, int]]
"""(calls, cost in nano-dollars) by key."""

_SHARES: Final = (1, 5, 10)
_NO_REVENUE: Final = Revenue()


class MarginGroups:
    """The sums of all groups, from which pages are made in any order.

    A page reads all groups, unless they have been sorted in its order by `sorted_keys`: that pays
    where several pages are made. The sums never change.

    Attributes:
        by_key: (calls, cost, recorded revenue, revenue at plan prices, whether there is some of
            each kind) by user, plan or month; amounts in nano-dollars.
        total: The same of all.
        shown: The orders that pages were made in: (sort, whether the greatest is first).
    """

    __slots__ = ("_now_us", "_orders", "_shares", "_span", "_spans", "by_key", "shown", "total")

    def __init__(
        self,
        costs: Costs,
        used: tuple[int, int],
        revenue: RevenueByKey,
        query: MarginQuery,
        months: Months,
        now_us: int,
    ) -> None:
        """Sum the figures of every group; the arguments are those of `margin_page`."""
        self._span = Window(query.start_us, query.end_us)
        self._now_us = now_us
        self._orders: dict[tuple[str, bool], list[str]] = {}
        self.shown: set[tuple[str, bool]] = set()
        # A month that is over has what it has, however long the span goes on.
        self._spans = (
            {name: common(self._span, days) for name, days in months} if query.by == "month" else {}
        )
        # The two parts of a group are tuples that are put together: there may be 100,000 of them.
        groups: dict[str, tuple[int, ...]] = {
            key: own + revenue.get(key, _NO_REVENUE) for key, own in costs.items()
        }
        groups |= {key: (0, 0, *own) for key, own in revenue.items() if key not in costs}
        self.by_key: Mapping[str, tuple[int, ...]] = groups
        self.total: Sequence[int] = (*used, *total(revenue.values()))
        is_of_users = query.by == "user" and "user" not in query.where
        self._shares = _shares(groups) if is_of_users else ()

    def figures(self, key: str) -> MarginFigures:
        """Return the figures of a group; zero for one without usage and revenue."""
        group = self.by_key.get(key, (0, 0, 0, 0, False, False))
        return _figures(group, self._spans.get(key, self._span), self._now_us)

    def totals(self) -> MarginFigures:
        """Return the figures of all groups together."""
        return _figures(self.total, self._span, self._now_us)

    def page(self, query: MarginQuery) -> MarginPage:
        """Return a page in the order of a query about the same span of time and filters."""
        groups, rows_max = self.by_key, query.rows_max
        rank = self._rank(query.sort, is_descending=query.is_descending)
        after = tuple(query.after[:2])
        order = query.sort, query.is_descending
        self.shown.add(order)
        known = self._orders.get(order)
        if known is not None:
            first = bisect_right(known, after, key=lambda key: (rank(key, groups[key]), key))
            keys = known[first:] if rows_max is None else known[first : first + rows_max]
            page = [(rank(key, groups[key]), key) for key in keys]
            rows_left = len(known) - first
        else:
            ranked = [
                place for key, group in groups.items() if (place := (rank(key, group), key)) > after
            ]
            page = sorted(ranked) if rows_max is None else nsmallest(rows_max, ranked)
            rows_left = len(ranked)
        return MarginPage(
            # Figures are made of the rows of a page alone: there may be a group for each user.
            rows=tuple([MarginRow(key, self.figures(key)) for _, key in page]),
            total=self.totals(),
            shares=self._shares,
            following=Cursor(*page[-1]) if page and len(page) < rows_left else None,
        )

    def sorted_keys(self, sort: str, *, is_descending: bool = False) -> Sequence[str]:
        """Return the keys of all groups in an order of `MarginQuery`, and keep it for pages."""
        order = sort, is_descending
        if order not in self._orders:
            rank = self._rank(sort, is_descending=is_descending)
            ranks = {key: rank(key, group) for key, group in self.by_key.items()}
            # Twice, and stable: it is faster than by pairs, which would have to be made.
            self._orders[order] = sorted(sorted(ranks), key=ranks.__getitem__)
        return self._orders[order]

    def is_sorted(self, sort: str, *, is_descending: bool = False) -> bool:
        """Return whether an order is kept."""
        return (sort, is_descending) in self._orders

    def _rank(self, sort: str, *, is_descending: bool) -> Callable[[str, Sequence[int]], int]:
        return _rank_of(sort, self._spans, self._span, self._now_us, is_descending=is_descending)


def margin_page(
    costs: Costs,
    used: tuple[int, int],
    revenue: RevenueByKey,
    query: MarginQuery,
    months: Months,
    now_us: int,
) -> MarginPage:
    """Return a page of margins.

    Args:
        costs: By the key of the query, with its filters.
        used: Calls and cost of all.
        revenue: By the key of the query, with its filters.
        query: What is asked for.
        months: Those of the product's time zone that touch the span of time.
        now_us: The time until which there is cost.
    """
    return MarginGroups(costs, used, revenue, query, months, now_us).page(query)


def _figures(group: Sequence[int], span: Window, now_us: int) -> MarginFigures:
    calls, cost_nano, recorded_nano, plan_price_nano, has_recorded, has_plan_price = group
    return MarginFigures(
        calls=calls,
        cost_nano=cost_nano,
        recorded_nano=recorded_nano,
        plan_price_nano=plan_price_nano,
        has_recorded=bool(has_recorded),
        has_plan_price=bool(has_plan_price),
        projected_cost_nano=projected(cost_nano, span, now_us),
    )


def projected(cost_nano: int, span: Window, now_us: int) -> int:
    """Return the cost at the end of a span of time at the pace so far; a span that has ended, or
    not begun, has what it has. A moment after its begin the pace may be anything: the projection
    ends at the greatest amount that there is.
    """
    if not span.start_us < now_us < span.end_us:
        return cost_nano
    whole_us, so_far_us = span.end_us - span.start_us, now_us - span.start_us
    return min(divide_half_even(cost_nano * whole_us, so_far_us), CAP_NANO_MAX)


def _rank_of(
    sort: str, spans: Mapping[str, Window], span: Window, now_us: int, *, is_descending: bool
) -> Callable[[str, Sequence[int]], int]:
    """Return the function that gives the rank of a group."""

    def projection(key: str, group: Sequence[int]) -> int:
        return projected(group[1], spans.get(key, span), now_us)

    ranks: Mapping[str, Callable[[str, Sequence[int]], int]] = {
        "calls": lambda _, group: group[0],
        "cost": lambda _, group: group[1],
        "revenue": lambda _, group: group[2] + group[3],
        "margin": lambda _, group: group[2] + group[3] - group[1],
        "projected_cost": projection,
        "projected_margin": lambda key, group: group[2] + group[3] - projection(key, group),
        "month": lambda key, _: int(key.replace("-", "")),
    }
    rank = ranks.get(sort)
    if rank is None:  # by the key
        return lambda *_: 0
    found = rank
    return (lambda key, group: -found(key, group)) if is_descending else found


def _shares(groups: Mapping[str, Sequence[int]]) -> tuple[Share, ...]:
    """Return what the dearest users cost, of all users with cost or revenue."""
    costs = sorted(
        [group[1] for key, group in groups.items() if key != MISSING_USER_ID], reverse=True
    )
    counts = [(percent, -(-len(costs) * percent // 100)) for percent in _SHARES]
    return tuple(Share(percent, count, sum(costs[:count])) for percent, count in counts)
