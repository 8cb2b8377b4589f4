"""`open_store`: the one place where a database's URL becomes a store."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from paygent.core.validation import FieldError, InvalidValue
from paygent.store.directory import wall_clock_us
from paygent.store.ledger import SqlStore

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
_RULE = "must be sqlite:///PATH (sqlite:////PATH for an absolute path) or postgresql://…"

READERS = 8
"""Connections that a server reads with."""

WRITERS = 2
"""Connections that a server writes with, on PostgreSQL; SQLite has one writer."""

_SHOWN_PARAMETERS = ("host", "port", "dbname", "user", "sslmode")
_BUSY_WAIT_S = 2.0  # a server may share its file with the command line


def open_store(url: str, *, now_us: Callable[[], int] = wall_clock_us) -> SqlStore:
    """Make the store of a server, or of a command beside one, and open it.

    Args:
        url: `sqlite:///PATH`, relative to the working directory; `sqlite:////PATH`, absolute; or
            `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
        now_us: The ledger's clock.

    Raises:
        InvalidValue: for a URL of another kind; the message does not contain the password.
        StoreUnavailable: if the database cannot be opened.
    """
    store: SqlStore
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from paygent.store.sqlite import SqliteStore  # with sqlite3, 5 ms

        path = unquote(url[len(_SQLITE) :])
        store = SqliteStore(
            path, busy_wait_s=_BUSY_WAIT_S, durable=True, readers=READERS, now_us=now_us
        )
    elif url.startswith(_POSTGRES):
        from paygent.store.postgres import PostgresStore

        store = PostgresStore(url, connections_max=READERS + WRITERS, now_us=now_us)
    else:
        raise InvalidValue("database", (FieldError("database_url", without_password(url), _RULE),))
    try:
        store.open()
    except BaseException:
        store.close()
        raise
    return store


def is_shared(url: str) -> bool:
    """Return whether several servers may use a database at once."""
    return url.startswith(_POSTGRES)


def without_password(url: str) -> str:
    """Return a URL as it may be shown or logged, whatever characters its password has."""
    scheme, found, place = url.partition("://")
    if not found or url.startswith(_SQLITE):
        return url
    place, _, query = place.partition("?")
    user, has_user, host = place.rpartition("@")
    shown = [each for each in query.split("&") if each.partition("=")[0] in _SHOWN_PARAMETERS]
    name = user.partition(":")[0] + ":…@" if ":" in user else user + has_user
    return f"{scheme}://{name}{host}" + ("?" + "&".join(shown) if shown else "")
