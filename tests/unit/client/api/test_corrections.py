"""Corrections: what is added to or taken off an earlier event counts where that one counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.client.api.test_paygent import AbsentLedger

import paygent.client.api.record_event as manual_module
from paygent import InvalidValue, Limit, Paygent, PaygentLimitExceeded, PlanConfig
from paygent.client.runtime.settings import Settings
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

RATES = {"m": ModelCostRate.per_million(1, 4)}
MONTH_US = 32 * 86_400 * 10**6
ANSWER: Any = {"model": "m", "usage": {"prompt_tokens": 1_000, "completion_tokens": 500}}


def started(init: Init, **fields: Any) -> Paygent:
    """Start a Paygent whose users are on a plan."""
    pg = init()
    pg.configure_plan("default", PlanConfig(**{"cost_rates": RATES, **fields}))
    return pg


def called(pg: Paygent) -> str:
    """Make one call of three thousandths of a dollar; return its event's id."""
    events: list[Any] = []
    pg._parts.callbacks.register("usage", events.append)
    pg.wrap(lambda: ANSWER, "u1", "m")
    pg._parts.callbacks.flush(5)
    return str(events[0].id)


@pytest.mark.parametrize("delivered", [False, True])
def test_correct__a_cost_and_tokens__count_in_the_originals_model_and_period(
    init: Init, delivered: bool
) -> None:
    """Also negative ones, at once, whether the ledger has the original already or not."""
    pg = started(init)
    event_id = called(pg)
    if delivered:
        pg.flush()
    event = pg.record_event(
        "u1", corrects=event_id, cost="-0.001", input_tokens=-400, output_tokens=100
    )
    assert (event.corrects, event.model, event.total_tokens) == (event_id, "m", -300)
    assert event.cost_total_nano == -1_000_000
    for _ in range(2):
        usage = pg.get_usage("u1")
        assert usage.period_cost_nano == 2_000_000
        assert usage.period_tokens_by_model == {"m": 1_200}
        pg.flush()
    (row,) = pg.report()
    assert (row.calls, row.cost_nano, row.input_tokens) == (1, 2_000_000, 600)


def test_correct__tokens_without_a_cost__are_priced_as_the_original(init: Init) -> None:
    """What is taken off costs what it cost."""
    pg = started(init)
    event_id = called(pg)
    event = pg.record_event("u1", corrects=event_id, input_tokens=1_000, output_tokens=-500)
    assert event.cost_total_nano == 1_000_000 - 2_000_000
    assert event.price_id is not None
    assert event.price_id.startswith("plan:m@")


def test_correct__a_used_up_cap__is_open_again_and_no_call_is_counted(init: Init) -> None:
    """A wrong figure must not keep a user out; a correction is no call."""
    pg = started(init, max_spend_per_period=0.003, limits=(Limit("calls", cap=2),))
    event_id = called(pg)
    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(lambda: ANSWER, "u1", "m")
    pg.record_event("u1", corrects=event_id, cost="-0.002")
    pg.wrap(lambda: ANSWER, "u1", "m")
    with pytest.raises(PaygentLimitExceeded) as refused:
        pg.wrap(lambda: ANSWER, "u1", "m")
    assert refused.value.guard_result.gate_reason in ("calls:period", "total_spend")
    pg.flush()
    assert sum(row.calls for row in pg.report()) == 2


def test_correct__after_the_period_has_ended__leaves_the_new_one_alone(db_path: str) -> None:
    """It is booked into the windows of its original."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    pg.configure_plan("default", PlanConfig(cost_rates=RATES, max_spend_per_period=1))
    event_id = called(pg)
    before = pg.get_user_state("u1").billing_period
    pg.flush()
    now[0] += MONTH_US
    assert pg.get_usage("u1").period_cost_nano == 0
    event = pg.record_event("u1", corrects=event_id, cost="-0.003")
    assert before is not None
    assert before.start <= event.timestamp < before.end
    pg.flush()
    assert pg.get_usage("u1").period_cost_nano == 0
    now[0] -= MONTH_US
    rows = pg.report(start=before.start, end=before.end)
    assert [row.cost_nano for row in rows] == [0]


def test_correct__several_times__never_below_nothing(init: Init) -> None:
    """All corrections together, delivered or not, take off at most what there is."""
    pg = started(init)
    event_id = called(pg)
    pg.record_event("u1", corrects=event_id, cost="-0.002")
    pg.flush()
    pg.record_event("u1", corrects=event_id, cost="-0.001", input_tokens=-1_000)
    with pytest.raises(InvalidValue) as raised:
        pg.record_event(
            "u1", corrects=event_id, cost="-0.000000001", input_tokens=-1, output_tokens=-501
        )
    assert [finding.field for finding in raised.value.findings] == [
        "cost",
        "input_tokens",
        "output_tokens",
    ]
    assert pg.get_usage("u1").period_cost_nano == 0


@pytest.mark.parametrize("delivered", [False, True])
def test_correct__by_several_threads_at_once__never_below_nothing(
    init: Init, monkeypatch: pytest.MonkeyPatch, delivered: bool
) -> None:
    """Each has looked at what there is before any of them has booked."""
    pg = started(init)
    event_id = called(pg)
    if delivered:
        pg.flush()
    threads_count = 4
    have_looked = threading.Barrier(threads_count)
    look = pg._parts.queries.event

    def event(*arguments: Any) -> Any:
        found = look(*arguments)
        have_looked.wait(5)
        return found

    monkeypatch.setattr(pg._parts.queries, "event", event)
    answers: list[str] = []

    def correct() -> None:
        try:
            answers.append(pg.record_event("u1", corrects=event_id, cost="-0.002").quality)
        except InvalidValue as error:
            answers.append(error.findings[0].field)

    threads = [threading.Thread(target=correct) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["cost"] * (threads_count - 1) + ["exact"]
    assert pg.get_usage("u1").period_cost_nano == 1_000_000


def test_correct__a_booking_that_failed__leaves_what_it_would_have_taken(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was booked, so the next one may take it off; once booked, it stays booked."""
    pg = started(init)
    event_id = called(pg)

    def fail(*arguments: object) -> None:
        raise RuntimeError("no")

    for owner, name in (
        (pg._parts.records, "write_sessions"),
        (pg._parts.journal, "append"),
    ):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(owner, name, fail)
            pg.record_event("u1", corrects=event_id, cost="-0.002")
    assert pg.get_usage("u1").period_cost_nano == 1_000_000
    with pytest.raises(InvalidValue):
        pg.record_event("u1", corrects=event_id, cost="-0.002")


def test_correct__events_without_end__are_remembered_within_bounds(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten corrections are still in the pending events or in the ledger."""
    monkeypatch.setattr(manual_module, "_CORRECTED_MAX", 2)
    pg = started(init)
    events = [pg.record_event("u1", cost=1) for _ in range(4)]
    for event in events:
        pg.record_event("u1", corrects=event.id, cost=-1)
    assert len(pg._parts.recorder._corrections) == 2
    for delivered in (False, True):
        if delivered:
            pg.flush()
        for event in events:
            with pytest.raises(InvalidValue):
                pg.record_event("u1", corrects=event.id, cost=-1)


def test_correct__tokens_after_the_plans_prices_changed__cost_what_they_cost_then(
    init: Init,
) -> None:
    """What is taken off is taken off by the price list of the event, which is kept."""
    pg = started(init)
    event_id = called(pg)
    pg.flush()
    pg.configure_plan("default", PlanConfig(cost_rates={"m": ModelCostRate.per_million(50, 200)}))
    event = pg.record_event("u1", corrects=event_id, input_tokens=-1_000, output_tokens=-500)
    assert event.cost_total_nano == -3_000_000
    assert pg.get_usage("u1").period_cost_nano == 0


def test_correct__the_same_key_twice__books_once(init: Init) -> None:
    """As for any entry."""
    pg = started(init)
    event_id = called(pg)
    first, second = (
        pg.record_event("u1", corrects=event_id, cost="-0.001", idempotency_key="k")
        for _ in range(2)
    )
    assert first == second
    assert pg.get_usage("u1").period_cost_nano == 2_000_000


def test_correct__what_cannot_be_corrected__is_said_by_name(init: Init) -> None:
    """An unknown event, another user's, and a correction itself."""
    pg = started(init)
    event_id = called(pg)
    correction = pg.record_event("u1", corrects=event_id, cost="-0.001")
    for user_id, corrects in (("u1", "nobody"), ("u2", event_id), ("u1", correction.id)):
        with pytest.raises(InvalidValue) as raised:
            pg.record_event(user_id, corrects=corrects, cost=1)
        assert [finding.field for finding in raised.value.findings] == ["corrects"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"model": "m", "session_id": "s", "tool_calls": ["t"]}, "model session_id tool_calls"),
        ({"cost": "-1000001"}, "cost"),
        ({"cost": float("nan")}, "cost"),
        ({"cost": "-x"}, "cost"),
        ({"input_tokens": -(10**13)}, "input_tokens"),
        ({"corrects": "", "cost": 1}, "corrects"),
    ],
)
def test_correct__a_bad_argument__is_named(
    init: Init, arguments: dict[str, Any], names: str
) -> None:
    """Every one of them at once."""
    with pytest.raises(InvalidValue) as raised:
        started(init).record_event("u1", **{"corrects": "e", **arguments})
    assert [finding.field for finding in raised.value.findings] == names.split()


def test_record_event__a_negative_cost_without_corrects__is_refused(init: Init) -> None:
    """The one place where negatives are legal is a correction."""
    with pytest.raises(InvalidValue):
        started(init).record_event("u1", cost=-1)
    with pytest.raises(InvalidValue):
        started(init).record_event("u1", input_tokens=-1)


def test_correct__on_an_event_loop__asks_no_ledger(init: Init, db_path: str) -> None:
    """What is still in this process's memory can be corrected there; nothing is waited for."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AbsentLedger())
    pg.configure_plan("default", PlanConfig(cost_rates=RATES))
    event_id = called(pg)

    async def correct(corrects: str) -> None:
        pg.record_event("u1", corrects=corrects, cost="-0.001")

    asyncio.run(correct(event_id))
    assert pg.get_usage("u1").period_cost_nano == 2_000_000
    pg.shutdown(timeout=0.3)
    pg = started(init)
    event_id = called(pg)
    pg.flush()
    with pytest.raises(InvalidValue, match="event loop"):
        asyncio.run(correct(event_id))


@pytest.mark.parametrize("restarted", [False, True])
def test_correct__the_whole_cost_twice_under_one_key__is_the_first_again(
    init: Init, db_path: str, restarted: bool
) -> None:
    """A retry of what was right when it was booked is no error, also after a restart."""
    pg = started(init)
    event = pg.record_event("u1", cost=1)
    first = pg.record_event("u1", corrects=event.id, cost=-1, idempotency_key="k")
    if restarted:
        pg.shutdown()
        pg = started(init)
    assert pg.record_event("u1", corrects=event.id, cost=-1, idempotency_key="k").id == first.id
    assert pg.get_usage("u1").period_cost_nano == 0


def test_correct__under_the_key_of_another_entry__is_refused(init: Init) -> None:
    """It would be taken for that entry, and nothing would be booked."""
    pg = started(init)
    event = pg.record_event("u1", cost=1, idempotency_key="k")
    with pytest.raises(InvalidValue) as raised:
        pg.record_event("u1", corrects=event.id, cost=-1, idempotency_key="k")
    assert [finding.field for finding in raised.value.findings] == ["idempotency_key"]


def test_correct__tokens_of_a_model_without_a_price__stay_unpriced(init: Init) -> None:
    """The unknown stays loud."""
    pg = started(init)
    answer = {"model": "nobody", "usage": {"prompt_tokens": 100}}
    events: list[Any] = []
    pg.on_usage(events.append)
    pg.wrap(lambda: answer, "u1", "nobody")
    pg._parts.callbacks.flush(5)
    event = pg.record_event("u1", corrects=events[0].id, input_tokens=-50)
    assert (event.quality, event.cost_total_nano) == ("unpriced", 0)


def test_correct__tokens_of_a_call_in_a_dearer_tier__cost_what_they_cost(init: Init) -> None:
    """A tier applies to the whole call, so also to what is taken off it."""
    pg = init()
    answer = {"model": "gpt-5.4", "usage": {"prompt_tokens": 300_000, "completion_tokens": 0}}
    events: list[Any] = []
    pg.on_usage(events.append)
    pg.wrap(lambda: answer, "u1", "gpt-5.4", provider="openai")
    pg._parts.callbacks.flush(5)
    event = pg.record_event("u1", corrects=events[0].id, input_tokens=-100_000)
    assert event.cost_total_nano * 3 == -events[0].cost_total_nano != 0


def test_correct__switched_off__passes(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `PAYGENT_DISABLED=1`, a correction is returned unchecked."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    event = init().record_event("u1", corrects="anything", cost=-1)
    assert (event.user_id, event.corrects) == ("u1", "anything")
