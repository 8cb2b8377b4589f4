"""The first keys of a database: for which product, once, and by one server."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import DAY_US, NOON_US, batch_of, make_event

from paygent.cli.first_start import FirstKeys, NoKeys, instructions, make_first_keys
from paygent.core.api_key import hash_of_key, product_of_key
from paygent.store.directory_port import Remembered
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty database."""
    store = open_store(f"sqlite:///{tmp_path / 'server.db'}")
    yield store
    store.close()


def made_by(store: SqlStore) -> FirstKeys:
    """Return the first keys, which must be made."""
    made = make_first_keys(store)
    assert isinstance(made, FirstKeys)
    return made


def test_make_first_keys__an_empty_database__gets_a_product_and_two_keys(store: SqlStore) -> None:
    """One for operators and one for applications."""
    made = made_by(store)
    assert [product.product_id for product in store.products()] == ["default"]
    assert made.product == product_of_key(made.admin) == product_of_key(made.sdk) == "default"
    scopes = {key: store.key_by_hash("default", hash_of_key(key)) for key in (made.admin, made.sdk)}
    assert [key.scope for key in scopes.values() if key is not None] == ["admin", "sdk"]
    assert len(made.setup_token) >= 32
    assert not hmac.compare_digest(made.setup_token, store.server_secret("setup"))


def test_make_first_keys__a_later_start__makes_none(tmp_path: Path) -> None:
    """Not even after all keys were revoked: that was somebody's intention."""
    now_us = NOON_US
    store = open_store(f"sqlite:///{tmp_path / 'server.db'}", now_us=lambda: now_us)
    made_by(store)
    now_us += 3 * DAY_US
    assert make_first_keys(store) is None
    for key in store.keys("default"):
        store.revoke_key("default", key.key_id)
    assert make_first_keys(store) is None
    assert len(store.keys("default")) == 2
    store.close()


def test_make_first_keys__a_file_of_an_application__uses_its_product(store: SqlStore) -> None:
    """What was recorded in local mode is then answered over HTTP."""
    store.ingest("chat", batch_of(make_event("a")))
    assert made_by(store).product == "chat"
    assert [product.product_id for product in store.products()] == ["chat"]


def test_make_first_keys__of_several_products__those_with_data_count(store: SqlStore) -> None:
    """An empty one beside it is no reason to ask."""
    store.add_product("default", product_id="default")
    store.ingest("chat", batch_of(make_event("a")))
    assert made_by(store).product == "chat"


def test_make_first_keys__several_products_with_data__makes_none(store: SqlStore) -> None:
    """The operator chooses."""
    for product in ("chat", "search"):
        store.ingest(product, batch_of(make_event("a")))
    found = make_first_keys(store)
    assert isinstance(found, NoKeys)
    assert "'chat', 'search'" in found.reason
    assert "paygent keys create --product NAME" in found.reason
    assert not store.keys("chat")


def test_make_first_keys__an_id_that_no_key_can_have__makes_none(store: SqlStore) -> None:
    """Local mode accepts letters of any language."""
    store.ingest("größe", batch_of(make_event("a")))
    found = make_first_keys(store)
    assert isinstance(found, NoKeys)
    assert "größe" in found.reason


def test_make_first_keys__another_server_is_making_them__makes_none(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that start at once find no keys, and one of them creates some."""
    other = open_store(f"sqlite:///{tmp_path / 'server.db'}")
    claim = store.claim

    def claim_second(*arguments: Any, **options: Any) -> Remembered | None:
        made_by(other)
        return claim(*arguments, **options)

    monkeypatch.setattr(store, "claim", claim_second)
    assert make_first_keys(store) is None
    assert len(store.keys("default")) == 2
    other.close()


def test_make_first_keys__after_a_start_that_failed__makes_them_two_minutes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that died before it created the keys blocks the others for two minutes."""
    now_us = NOON_US
    store = open_store(f"sqlite:///{tmp_path / 'server.db'}", now_us=lambda: now_us)
    with monkeypatch.context() as patched:

        def fail(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("locked")

        patched.setattr(store, "add_product", fail)
        with pytest.raises(StoreUnavailable):
            make_first_keys(store)
    now_us += 120 * 10**6 - 1
    assert make_first_keys(store) is None
    now_us += 1
    assert made_by(store).product == "default"
    store.close()


def test_instructions__say_what_to_do_next() -> None:
    """Each value once where it can be copied, and the commands with their option."""
    keys = FirstKeys("shop", "ADMIN", "SDK", "TOKEN")
    lines = list(instructions(keys, "http://127.0.0.1:1", " --database-url sqlite:///a.db"))
    for line in (
        "  admin key     ADMIN",
        "  set-up token  TOKEN",
        "  export PAYGENT_API_KEY=SDK",
        "  export PAYGENT_BASE_URL=http://127.0.0.1:1",
        "  paygent plans apply plans.toml --database-url sqlite:///a.db",
    ):
        assert line in lines
    text = "\n".join(lines)
    assert [text.count(secret) for secret in ("ADMIN", "=SDK", "TOKEN")] == [1, 1, 1]
