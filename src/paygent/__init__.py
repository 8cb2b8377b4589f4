"""Paygent: the runtime cost-control layer for AI agents.

`Paygent.init()` once and `with paygent_context(user_id=…)` around the calls: from then on every
call of the provider SDKs is metered, gated and reported. The way of a call through this package:

    call      client/instrument/http_sdks/wrapper.py  the wrapper around an SDK's `request`
    identify  client/context/identity.py              the user of the call
    estimate  core/estimate.py                        what the call may use
    gate      core/gate.py                            allow, warn or block
    provider  client/instrument/openai/ …             thin folders that know an SDK
    usage     core/usage.py                           what the call used, in one normal form
    price     core/pricing.py, prices/                what that costs
    settle    client/metering/meter.py                the whole flow, in one file
    sync      client/journal/                         durable records and their delivery
    store     store/                                  events and what is derived from them
    report    core/report.py                          who used what

Names are loaded when they are first used, so that importing the package costs an application
nothing before it asks for something.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paygent.client.api.paygent import Paygent as Paygent
    from paygent.client.context.scopes import paygent_context as paygent_context
    from paygent.client.context.track import paygent_track as paygent_track
    from paygent.client.runtime.providers import ProviderConfig as ProviderConfig
    from paygent.client.runtime.providers import ProviderRegistry as ProviderRegistry
    from paygent.client.runtime.providers import TokenInfo as TokenInfo
    from paygent.core.report_rows import UsageReport as UsageReport
    from paygent.core.report_rows import UsageRow as UsageRow
    from paygent.core.report_table import ReportTable as ReportTable
    from paygent.errors import InvalidValue as InvalidValue
    from paygent.errors import PaygentAuthInvalid as PaygentAuthInvalid
    from paygent.errors import PaygentBackendUnreachable as PaygentBackendUnreachable
    from paygent.errors import PaygentLimitExceeded as PaygentLimitExceeded
    from paygent.errors import PaygentWarning as PaygentWarning
    from paygent.ledger.port import LedgerUnavailable as LedgerUnavailable
    from paygent.types import BillingPeriod as BillingPeriod
    from paygent.types import BudgetRemaining as BudgetRemaining
    from paygent.types import CurrentUsage as CurrentUsage
    from paygent.types import GuardResult as GuardResult
    from paygent.types import Limit as Limit
    from paygent.types import MaxTokensAdvice as MaxTokensAdvice
    from paygent.types import ModelCostRate as ModelCostRate
    from paygent.types import ModelLimitConfig as ModelLimitConfig
    from paygent.types import ModelUsage as ModelUsage
    from paygent.types import PlanConfig as PlanConfig
    from paygent.types import UsageEvent as UsageEvent
    from paygent.types import UserState as UserState

__version__ = "0.1.0"

_MODULES = {
    "client.api.paygent": ("Paygent",),
    "client.context.scopes": ("paygent_context",),
    "client.context.track": ("paygent_track",),
    "client.runtime.providers": ("ProviderConfig", "ProviderRegistry", "TokenInfo"),
    "core.report_rows": ("UsageReport", "UsageRow"),
    "core.report_table": ("ReportTable",),
    "errors": (
        "InvalidValue",
        "PaygentAuthInvalid",
        "PaygentBackendUnreachable",
        "PaygentLimitExceeded",
        "PaygentWarning",
    ),
    "ledger.port": ("LedgerUnavailable",),
    "types": (
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
}
"""The module of each public name, below `paygent`."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(f"paygent.{module}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
