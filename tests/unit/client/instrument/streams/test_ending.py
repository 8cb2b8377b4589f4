"""The end of a stream that several threads end, and of one that was left and is read on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES
from tests.unit.client.instrument.requests import Init

from paygent import Paygent, paygent_context
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage
from paygent.testing import FakeProvider


class Reader:
    """A reader that has read what a test says."""

    def __init__(self) -> None:
        self.seen = Usage(1_000, 5, quality="partial")

    def feed(self, chunk: Any) -> None:
        """Read nothing."""

    def usage(self, estimate: Estimate) -> Usage:
        """Return what was read."""
        return self.seen


def call_of(pg: Paygent) -> Call:
    """A call under way."""
    pg.get_usage("u1")  # from now on the ledger is not queried
    with paygent_context("u1"):
        call = pg._parts.meter.begin(Request("openai", "chat.completions", "gpt-4o", {}))
    assert isinstance(call, Call)
    return call


def test_stream_end__while_another_thread_settles_what_was_left__is_not_lost(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that settles what was left corrects it, once that is settled."""
    pg = init()
    settling, go_on = threading.Event(), threading.Event()
    settle = Meter._settle

    def slow(meter: Meter, call: Call, usage: Any) -> Any:
        event = settle(meter, call, usage)
        settling.set()
        assert go_on.wait(30)
        return event

    monkeypatch.setattr(Meter, "_settle", slow)
    reader = Reader()
    ending = StreamEnd(pg._parts.meter, call_of(pg), reader)
    leaving = threading.Thread(target=ending.end_abandoned)
    leaving.start()
    assert settling.wait(30)
    reader.seen = Usage(1_000, 100)
    ending.end_exhausted()
    ending.end_from_finalizer()
    go_on.set()
    leaving.join(30)
    assert pg.get_usage("u1").period_tokens_total == 1_100


def test_correct__by_two_threads__is_booked_once(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the call may be corrected before either does it."""
    pg = init()
    meter, call = pg._parts.meter, call_of(pg)
    meter.settle_left(call, Usage(1_000, 5, quality="partial"))
    barrier = threading.Barrier(2)
    monkeypatch.setattr(Call, "is_provisional", property(lambda call: barrier.wait(30) >= 0))
    threads = [
        threading.Thread(target=meter.correct, args=(call, Usage(1_000, 100))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert pg.get_usage("u1").period_tokens_total == 1_100


@pytest.mark.parametrize("wraps", [True, False])
def test_openai__a_stream_that_is_left_inside_wrap__ends_there(
    wraps: bool, init: Init, fake: FakeProvider
) -> None:
    """`wrap` runs the application's code and holds no lock meanwhile."""
    pg = init()
    in_flight: list[int] = []

    def work() -> None:
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
            for _ in stream:
                break
            in_flight.append(pg._parts.accounts.registry.calls_in_flight)

    run: Callable[[], Any] = (lambda: pg.wrap(work, user_id="u1")) if wraps else work
    with paygent_context("u1"):
        run()
    assert in_flight == [0]
