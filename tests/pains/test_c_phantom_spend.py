"""Calls refused without spend: what users of other products met, as far as one process can show it.

Counters that several processes seed or that a server keeps belong to later parts of the product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from tests.accounts import held
from tests.instrument.shapes import MESSAGES

from paygent import (
    Limit,
    ModelCostRate,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.client.runtime.settings import Settings
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

RATES = {"paid": ModelCostRate.per_million(1, 4), "local": ModelCostRate(0, 0)}
SMALL: Any = {"model": "paid", "usage": {"prompt_tokens": 1_000}}  # a thousandth of a dollar


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's client at the fake provider."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def all_held(pg: Paygent) -> int:
    """Return what is held on the user's accounts once all that has ended is counted."""
    user = pg._parts.accounts.registry.users["u1"]
    pg._parts.accounts.admission.count(user)
    return sum(held(user, account) for account in user.accounts.values())


@pytest.mark.parametrize("answer", [Answer(status=500), Answer(status=429), Answer(status=400)])
def test_c__calls_that_fail__leave_no_hold_and_nothing_spent(
    init: Init, client: openai.OpenAI, fake: FakeProvider, answer: Answer
) -> None:
    """Reservations leaked on errors: random refusals with nothing really spent."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.001))
    with paygent_context("u1"):
        for _ in range(30):
            fake.script(answer)
            with pytest.raises(openai.APIStatusError):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=90)
        assert (all_held(pg), pg.get_usage("u1").period_cost_nano) == (0, 0)
        assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES).id


def test_c__calls_that_time_out__leave_no_hold(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """What may have been billed is booked as estimated, and nothing stays held beside it."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1))
    with paygent_context("u1"):
        fake.script(Answer(delay_s=5))
        impatient = client.with_options(timeout=0.3)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
    assert all_held(pg) == 0
    assert 0 < pg.get_usage("u1").period_cost_nano < 1_000_000


def test_c__a_thousand_calls__count_as_their_sum_and_not_as_maximum_plus_recent(
    init: Init,
) -> None:
    """In one process and without any cache the counter drifted away from the database."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=100, cost_rates=RATES))

    def work() -> None:
        for _ in range(50):
            pg.wrap(lambda: SMALL, "u1", "paid")

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        pg.flush()  # deliveries and their acknowledgements in the middle of it
    assert pg.get_usage("u1").period_cost_nano == 1_000 * 1_000_000
    pg.flush()
    assert pg.get_usage("u1").period_cost_nano == 1_000 * 1_000_000
    assert sum(row.cost_nano for row in pg.report()) == 1_000 * 1_000_000


def test_c__holds_larger_than_what_calls_take__refuse_nobody_at_a_fraction_of_the_cap(
    init: Init,
) -> None:
    """A key was refused at 0.4 % of real use, since holds were never reconciled."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.1, cost_rates=RATES))
    for _ in range(100):
        pg.wrap(lambda: SMALL, "u1", "paid", estimated_max_tokens=20_000)
    assert pg.get_usage("u1").period_cost == 0.1
    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(lambda: SMALL, "u1", "paid")


def test_c__what_is_shown__is_what_the_gate_goes_by(init: Init) -> None:
    """Two truths: the figure stood below the cap while requests were refused."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.01, cost_rates=RATES))
    for _ in range(10):
        assert pg.check_guard("u1", "paid").status != "hard_gate"
        assert pg.is_within_limit("u1", "paid")
        pg.wrap(lambda: SMALL, "u1", "paid")
    with pytest.raises(PaygentLimitExceeded) as refused:
        pg.wrap(lambda: SMALL, "u1", "paid")
    shown = pg.check_guard("u1", "paid")
    # All but the refused call's own estimate.
    assert shown == refused.value.guard_result.model_copy(
        update={"estimate_value": 0.0, "message": shown.message}
    )
    assert shown.current_value == pg.get_usage("u1").period_cost == 0.01
    assert pg.get_remaining_budget("u1").period_spend_remaining == 0.0


def test_c__a_local_model_with_the_dollars_used_up__goes_on(init: Init) -> None:
    """Models that cost nothing were blocked by a spent budget."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1, cost_rates=RATES))
    pg.record_event("u1", cost=3)
    local = {"model": "local", "usage": {"prompt_tokens": 5}}
    assert pg.wrap(lambda: local, "u1", "local") == local


@pytest.mark.parametrize("plan", [PlanConfig(), PlanConfig(max_spend_per_period=float("inf"))])
def test_c__no_budget__is_never_exceeded(init: Init, plan: PlanConfig) -> None:
    """ "Budget exceeded" was said where there was none."""
    pg = init()
    pg.configure_plan("default", plan)
    pg.record_event("u1", cost=1_000_000)
    assert pg.wrap(lambda: SMALL, "u1", "paid") == SMALL
    assert pg.check_guard("u1").status == "ok"


def test_c__a_budget_added_later__counts_its_own_window_only(db_path: str) -> None:
    """Adding a budget counted the spend of a lifetime at once."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    pg.configure_plan("default", PlanConfig())
    pg.record_event("u1", cost=500)
    now[0] += 40 * 86_400 * 10**6
    pg.record_event("u1", cost=0.5)
    pg.configure_plan(
        "default",
        PlanConfig(max_spend_per_period=10, limits=(Limit("spend", window="day", cap=1),)),
    )
    assert pg.check_guard("u1").status == "ok"
    left = pg.get_remaining_budget("u1")
    assert left.period_spend_remaining == 9.5
    assert pg.wrap(lambda: SMALL, "u1", "paid") == SMALL


def test_c__a_user_put_right_by_hand__is_let_go_in_every_window(init: Init) -> None:
    """An administrator's reset left the window counters as they were."""
    pg = init()
    limits = (Limit("spend", window="day", cap=1), Limit("spend", window="rolling:24h", cap=1))
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1, limits=limits))
    event = pg.record_event("u1", cost=1)
    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(lambda: SMALL, "u1", "paid")
    pg.record_event("u1", corrects=event.id, cost=-1)
    pg.flush()
    assert pg.wrap(lambda: SMALL, "u1", "paid") == SMALL
