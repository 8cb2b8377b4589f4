"""What a process lets calls spend unseen while the ledger is away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from paygent.client.accounts.offline_allowance import Allowance

ALLOWED_NANO = 1_000


def take(allowance: Allowance, cost_nano: int, outages: int = 0) -> bool:
    """Hold a cost on an allowance of 1,000."""
    return allowance.take(cost_nano, ALLOWED_NANO, outages=outages)


def test_take__up_to_the_line__the_call_that_crosses_it_is_the_last() -> None:
    """What calls in flight hold counts like what was spent."""
    allowance = Allowance()
    assert [take(allowance, 600) for _ in range(3)] == [True, True, False]
    allowance.give_back(600, 600)
    assert take(allowance, 1) is False


def test_give_back__a_call_that_spent_nothing__leaves_the_room_that_it_held() -> None:
    """A void call has used no allowance."""
    allowance = Allowance()
    assert take(allowance, 1_000) is True
    allowance.give_back(1_000, 0)
    assert take(allowance, 1_000) is True


def test_give_back__a_call_that_cost_more_than_it_held__counts_what_it_cost() -> None:
    """The estimate was short; the allowance is not fooled by it."""
    allowance = Allowance()
    assert take(allowance, 1) is True
    allowance.give_back(1, 1_000)
    assert take(allowance, 1) is False


def test_take__after_an_outage_has_ended__starts_again() -> None:
    """What was spent has been seen; what is in flight has not."""
    allowance = Allowance()
    assert take(allowance, 400) is True
    allowance.give_back(400, 1_000)
    assert take(allowance, 600, outages=1) is True
    assert take(allowance, 600, outages=1) is True
    assert take(allowance, 600, outages=2) is False


def test_take__from_many_threads__never_passes_the_line_by_more_than_one_call() -> None:
    """One lock decides."""
    allowance = Allowance()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: take(allowance, 100), range(200)))
    assert sum(taken) == 10


def test_renew_after_fork__a_lock_that_was_held__is_replaced_and_nothing_is_held() -> None:
    """The parent's calls are the parent's to end."""
    allowance = Allowance()
    assert take(allowance, 1_000) is True
    allowance._lock.acquire()
    allowance.renew_after_fork()
    assert take(allowance, 1_000) is True
