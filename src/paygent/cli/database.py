"""The database of a server, as commands find and open it.

`--database-url` names it, otherwise `PAYGENT_DATABASE_URL`, otherwise it is the SQLite file that a
server without settings uses. A file that does not exist is created only by the commands that a
server is set up with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote, unquote

from paygent.cli.options import MEMORY, CommandError, Place, UsageError, exists, opened, read_place
from paygent.client.runtime.settings import DEFAULT_DB_PATH
from paygent.core.validation import FieldError, InvalidValue
from paygent.store.directory_port import Product
from paygent.store.factory import open_store, without_password
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable

VARIABLE = "PAYGENT_DATABASE_URL"
DEFAULT_PATH = os.path.join("~", ".paygent", "server.db")

_SQLITE = "sqlite:///"
_NAMES_SHOWN_MAX = 10


def read_database_url(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the URL of the server's database: the option's, the variable's or the default."""
    return given or environ.get(VARIABLE) or _default_url()


def _default_url() -> str:
    return _SQLITE + quote(os.path.expanduser(DEFAULT_PATH))


def shown_option(url: str) -> str:
    """Return the option that a next command needs to find a database, with a blank before it; ""
    for the default one. A password is left out: the variable has it.
    """
    if url == _default_url():
        return ""
    return (
        f" --database-url {url}"
        if without_password(url) == url
        else f' --database-url "${VARIABLE}"'
    )


@contextmanager
def opened_database(url: str, *, creates: bool = False) -> Iterator[SqlStore]:
    """Open the database of a server.

    Args:
        url: As `open_store` takes it.
        creates: Whether a missing file is created, with its folder; PostgreSQL's tables always are.

    Raises:
        InvalidValue: for a URL of another kind.
        CommandError: if there is none, or it cannot be used.
    """
    _find_file(url, creates=creates)
    try:
        store = open_store(url)
    except InvalidValue as error:
        findings = (FieldError("--database-url", each.value, each.rule) for each in error.findings)
        raise InvalidValue(error.what, tuple(findings)) from None
    except StoreUnavailable as error:
        raise unavailable(url, error) from error
    try:
        yield store
    except StoreUnavailable as error:
        raise unavailable(url, error) from error
    finally:
        store.close()


def unavailable(url: str, error: StoreUnavailable) -> CommandError:
    """Return the error of a command for a database that cannot be used now."""
    return CommandError(f"{without_password(url)} cannot be used: {error}")


def _find_file(url: str, *, creates: bool) -> None:
    """Check that the file of a SQLite database exists, or create its folder."""
    path = unquote(url[len(_SQLITE) :]) if url.startswith(_SQLITE) else ""
    if not path or path == MEMORY:
        return
    try:
        if creates:
            # Private like the file: it holds user ids and hashes of keys.
            os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
        elif not exists(path):
            raise CommandError(
                f"there is no database at {path}: paygent serve creates it; --database-url or "
                f"{VARIABLE} names another one"
            )
    except OSError as error:
        raise CommandError(f"{path} cannot be reached ({error.strerror or error})") from error


# -- products


def find_product(store: SqlStore, name: str) -> Product | None:
    """Return the product with an id, otherwise the one with a name; None if there is none.

    Raises:
        UsageError: if several products have the name.
    """
    found = store.product(name)
    if found is not None:
        return found
    named = [each for each in store.products() if each.name == name]
    if len(named) > 1:
        ids = ", ".join(each.product_id for each in named)
        raise UsageError(f"several products are named {name!r}: use an id ({ids})")
    return named[0] if named else None


def choose_product(store: SqlStore, name: str | None, environ: Mapping[str, str]) -> str:
    """Return the id of the product that a command is about: the one that is named by the option
    or by `PAYGENT_PRODUCT`, otherwise the only one.

    Raises:
        CommandError: if there is none, or there are several.
    """
    wanted = name or environ.get("PAYGENT_PRODUCT")
    found = find_product(store, wanted) if wanted else None
    if found is not None:
        return found.product_id
    products = store.products()
    if not products:
        raise CommandError(
            "the database has no product yet: paygent keys create --product NAME creates one"
        )
    if wanted:
        raise CommandError(f"there is no product {wanted!r}; there are {_listed(products)}")
    if len(products) > 1:
        raise UsageError(f"name a product with --product; there are {_listed(products)}")
    return products[0].product_id


def _listed(products: tuple[Product, ...]) -> str:
    names = [
        each.product_id if each.name == each.product_id else f"{each.product_id} ({each.name})"
        for each in products[:_NAMES_SHOWN_MAX]
    ]
    more = f" and {len(products) - len(names):,} more" if len(products) > len(names) else ""
    return ", ".join(names) + more


# -- commands that read either a server's database or an application's file


class Source(NamedTuple):
    """What a command reads.

    Attributes:
        store: The opened store.
        product: The product in it.
        shown: Where it is, for messages; without a password.
    """

    store: SqlStore
    product: str
    shown: str


@contextmanager
def opened_source(
    db: str | None, database_url: str | None, product: str | None, environ: Mapping[str, str]
) -> Iterator[Source]:
    """Open what the options name: an application's file for reading, or a server's database.

    Without options it is the database of `PAYGENT_DATABASE_URL`, otherwise the application's file,
    and the server's default file where only that exists.

    Raises:
        InvalidValue: naming each option or variable that breaks a rule.
        CommandError: if there is none, or it cannot be read.
    """
    if db is not None and database_url is not None:
        raise UsageError("--db names an application's file and --database-url a server's: give one")
    if db is None and (database_url or environ.get(VARIABLE) or _has_only_server_file(environ)):
        url = read_database_url(database_url, environ)
        with opened_database(url) as server_store:
            chosen = choose_product(server_store, product, environ)
            yield Source(server_store, chosen, without_password(url))
        return
    place: Place = read_place(db, product, environ)
    with opened(place) as file_store:
        yield Source(file_store, place.product, place.db_path)


def _has_only_server_file(environ: Mapping[str, str]) -> bool:
    """Return whether neither a variable nor a file is an application's, and a server's exists."""
    if environ.get("PAYGENT_DB_PATH"):
        return False
    application, server = map(os.path.expanduser, (DEFAULT_DB_PATH, DEFAULT_PATH))
    return os.path.isfile(server) and not os.path.lexists(application)
