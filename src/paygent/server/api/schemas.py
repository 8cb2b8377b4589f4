"""The bodies of requests and answers; with them the OpenAPI document is complete.

Requests refuse unknown fields, since a misspelt one would be ignored in silence. Answers give each
amount of dollars twice: as a number, and exactly as `…_nano` in nano-dollars.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WrapValidator,
)

from paygent.core.event_json import ID_CHARS_MAX, REASON_CHARS_MAX, read_time
from paygent.core.money import read_decimal
from paygent.core.record_json import GATE_CALLS_MAX, MESSAGE_CHARS_MAX
from paygent.core.validation import NAME_CHARS_MAX

LIST_MAX = 500
BATCH_MAX = 1_000
_EMAIL_CHARS_MAX = 255
_EMAIL = r"[^@\s]+@[^@\s]+"
_REASON_CHARS_MAX = 500


class Request(BaseModel):
    """A body of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """A body of an answer."""

    model_config = ConfigDict(frozen=True)


def _read_us(value: Any) -> int:
    at_us = read_time(value)
    if at_us is None:
        raise ValueError("must be an ISO 8601 time with a time zone, from 1970 on")
    return at_us


def _read_name(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _check_email(value: str) -> str:
    if not re.fullmatch(_EMAIL, value):
        raise ValueError("must be an e-mail address")
    return value


def _check_dollars(value: Any) -> Any:
    if read_decimal(value) is None:
        raise ValueError("must be a number of dollars")
    return value


def _read_limit(value: Any, _: Any) -> Any:
    """Read a limit as what it is, so that an error is about that alone."""
    if isinstance(value, str):
        return _LIMIT_TEXT.validate_python(value)
    if isinstance(value, dict):
        return LimitName.model_validate(value)
    raise ValueError("must be the name of a limit, or an object of a limit")


Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX), AfterValidator(_read_name)]
UserId = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Id = Annotated[str, Field(min_length=1, max_length=ID_CHARS_MAX)]
Reason = Annotated[str, Field(max_length=_REASON_CHARS_MAX)]
TimeUs = Annotated[
    int,
    BeforeValidator(_read_us, json_schema_input_type=str),
    Field(json_schema_extra={"type": "string", "format": "date-time"}),
]
"""A time that is read as microseconds since 1970 UTC."""

Dollars = Annotated[float, Field(description="Dollars.")]
Nano = Annotated[int, Field(description="Nano-dollars, exactly.")]
Time = Annotated[
    str, Field(description="ISO 8601, UTC.", json_schema_extra={"format": "date-time"})
]
Cursor = Annotated[
    str | None, Field(description="Pass it as `cursor` for the next page; null on the last one.")
]
Amount = Annotated[Decimal, Field(allow_inf_nan=False, description="Dollars.")]
LimitText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2 * NAME_CHARS_MAX,
        description="`total_spend`, `session_spend` or `model_limit:<model>`.",
    ),
]
_LIMIT_TEXT: TypeAdapter[str] = TypeAdapter(LimitText)


class Problem(Answer):
    """An error (RFC 9457)."""

    type: str = Field(description="The kind of problem, for programs.")
    title: str
    status: int
    detail: str
    request_id: str = Field(description="The log of the server has it, too.")
    errors: list[FieldProblem] | None = None


class FieldProblem(Answer):
    """A rule that a value breaks."""

    field: str = Field(description="Path of the value, such as `plans[0].soft_gate_at`.")
    value: Any = None
    rule: str


# -- health


class Health(Answer):
    """That the server is alive."""

    status: Literal["ok"]
    capabilities: list[str]
    version: str


class Ready(Answer):
    """Whether the database is reachable."""

    status: Literal["ok", "unavailable"]


# -- products and keys


class NewProduct(Request):
    """A product to create."""

    name: Name
    contact_name: Name | None = None
    contact_email: (
        Annotated[
            str,
            Field(
                min_length=3,
                max_length=_EMAIL_CHARS_MAX,
                json_schema_extra={"pattern": f"^{_EMAIL}$"},
            ),
            AfterValidator(_check_email),
        ]
        | None
    ) = None


class Product(Answer):
    """A product."""

    id: str
    name: str
    slug: str
    contact_name: str | None
    contact_email: str | None
    timezone: str
    created_at: Time


class CreatedProduct(Product):
    """A product with its first key."""

    api_key: str | None = Field(description="Shown this once.")


class Products(Answer):
    """The products of a key."""

    products: list[Product]


class NewKey(Request):
    """A key to create."""

    scope: Literal["admin", "sdk", "read"]
    name: Annotated[str, Field(max_length=NAME_CHARS_MAX)] = ""


class Key(Answer):
    """An API key, without its secret."""

    id: str
    name: str
    scope: Literal["admin", "sdk", "read"]
    hint: str = Field(description="The first characters of the key.")
    created_at: Time
    revoked_at: Time | None


class CreatedKey(Key):
    """A new key."""

    api_key: str | None = Field(description="Shown this once.")


class Keys(Answer):
    """A product's keys."""

    keys: list[Key]


# -- users


class NewUser(Request):
    """A user to create."""

    external_user_id: UserId
    name: Name | None = None


class ChangedUser(Request):
    """Fields of a user to change; absent ones stay."""

    name: Name | None = None
    paused: bool | None = None
    reason: Reason | None = None
    sdk_enabled: bool | None = None


class Period(Answer):
    """A billing period, half-open."""

    start: Time
    end: Time


class User(Answer):
    """A user."""

    id: str = Field(description="The ledger's id; it survives an erasure.")
    external_user_id: str
    paygent_user_id: str
    name: str | None
    plan: str | None = Field(description="The assigned plan; null: the product's default plan.")
    sdk_enabled: bool
    paused: bool
    paused_reason: str | None
    billing_period: Period | None = Field(description="The current one; null without a given one.")
    renews: str | None
    created_at: Time
    last_call_at: Time | None


class Users(Answer):
    """A page of users."""

    users: list[User]
    next_cursor: Cursor


class ErasedUser(Answer):
    """The pseudonym that an erased user has everywhere."""

    pseudonym: str


class NewSubscription(Request):
    """A plan and a billing period for a user."""

    plan_id: Id
    period_start: TimeUs | None = None
    period_end: TimeUs | None = None
    renews: Literal["auto", "month", "week", "day", "none"] = "auto"


class Subscription(Answer):
    """A user's plan and billing period."""

    user_id: str
    paygent_user_id: str
    plan_id: str
    plan: str
    billing_period: Period
    renews: str


# -- usage


class UsageSums(Answer):
    """Sums of usage."""

    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Dollars
    cost_nano: Nano


class UsageRow(UsageSums):
    """Usage of one model, session or day."""

    model: str | None = None
    session_id: str | None = None
    day: str | None = None
    last_call_at: Time | None = None


class Usage(UsageSums):
    """A user's usage in a span of days."""

    user_id: str
    period: Period
    timezone: str
    breakdown: Literal["model", "session", "day"]
    rows: list[UsageRow]


class SessionUsage(Answer):
    """A user's usage in the billing period."""

    period_cost: Dollars
    period_cost_nano: Nano
    period_tokens_total: int
    period_tokens_by_model: dict[str, int]
    period_cost_by_model: dict[str, float]
    period_cost_by_model_nano: dict[str, int]


class Session(Answer):
    """The state of a user that an application's process needs."""

    user_id: str
    paygent_user_id: str
    plan: str
    sdk_enabled: bool
    paused: bool
    paused_reason: str | None
    plan_config: dict[str, Any] = Field(description="The fields of a plan, with overrides applied.")
    current_usage: SessionUsage
    billing_period: Period


# -- events


class Accepted(Answer):
    """How many of a batch were new."""

    accepted: int
    duplicates: int


class NewGateEvent(BaseModel):
    """A call that reached a gate."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # as documented clients send it

    id: Id
    user_id: UserId
    paygent_user_id: str | None = None
    session_id: Annotated[str, Field(max_length=NAME_CHARS_MAX)] | None = None
    timestamp: TimeUs
    status: Literal["soft_gate", "hard_gate"]
    gate_reason: Annotated[str, Field(max_length=REASON_CHARS_MAX)] | None = None
    usage_pct: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    current_value: Annotated[Decimal, Field(ge=0, le=10**18, allow_inf_nan=False)] = Decimal(0)
    limit_value: Annotated[Decimal, Field(ge=0, le=10**18, allow_inf_nan=False)] = Decimal(0)
    model: Annotated[str, Field(max_length=NAME_CHARS_MAX)] | None = None
    blocked: bool = False
    message: Annotated[str, Field(max_length=MESSAGE_CHARS_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    calls: Annotated[int, Field(ge=1, le=GATE_CALLS_MAX)] = 1


GateEvents = Annotated[list[NewGateEvent], Field(max_length=BATCH_MAX)]


class GateEvent(Answer):
    """A call that reached a gate, or several that are alike, in one round of delivery."""

    id: str
    user_id: str
    session_id: str | None
    timestamp: Time
    status: str
    gate_reason: str | None
    usage_pct: float
    current_value: float
    limit_value: float
    model: str | None
    blocked: bool
    message: str | None
    metadata: dict[str, Any]
    calls: int


class GateEventPage(Answer):
    """A page of a user's gate events, newest first."""

    user_id: str
    events: list[GateEvent]
    next_cursor: Cursor


# -- overrides and revenue


class LimitName(Request):
    """The identity of a limit."""

    metric: Literal["spend", "tokens", "calls"] = "spend"
    scope: Literal["user", "session"] = "user"
    model: Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)] | None = None
    window: Annotated[str, Field(max_length=20)] = "period"


class NewOverride(Request):
    """A limit to raise for a time: to a cap, or by an amount."""

    limit: Annotated[LimitName | LimitText, WrapValidator(_read_limit)]
    cap: Amount | None = Field(None, description="Dollars, tokens or calls, as the limit counts.")
    add: Amount | None = Field(None, description="An amount that is added to the plan's cap.")
    until: TimeUs
    reason: Reason | None = None


class LimitIdentity(Answer):
    """The identity of a limit."""

    metric: str
    scope: str
    model: str | None
    window: str


class Override(Answer):
    """A limit that is raised for a time."""

    id: str
    limit: LimitIdentity
    cap: float | None
    add: float | None
    until: Time
    reason: str | None
    created_at: Time


class Overrides(Answer):
    """The overrides of a user that apply now."""

    overrides: list[Override]


class NewRevenue(Request):
    """A user's payment for a span of time, or a refund."""

    id: Id
    user_id: UserId
    amount: Annotated[Amount, BeforeValidator(_check_dollars)]
    currency: Literal["USD"] = "USD"
    period_start: TimeUs
    period_end: TimeUs
    kind: Literal["payment", "refund"] = "payment"
    source: Annotated[str, Field(max_length=NAME_CHARS_MAX)] | None = None


RevenueBatch = Annotated[list[NewRevenue], Field(max_length=BATCH_MAX)]


class Revenue(Answer):
    """An entry of revenue."""

    id: str
    user_id: str
    amount: Dollars
    amount_nano: Nano
    currency: Literal["USD"]
    period_start: Time
    period_end: Time
    kind: Literal["payment", "refund"]
    source: str | None


class RevenuePage(Answer):
    """A page of revenue, by the start of its period."""

    revenue: list[Revenue]
    next_cursor: Cursor


# -- plans


class NewPlan(BaseModel):
    """A plan by its name, with the fields of `PlanConfig`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name


class NewPlans(Request):
    """Plans to create, or to add versions to, by name."""

    soft_gate_at: Any = Field(
        None,
        description="Of the plans that have none of their own.",
        json_schema_extra={"anyOf": [{"type": "number"}, {"type": "null"}]},
    )
    hard_gate_at: Any = Field(
        None,
        description="Of the plans that have none of their own.",
        json_schema_extra={"anyOf": [{"type": "number"}, {"type": "null"}]},
    )
    plans: Annotated[list[NewPlan], Field(min_length=1, max_length=200)]


class Plan(BaseModel):
    """The newest version of a plan, with the fields of `PlanConfig`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    name: str
    version: int
    created_at: Time


class Plans(Answer):
    """A product's plans."""

    plans: list[Plan]


class DeletedPlan(Answer):
    """The plan that was deleted."""

    id: str
    deleted: Literal[True]
