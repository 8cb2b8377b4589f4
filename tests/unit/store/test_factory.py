"""A database's URL: which store it makes, and how it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from paygent.core.validation import InvalidValue
from paygent.store.factory import is_shared, open_store, without_password
from paygent.store.port import StoreUnavailable
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore


def test_open_store__a_path__is_a_durable_file(tmp_path: Path) -> None:
    """Escaped characters of a URL are those of the path."""
    store = open_store(f"sqlite:///{tmp_path}/a%20b.db")
    assert isinstance(store, SqliteStore)
    with store.engine.transaction("acme", writes=True) as sql:
        (synchronous,) = sql.connection.execute("PRAGMA synchronous").fetchone()
    assert synchronous == 2  # FULL
    store.close()
    assert (tmp_path / "a b.db").is_file()


def test_open_store__a_server__is_postgresql(postgres_url: str) -> None:
    """Reading and writing connections are counted together."""
    store = open_store(postgres_url)
    assert isinstance(store, PostgresStore)
    assert not store.has_products()
    store.close()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "sqlite:///", "/var/lib/a.db", ""])
def test_open_store__another_url__is_refused_with_the_rule(url: str) -> None:
    """The message names what is accepted."""
    with pytest.raises(InvalidValue, match=r"sqlite:///PATH.*postgresql://"):
        open_store(url)


def test_open_store__a_url_that_the_driver_cannot_read__is_unavailable_without_its_password() -> (
    None
):
    """The driver's own message would show it."""
    with pytest.raises(StoreUnavailable) as caught:
        open_store("postgresql://ann:secret word%zz@127.0.0.1:9/d?nonsense=1")
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/paygent.db", "sqlite:////var/lib/paygent.db"),
        ("postgresql://ann:secret@db:5432/paygent", "postgresql://ann:…@db:5432/paygent"),
        ("postgresql://ann:se/c@r:et@db/paygent", "postgresql://ann:…@db/paygent"),
        ("postgresql://ann@db/paygent", "postgresql://ann@db/paygent"),
        ("postgresql://db/paygent", "postgresql://db/paygent"),
        (
            "postgresql:///paygent?host=/run&password=secret&sslmode=require",
            "postgresql:///paygent?host=/run&sslmode=require",
        ),
        ("mysql://ann:secret@db/paygent", "mysql://ann:…@db/paygent"),
        ("nonsense", "nonsense"),
    ],
)
def test_without_password__any_url__shows_no_password(url: str, shown: str) -> None:
    """What is logged and printed says where the database is, and no secret."""
    assert without_password(url) == shown


def test_is_shared__by_engine__tells_servers_from_files() -> None:
    """One server at a time writes to a file."""
    assert is_shared("postgresql://db/paygent")
    assert not is_shared("sqlite:///paygent.db")
