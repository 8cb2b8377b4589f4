"""Limits: what is counted, for whom, over which time, and how much is allowed.

A limit's identity is (metric, scope, model, window), never a plan version, so a change of plan
keeps what was spent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from paygent.core.money import Number, read_cap_nano, read_decimal, to_usd
from paygent.core.period import rolling_length_us
from paygent.core.validation import ValidationErrors, read_count, read_field
from paygent.core.value import Value, exact_usd

Metric = Literal["spend", "tokens", "calls"]
Scope = Literal["user", "session"]


@dataclass(frozen=True)
class ModelLimitConfig(Value):
    """The limits of one model.

    Attributes:
        max_tokens_per_period: Tokens, input and output together, per billing period; None is no
            limit.
    """

    max_tokens_per_period: int | None = None

    if TYPE_CHECKING:  # a count may be written in several ways; the field has one type

        def __init__(self, max_tokens_per_period: Number | None = None) -> None: ...

    def __post_init__(self) -> None:
        errors = ValidationErrors("ModelLimitConfig")
        given = self.max_tokens_per_period
        exact = read_count(errors, "max_tokens_per_period", given, optional=True)
        errors.raise_if_any()
        object.__setattr__(self, "max_tokens_per_period", exact)


@dataclass(frozen=True)
class Limit(Value):
    """A limit in its general form.

    Attributes:
        metric: The unit that is limited: "spend" (dollars), "tokens" or "calls".
        scope: One "user", or one "session" of a user.
        model: Only calls of this model, or None for all.
        window: The time span: "period" (billing period), "session", "day" (UTC), or a rolling one
            of so many minutes, hours or days: "rolling:90m", "rolling:24h", "rolling:7d".
        cap: Dollars for spend, otherwise a count. 0 blocks every call; None or infinite is no
            limit, and has to be given, since a limit without a cap is a mistake.
        cap_exact: The cap in nano-dollars, or the count; None if there is no limit.
    """

    metric: Metric = "spend"
    scope: Scope = "user"
    model: str | None = None
    window: str = "period"
    cap: float = math.nan
    cap_exact: int | None = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # a cap may be written in several ways; the field has one type

        def __init__(
            self,
            metric: Metric = "spend",
            scope: Scope = "user",
            model: str | None = None,
            window: str = "period",
            cap: Number | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        errors = ValidationErrors("Limit")
        if self.metric not in ("spend", "tokens", "calls"):
            errors.add("metric", self.metric, 'must be "spend", "tokens" or "calls"')
        if self.scope not in ("user", "session"):
            errors.add("scope", self.scope, 'must be "user" or "session"')
        if self.model is not None and (not isinstance(self.model, str) or not self.model):
            errors.add("model", self.model, "must be a model name, or None for all models")
        # Every field is checked, so that one error names all broken rules.
        rule = self.window if isinstance(self.window, str) else ""
        if rule not in ("period", "session", "day") and rolling_length_us(rule) is None:
            allowed = 'must be "period", "session", "day" or a rolling window such as "rolling:24h"'
            allowed += " (m minutes, h hours, d days)"
            errors.add("window", self.window, allowed)
        # Any other pair would count over windows that no session has.
        if (self.scope == "session") != (rule == "session"):
            errors.add("window", self.window, 'must be "session" exactly when scope is "session"')
        exact: int | None = None
        if isinstance(self.cap, float) and math.isnan(self.cap):
            unit = "dollars" if self.metric == "spend" else f"a number of {self.metric}"
            errors.add("cap", self.cap, f"must be given: {unit}, or None for no limit")
        elif self.metric == "spend":
            exact = read_field(errors, "cap", self.cap, read_cap_nano)
        # An infinite cap is no limit and has no exact value.
        elif read_decimal(self.cap) != math.inf:
            exact = read_count(errors, "cap", self.cap, optional=True)
        errors.raise_if_any()
        object.__setattr__(self, "cap_exact", exact)
        if exact is not None:
            object.__setattr__(self, "cap", to_usd(exact) if self.metric == "spend" else exact)
        elif self.cap is not None:
            object.__setattr__(self, "cap", float(read_decimal(self.cap) or 0))

    def _exact_argument(self, name: str) -> Any:
        if name == "cap" and self.metric == "spend" and self.cap_exact is not None:
            # The float of a large cap is rounded; a copy must keep the exact one.
            return exact_usd(self.cap_exact)
        return getattr(self, name)

    @property
    def key(self) -> LimitKey:
        """The identity of this limit, the same in every version of every plan."""
        return LimitKey(self.metric, self.scope, self.model or "", self.window)


class LimitKey(NamedTuple):
    """The identity of a limit across plans. `model` is "" for all models."""

    metric: str
    scope: str
    model: str
    window: str

    @property
    def reason(self) -> str:
        """The `gate_reason` of a refusal by this limit."""
        if self.model and self.metric == "tokens":
            return f"model_limit:{self.model}"
        if self.metric == "spend" and not self.model and self.window in ("period", "session"):
            return "session_spend" if self.scope == "session" else "total_spend"
        return ":".join(part for part in (self.metric, self.window, self.model) if part)
