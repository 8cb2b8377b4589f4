"""Which database a command uses, and what it says about one that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import invoke

from paygent.cli.database import (
    choose_product,
    opened_database,
    opened_source,
    read_database_url,
    shown_option,
)
from paygent.cli.options import CommandError, UsageError
from paygent.store.ledger import SqlStore
from paygent.store.sqlite import SqliteStore


def test_read_database_url__option_variable_default__in_this_order(tmp_path: Path) -> None:
    """The default is in the user's home."""
    environ = {"PAYGENT_DATABASE_URL": "postgresql://db/paygent"}
    assert read_database_url("sqlite:///a.db", environ) == "sqlite:///a.db"
    assert read_database_url(None, environ) == "postgresql://db/paygent"
    assert read_database_url(None, {}) == f"sqlite:///{tmp_path}/.paygent/server.db"


def test_shown_option__a_password__is_not_printed() -> None:
    """The next command reads it from the variable."""
    assert shown_option(read_database_url(None, {})) == ""
    assert shown_option("sqlite:////a.db") == " --database-url sqlite:////a.db"
    shown = shown_option("postgresql://u:secret@db/paygent")
    assert shown == ' --database-url "$PAYGENT_DATABASE_URL"'


def test_opened_database__of_a_missing_file__creates_it_only_for_those_who_may(
    tmp_path: Path,
) -> None:
    """A reading command does not leave an empty database behind; the folder is private."""
    url = f"sqlite:///{tmp_path}/new/a%20b.db"
    with pytest.raises(CommandError, match=r"no database at .*/new/a b\.db"):
        with opened_database(url):
            pass
    assert not (tmp_path / "new").exists()
    with opened_database(url, creates=True):
        pass
    assert (tmp_path / "new" / "a b.db").exists()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_opened_database__in_a_folder_that_cannot_be_made__is_an_error(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be reached"):
        with opened_database(f"sqlite:///{tmp_path}/file/a.db", creates=True):
            pass


@pytest.mark.parametrize("url", ["mysql://u:secret@db/x", "a.db", "sqlite://a.db", "postgres:x"])
def test_command__a_url_of_another_kind__is_a_usage_error(url: str) -> None:
    """The rule is shown, the password is not."""
    status, _, err = invoke("keys", "list", "--database-url", url)
    assert (status, "--database-url" in err, "secret" in err) == (2, True, False)


def test_command__an_unreachable_server__is_an_error_without_the_password() -> None:
    """Nothing listens on port 1."""
    url = "postgresql://u:secret@127.0.0.1:1/x"
    status, _, err = invoke("keys", "list", "--database-url", url)
    assert (status, "cannot be used" in err, "secret" in err) == (1, True, False)


def test_command__a_file_of_another_program__is_refused(tmp_path: Path) -> None:
    """It is not written to."""
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    status, _, err = invoke("audit", "--database-url", f"sqlite:///{path}")
    assert (status, "cannot be used" in err) == (1, True)
    assert path.read_text() == "no database " * 100


def test_choose_product__by_variable_or_alone(ledger: SqlStore) -> None:
    """An option wins over the variable; the only product needs neither."""
    assert choose_product(ledger, None, {}) == "acme"
    ledger.add_product("shop", product_id="shop")
    assert choose_product(ledger, None, {"PAYGENT_PRODUCT": "shop"}) == "shop"
    assert choose_product(ledger, "acme", {"PAYGENT_PRODUCT": "shop"}) == "acme"


def test_choose_product__of_many__lists_ten(ledger: SqlStore) -> None:
    """A list of all tenants helps no one."""
    for number in range(12):
        ledger.add_product(f"n {number}")
    with pytest.raises(UsageError, match=r"acme, p\w+ \(n 0\), .* and 3 more$"):
        choose_product(ledger, None, {})


def test_choose_product__of_none__says_how_to_make_one(database_url: str) -> None:
    """An empty database."""
    with opened_database(database_url, creates=True) as store:
        with pytest.raises(CommandError, match="paygent keys create"):
            choose_product(store, None, {})


def test_opened_source__both_kinds_named__is_a_usage_error() -> None:
    """One of them would be ignored."""
    with pytest.raises(UsageError, match="give one"):
        with opened_source("a.db", "sqlite:///b.db", None, {}):
            pass


def test_opened_source__without_options__takes_what_is_there(tmp_path: Path) -> None:
    """The application's file; the server's where only that exists."""
    server = f"sqlite:///{tmp_path}/.paygent/server.db"
    with opened_database(server, creates=True) as store:
        store.add_product("acme", product_id="acme")
    with opened_source(None, None, None, {}) as source:
        assert (source.product, source.shown) == ("acme", server)
    application = SqliteStore(f"{tmp_path}/.paygent/local.db")
    application.open()
    application.close()
    with opened_source(None, None, None, {}) as source:
        assert (source.product, source.shown) == ("default", f"{tmp_path}/.paygent/local.db")
    with opened_source(None, server, None, {}) as source:
        assert source.shown == server
    environ = {"PAYGENT_DB_PATH": f"{tmp_path}/.paygent/local.db"}
    with opened_source(None, None, None, environ) as source:
        assert source.product == "default"
