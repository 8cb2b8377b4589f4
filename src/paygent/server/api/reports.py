"""Reports: usage and cost, margins, gates and quality of a product, as JSON pages or as CSV.

Every report takes a span of time, an order and a page (`ReportQuery`), and its keys and filters.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from paygent.core.margin import MarginKey
from paygent.core.report import KEYS, TAG, Cursor
from paygent.core.report_json import (
    columns_of,
    margin_columns,
    margin_row_to_json,
    margin_to_json,
    report_to_json,
    tally_columns,
    tally_to_json,
    tally_values,
    values_of,
)
from paygent.core.report_request import (
    GATES,
    MARGIN,
    PAGE_ROWS_MAX,
    QUALITY,
    SPEND,
    Names,
    Rules,
    SpendRequest,
    read_request,
)
from paygent.core.tally import GATE_KEYS, QUALITY_KEYS, TallyKind
from paygent.core.validation import NAME_CHARS_MAX, FieldError, InvalidValue
from paygent.server.api import report_schema
from paygent.server.api.parameters import CursorQuery, ReasonQuery, TextQuery, TimeQuery
from paygent.server.backend import ForTenant, Tenant
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.routes import api_router, needs
from paygent.store.ledger import SqlStore

router = api_router()

_NAMES = Names(start="from", end="to")
_TAG_QUERY = "tag."
_ROWS_DEFAULT = 100
_CHUNK_BYTES = 65_536
_JSON, _CSV = "application/json", "text/csv; charset=utf-8"
_AS_CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}

_TAGS = {
    "name": "tag.KEY",
    "in": "query",
    "required": False,
    "description": "Value that the metadata key KEY must have, such as `tag.team=search`.",
    "schema": {"type": "string", "maxLength": NAME_CHARS_MAX},
}


@dataclass(frozen=True)
class ReportQuery:
    """The parameters that every report takes."""

    since: Annotated[TimeQuery, Query(alias="from")] = None
    to: TimeQuery = None
    period: Literal["current", "previous"] | None = None
    sort: Annotated[str | None, Query(max_length=NAME_CHARS_MAX)] = None
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX, description="Rows of a page.")] = (
        _ROWS_DEFAULT
    )
    cursor: CursorQuery = None
    output: Annotated[Literal["json", "csv"], Query(alias="format")] = "json"

    def request(self, rules: Rules, **own: str | None) -> SpendRequest:
        """Return what a query asks for.

        Args:
            rules: Those of the report.
            **own: Its keys (`by`) and filters.

        Raises:
            InvalidValue: Names every parameter that breaks a rule.
        """
        given = {"start": self.since, "end": self.to, "period": self.period, "sort": self.sort}
        rows_max = None if self.output == "csv" else self.limit
        try:
            request = read_request({**given, **own}, _NAMES, rules=rules, rows_max=rows_max)
        except InvalidValue as error:
            found = [
                replace(each, field=each.field.replace(TAG, _TAG_QUERY, 1))
                for each in error.findings
            ]
            raise InvalidValue(error.what, tuple(found)) from None
        if self.cursor is None or self.output == "csv":
            return request
        # A cursor has as many texts as the report has keys.
        place = read_cursor(self.cursor, int, *(str for _ in request.by))
        return replace(request, after=Cursor(*place))


ForReport = Annotated[ReportQuery, Depends()]


def _keys_query(keys: Iterable[str], more: str = "") -> Any:
    description = f"One or two of {', '.join(keys)}{more}, with a comma between them."
    return Query(max_length=2 * NAME_CHARS_MAX, description=description)


@router.get(
    "/reports/spend",
    openapi_extra=needs("sdk", parameters=[_TAGS]),
    response_model=report_schema.SpendReport,
    responses=_AS_CSV,
    tags=["reports"],
)
async def show_spend(
    request: Request,
    query: ForReport,
    by: Annotated[str, _keys_query(KEYS, " and tag:KEY")] = "user",
    user: TextQuery = None,
    model: TextQuery = None,
    provider: TextQuery = None,
    plan: TextQuery = None,
    session: TextQuery = None,
    tenant: Tenant = ForTenant,
) -> Response:
    """Return usage and cost, with a total over all rows, also those of other pages.

    `from` (inclusive) and `to` (exclusive) are days of the product's time zone, or times; without
    them it is this month until now. `period` takes their place: the user's billing period, or
    without a user the calendar month. An empty filter, `model=`, is usage without one. CSV has all
    rows, from the first one on.
    """
    filters = {
        "user": user,
        "model": model,
        "provider": provider,
        "plan": plan,
        "session": session,
    }
    wanted = query.request(SPEND, by=by, **filters, **_tags(request))
    if query.output == "csv":
        return await csv_answer(tenant, spend_table, wanted)
    return Response(await tenant.ask(_spend_page, tenant.store, wanted), media_type=_JSON)


@router.get(
    "/reports/margin",
    openapi_extra=needs("admin"),
    response_model=report_schema.MarginReport,
    responses=_AS_CSV,
    tags=["reports"],
)
async def show_margin(
    query: ForReport,
    by: MarginKey = "user",
    user: TextQuery = None,
    plan: TextQuery = None,
    tenant: Tenant = ForTenant,
) -> Response:
    """Return revenue less cost, the smallest margin first, with users who made no call.

    Revenue is what was recorded for the time; for a billing period without any it is the price of
    the user's plan. The projection is the cost at the end of the time at the pace so far. By user,
    `shares` is what the dearest 1, 5 and 10 percent of the users cost.
    """
    wanted = query.request(MARGIN, by=by, user=user, plan=plan)
    if query.output == "csv":
        return await csv_answer(tenant, margin_table, wanted)
    return Response(await tenant.ask(_margin_page, tenant.store, wanted), media_type=_JSON)


@router.get(
    "/reports/gates",
    openapi_extra=needs("sdk"),
    response_model=report_schema.GateReport,
    responses=_AS_CSV,
    tags=["reports"],
)
async def show_gates(
    query: ForReport,
    by: Annotated[str, _keys_query(GATE_KEYS)] = "user",
    user: TextQuery = None,
    reason: ReasonQuery = None,
    tenant: Tenant = ForTenant,
) -> Response:
    """Return calls that reached a gate, those with most refusals first.

    `soft` counts warnings and `hard` calls that reached a hard gate; `refused_calls` is the part of
    these that were refused. `shadow_calls` ran past a hard gate, in shadow mode or with
    `raise_on_hard_gate=False`, and `shadow_cost` is what they cost. `from` and `to` are whole days.
    """
    wanted = query.request(GATES, by=by, user=user, reason=reason)
    return await _tally(tenant, "gates", wanted, query)


@router.get(
    "/reports/quality",
    openapi_extra=needs("sdk"),
    response_model=report_schema.QualityReport,
    responses=_AS_CSV,
    tags=["reports"],
)
async def show_quality(
    query: ForReport,
    by: Annotated[str, _keys_query(QUALITY_KEYS)] = "model",
    model: TextQuery = None,
    provider: TextQuery = None,
    operation: TextQuery = None,
    tenant: Tenant = ForTenant,
) -> Response:
    """Return how calls were metered.

    `calls` are metered ones, and add up from `exact`, `partial`, `estimated` and `unpriced`.
    `unmetered` calls have passed without an event, because no adapter can meter their `operation`;
    they have no provider, and the model that the application named. `from` and `to` are whole days.
    """
    wanted = query.request(QUALITY, by=by, model=model, provider=provider, operation=operation)
    return await _tally(tenant, "quality", wanted, query)


def _tags(request: Request) -> dict[str, str]:
    """Return the tags of a query, `tag.KEY=VALUE`, by the names of their keys.

    Raises:
        InvalidValue: One is given twice.
    """
    tags: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith(_TAG_QUERY):
            key = TAG + name[len(_TAG_QUERY) :]
            if key in tags:
                raise InvalidValue("report", (FieldError(name, value, "must be given once"),))
            tags[key] = value
    return tags


# -- pages, read and written down on a thread of the store: they may have thousands of rows


def _spend_page(product: str, store: SqlStore, wanted: SpendRequest) -> bytes:
    report = store.spend(product, wanted)
    return to_json(report_to_json(report, _cursor(report.page.following, wanted)))


def _margin_page(product: str, store: SqlStore, wanted: SpendRequest) -> bytes:
    report = store.margin(product, wanted)
    return to_json(margin_to_json(report, _cursor(report.page.following, wanted)))


def _tally_page(product: str, store: SqlStore, kind: TallyKind, wanted: SpendRequest) -> bytes:
    report = store.tally(product, kind, wanted)
    return to_json(tally_to_json(report, _cursor(report.following, wanted)))


def _cursor(following: Cursor | None, wanted: SpendRequest) -> str | None:
    return following and write_cursor(*following[: 1 + len(wanted.by)])


async def _tally(
    tenant: Tenant, kind: TallyKind, wanted: SpendRequest, query: ReportQuery
) -> Response:
    if query.output == "csv":
        return await csv_answer(tenant, tally_table, kind, wanted)
    body = await tenant.ask(_tally_page, tenant.store, kind, wanted)
    return Response(body, media_type=_JSON)


# -- CSV


Rows = Iterator[Iterable[Any]]
"""The rows of a table, the first of them its header."""


def spend_table(product: str, store: SqlStore, wanted: SpendRequest) -> Rows:
    """Yield the header and all rows of a report of usage."""
    yield columns_of(wanted.by)
    for row in store.spend_rows(product, wanted):
        yield values_of(wanted.by, row)


def margin_table(product: str, store: SqlStore, wanted: SpendRequest) -> Rows:
    """Yield the header and all rows of a report of margins."""
    by = wanted.by[0]
    yield margin_columns(by)
    for row in store.margin(product, wanted).page.rows:
        yield margin_row_to_json(by, row).values()


def tally_table(product: str, store: SqlStore, kind: TallyKind, wanted: SpendRequest) -> Rows:
    """Yield the header and all rows of a report that counts."""
    yield tally_columns(kind, wanted.by)
    for row in store.tally(product, kind, wanted).rows:
        yield tally_values(kind, row)


async def csv_answer(tenant: Tenant, rows: Callable[..., Rows], *args: Any) -> Response:
    """Answer with rows, the first of them the header."""
    file = await tenant.ask(_write_csv, tenant.store, rows, *args)
    return StreamingResponse(_chunks(file), media_type=_CSV)


def _write_csv(product: str, store: SqlStore, rows: Callable[..., Rows], *args: Any) -> IO[bytes]:
    """Write all rows into a temporary file, so that no transaction waits for a slow client."""
    with ExitStack() as stack:
        file = stack.enter_context(TemporaryFile())
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        csv.writer(text, lineterminator="\r\n").writerows(rows(product, store, *args))
        text.detach()
        file.seek(0)
        stack.pop_all()  # it is closed once it is sent
    return file


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
