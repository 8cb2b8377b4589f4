"""The sums of what a process has delivered: equal to the fold of its events, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    NOON_US,
    ask,
    day_key,
    fold,
    make_event,
    period_key,
    rolling_key,
    session_key,
)

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.ledger import process_sums
from paygent.ledger.process_sums import ProcessSums

KEYS = (
    period_key(),
    period_key("calls"),
    period_key("tokens", "gpt-4o"),
    session_key("s1"),
    day_key(),
)
ROLLING = rolling_key("rolling:60m")
_EVENTS = st.lists(
    st.builds(
        lambda number, user_id, session_id, hours, model: make_event(
            f"e{number}",
            user_id=user_id,
            session_id=session_id,
            at_us=NOON_US - hours * HOUR_US,
            model_key=model,
            model=model,
            cost_tokens_nano=1 << number,
        ),
        st.integers(0, 30),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(["s1", "s2"]),
        st.integers(0, 30),
        st.sampled_from(["gpt-4o", "claude-x"]),
    ),
    max_size=20,
)


def spent(sums: ProcessSums, *keys: AccountKey, user_id: str = "ann", at_us: int = 0) -> list[int]:
    """Return the sums of accounts."""
    question = ask(user_id, *keys)[0]
    totals = sums.read(question, at_us or NOON_US)
    return [totals[key].whole for key in keys]


@given(_EVENTS)
def test_sums__any_events__are_their_fold(events: list[Event]) -> None:
    """Every account is the sum of the events that it counts, each id once."""
    sums = ProcessSums()
    sums.open((*ask("ann", *KEYS), *ask("bob", *KEYS)), NOON_US)
    first = {(event.user_id, event.event_id): event for event in reversed(events)}
    for event in [*events, *events]:
        sums.add(event)
    for user_id in ("ann", "bob"):
        assert spent(sums, *KEYS, user_id=user_id) == [
            fold(first.values(), user_id, key) for key in KEYS
        ]


def test_sums__a_rolling_window__drops_events_late_and_never_early() -> None:
    """An event counts for the whole length, and at most a sixtieth of it longer."""
    sums = ProcessSums()
    sums.open(ask("ann", ROLLING), NOON_US)
    sums.add(make_event("a", at_us=NOON_US))
    minute_us = HOUR_US // 60
    assert spent(sums, ROLLING, at_us=NOON_US + HOUR_US) == [1_000]
    assert spent(sums, ROLLING, at_us=NOON_US + HOUR_US + minute_us) == [0]


def test_sums__accounts_without_a_question__are_not_kept() -> None:
    """An account is summed from the first question on."""
    sums = ProcessSums()
    sums.add(make_event("a"))
    sums.open(ask("ann", KEYS[0]), NOON_US)
    sums.add(make_event("b"))
    assert spent(sums, *KEYS[:2]) == [1_000, 0]


def test_sums__a_window_that_has_ended__is_dropped() -> None:
    """Yesterday's account is forgotten, the session's stays."""
    sums = ProcessSums()
    sums.open(ask("ann", day_key(), session_key("s1")), NOON_US)
    sums.add(make_event("a"))
    sums.open(ask("bob", day_key()), NOON_US)
    sums.open((), NOON_US + DAY_US)
    assert spent(sums, day_key(), session_key("s1")) == [0, 1_000]
    assert sums._users.keys() == {"ann"}


def test_sums__very_many_users__forget_those_asked_about_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is bounded; the user of the last question is kept."""
    monkeypatch.setattr(process_sums, "SUMS_MAX", 10)
    sums = ProcessSums()
    for number in range(9):
        sums.open(ask(f"u{number}", KEYS[0]), NOON_US)
        sums.add(make_event("a", user_id=f"u{number}"))
        sums.open(ask("ann", KEYS[0]), NOON_US)
        sums.add(make_event(f"e{number}"))
    assert list(sums._users) == ["u5", "u6", "u7", "u8", "ann"]
    assert spent(sums, KEYS[0]) == [9_000]
    assert sums._size == 10


def test_sums__parts_of_rolling_windows__are_within_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window with many parts counts as many sums, and gives them back when they are old."""
    monkeypatch.setattr(process_sums, "SUMS_MAX", 10)
    sums = ProcessSums()
    sums.open((*ask("old", KEYS[0]), *ask("ann", ROLLING)), NOON_US)
    for minute in range(9):
        sums.add(make_event(f"e{minute}", at_us=NOON_US + minute * HOUR_US // 60))
    assert (list(sums._users), sums._size) == (["ann"], 10)
    assert spent(sums, ROLLING, at_us=NOON_US + 2 * HOUR_US) == [0]
    assert sums._size == 1


def test_sums__very_many_sessions_of_a_user__forget_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adding an event stays cheap however many sessions a user has had."""
    monkeypatch.setattr(process_sums, "ACCOUNTS_MAX", 3)
    sums = ProcessSums()
    keys = [session_key(f"s{number}") for number in range(5)]
    for number, key in enumerate(keys):
        sums.open(ask("ann", keys[0], key), NOON_US)
        sums.add(make_event(f"e{number}", session_id=f"s{number}"))
    assert spent(sums, *keys) == [1_000, 0, 0, 1_000, 1_000]


def test_sums__ids_beyond_those_remembered__are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is sent again counts once; ids of long ago take no memory."""
    monkeypatch.setattr(process_sums, "IDS_MAX", 2)
    sums = ProcessSums()
    sums.open(ask("ann", KEYS[0]), NOON_US)
    for event_id in "aabbcc":
        sums.add(make_event(event_id))
    assert spent(sums, KEYS[0]) == [3_000]
    assert list(sums._added) == [("ann", "b"), ("ann", "c")]
