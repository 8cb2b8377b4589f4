"""Plans: what each earns and costs, an editor that checks while one types, and a replay.

The replay answers what an edit would have changed in the last 90 days, before it is saved. A saved
edit is a new version; versions stay, with what changed between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from paygent.core.margin import MarginFigures
from paygent.core.messages import DEFAULT_PLAN, MISSING_USER_ID
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.core.replay import ReplayReport
from paygent.core.validation import NAME_CHARS_MAX, FieldError, InvalidValue
from paygent.core.wording import limits_in_words
from paygent.prices.plan_check import plan_warnings
from paygent.server.dashboard.plan_form import (
    OFFLINE,
    OTHERS,
    UNKNOWN_MODEL,
    PlanForm,
    changed_fields,
    form_of_plan,
    form_of_sent,
    read_plan,
)
from paygent.server.dashboard.prices import catalogue
from paygent.server.dashboard.render import page
from paygent.server.dashboard.site import Done
from paygent.server.dashboard.snapshots import Margins
from paygent.server.dashboard.state import PageState
from paygent.server.dashboard.user import span_of
from paygent.server.dashboard.visit import Form, MemberVisit
from paygent.server.problems import invalid, not_found
from paygent.store.dashboard_port import PlanVersion
from paygent.store.directory_port import StoredPlan
from paygent.store.port import PlanUsers

REPLAY_DAYS = 90
REPLAY_ROWS = 50


class PlanRow(NamedTuple):
    """A plan of the list.

    Attributes:
        name: Of the plan; "" is usage without one.
        plan: Its newest version; None for one that is not configured any more.
        config: The same, read.
        users: Assigned and active users.
        margin: In the range.
    """

    name: str
    plan: StoredPlan | None
    config: PlanConfig | None
    users: PlanUsers
    margin: MarginFigures


async def show_plans(visit: MemberVisit) -> Response:
    """Show all plans with users, revenue, cost and margin."""
    plans = await visit.ask(visit.store.plans)
    margins = await _margins(visit)
    start_us, end_us = span_of(visit)
    users = await visit.snapshots.plan_users(visit.tenant, start_us, end_us, MISSING_USER_ID)
    default = visit.product.default_plan or DEFAULT_PLAN
    by_name = {plan.name: plan for plan in plans}
    wanted = visit.state.where.get("plan")
    names = sorted({*by_name, *margins.groups.by_key} if wanted is None else {wanted})
    rows = [
        _row(name, by_name.get(name), users, default, margins.groups.figures(name))
        for name in names
    ]
    return await page(
        visit,
        "plans.html",
        views=await visit.ask(visit.store.saved_views),
        rows=rows,
        total=margins.groups.totals() if wanted is None else margins.groups.figures(wanted),
        as_of_us=margins.as_of_us,
        default_plan=default,
        limits_in_words=limits_in_words,
    )


async def _margins(visit: MemberVisit) -> Margins:
    """Return the margins of all plans, also where a page is about one: both read all users."""
    every = visit.at(replace(visit.state, where={}))
    return await visit.snapshots.margins(visit.tenant, every.margin_request("plan", None))


def _row(
    name: str,
    plan: StoredPlan | None,
    users: Mapping[str, PlanUsers],
    default: str,
    margin: MarginFigures,
) -> PlanRow:
    own = users.get(name, PlanUsers())
    if name == default:  # also those without an assigned plan
        own = PlanUsers(own.assigned + users.get("", PlanUsers()).assigned, own.active)
    config = None if plan is None else plan_from_json(plan.document)
    return PlanRow(name, plan, config, own, margin)


async def show_plan(visit: MemberVisit) -> Response:
    """Show a plan: its editor and its versions; without a name, the editor of a new one."""
    name = visit.text("name")
    if len(name) > NAME_CHARS_MAX or "\0" in name:
        raise invalid("name", name, f"must have at most {NAME_CHARS_MAX} characters")
    # Usage may have been booked under a plan that was deleted, or that the backend never had.
    plan = await _find(visit, name) if name else None
    config = PlanConfig() if plan is None else plan_from_json(plan.document)
    return await _editor(visit, form_of_plan(name, config, is_new=plan is None))


async def _editor(
    visit: MemberVisit,
    form: PlanForm,
    *,
    errors: tuple[FieldError, ...] = (),
    replayed: ReplayReport | None = None,
    replay_of: PageState | None = None,
) -> Response:
    name = form.name
    plan = None if form.is_new else await _find(visit, name)
    history: tuple[PlanVersion, ...] = ()
    margin = as_of_us = None
    if name:
        history = await visit.ask(visit.store.plan_history, name)
        margins = await _margins(visit)
        margin, as_of_us = margins.groups.figures(name), margins.as_of_us
    answer = await page(
        replace(visit, errors=errors),
        "plan.html",
        status=422 if errors else 200,
        form=form,
        plan=plan,
        others=OTHERS,
        offline=OFFLINE,
        unknown_model=UNKNOWN_MODEL,
        checked=None if errors else await _checked(visit, form),
        margin=margin,
        as_of_us=as_of_us,
        versions=_versions(history),
        replayed=replayed,
        replay_of=replay_of,
        replay_days=REPLAY_DAYS,
    )
    answer.headers["HX-Push-Url"] = visit.state.link("/plan", name=name or None)
    return answer


class Version(NamedTuple):
    """A version of a plan with what it changed.

    Attributes:
        changes: (field, before, after).
    """

    version: PlanVersion
    changes: list[tuple[str, str, str]]


def _versions(history: tuple[PlanVersion, ...]) -> list[Version]:
    before = [*[each.document for each in history[1:]], None]
    return [
        Version(each, changed_fields(earlier, each.document))
        for each, earlier in zip(history, before, strict=False)
    ]


# -- actions


class Checked(NamedTuple):
    """What the editor says about the texts in it.

    Attributes:
        errors: Broken rules.
        warnings: What is allowed and probably not meant.
        limits: The limits in words; "" with errors.
    """

    errors: tuple[FieldError, ...]
    warnings: tuple[str, ...]
    limits: str


async def _checked(visit: MemberVisit, form: PlanForm) -> Checked:
    # On a thread: a name that is in no price list is compared with all that are.
    return await run_in_threadpool(_check, form, visit.tenant.now_us())


def _check(form: PlanForm, now_us: int) -> Checked:
    try:
        plan = read_plan(form)
    except InvalidValue as error:
        return Checked(error.findings, (), "")
    warnings = tuple(plan_warnings(plan, catalogue(), now_us))
    return Checked((), warnings, limits_in_words(plan))


async def check_plan(visit: MemberVisit, form: Form) -> Response:
    """Check a plan while it is edited."""
    sent = form_of_sent(form, is_new=True, enforce=True)
    return await page(visit, "plan_checked.html", checked=await _checked(visit, sent))


async def save_plan(visit: MemberVisit, form: Form) -> Done | Response:
    """Save an edit as a new version of a plan."""
    plan = await _find(visit, form.get("name"))
    sent = await _sent(form, plan)
    try:
        config = read_plan(sent)
        if plan is not None and form.get("new"):
            rule = "is the name of a plan that exists"
            raise InvalidValue("plan", (FieldError("name", sent.name, rule),))
    except InvalidValue as error:
        return await _editor(visit, sent, errors=error.findings)
    (saved,) = await visit.ask(visit.store.put_plans, {sent.name: plan_to_json(config)})
    visit.snapshots.outdate(visit.tenant.product)
    unchanged = plan is not None and saved.version == plan.version
    notice = "Nothing was changed." if unchanged else f"Saved as version {saved.version}."
    return Done("/plan", {"name": sent.name}, notice)


async def replay_plan(visit: MemberVisit, form: Form) -> Response:
    """Replay the last 90 days against an edit that is not saved."""
    plan = await _find(visit, form.get("name"))
    sent = await _sent(form, plan)
    try:
        config = read_plan(sent)
    except InvalidValue as error:
        return await _editor(visit, sent, errors=error.findings)
    end = visit.state.today + timedelta(days=1)
    span = replace(
        visit.state, range_name="custom", start=end - timedelta(days=REPLAY_DAYS), end=end
    )
    replayed = await visit.ask(
        visit.store.replay, sent.name, config, span.start, span.end, REPLAY_ROWS
    )
    return await _editor(visit, sent, replayed=replayed, replay_of=span)


async def _sent(form: Form, plan: StoredPlan | None) -> PlanForm:
    enforce = True if plan is None else plan_from_json(plan.document).enforce
    return form_of_sent(form, is_new=plan is None or bool(form.get("new")), enforce=enforce)


async def switch_shadow(visit: MemberVisit, form: Form) -> Done:
    """Switch shadow mode of a plan on or off."""
    plan = await _find(visit, form.get("name"))
    if plan is None:
        raise not_found("plan")
    enforce = form.get("enforce") == "yes"
    config = plan_from_json(plan.document).model_copy(update={"enforce": enforce})
    await visit.ask(visit.store.put_plans, {plan.name: plan_to_json(config)})
    notice = (
        "Limits are enforced."
        if enforce
        else "Shadow mode: calls run, and reports show what would have been refused."
    )
    return Done("/plan", {"name": plan.name}, notice)


async def delete_plan(visit: MemberVisit, form: Form) -> Done:
    """Delete a plan that no user has."""
    plan = await _find(visit, form.get("name"))
    if plan is None:
        raise not_found("plan")
    users = await visit.ask(visit.store.delete_plan, plan.plan_id)
    if users:
        rule = f"is the plan of {users:,} users, who need another one first"
        return Done("/plan", {"name": plan.name}, errors=(FieldError("name", plan.name, rule),))
    visit.snapshots.outdate(visit.tenant.product)
    return Done("/plans", {}, f"Deleted: {plan.name}.")


async def _find(visit: MemberVisit, name: str) -> StoredPlan | None:
    found: tuple[StoredPlan, ...] = await visit.ask(visit.store.plans)
    return next((plan for plan in found if plan.name == name), None)
