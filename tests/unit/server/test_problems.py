"""Problems: what an error answer repeats of a request, and what it never says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from paygent.core.validation import FieldError, InvalidValue
from paygent.server.problems import (
    Problem,
    as_problem,
    invalid_fields,
    not_found,
    problem_response,
)
from paygent.store.port import StoreBusy, StoreUnavailable


def body_of(problem: Problem) -> dict[str, Any]:
    """Return the body of a problem's answer."""
    response = problem_response(problem, "r1")
    assert response.media_type == "application/problem+json"
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body


def test_problem_response__not_found__has_the_standard_members() -> None:
    """type, title, status and detail, and the request's id."""
    assert body_of(not_found("plan")) == {
        "type": "urn:paygent:problem:not-found",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no such plan.",
        "request_id": "r1",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        (Decimal("0.1"), 0.1),
        (Decimal("1e999"), None),
        (Decimal("NaN"), None),
        (float("inf"), None),
        (10**30, str(10**30)),
        ("x", "x"),
        ("\ud800", "?"),
        ("x" * 300, "x" * 199 + "…"),
        ({"a": [1]}, '{"a": [1]}'),
        ({"a": {1, 2}.__class__}, '{"a": "<class \'set\'>"}'),
        ({(1, 2): 3}, "<dict>"),
        (b"bytes", None),
        (10**300, "1" + "0" * 198 + "…"),
        ({str(n): "x" * 50 for n in range(9)}, "9 fields"),
        (["x" * 50] * 7, "7 items"),
    ],
)
def test_problem_response__values__are_json_and_short(value: Any, shown: Any) -> None:
    """Whatever breaks a rule can be shown."""
    body = body_of(invalid_fields([FieldError("f", value, "must be good")]))
    assert body["errors"] == [{"field": "f", "value": shown, "rule": "must be good"}]


def test_problem_response__many_errors__lists_a_thousand() -> None:
    """An answer is bounded, and its detail names the first fields."""
    body = body_of(invalid_fields(FieldError(f"f{n}", n, "r") for n in range(1_500)))
    assert len(body["errors"]) == 1_000
    assert body["detail"] == "Invalid: f0, f1, f2 and 1497 more."


def test_as_problem__of_each_kind__has_its_status() -> None:
    """What is expected has a status; what is not has none."""
    invalid = InvalidValue("plan", (FieldError("price", -1, "must not be negative"),))
    problem = as_problem(invalid)
    assert problem is not None
    assert (problem.status_code, problem.errors[0]["field"]) == (422, "price")
    for error in (StoreUnavailable("SQLite, /path"), StoreBusy("locked")):
        problem = as_problem(error)
        assert problem is not None
        assert problem.status_code == 503
        assert "/path" not in str(problem.detail)
    assert as_problem(RuntimeError("a defect")) is None
