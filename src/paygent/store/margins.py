"""Margins from the store: the cost of reports, recorded revenue, and the prices of plans.

Users without a call are read as well, since they pay; the definitions are `core/margin.py` and
`core/revenue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import Any, NamedTuple

from paygent.core.margin import Costs, MarginGroups, MarginKey, MarginQuery, MarginReport
from paygent.core.messages import DEFAULT_PLAN, MISSING_USER_ID
from paygent.core.money import read_cap_nano
from paygent.core.period import (
    END_OF_TIME_US,
    Renewal,
    Subscription,
    Window,
    day_in_zone,
)
from paygent.core.report_request import SpendRequest, month_in_zone
from paygent.core.revenue import (
    Contract,
    Customer,
    Months,
    Payment,
    Prices,
    Revenue,
    RevenueByKey,
    RevenueRules,
    summed,
)
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.reports import all_costs, resolved
from paygent.store.rows import from_json, subscription_from, subscription_of
from paygent.store.statements import Row, Statements

_MONTH_US = 31 * 86_400 * 10**6

_ARRIVAL_US = 60 * 10**6
"""How long after a user came the first assignment is still part of the arrival."""


class KnownRevenue(NamedTuple):
    """Revenue that was read. It follows from users, plans and payments, so that it changes less
    often than the cost of calls, and it takes longer to read.

    Attributes:
        state: The question, and the state of everything that the answer follows from.
        by_key: The answer.
    """

    state: tuple[Any, ...]
    by_key: RevenueByKey


class AllMargins(NamedTuple):
    """The margins of all groups, and what they are about.

    Attributes:
        groups: Their sums.
        as_of_us: The ledger's time.
        revenue: For the next reading.
    """

    groups: MarginGroups
    as_of_us: int
    revenue: KnownRevenue


class _Usage(NamedTuple):
    """The usage that a report is about.

    Attributes:
        query: What is asked for.
        zone: The product's time zone.
        months: Those of the zone that touch the span of time.
        costs: (calls, cost in nano-dollars) by the key of the query.
        used: The same of all.
        now_us: The time until which there is cost.
    """

    query: MarginQuery
    zone: str
    months: Months
    costs: Costs
    used: tuple[int, int]
    now_us: int

    def with_revenue(self, revenue: RevenueByKey) -> MarginGroups:
        """Return the sums of all groups."""
        return MarginGroups(self.costs, self.used, revenue, self.query, self.months, self.now_us)


def margin(sql: Statements, request: SpendRequest, now_us: int) -> MarginReport:
    """Return a report of margins.

    Args:
        sql: In a transaction that reads one moment.
        request: What is asked for, by the rules `MARGIN`.
        now_us: The ledger's clock.

    Raises:
        InvalidValue: The span of time is not valid, or too many events would have to be read one by
            one; see `reports.spend`.
    """
    usage = _usage(sql, request, now_us)
    query = usage.query
    groups = usage.with_revenue(summed(_revenue(sql, query, usage.months)))
    return MarginReport(groups.page(query), query, usage.zone, usage.now_us)


def all_margins(
    sql: Statements, request: SpendRequest, now_us: int, known: KnownRevenue | None
) -> AllMargins:
    """Return the margins of all groups, in no order; see `margin`.

    Args:
        sql, request, now_us: As there.
        known: The revenue of an earlier reading, which is read again only if it has changed.
    """
    usage = _usage(sql, request, now_us)
    query = usage.query
    question = (sql.product_id, usage.zone, query.by, query.start_us, query.end_us, query.where)
    state = (*question, *_state(sql, query))
    if known is None or known.state != state:
        known = KnownRevenue(state, summed(_revenue(sql, query, usage.months)))
    return AllMargins(usage.with_revenue(known.by_key), usage.now_us, known)


def _usage(sql: Statements, request: SpendRequest, now_us: int) -> _Usage:
    spend, zone, now_us = resolved(sql, request, now_us)
    key: MarginKey = spend.by[0]  # type: ignore[assignment]  # by the rules of the report
    query = MarginQuery(
        key,
        spend.start_us,
        spend.end_us,
        {name: value for name, value in spend.where.items() if name != "period"},
        spend.sort,
        spend.is_descending,
        spend.rows_max,
        spend.after,
    )
    months = list(_months(Window(query.start_us, query.end_us), zone))
    costs = all_costs(sql, spend, zone, request.names)
    used = sum(calls for calls, _ in costs.values()), sum(each for _, each in costs.values())
    return _Usage(query, zone, months, costs, used, now_us)


# -- revenue


class _User(NamedTuple):
    """A row of `customers`; without a period of its own its three columns are NULL."""

    user_id: str
    plan: str | None
    own: str | None
    period_start_us: int | None
    period_end_us: int
    renews: Renewal
    created_us: int
    erased_us: int | None
    assigned_us: int

    @property
    def subscription(self) -> Subscription | None:
        """The billing period as it was given."""
        return subscription_from(self.period_start_us, self.period_end_us, self.renews)


def _users_of(query: MarginQuery) -> tuple[str, str]:
    """Return the first and the last user that a query may be about."""
    return query.where.get("user", ""), query.where.get("user", AFTER_ALL_IDS)


def _state(sql: Statements, query: MarginQuery) -> tuple[Any, ...]:
    """Return what changes whenever something does that revenue follows from."""
    first, last = _users_of(query)
    (found,) = sql.tuples("revenue_state", first_user=first, last_user=last)
    return sql.product()["default_plan"], *found


def _revenue(sql: Statements, query: MarginQuery, months: Months) -> Iterator[tuple[str, Revenue]]:
    """Yield (key, revenue) of the users that a query is about.

    Most users were there before the span of time began, on the plan that they still have. Those of
    a plan who have neither a billing period of their own nor payments have equal revenue, which is
    computed once.
    """
    where, span = query.where, Window(query.start_us, query.end_us)
    first, last = _users_of(query)
    default_plan = sql.product()["default_plan"] or DEFAULT_PLAN
    prices = _prices(sql)
    rules = RevenueRules(prices, span, query.by, months, where.get("plan"))
    payments = _payments(sql, first, last, span)
    priced = [(name,) for name, versions in prices.items() if _has_price(versions)]
    limits = {"first_user": first, "last_user": last, "start_us": span.start_us}
    found = sql.tuples("customers", None, priced, **limits, default_plan=default_plan)
    payers = payments.keys() - {row[0] for row in found}
    if payers:
        found += sql.tuples("some_customers", None, [(user_id,) for user_id in sorted(payers)])
    alike: dict[str, list[str]] = {}
    others: list[_User] = []
    for row in found:
        user_id, plan, own, period_start, period_end, renews, created_us, erased_us, assigned = row
        is_there = created_us <= span.start_us and erased_us is None and user_id != MISSING_USER_ID
        if not (is_there and own is None and assigned <= span.start_us):
            others.append(_User(*row))
            continue
        plan = plan or default_plan
        subscription = subscription_from(period_start, period_end, renews)
        paid = payments.get(user_id, ())
        if not paid and subscription is None:
            alike.setdefault(plan, []).append(user_id)
            continue
        if not paid and query.by != "month":
            steady = rules.at_price(plan, subscription)
            if steady is not None:
                yield user_id if query.by == "user" else plan, steady
            continue
        contracts = (Contract(0, plan, subscription),)
        yield from rules.revenue_of(Customer(user_id, 0, END_OF_TIME_US, contracts, paid))
    for plan, user_ids in alike.items():
        customer = Customer("", 0, END_OF_TIME_US, (Contract(0, plan),))
        for key, revenue in rules.revenue_of(customer):
            if query.by == "user":
                for user_id in user_ids:
                    yield user_id, revenue
            else:
                yield key, revenue.of_users(len(user_ids))
    for customer in _customers(sql, others, payments, default_plan):
        yield from rules.revenue_of(customer)


def _customers(
    sql: Statements,
    users: Sequence[_User],
    payments: Mapping[str, tuple[Payment, ...]],
    default_plan: str,
) -> Iterator[Customer]:
    """Yield users with all plans that they had: those who came or left, or changed their plan."""
    found = sql.assignments_of(rows=[(user.user_id,) for user in users]) if users else ()
    assignments = _by_user(found)
    for user in users:
        user_id = user.user_id
        is_missing = user_id == MISSING_USER_ID  # calls without a user, which no user pays for
        yield Customer(
            user_id=user_id,
            begin_us=END_OF_TIME_US if is_missing else user.created_us,
            end_us=END_OF_TIME_US if user.erased_us is None else user.erased_us,
            contracts=_contracts(user, assignments.get(user_id, ()), default_plan),
            payments=payments.get(user_id, ()),
        )


def _months(span: Window, zone: str) -> Iterator[tuple[str, Window]]:
    """Yield the months of the product's time zone that touch a span."""
    at_us = span.start_us
    while at_us < span.end_us:
        day = date.fromisoformat(day_in_zone(at_us, zone))
        month = month_in_zone(zone, day)
        yield f"{day:%Y-%m}", month
        at_us = month.end_us


def _prices(sql: Statements) -> Prices:
    """Return the prices of all versions of all plans."""
    prices: dict[str, list[tuple[int, int | None]]] = {}
    for row in sql.plan_versions():
        price_nano = _price_of(from_json(row["document"]))
        prices.setdefault(row["name"], []).append((row["created_us"], price_nano))
    return prices


def _has_price(versions: Sequence[tuple[int, int | None]]) -> bool:
    return any(price_nano is not None for _, price_nano in versions)


def _price_of(document: dict[str, Any] | None) -> int | None:
    """Return the price of a plan's document."""
    price = (document or {}).get("price")
    return None if price is None else read_cap_nano(price)


def _contracts(user: _User, assignments: Sequence[Row], default_plan: str) -> tuple[Contract, ...]:
    """Return the plans that a user had. Before the first assignment it is the default plan, unless
    the user came with it: an application assigns a plan a moment after a user's first call.
    """
    own_price_nano = _price_of(from_json(user.own))
    contracts = [
        Contract(each["assigned_us"], each["plan"], subscription_of(each)) for each in assignments
    ]
    if not contracts:
        plan = user.plan or default_plan
        return (Contract(0, plan, user.subscription, own_price_nano),)
    if contracts[0].begin_us > user.created_us + _ARRIVAL_US:
        contracts.insert(0, Contract(0, default_plan))
    contracts[-1] = contracts[-1]._replace(own_price_nano=own_price_nano)
    return tuple(contracts)


def _payments(
    sql: Statements, first: str, last: str, span: Window
) -> dict[str, tuple[Payment, ...]]:
    """Return payments by user, from a first user to a last one: all that touch a billing period
    that touches a span of time, since a payment for any part of it stands in for the plan's price.
    """
    users = {"first_user": first, "last_user": last}
    longest = sql.longest_period(**users)
    longest_us = max(longest["now_us"] or 0, longest["before_us"] or 0, _MONTH_US)
    start_us, end_us = span.start_us - longest_us, span.end_us + longest_us
    found = sql.tuples("payments", None, None, **users, start_us=start_us, end_us=end_us)
    by_user: dict[str, list[Payment]] = {}
    for user_id, amount_nano, begin_us, until_us in found:
        by_user.setdefault(user_id, []).append(Payment(begin_us, until_us, amount_nano))
    return {user_id: tuple(sorted(own)) for user_id, own in by_user.items()}


def _by_user(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by user; they are in the order of their users."""
    return {user_id: list(own) for user_id, own in groupby(rows, lambda row: str(row["user_id"]))}
