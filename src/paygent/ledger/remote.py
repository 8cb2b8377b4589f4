"""The ledger of a backend of this product: `/sync` and `/leases` over HTTP.

A status is one of three things. What is about the content of a batch (a problem with 400, 413 or
422) refuses it; 401 and 403 reject the key; everything else, from 429 to a page of some proxy, is
"not now".
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from paygent.core.message_json import batch_to_json, read_answer, readable
from paygent.core.messages import Answer, Batch, BookedEvent
from paygent.core.report import SpendPage, SpendReport, SpendRow
from paygent.core.report_json import read_report
from paygent.core.report_request import PAGE_ROWS_MAX, SpendRequest, request_to_query
from paygent.core.validation import FieldError, InvalidValue
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.ledger.transport import HttpResponse, HttpTransport, Transport, TransportError

SYNC_TIMEOUT_S = 8.0
"""Longest exchange of a batch: a busy server answers 503 sooner, and one that is mute is noticed
after so long.
"""

ASK_TIMEOUT_S = 2.0
"""Longest exchange of a question; its caller has stopped waiting by then."""

REPORT_TIMEOUT_S = 20.0
"""Longest exchange of a page of a report."""

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
        """Return usage and cost, read page by page; see `Ledger.report`."""
        rows: list[SpendRow] = []
        cursor = None
        while True:
            left = PAGE_ROWS_MAX if request.rows_max is None else request.rows_max - len(rows)
            query = urlencode(request_to_query(request, min(left, PAGE_ROWS_MAX), cursor))
            report, cursor = self._page(f"/api/v1/reports/spend?{query}")
            rows += report.page.rows
            if cursor is None or len(rows) == request.rows_max:
                page = SpendPage(tuple(rows), report.page.total, None)
                return report._replace(page=page)

    def _page(self, path: str) -> tuple[SpendReport, str | None]:
        try:
            given = call(self._transport, "GET", path, timeout_s=REPORT_TIMEOUT_S)
        except LedgerRefused as error:
            raise InvalidValue("report", (FieldError("report", path, str(error)),)) from error
        try:
            report = read_report(given)
        except InvalidValue as error:
            raise LedgerUnavailable(f"its answer cannot be used: {error}") from error
        cursor = given.get("next_cursor")
        if not report.page.rows:
            cursor = None  # a page without rows is the last one
        return report, cursor if isinstance(cursor, str) else None

    def _exchange(self, path: str, batch: Batch, timeout_s: float) -> Answer:
        # Ids that differ only by what cannot be sent are one there.
        questions = {readable(each.user_id): each for each in reversed(batch.questions)}
        batch = replace(batch, questions=tuple(reversed(questions.values())))
        body = encode(batch_to_json(batch))
        given = call(self._transport, "POST", path, body=body, timeout_s=timeout_s)
        try:
            return read_answer(given, batch)
        except InvalidValue as error:
            raise LedgerUnavailable(f"its answer cannot be used: {error}") from error


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
    try:
        response = transport.request(method, path, body=body, timeout_s=timeout_s)
    except TransportError as error:
        raise LedgerUnavailable(f"the backend cannot be reached: {error}") from error
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
