"""P4 for calls that take the shortcut: wherever a Ctrl-C comes, a call that reached the provider is
counted once, one that did not is not, and memory, journal and ledger agree.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import openai
import pytest
from tests.accounts import counts_what_is_pending, nothing_left
from tests.conftest import Closing
from tests.instrument.shapes import MESSAGES
from tests.promises.interruptions import comes_free, interrupted_at_signal

from paygent import Limit, Paygent, PlanConfig, paygent_context
from paygent.client.instrument.http_sdks import wrapper
from paygent.client.journal.codec import decode
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import unfinished
from paygent.client.journal.segments import Lanes, MemorySegment, parse
from paygent.client.metering.meter import Meter
from paygent.core.event import Event
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import LedgerUnavailable
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

FAR = PlanConfig(max_spend_per_period=10**6, limits=(Limit("calls", cap=10**9),))
THE_CALL = (
    "http_sdks/shortcut.py",
    "openai/plain.py",
    "metering/meter.py",
    "client/accounts/",
    "journal/journal.py",
    "journal/segments.py",
    "core/records.py",
)
COUNTING = ("client/accounts/", "core/records.py")


class Caller:
    """Makes calls that take the shortcut, in one of three ways."""

    def __init__(self, kind: str, fake: FakeProvider, closing: Closing) -> None:
        self._kind = kind
        self._client = closing(openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0))
        self._async_client = openai.AsyncOpenAI(
            api_key="k", base_url=fake.openai_url, max_retries=0
        )
        self._loop = asyncio.new_event_loop()

    def call(self) -> None:
        """Make one call."""
        with paygent_context("u1"):
            if self._kind == "async":
                self._loop.run_until_complete(self._call_async())
            elif self._kind == "stream":
                with self._client.chat.completions.create(
                    model="gpt-4o", messages=MESSAGES, stream=True
                ) as stream:
                    for _ in stream:
                        pass
            else:
                self._client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    async def _call_async(self) -> None:
        await self._async_client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    def close(self) -> None:
        """Close the async client and its loop."""
        self._loop.run_until_complete(self._async_client.close())
        self._loop.close()


@pytest.fixture
def caller(kind: str, fake: FakeProvider, closing: Closing) -> Iterator[Caller]:
    """Calls of the test's `kind`."""
    made = Caller(kind, fake, closing)
    yield made
    made.close()


class JournalReader:
    """Reads the events of a living process's journal as the next process would find them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._done = 0
        self._lanes: Lanes = {}

    def new_events(self) -> dict[str, Event]:
        """Return what has been written since the last time, by event id."""
        ((segment, end),) = self._journal.mark()  # these tests fill less than one
        assert not isinstance(segment, MemorySegment)
        data = segment.path.read_bytes()[self._done : end]
        records, done = parse(data, self._lanes, at_end=True)
        self._done += done
        return {
            event.event_id: event
            for event in decode(records, unfinished=unfinished(records)).events
        }


def amounts(events: dict[str, Event]) -> dict[str, tuple[int, int, int]]:
    """Return the figures of events by their id."""
    return {
        key: (event.input_tokens, event.output_tokens, event.cost_nano)
        for key, event in events.items()
    }


def takes_the_shortcut(caller: Caller) -> bool:
    """Make a call, and return whether it did without the whole way."""
    with pytest.MonkeyPatch.context() as patch:
        whole_way = Mock(side_effect=AssertionError)
        patch.setattr(Meter, "begin", whole_way)
        caller.call()
    return not whole_way.called


def started(init: Init) -> Paygent:
    """Start a Paygent whose users are far from every line."""
    pg = init()
    pg.configure_plan("default", FAR)
    return pg


@pytest.mark.parametrize("kind", ["sync", "async", "stream"])
@pytest.mark.parametrize("listens", [False, True])
def test_shortcut__an_interruption_at_any_step__counts_what_reached_the_provider_once(
    init: Init,
    fake: FakeProvider,
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    listens: bool,
) -> None:
    """No hold and no lock stays; each request is one event, in memory and in the journal. With an
    `on_usage` callback the call is counted before it returns, without one later.
    """

    def away(*arguments: object) -> None:
        raise LedgerUnavailable("so that nothing leaves memory and journal")

    pg = started(init)
    heard: list[str] = []
    if listens:
        pg.on_usage(lambda event: heard.append(event.id))
    for _ in range(5):
        caller.call()
    pg.flush()
    journal, user = JournalReader(pg._parts.journal), pg._parts.accounts.registry.users["u1"]
    journal.new_events()
    with monkeypatch.context() as patch:
        patch.setattr(LocalLedger, "settle", away)
        step, where = 0, "first"
        while where:
            step += 1
            known, requests = set(user.pending), len(fake.requests)
            where = interrupted_at_signal(step, caller.call, THE_CALL)
            assert comes_free(user.lock), where
            if user.open and not user.finished:
                gc.collect()  # a stream that nobody can read any more
            pg.get_usage("u1")  # as any next step does, it ends what nobody else can
            assert nothing_left(pg), where
            assert pg.health()["calls_in_flight"] == 0, where
            assert counts_what_is_pending(user), where
            fresh = {key: user.pending[key] for key in user.pending.keys() - known}
            assert len(fresh) == len(fake.requests) - requests, where
            assert amounts(journal.new_events()) == amounts(fresh), where
        assert step > 40
        assert takes_the_shortcut(caller)  # as all these calls would have
    pg.flush()
    assert pg.pending_events == 0
    (row,) = pg.report()
    assert row.calls == len(fake.requests)
    assert pg.get_usage("u1").period_cost_nano == row.cost_nano
    assert len(heard) == len(set(heard))


@pytest.mark.parametrize("kind", ["sync", "async", "stream"])
def test_whole_way__an_interruption_at_any_step__leaves_no_hold(
    init: Init, fake: FakeProvider, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one before the first line of what ends the call, while an event loop keeps the
    frames of its task.
    """
    pg = started(init)
    for _ in range(5):
        caller.call()
    pg.flush()
    user = pg._parts.accounts.registry.users["u1"]
    monkeypatch.setattr(wrapper, "begin", lambda *_: None)
    step, where = 0, "first"
    while where:
        step += 1
        where = interrupted_at_signal(step, caller.call, THE_CALL)
        assert comes_free(user.lock), where
        if user.open and not user.finished:
            gc.collect()  # a stream that nobody can read any more
        pg.get_usage("u1")
        assert nothing_left(pg), where
    assert step > 60


@pytest.mark.parametrize("kind", ["sync"])
@pytest.mark.parametrize("what", ["the call", "get_usage", "pending_events"])
def test_shortcut__an_interruption_and_then_a_delivery__leaves_the_figures_of_the_ledger(
    init: Init, fake: FakeProvider, caller: Caller, what: str
) -> None:
    """Ctrl-C wherever a call ends or is counted, and the delivery thread is the next to come: it
    counts what it delivers, and nothing is pending for ever.
    """
    pg = started(init)
    for _ in range(5):
        caller.call()
    pg.flush()
    user = pg._parts.accounts.registry.users["u1"]
    readings: dict[str, Callable[[], object]] = {
        "get_usage": lambda: pg.get_usage("u1"),
        "pending_events": lambda: pg.pending_events,
    }
    step, where = 0, "first"
    while where:
        step += 1
        if what == "the call":
            where = interrupted_at_signal(step, caller.call, THE_CALL)
        else:
            caller.call()
            where = interrupted_at_signal(step, readings[what], COUNTING)
        pg.flush()
        assert user.pending == {}, where
        assert nothing_left(pg), where
        assert user.pending == {}, where
        (row,) = pg.report()
        assert row.calls == len(fake.requests), where
        assert pg.get_usage("u1").period_cost_nano == row.cost_nano, where
    assert step > 15
