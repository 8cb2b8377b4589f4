"""Plans: what a user may spend, what calls cost, and what the gate does at the limits.

A plan is written in the documented shorthand (`max_spend_per_period`, `model_limits`, …) or with
`Limit`s; `limits_of` returns both in one form. A plan is validated when it is made, and the error
names every broken rule at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from paygent.core.limit import Limit, LimitKey, ModelLimitConfig
from paygent.core.money import (
    NanoUsd,
    Number,
    PicoUsd,
    from_units,
    is_unlimited,
    read_cap_nano,
    read_cost_nano,
    read_decimal,
    read_parts_per_million,
    read_price_pico,
    to_usd,
)
from paygent.core.validation import (
    ValidationErrors,
    read_count,
    read_field,
    read_items,
    read_number,
    read_value,
)
from paygent.core.value import Value, exact_usd

UnknownModel = Literal["count", "dearest", "block"]

_MINUTES_MAX = 10**8  # two centuries
_GATE_MAX = 10  # a gate above the cap (1.2) is meant; far above it, nothing would be gated
_THOUSANDS_PER_MILLION = 1_000
_PICO_PER_THOUSAND_TOKENS = 10**15  # dollars per thousand tokens, as pico-dollars per million


@dataclass(frozen=True)
class ModelCostRate(Value):
    """Prices of one model in dollars per 1,000 tokens.

    A component that is None keeps the catalogue's ratio to its parent (cached input to input,
    reasoning to output); if the catalogue lacks the model, it has the price of its parent.

    Attributes:
        input: Plain input.
        output: Plain output.
        cached_input: Input read from the provider's cache.
        cache_write: Input written to a cache of the short lifetime.
        cache_write_long: Input written to a cache of the long lifetime.
        reasoning: Output spent on thinking.
        audio_input, audio_output, image_input, image_output: Audio and image tokens.
        pico: All of the above that are set, exactly: pico-dollars per million tokens.
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
    pico: Mapping[str, PicoUsd] = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # prices may be written in several ways; the fields have one type

        def __init__(
            self,
            input: Number,
            output: Number,
            cached_input: Number | None = None,
            cache_write: Number | None = None,
            cache_write_long: Number | None = None,
            reasoning: Number | None = None,
            audio_input: Number | None = None,
            audio_output: Number | None = None,
            image_input: Number | None = None,
            image_output: Number | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        errors = ValidationErrors("ModelCostRate")
        exact: dict[str, PicoUsd] = {}
        for name in (spec.name for spec in fields(self) if spec.init):
            given = getattr(self, name)
            # Absent components are derived later, from the catalogue.
            if given is None and name not in ("input", "output"):
                continue
            try:
                exact[name] = read_price_pico(given, units_per_list_unit=_THOUSANDS_PER_MILLION)
            except ValueError as error:
                errors.add(name, given, str(error))
            else:
                # The shown price is the double nearest to the exact one.
                object.__setattr__(self, name, exact[name] / _PICO_PER_THOUSAND_TOKENS)
        errors.raise_if_any()
        object.__setattr__(self, "pico", exact)

    def _exact_argument(self, name: str) -> Any:
        return from_units(self.pico[name], 15) if name in self.pico else getattr(self, name)

    @classmethod
    def per_million(cls, input: Number, output: Number, **others: Number | None) -> ModelCostRate:
        """Make a rate from prices in dollars per million tokens, as providers list them.

        Args:
            input: Plain input.
            output: Plain output.
            **others: Any other component of `ModelCostRate`.

        Raises:
            InvalidValue: Names every price that is not a finite number of dollars, 0 or more.
            TypeError: `others` names a component that does not exist.
        """
        errors = ValidationErrors("ModelCostRate.per_million")
        thousandths: dict[str, Any] = {}
        for name, given in {"input": input, "output": output, **others}.items():
            if given is None and name in others:
                continue
            pico = read_field(errors, name, given, read_price_pico)
            if pico is not None:
                # Exactly, so that dividing by a thousand loses no digit.
                thousandths[name] = from_units(pico, 15)
        errors.raise_if_any()
        return cls(**thousandths)

    @property
    def is_free(self) -> bool:
        """Whether every named price is 0, as for a local model."""
        return not any(self.pico.values())


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
        enforce: False is shadow mode: no call waits or is refused and no gate callback fires; the
            events of calls that would have been refused are marked `blocked`, and reports show
            their number and cost.
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
    enforce: bool = True

    max_spend_per_period_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    max_spend_per_session_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    default_tool_cost_nano: NanoUsd = field(init=False, repr=False, compare=False)
    tool_costs_nano: Mapping[str, NanoUsd] = field(init=False, repr=False, compare=False)
    price_nano: NanoUsd | None = field(init=False, repr=False, compare=False)
    soft_gate_ppm: int = field(init=False, repr=False, compare=False)
    hard_gate_ppm: int = field(init=False, repr=False, compare=False)
    offline_allowance_nano: NanoUsd | None = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # values may be written in several ways; the fields have one type

        def __init__(
            self,
            max_spend_per_period: Number | None = None,
            max_spend_per_session: Number | None = None,
            soft_gate_at: Number = 0.80,
            hard_gate_at: Number = 1.00,
            model_limits: Mapping[str, ModelLimitConfig | Mapping[str, Any] | float | None] = ...,
            cost_rates: Mapping[str, ModelCostRate | Mapping[str, Any]] = ...,
            default_cost_rate: ModelCostRate | Mapping[str, Any] | None = None,
            tool_costs: Mapping[str, Number] = ...,
            default_tool_cost: Number = 0.02,
            session_timeout_minutes: float | Decimal = 30.0,
            pre_call_estimate: bool = False,
            pre_call_buffer_tokens: int = 4096,
            reservation_safety_factor: float | Decimal = 1.2,
            price: Number | None = None,
            limits: Iterable[Limit | Mapping[str, Any]] = (),
            contention_wait_s: float | Decimal = 30.0,
            when_offline: Literal["allow", "block"] | Mapping[str, Number] = "allow",
            unknown_model: UnknownModel = "count",
            enforce: bool = True,
        ) -> None: ...

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
        if self.price is None:
            self._set("price_nano", None)
        else:
            self._read_cost("price", errors)

    def _read_cost(self, name: str, errors: ValidationErrors) -> None:
        amount = read_field(errors, name, getattr(self, name), read_cost_nano) or 0
        self._set(name + "_nano", amount)
        self._set(name, to_usd(amount))

    def _read_gates(self, errors: ValidationErrors) -> None:
        soft = read_field(errors, "soft_gate_at", self.soft_gate_at, read_parts_per_million)
        hard = read_field(errors, "hard_gate_at", self.hard_gate_at, read_parts_per_million)
        if soft is not None and soft <= 0:
            errors.add("soft_gate_at", self.soft_gate_at, "must be above 0")
        if hard is not None and not 0 < hard <= _GATE_MAX * 10**6:
            rule = "must be above 0 and at most 10: a fraction of the cap, 0.8 means 80 %"
            errors.add("hard_gate_at", self.hard_gate_at, rule)
        elif soft is not None and hard is not None and soft > hard:
            rule = f"must not be above hard_gate_at ({self.hard_gate_at})"
            rule += ": a fraction of the cap, 0.8 means 80 %" if soft > _GATE_MAX * 10**6 else ""
            errors.add("soft_gate_at", self.soft_gate_at, rule)
        for name, ppm in (("soft_gate", soft), ("hard_gate", hard)):
            self._set(name + "_ppm", ppm)
            self._set(name + "_at", None if ppm is None else float(getattr(self, name + "_at")))

    def _read_models(self, errors: ValidationErrors) -> None:
        limits = read_items(errors, "model_limits", self.model_limits)
        key = "max_tokens_per_period"  # set by a plain number
        self._set(
            "model_limits",
            {
                name: read_value(errors, f"model_limits.{name}", given, ModelLimitConfig, key)
                for name, given in limits
            },
        )
        rates = read_items(errors, "cost_rates", self.cost_rates)
        self._set(
            "cost_rates",
            {
                name: read_value(errors, f"cost_rates.{name}", given, ModelCostRate)
                for name, given in rates
            },
        )
        if self.default_cost_rate is not None:
            rate = read_value(errors, "default_cost_rate", self.default_cost_rate, ModelCostRate)
            self._set("default_cost_rate", rate)

    def _read_tools(self, errors: ValidationErrors) -> None:
        exact = {
            name: read_field(errors, f"tool_costs.{name}", given, read_cost_nano) or 0
            for name, given in read_items(errors, "tool_costs", self.tool_costs)
        }
        self._set("tool_costs", {name: to_usd(amount) for name, amount in exact.items()})
        self._set("tool_costs_nano", exact)
        self._read_cost("default_tool_cost", errors)

    def _read_numbers(self, errors: ValidationErrors) -> None:
        given = self.session_timeout_minutes
        minutes = read_number(errors, "session_timeout_minutes", given)
        if minutes is not None and not 0 < minutes <= _MINUTES_MAX:
            rule = "must be above 0 minutes" if minutes <= 0 else "must be at most 10⁸ minutes"
            errors.add("session_timeout_minutes", given, rule)
        self._set("session_timeout_minutes", minutes)
        for name in ("pre_call_estimate", "enforce"):
            if not isinstance(getattr(self, name), bool):
                errors.add(name, getattr(self, name), "must be True or False")
        tokens = read_count(errors, "pre_call_buffer_tokens", self.pre_call_buffer_tokens)
        self._set("pre_call_buffer_tokens", tokens)
        for name, low, high, rule in (
            ("reservation_safety_factor", 1, 100, "must be from 1 to 100"),
            ("contention_wait_s", 0, inf, "must not be negative"),
        ):
            number = read_number(errors, name, getattr(self, name))
            if number is not None and not low <= number <= high:
                errors.add(name, getattr(self, name), rule)
            self._set(name, number)

    def _read_limits(self, errors: ValidationErrors) -> None:
        given = self.limits
        if isinstance(given, (str, Mapping)) or not hasattr(given, "__iter__"):
            errors.add("limits", given, "must be a list of Limit")
            given = ()
        limits = [
            read_value(errors, f"limits[{number}]", item, Limit)
            for number, item in enumerate(given)
        ]
        keys = [limit.key for limit in limits if limit is not None]
        # Two caps for one identity: neither can be assumed to be meant.
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            errors.add("limits", tuple(key), "is given twice; a limit may be given once")
        self._set("limits", tuple(limits))

    def _read_edges(self, errors: ValidationErrors) -> None:
        offline = self.when_offline
        allowance: NanoUsd | None = None
        if isinstance(offline, Mapping) and set(offline) == {"allow_up_to"}:
            given = offline["allow_up_to"]
            allowance = read_field(errors, "when_offline.allow_up_to", given, read_cost_nano)
            self._set("when_offline", {"allow_up_to": to_usd(allowance or 0)})
        elif offline not in ("allow", "block"):  # a misspelt key must not silently mean "allow"
            rule = 'must be "allow", "block" or {"allow_up_to": dollars}'
            errors.add("when_offline", offline, rule)
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
        add(Limit("spend", "session", None, "session", exact_usd(plan.max_spend_per_session_nano)))
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
        none: dict[str, Any] = {"max_spend_per_period": None, "max_spend_per_session": None}
        kept = plan.model_copy(update={**none, "model_limits": {}, "limits": ()})
        object.__setattr__(plan, "_without_limits", kept)
    return kept
