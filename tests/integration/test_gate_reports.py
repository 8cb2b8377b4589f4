"""Refusals, warnings, shadow calls and unmetered calls of whole calls, as reports show them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.ledgers import AwayLedger

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.runtime.settings import Settings
from paygent.core.messages import MISSING_USER_ID
from paygent.core.notices import Notice
from paygent.testing.provider import FakeProvider
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

RATES = {"m": ModelCostRate.per_million(10, 0)}  # a thousand tokens are a cent
MESSAGES: Any = [{"role": "user", "content": "hi"}]


def call(pg: Paygent, user_id: str, **more: Any) -> Any:
    """Make one call of a cent."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 0}
    answer = {"model": "m", "usage": usage}
    return pg.wrap(lambda: answer, user_id, "m", estimated_input_tokens=1_000, **more)


def figures(pg: Paygent, by: str, **more: Any) -> dict[Any, tuple[int, ...]]:
    """Return soft, hard, refused and shadow calls, and shadow cost in cents, by keys."""
    return {
        tuple(row[name] for name in by.split(",")): (
            *(row[name] for name in ("soft", "hard", "refused_calls", "shadow_calls")),
            row["shadow_cost_nano"] // 10**7,
        )
        for row in pg.report_gates(by, **more)
    }


def test_gates__a_user_at_the_cap__is_warned_once_and_refused_each_time(init: Init) -> None:
    """By user and reason; the events have figures, session and model."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0.05, cost_rates=RATES))
    for _ in range(5):
        call(pg, "ann", session_id="s1")
    for _ in range(3):
        with pytest.raises(PaygentLimitExceeded):
            call(pg, "ann", session_id="s1")
    call(pg, "bob")
    assert figures(pg, "user") == {("ann",): (1, 3, 3, 0, 0)}
    assert figures(pg, "reason,user") == {("total_spend", "ann"): (1, 3, 3, 0, 0)}
    assert figures(pg, "day", user_id="bob") == {}
    assert pg.report_gates().total["refused_calls"] == 3


def test_gates__without_enforcement__count_what_would_have_been_stopped(init: Init) -> None:
    """With `raise_on_hard_gate=False` the gate is reported; in shadow mode it is not noticed. Both
    have the number and the cost, by the reason of the limit.
    """
    plan = PlanConfig(max_spend_per_period=0.02, cost_rates=RATES)
    pg = init(raise_on_hard_gate=False)
    pg.configure_plan("default", plan)
    pg.configure_plan("shadow", plan.model_copy(update={"enforce": False}))
    pg.assign_plan("zoe", "shadow")
    events: list[Any] = []
    pg.on_usage(events.append)
    for user_id in ("ann", "zoe"):
        for _ in range(5):
            call(pg, user_id)
    assert figures(pg, "user,reason") == {
        ("ann", "total_spend"): (0, 3, 0, 3, 3),
        ("zoe", "total_spend"): (0, 0, 0, 3, 3),
    }
    pg.flush()
    blocked = [event for event in events if event.blocked]
    assert {event.gate_reason for event in blocked} == {"total_spend"}
    assert {event.gate_reason for event in events if not event.blocked} == {None}
    spend = {row.user_id: (row.shadow_calls, row.shadow_cost_nano) for row in pg.report()}
    assert spend == {"ann": (3, 3 * 10**7), "zoe": (3, 3 * 10**7)}


def test_gates__refusals_without_a_limit__have_their_reasons(init: Init) -> None:
    """A call without a user, and one that no adapter can meter."""
    pg = init(on_missing_user="block", on_unmetered="raise")
    client = openai.OpenAI(api_key="x", base_url="http://127.0.0.1:9")
    with pytest.raises(PaygentLimitExceeded):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    with paygent_context("ann"), pytest.raises(PaygentLimitExceeded):
        client.post("/videos", cast_to=object, body={"model": "sora-2"})
    assert figures(pg, "user,reason") == {
        ("ann", "unmetered:openai:POST /videos"): (0, 1, 1, 0, 0),
        (MISSING_USER_ID, "no_user"): (0, 1, 1, 0, 0),
    }


def test_quality__unmetered_calls__are_a_column_by_model_and_operation(
    init: Init, fake: FakeProvider
) -> None:
    """Beside the metered ones; a model without a price is unpriced."""
    pg = init()
    with (
        openai.OpenAI(api_key="x", base_url=fake.url + "/v1", max_retries=0) as client,
        paygent_context("ann"),
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        client.chat.completions.create(model="my-own-model", messages=MESSAGES)
        for _ in range(3):
            client.post("/videos", cast_to=object, body={"model": "sora-2"})
    rows = {row["model"]: row for row in pg.report_quality()}
    assert (rows["gpt-4o"]["calls"], rows["gpt-4o"]["exact"]) == (1, 1)
    assert (rows["my-own-model"]["unpriced"], rows["my-own-model"]["exact"]) == (1, 0)
    assert (rows["sora-2"]["calls"], rows["sora-2"]["unmetered"]) == (0, 3)
    by_operation = pg.report_quality("operation")
    shown = [(row["operation"], row["calls"], row["unmetered"]) for row in by_operation]
    assert shown == [(None, 2, 0), ("openai:POST /videos", 0, 3)]
    assert by_operation.total["unmetered"] == 3


def test_gates__of_two_processes__are_both_in_the_report(init: Init, db_path: str) -> None:
    """Each counts its own; a child after a fork counts its own as well, and nothing twice."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0, cost_rates=RATES))
    with pytest.raises(PaygentLimitExceeded):
        call(pg, "ann")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(2):
                with suppress(PaygentLimitExceeded):
                    call(pg, "ann")
            pg.shutdown()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    script = (
        "import paygent\n"
        f"pg = paygent.Paygent.init(db_path={db_path!r}, auto_instrument=False)\n"
        "while True:\n"  # until the plan is known: no call waits for that long
        "    try:\n        pg.wrap(lambda: None, 'ann', 'm')\n"
        "    except paygent.PaygentLimitExceeded:\n        break\n"
        "pg.shutdown()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert pg.report_gates().total["refused_calls"] == 4


def test_gates__a_process_that_is_stopped_before_a_delivery__loses_none(
    init: Init, db_path: str, tmp_path: Path
) -> None:
    """The end of the process delivers what is in the log."""
    script = (
        "import paygent\n"
        f"pg = paygent.Paygent.init(db_path={db_path!r}, auto_instrument=False)\n"
        "pg.configure_plan('default', paygent.PlanConfig(max_spend_per_period=0))\n"
        "for _ in range(100):\n"
        "    try:\n        pg.wrap(lambda: None, 'ann', 'm')\n"
        "    except paygent.PaygentLimitExceeded:\n        pass\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert init().report_gates().total["refused_calls"] == 100


def test_gates__a_refusal_behind_a_backlog__is_in_the_next_report(init: Init) -> None:
    """A report delivers what happened before it, refusals too, whatever waits in the journal."""
    pg = init()
    pg.configure_plan("stopped", PlanConfig(max_spend_per_period=0, cost_rates=RATES))
    pg.assign_plan("ann", "stopped")
    for number in range(3_000):
        pg.record_event(f"u{number % 7}", cost="0.01")
    with pytest.raises(PaygentLimitExceeded):
        call(pg, "ann")
    assert pg.report_gates().total["refused_calls"] == 1


def test_unmetered__in_a_signal_handler_while_threads_start__ends(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs on the thread that starts them, and must not wait for itself; each thread
    runs once.
    """
    pg = init()
    meter = pg._parts.meter
    original = threading.Thread.start
    started: list[str] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread.name)
        if len(started) == 1:
            signal.raise_signal(signal.SIGUSR1)
        original(thread)

    def handle(*_: object) -> None:
        meter.unmetered.admit(Notice.UNMETERED_FUNCTION, "x", operation="litellm:x")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        monkeypatch.setattr(threading.Thread, "start", start)
        meter.unmetered.admit(Notice.UNMETERED_FUNCTION, "x", operation="litellm:x")
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGUSR1, before)
    assert sorted(started) == ["paygent-ask", "paygent-deliver"]
    assert pg.report_quality("operation").total["unmetered"] == 2


def test_gates__of_a_process_without_a_journal_file__leave_room_for_usage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In memory, refusals of many sessions wait apart, and nothing is dropped."""
    ledger = AwayLedger()
    pg = Paygent.launch(
        Settings(db_path=":memory:", max_queue_size=20, auto_instrument=False), ledger=ledger
    )
    pg.configure_plan("default", PlanConfig(max_spend_per_period=0, cost_rates=RATES))
    for number in range(200):
        with suppress(PaygentLimitExceeded):
            call(pg, "ann", session_id=f"s{number}")
    for _ in range(20):
        pg._parts.worker.wake()
        time.sleep(0.01)
    health = pg.health()
    assert pg.queue_stats["total_dropped"] == 0
    assert "journal_memory_full" not in health["counts"]
    pg.shutdown(0.1)


def test_flush__with_refusals_that_have_no_room_yet__waits_for_them() -> None:
    """A journal in memory takes them in parts; none is left when `flush` returns True."""
    pg = Paygent.launch(Settings(db_path=":memory:", max_queue_size=25, auto_instrument=False))
    pg.configure_plan("stopped", PlanConfig(max_spend_per_period=0, cost_rates=RATES))
    pg.assign_plan("ann", "stopped")
    for number in range(150):
        with suppress(PaygentLimitExceeded):
            call(pg, "ann", session_id=f"s{number}")
    pg._parts.worker.flush(20.0)
    assert pg.report_gates().total["refused_calls"] == 150
    pg.shutdown()
