"""Subscriptions: which plan a user has, and their billing period."""

from __future__ import annotations

from paygent.core.period import Subscription, billing_period
from paygent.core.plan_json import plan_from_json
from paygent.core.validation import ValidationErrors
from paygent.server.api import schemas
from paygent.server.api.parameters import UserPath
from paygent.server.api.shapes import period_of, time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import StoredPlan

router = api_router()


@router.post(
    "/users/{user_id}/subscription",
    status_code=201,
    openapi_extra=needs("admin"),
    tags=["users"],
)
async def subscribe(
    user_id: UserPath, body: schemas.NewSubscription, tenant: Tenant = ForTenant
) -> schemas.Subscription:
    """Assign a plan to a user. Without a period it is the UTC calendar month."""
    store = tenant.store
    plans = await tenant.ask(store.plans)
    plan = next((each for each in plans if each.plan_id == body.plan_id), None)
    if plan is None:
        raise not_found("plan")
    subscription = _read_subscription(body, plan)
    user = await tenant.ask(store.subscribe, user_id, plan.name, subscription)
    if user is None:
        raise not_found("user")
    now_us = tenant.now_us()
    period = billing_period(subscription, now_us)
    if period is None:  # it has ended, so the given one is shown
        assert subscription is not None
        start_us, end_us = subscription.start_us, subscription.end_us
        shown = schemas.Period(start=time_of(start_us), end=time_of(end_us))
    else:
        shown = period_of(period)
    return schemas.Subscription(
        user_id=user.user_id,
        paygent_user_id=user.paygent_user_id,
        plan_id=plan.plan_id,
        plan=plan.name,
        billing_period=shown,
        renews=subscription.renews if subscription else "month",
    )


def _read_subscription(body: schemas.NewSubscription, plan: StoredPlan) -> Subscription | None:
    """Return the billing period of a request; None is the calendar month.

    Raises:
        InvalidValue: The period is needed, or is none.
    """
    errors = ValidationErrors("subscription")
    start_us, end_us = body.period_start, body.period_end
    if start_us is None and end_us is None:
        if plan_from_json(plan.document).max_spend_per_period_nano is not None:
            for name in ("period_start", "period_end"):
                errors.add(name, None, "is required: the plan has a max_spend_per_period")
        elif body.renews not in ("auto", "month"):
            errors.add("renews", body.renews, "needs period_start and period_end")
        errors.raise_if_any()
        return None
    if start_us is None or end_us is None:
        name = "period_start" if start_us is None else "period_end"
        errors.add(name, None, "is required with the other end of the period")
    elif end_us <= start_us:
        errors.add("period_end", time_of(end_us), "must be after period_start")
    errors.raise_if_any()
    assert start_us is not None
    assert end_us is not None
    return Subscription(start_us, end_us, body.renews)
