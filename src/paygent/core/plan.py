"""Plans: what a user may spend, what calls cost, and what the gate does at the limits.

A plan is written in the documented shorthand (`max_spend_per_period`, `model_limits`, …) or with
`Limit`s; `limits_of` returns both in one form. A plan is validated when it is made, and the error
names every broken rule at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from paygent.core.cost_rate import ModelCostRate
from paygent.core.field_readers import read_count, read_field, read_items, read_number, read_value
from paygent.core.limit import Limit, LimitKey, ModelLimitConfig
from paygent.core.money import (
    NanoUsd,
    is_unlimited,
    read_cap_nano,
    read_cost_nano,
    read_decimal,
    read_parts_per_million,
    to_usd,
)
from paygent.core.validation import ValidationErrors
from paygent.core.value import Value, exact_usd

UnknownModel = Literal["count", "dearest", "block"]

_MINUTES_MAX = 10**8  # two centuries
_GATE_MAX = 10  # a gate above the cap (1.2) is meant; far above it, nothing would be gated


@dataclass(frozen=True)
class PlanConfig(Value):
    """The limits, prices and gate policy of a plan's users.

    Attributes:
        max_spend_per_period: Dollars per billing period; None or infinite is no limit.
        max_spend_per_session: Dollars per session; None or infinite is no limit.
        soft_gate_at: Fraction of a cap at which the warning fires; 0 < soft_gate_at ≤ hard_gate_at.
        hard_gate_at: Fraction of a cap at which calls are refused; at most 10.
        model_limits: Limits by model name; a plain number means tokens per period.
        cost_rates: Prices by model name; they override the catalogue.
        default_cost_rate: Price of models that `cost_rates` does not name.
        tool_costs: Dollars by tool name, charged when an answer calls that tool.
        default_tool_cost: Dollars for a tool given to `record_event` that `tool_costs` does not
            name.
        session_timeout_minutes: A session without an id ends after this long without a call.
        pre_call_estimate: True is strict: a call's own worst case is held before it is sent.
        pre_call_buffer_tokens: Output held by a call without `max_tokens` until three calls were
            observed; in a strict plan, its bound for a model without a known maximum output.
        reservation_safety_factor: Multiplies the expected amount until three calls were observed.
        price: Dollars that the user pays per period, for margins; None if not known.
        limits: Further limits in the general form.
        contention_wait_s: Seconds that a call may wait for holds of calls in flight; 0 refuses at
            once.
        when_offline: "allow", "block", or {"allow_up_to": dollars per process} while the ledger is
            unreachable.
        unknown_model: "count" (tokens count, cost 0, logged), "dearest" (the dearest rate that this
            plan names) or "block".
    """

    max_spend_per_period: float | None = None
    max_spend_per_session: float | None = None
    soft_gate_at: float = 0.80
    hard_gate_at: float = 1.00
    model_limits: Mapping[str, ModelLimitConfig] = field(default_factory=dict)
    cost_rates: Mapping[str, ModelCostRate] = field(default_factory=dict)
    default_cost_rate: ModelCostRate | None = None
    tool_costs: Mapping[str, float] = field(default_factory=dict)
    default_tool_cost: float = 0.02
    session_timeout_minutes: float = 30.0
    pre_call_estimate: bool = False
    pre_call_buffer_tokens: int = 4096
    reservation_safety_factor: float = 1.2
    price: float | None = None
    limits: tuple[Limit, ...] = ()
    contention_wait_s: float = 30.0
    when_offline: str | Mapping[str, float] = "allow"
    unknown_model: UnknownModel = "count"

    max_spend_per_period_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    max_spend_per_session_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    default_tool_cost_nano: NanoUsd = field(init=False, repr=False, compare=False)
    tool_costs_nano: Mapping[str, NanoUsd] = field(init=False, repr=False, compare=False)
    price_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    soft_gate_ppm: int = field(init=False, repr=False, compare=False)
    hard_gate_ppm: int = field(init=False, repr=False, compare=False)
    offline_allowance_nano: NanoUsd | None = field(init=False, repr=False, compare=False)

    _dollars: ClassVar[tuple[str, ...]] = (
        "max_spend_per_period",
        "max_spend_per_session",
        "default_tool_cost",
        "tool_costs",
        "price",
    )

    def __post_init__(self) -> None:
        # Every reader runs, so that one error names all broken rules.
        errors = ValidationErrors("PlanConfig")
        self._read_caps(errors)
        self._read_gates(errors)
        self._read_models(errors)
        self._read_tools(errors)
        self._read_numbers(errors)
        self._read_limits(errors)
        self._read_edges(errors)
        errors.raise_if_any()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read_caps(self, errors: ValidationErrors) -> None:
        for name in ("max_spend_per_period", "max_spend_per_session"):
            given = getattr(self, name)
            exact = read_field(errors, name, given, read_cap_nano)
            self._set(name + "_nano", exact)
            # A cap that is too large is no limit; the field shows the number that was given.
            if given is not None and not (exact is None and errors.found):
                self._set(name, float(read_decimal(given) or 0) if exact is None else to_usd(exact))
        price = (
            None if self.price is None else read_field(errors, "price", self.price, read_cost_nano)
        )
        self._set("price_nano", price)
        if price is not None:
            self._set("price", to_usd(price))

    def _read_gates(self, errors: ValidationErrors) -> None:
        soft = read_field(errors, "soft_gate_at", self.soft_gate_at, read_parts_per_million)
        hard = read_field(errors, "hard_gate_at", self.hard_gate_at, read_parts_per_million)
        self._set("soft_gate_ppm", soft or 0)
        self._set("hard_gate_ppm", hard or 0)
        if soft is not None and soft <= 0:
            errors.add("soft_gate_at", self.soft_gate_at, "must be above 0")
        if hard is not None and not 0 < hard <= _GATE_MAX * 10**6:
            errors.add("hard_gate_at", self.hard_gate_at, "must be above 0 and at most 10")
        elif soft is not None and hard is not None and soft > hard:
            rule = f"must not be above hard_gate_at ({self.hard_gate_at})"
            errors.add("soft_gate_at", self.soft_gate_at, rule)

    def _read_models(self, errors: ValidationErrors) -> None:
        limits: dict[str, ModelLimitConfig] = {}
        for name, given in read_items(errors, "model_limits", self.model_limits):
            limit = read_value(
                errors, f"model_limits.{name}", given, ModelLimitConfig, "max_tokens_per_period"
            )
            if limit is not None:
                limits[name] = limit
        self._set("model_limits", limits)
        rates: dict[str, ModelCostRate] = {}
        for name, given in read_items(errors, "cost_rates", self.cost_rates):
            rate = read_value(errors, f"cost_rates.{name}", given, ModelCostRate, None)
            if rate is not None:
                rates[name] = rate
        self._set("cost_rates", rates)
        if self.default_cost_rate is not None:
            rate = read_value(
                errors, "default_cost_rate", self.default_cost_rate, ModelCostRate, None
            )
            self._set("default_cost_rate", rate)

    def _read_tools(self, errors: ValidationErrors) -> None:
        exact: dict[str, NanoUsd] = {}
        for name, given in read_items(errors, "tool_costs", self.tool_costs):
            amount = read_field(errors, f"tool_costs.{name}", given, read_cost_nano)
            if amount is not None:
                exact[name] = amount
        self._set("tool_costs", {name: to_usd(amount) for name, amount in exact.items()})
        self._set("tool_costs_nano", exact)
        default = (
            read_field(errors, "default_tool_cost", self.default_tool_cost, read_cost_nano) or 0
        )
        self._set("default_tool_cost_nano", default)
        if not errors.found:
            self._set("default_tool_cost", to_usd(default))

    def _read_numbers(self, errors: ValidationErrors) -> None:
        minutes = read_number(errors, "session_timeout_minutes", self.session_timeout_minutes)
        if minutes is not None and not 0 < minutes <= _MINUTES_MAX:
            rule = "must be above 0 minutes" if minutes <= 0 else "must be at most 10⁸ minutes"
            errors.add("session_timeout_minutes", self.session_timeout_minutes, rule)
        if not isinstance(self.pre_call_estimate, bool):
            errors.add("pre_call_estimate", self.pre_call_estimate, "must be True or False")
        buffer_tokens = read_count(
            errors, "pre_call_buffer_tokens", self.pre_call_buffer_tokens, optional=False
        )
        factor = read_number(errors, "reservation_safety_factor", self.reservation_safety_factor)
        if factor is not None and not 1 <= factor <= 100:
            rule = "must be from 1 to 100"
            errors.add("reservation_safety_factor", self.reservation_safety_factor, rule)
        wait = read_number(errors, "contention_wait_s", self.contention_wait_s)
        if wait is not None and wait < 0:
            errors.add("contention_wait_s", self.contention_wait_s, "must not be negative")
        if not errors.found:
            for name in ("soft_gate_at", "hard_gate_at"):
                self._set(name, float(getattr(self, name)))
            self._set("session_timeout_minutes", minutes)
            self._set("reservation_safety_factor", factor)
            self._set("contention_wait_s", wait)
            self._set("pre_call_buffer_tokens", buffer_tokens)

    def _read_limits(self, errors: ValidationErrors) -> None:
        limits: list[Limit] = []
        given = self.limits
        if isinstance(given, (str, Mapping)) or not hasattr(given, "__iter__"):
            errors.add("limits", given, "must be a list of Limit")
            given = ()
        for number, item in enumerate(given):
            limit = read_value(errors, f"limits[{number}]", item, Limit, None)
            if limit is not None:
                limits.append(limit)
        keys = [limit.key for limit in limits]
        # Two caps for one identity: neither can be assumed to be meant.
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            errors.add("limits", tuple(key), "is given twice; a limit may be given once")
        self._set("limits", tuple(limits))

    def _read_edges(self, errors: ValidationErrors) -> None:
        allowance: NanoUsd | None = None
        if isinstance(self.when_offline, Mapping):
            # A misspelt key must not silently mean "allow".
            if set(self.when_offline) != {"allow_up_to"}:
                rule = 'must be "allow", "block" or {"allow_up_to": dollars}'
                errors.add("when_offline", self.when_offline, rule)
            else:
                amount = self.when_offline["allow_up_to"]
                allowance = read_field(errors, "when_offline.allow_up_to", amount, read_cost_nano)
                if allowance is not None:
                    self._set("when_offline", {"allow_up_to": to_usd(allowance)})
        elif self.when_offline not in ("allow", "block"):
            rule = 'must be "allow", "block" or {"allow_up_to": dollars}'
            errors.add("when_offline", self.when_offline, rule)
        self._set("offline_allowance_nano", allowance)
        if self.unknown_model not in ("count", "dearest", "block"):
            errors.add("unknown_model", self.unknown_model, 'must be "count", "dearest" or "block"')
        # Without a rate there would be no dearest one, and every call would be free.
        elif self.unknown_model == "dearest" and not self.cost_rates and not self.default_cost_rate:
            rule = '"dearest" needs at least one rate in cost_rates or default_cost_rate'
            errors.add("unknown_model", self.unknown_model, rule)

    @property
    def caps_out_of_range(self) -> tuple[str, ...]:
        """Names of caps above 9·10⁹ dollars, which are no limit; empty for nearly every plan."""
        names = ("max_spend_per_period", "max_spend_per_session")
        return tuple(name for name in names if is_unlimited(getattr(self, name)))


def limits_of(plan: PlanConfig) -> tuple[Limit, ...]:
    """Return every limit of a plan in the general form, the documented shorthand first.

    Limits without a cap are left out. If a shorthand and a `Limit` have the same identity, the
    smaller cap counts. The tuple is made once per plan and kept with it.
    """
    kept: tuple[Limit, ...] | None = plan.__dict__.get("_all_limits")
    if kept is not None:
        return kept
    by_key: dict[LimitKey, Limit] = {}

    def add(limit: Limit) -> None:
        if limit.cap_exact is None:
            return
        key = limit.key._replace(model=limit.key.model.strip().lower())  # one model, two spellings
        other = by_key.get(key)
        if other is None or other.cap_exact is None or limit.cap_exact < other.cap_exact:
            by_key[key] = limit

    if plan.max_spend_per_period_nano is not None:
        add(Limit(cap=exact_usd(plan.max_spend_per_period_nano)))
    if plan.max_spend_per_session_nano is not None:
        cap = exact_usd(plan.max_spend_per_session_nano)
        add(Limit(scope="session", window="session", cap=cap))
    for name, config in plan.model_limits.items():
        if config.max_tokens_per_period is not None:
            add(Limit(metric="tokens", model=name, cap=config.max_tokens_per_period))
    for limit in plan.limits:
        add(limit)
    limits = tuple(by_key.values())
    # Plans are immutable, so this cannot become stale.
    object.__setattr__(plan, "_all_limits", limits)
    return limits


def without_limits(plan: PlanConfig) -> PlanConfig:
    """Return a copy of a plan without its limits; made once per plan and kept with it."""
    kept: PlanConfig | None = plan.__dict__.get("_without_limits")
    if kept is None:
        kept = plan.model_copy(
            update={
                "max_spend_per_period": None,
                "max_spend_per_session": None,
                "model_limits": {},
                "limits": (),
            }
        )
        object.__setattr__(plan, "_without_limits", kept)
    return kept
