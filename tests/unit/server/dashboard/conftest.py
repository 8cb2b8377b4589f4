"""A store in memory with one product, and visits of its pages without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from tests.contract.samples import NOON_US

from paygent.server.backend import Backend, Tenant
from paygent.server.dashboard.snapshots import Snapshots
from paygent.server.dashboard.state import read_state
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.settings import ServerSettings
from paygent.store.sqlite import SqliteStore

PRODUCT = "acme"

MakeVisit = Callable[..., MemberVisit]


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """A store with the product, an hour after the noon of the samples."""
    store = SqliteStore(":memory:", now_us=lambda: NOON_US + 3_600 * 10**6)
    store.open()
    store.add_product("Acme", product_id=PRODUCT)
    yield store
    store.close()


@pytest.fixture
def backend(store: SqliteStore) -> Iterator[Backend]:
    """The backend over the store."""
    settings = ServerSettings(database_url="sqlite:///unused")
    backend = Backend(store, settings, lambda: NOON_US + 3_600 * 10**6)
    yield backend
    backend._threads.shutdown()


@pytest.fixture
def make_visit(backend: Backend) -> MakeVisit:
    """Make a visit of a page by a person who is signed in."""
    product = backend.store.product(PRODUCT)
    assert product is not None
    state: Any = type("State", (), {"backend": backend, "snapshots": Snapshots()})()
    app = type("App", (), {"state": state})()

    def make(path: str = "/", **query: str) -> MemberVisit:
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "app": app}
        return MemberVisit(
            *(Request(scope), backend, path, query, "auto", "nonce"),
            tenant=Tenant(backend, PRODUCT, "admin", "key"),
            product=product,
            state=read_state(query, product.timezone, backend.now_us()),
            csrf_token="token",
        )

    return make
