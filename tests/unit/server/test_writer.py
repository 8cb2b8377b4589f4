"""The grouping writer: what goes into one transaction, and what becomes of its requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from paygent.core.event import Event
from paygent.core.messages import Batch, Question, SessionRecord
from paygent.server.metrics import Metrics
from paygent.server.problems import Problem
from paygent.server.writer import Rejected, Writer
from paygent.store.port import StoreUnavailable

WAIT_S = 20.0


def batch(name: str, events: int = 1) -> Batch:
    """Return a batch with a name."""
    return Batch(
        events=tuple(
            Event(f"{name}-{number}", "u", "", 0, "", "", "", "", 0, 0, 0, 0, 0, 0, 0, 0)
            for number in range(events)
        )
    )


class Recorder:
    """Books batches into a list; the first transaction waits until it is released."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[int]]] = []
        self.entered = threading.Event()
        self.release = threading.Event()
        self.outcome: Callable[[Batch], frozenset[str] | Exception] = lambda given: frozenset(
            event.event_id for event in given.events
        )

    def book(self, product: str, batches: Sequence[Batch]) -> list[frozenset[str] | Exception]:
        self.groups.append((product, [len(given.events) for given in batches]))
        self.entered.set()
        assert self.release.wait(WAIT_S)
        return [self.outcome(given) for given in batches]


@contextmanager
def writing(store: Recorder, *, threads: int = 1, requests_max: int = 256) -> Iterator[Writer]:
    """Run a writer."""
    writer = Writer(store, Metrics(), threads=threads, requests_max=requests_max)
    writer.start()
    try:
        yield writer
    finally:
        store.release.set()
        assert writer.close(WAIT_S)


async def entered(store: Recorder) -> None:
    """Wait until a transaction runs."""
    assert await asyncio.to_thread(store.entered.wait, WAIT_S)


async def test_writer__requests_while_it_books__are_grouped() -> None:
    """What gathers while a transaction runs goes into the next one, 8 requests at most."""
    store = Recorder()
    with writing(store) as writer:
        first = writer.book("p", batch("first"))
        await entered(store)
        rest = [writer.book("p", batch(str(number), 2)) for number in range(10)]
        store.release.set()
        answers = await asyncio.gather(first, *rest)
    assert store.groups == [("p", [1]), ("p", [2] * 8), ("p", [2] * 2)]
    assert answers[3] == {"2-0", "2-1"}


async def test_writer__many_events__end_a_group() -> None:
    """A transaction has at most 1,000 events, or one request."""
    store = Recorder()
    with writing(store) as writer:
        answers = [writer.book("p", batch("first"))]
        await entered(store)
        answers += [writer.book("p", batch(str(size), size)) for size in (600, 400, 1, 1_000, 1)]
        store.release.set()
        await asyncio.gather(*answers)
    assert store.groups == [("p", [1]), ("p", [600, 400]), ("p", [1]), ("p", [1_000]), ("p", [1])]


async def test_writer__several_products__take_turns() -> None:
    """A busy product does not starve another one, and is never mixed with it."""
    store = Recorder()
    with writing(store) as writer:
        answers = [writer.book("busy", batch("first"))]
        await entered(store)
        answers += [writer.book("busy", batch(str(number))) for number in range(9)]
        answers.append(writer.book("quiet", batch("q")))
        store.release.set()
        await asyncio.gather(*answers)
    assert [product for product, _ in store.groups] == ["busy", "busy", "quiet", "busy"]


async def test_writer__idle__books_at_once() -> None:
    """It waits for more only after a transaction of several requests."""
    store = Recorder()
    store.release.set()
    with writing(store) as writer:
        assert await asyncio.wait_for(writer.book("p", batch("one")), WAIT_S) == {"one-0"}


async def test_writer__full__refuses_with_503() -> None:
    """The queue is bounded, and empties."""
    store = Recorder()
    with writing(store, requests_max=2) as writer:
        answers = [writer.book("p", batch("first"))]
        await entered(store)
        answers += [writer.book("p", batch(str(number))) for number in range(2)]
        with pytest.raises(Problem) as refused:
            writer.book("p", batch("third"))
        assert refused.value.status_code == 503
        assert refused.value.headers == {"Retry-After": "1"}
        store.release.set()
        await asyncio.gather(*answers)
        assert await writer.book("p", batch("later")) == {"later-0"}


async def test_writer__rejected_batch__falls_alone() -> None:
    """A rejection is the answer of its request alone."""
    store = Recorder()
    odd = ValueError("odd row")
    store.outcome = lambda given: odd if "bad" in given.events[0].event_id else frozenset({"x"})
    with writing(store) as writer:
        answers = [writer.book("p", batch("first"))]
        await entered(store)
        answers += [writer.book("p", batch(name)) for name in ("good", "bad", "fine")]
        store.release.set()
        results: list[Any] = await asyncio.gather(*answers, return_exceptions=True)
    assert results[1] == results[3] == {"x"}
    assert isinstance(results[2], Rejected)
    assert results[2].__cause__ is odd


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a defect")])
async def test_writer__store_fails__every_request_of_the_group_fails(error: Exception) -> None:
    """The writer survives, and the next batch is booked."""
    store = Recorder()
    store.release.set()
    with writing(store) as writer:

        def fail(_: Batch) -> frozenset[str]:
            raise error

        working, store.outcome = store.outcome, fail
        with pytest.raises(type(error)):
            await writer.book("p", batch("one"))
        store.outcome = working
        assert await writer.book("p", batch("two")) == {"two-0"}


async def test_writer__request_gives_up__its_batch_is_booked() -> None:
    """A cancelled request changes nothing for the others."""
    store = Recorder()
    with writing(store) as writer:
        first = writer.book("p", batch("first"))
        await entered(store)
        given_up, other = writer.book("p", batch("a")), writer.book("p", batch("b"))
        given_up.cancel()
        store.release.set()
        assert await asyncio.wait_for(other, WAIT_S) == {"b-0"}
        assert await first == {"first-0"}
    assert store.groups == [("p", [1]), ("p", [1, 1])]


async def test_writer__closed__books_what_waits_and_takes_no_more() -> None:
    """SIGTERM loses nothing that was accepted."""
    store = Recorder()
    writer = Writer(store, Metrics(), threads=1, requests_max=9)
    writer.start()
    first = writer.book("p", batch("first"))
    await entered(store)
    second = writer.book("p", batch("second"))
    closing = asyncio.create_task(asyncio.to_thread(writer.close, WAIT_S))
    while not writer._is_closing:
        await asyncio.sleep(0)
    with pytest.raises(Problem):
        writer.book("p", batch("third"))
    store.release.set()
    assert await closing
    assert [await first, await second] == [{"first-0"}, {"second-0"}]


async def test_writer__clients_that_it_answered__are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They send their next batches together, and these go into one transaction."""
    monkeypatch.setattr("paygent.server.writer._LINGER_S", WAIT_S)
    store = Recorder()
    with writing(store) as writer:
        first = writer.book("p", batch("first"))
        await entered(store)
        answers = [writer.book("p", batch(name)) for name in ("a", "b", "c")]
        store.release.set()
        await asyncio.gather(first, *answers)
        answers = [writer.book("p", batch("d"))]
        await asyncio.sleep(0.05)  # long enough for a thread that would not wait
        answers += [writer.book("p", batch(name)) for name in ("e", "f")]
        await asyncio.gather(*answers)
    assert store.groups == [("p", [1]), ("p", [1] * 3), ("p", [1] * 3)]


async def test_writer__fewer_clients_than_before__are_not_waited_for_long() -> None:
    """After the wait what is there is booked, and the next batch at once."""
    store = Recorder()
    with writing(store) as writer:
        first = writer.book("p", batch("first"))
        await entered(store)
        answers = [writer.book("p", batch(name)) for name in ("a", "b")]
        store.release.set()
        await asyncio.gather(first, *answers)
        assert await asyncio.wait_for(writer.book("p", batch("c")), WAIT_S) == {"c-0"}
    assert store.groups == [("p", [1]), ("p", [1] * 2), ("p", [1])]


def of_users(name: str, *user_ids: str) -> Batch:
    """Return a batch with an event of each user."""
    events = batch(name, len(user_ids)).events
    pairs = zip(events, user_ids, strict=True)
    return Batch(events=tuple(event._replace(user_id=user_id) for event, user_id in pairs))


def user_of(thread: int) -> str:
    """Return a user of one of two threads; which it is depends on the process."""
    return next(name for name in map(str, range(64)) if hash(name) % 2 == thread)


async def test_writer__two_threads__each_books_the_users_of_its_own() -> None:
    """The parts of a batch are booked side by side; the request has the outcome of both."""
    store = Recorder()
    one, two = user_of(0), user_of(1)
    with writing(store, threads=2) as writer:
        answer = writer.book("p", of_users("a", one, two, one))
        await entered(store)
        while len(store.groups) < 2:
            await asyncio.sleep(0.001)
        assert not answer.done()
        store.release.set()
        assert await answer == {"a-0", "a-1", "a-2"}
    assert sorted(store.groups) == [("p", [1]), ("p", [2])]


async def test_writer__two_threads__a_user_is_never_booked_by_both() -> None:
    """A second batch of the user waits for the first one."""
    store = Recorder()
    one, two = user_of(0), user_of(1)
    with writing(store, threads=2) as writer:
        answers = [writer.book("p", of_users("a", one))]
        await entered(store)
        store.entered.clear()
        answers.append(writer.book("p", of_users("b", one)))
        answers.append(writer.book("p", of_users("c", two)))
        await entered(store)  # the other thread's, while the first one runs
        assert store.groups == [("p", [1]), ("p", [1])]
        store.release.set()
        assert await asyncio.gather(*answers) == [{"a-0"}, {"b-0"}, {"c-0"}]


async def test_writer__two_threads__a_part_that_fails__fails_the_request() -> None:
    """The other part is stored; the client sends the batch again."""
    store = Recorder()
    one, two = user_of(0), user_of(1)
    odd = ValueError("odd row")
    store.outcome = lambda given: odd if given.events[0].user_id == two else frozenset({"x"})
    store.release.set()
    with writing(store, threads=2) as writer:
        with pytest.raises(Rejected):
            await writer.book("p", of_users("a", one, two))
    assert len(store.groups) == 2


async def test_writer__two_threads__one_that_is_full__refuses_the_whole_batch() -> None:
    """No part of a refused batch is booked."""
    store = Recorder()
    one, two = user_of(0), user_of(1)
    with writing(store, threads=2, requests_max=1) as writer:
        answers = [writer.book("p", of_users("a", one))]
        await entered(store)
        answers.append(writer.book("p", of_users("b", one)))
        with pytest.raises(Problem):
            writer.book("p", of_users("c", two, one))
        assert writer.waiting == 1
        store.release.set()
        assert await asyncio.gather(*answers) == [{"a-0"}, {"b-0"}]
    assert store.groups == [("p", [1]), ("p", [1])]


@pytest.mark.parametrize(
    "more",
    [
        {"holder": "web-1", "number": 1},
        {"records": (SessionRecord("u", "s", True, 0, 0),)},
        {"questions": (Question("u"),)},
    ],
    ids=["holder", "records", "questions"],
)
async def test_writer__two_threads__a_batch_with_more_than_events_stays_whole(
    more: dict[str, Any],
) -> None:
    """The number of a batch stands for all of it, so one transaction books it."""
    store = Recorder()
    store.release.set()
    given = replace(of_users("a", user_of(0), user_of(1)), at_us=7, **more)
    booked: list[Batch] = []

    def keep(each: Batch) -> frozenset[str]:
        booked.append(each)
        return frozenset({"x"})

    store.outcome = keep
    with writing(store, threads=2) as writer:
        assert await writer.book("p", given) == {"x"}
    assert booked == [given]


async def test_writer__two_threads__batches_of_a_holder_run_one_after_the_other() -> None:
    """The first one ends before the second one starts, whichever users they have."""
    store = Recorder()
    one, two = user_of(0), user_of(1)
    with writing(store, threads=2) as writer:
        answers = [writer.book("p", replace(of_users("a", one), holder="web-1", number=1))]
        await entered(store)
        store.entered.clear()
        answers.append(writer.book("p", replace(of_users("b", two), holder="web-1", number=2)))
        assert not await asyncio.to_thread(store.entered.wait, 0.2)
        store.release.set()
        assert await asyncio.gather(*answers) == [{"a-0"}, {"b-0"}]
    assert store.groups == [("p", [1]), ("p", [1])]
