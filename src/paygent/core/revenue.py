"""The definition of a user's revenue in a span of time.

Revenue is accrued: a payment counts by the part of its own span that lies in the span in question,
so that the revenue of two months is the sum of both, to the nano-dollar. A payment is dated revenue
that was recorded; a refund is a negative one. A billing period without any payment has the price of
the user's plan in its place, while the user is there. A price belongs to the plan as it was at the
period's begin; what has ended for good has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from paygent.core.period import BillingPeriods, Subscription, Window, common

RevenueKey = Literal["user", "plan", "month"]


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
    """A user with all that revenue follows from.

    Attributes:
        begin_us, end_us: From when until when there is a plan's price: while the user is there.
        contracts: The plans that the user had, oldest first; the first one counts before its begin,
            too. Never empty.
        payments: All that touch the span of time in question, and its billing periods.
    """

    user_id: str
    begin_us: int
    end_us: int
    contracts: tuple[Contract, ...]
    payments: tuple[Payment, ...] = ()


_Amount = tuple[int, int, int]  # a Payment, or a price: start, end, nano-dollars
_RECORDED, _PLAN_PRICE = 0, 1

Prices = Mapping[str, Sequence[tuple[int, int | None]]]
"""(begin, price in nano-dollars) of the versions of each plan, oldest first."""

Months = Sequence[tuple[str, Window]]
"""(YYYY-MM, span) of the months of a time zone that touch a span of time, in their order."""


class Revenue(NamedTuple):
    """A sum of revenue.

    Attributes:
        recorded_nano: Recorded payments, less refunds.
        plan_price_nano: Plans' prices, where nothing was recorded.
        has_recorded, has_plan_price: Whether there is such revenue; it may add up to 0.
    """

    recorded_nano: int = 0
    plan_price_nano: int = 0
    has_recorded: bool = False
    has_plan_price: bool = False

    def of_users(self, count: int) -> Revenue:
        """Return the sums of so many users who all have this revenue."""
        return self._replace(
            recorded_nano=self.recorded_nano * count, plan_price_nano=self.plan_price_nano * count
        )


RevenueByKey = Mapping[str, Revenue]
"""The revenue of each user, plan or month that has some."""


def summed(parts: Iterable[tuple[str, Revenue]]) -> dict[str, Revenue]:
    """Return the revenue of each key; of a key there may be several parts."""
    sums: dict[str, Revenue] = {}
    for key, part in parts:
        known = sums.get(key)
        sums[key] = part if known is None else total((known, part))
    return sums


def total(parts: Iterable[Revenue]) -> Revenue:
    """Return the sum of revenue."""
    recorded_nano = plan_price_nano = 0
    has_recorded = has_plan_price = False
    for recorded, price, is_recorded, is_price in parts:
        recorded_nano += recorded
        plan_price_nano += price
        has_recorded = has_recorded or is_recorded
        has_plan_price = has_plan_price or is_price
    return Revenue(recorded_nano, plan_price_nano, has_recorded, has_plan_price)


class RevenueRules:
    """Computes the revenue of users in a span of time.

    Args:
        prices: Of the plans.
        span: The span of time.
        by: The key that it is grouped by.
        months: Those of the span.
        plan: The only plan that counts; None is all.
    """

    def __init__(
        self,
        prices: Prices,
        span: Window,
        by: RevenueKey = "user",
        months: Months = (),
        plan: str | None = None,
    ) -> None:
        self._prices = prices
        self._by = by
        self._plan = plan
        self._periods = BillingPeriods(span)
        # Shares add up exactly: only by month is there a reason to compute those of each month.
        self._parts = (
            [(name, *common(span, days)) for name, days in months]
            if by == "month"
            else [("", *span)]
        )

    def revenue_of(self, customer: Customer) -> list[tuple[str, Revenue]]:
        """Return a user's revenue as pairs of its key and sum."""
        sums: dict[str, list[int | None]] = {}  # what was recorded, and prices; None without any
        payments, parts = customer.payments, self._parts

        def accrue(key: str, of: _Amount, begin_us: int, until_us: int, kind: int) -> None:
            for month, start_us, end_us in parts:
                first_us, last_us = max(start_us, begin_us, of[0]), min(end_us, until_us, of[1])
                if first_us < last_us:
                    each = sums.setdefault(month or key, [None, None])
                    each[kind] = (each[kind] or 0) + share(of, first_us, last_us)

        for contract, window in _in_force(customer.contracts, self._periods.span):
            if self._plan is not None and contract.plan != self._plan:
                continue
            key = customer.user_id if self._by == "user" else contract.plan
            for payment in payments:
                accrue(key, payment, *window, _RECORDED)
            begin_us, until_us = (
                max(window.start_us, customer.begin_us),
                min(window.end_us, customer.end_us),
            )
            if begin_us >= until_us:
                continue
            # After a period that has ended for good the plan is the default one, without a price.
            for start_us, end_us in self._periods.of(contract.subscription):
                if start_us >= until_us or end_us <= begin_us:
                    continue
                if payments and any(
                    each.start_us < end_us and each.end_us > start_us for each in payments
                ):
                    continue
                price_nano = self._price(contract, start_us)
                if price_nano is not None:
                    accrue(key, (start_us, end_us, price_nano), begin_us, until_us, _PLAN_PRICE)
        return [
            (key, Revenue(recorded or 0, price or 0, recorded is not None, price is not None))
            for key, (recorded, price) in sums.items()
        ]

    def at_price(self, plan: str, subscription: Subscription | None) -> Revenue | None:
        """Return the revenue of a user who has had one plan since before the span of time, and no
        payments; None without any. It is what `revenue_of` returns, by user or plan, and takes a
        third of the time: most of 100,000 users are such.
        """
        if self._plan is not None and plan != self._plan:
            return None
        first_us, last_us = self._periods.span
        revenue_nano = None
        for start_us, end_us in self._periods.of(subscription):
            price_nano = self._listed_price(plan, start_us)
            if price_nano is None:
                continue
            if start_us < first_us or end_us > last_us:
                of = start_us, end_us, price_nano
                price_nano = share(of, max(start_us, first_us), min(end_us, last_us))
            revenue_nano = (revenue_nano or 0) + price_nano
        return None if revenue_nano is None else Revenue(0, revenue_nano, False, True)

    def _price(self, contract: Contract, at_us: int) -> int | None:
        if contract.own_price_nano is not None:
            return contract.own_price_nano
        return self._listed_price(contract.plan, at_us)

    def _listed_price(self, plan: str, at_us: int) -> int | None:
        """Return the price of a plan for a period that begins at a moment; before the plan was
        configured it is that of its first version.
        """
        versions = self._prices.get(plan, ())
        price_nano = versions[0][1] if versions else None
        for begin_us, each in versions:
            if begin_us > at_us:
                break
            price_nano = each
        return price_nano


def share(of: _Amount, first_us: int, last_us: int) -> int:
    """Return the share of a payment, or of a price, in a part of its span of time, in nano-dollars.
    The shares of parts that touch each other add up exactly to that of both.
    """
    start_us, end_us, amount_nano = of
    length = end_us - start_us
    before = amount_nano * (first_us - start_us) // length
    return amount_nano * (last_us - start_us) // length - before


def _in_force(contracts: Sequence[Contract], span: Window) -> Iterator[tuple[Contract, Window]]:
    """Yield the contracts of a user with the part of a span of time that each is in force."""
    if len(contracts) == 1:
        yield contracts[0], span
        return
    for number, contract in enumerate(contracts):
        begin_us = contract.begin_us if number else span.start_us
        last = number + 1 == len(contracts)
        until_us = span.end_us if last else contracts[number + 1].begin_us
        window = common(span, Window(begin_us, until_us))
        if window.start_us < window.end_us:
            yield contract, window
