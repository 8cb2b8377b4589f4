"""Paygent: the runtime cost-control layer for AI agents.

`Paygent.init()` once and `with paygent_context(user_id=…)` around the calls: from then on every
call of the provider SDKs is metered, gated and reported. The way of a call through this package:

    call      instrument/funnel.py    the one wrapper around a provider SDK's own funnel
    identify  context.py              whose call is it?
    estimate  core/estimate.py        how much may it use?
    gate      core/gate.py            may it leave?  (ledger/accounts.py holds)
    provider  instrument/openai.py …  the thin files that know an SDK
    usage     core/usage.py           what did it use, in one normal form?
    price     core/pricing.py, prices what does that cost?
    settle    meter.py                the whole flow, in one file
    sync      sync/                   journal, delivery, callbacks
    store     store/                  events and what is derived from them
    report    core/report.py          who used what

Names are loaded when they are first used, so that importing the package costs an application
nothing before it asks for something.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paygent.carrying import paygent_track
    from paygent.client import Paygent
    from paygent.context import paygent_context
    from paygent.errors import (
        InvalidValue,
        PaygentAuthInvalid,
        PaygentBackendUnreachable,
        PaygentLimitExceeded,
        PaygentWarning,
    )
    from paygent.models import (
        BillingPeriod,
        BudgetRemaining,
        CurrentUsage,
        GuardResult,
        Limit,
        MaxTokensAdvice,
        ModelCostRate,
        ModelLimitConfig,
        ModelUsage,
        PlanConfig,
        UsageEvent,
        UserState,
    )
    from paygent.providers import ProviderConfig, ProviderRegistry, TokenInfo

__version__ = "0.1.0"

__all__ = [
    "BillingPeriod",
    "BudgetRemaining",
    "CurrentUsage",
    "GuardResult",
    "InvalidValue",
    "Limit",
    "MaxTokensAdvice",
    "ModelCostRate",
    "ModelLimitConfig",
    "ModelUsage",
    "Paygent",
    "PaygentAuthInvalid",
    "PaygentBackendUnreachable",
    "PaygentLimitExceeded",
    "PaygentWarning",
    "PlanConfig",
    "ProviderConfig",
    "ProviderRegistry",
    "TokenInfo",
    "UsageEvent",
    "UserState",
    "paygent_context",
    "paygent_track",
]

_HOMES = {
    "client": ("Paygent",),
    "carrying": ("paygent_track",),
    "context": ("paygent_context",),
    "errors": (
        "InvalidValue",
        "PaygentAuthInvalid",
        "PaygentBackendUnreachable",
        "PaygentLimitExceeded",
        "PaygentWarning",
    ),
    "models": (
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
    ),
    "providers": ("ProviderConfig", "ProviderRegistry", "TokenInfo"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home, once."""
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            home = import_module(f"paygent.{module}")
            for each in names:
                globals()[each] = getattr(home, each)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
