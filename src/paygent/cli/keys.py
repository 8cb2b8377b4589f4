"""`paygent keys`: creates, lists and revokes the API keys of a server's products, and prints the
set-up token, which permits the creation of products over HTTP.

A key is shown when it is created and never again: the database has its SHA-256 alone. In a pipe
`create` prints nothing but the key, so that a script can take it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping

from paygent.cli.console import is_interactive
from paygent.cli.database import (
    choose_product,
    find_product,
    opened_database,
    read_database_url,
)
from paygent.cli.options import CommandError
from paygent.cli.output import Column, open_console, print_line, print_table
from paygent.core.api_key import (
    RANDOM_BYTES,
    can_have_keys,
    hash_of_key,
    hint_of_key,
    make_key,
    setup_token,
)
from paygent.core.validation import NAME_CHARS_MAX, FieldError, InvalidValue
from paygent.core.wording import day_and_time
from paygent.store.directory_port import Product, Scope
from paygent.store.ledger import SqlStore


def create(
    database_url: str | None,
    product_name: str,
    scope: Scope,
    name: str,
    environ: Mapping[str, str],
) -> int:
    """Create a key, and its product if there is none; print the key. Return the exit status."""
    url = read_database_url(database_url, environ)
    with opened_database(url, creates=True) as store:
        product = _product_of_name(store, product_name)
        key = add_key(store, product.product_id, scope, name)
    if is_interactive(sys.stdout, environ):
        console = open_console(environ)
        print_line(console, key)
        remark = f"{scope} key of product {product.product_id!r}; it is not shown again"
        print_line(console, remark)
    else:
        print(key)
    return 0


def _product_of_name(store: SqlStore, name: str) -> Product:
    found = find_product(store, name)
    product_id = name if found is None else found.product_id
    if not can_have_keys(product_id):
        raise CommandError(
            f"product {product_id!r} cannot have keys: its id is a part of them, and may only have "
            "letters (A-Z, a-z), digits, '.', '_' and '-', at most 128"
        )
    return found or store.add_product(name, product_id=name)


def add_key(store: SqlStore, product_id: str, scope: Scope, name: str) -> str:
    """Create a key of a product, and return its text.

    Raises:
        InvalidValue: if the name is too long.
    """
    if len(name) > NAME_CHARS_MAX:
        rule = f"must have at most {NAME_CHARS_MAX} characters"
        raise InvalidValue("keys", (FieldError("--name", name, rule),))
    key = make_key(product_id, secrets.token_bytes(RANDOM_BYTES))
    store.add_key(
        product_id, key_hash=hash_of_key(key), scope=scope, name=name, hint=hint_of_key(key)
    )
    return key


_COLUMNS = (
    Column("key id"),
    Column("product"),
    Column("scope"),
    Column("name"),
    Column("begins with"),
    Column("created, UTC"),
    Column("revoked, UTC"),
)


def list_keys(
    database_url: str | None, product_name: str | None, environ: Mapping[str, str]
) -> int:
    """Print the keys of all products or of one, without their secrets; return the exit status."""
    with opened_database(read_database_url(database_url, environ)) as store:
        keys = [key for product in _products(store, product_name) for key in store.keys(product)]
    if not keys:
        raise CommandError("there are no keys yet: paygent keys create --product NAME creates one")
    rows = (
        (
            key.key_id,
            key.product_id,
            key.scope,
            key.name or "-",
            key.hint,
            day_and_time(key.created_us),
            day_and_time(key.revoked_us or 0),
        )
        for key in keys
    )
    print_table(open_console(environ), _COLUMNS, rows)
    return 0


def revoke(
    database_url: str | None, product_name: str | None, key_id: str, environ: Mapping[str, str]
) -> int:
    """Revoke a key; servers refuse it within a second. Return the exit status."""
    with opened_database(read_database_url(database_url, environ)) as store:
        for product in _products(store, product_name):
            if store.revoke_key(product, key_id):
                text = f"{key_id} of product {product!r} is revoked"
                print_line(open_console(environ), text)
                return 0
    raise CommandError(f"there is no valid key {key_id!r}: paygent keys list shows the keys")


def show_setup_token(database_url: str | None, environ: Mapping[str, str]) -> int:
    """Print the set-up token of a server's database, which stays the same; return the exit status.

    In a pipe nothing else is printed.
    """
    with opened_database(read_database_url(database_url, environ)) as store:
        token = setup_token(store.server_secret("setup"))
    if is_interactive(sys.stdout, environ):
        console = open_console(environ)
        print_line(console, token)
        print_line(
            console, "set-up token: in the header X-Setup-Token it creates products over HTTP"
        )
    else:
        print(token)
    return 0


def _products(store: SqlStore, name: str | None) -> list[str]:
    """Return the ids of the product with a name, or of all products without one."""
    if name is not None:
        return [choose_product(store, name, {})]
    return [product.product_id for product in store.products()]
