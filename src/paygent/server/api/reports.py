"""Reports: usage and cost of a product by up to two keys, as JSON pages or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import Query, Request
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
    values_of,
)
from paygent.core.report_request import MARGIN, PAGE_ROWS_MAX, Names, SpendRequest, read_request
from paygent.core.validation import NAME_CHARS_MAX, InvalidValue
from paygent.server.api import report_schema
from paygent.server.api.parameters import CursorQuery, TextQuery, TimeQuery
from paygent.server.backend import ForTenant, Tenant
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.routes import api_router, needs
from paygent.store.ledger import SqlStore

router = api_router()

_NAMES = Names(start="from", end="to")
_TAG_QUERY = "tag."
_ROWS_DEFAULT = 100
_CHUNK_BYTES = 65_536
_CSV = "text/csv; charset=utf-8"

RowsQuery = Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX, description="Rows of a page.")]

_TAGS = {
    "name": "tag.KEY",
    "in": "query",
    "required": False,
    "description": "Value that the metadata key KEY must have, such as `tag.team=search`.",
    "schema": {"type": "string", "maxLength": NAME_CHARS_MAX},
}


@router.get(
    "/reports/spend",
    openapi_extra=needs("sdk", parameters=[_TAGS]),
    response_model=report_schema.SpendReport,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    tags=["reports"],
)
async def show_spend(
    request: Request,
    by: Annotated[
        str,
        Query(
            max_length=2 * NAME_CHARS_MAX,
            description=f"One or two of {', '.join(KEYS)} and tag:KEY, with a comma between them.",
        ),
    ] = "user",
    since: Annotated[TimeQuery, Query(alias="from")] = None,
    to: TimeQuery = None,
    period: Literal["current", "previous"] | None = None,
    user: TextQuery = None,
    model: TextQuery = None,
    provider: TextQuery = None,
    plan: TextQuery = None,
    session: TextQuery = None,
    sort: Annotated[str | None, Query(max_length=NAME_CHARS_MAX)] = None,
    limit: RowsQuery = _ROWS_DEFAULT,
    cursor: CursorQuery = None,
    output: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    tenant: Tenant = ForTenant,
) -> Response:
    """Return usage and cost, with a total over all rows, also those of other pages.

    `from` (inclusive) and `to` (exclusive) are days of the product's time zone, or times; without
    them it is this month until now. `period` takes their place: the user's billing period, or
    without a user the calendar month. An empty filter, `model=`, is usage without one. CSV has all
    rows, from the first one on.
    """
    asked = _read(
        {
            "by": by,
            "start": since,
            "end": to,
            "period": period,
            "sort": sort,
            "user": user,
            "model": model,
            "provider": provider,
            "plan": plan,
            "session": session,
            **_tags(request),
        },
        limit,
    )
    if output == "csv":
        file = await tenant.ask(_write_csv, tenant.store, replace(asked, rows_max=None))
        return StreamingResponse(_chunks(file), media_type=_CSV)
    if cursor is not None:
        place = read_cursor(cursor, int, *(str for _ in asked.by))
        asked = replace(asked, after=Cursor(*place))
    return Response(await tenant.ask(_page, tenant.store, asked), media_type="application/json")


def _read(given: Mapping[str, Any], rows_max: int) -> SpendRequest:
    """Return what a query asks for.

    Raises:
        InvalidValue: Names every parameter that breaks a rule.
    """
    try:
        return read_request(given, _NAMES, rows_max=rows_max)
    except InvalidValue as error:
        found = [
            replace(each, field=each.field.replace(TAG, _TAG_QUERY, 1)) for each in error.findings
        ]
        raise InvalidValue(error.what, tuple(found)) from None


@router.get(
    "/reports/margin",
    openapi_extra=needs("admin"),
    response_model=report_schema.MarginReport,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    tags=["reports"],
)
async def show_margin(
    by: MarginKey = "user",
    since: Annotated[TimeQuery, Query(alias="from")] = None,
    to: TimeQuery = None,
    period: Literal["current", "previous"] | None = None,
    user: TextQuery = None,
    plan: TextQuery = None,
    sort: Annotated[str | None, Query(max_length=NAME_CHARS_MAX)] = None,
    limit: RowsQuery = _ROWS_DEFAULT,
    cursor: CursorQuery = None,
    output: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    tenant: Tenant = ForTenant,
) -> Response:
    """Return revenue less cost, the smallest margin first, with users who made no call.

    Revenue is what was recorded for the time; for a billing period without any it is the price of
    the user's plan. The projection is the cost at the end of the time at the pace so far. By user,
    `shares` is what the dearest 1, 5 and 10 percent of the users cost.
    """
    asked = read_request(
        {
            "by": by,
            "start": since,
            "end": to,
            "period": period,
            "sort": sort,
            "user": user,
            "plan": plan,
        },
        _NAMES,
        rules=MARGIN,
        rows_max=None if output == "csv" else limit,
    )
    if output == "csv":
        return Response(await tenant.ask(_margin_csv, tenant.store, asked), media_type=_CSV)
    if cursor is not None:
        asked = replace(asked, after=Cursor(*read_cursor(cursor, int, str)))
    body = await tenant.ask(_margin_page, tenant.store, asked)
    return Response(body, media_type="application/json")


def _margin_page(product: str, store: SqlStore, asked: SpendRequest) -> bytes:
    report = store.margin(product, asked)
    following = report.page.following
    # A cursor has as many texts as the report has keys.
    cursor = following and write_cursor(following.rank, following.first)
    return to_json(margin_to_json(report, cursor))


def _margin_csv(product: str, store: SqlStore, asked: SpendRequest) -> str:
    """Write all rows: as many as the product has users, which are in memory anyway."""
    text = io.StringIO()
    by = asked.by[0]
    writer = csv.DictWriter(text, margin_columns(by), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(margin_row_to_json(by, row) for row in store.margin(product, asked).page.rows)
    return text.getvalue()


def _tags(request: Request) -> dict[str, str]:
    """Return the tags of a query, `tag.KEY=VALUE`, by the names of their keys."""
    return {
        TAG + name[len(_TAG_QUERY) :]: value
        for name, value in request.query_params.items()
        if name.startswith(_TAG_QUERY)
    }


def _page(product: str, store: SqlStore, asked: SpendRequest) -> bytes:
    """Read and write down a page, on a thread of the store: it may have thousands of rows."""
    report = store.spend(product, asked)
    following = report.page.following
    # It has as many keys as the report, by which a cursor of another one is recognized.
    cursor = following and write_cursor(*following[: 1 + len(asked.by)])
    return to_json(report_to_json(report, cursor))


def _write_csv(product: str, store: SqlStore, asked: SpendRequest) -> IO[bytes]:
    """Write all rows into a temporary file, so that no transaction waits for a slow client."""
    with ExitStack() as stack:
        file = stack.enter_context(TemporaryFile())
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(columns_of(asked.by))
        for row in store.spend_rows(product, asked):
            writer.writerow(values_of(asked.by, row))
        text.detach()
        file.seek(0)
        stack.pop_all()  # it is closed once it is sent
    return file


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
