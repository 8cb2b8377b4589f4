"""A client that is written for the documented routes works, on both engines."""

from __future__ import annotations

from datetime import timedelta

from tests.integration.server.service import (
    NOW,
    Service,
    event,
    fields_of,
    gate_event,
    load,
)

MONTH = {"period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z"}


def test_documented_client__first_setup_to_usage__works(any_service: Service) -> None:
    """Plans, user, subscription, events, session and usage, in the documented shapes."""
    service = any_service
    plans = service.post(
        "/config/plans",
        {
            "soft_gate_at": 0.8,
            "hard_gate_at": 1.0,
            "plans": [
                {
                    "name": "pro",
                    "max_spend_per_period": 50,
                    "max_spend_per_session": 5.5,
                    "model_limits": {"gpt-4o": {"max_tokens_per_period": 100_000}},
                    "cost_rates": {"gpt-4o": {"input": 0.0025, "output": 0.01}},
                    "session_timeout_minutes": 15,
                }
            ],
        },
    )
    assert plans.status_code == 200
    (plan,) = plans.json()["plans"]
    assert {key: plan[key] for key in ("name", "version")} == {"name": "pro", "version": 1}
    created = service.post("/users", {"external_user_id": "u1", "name": "A name"})
    assert created.status_code == 201
    assert created.json()["external_user_id"] == "u1"
    subscribed = service.post("/users/u1/subscription", {"plan_id": plan["id"], **MONTH})
    assert subscribed.status_code == 201
    assert subscribed.json()["plan"] == "pro"
    assert service.book(event(1), event(2)) == {"accepted": 2, "duplicates": 0}
    assert service.book(event(1), event(2), event(3)) == {"accepted": 1, "duplicates": 2}
    session = service.get("/users/u1/session").json()
    assert session["current_usage"]["period_cost"] == 0.3
    assert session["current_usage"]["period_tokens_by_model"] == {"gpt-4o": 4_500}
    assert session["current_usage"]["period_tokens_total"] == 4_500
    assert session["current_usage"]["period_cost_by_model"] == {"gpt-4o": 0.3}
    assert session["plan_config"]["max_spend_per_period"] == 50.0
    assert session["billing_period"]["start"] == "2026-11-01T00:00:00+00:00"
    assert session["plan"] == "pro"
    assert session["sdk_enabled"] is True
    usage = service.get("/users/u1/usage?period=current_month&breakdown=model").json()
    assert (usage["calls"], usage["cost_nano"]) == (3, 300_000_000)
    assert [row["model"] for row in usage["rows"]] == ["gpt-4o"]


def test_gate_events__batch_twice__are_listed_once_newest_first(any_service: Service) -> None:
    """Gate events are idempotent by id; the list is filtered and paged."""
    service = any_service
    batch = [gate_event(number, blocked=number != 2) for number in (1, 2, 3)]
    assert service.post("/gate-events/batch", batch).json() == {"accepted": 3, "duplicates": 0}
    assert service.post("/gate-events/batch", batch).json() == {"accepted": 0, "duplicates": 3}
    first = service.get("/users/u1/gate-events?limit=2").json()
    assert [each["id"] for each in first["events"]] == ["gate-1", "gate-2"]
    rest = service.get(f"/users/u1/gate-events?limit=2&cursor={first['next_cursor']}").json()
    assert [each["id"] for each in rest["events"]] == ["gate-3"]
    assert rest["next_cursor"] is None
    blocked = service.get("/users/u1/gate-events?blocked_only=true&gate_reason=total_spend").json()
    assert [each["id"] for each in blocked["events"]] == ["gate-1", "gate-3"]
    since = (NOW - timedelta(minutes=1)).isoformat().replace("+00:00", "Z")
    latest = service.get(f"/users/u1/gate-events?since={since}").json()
    assert [each["id"] for each in latest["events"]] == ["gate-1"]
    assert blocked["events"][0]["usage_pct"] == 1.0
    assert blocked["events"][0]["current_value"] == 50.0


def test_users__created_twice__is_a_conflict(any_service: Service) -> None:
    """POST /users answers 409 for an id that exists."""
    any_service.user("u1")
    assert any_service.post("/users", {"external_user_id": "u1"}).status_code == 409


def test_subscription__plan_with_a_cap_and_no_period__names_both_ends(service: Service) -> None:
    """A finite cap needs a period; without one it is the calendar month."""
    capped, free = service.plan("capped", max_spend_per_period=5), service.plan("free")
    service.user()
    refused = service.post("/users/u1/subscription", {"plan_id": capped})
    assert refused.status_code == 422
    assert fields_of(refused) == ["period_start", "period_end"]
    assigned = service.post("/users/u1/subscription", {"plan_id": free})
    assert assigned.status_code == 201
    assert assigned.json()["billing_period"]["start"] == "2026-11-01T00:00:00+00:00"


def test_plans__with_broken_rules__all_fields_of_all_plans_are_named(service: Service) -> None:
    """One answer lists every broken rule with field, value and rule; nothing is written."""
    refused = service.post(
        "/config/plans",
        {
            "hard_gate_at": 1,
            "plans": [
                {"name": "a", "max_spend_per_period": -1, "typo": 3},
                {"name": "b", "soft_gate_at": 2},
                {"name": "c"},
                {"name": "c"},
            ],
        },
    )
    assert refused.status_code == 422
    assert fields_of(refused) == [
        "plans[0].typo",
        "plans[0].max_spend_per_period",
        "plans[1].soft_gate_at",
        "plans[3].name",
    ]
    assert refused.json()["errors"][1]["value"] == -1
    assert service.get("/config/plans").json() == {"plans": []}


def test_plans__amount_with_nine_decimals__is_answered_exactly(any_service: Service) -> None:
    """A cap survives to the nano-dollar, as a number and as its exact twin."""
    service = any_service
    text = '{"plans": [{"name": "pro", "max_spend_per_period": 1234567.123456789}]}'
    headers = {"Content-Type": "application/json"}
    answer = service.call("POST", "/config/plans", content=text, headers=headers)
    (plan,) = load(answer)["plans"]
    assert plan["max_spend_per_period"] == "1234567.123456789"
    assert plan["max_spend_per_period_nano"] == 1_234_567_123_456_789


def test_plans__patched__gets_a_version_and_keeps_the_rest(any_service: Service) -> None:
    """PATCH changes the fields that are given; an equal document adds no version."""
    service = any_service
    plan_id = service.plan("pro", max_spend_per_period=5, price=20)
    changed = service.call("PATCH", f"/config/plans/{plan_id}", json={"price": 25}).json()
    assert (changed["version"], changed["price"], changed["max_spend_per_period"]) == (2, 25.0, 5.0)
    again = service.call("PATCH", f"/config/plans/{plan_id}", json={"price": 25}).json()
    assert again["version"] == 2
    refused = service.call("PATCH", f"/config/plans/{plan_id}", json={"prise": 1, "enforce": 3})
    assert fields_of(refused) == ["prise"]
    assert service.call("PATCH", "/config/plans/plan_x", json={}).status_code == 404


def test_plans__deleted_while_in_use__is_a_conflict(any_service: Service) -> None:
    """A plan with users stays; one without users goes."""
    service = any_service
    plan_id = service.plan()
    service.user()
    service.post("/users/u1/subscription", {"plan_id": plan_id})
    assert service.call("DELETE", f"/config/plans/{plan_id}").status_code == 409
    unused = service.plan("unused")
    assert service.call("DELETE", f"/config/plans/{unused}").json()["deleted"] is True
    assert [plan["name"] for plan in service.get("/config/plans").json()["plans"]] == ["pro"]


def test_health__without_a_key__names_capabilities(service: Service) -> None:
    """/health answers at the root and below the API, without a key and without the store."""
    service.store.close()
    for path in ("/health", "/api/v1/health"):
        answer = service.client.get(path)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"
        assert answer.json()["capabilities"]


def test_ids__slashes_and_unicode__reach_the_user(any_service: Service) -> None:
    """An id with a slash or any Unicode works where it is escaped in the path."""
    service = any_service
    for user_id, escaped in (("org/7", "org%2F7"), ("ü 100%", "%C3%BC%20100%25"), ("..", "%2E.")):
        service.user(user_id)
        found = service.get(f"/users/{escaped}")
        if user_id != "..":  # clients resolve dots before they send them
            assert found.json()["external_user_id"] == user_id
