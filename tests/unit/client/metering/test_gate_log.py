"""Calls at gates on their way to the ledger: one record for those that are alike, none lost."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Swallowed

from paygent.client.metering import gate_log as module
from paygent.client.metering.gate_log import GateLog
from paygent.client.runtime.callbacks import Callbacks
from paygent.core.messages import MISSING_USER_ID, QUARTER_US, GateEvent, UnmeteredCount
from paygent.core.record_json import record_from_json, record_to_json
from paygent.failopen import diagnostics
from paygent.types import GuardResult

NOON_US = 20_000 * 86_400 * 10**6 + QUARTER_US // 2


class Bench:
    """A log with a clock that is set."""

    def __init__(self) -> None:
        self.at_us = NOON_US
        self.callbacks = Callbacks()
        self.woken = 0
        self.log = GateLog(self.callbacks, lambda: self.at_us, lambda: "process")
        self.log.wake = self._wake

    def _wake(self) -> None:
        self.woken += 1

    def counts(self) -> list[tuple[int, str, str, int]]:
        """Return what is delivered of unmetered calls."""
        return [each[1:] for each in self.log.take() if isinstance(each, UnmeteredCount)]


@pytest.fixture
def bench() -> Bench:
    """A log with nothing in it."""
    return Bench()


def result(reason: str = "total_spend", status: str = "hard_gate", **fields: Any) -> GuardResult:
    """Return a result of a gate."""
    given: dict[str, Any] = {"user_id": "ann", "model": "gpt-4o", "usage_pct": 1.0, **fields}
    return GuardResult(status, reason, **given)  # type: ignore[arg-type]


def test_take__calls_that_are_alike__are_one_event(bench: Bench) -> None:
    """With the time of the first and the figures of the last; other reasons are others."""
    for number in range(3):
        bench.at_us = NOON_US + number
        refused = result(current_value=0.1 * (number + 1), limit_value=10, message=f"m{number}")
        bench.log.refuse(refused, "s1", blocked=True)
    bench.log.warn(result(status="soft_gate", usage_pct=0.8), "s1")
    bench.log.refuse(result("session_spend"), "s1", blocked=True)
    bench.log.refuse(result(), "s2", blocked=True)
    bench.log.refuse(result(), "s1", blocked=False)
    events = [each for each in bench.log.take() if isinstance(each, GateEvent)]
    assert [(each.status, each.gate_reason, each.session_id, each.calls) for each in events] == [
        ("hard_gate", "total_spend", "s1", 3),
        ("soft_gate", "total_spend", "s1", 1),
        ("hard_gate", "session_spend", "s1", 1),
        ("hard_gate", "total_spend", "s2", 1),
        ("hard_gate", "total_spend", "s1", 1),
    ]
    assert [each.blocked for each in events] == [True, False, True, True, False]
    first = events[0]
    assert (first.at_us, first.current_value, first.limit_value) == (NOON_US, "0.3", "10")
    assert (first.message, first.usage_ppm, events[1].usage_ppm) == ("m2", 1_000_000, 800_000)
    assert len({each.gate_event_id for each in events}) == 5
    assert (bench.log.take(), bench.woken) == ([], 7)


@given(
    st.builds(
        GuardResult,
        st.sampled_from(("soft_gate", "hard_gate")),
        st.none() | st.text(max_size=600),
        st.floats(0, 1e12),
        st.floats(0, 1e15),
        st.floats(0, 1e15),
        st.none() | st.text(max_size=3_000),
        user_id=st.none() | st.text(min_size=1, max_size=255),
        model=st.none() | st.text(max_size=600),
    ),
)
def test_take__any_result__is_a_record_that_a_ledger_accepts(given_result: GuardResult) -> None:
    """Texts are cut and figures are bounded: a record that is refused would be lost."""
    bench = Bench()
    bench.log.refuse(given_result, "", blocked=True)
    bench.log.count_unmetered("openai:POST /x", given_result.model or "")
    for record in bench.log.take():
        assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


def test_take__a_call_without_a_user__is_the_reserved_ones(bench: Bench) -> None:
    """Nobody else is known for it."""
    bench.log.refuse(result("no_user", user_id=None), blocked=True)
    (event,) = bench.log.take()
    assert isinstance(event, GateEvent)
    assert event.user_id == MISSING_USER_ID


def test_unmetered__of_a_quarter_of_an_hour__is_the_number_so_far(bench: Bench) -> None:
    """It grows until the next quarter begins, and only what has grown is sent."""
    start_us = NOON_US // QUARTER_US * QUARTER_US
    bench.log.count_unmetered("a", "m")
    bench.log.count_unmetered("a", "m")
    bench.log.count_unmetered("b", "")
    assert bench.counts() == [(start_us, "a", "m", 2), (start_us, "b", "", 1)]
    bench.log.count_unmetered("a", "m")
    assert bench.counts() == [(start_us, "a", "m", 3)]
    bench.at_us += QUARTER_US
    bench.log.count_unmetered("a", "m")
    assert bench.counts() == [(start_us + QUARTER_US, "a", "m", 1)]
    bench.at_us += 5 * QUARTER_US
    bench.log.count_unmetered("a", "m")
    assert bench.counts() == [(start_us + 6 * QUARTER_US, "a", "m", 1)]
    assert len(bench.log._unmetered) == 1  # what is over is forgotten


def test_unmetered__more_operations_than_are_kept__count_as_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that an application makes up have no bound; memory has."""
    monkeypatch.setattr(module, "_OPERATIONS_MAX", 2)
    for name in ("a", "b", "c", "d", "a"):
        bench.log.count_unmetered(name, "m")
    counted = {(operation, model): calls for _, operation, model, calls in bench.counts()}
    assert counted == {("a", "m"): 2, ("b", "m"): 1, ("other", ""): 2}


def test_log__more_calls_than_a_round_keeps__are_counted_as_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks hear of them all the same."""
    monkeypatch.setattr(module, "_QUEUE_MAX", 2)
    heard: list[Any] = []
    bench.callbacks.register("hard_gate", heard.append)
    for _ in range(5):
        bench.log.refuse(result(), blocked=True)
    bench.callbacks.flush(5.0)
    (event,) = bench.log.take()
    assert isinstance(event, GateEvent)
    assert (event.calls, len(heard), diagnostics.counts["gate_log_full"]) == (2, 5, 3)


def test_log__many_threads_while_it_is_taken__count_each_call_once(bench: Bench) -> None:
    """The queue has no lock, and nothing is lost."""
    found: list[Any] = []

    def refuse() -> None:
        for _ in range(500):
            bench.log.refuse(result(), blocked=True)

    threads = [threading.Thread(target=refuse) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += bench.log.take()
    found += bench.log.take()
    assert sum(each.calls for each in found) == 4_000


def test_fork__what_is_not_delivered__is_the_parents(bench: Bench) -> None:
    """A child would deliver it a second time."""
    bench.log.refuse(result(), blocked=True)
    bench.log.count_unmetered("a", "m")
    bench.log.renew_after_fork()
    assert bench.log.take() == []
    bench.log.count_unmetered("a", "m")
    assert [calls for *_, calls in bench.counts()] == [1]


def test_unmetered__names_of_any_length__are_accepted_by_a_ledger(bench: Bench) -> None:
    """They are cut like those of gate events."""
    bench.log.count_unmetered("o" * 300, "m" * 300)
    (record,) = bench.log.take()
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


def test_unmetered__a_clock_that_was_ahead__goes_on_where_it_was(bench: Bench) -> None:
    """An hour's moment of a wrong time does not make every count begin again."""
    bench.at_us += 4 * QUARTER_US
    bench.log.count_unmetered("a", "m")
    assert [calls for *_, calls in bench.counts()] == [1]
    bench.at_us -= 4 * QUARTER_US
    found = []
    for _ in range(20):
        bench.log.count_unmetered("a", "m")
        found += [calls for *_, calls in bench.counts()]
    assert found == list(range(1, 21))


def test_take__calls_on_both_sides_of_a_quarter__are_two_events(bench: Bench) -> None:
    """One of them may be midnight, wherever the product is."""
    bench.at_us = NOON_US // QUARTER_US * QUARTER_US - 1
    bench.log.refuse(result(), "s1", blocked=True)
    bench.at_us += 1
    for _ in range(9):
        bench.log.refuse(result(), "s1", blocked=True)
    found = [(each.at_us, each.calls) for each in bench.log.take() if isinstance(each, GateEvent)]
    assert found == [(bench.at_us - 1, 1), (bench.at_us, 9)]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_take__a_figure_that_is_none__costs_no_other_record(
    bench: Bench, swallowed: Swallowed, value: float
) -> None:
    """It is counted, and the rest is delivered."""
    swallowed.expect("gate_log")
    bench.log.refuse(result(usage_pct=value), blocked=True)
    bench.log.refuse(result("session_spend"), blocked=True)
    assert [each.gate_reason for each in bench.log.take()] == ["session_spend"]  # type: ignore[union-attr]


def test_unmetered__as_many_names_in_each_quarter__have_room_in_each(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is of a quarter of an hour."""
    monkeypatch.setattr(module, "_OPERATIONS_MAX", 2)
    for quarter in range(4):
        bench.at_us = NOON_US + quarter * QUARTER_US
        for name in ("a", "b"):
            bench.log.count_unmetered(f"{name}{quarter}", "m")
        assert {operation for _, operation, _, _ in bench.counts()} == {
            f"a{quarter}",
            f"b{quarter}",
        }


def test_unmetered__calls_that_wait_for_room__go_on_from_their_number(bench: Bench) -> None:
    """However long there is no room."""
    for _ in range(5):
        bench.log.count_unmetered("a", "m")
    assert [calls for *_, calls in bench.counts()] == [5]
    for _ in range(10):
        bench.log.count_unmetered("a", "m")
    bench.at_us += 4 * QUARTER_US
    assert bench.log.take(0) == []
    assert [calls for *_, calls in bench.counts()] == [15]


@pytest.mark.parametrize("where", ["wake", "_now_us"])
def test_log__a_failure_in_it__stops_neither_callbacks_nor_a_refusal(
    bench: Bench, swallowed: Swallowed, where: str
) -> None:
    """A call is refused after it was reported: what fails here must not let it pass."""

    def broken() -> Any:
        raise RuntimeError("a bug of ours")

    setattr(bench.log, where, broken)
    swallowed.expect("gate_log")
    heard: list[Any] = []
    bench.callbacks.register("hard_gate", heard.append)
    bench.callbacks.register("soft_gate", heard.append)
    bench.log.refuse(result(), blocked=True)
    bench.log.warn(result(status="soft_gate"), "s1")
    bench.log.count_unmetered("a", "m")
    bench.callbacks.flush(5.0)
    assert len(heard) == 2
