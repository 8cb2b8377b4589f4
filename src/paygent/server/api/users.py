"""Users: create, list, change, pause, erase."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from paygent.server.api import schemas
from paygent.server.api.parameters import CursorQuery, LimitQuery, TextQuery, UserPath
from paygent.server.api.shapes import user_shape
from paygent.server.backend import ForTenant, Tenant
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.problems import Problem, invalid, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import UserChange

router = api_router()


@router.post("/users", status_code=201, openapi_extra=needs("sdk"), tags=["users"])
async def create_user(body: schemas.NewUser, tenant: Tenant = ForTenant) -> schemas.User:
    """Create a user; events of unknown users create them, too."""
    user = await tenant.ask(tenant.store.add_user, body.external_user_id, body.name)
    if user is None:
        raise Problem(409, "exists", "A user with this id exists.")
    return user_shape(user, tenant.now_us())


@router.get("/users", openapi_extra=needs("admin"), tags=["users"])
async def list_users(
    plan: TextQuery = None,
    search: Annotated[TextQuery, Query(description="The first characters of the id.")] = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
    tenant: Tenant = ForTenant,
) -> schemas.Users:
    """Return users by id."""
    after = read_cursor(cursor, str)[0] if cursor is not None else ""
    users = await tenant.ask(
        tenant.store.list_users, after=after, users_max=limit + 1, plan=plan, search=search or ""
    )
    page, now_us = users[:limit], tenant.now_us()
    return schemas.Users(
        users=[user_shape(user, now_us) for user in page],
        next_cursor=write_cursor(page[-1].user_id) if len(users) > limit else None,
    )


@router.get("/users/{user_id}", openapi_extra=needs("admin"), tags=["users"])
async def show_user(user_id: UserPath, tenant: Tenant = ForTenant) -> schemas.User:
    """Return a user."""
    user = await tenant.ask(tenant.store.user, user_id)
    if user is None:
        raise not_found("user")
    return user_shape(user, tenant.now_us())


@router.patch("/users/{user_id}", openapi_extra=needs("admin"), tags=["users"])
async def change_user(
    user_id: UserPath, body: schemas.ChangedUser, tenant: Tenant = ForTenant
) -> schemas.User:
    """Change a user's name, pause them, or let them pass unmetered (`sdk_enabled: false`)."""
    values = body.model_dump(exclude_unset=True)
    for flag in ("paused", "sdk_enabled"):
        if values.get(flag, True) is None:
            del values[flag]
    if "reason" in values:
        values["paused_reason"] = values.pop("reason")
    if values.get("paused") is False:
        values["paused_reason"] = None
    elif values.get("paused_reason") is not None and "paused" not in values:
        known = await tenant.ask(tenant.store.user, user_id)
        if known is not None and not known.paused:
            rule = "needs paused: true, since the user is not paused"
            raise invalid("reason", body.reason, rule)
    user = await tenant.ask(tenant.store.change_user, user_id, UserChange(values))
    if user is None:
        raise not_found("user")
    return user_shape(user, tenant.now_us())


@router.delete("/users/{user_id}", openapi_extra=needs("admin"), tags=["users"])
async def erase_user(user_id: UserPath, tenant: Tenant = ForTenant) -> schemas.ErasedUser:
    """Erase a user: a random pseudonym takes the id's place everywhere; sums stay."""
    pseudonym = await tenant.ask(tenant.store.erase_user, user_id)
    if pseudonym is None:
        raise not_found("user")
    return schemas.ErasedUser(pseudonym=pseudonym)
