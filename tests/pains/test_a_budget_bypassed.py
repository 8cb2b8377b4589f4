"""A budget that does not hold: what users of other products met, as far as one process can show it.

Figures that several processes or a server keep apart belong to later parts of the product.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES, drain

from paygent import (
    InvalidValue,
    Limit,
    ModelCostRate,
    ModelLimitConfig,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

SPENT_UP = PlanConfig(max_spend_per_period=1)
RATES = {"paid": ModelCostRate.per_million(1, 4), "free": ModelCostRate(0, 0)}


def used_up(init: Init, plan: PlanConfig = SPENT_UP, user_id: str = "u1") -> Paygent:
    """Start a Paygent whose user has spent the whole of a dollar."""
    pg = init()
    pg.configure_plan("default", plan)
    pg.record_event(user_id, cost=1)
    return pg


def refused(call: Callable[[], Any]) -> str | None:
    """Return the reason for which a call is refused."""
    with pytest.raises(PaygentLimitExceeded) as raised:
        call()
    return raised.value.guard_result.gate_reason


def test_a__a_user_named_by_a_call_and_not_by_a_context__is_blocked_all_the_same(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The budget of an end user was never asked when the user came with the request."""
    used_up(init)
    create: Any = client.chat.completions.create
    reason = refused(lambda: create(model="gpt-4o", messages=MESSAGES, paygent_user_id="u1"))
    assert (reason, fake.requests) == ("total_spend", [])


def test_a__spend_above_the_maximum__is_refused_on_every_further_call(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Calls passed although the figure that was shown stood above the cap."""
    pg = used_up(init)
    pg.record_event("u1", cost=5)
    create: Any = client.chat.completions.create
    with paygent_context("u1"):
        for _ in range(10):
            assert refused(lambda: create(model="gpt-4o", messages=MESSAGES)) == "total_spend"
    assert fake.requests == []


def test_a__a_limit_per_model__is_enforced_and_not_just_shown(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A model's budget was stored and displayed, and ten of ten calls passed it."""
    pg = init()
    pg.configure_plan("default", PlanConfig(model_limits={"gpt-4o": ModelLimitConfig(300)}))
    create: Any = client.chat.completions.create
    with paygent_context("u1"):
        for _ in range(3):
            create(model="gpt-4o", messages=MESSAGES, max_tokens=20)
        for _ in range(7):
            reason = refused(lambda: create(model="gpt-4o", messages=MESSAGES))
            assert reason == "model_limit:gpt-4o"
    assert len(fake.requests) == 3


@pytest.mark.parametrize("unknown", ["count", "block"])
def test_a__a_model_without_a_price__skips_no_check(init: Init, unknown: Any) -> None:
    """A model that was not in the price map counted as free and passed every budget."""
    plan = PlanConfig(max_spend_per_period=1, unknown_model=unknown)
    pg = used_up(init, plan)
    reason = refused(lambda: pg.wrap(lambda: None, "u1", "nobody-knows-this"))
    assert reason in ("total_spend", "unknown_model:nobody-knows-this")
    pg.configure_plan(
        "default", PlanConfig(model_limits={"nobody-knows-this": ModelLimitConfig(100)})
    )
    answer = {"model": "nobody-knows-this", "usage": {"prompt_tokens": 100}}
    pg.wrap(lambda: answer, "u1", "nobody-knows-this")
    assert refused(lambda: pg.wrap(lambda: answer, "u1", "nobody-knows-this")) == (
        "model_limit:nobody-knows-this"
    )


@pytest.mark.parametrize(
    "route", ["chat", "responses", "embeddings", "completions", "raw", "stream"]
)
def test_a__every_route_that_costs__is_gated_and_counted(
    init: Init, client: openai.OpenAI, fake: FakeProvider, route: str
) -> None:
    """Pass-through routes were an exploit, and embeddings wrote no spend at all."""
    calls: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES),
        "responses": lambda: client.responses.create(model="gpt-4o", input="hello"),
        "embeddings": lambda: client.embeddings.create(
            model="text-embedding-3-small", input="hello"
        ),
        "completions": lambda: client.completions.create(
            model="gpt-3.5-turbo-instruct", prompt="hello"
        ),
        "raw": lambda: client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=MESSAGES
        ),
        "stream": lambda: drain(
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        ),
    }
    pg = init()
    pg.configure_plan("default", SPENT_UP)
    with paygent_context("u1"):
        calls[route]()
        before = pg.get_usage("u1")
        assert before.period_cost_nano > 0
        pg.record_event("u1", cost=1)
        assert refused(calls[route]) == "total_spend"
    assert len(fake.requests) == 1


def test_a__a_free_model_that_falls_back_to_a_paid_one__gates_the_paid_one(init: Init) -> None:
    """A free model with a paid fallback spent without any gate."""
    pg = used_up(init, PlanConfig(max_spend_per_period=1, cost_rates=RATES))
    answer = {"model": "free", "usage": {"prompt_tokens": 1}}
    assert pg.wrap(lambda: answer, "u1", "free") == answer
    assert refused(lambda: pg.wrap(lambda: answer, "u1", "paid")) == "total_spend"


def test_a__a_request_answered_by_a_dearer_model__is_charged_as_what_answered(init: Init) -> None:
    """What was asked for as free and answered by a paid model cost nothing in the books."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1, cost_rates=RATES))
    pg.wrap(lambda: {"model": "paid", "usage": {"prompt_tokens": 1_000_000}}, "u1", "free")
    assert pg.get_usage("u1").period_cost == 1.0
    assert refused(lambda: pg.wrap(lambda: None, "u1", "paid")) == "total_spend"


@pytest.mark.parametrize("callers", [2, 50])
def test_a__an_agent_with_parallel_turns__passes_its_cap_by_one_call_at_most(
    init: Init, callers: int
) -> None:
    """People read any overshoot as a broken promise: 250 % of a cap, $40 on $20."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_session=0.01, cost_rates=RATES))
    answer = {"model": "paid", "usage": {"prompt_tokens": 1_000}}
    barrier = threading.Barrier(callers)

    def agent() -> None:
        barrier.wait(10)
        with contextlib.suppress(PaygentLimitExceeded):
            for _ in range(20):
                pg.wrap(
                    lambda: answer,
                    "u1",
                    "paid",
                    session_id="run",
                    estimated_input_tokens=1_000,
                    estimated_max_tokens=1,
                )

    threads = [threading.Thread(target=agent) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 10_000_000 <= pg.get_usage("u1").period_cost_nano <= 11_000_000


@pytest.mark.parametrize("name", ["max_budget", "max_spend", "soft_limit"])
def test_a__an_unknown_key_of_a_plan__is_an_error_and_not_dropped(name: str) -> None:
    """A budget key that the config did not know was dropped in silence: $182.83 in one run."""
    unknown: Any = {name: 1}
    with pytest.raises(TypeError, match=name):
        PlanConfig(**unknown)
    with pytest.raises(InvalidValue, match="capp"):
        PlanConfig(limits=({"metric": "spend", "capp": 1},))


def test_a__a_run_over_night__stops_at_its_daily_cap(init: Init) -> None:
    """About $1,300 overnight: a limit per day holds whatever the month allows."""
    pg = init()
    limits = (Limit("spend", window="day", cap=2),)
    pg.configure_plan("default", PlanConfig(max_spend_per_period=10_000, limits=limits))
    pg.record_event("u1", cost=2)
    assert refused(lambda: pg.wrap(lambda: None, "u1", "gpt-4o")) == "spend:day"
