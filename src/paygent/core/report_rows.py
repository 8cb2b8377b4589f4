"""The rows of a report as applications read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from paygent.core.money import to_usd
from paygent.core.period import to_datetime
from paygent.core.report import TAG, Figures, SpendReport, SpendRow


class UsageRow(NamedTuple):
    """Usage and cost of one group of a report; `UsageReport.by` names the keys that are given.

    Attributes:
        user_id, model, provider, plan, session_id: "" where it is no key of the report, and for
            usage without one.
        day: YYYY-MM-DD, in the time zone of the report.
        month: YYYY-MM.
        period_start: Start of the user's billing period, aware UTC; None where it is no key.
        tag: The value of the metadata key that the report groups by, as text; of two such keys,
            that of the first.
        keys: The values of `UsageReport.by`, in its order, as text.
        calls: Number of calls.
        input_tokens, output_tokens: Inclusive totals, after corrections.
        cached_input_tokens: The part of the input that was read from a cache.
        cost_nano: In nano-dollars, after corrections.
        partial_calls, estimated_calls, unpriced_calls: Calls without exact figures, by quality.
        shadow_calls: Calls that ran past a hard gate: in shadow mode (`PlanConfig.enforce`), or
            with `raise_on_hard_gate=False`.
        shadow_cost_nano: Their part of the cost: what enforcement would have saved.
    """

    user_id: str = ""
    model: str = ""
    provider: str = ""
    plan: str = ""
    session_id: str = ""
    day: str = ""
    month: str = ""
    period_start: datetime | None = None
    tag: str = ""
    keys: tuple[str, ...] = ()
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cost_nano: int = 0
    partial_calls: int = 0
    estimated_calls: int = 0
    unpriced_calls: int = 0
    shadow_calls: int = 0
    shadow_cost_nano: int = 0

    @property
    def cost(self) -> float:
        """Dollars: the double nearest to `cost_nano`."""
        return to_usd(self.cost_nano)

    @property
    def shadow_cost(self) -> float:
        """Dollars: the double nearest to `shadow_cost_nano`."""
        return to_usd(self.shadow_cost_nano)

    @property
    def doubtful_calls(self) -> int:
        """Calls without exact figures: partial, estimated and unpriced ones."""
        return self.partial_calls + self.estimated_calls + self.unpriced_calls

    def model_dump(self, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Return the fields as a dict, dollars included.

        Args:
            mode: "python" keeps the datetime; "json" has JSON types only.
        """
        fields: dict[str, Any] = {**self._asdict(), **self._dollars()}
        if mode == "json":
            start = self.period_start
            fields |= {"keys": list(self.keys), "period_start": start and start.isoformat()}
        return fields

    def _dollars(self) -> dict[str, float]:
        return {"cost": self.cost, "shadow_cost": self.shadow_cost}


FIELD_OF_KEY: Final[Mapping[str, str]] = {
    "user": "user_id",
    "model": "model",
    "provider": "provider",
    "plan": "plan",
    "session": "session_id",
    "day": "day",
    "month": "month",
    "period": "period_start",
}
"""The field of a row that has the value of a key; that of a tag is `tag`."""


class UsageReport(tuple[UsageRow, ...]):
    """The rows of a report, a tuple in the order that was asked for.

    Attributes:
        by: The keys.
        total: The sums over all rows of the report, also where `limit` leaves rows out.
        start, end: The span of time, half-open, as aware UTC datetimes.
        timezone: IANA name of the zone in which days and months begin.
        as_of: The ledger's time.
    """

    by: tuple[str, ...]
    total: UsageRow
    start: datetime
    end: datetime
    timezone: str
    as_of: datetime

    @classmethod
    def of(cls, report: SpendReport) -> UsageReport:
        """Make the rows of a report."""
        query = report.query
        made = cls(usage_row(query.by, row) for row in report.page.rows)
        made.by = query.by
        made.total = usage_row((), SpendRow((), report.page.total))
        made.start, made.end = to_datetime(query.start_us), to_datetime(query.end_us)
        made.timezone, made.as_of = report.timezone, to_datetime(report.as_of_us)
        return made

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a column for each key and figure.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame  # an application that asks for one has it

        figures = [*Figures._fields, "cost", "shadow_cost"]
        rows = [[*row.keys, *(getattr(row, name) for name in figures)] for row in self]
        return DataFrame(rows, columns=[*self.by, *figures])


def usage_row(by: Iterable[str], row: SpendRow) -> UsageRow:
    """Return a row as applications read it."""
    keys: dict[str, Any] = {}
    for name, value in zip(by, row.keys, strict=True):
        field = "tag" if name.startswith(TAG) else FIELD_OF_KEY[name]
        keys.setdefault(field, to_datetime(int(value)) if name == "period" else value)
    return UsageRow(keys=row.keys, **keys, **row.figures._asdict())
