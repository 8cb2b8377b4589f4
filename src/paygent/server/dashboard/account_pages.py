"""Keys and settings of a product: API keys, saved views, the look of the pages."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response

from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, FieldError
from paygent.server.api.products import create_key
from paygent.server.dashboard.render import page, redirect
from paygent.server.dashboard.sessions import set_cookie
from paygent.server.dashboard.site import Done
from paygent.server.dashboard.visit import THEME_COOKIE, THEMES, Form, MemberVisit
from paygent.server.problems import not_found
from paygent.store.dashboard_port import VIEWS_MAX
from paygent.store.directory_port import ApiKey, Scope

SCOPES: dict[str, str] = {
    "sdk": "an application: it delivers usage and reads its users' limits",
    "read": "reads everything, for reports",
    "admin": "everything, and this dashboard",
}
_YEAR_S = 365 * 86_400
_VIEW_PAGES = ("/", "/users", "/plans", "/prices")
_QUERY_CHARS_MAX = 2_000
_VIEW_NAME_CHARS_MAX = 100


# -- keys


async def show_keys(visit: MemberVisit) -> Response:
    """Show the keys of the product, without their secrets."""
    return await _keys(visit)


async def _keys(visit: MemberVisit, made: str = "", scope: str = "") -> Response:
    keys = await visit.ask(visit.store.keys)
    return await page(
        visit,
        "keys.html",
        keys=keys,
        scopes=SCOPES,
        made=made,
        made_scope=scope,
        own_key_id=visit.tenant.key_id,
    )


async def make_key(visit: MemberVisit, form: Form) -> Done | Response:
    """Make a key, and show its text this once."""
    scope, name = form.get("scope"), form.get("name")
    errors = []
    if scope not in SCOPES:
        errors.append(FieldError("scope", scope, f"must be one of {', '.join(SCOPES)}"))
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        errors.append(FieldError("name", name, NAME_RULE))
    if errors:
        return Done("/keys", {}, errors=tuple(errors))
    return await _made(visit, scope, name)  # type: ignore[arg-type]  # checked above


async def _made(visit: MemberVisit, scope: Scope, name: str) -> Response:
    _, text = await visit.tenant.backend.in_store(
        create_key, visit.store, visit.tenant.product, scope, name
    )
    return await _keys(visit, text, scope)


async def rotate_key(visit: MemberVisit, form: Form) -> Response:
    """Replace a key by a new one of the same scope and name."""
    old = await _find(visit, form)
    answer = await _made(visit, old.scope, old.name)
    await _revoke(visit, old)
    return answer


async def revoke_key(visit: MemberVisit, form: Form) -> Done:
    """Revoke a key, in every server within a second."""
    key = await _find(visit, form)
    if key.key_id == visit.tenant.key_id:
        rule = "is the key that you are signed in with; sign in with another one first"
        return Done("/keys", {}, errors=(FieldError("key", key.hint, rule),))
    await _revoke(visit, key)
    return Done("/keys", {}, f"Revoked: {key.hint}")


async def _find(visit: MemberVisit, form: Form) -> ApiKey:
    for key in await visit.ask(visit.store.keys):
        if key.key_id == form.get("key") and key.revoked_us is None:
            return key
    raise not_found("key")


async def _revoke(visit: MemberVisit, key: ApiKey) -> None:
    await visit.ask(visit.store.revoke_key, key.key_id)
    visit.request.scope["app"].state.keys.forget(visit.tenant.product)


# -- settings


async def show_settings(visit: MemberVisit) -> Response:
    """Show the product, its saved views, and the look of the pages."""
    return await page(
        visit,
        "settings.html",
        views=await visit.ask(visit.store.saved_views),
        database=visit.backend.settings.shown_database.partition(":")[0],
        themes=THEMES,
    )


async def choose_theme(visit: MemberVisit, form: Form) -> Response:
    """Choose light or dark pages, for this browser."""
    theme = form.get("theme")
    answer = redirect(visit, "/settings")
    if theme in THEMES:
        text = set_cookie(visit.request.headers, THEME_COOKIE, theme, max_age_s=_YEAR_S)
        answer.headers.append("Set-Cookie", text)
    return answer


async def save_view(visit: MemberVisit, form: Form) -> Done:
    """Save the state of a page under a name."""
    name, view_page, query = form.get("name"), form.get("page"), form.get("query")
    errors = []
    if not 1 <= len(name) <= _VIEW_NAME_CHARS_MAX:
        rule = f"must have 1 to {_VIEW_NAME_CHARS_MAX} characters"
        errors.append(FieldError("name", name, rule))
    if view_page not in _VIEW_PAGES:
        errors.append(FieldError("page", view_page, f"must be one of {', '.join(_VIEW_PAGES)}"))
    if len(query) > _QUERY_CHARS_MAX:
        errors.append(FieldError("query", None, f"must have at most {_QUERY_CHARS_MAX} characters"))
    if errors:
        return Done("/settings", {}, errors=tuple(errors))
    # Written again, so that nothing but names and values is kept.
    kept = urlencode([pair for pair in parse_qsl(query) if pair[0] != "cursor"])
    if await visit.ask(visit.store.save_view, name, view_page, kept) is None:
        rule = f"would be one more than {VIEWS_MAX} views"
        return Done("/settings", {}, errors=(FieldError("name", name, rule),))
    return Done("/settings", {}, f"Saved: {name}.")


async def delete_view(visit: MemberVisit, form: Form) -> Done:
    """Delete a saved view."""
    if not await visit.ask(visit.store.delete_view, form.get("view")):
        raise not_found("view")
    return Done("/settings", {}, "Deleted.")
