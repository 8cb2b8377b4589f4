"""The hooks of a generated SDK: one for its `request` and its clients, and one for the arguments of
calls in each resource module. None imports anything but what the application has made lazy: another
thread may be importing an awaited module, and wait for the lock under which hooks are installed.

The patch goes to the class in the method resolution order that owns `request`, because another
instrumentation may have put its own there: a patch further down would never be called. Other code
may displace the hook later, or remove what it had put into a class before us, and our hook with it.
That is noticed when a client is made and at each check of the registry, and the hook is put on top.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from paygent.client.instrument.http_sdks.route import Sdk
from paygent.client.instrument.http_sdks.wrapper import wrap_async, wrap_resource, wrap_sync
from paygent.client.instrument.patching.patches import Hook, Patch, Patches, is_mock
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics


class SdkHook(Hook):
    """Patches `request` of one SDK, given by its `routes` module, and watches its clients."""

    def __init__(self, sdk: Sdk) -> None:
        self.sdk = sdk
        self.name, self.module = sdk.name, sdk.module

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Patch the SDK; see `patches.Hook`."""
        for client_class, base_class in self._clients(module):
            self._watch_clients(base_class, patches)
            self._patch_owner(client_class, patches)

    def restore(self, module: ModuleType, displaced: Sequence[Patch], patches: Patches) -> None:
        """Put the hook on top of other code's `request`, which may go to the provider directly. The
        wrapper counts a call once where it goes through both.
        """
        logged = [patch.owner for patch in displaced if patch.name == "request"]
        for client_class, _ in self._clients(module):
            owner = _owner(client_class)
            if not patches.leads_to_ours(vars(owner)["request"]):
                if owner not in logged:
                    self._warn_displaced(owner)
                self._patch_owner(client_class, patches)

    def _clients(self, module: ModuleType) -> Iterator[tuple[type, type]]:
        """Yield each client class of the SDK with its base class."""
        for class_name, base_name in zip(self.sdk.clients, self.sdk.base_clients, strict=True):
            client_class = getattr(module, class_name)  # first: this loads a lazy module
            base_class = getattr(sys.modules[self.sdk.base_module], base_name)
            # A test's mock, a fake or a factory may be in the place of the class.
            is_client = isinstance(client_class, type) and issubclass(client_class, base_class)
            yield client_class if is_client else base_class, base_class

    def _patch_owner(self, client_class: type, patches: Patches) -> None:
        owner = _owner(client_class)
        original = vars(owner)["request"]
        if not (patches.is_ours(original) or is_mock(original)):
            patches.put(owner, "request", self._wrap(original, client_class, patches))
        if not _is_hooked(client_class, patches):  # a metaclass may refuse or replace attributes
            diagnostics.warn_once(Notice.HOOK_MISSING, self.name, subject=self.name)

    def _wrap(self, original: Any, client_class: type, patches: Patches) -> Callable[..., Any]:
        # By the class: other code's `request` may be a plain function that returns an awaitable.
        is_async = any(base.__name__ == "AsyncAPIClient" for base in client_class.__mro__)
        return (wrap_async if is_async else wrap_sync)(original, self.sdk, patches.switch)

    def _warn_displaced(self, owner: type) -> None:
        diagnostics.warn_once(Notice.HOOK_RESTORED, owner.__name__, "request", subject=self.name)

    # -- clients

    def _watch_clients(self, base_class: type, patches: Patches) -> None:
        """Check the class of every new client: it may own a `request` that is not patched yet."""
        original = vars(base_class)["__init__"]
        if patches.is_ours(original):
            return
        kind = f"self_check:{self.name}"

        @functools.wraps(original)
        def init(client: Any, *args: Any, **kwargs: Any) -> None:
            original(client, *args, **kwargs)  # its exceptions are the application's
            if not _is_hooked(type(client), patches):
                attempt(kind, self._hook_again, type(client), patches)

        patches.put(base_class, "__init__", init)

    def _hook_again(self, client_class: type, patches: Patches) -> None:
        """Put the hook on top of what has displaced it."""
        # Another thread may patch for as long as an import takes, and this may be an event loop;
        # then the registry's next check does it.
        if not patches.lock.acquire(blocking=False):
            return
        try:
            if patches.switch.is_on:
                owner = _owner(client_class)
                # An application's subclass that has its own `request` is hooked only now.
                is_of_sdk = owner.__module__.partition(".")[0] == self.module
                if is_of_sdk or patches.has_patched(owner, "request"):
                    self._warn_displaced(owner)
                self._patch_owner(client_class, patches)
        finally:
            patches.lock.release()

    def hook_client(self, patches: Patches, client: Any) -> None:
        """Put the hook on top of a `request` that one client alone has, which hides the class's."""
        # Some tools instrument one client by an attribute, and keep the bound method from before.
        own = vars(client)["request"]
        if not patches.switch.is_on or isinstance(own, _OnClient) or is_mock(own):
            return

        @functools.wraps(own)
        def original(client: Any, *args: Any, **kwargs: Any) -> Any:
            return own(*args, **kwargs)

        self._warn_displaced(type(client))
        client.request = _OnClient(self._wrap(original, type(client), patches), client)


class ArgumentsHook(Hook):
    """Takes the `paygent_*` arguments out of the calls of one module's resources; also while
    Paygent is disabled, since the SDK would refuse them.
    """

    takes_arguments = True

    def __init__(self, sdk_hook: SdkHook, module: str) -> None:
        self._sdk = sdk_hook.sdk
        self._sdk_hook = sdk_hook  # hooks clients that have a `request` of their own
        self.name, self.module = sdk_hook.name, module

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Patch the resources; a version of the SDK lacks some classes."""
        for class_name in self._sdk.resources[self.module]:
            # Not `getattr`, by which a package may import a module that has a hook of its own.
            resource = vars(module).get(class_name)
            if isinstance(resource, type):
                self._patch_resource(resource, patches)

    def _patch_resource(self, resource: type, patches: Patches) -> None:
        hook_client = functools.partial(self._sdk_hook.hook_client, patches)
        for name in self._sdk.resource_methods:
            original = vars(resource).get(name)
            if callable(original) and not (patches.is_ours(original) or is_mock(original)):
                wrapper = wrap_resource(original, hook_client, patches.switch)
                patches.put(resource, name, wrapper, Notice.ARGUMENTS_HOOK_DISPLACED)


class _OnClient(functools.partial):  # type: ignore[type-arg]
    """The wrapper around a `request` that one client alone has; with its switch off, it stays."""


def _is_hooked(client_class: type, patches: Patches) -> bool:
    """Return whether the requests of a class's clients go to a hook, or to a test's mock."""
    request = vars(_owner(client_class))["request"]
    return patches.is_ours(request) or is_mock(request)


def _owner(client_class: type) -> type:
    """Return the class in the resolution order that defines `request`."""
    return next(base for base in client_class.__mro__ if "request" in vars(base))
