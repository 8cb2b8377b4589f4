"""An object of every kind in a product, the addresses of pages, and a form of each action."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.integration.server.service import NOW, Service, event, gate_event

PERIOD = {"period_start": "2026-11-01T00:00:00+00:00", "period_end": "2026-12-01T00:00:00+00:00"}


def content(folder: Path) -> str:
    """Return all rows of the database in a folder."""
    with sqlite3.connect(folder / "server.db") as connection:
        rows = "\n".join(connection.iterdump())
    connection.close()
    return rows


class Objects:
    """The objects, each with texts that end in a mark.

    Attributes:
        forms: A valid form for each action.
        addresses: Of each page, one for each of its parts.
        texts: What was written into the product by users and applications.
    """

    def __init__(self, service: Service, *, mark: str = "", key: str = "admin") -> None:
        self.service = service
        self.key = key
        self.mark = mark
        self.product = "acme" if key == "admin" else key
        self.user_id, self.plan, self.spare = (self._text(each) for each in ("u", "pro", "spare"))
        self.event_id, self.session = self._text("event"), self._text("session")
        self.model = self._text("model")
        self._write()
        self.forms = self._forms()
        self.addresses = self._addresses()

    def _text(self, kind: str) -> str:
        return f"{kind}-{self.product}{self.mark}"

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts by what they are."""
        kinds = (
            *("u", "pro", "spare", "event", "session", "model", "provider", "name", "reason"),
            *("message", "key", "view", "description", "tag", "value", "gate", "override"),
        )
        return {kind: self._text(kind) for kind in kinds}

    def _post(self, path: str, body: object) -> None:
        answer = self.service.post(path, body, key=self.key)
        assert answer.status_code in (200, 201), (path, answer.text)

    def _write(self) -> None:
        plan = {
            "price": 20,
            "max_spend_per_period": 50,
            "model_limits": {self.model: 1_000},
            "cost_rates": {self.model: {"input": 1, "output": 2}},
        }
        plans = [{"name": self.plan, **plan}, {"name": self.spare}]
        made = self.service.post("/config/plans", {"plans": plans}, key=self.key)
        assert made.status_code == 200, made.text
        plan_id = next(each["id"] for each in made.json()["plans"] if each["name"] == self.plan)
        path = f"/users/{quote(self.user_id, safe='')}"
        self._post("/users", {"external_user_id": self.user_id, "name": self._text("name")})
        self._post(f"{path}/subscription", {"plan_id": plan_id, **PERIOD})
        paused = {"paused": True, "reason": self._text("reason")}
        changed = self.service.call("PATCH", path, key=self.key, json=paused)
        assert changed.status_code == 200, changed.text
        texts = self.texts
        call = event(
            id=self.event_id,
            user_id=self.user_id,
            session_id=self.session,
            model=self.model,
            provider=texts["provider"],
            metadata={texts["tag"]: texts["value"]},
            description=texts["description"],
        )
        self._post("/events/batch", [call])
        gate = gate_event(
            id=self._text("gate-event"),
            user_id=self.user_id,
            gate_reason=texts["gate"],
            message=texts["message"],
            timestamp=NOW.isoformat(),
        )
        self._post("/gate-events/batch", [gate])
        until = "2026-12-24T00:00:00+00:00"
        override = {"limit": "total_spend", "add": 5, "until": until, "reason": texts["override"]}
        self._post(f"{path}/overrides", override)
        self._post("/keys", {"scope": "read", "name": texts["key"]})
        saved = self.service.store.save_view(
            self.product, texts["view"], "/users", urlencode({"search": self.user_id})
        )
        assert saved is not None

    @property
    def key_id(self) -> str:
        """The key that was made."""
        keys = self.service.store.keys(self.product)
        return next(each.key_id for each in keys if each.name == self.texts["key"])

    @property
    def view_id(self) -> str:
        """The view that was saved."""
        (view,) = self.service.store.saved_views(self.product)
        return view.view_id

    @property
    def override_id(self) -> str:
        """The raise that was made."""
        store = self.service.store
        (override,) = store.overrides(self.product, self.user_id, self.service.now_us)
        return override.override_id

    def _forms(self) -> dict[str, dict[str, str]]:
        user = {"id": self.user_id}
        edit = {"name": self.plan, "price": "30", "max_spend_per_period": "70"}
        raised = {"limit": "0", "name": "Spend, this billing period", "add": "7"}
        return {
            "/user/raise": {**user, **raised, "until": "2026-12-31", "reason": "asked"},
            "/user/end-raise": {**user, "override": self.override_id},
            "/user/pause": {**user, "paused": "no"},
            "/user/plan": {**user, "plan": self.spare},
            "/user/usage-link": user,
            "/user/erase": {**user, "confirm": self.user_id},
            "/plan/check": edit,
            "/plan/save": edit,
            "/plan/replay": edit,
            "/plan/shadow": {"name": self.plan, "enforce": "no"},
            "/plan/delete": {"name": self.spare},
            "/keys/create": {"scope": "sdk", "name": "application"},
            "/keys/rotate": {"key": self.key_id},
            "/keys/revoke": {"key": self.key_id},
            "/views": {"name": "mine", "page": "/plans", "query": "range=7d"},
            "/views/delete": {"view": self.view_id},
            "/theme": {"theme": "dark"},
        }

    def _addresses(self) -> dict[str, list[str]]:
        of_user = [{"id": self.user_id, "tab": tab} for tab in ("limits", "calls", "sessions")]
        of_user += [{"id": self.user_id, "tab": tab} for tab in ("gates", "manage")]
        ranges = {"range": "90d", "plan": self.plan}
        queries: dict[str, list[dict[str, str]]] = {
            "/": [{}, {"compare": "previous", "group": "provider", **ranges}],
            "/users": [
                {},
                {"sort": "user", **ranges},
                {"search": self.user_id},
                {"model": self.model},
            ],
            "/user": [
                *of_user,
                {"id": self.user_id, "model": self.model},
                {"id": self.user_id, "tab": "calls", "session": self.session},
            ],
            "/call": [{"id": self.event_id, "user": self.user_id}],
            "/plans": [{}, ranges],
            "/plan": [{}, {"name": self.plan}, {"name": self.spare}],
            "/prices": [{}],
            "/price": [{"of": self.model}, {"of": "gpt-4o"}],
            "/keys": [{}],
            "/settings": [{}],
            "/export": [
                {"report": "spend", "by": "user,model"},
                {"report": "margin"},
                {"report": "calls", "id": self.user_id},
            ],
        }
        return {
            path: [f"{path}?{urlencode(query)}" if query else path for query in each]
            for path, each in queries.items()
        }
