"""Figures of a whole population, read once for all pages that show them.

At 100,000 users a report of margins reads every user's cost and contract, which takes the processor
half a second, or 0.2 s where the revenue is known and has not changed. Pages are answered from
memory instead, from a snapshot of the last seconds:

- It is shown as it is for ten times as long as its reading took, at most `FRESH_S`. Where reading
  is fast, every page has the newest figures.
- After that it is read again for the next page that asks. Where that takes long, pages get the old
  one meanwhile, and say of when it is, until it is `SHOWN_S` old; then they wait.
- So that a person who reads a page for a while need not wait on the next one, what a page has shown
  in the last `WATCHED_S` is read again when it is `RENEWED_S` old, asked for or not.
- These readings take turns, and rest between them, so that they never take more than half of a
  processor from the requests, however many ranges are looked at.

What an action of the dashboard has changed is read again at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from paygent.core.margin import MarginGroups
from paygent.core.report import START
from paygent.core.report_request import SpendRequest
from paygent.server.backend import Tenant
from paygent.server.dashboard.tail import Tail, margin_tail
from paygent.store.ledger import SqlStore
from paygent.store.margins import KnownRevenue
from paygent.store.port import PlanUsers

FRESH_S = 3.0
"""For how long a snapshot is shown before it is read again, however long its reading took."""

SHOWN_S = 10.0
"""Greatest age of what is shown."""

RENEWED_S = 7.0
"""Age at which a snapshot is read again that is watched: others may have their turn before."""

WATCHED_S = 60.0
"""For how long after a page has shown it a snapshot is watched."""

_FRESH_SHARE = 10  # a snapshot is fresh for so many times as long as its reading took
_REST_SHARE = 1  # and after it was read again, nothing is read again for as long
_FAST_S = 0.02  # a page waits for a reading that takes no longer

_KEPT_MAX = 12
"""Snapshots in memory; one of 100,000 users takes 30 to 50 MB."""

_TOP = ("cost", True)
"""The order of the dearest users, which the overview and the list of users begin with."""

_Read = Callable[[Any], Awaitable[Any]]
"""Reads; it gets what was read before, or None."""

_Key = tuple[Hashable, ...]
"""The product first."""


class Margins(NamedTuple):
    """The margins of all groups.

    Attributes:
        groups: Their sums.
        as_of_us: The ledger's time.
        tail: By user, the picture of it; otherwise None.
        revenue: For the next reading.
    """

    groups: MarginGroups
    as_of_us: int
    tail: Tail | None
    revenue: KnownRevenue


@dataclass
class _Snapshot:
    """What was read, or is being read.

    Attributes:
        began_s: When its reading began.
        took_s: How long it took.
        last: What was read, or before it has been, what was read by the snapshot before; or None.
        shown_s: When a page has shown it, or the one before, the last time.
        renewal: Reads it again.
        is_outdated: It is not shown any more, since an action has changed something.
    """

    reading: asyncio.Task[Any]
    began_s: float
    took_s: float = 0.0
    last: Any = None
    shown_s: float = 0.0
    renewal: asyncio.Task[None] | None = None
    is_outdated: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether it could not be read."""
        task = self.reading
        return task.done() and (task.cancelled() or task.exception() is not None)

    @property
    def is_fast(self) -> bool:
        """Whether a page may as well wait for its reading."""
        return self.took_s <= _FAST_S

    @property
    def fresh_s(self) -> float:
        """For how long it is shown as it is."""
        return min(self.took_s * _FRESH_SHARE, FRESH_S)


class Snapshots:
    """The snapshots of one server process; used on its event loop alone."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._kept: OrderedDict[_Key, _Snapshot] = OrderedDict()
        self._turn = asyncio.Lock()  # of the snapshot that is read again
        self._renewals: set[asyncio.Task[None]] = set()

    async def margins(self, tenant: Tenant, request: SpendRequest) -> Margins:
        """Return margins of all groups of a request; its order and page do not matter."""
        request = replace(request, sort="margin", is_descending=False, rows_max=None, after=START)
        filters = tuple(sorted(request.where.items()))
        key = ("margins", request.by, request.start, request.end, request.period, filters)

        def read(before: Any) -> Awaitable[Any]:
            return tenant.ask(_read_margins, tenant.store, request, before)

        return cast(Margins, await self._find((tenant.product, *key), read))

    async def plan_users(
        self, tenant: Tenant, start_us: int, end_us: int, besides: str
    ) -> dict[str, PlanUsers]:
        """Return the users of each plan; see `Store.plan_users`."""

        def read(_: Any) -> Awaitable[Any]:
            return tenant.ask(tenant.store.plan_users, start_us, end_us, besides=besides)

        found = await self._find((tenant.product, "plan_users", start_us, end_us, besides), read)
        return cast(dict[str, PlanUsers], found)

    def outdate(self, product: str) -> None:
        """Stop showing the snapshots of a product, in which something was changed."""
        for key, snapshot in self._kept.items():
            if key[0] == product:
                snapshot.is_outdated = True

    def close(self) -> None:
        """Forget everything, and end what is being read again."""
        self._kept.clear()
        for renewal in self._renewals:
            renewal.cancel()

    async def _find(self, key: _Key, read: _Read) -> Any:
        known = self._kept.get(key)
        if known is None or known.has_failed or known.is_outdated or self._is_over(known):
            known = self._begin(read, known)
            self._keep(key, known, read)
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        elif self._age_s(known) >= known.fresh_s and known.reading.done():
            self._renew(key, known, read)
        self._kept.move_to_end(key)
        known.shown_s = self._now_s()
        # A request that is cancelled must not fail the others that wait for the same.
        return await asyncio.shield(known.reading)

    def _age_s(self, snapshot: _Snapshot) -> float:
        return self._now_s() - snapshot.began_s

    def _is_over(self, snapshot: _Snapshot) -> bool:
        """Return whether a snapshot is not shown any more, also not while it is read again."""
        longest_s = snapshot.fresh_s if snapshot.is_fast else SHOWN_S
        return snapshot.reading.done() and self._age_s(snapshot) >= longest_s

    def _keep(self, key: _Key, snapshot: _Snapshot, read: _Read) -> None:
        """Show a snapshot from now on, and read it again in time if a page has shown it."""
        self._kept[key] = snapshot
        loop, delay_s = asyncio.get_running_loop(), RENEWED_S - self._age_s(snapshot)
        # Not with the snapshot: one that was replaced would stay in memory until then.
        loop.call_later(delay_s, self._renew_if_watched, key, snapshot.began_s, read)

    def _renew_if_watched(self, key: _Key, began_s: float, read: _Read) -> None:
        known = self._kept.get(key)
        if known is None or known.began_s != began_s or not known.reading.done():
            return
        is_watched = self._now_s() - known.shown_s < WATCHED_S
        if is_watched and not (known.has_failed or known.is_fast):
            self._renew(key, known, read)

    def _renew(self, key: _Key, old: _Snapshot, read: _Read) -> None:
        """Read a snapshot again in the background, when it is its turn."""
        if old.renewal is not None and not old.renewal.done():
            return

        async def renew() -> None:
            async with self._turn:
                if self._kept.get(key) is not old or old.is_outdated:
                    return  # a page has read it, or will
                new = self._begin(read, old)
                await asyncio.wait((new.reading,))
                if self._kept.get(key) is old and not (old.is_outdated or new.has_failed):
                    new.shown_s = old.shown_s
                    self._keep(key, new, read)
                await asyncio.sleep(new.took_s * _REST_SHARE)

        old.renewal = asyncio.create_task(renew())
        self._renewals.add(old.renewal)
        old.renewal.add_done_callback(self._renewals.discard)

    def _begin(self, read: _Read, old: _Snapshot | None) -> _Snapshot:
        async def reading() -> Any:
            try:
                snapshot.last = await read(snapshot.last)
                return snapshot.last
            finally:
                snapshot.took_s = self._age_s(snapshot)

        snapshot = _Snapshot(asyncio.create_task(reading()), self._now_s())
        snapshot.last = None if old is None else old.last
        # A failure is raised to the requests that wait; where none does, it needs no report.
        snapshot.reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return snapshot


def _read_margins(
    product: str, store: SqlStore, request: SpendRequest, before: Margins | None
) -> Margins:
    """Read margins, and sort them as pages have shown those before, on this thread rather than on
    that of the requests.
    """
    known = None if before is None else before.revenue
    groups, as_of_us, revenue = store.all_margins(product, request, known)
    if request.by != ("user",):
        return Margins(groups, as_of_us, None, revenue)
    for sort, is_descending in {_TOP, *(() if before is None else before.groups.shown)}:
        groups.sorted_keys(sort, is_descending=is_descending)
    return Margins(groups, as_of_us, margin_tail(groups), revenue)
