"""Reports of margins, gates and quality as applications read them: rows as REST writes them.

`report_json` is the definition of the fields; a table is the same document, wherever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from paygent.core.event_json import read_time
from paygent.core.margin import MarginQuery, MarginReport, margin_page
from paygent.core.period import to_datetime
from paygent.core.report import TIME_KEYS
from paygent.core.report_json import margin_to_json, tally_to_json
from paygent.core.report_request import GATES, MARGIN, QUALITY, Rules, SpendRequest, resolve
from paygent.core.tally import tally_page
from paygent.core.validation import FieldError, InvalidValue

TableKind = Literal["margin", "gates", "quality"]

RULES_OF: Final[Mapping[TableKind, Rules]] = {
    "margin": MARGIN,
    "gates": GATES,
    "quality": QUALITY,
}

Row = Mapping[str, Any]


class ReportTable(tuple[Row, ...]):
    """The rows of a report, each a dict by column, in the order that was asked for.

    Amounts are there twice: in dollars, and exactly in nano-dollars as `…_nano`. A key is None for
    what has none.

    Attributes:
        kind: Which report: "margin", "gates" or "quality".
        by: The keys.
        columns: The names of a row's fields: the keys, then the figures.
        total: The figures over all rows of the report, also where `limit` leaves rows out.
        shares: Of margins by user: what the dearest 1, 5 and 10 percent of the users cost, as
            dicts; otherwise empty.
        start, end: The span of time, half-open, as aware UTC datetimes.
        timezone: IANA name of the zone in which days and months begin.
        as_of: The ledger's time.
    """

    kind: str
    by: tuple[str, ...]
    columns: tuple[str, ...]
    total: Row
    shares: tuple[Row, ...]
    start: datetime
    end: datetime
    timezone: str
    as_of: datetime

    @classmethod
    def of(cls, document: Any) -> ReportTable:
        """Make a table of a report as JSON.

        Raises:
            InvalidValue: It is no report.
        """
        try:
            by, total = tuple(map(str, document["by"])), dict(document["total"])
            columns = (*by, *total)
            made = cls({name: row[name] for name in columns} for row in document["rows"])
            made.kind, made.by, made.columns = str(document["report"]), by, columns
            made.total, made.timezone = total, str(document["timezone"])
            made.shares = tuple(map(dict, document.get("shares", ())))
            times = [read_time(document[name]) for name in ("from", "to", "as_of")]
            made.start, made.end, made.as_of = (to_datetime(_known(at_us)) for at_us in times)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = FieldError("report", document, "must be a report")
            raise InvalidValue("report", (found,)) from error
        return made

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a column for each key and figure.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame  # an application that asks for one has it

        return DataFrame(list(self), columns=list(self.columns))


def _known(at_us: int | None) -> int:
    if at_us is None:
        raise ValueError("a time")
    return at_us


def sorted_rows(rows: Sequence[Row], request: SpendRequest) -> list[Row]:
    """Return rows of a document in the order that was asked for; keys decide between equal ones."""
    by_key = sorted(rows, key=lambda row: [row[name] or "" for name in request.by])
    sort = request.sort
    if sort in request.by and sort not in TIME_KEYS:
        return by_key
    name = f"{sort}_nano" if by_key and f"{sort}_nano" in by_key[0] else sort
    # Equal ones keep their order, also if it is reversed.
    return sorted(by_key, key=lambda row: row[name], reverse=request.is_descending)


def empty_table(kind: TableKind, request: SpendRequest, now_us: int) -> dict[str, Any]:
    """Return the report of a product in UTC without any usage."""
    query = resolve(request, "UTC", now_us)
    if kind != "margin":
        return tally_to_json(tally_page(kind, {}, query, "UTC", now_us), None)
    asked = MarginQuery("user", query.start_us, query.end_us)
    page = margin_page({}, (0, 0), {}, asked, (), now_us)
    return {**margin_to_json(MarginReport(page, asked, "UTC", now_us), None), "by": [*query.by]}
