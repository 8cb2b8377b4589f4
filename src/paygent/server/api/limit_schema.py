"""A user's limits, and the tokens that show users their own usage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from paygent.server.api.schemas import Answer, Period, Request, SessionUsage, Time


class LimitUsage(Answer):
    """A limit of a user, and how much of it is used."""

    metric: Literal["spend", "tokens", "calls"]
    scope: Literal["user", "session"]
    model: str | None
    window: str
    cap: float = Field(description="Dollars, tokens or calls, as `metric` says.")
    used: float | None = Field(description="Null for a limit of each session.")
    resets_at: Time | None
    reached: bool
    reached_at: Time | None = Field(
        description="When it will be reached at the pace so far; null if not in this window."
    )


class Limits(Answer):
    """The limits of a user."""

    user_id: str
    plan: str
    billing_period: Period
    limits: list[LimitUsage]


class OwnUsage(Answer):
    """A user's own usage, for their page."""

    user_id: str
    plan: str
    billing_period: Period
    paused: bool
    current_usage: SessionUsage
    limits: list[LimitUsage]


class NewUsageToken(Request):
    """How long a token is valid."""

    expires_in_s: Annotated[int, Field(ge=60, le=86_400)] = 900


class UsageToken(Answer):
    """A token that shows one user their own usage."""

    token: str | None = Field(description="Shown this once.")
    expires_at: Time
