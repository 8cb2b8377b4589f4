"""The parts of a server process that its handlers share, and how they reach the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, Request

from paygent.core.messages import Batch
from paygent.server.metrics import Metrics
from paygent.server.problems import unavailable
from paygent.server.settings import ServerSettings
from paygent.server.writer import Books, Writer
from paygent.store.directory_port import Scope
from paygent.store.factory import READERS, WRITERS
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreBusy, StoreUnavailable

_T = TypeVar("_T")


_DOUBTED_S = 30.0
"""How long a failed booking counts. A server that is not ready may get no traffic, and would never
find out that its database accepts bookings again.
"""

_LOST_CLASSES = frozenset({"", "08", "57"})
"""Classes of PostgreSQL's errors that mean the connection; reading shows whether it is back."""


class Bookings:
    """Books batches in the store, and remembers whether it accepts them.

    A database that is full or read-only still answers questions. Nothing less than a booking shows
    it: a small write may find room where a batch does not.
    """

    def __init__(self, store: Books, now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now_s = now_s
        self._failed_at: float | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the last booking failed, in the last 30 s, although the database could be
        reached.
        """
        failed_at = self._failed_at
        return failed_at is not None and self._now_s() - failed_at < _DOUBTED_S

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        """Store batches; see `Store.book`."""
        try:
            booked = self._store.book(product, batches)
        except StoreBusy:
            raise
        except StoreUnavailable as error:
            if _is_refusal(error):
                self._failed_at = self._now_s()
            raise
        self._failed_at = None
        return booked


def _is_refusal(error: StoreUnavailable) -> bool:
    """Return whether a database could be reached and did not write."""
    cause: Any = error.__cause__
    if not hasattr(cause, "sqlstate"):  # SQLite, which has no connection to lose
        return True
    return (cause.sqlstate or "")[:2] not in _LOST_CLASSES


class Backend:
    """The store, its threads and the metrics of one application.

    Attributes:
        store: The database; used on the threads of `in_store` and of the writer alone.
        settings: How the server runs.
        now_us: The ledger's clock.
        bookings: Whether the database accepts events.
    """

    def __init__(
        self, store: SqlStore, settings: ServerSettings, now_us: Callable[[], int]
    ) -> None:
        self.store = store
        self.settings = settings
        self.now_us = now_us
        self.metrics = Metrics()
        self.bookings = Bookings(store)
        self.writer = Writer(
            self.bookings,
            self.metrics,
            threads=WRITERS if settings.is_shared else 1,
            requests_max=settings.queue_requests_max,
        )
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="paygent-store")
        self.creating_product = asyncio.Lock()  # "no product yet" is checked and ended in one step
        self._waiting = 0
        self._calls: set[Future[Any]] = set()
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
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            return await asyncio.wrap_future(call)
        finally:
            self._waiting -= 1

    async def server_secret(self, name: str) -> str:
        """Return a secret that all servers of the database share; it never changes."""
        if name not in self._secrets:
            self._secrets[name] = await self.in_store(self.store.server_secret, name)
        return self._secrets[name]

    @property
    def is_calling(self) -> bool:
        """Whether a thread is in a verb of the store, also one that no request waits for."""
        return bool(self._calls)

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
