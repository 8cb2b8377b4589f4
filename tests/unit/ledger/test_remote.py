"""The ledger over HTTP: what each answer of a server means."""

from __future__ import annotations

import json
import time
from datetime import date
from typing import Any
from urllib.parse import parse_qsl

import pytest
from tests.contract.samples import DAY_US, NOON_US, ask, make_event, period_key

from paygent.core.messages import Batch
from paygent.core.period import to_datetime
from paygent.core.report import Figures, SpendPage, SpendQuery, SpendReport, SpendRow
from paygent.core.report_json import report_to_json
from paygent.core.report_request import Names, SpendRequest
from paygent.core.validation import InvalidValue
from paygent.failopen import diagnostics
from paygent.ledger import remote as remote_module
from paygent.ledger.backend import BackendLedger
from paygent.ledger.polling import PollingLedger
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.ledger.remote import RemoteLedger
from paygent.ledger.transport import HttpResponse, TransportError

PROBLEM = json.dumps(
    {"type": "x", "title": "No.", "status": 422, "detail": "events[0].id"}
).encode()


class Scripted:
    """A transport that answers from a list, and keeps what it was asked."""

    def __init__(self, *answers: HttpResponse | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str, Any]] = []
        self.calls: list[str] = []

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Return or raise the next answer."""
        assert timeout_s > 0
        self.seen.append((method, path, None if body is None else json.loads(body)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")

    def forget_after_fork(self) -> None:
        """Note it."""
        self.calls.append("forget")


def remote(*answers: HttpResponse | Exception) -> tuple[RemoteLedger, Scripted]:
    """Return a ledger and its transport."""
    transport = Scripted(*answers)
    return RemoteLedger(transport), transport  # type: ignore[arg-type]


def ok(**fields: Any) -> HttpResponse:
    """Return an answer with a JSON body."""
    return HttpResponse(200, json.dumps({"booked_through": 0, **fields}).encode())


def test_settle__a_batch__goes_to_sync_and_its_answer_comes_back() -> None:
    """Ids that are not named as duplicates were new."""
    batch = Batch(events=(make_event("a"), make_event("b")), holder="h", number=7, at_us=NOON_US)
    ledger, transport = remote(ok(booked_through=7, duplicates=["b"]))
    answer = ledger.settle(batch)
    assert (set(answer.counted), answer.booked_through) == ({"a"}, 7)
    ((method, path, body),) = transport.seen
    assert (method, path, body["number"], len(body["events"])) == ("POST", "/api/v1/sync", 7, 2)


def test_state__questions__go_to_leases() -> None:
    """The express lane carries no events."""
    user = {"user_id": "ann", "spent": [5]}
    ledger, transport = remote(ok(users=[user]))
    answer = ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US))
    assert answer.users["ann"].spent == {period_key(): 5}
    assert transport.seen[0][:2] == ("POST", "/api/v1/leases")


def test_settle__an_id_with_a_lone_surrogate__is_sent_as_a_local_store_keeps_it() -> None:
    """No server reads it, and one odd id must not keep a batch from being booked."""
    question = ask("a\udc80", period_key())
    ledger, transport = remote(ok(users=[{"user_id": "a\ufffd", "spent": [5]}]))
    answer = ledger.state(Batch(questions=question, at_us=NOON_US))
    assert transport.seen[0][2]["questions"][0]["user_id"] == "a\ufffd"
    assert answer.users["a\udc80"].spent == {period_key(): 5}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_settle__a_problem_about_the_batch__refuses_it(status: int) -> None:
    """The same batch would be refused again."""
    ledger, _ = remote(HttpResponse(status, PROBLEM))
    with pytest.raises(LedgerRefused, match=r"events\[0\]\.id"):
        ledger.settle(Batch())


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "bad gateway"}', b""])
def test_settle__400_of_something_else__is_not_now(body: bytes) -> None:
    """A proxy's page says nothing about the events: they must not be set aside."""
    ledger, _ = remote(HttpResponse(400, body))
    with pytest.raises(LedgerUnavailable, match="status 400"):
        ledger.settle(Batch())


@pytest.mark.parametrize("status", [401, 403])
def test_settle__a_rejected_key__is_unauthorised_and_keeps_the_events(status: int) -> None:
    """A key may be rotated a moment later."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 3.0))
    with pytest.raises(LedgerUnauthorised) as raised:
        ledger.settle(Batch())
    assert raised.value.retry_after_s == 3.0


@pytest.mark.parametrize("status", [204, 302, 404, 405, 408, 409, 429, 499, 500, 502, 503, 504])
def test_settle__any_other_status__is_not_now(status: int) -> None:
    """The batch is sent again, after what the server asks for."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 9.0))
    with pytest.raises(LedgerUnavailable) as raised:
        ledger.settle(Batch())
    assert (type(raised.value), raised.value.retry_after_s) == (LedgerUnavailable, 9.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>",
        b"[" * 100_000,
        b'{"booked_through": 0, "users": 1}',
        b'{"booked_through": 0, "users": [{"user_id": "someone"}]}',
        b'{"booked_through": 0, "users": [{"user_id": "ann", "spent": []}]}',
    ],
)
def test_state__an_answer_that_is_none__is_not_now(body: bytes) -> None:
    """A server that answers 200 to everything has booked nothing."""
    ledger, _ = remote(HttpResponse(200, body))
    with pytest.raises(LedgerUnavailable):
        ledger.state(Batch(questions=ask("ann", period_key())))


def test_settle__without_an_answer__is_not_now() -> None:
    """Whether the batch was booked is not known."""
    ledger, _ = remote(TransportError("ReadTimeout"))
    with pytest.raises(LedgerUnavailable, match="ReadTimeout"):
        ledger.settle(Batch())


def test_remote__its_life__is_the_transports() -> None:
    """A child drops the connections, and the end closes them."""
    ledger, transport = remote()
    ledger.open()
    ledger.pause_for_fork()
    ledger.resume_after_fork()
    ledger.forget_after_fork()
    ledger.close()
    assert transport.calls == ["forget", "close"]


def test_event__of_a_backend__is_not_shown() -> None:
    """It raises what callers of the port expect."""
    ledger, _ = remote()
    with pytest.raises(LedgerUnavailable):
        ledger.event("a")


# -- which kind of backend


def backend(*answers: HttpResponse | Exception) -> tuple[BackendLedger, Scripted]:
    """Return a ledger that has not chosen yet, and its transport."""
    transport = Scripted(*answers)
    return BackendLedger(transport, PollingLedger), transport  # type: ignore[arg-type]


def test_backend__with_our_capabilities__is_synced_with() -> None:
    """The handshake happens once."""
    ledger, transport = backend(ok(status="ok", capabilities=["sync"]), ok(), ok())
    ledger.settle(Batch())
    ledger.state(Batch())
    assert [path for _, path, _ in transport.seen] == [
        "/api/v1/health",
        "/api/v1/sync",
        "/api/v1/leases",
    ]
    assert not ledger.is_polling


@pytest.mark.parametrize("capabilities", [None, [], ["events_1000"], "sync", {"sync": 1}])
def test_backend__without_them__is_polled_and_that_is_logged_once(capabilities: Any) -> None:
    """An older server, or one of another maker."""
    fields = {} if capabilities is None else {"capabilities": capabilities}
    ledger, _ = backend(ok(status="ok", **fields))
    ledger.open()
    ledger.open()
    assert ledger.is_polling
    assert diagnostics.counts == {"backend_polled": 1}


@pytest.mark.parametrize("health", [b"[]", b"{}", b'"ok"'])
def test_backend__a_health_page_of_something_else__is_no_backend(health: bytes) -> None:
    """Nothing is sent there."""
    ledger, transport = backend(HttpResponse(200, health))
    with pytest.raises(LedgerUnavailable, match="no Paygent backend"):
        ledger.open()
    assert len(transport.seen) == 1


def test_backend__a_mere_404__chooses_nothing() -> None:
    """A proxy in front of a server that is starting answers like that."""
    ledger, _ = backend(HttpResponse(404, b""), ok(status="ok", capabilities=["sync"]), ok())
    with pytest.raises(LedgerUnavailable):
        ledger.settle(Batch())
    ledger.settle(Batch())
    assert not ledger.is_polling


def test_backend__in_a_forked_child__keeps_its_choice_and_drops_connections() -> None:
    """The server is the same one."""
    ledger, transport = backend(ok(status="ok", capabilities=["sync"]), ok())
    ledger.open()
    ledger.pause_for_fork()
    ledger.resume_after_fork()
    ledger.forget_after_fork()
    ledger.state(Batch())
    ledger.close()
    assert transport.calls == ["forget", "forget", "close"]
    with pytest.raises(LedgerUnavailable):
        ledger.event("a")


def test_settle__an_answer_that_lacks_the_batch__is_not_now() -> None:
    """A server that answers 200 with some number has not booked it."""
    ledger, _ = remote(ok(booked_through=6))
    with pytest.raises(LedgerUnavailable, match="not booked"):
        ledger.settle(Batch(holder="h", number=7))


def test_settle__ids_that_differ_by_what_cannot_be_sent__are_one_question() -> None:
    """The server would refuse two about one user, for ever."""
    ledger, transport = remote(ok(users=[{"user_id": "a\ufffd", "spent": [5]}]))
    questions = ask("a\ud800", period_key()) + ask("a\ufffd", period_key())
    answer = ledger.state(Batch(questions=questions, at_us=NOON_US))
    assert [each["user_id"] for each in transport.seen[0][2]["questions"]] == ["a\ufffd"]
    assert list(answer.users) == ["a\ud800"]


# -- reports

BY_USER = SpendRequest(("user",))
PAGE_ROWS = 10_000
"""What a page of a report has at most."""


def rows_of(first: int, count: int) -> tuple[SpendRow, ...]:
    """Return rows of users with numbers."""
    return tuple(SpendRow((f"u{n}",), Figures(calls=n)) for n in range(first, first + count))


def page_json(
    rows: tuple[SpendRow, ...], cursor: str | None = None, by: tuple[str, ...] = ("user",)
) -> dict[str, Any]:
    """Return the JSON of a page of a report."""
    query = SpendQuery(by, NOON_US - DAY_US, NOON_US)
    total = Figures(calls=99_999, cost_nano=7)
    return report_to_json(
        SpendReport(SpendPage(rows, total, None), query, "Asia/Tokyo", NOON_US), cursor
    )


def page(*arguments: Any, **options: Any) -> HttpResponse:
    """Return the answer with a page of a report."""
    return HttpResponse(200, json.dumps(page_json(*arguments, **options)).encode())


def queries(transport: Scripted) -> list[dict[str, str]]:
    """Return the queries of all requests for reports."""
    found = []
    for method, path, body in transport.seen:
        route, _, query = path.partition("?")
        assert (method, route, body) == ("GET", "/api/v1/reports/spend", None)
        found.append(dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)))
    return found


def test_report__of_several_pages__is_one_with_all_rows_in_order() -> None:
    """They are read by their keys, between the times of the first page, so that none is missed
    while others change; the total is that of the rows.
    """
    rows = rows_of(0, 2 * PAGE_ROWS + 1)
    ledger, transport = remote(
        page(rows[:PAGE_ROWS], "second"),
        page(rows[PAGE_ROWS:-1], "third"),
        page(rows[-1:]),
    )
    report = ledger.report(BY_USER)
    assert report.page.rows == tuple(
        sorted(rows, key=lambda row: (-row.figures.cost_nano, row.keys))
    )
    assert report.page.total.cost_nano == sum(row.figures.cost_nano for row in rows)
    assert report.page.following is None
    assert (report.timezone, report.as_of_us) == ("Asia/Tokyo", NOON_US)
    assert (report.query.start_us, report.query.end_us) == (NOON_US - DAY_US, NOON_US)
    asked = [(each["limit"], each.get("cursor")) for each in queries(transport)]
    assert asked == [("10000", None), ("10000", "second"), ("10000", "third")]
    assert {each["sort"] for each in queries(transport)} == {"user"}
    spans = [(each.get("from"), each.get("to")) for each in queries(transport)]
    first = tuple(to_datetime(each).isoformat() for each in (NOON_US - DAY_US, NOON_US))
    assert spans == [(None, None), first, first]


def test_report__without_rows__is_empty() -> None:
    """Nothing was used; one request shows it."""
    ledger, transport = remote(page(()))
    assert ledger.report(BY_USER).page.rows == ()
    assert len(transport.seen) == 1


@pytest.mark.parametrize(
    ("rows_max", "limits"),
    [(3, ["3"]), (PAGE_ROWS, ["10000"]), (PAGE_ROWS + 2, ["10000", "10000"])],
)
def test_report__with_a_limit__is_a_page_or_the_first_rows_of_all(
    rows_max: int, limits: list[str]
) -> None:
    """Of a page the server knows the order; more are put in order here."""
    rows, made = rows_of(0, rows_max + 5 * (len(limits) - 1)), 0
    answers = []
    for number, limit in enumerate(limits):
        following = None if number + 1 == len(limits) > 1 else f"page {number}"
        answers.append(page(rows[made : made + int(limit)], following))
        made += int(limit)
    ledger, transport = remote(*answers)
    found = ledger.report(SpendRequest(("user",), rows_max=rows_max)).page.rows
    ordered = tuple(sorted(rows, key=lambda row: (-row.figures.cost_nano, row.keys)))
    assert found == (rows if len(limits) == 1 else ordered[:rows_max])
    assert [each["limit"] for each in queries(transport)] == limits


def test_report__fewer_rows_than_its_limit__ends_with_the_last_page() -> None:
    """A limit is no number of rows that must be there."""
    ledger, transport = remote(page(rows_of(0, 2)))
    assert len(ledger.report(SpendRequest(("user",), rows_max=5)).page.rows) == 2
    assert len(transport.seen) == 1


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (SpendRequest(("user",)), {"by": "user"}),
        (
            SpendRequest(
                ("day", "tag:team"),
                start=date(2024, 10, 3),
                end=NOON_US,
                sort="day",
                is_descending=False,
            ),
            {
                "by": "day,tag:team",
                "sort": "day",
                "from": "2024-10-03",
                "to": "2024-10-04T12:00:00+00:00",
            },
        ),
        (
            SpendRequest(
                ("model",),
                period="previous",
                where={
                    "user": "a&b=c+d %/?#é",
                    "model": "",
                    "session": "s 1",
                    "tag:team": "r&d",
                    "tag:a&b=c": "x+y",
                },
                sort="calls",
                rows_max=7,
            ),
            {
                "by": "model",
                "sort": "-calls",
                "limit": "7",
                "period": "previous",
                "user": "a&b=c+d %/?#é",
                "model": "",
                "session": "s 1",
                "tag.team": "r&d",
                "tag.a&b=c": "x+y",
            },
        ),
        (SpendRequest(("user",), where={"user": "a\udc80"}), {"user": "a\ufffd"}),
    ],
    ids=["defaults", "moments", "filters", "lone surrogate"],
)
def test_report__its_query__is_what_was_asked_for(
    request_: SpendRequest, expected: dict[str, str]
) -> None:
    """Also values that mean something in a URL, and those that no server reads."""
    ledger, transport = remote(page((), by=request_.by))
    ledger.report(request_)
    (query,) = queries(transport)
    defaults = {"by": "user", "sort": "user", "limit": "10000"}
    assert query == {**defaults, **expected}


def test_report__a_cursor__is_sent_as_it_was_given() -> None:
    """The server alone knows what is in it."""
    cursor = "a+b/c==&d e"
    ledger, transport = remote(page(rows_of(0, PAGE_ROWS), cursor), page(()))
    ledger.report(BY_USER)
    assert queries(transport)[1]["cursor"] == cursor


def without(*names: str) -> dict[str, Any]:
    """Return the JSON of a page that lacks fields."""
    whole = page_json(rows_of(0, 1))
    return {name: value for name, value in whole.items() if name not in names}


@pytest.mark.parametrize(
    "given",
    [
        *([], {}, None, "report", 5, {"status": "ok"}, {"by": ["user"], "rows": []}),
        *(without(name) for name in ("by", "from", "to", "as_of", "timezone", "rows", "total")),
        {**page_json(()), "from": "yesterday"},
        {**page_json(()), "rows": [5]},
        {**page_json(()), "rows": [{"user": "ann"}]},
        {**page_json(()), "total": {**page_json(())["total"], "cost_nano": 0.5}},
        page_json((), by=("model",)),
        page_json((), by=("user", "colour")),
        page_json(rows_of(0, 6)),
        {**page_json(rows_of(0, 5)), "next_cursor": 5},
    ],
)
def test_report__an_answer_that_is_no_page_of_it__is_not_now(given: Any) -> None:
    """Figures of something else are not shown as a report; at most five users are asked for."""
    ledger, transport = remote(HttpResponse(200, json.dumps(given).encode()))
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        ledger.report(SpendRequest(("user",), rows_max=5))
    assert len(transport.seen) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000])
def test_report__an_answer_that_is_no_json__is_not_now(body: bytes) -> None:
    """A page of some proxy."""
    ledger, _ = remote(HttpResponse(200, body))
    with pytest.raises(LedgerUnavailable, match="not JSON"):
        ledger.report(BY_USER)


class Endless(Scripted):
    """A server that always names a next page.

    Args:
        count: Rows of each page.
        is_stuck: Whether the next page is always the same one.
    """

    def __init__(self, count: int, *, is_stuck: bool) -> None:
        super().__init__()
        self._is_stuck = is_stuck
        self._rows = rows_of(0, count)

    def request(self, *arguments: Any, **options: Any) -> HttpResponse:
        """Answer with rows, and name the next page."""
        cursor = "again" if self._is_stuck else f"page {len(self.seen)}"
        self.answers.append(page(self._rows, cursor))
        return super().request(*arguments, **options)


@pytest.mark.parametrize(
    ("count", "requests"), [(0, 1), (1, 1), (PAGE_ROWS, 2)], ids=["empty", "short", "same"]
)
def test_report__of_a_server_that_always_names_a_next_page__ends(count: int, requests: int) -> None:
    """A page with another one after it is full, and the next one is another: after one that is
    not, no further request is made.
    """
    transport = Endless(count, is_stuck=True)
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        RemoteLedger(transport).report(BY_USER)  # type: ignore[arg-type]
    assert len(transport.seen) == requests


def test_report__of_ever_more_full_pages__ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is of all pages together, and each request has what is left of it."""
    monkeypatch.setattr(remote_module, "REPORT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(remote_module, "PAGE_ROWS_MAX", 1)
    transport, allowed_s = Endless(1, is_stuck=False), []
    answer = transport.request

    def request(*arguments: Any, timeout_s: float, **options: Any) -> HttpResponse:
        allowed_s.append(timeout_s)
        assert len(allowed_s) < 1_000
        time.sleep(0.001)
        return answer(*arguments, timeout_s=timeout_s, **options)

    monkeypatch.setattr(transport, "request", request)
    with pytest.raises(LedgerUnavailable, match=r"longer than 0\.2 s"):
        RemoteLedger(transport).report(BY_USER)  # type: ignore[arg-type]
    assert allowed_s[0] <= 0.2
    assert allowed_s == sorted(allowed_s, reverse=True)


@pytest.mark.parametrize("status", [401, 403])
def test_report__a_rejected_key__is_unauthorised(status: int) -> None:
    """As for every other request."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 3.0))
    with pytest.raises(LedgerUnauthorised, match=f"status {status}") as raised:
        ledger.report(BY_USER)
    assert raised.value.retry_after_s == 3.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_report__a_busy_server__is_not_now(status: int) -> None:
    """With what the server asks for."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 9.0))
    with pytest.raises(LedgerUnavailable, match=f"status {status}") as raised:
        ledger.report(BY_USER)
    assert (type(raised.value), raised.value.retry_after_s) == (LedgerUnavailable, 9.0)


def test_report__without_an_answer__is_not_now() -> None:
    """Also in the middle of its pages: a part is no report."""
    ledger, _ = remote(page(rows_of(0, PAGE_ROWS), "next"), TransportError("ReadTimeout"))
    with pytest.raises(LedgerUnavailable, match="ReadTimeout"):
        ledger.report(BY_USER)


def test_report__of_an_older_server__is_not_there() -> None:
    """A problem with 404 is a server without the route; a mere 404 may be a proxy's."""
    ledger, _ = remote(HttpResponse(404, PROBLEM), HttpResponse(404, b"<html>"))
    with pytest.raises(LedgerUnavailable, match="this backend has no reports"):
        ledger.report(BY_USER)
    with pytest.raises(LedgerUnavailable, match="status 404"):
        ledger.report(BY_USER)


def problem(errors: Any) -> HttpResponse:
    """Return a problem that lists the rules which a query breaks."""
    body = {"title": "No.", "status": 422, "detail": "Invalid: by, to.", "errors": errors}
    return HttpResponse(422, json.dumps(body).encode())


def test_report__a_refused_query__names_the_callers_arguments() -> None:
    """Each rule as the server states it, of any length up to what can be read."""
    errors = [
        {"field": "by", "value": "session", "rule": "has more than 200,000 events"},
        {"field": "from", "value": "x", "rule": "must be a day"},
        {"field": "to", "rule": "must be after from"},
        {"field": "user", "value": "u", "rule": "r" * 500},
        *("nothing", {"field": "to"}, {"rule": "lonely"}),
    ]
    ledger, _ = remote(problem(errors))
    with pytest.raises(InvalidValue) as raised:
        ledger.report(SpendRequest(("session",), names=Names("--by", "--from", "--to")))
    assert [(each.field, each.value, each.rule) for each in raised.value.findings] == [
        ("--by", "session", "has more than 200,000 events"),
        ("--from", "x", "must be a day"),
        ("--to", None, "must be after from"),
        ("user", "u", "r" * 200),
    ]


@pytest.mark.parametrize("errors", [None, [], "many", [5]])
def test_report__a_refused_query_without_rules__has_the_servers_detail(errors: Any) -> None:
    """And the query that it is about."""
    ledger, transport = remote(problem(errors))
    with pytest.raises(InvalidValue, match="status 422: Invalid: by, to") as raised:
        ledger.report(BY_USER)
    assert [each.value for each in raised.value.findings] == [transport.seen[0][1]]


def test_report__422_of_something_else__is_not_now() -> None:
    """A proxy's page says nothing about the query."""
    ledger, _ = remote(HttpResponse(422, b"<html>"))
    with pytest.raises(LedgerUnavailable, match="status 422"):
        ledger.report(BY_USER)


def test_report__of_a_chosen_backend__is_that_ones() -> None:
    """The choice is made before the first request of any kind."""
    ledger, transport = backend(ok(status="ok", capabilities=["sync"]), page(rows_of(1, 1)))
    assert ledger.report(BY_USER).page.rows == rows_of(1, 1)
    assert [path.partition("?")[0] for _, path, _ in transport.seen] == [
        "/api/v1/health",
        "/api/v1/reports/spend",
    ]
    polled, _ = backend(ok(status="ok"))
    with pytest.raises(LedgerUnavailable, match="no reports"):
        polled.report(BY_USER)
