"""The hook of a generated SDK: its `request`, its clients, and the arguments of its resources.

The patch goes to the class in the method resolution order that owns `request`, because another
instrumentation may have put its own there: a patch further down would never be called. A self-check
runs after each patch, whenever a client is made, and whenever a resource method is called: other
code gives a single client a `request` of its own, or takes out what it has put into a class before
us, and our hook with it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from paygent.client.instrument.http_sdks.wrapper import wrap_async, wrap_resource, wrap_sync
from paygent.client.instrument.patching.patches import Patches, is_mock
from paygent.failopen import attempt, diagnostics


class SdkHook:
    """Patches one SDK as its thin file says; see `patches.Hook`."""

    def __init__(self, sdk: Any) -> None:
        """Take an SDK.

        Args:
            sdk: Its thin file: `openai` or `anthropic` beside this one.
        """
        self._sdk = sdk
        self.name: str = sdk.name
        self.module: str = sdk.module

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Patch the SDK; see `patches.Hook`."""
        sdk = self._sdk
        if not arguments_only:
            for class_name in sdk.clients:
                self._patch_owner(getattr(module, class_name), patches)
            base = importlib.import_module(sdk.base_module)
            for class_name in sdk.base_clients:
                self._watch_clients(getattr(base, class_name), patches)
        self._patch_resources(patches)
        if not arguments_only:
            for class_name in sdk.clients:
                self._check(getattr(module, class_name), patches)

    def _patch_owner(self, client_class: type, patches: Patches) -> None:
        owner = _owner(client_class)
        original = vars(owner)["request"]
        if not (patches.is_ours(original) or is_mock(original)):
            patches.put(owner, "request", self._wrap(original, patches))

    def _wrap(self, original: Any, patches: Patches) -> Callable[..., Any]:
        is_async = inspect.iscoroutinefunction(inspect.unwrap(original))
        return (wrap_async if is_async else wrap_sync)(original, self._sdk, patches.switch)

    def _check(self, client_class: type, patches: Patches) -> None:
        """Say it when a call of a client of this class does not reach the funnel first."""
        if not _is_hooked(client_class, patches):
            diagnostics.warn_once(
                f"unhooked:{self.name}", "the hook in %s is not in place", self.name
            )

    # -- clients

    def _watch_clients(self, base_class: type, patches: Patches) -> None:
        """Have every new client checked: its class may own a `request` that we have not seen."""
        original = vars(base_class)["__init__"]
        if patches.is_ours(original):
            return
        kind = f"self_check:{self.name}"

        @functools.wraps(original)
        def init(client: Any, *args: Any, **kwargs: Any) -> None:
            original(client, *args, **kwargs)
            if not _is_hooked(type(client), patches):
                attempt(kind, self._hook_again, type(client), patches)

        patches.put(base_class, "__init__", init)

    def _hook_again(self, client_class: type, patches: Patches) -> None:
        """Put the hook on top of what has displaced it; the funnel sees to it that a call counts
        once. A later call does it where another thread patches, which may take as long as an
        import: this is a call of the application's, maybe on an event loop.
        """
        if not patches.lock.acquire(blocking=False):
            return
        try:
            if not patches.switch.is_on:
                return
            self._say_displaced(_owner(client_class).__name__)
            self._patch_owner(client_class, patches)
            self._check(client_class, patches)
        finally:
            patches.lock.release()

    def _say_displaced(self, what: str) -> None:
        diagnostics.warn_once(
            f"hook_displaced:{self.name}",
            "%s.request was replaced by other code; the hook is put on top of it",
            what,
        )

    def _check_client(self, patches: Patches, client: Any) -> None:
        """Put the hook on top of whatever a client's calls go to instead: a `request` that it alone
        has, or one that was put into its class, or back into it, since.
        """
        if not patches.switch.is_on:
            return
        own = vars(client).get("request")
        if own is None:
            if not _is_hooked(type(client), patches):
                self._hook_again(type(client), patches)
            return
        if isinstance(own, _OnClient) or is_mock(own):
            return

        @functools.wraps(own)
        def original(client: Any, *args: Any, **kwargs: Any) -> Any:
            return own(*args, **kwargs)

        self._say_displaced(type(client).__name__)
        client.request = _OnClient(self._wrap(original, patches), client)

    # -- resources

    def _patch_resources(self, patches: Patches) -> None:
        """Have the resource methods take the `paygent_*` arguments; a version lacks some modules or
        classes.
        """
        for module_name, class_names in self._sdk.resources.items():
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue
            for class_name in class_names:
                resource = getattr(module, class_name, None)
                if isinstance(resource, type):
                    self._patch_resource(resource, patches)

    def _patch_resource(self, resource: type, patches: Patches) -> None:
        check = functools.partial(self._check_client, patches)
        for name in self._sdk.resource_methods:
            original = vars(resource).get(name)
            if callable(original) and not (patches.is_ours(original) or is_mock(original)):
                is_coroutine = inspect.iscoroutinefunction(original)
                wrapper = wrap_resource(original, check, is_coroutine=is_coroutine)
                patches.put(resource, name, wrapper)


class _OnClient(functools.partial):  # type: ignore[type-arg]
    """The funnel around a `request` that one client alone has; passes calls on when the switch is
    off, so it is never taken out.
    """

    __slots__ = ()


def _is_hooked(client_class: type, patches: Patches) -> bool:
    """Tell whether a hook stands where the requests of a class's clients go, or a test's mock."""
    found = vars(_owner(client_class))["request"]
    return patches.is_ours(found) or is_mock(found)


def _owner(client_class: type) -> type:
    """Return the class in the resolution order that defines `request`."""
    return next(each for each in client_class.__mro__ if "request" in vars(each))
