"""Products: the tenants of a backend."""

from __future__ import annotations

import secrets

from fastapi import Request

from paygent.core.api_key import RANDOM_BYTES, hash_of_key, hint_of_key, make_key
from paygent.server.api import schemas
from paygent.server.api.shapes import time_of
from paygent.server.auth import SETUP_HEADER, may_create_products
from paygent.server.backend import Backend, ForBackend, ForTenant, Tenant
from paygent.server.problems import Problem, not_found
from paygent.server.routes import api_router, needs
from paygent.store.directory_port import ApiKey, Product, Scope
from paygent.store.ledger import SqlStore

router = api_router()


def product_shape(product: Product) -> schemas.Product:
    """Return a product as an answer."""
    return schemas.Product.model_validate(_fields(product))


def _fields(product: Product) -> dict[str, str | None]:
    return {
        "id": product.product_id,
        "name": product.name,
        "slug": product.slug,
        "contact_name": product.contact_name,
        "contact_email": product.contact_email,
        "timezone": product.timezone,
        "created_at": time_of(product.created_us),
    }


def create_key(store: SqlStore, product: str, scope: Scope, name: str) -> tuple[ApiKey, str]:
    """Make a key, store its hash, and return it with its text."""
    text = make_key(product, secrets.token_bytes(RANDOM_BYTES))
    key = store.add_key(
        product, key_hash=hash_of_key(text), scope=scope, name=name, hint=hint_of_key(text)
    )
    return key, text


@router.post("/products", status_code=201, openapi_extra=needs("setup"), tags=["products"])
async def create_product(
    body: schemas.NewProduct, request: Request, backend: Backend = ForBackend
) -> schemas.CreatedProduct:
    """Create a product and its first admin key.

    Open from the server's own machine while there is no product; afterwards only with the set-up
    token in the header `X-Setup-Token`.
    """
    client = request.scope.get("client")
    async with backend.creating_product:
        if not await may_create_products(backend, request.headers, client):
            text = f"Only the bearer of the set-up token ({SETUP_HEADER}) may create products."
            raise Problem(403, "setup-only", text)
        store = backend.store

        def create() -> tuple[Product, str]:
            product = store.add_product(
                body.name, contact_name=body.contact_name, contact_email=body.contact_email
            )
            return product, create_key(store, product.product_id, "admin", "first key")[1]

        product, text = await backend.in_store(create)
    return schemas.CreatedProduct.model_validate({**_fields(product), "api_key": text})


@router.get("/products", openapi_extra=needs("sdk"), tags=["products"])
async def list_products(tenant: Tenant = ForTenant) -> schemas.Products:
    """Return the product of the key."""
    product = await tenant.ask(tenant.store.product)
    if product is None:
        raise not_found("product")
    return schemas.Products(products=[product_shape(product)])
