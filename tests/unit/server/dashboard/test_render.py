"""Answers: pages with the headers that protect them, errors, and redirects."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.requests import Request
from tests.unit.server.dashboard.conftest import MakeVisit

from paygent.core.validation import FieldError
from paygent.server.dashboard.render import error_page, new_nonce, redirect
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.problems import Problem, invalid

EVIL = '"><script>alert(1)</script>'


def by_htmx(visit: MemberVisit, kind: str = "") -> MemberVisit:
    """Return the visit as htmx makes it."""
    headers = [(b"hx-request", b"true"), (b"hx-request-type", kind.encode())]
    return replace(visit, request=Request({**visit.request.scope, "headers": headers}))


def test_error_page__a_problem__shows_every_value_and_rule_escaped(make_visit: MakeVisit) -> None:
    """With the status and headers of the problem, below the page's own policy."""
    answer = error_page(make_visit(), invalid("tab", EVIL, "must be <one>"))
    text = bytes(answer.body).decode()
    assert answer.status_code == 422
    assert "<code>tab</code> = <code>&#34;&gt;&lt;script&gt;" in text
    assert "must be &lt;one&gt;" in text
    assert EVIL not in text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'nonce-nonce';" in policy
    assert "unsafe" not in policy
    late = error_page(make_visit(), Problem(429, "x", "Later.", headers={"Retry-After": "5"}))
    assert (late.status_code, late.headers["retry-after"]) == (429, "5")


def test_page__values_that_are_empty__are_not_shown(make_visit: MakeVisit) -> None:
    """A field that was left out has a rule alone."""
    wrong = replace(make_visit(), errors=(FieldError("name", "", "is needed"),))
    text = bytes(error_page(wrong, Problem(404, "not-found", "Gone.")).body).decode()
    assert "Nothing was changed." in text
    assert "<li><code>name</code>: is needed</li>" in text


def test_page__for_a_part_of_the_page__has_no_frame(make_visit: MakeVisit) -> None:
    """htmx puts the body into the page that is shown; a boosted page without a target is whole."""
    problem = Problem(404, "not-found", "Gone.")
    whole = bytes(error_page(by_htmx(make_visit(), "full"), problem).body).decode()
    part = bytes(error_page(by_htmx(make_visit(), "partial"), problem).body).decode()
    assert "<!doctype html>" in whole
    assert "<html" not in part
    assert "<title>" in part
    assert "Gone." in part


@pytest.mark.parametrize(
    ("query", "target"), [({}, "/login"), ({"next": "/a?b=c&d"}, "/login?next=%2Fa%3Fb%3Dc%26d")]
)
def test_redirect__a_browser_and_htmx__are_sent_to_the_page(
    make_visit: MakeVisit, query: dict[str, str], target: str
) -> None:
    """htmx would follow a redirect without leaving the page."""
    answer = redirect(make_visit(), "/login", **query)
    assert (answer.status_code, answer.headers["location"]) == (303, target)
    swapped = redirect(by_htmx(make_visit()), "/login", **query)
    assert (swapped.status_code, swapped.headers["hx-redirect"]) == (204, target)


def test_new_nonce__each_answer__has_its_own() -> None:
    """A nonce that is guessed lets a script in."""
    nonces = {new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(nonce) >= 20 for nonce in nonces)
