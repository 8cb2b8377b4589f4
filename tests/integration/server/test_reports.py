"""`GET /reports/spend`: pages, totals, filters, CSV and refusals."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.server.service import NOW, NOW_US, Service, event, fields_of, listening

from paygent.core.report_request import read_request
from paygent.core.report_table import RULES_OF
from paygent.ledger import remote
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import LedgerUnauthorised
from paygent.ledger.transport import HttpTransport

DIME_NANO = 100_000_000  # what an event costs


@pytest.fixture
def booked(service: Service) -> Service:
    """Usage of 7 users in two months: the user of a higher number made more calls."""
    events = [
        event(
            100 * number + call,
            user_id=f"u{number}",
            session_id=f"s{call % 2}",
            model=("gpt-4o", "o3")[call % 2],
            provider="openai",
            metadata={"team": "search" if number < 4 else "chat"},
            timestamp=(NOW - timedelta(days=20 * (call == 0))).isoformat(),
        )
        for number in range(1, 8)
        for call in range(number)
    ]
    service.book(*events)
    return service


def spend(service: Service, key: str = "read", **query: Any) -> dict[str, Any]:
    """Return the JSON of a report."""
    answer = service.get("/reports/spend", key=key, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_spend__without_a_query__is_this_month_by_user_dearest_first(booked: Service) -> None:
    """Sums of every figure, the total over all rows, and what the answer is about."""
    found = spend(booked)
    assert (found["report"], found["by"], found["timezone"]) == ("spend", ["user"], "UTC")
    assert (found["from"], found["to"]) == (
        "2026-11-01T00:00:00+00:00",
        "2026-11-21T00:00:00+00:00",
    )
    assert found["as_of"] == NOW.isoformat()
    assert [row["user"] for row in found["rows"]] == [f"u{number}" for number in range(7, 1, -1)]
    assert found["rows"][0] == {
        "user": "u7",
        "calls": 6,
        "input_tokens": 6_000,
        "output_tokens": 3_000,
        "cached_input_tokens": 0,
        "cost": 0.6,
        "cost_nano": 6 * DIME_NANO,
        "partial_calls": 0,
        "estimated_calls": 0,
        "unpriced_calls": 0,
        "shadow_calls": 0,
        "shadow_cost": 0.0,
        "shadow_cost_nano": 0,
    }
    assert (found["total"]["calls"], found["total"]["cost"], found["next_cursor"]) == (
        21,
        2.1,
        None,
    )


@pytest.mark.parametrize(("by", "rows_count"), [("user,model", 13), ("user", 7), ("session", 2)])
@pytest.mark.parametrize("rows_max", [1, 3])
def test_spend__pages__have_every_row_once_and_one_total(
    booked: Service, by: str, rows_count: int, rows_max: int
) -> None:
    """The cursor of a page leads to the next one, also where rows cost the same."""
    query: dict[str, Any] = {"by": by, "from": "2026-10-01", "limit": rows_max}
    rows, cursor, totals = [], None, []
    while True:
        found = spend(booked, **query, **({"cursor": cursor} if cursor else {}))
        rows += [(*(row[key] for key in by.split(",")), row["cost_nano"]) for row in found["rows"]]
        totals.append(found["total"])
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert len(rows) == len(set(rows)) == rows_count
    assert [cost for *_, cost in rows] == sorted((cost for *_, cost in rows), reverse=True)
    assert totals == [totals[0]] * -(-rows_count // rows_max)
    assert totals[0]["cost_nano"] == sum(cost for *_, cost in rows) == 28 * DIME_NANO


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ({"user": "u7"}, 6),
        ({"user": "u7", "from": "2026-10-01"}, 7),
        ({"user": "u7", "period": "previous"}, 1),
        ({"user": "u7", "period": "current"}, 6),
        ({"period": "previous"}, 7),
        ({"model": "o3"}, 12),
        ({"model": ""}, 0),
        ({"tag.team": "search"}, 3),
        ({"tag.team": "search", "tag.other": ""}, 3),
        ({"session": "s0"}, 9),
        ({"plan": "default", "provider": "openai"}, 21),
        ({"to": "2026-11-20T11:00:00+00:00"}, 0),
        ({"from": "2026-11-20T10:00:00 00:00"}, 21),  # a `+` that was not encoded
    ],
)
def test_spend__filters_and_spans__limit_rows_and_total(
    booked: Service, query: dict[str, Any], calls: int
) -> None:
    """Days, times, periods, keys and tags."""
    found = spend(booked, by="day,user", **query)
    assert found["total"]["calls"] == calls
    assert sum(row["calls"] for row in found["rows"]) == calls


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("month", [{"month": "2026-10"}, {"month": "2026-11"}]),
        ("period", [{"period": f"2026-{month}-01T00:00:00+00:00"} for month in (10, 11)]),
        ("tag:team", [{"tag:team": "chat"}, {"tag:team": "search"}]),
        ("session,model", [{"session": "s0", "model": "gpt-4o"}, {"session": "s1", "model": "o3"}]),
    ],
)
def test_spend__keys__are_fields_of_the_rows(
    booked: Service, by: str, keys: list[dict[str, str]]
) -> None:
    """Each by its own name."""
    found = spend(booked, by=by, **{"from": "2026-10-01"})
    names = by.split(",")
    assert [{name: row[name] for name in names} for row in found["rows"]] == keys


def test_spend__usage_without_a_key__is_null(service: Service) -> None:
    """An event without a model and session."""
    service.book(event(1, model=None, session_id=None, cost_tokens=0, cost_total=0))
    (row,) = spend(service, by="model,session")["rows"]
    assert (row["model"], row["session"], row["calls"]) == (None, None, 1)


def test_spend__as_csv__has_the_same_columns_and_all_rows(booked: Service) -> None:
    """A limit and a cursor are of pages; CSV has no other figures than JSON."""
    query = {"by": "user,model", "from": "2026-10-01"}
    expected = spend(booked, **query)["rows"]
    answer = booked.get("/reports/spend", key="read", params={**query, "format": "csv", "limit": 1})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == list(expected[0])
    assert rows == [{name: str(value) for name, value in row.items()} for row in expected]


def test_spend__a_call_of_a_moment_ago__is_in_the_next_report(booked: Service) -> None:
    """Nothing is kept from one report to the next."""
    before = spend(booked)["total"]["calls"]
    booked.book(event(1_000))
    assert spend(booked)["total"]["calls"] == before + 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"by": "colour"}, "by"),
        ({"by": "user,user"}, "by"),
        ({"by": "user,model,day"}, "by"),
        ({"by": ""}, "by"),
        ({"by": "tag:"}, "by"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-11-31"}, "to"),
        ({"from": "2026-11-20", "to": "2026-11-20"}, "to"),
        ({"from": "2010-01-01", "to": "2026-11-20"}, "to"),
        ({"from": "1969-12-31"}, "from"),
        ({"period": "next"}, "period"),
        ({"period": "current", "from": "2026-11-01"}, "period"),
        ({"sort": "day"}, "sort"),
        ({"sort": "-user"}, "sort"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"format": "xml"}, "format"),
        ({"tag.team": "x" * 1_001}, "tag.team"),
    ],
)
def test_spend__a_query_that_breaks_a_rule__names_the_field(
    service: Service, query: dict[str, Any], field: str
) -> None:
    """Names are those of the query."""
    answer = service.get("/reports/spend", params=query)
    assert answer.status_code == 422
    assert fields_of(answer) == [field]


def test_spend__a_cursor_of_another_report__is_refused(booked: Service) -> None:
    """It has as many keys as the report that it is from."""
    for by, other in (("user,model", "user"), ("user", "user,model")):
        cursor = spend(booked, by=by, limit=1)["next_cursor"]
        answer = booked.get("/reports/spend", params={"by": other, "cursor": cursor})
        assert fields_of(answer) == ["cursor"]


def test_spend__more_events_than_can_be_read__name_the_way_out(
    booked: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions and tags are read event by event, up to a number."""
    monkeypatch.setattr("paygent.store.reports.EVENTS_MAX", 20)
    for query in ({"by": "session"}, {"by": "user", "tag.team": "chat"}):
        answer = booked.get("/reports/spend", params=query)
        assert fields_of(answer) == ["by"]
        assert "has more than 20 events" in answer.text
    assert spend(booked, by="session", user="u7")["total"]["calls"] == 6
    assert spend(booked, by="user,model")["total"]["calls"] == 21


def test_spend__of_another_product__is_empty(booked: Service) -> None:
    """A key shows its own product alone."""
    assert spend(booked, key="other")["total"]["calls"] == 0
    assert spend(booked, key="sdk")["total"]["calls"] == 21


# -- margins


def margin(service: Service, key: str = "read", **query: Any) -> dict[str, Any]:
    """Return the JSON of a report of margins."""
    answer = service.get("/reports/margin", key=key, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def priced(booked: Service) -> Service:
    """Everyone has a plan of $49, and one user paid $10 for November."""
    plan_id = booked.plan("pro", price=49)
    for number in range(1, 8):
        subscription = {
            "plan_id": plan_id,
            "period_start": "2026-11-01T00:00:00Z",
            "period_end": "2026-12-01T00:00:00Z",
        }
        assert booked.post(f"/users/u{number}/subscription", subscription).status_code == 201
    payment = {
        "id": "r1",
        "user_id": "u7",
        "amount": 10,
        "currency": "USD",
        "kind": "payment",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
    }
    assert booked.post("/revenue", [payment]).status_code == 200
    return booked


def test_margin__without_a_query__is_this_month_by_user(priced: Service) -> None:
    """Recorded revenue, or the price from the day on which a user came; projected to its end."""
    found = margin(priced)
    assert (found["report"], found["by"]) == ("margin", ["user"])
    assert (found["from"], found["to"]) == (
        "2026-11-01T00:00:00+00:00",
        "2026-12-01T00:00:00+00:00",
    )
    assert found["rows"][0] == {
        "user": "u7",
        "calls": 6,
        "cost": 0.6,
        "cost_nano": 6 * DIME_NANO,
        "revenue": 10.0,
        "revenue_nano": 10**10,
        "revenue_source": "recorded",
        "margin": 9.4,
        "margin_nano": 94 * DIME_NANO,
        "margin_pct": 0.94,
        "projected_cost": 0.923076923,
        "projected_cost_nano": 923_076_923,
        "projected_margin": 9.076923077,
        "projected_margin_nano": 9_076_923_077,
    }
    assert {row["revenue_source"] for row in found["rows"][1:]} == {"plan_price"}
    assert found["shares"][0] == {
        "percent": 1,
        "users": 1,
        "cost": 0.6,
        "cost_nano": 6 * DIME_NANO,
    }
    totals = [margin(priced, by=by)["total"] for by in ("user", "plan", "month")]
    assert totals == [found["total"]] * 3


def test_margin__pages_and_csv__have_every_row_once(priced: Service) -> None:
    """CSV has the columns of a row, and all rows."""
    rows, cursor = [], None
    while True:
        found = margin(priced, limit=3, **({"cursor": cursor} if cursor else {}))
        rows += found["rows"]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert rows == margin(priced)["rows"]
    answer = priced.get("/reports/margin", key="admin", params={"format": "csv", "limit": 1})
    shown = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["user"] for row in shown] == [row["user"] for row in rows]
    assert list(shown[0]) == list(rows[0])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"by": "model"}, "by"),
        ({"sort": "input_tokens"}, "sort"),
        ({"from": "2026-11-02", "to": "2026-11-01"}, "to"),
        ({"cursor": "x"}, "cursor"),
    ],
)
def test_margin__a_query_that_breaks_a_rule__names_the_field(
    service: Service, query: dict[str, Any], field: str
) -> None:
    """As for usage."""
    answer = service.get("/reports/margin", params=query)
    assert (answer.status_code, fields_of(answer)) == (422, [field])


def test_margin__with_the_key_of_an_application__is_refused(service: Service) -> None:
    """What users pay is no matter of processes that make calls."""
    assert service.get("/reports/margin", key="sdk").status_code == 403


# -- gates and quality


def gate(number: int, **fields: Any) -> dict[str, Any]:
    """Return a gate event as documented clients send it."""
    given = {
        "id": f"g{number}",
        "user_id": "ann",
        "timestamp": NOW.isoformat(),
        "status": "hard_gate",
        "gate_reason": "total_spend",
        "blocked": True,
    }
    return {**given, **fields}


def test_gates__events_of_any_client__are_in_the_report(service: Service) -> None:
    """Documented ones count as one call each, ours as many as they stand for."""
    events = [
        gate(1),
        gate(2, calls=5, gate_reason="session_spend"),
        gate(3, status="soft_gate", blocked=False, user_id="bob"),
        gate(4, blocked=False),
    ]
    assert service.post("/gate-events/batch", events).json() == {"accepted": 4, "duplicates": 0}
    shadow = event(5, user_id="bob", blocked=True, gate_reason="total_spend")
    service.book(shadow)
    found = service.get("/reports/gates", key="read", params={"by": "user,reason"}).json()
    assert (found["report"], found["by"], found["next_cursor"]) == (
        "gates",
        ["user", "reason"],
        None,
    )
    rows = [tuple(row.values()) for row in found["rows"]]
    assert rows == [
        ("ann", "session_spend", 0, 5, 5, 0, 0.0, 0),
        ("ann", "total_spend", 0, 2, 1, 0, 0.0, 0),
        ("bob", "total_spend", 1, 0, 0, 1, 0.1, DIME_NANO),
    ]
    assert tuple(found["total"].values()) == (1, 7, 6, 1, 0.1, DIME_NANO)
    listed = service.get("/users/ann/gate-events").json()["events"]
    assert {each["id"]: each["calls"] for each in listed} == {"g1": 1, "g2": 5, "g4": 1}


def test_gates__pages_and_csv__have_every_row_once(service: Service) -> None:
    """In the same order; the total is that of all rows."""
    events = [gate(number, user_id=f"u{number % 5}") for number in range(12)]
    service.post("/gate-events/batch", events)
    rows, cursor = [], None
    while True:
        query = {"sort": "-hard", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = service.get("/reports/gates", params=query).json()
        rows += page["rows"]
        assert page["total"]["hard"] == 12
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [(row["user"], row["hard"]) for row in rows] == [
        *(("u0", 3), ("u1", 3)),
        *(("u2", 2), ("u3", 2), ("u4", 2)),
    ]
    text = service.get("/reports/gates", params={"sort": "-hard", "format": "csv"}).text
    written = list(csv.DictReader(io.StringIO(text)))
    assert [(row["user"], int(row["hard"])) for row in written] == [
        (row["user"], row["hard"]) for row in rows
    ]
    assert list(written[0]) == list(rows[0])


def test_quality__metered_and_unmetered_calls__are_beside_each_other(service: Service) -> None:
    """By model and by operation; CSV has the same columns."""
    service.book(event(1), event(2, quality="estimated"), event(3, model="o3", quality="partial"))
    since_us = int(NOW.timestamp()) * 10**6 // (900 * 10**6) * (900 * 10**6)
    count = {
        "k": "unmetered",
        "process": "p",
        "since_us": since_us,
        "operation": "openai:POST /videos",
        "model": "sora-2",
        "calls": 4,
    }
    message = {"at_us": since_us, "holder": "p", "number": 1, "records": [count]}
    for _ in range(2):
        assert service.post("/sync", message).status_code == 200
    found = service.get("/reports/quality", key="read").json()
    assert [tuple(row.values()) for row in found["rows"]] == [
        ("gpt-4o", 2, 1, 0, 1, 0, 0),
        ("o3", 1, 0, 1, 0, 0, 0),
        ("sora-2", 0, 0, 0, 0, 0, 4),
    ]
    assert tuple(found["total"].values()) == (3, 1, 1, 1, 0, 4)
    query = {"by": "operation", "format": "csv"}
    text = service.get("/reports/quality", params=query).text
    assert text.splitlines()[1:] == [",3,1,1,1,0,0", "openai:POST /videos,0,0,0,0,0,4"]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("gates", {"by": "model"}, "by"),
        ("gates", {"from": "2026-11-01T12:00:00Z"}, "from"),
        ("gates", {"sort": "cost"}, "sort"),
        ("quality", {"by": "user"}, "by"),
        ("quality", {"to": "2026-11-30T12:00:00Z"}, "to"),
        ("quality", {"cursor": "x"}, "cursor"),
        ("spend", {"tag.team": ["a", "b"]}, "tag.team"),
    ],
)
def test_reports__a_query_that_breaks_a_rule__names_the_field(
    service: Service, path: str, query: dict[str, Any], field: str
) -> None:
    """The status is 422."""
    answer = service.get(f"/reports/{path}", params=query)
    assert (answer.status_code, fields_of(answer)) == (422, [field])


def test_gates__a_reason_of_any_length_that_is_stored__can_be_asked_for(service: Service) -> None:
    """It may contain the name of a model."""
    reason = "model_limit:" + "m" * 255
    service.post("/gate-events/batch", [gate(1, gate_reason=reason)])
    found = service.get("/reports/gates", params={"reason": reason}).json()
    assert found["total"]["hard"] == 1
    listed = service.get("/users/ann/gate-events", params={"gate_reason": reason}).json()
    assert len(listed["events"]) == 1


def test_quality__a_count_from_a_clock_that_is_ahead__is_of_now(service: Service) -> None:
    """As events are."""
    quarter_us = 900 * 10**6
    ahead_us = NOW_US // quarter_us * quarter_us + 400 * 86_400 * 10**6
    count = {"k": "unmetered", "process": "p", "operation": "o", "model": "", "calls": 4}
    records = [{**count, "since_us": ahead_us}]
    message = {"at_us": NOW_US, "holder": "p", "number": 1, "records": records}
    assert service.post("/sync", message).status_code == 200
    query = {"by": "day", "from": NOW.date().isoformat()}
    (row,) = service.get("/reports/quality", params=query).json()["rows"]
    assert (row["day"], row["unmetered"]) == (NOW.date().isoformat(), 4)


# -- over HTTP, as the SDK reads them


@pytest.mark.parametrize("rows_max", [None, 2, 3])
@pytest.mark.parametrize("page_rows", [2, 10_000])
@pytest.mark.parametrize(
    ("kind", "by", "sort"),
    [
        ("margin", "user", "margin"),
        ("margin", "user", "-projected_cost"),
        ("margin", "plan", None),
        ("gates", "user,reason", "-hard"),
        ("gates", "day,user", None),
        ("quality", "model", "unmetered"),
        ("quality", "model,day", "-day"),
    ],
)
def test_table__over_http__is_what_the_store_reports(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    by: str,
    sort: str | None,
    page_rows: int,
    rows_max: int | None,
) -> None:
    """All rows in their order, whatever the pages; the same total."""
    monkeypatch.setattr(remote, "PAGE_ROWS_MAX", page_rows)
    models = ("gpt-4o", "o3", "o1")
    service.book(
        *(event(number, user_id=f"u{number % 5}", model=models[number % 3]) for number in range(9))
    )
    gates = [gate(number, user_id=f"u{number % 4}", calls=number + 1) for number in range(8)]
    service.post("/gate-events/batch", gates)
    request = read_request(
        {"by": by, "sort": sort}, rules=RULES_OF[kind], rows_max=rows_max, now_us=NOW_US
    )
    here = LocalLedger("acme", service.store, service.store).table(kind, request)
    with listening(service.store) as server:
        transport = HttpTransport(str(server.client.base_url), service.keys["admin"])
        there = remote.RemoteLedger(transport).table(kind, request)
        transport.close()
    assert list(there) == list(here)
    assert (there.total, there.by, there.columns) == (here.total, here.by, here.columns)
    assert (there.start, there.end, there.shares) == (here.start, here.end, here.shares)
    assert len(there) > 0


def test_table__of_margins_with_the_key_of_an_application__is_unauthorised(
    service: Service,
) -> None:
    """An application's processes need no prices; who reads margins has a key of the scope admin."""
    request = read_request({"by": "user"}, rules=RULES_OF["margin"])
    with listening(service.store) as server:
        transport = HttpTransport(str(server.client.base_url), service.keys["sdk"])
        with pytest.raises(LedgerUnauthorised):
            remote.RemoteLedger(transport).table("margin", request)
        transport.close()
