"""Plans: what a user may spend, what things cost, and what happens at the edges.

A plan is written in the documented shorthand (`max_spend_per_period`, `model_limits`, …) or with
`Limit`s; inside, both are the same: `limits_of` returns them in one form. A limit's identity is
(metric, scope, model, window), never a plan version, so what was spent carries over a change of
plan. Everything is validated when the plan is made, every broken rule at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from paygent.core.money import (
    NANO_PER_USD,
    from_units,
    is_unlimited,
    read_cap_nano,
    read_cost_nano,
    read_decimal,
    read_parts_per_million,
    read_price_pico,
    shifted,
    to_usd,
)
from paygent.core.period import rolling_length_us
from paygent.core.validation import InvalidValue, ValidationErrors
from paygent.core.value import Value

Metric = Literal["spend", "tokens", "calls"]
Scope = Literal["user", "session"]
UnknownModel = Literal["count", "dearest", "block"]

_COUNT_CAP_MAX = 9 * 10**18  # 64-bit counters
_MINUTES_MAX = 10**8  # two centuries
_GATE_MAX = 10  # a gate may stand above the cap (1.2), but not so far that it gates nothing
_THOUSANDS_PER_MILLION = 1_000
_PICO_PER_THOUSAND_TOKENS = 10**15  # dollars per thousand tokens, as pico-dollars per million

_V = TypeVar("_V")


@dataclass(frozen=True)
class ModelCostRate(Value):
    """Prices of one model in dollars per 1,000 tokens.

    A component that is None keeps the catalogue's ratio to the one that is named (cached input to
    input, reasoning to output); where the catalogue does not know the model, it costs what its
    parent costs.

    Attributes:
        input: Plain input.
        output: Plain output.
        cached_input: Input read from the provider's cache.
        cache_write: Input written to a cache of the short lifetime.
        cache_write_long: Input written to a cache of the long lifetime.
        reasoning: Output spent on thinking.
        audio_input, audio_output, image_input, image_output: Audio and image tokens.
        pico: All of the above that are set, as exact integers: pico-dollars per million tokens.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_long: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float | None = None
    pico: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        findings = ValidationErrors("ModelCostRate")
        exact: dict[str, int] = {}
        for name in _RATE_COMPONENTS:
            given = getattr(self, name)
            if given is None and name not in ("input", "output"):
                continue
            try:
                exact[name] = read_price_pico(given, units_per_list_unit=_THOUSANDS_PER_MILLION)
            except ValueError as error:
                findings.add(name, given, str(error))
            else:
                object.__setattr__(self, name, exact[name] / _PICO_PER_THOUSAND_TOKENS)
        findings.raise_if_any()
        object.__setattr__(self, "pico", exact)

    def _exact_argument(self, name: str) -> Any:
        return from_units(self.pico[name], 15) if name in self.pico else getattr(self, name)

    @classmethod
    def per_million(cls, input: Any, output: Any, **others: Any) -> ModelCostRate:
        """Make a rate from prices in dollars per million tokens, as providers list them.

        Args:
            input: Plain input.
            output: Plain output.
            **others: Any other component of `ModelCostRate`.

        Raises:
            InvalidValue: naming every price that is not a finite number of dollars, 0 or more.
            TypeError: if `others` names a component that does not exist.
        """
        findings = ValidationErrors("ModelCostRate.per_million")
        thousandths: dict[str, Any] = {}
        for name, given in {"input": input, "output": output, **others}.items():
            if given is None and name in others:
                continue
            pico = _try(findings, name, given, read_price_pico)
            if pico is not None:
                thousandths[name] = from_units(pico, 15)
        findings.raise_if_any()
        return cls(**thousandths)

    @property
    def is_free(self) -> bool:
        """Whether every named price is 0, as for a local model."""
        return not any(self.pico.values())


_RATE_COMPONENTS = (
    "input",
    "output",
    "cached_input",
    "cache_write",
    "cache_write_long",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)


@dataclass(frozen=True)
class ModelLimitConfig(Value):
    """What one model may be used for.

    Attributes:
        max_tokens_per_period: Tokens, input and output together, per billing period; None is no
            limit.
    """

    max_tokens_per_period: int | None = None

    def __post_init__(self) -> None:
        findings = ValidationErrors("ModelLimitConfig")
        exact = _read_count(
            findings, "max_tokens_per_period", self.max_tokens_per_period, optional=True
        )
        findings.raise_if_any()
        object.__setattr__(self, "max_tokens_per_period", exact)


@dataclass(frozen=True)
class Limit(Value):
    """One limit in its general form.

    Attributes:
        metric: What is counted: "spend" (dollars), "tokens" or "calls".
        scope: Whose: one "user", or one "session" of a user.
        model: Only calls of this model, or None for all.
        window: Over which time: "period" (billing period), "session", "day" (UTC), "rolling:24h".
        cap: Dollars for spend, otherwise a count. 0 blocks always.
        cap_exact: The cap in nano-dollars, or the count; None when it is no limit.
    """

    metric: Metric = "spend"
    scope: Scope = "user"
    model: str | None = None
    window: str = "period"
    cap: float = math.inf
    cap_exact: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        findings = ValidationErrors("Limit")
        if self.metric not in ("spend", "tokens", "calls"):
            findings.add("metric", self.metric, 'must be "spend", "tokens" or "calls"')
        if self.scope not in ("user", "session"):
            findings.add("scope", self.scope, 'must be "user" or "session"')
        if self.model is not None and (not isinstance(self.model, str) or not self.model):
            findings.add("model", self.model, "must be a model name, or None for all models")
        rule = self.window if isinstance(self.window, str) else ""
        if rule not in ("period", "session", "day") and rolling_length_us(rule) is None:
            findings.add(
                "window", self.window, 'must be "period", "session", "day" or like "rolling:24h"'
            )
        if (self.scope == "session") != (rule == "session"):
            findings.add("window", self.window, 'must be "session" exactly when scope is "session"')
        exact: int | None = None
        if self.metric == "spend":
            try:
                exact = read_cap_nano(self.cap)
            except ValueError as error:
                findings.add("cap", self.cap, str(error))
        elif read_decimal(self.cap) != math.inf:
            exact = _read_count(findings, "cap", self.cap, optional=False)
        findings.raise_if_any()
        object.__setattr__(self, "cap_exact", exact)
        if exact is not None:
            object.__setattr__(self, "cap", to_usd(exact) if self.metric == "spend" else exact)
        elif self.cap is not None:
            object.__setattr__(self, "cap", float(read_decimal(self.cap) or 0))

    def _exact_argument(self, name: str) -> Any:
        if name == "cap" and self.metric == "spend" and self.cap_exact is not None:
            return _dollars(self.cap_exact)
        return getattr(self, name)

    @property
    def key(self) -> LimitKey:
        """The identity of this limit, the same in every version of every plan."""
        return LimitKey(self.metric, self.scope, self.model or "", self.window)


class LimitKey(NamedTuple):
    """What makes a limit the same limit in two plans. `model` is "" for all models."""

    metric: str
    scope: str
    model: str
    window: str

    @property
    def reason(self) -> str:
        """The `gate_reason` that a refusal by this limit carries, as documented where it has a
        name.
        """
        if self.model and self.metric == "tokens":
            return f"model_limit:{self.model}"
        if self.metric == "spend" and not self.model and self.window in ("period", "session"):
            return "session_spend" if self.scope == "session" else "total_spend"
        parts = [self.metric, self.window]
        return ":".join([*parts, self.model] if self.model else parts)


@dataclass(frozen=True)
class PlanConfig(Value):
    """What users of a plan may spend, what their calls cost and how the gate treats them.

    Attributes:
        max_spend_per_period: Dollars per billing period; None or infinite is no limit.
        max_spend_per_session: Dollars per session; None or infinite is no limit.
        soft_gate_at: Fraction of a cap at which the warning fires; 0 < soft_gate_at ≤ hard_gate_at.
        hard_gate_at: Fraction of a cap at which calls are refused; at most 10.
        model_limits: Limits by model name; a plain number means tokens per period.
        cost_rates: Prices by model name; they win over the catalogue.
        default_cost_rate: Price of models that `cost_rates` does not name.
        tool_costs: Dollars by tool name, charged when an answer calls that tool.
        default_tool_cost: Dollars for a tool given to `record_event` that `tool_costs` does not
            name.
        session_timeout_minutes: A session without an id ends after this long without a call.
        pre_call_estimate: True is strict: a call's own worst case is held before it leaves.
        pre_call_buffer_tokens: Output held by a call without `max_tokens` until three were
            observed.
        reservation_safety_factor: Multiplies the expected amount until three calls were observed.
        price: Dollars that the user pays per period, for margins; None where it is not known.
        limits: Further limits in the general form.
        contention_wait_s: Seconds that a call may wait for holds of calls in flight; 0 refuses at
            once.
        when_offline: "allow", "block", or {"allow_up_to": dollars per process} while the ledger is
            away.
        unknown_model: "count" (tokens count, cost 0, said loudly), "dearest" (the dearest rate that
            this plan names) or "block".
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

    max_spend_per_period_nano: int | None = field(init=False, repr=False, compare=False)
    max_spend_per_session_nano: int | None = field(init=False, repr=False, compare=False)
    default_tool_cost_nano: int = field(init=False, repr=False, compare=False)
    tool_costs_nano: Mapping[str, int] = field(init=False, repr=False, compare=False)
    price_nano: int | None = field(init=False, repr=False, compare=False)
    soft_gate_ppm: int = field(init=False, repr=False, compare=False)
    hard_gate_ppm: int = field(init=False, repr=False, compare=False)
    offline_allowance_nano: int | None = field(init=False, repr=False, compare=False)

    _dollars: ClassVar[tuple[str, ...]] = (
        "max_spend_per_period",
        "max_spend_per_session",
        "default_tool_cost",
        "tool_costs",
        "price",
    )

    def __post_init__(self) -> None:
        findings = ValidationErrors("PlanConfig")
        self._read_caps(findings)
        self._read_gates(findings)
        self._read_models(findings)
        self._read_tools(findings)
        self._read_numbers(findings)
        self._read_limits(findings)
        self._read_edges(findings)
        findings.raise_if_any()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _read_caps(self, findings: ValidationErrors) -> None:
        for name in ("max_spend_per_period", "max_spend_per_session"):
            given = getattr(self, name)
            exact = _try(findings, name, given, read_cap_nano)
            self._set(name + "_nano", exact)
            if given is not None and not (exact is None and findings.found):
                self._set(name, float(read_decimal(given) or 0) if exact is None else to_usd(exact))
        price = None if self.price is None else _try(findings, "price", self.price, read_cost_nano)
        self._set("price_nano", price)
        if price is not None:
            self._set("price", to_usd(price))

    def _read_gates(self, findings: ValidationErrors) -> None:
        soft = _try(findings, "soft_gate_at", self.soft_gate_at, read_parts_per_million)
        hard = _try(findings, "hard_gate_at", self.hard_gate_at, read_parts_per_million)
        self._set("soft_gate_ppm", soft or 0)
        self._set("hard_gate_ppm", hard or 0)
        if soft is not None and soft <= 0:
            findings.add("soft_gate_at", self.soft_gate_at, "must be above 0")
        if hard is not None and not 0 < hard <= _GATE_MAX * 10**6:
            findings.add("hard_gate_at", self.hard_gate_at, "must be above 0 and at most 10")
        elif soft is not None and hard is not None and soft > hard:
            rule = f"must not be above hard_gate_at ({self.hard_gate_at})"
            findings.add("soft_gate_at", self.soft_gate_at, rule)

    def _read_models(self, findings: ValidationErrors) -> None:
        limits: dict[str, ModelLimitConfig] = {}
        for name, given in _items(findings, "model_limits", self.model_limits):
            each = _try_make(
                findings, f"model_limits.{name}", given, ModelLimitConfig, "max_tokens_per_period"
            )
            if each is not None:
                limits[name] = each
        self._set("model_limits", limits)
        rates: dict[str, ModelCostRate] = {}
        for name, given in _items(findings, "cost_rates", self.cost_rates):
            rate = _try_make(findings, f"cost_rates.{name}", given, ModelCostRate, None)
            if rate is not None:
                rates[name] = rate
        self._set("cost_rates", rates)
        if self.default_cost_rate is not None:
            rate = _try_make(
                findings, "default_cost_rate", self.default_cost_rate, ModelCostRate, None
            )
            self._set("default_cost_rate", rate)

    def _read_tools(self, findings: ValidationErrors) -> None:
        exact: dict[str, int] = {}
        for name, given in _items(findings, "tool_costs", self.tool_costs):
            amount = _try(findings, f"tool_costs.{name}", given, read_cost_nano)
            if amount is not None:
                exact[name] = amount
        self._set("tool_costs", {name: to_usd(amount) for name, amount in exact.items()})
        self._set("tool_costs_nano", exact)
        default = _try(findings, "default_tool_cost", self.default_tool_cost, read_cost_nano) or 0
        self._set("default_tool_cost_nano", default)
        if not findings.found:
            self._set("default_tool_cost", to_usd(default))

    def _read_numbers(self, findings: ValidationErrors) -> None:
        minutes = _read_number(findings, "session_timeout_minutes", self.session_timeout_minutes)
        if minutes is not None and not 0 < minutes <= _MINUTES_MAX:
            rule = "must be above 0 minutes" if minutes <= 0 else "must be at most 10⁸ minutes"
            findings.add("session_timeout_minutes", self.session_timeout_minutes, rule)
        if not isinstance(self.pre_call_estimate, bool):
            findings.add("pre_call_estimate", self.pre_call_estimate, "must be True or False")
        buffer_tokens = _read_count(
            findings, "pre_call_buffer_tokens", self.pre_call_buffer_tokens, optional=False
        )
        factor = _read_number(findings, "reservation_safety_factor", self.reservation_safety_factor)
        if factor is not None and not 1 <= factor <= 100:
            rule = "must be from 1 to 100"
            findings.add("reservation_safety_factor", self.reservation_safety_factor, rule)
        wait = _read_number(findings, "contention_wait_s", self.contention_wait_s)
        if wait is not None and wait < 0:
            findings.add("contention_wait_s", self.contention_wait_s, "must not be negative")
        if not findings.found:
            for name in ("soft_gate_at", "hard_gate_at"):
                self._set(name, float(getattr(self, name)))
            self._set("session_timeout_minutes", minutes)
            self._set("reservation_safety_factor", factor)
            self._set("contention_wait_s", wait)
            self._set("pre_call_buffer_tokens", buffer_tokens)

    def _read_limits(self, findings: ValidationErrors) -> None:
        read: list[Limit] = []
        given = self.limits
        if isinstance(given, (str, Mapping)) or not hasattr(given, "__iter__"):
            findings.add("limits", given, "must be a list of Limit")
            given = ()
        for number, each in enumerate(given):
            limit = _try_make(findings, f"limits[{number}]", each, Limit, None)
            if limit is not None:
                read.append(limit)
        keys = [limit.key for limit in read]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            findings.add("limits", tuple(key), "stands twice; a limit may be given once")
        self._set("limits", tuple(read))

    def _read_edges(self, findings: ValidationErrors) -> None:
        allowance: int | None = None
        if isinstance(self.when_offline, Mapping):
            if set(self.when_offline) != {"allow_up_to"}:
                rule = 'must be "allow", "block" or {"allow_up_to": dollars}'
                findings.add("when_offline", self.when_offline, rule)
            else:
                amount = self.when_offline["allow_up_to"]
                allowance = _try(findings, "when_offline.allow_up_to", amount, read_cost_nano)
                if allowance is not None:
                    self._set("when_offline", {"allow_up_to": to_usd(allowance)})
        elif self.when_offline not in ("allow", "block"):
            rule = 'must be "allow", "block" or {"allow_up_to": dollars}'
            findings.add("when_offline", self.when_offline, rule)
        self._set("offline_allowance_nano", allowance)
        if self.unknown_model not in ("count", "dearest", "block"):
            findings.add(
                "unknown_model", self.unknown_model, 'must be "count", "dearest" or "block"'
            )
        elif self.unknown_model == "dearest" and not self.cost_rates and not self.default_cost_rate:
            rule = '"dearest" needs at least one rate in cost_rates or default_cost_rate'
            findings.add("unknown_model", self.unknown_model, rule)

    @property
    def caps_out_of_range(self) -> tuple[str, ...]:
        """Names of caps above 9·10⁹ dollars, which are no limit; empty for nearly every plan."""
        names = ("max_spend_per_period", "max_spend_per_session")
        return tuple(name for name in names if is_unlimited(getattr(self, name)))


def limits_of(plan: PlanConfig) -> tuple[Limit, ...]:
    """Return every limit of a plan in the general form, the documented shorthand first.

    Limits without a cap are left out. Where a shorthand and a `Limit` have one identity, the
    smaller cap counts. The tuple is made once per plan and kept with it.
    """
    kept: tuple[Limit, ...] | None = plan.__dict__.get("_all_limits")
    if kept is not None:
        return kept
    found: dict[LimitKey, Limit] = {}

    def add(limit: Limit) -> None:
        if limit.cap_exact is None:
            return
        key = limit.key._replace(model=limit.key.model.strip().lower())  # one model, two spellings
        other = found.get(key)
        if other is None or other.cap_exact is None or limit.cap_exact < other.cap_exact:
            found[key] = limit

    if plan.max_spend_per_period_nano is not None:
        add(Limit(cap=_dollars(plan.max_spend_per_period_nano)))
    if plan.max_spend_per_session_nano is not None:
        cap = _dollars(plan.max_spend_per_session_nano)
        add(Limit(scope="session", window="session", cap=cap))
    for name, config in plan.model_limits.items():
        if config.max_tokens_per_period is not None:
            add(Limit(metric="tokens", model=name, cap=config.max_tokens_per_period))
    for limit in plan.limits:
        add(limit)
    every = tuple(found.values())
    object.__setattr__(plan, "_all_limits", every)
    return every


def without_limits(plan: PlanConfig) -> PlanConfig:
    """Return a plan with everything but its limits; made once per plan and kept with it."""
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


def plan_to_json(plan: PlanConfig) -> dict[str, Any]:
    """Return a plan as a JSON object that `plan_from_json` reads back without loss.

    Money is written as decimal strings, since a double does not hold every cap exactly.
    """
    document: dict[str, Any] = {
        "soft_gate_at": plan.soft_gate_at,
        "hard_gate_at": plan.hard_gate_at,
        "model_limits": {
            name: each.max_tokens_per_period for name, each in plan.model_limits.items()
        },
        "cost_rates": {name: _rate_to_json(rate) for name, rate in plan.cost_rates.items()},
        "default_cost_rate": None
        if plan.default_cost_rate is None
        else _rate_to_json(plan.default_cost_rate),
        "tool_costs": {name: _exact(amount) for name, amount in plan.tool_costs_nano.items()},
        "default_tool_cost": _exact(plan.default_tool_cost_nano),
        "session_timeout_minutes": plan.session_timeout_minutes,
        "pre_call_estimate": plan.pre_call_estimate,
        "pre_call_buffer_tokens": plan.pre_call_buffer_tokens,
        "reservation_safety_factor": plan.reservation_safety_factor,
        "contention_wait_s": plan.contention_wait_s,
        "when_offline": plan.when_offline
        if isinstance(plan.when_offline, str)
        else {"allow_up_to": _exact(plan.offline_allowance_nano or 0)},
        "unknown_model": plan.unknown_model,
        "limits": [_limit_to_json(limit) for limit in plan.limits],
    }
    for name in ("max_spend_per_period", "max_spend_per_session", "price"):
        exact, shown = getattr(plan, name + "_nano"), getattr(plan, name)
        document[name] = _exact(exact) if exact is not None else shown and repr(shown)
    return document


def plan_from_json(document: Mapping[str, Any]) -> PlanConfig:
    """Read a plan that `plan_to_json` wrote.

    Raises:
        InvalidValue: naming every field that is unknown or breaks a rule.
    """
    findings = ValidationErrors("plan")
    names = {each.name for each in fields(PlanConfig) if each.init}
    for name in sorted(set(document) - names):
        findings.add(name, document[name], "is not a field of a plan")
    findings.raise_if_any()
    arguments = dict(document)
    rates = document.get("cost_rates")
    if isinstance(rates, Mapping):
        arguments["cost_rates"] = {name: _rate_from_json(rate) for name, rate in rates.items()}
    if document.get("default_cost_rate") is not None:
        arguments["default_cost_rate"] = _rate_from_json(document["default_cost_rate"])
    return PlanConfig(**arguments)


def _rate_to_json(rate: ModelCostRate) -> dict[str, str]:
    return {name: str(pico) for name, pico in rate.pico.items()}


def _rate_from_json(document: Any) -> Any:
    """Return a rate's components in dollars per thousand tokens; leave what is none to the plan."""
    if not isinstance(document, Mapping):
        return document
    prices: dict[str, Any] = {}
    for name, text in document.items():
        pico = read_decimal(text)
        prices[name] = text if pico is None else shifted(pico, -15)
    return prices


def _limit_to_json(limit: Limit) -> dict[str, Any]:
    cap: Any = None if limit.cap is None else repr(limit.cap)
    if limit.cap_exact is not None:
        cap = _exact(limit.cap_exact) if limit.metric == "spend" else limit.cap_exact
    return {
        "metric": limit.metric,
        "scope": limit.scope,
        "model": limit.model,
        "window": limit.window,
        "cap": cap,
    }


def _exact(amount_nano: int) -> str:
    whole, part = divmod(amount_nano, NANO_PER_USD)
    return f"{whole}.{part:09d}"


def _dollars(amount_nano: int) -> Any:
    return read_decimal(_exact(amount_nano))


def _items(findings: ValidationErrors, name: str, given: Any) -> list[tuple[str, Any]]:
    """Return the pairs of a mapping whose keys are names, noting what is not."""
    if not isinstance(given, Mapping):
        findings.add(name, given, "must be a dict by name")
        return []
    pairs = []
    for key, value in given.items():
        if not isinstance(key, str) or not key:
            findings.add(name, key, "must have names (non-empty strings) as keys")
        else:
            pairs.append((key, value))
    return pairs


def _try(findings: ValidationErrors, name: str, given: Any, read: Any) -> Any:
    """Read one value, noting the rule it breaks; None where it breaks one."""
    try:
        return read(given)
    except ValueError as error:
        findings.add(name, given, str(error))
        return None


def _try_make(
    findings: ValidationErrors, name: str, given: Any, kind: type[_V], shorthand: str | None
) -> _V | None:
    """Return `given` as a value of `kind`: itself, made from a dict, or from one number where
    allowed.
    """
    if isinstance(given, kind):
        return given
    arguments: Any = given
    if shorthand is not None and (given is None or isinstance(given, (int, float))):
        arguments = {shorthand: given}
    if not isinstance(arguments, Mapping):
        findings.add(name, given, f"must be a {kind.__name__}, or a dict of its fields")
        return None
    known = {key: each for key, each in kind.__dataclass_fields__.items() if each.init}  # type: ignore[attr-defined]
    for key in arguments:
        if key not in known:
            findings.add(f"{name}.{key}", arguments[key], f"is not a field of {kind.__name__}")
    if any(key not in known for key in arguments):
        return None
    try:
        return kind(**arguments)
    except InvalidValue as error:
        for finding in error.findings:
            findings.add(f"{name}.{finding.field}", finding.value, finding.rule)
    except TypeError:
        findings.add(name, given, f"lacks a field that {kind.__name__} needs")
    return None


def _read_count(findings: ValidationErrors, name: str, given: Any, *, optional: bool) -> int | None:
    """Read a whole number from 0 up, noting the rule it breaks."""
    if given is None and optional:
        return None
    number = read_decimal(given)
    if isinstance(given, str) and not given.isdigit():
        number = None
    if number is None or not number.is_finite() or number != number.to_integral_value():
        findings.add(
            name, given, "must be a whole number" + (", or None for no limit" if optional else "")
        )
        return None
    if not 0 <= number <= _COUNT_CAP_MAX:
        findings.add(name, given, "must be from 0 to 9·10¹⁸")
        return None
    return int(number)


def _read_number(findings: ValidationErrors, name: str, given: Any) -> float | None:
    """Read a finite number, noting the rule it breaks."""
    number = read_decimal(given) if not isinstance(given, str) else None
    if number is None or not math.isfinite(float(number)):
        findings.add(name, given, "must be a finite number")
        return None
    return float(number)
