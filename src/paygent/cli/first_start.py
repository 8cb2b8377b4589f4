"""The first start of a server: a product and keys for a database that has none.

Whoever starts a server on an empty database needs a key to do anything, and there is no other way
to get one over HTTP. The keys are printed once, to the standard output and never to a log.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import NamedTuple

from paygent.cli.keys import add_key
from paygent.client.runtime.settings import DEFAULT_PRODUCT
from paygent.core.api_key import can_have_keys, setup_token
from paygent.store.ledger import SqlStore

_CLAIM = "paygent serve: first keys"
"""Idempotency key: of servers that start at once on an empty database, one creates the keys."""

_CLAIM_LAPSE_US = 120 * 10**6  # a server that died before it created them does not block the next


class FirstKeys(NamedTuple):
    """The first keys of a database.

    Attributes:
        product: Id of their product.
        admin, sdk: The keys.
        setup_token: Permits the creation of further products over HTTP.
    """

    product: str
    admin: str
    sdk: str
    setup_token: str


class NoKeys(NamedTuple):
    """Why a database without keys gets none, and what to do."""

    reason: str


def make_first_keys(store: SqlStore) -> FirstKeys | NoKeys | None:
    """Create the first product and its keys; None if the database has keys, or had some."""
    products = [product.product_id for product in store.products()]
    if any(store.keys(product) for product in products):
        return None
    # A file that an application used in local mode has its product.
    used = [product for product in products if _has_data(store, product)] or products
    if len(used) > 1:
        create = "paygent keys create --product NAME"
        names = ", ".join(map(repr, used))
        return NoKeys(f"no keys were created, since there are several products ({names}): {create}")
    product = used[0] if used else DEFAULT_PRODUCT
    if not can_have_keys(product):
        return NoKeys(
            f"no keys were created: the id of product {product!r} has characters other than "
            "letters, digits, '.', '_' and '-', so it cannot be a part of a key"
        )
    if not _claim(store, product):
        return None
    if not used:
        store.add_product(product, product_id=product)
    return FirstKeys(
        product,
        admin=add_key(store, product, "admin", "first start"),
        sdk=add_key(store, product, "sdk", "first start"),
        setup_token=setup_token(store.server_secret("setup")),
    )


def _has_data(store: SqlStore, product: str) -> bool:
    return bool(store.list_users(product, after="", users_max=1) or store.plans(product))


def _claim(store: SqlStore, product: str) -> bool:
    """Return whether this server creates the keys, and no other that starts at the same time."""
    ids = {"request_hash": "", "claim_id": secrets.token_hex()}
    return store.claim(product, _CLAIM, lapse_us=_CLAIM_LAPSE_US, **ids) is None


def instructions(keys: FirstKeys, base_url: str, database_option: str) -> Iterator[str]:
    """Yield the lines that are printed about new keys.

    Args:
        keys: The keys.
        base_url: Where applications reach the server.
        database_option: Option of further commands, with a blank before it, or "".
    """
    yield ""
    yield f"New keys of product {keys.product!r}. They are not shown again."
    yield f"  admin key     {keys.admin}"
    yield f"  set-up token  {keys.setup_token}"
    yield f"The admin key opens the dashboard at {base_url}/, and is for plans, users and keys over"
    yield "HTTP; the set-up token is for further products. Applications need the SDK key and the"
    yield "address:"
    yield f"  export PAYGENT_API_KEY={keys.sdk}"
    yield f"  export PAYGENT_BASE_URL={base_url}"
    yield "Then configure plans:"
    yield f"  paygent plans apply plans.toml{database_option}"
    yield ""
