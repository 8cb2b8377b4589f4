"""The queue of requested responses, where both directions are at work at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paygent.client.instrument.realtime.pending import PendingResponse, Responses


def running(lane: Any = None, event_id: Any = None) -> PendingResponse:
    """A response; who holds for it does not matter here."""
    call: Any = SimpleNamespace()
    meter: Any = SimpleNamespace()
    return PendingResponse(call, meter, None, event_id=event_id, lane=lane)


def test_responses__each_lane__is_a_queue_of_its_own() -> None:
    """In the order of the requests; another lane is used only on request."""
    queue = Responses()
    first, other, second = running("a"), running("b"), running("a")
    for each in (first, other, second):
        queue.add(each)
    assert queue.waits_in("b")
    assert queue.take_waiting("b") is other
    assert not queue.waits_in("b")
    assert queue.take_waiting(None) is None
    assert queue.take_waiting("a") is first
    assert queue.take_waiting(None, or_any=True) is second
    assert queue.take_waiting(None, or_any=True) is None


def test_responses__in_a_lane__the_latest_goes_on() -> None:
    """It is the one that pieces and errors of the lane are about."""
    queue = Responses()
    first, second = running("a"), running("a")
    queue.begin("r1", first)
    queue.begin("r2", second)
    assert queue.in_lane("a") == ("r2", second)
    assert queue.in_lane(None) is None
    assert queue.end("r2") is second
    assert queue.end("r2") is None
    unnamed = running()
    queue.begin(None, unnamed)
    assert queue.end(None, "b") is None
    assert queue.end(None, None) is unnamed
    assert queue.end(None, "a") is first


def test_responses__withdrawn_or_gone__are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever direction is faster."""
    queue = Responses()
    one, other = running(), running()
    queue.add(one)
    queue.add(other)
    queue.withdraw(one.call)
    queue.withdraw(one.call)
    queue.begin("r1", one)
    assert queue.take_all() == [other, one]
    assert queue.take_all() == []
    assert not queue._take(one)
