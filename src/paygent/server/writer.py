"""The grouping writer: batches of several requests in one transaction.

Theory of operation
-------------------
Requests queue their batches by product. A writer thread takes the waiting batches of one product,
at most `_EVENTS_MAX` events or `_REQUESTS_MAX` requests, and books them. It never waits for more to
come: an idle server books a batch at once, a busy one books those that arrived while the previous
transaction ran. Products take turns; with several threads, one product has a second transaction
only while a whole group waits. A batch that the store rejects falls alone.

The queue is bounded: a server that cannot keep up refuses requests instead of collecting them.
A request that gives up does not stop its batch; its events are known when they are sent again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paygent.core.messages import Batch
from paygent.server.logs import LOGGER
from paygent.server.metrics import Metrics
from paygent.server.problems import unavailable
from paygent.store.port import StoreUnavailable

_EVENTS_MAX = 1_000
_REQUESTS_MAX = 8


class Rejected(Exception):
    """The store rejects a batch, and would do so again; its cause is the store's exception."""


Outcome = frozenset[str] | Exception
"""The ids of a batch that were new, or the exception that rejects it."""


class Books(Protocol):
    """The part of the store that the writer uses."""

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        """Store batches; see `Store.book`."""


@dataclass(eq=False)
class _Waiting:
    """A batch with the request that waits for it."""

    batch: Batch
    answer: asyncio.Future[frozenset[str]]
    outcome: Outcome = field(default_factory=frozenset)


class Writer:
    """Books batches on threads of its own; see the module."""

    def __init__(self, store: Books, metrics: Metrics, *, threads: int, requests_max: int) -> None:
        """Prepare; `start` starts the threads.

        Args:
            store: Books batches.
            metrics: Counts them.
            threads: Transactions at a time.
            requests_max: Requests that may wait.
        """
        self._store = store
        self._metrics = metrics
        self._threads_count = threads
        self._requests_max = requests_max
        self._wake = threading.Condition()
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._running: Counter[str] = Counter()  # transactions by product
        self._waiting = 0
        self._is_closing = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._threads_count):
            thread = threading.Thread(target=self._run, name=f"paygent-writer-{number}")
            thread.daemon = True  # a writer that hangs must not keep the process
            thread.start()
            self._threads.append(thread)

    def book(self, product: str, batch: Batch) -> asyncio.Future[frozenset[str]]:
        """Queue a batch, on the event loop's thread.

        Returns:
            The ids that were new, once they are stored; or the exception that rejects the batch.

        Raises:
            Problem: Too many requests wait, or the server ends.
        """
        waiting = _Waiting(batch, asyncio.get_running_loop().create_future())
        with self._wake:
            if self._is_closing:
                raise unavailable("The server is shutting down.")
            if self._waiting >= self._requests_max:
                self._metrics.refused.labels("writer_full").inc()
                raise unavailable("Too many batches are waiting to be booked.")
            self._queues.setdefault(product, deque()).append(waiting)
            self._waiting += 1
            self._wake.notify()
        return waiting.answer

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._waiting

    def close(self, timeout_s: float) -> bool:
        """Book the waiting batches and end the threads; return whether they ended in time."""
        with self._wake:
            self._is_closing = True
            self._wake.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            product, group = taken
            self._book(product, group)
            with self._wake:
                self._running[product] -= 1
                if not self._running[product]:
                    del self._running[product]
                self._wake.notify_all()

    def _take(self) -> tuple[str, list[_Waiting]] | None:
        """Wait for batches and take those of one product; None once the writer is closed."""
        with self._wake:
            while (product := self._next_product()) is None:
                if self._is_closing and not self._queues:
                    return None
                self._wake.wait()
            queue = self._queues.pop(product)
            self._running[product] += 1
            group = [queue.popleft()]
            events = len(group[0].batch.events)
            while queue and len(group) < _REQUESTS_MAX:
                events += len(queue[0].batch.events)
                if events > _EVENTS_MAX:
                    break
                group.append(queue.popleft())
            if queue:  # at the end: products take turns
                self._queues[product] = queue
                self._wake.notify()
            self._waiting -= len(group)
            return product, group

    def _next_product(self) -> str | None:
        """Return the product that is to be booked next; None if there is none.

        A second transaction of a product begins only if a whole group waits for it: two of a
        product have users in common and would wait for each other's rows.
        """
        for product, queue in self._queues.items():
            if product not in self._running or _is_group(queue):
                return product
        return None

    def _book(self, product: str, group: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            booked = self._store.book(product, [waiting.batch for waiting in group])
            outcomes = [_outcome(each) for each in booked]
        except Exception as error:  # noqa: BLE001 - it becomes the answer of each request
            outcomes = [error] * len(group)  # for each request
        self._metrics.booking_seconds.observe(time.monotonic() - started)
        self._metrics.group_events.observe(sum(len(each.batch.events) for each in group))
        for waiting, outcome in zip(group, outcomes, strict=True):
            waiting.outcome = outcome
        try:
            group[0].answer.get_loop().call_soon_threadsafe(_answer, group)
        except RuntimeError:  # the loop has ended; the events are stored all the same
            LOGGER.warning("requests had ended before their events were stored")


def _is_group(queue: deque[_Waiting]) -> bool:
    """Return whether waiting batches fill a transaction."""
    if len(queue) >= _REQUESTS_MAX:
        return True
    return sum(len(waiting.batch.events) for waiting in queue) >= _EVENTS_MAX


def _outcome(booked: Outcome) -> Outcome:
    """Return the store's outcome of a batch; a rejection is marked as one."""
    if isinstance(booked, Exception) and not isinstance(booked, StoreUnavailable):
        rejected = Rejected()
        rejected.__cause__ = booked
        return rejected
    return booked


def _answer(group: list[_Waiting]) -> None:
    """Answer the requests of a group, on the event loop's thread."""
    for waiting in group:
        if waiting.answer.done():  # the request was cancelled
            continue
        if isinstance(waiting.outcome, Exception):
            waiting.answer.set_exception(waiting.outcome)
        else:
            waiting.answer.set_result(waiting.outcome)
