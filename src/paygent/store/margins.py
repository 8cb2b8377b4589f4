"""Margins from the store: the cost of reports, recorded revenue, and the prices of plans.

All users are read, since one without a call pays as well; what follows from them is the definition
in `core/margin.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import groupby
from typing import Any

from paygent.core.margin import (
    Accrual,
    Contract,
    Customer,
    MarginKey,
    MarginQuery,
    MarginReport,
    Payment,
    Prices,
    accruals,
    contracts_of,
    margin_page,
)
from paygent.core.messages import DEFAULT_PLAN, MISSING_USER_ID
from paygent.core.money import read_cap_nano
from paygent.core.period import END_OF_TIME_US, Window, billing_period, day_in_zone
from paygent.core.report import SpendQuery
from paygent.core.report_request import SpendRequest, month_in_zone
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.reports import all_groups, resolved
from paygent.store.rows import from_json, subscription_of
from paygent.store.statements import Row, Statements

_ARRIVAL_US = 60 * 10**6
"""How long after a user came the first assignment is still part of the arrival."""


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
    costs, total = _costs(sql, spend, request, zone)
    months = list(_months(Window(query.start_us, query.end_us), zone))
    page = margin_page(costs, total, _revenue(sql, query, months), query, months, now_us)
    return MarginReport(page, query, zone, now_us)


def _costs(
    sql: Statements, spend: SpendQuery, request: SpendRequest, zone: str
) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """Return calls and cost by key, and of all."""
    groups = all_groups(sql, spend, zone, request.names)
    costs = {keys[0]: (each.calls, each.cost_nano) for keys, each in groups.items()}
    calls, cost_nano = (sum(each) for each in zip((0, 0), *costs.values(), strict=True))
    return costs, (calls, cost_nano)


# -- revenue


def _revenue(
    sql: Statements, query: MarginQuery, months: list[tuple[str, Window]]
) -> Iterator[tuple[str, Accrual]]:
    """Yield (user, accrual) of the users that a query is about."""
    where = query.where
    users = {"first_user": where.get("user", ""), "last_user": where.get("user", AFTER_ALL_IDS)}
    span = Window(query.start_us, query.end_us)
    prices = _prices(sql)
    known: dict[tuple[Contract, ...], list[Accrual]] = {}  # of most users, who differ in nothing
    for customer in _customers(sql, users, span):
        is_there = customer.begin_us <= span.start_us and span.end_us <= customer.end_us
        if customer.payments or not is_there:
            found = list(accruals(customer, prices, span, months))
        else:
            contracts = contracts_of(customer, span)
            if contracts not in known:
                known[contracts] = list(accruals(customer, prices, span, months))
            found = known[contracts]
        for accrual in found:
            yield customer.user_id, accrual


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


def _price_of(document: dict[str, Any] | None) -> int | None:
    """Return the price of a plan's document."""
    price = (document or {}).get("price")
    return None if price is None else read_cap_nano(price)


def _customers(sql: Statements, users: dict[str, str], span: Window) -> Iterator[Customer]:
    """Yield the users with what their revenue follows from, by their ids."""
    default_plan = sql.product()["default_plan"] or DEFAULT_PLAN
    rows = sql.customers(**users)
    assignments = _by_user(sql.assignments_of_users(**users))
    bounds = _bounds((*rows, *(each for own in assignments.values() for each in own)), span)
    payments = _by_user(sql.payments(**users, start_us=bounds.start_us, end_us=bounds.end_us))
    for row in rows:
        user_id = row["user_id"]
        is_missing = user_id == MISSING_USER_ID  # calls without a user: there is nobody who pays
        yield Customer(
            user_id=user_id,
            begin_us=END_OF_TIME_US if is_missing else row["created_us"],
            end_us=END_OF_TIME_US if row["erased_us"] is None else row["erased_us"],
            contracts=_contracts(row, assignments.get(user_id, ()), default_plan),
            payments=tuple(
                Payment(each["period_start_us"], each["period_end_us"], each["amount_nano"])
                for each in payments.get(user_id, ())
            ),
        )


def _contracts(row: Row, assignments: Sequence[Row], default_plan: str) -> tuple[Contract, ...]:
    """Return the plans that a user had. Before the first assignment it is the default plan, unless
    the user came with it: an application assigns a plan a moment after a user's first call.
    """
    own_price_nano = _price_of(from_json(row["own"]))
    contracts = [
        Contract(each["assigned_us"], each["plan"], subscription_of(each)) for each in assignments
    ]
    if not contracts:
        plan = row["plan"] or default_plan
        return (Contract(0, plan, subscription_of(row), own_price_nano),)
    if contracts[0].begin_us > row["created_us"] + _ARRIVAL_US:
        contracts.insert(0, Contract(0, default_plan))
    contracts[-1] = contracts[-1]._replace(own_price_nano=own_price_nano)
    return tuple(contracts)


def _bounds(rows: Iterable[Row], span: Window) -> Window:
    """Return a span of time that contains every billing period that touches another one: a payment
    for any part of a period stands in for the plan's price.
    """
    start_us, end_us = span
    for subscription in {subscription_of(row) for row in rows}:
        for at_us in (span.start_us, span.end_us - 1):
            period = billing_period(subscription, at_us)
            if period is not None:
                start_us, end_us = min(start_us, period.start_us), max(end_us, period.end_us)
    return Window(start_us, end_us)


def _by_user(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by user; they are in the order of their users."""
    return {user_id: list(own) for user_id, own in groupby(rows, lambda row: str(row["user_id"]))}
