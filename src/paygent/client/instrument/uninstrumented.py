"""Known provider SDKs without a hook here: their import is logged once.

Their calls are neither metered nor limited, which must not go unnoticed; without a hook they cannot
be refused either. `pg.wrap` or a registered
provider meters them; a registered one is not logged. Most users of AWS's package call other
services, so there the log is written when a client for Bedrock is made.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from paygent.client.instrument.http_sdks.wrapper import note_unmetered
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.core.notices import Notice
from paygent.core.providers import BEDROCK_SERVICES, PROVIDERS
from paygent.failopen import attempt


class ImportHook(Hook):
    """Logs the import of an SDK's module, counted under its package or else the module."""

    def __init__(self, module: str, sdk: str, package: str = "") -> None:
        self.name = f"uninstrumented:{module}"
        self.module = module
        self._sdk = sdk
        self._package = package or module

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Log it; see `patches.Hook`."""
        if not patches.has_provider(self.module):
            _warn(self._package, self._sdk)


class BedrockHook(Hook):
    """Logs the creation of a client for Bedrock, by the class `creator` of a module."""

    def __init__(self, module: str, creator: str) -> None:
        self.name = f"uninstrumented:{creator}"
        self.module = module
        self._creator = creator

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Watch the clients that are created from now on; see `patches.Hook`."""
        owner = getattr(module, self._creator)
        original = vars(owner)["create_client"]
        if patches.is_ours(original):
            return

        @functools.wraps(original)
        def create_client(creator: Any, *args: Any, **kwargs: Any) -> Any:
            attempt("uninstrumented", _check_service, args, kwargs, patches)
            return original(creator, *args, **kwargs)

        @functools.wraps(original)
        async def create_client_async(creator: Any, *args: Any, **kwargs: Any) -> Any:
            return await create_client(creator, *args, **kwargs)

        is_async = inspect.iscoroutinefunction(original)  # aiobotocore's is
        patches.put(owner, "create_client", create_client_async if is_async else create_client)


HOOKS: tuple[Hook, ...] = (
    *(ImportHook(*sdk) for provider in PROVIDERS for sdk in provider.sdks),
    ImportHook("mistralai.client", "Mistral", "mistralai"),  # its package has no module of its own
    BedrockHook("botocore.client", "ClientCreator"),
    BedrockHook("aiobotocore.client", "AioClientCreator"),
)


def _check_service(args: tuple[Any, ...], kwargs: dict[str, Any], patches: Patches) -> None:
    service_name: Any = args[0] if args else kwargs.get("service_name")
    sdk = BEDROCK_SERVICES.get(service_name)
    if sdk is not None and patches.switch.is_on and not patches.has_provider("botocore"):
        _warn(service_name, sdk)


def _warn(package: str, sdk: str) -> None:
    note_unmetered(Notice.UNMETERED_SDK, sdk, subject=package)
