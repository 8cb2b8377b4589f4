"""API keys: list, create, rotate, revoke."""

from __future__ import annotations

from fastapi import Request

from paygent.server.api import schemas
from paygent.server.api.parameters import IdPath
from paygent.server.api.products import create_key
from paygent.server.api.shapes import time_of
from paygent.server.backend import ForTenant, Tenant
from paygent.server.problems import Problem, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import ApiKey

router = api_router()
_ADMIN = needs("admin")


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.key_id,
        "name": key.name,
        "scope": key.scope,
        "hint": key.hint,
        "created_at": time_of(key.created_us),
        "revoked_at": None if key.revoked_us is None else time_of(key.revoked_us),
    }


async def _find(tenant: Tenant, key_id: str) -> ApiKey:
    for key in await tenant.ask(tenant.store.keys):
        if key.key_id == key_id:
            return key
    raise not_found("key")


@router.get("/keys", openapi_extra=_ADMIN, tags=["keys"])
async def list_keys(tenant: Tenant = ForTenant) -> schemas.Keys:
    """Return the keys of the product, oldest first, without their secrets."""
    keys = await tenant.ask(tenant.store.keys)
    return schemas.Keys.model_validate({"keys": [_fields(key) for key in keys]})


@router.post("/keys", status_code=201, openapi_extra=_ADMIN, tags=["keys"])
async def add_key(body: schemas.NewKey, tenant: Tenant = ForTenant) -> schemas.CreatedKey:
    """Create a key; its text is in this answer alone."""
    store = tenant.store
    key, text = await tenant.backend.in_store(
        create_key, store, tenant.product, body.scope, body.name
    )
    return schemas.CreatedKey.model_validate({**_fields(key), "api_key": text})


@router.post("/keys/{key_id}/rotate", status_code=201, openapi_extra=_ADMIN, tags=["keys"])
async def rotate_key(
    key_id: IdPath, request: Request, tenant: Tenant = ForTenant
) -> schemas.CreatedKey:
    """Replace a key by a new one of the same scope and name, and revoke it.

    To have both valid for a while, create a key, deploy it, and revoke the old one.
    """
    old = await _find(tenant, key_id)
    if old.revoked_us is not None:
        raise Problem(409, "revoked", "The key is revoked.")
    store = tenant.store
    key, text = await tenant.backend.in_store(
        create_key, store, tenant.product, old.scope, old.name
    )
    await tenant.ask(store.revoke_key, key_id)
    request.app.state.keys.forget(tenant.product)
    return schemas.CreatedKey.model_validate({**_fields(key), "api_key": text})


@router.delete("/keys/{key_id}", openapi_extra=_ADMIN, tags=["keys"])
async def revoke_key(key_id: IdPath, request: Request, tenant: Tenant = ForTenant) -> schemas.Key:
    """Revoke a key: every server refuses it within a second."""
    await _find(tenant, key_id)
    await tenant.ask(tenant.store.revoke_key, key_id)
    request.app.state.keys.forget(tenant.product)
    return schemas.Key.model_validate(_fields(await _find(tenant, key_id)))
