"""A plan that an answer shows can be sent back: the same plan, and no new version."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.server.service import Service, fields_of

from paygent import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json

FULL: dict[str, Any] = {
    "max_spend_per_period": "8999999999.123456789",
    "max_spend_per_session": 0.1,
    "soft_gate_at": 0.7,
    "hard_gate_at": 1.2,
    "model_limits": {"gpt-4o": 50_000},
    "cost_rates": {
        "my-model": {"input": 0.0025, "output": "0.0101", "cached_input": 0.001},
        "pico": {"input": 1, "output": 1},
    },
    "default_cost_rate": {"input": 1, "output": 2},
    "tool_costs": {"search": "0.000000001", "fetch": 0.3},
    "default_tool_cost": 0.05,
    "price": "19.99",
    "limits": [
        {"metric": "spend", "window": "day", "cap": 2.5},
        {"metric": "tokens", "window": "rolling:24h", "cap": 1_000},
    ],
    "when_offline": {"allow_up_to": 1.5},
}


def test_plan__as_it_was_answered__is_the_same_plan(any_service: Service) -> None:
    """POST and PATCH take what GET gives, digit for digit."""
    service = any_service
    plan_id = service.plan("pro", **FULL)
    shown = service.get("/config/plans").json()
    posted = service.post("/config/plans", shown)
    assert (posted.status_code, posted.json()) == (200, shown), posted.text
    patched = service.call("PATCH", f"/config/plans/{plan_id}", json=shown["plans"][0])
    assert (patched.status_code, patched.json()) == (200, shown["plans"][0]), patched.text


def test_plan__of_a_session__is_taken_as_a_plan(service: Service) -> None:
    """The session shows it with overrides."""
    service.plan("default", **FULL)
    service.user()
    config = service.get("/users/u1/session").json()["plan_config"]
    answer = service.post("/config/plans", {"plans": [{"name": "default", **config}]})
    assert answer.json()["plans"][0]["version"] == 1


def test_plan__answered__has_documented_fields_alone(service: Service) -> None:
    """What the code computes for itself stays inside."""
    service.plan("default", **FULL)
    service.user()
    for text in (service.get("/config/plans").text, service.get("/users/u1/session").text):
        text = text.replace('"pico":{"input":1.0', "")  # a model of that name
        for name in ("_ppm", "pico", "cap_exact", "offline_allowance"):
            assert name not in text
        assert "max_spend_per_period_nano" in text


def test_plan__dumped_by_an_application__is_taken(service: Service) -> None:
    """`PlanConfig.model_dump_json()` has all that the code computes."""
    plan = PlanConfig(**FULL)
    dumped = {"name": "pro", **plan.model_dump(mode="json")}
    assert dumped["limits"][0]["cap_exact"] == 2_500_000_000
    assert service.post("/config/plans", {"plans": [dumped]}).status_code == 200
    (stored,) = service.store.plans("acme")
    assert plan_from_json(stored.document) == plan
    assert stored.document == plan_to_json(plan)


def test_plan__answered_and_edited__has_the_edit(service: Service) -> None:
    """A changed field counts, and not the exact twin that was left beside it."""
    service.plan("pro", price=20, tool_costs={"search": 0.1})
    (shown,) = service.get("/config/plans").json()["plans"]
    edited = {**shown, "price": 25, "tool_costs": {"search": 0.2}, "version": 7}
    (plan,) = service.post("/config/plans", {"plans": [edited]}).json()["plans"]
    assert (plan["version"], plan["price"], plan["tool_costs"]) == (2, 25.0, {"search": 0.2})
    assert plan["price_nano"] == 25_000_000_000
    without = {name: value for name, value in shown.items() if name != "price"}
    (plan,) = service.post("/config/plans", {"plans": [without]}).json()["plans"]
    assert plan["price_nano"] == 20_000_000_000


@pytest.mark.parametrize(
    "field", ["soft_gate_ppm", "offline_allowance_nano", "versions", "price_nan"]
)
def test_plan__field_that_would_be_lost__is_named(service: Service, field: str) -> None:
    """A computed field without its source is no copy of an answer; nor is a misspelt one."""
    plan_id = service.plan("pro")
    refused = service.post("/config/plans", {"plans": [{"name": "pro", field: 1}]})
    assert fields_of(refused) == [f"plans[0].{field}"]
    assert fields_of(service.call("PATCH", f"/config/plans/{plan_id}", json={field: 1})) == [field]


def test_plan__another_name__is_refused(service: Service) -> None:
    """PATCH does not rename, and says so."""
    plan_id = service.plan("pro")
    refused = service.call("PATCH", f"/config/plans/{plan_id}", json={"name": "max"})
    assert fields_of(refused) == ["name"]


@pytest.mark.parametrize("exact", ["5", 1.5, True, 10**30, {"a": 1.5}])
def test_plan__exact_amount_that_is_none__is_named(service: Service, exact: Any) -> None:
    """Alone it is the amount, in whole nano-dollars and never in dollars."""
    plan_id = service.plan("pro")
    refused = service.post("/config/plans", {"plans": [{"name": "pro", "price_nano": exact}]})
    assert (refused.status_code, fields_of(refused)) == (422, ["plans[0].price_nano"])
    changed = service.call("PATCH", f"/config/plans/{plan_id}", json={"price_nano": exact})
    assert fields_of(changed) == ["price_nano"]
    assert changed.json()["errors"][0]["rule"] == "must be a whole number of nano-dollars"
