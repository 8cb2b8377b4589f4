"""Overrides: limits of one user that are raised for a time."""

from __future__ import annotations

from decimal import Decimal

from paygent.core.limit import Limit, LimitKey
from paygent.core.money import to_usd
from paygent.core.validation import InvalidValue, ValidationErrors
from paygent.server.api import schemas
from paygent.server.api.parameters import IdPath, UserPath
from paygent.server.api.shapes import time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import Override

router = api_router()
_ADMIN = needs("admin")

_BY_REASON = {
    "total_spend": LimitKey("spend", "user", "", "period"),
    "session_spend": LimitKey("spend", "session", "", "session"),
}
_MODEL_LIMIT = "model_limit:"
_LIMIT_RULE = "must be total_spend, session_spend, model_limit:<model>, or an object of a limit"


@router.post(
    "/users/{user_id}/overrides", status_code=201, openapi_extra=_ADMIN, tags=["overrides"]
)
async def add_override(
    user_id: UserPath, body: schemas.NewOverride, tenant: Tenant = ForTenant
) -> schemas.Override:
    """Raise a limit of a user until a time: to a cap, or by an amount."""
    override = await tenant.ask(
        tenant.store.add_override, _read_override(user_id, body, tenant.now_us())
    )
    if override is None:
        raise not_found("user")
    return _shape(override)


@router.get("/users/{user_id}/overrides", openapi_extra=_ADMIN, tags=["overrides"])
async def list_overrides(user_id: UserPath, tenant: Tenant = ForTenant) -> schemas.Overrides:
    """Return the overrides of a user that apply now."""
    if await tenant.ask(tenant.store.user, user_id) is None:
        raise not_found("user")
    found = await tenant.ask(tenant.store.overrides, user_id, tenant.now_us())
    return schemas.Overrides(overrides=[_shape(override) for override in found])


@router.delete("/users/{user_id}/overrides/{override_id}", openapi_extra=_ADMIN, tags=["overrides"])
async def end_override(
    user_id: UserPath, override_id: IdPath, tenant: Tenant = ForTenant
) -> schemas.Overrides:
    """End an override now, and return those that are left."""
    if not await tenant.ask(tenant.store.delete_override, user_id, override_id):
        raise not_found("override")
    found = await tenant.ask(tenant.store.overrides, user_id, tenant.now_us())
    return schemas.Overrides(overrides=[_shape(override) for override in found])


def _read_override(user_id: str, body: schemas.NewOverride, now_us: int) -> Override:
    """Return the override of a request.

    Raises:
        InvalidValue: Names every field that breaks a rule.
    """
    errors = ValidationErrors("override")
    if (body.cap is None) == (body.add is None):
        errors.add("cap", body.cap, "must be given, or add, but not both")
    if body.until <= now_us:
        errors.add("until", time_of(body.until), "must be in the future")
    key = _read_limit(errors, body.limit)
    name = "cap" if body.add is None else "add"
    amount = None if key is None else read_amount(errors, key, name, body.cap or body.add)
    errors.raise_if_any()
    assert key is not None
    cap, added = (amount, None) if name == "cap" else (None, amount)
    return Override("", user_id, key, cap, added, body.until, body.reason, now_us)


def _read_limit(errors: ValidationErrors, given: schemas.LimitName | str) -> LimitKey | None:
    if isinstance(given, schemas.LimitName):
        return LimitKey(given.metric, given.scope, given.model or "", given.window)
    if given in _BY_REASON:
        return _BY_REASON[given]
    model = given[len(_MODEL_LIMIT) :] if given.startswith(_MODEL_LIMIT) else ""
    if not model:
        errors.add("limit", given, _LIMIT_RULE)
        return None
    return LimitKey("tokens", "user", model, "period")


def read_amount(
    errors: ValidationErrors, key: LimitKey, name: str, given: Decimal | None
) -> int | None:
    """Return an amount in the limit's unit; the rules are those of a plan's limits."""
    try:
        limit = Limit(key.metric, key.scope, key.model or None, key.window, given or 0)  # type: ignore[arg-type]
    except InvalidValue as error:
        for finding in error.findings:
            field = name if finding.field == "cap" else f"limit.{finding.field}"
            errors.add(field, finding.value, finding.rule)
        return None
    if limit.cap_exact is None:
        errors.add(name, given, "must be at most 9·10⁹ dollars")
    return limit.cap_exact


def _shape(override: Override) -> schemas.Override:
    key = override.limit
    return schemas.Override(
        id=override.override_id,
        limit=schemas.LimitIdentity(
            metric=key.metric, scope=key.scope, model=key.model or None, window=key.window
        ),
        cap=_amount(key, override.cap),
        add=_amount(key, override.added),
        until=time_of(override.until_us),
        reason=override.reason,
        created_at=time_of(override.created_us),
    )


def _amount(key: LimitKey, amount: int | None) -> float | None:
    if amount is None:
        return None
    return to_usd(amount) if key.metric == "spend" else float(amount)
