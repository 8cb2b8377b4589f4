"""Calls that no adapter can meter: logged, ignored or refused, and never for the wrong user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from paygent import GuardResult, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.context.identity import Identity
from paygent.core.notices import Notice

Init = Callable[..., Paygent]

OPERATION = "openai:POST /videos"


def admit(pg: Paygent, identity: Identity | None = None) -> None:
    """A call that is about to be sent."""
    unmetered = pg._parts.unmetered
    notice = Notice.UNMETERED_OPERATION
    unmetered.admit(notice, "openai", "POST /videos", operation=OPERATION, identity=identity)


def count(pg: Paygent) -> Any:
    """How many have passed."""
    return pg.health()["counts"].get(f"unmetered:{OPERATION}", 0)


def test_admit__by_default__passes_and_is_logged_once(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call is counted; the log names the operation and the remedy."""
    pg = init(auto_instrument=False)
    admit(pg)
    admit(pg)
    assert count(pg) == 2
    assert caplog.text.count("openai POST /videos is neither metered nor limited") == 1
    assert "pg.wrap()" in caplog.text


def test_admit__where_such_calls_are_ignored__is_only_counted(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_unmetered="ignore"`: nothing in the log."""
    pg = init(auto_instrument=False, on_unmetered="ignore")
    admit(pg)
    assert (count(pg), caplog.text) == (1, "")


def test_admit__where_such_calls_are_refused__raises_and_reports(init: Init) -> None:
    """The refusal names operation, user, plan, setting and remedy; the callbacks are told."""
    refused: list[GuardResult] = []
    pg = init(auto_instrument=False, on_unmetered="raise")
    pg.on_hard_gate(refused.append)
    pg.configure_plan("pro", PlanConfig())
    pg.assign_plan("u1", "pro")
    with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded) as caught:
        admit(pg)
    result = caught.value.guard_result
    assert (result.status, result.gate_reason) == ("hard_gate", f"unmetered:{OPERATION}")
    assert (result.user_id, result.plan, result.retryable) == ("u1", "pro", False)
    assert str(caught.value) == (
        'Refused because of on_unmetered="raise": openai POST /videos is neither metered nor'
        " limited. Use pg.wrap(); a model without a price books $0 until cost_rates has a rate for"
        " it."
    )
    pg.flush()
    assert refused == [result]
    assert count(pg) == 0


def test_admit__of_a_call_that_names_its_user__is_of_that_user(init: Init) -> None:
    """Arguments of the call win over the context; without any user it is the reserved one."""
    pg = init(auto_instrument=False, on_unmetered="raise")
    with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded) as caught:
        admit(pg, Identity("u2"))
    assert caught.value.guard_result.user_id == "u2"
    with pytest.raises(PaygentLimitExceeded) as caught:
        admit(pg)
    assert caught.value.guard_result.user_id == "(none)"


def test_admit__without_refusals__passes_and_reports(init: Init) -> None:
    """`raise_on_hard_gate=False`: the call runs and is counted, and the callbacks are told."""
    refused: list[GuardResult] = []
    pg = init(auto_instrument=False, on_unmetered="raise", raise_on_hard_gate=False)
    pg.on_hard_gate(refused.append)
    admit(pg)
    pg.flush()
    assert [result.gate_reason for result in refused] == [f"unmetered:{OPERATION}"]
    assert count(pg) == 1


def test_admit__under_a_plan_in_shadow_mode__is_refused_as_under_any(init: Init) -> None:
    """It is a setting of the product, which holds whether a user's plan is known yet or not."""
    pg = init(auto_instrument=False, on_unmetered="raise")
    pg.configure_plan("default", PlanConfig(enforce=False))
    with pytest.raises(PaygentLimitExceeded):
        admit(pg)


def test_admit__of_a_user_who_is_switched_off__passes(init: Init) -> None:
    """Their calls pass unmetered anyway."""
    pg = init(auto_instrument=False, on_unmetered="raise")
    pg._parts.accounts.registry.user("u1", pg._now_us()).sdk_enabled = False
    with paygent_context(user_id="u1"):
        admit(pg)
    assert count(pg) == 1


async def test_admit__inside_a_wrapped_call__is_metered_with_that_one(init: Init) -> None:
    """So `pg.wrap` is a remedy, also for an async callable."""

    async def call() -> dict[str, Any]:
        admit(pg)
        return {"usage": {"input_tokens": 1, "output_tokens": 2}}

    pg = init(auto_instrument=False, on_unmetered="raise")
    pg.wrap(lambda: admit(pg), "u1", estimated_input_tokens=1)
    await pg.awrap(call, "u1")
    assert count(pg) == 0
    with pytest.raises(PaygentLimitExceeded):
        admit(pg)
