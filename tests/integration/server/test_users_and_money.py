"""Users, overrides, usage and revenue, on both engines."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from tests.integration.server.service import NOW, Service, event, fields_of, gate_event

MONTH = {"period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z"}
LATER = "2026-11-25T00:00:00Z"


def subscribed(service: Service, **plan: Any) -> str:
    """Create a user u1 on a plan, and return the plan's id."""
    plan_id = service.plan(**plan)
    service.user("u1")
    answer = service.post("/users/u1/subscription", {"plan_id": plan_id, **MONTH})
    assert answer.status_code == 201, answer.text
    return plan_id


def config_of(service: Service) -> Any:
    """Return the plan that applies to u1."""
    return service.get("/users/u1/session").json()["plan_config"]


def test_users__listed__are_paged_and_filtered(any_service: Service) -> None:
    """By id, page by page; by plan and by the first characters of the id."""
    service = any_service
    subscribed(service)
    for name in ("a1", "a2", "b1"):
        service.user(name)
    first = service.get("/users?limit=3").json()
    assert [user["external_user_id"] for user in first["users"]] == ["a1", "a2", "b1"]
    rest = service.get(f"/users?limit=3&cursor={first['next_cursor']}").json()
    assert [user["external_user_id"] for user in rest["users"]] == ["u1"]
    assert rest["next_cursor"] is None
    for query, expected in (("search=a", ["a1", "a2"]), ("plan=pro", ["u1"]), ("search=x", [])):
        found = service.get(f"/users?{query}").json()["users"]
        assert [user["external_user_id"] for user in found] == expected


def test_user__paused__session_says_so_and_calls_stay_metered(any_service: Service) -> None:
    """A pause has a reason and ends; it is not `sdk_enabled`."""
    service = any_service
    service.user()
    paused = service.call("PATCH", "/users/u1", json={"paused": True, "reason": "unpaid"}).json()
    assert (paused["paused"], paused["paused_reason"]) == (True, "unpaid")
    session = service.get("/users/u1/session").json()
    assert (session["paused"], session["paused_reason"]) == (True, "unpaid")
    assert session["sdk_enabled"] is True
    resumed = service.call("PATCH", "/users/u1", json={"paused": False}).json()
    assert (resumed["paused"], resumed["paused_reason"]) == (False, None)
    kept = service.call("PATCH", "/users/u1", json={"sdk_enabled": False}).json()
    assert (kept["sdk_enabled"], kept["name"]) == (False, None)
    assert service.call("PATCH", "/users/none", json={"paused": True}).status_code == 404


def test_user__erased__is_gone_and_sums_stay(any_service: Service) -> None:
    """The pseudonym takes the id's place; the name goes."""
    service = any_service
    service.user("u1", name="A name")
    service.book(event(1))
    pseudonym = service.call("DELETE", "/users/u1").json()["pseudonym"]
    assert service.get("/users/u1").status_code == 404
    found = service.get(f"/users/{pseudonym}").json()
    assert found["name"] is None
    usage = service.get(f"/users/{pseudonym}/usage").json()
    assert (usage["calls"], usage["cost"]) == (1, 0.1)
    assert service.call("DELETE", "/users/u1").status_code == 404


def test_user__erased__late_events_land_on_the_pseudonym(any_service: Service) -> None:
    """An event that was on its way does not bring the id back."""
    service = any_service
    service.user("u1")
    pseudonym = service.call("DELETE", "/users/u1").json()["pseudonym"]
    assert service.book(event(2)) == {"accepted": 1, "duplicates": 0}
    assert service.get("/users/u1").status_code == 404
    assert service.get(f"/users/{pseudonym}/usage").json()["calls"] == 1


def test_override__until_its_time__raises_the_plan_of_one_user(any_service: Service) -> None:
    """The session shows the raised cap; the plan and other users keep theirs."""
    service = any_service
    subscribed(service, max_spend_per_period=50, model_limits={"gpt-4o": 1_000})
    for limit in ("total_spend", {"metric": "tokens", "model": "gpt-4o"}):
        body = {"limit": limit, "add": 10.5, "until": LATER, "reason": "goodwill"}
        if limit != "total_spend":
            body["add"] = 500
        created = service.post("/users/u1/overrides", body)
        assert created.status_code == 201, created.text
    config = config_of(service)
    assert config["max_spend_per_period"] == 60.5
    assert config["model_limits"]["gpt-4o"]["max_tokens_per_period"] == 1_500
    listed = service.get("/users/u1/overrides").json()["overrides"]
    by_amount = {each["add"]: each["id"] for each in listed}
    assert set(by_amount) == {10.5, 500.0}
    left = service.call("DELETE", f"/users/u1/overrides/{by_amount[10.5]}").json()
    assert len(left["overrides"]) == 1
    assert config_of(service)["max_spend_per_period"] == 50.0
    service.now_us += 6 * 86_400 * 10**6
    assert config_of(service)["model_limits"]["gpt-4o"]["max_tokens_per_period"] == 1_000
    assert service.get("/config/plans").json()["plans"][0]["max_spend_per_period"] == 50.0


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"cap": 5}, ["cap"]),
        ({"add": None}, ["cap"]),
        ({"until": "2026-11-20T12:00:00Z"}, ["until"]),
        ({"limit": "budget"}, ["limit"]),
        ({"limit": "model_limit:"}, ["limit"]),
        ({"limit": {"window": "year"}}, ["limit.window"]),
        ({"limit": {"scope": "session"}}, ["limit.window"]),
        ({"add": -1}, ["add"]),
        ({"add": 9.1e9}, ["add"]),
        ({"limit": {"metric": "calls", "window": "day"}, "add": 0.5}, ["add"]),
    ],
)
def test_override__with_broken_rules__names_the_field(
    service: Service, changes: dict[str, Any], fields: list[str]
) -> None:
    """A limit, an amount in its unit, and a time in the future."""
    service.user()
    body = {"limit": "total_spend", "add": 1, "until": LATER, **changes}
    refused = service.post("/users/u1/overrides", body)
    assert refused.status_code == 422
    assert fields_of(refused) == fields


def test_usage__each_breakdown_and_span__adds_up(any_service: Service) -> None:
    """By model, day and session; by month, billing period or days."""
    service = any_service
    service.user()
    service.book(
        event(1),
        event(2, model="o3", session_id="s2", timestamp="2026-11-02T23:59:59.999999Z"),
        event(3, timestamp="2026-10-31T23:59:59Z"),
    )
    for query, calls in (
        ("", 2),
        ("?period=previous_month", 1),
        ("?period=current_period", 2),
        ("?from=2026-11-02&to=2026-11-03", 1),
        ("?from=2026-10-31T00:00:00Z&to=2026-11-03T00:00:00%2B00:00", 2),
        ("?from=2026-10-01", 3),
    ):
        usage = service.get(f"/users/u1/usage{query}").json()
        assert usage["calls"] == calls, query
        assert usage["cost_nano"] == calls * 10**8
    rows = {
        breakdown: service.get(f"/users/u1/usage?from=2026-10-01&breakdown={breakdown}").json()[
            "rows"
        ]
        for breakdown in ("model", "day", "session")
    }
    assert {row["model"]: row["cost"] for row in rows["model"]} == {"gpt-4o": 0.2, "o3": 0.1}
    assert [row["day"] for row in rows["day"]] == ["2026-10-31", "2026-11-02", "2026-11-20"]
    assert {row["session_id"]: row["calls"] for row in rows["session"]} == {"s1": 2, "s2": 1}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2026-11-02", "from"),
        ("from=2026-11-02&to=2026-11-02", "to"),
        ("from=1969-12-31", "from"),
        ("from=1970-01-01", "to"),
        ("from=2026-11-02T00:00:00", "from"),
        ("period=year", "period"),
        ("breakdown=hour", "breakdown"),
    ],
)
def test_usage__odd_span__names_the_parameter(service: Service, query: str, field: str) -> None:
    """A span has a begin before its end, and ten years at most."""
    service.user()
    refused = service.get(f"/users/u1/usage?{query}")
    assert refused.status_code == 422
    assert fields_of(refused) == [field]


def test_revenue__booked_twice__counts_once_and_plan_price_stands_in(any_service: Service) -> None:
    """Entries are idempotent by id; a period without one shows the plan's price."""
    service = any_service
    subscribed(service, price="19.99")
    entries = [
        {
            "id": f"r{number}",
            "user_id": "u1",
            "amount": 0.1,
            "currency": "USD",
            "period_start": f"2026-0{number}-01T00:00:00Z",
            "period_end": f"2026-0{number + 1}-01T00:00:00Z",
            "kind": kind,
            "source": "invoice",
        }
        for number, kind in ((1, "payment"), (2, "refund"))
    ]
    assert service.post("/revenue", entries).json() == {"accepted": 2, "duplicates": 0}
    assert service.post("/revenue", entries).json() == {"accepted": 0, "duplicates": 2}
    page = service.get("/revenue?user_id=u1").json()["revenue"]
    assert [(each["id"], each["amount"], each["kind"]) for each in page[:2]] == [
        ("r1", 0.1, "payment"),
        ("r2", 0.1, "refund"),
    ]
    assert (page[2]["source"], page[2]["amount_nano"]) == ("plan_price", 19_990_000_000)
    service.post("/revenue", [{**entries[0], "id": "r3", **MONTH}])
    sources = [each["source"] for each in service.get("/revenue?user_id=u1").json()["revenue"]]
    assert sources == ["invoice"] * 3
    first = service.get("/revenue?limit=2").json()
    rest = service.get(f"/revenue?limit=2&cursor={first['next_cursor']}").json()
    assert [each["id"] for each in first["revenue"] + rest["revenue"]] == ["r1", "r2", "r3"]
    spring = service.get("/revenue?from=2026-02-01&to=2026-03-01").json()["revenue"]
    assert [each["id"] for each in spring] == ["r2"]


def test_subscription__that_ended_for_good__falls_back_to_the_default_plan(
    any_service: Service,
) -> None:
    """`renews: none` ends; the session shows the default plan and the calendar month."""
    service = any_service
    plan_id = service.plan("pro", max_spend_per_period=5)
    service.plan("default", max_spend_per_period=1)
    service.user()
    october = {"period_start": "2026-10-01T00:00:00Z", "period_end": "2026-11-01T00:00:00Z"}
    body = {"plan_id": plan_id, **october, "renews": "none"}
    assert service.post("/users/u1/subscription", body).status_code == 201
    session = service.get("/users/u1/session").json()
    assert (session["plan"], session["plan_config"]["max_spend_per_period"]) == ("default", 1.0)
    assert session["billing_period"]["start"] == "2026-11-01T00:00:00+00:00"
    renewing = service.post("/users/u1/subscription", {"plan_id": plan_id, **october}).json()
    assert renewing["billing_period"]["start"] == "2026-11-01T00:00:00+00:00"
    assert service.get("/users/u1/session").json()["plan"] == "pro"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"period_start": "2026-11-01T00:00:00Z"}, ["period_end"]),
        ({"period_end": "2026-11-01T00:00:00Z"}, ["period_start"]),
        ({**MONTH, "period_end": MONTH["period_start"]}, ["period_end"]),
        ({"period_start": "2026-11-01", "period_end": 5}, ["period_start", "period_end"]),
        ({"renews": "week"}, ["renews"]),
        ({"renews": "never"}, ["renews"]),
    ],
)
def test_subscription__odd_period__names_the_field(
    service: Service, body: dict[str, Any], fields: list[str]
) -> None:
    """Both ends or none, in order, with zones."""
    plan_id = service.plan()
    service.user()
    refused = service.post("/users/u1/subscription", {"plan_id": plan_id, **body})
    assert refused.status_code == 422
    assert fields_of(refused) == fields


def test_events__in_the_future__are_booked_now_and_marked(any_service: Service) -> None:
    """A sender with a clock that is ahead does not book into next month."""
    service = any_service
    service.book(event(1, timestamp="2027-01-01T00:00:00Z"))
    assert service.get("/users/u1/usage").json()["calls"] == 1
    (stored,) = service.store.events("acme", "u1")
    assert stored.details == {"clamped": 1}
    future = gate_event(1, timestamp="2027-01-01T00:00:00Z")
    service.post("/gate-events/batch", [future])
    (listed,) = service.get("/users/u1/gate-events").json()["events"]
    assert listed["timestamp"] == NOW.isoformat()


def test_events__of_an_unknown_user__create_them_on_the_default_plan(any_service: Service) -> None:
    """The first event of a user creates them; asking never does."""
    service = any_service
    assert service.get("/users/u9/session").status_code == 404
    service.book(event(1, user_id="u9"))
    session = service.get("/users/u9/session").json()
    assert (session["plan"], session["current_usage"]["period_cost_nano"]) == ("default", 10**8)


def test_revenue__with_broken_rules__all_entries_are_named(service: Service) -> None:
    """An amount has a sign by its kind, and a range; a period has an order."""
    entry = {"id": "r", "user_id": "u1", "amount": 1, **MONTH}
    refused = service.post(
        "/revenue",
        [
            {**entry, "amount": -1},
            entry,
            {**entry, "amount": 9_000_000_001, "period_end": MONTH["period_start"]},
            {**entry, "period_end": MONTH["period_start"]},
        ],
    )
    assert refused.status_code == 422
    assert fields_of(refused) == ["revenue[0].amount", "revenue[2].amount", "revenue[3].period_end"]
    assert service.post("/revenue", []).json() == {"accepted": 0, "duplicates": 0}


def test_revenue__plan_without_a_price__nothing_stands_in(service: Service) -> None:
    """A figure is shown only where there is one."""
    subscribed(service)
    assert service.get("/revenue?user_id=u1").json() == {"revenue": [], "next_cursor": None}
    assert service.get("/revenue?user_id=none").json()["revenue"] == []


def test_own_usage__every_kind_of_limit__has_its_figure_and_reset(any_service: Service) -> None:
    """Periods and days have a reset; rolling windows and sessions do not; sessions show the cap."""
    service = any_service
    limits = [
        {"metric": "calls", "window": "day", "cap": 10},
        {"metric": "tokens", "window": "rolling:24h", "cap": 5_000},
    ]
    subscribed(service, max_spend_per_session=3, limits=limits)
    override = {"limit": "session_spend", "cap": 4, "until": LATER}
    assert service.post("/users/u1/overrides", override).status_code == 201
    service.book(event(1), event(2, timestamp="2026-11-19T23:00:00Z"))
    token = service.post("/users/u1/usage-token").json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    usage = service.call("GET", "/usage", key="", headers=bearer).json()
    shown = {
        each["window"]: (each["used"], each["cap"], each["resets_at"]) for each in usage["limits"]
    }
    assert shown == {
        "session": (None, 4.0, None),
        "day": (1.0, 10.0, "2026-11-21T00:00:00+00:00"),
        "rolling:24h": (3_000.0, 5_000.0, None),
    }
    service.call("DELETE", "/users/u1")
    assert service.call("GET", "/usage", key="", headers=bearer).status_code == 404


def test_limits__of_a_user__have_a_forecast(service: Service) -> None:
    """$6 in 20 of 30 days is $9 in the month: a cap of $8 is reached in it, one of $9.50 is not."""
    limits = [{"metric": "spend", "window": "day", "cap": 1}]
    subscribed(service, max_spend_per_period=8, max_spend_per_session=3, limits=limits)
    since = NOW.replace(day=1, hour=0, minute=0, second=0)
    with service.store.engine.transaction("acme", writes=True) as sql:
        sql.connection.execute("UPDATE users SET created_us = 0")
    service.book(event(1, cost_total=6, cost_tokens=6, timestamp=since.isoformat()))
    found = service.get("/users/u1/limits", key="read").json()
    assert (found["user_id"], found["plan"]) == ("u1", "pro")
    month, session, day = found["limits"]
    at = datetime.fromisoformat(month["reached_at"])
    elapsed = NOW - since
    assert at == since + elapsed * 8 / 6
    assert (month["used"], month["cap"], month["scope"]) == (6.0, 8.0, "user")
    assert month["reached"] is False
    assert (session["used"], session["reached_at"]) == (None, None)
    assert (day["used"], day["reached_at"]) == (0.0, None)
    plan_id = service.plan("dear", max_spend_per_period=9.5)
    span = {"period_start": since.isoformat(), "period_end": found["billing_period"]["end"]}
    service.post("/users/u1/subscription", {"plan_id": plan_id, **span})
    (month,) = service.get("/users/u1/limits").json()["limits"]
    assert (month["cap"], month["reached_at"]) == (9.5, None)
    service.book(event(2, cost_total=4, cost_tokens=4))
    (month,) = service.get("/users/u1/limits").json()["limits"]
    assert (month["reached"], month["reached_at"]) == (True, None)
    assert service.get("/users/zoe/limits").status_code == 404
