"""Plans: create, change, list, delete. `PlanConfig` alone validates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Body

from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_arguments, plan_from_json, plan_to_json, shown_fields
from paygent.core.validation import InvalidValue, ValidationErrors
from paygent.server.api import schemas
from paygent.server.api.parameters import IdPath
from paygent.server.api.plan_schema import CHANGE_SCHEMA, PLANS_SCHEMA
from paygent.server.api.shapes import time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import Problem, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import StoredPlan

router = api_router()


def plan_shape(plan: StoredPlan) -> schemas.Plan:
    """Return a plan as an answer."""
    config = shown_fields(plan_from_json(plan.document))
    place = {"id": plan.plan_id, "name": plan.name, "version": plan.version}
    return schemas.Plan.model_validate({**config, **place, "created_at": time_of(plan.created_us)})


@router.post(
    "/config/plans", openapi_extra=needs("admin", requestBody=PLANS_SCHEMA), tags=["plans"]
)
async def put_plans(body: schemas.NewPlans, tenant: Tenant = ForTenant) -> schemas.Plans:
    """Create plans, or add a version to those that exist with other fields."""
    documents = _read_plans(body)
    plans = await tenant.ask(tenant.store.put_plans, documents)
    return schemas.Plans(plans=[plan_shape(plan) for plan in plans])


@router.get("/config/plans", openapi_extra=needs("admin"), tags=["plans"])
async def list_plans(tenant: Tenant = ForTenant) -> schemas.Plans:
    """Return the newest version of every plan, by name."""
    plans = await tenant.ask(tenant.store.plans)
    return schemas.Plans(plans=[plan_shape(plan) for plan in plans])


@router.patch(
    "/config/plans/{plan_id}",
    openapi_extra=needs("admin", requestBody=CHANGE_SCHEMA),
    tags=["plans"],
)
async def change_plan(
    plan_id: IdPath, body: Annotated[dict[str, Any], Body()], tenant: Tenant = ForTenant
) -> schemas.Plan:
    """Add a version to a plan, with some fields changed."""
    plan = await _find(tenant, plan_id)
    errors = ValidationErrors("plan")
    if body.get("name", plan.name) != plan.name:
        errors.add("name", body["name"], "cannot be changed")
    given = {name: value for name, value in body.items() if name != "name"}
    arguments, refused = plan_arguments(given)
    for name, rule in refused.items():
        errors.add(name, body[name], rule)
    errors.raise_if_any()
    config = plan_from_json(plan.document).model_copy(update=arguments)
    (changed,) = await tenant.ask(tenant.store.put_plans, {plan.name: plan_to_json(config)})
    return plan_shape(changed)


@router.delete("/config/plans/{plan_id}", openapi_extra=needs("admin"), tags=["plans"])
async def delete_plan(plan_id: IdPath, tenant: Tenant = ForTenant) -> schemas.DeletedPlan:
    """Delete a plan that no user has."""
    users = await tenant.ask(tenant.store.delete_plan, plan_id)
    if users is None:
        raise not_found("plan")
    if users:
        raise Problem(409, "in-use", f"{users} users have this plan.")
    return schemas.DeletedPlan(id=plan_id, deleted=True)


async def _find(tenant: Tenant, plan_id: str) -> StoredPlan:
    for plan in await tenant.ask(tenant.store.plans):
        if plan.plan_id == plan_id:
            return plan
    raise not_found("plan")


def _read_plans(body: schemas.NewPlans) -> dict[str, dict[str, Any]]:
    """Return the documents of plans by name.

    Raises:
        InvalidValue: Names every field of every plan that breaks a rule.
    """
    gates = {"soft_gate_at": body.soft_gate_at, "hard_gate_at": body.hard_gate_at}
    common = {name: value for name, value in gates.items() if value is not None}
    errors = ValidationErrors("plans")
    documents: dict[str, dict[str, Any]] = {}
    for number, plan in enumerate(body.plans):
        path = f"plans[{number}]"
        if plan.name in documents:
            errors.add(f"{path}.name", plan.name, "is given twice")
        config = _read_plan(errors, path, {**common, **(plan.model_extra or {})})
        documents[plan.name] = {} if config is None else plan_to_json(config)
    errors.raise_if_any()
    return documents


def _read_plan(errors: ValidationErrors, path: str, given: Mapping[str, Any]) -> PlanConfig | None:
    arguments, refused = plan_arguments(given)
    for name, rule in refused.items():
        errors.add(f"{path}.{name}", given[name], rule)
    try:
        return PlanConfig(**arguments)
    except InvalidValue as error:
        for finding in error.findings:
            errors.add(f"{path}.{finding.field}", finding.value, finding.rule)
        return None
