"""`paygent keys`: keys are created with their product, listed without their secret, revoked."""

from __future__ import annotations

import pytest
from tests.unit.cli.conftest import invoke, on_terminal

from paygent.cli import keys
from paygent.core.api_key import hash_of_key, product_of_key, setup_token
from paygent.server.auth import SETUP_HEADER
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore


def test_create__on_an_empty_database__makes_file_product_and_key(database_url: str) -> None:
    """One command is enough; in a pipe the key alone is printed, for a script."""
    status, out, _ = invoke("keys", "create", "--product", "shop", "--name", "ci")
    key = out.strip()
    assert (status, product_of_key(key)) == (0, "shop")
    store = open_store(database_url)
    stored = store.key_by_hash("shop", hash_of_key(key))
    store.close()
    assert stored is not None
    assert (stored.scope, stored.name, stored.revoked_us) == ("sdk", "ci", None)


def test_create__for_a_person__says_what_it_is_and_that_it_is_shown_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the key comes with its meaning."""
    on_terminal(monkeypatch, keys)
    _, out, _ = invoke("keys", "create", "--product", "shop", "--scope", "admin")
    key, remark = out.splitlines()
    assert product_of_key(key) == "shop"
    assert remark == "admin key of product 'shop'; it is not shown again"


def test_create__for_a_product_by_its_name__uses_its_id(ledger: SqlStore) -> None:
    """A product made over HTTP has a random id and a name."""
    made = ledger.add_product("Wonder Shop")
    status, out, _ = invoke("keys", "create", "--product", "Wonder Shop")
    assert (status, product_of_key(out.strip())) == (0, made.product_id)
    assert len(ledger.products()) == 2


def test_create__for_a_name_that_two_products_have__is_a_usage_error(ledger: SqlStore) -> None:
    """A key must not go to the wrong tenant."""
    ids = {ledger.add_product("twins").product_id for _ in range(2)}
    status, _, err = invoke("keys", "create", "--product", "twins")
    assert status == 2
    assert all(each in err for each in ids)
    assert not any(ledger.keys(each) for each in ids)


@pytest.mark.parametrize("name", ["a b", "größe", "x/y", "", "x" * 129])
def test_create__for_an_id_that_no_key_can_have__is_refused(database_url: str, name: str) -> None:
    """The id is a part of the key; nothing is created."""
    status, out, err = invoke("keys", "create", "--product", name)
    assert (status, out) == (1, "")
    assert "cannot have keys" in err
    store = open_store(database_url)
    assert store.products() == ()
    store.close()


def test_create__with_a_long_name__is_a_usage_error(ledger: SqlStore) -> None:
    """The rule is named with the option."""
    status, _, err = invoke("keys", "create", "--product", "acme", "--name", "x" * 256)
    assert (status, "--name" in err, ledger.keys("acme")) == (2, True, ())


def test_list__keys_of_all_products__shows_no_secret(ledger: SqlStore) -> None:
    """Enough to recognize a key, too little to use it."""
    _, key, _ = invoke("keys", "create", "--product", "acme", "--scope", "read", "--name", "bi")
    _, other, _ = invoke("keys", "create", "--product", "shop")
    status, out, _ = invoke("keys", "list")
    assert (status, len(out.splitlines())) == (0, 3)
    assert out.splitlines()[1].split()[1:4] == ["acme", "read", "bi"]
    assert key.strip() not in out
    assert other.strip() not in out
    assert ledger.keys("acme")[0].hint in out
    _, of_one, _ = invoke("keys", "list", "--product", "shop")
    assert [line.split()[1] for line in of_one.splitlines()[1:]] == ["shop"]


def test_list__without_keys__says_how_to_make_one(ledger: SqlStore) -> None:
    """The status is 1, since something is missing."""
    status, _, err = invoke("keys", "list")
    assert (status, "paygent keys create" in err) == (1, True)


def test_revoke__a_key__is_done_once(ledger: SqlStore) -> None:
    """A second time finds no valid key; the list shows when it was."""
    invoke("keys", "create", "--product", "acme")
    (key,) = ledger.keys("acme")
    status, out, _ = invoke("keys", "revoke", key.key_id)
    assert (status, out) == (0, f"{key.key_id} of product 'acme' is revoked\n")
    assert ledger.keys("acme")[0].revoked_us is not None
    status, _, err = invoke("keys", "revoke", key.key_id)
    assert (status, f"no valid key '{key.key_id}'" in err) == (1, True)


def test_revoke__a_key_of_another_product__is_refused(ledger: SqlStore) -> None:
    """`--product` narrows the search."""
    invoke("keys", "create", "--product", "acme")
    invoke("keys", "create", "--product", "shop")
    (key,) = ledger.keys("acme")
    status, _, _ = invoke("keys", "revoke", key.key_id, "--product", "shop")
    assert (status, ledger.keys("acme")[0].revoked_us) == (1, None)


def test_setup_token__of_a_server__is_the_one_that_permits_products(ledger: SqlStore) -> None:
    """In a pipe it is printed alone, each time the same."""
    expected = setup_token(ledger.server_secret("setup"))
    assert [invoke("keys", "setup-token") for _ in range(2)] == [(0, f"{expected}\n", "")] * 2


def test_setup_token__for_a_person__says_what_it_is_for(
    ledger: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the token comes with the header that it belongs in."""
    on_terminal(monkeypatch, keys)
    _, out, _ = invoke("keys", "setup-token")
    token, remark = out.splitlines()
    assert token == setup_token(ledger.server_secret("setup"))
    assert remark == f"set-up token: in the header {SETUP_HEADER} it creates products over HTTP"


def test_setup_token__without_a_database__creates_none(database_url: str) -> None:
    """The token of a misspelt path would open nothing."""
    status, out, err = invoke("keys", "setup-token")
    assert (status, out, "there is no database" in err) == (1, "", True)
