"""The session: the state of a user that an application's process reads before it admits calls."""

from __future__ import annotations

from paygent.core.plan_json import shown_fields
from paygent.server.api import schemas
from paygent.server.api.parameters import UserPath
from paygent.server.api.shapes import period_of, session_usage
from paygent.server.api.user_state import read_user_state
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import not_found
from paygent.server.routes import api_router, needs

router = api_router()


@router.get("/users/{user_id}/session", openapi_extra=needs("sdk"), tags=["users"])
async def show_session(user_id: UserPath, tenant: Tenant = ForTenant) -> schemas.Session:
    """Return a user's plan with overrides, billing period, and usage in it."""
    state = await tenant.backend.in_store(
        read_user_state, tenant.store, tenant.product, user_id, tenant.now_us()
    )
    if state is None:
        raise not_found("user")
    user = state.user
    return schemas.Session(
        user_id=user.user_id,
        paygent_user_id=user.paygent_user_id,
        plan=state.plan_name,
        sdk_enabled=user.sdk_enabled,
        paused=user.paused,
        paused_reason=user.paused_reason,
        plan_config=shown_fields(state.plan),
        current_usage=session_usage(state.by_model),
        billing_period=period_of(state.period),
    )
