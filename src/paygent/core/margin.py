"""The definition of margins: what users pay less what they cost, by user, plan or month.

*Revenue* of a span of time is accrued: a payment counts by the part of its own span that lies in
it, so that the revenue of two months is the sum of both, to the nano-dollar. A payment is dated
revenue that was recorded; a refund is a negative one. A billing period without any payment has the
price of the user's plan in its place, while the user is there, and is labelled `plan_price`. A
price belongs to the plan as it was at the period's begin; what has ended for good has none.

*Projected* cost is the cost so far at the same pace until the end of the span; a month is
projected by itself, and the total as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final, Literal, NamedTuple

from paygent.core.messages import MISSING_USER_ID
from paygent.core.money import CAP_NANO_MAX, divide_half_even
from paygent.core.period import Subscription, Window, billing_period
from paygent.core.report import START, Cursor

MarginKey = Literal["user", "plan", "month"]
MARGIN_KEYS: Final[tuple[MarginKey, ...]] = ("user", "plan", "month")

MARGIN_SORTS: Final = ("margin", "cost", "revenue", "projected_cost", "projected_margin", "calls")

RevenueSource = Literal["recorded", "plan_price", "mixed"]


class Payment(NamedTuple):
    """A recorded payment, or a refund.

    Attributes:
        start_us, end_us: The span of time that it is for, half-open.
        amount_nano: Negative for a refund.
    """

    start_us: int
    end_us: int
    amount_nano: int


class Contract(NamedTuple):
    """A plan that a user has, or had.

    Attributes:
        begin_us: Since when.
        plan: Its name.
        subscription: The billing period; None is the UTC calendar month.
        own_price_nano: Price of the user's own version of it; None without one.
    """

    begin_us: int
    plan: str
    subscription: Subscription | None = None
    own_price_nano: int | None = None


class Customer(NamedTuple):
    """What a user's revenue follows from.

    Attributes:
        begin_us, end_us: From when until when there is a plan's price: while the user is there.
        contracts: The plans that the user had, oldest first; the first one counts before its begin,
            too. Never empty.
        payments: All that touch the span of time of the report, and its billing periods.
    """

    user_id: str
    begin_us: int
    end_us: int
    contracts: tuple[Contract, ...]
    payments: tuple[Payment, ...] = ()


Prices = Mapping[str, Sequence[tuple[int, int | None]]]
"""(begin, price in nano-dollars) of the versions of each plan, oldest first."""


class Accrual(NamedTuple):
    """A part of a user's revenue: on one plan, in one month.

    Attributes:
        month: In the product's time zone, YYYY-MM.
        is_recorded: Whether it was paid, and is not the plan's price.
    """

    plan: str
    month: str
    amount_nano: int
    is_recorded: bool


class Revenue(NamedTuple):
    """Sums of accruals; fields as in `MarginFigures`."""

    recorded_nano: int = 0
    plan_price_nano: int = 0
    has_recorded: bool = False
    has_plan_price: bool = False

    def plus(self, accrual: Accrual) -> Revenue:
        """Return the sums with another accrual."""
        if accrual.is_recorded:
            return self._replace(
                recorded_nano=self.recorded_nano + accrual.amount_nano, has_recorded=True
            )
        return self._replace(
            plan_price_nano=self.plan_price_nano + accrual.amount_nano, has_plan_price=True
        )

    def of_users(self, count: int) -> Revenue:
        """Return the sums of so many users who all have this revenue."""
        return self._replace(
            recorded_nano=self.recorded_nano * count, plan_price_nano=self.plan_price_nano * count
        )


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


def accruals(
    customer: Customer, prices: Prices, span: Window, months: Sequence[tuple[str, Window]]
) -> Iterator[Accrual]:
    """Yield a user's revenue in a span of time, in parts of one plan and month each.

    Args:
        customer: The user.
        prices: Of the plans.
        span: The span of time.
        months: Those of the product's time zone that touch the span.
    """
    there = _common(span, Window(customer.begin_us, customer.end_us))
    for contract, window in _contracts(customer, span):
        for payment in customer.payments:
            of = Window(payment.start_us, payment.end_us)
            for part, month in _parts(_common(of, window), months):
                amount_nano = share(payment.amount_nano, of, part)
                yield Accrual(contract.plan, month, amount_nano, is_recorded=True)
        for period in _periods(contract.subscription, _common(window, there)):
            if any(
                each.start_us < period.end_us and each.end_us > period.start_us
                for each in customer.payments
            ):
                continue
            price_nano = _price(contract, prices, period.start_us)
            if price_nano is not None:
                for part, month in _parts(_common(_common(period, window), there), months):
                    amount_nano = share(price_nano, period, part)
                    yield Accrual(contract.plan, month, amount_nano, is_recorded=False)


def share(amount_nano: int, of: Window, part: Window) -> int:
    """Return what of an amount for a span of time belongs to a part of it. The shares of parts
    that touch each other add up exactly to that of both.
    """
    length = of.end_us - of.start_us
    before, after = (at_us - of.start_us for at_us in part)
    return amount_nano * after // length - amount_nano * before // length


def _common(first: Window, second: Window) -> Window:
    return Window(max(first.start_us, second.start_us), min(first.end_us, second.end_us))


def _periods(subscription: Subscription | None, span: Window) -> Iterator[Window]:
    """Yield the billing periods that touch a span of time."""
    at_us = span.start_us
    while at_us < span.end_us:
        period = billing_period(subscription, at_us)
        if period is None:
            return  # it has ended for good: what is left is the default plan's, without a price
        yield period
        at_us = period.end_us


def revenue_of(found: Iterable[Accrual], query: MarginQuery) -> dict[str, Revenue]:
    """Return a user's revenue by the key of a query; by user there is one, with the key ""."""
    sums: dict[str, Revenue] = {}
    plan = query.where.get("plan")
    for accrual in found:
        if plan is None or accrual.plan == plan:
            key = "" if query.by == "user" else str(getattr(accrual, query.by))
            sums[key] = sums.get(key, Revenue()).plus(accrual)
    return sums


def _contracts(customer: Customer, span: Window) -> Iterator[tuple[Contract, Window]]:
    """Yield the contracts of a user with the part of a span of time that each is in force."""
    contracts = customer.contracts
    for number, contract in enumerate(contracts):
        begin_us = contract.begin_us if number else span.start_us
        last = number + 1 == len(contracts)
        until_us = span.end_us if last else contracts[number + 1].begin_us
        window = _common(span, Window(begin_us, until_us))
        if window.start_us < window.end_us:
            yield contract, window


def _parts(window: Window, months: Sequence[tuple[str, Window]]) -> Iterator[tuple[Window, str]]:
    """Yield the parts of a span of time in each month."""
    for month, days in months:
        part = _common(window, days)
        if part.start_us < part.end_us:
            yield part, month


def _price(contract: Contract, prices: Prices, at_us: int) -> int | None:
    """Return the price of a plan for a period that begins at a moment; before the plan was
    configured it is that of its first version.
    """
    if contract.own_price_nano is not None:
        return contract.own_price_nano
    versions = prices.get(contract.plan, ())
    price_nano = versions[0][1] if versions else None
    for begin_us, each in versions:
        if begin_us > at_us:
            break
        price_nano = each
    return price_nano


def margin_page(
    costs: Costs,
    total: tuple[int, int],
    revenue: Iterable[tuple[str, Revenue]],
    query: MarginQuery,
    months: Sequence[tuple[str, Window]],
    now_us: int,
) -> MarginPage:
    """Return a page of margins.

    Args:
        costs: By the key of the query, with its filters.
        total: Calls and cost of all.
        revenue: (key, revenue), with the filters of the query; of a key there may be several.
        query: What is asked for.
        months: Those of the product's time zone that touch the span of time.
        now_us: The time until which there is cost.
    """
    span = Window(query.start_us, query.end_us)
    # A month that is over has what it has, however long the span goes on.
    spans = {name: _common(span, days) for name, days in months} if query.by == "month" else {}
    groups: dict[str, tuple[int, ...]] = {
        key: (calls, cost_nano, 0, 0, False, False) for key, (calls, cost_nano) in costs.items()
    }
    nothing = (0, 0, 0, 0, False, False)
    sums = [*total, 0, 0, False, False]
    for key, own in revenue:
        calls, cost_nano, recorded, price, has_recorded, has_price = groups.get(key, nothing)
        groups[key] = (
            *(calls, cost_nano, recorded + own[0], price + own[1]),
            *(has_recorded or own[2], has_price or own[3]),
        )
        sums[2:] = sums[2] + own[0], sums[3] + own[1], sums[4] or own[2], sums[5] or own[3]
    rank = _rank_of(query, spans, span, now_us)
    after = tuple(query.after[:2])
    # Figures are made of the rows of a page alone: there may be a group for each user.
    ranked = [place for key, group in groups.items() if (place := (rank(key, group), key)) > after]
    rows_max = query.rows_max
    page = sorted(ranked) if rows_max is None else nsmallest(rows_max, ranked)
    return MarginPage(
        rows=tuple(
            [MarginRow(key, _figures(groups[key], spans.get(key, span), now_us)) for _, key in page]
        ),
        total=_figures(sums, span, now_us),
        shares=_shares(groups) if query.by == "user" and "user" not in query.where else (),
        following=Cursor(*page[-1]) if page and len(page) < len(ranked) else None,
    )


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
    query: MarginQuery, spans: Mapping[str, Window], span: Window, now_us: int
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
    rank = ranks.get(query.sort)
    if rank is None:  # by the key
        return lambda *_: 0
    found = rank
    return (lambda key, group: -found(key, group)) if query.is_descending else found


def _shares(groups: Mapping[str, Sequence[int]]) -> tuple[Share, ...]:
    """Return what the dearest users cost, of all users with cost or revenue."""
    costs = sorted(
        [group[1] for key, group in groups.items() if key != MISSING_USER_ID], reverse=True
    )
    counts = [(percent, -(-len(costs) * percent // 100)) for percent in _SHARES]
    return tuple(Share(percent, count, sum(costs[:count])) for percent, count in counts)
