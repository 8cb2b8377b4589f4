"""Pauses between tries: they grow, they are spread, and the other side may ask for longer ones."""

from __future__ import annotations

from paygent.ledger.backoff import Backoff


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_backoff(clock: Clock, chance: float = 1.0) -> Backoff:
    """Return pauses of 1, 2, 4 … 10 seconds."""
    return Backoff(1.0, 10.0, now_s=clock, chance=lambda: chance)


def test_fail__again_and_again__doubles_the_pause_up_to_the_longest() -> None:
    """A server that is away for long is not asked more often than that."""
    backoff, pauses = make_backoff(Clock()), []
    for _ in range(6):
        backoff.fail()
        pauses.append(backoff.wait_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_fail__ten_thousand_times__does_not_overflow() -> None:
    """An outage may last for days."""
    backoff = make_backoff(Clock())
    for _ in range(10_000):
        backoff.fail()
    assert backoff.wait_s == 10.0


def test_fail__by_chance__halves_the_pause_at_most() -> None:
    """Processes that failed together come back apart."""
    backoff = make_backoff(Clock(), chance=0.0)
    backoff.fail()
    assert backoff.wait_s == 0.5


def test_fail__with_retry_after__waits_at_least_so_long() -> None:
    """The server knows best when it will be there."""
    backoff = make_backoff(Clock())
    backoff.fail(60.0)
    assert backoff.wait_s == 60.0
    backoff.fail(0.1)
    assert backoff.wait_s == 2.0


def test_wait_s__as_time_passes__shrinks_to_nothing() -> None:
    """The next try is due then."""
    clock = Clock()
    backoff = make_backoff(clock)
    backoff.fail()
    clock.now_s += 0.75
    assert backoff.wait_s == 0.25
    clock.now_s += 1.0
    assert backoff.wait_s == 0.0


def test_failing_s__from_the_start_of_the_first_try__until_it_works() -> None:
    """A try that takes eight seconds to fail has failed for eight seconds."""
    clock = Clock()
    backoff = make_backoff(clock)
    assert backoff.failing_s == 0.0
    backoff.start()
    clock.now_s += 8.0
    backoff.fail()
    assert backoff.failing_s == 8.0
    backoff.start()
    clock.now_s += 2.0
    backoff.fail()
    assert backoff.failing_s == 10.0
    backoff.succeed()
    assert (backoff.failing_s, backoff.wait_s) == (0.0, 0.0)
    backoff.fail()
    assert backoff.wait_s == 1.0


def test_wait_s__with_a_moment_at_which_a_try_is_due__ends_there_once() -> None:
    """Whoever has to decide then how to go on does not wait for minutes."""
    clock = Clock()
    backoff = Backoff(1.0, 10.0, due_after_s=5.0, now_s=clock, chance=lambda: 1.0)
    backoff.fail(600.0)
    assert backoff.wait_s == 5.0
    clock.now_s += 5.0
    backoff.fail(600.0)
    assert backoff.wait_s == 600.0
