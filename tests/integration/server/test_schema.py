"""The OpenAPI document: complete, and kept by every operation under generated requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.integration.server.service import NOW_US, Service, event, gate_event, listening

from paygent.server.app import create_app
from paygent.server.settings import ServerSettings
from paygent.store.sqlite import SqliteStore

CHECKS = (
    not_a_server_error,
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
EXAMPLES_MAX = 12


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with some of everything, so that generated requests find something."""
    folder: Path = tmp_path_factory.mktemp("schema")
    store = SqliteStore(str(folder / "server.db"), readers=4, now_us=lambda: NOW_US)
    store.open()
    with listening(store, logs_requests=False) as service:
        plan_id = service.plan(max_spend_per_period=5, model_limits={"gpt-4o": 5_000})
        for user_id in ("u1", "0"):
            service.user(user_id)
        period = {"period_start": "2026-11-01T00:00:00Z", "period_end": "2026-12-01T00:00:00Z"}
        service.post("/users/0/subscription", {"plan_id": plan_id, **period})
        service.book(event(1, user_id="0"), event(2))
        service.post("/gate-events/batch", [gate_event(1, user_id="0")])
        limit = {"limit": "total_spend", "add": 1, "until": "2026-12-01T00:00:00Z"}
        service.post("/users/0/overrides", limit)
        yield service
    store.close()


@pytest.fixture(scope="module")
def api(filled: Service) -> Any:
    """The operations of the application's own document, over HTTP."""
    return schemathesis.openapi.from_url(f"{filled.client.base_url}/api/v1/openapi.json")


def operations() -> list[tuple[str, str]]:
    """Return method and path of every operation; nothing of the store is needed for that."""
    app = create_app(SqliteStore(":memory:"), ServerSettings(database_url="sqlite:///unused"))
    paths = app.openapi()["paths"]
    return [(path, method) for path, item in paths.items() for method in item]


@pytest.mark.parametrize(("path", "method"), operations())
def test_operation__generated_requests__no_5xx_and_no_breach_of_the_schema(
    api: Any, filled: Service, path: str, method: str
) -> None:
    """Whatever is sent, the answer is one that the document describes."""
    operation = api[path][method]

    @given(operation.as_strategy() | operation.as_strategy(GenerationMode.NEGATIVE))
    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(checks=list(CHECKS), headers=headers_of(filled, operation))

    check()


def headers_of(service: Service, operation: Any) -> dict[str, str]:
    """Return the credentials that an operation needs."""
    access = operation.definition.raw["x-paygent-access"]
    if access in ("sdk", "admin"):
        return {"Authorization": f"Bearer {service.keys['admin']}"}
    if access == "usage_token":
        token = service.post("/users/u1/usage-token").json().get("token")
        return {"Authorization": f"Bearer {token}"}
    return {}


def test_document__every_operation__is_complete(filled: Service) -> None:
    """Each has a description, the schema of its answer, and its problems."""
    document = filled.client.get("/api/v1/openapi.json").json()
    names = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            names.add(operation["operationId"])
            assert operation["description"], where
            assert {"422", "500", "503"} <= operation["responses"].keys(), where
            success = [key for key in operation["responses"] if key.startswith("2")]
            assert len(success) == 1, where
            content = operation["responses"][success[0]]["content"]
            assert all(each.get("schema") for each in content.values()), where
            assert ("401" in operation["responses"]) == (
                operation["x-paygent-access"] != "public"
            ), where
    assert len(names) == sum(len(item) for item in document["paths"].values())
    assert "HTTPValidationError" not in str(document)


def test_document__on_each_server__names_no_address(filled: Service) -> None:
    """The document does not depend on the request's host."""
    document = filled.client.get("/api/v1/openapi.json", headers={"Host": "evil.example"})
    assert "evil.example" not in document.text
    assert "http://" not in document.text
