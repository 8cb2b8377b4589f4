"""A look at the gate without a call: for connections, audio, and what a server begins by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.ledgers import AwayLedger

from paygent import Paygent, PaygentLimitExceeded, PlanConfig
from paygent.client.context.identity import Identity
from paygent.client.metering.call import Request
from paygent.client.runtime.settings import Settings

Init = Callable[..., Paygent]


def entry(model: str = "gpt-realtime", **identity: Any) -> Request:
    """What stands for a conversation of the user `u1`."""
    return Request("openai", "realtime", model, None, identity=Identity("u1", **identity))


def look(pg: Paygent, request: Request) -> None:
    """Look, and wait for the ledger where that is asked for."""
    wait = pg._parts.meter.check(request)
    if wait is not None:
        wait.block()
        assert pg._parts.meter.check(request) is None


def refused(pg: Paygent, request: Request) -> str | None:
    """Return why a look is refused."""
    with pytest.raises(PaygentLimitExceeded) as caught:
        look(pg, request)
    return caught.value.guard_result.gate_reason


def test_look__of_who_has_made_no_call__opens_no_session(init: Init) -> None:
    """It holds and books nothing; a session begins with its first call."""
    pg = init()
    look(pg, entry())
    assert pg.session_count == 0
    assert pg.get_usage("u1").session_id is None


def test_look__in_a_session_at_its_cap__is_refused_there_alone(init: Init) -> None:
    """The one that is named, or the open one until it has idled too long."""
    pg = init()
    pg.configure_plan("p", PlanConfig(max_spend_per_session=0.5))
    pg.assign_plan("u1", "p")
    pg.record_event("u1", cost=1, session_id="s1")
    assert refused(pg, entry(session_id="s1")) == "session_spend"
    look(pg, entry(session_id="s2"))
    pg.record_event("u1", cost=1)
    assert refused(pg, entry()) == "session_spend"
    pg._parts.accounts.registry.users["u1"].session_timeout_us = -1  # any pause is too long
    look(pg, entry())


def test_look__that_is_refused__has_the_user_read_anew(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere they may be on another plan by now, as for any call."""
    pg = init()
    pg.configure_plan("p", PlanConfig(max_spend_per_period=0))
    pg.assign_plan("u1", "p")
    nudges: list[bool] = []
    pg.flush()
    with monkeypatch.context() as patched:
        patched.setattr(pg._parts.worker, "nudge", lambda: nudges.append(True))
        assert refused(pg, entry()) == "total_spend"
        assert nudges
        assert pg._parts.accounts.registry.users["u1"].is_active


def test_look__at_a_model_that_the_plan_blocks__is_refused(init: Init) -> None:
    """Where it is named; a connection whose events name it is looked at later."""
    pg = init()
    pg.configure_plan("p", PlanConfig(unknown_model="block"))
    pg.assign_plan("u1", "p")
    assert refused(pg, entry("gpt-next-voice")) == "unknown_model:gpt-next-voice"
    look(pg, entry(""))


def test_look__with_the_ledger_away__does_what_the_plan_says(db_path: str) -> None:
    """`when_offline`: refused, or allowed as long as there is something left."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AwayLedger())
    for plan in (PlanConfig(when_offline="block"), PlanConfig(when_offline={"allow_up_to": 0})):
        pg.configure_plan("p", plan)
        pg.assign_plan("u1", "p")
        assert refused(pg, entry()) == "offline"
    pg.configure_plan("p", PlanConfig(when_offline={"allow_up_to": 1}))
    look(pg, entry())
    pg.shutdown(timeout=0.3)
