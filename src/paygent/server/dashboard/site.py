"""The site: which page is at which address, and what every request goes through first.

A page is answered to a person who is signed in; others are sent to the login. An action is a form
that a page of this server has sent, with the token of its session; where it succeeds, the browser
is shown the page that the action names, with a notice of what was done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from paygent.core.validation import FieldError, InvalidValue
from paygent.server.backend import backend_of
from paygent.server.dashboard.assets import by_address
from paygent.server.dashboard.render import error_page, is_nonce, new_nonce, page, redirect
from paygent.server.dashboard.sessions import (
    COOKIE,
    LOGIN_COOKIE,
    LOGIN_S,
    SESSION_S,
    Sessions,
    check_origin,
    check_token,
    cookie,
    set_cookie,
)
from paygent.server.dashboard.state import PageState, default_state, read_state
from paygent.server.dashboard.visit import THEME_COOKIE, THEMES, Form, MemberVisit, Visit
from paygent.server.problems import (
    PROBLEM_PAGE,
    Problem,
    as_problem,
    not_found,
    note_unavailable,
)
from paygent.store.port import StoreUnavailable

_ASSET_CACHE = "public, max-age=31536000, immutable"  # a year: a changed file has another name
_ADDRESS_CHARS_MAX = 2_000
_API = "/api/"  # whatever version


class Done(NamedTuple):
    """The outcome of an action.

    Attributes:
        path, query: The page to show.
        notice: What was done, in words; "" where nothing was.
        errors: Why it was not done: values of the form that break rules.
    """

    path: str
    query: Mapping[str, str]
    notice: str = ""
    errors: tuple[FieldError, ...] = ()


PageHandler = Callable[[MemberVisit], Awaitable[Response]]
ActionHandler = Callable[[MemberVisit, Form], Awaitable[Done | Response]]
Pages = Mapping[str, PageHandler]
_Handler = Callable[[Visit], Awaitable[Response]]
_Endpoint = Callable[[Request], Awaitable[Response]]


class _Route(Route):
    """A route that says which one it is, for logs and metrics, as those of the API do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether a request is for this route."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}


class Site:
    """The routes of the dashboard."""

    def __init__(
        self,
        pages: Pages,
        actions: Mapping[str, ActionHandler],
        open_pages: Mapping[str, _Handler],
    ) -> None:
        """Remember the handlers.

        Args:
            pages: By path, for GET.
            actions: By path, for POST.
            open_pages: By path, for GET; they need no session.
        """
        self._pages = pages
        self._actions = actions
        self._open_pages = open_pages

    def routes(self) -> list[Route]:
        """Return the routes: of pages, actions, the login and files."""
        shown: dict[str, _Handler] = {
            "/static/{name}": _asset,
            "/login": self._login_page,
            **self._open_pages,
            **{path: self._page(handler) for path, handler in self._pages.items()},
        }
        done: dict[str, _Handler] = {
            "/login": self._login,
            "/logout": self._logout,
            **{path: self._action(handler) for path, handler in self._actions.items()},
        }
        made: list[Route] = []
        for method, handlers in (("GET", shown), ("POST", done)):
            for path, handler in handlers.items():
                made.append(_Route(path, _guarded(handler), methods=[method]))
        return made

    # -- pages and actions

    def _page(self, handler: PageHandler) -> _Handler:
        async def show(visit: Visit) -> Response:
            member = await self._member(visit)
            return _to_login(visit) if member is None else await handler(member)

        return show

    def _action(self, handler: ActionHandler) -> _Handler:
        async def act(visit: Visit) -> Response:
            check_origin(visit.request.headers)
            member = await self._member(visit, reads_query=False)
            if member is None:
                return _to_login(visit)
            form = await visit.form()
            check_token(form.values, member.csrf_token)
            member = replace(member, state=_state_of(form, member))
            outcome = await handler(member, form)
            if isinstance(outcome, Response):
                outcome.headers.setdefault("HX-Push-Url", "false")  # its address is no page
                return outcome
            return await self._show(member, outcome)

        return act

    async def _show(self, member: MemberVisit, done: Done) -> Response:
        """Answer an action: htmx gets the next page at once, a browser is sent there."""
        query = {**member.state.values(), **done.query}
        target = f"{done.path}?{urlencode(query)}" if query else done.path
        if not member.is_htmx and not done.errors:
            return RedirectResponse(target, 303)
        state = read_state(query, member.zone, member.tenant.now_us())
        after = replace(
            member,
            path=done.path,
            query=query,
            state=state,
            notice=done.notice,
            errors=done.errors,
        )
        answer = await self._pages[done.path](after)
        if done.errors:
            answer.status_code = 422
        current = urlsplit(member.request.headers.get("hx-current-url", "")).path
        # Back then leads to the page before, and not to the same one.
        header = "HX-Replace-Url" if current == done.path else "HX-Push-Url"
        answer.headers[header] = target
        return answer

    async def _member(self, visit: Visit, *, reads_query: bool = True) -> MemberVisit | None:
        """Return the visit of a person who is signed in; None for others."""
        session = await sessions_of(visit.request).find(visit.request.headers)
        if session is None:
            return None
        tenant = session.tenant
        visit.request.scope["paygent.tenant"] = tenant  # for the log
        product = await tenant.ask(tenant.store.product)
        if product is None:
            return None
        zone, now_us = product.timezone, tenant.now_us()
        common = {name: getattr(visit, name) for name in Visit.__dataclass_fields__}
        member = MemberVisit(
            **common,
            tenant=tenant,
            product=product,
            state=default_state(zone, now_us),
            csrf_token=session.csrf_token,
        )
        if not reads_query:
            return member
        try:
            return replace(member, state=read_state(visit.query, zone, now_us))
        except InvalidValue as error:
            problem = as_problem(error)
            assert problem is not None  # every broken rule is one
            raise _Shown(error_page(member, problem)) from None

    # -- signing in and out

    async def _login_page(self, visit: Visit) -> Response:
        return await self._login_form(visit, "")

    async def _login_form(self, visit: Visit, error: str, status: int = 200) -> Response:
        headers = visit.request.headers
        value = cookie(headers, LOGIN_COOKIE)
        if not is_nonce(value):  # no cookie, or one of another server on this host
            value = new_nonce()
        token = await sessions_of(visit.request).token("login", value)
        target = local_address(visit.text("next"))
        answer = await page(
            visit, "login.html", status=status, token=token, next=target, error=error
        )
        cookie_text = set_cookie(headers, LOGIN_COOKIE, value, max_age_s=LOGIN_S, is_strict=True)
        answer.headers.append("Set-Cookie", cookie_text)
        return answer

    async def _login(self, visit: Visit) -> Response:
        headers, sessions = visit.request.headers, sessions_of(visit.request)
        check_origin(headers)
        form = await visit.form()
        target = local_address(form.get("next"))
        visit = replace(visit, query={"next": target})
        value = cookie(headers, LOGIN_COOKIE)
        if not value:
            text = "The sign-in page has expired, or this browser refuses cookies. Try again."
            return await self._login_form(visit, text, 403)
        check_token(form.values, await sessions.token("login", value))
        client = visit.request.client
        try:
            opened = await sessions.open(form.get("api_key"), client.host if client else "")
        except Problem as problem:
            answer = await self._login_form(visit, problem.detail, problem.status_code)
            answer.headers.update(problem.headers or {})
            return answer
        if opened is None:
            text = "This is no valid admin key."
            return await self._login_form(visit, text, 401)
        answer = redirect(visit, target)
        answer.headers.append("Set-Cookie", set_cookie(headers, LOGIN_COOKIE, "", max_age_s=0))
        session_text = set_cookie(headers, COOKIE, opened, max_age_s=SESSION_S)
        answer.headers.append("Set-Cookie", session_text)
        return answer

    async def _logout(self, visit: Visit) -> Response:
        headers, sessions = visit.request.headers, sessions_of(visit.request)
        check_origin(headers)
        session = await sessions.find(headers)
        if session is not None:
            check_token((await visit.form()).values, session.csrf_token)
            await sessions.close(headers)
        answer = redirect(visit, "/login")
        answer.headers.append("Set-Cookie", set_cookie(headers, COOKIE, "", max_age_s=0))
        return answer


class _Shown(Exception):
    """An answer that ends a request early."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self.answer = answer


def sessions_of(request: Request) -> Sessions:
    """Return the sessions of a request's application."""
    sessions: Sessions = request.scope["app"].state.sessions
    return sessions


def local_address(given: str) -> str:
    """Return an address of this server to go on to; `/` for anything else.

    Browsers read `//host` and a backslash as the beginning of another host.
    """
    if not given.startswith("/") or given.startswith("//") or len(given) > _ADDRESS_CHARS_MAX:
        return "/"
    if any(char == "\\" or ord(char) < 0x21 or ord(char) > 0x7E for char in given):
        return "/"
    parts = urlsplit(given)
    return "/" if parts.scheme or parts.netloc else given


def _state_of(form: Form, member: MemberVisit) -> PageState:
    """Return the state of the page that a form was on, to come back to."""
    query = dict(parse_qsl(form.get("state").removeprefix("?")))
    try:
        return read_state(query, member.zone, member.tenant.now_us())
    except InvalidValue:
        return member.state  # the default: what is asked for is not about the state


def _to_login(visit: Visit) -> Response:
    address = visit.request.url.path
    if visit.request.method == "GET" and visit.request.url.query:
        address += f"?{visit.request.url.query}"
    if visit.request.method != "GET":
        address = "/"
    target = local_address(address)
    return redirect(visit, "/login", **({} if target == "/" else {"next": target}))


def _guarded(handler: _Handler) -> _Endpoint:
    """Return an endpoint that answers expected errors with a page."""

    async def endpoint(request: Request) -> Response:
        visit = _visit(request)
        request.scope[PROBLEM_PAGE] = partial(error_page, visit)  # of what fails further out
        try:
            return await handler(visit)
        except _Shown as shown:
            return shown.answer
        except (HTTPException, InvalidValue, StoreUnavailable) as error:
            problem = as_problem(error)
            assert problem is not None  # these kinds all are
            if isinstance(error, StoreUnavailable):
                note_unavailable(error, request.scope)
            return error_page(visit, problem)

    return endpoint


def unknown_page(request: Request, problem: Problem) -> Response | None:
    """Return the error page of an address without a page, or without the method of the request, for
    a browser; None for a program and for REST.
    """
    asks_for_page = "text/html" in request.headers.get("accept", "")
    if not asks_for_page or f"{request.scope['path']}/".startswith(_API):
        return None
    words = not_found("page").detail
    shown = Problem(problem.status_code, problem.code, words, headers=problem.headers)
    answer = error_page(_visit(request), shown)
    answer.headers.add_vary_header("Accept")
    return answer


def _visit(request: Request) -> Visit:
    theme = cookie(request.headers, THEME_COOKIE)
    query: dict[str, Any] = dict(request.query_params)
    return Visit(
        request,
        backend_of(request),
        request.scope["path"],  # not of the URL, which has the host that the request claims
        query,
        theme if theme in THEMES else "auto",
        new_nonce(),
    )


async def _asset(visit: Visit) -> Response:
    asset = by_address().get(visit.request.path_params["name"])
    if asset is None:
        raise not_found("file")
    headers = {"Cache-Control": _ASSET_CACHE, "Vary": "Accept-Encoding"}
    if _accepts_gzip(visit.request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.compressed, media_type=asset.media_type, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _accepts_gzip(accepted: str) -> bool:
    """Return whether an `Accept-Encoding` names gzip, with a weight above 0."""
    for part in accepted.split(","):
        name, _, weight = part.replace(" ", "").partition(";q=")
        if name.lower() == "gzip":
            return not weight or weight.strip("0.") != ""
    return False
