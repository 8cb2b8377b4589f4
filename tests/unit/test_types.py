"""Public value types: what they dump, copy, refuse and say."""

from __future__ import annotations

import dataclasses
import json
import pickle
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from paygent import (
    BillingPeriod,
    CurrentUsage,
    GuardResult,
    InvalidValue,
    PaygentLimitExceeded,
    PlanConfig,
    UsageEvent,
    UserState,
)
from paygent.core.event import Event
from paygent.core.gate import Decision, Reading, Thresholds, decide
from paygent.types import guard_result, usage_event

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
END = datetime(2026, 2, 1, tzinfo=timezone.utc)
PERIOD = BillingPeriod(START, END)

USAGE = CurrentUsage(
    period_cost=0.1 + 0.2,
    session_cost=Decimal("0.000000001"),  # type: ignore[arg-type]
    session_id="s",
    session_started_at=START,
    period_tokens_total=7,
    period_tokens_by_model={"m": 7},
    period_cost_by_model={"m": 0.3},
)
EVENT = UsageEvent("id", "u", None, START, cost_tokens=0.1, cost_tools=0.2, cost_total=0.3)


# -- dumps and copies


def test_model_dump__python__keeps_types_and_shows_twins() -> None:
    """Datetimes stay, dollars are doubles, and each has its exact integer beside it."""
    found = USAGE.model_dump()
    assert found["session_started_at"] is START
    assert (found["session_cost"], found["session_cost_nano"]) == (1e-9, 1)
    assert (found["period_cost_by_model"], found["period_cost_by_model_nano"]) == (
        {"m": 0.3},
        {"m": 300_000_000},
    )


def test_model_dump__json__is_what_json_can_carry() -> None:
    """Times are ISO 8601, and a nested value is a dict."""
    state = UserState("u", None, "p", True, PlanConfig(), USAGE, PERIOD, None)
    found = state.model_dump(mode="json")
    assert json.loads(json.dumps(found)) == found
    assert found["billing_period"] == {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-02-01T00:00:00+00:00",
    }
    assert found["current_usage"]["session_started_at"] == "2026-01-01T00:00:00+00:00"
    assert (found["last_refreshed"], found["paygent_user_id"]) == (None, None)


def test_model_dump_json__of_each_type__is_the_json_dump() -> None:
    """One line of JSON with the same content, text unescaped."""
    event = EVENT.model_copy(update={"description": "Zürich"})
    for value in (event, USAGE, GuardResult(), PERIOD):
        assert json.loads(value.model_dump_json()) == value.model_dump(mode="json")
    assert "Zürich" in event.model_dump_json()


def test_model_copy__with_an_update__changes_only_that() -> None:
    """The original stays; a dollar field takes its twin along."""
    copy = EVENT.model_copy(update={"cost_total": 0.5})
    assert (copy.cost_total, copy.cost_total_nano) == (0.5, 500_000_000)
    assert copy.model_copy(update={"cost_total": 0.3}) == EVENT
    assert EVENT.cost_total_nano == 300_000_000
    assert EVENT.model_copy() == EVENT


def test_model_copy__by_the_exact_twin__sets_both() -> None:
    """An exact amount can be given as such."""
    copy = USAGE.model_copy(update={"period_cost_nano": 123})
    assert (copy.period_cost_nano, copy.period_cost) == (123, 1.23e-7)


def test_model_copy__of_an_unknown_field__is_a_type_error() -> None:
    """A typing slip is told, not swallowed."""
    with pytest.raises(TypeError, match="UsageEvent has no field cost, totl"):
        EVENT.model_copy(update={"totl": 1, "cost": 2})


def test_model_copy__of_a_billing_period__is_validated() -> None:
    """A copy obeys the rules of a new value."""
    with pytest.raises(InvalidValue, match="must be after start"):
        PERIOD.model_copy(update={"end": START})


def test_values__are_frozen_and_equal_by_content() -> None:
    """Nobody changes a result under somebody else."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT.user_id = "other"  # type: ignore[misc]
    assert BillingPeriod(START, END) == PERIOD


@pytest.mark.parametrize("amount", ["0.1", 0.1, Decimal("0.1")])
def test_twins__of_any_kind_of_number__are_exact(amount: Any) -> None:
    """A float is read as its shortest decimal, so ten cents are ten cents."""
    usage = CurrentUsage(period_cost=amount, period_cost_by_model={"m": amount})
    assert (usage.period_cost_nano, usage.period_cost) == (100_000_000, 0.1)
    assert (usage.period_cost_by_model_nano, usage.period_cost_by_model) == (
        {"m": 100_000_000},
        {"m": 0.1},
    )


def test_twins__of_what_is_no_number__is_a_type_error() -> None:
    """A result is never made of something that is no amount."""
    with pytest.raises(TypeError, match="is not a number of dollars"):
        CurrentUsage(period_cost="a lot")  # type: ignore[arg-type]


# -- events


def test_usage_event__of_an_event__shows_absence_as_none() -> None:
    """Empty text inside is None outside, and amounts stay exact."""
    inside = Event(
        event_id="e", user_id="u", session_id="", at_us=1_000_000, model="", model_key="",
        provider="", plan="p", period_start_us=0, input_tokens=3, output_tokens=4,
        cached_input_tokens=1, cache_write_tokens=2, reasoning_tokens=1, cost_tokens_nano=1,
        cost_tools_nano=2, quality="unpriced", source="manual", price_id="", cost_explicit=True,
        tool_calls=("search",), description="d", metadata=None,
    )  # fmt: skip
    found = usage_event(inside)
    assert (found.session_id, found.model, found.provider, found.price_id) == (None,) * 4
    assert (found.total_tokens, found.cost_total_nano, found.cost_total) == (7, 3, 3e-9)
    assert found.timestamp == datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc)
    assert (found.tool_calls, found.metadata, found.source) == (["search"], {}, "manual")


# -- billing periods


def test_billing_period__naive_datetimes__are_utc() -> None:
    """A period without a zone is read as UTC, not as this machine's."""
    naive = BillingPeriod(datetime(2026, 1, 1), datetime(2026, 2, 1))
    assert naive == PERIOD
    assert naive.start.tzinfo is timezone.utc


def test_billing_period__in_another_zone__is_converted() -> None:
    """The same moment, told in UTC."""
    zone = timezone(timedelta(hours=2))
    period = BillingPeriod(datetime(2026, 1, 1, 2, tzinfo=zone), END)
    assert (period.start, period.start.tzinfo) == (START, timezone.utc)


def test_billing_period__of_other_types__names_both_fields() -> None:
    """Dates and strings are no moments."""
    with pytest.raises(InvalidValue) as caught:
        BillingPeriod("2026-01-01", START.date())  # type: ignore[arg-type]
    assert [each.field for each in caught.value.findings] == ["start", "end"]


# -- sentences


def decision(reason: str, metric: str, spent: int, cap: int, held: int = 0) -> Decision:
    """What the gate decides of one limit, for a call that needs 0."""
    reading = Reading(reason, Thresholds(cap, cap, cap * 8 // 10), spent, held, metric=metric)
    return decide((reading,), strict=False)


def message_of(given: Decision) -> str | None:
    """The message of a decision about user "u"."""
    return guard_result(given, "u", plan="pro").message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            decision("total_spend", "spend", 2_000_000_000, 2_000_000_000),
            "u has used $2.00 of $2.00 in this billing period",
        ),
        (
            decision("session_spend", "spend", 1_600_000_000, 2_000_000_000),
            "u has used $1.60 of $2.00 in this session",
        ),
        (
            decision("model_limit:gpt-4o", "tokens", 50_000, 50_000),
            "u has used 50,000 of 50,000 tokens on gpt-4o",
        ),
        (
            decision("calls:day", "calls", 1_000, 1_000),
            "u has used 1,000 of 1,000 calls (calls:day)",
        ),
        (
            decision("total_spend", "spend", 1_000_000_000, 2_000_000_000, held=1_000_000_000),
            "u has used $1.00 of $2.00 in this billing period; calls in flight hold $1.00: "
            "try again when they have settled",
        ),
        (
            decision("total_spend", "spend", 4_000_000, 4_000_000, held=500_000)._replace(
                estimate=450_000, resets_us=1_796_083_200_000_000
            ),
            "u has used $0.0040 of $0.0040 in this billing period; calls in flight hold $0.0005; "
            "this call may cost $0.000450; resets 2026-12-01 00:00 UTC",
        ),
        (
            decision("model_limit:gpt-4o", "tokens", 350, 350)._replace(
                estimate=1, resets_us=1_796_083_200_000_000
            ),
            "u has used 350 of 350 tokens on gpt-4o; this call may use 1 token; "
            "resets 2026-12-01 00:00 UTC",
        ),
    ],
)
def test_guard_result__of_each_reason__is_one_sentence_for_people(
    given: Decision, message: str
) -> None:
    """The sentence names user, figures, unit and limit, then holds, the estimate and the reset."""
    assert message_of(given) == message


@pytest.mark.parametrize(
    ("spent", "cap", "shown"),
    [
        (0, 4_000_000, "$0.0000 of $0.0040"),
        (400_000, 4_000_000, "$0.0004 of $0.0040"),
        (13_600, 25_000_000_000, "$0.00 of $25.00"),
        (20_500_000_000, 25_000_000_000, "$20.50 of $25.00"),
        (900_000_000, 900_000_000, "$0.90 of $0.90"),
        (123_456_789, 900_000_000, "$0.12 of $0.90"),
        (5, 5, "$0.000000005 of $0.000000005"),
        (1_234_567_890_000, 9_000_000_000_000, "$1,234.56 of $9,000.00"),
    ],
)
def test_row_12__amounts_of_one_message__have_the_same_decimals(
    spent: int, cap: int, shown: str
) -> None:
    """As few decimals as show both, the same on both sides."""
    given = decision("total_spend", "spend", spent, cap)._replace(status="hard_gate")
    assert message_of(given) == f"u has used {shown} in this billing period"


@pytest.mark.parametrize(
    ("reason", "metric", "cap", "need", "message"),
    [
        (
            "total_spend",
            "spend",
            1_000_000_000,
            1_280_002_500,
            "u: this call may cost up to $1.29, with $1.00 of $1.00 left in this billing period",
        ),
        (
            "session_spend",
            "spend",
            3_000_000,
            12_500_000,
            "u: this call may cost up to $0.0125, with $0.0030 of $0.0030 left in this session",
        ),
        (
            "model_limit:gpt-4o",
            "tokens",
            10_000,
            16_386,
            "u: this call may use up to 16,386 tokens, with 10,000 of 10,000 left on gpt-4o",
        ),
    ],
)
def test_row_12__a_strict_call_that_cannot_fit__names_its_worst_case_and_what_is_left(
    reason: str, metric: str, cap: int, need: int, message: str
) -> None:
    """The cap is not used up, so the sentence does not claim that it is, nor the used fraction."""
    reading = Reading(reason, Thresholds(cap, cap, cap), 0, 0, need, metric)
    result = guard_result(decide((reading,), strict=True), "u", plan="pro")
    assert (result.status, result.retryable, result.message) == ("hard_gate", False, message)
    assert result.usage_pct == 0.0


@pytest.mark.parametrize(
    ("spent", "cap", "line", "shown"),
    [
        (900_000_000, 10**9, 900_000_000, "has used $0.90 of $1.00"),
        (999_999_999_999, 1_000_000_000_000, 1_000_000_000_000, "has used $999.99 of $1,000.00"),
    ],
)
def test_row_12__a_line_that_is_not_the_cap__is_named(
    spent: int, cap: int, line: int, shown: str
) -> None:
    """Who is refused at 90 % is told why; what is nearly the cap does not look like it."""
    reading = Reading("total_spend", Thresholds(cap, line, 0), spent, 0)
    message = str(message_of(decide((reading,), strict=False)))
    assert message.startswith(f"u {shown} in this billing period")
    assert ("calls are refused at $0.90" in message) is (line != cap)


def test_row_12__a_strict_call_beyond_a_line_above_the_cap__is_compared_with_the_line() -> None:
    """The gate may be above the cap; then so is what is left."""
    reading = Reading("total_spend", Thresholds(10**9, 2 * 10**9, 10**9), 0, 0, 3 * 10**9)
    assert message_of(decide((reading,), strict=True)) == (
        "u: this call may cost up to $3.00, with $2.00 of $2.00 left in this billing period"
    )


def test_row_12__a_tiny_estimate__is_not_spelled_out() -> None:
    """Nobody reads nano-dollars."""
    reading = Reading("total_spend", Thresholds(10**9, 10**9, 10**9), 10**9, 0, 5)
    message = message_of(decide((reading,), strict=False))
    assert str(message).endswith("this call may cost less than $0.0001")


def test_guard_result__a_strict_call_on_a_used_up_cap__names_what_is_used() -> None:
    """Nothing is left, so the cap is the reason, and the size of the call a detail."""
    reading = Reading("total_spend", Thresholds(10**9, 10**9, 10**9), 10**9, 0, 5 * 10**8)
    assert message_of(decide((reading,), strict=True)) == (
        "u has used $1.00 of $1.00 in this billing period; this call may cost $0.50"
    )


def test_guard_result__of_a_call__has_user_model_plan_estimate_and_reset() -> None:
    """All that a callback needs to write to the user."""
    reading = Reading(
        "total_spend", Thresholds(100, 100, 80), 100, 0, 7, resets_us=1_796_083_200_000_000
    )
    result = guard_result(decide((reading,), strict=False), "u", plan="pro", model="gpt-4o")
    assert (result.user_id, result.model, result.plan) == ("u", "gpt-4o", "pro")
    assert (result.estimate_value, result.resets_at) == (
        7e-9,
        datetime(2026, 12, 1, tzinfo=timezone.utc),
    )


def test_guard_result__ok__has_no_sentence_and_no_reason() -> None:
    """Nothing to say, nothing said."""
    result = guard_result(decision("total_spend", "spend", 1, 10), "u", plan="pro")
    assert (result.status, result.message) == ("ok", None)
    nothing = guard_result(decide((), strict=False), "u", plan="pro")
    assert nothing == GuardResult(user_id="u", plan="pro")


def test_guard_result__figures__are_in_the_unit_of_the_reason() -> None:
    """Dollars for spend, plain counts for tokens; a fraction for the percentage."""
    spend = guard_result(
        decision("total_spend", "spend", 1_600_000_000, 2_000_000_000), "u", plan="pro"
    )
    assert (spend.status, spend.usage_pct) == ("soft_gate", 0.8)
    assert (spend.current_value, spend.limit_value) == (1.6, 2.0)
    tokens = guard_result(decision("model_limit:m", "tokens", 9, 10), "u", plan="pro")
    assert (tokens.current_value, tokens.limit_value) == (9.0, 10.0)
    blocked = guard_result(decision("total_spend", "spend", 0, 0), "u", plan="pro")
    assert (blocked.status, blocked.usage_pct) == ("hard_gate", 1.0)


def test_limit_exceeded__over_a_process_border__keeps_its_result() -> None:
    """Task queues pickle exceptions; the result arrives, and the text is the sentence."""
    error = PaygentLimitExceeded(GuardResult("hard_gate", "no_user", message="no user here"))
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.guard_result, str(copy)) == (error.guard_result, "no user here")
    assert str(PaygentLimitExceeded(GuardResult("hard_gate", "offline"))) == "offline"
