"""The OpenAPI document: FastAPI's, with keys, problems and idempotency on every operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from paygent.server.api import schemas
from paygent.server.auth import SETUP_HEADER
from paygent.server.idempotency import HEADER, KEY_CHARS_MAX
from paygent.server.problems import MEDIA_TYPE
from paygent.server.routes import ACCESS

_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "public": [],
    "setup": [{}, {"SetupToken": []}],
    "usage_token": [{"UsageToken": []}],
    "sdk": [{"ApiKey": []}],
    "admin": [{"ApiKey": []}],
}
_SCHEMES = {
    "ApiKey": {"type": "http", "scheme": "bearer", "description": "pg_live_…"},
    "UsageToken": {"type": "http", "scheme": "bearer", "description": "pg_usage_…"},
    "SetupToken": {"type": "apiKey", "in": "header", "name": SETUP_HEADER},
}
_ALWAYS = {
    "400": "The request cannot be read.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "422": "A value breaks a rule; `errors` lists every one.",
    "431": "Path, query and headers are too large.",
    "500": "The server failed.",
    "503": "Send it again, after the seconds of `Retry-After`.",
}
_WITH_KEY = {"401": "There is no valid key.", "403": "The key's scope does not suffice."}
_MISSING = {"404": "The product has no such object."}
_CONFLICT = {"409": "It conflicts with the current state."}
_IDEMPOTENCY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A request that is repeated with its key within a day has no second effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX},
}
_REF = "#/components/schemas/{model}"


def add_openapi(app: FastAPI) -> None:
    """Make the application's document complete; it is made at its first request."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
    )
    components = made.setdefault("components", {})
    models = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        models.pop(unused, None)
    problem = TypeAdapter(schemas.Problem).json_schema(ref_template=_REF)
    models |= problem.pop("$defs", {})
    models["Problem"] = problem
    components["securitySchemes"] = _SCHEMES
    for path, method, operation in _operations(made):
        _complete(path, method, operation)
    return made


def _operations(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in made["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    access = operation[ACCESS]
    operation["security"] = _SECURITY[access]
    problems = dict(_ALWAYS)
    if access != "public":
        problems |= _WITH_KEY
    if "{" in path or access == "usage_token" or path.endswith("/products"):
        problems |= _MISSING
    if method != "get":
        problems |= _CONFLICT
        if access in ("sdk", "admin"):
            operation.setdefault("parameters", []).append(_IDEMPOTENCY)
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status, description in problems.items():
        operation["responses"][status] = {"description": description, "content": content}
