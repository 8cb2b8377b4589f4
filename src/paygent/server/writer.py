"""The grouping writer: batches of several requests in one transaction.

Theory of operation
-------------------
Each thread books a share of the users: a batch is split by user, and a request is answered once all
its parts are stored. Transactions of one product then run side by side without waiting for the row
of a user whom both book for; whole batches of a busy product always have some user in common.

Requests queue the parts of their batches by thread and product. A thread takes the waiting parts of
one product, at most `_EVENTS_MAX` events or `_PARTS_MAX` parts, and books them. An idle server
books a batch at once. A busy one books those that arrived while the previous transaction ran; the
clients that it has just answered are about to send their next batch, so it waits up to `_LINGER_S`
for as many parts as the last transaction had. Products take turns. A part that the store rejects
falls alone.

The queues are bounded: a server that cannot keep up refuses requests instead of collecting them.
A request that gives up does not stop its batch, and one that fails may have some of its events
stored; they are known when they are sent again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paygent.core.event import Event
from paygent.core.messages import Batch
from paygent.server.logs import LOGGER
from paygent.server.metrics import Metrics
from paygent.server.problems import unavailable
from paygent.store.port import StoreUnavailable

_EVENTS_MAX = 1_000
_PARTS_MAX = 8
_LINGER_S = 0.02  # a transaction of eight batches takes 30 to 50 ms


class Rejected(Exception):
    """The store rejects a batch, and would do so again; its cause is the store's exception."""


Outcome = frozenset[str] | Exception
"""The ids of a batch that were new, or the exception that rejects it."""


class Books(Protocol):
    """The part of the store that the writer uses."""

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        """Store batches; see `Store.book`."""


class _Request:
    """A request that waits for the parts of its batch, on the event loop's thread."""

    def __init__(self, parts: int) -> None:
        self.answer: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
        self._missing = parts
        self._new: frozenset[str] = frozenset()
        self._error: Exception | None = None

    def finish_part(self, outcome: Outcome) -> None:
        """Take the outcome of a part; answer after the last one."""
        self._missing -= 1
        if isinstance(outcome, Exception):
            self._error = self._error or outcome
        else:
            self._new |= outcome
        if self._missing or self.answer.done():  # done: the request was cancelled
            return
        if self._error is not None:
            self.answer.set_exception(self._error)
        else:
            self.answer.set_result(self._new)


@dataclass(eq=False)
class _Part:
    """What one thread books of a request."""

    batch: Batch
    request: _Request
    outcome: Outcome = field(default_factory=frozenset)


class Writer:
    """Books batches on threads of its own; see the module."""

    def __init__(self, store: Books, metrics: Metrics, *, threads: int, requests_max: int) -> None:
        """Prepare; `start` starts the threads.

        Args:
            store: Books batches.
            metrics: Counts them.
            threads: Transactions at a time.
            requests_max: Requests that may wait for a thread.
        """
        self._metrics = metrics
        self._requests_max = requests_max
        self._is_closing = False
        self._lanes = [_Lane(store, metrics) for _ in range(threads)]

    def start(self) -> None:
        """Start the threads."""
        for number, lane in enumerate(self._lanes):
            lane.start(f"paygent-writer-{number}")

    def book(self, product: str, batch: Batch) -> asyncio.Future[frozenset[str]]:
        """Queue a batch of events, on the event loop's thread.

        Returns:
            The ids that were new, once they are stored; or the exception that rejects the batch.

        Raises:
            Problem: Too many requests wait, or the server ends.
        """
        shares = self._shares(batch)
        if self._is_closing:
            raise unavailable("The server is shutting down.")
        if any(self._lanes[number].waiting >= self._requests_max for number, _ in shares):
            self._metrics.refused.labels("writer_full").inc()
            raise unavailable("Too many batches are waiting to be booked.")
        request = _Request(len(shares))
        for number, share in shares:
            self._lanes[number].put(product, _Part(share, request))
        return request.answer

    def _shares(self, batch: Batch) -> list[tuple[int, Batch]]:
        """Return what each thread books of a batch, with the thread's number."""
        count = len(self._lanes)
        if count == 1:
            return [(0, batch)]
        if not batch.events or batch.holder or batch.records or batch.questions:
            # A numbered batch is booked in one piece, or its number would be wrong for a part.
            return [(hash(batch.holder) % count, batch)]
        shares: dict[int, list[Event]] = {}
        for event in batch.events:
            shares.setdefault(hash(event.user_id) % count, []).append(event)
        return [
            (number, Batch(events=tuple(events), at_us=batch.at_us))
            for number, events in shares.items()
        ]

    @property
    def waiting(self) -> int:
        """How many requests wait for the thread for which most do."""
        return max(lane.waiting for lane in self._lanes)

    def close(self, timeout_s: float) -> bool:
        """Book the waiting batches and end the threads; return whether they ended in time."""
        self._is_closing = True
        for lane in self._lanes:
            lane.close()
        deadline = time.monotonic() + timeout_s
        return all(lane.join(deadline - time.monotonic()) for lane in self._lanes)


class _Lane:
    """A thread and the parts that wait for it."""

    def __init__(self, store: Books, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._wake = threading.Condition()
        self._queues: OrderedDict[str, deque[_Part]] = OrderedDict()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._last = 0  # parts of the last transaction
        self.waiting = 0

    def start(self, name: str) -> None:
        """Start the thread."""
        # A writer that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, product: str, part: _Part) -> None:
        """Queue a part."""
        with self._wake:
            self._queues.setdefault(product, deque()).append(part)
            self.waiting += 1
            self._wake.notify()

    def close(self) -> None:
        """Let the thread end once nothing waits."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            self._book(*taken)

    def _take(self) -> tuple[str, list[_Part]] | None:
        """Wait for parts and take those of one product; None once the lane is closed."""
        with self._wake:
            if self._last > 1:
                self._wake.wait_for(self._is_ready, _LINGER_S)
            while not self._queues:
                if self._is_closing:
                    return None
                self._wake.wait()
            product, queue = self._queues.popitem(last=False)
            group = [queue.popleft()]
            events = len(group[0].batch.events)
            while queue and len(group) < _PARTS_MAX:
                events += len(queue[0].batch.events)
                if events > _EVENTS_MAX:
                    break
                group.append(queue.popleft())
            if queue:  # at the end: products take turns
                self._queues[product] = queue
            self.waiting -= len(group)
            self._last = len(group)
            return product, group

    def _is_ready(self) -> bool:
        """Return whether a transaction may begin at once."""
        return self.waiting >= self._last or self._is_closing

    def _book(self, product: str, group: list[_Part]) -> None:
        started = time.monotonic()
        try:
            booked = self._store.book(product, [part.batch for part in group])
            outcomes = [_outcome(each) for each in booked]
        except Exception as error:  # noqa: BLE001 - it becomes the answer of each request
            outcomes = [error] * len(group)  # for each request
        self._metrics.booking_seconds.observe(time.monotonic() - started)
        self._metrics.group_events.observe(sum(len(each.batch.events) for each in group))
        for part, outcome in zip(group, outcomes, strict=True):
            part.outcome = outcome
        try:
            group[0].request.answer.get_loop().call_soon_threadsafe(_finish, group)
        except RuntimeError:  # the loop has ended; the events are stored all the same
            LOGGER.warning("requests had ended before their events were stored")


def _outcome(booked: Outcome) -> Outcome:
    """Return the store's outcome of a batch; a rejection is marked as one."""
    if isinstance(booked, Exception) and not isinstance(booked, StoreUnavailable):
        rejected = Rejected()
        rejected.__cause__ = booked
        return rejected
    return booked


def _finish(group: list[_Part]) -> None:
    """Hand the outcomes of a group to its requests, on the event loop's thread."""
    for part in group:
        part.request.finish_part(part.outcome)
