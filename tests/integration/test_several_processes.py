"""Processes of one product on one file: each knows soon what the others have spent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest
from tests.promises.scripts import run

from paygent import Limit, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.accounts.user_state import User
from paygent.client.journal.delivery import Worker
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

CENT_NANO = 10**7
RATES = {"m": ModelCostRate.per_million(10, 0)}  # a thousand tokens are a cent

OTHER_PROCESS = """
import sys
from paygent import Paygent

pg = Paygent.init(db_path=sys.argv[1])
pg.record_event("u1", cost=sys.argv[2], session_id=sys.argv[3])
pg.shutdown()
"""


def call(pg: Paygent, session_id: str | None = None) -> None:
    """Make a call that costs a cent."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 0}
    with paygent_context("u1", session_id=session_id):
        pg.wrap(lambda: {"model": "m", "usage": usage}, "u1", "m", estimated_input_tokens=1_000)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Sessions of the questions that calls have waited for, in order."""
    sessions: list[str | None] = []
    ask = Worker.ask

    def noted(worker: Worker, user: User, session_id: str | None, wait_s: float) -> Future[bool]:
        sessions.append(session_id)
        return ask(worker, user, session_id, wait_s)

    monkeypatch.setattr(Worker, "ask", noted)
    return sessions


def test_sessions__another_process_spends_in_one_of_them__is_known_after_the_next_delivery(
    init: Init, db_path: str
) -> None:
    """A process that works in two sessions in turn is stopped where both have used one up."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_session=0.1, cost_rates=RATES))
    for session_id in ("s1", "s2", "s1", "s2"):
        call(pg, session_id)
    assert pg.flush()
    run(OTHER_PROCESS, db_path, "0.08", "s1")
    call(pg, "s1")
    call(pg, "s2")  # the session used last is the other one
    assert pg.flush()
    user = pg._parts.accounts.registry.users["u1"]
    figures = pg._parts.accounts.admission.figures
    costs = [figures(user, each, pg._now_us()).session_cost_nano for each in ("s1", "s2")]
    assert costs == [11 * CENT_NANO, 3 * CENT_NANO]
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg, "s1")
    assert refused.value.guard_result.gate_reason == "session_spend"
    call(pg, "s2")


def test_sessions__named_and_implicit_in_turn__asks_once_for_each(
    init: Init, asked: list[str | None]
) -> None:
    """Deliveries keep both up to date."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_session=9.0, cost_rates=RATES))
    for _ in range(5):
        for session_id in (None, "named"):
            call(pg, session_id)
            assert pg.flush()
            assert pg._parts.accounts.registry.users["u1"].known
    assert asked == [None, "named"]


def test_plan__a_session_limit_that_is_added__counts_what_other_processes_have_used(
    init: Init, db_path: str
) -> None:
    """In each session that is known already, its first call asks about the new account."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=9.0, cost_rates=RATES))
    run(OTHER_PROCESS, db_path, "0.01", "s1")
    run(OTHER_PROCESS, db_path, "0.01", "s2")
    for session_id in ("s1", "s2"):
        call(pg, session_id)
    assert pg.flush()
    calls = Limit("calls", "session", None, "session", cap=2)
    pg.configure_plan("default", PlanConfig(limits=[calls], cost_rates=RATES))
    for session_id in ("s1", "s2"):
        with pytest.raises(PaygentLimitExceeded) as refused:
            call(pg, session_id)
        assert refused.value.guard_result.gate_reason == "calls:session"
    call(pg, "s3")


def test_plan__named_by_the_context__limits_the_first_call_by_what_others_have_used(
    init: Init, db_path: str, asked: list[str | None]
) -> None:
    """The limits of the plan are read before that call is decided, with one more question."""
    pg = init()
    calls = Limit("calls", window="day", cap=2)
    pg.configure_plan("gold", PlanConfig(limits=[calls], cost_rates=RATES))
    run(OTHER_PROCESS, db_path, "0.01", "s1")
    run(OTHER_PROCESS, db_path, "0.01", "s2")
    with paygent_context("u1", plan="gold"), pytest.raises(PaygentLimitExceeded) as refused:
        call(pg)
    assert refused.value.guard_result.gate_reason == "calls:day"
    assert asked == [None, None]


def test_plan__named_by_the_context__that_blocks_offline__lets_the_first_call_go(
    init: Init,
) -> None:
    """The ledger has answered, so nothing is offline."""
    pg = init()
    calls = Limit("calls", window="day", cap=2)
    plan = PlanConfig(limits=[calls], when_offline="block", cost_rates=RATES)
    pg.configure_plan("gold", plan)
    with paygent_context("u1", plan="gold"):
        call(pg)
    assert pg.get_usage("u1").period_cost_nano == CENT_NANO
