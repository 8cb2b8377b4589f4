"""Snapshots: read once for all who ask, read again in turns, forgotten when asked to.

The loop is asyncio's with a clock that the tests set, so that readings take time without sleeping.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from paygent.core.margin import MarginGroups, MarginQuery
from paygent.core.report_request import MARGIN, SpendRequest, read_request
from paygent.server.backend import Tenant
from paygent.server.dashboard.snapshots import (
    FRESH_S,
    RENEWED_S,
    SHOWN_S,
    WATCHED_S,
    Snapshots,
    _read_margins,
)
from paygent.server.dashboard.tail import margin_tail
from paygent.store.margins import AllMargins, KnownRevenue

_STEPS = 20  # of the loop, for everything that can run without time to have run
_STEP_S = 0.25
_KEPT_MAX = 12


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that is set."""

    def __init__(self) -> None:
        self.at_s = 1_000.0
        super().__init__()

    def time(self) -> float:
        """Return the time of timers."""
        return self.at_s

    async def settle(self) -> None:
        """Run all that can run now."""
        for _ in range(_STEPS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Set the clock forward, a step at a time, and run what is due."""
        end_s = self.at_s + seconds
        await self.settle()
        while self.at_s < end_s:
            self.at_s = min(self.at_s + _STEP_S, end_s)
            await self.settle()


class Store:
    """A store that counts its readings, each of which takes a time and returns its number."""

    def __init__(self) -> None:
        self.read: list[tuple[Any, ...]] = []
        self.failures = 0
        self.takes_s = 1.0
        self.running = self.running_max = 0

    def plan_users(self, product: str, start_us: int, end_us: int, *, besides: str) -> None:
        """Name a verb."""

    async def in_store(self, verb: Any, product: str, *args: Any, **_: Any) -> int:
        """Read."""
        self.read.append((verb.__name__, product, *args))
        number = len(self.read)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.running -= 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError(number)
        return number


class Watch:
    """Snapshots over a store, with the loop that they run on."""

    def __init__(self, loop: ClockLoop) -> None:
        self.loop = loop
        self.store = Store()
        self.snapshots = Snapshots(loop.time)

    def tenant(self, product: str = "acme") -> Tenant:
        """Return a tenant, its store being also its backend."""
        backend: Any = self.store
        backend.store = self.store
        return Tenant(backend, product, "admin", "k")

    def begin(self, product: str = "acme", **given: Any) -> asyncio.Future[Any]:
        """Ask for margins by user."""
        return asyncio.ensure_future(self.snapshots.margins(self.tenant(product), request(**given)))

    async def look(self, product: str = "acme", **given: Any) -> Any:
        """Return margins by user, however long that takes."""
        looking = self.begin(product, **given)
        await self.loop.settle()
        while not looking.done():
            await self.loop.advance(_STEP_S)
        return looking.result()

    @property
    def reads(self) -> int:
        """Number of readings."""
        return len(self.store.read)


def request(by: str = "user", rows_max: int | None = None, **given: Any) -> SpendRequest:
    """Return a report of margins in October."""
    days = {"start": date(2026, 10, 1), "end": date(2026, 11, 1)}
    return read_request({**days, "by": by, **given}, rules=MARGIN, rows_max=rows_max)


Story = Callable[[Watch], Coroutine[Any, Any, None]]
Run = Callable[[Story], None]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a story on a loop with a clock; no failure may be left that nobody has read."""
    loop = ClockLoop()
    unread: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unread.append(context))

    async def told(story: Story) -> None:
        watch = Watch(loop)
        await story(watch)
        watch.snapshots.close()
        await loop.advance(60)

    yield lambda story: loop.run_until_complete(told(story))
    loop.close()
    assert unread == []


def test_snapshots__within_ten_times_their_reading__are_read_once(run: Run) -> None:
    """The answer is that of the first reading, whatever page and order is asked for."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = 0.25
        assert await watch.look() == 1
        await watch.loop.advance(2.0)  # a quarter of a second less than is left
        assert await watch.look(sort="-cost", rows_max=5) == 1
        await watch.loop.advance(2)
        assert watch.reads == 1
        assert await watch.look() == 1
        await watch.loop.advance(0.5)
        assert await watch.look() == 2

    run(story)


def test_snapshots__where_reading_is_fast__are_read_for_every_page(run: Run) -> None:
    """A newcomer who reloads a page sees the call that was just made."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = 0.0
        assert [await watch.look() for _ in range(3)] == [1, 2, 3]
        watch.store.takes_s = 0.015
        for begin_s, expected in ((0.0, 4), (0.1, 4), (0.1, 5)):
            watch.loop.at_s += begin_s
            looking = watch.begin()
            await watch.loop.settle()
            watch.loop.at_s += 0.015
            await watch.loop.settle()
            assert looking.result() == expected

    run(story)


def test_snapshots__of_something_else__are_read_by_themselves(run: Run) -> None:
    """Another product, key, range or filter is another reading."""

    async def story(watch: Watch) -> None:
        different: list[dict[str, Any]] = [
            {},
            {"product": "globex"},
            {"by": "plan"},
            {"plan": "pro"},
            {"user": "pro"},
            {"start": date(2026, 9, 1)},
            {"end": date(2026, 12, 1)},
        ]
        for _ in range(2):
            assert [await watch.look(**each) for each in different] == [1, 2, 3, 4, 5, 6, 7]

    run(story)


def test_snapshots__the_reading__is_of_all_rows_in_no_page(run: Run) -> None:
    """The first request must not decide what the others get; each gets what was read before."""

    async def story(watch: Watch) -> None:
        await watch.look(sort="-cost", rows_max=5)
        await watch.loop.advance(FRESH_S)
        await watch.look()
        await watch.loop.advance(1)
        whole = watch.store, request(sort="margin")
        assert watch.store.read == [
            ("_read_margins", "acme", *whole, None),
            ("_read_margins", "acme", *whole, 1),
        ]

    run(story)


def test_plan_users__within_ten_seconds__are_read_once(run: Run) -> None:
    """By product and span of time."""

    async def story(watch: Watch) -> None:
        for start_us, expected in ((1, 1), (1, 1), (2, 2)):
            asked: Any = watch.snapshots.plan_users(watch.tenant(), start_us, 9, "none")
            looking = asyncio.ensure_future(asked)
            await watch.loop.advance(1)
            assert looking.result() == expected
        assert watch.store.read[0] == ("plan_users", "acme", 1, 9)

    run(story)


def test_snapshots__requests_at_once__wait_for_one_reading(run: Run) -> None:
    """One that is cancelled does not fail the others."""

    async def story(watch: Watch) -> None:
        waiting = [watch.begin() for _ in range(5)]
        await watch.loop.settle()
        waiting[0].cancel()
        await watch.loop.advance(1)
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [1, 1, 1, 1]

    run(story)


def test_snapshots__a_slow_reading__is_waited_for_once(run: Run) -> None:
    """Also where it takes longer than a snapshot is shown: no second one is begun beside it."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = SHOWN_S + 5
        first = watch.begin()
        await watch.loop.advance(SHOWN_S + 1)
        second = watch.begin()
        await watch.loop.advance(4)
        assert (first.result(), second.result(), watch.reads) == (1, 1, 1)

    run(story)


def test_snapshots__while_they_are_read_again__answer_with_the_old_reading(run: Run) -> None:
    """Nobody who looks within ten seconds waits for a reading."""

    async def story(watch: Watch) -> None:
        await watch.look()
        for expected in (1, 2, 3):
            await watch.loop.advance(FRESH_S)
            looks = [watch.begin() for _ in range(2)]
            await watch.loop.settle()
            assert [each.result() for each in looks] == [expected, expected]
            await watch.loop.advance(1)
            assert watch.reads == expected + 1

    run(story)


def test_snapshots__that_are_older_than_ten_seconds__are_waited_for(run: Run) -> None:
    """What was true long ago is not shown."""

    async def story(watch: Watch) -> None:
        await watch.look()
        await watch.loop.advance(WATCHED_S + SHOWN_S)  # nobody watches it any more
        reads = watch.reads
        looking = watch.begin()
        await watch.loop.settle()
        assert not looking.done()
        await watch.loop.advance(1)
        assert looking.result() == reads + 1

    run(story)


def test_snapshots__that_a_page_has_shown__are_read_again_for_a_minute(run: Run) -> None:
    """The next page need not wait, however long one is read; later nothing is read for nobody."""

    async def story(watch: Watch) -> None:
        await watch.look()
        for _ in range(4):
            await watch.loop.advance(20)
            looking = watch.begin()
            await watch.loop.settle()
            assert looking.result() == watch.reads - (watch.store.running > 0)
        reads = watch.reads
        await watch.loop.advance(WATCHED_S)
        assert watch.reads == reads + WATCHED_S // RENEWED_S
        await watch.loop.advance(600)
        assert watch.reads == reads + WATCHED_S // RENEWED_S

    run(story)


def test_snapshots__that_were_replaced__are_freed(run: Run) -> None:
    """One of 100,000 users takes tens of megabytes, and may be replaced every few seconds."""

    async def story(watch: Watch) -> None:
        await watch.look()
        (kept,) = watch.snapshots._kept.values()
        old = weakref.ref(kept)
        del kept
        await watch.loop.advance(FRESH_S)
        assert await watch.look() == 1
        await watch.loop.advance(2)
        assert await watch.look() == 2
        gc.collect()
        assert old() is None

    run(story)


def test_snapshots__whose_reading_takes_long__are_not_begun_again(run: Run) -> None:
    """Nor is one that was replaced meanwhile renewed in its place."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = RENEWED_S + 1
        looking = watch.begin()
        await watch.loop.advance(RENEWED_S)
        watch.snapshots.outdate("acme")
        watch.store.takes_s = 1.0
        assert await watch.look() == 2
        await looking
        await watch.loop.advance(RENEWED_S - 3)
        assert watch.reads == 2

    run(story)


def test_snapshots__where_reading_is_fast__are_not_read_for_nobody(run: Run) -> None:
    """A page may as well wait."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = 0.0
        await watch.look()
        await watch.loop.advance(WATCHED_S)
        assert watch.reads == 1

    run(story)


def test_snapshots__several_that_are_read_again__take_turns_and_rest(run: Run) -> None:
    """However many ranges are looked at, they take half of a processor."""

    async def story(watch: Watch) -> None:
        products = ["a", "b", "c"]
        await asyncio.gather(*[watch.begin(each) for each in products], watch.loop.advance(1))
        watch.store.running_max = 0
        await watch.loop.advance(FRESH_S)
        assert [await watch.look(each) for each in products] == [1, 2, 3]
        for reads in (4, 5, 6):
            assert watch.reads == reads
            await watch.loop.advance(1.75)
            assert watch.reads == reads
            await watch.loop.advance(0.25)
        assert watch.store.running_max == 1
        assert [await watch.look(each) for each in products] == [4, 5, 6]

    run(story)


def test_snapshots__outdated_while_they_wait_for_their_turn__are_not_read(run: Run) -> None:
    """The next request reads at once."""

    async def story(watch: Watch) -> None:
        await watch.look("a")
        await watch.look("b")
        await watch.loop.advance(FRESH_S)
        assert [await watch.look("a"), await watch.look("b")] == [1, 2]
        watch.snapshots.outdate("b")
        await watch.loop.advance(4)
        assert [product for _, product, *_ in watch.store.read] == ["a", "b", "a"]
        assert await watch.look("b") == 4

    run(story)


def test_snapshots__a_reading_that_fails__is_raised_and_read_again(run: Run) -> None:
    """To all who wait for it; the next request reads."""

    async def story(watch: Watch) -> None:
        watch.store.failures = 1
        looks = [watch.begin(), watch.begin()]
        await watch.loop.advance(1)
        found = await asyncio.gather(*looks, return_exceptions=True)
        assert [type(each) for each in found] == [ConnectionError, ConnectionError]
        assert await watch.look() == 2

    run(story)


def test_snapshots__a_reading_that_was_cancelled__is_read_again(run: Run) -> None:
    """As one that failed."""

    async def story(watch: Watch) -> None:
        looking = watch.begin()
        await watch.loop.settle()
        (kept,) = watch.snapshots._kept.values()
        kept.reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert await watch.look() == 2

    run(story)


def test_snapshots__a_second_reading_that_fails__leaves_the_old_one_until_it_is_old(
    run: Run,
) -> None:
    """The next page tries again; after ten seconds it gets the failure if there still is one."""

    async def story(watch: Watch) -> None:
        await watch.look()
        watch.store.failures = 3
        await watch.loop.advance(FRESH_S)
        assert await watch.look() == 1
        await watch.loop.advance(SHOWN_S)
        assert watch.reads == 3
        with pytest.raises(ConnectionError):
            await watch.look()
        assert await watch.look() == 5
        assert [read[-1] for read in watch.store.read] == [None, 1, 1, 1, 1]  # what is known

    run(story)


def test_outdate__a_product__is_read_again_at_once(run: Run) -> None:
    """Another product's snapshots stay; a reading that runs does not come back."""

    async def story(watch: Watch) -> None:
        watch.store.takes_s = 0.25
        looks = [partial(watch.look), partial(watch.look, "globex"), partial(watch.look, by="plan")]
        assert [await look() for look in looks] == [1, 2, 3]
        watch.snapshots.outdate("acme")
        assert [await look() for look in looks] == [4, 2, 5]
        assert [read[-1] for read in watch.store.read[3:]] == [1, 3]  # what was read before

    run(story)


def test_outdate__while_it_is_read_again__drops_what_is_read(run: Run) -> None:
    """It may have begun before the change."""

    async def story(watch: Watch) -> None:
        await watch.look()
        await watch.loop.advance(FRESH_S)
        await watch.look()
        watch.snapshots.outdate("acme")
        await watch.loop.advance(1)
        assert watch.reads == 2
        assert await watch.look() == 3

    run(story)


def test_close__ends_what_is_read_again(run: Run) -> None:
    """Nothing is read after it, also where others wait for their turn."""

    async def story(watch: Watch) -> None:
        for product in ("a", "b"):
            await watch.look(product)
        await watch.loop.advance(FRESH_S)
        for product in ("a", "b"):
            await watch.look(product)
        watch.snapshots.close()
        await watch.loop.advance(60)
        assert (watch.reads, dict(watch.snapshots._kept)) == (3, {})

    run(story)


def test_snapshots__more_than_twelve__drop_the_one_that_was_not_looked_at_longest(
    run: Run,
) -> None:
    """Memory is bounded."""

    async def story(watch: Watch) -> None:
        looks = [watch.begin(f"p{number}") for number in range(_KEPT_MAX)]
        await asyncio.gather(*looks, watch.loop.advance(1))
        await watch.look("p0")
        await watch.look("p12")
        assert len(watch.snapshots._kept) == _KEPT_MAX
        assert await watch.look("p0") == 1
        assert await watch.look("p1") == watch.reads == _KEPT_MAX + 2

    run(story)


@pytest.mark.parametrize("by", ["user", "plan"])
def test_read_margins__by_user__are_sorted_with_their_picture(by: Any) -> None:
    """As the overview and earlier requests sort them; plans are few. Revenue is handed on."""
    query = MarginQuery(by, 0, 1)
    revenue = KnownRevenue((), {})
    readings: list[MarginGroups] = []
    asked: list[KnownRevenue | None] = []

    def all_margins(product: str, request: SpendRequest, known: KnownRevenue | None) -> AllMargins:
        asked.append(known)
        readings.append(MarginGroups({"a": (1, 2), "b": (2, 1)}, (3, 3), {}, query, (), 1))
        return AllMargins(readings[-1], 7, revenue)

    store: Any = SimpleNamespace(all_margins=all_margins)
    first = _read_margins("acme", store, request(by), None)
    first.groups.sorted_keys("revenue")
    first.groups.page(replace(query, sort="calls"))
    second = _read_margins("acme", store, request(by), first)
    assert asked == [None, revenue]
    assert (second.groups, second.as_of_us, second.revenue) == (readings[1], 7, revenue)
    is_of_users = by == "user"
    assert second.tail == (margin_tail(second.groups) if is_of_users else None)
    assert second.groups.is_sorted("cost", is_descending=True) == is_of_users
    assert second.groups.is_sorted("calls") == is_of_users
    assert not second.groups.is_sorted("revenue")  # no page has shown it
