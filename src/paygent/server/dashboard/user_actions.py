"""What can be changed about a user: a raised limit, a pause, the plan; and the user's erasure.

Each is the same verb of the store as the route of REST; the form's values are checked here.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from paygent.core.event_json import REASON_CHARS_MAX
from paygent.core.period import start_of_day
from paygent.core.validation import ValidationErrors
from paygent.server.api.overrides import read_amount
from paygent.server.api.usage_tokens import make_usage_token
from paygent.server.api.user_state import read_user_state
from paygent.server.dashboard.render import page
from paygent.server.dashboard.site import Done
from paygent.server.dashboard.state import read_day
from paygent.server.dashboard.user import limit_in_words, user_id_of
from paygent.server.dashboard.visit import Form, MemberVisit, read_number
from paygent.server.problems import not_found
from paygent.store.directory_port import Override, UserChange

_LINK_S = 3_600


async def raise_limit(visit: MemberVisit, form: Form) -> Done:
    """Raise a limit of a user by an amount until a day."""
    user_id = user_id_of(form.values)
    now_us = visit.tenant.now_us()
    state = await visit.tenant.backend.in_store(
        read_user_state,
        *(visit.store, visit.tenant.product, user_id, now_us),
        with_limits=True,
    )
    if state is None:
        raise not_found("user")
    errors = ValidationErrors("raise")
    by_place = {str(place): each.limit for place, each in enumerate(state.limits)}
    limit = by_place.get(form.get("limit"))
    # The plan may have changed since the form was made: a limit must still be the one it was.
    if limit is None or limit_in_words(limit) != form.get("name"):
        errors.add("limit", form.get("name"), "is not a limit of the user's plan any more")
        limit = None
    given = read_number(form.get("add"))
    amount = None
    if given is None or given <= 0:
        errors.add("add", form.get("add"), "must be a number above 0")
    elif limit is not None:
        amount = read_amount(errors, limit.key, "add", given)
    until = read_day(errors, "until", form.get("until"))
    until_us = None if until is None else start_of_day(until, visit.zone)
    if until_us is not None and until_us <= now_us:
        errors.add("until", form.get("until"), "must be in the future")
    reason = form.get("reason")
    if len(reason) > REASON_CHARS_MAX:
        errors.add("reason", reason, f"must have at most {REASON_CHARS_MAX} characters")
    query = {"id": user_id}
    if errors.found or limit is None or until_us is None:
        return Done("/user", query, errors=tuple(errors.found))
    override = Override("", user_id, limit.key, None, amount, until_us, reason or None, now_us)
    if await visit.ask(visit.store.add_override, override) is None:
        raise not_found("user")
    return Done("/user", query, f"Raised: {limit_in_words(limit)}.")


async def end_raise(visit: MemberVisit, form: Form) -> Done:
    """End a raised limit now."""
    user_id = user_id_of(form.values)
    if not await visit.ask(visit.store.delete_override, user_id, form.get("override")):
        raise not_found("override")
    return Done("/user", {"id": user_id}, "The raise has ended.")


async def pause_user(visit: MemberVisit, form: Form) -> Done:
    """Pause a user, or let them go on."""
    user_id = user_id_of(form.values)
    pauses = form.get("paused") == "yes"
    if await visit.ask(visit.store.change_user, user_id, UserChange({"paused": pauses})) is None:
        raise not_found("user")
    notice = (
        "Paused: calls of this user are refused, in every process within seconds."
        if pauses
        else "Calls of this user go on."
    )
    return Done("/user", {"id": user_id}, notice)


async def change_plan(visit: MemberVisit, form: Form) -> Done:
    """Assign another plan; the billing period stays."""
    user_id = user_id_of(form.values)
    user = await visit.ask(visit.store.user, user_id)
    if user is None:
        raise not_found("user")
    plan = form.get("plan")
    query = {"id": user_id, "tab": "manage"}
    if plan not in [each.name for each in await visit.ask(visit.store.plans)]:
        errors = ValidationErrors("plan")
        errors.add("plan", plan, "must be the name of a plan")
        return Done("/user", query, errors=tuple(errors.found))
    if await visit.ask(visit.store.subscribe, user_id, plan, user.subscription) is None:
        raise not_found("user")
    visit.snapshots.outdate(visit.tenant.product)
    return Done("/user", query, f"The user is on the plan {plan}.")


async def erase_user(visit: MemberVisit, form: Form) -> Done:
    """Erase a user; the id was typed to confirm it."""
    user_id = user_id_of(form.values)
    if form.values.get("confirm", "").strip() != user_id.strip():
        errors = ValidationErrors("erase")
        errors.add("confirm", form.get("confirm"), "must be the user's id")
        query = {"id": user_id, "tab": "manage"}
        return Done("/user", query, errors=tuple(errors.found))
    pseudonym = await visit.ask(visit.store.erase_user, user_id)
    if pseudonym is None:
        raise not_found("user")
    visit.snapshots.outdate(visit.tenant.product)
    return Done("/users", {}, f"Erased; the sums are those of {pseudonym} now.")


async def make_usage_link(visit: MemberVisit, form: Form) -> Response:
    """Make a link to the user's own page, and show it once."""
    user_id = user_id_of(form.values)
    token, until_us = await make_usage_token(visit.tenant, user_id, _LINK_S)
    link = f"{visit.base_url}/usage?{urlencode({'token': token})}"
    return await page(visit, "usage_link.html", user_id=user_id, link=link, until_us=until_us)
