"""The ledger of a backend of this product: `/sync` and `/leases` over HTTP.

A status is one of three things. What is about the content of a batch (a problem with 400, 413 or
422) refuses it; 401 and 403 reject the key; everything else, from 429 to a page of some proxy, is
"not now".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlencode

from paygent.core.event_json import read_time
from paygent.core.message_json import batch_to_json, read_answer, readable
from paygent.core.messages import Answer, Batch, BookedEvent
from paygent.core.report import Groups, SpendReport, page_of
from paygent.core.report_json import read_report
from paygent.core.report_request import PAGE_ROWS_MAX, SpendRequest, request_to_query
from paygent.core.report_table import ReportTable, TableKind, sorted_rows
from paygent.core.validation import FINDINGS_MAX, FieldError, InvalidValue
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.ledger.transport import HttpResponse, HttpTransport, Transport, TransportError

SYNC_TIMEOUT_S = 8.0
"""Longest exchange of a batch: a busy server answers 503 sooner, and one that is mute is noticed
after so long.
"""

ASK_TIMEOUT_S = 2.0
"""Longest exchange of a question; its caller has stopped waiting by then."""

REPORT_TIMEOUT_S = 30.0
"""Longest exchange of all pages of a report; its caller has stopped waiting by then."""

_T = TypeVar("_T")

_UNUSABLE = "its answer cannot be used"
_REFUSALS = (400, 413, 422)
_REJECTIONS = (401, 403)
_MESSAGE_CHARS_MAX = 200


class HttpLedger:
    """What ledgers over HTTP have in common: their connections, and what no backend answers."""

    keeps_plans = True

    def __init__(self, transport: HttpTransport) -> None:
        """Take over the transport; it is closed with the ledger."""
        self._transport = transport

    def report(self, request: SpendRequest) -> SpendReport:  # noqa: ARG002 - the port's
        """Raise: a backend with the documented routes alone has no reports."""
        raise LedgerUnavailable("this backend has no reports")

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:  # noqa: ARG002
        """Raise: a backend with the documented routes alone has no reports."""
        raise LedgerUnavailable("this backend has no reports")

    def event(self, *_: object) -> BookedEvent | None:
        """Raise: a backend shows no single events."""
        raise LedgerUnavailable("a backend shows no single events")

    def close(self) -> None:
        """Close the connections; see `Ledger.close`."""
        self._transport.close()

    def pause_for_fork(self) -> None:
        """Keep the connections: a child drops its copies without using them."""

    def resume_after_fork(self) -> None:
        """Go on with the connections."""

    def forget_after_fork(self) -> None:
        """Drop the parent's connections; see `Ledger.forget_after_fork`."""
        self._transport.forget_after_fork()


class RemoteLedger(HttpLedger):
    """Adapter of `Ledger` over `/sync` and `/leases`."""

    heartbeat_s: float | None = 1.0

    def open(self) -> None:
        """Do nothing: a request connects; see `Ledger.open`."""

    def settle(self, batch: Batch) -> Answer:
        """Book a batch; see `Ledger.settle`."""
        answer = self._exchange("/api/v1/sync", batch, SYNC_TIMEOUT_S)
        if answer.booked_through < batch.number:
            raise LedgerUnavailable("it has answered, and not booked the batch")
        return answer

    def state(self, batch: Batch) -> Answer:
        """Answer questions; see `Ledger.state`."""
        return self._exchange("/api/v1/leases", batch, ASK_TIMEOUT_S)

    def report(self, request: SpendRequest) -> SpendReport:
        """Return usage and cost; see `Ledger.report`."""
        reports = [_usable(read_report, each) for each in self._documents("spend", request)]
        report, groups = reports[0], Groups()
        for each in reports:
            groups.update(each.page.rows)
        if len(reports) == 1 and _is_one_page(request):
            return report
        query = replace(
            report.query,
            sort=request.sort,
            is_descending=request.is_descending,
            rows_max=request.rows_max,
        )
        return report._replace(page=page_of(groups, query)._replace(following=None))

    def table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        """Return another report; see `Ledger.table`."""
        documents = self._documents(kind, request)
        first, rows = documents[0], [row for each in documents for row in each["rows"]]
        if not _is_one_page(request):
            rows = _usable(lambda found: sorted_rows(found, request)[: request.rows_max], rows)
        return _usable(ReportTable.of, {**first, "rows": rows})

    def _documents(self, kind: str, request: SpendRequest) -> list[dict[str, Any]]:
        """Return all pages of a report."""
        deadline = time.monotonic() + REPORT_TIMEOUT_S
        rows_max = request.rows_max
        if rows_max is not None and _is_one_page(request):
            return [self._page(kind, request, rows_max, None, deadline)[0]]
        # In the order of the keys, so that no row is missed or read twice while others change.
        by_key = replace(request, sort=request.by[0], is_descending=False)
        pages = []
        cursor = None
        while True:
            page, following = self._page(kind, by_key, PAGE_ROWS_MAX, cursor, deadline)
            pages.append(page)
            if following is None:
                return pages
            if following == cursor:
                raise LedgerUnavailable(f"{_UNUSABLE}: its next page is the same one")
            cursor = following
            if request.period is None:  # of the first page, also if a day begins meanwhile
                start_us, end_us = (read_time(page.get(name)) for name in ("from", "to"))
                by_key = replace(by_key, start=start_us, end=end_us)

    def _page(
        self, kind: str, request: SpendRequest, rows_max: int, cursor: str | None, deadline: float
    ) -> tuple[dict[str, Any], str | None]:
        query = request_to_query(request, rows_max, cursor)
        given = self._read_page(kind, request, query, deadline - time.monotonic())
        return _page_of(given, request, rows_max)

    def _read_page(
        self, kind: str, request: SpendRequest, query: Mapping[str, str], timeout_s: float
    ) -> Any:
        if timeout_s <= 0:
            raise LedgerUnavailable(f"the report takes longer than {REPORT_TIMEOUT_S:g} s")
        sent = {readable(name): readable(value) for name, value in query.items()}
        path = f"/api/v1/reports/{kind}?{urlencode(sent)}"
        response = send(self._transport, "GET", path, timeout_s=timeout_s)
        # A proxy's page is no problem: the server behind it may have reports.
        if response.status == 404 and _detail_of(response) is not None:
            raise LedgerUnavailable("this backend has no reports")
        try:
            return content(response)
        except LedgerRefused as error:
            found = _broken_rules(response, request) or (FieldError("report", path, str(error)),)
            raise InvalidValue("report", found) from error

    def _exchange(self, path: str, batch: Batch, timeout_s: float) -> Answer:
        # Ids that differ only by what cannot be sent are one there.
        questions = {readable(each.user_id): each for each in reversed(batch.questions)}
        batch = replace(batch, questions=tuple(reversed(questions.values())))
        body = encode(batch_to_json(batch))
        given = call(self._transport, "POST", path, body=body, timeout_s=timeout_s)
        try:
            return read_answer(given, batch)
        except InvalidValue as error:
            raise LedgerUnavailable(f"{_UNUSABLE}: {error}") from error


def _is_one_page(request: SpendRequest) -> bool:
    return request.rows_max is not None and request.rows_max <= PAGE_ROWS_MAX


def _usable(read: Callable[[Any], _T], given: Any) -> _T:
    """Return what is read from a backend's answer.

    Raises:
        LedgerUnavailable: It cannot be read.
    """
    try:
        return read(given)
    except (InvalidValue, KeyError, TypeError) as error:
        raise LedgerUnavailable(f"{_UNUSABLE}: {error}") from error


def _page_of(given: Any, request: SpendRequest, rows_max: int) -> tuple[dict[str, Any], str | None]:
    """Return a page, and where the next one begins; None on the last page.

    Raises:
        LedgerUnavailable: It is no page of this report. A page that is not full is the last one:
            a server cannot have its client read on for ever.
    """
    if not isinstance(given, dict) or not isinstance(given.get("rows"), list):
        raise LedgerUnavailable(f"{_UNUSABLE}: it is no report")
    count, following = len(given["rows"]), given.get("next_cursor")
    if given.get("by") != list(map(readable, request.by)):
        raise LedgerUnavailable(f"{_UNUSABLE}: it is another report")
    if count > rows_max:
        raise LedgerUnavailable(f"{_UNUSABLE}: a page has more rows than were asked for")
    if following is None:
        return given, None
    if not isinstance(following, str) or count < rows_max:
        raise LedgerUnavailable(f"{_UNUSABLE}: a page that is not full has another after it")
    return given, following


def _broken_rules(response: HttpResponse, request: SpendRequest) -> tuple[FieldError, ...]:
    """Return the rules that a problem lists, by the caller's names of the arguments."""
    errors = json.loads(response.body).get("errors")
    names = {"by": request.names.by, "from": request.names.start, "to": request.names.end}
    found = []
    for error in errors[:FINDINGS_MAX] if isinstance(errors, list) else ():
        if isinstance(error, dict) and "field" in error and "rule" in error:
            field, rule = str(error["field"]), str(error["rule"])[:_MESSAGE_CHARS_MAX]
            found.append(FieldError(names.get(field, field), error.get("value"), rule))
    return tuple(found)


def encode(document: Any) -> bytes:
    """Return a JSON document as the body of a request."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return readable(text).encode()


def call(
    transport: Transport,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    timeout_s: float,
) -> Any:
    """Send a request and return the JSON of its answer.

    Raises:
        LedgerUnavailable, LedgerUnauthorised, LedgerRefused: see the module.
    """
    return content(send(transport, method, path, body=body, timeout_s=timeout_s))


def send(
    transport: Transport,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    timeout_s: float,
) -> HttpResponse:
    """Send a request and return its answer; `LedgerUnavailable` without one."""
    try:
        return transport.request(method, path, body=body, timeout_s=timeout_s)
    except TransportError as error:
        raise LedgerUnavailable(f"the backend cannot be reached: {error}") from error


def content(response: HttpResponse) -> Any:
    """Return the JSON of a response, or raise what its status means."""
    if response.status in (200, 201):
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError) as error:
            raise LedgerUnavailable("the backend's answer is not JSON") from error
    raise _failure(response)


def _failure(response: HttpResponse) -> Exception:
    status, detail = response.status, _detail_of(response)
    shown = f"status {status}" + (f": {detail}" if detail else "")
    if status in _REJECTIONS:
        return LedgerUnauthorised(shown, response.retry_after_s)
    if status in _REFUSALS and detail is not None:
        return LedgerRefused(shown)
    return LedgerUnavailable(f"the backend answers with {shown}", response.retry_after_s)


def _detail_of(response: HttpResponse) -> str | None:
    """Return the detail of a problem (RFC 9457); None if the body is none, which then comes from
    somewhere else, such as a proxy.
    """
    try:
        problem = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(problem, dict) or "title" not in problem:
        return None
    return str(problem.get("detail", problem["title"]))[:_MESSAGE_CHARS_MAX]
