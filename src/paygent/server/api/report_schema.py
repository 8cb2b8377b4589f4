"""The answers of reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from paygent.server.api.schemas import Answer, Cursor, Dollars, Nano, Time


class Heading(Answer):
    """What a report is about."""

    by: list[str]
    since: Annotated[Time, Field(alias="from")]
    to: Time
    timezone: str
    as_of: Time


class SpendSums(Answer):
    """Sums of a report."""

    calls: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost: Dollars
    cost_nano: Nano
    partial_calls: int
    estimated_calls: int
    unpriced_calls: int
    shadow_calls: int
    shadow_cost: Dollars
    shadow_cost_nano: Nano


class SpendRow(SpendSums):
    """Usage and cost of one group; it has the fields of the keys that `by` names, and besides
    these `tag:KEY` for tags.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    user: str | None = None
    model: str | None = None
    provider: str | None = None
    plan: str | None = None
    session: str | None = None
    day: str | None = None
    month: str | None = None
    period: Time | None = None


class SpendReport(Heading):
    """A page of usage and cost."""

    report: Literal["spend"]
    rows: list[SpendRow]
    total: SpendSums
    next_cursor: Cursor


class MarginSums(Answer):
    """Sums of revenue and cost."""

    calls: int
    cost: Dollars
    cost_nano: Nano
    revenue: Dollars
    revenue_nano: Nano
    revenue_source: Literal["recorded", "plan_price", "mixed"] | None
    margin: Dollars
    margin_nano: Nano
    margin_pct: float | None
    projected_cost: Dollars
    projected_cost_nano: Nano
    projected_margin: Dollars
    projected_margin_nano: Nano


class MarginRow(MarginSums):
    """The margin of a user, plan or month; it has the field that `by` names."""

    user: str | None = None
    plan: str | None = None
    month: str | None = None


class MarginShare(Answer):
    """What the dearest users cost together."""

    percent: int
    users: int
    cost: Dollars
    cost_nano: Nano


class MarginReport(Heading):
    """A page of margins."""

    report: Literal["margin"]
    rows: list[MarginRow]
    total: MarginSums
    shares: list[MarginShare]
    next_cursor: Cursor


class GateSums(Answer):
    """Sums of calls that reached a gate."""

    soft: int
    hard: int
    refused_calls: int
    shadow_calls: int
    shadow_cost: Dollars
    shadow_cost_nano: Nano


class GateRow(GateSums):
    """The calls of one group; it has the fields that `by` names."""

    user: str | None = None
    reason: str | None = None
    day: str | None = None
    month: str | None = None


class QualitySums(Answer):
    """Sums of calls by how they were metered."""

    calls: int
    exact: int
    partial: int
    estimated: int
    unpriced: int
    unmetered: int


class QualityRow(QualitySums):
    """The calls of one group; it has the fields that `by` names."""

    model: str | None = None
    provider: str | None = None
    operation: str | None = None
    day: str | None = None
    month: str | None = None


class GateReport(Heading):
    """A page of calls that reached a gate."""

    report: Literal["gates"]
    rows: list[GateRow]
    total: GateSums
    next_cursor: Cursor


class QualityReport(Heading):
    """A page of calls by how they were metered."""

    report: Literal["quality"]
    rows: list[QualityRow]
    total: QualitySums
    next_cursor: Cursor
