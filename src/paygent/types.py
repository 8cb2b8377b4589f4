"""Public value types: the results of verbs and the arguments of callbacks.

All are frozen dataclasses with `model_dump`, `model_dump_json` and `model_copy`. Dollar fields are
floats, each the double nearest to the exact amount, which its twin `…_nano` holds as integer
nano-dollars. Times are aware UTC datetimes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from paygent.core.decision_text import sentence
from paygent.core.event import Event
from paygent.core.gate import FULL_PPM, Decision
from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.money import to_usd
from paygent.core.period import to_datetime
from paygent.core.plan import ModelCostRate, PlanConfig
from paygent.core.usage import Quality
from paygent.core.validation import ValidationErrors
from paygent.core.value import Value, exact_usd

__all__ = [
    "BillingPeriod",
    "BudgetRemaining",
    "CurrentUsage",
    "GuardResult",
    "Limit",
    "MaxTokensAdvice",
    "ModelCostRate",
    "ModelLimitConfig",
    "ModelUsage",
    "PlanConfig",
    "UsageEvent",
    "UserState",
]


@dataclass(frozen=True)
class BillingPeriod(Value):
    """A user's billing period, half-open: start ≤ t < end.

    Attributes:
        start: Aware datetime; a naive one is taken as UTC.
        end: Aware datetime, after `start`.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        errors = ValidationErrors("BillingPeriod")
        for name in ("start", "end"):
            # Both ends are checked, so that one error names both.
            value = getattr(self, name)
            if not isinstance(value, datetime):
                errors.add(name, value, "must be a datetime")
            elif value.tzinfo is None:
                object.__setattr__(self, name, value.replace(tzinfo=timezone.utc))
            else:
                try:
                    object.__setattr__(self, name, value.astimezone(timezone.utc))
                except OverflowError:
                    errors.add(name, value, "must be within the years 1 to 9999, in UTC")
        if not errors.found and self.end <= self.start:
            errors.add("end", self.end, "must be after start")
        errors.raise_if_any()


@dataclass(frozen=True)
class GuardResult(Value):
    """The gate's decision about a user.

    Attributes:
        status: "ok", "soft_gate" (past the warn line) or "hard_gate" (refused).
        gate_reason: total_spend, session_spend, model_limit:<model>, the name of another limit
            (calls:day), contention, unknown_model:<model>, unmetered:<operation>, no_user, offline,
            or None when ok.
        usage_pct: Spent and held as a fraction of the cap (0.8), of the limit that decides.
        current_value: The amount spent, in the limit's unit: dollars, tokens or calls.
        limit_value: The cap before gates, in the same unit.
        message: A sentence for display.
        held_value: The amount held by calls in flight, in the same unit.
        retryable: Whether calls in flight may leave room when they settle.
        user_id: The user.
        model: The model of the call as the application named it; None if it named none.
        plan: Name of the user's plan; None if the call was refused before its plan was known.
        estimate_value: The amount that this call may use, in the same unit; 0 without a call.
        resets_at: Aware UTC datetime at which the limit's window ends; None if no moment resets it
            (sessions, rolling windows, refusals without a limit).
    """

    status: Literal["ok", "soft_gate", "hard_gate"] = "ok"
    gate_reason: str | None = None
    usage_pct: float = 0.0
    current_value: float = 0.0
    limit_value: float = 0.0
    message: str | None = None
    held_value: float = 0.0
    retryable: bool = False
    user_id: str | None = None
    model: str | None = None
    plan: str | None = None
    estimate_value: float = 0.0
    resets_at: datetime | None = None


def refusal(
    reason: str,
    message: str,
    *,
    user_id: str | None = None,
    model: str | None = None,
    plan: str | None = None,
    retryable: bool = False,
) -> GuardResult:
    """Return a refusal that no limit has made, so that it has no figures."""
    return GuardResult(
        "hard_gate",
        reason,
        1.0,
        message=message,
        retryable=retryable,
        user_id=user_id,
        model=model or None,
        plan=plan,
    )


def guard_result(
    decision: Decision, user_id: str, *, plan: str, model: str | None = None
) -> GuardResult:
    """Return a decision in its public form, with a sentence for display."""
    return GuardResult(
        status=decision.status,
        gate_reason=decision.reason,
        usage_pct=decision.usage_ppm / FULL_PPM,
        current_value=_figure(decision.spent, decision.metric),
        limit_value=_figure(decision.cap, decision.metric),
        message=sentence(decision, user_id),
        held_value=_figure(decision.held, decision.metric),
        retryable=decision.retryable,
        user_id=user_id,
        model=model or None,
        plan=plan,
        estimate_value=_figure(decision.estimate, decision.metric),
        resets_at=to_datetime(decision.resets_us) if decision.resets_us else None,
    )


def _figure(value: int, metric: str) -> float:
    return to_usd(value) if metric == "spend" else float(value)


@dataclass(frozen=True)
class UsageEvent(Value):
    """One metered call or manual entry.

    Attributes:
        id: UUIDv7, or derived from an idempotency key.
        user_id, session_id: The user, and the session of the call.
        timestamp: When the call began.
        model: The model that answered; None for an event without one.
        input_tokens, output_tokens, total_tokens: Inclusive totals.
        tool_calls: Names of tools that were charged.
        cost_tokens: Dollars for tokens and the provider's per-request fees.
        cost_tools: Dollars for tools at the plan's prices.
        cost_total: Their sum.
        metadata: The metadata of the context.
        source: "auto" for a metered call, "manual" for `record_event`.
        description: Free text of a manual event.
        cost_explicit: The cost was given by the caller.
        synced: A backend has acknowledged the event.
        provider: The provider that answered.
        cached_input_tokens, cache_write_tokens, reasoning_tokens: Parts of the totals.
        quality: exact, partial, estimated or unpriced.
        price_id: The price list used.
        latency_ms: From the call's begin to its settlement.
        blocked: Ran past a hard gate: with `raise_on_hard_gate=False`, or in shadow mode.
        gate_reason: Why it would have been refused; None for an event that is not `blocked`.
        corrects: Id of the event that this one corrects; its counts and costs are then differences,
            which may be negative.
    """

    id: str
    user_id: str
    session_id: str | None
    timestamp: datetime
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    tool_calls: list[str] = field(default_factory=list)
    cost_tokens: float = 0.0
    cost_tools: float = 0.0
    cost_total: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Literal["auto", "manual"] = "auto"
    description: str | None = None
    cost_explicit: bool = False
    synced: bool = False
    provider: str | None = None
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    quality: Quality = "exact"
    price_id: str | None = None
    latency_ms: int = 0
    blocked: bool = False
    gate_reason: str | None = None
    corrects: str | None = None
    cost_tokens_nano: int = field(init=False)
    cost_tools_nano: int = field(init=False)
    cost_total_nano: int = field(init=False)


def usage_event(event: Event) -> UsageEvent:
    """Return an event in its public form."""
    return UsageEvent(
        id=event.event_id,
        user_id=event.user_id,
        session_id=event.session_id or None,
        timestamp=to_datetime(event.at_us),
        model=event.model or None,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        total_tokens=event.total_tokens,
        tool_calls=list(event.tool_calls),
        cost_tokens=exact_usd(event.cost_tokens_nano),
        cost_tools=exact_usd(event.cost_tools_nano),
        cost_total=exact_usd(event.cost_nano),
        metadata=dict(event.metadata or {}),
        source=event.source,
        description=event.description,
        cost_explicit=event.cost_explicit,
        provider=event.provider or None,
        cached_input_tokens=event.cached_input_tokens,
        cache_write_tokens=event.cache_write_tokens,
        reasoning_tokens=event.reasoning_tokens,
        quality=event.quality,
        price_id=event.price_id or None,
        latency_ms=event.latency_ms,
        blocked=event.blocked,
        gate_reason=event.gate_reason or None,
        corrects=event.corrects,
    )


@dataclass(frozen=True)
class CurrentUsage(Value):
    """The usage of a user in the current billing period and session.

    Attributes:
        period_cost: Dollars in the period.
        session_cost: Dollars in the session.
        session_id: The context's session, else the one used last; None if there is none.
        session_started_at: Time at which it was opened.
        period_tokens_total: Tokens in the period.
        period_tokens_by_model, period_cost_by_model: By canonical model name.
        reserved_cost: Dollars held by calls in flight.
        reserved_tokens_by_model: Tokens held by calls in flight.
    """

    period_cost: float = 0.0
    session_cost: float = 0.0
    session_id: str | None = None
    session_started_at: datetime | None = None
    period_tokens_total: int = 0
    period_tokens_by_model: Mapping[str, int] = field(default_factory=dict)
    period_cost_by_model: Mapping[str, float] = field(default_factory=dict)
    reserved_cost: float = 0.0
    reserved_tokens_by_model: Mapping[str, int] = field(default_factory=dict)
    period_cost_nano: int = field(init=False)
    session_cost_nano: int = field(init=False)
    period_cost_by_model_nano: Mapping[str, int] = field(init=False)
    reserved_cost_nano: int = field(init=False)


@dataclass(frozen=True)
class ModelUsage(Value):
    """The usage of one model by a user in the current billing period.

    Attributes:
        model: Its canonical name, or the name under which the plan limits it.
        tokens_used: Input and output together.
        tokens_limit: Tokens per billing period, before gates; None if there is no such limit.
        cost: Dollars.
    """

    model: str
    tokens_used: int = 0
    tokens_limit: int | None = None
    cost: float = 0.0
    cost_nano: int = field(init=False)


@dataclass(frozen=True)
class BudgetRemaining(Value):
    """The amounts that further calls of a user can use before calls are refused: the hard gate less
    what is spent and what calls in flight hold; never below 0.

    Attributes:
        period_spend_remaining: Dollars in the billing period; infinite without a limit.
        session_spend_remaining: Dollars in the session; infinite without a limit.
        model_tokens_remaining: Tokens in the billing period, for each model that the plan limits.
        most_constrained: The limit with the highest used fraction: "period_spend", "session_spend",
            "model_tokens", "unbounded" if there is none, or the reason of another limit.
    """

    period_spend_remaining: float = math.inf
    session_spend_remaining: float = math.inf
    model_tokens_remaining: Mapping[str, int | None] = field(default_factory=dict)
    most_constrained: str = "unbounded"
    period_spend_remaining_nano: int | None = field(init=False)
    session_spend_remaining_nano: int | None = field(init=False)


@dataclass(frozen=True)
class MaxTokensAdvice(Value):
    """How much output a call may request without passing a limit.

    Attributes:
        max_tokens: The largest `max_tokens` that fits; 0 means that a call would be refused, or
            that its input alone does not fit.
        binding_limit: The limit that determined it: "period_spend", "session_spend",
            "model_tokens", the reason of another limit, "blocked" if `max_tokens` is 0, or
            "unbounded" if no limit of the plan did.
        period_spend_remaining, session_spend_remaining: As in `BudgetRemaining`.
        model_tokens_remaining: Tokens left of the model; None if the plan does not limit it.
    """

    max_tokens: int = 0
    binding_limit: str = "unbounded"
    period_spend_remaining: float = math.inf
    session_spend_remaining: float = math.inf
    model_tokens_remaining: int | None = None
    period_spend_remaining_nano: int | None = field(init=False)
    session_spend_remaining_nano: int | None = field(init=False)


@dataclass(frozen=True)
class UserState(Value):
    """A user with their plan, usage and billing period.

    Attributes:
        user_id: The application's id of the user.
        paygent_user_id: The ledger's id of the user, or None.
        plan: Name of the plan.
        sdk_enabled: False passes the user's calls through unmetered.
        plan_config: The plan as it applies to this user.
        current_usage: Their usage.
        billing_period: The current period.
        last_refreshed: Time of the last read from the ledger for this user; None before the first.
    """

    user_id: str
    paygent_user_id: str | None
    plan: str
    sdk_enabled: bool
    plan_config: PlanConfig
    current_usage: CurrentUsage
    billing_period: BillingPeriod | None
    last_refreshed: datetime | None
