"""Late ends: put off by finalizers, and called for when a call finds no room."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from paygent.client.metering.abandoned import DeferredEnds


class Cycle:
    """An object that only the collector frees, and that notes it."""

    def __init__(self, ends: DeferredEnds, freed: list[str]) -> None:
        self.me = self
        self._ends = ends
        self._freed = freed

    def __del__(self) -> None:
        self._ends.add(lambda: self._freed.append("freed"))


@pytest.fixture(autouse=True)
def _by_hand() -> Iterator[None]:
    """Let the collector run only where it is called."""
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*thresholds)


def test_collect_left__a_stream_was_left__frees_it_and_ends_it_here() -> None:
    """Whoever finds no room has what was dropped collected."""
    ends, freed = DeferredEnds(lambda: None), list[str]()
    Cycle(ends, freed)
    assert (ends.collect_left(is_first=False), freed) == ("none", [])
    ends.mark_abandoned()
    assert (ends.collect_left(is_first=False), freed) == ("now", ["freed"])
    assert ends.collect_left(is_first=False) == "none"


def test_collect_left__soon_after_the_last_one__waits_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collection stops all threads, so there is one a second at most, less often if it is slow;
    what was left meanwhile is not forgotten.
    """
    now_s, takes_s = [0.0], [0.0]

    def collect() -> None:
        now_s[0] += takes_s[0]

    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(gc, "collect", collect)
    ends = DeferredEnds(lambda: None)
    for takes_s[0], pause_s in ((0.0, 1.0), (0.5, 10.0)):
        ends.mark_abandoned()
        assert ends.collect_left(is_first=False) == "now"
        ends.mark_abandoned()
        now_s[0] += pause_s - 0.01
        assert ends.collect_left(is_first=False) == "soon"
        now_s[0] += 0.01


def test_collect_left__switched_off_by_the_application__leaves_it_off() -> None:
    """It has its reasons."""
    ends = DeferredEnds(lambda: None)
    ends.mark_abandoned()
    gc.disable()
    try:
        assert ends.collect_left(is_first=False) == "none"
    finally:
        gc.enable()
    assert ends.collect_left(is_first=False) == "now"


def test_collect_left__on_an_event_loop__is_done_by_the_delivering_thread() -> None:
    """The loop is not stopped by us; the thread that delivers is told to hurry."""
    hurried: list[bool] = []
    ends, freed = DeferredEnds(lambda: hurried.append(True)), list[str]()
    Cycle(ends, freed)
    ends.mark_abandoned()

    async def main() -> str:
        return ends.collect_left(is_first=False)

    assert (asyncio.run(main()), hurried, freed) == ("soon", [True], [])
    ends.before_round()
    assert freed == ["freed"]


@pytest.mark.parametrize("is_first", [True, False])
def test_collect_left__in_a_task_while_an_async_for_is_open__waits_a_moment_once(
    is_first: bool,
) -> None:
    """What the task has just left is closed by the loop later; what it is inside of, never."""
    ends = DeferredEnds(lambda: None)

    async def main() -> str:
        return ends.collect_left(is_first=is_first)

    ends.note_async(1, is_open=True)
    assert asyncio.run(main()) == ("soon" if is_first else "none")
    assert ends.collect_left(is_first=True) == "none"  # a thread has left nothing unseen
    ends.note_async(1, is_open=False)
    assert asyncio.run(main()) == "none"


def test_before_round__too_soon__keeps_the_wish() -> None:
    """The next round looks again."""
    ends, freed = DeferredEnds(lambda: None), list[str]()
    Cycle(ends, freed)
    ends.mark_abandoned()

    async def main() -> str:
        return ends.collect_left(is_first=False)

    asyncio.run(main())
    ends._next_s = float("inf")
    ends.before_round()
    assert freed == []
    ends._next_s = 0.0
    ends.before_round()
    assert freed == ["freed"]


def test_renew_after_fork__the_parents_ends__are_forgotten() -> None:
    """They are the parent's to run."""
    ends = DeferredEnds(lambda: None)
    ends.add(lambda: pytest.fail("not ours"))
    ends.mark_abandoned()
    ends.renew_after_fork()
    ends.run()
    assert (list(ends.waiting), ends.collect_left(is_first=False)) == ([], "none")
