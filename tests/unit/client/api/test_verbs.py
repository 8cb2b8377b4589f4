"""The verbs that ask and advise: figures of memory, exact, and the same that the gate goes by."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.ledgers import AwayLedger

from paygent import (
    BudgetRemaining,
    InvalidValue,
    Limit,
    MaxTokensAdvice,
    ModelUsage,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    UserState,
    paygent_context,
)
from paygent.client.runtime.settings import Settings
from paygent.core.value import exact_usd
from paygent.types import ModelCostRate, ModelLimitConfig

Init = Callable[..., Paygent]

RATES = {"m": ModelCostRate.per_million(1, 4), "free": ModelCostRate(0, 0)}
MINUTE_US = 60_000_000


def configured(init: Init, **fields: Any) -> Paygent:
    """Start a Paygent whose users are on a plan."""
    pg = init()
    pg.configure_plan("default", PlanConfig(**{"cost_rates": RATES, **fields}))
    return pg


def book(pg: Paygent, input_tokens: int, output_tokens: int = 0, model: str = "m") -> None:
    """Have a user use tokens."""
    pg.record_event("u1", model=model, input_tokens=input_tokens, output_tokens=output_tokens)


class InFlight:
    """A call under way until it is told to end."""

    def __init__(self, pg: Paygent, **arguments: Any) -> None:
        self._release = threading.Event()
        begun = threading.Event()

        def provider() -> None:
            begun.set()
            self._release.wait(10)

        self._thread = threading.Thread(
            target=lambda: pg.wrap(provider, **{"user_id": "u1", "model": "m", **arguments})
        )
        self._thread.start()
        assert begun.wait(10)

    def end(self) -> None:
        """Let it end, and wait for that."""
        self._release.set()
        self._thread.join(10)


# -- what a user has used


def test_get_model_usage__used_and_limited_models__are_listed_dearest_first(init: Init) -> None:
    """Each with its tokens, its limit and its cost, also a limited one that nobody used."""
    pg = configured(init, model_limits={"m": 5_000, "o3": 100})
    book(pg, 1_000, 500)
    book(pg, 10, 0, "free")
    assert pg.get_model_usage("u1") == [
        ModelUsage("m", 1_500, 5_000, exact_usd(3_000_000)),
        ModelUsage("free", 10, None, 0.0),
        ModelUsage("o3", 0, 100, 0.0),
    ]
    assert pg.get_model_usage("u1")[0].cost_nano == 3_000_000
    assert [each.tokens_used for each in pg.get_model_usage("nobody")] == [0, 0]


def test_get_session_and_get_user_state__are_the_users_state(init: Init) -> None:
    """Plan, usage, session and period of a known user, and of one that nobody knows."""
    pg = configured(init, max_spend_per_period=5)
    with paygent_context("u1", session_id="chat-7"):
        pg.record_event(cost=0.25)
    state = pg.get_user_state("u1")
    assert isinstance(state, UserState)
    assert (state.plan, state.current_usage.period_cost_nano) == ("default", 250_000_000)
    assert state.current_usage.session_id == "chat-7"
    assert pg.get_session("u1") == state
    assert pg.get_user_state("nobody").current_usage.period_cost_nano == 0


# -- what is left


def test_get_remaining_budget__several_limits__says_what_is_left_of_each(init: Init) -> None:
    """Up to the line where calls are refused, and the one of which most is used."""
    pg = configured(
        init,
        max_spend_per_period=10,
        max_spend_per_session=4,
        hard_gate_at=0.9,
        model_limits={"m": 10_000, "o3": 7},
    )
    pg.record_event("u1", cost=1.5)
    book(pg, 1_000)
    left = pg.get_remaining_budget("u1")
    assert left == BudgetRemaining(
        exact_usd(9_000_000_000 - 1_501_000_000),
        exact_usd(3_600_000_000 - 1_501_000_000),
        {"m": 8_000, "o3": 6},
        "session_spend",
    )
    assert left.period_spend_remaining_nano == 7_499_000_000


def test_get_remaining_budget__no_limits__is_unbounded(init: Init) -> None:
    """Infinite dollars, as in a plan."""
    left = configured(init).get_remaining_budget("u1")
    assert (left.period_spend_remaining, left.session_spend_remaining) == (math.inf, math.inf)
    assert (left.model_tokens_remaining, left.most_constrained) == ({}, "unbounded")
    assert left.period_spend_remaining_nano is None
    assert left.model_dump(mode="json")["period_spend_remaining"] is None


@pytest.mark.parametrize(
    ("limit", "word"),
    [
        (Limit("tokens", model="m", cap=10), "model_tokens"),
        (Limit("calls", window="day", cap=1), "calls:day"),
        (Limit("spend", window="day", cap=0.001), "spend:day"),
    ],
)
def test_get_remaining_budget__the_nearest_limit__is_named(
    init: Init, limit: Limit, word: str
) -> None:
    """By the documented word where there is one, else by its reason."""
    pg = configured(init, max_spend_per_period=1, limits=(limit,))
    book(pg, 8)
    assert pg.get_remaining_budget("u1").most_constrained == word


def test_get_remaining_budget__spent_beyond__is_0_and_calls_in_flight_count(init: Init) -> None:
    """Never negative; what calls in flight hold is not there for another."""
    pg = configured(init, max_spend_per_period=1, model_limits={"m": 10_000})
    call = InFlight(pg, estimated_input_tokens=1_000, estimated_max_tokens=500)
    assert pg.get_remaining_budget("u1").model_tokens_remaining == {"m": 10_000 - 1_700}
    usage = pg.get_usage("u1")
    assert usage.reserved_tokens_by_model == {"m": 1_700}
    assert usage.reserved_cost_nano == 1_200_000 + 2_000_000
    call.end()
    pg.record_event("u1", cost=7)
    assert pg.get_remaining_budget("u1").period_spend_remaining == 0.0


# -- what the gate would say


def test_is_within_limit__until_the_cap_is_used_up__is_true(init: Init) -> None:
    """A warning is within; only a used-up limit is not, and only for whom it is."""
    pg = configured(init, max_spend_per_period=1, model_limits={"m": 100})
    assert pg.is_within_limit("u1") is True
    pg.record_event("u1", cost=0.9)
    assert pg.check_guard("u1").status == "soft_gate"
    assert pg.is_within_limit("u1", "m") is True
    book(pg, 100)
    assert pg.is_within_limit("u1") is True
    assert pg.is_within_limit("u1", model="m") is False
    pg.record_event("u1", cost=0.1)
    assert pg.is_within_limit("u1") is False
    assert pg.is_within_limit("u2") is True


def test_is_within_limit__calls_in_flight_hold_all_that_is_left__is_true(init: Init) -> None:
    """A call would wait for them: nothing is used up."""
    pg = configured(init, max_spend_per_period=0.001)
    call = InFlight(pg)
    assert pg.check_guard("u1", "m").gate_reason == "contention"
    assert pg.is_within_limit("u1", "m") is True
    call.end()


# -- advice


@pytest.mark.parametrize(
    ("fields", "input_tokens", "max_tokens", "binding"),
    [
        ({}, 0, 4_096, "unbounded"),
        ({"max_spend_per_period": 0.01}, 2_000, 2_000, "period_spend"),
        ({"max_spend_per_session": 0.01}, 2_000, 2_000, "session_spend"),
        ({"max_spend_per_period": 0.01, "hard_gate_at": 0.9}, 2_000, 1_750, "period_spend"),
        ({"model_limits": {"m": 3_000}}, 2_000, 1_000, "model_tokens"),
        (
            {"model_limits": {"m": 3_000}, "max_spend_per_period": 0.0024},
            2_000,
            100,
            "period_spend",
        ),
        ({"limits": (Limit("tokens", window="day", cap=100),)}, 40, 60, "tokens:day"),
        ({"limits": (Limit("calls", window="day", cap=5),)}, 40, 4_096, "unbounded"),
        ({"limits": (Limit("calls", window="day", cap=0),)}, 40, 0, "blocked"),
        ({"model_limits": {"m": 2_000}}, 2_000, 0, "blocked"),
        ({"max_spend_per_period": 0.002}, 2_001, 0, "blocked"),
        ({"max_spend_per_period": 0}, 0, 0, "blocked"),
    ],
)
def test_get_max_tokens__a_plan__is_what_fits_and_the_limit_that_binds(
    init: Init, fields: dict[str, Any], input_tokens: int, max_tokens: int, binding: str
) -> None:
    """The largest output whose cost, with its input, stays under every line."""
    pg = configured(init, **fields)
    advice = pg.get_max_tokens("u1", "m", estimated_input_tokens=input_tokens)
    assert (advice.max_tokens, advice.binding_limit) == (max_tokens, binding)


def test_get_max_tokens__what_it_says__fits_to_the_token(init: Init) -> None:
    """A strict plan takes exactly what was advised, and not one more."""
    pg = configured(init, max_spend_per_period=0.007, pre_call_estimate=True)
    pg.record_event("u1", cost=0.001)
    advice = pg.get_max_tokens("u1", "m", estimated_input_tokens=1_001)
    assert advice == MaxTokensAdvice(1_249, "period_spend", exact_usd(6_000_000), math.inf, None)
    with pytest.raises(PaygentLimitExceeded):
        pg.wrap(
            lambda: None,
            "u1",
            "m",
            estimated_input_tokens=1_001,
            estimated_max_tokens=advice.max_tokens + 1,
        )
    pg.wrap(
        lambda: None,
        "u1",
        "m",
        estimated_input_tokens=1_001,
        estimated_max_tokens=advice.max_tokens,
    )


def test_get_max_tokens__messages__are_estimated_as_the_gate_does(init: Init) -> None:
    """A quarter token a byte times the factor, or one a byte in a strict plan."""
    messages = [{"role": "user", "content": "x" * 396}]  # 400 bytes
    thousand = {"m": ModelLimitConfig(1_000)}
    pg = configured(init, model_limits=thousand)
    assert pg.get_max_tokens("u1", "m", messages=messages).max_tokens == 880
    pg.configure_plan(
        "default", PlanConfig(model_limits=thousand, cost_rates=RATES, pre_call_estimate=True)
    )
    assert pg.get_max_tokens("u1", "m", messages=messages).max_tokens == 600
    given = pg.get_max_tokens("u1", "m", messages=messages, estimated_input_tokens=10)
    assert (given.max_tokens, given.model_tokens_remaining) == (990, 1_000)


def test_get_max_tokens__a_model_without_a_price_or_free__is_not_bound_by_dollars(
    init: Init,
) -> None:
    """Where output costs nothing that is known, dollars do not bind it; the bounds do."""
    pg = configured(init, max_spend_per_period=1)
    assert pg.get_max_tokens("u1", "nobody-knows-this", hard_cap=77).max_tokens == 77
    pg.record_event("u1", cost=1)
    assert pg.get_max_tokens("u1", "free", hard_cap=77).max_tokens == 77
    assert pg.get_max_tokens("u1", "nobody-knows-this").max_tokens == 0


def test_get_max_tokens__more_than_the_model_gives__is_the_models(init: Init) -> None:
    """The answer never asks a provider for what it would refuse."""
    pg = init()
    advice = pg.get_max_tokens("u1", "gpt-4o", hard_cap=10**9)
    assert 1_000 < advice.max_tokens < 10**7


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"estimated_input_tokens": -1}, "estimated_input_tokens"),
        ({"estimated_input_tokens": 1.5}, "estimated_input_tokens"),
        ({"hard_cap": 0}, "hard_cap"),
        ({"hard_cap": True}, "hard_cap"),
        ({"messages": "hello"}, "messages"),
        ({"user_id": ""}, "user_id"),
    ],
)
def test_get_max_tokens__a_bad_argument__is_named(
    init: Init, arguments: dict[str, Any], name: str
) -> None:
    """Field, value and rule, before anything is looked up."""
    with pytest.raises(InvalidValue) as raised:
        init().get_max_tokens(**{"user_id": "u1", "model": "m", **arguments})
    assert [finding.field for finding in raised.value.findings] == [name]


# -- refresh, reset, close


def test_refresh_user__changed_elsewhere__is_read_at_once(init: Init, db_path: str) -> None:
    """What another process has booked is seen without waiting for the next delivery."""
    pg = configured(init, max_spend_per_period=1)
    assert pg.get_usage("u1").period_cost_nano == 0
    other = Paygent._make(Settings(db_path=db_path))
    other.record_event("u1", cost=0.75)
    other.flush()
    state = pg.refresh_user("u1")
    assert state.current_usage.period_cost_nano == 750_000_000
    other.shutdown()


def test_reset_user__in_the_middle_of_everything__keeps_spend_and_holds(init: Init) -> None:
    """The cache is forgotten, never what was spent or is in flight."""
    pg = configured(init, max_spend_per_period=10)
    pg.record_event("u1", cost=2)
    call = InFlight(pg, estimated_input_tokens=1_000, estimated_max_tokens=500)
    held = pg.get_usage("u1").reserved_cost_nano
    pg.reset_user("u1")
    assert pg._parts.accounts.registry.users["u1"].known is False
    usage = pg.get_usage("u1")
    assert (usage.period_cost_nano, usage.reserved_cost_nano) == (2_000_000_000, held)
    assert pg._parts.accounts.registry.users["u1"].known is True
    call.end()
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_remove_session__an_open_one__is_closed_and_the_next_call_opens_another(
    init: Init, db_path: str
) -> None:
    """Its spend stays in it; it does not come back from the ledger, also not in another process."""
    pg = configured(init, max_spend_per_session=1)
    pg.start_session("u1")
    pg.record_event("u1", cost=0.5)
    pg.flush()
    first = pg.get_usage("u1")
    assert first.session_cost_nano == 500_000_000
    pg.remove_session("u1")
    assert pg.get_usage("u1").session_id is None
    assert pg.session_count == 0
    pg.refresh_user("u1")
    assert pg.session_count == 0
    pg.record_event("u1", cost=0.25)
    second = pg.get_usage("u1")
    assert second.session_id not in (None, first.session_id)
    assert second.session_cost_nano == 250_000_000
    pg.remove_session("u1")
    pg.remove_session("u1")  # nothing is open any more
    pg.flush()
    other = Paygent._make(Settings(db_path=db_path))
    other.refresh_user("u1")
    assert other.session_count == 0
    other.shutdown()


def test_on_session_start__a_session_that_a_call_opens_or_rotates__is_told(db_path: str) -> None:
    """Whenever a session opens, with its user's state; a named session is the application's."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    pg.configure_plan("default", PlanConfig(session_timeout_minutes=30))
    started: list[UserState] = []
    pg.on_session_start(started.append)
    pg.record_event("u1", cost=0.1)
    pg.record_event("u1", cost=0.1)
    now[0] += 31 * MINUTE_US
    pg.record_event("u1", cost=0.1)
    pg.record_event("u1", cost=0.1, session_id="named")
    pg.flush()
    assert [state.user_id for state in started] == ["u1", "u1"]
    assert len({state.current_usage.session_id for state in started}) == 2


def test_advice__of_a_session_that_has_timed_out__is_of_the_next_one(db_path: str) -> None:
    """The next call opens a session, so a used-up one must not keep an application from it."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    plan = PlanConfig(max_spend_per_session=1.0, session_timeout_minutes=30, cost_rates=RATES)
    pg.configure_plan("default", plan)
    pg.record_event("u1", cost=1.0)
    assert pg.is_within_limit("u1") is False
    now[0] += 31 * MINUTE_US
    pg.flush()
    assert pg.check_guard("u1").status == "ok"
    assert pg.is_within_limit("u1") is True
    assert pg.get_remaining_budget("u1").session_spend_remaining == 1.0
    assert pg.get_max_tokens("u1", "m").max_tokens == 4096
    assert pg.wrap(lambda: 7, "u1", "m") == 7


def test_check_guard__a_free_model__is_within_a_cap_of_dollars_that_is_used_up(init: Init) -> None:
    """The gate lets such a call pass, and says so beforehand."""
    pg = configured(init, max_spend_per_period=1.0)
    pg.record_event("u1", cost=1.0)
    assert (pg.is_within_limit("u1", "free"), pg.is_within_limit("u1", "m")) == (True, False)
    assert pg.wrap(lambda: 7, "u1", "free") == 7


def test_check_guard__a_model_that_the_plan_blocks__is_refused_as_its_call(init: Init) -> None:
    """`unknown_model="block"` shows before the call."""
    pg = configured(init, unknown_model="block")
    assert pg.check_guard("u1", "mystery-9").gate_reason == "unknown_model:mystery-9"
    assert (pg.is_within_limit("u1", "mystery-9"), pg.is_within_limit("u1")) == (False, True)


@pytest.mark.parametrize(
    ("when_offline", "reason"),
    [("block", "offline"), ({"allow_up_to": 1}, None), ({"allow_up_to": 0}, "offline")],
)
def test_check_guard__with_the_ledger_away__is_the_plans_policy(
    when_offline: Any, reason: str | None
) -> None:
    """As a call would meet it; nothing is taken from an allowance."""
    pg = Paygent.launch(Settings(db_path=":memory:"), ledger=cast(Any, AwayLedger()))
    pg.configure_plan("default", PlanConfig(when_offline=when_offline))
    assert pg.check_guard("u1").gate_reason == reason
    pg.shutdown(timeout=0.1)


def test_get_usage__of_calls_without_a_model__counts_their_tokens(init: Init) -> None:
    """The total has them, the list by model has not."""
    pg = configured(init)
    pg.wrap(lambda: {"usage": {"prompt_tokens": 7, "completion_tokens": 5}}, "u1")
    for _ in range(2):
        usage = pg.get_usage("u1")
        assert (usage.period_tokens_total, usage.period_tokens_by_model) == (12, {})
        pg.flush()


# -- on an event loop, and off


@pytest.mark.parametrize(
    "ask",
    [
        lambda pg: pg.get_model_usage("u9"),
        lambda pg: pg.get_remaining_budget("u9"),
        lambda pg: pg.get_user_state("u9"),
        lambda pg: pg.is_within_limit("u9"),
        lambda pg: pg.get_max_tokens("u9", "m"),
        lambda pg: pg.refresh_user("u9"),
        lambda pg: pg.reset_user("u9"),
        lambda pg: pg.remove_session("u9"),
    ],
)
def test_verbs__on_an_event_loop__wait_for_nothing(
    init: Init, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Paygent], Any]
) -> None:
    """A verb that asks about an unknown user answers from memory there."""
    pg = configured(init)

    def no_wait(*args: Any) -> bool:
        raise AssertionError("a verb waited on a thread that runs a loop")

    monkeypatch.setattr("paygent.client.metering.wait.wait_for", no_wait)
    monkeypatch.setattr("paygent.client.api.queries.wait_for", no_wait)

    async def main() -> None:
        ask(pg)

    asyncio.run(main())


def test_verbs__on_an_event_loop__leave_the_wait_to_the_next_call(init: Init, db_path: str) -> None:
    """A query that could not wait must not make a call run on figures that were never read."""
    pg = configured(init, max_spend_per_period=1.0)
    pg.record_event("u1", cost=5.0)
    pg.shutdown()
    pg = configured(init, max_spend_per_period=1.0)

    async def call() -> int:
        return 7

    async def main() -> None:
        pg.get_usage("u1")
        pg.wrap(lambda: 7, "u1", "m")  # neither could this one wait
        with pytest.raises(PaygentLimitExceeded):
            await pg.awrap(call, "u1", "m")

    asyncio.run(main())


def test_verbs__switched_off__answer_as_for_a_user_without_limits(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PAYGENT_DISABLED=1`: nothing is refused, nothing is counted."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = configured(init, max_spend_per_period=0)
    assert pg.is_within_limit("u1") is True
    assert pg.wrap(lambda: 7, "u1", "m") == 7
    assert pg.get_model_usage("u1") == []
    pg.remove_session("u1")
    pg.reset_user("u1")
    assert pg.refresh_user("u1").current_usage.period_cost_nano == 0
    assert pg.sync_pending() == 0


def test_sync_pending__delivers__and_says_how_many(init: Init) -> None:
    """As `flush`."""
    pg = configured(init)
    pg.record_event("u1", cost=1)
    assert pg.sync_pending() + pg._parts.worker.flushed >= 1
    assert (pg.pending_events, pg.sync_pending()) == (0, 0)


def test_health__with_calls_in_flight_and_waiting__counts_them(init: Init) -> None:
    """What a team looks at when their application seems to hang."""
    pg = configured(init, max_spend_per_period=0.001)
    call = InFlight(pg)

    def another() -> None:
        with pytest.raises(PaygentLimitExceeded):  # the first is booked as it was held
            pg.wrap(lambda: None, "u1", "m")

    waiting = threading.Thread(target=another)
    waiting.start()
    while pg.health()["calls_waiting"] == 0:
        waiting.join(0.001)
    health = pg.health()
    assert (health["calls_in_flight"], health["calls_waiting"], health["mode"]) == (1, 1, "local")
    call.end()
    waiting.join(10)
    assert (pg.health()["calls_in_flight"], pg.health()["calls_waiting"]) == (0, 0)
