"""A user's limits, and usage tokens: a user's own page shows their usage, and no other user's."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import Headers

from paygent.core.limit import Limit
from paygent.core.money import to_usd
from paygent.core.period import END_OF_TIME_US
from paygent.server.api import limit_schema
from paygent.server.api.parameters import UserPath
from paygent.server.api.shapes import period_of, session_usage, time_of
from paygent.server.api.user_state import LimitState, UserState, read_user_state
from paygent.server.auth import UsageToken, usage_token_of, write_usage_token
from paygent.server.backend import Backend, ForBackend, ForTenant, Tenant
from paygent.server.problems import not_found
from paygent.server.routes import api_router, needs

router = api_router()


@router.post(
    "/users/{user_id}/usage-token", status_code=201, openapi_extra=needs("sdk"), tags=["usage"]
)
async def create_usage_token(
    user_id: UserPath,
    body: limit_schema.NewUsageToken | None = None,
    tenant: Tenant = ForTenant,
) -> limit_schema.UsageToken:
    """Return a short-lived token that shows one user their own usage."""
    expires_in_s = (body or limit_schema.NewUsageToken()).expires_in_s
    token, until_us = await make_usage_token(tenant, user_id, expires_in_s)
    return limit_schema.UsageToken(token=token, expires_at=time_of(until_us))


async def make_usage_token(tenant: Tenant, user_id: str, expires_in_s: int) -> tuple[str, int]:
    """Return a usage token as text, and when it ends, in microseconds since 1970 UTC.

    Raises:
        Problem: 404, if the user is unknown.
    """
    user = await tenant.ask(tenant.store.user, user_id)
    if user is None:
        raise not_found("user")
    until_us = tenant.now_us() + expires_in_s * 10**6
    secret = await tenant.backend.server_secret("usage_token")
    token = UsageToken(tenant.product, user.user_id, user.paygent_user_id, until_us)
    return write_usage_token(secret, token), until_us


async def read_own_state(backend: Backend, headers: Headers) -> tuple[UsageToken, UserState]:
    """Return the usage token of a request, and the state of its user.

    Raises:
        Problem: 401, if there is no valid token; 404, if its user was erased.
    """
    token = await usage_token_of(backend, headers)
    now_us = backend.now_us()
    state = await backend.in_store(
        read_user_state, backend.store, token.product, token.user_id, now_us, with_limits=True
    )
    if state is None or state.user.paygent_user_id != token.paygent_user_id:
        raise not_found("user")  # also if the id is in use again
    return token, state


@router.get("/usage", openapi_extra=needs("usage_token"), tags=["usage"])
async def show_own_usage(request: Request, backend: Backend = ForBackend) -> limit_schema.OwnUsage:
    """Return the usage, limits and reset dates of the token's user."""
    _, state = await read_own_state(backend, request.headers)
    return limit_schema.OwnUsage(
        user_id=state.user.user_id,
        plan=state.plan_name,
        billing_period=period_of(state.period),
        paused=state.user.paused,
        current_usage=session_usage(state.by_model),
        limits=[_limit_shape(each) for each in state.limits],
    )


@router.get("/users/{user_id}/limits", openapi_extra=needs("sdk"), tags=["usage"])
async def show_limits(user_id: UserPath, tenant: Tenant = ForTenant) -> limit_schema.Limits:
    """Return the limits of a user's plan, with overrides: how much of each is used, when it starts
    again, and when it will be reached at the pace so far.
    """
    state = await tenant.backend.in_store(
        read_user_state,
        *(tenant.store, tenant.product, user_id, tenant.now_us()),
        with_limits=True,
    )
    if state is None:
        raise not_found("user")
    return limit_schema.Limits(
        user_id=state.user.user_id,
        plan=state.plan_name,
        billing_period=period_of(state.period),
        limits=[_limit_shape(each) for each in state.limits],
    )


def _limit_shape(state: LimitState) -> limit_schema.LimitUsage:
    limit, account, spent, is_reached, forecast_us = state
    resets = account is not None and account.end_us != END_OF_TIME_US
    return limit_schema.LimitUsage(
        metric=limit.metric,
        scope=limit.scope,
        model=limit.model,
        window=limit.window,
        cap=_figure(limit, limit.cap_exact or 0),
        used=None if account is None else _figure(limit, spent),
        resets_at=time_of(account.end_us) if account is not None and resets else None,
        reached=is_reached,
        reached_at=None if forecast_us is None else time_of(forecast_us),
    )


def _figure(limit: Limit, amount: int) -> float:
    return to_usd(amount) if limit.metric == "spend" else float(amount)
