"""Whose a call is: its own arguments, the context, the policy for nobody, in this order."""

from __future__ import annotations

from typing import Any

import pytest

from paygent import PaygentLimitExceeded, paygent_context
from paygent.client.context.identity import Identity
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.call import Request
from paygent.client.metering.gate_log import GateLog
from paygent.client.runtime.callbacks import Callbacks
from paygent.core.messages import MISSING_USER_ID
from paygent.failopen import diagnostics


def gate_log(callbacks: Callbacks | None = None) -> GateLog:
    """Return a log of calls at gates, with nothing to deliver them to."""
    return GateLog(callbacks or Callbacks(), lambda: 5, lambda: "process")


def request_of(identity: Identity | None = None, *, has_run: bool = False) -> Request:
    """A request that says this of whose it is."""
    return Request("openai", "chat.completions", "gpt-4o", {}, identity=identity, has_run=has_run)


@pytest.mark.parametrize("policy", ["warn", "block", "ignore", "shared"])
def test_identify__what_the_call_says__wins_over_the_context(policy: str) -> None:
    """The call's user first, then the context's; no policy is asked where there is one."""
    attribution = Attribution(policy, gate_log())
    with paygent_context(user_id="around", session_id="s"):
        assert attribution.resolve(request_of()).user_id == "around"
        said = attribution.resolve(request_of(Identity("own")))
        assert (said.user_id, said.session_id) == ("own", None)
        assert attribution.resolve(request_of(Identity(None, "t"))).user_id == "around"
    assert diagnostics.counts.get("no_user", 0) == 0


@pytest.mark.parametrize(
    ("policy", "user", "said"),
    [("warn", MISSING_USER_ID, 1), ("ignore", MISSING_USER_ID, 0), ("shared", "shared", 0)],
)
def test_identify__without_a_user__is_the_policys(policy: str, user: str, said: int) -> None:
    """Session and metadata that are said stay with the call, whoever it is counted on."""
    identity = Attribution(policy, gate_log()).resolve(
        request_of(Identity(None, "s", None, {"a": 1}))
    )
    assert (identity.user_id, identity.session_id, identity.metadata) == (user, "s", {"a": 1})
    assert diagnostics.counts.get("no_user", 0) == said


def test_identify__nobody_who_is_refused__is_told_and_raised() -> None:
    """The hard-gate callback hears of it, and the call does not begin."""
    callbacks, heard = Callbacks(), list[Any]()
    callbacks.register("hard_gate", heard.append)
    attribution = Attribution("block", gate_log(callbacks))
    with pytest.raises(PaygentLimitExceeded) as refused:
        attribution.resolve(request_of())
    assert refused.value.guard_result.gate_reason == "no_user"
    callbacks.flush(5.0)
    assert [result.gate_reason for result in heard] == ["no_user"]


@pytest.mark.parametrize("policy", ["warn", "block"])
def test_identify__work_that_has_run__is_nobodys_and_never_refused(policy: str) -> None:
    """What is spent already is booked, and was asked about when it began."""
    attribution = Attribution(policy, gate_log())
    assert (
        attribution.resolve(request_of(has_run=True)).user_id
        == attribution.fallback_user_id
        == MISSING_USER_ID
    )
    assert diagnostics.counts.get("no_user", 0) == 0


def test_named__only_where_it_is_said() -> None:
    """No policy stands in: None is nobody."""
    attribution = Attribution("shared", gate_log())
    found: Any = attribution.explicit(request_of())
    assert found is None
    with paygent_context(user_id="u1"):
        found = attribution.explicit(request_of())
    assert found.user_id == "u1"


def test_identify__a_request_that_had_to_wait__is_asked_about_once() -> None:
    """It begins again after the wait, as whose it was, and is said once."""
    attribution, request = Attribution("warn", gate_log()), request_of()
    first = attribution.resolve(request)
    with paygent_context(user_id="later"):
        assert attribution.resolve(request) is first
    assert diagnostics.counts["no_user"] == 1
