"""Accounts: which events one counts, and what a call weighs in it."""

from __future__ import annotations

from typing import Any

import pytest

from paygent.core.account import AccountKey, amount
from paygent.core.event import Event
from paygent.core.limit import LimitKey


def make_event(**changes: Any) -> Event:
    """Return an event at moment 150 of session s1 by the model gpt-4o-2024-08-06."""
    event = Event(
        event_id="e1",
        user_id="u1",
        session_id="s1",
        at_us=150,
        model="gpt-4o-2024-08-06",
        model_key="gpt-4o",
        provider="openai",
        plan="pro",
        period_start_us=100,
        input_tokens=10,
        output_tokens=5,
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        cost_tokens_nano=700,
        cost_tools_nano=50,
    )
    return event._replace(**changes)


@pytest.mark.parametrize(
    ("at_us", "counted"), [(99, False), (100, True), (199, True), (200, False)]
)
def test_counts__the_edges_of_the_window__are_half_open(at_us: int, counted: bool) -> None:
    """An event counts from the first moment of the window up to, not including, its end."""
    key = AccountKey(LimitKey("spend", "user", "", "period"), "", 100, 200)
    assert key.counts(make_event(at_us=at_us)) is counted


@pytest.mark.parametrize(("session_id", "counted"), [("", True), ("s1", True), ("s2", False)])
def test_counts__a_session_account__counts_its_session_only(session_id: str, counted: bool) -> None:
    """A session's account counts that session; an account without one counts all sessions."""
    scope = "session" if session_id else "user"
    key = AccountKey(LimitKey("spend", scope, "", "session"), session_id, 0, 1000)
    assert key.counts(make_event()) is counted


@pytest.mark.parametrize(
    ("model", "counted"),
    [
        ("", True),
        ("gpt-4o", True),
        ("gpt-4o-2024-08-06", True),
        ("gpt-4o-mini", False),
        ("gpt", False),
    ],
)
def test_counts__a_model_account__counts_canonical_and_exact_name(
    model: str, counted: bool
) -> None:
    """A model's account counts by canonical and by exact name, never by prefix."""
    key = AccountKey(LimitKey("tokens", "user", model, "period"), "", 0, 1000)
    assert key.counts(make_event()) is counted


@pytest.mark.parametrize(("metric", "weight"), [("spend", 750), ("tokens", 15), ("calls", 1)])
def test_amount__each_metric__weighs_in_its_own_unit(metric: str, weight: int) -> None:
    """A call weighs its cost, its tokens or 1."""
    assert amount(metric, cost_nano=750, tokens=15) == weight
