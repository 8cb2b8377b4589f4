"""A product with usage, revenue and gate events at random, and what REST reports about it."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from httpx import Response
from tests.contract.stores import execute
from tests.integration.server.service import API, NOW, Service, event, gate_event

from paygent.server.dashboard.state import FILTERS, GROUPS, NONE_TEXT

USERS = (*[f"user-{number:02}" for number in range(58)], "\u00fc&=/ x", "100%", "(none)", "a+b")
MODELS = {
    "gpt-4o": "openai",
    "o3": "openai",
    "claude-sonnet-4-5": "anthropic",
    "gemini-2.5-pro": "google",
    "our model": "",
    "": "",
    **{f"small-{number}": "local" for number in range(6)},
}
PLANS = {"free": None, "pro": "19.99", "team": 149}
EVENTS = 420
DAYS = 80


def fill(service: Service, zone: str, seed: int) -> None:
    """Write the usage of 80 days: users of several plans, who pay, are corrected and refused."""
    chance = random.Random(seed)
    execute(service.store, f"UPDATE products SET timezone = '{zone}'")
    plans = [
        {
            "name": name,
            "price": price,
            "max_spend_per_period": 3,
            "model_limits": {"gpt-4o": 9_000},
            "limits": [{"metric": "calls", "window": "day", "cap": 2}],
        }
        for name, price in PLANS.items()
    ]
    made = service.post("/config/plans", {"plans": plans}).json()["plans"]
    for user_id in USERS:
        service.user(user_id, name=chance.choice((None, f"Name of {user_id}")))
        if chance.random() < 0.8:
            path = f"/users/{quote(user_id, safe='')}/subscription"
            start = NOW - timedelta(days=chance.randrange(40))
            period = {"period_start": start.isoformat(), "period_end": _after(start, 30)}
            answer = service.post(path, {"plan_id": chance.choice(made)["id"], **period})
            assert answer.status_code == 201, answer.text
    events: list[dict[str, Any]] = []
    for number in range(EVENTS):
        events.append(_event(chance, number, events))
    for first in range(0, EVENTS, 100):
        service.book(*events[first : first + 100])
    gates = [_gate(chance, number) for number in range(90)]
    assert service.post("/gate-events/batch", gates).status_code == 200
    entries = [_entry(chance, number) for number in range(40)]
    answer = service.post("/revenue", entries)
    assert answer.status_code == 200, answer.text


def _after(start: datetime, days: int) -> str:
    return (start + timedelta(days=days)).isoformat()


def _at(chance: random.Random) -> str:
    return (NOW - timedelta(seconds=chance.randrange(1, DAYS * 86_400))).isoformat()


def _event(chance: random.Random, number: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    originals = [each for each in before if "corrects" not in each]
    if originals and chance.random() < 0.06:
        original = chance.choice(originals)
        cut = -chance.randrange(original["cost_total_nano"] + 1)
        fields = {**original, "id": f"event-{number}", "corrects": original["id"]}
        fields |= {"input_tokens": -1, "output_tokens": 0, "total_tokens": -1}
        return {**fields, **_cost(cut), "quality": "exact"}
    model = chance.choice(list(MODELS))
    quality = chance.choice(("exact", "exact", "exact", "partial", "estimated", "unpriced"))
    cost_nano = 0 if quality == "unpriced" else chance.choice((1, 7_003, chance.randrange(10**9)))
    given, made = chance.randrange(5_000), chance.randrange(2_000)
    return event(
        number,
        user_id=chance.choice(USERS[: chance.choice((3, 20, len(USERS)))]),
        session_id=chance.choice(("", "s1", "s2", "a & b")),
        timestamp=_at(chance),
        model=model,
        provider=MODELS[model],
        quality=quality,
        input_tokens=given,
        output_tokens=made,
        total_tokens=given + made,
        **_cost(cost_nano),
    )


def _cost(cost_nano: int) -> dict[str, Any]:
    dollars = cost_nano / 1e9
    return {
        "cost_tokens": dollars,
        "cost_tools": 0.0,
        "cost_total": dollars,
        "cost_tokens_nano": cost_nano,
        "cost_tools_nano": 0,
        "cost_total_nano": cost_nano,
    }


def _gate(chance: random.Random, number: int) -> dict[str, Any]:
    is_hard = chance.random() < 0.5
    return gate_event(
        number,
        user_id=chance.choice(USERS[:6]),
        timestamp=_at(chance),
        status="hard_gate" if is_hard else "soft_gate",
        blocked=is_hard and chance.random() < 0.8,
        calls=chance.randrange(1, 4),
    )


def _entry(chance: random.Random, number: int) -> dict[str, Any]:
    start = NOW - timedelta(days=chance.randrange(1, DAYS))
    return {
        "id": f"payment-{number}",
        "user_id": chance.choice(USERS),
        "amount": str(chance.randrange(1, 10**4) / 100),
        "kind": chance.choice(("payment", "payment", "payment", "refund")),
        "period_start": start.isoformat(),
        "period_end": _after(start, chance.choice((1, 30))),
    }


class Ask:
    """A range of days, filters and a group, as a page and as REST ask for them.

    Attributes:
        query: Of a page.
        days: `from` and `to` for REST.
        where: The filters for REST.
        group: What charts are stacked by.
    """

    def __init__(self, chance: random.Random, today: date) -> None:
        month, tomorrow = today.replace(day=1), today + timedelta(days=1)
        before = (month - timedelta(days=1)).replace(day=1)
        first = today - timedelta(days=chance.randrange(DAYS + 5))
        named = {
            "": (month, (month + timedelta(days=32)).replace(day=1)),
            "month": (month, (month + timedelta(days=32)).replace(day=1)),
            "previous": (before, month),
            **{f"{days}d": (tomorrow - timedelta(days=days), tomorrow) for days in (7, 30, 90)},
            "custom": (first, first + timedelta(days=chance.choice((1, 2, 9, 31, 62, 200)))),
        }
        name = chance.choice(list(named))
        start, end = named[name]
        self.days = {"from": start.isoformat(), "to": end.isoformat()}
        self.is_running = start <= today < end
        self.unit = "day" if (end - start).days <= 120 else "month"
        values = {"plan": list(PLANS), "model": list(MODELS), "provider": list(MODELS.values())}
        chosen = [name for name in FILTERS if chance.random() < 0.25]
        self.where = {name: chance.choice(values[name]) for name in chosen}
        self.group = chance.choice(GROUPS)
        self.query = {name: value or NONE_TEXT for name, value in self.where.items()}
        self.query |= {"group": self.group, **({"range": name} if name else {})}
        self.query |= self.days if name == "custom" else {}

    @property
    def is_whole(self) -> bool:
        """Whether no filter excludes a part of the revenue."""
        return not {"model", "provider"} & self.where.keys()

    @property
    def plan(self) -> dict[str, str]:
        """The filters that reports of margins take."""
        return {name: value for name, value in self.where.items() if name == "plan"}

    def address(self, path: str, **more: str) -> str:
        """Return the address of a page."""
        return f"{path}?{urlencode({**self.query, **more})}"


class Rest:
    """The reports of REST."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def get(self, path: str, **query: Any) -> Any:
        """Return an answer of a path below the API's."""
        return self._get(path, query).json()

    def _get(self, path: str, query: dict[str, Any]) -> Response:
        answer = self._service.get(path, params=query)
        assert answer.status_code == 200, (API + path, query, answer.text)
        return answer

    def spend(self, ask: Ask, by: str, **more: Any) -> Any:
        """Return a report of usage with the range and filters."""
        return self.get("/reports/spend", by=by, limit=10_000, **{**ask.days, **ask.where, **more})

    def margin(self, ask: Ask, by: str, **more: Any) -> Any:
        """Return a report of margins with the range and the plan."""
        return self.get("/reports/margin", by=by, limit=10_000, **{**ask.days, **ask.plan, **more})

    def csv(self, report: str, **query: Any) -> bytes:
        """Return a report as CSV."""
        return self._get(f"/reports/{report}", {"format": "csv", **query}).content
