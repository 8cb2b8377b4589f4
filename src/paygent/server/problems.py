"""Problems: every error is an answer of `application/problem+json` (RFC 9457), or a page.

A problem never contains a traceback, a secret or an address made from the request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from http import HTTPStatus
from math import isfinite
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from paygent.core.validation import FieldError, InvalidValue
from paygent.server.logs import LOGGER
from paygent.store.port import StoreUnavailable

MEDIA_TYPE = "application/problem+json"

CLIENT_LEFT = "paygent.client_left"
"""In a request's scope: its client left before the body had arrived."""

PROBLEM_PAGE = "paygent.problem_page"
"""In the scope of a request for a page: the function that shows a problem as one."""

_RETRY_AFTER_S = 1
_SHOWN_CHARS_MAX = 200  # of a value that breaks a rule
_ERRORS_MAX = 1_000  # listed in one answer

# What types of this package say to an application in Python, and the same about JSON.
_OF_PYTHON = (
    (" (Decimal, int, float or str)", ""),
    ("must be a dict ", "must be an object "),
    ("must be a ModelCostRate or a dict of its fields", "must be an object of prices"),
    ("must be a Limit or a dict of its fields", "must be an object of a limit"),
    ("a ModelLimitConfig or a dict of its fields", "an object with max_tokens_per_period"),
    ("is not a field of ModelCostRate", "is not a field of a rate"),
    ("is not a field of ModelLimitConfig", "is not a field of a model's limit"),
    ("is not a field of Limit", "is not a field of a limit"),
    ("must be a list of Limit", "must be a list of limits"),
    ("or None for", "or null for"),
    ("True or False", "true or false"),
)
_KINDS = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number with fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list of objects",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
"""Rules by the library's kinds of errors, with its figures."""

Errors = Iterable[Mapping[str, Any]]


class Problem(HTTPException):
    """An error that becomes the answer of a request."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Errors = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the problem.

        Args:
            status: The status code.
            code: The kind, for programs; part of `type`.
            detail: A sentence for people.
            errors: Values that break rules: `{field, value, rule}` each.
            headers: Further headers of the answer.
        """
        super().__init__(status, detail, dict(headers) if headers else None)
        self.code = code
        self.errors = tuple(errors)


def not_found(kind: str) -> Problem:
    """Return the problem of an object that the product does not have."""
    return Problem(404, "not-found", f"There is no such {kind}.")


def invalid(field: str, value: Any, rule: str) -> Problem:
    """Return the problem of one field."""
    return invalid_fields([FieldError(field, value, rule)])


def invalid_fields(errors: Iterable[FieldError]) -> Problem:
    """Return the problem of fields that break rules."""
    found = [
        {"field": each.field, "value": each.value, "rule": _in_json(each.rule)} for each in errors
    ]
    fields = ", ".join(str(each["field"]) for each in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return Problem(422, "invalid-value", f"Invalid: {fields}{more}.", errors=found)


def unavailable(detail: str, *, retry_after_s: int = _RETRY_AFTER_S) -> Problem:
    """Return the problem of a request that may succeed when it is sent again."""
    headers = {"Retry-After": str(retry_after_s)}
    return Problem(503, "unavailable", detail, headers=headers)


def problem_response(problem: Problem, request_id: str) -> Response:
    """Return a problem as an answer."""
    body: dict[str, Any] = {
        "type": f"urn:paygent:problem:{problem.code}",
        "title": _phrase(problem.status_code),
        "status": problem.status_code,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.errors:
        listed = problem.errors[:_ERRORS_MAX]
        body["errors"] = [{**error, "value": _shown(error.get("value"))} for error in listed]
    text = json.dumps(body, ensure_ascii=True)
    return Response(text, problem.status_code, problem.headers, media_type=MEDIA_TYPE)


def problem_answer(problem: Problem, scope: Scope) -> Response:
    """Return a problem as the answer of a request: a page where one was asked for."""
    show: Callable[[Problem], Response] | None = scope.get(PROBLEM_PAGE)
    return problem_response(problem, request_id_of(scope)) if show is None else show(problem)


def note_unavailable(error: StoreUnavailable, scope: Scope) -> None:
    """Log why the store cannot be used: the answer does not say it, and the operator needs it."""
    request_id = request_id_of(scope)
    LOGGER.warning("the store is unavailable: %s", error, extra={"request_id": request_id})


UnknownPage = Callable[[Request, Problem], Response | None]
"""Returns the answer to a person at an address without a page, or without one for the method of the
request; None for a program and for REST.
"""


def add_handlers(app: FastAPI, unknown_page: UnknownPage) -> None:
    """Answer the expected exceptions of handlers with problems."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = _of_routing(request, error)
        if problem is not None and (shown := unknown_page(request, problem)) is not None:
            return shown
        problem = problem or as_problem(error, _body_name(request))
        assert problem is not None  # only these kinds are registered
        if isinstance(error, StoreUnavailable):
            note_unavailable(error, request.scope)
        return problem_response(problem, request_id_of(request.scope))

    for kind in (HTTPException, RequestValidationError, InvalidValue, StoreUnavailable):
        app.add_exception_handler(kind, answer)


def as_problem(error: Exception, body_name: str = "body") -> Problem | None:
    """Return the problem that an exception stands for; None for an unexpected one.

    Args:
        error: The exception.
        body_name: Names the body as a whole: "body", or what it is a list of.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _of_request(error, body_name)
    if isinstance(error, InvalidValue):
        return invalid_fields(error.findings)
    if isinstance(error, StoreUnavailable):
        return unavailable("The database cannot be used now.")
    if isinstance(error, HTTPException):
        code = _phrase(error.status_code).lower().replace(" ", "-")
        return Problem(error.status_code, code, str(error.detail), headers=error.headers)
    return None


def in_words(names: Iterable[str], conjunction: str) -> str:
    """Return names as a part of a sentence: `a`, `a or b`, `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Return the id of a request, which its log lines have, too."""
    return str(scope.get("paygent.request_id", ""))


def _of_routing(request: Request, error: Exception) -> Problem | None:
    """Return the problem of a path or method without a route; None for any other error."""
    if isinstance(error, Problem) or not isinstance(error, HTTPException):
        return None
    if error.status_code == 404:
        return not_found("route")
    if error.status_code != 405:
        return None
    found: set[str] = set()
    for route in request.scope["app"].router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= set(route.methods)
    if "GET" in found:
        found.add("HEAD")
    allowed = sorted(found)
    detail = f"The route has no method {request.method}; it has {in_words(allowed, 'and')}."
    return Problem(405, "method-not-allowed", detail, headers={"Allow": ", ".join(allowed)})


def _body_name(request: Request) -> str:
    """Return what the handler calls the body: `events` for a list of them, usually "body"."""
    field = getattr(request.scope.get("route"), "body_field", None)
    return "body" if field is None else str(field.name)


def _of_request(error: RequestValidationError, body_name: str) -> Problem:
    """Return FastAPI's validation errors as a problem."""
    found = []
    for each in error.errors():
        # A whole body of another kind says nothing that its sender does not know.
        is_seen = each["type"] != "missing" and tuple(each["loc"]) != ("body",)
        value = each.get("input") if is_seen else None
        found.append(FieldError(_path(each["loc"], body_name), value, _rule(each)))
    return invalid_fields(found)


def _path(place: Iterable[str | int], body_name: str) -> str:
    """Return where a value is: `plans[0].name`, `events[3].timestamp`, or "body"."""
    source, *parts = place
    # The fields of an object need no name before them; the items of a list do.
    path = body_name if source == "body" and (not parts or isinstance(parts[0], int)) else ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or str(source)


def _rule(error: Mapping[str, Any]) -> str:
    """Return the rule that one error of the validation library stands for."""
    rule = _KINDS.get(error["type"])
    if rule is None:  # no schema leads to this kind at present
        text = re.sub(r"^Input should be (an? )?(valid )?", r"must be \1", str(error["msg"]))
        return text[:1].lower() + text[1:]
    rule = rule.format_map(error.get("ctx", {}))
    if error["type"] == "literal_error":
        rule = rule.replace("'", '"')
    return rule.replace("at least 1 characters", "at least one character").replace(
        "at least 1 items", "at least one item"
    )


def _in_json(rule: str) -> str:
    """Return a rule with the words of JSON for those of Python."""
    for python, json_words in _OF_PYTHON:
        rule = rule.replace(python, json_words)
    return rule


def _shown(value: Any) -> Any:
    """Return a value as an answer may repeat it: JSON, and short."""
    if isinstance(value, bytes):
        return None  # no value of JSON
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, (float, Decimal)):
        return float(value) if isfinite(value) and isfinite(float(value)) else None
    text = value if isinstance(value, str) else _dumped(value)
    if len(text) > _SHOWN_CHARS_MAX and isinstance(value, (Mapping, list, tuple)):
        return f"{len(value)} {'fields' if isinstance(value, Mapping) else 'items'}"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
