"""The parts of a server process that its handlers share, and how they reach the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, Request

from paygent.server.metrics import Metrics
from paygent.server.problems import unavailable
from paygent.server.settings import ServerSettings
from paygent.server.writer import Writer
from paygent.store.directory_port import Scope
from paygent.store.factory import READERS, WRITERS
from paygent.store.ledger import SqlStore

_T = TypeVar("_T")


class Backend:
    """The store, its threads and the metrics of one application.

    Attributes:
        store: The database; used on the threads of `in_store` and of the writer alone.
        settings: How the server runs.
        now_us: The ledger's clock.
    """

    def __init__(
        self, store: SqlStore, settings: ServerSettings, now_us: Callable[[], int]
    ) -> None:
        self.store = store
        self.settings = settings
        self.now_us = now_us
        self.metrics = Metrics()
        self.writer = Writer(
            store,
            self.metrics,
            threads=WRITERS if settings.is_shared else 1,
            requests_max=settings.queue_requests_max,
        )
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="paygent-store")
        self.creating_product = asyncio.Lock()  # "no product yet" is checked and ended in one step
        self._waiting = 0
        self._secrets: dict[str, str] = {}

    async def in_store(self, verb: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call a verb of the store on a thread; the event loop goes on meanwhile.

        Raises:
            Problem: Too many requests wait for a thread.
        """
        if self._waiting >= self.settings.reads_waiting_max:
            self.metrics.refused.labels("store_busy").inc()
            raise unavailable("Too many requests are waiting for the database.")
        self._waiting += 1
        call = self._threads.submit(verb, *args, **options)
        try:
            return await asyncio.wrap_future(call)
        finally:
            self._waiting -= 1

    async def server_secret(self, name: str) -> str:
        """Return a secret that all servers of the database share; it never changes."""
        if name not in self._secrets:
            self._secrets[name] = await self.in_store(self.store.server_secret, name)
        return self._secrets[name]

    def close(self) -> None:
        """Book the waiting batches, and end the threads."""
        self.writer.close(self.settings.flush_s)
        self._threads.shutdown(wait=False, cancel_futures=True)


def backend_of(request: Request) -> Backend:
    """Return the backend of a request's application."""
    backend: Backend = request.scope["app"].state.backend
    return backend


@dataclass(frozen=True)
class Tenant:
    """The product that a request may see, by its key.

    Attributes:
        product: Public id of the product.
        scope: Of the key.
        key_id: Names the key in logs.
    """

    backend: Backend
    product: str
    scope: Scope
    key_id: str

    @property
    def store(self) -> SqlStore:
        """The store, for the names of its verbs."""
        return self.backend.store

    async def ask(self, verb: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call a verb of the store for this product, on a thread."""
        return await self.backend.in_store(verb, self.product, *args, **options)

    def now_us(self) -> int:
        """Return the ledger's time."""
        return self.backend.now_us()


async def _backend(request: Request) -> Backend:
    return backend_of(request)


async def _tenant(request: Request) -> Tenant:
    tenant: Tenant = request.scope["paygent.tenant"]
    return tenant


# Defaults of handlers' parameters, which FastAPI fills.
ForBackend = Depends(_backend)
ForTenant = Depends(_tenant)
