"""Spend as rows of FOCUS 1.0, the FinOps Open Cost and Usage Specification, for a CSV writer.

A row is the usage of one model of one provider by one user on one day. All 43 columns of FOCUS 1.0
come first, in alphabetical order; an empty field is null. The columns, their meaning and which of
them may be null are those of the specification of 1.0 (2024-06), the newest version that
focus-validator checks on Python 3.10 and 3.11.

Invariants:
    - Costs are exact: nano-dollars with nine decimals, so that the sum of BilledCost is the sum of
      the report. The four costs are equal, since Paygent knows one price of a call.
    - Input, output and cached tokens have prices of their own, so a unit price is the average of
      its row. PricingQuantity times unit price, rounded to nano-dollars, is the cost.
    - FOCUS allows no negative unit price. A row that is only consistent with one, or that has no
      quantity, is what corrections left: its ChargeClass is "Correction", without a unit price.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from paygent.core.money import NANO_PER_USD, divide_half_even
from paygent.core.period import start_of_day, to_datetime
from paygent.core.report import Figures, SpendRow
from paygent.core.report_request import month_in_zone

FOCUS_VERSION: Final = "1.0"

ROW_KEYS: Final = ("day", "user", "model", "provider")
"""What a report has to be grouped by, in this order."""

COLUMNS: Final = (
    "AvailabilityZone",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
    "x_CachedInputTokens",
    "x_Calls",
    "x_EstimatedCalls",
    "x_InputTokens",
    "x_OutputTokens",
    "x_PartialCalls",
    "x_UnpricedCalls",
)
"""The header. Custom columns have the prefix `x_` and come last, as FOCUS asks."""

_NO_NAME = "Other"  # the names of provider, publisher and issuer must not be null
_COST_PLACES = 9
# The error of a price, times a quantity of 64 bits, stays below half a nano-dollar; and a price
# below a billion dollars fits a decimal of 38 digits, the usual limit of databases.
_PRICE_PLACES = 29


class _Periods(NamedTuple):
    """A day and its month, as UTC instants: ends are exclusive."""

    day_start: str
    day_end: str
    month_start: str
    month_end: str


class _Quantity(NamedTuple):
    """A number of units; 0 is none, and has no unit."""

    amount: int
    unit: str

    @property
    def text(self) -> str:
        """The number as FOCUS has it; "" is null."""
        # With a decimal place: a reader that infers types takes a column of integers for no
        # decimals, and so does focus-validator.
        return f"{self.amount}.0" if self.amount else ""


def focus_table(
    rows: Iterable[SpendRow], *, zone: str, billing_account: str = "paygent"
) -> Iterator[tuple[str, ...]]:
    """Yield the header, then one row for each row of a report by `ROW_KEYS`.

    Args:
        rows: Read one by one, so that a report of any size can be streamed.
        zone: The product's time zone, an IANA name.
        billing_account: The BillingAccountId, such as the product's id.
    """
    yield COLUMNS
    for (day, user_id, model, provider), figures in rows:
        yield focus_row(
            day, user_id, model, provider, figures, zone=zone, billing_account=billing_account
        )


def focus_row(
    day: str,
    user_id: str,
    model: str,
    provider: str,
    figures: Figures,
    *,
    zone: str,
    billing_account: str = "paygent",
) -> tuple[str, ...]:
    """Return a row of FOCUS, in the order of `COLUMNS`; an empty field is null.

    Args:
        day: In the product's time zone, ISO 8601.
        user_id: "" is none; the same for `model` and `provider`.
        model: The canonical name.
        provider: Its name in events.
        figures: The sums of the day.
        zone: The product's time zone, an IANA name.
        billing_account: The BillingAccountId.
    """
    periods = _periods(day, zone)
    cost = _decimal(figures.cost_nano, _COST_PLACES)
    quantity = _quantity(figures)
    is_correction = figures.cost_nano < 0 or quantity.amount <= 0
    unit_price = "" if is_correction else _unit_price(figures.cost_nano, quantity.amount)
    name = provider or _NO_NAME
    sku = model or name
    values = {
        "BilledCost": cost,
        "BillingAccountId": billing_account,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": periods.month_end,
        "BillingPeriodStart": periods.month_start,
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if is_correction else "",
        "ChargeDescription": _description(sku, figures, is_correction=is_correction),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": periods.day_end,
        "ChargePeriodStart": periods.day_start,
        "ConsumedQuantity": quantity.text,
        "ConsumedUnit": quantity.unit,
        "ContractedCost": cost,
        "ContractedUnitPrice": unit_price,
        "EffectiveCost": cost,
        "InvoiceIssuerName": name,
        "ListCost": cost,
        "ListUnitPrice": unit_price,
        "PricingCategory": "Standard",
        "PricingQuantity": quantity.text,
        "PricingUnit": quantity.unit,
        "ProviderName": name,
        "PublisherName": name,
        "ResourceId": model,
        "ResourceType": "Model" if model else "",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{provider} API" if provider else _NO_NAME,
        "SkuId": sku,
        "SkuPriceId": sku,
        "SubAccountId": user_id,
        "SubAccountName": user_id,
        "Tags": _tags(user_id, model, provider),
        "x_CachedInputTokens": str(figures.cached_input_tokens),
        "x_Calls": str(figures.calls),
        "x_EstimatedCalls": str(figures.estimated_calls),
        "x_InputTokens": str(figures.input_tokens),
        "x_OutputTokens": str(figures.output_tokens),
        "x_PartialCalls": str(figures.partial_calls),
        "x_UnpricedCalls": str(figures.unpriced_calls),
    }
    # Regions, commitments and invoices are unknown to Paygent: what is not listed above is null.
    return tuple([values.get(column, "") for column in COLUMNS])


@lru_cache(maxsize=512)  # reports are sorted by day, or by user over a year at most
def _periods(day: str, zone: str) -> _Periods:
    first = date.fromisoformat(day)
    month = month_in_zone(zone, first)
    return _Periods(
        _instant(start_of_day(first, zone)),
        _instant(start_of_day(first + timedelta(days=1), zone)),
        _instant(month.start_us),
        _instant(month.end_us),
    )


def _instant(at_us: int) -> str:
    return to_datetime(at_us).strftime("%Y-%m-%dT%H:%M:%SZ")


def _quantity(figures: Figures) -> _Quantity:
    """Return the tokens of a row, or its calls where it has no tokens (images, fees)."""
    tokens = figures.input_tokens + figures.output_tokens
    if tokens:
        return _Quantity(tokens, "Tokens")
    return _Quantity(figures.calls, "Requests" if figures.calls else "")


def _unit_price(cost_nano: int, amount: int) -> str:
    scaled = divide_half_even(cost_nano * 10**_PRICE_PLACES, amount * NANO_PER_USD)
    # Without the zeros at the end, except one, as in quantities.
    digits = _decimal(scaled, _PRICE_PLACES).rstrip("0")
    return f"{digits}0" if digits.endswith(".") else digits


def _decimal(amount: int, places: int) -> str:
    """Return `amount × 10^-places` in plain notation, with all places."""
    whole, part = divmod(abs(amount), 10**places)
    return f"{'-' if amount < 0 else ''}{whole}.{part:0{places}d}"


def _description(sku: str, figures: Figures, *, is_correction: bool) -> str:
    calls = "1 call" if figures.calls == 1 else f"{figures.calls} calls"
    return (
        f"{'Correction of usage' if is_correction else 'Usage'} of {sku}: {calls},"
        f" {figures.input_tokens} input and {figures.output_tokens} output tokens"
    )


def _tags(user_id: str, model: str, provider: str) -> str:
    """Return the keys of a row as JSON; FOCUS requires a prefix of tags that no user has set."""
    keys = {"user": user_id, "model": model, "provider": provider}
    return json.dumps({f"paygent/{key}": value for key, value in keys.items() if value})
