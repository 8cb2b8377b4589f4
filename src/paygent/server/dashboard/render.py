"""Pages as answers: templates, the headers that protect them, and errors.

The policy of an answer lets the browser load what this server serves, and nothing else; scripts
need the answer's nonce, and no script may turn text into markup but htmx, by its own policy.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from paygent import __version__
from paygent.server.dashboard import figures
from paygent.server.dashboard.assets import assets
from paygent.server.dashboard.state import FILTERS, GROUPS, NONE_TEXT, RANGE_NAMES
from paygent.server.dashboard.visit import MemberVisit, Visit
from paygent.server.problems import Problem

_NONCE_BYTES = 16
_NONCE = re.compile(r"[A-Za-z0-9_-]{22}")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'nonce-{nonce}'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types htmx",
    )
)
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: browsers then send `Origin: null` with forms.
    "Referrer-Policy": "same-origin",
    "Vary": "HX-Request, HX-Request-Type",
    "X-Frame-Options": "DENY",
}


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        address=figures.address,
        asset=lambda name: f"/static/{assets()[name].address}",
        change=figures.change,
        count=figures.count,
        filter_names=FILTERS,
        group_names=GROUPS,
        moment=figures.moment,
        money=figures.money,
        named=figures.named,
        none_text=NONE_TEXT,
        percent=figures.percent,
        range_names=RANGE_NAMES,
        usage=figures.usage,
        version=__version__,
    )
    return made


def new_nonce() -> str:
    """Return a nonce for one answer."""
    return secrets.token_urlsafe(_NONCE_BYTES)


def is_nonce(text: str) -> bool:
    """Return whether a text may be one that `new_nonce` has made."""
    return _NONCE.fullmatch(text) is not None


async def page(visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page, or its body where htmx replaces that of the page that is shown; a template
    that extends no other is a part of a page.

    Args:
        visit: The request.
        template: Name of the template.
        status: Of the answer.
        **values: What the template shows.
    """
    # On a thread: a page of thousands of figures would hold up the requests of applications.
    return await run_in_threadpool(_render, visit, template, status, values)


def error_page(visit: Visit, problem: Problem) -> Response:
    """Return a problem as a page."""
    answer = _render(visit, "error.html", problem.status_code, {"problem": problem})
    answer.headers.update(problem.headers or {})
    return answer


def _render(visit: Visit, template: str, status: int, values: Mapping[str, Any]) -> Response:
    member = visit if isinstance(visit, MemberVisit) else None
    text = _templates().get_template(template).render(visit=visit, member=member, **values)
    answer = HTMLResponse(text, status, _HEADERS)
    answer.headers["Content-Security-Policy"] = _POLICY.format(nonce=visit.nonce)
    return answer


def redirect(visit: Visit, path: str, **query: str) -> Response:
    """Send the browser to another page of this server."""
    target = f"{path}?{urlencode(query)}" if query else path
    if visit.is_htmx:  # which would follow a redirect without leaving the page
        return Response(status_code=204, headers={"HX-Redirect": target, **_HEADERS})
    return RedirectResponse(target, 303, _HEADERS)
