"""Overrides: limits of one user that are raised for a time, applied to their plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from paygent.core.limit import Limit, LimitKey
from paygent.core.money import CAP_NANO_MAX
from paygent.core.plan import PlanConfig, limits_of
from paygent.core.value import exact_usd


class Raise(Protocol):
    """A raised limit, as the ledger keeps it."""

    @property
    def limit(self) -> LimitKey:
        """The limit that is raised."""

    @property
    def cap(self) -> int | None:
        """The cap that applies meanwhile, in the limit's unit; None if an amount is added."""

    @property
    def added(self) -> int | None:
        """The amount that is added to the plan's cap; None if a cap is given."""

    @property
    def until_us(self) -> int:
        """When it ends."""


def apply_overrides(plan: PlanConfig, overrides: Iterable[Raise], at_us: int) -> PlanConfig:
    """Return a user's plan with the overrides that apply at a moment.

    Added amounts add up; of several caps the largest counts; no override lowers a cap. A limit that
    the plan does not have cannot be raised, so an override of it has no effect.
    """
    raised: dict[LimitKey, tuple[int, int]] = {}  # (largest cap, sum of the added amounts)
    for each in overrides:
        if each.until_us > at_us:
            key = _plain(each.limit)
            cap, added = raised.get(key, (0, 0))
            raised[key] = max(cap, each.cap or 0), added + max(each.added or 0, 0)
    caps = {_plain(limit.key): limit.cap_exact for limit in limits_of(plan)}
    wanted = {
        key: max(cap, (caps[key] or 0) + added)
        for key, (cap, added) in raised.items()
        if key in caps
    }
    return _with_caps(plan, wanted) if wanted else plan


def _with_caps(plan: PlanConfig, wanted: dict[LimitKey, int]) -> PlanConfig:
    """Return a plan with caps of at least so much, wherever it names them."""
    changes: dict[str, Any] = {}
    for name, scope in (("max_spend_per_period", "user"), ("max_spend_per_session", "session")):
        cap = getattr(plan, name + "_nano")
        key = LimitKey("spend", scope, "", "period" if scope == "user" else "session")
        if cap is not None and key in wanted:
            changes[name] = _cap("spend", max(cap, wanted[key]))
    model_limits = dict(plan.model_limits)
    for model, config in plan.model_limits.items():
        cap = config.max_tokens_per_period
        key = _plain(LimitKey("tokens", "user", model, "period"))
        if cap is not None and key in wanted:
            model_limits[model] = replace(config, max_tokens_per_period=max(cap, wanted[key]))
    changes["model_limits"] = model_limits
    changes["limits"] = [_raised(limit, wanted.get(_plain(limit.key))) for limit in plan.limits]
    return plan.model_copy(update=changes)


def _raised(limit: Limit, cap: int | None) -> Limit:
    if cap is None or limit.cap_exact is None:
        return limit
    return limit.model_copy(update={"cap": _cap(limit.metric, max(cap, limit.cap_exact))})


def _cap(metric: str, cap: int) -> Any:
    """Return a cap as the constructors take it; None where it is above the range."""
    if cap > CAP_NANO_MAX:
        return None
    return exact_usd(cap) if metric == "spend" else cap


def _plain(key: LimitKey) -> LimitKey:
    return key._replace(model=key.model.strip().lower())
